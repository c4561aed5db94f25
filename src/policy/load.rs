//! A directory's content to documents and compiled policies, without network: what `serve`, `policy check`
//! and tests share.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use crate::{
    diagnostic::{At, Diagnostic, Diagnostics},
    policy::{
        compile,
        decode::document::{Decoding, Owner, owner},
        document::Documents,
        index::PolicySet,
        yaml,
    },
    snapshot::source::SourceTree,
};

/// What a directory holds, valid as a whole.
#[derive(Debug)]
pub struct Loaded {
    /// The documents.
    pub documents: Documents,
    /// The compiled policies.
    pub policies: PolicySet,
    /// YAML files without a document of ours.
    pub skipped: Vec<Arc<str>>,
}

/// Decodes and compiles `tree`.
///
/// It does not check that hosts may be contacted, nor what is had from them.
///
/// # Errors
/// Every mistake of every file, in their order; and a directory without any document of ours, so that an
/// emptied one never goes live.
pub fn load(tree: &SourceTree, owned_headers: &[String]) -> Result<Loaded, Diagnostics> {
    let Reading { documents, mut mistakes, skipped } = read(tree);
    // Also after mistakes: what dangles comes out of the same run.
    let mut further = Vec::new();
    let policies = compile::compile(&documents, owned_headers, &mut further);
    // One mistake for one place: the decoder's is the cause.
    let places: HashSet<(&str, usize, usize)> = mistakes.iter().map(|d| place(&d.at)).collect();
    further.retain(|later| !places.contains(&place(&later.at)));
    mistakes.append(&mut further);
    if mistakes.is_empty() {
        return Ok(Loaded { documents, policies, skipped });
    }
    Err(collected(tree, mistakes))
}

/// What a directory holds, right or wrong.
struct Reading {
    documents: Documents,
    mistakes: Vec<Diagnostic>,
    skipped: Vec<Arc<str>>,
}

fn read(tree: &SourceTree) -> Reading {
    let mut decoding = Decoding::new(&tree.files);
    let mut skipped = Vec::new();
    let mut is_empty = true;
    for (file, bytes) in &tree.files {
        if is_yaml(file) {
            match read_file(&mut decoding, file, bytes) {
                Found::Ours => is_empty = false,
                Found::NothingOfOurs => skipped.push(Arc::clone(file)),
            }
        } else if let Some(line) = misnamed(file, bytes) {
            is_empty = false;
            let at = At { line, ..yaml::start_of(file) };
            decoding.decoder.report(
                Diagnostic::new(&at, "a symbolon document in a file that is not read")
                    .help("name the file `*.yaml` or `*.yml`, or take it out of the directory"),
            );
        }
    }
    if is_empty {
        let at = At { field: Arc::from(""), file: Arc::from(""), line: 0, column: 0, length: 0 };
        decoding.decoder.report(
            Diagnostic::new(&at, "no symbolon document found").help(
                "policies are documents with `apiVersion: symbolon/v1` in files named `*.yaml` or `*.yml`",
            ),
        );
    }
    decoding.resolve_trust_domains();
    let Decoding { documents, decoder, .. } = decoding;
    Reading { documents, mistakes: decoder.diagnostics, skipped }
}

/// Sorts mistakes and adds the texts that are needed to show them.
fn collected(tree: &SourceTree, mut all: Vec<Diagnostic>) -> Diagnostics {
    all.sort_by(|a, b| place(&a.at).cmp(&place(&b.at)).then_with(|| a.message.cmp(&b.message)));
    all.dedup();
    let names: BTreeSet<&Arc<str>> = all.iter().map(|mistake| &mistake.at.file).collect();
    let sources = names
        .into_iter()
        .filter(|name| is_yaml(name))
        .filter_map(|name| {
            let text = std::str::from_utf8(tree.files.get(name)?).ok()?;
            Some((Arc::clone(name), Arc::from(text)))
        })
        .collect();
    Diagnostics { all, sources, root: tree.root.clone() }
}

fn place(at: &At) -> (&str, usize, usize) {
    (&at.file, at.line, at.column)
}

fn is_yaml(file: &str) -> bool {
    // In lower case: on another system `POLICY.YAML` may not be read.
    matches!(file.rsplit_once('.'), Some((_, "yaml" | "yml")))
}

enum Found {
    Ours,
    NothingOfOurs,
}

fn read_file(decoding: &mut Decoding<'_>, file: &Arc<str>, bytes: &[u8]) -> Found {
    if bytes.trim_ascii().is_empty() {
        // What a failed write or a template without values leaves behind: the rules it held are gone.
        decoding
            .decoder
            .report(Diagnostic::new(&yaml::start_of(file), "the file is empty").help("remove it"));
        return Found::NothingOfOurs;
    }
    let yaml::File { documents, unreadable } = yaml::read(file, bytes);
    let owners: Vec<Owner> = documents.iter().map(|document| owner(&document.root)).collect();
    let has_ours = owners.iter().any(|owner| matches!(owner, Owner::Ours(_) | Owner::NearMiss(_)));
    let is_unreadable = unreadable.is_some();
    if is_unreadable || documents.iter().any(|document| document.restricted) {
        decoding.salvage(file, &String::from_utf8_lossy(bytes));
    }
    // Where a file cannot be read to its end, nobody can say whose the rest is.
    decoding.decoder.diagnostics.extend(unreadable);
    for (document, owner) in documents.iter().zip(owners) {
        match owner {
            Owner::Ours(kind) => {
                decoding.decoder.diagnostics.extend(document.mistakes.iter().cloned());
                if !document.restricted {
                    decoding.document(&kind, &document.root);
                }
            }
            Owner::NearMiss(mistake) => {
                decoding.decoder.report(mistake);
                decoding.decoder.diagnostics.extend(document.mistakes.iter().cloned());
                decoding.near_miss(&document.root);
            }
            Owner::Other if has_ours => {
                decoding.decoder.report(
                    Diagnostic::new(
                        &document.root.at,
                        "not a symbolon document, beside those that are",
                    )
                    .help("move it to a file of its own, or give it `apiVersion` and `kind`"),
                );
            }
            // Aliases and merge keys can put a document of ours together from parts.
            Owner::Other if document.restricted && mentions_us(bytes) => {
                decoding.decoder.diagnostics.extend(document.mistakes.iter().cloned());
            }
            Owner::Other | Owner::Nobody => {}
        }
    }
    if has_ours || is_unreadable { Found::Ours } else { Found::NothingOfOurs }
}

fn mentions_us(bytes: &[u8]) -> bool {
    String::from_utf8_lossy(bytes).to_ascii_lowercase().contains("symbolon/")
}

/// Returns the line on which a document of ours seems to begin in a file that is not read for its name,
/// such as `policy.yaml.bak` or `policy.json`.
fn misnamed(file: &str, bytes: &[u8]) -> Option<usize> {
    // Documentation quotes documents; it is not mistaken for policy.
    if file.rsplit_once('.').is_some_and(|(_, ending)| DOCUMENTATION.contains(&ending)) {
        return None;
    }
    let text = String::from_utf8_lossy(bytes);
    let line = text.lines().position(|line| {
        line.match_indices("apiVersion").any(|(start, key)| {
            let before = line.get(..start).unwrap_or_default();
            let after = line.get(start.saturating_add(key.len())..).unwrap_or_default();
            let value = after.trim_start_matches(['"', '\'', ' ', '\t', ':']);
            // A key in quotes anywhere (JSON), a plain one where a block or flow map has its keys.
            let is_key = before.ends_with('"') || before.bytes().all(|b| b" \t{[,'-".contains(&b));
            is_key && value.starts_with("symbolon/")
        })
    })?;
    Some(line.saturating_add(1))
}

/// Endings of documentation.
const DOCUMENTATION: [&str; 5] = ["md", "markdown", "adoc", "rst", "html"];

#[cfg(test)]
mod tests;
