//! The key that ICE user names are made recognisable with: 32 random bytes, shared by nodes and their ingresses.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use thiserror::Error;
use trunkline_common::secret::{self, SecretError};
use zeroize::Zeroizing;

/// Why it cannot be had: the operator's to mend.
#[derive(Debug, Error)]
pub enum KeyError {
    /// The file.
    #[error(transparent)]
    File(#[from] SecretError),
    /// What is in it.
    #[error("{} holds something else: expected the base64 of 32 bytes, as `init` made it", .0.display())]
    Content(PathBuf),
}

/// Reads it from its file.
///
/// # Errors
/// When it cannot be had.
pub fn read(file: &Path) -> Result<Zeroizing<[u8; 32]>, KeyError> {
    let text = secret::read(file)?;
    let decoded = STANDARD.decode(text.trim()).map(Zeroizing::new);
    let key = decoded.ok().and_then(|decoded| <[u8; 32]>::try_from(decoded.as_slice()).ok());
    key.map(Zeroizing::new).ok_or_else(|| KeyError::Content(file.to_owned()))
}

/// As it rests in its file.
#[must_use]
pub fn encode(key: &Zeroizing<[u8; 32]>) -> Zeroizing<String> {
    Zeroizing::new(STANDARD.encode(&key[..]))
}
