use proptest::prelude::*;

use super::*;
use crate::framing;

fn rtp(ssrc: u32, timestamp: u32, fill: u8, len: usize) -> Vec<u8> {
    let mut packet = vec![fill; len];
    packet[0] = 0x80;
    packet[1] = 96;
    packet[4..8].copy_from_slice(&timestamp.to_be_bytes());
    packet[8..12].copy_from_slice(&ssrc.to_be_bytes());
    packet
}

fn rtcp(fill: u8) -> Vec<u8> {
    vec![0x80, 200, fill, fill]
}

fn push(backlog: &mut Backlog, now: Instant, datagram: &[u8]) -> bool {
    backlog.push(now, &framing::length(datagram).unwrap(), datagram, 0)
}

fn bytes(backlog: &Backlog) -> Vec<u8> {
    backlog.stretches().flatten().copied().collect()
}

/// The datagrams that wait.
fn datagrams(backlog: &Backlog) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    framing::Deframer::default().feed(&mut bytes(backlog), |frame| out.push(frame.to_vec()));
    out
}

fn lost(backlog: &mut Backlog) -> Vec<u32> {
    backlog.take_lost().collect()
}

#[test]
fn what_was_not_dropped_lies_together() {
    let (mut backlog, now) = (Backlog::default(), Instant::now());
    for fill in 0..8 {
        assert!(push(&mut backlog, now, &rtp(1, 1, fill, 1200)));
    }
    assert_eq!(backlog.stretches().count(), 1);
    assert_eq!(backlog.len(), 8 * 1202);
    backlog.advance(8 * 1202);
    assert_eq!((backlog.is_empty(), backlog.len()), (true, 0));
}

#[test]
fn bytes_go_on_where_writing_stopped() {
    let (mut backlog, now) = (Backlog::default(), Instant::now());
    push(&mut backlog, now, &rtp(1, 1, 7, 100));
    push(&mut backlog, now, &rtp(1, 2, 8, 100));
    let whole = bytes(&backlog);
    for written in 1..whole.len() {
        backlog.advance(1);
        assert_eq!(bytes(&backlog), whole[written..]);
    }
}

#[test]
fn old_media_goes_by_whole_frames_and_its_ssrc_is_told_once() {
    let (mut backlog, now) = (Backlog::default(), Instant::now());
    push(&mut backlog, now, &rtp(1, 10, 1, 100));
    push(&mut backlog, now, &rtp(2, 10, 2, 100));
    let later = now + MEDIA_AGE_MAX - Duration::from_millis(1);
    // The end of the first frame, and the next one.
    push(&mut backlog, later, &rtp(1, 10, 3, 100));
    push(&mut backlog, later, &rtp(1, 11, 4, 100));
    assert!(lost(&mut backlog).is_empty());
    backlog.drop_old(now + MEDIA_AGE_MAX + Duration::from_millis(1));
    assert_eq!(datagrams(&backlog), [rtp(1, 11, 4, 100)]);
    assert_eq!((lost(&mut backlog), backlog.dropped()), (vec![1, 2], 3));
    assert!(lost(&mut backlog).is_empty());
}

#[test]
fn what_comes_late_of_a_dropped_frame_is_dropped_too() {
    let (mut backlog, now) = (Backlog::default(), Instant::now());
    push(&mut backlog, now, &rtp(1, 10, 1, 100));
    let later = now + MEDIA_AGE_MAX * 2;
    assert!(!push(&mut backlog, later, &rtp(1, 10, 2, 100)));
    assert!(push(&mut backlog, later, &rtp(1, 11, 3, 100)));
    assert_eq!(datagrams(&backlog), [rtp(1, 11, 3, 100)]);
    assert_eq!(backlog.dropped(), 2);
}

#[test]
fn stun_dtls_and_rtcp_do_not_age() {
    let (mut backlog, now) = (Backlog::default(), Instant::now());
    let control = [vec![0, 1, 0, 0], vec![22, 254, 253], rtcp(9)];
    control.iter().for_each(|datagram| assert!(push(&mut backlog, now, datagram)));
    backlog.drop_old(now + Duration::from_secs(3600));
    assert_eq!(datagrams(&backlog), control);
}

#[test]
fn a_packet_that_is_on_its_way_is_never_dropped() {
    let (mut backlog, now) = (Backlog::default(), Instant::now());
    push(&mut backlog, now, &rtp(1, 10, 1, 100));
    push(&mut backlog, now, &rtp(1, 10, 2, 100));
    backlog.advance(1);
    backlog.drop_old(now + MEDIA_AGE_MAX * 2);
    assert_eq!(backlog.len(), 101);
    assert_eq!(backlog.dropped(), 1);
}

#[test]
fn media_makes_room_for_media_and_for_control() {
    let (mut backlog, now) = (Backlog::default(), Instant::now());
    for frame in 0..2000_u32 {
        push(&mut backlog, now + Duration::from_micros(frame.into()), &rtp(1, frame, 1, 1200));
        assert!(backlog.len() <= BYTES_MAX);
    }
    let after = now + Duration::from_millis(2);
    assert!(push(&mut backlog, after, &rtcp(1)));
    assert!(backlog.dropped() > 1000);
    assert_eq!(lost(&mut backlog), [1]);
    let newest = datagrams(&backlog).into_iter().rev().nth(1);
    assert_eq!(newest, Some(rtp(1, 1999, 1, 1200)));
}

#[test]
fn memory_is_bounded_however_long_a_receiver_stalls() {
    let (mut backlog, now) = (Backlog::default(), Instant::now());
    for frame in 0..20_000_u32 {
        let at = now + Duration::from_millis(frame.into());
        push(&mut backlog, at, &rtp(frame % 7, frame / 7, 1, 1200));
        push(&mut backlog, at, &rtcp(1));
    }
    assert!(backlog.frames.len() <= FRAMES_MAX);
    assert!(backlog.capacity() < 4 * BYTES_MAX, "{}", backlog.capacity());
    backlog.advance(backlog.len());
    assert!(backlog.buffer.capacity() <= CAPACITY_KEPT);
}

#[test]
fn the_list_of_ssrcs_is_bounded() {
    let (mut backlog, now) = (Backlog::default(), Instant::now());
    (0..2000).for_each(|ssrc| {
        push(&mut backlog, now, &rtp(ssrc, 1, 1, 12));
    });
    backlog.drop_old(now + MEDIA_AGE_MAX * 2);
    assert_eq!((lost(&mut backlog).len(), backlog.dropped()), (SSRCS_MAX, 2000));
    assert!(backlog.broken.len() <= SSRCS_MAX);
}

proptest! {
    /// A model: whatever is pushed, written and dropped, what is written is whole frames in order.
    #[test]
    fn a_receiver_sees_whole_frames_in_order(
        steps in proptest::collection::vec((0_u32..4, 0_u32..40, 1_usize..1300, 0_usize..4000, 0_u64..120), 1..300),
    ) {
        let (mut backlog, start) = (Backlog::default(), Instant::now());
        let (mut at, mut stream) = (Duration::ZERO, Vec::new());
        for (number, (ssrc, timestamp, len, written, pause)) in steps.iter().enumerate() {
            at += Duration::from_millis(*pause);
            let mut datagram = if *ssrc == 0 { vec![22; len + 12] } else { rtp(*ssrc, *timestamp, 0, len + 12) };
            let tail = datagram.len() - 4;
            datagram[tail.max(12)..].fill(u8::try_from(number % 250).unwrap());
            push(&mut backlog, start + at, &datagram);
            let waiting = bytes(&backlog);
            let written = waiting.len().min(*written);
            stream.extend_from_slice(&waiting[..written]);
            backlog.advance(written);
            prop_assert_eq!(backlog.len(), waiting.len() - written);
        }
        stream.extend(bytes(&backlog));
        let mut count = 0_u64;
        let mut left = stream.len();
        framing::Deframer::default().feed(&mut stream, |frame| {
            count += 1;
            left -= frame.len() + framing::LENGTH_BYTES;
        });
        prop_assert_eq!(left, 0);
        prop_assert_eq!(count + backlog.dropped(), steps.len() as u64);
    }
}

#[test]
fn behind_a_frame_on_its_way_that_is_no_media_old_media_still_makes_room() {
    let (mut backlog, now) = (Backlog::default(), Instant::now());
    assert!(push(&mut backlog, now, &rtcp(1)));
    backlog.advance(1);
    assert!(push(&mut backlog, now, &rtp(7, 1, 2, 1000)));
    // Sound, so that each frame is one of its own.
    let sound = |at: u32| rtp(8, at, 3, 100);
    for at in 0..2 * u32::try_from(FRAMES_MAX).unwrap() {
        assert!(push(&mut backlog, now, &sound(at)), "{at}");
    }
    assert!(backlog.len() <= BYTES_MAX);
    assert!(lost(&mut backlog).contains(&7));
}

#[test]
fn what_is_no_media_waits_in_bounds_and_leaves_room_for_media() {
    let (mut backlog, now) = (Backlog::default(), Instant::now());
    let taken = (0..2 * OTHERS_MAX).filter(|_| push(&mut backlog, now, &rtcp(1))).count();
    assert_eq!(taken, OTHERS_MAX);
    assert!(push(&mut backlog, now, &rtp(7, 1, 2, 1000)));
    backlog.advance(backlog.len());
    assert!(push(&mut backlog, now, &rtcp(1)), "room again");
}
