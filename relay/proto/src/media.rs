//! What an offer and its answer agreed on, without SDP: the shell's `sdp` module makes it, the core works from it.

use std::fmt;

/// Media sections of one description. More let one offer take more memory and time; 102 were measured with a browser.
pub const SECTIONS_MAX: usize = 128;

/// Payload types of one media section. Chromium 156 offers 24 for video.
pub const PAYLOAD_TYPES_MAX: usize = 48;

/// Characters of a `mid`. RFC 8843 asks for at most three; 16 is what a one-byte header extension holds.
pub const MID_LEN_MAX: usize = 16;

/// Encodings of one section: what simulcast of browsers ends at. More cost memory for every camera.
pub const ENCODINGS_MAX: usize = 3;

/// What a media section carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `m=audio`
    Audio,
    /// `m=video`
    Video,
}

impl Kind {
    /// Ticks of its RTP clock per second.
    #[must_use]
    pub const fn clock_rate(self) -> u32 {
        match self {
            Self::Audio => 48_000,
            Self::Video => 90_000,
        }
    }
}

/// The name of a media section (RFC 5888), 1 to 16 characters.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mid {
    len: u8,
    bytes: [u8; MID_LEN_MAX],
}

impl Mid {
    /// A mid of 1 to 16 printable ASCII characters without spaces.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        Self::from_bytes(text.as_bytes())
    }

    /// The same, from a header extension's value.
    #[must_use]
    pub fn from_bytes(value: &[u8]) -> Option<Self> {
        if !value.iter().all(u8::is_ascii_graphic) {
            return None;
        }
        let len = u8::try_from(value.len()).ok().filter(|len| *len > 0)?;
        let mut bytes = [0; MID_LEN_MAX];
        bytes.get_mut(..value.len())?.copy_from_slice(value);
        Some(Self { len, bytes })
    }

    /// Its characters.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }

    /// Its characters as bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }
}

/// The name of one encoding of a section (RFC 8852), 1 to 16 letters and digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rid(Mid);

impl Rid {
    /// A RID of 1 to 16 letters and digits (RFC 8851, section 10, and as much as a one-byte header extension holds).
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        Self::from_bytes(text.as_bytes())
    }

    /// The same, from a header extension's value.
    #[must_use]
    pub fn from_bytes(value: &[u8]) -> Option<Self> {
        if !value.iter().all(u8::is_ascii_alphanumeric) {
            return None;
        }
        Mid::from_bytes(value).map(Self)
    }

    /// Its characters.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// Its characters as bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Mid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A codec with the parameters that decide whether a receiver can decode it. Two sections that name equal codecs
/// understand each other, whatever payload types they use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Codec {
    /// RFC 7587
    Opus,
    /// Redundant audio (RFC 2198) of Opus.
    OpusRed,
    /// RFC 7741
    Vp8,
    /// RFC 9628
    Vp9 {
        /// `profile-id`, 0 when not given.
        profile: u8,
    },
    /// RFC 6184
    H264 {
        /// The first two bytes of `profile-level-id`: profile and constraint flags. The level may differ.
        profile: u16,
        /// `packetization-mode`: 0 or 1.
        packetization_mode: u8,
    },
    /// AV1 RTP specification
    Av1 {
        /// `profile`, 0 when not given.
        profile: u8,
    },
}

impl Codec {
    /// Which kind of section it may stand in.
    #[must_use]
    pub const fn kind(self) -> Kind {
        match self {
            Self::Opus | Self::OpusRed => Kind::Audio,
            Self::Vp8 | Self::Vp9 { .. } | Self::H264 { .. } | Self::Av1 { .. } => Kind::Video,
        }
    }

    /// Ticks of its RTP timestamp per second.
    #[must_use]
    pub const fn clock_rate(self) -> u32 {
        self.kind().clock_rate()
    }
}

/// One negotiated payload type of a section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PayloadType {
    /// The number in the RTP header, 0 to 127.
    pub number: u8,
    /// What it stands for.
    pub codec: Codec,
    /// The payload type of its retransmissions (RFC 4588), where agreed.
    pub rtx: Option<u8>,
    /// `a=rtcp-fb … nack`: lost packets are asked for.
    pub nack: bool,
    /// `a=rtcp-fb … nack pli`: key frames are asked for with PLI.
    pub pli: bool,
    /// `a=rtcp-fb … ccm fir`: and with FIR.
    pub fir: bool,
    /// `a=rtcp-fb … transport-cc`: arrivals are told by transport-wide sequence number.
    pub transport_cc: bool,
    /// `a=rtcp-fb … goog-remb`: an estimate of the whole is told.
    pub remb: bool,
    /// `a=packetization:… raw`: frames are opaque to packetizer and depacketizer. Codecs with and without do not mix.
    pub raw: bool,
}

impl PayloadType {
    /// Whether a receiver that agreed on one understands what is sent with the other.
    #[must_use]
    pub fn means(&self, other: &Self) -> bool {
        self.codec == other.codec && self.raw == other.raw
    }
}

/// A header extension that the relay knows (RFC 8285).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Extension {
    /// `urn:ietf:params:rtp-hdrext:ssrc-audio-level` (RFC 6464): read here, passed on.
    AudioLevel,
    /// `urn:ietf:params:rtp-hdrext:sdes:mid` (RFC 8843): read here, written anew.
    Mid,
    /// `urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id` (RFC 8852): read here, never passed on.
    Rid,
    /// `urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id` (RFC 8852): read here, never passed on.
    RepairedRid,
    /// The dependency descriptor of the AV1 RTP specification, used with every codec: read here, passed on.
    DependencyDescriptor,
    /// `urn:3gpp:video-orientation` (TS 26.114): passed on.
    VideoOrientation,
    /// `…/rtp-hdrext/playout-delay`: passed on.
    PlayoutDelay,
    /// `…/rtp-hdrext/video-content-type`: passed on.
    VideoContentType,
    /// `…/rtp-hdrext/color-space`: passed on.
    ColorSpace,
    /// `…/rtp-hdrext/abs-capture-time`: passed on.
    AbsoluteCaptureTime,
    /// `…/draft-holmer-rmcat-transport-wide-cc-extensions-01`: read here, written anew.
    TransportSequence,
    /// `…/rtp-hdrext/abs-send-time`: read here, written anew.
    AbsoluteSendTime,
    /// `…/rtp-hdrext/video-layers-allocation00`: read here, never passed on.
    LayersAllocation,
}

impl Extension {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 13] = [
        Self::AudioLevel,
        Self::Mid,
        Self::Rid,
        Self::RepairedRid,
        Self::DependencyDescriptor,
        Self::VideoOrientation,
        Self::PlayoutDelay,
        Self::VideoContentType,
        Self::ColorSpace,
        Self::AbsoluteCaptureTime,
        Self::TransportSequence,
        Self::AbsoluteSendTime,
        Self::LayersAllocation,
    ];

    /// The URI in `a=extmap`.
    #[must_use]
    pub const fn uri(self) -> &'static str {
        match self {
            Self::AudioLevel => "urn:ietf:params:rtp-hdrext:ssrc-audio-level",
            Self::Mid => "urn:ietf:params:rtp-hdrext:sdes:mid",
            Self::Rid => "urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id",
            Self::RepairedRid => "urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id",
            Self::DependencyDescriptor => {
                "https://aomediacodec.github.io/av1-rtp-spec/#dependency-descriptor-rtp-header-extension"
            }
            Self::VideoOrientation => "urn:3gpp:video-orientation",
            Self::PlayoutDelay => "http://www.webrtc.org/experiments/rtp-hdrext/playout-delay",
            Self::VideoContentType => "http://www.webrtc.org/experiments/rtp-hdrext/video-content-type",
            Self::ColorSpace => "http://www.webrtc.org/experiments/rtp-hdrext/color-space",
            Self::AbsoluteCaptureTime => "http://www.webrtc.org/experiments/rtp-hdrext/abs-capture-time",
            Self::TransportSequence => {
                "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01"
            }
            Self::AbsoluteSendTime => "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time",
            Self::LayersAllocation => {
                "http://www.webrtc.org/experiments/rtp-hdrext/video-layers-allocation00"
            }
        }
    }

    /// Whether a value a sender wrote goes on to receivers as it is, under the receiver's own identifier.
    #[must_use]
    pub const fn is_passed_on(self) -> bool {
        !matches!(
            self,
            Self::Mid
                | Self::Rid
                | Self::RepairedRid
                | Self::TransportSequence
                | Self::AbsoluteSendTime
                | Self::LayersAllocation
        )
    }
}

/// Which identifier each extension has in one section. Zero, which RFC 8285 reserves, is "not agreed".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExtensionIds([u8; Extension::ALL.len()]);

impl ExtensionIds {
    /// Agrees on an identifier, 1 to 255 (15 is reserved in one-byte form and is not used either).
    pub fn set(&mut self, extension: Extension, id: u8) {
        if let Some(slot) = self.0.get_mut(extension as usize) {
            *slot = id;
        }
    }

    /// Its identifier, where agreed.
    #[must_use]
    pub fn id(&self, extension: Extension) -> Option<u8> {
        self.0.get(extension as usize).copied().filter(|id| *id != 0)
    }

    /// What an identifier stands for.
    #[must_use]
    pub fn extension(&self, id: u8) -> Option<Extension> {
        let index = self.0.iter().position(|known| *known == id && id != 0)?;
        Extension::ALL.get(index).copied()
    }
}

/// What a section shows, so that people and pins can tell a camera from a shared screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Content {
    /// A microphone or a camera.
    Main,
    /// `a=content:slides` (RFC 4796): a shared screen, or its sound.
    Slides,
}

/// What a client sends in a section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// What it shows.
    pub content: Content,
    /// SSRCs the offer names, the media's first, then its retransmissions'. Empty when only `mid` will tell.
    pub ssrcs: Vec<u32>,
    /// The encodings of simulcast (RFC 8853) that were agreed on, the smallest picture first; at most
    /// [`ENCODINGS_MAX`]. Empty when there is one encoding without a name.
    pub rids: Vec<Rid>,
}

/// A section a client receives in: a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Downstream {
    /// The SSRC the relay sends with, as the answer says. It stays for as long as the section does.
    pub ssrc: u32,
    /// The SSRC of retransmissions, when any payload type has one.
    pub rtx_ssrc: Option<u32>,
}

/// One media section both sides agreed on. A rejected or stopped section is a section that neither sends nor receives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// Its name.
    pub mid: Mid,
    /// What it carries.
    pub kind: Kind,
    /// Payload types in the answer's order of preference, without RTX ones of their own.
    pub payload_types: Vec<PayloadType>,
    /// Header extensions.
    pub extensions: ExtensionIds,
    /// What the client sends, if it does.
    pub send: Option<Upstream>,
    /// The slot, if the client receives.
    pub receive: Option<Downstream>,
}

/// One side's ICE credentials (RFC 8445, section 5.3).
#[derive(Clone, PartialEq, Eq)]
pub struct IceCredentials {
    /// User name fragment.
    pub ufrag: String,
    /// Password.
    pub pwd: String,
}

impl fmt::Debug for IceCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IceCredentials")
    }
}

/// All that an offer and its answer agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// The client's credentials.
    pub ice: IceCredentials,
    /// SHA-256 of the certificate the client will show (`a=fingerprint`).
    pub fingerprint: [u8; 32],
    /// `a=extmap-allow-mixed` (RFC 8285): one-byte and two-byte extensions may change from packet to packet.
    pub extmap_allow_mixed: bool,
    /// `a=rtcp-rsize` (RFC 5506) in every section: feedback need not be part of a compound packet.
    pub reduced_size_rtcp: bool,
    /// Media sections in the offer's order.
    pub sections: Vec<Section>,
}
