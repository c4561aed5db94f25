//! The demo, as a user runs it: every row as expected, on a real Envoy.

mod support;

use std::process::{Command, Stdio};

use serde_json::Value;

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
