//! Every file under `deploy/` and `policies/` is read by the tool that reads it in production, or, where
//! that needs a cluster, at least by a YAML parser.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails"
)]

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde::Deserialize;
use serde_json::Value;
use symbolon::{
    cli::demo::pki::Authority,
    clock::{Clock, SystemClock},
    config::Settings,
};

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            files.extend(files_below(&path));
        } else {
            files.push(path);
        }
    }
    files.sort();
    files
}

fn documents(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    serde_yaml::Deserializer::from_str(&text)
        .map(|document| {
            Value::deserialize(document)
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        })
        .collect()
}

#[tokio::test]
async fn envoy_accepts_the_shipped_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(SystemClock.now()).unwrap();
    fs::write(folder.path().join("ca.crt"), authority.pem()).unwrap();
    let identity = authority.issue("spiffe://demo.example/ns/payments/sa/payments", &[]).unwrap();
    identity.write(folder.path(), "tls").unwrap();
    let shipped =
        fs::read_to_string(support::repository().join("deploy/envoy/envoy.yaml")).unwrap();
    let configuration = shipped.replace("/etc/envoy/tls", folder.path().to_str().unwrap());
    let file = folder.path().join("envoy.yaml");
    fs::write(&file, configuration).unwrap();
    let output = Command::new(support::envoy().await)
        .args(["--mode", "validate", "--log-level", "warning", "-c"])
        .arg(file)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(!said.to_lowercase().contains("deprecated"), "{said}");
}

#[test]
fn the_example_policies_and_ready_made_issuers_are_accepted() {
    for folder in ["policies", "policies/.issuers"] {
        let output = Command::new(support::symbolon())
            .args(["policy", "check"])
            .arg(support::repository().join(folder))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn every_yaml_file_is_yaml_and_says_what_it_is() {
    for path in files_below(&support::repository().join("deploy")) {
        let extension = path.extension().and_then(|extension| extension.to_str());
        if extension != Some("yaml") {
            continue;
        }
        let manifest = ["istio", "kubernetes"].iter().any(|folder| {
            path.parent().is_some_and(|parent| parent.ends_with(format!("deploy/{folder}")))
        });
        for document in documents(&path) {
            assert!(document.is_object(), "{}", path.display());
            if manifest {
                for field in ["/apiVersion", "/kind", "/metadata/name"] {
                    let value = document.pointer(field).and_then(Value::as_str);
                    assert!(value.is_some(), "{}: no {field}", path.display());
                }
            }
        }
    }
}

#[test]
fn the_manifests_agree_with_each_other() {
    let deploy = support::repository().join("deploy");
    let kubernetes = documents(&deploy.join("kubernetes/symbolon.yaml"));
    let of = |kind: &str| {
        kubernetes
            .iter()
            .find(|document| document["kind"] == kind)
            .unwrap_or_else(|| panic!("{kind}"))
    };
    let pod = &of("Deployment")["spec"]["template"];
    assert_eq!(of("Service")["spec"]["selector"], pod["metadata"]["labels"]);
    assert_eq!(
        of("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        pod["metadata"]["labels"]
    );
    let provider = documents(&deploy.join("istio/mesh.yaml"))
        .remove(0)
        .pointer("/spec/meshConfig/extensionProviders/0")
        .cloned()
        .unwrap();
    let custom = documents(&deploy.join("istio/ask-symbolon.yaml")).remove(0);
    assert_eq!(custom["spec"]["provider"]["name"], provider["name"]);
    let port = &provider["envoyExtAuthzGrpc"]["port"];
    let ports = of("Service")["spec"]["ports"].as_array().unwrap();
    assert!(ports.iter().any(|served| &served["port"] == port));
    // Whatever cannot be answered is denied.
    assert_eq!(provider["envoyExtAuthzGrpc"]["failOpen"], false);
}

#[test]
fn the_container_is_built_with_the_pinned_toolchain() {
    let read = |path: &str| fs::read_to_string(support::repository().join(path)).unwrap();
    let toolchain = read("rust-toolchain.toml");
    let channel = toolchain.split("channel = \"").nth(1).unwrap().split('"').next().unwrap();
    let (release, _patch) = channel.rsplit_once('.').unwrap();
    assert!(read("deploy/container/Dockerfile").contains(&format!("FROM rust:{release}-")));
}

#[test]
fn systemd_accepts_the_unit() {
    let unit = support::repository().join("deploy/systemd/symbolon.service");
    let folder = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(&unit).unwrap();
    // The unit is checked as it would be where the program is installed.
    let program = support::symbolon().to_str().unwrap();
    let copy = folder.path().join("symbolon.service");
    fs::write(&copy, text.replace("/usr/local/bin/symbolon", program)).unwrap();
    let output = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .arg(copy)
        .output()
        .expect("systemd-analyze is installed by tests/run");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !said.contains("symbolon.service"), "{said}");
}

#[test]
fn the_program_accepts_its_shipped_settings() {
    let deploy = support::repository().join("deploy");
    Settings::load(Some(&deploy.join("systemd/symbolon.yaml")), []).unwrap();
    let map = documents(&deploy.join("kubernetes/symbolon.yaml"))
        .into_iter()
        .find(|document| document["kind"] == "ConfigMap")
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("symbolon.yaml");
    fs::write(&file, map["data"]["symbolon.yaml"].as_str().unwrap()).unwrap();
    Settings::load(Some(&file), []).unwrap();
}
