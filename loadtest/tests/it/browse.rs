//! What a person does in consoles and messaging pages, in one line each.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use trunkline_browser::{Browser, Options, Page};

use crate::demo::Demo;

/// For what takes at most a few seconds on a machine that does nothing else.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Few frames a second: several pages encode and decode on few cores.
const CAMERA: &str = "--use-fake-device-for-media-stream=fps=10";

/// A browser with a profile of its own: sessions of one are not those of another.
pub(crate) async fn browser() -> Browser {
    let options = Options { window: (1440, 900), flags: vec![CAMERA.to_owned()], ..Options::default() };
    Browser::start(&options).await.unwrap()
}

/// Waits until an expression is true, and answers its value.
pub(crate) async fn see(page: &Page, expression: &str) -> Value {
    page.wait_until(expression, PATIENCE).await.unwrap()
}

/// Waits until there is something that a CSS selector finds.
pub(crate) async fn there_is(page: &Page, selector: &str) {
    see(page, &format!("document.querySelector({}) !== null", json!(selector))).await;
}

/// Waits until there is nothing that a CSS selector finds.
pub(crate) async fn there_is_no(page: &Page, selector: &str) {
    see(page, &format!("document.querySelector({}) === null", json!(selector))).await;
}

/// Waits until what a CSS selector finds first contains a text.
pub(crate) async fn says(page: &Page, selector: &str, text: &str) {
    let contains =
        format!("document.querySelector({})?.textContent.includes({})", json!(selector), json!(text));
    see(page, &contains).await;
}

/// Waits for a button or link, and clicks on it.
pub(crate) async fn click(page: &Page, selector: &str) {
    there_is(page, selector).await;
    page.click(selector).await.unwrap_or_else(|error| panic!("{selector}: {error}"));
}

/// Waits for a field, and types something in place of what it holds.
pub(crate) async fn fill(page: &Page, selector: &str, text: &str) {
    there_is(page, selector).await;
    page.run("document.querySelector(arguments[0]).value = ''", &[json!(selector)]).await.unwrap();
    page.type_into(selector, text).await.unwrap();
}

/// Puts a text into a field at once, as pasting does.
pub(crate) async fn paste(page: &Page, selector: &str, text: &str) {
    there_is(page, selector).await;
    let paste = "const [selector, text] = arguments; const field = document.querySelector(selector); \
        field.focus(); field.select(); return document.execCommand('insertText', false, text)";
    assert_eq!(page.run(paste, &[json!(selector), json!(text)]).await.unwrap(), true);
}

/// Opens a deployment's console, which shows the log-in, and enters a name and a password there.
pub(crate) async fn enter(page: &Page, demo: &Demo, deployment: &str, name: &str, password: &str) {
    page.open(demo.of(deployment, "console")).await.unwrap();
    fill(page, "#login-name", name).await;
    fill(page, "#login-password", password).await;
    click(page, "#login-submit").await;
}

/// Logs in to a deployment's console as its administrator.
pub(crate) async fn log_in(page: &Page, demo: &Demo, deployment: &str) {
    enter(page, demo, deployment, demo.of(deployment, "name"), demo.of(deployment, "password")).await;
    there_is(page, "#live[data-state=live]").await;
}

/// Goes to a page of a console without loading anything anew, and waits until it shows what it is about.
pub(crate) async fn go(page: &Page, place: &str) {
    page.run("location.hash = arguments[0]", &[json!(place)]).await.unwrap();
    let shown = format!(
        "location.hash === {} && document.querySelector('#page-title') && !document.querySelector('.skeleton')",
        json!(place)
    );
    see(page, &shown).await;
    there_is_no(page, "#page-error").await;
}

/// Remembers in a page that it was not loaded anew.
pub(crate) async fn mark(page: &Page) {
    page.run("window.neverLoadedAnew = true", &[]).await.unwrap();
}

/// Whether a page is still the one that was marked.
pub(crate) async fn is_marked(page: &Page) -> bool {
    page.value("window.neverLoadedAnew === true").await.unwrap() == true
}

/// The number a console shows as a figure.
pub(crate) async fn figure(page: &Page, id: &str) -> u64 {
    let digits = format!("document.querySelector('#{id} .value').textContent.replace(/\\D/g, '')");
    let digits = see(page, &digits).await;
    digits.as_str().and_then(|digits| digits.parse().ok()).unwrap_or_else(|| panic!("{id} shows {digits}"))
}

/// Waits until a figure of a console is as wanted, such as `> 3`.
pub(crate) async fn figure_is(page: &Page, id: &str, wanted: &str) {
    let digits = format!("document.querySelector('#{id} .value').textContent.replace(/\\D/g, '')");
    see(page, &format!("{digits} !== '' && Number({digits}) {wanted}")).await;
}

/// Opens somebody's messaging page, in the conversation with a contact.
pub(crate) async fn open_messages(page: &Page, demo: &Demo, person: &str, contact: &str) {
    page.open(demo.link(person)).await.unwrap();
    click(page, &format!("#contacts [data-address='{contact}']")).await;
    there_is(page, "#composer:not([hidden])").await;
}

/// Writes a message in the open conversation.
pub(crate) async fn write(page: &Page, text: &str) {
    fill(page, "#text", text).await;
    page.press('\u{e007}').await.unwrap();
}

/// Waits until a message of one's own has a mark, such as `Delivered`.
pub(crate) async fn is_marked_as(page: &Page, text: &str, mark: &str) {
    let message = format!(
        "[...document.querySelectorAll('.message[data-own=true]')]\
         .find((each) => each.querySelector('.text').textContent === {})",
        json!(text)
    );
    see(page, &format!("{message}?.querySelector('.mark').textContent.includes({})", json!(mark))).await;
}

/// Waits until a message of the contact can be read.
pub(crate) async fn is_read(page: &Page, text: &str) {
    let found = format!(
        "[...document.querySelectorAll('.message[data-own=false] .text')]\
         .some((each) => each.textContent === {})",
        json!(text)
    );
    see(page, &found).await;
}

/// Where pictures go, for people to look at.
pub(crate) fn picture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("screens").join(format!("{name}.png"))
}

/// What went wrong in any page, by its console.
pub(crate) async fn errors(browser: &Browser) -> Vec<String> {
    let console = browser.console().await.unwrap();
    let errors = console.iter().filter(|entry| entry.is_error()).map(ToString::to_string);
    // A console asks who is there before it shows a log-in: that nobody is, is the answer.
    errors
        .filter(|error| !(error.contains("/admin/v1/session ") && error.contains("status of 401")))
        .collect()
}
