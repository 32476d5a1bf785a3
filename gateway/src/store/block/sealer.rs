//! Sealing what a commit brings, for either engine: blocks row by row, and state entries.

use std::slice;

use aws_lc_rs::aead::LessSafeKey;
use trunkline_gateway_proto::store::{Record, Stream};

use super::super::StoreError;
use super::super::index::SharedIndex;
use super::super::seal::{KeyRing, KeyScope, TAG_LEN};
use super::{
    BlockNumber, Damaged, HEADER_LEN, HEADS, Header, STATE_PREFIX_LEN, block_aad, cut, encode_head, seal,
    state_aad,
};

/// A block that has its number and its key, and is sealed row by row.
pub(in super::super) struct Sealer<'a> {
    pub(in super::super) block: BlockNumber,
    pub(in super::super) header: Header,
    cipher: &'a LessSafeKey,
    records: &'a [Record],
    /// Records whose bodies were not begun.
    next: slice::Iter<'a, Record>,
    /// What is left of the body that was.
    rest: &'a [u8],
    /// Bytes of bodies that are to be sealed yet, and the part that comes next.
    left: usize,
    part: u16,
}

impl<'a> Sealer<'a> {
    /// Measures a block and gives it a number and a nonce. Once its rows are kept, [`KeyRing::used`] is to be told.
    pub(in super::super) fn new(
        ring: &'a mut KeyRing,
        index: &SharedIndex,
        stream: Stream,
        first_seq: u64,
        records: &'a [Record],
    ) -> Result<Self, StoreError> {
        let refused = |why| refused(stream, first_seq, why);
        let scope = KeyScope::Stream(stream.scope());
        let (current, nonce) = ring.seal(scope).ok_or_else(|| refused("its scope has no data key"))?;
        let header = Header::measure(stream, first_seq, current.id, nonce, records);
        let header = header.map_err(|Damaged| refused(UNFIT))?;
        let left = usize::try_from(header.bytes).map_err(|_| refused(UNFIT))?;
        let block = index.lock().append(stream, first_seq, header.count);
        let block = block.ok_or_else(|| refused("its place is taken"))?;
        let (cipher, next) = (&current.cipher, records.iter());
        Ok(Self { block, header, cipher, records, next, rest: &[], left, part: 0 })
    }

    /// Puts the row of heads behind what is in `out`.
    pub(in super::super) fn heads(&self, out: &mut Vec<u8>) -> Result<(), StoreError> {
        let from = out.len().saturating_add(HEADER_LEN);
        out.extend_from_slice(&self.header.encode());
        for record in self.records {
            encode_head(record, out).map_err(|Damaged| self.unfit())?;
        }
        self.seal(HEADS, out, from)
    }

    /// Puts the next part, a row of bodies, behind what is in `out`, and gives its number; `None` after the last.
    pub(in super::super) fn part(&mut self, out: &mut Vec<u8>) -> Result<Option<u16>, StoreError> {
        let Some(cut) = cut(self.left) else { return Ok(None) };
        let from = out.len();
        out.reserve(cut.saturating_add(TAG_LEN));
        let mut missing = cut;
        while missing > 0 {
            if self.rest.is_empty() {
                self.rest = &self.next.next().ok_or_else(|| self.unfit())?.body;
            }
            let (taken, rest) = self.rest.split_at(self.rest.len().min(missing));
            out.extend_from_slice(taken);
            self.rest = rest;
            missing -= taken.len();
        }
        self.left -= cut;
        let part = self.part;
        // The header counted them: none has the last number.
        self.part = part.saturating_add(1);
        self.seal(self.part, out, from)?;
        Ok(Some(part))
    }

    fn seal(&self, row: u16, out: &mut Vec<u8>, from: usize) -> Result<(), StoreError> {
        let aad = block_aad(self.block, row, &self.header.encode());
        seal(self.cipher, self.header.nonce.nonce(row), &aad, out, from).map_err(|Damaged| self.unfit())
    }

    fn unfit(&self) -> StoreError {
        refused(self.header.stream, self.header.first_seq, UNFIT)
    }
}

const UNFIT: &str = "it is empty or too large";

/// Says why a block is not kept.
pub(in super::super) fn refused(stream: Stream, first_seq: u64, why: &str) -> StoreError {
    StoreError::Failed(format!("the block at {first_seq} of {stream:?} cannot be kept: {why}"))
}

/// Seals a state entry's value into `buffer`.
pub(in super::super) fn seal_state(
    ring: &mut KeyRing,
    key: &[u8],
    value: &[u8],
    buffer: &mut Vec<u8>,
) -> Result<(), StoreError> {
    let refused = || StoreError::Failed("a state entry cannot be sealed".to_owned());
    let (current, nonce) = ring.seal(KeyScope::State).ok_or_else(refused)?;
    buffer.clear();
    buffer.extend_from_slice(&current.id.0.to_le_bytes());
    buffer.extend_from_slice(&nonce.0);
    buffer.extend_from_slice(value);
    seal(&current.cipher, nonce.nonce(0), &state_aad(key), buffer, STATE_PREFIX_LEN)
        .map_err(|Damaged| refused())
}
