//! The TEXT format: `element *("," element)`, `element = pair *(";" pair)`, `pair = key "=" value`.
//!
//! A quoted value starts directly after `=`, a backslash takes the next byte with it, and the closing quote
//! is followed by `;`, `,` or the end. A value that is not quoted has no quote, backslash or white space.

use memchr::memchr2;
use smallvec::SmallVec;

use super::{Element, Format, Key, MAX_ELEMENTS, XfccError};

/// One pair, not judged yet.
#[derive(Clone, Copy)]
struct Pair<'r> {
    key: &'r [u8],
    /// `None`: it has no `=`.
    value: Option<&'r [u8]>,
}

/// What ends a pair.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Pair,
    Element,
    Header,
}

/// Returns the right-most element.
pub(super) fn last(header: &[u8]) -> Result<Element<'_>, XfccError> {
    let mut pairs: SmallVec<[Pair<'_>; 8]> = SmallVec::new();
    let mut elements = 1_usize;
    let mut rest = header;
    loop {
        let (pair, end, tail) = split(rest)?;
        pairs.push(pair);
        rest = tail;
        match end {
            End::Pair => {}
            End::Element => {
                elements = elements.saturating_add(1);
                if elements > MAX_ELEMENTS {
                    return Err(XfccError::TooManyElements);
                }
                pairs.clear();
            }
            End::Header => break,
        }
    }
    let mut element = Element::default();
    for pair in pairs {
        element.take(key(pair.key)?, pair.value.ok_or(XfccError::Value)?, Format::Text)?;
    }
    Ok(element)
}

/// Splits the first pair off.
fn split(text: &[u8]) -> Result<(Pair<'_>, End, &[u8]), XfccError> {
    let stop = text.iter().position(|b| matches!(b, b'=' | b';' | b',' | b'"' | b'\\' | b' '));
    let (key, after) = at(text, stop.unwrap_or(text.len()))?;
    let (value, after) = match after {
        [b'=', b'"', quoted @ ..] => unquote(quoted).map(|(value, after)| (Some(value), after))?,
        [b'=', value @ ..] => {
            let stop = value.iter().position(|b| matches!(b, b';' | b',' | b'"' | b'\\' | b' '));
            let (value, after) = at(value, stop.unwrap_or(value.len()))?;
            (Some(value), after)
        }
        _ => (None, after),
    };
    let (end, tail) = end(after)?;
    Ok((Pair { key, value }, end, tail))
}

/// Splits a quoted value, without its quotes, from what follows them. Escapes stay as they are: no value
/// that decides may have one.
fn unquote(quoted: &[u8]) -> Result<(&[u8], &[u8]), XfccError> {
    // Most values have no backslash before their quote.
    let mut from = 0_usize;
    loop {
        let (_, rest) = at(quoted, from)?;
        let found = memchr2(b'"', b'\\', rest).ok_or(XfccError::Syntax)?;
        let (inside, after) = at(quoted, from.saturating_add(found))?;
        match after.split_first() {
            Some((b'"', after)) => return Ok((inside, after)),
            _ => from = from.saturating_add(found).saturating_add(2),
        }
    }
}

fn end(text: &[u8]) -> Result<(End, &[u8]), XfccError> {
    match text.split_first() {
        None => Ok((End::Header, text)),
        Some((b';', rest)) => Ok((End::Pair, rest)),
        Some((b',', rest)) => Ok((End::Element, rest)),
        Some(_) => Err(XfccError::Syntax),
    }
}

fn at(text: &[u8], middle: usize) -> Result<(&[u8], &[u8]), XfccError> {
    text.split_at_checked(middle).ok_or(XfccError::Syntax)
}

/// Keys are compared without regard to case, as Envoy's documentation has it.
fn key(name: &[u8]) -> Result<Key, XfccError> {
    const KEYS: [(&[u8], Key); 8] = [
        (b"By", Key::By),
        (b"Hash", Key::Hash),
        (b"Cert", Key::Cert),
        (b"Chain", Key::Chain),
        (b"Subject", Key::Subject),
        (b"URI", Key::Uri),
        (b"DNS", Key::Dns),
        (b"Issuer", Key::Issuer),
    ];
    KEYS.iter()
        .find(|(known, _)| known.eq_ignore_ascii_case(name))
        .map(|(_, key)| *key)
        .ok_or(XfccError::UnknownKey)
}
