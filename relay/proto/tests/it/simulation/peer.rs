//! A client of the simulation: what it sends, and all it remembers of what it was sent.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::{Duration, Instant};

use trunkline_relay_proto::dtls::Handshake;
use trunkline_relay_proto::event::{ParticipantId, Role, SourceName};
use trunkline_relay_proto::media::{
    Codec, Content, Description, Downstream, Extension, ExtensionIds, IceCredentials, Kind, Mid, PayloadType,
    Section, Upstream,
};
use trunkline_relay_proto::path::Path;
use trunkline_relay_proto::rtp::extension;
use trunkline_relay_proto::srtp::{Opener, Sealer};
use trunkline_testkit::rng::Rng;

/// Packets a sender keeps for retransmission.
const SENT_MAX: usize = 600;

/// What a payload says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Label {
    pub(super) call: u8,
    pub(super) sender: u32,
    pub(super) track: u8,
    pub(super) count: u32,
    pub(super) codec: u8,
    pub(super) key: bool,
    pub(super) frame: u32,
    pub(super) parts: u8,
}

impl Label {
    const LEN: usize = 17;

    fn write(&self, filler: usize) -> Vec<u8> {
        let mut out = vec![self.call];
        out.extend(self.sender.to_be_bytes());
        out.push(self.track);
        out.extend(self.count.to_be_bytes());
        out.extend([self.codec, u8::from(self.key)]);
        out.extend(self.frame.to_be_bytes());
        out.push(self.parts);
        out.resize(Self::LEN + filler, 0x5a);
        out
    }

    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let (&[call, a, b, c, d, track, e, f, g, h, codec, key, i, j, k, l, parts], _) =
            bytes.split_first_chunk::<{ Self::LEN }>()?;
        Some(Self {
            call,
            sender: u32::from_be_bytes([a, b, c, d]),
            track,
            count: u32::from_be_bytes([e, f, g, h]),
            codec,
            key: key != 0,
            frame: u32::from_be_bytes([i, j, k, l]),
            parts,
        })
    }
}

/// How a client numbers codecs and extensions.
#[derive(Clone, Debug)]
pub(super) struct Dialect {
    /// Number of VP8; its retransmissions, VP9 and its retransmissions follow.
    pub(super) video: u8,
    pub(super) audio: u8,
    pub(super) codecs: Vec<Codec>,
    pub(super) ids: ExtensionIds,
}

pub(super) const VP9: Codec = Codec::Vp9 { profile: 0 };

impl Dialect {
    pub(super) fn draw(rng: &mut Rng) -> Self {
        let mut ids = ExtensionIds::default();
        let mut numbers: Vec<u8> = (1..15).collect();
        rng.shuffle(&mut numbers);
        ids.set(Extension::Mid, numbers[0]);
        ids.set(Extension::AudioLevel, numbers[1]);
        if rng.chance(0.8) {
            ids.set(Extension::DependencyDescriptor, numbers[2]);
        }
        let codecs = [vec![Codec::Vp8], vec![Codec::Vp8, VP9], vec![VP9, Codec::Vp8]][rng.index(3)].clone();
        Self { video: [96, 100, 120][rng.index(3)], audio: [111, 109][rng.index(2)], codecs, ids }
    }

    fn payload_types(&self, kind: Kind) -> Vec<PayloadType> {
        if kind == Kind::Audio {
            let (nack, pli, fir, raw) = (false, false, false, false);
            return vec![PayloadType {
                number: self.audio,
                codec: Codec::Opus,
                rtx: None,
                nack,
                pli,
                fir,
                transport_cc: false,
                remb: false,
                raw,
            }];
        }
        let (nack, pli, fir, raw) = (true, true, true, false);
        self.codecs
            .iter()
            .map(|codec| {
                let number = self.video + if *codec == VP9 { 2 } else { 0 };
                PayloadType {
                    number,
                    codec: *codec,
                    rtx: Some(number + 1),
                    nack,
                    pli,
                    fir,
                    transport_cc: false,
                    remb: false,
                    raw,
                }
            })
            .collect()
    }

    pub(super) fn section(&self, mid: &str, kind: Kind, send: Option<Content>, ssrc: u32) -> Section {
        let receive = send
            .is_none()
            .then_some(Downstream { ssrc, rtx_ssrc: (kind == Kind::Video).then_some(ssrc + 1) });
        Section {
            mid: Mid::new(mid).expect("a mid"),
            kind,
            payload_types: self.payload_types(kind),
            extensions: self.ids,
            send: send.map(|content| Upstream { content, ssrcs: vec![ssrc, ssrc + 1], rids: Vec::new() }),
            receive,
        }
    }
}

/// A packet as it was sent, for sending it again.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    timestamp: u32,
    marker: bool,
    codec: Codec,
    extensions: Vec<(u8, Vec<u8>)>,
    payload: Vec<u8>,
}

/// What a client sends in one section.
#[derive(Debug)]
pub(super) struct Track {
    pub(super) mid: String,
    pub(super) name: SourceName,
    pub(super) ssrc: u32,
    pub(super) muted: bool,
    /// It has something to say. Video always has.
    pub(super) level: Option<u8>,
    pub(super) level_until: Instant,
    pub(super) descriptors: bool,
    pub(super) key_wanted: bool,
    pub(super) codec: usize,
    pub(super) count: u32,
    pub(super) next: u64,
    rtx_next: u64,
    frame: u32,
    timestamp: u32,
    due: Instant,
    sent: BTreeMap<u64, Sent>,
}

impl Track {
    pub(super) fn new(now: Instant, rng: &mut Rng, mid: &str, name: SourceName, ssrc: u32) -> Self {
        Self {
            mid: mid.to_owned(),
            name,
            ssrc,
            muted: false,
            level: Some(30),
            level_until: now,
            descriptors: rng.chance(0.6),
            key_wanted: true,
            codec: 0,
            count: 0,
            // Some roll over soon.
            next: [100, 30_000, 65_000][rng.index(3)] + rng.range(0..300),
            rtx_next: rng.range(0..30_000),
            frame: 0,
            timestamp: u32::try_from(rng.range(0..1 << 32)).expect("32 bits"),
            due: now,
            sent: BTreeMap::new(),
        }
    }

    /// What the track has to send by now, sealed.
    pub(super) fn produce(
        &mut self,
        now: Instant,
        rng: &mut Rng,
        (call, sender): (u8, u32),
        (dialect, sealer): (&Dialect, &Sealer),
    ) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        while self.due <= now {
            let audio = self.name.kind() == Kind::Audio;
            let interval = Duration::from_millis(if audio { 20 } else { 50 });
            self.due += interval;
            self.frame += 1;
            self.timestamp = self.timestamp.wrapping_add(if audio { 960 } else { 4500 });
            let key = !audio && std::mem::take(&mut self.key_wanted);
            let parts: u8 = if audio { 1 } else { [1, 2, 3, 6][rng.index(4)] };
            for part in 0..parts {
                let codec =
                    if audio { Codec::Opus } else { dialect.codecs[self.codec % dialect.codecs.len()] };
                let codec_label = u8::from(codec == VP9);
                let label = Label {
                    call,
                    sender,
                    track: self.name as u8,
                    count: self.count,
                    codec: codec_label,
                    key,
                    frame: self.frame,
                    parts,
                };
                self.count += 1;
                let mut extensions = Vec::new();
                if let (Some(id), Some(level)) = (dialect.ids.id(Extension::AudioLevel), self.level)
                    && audio
                {
                    extensions.push((id, vec![level]));
                }
                if let Some(id) = dialect.ids.id(Extension::DependencyDescriptor)
                    && self.descriptors
                    && !audio
                {
                    let [.., high, low] = self.frame.to_be_bytes();
                    let edges = u8::from(part == 0) << 7 | u8::from(part + 1 == parts) << 6;
                    let mut value = vec![edges, high, low];
                    if key && part == 0 {
                        value.extend([0x80, 0]);
                    }
                    extensions.push((id, value));
                }
                if let Some(id) = dialect.ids.id(Extension::Mid)
                    && self.count < 20
                {
                    extensions.push((id, self.mid.as_bytes().to_vec()));
                }
                let filler = if rng.chance(0.1) { 1000 } else { rng.index(40) };
                let sent = Sent {
                    timestamp: self.timestamp,
                    marker: part + 1 == parts,
                    codec,
                    extensions,
                    payload: label.write(filler),
                };
                out.push(seal(sealer, dialect, (self.ssrc, self.next), &sent, None));
                if !audio {
                    self.sent.insert(self.next, sent);
                    if self.sent.len() > SENT_MAX {
                        self.sent.pop_first();
                    }
                }
                self.next += 1;
            }
        }
        out
    }

    /// A packet once more, on the retransmission SSRC.
    pub(super) fn again(&mut self, sequence: u16, dialect: &Dialect, sealer: &Sealer) -> Option<Vec<u8>> {
        let (_, sent) = self.sent.iter().rev().find(|(index, _)| *index & 0xffff == u64::from(sequence))?;
        let index = self.rtx_next;
        self.rtx_next += 1;
        Some(seal(sealer, dialect, (self.ssrc + 1, index), sent, Some(sequence)))
    }

    /// Another SSRC: what browsers do when a sender is replaced.
    pub(super) fn new_ssrc(&mut self, ssrc: u32) {
        self.ssrc = ssrc;
        self.next = 7;
        self.rtx_next = 9;
        self.sent.clear();
        self.key_wanted = true;
    }

    pub(super) fn resume(&mut self, now: Instant) {
        self.due = now;
    }
}

fn seal(
    sealer: &Sealer,
    dialect: &Dialect,
    (ssrc, index): (u32, u64),
    sent: &Sent,
    original: Option<u16>,
) -> Vec<u8> {
    let mut out = vec![0; 1400];
    let number = match sent.codec {
        Codec::Opus => dialect.audio,
        Codec::Vp8 => dialect.video,
        _ => dialect.video + 2,
    } + u8::from(original.is_some());
    out[0] = 0x80 | u8::from(!sent.extensions.is_empty()) << 4;
    out[1] = number | u8::from(sent.marker) << 7;
    out[2..4].copy_from_slice(&u16::try_from(index & 0xffff).expect("masked").to_be_bytes());
    out[4..8].copy_from_slice(&sent.timestamp.to_be_bytes());
    out[8..12].copy_from_slice(&ssrc.to_be_bytes());
    let elements = sent.extensions.iter().map(|(id, value)| (*id, value.as_slice()));
    let header_len = 12 + extension::write(&mut out[12..], elements).expect("fits");
    let mut len = header_len;
    for piece in [original.map(u16::to_be_bytes).as_ref().map_or(&[][..], |osn| &osn[..]), &sent.payload] {
        out[len..len + piece.len()].copy_from_slice(piece);
        len += piece.len();
    }
    let len = sealer.seal_rtp(&mut out, header_len, len, index);
    assert!(len > 0, "sealed");
    out.truncate(len);
    out
}

/// A packet of the relay, opened.
#[derive(Clone, Debug)]
pub(super) struct Got {
    pub(super) mid: String,
    /// The sequence number of what is sent again.
    pub(super) original: Option<u16>,
    pub(super) index: u64,
    pub(super) csrc: u32,
    pub(super) label: Label,
}

/// What a slot shows, as the relay told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct View {
    pub(super) participant: String,
    pub(super) source: SourceName,
    pub(super) csrc: u32,
}

/// What was ever sealed under one SSRC.
#[derive(Debug, Default)]
pub(super) struct Sealed {
    pub(super) hashes: HashMap<u64, u64>,
    pub(super) highest: u64,
}

/// One slot of a client.
#[derive(Debug, Default)]
pub(super) struct SlotState {
    pub(super) pinned: bool,
    pub(super) view: Option<View>,
    pub(super) view_before: Option<View>,
    /// Timestamps and labels by index, of the media SSRC.
    pub(super) emitted: BTreeMap<u64, (u32, Label)>,
    pub(super) shown: HashSet<Label>,
    /// What arrived at the client.
    pub(super) top: Option<u64>,
    pub(super) missing: BTreeMap<u64, (Instant, u32)>,
    pub(super) received: HashSet<Label>,
    pub(super) parts: HashMap<(u32, u32), BTreeSet<u32>>,
    pub(super) decodes: Option<u32>,
    pub(super) heard: HashMap<u32, Instant>,
    pub(super) asked: Option<Instant>,
}

/// A client.
pub(super) struct Peer {
    pub(super) call: usize,
    pub(super) id: ParticipantId,
    pub(super) name: String,
    pub(super) role: Role,
    /// Its person is there; one that vanished or left is not.
    pub(super) active: bool,
    pub(super) path: Path,
    pub(super) dark_until: Instant,
    pub(super) description: Description,
    pub(super) dialect: Dialect,
    pub(super) local: IceCredentials,
    pub(super) transactions: HashMap<[u8; 12], (String, Path)>,
    pub(super) check_at: Instant,
    pub(super) answered: bool,
    pub(super) dtls: Handshake,
    pub(super) dtls_failed: bool,
    pub(super) sealer: Option<Sealer>,
    pub(super) opener: Option<Opener>,
    /// What came before the keys did.
    pub(super) early: Vec<Vec<u8>>,
    pub(super) tracks: Vec<Track>,
    pub(super) sealed: HashMap<u32, Sealed>,
    pub(super) slots: BTreeMap<String, SlotState>,
    pub(super) report_at: Instant,
    pub(super) nack_at: Instant,
    pub(super) base: u32,
}

impl Peer {
    /// The slot an SSRC belongs to, and whether it is its retransmissions.
    pub(super) fn slot_of(&self, ssrc: u32) -> Option<(String, bool)> {
        self.description.sections.iter().find_map(|section| {
            let slot = section.receive?;
            let rtx = slot.rtx_ssrc == Some(ssrc);
            (slot.ssrc == ssrc || rtx).then(|| (section.mid.as_str().to_owned(), rtx))
        })
    }

    pub(super) fn section(&self, mid: &str) -> Option<&Section> {
        self.description.sections.iter().find(|section| section.mid.as_str() == mid)
    }

    pub(super) fn sends(&self, mid: &str) -> bool {
        self.section(mid).is_some_and(|section| section.send.is_some())
    }
}
