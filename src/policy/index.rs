//! Finding the rules that ask about a request, at a cost flat in their number.

/// All compiled rules of a generation, indexed.
#[derive(Debug, Default)]
pub struct PolicySet {}
