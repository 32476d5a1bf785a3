//! `dead-peers`: most peers of a deployment do not answer; the others must not notice.
//!
//! The live peers are measured without dead ones, with them, and without them again, so that a machine that
//! gets slower or faster meanwhile does not pass for an effect.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

use clap::Args;
use futures_util::future::try_join_all;
use serde::Serialize;
use serde_json::json;
use tokio::net::TcpSocket;
use tokio::sync::watch;
use trunkline_common::token;
use trunkline_gateway_proto::pin::Pin;

use crate::error::LoadError;
use crate::fleet;
use crate::gateway::{Gateway, NETWORK};
use crate::ledger::Verdict;
use crate::messaging::MessagingServer;
use crate::progress::Progress;
use crate::report::round;
use crate::submit::Plan;
use crate::{Common, Judged};

/// How long the dead peers are given to be dialled before the measurement, so that it sees them as they are most
/// of the time, and some of their dials as well.
const SETTLE: Duration = Duration::from_secs(2);

/// How many peers, and how many of them dead.
#[derive(Clone, Debug, Args)]
pub(crate) struct DeadPeersArgs {
    /// Peers in all.
    #[arg(long, default_value_t = 200)]
    peers: u32,
    /// Share of them that is dead. Each live one is a process: more than 20 do not fit the ports of a scenario.
    #[arg(long, default_value_t = 0.95)]
    dead: f64,
    /// Envelopes of each measurement, to all live peers together.
    #[arg(long, default_value_t = 200_000)]
    count: u64,
    /// Envelopes that wait for each dead peer.
    #[arg(long, default_value_t = 100)]
    waiting: u64,
    /// Payload bytes.
    #[arg(long, default_value_t = 1024)]
    size: usize,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct DeadPeersReport {
    scenario: &'static str,
    peers: u32,
    live: u32,
    dead: u32,
    waiting_for_the_dead: u64,
    size: usize,
    filesystem: &'static str,
    build: &'static str,
    /// With dead peers over without.
    throughput_ratio: f64,
    /// Mean of the measurements before and after.
    envelopes_per_s_without: f64,
    envelopes_per_s_before: f64,
    envelopes_per_s_with: f64,
    envelopes_per_s_after: f64,
    lost: u64,
    duplicated: u64,
    reordered: u64,
    corrupted: u64,
}

/// A peer that never answers. Keeps its ports.
#[derive(Debug)]
struct DeadPeer {
    domain: String,
    endpoint: SocketAddr,
    _sockets: Sockets,
}

#[derive(Debug)]
#[expect(dead_code, reason = "held so that nobody else gets the port")]
enum Sockets {
    /// Takes everything and says nothing: datagrams vanish, TCP connects and then waits.
    Silent(UdpSocket, TcpListener),
    /// Refuses: both ports are closed.
    Closed(UdpSocket, TcpSocket),
}

/// Runs it.
///
/// # Errors
/// When it cannot be carried out.
pub(crate) async fn run(common: &Common, args: &DeadPeersArgs) -> Result<DeadPeersReport, LoadError> {
    let (live, dead) = shares(args)?;
    let mut fleet = common.fleet()?;
    let alpha = fleet.deploy("alpha.test").await?;
    let mut gateways = Vec::new();
    for number in 0..live {
        let gateway = fleet.deploy(&format!("live-{number}.test")).await?;
        fleet::peer(&alpha, &gateway).await?;
        gateways.push(gateway);
    }
    let sender = MessagingServer::start(&alpha)?;
    let receivers = gateways.iter().map(MessagingServer::start).collect::<Result<Vec<_>, _>>()?;

    let (before, verdict_before) = measure(&sender, &receivers, args, "before").await?;
    let dead_peers = (0..dead).map(DeadPeer::new).collect::<Result<Vec<_>, _>>()?;
    for peer in &dead_peers {
        peer.add_to(&alpha).await?;
        queue(&sender, peer, args).await?;
    }
    tokio::time::sleep(SETTLE).await;
    let (with, verdict_with) = measure(&sender, &receivers, args, "with dead peers").await?;
    for peer in &dead_peers {
        fleet::delete(&alpha, &format!("/admin/v1/peers/{}", peer.domain)).await?;
    }
    let (after, verdict_after) = measure(&sender, &receivers, args, "after").await?;

    let without = f64::midpoint(before, after);
    let verdict = verdict_before + verdict_with + verdict_after;
    Ok(DeadPeersReport {
        scenario: "dead-peers",
        peers: live + dead,
        live,
        dead,
        waiting_for_the_dead: args.waiting * u64::from(dead),
        size: args.size,
        filesystem: fleet::filesystem(fleet.root()),
        build: crate::BUILD,
        throughput_ratio: round(with / without),
        envelopes_per_s_without: round(without),
        envelopes_per_s_before: round(before),
        envelopes_per_s_with: round(with),
        envelopes_per_s_after: round(after),
        lost: verdict.lost,
        duplicated: verdict.duplicated,
        reordered: verdict.reordered,
        corrupted: verdict.corrupted,
    })
}

/// How many peers live, and how many do not.
fn shares(args: &DeadPeersArgs) -> Result<(u32, u32), LoadError> {
    if !(0.0..1.0).contains(&args.dead) {
        return Err(LoadError::Usage(format!("--dead {} is no share: expected 0 to 0.99", args.dead)));
    }
    let live =
        (1..=args.peers).find(|live| f64::from(*live) >= f64::from(args.peers) * (1.0 - args.dead) - 1e-9);
    match live {
        Some(live) if live <= 20 => Ok((live, args.peers - live)),
        Some(live) => Err(LoadError::Usage(format!("{live} live peers are more than 20: raise --dead"))),
        None => Err(LoadError::Usage("--peers must be at least 1".to_owned())),
    }
}

/// Sends to all live peers at once. Answers envelopes per second over all of them, from the first submission to
/// the last arrival.
async fn measure(
    sender: &MessagingServer,
    receivers: &[MessagingServer],
    args: &DeadPeersArgs,
    what: &'static str,
) -> Result<(f64, Verdict), LoadError> {
    let peers = receivers.len() as u64;
    let count = args.count.div_ceil(peers);
    let progress = Progress::new(what, count * peers);
    let plan = Plan { batch: 64, connections: 2, under_way_max: 32_768 / peers, ..Plan::full_speed(count) };
    let exchanges = receivers.iter().map(|receiver| async {
        let ledger = sender.flow_to(receiver, 100, args.size)?;
        let exchange = sender.exchange(receiver, &ledger, plan).await?;
        progress.advance(count);
        Ok::<_, LoadError>(exchange)
    });
    let done = try_join_all(exchanges).await?;
    let first_us = done.iter().map(|exchange| exchange.submitted.first_us).min().unwrap_or(0);
    let last_us = done.iter().map(|exchange| exchange.outcome.last_us).max().unwrap_or(0);
    let total: u64 = done.iter().map(|exchange| exchange.submitted.total).sum();
    let elapsed = Duration::from_micros(last_us.saturating_sub(first_us).max(1));
    let foreign: u64 = receivers.iter().map(|receiver| receiver.inbox.foreign()).sum();
    let mut verdict = done.iter().fold(Verdict::default(), |sum, exchange| sum + exchange.verdict);
    verdict.corrupted += foreign;
    Ok((total as f64 / elapsed.as_secs_f64(), verdict))
}

/// Hands in what waits for a dead peer.
async fn queue(sender: &MessagingServer, peer: &DeadPeer, args: &DeadPeersArgs) -> Result<(), LoadError> {
    let ledger = sender.flow_to_domain(&peer.domain, 10, args.size)?;
    let (_running, stop) = watch::channel(false);
    let plan = Plan { connections: 1, under_way_max: u64::MAX, ..Plan::full_speed(args.waiting) };
    sender.submit(&ledger, plan, stop).await?;
    Ok(())
}

impl DeadPeer {
    fn new(number: u32) -> Result<Self, LoadError> {
        let failed = || LoadError::io("binding the ports of a dead peer");
        // The kernel seldom has a port that is free for one protocol and not for the other.
        for _ in 0..100 {
            let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed())?;
            let endpoint = udp.local_addr().map_err(failed())?;
            let sockets = if number.is_multiple_of(2) {
                TcpListener::bind(endpoint).map(|tcp| Sockets::Silent(udp, tcp))
            } else {
                // Connected elsewhere, the socket keeps the port and the kernel still answers that it is closed.
                let tcp = TcpSocket::new_v4().map_err(failed())?;
                udp.connect((Ipv4Addr::LOCALHOST, 9)).map_err(failed())?;
                tcp.bind(endpoint).map(|()| Sockets::Closed(udp, tcp))
            };
            if let Ok(sockets) = sockets {
                return Ok(Self { domain: format!("dead-{number}.test"), endpoint, _sockets: sockets });
            }
        }
        Err(LoadError::Usage("no port of 127.0.0.1 is free for both UDP and TCP".to_owned()))
    }

    async fn add_to(&self, gateway: &Gateway) -> Result<(), LoadError> {
        let peer = json!({
            "domain": self.domain,
            "pins": [Pin::from_bytes(token::random())],
            "api_key": trunkline_gateway_proto::key::ApiKey::generate().to_text(),
            "endpoints": [self.endpoint.to_string()],
            "local_domains": [{ "domain": self.domain, "network": NETWORK }],
            "allow_private_ips": true,
        });
        fleet::post(gateway, "/admin/v1/peers", &peer).await?;
        Ok(())
    }
}

impl Judged for DeadPeersReport {
    fn flawless(&self) -> bool {
        self.lost + self.duplicated + self.reordered + self.corrupted == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(peers: u32, dead: f64) -> DeadPeersArgs {
        DeadPeersArgs { peers, dead, count: 1, waiting: 1, size: 24 }
    }

    #[test]
    fn nineteen_of_twenty_are_dead_exactly() {
        assert_eq!(shares(&args(200, 0.95)).unwrap(), (10, 190));
        assert_eq!(shares(&args(20, 0.9)).unwrap(), (2, 18));
        assert_eq!(shares(&args(1, 0.0)).unwrap(), (1, 0));
        assert!(shares(&args(200, 0.5)).is_err() && shares(&args(0, 0.5)).is_err());
    }

    #[tokio::test]
    async fn a_closed_port_refuses_and_a_silent_one_does_not_answer() {
        let (silent, closed) = (DeadPeer::new(0).unwrap(), DeadPeer::new(1).unwrap());
        assert!(tokio::net::TcpStream::connect(silent.endpoint).await.is_ok());
        assert!(tokio::net::TcpStream::connect(closed.endpoint).await.is_err());
        let udp = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        udp.connect(closed.endpoint).await.unwrap();
        udp.send(&[0]).await.unwrap();
        let refused = udp.recv(&mut [0]).await.unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    }
}
