//! A process of the relay program, as a node or an ingress: started, measured, killed at the end.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::Instant;

use crate::allocations::CountingAllocator;
use crate::error::LoadError;
use crate::http::{Client, Media};
use crate::procfs;

/// How long one may take to become ready.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// How long one may take to stop when it is asked to. They have nothing to save.
const STOPS_WITHIN: Duration = Duration::from_secs(15);

/// Bytes of a log that are shown when its process failed.
const TAIL_BYTES: usize = 3000;

/// How relay processes are started.
#[derive(Clone, Debug)]
pub(crate) struct Launcher {
    program: PathBuf,
    prefix: Vec<OsString>,
}

/// A running process. Dropping it kills it.
pub(crate) struct Process {
    /// `relay` or `ingress`, for people.
    name: &'static str,
    log: PathBuf,
    child: Child,
    /// Where it is asked for its allocations, when it is this very program.
    allocations: Option<(ChildStdin, Lines<BufReader<ChildStdout>>)>,
}

/// All metrics of a process at some moment.
pub(crate) struct Metrics(String);

impl Launcher {
    /// Starts `program` when there is one, or else this very program under its hidden subcommand.
    ///
    /// # Errors
    /// When this program cannot be found any more.
    pub(crate) fn new(program: Option<PathBuf>) -> Result<Self, LoadError> {
        if let Some(program) = program {
            return Ok(Self { program, prefix: Vec::new() });
        }
        let program = std::env::current_exe().map_err(LoadError::io("finding this program"))?;
        Ok(Self { program, prefix: vec!["relay".into()] })
    }

    /// Starts `verb` with a configuration and waits until its API says that it is ready.
    ///
    /// # Errors
    /// When it ends, or takes too long.
    pub(crate) async fn start(
        &self,
        name: &'static str,
        verb: &str,
        config: &Path,
        mut api: Client,
    ) -> Result<Process, LoadError> {
        let log = config.with_extension("log");
        let open = || fs::OpenOptions::new().create(true).append(true).open(&log);
        let file = open().map_err(LoadError::io(format!("opening {}", log.display())))?;
        let mut command = Command::new(&self.program);
        command.args(&self.prefix).args([verb, "--config"]).arg(config);
        command.stderr(file).kill_on_drop(true);
        if self.prefix.is_empty() {
            let file = open().map_err(LoadError::io(format!("opening {}", log.display())))?;
            command.stdin(Stdio::null()).stdout(file);
        } else {
            // It writes its log where its standard error is, and answers on its standard output.
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
        }
        let mut child = command.spawn().map_err(LoadError::io(format!("starting the {name}")))?;
        let allocations = child.stdin.take().zip(child.stdout.take());
        let allocations = allocations.map(|(stdin, stdout)| (stdin, BufReader::new(stdout).lines()));
        let mut process = Process { name, log, child, allocations };
        let deadline = Instant::now() + READY_WITHIN;
        while api.call(Method::GET, "/readyz", Media::Json, Bytes::new()).await.is_err() {
            if let Ok(Some(status)) = process.child.try_wait() {
                return Err(process.failed(&format!("ended with {status}")));
            }
            if Instant::now() > deadline {
                return Err(process.failed(&format!("was not ready within {} s", READY_WITHIN.as_secs())));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(process)
    }
}

impl Process {
    /// Processor time of all threads so far.
    ///
    /// # Errors
    /// When it has ended.
    pub(crate) fn cpu(&self) -> Result<Duration, LoadError> {
        procfs::scheduled(self.pid()?)
    }

    /// Memory it has now, in bytes.
    ///
    /// # Errors
    /// When it has ended.
    pub(crate) fn rss_bytes(&self) -> Result<u64, LoadError> {
        procfs::rss_bytes(self.pid()?)
    }

    /// Says so when it has ended by itself.
    ///
    /// # Errors
    /// When it has.
    pub(crate) fn lives(&mut self) -> Result<(), LoadError> {
        match self.child.try_wait() {
            Ok(Some(status)) => Err(self.failed(&format!("ended with {status}"))),
            _ => Ok(()),
        }
    }

    /// Asks it to stop, and waits until it has; it is killed when that takes too long.
    ///
    /// # Errors
    /// When it had to be killed, and says what its log ends with.
    pub(crate) async fn stop(&mut self) -> Result<(), LoadError> {
        // Without an id it has ended, and was waited for.
        let Some(pid) = self.child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)) else {
            return Ok(());
        };
        let _ = kill_process(pid, Signal::TERM);
        if tokio::time::timeout(STOPS_WITHIN, self.child.wait()).await.is_ok() {
            return Ok(());
        }
        let _ = self.child.kill().await;
        Err(self.failed(&format!("did not stop within {} s of SIGTERM", STOPS_WITHIN.as_secs())))
    }

    /// Where it writes its log.
    pub(crate) fn log(&self) -> &Path {
        &self.log
    }

    /// Allocations so far; none when it is another program, which does not count them.
    ///
    /// # Errors
    /// When it has ended.
    pub(crate) async fn allocations(&mut self) -> Result<Option<u64>, LoadError> {
        let Some((stdin, lines)) = &mut self.allocations else { return Ok(None) };
        stdin.write_all(b"\n").await.map_err(LoadError::io("asking the relay for its allocations"))?;
        let line = lines.next_line().await.map_err(LoadError::io("reading the relay's allocations"))?;
        match line.and_then(|line| line.trim().parse().ok()) {
            Some(count) => Ok(Some(count)),
            None => Err(self.failed("did not say its allocations")),
        }
    }

    fn pid(&self) -> Result<u32, LoadError> {
        self.child.id().ok_or_else(|| self.failed("has ended"))
    }

    fn failed(&self, what: &str) -> LoadError {
        let text = fs::read(&self.log).unwrap_or_default();
        let tail = text.get(text.len().saturating_sub(TAIL_BYTES)..).unwrap_or_default();
        let tail = String::from_utf8_lossy(tail).into_owned();
        LoadError::Relay { name: self.name, what: what.to_owned(), log: self.log.clone(), tail }
    }
}

impl Metrics {
    /// Asks an API for them. They are up to a second old.
    ///
    /// # Errors
    /// When it does not answer.
    pub(crate) async fn of(client: &mut Client) -> Result<Self, LoadError> {
        let body = client.call(Method::GET, "/metrics", Media::Json, Bytes::new()).await?;
        Ok(Self(String::from_utf8_lossy(&body).into_owned()))
    }

    /// The value of the metric with this whole name, summed over its labels. `None` when there is no such metric.
    pub(crate) fn value(&self, name: &str) -> Option<f64> {
        let values = self.samples(name).map(|(_, value)| value);
        values.fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
    }

    /// Its samples: what is between the braces, and the value.
    pub(crate) fn samples(&self, name: &str) -> impl Iterator<Item = (&str, f64)> {
        self.0.lines().filter_map(move |line| {
            let rest = line.strip_prefix(name)?;
            let (labels, rest) = match rest.strip_prefix('{') {
                Some(labels) => labels.rsplit_once('}')?,
                None => ("", rest),
            };
            Some((labels, rest.strip_prefix(' ')?.trim().parse::<f64>().ok()?))
        })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_found_by_its_whole_name_and_summed_over_its_labels() {
        let metrics = Metrics("# TYPE a counter\na 3\nab 5\nb{x=\"1\"} 2\nb{x=\"2\"} 4\n".to_owned());
        assert_eq!(metrics.value("a"), Some(3.0));
        assert_eq!(metrics.value("b"), Some(6.0));
        assert_eq!(metrics.value("c"), None);
        assert_eq!(metrics.samples("b").collect::<Vec<_>>(), [("x=\"1\"", 2.0), ("x=\"2\"", 4.0)]);
    }
}
