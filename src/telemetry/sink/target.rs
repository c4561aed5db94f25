//! What records are written to.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::{
        fd::AsFd,
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

/// What records are written to.
pub(super) enum Target {
    /// A stream that is there for as long as the process.
    Stream(Box<dyn Write + Send>),
    /// A file that may be moved away (logrotate) at any time.
    File { path: PathBuf, open: Option<File> },
}

impl Target {
    /// Returns standard output without the library's buffer, which would cut batches at lines.
    pub(super) fn stdout() -> io::Result<Self> {
        let stdout = io::stdout().as_fd().try_clone_to_owned()?;
        Ok(Self::Stream(Box::new(File::from(stdout))))
    }

    pub(super) fn file(path: &Path) -> io::Result<Self> {
        Ok(Self::File { path: path.to_owned(), open: Some(open(path)?) })
    }

    /// Makes ready to write. Returns whether this is another file than before, which is to begin with
    /// a whole line.
    pub(super) fn ready(&mut self) -> io::Result<bool> {
        let Self::File { path, open: file } = self else { return Ok(false) };
        if let Some(current) = file {
            let (held, named) = (current.metadata()?, fs::metadata(&*path));
            if named.is_ok_and(|named| (named.dev(), named.ino()) == (held.dev(), held.ino())) {
                return Ok(false);
            }
        }
        *file = Some(open(path)?);
        Ok(true)
    }

    /// Writes some of `bytes`; returns how many.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = match self {
            Self::Stream(stream) => stream.write(bytes)?,
            Self::File { open: Some(file), .. } => file.write(bytes)?,
            Self::File { open: None, .. } => return Err(io::ErrorKind::NotFound.into()),
        };
        if written == 0 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(written) }
    }
}

fn open(path: &Path) -> io::Result<File> {
    // Records name callers: not for everyone on the machine.
    OpenOptions::new().create(true).append(true).mode(0o640).open(path)
}
