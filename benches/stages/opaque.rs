//! A token that its issuer was asked about before (RFC 7662).

use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    path::Path,
    sync::Arc,
};

use anyhow::{Context as _, anyhow, bail};
use envoy_types::pb::envoy::{config::core::v3::HeaderValue, service::auth::v3::CheckRequest};
use prost::Message as _;
use symbolon::{
    config::OutboundSettings,
    credential::{Proof, Verified, Verifier, Waited, cache::TokenCache},
    evidence::Evidence,
    policy::{Needs, load::load},
    snapshot::source::SourceTree,
    trust::{IssuerPool, Trust},
};

use super::{
    Stage,
    world::{World, proofs},
};

const NEEDS: Needs<'_> = Needs { token: true, opaque: Some("asked") };

/// Has the issuer asked once, and makes a stage of what comes after.
///
/// # Errors
/// When the issuer cannot be started or asked.
pub(super) fn stage(directory: &Path, world: &World) -> anyhow::Result<Stage> {
    fs::create_dir_all(directory.join("asked"))?;
    fs::write(directory.join("asked/client-secret"), "secret")?;
    let runtime = Box::leak(Box::new(tokio::runtime::Runtime::new()?));
    let _inside = runtime.enter();
    let documents = format!(
        "apiVersion: symbolon/v1\nkind: Issuer\nmetadata: {{name: asked}}\nspec:\n  \
         issuer: https://asked.example/\n  audiences: [\"https://service.example\"]\n  \
         introspection: {{uri: \"http://{}/\", clientId: symbolon, \
         authentication: client_secret_basic, cacheFor: 1h}}\n",
        answering()?
    );
    let files = BTreeMap::from([(Arc::from("issuer.yaml"), documents.into_bytes())]);
    let loaded = load(&SourceTree { files, ..SourceTree::default() }, &[])
        .map_err(|mistakes| anyhow!("{mistakes:?}"))?;
    let credentials_dir = Some(directory.to_owned());
    let outbound = OutboundSettings { credentials_dir, ..OutboundSettings::default() };
    let clock = Arc::clone(&world.clock);
    let pool = IssuerPool::new(&outbound, None, clock, runtime.handle().clone())?;
    let issuers =
        pool.reconcile(&loaded.documents.issuers).map_err(|mistakes| anyhow!("{mistakes:?}"))?;
    let trust = Trust { issuers: issuers.into(), ..Trust::default() };
    let (tokens, proofs) = (TokenCache::new(10), proofs()?);

    let evidence = presenting(world, "an-opaque-token")?;
    let verify = move |now, waited: Waited<'_>| {
        let verifier = Verifier { trust: &trust, tokens: &tokens, proofs: &proofs, now };
        let callers = verifier.callers(evidence, false, waited).ok();
        callers.map(|callers| verifier.verify(evidence, callers, NEEDS, waited))
    };
    let Some(Verified::Introspects(asked)) = verify(world.now(), Waited::default()) else {
        bail!("the issuer is not asked");
    };
    let told = runtime.block_on(asked.0);
    let waited = Waited { introspected: Some(&told), ..Waited::default() };
    match verify(world.now(), waited) {
        Some(Verified::Settled(principal)) if matches!(principal.token, Proof::Proven(_)) => {}
        other => bail!("not verified: {other:?}"),
    }
    let clock = Arc::clone(&world.clock);
    Ok(Stage::of("token: opaque, told before", world, move |_| {
        std::hint::black_box(verify(clock.now(), Waited::default()));
    }))
}

/// The first check with this token in place of its own.
fn presenting(world: &World, token: &str) -> anyhow::Result<&'static Evidence<'static>> {
    let first = world.asked.first().context("a check")?;
    let mut check = CheckRequest::decode(first.message.clone())?;
    let http = check.attributes.as_mut().and_then(|all| all.request.as_mut()?.http.as_mut());
    let http = http.context("an HTTP request")?;
    let value = format!("Bearer {token}");
    http.headers.retain(|name, _| name != "authorization");
    match &mut http.header_map {
        Some(map) => {
            map.headers.retain(|header| header.key != "authorization");
            let raw_value = value.into_bytes();
            let key = "authorization".to_owned();
            map.headers.push(HeaderValue { key, raw_value, ..HeaderValue::default() });
        }
        None => {
            http.headers.insert("authorization".to_owned(), value);
        }
    }
    let bytes: &'static [u8] = check.encode_to_vec().leak();
    let request = Box::leak(Box::new(symbolon::transport::wire::CheckRequest::decode(bytes)?));
    let evidence = Evidence::read(request, world.sources(), None, &world.caches.certificates)?;
    Ok(Box::leak(Box::new(evidence)))
}

/// Starts an issuer that says of every token that it is active.
fn answering() -> anyhow::Result<SocketAddr> {
    const BODY: &str = r#"{"active":true,"aud":"https://service.example","sub":"alice"}"#;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let (mut seen, mut chunk) = (Vec::new(), [0; 4096]);
            while !String::from_utf8_lossy(&seen).contains("token=") {
                match stream.read(&mut chunk) {
                    Ok(0) | Err(_) => break,
                    Ok(read) => seen.extend_from_slice(chunk.get(..read).unwrap_or_default()),
                }
            }
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", BODY.len());
            let answered = stream.write_all([head.as_bytes(), BODY.as_bytes()].concat().as_slice());
            answered.unwrap_or_default();
        }
    });
    Ok(address)
}
