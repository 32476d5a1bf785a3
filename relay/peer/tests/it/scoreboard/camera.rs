//! What a participant sends: a camera in three encodings that follow what is wanted of them, and a microphone with
//! redundancy, both paced as browsers do it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use trunkline_relay_peer::{Frame, Peer};
use trunkline_relay_proto::event::{SourceName, WantedLayers};
use trunkline_relay_proto::rtp::descriptor::write::{DESCRIPTOR_LEN_MAX, Pattern};
use trunkline_relay_proto::rtp::layers_allocation::{LayersAllocation, Size, SpatialLayer, VALUE_LEN_MAX};
use trunkline_testkit::rng::Rng;

/// Height, width and bits per second of the encodings.
pub(super) const ENCODINGS: [(u16, u16, u64); 3] =
    [(180, 320, 150_000), (360, 640, 500_000), (720, 1280, 1_700_000)];

/// Pictures per second.
pub(super) const FPS: u32 = 30;

/// Payload of one packet at most.
const PAYLOAD: usize = 1100;

/// A key frame is so many times as large as others are on average.
const KEY_FRAME: f64 = 5.0;

/// The share of its average that a picture gives up at most, until an encoding has made up for a key frame.
const SAVED_MAX: f64 = 0.3;

/// Sizes of pictures vary by so much around what they should have.
const VARIES: f64 = 0.2;

/// A sender gives packets to the network at so many times the rate of all encodings, and no slower than this.
const PACE: f64 = 2.5;
const PACE_MIN_BPS: f64 = 1_000_000.0;

/// An encoding that nobody wants is sent for so long after that was said.
const STOPS_AFTER: Duration = Duration::from_millis(100);

/// Payload of a sound packet: about 20 ms of Opus at 20 kbit/s, twice again as redundancy would make it larger; what
/// counts here is its rate.
pub(super) const SOUND: usize = 60;

/// Between two sound packets.
pub(super) const SOUND_EVERY: Duration = Duration::from_millis(20);

/// What a payload says of its picture. To the relay it is opaque.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Truth {
    /// Which encoding.
    pub(super) encoding: u8,
    /// Which of its key frames it builds on.
    pub(super) run: u32,
    /// Pictures since then.
    pub(super) picture: u32,
    /// When it was taken, since the beginning.
    pub(super) taken: Duration,
}

impl Truth {
    const LEN: usize = 17;

    fn write(self, payload: &mut [u8]) {
        let nanos = u64::try_from(self.taken.as_nanos()).unwrap_or(u64::MAX);
        payload[0] = self.encoding;
        payload[1..5].copy_from_slice(&self.run.to_be_bytes());
        payload[5..9].copy_from_slice(&self.picture.to_be_bytes());
        payload[9..17].copy_from_slice(&nanos.to_be_bytes());
    }

    pub(super) fn read(payload: &[u8]) -> Option<Self> {
        let (first, _) = payload.split_first_chunk::<{ Self::LEN }>()?;
        Some(Self {
            encoding: first[0],
            run: u32::from_be_bytes(first[1..5].try_into().ok()?),
            picture: u32::from_be_bytes(first[5..9].try_into().ok()?),
            taken: Duration::from_nanos(u64::from_be_bytes(first[9..17].try_into().ok()?)),
        })
    }

    /// The picture of the same run that this one is made from.
    pub(super) fn needs(&self) -> Option<u32> {
        match self.picture % 4 {
            0 => self.picture.checked_sub(4),
            2 => self.picture.checked_sub(2),
            _ => self.picture.checked_sub(1),
        }
    }
}

struct Waiting {
    encoding: usize,
    marker: bool,
    timestamp: u32,
    descriptor: ([u8; DESCRIPTOR_LEN_MAX], usize),
    /// What is sent in all encodings, when it is time to say so.
    allocation: Vec<u8>,
    truth: Truth,
    len: usize,
}

struct Encoder {
    bps: u64,
    pattern: Pattern,
    wanted: bool,
    stops_at: Option<Instant>,
    /// The sender's own line carries it.
    afforded: bool,
    key_frame: bool,
    frame_number: u16,
    run: u32,
    picture: u32,
    debt: f64,
}

impl Encoder {
    fn sends(&self, now: Instant) -> bool {
        self.afforded && (self.wanted || self.stops_at.is_some_and(|at| now < at))
    }
}

/// A camera.
pub(super) struct Camera {
    began: Instant,
    encoders: Vec<Encoder>,
    next: Instant,
    tick: u32,
    rng: Rng,
    waiting: VecDeque<Waiting>,
    goes_at: Instant,
    /// The encodings that receivers were told of last.
    told: [bool; ENCODINGS.len()],
    /// Key frames made.
    pub(super) key_frames: u64,
}

impl Camera {
    pub(super) fn new(began: Instant, now: Instant, mut rng: Rng) -> Self {
        let encoders = ENCODINGS.iter().map(|(height, width, bps)| Encoder {
            bps: *bps,
            pattern: Pattern::new(1, 3, false).with_resolution(*width, *height),
            wanted: true,
            stops_at: None,
            afforded: true,
            key_frame: true,
            frame_number: u16::try_from(rng.range(0..0x1_0000)).unwrap_or(0),
            run: 0,
            picture: 0,
            debt: 0.0,
        });
        Self {
            began,
            encoders: encoders.collect(),
            // Cameras do not take their pictures all at the same moment.
            next: now + rng.duration(Duration::from_secs(1) / FPS),
            tick: 0,
            waiting: VecDeque::new(),
            goes_at: now,
            told: [false; ENCODINGS.len()],
            key_frames: 0,
            rng,
        }
    }

    /// A key frame is wanted.
    pub(super) fn want_key_frame(&mut self, encoding: usize) {
        self.encoders.iter_mut().skip(encoding).take(1).for_each(|encoder| encoder.key_frame = true);
    }

    /// What is wanted of it from now on.
    pub(super) fn want(&mut self, now: Instant, layers: &WantedLayers) {
        for (encoder, wanted) in self.encoders.iter_mut().zip(&layers.encodings) {
            if encoder.wanted && !wanted.wanted {
                encoder.stops_at = Some(now + STOPS_AFTER);
            } else if wanted.wanted && !encoder.wanted {
                encoder.key_frame |= !encoder.sends(now);
                encoder.stops_at = None;
            }
            encoder.wanted = wanted.wanted;
        }
    }

    /// What the sender's own line carries: larger encodings are left out, the smallest never. Returns the rate that
    /// would be needed for the next one that is wanted.
    pub(super) fn afford(&mut self, bps: u64) -> Option<u64> {
        let (mut sum, mut next) = (0, None);
        for (at, encoder) in self.encoders.iter_mut().enumerate() {
            let needs = sum + encoder.bps;
            // What is sent stays until the line is clearly too narrow for it.
            let limit = if encoder.afforded { bps } else { bps * 9 / 10 };
            let afforded = at == 0 || (next.is_none() && needs <= limit);
            encoder.key_frame |= afforded && !encoder.afforded;
            encoder.afforded = afforded;
            if !encoder.wanted {
                continue;
            }
            if afforded {
                sum = needs;
            } else if next.is_none() {
                next = Some(needs * 9 / 8);
            }
        }
        next
    }

    /// Bits per second of what it sends now.
    pub(super) fn rate(&self, now: Instant) -> u64 {
        self.encoders.iter().filter(|encoder| encoder.sends(now)).map(|encoder| encoder.bps).sum()
    }

    pub(super) fn poll_timeout(&self) -> Instant {
        if self.waiting.is_empty() { self.next } else { self.next.min(self.goes_at) }
    }

    /// Takes the pictures that are due, and gives packets that are due to `send`.
    pub(super) fn act(&mut self, now: Instant, peer: &mut Peer, send: &mut dyn FnMut(&[u8])) {
        while self.next <= now {
            let at = self.next;
            (0..self.encoders.len()).for_each(|encoding| self.encode(at, encoding));
            self.tick += 1;
            self.next = at + Duration::from_secs(1) / FPS;
        }
        let mut out = [0; 1500];
        while let Some(packet) = self.waiting.front().filter(|_| self.goes_at <= now) {
            let mut payload = [0; PAYLOAD];
            packet.truth.write(&mut payload);
            let (bytes, len) = &packet.descriptor;
            let frame = Frame {
                encoding: packet.encoding,
                descriptor: Some(&bytes[..*len]),
                layers_allocation: Some(packet.allocation.as_slice()).filter(|value| !value.is_empty()),
                ..Frame::new(packet.timestamp, packet.marker, &payload[..packet.len])
            };
            let len = peer.send_media(now, &mut out, SourceName::Camera, &frame);
            send(&out[..len]);
            self.waiting.pop_front();
            let rate = (self.rate(now) as f64 * PACE).max(PACE_MIN_BPS);
            self.goes_at = now + Duration::from_secs_f64(len as f64 * 8.0 / rate);
        }
    }

    /// What is sent now, for the first packet of a picture that is a key frame, or the first since that changed.
    fn allocation(&mut self, at: Instant, encoding: usize, key_frame: bool) -> Vec<u8> {
        let sends: [bool; ENCODINGS.len()] = std::array::from_fn(|n| self.encoders[n].sends(at));
        if !key_frame && self.told == sends {
            return Vec::new();
        }
        self.told = sends;
        let number = |n: usize| u8::try_from(n).unwrap_or(0);
        let mut allocation = LayersAllocation::new(number(encoding), number(ENCODINGS.len()));
        for (n, (height, width, bps)) in ENCODINGS.iter().enumerate().filter(|(n, _)| sends[*n]) {
            let kbits = |share: u64| u32::try_from(bps * share / 100_000).unwrap_or(u32::MAX);
            let size = Size { width: *width, height: *height, frames_per_s: number(FPS as usize) };
            let kbits_per_s = [kbits(40), kbits(60), kbits(100), 0];
            allocation.set(number(n), 0, SpatialLayer { temporal_layers: 3, kbits_per_s, size: Some(size) });
        }
        let mut value = vec![0; VALUE_LEN_MAX];
        let len = allocation.write(&mut value).unwrap_or(0);
        value.truncate(len);
        value
    }

    fn encode(&mut self, at: Instant, encoding: usize) {
        let Some(encoder) = self.encoders.get_mut(encoding) else { return };
        if !encoder.sends(at) {
            encoder.key_frame = true;
            return;
        }
        let key_frame = std::mem::take(&mut encoder.key_frame);
        let mut allocation = self.allocation(at, encoding, key_frame);
        let Some(encoder) = self.encoders.get_mut(encoding) else { return };
        if key_frame {
            encoder.run += 1;
            encoder.picture = 0;
            self.key_frames += 1;
        }
        let average = encoder.bps as f64 / 8.0 / f64::from(FPS);
        let varies = 1.0 + VARIES * (2.0 * self.rng.unit() - 1.0);
        // Every fourth picture is of the lowest layer and takes 40 % of the rate, those between them 20 and 40 %.
        let usual = average * varies * if encoder.picture.is_multiple_of(4) { 1.6 } else { 0.8 };
        let size = if key_frame {
            encoder.debt += (KEY_FRAME - 1.0) * average;
            average * KEY_FRAME * varies
        } else {
            let saved = encoder.debt.min(usual * SAVED_MAX);
            encoder.debt -= saved;
            usual - saved
        };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few thousand bytes")]
        let size = (size as usize).max(Truth::LEN);
        let packets = size.div_ceil(PAYLOAD);
        let (picture, run) = (encoder.picture, encoder.run);
        let taken = at.saturating_duration_since(self.began);
        let truth = Truth { encoding: u8::try_from(encoding).unwrap_or(0), run, picture, taken };
        for packet in 0..packets {
            let ends = (packet == 0, packet + 1 == packets);
            let mut bytes = [0; DESCRIPTOR_LEN_MAX];
            let len = encoder.pattern.write(&mut bytes, encoder.frame_number, picture, 0, ends);
            self.waiting.push_back(Waiting {
                encoding,
                marker: ends.1,
                timestamp: self.tick.wrapping_mul(90_000 / FPS),
                descriptor: (bytes, len),
                allocation: std::mem::take(&mut allocation),
                truth,
                len: (size / packets).max(Truth::LEN),
            });
        }
        encoder.frame_number = encoder.frame_number.wrapping_add(1);
        encoder.picture += 1;
    }
}

/// A microphone, whose packets each hold the two before again (RFC 2198): a number is all that matters here.
pub(super) struct Microphone {
    next: Instant,
    /// Packets sent, which is the number of the next one.
    pub(super) sent: u32,
}

impl Microphone {
    pub(super) fn new(now: Instant) -> Self {
        Self { next: now, sent: 0 }
    }

    pub(super) fn poll_timeout(&self) -> Instant {
        self.next
    }

    /// Sends what is due.
    pub(super) fn act(&mut self, now: Instant, peer: &mut Peer, send: &mut dyn FnMut(&[u8])) {
        let mut out = [0; 1500];
        while self.next <= now {
            let mut payload = [0; SOUND];
            payload[..4].copy_from_slice(&self.sent.to_be_bytes());
            let frame = Frame {
                audio_level: Some((true, 30)),
                ..Frame::new(self.sent.wrapping_mul(960), false, &payload)
            };
            let len = peer.send_media(now, &mut out, SourceName::Microphone, &frame);
            send(&out[..len]);
            self.sent += 1;
            self.next += SOUND_EVERY;
        }
    }
}
