//! However a sender numbers its packets, whoever receives them can follow. A receiver guesses the roll-over of sequence numbers
//! from the last one it saw (RFC 3711, section 3.3.1): a slot that leaves out half a cycle of them is never understood again,
//! whoever is shown in it.

use std::time::Duration;

use trunkline_relay_proto::event::{EndReason, Pin, Request};
use trunkline_relay_proto::media::{Codec, PayloadType, Section};
use trunkline_relay_proto::rtp::descriptor::write::{DESCRIPTOR_LEN_MAX, Pattern};
use trunkline_relay_proto::rtp::nearest;
use trunkline_testkit::rng::Rng;

use crate::branches::Branched;
use crate::client::{DESCRIPTOR, Sent, usual};

/// From one new number of a slot to the next, less than this.
const AHEAD_MAX: u64 = 1024;
const SEEDS: u64 = 12;

/// Payload types that nobody agreed on, and that only senders here know.
const UNKNOWN: u8 = 100;
const ONLY_HERE: u8 = 63;

const SLOTS: [&str; 4] = ["a0", "a1", "v0", "v1"];

/// Ways to make numbers jump.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// Twice nearly half a cycle, the first time in a packet that is opened and not taken.
    Unknown,
    /// More than half a cycle where no roll-over can have been yet.
    First,
}

/// A client that numbers as it likes.
struct Sender {
    who: (usize, usize),
    mid: &'static str,
    /// As the relay extends its numbers.
    highest: u64,
    timestamp: u32,
}

impl Sender {
    fn new(who: (usize, usize), mid: &'static str) -> Self {
        Self { who, mid, highest: 130, timestamp: 0 }
    }

    fn sent(&mut self) -> Sent<'static> {
        self.timestamp = self.timestamp.wrapping_add(960);
        if self.mid == "mic" {
            Sent::audio(self.timestamp, 20)
        } else {
            Sent::video(self.timestamp, b"picture")
        }
    }

    /// Sends a packet whose number is so much ahead of the highest.
    fn send(&mut self, call: &mut Branched, step: u16, sent: Sent<'_>) {
        let sequence = u16::try_from(self.highest & 0xffff).expect("masked").wrapping_add(step);
        let index = nearest(self.highest, sequence);
        self.highest = self.highest.max(index);
        call.media(self.who, &sent.at(index));
    }

    /// Sends for a while as everybody does.
    fn run(&mut self, call: &mut Branched, packets: usize) {
        for _ in 0..packets {
            let sent = self.sent();
            self.send(call, 1, sent);
            call.pass(Duration::from_millis(20));
        }
    }
}

/// Microphone, camera and slots of a sender with one payload type more than others understand.
fn sections() -> Vec<Section> {
    let mut sections = usual(1000);
    for section in sections.iter_mut().filter(|section| section.send.is_some()) {
        let (codec, rtx) = match section.payload_types[0].codec {
            Codec::Opus => (Codec::OpusRed, None),
            _ => (Codec::Vp9 { profile: 0 }, Some(ONLY_HERE + 1)),
        };
        let more = PayloadType { number: ONLY_HERE, codec, rtx, ..section.payload_types[0] };
        section.payload_types.push(more);
    }
    sections
}

/// Mallory on one branch, and who receives her there and on another.
fn scene() -> (Branched, (usize, usize), [(usize, usize); 2]) {
    let mut call = Branched::new(2);
    let mallory = (0, call.join_with(0, "mallory", sections()));
    let bob = (0, call.join(0, "bob", 2000));
    let eve = (1, call.join(1, "eve", 3000));
    (call, mallory, [bob, eve])
}

/// What somebody got can be followed. The client opens all of it as receivers do, so that a wrong guess fails before this. Says how
/// many numbers went by in all slots.
fn follow(call: &Branched, who: (usize, usize)) -> u64 {
    let spans = SLOTS.map(|mid| {
        let got = call.got(who, mid);
        let Some(first) = got.first().map(|got| got.index) else { return 0 };
        let mut highest = first;
        for got in &got {
            let ahead = got.index.saturating_sub(highest);
            assert!(ahead < AHEAD_MAX, "{ahead} ahead in {mid}, after {highest}");
            highest = highest.max(got.index);
        }
        highest - first
    });
    spans.iter().sum()
}

/// Connectivity checks, as clients make all the time.
fn stay(call: &mut Branched) {
    for world in &mut call.worlds {
        for client in 0..world.clients.len() {
            world.check(client, true);
        }
    }
    call.exchange();
}

#[test]
fn a_jump_of_a_senders_numbers_does_not_reach_slots_nor_who_is_shown_in_them_next() {
    for (mid, slot) in [("mic", "a0"), ("cam", "v0")] {
        for way in [Way::Unknown, Way::First] {
            let (mut call, mallory, receivers) = scene();
            let mut sender = Sender::new(mallory, mid);
            sender.run(&mut call, 30);
            match way {
                Way::Unknown => {
                    let sent = Sent { payload_type: Some(UNKNOWN), ..sender.sent() };
                    sender.send(&mut call, 32_000, sent);
                    let sent = sender.sent();
                    sender.send(&mut call, 32_000, sent);
                }
                Way::First => {
                    let sent = sender.sent();
                    sender.send(&mut call, 60_000, sent);
                }
            }
            sender.run(&mut call, 30);
            let before = receivers.map(|who| {
                let got = call.got(who, slot);
                assert!(got.len() > 50, "{way:?}: {} packets of {mid} before and after", got.len());
                let hole = got.windows(2).find(|two| two[1].index != two[0].index + 1);
                assert_eq!(hole, None, "{way:?} of {mid}");
                got.len()
            });
            let world = &mut call.worlds[0];
            let id = world.clients[mallory.1].id;
            world.call.leave(world.now, id, EndReason::Left);
            world.settle();
            call.exchange();
            let ann = (0, call.join(0, "ann", 4000));
            Sender::new(ann, mid).run(&mut call, 50);
            for (who, before) in receivers.into_iter().zip(before) {
                assert!(call.got(who, slot).len() > before + 20, "{way:?}: who is shown next is understood");
                follow(&call, who);
            }
        }
    }
}

#[test]
fn many_small_holes_use_up_no_more_numbers_than_an_outage_may_miss() {
    for mid in ["mic", "cam"] {
        let (mut call, mallory, receivers) = scene();
        let mut sender = Sender::new(mallory, mid);
        sender.run(&mut call, 30);
        for _ in 0..100 {
            let sent = sender.sent();
            sender.send(&mut call, 500, sent);
            call.pass(Duration::from_millis(20));
        }
        for who in receivers {
            let span = follow(&call, who);
            assert!(span < 2000, "{span} numbers of {mid} went by in two seconds");
        }
    }
}

#[test]
fn what_a_receiver_does_not_understand_uses_up_few_of_its_numbers() {
    for mid in ["mic", "cam"] {
        let (mut call, mallory, receivers) = scene();
        let mut sender = Sender::new(mallory, mid);
        sender.run(&mut call, 30);
        for _ in 0..3000 {
            let sent = Sent { payload_type: Some(ONLY_HERE), ..sender.sent() };
            sender.send(&mut call, 1, sent);
            call.pass(Duration::from_millis(1));
        }
        let before = receivers.map(|who| follow(&call, who));
        sender.run(&mut call, 30);
        for (who, before) in receivers.into_iter().zip(before) {
            let span = follow(&call, who);
            assert!(span > before, "{mid} goes on");
        }
    }
}

/// A camera of two sizes in one stream.
struct Layered {
    pattern: Pattern,
    number: u16,
    picture: u32,
}

impl Layered {
    fn new() -> Self {
        Self { pattern: Pattern::new(2, 1, false).with_resolution(640, 360), number: 7, picture: 0 }
    }

    /// One packet that is all of the next picture in a size.
    fn frame(&mut self, sender: &mut Sender, layer: u8) -> Sent<'static> {
        let mut value = [0; DESCRIPTOR_LEN_MAX];
        let len = self.pattern.write(&mut value, self.number, self.picture, layer, (true, true));
        self.number = self.number.wrapping_add(1);
        self.picture += u32::from(layer == 1);
        let mut sent = sender.sent();
        sent.extensions.push((DESCRIPTOR, value[..len].to_vec()));
        sent
    }
}

fn pin_small(call: &mut Branched, (at, client): (usize, usize)) {
    let world = &mut call.worlds[at];
    let pin = Pin { slot: "v0".into(), participant: Some("mallory".into()), source: None, height: Some(90) };
    world.call.request(world.now, world.clients[client].id, Request::Pin(pin)).expect("can be done");
    world.settle();
    call.exchange();
}

#[test]
fn what_is_missing_among_what_is_left_out_uses_up_few_numbers() {
    let (mut call, mallory, receivers) = scene();
    let mut sender = Sender::new(mallory, "cam");
    let mut camera = Layered::new();
    let mut picture = |call: &mut Branched, layers: &[u8], step: u16| {
        for layer in layers {
            let sent = camera.frame(&mut sender, *layer);
            sender.send(call, step, sent);
            // As if a picture were missing.
            camera.number = camera.number.wrapping_add(step - 1);
        }
    };
    for _ in 0..30 {
        picture(&mut call, &[0, 1], 1);
        call.pass(Duration::from_millis(33));
    }
    for who in receivers {
        pin_small(&mut call, who);
    }
    for _ in 0..30 {
        picture(&mut call, &[0, 1], 1);
        call.pass(Duration::from_millis(33));
    }
    let before = receivers.map(|who| call.got(who, "v0").len());
    for second in 0..80 {
        picture(&mut call, &[1], 480);
        call.pass(Duration::from_secs(1));
        if second % 5 == 0 {
            stay(&mut call);
        }
    }
    assert_eq!(receivers.map(|who| call.got(who, "v0").len()), before, "nothing of it is shown");
    for _ in 0..30 {
        picture(&mut call, &[0, 1], 1);
        call.pass(Duration::from_millis(33));
    }
    for (who, before) in receivers.into_iter().zip(before) {
        assert!(call.got(who, "v0").len() > before, "the small picture goes on");
        follow(&call, who);
    }
}

#[test]
fn whatever_a_sender_does_with_its_numbers_every_receiver_can_follow() {
    for seed in 0..SEEDS {
        let mut rng = Rng::new(seed);
        let (mut call, mallory, receivers) = scene();
        let mut camera = (seed % 2 == 0).then(Layered::new);
        if seed % 4 == 0 {
            for who in receivers {
                pin_small(&mut call, who);
            }
        }
        let mut senders = [Sender::new(mallory, "mic"), Sender::new(mallory, "cam")];
        for round in 0..300 {
            let sender = &mut senders[rng.index(2)];
            let (low, step) = match rng.index(12) {
                0 => (0, 64),
                1 => (0, 600),
                2 => (0, 65_536),
                3 => (31_000, 33_000),
                // Late.
                4 => (65_536 - 300, 65_536),
                _ => (1, 2),
            };
            let step = u16::try_from(rng.range(low..step)).expect("16 bits");
            let repeats = if rng.chance(0.02) { 1200 } else { 1 };
            let payload_type = match rng.index(8) {
                0 => Some(UNKNOWN),
                1 => Some(ONLY_HERE),
                _ => None,
            };
            let layer = u8::try_from(rng.index(2)).expect("few");
            for repeat in 0..repeats {
                let mut sent = match camera.as_mut().filter(|_| sender.mid == "cam") {
                    Some(camera) => {
                        if rng.chance(0.02) {
                            camera.picture = 0;
                        }
                        camera.frame(sender, layer)
                    }
                    None => sender.sent(),
                };
                sent.payload_type = payload_type;
                sender.send(&mut call, if repeat == 0 { step } else { 1 }, sent);
            }
            call.pass(Duration::from_millis(rng.range(0..40)));
            if round % 100 == 0 {
                stay(&mut call);
            }
        }
        senders.iter_mut().for_each(|sender| sender.run(&mut call, 20));
        for who in receivers {
            assert!(!call.got(who, "a0").is_empty(), "seed {seed}");
            follow(&call, who);
        }
    }
}
