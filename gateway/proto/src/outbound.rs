//! The way out: from a lane's queue to the peer within its credit, and back as acknowledgement or refusal.

use std::time::Duration;

use bytes::Bytes;

use crate::core::{Action, After, Core, LoadFor};
use crate::frame::{BLOB_BYTES_MIN, BLOB_CHUNK_BYTES, BLOBS_MAX, Channel};
use crate::lane::{LaneOut, lanes};
use crate::link::LinkId;
use crate::queue::Found;
use crate::receipt::Outcome;
use crate::state::Key;
use crate::store::{Lane, Op, PeerKey, Record, Stream};
use crate::time::Time;
use crate::wire;

/// Bytes of envelopes in one frame. More costs fewer frames, and lets other lanes wait longer.
const FRAME_ITEM_BYTES: usize = 128 * 1024;

/// Envelopes in one frame.
const FRAME_ITEMS_MAX: usize = 512;

/// How much of a lane is read from the disk at a time. More means more memory per lane behind a slow link.
const LOAD_BYTES: usize = 256 * 1024;

/// Refusals that may wait for the acknowledgement that covers them, per lane.
const REFUSED_MAX: usize = 65_536;

/// What comes next on a lane.
enum Next {
    Record(u64, Record),
    Load(u64),
    Nothing,
}

/// One that left its lane while the lane was being served: reported once nothing is borrowed any more.
struct Left {
    lane: Lane,
    seq: u64,
    record: Record,
    outcome: Outcome,
}

impl LaneOut {
    /// The next record after `sent` that has not left.
    fn next(&mut self) -> Next {
        loop {
            if let Some((seq, record)) = self.loaded.front() {
                if *seq <= self.sent || self.queue.has_left(*seq) {
                    // Passed over for good: looking for it again would read it again.
                    self.sent = self.sent.max(*seq);
                    self.loaded.pop_front();
                    continue;
                }
                return Next::Record(*seq, record.clone());
            }
            match self.queue.find(self.sent) {
                Found::Nothing => return Next::Nothing,
                Found::OnDisk(from) => return Next::Load(from),
                Found::InMemory(index) => {
                    let Some((seq, record)) = self.queue.tail_at(index) else { return Next::Nothing };
                    if self.queue.has_left(seq) {
                        self.sent = seq;
                        continue;
                    }
                    return Next::Record(seq, record.clone());
                }
            }
        }
    }
}

/// A frame being filled.
#[derive(Default)]
struct Filling {
    first_seq: u64,
    next_seq: u64,
    items: Vec<wire::Item>,
    bytes: usize,
}

impl Filling {
    fn push(&mut self, told: u64, seq: u64, ttl_ms: u64, body: wire::item::Body, bytes: usize) {
        if self.items.is_empty() {
            self.first_seq = told + 1;
            self.next_seq = told + 1;
        }
        if seq > self.next_seq {
            let skip = wire::Skip { count: seq - self.next_seq };
            self.items.push(wire::Item { ttl_ms: 0, body: Some(wire::item::Body::Skip(skip)) });
        }
        self.items.push(wire::Item { ttl_ms, body: Some(body) });
        self.next_seq = seq + 1;
        self.bytes += bytes;
    }

    /// The last that it tells of; 0 when it is empty.
    fn told(&self) -> u64 {
        self.next_seq.saturating_sub(1)
    }

    fn is_full(&self) -> bool {
        self.bytes >= FRAME_ITEM_BYTES || self.items.len() >= FRAME_ITEMS_MAX
    }
}

impl Core {
    /// Sends what may be sent to a peer now.
    pub(crate) fn pump(&mut self, now: Time, key: PeerKey) {
        let mut left = Vec::new();
        let mut settled = Vec::new();
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let Some(link) = peer.link.filter(|_| peer.up) else { return };
        let was_idle = !peer.in_flight();
        let mut busy = true;
        while std::mem::take(&mut busy) {
            for offset in 0..peer.lanes.len() {
                let index = (usize::from(peer.first_lane) + offset) % peer.lanes.len();
                let Some(lane) = peer.lanes.get_mut(index) else { continue };
                let name = Lane(u8::try_from(index).expect("lanes are few"));
                let before = lane.queue.tail_bytes();
                let mut frame = Filling::default();
                while !frame.is_full() {
                    let (seq, record) = match lane.next() {
                        Next::Record(seq, record) => (seq, record),
                        Next::Load(from_seq) => {
                            if !lane.loading {
                                lane.loading = true;
                                let stream = lane.queue.stream;
                                let purpose = LoadFor::Lane(link);
                                self.actions.push_back(Action::Load {
                                    stream,
                                    from_seq,
                                    bytes_max: LOAD_BYTES,
                                    purpose,
                                });
                            }
                            break;
                        }
                        Next::Nothing => break,
                    };
                    let size = record.body.len() as u64;
                    if seq <= lane.settled_to {
                        let outcome = lane.outcome(seq);
                        lane.sent = seq;
                        left.push(Left { lane: name, seq, record, outcome });
                        continue;
                    }
                    if record.head.expires <= now {
                        lane.sent = seq;
                        lane.unsaved_to = seq;
                        left.push(Left { lane: name, seq, record, outcome: Outcome::Expired });
                        continue;
                    }
                    if size
                        > peer
                            .payload_bytes_max
                            .saturating_add(crate::envelope::ENVELOPE_OVERHEAD_BYTES_MAX as u64)
                    {
                        lane.sent = seq;
                        lane.unsaved_to = seq;
                        let nack =
                            wire::Nack { reason: wire::Refusal::TooLarge.into(), ..wire::Nack::default() };
                        left.push(Left { lane: name, seq, record, outcome: Outcome::Refused(nack) });
                        continue;
                    }
                    let large = is_large(&record);
                    if lane.unsaved_to > lane.told.max(frame.told()) {
                        break;
                    }
                    // Whatever the peer grants, no more than this is held in memory for it.
                    let too_much =
                        peer.flight_bytes > 0 && peer.flight_bytes + size > 2 * self.config.credit_bytes;
                    if too_much || !peer.credit.covers(size) || (large && peer.blobs >= BLOBS_MAX) {
                        break;
                    }
                    peer.credit.spend(size);
                    peer.flight_bytes += size;
                    let ttl_ms =
                        u64::try_from(record.head.expires.since(now).as_millis()).unwrap_or(u64::MAX);
                    if large {
                        peer.blobs += 1;
                        let blob_id = self.blob_next;
                        self.blob_next += 1;
                        let reference = wire::BlobRef { blob_id, bytes: size };
                        frame.push(lane.told, seq, ttl_ms, wire::item::Body::Blob(reference), 0);
                        send_blob(&mut self.actions, link, blob_id, &record.body);
                    } else {
                        let body = wire::item::Body::Envelope(record.body.clone());
                        frame.push(lane.told, seq, ttl_ms, body, record.body.len());
                    }
                    lane.sent = seq;
                    lane.flight.push_back((seq, record));
                }
                if lane.queue.acked < lane.settled_to {
                    if matches!(lane.queue.find(lane.sent), Found::Nothing) {
                        lane.sent = lane.sent.max(lane.settled_to);
                    }
                    // As far as it was read: what has its receipt must not be read again on the next link.
                    settled.push((name, lane.sent.min(lane.settled_to)));
                }
                lane.queue.release(lane.sent);
                self.resident_bytes = self.resident_bytes + lane.queue.tail_bytes() - before;
                if !frame.items.is_empty() {
                    busy = true;
                    lane.told = frame.next_seq - 1;
                    lane.sent_max = lane.sent_max.max(lane.told);
                    let body = wire::frame::Body::Data(wire::Data {
                        first_seq: frame.first_seq,
                        items: frame.items,
                    });
                    self.actions.push_back(Action::Send { link, channel: Channel::Lane(name), body });
                }
            }
        }
        peer.first_lane = (peer.first_lane + 1) % crate::store::LANES;
        if was_idle {
            peer.progress = now;
        }
        self.leave_out_of_turn(now, key, left);
        for (lane, seq) in settled {
            self.advance(now, key, lane, seq);
        }
    }

    /// Records of a lane that [`Action::Load`] asked for.
    pub(crate) fn lane_loaded(
        &mut self,
        now: Time,
        key: PeerKey,
        lane: Lane,
        link: LinkId,
        records: Vec<(u64, Record)>,
    ) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        // What was read for an earlier link starts where that one stood: on this one it would leave a hole.
        if peer.link != Some(link) {
            return;
        }
        let lane = peer.lane_mut(lane);
        lane.loading = false;
        // A read may see a commit before its completion is reported. What is sent must count as durable, or the
        // acknowledgement would be taken for a lie.
        let durable = lane.queue.durable;
        lane.loaded.extend(records.into_iter().take_while(|(seq, _)| *seq <= durable));
        self.pump(now, key);
    }

    /// The peer has everything of these lanes up to these marks on its disk.
    ///
    /// # Errors
    /// When it claims what was never sent.
    pub(crate) fn handle_ack(
        &mut self,
        now: Time,
        key: PeerKey,
        marks: &[wire::LaneMark],
    ) -> Result<(), &'static str> {
        for mark in marks {
            let lane = lane_named(mark.lane)?;
            let Some(peer) = self.peers.get_mut(&key) else { return Ok(()) };
            let out = peer.lane_mut(lane);
            if mark.seq > out.queue.durable {
                return Err("acknowledged what was never sent");
            }
            out.rewound &= mark.seq < out.queue.acked;
            if mark.seq <= out.queue.acked {
                continue;
            }
            peer.progress = now;
            self.settle(now, key, lane, mark.seq);
        }
        self.end_rewind(now, key);
        self.pump(now, key);
        Ok(())
    }

    /// Whether a peer's watermarks may be behind what it had acknowledged.
    pub(crate) fn allow_rewind(&mut self, now: Time, key: PeerKey, allowed: bool) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        peer.rewind_allowed = allowed;
        if allowed {
            self.put(now, &Key::Rewind(key), Bytes::new());
        } else {
            self.delete(now, &Key::Rewind(key));
        }
    }

    /// Once the peer has taken note of what it lost, another loss is an alarm again.
    pub(crate) fn end_rewind(&mut self, now: Time, key: PeerKey) {
        let Some(peer) = self.peers.get(&key) else { return };
        if peer.rewind_allowed && peer.lanes.iter().all(|lane| !lane.rewound) {
            self.allow_rewind(now, key, false);
        }
    }

    /// Takes what is in flight up to `seq` as delivered or refused. What was not sent on this link is known to
    /// be there all the same; [`Core::pump`] accounts for it as it reads it.
    fn settle(&mut self, now: Time, key: PeerKey, lane: Lane, seq: u64) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let out = peer.lane_mut(lane);
        out.told = out.told.max(seq);
        out.settled_to = out.settled_to.max(seq);
        let mut left = Vec::new();
        let (mut blobs, mut bytes) = (0, 0);
        while let Some((first, _)) = out.flight.front() {
            if *first > seq {
                break;
            }
            let Some((first, record)) = out.flight.pop_front() else { break };
            let outcome = out.outcome(first);
            blobs += usize::from(is_large(&record));
            bytes += record.body.len() as u64;
            left.push((record, outcome));
        }
        let reached = seq.min(out.sent);
        peer.blobs -= blobs;
        peer.flight_bytes -= bytes;
        if let Some((record, _)) = left.first() {
            let latency = now.since(record.head.at);
            peer.latency.measured(now, latency);
            self.actions.push_back(Action::Latency(latency));
        }
        for (record, outcome) in left {
            self.leave(now, key, lane, record, outcome);
        }
        self.advance(now, key, lane, reached);
    }

    /// Moves a lane's acknowledged position: everything up to `seq` has been accounted for.
    fn advance(&mut self, now: Time, key: PeerKey, lane: Lane, seq: u64) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let link = peer.link;
        let out = peer.lane_mut(lane);
        if seq <= out.queue.acked {
            return;
        }
        let before = out.queue.tail_bytes();
        let emptied = out.queue.ack(seq);
        let after = out.queue.tail_bytes();
        let stream = out.queue.stream;
        // Also a refusal of what had left otherwise meanwhile: the peer keeps it until it hears of it.
        let kept = out.refused.split_off(&(seq + 1));
        let covered = !std::mem::replace(&mut out.refused, kept).is_empty();
        let had_refusals = std::mem::take(&mut out.refusals_since_settled) || covered;
        self.resident_bytes = self.resident_bytes + after - before;
        self.erase(now, stream, seq, emptied);
        if had_refusals && let Some(link) = link {
            let marks = vec![wire::LaneMark { lane: lane.0.into(), seq }];
            self.after_commit(now, After::Send(link, wire::frame::Body::Settled(wire::Settled { marks })));
        }
    }

    /// The peer refuses an envelope. The acknowledgement that covers it follows.
    ///
    /// # Errors
    /// When there is no such envelope, or too many refusals wait.
    pub(crate) fn handle_nack(&mut self, key: PeerKey, nack: wire::Nack) -> Result<(), &'static str> {
        let lane = lane_named(nack.lane)?;
        let Some(peer) = self.peers.get_mut(&key) else { return Ok(()) };
        let out = peer.lane_mut(lane);
        if nack.seq > out.queue.durable {
            return Err("refused what was never sent");
        }
        out.refusals_since_settled = true;
        if nack.seq > out.queue.acked {
            if out.refused.len() >= REFUSED_MAX {
                return Err("too many refusals without an acknowledgement");
            }
            out.refused.insert(nack.seq, nack);
        }
        Ok(())
    }

    /// Records that left before those in front of them.
    fn leave_out_of_turn(&mut self, now: Time, key: PeerKey, left: Vec<Left>) {
        for Left { lane, seq, record, outcome } in left {
            let Some(peer) = self.peers.get_mut(&key) else { return };
            let settled = seq <= peer.lane_mut(lane).settled_to;
            if !settled {
                // Not covered by an acknowledgement: the mark keeps it from being reported twice.
                let stream = peer.lane_mut(lane).queue.stream;
                if let Some(block) = peer.lane_mut(lane).queue.block_from(seq) {
                    self.mark_gone(now, stream, block.first_seq, &[seq]);
                }
            }
            self.leave(now, key, lane, record, outcome);
        }
    }

    /// Marks records of a block as gone, in memory and with the next commit.
    pub(crate) fn mark_gone(&mut self, now: Time, stream: Stream, block_first: u64, seqs: &[u64]) {
        if let Stream::Outbox { peer, lane } = stream
            && let Some(peer) = self.peers.get_mut(&peer)
            && let Some(last) = seqs.iter().max()
        {
            let lane = peer.lane_mut(lane);
            lane.unsaved_to = lane.unsaved_to.max(*last);
            self.left_out_of_turn(stream, *last);
        }
        let Some(queue) = self.queue_mut(stream) else { return };
        match queue.mark_gone(block_first, seqs) {
            Some((first_seq, Some(bits))) => self.put(now, &Key::Gone(stream, first_seq), bits),
            Some((first_seq, None)) => {
                self.delete(now, &Key::Gone(stream, first_seq));
                self.op(now, Op::Remove { stream, first_seq });
            }
            None => {}
        }
        self.moved(now, stream);
    }

    /// Something in flight must have arrived within `STALLED`, and the time that a slow line needs for all of it,
    /// or the link is taken for dead.
    pub(crate) fn check_progress(&mut self, now: Time, link: LinkId) {
        let Some(key) = self.links.get(&link).and_then(|l| l.peer) else { return };
        let Some(peer) = self.peers.get(&key) else { return };
        if peer.link != Some(link) {
            return;
        }
        let patience = STALLED + Duration::from_secs(peer.flight_bytes / SLOW_LINE_BYTES_PER_S);
        if peer.in_flight() && now.since(peer.progress) >= patience {
            let goaway = wire::Goaway {
                reason: wire::Reason::Stalled.into(),
                retry_after_ms: 0,
                detail: "envelopes were not acknowledged for too long".to_owned(),
            };
            self.close(now, link, Some(goaway), "the peer acknowledged nothing for too long: link torn down");
        } else {
            self.timers.set(crate::timer::Timer::Progress(link), now + PROGRESS_CHECK);
        }
    }
}

/// Envelopes in flight that make no progress for this long mean a dead link.
const STALLED: Duration = Duration::from_secs(30);

/// Large envelopes side by side arrive all at the end: a line this slow is given the time for them. Less finds a
/// peer that only pretends later, more tears down slow links again and again with nothing delivered.
const SLOW_LINE_BYTES_PER_S: u64 = 64 * 1024;

/// How often progress is looked at.
pub(crate) const PROGRESS_CHECK: Duration = Duration::from_secs(5);

/// Whether a record travels on a channel of its own.
fn is_large(record: &Record) -> bool {
    record.body.len() >= BLOB_BYTES_MIN
}

fn send_blob(actions: &mut std::collections::VecDeque<Action>, link: LinkId, blob_id: u64, body: &Bytes) {
    let mut offset = 0;
    while offset < body.len() {
        let end = (offset + BLOB_CHUNK_BYTES).min(body.len());
        let blob = wire::Blob { blob_id, chunk: body.slice(offset..end), last: end == body.len() };
        actions.push_back(Action::Send {
            link,
            channel: Channel::Blob(blob_id),
            body: wire::frame::Body::Blob(blob),
        });
        offset = end;
    }
}

/// A lane by its number on the wire.
pub(crate) fn lane_named(number: u32) -> Result<Lane, &'static str> {
    lanes().find(|lane| u32::from(lane.0) == number).ok_or("no such lane")
}
