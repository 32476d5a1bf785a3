//! What is wrong with an offer, where, and what to do about it.

use thiserror::Error;

/// Why an offer or a fragment cannot be used: the line, counted from 1, and the reason. Its text is a sentence for the
/// client's developer, and quotes nothing of the offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("line {line}: {reason}")]
pub struct OfferError {
    /// The line, counted from 1. Where something is missing, the line of the section it is missing in.
    pub line: usize,
    /// What is wrong with it.
    pub reason: Reason,
}

/// What can be wrong with a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Reason {
    /// Larger than [`OFFER_BYTES_MAX`](super::OFFER_BYTES_MAX) or
    /// [`FRAGMENT_BYTES_MAX`](super::FRAGMENT_BYTES_MAX).
    #[error("the description is longer than {bytes_max} bytes; send fewer media sections or codecs")]
    TooLong {
        /// The limit.
        bytes_max: usize,
    },
    /// More than [`SECTIONS_MAX`](trunkline_relay_proto::media::SECTIONS_MAX) media sections.
    #[error("more than {sections_max} media sections; offer fewer")]
    TooManySections {
        /// The limit.
        sections_max: usize,
    },
    /// Not `<letter>=<value>`.
    #[error("this is no SDP line; write a letter, `=` and a value")]
    NotALine,
    /// A character below U+0020, or U+007F.
    #[error("the line holds a control character; end lines with CR LF, and encode anything else")]
    ControlCharacter,
    /// The first line is not `v=0`.
    #[error("a description begins with `v=0`; send the SDP text of an offer, and nothing else")]
    Version,
    /// Missing or malformed `o=`.
    #[error(
        "expected `o=<user> <session id> <version> IN IP4 <address>` with decimal numbers, once, before the media sections"
    )]
    Origin,
    /// No media section, or none that can be accepted.
    #[error(
        "no media section can be used; offer at least one audio or video section with Opus, VP8, VP9, H264 or AV1"
    )]
    NothingUsable,
    /// Malformed `m=`.
    #[error("expected `m=<media> <port> <protocol> <format> …` with a port of 0 to 65535")]
    MediaLine,
    /// A payload type that is none.
    #[error("payload types are numbers from 0 to 127")]
    PayloadType,
    /// No `a=mid`.
    #[error("the media section has no name; give every section an `a=mid` of its own")]
    NoMid,
    /// An `a=mid`, or a name in a group, that is none.
    #[error("the name of a media section is 1 to 16 characters of a token (RFC 8866)")]
    Mid,
    /// Two sections of the same name.
    #[error("another media section has the same `a=mid`; give every section its own")]
    SameMid,
    /// Not in the first BUNDLE group.
    #[error(
        "the media section is not in the BUNDLE group; put all sections into one `a=group:BUNDLE` (bundlePolicy max-bundle)"
    )]
    NotBundled,
    /// A BUNDLE group of more names than a description may have sections.
    #[error("the BUNDLE group names more media sections than an offer may have")]
    GroupTooLong,
    /// No `a=rtcp-mux`.
    #[error("RTP and RTCP share one port here; offer `a=rtcp-mux` in this section")]
    NoRtcpMux,
    /// No `a=ice-ufrag` or `a=ice-pwd`.
    #[error("ICE credentials are missing; offer `a=ice-ufrag` and `a=ice-pwd`")]
    NoIce,
    /// Of another length or other characters than RFC 8839 allows.
    #[error("`a=ice-ufrag` has 4 to 256 characters, out of letters, digits, `+` and `/` (RFC 8839)")]
    IceUfrag,
    /// Of another length or other characters than RFC 8839 allows.
    #[error("`a=ice-pwd` has 22 to 256 characters, out of letters, digits, `+` and `/` (RFC 8839)")]
    IcePwd,
    /// Other than in an earlier section.
    #[error(
        "the ICE credentials differ from those before; bundled sections share one transport and its credentials"
    )]
    IceDiffers,
    /// The client is ICE-lite.
    #[error("the relay is ICE-lite and waits to be checked; offer a full ICE agent, without `a=ice-lite`")]
    IceLite,
    /// No `a=fingerprint`.
    #[error("the certificate's fingerprint is missing; offer `a=fingerprint:sha-256 …`")]
    NoFingerprint,
    /// Only fingerprints of other hash functions.
    #[error(
        "only SHA-256 fingerprints are compared; offer `a=fingerprint:sha-256 …`, alone or beside this one"
    )]
    FingerprintHash,
    /// Malformed.
    #[error("expected `a=fingerprint:sha-256` and 32 bytes in hexadecimal with colons between them")]
    Fingerprint,
    /// Other than an earlier one.
    #[error("the fingerprint differs from the one before; bundled sections share one certificate")]
    FingerprintDiffers,
    /// Neither `actpass` nor `active`.
    #[error("the relay waits for the DTLS handshake; offer `a=setup:actpass` or `a=setup:active`")]
    Setup,
    /// Malformed `a=extmap`.
    #[error("expected `a=extmap:<number>[/<direction>] <URI>` with a number from 1 on")]
    Extmap,
    /// More `a=extmap` than [`EXTENSIONS_MAX`](super::EXTENSIONS_MAX).
    #[error("more than {extensions_max} header extensions in one media section; offer fewer")]
    TooManyExtensions {
        /// The limit.
        extensions_max: usize,
    },
    /// The MID extension's number is not the same everywhere.
    #[error(
        "the header extension number of `…:sdes:mid` differs between sections; bundled sections use one number for it"
    )]
    MidExtension,
    /// Malformed `a=rtpmap`.
    #[error("expected `a=rtpmap:<payload type> <codec>/<clock rate>`")]
    Rtpmap,
    /// Malformed `a=ssrc`.
    #[error("expected `a=ssrc:<number> …` with a number of 32 bits")]
    Ssrc,
    /// Malformed `a=ssrc-group`.
    #[error("expected `a=ssrc-group:<semantics> <number> …` with numbers of 32 bits")]
    SsrcGroup,
    /// More than [`SSRCS_MAX`](super::SSRCS_MAX).
    #[error("more than {ssrcs_max} SSRCs in one media section; offer fewer")]
    TooManySsrcs {
        /// The limit.
        ssrcs_max: usize,
    },
    /// The SSRC of another section.
    #[error("another media section sends with an SSRC of this one; give every source its own")]
    SameSsrc,
    /// Fewer sections than in the description before.
    #[error("media sections of the offer before are missing; keep them in place, and stop one with port 0")]
    SectionsMissing,
    /// A section is not what, or where, it was.
    #[error(
        "the media section had another place or kind in the offer before; keep sections where they are, \
         and stop one with port 0"
    )]
    SectionChanged,
}
