//! From documents to rules: names resolved, patterns parsed, contradictions reported.

/// A compiled rule.
#[derive(Debug)]
pub struct Rule {
    /// `policy/rule`.
    pub id: Box<str>,
}
