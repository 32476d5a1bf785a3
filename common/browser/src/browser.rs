//! A browser's processes, and its pages.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use http::Method;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::sync::{Mutex, oneshot};
use tokio::time::{Instant, sleep, timeout};

use crate::driver::Driver;
use crate::error::Error;
use crate::options::Options;
use crate::page::{ConsoleEntry, Page};

/// How long chromedriver may take to listen.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// How long one script may run, promises included, before it fails.
const SCRIPT_TIMEOUT: Duration = Duration::from_secs(30);

/// Console entries kept. More shows more of a noisy page's past.
const CONSOLE_ENTRIES_MAX: usize = 1000;

/// How often it is looked whether a window opened. Less finds it sooner.
const WINDOWS_INTERVAL: Duration = Duration::from_millis(50);

/// Attempts at removing a profile, and the time between them. More waits longer for helpers that do not end.
const REMOVALS_MAX: u32 = 100;
const REMOVAL_PAUSE: Duration = Duration::from_millis(20);

const CHROMIUM: &[&str] = &["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];
const CHROMEDRIVER: &[&str] =
    &["/usr/bin/chromedriver", "/usr/lib/chromium-browser/chromedriver", "/usr/local/bin/chromedriver"];

/// A running browser. Dropping it ends its processes and removes its profile.
#[derive(Debug)]
pub struct Browser {
    session: Arc<Session>,
    first_window: String,
}

/// What pages share.
#[derive(Debug)]
pub(crate) struct Session {
    driver: Driver,
    id: String,
    /// Which window commands go to now. Held over a command, so that pages do not talk into each other's.
    current: Mutex<String>,
    console: Mutex<Vec<ConsoleEntry>>,
    // Dropped in this order: the processes end before their profile goes.
    _processes: Processes,
    _profile: Profile,
}

/// The directory of a profile.
#[derive(Debug)]
struct Profile(PathBuf);

#[derive(Debug)]
struct Processes {
    chromedriver: Child,
    chromium: Option<Pid>,
}

impl Drop for Processes {
    fn drop(&mut self) {
        if let Some(pid) = self.chromium {
            let _ = kill_process(pid, Signal::KILL);
        }
        let _ = self.chromedriver.kill();
        let _ = self.chromedriver.wait();
    }
}

impl Profile {
    fn new() -> Result<Self, Error> {
        let made = tempfile::Builder::new().prefix("trunkline-browser").tempdir();
        made.map(|folder| Self(folder.keep()))
            .map_err(|source| Error::Io { what: "a folder for the profile", source })
    }
}

impl Drop for Profile {
    #[allow(
        clippy::disallowed_methods,
        reason = "a drop cannot await, and nothing tells when the last helper ended"
    )]
    fn drop(&mut self) {
        // Chromium's helpers notice a moment later that it is gone, and write until then.
        for _ in 0..REMOVALS_MAX {
            if fs::remove_dir_all(&self.0).is_ok() {
                return;
            }
            thread::sleep(REMOVAL_PAUSE);
        }
    }
}

impl Browser {
    /// Starts chromedriver and through it Chromium.
    ///
    /// # Errors
    /// [`Error::Missing`] when one of them is not installed, others when they do not start.
    pub async fn start(options: &Options) -> Result<Self, Error> {
        let chromium = find(CHROMIUM, "chromium")?;
        let chromedriver = find(CHROMEDRIVER, "chromedriver")?;
        let profile = Profile::new()?;
        let (mut processes, driver) = start_driver(&chromedriver, &profile.0).await?;

        let mut arguments = options.arguments();
        arguments.push(format!("--user-data-dir={}", profile.0.join("profile").display()));
        let answer = driver.call(Method::POST, "/session", Some(&capabilities(&chromium, arguments))).await?;
        let id = text(&answer, "/sessionId", "POST /session")?;
        processes.chromium = answer
            .pointer("/capabilities/goog:processID")
            .and_then(Value::as_i64)
            .and_then(|pid| i32::try_from(pid).ok())
            .and_then(Pid::from_raw);
        let window = driver.call(Method::GET, &format!("/session/{id}/window"), None).await?;
        let first_window = text(&window, "", "GET window")?;
        let session = Session {
            driver,
            id,
            current: Mutex::new(first_window.clone()),
            console: Mutex::default(),
            _processes: processes,
            _profile: profile,
        };
        Ok(Self { session: Arc::new(session), first_window })
    }

    /// The page it came with.
    #[must_use]
    pub fn first_page(&self) -> Page {
        Page::new(Arc::clone(&self.session), self.first_window.clone())
    }

    /// Another page, in a window of its own: what hides behind another window is throttled less than what hides
    /// behind another tab.
    ///
    /// # Errors
    /// When the browser does not answer.
    pub async fn new_page(&self) -> Result<Page, Error> {
        let answer =
            self.session.on_session(Method::POST, "/window/new", Some(&json!({ "type": "window" }))).await?;
        let window = text(&answer, "/handle", "POST window/new")?;
        Ok(Page::new(Arc::clone(&self.session), window))
    }

    /// The page that another one opened, or will within `patience`: the one that is not among those known.
    ///
    /// # Errors
    /// [`Error::Timeout`] when none comes.
    pub async fn opened_page(&self, known: &[&Page], patience: Duration) -> Result<Page, Error> {
        let started = Instant::now();
        loop {
            let windows = self.session.on_session(Method::GET, "/window/handles", None).await?;
            let mut windows = windows.as_array().into_iter().flatten().filter_map(Value::as_str);
            if let Some(window) = windows.find(|window| !known.iter().any(|page| page.is_in(window))) {
                return Ok(Page::new(Arc::clone(&self.session), window.to_owned()));
            }
            if started.elapsed() >= patience {
                let console = self.session.console().await.unwrap_or_default();
                return Err(Error::Timeout {
                    script: "a window that a page opens".to_owned(),
                    timeout: patience,
                    last: format!("{} windows, all known", known.len()),
                    console: console.iter().map(|entry| format!("  {entry}\n")).collect(),
                });
            }
            sleep(WINDOWS_INTERVAL).await;
        }
    }

    /// What all pages wrote to their consoles so far, failed requests and uncaught exceptions among it.
    ///
    /// # Errors
    /// When the browser does not answer.
    pub async fn console(&self) -> Result<Vec<ConsoleEntry>, Error> {
        self.session.console().await
    }
}

impl Session {
    /// A command in one window.
    pub(crate) async fn in_window(
        &self,
        window: &str,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, Error> {
        let mut current = self.current.lock().await;
        if *current != window {
            self.on_session(Method::POST, "/window", Some(&json!({ "handle": window }))).await?;
            window.clone_into(&mut current);
        }
        self.on_session(method, path, body).await
    }

    /// Fetches what is new on the consoles, and gives all that is known.
    pub(crate) async fn console(&self) -> Result<Vec<ConsoleEntry>, Error> {
        let answer = self.on_session(Method::POST, "/se/log", Some(&json!({ "type": "browser" }))).await?;
        let mut console = self.console.lock().await;
        console.extend(answer.as_array().into_iter().flatten().map(ConsoleEntry::from_log));
        let surplus = console.len().saturating_sub(CONSOLE_ENTRIES_MAX);
        console.drain(..surplus);
        Ok(console.clone())
    }

    async fn on_session(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Error> {
        self.driver.call(method, &format!("/session/{}{path}", self.id), body).await
    }
}

fn find(places: &[&str], program: &'static str) -> Result<PathBuf, Error> {
    places.iter().map(PathBuf::from).find(|path| path.is_file()).ok_or(Error::Missing { program })
}

fn capabilities(chromium: &Path, arguments: Vec<String>) -> Value {
    json!({ "capabilities": { "alwaysMatch": {
        "browserName": "chrome",
        "timeouts": { "script": u64::try_from(SCRIPT_TIMEOUT.as_millis()).unwrap_or(u64::MAX) },
        "unhandledPromptBehavior": "dismiss and notify",
        "goog:loggingPrefs": { "browser": "ALL" },
        "goog:chromeOptions": { "binary": chromium, "args": arguments },
    } } })
}

/// Starts chromedriver on a port the system chooses; it says which.
async fn start_driver(chromedriver: &Path, home: &Path) -> Result<(Processes, Driver), Error> {
    let mut child = Command::new(chromedriver)
        .args(["--port=0", "--allowed-ips=127.0.0.1"])
        // Whatever wants to write to a home directory gets one that goes with the profile.
        .env("HOME", home)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|source| Error::Io { what: "starting chromedriver", source })?;
    let output = child.stdout.take();
    let processes = Processes { chromedriver: child, chromium: None };
    let (tell, told) = oneshot::channel();
    let read = move || {
        let mut lines =
            output.into_iter().flat_map(|output| BufReader::new(output).lines()).map_while(Result::ok);
        let mut said = String::new();
        let port = lines.find_map(|line| {
            let port = port_in(&line);
            said.push_str(&line);
            said.push('\n');
            port
        });
        let _ = tell.send(port.ok_or(said));
        // A pipe that nobody reads would end it at its next word.
        lines.for_each(drop);
    };
    thread::Builder::new()
        .name("chromedriver".to_owned())
        .spawn(read)
        .map_err(|source| Error::Io { what: "a thread that reads from chromedriver", source })?;
    match timeout(START_TIMEOUT, told).await {
        Ok(Ok(Ok(port))) => Ok((processes, Driver::new(port))),
        Ok(Ok(Err(said))) => Err(Error::DriverStart(said)),
        Ok(Err(_)) | Err(_) => Err(Error::DriverStart("nothing".to_owned())),
    }
}

/// The port in `… was started successfully on port 12345.`
fn port_in(line: &str) -> Option<u16> {
    let (_, port) = line.rsplit_once("successfully on port ")?;
    port.trim_end().trim_end_matches('.').parse().ok()
}

fn text(value: &Value, pointer: &str, command: &str) -> Result<String, Error> {
    match value.pointer(pointer).and_then(Value::as_str) {
        Some(text) => Ok(text.to_owned()),
        None => Err(Error::Answer { command: command.to_owned(), value: value.clone() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_read_from_what_chromedriver_says() {
        assert_eq!(port_in("ChromeDriver was started successfully on port 44761."), Some(44761));
        assert_eq!(port_in("Starting ChromeDriver 148.0.7778.167 on port 0"), None);
    }

    #[tokio::test]
    async fn a_condition_that_never_holds_tells_its_last_value_and_the_console() {
        let browser = Browser::start(&Options::default()).await.unwrap();
        let page = browser.first_page();
        page.open("data:text/html,<title>x</title><script>console.error('a clue')</script>").await.unwrap();
        assert_eq!(page.wait_until("document.title", Duration::ZERO).await.unwrap(), "x");
        let error = page.wait_until("[].length", Duration::from_millis(100)).await.unwrap_err().to_string();
        assert!(error.contains("last value: 0") && error.contains("a clue"), "{error}");
        let error = page.wait_until("nothing.at.all", Duration::ZERO).await.unwrap_err().to_string();
        assert!(error.contains("nothing is not defined"), "{error}");
    }

    #[tokio::test]
    async fn pages_of_one_browser_do_not_talk_into_each_others_windows() {
        let browser = Browser::start(&Options::default()).await.unwrap();
        let (one, two) = (browser.first_page(), browser.new_page().await.unwrap());
        let open = async |page: &Page, name: &str| {
            page.open(&format!("data:text/html,<title>{name}</title>")).await.unwrap();
            page.wait_until("document.title", Duration::from_secs(5)).await.unwrap()
        };
        let (first, second) = tokio::join!(open(&one, "one"), open(&two, "two"));
        assert_eq!((first, second), (json!("one"), json!("two")));
    }

    #[tokio::test]
    async fn a_window_that_a_page_opens_is_found() {
        let browser = Browser::start(&Options::default()).await.unwrap();
        let page = browser.first_page();
        page.open("data:text/html,<title>one</title><button onclick=\"window.open('about:blank').document.title = 'two'\">x</button>")
            .await
            .unwrap();
        let none = browser.opened_page(&[&page], Duration::ZERO).await.unwrap_err().to_string();
        assert!(none.contains("1 windows, all known"), "{none}");
        page.click("button").await.unwrap();
        let opened = browser.opened_page(&[&page], Duration::from_secs(10)).await.unwrap();
        assert_eq!(opened.wait_until("document.title", Duration::from_secs(5)).await.unwrap(), "two");
        assert_eq!(page.value("document.title").await.unwrap(), "one");
    }

    #[tokio::test]
    async fn nothing_is_left_of_a_browser_that_was_dropped() {
        let browser = Browser::start(&Options::default()).await.unwrap();
        let chromium = browser.session._processes.chromium.unwrap();
        let profile = browser.session._profile.0.clone();
        // Its state stands after its name; what has ended and was not asked for yet is a zombie.
        let stat = format!("/proc/{}/stat", chromium.as_raw_nonzero());
        let runs = || fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z "));
        assert!(runs());
        drop(browser);
        let deadline = Instant::now() + Duration::from_secs(10);
        while runs() {
            assert!(Instant::now() < deadline, "Chromium still runs");
            sleep(Duration::from_millis(20)).await;
        }
        assert!(!profile.exists());
    }
}
