//! A look at a store that changes nothing in it: for checks before a start.
//!
//! Opening a store as the gateway does would mend what a crash left and seal the state anew. This opens it read-only,
//! which redb refuses where something is to be mended, and reads the key file into memory. While it looks, it holds a
//! shared lock: a gateway that starts in this moment is told that the store is in use.

use std::fs;
use std::io;

use ::redb::backends::InMemoryBackend;
use ::redb::{Builder, DatabaseError, ReadableDatabase, StorageBackend};
use bytes::Bytes;
use trunkline_gateway_proto::store::{Record, StateKey, Stream};

use super::StoreError;
use super::block;
use super::fault::{Faults, KEYS_FILE, STORE_FILE};
use super::keyfile::{Found as FoundKeys, KeyFile, Wrapped};
use super::note::{self, Note};
use super::redb::{Options, STATE, store_id};
use super::seal::Keys;

/// Memory for pages: a look needs few.
const CACHE_BYTES: usize = 1 << 20;

/// What redb writes first, and last when it makes a file.
const MAGIC_LEN: usize = 9;

/// What was seen of a store that nothing is wrong with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// There is none yet: the first start makes it.
    Absent,
    /// It opens, its two files belong together, and the deployment key is its own.
    Sound,
    /// It was not closed cleanly: the next start mends that, which loses nothing that was acknowledged.
    Unclean,
}

/// Something that a walk through a store came by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// A state entry.
    State {
        /// Which.
        key: StateKey,
        /// What it says, unless it does not open.
        value: Option<Bytes>,
    },
    /// A block.
    Block {
        /// Of which stream.
        stream: Stream,
        /// The number of its first record.
        first_seq: u64,
        /// Its records, unless they do not open.
        records: Option<Vec<(u64, Record)>>,
    },
}

impl Found {
    /// How many records it makes; a block that does not open is told instead.
    pub fn readable(&self, damage: &mut dyn FnMut(Stream, u64)) -> u64 {
        match self {
            Self::Block { records: Some(records), .. } => records.len() as u64,
            Self::Block { stream, first_seq, records: None } => {
                damage(*stream, *first_seq);
                0
            }
            Self::State { .. } => 0,
        }
    }
}

/// Looks at the store in a directory.
///
/// # Errors
/// When it is in use, damaged, or the deployment key is not its own.
pub fn look(options: &Options) -> Result<Seen, StoreError> {
    let faults = Faults::new(&options.dir);
    faults.contain(|| look_at(options, &faults))
}

fn look_at(options: &Options, faults: &Faults) -> Result<Seen, StoreError> {
    let store = faults.path(STORE_FILE);
    if unfinished(&store).map_err(|error| faults.io(STORE_FILE, &error))? {
        return match open_keys(options, faults)? {
            FoundKeys::Keys(_, keys) if !keys.is_empty() => {
                Err(faults.corrupt(STORE_FILE, &format!("it is missing or empty, while {KEYS_FILE} is not")))
            }
            _ => Ok(Seen::Absent),
        };
    }
    let db = match Builder::new().set_cache_size(CACHE_BYTES).open_read_only(&store) {
        Ok(db) => db,
        Err(DatabaseError::RepairAborted) => {
            return open_keys(options, faults).map(|_| Seen::Unclean);
        }
        Err(error) => return Err(faults.opening(STORE_FILE, error)),
    };
    match (store_id(&db, faults)?, open_keys(options, faults)?) {
        (Some(id), FoundKeys::Keys(its, keys)) if id == its => look_for_note(&db, keys, faults),
        (Some(_), FoundKeys::Keys(..)) => {
            Err(faults.corrupt(KEYS_FILE, &format!("it belongs to another store than {STORE_FILE}")))
        }
        (Some(_), FoundKeys::Blank) => {
            Err(faults.corrupt(KEYS_FILE, &format!("it is missing or empty, while {STORE_FILE} is not")))
        }
        (None, _) => Ok(Seen::Absent),
    }
}

/// A store that is part of a move is none to start on.
fn look_for_note(
    db: &impl ReadableDatabase,
    found: Vec<(u32, Wrapped)>,
    faults: &Faults,
) -> Result<Seen, StoreError> {
    let snapshot = db.begin_read().map_err(|error| faults.redb(error))?;
    let state = snapshot.open_table(STATE).map_err(|error| faults.opening(STORE_FILE, error))?;
    let Some(value) = state.get(note::KEY).map_err(|error| faults.redb(error))? else {
        return Ok(Seen::Sound);
    };
    let keys = Keys::of(found);
    let id = block::state_key_id(value.value()).ok();
    let cipher = id.and_then(|id| keys.cipher(id));
    let opened = cipher.and_then(|cipher| block::open_state(&cipher, note::KEY, value.value()).ok());
    let damaged = || faults.corrupt(STORE_FILE, "a state entry does not decrypt");
    Err(Note::decode(&opened.ok_or_else(damaged)?)?.refusal())
}

/// From memory, so that nothing can reach the file.
fn open_keys(options: &Options, faults: &Faults) -> Result<FoundKeys, StoreError> {
    let bytes = match fs::read(faults.path(KEYS_FILE)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(faults.io(KEYS_FILE, &error)),
    };
    let copy = InMemoryBackend::new();
    let filled = copy.set_len(bytes.len() as u64).and_then(|()| copy.write(0, &bytes));
    filled.map_err(|error| faults.io(KEYS_FILE, &error))?;
    KeyFile::open(Box::new(copy), &options.deployment_key, faults).map(|(_, found)| found)
}

/// Whether there is no store yet, or one that was being made when the process ended.
fn unfinished(store: &std::path::Path) -> io::Result<bool> {
    let mut magic = [0; MAGIC_LEN];
    match fs::File::open(store) {
        Ok(mut file) => match io::Read::read_exact(&mut file, &mut magic) {
            Ok(()) => Ok(magic == [0; MAGIC_LEN]),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(file.metadata()?.len() == 0),
            Err(error) => Err(error),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}
