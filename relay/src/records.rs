//! Call records: who was on which call and for how long, for those who must be able to say. Names are hashed, and
//! there are no addresses of people and no media in them.
//!
//! A call has two records, as JSON lines: one when it begins (`status` 0), and one when it ends, with the same
//! `startmsgid`, which is made from the call's id. They are written by a thread of their own, in the order of `msg_ts`, which never repeats: it is where
//! [`Reader::since`] goes on. A file is begun at every start of the process and before one would grow beyond its
//! maximum; its name carries the `msg_ts` of its first record. Files are never changed afterwards nor removed.
//!
//! **Durability.** Records that wait are written together and synced to the disk (`fdatasync`) before the thread waits
//! for more; nobody waits for them. A crash loses at most what was not synced yet, and leaves calls without their
//! second record. A record that cannot be written is counted (`trunkline_relay_records_lost_total`), and the next one
//! goes to a new file.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use trunkline_common::token;
use trunkline_http::rfc3339::Utc;

mod book;
mod files;
mod reader;
#[cfg(test)]
mod tests;

pub use book::Book;
use files::Files;
pub use reader::{PAGE_BYTES_MAX, PAGE_MAX, Page, Reader};

/// Records that wait to be written. A disk slower than that many calls loses records, and says so.
const QUEUE_MAX: usize = 4096;

/// Bytes of the ids in records.
const ID_BYTES: usize = 16;

/// One record, as it is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The call.
    pub call_id: String,
    /// `host:port` of its media.
    pub calluri: String,
    /// The same over IPv6; empty without.
    pub calluriipv6: String,
    /// What the calling service called the meeting; may be empty.
    pub meetingid: String,
    /// SHA-256 of the name of everybody who joined, in hexadecimal, sorted.
    pub participants: Vec<String>,
    /// What became of it.
    pub status: Status,
    /// Whole seconds from the beginning to the end.
    pub duration: u64,
    /// The same in both records of a call, and in no others.
    pub startmsgid: String,
    /// This record's own.
    pub invitemsgid: String,
    /// When, in microseconds since the Unix epoch; larger than that of every record before.
    pub msg_ts: u64,
    /// The same for people.
    pub time_iso: String,
}

/// What became of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "u8", try_from = "u8")]
pub enum Status {
    /// It begins.
    Starting,
    /// Two or more people were on it.
    Completed,
    /// At most one person ever joined.
    Missed,
    /// It was ended before anybody joined.
    Cancelled,
}

/// Which call a record is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct About {
    /// Its id.
    pub call_id: String,
    /// `host:port`
    pub calluri: String,
    /// The same over IPv6.
    pub calluriipv6: Option<String>,
    /// What the calling service called it.
    pub meetingid: Option<String>,
}

/// Where records go. Without files they go nowhere.
#[derive(Clone, Debug)]
pub struct Recorder {
    queue: Option<SyncSender<Record>>,
}

/// Writes what waits until the last [`Recorder`] is dropped.
#[derive(Debug)]
pub struct Writer(JoinHandle<()>);

/// Where and how records are written.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where.
    pub directory: PathBuf,
    /// What the names of files begin with.
    pub prefix: String,
    /// Bytes of a file.
    pub size_max: u64,
}

/// Records cannot be written: the operator's to mend.
#[derive(Debug, Error)]
#[error("records.directory: cannot write in {}: {source}", directory.display())]
pub struct RecordsError {
    directory: PathBuf,
    source: std::io::Error,
}

impl From<Status> for u8 {
    fn from(status: Status) -> Self {
        match status {
            Status::Starting => 0,
            Status::Completed => 1,
            Status::Missed => 2,
            Status::Cancelled => 3,
        }
    }
}

impl TryFrom<u8> for Status {
    type Error = String;

    fn try_from(number: u8) -> Result<Self, String> {
        match number {
            0 => Ok(Self::Starting),
            1 => Ok(Self::Completed),
            2 => Ok(Self::Missed),
            3 => Ok(Self::Cancelled),
            _ => Err(format!("expected a status of 0 to 3, found {number}")),
        }
    }
}

impl Recorder {
    /// Records nothing.
    #[must_use]
    pub fn off() -> Self {
        Self { queue: None }
    }

    /// Begins to write.
    ///
    /// # Errors
    /// When the directory cannot be read or written.
    pub fn start(settings: Settings) -> Result<(Self, Writer), RecordsError> {
        let failed = |source| RecordsError { directory: settings.directory.clone(), source };
        let mut files = Files::open(settings.clone()).map_err(failed)?;
        let (queue, waiting) = sync_channel::<Record>(QUEUE_MAX);
        let write = move || {
            while let Ok(first) = waiting.recv() {
                let records: Vec<Record> = std::iter::once(first).chain(waiting.try_iter()).collect();
                files.write(records);
            }
        };
        let thread = std::thread::Builder::new().name("records".to_owned()).spawn(write).map_err(failed)?;
        Ok((Self { queue: Some(queue) }, Writer(thread)))
    }

    /// A call begins.
    pub fn begin(&self, about: &About) {
        self.hand_over(record(about, &[], Status::Starting, Duration::ZERO));
    }

    /// It ended after `duration`; `names` are those who ever joined. `deleted` when it was ended on request.
    pub fn end(&self, about: &About, names: &[Arc<str>], duration: Duration, deleted: bool) {
        let status = match names {
            [] if deleted => Status::Cancelled,
            [] | [_] => Status::Missed,
            _ => Status::Completed,
        };
        self.hand_over(record(about, names, status, duration));
    }

    fn hand_over(&self, record: Record) {
        let Some(queue) = &self.queue else { return };
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = queue.try_send(record) {
            lost(1);
        }
    }
}

impl Writer {
    /// Waits until everything is written: once every [`Recorder`] is dropped.
    pub fn finish(self) {
        // A panic in it was reported when it happened.
        let _ = self.0.join();
    }
}

fn record(about: &About, names: &[Arc<str>], status: Status, duration: Duration) -> Record {
    let hash = |text: &str| digest(&SHA256, text.as_bytes());
    let participants: BTreeSet<_> = names.iter().map(|name| hex(hash(name).as_ref())).collect();
    Record {
        call_id: about.call_id.clone(),
        calluri: about.calluri.clone(),
        calluriipv6: about.calluriipv6.clone().unwrap_or_default(),
        meetingid: about.meetingid.clone().unwrap_or_default(),
        participants: participants.into_iter().collect(),
        status,
        duration: duration.as_secs(),
        startmsgid: hex(hash(&about.call_id).as_ref().get(..ID_BYTES).unwrap_or_default()),
        invitemsgid: hex(&token::random::<ID_BYTES>()),
        // The writer says when.
        msg_ts: 0,
        time_iso: String::new(),
    }
}

impl Record {
    /// Says when it was, for the machine and for people.
    fn at(&mut self, msg_ts: u64) {
        self.msg_ts = msg_ts;
        self.time_iso = Utc(msg_ts / 1000).to_string();
    }
}

fn lost(records: u64) {
    metrics::counter!("trunkline_relay_records_lost_total").increment(records);
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn now_us() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_micros()).unwrap_or(u64::MAX)
}
