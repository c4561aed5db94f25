//! A decoder that collects every mistake: what the documents of a policy repository and the process's
//! configuration are read with.
//!
//! A reading function that meets a mistake reports it and returns [`Broken`]; its caller reads the other
//! fields first and gives up after them, so that all mistakes of a file come out of one run.

pub mod document;
mod issuer;
mod keys;
mod policy;
pub mod text;

use std::{ops::RangeInclusive, time::Duration};

use crate::{
    diagnostic::{At, Diagnostic, Spanned},
    policy::yaml::{Entry, Node, Value},
};

/// A mistake was reported; there is no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken;

/// What reading a field gives.
pub type Decoded<T> = Result<T, Broken>;

/// Collects mistakes.
#[derive(Debug, Default)]
pub struct Decoder {
    /// The mistakes so far.
    pub diagnostics: Vec<Diagnostic>,
}

impl Decoder {
    /// Adds a mistake.
    pub fn report(&mut self, diagnostic: Diagnostic) -> Broken {
        self.diagnostics.push(diagnostic);
        Broken
    }

    /// Adds a mistake without help.
    pub fn wrong(&mut self, at: &At, message: impl Into<String>) -> Broken {
        self.report(Diagnostic::new(at, message))
    }

    fn expected(&mut self, node: &Node, what: &str) -> Broken {
        let found = node.value.kind();
        let mut mistake = Diagnostic::new(&node.at, format!("expected {what}, found {found}"));
        if node.value == Value::Null {
            mistake = mistake.help("give it a value; to ask nothing, leave the key out");
        } else if what.starts_with("a text")
            && matches!(node.value, Value::Number(_) | Value::Flag(_))
        {
            mistake = mistake.help("put it in quotes");
        }
        self.report(mistake)
    }

    /// Reads a map that is not empty.
    ///
    /// # Errors
    /// Another type, or an empty map.
    pub fn map<'n>(&mut self, node: &'n Node) -> Decoded<Fields<'n>> {
        let entries = self.entries(node)?;
        Ok(Fields { at: &node.at, entries, known: Vec::new(), hidden: Vec::new() })
    }

    /// Reads the entries of a map with free keys that is not empty.
    ///
    /// # Errors
    /// Another type, or an empty map.
    pub fn entries<'n>(&mut self, node: &'n Node) -> Decoded<&'n [Entry]> {
        match &node.value {
            Value::Map(entries) if entries.is_empty() => Err(self.report(
                Diagnostic::new(&node.at, "an empty map").help("leave the key out to ask nothing"),
            )),
            Value::Map(entries) => Ok(entries),
            Value::Null | Value::Flag(_) | Value::Number(_) | Value::Text(_) | Value::List(_) => {
                Err(self.expected(node, "a map"))
            }
        }
    }

    /// Reads a list that is not empty. Where some items are wrong, the others are returned.
    ///
    /// # Errors
    /// Another type, an empty list, or one without a good item.
    pub fn list<'n, T>(
        &mut self,
        node: &'n Node,
        mut each: impl FnMut(&mut Self, &'n Node) -> Decoded<T>,
    ) -> Decoded<Vec<T>> {
        let items = match &node.value {
            Value::List(items) if items.is_empty() => {
                return Err(self.report(
                    Diagnostic::new(&node.at, "an empty list")
                        .help("leave the key out to ask nothing"),
                ));
            }
            Value::List(items) => items,
            Value::Null | Value::Flag(_) | Value::Number(_) | Value::Text(_) | Value::Map(_) => {
                return Err(self.expected(node, "a list"));
            }
        };
        let good: Vec<T> = items.iter().filter_map(|item| each(self, item).ok()).collect();
        if good.is_empty() { Err(Broken) } else { Ok(good) }
    }

    /// Reads a list of texts.
    ///
    /// # Errors
    /// As [`Self::list`] and [`Self::text`].
    pub fn texts(&mut self, node: &Node) -> Decoded<Vec<Spanned<String>>> {
        self.list(node, Self::text)
    }

    /// Reads a text that is not empty.
    ///
    /// # Errors
    /// Another type, or an empty text.
    pub fn text(&mut self, node: &Node) -> Decoded<Spanned<String>> {
        match node.as_text() {
            Some(text) if text.trim().is_empty() => Err(self.report(
                Diagnostic::new(&node.at, "an empty text").help("leave the key out to ask nothing"),
            )),
            Some(text) => Ok(Spanned { value: text.to_owned(), at: node.at.clone() }),
            None => Err(self.expected(node, "a text")),
        }
    }

    /// Reads `true` or `false`.
    ///
    /// # Errors
    /// Another type.
    pub fn flag(&mut self, node: &Node) -> Decoded<bool> {
        if let Value::Flag(flag) = node.value {
            return Ok(flag);
        }
        Err(self.expected(node, "`true` or `false`"))
    }

    /// Reads a whole number within `bounds`.
    ///
    /// # Errors
    /// Another type, or a number outside.
    pub fn integer(&mut self, node: &Node, bounds: &RangeInclusive<u64>) -> Decoded<u64> {
        let Value::Number(number) = &node.value else {
            return Err(self.expected(node, "a whole number"));
        };
        match number.as_u64() {
            Some(number) if bounds.contains(&number) => Ok(number),
            Some(_) | None => Err(self.wrong(
                &node.at,
                format!("expected a whole number from {} to {}", bounds.start(), bounds.end()),
            )),
        }
    }

    /// Reads a duration within `bounds`.
    ///
    /// # Errors
    /// Another type, a text that is no duration, or one outside.
    pub fn duration(
        &mut self,
        node: &Node,
        bounds: &RangeInclusive<Duration>,
    ) -> Decoded<Duration> {
        let Some(text) = node.as_text() else {
            return Err(self.expected(node, "a duration such as `30s`"));
        };
        match text::duration(text) {
            None => Err(self.report(
                Diagnostic::new(&node.at, format!("`{text}` is no duration"))
                    .help("write it as `250ms`, `30s`, `15m`, `24h` or `1h30m`"),
            )),
            Some(duration) if bounds.contains(&duration) => Ok(duration),
            Some(_) => Err(self.wrong(
                &node.at,
                format!(
                    "expected a duration from {} to {}",
                    text::show_duration(*bounds.start()),
                    text::show_duration(*bounds.end())
                ),
            )),
        }
    }

    /// Reads one of `words`.
    ///
    /// # Errors
    /// Another type or another word.
    pub fn word<T: Copy>(&mut self, node: &Node, words: &[(&'static str, T)]) -> Decoded<T> {
        let names: Vec<&str> = words.iter().map(|(name, _)| *name).collect();
        let Some(text) = node.as_text() else {
            return Err(self.expected(node, &format!("a text: {}", text::or(&names))));
        };
        if let Some((_, word)) = words.iter().find(|(name, _)| *name == text) {
            return Ok(*word);
        }
        let message = format!("expected {}, found `{text}`", text::or(&names));
        let mistake = Diagnostic::new(&node.at, message);
        Err(self.report(match text::nearest(text, &names) {
            Some(near) => mistake.help(format!("did you mean `{near}`?")),
            None => mistake,
        }))
    }
}

/// The fields of a map, read one by one; what was not asked for is unknown.
#[derive(Debug)]
#[must_use = "unknown fields are found by `finish`"]
pub struct Fields<'n> {
    at: &'n At,
    entries: &'n [Entry],
    known: Vec<&'static str>,
    /// Known, but not to be suggested.
    hidden: Vec<&'static str>,
}

impl<'n> Fields<'n> {
    /// Returns where the map stands.
    #[must_use]
    pub const fn at(&self) -> &'n At {
        self.at
    }

    /// Returns the value of a field, if it is there. It is known from now on.
    pub fn get(&mut self, key: &'static str) -> Option<&'n Node> {
        self.known.push(key);
        self.entries.iter().find(|entry| entry.key.value == key).map(|entry| &entry.node)
    }

    /// Reads a field that may be left out.
    ///
    /// # Errors
    /// Those of `read`.
    pub fn optional<T>(
        &mut self,
        decoder: &mut Decoder,
        key: &'static str,
        read: impl FnOnce(&mut Decoder, &'n Node) -> Decoded<T>,
    ) -> Decoded<Option<T>> {
        self.get(key).map(|node| read(decoder, node)).transpose()
    }

    /// Reads a field that must be there.
    ///
    /// # Errors
    /// A missing field, and those of `read`.
    pub fn required<T>(
        &mut self,
        decoder: &mut Decoder,
        key: &'static str,
        read: impl FnOnce(&mut Decoder, &'n Node) -> Decoded<T>,
    ) -> Decoded<T> {
        match self.get(key) {
            Some(node) => read(decoder, node),
            None => Err(decoder.wrong(self.at, format!("`{key}` is missing"))),
        }
    }

    /// Reports a field that the format has and this version does not enforce.
    pub fn not_enforced(&mut self, decoder: &mut Decoder, key: &'static str) {
        self.hidden.push(key);
        if let Some(entry) = self.entries.iter().find(|entry| entry.key.value == key) {
            decoder.report(not_enforced(&entry.key.at));
        }
    }

    /// Reports every field that was not asked for.
    pub fn finish(self, decoder: &mut Decoder) {
        for entry in self.entries {
            let key = entry.key.value.as_str();
            if self.known.iter().chain(&self.hidden).any(|known| *known == key) {
                continue;
            }
            let mistake = Diagnostic::new(&entry.key.at, format!("unknown field `{key}`"));
            decoder.report(match text::nearest(key, &self.known) {
                Some(near) => mistake.help(format!("did you mean `{near}`?")),
                None => mistake.help(format!("known here: {}", text::and(&self.known))),
            });
        }
    }
}

/// Returns the mistake of using what this version does not enforce: to ignore it would open what its
/// author meant to close.
fn not_enforced(at: &At) -> Diagnostic {
    Diagnostic::new(at, format!("`{}` is not enforced by this version", at.field))
        .help("what it asks for would not be checked; do without it until a version enforces it")
}

#[cfg(test)]
mod tests;
