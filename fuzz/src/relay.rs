//! The parsers of the relay's core, as [`crate::parsers`] has the gateway's: one function per fuzz target. None may
//! panic, whatever it is given. The committed seeds, in `seeds/relay`, go through the very same functions in an
//! ordinary test.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use trunkline_relay_proto::backlog::Backlog;
use trunkline_relay_proto::congestion::Downlink;
use trunkline_relay_proto::framing::{self, Deframer, FRAME_BYTES_MAX};
use trunkline_relay_proto::rtcp::{self, Packet, TransportFeedback};
use trunkline_relay_proto::rtp::descriptor::{self, Descriptor, Structure};
use trunkline_relay_proto::rtp::layers_allocation::{self, LayersAllocation};
use trunkline_relay_proto::rtp::{self, Header, extension};
use trunkline_relay_proto::srtp::{MasterKey, OpenError, Opener, Profile};
use trunkline_relay_proto::stun::{ANSWER_BYTES_MAX, Request, Response, local_ufrag};
use trunkline_relay_proto::turn::{Secret, Session, Settings, TurnError};
use trunkline_relay_proto::ufrag::Key;
use trunkline_relay_proto::{flow, tunnel};

/// A parser that is fed.
pub type Parser = fn(&[u8]);

/// Every target by the name of its folder of seeds.
pub const TARGETS: &[(&str, Parser)] = &[
    ("stun", stun),
    ("rtcp", rtcp),
    ("transport_feedback", transport_feedback),
    ("ufrag", ufrag),
    ("rtp", rtp),
    ("descriptor", descriptor),
    ("layers_allocation", layers_allocation),
    ("srtp", srtp),
    ("turn", turn),
    ("tunnel", tunnel),
    ("flow", flow),
    ("framing", framing),
];

/// The password and the key that seeds are made with.
pub const PWD: &str = "the password of the seeds";
pub const KEY: [u8; 32] = [0x5e; 32];

/// A check, or an answer to one. What is taken can be answered.
pub fn stun(data: &[u8]) {
    let found = local_ufrag(data);
    if let Ok(request) = Request::parse(data) {
        assert_eq!(found, Some(request.local_ufrag().as_bytes()), "routing goes by what is verified later");
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

/// A datagram of the tunnel. What is read is written the same, but for IPv4 addresses that were written as IPv6 ones.
pub fn tunnel(data: &[u8]) {
    let Ok((header, body)) = tunnel::Header::parse(data) else { return };
    let written = [&header.write()[..], body].concat();
    assert_eq!(tunnel::Header::parse(&written), Ok((header, body)), "a header survives being passed on");
    assert!(
        tunnel::dropped(body).count() <= tunnel::DROPPED_MAX,
        "no datagram names more SSRCs than its limit"
    );
}

/// What clients send to an ingress: a byte that says who, two that say how much, then the datagram, again and again. No
/// flow is made by anything but a check of this cluster, and there are never more than the limit.
pub fn flow(data: &[u8]) {
    const FLOWS_MAX: usize = 8;
    let settings = flow::Settings {
        flows_max: FLOWS_MAX,
        source_flows_per_s: 10,
        source_flows_burst: 20,
        nodes: vec![1],
        seed: 1,
    };
    let mut now = Instant::now();
    let mut flows = flow::Flows::new(now, Key::new(KEY), settings);
    let mut rest = data;
    while let Some(([who, len @ ..], behind)) = rest.split_first_chunk::<3>() {
        let len = usize::from(u16::from_be_bytes(*len)).min(behind.len());
        let (datagram, behind) = behind.split_at(len);
        rest = behind;
        let client = SocketAddr::from(([192, 0, 2, who & 3], u16::from(*who) + 1));
        let before = flows.len();
        let target = flows.handle(now, 0, client, 1, datagram);
        if flows.len() > before {
            let ufrag = local_ufrag(datagram).expect("only a check makes a flow");
            assert!(target.is_ok() && Key::new(KEY).read(ufrag, 0).is_ok(), "only a good one does");
        }
        assert!(flows.len() <= FLOWS_MAX, "there are never more flows than the limit");
        if *who == 255 {
            now += flow::IDLE;
            flows.sweep(now);
        }
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
            Ok(Packet::Bye { ssrcs } | Packet::Remb { ssrcs, .. }) => ssrcs.count(),
            Ok(Packet::TransportFeedback(feedback)) => {
                // A run says much in two bytes; what is done with it is bounded by what was sent.
                assert_eq!(feedback.packets().count(), usize::from(feedback.packet_count));
                1
            }
            Ok(Packet::Pli { .. } | Packet::Other) | Err(_) => 1,
        };
    }
    assert!(items <= 17 * data.len().div_ceil(4), "17 numbers for every four bytes at most");
}

/// What a receiver reports: a byte that says how much time passes and how much is sent meanwhile, one for the length,
/// then a compound packet, again and again. Whatever it says, the estimate stays within its bounds, and what was read of
/// it is written and read again.
pub fn transport_feedback(data: &[u8]) {
    let mut now = Instant::now();
    let mut downlink = Downlink::new(now);
    downlink.agree();
    downlink.want(Some(4_000_000));
    let mut rest = data;
    while let Some(([pace, len], behind)) = rest.split_first_chunk() {
        let (datagram, behind) = behind.split_at(usize::from(*len).min(behind.len()));
        rest = behind;
        for _ in 0..pace & 0x1f {
            now += Duration::from_millis(u64::from(pace >> 5));
            let padding = downlink.poll_probe(now);
            let bytes = downlink.allowance(now).min(1_200);
            downlink.sent(now, bytes, false);
            if padding > 0 {
                downlink.sent(now, padding, true);
            }
        }
        for packet in rtcp::packets(datagram) {
            match packet {
                Ok(Packet::TransportFeedback(feedback)) => {
                    written_again(&feedback);
                    downlink.feedback(now, &feedback);
                }
                Ok(Packet::Remb { bits_per_s, .. }) => downlink.remb(now, bits_per_s),
                Ok(Packet::ReceiverReport { blocks, .. }) => blocks.for_each(|block| {
                    let rtt = Duration::from_micros(u64::from(block.delay));
                    downlink.report_loss(now, f64::from(block.fraction_lost) / 256.0, Some(rtt));
                }),
                _ => {}
            }
            let estimate = downlink.estimate_bps().expect("feedback is agreed");
            assert!((30_000..=50_000_000).contains(&estimate), "{estimate}");
            assert!((0.0..=1.0).contains(&downlink.loss()), "a share");
        }
    }
}

fn written_again(feedback: &TransportFeedback<'_>) {
    let mut out = vec![0; 256 << 10];
    let mut writer = rtcp::Writer::new(&mut out);
    let wrote = writer.transport_feedback(
        feedback.sender,
        feedback.media,
        feedback.base_sequence,
        feedback.reference_time,
        feedback.feedback_count,
        feedback.packets().map(|(_, ticks)| ticks),
    );
    assert_eq!(wrote, feedback.packet_count > 0, "what can be read can be written");
    let len = writer.len();
    if let Some(again) = rtcp::packets(&out[..len]).next() {
        let Ok(Packet::TransportFeedback(again)) = again else { unreachable!("it is feedback") };
        assert!(again.packets().eq(feedback.packets()), "and read again");
    }
}

/// A ufrag. What is taken was written by the same key.
pub fn ufrag(data: &[u8]) {
    let key = Key::new(KEY);
    if let Ok(route) = key.read(data, 0) {
        assert_eq!(key.write(&route).as_bytes(), data, "there is one way to write a route");
    }
}

/// A packet that was opened: header, extension, payload. The elements that were read can be written and read again.
pub fn rtp(data: &[u8]) {
    let Ok(header) = Header::parse(data) else { return };
    let payload = rtp::payload(data, &header);
    assert!(payload.is_ok_and(|payload| payload.len() + header.len <= data.len()) || header.padding);
    let elements = header.elements(data);
    let mut out = vec![0; data.len() * 2 + 8];
    let len = extension::write(&mut out, elements.clone()).expect("what can be read can be written");
    if len == 0 {
        assert_eq!(elements.count(), 0, "what is written is not nothing");
        return;
    }
    let profile = u16::from_be_bytes([out[0], out[1]]);
    assert!(extension::elements(profile, &out[4..len]).eq(elements), "elements survive being passed on");
}

/// A dependency descriptor: all but the frame number stays when that is rewritten. The same bytes as a run of
/// descriptors, each after its length, as a stream brings them: structures, and frames that follow them.
pub fn descriptor(data: &[u8]) {
    if let Some(read) = Descriptor::parse(data) {
        let mut copy = data.to_vec();
        descriptor::write_frame_number(&mut copy, !read.frame_number);
        let expected = Descriptor { frame_number: !read.frame_number, ..read };
        assert_eq!(Descriptor::parse(&copy), Some(expected), "only the number changes");
    }
    let mut structure = Structure::default();
    let mut rest = data;
    while let Some((len, after)) = rest.split_first() {
        let Some((value, after)) = after.split_at_checked(usize::from(*len)) else { return };
        rest = after;
        let before = structure.clone();
        let brings = Descriptor::parse(value).is_some_and(|read| read.structure);
        if structure.update(value) {
            assert!(structure.is_brought_by(value), "a structure is known again");
            assert_eq!(Structure::parse(value), Some(structure.clone()), "nothing is left of the one before");
        } else {
            assert_eq!(
                structure,
                if brings { Structure::default() } else { before },
                "half a structure is none"
            );
        }
        let Some(frame) = structure.frame(value) else { continue };
        assert_eq!(
            frame.present | frame.switch | frame.discardable,
            frame.present,
            "only present frames matter"
        );
        assert_eq!(frame.switch & frame.discardable, 0, "a frame is one thing to a target");
        assert!(frame.fdiffs.as_slice().iter().all(|fdiff| *fdiff > 0), "no frame needs itself");
        let mut copy = value.to_vec();
        descriptor::write_frame_number(&mut copy, !frame.frame_number);
        let mut expected = frame;
        expected.frame_number = !frame.frame_number;
        assert_eq!(structure.frame(&copy), Some(expected), "only the number changes");
    }
}

/// What a sender says that it sends. What is read is written and read again: both must be the same.
pub fn layers_allocation(data: &[u8]) {
    let Some(read) = LayersAllocation::parse(data) else { return };
    let mut out = [0; layers_allocation::VALUE_LEN_MAX];
    let len = read.write(&mut out).expect("what can be read can be written");
    let again = LayersAllocation::parse(&out[..len]).expect("what is written can be read");
    let nothing = (0..4).all(|stream| !read.is_active(stream));
    assert_eq!(again, if nothing { LayersAllocation::default() } else { read }, "nothing is lost");
}

/// The key of one direction that seeds are sealed with.
pub fn srtp_key(profile: Profile) -> MasterKey {
    MasterKey::new(profile, &vec![0x5e; profile.key_len()], &vec![0xed; profile.salt_len()])
        .expect("its lengths")
}

/// A protected packet after a byte that chooses the profile and says whether it is RTP or RTCP. What was opened once is
/// not opened again.
pub fn srtp(data: &[u8]) {
    let Some((choice, packet)) = data.split_first() else { return };
    let profiles = [Profile::AeadAes128Gcm, Profile::AeadAes256Gcm, Profile::Aes128CmHmacSha1_80];
    let profile = profiles[usize::from(choice >> 1) % profiles.len()];
    let mut opener = Opener::new(profile, &srtp_key(profile));
    let mut open = || {
        let mut packet = packet.to_vec();
        if choice & 1 == 1 {
            return opener.open_rtcp(&mut packet).map(|len| assert!(len < packet.len()));
        }
        let Ok(header) = Header::parse(&packet) else { return Err(OpenError::Short) };
        opener.open_rtp(&mut packet, &header).map(|opened| {
            assert!(header.len <= opened.len && opened.len < packet.len());
        })
    };
    if open().is_ok() {
        assert_eq!(open(), Err(OpenError::Replay), "a packet is opened once");
    }
}

/// Seconds since the Unix epoch at which the seeds' credentials are good.
pub const TURN_NOW_S: u64 = 1_700_000_000;

/// What a client sends on a connection that speaks TURN: the same comes of it in one piece and in two.
pub fn turn(data: &[u8]) {
    let now = Instant::now();
    let own: SocketAddr = ([192, 0, 2, 1], 16_384).into();
    let settings = Arc::new(Settings { secret: Secret::derive(&KEY), own: vec![own.ip()] });
    let outcome = |pieces: &[&[u8]]| -> Result<(Vec<u8>, Vec<Vec<u8>>), TurnError> {
        let mut session = Session::new(settings.clone(), ([198, 51, 100, 7], 4711).into(), own, [9; 12]);
        let (mut replies, mut payloads) = (Vec::new(), Vec::new());
        for piece in pieces {
            let payload = |payload: &mut [u8]| payloads.push(payload.to_vec());
            session.handle(now, TURN_NOW_S, &mut piece.to_vec(), &mut replies, payload)?;
            let _ = session.wrap(now, piece.len());
        }
        Ok((replies, payloads))
    };
    let (head, tail) = data.split_at(data.len() / 2);
    let whole = outcome(&[data]);
    // A flood is judged by what comes at once.
    if whole != Err(TurnError::Flood) {
        assert_eq!(outcome(&[head, tail]), whole, "how a stream is split changes nothing");
    }
}

/// A stream of frames (RFC 4571), after a byte that says in which pieces it comes. The same comes of it in one piece and
/// in many, and what was framed can be queued, framed again and read again.
pub fn framing(data: &[u8]) {
    let Some((piece, stream)) = data.split_first() else { return };
    let frames_of = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let (mut deframer, mut frames) = (Deframer::default(), Vec::new());
        for piece in pieces {
            deframer.feed(&mut piece.to_vec(), |frame| frames.push(frame.to_vec()));
        }
        frames
    };
    let frames = frames_of(&mut std::iter::once(stream));
    let split = frames_of(&mut stream.chunks(usize::from(*piece).max(1)));
    assert_eq!(split, frames, "how a stream is split changes nothing");
    assert!(frames.iter().all(|frame| (1..=FRAME_BYTES_MAX).contains(&frame.len())));
    let (mut backlog, now) = (Backlog::default(), Instant::now());
    let fits = frames.iter().all(|frame| {
        let length = framing::length(frame).expect("no longer than a frame may be");
        backlog.push(now, &length, frame, 0)
    });
    if fits && backlog.dropped() == 0 {
        let again: Vec<u8> = backlog.stretches().flatten().copied().collect();
        assert_eq!(frames_of(&mut std::iter::once(&again[..])), frames, "what waits is what was framed");
    }
}
