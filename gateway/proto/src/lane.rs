//! Lanes: the ordered sequences between two deployments, seen from the sender (`LaneOut`) and from the receiver
//! (`LaneIn`).

use std::collections::{BTreeMap, VecDeque};

use crate::queue::Queue;
use crate::receipt::Outcome;
use crate::store::{LANES, Lane, PeerKey, Record, Stream};
use crate::wire;

/// Which lane a conversation's envelopes take: FNV-1a with the finalizer of MurmurHash3, spelt out so that it never
/// changes with a library. FNV alone leaves lanes empty when conversations differ in their last characters only.
#[must_use]
pub fn lane_of(network: &str, conversation: &str) -> Lane {
    let bytes = network.bytes().chain([0]).chain(conversation.bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    Lane(u8::try_from((hash ^ (hash >> 33)) % u64::from(LANES)).expect("below LANES"))
}

/// All lanes.
pub(crate) fn lanes() -> impl Iterator<Item = Lane> {
    (0..LANES).map(Lane)
}

/// A lane on its way out.
#[derive(Debug)]
pub(crate) struct LaneOut {
    pub(crate) queue: Queue,
    /// Everything up to here was sent, or passed over, on the present link.
    pub(crate) sent: u64,
    /// Everything up to here the peer has heard of on the present link.
    pub(crate) told: u64,
    /// The last that left out of turn without that being durable: nothing behind it may be sent, because the SKIP
    /// over it could not be taken back.
    pub(crate) unsaved_to: u64,
    /// The peer cannot have anything beyond: what was sent since the start, and before it what was stored.
    pub(crate) sent_max: u64,
    /// The peer's RESUME said that it has everything up to here.
    pub(crate) settled_to: u64,
    /// The peer was told to skip what it lost, and has not acknowledged that.
    pub(crate) rewound: bool,
    /// Sent and not acknowledged.
    pub(crate) flight: VecDeque<(u64, Record)>,
    /// Read from the store, not sent yet.
    pub(crate) loaded: VecDeque<(u64, Record)>,
    pub(crate) loading: bool,
    /// What the peer refused, until the acknowledgement that covers it.
    pub(crate) refused: BTreeMap<u64, wire::Nack>,
    /// Whether the peer waits to hear that its refusals were made durable here.
    pub(crate) refusals_since_settled: bool,
}

impl LaneOut {
    pub(crate) fn new(peer: PeerKey, lane: Lane) -> Self {
        Self {
            queue: Queue::new(Stream::Outbox { peer, lane }),
            sent: 0,
            told: 0,
            unsaved_to: 0,
            sent_max: 0,
            settled_to: 0,
            rewound: false,
            flight: VecDeque::new(),
            loaded: VecDeque::new(),
            loading: false,
            refused: BTreeMap::new(),
            refusals_since_settled: false,
        }
    }

    /// What became of an envelope that the peer's acknowledgement covers.
    pub(crate) fn outcome(&mut self, seq: u64) -> Outcome {
        match self.refused.remove(&seq) {
            Some(nack) => {
                self.refusals_since_settled = true;
                Outcome::Refused(nack)
            }
            None => Outcome::Delivered,
        }
    }

    /// The link is gone: nothing is in flight, and what waits is read from the disk when it is back.
    pub(crate) fn link_down(&mut self) {
        self.sent = self.queue.acked;
        self.told = 0;
        self.settled_to = 0;
        self.rewound = false;
        self.refusals_since_settled = false;
        self.flight = VecDeque::new();
        self.loaded = VecDeque::new();
        self.loading = false;
        self.refused.clear();
        self.queue.drop_tail();
    }
}

/// A lane on its way in.
#[derive(Debug, Default)]
pub(crate) struct LaneIn {
    /// Everything up to here was taken in, durably or in the commit being built.
    pub(crate) received: u64,
    /// Everything up to here is on the disk: what RESUME and ACK may claim.
    pub(crate) durable: u64,
    /// Items behind a blob that is not complete, with their sequence numbers.
    pub(crate) held: VecDeque<(u64, wire::Item)>,
    /// Refusals that the peer has not settled.
    pub(crate) refusals: BTreeMap<u64, wire::Nack>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conversation_always_takes_the_same_lane() {
        // Fixed by the stored backlog of every deployment: a change would reorder conversations at an upgrade.
        assert_eq!((lane_of("main", "c-17"), lane_of("main", "c-18")), (Lane(4), Lane(13)));
    }

    #[test]
    fn conversations_spread_over_all_lanes() {
        let mut counts = [0_u32; LANES as usize];
        for n in 0..16_000 {
            counts[lane_of("main", &format!("c-{n}")).0 as usize] += 1;
        }
        assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
    }
}
