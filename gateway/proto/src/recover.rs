//! Making the core from what a store holds: the only way it starts, whether on the first day or after a crash.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use thiserror::Error;
use trunkline_common::ids::Domain;

use crate::core::{Config, Core, Mailbox, Unread};
use crate::directory::PeerRecord;
use crate::lane::lanes;
use crate::peer::Peer;
use crate::pin::Pin;
use crate::retire::{Job, Why};
use crate::state::{Key, StateError, from_json, from_numbers};
use crate::store::{BlockInfo, Head, PeerKey, Recovered, Stream};
use crate::time::Time;
use crate::wire;

/// Why a core cannot be made from a store.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RecoverError {
    /// The store does not read as what was written.
    #[error(transparent)]
    State(#[from] StateError),
    /// The store is another deployment's.
    #[error(
        "`domain`: the store belongs to {stored}, the configuration says {configured}: a deployment never changes \
         its domain; set it back, or make a new gateway with `init`"
    )]
    Domain {
        /// Whose store it is.
        stored: Domain,
        /// What was configured.
        configured: Domain,
    },
}

/// Collects what [`Recovered`] items say, then becomes a core.
#[derive(Debug)]
pub struct Recovery {
    core: Core,
    fresh: bool,
    domain: Option<Domain>,
    outboxes: BTreeMap<PeerKey, Vec<u64>>,
    positions: Vec<(Stream, Vec<u64>)>,
    gone: Vec<(Stream, u64, Bytes)>,
    inbound: Vec<(PeerKey, Bytes)>,
    refusals: Vec<(PeerKey, wire::Nack)>,
    ready: Vec<(PeerKey, Pin)>,
    rewind: Vec<PeerKey>,
    positioned: bool,
}

impl Recovery {
    /// Starts with nothing.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            core: Core::blank(config),
            fresh: true,
            domain: None,
            outboxes: BTreeMap::new(),
            positions: Vec::new(),
            gone: Vec::new(),
            inbound: Vec::new(),
            refusals: Vec::new(),
            ready: Vec::new(),
            rewind: Vec::new(),
            positioned: false,
        }
    }

    /// Takes one thing found in the store: all state first, then all blocks.
    ///
    /// # Errors
    /// When it does not read as what was written.
    pub fn add(&mut self, now: Time, found: Recovered) -> Result<(), StateError> {
        match found {
            Recovered::State { key, value } => self.add_state(Key::decode(&key)?, value),
            Recovered::Block { stream, info, heads } => {
                self.position(now)?;
                self.add_block(now, stream, info, &heads);
                Ok(())
            }
        }
    }

    /// The core, ready to be driven: dials are scheduled with jitter, and a store that was blank gets an epoch.
    ///
    /// # Errors
    /// When state does not read as what was written, or is another deployment's.
    pub fn finish(mut self, now: Time) -> Result<Core, RecoverError> {
        self.position(now)?;
        let mut core = self.core;
        if self.fresh {
            core.epoch = core.config.fresh_epoch;
            core.put(now, &Key::Epoch, core.epoch.to_vec().into());
            core.put(now, &Key::Domain, core.config.domain.as_str().to_owned().into());
        }
        if let Some(stored) = self.domain.filter(|stored| *stored != core.config.domain) {
            return Err(RecoverError::Domain { stored, configured: core.config.domain });
        }
        let known: BTreeSet<PeerKey> = core.directory.peers().map(|record| record.key).collect();
        let mut jobs = Vec::new();
        for peer in core.peers.values_mut() {
            for lane in &mut peer.lanes {
                lane.link_down();
                lane.sent_max = lane.queue.durable;
            }
            if !known.contains(&peer.key) {
                // Its operator removed it, and the process ended before all was purged.
                peer.leaving = true;
                jobs.extend(peer.lanes.iter().map(|lane| (lane.queue.stream, lane.queue.next_seq - 1)));
            }
        }
        core.start_jobs(
            now,
            jobs.into_iter().map(|(stream, to)| Job { stream, why: Why::Purged, from: 0, to }),
        );
        for key in known {
            core.schedule_dial(now, key, false);
        }
        core.start_expiry(now);
        Ok(core)
    }

    fn add_state(&mut self, key: Key, value: Bytes) -> Result<(), StateError> {
        let core = &mut self.core;
        match key {
            Key::Epoch => {
                core.epoch = value[..].try_into().map_err(|_| StateError { what: "epoch" })?;
                self.fresh = false;
            }
            Key::Domain => {
                let text = std::str::from_utf8(&value).ok();
                self.domain = text.and_then(|text| text.parse().ok());
            }
            Key::Counters => {
                let [peer, network] = from_numbers("counters", &value)?[..] else {
                    return Err(StateError { what: "counters" });
                };
                core.next_peer = u32::try_from(peer).map_err(|_| StateError { what: "counters" })?;
                core.next_network = u32::try_from(network).map_err(|_| StateError { what: "counters" })?;
            }
            Key::Peer(_) => {
                let record: PeerRecord = from_json("peer", &value)?;
                core.directory.recover_peer(record);
            }
            Key::Network(_) => core.directory.recover_network(from_json("network", &value)?),
            Key::Token(_) => core.directory.put_token(from_json("token", &value)?),
            Key::Administrator(_) => core.directory.put_administrator(from_json("administrator", &value)?),
            Key::Settings => core.directory.set_settings(from_json("settings", &value)?),
            Key::Outbox(peer) => drop(self.outboxes.insert(peer, from_numbers("outbox", &value)?)),
            Key::Position(stream) => self.positions.push((stream, from_numbers("position", &value)?)),
            Key::Gone(stream, first_seq) => self.gone.push((stream, first_seq, value)),
            Key::Inbound(peer) => self.inbound.push((peer, value)),
            Key::Refusal(peer, _, _) => {
                let nack = wire::Nack::decode(value).map_err(|_| StateError { what: "refusal" })?;
                self.refusals.push((peer, nack));
            }
            Key::Ready(peer) => {
                let pin = value[..].try_into().map_err(|_| StateError { what: "ready" })?;
                self.ready.push((peer, Pin::from_bytes(pin)));
            }
            Key::Rewind(peer) => self.rewind.push(peer),
            Key::NextCertificate => core.next_certificate = Some(value),
            Key::Identity => core.directory.set_identity(Arc::new(from_json("identity", &value)?)),
            Key::AuditHead => {
                core.audit_head =
                    String::from_utf8(value.to_vec()).map_err(|_| StateError { what: "audit head" })?;
            }
        }
        Ok(())
    }

    /// All state is there: sets every queue to where it stood, so that blocks can follow.
    fn position(&mut self, now: Time) -> Result<(), StateError> {
        if std::mem::replace(&mut self.positioned, true) {
            return Ok(());
        }
        self.core.directory.index_domains();
        for record in self.core.directory.peers().cloned().collect::<Vec<_>>() {
            self.core.peers.insert(record.key, Peer::new(record.key, record.domain, now));
        }
        for key in self.core.directory.networks().map(|record| record.key).collect::<Vec<_>>() {
            self.core.mailboxes.insert(key, Mailbox::new(key));
        }
        for (key, numbers) in std::mem::take(&mut self.outboxes) {
            let peer = self.peer(now, key);
            let (pairs, _) = numbers.as_chunks::<2>();
            if pairs.len() != peer.lanes.len() {
                return Err(StateError { what: "outbox" });
            }
            for (lane, [acked, next]) in peer.lanes.iter_mut().zip(pairs) {
                lane.queue.recover_position(*acked, *next);
            }
        }
        for (stream, numbers) in std::mem::take(&mut self.positions) {
            let [acked, next] = numbers[..] else { return Err(StateError { what: "position" }) };
            if let Some(queue) = self.core.queue_mut(stream) {
                queue.recover_position(acked, next);
            }
        }
        for (stream, first_seq, bits) in std::mem::take(&mut self.gone) {
            if let Some(queue) = self.core.queue_mut(stream) {
                queue.recover_gone(first_seq, &bits);
            }
        }
        for (key, value) in std::mem::take(&mut self.inbound) {
            self.peer(now, key).inbound.recover(&value)?;
        }
        for (key, nack) in std::mem::take(&mut self.refusals) {
            let lane =
                lanes().find(|lane| u32::from(lane.0) == nack.lane).ok_or(StateError { what: "refusal" })?;
            self.peer(now, key).inbound.lane_mut(lane).refusals.insert(nack.seq, nack);
        }
        for (key, pin) in std::mem::take(&mut self.ready) {
            self.peer(now, key).ready = Some(pin);
        }
        for key in std::mem::take(&mut self.rewind) {
            self.peer(now, key).rewind_allowed = true;
        }
        Ok(())
    }

    /// A peer that is there, or one that was removed and still leaves something behind.
    fn peer(&mut self, now: Time, key: PeerKey) -> &mut Peer {
        let removed = || Peer::new(key, "removed.invalid".parse().expect("a domain name"), now);
        self.core.peers.entry(key).or_insert_with(removed)
    }

    fn add_block(&mut self, now: Time, stream: Stream, info: BlockInfo, heads: &[Head]) {
        if let Stream::Outbox { peer, .. } = stream {
            self.peer(now, peer);
        }
        let Some(queue) = self.core.queue_mut(stream) else { return };
        let age = heads.iter().map(|head| head.at).min().unwrap_or_default();
        queue.recover_block(info, age);
        let numbered = (info.first_seq..).zip(heads);
        let live: Vec<_> =
            numbered.filter(|(seq, _)| !queue.has_left(*seq)).map(|(seq, head)| (seq, *head)).collect();
        queue.recover_live(info, live.len() as u64);
        match stream {
            Stream::Outbox { .. } => {
                for (_, head) in live {
                    self.core.remember(head.network, head.id);
                }
            }
            Stream::Receipts { network } => {
                for (seq, head) in live {
                    self.core.remember(network, head.id);
                    if let Some(mailbox) = self.core.mailboxes.get_mut(&network) {
                        mailbox.unread.push_back(Unread { seq, id: head.id, delivered: false });
                    }
                }
            }
            Stream::Inbox { .. } | Stream::Audit => {}
        }
    }
}
