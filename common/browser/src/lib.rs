//! A real browser for tests: starts Debian's Chromium, headless, with a fresh profile, and drives it through
//! chromedriver over the WebDriver protocol.
//!
//! ```no_run
//! # async fn example() -> Result<(), trunkline_browser::Error> {
//! use std::time::Duration;
//! use trunkline_browser::{Browser, Options};
//!
//! let browser = Browser::start(&Options::default()).await?;
//! let page = browser.first_page();
//! page.open("http://127.0.0.1:8444/call").await?;
//! page.wait_until("document.querySelector('#join') !== null", Duration::from_secs(5)).await?;
//! page.click("#join").await?;
//! # Ok(())
//! # }
//! ```
//!
//! Several people in one call are several pages of one browser ([`Browser::new_page`]); somebody with other devices
//! or other flags needs a browser of their own. Processes and profile are gone when the [`Browser`] is dropped, also
//! when the test failed.
//!
//! # Layout
//! - [`options`]: what a browser is started with: flags, devices, languages
//! - [`browser`]: its processes, and its pages
//! - [`page`]: what a test does to one page: open, run scripts, click, type, wait, look
//! - `driver`: the WebDriver protocol, as far as it is needed
//! - [`error`]: what may go wrong, with what the page said on its console

pub mod browser;
mod driver;
pub mod error;
pub mod options;
pub mod page;

pub use browser::Browser;
pub use error::Error;
pub use options::{Devices, Options};
pub use page::{ConsoleEntry, Page};
