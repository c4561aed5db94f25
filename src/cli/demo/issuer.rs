//! The demo's token issuer: an ES256 key, its JWKS, and the tokens of the rows, honest and forged.

use std::time::Duration;

use anyhow::{Context as _, Result};
use aws_lc_rs::{
    hmac,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{clock::UnixTime, identity::Thumbprint};

/// Signs tokens. Its keys live as long as the run.
#[derive(Debug)]
pub struct TokenIssuer {
    key: EcdsaKeyPair,
    unpublished: EcdsaKeyPair,
}

/// A token to be minted; what is left out is as an honest, unbound token for payments has it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TokenSpec {
    /// The workload whose certificate it is bound to.
    pub bound_to: Option<String>,
    #[serde(default = "default_scope")]
    scope: String,
    #[serde(default = "default_audience")]
    audience: String,
    #[serde(default = "default_issuer")]
    issuer: String,
    #[serde(default = "default_issued_ago")]
    issued_ago: u64,
    #[serde(default = "default_expires_in")]
    expires_in: i64,
    not_before_in: Option<i64>,
    #[serde(default)]
    signed: Signed,
}

/// How a token is signed.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Signed {
    /// ES256, with the published key.
    #[default]
    Honestly,
    /// ES256 with a key that is not published, under a name of its own.
    UnknownKey,
    /// ES256 with a key that is not published, under the published key's name.
    WrongKey,
    /// `alg: none` and no signature.
    None,
    /// HS256, with the published public key as the secret (RFC 8725 §2.1).
    Hs256WithPublicKey,
}

impl TokenIssuer {
    /// Creates an issuer with fresh keys.
    ///
    /// # Errors
    /// Where the cryptographic library fails.
    pub fn new() -> Result<Self> {
        let generate = || EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING);
        Ok(Self {
            key: generate().context("cannot make a key")?,
            unpublished: generate().context("cannot make a key")?,
        })
    }

    /// Returns the key set (RFC 7517 §5) with the public key.
    ///
    /// # Errors
    /// Where the public key is no uncompressed P-256 point.
    pub fn jwks(&self) -> Result<Value> {
        // SEC 1 §2.3.3: 0x04, x, y.
        let (x, y) = self
            .key
            .public_key()
            .as_ref()
            .strip_prefix(&[4])
            .and_then(|point| point.split_at_checked(32))
            .context("not an uncompressed point")?;
        Ok(json!({"keys": [{
            "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": KEY_ID,
            "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
        }]}))
    }

    /// Mints a token as `spec` says, bound to `thumbprint` where there is one.
    ///
    /// # Errors
    /// Where the cryptographic library fails.
    pub fn mint(
        &self,
        spec: &TokenSpec,
        thumbprint: Option<Thumbprint>,
        now: UnixTime,
    ) -> Result<String> {
        let at = |offset: i64| now.as_secs().saturating_add_signed(offset);
        let client = spec.bound_to.as_deref().unwrap_or("batch");
        let mut claims = json!({
            "iss": spec.issuer, "aud": spec.audience, "sub": client, "client_id": client,
            "scope": spec.scope, "jti": format!("{:016x}", rand::random::<u64>()),
            "iat": now.saturating_sub(Duration::from_secs(spec.issued_ago)).as_secs(),
            "exp": at(spec.expires_in),
        });
        let Value::Object(members) = &mut claims else { anyhow::bail!("claims are an object") };
        if let Some(offset) = spec.not_before_in {
            members.insert("nbf".to_owned(), json!(at(offset)));
        }
        if let Some(thumbprint) = thumbprint {
            members.insert("cnf".to_owned(), json!({"x5t#S256": thumbprint.to_base64url()}));
        }
        let (algorithm, key_id) = match spec.signed {
            Signed::Honestly | Signed::WrongKey => ("ES256", KEY_ID),
            Signed::UnknownKey => ("ES256", "unpublished"),
            Signed::None => ("none", KEY_ID),
            Signed::Hs256WithPublicKey => ("HS256", KEY_ID),
        };
        let header = json!({"alg": algorithm, "kid": key_id, "typ": "at+jwt"});
        let input = format!("{}.{}", encode(&header), encode(&claims));
        let signature = self.sign(spec.signed, input.as_bytes())?;
        Ok(format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    fn sign(&self, signed: Signed, input: &[u8]) -> Result<Vec<u8>> {
        let key = match signed {
            Signed::None => return Ok(Vec::new()),
            Signed::Hs256WithPublicKey => {
                let key = hmac::Key::new(hmac::HMAC_SHA256, self.public_pem()?.as_bytes());
                return Ok(hmac::sign(&key, input).as_ref().to_vec());
            }
            Signed::Honestly => &self.key,
            Signed::UnknownKey | Signed::WrongKey => &self.unpublished,
        };
        let signature = key.sign(&SystemRandom::new(), input).context("cannot sign")?;
        Ok(signature.as_ref().to_vec())
    }

    /// What an attacker has: the public key as every tool prints it.
    fn public_pem(&self) -> Result<String> {
        use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
        let der: PublicKeyX509Der<'_> =
            self.key.public_key().as_der().context("cannot encode the public key")?;
        let text = STANDARD.encode(der.as_ref());
        let mut pem = "-----BEGIN PUBLIC KEY-----\n".to_owned();
        let mut rest = text.as_str();
        while let Some((line, more)) = rest.split_at_checked(64) {
            pem.push_str(line);
            pem.push('\n');
            rest = more;
        }
        pem.push_str(rest);
        pem.push_str("\n-----END PUBLIC KEY-----\n");
        Ok(pem)
    }
}

impl Default for TokenSpec {
    fn default() -> Self {
        Self {
            bound_to: None,
            scope: default_scope(),
            audience: default_audience(),
            issuer: default_issuer(),
            issued_ago: default_issued_ago(),
            expires_in: default_expires_in(),
            not_before_in: None,
            signed: Signed::Honestly,
        }
    }
}

fn encode(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

fn default_scope() -> String {
    "payments:read".to_owned()
}

fn default_audience() -> String {
    "https://payments.demo.example".to_owned()
}

fn default_issuer() -> String {
    "https://login.demo.example/".to_owned()
}

const fn default_issued_ago() -> u64 {
    60
}

const fn default_expires_in() -> i64 {
    300
}

const KEY_ID: &str = "demo-1";
