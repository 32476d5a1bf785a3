//! What people on a call get.

use std::time::Duration;

use trunkline_relay_proto::call::JoinError;
use trunkline_relay_proto::event::{EndReason, Mute, Notice, Pin, Request, Role, SlotEntry, SourceName};
use trunkline_relay_proto::media::{Codec, Kind, PayloadType, Section};

use crate::client::{DESCRIPTOR, Got, Sent, World, section, usual};

/// Packets of a slot, retransmissions not among them.
fn slot(world: &World, client: usize, mid: &str) -> Vec<Got> {
    world.clients[client].got.iter().filter(|got| got.mid == mid && !got.rtx).cloned().collect()
}

fn payloads(got: &[Got]) -> Vec<String> {
    got.iter().map(|got| String::from_utf8_lossy(&got.payload).into_owned()).collect()
}

/// Talks for a while at a level, one packet each 20 ms.
fn talk(world: &mut World, client: usize, from: u32, packets: u32, level: u8) {
    for packet in from..from + packets {
        world.media(client, &Sent::audio(packet * 960, level));
        world.pass(Duration::from_millis(20));
    }
}

#[test]
fn everybody_sees_a_camera_but_its_owner() {
    let mut world = World::new(10);
    let ann = world.join("ann", usual(1000));
    let bob = world.join("bob", usual(2000));
    let eve = world.join("eve", usual(3000));
    for frame in 0..5_u32 {
        world.media(ann, &Sent::video(frame * 3000, format!("frame {frame}").as_bytes()));
        world.pass(Duration::from_millis(33));
    }
    for client in [bob, eve] {
        let got = slot(&world, client, "v0");
        assert_eq!(payloads(&got), ["frame 0", "frame 1", "frame 2", "frame 3", "frame 4"]);
        assert!(
            got.windows(2)
                .all(|two| two[1].index == two[0].index + 1 && two[1].timestamp == two[0].timestamp + 3000)
        );
        assert!(got.iter().all(|got| got.marker && got.payload_type == 96));
        assert_eq!(world.clients[client].slot_owner("v0").as_deref(), Some("ann"));
    }
    assert!(world.clients[ann].got.is_empty());
    let csrc = slot(&world, bob, "v0")[0].csrc;
    let roster = world.clients[eve].events.iter().any(|notice| {
        matches!(notice, Notice::Roster { participants, .. }
            if participants.iter().any(|p| &*p.participant == "ann" && p.sources.iter().any(|s| s.csrc == csrc)))
    });
    assert!(roster, "the roster says whose CSRC it is");
}

#[test]
fn the_loudest_are_heard_and_silence_costs_nothing() {
    let mut world = World::new(10);
    let speakers =
        [world.join("ann", usual(1000)), world.join("bob", usual(2000)), world.join("eve", usual(3000))];
    let listener = world.join("dan", usual(4000));
    for round in 0..30_u32 {
        for (speaker, level) in speakers.into_iter().zip([20, 30, 127]) {
            world.media(speaker, &Sent::audio(round * 960, level));
        }
        world.pass(Duration::from_millis(20));
    }
    let heard = (slot(&world, listener, "a0").len(), slot(&world, listener, "a1").len());
    assert!(heard.0 > 20 && heard.1 > 20, "{heard:?}");
    assert!(world.call.counters().silence_withheld > 0);
    let named = world.clients[listener].events.iter().rev().find_map(|notice| match notice {
        Notice::Speakers { speakers } => Some(speakers.iter().map(ToString::to_string).collect::<Vec<_>>()),
        _ => None,
    });
    assert_eq!(named, Some(vec!["ann".to_owned(), "bob".to_owned()]));
}

#[test]
fn after_silence_numbers_go_on_without_a_hole_and_time_with_one() {
    let mut world = World::new(10);
    let ann = world.join("ann", usual(1000));
    let bob = world.join("bob", usual(2000));
    talk(&mut world, ann, 0, 20, 20);
    talk(&mut world, ann, 20, 100, 127);
    talk(&mut world, ann, 120, 20, 20);
    let got = slot(&world, bob, "a0");
    assert!(got.windows(2).all(|two| two[1].index == two[0].index + 1), "no hole in sequence numbers");
    assert!(got.len() < 100, "{} packets of 140", got.len());
    let jump = got.windows(2).map(|two| two[1].timestamp.wrapping_sub(two[0].timestamp)).max();
    assert!(jump > Some(30 * 960), "the pause is in the timestamps: {jump:?}");
}

#[test]
fn who_pauses_sending_in_silence_is_heard_from_the_first_word_on() {
    let mut world = World::new(10);
    let ann = world.join("ann", usual(1000));
    let bob = world.join("bob", usual(2000));
    talk(&mut world, ann, 0, 20, 20);
    // A packet of noise each 400 ms.
    for pause in 0..10 {
        world.media(ann, &Sent::audio((20 + pause * 20) * 960, 127));
        world.pass(Duration::from_millis(400));
    }
    let before = slot(&world, bob, "a0").len();
    let mut word = Sent::audio(220 * 960, 20);
    word.payload = b"first".to_vec();
    world.media(ann, &word);
    let got = slot(&world, bob, "a0");
    assert_eq!(payloads(&got[before..]), ["first"]);
    assert!(got.windows(2).all(|two| two[1].index == two[0].index + 1), "no hole in sequence numbers");
    let last = &got[before - 1..];
    assert!(last[1].timestamp.wrapping_sub(last[0].timestamp) >= 960, "the pause is in the timestamps");
}

#[test]
fn redundant_sound_goes_only_to_those_who_agreed_on_it() {
    let mut world = World::new(10);
    let with_red = |mut sections: Vec<Section>| {
        for section in sections.iter_mut().filter(|section| section.kind == Kind::Audio) {
            let red = PayloadType { number: 63, codec: Codec::OpusRed, ..section.payload_types[0] };
            section.payload_types.push(red);
        }
        sections
    };
    let ann = world.join("ann", with_red(usual(1000)));
    let bob = world.join("bob", with_red(usual(2000)));
    let eve = world.join("eve", usual(3000));
    for packet in 0..20 {
        let mut sent = Sent::audio(packet * 960, 20);
        sent.payload_type = (packet >= 10).then_some(63);
        world.media(ann, &sent);
        world.pass(Duration::from_millis(20));
    }
    let types = |client| slot(&world, client, "a0").iter().map(|got| got.payload_type).collect::<Vec<_>>();
    assert_eq!(types(bob).iter().filter(|number| **number == 63).count(), 10);
    assert!(!types(eve).is_empty() && types(eve).iter().all(|number| *number == 111));
}

#[test]
fn a_slot_that_changes_its_source_goes_on_as_one_stream_from_a_key_frame() {
    let mut world = World::new(10);
    let ann = world.join("ann", usual(1000));
    let bob = world.join("bob", usual(2000));
    let eve = world.join("eve", vec![section("v0", Kind::Video, None, 3000)]);
    let frames = |world: &mut World, round: u16, key: &[usize]| {
        for (client, start) in [(ann, 500_000_u32), (bob, 9_000)] {
            for frame in 0..3_u16 {
                let timestamp = start + u32::from(round * 3 + frame) * 3000;
                let sent = Sent::video(timestamp, format!("{client}").as_bytes());
                world.media(
                    client,
                    &sent.frame(
                        700 * u16::try_from(client + 1).expect("few") + round * 3 + frame,
                        frame == 1 && key.contains(&client),
                    ),
                );
                world.pass(Duration::from_millis(10));
            }
        }
    };
    frames(&mut world, 0, &[ann, bob]);
    let first = slot(&world, eve, "v0");
    assert_eq!(payloads(&first), ["0", "0"], "from the key frame on");
    let asked = world.clients[bob].key_frame_requests;
    let pin = Pin { slot: "v0".into(), participant: Some("bob".into()), source: None, height: None };
    world.call.request(world.now, world.clients[eve].id, Request::Pin(pin)).expect("can be done");
    world.pass(Duration::from_millis(400));
    assert_eq!(world.clients[bob].key_frame_requests, asked, "nobody has to make a key frame for it");
    let got = slot(&world, eve, "v0");
    assert_eq!(payloads(&got), ["0", "0", "1", "1"], "what was kept since the last one is a picture at once");
    frames(&mut world, 1, &[bob]);
    let got = slot(&world, eve, "v0");
    assert_eq!(payloads(&got), ["0", "0", "1", "1", "1", "1", "1"]);
    assert!(got.windows(2).all(|two| two[1].index == two[0].index + 1));
    assert!(got.windows(2).all(|two| two[1].timestamp.wrapping_sub(two[0].timestamp) < 90_000));
    let numbers: Vec<u16> = got
        .iter()
        .map(|got| u16::from_be_bytes(got.extensions[&DESCRIPTOR][1..3].try_into().expect("two")))
        .collect();
    assert!(numbers.windows(2).all(|two| two[1] == two[0].wrapping_add(1)), "{numbers:?}");
    assert_ne!(got[0].csrc, got[3].csrc);
}

#[test]
fn a_pin_on_what_a_slot_shows_already_is_told_and_so_is_its_end() {
    let mut world = World::new(14);
    let (ann, bob) = (world.join("ann", usual(1000)), world.join("bob", usual(2000)));
    world.pass(Duration::from_millis(10));
    world.media(ann, &Sent::video(1, b"picture").frame(1, true));
    world.pass(Duration::from_millis(10));
    assert_eq!(world.clients[bob].slot_owner("v0").as_deref(), Some("ann"));
    for (participant, pinned) in [(Some("ann".to_owned()), true), (None, false)] {
        let pin = Pin { slot: "v0".into(), participant, source: None, height: None };
        for times_told in [1, 0] {
            world.clients[bob].events.clear();
            world
                .call
                .request(world.now, world.clients[bob].id, Request::Pin(pin.clone()))
                .expect("can be done");
            world.settle();
            let told: Vec<_> = world.clients[bob].events.iter().filter_map(slots_told).flatten().collect();
            assert_eq!(told.len(), times_told, "{told:?}");
            let same =
                |slot: &&SlotEntry| slot.participant.as_deref() == Some("ann") && slot.pinned == pinned;
            assert!(told.iter().all(same), "{told:?}");
        }
    }
}

#[test]
fn a_slot_is_told_to_be_empty_when_its_source_ends_and_when_its_owner_leaves() {
    let mut world = World::new(15);
    let (ann, bob) = (world.join("ann", usual(1000)), world.join("bob", usual(2000)));
    let show = |world: &mut World, frame: u16| {
        world.media(ann, &Sent::video(u32::from(frame), b"picture").frame(frame, true));
        world.pass(Duration::from_millis(10));
        assert_eq!(world.clients[bob].slot_owner("v0").as_deref(), Some("ann"));
    };
    show(&mut world, 1);
    let id = world.clients[ann].id;
    let sending = world.clients[ann].description.clone();
    let mut silent = sending.clone();
    for section in &mut silent.sections {
        section.send = None;
    }
    world.call.update(world.now, id, silent, None).expect("can be changed");
    world.settle();
    assert_eq!(world.clients[bob].slot_owner("v0"), None, "nothing is sent any more");
    world.call.update(world.now, id, sending, None).expect("can be changed");
    show(&mut world, 2);
    world.call.leave(world.now, id, EndReason::Left);
    world.settle();
    assert_eq!(world.clients[bob].slot_owner("v0"), None, "it left");
}

fn slots_told(notice: &Notice) -> Option<&Vec<SlotEntry>> {
    match notice {
        Notice::Slots { slots } => Some(slots),
        _ => None,
    }
}

#[test]
fn what_is_lost_on_the_way_out_comes_again_on_another_stream() {
    let mut world = World::new(10);
    let ann = world.join("ann", usual(1000));
    let bob = world.join("bob", usual(2000));
    for frame in 0..10_u32 {
        world.media(ann, &Sent::video(frame * 3000, format!("frame {frame}").as_bytes()));
    }
    let lost = slot(&world, bob, "v0")[4].clone();
    let media = world.clients[bob].ssrc("v0");
    let sequence = u16::try_from(lost.index & 0xffff).expect("masked");
    for _ in 0..2 {
        world.feedback(bob, |writer| {
            assert!(writer.receiver_report(1, &[]) && writer.nack(1, media, [sequence]))
        });
    }
    let again: Vec<_> = world.clients[bob].got.iter().filter(|got| got.rtx).cloned().collect();
    assert_eq!(again.len(), 2);
    assert_ne!(again[0].index, again[1].index, "each retransmission has a number of its own");
    assert_eq!(again[0].payload, [&sequence.to_be_bytes()[..], &lost.payload].concat());
    assert_eq!((again[0].payload_type, again[0].timestamp), (97, lost.timestamp));
}

#[test]
fn what_is_lost_on_the_way_in_is_asked_for_and_forwarded_late() {
    let mut world = World::new(10);
    let ann = world.join("ann", usual(1000));
    let bob = world.join("bob", usual(2000));
    world.media(ann, &Sent::video(0, b"zero").at(60_000));
    world.media(ann, &Sent::video(6000, b"two").at(60_002));
    world.pass(Duration::from_millis(20));
    let missing = 60_001;
    assert_eq!(world.clients[ann].nacks, [(world.clients[ann].ssrc("cam"), missing)]);
    world.media(ann, &Sent::video(3000, b"one").at(60_001));
    let got = slot(&world, bob, "v0");
    assert_eq!(payloads(&got), ["zero", "two", "one"]);
    assert_eq!(got[2].index + 1, got[1].index, "it takes the number that was kept for it");
    world.pass(Duration::from_secs(1));
    assert_eq!(world.clients[ann].nacks.len(), 1, "asked for no more");
}

#[test]
fn the_same_packet_twice_is_forwarded_once() {
    let mut world = World::new(10);
    let ann = world.join("ann", usual(1000));
    let bob = world.join("bob", usual(2000));
    let mut datagram = world.clients[ann].seal(&Sent::video(0, b"once"));
    let mut copy = datagram.clone();
    world.send_raw(ann, &mut datagram);
    world.send_raw(ann, &mut copy);
    assert_eq!(slot(&world, bob, "v0").len(), 1);
    assert_eq!(world.call.counters().dropped_replay, 1);
}

#[test]
fn a_client_that_moves_to_another_address_stays_in_the_call() {
    let mut world = World::new(10);
    let ann = world.join("ann", usual(1000));
    let bob = world.join("bob", usual(2000));
    world.media(ann, &Sent::video(0, b"before"));
    world.clients[bob].path.remote.set_port(50_000);
    assert!(world.check(bob, true));
    world.media(ann, &Sent::video(3000, b"after"));
    assert_eq!(payloads(&slot(&world, bob, "v0")), ["before", "after"]);
    assert_eq!(world.call.counters().migrations, 1);
}

#[test]
fn who_falls_silent_is_let_go_and_others_are_told() {
    let mut world = World::new(10);
    let ann = world.join("ann", usual(1000));
    let bob = world.join("bob", usual(2000));
    for _ in 0..20 {
        world.pass(Duration::from_secs(5));
        assert!(world.check(ann, true));
    }
    assert_eq!(world.call.participants(), 1);
    assert!(world.clients[ann].events.iter().any(
        |notice| matches!(notice, Notice::Roster { left, .. } if left.iter().any(|name| &**name == "bob"))
    ));
    assert!(world.clients[bob].events.contains(&Notice::Ended { reason: EndReason::TimedOut }));
}

#[test]
fn a_full_call_takes_nobody_but_who_comes_back() {
    let mut world = World::new(2);
    world.join("ann", usual(1000));
    let bob = world.join("bob", usual(2000));
    assert_eq!(world.try_join("eve", Role::Viewer, usual(3000)).err(), Some(JoinError::Full));
    world.join("bob", usual(4000));
    assert!(world.clients[bob].events.contains(&Notice::Ended { reason: EndReason::Replaced }));
    assert_eq!(world.call.participants(), 2);
}

#[test]
fn a_viewer_cannot_send() {
    let mut world = World::new(10);
    let ann = world.join("ann", usual(1000));
    let eve = world.try_join("eve", Role::Viewer, usual(2000)).expect("room");
    world.check(eve, true);
    for _ in 0..5 {
        world.pass(Duration::from_millis(50));
        world.check(eve, true);
    }
    assert!(world.clients[eve].sealer.is_some());
    world.media(eve, &Sent::video(0, b"uninvited"));
    assert!(world.clients[ann].got.is_empty());
    assert_eq!(world.call.counters().dropped_ssrc, 1);
}

#[test]
fn a_muted_camera_leaves_the_slots_and_comes_back() {
    let mut world = World::new(10);
    let ann = world.join("ann", usual(1000));
    let bob = world.join("bob", usual(2000));
    world.media(ann, &Sent::video(0, b"seen"));
    let mute = |muted| Request::Mute(Mute { source: SourceName::Camera, muted });
    let id = world.clients[ann].id;
    world.call.request(world.now, id, mute(true)).expect("can be done");
    world.settle();
    assert_eq!(world.clients[bob].slot_owner("v0"), None);
    world.media(ann, &Sent::video(3000, b"unseen"));
    world.call.request(world.now, id, mute(false)).expect("can be done");
    world.media(ann, &Sent::video(6000, b"again"));
    let got = slot(&world, bob, "v0");
    assert_eq!(payloads(&got), ["seen", "again"]);
    assert_eq!(got[1].index, got[0].index + 1);
}

#[test]
fn a_mute_that_changes_nothing_is_told_to_nobody() {
    let mut world = World::new(10);
    let ann = world.join("ann", usual(1000));
    let bob = world.join("bob", usual(2000));
    world.media(ann, &Sent::video(0, b"seen"));
    let id = world.clients[ann].id;
    for (muted, changes) in [(false, false), (true, true), (true, false), (false, true), (false, false)] {
        world.clients[bob].events.clear();
        let mute = Mute { source: SourceName::Camera, muted };
        world.call.request(world.now, id, Request::Mute(mute)).expect("can be done");
        world.settle();
        assert_eq!(!world.clients[bob].events.is_empty(), changes, "{muted}");
    }
}

#[test]
fn nothing_is_left_of_who_left() {
    let mut world = World::new(10);
    let ann = world.join("ann", usual(1000));
    let bob = world.join("bob", usual(2000));
    world.media(ann, &Sent::video(0, b"x"));
    for client in [ann, bob] {
        let id = world.clients[client].id;
        world.call.leave(world.now, id, EndReason::Left);
    }
    world.settle();
    assert_eq!(world.call.participants(), 0);
    assert!(world.call.snapshot(world.now).participants.is_empty());
    assert_eq!(world.call.poll_timeout(), None);
    assert!(!world.check(ann, true), "no answer to who is gone");
}

#[test]
fn sender_reports_are_made_for_slots_in_use() {
    let mut world = World::new(10);
    let ann = world.join("ann", usual(1000));
    let bob = world.join("bob", usual(2000));
    for frame in 0..100_u32 {
        world.media(ann, &Sent::video(frame * 3000, b"x"));
        world.pass(Duration::from_millis(33));
    }
    assert!(world.clients[bob].reports >= 2);
    assert_eq!(world.clients[ann].reports, 0, "who is sent nothing gets no sender report");
}
