//! The files of records: named by their first record, appended to, synced, and left alone once full.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::reader::{self, Found};
use super::{Record, Settings, lost, now_us};

/// What the names of files end with.
const SUFFIX: &str = ".jsonl";

/// Digits of `msg_ts` in a file's name, so that names sort like times.
const DIGITS: usize = 20;

/// Writes records into files.
pub(super) struct Files {
    settings: Settings,
    open: Option<Current>,
    /// `msg_ts` of the last record written.
    last: u64,
}

struct Current {
    file: File,
    bytes: u64,
}

impl Files {
    /// Looks at what is there, and makes sure that more can be written.
    pub(super) fn open(settings: Settings) -> io::Result<Self> {
        fs::create_dir_all(&settings.directory)?;
        let probe = settings.directory.join(format!(".{}-{}", settings.prefix, std::process::id()));
        fs::write(&probe, b"").and_then(|()| fs::remove_file(&probe))?;
        let last = match list(&settings.directory, &settings.prefix)?.last() {
            Some(found) => reader::last(&found.path)?.unwrap_or(found.first),
            None => 0,
        };
        Ok(Self { settings, open: None, last })
    }

    /// Writes records and syncs them. What cannot be written is lost, and counted.
    pub(super) fn write(&mut self, records: Vec<Record>) {
        let mut unsynced = 0;
        for record in records {
            match self.append(record) {
                Ok(()) => unsynced += 1,
                Err(error) => self.failed(&error, 1),
            }
        }
        let synced = self.open.as_ref().map_or(Ok(()), |current| current.file.sync_data());
        match synced {
            Ok(()) => metrics::counter!("trunkline_relay_records_written_total").increment(unsynced),
            Err(error) => self.failed(&error, unsynced),
        }
    }

    fn append(&mut self, mut record: Record) -> io::Result<()> {
        let now = now_us();
        record.at(now.max(self.last + 1));
        let mut line = serde_json::to_vec(&record)?;
        line.push(b'\n');
        let len = line.len() as u64;
        let full = self.open.as_ref().is_some_and(|current| current.bytes + len > self.settings.size_max);
        if full {
            self.close()?;
        }
        let current = match &mut self.open {
            Some(current) => current,
            None => self.open.insert(Current { file: begin(&self.settings, record.msg_ts)?, bytes: 0 }),
        };
        current.file.write_all(&line)?;
        current.bytes += len;
        self.last = record.msg_ts;
        Ok(())
    }

    fn close(&mut self) -> io::Result<()> {
        self.open.take().map_or(Ok(()), |current| current.file.sync_data())
    }

    /// Half a line may stand at the file's end now: the next record begins a new one.
    fn failed(&mut self, error: &io::Error, records: u64) {
        tracing::error!(%error, "call records cannot be written: look at records.directory and its disk");
        lost(records);
        self.open = None;
    }
}

/// The files of a prefix, the oldest first.
pub(super) fn list(directory: &Path, prefix: &str) -> io::Result<Vec<Found>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        let digits = name.to_str().and_then(|name| {
            let rest = name.strip_prefix(prefix)?.strip_prefix('-')?.strip_suffix(SUFFIX)?;
            (rest.len() == DIGITS).then_some(rest)
        });
        if let Some(first) = digits.and_then(|digits| digits.parse().ok()) {
            files.push(Found { first, path: directory.join(name) });
        }
    }
    files.sort_unstable_by_key(|found| found.first);
    Ok(files)
}

fn begin(settings: &Settings, first: u64) -> io::Result<File> {
    let path = file_name(settings, first);
    let file = OpenOptions::new().append(true).create_new(true).mode(0o640).open(path)?;
    // The file's name must survive a crash with its content.
    File::open(&settings.directory)?.sync_all()?;
    Ok(file)
}

fn file_name(settings: &Settings, first: u64) -> PathBuf {
    settings.directory.join(format!("{}-{first:0DIGITS$}{SUFFIX}", settings.prefix))
}
