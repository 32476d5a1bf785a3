//! Reading records back, a page at a time.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::files;

/// Records of one page. More saves requests, and makes answers larger.
pub const PAGE_MAX: usize = 1000;

/// Bytes of one page, unless a single record is larger. More makes answers larger.
pub const PAGE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Longest line that is looked at: a record of 10,000 names has 67 bytes for each. What is longer was
/// not written here.
const LINE_BYTES_MAX: u64 = 1024 * 1024;

/// A file of records.
#[derive(Clone, Debug)]
pub(super) struct Found {
    /// `msg_ts` of its first record.
    pub(super) first: u64,
    pub(super) path: PathBuf,
}

/// Reads records back.
#[derive(Clone, Debug)]
pub struct Reader {
    directory: PathBuf,
    prefix: String,
}

/// A page of records.
#[derive(Debug, Default, Serialize)]
pub struct Page {
    /// In the order they were written, as they were written.
    pub records: Vec<Box<RawValue>>,
    /// What to give as `since` for the next page; as given when there is none yet.
    pub next: u64,
    /// Whether there are more already.
    pub more: bool,
}

#[derive(Deserialize)]
struct Timed {
    msg_ts: u64,
}

impl Reader {
    /// Reads what was written into a directory with a prefix.
    #[must_use]
    pub fn new(directory: PathBuf, prefix: String) -> Self {
        Self { directory, prefix }
    }

    /// Records after `since` (a `msg_ts`, 0 for the first), at most `max` of them. Blocks while it reads.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn since(&self, since: u64, max: usize) -> io::Result<Page> {
        let files = files::list(&self.directory, &self.prefix)?;
        // A file's records are older than the first of the next one.
        let skipped = files.partition_point(|found| found.first <= since).saturating_sub(1);
        let mut page = Page { next: since, ..Page::default() };
        let mut bytes = 0;
        for found in files.iter().skip(skipped) {
            let mut file = File::open(&found.path)?;
            let start = seek_after(&mut file, since)?;
            file.seek(SeekFrom::Start(start))?;
            let mut lines = BufReader::new(file);
            while let Some(line) = next_line(&mut lines)? {
                // A crash may have left half a line at the end of a file.
                let Some(msg_ts) = msg_ts(&line).filter(|msg_ts| *msg_ts > since) else { continue };
                let Ok(text) = String::from_utf8(line) else { continue };
                bytes += text.len();
                let full = page.records.len() == max || (bytes > PAGE_BYTES_MAX && !page.records.is_empty());
                if full {
                    page.more = true;
                    return Ok(page);
                }
                page.records.push(RawValue::from_string(text)?);
                page.next = msg_ts;
            }
        }
        Ok(page)
    }
}

/// `msg_ts` of a file's last record that can be read.
pub(super) fn last(path: &Path) -> io::Result<Option<u64>> {
    let mut file = File::open(path)?;
    let len = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(len.saturating_sub(2 * LINE_BYTES_MAX)))?;
    let mut lines = BufReader::new(file);
    let mut found = None;
    while let Some(line) = next_line(&mut lines)? {
        found = msg_ts(&line).or(found);
    }
    Ok(found)
}

/// An offset at or before the first record after `since`, and close to it: times only grow within a file.
fn seek_after(file: &mut File, since: u64) -> io::Result<u64> {
    let (mut low, mut high) = (0, file.seek(SeekFrom::End(0))?);
    while high - low > LINE_BYTES_MAX {
        let middle = low + (high - low) / 2;
        file.seek(SeekFrom::Start(middle))?;
        let mut lines = BufReader::new(&mut *file);
        // The rest of the line that the middle lies in.
        next_line(&mut lines)?;
        match next_line(&mut lines)?.as_deref().and_then(msg_ts) {
            Some(msg_ts) if msg_ts <= since => low = middle,
            _ => high = middle,
        }
    }
    // The line that `low` lies in is older than `since`, or the file's first.
    Ok(low)
}

/// The next line without its end; cut off when it is longer than any that was written here.
fn next_line(lines: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let read = lines.take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
    if line.last() == Some(&b'\n') {
        line.pop();
    }
    Ok((read > 0).then_some(line))
}

fn msg_ts(line: &[u8]) -> Option<u64> {
    serde_json::from_slice(line).ok().map(|Timed { msg_ts }| msg_ts)
}
