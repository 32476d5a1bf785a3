//! Unusable offers are refused with the line and the reason.

use trunkline_relay_proto::event::Role;

use super::super::{Offer, OfferError, Reason};
use super::{CHROMIUM_PLAIN, SMALL, grown, try_answer};

fn refused(text: &str) -> (usize, Reason) {
    match try_answer(text, None, Role::Presenter) {
        Err(OfferError { line, reason }) => (line, reason),
        Ok(_) => panic!("answered: {text}"),
    }
}

/// The offer with one piece replaced by another.
fn with(from: &str, to: &str) -> (usize, Reason) {
    assert!(SMALL.contains(from), "{from}");
    refused(&SMALL.replacen(from, to, 1))
}

#[test]
fn the_line_that_is_wrong_is_named() {
    let cases = [
        ("v=0", "v=1", 1, Reason::Version),
        ("v=0\n", "", 1, Reason::Version),
        ("- 7 2", "- seven 2", 2, Reason::Origin),
        ("s=-", "hello", 3, Reason::NotALine),
        ("s=-", "s=\u{1}", 3, Reason::ControlCharacter),
        ("t=0 0", "a=ice-lite", 4, Reason::IceLite),
        ("BUNDLE 0", "BUNDLE 1", 6, Reason::NotBundled),
        ("BUNDLE 0", "BUNDLE 0 twenty-characters-long", 5, Reason::Mid),
        ("audio 9", "audio", 6, Reason::MediaLine),
        ("audio 9", "audio 65536", 6, Reason::MediaLine),
        ("SAVPF 111", "SAVPF", 6, Reason::MediaLine),
        ("SAVPF 111", "SAVPF 128", 6, Reason::PayloadType),
        ("SAVPF 111", "SAVPF opus", 6, Reason::PayloadType),
        ("m=audio 9", "m=audio 0", 6, Reason::NothingUsable),
        ("m=audio", "m=application", 6, Reason::NothingUsable),
        ("UDP/TLS/RTP/SAVPF", "UDP/SOMETHING", 6, Reason::NothingUsable),
        ("opus", "speex", 6, Reason::NothingUsable),
        ("a=mid:0\n", "", 6, Reason::NoMid),
        ("a=mid:0", "a=mid:a b", 8, Reason::Mid),
        ("a=mid:0", "a=mid:", 8, Reason::Mid),
        ("a=ice-ufrag:abcd\n", "", 6, Reason::NoIce),
        ("a=ice-pwd:abcdefghijklmnopqrstuv\n", "", 6, Reason::NoIce),
        ("ufrag:abcd", "ufrag:abc", 9, Reason::IceUfrag),
        ("ufrag:abcd", "ufrag:ab cd", 9, Reason::IceUfrag),
        ("klmnopqrstuv", "klmnopqrstu", 10, Reason::IcePwd),
        ("sha-256", "sha-1", 11, Reason::FingerprintHash),
        ("00:01:", "00:", 11, Reason::Fingerprint),
        ("sha-256 ", "sha-256", 11, Reason::Fingerprint),
        ("setup:actpass", "setup:passive", 12, Reason::Setup),
        ("setup:actpass", "setup:holdconn", 12, Reason::Setup),
        ("a=rtcp-mux\n", "", 6, Reason::NoRtcpMux),
        ("a=rtpmap:111 opus/48000/2", "a=rtpmap:111", 14, Reason::Rtpmap),
        ("a=rtpmap:111 opus/48000/2", "a=extmap:0 urn:x", 14, Reason::Extmap),
        ("a=rtpmap:111 opus/48000/2", "a=extmap:1/up urn:x", 14, Reason::Extmap),
        ("a=rtpmap:111 opus/48000/2", "a=extmap:1", 14, Reason::Extmap),
        ("a=rtpmap:111 opus/48000/2", "a=ssrc:4294967296 cname:x", 14, Reason::Ssrc),
        ("a=rtpmap:111 opus/48000/2", "a=ssrc-group:FID 1 x", 14, Reason::SsrcGroup),
    ];
    for (from, to, line, reason) in cases {
        assert_eq!(with(from, to), (line, reason), "{from:?} -> {to:?}");
    }
    assert_eq!(refused(""), (1, Reason::Version));
    assert_eq!(refused("v=0\no=- 1 1 IN IP4 0\n"), (1, Reason::NothingUsable));
    let fingerprint = SMALL.lines().find(|line| line.starts_with("a=fingerprint")).unwrap();
    assert_eq!(with(&format!("{fingerprint}\n"), ""), (6, Reason::NoFingerprint));
}

/// A second section, on line 15, that differs from the first in what the test says.
fn second(lines: &str) -> (usize, Reason) {
    let section = format!("m=audio 9 UDP/TLS/RTP/SAVPF 111\na=rtpmap:111 opus/48000/2\n{lines}");
    refused(&format!("{}{section}", SMALL.replace("BUNDLE 0", "BUNDLE 0 1")))
}

#[test]
fn what_bundled_sections_share_must_not_differ() {
    let zeros = ["00"; 32].join(":");
    let cases = [
        ("a=mid:0\na=rtcp-mux\n", 15, Reason::SameMid),
        ("a=mid:2\na=rtcp-mux\n", 15, Reason::NotBundled),
        ("a=mid:1\n", 15, Reason::NoRtcpMux),
        ("a=mid:1\na=rtcp-mux\na=ice-ufrag:efgh\n", 19, Reason::IceDiffers),
        ("a=mid:1\na=rtcp-mux\na=setup:passive\n", 19, Reason::Setup),
    ];
    for (lines, line, reason) in cases {
        assert_eq!(second(lines), (line, reason), "{lines:?}");
    }
    let differs = format!("a=mid:1\na=rtcp-mux\na=fingerprint:sha-256 {zeros}\n");
    assert_eq!(second(&differs), (19, Reason::FingerprintDiffers));
}

#[test]
fn no_two_sections_send_with_one_ssrc() {
    let offer = format!("{}a=ssrc:5 cname:x\n", SMALL.replace("BUNDLE 0", "BUNDLE 0 1"));
    let section =
        "m=audio 9 UDP/TLS/RTP/SAVPF 111\na=mid:1\na=rtcp-mux\na=rtpmap:111 opus/48000/2\na=ssrc:5 cname:x\n";
    assert_eq!(refused(&format!("{offer}{section}")), (20, Reason::SameSsrc));
    let silent = format!("{offer}{section}a=recvonly\n");
    assert!(try_answer(&silent, None, Role::Presenter).is_ok(), "reports may share one");
}

#[test]
fn the_mid_extension_has_one_number_in_all_sections() {
    let uri = "urn:ietf:params:rtp-hdrext:sdes:mid";
    let offer = format!("{}a=extmap:4 {uri}\n", SMALL.replace("BUNDLE 0", "BUNDLE 0 1"));
    let section = "m=audio 9 UDP/TLS/RTP/SAVPF 111\na=mid:1\na=rtcp-mux\na=rtpmap:111 opus/48000/2\n";
    for other in [format!("a=extmap:3 {uri}"), "a=extmap:4 urn:something:else".to_owned()] {
        assert_eq!(refused(&format!("{offer}{section}{other}\n")), (20, Reason::MidExtension), "{other}");
    }
    let same = format!("{offer}{section}a=extmap:4 {uri}\n");
    assert!(try_answer(&same, None, Role::Presenter).is_ok());
}

#[test]
fn every_list_has_a_limit() {
    let lines = |count: usize, line: &dyn Fn(usize) -> String| (0..count).map(line).collect::<String>();
    let ssrcs = lines(33, &|number| format!("a=ssrc:{number} cname:x\n"));
    assert_eq!(refused(&format!("{SMALL}{ssrcs}")), (47, Reason::TooManySsrcs { ssrcs_max: 32 }));
    let extensions = lines(65, &|_| "a=extmap:1 urn:x\n".to_owned());
    let error = (79, Reason::TooManyExtensions { extensions_max: 64 });
    assert_eq!(refused(&format!("{SMALL}{extensions}")), error);
    let names = lines(129, &|number| format!(" {number}"));
    assert_eq!(with("BUNDLE 0", &format!("BUNDLE{names}")), (5, Reason::GroupTooLong));
    let ungrouped = CHROMIUM_PLAIN.replace("a=group:BUNDLE", "a=group:LS");
    let (_, reason) = refused(&grown(&ungrouped, 129));
    assert_eq!(reason, Reason::TooManySections { sections_max: 128 });
    let long = format!("{SMALL}{}", "a=x\n".repeat(1 << 18));
    assert_eq!(refused(&long), (1, Reason::TooLong { bytes_max: 1 << 20 }));
}

#[test]
fn an_error_is_a_sentence_that_says_what_to_do_and_quotes_nothing() {
    let error = Offer::parse(&SMALL.replace("sha-256", "sha-1")).unwrap_err();
    let expected = "line 11: only SHA-256 fingerprints are compared; offer `a=fingerprint:sha-256 …`, alone or beside \
                    this one";
    assert_eq!(error.to_string(), expected);
}
