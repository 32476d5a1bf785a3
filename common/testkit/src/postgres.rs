//! A PostgreSQL server for tests and measurements: the machine's own binaries, on loopback, on a port and a directory of
//! its own.
//!
//! A test run shares one ([`shared`]); a test that stops its server has one for itself ([`Server::start`]); who measures
//! says where it is and what it takes care of ([`Server::make`]), and may give it a [`standby`]. `initdb` refuses to run
//! as root, so there they run as the user `postgres`, or `nobody`.

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

pub mod proxy;
pub mod standby;

/// Where Debian keeps its versions of PostgreSQL.
const DEBIAN: &str = "/usr/lib/postgresql";

/// The oldest version that will do.
const VERSION_MIN: u32 = 15;

/// The server's administrator, whose password is [`PASSWORD`].
pub const USER: &str = "keeper";

/// The only password.
pub const PASSWORD: &str = "not a secret, 'quoted'";

/// Ports tried before giving up: another process may take one between our look and the server's.
const PORTS_MAX: usize = 10;

/// What a server takes care of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Care {
    /// Survives the end of its processes, which is all that tests do to it: nothing is synced, and it is small.
    Quick,
    /// Survives the machine's end, and is sized for load, as in production.
    Durable,
}

/// What becomes of a server when it is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Afterwards {
    /// It is somebody else's.
    Runs,
    /// It ends, and its data stays.
    Ends,
    /// It ends, and its data goes.
    Vanishes,
}

/// A server. Dropping it ends it at once; see [`Server::start`] and [`Server::make`] for what becomes of its data.
#[derive(Debug)]
pub struct Server {
    dir: PathBuf,
    port: u16,
    care: Care,
    afterwards: Afterwards,
}

/// The server of this test run, with a new empty database in it.
#[must_use]
pub fn shared() -> &'static Server {
    static SHARED: OnceLock<Server> = OnceLock::new();
    SHARED.get_or_init(|| Server::join().unwrap_or_else(|error| missing(&error)))
}

#[allow(clippy::panic, reason = "only tests call this")]
fn missing(error: &io::Error) -> ! {
    panic!("no PostgreSQL server: {error}; `apt-get install postgresql` has what is needed")
}

impl Server {
    /// A server of one's own, whose data goes with it.
    #[must_use]
    pub fn start() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let number = LAST.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("trunkline-postgres-{}-{number}", std::process::id()));
        Self::start_in(&dir).unwrap_or_else(|error| missing(&error))
    }

    /// A server in a directory that is not there yet, on a port of the caller's choice. Its data outlives it; it ends
    /// with this process even when that is killed.
    ///
    /// # Errors
    /// When there are no binaries, the server's user may not enter the directory, or the server does not start.
    pub fn make(dir: &Path, port: u16, care: Care) -> io::Result<Self> {
        let server = Self { dir: dir.to_owned(), port, care, afterwards: Afterwards::Ends };
        server.found()?;
        server.run()?;
        server.watch(std::process::id())?;
        Ok(server)
    }

    /// The process that all others of the server are children of; `None` while it does not run.
    #[must_use]
    pub fn postmaster(&self) -> Option<u32> {
        let file = fs::read_to_string(self.dir.join("data/postmaster.pid")).ok()?;
        file.lines().next()?.trim().parse().ok()
    }

    /// Where it listens, on loopback.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Makes an empty database; its name.
    #[must_use]
    pub fn database(&self) -> String {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let name = format!("t{}_{}", std::process::id(), LAST.fetch_add(1, Ordering::Relaxed));
        self.query("postgres", &format!("CREATE DATABASE {name}"));
        name
    }

    /// The address of a database, as `postgres://user@host:port/database`.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!("postgres://{USER}@127.0.0.1:{}/{database}", self.port)
    }

    /// Runs SQL as the administrator; what it answers, a line for each row, with `|` between columns.
    ///
    /// # Panics
    /// When it fails.
    #[must_use]
    pub fn answer(&self, database: &str, sql: &str) -> String {
        self.ask(database, sql).unwrap_or_else(|error| missing(&error))
    }

    /// The same as [`Self::answer`], for who has something better to do about a failure than to end.
    ///
    /// # Errors
    /// When the server does not answer, or refuses.
    pub fn ask(&self, database: &str, sql: &str) -> io::Result<String> {
        let port = self.port.to_string();
        let mut psql = self.command("psql");
        psql.env("PGPASSWORD", PASSWORD).args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"]);
        psql.args(["-h", "127.0.0.1", "-p", &port, "-U", USER, "-d", database, "-c", sql]);
        let output = run(&mut psql)?;
        Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    }

    /// The same, for what answers nothing.
    ///
    /// # Panics
    /// When it fails.
    pub fn query(&self, database: &str, sql: &str) {
        let _ = self.answer(database, sql);
    }

    /// Ends it as a crash would: `pg_ctl stop -m immediate`.
    ///
    /// # Panics
    /// When it does not end.
    pub fn crash(&self) {
        self.end().unwrap_or_else(|error| missing(&error));
    }

    /// The same as [`Self::crash`], for who has something better to do about a failure than to end.
    ///
    /// # Errors
    /// When it does not end.
    pub fn end(&self) -> io::Result<()> {
        self.control(&["stop", "-m", "immediate"])
    }

    /// Starts it again after [`Self::crash`], on the same port.
    ///
    /// # Panics
    /// When it does not start.
    pub fn restart(&self) {
        self.run().unwrap_or_else(|error| missing(&error));
    }

    /// Joins the server that the first process of this test run started, or starts it. Whatever ends last, the
    /// server goes with the process that runs the tests.
    fn join() -> io::Result<Self> {
        let (run, runner) = match std::env::var("NEXTEST_RUN_ID") {
            // One process for each test: the runner outlives them.
            Ok(run) => (run, std::os::unix::process::parent_id()),
            Err(_) => (std::process::id().to_string(), std::process::id()),
        };
        let dir = std::env::temp_dir().join(format!("trunkline-postgres-{run}"));
        let lock_file = dir.with_extension("lock");
        let lock = File::create(&lock_file)?;
        lock.lock()?;
        let port = dir.join("port");
        if let Some(port) = fs::read_to_string(&port).ok().and_then(|port| port.parse().ok()) {
            return Ok(Self { dir, port, care: Care::Quick, afterwards: Afterwards::Runs });
        }
        let mut server = Self::start_in(&dir)?;
        server.afterwards = Afterwards::Runs;
        if let Some((user, group)) = other_user() {
            chown(&lock_file, Some(user), Some(group))?;
        }
        server.watch(runner)?;
        File::create(port)?.write_all(server.port.to_string().as_bytes())?;
        Ok(server)
    }

    fn start_in(dir: &Path) -> io::Result<Self> {
        let mut server =
            Self { dir: dir.to_owned(), port: 0, care: Care::Quick, afterwards: Afterwards::Vanishes };
        server.found()?;
        let mut tried = Ok(());
        for _ in 0..PORTS_MAX {
            server.port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
            tried = server.run();
            if tried.is_ok() {
                break;
            }
        }
        tried.map(|()| server)
    }

    /// Makes its directory, and an empty cluster in it.
    fn found(&self) -> io::Result<()> {
        self.make_dir()?;
        let mut initdb = self.command("initdb");
        initdb.arg("-D").arg(self.data()).arg(format!("--pwfile={}", self.dir.join("password").display()));
        initdb.args(["-U", USER, "-A", "scram-sha-256", "-E", "UTF8", "--locale=C", "--no-sync"]);
        run(&mut initdb).map(drop)
    }

    fn make_dir(&self) -> io::Result<()> {
        let dir = &self.dir;
        fs::create_dir(dir)?;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o711))?;
        fs::write(dir.join("password"), PASSWORD)?;
        fs::create_dir(self.data())?;
        fs::set_permissions(self.data(), fs::Permissions::from_mode(0o700))?;
        if let Some((user, group)) = other_user() {
            for path in [dir.clone(), self.data(), dir.join("password")] {
                chown(path, Some(user), Some(group))?;
            }
        }
        Ok(())
    }

    fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Starts it, on its port.
    ///
    /// # Errors
    /// When it does not start.
    pub fn run(&self) -> io::Result<()> {
        let care = match self.care {
            // It is the machine that may not crash, not the server.
            Care::Quick => "-c fsync=off -c shared_buffers=32MB",
            // A quarter of a small server's memory, and checkpoints that time calls for, not the load.
            Care::Durable => "-c shared_buffers=256MB -c max_wal_size=4GB -c checkpoint_timeout=5min",
        };
        let options = format!(
            "-p {} -c listen_addresses=127.0.0.1,127.0.0.2 -c unix_socket_directories= -c max_connections=200 {care} {}",
            self.port,
            standby::OPTIONS
        );
        let log = self.dir.join("log");
        self.control(&["start", "-l", &log.display().to_string(), "-o", &options])
    }

    /// Has it take TLS from now on, with a certificate and its key in PEM.
    ///
    /// # Panics
    /// When it does not.
    pub fn encrypt(&self, certificate: &str, key: &str) {
        let given = [("server.crt", certificate), ("server.key", key)].iter().try_for_each(|(name, text)| {
            let path = self.data().join(name);
            fs::write(&path, text)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
            other_user().map_or(Ok(()), |(user, group)| chown(&path, Some(user), Some(group)))
        });
        given.unwrap_or_else(|error| missing(&error));
        self.query("postgres", "ALTER SYSTEM SET ssl = on");
        self.query("postgres", "SELECT pg_reload_conf()");
    }

    fn control(&self, arguments: &[&str]) -> io::Result<()> {
        let mut control = self.command("pg_ctl");
        control.arg("-D").arg(self.data()).arg("-w").args(arguments);
        run(&mut control).map(drop)
    }

    /// Leaves somebody behind who ends the server when the process `runner` is gone.
    fn watch(&self, runner: u32) -> io::Result<()> {
        let stop = bin()?.join("pg_ctl");
        let (dir, stop) = (self.dir.display(), stop.display());
        let remove = match self.afterwards {
            Afterwards::Ends => String::new(),
            Afterwards::Runs | Afterwards::Vanishes => format!("rm -rf '{dir}' '{dir}.lock'"),
        };
        let script = format!(
            "while [ -d /proc/{runner} ]; do sleep 0.2; done; {stop} -D '{dir}/data' -m immediate stop; {remove}"
        );
        let mut watcher = self.command("/bin/sh");
        watcher.args(["-c", &script]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        watcher.process_group(0).spawn().map(drop)
    }

    /// One of the server's programs, run by a user that it accepts.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(bin().unwrap_or_default().join(program));
        command.current_dir(&self.dir).env("LC_ALL", "C");
        if let Some((user, group)) = other_user() {
            command.uid(user).gid(group);
        }
        command
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.afterwards != Afterwards::Runs {
            self.end().ok();
        }
        if self.afterwards == Afterwards::Vanishes {
            fs::remove_dir_all(&self.dir).ok();
        }
    }
}

/// The newest version's programs.
fn bin() -> io::Result<PathBuf> {
    let versions = fs::read_dir(DEBIAN)?.filter_map(Result::ok);
    let versions = versions.filter_map(|version| version.file_name().to_str()?.parse::<u32>().ok());
    let newest = versions.filter(|version| *version >= VERSION_MIN).max();
    let newest =
        newest.ok_or_else(|| io::Error::other(format!("no version from {VERSION_MIN} on is there")))?;
    Ok(Path::new(DEBIAN).join(newest.to_string()).join("bin"))
}

/// Who else runs the server, when we are root: user and group.
fn other_user() -> Option<(u32, u32)> {
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let user = |name: &str| {
        let mut fields =
            users.lines().map(|line| line.split(':')).find(|line| line.clone().next() == Some(name))?;
        Some((fields.nth(2)?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    let ours = fs::metadata("/proc/self").map(|own| std::os::unix::fs::MetadataExt::uid(&own)).ok()?;
    if ours == 0 { user("postgres").or_else(|| user("nobody")) } else { None }
}

fn run(command: &mut Command) -> io::Result<Output> {
    // A server that stays must not keep our pipes open.
    let starts = command.get_args().any(|argument| argument == "start");
    command.stdin(Stdio::null());
    let output = if starts {
        let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status()?;
        Output { status, stdout: Vec::new(), stderr: Vec::new() }
    } else {
        command.output()?
    };
    if output.status.success() {
        return Ok(output);
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(io::Error::other(format!("{}: {said}", command.get_program().display())))
}
