//! The parsers of the relay's core, as [`crate::parsers`] has the gateway's: one function per fuzz target. None may
//! panic, whatever it is given. The committed seeds, in `seeds/relay`, go through the very same functions in an
//! ordinary test.

use trunkline_relay_proto::rtcp::{self, Packet};
use trunkline_relay_proto::stun::{ANSWER_BYTES_MAX, Request, Response};
use trunkline_relay_proto::ufrag::Key;

/// A parser that is fed.
pub type Parser = fn(&[u8]);

/// Every target by the name of its folder of seeds.
pub const TARGETS: &[(&str, Parser)] = &[("stun", stun), ("rtcp", rtcp), ("ufrag", ufrag)];

/// The password and the key that seeds are made with.
pub const PWD: &str = "the password of the seeds";
pub const KEY: [u8; 32] = [0x5e; 32];

/// A check, or an answer to one. What is taken can be answered.
pub fn stun(data: &[u8]) {
    if let Ok(request) = Request::parse(data) {
        let _ = request.verify(PWD);
        let mut out = [0; ANSWER_BYTES_MAX];
        let mapped = ([0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 1], 1).into();
        let len = request.write_success(&mut out, mapped, PWD).expect("an answer fits");
        let answer = Response::parse(&out[..len]).expect("an answer can be read");
        assert_eq!(answer.mapped(), Some(mapped), "an answer says where the check came from");
        assert!(answer.verify(PWD), "an answer verifies");
    }
    if let Ok(response) = Response::parse(data) {
        let _ = (response.mapped(), response.error(), response.verify(PWD));
    }
}

/// A compound packet. No datagram makes more work than its size allows.
pub fn rtcp(data: &[u8]) {
    let mut items = 0;
    for packet in rtcp::packets(data) {
        items += match packet {
            Ok(Packet::SenderReport { blocks, .. } | Packet::ReceiverReport { blocks, .. }) => blocks.count(),
            Ok(Packet::Nack { lost, .. }) => lost.count(),
            Ok(Packet::Fir { entries, .. }) => entries.count(),
            Ok(Packet::Bye { ssrcs }) => ssrcs.count(),
            Ok(Packet::Pli { .. } | Packet::Other) | Err(_) => 1,
        };
    }
    assert!(items <= 17 * data.len().div_ceil(4), "17 numbers for every four bytes at most");
}

/// A ufrag. What is taken was written by the same key.
pub fn ufrag(data: &[u8]) {
    let key = Key::new(KEY);
    if let Ok(route) = key.read(data, 0) {
        assert_eq!(key.write(&route).as_bytes(), data, "there is one way to write a route");
    }
}
