//! What a receiver shows and hears of what arrives: pictures as dependency descriptors and sequence numbers say they can
//! be decoded, held against what the sender knows of them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use trunkline_relay_proto::rtp::descriptor::{Structure, write_frame_number};
use trunkline_relay_proto::rtp::nearest;

use super::camera::{ENCODINGS, Truth};

/// The longest that a picture waits for others before it is shown.
const BUFFER_MAX: Duration = Duration::from_millis(500);

/// What the buffer gives back with each picture that came early enough.
const BUFFER_SHRINKS: f64 = 0.998;

/// Without a picture that can be decoded for so long, a key frame is asked for, and again after as much.
const PATIENCE: Duration = Duration::from_millis(500);

/// Packets and pictures kept.
const KEPT: usize = 2048;

/// Pictures whose intervals make the average a freeze is told by (W3C webrtc-stats, `freezeCount`).
const INTERVALS: usize = 30;

/// One packet of a picture.
struct Packet {
    descriptor: Vec<u8>,
    first: bool,
    last: bool,
    number: u16,
    truth: Truth,
    csrc: u32,
}

/// A picture all of which is there.
struct Picture {
    key_frame: bool,
    needs: Vec<u64>,
    truth: Truth,
    csrc: u32,
    play_at: Instant,
}

/// A picture that was shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shown {
    pub(super) at: Instant,
    pub(super) height: u16,
}

/// One slot with pictures.
pub(super) struct Player {
    began: Instant,
    packets: BTreeMap<u64, Packet>,
    structure: Option<Box<Structure>>,
    highest: u64,
    pictures: BTreeMap<u64, Picture>,
    decoded: BTreeSet<u64>,
    /// The sender's view of what was decoded: whose encoding and key frame, and the latest pictures.
    truths: VecDeque<(u32, u8, u32, u32)>,
    fastest: Option<Duration>,
    buffer: Duration,
    stuck_since: Option<Instant>,
    intervals: VecDeque<Duration>,
    paused: bool,
    before: Option<Instant>,
    /// What was shown.
    pub(super) shown: Vec<Shown>,
    /// Gaps that people notice.
    pub(super) freezes: Vec<(Instant, Duration)>,
    /// Pictures whose descriptors said that they can be decoded, and which cannot.
    pub(super) broken: u64,
    /// Key frames asked for.
    pub(super) requests: u64,
}

impl Player {
    pub(super) fn new(began: Instant) -> Self {
        Self {
            began,
            packets: BTreeMap::new(),
            structure: None,
            highest: 0,
            pictures: BTreeMap::new(),
            decoded: BTreeSet::new(),
            truths: VecDeque::new(),
            fastest: None,
            buffer: Duration::ZERO,
            stuck_since: None,
            intervals: VecDeque::new(),
            paused: false,
            before: None,
            shown: Vec::new(),
            freezes: Vec::new(),
            broken: 0,
            requests: 0,
        }
    }

    /// The relay says that the slot is paused or empty, or that it is not any more: no picture is missed meanwhile. Until that
    /// was said, and from when it is said no longer, people look at a picture that stands still and do not know why.
    pub(super) fn pause(&mut self, now: Instant, paused: bool) {
        if paused && !self.paused {
            if let Some(before) = self.before.take() {
                self.gap(before, now);
            }
            self.stuck_since = None;
        } else if !paused && self.paused && !self.shown.is_empty() {
            self.before = Some(now);
        }
        self.paused = paused;
    }

    /// A packet with a payload.
    pub(super) fn receive(
        &mut self,
        now: Instant,
        index: u64,
        (csrc, descriptor, payload): (u32, &[u8], &[u8]),
    ) {
        let Some(truth) = Truth::read(payload) else { return };
        let Some(&[first, n0, n1]) = descriptor.first_chunk() else { return };
        if let Some(structure) = Structure::parse(descriptor) {
            self.structure = Some(Box::new(structure));
        }
        self.packets.insert(
            index,
            Packet {
                descriptor: descriptor.to_vec(),
                first: first & 0x80 != 0,
                last: first & 0x40 != 0,
                number: u16::from_be_bytes([n0, n1]),
                truth,
                csrc,
            },
        );
        while self.packets.len() > KEPT {
            self.packets.pop_first();
        }
        if !self.paused {
            self.stuck_since.get_or_insert(now);
        }
        self.complete(now, index);
        self.play(now);
    }

    /// Looks whether a packet completes its picture.
    fn complete(&mut self, now: Instant, index: u64) {
        let Some(number) = self.packets.get(&index).map(|packet| packet.number) else { return };
        let of_picture = |at: u64| self.packets.get(&at).filter(|packet| packet.number == number);
        let mut start = index;
        while !of_picture(start).is_some_and(|packet| packet.first) {
            start -= 1;
            if of_picture(start).is_none() {
                return;
            }
        }
        let mut end = index;
        while !of_picture(end).is_some_and(|packet| packet.last) {
            end += 1;
            if of_picture(end).is_none() {
                return;
            }
        }
        let Some(first) = self.packets.get(&start) else { return };
        let (truth, csrc) = (first.truth, first.csrc);
        // Packets of two pictures under one number would be a relay's mistake.
        if (start..=end).any(|at| self.packets.get(&at).is_none_or(|packet| packet.truth != truth)) {
            self.broken += 1;
        }
        let Some(structure) = self.structure.as_ref().filter(|s| s.frame(&first.descriptor).is_some()) else {
            return;
        };
        let Some(frame) = structure.frame(&first.descriptor) else { return };
        let number =
            if self.highest == 0 { (1 << 20) + u64::from(number) } else { nearest(self.highest, number) };
        self.highest = self.highest.max(number);
        let needs: Vec<u64> =
            frame.fdiffs.as_slice().iter().map(|fdiff| number.saturating_sub(u64::from(*fdiff))).collect();
        (start..=end).for_each(|at| drop(self.packets.remove(&at)));
        let took = now.saturating_duration_since(self.began).saturating_sub(truth.taken);
        let fastest = self.fastest.map_or(took, |fastest| fastest.min(took));
        self.fastest = Some(fastest);
        let late = took.saturating_sub(fastest).min(BUFFER_MAX);
        self.buffer = self.buffer.mul_f64(BUFFER_SHRINKS).max(late);
        let play_at = (self.began + truth.taken + fastest + self.buffer).max(now);
        let picture = Picture { key_frame: frame.structure, needs, truth, csrc, play_at };
        self.pictures.insert(number, picture);
        while self.pictures.len() > KEPT {
            self.pictures.pop_first();
        }
    }

    /// When something is due.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let next = self.next().and_then(|number| self.pictures.get(&number)).map(|picture| picture.play_at);
        let asks = self.stuck_since.filter(|_| !self.paused).map(|since| since + PATIENCE);
        next.into_iter().chain(asks).min()
    }

    /// The next picture that can be decoded: in order, without waiting for those that nobody needs.
    fn next(&self) -> Option<u64> {
        let decodable = |picture: &Picture| {
            picture.key_frame || picture.needs.iter().all(|needed| self.decoded.contains(needed))
        };
        self.pictures.iter().find(|(_, picture)| decodable(picture)).map(|(number, _)| *number)
    }

    /// Shows what is due. True when a key frame has to be asked for.
    pub(super) fn play(&mut self, now: Instant) -> bool {
        while let Some(number) = self.next() {
            if self.pictures.get(&number).is_none_or(|picture| picture.play_at > now) {
                break;
            }
            let Some(picture) = self.pictures.remove(&number) else { break };
            self.pictures = self.pictures.split_off(&number);
            self.decode(number, &picture);
            self.show(now, &picture);
        }
        if self.stuck_since.is_some_and(|since| now >= since + PATIENCE) && !self.paused {
            self.stuck_since = Some(now);
            self.requests += 1;
            return true;
        }
        false
    }

    fn decode(&mut self, number: u64, picture: &Picture) {
        let Truth { encoding, run, picture: at, .. } = picture.truth;
        let needed = picture.truth.needs().map(|needed| (picture.csrc, encoding, run, needed));
        if needed.is_some_and(|needed| !self.truths.contains(&needed)) || picture.key_frame != (at == 0) {
            self.broken += 1;
        }
        self.truths.push_back((picture.csrc, encoding, run, at));
        if self.truths.len() > 64 {
            self.truths.pop_front();
        }
        self.decoded.insert(number);
        if self.decoded.len() > KEPT {
            self.decoded.pop_first();
        }
    }

    fn show(&mut self, now: Instant, picture: &Picture) {
        self.stuck_since = Some(now);
        let height = ENCODINGS.get(usize::from(picture.truth.encoding)).map_or(0, |(height, ..)| *height);
        self.shown.push(Shown { at: now, height });
        // While it is said to be paused, what still comes is nothing to hold the next against.
        if let Some(before) = std::mem::replace(&mut self.before, (!self.paused).then_some(now)) {
            self.gap(before, now);
        }
    }

    fn gap(&mut self, before: Instant, now: Instant) {
        let gap = now - before;
        let count = u32::try_from(self.intervals.len()).unwrap_or(u32::MAX);
        if count > 5 {
            let average = self.intervals.iter().sum::<Duration>() / count;
            if gap > (average * 3).max(average + Duration::from_millis(150)) {
                self.freezes.push((before, gap));
            }
        }
        self.intervals.push_back(gap);
        if self.intervals.len() > INTERVALS {
            self.intervals.pop_front();
        }
    }

    /// The run is over: a gap that goes on counts, too.
    pub(super) fn end(&mut self, now: Instant) {
        if let Some(before) = self.before.filter(|_| !self.paused) {
            self.gap(before, now);
        }
    }
}

/// What is heard of one microphone.
#[derive(Default)]
pub(super) struct Ear {
    heard: BTreeSet<u32>,
    first: Option<u32>,
}

impl Ear {
    /// A packet, which holds the two before, too.
    pub(super) fn receive(&mut self, payload: &[u8]) {
        let Some(number) = payload.first_chunk().map(|bytes| u32::from_be_bytes(*bytes)) else { return };
        self.first.get_or_insert(number);
        self.heard.extend(number.saturating_sub(2)..=number);
    }

    /// Share of what was sent since the first packet that was heard, of `sent` packets in all.
    pub(super) fn share(&self, sent: u32) -> f64 {
        // What is still under way is not lost.
        let Some(first) = self.first else { return 0.0 };
        let end = sent.saturating_sub(50).max(first + 1);
        self.heard.range(first..end).count() as f64 / f64::from(end - first)
    }
}

#[cfg(test)]
mod tests {
    use trunkline_relay_proto::rtp::descriptor::write::{DESCRIPTOR_LEN_MAX, Pattern};

    use super::*;

    struct Bench {
        player: Player,
        began: Instant,
        index: u64,
    }

    impl Bench {
        fn new() -> Self {
            let began = Instant::now();
            Self { player: Player::new(began), began, index: 1000 }
        }

        /// A picture of one packet per encoding, and the time it comes.
        fn picture(&mut self, picture: u32, at_ms: u64) {
            let mut bytes = [0; DESCRIPTOR_LEN_MAX];
            let number = u16::try_from(picture).expect("small") + 7;
            let len = Pattern::new(1, 3, false).write(&mut bytes, 0, picture, 0, (true, true));
            write_frame_number(&mut bytes[..len], number);
            let mut payload = [0; 40];
            payload[1..5].copy_from_slice(&1_u32.to_be_bytes());
            payload[5..9].copy_from_slice(&picture.to_be_bytes());
            let taken = u64::from(picture) * 33_000_000;
            payload[9..17].copy_from_slice(&taken.to_be_bytes());
            self.index += 1;
            let now = self.began + Duration::from_millis(at_ms);
            self.player.receive(now, self.index, (1, &bytes[..len], &payload));
        }
    }

    #[test]
    fn pictures_that_nobody_needs_are_not_waited_for() {
        let mut bench = Bench::new();
        // The pictures of the highest layer are missing.
        for picture in [0, 2, 4, 6, 8] {
            bench.picture(picture, u64::from(picture) * 33 + 20);
        }
        assert_eq!((bench.player.shown.len(), bench.player.broken), (5, 0));
    }

    #[test]
    fn a_gap_that_people_notice_is_a_freeze() {
        let mut bench = Bench::new();
        for picture in 0..20 {
            bench.picture(picture, u64::from(picture) * 33 + 20);
        }
        for picture in 20..40 {
            bench.picture(picture, u64::from(picture) * 33 + 420);
        }
        assert_eq!(bench.player.freezes.len(), 1);
        assert_eq!(bench.player.freezes[0].1.as_millis(), 433);
    }

    #[test]
    fn without_what_a_picture_needs_a_key_frame_is_asked_for() {
        let mut bench = Bench::new();
        for picture in [0, 1, 2, 3, 8, 9, 10] {
            bench.picture(picture, u64::from(picture) * 33 + 20);
        }
        assert_eq!(bench.player.shown.len(), 4);
        let at = bench.player.poll_timeout().expect("it waits");
        assert!(bench.player.play(at), "500 ms after the last picture");
    }

    #[test]
    fn sound_is_heard_when_one_of_three_packets_comes() {
        let mut ear = Ear::default();
        for number in [0_u32, 3, 6, 10, 11] {
            ear.receive(&number.to_be_bytes());
        }
        assert_eq!(ear.heard.into_iter().collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11]);
    }
}
