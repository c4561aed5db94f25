//! One consistent, immutable load of everything a decision rests on.

pub mod reload;
pub mod source;

use std::sync::Arc;

use arc_swap::{ArcSwapOption, Guard};

use crate::{clock::UnixTime, policy::index::PolicySet, trust::Trust};

/// One load. A check takes one snapshot and keeps to it.
#[derive(Debug)]
pub struct Snapshot {
    /// Which load this is.
    pub generation: Generation,
    /// The compiled policies.
    pub policies: PolicySet,
    /// Declared trust and keys.
    pub trust: Trust,
}

/// Names a load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generation {
    /// Counts the loads of this process, from 1.
    pub number: u64,
    /// SHA-256 over the directory's content, in hexadecimal: the identity.
    pub hash: Box<str>,
    /// The Git commit: a label.
    pub commit: Option<Box<str>>,
    /// When it went live.
    pub loaded: UnixTime,
}

/// The snapshot that is live, if any.
#[derive(Debug, Default)]
pub struct SnapshotStore(ArcSwapOption<Snapshot>);

impl SnapshotStore {
    /// Returns the live snapshot. One call per check.
    #[must_use]
    pub fn load(&self) -> Guard<Option<Arc<Snapshot>>> {
        self.0.load()
    }

    /// Puts `snapshot` live, whole.
    pub fn store(&self, snapshot: Arc<Snapshot>) {
        self.0.store(Some(snapshot));
    }
}
