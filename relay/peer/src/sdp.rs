//! Offers as a plain native client writes them, and what a client reads of an answer.

use std::fmt::Write;
use std::net::SocketAddr;
use std::time::Instant;

use thiserror::Error;
use trunkline_relay_proto::event::SourceName;
use trunkline_relay_proto::media::{Content, Downstream, IceCredentials, Kind, Mid};
use trunkline_relay_proto::path::Transport;

use crate::outgoing::Outgoing;
use crate::peer::{Peer, Remote};
use crate::section::{self, OPUS, PeerSection, VP8, VP8_RTX};
use crate::settings::Plan;

/// Why an answer cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AnswerError {
    /// No `a=ice-ufrag` or `a=ice-pwd`.
    #[error("the answer has no ICE credentials")]
    Ice,
    /// No `a=fingerprint:sha-256` of 32 bytes.
    #[error("the answer has no SHA-256 fingerprint")]
    Fingerprint,
    /// No UDP candidate, and no passive TCP candidate; or none of the kind that is wanted.
    #[error("the answer has no candidate that can be used")]
    Candidate,
}

/// What a peer reads of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The relay's credentials.
    pub ice: IceCredentials,
    /// SHA-256 of its certificate.
    pub fingerprint: [u8; 32],
    /// Where it is: UDP host candidates in the order given.
    pub candidates: Vec<SocketAddr>,
    /// Passive TCP candidates (RFC 6544, section 4.5) in the order given. TLS is spoken on the same ports.
    pub tcp_candidates: Vec<SocketAddr>,
    /// Slots by section.
    pub streams: Vec<(Mid, Downstream)>,
    /// Sections that were rejected.
    pub rejected: Vec<Mid>,
}

impl Answer {
    /// Reads an answer.
    ///
    /// # Errors
    /// When something is missing that nobody can connect without.
    pub fn read(text: &str) -> Result<Self, AnswerError> {
        let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim_end);
        let (ufrag, pwd) = value("a=ice-ufrag:").zip(value("a=ice-pwd:")).ok_or(AnswerError::Ice)?;
        let fingerprint = value("a=fingerprint:sha-256 ").and_then(read_fingerprint);
        let of = |wanted: &str| -> Vec<SocketAddr> {
            let all = text.lines().filter_map(read_candidate);
            all.filter(|(kind, _)| kind.eq_ignore_ascii_case(wanted)).map(|(_, address)| address).collect()
        };
        let (candidates, tcp_candidates) = (of("udp"), of("tcp"));
        if candidates.is_empty() && tcp_candidates.is_empty() {
            return Err(AnswerError::Candidate);
        }
        let mut answer = Self {
            ice: IceCredentials { ufrag: ufrag.to_owned(), pwd: pwd.to_owned() },
            fingerprint: fingerprint.ok_or(AnswerError::Fingerprint)?,
            candidates,
            tcp_candidates,
            streams: Vec::new(),
            rejected: Vec::new(),
        };
        let mut sections = text.split("\nm=");
        let _session = sections.next();
        sections.for_each(|section| answer.read_section(section));
        Ok(answer)
    }

    /// The first candidate that is reached so, if there is one.
    #[must_use]
    pub fn candidate(&self, transport: Transport) -> Option<SocketAddr> {
        let candidates = match transport {
            Transport::Udp => &self.candidates,
            Transport::Tcp | Transport::Tls => &self.tcp_candidates,
        };
        candidates.first().copied()
    }

    fn read_section(&mut self, section: &str) {
        let mut lines = section.lines().map(str::trim_end);
        let port = lines.next().and_then(|line| line.split(' ').nth(1));
        let find = |name: &str| section.lines().find_map(|line| line.strip_prefix(name)).map(str::trim_end);
        let Some(mid) = find("a=mid:").and_then(Mid::new) else { return };
        if port == Some("0") {
            self.rejected.push(mid);
            return;
        }
        let pair = find("a=ssrc-group:FID ").and_then(|pair| pair.split_once(' '));
        let pair = pair.and_then(|(ssrc, rtx)| Some((ssrc.parse().ok()?, rtx.parse().ok()?)));
        let single = find("a=ssrc:").and_then(|line| line.split(' ').next()?.parse().ok());
        let stream = match (pair, single) {
            (Some((ssrc, rtx)), _) => Some(Downstream { ssrc, rtx_ssrc: Some(rtx) }),
            (None, Some(ssrc)) => Some(Downstream { ssrc, rtx_ssrc: None }),
            (None, None) => None,
        };
        self.streams.extend(stream.map(|stream| (mid, stream)));
    }
}

impl Peer {
    /// An offer for a plan: sections that send, then those that receive, bundled, without candidates. Given again with
    /// another plan, it is a new offer as [`Peer::description`] says.
    pub fn offer(&mut self, plan: &Plan) -> String {
        self.plan(plan);
        self.offers += 1;
        let mut out = String::with_capacity(512 * (self.sections.len() + 1));
        // Writing to a String cannot fail.
        let _ = self.write_offer(&mut out);
        out
    }

    /// Takes an answer and begins to connect to its first UDP candidate, or does what it says anew.
    ///
    /// # Errors
    /// When it cannot be used.
    pub fn answer(&mut self, now: Instant, text: &str) -> Result<Answer, AnswerError> {
        self.answer_over(now, text, Transport::Udp)
    }

    /// The same with the first candidate of another kind. For TCP and TLS, the caller connects to
    /// [`Peer::remote_address`], and sends and receives datagrams as frames ([`crate::framed`]).
    ///
    /// # Errors
    /// When it cannot be used.
    pub fn answer_over(
        &mut self,
        now: Instant,
        text: &str,
        transport: Transport,
    ) -> Result<Answer, AnswerError> {
        let answer = Answer::read(text)?;
        let address = answer.candidate(transport).ok_or(AnswerError::Candidate)?;
        self.set_streams(&answer.streams);
        self.connect(now, Remote { ice: answer.ice.clone(), fingerprint: answer.fingerprint, address });
        Ok(answer)
    }

    fn write_offer(&self, out: &mut String) -> std::fmt::Result {
        write!(
            out,
            "v=0\r\no=- {} {} IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n",
            self.feedback_ssrc, self.offers
        )?;
        write!(out, "a=group:BUNDLE")?;
        for section in &self.sections {
            write!(out, " {}", section.mid.as_str())?;
        }
        write!(out, "\r\na=extmap-allow-mixed\r\na=msid-semantic: WMS *\r\n")?;
        write!(out, "a=ice-ufrag:{}\r\na=ice-pwd:{}\r\n", self.local.ufrag, self.local.pwd)?;
        write!(out, "a=ice-options:trickle ice2\r\na=fingerprint:sha-256 ")?;
        for (index, byte) in self.settings.dtls.fingerprint().iter().enumerate() {
            write!(out, "{}{byte:02X}", if index == 0 { "" } else { ":" })?;
        }
        write!(out, "\r\na=setup:actpass\r\n")?;
        let (names_ssrcs, adaptive) = (self.names_ssrcs, self.adaptation.is_some());
        self.sections.iter().try_for_each(|section| write_section(out, section, names_ssrcs, adaptive))
    }
}

fn write_section(
    out: &mut String,
    section: &PeerSection,
    names_ssrcs: bool,
    adaptive: bool,
) -> std::fmt::Result {
    match section.kind {
        Kind::Audio => write!(out, "m=audio 9 UDP/TLS/RTP/SAVPF {OPUS}\r\n")?,
        Kind::Video => write!(out, "m=video 9 UDP/TLS/RTP/SAVPF {VP8} {VP8_RTX}\r\n")?,
    }
    let direction = match (section.outgoing(), section.incoming()) {
        (Some(_), _) => "sendonly",
        (_, Some(_)) => "recvonly",
        _ => "inactive",
    };
    write!(out, "c=IN IP4 0.0.0.0\r\na=mid:{}\r\na={direction}\r\n", section.mid.as_str())?;
    write!(out, "a=rtcp-mux\r\na=rtcp-rsize\r\n")?;
    for (id, extension) in section.extensions(adaptive) {
        write!(out, "a=extmap:{id} {}\r\n", extension.uri())?;
    }
    match section.kind {
        Kind::Audio => {
            write!(out, "a=rtpmap:{OPUS} opus/48000/2\r\na=fmtp:{OPUS} minptime=10;useinbandfec=1\r\n")?;
        }
        Kind::Video => {
            write!(out, "a=rtpmap:{VP8} VP8/90000\r\na=rtcp-fb:{VP8} ccm fir\r\na=rtcp-fb:{VP8} nack\r\n")?;
            write!(out, "a=rtcp-fb:{VP8} nack pli\r\na=rtpmap:{VP8_RTX} rtx/90000\r\n")?;
            write!(out, "a=fmtp:{VP8_RTX} apt={VP8}\r\n")?;
        }
    }
    if adaptive {
        let number = section::payload_type(section.kind, adaptive).number;
        write!(out, "a=rtcp-fb:{number} transport-cc\r\n")?;
    }
    section.outgoing().map_or(Ok(()), |outgoing| write_streams(out, outgoing, names_ssrcs))
}

fn write_streams(out: &mut String, outgoing: &Outgoing, names_ssrcs: bool) -> std::fmt::Result {
    let source = outgoing.source();
    if section::content(source) == Content::Slides {
        write!(out, "a=content:slides\r\n")?;
    }
    let stream =
        if matches!(source, SourceName::Screen | SourceName::ScreenAudio) { "screen" } else { "main" };
    write!(out, "a=msid:{stream} {}\r\n", section::mid_of(source))?;
    let mut separator = "a=simulcast:send ";
    for rid in outgoing.rids() {
        write!(out, "{separator}{}", rid.as_str())?;
        separator = ";";
    }
    if separator == ";" {
        write!(out, "\r\n")?;
        return outgoing.rids().try_for_each(|rid| write!(out, "a=rid:{} send\r\n", rid.as_str()));
    }
    if !names_ssrcs {
        return Ok(());
    }
    if let Some(rtx) = outgoing.rtx_ssrc() {
        write!(out, "a=ssrc-group:FID {} {rtx}\r\n", outgoing.ssrc())?;
    }
    for ssrc in [Some(outgoing.ssrc()), outgoing.rtx_ssrc()].into_iter().flatten() {
        write!(out, "a=ssrc:{ssrc} cname:peer\r\n")?;
    }
    Ok(())
}

/// `AB:CD:…`, 32 bytes.
fn read_fingerprint(text: &str) -> Option<[u8; 32]> {
    let bytes: Option<Vec<u8>> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    bytes?.try_into().ok()
}

/// `a=candidate:<foundation> <component> <transport> <priority> <address> <port> typ …`: transport and address. Of TCP
/// candidates only those that take connections (`tcptype passive`).
fn read_candidate(line: &str) -> Option<(&str, SocketAddr)> {
    let mut words = line.strip_prefix("a=candidate:")?.split_ascii_whitespace().skip(2);
    let transport = words.next()?;
    let _priority = words.next()?;
    let address = SocketAddr::new(words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    if transport.eq_ignore_ascii_case("tcp") {
        words.by_ref().find(|word| *word == "tcptype")?;
        return (words.next()? == "passive").then_some((transport, address));
    }
    Some((transport, address))
}
