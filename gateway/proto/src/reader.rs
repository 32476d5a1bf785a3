//! The way out to a messaging server: reading an inbox or receipts, waiting for more, acknowledging.

use std::time::Duration;

use crate::core::{Action, After, Core, LoadFor, READ_BYTES_MAX, Reply, Ticket, Unread, Waiting};
use crate::queue::Found;
use crate::store::{NetworkKey, Record, Stream};
use crate::time::Time;
use crate::timer::Timer;

/// Longest a reader may wait for something to come.
const WAIT_MAX: Duration = Duration::from_secs(120);

impl Core {
    /// Reads up to `max` records after `after` (default: after the last acknowledged one); waits up to `wait`
    /// for the first.
    pub fn read(
        &mut self,
        now: Time,
        ticket: Ticket,
        stream: Stream,
        after: Option<u64>,
        max: usize,
        wait: Duration,
    ) {
        let acked = self.queue_mut(stream).map_or(0, |queue| queue.acked);
        let after = after.unwrap_or(acked);
        if self.serve(now, ticket, stream, after, max) {
            return;
        }
        let until = now + wait.min(WAIT_MAX);
        let network = match stream {
            Stream::Inbox { network } | Stream::Receipts { network } if !wait.is_zero() && !self.stopping => {
                network
            }
            _ => return self.answer(ticket, Vec::new()),
        };
        let Some(mailbox) = self.mailboxes.get_mut(&network) else { return self.answer(ticket, Vec::new()) };
        mailbox.waiting.push(Waiting { ticket, stream, after, max, until });
        self.timers.set_earlier(Timer::Wait(network), until);
    }

    /// A messaging server has what it read up to `up_to`: erased with the next commit.
    pub fn ack(&mut self, now: Time, ticket: Ticket, stream: Stream, up_to: u64) {
        let Some(queue) = self.queue_mut(stream) else {
            return self.actions.push_back(Action::Reply(ticket, Reply::Acked));
        };
        let up_to = up_to.min(queue.durable);
        if up_to > queue.acked {
            let before = queue.tail_bytes();
            queue.leave_to(up_to);
            let emptied = queue.ack(up_to);
            let after = queue.tail_bytes();
            self.resident_bytes = self.resident_bytes + after - before;
            self.erase(now, stream, up_to, emptied);
            if let Stream::Receipts { network } = stream {
                self.forget_receipts(now, network, up_to);
            }
            self.regrant();
        }
        self.after_commit(now, After::Reply(ticket, Reply::Acked));
    }

    /// Records that [`Action::Load`] asked for.
    pub fn handle_loaded(
        &mut self,
        now: Time,
        stream: Stream,
        purpose: LoadFor,
        records: Vec<(u64, Record)>,
    ) {
        match (purpose, stream) {
            (LoadFor::Lane(link), Stream::Outbox { peer, lane }) => {
                self.lane_loaded(now, peer, lane, link, records);
            }
            (LoadFor::Lane(_), _) => {}
            (LoadFor::Retire, _) => self.retire_loaded(now, stream, records),
            (LoadFor::Reader { ticket, max }, _) => {
                let last = records.last().map(|(seq, _)| *seq);
                let Some(queue) = self.queue_mut(stream) else { return self.answer(ticket, Vec::new()) };
                let fresh = |seq: u64, record: &Record| {
                    seq <= queue.durable && !queue.has_left(seq) && record.head.expires > now
                };
                let records: Vec<_> =
                    records.into_iter().filter(|(seq, record)| fresh(*seq, record)).take(max).collect();
                match last {
                    Some(last) if records.is_empty() => {
                        if !self.serve(now, ticket, stream, last, max) {
                            self.answer(ticket, Vec::new());
                        }
                    }
                    _ => self.answer(ticket, records),
                }
            }
        }
    }

    /// Something came for a network: whoever waits for it is served.
    pub(crate) fn wake_readers(&mut self, now: Time, network: NetworkKey) {
        let Some(mailbox) = self.mailboxes.get_mut(&network) else { return };
        for waiting in std::mem::take(&mut mailbox.waiting) {
            if !self.serve(now, waiting.ticket, waiting.stream, waiting.after, waiting.max)
                && let Some(mailbox) = self.mailboxes.get_mut(&network)
            {
                mailbox.waiting.push(waiting);
            }
        }
    }

    /// Readers that waited long enough are told that there is nothing.
    pub(crate) fn end_waits(&mut self, now: Time, network: NetworkKey) {
        let Some(mailbox) = self.mailboxes.get_mut(&network) else { return };
        let (over, waiting): (Vec<_>, Vec<_>) =
            std::mem::take(&mut mailbox.waiting).into_iter().partition(|w| w.until <= now);
        let next = waiting.iter().map(|w| w.until).min();
        mailbox.waiting = waiting;
        if let Some(next) = next {
            self.timers.set(Timer::Wait(network), next);
        }
        for waiting in over {
            self.answer(waiting.ticket, Vec::new());
        }
    }

    fn answer(&mut self, ticket: Ticket, records: Vec<(u64, Record)>) {
        self.actions.push_back(Action::Reply(ticket, Reply::Records(records)));
    }

    /// Answers a reader, or starts reading from the disk for it. Answers whether either was possible.
    fn serve(&mut self, now: Time, ticket: Ticket, stream: Stream, after: u64, max: usize) -> bool {
        let Some(queue) = self.queue_mut(stream) else {
            self.answer(ticket, Vec::new());
            return true;
        };
        match queue.find(after) {
            Found::Nothing => false,
            Found::OnDisk(from_seq) => {
                let purpose = LoadFor::Reader { ticket, max };
                self.actions.push_back(Action::Load { stream, from_seq, bytes_max: READ_BYTES_MAX, purpose });
                true
            }
            Found::InMemory(start) => {
                let mut records = Vec::new();
                let mut bytes = 0;
                for index in start.. {
                    let Some((seq, record)) = queue.tail_at(index) else { break };
                    if records.len() >= max || bytes >= READ_BYTES_MAX {
                        break;
                    }
                    if !queue.has_left(seq) && record.head.expires > now {
                        bytes += record.body.len();
                        records.push((seq, record.clone()));
                    }
                }
                if records.is_empty() {
                    return false;
                }
                self.answer(ticket, records);
                true
            }
        }
    }

    /// Receipts up to `up_to` were read: their ids need no longer be recognised, or soon.
    fn forget_receipts(&mut self, now: Time, network: NetworkKey, up_to: u64) {
        while let Some(mailbox) = self.mailboxes.get_mut(&network) {
            match mailbox.unread.pop_front_if(|unread| unread.seq <= up_to) {
                // What was not delivered may be sent again under its id.
                Some(Unread { id, delivered: false, .. }) => self.forget(network, id),
                Some(Unread { id, .. }) => self.forget_soon(now, network, id),
                None => break,
            }
        }
        self.forget_read_ids(now);
    }
}
