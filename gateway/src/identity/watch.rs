//! The files as they change.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;

use super::{Identity, IdentityError};

/// How long files must be quiet before they are read again: a key and its certificate are written one after
/// the other. Longer delays a rotation, shorter reports halves of one.
const SETTLE: Duration = Duration::from_millis(250);

/// Keeps the files watched until it is dropped.
pub struct IdentityWatch {
    _watcher: RecommendedWatcher,
    task: tokio::task::JoinHandle<()>,
}

impl Identity {
    /// Reloads whenever the files change, until the answer is dropped; `report` hears what each reload came to.
    ///
    /// # Errors
    /// When the directory cannot be watched. A reload on SIGHUP still works.
    pub fn watch(
        self: &Arc<Self>,
        report: impl Fn(Result<bool, IdentityError>) + Send + 'static,
    ) -> Result<IdentityWatch, IdentityError> {
        let (seen, mut changes) = mpsc::unbounded_channel();
        let handler = move |event: notify::Result<notify::Event>| {
            // Reading the files makes access events of its own.
            if event.is_ok_and(|event| !event.kind.is_access()) {
                let _ = seen.send(());
            }
        };
        let failed = |path: &Path, error: notify::Error| IdentityError::Watch {
            path: path.to_owned(),
            reason: error.to_string(),
        };
        let mut watcher = notify::recommended_watcher(handler).map_err(|e| failed(&self.current.key, e))?;
        let mut dirs: Vec<_> =
            [&self.current.key, &self.current.certificate, &self.next.key, &self.next.certificate]
                .into_iter()
                .filter_map(|path| path.parent())
                .filter(|dir| dir.is_dir())
                .collect();
        dirs.sort_unstable();
        dirs.dedup();
        for dir in dirs {
            // The directory and not the file: editors and secret mounts replace files.
            watcher.watch(dir, RecursiveMode::NonRecursive).map_err(|error| failed(dir, error))?;
        }
        let identity = Arc::clone(self);
        let task = tokio::spawn(async move {
            while changes.recv().await.is_some() {
                while let Ok(Some(())) = tokio::time::timeout(SETTLE, changes.recv()).await {}
                report(identity.reload());
            }
        });
        Ok(IdentityWatch { _watcher: watcher, task })
    }
}

impl Drop for IdentityWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}
