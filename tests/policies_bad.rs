//! Broken policy repositories, and every mistake that `symbolon policy check` finds in each, in one run.
//!
//! `tests/policies-bad/NAME/` is a repository, `NAME.expected` its mistakes as `file:line:field: message`
//! (of the message a part will do), in the order they are shown.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a test that cannot go on fails"
)]

mod support;

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;

fn repositories() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/policies-bad");
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut folders: Vec<_> = entries.filter(|path| path.is_dir()).collect();
    folders.sort();
    folders
}

fn check(folder: &Path, format: &str) -> Output {
    Command::new(support::symbolon())
        .args(["policy", "check", "--format", format])
        .arg(folder)
        .env_clear()
        .output()
        .unwrap()
}

/// The mistakes found, as the `.expected` files have them.
fn found(folder: &Path) -> String {
    let output = check(folder, "json");
    assert_eq!(output.status.code(), Some(1), "{}", folder.display());
    let mistakes: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let prefix = format!("{}/", folder.display());
    let mut lines = String::new();
    for mistake in &mistakes {
        let file = mistake["file"].as_str().unwrap();
        let file = file.strip_prefix(&prefix).unwrap_or_default();
        let [field, message] = ["field", "message"].map(|name| mistake[name].as_str().unwrap());
        writeln!(lines, "{file}:{}:{field}: {message}", mistake["line"]).unwrap();
    }
    lines
}

/// The place must be the same; of the message, a part will do.
fn is_as(found: &str, expected: &str) -> bool {
    let (place, message) = expected.split_once(": ").unwrap();
    found.split_once(": ").is_some_and(|(at, says)| at == place && says.contains(message))
}

#[test]
fn every_mistake_of_every_broken_repository_is_found_in_one_run() {
    let mut wrong = 0;
    let folders = repositories();
    for folder in &folders {
        let expected = fs::read_to_string(folder.with_extension("expected")).unwrap();
        let found = found(folder);
        let same = found.lines().count() == expected.lines().count()
            && found.lines().zip(expected.lines()).all(|(found, expected)| is_as(found, expected));
        if !same {
            eprintln!("{}: expected\n{expected}found\n{found}", folder.display());
            wrong += 1;
        }
    }
    assert_eq!(wrong, 0);
    assert!(folders.len() >= 15, "{}", folders.len());
}

#[test]
fn two_unknown_fields_in_two_files_and_a_dangling_reference_come_out_of_one_run() {
    let folders = repositories();
    let folder = folders
        .iter()
        .find(|path| path.ends_with("two-unknown-fields-and-a-dangling-reference"))
        .unwrap();
    let found = found(folder);
    for line in [
        "issuers/corp.yaml:6:spec.audience: unknown field `audience`",
        "payments.yaml:9:spec.rules[0].to.path: unknown field `path`",
        "payments.yaml:10:spec.rules[0].token.issuers[1]: no Issuer `crop` is declared",
    ] {
        assert!(found.lines().any(|found| found == line), "{line} is not in {found}");
    }
}

#[test]
fn files_that_documents_name_are_quoted_in_no_format() {
    for folder in repositories() {
        for format in ["human", "json", "sarif", "github"] {
            let output = check(&folder, format);
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8(said).unwrap();
            assert!(!said.contains("hunter2"), "{format}: {said}");
        }
    }
}
