//! Media sections: which there are, and what a peer offers in each of them.

use trunkline_relay_proto::event::SourceName;
use trunkline_relay_proto::media::{
    Codec, Content, Extension, ExtensionIds, Kind, Mid, PayloadType, Rid, Section, Upstream,
};

use crate::incoming::Incoming;
use crate::outgoing::Outgoing;

/// Payload types.
pub(crate) const OPUS: u8 = 111;
pub(crate) const VP8: u8 = 96;
pub(crate) const VP8_RTX: u8 = 97;

/// What a section is for.
pub(crate) enum Use {
    /// The peer sends.
    Send(Outgoing),
    /// The peer receives.
    Receive(Box<Incoming>),
}

pub(crate) struct PeerSection {
    pub(crate) mid: Mid,
    pub(crate) kind: Kind,
    pub(crate) usage: Use,
    /// False once the plan left it out: an offer still has it, and neither side sends.
    pub(crate) active: bool,
}

impl PeerSection {
    pub(crate) fn outgoing(&self) -> Option<&Outgoing> {
        match &self.usage {
            Use::Send(outgoing) if self.active => Some(outgoing),
            _ => None,
        }
    }

    pub(crate) fn outgoing_mut(&mut self) -> Option<&mut Outgoing> {
        match &mut self.usage {
            Use::Send(outgoing) if self.active => Some(outgoing),
            _ => None,
        }
    }

    pub(crate) fn incoming(&self) -> Option<&Incoming> {
        match &self.usage {
            Use::Receive(incoming) if self.active => Some(incoming),
            _ => None,
        }
    }

    pub(crate) fn incoming_mut(&mut self) -> Option<&mut Incoming> {
        match &mut self.usage {
            Use::Receive(incoming) if self.active => Some(incoming),
            _ => None,
        }
    }

    /// The extensions it offers.
    pub(crate) fn extensions(&self, adaptive: bool) -> impl Iterator<Item = (u8, Extension)> {
        let simulcast = self.outgoing().is_some_and(|outgoing| outgoing.rids().next().is_some());
        extensions(self.kind, adaptive, simulcast)
    }

    /// The section as both sides agree on it when the relay takes all that is offered.
    pub(crate) fn agreed(&self, names_ssrcs: bool, adaptive: bool) -> Section {
        let send = self.outgoing().map(|outgoing| {
            let ssrcs = [Some(outgoing.ssrc()), outgoing.rtx_ssrc()].into_iter().flatten();
            let rids: Vec<Rid> = outgoing.rids().collect();
            Upstream {
                content: content(outgoing.source()),
                // Of simulcast, RIDs alone tell: browsers name no SSRCs then.
                ssrcs: if names_ssrcs && rids.is_empty() { ssrcs.collect() } else { Vec::new() },
                rids,
            }
        });
        let mut extensions = ExtensionIds::default();
        self.extensions(adaptive).for_each(|(id, extension)| extensions.set(extension, id));
        Section {
            mid: self.mid,
            kind: self.kind,
            payload_types: vec![payload_type(self.kind, adaptive)],
            extensions,
            send,
            receive: self.incoming().map(Incoming::stream),
        }
    }
}

pub(crate) const fn content(source: SourceName) -> Content {
    match source {
        SourceName::Microphone | SourceName::Camera => Content::Main,
        SourceName::Screen | SourceName::ScreenAudio => Content::Slides,
    }
}

/// The name of the section that sends a source.
pub(crate) const fn mid_of(source: SourceName) -> &'static str {
    match source {
        SourceName::Microphone => "m",
        SourceName::Camera => "c",
        SourceName::Screen => "s",
        SourceName::ScreenAudio => "sa",
    }
}

/// The payload type of a kind; `adaptive` says whether arrivals are told by transport-wide sequence number.
pub(crate) fn payload_type(kind: Kind, adaptive: bool) -> PayloadType {
    match kind {
        Kind::Audio => PayloadType {
            number: OPUS,
            codec: Codec::Opus,
            rtx: None,
            nack: false,
            pli: false,
            fir: false,
            transport_cc: adaptive,
            remb: false,
            raw: false,
        },
        Kind::Video => PayloadType {
            number: VP8,
            codec: Codec::Vp8,
            rtx: Some(VP8_RTX),
            nack: true,
            pli: true,
            fir: true,
            transport_cc: adaptive,
            remb: false,
            raw: false,
        },
    }
}

/// The identifier of transport-wide sequence numbers.
pub(crate) const TRANSPORT_SEQUENCE: u8 = 4;

/// The extensions of a section with their identifiers, in the order they are written.
const EXTENSIONS: [(u8, Extension); 7] = [
    (1, Extension::AudioLevel),
    (2, Extension::Mid),
    (3, Extension::DependencyDescriptor),
    (TRANSPORT_SEQUENCE, Extension::TransportSequence),
    (5, Extension::Rid),
    (6, Extension::RepairedRid),
    (7, Extension::LayersAllocation),
];

/// Those that a section offers; `adaptive` as above, `simulcast` where it sends encodings with names.
pub(crate) fn extensions(
    kind: Kind,
    adaptive: bool,
    simulcast: bool,
) -> impl Iterator<Item = (u8, Extension)> {
    EXTENSIONS.into_iter().filter(move |(_, extension)| match extension {
        Extension::AudioLevel => kind == Kind::Audio,
        Extension::DependencyDescriptor => kind == Kind::Video,
        Extension::TransportSequence => adaptive,
        Extension::Rid | Extension::RepairedRid | Extension::LayersAllocation => simulcast,
        _ => true,
    })
}
