//! Events of the file system, as a hint that reading again is worth it.

use std::{
    path::{self, Path, PathBuf},
    sync::Arc,
};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher,
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
    let names = names(&path::absolute(dir).map_err(notify::Error::io)?);
    let concerned = Concerned { names: names.clone(), root: root.map(Path::to_owned) };
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
        // An error may stand for any change.
        if event.is_ok_and(|event| !concerned.by(&event)) {
            return;
        }
        changed.notify_one();
    })?;
    // Watched without what is below: a folder above the directory may be the whole machine.
    for parent in names.iter().filter_map(|name| name.parent()).filter(|parent| parent.is_dir()) {
        watcher.watch(parent, RecursiveMode::NonRecursive)?;
    }
    if let Some(root) = root {
        watcher.watch(root, RecursiveMode::Recursive)?;
    }
    Ok(watcher)
}

/// Returns the names by which the directory is reached and which may be given to another one: its own,
/// and the symlinks on the way to it.
fn names(dir: &Path) -> Vec<PathBuf> {
    let ways = dir.ancestors().filter(|path| *path == dir || path.is_symlink());
    ways.map(Path::to_owned).collect()
}

/// What an event must be about.
struct Concerned {
    names: Vec<PathBuf>,
    root: Option<PathBuf>,
}

impl Concerned {
    /// Returns whether `event` may have changed the directory. Others that use the folder it lies in
    /// (the file of decision records, say) are no reason to read it.
    fn by(&self, event: &Event) -> bool {
        let ours = |path: &PathBuf| {
            self.names.contains(path)
                || self.root.as_ref().is_some_and(|root| path.starts_with(root))
        };
        // Events that were lost name no path.
        !is_read(event.kind) && (event.paths.is_empty() || event.paths.iter().any(ours))
    }
}

/// Returns whether a file was merely opened or read, as we do ourselves.
fn is_read(kind: EventKind) -> bool {
    matches!(kind, EventKind::Access(access) if access != AccessKind::Close(AccessMode::Write))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink, path::Path};

    use notify::{
        Event, EventKind,
        event::{AccessKind, AccessMode, CreateKind},
    };

    use super::{Concerned, names};

    #[test]
    fn only_what_may_change_the_directory_is_a_reason_to_read_it() {
        let concerned = Concerned {
            names: vec!["/data/policies".into(), "/data".into()],
            root: Some("/mnt/commit/policies".into()),
        };
        let created =
            |path: &str| Event::new(EventKind::Create(CreateKind::Any)).add_path(path.into());
        for path in ["/data/policies", "/data", "/mnt/commit/policies", "/mnt/commit/policies/a/b"]
        {
            assert!(concerned.by(&created(path)), "{path}");
        }
        for path in ["/data/records.json", "/mnt/commit/policies2", "/mnt"] {
            assert!(!concerned.by(&created(path)), "{path}");
        }
        assert!(concerned.by(&Event::new(EventKind::Other)));
    }

    #[test]
    fn our_own_reading_is_no_reason_to_read_again() {
        let concerned = Concerned { names: vec!["/policies".into()], root: None };
        let access = |kind| Event::new(EventKind::Access(kind)).add_path("/policies".into());
        assert!(!concerned.by(&access(AccessKind::Open(AccessMode::Any))));
        assert!(!concerned.by(&access(AccessKind::Close(AccessMode::Read))));
        assert!(concerned.by(&access(AccessKind::Close(AccessMode::Write))));
    }

    #[test]
    fn symlinks_on_the_way_are_names_too() {
        let temp = tempfile::tempdir().unwrap();
        let base = temp.path().canonicalize().unwrap();
        fs::create_dir_all(base.join("commit/policies")).unwrap();
        symlink("commit", base.join("current")).unwrap();
        let dir = base.join("current/policies");
        assert_eq!(names(&dir), [dir.clone(), base.join("current")]);
        assert_eq!(names(Path::new("/")), [Path::new("/")]);
    }
}
