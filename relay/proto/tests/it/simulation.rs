//! Seeded calls: people join, connect, leave, vanish, come back, move, renegotiate, mute and pin, over networks that
//! lose, delay, repeat and reorder, among those who send garbage. What everybody receives is looked at with
//! everybody's keys. Then the network turns good, and everybody must see and hear whom their slots show; then all go,
//! and nothing may be left.
//!
//! `TRUNKLINE_SIM_SEED=n` replays seed n alone, and tells what happens with `TRUNKLINE_SIM_VERBOSE=1`;
//! `TRUNKLINE_SIM_SEEDS=n` says how many to run.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use trunkline_relay_proto::dtls;
use trunkline_relay_proto::event::{Mute, Pin, Request, Role, SourceName};
use trunkline_relay_proto::media::{Content, Downstream, Kind, Section};
use trunkline_relay_proto::stun;
use trunkline_testkit::rng::Rng;

use crate::client::dtls_settings;

mod garbage;
mod peer;
mod repair;
mod world;

use peer::Dialect;
use world::{Weather, World, slots_of};

/// Seeds that found a bug once.
const FOUND: &[u64] = &[148, 299, 619, 698];

/// Seeds that are run unless the environment says otherwise: about 20 s.
const SEEDS: u64 = 250;

/// Clients do what they have to do this often.
const STEP: Duration = Duration::from_millis(10);

static RELAY: LazyLock<Arc<dtls::Settings>> = LazyLock::new(dtls_settings);
static CLIENT: LazyLock<Arc<dtls::Settings>> = LazyLock::new(dtls_settings);

/// What one run does, and how often in each tenth of a second.
#[derive(Debug)]
struct Plan {
    rooms: usize,
    people: usize,
    joins_max: usize,
    steps: usize,
    leave: f64,
    vanish: f64,
    rejoin: f64,
    roam: f64,
    restart: f64,
    renegotiate: f64,
    new_ssrc: f64,
    mute: f64,
    pin: f64,
    dark: f64,
    weather: f64,
    garbage: usize,
    descriptors: Option<bool>,
}

impl Plan {
    /// Each run does some things often and others not at all, so that rare combinations come up.
    fn draw(rng: &mut Rng) -> Self {
        fn some(rng: &mut Rng, max: f64) -> f64 {
            if rng.chance(0.5) { rng.unit() * max } else { 0.0 }
        }
        let most = [3, 5, 11][rng.index(3)];
        let people = 2 + rng.index(most);
        Self {
            rooms: 1 + rng.index(2),
            people,
            joins_max: people + 6,
            steps: 20 + rng.index(if people > 6 { 20 } else { 60 }),
            leave: some(rng, 0.1),
            vanish: some(rng, 0.05),
            rejoin: some(rng, 0.3),
            roam: some(rng, 0.2),
            restart: some(rng, 0.2),
            renegotiate: some(rng, 0.4),
            new_ssrc: some(rng, 0.2),
            mute: some(rng, 0.5),
            pin: some(rng, 0.5),
            dark: some(rng, 0.05),
            weather: some(rng, 0.2),
            garbage: if rng.chance(0.5) { rng.index(20) } else { 0 },
            descriptors: [None, Some(true), Some(false)][rng.index(3)],
        }
    }
}

/// The same names in both calls: they are other people.
fn names(people: usize) -> Vec<String> {
    (0..people).map(|person| format!("p{person}")).collect()
}

fn weather(rng: &mut Rng) -> Weather {
    let some = |rng: &mut Rng, max: f64| if rng.chance(0.6) { rng.unit() * max } else { 0.0 };
    Weather {
        loss: some(rng, 0.25),
        duplicates: some(rng, 0.1),
        delay: Duration::from_millis(rng.range(1..80)),
        jitter: Duration::from_millis([0, 5, 60][rng.index(3)]),
    }
}

const CALM: Weather = Weather {
    loss: 0.0,
    duplicates: 0.0,
    delay: Duration::from_millis(20),
    jitter: Duration::from_millis(2),
};

#[test]
fn calls_keep_their_promises_whatever_happens() {
    let number = |name| std::env::var(name).ok().map(|text: String| text.parse::<u64>().expect("a number"));
    let seeds: Vec<u64> = match (number("TRUNKLINE_SIM_SEED"), number("TRUNKLINE_SIM_SEEDS")) {
        (Some(seed), None) => vec![seed],
        (first, count) => {
            let first = first.unwrap_or(1);
            FOUND.iter().copied().chain(first..first + count.unwrap_or(SEEDS)).collect()
        }
    };
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(Vec::new());
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from).min(4) {
            scope.spawn(|| {
                while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if std::panic::catch_unwind(|| run(*seed)).is_err() {
                        eprintln!("seed {seed} failed: replay it with TRUNKLINE_SIM_SEED={seed}");
                        failed.lock().expect("whole").push(*seed);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().expect("whole");
    eprintln!("{} seeds in {:?}", seeds.len(), start.elapsed());
    assert!(failed.is_empty(), "{} of {} seeds failed: {failed:?}", failed.len(), seeds.len());
}

struct Run {
    rng: Rng,
    plan: Plan,
    world: World,
    joins: usize,
}

fn run(seed: u64) {
    let mut rng = Rng::new(seed ^ 0xca11);
    let plan = Plan::draw(&mut rng);
    let mut world = World::new(seed, plan.rooms, RELAY.clone(), CLIENT.clone());
    world.batch = [0.0, 0.5, 0.9][rng.index(3)];
    world.rough_handshakes = rng.chance(0.2);
    world.say(|| format!("{plan:?}"));
    let mut run = Run { rng, plan, world, joins: 0 };
    for room in 0..run.plan.rooms {
        for _ in 0..if room == 0 { run.plan.people.div_ceil(2).max(2) } else { 2 } {
            run.join(room);
        }
    }
    run.world.weather = weather(&mut run.rng);
    for _ in 0..run.plan.steps {
        run.step();
    }
    run.calm_down();
    run.all_go();
}

fn usual(rng: &mut Rng, dialect: &Dialect, base: u32) -> Vec<Section> {
    let mut sections = vec![
        dialect.section("mic", Kind::Audio, Some(Content::Main), base),
        dialect.section("cam", Kind::Video, Some(Content::Main), base + 10),
    ];
    for slot in 0..rng.range(1..4) {
        let at = base + 100 + u32::try_from(slot).expect("few") * 10;
        sections.push(dialect.section(&format!("a{slot}"), Kind::Audio, None, at));
    }
    for slot in 0..rng.range(1..4) {
        let at = base + 200 + u32::try_from(slot).expect("few") * 10;
        sections.push(dialect.section(&format!("v{slot}"), Kind::Video, None, at));
    }
    sections
}

impl Run {
    fn step(&mut self) {
        let pass = self.rng.range(20..180);
        self.world.pass(Duration::from_millis(pass), STEP);
        let does = |rng: &mut Rng, often: f64| rng.chance(often);
        let plan = &self.plan;
        let rng = &mut self.rng;
        let (leave, vanish, rejoin) = (does(rng, plan.leave), does(rng, plan.vanish), does(rng, plan.rejoin));
        let (roam, restart, renegotiate, new_ssrc) = (
            does(rng, plan.roam),
            does(rng, plan.restart),
            does(rng, plan.renegotiate),
            does(rng, plan.new_ssrc),
        );
        let (mute, pin, dark, change) =
            (does(rng, plan.mute), does(rng, plan.pin), does(rng, plan.dark), does(rng, plan.weather));
        let garbage = rng.index(1 + plan.garbage);
        if self.rng.chance(0.3) || rejoin {
            let room = self.rng.index(self.plan.rooms);
            self.join(room);
        }
        if leave && let Some(index) = self.somebody() {
            let politely = self.rng.chance(0.5);
            self.world.leave(index, politely);
        }
        if vanish && let Some(index) = self.somebody() {
            self.world.say(|| format!("{index} vanishes"));
            self.world.peers[index].active = false;
        }
        if roam && let Some(index) = self.somebody() {
            let path = self.world.new_path();
            self.world.roam(index, path);
        }
        if restart && let Some(index) = self.somebody() {
            self.world.restart_ice(index);
        }
        if renegotiate && let Some(index) = self.somebody() {
            self.renegotiate(index);
        }
        if new_ssrc && let Some(index) = self.somebody() {
            self.replace_sender(index);
        }
        if mute && let Some(index) = self.somebody() {
            self.mute(index);
        }
        if pin && let Some(index) = self.somebody() {
            self.pin(index);
        }
        if dark && let Some(index) = self.somebody() {
            let dark = self.rng.duration(Duration::from_secs(8));
            self.world.say(|| format!("{index} is cut off for {dark:?}"));
            self.world.peers[index].dark_until = self.world.now + dark;
        }
        if change {
            self.world.weather = weather(&mut self.rng);
        }
        for _ in 0..garbage {
            garbage::throw(&mut self.world, &mut self.rng);
        }
        self.world.compare_views();
    }

    fn somebody(&mut self) -> Option<usize> {
        let there: Vec<usize> =
            (0..self.world.peers.len()).filter(|index| self.world.peers[*index].active).collect();
        self.rng.pick(&there).copied()
    }

    fn join(&mut self, room: usize) {
        if self.joins >= self.plan.joins_max {
            return;
        }
        self.joins += 1;
        let names = names(self.plan.people);
        let name = self.rng.pick(&names).expect("some").clone();
        let mut path = self.world.new_path();
        if self.rng.chance(0.2) {
            // A NAT gives the address of one who went to another.
            let peers = &self.world.peers;
            let is_free = |path| !peers.iter().any(|peer| peer.active && peer.path == path);
            path = peers.iter().map(|peer| peer.path).find(|path| is_free(*path)).unwrap_or(path);
        }
        let role = if self.rng.chance(0.1) { Role::Viewer } else { Role::Presenter };
        let Self { world, rng, .. } = self;
        let joined = world.join(room, &name, role, path, |dialect, base| usual(rng, dialect, base));
        let Some(index) = joined else { return };
        for track in &mut self.world.peers[index].tracks {
            track.descriptors = self.plan.descriptors.unwrap_or(track.descriptors);
            if self.rng.chance(0.1) {
                track.level = None;
            }
        }
        if role == Role::Viewer {
            for section in &mut self.world.peers[index].description.sections {
                // What a viewer may not send it still tries to, now and then.
                if self.rng.chance(0.5) {
                    section.send = None;
                }
            }
        }
    }

    fn renegotiate(&mut self, index: usize) {
        let number = self.world.number();
        let peer = &mut self.world.peers[index];
        let mut sections = peer.description.sections.clone();
        match self.rng.index(4) {
            0 if sections.len() < 12 => {
                let mid = format!("v{number}");
                let section = peer.dialect.section(
                    &mid,
                    Kind::Video,
                    None,
                    peer.base + 300 + u32::try_from(sections.len()).expect("few") * 10,
                );
                sections.push(section);
            }
            1 if !sections.iter().any(|section| section.mid.as_str() == "scr") => {
                let section = peer.dialect.section("scr", Kind::Video, Some(Content::Slides), peer.base + 20);
                sections.push(section);
            }
            2 => {
                peer.dialect.codecs.reverse();
                // Another encoder begins anew.
                for track in &mut peer.tracks {
                    track.key_wanted = true;
                    track.descriptors ^= self.rng.chance(0.2);
                }
                for section in sections.iter_mut().filter(|section| section.kind == Kind::Video) {
                    section.payload_types.reverse();
                }
            }
            _ => {
                let at = self.rng.index(sections.len());
                let section = &mut sections[at];
                let mid = section.mid.as_str().to_owned();
                if let Some(track) = peer.tracks.iter().find(|track| track.mid == mid) {
                    let content = if mid == "scr" { Content::Slides } else { Content::Main };
                    let ssrc = track.ssrc;
                    let kind = section.kind;
                    let again = peer.dialect.section(&mid, kind, Some(content), ssrc);
                    section.send = if section.send.is_some() { None } else { again.send };
                } else if section.receive.take().is_none() {
                    // Another SSRC: under the old one, numbers were used up.
                    let ssrc = number * 1000 + 900;
                    let rtx_ssrc = (section.kind == Kind::Video).then_some(ssrc + 1);
                    section.receive = Some(Downstream { ssrc, rtx_ssrc });
                }
            }
        }
        let restart = self.rng.chance(0.2);
        self.world.update(index, sections, restart);
    }

    fn replace_sender(&mut self, index: usize) {
        let ssrc = self.world.number() * 1000 + 950;
        let peer = &mut self.world.peers[index];
        let at = self.rng.index(peer.tracks.len().max(1));
        let Some(track) = peer.tracks.get_mut(at) else { return };
        track.new_ssrc(ssrc);
        let mid = track.mid.clone();
        let mut sections = peer.description.sections.clone();
        for section in sections.iter_mut().filter(|section| section.mid.as_str() == mid) {
            if let Some(send) = &mut section.send {
                send.ssrcs = vec![ssrc, ssrc + 1];
            }
        }
        self.world.update(index, sections, false);
    }

    fn mute(&mut self, index: usize) {
        let call = self.world.peers[index].call;
        self.world.settle(call);
        let names = [SourceName::Microphone, SourceName::Camera, SourceName::Screen, SourceName::ScreenAudio];
        let (source, muted) = (names[self.rng.index(4)], self.rng.chance(0.5));
        let World { rooms, peers, now, .. } = &mut self.world;
        let done = rooms[call].call.request(*now, peers[index].id, Request::Mute(Mute { source, muted }));
        if done.is_ok() {
            for track in peers[index].tracks.iter_mut().filter(|track| track.name == source) {
                track.muted = muted;
            }
        }
        self.world.say(|| format!("{index} mutes {source:?} {muted}: {done:?}"));
        self.world.settle(call);
    }

    fn pin(&mut self, index: usize) {
        let call = self.world.peers[index].call;
        self.world.settle(call);
        let rng = &mut self.rng;
        let mids: Vec<String> = self.world.peers[index].slots.keys().cloned().collect();
        let slot = match rng.index(10) {
            0 => "nonsense".to_owned(),
            1 => String::new(),
            2 => "cam".to_owned(),
            _ => rng.pick(&mids).cloned().unwrap_or_default(),
        };
        let participant = match rng.index(8) {
            0 => Some("nobody".to_owned()),
            1..4 => None,
            _ => names(self.plan.people).get(rng.index(self.plan.people)).cloned(),
        };
        let sources =
            [SourceName::Microphone, SourceName::Camera, SourceName::Screen, SourceName::ScreenAudio];
        let source = if rng.chance(0.5) { None } else { rng.pick(&sources).copied() };
        let pinned = participant.is_some();
        let pin = Pin { slot: slot.clone(), participant, source, height: None };
        let World { rooms, peers, now, .. } = &mut self.world;
        let done = rooms[call].call.request(*now, peers[index].id, Request::Pin(pin.clone()));
        if done.is_ok() {
            peers[index].slots.get_mut(&slot).expect("a slot that can be pinned").pinned = pinned;
        }
        self.world.say(|| format!("{index} pins {pin:?}: {done:?}"));
        self.world.settle(call);
    }

    /// The network turns good. After some seconds everybody must get what their slots show.
    fn calm_down(&mut self) {
        let world = &mut self.world;
        world.say(|| "calm".to_owned());
        world.weather = CALM;
        for peer in &mut world.peers {
            peer.dark_until = world.now;
            for track in &mut peer.tracks {
                track.level_until = world.now + Duration::from_secs(3600);
                track.level = track.level.map(|_| if self.rng.chance(0.5) { 25 } else { 127 });
            }
        }
        world.pass(Duration::from_secs(9), STEP);
        world.compare_views();
        let recent = Duration::from_millis(600);
        for index in 0..world.peers.len() {
            let peer = &world.peers[index];
            if !peer.active {
                continue;
            }
            assert!(peer.sealer.is_some() || peer.dtls_failed, "{index} is connected");
            if peer.sealer.is_none() {
                continue;
            }
            let sending: Vec<(&str, SourceName, bool)> = world
                .peers
                .iter()
                .filter(|other| other.active && other.call == peer.call && other.name != peer.name)
                .filter(|other| other.sealer.is_some() && other.role == Role::Presenter)
                .filter(|other| other.dialect.codecs.iter().any(|codec| peer.dialect.codecs.contains(codec)))
                .flat_map(|other| {
                    let tracks = other.tracks.iter().filter(|track| !track.muted && other.sends(&track.mid));
                    tracks.map(|track| {
                        let codec = other.dialect.codecs[track.codec % other.dialect.codecs.len()];
                        let understood =
                            track.name.kind() == Kind::Audio || peer.dialect.codecs.contains(&codec);
                        let heard = track.name.kind() == Kind::Video || track.level != Some(127);
                        (other.name.as_str(), track.name, understood && heard)
                    })
                })
                .collect();
            for (mid, slot) in &peer.slots {
                let Some(view) = &slot.view else { continue };
                let source = sending.iter().find(|(name, source, heard)| {
                    *name == view.participant && *source == view.source && *heard
                });
                if source.is_none() {
                    continue;
                }
                let heard = slot.heard.get(&view.csrc).is_some_and(|at| world.now - *at < recent);
                assert!(heard, "{index} gets in {mid} what it shows: {view:?}");
                let decodes = !mid.starts_with('v') || slot.decodes == Some(view.csrc);
                assert!(decodes, "{index} can decode in {mid} what it shows: {view:?}");
            }
            for kind in ['v', 'a'] {
                let kind_of = if kind == 'v' { Kind::Video } else { Kind::Audio };
                let of = |pinned: bool| {
                    slots_of(&peer.slots, kind).filter(move |slot| slot.pinned == pinned).filter_map(|slot| {
                        Some((slot.view.as_ref()?.participant.as_str(), slot.view.as_ref()?.source))
                    })
                };
                let pinned: HashSet<_> = of(true).collect();
                let free = slots_of(&peer.slots, kind).filter(|slot| !slot.pinned).count();
                let wanted = sending
                    .iter()
                    .filter(|(name, source, heard)| {
                        source.kind() == kind_of && *heard && !pinned.contains(&(*name, *source))
                    })
                    .count();
                let shown = of(false).collect::<HashSet<_>>().len();
                assert!(
                    shown >= wanted.min(free),
                    "{index} sees {shown} of {wanted} in {free} slots of {kind}"
                );
            }
        }
    }

    /// Everybody leaves or vanishes, and nothing is left.
    fn all_go(&mut self) {
        while let Some(index) = self.somebody() {
            match self.rng.index(3) {
                0 => self.world.leave(index, true),
                1 => self.world.leave(index, false),
                _ => self.world.peers[index].active = false,
            }
        }
        self.world.pass(Duration::from_secs(70), Duration::from_millis(500));
        for room in &self.world.rooms {
            assert_eq!(room.call.participants(), 0);
            assert_eq!(room.call.poll_timeout(), None);
            assert!(room.call.snapshot(self.world.now).participants.is_empty());
        }
    }
}
