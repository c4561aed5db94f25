//! Tokens of a certified authorization server, through a real Envoy.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test that cannot go on fails"
)]

mod support;

#[path = "oidc/world.rs"]
mod world;

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, sleep};
use world::{Authentication, JWT, OPAQUE, World};

#[tokio::test]
async fn a_jwt_passes_with_the_certificate_it_is_bound_to_and_no_other() {
    let world = World::start(Authentication::PrivateKeyJwt, "30s").await;
    // One client has authenticated by an assertion over mTLS, the other by its certificate itself.
    for client in ["web", "web-tls"] {
        let token = world.token(client, JWT, "payments.read").await;
        world.bearer("web", JWT, "/certificate", &token).await.is("allowed", 200);
        world.bearer("thief", JWT, "/certificate", &token).await.is("certificate_mismatch", 401);
        world.bearer("web", JWT, "/write", &token).await.is("scope_missing", 403);
        world.bearer("web", JWT, "/dpop", &token).await.is("binding_not_allowed", 401);
        world.bearer("web", OPAQUE, "/certificate", &token).await.is("token_audience", 401);
        let proof = world.proof(JWT, "/certificate", &token);
        let seen = world.dpop("web", JWT, "/certificate", &token, &proof).await;
        seen.is("scheme_mismatch", 401);
    }
}

#[tokio::test]
async fn a_jwt_passes_once_for_each_proof_with_the_key_it_is_bound_to() {
    let world = World::start(Authentication::PrivateKeyJwt, "30s").await;
    let token = world.token("app", JWT, "payments.read").await;
    let proof = world.proof(JWT, "/dpop", &token);
    // Whoever sends it: the token is bound to no certificate.
    world.dpop("web", JWT, "/dpop", &token, &proof).await.is("allowed", 200);
    world.dpop("web", JWT, "/dpop", &token, &proof).await.is("dpop_replayed", 401);
    let elsewhere = world.proof(JWT, "/write", &token);
    world.dpop("web", JWT, "/dpop", &token, &elsewhere).await.is("dpop_proof_uri", 401);
    let stolen = World::proof_by_another(JWT, "/dpop", &token);
    world.dpop("web", JWT, "/dpop", &token, &stolen).await.is("dpop_key_mismatch", 401);
    world.bearer("web", JWT, "/dpop", &token).await.is("scheme_mismatch", 401);
}

#[tokio::test]
async fn an_opaque_token_is_held_to_its_binding_however_we_authenticate() {
    for authentication in [
        Authentication::PrivateKeyJwt,
        Authentication::TlsClientAuth,
        Authentication::ClientSecretBasic,
    ] {
        let world = World::start(authentication, "30s").await;
        let token = world.token("web", OPAQUE, "payments.read").await;
        assert!(!token.contains('.'), "it is to be opaque: {token}");
        world.bearer("web", OPAQUE, "/certificate", &token).await.is("allowed", 200);
        world.bearer("thief", OPAQUE, "/certificate", &token).await.is("certificate_mismatch", 401);
        world.bearer("web", OPAQUE, "/write", &token).await.is("scope_missing", 403);
        world.bearer("web", OPAQUE, "/certificate", "unknown").await.is("token_inactive", 401);

        let token = world.token("app", OPAQUE, "payments.read").await;
        let proof = world.proof(OPAQUE, "/dpop", &token);
        world.dpop("web", OPAQUE, "/dpop", &token, &proof).await.is("allowed", 200);
        world.dpop("web", OPAQUE, "/dpop", &token, &proof).await.is("dpop_replayed", 401);
        let stolen = World::proof_by_another(OPAQUE, "/dpop", &token);
        world.dpop("web", OPAQUE, "/dpop", &token, &stolen).await.is("dpop_key_mismatch", 401);
    }
}

#[tokio::test]
async fn a_revoked_token_is_denied_at_once_where_every_check_asks() {
    let world = World::start(Authentication::PrivateKeyJwt, "0s").await;
    let token = world.token("web", OPAQUE, "payments.read").await;
    for _again in 0..3 {
        world.bearer("web", OPAQUE, "/certificate", &token).await.is("allowed", 200);
    }
    world.revoke("web", &token).await;
    world.bearer("web", OPAQUE, "/certificate", &token).await.is("token_inactive", 401);
}

#[tokio::test]
async fn while_the_server_is_down_what_needs_no_answer_goes_on_and_the_rest_heals() {
    let mut world = World::start(Authentication::PrivateKeyJwt, "0s").await;
    let jwt = world.token("web", JWT, "payments.read").await;
    let later = world.token("web", JWT, "payments.read payments.write").await;
    let opaque = world.token("web", OPAQUE, "payments.read").await;
    world.bearer("web", JWT, "/certificate", &jwt).await.is("allowed", 200);
    world.server.stop().await;
    world.bearer("web", OPAQUE, "/certificate", &opaque).await.is("introspection_unavailable", 503);
    world.bearer("web", JWT, "/certificate", &jwt).await.is("allowed", 200);
    // Nor does a token that was never seen need the server: its keys are known.
    world.bearer("web", JWT, "/write", &later).await.is("allowed", 200);
    // And symbolon itself begins with the keys that it had.
    world.restart_symbolon().await;
    world.bearer("web", JWT, "/certificate", &jwt).await.is("allowed", 200);
    world.server.restart().await;
    // The server keeps its opaque tokens in memory.
    let opaque = world.token("web", OPAQUE, "payments.read").await;
    let since = Instant::now();
    loop {
        let seen = world.bearer("web", OPAQUE, "/certificate", &opaque).await;
        if seen.status == 200 {
            break;
        }
        seen.is("introspection_unavailable", 503);
        assert!(since.elapsed() < Duration::from_secs(30), "it does not heal");
        sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn the_signing_keys_rotate_while_calls_flow_and_none_is_denied() {
    let mut world = World::start(Authentication::PrivateKeyJwt, "30s").await;
    let mut tokens = vec![world.token("web", JWT, "payments.read").await];
    for rotation in 0..2 {
        if rotation > 0 {
            sleep(BETWEEN_REFETCHES).await;
        }
        // symbolon sees the new key when the first token comes that is signed with it.
        world.server.rotate().await;
        tokens.push(world.token("web", JWT, "payments.read").await);
        assert_ne!(World::key_id(&tokens[rotation]), World::key_id(&tokens[rotation + 1]));
        let since = Instant::now();
        while since.elapsed() < Duration::from_secs(1) {
            let calls = tokens.iter().map(|token| world.bearer("web", JWT, "/certificate", token));
            for seen in join_all(calls).await {
                seen.is("allowed", 200);
            }
        }
    }
}

/// An unknown key has its issuer's keys fetched at once, but no sooner than ten seconds after the last time.
const BETWEEN_REFETCHES: Duration = Duration::from_secs(11);
