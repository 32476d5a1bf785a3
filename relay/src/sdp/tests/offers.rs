//! What real offers are taken for.

use trunkline_relay_proto::event::Role;
use trunkline_relay_proto::media::{Codec, Content, Downstream, Extension, Kind, Section};

use super::{
    AIORTC, CHROMIUM_DATACHANNEL, CHROMIUM_DESCRIPTOR, CHROMIUM_PLAIN, CHROMIUM_SIMULCAST, FIREFOX,
    GSTREAMER_WHIP, OFFERS, PION_WHIP, answered, direction, grown, numbers, sections, try_answer,
};

#[test]
fn every_clients_offer_is_answered_with_the_way_media_flows_mirrored() {
    for (name, offer) in OFFERS {
        let answer = answered(offer);
        let sections = sections(offer).into_iter().zip(sections(&answer.text));
        for (ours, theirs) in sections.filter(|(offered, _)| !offered[0].starts_with("m=application")) {
            let expected = match direction(&ours) {
                "sendonly" => "recvonly",
                "recvonly" => "sendonly",
                same => same,
            };
            assert_eq!(direction(&theirs), expected, "{name}");
            assert!(theirs.contains(&"a=rtcp-mux") && theirs.contains(&"a=setup:passive"), "{name}");
        }
    }
}

#[test]
fn answers_to_chromium_are_well_under_their_offers() {
    for offer in [CHROMIUM_PLAIN, CHROMIUM_DESCRIPTOR, CHROMIUM_SIMULCAST, CHROMIUM_DATACHANNEL] {
        let bytes = answered(offer).text.len();
        assert!(bytes * 6 < offer.len() * 5, "{bytes} bytes for {}", offer.len());
    }
}

#[test]
fn chromium_sends_two_sources_and_receives_in_twelve_slots() {
    let description = answered(CHROMIUM_PLAIN).description;
    assert_eq!(description.sections.len(), 14);
    assert!(description.extmap_allow_mixed && description.reduced_size_rtcp);
    let (sources, slots) = description.sections.split_at(2);
    assert!(sources.iter().all(|section| section.send.is_some() && section.receive.is_none()));
    assert!(slots.iter().all(|section| section.send.is_none() && section.receive.is_some()));
    let audio_slots = slots.iter().filter(|section| section.kind == Kind::Audio);
    assert!(audio_slots.clone().all(|section| section.receive.unwrap().rtx_ssrc.is_none()));
    assert_eq!(audio_slots.count(), 3);
    let [audio, video] = sources else { panic!("two sources") };
    assert_eq!(numbers(audio), [111, 63]);
    assert_eq!(audio.payload_types[1].codec, Codec::OpusRed);
    assert_eq!(audio.extensions.id(Extension::AudioLevel), Some(1));
    assert_eq!(audio.extensions.id(Extension::Mid), Some(4));
    assert_eq!(audio.send.as_ref().unwrap().ssrcs.len(), 1);
    assert_eq!(video.send.as_ref().unwrap().ssrcs.len(), 2, "media and retransmissions");
    let vp8 = &video.payload_types[0];
    assert_eq!((vp8.number, vp8.codec, vp8.rtx), (96, Codec::Vp8, Some(97)));
    assert!(vp8.nack && vp8.pli && vp8.fir && !vp8.raw);
}

#[test]
fn what_a_client_should_send_is_listed_in_the_relays_order_and_slots_keep_the_clients() {
    let description = answered(CHROMIUM_PLAIN).description;
    let names = |index: usize| {
        let section: &Section = &description.sections[index];
        let mut names: Vec<_> = section.payload_types.iter().map(|agreed| agreed.codec).collect();
        names.dedup_by_key(|codec| std::mem::discriminant(codec));
        names
    };
    let common_h264 = Codec::H264 { profile: 0x42e0, packetization_mode: 1 };
    let sent = [Codec::Vp8, Codec::Vp9 { profile: 0 }, common_h264, Codec::Av1 { profile: 0 }];
    assert_eq!(names(1), sent);
    let offered = sections(CHROMIUM_PLAIN)[13][0];
    let ours = numbers(&description.sections[13]);
    let order = offered.split(' ').skip(3).filter_map(|word| word.parse().ok());
    assert_eq!(ours, order.filter(|number| ours.contains(number)).collect::<Vec<u8>>());
}

#[test]
fn the_dependency_descriptor_is_agreed_on_where_it_is_offered() {
    let has_descriptor = |offer| {
        let sections = answered(offer).description.sections;
        let video = sections.into_iter().filter(|section| section.kind == Kind::Video);
        video.map(|section| section.extensions.id(Extension::DependencyDescriptor)).collect::<Vec<_>>()
    };
    assert_eq!(has_descriptor(CHROMIUM_DESCRIPTOR), [Some(12); 3]);
    assert_eq!(has_descriptor(CHROMIUM_PLAIN), [None; 10]);
}

#[test]
fn raw_packetization_is_agreed_on_where_it_is_offered() {
    let offer = CHROMIUM_DESCRIPTOR.replace("a=rtpmap:45 AV1", "a=packetization:45 raw\r\na=rtpmap:45 AV1");
    let answer = answered(&offer);
    for section in &answer.description.sections[1..2] {
        let raw = section.payload_types.iter().filter(|agreed| agreed.raw).map(|agreed| agreed.codec);
        assert_eq!(raw.collect::<Vec<_>>(), [Codec::Av1 { profile: 0 }]);
    }
    assert!(sections(&answer.text)[1].contains(&"a=packetization:45 raw"));
}

#[test]
fn a_data_channel_is_rejected_and_the_rest_goes_on() {
    let answer = answered(CHROMIUM_DATACHANNEL);
    assert_eq!(answer.description.sections.len(), 2);
    assert!(
        answer.description.sections.iter().all(|section| section.send.is_some() && section.receive.is_some())
    );
    let sections = sections(&answer.text);
    assert_eq!(sections[2][0], "m=application 0 UDP/DTLS/SCTP webrtc-datachannel");
    assert!(sections[2].contains(&"a=mid:2"));
    assert!(answer.text.contains("a=group:BUNDLE 0 1\r\n"));
}

#[test]
fn a_data_channel_in_front_leaves_the_transport_to_the_next_section() {
    let (session, media) = CHROMIUM_DATACHANNEL.split_at(CHROMIUM_DATACHANNEL.find("m=").unwrap());
    let (media, application) = media.split_at(media.find("m=application").unwrap());
    let offer = format!("{}{application}{media}", session.replace("BUNDLE 0 1 2", "BUNDLE 2 0 1"));
    let answer = answered(&offer);
    let sections = sections(&answer.text);
    assert!(sections[0][0].starts_with("m=application 0 "));
    assert!(sections[1].contains(&"a=end-of-candidates"));
    assert!(answer.text.contains("a=group:BUNDLE 0 1\r\n"));
}

fn rids(section: &Section) -> Vec<&str> {
    section.send.iter().flat_map(|upstream| &upstream.rids).map(|rid| rid.as_str()).collect()
}

#[test]
fn the_encodings_of_simulcast_are_agreed_on_by_name() {
    let answer = answered(CHROMIUM_SIMULCAST);
    let text = sections(&answer.text);
    let of_simulcast = text[1].iter().filter(|line| line.starts_with("a=rid:") || line.contains("simulcast"));
    let expected = ["a=rid:q recv", "a=rid:h recv", "a=rid:f recv", "a=simulcast:recv q;h;f"];
    assert_eq!(of_simulcast.copied().collect::<Vec<_>>(), expected);
    let video = &answer.description.sections[1];
    assert_eq!(rids(video), ["q", "h", "f"]);
    assert!(video.send.as_ref().unwrap().ssrcs.is_empty(), "only mid and rid will tell");
    assert!(video.extensions.id(Extension::Rid).is_some());
    assert!(video.extensions.id(Extension::LayersAllocation).is_some());
    let slot = &answer.description.sections[3];
    assert!(rids(slot).is_empty() && answer.text.matches("simulcast").count() == 1);
    assert!(slot.extensions.id(Extension::Rid).is_none(), "layers are never named to receivers");
    assert!(slot.extensions.id(Extension::LayersAllocation).is_none(), "and not told");
}

#[test]
fn the_first_three_encodings_are_taken_in_the_clients_order() {
    let offer = CHROMIUM_SIMULCAST
        .replace("a=rid:f send", "a=rid:f send pt=96,98;max-width=1280\r\na=rid:x send")
        .replace("send q;h;f", "send f,q;~x;h;q");
    let answer = answered(&offer);
    assert_eq!(rids(&answer.description.sections[1]), ["f", "x", "h"]);
    assert!(
        answer.text.contains("a=rid:f recv\r\na=rid:x recv\r\na=rid:h recv\r\na=simulcast:recv f;x;h\r\n")
    );
}

#[test]
fn simulcast_is_left_out_where_packets_could_not_name_their_encoding_or_nothing_is_sent() {
    let unnamed = CHROMIUM_SIMULCAST.replace(Extension::Rid.uri(), "urn:other");
    let viewer = try_answer(CHROMIUM_SIMULCAST, None, Role::Viewer).unwrap();
    let of_sound = CHROMIUM_PLAIN.replacen(
        "a=sendonly\r\n",
        &format!(
            "a=sendonly\r\na=extmap:10 {}\r\na=rid:q send\r\na=simulcast:send q\r\n",
            Extension::Rid.uri()
        ),
        1,
    );
    for answer in [answered(&unnamed), viewer, answered(&of_sound)] {
        assert!(!answer.text.contains("simulcast") && !answer.text.contains("a=rid:"));
        assert!(answer.description.sections.iter().all(|section| rids(section).is_empty()));
    }
}

#[test]
fn sound_is_sent_in_the_first_codec_of_the_offer_plain_or_redundant() {
    let first = |offer: &str| {
        let answer = answered(offer);
        answer.description.sections[0].payload_types[0].codec
    };
    assert!(CHROMIUM_PLAIN.contains(" 111 63 "));
    assert_eq!(first(CHROMIUM_PLAIN), Codec::Opus);
    assert_eq!(first(&CHROMIUM_PLAIN.replacen(" 111 63 ", " 63 111 ", 1)), Codec::OpusRed);
}

#[test]
fn aiortc_offers_several_hashes_of_which_sha_256_is_taken() {
    let description = answered(AIORTC).description;
    assert_eq!(description.fingerprint[..3], [0x47, 0xf8, 0xeb]);
    assert!(!description.reduced_size_rtcp && !description.extmap_allow_mixed);
    assert_eq!(description.sections.len(), 4);
}

#[test]
fn firefoxs_bundle_only_sections_are_no_stopped_ones() {
    let answer = answered(FIREFOX);
    let sections = &answer.description.sections;
    assert!(sections[0].send.is_some() && sections[0].receive.is_some());
    assert_eq!(sections[1].send.as_ref().unwrap().ssrcs, [3_310_249_147, 1_190_843_387]);
    assert!(sections[2].send.is_none() && sections[2].receive.is_some());
    assert_eq!(sections[1].payload_types.len(), 4, "neither redundancy nor correction of video");
    assert_eq!(
        sections[1].extensions.id(Extension::PlayoutDelay),
        None,
        "not where the client only receives it"
    );
    assert!(!answer.text.contains("bundle-only"));
}

#[test]
fn whip_clients_send_what_everybody_understands() {
    let description = answered(GSTREAMER_WHIP).description;
    let [video, audio] = description.sections.as_slice() else { panic!("two sections") };
    assert_eq!(video.mid.as_str(), "video0");
    let constrained = Codec::H264 { profile: 0x42e0, packetization_mode: 1 };
    assert_eq!(video.payload_types[0].codec, constrained);
    assert_eq!(audio.payload_types[0].codec, Codec::Opus);
    let description = answered(PION_WHIP).description;
    let ssrcs = &description.sections[1].send.as_ref().unwrap().ssrcs;
    assert_eq!(ssrcs[..], [2_963_108_541]);
    assert_eq!(description.sections[1].receive, Some(Downstream { ssrc: 2, rtx_ssrc: Some(3) }));
}

#[test]
fn slides_are_told_from_cameras() {
    let offer = CHROMIUM_PLAIN.replacen("a=sendonly\r\n", "a=sendonly\r\na=content:slides\r\n", 1);
    let sections = answered(&offer).description.sections;
    assert_eq!(sections[0].send.as_ref().unwrap().content, Content::Slides);
    assert_eq!(sections[1].send.as_ref().unwrap().content, Content::Main);
}

#[test]
fn a_viewer_receives_and_is_not_received_from() {
    let answer = try_answer(CHROMIUM_DATACHANNEL, None, Role::Viewer).unwrap();
    assert!(
        answer.description.sections.iter().all(|section| section.send.is_none() && section.receive.is_some())
    );
    let answer = try_answer(CHROMIUM_PLAIN, None, Role::Viewer).unwrap();
    let directions: Vec<_> = sections(&answer.text).iter().map(|section| direction(section)).collect();
    assert_eq!(directions[..3], ["inactive", "inactive", "sendonly"]);
    assert!(answer.description.sections[0].send.is_none());
}

#[test]
fn as_many_sections_as_allowed_are_answered() {
    let offer = grown(CHROMIUM_PLAIN, 128);
    let answer = answered(&offer);
    assert_eq!(answer.description.sections.len(), 128);
    assert!(answer.text.len() < offer.len());
}
