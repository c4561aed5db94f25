//! The few calls by which a directory is read, one at a time, so that tests can change it in between.

use std::{
    ffi::OsString,
    fs, io,
    io::Read,
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

/// What a name stands for, symlinks not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Folder,
    Symlink,
    /// A pipe, socket or device.
    Other,
}

/// What changes when a file or folder changes. The change time cannot be set by whoever writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn new(of: &fs::Metadata) -> Self {
        Self {
            device: of.dev(),
            inode: of.ino(),
            size: of.size(),
            modified: (of.mtime(), of.mtime_nsec()),
            changed: (of.ctime(), of.ctime_nsec()),
        }
    }
}

/// A file system.
pub(super) trait Fs {
    /// Resolves all symlinks of `path`.
    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf>;

    /// Returns what `path` is.
    fn kind(&self, path: &Path) -> io::Result<Kind>;

    /// Returns the device that holds `path`.
    fn device(&self, path: &Path) -> io::Result<u64>;

    /// Returns the names in a folder that do not begin with `.`, one more than `limit` at most.
    fn list(&self, path: &Path, limit: usize) -> io::Result<(Vec<OsString>, Stamp)>;

    /// Returns a file's content, one byte more than `limit` at most.
    fn read(&self, path: &Path, limit: usize) -> io::Result<(Vec<u8>, Stamp)>;

    /// Lets time pass.
    fn pause(&self, time: Duration);
}

/// The real one.
pub(super) struct System;

impl Fs for System {
    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf> {
        fs::canonicalize(path)
    }

    fn kind(&self, path: &Path) -> io::Result<Kind> {
        let kind = fs::symlink_metadata(path)?.file_type();
        Ok(if kind.is_file() {
            Kind::File
        } else if kind.is_dir() {
            Kind::Folder
        } else if kind.is_symlink() {
            Kind::Symlink
        } else {
            Kind::Other
        })
    }

    fn device(&self, path: &Path) -> io::Result<u64> {
        Ok(fs::symlink_metadata(path)?.dev())
    }

    fn list(&self, path: &Path, limit: usize) -> io::Result<(Vec<OsString>, Stamp)> {
        let mut names = Vec::new();
        for entry in fs::read_dir(path)? {
            let name = entry?.file_name();
            if name.as_bytes().first() != Some(&b'.') {
                names.push(name);
                if names.len() > limit {
                    break;
                }
            }
        }
        Ok((names, Stamp::new(&fs::symlink_metadata(path)?)))
    }

    fn read(&self, path: &Path, limit: usize) -> io::Result<(Vec<u8>, Stamp)> {
        // Should a pipe have taken the file's place since it was looked at, opening must not wait.
        let file = fs::OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open(path)?;
        let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
        let mut content = Vec::new();
        (&file).take(most).read_to_end(&mut content)?;
        Ok((content, Stamp::new(&file.metadata()?)))
    }

    fn pause(&self, time: Duration) {
        thread::sleep(time);
    }
}

/// `O_NONBLOCK` of Linux on the architectures that Rust's tier 1 and 2 server targets have.
#[cfg(target_os = "linux")]
const O_NONBLOCK: i32 = 0o4000;
#[cfg(not(target_os = "linux"))]
const O_NONBLOCK: i32 = 0x4;
