//! One media section of an offer, as it was written.

use trunkline_relay_proto::media::{Content, Kind, Mid};

use super::error::{OfferError, Reason};
use super::extension::Offered;
use super::lines::{self, Line};
use super::simulcast::Simulcast;
use super::{EXTENSIONS_MAX, SSRCS_MAX};

/// Which way media flows, from the client's point of view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Direction {
    pub(super) send: bool,
    pub(super) receive: bool,
}

impl Direction {
    pub(super) const BOTH: Self = Self { send: true, receive: true };

    /// The attribute of that name (RFC 8866, section 6.7).
    pub(super) fn named(name: &str) -> Option<Self> {
        match name {
            "sendrecv" => Some(Self::BOTH),
            "sendonly" => Some(Self { send: true, receive: false }),
            "recvonly" => Some(Self { send: false, receive: true }),
            "inactive" => Some(Self { send: false, receive: false }),
            _ => None,
        }
    }

    /// The attribute's name.
    pub(super) const fn name(self) -> &'static str {
        match (self.send, self.receive) {
            (true, true) => "sendrecv",
            (true, false) => "sendonly",
            (false, true) => "recvonly",
            (false, false) => "inactive",
        }
    }

    /// The same, from the other side.
    pub(super) const fn mirrored(self) -> Self {
        Self { send: self.receive, receive: self.send }
    }
}

/// What belongs to the transport. It stands in the session, in sections, or in both.
#[derive(Clone, Copy, Default)]
pub(super) struct Transport<'a> {
    pub(super) ufrag: Option<(usize, &'a str)>,
    pub(super) pwd: Option<(usize, &'a str)>,
    pub(super) fingerprint: Option<(usize, [u8; 32])>,
    /// The line of a fingerprint of another hash function.
    pub(super) other_hash: Option<usize>,
    /// `a=setup`, and whether it makes the client wait for us.
    pub(super) setup: Option<(usize, bool)>,
}

impl<'a> Transport<'a> {
    /// Takes an attribute, when it is one of the transport's.
    pub(super) fn take(&mut self, line: &Line<'a>) -> Result<bool, OfferError> {
        let (name, value) = line.attribute();
        match name {
            "ice-ufrag" => {
                if !lines::is_ice_ufrag(value) {
                    return Err(line.error(Reason::IceUfrag));
                }
                self.ufrag = Some((line.number, value));
            }
            "ice-pwd" => {
                if !lines::is_ice_pwd(value) {
                    return Err(line.error(Reason::IcePwd));
                }
                self.pwd = Some((line.number, value));
            }
            "fingerprint" => self.take_fingerprint(line, value)?,
            "setup" => self.setup = Some((line.number, !matches!(value, "actpass" | "active"))),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn take_fingerprint(&mut self, line: &Line<'a>, value: &str) -> Result<(), OfferError> {
        let (hash, bytes) = value.split_once(' ').ok_or_else(|| line.error(Reason::Fingerprint))?;
        if !hash.eq_ignore_ascii_case("sha-256") {
            self.other_hash = Some(line.number);
            return Ok(());
        }
        let fingerprint =
            lines::fingerprint(bytes.trim_start()).ok_or_else(|| line.error(Reason::Fingerprint))?;
        if self.fingerprint.is_some_and(|(_, known)| known != fingerprint) {
            return Err(line.error(Reason::FingerprintDiffers));
        }
        self.fingerprint = Some((line.number, fingerprint));
        Ok(())
    }
}

/// One payload type with all that was said about it.
#[derive(Clone, Copy)]
pub(super) struct Format<'a> {
    pub(super) number: u8,
    /// `<codec>/<clock rate>[/<channels>]`
    pub(super) rtpmap: Option<&'a str>,
    pub(super) fmtp: Option<&'a str>,
    pub(super) feedback: Feedback,
    pub(super) raw: bool,
}

/// The kinds of feedback (RFC 4585, RFC 5104) that the relay gives and takes.
#[derive(Clone, Copy, Default)]
pub(super) struct Feedback {
    pub(super) nack: bool,
    pub(super) pli: bool,
    pub(super) fir: bool,
    pub(super) transport_cc: bool,
    pub(super) remb: bool,
}

impl Feedback {
    fn take(&mut self, text: &str) {
        match text {
            "nack" => self.nack = true,
            "nack pli" => self.pli = true,
            "ccm fir" => self.fir = true,
            "transport-cc" => self.transport_cc = true,
            "goog-remb" => self.remb = true,
            _ => {}
        }
    }

    const fn or(self, other: Self) -> Self {
        Self {
            nack: self.nack || other.nack,
            pli: self.pli || other.pli,
            fir: self.fir || other.fir,
            transport_cc: self.transport_cc || other.transport_cc,
            remb: self.remb || other.remb,
        }
    }
}

/// The SSRCs a section names.
#[derive(Default)]
pub(super) struct Ssrcs {
    /// All, in the order they are named, and the line of each.
    named: Vec<(u32, usize)>,
    /// Pairs of media and retransmission (RFC 5576, RFC 4588).
    repaired: Vec<(u32, u32)>,
    /// Of forward error correction, which is never agreed on.
    correcting: Vec<u32>,
}

impl Ssrcs {
    /// All of them.
    pub(super) fn all(&self) -> impl Iterator<Item = u32> {
        self.named.iter().map(|(ssrc, _)| *ssrc)
    }

    /// Those of media with the line that names each, in order.
    pub(super) fn media(&self) -> impl Iterator<Item = (u32, usize)> {
        self.named.iter().copied().filter(|(ssrc, _)| {
            !self.correcting.contains(ssrc) && !self.repaired.iter().any(|(_, repair)| repair == ssrc)
        })
    }

    /// Those of their retransmissions, in the same order.
    pub(super) fn retransmissions(&self) -> impl Iterator<Item = (u32, usize)> {
        self.media().filter_map(|(ssrc, _)| {
            let (_, repair) = self.repaired.iter().find(|(media, _)| *media == ssrc)?;
            self.named.iter().copied().find(|(named, _)| named == repair)
        })
    }

    fn name(&mut self, line: &Line<'_>, ssrc: u32) -> Result<(), OfferError> {
        // The lines about one SSRC stand together, so this mostly looks at the last.
        if self.named.iter().rev().any(|(known, _)| *known == ssrc) {
            return Ok(());
        }
        if self.named.len() >= SSRCS_MAX {
            return Err(line.error(Reason::TooManySsrcs { ssrcs_max: SSRCS_MAX }));
        }
        self.named.push((ssrc, line.number));
        Ok(())
    }

    fn take(&mut self, line: &Line<'_>, value: &str) -> Result<(), OfferError> {
        let ssrc = value.split(' ').next().and_then(|ssrc| ssrc.parse().ok());
        self.name(line, ssrc.ok_or_else(|| line.error(Reason::Ssrc))?)
    }

    fn take_group(&mut self, line: &Line<'_>, value: &str) -> Result<(), OfferError> {
        let mut words = value.split_ascii_whitespace();
        let semantics = words.next();
        let mut members = [0; 2];
        let mut count = 0_usize;
        for word in words {
            let ssrc: u32 = word.parse().map_err(|_| line.error(Reason::SsrcGroup))?;
            self.name(line, ssrc)?;
            if let Some(member) = members.get_mut(count) {
                *member = ssrc;
            }
            count = count.saturating_add(1);
        }
        let [media, other] = members;
        match semantics {
            Some("FID") if count == 2 && self.repaired.len() < SSRCS_MAX => {
                self.repaired.push((media, other))
            }
            Some("FEC" | "FEC-FR") if count == 2 && self.correcting.len() < SSRCS_MAX => {
                self.correcting.push(other);
            }
            _ => {}
        }
        Ok(())
    }
}

/// One media section.
pub(super) struct Section<'a> {
    /// The line of its `m=`.
    pub(super) line: usize,
    /// The media, as written.
    pub(super) media: &'a str,
    /// What it carries, when it is something we know.
    pub(super) kind: Option<Kind>,
    /// The protocol, as written.
    pub(super) protocol: &'a str,
    /// The first format, as written.
    pub(super) format: &'a str,
    /// Its name. Audio and video have one.
    pub(super) mid: Option<Mid>,
    /// Audio or video over DTLS-SRTP, and not stopped.
    pub(super) usable: bool,
    pub(super) direction: Direction,
    pub(super) content: Content,
    pub(super) transport: Transport<'a>,
    pub(super) rtcp_mux: bool,
    pub(super) reduced_size_rtcp: bool,
    pub(super) extmap_allow_mixed: bool,
    pub(super) formats: Vec<Format<'a>>,
    pub(super) extensions: Vec<Offered>,
    pub(super) ssrcs: Ssrcs,
    pub(super) simulcast: Simulcast<'a>,
}

/// A section that is being read.
pub(super) struct Reader<'a> {
    section: Section<'a>,
    port: u16,
    bundle_only: bool,
    /// Payload type number to index in `formats`, plus one.
    index: [u8; 128],
    /// `a=rtcp-fb:*`
    feedback_of_all: Feedback,
    direction: Option<Direction>,
}

/// Protocols of RFC 8829, section 5.1.2: what old clients call DTLS-SRTP, too.
fn is_dtls_srtp(protocol: &str) -> bool {
    matches!(
        protocol,
        "UDP/TLS/RTP/SAVPF"
            | "UDP/TLS/RTP/SAVP"
            | "TCP/DTLS/RTP/SAVPF"
            | "TCP/DTLS/RTP/SAVP"
            | "RTP/SAVPF"
            | "RTP/SAVP"
            | "RTP/AVPF"
            | "RTP/AVP"
    )
}

impl<'a> Reader<'a> {
    /// Begins with `m=`.
    pub(super) fn new(line: &Line<'a>) -> Result<Self, OfferError> {
        let malformed = || line.error(Reason::MediaLine);
        let mut words = line.value.split_ascii_whitespace();
        let media = words.next().ok_or_else(malformed)?;
        let port = words.next().ok_or_else(malformed)?;
        let port = port.split('/').next().and_then(|port| port.parse().ok()).ok_or_else(malformed)?;
        let protocol = words.next().ok_or_else(malformed)?;
        let format = words.clone().next().ok_or_else(malformed)?;
        let kind = match media {
            "audio" => Some(Kind::Audio),
            "video" => Some(Kind::Video),
            _ => None,
        };
        let usable = kind.is_some() && is_dtls_srtp(protocol);
        let section = Section {
            line: line.number,
            media,
            kind,
            protocol,
            format,
            mid: None,
            usable,
            direction: Direction::BOTH,
            content: Content::Main,
            transport: Transport::default(),
            rtcp_mux: false,
            reduced_size_rtcp: false,
            extmap_allow_mixed: false,
            formats: Vec::new(),
            extensions: Vec::new(),
            ssrcs: Ssrcs::default(),
            simulcast: Simulcast::default(),
        };
        let mut reader = Self {
            section,
            port,
            bundle_only: false,
            index: [0; 128],
            feedback_of_all: Feedback::default(),
            direction: None,
        };
        if usable {
            for word in words {
                reader.add_format(line, word)?;
            }
        }
        Ok(reader)
    }

    fn add_format(&mut self, line: &Line<'a>, word: &str) -> Result<(), OfferError> {
        let number: u8 = word.parse().map_err(|_| line.error(Reason::PayloadType))?;
        let index = self.index.get_mut(usize::from(number)).ok_or_else(|| line.error(Reason::PayloadType))?;
        if *index == 0 {
            let format =
                Format { number, rtpmap: None, fmtp: None, feedback: Feedback::default(), raw: false };
            self.section.formats.push(format);
            *index = u8::try_from(self.section.formats.len()).unwrap_or(0);
        }
        Ok(())
    }

    /// The format with the payload type that `value` begins with, and the rest of it. None when the section does
    /// not offer it.
    fn format(&mut self, value: &'a str) -> Option<(&mut Format<'a>, &'a str)> {
        let (number, rest) = value.split_once(' ')?;
        let number: u8 = number.parse().ok()?;
        let index = self.index.get(usize::from(number))?.checked_sub(1)?;
        Some((self.section.formats.get_mut(usize::from(index))?, rest.trim_start()))
    }

    /// An attribute of the section.
    pub(super) fn attribute(&mut self, line: &Line<'a>) -> Result<(), OfferError> {
        let (name, value) = line.attribute();
        let section = &mut self.section;
        match name {
            "mid" => section.mid = Some(lines::mid(value).ok_or_else(|| line.error(Reason::Mid))?),
            "bundle-only" => self.bundle_only = true,
            // What follows matters only where media can flow.
            _ if !section.usable => {}
            "rtcp-mux" | "rtcp-mux-only" => section.rtcp_mux = true,
            "rtcp-rsize" => section.reduced_size_rtcp = true,
            "extmap-allow-mixed" => section.extmap_allow_mixed = true,
            "content" => {
                if value.split(',').any(|content| content == "slides") {
                    section.content = Content::Slides;
                }
            }
            "extmap" => {
                let extension = Offered::parse(line, value)?;
                if section.extensions.len() >= EXTENSIONS_MAX {
                    return Err(line.error(Reason::TooManyExtensions { extensions_max: EXTENSIONS_MAX }));
                }
                section.extensions.push(extension);
            }
            "rid" => section.simulcast.take_rid(value),
            "simulcast" => section.simulcast.take(value),
            "ssrc" => section.ssrcs.take(line, value)?,
            "ssrc-group" => section.ssrcs.take_group(line, value)?,
            "rtpmap" => {
                if !value.contains('/') || !value.contains(' ') {
                    return Err(line.error(Reason::Rtpmap));
                }
                if let Some((format, rest)) = self.format(value) {
                    format.rtpmap = Some(rest);
                }
            }
            "fmtp" => {
                if let Some((format, rest)) = self.format(value) {
                    format.fmtp = Some(rest);
                }
            }
            "rtcp-fb" => {
                if let Some(feedback) = value.strip_prefix("* ") {
                    self.feedback_of_all.take(feedback);
                } else if let Some((format, rest)) = self.format(value) {
                    format.feedback.take(rest);
                }
            }
            "packetization" => {
                if let Some((format, "raw")) = self.format(value) {
                    format.raw = true;
                }
            }
            _ => {
                if let Some(direction) = Direction::named(name) {
                    self.direction = Some(direction);
                } else {
                    section.transport.take(line)?;
                }
            }
        }
        Ok(())
    }

    /// The whole section. `direction` is the session's.
    pub(super) fn finish(self, direction: Direction) -> Result<Section<'a>, OfferError> {
        let mut section = self.section;
        if section.kind.is_some() && section.mid.is_none() {
            return Err(OfferError { line: section.line, reason: Reason::NoMid });
        }
        section.usable = section.usable && (self.port != 0 || self.bundle_only);
        section.direction = self.direction.unwrap_or(direction);
        for format in &mut section.formats {
            format.feedback = format.feedback.or(self.feedback_of_all);
        }
        Ok(section)
    }
}
