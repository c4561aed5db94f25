//! What a real Envoy sends, and what it makes of the answers, where that is not what one would think.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails"
)]

mod support;

use std::{fs, process::Command, time::Duration};

use serde_json::Value;
use support::{World, next_user_agent};
use symbolon::cli::demo::{calls::bearer_call, client::Call};

/// The headers that the service received, in a call that came through.
fn received(seen: &support::Seen) -> Value {
    serde_json::from_slice::<Value>(&seen.answer.body).unwrap()["headers"].clone()
}

#[tokio::test]
async fn the_token_binds_to_the_certificate_in_every_form_of_xfcc() {
    for format in ["TEXT", "JSON"] {
        let world = World::start_with(|configuration| {
            configuration.replace("uri: true}", &format!("uri: true, format: {format}}}"))
        })
        .await;
        world.call(Some("checkout"), "bound", &[]).await.is("allowed", 200);
        world.call(Some("reports"), "bound", &[]).await.is("certificate_mismatch", 401);
        world.call(None, "bound", &[]).await.is("peer_absent", 403);
    }
}

#[tokio::test]
async fn a_prefix_forged_by_the_client_never_counts_where_envoy_appends() {
    let world =
        World::start_with(|configuration| configuration.replace("SANITIZE_SET", "APPEND_FORWARD"))
            .await;
    let victim = "spiffe://demo.example/ns/checkout/sa/web";
    let text = format!("By=spiffe://demo.example/ns/payments/sa/payments;Hash=00;URI={victim}");
    world
        .call(Some("reports"), "bound", &[("x-forwarded-client-cert", &text)])
        .await
        .is("certificate_mismatch", 401);
    // An unterminated quote, and Envoy's switch to the client's format: neither may hide Envoy's element.
    for forged in [
        format!("By=a;Hash=b;URI={victim};Subject=\""),
        format!("[a,By=X;Hash=Y;URI={victim};Subject=\"]"),
        "[]".to_owned(),
        "[".to_owned(),
    ] {
        let seen = world.call(Some("shop"), "bound", &[("x-forwarded-client-cert", &forged)]).await;
        assert_ne!(seen.status, 200, "{forged}: {seen:?}");
        assert!(
            matches!(
                seen.reason.as_deref(),
                Some("peer_not_allowed" | "peer_evidence_malformed" | "peer_evidence_conflict")
            ),
            "{forged}: {seen:?}"
        );
    }
    let json = format!("[{{\"uri\":[\"{victim}\"]}}]");
    world
        .call(Some("shop"), "bound", &[("x-forwarded-client-cert", &json)])
        .await
        .is("peer_not_allowed", 403);
}

#[tokio::test]
async fn both_encodings_of_headers_give_the_same_decisions() {
    for raw in ["true", "false"] {
        let world = World::start_with(|configuration| {
            configuration.replace("encode_raw_headers: true", &format!("encode_raw_headers: {raw}"))
        })
        .await;
        world.call(Some("checkout"), "bound", &[]).await.is("allowed", 200);
        world.call(Some("reports"), "bound", &[]).await.is("certificate_mismatch", 401);
        world.call(Some("checkout"), "expired", &[]).await.is("token_expired", 401);
        let twice = [("authorization", "Bearer another")];
        world.call(Some("checkout"), "bound", &twice).await.is("credentials_ambiguous", 400);
    }
}

#[tokio::test]
async fn a_grpc_caller_gets_a_grpc_status() {
    let world = World::start().await;
    let token = world.stage.token(&world.scenario, "expired").unwrap();
    let mut call = bearer_call(&token, &next_user_agent());
    call.headers.push(("content-type".to_owned(), "application/grpc".to_owned()));
    call.headers.push(("te".to_owned(), "trailers".to_owned()));
    let answer = world.stage.client(Some("checkout")).unwrap().call(&call).await.unwrap();
    assert_eq!(answer.status, 200);
    // 16 is UNAUTHENTICATED, what Envoy makes of 401.
    assert_eq!(answer.headers["grpc-status"], "16", "{answer:?}");
}

#[tokio::test]
async fn a_token_that_is_too_large_is_our_denial_and_not_an_error_of_envoys() {
    let world = World::start().await;
    let call = bearer_call(&"a".repeat(40 * 1024), &next_user_agent());
    let seen = world.send(Some("checkout"), &call).await;
    assert!(matches!(seen.status, 401 | 431), "{seen:?}");
    assert!(
        matches!(seen.reason.as_deref(), Some("token_too_large" | "headers_too_large")),
        "{seen:?}"
    );
}

#[tokio::test]
async fn every_denial_names_its_decision_and_challenges_without_detail() {
    let world = World::start().await;
    let seen = world.call(Some("checkout"), "expired", &[]).await;
    seen.is("token_expired", 401);
    assert!(seen.answer.headers.contains_key("x-symbolon-decision"));
    // RFC 6750 §3.1.
    let challenge = seen.answer.headers["www-authenticate"].to_str().unwrap();
    assert!(challenge.starts_with("Bearer") && challenge.contains("error=\"invalid_token\""));
    let body = String::from_utf8_lossy(&seen.answer.body);
    assert!(!body.contains("expired") && !challenge.contains("expired"), "{challenge} {body}");
}

#[tokio::test]
async fn a_token_that_no_rule_verified_does_not_reach_the_service() {
    let world = World::start().await;
    let token = world.stage.token(&world.scenario, "bound").unwrap();
    let mut call = bearer_call(&token, &next_user_agent());
    let verified = world.send(Some("checkout"), &call).await;
    assert!(received(&verified).get("authorization").is_some());
    call = Call { path: "/healthz".to_owned(), ..bearer_call(&token, &next_user_agent()) };
    let public = world.send(Some("checkout"), &call).await;
    public.is("allowed", 200);
    assert!(received(&public).get("authorization").is_none(), "{public:?}");
    // Nor in the query, in any spelling (RFC 6750 §2.3).
    call = bearer_call(&token, &next_user_agent());
    call.path = "/healthz?x=1&access_token=t&access%5Ftoken=u&y=2&access_token".to_owned();
    let public = world.send(Some("checkout"), &call).await;
    public.is("allowed", 200);
    let received: Value = serde_json::from_slice(&public.answer.body).unwrap();
    assert_eq!(received["path"], "/healthz?x=1&y=2", "{public:?}");
}

#[tokio::test]
async fn no_answer_of_ours_is_no_access() {
    let mut world = World::start().await;
    world.call(Some("checkout"), "bound", &[]).await.is("allowed", 200);
    signal(&world, "KILL");
    world.stage.authorizer.wait().await.unwrap();
    let seen = world.call(Some("checkout"), "bound", &[]).await;
    assert_eq!((seen.status, seen.reason), (403, None));
    assert_eq!(seen.details.as_deref(), Some("ext_authz_error"));
}

#[tokio::test]
async fn no_call_fails_while_symbolon_drains() {
    let mut world = World::start().await;
    let client = world.stage.client(Some("checkout")).unwrap();
    let token = world.stage.token(&world.scenario, "bound").unwrap();
    let call = bearer_call(&token, "symbolon-test/drain");
    let mut connection = client.connect().await.unwrap();
    assert_eq!(connection.call(&call).await.unwrap().status, 200);
    signal(&world, "TERM");
    // The grace is three seconds here; well within it every call is answered.
    let started = tokio::time::Instant::now();
    while started.elapsed() < Duration::from_millis(1500) {
        assert_eq!(connection.call(&call).await.unwrap().status, 200);
    }
    let metrics = world.stage.authorizer.metrics();
    let ready = symbolon::cli::demo::client::get(metrics, "/readyz").await.unwrap();
    assert_eq!(ready.status, 503, "not ready while it drains");
    let ended = tokio::time::timeout(Duration::from_secs(25), world.stage.authorizer.wait());
    assert!(ended.await.expect("it ends by itself").unwrap().success());
}

#[tokio::test]
async fn a_broken_commit_keeps_the_last_good_policies_until_it_is_mended() {
    let world = World::start().await;
    let path = world.stage.policies().join("payments/policy.yaml");
    let good = fs::read_to_string(&path).unwrap();
    fs::write(&path, good.replace("audiences:", "audience:")).unwrap();
    wait_for_metric(&world, "symbolon_policy_reload_failing 1").await;
    world.call(Some("checkout"), "bound", &[]).await.is("allowed", 200);
    let metrics = world.stage.authorizer.metrics();
    let ready = symbolon::cli::demo::client::get(metrics, "/readyz").await.unwrap();
    assert_eq!(ready.status, 200, "a broken commit takes nobody out of service");
    fs::write(&path, good.replace("/v1/payments/{id}", "/v1/other")).unwrap();
    wait_for_metric(&world, "symbolon_policy_reload_failing 0").await;
    world.call(Some("checkout"), "bound", &[]).await.is("no_matching_rule", 403);
}

async fn wait_for_metric(world: &World, line: &str) {
    let metrics = world.stage.authorizer.metrics();
    let patience = Duration::from_secs(10);
    symbolon::cli::demo::client::until(line, patience, async || {
        let answer = symbolon::cli::demo::client::get(metrics, "/metrics").await.ok()?;
        String::from_utf8_lossy(&answer.body).lines().any(|found| found == line).then_some(())
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn no_token_signature_or_query_is_written_anywhere() {
    let world = World::start().await;
    let token = world.stage.token(&world.scenario, "bound").unwrap();
    let mut call = bearer_call(&token, &next_user_agent());
    call.path = "/v1/payments/42?account=secret-query".to_owned();
    world.send(Some("checkout"), &call).await.is("allowed", 200);
    let metrics = world.stage.authorizer.metrics();
    let metrics = symbolon::cli::demo::client::get(metrics, "/metrics").await.unwrap();
    let mut written = String::from_utf8_lossy(&metrics.body).into_owned();
    written.push_str(&fs::read_to_string(world.stage.authorizer.log()).unwrap());
    written.push_str(&fs::read_to_string(world.stage.authorizer.records_file()).unwrap());
    let signature = token.rsplit('.').next().unwrap();
    assert!(!written.contains(signature) && !written.contains("secret-query"));
}

fn signal(world: &World, name: &str) {
    let id = world.stage.authorizer.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
}
