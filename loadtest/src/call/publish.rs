//! What publishers send: pictures in bursts, sound in single packets, each payload with the time it was made.

use std::time::{Duration, Instant};

use trunkline_relay_peer::outgoing::{KEY_DESCRIPTOR_LEN, descriptor};
use trunkline_relay_peer::{Frame, Peer, stamp};
use trunkline_relay_proto::event::SourceName;
use trunkline_relay_proto::media::ENCODINGS_MAX;

use super::connection::Connection;

/// What a relay adds to a payload: header with one CSRC, an extension of one word, the tag of AES-GCM.
pub(super) const OVERHEAD_BYTES: usize = 12 + 4 + 8 + 16;

/// Payload of a video packet: the relay's datagrams have 1200 bytes then.
pub(super) const VIDEO_BYTES: usize = 1200 - OVERHEAD_BYTES;

/// Payloads of the smaller encodings' packets, and how many make a picture: at 30 pictures a second 144 and 480 kbit/s.
/// The largest has those of a picture without simulcast.
pub(super) const SMALL_BYTES: usize = 600;
const MEDIUM_BYTES: usize = 1000;
const MEDIUM_BURST: u32 = 2;

/// Payload of an audio packet: the relay's datagrams have 160 bytes then.
pub(super) const AUDIO_BYTES: usize = 160 - OVERHEAD_BYTES;

/// Time that one audio packet holds.
const AUDIO_EVERY: Duration = Duration::from_millis(20);

/// What one write holds at most: the largest run of a burst.
const RUN_BYTES_MAX: usize = 60_000;

/// Room for one datagram.
const DATAGRAM_BYTES: usize = 1500;

/// What every publisher sends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Traffic {
    /// Packets of one picture. 0: no video.
    pub(crate) video_burst: u32,
    /// Pictures a second.
    pub(crate) fps: u32,
    /// Sound, too.
    pub(crate) audio: bool,
    /// Video in three encodings at a time, the largest like the one there would be without.
    pub(crate) simulcast: bool,
}

impl Traffic {
    /// What a publisher offers to send.
    pub(crate) fn sources(self) -> Vec<SourceName> {
        let video = (self.video_burst > 0).then_some(SourceName::Camera);
        self.audio.then_some(SourceName::Microphone).into_iter().chain(video).collect()
    }

    /// Packets of a picture and payload of each, by encoding.
    fn encodings(self) -> [Option<(u32, usize)>; ENCODINGS_MAX] {
        let largest = Some((self.video_burst, VIDEO_BYTES));
        if !self.simulcast {
            return [largest, None, None];
        }
        [Some((1, SMALL_BYTES)), Some((MEDIUM_BURST, MEDIUM_BYTES)), largest]
    }

    fn video_every(self) -> Duration {
        Duration::from_secs(1) / self.fps.max(1)
    }
}

/// One encoding of a publisher's video.
#[derive(Clone, Copy, Debug)]
struct Encoding {
    frame: u16,
    key_frame: bool,
    wanted: bool,
}

/// One publisher.
#[derive(Debug)]
pub(crate) struct Publisher {
    traffic: Traffic,
    /// Which of how many: they do not all send at the same moment.
    number: u32,
    of: u32,
    next_video: Option<Instant>,
    next_audio: Option<Instant>,
    encodings: [Encoding; ENCODINGS_MAX],
    timestamps: (u32, u32),
    run: Vec<u8>,
}

impl Publisher {
    pub(crate) fn new(traffic: Traffic, number: u32, of: u32) -> Self {
        Self {
            traffic,
            number,
            of: of.max(1),
            next_video: None,
            next_audio: None,
            encodings: [Encoding { frame: 0, key_frame: true, wanted: true }; ENCODINGS_MAX],
            timestamps: (0, 0),
            run: Vec::with_capacity(RUN_BYTES_MAX),
        }
    }

    /// The next picture of an encoding is a key frame.
    pub(super) fn want_key_frame(&mut self, encoding: usize) {
        if let Some(encoding) = self.encodings.get_mut(encoding) {
            encoding.key_frame = true;
        }
    }

    /// Which encodings anybody wants: the others are not sent, and begin with a key frame when they are wanted again.
    pub(super) fn want(&mut self, wanted: [bool; ENCODINGS_MAX]) {
        for (encoding, wanted) in self.encodings.iter_mut().zip(wanted) {
            encoding.key_frame |= wanted && !encoding.wanted;
            encoding.wanted = wanted;
        }
    }

    pub(super) fn start(&mut self, now: Instant) {
        let share = |every: Duration| now + every * self.number / self.of;
        self.next_video = (self.traffic.video_burst > 0).then(|| share(self.traffic.video_every()));
        self.next_audio = self.traffic.audio.then(|| share(AUDIO_EVERY));
    }

    pub(super) fn pause(&mut self) {
        (self.next_video, self.next_audio) = (None, None);
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        [self.next_video, self.next_audio].into_iter().flatten().min()
    }

    /// Sends what is due and says how many packets that were.
    pub(super) fn publish(&mut self, now: Instant, peer: &mut Peer, wire: &mut Wire<'_>) -> u64 {
        let mut sent = 0;
        if let Some(at) = self.next_audio.filter(|at| *at <= now) {
            self.next_audio = Some(at + AUDIO_EVERY);
            sent += self.audio(peer, wire);
        }
        if let Some(at) = self.next_video.filter(|at| *at <= now) {
            self.next_video = Some(at + self.traffic.video_every());
            sent += self.video(peer, wire);
        }
        sent
    }

    fn audio(&mut self, peer: &mut Peer, wire: &mut Wire<'_>) -> u64 {
        self.timestamps.0 = self.timestamps.0.wrapping_add(960);
        let now = Instant::now();
        let mut payload = [0x5a; AUDIO_BYTES];
        stamp::write(&mut payload, wire.epoch, now);
        // Some are louder than others, and stay so.
        let level = 20 + u8::try_from(self.number % 40).unwrap_or(0);
        let frame =
            Frame { audio_level: Some((true, level)), ..Frame::new(self.timestamps.0, false, &payload) };
        let mut out = [0; DATAGRAM_BYTES];
        let len = peer.send_media(now, &mut out, SourceName::Microphone, &frame);
        wire.connection.send_run(out.get(..len).unwrap_or_default(), len);
        u64::from(len > 0)
    }

    fn video(&mut self, peer: &mut Peer, wire: &mut Wire<'_>) -> u64 {
        self.timestamps.1 = self.timestamps.1.wrapping_add(90_000 / self.traffic.fps.max(1));
        let (mut sent, mut encodings) = (0, self.encodings);
        for (number, (encoding, picture)) in encodings.iter_mut().zip(self.traffic.encodings()).enumerate() {
            if let Some(picture) = picture.filter(|_| encoding.wanted) {
                sent += self.picture((number, encoding), picture, peer, wire);
            }
        }
        self.encodings = encodings;
        sent
    }

    /// One picture of one encoding.
    fn picture(
        &mut self,
        (number, encoding): (usize, &mut Encoding),
        (burst, bytes): (u32, usize),
        peer: &mut Peer,
        wire: &mut Wire<'_>,
    ) -> u64 {
        let key_frame = std::mem::take(&mut encoding.key_frame);
        encoding.frame = encoding.frame.wrapping_add(1);
        let mut payload = [0x5a; VIDEO_BYTES];
        let payload = payload.get_mut(..bytes).unwrap_or_default();
        let mut out = [0; DATAGRAM_BYTES];
        let (mut sent, mut segment) = (0, 0);
        self.run.clear();
        for packet in 0..burst {
            let now = Instant::now();
            stamp::write(payload, wire.epoch, now);
            let mut bytes = [0; KEY_DESCRIPTOR_LEN];
            let ends = (packet == 0, packet + 1 == burst);
            let len = descriptor(&mut bytes, encoding.frame, key_frame, ends);
            let frame = Frame {
                encoding: number,
                descriptor: bytes.get(..len),
                ..Frame::new(self.timestamps.1, packet + 1 == burst, payload)
            };
            let len = peer.send_media(now, &mut out, SourceName::Camera, &frame);
            if len != segment || self.run.len() + len > RUN_BYTES_MAX {
                wire.connection.send_run(&self.run, segment);
                self.run.clear();
                segment = len;
            }
            self.run.extend_from_slice(out.get(..len).unwrap_or_default());
            sent += u64::from(len > 0);
        }
        wire.connection.send_run(&self.run, segment);
        sent
    }
}

/// What a publisher sends with.
pub(super) struct Wire<'a> {
    pub(super) connection: &'a mut Connection,
    pub(super) epoch: Instant,
}
