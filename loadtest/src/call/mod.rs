//! `call`: a call of many people on one relay process: what a forwarded packet costs, held against the bare job done in
//! turn with it, and what joining costs.
//!
//! The pieces serve the other scenarios with calls, too.
//!
//! # Layout
//! - `args`, `measure`, `report`: what is asked for, the turns, and what came of them
//! - [`site`]: a node and an ingress before it; [`relay`] and [`process`] what they are made of
//! - [`entrance`]: joining; [`connection`] and `wire`: how datagrams get there
//! - [`clients`]: everybody on calls, on one thread; [`publish`] what they send; `events` what they want to see
//! - `limits`: the bare jobs; `added`: the latency an ingress adds

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::sleep;
use trunkline_relay_peer::Settings;
use trunkline_testkit::shaper::{Profile, Shaper, Which};

use crate::Common;
use crate::error::LoadError;
use crate::progress::Progress;
use crate::report::round;
pub(crate) use args::CallArgs;
use clients::{Clients, Joining};
use entrance::{Asked, Entrance, Participant};
use events::{Events, Follower};
use measure::{measure, median_of};
pub(crate) use measure::{median, settle};
use publish::Publisher;
pub(crate) use report::{CallReport, Percentiles};
use site::{Site, Via, Workers};

mod added;
mod args;
pub(crate) mod clients;
pub(crate) mod connection;
pub(crate) mod entrance;
mod events;
mod limits;
mod measure;
pub(crate) mod process;
pub(crate) mod publish;
pub(crate) mod relay;
mod report;
pub(crate) mod site;
mod wire;

/// How long the last to join may take.
const JOINED_WITHIN: Duration = Duration::from_secs(20);

/// Packets that a camera with several encodings keeps of each, to send them again.
const HISTORY_PACKETS: usize = 256;

/// How long packets take each way where some are lost.
const SHAPED_DELAY: Duration = Duration::from_millis(5);

/// Runs it.
///
/// # Errors
/// When it cannot be carried out.
pub(crate) async fn run(common: &Common, args: &CallArgs) -> Result<CallReport, LoadError> {
    args.check()?;
    let mut fleet = common.fleet()?;
    let through_ingress = args.via == Via::Ingress;
    let plan = site::Plan {
        via: args.via,
        transport: args.transport,
        calls: 2,
        twin: through_ingress,
        workers: Workers { count: args.workers, participants: args.worker_participants },
        relay_bin: args.relay_bin.clone(),
    };
    let mut site = Site::start(&mut fleet, &plan).await?;
    let call = relay::create_call_of(&mut site.admin(), args.participants, args.mode()).await?;
    let shaped = args.is_shaped();
    let epoch = Instant::now();
    let settings = Settings::new(epoch).map_err(|error| LoadError::Usage(error.to_string()))?;
    let mut settings = if shaped { settings.like_a_browser() } else { settings };
    if args.simulcast() {
        // All cameras begin at once with all encodings: what that loses is asked for again.
        settings.history_packets = HISTORY_PACKETS;
    }
    let settings = settings.shared();
    let entrance = Entrance::new(&site, &settings, args.transport);
    let clients = Arc::new(Clients::start(epoch, shaped)?);

    let (joined, followers, _shaper) = join_all(args, &site, &entrance, &call, &clients).await?;
    let wishes = (args.publishers, args.slots_video());
    let _events = Events::open(site.api(), followers, wishes, &clients).await?;
    let turns = measure(args, &mut site, &call, &clients).await?;
    let mut last = clients.snapshot().await?;
    let latencies = last.latency_us.subtract(&turns.warm_up_us);
    latencies.map_err(|error| LoadError::Usage(error.to_string()))?;
    let added = match &site.twin {
        Some(twin) if !shaped => {
            Some(added::latency(&entrance, &site, twin, args.traffic(), args.turn()).await?)
        }
        _ => None,
    };

    let forwarded_packets = turns.relay.iter().map(|turn| turn.packets).sum::<u64>();
    let cpu = median_of(&turns.relay);
    let limit = median(turns.limit);
    let ingress_cpu = median_of(&turns.ingress);
    let ingress_limit = median(turns.ingress_limit);
    let ratio = |cpu: Option<f64>, limit: Option<f64>| cpu.zip(limit).map(|(cpu, limit)| round(cpu / limit));
    let allocations = turns.allocations.map(|count| count as f64 / forwarded_packets.max(1) as f64);
    // What the relay sealed and nobody got, and what streams lack: the same packets, seen from both sides.
    let lost = turns.forwarded_in_all.saturating_sub(last.received).max(last.missing);
    let lost = if shaped { last.missing } else { lost };
    let traffic = args.traffic();
    // Lines are filled with packets that went before.
    let duplicates = if shaped || args.adaptive { 0 } else { last.twice };
    Ok(CallReport {
        scenario: "call",
        via: args.via,
        transport: args.transport,
        participants: args.participants,
        publishers: args.publishers,
        mode: args.mode(),
        slots_video: args.slots_video(),
        simulcast: args.simulcast(),
        adaptive: args.adaptive,
        video_burst: traffic.video_burst,
        fps: args.fps,
        audio: args.audio,
        build: crate::BUILD,
        srtp_profile: last.profile,
        forwarded_packets,
        cpu_ns_per_packet: cpu.map(round),
        limit_ns_per_packet: limit.map(round),
        ratio_to_limit: ratio(cpu, limit),
        ingress_cpu_ns_per_packet: ingress_cpu.map(round),
        ingress_limit_ns_per_packet: ingress_limit.map(round),
        ingress_ratio_to_limit: ratio(ingress_cpu, ingress_limit),
        added_latency_ms: added,
        loss: lost as f64 / (last.received + lost).max(1) as f64,
        latency_ms: Percentiles::of_us(&last.latency_us),
        join_ms: Percentiles::of(last.joins.clone()),
        cpu_ms_per_join: round(joined.cpu.as_secs_f64() * 1e3 / f64::from(args.participants)),
        rss_bytes_per_participant: (joined.rss_bytes as f64 / f64::from(args.participants)).round(),
        gso_fraction: turns.gso_fraction.map(round),
        allocations_per_packet: allocations.map(|share| (share * 1e6).round() / 1e6),
        received_packets: last.received,
        opened_packets: last.opened,
        wrong: duplicates + last.foreign + last.failed,
    })
}

/// What joining cost the relay.
struct Joined {
    cpu: Duration,
    rss_bytes: u64,
}

async fn join_all(
    args: &CallArgs,
    site: &Site,
    entrance: &Entrance,
    call: &str,
    clients: &Clients,
) -> Result<(Joined, Vec<Follower>, Option<Shaper>), LoadError> {
    let traffic = args.traffic();
    let mut followers = Vec::new();
    let mut tokens = Vec::new();
    let mut admin = site.admin();
    for number in 0..args.participants {
        let role = if number < args.publishers { "presenter" } else { "viewer" };
        tokens.push(relay::mint(&mut admin, call, &format!("p{number}"), role).await?);
    }
    let mut shaper = None;
    let progress = Progress::new("joining", u64::from(args.participants));
    let process = &site.relay.process;
    let (cpu_before, rss_before) = (process.cpu()?, process.rss_bytes()?);
    let began = tokio::time::Instant::now();
    for (number, token) in (0..).zip(&tokens) {
        tokio::time::sleep_until(began + Duration::from_secs_f64(f64::from(number) / args.joins_per_s)).await;
        let publishes = number < args.publishers;
        let who = Participant { call, token, plan: args.plan(publishes), seed: u64::from(number) + 1 };
        let Asked { mut peer, started, location } = entrance.ask(&who).await?;
        if args.simulcast() {
            followers.push(Follower { number, location });
        }
        if args.is_shaped() {
            let through = through_shaper(args, &mut shaper, peer.remote_address())?;
            peer.set_remote_address(through);
        }
        let connection = entrance.connect(&peer).await?;
        let publisher = publishes.then(|| Publisher::new(traffic, number, args.publishers));
        clients.join(Joining { peer, connection, started, publisher });
        progress.advance(1);
    }
    everybody_joined(clients, tokens.len(), JOINED_WITHIN).await?;
    let cpu = process.cpu()?.saturating_sub(cpu_before);
    let rss_bytes = process.rss_bytes()?.saturating_sub(rss_before);
    Ok((Joined { cpu, rss_bytes }, followers, shaper))
}

/// Waits until so many clients have their keys.
///
/// # Errors
/// When one fails, or it takes too long.
pub(crate) async fn everybody_joined(
    clients: &Clients,
    count: usize,
    within: Duration,
) -> Result<(), LoadError> {
    let deadline = Instant::now() + within;
    loop {
        let snapshot = clients.snapshot().await?;
        if snapshot.joins.len() >= count {
            return Ok(());
        }
        if snapshot.failed > 0 || Instant::now() > deadline {
            return Err(LoadError::Usage(format!("only {} of {count} joined", snapshot.joins.len())));
        }
        sleep(Duration::from_millis(5)).await;
    }
}

/// The address of the shaper before the relay's port, which is started for the first who asks.
fn through_shaper(
    args: &CallArgs,
    shaper: &mut Option<Shaper>,
    relay: Option<SocketAddr>,
) -> Result<SocketAddr, LoadError> {
    if let Some(shaper) = shaper {
        return Ok(shaper.addr());
    }
    let relay = relay.ok_or_else(|| LoadError::Usage("the answer names no address".to_owned()))?;
    let started = Shaper::start(relay, 1).map_err(LoadError::io("starting a network shaper"))?;
    let profile = Profile {
        delay: SHAPED_DELAY,
        loss: args.loss,
        reorder: args.reorder,
        duplicate: args.duplicate,
        ..Profile::default()
    };
    started.set(Which::Udp, profile);
    let address = started.addr();
    *shaper = Some(started);
    Ok(address)
}
