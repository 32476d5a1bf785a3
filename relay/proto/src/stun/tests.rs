use is::stun::StunMessageBuilder;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const TRANSACTION: [u8; 12] = *b"0123456789ab";
const PWD: &str = "a password of the relay";

fn request(use_candidate: bool) -> Vec<u8> {
    let mut out = [0; 512];
    let len = write_request(&mut out, "local:remote", PWD, 7, 9, use_candidate, TRANSACTION).expect("room");
    out[..len].to_vec()
}

fn written(message: StunMessage<'_>, pwd: Option<&[u8]>) -> Vec<u8> {
    let mut out = [0; 512];
    let len = message.to_bytes(pwd, &mut out, hmac_sha1).expect("room");
    out[..len].to_vec()
}

/// Computes FINGERPRINT anew, for messages that were tampered with.
fn with_fingerprint(mut message: Vec<u8>) -> Vec<u8> {
    let len = message.len() - FINGERPRINT_BYTES;
    let value = (crc32(&message[..len]) ^ FINGERPRINT_XOR).to_be_bytes();
    message[len + 4..].copy_from_slice(&value);
    message
}

/// Puts an attribute in front of all others, with a good FINGERPRINT.
fn with_attribute(message: &[u8], attribute: &[u8]) -> Vec<u8> {
    let mut whole = [&message[..HEADER_BYTES], attribute, &message[HEADER_BYTES..]].concat();
    let len = u16::try_from(whole.len() - HEADER_BYTES).expect("short").to_be_bytes();
    whole[2..4].copy_from_slice(&len);
    with_fingerprint(whole)
}

fn error(datagram: &[u8]) -> StunError {
    Request::parse(datagram).expect_err("it must not be taken")
}

#[test]
fn a_request_says_who_asks_whom() {
    let datagram = request(true);
    let request = Request::parse(&datagram).expect("a request");
    assert_eq!((request.local_ufrag(), request.remote_ufrag()), ("local", "remote"));
    assert_eq!((request.priority(), request.use_candidate(), request.is_controlled()), (7, true, false));
    assert!(request.verify(PWD));
    assert!(!request.verify("another"));
}

#[test]
fn a_request_has_one_user_name() {
    let twice = with_attribute(&request(true), b"\x00\x06\x00\x05own:x\0\0\0");
    assert_eq!((error(&twice), local_ufrag(&twice)), (StunError::Attribute, Some(&b"own"[..])));
}

#[test]
fn whom_a_request_is_for_is_found_without_reading_the_rest() {
    let datagram = request(true);
    assert_eq!(local_ufrag(&datagram), Some(&b"local"[..]));
    let behind = with_attribute(&datagram, b"\xc0\x57\x00\x03abc\0");
    assert_eq!(local_ufrag(&behind), Some(&b"local"[..]));
    let other = with_attribute(&datagram, b"\x00\x06\x00\x05nobod\0\0\0");
    assert_eq!(local_ufrag(&other), None, "no colon");
    let mut answer = datagram.clone();
    answer[0] = 1;
    assert_eq!(local_ufrag(&answer), None, "no request");
    for len in 0..datagram.len() {
        assert_eq!(local_ufrag(&datagram[..len]), None, "cut at {len}");
    }
}

#[test]
fn the_request_of_rfc_5769_is_read_and_verified() {
    let datagram = *b"\x00\x01\x00\x58\x21\x12\xa4\x42\xb7\xe7\xa7\x01\xbc\x34\xd6\x86\xfa\x87\xdf\xae\
        \x80\x22\x00\x10STUN test client\
        \x00\x24\x00\x04\x6e\x00\x01\xff\
        \x80\x29\x00\x08\x93\x2f\xf9\xb1\x51\x26\x3b\x36\
        \x00\x06\x00\x09\x65\x76\x74\x6a\x3a\x68\x36\x76\x59\x20\x20\x20\
        \x00\x08\x00\x14\x9a\xea\xa7\x0c\xbf\xd8\xcb\x56\x78\x1e\xf2\xb5\xb2\xd3\xf2\x49\xc1\xb5\x71\xa2\
        \x80\x28\x00\x04\xe5\x7a\x3b\xcf";
    let request = Request::parse(&datagram).expect("a request");
    assert_eq!((request.local_ufrag(), request.remote_ufrag()), ("evtj", "h6vY"));
    assert!(request.verify("VOkJxbRl1RmTxUk/WvJxBt"));
    assert!(request.is_controlled());
    assert_eq!(request.priority(), 0x6e00_01ff);
}

#[test]
fn the_answer_says_where_the_check_came_from() {
    let datagram = request(false);
    for mapped in ["192.0.2.1:32853", "[2001:db8:1234:5678:11:2233:4455:6677]:32853"] {
        let mapped: SocketAddr = mapped.parse().expect("an address");
        let mut out = [0; ANSWER_BYTES_MAX];
        let len =
            Request::parse(&datagram).expect("a request").write_success(&mut out, mapped, PWD).expect("room");
        let answer = Response::parse(&out[..len]).expect("an answer");
        assert!(answer.verify(PWD));
        assert!(!answer.verify("another"));
        assert_eq!(
            (answer.transaction(), answer.mapped(), answer.error()),
            (TRANSACTION, Some(mapped), None)
        );
    }
}

#[test]
fn a_role_conflict_is_told() {
    let datagram = written(
        StunMessage::binding_request("local:remote", TransId::new(), false, 9, 7, false),
        Some(PWD.as_bytes()),
    );
    let request = Request::parse(&datagram).expect("a request");
    assert!(request.is_controlled());
    let mut out = [0; ANSWER_BYTES_MAX];
    let len = request.write_role_conflict(&mut out, PWD).expect("room");
    let answer = Response::parse(&out[..len]).expect("an answer");
    assert!(answer.verify(PWD));
    assert_eq!((answer.mapped(), answer.error()), (None, Some(ROLE_CONFLICT)));
}

#[test]
fn what_does_not_fit_is_not_written() {
    let datagram = request(false);
    let request = Request::parse(&datagram).expect("a request");
    let mapped = ([192, 0, 2, 1], 1).into();
    let len = request.write_success(&mut [0; ANSWER_BYTES_MAX], mapped, PWD).expect("room");
    for short in 0..len {
        assert_eq!(request.write_success(&mut vec![0; short], mapped, PWD), None);
    }
    assert_eq!(write_request(&mut [0; 50], "local:remote", PWD, 7, 9, true, TRANSACTION), None);
    assert_eq!(write_request(&mut [0; 512], &"x".repeat(129), PWD, 7, 9, true, TRANSACTION), None);
}

#[test]
fn other_messages_are_told_apart() {
    assert_eq!(error(b""), StunError::Malformed);
    assert_eq!(error(&[0; 20]), StunError::Malformed);
    let indication = StunMessageBuilder::new().binding().indication().build(TransId::new());
    assert_eq!(error(&written(indication, Some(PWD.as_bytes()))), StunError::Kind);
    let allocate = StunMessageBuilder::new().allocate().request().build(TransId::new());
    assert_eq!(error(&written(allocate, Some(PWD.as_bytes()))), StunError::Kind);
    assert_eq!(Response::parse(&request(false)).expect_err("a request"), StunError::Kind);
}

#[test]
fn a_request_needs_a_user_name_of_two_parts_a_priority_and_integrity() {
    let alone = StunMessageBuilder::new().binding().request().username("alone").prio(1).build(TransId::new());
    assert!(matches!(error(&written(alone, Some(b"x"))), StunError::Username | StunError::Attribute));
    let bare = StunMessageBuilder::new().binding().request().username("a:b").build(TransId::new());
    assert_eq!(error(&written(bare, Some(b"x"))), StunError::Attribute);
    let open = StunMessage::binding_request("a:b", TransId::new(), true, 1, 1, false);
    assert_eq!(error(&written(open, None)), StunError::Attribute);
}

#[test]
fn a_wrong_fingerprint_is_refused_and_a_missing_one_is_not() {
    let mut datagram = request(false);
    *datagram.last_mut().expect("bytes") ^= 1;
    assert_eq!(error(&datagram), StunError::Fingerprint);
    datagram.truncate(datagram.len() - FINGERPRINT_BYTES);
    let len = u16::try_from(datagram.len() - HEADER_BYTES).expect("short").to_be_bytes();
    datagram[2..4].copy_from_slice(&len);
    assert!(Request::parse(&datagram).expect("a request").verify(PWD));
}

#[test]
fn what_the_reading_crate_would_log_is_refused_before() {
    for kind in [MAPPED_ADDRESS, UNKNOWN_ATTRIBUTES, ALTERNATE_SERVER, NETWORK_COST] {
        let attribute = [&kind.to_be_bytes()[..], &[0, 8], &[0; 8]].concat();
        assert_eq!(error(&with_attribute(&request(false), &attribute)), StunError::Attribute);
    }
    let unknown = with_attribute(&request(false), &[0xc0, 0x99, 0, 3, 1, 2, 3, 0]);
    assert!(Request::parse(&unknown).is_ok());
}

#[test]
fn no_prefix_and_no_changed_bit_verifies() {
    let datagram = request(true);
    for len in 0..datagram.len() {
        assert!(Request::parse(&datagram[..len]).is_err());
    }
    let authenticated = datagram.len() - FINGERPRINT_BYTES;
    for bit in 0..authenticated * 8 {
        let mut changed = datagram.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        let changed = with_fingerprint(changed);
        assert!(!Request::parse(&changed).is_ok_and(|request| request.verify(PWD)), "bit {bit}");
    }
}

#[test]
fn the_checksum_is_the_usual_one() {
    assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
}

/// Attributes the reading crate knows, and others.
fn attribute() -> impl Strategy<Value = Vec<u8>> {
    let kind = prop_oneof![
        prop::sample::select(vec![
            1_u16, 6, 8, 9, 10, 12, 13, 18, 19, 20, 21, 22, 32, 36, 37, 0x8022, 0x8023, 0x8028, 0x8029,
            0x802a, 0xc057
        ]),
        any::<u16>(),
    ];
    let len = prop_oneof![prop::sample::select(vec![0_u16, 3, 4, 5, 8, 12, 20, 21]), 0..40_u16, any::<u16>()];
    (kind, len, vec(any::<u8>(), 0..48)).prop_map(|(kind, len, mut value)| {
        if value.len() < 40 {
            value.resize(usize::from(len).next_multiple_of(4).min(48), 0);
        }
        [&kind.to_be_bytes()[..], &len.to_be_bytes(), &value].concat()
    })
}

/// A STUN header that fits what follows, or does not.
fn message() -> impl Strategy<Value = Vec<u8>> {
    let kind = prop::sample::select(vec![BINDING_REQUEST, BINDING_SUCCESS, BINDING_ERROR, 0x0011]);
    (kind, vec(attribute(), 0..6), 0..4_u16, any::<prop::sample::Index>()).prop_map(
        |(kind, attributes, skew, cut)| {
            let attributes = attributes.concat();
            let len =
                u16::try_from(attributes.len()).expect("short").wrapping_add(if skew == 3 { 4 } else { 0 });
            let mut message =
                [&kind.to_be_bytes()[..], &len.to_be_bytes(), &MAGIC_COOKIE, &TRANSACTION].concat();
            message.extend(attributes);
            if skew == 2 {
                message.truncate(cut.index(message.len()));
            }
            message
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_message_panics(message in message()) {
        let _ = Request::parse(&message).map(|request| request.verify(PWD));
        let _ = Response::parse(&message).map(|response| response.verify(PWD));
    }

    #[test]
    fn no_message_panics_the_reading_crate_either(message in message()) {
        if let Ok(message) = StunMessage::parse(&message) {
            let _ = message.verify(PWD.as_bytes(), hmac_sha1);
        }
    }

    #[test]
    fn no_bytes_panic(bytes in vec(any::<u8>(), 0..100)) {
        let _ = Request::parse(&bytes);
        let _ = StunMessage::parse(&bytes);
    }
}
