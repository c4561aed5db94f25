//! Policies: which rules ask about a request, what they need, and what they decide.
//!
//! Deciding is pure and synchronous: no clock, no I/O, no logging.

pub mod compile;
pub mod decision;
pub mod decode;
pub mod document;
pub mod index;
pub mod load;
pub mod pattern;
pub mod upstream;
pub mod yaml;

pub use decision::{Decision, Denial, Permit};

/// What the candidate rules need to have verified.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// The peer.
    pub peer: bool,
    /// The access token with its binding.
    pub token: bool,
}
