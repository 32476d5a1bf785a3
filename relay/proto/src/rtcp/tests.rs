use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// A packet in a form that can be compared.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Plain {
    SenderReport { ssrc: u32, ntp: u64, rtp: u32, packets: u32, octets: u32, blocks: Vec<Block> },
    ReceiverReport { ssrc: u32, blocks: Vec<Block> },
    Nack { sender: u32, media: u32, lost: Vec<u16> },
    Pli { sender: u32, media: u32 },
    Fir { sender: u32, entries: Vec<(u32, u8)> },
    Transport { sender: u32, media: u32, base: u16, reference: i32, count: u8, arrivals: Vec<Option<i32>> },
    Remb { sender: u32, bits_per_s: u64, ssrcs: Vec<u32> },
    Bye { ssrcs: Vec<u32> },
    Other,
}

impl From<Packet<'_>> for Plain {
    fn from(packet: Packet<'_>) -> Self {
        match packet {
            Packet::SenderReport { ssrc, ntp, rtp, packets, octets, blocks } => {
                Self::SenderReport { ssrc, ntp, rtp, packets, octets, blocks: blocks.collect() }
            }
            Packet::ReceiverReport { ssrc, blocks } => {
                Self::ReceiverReport { ssrc, blocks: blocks.collect() }
            }
            Packet::Nack { sender, media, lost } => {
                let len = lost.len();
                let lost: Vec<u16> = lost.collect();
                assert_eq!(lost.len(), len, "all are counted before they are read");
                Self::Nack { sender, media, lost }
            }
            Packet::Pli { sender, media } => Self::Pli { sender, media },
            Packet::Fir { sender, entries } => Self::Fir { sender, entries: entries.collect() },
            Packet::TransportFeedback(feedback) => {
                let arrivals: Vec<_> = feedback.packets().collect();
                assert_eq!(arrivals.len(), usize::from(feedback.packet_count));
                let mut numbers = arrivals.iter().scan(feedback.base_sequence, |next, (sequence, _)| {
                    let expected = *next;
                    *next = next.wrapping_add(1);
                    Some(expected == *sequence)
                });
                assert!(numbers.all(|good| good), "numbers follow each other");
                Self::Transport {
                    sender: feedback.sender,
                    media: feedback.media,
                    base: feedback.base_sequence,
                    reference: feedback.reference_time,
                    count: feedback.feedback_count,
                    arrivals: arrivals.into_iter().map(|(_, ticks)| ticks).collect(),
                }
            }
            Packet::Remb { sender, bits_per_s, ssrcs } => {
                Self::Remb { sender, bits_per_s, ssrcs: ssrcs.collect() }
            }
            Packet::Bye { ssrcs } => Self::Bye { ssrcs: ssrcs.collect() },
            Packet::Other => Self::Other,
        }
    }
}

impl Plain {
    fn write(&self, writer: &mut Writer<'_>) -> bool {
        match self {
            Self::SenderReport { ssrc, ntp, rtp, packets, octets, blocks } => {
                writer.sender_report(*ssrc, *ntp, *rtp, *packets, *octets, blocks)
            }
            Self::ReceiverReport { ssrc, blocks } => writer.receiver_report(*ssrc, blocks),
            Self::Nack { sender, media, lost } => writer.nack(*sender, *media, lost.iter().copied()),
            Self::Pli { sender, media } => writer.pli(*sender, *media),
            Self::Fir { sender, entries } => writer.fir(*sender, entries),
            Self::Transport { sender, media, base, reference, count, arrivals } => writer.transport_feedback(
                *sender,
                *media,
                *base,
                *reference,
                *count,
                arrivals.iter().copied(),
            ),
            Self::Remb { sender, bits_per_s, ssrcs } => writer.remb(*sender, *bits_per_s, ssrcs),
            Self::Bye { ssrcs } => writer.bye(*ssrcs.first().expect("one")),
            Self::Other => writer.sdes_cname(1, "a name"),
        }
    }
}

fn read(bytes: &[u8]) -> Vec<Result<Plain, RtcpError>> {
    packets(bytes).map(|packet| packet.map(Plain::from)).collect()
}

fn block() -> impl Strategy<Value = Block> {
    (any::<(u32, u8, u32, u32)>(), any::<(u32, u32)>(), -0x80_0000..=0x7f_ffff_i32).prop_map(
        |((ssrc, fraction_lost, highest, jitter), (last_sr, delay), lost)| Block {
            ssrc,
            fraction_lost,
            lost,
            highest,
            jitter,
            last_sr,
            delay,
        },
    )
}

/// Ascending numbers from anywhere, so that they wrap around, with gaps within and beyond a mask.
fn lost() -> impl Strategy<Value = Vec<u16>> {
    (any::<u16>(), vec(1..40_u16, 0..60)).prop_map(|(first, gaps)| {
        let rest = gaps.into_iter().scan(first, |last, gap| {
            *last = last.wrapping_add(gap);
            Some(*last)
        });
        std::iter::once(first).chain(rest).collect()
    })
}

/// Runs and single packets, that arrived soon, late or before the one before, or not at all.
fn arrivals() -> impl Strategy<Value = Vec<Option<i32>>> {
    let delta = prop_oneof![
        2 => Just(None),
        3 => (0..=255_i32).prop_map(Some),
        1 => (-0x8000..=0x7fff_i32).prop_map(Some),
    ];
    vec((delta, prop_oneof![4 => 1..4_usize, 1 => 5..40_usize]), 1..30).prop_map(|runs| {
        let deltas = runs.into_iter().flat_map(|(delta, times)| std::iter::repeat_n(delta, times));
        let ticks = deltas.scan(0, |ticks, delta| {
            *ticks += delta.unwrap_or(0);
            Some(delta.map(|_| *ticks))
        });
        ticks.collect()
    })
}

fn packet() -> impl Strategy<Value = Plain> {
    prop_oneof![
        (any::<(u32, u64, u32, u32, u32)>(), vec(block(), 0..=COUNT_MAX)).prop_map(
            |((ssrc, ntp, rtp, packets, octets), blocks)| Plain::SenderReport {
                ssrc,
                ntp,
                rtp,
                packets,
                octets,
                blocks
            }
        ),
        (any::<u32>(), vec(block(), 0..=COUNT_MAX))
            .prop_map(|(ssrc, blocks)| Plain::ReceiverReport { ssrc, blocks }),
        (any::<(u32, u32)>(), lost()).prop_map(|((sender, media), lost)| Plain::Nack { sender, media, lost }),
        any::<(u32, u32)>().prop_map(|(sender, media)| Plain::Pli { sender, media }),
        (any::<u32>(), vec(any::<(u32, u8)>(), 0..20))
            .prop_map(|(sender, entries)| Plain::Fir { sender, entries }),
        (any::<(u32, u32, u16, u8)>(), -0x80_0000..=0x7f_ffff_i32, arrivals()).prop_map(
            |((sender, media, base, count), reference, arrivals)| Plain::Transport {
                sender,
                media,
                base,
                reference,
                count,
                arrivals
            }
        ),
        (any::<u32>(), 0..1_u64 << 18, 0..=46_u32, vec(any::<u32>(), 0..5)).prop_map(
            |(sender, mantissa, exponent, ssrcs)| Plain::Remb {
                sender,
                bits_per_s: mantissa << exponent,
                ssrcs
            }
        ),
        any::<u32>().prop_map(|ssrc| Plain::Bye { ssrcs: vec![ssrc] }),
        Just(Plain::Other),
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_read(sent in vec(packet(), 0..6)) {
        let mut out = [0; 16_384];
        let mut writer = Writer::new(&mut out);
        for packet in &sent {
            prop_assert!(packet.write(&mut writer));
        }
        let len = writer.len();
        prop_assert_eq!(len % 4, 0);
        let expected: Vec<_> = sent.into_iter().map(Ok).collect();
        prop_assert_eq!(read(&out[..len]), expected);
    }

    #[test]
    fn what_does_not_fit_leaves_no_trace(first in packet(), second in packet(), room in 0..2000_usize) {
        let mut out = vec![0; room];
        let mut writer = Writer::new(&mut out);
        let mut expected = Vec::new();
        for packet in [first, second] {
            let before = writer.len();
            if packet.write(&mut writer) {
                expected.push(Ok(packet));
            } else {
                prop_assert_eq!(writer.len(), before);
            }
        }
        let len = writer.len();
        prop_assert_eq!(read(&out[..len]), expected);
    }

    #[test]
    fn no_bytes_panic(bytes in vec(any::<u8>(), 0..200)) {
        let _ = read(&bytes);
    }

    #[test]
    fn no_bytes_behind_a_good_header_panic(
        kind in 200..=207_u8,
        count in 0..32_u8,
        padded: bool,
        mut body in vec(any::<u8>(), 0..200),
    ) {
        body.truncate(body.len() / 4 * 4);
        let len = u8::try_from(body.len() / 4).expect("50 words at most");
        let first = 0x80 | u8::from(padded) << 5 | count;
        let bytes = [&[first, kind, 0, len], body.as_slice()].concat();
        let read = read(&bytes);
        prop_assert_eq!(read.len(), 1);
    }
}

/// Written by hand from the drawings in the RFCs: a receiver report with one block, then NACK of 1001, 1003 and 1020.
const RECEIVER: &[u8] = &[
    0x81, 0xc9, 0x00, 0x07, 0x00, 0x00, 0x00, 0x01, // RR, one block, 8 words, from 1
    0x11, 0x22, 0x33, 0x44, 0x40, 0xff, 0xff, 0xfe, // of 0x11223344, a quarter lost, -2 in total
    0x00, 0x01, 0x03, 0xe8, 0x00, 0x00, 0x00, 0x10, // highest 1 << 16 | 1000, jitter 16
    0xaa, 0xbb, 0xcc, 0xdd, 0x00, 0x01, 0x80, 0x00, // last SR, delay 1.5 s
    0x81, 0xcd, 0x00, 0x04, 0x00, 0x00, 0x00, 0x01, // NACK, 5 words, from 1
    0x11, 0x22, 0x33, 0x44, 0x03, 0xe9, 0x00, 0x02, // of 0x11223344: 1001 and 1001 + 2
    0x03, 0xfc, 0x00, 0x00, // 1020
];

fn receiver() -> [Plain; 2] {
    let block = Block {
        ssrc: 0x1122_3344,
        fraction_lost: 64,
        lost: -2,
        highest: 0x0001_03e8,
        jitter: 16,
        last_sr: 0xaabb_ccdd,
        delay: 0x0001_8000,
    };
    [
        Plain::ReceiverReport { ssrc: 1, blocks: vec![block] },
        Plain::Nack { sender: 1, media: 0x1122_3344, lost: vec![1001, 1003, 1020] },
    ]
}

#[test]
fn known_bytes_are_read() {
    assert_eq!(read(RECEIVER), receiver().map(Ok));
}

#[test]
fn known_bytes_are_written() {
    let mut out = [0; 100];
    let mut writer = Writer::new(&mut out);
    assert!(receiver().iter().all(|packet| packet.write(&mut writer)));
    let len = writer.len();
    assert_eq!(out[..len], *RECEIVER);
}

#[test]
fn a_sender_report_with_its_name_is_what_rfc_3550_draws() {
    let mut out = [0; 100];
    let mut writer = Writer::new(&mut out);
    assert!(writer.sender_report(0x0102_0304, 0x1112_1314_2122_2324, 0x3132_3334, 5, 600, &[]));
    assert!(writer.sdes_cname(0x0102_0304, "abc"));
    let len = writer.len();
    let expected = [
        &[0x80, 200, 0, 6, 1, 2, 3, 4, 0x11, 0x12, 0x13, 0x14, 0x21, 0x22, 0x23, 0x24][..],
        &[0x31, 0x32, 0x33, 0x34, 0, 0, 0, 5, 0, 0, 2, 88],
        &[0x81, 202, 0, 3, 1, 2, 3, 4, 1, 3, b'a', b'b', b'c', 0, 0, 0],
    ]
    .concat();
    assert_eq!(out[..len], expected);
}

#[test]
fn a_name_that_ends_a_word_is_followed_by_a_word_of_zeros() {
    let mut out = [0xff; 100];
    let mut writer = Writer::new(&mut out);
    assert!(writer.sdes_cname(1, "ab"));
    let len = writer.len();
    assert_eq!(out[..len], [0x81, 202, 0, 3, 0, 0, 0, 1, 1, 2, b'a', b'b', 0, 0, 0, 0]);
}

#[test]
fn padding_of_the_last_packet_is_not_read() {
    let bytes = [0xa0, 201, 0, 2, 0, 0, 0, 9, 0, 0, 0, 4];
    assert_eq!(read(&bytes), [Ok(Plain::ReceiverReport { ssrc: 9, blocks: Vec::new() })]);
    for wrong in [0, 9] {
        let mut bytes = bytes;
        bytes[11] = wrong;
        assert_eq!(read(&bytes), [Err(RtcpError::Padding)]);
    }
    assert_eq!(read(&[0xa0, 201, 0, 0]), [Err(RtcpError::Padding)]);
}

#[test]
fn errors_name_what_is_wrong_and_end_the_reading() {
    assert_eq!(read(&[0x80, 201, 0]), [Err(RtcpError::Truncated)]);
    assert_eq!(read(&[0x80, 201, 0, 1, 0, 0, 0]), [Err(RtcpError::Truncated)]);
    assert_eq!(read(&[0x40, 201, 0, 1, 0, 0, 0, 1]), [Err(RtcpError::Version)]);
    assert_eq!(read(&[0x81, 201, 0, 1, 0, 0, 0, 1]), [Err(RtcpError::Count)]);
    assert_eq!(read(&[0x81, 205, 0, 1, 0, 0, 0, 1]), [Err(RtcpError::Count)]);
    assert_eq!(read(&[0x82, 203, 0, 1, 0, 0, 0, 1]), [Err(RtcpError::Count)]);
    let after = [&[0x40; 4][..], RECEIVER].concat();
    assert_eq!(read(&after), [Err(RtcpError::Version)]);
}

/// Written by hand from the drawings in draft-holmer-rmcat-transport-wide-cc-extensions-01, section 3.1: a run of two
/// small deltas, seven symbols of two bits, 14 of one.
const TRANSPORT: &[u8] = &[
    0x8f, 0xcd, 0x00, 0x08, 0x00, 0x00, 0x00, 0x01, // format 15, 8 words, from 1
    0x00, 0x00, 0x00, 0x02, 0xff, 0xff, 0x00, 0x0c, // of 2, 65535 on, 12 packets
    0xff, 0xff, 0xfe, 0x07, // reference time -2, message 7
    0x20, 0x02, 0xe0, 0x01, 0xa0, 0x00, // 2 × small; large, 5 × none, small; small, none, none
    0x04, 0x08, // 1 ms, 2 ms
    0xff, 0xf8, 0x10, 0x00, // -2 ms, 4 ms, 0 ms
    0x00, 0x00, 0x00, 0x00, // filled up
];

#[test]
fn transport_feedback_in_all_its_chunks_is_read() {
    let arrived = [Some(4), Some(12), Some(4), None, None, None, None, None, Some(20), Some(20), None, None];
    let expected = Plain::Transport {
        sender: 1,
        media: 2,
        base: 65_535,
        reference: -2,
        count: 7,
        arrivals: arrived.to_vec(),
    };
    assert_eq!(read(TRANSPORT), [Ok(expected)]);
}

#[test]
fn transport_feedback_that_promises_more_than_it_has_is_refused() {
    let claim = |count: [u8; 2], rest: &[u8]| {
        let words = u8::try_from(rest.len() / 4 + 4).expect("few");
        let head =
            [&[0x8f, 0xcd, 0, words, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0][..], &count, &[0, 0, 0, 0]].concat();
        [&head, rest].concat()
    };
    let refused = [Err(RtcpError::Count)];
    assert_eq!(read(&claim([0, 1], &[])), refused, "no chunk");
    assert_eq!(read(&claim([0, 3], &[0x20, 0x03, 0, 0])), refused, "two of three deltas");
    assert_eq!(read(&claim([0xff, 0xff], &[0, 0, 0, 0])), refused, "runs of nothing");
    assert!(read(&claim([0, 2], &[0x20, 0x03, 0, 0]))[0].is_ok(), "a run may be longer than the count");
    let [Ok(Plain::Transport { arrivals, .. })] =
        &read(&claim([0, 2], &[0x20, 0x00, 0x20, 0x02, 1, 2, 0, 0]))[..]
    else {
        unreachable!()
    };
    assert_eq!(*arrivals, [Some(1), Some(3)], "a run of nothing is skipped");
}

#[test]
fn transport_feedback_that_cannot_be_said_is_not_written() {
    let mut out = [0; 100];
    let mut writer = Writer::new(&mut out);
    assert!(!writer.transport_feedback(1, 2, 0, 0, 0, std::iter::empty()));
    assert!(!writer.transport_feedback(1, 2, 0, 0, 0, [Some(0), Some(0x8000)].into_iter()));
    assert!(!writer.transport_feedback(1, 2, 0, 0, 0, std::iter::repeat_n(None, 65_536)));
    assert!(writer.transport_feedback(1, 2, 0, 0, 0, std::iter::repeat_n(None, 65_535)));
    assert_eq!(writer.len(), 20 + 20, "runs of 8191");
}

#[test]
fn an_estimate_of_the_whole_is_what_its_draft_draws() {
    let bytes =
        [&[0x8f, 206, 0, 5, 0, 0, 0, 1, 0, 0, 0, 0][..], b"REMB", &[1, 3 << 2 | 2, 0x49, 0xf0, 0, 0, 0, 9]]
            .concat();
    let remb = Plain::Remb { sender: 1, bits_per_s: 150_000 * 8, ssrcs: vec![9] };
    assert_eq!(read(&bytes), [Ok(remb)]);
    let mut out = [0; 100];
    let mut writer = Writer::new(&mut out);
    assert!(writer.remb(1, 1_200_007, &[9]));
    let len = writer.len();
    assert_eq!(out[..len], bytes);
    let mut huge = bytes.clone();
    huge[17] = 0xff;
    assert_eq!(read(&huge), [Ok(Plain::Remb { sender: 1, bits_per_s: u64::MAX, ssrcs: vec![9] })]);
    let mut other = bytes.clone();
    other[12] = b'r';
    assert_eq!(read(&other), [Ok(Plain::Other)]);
    let mut miscounted = bytes;
    miscounted[16] = 2;
    assert_eq!(read(&miscounted), [Err(RtcpError::Count)]);
}

#[test]
fn unknown_kinds_are_skipped() {
    let bytes = [&[0x80, 207, 0, 0, 0x8e, 205, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0][..], RECEIVER].concat();
    let [report, nack] = receiver();
    assert_eq!(read(&bytes), [Ok(Plain::Other), Ok(Plain::Other), Ok(report), Ok(nack)]);
}

#[test]
fn nothing_lost_writes_nothing() {
    let mut out = [0; 100];
    let mut writer = Writer::new(&mut out);
    assert!(writer.nack(1, 2, []));
    assert!(writer.is_empty());
}

#[test]
fn no_more_blocks_are_written_than_a_header_can_count() {
    let mut out = [0; 2000];
    let mut writer = Writer::new(&mut out);
    assert!(writer.receiver_report(1, &[Block::default(); COUNT_MAX]));
    assert!(!writer.receiver_report(1, &[Block::default(); COUNT_MAX + 1]));
    assert!(!writer.sdes_cname(1, &"x".repeat(256)));
}

#[test]
fn more_loss_than_24_bits_hold_stays_at_the_limit() {
    let mut out = [0; 100];
    for (lost, expected) in [(i32::MAX, 0x7f_ffff), (i32::MIN, -0x80_0000)] {
        let mut writer = Writer::new(&mut out);
        assert!(writer.receiver_report(1, &[Block { lost, ..Block::default() }]));
        let len = writer.len();
        let [Ok(Plain::ReceiverReport { blocks, .. })] = &read(&out[..len])[..] else { unreachable!() };
        assert_eq!(blocks[0].lost, expected);
    }
}
