//! Events of the file system, as a hint that reading again is worth it.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use notify::{
    EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode},
};
use tokio::sync::Notify;

/// Watches a directory, the symlinks that lead to it, and what they lead to.
#[derive(Debug, Default)]
pub(super) struct Watch {
    wanted: bool,
    changed: Arc<Notify>,
    watcher: Option<RecommendedWatcher>,
    /// Where the directory was when the watcher was made.
    root: Option<PathBuf>,
    /// Whether events came since; folders may then have been replaced by others of their name, which
    /// nobody watches.
    stale: bool,
    failing: bool,
}

impl Watch {
    pub(super) fn new(wanted: bool) -> Self {
        Self { wanted, ..Self::default() }
    }

    /// Completes when something changed since the last call of [`Watch::arm`].
    pub(super) async fn changed(&mut self) {
        self.changed.notified().await;
        self.stale = true;
    }

    /// Watches `dir` as it is now. Without a watcher polling has to do; that is logged once.
    pub(super) fn arm(&mut self, dir: &Path) {
        if !self.wanted {
            return;
        }
        let root = dir.canonicalize().ok();
        if self.watcher.is_some() && !self.stale && root == self.root {
            return;
        }
        // The old watcher goes after the new one is there: nothing is missed in between.
        match watcher(dir, root.as_deref(), Arc::clone(&self.changed)) {
            Ok(watcher) => {
                self.watcher = Some(watcher);
                self.failing = false;
            }
            Err(error) => {
                if !self.failing {
                    tracing::warn!(%error, "the policy directory cannot be watched; it is polled");
                }
                self.watcher = None;
                self.failing = true;
            }
        }
        self.root = root;
        self.stale = false;
    }
}

fn watcher(
    dir: &Path,
    root: Option<&Path>,
    changed: Arc<Notify>,
) -> notify::Result<RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // An error (a queue that overflowed) may stand for any change.
        if event.is_ok_and(|event| is_read(event.kind)) {
            return;
        }
        changed.notify_one();
    })?;
    for link in links(dir) {
        watcher.watch(link, RecursiveMode::NonRecursive)?;
    }
    if let Some(root) = root {
        watcher.watch(root, RecursiveMode::Recursive)?;
    }
    Ok(watcher)
}

/// Returns whether a file was merely opened or read, as we do ourselves.
fn is_read(kind: EventKind) -> bool {
    matches!(kind, EventKind::Access(access) if access != AccessKind::Close(AccessMode::Write))
}

/// Returns the folders in which `dir` itself, or a symlink on the way to it, may be replaced. They are
/// watched without what is below them: that may be the whole machine.
fn links(dir: &Path) -> impl Iterator<Item = &Path> {
    dir.ancestors()
        .filter(move |path| *path == dir || path.is_symlink())
        .filter_map(Path::parent)
        .map(|parent| if parent.as_os_str().is_empty() { Path::new(".") } else { parent })
        .filter(|parent| parent.is_dir())
}
