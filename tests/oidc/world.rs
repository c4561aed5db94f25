//! The authorization server, symbolon that believes it, Envoy in front, and clients of both.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Stdio,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use symbolon::{
    cli::demo::{
        authorizer::Authorizer,
        client::{Answer, Call, Client, SERVER_NAME, until},
        envoy::{Envoy, Places},
        loopback::{self, Loopback},
        pki::{Authority, Identity},
        stage::SERVICE,
    },
    clock::{Clock as _, SystemClock},
    identity::Thumbprint,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::{sleep, timeout},
};

use crate::support::{self, Seen, next_user_agent};

/// The service whose tokens are JWTs.
pub(crate) const JWT: &str = "jwt.example";
/// The service whose tokens are opaque.
pub(crate) const OPAQUE: &str = "opaque.example";

const WEB: &str = "spiffe://demo.example/ns/shop/sa/web";
const OURSELVES: &str = "spiffe://demo.example/ns/mesh/sa/symbolon";
/// Time for a process to start.
const PATIENCE: Duration = Duration::from_secs(20);

/// How symbolon authenticates when it asks about tokens.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Authentication {
    PrivateKeyJwt,
    TlsClientAuth,
    ClientSecretBasic,
}

impl Authentication {
    const fn name(self) -> &'static str {
        match self {
            Self::PrivateKeyJwt => "private_key_jwt",
            Self::TlsClientAuth => "tls_client_auth",
            Self::ClientSecretBasic => "client_secret_basic",
        }
    }
}

/// Everything that runs. Dropping it ends all of it.
pub(crate) struct World {
    envoy: Envoy,
    authorizer: Authorizer,
    pub(crate) server: Server,
    authority: Authority,
    web: Identity,
    thief: Identity,
    /// The key that clients authenticate with.
    client: Key,
    /// The key that `app` makes proofs with.
    holder: Key,
    _upstream: Loopback,
    settings: Value,
    folder: TempDir,
}

impl World {
    /// Starts all, with answers about opaque tokens kept for `cache_for`.
    pub(crate) async fn start(authentication: Authentication, cache_for: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| {
            let path = folder.path().join(name);
            fs::create_dir_all(&path).unwrap();
            path
        };
        let authority = Authority::new(SystemClock.now()).unwrap();
        let issue = |spiffe: &str| authority.issue(spiffe, &[]).unwrap();
        let (web, ourselves) = (issue(WEB), issue(OURSELVES));
        let thief = issue("spiffe://demo.example/ns/shop/sa/thief");
        let (client, holder) = (Key::new(), Key::new());

        let (tls, of_server, policies) = (at("tls"), at("server"), at("policies"));
        fs::write(tls.join("ca.crt"), authority.pem()).unwrap();
        authority.issue(SERVICE, &[SERVER_NAME]).unwrap().write(&tls, "tls").unwrap();
        fs::write(of_server.join("ca.crt"), authority.pem()).unwrap();
        let certificate = authority.issue("spiffe://demo.example/login", &["localhost"]).unwrap();
        certificate.write(&of_server, "server").unwrap();
        let clients = clients(&client, &Key::of(&ourselves), authentication);
        fs::write(of_server.join("clients.json"), clients.to_string()).unwrap();
        let server = Server::start(&of_server).await;

        let credentials = at("credentials/login");
        ourselves.write(&credentials, "tls").unwrap();
        fs::rename(credentials.join("tls.key"), credentials.join("client-key.pem")).unwrap();
        fs::remove_file(credentials.join("tls.crt")).unwrap();
        match authentication {
            Authentication::PrivateKeyJwt => (),
            Authentication::TlsClientAuth => ourselves.write(&credentials, "tls").unwrap(),
            Authentication::ClientSecretBasic => {
                fs::write(credentials.join("client-secret"), SECRET).unwrap();
            }
        }
        let text = policy_set(&server.issuer(), authentication, cache_for);
        fs::write(policies.join("all.yaml"), text).unwrap();
        let settings = json!({"outbound": {
            "caFile": tls.join("ca.crt"),
            "credentialsDir": folder.path().join("credentials"),
        }, "stateDir": folder.path().join("state")});
        let authorizer = authorizer(folder.path(), &settings).await;
        let upstream = loopback::upstream().await.unwrap();
        let access_log = folder.path().join("access.jsonl");
        let places = Places {
            tls: &tls,
            authorizer: authorizer.socket(),
            upstream: upstream.address(),
            access_log: &access_log,
        };
        let configuration = places.configuration().unwrap();
        let envoy = support::envoy().await;
        let envoy = Envoy::start(&envoy, folder.path(), &configuration, &access_log).await.unwrap();
        let world = Self {
            envoy,
            authorizer,
            server,
            authority,
            web,
            thief,
            client,
            holder,
            _upstream: upstream,
            settings,
            folder,
        };
        let token = world.token("web", JWT, "payments.read").await;
        until("symbolon to have the server's keys", PATIENCE, async || {
            (world.bearer("web", JWT, "/certificate", &token).await.status == 200).then_some(())
        })
        .await
        .unwrap_or_else(|e| panic!("{e:#} {:?}", fs::read_to_string(world.authorizer.log())));
        // A proof made within the second in which symbolon began may have been used before.
        sleep(Duration::from_secs(1)).await;
        world
    }

    /// Kills symbolon and starts it again.
    pub(crate) async fn restart_symbolon(&mut self) {
        self.authorizer.kill().await.unwrap();
        self.authorizer = authorizer(self.folder.path(), &self.settings).await;
        // Envoy asks after health every few seconds.
        sleep(Duration::from_secs(6)).await;
    }

    /// Gets a token of `client` for the service at `host`.
    pub(crate) async fn token(&self, client: &str, host: &str, scope: &str) -> String {
        let resource = format!("https://{host}");
        let form =
            [("grant_type", "client_credentials"), ("scope", scope), ("resource", &resource)];
        let answer = self.ask_server(client, "/token", &form).await;
        let kind = if client == "app" { "DPoP" } else { "Bearer" };
        assert_eq!(answer["token_type"], kind, "{answer}");
        answer["access_token"].as_str().unwrap().to_owned()
    }

    /// Has the server revoke a token of `client`.
    pub(crate) async fn revoke(&self, client: &str, token: &str) {
        self.ask_server(client, "/token/revocation", &[("token", token)]).await;
    }

    async fn ask_server(&self, client: &str, path: &str, form: &[(&str, &str)]) -> Value {
        let mut form: Vec<_> = form.iter().map(|(n, v)| (*n, (*v).to_owned())).collect();
        form.push(("client_id", client.to_owned()));
        if client != "web-tls" {
            let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
            form.push(("client_assertion_type", kind.to_owned()));
            form.push(("client_assertion", self.assertion(client)));
        }
        let encode = |value: &str| utf8_percent_encode(value, NON_ALPHANUMERIC).to_string();
        let body: Vec<_> = form.iter().map(|(n, v)| format!("{n}={}", encode(v))).collect();
        let url = format!("{}{path}", self.server.issuer());
        let mut request = self
            .http()
            .post(&url)
            .header("content-type", "application/x-www-form-urlencoded")
            .body(body.join("&"));
        if client == "app" && path == "/token" {
            request = request.header("dpop", self.holder.proof("POST", &url, None));
        }
        let answer = request.send().await.unwrap();
        let (status, body) = (answer.status(), answer.text().await.unwrap());
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap_or_default()
    }

    /// A client of the server that presents web's certificate.
    fn http(&self) -> reqwest::Client {
        let tls = self.folder.path().join("tls");
        self.web.write(&tls, "web").unwrap();
        let read = |name: &str| fs::read_to_string(tls.join(name)).unwrap();
        let pem = format!("{}\n{}", read("web.crt"), read("web.key"));
        let authority = reqwest::Certificate::from_pem(self.authority.pem().as_bytes()).unwrap();
        reqwest::Client::builder()
            .tls_certs_only([authority])
            .identity(reqwest::Identity::from_pem(pem.as_bytes()).unwrap())
            .build()
            .unwrap()
    }

    /// An assertion by which a client authenticates (RFC 7523 §2.2).
    fn assertion(&self, client: &str) -> String {
        let claims = json!({
            "iss": client, "sub": client, "aud": self.server.issuer(), "jti": unique(),
            "iat": seconds(), "exp": seconds() + 60,
        });
        self.client.sign(&json!({"alg": "ES256"}), &claims)
    }

    /// Calls with a Bearer token as `who`.
    pub(crate) async fn bearer(&self, who: &str, host: &str, path: &str, token: &str) -> Seen {
        self.call(who, host, path, &[("authorization", &format!("Bearer {token}"))]).await
    }

    /// Calls with a DPoP token and a proof as `who`.
    pub(crate) async fn dpop(
        &self,
        who: &str,
        host: &str,
        path: &str,
        token: &str,
        proof: &str,
    ) -> Seen {
        let authorization = format!("DPoP {token}");
        self.call(who, host, path, &[("authorization", &authorization), ("dpop", proof)]).await
    }

    /// A proof for a call, by the key that `app`'s tokens are bound to.
    pub(crate) fn proof(&self, host: &str, path: &str, token: &str) -> String {
        self.holder.proof("GET", &format!("https://{host}{path}"), Some(token))
    }

    /// A proof for a call, by a key that no token is bound to.
    pub(crate) fn proof_by_another(host: &str, path: &str, token: &str) -> String {
        Key::new().proof("GET", &format!("https://{host}{path}"), Some(token))
    }

    async fn call(&self, who: &str, host: &str, path: &str, headers: &[(&str, &str)]) -> Seen {
        let name = next_user_agent();
        let mut call = Call {
            method: "GET".to_owned(),
            host: host.to_owned(),
            path: path.to_owned(),
            headers: vec![("user-agent".to_owned(), name.clone())],
        };
        call.headers.extend(headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())));
        let identity = if who == "web" { &self.web } else { &self.thief };
        let client = Client::new(&self.authority, Some(identity), self.envoy.address()).unwrap();
        let answer: Answer = client.call(&call).await.unwrap();
        let access = self.envoy.access(&name).await.unwrap();
        let record = self.authorizer.record(access.decision_id().unwrap()).await.unwrap();
        Seen { status: answer.status, reason: Some(record.reason), details: access.details, answer }
    }

    /// The `kid` of a JWT.
    pub(crate) fn key_id(token: &str) -> String {
        let header = URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap()).unwrap();
        let header: Value = serde_json::from_slice(&header).unwrap();
        header["kid"].as_str().unwrap().to_owned()
    }
}

async fn authorizer(folder: &Path, settings: &Value) -> Authorizer {
    let own = folder.join("symbolon");
    fs::create_dir_all(&own).unwrap();
    let policies = folder.join("policies");
    Authorizer::start_with(support::symbolon(), &policies, &own, settings.clone()).await.unwrap()
}

/// A secret of our own, with what has to be encoded on the way (RFC 6749 §2.3.1).
const SECRET: &str = "a secret: of+ours & only/ours, 64 characters or so, as they are";

/// The clients that the server knows: those that call, and ourselves, who ask about tokens.
fn clients(client: &Key, ourselves: &Key, authentication: Authentication) -> Value {
    let common = |id: &str| {
        json!({
            "client_id": id, "grant_types": ["client_credentials"],
            "redirect_uris": [], "response_types": [],
        })
    };
    let with = |id: &str, rest: Value| {
        let mut client = common(id);
        client.as_object_mut().unwrap().append(&mut rest.as_object().unwrap().clone());
        client
    };
    let by_key = |key: &Key| {
        json!({
            "token_endpoint_auth_method": "private_key_jwt",
            "token_endpoint_auth_signing_alg": "ES256",
            "jwks": {"keys": [key.jwk()]},
        })
    };
    let by_certificate = |spiffe: &str| {
        json!({
            "token_endpoint_auth_method": "tls_client_auth", "tls_client_auth_san_uri": spiffe,
        })
    };
    let mut bound = by_key(client);
    bound["tls_client_certificate_bound_access_tokens"] = json!(true);
    let mut bound_by_certificate = by_certificate(WEB);
    bound_by_certificate["tls_client_certificate_bound_access_tokens"] = json!(true);
    let mut app = by_key(client);
    app["dpop_bound_access_tokens"] = json!(true);
    let asking = match authentication {
        Authentication::PrivateKeyJwt => by_key(ourselves),
        Authentication::TlsClientAuth => by_certificate(OURSELVES),
        Authentication::ClientSecretBasic => json!({
            "token_endpoint_auth_method": "client_secret_basic", "client_secret": SECRET,
        }),
    };
    json!([
        with("web", bound),
        with("web-tls", bound_by_certificate),
        with("app", app),
        with("symbolon: ours", asking),
    ])
}

fn policy_set(issuer: &str, authentication: Authentication, cache_for: &str) -> String {
    let authentication = authentication.name();
    let trust = format!(
        r#"apiVersion: symbolon/v1
kind: TrustDomain
metadata: {{name: demo.example}}
---
apiVersion: symbolon/v1
kind: PeerTrust
metadata: {{name: mesh}}
spec: {{evidence: [principal, certificate, xfcc]}}
---
apiVersion: symbolon/v1
kind: Issuer
metadata: {{name: login}}
spec:
  issuer: {issuer}
  keys: {{discovery: true}}
  audiences: [https://{JWT}, https://{OPAQUE}]
  maxLifetime: 15m
  introspection:
    uri: {issuer}/token/introspection
    clientId: "symbolon: ours"
    authentication: {authentication}
    cacheFor: {cache_for}
"#
    );
    let service = |host: &str| {
        format!(
            r"---
apiVersion: symbolon/v1
kind: Policy
metadata: {{name: {}}}
spec:
  hosts: [{host}]
  origin: https://{host}
  audiences: [https://{host}]
  rules:
  - name: certificate
    to: {{paths: [/certificate]}}
    token: {{issuers: [login], binding: [certificate], scopes: [payments.read]}}
  - name: dpop
    to: {{paths: [/dpop]}}
    token: {{issuers: [login], binding: [dpop], scopes: [payments.read]}}
  - name: write
    to: {{paths: [/write]}}
    token: {{issuers: [login], scopes: [payments.write]}}
",
            host.replace('.', "-")
        )
    };
    format!("{trust}{}{}", service(JWT), service(OPAQUE))
}

/// The authorization server, on a port that stays its own over restarts.
pub(crate) struct Server {
    folder: PathBuf,
    port: u16,
    running: Option<Running>,
}

struct Running {
    process: Child,
    commands: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Server {
    async fn start(folder: &Path) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut server = Self { folder: folder.to_owned(), port, running: None };
        server.restart().await;
        server
    }

    /// Starts it with the signing keys it had before.
    pub(crate) async fn restart(&mut self) {
        let log = fs::File::create(self.folder.join("server.log")).unwrap();
        let mut process = Command::new("node")
            .arg(support::repository().join("tests/oidc/server.mjs"))
            .arg(&self.folder)
            .arg(self.port.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .expect("these tests need node and its packages (tests/run installs them)");
        let commands = process.stdin.take().unwrap();
        let answers = BufReader::new(process.stdout.take().unwrap()).lines();
        self.running = Some(Running { process, commands, answers });
        self.hear("ready").await;
    }

    /// Stops it.
    pub(crate) async fn stop(&mut self) {
        let mut running = self.running.take().unwrap();
        running.process.kill().await.unwrap();
    }

    /// Has it sign with a new key, and keep the old ones in its key set.
    pub(crate) async fn rotate(&mut self) {
        self.running.as_mut().unwrap().commands.write_all(b"rotate\n").await.unwrap();
        self.hear("rotated").await;
    }

    async fn hear(&mut self, word: &str) {
        let answers = &mut self.running.as_mut().unwrap().answers;
        let line = timeout(PATIENCE, answers.next_line()).await;
        let log = fs::read_to_string(self.folder.join("server.log")).unwrap();
        assert_eq!(line.unwrap().unwrap().as_deref(), Some(word), "{log}");
    }

    fn issuer(&self) -> String {
        format!("https://localhost:{}", self.port)
    }
}

/// An ES256 key.
struct Key(EcdsaKeyPair);

impl Key {
    fn new() -> Self {
        Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    fn of(identity: &Identity) -> Self {
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, identity.key_der());
        Self(key.unwrap())
    }

    fn jwk(&self) -> Value {
        let (x, y) = self.0.public_key().as_ref()[1..].split_at(32);
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        json!({"kty": "EC", "crv": "P-256", "x": x, "y": y})
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let input = format!("{}.{}", encode(header), encode(claims));
        let signature = self.0.sign(&SystemRandom::new(), input.as_bytes()).unwrap();
        format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
    }

    fn proof(&self, method: &str, url: &str, token: Option<&str>) -> String {
        let header = json!({"typ": "dpop+jwt", "alg": "ES256", "jwk": self.jwk()});
        let mut claims = json!({"jti": unique(), "htm": method, "htu": url, "iat": seconds()});
        if let Some(token) = token {
            claims["ath"] = json!(Thumbprint::of(token.as_bytes()).to_base64url());
        }
        self.sign(&header, &claims)
    }
}

fn unique() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

fn seconds() -> u64 {
    SystemClock.now().as_secs()
}
