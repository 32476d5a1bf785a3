//! The small map beside the streams: its keys, and how values are written.
//!
//! Keys start with a byte that says what they are, so that an engine may keep them in one ordered table.

use bytes::{BufMut, Bytes, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::store::{LANES, Lane, NetworkKey, PeerKey, StateKey, Stream};

/// The first byte of keys that the core leaves to whoever keeps the store, and never sees.
pub const KEEPER: u8 = b'm';

/// What a state entry is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// 16 random bytes: this store's epoch.
    Epoch,
    /// Our federation domain: a store belongs to one.
    Domain,
    /// The next peer and network numbers.
    Counters,
    /// A peer's record, JSON.
    Peer(PeerKey),
    /// A network's record, JSON.
    Network(NetworkKey),
    /// An admin token, JSON, by its label.
    Token(String),
    /// An administrator of the console, JSON, by its name.
    Administrator(String),
    /// Settings that take the place of the configuration file's, JSON.
    Settings,
    /// For each lane of a peer's outbox: acknowledged up to, next sequence number.
    Outbox(PeerKey),
    /// For an inbox, receipts or audit stream: acknowledged up to, next sequence number.
    Position(Stream),
    /// Which records of a block left before those in front of them: a bit each.
    Gone(Stream, u64),
    /// The epoch that a peer's watermarks count in, then the watermark of each lane.
    Inbound(PeerKey),
    /// A refusal that the peer has not settled yet: an encoded `Nack`.
    Refusal(PeerKey, Lane, u64),
    /// The pin of our next certificate that a peer has stored.
    Ready(PeerKey),
    /// The operator resumed after a watermark alarm: what the peer lost is skipped. No value.
    Rewind(PeerKey),
    /// DER of our next certificate.
    NextCertificate,
    /// Our key pairs, JSON, once replicas share them.
    Identity,
    /// Hash of the last audit entry.
    AuditHead,
}

/// A state entry that does not read as what was written: the store is damaged, or from another release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "a state entry ({what}) does not read as what was written: restore the store, or run the release that wrote it"
)]
pub struct StateError {
    /// Which kind.
    pub what: &'static str,
}

impl Key {
    /// As the store keeps it.
    #[must_use]
    pub fn encode(&self) -> StateKey {
        let mut out = Vec::with_capacity(16);
        match self {
            Self::Epoch => out.push(b'e'),
            Self::Domain => out.push(b'd'),
            Self::Counters => out.push(b'c'),
            Self::Peer(peer) => put_numbered(&mut out, b'p', peer.0),
            Self::Network(network) => put_numbered(&mut out, b'n', network.0),
            Self::Token(label) => {
                out.push(b't');
                out.extend_from_slice(label.as_bytes());
            }
            Self::Administrator(name) => {
                out.push(b'u');
                out.extend_from_slice(name.as_bytes());
            }
            Self::Settings => out.push(b's'),
            Self::Outbox(peer) => put_numbered(&mut out, b'o', peer.0),
            Self::Position(stream) => {
                out.push(b'q');
                put_stream(&mut out, *stream);
            }
            Self::Gone(stream, first_seq) => {
                out.push(b'g');
                put_stream(&mut out, *stream);
                out.put_u64(*first_seq);
            }
            Self::Inbound(peer) => put_numbered(&mut out, b'i', peer.0),
            Self::Refusal(peer, lane, seq) => {
                put_numbered(&mut out, b'r', peer.0);
                out.push(lane.0);
                out.put_u64(*seq);
            }
            Self::Ready(peer) => put_numbered(&mut out, b'k', peer.0),
            Self::Rewind(peer) => put_numbered(&mut out, b'w', peer.0),
            Self::NextCertificate => out.push(b'x'),
            Self::Identity => out.push(b'y'),
            Self::AuditHead => out.push(b'a'),
        }
        out
    }

    /// From what the store keeps.
    ///
    /// # Errors
    /// [`StateError`] when it is none.
    pub fn decode(bytes: &[u8]) -> Result<Self, StateError> {
        let error = StateError { what: "key" };
        let (tag, rest) = bytes.split_first().ok_or(error)?;
        let number = || rest.first_chunk::<4>().map(|n| u32::from_be_bytes(*n)).ok_or(error);
        Ok(match tag {
            b'e' => Self::Epoch,
            b'd' => Self::Domain,
            b'c' => Self::Counters,
            b'p' => Self::Peer(PeerKey(number()?)),
            b'n' => Self::Network(NetworkKey(number()?)),
            b't' => Self::Token(String::from_utf8(rest.to_vec()).map_err(|_| error)?),
            b'u' => Self::Administrator(String::from_utf8(rest.to_vec()).map_err(|_| error)?),
            b's' => Self::Settings,
            b'o' => Self::Outbox(PeerKey(number()?)),
            b'q' => Self::Position(get_stream(rest).ok_or(error)?),
            b'g' => {
                let seq = rest.get(6..14).and_then(|b| b.first_chunk::<8>()).ok_or(error)?;
                Self::Gone(get_stream(rest).ok_or(error)?, u64::from_be_bytes(*seq))
            }
            b'i' => Self::Inbound(PeerKey(number()?)),
            b'r' => {
                let lane = *rest.get(4).ok_or(error)?;
                let seq = rest.get(5..13).and_then(|b| b.first_chunk::<8>()).ok_or(error)?;
                Self::Refusal(PeerKey(number()?), Lane(lane), u64::from_be_bytes(*seq))
            }
            b'k' => Self::Ready(PeerKey(number()?)),
            b'w' => Self::Rewind(PeerKey(number()?)),
            b'x' => Self::NextCertificate,
            b'y' => Self::Identity,
            b'a' => Self::AuditHead,
            _ => return Err(error),
        })
    }
}

/// A record as JSON.
pub(crate) fn to_json(value: &impl Serialize) -> Bytes {
    serde_json::to_vec(value).expect("records have string keys only").into()
}

/// A record from JSON.
pub(crate) fn from_json<T: DeserializeOwned>(what: &'static str, value: &[u8]) -> Result<T, StateError> {
    serde_json::from_slice(value).map_err(|_| StateError { what })
}

/// Numbers, big endian, one after the other.
pub(crate) fn to_numbers(numbers: impl IntoIterator<Item = u64>) -> Bytes {
    let mut out = BytesMut::new();
    numbers.into_iter().for_each(|number| out.put_u64(number));
    out.freeze()
}

/// The numbers that [`to_numbers`] wrote.
pub(crate) fn from_numbers(what: &'static str, value: &[u8]) -> Result<Vec<u64>, StateError> {
    let (chunks, rest) = value.as_chunks::<8>();
    if rest.is_empty() {
        Ok(chunks.iter().map(|c| u64::from_be_bytes(*c)).collect())
    } else {
        Err(StateError { what })
    }
}

fn put_numbered(out: &mut Vec<u8>, tag: u8, number: u32) {
    out.push(tag);
    out.put_u32(number);
}

fn put_stream(out: &mut Vec<u8>, stream: Stream) {
    let (kind, owner, lane) = match stream {
        Stream::Outbox { peer, lane } => (0, peer.0, lane.0),
        Stream::Inbox { network } => (1, network.0, 0),
        Stream::Receipts { network } => (2, network.0, 0),
        Stream::Audit => (3, 0, 0),
    };
    out.push(kind);
    out.put_u32(owner);
    out.push(lane);
}

fn get_stream(bytes: &[u8]) -> Option<Stream> {
    let (kind, rest) = bytes.split_first()?;
    let owner = u32::from_be_bytes(*rest.first_chunk::<4>()?);
    let lane = *rest.get(4)?;
    match kind {
        0 if lane < LANES => Some(Stream::Outbox { peer: PeerKey(owner), lane: Lane(lane) }),
        1 => Some(Stream::Inbox { network: NetworkKey(owner) }),
        2 => Some(Stream::Receipts { network: NetworkKey(owner) }),
        3 => Some(Stream::Audit),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_goes_both_ways() {
        let outbox = Stream::Outbox { peer: PeerKey(7), lane: Lane(3) };
        let keys = [
            Key::Epoch,
            Key::Domain,
            Key::Counters,
            Key::Peer(PeerKey(1)),
            Key::Network(NetworkKey(u32::MAX)),
            Key::Token("root".into()),
            Key::Administrator("ann".into()),
            Key::Settings,
            Key::Outbox(PeerKey(2)),
            Key::Position(Stream::Inbox { network: NetworkKey(9) }),
            Key::Position(Stream::Audit),
            Key::Gone(outbox, 1 << 40),
            Key::Inbound(PeerKey(5)),
            Key::Refusal(PeerKey(5), Lane(15), 77),
            Key::Ready(PeerKey(5)),
            Key::Rewind(PeerKey(5)),
            Key::NextCertificate,
            Key::Identity,
            Key::AuditHead,
        ];
        for key in keys {
            assert_ne!(key.encode().first(), Some(&KEEPER));
            assert_eq!(Key::decode(&key.encode()), Ok(key));
        }
        assert!(Key::decode(&[KEEPER]).is_err(), "the core refuses what is not for it");
    }
}
