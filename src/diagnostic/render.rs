//! Shows mistakes: to people as a compiler does, to programs as JSON, SARIF or GitHub's annotations.

use std::fmt::Write as _;

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};
use serde_json::json;

use super::{At, Diagnostic, Diagnostics};

/// How mistakes are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people: the line, a caret, and what to do.
    #[default]
    Human,
    /// An array of `{file, line, column, field, message, help}`.
    Json,
    /// Annotations of GitHub Actions.
    Github,
    /// SARIF 2.1.0.
    Sarif,
}

/// A longer line is not shown: nobody reads it, and a hostile one would be shown once for each mistake.
const MAX_SHOWN_LINE: usize = 1000;

impl Diagnostics {
    /// Shows all mistakes. `colour` adds terminal colours to the form for people. Characters that would
    /// act on a terminal are escaped.
    #[must_use]
    pub fn render(&self, format: Format, colour: bool) -> String {
        match format {
            Format::Human => self.human(colour),
            Format::Json => pretty(&self.all.iter().map(|m| self.json(m)).collect()),
            Format::Github => self.github(),
            Format::Sarif => self.sarif(),
        }
    }

    /// Returns the file as the user named its directory.
    fn path(&self, at: &At) -> String {
        safe(&self.root.join(&*at.file).to_string_lossy().replace('\\', "/"))
            .trim_end_matches('/')
            .to_owned()
    }

    fn human(&self, colour: bool) -> String {
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        let mut out = String::new();
        let mut lines = Lines::default();
        for mistake in &self.all {
            let path = self.path(&mistake.at);
            let line = lines.find(self, &mistake.at).map(visible);
            let title = Level::ERROR.primary_title(safe(&mistake.message));
            let mut group = match &line {
                Some(line) => {
                    let span = bytes_of(line, &mistake.at);
                    let snippet = Snippet::source(line.as_str())
                        .line_start(mistake.at.line)
                        .path(path)
                        .annotation(AnnotationKind::Primary.span(span));
                    Group::with_title(title).element(snippet)
                }
                None => Group::with_title(title).element(origin(path, &mistake.at)),
            };
            if !mistake.at.field.is_empty() {
                let field = format!("field: {}", safe(&mistake.at.field));
                group = group.element(Level::NOTE.no_name().message(field));
            }
            if let Some(help) = &mistake.help {
                group = group.element(Level::HELP.message(safe(help)));
            }
            out.push_str(&renderer.render(&[group]));
            out.push_str("\n\n");
        }
        out
    }

    fn json(&self, mistake: &Diagnostic) -> serde_json::Value {
        json!({
            "file": self.path(&mistake.at),
            "line": mistake.at.line,
            "column": mistake.at.column,
            "field": &*mistake.at.field,
            "message": mistake.message,
            "help": mistake.help,
        })
    }

    fn github(&self) -> String {
        let mut out = String::new();
        for Diagnostic { at, message, help } in &self.all {
            let field = if at.field.is_empty() { "" } else { &at.field };
            let mut text = safe(message);
            for (label, part) in [("field", Some(field)), ("help", help.as_deref())] {
                if let Some(part) = part.filter(|part| !part.is_empty()) {
                    // Writing to a string does not fail.
                    let (Ok(()) | Err(std::fmt::Error)) = write!(text, "\n{label}: {}", safe(part));
                }
            }
            let end = at.column.saturating_add(at.length.saturating_sub(1));
            let (Ok(()) | Err(std::fmt::Error)) = writeln!(
                out,
                "::error file={},line={},col={},endColumn={end}::{}",
                property(&self.path(at)),
                at.line.max(1),
                at.column.max(1),
                data(&text)
            );
        }
        out
    }

    fn sarif(&self) -> String {
        let results: Vec<_> = self
            .all
            .iter()
            .map(|mistake| {
                let at = &mistake.at;
                let text = match &mistake.help {
                    Some(help) => format!("{}; {help}", mistake.message),
                    None => mistake.message.clone(),
                };
                json!({
                    "ruleId": "policy",
                    "level": "error",
                    "message": {"text": text},
                    "locations": [{
                        "physicalLocation": {
                            "artifactLocation": {"uri": self.path(at)},
                            "region": {
                                "startLine": at.line.max(1),
                                "startColumn": at.column.max(1),
                                "endColumn": at.column.max(1).saturating_add(at.length),
                            },
                        },
                        "logicalLocations": [{"fullyQualifiedName": &*at.field}],
                    }],
                })
            })
            .collect();
        pretty(&json!({
            "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
            "version": "2.1.0",
            "runs": [{
                "tool": {"driver": {
                    "name": "symbolon",
                    "version": env!("CARGO_PKG_VERSION"),
                    "rules": [{"id": "policy"}],
                }},
                "columnKind": "unicodeCodePoints",
                "results": results,
            }],
        }))
    }
}

fn pretty(value: &serde_json::Value) -> String {
    let mut text = format!("{value:#}");
    text.push('\n');
    text
}

fn origin<'a>(path: String, at: &At) -> Origin<'a> {
    let origin = Origin::path(path);
    if at.line == 0 { origin } else { origin.line(at.line).char_column(at.column) }
}

/// Finds lines without going through a file once for each mistake: mistakes come in the order of lines.
#[derive(Default)]
struct Lines<'d> {
    file: Option<&'d str>,
    rest: Option<std::iter::Enumerate<std::str::Lines<'d>>>,
    last: Option<(usize, &'d str)>,
}

impl<'d> Lines<'d> {
    fn find(&mut self, diagnostics: &'d Diagnostics, at: &At) -> Option<&'d str> {
        let wanted = at.line.checked_sub(1)?;
        let is_behind = self.last.is_some_and(|(index, _)| index > wanted);
        if self.file != Some(&*at.file) || is_behind {
            let (file, text) = diagnostics.sources.iter().find(|(file, _)| *file == at.file)?;
            *self = Self { file: Some(file), rest: Some(text.lines().enumerate()), last: None };
        }
        while self.last.is_none_or(|(index, _)| index < wanted) {
            self.last = Some(self.rest.as_mut()?.next()?);
        }
        self.last
            .filter(|(index, _)| *index == wanted)
            .map(|(_, line)| line)
            .filter(|line| line.len() <= MAX_SHOWN_LINE)
    }
}

/// Returns the byte range of a place within its line.
fn bytes_of(line: &str, at: &At) -> std::ops::Range<usize> {
    let start = at.column.saturating_sub(1);
    let offset =
        |column: usize| line.char_indices().nth(column).map_or(line.len(), |(index, _)| index);
    offset(start)..offset(start.saturating_add(at.length))
}

/// Says whether a character acts on a terminal or reorders what is read.
fn acts(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{200e}' | '\u{200f}' | '\u{61c}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
                | '\u{2028}' | '\u{2029}' | '\u{feff}'
        )
}

/// Returns `text` with characters that act escaped.
fn safe(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        if acts(character) {
            out.extend(character.escape_default());
        } else {
            out.push(character);
        }
    }
    out
}

/// Returns a line with characters that act replaced one by one, so that columns stay; tabs as spaces.
fn visible(line: &str) -> String {
    line.chars()
        .map(|c| match c {
            '\t' => ' ',
            c if acts(c) => '\u{fffd}',
            c => c,
        })
        .collect()
}

/// Escapes the data of a GitHub workflow command.
fn data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

/// Escapes a property of a GitHub workflow command.
fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use std::{path::PathBuf, sync::Arc};

    use super::*;

    fn diagnostics() -> Diagnostics {
        let at = At {
            file: Arc::from("team/a.yaml"),
            line: 2,
            column: 3,
            length: 4,
            field: Arc::from("spec.hots"),
        };
        Diagnostics {
            all: vec![
                Diagnostic::new(&at, "unknown field `hots`").help("did you mean `hosts`?"),
                Diagnostic::new(&At::default(), "no symbolon document found"),
            ],
            sources: vec![(at.file, Arc::from("spec:\n  hots: [é\u{202e}\u{1b}[31m]\n"))],
            root: PathBuf::from("policies"),
        }
    }

    #[test]
    fn people_see_file_line_column_the_line_a_caret_and_help() {
        let text = diagnostics().render(Format::Human, false);
        let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
        assert_eq!(lines[0], "error: unknown field `hots`");
        assert!(lines[1].ends_with("--> policies/team/a.yaml:2:3"), "{text}");
        assert!(lines[3].starts_with("2 |   hots: [é\u{fffd}\u{fffd}[31m]"), "{text}");
        assert!(lines[4].ends_with("|   ^^^^"), "{text}");
        assert!(text.contains("field: spec.hots"), "{text}");
        assert!(text.contains("help: did you mean `hosts`?"), "{text}");
        assert!(text.contains("--> policies\n"), "{text}");
        assert!(!text.contains('\u{1b}') && !text.contains('\u{202e}'));
        assert!(diagnostics().render(Format::Human, true).contains("\u{1b}["));
    }

    #[test]
    fn json_has_one_object_for_each_mistake() {
        let value: serde_json::Value =
            serde_json::from_str(&diagnostics().render(Format::Json, true)).unwrap();
        assert_eq!(
            value[0],
            json!({
                "file": "policies/team/a.yaml", "line": 2, "column": 3, "field": "spec.hots",
                "message": "unknown field `hots`", "help": "did you mean `hosts`?",
            })
        );
        assert_eq!(value[1]["file"], "policies");
        assert_eq!(value[1]["help"], serde_json::Value::Null);
    }

    #[test]
    fn github_annotations_are_escaped() {
        let mut all = diagnostics();
        all.all[0].message = "a%\n::error::b".to_owned();
        all.root = PathBuf::from("a:b,c");
        let text = all.render(Format::Github, false);
        assert_eq!(
            text.lines().next().unwrap(),
            "::error file=a%3Ab%2Cc/team/a.yaml,line=2,col=3,endColumn=6::a%25\\n::error::b%0Afield: spec.hots%0Ahelp: did you mean `hosts`?"
        );
        assert_eq!(text.lines().count(), 2);
    }

    #[test]
    fn sarif_places_each_result() {
        let value: serde_json::Value =
            serde_json::from_str(&diagnostics().render(Format::Sarif, false)).unwrap();
        let location = &value["runs"][0]["results"][0]["locations"][0];
        assert_eq!(location["physicalLocation"]["region"]["startLine"], 2);
        assert_eq!(location["logicalLocations"][0]["fullyQualifiedName"], "spec.hots");
    }

    #[test]
    fn a_hostile_line_is_not_repeated() {
        let mut all = diagnostics();
        all.sources[0].1 = Arc::from(format!("a\n{}\n", "x".repeat(MAX_SHOWN_LINE + 1)));
        let text = all.render(Format::Human, false);
        assert!(text.contains("policies/team/a.yaml:2:3") && !text.contains("xxxx"), "{text}");
    }

    #[test]
    fn the_summary_counts() {
        assert_eq!(diagnostics().summary(), "2 mistakes in 2 files");
        let mut one = diagnostics();
        one.all.truncate(1);
        assert_eq!(one.summary(), "1 mistake in 1 file");
    }
}
