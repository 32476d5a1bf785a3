//! What the simulation looks at: no part of the interface.

use crate::core::Core;

/// What a core keeps in mind beyond its queues. All zero when everything has been delivered, read and
/// acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// Ids that would be recognised.
    pub ids: usize,
    /// Envelopes in flight.
    pub in_flight: usize,
    /// Refusals that a peer has not settled.
    pub refusals: usize,
    /// Refusals by a peer that no acknowledgement covers.
    pub refused: usize,
    /// Bytes of envelopes in memory.
    pub resident_bytes: usize,
    /// Passes for expiry and purges.
    pub jobs: usize,
    /// Readers that wait.
    pub waiting: usize,
}

impl Core {
    /// What is left.
    #[must_use]
    pub fn leftovers(&self) -> Leftovers {
        let lanes = || self.peers.values().flat_map(|peer| &peer.lanes);
        let inbound = self.peers.values().flat_map(|peer| {
            crate::lane::lanes().map(|lane| peer.inbound.lane(lane).refusals.len()).collect::<Vec<_>>()
        });
        Leftovers {
            ids: self.ids.len().saturating_sub(self.ids_read.len()),
            in_flight: lanes().map(|lane| lane.flight.len()).sum(),
            refusals: inbound.sum(),
            refused: lanes().map(|lane| lane.refused.len()).sum(),
            resident_bytes: self.resident_bytes,
            jobs: self.jobs.len(),
            waiting: self.mailboxes.values().map(|mailbox| mailbox.waiting.len()).sum(),
        }
    }

    /// Checks what must hold after every input.
    ///
    /// # Panics
    /// When it does not.
    pub fn check_invariants(&self) {
        let outboxes = self.peers.values().flat_map(|peer| peer.lanes.iter().map(|lane| &lane.queue));
        let mailboxes = self.mailboxes.values().flat_map(|mailbox| [&mailbox.inbox, &mailbox.receipts]);
        let resident: usize = outboxes.chain(mailboxes).map(|queue| queue.tail_bytes()).sum();
        assert_eq!(resident, self.resident_bytes, "the bytes in memory are not what the queues hold");
        for peer in self.peers.values() {
            for lane in &peer.lanes {
                let flight = lane.flight.iter().map(|(seq, _)| *seq);
                assert!(flight.clone().is_sorted(), "envelopes in flight out of order");
                assert!(
                    flight.clone().all(|seq| seq > lane.queue.acked && seq <= lane.sent),
                    "in flight, or not"
                );
                assert!(peer.up || flight.count() == 0, "in flight on no link");
                assert!(lane.queue.durable < lane.queue.next_seq, "more is durable than there is");
            }
            assert!(
                !peer.up || peer.link.is_some_and(|link| self.links.contains_key(&link)),
                "up without a link"
            );
        }
    }
}
