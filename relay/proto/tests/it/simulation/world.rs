//! Calls, their clients, and a network between them that does whatever networks do; over a virtual clock.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use trunkline_relay_proto::call::{Call, Join, Settings};
use trunkline_relay_proto::counters::Counters;
use trunkline_relay_proto::dtls::{self, Handshake};
use trunkline_relay_proto::egress::Egress;
use trunkline_relay_proto::event::{Audience, EndReason, Event, Notice, ParticipantId, Role, SourceName};
use trunkline_relay_proto::media::{Description, IceCredentials, Kind, Section};
use trunkline_relay_proto::path::Path;
use trunkline_relay_proto::rtp::{self, Header, nearest};
use trunkline_relay_proto::srtp::{Opener, Sealer};
use trunkline_relay_proto::{demux, rtcp, stun};
use trunkline_testkit::rng::Rng;

use super::peer::{Dialect, Got, Label, Peer, SlotState, VP9, View};

/// How far a number may lie behind the highest of its stream: what the relay keeps of a camera, and some.
const REORDER_WINDOW: u64 = 1024;

/// Datagrams an attacker has listened to.
const HEARD_MAX: usize = 300;

/// What the network does.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Weather {
    pub(super) loss: f64,
    pub(super) duplicates: f64,
    pub(super) delay: Duration,
    pub(super) jitter: Duration,
}

/// On its way.
enum Cargo {
    Up { call: usize, path: Path, datagram: Vec<u8>, authentic_check: bool },
    Raw { peer: usize, path: Path, datagram: Vec<u8> },
    Media { peer: usize, path: Path, got: Got },
    Feedback { peer: usize, path: Path, plain: Vec<u8> },
}

impl Cargo {
    fn is_handshake(&self) -> bool {
        match self {
            Self::Up { datagram, .. } | Self::Raw { datagram, .. } => {
                demux::classify(datagram) == demux::Protocol::Dtls
            }
            _ => false,
        }
    }

    fn copy(&self) -> Self {
        match self {
            Self::Up { call, path, datagram, authentic_check } => Self::Up {
                call: *call,
                path: *path,
                datagram: datagram.clone(),
                authentic_check: *authentic_check,
            },
            Self::Raw { peer, path, datagram } => {
                Self::Raw { peer: *peer, path: *path, datagram: datagram.clone() }
            }
            Self::Media { peer, path, got } => Self::Media { peer: *peer, path: *path, got: got.clone() },
            Self::Feedback { peer, path, plain } => {
                Self::Feedback { peer: *peer, path: *path, plain: plain.clone() }
            }
        }
    }
}

/// One call.
pub(super) struct Room {
    pub(super) call: Call,
    egress: Egress,
    /// Addresses from which a check with the right password reached the relay.
    authentic: HashSet<Path>,
    /// Who used an address, the last one last.
    users: HashMap<Path, Vec<usize>>,
    /// Whose a CSRC is, as rosters said.
    csrcs: HashMap<u32, (String, SourceName)>,
    /// Names that rosters said are there.
    roster: HashSet<String>,
}

/// All of it.
pub(super) struct World {
    pub(super) now: Instant,
    pub(super) rng: Rng,
    pub(super) rooms: Vec<Room>,
    pub(super) peers: Vec<Peer>,
    pub(super) weather: Weather,
    /// How often datagrams are handled together before anything is forwarded.
    pub(super) batch: f64,
    /// Handshakes suffer the weather too. Their timers are drawn by chance, so that a seed runs differently each time.
    pub(super) rough_handshakes: bool,
    pub(super) verbose: bool,
    /// Datagrams that reached a relay, for those who play them back.
    pub(super) heard: Vec<(usize, Path, Vec<u8>)>,
    began: Instant,
    queue: BTreeMap<(Instant, u64), Cargo>,
    next: u64,
    numbers: u32,
    relay: Arc<dtls::Settings>,
    client: Arc<dtls::Settings>,
}

impl World {
    pub(super) fn new(
        seed: u64,
        rooms: usize,
        relay: Arc<dtls::Settings>,
        client: Arc<dtls::Settings>,
    ) -> Self {
        let now = Instant::now();
        let room = |at: usize| Room {
            call: Call::new(
                now,
                Settings { participants_max: 12, dtls: relay.clone(), seed: seed * 16 + at as u64 },
            ),
            egress: Egress::default(),
            authentic: HashSet::new(),
            users: HashMap::new(),
            csrcs: HashMap::new(),
            roster: HashSet::new(),
        };
        Self {
            now,
            rng: Rng::new(seed),
            rooms: (0..rooms).map(room).collect(),
            peers: Vec::new(),
            weather: Weather { delay: Duration::from_millis(10), ..Weather::default() },
            batch: 0.0,
            rough_handshakes: false,
            verbose: std::env::var("TRUNKLINE_SIM_VERBOSE").is_ok(),
            heard: Vec::new(),
            began: now,
            queue: BTreeMap::new(),
            next: 1,
            numbers: 1,
            relay,
            client,
        }
    }

    pub(super) fn say(&self, what: impl FnOnce() -> String) {
        if self.verbose {
            eprintln!("{:8.3} {}", (self.now - self.began).as_secs_f64(), what());
        }
    }

    pub(super) fn number(&mut self) -> u32 {
        self.numbers += 1;
        self.numbers
    }

    /// An address nobody had before.
    pub(super) fn new_path(&mut self) -> Path {
        let number = self.number();
        let port = u16::try_from(1024 + number % 60_000).expect("in range");
        let [.., c, d] = number.to_be_bytes();
        if self.rng.chance(0.3) {
            let remote: IpAddr = [0x2001, 0xdb8, 0, 0, 0, 0, u16::from(c), u16::from(d)].into();
            return Path::new(SocketAddr::new(remote, port), [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into());
        }
        Path::new(([10, 1, c, d], port).into(), [192, 0, 2, 1].into())
    }

    /// Joins, without connecting. The new client's index, if there was room.
    pub(super) fn join(
        &mut self,
        call: usize,
        name: &str,
        role: Role,
        path: Path,
        sections: impl FnOnce(&Dialect, u32) -> Vec<Section>,
    ) -> Option<usize> {
        let number = self.number();
        let dialect = Dialect::draw(&mut self.rng);
        let base = number * 1000;
        let description = Description {
            ice: credentials("c", number, 0),
            fingerprint: self.client.fingerprint(),
            extmap_allow_mixed: true,
            reduced_size_rtcp: true,
            sections: sections(&dialect, base),
        };
        let local = credentials("relay", number, 0);
        let id = ParticipantId(number);
        let join = Join { id, name: name.into(), role, description: description.clone(), ice: local.clone() };
        self.settle(call);
        let joined = self.rooms[call].call.join(self.now, join);
        self.say(|| format!("{name} joins call {call} as {number}: {joined:?}"));
        if joined.is_err() {
            self.settle(call);
            return None;
        }
        let now = self.now;
        let index = self.peers.len();
        self.rooms[call].users.entry(path).or_default().push(index);
        self.peers.push(Peer {
            call,
            id,
            name: name.to_owned(),
            role,
            active: true,
            path,
            dark_until: now,
            description,
            dialect,
            local,
            transactions: HashMap::new(),
            check_at: now,
            answered: false,
            dtls: Handshake::new_client(now, &self.client, self.relay.fingerprint()),
            dtls_failed: false,
            sealer: None,
            opener: None,
            early: Vec::new(),
            tracks: Vec::new(),
            sealed: HashMap::new(),
            slots: BTreeMap::new(),
            report_at: now,
            nack_at: now,
            base,
        });
        self.align(index);
        self.settle(call);
        Some(index)
    }

    /// Makes tracks and slots of what was agreed on.
    fn align(&mut self, index: usize) {
        let Self { peers, rng, now, .. } = self;
        let peer = &mut peers[index];
        let sections = peer.description.sections.clone();
        for section in &sections {
            let mid = section.mid.as_str();
            if let Some(send) = &section.send
                && !peer.tracks.iter().any(|track| track.mid == mid)
            {
                let name = SourceName::of(section.kind, send.content);
                peer.tracks.push(super::peer::Track::new(*now, rng, mid, name, send.ssrcs[0]));
            }
            if section.receive.is_some() {
                peer.slots.entry(mid.to_owned()).or_default();
            }
        }
        peer.slots.retain(|mid, _| sections.iter().any(|s| s.mid.as_str() == mid && s.receive.is_some()));
        for track in &mut peer.tracks {
            track.resume(*now);
        }
    }

    /// A new offer and its answer.
    pub(super) fn update(&mut self, index: usize, sections: Vec<Section>, restart: bool) {
        let call = self.peers[index].call;
        self.settle(call);
        let number = self.number();
        let peer = &mut self.peers[index];
        let mut description = peer.description.clone();
        description.sections = sections;
        let ice = restart.then(|| credentials("relay", peer.id.0, number));
        if restart {
            description.ice = credentials("c", peer.id.0, number);
        }
        let done = self.rooms[call].call.update(self.now, peer.id, description.clone(), ice.clone());
        if done.is_ok() {
            peer.description = description;
            peer.local = ice.unwrap_or(peer.local.clone());
            // A source that is offered anew is not muted.
            let sends: Vec<bool> = peer.tracks.iter().map(|track| peer.sends(&track.mid)).collect();
            for (track, sends) in peer.tracks.iter_mut().zip(sends) {
                track.muted &= sends;
            }
            self.align(index);
        }
        self.say(|| format!("{index} renegotiates, restart {restart}: {done:?}"));
        self.settle(call);
    }

    pub(super) fn restart_ice(&mut self, index: usize) {
        let call = self.peers[index].call;
        let number = self.number();
        let peer = &mut self.peers[index];
        let (remote, local) = (credentials("c", peer.id.0, number), credentials("relay", peer.id.0, number));
        let done = self.rooms[call].call.restart_ice(self.now, peer.id, remote.clone(), local.clone());
        if done.is_ok() {
            peer.description.ice = remote;
            peer.local = local;
            peer.answered = false;
        }
        self.say(|| format!("{index} restarts ICE: {done:?}"));
        self.settle(call);
    }

    /// Time goes by, in steps in which clients do what they have to do.
    pub(super) fn pass(&mut self, duration: Duration, step: Duration) {
        let until = self.now + duration;
        while self.now < until {
            let end = (self.now + step).min(until);
            loop {
                let timer = self.rooms.iter().filter_map(|room| room.call.poll_timeout()).min();
                let arrival = self.queue.first_key_value().map(|((at, _), _)| *at);
                let Some(next) = [timer, arrival].into_iter().flatten().min().filter(|at| *at <= end) else {
                    break;
                };
                self.now = self.now.max(next);
                if arrival.is_some_and(|at| at <= self.now) {
                    let (_, cargo) = self.queue.pop_first().expect("looked at");
                    self.arrive(cargo);
                } else {
                    let now = self.now;
                    for at in 0..self.rooms.len() {
                        let room = &mut self.rooms[at];
                        room.call.handle_timeout(now, &mut room.egress);
                        self.settle(at);
                    }
                }
            }
            self.now = end;
            for at in 0..self.rooms.len() {
                self.settle(at);
            }
            for index in 0..self.peers.len() {
                if self.peers[index].active {
                    self.drive(index);
                }
            }
        }
    }

    fn arrive(&mut self, cargo: Cargo) {
        let now = self.now;
        match cargo {
            Cargo::Up { call, path, datagram, authentic_check } => {
                if authentic_check {
                    self.rooms[call].authentic.insert(path);
                }
                if !self.hand_over(call, path, &datagram)
                    || demux::classify(&datagram) == demux::Protocol::Dtls
                {
                    return;
                }
                if self.heard.len() >= HEARD_MAX {
                    let at = self.rng.index(HEARD_MAX);
                    self.heard.swap_remove(at);
                }
                self.heard.push((call, path, datagram));
            }
            Cargo::Raw { peer, path, datagram } => {
                let peer = &mut self.peers[peer];
                let handshake = demux::classify(&datagram) == demux::Protocol::Dtls;
                let dark = peer.dark_until > now && (self.rough_handshakes || !handshake);
                if !peer.active || peer.path != path || dark {
                    return;
                }
                if handshake {
                    peer.dtls_failed |= peer.dtls.handle_datagram(now, &datagram).is_err();
                    return;
                }
                let response = stun::Response::parse(&datagram).expect("the relay's answer is sound");
                if let Some((pwd, on)) = peer.transactions.get(&response.transaction()) {
                    assert!(response.verify(pwd), "an answer is made with the password of its check");
                    assert_eq!(
                        response.mapped(),
                        Some(on.remote),
                        "an answer tells where the check came from"
                    );
                    peer.answered |= *on == peer.path;
                }
            }
            Cargo::Media { peer, path, got } => {
                let reached = &self.peers[peer];
                if reached.active && reached.path == path && reached.dark_until <= now {
                    self.receive(peer, got);
                }
            }
            Cargo::Feedback { peer, path, plain } => {
                let reached = &self.peers[peer];
                if reached.active && reached.path == path && reached.dark_until <= now {
                    self.feedback(peer, &plain);
                }
            }
        }
    }

    /// A datagram reaches the relay. Each is explained by one count, or by what it brought about.
    /// Whether it was taken.
    pub(super) fn hand_over(&mut self, call: usize, path: Path, datagram: &[u8]) -> bool {
        let mut copy = datagram.to_vec();
        let room = &mut self.rooms[call];
        let before = room.call.counters();
        let sent_before = room.egress.len();
        room.call.handle_datagram(self.now, path, &mut copy, &mut room.egress);
        let added = room.call.counters().since(&before);
        assert_eq!(added.datagrams_in, 1);
        let explained = explained(&added);
        match demux::classify(datagram) {
            demux::Protocol::Stun => {
                let answered = room.egress.len() > sent_before;
                assert!(explained + u64::from(answered) == 1, "STUN is answered or counted: {added:?}");
            }
            demux::Protocol::Rtp => {
                let rtx_padding = explained == 0;
                assert!(explained == 1 || rtx_padding, "a media packet is counted once: {added:?}");
            }
            demux::Protocol::Unknown => assert_eq!(explained, 1, "counted as what it is: {added:?}"),
            demux::Protocol::Dtls | demux::Protocol::Rtcp => {
                assert!(explained <= 1, "counted once: {added:?}");
            }
        }
        let handshake = demux::classify(datagram) == demux::Protocol::Dtls;
        if handshake || !self.rng.chance(self.batch) {
            self.settle(call);
        }
        explained == added.media_in + added.silence_withheld
    }

    /// Takes out all that a call has to say, looks at it with everybody's keys, and sends it on its way.
    pub(super) fn settle(&mut self, call: usize) {
        let mut sent = Vec::new();
        let mut emptied = false;
        while !emptied {
            let Room { call, egress, .. } = &mut self.rooms[call];
            emptied = !call.poll_egress(self.now, egress);
            for train in egress.trains() {
                for datagram in egress.bytes(train).chunks(train.segment) {
                    sent.push((train.path, datagram.to_vec()));
                }
            }
            assert_eq!(egress.clear(), 0, "nothing was dropped for want of room");
        }
        self.take_events(call);
        for (path, datagram) in sent {
            assert!(
                self.rooms[call].authentic.contains(&path),
                "nothing goes to an address that proved nothing"
            );
            self.emitted(call, path, datagram);
        }
        for peer in self.peers.iter_mut().filter(|peer| peer.call == call) {
            for slot in peer.slots.values_mut() {
                slot.view_before.clone_from(&slot.view);
            }
        }
    }

    fn take_events(&mut self, call: usize) {
        while let Some(Event { to, notice }) = self.rooms[call].call.poll_event() {
            if let Notice::Roster { participants, left, .. } = &notice {
                let room = &mut self.rooms[call];
                for name in left {
                    assert!(room.roster.remove(&**name), "{name} was there before leaving");
                }
                for entry in participants {
                    room.roster.insert(entry.participant.to_string());
                    for source in &entry.sources {
                        let whose = (entry.participant.to_string(), source.source);
                        let known = room.csrcs.insert(source.csrc, whose.clone());
                        assert!(known.is_none_or(|known| known == whose), "a CSRC is never used again");
                    }
                }
            }
            let Audience::One(id) = to else { continue };
            let Some(index) = self.peers.iter().position(|peer| peer.call == call && peer.id == id) else {
                continue;
            };
            if let Notice::Ended { reason } = &notice {
                self.say(|| format!("{index} is out: {reason:?}"));
                self.peers[index].active = false;
            }
            let Notice::Slots { slots } = notice else { continue };
            let peer = &mut self.peers[index];
            for entry in slots {
                let view = entry.participant.map(|participant| View {
                    participant: participant.to_string(),
                    source: entry.source.expect("a source of somebody"),
                    csrc: entry.csrc.expect("a CSRC of somebody"),
                });
                assert!(view.as_ref().is_none_or(|view| view.participant != peer.name), "one's own");
                let Some(slot) = peer.slots.get_mut(&entry.slot) else { continue };
                slot.view = view;
                // Who is shown anew begins with the last key frame, also where that was shown before.
                slot.shown.clear();
            }
            if self.verbose {
                let views: Vec<_> = self.peers[index]
                    .slots
                    .iter()
                    .map(|(mid, slot)| {
                        (mid, slot.view.as_ref().map(|view| (&view.participant, view.source, view.csrc)))
                    })
                    .collect();
                self.say(|| format!("{index} sees {views:?}"));
            }
        }
    }

    /// The relay sent a datagram: whose is it, and is it as it should be?
    fn emitted(&mut self, call: usize, path: Path, datagram: Vec<u8>) {
        let users = self.rooms[call].users.get(&path).cloned().unwrap_or_default();
        let protocol = demux::classify(&datagram);
        if matches!(protocol, demux::Protocol::Stun | demux::Protocol::Dtls) {
            if let Some(peer) = users.into_iter().rev().find(|peer| self.peers[*peer].active) {
                self.send(Cargo::Raw { peer, path, datagram });
            }
            return;
        }
        for index in users.iter().rev().copied() {
            let mut copy = datagram.clone();
            let Some(opener) = &mut self.peers[index].opener else { continue };
            if protocol == demux::Protocol::Rtcp {
                if let Ok(len) = opener.open_rtcp(&mut copy) {
                    copy.truncate(len);
                    self.send(Cargo::Feedback { peer: index, path, plain: copy });
                    return;
                }
                continue;
            }
            let header = Header::parse(&copy).expect("the relay sends RTP");
            match opener.open_rtp(&mut copy, &header) {
                Ok(opened) => {
                    copy.truncate(opened.len);
                    let got = self.examine(index, &header, opened.index, &copy);
                    self.send(Cargo::Media { peer: index, path, got });
                    return;
                }
                Err(error) => {
                    let of_this_one = self.peers[index].slot_of(header.ssrc).is_some();
                    assert!(
                        !of_this_one,
                        "{error}: SSRC {} number {} to {index}",
                        header.ssrc, header.sequence
                    );
                }
            }
        }
        let waiting = users.into_iter().rev().find(|user| {
            let peer = &self.peers[*user];
            // Who vanished amid the handshake never has keys.
            peer.opener.is_none()
        });
        let waiting = waiting.expect("what the relay sends is for somebody at that address");
        self.peers[waiting].early.push(datagram);
    }

    /// Looks at a media packet as its receiver's keys show it.
    fn examine(&mut self, index: usize, header: &Header, sealed_index: u64, packet: &[u8]) -> Got {
        let peer = &self.peers[index];
        let Some((mid, rtx)) = peer.slot_of(header.ssrc) else {
            unreachable!("{index} gets SSRC {}, which no answer names", header.ssrc)
        };
        assert_eq!(header.csrc_count, 1);
        let csrc = u32::from_be_bytes(packet[12..16].try_into().expect("four bytes"));
        let payload = rtp::payload(packet, header).expect("a payload");
        let (original, payload) = if rtx {
            (Some(u16::from_be_bytes([payload[0], payload[1]])), &payload[2..])
        } else {
            (None, payload)
        };
        let label = Label::read(payload).expect("a payload that a client made");

        assert_eq!(usize::from(label.call), peer.call, "media of another call");
        assert_ne!(label.sender, peer.id.0, "one's own media");
        let sender = self.peers.iter().find(|peer| peer.id.0 == label.sender).expect("somebody sent it");
        assert_ne!(sender.name, peer.name, "one's own media, from before rejoining");
        let track = sender.tracks.iter().find(|track| track.name as u8 == label.track).expect("a track");
        let named = self.rooms[peer.call].csrcs.get(&csrc).expect("the roster names the CSRC");
        assert_eq!(*named, (sender.name.clone(), track.name), "the CSRC names who sent it");
        let section = peer.section(&mid).expect("a section");
        let codec = if label.codec == 1 {
            VP9
        } else if section.kind == Kind::Video {
            trunkline_relay_proto::media::Codec::Vp8
        } else {
            trunkline_relay_proto::media::Codec::Opus
        };
        let number = if rtx {
            section.payload_types.iter().find(|known| known.rtx == Some(header.payload_type))
        } else {
            section.payload_types.iter().find(|known| known.number == header.payload_type)
        };
        assert_eq!(number.map(|known| known.codec), Some(codec), "the receiver's number for the codec");

        let mut hasher = DefaultHasher::new();
        packet.hash(&mut hasher);
        let (hash, muted) = (hasher.finish(), track.muted);
        let peer = &mut self.peers[index];
        let sealed = peer.sealed.entry(header.ssrc).or_default();
        assert_eq!(sealed.hashes.insert(sealed_index, hash), None, "sealed twice under one index");
        assert!(sealed_index + REORDER_WINDOW > sealed.highest, "far behind: {sealed_index}");
        sealed.highest = sealed.highest.max(sealed_index);
        let slot = peer.slots.get_mut(&mid).expect("a slot");
        if let Some(sequence) = original {
            let last = slot.emitted.last_key_value().map(|(index, _)| *index).expect("sent before");
            if let Some((timestamp, was)) = slot.emitted.get(&nearest(last, sequence)) {
                assert_eq!((*timestamp, *was), (header.timestamp, label), "sent again as it was");
            }
        } else {
            let shown = [&slot.view, &slot.view_before].into_iter().flatten().any(|view| view.csrc == csrc);
            assert!(shown, "{mid} of {index} shows {:?}, and gets {csrc}", slot.view);
            assert!(!muted, "muted");
            assert!(slot.shown.insert(label), "shown twice: {label:?}");
            let before = slot.emitted.range(..sealed_index).next_back();
            let after = slot.emitted.range(sealed_index..).next();
            let order = |older: u32, newer: u32| newer.wrapping_sub(older) < 1 << 31;
            assert!(before.is_none_or(|(_, (at, _))| order(*at, header.timestamp)), "time goes back");
            assert!(after.is_none_or(|(_, (at, _))| order(header.timestamp, *at)), "time went back");
            slot.emitted.insert(sealed_index, (header.timestamp, label));
        }
        Got { mid, original, index: sealed_index, csrc, label }
    }

    /// Puts something on its way, if the network lets it.
    fn send(&mut self, cargo: Cargo) {
        if !self.rough_handshakes && cargo.is_handshake() {
            let due = self.now + Duration::from_millis(5);
            self.next += 1;
            self.queue.insert((due, self.next), cargo);
            return;
        }
        let copies = 1 + u32::from(self.rng.chance(self.weather.duplicates));
        for _ in 0..copies {
            if self.rng.chance(self.weather.loss) {
                continue;
            }
            let due = self.now + self.weather.delay + self.rng.duration(self.weather.jitter);
            self.next += 1;
            self.queue.insert((due, self.next), cargo.copy());
        }
    }

    pub(super) fn send_up(&mut self, index: usize, datagram: Vec<u8>, authentic_check: bool) {
        let peer = &self.peers[index];
        let quiet = !self.rough_handshakes && demux::classify(&datagram) == demux::Protocol::Dtls;
        if quiet || peer.dark_until <= self.now {
            self.send(Cargo::Up { call: peer.call, path: peer.path, datagram, authentic_check });
        }
    }

    /// A client moves to another address.
    pub(super) fn roam(&mut self, index: usize, path: Path) {
        let call = self.peers[index].call;
        self.rooms[call].users.entry(path).or_default().push(index);
        let peer = &mut self.peers[index];
        peer.path = path;
        peer.answered = false;
        peer.check_at = self.now;
        self.say(|| format!("{index} moves"));
    }

    pub(super) fn leave(&mut self, index: usize, politely: bool) {
        let call = self.peers[index].call;
        self.settle(call);
        self.say(|| format!("{index} leaves, by DTLS {politely}"));
        if politely {
            self.peers[index].dtls.close();
            self.flush_handshake(index);
        } else {
            let id = self.peers[index].id;
            self.rooms[call].call.leave(self.now, id, EndReason::Left);
        }
        self.settle(call);
        self.peers[index].active = false;
    }

    fn flush_handshake(&mut self, index: usize) {
        let mut out = [0; 2048];
        while let Some(len) = self.peers[index].dtls.poll_transmit(&mut out) {
            self.send_up(index, out[..len].to_vec(), false);
        }
    }

    /// What a client does of itself.
    fn drive(&mut self, index: usize) {
        let now = self.now;
        if self.peers[index].check_at <= now {
            self.check(index);
        }
        let peer = &mut self.peers[index];
        if peer.dtls.poll_timeout().is_some_and(|at| at <= now) {
            peer.dtls_failed |= peer.dtls.handle_timeout(now).is_err();
        }
        // As browsers do: media and handshake wait for an answered check.
        if peer.answered || peer.sealer.is_some() {
            self.flush_handshake(index);
        }
        let peer = &mut self.peers[index];
        if let Some(keys) = peer.dtls.poll_keys() {
            peer.sealer = Some(Sealer::new(keys.profile, &keys.seal));
            peer.opener = Some(Opener::new(keys.profile, &keys.open));
            for track in &mut peer.tracks {
                track.resume(now);
            }
            for datagram in std::mem::take(&mut peer.early) {
                self.emitted_early(index, datagram);
            }
        }
        if self.peers[index].sealer.is_none() {
            return;
        }
        self.produce(index);
        self.report(index);
    }

    /// What came before the keys did was lost on its receiver; but it counts as sealed.
    fn emitted_early(&mut self, index: usize, mut datagram: Vec<u8>) {
        let Some(opener) = &mut self.peers[index].opener else { return };
        if demux::classify(&datagram) != demux::Protocol::Rtp {
            let _ = opener.open_rtcp(&mut datagram);
            return;
        }
        let header = Header::parse(&datagram).expect("the relay sends RTP");
        let Ok(opened) = opener.open_rtp(&mut datagram, &header) else { return };
        datagram.truncate(opened.len);
        let Some((mid, rtx)) = self.peers[index].slot_of(header.ssrc) else { return };
        let payload = rtp::payload(&datagram, &header).expect("a payload");
        let label = Label::read(if rtx { &payload[2..] } else { payload }).expect("made by a client");
        let peer = &mut self.peers[index];
        let sealed = peer.sealed.entry(header.ssrc).or_default();
        assert_eq!(sealed.hashes.insert(opened.index, 0), None, "sealed twice under one index");
        if let Some(slot) = peer.slots.get_mut(&mid).filter(|_| !rtx) {
            slot.emitted.insert(opened.index, (header.timestamp, label));
            slot.shown.insert(label);
        }
    }

    fn check(&mut self, index: usize) {
        let transaction: [u8; 12] = self.rng.bytes(12).try_into().expect("twelve");
        let peer = &mut self.peers[index];
        peer.check_at = self.now + Duration::from_millis(if peer.answered { 1000 } else { 150 });
        let username = format!("{}:{}", peer.local.ufrag, peer.description.ice.ufrag);
        let mut out = [0; 512];
        let len =
            stun::write_request(&mut out, &username, &peer.local.pwd, 1, 7, true, transaction).expect("fits");
        peer.transactions.insert(transaction, (peer.local.pwd.clone(), peer.path));
        self.send_up(index, out[..len].to_vec(), true);
    }

    fn produce(&mut self, index: usize) {
        let now = self.now;
        let Self { peers, rng, .. } = self;
        let peer = &mut peers[index];
        let Some(sealer) = peer.sealer.take() else { return };
        let mut datagrams = Vec::new();
        for at in 0..peer.tracks.len() {
            if !peer.sends(&peer.tracks[at].mid) {
                peer.tracks[at].resume(now);
                continue;
            }
            let track = &mut peer.tracks[at];
            // Talks for a while, and is silent for a while.
            if track.level.is_some() && track.level_until <= now {
                track.level_until = now + Duration::from_millis(rng.range(100..3000));
                track.level = Some([20, 35, 45, 60, 127, 127][rng.index(6)]);
            }
            let who = (u8::try_from(peer.call).expect("two"), peer.id.0);
            datagrams.extend(track.produce(now, rng, who, (&peer.dialect, &sealer)));
        }
        peer.sealer = Some(sealer);
        for datagram in datagrams {
            self.send_up(index, datagram, false);
        }
    }

    /// A media packet reached its receiver.
    fn receive(&mut self, index: usize, got: Got) {
        let now = self.now;
        let Some(slot) = self.peers[index].slots.get_mut(&got.mid) else { return };
        let number = match got.original {
            Some(sequence) => nearest(slot.top.unwrap_or(0), sequence),
            None => got.index,
        };
        match slot.top {
            Some(top) if number <= top => {
                slot.missing.remove(&number);
            }
            Some(top) => {
                if number - top > 300 {
                    slot.missing.clear();
                    slot.decodes = None;
                } else {
                    let due = now + Duration::from_millis(5);
                    slot.missing.extend((top + 1..number).map(|number| (number, (due, 0))));
                }
                slot.top = Some(number);
            }
            None => slot.top = Some(number),
        }
        slot.heard.insert(got.csrc, now);
        slot.received.insert(got.label);
        if got.label.key {
            let parts = slot.parts.entry((got.csrc, got.label.frame)).or_default();
            parts.insert(got.label.count);
            if parts.len() == usize::from(got.label.parts) {
                slot.decodes = Some(got.csrc);
            }
        }
    }

    /// Opened RTCP reached a client.
    fn feedback(&mut self, index: usize, plain: &[u8]) {
        let mut datagrams = Vec::new();
        let peer = &mut self.peers[index];
        let Some(sealer) = peer.sealer.take() else { return };
        for packet in rtcp::packets(plain) {
            match packet.expect("the relay's RTCP is well formed") {
                rtcp::Packet::Nack { media, lost, .. } => {
                    // An SSRC of before is asked for by a message that was overtaken.
                    if let Some(track) = peer.tracks.iter_mut().find(|track| track.ssrc == media) {
                        datagrams.extend(lost.filter_map(|lost| track.again(lost, &peer.dialect, &sealer)));
                    }
                }
                rtcp::Packet::Pli { media, .. } => {
                    for track in peer.tracks.iter_mut().filter(|track| track.ssrc == media) {
                        track.key_wanted = true;
                    }
                }
                rtcp::Packet::SenderReport { ssrc, .. } => {
                    assert!(peer.sealed.contains_key(&ssrc), "a report of a stream that was sent");
                }
                _ => {}
            }
        }
        peer.sealer = Some(sealer);
        for datagram in datagrams {
            self.send_up(index, datagram, false);
        }
    }

    /// What a receiver tells the relay: reports, gaps, pictures that cannot be decoded.
    fn report(&mut self, index: usize) {
        let now = self.now;
        let peer = &mut self.peers[index];
        if peer.nack_at > now {
            return;
        }
        peer.nack_at = now + Duration::from_millis(20);
        let mut out = vec![0; 1400];
        let mut writer = rtcp::Writer::new(&mut out[..1300]);
        let full = peer.report_at <= now;
        if full {
            peer.report_at = now + Duration::from_secs(1);
        }
        let streams: HashMap<String, u32> = peer
            .description
            .sections
            .iter()
            .filter_map(|section| Some((section.mid.as_str().to_owned(), section.receive?.ssrc)))
            .collect();
        let mut blocks = Vec::new();
        let mut nacks = Vec::new();
        for (mid, slot) in &mut peer.slots {
            let (Some(ssrc), Some(top)) = (streams.get(mid).copied(), slot.top) else { continue };
            let highest = u32::try_from(top).unwrap_or(u32::MAX);
            blocks.push(rtcp::Block { ssrc, highest, ..rtcp::Block::default() });
            let video = mid.starts_with('v');
            if !video {
                slot.missing.clear();
                continue;
            }
            let mut lost = Vec::new();
            let mut gave_up = false;
            slot.missing.retain(|number, (due, tries)| {
                if *due > now {
                    return true;
                }
                *tries += 1;
                *due = now + Duration::from_millis(60);
                gave_up |= *tries > 12;
                lost.push(u16::try_from(*number & 0xffff).expect("masked"));
                *tries <= 12
            });
            lost.truncate(200);
            let playing = slot.view.as_ref().filter(|view| {
                slot.heard.get(&view.csrc).is_some_and(|at| now - *at < Duration::from_secs(1))
            });
            // Browsers ask when packets come and nothing can be shown.
            let stuck = playing.is_some_and(|view| slot.decodes != Some(view.csrc));
            let pli = (stuck || gave_up) && slot.asked.is_none_or(|at| now - at > Duration::from_millis(300));
            if pli {
                slot.asked = Some(now);
            }
            nacks.push((ssrc, lost, pli));
        }
        blocks.truncate(rtcp::COUNT_MAX);
        if full {
            writer.receiver_report(1, &blocks);
        }
        for (ssrc, lost, pli) in nacks {
            writer.nack(1, ssrc, lost);
            if pli {
                writer.pli(1, ssrc);
            }
        }
        let len = writer.len();
        if len == 0 {
            return;
        }
        let Some(sealer) = &mut peer.sealer else { return };
        let len = sealer.seal_rtcp(&mut out, len);
        out.truncate(len);
        self.send_up(index, out, false);
    }

    /// What slots show is what events said.
    pub(super) fn compare_views(&mut self) {
        for room in 0..self.rooms.len() {
            self.settle(room);
            let snapshot = self.rooms[room].call.snapshot(self.now);
            let mut there: Vec<String> =
                snapshot.participants.iter().map(|participant| participant.participant.to_string()).collect();
            let mut named: Vec<String> = self.rooms[room].roster.iter().cloned().collect();
            there.sort();
            named.sort();
            assert_eq!(there, named, "the roster says who is there");
            for participant in &snapshot.participants {
                let peer = self
                    .peers
                    .iter()
                    .rev()
                    .find(|peer| peer.call == room && peer.name == *participant.participant)
                    .expect("joined once");
                for slot in &participant.slots {
                    let told = peer.slots.get(&slot.slot).and_then(|slot| slot.view.as_ref());
                    let shown = slot.participant.as_ref().map(ToString::to_string).zip(slot.source);
                    let told = told.map(|view| (view.participant.clone(), view.source));
                    assert_eq!(told, shown, "what {} was told of {}", peer.name, slot.slot);
                    let owner = snapshot
                        .participants
                        .iter()
                        .find(|p| Some(&p.participant) == slot.participant.as_ref());
                    let source = owner.and_then(|p| p.sources.iter().find(|s| Some(s.source) == slot.source));
                    assert!(source.is_none_or(|source| !source.muted), "somebody muted is shown");
                    assert!(slot.participant.as_deref() != Some(peer.name.as_str()), "one's own");
                }
            }
        }
    }
}

/// How many counts say what became of one datagram.
fn explained(added: &Counters) -> u64 {
    let dropped: u64 = added
        .named()
        .into_iter()
        .filter(|(name, _)| name.starts_with("dropped_") && *name != "dropped_egress")
        .map(|(_, count)| count)
        .sum();
    dropped + added.media_in + added.silence_withheld + added.dropped_egress
}

fn credentials(prefix: &str, number: u32, round: u32) -> IceCredentials {
    IceCredentials {
        ufrag: format!("{prefix}{number:04}{round:04}"),
        pwd: format!("{prefix}-password-{number:08}-{round:08}"),
    }
}

/// The slots of a kind.
pub(super) fn slots_of(slots: &BTreeMap<String, SlotState>, kind: char) -> impl Iterator<Item = &SlotState> {
    slots.iter().filter(move |(mid, _)| mid.starts_with(kind)).map(|(_, slot)| slot)
}
