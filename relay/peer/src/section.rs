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
        Section {
            mid: self.mid,
            kind: self.kind,
            payload_types: vec![payload_type(self.kind, adaptive)],
            extensions: extension_ids(self.kind, adaptive),
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

/// The extensions of a section with their identifiers.
pub(crate) const fn extensions(kind: Kind, adaptive: bool) -> &'static [(u8, Extension)] {
    match (kind, adaptive) {
        (Kind::Audio, false) => &[(1, Extension::AudioLevel), (2, Extension::Mid)],
        (Kind::Video, false) => &[(2, Extension::Mid), (3, Extension::DependencyDescriptor)],
        (Kind::Audio, true) => {
            &[(1, Extension::AudioLevel), (2, Extension::Mid), (4, Extension::TransportSequence)]
        }
        (Kind::Video, true) => &[
            (2, Extension::Mid),
            (3, Extension::DependencyDescriptor),
            (4, Extension::TransportSequence),
            (5, Extension::Rid),
            (6, Extension::RepairedRid),
            (7, Extension::LayersAllocation),
        ],
    }
}

/// The same, to be looked up.
pub(crate) fn extension_ids(kind: Kind, adaptive: bool) -> ExtensionIds {
    let mut ids = ExtensionIds::default();
    extensions(kind, adaptive).iter().for_each(|(id, extension)| ids.set(*extension, *id));
    ids
}
