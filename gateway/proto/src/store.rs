//! What the core asks of a store, as plain data: the shell carries it out.
//!
//! A store keeps **streams** and **state**. A stream is an append-only run of records numbered by the core;
//! one [`Op::Append`] makes one **block**, which an engine seals and keeps as a whole. Records leave from the
//! front ([`Op::Truncate`]) or a whole block at a time ([`Op::Remove`]). State is a small map. A [`Commit`] is
//! one transaction: all of it is durable, or none of it.

use bytes::Bytes;

use crate::time::Time;

/// Number of lanes between two deployments. Part of the protocol: both sides must agree.
pub const LANES: u8 = 16;

/// A peer's number in this store. Never reused, so that a peer added again starts clean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct PeerKey(pub u32);

/// A network's number in this store. Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct NetworkKey(pub u32);

/// One of the ordered sequences between two deployments, below [`LANES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Lane(pub u8);

/// An append-only run of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stream {
    /// Envelopes on their way to a peer.
    Outbox {
        /// To whom.
        peer: PeerKey,
        /// In which sequence.
        lane: Lane,
    },
    /// Envelopes waiting for a network's messaging server.
    Inbox {
        /// Whose.
        network: NetworkKey,
    },
    /// What became of a network's envelopes.
    Receipts {
        /// Whose.
        network: NetworkKey,
    },
    /// The operator's audit log.
    Audit,
}

/// Whose data key seals a stream or a state entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// What waits for one peer.
    Peer(PeerKey),
    /// What waits for one network.
    Network(NetworkKey),
    /// What belongs to the deployment itself.
    Deployment,
}

impl Stream {
    /// Whose data key seals it.
    #[must_use]
    pub fn scope(self) -> Scope {
        match self {
            Self::Outbox { peer, .. } => Scope::Peer(peer),
            Self::Inbox { network } | Self::Receipts { network } => Scope::Network(network),
            Self::Audit => Scope::Deployment,
        }
    }
}

/// The part of a record that the core needs after a restart without reading bodies. Engines keep heads apart
/// from bodies, sealed like them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The envelope's id; zero where there is none.
    pub id: [u8; 16],
    /// The network that submitted it.
    pub network: NetworkKey,
    /// When it expires.
    pub expires: Time,
    /// When it was submitted or received.
    pub at: Time,
}

/// One record of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What the core needs to know of it.
    pub head: Head,
    /// The encoded envelope or receipt.
    pub body: Bytes,
}

/// What the core keeps in mind of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockInfo {
    /// Sequence number of its first record.
    pub first_seq: u64,
    /// How many records follow each other in it.
    pub count: u32,
    /// Sum of the bodies' lengths.
    pub bytes: u64,
    /// The earliest `expires` of its records.
    pub expires_min: Time,
}

/// A state entry's key: short, ordered bytes that the core encodes ([`crate::state`]).
pub type StateKey = Vec<u8>;

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Appends a block: `records[i]` gets sequence number `first_seq + i`. Never empty.
    Append {
        /// Where.
        stream: Stream,
        /// Always above every earlier one of the stream.
        first_seq: u64,
        /// What.
        records: Vec<Record>,
    },
    /// Removes every block whose records are all at or below `up_to`. One that straddles it stays whole.
    Truncate {
        /// Where.
        stream: Stream,
        /// Inclusive.
        up_to: u64,
    },
    /// Removes one block.
    Remove {
        /// Where.
        stream: Stream,
        /// The block's first sequence number.
        first_seq: u64,
    },
    /// Removes all blocks of a stream.
    Clear {
        /// Which.
        stream: Stream,
    },
    /// Sets a state entry. Sealed under the deployment's own data key.
    Put {
        /// Which.
        key: StateKey,
        /// To what.
        value: Bytes,
    },
    /// Removes a state entry, which may be absent.
    Delete {
        /// Which.
        key: StateKey,
    },
}

/// One transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Commit {
    /// Carried out in this order.
    pub ops: Vec<Op>,
    /// The core's clock, for the age of data keys.
    pub now: Time,
}

/// One thing found in a store when it was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recovered {
    /// A state entry. All of them come before any block.
    State {
        /// Which.
        key: StateKey,
        /// Its value.
        value: Bytes,
    },
    /// A block; the blocks of a stream come in order.
    Block {
        /// Of which stream.
        stream: Stream,
        /// Its measures.
        info: BlockInfo,
        /// Its heads, as many as `info.count`.
        heads: Vec<Head>,
    },
}
