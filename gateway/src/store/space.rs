//! How much room is left for the store.

use std::io;
use std::path::Path;

/// Space of the file system that a path lies on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Bytes that this process may still use.
    pub available_bytes: u64,
    /// Bytes in all.
    pub total_bytes: u64,
}

/// Space under `path`. The hub asks now and then, and refuses new submissions below its reserve: a store that
/// runs into a full disk acknowledges nothing until it is opened again, not even what would free space.
///
/// # Errors
/// When the path cannot be looked at.
pub fn space(path: &Path) -> io::Result<Space> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(Space {
        available_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
        total_bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn space_is_known_for_a_directory_and_not_for_a_missing_one() {
        let dir = tempfile::tempdir().unwrap();
        let space_there = space(dir.path()).unwrap();
        assert!(space_there.available_bytes <= space_there.total_bytes);
        assert!(space_there.total_bytes > 0);
        assert_eq!(space(&dir.path().join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
