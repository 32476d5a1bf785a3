//! What became of an envelope: the four ways it leaves an outbox, each counted, tallied for the audit log and
//! reported to the network that submitted it.

use std::collections::hash_map::Entry;
use std::time::Duration;

use prost::Message;

use crate::core::{Core, IdKey, Unread};
use crate::envelope::View;
use crate::store::{Head, Lane, NetworkKey, PeerKey, Record, Stream};
use crate::time::Time;
use crate::wire;

/// Why an envelope left.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Outcome {
    Delivered,
    Refused(wire::Nack),
    Expired,
    Purged,
}

/// A refusal as receipts, API problems and the audit log name it.
#[must_use]
pub fn refusal_name(refusal: wire::Refusal) -> &'static str {
    match refusal {
        wire::Refusal::Unspecified => "refused",
        wire::Refusal::Malformed => "malformed",
        wire::Refusal::TooLarge => "too-large",
        wire::Refusal::SenderDomain => "sender-domain",
        wire::Refusal::UnknownRecipientDomain => "unknown-domain",
        wire::Refusal::FederationDisabled => "federation-disabled",
        wire::Refusal::NotPermitted => "not-permitted",
        wire::Refusal::Guest => "guest",
        wire::Refusal::Blocked => "blocked",
    }
}

/// How long an id is recognised after a receipt of its delivery was read: whoever gets no answer to a submission, because its
/// replica stands still, may read the receipts elsewhere, and submit again. Longer waits for more patient clients, and takes
/// memory.
const RECOGNISED_AFTER: Duration = Duration::from_secs(30);

/// But for no more of them than this: 100 bytes each. More is as long at a higher rate.
const RECOGNISED_AFTER_MAX: usize = 250_000;

impl Core {
    /// An envelope left a peer's outbox: counts it and writes its receipts.
    pub(crate) fn leave(&mut self, now: Time, key: PeerKey, lane: Lane, record: Record, outcome: Outcome) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        peer.lane_mut(lane).queue.leave(record.body.len());
        let (total, what) = match &outcome {
            Outcome::Delivered => (&mut self.totals.delivered, "outbox.delivered"),
            Outcome::Refused(_) => (&mut self.totals.refused, "outbox.refused"),
            Outcome::Expired => (&mut self.totals.expired, "outbox.expired"),
            Outcome::Purged => (&mut self.totals.purged, "outbox.purged"),
        };
        *total += 1;
        match &outcome {
            Outcome::Delivered => peer.sent += 1,
            Outcome::Refused(_) => peer.refused += 1,
            _ => {}
        }
        peer.departures.left(now, &outcome);
        self.tally(now, key, what, 1);
        let Head { id, network, .. } = record.head;
        let all = View::parse(&record.body).map(|view| view.to.iter().map(|to| (*to).to_owned()).collect());
        let all: Vec<String> = all.unwrap_or_default();
        match outcome {
            Outcome::Delivered => self.receipt(now, network, id, all, wire::State::Delivered, ""),
            Outcome::Expired => self.receipt(now, network, id, all, wire::State::Expired, ""),
            Outcome::Purged => self.receipt(now, network, id, all, wire::State::Purged, ""),
            Outcome::Refused(nack) => {
                let reason = refusal_name(nack.reason());
                let (refused, delivered): (Vec<_>, Vec<_>) =
                    all.into_iter().partition(|to| nack.to.is_empty() || nack.to.contains(to));
                if !delivered.is_empty() {
                    self.remember(network, id);
                    self.receipt(now, network, id, delivered, wire::State::Delivered, "");
                }
                self.receipt(now, network, id, refused, wire::State::Refused, reason);
            }
        }
    }

    /// Writes a receipt, which takes the queue entry's place in remembering the id.
    pub(crate) fn receipt(
        &mut self,
        now: Time,
        network: NetworkKey,
        id: [u8; 16],
        to: Vec<String>,
        state: wire::State,
        reason: &str,
    ) {
        let Some(mailbox) = self.mailboxes.get_mut(&network).filter(|mailbox| !mailbox.leaving) else {
            self.forget(network, id);
            return;
        };
        let delivered = state == wire::State::Delivered;
        mailbox.unread.push_back(Unread { seq: mailbox.receipts.next_seq, id, delivered });
        let receipt = wire::Receipt {
            seq: 0,
            id: bytes::Bytes::copy_from_slice(&id),
            to,
            state: state.into(),
            reason: reason.to_owned(),
            at_ms: now.unix_ms(),
        };
        let head = Head { id, network, expires: now + self.retention(), at: now };
        self.append(now, Stream::Receipts { network }, Record { head, body: receipt.encode_to_vec().into() });
    }

    /// One more queue entry or unread receipt stands for this id.
    pub(crate) fn remember(&mut self, network: NetworkKey, id: [u8; 16]) {
        let count = self.ids.entry(IdKey::new(network, id)).or_default();
        *count = count.saturating_add(1);
    }

    /// One fewer does; with the last one the id is forgotten.
    pub(crate) fn forget(&mut self, network: NetworkKey, id: [u8; 16]) {
        if let Entry::Occupied(mut entry) = self.ids.entry(IdKey::new(network, id)) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
        // A backlog that drained must not keep its memory.
        if self.ids.len() * 8 < self.ids.capacity() && self.ids.capacity() > 65_536 {
            self.ids.shrink_to(self.ids.len() * 2);
        }
    }

    /// The same, after a while.
    pub(crate) fn forget_soon(&mut self, now: Time, network: NetworkKey, id: [u8; 16]) {
        self.ids_read.push_back((now + RECOGNISED_AFTER, network, id));
    }

    /// Whose receipts were read long enough ago.
    pub(crate) fn forget_read_ids(&mut self, now: Time) {
        let too_many = |len: usize| len > RECOGNISED_AFTER_MAX;
        while self.ids_read.front().is_some_and(|(until, ..)| *until <= now || too_many(self.ids_read.len()))
        {
            if let Some((_, network, id)) = self.ids_read.pop_front() {
                self.forget(network, id);
            }
        }
    }
}
