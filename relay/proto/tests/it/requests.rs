//! What one participant sends does not cost others, or the relay, more than it has to.

use std::time::Duration;

use trunkline_relay_proto::event::Notice;
use trunkline_relay_proto::media::{Extension, Kind};

use crate::branches::Branched;
use crate::client::{Sent, World, section, usual};

const ALLOCATION: u8 = 8;

fn rosters(events: &[Notice]) -> usize {
    events.iter().filter(|notice| matches!(notice, Notice::Roster { .. })).count()
}

#[test]
fn who_sends_again_what_was_never_sent_is_not_announced() {
    let mut call = Branched::new(2);
    let mallory = (0, call.join(0, "mallory", 1000));
    let bob = (0, call.join(0, "bob", 2000));
    let told = |call: &Branched| (rosters(&call.worlds[0].clients[bob.1].events), call.messages);
    let before = told(&call);
    for picture in 0..20_u32 {
        let sent = Sent::video(picture * 3000, &[0, 7, 1, 2, 3]);
        call.media(mallory, &Sent { ssrc: Some(1011), payload_type: Some(97), ..sent });
    }
    assert_eq!(told(&call), before, "neither people nor branches hear of it");
    call.media(mallory, &Sent::video(0, b"first"));
    let (people, branches) = told(&call);
    assert_eq!(people, before.0 + 1, "what is sent at first is announced");
    assert!(branches > before.1);
    assert_eq!(call.worlds[0].clients[bob.1].slot_owner("v0").as_deref(), Some("mallory"));
}

#[test]
fn who_begins_to_send_again_what_everybody_knows_of_is_shown_and_not_announced() {
    let mut world = World::new(10);
    let ann = world.join("ann", usual(1000));
    let bob = world.join("bob", usual(2000));
    world.media(ann, &Sent::video(0, b"first"));
    let before = rosters(&world.clients[bob].events);
    world.pass(Duration::from_secs(6));
    assert_eq!(world.clients[bob].slot_owner("v0"), None, "nothing comes any more");
    world.media(ann, &Sent::video(3000, b"again"));
    assert_eq!(world.clients[bob].slot_owner("v0").as_deref(), Some("ann"));
    assert_eq!(rosters(&world.clients[bob].events), before);
}

#[test]
fn branches_hear_what_a_sender_says_of_its_layers_once_and_nothing_that_it_cannot_have_said() {
    let mut call = Branched::new(2);
    let mut sections = usual(1000);
    sections.iter_mut().for_each(|section| section.extensions.set(Extension::LayersAllocation, ALLOCATION));
    let mallory = (0, call.join_with(0, "mallory", sections));
    call.media(mallory, &Sent::video(0, b"first"));
    call.media(mallory, &Sent::audio(0, 20));
    let mut say = |audio: bool, value: &[u8]| {
        let before = call.messages;
        for packet in 1..20_u32 {
            let mut sent =
                if audio { Sent::audio(packet * 960, 20) } else { Sent::video(packet * 3000, b"picture") };
            sent.extensions.push((ALLOCATION, value.to_vec()));
            call.media(mallory, &sent);
        }
        call.messages - before
    };
    // One stream of one layer with 10 kbit/s, then with 11.
    assert_eq!(say(false, &[0x01, 0x00, 10]), 1);
    assert_eq!(say(false, &[0x01, 0x00, 11]), 1);
    assert_eq!(say(false, &[0xff, 0xff]), 0, "this cannot be read");
    assert_eq!(say(true, &[0x01, 0x00, 12]), 0, "sound has no layers");
}

#[test]
fn who_has_many_slots_is_sent_again_no_more_than_a_few_times_what_one_slot_is() {
    let mut world = World::new(10);
    let names = ["ann", "ben", "cat", "dan", "eli"];
    let senders: Vec<usize> = (1..).zip(names).map(|(at, name)| world.join(name, usual(at * 1000))).collect();
    let slots = ["v0", "v1", "v2", "v3", "v4"];
    let many = (0..).zip(slots).map(|(at, mid)| section(mid, Kind::Video, None, 9000 + at * 10)).collect();
    let mallory = world.join("mallory", many);
    for picture in 0..300_u32 {
        for sender in &senders {
            world.media(*sender, &Sent::video(picture * 3000, b"picture"));
        }
    }
    let again = |world: &World| world.clients[mallory].got.iter().filter(|got| got.rtx).count();
    let mut one = 0;
    for mid in slots {
        let got: Vec<u16> = world.clients[mallory]
            .got
            .iter()
            .filter(|got| got.mid == mid && !got.rtx)
            .map(|got| u16::try_from(got.index & 0xffff).expect("masked"))
            .collect();
        assert_eq!(got.len(), 300);
        let ssrc = world.clients[mallory].ssrc(mid);
        world.feedback(mallory, |writer| {
            assert!(writer.receiver_report(1, &[]) && writer.nack(1, ssrc, got.iter().copied()));
        });
        one = if one == 0 { again(&world) } else { one };
    }
    assert!(one > 200, "{one} of one slot");
    assert_eq!(again(&world), one * 2);
    let counted = world.call.counters();
    assert_eq!(counted.nacks_in, 1500, "all that was asked for is counted");
    assert_eq!(counted.retransmissions_out, again(&world) as u64);
    world.pass(Duration::from_secs(1));
    let ssrc = world.clients[mallory].ssrc("v4");
    let newest = world.clients[mallory].got.iter().rev().find(|got| got.mid == "v4" && !got.rtx);
    let newest = u16::try_from(newest.expect("it came").index & 0xffff).expect("masked");
    let before = again(&world);
    world.feedback(mallory, |writer| {
        assert!(writer.receiver_report(1, &[]) && writer.nack(1, ssrc, [newest]));
    });
    assert_eq!(again(&world), before + 1, "a second later there is more");
}
