//! What is asked: a mesh of workloads with certificates and tokens, the policies that allow them,
//! and the checks Envoy would send, encoded once.

use std::{
    collections::HashMap,
    fmt::Write as _,
    fs,
    path::Path,
    time::{Duration, UNIX_EPOCH},
};

use anyhow::Context as _;
use aws_lc_rs::{
    digest,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::{BufMut as _, Bytes, BytesMut};
use envoy_types::pb::{
    envoy::{
        config::core::v3::{
            Address, Metadata, SocketAddress, address, socket_address::PortSpecifier,
        },
        service::auth::v3::{
            AttributeContext, CheckRequest,
            attribute_context::{HttpRequest, Peer, Request},
        },
    },
    google::protobuf::Timestamp,
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use prost::Message as _;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use symbolon::clock::{Clock as _, SystemClock};

/// Workloads that call, each with a certificate and a token of its own: more than the thousand
/// below which caches of fixed small sizes would flatter.
const CALLERS: usize = 1024;

/// Checks, each with a path of its own; every caller has several.
const CHECKS: usize = 4096;

/// Rules of one policy: eight that allow and two that deny.
const RULES_PER_POLICY: usize = 10;

/// How many of a policy's rules allow.
const ALLOWING: usize = 8;

/// Teams that own services; a team's services are one audience and are called from its namespace.
const TEAMS: usize = 16;

/// How long the tokens hold: longer than any run.
const LIFETIME: Duration = Duration::from_secs(4 * 3600);

/// Everything that is asked, and what must be answered.
pub(crate) struct Corpus {
    /// The checks as gRPC messages (RPC-over-HTTP/2 "Length-Prefixed-Message"); the first
    /// [`Corpus::callers`] of them have each caller once. All are allowed.
    pub(crate) checks: Vec<Bytes>,
    /// The SPIFFE ID that each check's upstream header must name.
    pub(crate) identities: Vec<String>,
    /// Checks that must be denied, and what is wrong with them.
    pub(crate) tampered: Vec<(&'static str, Bytes)>,
    callers: Vec<Caller>,
}

impl Corpus {
    /// Mints certificates and tokens, writes a policy directory with `rules` rules that take tokens
    /// bound by `binding` to `policies`, and encodes the checks it allows.
    ///
    /// # Errors
    /// When the directory cannot be written.
    pub(crate) fn create(policies: &Path, rules: usize, binding: &str) -> anyhow::Result<Self> {
        let services = rules.div_ceil(RULES_PER_POLICY).max(1);
        let mut random = StdRng::seed_from_u64(0x73_79_6d_62);
        let mint = Mint::new()?;
        write_policies(policies, services, rules, binding, &mint)?;
        let callers = (0..CALLERS)
            .map(|number| mint.caller(number, number % services, &mut random))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let mut corpus = Self {
            checks: Vec::new(),
            identities: Vec::new(),
            tampered: tampered(&callers, &mut random),
            callers,
        };
        for number in 0..CHECKS {
            let caller = corpus.caller(number);
            let allowing = ALLOWING.min(rules.saturating_sub(caller.service * RULES_PER_POLICY));
            let resource = random.random_range(0..allowing.max(1));
            let bearer = Credential::Bearer(&caller.token);
            let check = caller.check(resource, bearer, &caller.xfcc, &mut random);
            let identity = caller.spiffe.clone();
            corpus.checks.push(frame(&check));
            corpus.identities.push(identity);
        }
        Ok(corpus)
    }

    /// Returns the caller of a check.
    fn caller(&self, number: usize) -> &Caller {
        // A stride that is prime to the number of callers: neighbours never share one.
        &self.callers[(number * 389) % CALLERS]
    }

    /// Makes `count` checks from the `first` on, each with a DPoP proof (RFC 9449) that is new and made now.
    ///
    /// # Errors
    /// When a proof cannot be signed.
    pub(crate) fn proven(&self, first: usize, count: usize) -> anyhow::Result<Vec<Bytes>> {
        let mut random = StdRng::from_os_rng();
        let checks = (first..first + count).map(|number| {
            let caller = self.caller(number);
            let check = caller.check(0, Credential::Dpop(caller), &caller.xfcc, &mut random);
            Ok(frame(&check))
        });
        checks.collect()
    }

    /// Returns a DPoP key as a JWK, a message and its signature by that key.
    pub(crate) fn signed(&self) -> (serde_json::Value, String, Vec<u8>) {
        let caller = self.caller(0);
        let input = caller.proof_input("GET", "https://example/v1/resource-0", 0, "1");
        let signature = caller.sign(&input);
        (caller.jwk(), input, signature)
    }

    /// Returns how many callers there are.
    pub(crate) const fn callers() -> usize {
        CALLERS
    }
}

/// Makes checks that a stolen or changed credential would make.
fn tampered(callers: &[Caller], random: &mut StdRng) -> Vec<(&'static str, Bytes)> {
    let (caller, other) = (&callers[0], &callers[1]);
    let signed = caller.token.rsplit_once('.').unwrap_or_default().0;
    let signature = other.token.rsplit_once('.').unwrap_or_default().1;
    vec![
        (
            "a token with another's signature",
            frame(&caller.check(
                0,
                Credential::Bearer(&format!("{signed}.{signature}")),
                &caller.xfcc,
                random,
            )),
        ),
        (
            "a token bound to another certificate",
            frame(&caller.check(0, Credential::Bearer(&other.token), &caller.xfcc, random)),
        ),
        ("no token", frame(&caller.check(0, Credential::None, &caller.xfcc, random))),
    ]
}

/// The keys of the mesh: its certificate authority and its token issuer.
struct Mint {
    authority: CertifiedIssuer<'static, KeyPair>,
    token_key: KeyPair,
    signing: jsonwebtoken::EncodingKey,
    now: u64,
}

impl Mint {
    fn new() -> anyhow::Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.distinguished_name.push(DnType::CommonName, "prod.example");
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let token_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let signing = jsonwebtoken::EncodingKey::from_ec_der(token_key.serialized_der());
        let authority = CertifiedIssuer::self_signed(params, key)?;
        Ok(Self { authority, token_key, signing, now: SystemClock.now().as_secs() })
    }

    /// Returns the issuer's key set (RFC 7517).
    fn jwks(&self) -> anyhow::Result<String> {
        // An uncompressed point (SEC 1 §2.3.3): 4, x, y.
        let point = self.token_key.public_key_raw().get(1..).context("an uncompressed point")?;
        let (x, y) = point.split_at(point.len() / 2);
        Ok(serde_json::json!({"keys": [{
            "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": "bench",
            "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
        }]})
        .to_string())
    }

    /// Mints the certificate and the token of a workload that calls `service`.
    fn caller(&self, number: usize, service: usize, random: &mut StdRng) -> anyhow::Result<Caller> {
        let spiffe =
            format!("spiffe://prod.example/ns/team-{}/sa/caller-{number}", service % TEAMS);
        let mut params = CertificateParams::new(Vec::new())?;
        params.subject_alt_names.push(SanType::URI(spiffe.as_str().try_into()?));
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let now = UNIX_EPOCH + Duration::from_secs(self.now);
        params.not_before = (now - Duration::from_secs(60)).into();
        params.not_after = (now + LIFETIME).into();
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = params.signed_by(&key, &self.authority)?;
        let hash = digest::digest(&digest::SHA256, certificate.der());

        let mut header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::ES256);
        header.typ = Some("at+jwt".to_owned());
        header.kid = Some("bench".to_owned());
        let mut mint = |cnf: serde_json::Value| {
            let claims = serde_json::json!({
                "iss": "https://login.example/", "sub": format!("caller-{number}"),
                "client_id": format!("client-{number}"),
                "aud": [format!("https://team-{}.example", service % TEAMS)],
                "iat": self.now.saturating_sub(30), "exp": self.now + LIFETIME.as_secs(),
                "jti": uuid(random), "scope": "openid orders:read orders:write profile",
                "cnf": cnf,
            });
            jsonwebtoken::encode(&header, &claims, &self.signing)
        };
        let token = mint(serde_json::json!({"x5t#S256": URL_SAFE_NO_PAD.encode(hash)}))?;
        let proof_key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)?;
        // RFC 7638 §3.2.
        let Jwk { x, y } = Jwk::of(&proof_key);
        let jwk = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
        let jkt = URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, jwk.as_bytes()));
        let keyed = mint(serde_json::json!({"jkt": jkt}))?;

        let workload = workload(service);
        let pem = utf8_percent_encode(&certificate.pem(), XFCC_PEM).to_string();
        let hash = hash.as_ref().iter().fold(String::new(), |mut text, byte| {
            // Writing to a string cannot fail.
            let _ok = write!(text, "{byte:02x}");
            text
        });
        let xfcc = format!("By={workload};Hash={hash};Cert=\"{pem}\";Subject=\"\";URI={spiffe}");
        Ok(Caller { service, spiffe, workload, token, keyed, proof_key, xfcc })
    }
}

/// Envoy's encoding of a PEM text: all but unreserved characters (RFC 3986 §2.3).
const XFCC_PEM: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A workload that calls a service.
struct Caller {
    service: usize,
    spiffe: String,
    workload: String,
    /// Bound to the certificate.
    token: String,
    /// Bound to the key of proofs.
    keyed: String,
    proof_key: EcdsaKeyPair,
    xfcc: String,
}

/// What a check presents besides the certificate.
#[derive(Clone, Copy)]
enum Credential<'c> {
    None,
    Bearer(&'c str),
    /// This caller's token and a new proof.
    Dpop(&'c Caller),
}

/// The public part of a key on P-256, in base64url.
struct Jwk {
    x: String,
    y: String,
}

impl Jwk {
    fn of(key: &EcdsaKeyPair) -> Self {
        // An uncompressed point (SEC 1 §2.3.3): 4, x, y.
        let (x, y) = key.public_key().as_ref()[1..].split_at(32);
        Self { x: URL_SAFE_NO_PAD.encode(x), y: URL_SAFE_NO_PAD.encode(y) }
    }
}

impl Caller {
    fn jwk(&self) -> serde_json::Value {
        let Jwk { x, y } = Jwk::of(&self.proof_key);
        serde_json::json!({"kty": "EC", "crv": "P-256", "x": x, "y": y})
    }

    /// Returns what a proof's signature is over (RFC 9449 §4.2).
    fn proof_input(&self, method: &str, uri: &str, now: u64, id: &str) -> String {
        let header = serde_json::json!({"typ": "dpop+jwt", "alg": "ES256", "jwk": self.jwk()});
        let ath = digest::digest(&digest::SHA256, self.keyed.as_bytes());
        let claims = serde_json::json!({
            "jti": id, "htm": method, "htu": uri, "iat": now, "ath": URL_SAFE_NO_PAD.encode(ath),
        });
        let encode = |part: serde_json::Value| URL_SAFE_NO_PAD.encode(part.to_string());
        format!("{}.{}", encode(header), encode(claims))
    }

    fn sign(&self, input: &str) -> Vec<u8> {
        let signature = self.proof_key.sign(&SystemRandom::new(), input.as_bytes());
        signature.map(|signature| signature.as_ref().to_vec()).unwrap_or_default()
    }

    /// Makes the check of one request, with the headers a service behind a sidecar sends.
    fn check(
        &self,
        resource: usize,
        credential: Credential<'_>,
        xfcc: &str,
        random: &mut StdRng,
    ) -> CheckRequest {
        let host = host(self.service);
        let path = format!("/v1/resource-{resource}/{}?expand=lines&limit=50", uuid(random));
        let (trace, span) = (random.random::<u128>(), random.random::<u64>());
        let request_id = uuid(random);
        let mut headers: HashMap<String, String> = [
            (":authority", host.clone()),
            (":method", "GET".to_owned()),
            (":path", path.clone()),
            (":scheme", "https".to_owned()),
            ("accept", "application/json, text/plain, */*".to_owned()),
            ("accept-encoding", "gzip, deflate, br, zstd".to_owned()),
            ("accept-language", "en-GB,en;q=0.9,el;q=0.8".to_owned()),
            ("cache-control", "no-cache".to_owned()),
            ("cookie", format!("session={:032x}; theme=dark; consent=1", random.random::<u128>())),
            ("origin", "https://app.example".to_owned()),
            ("referer", "https://app.example/orders/open".to_owned()),
            ("traceparent", format!("00-{trace:032x}-{span:016x}-01")),
            ("tracestate", format!("vendor={span:x}")),
            (
                "user-agent",
                "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) \
                 Chrome/141.0.0.0 Safari/537.36"
                    .to_owned(),
            ),
            ("x-b3-sampled", "1".to_owned()),
            ("x-envoy-attempt-count", "1".to_owned()),
            ("x-envoy-internal", "true".to_owned()),
            ("x-forwarded-client-cert", xfcc.to_owned()),
            ("x-forwarded-for", "10.4.17.23".to_owned()),
            ("x-forwarded-proto", "https".to_owned()),
            ("x-request-id", request_id),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        match credential {
            Credential::None => {}
            Credential::Bearer(token) => {
                headers.insert("authorization".to_owned(), format!("Bearer {token}"));
            }
            Credential::Dpop(caller) => {
                let target = path.split('?').next().unwrap_or_default();
                let uri = format!("https://{host}{target}");
                let input =
                    caller.proof_input("GET", &uri, SystemClock.now().as_secs(), &uuid(random));
                let signature = URL_SAFE_NO_PAD.encode(caller.sign(&input));
                headers.insert("authorization".to_owned(), format!("DPoP {}", caller.keyed));
                headers.insert("dpop".to_owned(), format!("{input}.{signature}"));
            }
        }
        let http = HttpRequest {
            id: random.random::<u64>().to_string(),
            method: "GET".to_owned(),
            headers,
            path,
            host,
            scheme: "https".to_owned(),
            protocol: "HTTP/2".to_owned(),
            ..HttpRequest::default()
        };
        let now = SystemClock.now().since_epoch();
        let time = Timestamp {
            seconds: now.as_secs().try_into().unwrap_or(i64::MAX),
            nanos: now.subsec_nanos().try_into().unwrap_or(0),
        };
        CheckRequest {
            attributes: Some(AttributeContext {
                source: Some(peer("10.4.17.23", random.random_range(32768..60999), &self.spiffe)),
                destination: Some(peer("10.4.9.2", 8443, &self.workload)),
                request: Some(Request { time: Some(time), http: Some(http) }),
                metadata_context: Some(Metadata::default()),
                route_metadata_context: Some(Metadata::default()),
                ..AttributeContext::default()
            }),
        }
    }
}

fn peer(ip: &str, port: u32, principal: &str) -> Peer {
    Peer {
        address: Some(Address {
            address: Some(address::Address::SocketAddress(SocketAddress {
                address: ip.to_owned(),
                port_specifier: Some(PortSpecifier::PortValue(port)),
                ..SocketAddress::default()
            })),
        }),
        principal: principal.to_owned(),
        ..Peer::default()
    }
}

/// Puts gRPC's five bytes before a message: uncompressed, and its length.
fn frame(check: &CheckRequest) -> Bytes {
    let length = check.encoded_len();
    let mut frame = BytesMut::with_capacity(length.saturating_add(5));
    frame.put_u8(0);
    frame.put_u32(length.try_into().unwrap_or(u32::MAX));
    frame.extend_from_slice(&check.encode_to_vec());
    frame.freeze()
}

fn uuid(random: &mut StdRng) -> String {
    let mut text = format!("{:032x}", random.random::<u128>());
    for at in [20, 16, 12, 8] {
        text.insert(at, '-');
    }
    text
}

fn host(service: usize) -> String {
    format!("service-{service}.team-{}.svc.cluster.local", service % TEAMS)
}

fn workload(service: usize) -> String {
    format!("spiffe://prod.example/ns/team-{}/sa/service-{service}", service % TEAMS)
}

/// Writes a policy directory: trust, one issuer, and a policy of ten rules for each service.
fn write_policies(
    directory: &Path,
    services: usize,
    rules: usize,
    binding: &str,
    mint: &Mint,
) -> anyhow::Result<()> {
    fs::write(directory.join("corp.jwks.json"), mint.jwks()?)?;
    let audiences = (0..services.min(TEAMS))
        .map(|team| format!("\"https://team-{team}.example\""))
        .collect::<Vec<_>>()
        .join(", ");
    fs::write(
        directory.join("trust.yaml"),
        format!(
            "apiVersion: symbolon/v1
kind: TrustDomain
metadata: {{name: prod.example}}
---
apiVersion: symbolon/v1
kind: PeerTrust
metadata: {{name: mesh}}
spec:
  evidence: [principal, xfcc]
---
apiVersion: symbolon/v1
kind: Issuer
metadata: {{name: corp}}
spec:
  issuer: https://login.example/
  keys: {{jwksFile: corp.jwks.json}}
  audiences: [{audiences}]
  algorithms: [ES256]
  types: [at+jwt]
  maxLifetime: 24h
"
        ),
    )?;
    for service in 0..services {
        let count = rules.saturating_sub(service * RULES_PER_POLICY).min(RULES_PER_POLICY);
        fs::write(
            directory.join(format!("service-{service}.yaml")),
            policy(service, count, binding)?,
        )?;
    }
    Ok(())
}

/// Writes the policy of a service: `count` rules, of which the last two of ten deny.
fn policy(service: usize, count: usize, binding: &str) -> Result<String, std::fmt::Error> {
    let (team, host, workload) = (service % TEAMS, host(service), workload(service));
    let mut text = format!(
        "apiVersion: symbolon/v1
kind: Policy
metadata: {{name: service-{service}}}
spec:
  workloads: [\"{workload}\"]
  hosts: [\"{host}\"]
  audiences: [\"https://team-{team}.example\"]
"
    );
    if binding.contains("dpop") {
        writeln!(text, "  origin: https://{host}")?;
    }
    text.push_str("  rules:\n");
    for rule in 0..count.max(1) {
        if rule < ALLOWING {
            write!(
                text,
                "  - name: read-{rule}
    to: {{methods: [GET], paths: [\"/v1/resource-{rule}\", \"/v1/resource-{rule}/{{id}}\"]}}
    from: {{spiffe: [\"spiffe://prod.example/ns/team-{team}/sa/*\"]}}
    token: {{issuers: [corp], scopes: [\"orders:read\"], binding: [{binding}]}}
    upstream: {{headers: {{x-caller: \"{{peer.spiffe}}\", x-client: \"{{token.client_id}}\"}}}}
"
            )?;
        } else {
            write!(
                text,
                "  - name: closed-{rule}
    effect: deny
    to: {{paths: [\"/v1/closed-{rule}/{{**}}\"]}}
"
            )?;
        }
    }
    Ok(text)
}
