//! Where each value of a file stands, from the events of `saphyr-parser`.

use std::{collections::HashMap, sync::Arc};

use saphyr_parser::{Event, Parser, ScalarStyle, Span, StrInput};

use super::{MAX_DEPTH, MAX_FILE_BYTES, MAX_NODES, start_of};
use crate::diagnostic::{At, Diagnostic};

/// A field's path is cut at this length: every node has one, and a hostile file could make them long.
const MAX_FIELD_BYTES: usize = 256;

/// A node's place and shape.
#[derive(Debug)]
pub(super) struct Spot {
    pub(super) at: At,
    pub(super) shape: Shape,
}

/// A node's shape.
#[derive(Debug)]
pub(super) enum Shape {
    /// An alias, or a node under an anchor or tag that cannot be told.
    Opaque,
    /// A scalar, unescaped.
    Scalar { text: String, plain: bool },
    /// A list.
    List(Vec<Spot>),
    /// A map.
    Map(Vec<(Spot, Spot)>),
}

/// A document before it has values.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) root: Spot,
    pub(super) restricted: bool,
    pub(super) mistakes: Vec<Diagnostic>,
}

/// Returns the text of a file that is small enough, UTF-8, and free of characters that are shown
/// differently from how they are read.
pub(super) fn text_of<'b>(file: &Arc<str>, bytes: &'b [u8]) -> Result<&'b str, Diagnostic> {
    let start = start_of(file);
    if bytes.len() > MAX_FILE_BYTES {
        return Err(Diagnostic::new(
            &start,
            format!("the file has {} bytes, more than {MAX_FILE_BYTES}", bytes.len()),
        )
        .help("divide it into several files"));
    }
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let valid = bytes.get(..error.valid_up_to()).unwrap_or_default();
            let before = String::from_utf8_lossy(valid);
            return Err(Diagnostic::new(&place(&start, &before), "the file is not UTF-8 here"));
        }
    };
    for (index, character) in text.char_indices() {
        if is_unreadable(character, text.get(index..).unwrap_or_default()) {
            let before = text.get(..index).unwrap_or_default();
            return Err(Diagnostic::new(
                &place(&start, before),
                format!("the character U+{:04X} is not allowed", u32::from(character)),
            )
            .help("control characters and text-direction marks hide what a file says; write an escape in double quotes, or leave it out"));
        }
    }
    Ok(text)
}

/// Says whether a character hides what a reviewer sees, or is a line break to one parser only.
fn is_unreadable(character: char, rest: &str) -> bool {
    match character {
        '\n' | '\t' => false,
        '\r' => !rest.starts_with("\r\n"),
        // Line breaks of YAML 1.1 that YAML 1.2 does not know, the byte order mark, and what reorders
        // text on the screen.
        '\u{2028}'
        | '\u{2029}'
        | '\u{feff}'
        | '\u{200e}'
        | '\u{200f}'
        | '\u{61c}'
        | '\u{202a}'..='\u{202e}'
        | '\u{2066}'..='\u{2069}' => true,
        other => other.is_control(),
    }
}

/// Returns the place after `before`.
fn place(start: &At, before: &str) -> At {
    let line = before.matches('\n').count().saturating_add(1);
    let column = before.chars().rev().take_while(|&c| c != '\n').count().saturating_add(1);
    At { line, column, ..start.clone() }
}

/// Reads positions up to the end or the first mistake of syntax.
pub(super) fn read(file: &Arc<str>, text: &str) -> (Vec<Draft>, Option<Diagnostic>) {
    let mut reader = Reader {
        parser: Parser::new_from_str(text),
        start: start_of(file),
        nodes: 0,
        restricted: false,
        mistakes: Vec::new(),
    };
    let mut drafts = Vec::new();
    loop {
        match reader.document() {
            Ok(Some(draft)) => drafts.push(draft),
            Ok(None) => return (drafts, None),
            Err(error) => return (drafts, Some(error)),
        }
    }
}

struct Reader<'t> {
    parser: Parser<'t, StrInput<'t>>,
    start: At,
    nodes: usize,
    restricted: bool,
    mistakes: Vec<Diagnostic>,
}

impl<'t> Reader<'t> {
    fn next(&mut self) -> Result<(Event<'t>, Span), Diagnostic> {
        match self.parser.next_event() {
            Some(Ok(event)) => Ok(event),
            None => Ok((Event::StreamEnd, Span::default())),
            Some(Err(error)) => {
                let at = At {
                    line: error.marker().line().max(1),
                    column: error.marker().col().saturating_add(1),
                    ..self.start.clone()
                };
                Err(Diagnostic::new(&at, format!("not valid YAML: {}", error.info())))
            }
        }
    }

    fn document(&mut self) -> Result<Option<Draft>, Diagnostic> {
        loop {
            match self.next()? {
                (Event::StreamEnd, _) => return Ok(None),
                (Event::DocumentStart(_), _) => {
                    self.restricted = false;
                    let event = self.next()?;
                    let root = self.node(event, &Arc::from(""), None, 0)?;
                    let mistakes = std::mem::take(&mut self.mistakes);
                    return Ok(Some(Draft { root, restricted: self.restricted, mistakes }));
                }
                _ => {}
            }
        }
    }

    fn at(&self, span: Span, field: &Arc<str>) -> At {
        let length = if span.start.line() == span.end.line() {
            span.end.col().saturating_sub(span.start.col())
        } else {
            1
        };
        At {
            file: Arc::clone(&self.start.file),
            line: span.start.line().max(1),
            column: span.start.col().saturating_add(1),
            length: length.max(1),
            field: Arc::clone(field),
        }
    }

    fn restrict(&mut self, at: &At, what: &str) {
        self.restricted = true;
        self.mistakes.push(
            Diagnostic::new(at, format!("{what} are not allowed"))
                .help("write the value where it applies"),
        );
    }

    fn node(
        &mut self,
        (event, span): (Event<'t>, Span),
        field: &Arc<str>,
        key: Option<&At>,
        depth: usize,
    ) -> Result<Spot, Diagnostic> {
        let mut at = self.at(span, field);
        self.nodes = self.nodes.saturating_add(1);
        if self.nodes > MAX_NODES {
            return Err(Diagnostic::new(&at, format!("the file has more than {MAX_NODES} values")));
        }
        if depth > MAX_DEPTH {
            return Err(Diagnostic::new(&at, format!("nested more than {MAX_DEPTH} deep")));
        }
        // What has no characters of its own (nothing, a block list or map) is shown at its key.
        if span.start.index() == span.end.index()
            && let Some(key) = key
        {
            at = key.clone();
        }
        let (anchor, tagged) = match &event {
            Event::Scalar(_, _, anchor, tag) => (*anchor, tag.is_some()),
            Event::SequenceStart(anchor, tag) | Event::MappingStart(anchor, tag) => {
                (*anchor, tag.is_some())
            }
            Event::Alias(_)
            | Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd
            | Event::SequenceEnd
            | Event::MappingEnd => (0, false),
        };
        if anchor != 0 {
            self.restrict(&at, "anchors");
        }
        if tagged {
            self.restrict(&at, "tags");
        }
        let shape = match event {
            Event::Scalar(text, style, ..) => {
                Shape::Scalar { text: text.into_owned(), plain: style == ScalarStyle::Plain }
            }
            Event::SequenceStart(..) => self.list(&mut at, field, depth)?,
            Event::MappingStart(..) => self.map(&mut at, field, depth)?,
            Event::Alias(_) => {
                self.restrict(&at, "aliases");
                Shape::Opaque
            }
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd
            | Event::SequenceEnd
            | Event::MappingEnd => {
                return Err(Diagnostic::new(&at, "not valid YAML: a value is missing"));
            }
        };
        Ok(Spot { at, shape })
    }

    fn list(&mut self, at: &mut At, field: &Arc<str>, depth: usize) -> Result<Shape, Diagnostic> {
        let mut items = Vec::new();
        loop {
            let event = self.next()?;
            if matches!(event.0, Event::SequenceEnd) {
                extend(at, event.1);
                return Ok(Shape::List(items));
            }
            let field = join(field, &format!("[{}]", items.len()));
            items.push(self.node(event, &field, None, depth.saturating_add(1))?);
        }
    }

    fn map(&mut self, at: &mut At, field: &Arc<str>, depth: usize) -> Result<Shape, Diagnostic> {
        let depth = depth.saturating_add(1);
        let mut entries = Vec::new();
        let mut seen: HashMap<String, usize> = HashMap::new();
        loop {
            let event = self.next()?;
            if matches!(event.0, Event::MappingEnd) {
                extend(at, event.1);
                return Ok(Shape::Map(entries));
            }
            let key_field = if let Event::Scalar(text, ..) = &event.0 {
                join_key(field, text)
            } else {
                join(field, "?")
            };
            let key = self.node(event, &key_field, None, depth)?;
            if let Shape::Scalar { text, plain } = &key.shape {
                if *plain && text == "<<" {
                    self.restrict(&key.at, "merge keys");
                }
                if let Some(first) = seen.get(text) {
                    self.mistakes.push(
                        Diagnostic::new(&key.at, format!("`{text}` is given twice"))
                            .help(format!("it is first given on line {first}; keep one")),
                    );
                } else {
                    seen.insert(text.clone(), key.at.line);
                }
            }
            let event = self.next()?;
            let value = self.node(event, &key_field, Some(&key.at), depth)?;
            entries.push((key, value));
        }
    }
}

/// Lengthens a flow list or map to its closing bracket, where that is on the same line.
fn extend(at: &mut At, end: Span) {
    if end.end.index() > end.start.index() && end.end.line() == at.line {
        at.length = end.end.col().saturating_add(1).saturating_sub(at.column).max(1);
    }
}

fn join_key(parent: &Arc<str>, key: &str) -> Arc<str> {
    let short: String = key.chars().take(64).collect();
    let is_simple = !short.is_empty()
        && short
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'/' | b'#'));
    if !is_simple {
        return join(parent, &format!("[\"{}\"]", short.escape_debug()));
    }
    if parent.is_empty() { Arc::from(short) } else { join(parent, &format!(".{short}")) }
}

fn join(parent: &Arc<str>, step: &str) -> Arc<str> {
    if parent.len().saturating_add(step.len()) > MAX_FIELD_BYTES {
        if parent.ends_with('…') {
            return Arc::clone(parent);
        }
        return Arc::from(format!("{parent}…"));
    }
    Arc::from(format!("{parent}{step}"))
}
