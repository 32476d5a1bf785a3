//! What holds for every offer.

use proptest::prelude::*;
use proptest::sample::select;
use trunkline_relay_proto::event::Role;
use trunkline_relay_proto::media::{ENCODINGS_MAX, Extension};

use super::super::{Fragment, Offer};
use super::{Answer, OFFERS, SMALL, sections, try_answer};

/// Everything an answer has to be for its offer (RFC 3264, section 6).
fn check(offer: &str) {
    for role in [Role::Presenter, Role::Viewer] {
        let Ok(answer) = try_answer(offer, None, role) else { continue };
        let (offered, given) = (sections(offer), sections(&answer.text));
        assert_eq!(offered.len(), given.len(), "as many sections");
        for (offered, given) in offered.iter().zip(&given) {
            let (mut offered, mut given) =
                (offered[0].split_ascii_whitespace(), given[0].split_ascii_whitespace());
            assert_eq!(offered.next(), given.next(), "the same media");
            offered.next();
            given.next();
            assert_eq!(offered.next(), given.next(), "the same protocol");
            let offered: Vec<_> = offered.collect();
            assert!(given.all(|format| offered.contains(&format)), "no format that was not offered");
        }
        for section in &answer.description.sections {
            let rids: Vec<_> = section.send.iter().flat_map(|upstream| &upstream.rids).collect();
            assert!(rids.len() <= ENCODINGS_MAX, "no more encodings than are kept");
            assert!(rids.is_empty() || section.extensions.id(Extension::Rid).is_some(), "packets name them");
            for rid in rids {
                let offered = offer.contains(&format!("a=rid:{} ", rid.as_str()));
                let given = answer.text.contains(&format!("a=rid:{} recv", rid.as_str()));
                assert!(offered && given, "encodings of the offer");
            }
            let numbered = section.extensions.id(Extension::TransportSequence).is_some();
            assert!(numbered || section.payload_types.iter().all(|agreed| !agreed.transport_cc));
        }
        // Seen as an offer, it is one the relay itself would take.
        let text = answer.text.replace("a=setup:passive", "a=setup:actpass").replace("a=ice-lite\r\n", "");
        let text = text.replace("relay-ufrag", "ufrag").replace("relay-password", "passwordpasswordpassword");
        let back = try_answer(&text, None, Role::Presenter).expect("an answer parses as SDP");
        let kinds = |answer: &Answer| {
            let sections = answer.description.sections.iter();
            sections
                .map(|section| (section.mid, section.kind, section.payload_types.len()))
                .collect::<Vec<_>>()
        };
        assert_eq!(kinds(&back), kinds(&answer), "the same was agreed on");
        let again = try_answer(offer, Some(&answer.description), role).expect("the same offer again");
        assert_eq!(again.description, answer.description, "the same offer is answered alike");
    }
}

#[test]
fn answers_to_clients_obey_the_offer_answer_model() {
    OFFERS.iter().for_each(|(_, offer)| check(offer));
    check(SMALL);
}

/// One change to a text, by lines or characters, whose places are fractions of it.
#[derive(Clone, Debug)]
enum Mutation {
    Delete(usize),
    Double(usize),
    Swap(usize, usize),
    Replace(usize, String),
    Cut(usize),
    Character(usize, char),
}

fn mutations() -> impl Strategy<Value = Vec<Mutation>> {
    let place = any::<usize>;
    let line = prop_oneof![
        select(vec![
            "m=audio 0 UDP/TLS/RTP/SAVPF 0",
            "m=video 9 UDP/TLS/RTP/SAVPF 96 96 97",
            "m=application 9 UDP/DTLS/SCTP webrtc-datachannel",
            "a=mid:0",
            "a=inactive",
            "a=sendrecv",
            "a=bundle-only",
            "a=rtcp-mux",
            "a=extmap:15 urn:ietf:params:rtp-hdrext:sdes:mid",
            "a=extmap:300 urn:ietf:params:rtp-hdrext:ssrc-audio-level",
            "a=rtpmap:96 red/48000/2",
            "a=rtpmap:96 rtx/90000",
            "a=fmtp:96 apt=96",
            "a=fmtp:96 96/96/",
            "a=ssrc-group:FID 1 1",
            "a=ssrc-group:FID 1 2 3",
            "a=ssrc:0",
            "a=packetization:96 raw",
            "a=rid:q send",
            "a=rid:h recv",
            "a=rid:f send pt=96;max-fps=30",
            "a=simulcast:send f;~q,h;f",
            "a=simulcast:recv h send q",
            "a=simulcast:send",
            "a=rtcp-fb:* transport-cc",
            "a=group:BUNDLE",
            "a=setup:active",
        ])
        .prop_map(str::to_owned),
        "[a-z]=[ -~]{0,40}",
        "\\PC{0,40}",
    ];
    let mutation = prop_oneof![
        place().prop_map(Mutation::Delete),
        place().prop_map(Mutation::Double),
        (place(), place()).prop_map(|(one, other)| Mutation::Swap(one, other)),
        (place(), line).prop_map(|(at, line)| Mutation::Replace(at, line)),
        place().prop_map(Mutation::Cut),
        (place(), any::<char>()).prop_map(|(at, character)| Mutation::Character(at, character)),
    ];
    prop::collection::vec(mutation, 1..8)
}

fn mutated(text: &str, mutations: &[Mutation]) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    for mutation in mutations {
        let count = lines.len().max(1);
        match mutation {
            _ if lines.is_empty() => {}
            Mutation::Delete(at) => drop(lines.remove(at % count)),
            Mutation::Double(at) => lines.insert(at % count, lines[at % count].clone()),
            Mutation::Swap(one, other) => lines.swap(one % count, other % count),
            Mutation::Replace(at, line) => lines[at % count].clone_from(line),
            // Mostly near the end, or little would be left to change.
            Mutation::Cut(at) => lines.truncate(count - (at % count) / 8),
            Mutation::Character(at, character) => {
                let line = &mut lines[at % count];
                let place = line.floor_char_boundary(at % (line.len() + 1));
                line.insert(place, *character);
            }
        }
    }
    lines.iter().map(|line| format!("{line}\r\n")).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn changed_offers_of_clients_are_answered_rightly_or_refused(
        // The large ones hold nothing that the small ones do not.
        (_, offer) in select(OFFERS[2..].to_vec()),
        mutations in mutations(),
    ) {
        check(&mutated(offer, &mutations));
    }

    #[test]
    fn changed_small_offers_are_answered_rightly_or_refused(mutations in mutations()) {
        check(&mutated(SMALL, &mutations));
    }

    #[test]
    fn any_text_is_refused_or_read(text in "\\PC{0,200}") {
        let _ = Offer::parse(&text);
        let _ = Fragment::parse(&text);
    }
}
