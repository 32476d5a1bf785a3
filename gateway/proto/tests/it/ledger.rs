//! What reached the disks, seen from above: each commit is held against the promises as it becomes durable.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use prost::Message;
use trunkline_gateway_proto::store::{Commit, NetworkKey, Op, Record, Stream};
use trunkline_gateway_proto::time::Time;
use trunkline_gateway_proto::wire;

/// An envelope by the network that submitted it: node, network, id.
pub(crate) type Origin = (usize, NetworkKey, [u8; 16]);

/// An envelope in an inbox.
#[derive(Clone, Debug)]
pub(crate) struct Arrival {
    pub(crate) origin: Origin,
    pub(crate) to: Vec<String>,
    pub(crate) expires: Time,
}

/// What one receipt says of one recipient.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Fate {
    pub(crate) state: wire::State,
    pub(crate) reason: String,
}

/// See the module's documentation.
#[derive(Default)]
pub(crate) struct Ledger {
    /// Stores were replaced by older copies: what comes twice is no fault.
    pub(crate) forgiving: bool,
    /// Nodes whose word counts for nothing.
    pub(crate) liars: BTreeSet<usize>,
    /// Whose users have a domain.
    pub(crate) networks: HashMap<String, (usize, NetworkKey)>,
    /// By node, network and sequence number: what is or was in the inbox.
    pub(crate) inboxes: BTreeMap<(usize, NetworkKey, u64), Arrival>,
    /// By node, network and sequence number: whose receipt it is.
    pub(crate) receipts: BTreeMap<(usize, NetworkKey, u64), Origin>,
    /// What receipts said of each recipient.
    pub(crate) fates: HashMap<Origin, BTreeMap<String, Fate>>,
    /// Purges that operators asked for.
    pub(crate) purges: usize,
    /// When an envelope expires.
    accepted: HashMap<Origin, Time>,
    /// In which order envelopes were accepted for a node, or for another network of the same one.
    ordinals: HashMap<(Origin, usize, NetworkKey), u64>,
    arrived: HashMap<(usize, NetworkKey, Origin), u64>,
    last: HashMap<(usize, NetworkKey, Origin, String), u64>,
    count: u64,
}

impl Ledger {
    /// A commit is on a node's disk.
    pub(crate) fn note(&mut self, node: usize, now: Time, commit: &Commit) {
        // One transaction: what it says of others was true before it, what it says of itself is true at once.
        for op in &commit.ops {
            let Op::Append { stream, first_seq, records } = op else { continue };
            for (seq, record) in (*first_seq..).zip(records) {
                match stream {
                    Stream::Outbox { .. } => self.note_accepted(record, NetworkKey(0)),
                    Stream::Inbox { network } => self.note_arrival(node, *network, seq, record),
                    Stream::Receipts { .. } | Stream::Audit => {}
                }
            }
        }
        for op in &commit.ops {
            let Op::Append { stream: Stream::Receipts { network }, first_seq, records } = op else {
                continue;
            };
            for (seq, record) in (*first_seq..).zip(records) {
                self.note_receipt(node, now, *network, seq, record);
            }
        }
    }

    /// The arrival of an envelope for an address, if it is in that one's inbox or was.
    pub(crate) fn arrival(&self, origin: Origin, address: &str) -> Option<&Arrival> {
        let (node, network) = self.owner(address)?;
        let seq = self.arrived.get(&(node, network, origin))?;
        self.inboxes.get(&(node, network, *seq)).filter(|arrival| arrival.to.iter().any(|to| to == address))
    }

    fn owner(&self, address: &str) -> Option<(usize, NetworkKey)> {
        self.networks.get(address.rsplit_once('@')?.1).copied()
    }

    /// An envelope found its place in an outbox, or in the inbox `local` of the same node.
    fn note_accepted(&mut self, record: &Record, local: NetworkKey) {
        let envelope = wire::Envelope::decode(record.body.clone()).unwrap();
        let to = envelope.to.first().and_then(|to| self.owner(to));
        let (Some((node, network)), Some((to, _))) = (self.owner(&envelope.from), to) else { return };
        let origin = (node, network, record.head.id);
        self.count += 1;
        self.ordinals.insert((origin, to, local), self.count);
        self.accepted.entry(origin).or_insert(record.head.expires);
    }

    fn note_arrival(&mut self, node: usize, network: NetworkKey, seq: u64, record: &Record) {
        let envelope = wire::Envelope::decode(record.body.clone()).unwrap();
        let Some((from, from_network)) = self.owner(&envelope.from) else { return };
        if self.liars.contains(&from) || self.liars.contains(&node) {
            return;
        }
        let origin = (from, from_network, record.head.id);
        let local = if from == node { network } else { NetworkKey(0) };
        if from == node {
            self.note_accepted(record, local);
        }
        let twice = self.arrived.insert((node, network, origin), seq);
        assert!(self.forgiving || twice.is_none(), "{origin:?} is in an inbox twice: {twice:?} and {seq}");
        let ordinal = self.ordinals.get(&(origin, node, local));
        let ordinal = *ordinal.expect("what arrives was accepted before");
        // Several networks of one origin have lanes of their own.
        let nameless = (from, from_network, [0; 16]);
        let key = if envelope.conversation.is_empty() { envelope.from } else { envelope.conversation };
        let last = self.last.insert((node, network, nameless, key), ordinal);
        assert!(
            self.forgiving || last.is_none_or(|last| last < ordinal),
            "{origin:?} (accepted as {ordinal}) came after {last:?}"
        );
        let arrival = Arrival { origin, to: envelope.to, expires: record.head.expires };
        self.inboxes.insert((node, network, seq), arrival);
    }

    fn note_receipt(&mut self, node: usize, now: Time, network: NetworkKey, seq: u64, record: &Record) {
        let receipt = wire::Receipt::decode(record.body.clone()).unwrap();
        let origin = (node, network, record.head.id);
        let state = receipt.state();
        for to in &receipt.to {
            let by = self.owner(to).map_or(node, |(by, _)| by);
            if self.liars.contains(&node) || self.liars.contains(&by) {
                continue;
            }
            let arrived = self.arrival(origin, to).is_some();
            match state {
                wire::State::Delivered => assert!(arrived, "{origin:?}: delivered, but in no inbox"),
                wire::State::Refused => assert!(!arrived, "{origin:?}: refused, but in an inbox"),
                wire::State::Expired => {
                    let expires = *self.accepted.get(&origin).expect("it was accepted");
                    assert!(now >= expires, "{origin:?}: expired too early");
                }
                wire::State::Purged => assert!(self.purges > 0, "{origin:?}: purged, but nobody asked"),
                wire::State::Unspecified => panic!("a receipt without a state"),
            }
            let fate = Fate { state, reason: receipt.reason.clone() };
            let twice = self.fates.entry(origin).or_default().insert(to.clone(), fate);
            assert!(self.forgiving || twice.is_none(), "{origin:?}: {twice:?}, then {state:?}");
        }
        self.receipts.insert((node, network, seq), origin);
    }
}
