//! Offers that follow others.

use trunkline_relay_proto::event::Role;
use trunkline_relay_proto::media::Description;

use super::super::{OfferError, Reason};
use super::{CHROMIUM_PLAIN, answered, grown, sections, try_answer};

fn again(offer: &str, previous: &Description) -> Result<Description, OfferError> {
    try_answer(offer, Some(previous), Role::Presenter).map(|answer| answer.description)
}

/// The offer with a section stopped, as browsers write it.
fn stopped(offer: &str, index: usize) -> String {
    let mut lines: Vec<String> = offer.lines().map(str::to_owned).collect();
    let starts: Vec<_> = (0..lines.len()).filter(|line| lines[*line].starts_with("m=")).collect();
    lines[starts[index]] = lines[starts[index]].replacen(" 9 ", " 0 ", 1);
    lines.iter().map(|line| format!("{line}\r\n")).collect()
}

#[test]
fn slots_keep_their_ssrcs_when_sections_are_added() {
    let first = answered(CHROMIUM_PLAIN).description;
    let more = again(&grown(CHROMIUM_PLAIN, 20), &first).unwrap();
    assert_eq!(more.sections[..14], first.sections);
    let mut ssrcs: Vec<_> = more.sections.iter().filter_map(|section| Some(section.receive?.ssrc)).collect();
    ssrcs.sort_unstable();
    ssrcs.dedup();
    assert_eq!(ssrcs.len(), 18);
}

#[test]
fn a_stopped_section_stays_without_a_slot_and_its_place_may_be_taken() {
    let first = answered(CHROMIUM_PLAIN).description;
    let offer = stopped(CHROMIUM_PLAIN, 13);
    let answer = try_answer(&offer, Some(&first), Role::Presenter).unwrap();
    let second = answer.description;
    assert!(sections(&answer.text)[13][0].starts_with("m=video 0 "));
    assert_eq!(second.sections.len(), 14);
    assert!(second.sections[13].receive.is_none());
    let third = again(&CHROMIUM_PLAIN.replace("a=mid:13\r", "a=mid:14\r").replace(" 13\r", " 14\r"), &second)
        .unwrap();
    assert!(third.sections[13].receive.is_some());
    assert_eq!(third.sections[..13], first.sections[..13]);
}

#[test]
fn the_transport_goes_to_the_next_section_when_the_first_stops() {
    let first = answered(CHROMIUM_PLAIN).description;
    let offer = stopped(CHROMIUM_PLAIN, 0).replace("BUNDLE 0 1 ", "BUNDLE 1 ");
    let text = try_answer(&offer, Some(&first), Role::Presenter).unwrap().text;
    assert!(sections(&text)[1].contains(&"a=end-of-candidates"));
}

#[test]
fn sections_cannot_go_or_change() {
    let first = answered(CHROMIUM_PLAIN).description;
    let line_of = |index: usize| {
        let starts = CHROMIUM_PLAIN.lines().zip(1..).filter(|(line, _)| line.starts_with("m="));
        starts.map(|(_, number)| number).nth(index).unwrap()
    };
    let last = CHROMIUM_PLAIN.rfind("m=").unwrap();
    let missing = again(&CHROMIUM_PLAIN[..last], &first).unwrap_err();
    assert_eq!(missing, OfferError { line: line_of(12), reason: Reason::SectionsMissing });
    let swapped = CHROMIUM_PLAIN.replace("a=mid:0\r", "a=mid:x\r").replace("a=mid:1\r", "a=mid:0\r");
    let swapped = swapped.replace("a=mid:x\r", "a=mid:1\r");
    let error = again(&swapped, &first).unwrap_err();
    assert_eq!(error, OfferError { line: line_of(0), reason: Reason::SectionChanged });
}
