//! Mistakes in files that people edit, all reported at once, like a compiler's.

mod render;

use std::{path::PathBuf, sync::Arc};

pub use render::Format;

/// Where in a file something stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct At {
    /// The file, relative to the directory that was loaded; empty for the directory itself.
    pub file: Arc<str>,
    /// Line, from 1; 0 where no line can be named.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// Length in characters on that line; at least 1.
    pub length: usize,
    /// The field's path, such as `spec.rules[2].to.paths[0]`.
    pub field: Arc<str>,
}

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spanned<T> {
    /// The value.
    pub value: T,
    /// Where it stands.
    pub at: At,
}

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Where.
    pub at: At,
    /// What is wrong: lower case, no full stop, user-written names in backticks.
    pub message: String,
    /// What to do, such as `did you mean …`.
    pub help: Option<String>,
}

/// All the mistakes of one load, with what is needed to show the lines.
#[derive(Clone, Debug, Default)]
pub struct Diagnostics {
    /// In the order of files and lines.
    pub all: Vec<Diagnostic>,
    /// The text of each file that is named.
    pub sources: Vec<(Arc<str>, Arc<str>)>,
    /// The directory.
    pub root: PathBuf,
}

impl Diagnostic {
    /// Creates a diagnostic without help.
    #[must_use]
    pub fn new(at: &At, message: impl Into<String>) -> Self {
        Self { at: at.clone(), message: message.into(), help: None }
    }

    /// Adds what to do.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl std::error::Error for Diagnostics {}

/// As [`Diagnostics::summary`], for one line of a log.
impl std::fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.summary())
    }
}

impl Diagnostics {
    /// Returns how many mistakes there are, in words.
    #[must_use]
    pub fn summary(&self) -> String {
        let files: std::collections::BTreeSet<&str> =
            self.all.iter().map(|mistake| &*mistake.at.file).collect();
        let plural = |number: usize, one: &str| {
            if number == 1 { format!("1 {one}") } else { format!("{number} {one}s") }
        };
        format!("{} in {}", plural(self.all.len(), "mistake"), plural(files.len(), "file"))
    }
}
