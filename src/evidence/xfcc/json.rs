//! The JSON format: an array of objects whose values are strings or arrays of strings, and nothing else.
//!
//! Envoy appends its object to whatever the client sent between brackets, so that the whole header must be
//! this one array: then the `]` that Envoy wrote closes it, and the last object is Envoy's. The grammar has
//! no recursion, hence no depth to bound.

use memchr::memchr2;
use smallvec::SmallVec;

use super::{Element, Format, Key, MAX_ELEMENTS, XfccError};

/// Envoy writes eight keys; an object with more than this is not its.
const MAX_KEYS: usize = 16;

type Members<'r> = SmallVec<[(&'r [u8], Value<'r>); 8]>;

/// A member's value, its strings as they stand between the quotes.
enum Value<'r> {
    Text(&'r [u8]),
    List(SmallVec<[&'r [u8]; 2]>),
}

/// Returns the last element.
pub(super) fn last(header: &[u8]) -> Result<Element<'_>, XfccError> {
    let mut json = Json { rest: header };
    json.expect(b'[')?;
    let mut elements = 0_usize;
    let members = loop {
        elements = elements.saturating_add(1);
        if elements > MAX_ELEMENTS {
            return Err(XfccError::TooManyElements);
        }
        let members = json.object()?;
        match json.next()? {
            b',' => {}
            b']' => break members,
            _ => return Err(XfccError::Syntax),
        }
    };
    json.skip_space();
    if !json.rest.is_empty() {
        return Err(XfccError::Syntax);
    }
    let mut element = Element::default();
    for (name, value) in members {
        match (key(name)?, value) {
            (key @ (Key::By | Key::Chain | Key::Uri | Key::Dns), Value::List(values)) => {
                // A chain of several certificates is one value: it is not read.
                let count = if key == Key::Chain { 1 } else { values.len() };
                for value in values.into_iter().take(count) {
                    element.take(key, value, Format::Json)?;
                }
            }
            (key @ (Key::Hash | Key::Cert | Key::Subject | Key::Issuer), Value::Text(value)) => {
                element.take(key, value, Format::Json)?;
            }
            (_, Value::Text(_) | Value::List(_)) => return Err(XfccError::Value),
        }
    }
    Ok(element)
}

/// What is left to read.
struct Json<'r> {
    rest: &'r [u8],
}

impl<'r> Json<'r> {
    /// RFC 8259 §2, without line ends: a header has none.
    fn skip_space(&mut self) {
        while let Some((b' ', rest)) = self.rest.split_first() {
            self.rest = rest;
        }
    }

    fn next(&mut self) -> Result<u8, XfccError> {
        self.skip_space();
        let (&byte, rest) = self.rest.split_first().ok_or(XfccError::Syntax)?;
        self.rest = rest;
        Ok(byte)
    }

    fn expect(&mut self, byte: u8) -> Result<(), XfccError> {
        if self.next()? == byte { Ok(()) } else { Err(XfccError::Syntax) }
    }

    fn object(&mut self) -> Result<Members<'r>, XfccError> {
        self.expect(b'{')?;
        let mut members = Members::new();
        loop {
            match self.next()? {
                b'"' => {}
                b'}' if members.is_empty() => return Ok(members),
                _ => return Err(XfccError::Syntax),
            }
            let name = self.string()?;
            // A name with an escape could be a second spelling of one that is there.
            if name.contains(&b'\\') || members.iter().any(|(other, _)| *other == name) {
                return Err(XfccError::DuplicateKey);
            }
            self.expect(b':')?;
            let value = self.value()?;
            if members.len() >= MAX_KEYS {
                return Err(XfccError::Syntax);
            }
            members.push((name, value));
            match self.next()? {
                b',' => {}
                b'}' => return Ok(members),
                _ => return Err(XfccError::Syntax),
            }
        }
    }

    fn value(&mut self) -> Result<Value<'r>, XfccError> {
        match self.next()? {
            b'"' => Ok(Value::Text(self.string()?)),
            b'[' => {
                let mut values = SmallVec::new();
                loop {
                    match self.next()? {
                        b'"' => values.push(self.string()?),
                        b']' if values.is_empty() => return Ok(Value::List(values)),
                        _ => return Err(XfccError::Syntax),
                    }
                    match self.next()? {
                        b',' => {}
                        b']' => return Ok(Value::List(values)),
                        _ => return Err(XfccError::Syntax),
                    }
                }
            }
            _ => Err(XfccError::Syntax),
        }
    }

    /// Reads a string after its opening quote; escapes are checked (RFC 8259 §7) and stay.
    fn string(&mut self) -> Result<&'r [u8], XfccError> {
        let start = self.rest;
        loop {
            let at = memchr2(b'"', b'\\', self.rest).ok_or(XfccError::Syntax)?;
            let (_, tail) = self.rest.split_at_checked(at).ok_or(XfccError::Syntax)?;
            self.rest = match tail {
                [b'"', tail @ ..] => {
                    let length = start.len().saturating_sub(tail.len()).saturating_sub(1);
                    self.rest = tail;
                    return start.get(..length).ok_or(XfccError::Syntax);
                }
                [_, b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't', tail @ ..] => tail,
                [_, b'u', a, b, c, d, tail @ ..]
                    if [a, b, c, d].into_iter().all(u8::is_ascii_hexdigit) =>
                {
                    tail
                }
                _ => return Err(XfccError::Syntax),
            };
        }
    }
}

/// Keys are JSON member names: compared as they are.
fn key(name: &[u8]) -> Result<Key, XfccError> {
    match name {
        b"by" => Ok(Key::By),
        b"hash" => Ok(Key::Hash),
        b"cert" => Ok(Key::Cert),
        b"chain" => Ok(Key::Chain),
        b"subject" => Ok(Key::Subject),
        b"uri" => Ok(Key::Uri),
        b"dns" => Ok(Key::Dns),
        b"issuer" => Ok(Key::Issuer),
        _ => Err(XfccError::UnknownKey),
    }
}
