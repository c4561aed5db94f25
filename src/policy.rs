//! Policies: which rules ask about a request, what they need, and what they decide.
//!
//! Deciding is pure and synchronous: no clock, no I/O, no logging.

pub mod candidates;
pub mod compile;
pub mod decision;
pub mod decode;
mod delegation;
pub mod document;
pub mod evaluate;
pub mod index;
pub mod load;
pub mod pattern;
pub mod rule;
pub mod scope;
pub mod step_up;
pub mod upstream;
pub mod yaml;

#[cfg(test)]
mod tests;

pub use candidates::Candidates;
pub use decision::{Decision, Denial, Obligation, Observer, Offer, Permit, Verdict};
pub use index::PolicySet;
pub use rule::Rule;
pub use step_up::StepUp;

/// What the candidate rules need to have verified.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs<'s> {
    /// The access token with its binding.
    pub token: bool,
    /// The Issuer, by name, that is asked about a token that is no JWT: such a one names none itself. `None`
    /// where no rule that this peer could satisfy takes opaque tokens.
    pub opaque: Option<&'s str>,
}
