//! What leaves a stream before its turn: expired, or purged by an operator. One block at a time is read from
//! the disk for it, because receipts need to know for whom the envelope was.

use crate::core::{Action, Core, EXPIRY_PAUSE, LoadFor};
use crate::queue::last_of;
use crate::receipt::Outcome;
use crate::state::Key;
use crate::store::{BlockInfo, Op, PeerKey, Record, Stream};
use crate::time::Time;

/// Why records leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    Expired,
    Purged,
}

/// A pass over one stream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Job {
    pub(crate) stream: Stream,
    pub(crate) why: Why,
    /// The next block is the first that reaches here.
    pub(crate) from: u64,
    pub(crate) to: u64,
}

impl Core {
    /// Looks for what has expired in all streams.
    pub(crate) fn start_expiry(&mut self, now: Time) {
        let mut next = Time::NEVER;
        let outboxes = self.peers.values().flat_map(|peer| peer.lanes.iter().map(|lane| &lane.queue));
        let mailboxes = self.mailboxes.values().flat_map(|mailbox| [&mailbox.inbox, &mailbox.receipts]);
        let mut due = Vec::new();
        for queue in outboxes.chain(mailboxes) {
            if queue.depth > 0 && queue.expires_min <= now {
                due.push((queue.stream, queue.next_seq - 1));
            } else if queue.depth > 0 {
                next = next.min(queue.expires_min);
            }
        }
        self.start_jobs(
            now,
            due.into_iter().map(|(stream, to)| Job { stream, why: Why::Expired, from: 0, to }),
        );
        self.expire_at(next.max(now + EXPIRY_PAUSE));
    }

    /// Starts passes. One that is under way goes as far as the new one would; a purge begins again, because what
    /// it passed over as being in flight may no longer be.
    pub(crate) fn start_jobs(&mut self, now: Time, jobs: impl IntoIterator<Item = Job>) {
        for job in jobs {
            match self.jobs.iter_mut().find(|other| other.stream == job.stream && other.why == job.why) {
                Some(other) => {
                    other.to = other.to.max(job.to);
                    if job.why == Why::Purged {
                        other.from = job.from;
                    }
                }
                None => self.jobs.push_back(job),
            }
        }
        // Only now: the end of a removed peer's last pass is the peer's end.
        self.step_jobs(now);
    }

    /// Goes on with the passes, as far as that needs no reading.
    pub(crate) fn step_jobs(&mut self, now: Time) {
        let mut waiting = 0;
        while !self.job_loading && waiting < self.jobs.len() {
            let Some(mut job) = self.jobs.front().copied() else { return };
            let Some(queue) = self.queue_mut(job.stream) else {
                self.jobs.pop_front();
                continue;
            };
            let block = match job.why {
                Why::Expired => queue.expiring(job.from, now),
                Why::Purged => queue.block_from(job.from),
            };
            match block.filter(|block| block.first_seq <= job.to) {
                Some(block) if last_of(&block) <= queue.durable => {
                    self.job_loading = true;
                    // When the records are here, time has passed: another block may be the first to expire then.
                    job.from = block.first_seq;
                    self.jobs.pop_front();
                    self.jobs.push_front(job);
                    let (from_seq, bytes_max) =
                        (block.first_seq, usize::try_from(block.bytes).unwrap_or(usize::MAX));
                    let purpose = LoadFor::Retire;
                    self.actions.push_back(Action::Load { stream: job.stream, from_seq, bytes_max, purpose });
                }
                None if job.to <= queue.durable => {
                    self.jobs.pop_front();
                    self.finish_job(now, job);
                }
                // What it is after is in the commit being saved.
                _ => {
                    self.jobs.rotate_left(1);
                    waiting += 1;
                }
            }
        }
    }

    /// Records of the block that the first pass is at.
    pub(crate) fn retire_loaded(&mut self, now: Time, stream: Stream, records: Vec<(u64, Record)>) {
        if !std::mem::take(&mut self.job_loading) {
            return;
        }
        let Some(mut job) = self.jobs.pop_front() else { return };
        let block = self.queue_mut(stream).and_then(|queue| queue.block_from(job.from));
        if job.stream == stream
            && let Some(block) = block.filter(|block| block.first_seq == job.from)
        {
            self.retire_block(now, job, block, records);
            job.from = last_of(&block) + 1;
        }
        self.jobs.push_front(job);
        self.step_jobs(now);
    }

    fn retire_block(&mut self, now: Time, job: Job, block: BlockInfo, records: Vec<(u64, Record)>) {
        let stream = job.stream;
        let in_flight_to = match stream {
            Stream::Outbox { peer, lane } => self.peers.get_mut(&peer).map_or(0, |peer| match peer.up {
                true => peer.lane_mut(lane).sent,
                false => 0,
            }),
            _ => 0,
        };
        let mut expires_min = Time::NEVER;
        let mut left = Vec::new();
        for (seq, record) in records {
            let gone = self.queue_mut(stream).is_none_or(|queue| queue.has_left(seq));
            if gone || seq > last_of(&block) {
                continue;
            }
            let goes = match job.why {
                Why::Expired => record.head.expires <= now,
                Why::Purged => seq <= job.to,
            };
            if !goes {
                expires_min = expires_min.min(record.head.expires);
            } else if seq <= in_flight_to {
                // The peer may have it already: its acknowledgement decides.
                expires_min = expires_min.min(now + EXPIRY_PAUSE * 10);
            } else {
                left.push((seq, record));
            }
        }
        if let Some(queue) = self.queue_mut(stream) {
            queue.set_expiry(block.first_seq, expires_min);
        }
        let seqs: Vec<u64> = left.iter().map(|(seq, _)| *seq).collect();
        if seqs.is_empty() {
            return;
        }
        let before = self.queue_mut(stream).map_or(0, |queue| queue.tail_bytes());
        self.mark_gone(now, stream, block.first_seq, &seqs);
        let after = self.queue_mut(stream).map_or(0, |queue| queue.tail_bytes());
        self.resident_bytes = self.resident_bytes + after - before;
        for (seq, record) in left {
            self.retire_one(now, job, seq, record);
        }
        if let Stream::Inbox { .. } = stream {
            self.regrant();
        }
    }

    fn retire_one(&mut self, now: Time, job: Job, seq: u64, record: Record) {
        match job.stream {
            Stream::Outbox { peer, lane } => {
                if let Some(peer) = self.peers.get_mut(&peer) {
                    peer.lane_mut(lane).loaded.retain(|(loaded, _)| *loaded != seq);
                }
                let outcome = if job.why == Why::Expired { Outcome::Expired } else { Outcome::Purged };
                self.leave(now, peer, lane, record, outcome);
            }
            Stream::Inbox { network } => {
                if let Some(mailbox) = self.mailboxes.get_mut(&network) {
                    mailbox.inbox.leave(record.body.len());
                }
            }
            Stream::Receipts { network } => {
                if let Some(mailbox) = self.mailboxes.get_mut(&network) {
                    mailbox.receipts.leave(record.body.len());
                    if let Ok(at) = mailbox.unread.binary_search_by_key(&seq, |unread| unread.seq) {
                        mailbox.unread.remove(at);
                    }
                }
                self.forget(network, record.head.id);
            }
            Stream::Audit => {}
        }
    }

    fn finish_job(&mut self, now: Time, job: Job) {
        if let Some(queue) = self.queue_mut(job.stream) {
            queue.refresh_expiry();
            let next = queue.expires_min;
            if queue.depth > 0 {
                self.expire_at(next.max(now + EXPIRY_PAUSE));
            }
        }
        if let Stream::Outbox { peer, .. } = job.stream {
            let busy = self
                .jobs
                .iter()
                .any(|other| matches!(other.stream, Stream::Outbox { peer: p, .. } if p == peer));
            if !busy && self.peers.get(&peer).is_some_and(|peer| peer.leaving) {
                self.bury(now, peer);
            }
        }
    }

    /// A removed peer has nothing left: forgets it.
    fn bury(&mut self, now: Time, key: PeerKey) {
        self.flush_tallies(now);
        for lane in crate::lane::lanes() {
            self.op(now, Op::Clear { stream: Stream::Outbox { peer: key, lane } });
        }
        if let Some(peer) = self.peers.remove(&key) {
            for lane in crate::lane::lanes() {
                for seq in peer.inbound.lane(lane).refusals.keys() {
                    self.delete(now, &Key::Refusal(key, lane, *seq));
                }
            }
        }
        for entry in [Key::Outbox(key), Key::Inbound(key), Key::Ready(key), Key::Rewind(key)] {
            self.delete(now, &entry);
        }
    }
}
