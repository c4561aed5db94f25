//! What reloading has to say for itself.

use std::{error::Error, fmt::Write as _, sync::Arc};

use crate::{clock::UnixTime, diagnostic::Diagnostics, snapshot::Generation};

/// The most bytes of diagnostics that are kept, logged and shown: a directory of 10,000 broken files
/// must not fill the log.
const MAX_RENDERED_BYTES: usize = 64 << 10;

/// What is live and what went wrong.
#[derive(Clone, Debug, Default)]
pub struct ReloadStatus {
    /// The generation that is live; `None` before the first load that succeeded.
    pub live: Option<Generation>,
    /// Why what lies on disk is not live; `None` where it is.
    pub last_error: Option<LoadFailure>,
    /// Loads that went live.
    pub loaded: u64,
    /// Contents that could not be loaded, each counted once however often it was met in a row.
    pub failed: u64,
    /// YAML files of the live load without a document of ours.
    pub skipped: Vec<Arc<str>>,
}

/// A load that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadFailure {
    /// The content's hash; `None` where the directory could not be read.
    pub hash: Option<String>,
    /// All that is wrong, one mistake a line; cut at 64 KiB.
    pub diagnostics: String,
    /// When it was first met.
    pub since: UnixTime,
}

/// Renders one mistake a line.
pub(super) fn render(diagnostics: &Diagnostics) -> String {
    let mut text = String::new();
    for (index, one) in diagnostics.all.iter().enumerate() {
        if text.len() > MAX_RENDERED_BYTES {
            let rest = diagnostics.all.len().saturating_sub(index);
            push(&mut text, format_args!("and {rest} more"));
            break;
        }
        let at = &one.at;
        let (line, column, message) = (at.line, at.column, &one.message);
        let field = if at.field.is_empty() { String::new() } else { format!("{}: ", at.field) };
        push(&mut text, format_args!("{}:{line}:{column}: {field}{message}", at.file));
        if let Some(help) = &one.help {
            push(&mut text, format_args!("  help: {help}"));
        }
    }
    if text.is_empty() { "the load failed without a diagnostic".to_owned() } else { text }
}

/// Renders an error with its causes.
pub(super) fn render_error(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

fn push(text: &mut String, line: std::fmt::Arguments<'_>) {
    if !text.is_empty() {
        text.push('\n');
    }
    // Writing to a String cannot fail.
    text.write_fmt(line).unwrap_or_default();
}

#[cfg(test)]
mod tests {
    use super::{MAX_RENDERED_BYTES, render};
    use crate::diagnostic::{At, Diagnostic, Diagnostics};

    #[test]
    fn many_mistakes_are_cut_and_counted() {
        let at = At { file: "a.yaml".into(), line: 1, column: 2, ..At::default() };
        let all = vec![Diagnostic::new(&at, "wrong"); 10_000];
        let text = render(&Diagnostics { all, ..Diagnostics::default() });
        assert!(text.starts_with("a.yaml:1:2: wrong\na.yaml"));
        let shown = text.lines().count() - 1;
        assert!(text.ends_with(&format!("\nand {} more", 10_000 - shown)));
        assert!(text.len() < MAX_RENDERED_BYTES + 100);
        assert_eq!(render(&Diagnostics::default()), "the load failed without a diagnostic");
    }
}
