//! A slow, lossy, breakable network between real sockets on loopback, in user space: for machines whose kernel
//! has no netem, and for tests that change the weather while they run.
//!
//! A [`Shaper`] listens on one port of 127.0.0.1, UDP and TCP, and forwards to a target. Each protocol has a
//! [`Profile`] per direction, which can be changed at any time. Decisions are drawn from the seed: the n-th
//! datagram of a direction meets the same fate in every run with the same profile.
//!
//! It runs on a thread of its own, so it serves threads and any async runtime alike, paused clocks included.
//! Delays are exact to about a millisecond, and never too short.
//!
//! # Layout
//! - `profile`: what a test says about the network
//! - `pipe`: one direction of one protocol: when does what arrive
//! - `udp`, `tcp`: the sockets

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use tokio::runtime;
use tokio::sync::watch;
use tokio::task::LocalSet;

mod pipe;
mod profile;
mod tcp;
mod udp;

use pipe::Counters;
pub use profile::{Cut, Direction, Profile, Protocol, Rate, Stats, Which};
use profile::{Settings, index};

use crate::rng::Rng;

/// How often to look for a port that is free for both protocols. Only other programs' luck makes it try again.
const BIND_ATTEMPTS: usize = 32;

/// A network between whoever connects to [`Shaper::addr`] and its target. Dropping it ends all connections.
#[derive(Debug)]
pub struct Shaper {
    addr: SocketAddr,
    settings: watch::Sender<Settings>,
    counters: [[Arc<Counters>; 2]; 2],
    thread: Option<JoinHandle<()>>,
}

impl Shaper {
    /// Starts a perfect network in front of `target`, which does not have to listen yet.
    ///
    /// # Errors
    /// When no socket can be bound or no thread started.
    pub fn start(target: SocketAddr, seed: u64) -> io::Result<Self> {
        let (tcp_listener, udp_socket) = bind()?;
        let addr = tcp_listener.local_addr()?;
        // Set up before anybody can send: a burst would overflow a socket of ordinary size.
        let udp_front = udp::Front::new(udp_socket)?;
        let (settings, watcher) = watch::channel(Settings::new(target));
        let counters: [[Arc<Counters>; 2]; 2] = Default::default();
        let counted = counters.clone();
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = thread::Builder::new().name("shaper".into()).spawn(move || {
            let local = LocalSet::new();
            let mut stopping = watcher.clone();
            runtime.block_on(local.run_until(async {
                let mut rng = Rng::new(seed);
                let [udp_counters, tcp_counters] = counted;
                // Sockets that were set up above register with this runtime without fail.
                if let Ok(udp) = udp::Udp::new(udp_front, watcher.clone(), udp_counters, &mut rng) {
                    Rc::new(udp).start();
                }
                if let Ok(tcp) = tcp::Tcp::new(tcp_listener, watcher, tcp_counters, &mut rng) {
                    tcp.start();
                }
                // An error means that the handle is gone.
                let _ = stopping.wait_for(|settings| settings.stopping).await;
            }));
        })?;
        Ok(Self { addr, settings, counters, thread: Some(thread) })
    }

    /// Where clients connect to, with UDP as with TCP.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Forwards to another address from now on: datagrams at once, TCP with the next connection. For a target
    /// that came back on another port.
    pub fn set_target(&self, target: SocketAddr) {
        self.settings.send_modify(|settings| settings.target = target);
    }

    /// Replaces profiles. What is already on its way keeps its time of arrival.
    pub fn set(&self, which: Which, profile: Profile) {
        self.change(which, |old| *old = profile);
    }

    /// Changes profiles in part.
    pub fn change(&self, which: Which, mut change: impl FnMut(&mut Profile)) {
        self.settings.send_modify(|settings| {
            for (protocol, direction) in which.covers() {
                change(settings.profile_mut(protocol, direction));
            }
        });
    }

    /// Cuts, or heals with [`Cut::Open`].
    pub fn cut(&self, which: Which, cut: Cut) {
        self.change(which, |profile| profile.cut = cut);
    }

    /// Resets every TCP connection that is open now. New ones are let through.
    pub fn reset_connections(&self) {
        self.settings.send_modify(|settings| settings.resets += 1);
    }

    /// What a direction of a protocol has carried so far.
    #[must_use]
    pub fn stats(&self, protocol: Protocol, direction: Direction) -> Stats {
        let (protocol, direction) = index(protocol, direction);
        self.counters[protocol][direction].read()
    }
}

impl Drop for Shaper {
    fn drop(&mut self) {
        self.settings.send_modify(|settings| settings.stopping = true);
        if let Some(thread) = self.thread.take() {
            // A shaper that panicked has shown itself to the test as a dead network.
            let _ = thread.join();
        }
    }
}

/// Binds both protocols to the same port.
fn bind() -> io::Result<(TcpListener, UdpSocket)> {
    let mut attempts = 0;
    loop {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        match UdpSocket::bind(tcp.local_addr()?) {
            Ok(udp) => {
                tcp.set_nonblocking(true)?;
                return Ok((tcp, udp));
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && attempts < BIND_ATTEMPTS => {
                attempts += 1;
            }
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests;
