//! What an offer is answered with.

use std::collections::HashSet;
use std::fmt;

use trunkline_relay_proto::event::Role;
use trunkline_relay_proto::media::{
    Description, Downstream, Extension, ExtensionIds, Kind, Mid, Rid, Section, Upstream,
};

use super::codec::{self, Agreed};
use super::error::{OfferError, Reason};
use super::extension;
use super::offer::Offer;
use super::section::{self, Direction};
use super::write::{self, Accepted, Local, Verdict};

/// An answer: for the relay's core, and for the client.
#[derive(Clone)]
pub struct Answer {
    /// What was agreed on. Audio and video sections stand in the offer's order; others are none of the core's
    /// business. A rejected section has no payload types.
    pub description: Description,
    /// The SDP text.
    pub text: String,
}

/// The text holds credentials.
impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Answer({} sections)", self.description.sections.len())
    }
}

/// Answers an offer (RFC 3264, RFC 8829): each section in its place, with the way media flows seen from the other
/// side. Where the client receives there is a slot, with an SSRC from `ssrc` that it keeps for as long as the client
/// receives there. `previous` is what the same client agreed on before.
///
/// # Errors
/// When no section can be accepted, or sections are not what they were in `previous`.
pub fn answer(
    offer: &Offer<'_>,
    previous: Option<&Description>,
    local: &Local<'_>,
    ssrc: &mut dyn FnMut() -> u32,
) -> Result<Answer, OfferError> {
    let kept = kept_slots(offer, previous)?;
    let mut ssrcs = Ssrcs { used: used_ssrcs(offer, &kept), draw: ssrc };
    let mut sections = Vec::with_capacity(offer.sections.len());
    let mut verdicts = Vec::with_capacity(offer.sections.len());
    for (offered, kept) in offer.sections.iter().zip(kept) {
        let Some((mid, kind)) = name(offered) else {
            verdicts.push(Verdict::Rejected);
            continue;
        };
        let (section, verdict) = answer_section(offered, mid, kind, kept, local, &mut ssrcs);
        sections.push(section);
        verdicts.push(verdict);
    }
    let accepted = || {
        let pairs = offer.sections.iter().zip(&verdicts);
        pairs.filter(|(_, verdict)| matches!(verdict, Verdict::Accepted(_))).map(|(section, _)| section)
    };
    if accepted().next().is_none() {
        let line = offer.sections.first().map_or(1, |section| section.line);
        return Err(OfferError { line, reason: Reason::NothingUsable });
    }
    let extmap_allow_mixed = offer.extmap_allow_mixed || accepted().all(|section| section.extmap_allow_mixed);
    let description = Description {
        ice: offer.ice.clone(),
        fingerprint: offer.fingerprint,
        extmap_allow_mixed,
        reduced_size_rtcp: accepted().all(|section| section.reduced_size_rtcp),
        sections,
    };
    let text = write::text(offer, &verdicts, extmap_allow_mixed, local);
    Ok(Answer { description, text })
}

/// Name and kind of a section that belongs into a description.
fn name(section: &section::Section<'_>) -> Option<(Mid, Kind)> {
    section.mid.zip(section.kind)
}

fn answer_section<'a>(
    offered: &section::Section<'a>,
    mid: Mid,
    kind: Kind,
    kept: Option<Downstream>,
    local: &Local<'_>,
    ssrcs: &mut Ssrcs<'_>,
) -> (Section, Verdict<'a>) {
    let direction = Direction {
        send: offered.direction.send && local.role == Role::Presenter,
        receive: offered.direction.receive,
    };
    let mut codecs =
        if offered.usable { codec::agree(offered, local.codecs, direction.send) } else { Vec::new() };
    if codecs.is_empty() {
        let extensions = ExtensionIds::default();
        let section = Section { mid, kind, payload_types: Vec::new(), extensions, send: None, receive: None };
        return (section, Verdict::Rejected);
    }
    let (ids, extensions) = extension::agree(offered, direction);
    let has_numbers = ids.id(Extension::TransportSequence).is_some();
    codecs.iter_mut().for_each(|agreed| agreed.choose_estimate(has_numbers));
    // Without names in packets nobody can tell encodings apart: the client then sends one.
    let is_named = direction.send && kind == Kind::Video && ids.id(Extension::Rid).is_some();
    let rids = if is_named { offered.simulcast.encodings() } else { Vec::new() };
    let has_rtx = codecs.iter().any(|agreed| agreed.rtx.is_some());
    let slot = direction.receive.then(|| ssrcs.slot(kept, has_rtx));
    let section = Section {
        mid,
        kind,
        payload_types: codecs.iter().map(|agreed| agreed.payload_type).collect(),
        extensions: ids,
        send: direction.send.then(|| upstream(offered, &codecs, rids.clone())),
        receive: slot,
    };
    (section, Verdict::Accepted(Accepted { mid, direction, codecs, extensions, rids, slot }))
}

fn upstream(offered: &section::Section<'_>, codecs: &[Agreed<'_>], rids: Vec<Rid>) -> Upstream {
    let has_rtx = codecs.iter().any(|agreed| agreed.rtx.is_some());
    let retransmissions = offered.ssrcs.retransmissions().filter(|_| has_rtx);
    let ssrcs = offered.ssrcs.media().chain(retransmissions).map(|(ssrc, _)| ssrc).collect();
    Upstream { content: offered.content, ssrcs, rids }
}

/// For each section of the offer the slot that it was before. Sections stay what and where they were (RFC 3264,
/// section 8); only the place of one that was rejected or stopped may go to another (RFC 8829, section 5.2.2).
fn kept_slots(
    offer: &Offer<'_>,
    previous: Option<&Description>,
) -> Result<Vec<Option<Downstream>>, OfferError> {
    let live = || {
        let sections = previous.iter().flat_map(|previous| &previous.sections);
        sections.filter(|section| !section.payload_types.is_empty())
    };
    let mut expected = live().peekable();
    let mut kept = Vec::with_capacity(offer.sections.len());
    for offered in &offer.sections {
        let before = expected.next_if(|before| name(offered) == Some((before.mid, before.kind)));
        if before.is_none() && live().any(|before| offered.mid == Some(before.mid)) {
            return Err(OfferError { line: offered.line, reason: Reason::SectionChanged });
        }
        kept.push(before.and_then(|before| before.receive));
    }
    if expected.next().is_some() {
        let line = offer.sections.last().map_or(1, |section| section.line);
        return Err(OfferError { line, reason: Reason::SectionsMissing });
    }
    Ok(kept)
}

/// SSRCs that no new slot may take.
fn used_ssrcs(offer: &Offer<'_>, kept: &[Option<Downstream>]) -> HashSet<u32> {
    let theirs = offer.sections.iter().flat_map(|section| section.ssrcs.all());
    let ours = kept.iter().flatten().flat_map(|slot| [Some(slot.ssrc), slot.rtx_ssrc]);
    theirs.chain(ours.flatten()).collect()
}

/// A source of SSRCs that are not used in this session.
struct Ssrcs<'a> {
    used: HashSet<u32>,
    draw: &'a mut dyn FnMut() -> u32,
}

impl Ssrcs<'_> {
    fn slot(&mut self, kept: Option<Downstream>, has_rtx: bool) -> Downstream {
        let ssrc = kept.map_or_else(|| self.next(), |slot| slot.ssrc);
        let kept_rtx = kept.and_then(|slot| slot.rtx_ssrc);
        let rtx_ssrc = has_rtx.then(|| kept_rtx.unwrap_or_else(|| self.next()));
        Downstream { ssrc, rtx_ssrc }
    }

    /// The next after what was drawn, zero excepted: ends at once, or after as many steps as SSRCs are used.
    fn next(&mut self) -> u32 {
        let mut ssrc = (self.draw)();
        while ssrc == 0 || !self.used.insert(ssrc) {
            ssrc = ssrc.wrapping_add(1);
        }
        ssrc
    }
}
