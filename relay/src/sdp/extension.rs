//! Header extensions (RFC 8285): which of those offered are agreed on.

use trunkline_relay_proto::media::{Extension, ExtensionIds};

use super::error::{OfferError, Reason};
use super::lines::Line;
use super::section::{Direction, Section};

/// One `a=extmap`.
#[derive(Clone, Copy)]
pub(super) struct Offered {
    pub(super) line: usize,
    /// The number in packets. Zero for one that cannot stand there: 15, or one of the range for tentative offers.
    pub(super) id: u8,
    /// What it is, when the relay knows it.
    pub(super) extension: Option<Extension>,
    direction: Direction,
}

impl Offered {
    /// From the attribute's value: `<number>[/<direction>] <URI> [<attributes>]`.
    pub(super) fn parse(line: &Line<'_>, value: &str) -> Result<Self, OfferError> {
        let malformed = || line.error(Reason::Extmap);
        let mut words = value.split_ascii_whitespace();
        let entry = words.next().ok_or_else(malformed)?;
        let uri = words.next().ok_or_else(malformed)?;
        let (id, direction) = match entry.split_once('/') {
            Some((id, name)) => (id, Direction::named(name).ok_or_else(malformed)?),
            None => (entry, Direction::BOTH),
        };
        let id: u16 = id.parse().ok().filter(|id| *id > 0).ok_or_else(malformed)?;
        let id = u8::try_from(id).ok().filter(|id| *id != 15).unwrap_or(0);
        let extension = Extension::ALL.into_iter().find(|extension| extension.uri() == uri);
        Ok(Self { line: line.number, id, extension, direction })
    }

    /// Whether it may stand in packets of all directions it is needed for. What is said of simulcast is only read.
    fn serves(&self, extension: Extension, media: Direction) -> bool {
        match extension {
            Extension::Rid | Extension::RepairedRid | Extension::LayersAllocation => {
                media.send && self.direction.send
            }
            _ => (self.direction.send || !media.send) && (self.direction.receive || !media.receive),
        }
    }
}

/// What is agreed on in a section with media in the given directions (the client's), in the order of the offer.
pub(super) fn agree(section: &Section<'_>, media: Direction) -> (ExtensionIds, Vec<(u8, Extension)>) {
    let mut ids = ExtensionIds::default();
    let mut agreed = Vec::new();
    for offered in &section.extensions {
        let Some(extension) = offered.extension else { continue };
        let is_new = ids.id(extension).is_none() && ids.extension(offered.id).is_none();
        if offered.id != 0 && is_new && offered.serves(extension, media) {
            ids.set(extension, offered.id);
            agreed.push((offered.id, extension));
        }
    }
    (ids, agreed)
}

/// The MID extension names the section of a packet before anything else is known about it, so its number has to be
/// the same in all sections and to mean nothing else in any (RFC 9143, section 9.2).
pub(super) fn check_mid<'a>(
    sections: impl Iterator<Item = &'a Section<'a>> + Clone,
) -> Result<(), OfferError> {
    let offered = || sections.clone().flat_map(|section| &section.extensions);
    let Some(mid) = offered().find(|offered| offered.extension == Some(Extension::Mid)) else {
        return Ok(());
    };
    let is_other = |offered: &&Offered| (offered.extension == Some(Extension::Mid)) != (offered.id == mid.id);
    match offered().find(is_other) {
        Some(other) if mid.id != 0 => Err(OfferError { line: other.line, reason: Reason::MidExtension }),
        _ => Ok(()),
    }
}
