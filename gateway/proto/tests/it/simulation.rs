//! Seeded runs under load: messaging servers that submit, read and crash, gateways that crash, links that break,
//! operators that pause, purge and rotate; then a quiet time, after which nothing may be left or missing.
//!
//! `TRUNKLINE_SIM_SEED=n` replays seed n alone, and tells what happens with `TRUNKLINE_SIM_VERBOSE=1`;
//! `TRUNKLINE_SIM_SEEDS=n` says how many to run.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use trunkline_gateway_proto::admin::{AdminOp, LinkState};
use trunkline_gateway_proto::audit;
use trunkline_gateway_proto::core::{Config, Reply, Ticket};
use trunkline_gateway_proto::link::Transport;
use trunkline_gateway_proto::policy::{Federation, Other, Permitted, Policy};
use trunkline_gateway_proto::probe::Leftovers;
use trunkline_gateway_proto::receipt::refusal_name;
use trunkline_gateway_proto::store::{NetworkKey, Stream};
use trunkline_gateway_proto::wire;
use trunkline_testkit::rng::Rng;

use crate::ledger::Origin;
use crate::world::{Weather, World, spare_certificate};

/// Seeds that found a bug once.
const FOUND: &[u64] = &[253, 1227, 1288, 2156, 2736, 2757, 2956, 3137, 4359, 4596, 5088, 6438, 864, 869];

/// What payloads are cut from.
static PAYLOAD: [u8; 300_000] = [7; 300_000];

/// What one run does, and how often.
struct Plan {
    steps: usize,
    /// Longest pause between two steps.
    pause_ms: u64,
    conversations: u64,
    batch_max: u64,
    blobs: f64,
    short_ttl: f64,
    guests: f64,
    duplicates: f64,
    crash: f64,
    stay_down_ms: u64,
    cut: f64,
    partition: f64,
    shutdown: f64,
    pause_peer: f64,
    purge: f64,
    rotate: f64,
    announce: f64,
    storage: f64,
    skew: f64,
    divorce: f64,
    reader_crash: f64,
}

/// A messaging server: one network's submissions and readers.
struct Server {
    node: usize,
    network: NetworkKey,
    id: String,
    policy: Policy,
    /// To be submitted again, in this order, before anything new.
    again: VecDeque<wire::Submission>,
    /// Submitted and not answered, in this order.
    outstanding: VecDeque<(Ticket, Vec<wire::Submission>)>,
    /// Answered: which recipients were accepted.
    accepted: BTreeMap<Vec<u8>, Vec<String>>,
    /// Peers may have been gone when an answer was lost: what it said cannot be told.
    unsure: bool,
    /// Receipts were read for these: they must not be submitted again.
    told: BTreeSet<Vec<u8>>,
    /// What was accepted, to submit it again.
    originals: BTreeMap<Vec<u8>, wire::Submission>,
    inbox: Reader,
    receipts: Reader,
    /// The gateway's run that tickets belong to.
    run: u64,
    count: u64,
}

#[derive(Default)]
struct Reader {
    ticket: Option<(Ticket, u64)>,
    ack: Option<(Ticket, u64)>,
    /// The last one handed out since the reader or the gateway started.
    seen: Option<u64>,
    /// Acknowledged, and answered so.
    acked: u64,
    /// Acknowledged, whatever became of it.
    tried: u64,
    /// Everything that was ever read.
    read: BTreeSet<u64>,
}

#[test]
fn every_envelope_ends_in_exactly_one_way_whatever_happens() {
    let number = |name| std::env::var(name).ok().map(|text: String| text.parse::<u64>().unwrap());
    let seeds: Vec<u64> = match (number("TRUNKLINE_SIM_SEED"), number("TRUNKLINE_SIM_SEEDS")) {
        (Some(seed), None) => vec![seed],
        (first, count) => {
            let first = first.unwrap_or(1);
            FOUND.iter().copied().chain(first..first + count.unwrap_or(2000)).collect()
        }
    };
    let next = std::sync::atomic::AtomicUsize::new(0);
    let failed = std::sync::Mutex::new(Vec::new());
    let start = std::time::Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from).min(4) {
            scope.spawn(|| {
                while let Some(seed) = seeds.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
                    let run = std::panic::catch_unwind(|| run(*seed));
                    if run.is_err() {
                        eprintln!("seed {seed} failed: replay it with TRUNKLINE_SIM_SEED={seed}");
                        failed.lock().unwrap().push(*seed);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    println!("{} seeds in {:?}", seeds.len(), start.elapsed());
    assert!(failed.is_empty(), "{} of {} seeds failed: {failed:?}", failed.len(), seeds.len());
}

fn run(seed: u64) {
    let mut rng = Rng::new(seed ^ 0x5eed);
    let plan = Plan::draw(&mut rng);
    let count = 2 + rng.index(2);
    let (resident, credit, messages, delay) = (
        [0, 3000, 60_000, 32 << 20][rng.index(4)],
        [1_300_000, 3_000_000, 32 << 20][rng.index(3)],
        [8, 64, 65_536][rng.index(3)],
        [0, 2, 20][rng.index(3)],
    );
    let mut world = World::with(seed, count, |config: &mut Config| {
        config.resident_bytes_max = resident;
        config.credit_bytes = credit;
        config.credit_messages = messages;
        config.commit_delay = Duration::from_millis(delay);
        config.retention = Duration::from_secs(6 * 3600);
    });
    let mut servers = Vec::new();
    for node in 0..count {
        for id in ["main", "lab"].iter().take(1 + rng.index(2)) {
            let policy = draw_policy(&mut rng, node, count);
            let network = world.add_network(node, id, policy.clone());
            let server = Server::new(&world, node, network, id, policy);
            servers.push(Server { unsure: plan.divorce > 0.0, ..server });
        }
    }
    for a in 0..count {
        for b in 0..a {
            world.introduce(a, b);
            world.wait_up(a, b);
        }
    }
    let mut run = Run {
        rng,
        plan,
        world,
        servers,
        down_until: BTreeMap::new(),
        announced: BTreeMap::new(),
        divorced: BTreeSet::new(),
    };
    run.world.weather = run.rough_weather();
    for _ in 0..run.plan.steps {
        run.step();
    }
    run.settle();
    run.check();
}

impl Plan {
    /// Each run does some things often and others not at all, so that rare combinations come up.
    fn draw(rng: &mut Rng) -> Self {
        fn some(rng: &mut Rng, max: f64) -> f64 {
            if rng.chance(0.5) { rng.unit() * max } else { 0.0 }
        }
        Self {
            steps: 40 + rng.index(160),
            pause_ms: [5, 50, 400, 4000][rng.index(4)],
            conversations: 1 + rng.range(0..12),
            batch_max: [1, 5, 40][rng.index(3)],
            blobs: some(rng, 0.05),
            short_ttl: some(rng, 0.5),
            guests: some(rng, 0.3),
            duplicates: some(rng, 0.3),
            crash: some(rng, 0.15),
            stay_down_ms: [1, 1000, 60_000][rng.index(3)],
            cut: some(rng, 0.2),
            partition: some(rng, 0.1),
            shutdown: some(rng, 0.05),
            pause_peer: some(rng, 0.1),
            purge: some(rng, 0.1),
            rotate: some(rng, 0.1),
            announce: some(rng, 0.1),
            storage: some(rng, 0.1),
            skew: some(rng, 0.5),
            divorce: some(rng, 0.03),
            reader_crash: some(rng, 0.2),
        }
    }
}

/// Every network has policies of its own; what they forbid comes back as a refusal.
fn draw_policy(rng: &mut Rng, node: usize, count: usize) -> Policy {
    let mut policy = Policy { allow_guests: rng.chance(0.7), ..Policy::default() };
    if rng.chance(0.3) {
        policy.blocked = (0..count).map(|n| format!("bad@main.{}.test", name(n)).parse().unwrap()).collect();
    }
    if rng.chance(0.1) {
        policy.federation = Federation::Disabled;
    } else if rng.chance(0.2) {
        policy.federation = Federation::Restricted;
        policy.permitted = (0..count)
            .filter(|other| *other != node || rng.chance(0.5))
            .map(|other| Permitted {
                domain: format!("{}.test", name(other)).parse().unwrap(),
                network: "main".parse().unwrap(),
            })
            .collect();
    }
    policy.normalise();
    policy
}

fn name(node: usize) -> &'static str {
    ["alpha", "beta", "gamma", "delta"][node]
}

struct Run {
    rng: Rng,
    plan: Plan,
    world: World,
    servers: Vec<Server>,
    /// Nodes that are down, and when they come back.
    down_until: BTreeMap<usize, u64>,
    /// Pairs that are peers no longer.
    divorced: BTreeSet<(usize, usize)>,
    /// Nodes that announced a certificate, and which.
    announced: BTreeMap<usize, usize>,
}

impl Run {
    fn rough_weather(&mut self) -> Weather {
        let rng = &mut self.rng;
        Weather {
            transport: [Transport::Quic, Transport::Tcp][usize::from(self.plan.steps.is_multiple_of(7))],
            blob_ms: [0, 500][usize::from(self.plan.steps.is_multiple_of(5))],
            latency_ms: [1..2, 5..50, 1..300][rng.index(3)].clone(),
            dial_fails: [0.0, 0.3][rng.index(2)],
            commit_ms: [0..1, 1..8, 5..200][rng.index(3)].clone(),
            read_ms: [0..1, 1..20, 1..800][rng.index(3)].clone(),
            bytes_per_s: (self.plan.steps.is_multiple_of(10)).then_some(200_000),
            commit_fails: [0.0, 0.0, 0.01][rng.index(3)],
        }
    }

    fn step(&mut self) {
        let pause = self.rng.range(0..self.plan.pause_ms + 1);
        // Now and then nothing happens for long: time-outs come due.
        let pause = if self.rng.chance(0.01) { pause + self.rng.range(0..120_000) } else { pause };
        self.world.run_for(Duration::from_millis(pause));
        self.bring_back();
        let count = self.world.nodes.len();
        let node = self.rng.index(count);
        let other = (node + 1 + self.rng.index(count - 1)) % count;
        if self.rng.chance(self.plan.crash) {
            self.world.crash(node);
            let back = self.world.now().unix_ms() + self.rng.range(0..self.plan.stay_down_ms);
            self.down_until.insert(node, back);
        }
        if self.rng.chance(self.plan.shutdown) {
            self.world.shut_down(node);
            let back = self.world.now().unix_ms() + self.rng.range(0..self.plan.stay_down_ms);
            self.down_until.insert(node, back);
        }
        if self.rng.chance(self.plan.cut) {
            self.world.cut(node, other);
        }
        if self.rng.chance(self.plan.partition) {
            let duration =
                Duration::from_millis(self.rng.range(1..[1000, 60_000][self.rng.clone().index(2)]));
            self.world.partition(node, other, duration);
        }
        self.operate(node, other);
        self.divorce(node.min(other), node.max(other));
        for index in 0..self.servers.len() {
            let mut server = std::mem::replace(&mut self.servers[index], Server::nobody());
            server.collect(&mut self.world, &mut self.rng, self.plan.reader_crash);
            if self.rng.chance(0.5) {
                self.submit(&mut server);
            }
            server.read_on(&mut self.world, &mut self.rng);
            self.servers[index] = server;
        }
    }

    fn bring_back(&mut self) {
        for node in self.world.down() {
            let now = self.world.now().unix_ms();
            if self.down_until.get(&node).is_some_and(|until| *until <= now) {
                self.down_until.remove(&node);
                if self.rng.chance(self.plan.skew) {
                    // Somebody set its clock: forward, or back.
                    let minutes_20 = 1_200_000;
                    self.world.nodes[node].skew_ms =
                        self.rng.range(0..2 * minutes_20) as i64 - minutes_20 as i64;
                }
                self.world.start(node);
            }
        }
    }

    fn operate(&mut self, node: usize, other: usize) {
        if self.world.nodes[node].core.is_none() {
            return;
        }
        if self.divorced.contains(&(node.min(other), node.max(other))) {
            return;
        }
        let domain = self.world.nodes[other].domain.clone();
        let ops = [
            (self.plan.pause_peer, AdminOp::PeerPause(domain.clone())),
            (self.plan.pause_peer, AdminOp::PeerResume(domain.clone())),
            (self.plan.purge, AdminOp::OutboxPurge { domain: domain.clone(), lane: None }),
            (self.plan.rotate, AdminOp::PeerRotateKey(domain.clone())),
            (self.plan.rotate, AdminOp::OutboxRetry(None)),
        ];
        for (chance, op) in ops {
            if self.rng.chance(chance) {
                self.world.ledger.purges += usize::from(matches!(op, AdminOp::OutboxPurge { .. }));
                self.world.ask_admin(node, op);
            }
        }
        if self.rng.chance(self.plan.announce) {
            self.rotate_certificate(node);
        }
        if self.rng.chance(self.plan.storage) {
            let low = self.rng.chance(0.5);
            self.world.with_core(node, |core, _| core.set_storage_low(low));
        }
    }

    /// Both operators end a peering; later they introduce each other again.
    fn divorce(&mut self, a: usize, b: usize) {
        let both_up = self.world.nodes[a].core.is_some() && self.world.nodes[b].core.is_some();
        // The operators wait for their answers, which a failing commit would keep from them.
        if !both_up || self.world.weather.commit_fails > 0.0 || !self.rng.chance(self.plan.divorce) {
            return;
        }
        if self.divorced.remove(&(a, b)) {
            self.world.introduce(a, b);
        } else {
            self.divorced.insert((a, b));
            self.world.ledger.purges += 1;
            for (node, other) in [(a, b), (b, a)] {
                let domain = self.world.nodes[other].domain.clone();
                self.world.admin(node, AdminOp::PeerRemove(domain)).unwrap();
            }
        }
    }

    /// Announces a certificate; uses it once every peer has stored it.
    fn rotate_certificate(&mut self, node: usize) {
        match self.announced.get(&node).copied() {
            None => {
                // Each node has certificates of its own, by turns.
                let number = node;
                self.announced.insert(node, number);
                let certificate = spare_certificate(number);
                self.world.ask_admin(node, AdminOp::IdentityAnnounce { certificate });
            }
            Some(number) => {
                let peers = self.world.overview(node).peers;
                if peers.iter().all(|peer| peer.next_certificate_ready == Some(true)) {
                    self.world.nodes[node].certificate = spare_certificate(number);
                }
            }
        }
    }

    fn submit(&mut self, server: &mut Server) {
        if self.world.nodes[server.node].core.is_none() {
            return;
        }
        let mut batch: Vec<_> = server.again.drain(..).collect();
        for _ in 0..self.rng.range(0..self.plan.batch_max + 1) {
            batch.push(self.envelope(server));
        }
        if self.rng.chance(self.plan.duplicates)
            && let Some(duplicate) = server.duplicate(&mut self.rng, &self.world)
        {
            batch.push(duplicate);
        }
        if !batch.is_empty() {
            let ticket = self.world.ask_submit(server.node, server.network, batch.clone());
            server.outstanding.push_back((ticket, batch));
        }
    }

    fn envelope(&mut self, server: &mut Server) -> wire::Submission {
        server.count += 1;
        let mut id = [0; 16];
        self.rng.fill(&mut id);
        id[0] = u8::try_from(server.node).unwrap();
        let others: Vec<String> = self
            .servers
            .iter()
            .filter(|other| !other.id.is_empty())
            .map(|other| format!("{}.{}.test", other.id, name(other.node)))
            .collect();
        let mut to = BTreeSet::new();
        for n in 0..1 + self.rng.index(3) {
            let domain = self.rng.pick(&others).expect("there is somebody else");
            to.insert(format!("u{n}@{domain}"));
        }
        // Just above and just below what takes a channel of its own; most are short, because copying takes the
        // most time of a run.
        let size = if self.rng.chance(self.plan.blobs) {
            self.rng.range(250_000..290_000)
        } else {
            let size = self.rng.range(1..2000);
            if size > 1800 { size } else { size % 100 }
        };
        let ttl_s = if self.rng.chance(self.plan.short_ttl) { self.rng.range(1..20) } else { 0 };
        let user = if self.rng.chance(0.1) { "bad" } else { "ann" };
        wire::Submission {
            id: Bytes::copy_from_slice(&id),
            from: format!("{user}@{}.{}.test", server.id, name(server.node)),
            to: to.into_iter().collect(),
            kind: wire::Kind::Message.into(),
            conversation: format!("c{}", self.rng.range(0..self.plan.conversations)),
            ttl_s,
            guest: self.rng.chance(self.plan.guests),
            payload: Bytes::from_static(&PAYLOAD[..usize::try_from(size).unwrap()]),
        }
    }

    /// Everything is repaired, and everybody reads what there is.
    fn settle(&mut self) {
        self.world.weather = Weather::default();
        self.world.heal();
        for node in self.world.down() {
            self.world.start(node);
        }
        let count = self.world.nodes.len();
        for (a, b) in std::mem::take(&mut self.divorced) {
            self.world.introduce(a, b);
        }
        for node in 0..count {
            self.world.with_core(node, |core, _| core.set_storage_low(false));
            for other in (0..count).filter(|other| *other != node) {
                let domain = self.world.nodes[other].domain.clone();
                self.world.admin(node, AdminOp::PeerResume(domain)).unwrap();
            }
        }
        let mut quiet = 0;
        for _ in 0..1000 {
            self.world.run_for(Duration::from_secs(1));
            for index in 0..self.servers.len() {
                let mut server = std::mem::replace(&mut self.servers[index], Server::nobody());
                server.collect(&mut self.world, &mut self.rng, 0.0);
                if !server.again.is_empty() {
                    let batch: Vec<_> = server.again.drain(..).collect();
                    let ticket = self.world.ask_submit(server.node, server.network, batch.clone());
                    server.outstanding.push_back((ticket, batch));
                }
                server.read_all(&mut self.world);
                self.servers[index] = server;
            }
            quiet = if self.is_quiet() { quiet + 1 } else { 0 };
            if quiet > 3 {
                return;
            }
        }
        for node in 0..count {
            let overview = self.world.overview(node);
            eprintln!("{}: {:?}", overview.domain, self.world.core(node).leftovers());
            for peer in overview.peers {
                eprintln!("  {}: {:?} {:?} {:?}", peer.domain, peer.link, peer.outbox, peer.last_error);
            }
            for network in overview.networks {
                eprintln!("  {:?} {:?} {:?}", network.spec.id, network.inbox, network.receipts);
            }
            eprintln!("  {:?}", self.world.nodes[node].store.occupied());
        }
        panic!("it does not come to rest");
    }

    fn is_quiet(&self) -> bool {
        let servers = self.servers.iter().all(|s| s.outstanding.is_empty() && s.again.is_empty());
        servers
            && (0..self.world.nodes.len()).all(|node| {
                let overview = self.world.overview(node);
                self.world.core(node).is_settled()
                    && self.world.core(node).leftovers() == Leftovers::default()
                    && self.world.nodes[node].store.occupied().is_empty()
                    && overview.peers.iter().all(|peer| peer.link == LinkState::Up)
                    && overview.networks.iter().all(|n| n.inbox.depth == 0 && n.receipts.depth == 0)
            })
    }

    fn check(&self) {
        for (node, state) in self.world.nodes.iter().enumerate() {
            let overview = self.world.overview(node);
            for peer in &overview.peers {
                assert_eq!(
                    (peer.outbox.depth, peer.outbox.bytes),
                    (0, 0),
                    "{} to {}",
                    overview.domain,
                    peer.domain
                );
            }
            for network in &overview.networks {
                assert_eq!((network.inbox.bytes, network.receipts.bytes), (0, 0));
            }
            let alarms: Vec<_> = state.events.iter().filter(|(kind, _)| kind.starts_with("alarm")).collect();
            assert!(alarms.is_empty(), "{}: {alarms:?}", overview.domain);
            let epochs = state.events.iter().filter(|(kind, _)| *kind == "peer.epoch").count();
            assert_eq!(epochs, 0, "{}: a new epoch out of nothing", overview.domain);
            let entries = state.store.read(Stream::Audit, 0, usize::MAX);
            let entries: Vec<audit::Entry> =
                entries.iter().map(|(_, record)| serde_json::from_slice(&record.body).unwrap()).collect();
            assert!(audit::verify(audit::genesis(), &entries).is_ok(), "the audit log is broken");
            let of_peers = state
                .store
                .state()
                .keys()
                .filter(|key| matches!(key.first(), Some(b'o' | b'i' | b'k' | b'w')));
            let known: Vec<_> =
                self.world.core(node).directory().peers().map(|peer| peer.key.0.to_be_bytes()).collect();
            for key in of_peers {
                assert!(
                    known.iter().any(|known| key.ends_with(known)),
                    "{}: a removed peer is left",
                    overview.domain
                );
            }
            let marks = state.store.state().keys().filter(|key| matches!(key.first(), Some(b'g' | b'r')));
            assert_eq!(marks.count(), 0, "{}: marks or refusals are left in the store", overview.domain);
        }
        for server in &self.servers {
            self.check_server(server);
        }
    }

    fn check_server(&self, server: &Server) {
        let ledger = &self.world.ledger;
        for (id, to) in &server.accepted {
            let origin: Origin = (server.node, server.network, id[..].try_into().unwrap());
            let original = &server.originals[id];
            let fates = ledger.fates.get(&origin);
            let told = fates.map_or(0, BTreeMap::len);
            assert_eq!(told, to.len(), "{origin:?}: {fates:?} for {to:?}");
            for address in to {
                let fate = &fates.unwrap()[address];
                let refusal = self.refusal(server, original, address);
                match fate.state {
                    wire::State::Delivered => assert_eq!(refusal, None, "{origin:?}: let in"),
                    wire::State::Refused => assert!(refusal.is_some(), "{origin:?}: {fate:?} without cause"),
                    wire::State::Expired => assert!(original.ttl_s > 0, "{origin:?} had time"),
                    _ => {}
                }
            }
        }
        let now = self.world.nodes[server.node].latest;
        let key = (server.node, server.network);
        for ((_, _, seq), arrival) in ledger.inboxes.range((key.0, key.1, 0)..=(key.0, key.1, u64::MAX)) {
            assert!(server.inbox.read.contains(seq) || arrival.expires <= now, "{seq} was never read");
        }
        for ((_, _, seq), _) in ledger.receipts.range((key.0, key.1, 0)..=(key.0, key.1, u64::MAX)) {
            assert!(server.receipts.read.contains(seq), "receipt {seq} was never read");
        }
    }

    /// Why the receiving network refuses an envelope, if it does.
    fn refusal(&self, from: &Server, envelope: &wire::Submission, to: &str) -> Option<&'static str> {
        let (node, network) = self.world.ledger.networks[to.rsplit_once('@').unwrap().1];
        let receiver = self.servers.iter().find(|s| (s.node, s.network) == (node, network)).unwrap();
        let domain = format!("{}.test", name(from.node));
        let other =
            Other { domain: &domain, network: &from.id, address: &envelope.from, guest: envelope.guest };
        receiver.policy.allows(other).err().map(refusal_name)
    }
}

impl Server {
    fn new(world: &World, node: usize, network: NetworkKey, id: &str, policy: Policy) -> Self {
        let run = world.nodes[node].run;
        let id = id.to_owned();
        Self { node, network, id, policy, run, ..Self::nobody() }
    }

    /// Stands in while the real one is at work.
    fn nobody() -> Self {
        Self {
            node: 0,
            network: NetworkKey(0),
            id: String::new(),
            policy: Policy::default(),
            again: VecDeque::new(),
            outstanding: VecDeque::new(),
            accepted: BTreeMap::new(),
            unsure: false,
            told: BTreeSet::new(),
            originals: BTreeMap::new(),
            inbox: Reader::default(),
            receipts: Reader::default(),
            run: 0,
            count: 0,
        }
    }

    /// One that was accepted and whose receipts were not all acknowledged: must be recognised.
    fn duplicate(&self, rng: &mut Rng, world: &World) -> Option<wire::Submission> {
        let ids: Vec<_> = self.accepted.keys().collect();
        let id = *rng.pick(&ids)?;
        let origin = (self.node, self.network, id[..].try_into().unwrap());
        let acked = world
            .ledger
            .receipts
            .range((self.node, self.network, 0)..=(self.node, self.network, self.receipts.tried))
            .any(|(_, other)| *other == origin);
        (!acked).then(|| self.originals[id].clone())
    }

    /// Takes in what was answered.
    fn collect(&mut self, world: &mut World, rng: &mut Rng, crash: f64) {
        if self.run != world.nodes[self.node].run {
            self.run = world.nodes[self.node].run;
            for (_, batch) in self.outstanding.drain(..) {
                // One that was submitted twice on purpose is not tried again: its receipts may be read meanwhile.
                let accepted = &self.accepted;
                self.again.extend(batch.into_iter().filter(|s| !accepted.contains_key(&s.id[..])));
            }
            self.inbox.forget();
            self.receipts.forget();
        }
        while let Some((ticket, _)) = self.outstanding.front()
            && let Some(reply) = world.nodes[self.node].replies.remove(ticket)
        {
            let (_, batch) = self.outstanding.pop_front().unwrap();
            let Reply::Submitted(results) = reply else { panic!("not a submission's answer: {reply:?}") };
            assert_eq!(results.len(), batch.len());
            for (submission, result) in batch.into_iter().zip(results) {
                self.submitted(submission, &result);
            }
        }
        if rng.chance(crash) {
            self.inbox.forget();
        }
        if rng.chance(crash) {
            self.receipts.forget();
        }
        let stream = Stream::Inbox { network: self.network };
        self.inbox.collect(world, self.node, stream);
        let stream = Stream::Receipts { network: self.network };
        let told = self.receipts.collect(world, self.node, stream);
        self.told.extend(told.iter().map(|origin| origin.2.to_vec()));
        // A receipt tells as well as an answer that it was accepted.
        let (told, again) =
            self.again.drain(..).partition(|submission| self.told.contains(&submission.id[..]));
        self.again = again;
        let result = wire::SubmitResult { duplicate: true, ..wire::SubmitResult::default() };
        VecDeque::into_iter(told).for_each(|submission| self.submitted(submission, &result));
    }

    fn submitted(&mut self, submission: wire::Submission, result: &wire::SubmitResult) {
        if result.problem == "disk-full" {
            self.again.push_back(submission);
            return;
        }
        let id = submission.id.to_vec();
        let known = self.accepted.get(&id);
        assert!(known.is_none() || result.duplicate, "not recognised: {result:?}");
        if known.is_some() {
            return;
        }
        let rejected: BTreeSet<_> = result.rejected.iter().map(|rejected| rejected.to.as_str()).collect();
        let expected: Vec<_> =
            submission.to.iter().filter(|to| self.may_send(&submission, to)).cloned().collect();
        if !result.duplicate {
            let accepted: usize = result.accepted.iter().map(|group| group.recipients as usize).sum();
            assert_eq!(accepted + rejected.len(), submission.to.len(), "{result:?}");
            // Between networks of one deployment the other one's policy is asked at once.
            let ours: Vec<_> =
                submission.to.iter().filter(|to| !rejected.contains(to.as_str())).cloned().collect();
            assert!(ours.iter().all(|to| expected.contains(to)), "{result:?}");
            if !ours.is_empty() {
                self.accepted.insert(id.clone(), ours);
                self.originals.insert(id, submission);
            }
            return;
        }
        // The answer was lost: what it said is known from the policies, when no local network has a say.
        self.originals.insert(id.clone(), submission.clone());
        let domain = format!(".{}.test", name(self.node));
        if !self.unsure && submission.to.iter().all(|to| !to.ends_with(&domain)) {
            self.accepted.insert(id, expected);
        }
    }

    fn may_send(&self, submission: &wire::Submission, to: &str) -> bool {
        let domain = to.rsplit_once('@').unwrap().1;
        let (network, deployment) = domain.split_once('.').unwrap();
        if deployment == format!("{}.test", name(self.node)) && network == self.id {
            return true;
        }
        let other = Other { domain: deployment, network, address: to, guest: submission.guest };
        self.policy.allows(other).is_ok()
    }

    fn read_on(&mut self, world: &mut World, rng: &mut Rng) {
        let network = self.network;
        for (reader, stream) in
            [(&mut self.inbox, Stream::Inbox { network }), (&mut self.receipts, Stream::Receipts { network })]
        {
            if reader.ticket.is_none() && rng.chance(0.5) {
                let after = if rng.chance(0.5) { reader.seen } else { None };
                let wait = Duration::from_millis(if rng.chance(0.5) { rng.range(1..20_000) } else { 0 });
                let max = 1 + rng.index(100);
                reader.start(world, self.node, stream, after, max, wait);
            }
            if let Some(seen) = reader.seen
                && reader.ack.is_none()
                && rng.chance(0.3)
            {
                let up_to = rng.range(reader.acked.min(seen)..seen + 1);
                reader.acknowledge(world, self.node, stream, up_to);
            }
        }
    }

    fn read_all(&mut self, world: &mut World) {
        let network = self.network;
        for (reader, stream) in
            [(&mut self.inbox, Stream::Inbox { network }), (&mut self.receipts, Stream::Receipts { network })]
        {
            if let Some(seen) = reader.seen
                && reader.ack.is_none()
                && seen > reader.acked
            {
                reader.acknowledge(world, self.node, stream, seen);
            }
            if reader.ticket.is_none() {
                reader.start(world, self.node, stream, reader.seen, 1000, Duration::ZERO);
            }
        }
    }
}

impl Reader {
    /// The reader or the gateway started anew.
    fn forget(&mut self) {
        (self.ticket, self.ack, self.seen) = (None, None, None);
    }

    fn start(
        &mut self,
        world: &mut World,
        node: usize,
        stream: Stream,
        after: Option<u64>,
        max: usize,
        wait: Duration,
    ) {
        if world.nodes[node].core.is_some() {
            let ticket = world.ask_read(node, stream, after, max, wait);
            self.ticket = Some((ticket, after.unwrap_or(0)));
        }
    }

    fn acknowledge(&mut self, world: &mut World, node: usize, stream: Stream, up_to: u64) {
        if world.nodes[node].core.is_some() {
            self.tried = self.tried.max(up_to);
            self.ack = Some((world.ask_ack(node, stream, up_to), up_to));
        }
    }

    /// Takes in what was read, and answers whose receipts were among it.
    fn collect(&mut self, world: &mut World, node: usize, stream: Stream) -> Vec<Origin> {
        if let Some((ticket, up_to)) = self.ack
            && let Some(reply) = world.nodes[node].replies.remove(&ticket)
        {
            assert!(matches!(reply, Reply::Acked));
            self.acked = self.acked.max(up_to);
            self.ack = None;
        }
        let Some((ticket, after)) = self.ticket else { return Vec::new() };
        let Some(reply) = world.nodes[node].replies.remove(&ticket) else { return Vec::new() };
        self.ticket = None;
        let Reply::Records(records) = reply else { panic!("not a reader's answer: {reply:?}") };
        let seqs: Vec<u64> = records.iter().map(|(seq, _)| *seq).collect();
        assert!(seqs.is_sorted_by(|a, b| a < b), "out of order: {seqs:?}");
        let (Some(first), Some(last)) = (seqs.first().copied(), seqs.last().copied()) else {
            return Vec::new();
        };
        assert!(first > after, "{first} is not after {after}");
        let now = world.nodes[node].latest;
        // What was acknowledged may come again, or not.
        let from = (after.max(self.tried) + 1).min(last + 1);
        let mut origins = Vec::new();
        match stream {
            Stream::Inbox { network } => {
                let due = world.ledger.inboxes.range((node, network, from)..(node, network, last + 1));
                for ((_, _, seq), arrival) in due {
                    assert!(seqs.contains(seq) || arrival.expires <= now, "{seq} was passed over: {seqs:?}");
                }
                for (seq, record) in &records {
                    let arrival = &world.ledger.inboxes[&(node, network, *seq)];
                    let envelope = wire::Envelope::decode(record.body.clone()).unwrap();
                    assert_eq!((arrival.origin.2, &arrival.to), (record.head.id, &envelope.to));
                }
            }
            Stream::Receipts { network } => {
                let due = world.ledger.receipts.range((node, network, from)..(node, network, last + 1));
                for ((_, _, seq), _) in due {
                    assert!(seqs.contains(seq), "receipt {seq} was passed over: {seqs:?}");
                }
                origins.extend(seqs.iter().map(|seq| world.ledger.receipts[&(node, network, *seq)]));
            }
            _ => {}
        }
        self.read.extend(&seqs);
        self.seen = Some(self.seen.unwrap_or(0).max(last));
        origins
    }
}
