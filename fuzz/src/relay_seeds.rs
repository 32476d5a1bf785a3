//! The committed seeds of the relay's parsers.

use trunkline_fuzz::relay::{KEY, PWD, srtp_key};
use trunkline_relay_proto::path::Transport;
use trunkline_relay_proto::rtcp::{Block, Writer};
use trunkline_relay_proto::rtp::descriptor::write::{DESCRIPTOR_LEN_MAX, Pattern};
use trunkline_relay_proto::rtp::extension;
use trunkline_relay_proto::rtp::layers_allocation::{LayersAllocation, Size, SpatialLayer, VALUE_LEN_MAX};
use trunkline_relay_proto::srtp::{Profile, Sealer};
use trunkline_relay_proto::stun::{ANSWER_BYTES_MAX, Request, write_request};
use trunkline_relay_proto::tunnel::{Header, Kind};
use trunkline_relay_proto::ufrag::{Key, Route};

use crate::Seeds;

pub fn stun() -> Seeds {
    let request = |use_candidate| {
        let mut out = [0; 256];
        let username = format!("{}:client", ufrag_text());
        let len = write_request(&mut out, &username, PWD, 0x6e00_01ff, 9, use_candidate, *b"seed of stun");
        out[..len.expect("room")].to_vec()
    };
    let check = request(false);
    let parsed = Request::parse(&check).expect("a request");
    let mut out = [0; ANSWER_BYTES_MAX];
    let len = parsed.write_success(&mut out, ([192, 0, 2, 1], 50_000).into(), PWD).expect("room");
    let success = out[..len].to_vec();
    let len = parsed.write_role_conflict(&mut out, PWD).expect("room");
    let conflict = out[..len].to_vec();
    let cut = check[..check.len() / 2].to_vec();
    let mut forged = check.clone();
    *forged.last_mut().expect("bytes") ^= 1;
    vec![
        ("nomination", request(true)),
        ("check", check),
        ("success", success),
        ("role_conflict", conflict),
        ("cut", cut),
        ("wrong_fingerprint", forged),
    ]
}

pub fn framing() -> Seeds {
    // A byte for the size of the pieces, then the stream.
    let stream = |piece: u8, frames: &[&[u8]]| {
        let framed = frames.iter().flat_map(|frame| {
            let length = u16::try_from(frame.len()).expect("a frame").to_be_bytes();
            [&length[..], frame].concat()
        });
        std::iter::once(piece).chain(framed).collect::<Vec<u8>>()
    };
    let rtp = [&[0x80, 96, 0, 1, 0, 0, 0, 9, 0, 0, 0, 7][..], &[0x11; 40]].concat();
    let largest = [0x16; 2048];
    let mut cut = stream(7, &[&rtp, &rtp]);
    cut.truncate(80);
    vec![
        ("frames", stream(13, &[&rtp, &[0x16; 20], &[0x80, 200, 0, 0], &rtp])),
        ("byte_by_byte", stream(1, &[&rtp, &[1]])),
        ("of_no_length", stream(3, &[&[], &rtp, &[], &[]])),
        ("largest", stream(100, &[&largest, &rtp])),
        ("too_long", stream(200, &[&[0x16; 2049], &rtp])),
        ("cut", cut),
    ]
}

pub fn rtcp() -> Seeds {
    let written = |write: &dyn Fn(&mut Writer<'_>) -> bool| {
        let mut out = [0; 1500];
        let mut writer = Writer::new(&mut out);
        assert!(write(&mut writer), "a seed fits");
        let len = writer.len();
        out[..len].to_vec()
    };
    let block =
        Block { ssrc: 7, fraction_lost: 3, lost: -2, highest: 70_000, jitter: 5, last_sr: 9, delay: 11 };
    let report =
        written(&|writer| writer.sender_report(1, 2, 3, 4, 5, &[block]) && writer.sdes_cname(1, "name"));
    let feedback = written(&|writer| {
        writer.receiver_report(1, &[block, block])
            && writer.nack(1, 2, [65_535, 0, 15, 40])
            && writer.pli(1, 2)
            && writer.fir(1, &[(2, 3), (4, 5)])
            && writer.bye(1)
    });
    let estimates = written(&|writer| {
        writer.remb(1, 1_500_000, &[7, 8])
            && writer.transport_feedback(
                1,
                7,
                65_534,
                -5,
                3,
                [Some(300), None, Some(290), Some(9)].into_iter(),
            )
    });
    let cut = feedback[..feedback.len() - 5].to_vec();
    let mut padded = feedback.clone();
    padded.extend_from_slice(&[0xa0, 201, 0, 2, 0, 0, 0, 9, 0, 0, 0, 4]);
    let miscounted = [&[0x9f, 201, 0, 1, 0, 0, 0, 1][..], &report].concat();
    vec![
        ("report", report),
        ("feedback", feedback),
        ("estimates", estimates),
        ("cut", cut),
        ("padded", padded),
        ("miscounted", miscounted),
    ]
}

pub fn transport_feedback() -> Seeds {
    // A byte for the pace, one for the length, then the message.
    let message = |pace: u8, base: u16, reference: i32, arrivals: &[Option<i32>]| {
        let mut out = [0; 255];
        let mut writer = Writer::new(&mut out);
        let arrivals = arrivals.iter().copied();
        assert!(writer.transport_feedback(1, 2, base, reference, 0, arrivals), "a seed fits");
        let len = writer.len();
        [&[pace, u8::try_from(len).expect("short")][..], &out[..len]].concat()
    };
    // Twenty packets, 3 ms apart, that arrive `step` ticks apart.
    let twenty = |step: i32| (0..20).map(|n| Some(n * step)).collect::<Vec<_>>();
    let steady: Vec<u8> = (0..12).flat_map(|n| message(0x74, n * 20, i32::from(n), &twenty(12))).collect();
    let queue: Vec<u8> = (0..12).flat_map(|n| message(0x74, n * 20, i32::from(n) * 2, &twenty(24))).collect();
    let lossy: Vec<Option<i32>> = (0..20).map(|n| (n % 3 != 0).then_some(n * 12)).collect();
    let lossy: Vec<u8> = (0..12).flat_map(|n| message(0x74, n * 20, i32::from(n), &lossy)).collect();
    let never_sent = message(0x74, 5_000, 0, &twenty(12));
    let jumps = [-0x80_0000, 0x7f_ffff, 0, 0x40_0000]
        .map(|reference| message(0x74, 0, reference, &[Some(-0x4000), Some(0), Some(0x7fff)]))
        .concat();
    // A message of runs that claims everything was lost.
    let claims = [
        &[0xff, 36, 0x8f, 205, 0, 8, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0xff, 0xff, 0, 0, 0, 0][..],
        &[0x1f, 0xff].repeat(8),
    ]
    .concat();
    let cut = steady[..steady.len() - 7].to_vec();
    vec![
        ("steady", steady),
        ("queue", queue),
        ("lossy", lossy),
        ("never_sent", never_sent),
        ("jumps", jumps),
        ("claims", claims),
        ("cut", cut),
    ]
}

pub fn ufrag() -> Seeds {
    let good = ufrag_text();
    let mut forged = good.clone();
    forged.replace_range(31..32, if good.ends_with('A') { "B" } else { "A" });
    vec![
        ("good", good.clone().into_bytes()),
        ("forged", forged.into_bytes()),
        ("cut", good[..31].to_owned().into_bytes()),
        ("of_somebody_else", b"Zm9v".to_vec()),
    ]
}

/// A packet of payload type 96 with these elements.
fn rtp_packet(first: u8, elements: &[(u8, &[u8])], payload: &[u8]) -> Vec<u8> {
    let mut out = [0; 1500];
    let len = extension::write(&mut out, elements.iter().copied()).expect("room");
    let extended = if len > 0 { 0x10 } else { 0 };
    let fixed = [first | extended, 0xe0, 0xff, 0xfe, 0, 0, 0, 9, 0xca, 0xfe, 0xba, 0xbe];
    let csrcs = vec![0xcc; usize::from(first & 0x0f) * 4];
    [&fixed[..], &csrcs, &out[..len], payload].concat()
}

pub fn rtp() -> Seeds {
    let short: [(u8, &[u8]); 3] = [(1, b"12"), (10, &[0x9e]), (14, &[0x80, 0, 1])];
    let long: [(u8, &[u8]); 3] = [(1, b"12"), (15, &[]), (200, &[0xc0; 23])];
    let one_byte = rtp_packet(0x80, &short, b"payload");
    let cut = one_byte[..20].to_vec();
    let mut reserved = one_byte.clone();
    reserved[16] = 0xf1;
    vec![
        ("plain", rtp_packet(0x80, &[], b"payload")),
        ("one_byte", one_byte),
        ("two_byte", rtp_packet(0x82, &long, b"payload")),
        ("padding", rtp_packet(0xa0, &short, &[7, 8, 0, 0, 3])),
        ("padding_only", rtp_packet(0xa0, &[], &[0, 0, 3])),
        ("padding_too_long", rtp_packet(0xa0, &[], &[0, 0, 4])),
        ("all_sources", rtp_packet(0x8f, &short, b"")),
        ("reserved_identifier", reserved),
        ("cut", cut),
    ]
}

pub fn descriptor() -> Seeds {
    // A stream's descriptors, each after its length: a key picture, and those that follow it.
    let stream = |pattern: Pattern| {
        let frames = (0..5).flat_map(|picture| (0..pattern.spatial_layers()).map(move |at| (picture, at)));
        let mut stream = Vec::new();
        for (number, (picture, spatial)) in (0..).zip(frames) {
            let mut out = [0; DESCRIPTOR_LEN_MAX];
            let len = pattern.write(&mut out, number, picture, spatial, (true, true));
            stream.push(u8::try_from(len).expect("a length"));
            stream.extend_from_slice(&out[..len]);
        }
        stream
    };
    let svc = Pattern::new(3, 3, false).with_resolution(1280, 720);
    let key = Pattern::new(2, 3, true).with_resolution(640, 360).with_template_id_offset(60);
    let temporal = stream(Pattern::new(1, 3, false));
    let mut custom = temporal.clone();
    // Active targets, indications, needed frames and chains of its own.
    custom.extend_from_slice(&[11, 0xc1, 0, 9, 0x7a, 0xc4, 0xa7, 0xff, 0x80, 0xc8, 0, 0]);
    let cut = temporal[..15].to_vec();
    vec![
        ("mandatory", vec![0xc5, 0x12, 0x34]),
        // A key frame of a stream with one template, and what follows it.
        ("structure", vec![0x80, 0, 1, 0x80, 0, 0x05, 0x40]),
        ("active_decode_targets", vec![0x40, 0, 2, 0x40, 0x80]),
        ("short", vec![0xc5, 0x12]),
        ("temporal", temporal),
        ("full_svc", stream(svc)),
        ("key_svc", stream(key)),
        ("another_structure", [stream(key), stream(Pattern::new(1, 1, false))].concat()),
        ("custom", custom),
        ("cut", cut),
    ]
}

pub fn layers_allocation() -> Seeds {
    let layer = |kbits_per_s: [u32; 4], height| SpatialLayer {
        temporal_layers: 3,
        kbits_per_s,
        size: Some(Size { width: height * 2, height, frames_per_s: 30 }),
    };
    let written = |allocation: &LayersAllocation| {
        let mut out = [0; VALUE_LEN_MAX];
        let len = allocation.write(&mut out).expect("room");
        out[..len].to_vec()
    };
    let mut simulcast = LayersAllocation::new(1, 3);
    simulcast.set(0, 0, layer([60, 90, 150, 0], 180));
    simulcast.set(1, 0, layer([175, 332, 500, 0], 360));
    simulcast.set(2, 0, layer([1000, 1356, 2500, 0], 720));
    let mut svc = LayersAllocation::new(0, 1);
    svc.set(0, 0, SpatialLayer { size: None, ..layer([60, 90, 150, 0], 180) });
    svc.set(0, 1, SpatialLayer { size: None, ..layer([300, 400, u32::MAX, 0], 360) });
    let mut mixed = LayersAllocation::new(2, 4);
    mixed.set(0, 0, layer([60, 90, 150, 0], 180));
    mixed.set(3, 2, layer([60, 90, 150, 0], 180));
    let simulcast = written(&simulcast);
    let cut = simulcast[..simulcast.len() - 3].to_vec();
    vec![
        ("nothing", vec![0]),
        ("svc", written(&svc)),
        ("mixed", written(&mixed)),
        ("too_large", vec![0x01, 0, 0xff, 0xff, 0xff, 0xff, 0x1f]),
        ("simulcast", simulcast),
        ("cut", cut),
    ]
}

pub fn srtp() -> Seeds {
    let mut seeds = Seeds::new();
    let names = [("gcm_128", "gcm_128_rtcp"), ("gcm_256", "gcm_256_rtcp"), ("cm", "cm_rtcp")];
    let profiles = [Profile::AeadAes128Gcm, Profile::AeadAes256Gcm, Profile::Aes128CmHmacSha1_80];
    for (choice, ((rtp, rtcp), profile)) in (0..).step_by(2).zip(names.into_iter().zip(profiles)) {
        let mut sealer = Sealer::new(profile, &srtp_key(profile));
        let plain = rtp_packet(0x80, &[(1, b"12")], b"payload");
        let header_len = plain.len() - b"payload".len();
        let mut packet = [plain.as_slice(), &[0; Sealer::TAG_LEN_MAX]].concat();
        let len = sealer.seal_rtp(&mut packet, header_len, plain.len(), 0xfffe);
        seeds.push((rtp, [&[choice], &packet[..len]].concat()));
        let plain = [0x80, 201, 0, 1, 0, 0, 0, 1];
        let mut packet = [plain.as_slice(), &[0; Sealer::RTCP_OVERHEAD_MAX]].concat();
        let len = sealer.seal_rtcp(&mut packet, plain.len());
        seeds.push((rtcp, [&[choice | 1], &packet[..len]].concat()));
    }
    let (_, whole) = seeds[0].clone();
    let mut forged = whole.clone();
    *forged.last_mut().expect("bytes") ^= 1;
    seeds.push(("forged", forged));
    seeds.push(("cut", whole[..20].to_vec()));
    seeds
}

pub fn tunnel() -> Seeds {
    let header = |kind, transport, remote: &str| {
        let remote = remote.parse().expect("an address");
        Header { kind, transport, remote, flow: 0x7f00_0001 }.write().to_vec()
    };
    let datagram =
        [header(Kind::Datagram, Transport::Udp, "192.0.2.1:5000"), b"what a client sent".to_vec()].concat();
    let closed = header(Kind::Closed, Transport::Tcp, "[2001:db8::1]:5000");
    let ssrcs: Vec<u8> = (1..=3_u32).flat_map(u32::to_be_bytes).collect();
    let dropped = [header(Kind::Dropped, Transport::Tls, "192.0.2.1:5000"), ssrcs].concat();
    let cut = closed[..23].to_vec();
    let mut next_version = datagram.clone();
    next_version[0] = 0x20;
    vec![
        ("datagram", datagram),
        ("closed", closed),
        ("dropped", dropped),
        ("cut", cut),
        ("next_version", next_version),
    ]
}

pub fn flow() -> Seeds {
    let check = |ufrag: &str| {
        let mut out = [0; 256];
        let username = format!("{ufrag}:client");
        let len = write_request(&mut out, &username, PWD, 1, 9, false, *b"seed of flow").expect("room");
        out[..len].to_vec()
    };
    let from = |who: u8, datagram: &[u8]| {
        [&[who], &u16::try_from(datagram.len()).expect("short").to_be_bytes()[..], datagram].concat()
    };
    let good = check(&ufrag_text());
    let forged = check(&Key::new([0; 32]).write(&Route {
        node: 1,
        worker: 2,
        call: 3,
        participant: 4,
        expires_min: u32::MAX,
    }));
    let media = [0x80, 96, 0, 1];
    let many: Vec<u8> = (0..20).flat_map(|who| from(who, &good)).collect();
    vec![
        ("check_and_media", [from(1, &good), from(1, &media), from(2, &media)].concat()),
        ("forged", [from(1, &good), from(1, &forged), from(2, &forged)].concat()),
        ("idle", [from(1, &good), from(255, &media), from(1, &media)].concat()),
        ("many", many),
    ]
}

fn ufrag_text() -> String {
    let route = Route { node: 1, worker: 2, call: 3, participant: 4, expires_min: u32::MAX };
    Key::new(KEY).write(&route)
}
