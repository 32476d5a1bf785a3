//! Files that hold secrets: for their owner only.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use thiserror::Error;
use zeroize::Zeroizing;

/// Largest secret that is read, in bytes: keys and tokens are a line or two, PEM a page.
pub const SECRET_BYTES_MAX: u64 = 64 * 1024;

/// Why a secret cannot be read from its file: the operator's to mend.
#[derive(Debug, Error)]
pub enum SecretError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others than its owner may read it.
    #[error("others may read {p}: run `chmod 600 {p}`", p = path.display())]
    Mode {
        /// Which.
        path: PathBuf,
    },
}

/// Why a directory of secrets could not be made and filled.
#[derive(Debug, Error)]
pub enum MakeError {
    /// Something is there.
    #[error("{} is not empty: choose another directory, `init` never overwrites", .0.display())]
    Exists(PathBuf),
    /// A file or directory could not be made.
    #[error("cannot make {}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl MakeError {
    /// Of this file or directory.
    pub fn of(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        |source| Self::Io { path, source }
    }
}

/// Reads a secret, unless others than its owner may read it too.
///
/// # Errors
/// When it cannot be read, or others may.
pub fn read(path: &Path) -> Result<Zeroizing<String>, SecretError> {
    let fails = |source| SecretError::Read { path: path.to_owned(), source };
    let metadata = fs::metadata(path).map_err(fails)?;
    if metadata.permissions().mode() & 0o077 != 0 {
        return Err(SecretError::Mode { path: path.to_owned() });
    }
    if metadata.len() > SECRET_BYTES_MAX {
        let error = format!("it has {} bytes: expected at most {SECRET_BYTES_MAX}", metadata.len());
        return Err(fails(io::Error::other(error)));
    }
    fs::read_to_string(path).map(Zeroizing::new).map_err(fails)
}

/// Writes a line into a new file that only its owner reads, durably.
///
/// # Errors
/// When it is there already, or cannot be made.
pub fn create(path: &Path, line: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(line).and_then(|()| file.write_all(b"\n")).and_then(|()| file.sync_all())
}

/// Makes a directory that only its owner enters, with those above it that are missing.
///
/// # Errors
/// When it cannot be made.
pub fn make_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Makes a directory, which may be there when it is empty, and has it filled. When that fails, nothing is left in it.
///
/// # Errors
/// When something is there already, or cannot be made.
pub fn make_filled<T, E: From<MakeError>>(dir: &Path, fill: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    match fs::read_dir(dir).map(|mut entries| entries.next().is_some()) {
        Ok(true) => return Err(MakeError::Exists(dir.to_owned()).into()),
        Ok(false) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => make_dir(dir).map_err(MakeError::of(dir))?,
        Err(error) => return Err(MakeError::of(dir)(error).into()),
    }
    fill().inspect_err(|_| {
        // The directory was empty, so all that is in it was made here.
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let _ = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_that_was_made_here_is_read_and_not_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("new/secret");
        make_dir(&dir.path().join("new")).unwrap();
        create(&file, b"abc").unwrap();
        assert_eq!(read(&file).unwrap().as_str(), "abc\n");
        assert_eq!(create(&file, b"abc").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn a_secret_that_others_may_read_is_refused_with_the_command_that_mends_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("secret");
        create(&file, b"abc").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        let error = read(&file).unwrap_err().to_string();
        assert!(error.ends_with(&format!("run `chmod 600 {}`", file.display())), "{error}");
    }
}
