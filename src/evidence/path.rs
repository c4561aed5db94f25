//! Paths in canonical form, and the forms in which two parsers read one path differently.

use std::borrow::Cow;

/// A set of forms that make a path ambiguous. A policy opts in to a form by name (`pathForms`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathForms(u8);

impl PathForms {
    /// `.` and `..` segments, also percent-encoded.
    pub const DOT_SEGMENTS: Self = Self(1);
    /// `//`.
    pub const EMPTY_SEGMENTS: Self = Self(1 << 1);
    /// A backslash.
    pub const BACKSLASH: Self = Self(1 << 2);
    /// `;` parameters.
    pub const PARAMETERS: Self = Self(1 << 3);
    /// Raw bytes outside ASCII.
    pub const NON_ASCII: Self = Self(1 << 4);
    /// Encoded `/ \ ; ? # %`.
    pub const ENCODED_DELIMITERS: Self = Self(1 << 5);
    /// What no policy can opt in to: control characters, raw or encoded, invalid percent-encoding or
    /// UTF-8, a fragment, a path that does not start with `/`.
    pub const NEVER: Self = Self(1 << 7);

    /// The forms a policy can name, with their names.
    pub const NAMED: [(&'static str, Self); 6] = [
        ("dot-segments", Self::DOT_SEGMENTS),
        ("empty-segments", Self::EMPTY_SEGMENTS),
        ("backslash", Self::BACKSLASH),
        ("parameters", Self::PARAMETERS),
        ("non-ascii", Self::NON_ASCII),
        ("encoded-delimiters", Self::ENCODED_DELIMITERS),
    ];

    /// Returns whether the set is empty.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Returns whether every form of `self` is in `other`.
    #[must_use]
    pub const fn is_within(self, other: Self) -> bool {
        self.0 & !other.0 == 0
    }

    /// Returns the forms of both sets.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A path without its query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path<'r> {
    /// The canonical reading. It starts with `/` (or is empty for CONNECT) and has: percent-encoded
    /// unreserved characters decoded, other escapes in upper case, dot segments removed, empty segments
    /// merged (a trailing slash stays), `\` read as `/`, `;` parameters taken off their segment, raw
    /// non-ASCII percent-encoded; an encoded delimiter stays encoded, within its segment.
    pub canonical: Cow<'r, str>,
    /// The forms that were found; where empty, the canonical reading is the only one.
    pub forms: PathForms,
    /// Further readings that some servers have of an ambiguous path (encoded delimiters decoded, empty
    /// segments or parameters kept): a deny rule matches if any reading does.
    pub other_readings: Vec<String>,
}
