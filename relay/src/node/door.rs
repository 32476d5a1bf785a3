//! The TCP port of a node: a thread with the lobby, which hands each connection to the worker of its call.

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd};
use trunkline_relay_proto::{turn, ufrag};

use super::config::{self, NodeConfig, StartError};
use crate::tcp::{Lobby, LobbyCounters, Settings};
use crate::worker::{Command, Mailbox};

/// The thread's other end.
pub(super) struct Door {
    stop: Arc<OwnedFd>,
    counters: Arc<Mutex<LobbyCounters>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Door {
    /// Listens, if the node has a TCP port.
    pub(super) fn open(
        config: &NodeConfig,
        addresses: &[IpAddr],
        workers: Vec<Mailbox>,
    ) -> Result<Option<Self>, StartError> {
        let Some(listener) = config::listen_tcp(config.tcp_port, &config.listen)? else { return Ok(None) };
        let turn = turn::Settings {
            secret: turn::Secret::derive(&config.ufrag_key),
            own: addresses.iter().map(IpAddr::to_canonical).collect(),
        };
        let settings = Settings {
            tls: config.tls.clone(),
            turn: Some(Arc::new(turn)),
            ..Settings::new(ufrag::Key::new(config.ufrag_key))
        };
        let mut lobby = Lobby::new(vec![listener], settings)?;
        let stop =
            Arc::new(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).map_err(io::Error::from)?);
        let counters = Arc::new(Mutex::new(LobbyCounters::default()));
        let node = config.node;
        let thread = {
            let (stop, counters) = (Arc::clone(&stop), Arc::clone(&counters));
            let run = move || {
                while wait(&lobby, &stop) {
                    lobby.turn(
                        Instant::now(),
                        |route| route.node == node && usize::from(route.worker) < workers.len(),
                        |admitted| {
                            let worker = workers.get(usize::from(admitted.route.worker));
                            // A worker that is gone closes the connection by not taking it.
                            worker.map(|worker| {
                                worker.tell(Command::Connection { admitted: Box::new(admitted) })
                            });
                        },
                    );
                    *counters.lock().unwrap_or_else(PoisonError::into_inner) = lobby.counters;
                }
            };
            std::thread::Builder::new().name("lobby".to_owned()).spawn(run)?
        };
        Ok(Some(Self { stop, counters, thread: Mutex::new(Some(thread)) }))
    }

    /// What the lobby counted.
    pub(super) fn counters(&self) -> LobbyCounters {
        *self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes the port and all that waits, and waits for the thread.
    pub(super) fn close(&self) {
        // Only a full counter, which wakes as well, keeps this from being written.
        let _ = rustix::io::write(&*self.stop, &1_u64.to_ne_bytes());
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // A panic was reported when it happened.
            let _ = thread.join();
        }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.close();
    }
}

/// Waits until the lobby has something to do. False when it is to stop.
fn wait(lobby: &Lobby, stop: &OwnedFd) -> bool {
    let timeout = lobby.poll_timeout().map(|at| at.saturating_duration_since(Instant::now()));
    let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
    let mut fds = [PollFd::new(stop, PollFlags::IN), PollFd::new(lobby, PollFlags::IN)];
    // An interrupted wait is a turn without anything to do.
    let _ = rustix::event::poll(&mut fds, timeout.as_ref());
    let [stop, _] = &fds;
    stop.revents().is_empty()
}
