//! How blocks and state entries are laid out and sealed.
//!
//! Every block has a number, one above that of the block before, whatever their streams. It is one row of the
//! table of heads, and one or more **parts** in the table of bodies:
//!
//! ```text
//! heads:   block(8)          → header(54) sealed{ head(40) × count } tag(16)
//! bodies:  block(8) part(2)  → sealed{ a cut of all bodies, one behind the other } tag(16)
//! state:   key               → data key(8) nonce(10) sealed{ value } tag(16)
//! ```
//!
//! Everything outside `sealed` is authenticated with it: a row put elsewhere does not open.
//!
//! **Why numbers.** With rows in the order of their arrival, the rows of a commit lie side by side at the end of
//! the tables, and mostly leave side by side from the front. Ordered by stream, each would touch, copy and write
//! pages of its own: ten times the work when a commit has one envelope for each of many lanes and peers. Which
//! blocks a stream has, [`super::index`] knows.
//!
//! **Why parts.** redb keeps a large value in a page of its own, whose size is a power of two, and writes all of
//! that page. A body of 35 KiB would cost 64; cut into 32 + 4 it costs 36.

use aws_lc_rs::aead::{Aad, LessSafeKey, Nonce};
use bytes::Bytes;
use trunkline_gateway_proto::store::{BlockInfo, Head, Lane, NetworkKey, PeerKey, Record, Stream};
use trunkline_gateway_proto::time::Time;

use super::seal::{KeyId, NONCE_BASE_LEN, NonceBase, TAG_LEN};

mod sealer;

pub(super) use sealer::{Sealer, refused, seal_state};

/// Number of a block, and key of its row of heads.
pub(super) type BlockNumber = u64;
/// Key of a row of bodies.
pub(super) type PartKey = (BlockNumber, u16);

/// Length of an encoded stream.
pub(super) const STREAM_LEN: usize = 6;
/// Length of what a block says of itself in the clear.
pub(super) const HEADER_LEN: usize = STREAM_AT + STREAM_LEN + 8;
/// Where in it the encoded stream stands.
pub(super) const STREAM_AT: usize = 40;
const AAD_LEN: usize = 1 + 8 + 2 + HEADER_LEN;
const HEAD_LEN: usize = 40;
const STATE_PREFIX_LEN: usize = 8 + NONCE_BASE_LEN;

/// Smallest page of redb.
const PAGE_MIN: usize = 4096;
/// Largest page that a part may fill. Larger ones make fewer rows, and fragment the file more.
const PAGE_MAX: usize = 128 * 1024;
/// What redb needs in a page that holds one part: page header, key, offset of the value.
const PAGE_OVERHEAD: usize = 4 + 10 + 4;

/// A row whose content is not what it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Damaged;

/// What a block says of itself in the clear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Which stream it belongs to.
    pub(super) stream: Stream,
    /// Sequence number of its first record.
    pub(super) first_seq: u64,
    /// Which data key sealed it.
    pub(super) key: KeyId,
    /// What the nonces of its rows are made of.
    pub(super) nonce: NonceBase,
    /// Rows of bodies.
    pub(super) parts: u16,
    /// Records.
    pub(super) count: u32,
    /// Sum of the bodies' lengths.
    pub(super) bytes: u64,
    /// The earliest expiry.
    pub(super) expires_min: Time,
}

/// How the bodies of a block are cut: sizes of the parts before sealing, which fill redb's pages well.
pub(super) fn cuts(bytes: u64) -> impl Iterator<Item = usize> {
    let mut left = usize::try_from(bytes).unwrap_or(usize::MAX);
    std::iter::from_fn(move || {
        let cut = cut(left)?;
        left -= cut;
        Some(cut)
    })
}

fn cut(left: usize) -> Option<usize> {
    const EXTRA: usize = PAGE_OVERHEAD + TAG_LEN;
    if left == 0 {
        return None;
    }
    let page = left.saturating_add(EXTRA).checked_next_power_of_two().unwrap_or(PAGE_MAX).min(PAGE_MAX);
    let filled = left + EXTRA >= page - page / 4;
    if page <= PAGE_MIN || filled { Some(left.min(page - EXTRA)) } else { Some(left.min(page / 2 - EXTRA)) }
}

/// The row of heads, among the rows of a block; the parts are 1 and above.
const HEADS: u16 = 0;

/// Opens the heads of a block, and with them proves its header.
pub(super) fn open_heads(
    cipher: &LessSafeKey,
    block: BlockNumber,
    value: &[u8],
) -> Result<(Vec<Head>, Vec<u32>), Damaged> {
    let header = Header::decode(value)?;
    let sealed = value.get(HEADER_LEN..).ok_or(Damaged)?;
    let count = usize::try_from(header.count).map_err(|_| Damaged)?;
    if count == 0
        || count.checked_mul(HEAD_LEN).and_then(|len| len.checked_add(TAG_LEN)) != Some(sealed.len())
    {
        return Err(Damaged);
    }
    let mut plain = vec![0; count * HEAD_LEN];
    let aad = block_aad(block, HEADS, &header.encode());
    open(cipher, header.nonce.nonce(HEADS), &aad, sealed, &mut plain)?;
    let mut heads = Vec::with_capacity(count);
    let mut lens = Vec::with_capacity(count);
    for encoded in plain.as_chunks::<HEAD_LEN>().0 {
        let (head, len) = decode_head(encoded);
        heads.push(head);
        lens.push(len);
    }
    Ok((heads, lens))
}

/// Opens all records of a block, whose bodies share one buffer. `part` is to show each of its parts, in order.
pub(super) fn open_block<E: From<Damaged>>(
    cipher: &LessSafeKey,
    block: BlockNumber,
    value: &[u8],
    mut part: impl FnMut(u16, &mut dyn FnMut(&[u8]) -> Result<(), Damaged>) -> Result<(), E>,
) -> Result<(Header, Vec<(u64, Record)>), E> {
    let header = Header::decode(value)?;
    // Opening the heads proves the header, whose length may then be believed.
    let (heads, lens) = open_heads(cipher, block, value)?;
    let mut body = vec![0; usize::try_from(header.bytes).map_err(|_| Damaged)?];
    let mut filled = 0;
    for number in 0..header.parts {
        part(number, &mut |sealed| {
            let out = body.get_mut(filled..).unwrap_or_default();
            filled += open_part(cipher, block, &header, number, sealed, out)?;
            Ok(())
        })?;
    }
    if filled != body.len() {
        return Err(Damaged.into());
    }
    let records = records(header.first_seq, heads, &lens, &Bytes::from(body))?;
    Ok((header, records))
}

/// Opens one part of a block into `out`, which takes all of it; gives how long it was.
fn open_part(
    cipher: &LessSafeKey,
    block: BlockNumber,
    header: &Header,
    part: u16,
    sealed: &[u8],
    out: &mut [u8],
) -> Result<usize, Damaged> {
    let len = sealed.len().checked_sub(TAG_LEN).ok_or(Damaged)?;
    let out = out.get_mut(..len).ok_or(Damaged)?;
    let row = part.checked_add(1).ok_or(Damaged)?;
    open(cipher, header.nonce.nonce(row), &block_aad(block, row, &header.encode()), sealed, out)?;
    Ok(len)
}

/// Puts records together: `body` holds all bodies, one behind the other.
fn records(
    first_seq: u64,
    heads: Vec<Head>,
    lens: &[u32],
    body: &Bytes,
) -> Result<Vec<(u64, Record)>, Damaged> {
    let mut records = Vec::with_capacity(heads.len());
    let mut at = 0_usize;
    for ((seq, head), len) in (first_seq..).zip(heads).zip(lens) {
        let end = usize::try_from(*len).ok().and_then(|len| at.checked_add(len)).ok_or(Damaged)?;
        if end > body.len() {
            return Err(Damaged);
        }
        records.push((seq, Record { head, body: body.slice(at..end) }));
        at = end;
    }
    if at == body.len() { Ok(records) } else { Err(Damaged) }
}

/// Which data key sealed a state entry.
pub(super) fn state_key_id(value: &[u8]) -> Result<KeyId, Damaged> {
    let (id, _) = value.split_first_chunk::<8>().ok_or(Damaged)?;
    Ok(KeyId(u64::from_le_bytes(*id)))
}

/// Opens a state entry's value.
pub(super) fn open_state(cipher: &LessSafeKey, key: &[u8], value: &[u8]) -> Result<Vec<u8>, Damaged> {
    let (_, rest) = value.split_first_chunk::<8>().ok_or(Damaged)?;
    let (nonce, sealed) = rest.split_first_chunk::<NONCE_BASE_LEN>().ok_or(Damaged)?;
    let mut plain = vec![0; sealed.len().checked_sub(TAG_LEN).ok_or(Damaged)?];
    open(cipher, NonceBase(*nonce).nonce(0), &state_aad(key), sealed, &mut plain)?;
    Ok(plain)
}

impl Header {
    /// Measures a block.
    pub(super) fn measure(
        stream: Stream,
        first_seq: u64,
        key: KeyId,
        nonce: NonceBase,
        records: &[Record],
    ) -> Result<Self, Damaged> {
        let count = u32::try_from(records.len()).map_err(|_| Damaged)?;
        let mut bytes = 0_u64;
        for record in records {
            bytes += u64::try_from(record.body.len()).map_err(|_| Damaged)?;
        }
        // Row 0 is the heads, so the parts must stay below the last number.
        let parts =
            u16::try_from(cuts(bytes).count()).ok().filter(|parts| *parts < u16::MAX).ok_or(Damaged)?;
        let expires_min = records.iter().map(|record| record.head.expires).min().ok_or(Damaged)?;
        Ok(Self { stream, first_seq, key, nonce, parts, count, bytes, expires_min })
    }

    /// What the core keeps in mind of the block.
    pub(super) fn info(&self) -> BlockInfo {
        BlockInfo {
            first_seq: self.first_seq,
            count: self.count,
            bytes: self.bytes,
            expires_min: self.expires_min,
        }
    }

    fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[..8].copy_from_slice(&self.key.0.to_le_bytes());
        bytes[8..18].copy_from_slice(&self.nonce.0);
        bytes[18..20].copy_from_slice(&self.parts.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.count.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.bytes.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.expires_min.unix_ms().to_le_bytes());
        bytes[40..46].copy_from_slice(&encode_stream(self.stream));
        bytes[46..].copy_from_slice(&self.first_seq.to_le_bytes());
        bytes
    }

    /// Reads the header of a row of heads. It is only to be believed once the row was opened.
    pub(super) fn decode(value: &[u8]) -> Result<Self, Damaged> {
        let (key, rest) = value.split_first_chunk().ok_or(Damaged)?;
        let (nonce, rest) = rest.split_first_chunk().ok_or(Damaged)?;
        let (parts, rest) = rest.split_first_chunk().ok_or(Damaged)?;
        let (count, rest) = rest.split_first_chunk().ok_or(Damaged)?;
        let (bytes, rest) = rest.split_first_chunk().ok_or(Damaged)?;
        let (expires, rest) = rest.split_first_chunk().ok_or(Damaged)?;
        let (stream, rest) = rest.split_first_chunk().ok_or(Damaged)?;
        let (first_seq, _) = rest.split_first_chunk().ok_or(Damaged)?;
        Ok(Self {
            stream: decode_stream(*stream)?,
            first_seq: u64::from_le_bytes(*first_seq),
            key: KeyId(u64::from_le_bytes(*key)),
            nonce: NonceBase(*nonce),
            parts: u16::from_le_bytes(*parts),
            count: u32::from_le_bytes(*count),
            bytes: u64::from_le_bytes(*bytes),
            expires_min: Time::from_unix_ms(u64::from_le_bytes(*expires)),
        })
    }
}

/// A stream as it rests: what blocks are filed under.
pub(super) fn encode_stream(stream: Stream) -> [u8; STREAM_LEN] {
    let (kind, owner, lane) = match stream {
        Stream::Outbox { peer, lane } => (1, peer.0, lane.0),
        Stream::Inbox { network } => (2, network.0, 0),
        Stream::Receipts { network } => (3, network.0, 0),
        Stream::Audit => (4, 0, 0),
    };
    let [o0, o1, o2, o3] = u32::to_le_bytes(owner);
    [kind, lane, o0, o1, o2, o3]
}

fn decode_stream([kind, lane, owner @ ..]: [u8; STREAM_LEN]) -> Result<Stream, Damaged> {
    let owner = u32::from_le_bytes(owner);
    match (kind, lane) {
        (1, lane) => Ok(Stream::Outbox { peer: PeerKey(owner), lane: Lane(lane) }),
        (2, 0) => Ok(Stream::Inbox { network: NetworkKey(owner) }),
        (3, 0) => Ok(Stream::Receipts { network: NetworkKey(owner) }),
        (4, 0) if owner == 0 => Ok(Stream::Audit),
        _ => Err(Damaged),
    }
}

fn encode_head(record: &Record, out: &mut Vec<u8>) -> Result<(), Damaged> {
    let Head { id, network, expires, at } = record.head;
    out.extend_from_slice(&id);
    out.extend_from_slice(&network.0.to_le_bytes());
    out.extend_from_slice(&expires.unix_ms().to_le_bytes());
    out.extend_from_slice(&at.unix_ms().to_le_bytes());
    out.extend_from_slice(&u32::try_from(record.body.len()).map_err(|_| Damaged)?.to_le_bytes());
    Ok(())
}

fn decode_head(encoded: &[u8; HEAD_LEN]) -> (Head, u32) {
    let mut id = [0; 16];
    id.copy_from_slice(&encoded[..16]);
    let u32_at = |at: usize| {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&encoded[at..at + 4]);
        u32::from_le_bytes(bytes)
    };
    let time_at = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&encoded[at..at + 8]);
        Time::from_unix_ms(u64::from_le_bytes(bytes))
    };
    let head = Head { id, network: NetworkKey(u32_at(16)), expires: time_at(20), at: time_at(28) };
    (head, u32_at(36))
}

fn block_aad(block: BlockNumber, row: u16, header: &[u8; HEADER_LEN]) -> [u8; AAD_LEN] {
    let mut aad = [0; AAD_LEN];
    aad[0] = b'b';
    aad[1..9].copy_from_slice(&block.to_le_bytes());
    aad[9..11].copy_from_slice(&row.to_le_bytes());
    aad[11..].copy_from_slice(header);
    aad
}

fn state_aad(key: &[u8]) -> Vec<u8> {
    [b"s", key].concat()
}

/// Seals `buffer` from `from` on, and puts the tag behind it.
fn seal(
    cipher: &LessSafeKey,
    nonce: Nonce,
    aad: &[u8],
    buffer: &mut Vec<u8>,
    from: usize,
) -> Result<(), Damaged> {
    let plain = buffer.get_mut(from..).ok_or(Damaged)?;
    let tag = cipher.seal_in_place_separate_tag(nonce, Aad::from(aad), plain).map_err(|_| Damaged)?;
    buffer.extend_from_slice(tag.as_ref());
    Ok(())
}

/// Opens `sealed` into `out`, which is as long as what was sealed.
fn open(
    cipher: &LessSafeKey,
    nonce: Nonce,
    aad: &[u8],
    sealed: &[u8],
    out: &mut [u8],
) -> Result<(), Damaged> {
    let (text, tag) = sealed.split_last_chunk::<TAG_LEN>().ok_or(Damaged)?;
    if text.len() != out.len() {
        return Err(Damaged);
    }
    cipher.open_separate_gather(nonce, Aad::from(aad), text, tag, out).map_err(|_| Damaged)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_survives_its_encoding() {
        let streams = [
            Stream::Outbox { peer: PeerKey(1), lane: Lane(15) },
            Stream::Inbox { network: NetworkKey(0) },
            Stream::Receipts { network: NetworkKey(u32::MAX) },
            Stream::Audit,
        ];
        for stream in streams {
            assert_eq!(decode_stream(encode_stream(stream)), Ok(stream));
        }
        for bad in [[0; 6], [2, 1, 0, 0, 0, 0], [4, 0, 1, 0, 0, 0], [5; 6]] {
            assert_eq!(decode_stream(bad), Err(Damaged));
        }
    }

    #[test]
    fn cuts_cover_all_bytes_and_fill_their_pages() {
        for bytes in (0..400_u64).chain((0..600).map(|n| n * 997)).chain([16 << 20, 20 << 20]) {
            let cuts: Vec<usize> = cuts(bytes).collect();
            assert_eq!(cuts.iter().sum::<usize>() as u64, bytes);
            let pages: usize = cuts
                .iter()
                .map(|cut| (cut + PAGE_OVERHEAD + TAG_LEN).next_power_of_two().max(PAGE_MIN))
                .sum();
            assert!(pages as u64 <= bytes * 4 / 3 + 2 * PAGE_MIN as u64, "{bytes} bytes in pages of {pages}");
            assert!(cuts.iter().all(|cut| cut + PAGE_OVERHEAD + TAG_LEN <= PAGE_MAX));
        }
    }

    #[test]
    fn a_header_survives_its_encoding() {
        let header = Header {
            stream: Stream::Outbox { peer: PeerKey(3), lane: Lane(9) },
            first_seq: 77,
            key: KeyId(7),
            nonce: NonceBase([3; NONCE_BASE_LEN]),
            parts: 2,
            count: 5,
            bytes: 70_000,
            expires_min: Time::from_unix_ms(9),
        };
        assert_eq!(Header::decode(&header.encode()), Ok(header));
        assert_eq!(Header::decode(&[0; HEADER_LEN - 1]), Err(Damaged));
    }
}
