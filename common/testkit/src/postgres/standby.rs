//! A standby that follows a server, and takes its place.
//!
//! Once [`Server::wait_for_standby`] was called, nothing is acknowledged that the standby does not have on its disk, so that
//! a promotion loses nothing.

use std::fs;
use std::io;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::{Afterwards, PASSWORD, Server, USER, run};

/// What every server is started with, as any may become either. A standby looks for its primary often, and finds what it
/// missed while that was away.
pub(super) const OPTIONS: &str = "-c wal_retrieve_retry_interval=100ms -c wal_keep_size=512MB";

/// How long a standby may take to have all that its primary has.
const CATCHES_UP_WITHIN: Duration = Duration::from_secs(60);

/// Pause between two looks at it.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

impl Server {
    /// Makes a standby of this server, in a directory that is not there yet.
    ///
    /// # Errors
    /// When the copy fails, or the standby does not start.
    pub fn standby(&self, dir: &Path, port: u16) -> io::Result<Self> {
        let standby = Self { dir: dir.to_owned(), port, care: self.care, afterwards: Afterwards::Ends };
        standby.make_dir()?;
        standby.copy(self)?;
        standby.watch(std::process::id())?;
        Ok(standby)
    }

    /// Becomes a standby of another server: all that it had goes. It does not run when this is called.
    ///
    /// # Errors
    /// As [`Self::standby`].
    pub fn follow(&self, primary: &Self) -> io::Result<()> {
        for entry in fs::read_dir(self.data())? {
            let path = entry?.path();
            if path.is_dir() { fs::remove_dir_all(&path)? } else { fs::remove_file(&path)? }
        }
        self.copy(primary)
    }

    /// A standby becomes a primary. It waits for no standby of its own until it is told to.
    ///
    /// # Errors
    /// When it is none, or takes too long.
    pub fn promote(&self) -> io::Result<()> {
        self.control(&["promote"])?;
        self.wait_for_no_standby()
    }

    /// From now on nothing is acknowledged that the standby does not have. Blocks until it has all there is.
    ///
    /// # Errors
    /// When it does not follow.
    #[allow(clippy::disallowed_methods, reason = "another process is waited for")]
    pub fn wait_for_standby(&self) -> io::Result<()> {
        self.set_standbys("*")?;
        let deadline = Instant::now() + CATCHES_UP_WITHIN;
        let all = self.ask("postgres", "SELECT pg_current_wal_flush_lsn()")?;
        let follows = format!(
            "SELECT coalesce(bool_or(sync_state = 'sync' AND flush_lsn >= '{all}'), false) FROM pg_stat_replication"
        );
        while self.ask("postgres", &follows)? != "t" {
            if Instant::now() > deadline {
                return Err(io::Error::other("the standby does not follow"));
            }
            sleep(LOOK_AGAIN);
        }
        Ok(())
    }

    /// From now on everything is acknowledged as soon as this server has it.
    ///
    /// # Errors
    /// When it does not run.
    pub fn wait_for_no_standby(&self) -> io::Result<()> {
        self.set_standbys("")
    }

    fn set_standbys(&self, names: &str) -> io::Result<()> {
        // ALTER SYSTEM runs in no transaction, so each is a request of its own.
        self.ask("postgres", &format!("ALTER SYSTEM SET synchronous_standby_names = '{names}'"))?;
        self.ask("postgres", "SELECT pg_reload_conf()").map(drop)
    }

    fn copy(&self, primary: &Self) -> io::Result<()> {
        let mut copy = self.command("pg_basebackup");
        copy.env("PGPASSWORD", PASSWORD).args([
            "-h",
            "127.0.0.1",
            "-p",
            &primary.port.to_string(),
            "-U",
            USER,
        ]);
        // Not synced: only processes end here, and the log that follows is.
        copy.args(["-c", "fast", "-X", "stream", "-R", "-N", "-D"]).arg(self.data());
        run(&mut copy)?;
        self.run()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Care, Server};

    #[test]
    fn what_was_acknowledged_is_on_the_standby_that_takes_over_and_the_old_primary_follows_it() {
        let first = Server::start();
        let dir = std::env::temp_dir().join(format!("trunkline-standby-{}", std::process::id()));
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let second = first.standby(&dir, port).unwrap();
        assert_eq!(second.care, Care::Quick);
        first.wait_for_standby().unwrap();
        first.query("postgres", "CREATE TABLE t AS SELECT 7 AS x");
        first.end().unwrap();
        second.promote().unwrap();
        assert_eq!(second.answer("postgres", "SELECT x FROM t"), "7");
        first.follow(&second).unwrap();
        second.wait_for_standby().unwrap();
        second.query("postgres", "UPDATE t SET x = 8");
        second.end().unwrap();
        first.promote().unwrap();
        assert_eq!(first.answer("postgres", "SELECT x FROM t"), "8");
        drop(second);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
