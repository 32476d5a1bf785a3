//! The answer as text. Only what a client needs is written: an answer is sent with every join.

use std::fmt::Write;
use std::net::SocketAddr;

use trunkline_relay_proto::event::Role;
use trunkline_relay_proto::media::{Downstream, Extension, IceCredentials, Mid, Rid};

use super::CNAME;
use super::codec::{Agreed, CodecName};
use super::offer::Offer;
use super::section::{Direction, Feedback, Format, Section};

/// The relay's side of a description.
#[derive(Clone, Copy)]
pub struct Local<'a> {
    /// Credentials of this participant's side of the relay.
    pub ice: &'a IceCredentials,
    /// SHA-256 of the certificate that the relay shows.
    pub fingerprint: &'a [u8; 32],
    /// Where the relay can be reached, the best first.
    pub candidates: &'a [Candidate],
    /// A viewer's sections are answered without receiving in them.
    pub role: Role,
    /// Codecs that are taken, the best first. [`CodecName::DEFAULT`] unless the operator chose.
    pub codecs: &'a [CodecName],
}

/// An address where the relay can be reached: a host candidate (RFC 8445).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Address and port.
    pub address: SocketAddr,
    /// How.
    pub transport: Transport,
}

/// How a candidate is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// UDP.
    Udp,
    /// TCP that the client opens (RFC 6544).
    TcpPassive,
}

/// How a section is answered.
pub(super) enum Verdict<'a> {
    Rejected,
    Accepted(Accepted<'a>),
}

/// An accepted section.
pub(super) struct Accepted<'a> {
    pub(super) mid: Mid,
    /// The client's.
    pub(super) direction: Direction,
    pub(super) codecs: Vec<Agreed<'a>>,
    pub(super) extensions: Vec<(u8, Extension)>,
    /// Encodings of simulcast.
    pub(super) rids: Vec<Rid>,
    pub(super) slot: Option<Downstream>,
}

/// Writes to a `String`, which cannot fail.
macro_rules! line {
    ($out:expr, $($format:tt)*) => {{
        let _ = write!($out, $($format)*);
        $out.push_str("\r\n");
    }};
}

/// The whole answer.
pub(super) fn text(
    offer: &Offer<'_>,
    verdicts: &[Verdict<'_>],
    extmap_allow_mixed: bool,
    local: &Local<'_>,
) -> String {
    let mut out = String::with_capacity(TEXT_BYTES_EXPECTED_PER_SECTION.saturating_mul(verdicts.len()));
    let (id, version) = offer.origin;
    line!(out, "v=0");
    // The offer's numbers are as unique, and count as RFC 3264 asks, without the relay keeping any.
    line!(out, "o=trunkline {id} {version} IN IP4 0.0.0.0");
    line!(out, "s=-");
    line!(out, "t=0 0");
    let accepted = || {
        verdicts.iter().filter_map(|verdict| match verdict {
            Verdict::Accepted(accepted) => Some(accepted.mid),
            Verdict::Rejected => None,
        })
    };
    if offer.bundled {
        write_group(&mut out, accepted());
    }
    if extmap_allow_mixed && offer.extmap_allow_mixed {
        line!(out, "a=extmap-allow-mixed");
    }
    line!(out, "a=msid-semantic: WMS *");
    write_ice_session(&mut out);
    write_credentials(&mut out, local.ice);
    write_fingerprint(&mut out, local.fingerprint);
    line!(out, "a=setup:passive");
    let first = accepted().next();
    for (section, verdict) in offer.sections.iter().zip(verdicts) {
        match verdict {
            Verdict::Rejected => write_rejected(&mut out, section),
            Verdict::Accepted(accepted) => {
                write_section(&mut out, section, accepted);
                if extmap_allow_mixed && !offer.extmap_allow_mixed {
                    line!(out, "a=extmap-allow-mixed");
                }
                if Some(accepted.mid) == first {
                    write_candidates(&mut out, local.candidates);
                }
            }
        }
    }
    out
}

/// An answer has less than 4 KiB per video section of a browser; a worse guess costs a reallocation.
const TEXT_BYTES_EXPECTED_PER_SECTION: usize = 3072;

/// What a fragment and an answer say of the relay's ICE agent (RFC 8839, RFC 8840).
pub(super) fn write_ice_session(out: &mut String) {
    line!(out, "a=ice-lite");
    line!(out, "a=ice-options:trickle ice2");
}

/// `a=group:BUNDLE`
pub(super) fn write_group(out: &mut String, mids: impl Iterator<Item = Mid>) {
    out.push_str("a=group:BUNDLE");
    for mid in mids {
        let _ = write!(out, " {}", mid.as_str());
    }
    out.push_str("\r\n");
}

/// User name and password.
pub(super) fn write_credentials(out: &mut String, ice: &IceCredentials) {
    line!(out, "a=ice-ufrag:{}", ice.ufrag);
    line!(out, "a=ice-pwd:{}", ice.pwd);
}

/// All candidates, and that there are no more. Preferences fall in the order given; UDP comes before TCP.
pub(super) fn write_candidates(out: &mut String, candidates: &[Candidate]) {
    for (candidate, index) in candidates.iter().zip(0_u32..) {
        let (name, type_preference, kind) = match candidate.transport {
            Transport::Udp => ("udp", 126_u32, ""),
            Transport::TcpPassive => ("tcp", 90, " tcptype passive"),
        };
        // RFC 8445, section 5.1.2.1; the component is 1.
        let local_preference = 65_535_u32.saturating_sub(index);
        let priority = (type_preference << 24) | (local_preference << 8) | 255;
        let (ip, port) = (candidate.address.ip().to_canonical(), candidate.address.port());
        let foundation = index.saturating_add(1);
        line!(out, "a=candidate:{foundation} 1 {name} {priority} {ip} {port} typ host{kind}");
    }
    line!(out, "a=end-of-candidates");
}

fn write_fingerprint(out: &mut String, fingerprint: &[u8; 32]) {
    out.push_str("a=fingerprint:sha-256 ");
    for (index, byte) in fingerprint.iter().enumerate() {
        let colon = if index == 0 { "" } else { ":" };
        let _ = write!(out, "{colon}{byte:02X}");
    }
    out.push_str("\r\n");
}

fn write_rejected(out: &mut String, section: &Section<'_>) {
    line!(out, "m={} 0 {} {}", section.media, section.protocol, section.format);
    line!(out, "c=IN IP4 0.0.0.0");
    if let Some(mid) = section.mid {
        line!(out, "a=mid:{}", mid.as_str());
    }
    line!(out, "a=inactive");
}

fn write_section(out: &mut String, section: &Section<'_>, accepted: &Accepted<'_>) {
    let mid = accepted.mid.as_str();
    let _ = write!(out, "m={} 9 {}", section.media, section.protocol);
    for agreed in &accepted.codecs {
        let _ = write!(out, " {}", agreed.format.number);
        if let Some(rtx) = &agreed.rtx {
            let _ = write!(out, " {}", rtx.number);
        }
    }
    line!(out, "\r\nc=IN IP4 0.0.0.0");
    line!(out, "a=mid:{mid}");
    // The session says so too, but some clients look only here.
    line!(out, "a=setup:passive");
    line!(out, "a={}", accepted.direction.mirrored().name());
    line!(out, "a=rtcp-mux");
    if section.reduced_size_rtcp {
        line!(out, "a=rtcp-rsize");
    }
    for (id, extension) in &accepted.extensions {
        line!(out, "a=extmap:{id} {}", extension.uri());
    }
    for agreed in &accepted.codecs {
        write_format(out, &agreed.format);
        if let Some(rtx) = &agreed.rtx {
            write_format(out, &Format { feedback: Feedback::default(), raw: false, ..*rtx });
        }
    }
    write_simulcast(out, &accepted.rids);
    if let Some(slot) = accepted.slot {
        line!(out, "a=msid:slot-{mid} track-{mid}");
        if let Some(rtx) = slot.rtx_ssrc {
            line!(out, "a=ssrc-group:FID {} {rtx}", slot.ssrc);
        }
        for ssrc in [Some(slot.ssrc), slot.rtx_ssrc].into_iter().flatten() {
            line!(out, "a=ssrc:{ssrc} cname:{CNAME}");
        }
    }
}

/// The encodings that are received, in the order of the offer. The relay asks for no restrictions.
fn write_simulcast(out: &mut String, rids: &[Rid]) {
    for rid in rids {
        line!(out, "a=rid:{} recv", rid.as_str());
    }
    if rids.is_empty() {
        return;
    }
    out.push_str("a=simulcast:recv ");
    for (index, rid) in rids.iter().enumerate() {
        let semicolon = if index == 0 { "" } else { ";" };
        let _ = write!(out, "{semicolon}{}", rid.as_str());
    }
    out.push_str("\r\n");
}

fn write_format(out: &mut String, format: &Format<'_>) {
    let number = format.number;
    if let Some(rtpmap) = format.rtpmap {
        line!(out, "a=rtpmap:{number} {rtpmap}");
    }
    if let Some(fmtp) = format.fmtp {
        line!(out, "a=fmtp:{number} {fmtp}");
    }
    let Feedback { nack, pli, fir, transport_cc, remb } = format.feedback;
    let names = [
        (nack, "nack"),
        (pli, "nack pli"),
        (fir, "ccm fir"),
        (transport_cc, "transport-cc"),
        (remb, "goog-remb"),
    ];
    for (agreed, name) in names {
        if agreed {
            line!(out, "a=rtcp-fb:{number} {name}");
        }
    }
    if format.raw {
        line!(out, "a=packetization:{number} raw");
    }
}
