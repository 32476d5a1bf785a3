//! `call`: a call of many people on one relay process: what a forwarded packet costs, held against the bare job done in
//! turn with it, and what joining costs.
//!
//! The pieces serve the other scenarios with calls, too.
//!
//! # Layout
//! - [`site`]: a node and an ingress before it; [`relay`] and [`process`] what they are made of
//! - [`entrance`]: joining; [`connection`] and `wire`: how datagrams get there
//! - [`clients`]: everybody on calls, on one thread; [`publish`] what they send; `events` what they want to see
//! - `limits`: the bare jobs; `added`: the latency an ingress adds

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::time::sleep;
use trunkline_relay_peer::{Plan, Settings};
use trunkline_testkit::shaper::{Profile, Shaper, Which};

use crate::error::LoadError;
use crate::progress::Progress;
use crate::report::round;
use crate::{Common, Judged};
use clients::{Clients, Joining};
use entrance::{Asked, Entrance, Participant};
use events::{Events, Follower};
use limits::{Job, Limits, Tiles};
use publish::{Publisher, Traffic};
use relay::{CONFERENCE_MAX, Mode};
use site::{Site, Transport, Via, Workers};

mod added;
pub(crate) mod clients;
pub(crate) mod connection;
pub(crate) mod entrance;
mod events;
mod limits;
pub(crate) mod process;
pub(crate) mod publish;
pub(crate) mod relay;
pub(crate) mod site;
mod wire;

/// Turns of relay and limit, of which the median counts. Longer than the relay remembers a silent source would be none.
const TURNS: u32 = 5;
const TURN_MAX: Duration = Duration::from_secs(3);

/// How long publishers send before anything is measured: key frames were asked for, slots are filled.
const WARM_UP: Duration = Duration::from_millis(1500);

/// How long they send in each turn before it is measured: who begins to speak is told to everybody, which is no part of
/// what a packet costs.
const LEAD: Duration = Duration::from_millis(400);

/// How long what is under way may take to arrive.
const SETTLE: Duration = Duration::from_millis(250);

/// How long the last to join may take.
const JOINED_WITHIN: Duration = Duration::from_secs(20);

/// Share of packets that may be missing after repair when packets are lost on purpose.
const LOSS_AFTER_REPAIR_MAX: f64 = 0.001;

/// Packets that a camera with several encodings keeps of each, to send them again.
const HISTORY_PACKETS: usize = 256;

/// How long packets take each way where some are lost.
const SHAPED_DELAY: Duration = Duration::from_millis(5);

/// People on a call, as the relay limits them, and so receivers of a packet.
const PARTICIPANTS_MAX: u32 = 500;
const RECEIVERS_MAX: usize = 500;

/// Sections that a relay takes in one offer, less those that somebody sends in.
const SLOTS_MAX: usize = 120;

/// What the relay counts.
const SENT: &str = "trunkline_relay_sent_datagrams_total";
const SENT_IN_TRAINS: &str = "trunkline_relay_sent_in_trains_datagrams_total";

/// Who is on the call, and what they send.
#[derive(Clone, Debug, Args)]
pub(crate) struct CallArgs {
    /// People on the call.
    #[arg(long, default_value_t = 100)]
    participants: u32,
    /// How many of them send.
    #[arg(long, default_value_t = 1)]
    publishers: u32,
    /// Packets of one picture [default: 8, or none with --audio]
    #[arg(long)]
    video_burst: Option<u32>,
    /// Pictures a second.
    #[arg(long, default_value_t = 30)]
    fps: u32,
    /// Publishers send sound: 50 packets a second. With --video-burst, pictures too.
    #[arg(long)]
    audio: bool,
    /// Audio sections that everybody receives in.
    #[arg(long, default_value_t = 3)]
    slots_audio: usize,
    /// Video sections that everybody receives in.
    #[arg(long, default_value_t = 9)]
    slots_video: usize,
    /// Small pictures that everybody sees besides a large one, of cameras with --simulcast.
    #[arg(long, conflicts_with = "slots_video")]
    slots: Option<usize>,
    /// Cameras send three encodings at a time. Everybody asks for one picture of 720 lines, and for 180 in the other
    /// slots; encodings nobody wants are not sent.
    #[arg(long)]
    simulcast: bool,
    /// Everybody tells when packets arrive, as browsers do, so that the relay adapts to each line.
    #[arg(long)]
    adaptive: bool,
    /// What kind of call: a conference has up to 100 people, a broadcast 500 and one publisher [default: as many people
    /// need]
    #[arg(long, value_enum)]
    mode: Option<Mode>,
    /// How long the relay is measured, all turns together.
    #[arg(long, default_value_t = 10)]
    duration_s: u64,
    /// Joins per second.
    #[arg(long, default_value_t = 20.0)]
    joins_per_s: f64,
    /// Share of packets lost between people and relay, each way, for example 0.05. Clients then repair as browsers do.
    #[arg(long, default_value_t = 0.0)]
    loss: f64,
    /// Share of packets that others overtake.
    #[arg(long, default_value_t = 0.0)]
    reorder: f64,
    /// Share of packets that arrive twice.
    #[arg(long, default_value_t = 0.0)]
    duplicate: f64,
    /// What people connect to
    #[arg(long, value_enum, default_value_t = Via::Direct)]
    via: Via,
    /// How they connect
    #[arg(long, value_enum, default_value_t = Transport::Udp)]
    transport: Transport,
    /// Threads of the relay that forward media.
    #[arg(long, default_value_t = 1)]
    workers: u16,
    /// People of the call on one of them before it grows onto others.
    #[arg(long, default_value_t = 64)]
    worker_participants: u32,
    /// The relay program to run [default: the relay this program was built with]
    #[arg(long)]
    relay_bin: Option<std::path::PathBuf>,
}

impl CallArgs {
    fn traffic(&self) -> Traffic {
        let video_burst = self.video_burst.unwrap_or(if self.audio { 0 } else { 8 });
        Traffic { video_burst, fps: self.fps, audio: self.audio, simulcast: self.simulcast() }
    }

    fn simulcast(&self) -> bool {
        self.simulcast || self.slots.is_some()
    }

    /// Video sections.
    fn slots_video(&self) -> usize {
        self.slots.map_or(self.slots_video, |tiles| tiles + 1)
    }

    fn mode(&self) -> Mode {
        let conference = self.participants <= CONFERENCE_MAX;
        self.mode.unwrap_or(if conference { Mode::Conference } else { Mode::Broadcast })
    }

    /// What everybody offers.
    fn plan(&self, publishes: bool) -> Plan {
        let sources = if publishes { self.traffic().sources() } else { Vec::new() };
        let plan = Plan::receiver(self.slots_audio, self.slots_video()).sending(&sources);
        let plan = if self.simulcast() { plan.simulcast() } else { plan };
        if self.adaptive { plan.adaptive() } else { plan }
    }

    /// Who sees how many cameras how large.
    fn tiles(&self) -> Option<Tiles> {
        let people = |count: u32| usize::try_from(count).unwrap_or(RECEIVERS_MAX);
        let (participants, publishers) = (people(self.participants), people(self.publishers));
        let shown = self.slots_video().min(publishers.saturating_sub(1)).max(1);
        let receivers =
            |pictures: usize| (participants * pictures / publishers.max(1)).clamp(1, RECEIVERS_MAX);
        let tiles = shown - 1;
        self.simulcast().then(|| Tiles { tiles, small: receivers(tiles), large: receivers(1) })
    }

    fn turn(&self) -> Duration {
        (Duration::from_secs(self.duration_s.max(1)) / TURNS).min(TURN_MAX)
    }

    fn is_shaped(&self) -> bool {
        self.loss > 0.0 || self.reorder > 0.0 || self.duplicate > 0.0
    }

    fn check(&self) -> Result<(), LoadError> {
        let usage = |what: &str| Err(LoadError::Usage(what.to_owned()));
        let traffic = self.traffic();
        if !(2..=PARTICIPANTS_MAX).contains(&self.participants)
            || !(1..=self.participants).contains(&self.publishers)
        {
            return usage("--participants: expected 2 to 500, of whom one or more are --publishers");
        }
        if traffic.sources().is_empty() || self.fps == 0 || traffic.video_burst > 1000 {
            return usage("nothing to send: expected --audio, or --video-burst 1 to 1000 at --fps 1 or more");
        }
        if self.workers == 0 || (self.workers > 1 && self.via == Via::Ingress) {
            return usage("--workers: expected 1 or more, and 1 with --via ingress");
        }
        if self.mode() == Mode::Conference && self.participants > CONFERENCE_MAX {
            return usage("--mode conference: expected --participants 2 to 100");
        }
        if self.mode == Some(Mode::Broadcast) && self.publishers != 1 {
            return usage("--mode broadcast: expected --publishers 1");
        }
        if self.simulcast() && traffic.video_burst == 0 {
            return usage(
                "--slots, --simulcast: expected --video-burst 1 or more, --audio alone has no pictures",
            );
        }
        if self.simulcast() && self.slots_video() == 0 || self.slots_video() + self.slots_audio > SLOTS_MAX {
            return usage(
                "--slots, --slots-video, --slots-audio: expected 120 at most, and one for pictures with simulcast",
            );
        }
        if self.joins_per_s <= 0.0 {
            return usage("--joins-per-s: expected more than 0");
        }
        for share in [self.loss, self.reorder, self.duplicate] {
            if !(0.0..1.0).contains(&share) {
                return usage("--loss, --reorder, --duplicate: expected a share, 0 to 0.99");
            }
        }
        if self.is_shaped() && self.transport != Transport::Udp {
            return usage("--loss, --reorder, --duplicate: expected --transport udp, TCP loses nothing");
        }
        Ok(())
    }
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct CallReport {
    scenario: &'static str,
    via: Via,
    transport: Transport,
    participants: u32,
    publishers: u32,
    mode: Mode,
    /// Sections for pictures, and whether cameras send three encodings, of which one picture is seen large.
    slots_video: usize,
    simulcast: bool,
    adaptive: bool,
    video_burst: u32,
    fps: u32,
    audio: bool,
    build: &'static str,
    srtp_profile: Option<&'static str>,
    /// Media packets the relay sealed for a receiver in the measured turns.
    forwarded_packets: u64,
    /// Relay CPU time, all threads, for each of them: the median of the turns.
    cpu_ns_per_packet: Option<f64>,
    /// The same of the bare job. Null where packets are lost on purpose.
    limit_ns_per_packet: Option<f64>,
    ratio_to_limit: Option<f64>,
    /// CPU time of the ingress, all threads, for each packet in either direction: the median of the turns. Null without
    /// an ingress, as the next three.
    ingress_cpu_ns_per_packet: Option<f64>,
    /// The same of receiving and forwarding the same packets, and nothing else. Null for TCP and TLS, too.
    ingress_limit_ns_per_packet: Option<f64>,
    ingress_ratio_to_limit: Option<f64>,
    /// What the ingress adds to latency: the median, over turns of two small calls with the same traffic, one through the
    /// ingress and one on a node without, of the differences of their percentiles.
    added_latency_ms: Option<Percentiles>,
    /// Share of packets that receivers should have got and did not, after repair if there is any.
    loss: f64,
    /// From the moment a publisher wrote a payload to the moment its receiver read it, of the opened packets.
    latency_ms: Percentiles,
    /// From the request with the offer to the keys.
    join_ms: Percentiles,
    cpu_ms_per_join: f64,
    /// Resident memory everybody's joining cost, before there was media.
    rss_bytes_per_participant: f64,
    /// Share of datagrams that left the relay in trains. Null when it sent none, or does not say.
    gso_fraction: Option<f64>,
    /// Allocations of the relay for each forwarded packet. Null when it is another program.
    allocations_per_packet: Option<f64>,
    /// Packets that clients received, and how many of them they opened: the others were counted by their headers, so that
    /// the clients leave the cores to the relay.
    received_packets: u64,
    opened_packets: u64,
    /// Packets that came twice, could not be opened, or belong to no slot; clients that failed.
    wrong: u64,
}

/// The middle and the slow end, in milliseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Percentiles {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}

impl Percentiles {
    /// Of latencies in microseconds.
    pub(crate) fn of_us(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| round(histogram.value_at_quantile(quantile) as f64 / 1e3);
        Self { p50: at(0.5), p99: at(0.99) }
    }

    /// Of durations.
    pub(crate) fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let at = |percent: usize| {
            let index = (times.len() * percent / 100).min(times.len().saturating_sub(1));
            round(times.get(index).copied().unwrap_or_default().as_secs_f64() * 1e3)
        };
        Self { p50: at(50), p99: at(99) }
    }
}

impl Judged for CallReport {
    fn flawless(&self) -> bool {
        let loss_max = if self.limit_ns_per_packet.is_some() { 0.0 } else { LOSS_AFTER_REPAIR_MAX };
        self.loss <= loss_max && self.wrong == 0 && self.forwarded_packets > 0
    }
}

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

/// One turn: processor time, and packets it was spent on.
#[derive(Clone, Copy, Debug)]
struct Turn {
    cpu: Duration,
    packets: u64,
}

impl Turn {
    fn ns_per_packet(&self) -> Option<f64> {
        (self.packets > 0).then(|| self.cpu.as_secs_f64() * 1e9 / self.packets as f64)
    }
}

/// The median of their costs.
fn median_of(turns: &[Turn]) -> Option<f64> {
    median(turns.iter().filter_map(Turn::ns_per_packet).collect())
}

/// All turns.
struct Turns {
    /// Latencies until everybody had their pictures.
    warm_up_us: Histogram<u64>,
    relay: Vec<Turn>,
    limit: Vec<f64>,
    ingress: Vec<Turn>,
    ingress_limit: Vec<f64>,
    allocations: Option<u64>,
    gso_fraction: Option<f64>,
    /// Media packets that the relay sealed since it started.
    forwarded_in_all: u64,
}

impl Turns {
    fn after(warm_up_us: Histogram<u64>) -> Self {
        Self {
            warm_up_us,
            relay: Vec::new(),
            limit: Vec::new(),
            ingress: Vec::new(),
            ingress_limit: Vec::new(),
            allocations: Some(0),
            gso_fraction: None,
            forwarded_in_all: 0,
        }
    }
}

/// Lets publishers send to the relay, by turns with the bare jobs.
async fn measure(
    args: &CallArgs,
    site: &mut Site,
    call: &str,
    clients: &Clients,
) -> Result<Turns, LoadError> {
    let Site { relay, ingress, .. } = site;
    let mut admin = relay.admin();
    clients.publish();
    sleep(WARM_UP).await;
    settle(clients).await;
    let snapshot = clients.snapshot().await?;
    let each = relay.forwarded(&mut admin, call).await?.div_ceil(snapshot.sent.max(1));
    let each = usize::try_from(each).unwrap_or(usize::MAX).clamp(1, RECEIVERS_MAX);
    let (traffic, tiles) = (args.traffic(), args.tiles());
    let job = Job { traffic, transport: args.transport, via: args.via, receivers: each, tiles };
    let mut limits = if args.is_shaped() { None } else { Some(Limits::new(job, &snapshot)?) };
    let turn = args.turn();
    let count = u128::from(args.duration_s) * 1000 / turn.as_millis().max(1);
    let mut turns = Turns::after(snapshot.latency_us);
    let warm = relay.fresh_metrics().await?;
    let progress = Progress::new("measuring", u64::try_from(count.max(1)).unwrap_or(u64::MAX));
    for _ in 0..count.max(1) {
        clients.publish();
        sleep(LEAD).await;
        let (before, sent) = (relay.forwarded(&mut admin, call).await?, clients.snapshot().await?.sent);
        let allocations = relay.process.allocations().await?;
        let ingress_cpu = ingress.as_ref().map(|ingress| ingress.process.cpu()).transpose()?;
        let cpu = relay.process.cpu()?;
        sleep(turn).await;
        let cpu = relay.process.cpu()?.saturating_sub(cpu);
        let ingress_now = ingress.as_ref().map(|ingress| ingress.process.cpu()).transpose()?;
        let allocated = relay.process.allocations().await?.zip(allocations);
        let allocated = allocated.map(|(after, before)| after - before);
        let packets = relay.forwarded(&mut admin, call).await?.saturating_sub(before);
        let sent = clients.snapshot().await?.sent - sent;
        settle(clients).await;
        turns.allocations = turns.allocations.zip(allocated).map(|(sum, turn)| sum + turn);
        turns.relay.push(Turn { cpu, packets });
        if let Some((now, before)) = ingress_now.zip(ingress_cpu) {
            turns.ingress.push(Turn { cpu: now.saturating_sub(before), packets: packets + sent });
        }
        if let Some(limits) = &mut limits {
            turns.limit.push(limits.relay()?);
            turns.ingress_limit.extend(limits.ingress()?);
        }
        progress.advance(1);
    }
    drop(progress);
    let last = relay.fresh_metrics().await?;
    let since = |name: &str| Some(last.value(name)? - warm.value(name)?);
    turns.gso_fraction =
        since(SENT_IN_TRAINS).zip(since(SENT)).filter(|(_, all)| *all > 0.0).map(|(gso, all)| gso / all);
    turns.forwarded_in_all = relay.forwarded(&mut admin, call).await?;
    Ok(turns)
}

/// Publishers stop, and what is under way arrives.
pub(crate) async fn settle(clients: &Clients) {
    clients.pause();
    sleep(SETTLE).await;
}

/// The middle one.
pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}
