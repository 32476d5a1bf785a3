//! A flow: envelopes from one address to another, in numbered conversations, each stamped so that whoever
//! receives it knows exactly which one it is and how long it took.
//!
//! The payload starts with the stamp (little endian): run (8 bytes), conversation (4), counter within the
//! conversation (4), send time in microseconds of this process's clock (8). The rest is a fixed pattern, so that
//! a changed byte shows.

use std::sync::LazyLock;
use std::time::Instant;

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use prost::encoding::{encode_varint, encoded_len_varint};
use trunkline_gateway_proto::wire;

use crate::error::LoadError;

/// Bytes of the stamp: the smallest payload.
pub(crate) const STAMP_BYTES: usize = 24;

/// Runs are numbered with 48 bits, so that one fits an envelope id beside its version bits.
const RUN_MASK: u64 = (1 << 48) - 1;

/// Which envelope this is, and when it was handed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Which flow.
    pub run: u64,
    /// Which conversation of it.
    pub conversation: u32,
    /// How manieth of that conversation, from 0.
    pub counter: u32,
    /// When it was handed in, by [`now_us`].
    pub sent_us: u64,
}

/// Envelopes from one address to another.
#[derive(Debug)]
pub(crate) struct Flow {
    run: u64,
    /// What all envelopes of a conversation have in common, encoded once.
    conversations: Vec<Bytes>,
    /// A whole payload; its first [`STAMP_BYTES`] are overwritten in each envelope.
    pattern: Bytes,
}

/// Microseconds since this process first asked, plus one, so that 0 lies before everything. Sender and receiver
/// live in this one process, so latencies need no synchronised clocks.
pub(crate) fn now_us() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(START.elapsed().as_micros()).unwrap_or(u64::MAX).saturating_add(1)
}

impl Flow {
    /// A new flow, with a run number of its own.
    ///
    /// # Errors
    /// When a payload of `size` bytes cannot hold the stamp, or there is no conversation.
    pub(crate) fn new(from: &str, to: &str, conversations: u32, size: usize) -> Result<Self, LoadError> {
        if size < STAMP_BYTES {
            return Err(LoadError::Usage(format!(
                "--size must be at least {STAMP_BYTES}: the stamp needs it"
            )));
        }
        if conversations == 0 {
            return Err(LoadError::Usage("--conversations must be at least 1".to_owned()));
        }
        let run = u64::from_le_bytes(trunkline_common::token::random::<8>()) & RUN_MASK;
        let common = |number: u32| {
            let submission = wire::Submission {
                from: from.to_owned(),
                to: vec![to.to_owned()],
                kind: wire::Kind::Message.into(),
                conversation: format!("{run:x}-{number}"),
                ..wire::Submission::default()
            };
            Bytes::from(submission.encode_to_vec())
        };
        let pattern: Vec<u8> = (0..=u8::MAX).cycle().take(size).collect();
        Ok(Self { run, conversations: (0..conversations).map(common).collect(), pattern: pattern.into() })
    }

    /// Its number, in every stamp and id.
    pub(crate) fn run(&self) -> u64 {
        self.run
    }

    /// How many conversations it has.
    pub(crate) fn conversations(&self) -> u32 {
        u32::try_from(self.conversations.len()).unwrap_or(u32::MAX)
    }

    /// Bytes of one submission in a batch, about.
    pub(crate) fn submission_bytes(&self) -> usize {
        self.pattern.len() + self.conversations.first().map_or(0, Bytes::len) + 40
    }

    /// Appends an envelope to an encoded `SubmitBatch`. Written by hand: the driver shares the processors with
    /// the gateways it measures, and only the id and the stamp differ from the envelope before.
    pub(crate) fn submission(&self, conversation: u32, counter: u32, sent_us: u64, batch: &mut BytesMut) {
        let common = self.conversations.get(conversation as usize).cloned().unwrap_or_default();
        let payload_bytes = self.pattern.len();
        let length = 2 + 16 + common.len() + 1 + encoded_len_varint(payload_bytes as u64) + payload_bytes;
        batch.put_u8(0x0a); // SubmitBatch.envelopes
        encode_varint(length as u64, batch);
        batch.put_slice(&[0x0a, 16]); // Submission.id
        batch.put_slice(&self.id(conversation, counter));
        batch.put_slice(&common);
        batch.put_u8(0x7a); // Submission.payload
        encode_varint(payload_bytes as u64, batch);
        batch.put_u64_le(self.run);
        batch.put_u32_le(conversation);
        batch.put_u32_le(counter);
        batch.put_u64_le(sent_us);
        batch.put_slice(self.pattern.get(STAMP_BYTES..).unwrap_or_default());
    }

    /// Whether what follows the stamp arrived as it was sent.
    pub(crate) fn intact(&self, payload: &[u8]) -> bool {
        payload.len() == self.pattern.len() && payload.get(STAMP_BYTES..) == self.pattern.get(STAMP_BYTES..)
    }

    /// A UUID (version 8) that says which envelope this is, so that a retry repeats it without remembering it.
    fn id(&self, conversation: u32, counter: u32) -> [u8; 16] {
        let wide = u128::from(self.run) << 80
            | 0x8 << 76
            | 0b10 << 62
            | u128::from(conversation) << 32
            | u128::from(counter);
        wide.to_be_bytes()
    }
}

/// The run an envelope id of a flow belongs to.
pub(crate) fn run_of_id(id: &[u8]) -> Option<u64> {
    let id = u128::from_be_bytes(id.try_into().ok()?);
    u64::try_from(id >> 80).ok()
}

impl Stamp {
    /// Reads the stamp of a payload; `None` when it is too short to have one.
    pub(crate) fn read(payload: &[u8]) -> Option<Self> {
        let (run, rest) = payload.split_first_chunk::<8>()?;
        let (conversation, rest) = rest.split_first_chunk::<4>()?;
        let (counter, rest) = rest.split_first_chunk::<4>()?;
        let (sent_us, _) = rest.split_first_chunk::<8>()?;
        Some(Self {
            run: u64::from_le_bytes(*run),
            conversation: u32::from_le_bytes(*conversation),
            counter: u32::from_le_bytes(*counter),
            sent_us: u64::from_le_bytes(*sent_us),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_submission_written_by_hand_decodes_to_what_was_meant() {
        let flow = Flow::new("a@alpha.test", "b@beta.test", 3, 1024).unwrap();
        let mut batch = BytesMut::new();
        flow.submission(2, 7, 99, &mut batch);
        flow.submission(0, 8, 100, &mut batch);
        let batch = wire::SubmitBatch::decode(batch.freeze()).unwrap();
        let [first, second] = batch.envelopes.as_slice() else { panic!("two envelopes went in") };
        assert_eq!(
            (first.from.as_str(), first.to.as_slice()),
            ("a@alpha.test", &["b@beta.test".to_owned()][..])
        );
        assert_eq!(first.kind(), wire::Kind::Message);
        assert_ne!(first.conversation, second.conversation);
        assert_ne!(first.id, second.id);
        assert_eq!(run_of_id(&first.id), Some(flow.run()));
        let stamp = Stamp { run: flow.run(), conversation: 2, counter: 7, sent_us: 99 };
        assert_eq!(Stamp::read(&first.payload), Some(stamp));
        assert!(flow.intact(&first.payload));
    }

    #[test]
    fn ids_are_valid_uuids_that_differ_by_envelope() {
        let flow = Flow::new("a@alpha.test", "b@beta.test", 1, STAMP_BYTES).unwrap();
        let id = uuid::Uuid::from_bytes(flow.id(5, 6));
        assert_eq!((id.get_version_num(), id.get_variant()), (8, uuid::Variant::RFC4122));
        assert_ne!(flow.id(5, 6), flow.id(6, 5));
    }

    #[test]
    fn a_changed_byte_shows() {
        let flow = Flow::new("a@alpha.test", "b@beta.test", 1, 64).unwrap();
        let mut payload = flow.pattern.to_vec();
        assert!(flow.intact(&payload));
        payload[40] ^= 1;
        assert!(!flow.intact(&payload));
        assert!(!flow.intact(&payload[..63]));
    }
}
