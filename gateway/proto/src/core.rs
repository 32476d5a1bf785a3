//! The core of a gateway: all its state, and the order in which things may happen.
//!
//! The shell calls `handle_*` and the operations with the present time, then drains [`Core::poll_action`],
//! [`Core::poll_commit`] and [`Core::poll_timeout`] before the next input. **Persist, then send**: a change is
//! collected for the next commit together with everything that may only be said once it is durable; the shell
//! saves the commit, reports [`Core::handle_committed`], and only then do replies and acknowledgements come out.
//! When a commit fails the core is dropped and made anew from what the store holds: there is no other recovery.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use trunkline_common::ids::Domain;

use crate::admin::{AdminError, AdminReply, Totals};
use crate::audit::Entry;
use crate::directory::Directory;
use crate::envelope::ENVELOPE_OVERHEAD_BYTES_MAX;
use crate::frame::Channel;
use crate::lane::lanes;
use crate::link::{Link, LinkId};
use crate::peer::Peer;
use crate::queue::{BLOCK_BYTES_MAX, BLOCK_RECORDS_MAX, Emptied, Queue};
use crate::retire::Job;
use crate::rng::Rng;
use crate::state::{Key, to_numbers};
use crate::store::{BlockInfo, Commit, LANES, NetworkKey, Op, PeerKey, Record, StateKey, Stream};
use crate::time::Time;
use crate::timer::{Timer, Timers};
use crate::wire;

/// What an operator may tune, and what the shell knows better.
#[derive(Clone, Debug)]
pub struct Config {
    /// Our federation domain.
    pub domain: Domain,
    /// Largest payload accepted from messaging servers and peers.
    pub payload_bytes_max: usize,
    /// Longest time anything waits, and how long receipts do.
    pub retention: Duration,
    /// Bytes that may wait for one peer. A dead peer cannot take more of the disk.
    pub peer_quota_bytes: u64,
    /// Bytes that may wait for one network before its peers are slowed down.
    pub inbox_quota_bytes: u64,
    /// Bytes of envelopes kept in memory for readers that keep up. More needs fewer reads behind a slow link.
    pub resident_bytes_max: usize,
    /// What a peer may have in flight towards us. Must cover bandwidth × round-trip time.
    pub credit_bytes: u64,
    /// See `credit_bytes`.
    pub credit_messages: u64,
    /// How long a commit may wait for company when there is much to do. More saves disk writes.
    pub commit_delay: Duration,
    /// What a store that has none gets as its epoch; random.
    pub fresh_epoch: [u8; 16],
    /// Seed for jitter.
    pub seed: u64,
}

impl Config {
    /// The defaults for `domain`.
    #[must_use]
    pub fn new(domain: Domain) -> Self {
        Self {
            domain,
            payload_bytes_max: trunkline_common::limits::PAYLOAD_BYTES_MAX,
            retention: Duration::from_secs(30 * 24 * 3600),
            peer_quota_bytes: 16 << 30,
            inbox_quota_bytes: 16 << 30,
            resident_bytes_max: 16 << 20,
            credit_bytes: 16 << 20,
            credit_messages: 65_536,
            commit_delay: Duration::from_millis(2),
            fresh_epoch: [0; 16],
            seed: 0,
        }
    }
}

/// Names a call of the shell whose answer comes later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// What a [`Action::Load`] is for; handed back with the records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadFor {
    /// A lane that is read from the disk, to be sent on this link.
    Lane(LinkId),
    /// A reader of an inbox, of receipts or of the audit log.
    Reader {
        /// Whose call.
        ticket: Ticket,
        /// At most so many.
        max: usize,
    },
    /// Expiry or purge.
    Retire,
}

/// What the shell is asked to do, in this order.
#[derive(Debug)]
pub enum Action {
    /// Send a frame.
    Send {
        /// On which link.
        link: LinkId,
        /// On which channel.
        channel: Channel,
        /// What.
        body: wire::frame::Body,
    },
    /// Close a link, after what was sent before.
    Close {
        /// Which.
        link: LinkId,
        /// What to say last.
        goaway: Option<wire::Goaway>,
    },
    /// Connect to a peer. Answered by [`Core::handle_opened`] or [`Core::handle_dial_failed`].
    Dial(PeerKey),
    /// See whether a peer that is linked over TCP can be reached over QUIC. Answered by [`Core::handle_opened`]
    /// only when it can.
    Probe(PeerKey),
    /// Read from the store. Answered by [`Core::handle_loaded`].
    Load {
        /// Which stream.
        stream: Stream,
        /// From where.
        from_seq: u64,
        /// Until so many bytes.
        bytes_max: usize,
        /// To be handed back.
        purpose: LoadFor,
    },
    /// Answer a call.
    Reply(Ticket, Reply),
    /// The directory changed, durably: publish it.
    DirectoryChanged,
    /// Tell operators.
    Event {
        /// For example `link.up`.
        kind: &'static str,
        /// Which peer, when one is concerned.
        peer: Option<Domain>,
        /// A sentence.
        detail: String,
    },
    /// The audit log has this entry, durably: tell operators.
    Audited(Entry),
    /// An envelope took this long from submission to acknowledgement. A sample, not every one.
    Latency(Duration),
}

/// The answer to a call.
#[derive(Debug)]
pub enum Reply {
    /// To a submission: one result each, durable.
    Submitted(Vec<wire::SubmitResult>),
    /// To a read.
    Records(Vec<(u64, Record)>),
    /// To an acknowledgement: durable.
    Acked,
    /// To an operator: durable.
    Admin(Result<AdminReply, AdminError>),
}

/// What waits for a commit to be durable.
#[derive(Debug)]
pub(crate) enum After {
    Reply(Ticket, Reply),
    Send(LinkId, wire::frame::Body),
    DirectoryChanged,
    Audited(Entry),
}

/// The next commit, as it is collected.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    pub(crate) ops: Vec<Op>,
    pub(crate) puts: BTreeMap<StateKey, Option<Bytes>>,
    appends: BTreeMap<Stream, Vec<Record>>,
    /// The last of each lane that left out of turn.
    left: BTreeMap<Stream, u64>,
    outboxes: BTreeSet<PeerKey>,
    positions: BTreeSet<Stream>,
    /// Lanes whose watermark moved, a bit each.
    inbound: BTreeMap<PeerKey, u16>,
    /// Bytes and messages taken in from a link.
    taken: BTreeMap<LinkId, (u64, u64)>,
    pub(crate) after: Vec<After>,
    records: usize,
    bytes: usize,
    since: Option<Time>,
}

impl Pending {
    fn is_full(&self) -> bool {
        self.bytes >= COMMIT_BYTES_MAX || self.records >= COMMIT_RECORDS_MAX
    }
}

/// A commit that the shell is saving.
#[derive(Debug)]
struct Committing {
    durable: Vec<(Stream, u64)>,
    left: BTreeMap<Stream, u64>,
    /// Which lanes came how far, and in which epoch of the peer's store.
    marks: Vec<(PeerKey, Option<[u8; 16]>, Vec<wire::LaneMark>)>,
    taken: BTreeMap<LinkId, (u64, u64)>,
    after: Vec<After>,
}

/// A receipt that was not read yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unread {
    pub(crate) seq: u64,
    pub(crate) id: [u8; 16],
    /// Whether it says so; false where only its head is known, after a restart.
    pub(crate) delivered: bool,
}

/// A network's queues and whoever waits for them.
#[derive(Debug)]
pub(crate) struct Mailbox {
    pub(crate) inbox: Queue,
    pub(crate) receipts: Queue,
    /// Receipts that were not read yet.
    pub(crate) unread: VecDeque<Unread>,
    pub(crate) waiting: Vec<Waiting>,
    /// Removed by the operator: what it still holds goes.
    pub(crate) leaving: bool,
}

/// A long poll.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) ticket: Ticket,
    pub(crate) stream: Stream,
    pub(crate) after: u64,
    pub(crate) max: usize,
    pub(crate) until: Time,
}

/// An envelope id within its network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct IdKey([u8; 20]);

impl IdKey {
    pub(crate) fn new(network: NetworkKey, id: [u8; 16]) -> Self {
        let mut key = [0; 20];
        let (net, rest) = key.split_at_mut(4);
        net.copy_from_slice(&network.0.to_be_bytes());
        rest.copy_from_slice(&id);
        Self(key)
    }

    pub(crate) fn belongs_to(&self, network: NetworkKey) -> bool {
        self.0.starts_with(&network.0.to_be_bytes())
    }
}

/// Bytes that one answer to a reader carries at most.
pub(crate) const READ_BYTES_MAX: usize = 1 << 20;

/// Bytes that make a commit due at once, and no more input welcome until it is. More saves syncs, and makes
/// everybody in the next commit wait longer.
const COMMIT_BYTES_MAX: usize = 1 << 20;

/// Records that do the same: receipts are small.
const COMMIT_RECORDS_MAX: usize = 4096;

/// A commit with fewer records than this goes out at once: waiting would only add latency.
const COMMIT_RECORDS_BUSY: usize = 64;

/// The core. See the module's documentation for how it is driven.
#[derive(Debug)]
pub struct Core {
    pub(crate) config: Config,
    pub(crate) epoch: [u8; 16],
    pub(crate) directory: Directory,
    pub(crate) next_peer: u32,
    pub(crate) next_network: u32,
    pub(crate) peers: BTreeMap<PeerKey, Peer>,
    pub(crate) mailboxes: BTreeMap<NetworkKey, Mailbox>,
    pub(crate) audit: Queue,
    pub(crate) audit_head: String,
    pub(crate) next_certificate: Option<Bytes>,
    /// Ids that must be recognised when they are submitted again, with how many queue entries and unread
    /// receipts stand for each.
    pub(crate) ids: HashMap<IdKey, u16>,
    /// Those whose last receipts were read a moment ago, with when they are forgotten.
    pub(crate) ids_read: VecDeque<(Time, NetworkKey, [u8; 16])>,
    pub(crate) links: BTreeMap<LinkId, Link>,
    pub(crate) jobs: VecDeque<Job>,
    pub(crate) job_loading: bool,
    pub(crate) pending: Pending,
    committing: Option<Committing>,
    /// Records in the last commit: whether it pays to wait for company.
    last_records: usize,
    pub(crate) actions: VecDeque<Action>,
    pub(crate) timers: Timers,
    pub(crate) rng: Rng,
    pub(crate) totals: Totals,
    /// Counts for the audit log since it was last written: peer, what.
    pub(crate) tallies: BTreeMap<(PeerKey, &'static str), u64>,
    pub(crate) resident_bytes: usize,
    pub(crate) blob_next: u64,
    /// Some peer is without credit because of a full inbox, a full disk or unsettled refusals.
    pub(crate) credit_held: bool,
    /// The disk is nearly full: nothing new is taken.
    pub(crate) storage_low: bool,
    /// On the way down: nothing is dialled any more.
    pub(crate) stopping: bool,
}

impl Core {
    /// Longest time anything that comes in now waits: as an administrator set it, or as it was configured.
    pub(crate) fn retention(&self) -> Duration {
        self.directory.settings().retention_s.map_or(self.config.retention, Duration::from_secs)
    }

    pub(crate) fn blank(mut config: Config) -> Self {
        // The largest envelope must fit into the credit, or it would wait for ever.
        let envelope_bytes_max = (config.payload_bytes_max + ENVELOPE_OVERHEAD_BYTES_MAX) as u64;
        config.credit_bytes = config.credit_bytes.max(2 * envelope_bytes_max);
        let rng = Rng::new(config.seed);
        Self {
            epoch: [0; 16],
            directory: Directory::default(),
            next_peer: 1,
            next_network: 1,
            peers: BTreeMap::new(),
            mailboxes: BTreeMap::new(),
            audit: Queue::new(Stream::Audit),
            audit_head: crate::audit::genesis(),
            next_certificate: None,
            ids: HashMap::new(),
            ids_read: VecDeque::new(),
            links: BTreeMap::new(),
            jobs: VecDeque::new(),
            job_loading: false,
            pending: Pending::default(),
            committing: None,
            last_records: 0,
            actions: VecDeque::new(),
            timers: Timers::default(),
            rng,
            totals: Totals::default(),
            tallies: BTreeMap::new(),
            resident_bytes: 0,
            blob_next: 0,
            credit_held: false,
            storage_low: false,
            stopping: false,
            config,
        }
    }

    /// Who is who. What the shell publishes after [`Action::DirectoryChanged`].
    #[must_use]
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// The next thing to do; `None` when all is done.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Core::handle_timeout`] must be called next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        self.timers.next()
    }

    /// The next commit to save, when one is due and none is being saved. Must be called after every input.
    pub fn poll_commit(&mut self, now: Time) -> Option<Commit> {
        if self.committing.is_some() {
            return None;
        }
        let since = self.pending.since?;
        let busy = self.last_records.max(self.pending.records) >= COMMIT_RECORDS_BUSY;
        let due = if busy { since + self.config.commit_delay } else { since };
        if now < due && !self.pending.is_full() {
            self.timers.set_earlier(Timer::Commit, due);
            return None;
        }
        self.timers.cancel(Timer::Commit);
        Some(self.build_commit(now))
    }

    /// Whether the next commit is as large as it should become while another one is being saved. Until that one
    /// is, the shell should bring nothing but what the store and the clock say: whoever sends slows down then, and
    /// no commit grows so large that everybody waits for it.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.committing.is_some() && self.pending.is_full()
    }

    /// The commit that [`Core::poll_commit`] gave is on the disk.
    pub fn handle_committed(&mut self, now: Time) {
        let done = self.committing.take().expect("a commit was being saved");
        self.totals.commits += 1;
        let mut pump = BTreeSet::new();
        let mut wake = BTreeSet::new();
        for (stream, seq) in done.durable {
            if let Some(queue) = self.queue_mut(stream) {
                queue.durable = queue.durable.max(seq);
            }
            match stream {
                Stream::Outbox { peer, .. } => drop(pump.insert(peer)),
                Stream::Inbox { network } | Stream::Receipts { network } => drop(wake.insert(network)),
                Stream::Audit => {}
            }
        }
        for (stream, seq) in done.left {
            if let Stream::Outbox { peer, lane } = stream
                && let Some(peer) = self.peers.get_mut(&peer)
            {
                let lane = peer.lane_mut(lane);
                if lane.unsaved_to <= seq {
                    lane.unsaved_to = 0;
                }
                pump.insert(peer.key);
            }
        }
        // Refusals are among these, and must be said before the acknowledgements that cover them.
        for after in done.after {
            match after {
                After::Reply(ticket, reply) => self.actions.push_back(Action::Reply(ticket, reply)),
                After::Send(link, body) => self.send(link, body),
                After::DirectoryChanged => self.actions.push_back(Action::DirectoryChanged),
                After::Audited(entry) => self.actions.push_back(Action::Audited(entry)),
            }
        }
        for (peer, epoch, marks) in done.marks {
            self.acknowledge(peer, epoch, marks);
        }
        for (link, (bytes, messages)) in done.taken {
            self.grant_credit(link, bytes, messages);
        }
        pump.into_iter().for_each(|peer| self.pump(now, peer));
        wake.into_iter().for_each(|network| self.wake_readers(now, network));
        self.step_jobs(now);
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Time) {
        while let Some(timer) = self.timers.pop(now) {
            match timer {
                // poll_commit looks at the time itself.
                Timer::Commit => {}
                Timer::Expiry => self.start_expiry(now),
                Timer::AuditFlush => self.flush_tallies(now),
                Timer::Dial(peer) => self.dial(now, peer),
                Timer::Handshake(link) => self.handshake_late(now, link),
                Timer::Idle(link) => self.link_idle(now, link),
                Timer::Progress(link) => self.check_progress(now, link),
                Timer::Wait(network) => self.end_waits(now, network),
            }
        }
    }

    /// The disk is nearly full, or no longer. While it is, submissions are refused and peers are not granted
    /// more.
    pub fn set_storage_low(&mut self, low: bool) {
        if low == self.storage_low {
            return;
        }
        self.storage_low = low;
        let (kind, detail) = if low {
            ("storage.low", "free disk space is below the reserve: nothing new is taken until there is more")
        } else {
            ("storage.ok", "there is free disk space again")
        };
        self.event(kind, None, detail.to_owned());
        if !low {
            self.regrant();
        }
    }

    /// Collects counts for the audit log and says goodbye to all peers. Commits go on until the shell stops.
    pub fn stop(&mut self, now: Time) {
        self.stopping = true;
        self.flush_tallies(now);
        let goaway = wire::Goaway {
            reason: wire::Reason::Shutdown.into(),
            retry_after_ms: 1000,
            detail: "the gateway is being stopped".to_owned(),
        };
        for link in self.links.keys().copied().collect::<Vec<_>>() {
            self.close(now, link, Some(goaway.clone()), "stopping");
        }
        let waiting = self.mailboxes.values_mut().flat_map(|mailbox| mailbox.waiting.drain(..));
        let replies = waiting.map(|waiting| Action::Reply(waiting.ticket, Reply::Records(Vec::new())));
        self.actions.extend(replies.collect::<Vec<_>>());
    }

    /// Whether everything that was promised is durable.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.committing.is_none() && self.pending.since.is_none()
    }

    // ------------------------------------------------------------ collecting the next commit

    fn touch(&mut self, now: Time) {
        self.pending.since.get_or_insert(now);
    }

    pub(crate) fn put(&mut self, now: Time, key: &Key, value: Bytes) {
        self.touch(now);
        self.pending.puts.insert(key.encode(), Some(value));
    }

    pub(crate) fn delete(&mut self, now: Time, key: &Key) {
        self.touch(now);
        self.pending.puts.insert(key.encode(), None);
    }

    pub(crate) fn op(&mut self, now: Time, op: Op) {
        self.touch(now);
        self.pending.ops.push(op);
    }

    /// Says something once everything collected so far is durable.
    pub(crate) fn after_commit(&mut self, now: Time, after: After) {
        self.touch(now);
        self.pending.after.push(after);
    }

    /// Appends a record to a stream with the next commit.
    pub(crate) fn append(&mut self, now: Time, stream: Stream, record: Record) {
        let live = match stream {
            Stream::Outbox { peer, .. } => self.peers.get(&peer).is_some_and(Peer::is_up),
            Stream::Inbox { .. } | Stream::Receipts { .. } => true,
            Stream::Audit => false,
        };
        let keep = live && self.resident_bytes + record.body.len() <= self.config.resident_bytes_max;
        let Some(queue) = self.queue_mut(stream) else { return };
        let before = queue.tail_bytes();
        queue.append(std::slice::from_ref(&record), keep);
        let (after, expires) = (queue.tail_bytes(), queue.expires_min);
        self.resident_bytes = self.resident_bytes + after - before;
        self.pending.records += 1;
        self.pending.bytes += record.body.len();
        self.pending.appends.entry(stream).or_default().push(record);
        self.moved(now, stream);
        self.expire_at(expires.max(now + EXPIRY_PAUSE));
    }

    /// Something may have expired by then.
    pub(crate) fn expire_at(&mut self, at: Time) {
        if at < Time::NEVER {
            self.timers.set_earlier(Timer::Expiry, at);
        }
    }

    /// A stream's position must be saved.
    pub(crate) fn moved(&mut self, now: Time, stream: Stream) {
        self.touch(now);
        match stream {
            Stream::Outbox { peer, .. } => drop(self.pending.outboxes.insert(peer)),
            other => drop(self.pending.positions.insert(other)),
        }
    }

    /// Everything of a stream up to `up_to` has left: erases it with the next commit.
    pub(crate) fn erase(&mut self, now: Time, stream: Stream, up_to: u64, emptied: Emptied) {
        if emptied.truncate {
            self.op(now, Op::Truncate { stream, up_to });
        }
        if let Some(first_seq) = emptied.straddling {
            self.op(now, Op::Remove { stream, first_seq });
        }
        for first_seq in emptied.marks {
            self.delete(now, &Key::Gone(stream, first_seq));
        }
        self.moved(now, stream);
    }

    /// A lane's watermark moved.
    pub(crate) fn watermark_moved(&mut self, now: Time, peer: PeerKey, lane: crate::store::Lane) {
        self.touch(now);
        *self.pending.inbound.entry(peer).or_default() |= 1 << lane.0;
    }

    /// A record of a lane left before those in front of it.
    pub(crate) fn left_out_of_turn(&mut self, lane: Stream, seq: u64) {
        let last = self.pending.left.entry(lane).or_default();
        *last = (*last).max(seq);
    }

    /// So much was taken in from a link: credit for it is granted once it is durable.
    pub(crate) fn took(&mut self, now: Time, link: LinkId, bytes: u64, messages: u64) {
        self.touch(now);
        let taken = self.pending.taken.entry(link).or_default();
        taken.0 += bytes;
        taken.1 += messages;
    }

    /// Forgets what was collected for a stream but not handed to the store: a purge got there first.
    pub(crate) fn pending_appends(&mut self, stream: Stream) -> Option<Vec<Record>> {
        self.pending.appends.remove(&stream)
    }

    fn build_commit(&mut self, now: Time) -> Commit {
        let mut pending = std::mem::take(&mut self.pending);
        self.last_records = pending.records;
        let mut ops = pending.ops;
        let mut durable = Vec::with_capacity(pending.appends.len());
        let mut expires_min = Time::NEVER;
        for (stream, records) in pending.appends {
            let Some(queue) = self.queue_mut(stream) else { continue };
            let last = queue.next_seq - 1;
            let mut first_seq = queue.next_seq - records.len() as u64;
            durable.push((stream, last));
            for records in split_blocks(records) {
                let info = measure(first_seq, &records);
                let age = records.iter().map(|record| record.head.at).min().unwrap_or(now);
                queue.push_block(info, age);
                expires_min = expires_min.min(info.expires_min);
                ops.push(Op::Append { stream, first_seq, records });
                first_seq += u64::from(info.count);
            }
        }
        self.expire_at(expires_min.max(now + EXPIRY_PAUSE));
        for peer in pending.outboxes {
            if let Some(state) = self.peers.get(&peer) {
                let numbers = state.lanes.iter().flat_map(|lane| [lane.queue.acked, lane.queue.next_seq]);
                pending.puts.insert(Key::Outbox(peer).encode(), Some(to_numbers(numbers)));
            }
        }
        for stream in pending.positions {
            if let Some(queue) = self.queue_mut(stream) {
                let numbers = [queue.acked, queue.next_seq];
                pending.puts.insert(Key::Position(stream).encode(), Some(to_numbers(numbers)));
            }
        }
        let mut marks = Vec::with_capacity(pending.inbound.len());
        for (peer, mask) in pending.inbound {
            let Some(state) = self.peers.get(&peer) else { continue };
            pending.puts.insert(Key::Inbound(peer).encode(), Some(state.inbound.encode()));
            let mark = |lane: crate::store::Lane| wire::LaneMark {
                lane: lane.0.into(),
                seq: state.inbound.lane(lane).received,
            };
            let moved = lanes().filter(|lane| mask & (1 << lane.0) != 0).map(mark).collect();
            marks.push((peer, state.inbound.epoch, moved));
        }
        ops.extend(pending.puts.into_iter().map(|(key, value)| match value {
            Some(value) => Op::Put { key, value },
            None => Op::Delete { key },
        }));
        self.committing = Some(Committing {
            durable,
            left: pending.left,
            marks,
            taken: pending.taken,
            after: pending.after,
        });
        Commit { ops, now }
    }

    // ------------------------------------------------------------ small helpers

    pub(crate) fn queue_mut(&mut self, stream: Stream) -> Option<&mut Queue> {
        match stream {
            Stream::Outbox { peer, lane } => Some(&mut self.peers.get_mut(&peer)?.lane_mut(lane).queue),
            Stream::Inbox { network } => Some(&mut self.mailboxes.get_mut(&network)?.inbox),
            Stream::Receipts { network } => Some(&mut self.mailboxes.get_mut(&network)?.receipts),
            Stream::Audit => Some(&mut self.audit),
        }
    }

    pub(crate) fn send(&mut self, link: LinkId, body: wire::frame::Body) {
        if self.links.contains_key(&link) {
            self.actions.push_back(Action::Send { link, channel: Channel::Control, body });
        }
    }

    pub(crate) fn event(&mut self, kind: &'static str, peer: Option<Domain>, detail: String) {
        self.actions.push_back(Action::Event { kind, peer, detail });
    }

    /// Counts what left an outbox, or was refused to a peer, for the audit log.
    pub(crate) fn tally(&mut self, now: Time, peer: PeerKey, what: &'static str, count: u64) {
        if count > 0 {
            *self.tallies.entry((peer, what)).or_default() += count;
            self.timers.set_earlier(Timer::AuditFlush, now + AUDIT_PAUSE);
        }
    }
}

/// Expiry is looked at no more often than this.
pub(crate) const EXPIRY_PAUSE: Duration = Duration::from_secs(1);

/// Counts go to the audit log no more often than this.
const AUDIT_PAUSE: Duration = Duration::from_secs(3600);

impl Mailbox {
    pub(crate) fn new(network: NetworkKey) -> Self {
        Self {
            inbox: Queue::new(Stream::Inbox { network }),
            receipts: Queue::new(Stream::Receipts { network }),
            unread: VecDeque::new(),
            waiting: Vec::new(),
            leaving: false,
        }
    }
}

fn measure(first_seq: u64, records: &[Record]) -> BlockInfo {
    BlockInfo {
        first_seq,
        count: u32::try_from(records.len()).expect("bounded by BLOCK_RECORDS_MAX"),
        bytes: records.iter().map(|record| record.body.len() as u64).sum(),
        expires_min: records.iter().map(|record| record.head.expires).min().unwrap_or(Time::NEVER),
    }
}

/// Cuts a run of records into blocks within the limits.
fn split_blocks(records: Vec<Record>) -> Vec<Vec<Record>> {
    let mut blocks = Vec::with_capacity(1);
    let mut block: Vec<Record> = Vec::with_capacity(records.len().min(BLOCK_RECORDS_MAX));
    let mut bytes = 0;
    for record in records {
        let full = block.len() >= BLOCK_RECORDS_MAX || bytes + record.body.len() > BLOCK_BYTES_MAX;
        if full && !block.is_empty() {
            blocks.push(std::mem::take(&mut block));
            bytes = 0;
        }
        bytes += record.body.len();
        block.push(record);
    }
    blocks.push(block);
    blocks
}

const _: () = assert!(LANES as u32 <= u16::BITS, "a commit notes moved lanes in 16 bits");
