//! A client that nobody here wrote: str0m makes offers and takes the answers.

use std::time::Instant;

use str0m::Rtc;
use str0m::change::SdpAnswer;
use str0m::media::{Direction, MediaKind};
use trunkline_relay_proto::event::Role;
use trunkline_relay_proto::media::Codec;

use super::super::{Offer, answer};
use super::with_local;

#[test]
fn str0m_takes_answers_to_its_offers() {
    str0m::crypto::from_feature_flags().install_process_default();
    let now = Instant::now();
    let mut rtc = Rtc::builder().build(now);
    let mut changes = rtc.sdp_api();
    let wanted = [
        (MediaKind::Audio, Direction::SendOnly),
        (MediaKind::Video, Direction::SendOnly),
        (MediaKind::Audio, Direction::RecvOnly),
        (MediaKind::Video, Direction::RecvOnly),
        (MediaKind::Video, Direction::SendRecv),
    ];
    let mids = wanted.map(|(kind, direction)| changes.add_media(kind, direction, None, None, None));
    let (offer, pending) = changes.apply().unwrap();
    let offer = offer.to_sdp_string();
    let mut ssrc = 0;
    let answer = with_local(Role::Presenter, |local| {
        let ice = trunkline_relay_proto::media::IceCredentials {
            ufrag: "relayufrag".to_owned(),
            pwd: "relaypasswordrelaypassword".to_owned(),
        };
        let local = super::super::Local { ice: &ice, ..*local };
        let mut draw = || {
            ssrc += 1;
            ssrc
        };
        answer(&Offer::parse(&offer).unwrap(), None, &local, &mut draw).unwrap()
    });
    let sections = &answer.description.sections;
    assert_eq!(sections[1].payload_types[0].codec, Codec::Vp8);
    let flows: Vec<_> =
        sections.iter().map(|section| (section.send.is_some(), section.receive.is_some())).collect();
    assert_eq!(flows, [(true, false), (true, false), (false, true), (false, true), (true, true)]);

    rtc.sdp_api().accept_answer(pending, SdpAnswer::from_sdp_string(&answer.text).unwrap()).unwrap();
    let agreed = mids.map(|mid| {
        let media = rtc.media(mid).unwrap();
        (media.kind(), media.direction())
    });
    assert_eq!(agreed, wanted);
    for (mid, section) in mids.into_iter().zip(sections) {
        let numbers = section.payload_types.iter().map(|agreed| agreed.number);
        let taken: Vec<u8> = rtc.media(mid).unwrap().remote_pts().iter().map(|number| **number).collect();
        assert_eq!(taken, numbers.collect::<Vec<_>>());
    }
}
