//! What of the unsynced changes is on the medium after a crash.
//!
//! The page cache may write back any dirty sector at any time, in the version it has then, and the file's length
//! apart from its bytes. So every sector is left in one of the versions that the changes took it through, and the
//! length is one of those the file had; a length that did survive brings its zeros and cuts with it.

use std::collections::BTreeMap;

use super::SECTOR_BYTES;
use crate::rng::Rng;

/// A change that no sync has covered yet.
#[derive(Debug)]
pub(super) enum Pending {
    Write { offset: usize, data: Box<[u8]> },
    SetLen(usize),
}

/// How a crash treats what is pending: corner cases come up more often than chance would have them.
#[derive(Clone, Copy)]
enum Mood {
    /// Nothing was written back.
    Nothing,
    /// All of it was.
    Everything,
    /// Changes were written back in order, until the power went in the middle of one.
    UpTo(usize),
    /// Each sector went its own way.
    Scattered,
}

impl Pending {
    /// Carries the change out on `bytes`.
    pub(super) fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write { offset, data } => {
                let end = offset + data.len();
                if !data.is_empty() && bytes.len() < end {
                    bytes.resize(end, 0);
                }
                if let Some(target) = bytes.get_mut(*offset..end) {
                    target.copy_from_slice(data);
                }
            }
            Self::SetLen(len) => bytes.resize(*len, 0),
        }
    }

    /// The length of the file after this change, when it was `len` before.
    fn len_after(&self, len: usize) -> usize {
        match self {
            Self::Write { data, .. } if data.is_empty() => len,
            Self::Write { offset, data } => len.max(offset + data.len()),
            Self::SetLen(new) => *new,
        }
    }
}

/// The bytes that are on the medium after a crash: `durable`, and by chance some of `pending`.
pub(super) fn survivor(durable: &[u8], pending: &[Pending], rng: &mut Rng) -> Vec<u8> {
    let mood = match rng.range(0..10) {
        0 => Mood::Nothing,
        1 => Mood::Everything,
        2..5 => Mood::UpTo(rng.index(pending.len())),
        _ => Mood::Scattered,
    };
    let lengths_kept = match mood {
        Mood::Nothing => 0,
        Mood::Everything => pending.len(),
        Mood::UpTo(change) => change + rng.index(2),
        Mood::Scattered => rng.index(pending.len() + 1),
    };
    let mut sectors = Sectors { mood, changes: pending.len(), kept: BTreeMap::new() };
    let mut bytes = durable.to_vec();
    let mut len = durable.len();
    for (number, change) in pending.iter().enumerate() {
        if number < lengths_kept {
            len = change.len_after(len);
            if let Pending::SetLen(len) = change {
                // What comes back beyond a cut later on is zeros, never the old bytes.
                bytes.truncate(*len);
            }
        }
        if let Pending::Write { offset, data } = change {
            apply_sectors(&mut bytes, *offset, data, |sector| sectors.keeps(sector, number, rng));
        }
    }
    bytes.resize(len, 0);
    bytes
}

/// For each dirty sector, how many of the changes it has seen on the medium.
struct Sectors {
    mood: Mood,
    changes: usize,
    kept: BTreeMap<usize, usize>,
}

impl Sectors {
    /// Whether `sector` is on the medium in the version that change `number` gave it, or a later one.
    fn keeps(&mut self, sector: usize, number: usize, rng: &mut Rng) -> bool {
        match self.mood {
            Mood::Nothing => false,
            Mood::Everything => true,
            Mood::UpTo(last) => {
                // The sectors of the last change reached the medium or did not, each by itself.
                let torn = *self.kept.entry(sector).or_insert_with(|| rng.index(2));
                number < last + torn
            }
            Mood::Scattered => {
                let changes = self.changes;
                number < *self.kept.entry(sector).or_insert_with(|| rng.index(changes + 1))
            }
        }
    }
}

fn apply_sectors(bytes: &mut Vec<u8>, offset: usize, data: &[u8], mut keeps: impl FnMut(usize) -> bool) {
    let mut start = offset;
    let mut rest = data;
    while !rest.is_empty() {
        let sector = start / SECTOR_BYTES;
        let (part, after) = rest.split_at(rest.len().min((sector + 1) * SECTOR_BYTES - start));
        if keeps(sector) {
            Pending::Write { offset: start, data: part.into() }.apply(bytes);
        }
        start += part.len();
        rest = after;
    }
}
