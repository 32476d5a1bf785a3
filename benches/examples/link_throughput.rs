//! A link by itself: envelopes of 1 KiB on 16 lanes from one end to the other, within a credit that the receiver
//! renews, over a network of any delay and loss. What a gateway adds on top (its core, its disk) is not in it.
//! Arguments: `[quic|tcp] [rtt ms] [loss] [cubic|bbr] [seconds] [credit in MiB]`.

#![allow(clippy::print_stdout, reason = "it is run to be read")]
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use tokio::sync::mpsc;
use trunkline_gateway::identity::Identity;
use trunkline_gateway::link::{Congestion, LinkCommand, LinkConfig, LinkEvent, LinkSender, Links, Transport};
use trunkline_gateway_proto::directory::{Directory, PeerRecord, PeerState, Trust};
use trunkline_gateway_proto::frame::Channel;
use trunkline_gateway_proto::pin::{Pin, PinSet};
use trunkline_gateway_proto::store::{LANES, Lane, PeerKey};
use trunkline_gateway_proto::time::Time;
use trunkline_gateway_proto::wire::frame::Body;
use trunkline_gateway_proto::wire::{Credit, Data, Item, Ping, item};
use trunkline_testkit::shaper::{Profile, Shaper, Which};

const PEER: PeerKey = PeerKey(1);

/// Bytes of one envelope.
const ENVELOPE_BYTES: usize = 1024;

/// Envelopes in one frame, as the core batches them under load.
const BATCH: usize = 64;

struct Side {
    identity: Arc<Identity>,
    directory: Arc<ArcSwap<Directory>>,
    links: Links,
    events: mpsc::Receiver<LinkEvent>,
    _dir: tempfile::TempDir,
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let text = |n: usize, default: &str| args.get(n).map_or(default, String::as_str).to_owned();
    let transport = if text(0, "quic") == "tcp" { Transport::Tcp } else { Transport::Quic };
    let rtt_ms: u64 = text(1, "0").parse().expect("a round trip in milliseconds");
    let loss: f64 = text(2, "0").parse().expect("a share of packets, 0 to 1");
    let congestion = if text(3, "bbr") == "cubic" { Congestion::Cubic } else { Congestion::Bbr };
    let seconds: u64 = text(4, "10").parse().expect("seconds");
    let credit = text(5, "32").parse::<u64>().expect("mebibytes") << 20;
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(run(transport, rtt_ms, loss, congestion, Duration::from_secs(seconds), credit));
}

async fn run(
    transport: Transport,
    rtt_ms: u64,
    loss: f64,
    congestion: Congestion,
    time: Duration,
    credit: u64,
) {
    let mut alpha = side("alpha.test", transport, congestion).await;
    let mut beta = side("beta.test", transport, congestion).await;
    let shaper = Shaper::start(beta.links.local_addr(), 1).expect("a shaper");
    // Before the handshake: a path whose delay jumps afterwards is another experiment.
    shaper.set(Which::All, Profile { delay: Duration::from_millis(rtt_ms / 2), loss, ..Profile::default() });
    let direct = rtt_ms == 0 && loss == 0.0;
    let endpoint = if direct { beta.links.local_addr() } else { shaper.addr() };
    knows(&alpha, "beta.test", beta.identity.current().pin(), endpoint.to_string());
    knows(&beta, "alpha.test", alpha.identity.current().pin(), String::new());
    alpha.links.dial(PEER);
    let near = opened(&mut alpha).await;
    let far = opened(&mut beta).await;
    send(&near, Channel::Control, Body::Ping(Ping { nonce: 1 }));

    let receiver = tokio::spawn(async move {
        let mut granted = 0;
        let mut received = 0_u64;
        while let Some(event) = beta.events.recv().await {
            let LinkEvent::Frame { body: Body::Data(data), .. } = event else { continue };
            received += (data.items.len() * ENVELOPE_BYTES) as u64;
            if received - granted >= credit / 8 {
                granted = received;
                send(&far, Channel::Control, Body::Credit(Credit { bytes: granted + credit, messages: 0 }));
            }
        }
    });

    let payload = Bytes::from(vec![0xa5; ENVELOPE_BYTES]);
    let began = Instant::now();
    let (cpu, mut sent, mut allowed, mut lane, mut seq) = (cpu_time(), 0_u64, credit, 0_u8, 0_u64);
    let mut marks: Vec<(Duration, u64)> = Vec::new();
    let mut grants = 0_u64;
    while began.elapsed() < time {
        while sent + (BATCH * ENVELOPE_BYTES) as u64 <= allowed {
            let body = item::Body::Envelope(payload.clone());
            let items = vec![Item { ttl_ms: 1000, body: Some(body) }; BATCH];
            send(&near, Channel::Lane(Lane(lane)), Body::Data(Data { first_seq: seq, items }));
            seq += BATCH as u64;
            sent += (BATCH * ENVELOPE_BYTES) as u64;
            lane = (lane + 1) % LANES;
        }
        match tokio::time::timeout(Duration::from_millis(500), alpha.events.recv()).await {
            Ok(Some(LinkEvent::Frame { body: Body::Credit(credit), .. })) => {
                allowed = credit.bytes;
                grants += 1;
                marks.push((began.elapsed(), credit.bytes));
            }
            Ok(Some(LinkEvent::Closed { reason, .. })) => {
                println!("closed: {reason}");
                break;
            }
            _ => {}
        }
    }
    let elapsed = began.elapsed();
    let cpu = cpu_time().saturating_sub(cpu);
    let done = allowed.saturating_sub(credit);
    let envelopes = done / ENVELOPE_BYTES as u64;
    // The second half shows the rate once slow start is over.
    let half = marks.iter().find(|(at, _)| *at >= elapsed / 2).copied();
    let last = marks.last().copied();
    let steady = match (half, last) {
        (Some(half), Some(last)) if last.0 > half.0 => {
            let bytes = (last.1 - half.1) as f64;
            bytes / ENVELOPE_BYTES as f64 / (last.0 - half.0).as_secs_f64()
        }
        _ => 0.0,
    };
    println!(
        "{transport:?} {congestion:?} rtt {rtt_ms} ms loss {loss}: {:.0} envelopes/s, steady {steady:.0}/s, \
         {:.2} µs CPU each over both ends{}, {grants} grants",
        envelopes as f64 / elapsed.as_secs_f64(),
        cpu.as_secs_f64() * 1e6 / (envelopes.max(1)) as f64,
        if direct { "" } else { " and the shaper" },
    );
    receiver.abort();
}

async fn side(domain: &str, transport: Transport, congestion: Congestion) -> Side {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let domain = domain.parse().expect("a domain");
    Identity::create(dir.path(), &domain).expect("an identity");
    let identity = Identity::open(dir.path(), domain).expect("an identity");
    let directory = Arc::new(ArcSwap::from_pointee(Directory::default()));
    let (sender, events) = mpsc::channel(1024);
    let config = LinkConfig {
        listen: "127.0.0.1:0".parse().expect("an address"),
        quic: transport == Transport::Quic,
        tcp: transport == Transport::Tcp,
        congestion,
        ..LinkConfig::default()
    };
    let links = Links::start(config, Arc::clone(&identity), Arc::clone(&directory), sender);
    Side { links: links.await.expect("links"), identity, directory, events, _dir: dir }
}

fn knows(side: &Side, domain: &str, pin: Pin, endpoint: String) {
    let mut directory = Directory::default();
    directory.put_peer(PeerRecord {
        state: PeerState::Active,
        trust: Trust::Pinned { pins: PinSet::current(pin) },
        endpoints: vec![endpoint],
        allow_private_ips: true,
        ..PeerRecord::new(PEER, domain.parse().expect("a domain"), Time::from_unix_ms(0))
    });
    side.directory.store(Arc::new(directory));
}

async fn opened(side: &mut Side) -> LinkSender {
    match side.events.recv().await {
        Some(LinkEvent::Opened { sender, .. }) => sender,
        other => unreachable!("the first event is the link: {other:?}"),
    }
}

fn send(link: &LinkSender, channel: Channel, body: Body) {
    // A link that is gone says so in its events.
    let _ = link.send(LinkCommand::Send(channel, body));
}

/// CPU time of this process.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let mut fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11);
    let mut ticks = || fields.next().and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    Duration::from_millis((ticks() + ticks()) * 10)
}
