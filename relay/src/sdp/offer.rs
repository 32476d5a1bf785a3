//! An offer: the session, and what has to hold for all of its media sections.

use std::collections::HashSet;
use std::fmt;

use trunkline_relay_proto::media::{IceCredentials, Mid, SECTIONS_MAX};

use super::OFFER_BYTES_MAX;
use super::error::{OfferError, Reason};
use super::extension;
use super::lines::{self, Line, lines};
use super::section::{Direction, Reader, Section, Transport};

/// An SDP offer (RFC 8866, RFC 3264, RFC 8829) that the relay can answer. It borrows the text.
pub struct Offer<'a> {
    /// Session id and version.
    pub(super) origin: (u64, u64),
    /// Whether there is a BUNDLE group: one section alone does without.
    pub(super) bundled: bool,
    pub(super) extmap_allow_mixed: bool,
    pub(super) ice: IceCredentials,
    pub(super) fingerprint: [u8; 32],
    pub(super) sections: Vec<Section<'a>>,
}

/// It holds credentials and names: none of it is printed.
impl fmt::Debug for Offer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Offer({} sections)", self.sections.len())
    }
}

/// What stands before the first media section.
struct Session<'a> {
    origin: Option<(u64, u64)>,
    /// The first BUNDLE group.
    bundle: Option<Vec<Mid>>,
    direction: Direction,
    extmap_allow_mixed: bool,
    transport: Transport<'a>,
}

impl<'a> Offer<'a> {
    /// The client's ICE credentials.
    #[must_use]
    pub fn ice(&self) -> &IceCredentials {
        &self.ice
    }

    /// Reads an offer, of [`OFFER_BYTES_MAX`] bytes and [`SECTIONS_MAX`] media sections at most.
    ///
    /// # Errors
    /// The line that makes it unusable for the relay, and why.
    pub fn parse(text: &'a str) -> Result<Self, OfferError> {
        if text.len() > OFFER_BYTES_MAX {
            return Err(OfferError { line: 1, reason: Reason::TooLong { bytes_max: OFFER_BYTES_MAX } });
        }
        let mut lines = lines(text);
        match lines.next().transpose()? {
            Some(line) if line.letter == b'v' && line.value == "0" => {}
            line => {
                return Err(OfferError { line: line.map_or(1, |line| line.number), reason: Reason::Version });
            }
        }
        let mut session = Session {
            origin: None,
            bundle: None,
            direction: Direction::BOTH,
            extmap_allow_mixed: false,
            transport: Transport::default(),
        };
        let mut sections: Vec<Section<'_>> = Vec::new();
        let mut current: Option<Reader<'_>> = None;
        for line in lines {
            let line = line?;
            match (line.letter, &mut current) {
                (b'm', _) => {
                    let reader = Reader::new(&line)?;
                    if let Some(read) = current.replace(reader) {
                        sections.push(read.finish(session.direction)?);
                    }
                    if sections.len() >= SECTIONS_MAX {
                        return Err(line.error(Reason::TooManySections { sections_max: SECTIONS_MAX }));
                    }
                }
                (b'a', Some(section)) => section.attribute(&line)?,
                (b'a', None) => session.attribute(&line)?,
                (b'o', _) => session.set_origin(&line)?,
                _ => {}
            }
        }
        if let Some(read) = current {
            sections.push(read.finish(session.direction)?);
        }
        Self::check(session, sections)
    }

    fn check(session: Session<'a>, sections: Vec<Section<'a>>) -> Result<Self, OfferError> {
        let origin = session.origin.ok_or(OfferError { line: 1, reason: Reason::Origin })?;
        check_names(&sections)?;
        let usable = || sections.iter().filter(|section| section.usable);
        let Some(first) = usable().next() else {
            let line = sections.first().map_or(1, |section| section.line);
            return Err(OfferError { line, reason: Reason::NothingUsable });
        };
        let bundled = session.bundle.is_some();
        for section in usable() {
            let error = |reason| Err(OfferError { line: section.line, reason });
            let is_bundled = match (&session.bundle, section.mid) {
                (Some(bundle), Some(mid)) => bundle.contains(&mid),
                // A section that has the transport for itself needs no group.
                _ => usable().nth(1).is_none(),
            };
            if !is_bundled {
                return error(Reason::NotBundled);
            }
            if !section.rtcp_mux {
                return error(Reason::NoRtcpMux);
            }
            if let Some((line, true)) = section.transport.setup.or(session.transport.setup) {
                return Err(OfferError { line, reason: Reason::Setup });
            }
        }
        let ice = ice(&session.transport, first, usable())?;
        let fingerprint = fingerprint(&session.transport, first, usable())?;
        extension::check_mid(usable())?;
        check_ssrcs(usable())?;
        let extmap_allow_mixed = session.extmap_allow_mixed;
        Ok(Self { origin, bundled, extmap_allow_mixed, ice, fingerprint, sections })
    }
}

impl<'a> Session<'a> {
    fn set_origin(&mut self, line: &Line<'_>) -> Result<(), OfferError> {
        let mut words = line.value.split_ascii_whitespace().skip(1);
        let mut number = || words.next()?.parse().ok();
        let origin = number().zip(number()).filter(|_| self.origin.is_none());
        self.origin = Some(origin.ok_or_else(|| line.error(Reason::Origin))?);
        Ok(())
    }

    fn attribute(&mut self, line: &Line<'a>) -> Result<(), OfferError> {
        let (name, value) = line.attribute();
        match name {
            "group" if self.bundle.is_none() => {
                let Some(names) = value.strip_prefix("BUNDLE") else { return Ok(()) };
                let mut bundle = Vec::new();
                for name in names.split_ascii_whitespace() {
                    if bundle.len() >= SECTIONS_MAX {
                        return Err(line.error(Reason::GroupTooLong));
                    }
                    bundle.push(lines::mid(name).ok_or_else(|| line.error(Reason::Mid))?);
                }
                self.bundle = Some(bundle);
            }
            "extmap-allow-mixed" => self.extmap_allow_mixed = true,
            "ice-lite" => return Err(line.error(Reason::IceLite)),
            _ => {
                if let Some(direction) = Direction::named(name) {
                    self.direction = direction;
                } else {
                    self.transport.take(line)?;
                }
            }
        }
        Ok(())
    }
}

fn check_names(sections: &[Section<'_>]) -> Result<(), OfferError> {
    let mut names = HashSet::with_capacity(sections.len());
    let again = sections.iter().find(|section| section.mid.is_some_and(|mid| !names.insert(mid)));
    again.map_or(Ok(()), |section| Err(OfferError { line: section.line, reason: Reason::SameMid }))
}

/// SSRCs tell what belongs to which source, so no two sections may send with one.
fn check_ssrcs<'a>(sections: impl Iterator<Item = &'a Section<'a>>) -> Result<(), OfferError> {
    let mut ssrcs = HashSet::new();
    // A section that sends nothing names an SSRC for its reports, which may be that of another.
    for section in sections.filter(|section| section.direction.send) {
        for (ssrc, line) in section.ssrcs.media().chain(section.ssrcs.retransmissions()) {
            if !ssrcs.insert(ssrc) {
                return Err(OfferError { line, reason: Reason::SameSsrc });
            }
        }
    }
    Ok(())
}

/// The one pair of credentials, of a section or of the session. Other sections repeat it or say nothing.
fn ice<'a>(
    session: &Transport<'_>,
    first: &Section<'_>,
    sections: impl Iterator<Item = &'a Section<'a>> + Clone,
) -> Result<IceCredentials, OfferError> {
    let missing = OfferError { line: first.line, reason: Reason::NoIce };
    let one = |of: for<'t> fn(&Transport<'t>) -> Option<(usize, &'t str)>| {
        let mut all = sections.clone().filter_map(|section| of(&section.transport));
        let (_, value) = all.next().or_else(|| of(session)).ok_or(missing)?;
        match all.find(|(_, other)| *other != value) {
            Some((line, _)) => Err(OfferError { line, reason: Reason::IceDiffers }),
            None => Ok(value.to_owned()),
        }
    };
    Ok(IceCredentials { ufrag: one(|transport| transport.ufrag)?, pwd: one(|transport| transport.pwd)? })
}

/// The one fingerprint, in the same way.
fn fingerprint<'a>(
    session: &Transport<'_>,
    first: &Section<'_>,
    sections: impl Iterator<Item = &'a Section<'a>> + Clone,
) -> Result<[u8; 32], OfferError> {
    let mut all = sections.clone().filter_map(|section| section.transport.fingerprint);
    let Some((_, fingerprint)) = all.next().or(session.fingerprint) else {
        let other = sections.clone().find_map(|section| section.transport.other_hash).or(session.other_hash);
        return Err(match other {
            Some(line) => OfferError { line, reason: Reason::FingerprintHash },
            None => OfferError { line: first.line, reason: Reason::NoFingerprint },
        });
    };
    match all.find(|(_, other)| *other != fingerprint) {
        Some((line, _)) => Err(OfferError { line, reason: Reason::FingerprintDiffers }),
        None => Ok(fingerprint),
    }
}
