//! What followers ask of the leader, and what it answers. Numbers of fields are never used anew: for the time of an
//! upgrade, replicas of two releases speak with each other.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use trunkline_gateway_proto::store::{Head, NetworkKey, Record};
use trunkline_gateway_proto::time::Time;
use trunkline_gateway_proto::wire::{Submission, SubmitResult};

use crate::hub::Queue;

/// A batch of a network.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Submit {
    #[prost(uint32, tag = "1")]
    pub(super) network: u32,
    #[prost(message, repeated, tag = "2")]
    pub(super) batch: Vec<Submission>,
}

/// What became of it.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Submitted {
    #[prost(message, repeated, tag = "1")]
    pub(super) results: Vec<SubmitResult>,
}

/// A look into a queue.
#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct Read {
    #[prost(message, optional, tag = "1")]
    pub(super) queue: Option<QueueName>,
    #[prost(uint64, optional, tag = "2")]
    pub(super) after: Option<u64>,
    #[prost(uint64, tag = "3")]
    pub(super) max: u64,
    #[prost(uint64, tag = "4")]
    pub(super) wait_ms: u64,
}

/// An acknowledgement.
#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct Ack {
    #[prost(message, optional, tag = "1")]
    pub(super) queue: Option<QueueName>,
    #[prost(uint64, tag = "2")]
    pub(super) up_to: u64,
}

/// One of a network's queues.
#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct QueueName {
    #[prost(uint32, tag = "1")]
    pub(super) network: u32,
    #[prost(bool, tag = "2")]
    pub(super) receipts: bool,
}

/// What was in a queue.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Records {
    #[prost(message, repeated, tag = "1")]
    pub(super) records: Vec<Numbered>,
}

/// A record with its number.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Numbered {
    #[prost(uint64, tag = "1")]
    seq: u64,
    #[prost(bytes = "bytes", tag = "2")]
    id: Bytes,
    #[prost(uint32, tag = "3")]
    network: u32,
    #[prost(uint64, tag = "4")]
    expires_ms: u64,
    #[prost(uint64, tag = "5")]
    at_ms: u64,
    #[prost(bytes = "bytes", tag = "6")]
    body: Bytes,
}

impl From<Queue> for QueueName {
    fn from(queue: Queue) -> Self {
        match queue {
            Queue::Inbox(network) => Self { network: network.0, receipts: false },
            Queue::Receipts(network) => Self { network: network.0, receipts: true },
        }
    }
}

impl From<QueueName> for Queue {
    fn from(name: QueueName) -> Self {
        let network = NetworkKey(name.network);
        if name.receipts { Self::Receipts(network) } else { Self::Inbox(network) }
    }
}

impl From<(u64, Record)> for Numbered {
    fn from((seq, Record { head, body }): (u64, Record)) -> Self {
        Self {
            seq,
            id: Bytes::copy_from_slice(&head.id),
            network: head.network.0,
            expires_ms: head.expires.unix_ms(),
            at_ms: head.at.unix_ms(),
            body,
        }
    }
}

impl Numbered {
    /// The record, unless its id is none.
    pub(super) fn record(self) -> Option<(u64, Record)> {
        let head = Head {
            id: self.id.as_ref().try_into().ok()?,
            network: NetworkKey(self.network),
            expires: Time::from_unix_ms(self.expires_ms),
            at: Time::from_unix_ms(self.at_ms),
        };
        Some((self.seq, Record { head, body: self.body }))
    }
}

/// Longest directory that is believed: networks may have long block lists.
const DIRECTORY_BYTES_MAX: usize = 1 << 30;

/// A directory on its stream: its version and length, then itself as JSON.
pub(super) fn put_directory(version: u64, json: &[u8], out: &mut BytesMut) {
    out.put_u64(version);
    out.put_u64(json.len() as u64);
    out.put_slice(json);
}

/// Takes one off the front; `Ok(None)` when more bytes are needed.
///
/// # Errors
/// `Err` when what is there cannot become one.
pub(super) fn get_directory(buffer: &mut BytesMut) -> Result<Option<(u64, Bytes)>, ()> {
    let Some((version, rest)) = buffer.split_first_chunk::<8>() else { return Ok(None) };
    let version = u64::from_be_bytes(*version);
    let Some((length, rest)) = rest.split_first_chunk::<8>() else { return Ok(None) };
    let length = usize::try_from(u64::from_be_bytes(*length)).map_err(drop)?;
    if length > DIRECTORY_BYTES_MAX {
        return Err(());
    }
    if rest.len() < length {
        return Ok(None);
    }
    let _ = buffer.split_to(16);
    Ok(Some((version, buffer.split_to(length).freeze())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_and_queues_go_both_ways() {
        let head = Head {
            id: [9; 16],
            network: NetworkKey(3),
            expires: Time::from_unix_ms(77),
            at: Time::from_unix_ms(55),
        };
        let record = (8, Record { head, body: Bytes::from_static(b"sealed") });
        let encoded = Numbered::from(record.clone()).encode_to_vec();
        assert_eq!(Numbered::decode(&encoded[..]).unwrap().record(), Some(record));
        assert_eq!(Numbered::default().record(), None);
        for queue in [Queue::Inbox(NetworkKey(1)), Queue::Receipts(NetworkKey(2))] {
            assert_eq!(Queue::from(QueueName::from(queue)), queue);
        }
    }

    #[test]
    fn a_directory_is_read_once_it_is_whole_and_too_long_a_one_refused_at_its_head() {
        let mut whole = BytesMut::new();
        put_directory(7, b"{}", &mut whole);
        for cut in 0..whole.len() {
            assert_eq!(get_directory(&mut BytesMut::from(&whole[..cut])), Ok(None));
        }
        assert_eq!(get_directory(&mut whole), Ok(Some((7, Bytes::from_static(b"{}")))));
        assert!(whole.is_empty());
        let mut long = BytesMut::new();
        long.put_u64(1);
        long.put_u64(1 << 40);
        assert_eq!(get_directory(&mut long), Err(()));
    }
}
