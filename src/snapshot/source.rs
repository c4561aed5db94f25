//! Reads a policy directory as one version: all of it, or nothing.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

/// One version of a policy directory's content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceTree {
    /// The directory, as given.
    pub root: PathBuf,
    /// Every regular file outside dot-directories, by its path relative to the root with `/`.
    pub files: BTreeMap<Arc<str>, Vec<u8>>,
    /// SHA-256 over names and contents, in hexadecimal.
    pub hash: String,
    /// The Git commit, where the directory is a checkout or carries one.
    pub commit: Option<String>,
}
