//! Codecs: which of the payload types offered are agreed on, and in which order.

use serde::{Deserialize, Serialize};
use trunkline_relay_proto::media::{Codec, Kind, PAYLOAD_TYPES_MAX, PayloadType};

use super::section::{Format, Section};

/// A codec by its name alone, for lists of preference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum CodecName {
    /// Opus.
    #[serde(rename = "opus")]
    Opus,
    /// Redundant audio of Opus.
    #[serde(rename = "red")]
    Red,
    /// VP8.
    #[serde(rename = "VP8")]
    Vp8,
    /// VP9, all profiles.
    #[serde(rename = "VP9")]
    Vp9,
    /// H.264, all profiles.
    H264,
    /// AV1, all profiles.
    #[serde(rename = "AV1")]
    Av1,
}

impl CodecName {
    /// The best first: what every client can decode comes before what saves bandwidth, and VP8 before H264 because its loss
    /// repair needs no parameter sets. Of sound it is the client's order that counts.
    pub const DEFAULT: [Self; 6] = [Self::Opus, Self::Red, Self::Vp8, Self::Vp9, Self::H264, Self::Av1];

    const fn of(codec: Codec) -> Self {
        match codec {
            Codec::Opus => Self::Opus,
            Codec::OpusRed => Self::Red,
            Codec::Vp8 => Self::Vp8,
            Codec::Vp9 { .. } => Self::Vp9,
            Codec::H264 { .. } => Self::H264,
            Codec::Av1 { .. } => Self::Av1,
        }
    }
}

/// A payload type that was agreed on, with the lines of the offer that the answer repeats.
pub(super) struct Agreed<'a> {
    pub(super) payload_type: PayloadType,
    pub(super) format: Format<'a>,
    pub(super) rtx: Option<Format<'a>>,
}

impl Agreed<'_> {
    /// Of the ways to tell how much a line carries at most one is agreed on: arrivals by transport-wide sequence
    /// number where packets have one, else an estimate of the whole. A second would only make answers longer.
    pub(super) const fn choose_estimate(&mut self, has_numbers: bool) {
        let transport_cc = self.payload_type.transport_cc && has_numbers;
        let remb = self.payload_type.remb && !transport_cc;
        (self.payload_type.transport_cc, self.payload_type.remb) = (transport_cc, remb);
        (self.format.feedback.transport_cc, self.format.feedback.remb) = (transport_cc, remb);
    }
}

/// What is agreed on in a section. Codecs that are not in `preference` are left out. Where the client sends, those it
/// should send come first: pictures by `preference`, then the profile that everybody has; sound in the order of the offer (RFC 3264,
/// section 6.1), since only the client knows whether everybody in the call takes redundancy.
pub(super) fn agree<'a>(section: &Section<'a>, preference: &[CodecName], sends: bool) -> Vec<Agreed<'a>> {
    let rank = |codec| preference.iter().position(|name| *name == CodecName::of(codec));
    let is_wanted = |codec: &Codec| Some(codec.kind()) == section.kind && rank(*codec).is_some();
    // By payload type: a codec of that number, and the format that retransmits it.
    let mut opus = [false; 128];
    let mut rtx: [Option<Format<'a>>; 128] = [None; 128];
    for format in &section.formats {
        if let Some(apt) = retransmits(format).and_then(|apt| rtx.get_mut(usize::from(apt))) {
            apt.get_or_insert(*format);
        } else if let Some(slot) = opus.get_mut(usize::from(format.number)) {
            *slot = identify(format) == Some(Codec::Opus);
        }
    }
    let is_opus = |number: u8| opus.get(usize::from(number)).copied().unwrap_or(false);
    let mut agreed: Vec<_> = section
        .formats
        .iter()
        .filter_map(|format| {
            let codec = identify(format).filter(is_wanted)?;
            if codec == Codec::OpusRed && !is_red_of(format, is_opus) {
                return None;
            }
            let rtx = rtx.get(usize::from(format.number)).copied().flatten();
            let payload_type = PayloadType {
                number: format.number,
                codec,
                rtx: rtx.map(|rtx| rtx.number),
                nack: format.feedback.nack,
                pli: format.feedback.pli,
                fir: format.feedback.fir,
                transport_cc: format.feedback.transport_cc,
                remb: format.feedback.remb,
                raw: format.raw,
            };
            Some(Agreed { payload_type, format: *format, rtx })
        })
        .collect();
    if sends {
        agreed.sort_by_key(|agreed| {
            let codec = agreed.payload_type.codec;
            let by_preference = codec.kind() == Kind::Video;
            (rank(codec).filter(|_| by_preference), !is_common(codec))
        });
    }
    agreed.truncate(PAYLOAD_TYPES_MAX);
    agreed
}

/// The profile of a codec that every client has which has the codec.
fn is_common(codec: Codec) -> bool {
    match codec {
        Codec::Vp9 { profile } | Codec::Av1 { profile } => profile == 0,
        Codec::H264 { profile, packetization_mode } => {
            profile == CONSTRAINED_BASELINE && packetization_mode == 1
        }
        Codec::Opus | Codec::OpusRed | Codec::Vp8 => true,
    }
}

/// What a format is, when the relay knows it. Names are not case sensitive (RFC 8866, section 6.6).
fn identify(format: &Format<'_>) -> Option<Codec> {
    let (name, clock) = format.rtpmap?.split_once('/')?;
    let is = |other: &str| name.eq_ignore_ascii_case(other);
    let fmtp = format.fmtp.unwrap_or_default();
    let profile = |name| match parameter(fmtp, name) {
        Some(value) => value.parse().ok(),
        None => Some(0),
    };
    let codec = if is("opus") {
        return (clock == "48000/2").then_some(Codec::Opus);
    } else if is("red") {
        return (clock == "48000/2").then_some(Codec::OpusRed);
    } else if is("VP8") {
        Codec::Vp8
    } else if is("VP9") {
        Codec::Vp9 { profile: profile("profile-id")? }
    } else if is("AV1") {
        Codec::Av1 { profile: profile("profile")? }
    } else if is("H264") {
        let packetization_mode = profile("packetization-mode").filter(|mode| *mode <= 1)?;
        Codec::H264 { profile: h264_profile(fmtp)?, packetization_mode }
    } else {
        return None;
    };
    (clock == "90000").then_some(codec)
}

/// The value of a parameter of `a=fmtp`.
fn parameter<'a>(fmtp: &'a str, name: &str) -> Option<&'a str> {
    let mut parameters = fmtp.split(';').filter_map(|parameter| parameter.split_once('='));
    let (_, value) = parameters.find(|(key, _)| key.trim().eq_ignore_ascii_case(name))?;
    Some(value.trim())
}

/// The payload type that a format retransmits (RFC 4588).
fn retransmits(format: &Format<'_>) -> Option<u8> {
    let (name, _) = format.rtpmap?.split_once('/')?;
    if !name.eq_ignore_ascii_case("rtx") {
        return None;
    }
    parameter(format.fmtp?, "apt")?.parse().ok()
}

/// Whether all that a RED packet holds is Opus: `<payload type>/<payload type>…`
fn is_red_of(format: &Format<'_>, is_opus: impl Fn(u8) -> bool) -> bool {
    let holds = |fmtp: &str| fmtp.split('/').all(|number| number.parse().is_ok_and(&is_opus));
    format.fmtp.is_some_and(holds)
}

const CONSTRAINED_BASELINE: u16 = 0x42e0;

/// Profile and constraints of `profile-level-id`, those that mean the same written the same way (RFC 6184, table 5).
fn h264_profile(fmtp: &str) -> Option<u16> {
    let Some(text) = parameter(fmtp, "profile-level-id") else {
        return Some(0x4200); // RFC 6184, section 8.1: Baseline
    };
    if text.len() != 6 || text.starts_with('+') {
        return None;
    }
    let [_, profile, constraints, _] = u32::from_str_radix(text, 16).ok()?.to_be_bytes();
    let constraints = match (profile, constraints) {
        (0x42, set) if set & 0x40 != 0 => return Some(CONSTRAINED_BASELINE),
        (0x4d, set) if set & 0x80 != 0 => return Some(CONSTRAINED_BASELINE),
        (0x58, set) if set & 0xc0 == 0xc0 => return Some(CONSTRAINED_BASELINE),
        // Baseline says that it is, or does not.
        (0x42, set) => set & 0x7f,
        (_, set) => set,
    };
    Some(u16::from_be_bytes([profile, constraints]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sdp::section::Feedback;

    fn format(rtpmap: &'static str, fmtp: &'static str) -> Format<'static> {
        let fmtp = Some(fmtp).filter(|fmtp| !fmtp.is_empty());
        Format { number: 96, rtpmap: Some(rtpmap), fmtp, feedback: Feedback::default(), raw: false }
    }

    fn identified(rtpmap: &'static str, fmtp: &'static str) -> Option<Codec> {
        identify(&format(rtpmap, fmtp))
    }

    #[test]
    fn codecs_are_known_by_name_clock_and_profile() {
        let h264 = |profile, packetization_mode| Some(Codec::H264 { profile, packetization_mode });
        for (rtpmap, fmtp, codec) in [
            ("opus/48000/2", "minptime=10;useinbandfec=1", Some(Codec::Opus)),
            ("OPUS/48000/2", "", Some(Codec::Opus)),
            ("opus/48000", "", None),
            ("red/48000/2", "111/111", Some(Codec::OpusRed)),
            ("red/90000", "", None),
            ("VP8/90000", "max-fs=12288;max-fr=60", Some(Codec::Vp8)),
            ("VP8/8000", "", None),
            ("VP9/90000", "", Some(Codec::Vp9 { profile: 0 })),
            ("VP9/90000", "profile-id=2", Some(Codec::Vp9 { profile: 2 })),
            ("VP9/90000", "profile-id=x", None),
            ("AV1/90000", "level-idx=5; profile=1; tier=0", Some(Codec::Av1 { profile: 1 })),
            ("H264/90000", "", h264(0x4200, 0)),
            ("H264/90000", "packetization-mode=1;profile-level-id=42001f", h264(0x4200, 1)),
            ("H264/90000", "profile-level-id=64001F;packetization-mode=1", h264(0x6400, 1)),
            ("H264/90000", "packetization-mode=2;profile-level-id=42001f", None),
            ("H264/90000", "profile-level-id=42001", None),
            ("H265/90000", "", None),
            ("telephone-event/8000", "", None),
            ("ulpfec/90000", "", None),
        ] {
            assert_eq!(identified(rtpmap, fmtp), codec, "{rtpmap} {fmtp}");
        }
    }

    #[test]
    fn constrained_baseline_is_one_profile_however_it_is_written() {
        for id in ["42e01f", "42c016", "42401f", "4d801f", "58c00d"] {
            let fmtp = format!("profile-level-id={id}");
            assert_eq!(h264_profile(&fmtp), Some(CONSTRAINED_BASELINE), "{id}");
        }
        assert_eq!(h264_profile("profile-level-id=42801f"), Some(0x4200));
        assert_eq!(h264_profile("profile-level-id=4d001f"), Some(0x4d00));
        assert_eq!(h264_profile("profile-level-id=640c1f"), Some(0x640c));
    }

    #[test]
    fn red_is_taken_only_of_opus() {
        for (fmtp, taken) in [("111/111", true), ("111", true), ("111/0", false), ("", false), ("x", false)] {
            assert_eq!(is_red_of(&format("red/48000/2", fmtp), |number| number == 111), taken, "{fmtp}");
        }
    }
}
