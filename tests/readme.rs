//! What `README.md` says, compared with the code and the files that it speaks of.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails"
)]

mod support;

use std::fs;

use serde::Deserialize as _;
use serde_json::Value;
use symbolon::reason::Reason;

fn readme() -> String {
    fs::read_to_string(support::repository().join("README.md")).unwrap()
}

/// The rows of the table between two markers, as cells.
fn table(name: &str) -> Vec<Vec<String>> {
    let readme = readme();
    let (_, rest) = readme.split_once(&format!("<!-- {name} -->")).expect(name);
    let (table, _) = rest.split_once(&format!("<!-- /{name} -->")).expect(name);
    table
        .lines()
        .filter(|line| line.starts_with('|'))
        .skip(2)
        .map(|line| {
            let cells: Vec<_> = line.split('|').map(|cell| cell.trim().to_owned()).collect();
            // A line begins and ends with `|`: nothing stands before the first and after the last.
            cells.get(1..cells.len().saturating_sub(1)).unwrap().to_vec()
        })
        .collect()
}

/// The YAML documents in the code blocks.
fn yaml() -> Vec<Value> {
    readme()
        .split("```yaml\n")
        .skip(1)
        .map(|rest| rest.split_once("```").unwrap().0)
        .map(|block| Value::deserialize(serde_yaml::Deserializer::from_str(block)).unwrap())
        .collect()
}

#[test]
fn the_table_of_reasons_is_that_of_the_code() {
    let expected: Vec<Vec<String>> = Reason::ALL
        .iter()
        .map(|reason| {
            // An allow is the service's to answer.
            let status = if *reason == Reason::Allowed {
                "—".to_owned()
            } else {
                reason.outcome().status().to_string()
            };
            let description = reason.description().trim().to_owned();
            vec![format!("`{reason}`"), status, description]
        })
        .collect();
    assert_eq!(table("reasons"), expected);
}

#[test]
fn the_ext_authz_filter_is_the_one_of_the_shipped_configuration() {
    let path = support::repository().join("deploy/envoy/envoy.yaml");
    let shipped: Value = serde_yaml::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let filter = &shipped["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
        ["http_filters"][0];
    let shown = yaml().into_iter().find(|document| document["name"] == filter["name"]).unwrap();
    for (name, value) in shown["typed_config"].as_object().unwrap() {
        let shipped = &filter["typed_config"][name];
        match value.as_object() {
            Some(object) => {
                for (name, value) in object {
                    assert_eq!(&shipped[name], value, "{name}");
                }
            }
            None => assert_eq!(shipped, value, "{name}"),
        }
    }
}

#[test]
fn the_istio_policy_is_the_one_of_the_shipped_manifest() {
    let path = support::repository().join("deploy/istio/ask-symbolon.yaml");
    let text = fs::read_to_string(path).unwrap();
    let shipped =
        Value::deserialize(serde_yaml::Deserializer::from_str(&text).next().unwrap()).unwrap();
    assert!(yaml().contains(&shipped));
}

#[test]
fn every_file_that_is_linked_to_exists() {
    for link in readme().split("](").skip(1).map(|rest| rest.split_once(')').unwrap().0) {
        assert!(support::repository().join(link).exists(), "{link}");
    }
}

#[test]
fn the_table_of_settings_is_that_of_the_code() {
    let expected: Vec<Vec<String>> = symbolon::config::SETTINGS
        .iter()
        .map(|setting| {
            let default = match setting.default {
                "" => String::new(),
                default => format!("`{default}`"),
            };
            vec![format!("`{}`", setting.key), default, setting.meaning.to_owned()]
        })
        .collect();
    assert_eq!(table("settings"), expected);
}

#[test]
fn the_table_of_metrics_is_that_of_the_code() {
    let expected: Vec<Vec<String>> = symbolon::telemetry::metrics::METRICS
        .iter()
        .map(|metric| {
            let labels: Vec<String> =
                metric.labels.iter().map(|label| format!("`{label}`")).collect();
            vec![
                format!("`{}`", metric.name),
                metric.kind.to_owned(),
                labels.join(", "),
                metric.meaning.to_owned(),
            ]
        })
        .collect();
    assert_eq!(table("metrics"), expected);
}
