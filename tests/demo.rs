//! The demo, as a user runs it: every row as expected, on a real Envoy.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod support;

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::Value;
use symbolon::cli::demo::client;

/// A child that gets Ctrl-C, at the latest when the test ends: killed, it could not end its own children.
struct Interrupted(Child);

impl Interrupted {
    fn interrupt(&self) {
        let id = self.0.id().to_string();
        Command::new("kill").args(["-s", "INT", &id]).status().unwrap();
    }
}

impl Drop for Interrupted {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            self.interrupt();
            self.0.wait().unwrap();
        }
    }
}

#[tokio::test]
async fn every_row_of_the_demo_comes_out_as_expected() {
    // The named binary, so that a download's progress is not part of what is measured here.
    let envoy = support::envoy().await;
    let output = Command::new(support::symbolon())
        .args(["demo", "--once", "--format", "json", "--envoy"])
        .arg(envoy)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let result: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("no JSON ({error}): {said}"));
    let rows = result["rows"].as_array().unwrap();
    assert!(rows.len() >= 25, "{} rows", rows.len());
    let wrong: Vec<_> =
        rows.iter().filter(|row| row["problems"] != serde_json::json!([])).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(result["edit"]["problems"], serde_json::json!([]));
    assert_eq!(result["edit"]["failed"], 0);
    assert_eq!(result["edit"]["generations"], serde_json::json!([1, 2, 3]));
    assert_eq!(result["ok"], true);
    assert!(output.status.success(), "{said}");
}

#[test]
fn without_an_envoy_the_demo_fails_and_says_so() {
    let output = Command::new(support::symbolon())
        .args(["demo", "--once", "--envoy", "/nonexistent/envoy"])
        .output()
        .unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("/nonexistent/envoy does not run"), "{said}");
}

#[tokio::test]
async fn the_lines_to_try_by_hand_work_and_nothing_is_left_after_ctrl_c() {
    let envoy = support::envoy().await;
    let mut demo = Interrupted(
        Command::new(support::symbolon())
            .args(["demo", "--format", "json", "--envoy"])
            .arg(envoy)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let said: Vec<String> = BufReader::new(demo.0.stderr.take().unwrap())
        .lines()
        .map(Result::unwrap)
        .take_while(|line| !line.contains("until Ctrl-C"))
        .collect();
    let curl = |title: &str| {
        let (at, _) = said.iter().enumerate().find(|(_, line)| line.contains(title)).expect(title);
        let line = said.get(at + 1).unwrap();
        let output = Command::new("bash").args(["-c", line]).output().unwrap();
        assert!(output.status.success(), "{line}: {output:?}");
        (line.clone(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (line, answer) = curl("# a bound token with its own certificate");
    assert!(answer.contains(" 200"), "{answer}");
    let (_, answer) = curl("# the same token, stolen by another workload");
    assert!(answer.contains(" 401"), "{answer}");
    let (_, answer) = curl("# a path that two parsers read differently");
    assert!(answer.contains(" 400"), "{answer}");
    // Records are written behind the answers.
    client::until("the record", Duration::from_secs(5), async || {
        let (_, records) = curl("# what was decided, and why");
        records.contains("certificate_mismatch").then_some(())
    })
    .await
    .unwrap();
    let folder = line.split("--cacert ").nth(1).unwrap().split("/tls/").next().unwrap();
    assert!(Path::new(folder).is_dir());
    demo.interrupt();
    assert!(demo.0.wait().unwrap().success());
    assert!(!Path::new(folder).exists(), "{folder} is left");
    let left = Command::new("pgrep").args(["--full", folder]).output().unwrap();
    assert!(left.stdout.is_empty(), "left running: {left:?}");
}
