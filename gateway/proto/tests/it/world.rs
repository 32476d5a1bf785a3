//! A deterministic world: gateways as nodes, each with a core and a store, and wires between them. The only
//! source of chance is the seed.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::OnceLock;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use trunkline_common::ids::{Domain, NetworkId};
use trunkline_gateway_proto::admin::{AdminError, AdminOp, AdminReply, NetworkSpec, Overview, PeerView};
use trunkline_gateway_proto::audit::Entry;
use trunkline_gateway_proto::bundle::Bundle;
use trunkline_gateway_proto::core::{Action, Config, Core, LoadFor, Reply, Ticket};
use trunkline_gateway_proto::directory::LocalDomain;
use trunkline_gateway_proto::frame::{self, Channel};
use trunkline_gateway_proto::key::{ApiKey, ChannelBinding};
use trunkline_gateway_proto::link::{LinkId, Opened, Transport};
use trunkline_gateway_proto::pin::Pin;
use trunkline_gateway_proto::policy::Policy;
use trunkline_gateway_proto::recover::Recovery;
use trunkline_gateway_proto::store::{Commit, NetworkKey, PeerKey, Record, Stream};
use trunkline_gateway_proto::time::Time;
use trunkline_gateway_proto::wire::{self, frame::Body};
use trunkline_testkit::clock::Clock;
use trunkline_testkit::rng::Rng;

use crate::ledger::Ledger;
use crate::store::Store;

/// How the network and the disks behave.
#[derive(Clone, Debug)]
pub(crate) struct Weather {
    /// One way, per frame; frames of one channel stay in order.
    pub(crate) latency_ms: Range<u64>,
    pub(crate) dial_fails: f64,
    /// What connections that are made now run over.
    pub(crate) transport: Transport,
    /// How much longer than others a large envelope's channel takes.
    pub(crate) blob_ms: u64,
    /// Until a commit is on the disk, and again until the core hears of it.
    pub(crate) commit_ms: Range<u64>,
    pub(crate) read_ms: Range<u64>,
    /// What a connection carries each way beside control, which goes before everything else.
    pub(crate) bytes_per_s: Option<u64>,
    /// A commit fails, and takes the core with it.
    pub(crate) commit_fails: f64,
}

impl Default for Weather {
    fn default() -> Self {
        Self {
            latency_ms: 5..6,
            dial_fails: 0.0,
            transport: Transport::Quic,
            blob_ms: 0,
            commit_ms: 1..2,
            read_ms: 1..2,
            bytes_per_s: None,
            commit_fails: 0.0,
        }
    }
}

/// A gateway.
pub(crate) struct Node {
    pub(crate) domain: Domain,
    pub(crate) config: Config,
    /// How far its clock is from the others'. Changes while it is down only.
    pub(crate) skew_ms: i64,
    /// The latest that its clock ever showed.
    pub(crate) latest: Time,
    /// `None` while it is down.
    pub(crate) core: Option<Core>,
    pub(crate) store: Store,
    pub(crate) certificate: Bytes,
    /// Counts starts: what belongs to an earlier one is void.
    pub(crate) run: u64,
    saving: Option<Saving>,
    links: BTreeMap<LinkId, (u64, usize)>,
    pub(crate) replies: BTreeMap<Ticket, Reply>,
    /// What operators were told: kind, detail.
    pub(crate) events: Vec<(&'static str, String)>,
    /// What operators were told of the audit log.
    pub(crate) audited: Vec<Entry>,
    /// Every dial asked for: when.
    pub(crate) dials: Vec<Time>,
    pub(crate) probes: usize,
    /// Reads from the disk asked for.
    pub(crate) reads: usize,
    last_ticket: u64,
}

struct Saving {
    commit: Commit,
    applied: bool,
}

/// One connection, seen from both ends: the dialer's is 0, the acceptor's 1.
struct Wire {
    ends: [End; 2],
    /// Nothing arrives any more.
    cut: bool,
}

struct End {
    node: usize,
    run: u64,
    link: LinkId,
    open: bool,
    /// It was open once.
    seen: bool,
    /// When the last frame towards this end arrives, by channel.
    last: BTreeMap<u64, u64>,
    /// When the line towards this end is free again.
    busy_until: u64,
}

enum Event {
    Open { wire: u64, end: usize, opened: Box<Opened> },
    Frame { wire: u64, end: usize, channel: Channel, bytes: BytesMut },
    Closed { wire: u64, end: usize, reason: String },
    DialFailed { node: usize, run: u64, peer: PeerKey },
    Apply { node: usize, run: u64 },
    Committed { node: usize, run: u64 },
    Read { node: usize, run: u64, stream: Stream, from_seq: u64, bytes_max: usize, purpose: LoadFor },
    Loaded { node: usize, run: u64, stream: Stream, purpose: LoadFor, records: Vec<(u64, Record)> },
    Start { node: usize },
}

impl Event {
    fn describe(&self) -> String {
        match self {
            Self::Open { wire, end, .. } => format!("wire {wire}: open at end {end}"),
            Self::Frame { wire, end, channel, bytes } => {
                let frame = frame::decode(*channel, &mut bytes.clone());
                let text = match &frame {
                    Ok(Some(Body::Data(data))) => {
                        let skips = data.items.iter().filter_map(|item| match &item.body {
                            Some(wire::item::Body::Skip(skip)) => Some(skip.count),
                            _ => None,
                        });
                        let skips: Vec<_> = skips.collect();
                        format!("data from {}, {} items, skips {skips:?}", data.first_seq, data.items.len())
                    }
                    Ok(Some(Body::Blob(blob))) => format!("blob {} {}", blob.blob_id, blob.last),
                    other => format!("{other:?}"),
                };
                format!("wire {wire}: to end {end}, {channel:?}: {text:.300}")
            }
            Self::Closed { wire, end, reason } => format!("wire {wire}: closed at end {end}: {reason}"),
            Self::DialFailed { node, .. } => format!("{node}: dial failed"),
            Self::Apply { node, run } => format!("{node}/{run}: saved"),
            Self::Committed { node, run } => format!("{node}/{run}: told that it is saved"),
            Self::Read { node, stream, from_seq, .. } => format!("{node}: reads {stream:?} from {from_seq}"),
            Self::Loaded { node, stream, records, .. } => {
                format!("{node}: has read {stream:?}: {} records", records.len())
            }
            Self::Start { node } => format!("{node}: starts"),
        }
    }
}

/// Sees each frame as it leaves a node, and may change it.
pub(crate) type Tamper = Box<dyn FnMut(usize, &mut Body)>;

/// Everything there is.
pub(crate) struct World {
    clock: Clock,
    pub(crate) rng: Rng,
    pub(crate) weather: Weather,
    pub(crate) nodes: Vec<Node>,
    pub(crate) ledger: Ledger,
    /// Who answers when a node dials a domain, where that is not the domain's own node.
    pub(crate) impostors: BTreeMap<(usize, Domain), usize>,
    /// Nodes whose dials all fail.
    pub(crate) mute: BTreeSet<usize>,
    /// Pairs that cannot reach each other, and until when.
    partitions: BTreeMap<(usize, usize), u64>,
    /// Frames as they left, for tests that look: from, to, channel, body.
    pub(crate) sniffed: Option<Vec<(usize, usize, Channel, Body)>>,
    /// Links as they came up: where, and how.
    pub(crate) opened: Vec<(usize, Opened)>,
    /// Changes frames as they leave a node.
    pub(crate) tamper: Option<Tamper>,
    /// Tells what happens, for whoever replays a seed.
    verbose: bool,
    agenda: BTreeMap<(u64, u64), Event>,
    order: u64,
    wires: BTreeMap<u64, Wire>,
    next_wire: u64,
    next_link: u64,
}

/// Certificates made once per process: making them costs more than a simulated run.
fn certificates() -> &'static [Bytes] {
    static MADE: OnceLock<Vec<Bytes>> = OnceLock::new();
    MADE.get_or_init(|| {
        (0..8)
            .map(|n| {
                let certified = rcgen::generate_simple_self_signed(vec![format!("n{n}.test")]).unwrap();
                Bytes::copy_from_slice(certified.cert.der())
            })
            .collect()
    })
}

/// A certificate of nobody in the world, by number.
pub(crate) fn spare_certificate(number: usize) -> Bytes {
    certificates()[4 + number].clone()
}

pub(crate) fn domain(text: &str) -> Domain {
    text.parse().unwrap()
}

const NAMES: [&str; 4] = ["alpha", "beta", "gamma", "delta"];

impl World {
    /// `count` gateways without networks and peers.
    pub(crate) fn new(seed: u64, count: usize) -> Self {
        Self::with(seed, count, |_| {})
    }

    /// The same, with a chance to change each configuration.
    pub(crate) fn with(seed: u64, count: usize, tune: impl Fn(&mut Config)) -> Self {
        let mut rng = Rng::new(seed);
        let clock = Clock::seeded(&mut rng);
        let nodes = (0..count).map(|index| {
            let mut config = Config::new(domain(&format!("{}.test", NAMES[index])));
            config.seed = rng.next_u64();
            config.fresh_epoch = rng.bytes(16).try_into().unwrap();
            tune(&mut config);
            Node {
                domain: config.domain.clone(),
                config,
                skew_ms: 0,
                latest: Time::default(),
                core: None,
                store: Store::default(),
                certificate: certificates()[index].clone(),
                run: 0,
                saving: None,
                links: BTreeMap::new(),
                replies: BTreeMap::new(),
                events: Vec::new(),
                audited: Vec::new(),
                dials: Vec::new(),
                probes: 0,
                reads: 0,
                last_ticket: 0,
            }
        });
        let nodes = nodes.collect();
        let mut world = Self {
            clock,
            rng,
            weather: Weather::default(),
            nodes,
            ledger: Ledger::default(),
            impostors: BTreeMap::new(),
            mute: BTreeSet::new(),
            partitions: BTreeMap::new(),
            sniffed: None,
            opened: Vec::new(),
            tamper: None,
            verbose: std::env::var_os("TRUNKLINE_SIM_VERBOSE").is_some(),
            agenda: BTreeMap::new(),
            order: 0,
            wires: BTreeMap::new(),
            next_wire: 0,
            next_link: 0,
        };
        (0..count).for_each(|node| world.start(node));
        world
    }

    pub(crate) fn now(&self) -> Time {
        Time::from_unix_ms(self.clock.now_ms())
    }

    fn tell(&self, text: impl FnOnce() -> String) {
        if self.verbose {
            eprintln!("{} {}", self.clock.now_ms(), text());
        }
    }

    // ------------------------------------------------------------ time

    /// What a node's own clock shows.
    pub(crate) fn time_of(&self, node: usize) -> Time {
        Time::from_unix_ms(self.clock.now_ms().saturating_add_signed(self.nodes[node].skew_ms))
    }

    /// Carries out everything up to `until`, and stands there then.
    pub(crate) fn run_until(&mut self, until: Time) {
        while self.step(until) {}
        self.clock.set(self.clock.now_ms().max(until.unix_ms()));
    }

    pub(crate) fn run_for(&mut self, duration: Duration) {
        self.run_until(self.now() + duration);
    }

    /// Goes on until `done`; panics when that takes longer than `limit`.
    pub(crate) fn wait(&mut self, what: &str, limit: Duration, mut done: impl FnMut(&mut Self) -> bool) {
        let until = self.now() + limit;
        while !done(self) {
            assert!(self.step(until), "{what}: not within {limit:?}");
        }
    }

    /// One event or one timeout, not after `until`. Answers whether there was one.
    fn step(&mut self, until: Time) -> bool {
        let event_at = self.agenda.first_key_value().map(|((at, _), _)| *at);
        let timeouts = self.nodes.iter().enumerate();
        let timeout = timeouts
            .filter_map(|(index, node)| {
                let at = node.core.as_ref()?.poll_timeout()?.unix_ms();
                Some((at.saturating_add_signed(-node.skew_ms), index))
            })
            .min();
        let (at, node) = match (event_at, timeout) {
            (Some(event), Some((time, node))) if time < event => (time, Some(node)),
            (Some(event), _) => (event, None),
            (None, Some((time, node))) => (time, Some(node)),
            (None, None) => return false,
        };
        if at > until.unix_ms() {
            return false;
        }
        self.clock.set(self.clock.now_ms().max(at));
        match node {
            Some(node) => self.with_core(node, Core::handle_timeout),
            None => {
                let (_, event) = self.agenda.pop_first().unwrap();
                self.carry_out(event);
            }
        }
        true
    }

    fn plan(&mut self, at: u64, event: Event) {
        self.order += 1;
        self.agenda.insert((at.max(self.clock.now_ms()), self.order), event);
    }

    fn carry_out(&mut self, event: Event) {
        self.tell(|| event.describe());
        match event {
            Event::Open { wire, end, opened } => {
                let Some(state) = self.wires.get_mut(&wire) else { return };
                let answered = !state.cut && (end == 1 || state.ends[1].seen);
                let this = &mut state.ends[end];
                let (node, link) = (this.node, this.link);
                if self.nodes[node].run != this.run || self.nodes[node].core.is_none() {
                    return;
                }
                if !answered {
                    if let Some(peer) = opened.dialed {
                        let reason = "the connection broke at once".to_owned();
                        self.with_core(node, |core, now| core.handle_dial_failed(now, peer, reason));
                    }
                    return;
                }
                (this.open, this.seen) = (true, true);
                self.nodes[node].links.insert(link, (wire, end));
                self.opened.push((node, (*opened).clone()));
                self.with_core(node, |core, now| core.handle_opened(now, link, *opened));
            }
            Event::Frame { wire, end, channel, mut bytes } => {
                let Some(state) = self.wires.get(&wire).filter(|state| !state.cut) else { return };
                let this = &state.ends[end];
                let (node, link) = (this.node, this.link);
                if !this.open || self.nodes[node].run != this.run {
                    return;
                }
                match frame::decode(channel, &mut bytes) {
                    Ok(Some(body)) => {
                        assert!(bytes.is_empty(), "one frame at a time");
                        self.with_core(node, |core, now| core.handle_frame(now, link, channel, body));
                    }
                    // Only what is forged is cut short: the shell waits for the rest.
                    Ok(None) => {}
                    Err(error) => {
                        // As the shell does: what cannot be read ends the link.
                        self.wire_lost(wire, &error.to_string());
                    }
                }
            }
            Event::Closed { wire, end, reason } => {
                let Some(state) = self.wires.get_mut(&wire) else { return };
                let this = &mut state.ends[end];
                let (node, run, link) = (this.node, this.run, this.link);
                if !std::mem::take(&mut this.open) || self.nodes[node].run != run {
                    return;
                }
                self.nodes[node].links.remove(&link);
                self.with_core(node, |core, now| core.handle_closed(now, link, &reason));
            }
            Event::DialFailed { node, run, peer } => {
                if self.nodes[node].run == run {
                    self.with_core(node, |core, now| {
                        core.handle_dial_failed(now, peer, "nobody answers".into());
                    });
                }
            }
            Event::Apply { node, run } => {
                if self.nodes[node].run != run {
                    return;
                }
                if self.rng.chance(self.weather.commit_fails) {
                    self.crash(node);
                    let at = self.now() + self.rng.duration(Duration::from_secs(3));
                    self.plan(at.unix_ms(), Event::Start { node });
                    return;
                }
                self.apply(node);
                let delay = self.draw(|weather| &weather.commit_ms);
                self.plan(self.clock.now_ms() + delay, Event::Committed { node, run });
            }
            Event::Committed { node, run } => {
                if self.nodes[node].run == run {
                    self.nodes[node].saving = None;
                    self.with_core(node, Core::handle_committed);
                }
            }
            Event::Read { node, run, stream, from_seq, bytes_max, purpose } => {
                if self.nodes[node].run == run {
                    let records = self.nodes[node].store.read(stream, from_seq, bytes_max);
                    let delay = self.draw(|weather| &weather.read_ms);
                    let event = Event::Loaded { node, run, stream, purpose, records };
                    self.plan(self.clock.now_ms() + delay, event);
                }
            }
            Event::Loaded { node, run, stream, purpose, records } => {
                if self.nodes[node].run == run {
                    self.with_core(node, |core, now| core.handle_loaded(now, stream, purpose, records));
                }
            }
            Event::Start { node } => self.start(node),
        }
    }

    fn draw(&mut self, of: impl Fn(&Weather) -> &Range<u64>) -> u64 {
        let range = of(&self.weather).clone();
        self.rng.range(range)
    }

    // ------------------------------------------------------------ nodes

    /// Hands something to a core, and carries out what it asks for. Nothing happens when it is down.
    pub(crate) fn with_core<T>(&mut self, node: usize, input: impl FnOnce(&mut Core, Time) -> T) -> T
    where
        T: Default,
    {
        let now = self.time_of(node);
        let Some(core) = &mut self.nodes[node].core else { return T::default() };
        let result = input(core, now);
        self.drive(node);
        result
    }

    pub(crate) fn core(&self, node: usize) -> &Core {
        self.nodes[node].core.as_ref().expect("it is up")
    }

    /// Carries out what a core asks for, as the driver does.
    fn drive(&mut self, index: usize) {
        let now = self.time_of(index);
        self.nodes[index].latest = self.nodes[index].latest.max(now);
        loop {
            while let Some(action) = self.nodes[index].core.as_mut().and_then(Core::poll_action) {
                self.act(index, action);
            }
            let node = &mut self.nodes[index];
            if node.saving.is_some() {
                break;
            }
            let Some(commit) = node.core.as_mut().and_then(|core| core.poll_commit(now)) else { break };
            node.saving = Some(Saving { commit, applied: false });
            let run = node.run;
            let delay = self.draw(|weather| &weather.commit_ms);
            self.plan(self.clock.now_ms() + delay, Event::Apply { node: index, run });
        }
        if let Some(core) = &self.nodes[index].core {
            core.check_invariants();
        }
    }

    fn act(&mut self, index: usize, action: Action) {
        let now = self.clock.now_ms();
        let run = self.nodes[index].run;
        match action {
            Action::Send { link, channel, body } => self.send(index, link, channel, body),
            Action::Close { link, goaway } => {
                if let Some(goaway) = goaway {
                    self.send(index, link, Channel::Control, Body::Goaway(goaway));
                }
                let Some((wire, end)) = self.nodes[index].links.remove(&link) else { return };
                let Some(state) = self.wires.get_mut(&wire) else { return };
                state.ends[end].open = false;
                let other = &state.ends[1 - end];
                let at = other.last.get(&Channel::Control.number()).copied().unwrap_or(now).max(now + 1);
                let reason = "closed by the other side".to_owned();
                self.plan(at, Event::Closed { wire, end: 1 - end, reason });
            }
            Action::Dial(peer) => {
                let now = self.now();
                self.nodes[index].dials.push(now);
                self.dial(index, peer, false);
            }
            Action::Probe(peer) => {
                self.nodes[index].probes += 1;
                if self.weather.transport == Transport::Quic {
                    self.dial(index, peer, true);
                }
            }
            Action::Load { stream, from_seq, bytes_max, purpose } => {
                self.nodes[index].reads += 1;
                let delay = self.draw(|weather| &weather.read_ms);
                let event = Event::Read { node: index, run, stream, from_seq, bytes_max, purpose };
                self.plan(now + delay, event);
            }
            Action::Reply(ticket, reply) => drop(self.nodes[index].replies.insert(ticket, reply)),
            Action::Event { kind, detail, .. } => self.nodes[index].events.push((kind, detail)),
            Action::Audited(entry) => self.nodes[index].audited.push(entry),
            Action::DirectoryChanged | Action::Latency(_) => {}
        }
    }

    fn apply(&mut self, index: usize) {
        let now = self.time_of(index);
        let node = &mut self.nodes[index];
        if let Some(saving) = node.saving.as_mut().filter(|saving| !saving.applied) {
            saving.applied = true;
            node.store.apply(&saving.commit);
            self.ledger.note(index, now, &saving.commit);
        }
    }

    /// Makes a core from what the store holds.
    pub(crate) fn start(&mut self, index: usize) {
        let now = self.time_of(index);
        let seed = self.rng.next_u64();
        self.tell(|| format!("{index}: start"));
        let node = &mut self.nodes[index];
        if node.core.is_some() {
            return;
        }
        node.config.seed = seed;
        let mut recovery = Recovery::new(node.config.clone());
        for found in node.store.recover() {
            recovery.add(now, found).unwrap();
        }
        node.core = Some(recovery.finish(now).unwrap());
        self.drive(index);
    }

    /// The process is gone. A commit that was being saved is on the disk, or it is not. The others learn of it
    /// at different times.
    pub(crate) fn crash(&mut self, index: usize) {
        let saved = self.rng.chance(0.5);
        self.crash_with(index, saved);
    }

    /// The same, where it is known whether the commit that was being saved is on the disk.
    pub(crate) fn crash_with(&mut self, index: usize, saved: bool) {
        if self.nodes[index].core.is_none() {
            return;
        }
        self.tell(|| format!("{index}: crash, saved {saved}"));
        if saved {
            self.apply(index);
        }
        let node = &mut self.nodes[index];
        node.core = None;
        node.saving = None;
        node.run += 1;
        node.replies.clear();
        for (_, (wire, end)) in std::mem::take(&mut node.links) {
            if let Some(state) = self.wires.get_mut(&wire) {
                state.ends[end].open = false;
            }
            self.lose_end(wire, 1 - end, "the connection was reset");
        }
    }

    /// Crashes and starts again at once.
    pub(crate) fn restart(&mut self, index: usize) {
        self.crash(index);
        self.start(index);
    }

    /// Goes down as an operator's `stop` would, and waits for what is promised.
    pub(crate) fn shut_down(&mut self, index: usize) {
        if self.nodes[index].core.is_none() {
            return;
        }
        self.with_core(index, Core::stop);
        self.wait("a shutdown", Duration::from_secs(60), |world| {
            world.nodes[index].core.as_ref().is_none_or(Core::is_settled)
        });
        self.crash(index);
    }

    // ------------------------------------------------------------ the network

    fn send(&mut self, index: usize, link: LinkId, channel: Channel, mut body: Body) {
        let Some((wire, end)) = self.nodes[index].links.get(&link).copied() else { return };
        if let Some(tamper) = &mut self.tamper {
            tamper(index, &mut body);
        }
        let to = self.wires.get(&wire).map_or(0, |state| state.ends[1 - end].node);
        if let Some(sniffed) = &mut self.sniffed {
            sniffed.push((index, to, channel, body.clone()));
        }
        let mut bytes = BytesMut::new();
        frame::encode(body, &mut bytes);
        self.send_bytes(wire, 1 - end, channel, bytes);
    }

    fn send_bytes(&mut self, wire: u64, end: usize, channel: Channel, bytes: BytesMut) {
        let now = self.clock.now_ms();
        let mut latency = self.draw(|weather| &weather.latency_ms);
        if let Channel::Blob(_) = channel {
            latency += self.weather.blob_ms;
        }
        let Some(state) = self.wires.get_mut(&wire) else { return };
        let pair = pair(state.ends[0].node, state.ends[1].node);
        let mut open = self.partitions.get(&pair).copied().unwrap_or(0).max(now);
        if let Some(rate) = self.weather.bytes_per_s.filter(|_| channel != Channel::Control) {
            open = open.max(state.ends[end].busy_until) + bytes.len() as u64 * 1000 / rate;
            state.ends[end].busy_until = open;
        }
        let last = state.ends[end].last.entry(channel.number()).or_default();
        let at = (open + latency).max(*last);
        *last = at;
        self.plan(at, Event::Frame { wire, end, channel, bytes });
    }

    /// Puts a frame on the live link from one node to another, as if that one's core had sent it.
    pub(crate) fn forge(&mut self, from: usize, to: usize, channel: Channel, body: Body) {
        let link = self.link_between(from, to).expect("they are linked");
        self.send(from, link, channel, body);
    }

    /// Puts bytes on the live link from one node to another.
    pub(crate) fn forge_bytes(&mut self, from: usize, to: usize, channel: Channel, bytes: &[u8]) {
        let link = self.link_between(from, to).expect("they are linked");
        let (wire, end) = self.nodes[from].links[&link];
        self.send_bytes(wire, 1 - end, channel, BytesMut::from(bytes));
    }

    fn link_between(&self, from: usize, to: usize) -> Option<LinkId> {
        let links = self.nodes[from].links.iter().rev();
        links
            .filter(|(_, (wire, end))| {
                self.wires.get(wire).is_some_and(|wire| wire.ends[1 - end].node == to && !wire.cut)
            })
            .map(|(link, _)| *link)
            .next()
    }

    /// Whether a node has a connection to another that it can send on.
    pub(crate) fn linked(&self, from: usize, to: usize) -> bool {
        self.link_between(from, to).is_some()
    }

    /// How many connections a node has to another.
    pub(crate) fn links_between(&self, from: usize, to: usize) -> usize {
        let links = self.nodes[from].links.values();
        links.filter(|(wire, end)| self.wires[wire].ends[1 - end].node == to).count()
    }

    /// Whether the only connection between two nodes was dialled by the first.
    pub(crate) fn dialled_by(&self, dialer: usize, acceptor: usize) -> bool {
        let wires = self.nodes[dialer].links.values().map(|(wire, _)| &self.wires[wire]);
        wires
            .filter(|wire| wire.ends.iter().any(|end| end.node == acceptor))
            .all(|wire| wire.ends[0].node == dialer)
    }

    fn dial(&mut self, index: usize, peer: PeerKey, probe: bool) {
        let now = self.clock.now_ms();
        let node = &self.nodes[index];
        let run = node.run;
        let target =
            node.core.as_ref().and_then(|core| core.directory().peer(peer)).map(|p| p.domain.clone());
        let target = target.and_then(|domain| {
            let own = self.nodes.iter().position(|node| node.domain == domain);
            self.impostors.get(&(index, domain)).copied().or(own)
        });
        let there = self.draw(|weather| &weather.latency_ms);
        let back = self.draw(|weather| &weather.latency_ms);
        let apart = |other| self.partitions.get(&pair(index, other)).is_some_and(|until| *until > now);
        let other = target.filter(|other| self.nodes[*other].core.is_some() && !apart(*other));
        let Some(other) =
            other.filter(|_| !self.mute.contains(&index) && !self.rng.chance(self.weather.dial_fails))
        else {
            if !probe {
                self.plan(now + there + back, Event::DialFailed { node: index, run, peer });
            }
            return;
        };
        let mut random = || self.rng.bytes(32).try_into().unwrap();
        let binding = ChannelBinding { dialer: random(), acceptor: random(), rotation: random() };
        let mut end = |node: usize| {
            self.next_link += 1;
            let run = self.nodes[node].run;
            End {
                node,
                run,
                link: LinkId(self.next_link),
                open: false,
                seen: false,
                last: BTreeMap::new(),
                busy_until: 0,
            }
        };
        let ends = [end(index), end(other)];
        self.next_wire += 1;
        let wire = self.next_wire;
        self.tell(|| format!("wire {wire}: {index} dials {other}"));
        self.wires.insert(wire, Wire { ends, cut: false });
        for (end, dialed, certificate, delay) in [
            (1, None, self.nodes[index].certificate.clone(), there),
            (0, Some(peer), self.nodes[other].certificate.clone(), there + back),
        ] {
            let (binding, transport) = (binding.clone(), self.weather.transport);
            let opened = Opened { dialed, transport, certificate, vouched: Vec::new(), binding };
            self.plan(now + delay, Event::Open { wire, end, opened: Box::new(opened) });
        }
    }

    /// Cuts all connections between two nodes: what is under way is lost, and each side learns of it in its own
    /// time, or has to find out.
    pub(crate) fn cut(&mut self, a: usize, b: usize) {
        let between = |wire: &Wire| pair(wire.ends[0].node, wire.ends[1].node) == pair(a, b);
        let cut: Vec<u64> =
            self.wires.iter().filter(|(_, wire)| !wire.cut && between(wire)).map(|(id, _)| *id).collect();
        for wire in cut {
            self.wire_lost(wire, "the connection was lost");
        }
    }

    /// The same, and both sides learn of it at once.
    pub(crate) fn cut_now(&mut self, a: usize, b: usize) {
        let between = |wire: &Wire| pair(wire.ends[0].node, wire.ends[1].node) == pair(a, b);
        let cut: Vec<u64> =
            self.wires.iter().filter(|(_, wire)| !wire.cut && between(wire)).map(|(id, _)| *id).collect();
        for wire in cut {
            for end in [0, 1] {
                self.carry_out(Event::Closed { wire, end, reason: "the connection was lost".into() });
            }
            if let Some(state) = self.wires.get_mut(&wire) {
                state.cut = true;
            }
        }
    }

    /// The same, and only one of them ever hears of it.
    pub(crate) fn cut_unnoticed(&mut self, by: usize, other: usize) {
        for wire in self.wires.values_mut() {
            if !wire.cut && pair(wire.ends[0].node, wire.ends[1].node) == pair(by, other) {
                let end = usize::from(wire.ends[1].node == other);
                // Nothing more arrives there, not even the end.
                wire.ends[end].run = u64::MAX;
            }
        }
        self.cut_now(by, other);
    }

    fn wire_lost(&mut self, wire: u64, reason: &str) {
        if let Some(state) = self.wires.get_mut(&wire) {
            state.cut = true;
        }
        for end in [0, 1] {
            self.lose_end(wire, end, reason);
        }
    }

    fn lose_end(&mut self, wire: u64, end: usize, reason: &str) {
        let Some(state) = self.wires.get_mut(&wire) else { return };
        state.cut = true;
        let delay = match self.rng.index(4) {
            0 => 0,
            1 | 2 => self.rng.range(0..2000),
            // The shell's own idle timeout.
            _ => self.rng.range(2000..35_000),
        };
        let at = self.clock.now_ms() + delay;
        self.plan(at, Event::Closed { wire, end, reason: reason.to_owned() });
    }

    /// Keeps two nodes from reaching each other for a while. What is sent meanwhile arrives afterwards, if the
    /// connection is still there.
    pub(crate) fn partition(&mut self, a: usize, b: usize, duration: Duration) {
        let until = (self.now() + duration).unix_ms();
        self.partitions.insert(pair(a, b), until);
    }

    /// Everybody reaches everybody.
    pub(crate) fn heal(&mut self) {
        self.partitions.clear();
    }

    // ------------------------------------------------------------ operators and messaging servers

    pub(crate) fn ticket(&mut self, node: usize) -> Ticket {
        self.nodes[node].last_ticket += 1;
        Ticket(self.nodes[node].last_ticket)
    }

    pub(crate) fn admin(&mut self, node: usize, op: AdminOp) -> Result<AdminReply, AdminError> {
        let ticket = self.ask_admin(node, op);
        match self.answer(node, ticket) {
            Reply::Admin(reply) => reply,
            other => panic!("not an operator's answer: {other:?}"),
        }
    }

    pub(crate) fn ask_admin(&mut self, node: usize, op: AdminOp) -> Ticket {
        let ticket = self.ticket(node);
        self.with_core(node, |core, now| core.operate(now, ticket, "root", op));
        ticket
    }

    /// Waits for an answer.
    pub(crate) fn answer(&mut self, node: usize, ticket: Ticket) -> Reply {
        let mut found = None;
        self.wait("an answer", Duration::from_secs(130), |world| {
            found = world.nodes[node].replies.remove(&ticket);
            found.is_some()
        });
        found.unwrap()
    }

    pub(crate) fn ask_submit(
        &mut self,
        node: usize,
        network: NetworkKey,
        batch: Vec<wire::Submission>,
    ) -> Ticket {
        let ticket = self.ticket(node);
        self.with_core(node, |core, now| core.submit(now, ticket, network, batch));
        ticket
    }

    pub(crate) fn submit(
        &mut self,
        node: usize,
        network: NetworkKey,
        batch: Vec<wire::Submission>,
    ) -> Vec<wire::SubmitResult> {
        let ticket = self.ask_submit(node, network, batch);
        match self.answer(node, ticket) {
            Reply::Submitted(results) => results,
            other => panic!("not a submission's answer: {other:?}"),
        }
    }

    pub(crate) fn ask_read(
        &mut self,
        node: usize,
        stream: Stream,
        after: Option<u64>,
        max: usize,
        wait: Duration,
    ) -> Ticket {
        let ticket = self.ticket(node);
        self.with_core(node, |core, now| core.read(now, ticket, stream, after, max, wait));
        ticket
    }

    pub(crate) fn read(&mut self, node: usize, stream: Stream, max: usize) -> Vec<(u64, Record)> {
        let ticket = self.ask_read(node, stream, None, max, Duration::ZERO);
        match self.answer(node, ticket) {
            Reply::Records(records) => records,
            other => panic!("not a reader's answer: {other:?}"),
        }
    }

    pub(crate) fn ask_ack(&mut self, node: usize, stream: Stream, up_to: u64) -> Ticket {
        let ticket = self.ticket(node);
        self.with_core(node, |core, now| core.ack(now, ticket, stream, up_to));
        ticket
    }

    pub(crate) fn ack(&mut self, node: usize, stream: Stream, up_to: u64) {
        let ticket = self.ask_ack(node, stream, up_to);
        assert!(matches!(self.answer(node, ticket), Reply::Acked));
    }

    pub(crate) fn overview(&self, node: usize) -> Overview {
        self.core(node).overview(self.time_of(node))
    }

    pub(crate) fn peer(&self, node: usize, other: usize) -> PeerView {
        let name = &self.nodes[other].domain;
        self.overview(node).peers.into_iter().find(|peer| peer.domain == *name).expect("they are peers")
    }

    /// Adds a network `id` with the local domain `id.<federation domain>`.
    pub(crate) fn add_network(&mut self, node: usize, id: &str, policy: Policy) -> NetworkKey {
        let spec = self.spec(node, id, policy);
        let local = spec.local_domains[0].as_str().to_owned();
        self.admin(node, AdminOp::NetworkAdd(Box::new(spec))).unwrap();
        let key = self.network(node, id);
        self.ledger.networks.insert(local, (node, key));
        key
    }

    pub(crate) fn update_network(&mut self, node: usize, id: &str, policy: Policy) {
        let spec = self.spec(node, id, policy);
        self.admin(node, AdminOp::NetworkUpdate(Box::new(spec))).unwrap();
    }

    pub(crate) fn spec(&self, node: usize, id: &str, policy: Policy) -> NetworkSpec {
        let local = domain(&format!("{id}.{}", self.nodes[node].domain));
        let id: NetworkId = id.parse().unwrap();
        NetworkSpec {
            id,
            label: String::new(),
            local_domains: vec![local],
            hidden_domains: Vec::new(),
            policy,
            webhook: None,
        }
    }

    pub(crate) fn network(&self, node: usize, id: &str) -> NetworkKey {
        self.core(node).directory().network_by_id(id).expect("it was added").key
    }

    pub(crate) fn claims(&self, node: usize) -> Vec<LocalDomain> {
        self.core(node).directory().local_domains()
    }

    /// The bundle that a node's shell would write for another.
    pub(crate) fn bundle(
        &self,
        from: usize,
        to: usize,
        api_key: ApiKey,
        nonce: String,
        in_reply_to: Option<String>,
    ) -> Bundle {
        Bundle {
            domain: self.nodes[from].domain.clone(),
            audience: self.nodes[to].domain.clone(),
            local_domains: self.claims(from),
            endpoints: vec!["192.0.2.1:8443".into()],
            certificate: String::new(),
            pin: Pin::of_certificate(&self.nodes[from].certificate).unwrap(),
            api_key,
            expires: self.time_of(from) + Duration::from_secs(3600),
            nonce,
            in_reply_to,
        }
    }

    /// One operator invites the other, and both accept.
    pub(crate) fn introduce(&mut self, a: usize, b: usize) {
        let answer = self.invite(a, b);
        let accept = AdminOp::PeerAccept { bundle: Box::new(answer), allow_private_ips: true };
        self.admin(a, accept).unwrap();
    }

    /// One operator invites, the other accepts; what is left is to accept the bundle that is handed back.
    pub(crate) fn invite(&mut self, a: usize, b: usize) -> Bundle {
        let expires = self.time_of(a) + Duration::from_secs(3600);
        let invite = AdminOp::PeerInvite { domain: self.nodes[b].domain.clone(), expires };
        let Ok(AdminReply::Invited { api_key, nonce, .. }) = self.admin(a, invite) else {
            panic!("not invited");
        };
        let bundle = Box::new(self.bundle(a, b, api_key, nonce, None));
        let accept = AdminOp::PeerAccept { bundle, allow_private_ips: true };
        let Ok(AdminReply::Accepted { answer: Some(answer) }) = self.admin(b, accept) else {
            panic!("not accepted");
        };
        self.bundle(b, a, answer.api_key, String::new(), Some(answer.in_reply_to))
    }

    /// Waits until both ends see the link up.
    pub(crate) fn wait_up(&mut self, a: usize, b: usize) {
        self.wait("a link", Duration::from_secs(300), |world| world.is_up(a, b) && world.is_up(b, a));
    }

    pub(crate) fn is_up(&self, node: usize, other: usize) -> bool {
        use trunkline_gateway_proto::admin::LinkState;
        self.nodes[node].core.is_some() && self.peer(node, other).link == LinkState::Up
    }

    /// Nodes that are down.
    pub(crate) fn down(&self) -> BTreeSet<usize> {
        (0..self.nodes.len()).filter(|node| self.nodes[*node].core.is_none()).collect()
    }
}

fn pair(a: usize, b: usize) -> (usize, usize) {
    (a.min(b), a.max(b))
}
