//! One relay process: made from an empty directory, started, asked over its HTTP API, measured, killed at the end.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::Instant;

use crate::allocations::CountingAllocator;
use crate::error::LoadError;
use crate::http::{Client, Media};
use crate::procfs;

/// How long a relay may take to become ready.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// Bytes of a log that are shown when its relay failed.
const TAIL_BYTES: usize = 3000;

/// How relay processes are started.
#[derive(Clone, Debug)]
pub(super) struct Launcher {
    program: PathBuf,
    prefix: Vec<OsString>,
}

/// A relay process. Dropping it kills the process.
pub(super) struct Relay {
    log: PathBuf,
    api: SocketAddr,
    token: String,
    child: Child,
    /// Where it is asked for its allocations, when it is this very program.
    allocations: Option<(ChildStdin, Lines<BufReader<ChildStdout>>)>,
}

/// A metric's value at some moment, by its whole name with labels.
pub(super) struct Metrics(String);

impl Launcher {
    /// Starts `program` when there is one, or else this very program under its hidden subcommand.
    ///
    /// # Errors
    /// When this program cannot be found any more.
    pub(super) fn new(program: Option<PathBuf>) -> Result<Self, LoadError> {
        if let Some(program) = program {
            return Ok(Self { program, prefix: Vec::new() });
        }
        let program = std::env::current_exe().map_err(LoadError::io("finding this program"))?;
        Ok(Self { program, prefix: vec!["relay".into()] })
    }
}

impl Relay {
    /// Makes a node in `dir` with one worker, starts it and waits until it is ready.
    ///
    /// # Errors
    /// When one of these fails.
    pub(super) async fn start(
        launcher: &Launcher,
        dir: &Path,
        api: SocketAddr,
        udp_ports: &str,
    ) -> Result<Self, LoadError> {
        let token = configure(dir, api, udp_ports)?;
        let log = dir.join("relay.log");
        let open = || fs::OpenOptions::new().create(true).append(true).open(&log);
        let file = open().map_err(LoadError::io(format!("opening {}", log.display())))?;
        let own = !launcher.prefix.is_empty();
        let mut command = Command::new(&launcher.program);
        command.args(&launcher.prefix).args(["node", "--config"]).arg(dir.join("relay.toml"));
        command.stderr(file).kill_on_drop(true);
        if own {
            // It writes its log where its standard error is, and answers on its standard output.
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
        } else {
            let file = open().map_err(LoadError::io(format!("opening {}", log.display())))?;
            command.stdin(Stdio::null()).stdout(file);
        }
        let mut child = command.spawn().map_err(LoadError::io("starting the relay"))?;
        let allocations = child.stdin.take().zip(child.stdout.take());
        let allocations = allocations.map(|(stdin, stdout)| (stdin, BufReader::new(stdout).lines()));
        let mut relay = Self { log, api, token, child, allocations };
        relay.ready().await?;
        Ok(relay)
    }

    /// Its process.
    ///
    /// # Errors
    /// When it has ended.
    pub(super) fn pid(&self) -> Result<u32, LoadError> {
        self.child.id().ok_or_else(|| self.failed("has ended"))
    }

    /// A client with the admin token.
    pub(super) fn admin(&self) -> Client {
        Client::new(self.api, &self.token)
    }

    /// A client with another token.
    pub(super) fn client(&self, token: &str) -> Client {
        Client::new(self.api, token)
    }

    /// Creates a call: its id.
    ///
    /// # Errors
    /// When the relay refuses.
    pub(super) async fn create_call(&self, participants_max: u32) -> Result<String, LoadError> {
        let mode = if participants_max > 100 { "broadcast" } else { "conference" };
        let body = json!({ "max_participants": participants_max, "mode": mode });
        let answer = ask(&mut self.admin(), "/v1/calls", &body).await?;
        field(&answer, "POST /v1/calls", "call_id")
    }

    /// A join token.
    ///
    /// # Errors
    /// When the relay refuses.
    pub(super) async fn mint(
        &self,
        admin: &mut Client,
        call: &str,
        participant: &str,
        role: &str,
    ) -> Result<String, LoadError> {
        let path = format!("/v1/calls/{call}/tokens");
        let answer = ask(admin, &path, &json!({ "participant": participant, "role": role })).await?;
        field(&answer, "POST …/tokens", "token")
    }

    /// How many media packets were sealed for a receiver of a call so far, as its worker knows at this moment.
    ///
    /// # Errors
    /// When the relay does not answer, or not with a count.
    pub(super) async fn forwarded(&self, admin: &mut Client, call: &str) -> Result<u64, LoadError> {
        let path = format!("/v1/calls/{call}");
        let body = admin.call(Method::GET, &path, Media::Json, Bytes::new()).await?;
        let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
        let count = answer.pointer("/counters/media_out").and_then(Value::as_u64);
        count.ok_or_else(|| LoadError::Answer {
            request: format!("GET {path}"),
            why: "no counters.media_out".to_owned(),
        })
    }

    /// All metrics, which the relay brings up to date once a second.
    ///
    /// # Errors
    /// When the relay does not answer.
    pub(super) async fn metrics(&self) -> Result<Metrics, LoadError> {
        let body = self.admin().call(Method::GET, "/metrics", Media::Json, Bytes::new()).await?;
        Ok(Metrics(String::from_utf8_lossy(&body).into_owned()))
    }

    /// Processor time of all threads so far.
    ///
    /// # Errors
    /// When it has ended.
    pub(super) fn cpu(&self) -> Result<Duration, LoadError> {
        procfs::scheduled(self.pid()?)
    }

    /// Memory it has now, in bytes.
    ///
    /// # Errors
    /// When it has ended.
    pub(super) fn rss_bytes(&self) -> Result<u64, LoadError> {
        procfs::rss_bytes(self.pid()?)
    }

    /// Allocations so far; none when it is another program, which does not count them.
    ///
    /// # Errors
    /// When it has ended.
    pub(super) async fn allocations(&mut self) -> Result<Option<u64>, LoadError> {
        let Some((stdin, lines)) = &mut self.allocations else { return Ok(None) };
        stdin.write_all(b"\n").await.map_err(LoadError::io("asking the relay for its allocations"))?;
        let line = lines.next_line().await.map_err(LoadError::io("reading the relay's allocations"))?;
        match line.and_then(|line| line.trim().parse().ok()) {
            Some(count) => Ok(Some(count)),
            None => Err(self.failed("did not say its allocations")),
        }
    }

    async fn ready(&mut self) -> Result<(), LoadError> {
        let deadline = Instant::now() + READY_WITHIN;
        let mut client = self.admin();
        loop {
            if client.call(Method::GET, "/readyz", Media::Json, Bytes::new()).await.is_ok() {
                return Ok(());
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(self.failed(&format!("ended with {status}")));
            }
            if Instant::now() > deadline {
                return Err(self.failed(&format!("was not ready within {} s", READY_WITHIN.as_secs())));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn failed(&self, what: &str) -> LoadError {
        let text = fs::read(&self.log).unwrap_or_default();
        let tail = text.get(text.len().saturating_sub(TAIL_BYTES)..).unwrap_or_default();
        let tail = String::from_utf8_lossy(tail).into_owned();
        LoadError::Relay { what: what.to_owned(), log: self.log.clone(), tail }
    }
}

impl Metrics {
    /// Its value, summed over its labels. `None` when there is no such metric.
    pub(super) fn value(&self, name: &str) -> Option<f64> {
        let values = self.0.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            let rest = match rest.strip_prefix('{') {
                Some(labels) => labels.rsplit_once('}')?.1,
                None => rest,
            };
            rest.strip_prefix(' ')?.trim().parse::<f64>().ok()
        });
        values.fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
    }
}

/// Answers a line with the allocations so far for every line that comes, on a thread of its own: what the hidden
/// subcommand does besides being a relay. The relay's command line holds the locks of the standard streams, so they are
/// opened once more.
///
/// # Errors
/// When they cannot be.
pub(crate) fn answer_with_allocations() -> Result<(), LoadError> {
    CountingAllocator::start_counting();
    let open = |path: &str, write: bool| {
        let opened = fs::OpenOptions::new().read(!write).write(write).open(path);
        opened.map_err(LoadError::io(format!("opening {path}")))
    };
    let (questions, mut answers) = (open("/dev/stdin", false)?, open("/dev/stdout", true)?);
    let answer = move || {
        for question in std::io::BufReader::new(questions).lines() {
            let count = CountingAllocator::count();
            if question.and_then(|_| writeln!(answers, "{count}")).is_err() {
                return;
            }
        }
    };
    let thread = std::thread::Builder::new().name("allocations".into()).spawn(answer);
    thread.map(|_| ()).map_err(LoadError::io("starting a thread"))
}

/// Writes a node's configuration and secrets: the admin token.
fn configure(dir: &Path, api: SocketAddr, udp_ports: &str) -> Result<String, LoadError> {
    let token = format!("tlr_{}", uuid::Uuid::new_v4().simple());
    let random = || {
        let halves = [uuid::Uuid::new_v4(), uuid::Uuid::new_v4()];
        STANDARD.encode(halves.map(uuid::Uuid::into_bytes).concat())
    };
    let config = format!(
        "node = 1\n\
         [api]\nlisten = \"{api}\"\nadmin_token_file = \"admin.token\"\n\
         [tokens]\nhs256_secret_file = \"tokens.secret\"\n\
         [media]\nudp_ports = \"{udp_ports}\"\ntcp_port = 0\nlisten = [\"{}\"]\nworkers = 1\nufrag_key_file = \"ufrag.key\"\n\
         [limits]\njoins_per_s = 100000\n",
        api.ip()
    );
    for (name, content) in [
        ("admin.token", token.clone()),
        ("tokens.secret", random()),
        ("ufrag.key", random()),
        ("relay.toml", config),
    ] {
        let path = dir.join(name);
        let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        file.and_then(|mut file| writeln!(file, "{content}"))
            .map_err(LoadError::io(format!("writing {}", path.display())))?;
    }
    Ok(token)
}

async fn ask(client: &mut Client, path: &str, body: &Value) -> Result<Value, LoadError> {
    let answer = client.call(Method::POST, path, Media::Json, Bytes::from(body.to_string())).await?;
    serde_json::from_slice(&answer)
        .map_err(|error| LoadError::Answer { request: format!("POST {path}"), why: error.to_string() })
}

fn field(answer: &Value, request: &str, name: &str) -> Result<String, LoadError> {
    let value = answer.get(name).and_then(Value::as_str).map(str::to_owned);
    value.ok_or_else(|| LoadError::Answer { request: request.to_owned(), why: format!("no {name}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_found_by_its_whole_name_and_summed_over_its_labels() {
        let metrics = Metrics("# TYPE a counter\na 3\nab 5\nb{x=\"1\"} 2\nb{x=\"2\"} 4\n".to_owned());
        assert_eq!(metrics.value("a"), Some(3.0));
        assert_eq!(metrics.value("b"), Some(6.0));
        assert_eq!(metrics.value("c"), None);
    }
}
