//! Path templates, and the one spelling in which paths and templates meet.

use std::borrow::Cow;

use crate::policy::pattern::{MAX_SEGMENTS, PatternError};

/// A path template: literals, `{name}` for one whole segment, `{**}` for the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// The segments, without a final `{**}`.
    pub(in crate::policy) segments: Box<[Segment]>,
    /// How it ends.
    pub(in crate::policy) end: End,
}

/// One segment of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::policy) enum Segment {
    /// Exactly this.
    Literal(Box<str>),
    /// `{name}`: one whole segment, not empty.
    One,
}

/// How a template ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::policy) enum End {
    /// With its last segment.
    Segment,
    /// With a slash.
    Slash,
    /// With `{**}`: whatever follows, a slash included.
    Rest,
}

impl Template {
    /// Parses `/v1/payments/{id}` or `/static/{**}`.
    ///
    /// # Errors
    /// Where it is not in canonical form (the error says the canonical spelling), has a query, does not
    /// start with `/`, or has `{**}` before the end or a placeholder that is part of a segment.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let Some(rest) = text.strip_prefix('/') else {
            return Err(
                PatternError::new("a path starts with `/`").help(format!("write `/{text}`"))
            );
        };
        if rest.contains(['?', '#']) {
            let path = text.split(['?', '#']).next().unwrap_or_default();
            return Err(PatternError::new("paths are matched without query and fragment")
                .help(format!("write `{path}`")));
        }
        if rest.split('/').count() > MAX_SEGMENTS {
            return Err(PatternError::new(format!("a path has at most {MAX_SEGMENTS} segments")));
        }
        let mut texts: Vec<&str> = rest.split('/').collect();
        let end = match texts.last() {
            Some(&"{**}") => End::Rest,
            Some(&"") => End::Slash,
            Some(_) | None => End::Segment,
        };
        if end != End::Segment {
            texts.pop();
        }
        let mut seen = Vec::new();
        let segments = texts
            .iter()
            .map(|segment| parse_segment(text, segment, &mut seen))
            .collect::<Result<_, _>>()?;
        Ok(Self { segments, end })
    }

    /// Returns a key that is greater the more specific the template is, of templates that match one path:
    /// literal before `{name}` before `{**}`, from the left. A rule without paths has [`NO_PATHS`].
    pub(in crate::policy) fn rank(&self) -> Box<[u8]> {
        let end = match self.end {
            End::Segment | End::Slash => RANK_END,
            End::Rest => RANK_REST,
        };
        self.segments
            .iter()
            .map(|segment| match segment {
                Segment::Literal(_) => RANK_LITERAL,
                Segment::One => RANK_ONE,
            })
            .chain([end])
            .collect()
    }

    /// Returns the template with its literals in lower case.
    pub(in crate::policy) fn to_lower_case(&self) -> Self {
        let segments = self
            .segments
            .iter()
            .map(|segment| match segment {
                Segment::Literal(literal) => Segment::Literal(literal.to_ascii_lowercase().into()),
                Segment::One => Segment::One,
            })
            .collect();
        Self { segments, end: self.end }
    }

    /// Returns whether a literal has bytes outside ASCII, whose case is not compared.
    pub(in crate::policy) fn has_non_ascii(&self) -> bool {
        self.segments.iter().any(|segment| match segment {
            Segment::Literal(literal) => escapes(literal).any(|byte| !byte.is_ascii()),
            Segment::One => false,
        })
    }
}

/// The rank of a rule that names no paths: below `/{**}`.
pub(in crate::policy) const NO_PATHS: &[u8] = &[0];
const RANK_REST: u8 = 1;
const RANK_ONE: u8 = 2;
const RANK_LITERAL: u8 = 3;
/// A template that ends where another goes on with `{**}` is the more specific one.
const RANK_END: u8 = 4;

fn parse_segment<'t>(
    text: &str,
    segment: &'t str,
    seen: &mut Vec<&'t str>,
) -> Result<Segment, PatternError> {
    if segment == "{**}" {
        return Err(PatternError::new("`{**}` stands at the end of a path only")
            .help("write `{name}` for one segment"));
    }
    if let Some(name) = segment.strip_prefix('{').and_then(|name| name.strip_suffix('}')) {
        let is_name = !name.is_empty()
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
        if !is_name {
            return Err(PatternError::new(format!("`{segment}` is not a placeholder"))
                .help("write `{name}` for one segment, or `{**}` at the end"));
        }
        if seen.contains(&name) {
            return Err(PatternError::new(format!("`{segment}` stands twice in one path")));
        }
        seen.push(name);
        return Ok(Segment::One);
    }
    if segment.contains(['{', '}']) {
        return Err(PatternError::new(format!(
            "a placeholder stands for a whole segment, not for a part of `{segment}`"
        )));
    }
    if segment == "*" || segment == "**" {
        return Err(PatternError::new(format!("`{segment}` is not a placeholder"))
            .help("write `{name}` for one segment, or `{**}` at the end"));
    }
    check_literal(text, segment)?;
    Ok(Segment::Literal(segment.into()))
}

fn check_literal(text: &str, segment: &str) -> Result<(), PatternError> {
    if segment.is_empty() {
        let merged: Vec<&str> = text.split('/').filter(|s| !s.is_empty()).collect();
        return Err(PatternError::new("a canonical path has no empty segments")
            .help(format!("write `/{}`", merged.join("/"))));
    }
    if let Some(character) = segment.chars().find(|c| matches!(c, '\\' | ';') || c.is_control()) {
        return Err(PatternError::new(format!(
            "a canonical path has no `{}`",
            character.escape_debug()
        )));
    }
    let mut rest = segment;
    while let Some((_, tail)) = rest.split_once('%') {
        if hex_octet(tail.as_bytes()).is_none() {
            return Err(PatternError::new("`%` is followed by two hexadecimal digits"));
        }
        rest = tail;
    }
    if escapes(segment).any(|b| b.is_ascii_control()) {
        return Err(PatternError::new("a path with control characters is always denied"));
    }
    let canonical = normal(segment);
    if matches!(&*canonical, "." | "..") {
        return Err(PatternError::new("a canonical path has no `.` and `..` segments"));
    }
    if canonical != segment {
        let path = text.replacen(segment, &canonical, 1);
        return Err(
            PatternError::new("the path is not in canonical form").help(format!("write `{path}`"))
        );
    }
    Ok(())
}

/// Returns `path` in the one spelling in which templates are written: what may stand plain in a segment
/// (RFC 3986 §3.3, without `;`) does, everything else is percent-encoded in upper case.
///
/// Evidence decodes unreserved characters only, as RFC 3986 §6.2.2.2 says, but a server decodes them all:
/// without this `%3A` would slip past a deny rule on `:`.
pub(in crate::policy) fn normal(path: &str) -> Cow<'_, str> {
    if path.bytes().all(|b| is_plain(b) || b == b'/') {
        return Cow::Borrowed(path);
    }
    let mut text = String::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        let escaped = (byte == b'%').then(|| hex_octet(tail)).flatten();
        if escaped.is_some() {
            rest = tail.get(2..).unwrap_or_default();
        }
        let plain = match escaped {
            Some(octet) => is_plain(octet),
            None => is_plain(byte) || byte == b'/',
        };
        let octet = escaped.unwrap_or(byte);
        if plain {
            text.push(char::from(octet));
        } else {
            text.push('%');
            for nibble in [octet >> 4, octet & 0xf] {
                let digit = char::from_digit(u32::from(nibble), 16).unwrap_or('0');
                text.push(digit.to_ascii_uppercase());
            }
        }
    }
    if text == path { Cow::Borrowed(path) } else { Cow::Owned(text) }
}

/// Returns the octets that `text` has percent-encoded.
fn escapes(text: &str) -> impl Iterator<Item = u8> {
    text.split('%').skip(1).filter_map(|tail| hex_octet(tail.as_bytes()))
}

/// Returns the octet that two hexadecimal digits at the front of `text` are.
fn hex_octet(text: &[u8]) -> Option<u8> {
    let [high, low, ..] = text else { return None };
    let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    Some(digit(*high)? << 4 | digit(*low)?)
}

/// Says whether an octet stands plain in a segment: unreserved, or a delimiter that means nothing to the
/// generic syntax. `;` is not: servers read parameters after it.
const fn is_plain(b: u8) -> bool {
    matches!(
        b,
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~'
            | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b'=' | b':' | b'@'
    )
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use proptest::prelude::*;

    use super::*;

    fn refusal(text: &str) -> (String, Option<String>) {
        let error = Template::parse(text).unwrap_err();
        (error.message, error.help)
    }

    #[test]
    fn the_parts_of_a_template_are_literals_names_and_the_rest() {
        let template = Template::parse("/v1/{id}/{**}").unwrap();
        assert_eq!(*template.segments, [Segment::Literal("v1".into()), Segment::One]);
        assert_eq!(template.end, End::Rest);
        assert_eq!(Template::parse("/a/").unwrap().end, End::Slash);
        assert_eq!(Template::parse("/").unwrap().end, End::Slash);
        assert_eq!(Template::parse("/a").unwrap().end, End::Segment);
        assert_eq!(Template::parse("/{**}").unwrap().segments.len(), 0);
    }

    #[test]
    fn what_is_not_canonical_is_refused_with_the_canonical_spelling() {
        for (text, message, help) in [
            ("a", "a path starts with `/`", "write `/a`"),
            ("/a?x=1", "paths are matched without query and fragment", "write `/a`"),
            ("/a//b", "a canonical path has no empty segments", "write `/a/b`"),
            ("/%7euser", "the path is not in canonical form", "write `/~user`"),
            ("/a%2fb", "the path is not in canonical form", "write `/a%2Fb`"),
            ("/a%3Ab", "the path is not in canonical form", "write `/a:b`"),
            ("/é", "the path is not in canonical form", "write `/%C3%A9`"),
            (
                "/{**}/a",
                "`{**}` stands at the end of a path only",
                "write `{name}` for one segment",
            ),
            (
                "/*",
                "`*` is not a placeholder",
                "write `{name}` for one segment, or `{**}` at the end",
            ),
        ] {
            assert_eq!(refusal(text), (message.to_owned(), Some(help.to_owned())), "{text}");
        }
        for (text, message) in [
            ("/a/../b", "a canonical path has no `.` and `..` segments"),
            ("/%2E", "a canonical path has no `.` and `..` segments"),
            ("/a;b", "a canonical path has no `;`"),
            ("/a\\b", "a canonical path has no `\\\\`"),
            ("/%0A", "a path with control characters is always denied"),
            ("/%zz", "`%` is followed by two hexadecimal digits"),
            ("/a{b}", "a placeholder stands for a whole segment, not for a part of `a{b}`"),
            ("/{a}/{a}", "`{a}` stands twice in one path"),
        ] {
            assert_eq!(refusal(text).0, message, "{text}");
        }
    }

    #[test]
    fn ranks_go_from_the_left_literal_before_name_before_rest() {
        let rank = |text: &str| Template::parse(text).unwrap().rank();
        assert!(rank("/a/{x}") > rank("/{x}/b"));
        assert!(rank("/a/{x}") > rank("/a/{**}"));
        assert!(rank("/a") > rank("/a/{**}"));
        assert!(rank("/{x}") > rank("/{**}"));
        assert!(&*rank("/{**}") > NO_PATHS);
    }

    proptest! {
        #[test]
        fn the_normal_form_is_its_own_normal_form(path in "/[a-z%0-9A-F:;é/\"]{0,20}") {
            let once = normal(&path).into_owned();
            prop_assert_eq!(normal(&once), &*once);
        }

        #[test]
        fn encoding_more_never_changes_the_normal_form(path in "(/[a-z:!@;\"~]{1,4}){1,3}") {
            let mut encoded = String::new();
            for b in path.bytes() {
                if b == b'/' { encoded.push('/') } else { write!(encoded, "%{b:02x}").unwrap() }
            }
            prop_assert_eq!(normal(&path), normal(&encoded));
        }

        #[test]
        fn no_text_panics(text in "/?\\PC{0,40}") {
            drop(Template::parse(&text));
        }
    }
}
