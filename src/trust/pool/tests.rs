//! Issuers over HTTP as a check meets them, and over reloads.

use std::{collections::HashMap, convert::Infallible, net::SocketAddr};

use http::{Request, Response};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::*;
use crate::{
    clock::ManualClock,
    credential::{
        Proof, Verified, Waited,
        cache::TokenCache,
        testing::{
            NOW, Signer, bearer, claims_with, document, evidence, jwks, text, trust_in, verify,
        },
    },
    policy::{Needs, document::ScopeClaim, scope::ScopeGrammar},
    reason::Reason,
};

/// An issuer's web server: a body for each path, 404 elsewhere. Counts what it is asked.
#[derive(Clone, Default)]
struct Site {
    bodies: Arc<Mutex<HashMap<String, String>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Site {
    async fn serve(&self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let site = self.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _peer) = listener.accept().await.unwrap();
                let site = site.clone();
                let service = service_fn(move |request: Request<Incoming>| {
                    let answer = site.answer(request.uri().path());
                    async move { Ok::<_, Infallible>(answer) }
                });
                let server = hyper::server::conn::http1::Builder::new();
                tokio::spawn(server.serve_connection(TokioIo::new(stream), service));
            }
        });
        address
    }

    fn answer(&self, path: &str) -> Response<String> {
        self.asked.lock().unwrap().push(path.to_owned());
        match self.bodies.lock().unwrap().get(path) {
            Some(body) => Response::new(body.clone()),
            None => Response::builder().status(404).body(String::new()).unwrap(),
        }
    }

    fn put(&self, path: &str, body: impl Into<String>) {
        self.bodies.lock().unwrap().insert(path.to_owned(), body.into());
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn pool() -> IssuerPool {
    let clock = Arc::new(ManualClock::at(NOW.as_secs()));
    IssuerPool::new(&OutboundSettings::default(), None, clock, Handle::current()).unwrap()
}

fn at_uri(uri: &str) -> IssuerDocument {
    IssuerDocument { keys: KeySource::Uri(text(uri)), ..document() }
}

fn from_file(content: &str) -> IssuerDocument {
    let keys = KeySource::File { path: text("corp.json"), content: content.into() };
    IssuerDocument { keys, ..document() }
}

/// Checks `token`, waiting for keys as the transport does.
async fn check(issuer: &Arc<Issuer>, token: &str) -> Result<(), Reason> {
    let trust = trust_in(vec![Arc::clone(issuer)]);
    let (tokens, evidence) = (TokenCache::new(10), evidence(bearer(token), None));
    let needs = Needs { token: true, ..Needs::default() };
    let mut verified = verify(&evidence, needs, &trust, &tokens, NOW, Waited::default());
    if let Verified::KeyMissing(refetch) = verified {
        refetch.0.await;
        verified = verify(
            &evidence,
            needs,
            &trust,
            &tokens,
            NOW,
            Waited { refetched: true, ..Waited::default() },
        );
    }
    match verified {
        Verified::Settled(principal) => match principal.token {
            Proof::Proven(_) => Ok(()),
            Proof::Unproven(reason) => Err(reason),
            Proof::Absent => panic!(),
        },
        Verified::KeyMissing(_) | Verified::Introspects(_) => panic!("asked twice"),
    }
}

fn token_of(signer: &Signer, issuer: &Issuer) -> String {
    signer.sign(&claims_with("iss", Some(json!(issuer.identifier()))))
}

#[tokio::test]
async fn a_check_before_the_first_keys_waits_and_is_then_decided() {
    let (site, signer) = (Site::default(), Signer::es256("k1"));
    site.put("/keys", jwks(&[&signer]));
    let uri = format!("http://{}/keys", site.serve().await);
    let issuer = pool().reconcile(&[at_uri(&uri)]).unwrap().remove(0);
    assert_eq!(check(&issuer, &token_of(&signer, &issuer)).await, Ok(()));
    assert_eq!(site.asked(), ["/keys"]);
}

#[tokio::test]
async fn a_rotated_key_is_had_by_one_fetch_and_made_up_names_cause_no_more() {
    let (site, old, new) = (Site::default(), Signer::es256("old"), Signer::es256("new"));
    site.put("/keys", jwks(&[&old]));
    let uri = format!("http://{}/keys", site.serve().await);
    let issuer = pool().reconcile(&[at_uri(&uri)]).unwrap().remove(0);
    assert_eq!(check(&issuer, &token_of(&old, &issuer)).await, Ok(()));
    site.put("/keys", jwks(&[&old, &new]));
    assert_eq!(check(&issuer, &token_of(&new, &issuer)).await, Ok(()));
    assert_eq!(check(&issuer, &token_of(&old, &issuer)).await, Ok(()));
    assert_eq!(site.asked().len(), 2);
    let stranger = Signer::es256("stranger");
    for _ in 0..100 {
        let refused = check(&issuer, &token_of(&stranger, &issuer)).await;
        assert_eq!(refused, Err(Reason::TokenKeyUnknown));
    }
    assert_eq!(site.asked().len(), 2);
}

#[tokio::test]
async fn a_rotated_key_is_had_for_tokens_that_name_none() {
    let (site, old, new) = (Site::default(), Signer::es256("old"), Signer::es256("new"));
    site.put("/keys", jwks(&[&old]));
    let uri = format!("http://{}/keys", site.serve().await);
    let issuer = pool().reconcile(&[at_uri(&uri)]).unwrap().remove(0);
    let unnamed = |signer: &Signer| {
        let mut header = signer.header();
        header.as_object_mut().unwrap().remove("kid");
        signer.sign_with(&header, &claims_with("iss", Some(json!(issuer.identifier()))))
    };
    assert_eq!(check(&issuer, &unnamed(&old)).await, Ok(()));
    site.put("/keys", jwks(&[&new]));
    assert_eq!(check(&issuer, &unnamed(&new)).await, Ok(()));
    assert_eq!(check(&issuer, &unnamed(&old)).await, Err(Reason::TokenSignature));
    assert_eq!(site.asked().len(), 2, "a bad signature asks no more often than an unknown name");
}

#[tokio::test]
async fn an_issuer_without_keys_denies_with_its_own_reason_and_says_why_in_the_status() {
    let (site, signer) = (Site::default(), Signer::es256("k1"));
    site.put("/keys", "<html>");
    let uri = format!("http://{}/keys", site.serve().await);
    let pool = pool();
    let issuer = pool.reconcile(&[at_uri(&uri)]).unwrap().remove(0);
    let token = token_of(&signer, &issuer);
    assert_eq!(check(&issuer, &token).await, Err(Reason::IssuerKeysUnavailable));
    let status = pool.status().remove(0);
    assert_eq!((&*status.name, status.keys, status.age), ("corp", 0, None));
    let told = status.last_error.unwrap();
    assert_eq!(told, "the key set is not a JSON object with an array `keys`");

    site.put("/keys", jwks(&[&signer]));
    assert_eq!(check(&issuer, &token).await, Ok(()), "a check may ask once more");
    let status = pool.status().remove(0);
    assert_eq!((status.keys, status.age), (1, Some(Duration::ZERO)));
    assert_eq!(status.last_error, None);
}

#[tokio::test]
async fn keys_that_are_too_old_do_not_count_as_usable() {
    let (site, signer) = (Site::default(), Signer::es256("k1"));
    site.put("/keys", jwks(&[&signer]));
    let uri = format!("http://{}/keys", site.serve().await);
    let clock = Arc::new(ManualClock::at(NOW.as_secs()));
    let shared: SharedClock = Arc::<ManualClock>::clone(&clock);
    let pool =
        IssuerPool::new(&OutboundSettings::default(), None, shared, Handle::current()).unwrap();
    let issuer = pool.reconcile(&[at_uri(&uri)]).unwrap().remove(0);
    assert_eq!(check(&issuer, &token_of(&signer, &issuer)).await, Ok(()));
    assert_eq!(pool.status()[0].keys, 1);
    let age = issuer.document.max_key_age.saturating_add(Duration::from_secs(1));
    clock.advance(age);
    assert_eq!((pool.status()[0].keys, pool.status()[0].age), (0, Some(age)));
}

#[tokio::test]
async fn keys_are_discovered_in_the_issuers_metadata() {
    let (site, signer) = (Site::default(), Signer::es256("k1"));
    let base = format!("http://{}", site.serve().await);
    let metadata =
        |issuer: &str| json!({"issuer": issuer, "jwks_uri": format!("{base}/keys")}).to_string();
    site.put("/keys", jwks(&[&signer]));
    site.put("/openid/.well-known/openid-configuration", metadata(&format!("{base}/openid")));
    site.put("/.well-known/oauth-authorization-server/oauth", metadata(&format!("{base}/oauth")));
    site.put("/other/.well-known/openid-configuration", metadata(&base));
    let discovered = |path: &str| IssuerDocument {
        issuer: text(&format!("{base}{path}")),
        keys: KeySource::Discovery,
        ..document()
    };
    for path in ["/openid", "/oauth"] {
        let issuer = pool().reconcile(&[discovered(path)]).unwrap().remove(0);
        assert_eq!(check(&issuer, &token_of(&signer, &issuer)).await, Ok(()), "{path}");
    }
    let pool = pool();
    let issuer = pool.reconcile(&[discovered("/other")]).unwrap().remove(0);
    let refused = check(&issuer, &token_of(&signer, &issuer)).await;
    assert_eq!(refused, Err(Reason::IssuerKeysUnavailable));
    let told = pool.status().remove(0).last_error.unwrap();
    assert_eq!(told, "the issuer's metadata names another issuer");
}

#[tokio::test]
async fn metadata_cannot_send_us_to_a_host_that_is_not_listed() {
    let (site, signer) = (Site::default(), Signer::es256("k1"));
    let base = format!("http://{}", site.serve().await);
    let metadata = json!({"issuer": base, "jwks_uri": "https://evil.example/keys"}).to_string();
    site.put("/.well-known/openid-configuration", metadata);
    let document = IssuerDocument { issuer: text(&base), keys: KeySource::Discovery, ..document() };
    let pool = pool();
    let issuer = pool.reconcile(&[document]).unwrap().remove(0);
    let refused = check(&issuer, &token_of(&signer, &issuer)).await;
    assert_eq!(refused, Err(Reason::IssuerKeysUnavailable));
    let told = pool.status().remove(0).last_error.unwrap();
    assert!(told.contains("`evil.example`") && told.contains("`outbound.hosts`"), "{told}");
}

#[tokio::test]
async fn an_unchanged_document_keeps_its_issuer_and_a_changed_one_does_not() {
    let signer = Signer::es256("k1");
    let pool = pool();
    let mut moved = from_file(&jwks(&[&signer]));
    let first = pool.reconcile(std::slice::from_ref(&moved)).unwrap().remove(0);
    moved.name.at.line = 17;
    moved.issuer.at.file = "elsewhere.yaml".into();
    let same = pool.reconcile(std::slice::from_ref(&moved)).unwrap().remove(0);
    assert!(Arc::ptr_eq(&first, &same));
    let changes: [fn(&mut IssuerDocument); 7] = [
        |document| document.leeway = Duration::from_secs(1),
        |document| document.types.push("jwt".to_owned()),
        |document| document.audiences.push(text("https://more.example")),
        |document| document.require_claims.push(("tenant".to_owned(), json!(1))),
        |document| document.keys = from_file(&jwks(&[&Signer::es256("k2")])).keys,
        |document| document.scope_claims = vec![ScopeClaim::Scp],
        |document| document.scope_grammar = ScopeGrammar::SmartOnFhir,
    ];
    for change in changes {
        let mut document = moved.clone();
        change(&mut document);
        let other = pool.reconcile(&[document]).unwrap().remove(0);
        assert!(!Arc::ptr_eq(&first, &other));
        assert_ne!(first.key_version(NOW), other.key_version(NOW));
        pool.reconcile(std::slice::from_ref(&moved)).unwrap();
    }
    pool.reconcile(&[]).unwrap();
    assert_eq!(pool.status(), []);
}

#[tokio::test]
async fn every_mistake_is_reported_at_once_and_changes_nothing() {
    let pool = pool();
    let good = from_file(&jwks(&[&Signer::es256("k1")]));
    pool.reconcile(std::slice::from_ref(&good)).unwrap();
    let mut discovered = IssuerDocument { keys: KeySource::Discovery, ..document() };
    discovered.issuer.at.line = 3;
    let metadata_service = at_uri("http://169.254.169.254/keys");
    let documents = [good, from_file("{\"keys\":[]}"), discovered, metadata_service];
    let mistakes = pool.reconcile(&documents).unwrap_err();
    let messages: Vec<_> = mistakes.iter().map(|mistake| mistake.message.as_str()).collect();
    assert_eq!(
        messages,
        [
            "the key set has no key that can be used",
            "host `login.example` may not be contacted: the process setting `outbound.hosts` does not \
             list it",
            "`169.254.169.254` is a link-local, unspecified or multicast address, which is never \
             contacted",
        ]
    );
    assert_eq!(mistakes[1].at.line, 3);
    assert_eq!(pool.status().len(), 1);
}

#[tokio::test]
async fn an_empty_bundle_takes_the_keys_away_and_a_malformed_one_does_not() {
    let (site, signer) = (Site::default(), Signer::es256("k1"));
    let put = |keys: &[Value]| site.put("/bundle", json!({"keys": keys}).to_string());
    let mut key = signer.jwk();
    key["use"] = json!("jwt-svid");
    put(&[key]);
    let document = IssuerDocument {
        issuer: text("spiffe://prod.example"),
        profile: Profile::JwtSvid,
        types: vec!["absent".to_owned()],
        ..at_uri(&format!("http://{}/bundle", site.serve().await))
    };
    let folder = tempfile::tempdir().unwrap();
    let start = || {
        let pool = process(folder.path(), 0);
        let issuer = pool.reconcile(std::slice::from_ref(&document)).unwrap().remove(0);
        (pool, issuer)
    };
    let token = {
        let header = json!({"alg": "ES256", "kid": "k1"});
        let mut claims = claims_with("sub", Some(json!("spiffe://prod.example/ns/shop/sa/web")));
        claims.as_object_mut().unwrap().remove("iss");
        signer.sign_with(&header, &claims)
    };
    let (_pool, issuer) = start();
    assert_eq!(check(&issuer, &token).await, Ok(()));
    until(|| folder.path().join("corp.keys.json").exists()).await;
    site.put("/bundle", "<html>");
    let (pool, issuer) = start();
    until(|| pool.status()[0].last_error.is_some()).await;
    assert_eq!(check(&issuer, &token).await, Ok(()));
    put(&[]);
    let (pool, issuer) = start();
    until(|| !pool.status()[0].restored).await;
    assert_eq!((pool.status()[0].keys, pool.status()[0].last_error.clone()), (0, None));
    assert_eq!(check(&issuer, &token).await, Err(Reason::TokenKeyUnknown));
}

/// A process that keeps its keys in `folder`, at `seconds` after [`NOW`].
fn process(folder: &std::path::Path, seconds: u64) -> IssuerPool {
    let clock = Arc::new(ManualClock::at(NOW.as_secs().saturating_add(seconds)));
    let state = Some(folder.to_owned());
    IssuerPool::new(&OutboundSettings::default(), state, clock, Handle::current()).unwrap()
}

/// Waits until `seen` says that something is there.
async fn until(mut seen: impl FnMut() -> bool) {
    for _ in 0..500 {
        if seen() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("in vain");
}

#[tokio::test]
async fn keys_outlive_a_restart_while_the_issuer_is_down_up_to_their_age() {
    let (site, signer) = (Site::default(), Signer::es256("k1"));
    site.put("/keys", jwks(&[&signer]));
    let document = at_uri(&format!("http://{}/keys", site.serve().await));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("corp.keys.json");
    let pool = process(folder.path(), 0);
    let issuer = pool.reconcile(std::slice::from_ref(&document)).unwrap().remove(0);
    let token = token_of(&signer, &issuer);
    assert_eq!(check(&issuer, &token).await, Ok(()));
    assert!(!pool.status()[0].restored);
    until(|| file.exists()).await;

    site.put("/keys", "<html>");
    let max_age = document.max_key_age.as_secs();
    for (after, usable) in [(10, 1), (max_age, 1), (max_age + 1, 0)] {
        let pool = process(folder.path(), after);
        let issuer = pool.reconcile(std::slice::from_ref(&document)).unwrap().remove(0);
        let status = pool.status().remove(0);
        let later = Duration::from_secs(after);
        let age = Some(later);
        assert_eq!((status.keys, status.age, status.restored), (usable, age, true));
        // The look at the source that failed did not make them younger, and left the file.
        until(|| pool.status()[0].last_error.is_some()).await;
        assert_eq!(pool.status()[0].age, age);
        assert_eq!(issuer.keys(NOW.saturating_add(later)).is_some(), usable == 1);
    }

    let other = Signer::es256("k2");
    site.put("/keys", jwks(&[&other]));
    let pool = process(folder.path(), 20);
    let issuer = pool.reconcile(std::slice::from_ref(&document)).unwrap().remove(0);
    assert_eq!(check(&issuer, &token_of(&other, &issuer)).await, Ok(()));
    assert!(!pool.status()[0].restored);
    assert_eq!(check(&issuer, &token).await, Err(Reason::TokenKeyUnknown));
}

#[tokio::test]
async fn a_state_that_cannot_be_written_or_read_is_named_and_changes_nothing_else() {
    let (site, signer) = (Site::default(), Signer::es256("k1"));
    site.put("/keys", jwks(&[&signer]));
    let document = at_uri(&format!("http://{}/keys", site.serve().await));
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("corp.keys.json")).unwrap();
    let pool = process(folder.path(), 0);
    let issuer = pool.reconcile(&[document]).unwrap().remove(0);
    assert_eq!(check(&issuer, &token_of(&signer, &issuer)).await, Ok(()));
    until(|| pool.status()[0].save_error.is_some()).await;
    assert_eq!(pool.status()[0].keys, 1);
}

#[tokio::test]
async fn the_status_names_keys_that_are_skipped() {
    let signer = Signer::es256("k1");
    let symmetric = json!({"kty": "oct", "k": "AA", "kid": "s"});
    let content = json!({"keys": [signer.jwk(), symmetric]}).to_string();
    let pool = pool();
    pool.reconcile(&[from_file(&content)]).unwrap();
    let status = pool.status().remove(0);
    assert_eq!((status.keys, status.age, status.last_error), (1, None, None));
    assert_eq!(status.skipped[0].to_string(), "key \"s\": the key is symmetric");
}
