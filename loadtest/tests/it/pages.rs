//! Every page in light and dark, wide and narrow: photographed, held against the rules of accessibility, and watched
//! for scrolling to the side, for errors, and for requests that go elsewhere.

use std::path::Path;

use serde_json::Value;
use trunkline_browser::Page;

use crate::browse::{
    browser, click, errors, go, is_marked_as, is_read, log_in, open_messages, picture, see, there_is,
    there_is_no, write,
};
use crate::demo::Demo;

/// Window sizes: a desk's and a telephone's. Pictures are as high as the page.
const SIZES: [(&str, u32, u32); 2] = [("wide", 1440, 900), ("narrow", 390, 844)];

/// Longest picture.
const HEIGHT_MAX: u64 = 5000;

/// Every page of a console: its name, and where it is.
const CONSOLE: [(&str, &str); 16] = [
    ("overview", "#/overview"),
    ("identity", "#/identity"),
    ("peers", "#/peers"),
    ("peer", "#/peers/beta.test"),
    ("certificates", "#/certificates"),
    ("domains", "#/domains"),
    ("networks", "#/networks"),
    ("network", "#/networks/main"),
    ("outbox", "#/outbox"),
    ("calls", "#/calls"),
    ("audit", "#/audit"),
    ("settings", "#/settings"),
    ("administrators", "#/settings/administrators"),
    ("tokens", "#/settings/tokens"),
    ("account", "#/settings/account"),
    ("doctor", "#/settings/doctor"),
];

/// Dialogs that decide about trust: their name, the page they are on, and what opens them.
const DIALOGS: [(&str, &str, &str); 4] = [
    ("dialog-invite", "#/peers", "#peer-invite"),
    ("dialog-accept", "#/peers", "#peer-accept"),
    ("dialog-remove", "#/peers/beta.test", "#peer-remove"),
    ("dialog-add", "#/peers", "#peer-add"),
];

/// A page with one fault of each kind.
const FAULTY: &str = "data:text/html,<html lang='en'><title>x</title><main><h1>x</h1>\
    <p style='width: 2000px'>x</p><input></main>\
    <script>fetch('http://127.0.0.1:9/').catch(() => console.error('a fault'))</script>";

/// What axe finds wrong: the rule, and where.
const AXE: &str = "return axe.run(document, { resultTypes: ['violations'] }).then(({ violations }) => violations.map(({ id, help, nodes }) => \
     `${id}: ${help}: ${nodes.map(({ target, any, all, none }) => \
       `${target} (${[...any, ...all, ...none].map(({ message }) => message)})`).join('; ')}`))";

/// What a page loaded from other places than its own.
const ELSEWHERE: &str = "performance.getEntriesByType('resource').map(({ name }) => name)\
     .filter((name) => !name.startsWith(location.origin + '/') && !/^(blob|data):/.test(name))";

/// What was wrong with a page.
#[derive(Default)]
struct Findings(Vec<String>);

#[tokio::test]
async fn every_page_is_fit_for_everybody_in_light_and_dark_wide_and_narrow() {
    let demo = Demo::peered().await;
    let browser = browser().await;
    let (console, ann, ben) =
        (browser.first_page(), browser.new_page().await.unwrap(), browser.new_page().await.unwrap());
    let mut findings = Findings::default();
    console.open(demo.of("alpha", "console")).await.unwrap();
    there_is(&console, "#login-form").await;
    findings.look(&console, "log-in").await;

    open_messages(&ann, &demo, "ann@alpha.test", "ben@beta.test").await;
    open_messages(&ben, &demo, "ben@beta.test", "ann@alpha.test").await;
    for (from, to, text) in
        [(&ann, &ben, "Good morning!"), (&ben, &ann, "It is. What a long sentence this is!")]
    {
        write(from, text).await;
        is_marked_as(from, text, "Delivered").await;
        is_read(to, text).await;
    }
    log_in(&console, &demo, "alpha").await;
    for (name, place) in CONSOLE {
        go(&console, place).await;
        findings.look(&console, name).await;
    }
    for (name, place, button) in DIALOGS {
        go(&console, place).await;
        click(&console, button).await;
        there_is(&console, "dialog[open]").await;
        findings.look(&console, name).await;
        console.press('\u{e00c}').await.unwrap();
        there_is_no(&console, "dialog").await;
    }
    findings.look(&ann, "messages").await;
    assert_eq!(findings.0, Vec::<String>::new(), "pictures: {}", picture("*").display());
    assert_eq!(errors(&browser).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_page_with_faults_is_found_out() {
    let browser = browser().await;
    let page = browser.first_page();
    page.open(FAULTY).await.unwrap();
    let mut findings = Findings::default();
    findings.look(&page, "faulty").await;
    for fault in ["faulty-light-wide: 568 pixels too wide", "faulty-dark-narrow: axe: label", "127.0.0.1:9"] {
        assert!(findings.0.iter().any(|found| found.contains(fault)), "{fault}: {:?}", findings.0);
    }
    assert!(errors(&browser).await.iter().any(|error| error.contains("a fault")));
}

impl Findings {
    /// Looks at a page in every way.
    async fn look(&mut self, page: &Page, name: &str) {
        for scheme in ["light", "dark"] {
            page.set_preference("prefers-color-scheme", scheme).await.unwrap();
            for (size, width, height) in SIZES {
                let name = format!("{name}-{scheme}-{size}");
                resize(page, width, height).await;
                // Colours on their way from one scheme to the other are those of neither.
                see(page, "document.getAnimations().every((each) => !(each instanceof CSSTransition))").await;
                let over = page.value("document.documentElement.scrollWidth - innerWidth").await.unwrap();
                if over.as_i64() > Some(0) {
                    self.0.push(format!("{name}: {over} pixels too wide"));
                }
                self.all(&name, "axe", &axe(page).await);
                photograph(page, width, height, &name).await;
            }
        }
        self.all(name, "a request to elsewhere", &page.value(ELSEWHERE).await.unwrap());
    }

    fn all(&mut self, name: &str, what: &str, found: &Value) {
        let found = found.as_array().expect("a list");
        self.0.extend(found.iter().filter_map(Value::as_str).map(|found| format!("{name}: {what}: {found}")));
    }
}

async fn resize(page: &Page, width: u32, height: u32) {
    page.set_size(width, height).await.unwrap();
    see(page, &format!("innerWidth === {width} && innerHeight === {height}")).await;
}

/// A picture of the whole page.
async fn photograph(page: &Page, width: u32, height: u32, name: &str) {
    let full = page.value("document.documentElement.scrollHeight").await.unwrap().as_u64().expect("a height");
    let full = u32::try_from(full.min(HEIGHT_MAX)).expect("it is small");
    if full > height {
        resize(page, width, full).await;
    }
    page.screenshot(&picture(name)).await.unwrap();
}

/// Runs axe-core in a page.
async fn axe(page: &Page) -> Value {
    if page.value("typeof axe").await.unwrap() == "undefined" {
        page.run(&accessibility_checker(), &[]).await.unwrap();
    }
    page.run(AXE, &[]).await.unwrap()
}

fn accessibility_checker() -> String {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("it is in the target directory");
    let file = target.join("npm/node_modules/axe-core/axe.min.js");
    std::fs::read_to_string(&file).unwrap_or_else(|error| {
        panic!("{}: {error}: run scripts/test once, which installs it", file.display())
    })
}
