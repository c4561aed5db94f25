//! A panic in the built program: a denial like any other, and nothing of the request in the log.

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
    net::{SocketAddr, TcpListener},
    process::{Child, Command, Stdio},
    time::Duration,
};

use envoy_types::pb::envoy::service::auth::v3::{
    AttributeContext, CheckRequest, CheckResponse,
    attribute_context::{HttpRequest, Request},
    authorization_client::AuthorizationClient,
    check_response::HttpResponse,
};
use serde_json::Value;
use symbolon::cli::demo::client::{get, until};
use tonic::transport::Channel;

const POLICY: &str = "apiVersion: symbolon/v1
kind: Policy
metadata: {name: open}
spec:
  hosts: [open.example]
  rules:
  - {name: all, to: {paths: [\"/{**}\"]}, public: true}
";

/// A server that is killed with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn check(path: &str) -> CheckRequest {
    let secret = [("x-secret".to_owned(), "hunter2".to_owned())];
    let http = HttpRequest {
        method: "GET".to_owned(),
        host: "open.example".to_owned(),
        path: path.to_owned(),
        headers: secret.into_iter().collect(),
        ..HttpRequest::default()
    };
    CheckRequest {
        attributes: Some(AttributeContext {
            request: Some(Request { http: Some(http), ..Request::default() }),
            ..AttributeContext::default()
        }),
    }
}

async fn ask(client: &mut AuthorizationClient<Channel>, path: &str) -> CheckResponse {
    client.check(check(path)).await.expect("an RPC that succeeds").into_inner()
}

#[tokio::test]
async fn a_check_that_panics_is_denied_and_the_server_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let policies = folder.path().join("policies");
    fs::create_dir(&policies).unwrap();
    fs::write(policies.join("open.yaml"), POLICY).unwrap();
    let (log, records) = (folder.path().join("log"), folder.path().join("records"));
    let (grpc, metrics) = (free_port(), free_port());
    let child = Command::new(support::symbolon())
        .args(["serve", "--policies"])
        .arg(&policies)
        .env_clear()
        .env("SYMBOLON_CHECK_DRILL_PANIC_PATH", "/drill/panic")
        .env("SYMBOLON_GRPC_LISTEN", grpc.to_string())
        .env("SYMBOLON_METRICS_LISTEN", metrics.to_string())
        .env("SYMBOLON_ADMIN_LISTEN", format!("unix:{}", folder.path().join("admin").display()))
        .env("SYMBOLON_RECORDS_TO", &records)
        .env("SYMBOLON_LOG_FORMAT", "json")
        .env("SYMBOLON_LOG_LEVEL", "debug")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let _server = Server(child);
    let log = || fs::read_to_string(&log).unwrap();
    until("the server", Duration::from_secs(30), async || {
        get(metrics, "/readyz").await.ok().filter(|answer| answer.status == 200)
    })
    .await
    .unwrap_or_else(|error| panic!("{error:#}: {}", log()));
    let mut client = AuthorizationClient::connect(format!("http://{grpc}")).await.unwrap();

    let response = ask(&mut client, "/drill/panic?hunter2").await;
    assert_eq!(response.status.unwrap().code, 13, "INTERNAL");
    let Some(HttpResponse::DeniedResponse(denied)) = response.http_response else {
        panic!("not denied")
    };
    assert_eq!(denied.status.unwrap().code, 500);
    let header = denied.headers.iter().filter_map(|option| option.header.as_ref());
    let id = header.clone().find(|header| header.key == "x-symbolon-decision").unwrap();

    let response = ask(&mut client, "/other").await;
    assert_eq!(response.status.unwrap().code, 0, "the same connection goes on");

    let page = get(metrics, "/metrics").await.unwrap().body;
    let page = String::from_utf8_lossy(&page);
    for line in [
        "symbolon_panics_total 1",
        "symbolon_checks_total{decision=\"deny\",reason=\"internal_error\"} 1",
        "symbolon_checks_total{decision=\"allow\",reason=\"allowed\"} 1",
    ] {
        assert!(page.lines().any(|found| found == line), "{line} is not in {page}");
    }
    let record = until("the record", Duration::from_secs(10), async || {
        let text = fs::read_to_string(&records).unwrap_or_default();
        let records = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        records.into_iter().find(|record| record["decision_id"] == id.value.as_str())
    })
    .await
    .unwrap();
    assert_eq!(record["reason"], "internal_error");

    let log = log();
    let lines: Vec<Value> =
        log.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let panics: Vec<_> = lines.iter().filter(|line| line["message"] == "panic").collect();
    let [panic] = panics[..] else { panic!("not one panic in {log}") };
    assert_eq!(panic["level"], "ERROR");
    assert!(panic["place"].as_str().unwrap().contains("src/transport"), "{panic}");
    for word in ["hunter2", "drill/panic"] {
        assert!(!log.contains(word), "the log holds {word}: {log}");
    }
}
