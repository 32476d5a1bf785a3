//! What answers say.

use trunkline_relay_proto::event::Role;
use trunkline_relay_proto::media::{Downstream, Extension, Kind, PayloadType};

use super::super::{CodecName, Local, Offer, answer, fragment_answer};
use super::{Answer, CHROMIUM_DATACHANNEL, CHROMIUM_PLAIN, SMALL, answered, sections, with_local};

#[test]
fn the_smallest_answer_says_what_is_needed_and_nothing_else() {
    let expected = "v=0
o=trunkline 7 2 IN IP4 0.0.0.0
s=-
t=0 0
a=group:BUNDLE 0
a=msid-semantic: WMS *
a=ice-lite
a=ice-options:trickle ice2
a=ice-ufrag:relay-ufrag
a=ice-pwd:relay-password
a=fingerprint:sha-256 AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB
a=setup:passive
m=audio 9 UDP/TLS/RTP/SAVPF 111
c=IN IP4 0.0.0.0
a=mid:0
a=setup:passive
a=sendrecv
a=rtcp-mux
a=rtpmap:111 opus/48000/2
a=msid:slot-0 track-0
a=ssrc:1 cname:trunkline
a=candidate:1 1 udp 2130706431 192.0.2.7 16384 typ host
a=candidate:2 1 udp 2130706175 2001:db8::7 16384 typ host
a=candidate:3 1 tcp 1526726143 192.0.2.7 443 typ host tcptype passive
a=end-of-candidates
";
    assert_eq!(answered(SMALL).text, expected.replace('\n', "\r\n"));
}

#[test]
fn candidates_stand_in_the_first_bundled_section_only() {
    let text = answered(CHROMIUM_PLAIN).text;
    let with: Vec<_> =
        sections(&text).iter().map(|section| section.contains(&"a=end-of-candidates")).collect();
    assert!(with[0] && !with[1..].contains(&true));
}

#[test]
fn feedback_is_what_the_relay_gives() {
    let text = answered(CHROMIUM_PLAIN).text;
    let mut kinds: Vec<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("a=rtcp-fb:")?.split_once(' ').map(|(_, kind)| kind))
        .collect();
    kinds.sort_unstable();
    kinds.dedup();
    assert_eq!(kinds, ["ccm fir", "nack", "nack pli", "transport-cc"]);
}

#[test]
fn transport_wide_feedback_is_agreed_on_with_its_numbers_only_and_an_estimate_without() {
    let answer = answered(CHROMIUM_PLAIN);
    let agreed = |answer: &Answer| {
        let sections = answer.description.sections.iter();
        let all = sections.flat_map(|section| &section.payload_types);
        let of_video = |payload_type: &&PayloadType| payload_type.codec.kind() == Kind::Video;
        (
            all.clone().filter(|payload_type| payload_type.transport_cc).count(),
            all.clone().filter(of_video).all(|payload_type| payload_type.remb),
        )
    };
    let video = &answer.description.sections[1];
    assert!(video.payload_types.iter().all(|payload_type| payload_type.transport_cc && !payload_type.remb));
    assert!(video.extensions.id(Extension::TransportSequence).is_some());
    let offer = CHROMIUM_PLAIN.replace(Extension::TransportSequence.uri(), "urn:other");
    let without = answered(&offer);
    assert!(!without.text.contains("transport-cc") && without.text.contains("goog-remb"));
    assert_eq!(agreed(&without), (0, true));
    // Of the sections that have no number, not of the others.
    let offer = CHROMIUM_PLAIN.replacen(Extension::TransportSequence.uri(), "urn:other", 1);
    let one_without = answered(&offer);
    let audio = &one_without.description.sections[0];
    assert!(audio.payload_types.iter().all(|payload_type| !payload_type.transport_cc));
    assert!(!sections(&one_without.text)[0].iter().any(|line| line.contains("transport-cc")));
    assert_eq!(one_without.description.sections[1..], answer.description.sections[1..]);
}

#[test]
fn feedback_for_all_payload_types_counts_for_each() {
    let offer = format!("{SMALL}a=rtcp-fb:* nack\n");
    let answer = answered(&offer);
    assert!(answer.description.sections[0].payload_types[0].nack);
    assert!(answer.text.contains("a=rtcp-fb:111 nack\r\n"));
}

#[test]
fn slots_have_streams_and_ssrcs_of_their_own() {
    let answer = answered(CHROMIUM_PLAIN);
    let sections = sections(&answer.text);
    for (text, section) in sections.iter().zip(&answer.description.sections) {
        let mid = section.mid.as_str();
        let msid = format!("a=msid:slot-{mid} track-{mid}");
        assert_eq!(text.contains(&msid.as_str()), section.receive.is_some());
        let Some(Downstream { ssrc, rtx_ssrc }) = section.receive else { continue };
        let group = rtx_ssrc.map(|rtx| format!("a=ssrc-group:FID {ssrc} {rtx}"));
        assert!(group.is_none_or(|group| text.contains(&group.as_str())));
        assert!(text.contains(&format!("a=ssrc:{ssrc} cname:trunkline").as_str()));
    }
    let slots = answer.description.sections.iter().filter_map(|section| section.receive);
    let mut ssrcs: Vec<_> = slots.flat_map(|slot| [Some(slot.ssrc), slot.rtx_ssrc]).flatten().collect();
    let count = ssrcs.len();
    ssrcs.sort_unstable();
    ssrcs.dedup();
    assert_eq!((ssrcs.len(), count), (21, 21));
}

#[test]
fn a_slot_never_takes_an_ssrc_that_is_used() {
    let offer = format!("{SMALL}a=ssrc:5 cname:x\n");
    let offer = Offer::parse(&offer).unwrap();
    let ssrc = with_local(Role::Presenter, |local| {
        let answer = answer(&offer, None, local, &mut || 5).unwrap();
        answer.description.sections[0].receive.unwrap().ssrc
    });
    assert_eq!(ssrc, 6);
    let ssrc = with_local(Role::Presenter, |local| {
        let answer = answer(&offer, None, local, &mut || 0).unwrap();
        answer.description.sections[0].receive.unwrap().ssrc
    });
    assert_eq!(ssrc, 1, "zero is what broken clients send");
}

#[test]
fn an_operator_chooses_codecs() {
    let offer = Offer::parse(CHROMIUM_DATACHANNEL).unwrap();
    let text = with_local(Role::Presenter, |local| {
        let codecs = [CodecName::Opus, CodecName::H264, CodecName::Vp8];
        answer(&offer, None, &Local { codecs: &codecs, ..*local }, &mut || 1).unwrap().text
    });
    assert_eq!(sections(&text)[0][0], "m=audio 9 UDP/TLS/RTP/SAVPF 111");
    assert!(sections(&text)[1][0].starts_with("m=video 9 UDP/TLS/RTP/SAVPF 109 114 "));
    assert!(!text.contains("VP9") && !text.contains("AV1"));
}

#[test]
fn a_section_without_a_known_codec_is_rejected_and_stays_in_its_place() {
    let other = "m=video 9 UDP/TLS/RTP/SAVPF 34\na=mid:1\na=rtcp-mux\na=rtpmap:34 H263/90000\n";
    let offer = format!("{}{other}", SMALL.replace("BUNDLE 0", "BUNDLE 0 1"));
    let answer = answered(&offer);
    let section = &answer.description.sections[1];
    assert!(section.payload_types.is_empty() && section.send.is_none() && section.receive.is_none());
    assert_eq!(sections(&answer.text)[1][0], "m=video 0 UDP/TLS/RTP/SAVPF 34");
    assert!(answer.text.contains("a=group:BUNDLE 0\r\n"));
}

#[test]
fn a_section_alone_needs_no_group() {
    let answer = answered(&SMALL.replace("a=group:BUNDLE 0\n", ""));
    assert!(!answer.text.contains("a=group"));
}

#[test]
fn mixed_extension_headers_are_agreed_on_where_they_are_offered() {
    assert!(!answered(SMALL).description.extmap_allow_mixed);
    let answer = answered(&format!("{SMALL}a=extmap-allow-mixed\n"));
    assert!(answer.description.extmap_allow_mixed);
    assert!(sections(&answer.text)[0].contains(&"a=extmap-allow-mixed"));
    let answer = answered(&SMALL.replace("t=0 0\n", "t=0 0\na=extmap-allow-mixed\n"));
    assert!(answer.description.extmap_allow_mixed);
    assert!(!sections(&answer.text)[0].contains(&"a=extmap-allow-mixed"));
}

#[test]
fn a_restart_is_answered_with_credentials_and_candidates() {
    let description = answered(CHROMIUM_DATACHANNEL).description;
    let text = with_local(Role::Presenter, |local| fragment_answer(&description, local));
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(
        lines[..7],
        [
            "a=ice-lite",
            "a=ice-options:trickle ice2",
            "a=group:BUNDLE 0 1",
            "m=audio 9 UDP/TLS/RTP/SAVPF 111",
            "a=mid:0",
            "a=ice-ufrag:relay-ufrag",
            "a=ice-pwd:relay-password",
        ]
    );
    assert_eq!(lines.last(), Some(&"a=end-of-candidates"));
}

#[test]
fn nothing_that_identifies_is_printed() {
    let offer = Offer::parse(CHROMIUM_DATACHANNEL).unwrap();
    assert_eq!(format!("{offer:?}"), "Offer(3 sections)");
    assert_eq!(format!("{:?}", answered(CHROMIUM_DATACHANNEL)), "Answer(2 sections)");
}
