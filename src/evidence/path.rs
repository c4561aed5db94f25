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
    /// Raw bytes outside ASCII, and `!`, which Envoy writes in place of a byte that is not UTF-8.
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

    /// Returns whether the set has a form of `other`.
    #[must_use]
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
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
    /// The canonical reading. It starts with `/` (or is empty for CONNECT, `*` for OPTIONS) and has:
    /// percent-encoded unreserved characters decoded, other escapes in upper case, dot segments removed,
    /// empty segments merged (a trailing slash stays), `\` read as `/`, `;` parameters taken off their
    /// segment, what a URI may not hold raw (non-ASCII, `"<>^{|}` and the backquote) percent-encoded; an
    /// encoded delimiter stays encoded, within its segment.
    pub canonical: Cow<'r, str>,
    /// The forms that were found; where empty, the canonical reading is the only one that servers which
    /// follow RFC 3986 have.
    pub forms: PathForms,
    /// As it was sent, where that is not canonical: what other readings there are is seen in it.
    pub raw: Option<&'r str>,
}

/// The longest path with query that is read. Servers stop at 8 KiB for a request line by default, so that
/// a longer one is no request of use, and twenty readings of this one stay small.
pub const MAX_BYTES: usize = 8 * 1024;

impl<'r> Path<'r> {
    /// Reads the path of Envoy's `path` attribute: everything before the first `?`.
    ///
    /// Only CONNECT has an empty path, and only OPTIONS the path `*` (RFC 9112 §3.2.3, §3.2.4). The length is not
    /// looked at here.
    #[must_use]
    pub fn read(attribute: &'r str, method: &str) -> Self {
        let path = attribute.split_once('?').map_or(attribute, |(path, _)| path);
        let alone = matches!((path, method), ("", "CONNECT") | ("*", "OPTIONS"));
        if alone || is_canonical(path.as_bytes()) {
            return Self { canonical: Cow::Borrowed(path), forms: PathForms::default(), raw: None };
        }
        let bytes = path.as_bytes();
        let canonical = reading(bytes, Keep::default());
        let canonical = if canonical == path { Cow::Borrowed(path) } else { Cow::Owned(canonical) };
        Self { canonical, forms: forms(bytes), raw: Some(path) }
    }

    /// Returns the path as it was sent.
    #[must_use]
    pub fn sent(&self) -> &str {
        self.raw.unwrap_or(&self.canonical)
    }

    /// Returns the further readings that some servers have (escapes decoded once or twice, empty segments,
    /// dot segments or parameters kept): a deny rule matches if any reading does. An encoded sub-delimiter
    /// (`%40`) has a second reading without being ambiguous. None where [`PathForms::NEVER`] is found.
    ///
    /// They take a hundred times as long as the rest of a check: to be asked for where a policy reads such
    /// paths, and not of every path that a client sends.
    #[must_use]
    pub fn other_readings(&self) -> Vec<String> {
        match self.raw {
            Some(raw) if !self.forms.intersects(PathForms::NEVER) => {
                other_readings(raw.as_bytes(), self.forms, &self.canonical)
            }
            Some(_) | None => Vec::new(),
        }
    }
}

/// Returns the query of Envoy's `path` attribute, without its `?`.
#[must_use]
pub fn query(attribute: &str) -> Option<&str> {
    attribute.split_once('?').map(|(_, query)| query)
}

/// Returns the names of the query's `access_token` parameters (RFC 6750 §2.3), each spelling once, as
/// they are spelt: percent-decoded they are that name.
#[must_use]
pub fn access_tokens(query: &str) -> Vec<&str> {
    const NAME: &[u8] = b"access_token";
    let mut names: Vec<&str> = query
        .split('&')
        .map(|parameter| parameter.split_once('=').map_or(parameter, |(name, _)| name))
        .filter(|name| {
            let name = name.as_bytes();
            // An escape takes three bytes: a longer name cannot decode to this one.
            name == NAME || (name.len() <= 36 && name.contains(&b'%') && decode(name) == NAME)
        })
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// What a reading leaves as it is; by default nothing.
#[derive(Clone, Copy, Default)]
#[expect(clippy::struct_excessive_bools, reason = "four choices that servers make independently")]
struct Keep {
    parameters: bool,
    empty_segments: bool,
    dot_segments: bool,
    backslash: bool,
}

/// How servers differ: Tomcat strips parameters first, others never; proxies may merge slashes or not.
const KEEPS: [Keep; 5] = [
    Keep { parameters: false, empty_segments: false, dot_segments: false, backslash: false },
    Keep { parameters: true, empty_segments: false, dot_segments: false, backslash: false },
    Keep { parameters: false, empty_segments: true, dot_segments: false, backslash: false },
    Keep { parameters: true, empty_segments: true, dot_segments: false, backslash: true },
    Keep { parameters: true, empty_segments: true, dot_segments: true, backslash: true },
];

fn other_readings(path: &[u8], forms: PathForms, canonical: &str) -> Vec<String> {
    let mut others = Vec::new();
    let mut add = |path: &[u8], keep: Keep| {
        let reading = reading(path, keep);
        if reading != canonical && !others.contains(&reading) {
            others.push(reading);
        }
    };
    let once = decode(path);
    if forms.is_empty() {
        add(&once, Keep::default());
        return others;
    }
    // A decoded `?` or `#` ends the path for a server that decodes before it splits.
    let cut = once.split(|b| matches!(b, b'?' | b'#')).next().unwrap_or_default();
    let twice = decode(&once);
    for source in [path, &once, cut, &twice] {
        for keep in KEEPS {
            add(source, keep);
        }
    }
    others
}

/// Returns whether the path is already canonical and can be read in one way only: the fast path.
fn is_canonical(path: &[u8]) -> bool {
    let Some((b'/', rest)) = path.split_first() else { return false };
    let mut length = 0_usize;
    let mut only_dots = true;
    for &byte in rest {
        if byte == b'/' {
            if length == 0 || (only_dots && length <= 2) {
                return false;
            }
            (length, only_dots) = (0, true);
        } else if is_plain(byte) {
            length = length.saturating_add(1);
            only_dots &= byte == b'.';
        } else {
            return false;
        }
    }
    // An empty last segment is a trailing slash.
    length == 0 || !only_dots || length > 2
}

/// RFC 3986 §3.3 `pchar` without escapes, `;` and `!`.
const fn is_plain(byte: u8) -> bool {
    is_unreserved(byte)
        || matches!(
            byte,
            b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b'=' | b':' | b'@'
        )
}

/// RFC 3986 §2.3.
const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

fn forms(path: &[u8]) -> PathForms {
    let mut forms = PathForms::default();
    let mut add = |form| forms = forms.union(form);
    if path.first() != Some(&b'/') {
        add(PathForms::NEVER);
    }
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        match byte {
            b'%' => match escape(tail) {
                Some((byte, tail)) => {
                    if matches!(byte, b'/' | b'\\' | b';' | b'?' | b'#' | b'%') {
                        add(PathForms::ENCODED_DELIMITERS);
                    }
                    decoded.push(byte);
                    rest = tail;
                    continue;
                }
                None => add(PathForms::NEVER),
            },
            b'\\' => add(PathForms::BACKSLASH),
            b';' => add(PathForms::PARAMETERS),
            b'!' | 0x80.. => add(PathForms::NON_ASCII),
            b'#' | b' ' => add(PathForms::NEVER),
            _ => {}
        }
        decoded.push(byte);
    }
    if !str::from_utf8(&decoded).is_ok_and(|text| !text.chars().any(char::is_control)) {
        add(PathForms::NEVER);
    }
    let mut segments = path.split(|b| matches!(b, b'/' | b'\\')).skip(1).peekable();
    while let Some(segment) = segments.next() {
        let name = without_parameters(segment);
        match decode(name).as_slice() {
            b"." | b".." => add(PathForms::DOT_SEGMENTS),
            b"" if segments.peek().is_some() || name.len() != segment.len() => {
                add(PathForms::EMPTY_SEGMENTS);
            }
            _ => {}
        }
    }
    forms
}

fn reading(path: &[u8], keep: Keep) -> String {
    let mut kept: Vec<String> = Vec::new();
    let mut slash_at_end = false;
    // What stands before the first slash is empty, or the path is refused.
    let mut segments =
        path.split(|b| *b == b'/' || (*b == b'\\' && !keep.backslash)).skip(1).peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        let segment = encode(if keep.parameters { segment } else { without_parameters(segment) });
        match segment.as_str() {
            "" if !keep.empty_segments => slash_at_end = is_last,
            "." if !keep.dot_segments => slash_at_end = is_last,
            ".." if !keep.dot_segments => {
                kept.pop();
                slash_at_end = is_last;
            }
            _ => kept.push(segment),
        }
    }
    let mut text = String::with_capacity(path.len().saturating_add(1));
    for segment in &kept {
        text.push('/');
        text.push_str(segment);
    }
    if slash_at_end || kept.is_empty() {
        text.push('/');
    }
    text
}

fn without_parameters(segment: &[u8]) -> &[u8] {
    segment.split(|b| *b == b';').next().unwrap_or_default()
}

/// Writes a segment in canonical form. A `%` that starts no escape is an escaped `%`.
fn encode(segment: &[u8]) -> String {
    let mut text = String::with_capacity(segment.len());
    let mut rest = segment;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        match (byte, escape(tail)) {
            (b'%', Some((byte, tail))) => {
                if is_unreserved(byte) {
                    text.push(char::from(byte));
                } else {
                    push_escape(&mut text, byte);
                }
                rest = tail;
            }
            _ if is_plain(byte) || matches!(byte, b';' | b'!') => text.push(char::from(byte)),
            _ => push_escape(&mut text, byte),
        }
    }
    text
}

fn push_escape(text: &mut String, byte: u8) {
    let digit = |value: u8| char::from_digit(value.into(), 16).unwrap_or('0').to_ascii_uppercase();
    text.push('%');
    text.push(digit(byte >> 4));
    text.push(digit(byte & 0xf));
}

/// Decodes every escape; what is none stays.
fn decode(path: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((&byte, tail)) = rest.split_first() {
        let (byte, tail) = match (byte, escape(tail)) {
            (b'%', Some(escaped)) => escaped,
            _ => (byte, tail),
        };
        decoded.push(byte);
        rest = tail;
    }
    decoded
}

/// Reads the two hexadecimal digits after a `%`: the byte and what follows.
pub(crate) fn escape(after_percent: &[u8]) -> Option<(u8, &[u8])> {
    let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let (&[high, low], rest) = after_percent.split_first_chunk()?;
    Some((digit(high)? << 4 | digit(low)?, rest))
}

#[cfg(test)]
mod tests;
