//! People whose packets come on connections: what closes, what is dropped, and how they move between networks.

use std::time::Duration;

use trunkline_relay_proto::event::{Pin, Request};
use trunkline_relay_proto::path::{Path, Transport, Via};
use trunkline_relay_proto::rtcp::Writer;

use crate::client::{Sent, World, usual};

/// Ann, whom Bob sees, and the paths Bob has: UDP first, then a connection.
fn world() -> (World, usize, usize, Path, Path) {
    let mut world = World::new(10);
    let ann = world.join("ann", usual(1000));
    let bob = world.join("bob", usual(2000));
    let udp = world.clients[bob].path;
    let tcp = Path::over(udp.remote, Via::Connection { transport: Transport::Tcp, number: 1 });
    film(&mut world, ann, 0);
    (world, ann, bob, udp, tcp)
}

/// Half a second of video.
fn film(world: &mut World, client: usize, from: u32) {
    for frame in from..from + 15 {
        world.media(client, &Sent::video(frame * 3000, b"picture"));
        world.pass(Duration::from_millis(33));
    }
}

#[test]
fn who_moves_to_another_kind_of_network_gets_a_new_picture() {
    let (mut world, ann, bob, _, tcp) = world();
    let asked = world.clients[ann].key_frame_requests;
    world.clients[bob].path = tcp;
    assert!(world.check(bob, true), "answered on the connection");
    world.pass(Duration::from_millis(500));
    assert!(world.clients[ann].key_frame_requests > asked);
    let before = world.clients[bob].got.len();
    film(&mut world, ann, 15);
    assert_eq!(world.clients[bob].got.len(), before + 15);
    assert_eq!(world.call.counters().migrations, 1);
}

#[test]
fn operators_see_how_everybodys_packets_come() {
    let (mut world, _ann, bob, udp, tcp) = world();
    let ways = |world: &World| -> Vec<_> {
        let everybody = world.call.snapshot(world.now).participants;
        everybody.iter().map(|participant| participant.transport).collect()
    };
    assert_eq!(ways(&world), [Some("udp"), Some("udp")]);
    for (path, way) in [
        (tcp, "tcp"),
        (Path::over(udp.remote, Via::Connection { transport: Transport::Tls, number: 2 }), "tls"),
    ] {
        world.clients[bob].path = path;
        assert!(world.check(bob, true));
        assert_eq!(ways(&world), [Some("udp"), Some(way)]);
    }
}

#[test]
fn who_moves_while_sending_is_asked_for_a_new_picture() {
    let (mut world, ann, _bob, _, tcp) = world();
    let asked = world.clients[ann].key_frame_requests;
    world.clients[ann].path = Path::over(([192, 0, 2, 77], 5000).into(), tcp.via);
    assert!(world.check(ann, true), "answered on the connection");
    world.pass(Duration::from_millis(500));
    assert!(world.clients[ann].key_frame_requests > asked);
}

#[test]
fn a_picture_that_cannot_be_repaired_is_asked_for_anew() {
    let (mut world, ann, _bob, _, _) = world();
    let asked = world.clients[ann].key_frame_requests;
    world.media(ann, &Sent::video(15 * 3000, b"picture").at(60_016));
    world.pass(Duration::from_secs(2));
    assert!(world.clients[ann].key_frame_requests > asked);
}

#[test]
fn a_connection_that_closes_is_left_for_the_path_that_remains() {
    let (mut world, ann, bob, udp, tcp) = world();
    world.clients[bob].path = tcp;
    world.check(bob, true);
    world.call.handle_closed(tcp);
    assert!(world.call.knows(udp) && !world.call.knows(tcp));
    world.clients[bob].path = udp;
    let before = world.clients[bob].got.len();
    film(&mut world, ann, 15);
    assert_eq!(world.clients[bob].got.len(), before + 15);
    // Closed twice, or never known: nothing happens.
    world.call.handle_closed(tcp);
}

#[test]
fn what_a_slow_path_lost_is_shown_anew_with_a_key_frame_but_not_without_end() {
    let (mut world, ann, bob, udp, _) = world();
    world.pass(Duration::from_secs(2));
    let ssrc = world.clients[bob].ssrc("v0");
    let asked = world.clients[ann].key_frame_requests;
    world.call.handle_dropped(world.now, udp, [ssrc]);
    world.pass(Duration::from_millis(400));
    assert_eq!(world.clients[ann].key_frame_requests, asked + 1);
    // A receiver that is slow for ever costs the sender less and less.
    for half_second in 1..60 {
        world.call.handle_dropped(world.now, udp, [ssrc]);
        film(&mut world, ann, half_second * 15);
    }
    let all = world.clients[ann].key_frame_requests - asked;
    assert!((4..20).contains(&all), "{all}");
}

#[test]
fn who_goes_from_one_network_to_another_and_back_without_end_is_heard_ever_less() {
    let (mut world, ann, bob, udp, tcp) = world();
    world.pass(Duration::from_secs(2));
    let asked = world.clients[ann].key_frame_requests;
    for tenth in 1..600_u32 {
        world.clients[bob].path = if tenth % 2 == 1 { tcp } else { udp };
        world.check(bob, true);
        film(&mut world, ann, tenth);
        world.pass(Duration::from_millis(100));
    }
    let all = world.clients[ann].key_frame_requests - asked;
    assert!((2..20).contains(&all), "{all}");
}

#[test]
fn pins_that_swap_two_slots_without_end_are_heard_ever_less() {
    let mut world = World::new(4);
    let (ann, bob) = (world.join("ann", usual(1000)), world.join("bob", usual(2000)));
    let eve = world.join("eve", usual(3000));
    let mut asked = 0;
    for sixteenth in 0..16 * 60_u32 {
        for client in [ann, bob] {
            world.media(client, &Sent::video(sixteenth * 5625, b"picture"));
        }
        if sixteenth % 64 == 0 {
            world.check(eve, true);
        }
        if sixteenth == 16 * 4 {
            asked = world.clients[ann].key_frame_requests + world.clients[bob].key_frame_requests;
        }
        let whom = if sixteenth % 2 == 0 { ["ann", "bob"] } else { ["bob", "ann"] };
        for (slot, whom) in ["v0", "v1"].into_iter().zip(whom) {
            let pin = Pin { slot: slot.into(), participant: Some(whom.into()), source: None, height: None };
            world.call.request(world.now, world.clients[eve].id, Request::Pin(pin)).expect("can be done");
        }
        world.pass(Duration::from_micros(62_500));
    }
    let all = world.clients[ann].key_frame_requests + world.clients[bob].key_frame_requests - asked;
    assert!((2..30).contains(&all), "{all} in 56 s");
}

#[test]
fn lost_sound_and_unknown_ssrcs_ask_for_nothing() {
    let (mut world, ann, bob, udp, tcp) = world();
    world.pass(Duration::from_secs(2));
    let asked = world.clients[ann].key_frame_requests;
    let (sound, picture) = (world.clients[bob].ssrc("a0"), world.clients[bob].ssrc("v0"));
    world.call.handle_dropped(world.now, udp, [sound, 12_345]);
    world.call.handle_dropped(world.now, tcp, [picture]);
    world.pass(Duration::from_secs(1));
    assert_eq!(world.clients[ann].key_frame_requests, asked);
}

#[test]
fn nothing_is_sent_again_on_a_connection() {
    let (mut world, ann, bob, udp, tcp) = world();
    let ssrc = world.clients[bob].ssrc("v0");
    let newest = world.clients[bob].got.last().expect("it sees Ann").index;
    let ask = |world: &mut World| {
        let before = world.clients[bob].got.iter().filter(|got| got.rtx).count();
        world.feedback(bob, |writer: &mut Writer<'_>| {
            assert!(writer.nack(1, ssrc, [u16::try_from(newest & 0xffff).expect("16 bits")].into_iter()));
        });
        world.clients[bob].got.iter().filter(|got| got.rtx).count() - before
    };
    assert_eq!(ask(&mut world), 1);
    world.clients[bob].path = tcp;
    world.check(bob, true);
    assert_eq!(ask(&mut world), 0);
    world.clients[bob].path = udp;
    world.check(bob, true);
    assert_eq!(ask(&mut world), 1);
    film(&mut world, ann, 15);
}
