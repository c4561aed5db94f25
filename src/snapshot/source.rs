//! Reads a policy directory as one version: all of it, or nothing.
//!
//! Nothing about a directory is atomic, so a version is established by looking twice. A reading walks
//! the whole directory and notes what each file, folder and symlink was. Two readings a moment apart
//! must agree in content and in those notes, and in a Git checkout `.git/index.lock` must be absent
//! between them. Whatever is the same in both readings lay on disk at the instant between them, while
//! no Git held the lock: that is one version. A directory swapped by symlink (`..data`, git-sync)
//! must moreover resolve to the same place before and after.
//!
//! What cannot be known: whether several files that are written one after the other without a lock
//! (`cp a b c DIR`, an editor's "save all") belong together. A pause between them that is longer than
//! [`BETWEEN_READINGS`] looks like the end. Such writers are served by a symlink swap or by Git.
//! Neither is it known whether the file system tells the truth about its change times.

mod fs;
mod git;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use aws_lc_rs::digest;

use self::{
    fs::{Fs, Kind, Stamp, System},
    git::Checkout,
};

/// The most files and folders of a directory: a policy repository of the largest mesh has a few
/// thousand; more is a wrong directory (a home, a `node_modules`), which must not be hauled in.
pub const MAX_ENTRIES: usize = 10_000;

/// The largest file. Kubernetes holds a whole ConfigMap to this.
pub const MAX_FILE_BYTES: usize = 1 << 20;

/// The most bytes of all files: what two loads side by side may cost in memory.
pub const MAX_TOTAL_BYTES: usize = 64 << 20;

/// The deepest folder: also what ends a symlink that leads to a folder above it.
pub const MAX_DEPTH: usize = 16;

/// How long after the first reading the second begins: several ticks of the slowest clock that a
/// kernel stamps files with (10 ms), so that a change after the first reading is seen in a stamp; and
/// long enough for a `cp` over one file to end.
pub const BETWEEN_READINGS: Duration = Duration::from_millis(50);

/// How often a version is sought before the directory is reported as changing: half a second.
const ATTEMPTS: usize = 5;

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

/// Why no version of a directory could be read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Something cannot be read, or is a symlink to nothing.
    #[error("`{}` cannot be read", path.display())]
    Unreadable {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The directory is none.
    #[error("`{}` is not a directory", path.display())]
    NotADirectory {
        /// As given.
        path: PathBuf,
    },
    /// A symlink leads out of the directory: what it names is not under the repository's review.
    #[error("`{}` is a symlink that leads out of the directory", path.display())]
    LeadsOut {
        /// The symlink.
        path: PathBuf,
    },
    /// Neither file nor folder: opening a pipe would wait for ever.
    #[error("`{}` is neither a file nor a folder", path.display())]
    NotAFile {
        /// What.
        path: PathBuf,
    },
    /// A name is not UTF-8.
    #[error("the name of `{}` is not UTF-8", path.display())]
    Name {
        /// What.
        path: PathBuf,
    },
    /// More than [`MAX_ENTRIES`] files and folders.
    #[error("the directory has more than {MAX_ENTRIES} files and folders")]
    TooManyEntries,
    /// A folder is deeper than [`MAX_DEPTH`].
    #[error("`{}` is more than {MAX_DEPTH} folders deep", path.display())]
    TooDeep {
        /// The folder.
        path: PathBuf,
    },
    /// A file is larger than [`MAX_FILE_BYTES`].
    #[error("`{}` is larger than {MAX_FILE_BYTES} bytes", path.display())]
    FileTooLarge {
        /// The file.
        path: PathBuf,
    },
    /// All files together are larger than [`MAX_TOTAL_BYTES`].
    #[error("the directory's files are larger than {MAX_TOTAL_BYTES} bytes together")]
    TooLarge,
    /// Git is at work in the checkout, or left its lock behind.
    #[error("`{}` exists: Git is at work there, or was interrupted", lock.display())]
    Locked {
        /// The lock.
        lock: PathBuf,
    },
    /// No two readings agreed.
    #[error("the directory keeps changing")]
    KeepsChanging,
}

impl SourceError {
    /// Returns whether someone is at work in the directory, so that reading it soon again may help.
    #[must_use]
    pub const fn is_busy(&self) -> bool {
        matches!(self, Self::Locked { .. } | Self::KeepsChanging)
    }
}

/// Reads one version of `dir`. Blocks, for [`BETWEEN_READINGS`] at least.
///
/// Names that begin with `.` are not read, so neither `.git` nor what a ConfigMap mount hides
/// (`..2026_11_21…`); a folder with a `..data` symlink is read through it. Symlinks are followed where
/// they stay inside the directory.
///
/// # Errors
/// [`SourceError`]: an unreadable file, a limit, or a directory that is being changed. Nothing is ever
/// left out silently.
pub fn read(dir: &Path) -> Result<SourceTree, SourceError> {
    read_with(&System, dir)
}

fn read_with(fs: &impl Fs, dir: &Path) -> Result<SourceTree, SourceError> {
    let mut last = SourceError::KeepsChanging;
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            fs.pause(BETWEEN_READINGS);
        }
        match read_once(fs, dir) {
            Ok(Some(tree)) => return Ok(tree),
            Ok(None) => last = SourceError::KeepsChanging,
            // In the middle of a swap or a rename anything may be missing: looked at again.
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Reads twice; `None` where the directory changed meanwhile.
fn read_once(fs: &impl Fs, dir: &Path) -> Result<Option<SourceTree>, SourceError> {
    let root = fs.canonicalize(dir).map_err(unreadable(dir))?;
    if fs.kind(&root).map_err(unreadable(dir))? != Kind::Folder {
        return Err(SourceError::NotADirectory { path: dir.to_owned() });
    }
    let checkout = Checkout::find(fs, &root);
    checkout.unlocked(fs)?;
    let first = Reading::take(fs, &root)?.notes;
    fs.pause(BETWEEN_READINGS);
    // INVARIANT (one version): all that the second reading finds with the first one's stamps was there
    // at this instant, and here no Git is between two of its writes.
    checkout.unlocked(fs)?;
    let second = Reading::take(fs, &root)?;
    let commit = checkout.commit(fs, &root);
    checkout.unlocked(fs)?;
    if first != second.notes || fs.canonicalize(dir).map_err(unreadable(dir))? != root {
        return Ok(None);
    }
    let hash = second.notes.hash;
    Ok(Some(SourceTree { root: dir.to_owned(), files: second.files, hash, commit }))
}

/// One walk over the directory.
struct Reading {
    files: BTreeMap<Arc<str>, Vec<u8>>,
    notes: Notes,
}

/// What two readings must agree in.
#[derive(Debug, Default, PartialEq, Eq)]
struct Notes {
    hash: String,
    /// Of each folder and file, taken after it was read.
    stamps: Vec<(PathBuf, Stamp)>,
    /// Of each symlink followed: where it led.
    links: Vec<(PathBuf, PathBuf)>,
}

impl Reading {
    fn take(fs: &impl Fs, root: &Path) -> Result<Self, SourceError> {
        let mut walk = Walk {
            fs,
            root,
            files: BTreeMap::new(),
            stamps: Vec::new(),
            links: Vec::new(),
            entries: 0,
            bytes: 0,
        };
        walk.folder(root, "", 0)?;
        let hash = content_hash(&walk.files);
        let notes = Notes { hash, stamps: walk.stamps, links: walk.links };
        Ok(Self { files: walk.files, notes })
    }
}

struct Walk<'a, F> {
    fs: &'a F,
    root: &'a Path,
    files: BTreeMap<Arc<str>, Vec<u8>>,
    stamps: Vec<(PathBuf, Stamp)>,
    links: Vec<(PathBuf, PathBuf)>,
    entries: usize,
    bytes: usize,
}

impl<F: Fs> Walk<'_, F> {
    /// Reads the folder at `path`, which is called `name` (empty, or ending in `/`).
    fn folder(&mut self, path: &Path, name: &str, depth: usize) -> Result<(), SourceError> {
        if depth > MAX_DEPTH {
            return Err(SourceError::TooDeep { path: path.to_owned() });
        }
        // A ConfigMap's files are symlinks through `..data`, which is swapped while they are read one
        // by one: resolved once, all come from one place.
        let data = path.join("..data");
        let target = match self.fs.kind(&data) {
            Ok(Kind::Symlink) => Some(self.follow(&data)?),
            Ok(Kind::Folder | Kind::File | Kind::Other) => None,
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(unreadable(&data)(error)),
        };
        let path = target.as_deref().unwrap_or(path);
        let limit = MAX_ENTRIES.saturating_sub(self.entries);
        let (mut names, stamp) = self.fs.list(path, limit).map_err(unreadable(path))?;
        if names.len() > limit {
            return Err(SourceError::TooManyEntries);
        }
        self.entries = self.entries.saturating_add(names.len());
        self.stamps.push((path.to_owned(), stamp));
        names.sort_unstable();
        names.into_iter().try_for_each(|entry| self.entry(path, name, entry, depth))
    }

    fn entry(
        &mut self,
        folder: &Path,
        prefix: &str,
        entry: OsString,
        depth: usize,
    ) -> Result<(), SourceError> {
        let mut path = folder.join(&entry);
        let Ok(entry) = entry.into_string() else {
            return Err(SourceError::Name { path });
        };
        let name = format!("{prefix}{entry}");
        let mut kind = self.fs.kind(&path).map_err(unreadable(&path))?;
        if kind == Kind::Symlink {
            path = self.follow(&path)?;
            kind = self.fs.kind(&path).map_err(unreadable(&path))?;
        }
        match kind {
            Kind::Folder => self.folder(&path, &format!("{name}/"), depth.saturating_add(1)),
            Kind::File => self.file(path, name),
            Kind::Symlink | Kind::Other => Err(SourceError::NotAFile { path }),
        }
    }

    fn file(&mut self, path: PathBuf, name: String) -> Result<(), SourceError> {
        let (content, stamp) = self.fs.read(&path, MAX_FILE_BYTES).map_err(unreadable(&path))?;
        if content.len() > MAX_FILE_BYTES {
            return Err(SourceError::FileTooLarge { path });
        }
        self.bytes = self.bytes.saturating_add(content.len());
        if self.bytes > MAX_TOTAL_BYTES {
            return Err(SourceError::TooLarge);
        }
        self.stamps.push((path, stamp));
        self.files.insert(name.into(), content);
        Ok(())
    }

    fn follow(&mut self, link: &Path) -> Result<PathBuf, SourceError> {
        let target = self.fs.canonicalize(link).map_err(unreadable(link))?;
        if !target.starts_with(self.root) {
            return Err(SourceError::LeadsOut { path: link.to_owned() });
        }
        self.links.push((link.to_owned(), target.clone()));
        Ok(target)
    }
}

/// Returns SHA-256 over names and contents, each preceded by its length so that no two directories
/// can be told as the same bytes.
fn content_hash(files: &BTreeMap<Arc<str>, Vec<u8>>) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    for (name, content) in files {
        for part in [name.as_bytes(), content] {
            context.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            context.update(part);
        }
    }
    context.finish().as_ref().iter().flat_map(|byte| [byte >> 4, byte & 15]).map(hex).collect()
}

fn hex(nibble: u8) -> char {
    char::from_digit(u32::from(nibble), 16).unwrap_or_default()
}

fn unreadable(path: &Path) -> impl FnOnce(io::Error) -> SourceError {
    let path = path.to_owned();
    move |source| SourceError::Unreadable { path, source }
}
