//! A store in memory that keeps its contract, and checks that the core keeps its own.

use std::collections::BTreeMap;

use bytes::Bytes;
use trunkline_gateway_proto::store::{BlockInfo, Commit, Op, Record, Recovered, StateKey, Stream};
use trunkline_gateway_proto::time::Time;

/// What is on the disk. A clone is a backup.
#[derive(Clone, Debug, Default)]
pub(crate) struct Store {
    streams: BTreeMap<Stream, BTreeMap<u64, Vec<Record>>>,
    state: BTreeMap<StateKey, Bytes>,
    /// The highest sequence number that each stream ever had.
    highest: BTreeMap<Stream, u64>,
}

impl Store {
    pub(crate) fn apply(&mut self, commit: &Commit) {
        for op in &commit.ops {
            match op {
                Op::Append { stream, first_seq, records } => {
                    assert!(!records.is_empty(), "an empty block");
                    let highest = self.highest.entry(*stream).or_default();
                    assert!(first_seq > highest, "{stream:?}: {first_seq} is not above {highest}");
                    *highest = first_seq + records.len() as u64 - 1;
                    self.streams.entry(*stream).or_default().insert(*first_seq, records.clone());
                }
                Op::Truncate { stream, up_to } => {
                    if let Some(blocks) = self.streams.get_mut(stream) {
                        blocks.retain(|first, records| first + records.len() as u64 - 1 > *up_to);
                    }
                }
                Op::Remove { stream, first_seq } => {
                    let removed = self.streams.get_mut(stream).and_then(|blocks| blocks.remove(first_seq));
                    assert!(removed.is_some(), "{stream:?}: no block at {first_seq} to remove");
                }
                Op::Clear { stream } => drop(self.streams.remove(stream)),
                Op::Put { key, value } => drop(self.state.insert(key.clone(), value.clone())),
                Op::Delete { key } => drop(self.state.remove(key)),
            }
        }
        self.streams.retain(|_, blocks| !blocks.is_empty());
    }

    pub(crate) fn read(&self, stream: Stream, from_seq: u64, bytes_max: usize) -> Vec<(u64, Record)> {
        let mut records = Vec::new();
        let mut bytes = 0;
        let Some(blocks) = self.streams.get(&stream) else { return records };
        let start = blocks.range(..=from_seq).next_back().map_or(0, |(first, _)| *first);
        for (first, block) in blocks.range(start..) {
            for (seq, record) in (*first..).zip(block) {
                if seq < from_seq {
                    continue;
                }
                if bytes > bytes_max {
                    return records;
                }
                bytes += record.body.len();
                records.push((seq, record.clone()));
            }
        }
        records
    }

    pub(crate) fn recover(&self) -> Vec<Recovered> {
        let state =
            self.state.iter().map(|(key, value)| Recovered::State { key: key.clone(), value: value.clone() });
        let blocks = self.streams.iter().flat_map(|(stream, blocks)| {
            blocks.iter().map(|(first, records)| Recovered::Block {
                stream: *stream,
                info: BlockInfo {
                    first_seq: *first,
                    count: u32::try_from(records.len()).unwrap(),
                    bytes: records.iter().map(|record| record.body.len() as u64).sum(),
                    expires_min: records
                        .iter()
                        .map(|record| record.head.expires)
                        .min()
                        .unwrap_or(Time::NEVER),
                },
                heads: records.iter().map(|record| record.head).collect(),
            })
        });
        state.chain(blocks).collect()
    }

    /// Streams that hold blocks, beside the audit log.
    pub(crate) fn occupied(&self) -> Vec<Stream> {
        self.streams.keys().copied().filter(|stream| *stream != Stream::Audit).collect()
    }

    pub(crate) fn state(&self) -> &BTreeMap<StateKey, Bytes> {
        &self.state
    }

    /// Changes a state entry behind the core's back.
    pub(crate) fn overwrite(&mut self, key: StateKey, value: Bytes) {
        self.state.insert(key, value);
    }
}
