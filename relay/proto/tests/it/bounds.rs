//! What one participant cannot do to others, nor have done to somebody.

use std::time::Duration;

use trunkline_relay_proto::event::{Notice, Pin, Request, SourceName};
use trunkline_relay_proto::media::{Content, Extension, Kind, Rid};

use crate::client::{Sent, World, section, usual};

/// Payload of one packet, and packets of a picture that is 7 Mbit/s thirty times a second.
const PAYLOAD: [u8; 1000] = [7; 1000];
const LARGE: u32 = 30;
const PICTURE_EVERY: Duration = Duration::from_millis(33);

/// Sends pictures of a camera that comes in one size, while its receiver says over and over what its line carries.
fn picture_over(world: &mut World, sender: usize, receiver: usize, bits_per_s: u64) -> bool {
    let ssrc = world.clients[receiver].ssrc("v0");
    for picture in 0..150_u32 {
        world.feedback(receiver, |writer| {
            writer.receiver_report(ssrc, &[]);
            writer.remb(ssrc, bits_per_s, &[ssrc]);
        });
        for _ in 0..LARGE {
            world.media(sender, &Sent::video(picture * 3000, &PAYLOAD));
        }
        world.pass(PICTURE_EVERY);
    }
    let before = world.clients[receiver].got.len();
    world.media(sender, &Sent::video(150 * 3000, &PAYLOAD));
    world.clients[receiver].got.len() > before
}

#[test]
fn what_comes_in_one_size_only_is_tried_within_reason_beyond_what_a_line_carries() {
    for (line_bps, is_shown) in [(5_000_000, true), (500_000, false)] {
        let mut world = World::new(10);
        let ann = world.join("ann", usual(1000));
        let mut sections = usual(2000);
        sections.iter_mut().flat_map(|section| &mut section.payload_types).for_each(|pt| pt.remb = true);
        let bob = world.join("bob", sections);
        assert_eq!(picture_over(&mut world, ann, bob, line_bps), is_shown, "{line_bps} bit/s");
        let paused = world.clients[bob].events.iter().rev().find_map(|notice| match notice {
            Notice::Slots { slots } => slots.iter().find(|slot| slot.slot == "v0").map(|slot| slot.paused),
            _ => None,
        });
        assert_eq!(paused, Some(!is_shown), "and the receiver is told so");
    }
}

#[test]
fn the_line_of_who_was_sent_nothing_and_said_nothing_is_probed_all_the_same() {
    let mut world = World::new(10);
    let ann = world.join("ann", usual(1000));
    let mut sections = usual(2000);
    for section in &mut sections {
        section.extensions.set(Extension::TransportSequence, 9);
        section.payload_types.iter_mut().for_each(|pt| pt.transport_cc = true);
    }
    let bob = world.join("bob", sections);
    for picture in 0..60_u32 {
        for _ in 0..LARGE {
            world.media(ann, &Sent::video(picture * 3000, &PAYLOAD));
        }
        world.pass(PICTURE_EVERY);
    }
    assert!(world.clients[bob].got.iter().all(|got| got.rtx), "it is too much to be tried");
    assert!(world.call.counters().probe_bytes_out > 0);
}

#[test]
fn many_microphones_and_cameras_of_one_participant_take_one_slot_each() {
    let mut world = World::new(10);
    let mut many = usual(1000);
    for more in 0..4_u32 {
        let mid = ["m0", "m1", "m2", "m3"][more as usize];
        many.push(section(mid, Kind::Audio, Some(Content::Main), 1100 + more * 10));
        let mid = ["c0", "c1", "c2", "c3"][more as usize];
        many.push(section(mid, Kind::Video, Some(Content::Main), 1200 + more * 10));
    }
    let mallory = world.join("mallory", many);
    let ann = world.join("ann", usual(2000));
    let bob = world.join("bob", usual(3000));
    for round in 0..50_u32 {
        for mid in ["mic", "m0", "m1", "m2", "m3"] {
            world.media(mallory, &Sent { mid, ..Sent::audio(round * 960, 5) });
        }
        for mid in ["cam", "c0", "c1", "c2", "c3"] {
            world.media(mallory, &Sent { mid, ..Sent::video(round * 1800, b"loud") });
        }
        world.media(ann, &Sent::audio(round * 960, 30));
        world.media(ann, &Sent::video(round * 1800, b"quiet"));
        world.pass(Duration::from_millis(20));
    }
    let mut owners: Vec<_> = ["a0", "a1", "v0", "v1"].map(|mid| world.clients[bob].slot_owner(mid)).to_vec();
    owners.sort();
    let expected = ["ann", "ann", "mallory", "mallory"].map(|name| Some(name.to_owned()));
    assert_eq!(owners, expected, "both are heard and seen");
}

#[test]
fn senders_hear_of_a_smaller_height_only_when_it_lasts() {
    let mut world = World::new(10);
    let ann = world.join("ann", usual(1000));
    let bob = world.join("bob", usual(2000));
    world.media(ann, &Sent::video(0, b"seen"));
    let id = world.clients[bob].id;
    let heights = |world: &World| -> Vec<Option<u32>> {
        let notices = world.clients[ann].events.iter();
        let sources = notices.filter_map(|notice| match notice {
            Notice::Layers { sources } => Some(sources),
            _ => None,
        });
        sources.flatten().map(|source| source.height).collect()
    };
    let ask = |world: &mut World, height| {
        let participant = Some("ann".to_owned());
        let source = Some(SourceName::Camera);
        let pin = Pin { slot: "v0".to_owned(), participant, source, height: Some(height) };
        world.call.request(world.now, id, Request::Pin(pin)).expect("can be done");
        world.settle();
    };
    for picture in 0..300_u32 {
        ask(&mut world, if picture % 2 == 0 { 720 } else { 90 });
        world.media(ann, &Sent::video(picture * 1800, b"picture"));
        world.pass(Duration::from_millis(20));
    }
    let told = heights(&world);
    assert!(told.len() <= 2, "six seconds of asking for one height and another: {told:?}");
    assert_eq!(told.last(), Some(&Some(720)));
    ask(&mut world, 90);
    for picture in 300..600_u32 {
        world.media(ann, &Sent::video(picture * 1800, b"picture"));
        world.pass(Duration::from_millis(20));
    }
    assert_eq!(heights(&world).last(), Some(&Some(90)));
}

#[test]
fn a_source_that_is_pinned_to_all_slots_is_sent_once() {
    let mut world = World::new(10);
    let ann = world.join("ann", usual(1000));
    let bob = world.join("bob", usual(2000));
    let id = world.clients[bob].id;
    for slot in ["v0", "v1"] {
        let pin =
            Pin { slot: slot.to_owned(), participant: Some("ann".to_owned()), source: None, height: None };
        world.call.request(world.now, id, Request::Pin(pin)).expect("can be done");
    }
    world.media(ann, &Sent::video(0, b"once"));
    world.pass(Duration::from_millis(20));
    assert_eq!(world.clients[bob].got.len(), 1);
}

#[test]
fn an_encoding_that_does_not_come_stays_wanted_and_no_larger_one_is_asked_for_instead() {
    let mut world = World::new(10);
    let mut sections = usual(1000);
    let send = sections[1].send.as_mut().expect("a camera");
    (send.ssrcs, send.rids) = (Vec::new(), ["q", "h", "f"].map(|rid| Rid::new(rid).expect("a rid")).to_vec());
    let ann = world.join("ann", sections);
    let bob = world.join("bob", usual(2000));
    let id = world.clients[bob].id;
    let (participant, source) = (Some("ann".to_owned()), Some(SourceName::Camera));
    let pin = Pin { slot: "v0".to_owned(), participant, source, height: Some(360) };
    world.call.request(world.now, id, Request::Pin(pin)).expect("can be done");
    for picture in 0..450_u32 {
        // Nothing but the smallest for a while, then the largest, too.
        let number = u16::try_from(picture).expect("few");
        for (rid, ssrc) in [("q", 1100), ("f", 1300)].into_iter().take(if picture < 300 { 1 } else { 2 }) {
            let packet = Sent::video(picture * 1800, b"picture").frame(number, picture % 50 == 0);
            world.media(ann, &packet.encoding(rid, ssrc));
        }
        world.pass(Duration::from_millis(20));
    }
    let wanted = world.clients[ann].events.iter().rev().find_map(|notice| match notice {
        Notice::Layers { sources } => sources.first(),
        _ => None,
    });
    let wanted: Vec<_> = wanted.expect("layers were told").encodings.iter().map(|each| each.wanted).collect();
    assert_eq!(wanted, [true, true, false]);
}
