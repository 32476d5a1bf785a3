//! What strangers and malicious members send. None of it may change anything but counts.

use trunkline_relay_proto::demux::{self, Protocol};
use trunkline_testkit::rng::Rng;

use super::stun;
use super::world::World;

/// One datagram, or one played back.
pub(super) fn throw(world: &mut World, rng: &mut Rng) {
    let call = rng.index(world.rooms.len());
    let path = match rng.pick(&world.peers) {
        Some(peer) if rng.chance(0.6) => peer.path,
        _ => world.new_path(),
    };
    let datagram = match rng.index(5) {
        0 => {
            let len = rng.index(200);
            let mut bytes = rng.bytes(len);
            if let Some(first) = bytes.first_mut() {
                *first = [0, 1, 20, 22, 23, 63, 128, 0x90, 191, 192, 255][rng.index(11)];
            }
            bytes
        }
        1 => impostor(world, rng).unwrap_or_default(),
        2 => foreign_ssrc(world, rng).unwrap_or_default(),
        played => {
            let Some((_, from, mut bytes)) = rng.pick(&world.heard).cloned() else { return };
            let protocol = demux::classify(&bytes);
            if played == 3 {
                if protocol == Protocol::Stun && (path != from || rng.chance(0.9)) {
                    // Whoever can listen to a check and play it back from elsewhere is believed once: ICE has nothing
                    // against it, and the client's next check sets it right.
                    return;
                }
                if protocol == Protocol::Dtls {
                    return;
                }
                bytes
            } else {
                if protocol == Protocol::Dtls || bytes.is_empty() {
                    return;
                }
                if rng.chance(0.5) {
                    // A check's last attribute tells it apart from other protocols, and is no part of what is authentic.
                    let end = if protocol == Protocol::Stun { bytes.len() - 8 } else { bytes.len() };
                    let bit = rng.index(end * 8);
                    // The first byte says what it is: a handshake is not authenticated in all its parts.
                    bytes[bit / 8] ^= if bit < 8 { 0 } else { 1 << (bit % 8) };
                    if bit < 8 {
                        bytes.pop();
                    }
                } else {
                    bytes.truncate(rng.index(bytes.len()));
                }
                bytes
            }
        }
    };
    if demux::classify(&datagram) == Protocol::Stun
        && world.heard.iter().any(|(_, _, heard)| *heard == datagram)
    {
        return;
    }
    world.settle(call);
    let before = world.rooms[call].call.snapshot(world.now);
    world.hand_over(call, path, &datagram);
    let after = world.rooms[call].call.snapshot(world.now);
    assert_eq!(before, after, "garbage changes nothing: {datagram:02x?}");
    world.settle(call);
}

/// A check with a wrong password.
fn impostor(world: &World, rng: &mut Rng) -> Option<Vec<u8>> {
    let peer = rng.pick(&world.peers)?;
    let username = format!("{}:{}", peer.local.ufrag, peer.description.ice.ufrag);
    let mut out = [0; 512];
    let transaction = rng.bytes(12).try_into().ok()?;
    let len =
        stun::write_request(&mut out, &username, "not-the-password-of-anybody", 1, 7, true, transaction)?;
    Some(out[..len].to_vec())
}

/// A member's own keys, and somebody else's SSRC.
fn foreign_ssrc(world: &World, rng: &mut Rng) -> Option<Vec<u8>> {
    let owner = rng.pick(&world.peers)?;
    let ssrc = rng.pick(&owner.tracks)?.ssrc;
    let peer = rng.pick(&world.peers)?;
    if peer.tracks.iter().any(|track| track.ssrc == ssrc) {
        return None;
    }
    let mut out = vec![0; 200];
    out[0] = 0x80;
    out[1] = [96, 97, 109, 111][rng.index(4)];
    out[2..4].copy_from_slice(&[0x10, 0x20]);
    out[8..12].copy_from_slice(&ssrc.to_be_bytes());
    let len = peer.sealer.as_ref()?.seal_rtp(&mut out, 12, 60, rng.range(1..40_000) & !0xffff | 0x1020);
    out.truncate(len);
    Some(out)
}
