//! Keys, tokens and certificates, honest and forged.

use std::{
    collections::BTreeMap,
    fs,
    sync::atomic::{AtomicU64, Ordering},
};

use aws_lc_rs::{
    encoding::AsDer as _,
    hmac,
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair,
        Ed25519KeyPair, KeyPair as _,
    },
};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyPair, KeyUsagePurpose,
    SanType,
};
use serde::Deserialize;
use serde_json::{Value, json};
use symbolon::identity::Thumbprint;
use time::OffsetDateTime;

use crate::data::{Mangled, Proof, Signed, Token, folder};

/// The tests' now.
pub(crate) const NOW: u64 = 1_800_000_000;

/// A certificate.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) uri: Option<String>,
    pub(crate) dns: Vec<String>,
    pub(crate) der: Vec<u8>,
    pub(crate) pem: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IdentitySpec {
    #[serde(default)]
    uris: Vec<String>,
    #[serde(default)]
    dns: Vec<String>,
    #[serde(default)]
    ca: bool,
    #[serde(default = "around_now")]
    valid: [i64; 2],
}

const fn around_now() -> [i64; 2] {
    [-3600, 3600]
}

/// Makes everything that is signed.
pub(crate) struct Mint {
    ec: EcdsaKeyPair,
    ec_der: EcdsaKeyPair,
    ed: Ed25519KeyPair,
    unpublished: EcdsaKeyPair,
    /// The key of the client that makes proofs, and one that is not its.
    client: Ed25519KeyPair,
    stranger: Ed25519KeyPair,
    proofs: AtomicU64,
    pub(crate) identities: BTreeMap<String, Identity>,
}

impl Mint {
    pub(crate) fn new() -> Self {
        let pkcs8 =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
                .unwrap();
        let ec = |kind| EcdsaKeyPair::from_pkcs8(kind, pkcs8.as_ref()).unwrap();
        let text = fs::read_to_string(folder().join("world/identities.yaml")).unwrap();
        let specs: BTreeMap<String, IdentitySpec> = serde_yaml::from_str(&text).unwrap();
        Self {
            ec: ec(&ECDSA_P256_SHA256_FIXED_SIGNING),
            ec_der: ec(&ECDSA_P256_SHA256_ASN1_SIGNING),
            ed: Ed25519KeyPair::generate().unwrap(),
            unpublished: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap(),
            client: Ed25519KeyPair::generate().unwrap(),
            stranger: Ed25519KeyPair::generate().unwrap(),
            proofs: AtomicU64::new(0),
            identities: specs.into_iter().map(|(name, spec)| (name, certify(&spec))).collect(),
        }
    }

    fn ec_jwk(&self) -> Value {
        let (x, y) = self.ec.public_key().as_ref()[1..].split_at(32);
        json!({
            "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": "ec",
            "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
        })
    }

    /// The key set that the issuers publish.
    pub(crate) fn jwks(&self) -> String {
        let ed = URL_SAFE_NO_PAD.encode(self.ed.public_key().as_ref());
        let ed = json!({"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "kid": "ed", "x": ed});
        json!({"keys": [self.ec_jwk(), ed]}).to_string()
    }

    /// The bundle of the trust domain: the same keys for JWT-SVIDs, and others that are not for them.
    pub(crate) fn bundle(&self) -> String {
        let with = |usage: Option<&str>, kid: Option<&str>| {
            let mut jwk = self.ec_jwk();
            jwk["use"] = json!(usage);
            jwk["kid"] = json!(kid);
            jwk.as_object_mut().unwrap().retain(|_, value| !value.is_null());
            jwk
        };
        let ed = URL_SAFE_NO_PAD.encode(self.ed.public_key().as_ref());
        let ed = json!({"kty": "OKP", "crv": "Ed25519", "use": "jwt-svid", "kid": "ed", "x": ed});
        let keys = [
            with(Some("x509-svid"), Some("x509")),
            with(Some("jwt-svid"), Some("ec")),
            with(None, Some("any")),
            with(Some("jwt-svid"), None),
            with(Some("wit-svid"), Some("wit")),
            ed,
        ];
        json!({"spiffe_sequence": 7, "spiffe_refresh_hint": 300, "keys": keys}).to_string()
    }

    pub(crate) fn token(&self, spec: &Token) -> String {
        let (algorithm, key) = match spec.signed {
            Signed::HmacOfPem | Signed::HmacOfJwk => ("HS256", "ec"),
            Signed::Nothing => ("none", "ec"),
            Signed::Ed => ("EdDSA", "ed"),
            Signed::Ec | Signed::Unpublished | Signed::Zeros | Signed::Der => ("ES256", "ec"),
        };
        let header = json!({"alg": algorithm, "kid": key, "typ": "at+jwt"});
        let mut claims = json!({
            "iss": "https://login.example/", "aud": "https://payments.example",
            "sub": "alice", "client_id": "shop", "jti": "j-1", "scope": "payments:read",
            "iat": NOW - 60, "exp": NOW + 300,
        });
        if let Some(name) = &spec.bound {
            let thumbprint = Thumbprint::of(&self.identities[name].der).to_base64url();
            claims["cnf"] = json!({"x5t#S256": thumbprint});
        }
        if spec.keyed {
            // RFC 8037 §2 has the members of the thumbprint (RFC 7638).
            let x = URL_SAFE_NO_PAD.encode(self.client.public_key().as_ref());
            let jwk = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#);
            claims["cnf"] = json!({"jkt": Thumbprint::of(jwk.as_bytes()).to_base64url()});
        }
        if spec.filler > 0 {
            claims["filler"] = json!("f".repeat(spec.filler));
        }
        self.signed(spec, header, claims)
    }

    /// A workload identity token.
    pub(crate) fn wit(&self, spec: &Token) -> String {
        let algorithm = match spec.signed {
            Signed::HmacOfPem | Signed::HmacOfJwk => "HS256",
            Signed::Nothing => "none",
            Signed::Ed => "EdDSA",
            Signed::Ec | Signed::Unpublished | Signed::Zeros | Signed::Der => "ES256",
        };
        let x = URL_SAFE_NO_PAD.encode(self.client.public_key().as_ref());
        let jwk = json!({"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "x": x});
        let header = json!({"alg": algorithm, "kid": "wit", "typ": "wit+jwt"});
        let claims = json!({
            "sub": "spiffe://prod.example/ns/checkout/sa/web", "jti": "w-1",
            "iat": NOW - 60, "exp": NOW + 300, "cnf": {"jwk": jwk},
        });
        self.signed(spec, header, claims)
    }

    /// The proof of a workload identity token for `uri`, with an access token where there is one.
    pub(crate) fn wpt(&self, spec: &Proof, uri: &str, wit: &str, token: Option<&str>) -> String {
        let header = json!({"typ": "wpt+jwt", "alg": "EdDSA"});
        let mut claims = json!({
            "jti": format!("proof-{}", self.proofs.fetch_add(1, Ordering::Relaxed)),
            "aud": uri, "iat": NOW, "exp": NOW + 30,
            "wth": Thumbprint::of(wit.as_bytes()).to_base64url(),
        });
        if let Some(token) = token {
            claims["ath"] = json!(Thumbprint::of(token.as_bytes()).to_base64url());
        }
        let header = URL_SAFE_NO_PAD.encode(written(header, &spec.header, None));
        let claims = URL_SAFE_NO_PAD.encode(written(claims, &spec.claims, None));
        let input = format!("{header}.{claims}");
        let signer = if spec.forged { &self.stranger } else { &self.client };
        let signature = URL_SAFE_NO_PAD.encode(signer.sign(input.as_bytes()).as_ref());
        format!("{input}.{signature}")
    }

    fn signed(&self, spec: &Token, header: Value, claims: Value) -> String {
        let header = written(header, &spec.header, spec.extra_header.as_deref());
        let claims = self.fill(&written(claims, &spec.claims, spec.extra_claims.as_deref()));
        let header = URL_SAFE_NO_PAD.encode(spec.raw_header.as_ref().unwrap_or(&header));
        let claims = URL_SAFE_NO_PAD.encode(spec.raw_claims.as_ref().unwrap_or(&claims));
        let input = format!("{header}.{claims}");
        let signature = URL_SAFE_NO_PAD.encode(self.sign(spec.signed, input.as_bytes()));
        match spec.mangled {
            Some(how) => mangle(how, (&header, &claims, &signature)),
            None => format!("{input}.{signature}"),
        }
    }

    /// A proof for `method` and `uri` with `token`.
    pub(crate) fn proof(&self, spec: &Proof, method: &str, uri: &str, token: &str) -> String {
        let key = if spec.strange { &self.stranger } else { &self.client };
        let x = URL_SAFE_NO_PAD.encode(key.public_key().as_ref());
        let mut jwk = json!({"kty": "OKP", "crv": "Ed25519", "x": x});
        if spec.private {
            jwk["d"] = json!("AA");
        }
        let header = json!({"typ": "dpop+jwt", "alg": "EdDSA", "jwk": jwk});
        let claims = json!({
            "jti": format!("proof-{}", self.proofs.fetch_add(1, Ordering::Relaxed)),
            "htm": method, "htu": uri, "iat": NOW,
            "ath": Thumbprint::of(token.as_bytes()).to_base64url(),
        });
        let header = URL_SAFE_NO_PAD.encode(written(header, &spec.header, None));
        let claims = URL_SAFE_NO_PAD.encode(written(claims, &spec.claims, None));
        let input = format!("{header}.{claims}");
        let signer = if spec.forged { &self.stranger } else { key };
        let signature = URL_SAFE_NO_PAD.encode(signer.sign(input.as_bytes()).as_ref());
        format!("{input}.{signature}")
    }

    fn sign(&self, how: Signed, input: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        let hmac = |key: &[u8]| {
            hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), input).as_ref().to_vec()
        };
        match how {
            Signed::Ec => self.ec.sign(&random, input).unwrap().as_ref().to_vec(),
            Signed::Ed => self.ed.sign(input).as_ref().to_vec(),
            Signed::Unpublished => self.unpublished.sign(&random, input).unwrap().as_ref().to_vec(),
            Signed::Der => self.ec_der.sign(&random, input).unwrap().as_ref().to_vec(),
            Signed::HmacOfPem => hmac(self.public_pem().as_bytes()),
            Signed::HmacOfJwk => hmac(self.ec_jwk().to_string().as_bytes()),
            Signed::Nothing => Vec::new(),
            Signed::Zeros => vec![0; 64],
        }
    }

    fn public_pem(&self) -> String {
        let der: aws_lc_rs::encoding::PublicKeyX509Der<'_> = self.ec.public_key().as_der().unwrap();
        let text = STANDARD.encode(der.as_ref());
        let lines: Vec<_> =
            text.as_bytes().chunks(64).map(|line| str::from_utf8(line).unwrap()).collect();
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"))
    }

    /// Fills `{hash:NAME}`, `{pem:NAME}`, `{json:NAME}` and `{x5t:NAME}` in.
    pub(crate) fn fill(&self, text: &str) -> String {
        let mut filled = text.to_owned();
        for (name, identity) in &self.identities {
            let digest = Thumbprint::of(&identity.der);
            for (place, value) in [
                (format!("{{hash:{name}}}"), hex(&identity.der)),
                (format!("{{HASH:{name}}}"), hex(&identity.der).to_uppercase()),
                (format!("{{x5t:{name}}}"), digest.to_base64url()),
                (format!("{{pem:{name}}}"), percent(&identity.pem)),
                (format!("{{json:{name}}}"), identity.pem.replace('\n', "\\n")),
            ] {
                filled = filled.replace(&place, &value);
            }
        }
        filled
    }
}

/// SHA-256 in hex, as XFCC's `Hash`.
fn hex(der: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, der);
    digest.as_ref().iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// As Envoy writes a PEM in XFCC and in `source.certificate`.
pub(crate) fn percent(pem: &str) -> String {
    pem.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

fn certify(spec: &IdentitySpec) -> Identity {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "corpus");
    for uri in &spec.uris {
        params.subject_alt_names.push(SanType::URI(uri.as_str().try_into().unwrap()));
    }
    for name in &spec.dns {
        params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into().unwrap()));
    }
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.is_ca = IsCa::ExplicitNoCa;
    if spec.ca {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages.push(KeyUsagePurpose::KeyCertSign);
    }
    let at = |offset: i64| {
        let now = i64::try_from(NOW).unwrap();
        OffsetDateTime::from_unix_timestamp(now + offset).unwrap()
    };
    (params.not_before, params.not_after) = (at(spec.valid[0]), at(spec.valid[1]));
    let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
    Identity {
        uri: spec.uris.first().cloned(),
        dns: spec.dns.clone(),
        der: certificate.der().to_vec(),
        pem: certificate.pem().replace("\r\n", "\n"),
    }
}

fn written(base: Value, changes: &BTreeMap<String, Value>, extra: Option<&str>) -> String {
    let Value::Object(mut members) = base else { panic!("an object") };
    for (name, value) in changes {
        match value {
            Value::Null => {
                members.remove(name);
            }
            Value::String(text) if text.starts_with("now") => {
                members.insert(name.clone(), json!(time_of(text)));
            }
            Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Array(_)
            | Value::Object(_) => {
                members.insert(name.clone(), value.clone());
            }
        }
    }
    let text = Value::Object(members).to_string();
    match extra {
        Some(extra) => {
            let mut extra = extra.to_owned();
            while let Some((before, rest)) = extra.split_once("{now") {
                let (offset, after) = rest.split_once('}').unwrap();
                extra = format!("{before}{}{after}", time_of(&format!("now{offset}")));
            }
            format!("{},{extra}}}", text.strip_suffix('}').unwrap())
        }
        None => text,
    }
}

fn time_of(text: &str) -> u64 {
    let offset = text.strip_prefix("now").unwrap();
    let offset: i64 = if offset.is_empty() { 0 } else { offset.parse().unwrap() };
    NOW.checked_add_signed(offset).unwrap()
}

fn mangle(how: Mangled, (header, claims, signature): (&str, &str, &str)) -> String {
    match how {
        Mangled::TrailingBits => {
            // 64 bytes leave four bits of the last character unused: A becomes B, Q becomes R, …
            let (rest, last) = signature.split_at(signature.len() - 1);
            let next = char::from(last.as_bytes()[0] + 1);
            format!("{header}.{claims}.{rest}{next}")
        }
        Mangled::Padded => format!("{header}.{claims}.{signature}=="),
        Mangled::TwoParts => format!("{header}.{claims}"),
        Mangled::FourParts => format!("{header}.{claims}.{signature}.{signature}"),
        Mangled::FiveParts => format!("{header}.{claims}.{claims}.{claims}.{signature}"),
        Mangled::ClaimsChanged => {
            let text = URL_SAFE_NO_PAD.decode(claims).unwrap();
            let text = String::from_utf8(text).unwrap().replace("alice", "admin");
            format!("{header}.{}.{signature}", URL_SAFE_NO_PAD.encode(text))
        }
        Mangled::OtherAlphabet => {
            let (_, rest) = signature.split_at(1);
            format!("{header}.{claims}./{rest}")
        }
        Mangled::JsonSerialization => {
            let json = json!({"payload": claims, "protected": header, "signature": signature});
            json.to_string().replace(',', "")
        }
        Mangled::Swapped => format!("{claims}.{header}.{signature}"),
    }
}
