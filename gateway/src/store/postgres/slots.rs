//! The rows that the data keys rest in, seen as the file that [`KeyFile`](super::super::keyfile::KeyFile) writes:
//! row 0 is its header, row `n + 1` its slot `n`. What is written is gathered here, and goes into the database with
//! the transaction that needs it: a key and the first block that it sealed are there together, or neither.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ::redb::StorageBackend;

/// Bytes of a row: header and slots are of one size.
const ROW_LEN: usize = 128;

/// A row's number, and what it holds now; `None` when it is empty.
pub(super) type RowChange = (i32, Option<Vec<u8>>);

/// The rows. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Slots {
    image: Arc<Mutex<Image>>,
}

#[derive(Debug, Default)]
struct Image {
    bytes: Vec<u8>,
    /// Rows that are not in the database as they are here.
    changed: BTreeSet<usize>,
    /// Rows that are in the database.
    kept: BTreeSet<usize>,
}

impl Slots {
    /// From what the database holds; `None` when that cannot be.
    pub(super) fn restore(rows: impl IntoIterator<Item = (i32, Vec<u8>)>) -> Option<Self> {
        let mut image = Image::default();
        for (row, content) in rows {
            let row = usize::try_from(row).ok()?;
            let at = row.checked_mul(ROW_LEN)?;
            let end = at.checked_add(ROW_LEN).filter(|_| content.len() == ROW_LEN && row < ROWS_MAX)?;
            image.bytes.resize(image.bytes.len().max(end), 0);
            image.bytes.get_mut(at..end)?.copy_from_slice(&content);
            image.kept.insert(row);
        }
        Some(Self { image: Arc::new(Mutex::new(image)) })
    }

    /// What the database must be told. It counts as told.
    pub(super) fn take_changes(&self) -> Vec<RowChange> {
        let image = &mut *self.lock();
        let mut changes = Vec::new();
        for row in std::mem::take(&mut image.changed) {
            let content = image.bytes.chunks(ROW_LEN).nth(row).unwrap_or_default();
            let number = i32::try_from(row).unwrap_or(i32::MAX);
            if content.iter().any(|byte| *byte != 0) {
                image.kept.insert(row);
                changes.push((number, Some(content.to_vec())));
            } else if image.kept.remove(&row) {
                changes.push((number, None));
            }
        }
        changes
    }

    /// Whether there is something to tell.
    pub(super) fn changed(&self) -> bool {
        !self.lock().changed.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, Image> {
        self.image.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Rows that are believed to be possible. One per scope and hour of backlog is needed; more is damage.
const ROWS_MAX: usize = 1 << 22;

impl Image {
    fn touch(&mut self, from: usize, to: usize) {
        self.changed.extend(from / ROW_LEN..to.div_ceil(ROW_LEN));
    }
}

impl StorageBackend for Slots {
    fn len(&self) -> io::Result<u64> {
        Ok(self.lock().bytes.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let image = self.lock();
        let from = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let bytes = image.bytes.get(from..).and_then(|bytes| bytes.get(..out.len()));
        out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let len = usize::try_from(len).ok().filter(|len| *len <= ROWS_MAX * ROW_LEN);
        let len = len.ok_or(io::ErrorKind::FileTooLarge)?;
        let image = &mut *self.lock();
        let before = image.bytes.len();
        image.bytes.resize(len, 0);
        image.touch(len.min(before), len.max(before));
        Ok(())
    }

    /// Nothing is safe before the transaction that takes it along.
    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let image = &mut *self.lock();
        let from = usize::try_from(offset).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let to = from.checked_add(data.len()).ok_or(io::ErrorKind::FileTooLarge)?;
        image.bytes.get_mut(from..to).ok_or(io::ErrorKind::UnexpectedEof)?.copy_from_slice(data);
        image.touch(from, to);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_were_written_are_told_once_and_emptied_ones_only_when_they_were_there() {
        let slots = Slots::default();
        slots.set_len(4 * 128).unwrap();
        slots.write(128, &[1; 128]).unwrap();
        slots.write(3 * 128, &[2; 5]).unwrap();
        let told = slots.take_changes();
        assert_eq!(told.iter().map(|(row, _)| *row).collect::<Vec<_>>(), [1, 3]);
        assert!(!slots.changed() && slots.take_changes().is_empty());
        slots.write(128, &[0; 128]).unwrap();
        slots.write(2 * 128, &[0; 128]).unwrap();
        assert_eq!(slots.take_changes(), [(1, None)]);
    }

    #[test]
    fn rows_come_back_as_they_were_and_damaged_ones_are_refused() {
        let slots = Slots::restore([(2, vec![7; 128]), (0, vec![3; 128])]).unwrap();
        let mut bytes = vec![0; 3 * 128];
        slots.read(0, &mut bytes).unwrap();
        assert_eq!((bytes[0], bytes[128], bytes[256], bytes.len() as u64), (3, 0, 7, slots.len().unwrap()));
        for bad in [(0, vec![1; 127]), (-1, vec![1; 128]), (i32::MAX, vec![1; 128])] {
            assert!(Slots::restore([bad]).is_none());
        }
    }
}
