//! The stages of a check, each as something that can be run again and again.

use std::{hint::black_box, path::Path};

use anyhow::Context as _;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use envoy_types::pb::envoy::service::auth::v3::CheckRequest;
use prost::Message as _;
use symbolon::transport::wire;

use crate::corpus::Corpus;

/// Rules in the policy set.
const RULES: usize = 100;

/// Checks in turn: few enough to stay in the processor's caches, where a server finds what it has
/// just received. How the program's own caches do with many is the load bench's question.
const MESSAGES: usize = 64;

/// A stage: each run takes the next check of the corpus.
pub(crate) struct Stage {
    /// What it is called in reports.
    pub(crate) name: &'static str,
    /// Runs it once.
    pub(crate) run: Box<dyn FnMut()>,
}

impl Stage {
    /// Makes a stage of a function of a check; the checks come one after the other, around.
    fn of(name: &'static str, messages: &[Bytes], mut each: impl FnMut(&Bytes) + 'static) -> Self {
        let messages = messages.to_vec();
        let mut next = 0_usize;
        let run = move || {
            if let Some(message) = messages.get(next) {
                each(message);
            }
            next = next.wrapping_add(1).checked_rem(messages.len()).unwrap_or(0);
        };
        Self { name, run: Box::new(run) }
    }
}

/// Returns the stages, in the order a check passes them.
///
/// # Errors
/// When the corpus cannot be written to `directory`.
pub(crate) fn stages(directory: &Path) -> anyhow::Result<Vec<Stage>> {
    let corpus = Corpus::create(directory, RULES)?;
    let messages: Vec<Bytes> = corpus
        .checks
        .iter()
        .take(MESSAGES)
        .map(|frame| frame.slice(FRAME_HEAD.min(frame.len())..))
        .collect();
    Ok(vec![
        Stage::of("decode: envoy-types", &messages, |message| {
            black_box(CheckRequest::decode(message.clone()).is_ok());
        }),
        Stage::of("decode: lean", &messages, |message| {
            black_box(wire::CheckRequest::decode(message).is_ok());
        }),
        bare_signature(directory, &messages)?,
    ])
}

/// gRPC's five bytes before a message.
const FRAME_HEAD: usize = 5;

/// What the verification of one ES256 signature costs by itself (RFC 7518 §3.4): what no cold check
/// can be below.
fn bare_signature(directory: &Path, messages: &[Bytes]) -> anyhow::Result<Stage> {
    let jwks: serde_json::Value =
        serde_json::from_slice(&std::fs::read(directory.join("corp.jwks.json"))?)?;
    let coordinate = |name: &str| {
        let text = jwks.pointer(&format!("/keys/0/{name}")).and_then(serde_json::Value::as_str);
        Ok::<_, anyhow::Error>(URL_SAFE_NO_PAD.decode(text.context("a coordinate")?)?)
    };
    // An uncompressed point (SEC 1 §2.3.3).
    let point = [vec![4], coordinate("x")?, coordinate("y")?].concat();
    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point);
    let first = messages.first().context("a check")?;
    let check = CheckRequest::decode(first.clone())?;
    let http = check.attributes.and_then(|attributes| attributes.request?.http);
    let mut headers = http.context("an HTTP check")?.headers;
    let authorization = headers.remove("authorization").context("a credential")?;
    let token = authorization.strip_prefix("Bearer ").context("a bearer credential")?;
    let (signed, signature) = token.rsplit_once('.').context("a compact JWS")?;
    let (signed, signature) = (signed.to_owned(), URL_SAFE_NO_PAD.decode(signature)?);
    key.verify(signed.as_bytes(), &signature).context("the corpus has good signatures")?;
    Ok(Stage::of("token: bare ES256 verification", messages, move |_| {
        black_box(key.verify(signed.as_bytes(), &signature).is_ok());
    }))
}
