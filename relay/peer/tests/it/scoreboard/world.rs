//! A call in virtual time: the real core, real clients with their keys, and lines between them.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use trunkline_relay_peer::{Peer, PeerEvent, Plan, Received, Remote, Settings};
use trunkline_relay_proto::call::{self, Call, Join};
use trunkline_relay_proto::demux::{self, Protocol};
use trunkline_relay_proto::dtls;
use trunkline_relay_proto::egress::Egress;
use trunkline_relay_proto::event::{Audience, Notice, ParticipantId, Role, SourceName};
use trunkline_relay_proto::media::{IceCredentials, Mid};
use trunkline_relay_proto::path::Path;
use trunkline_testkit::rng::Rng;

use super::camera::{Camera, Microphone};
use super::flow::{self, Flow};
use super::link::{Line, Link};
use super::player::{Ear, Player};

/// What datagrams of a handshake count as, which no line loses: their bytes are truly random, certificates and
/// signatures differ in length, and a seed has to replay exactly.
const HANDSHAKE: usize = 600;

/// Turns without time going by, after which something is wrong.
const AT_ONCE_MAX: u32 = 10_000;

/// How often samples are taken.
pub(super) const SAMPLE: Duration = Duration::from_millis(100);

/// Packets that a client keeps to send again: a second of a camera.
const HISTORY: usize = 512;

/// Between two requests for a packet, as browsers have it that receive only and know no round-trip time.
const REPAIR_RETRY: Duration = Duration::from_millis(100);

/// What a sender takes its line for at first, and what of it goes to sound.
const UPLINK_FIRST_BPS: u64 = 300_000;
const SOUND_BPS: u64 = 60_000;

/// The relay's certificate.
static RELAY: LazyLock<Arc<dtls::Settings>> =
    LazyLock::new(|| Arc::new(Settings::new(Instant::now()).expect("a certificate").dtls));

/// What happens at a time.
enum What {
    ToRelay(usize, Vec<u8>),
    ToPeer(usize, Vec<u8>),
    Told(usize, Notice),
    Acknowledged(Instant),
    Dropped(u64),
}

struct Due {
    at: Instant,
    /// What was put there first happens first.
    order: u64,
    what: What,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// Who joins.
pub(super) struct Person {
    /// A camera in three encodings.
    pub(super) camera: bool,
    /// A microphone.
    pub(super) microphone: bool,
    /// Slots for pictures.
    pub(super) slots: usize,
    /// Slots for sound.
    pub(super) audio_slots: usize,
    /// Sends no more than it finds its line to carry. Without, its line is known to carry everything.
    pub(super) looks_up: bool,
    /// To the relay and from it.
    pub(super) up: Line,
    pub(super) down: Line,
}

/// A tenth of a second of somebody who watches.
#[derive(Clone, Debug, Default)]
pub(super) struct Sample {
    /// Since joining.
    pub(super) at: Duration,
    /// What the line carries, in bits per second.
    pub(super) rate: u64,
    /// What the relay thinks it carries.
    pub(super) estimate: Option<u64>,
    /// Payload bits of media that came, each once.
    pub(super) bits: u64,
    /// Height of the last picture in each slot; 0 before there was one.
    pub(super) heights: Vec<u16>,
    /// The longest that a packet waited.
    pub(super) wait: Duration,
}

/// What somebody sees and hears.
pub(super) struct Watcher {
    pub(super) joined: Instant,
    pub(super) players: Vec<(Mid, Player)>,
    pub(super) ears: Vec<(u32, Ear)>,
    pub(super) samples: Vec<Sample>,
    /// How long each packet of the call waited before the line.
    pub(super) waits: Vec<Duration>,
    now: Sample,
}

/// One participant.
pub(super) struct Member {
    pub(super) peer: Peer,
    pub(super) camera: Option<Camera>,
    pub(super) microphone: Option<Microphone>,
    pub(super) watcher: Watcher,
    looks_up: bool,
    up: Link,
    down: Link,
    line: Line,
}

/// The call.
pub(super) struct World {
    pub(super) now: Instant,
    began: Instant,
    settings: Arc<Settings>,
    pub(super) call: Call,
    egress: Egress,
    pub(super) members: Vec<Member>,
    heap: BinaryHeap<Reverse<Due>>,
    order: u64,
    rng: Rng,
    sample_at: Instant,
    /// A download on somebody's line.
    flow: Option<(usize, Flow)>,
}

fn path(index: usize) -> Path {
    let port = 5000 + u16::try_from(index).expect("few");
    Path::new(([10, 0, 0, 1], port).into(), [10, 0, 0, 2].into())
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let now = Instant::now();
        let mut settings = Settings::new(now).expect("settings").like_a_browser();
        settings.history_packets = HISTORY;
        settings.repair_retry = REPAIR_RETRY;
        let dtls = Arc::clone(&RELAY);
        let mut rng = Rng::new(seed);
        let call = call::Settings { participants_max: 100, dtls, seed: rng.next_u64() };
        Self {
            now,
            began: now,
            settings: settings.shared(),
            call: Call::new(now, call),
            egress: Egress::default(),
            members: Vec::new(),
            heap: BinaryHeap::new(),
            order: 0,
            rng,
            sample_at: now + SAMPLE,
            flow: None,
        }
    }

    /// Somebody joins now: times of the lines count from here.
    pub(super) fn join(&mut self, person: &Person) -> usize {
        let index = self.members.len();
        let number = u32::try_from(index).expect("few");
        let mut peer = Peer::new(&self.settings, self.rng.next_u64());
        let sources: Vec<SourceName> = [
            person.microphone.then_some(SourceName::Microphone),
            person.camera.then_some(SourceName::Camera),
        ]
        .into_iter()
        .flatten()
        .collect();
        let plan = Plan::receiver(person.audio_slots, person.slots).sending(&sources).simulcast().adaptive();
        let ice = IceCredentials { ufrag: format!("relay{number:03}"), pwd: "p".repeat(24) };
        let join = Join {
            id: ParticipantId(number),
            name: format!("p{number}").into(),
            role: if sources.is_empty() { Role::Viewer } else { Role::Presenter },
            description: peer.description(&plan),
            ice: ice.clone(),
        };
        self.call.join(self.now, join).expect("room");
        let address = ([10, 0, 0, 2], 16_384).into();
        peer.connect(self.now, Remote { ice, fingerprint: RELAY.fingerprint(), address });
        let slots = peer.slots().filter(|(mid, _)| mid.as_str().starts_with('v'));
        let players = slots.map(|(mid, _)| (mid, Player::new(self.began))).collect();
        self.members.push(Member {
            peer,
            camera: person.camera.then(|| Camera::new(self.began, self.now, self.rng.fork())),
            microphone: person.microphone.then(|| Microphone::new(self.now)),
            watcher: Watcher {
                joined: self.now,
                players,
                ears: Vec::new(),
                samples: Vec::new(),
                waits: Vec::new(),
                now: Sample::default(),
            },
            looks_up: person.looks_up,
            up: Link::new(person.up.clone(), self.now, self.rng.fork()),
            down: Link::new(person.down.clone(), self.now, self.rng.fork()),
            line: person.down.clone(),
        });
        index
    }

    /// Somebody downloads something meanwhile.
    pub(super) fn download_for(&mut self, whose: usize, times: Range<Duration>) {
        self.flow = Some((whose, Flow::new(self.now + times.start, self.now + times.end)));
    }

    /// Lets time go by.
    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        self.exchange();
        let mut at_once = 0;
        while let Some(next) = self.next().filter(|next| *next <= end) {
            at_once = if next > self.now { 0 } else { at_once + 1 };
            assert!(at_once < AT_ONCE_MAX, "something is due again and again: {}", self.due());
            self.now = self.now.max(next);
            self.act();
            self.exchange();
        }
        self.now = end;
    }

    fn next(&self) -> Option<Instant> {
        let mut next = Some(self.sample_at).into_iter().chain(self.call.poll_timeout()).min();
        let mut sooner = |at: Option<Instant>| next = next.into_iter().chain(at).min();
        sooner(self.heap.peek().map(|due| due.0.at));
        sooner(self.flow.as_ref().and_then(|(_, flow)| flow.poll_timeout()));
        for member in &self.members {
            sooner(member.peer.poll_timeout());
            if member.peer.is_connected() {
                sooner(member.camera.as_ref().map(Camera::poll_timeout));
                sooner(member.microphone.as_ref().map(Microphone::poll_timeout));
            }
            member.watcher.players.iter().for_each(|(_, player)| sooner(player.poll_timeout()));
        }
        next
    }

    /// Who has something to do at this moment.
    fn due(&self) -> String {
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= self.now);
        let members = self.members.iter().map(|member| {
            let cameras = member.camera.as_ref().map(Camera::poll_timeout);
            let players = member.watcher.players.iter().filter_map(|(_, player)| player.poll_timeout()).min();
            (due(member.peer.poll_timeout()), due(cameras), due(players))
        });
        let members: Vec<_> = members.collect();
        format!("call {}, peers, cameras, players {members:?}", due(self.call.poll_timeout()))
    }

    /// Does everything that is due.
    fn act(&mut self) {
        let now = self.now;
        while let Some(Reverse(due)) = self.heap.pop() {
            if due.at > now {
                self.heap.push(Reverse(due));
                break;
            }
            self.happen(due.what);
        }
        if self.call.poll_timeout().is_some_and(|at| at <= now) {
            self.call.handle_timeout(now, &mut self.egress);
        }
        for index in 0..self.members.len() {
            self.act_for(index);
        }
        self.download();
        if self.sample_at <= now {
            self.sample();
            self.sample_at = now + SAMPLE;
        }
    }

    fn act_for(&mut self, index: usize) {
        let now = self.now;
        let member = &mut self.members[index];
        if member.peer.poll_timeout().is_some_and(|at| at <= now) {
            member.peer.handle_timeout(now);
        }
        for at in 0..member.watcher.players.len() {
            let (mid, player) = &mut member.watcher.players[at];
            if player.poll_timeout().is_some_and(|at| at <= now) && player.play(now) {
                member.peer.request_key_frame(*mid);
            }
        }
        if !member.peer.is_connected() {
            return;
        }
        let mut sent: Vec<Vec<u8>> = Vec::new();
        let mut send = |datagram: &[u8]| sent.push(datagram.to_vec());
        if let Some(microphone) = member.microphone.as_mut().filter(|m| m.poll_timeout() <= now) {
            microphone.act(now, &mut member.peer, &mut send);
        }
        if let Some(camera) = member.camera.as_mut().filter(|camera| camera.poll_timeout() <= now) {
            if member.looks_up {
                // Before anything is known of its line, a browser begins small.
                let uplink = member.peer.uplink_bps().unwrap_or(UPLINK_FIRST_BPS);
                let next = camera.afford(uplink.saturating_sub(SOUND_BPS));
                member.peer.want_uplink(next.map(|bps| bps + SOUND_BPS));
            }
            camera.act(now, &mut member.peer, &mut send);
        }
        for datagram in sent {
            self.carry_up(index, datagram);
        }
    }

    fn happen(&mut self, what: What) {
        let now = self.now;
        match what {
            What::ToRelay(from, mut datagram) => {
                self.call.handle_datagram(now, path(from), &mut datagram, &mut self.egress);
            }
            What::ToPeer(to, datagram) => self.receive(to, datagram),
            What::Told(whom, notice) => self.hear(whom, &notice),
            What::Acknowledged(sent) => {
                self.flow.iter_mut().for_each(|(_, flow)| flow.acknowledged(now, now - sent));
            }
            What::Dropped(segment) => self.flow.iter_mut().for_each(|(_, flow)| flow.lost(segment)),
        }
    }

    fn receive(&mut self, to: usize, mut datagram: Vec<u8>) {
        let now = self.now;
        let Member { peer, watcher, .. } = &mut self.members[to];
        let Some(Received::Media(media)) = peer.handle_datagram(now, &mut datagram) else { return };
        let payload = &datagram[media.payload.clone()];
        if !media.new || payload.is_empty() {
            return;
        }
        watcher.now.bits += payload.len() as u64 * 8;
        let csrc = media.csrc.unwrap_or(0);
        match watcher.players.iter_mut().find(|(mid, _)| *mid == media.mid) {
            Some((_, player)) => {
                let mut elements = media.header.elements(&datagram);
                // As the light client's offers number it.
                let descriptor = elements.find(|(id, _)| *id == 3).map(|(_, value)| value);
                if let Some(descriptor) = descriptor {
                    player.receive(now, media.index, (csrc, descriptor, payload));
                }
            }
            None => match watcher.ears.iter_mut().find(|(known, _)| *known == csrc) {
                Some((_, ear)) => ear.receive(payload),
                None => {
                    let mut ear = Ear::default();
                    ear.receive(payload);
                    watcher.ears.push((csrc, ear));
                }
            },
        }
    }

    fn hear(&mut self, whom: usize, notice: &Notice) {
        let now = self.now;
        let member = &mut self.members[whom];
        match notice {
            Notice::Layers { sources } => {
                let Some(camera) = &mut member.camera else { return };
                let of_camera = sources.iter().filter(|layers| layers.source == SourceName::Camera);
                of_camera.for_each(|layers| camera.want(now, layers));
            }
            Notice::Slots { slots } => {
                for entry in slots {
                    let mut players = member.watcher.players.iter_mut();
                    if let Some((_, player)) = players.find(|(mid, _)| mid.as_str() == entry.slot) {
                        player.pause(now, entry.paused || entry.participant.is_none());
                    }
                }
            }
            _ => {}
        }
    }

    fn schedule(&mut self, at: Instant, what: What) {
        self.order += 1;
        self.heap.push(Reverse(Due { at, order: self.order, what }));
    }

    fn carry_up(&mut self, from: usize, datagram: Vec<u8>) {
        let handshake = demux::classify(&datagram) == Protocol::Dtls;
        let link = &mut self.members[from].up;
        let arrival = carried(link, self.now, datagram.len(), handshake);
        if let Some(at) = arrival {
            self.schedule(at, What::ToRelay(from, datagram));
        }
    }

    fn carry_down(&mut self, to: usize, datagram: &[u8]) {
        let now = self.now;
        let protocol = demux::classify(datagram);
        let Member { down, watcher, .. } = &mut self.members[to];
        if protocol == Protocol::Rtp {
            let wait = down.wait(now);
            watcher.waits.push(wait);
            watcher.now.wait = watcher.now.wait.max(wait);
        }
        let arrival = carried(down, now, datagram.len(), protocol == Protocol::Dtls);
        if let Some(at) = arrival {
            self.schedule(at, What::ToPeer(to, datagram.to_vec()));
        }
    }

    fn download(&mut self) {
        let now = self.now;
        let Some((whose, mut flow)) = self.flow.take() else { return };
        let back = self.members[whose].up.delay();
        while let Some(segment) = flow.poll_segment(now) {
            let link = &mut self.members[whose].down;
            match link.send(now, flow::SEGMENT) {
                Some(at) => self.schedule(at + back, What::Acknowledged(now)),
                None => {
                    // Acknowledgements of those behind it tell.
                    let at = now + link.wait(now) + link.delay() + back;
                    self.schedule(at, What::Dropped(segment));
                }
            }
        }
        self.flow = Some((whose, flow));
    }

    /// Carries what there is to carry onto the lines, until there is nothing.
    fn exchange(&mut self) {
        let mut out = [0; 1500];
        for index in 0..self.members.len() {
            while let Some(len) = self.members[index].peer.poll_transmit(self.now, &mut out) {
                self.carry_up(index, out[..len].to_vec());
            }
            while let Some(event) = self.members[index].peer.poll_event() {
                if let (PeerEvent::KeyFrameWanted(SourceName::Camera, encoding), Some(camera)) =
                    (event, &mut self.members[index].camera)
                {
                    camera.want_key_frame(encoding);
                }
            }
        }
        loop {
            let more = self.call.poll_egress(self.now, &mut self.egress);
            let trains: Vec<(usize, Vec<u8>, usize)> = self
                .egress
                .trains()
                .iter()
                .map(|train| {
                    let to = usize::from(train.path.remote.port() - 5000);
                    (to, self.egress.bytes(train).to_vec(), train.segment)
                })
                .collect();
            assert_eq!(self.egress.clear(), 0, "room for everything");
            for (to, bytes, segment) in trains {
                bytes.chunks(segment).for_each(|datagram| self.carry_down(to, datagram));
            }
            if !more {
                break;
            }
        }
        while let Some(event) = self.call.poll_event() {
            if let Audience::One(id) = event.to {
                let whom = usize::try_from(id.0).expect("few");
                let at = self.now + self.members[whom].down.delay();
                self.schedule(at, What::Told(whom, event.notice));
            }
        }
    }

    fn sample(&mut self) {
        let now = self.now;
        let snapshot = self.call.snapshot(now);
        for (number, member) in self.members.iter_mut().enumerate() {
            let name = format!("p{number}");
            let described = snapshot.participants.iter().find(|person| *person.participant == *name);
            let watcher = &mut member.watcher;
            let at = now.saturating_duration_since(watcher.joined);
            let heights =
                watcher.players.iter().map(|(_, player)| player.shown.last().map_or(0, |s| s.height));
            let sample = Sample {
                at,
                rate: member.line.rate_at(at),
                estimate: described.and_then(|person| person.estimate_bps),
                heights: heights.collect(),
                ..std::mem::take(&mut watcher.now)
            };
            watcher.samples.push(sample);
        }
    }

    /// The time is up.
    pub(super) fn end(&mut self) {
        let now = self.now;
        let watchers = self.members.iter_mut().map(|member| &mut member.watcher);
        watchers.flat_map(|watcher| &mut watcher.players).for_each(|(_, player)| player.end(now));
    }
}

/// When a datagram arrives over a line, if it does.
fn carried(link: &mut Link, now: Instant, bytes: usize, handshake: bool) -> Option<Instant> {
    if handshake {
        return Some(link.send(now, HANDSHAKE).unwrap_or(now + link.wait(now) + link.delay()));
    }
    link.send(now, bytes)
}
