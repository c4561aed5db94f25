//! What a Git checkout tells without Git: whether it is being changed, and its commit.

use std::{
    io,
    path::{Component, Path, PathBuf},
};

use super::{
    SourceError,
    fs::{Fs, Kind},
    unreadable,
};

/// How many folders above the directory are looked at for the checkout's root.
const MAX_PARENTS: usize = 32;

/// The largest of the small files of a Git directory; a ref's name is shorter than a path.
const MAX_REF_BYTES: usize = 4096;

/// The largest `packed-refs`: 10,000 refs of a hundred bytes, and some.
const MAX_PACKED_REFS_BYTES: usize = 4 << 20;

/// The checkout that a directory lies in, if any.
#[derive(Debug, Default)]
pub(super) struct Checkout {
    /// What `.git` is or names: with `HEAD` and `index` of this work tree.
    git: Option<PathBuf>,
}

impl Checkout {
    /// Looks for `.git` in `root` and above it on the same mount.
    ///
    /// A `.git` file (a work tree, a submodule) whose Git directory is not mounted here counts as none.
    pub(super) fn find(fs: &impl Fs, root: &Path) -> Self {
        let device = fs.device(root).ok();
        for folder in root.ancestors().take(MAX_PARENTS) {
            if fs.device(folder).ok() != device {
                break;
            }
            let git = folder.join(".git");
            match fs.kind(&git) {
                Ok(Kind::Folder | Kind::Symlink) => return Self { git: Some(git) },
                Ok(Kind::File) => {
                    let named = line(fs, &git).and_then(|line| {
                        line.strip_prefix("gitdir:").map(|path| folder.join(path.trim()))
                    });
                    return Self { git: named.filter(|path| fs.kind(path).is_ok()) };
                }
                Ok(Kind::Other) | Err(_) => {}
            }
        }
        Self::default()
    }

    /// Holds where no Git has the index locked.
    ///
    /// # Errors
    /// [`SourceError::Locked`], or that it cannot be known.
    pub(super) fn unlocked(&self, fs: &impl Fs) -> Result<(), SourceError> {
        let Some(git) = &self.git else { return Ok(()) };
        let lock = git.join("index.lock");
        match fs.kind(&lock) {
            Ok(_) => Err(SourceError::Locked { lock }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(unreadable(&lock)(error)),
        }
    }

    /// Returns the commit of `HEAD`, or the one that git-sync names the directory after.
    ///
    /// A label, as good as can be had: Git moves its refs after the files, and uncommitted changes do
    /// not show.
    pub(super) fn commit(&self, fs: &impl Fs, root: &Path) -> Option<String> {
        self.git.as_deref().and_then(|git| head(fs, git)).or_else(|| {
            root.components().rev().find_map(|component| match component {
                Component::Normal(name) => name.to_str().and_then(object_name),
                Component::Prefix(_)
                | Component::RootDir
                | Component::CurDir
                | Component::ParentDir => None,
            })
        })
    }
}

fn head(fs: &impl Fs, git: &Path) -> Option<String> {
    let head = line(fs, &git.join("HEAD"))?;
    let Some(name) = head.strip_prefix("ref:").map(str::trim) else {
        return object_name(&head);
    };
    // The name becomes a path: it must not lead elsewhere.
    if !name.starts_with("refs/") || name.contains("..") {
        return None;
    }
    // A linked work tree keeps its branches in the main one's Git directory.
    let common = line(fs, &git.join("commondir")).map_or_else(|| git.to_owned(), |c| git.join(c));
    line(fs, &common.join(name))
        .and_then(|line| object_name(&line))
        .or_else(|| packed(fs, &common.join("packed-refs"), name))
}

fn packed(fs: &impl Fs, path: &Path, name: &str) -> Option<String> {
    let refs = text(fs, path, MAX_PACKED_REFS_BYTES)?;
    refs.lines().find_map(|line| {
        line.split_once(' ')
            .filter(|(_, of)| *of == name)
            .and_then(|(object, _)| object_name(object))
    })
}

fn line(fs: &impl Fs, path: &Path) -> Option<String> {
    text(fs, path, MAX_REF_BYTES)?.lines().next().map(|line| line.trim().to_owned())
}

fn text(fs: &impl Fs, path: &Path, limit: usize) -> Option<String> {
    let (bytes, _) = fs.read(path, limit).ok()?;
    if bytes.len() > limit { None } else { String::from_utf8(bytes).ok() }
}

/// Returns `text` if it is the full name of a SHA-1 or SHA-256 object.
fn object_name(text: &str) -> Option<String> {
    let full = matches!(text.len(), 40 | 64) && text.bytes().all(|b| b.is_ascii_hexdigit());
    full.then(|| text.to_ascii_lowercase())
}
