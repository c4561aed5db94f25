//! YAML with positions: a tree that remembers where each value stands.
//!
//! Two parsers read every file. Values are those of `serde_yaml`; positions are those of
//! `saphyr-parser`'s events. A document in which the two see different shapes or scalars is refused:
//! a file that can be read two ways is not read at all.
//!
//! Anchors, aliases, merge keys and tags are refused, so that a reviewer sees each value where it
//! applies.

mod positions;

use std::{borrow::Cow, fmt, sync::Arc};

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use self::positions::{Shape, Spot};
use crate::diagnostic::{At, Diagnostic, Spanned};

/// A file is read up to this size: Kubernetes keeps a whole `ConfigMap` below it.
pub const MAX_FILE_BYTES: usize = 1 << 20;

/// The format nests some ten levels; this leaves room and keeps recursion far from the stack's end.
pub const MAX_DEPTH: usize = 64;

/// Bounds the memory that one file takes as a tree: some 100 bytes each.
pub const MAX_NODES: usize = 200_000;

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Where it stands; for a block list or map, its key.
    pub at: At,
    /// The value.
    pub value: Value,
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Nothing, `null` or `~`.
    Null,
    /// `true` or `false`.
    Flag(bool),
    /// A number.
    Number(serde_yaml::Number),
    /// A text.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// A map, with duplicate keys if it has any.
    Map(Vec<Entry>),
}

/// An entry of a map.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The key.
    pub key: Spanned<String>,
    /// Its value.
    pub node: Node,
}

/// One document of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// The content. Where `restricted`, scalars are texts as they were written and aliases are null:
    /// good for telling whose document it is, not for use.
    pub root: Node,
    /// Whether it has anchors, aliases, merge keys or tags; `mistakes` then says so.
    pub restricted: bool,
    /// What is wrong with it as a document of ours: the above, duplicate keys, keys that are no texts.
    pub mistakes: Vec<Diagnostic>,
}

/// What a file holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct File {
    /// The documents that could be read, up to the first that could not.
    pub documents: Vec<Document>,
    /// Why reading ended early.
    pub unreadable: Option<Diagnostic>,
}

impl Value {
    /// Returns what the value is, with an article, for messages.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Flag(_) => "a boolean",
            Self::Number(_) => "a number",
            Self::Text(_) => "a text",
            Self::List(_) => "a list",
            Self::Map(_) => "a map",
        }
    }
}

impl Node {
    /// Returns the first entry of a map with this key.
    #[must_use]
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|entry| entry.key.value == key),
            Value::Null | Value::Flag(_) | Value::Number(_) | Value::Text(_) | Value::List(_) => {
                None
            }
        }
    }

    /// Returns the value where it is a text.
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            Value::Null | Value::Flag(_) | Value::Number(_) | Value::List(_) | Value::Map(_) => {
                None
            }
        }
    }
}

/// Reads a file's documents with their positions. It never fails: what cannot be read is in
/// [`File::unreadable`].
#[must_use]
pub fn read(file: &Arc<str>, bytes: &[u8]) -> File {
    let text = match positions::text_of(file, bytes) {
        Ok(text) => text,
        Err(unreadable) => return File { documents: Vec::new(), unreadable: Some(unreadable) },
    };
    // Of a block text that ends with the file and not with a line, the parsers read different ends.
    let ended =
        if text.ends_with('\n') { Cow::Borrowed(text) } else { Cow::Owned(format!("{text}\n")) };
    let text = &*ended;
    let (drafts, mut unreadable) = positions::read(file, text);
    let mut values = serde_yaml::Deserializer::from_str(text);
    let mut documents = Vec::with_capacity(drafts.len());
    for draft in drafts {
        let start = draft.root.at.clone();
        let Some(deserializer) = values.next() else {
            unreadable = Some(disagreement(&start));
            break;
        };
        if draft.restricted {
            let root = draft.root.as_written();
            documents.push(Document { root, restricted: true, mistakes: draft.mistakes });
            continue;
        }
        let mut mistakes = draft.mistakes;
        match Raw::deserialize(deserializer)
            .map_err(|error| undecodable(&start, &error))
            .and_then(|raw| draft.root.with_values(raw, &mut mistakes))
        {
            Ok(root) => documents.push(Document { root, restricted: false, mistakes }),
            Err(error) => {
                unreadable = Some(error);
                break;
            }
        }
    }
    if unreadable.is_none()
        && values.any(|rest| !matches!(Raw::deserialize(rest), Ok(Raw::Null)))
        && !text_is_blank(text)
    {
        unreadable = Some(disagreement(&start_of(file)));
    }
    File { documents, unreadable }
}

/// Returns the place of a file's first character.
#[must_use]
pub fn start_of(file: &Arc<str>) -> At {
    At { file: Arc::clone(file), line: 1, column: 1, length: 1, field: Arc::from("") }
}

/// Says whether a file has nothing but white space and comments, where `serde_yaml` reports the end of
/// the stream as an error instead of as no document.
fn text_is_blank(text: &str) -> bool {
    text.lines().map(str::trim_start).all(|line| line.is_empty() || line.starts_with('#'))
}

fn disagreement(at: &At) -> Diagnostic {
    Diagnostic::new(at, "two YAML parsers read this differently").help(
        "write it more plainly: put texts in quotes and start lists and maps on their own lines",
    )
}

fn undecodable(start: &At, error: &serde_yaml::Error) -> Diagnostic {
    let mut at = start.clone();
    if let Some(location) = error.location() {
        at = At { line: location.line(), column: location.column(), length: 1, ..at };
    }
    // The position is shown by itself.
    let text = error.to_string();
    let message = text.split(" at line ").next().unwrap_or_default();
    Diagnostic::new(&at, format!("not valid YAML: {message}"))
}

impl Spot {
    /// Returns the tree with scalars as they were written.
    fn as_written(&self) -> Node {
        let value = match &self.shape {
            Shape::Opaque => Value::Null,
            Shape::Scalar { text, .. } => Value::Text(text.clone()),
            Shape::List(items) => Value::List(items.iter().map(Self::as_written).collect()),
            Shape::Map(entries) => Value::Map(
                entries
                    .iter()
                    .filter_map(|(key, value)| match &key.shape {
                        Shape::Scalar { text, .. } => Some(Entry {
                            key: Spanned { value: text.clone(), at: key.at.clone() },
                            node: value.as_written(),
                        }),
                        Shape::Opaque | Shape::List(_) | Shape::Map(_) => None,
                    })
                    .collect(),
            ),
        };
        Node { at: self.at.clone(), value }
    }

    /// Joins positions with the values of the other parser.
    fn with_values(self, raw: Raw, mistakes: &mut Vec<Diagnostic>) -> Result<Node, Diagnostic> {
        let Self { at, shape } = self;
        let value = match (shape, raw) {
            (Shape::Scalar { text, plain }, raw) => {
                scalar(&text, plain, raw).ok_or_else(|| disagreement(&at))?
            }
            (Shape::List(spots), Raw::List(items)) if spots.len() == items.len() => Value::List(
                spots
                    .into_iter()
                    .zip(items)
                    .map(|(spot, item)| spot.with_values(item, mistakes))
                    .collect::<Result<_, _>>()?,
            ),
            (Shape::Map(spots), Raw::Map(items)) if spots.len() == items.len() => {
                let mut entries = Vec::with_capacity(spots.len());
                for ((key, value), (raw_key, raw_value)) in spots.into_iter().zip(items) {
                    let key = key.with_values(raw_key, mistakes)?;
                    let node = value.with_values(raw_value, mistakes)?;
                    if let Value::Text(text) = key.value {
                        entries.push(Entry { key: Spanned { value: text, at: key.at }, node });
                    } else {
                        let found = key.value.kind();
                        mistakes.push(
                            Diagnostic::new(&key.at, format!("a key is a text, found {found}"))
                                .help("put it in quotes"),
                        );
                    }
                }
                Value::Map(entries)
            }
            (Shape::Opaque | Shape::List(_) | Shape::Map(_), _) => return Err(disagreement(&at)),
        };
        Ok(Node { at, value })
    }
}

/// Returns the value of a scalar if it can have been written as `text`.
fn scalar(text: &str, plain: bool, raw: Raw) -> Option<Value> {
    let value = match raw {
        Raw::Text(value) => return (value == text).then_some(Value::Text(value)),
        Raw::Null if matches!(text, "" | "~" | "null" | "Null" | "NULL") => Value::Null,
        Raw::Flag(flag) if text.eq_ignore_ascii_case(if flag { "true" } else { "false" }) => {
            Value::Flag(flag)
        }
        Raw::Number(number)
            if text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.')) =>
        {
            Value::Number(number)
        }
        Raw::Null | Raw::Flag(_) | Raw::Number(_) | Raw::List(_) | Raw::Map(_) => return None,
    };
    plain.then_some(value)
}

/// What `serde_yaml` reads, with duplicate keys kept.
#[derive(Debug)]
enum Raw {
    Null,
    Flag(bool),
    Number(serde_yaml::Number),
    Text(String),
    List(Vec<Self>),
    Map(Vec<(Self, Self)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_bool<E: de::Error>(self, flag: bool) -> Result<Raw, E> {
        Ok(Raw::Flag(flag))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Raw, E> {
        Ok(Raw::Number(number.into()))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Raw, E> {
        Ok(Raw::Number(number.into()))
    }

    // Beyond 64 bits: no field takes such a number, and each says which it takes.
    fn visit_u128<E: de::Error>(self, _: u128) -> Result<Raw, E> {
        Ok(Raw::Number(f64::INFINITY.into()))
    }

    fn visit_i128<E: de::Error>(self, _: i128) -> Result<Raw, E> {
        Ok(Raw::Number(f64::NEG_INFINITY.into()))
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Raw, E> {
        Ok(Raw::Number(number.into()))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Raw, E> {
        Ok(Raw::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Raw::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = access.next_entry()? {
            entries.push(entry);
        }
        Ok(Raw::Map(entries))
    }
}

#[cfg(test)]
mod tests;
