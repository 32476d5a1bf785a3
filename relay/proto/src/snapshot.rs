//! What the API shows of a live call. No addresses of people.

use std::sync::Arc;

use serde::Serialize;

use crate::event::{Quality, QualityCause, Role, SourceName};

/// A call as it is now.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Snapshot {
    /// Everybody in it, in order of joining.
    pub participants: Vec<ParticipantSnapshot>,
}

impl Snapshot {
    /// Adds what another branch of the same call shows.
    pub fn merge(&mut self, other: Self) {
        self.participants.extend(other.participants);
        self.participants.sort_by_key(|participant| participant.order);
    }
}

/// One participant.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ParticipantSnapshot {
    /// When it joined, in the order of all branches of the call.
    #[serde(skip)]
    pub order: u64,
    /// The name from the join token.
    pub participant: Arc<str>,
    /// What it may do.
    pub role: Role,
    /// `joining` until DTLS is up, then `connected`.
    pub state: &'static str,
    /// How its packets cross the network now: `udp`, `tcp` or `tls`; `None` before it was heard.
    pub transport: Option<&'static str>,
    /// The SRTP profile agreed on, as RFC 5764 and 7714 name it.
    pub srtp_profile: Option<&'static str>,
    /// How good its connection is.
    pub quality: Quality,
    /// What spoils it; none while it is good.
    pub quality_cause: Option<QualityCause>,
    /// Bits per second that its line is estimated to carry to it; none while nothing is known.
    pub estimate_bps: Option<u64>,
    /// How long packets wait on their way to it beyond the shortest, as its feedback shows, in milliseconds.
    pub queue_delay_ms: Option<f64>,
    /// Last round-trip time its receiver reports showed, in milliseconds.
    pub rtt_ms: Option<f64>,
    /// Share of packets lost on their way to it, 0 to 1, in its last report.
    pub downlink_loss: f64,
    /// Share of packets lost on their way from it, 0 to 1, over the last report interval.
    pub uplink_loss: f64,
    /// What it sends.
    pub sources: Vec<SourceSnapshot>,
    /// What its slots show.
    pub slots: Vec<SlotSnapshot>,
}

/// One source.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SourceSnapshot {
    /// Which.
    pub source: SourceName,
    /// Its CSRC in forwarded packets.
    pub csrc: u32,
    /// Muted by its owner.
    pub muted: bool,
    /// Packets taken.
    pub packets: u64,
    /// Packets that never arrived, also not when asked for again.
    pub lost: u64,
    /// Packets that arrived because they were asked for again.
    pub repaired: u64,
    /// Key frames asked for.
    pub key_frame_requests: u64,
    /// Its encodings, the smallest first.
    pub encodings: Vec<EncodingSnapshot>,
}

/// One encoding of a source.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EncodingSnapshot {
    /// Its name in the offer.
    pub rid: Option<String>,
    /// Whether it is being sent.
    pub live: bool,
    /// Whether anybody wants it.
    pub wanted: bool,
    /// Picture height in pixels, where it is known.
    pub height: Option<u32>,
    /// Bits per second of all its layers.
    pub bits_per_s: u64,
}

/// What a slot shows of its source.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LayerSnapshot {
    /// Which encoding.
    pub rid: Option<String>,
    /// The highest spatial layer.
    pub spatial: u8,
    /// The highest temporal layer.
    pub temporal: u8,
    /// Picture height in pixels, where it is known.
    pub height: Option<u32>,
    /// Bits per second of it.
    pub bits_per_s: u64,
}

/// One slot.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SlotSnapshot {
    /// The `mid`.
    pub slot: String,
    /// Who is in it.
    pub participant: Option<Arc<str>>,
    /// Which source of theirs.
    pub source: Option<SourceName>,
    /// Packets sent.
    pub packets: u64,
    /// Retransmissions sent.
    pub retransmissions: u64,
    /// What is shown of the source; none while it is paused, or waits for a key frame.
    pub layer: Option<LayerSnapshot>,
    /// Nothing is sent for it, because the line does not carry it.
    pub paused: bool,
    /// Share of packets lost, 0 to 1, as its last report says.
    pub lost: f64,
    /// Gaps between pictures that people see.
    pub freezes: u64,
}
