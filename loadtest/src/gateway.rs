//! One gateway process: made from an empty directory, started, watched, killed, started again.

use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::time::Instant;

use crate::error::LoadError;
use crate::http::{Client, Media};
use crate::procfs::{self, Usage};
use crate::submit::Api;

/// How long a gateway may take to become ready, reading a million envelopes back included.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// How long a gateway may take to stop when it is asked to.
const STOPS_WITHIN: Duration = Duration::from_secs(30);

/// Bytes of a log that are shown when its gateway failed.
const TAIL_BYTES: usize = 3000;

/// The one network of a deployment under load.
pub(crate) const NETWORK: &str = "main";

/// How gateway processes are started.
#[derive(Clone, Debug)]
pub(crate) struct Launcher {
    program: PathBuf,
    prefix: Vec<OsString>,
}

/// Where a gateway listens, and what it tells its peers.
#[derive(Clone, Debug)]
pub(crate) struct Addresses {
    /// The federation port.
    pub federation: SocketAddr,
    /// What peers dial: the federation port itself, or a shaper before it.
    pub advertised: SocketAddr,
    /// The local API.
    pub api: SocketAddr,
    /// The admin API.
    pub admin: SocketAddr,
}

/// A deployment's gateway: its directory, and its process while there is one. Dropping it kills the process.
#[derive(Debug)]
pub(crate) struct Gateway {
    /// Its federation domain, which is its users' domain, too.
    pub domain: String,
    /// Everything it keeps.
    pub dir: PathBuf,
    /// Where it listens.
    pub addresses: Addresses,
    launcher: Launcher,
    child: Option<Child>,
}

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
        Ok(Self { program, prefix: vec!["gateway".into()] })
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.prefix).stdin(Stdio::null()).kill_on_drop(true);
        command
    }
}

impl Gateway {
    /// Makes a deployment in `dir` with `trunkline-gateway init`.
    ///
    /// # Errors
    /// When init fails.
    pub(crate) async fn init(
        launcher: &Launcher,
        dir: PathBuf,
        domain: &str,
        addresses: Addresses,
    ) -> Result<Self, LoadError> {
        let gateway = Self::existing(launcher, dir, domain, addresses);
        let addresses = &gateway.addresses;
        let mut command = launcher.command();
        command.arg("init").arg("--dir").arg(&gateway.dir);
        command.args(["--domain", domain, "--network", NETWORK, "--local-domain", domain]);
        for (flag, address) in [
            ("--listen", addresses.federation),
            ("--advertise", addresses.advertised),
            ("--local-api", addresses.api),
            ("--admin-api", addresses.admin),
        ] {
            command.arg(flag).arg(address.to_string());
        }
        let output = command.output().await.map_err(LoadError::io("starting trunkline-gateway init"))?;
        if output.status.success() {
            return Ok(gateway);
        }
        Err(LoadError::Gateway {
            domain: gateway.domain.clone(),
            what: format!("could not be made: `init` ended with {}", output.status),
            log: "its output".into(),
            tail: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// A gateway whose directory was made otherwise.
    pub(crate) fn existing(launcher: &Launcher, dir: PathBuf, domain: &str, addresses: Addresses) -> Self {
        Self { domain: domain.to_owned(), dir, addresses, launcher: launcher.clone(), child: None }
    }

    /// Starts the process. It may not be ready yet.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn start(&mut self) -> Result<(), LoadError> {
        let log = self.log();
        let open = || fs::OpenOptions::new().create(true).append(true).open(&log);
        let open = || open().map_err(LoadError::io(format!("opening {}", log.display())));
        let mut command = self.launcher.command();
        command.arg("run").arg("--dir").arg(&self.dir).stdout(open()?).stderr(open()?);
        let child =
            command.spawn().map_err(LoadError::io(format!("starting the gateway of {}", self.domain)))?;
        self.child = Some(child);
        Ok(())
    }

    /// Waits until the gateway says that it is ready.
    ///
    /// # Errors
    /// When its process ends, or it takes too long.
    pub(crate) async fn ready(&mut self) -> Result<(), LoadError> {
        let deadline = Instant::now() + READY_WITHIN;
        let mut client = self.admin()?;
        loop {
            if client.call(Method::GET, "/readyz", Media::Json, Bytes::new()).await.is_ok() {
                return Ok(());
            }
            if let Some(status) = self.exited() {
                return Err(self.failed(format!("ended with {status}")));
            }
            if Instant::now() > deadline {
                return Err(self.failed(format!("was not ready within {} s", READY_WITHIN.as_secs())));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Starts the process and waits until it is ready.
    ///
    /// # Errors
    /// As [`Self::start`] and [`Self::ready`].
    pub(crate) async fn up(&mut self) -> Result<(), LoadError> {
        self.start()?;
        self.ready().await
    }

    /// kill -9, and waits until the process is gone. Nothing happens when it runs no more.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) async fn kill(&mut self) -> Result<(), LoadError> {
        if let Some(mut child) = self.child.take() {
            child.kill().await.map_err(LoadError::io(format!("killing the gateway of {}", self.domain)))?;
        }
        Ok(())
    }

    /// Stops the process in the middle of whatever it does, as a machine that stands still for a while does.
    pub(crate) fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on after [`Self::freeze`].
    pub(crate) fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let pid = self.child.as_ref().and_then(|child| Pid::from_raw(i32::try_from(child.id()?).ok()?));
        if let Some(pid) = pid {
            // It may have ended by itself: whoever waits for it is told.
            let _ = kill_process(pid, signal);
        }
    }

    /// Asks the process to stop, and waits until it has.
    ///
    /// # Errors
    /// When it does not stop in time.
    pub(crate) async fn stop(&mut self) -> Result<(), LoadError> {
        self.signal(Signal::TERM);
        let Some(mut child) = self.child.take() else { return Ok(()) };
        match tokio::time::timeout(STOPS_WITHIN, child.wait()).await {
            Ok(_) => Ok(()),
            Err(_) => {
                Err(self.failed(format!("did not stop within {} s of SIGTERM", STOPS_WITHIN.as_secs())))
            }
        }
    }

    /// What the process used so far.
    ///
    /// # Errors
    /// When it does not run.
    pub(crate) fn usage(&self) -> Result<Usage, LoadError> {
        match self.child.as_ref().and_then(Child::id) {
            Some(pid) => procfs::usage(pid),
            None => Err(self.failed("does not run".to_owned())),
        }
    }

    /// A client of its admin API.
    ///
    /// # Errors
    /// When `init` left no token.
    pub(crate) fn admin(&self) -> Result<Client, LoadError> {
        Ok(Client::new(self.addresses.admin, &token(&self.admin_token())?))
    }

    /// Its local API.
    ///
    /// # Errors
    /// When `init` left no token.
    pub(crate) fn api(&self) -> Result<Api, LoadError> {
        Ok(Api { addresses: vec![self.addresses.api], token: token(&self.network_token())? })
    }

    /// The file that holds the admin token.
    pub(crate) fn admin_token(&self) -> PathBuf {
        self.dir.join("admin.token")
    }

    /// The file that holds the network's token.
    pub(crate) fn network_token(&self) -> PathBuf {
        self.dir.join("networks").join(format!("{NETWORK}.token"))
    }

    /// Where it writes its log.
    pub(crate) fn log(&self) -> PathBuf {
        self.dir.join("gateway.log")
    }

    /// Starts the process again when it has ended by itself, as whoever supervises it would. Answers whether it had.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub(crate) fn revive(&mut self) -> Result<bool, LoadError> {
        let ended = self.exited().is_some();
        if ended {
            self.start()?;
        }
        Ok(ended)
    }

    /// Says so when the process has ended by itself.
    ///
    /// # Errors
    /// When it has.
    pub(crate) fn lives(&mut self) -> Result<(), LoadError> {
        self.exited().map_or(Ok(()), |status| Err(self.failed(format!("ended with {status}"))))
    }

    fn exited(&mut self) -> Option<ExitStatus> {
        self.child.as_mut()?.try_wait().ok().flatten()
    }

    fn failed(&self, what: String) -> LoadError {
        let log = self.log();
        let text = fs::read(&log).unwrap_or_default();
        let tail = text.get(text.len().saturating_sub(TAIL_BYTES)..).unwrap_or_default();
        let tail = String::from_utf8_lossy(tail).into_owned();
        LoadError::Gateway { domain: self.domain.clone(), what, log, tail }
    }
}

/// Reads a token's file.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn token(path: &Path) -> Result<String, LoadError> {
    let text = fs::read_to_string(path).map_err(LoadError::io(format!("reading {}", path.display())))?;
    Ok(text.trim().to_owned())
}
