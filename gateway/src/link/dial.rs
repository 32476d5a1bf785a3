//! Dialling: QUIC first, TCP a moment later, and the first that is up wins.

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use quinn::Connection;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use trunkline_common::redact;
use trunkline_gateway_proto::store::PeerKey;

use super::listen::Shared;
use super::tcp::Established;
use super::{LinkEvent, Transport, quic, tcp, tls};

/// How long after one address the next one is tried as well (RFC 8305, section 5, and room for the race of the
/// transports). Shorter finds a working address sooner, and wakes more of them.
const NEXT_ADDRESS: Duration = Duration::from_millis(600);

/// A connection that is up.
enum Up {
    Quic(Connection),
    Tcp(Box<Established>),
}

/// One attempt and when it begins, after the first.
type Attempt = (Duration, SocketAddr, Transport);

/// Whether a peer that TCP reached should be tried over QUIC again.
pub(super) fn quic_due(shared: &Shared, peer: PeerKey) -> bool {
    let reached = shared.reached.lock().unwrap_or_else(PoisonError::into_inner);
    shared.config.quic
        && reached.get(&peer).is_some_and(|(transport, tried)| {
            *transport == Transport::Tcp && tried.elapsed() >= shared.config.quic_probe_interval
        })
}

/// Dials a peer and reports what came of it. A probe is QUIC only, and reports success only.
pub(super) async fn dial(shared: Arc<Shared>, peer: PeerKey, probe: bool) {
    let raced = tokio::select! {
        raced = race(&shared, peer, probe) => raced,
        () = shared.stopping() => Err("stopping".to_owned()),
    };
    shared.dialing.lock().unwrap_or_else(PoisonError::into_inner).remove(&peer);
    match raced {
        Ok(Up::Quic(connection)) => quic::run(shared, connection, Some(peer)).await,
        Ok(Up::Tcp(established)) => tcp::run(shared, *established, Some(peer)).await,
        Err(_) if probe => {}
        Err(reason) => {
            let _ = shared.events.send(LinkEvent::DialFailed { peer, reason }).await;
        }
    }
}

/// What attempts came to: each reason once, with all that failed for it.
#[derive(Debug, Default)]
struct Failures(Vec<(String, String)>);

impl Failures {
    fn note(&mut self, attempt: String, reason: String) {
        match self.0.iter_mut().find(|(_, known)| *known == reason) {
            Some((attempts, _)) => attempts.push_str(&format!(", {attempt}")),
            None => self.0.push((attempt, reason)),
        }
    }
}

impl fmt::Display for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (attempts, reason)) in self.0.iter().enumerate() {
            let separator = if n == 0 { "" } else { "; " };
            write!(f, "{separator}{attempts}: {reason}")?;
        }
        Ok(())
    }
}

async fn race(shared: &Arc<Shared>, peer: PeerKey, probe: bool) -> Result<Up, String> {
    let directory = shared.directory.load_full();
    let record = directory.peer(peer).ok_or("the peer was removed")?;
    let name = record.domain.as_str();
    if tls::server_name(&record.domain).is_none() {
        return Err(format!("{name} is not a DNS name: remove the peer and add it with its right domain"));
    }
    let addresses = shared.resolver.resolve(record).await.map_err(|error| error.to_string())?;
    let mut plan = plan(shared, peer, &addresses, probe);
    let begun = Instant::now();
    let mut running = JoinSet::new();
    let mut failures = Failures::default();
    loop {
        let due = plan.front().map(|(after, ..)| begun + *after);
        if due.is_none() && running.is_empty() {
            return Err(format!("{name} cannot be reached: {failures}"));
        }
        let now = running.is_empty() || due.is_some_and(|due| due <= Instant::now());
        if now && let Some((_, address, transport)) = plan.pop_front() {
            let (shared, name) = (Arc::clone(shared), name.to_owned());
            running.spawn(async move {
                let result = attempt(&shared, peer, &name, address, transport).await;
                (address, transport, result)
            });
            continue;
        }
        tokio::select! {
            Some(done) = running.join_next() => match done {
                Ok((_, transport, Ok(up))) => {
                    remember(shared, peer, transport);
                    return Ok(up);
                }
                Ok((address, transport, Err(reason))) => {
                    let ip = address.ip();
                    let place = format!("{} to {}:{}", label(transport), redact::ip(&ip), address.port());
                    failures.note(place, reason);
                }
                Err(_) => failures.note("an attempt".to_owned(), "failed: this is a defect".to_owned()),
            },
            () = sleep_until(due.unwrap_or(begun)), if due.is_some() => {}
        }
    }
}

async fn attempt(
    shared: &Shared,
    peer: PeerKey,
    name: &str,
    address: SocketAddr,
    transport: Transport,
) -> Result<Up, String> {
    match transport {
        Transport::Quic => quic::connect(shared, peer, name, address).await.map(Up::Quic),
        Transport::Tcp => {
            let established = Box::pin(tcp::connect(shared, peer, name, address)).await?;
            Ok(Up::Tcp(Box::new(established)))
        }
    }
}

/// All attempts, in the order they begin.
fn plan(shared: &Shared, peer: PeerKey, addresses: &[SocketAddr], probe: bool) -> VecDeque<Attempt> {
    let config = &shared.config;
    let mut reached = shared.reached.lock().unwrap_or_else(PoisonError::into_inner);
    let tcp_first = match reached.get_mut(&peer) {
        Some((Transport::Tcp, tried)) if tried.elapsed() < config.quic_probe_interval => true,
        Some((_, tried)) => {
            *tried = Instant::now();
            false
        }
        None => false,
    };
    let order = if tcp_first && !probe {
        [Transport::Tcp, Transport::Quic]
    } else {
        [Transport::Quic, Transport::Tcp]
    };
    let enabled = |transport: &Transport| match transport {
        Transport::Quic => config.quic,
        Transport::Tcp => config.tcp && !probe,
    };
    let order: Vec<_> = order.into_iter().filter(enabled).collect();
    let mut plan = Vec::new();
    for (n, address) in (0_u32..).zip(addresses) {
        for (delay, transport) in [Duration::ZERO, config.quic_head_start].into_iter().zip(&order) {
            plan.push((NEXT_ADDRESS * n + delay, *address, *transport));
        }
    }
    plan.sort_by_key(|(after, ..)| *after);
    plan.into()
}

fn remember(shared: &Shared, peer: PeerKey, transport: Transport) {
    let mut reached = shared.reached.lock().unwrap_or_else(PoisonError::into_inner);
    let entry = reached.entry(peer).or_insert((transport, Instant::now()));
    entry.0 = transport;
    let directory = shared.directory.load();
    reached.retain(|peer, _| directory.peer(*peer).is_some());
}

fn label(transport: Transport) -> &'static str {
    match transport {
        Transport::Quic => "QUIC",
        Transport::Tcp => "TCP",
    }
}
