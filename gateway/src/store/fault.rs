//! From what the disk and redb report to what the operator must know.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::StoreError;

/// Names the store's files in errors. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Faults {
    dir: Arc<Path>,
}

/// The file of blocks and state.
pub(crate) const STORE_FILE: &str = "gateway.redb";
/// The file of wrapped data keys.
pub(super) const KEYS_FILE: &str = "gateway.keys";

impl Faults {
    pub(super) fn new(dir: &Path) -> Self {
        Self { dir: dir.into() }
    }

    pub(super) fn path(&self, file: &str) -> PathBuf {
        self.dir.join(file)
    }

    /// An error of the operating system, met while `doing` something.
    pub(super) fn io(&self, doing: &str, error: &io::Error) -> StoreError {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                StoreError::Full { path: self.dir.display().to_string() }
            }
            _ => StoreError::Failed(format!("{doing}: {error}")),
        }
    }

    /// An error of redb, met while the store was in use.
    pub(super) fn redb(&self, error: impl Into<::redb::Error>) -> StoreError {
        match error.into() {
            ::redb::Error::Io(error) => self.io(STORE_FILE, &error),
            ::redb::Error::Corrupted(what) => self.corrupt(STORE_FILE, &what),
            ::redb::Error::DatabaseAlreadyOpen => self.locked(STORE_FILE),
            ::redb::Error::PreviousIo => {
                StoreError::Failed(format!("{STORE_FILE}: an earlier read or write failed"))
            }
            error => StoreError::Failed(format!("{STORE_FILE}: {error}")),
        }
    }

    /// An error of redb, met while opening: there, unexpected content means damage.
    pub(super) fn opening(&self, file: &str, error: impl Into<::redb::Error>) -> StoreError {
        match error.into() {
            ::redb::Error::Io(error)
                if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) =>
            {
                self.corrupt(file, &error.to_string())
            }
            ::redb::Error::DatabaseAlreadyOpen => self.locked(file),
            error @ (::redb::Error::UpgradeRequired(_)
            | ::redb::Error::TableTypeMismatch { .. }
            | ::redb::Error::TableIsMultimap(_)
            | ::redb::Error::TypeDefinitionChanged { .. }
            | ::redb::Error::TableDoesNotExist(_)) => self.corrupt(file, &error.to_string()),
            error => self.redb(error),
        }
    }

    pub(super) fn corrupt(&self, file: &str, what: &str) -> StoreError {
        StoreError::Corrupt(format!("{}: {what}", self.path(file).display()))
    }

    pub(super) fn locked(&self, file: &str) -> StoreError {
        StoreError::Locked { path: self.path(file).display().to_string() }
    }

    /// Runs `work`, and takes a panic below us for what it is: redb met pages that make no sense.
    pub(super) fn contain<T>(&self, work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
        catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|payload| {
            let what = format!("its pages do not fit together ({})", panic_text(payload.as_ref()));
            Err(self.corrupt(STORE_FILE, &what))
        })
    }
}

fn panic_text(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no reason given")
}
