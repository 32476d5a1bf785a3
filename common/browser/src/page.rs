//! What a test does to one page.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::browser::Session;
use crate::error::Error;

/// How often a condition is looked at. Less finds it sooner, and takes time from the page.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// The key under which WebDriver answers an element.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// One window of a browser. Clones are the same window.
#[derive(Clone, Debug)]
pub struct Page {
    session: Arc<Session>,
    window: String,
}

/// A line of a console.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsoleEntry {
    /// `SEVERE` for errors, uncaught exceptions and requests that failed; `WARNING`, `INFO`, `DEBUG`.
    pub level: String,
    /// What it says, with where it comes from.
    pub message: String,
}

impl ConsoleEntry {
    pub(crate) fn from_log(entry: &Value) -> Self {
        let field = |name| entry.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        Self { level: field("level"), message: field("message") }
    }

    /// Whether something went wrong in a page.
    #[must_use]
    pub fn is_error(&self) -> bool {
        self.level == "SEVERE"
    }
}

impl fmt::Display for ConsoleEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.level, self.message)
    }
}

impl Page {
    pub(crate) fn new(session: Arc<Session>, window: String) -> Self {
        Self { session, window }
    }

    /// Whether it is in this window.
    pub(crate) fn is_in(&self, window: &str) -> bool {
        self.window == window
    }

    /// Goes to an address and waits until the page has loaded.
    ///
    /// # Errors
    /// When it cannot be reached.
    pub async fn open(&self, url: &str) -> Result<(), Error> {
        self.post("/url", &json!({ "url": url })).await.map(drop)
    }

    /// Loads the page anew.
    ///
    /// # Errors
    /// When it cannot be reached.
    pub async fn reload(&self) -> Result<(), Error> {
        self.post("/refresh", &json!({})).await.map(drop)
    }

    /// Closes the window, as a person would: the page is told.
    ///
    /// # Errors
    /// When the browser does not answer.
    pub async fn close(self) -> Result<(), Error> {
        self.session.in_window(&self.window, Method::DELETE, "/window", None).await.map(drop)
    }

    /// Runs the body of a function, with `arguments` as its `arguments`, and answers what it returns. A promise is
    /// waited for, so `return (async () => { … })()` runs what needs `await`.
    ///
    /// # Errors
    /// When it throws, or takes more than half a minute.
    pub async fn run(&self, body: &str, arguments: &[Value]) -> Result<Value, Error> {
        self.post("/execute/sync", &json!({ "script": body, "args": arguments })).await
    }

    /// The value of one expression, which may use `await`.
    ///
    /// # Errors
    /// As for [`Page::run`].
    pub async fn value(&self, expression: &str) -> Result<Value, Error> {
        self.run(&format!("return (async () => ({expression}))();"), &[]).await
    }

    /// Waits until an expression, which may use `await`, is true in JavaScript's sense, and answers its value. An
    /// exception counts as not yet.
    ///
    /// # Errors
    /// [`Error::Timeout`] with the last value and the console, when it never is.
    pub async fn wait_until(&self, expression: &str, timeout: Duration) -> Result<Value, Error> {
        let started = Instant::now();
        loop {
            let last = match self.value(expression).await {
                Ok(value) if is_true(&value) => return Ok(value),
                Ok(value) => value.to_string(),
                Err(Error::Command { error, message, .. }) => format!("{error}: {message}"),
                Err(error) => return Err(error),
            };
            if started.elapsed() >= timeout {
                let console = self.session.console().await.unwrap_or_default();
                let console = console.iter().map(|entry| format!("  {entry}\n")).collect();
                return Err(Error::Timeout { script: expression.to_owned(), timeout, last, console });
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Clicks on what a CSS selector finds first.
    ///
    /// # Errors
    /// When there is none, or something else lies over it.
    pub async fn click(&self, selector: &str) -> Result<(), Error> {
        let element = self.find(selector).await?;
        self.post(&format!("/element/{element}/click"), &json!({})).await.map(drop)
    }

    /// Types into what a CSS selector finds first. Keys without a character are those of WebDriver: `\u{e007}` is
    /// Enter, `\u{e004}` Tab, `\u{e00c}` Escape.
    ///
    /// # Errors
    /// When there is none.
    pub async fn type_into(&self, selector: &str, text: &str) -> Result<(), Error> {
        let element = self.find(selector).await?;
        self.post(&format!("/element/{element}/value"), &json!({ "text": text })).await.map(drop)
    }

    /// Presses and releases a key, wherever the focus is.
    ///
    /// # Errors
    /// When the browser does not answer.
    pub async fn press(&self, key: char) -> Result<(), Error> {
        let key = key.to_string();
        let strokes = json!([{ "type": "keyDown", "value": key }, { "type": "keyUp", "value": key }]);
        let actions = json!({ "actions": [{ "type": "key", "id": "keyboard", "actions": strokes }] });
        self.post("/actions", &actions).await.map(drop)
    }

    /// The text a person sees in what a CSS selector finds first.
    ///
    /// # Errors
    /// When there is none.
    pub async fn text(&self, selector: &str) -> Result<String, Error> {
        let element = self.find(selector).await?;
        let text = self.get(&format!("/element/{element}/text")).await?;
        Ok(text.as_str().unwrap_or_default().to_owned())
    }

    /// Role and accessible name, as a screen reader tells them, of all that a CSS selector finds.
    ///
    /// # Errors
    /// When the browser does not answer.
    pub async fn accessible_names(&self, selector: &str) -> Result<Vec<(String, String)>, Error> {
        let found = self.post("/elements", &json!({ "using": "css selector", "value": selector })).await?;
        let mut names = Vec::new();
        for element in found.as_array().into_iter().flatten().filter_map(element_id) {
            let role = self.get(&format!("/element/{element}/computedrole")).await?;
            let name = self.get(&format!("/element/{element}/computedlabel")).await?;
            let text = |value: Value| value.as_str().unwrap_or_default().to_owned();
            names.push((text(role), text(name)));
        }
        Ok(names)
    }

    /// Saves what the window shows as a PNG file.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub async fn screenshot(&self, path: &Path) -> Result<(), Error> {
        let answer = self.get("/screenshot").await?;
        let png = answer.as_str().and_then(|text| STANDARD.decode(text).ok());
        let Some(png) = png else {
            return Err(Error::Answer { command: "GET screenshot".to_owned(), value: answer });
        };
        let saved = match path.parent() {
            Some(folder) => tokio::fs::create_dir_all(folder).await,
            None => Ok(()),
        };
        let saved = match saved {
            Ok(()) => tokio::fs::write(path, png).await,
            Err(error) => Err(error),
        };
        saved.map_err(|source| Error::Screenshot { path: path.to_owned(), source })
    }

    /// Makes the page believe in a window of this size: also narrower than windows can be.
    ///
    /// # Errors
    /// When the browser does not answer.
    pub async fn set_size(&self, width: u32, height: u32) -> Result<(), Error> {
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.devtools("Emulation.setDeviceMetricsOverride", metrics).await.map(drop)
    }

    /// Makes the page believe in a preference, such as `prefers-color-scheme` `dark`.
    ///
    /// # Errors
    /// When the browser does not answer.
    pub async fn set_preference(&self, name: &str, value: &str) -> Result<(), Error> {
        let features = json!({ "features": [{ "name": name, "value": value }] });
        self.devtools("Emulation.setEmulatedMedia", features).await.map(drop)
    }

    /// A command of the DevTools protocol, for what WebDriver cannot.
    ///
    /// # Errors
    /// When the browser refuses it.
    pub async fn devtools(&self, command: &str, parameters: Value) -> Result<Value, Error> {
        self.post("/goog/cdp/execute", &json!({ "cmd": command, "params": parameters })).await
    }

    /// What all pages of this browser wrote to their consoles so far.
    ///
    /// # Errors
    /// When the browser does not answer.
    pub async fn console(&self) -> Result<Vec<ConsoleEntry>, Error> {
        self.session.console().await
    }

    async fn find(&self, selector: &str) -> Result<String, Error> {
        let found = self.post("/element", &json!({ "using": "css selector", "value": selector })).await?;
        element_id(&found).ok_or(Error::Answer { command: format!("finding {selector}"), value: found })
    }

    async fn post(&self, path: &str, body: &Value) -> Result<Value, Error> {
        self.session.in_window(&self.window, Method::POST, path, Some(body)).await
    }

    async fn get(&self, path: &str) -> Result<Value, Error> {
        self.session.in_window(&self.window, Method::GET, path, None).await
    }
}

fn element_id(found: &Value) -> Option<String> {
    found.get(ELEMENT).and_then(Value::as_str).map(ToOwned::to_owned)
}

/// JavaScript's idea of truth.
fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(value) => value.as_f64() != Some(0.0),
        Value::String(value) => !value.is_empty(),
        Value::Array(_) | Value::Object(_) => true,
    }
}
