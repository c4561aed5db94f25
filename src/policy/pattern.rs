//! What policies write to name things: SPIFFE patterns, hosts, path templates, methods, thumbprints.
//!
//! Everything is parsed in one spelling only, the one that evidence is compared in, so that a pattern
//! which could never match is a mistake and not a silent hole.

pub mod host;
pub mod name;
pub mod spiffe;
pub mod template;

pub use host::HostPattern;
pub use spiffe::SpiffePattern;
pub use template::Template;

/// Why a pattern is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct PatternError {
    /// What is wrong: lower case, no full stop.
    pub message: String,
    /// What to write instead.
    pub help: Option<String>,
}

impl PatternError {
    pub(in crate::policy) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), help: None }
    }

    pub(in crate::policy) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// The segments of one pattern. Real ones have fewer than ten; matching recurses once per segment, so
/// this bounds its depth.
pub(in crate::policy) const MAX_SEGMENTS: usize = 64;
