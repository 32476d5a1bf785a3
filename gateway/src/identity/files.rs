//! The files a pair rests in: written whole or not at all, and for their owner only.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::IdentityError;

/// Largest key or certificate file in bytes. A chain of ten certificates takes a third of it.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// Where a pair rests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The private key in PEM: PKCS#8 or SEC1, ECDSA P-256.
    pub key: PathBuf,
    /// The certificate in PEM, in CA mode followed by its chain.
    pub certificate: PathBuf,
}

impl Files {
    /// `<name>.key` and `<name>.crt` in a directory.
    #[must_use]
    pub fn named(dir: &Path, name: &str) -> Self {
        Self { key: dir.join(format!("{name}.key")), certificate: dir.join(format!("{name}.crt")) }
    }

    /// What stands for them of a pair that the store keeps, in texts.
    pub(super) fn in_store() -> Self {
        Self { key: "the key in the store".into(), certificate: "the certificate in the store".into() }
    }
}

pub(super) fn read_file(path: &Path) -> Result<Vec<u8>, IdentityError> {
    let failed = |source| IdentityError::File { path: path.to_owned(), source };
    if fs::metadata(path).map_err(failed)?.len() > FILE_BYTES_MAX {
        return Err(failed(io::Error::other(format!("longer than {FILE_BYTES_MAX} bytes"))));
    }
    fs::read(path).map_err(failed)
}

/// Writes a file that only its owner reads, whole or not at all.
pub(super) fn write_private(path: &Path, content: &[u8]) -> Result<(), IdentityError> {
    let draft = path.with_extension("tmp");
    let write = || {
        let _ = fs::remove_file(&draft);
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&draft, path)?;
        sync_dir(path)
    };
    write().map_err(|source| IdentityError::File { path: path.to_owned(), source })
}

pub(super) fn rename(from: &Path, to: &Path) -> Result<(), IdentityError> {
    fs::rename(from, to)
        .and_then(|()| sync_dir(to))
        .map_err(|source| IdentityError::File { path: to.to_owned(), source })
}

pub(super) fn remove(files: &Files) -> Result<(), IdentityError> {
    for path in [&files.key, &files.certificate] {
        match fs::remove_file(path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(IdentityError::File { path: path.clone(), source });
            }
            _ => {}
        }
    }
    Ok(())
}

fn sync_dir(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => fs::File::open(dir)?.sync_all(),
        _ => Ok(()),
    }
}
