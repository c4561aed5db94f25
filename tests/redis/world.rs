//! A Redis, two processes that share it, and a client of them.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _},
};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use envoy_types::pb::{
    envoy::{
        config::core::v3::{HeaderMap, HeaderValue},
        service::auth::v3::{
            AttributeContext, CheckRequest,
            attribute_context::{HttpRequest, Peer, Request},
            authorization_client::AuthorizationClient,
        },
    },
    google::protobuf::value::Kind,
};
use serde_json::{Value, json};
use symbolon::{
    cli::demo::{
        client::{self, Call, SERVER_NAME, get, until},
        envoy::{Envoy, Places},
        loopback::{self, Loopback},
        pki::{Authority, Identity},
        stage::SERVICE,
    },
    clock::{Clock as _, SystemClock},
    identity::Thumbprint,
};
use tempfile::TempDir;
use tonic::transport::Channel;

use crate::support;

/// Time for a process to start, or to notice.
const PATIENCE: Duration = Duration::from_secs(20);
/// Nothing here is to fail for a slow machine; what tests time has the default.
const AMPLE: &str = "5s";
const WEB: &str = "spiffe://prod.example/ns/shop/sa/web";
const POLICIES: &str = r#"
apiVersion: symbolon/v1
kind: TrustDomain
metadata: {name: prod.example}
---
apiVersion: symbolon/v1
kind: PeerTrust
metadata: {name: mesh}
spec: {evidence: [principal, certificate]}
---
apiVersion: symbolon/v1
kind: Issuer
metadata: {name: corp}
spec:
  issuer: https://login.example/
  keys: {jwksFile: keys.json}
  audiences: ["https://api.example"]
  maxLifetime: 15m
---
apiVersion: symbolon/v1
kind: Policy
metadata: {name: api}
spec:
  hosts: [api.example]
  origin: https://api.example
  audiences: ["https://api.example"]
  rules:
  - name: plain
    to: {paths: ["/plain"]}
    token: {issuers: [corp], binding: [dpop]}
  - name: scoped
    to: {paths: ["/scoped"]}
    token: {issuers: [corp], binding: [dpop], scopes: [admin]}
  - name: bearer
    to: {paths: ["/bearer"]}
    token: {issuers: [corp], binding: [none]}
  - name: bound
    to: {paths: ["/bound"]}
    token: {issuers: [corp], binding: [certificate]}
"#;

/// Everything that runs. Dropping it ends all of it.
pub(crate) struct World {
    pub(crate) redis: Redis,
    pub(crate) client: Client,
    processes: Vec<Symbolon>,
    settings: Vec<Value>,
    folder: TempDir,
    _files: Option<TempDir>,
}

impl World {
    /// Starts all, and waits until both processes use Redis.
    pub(crate) async fn start(arguments: &[&str]) -> Self {
        Self::start_without_waiting(arguments).await.up().await
    }

    async fn up(self) -> Self {
        for process in &self.processes {
            process.until_up().await;
            process.until_allowed(&self.client).await;
        }
        self
    }

    pub(crate) async fn start_without_waiting(arguments: &[&str]) -> Self {
        let redis = Redis::new(arguments);
        let settings = json!({"url": redis.url(), "timeout": AMPLE});
        Self::with(redis, vec![settings.clone(), settings]).await
    }

    /// As [`World::start`], with the time for Redis that is the default.
    pub(crate) async fn start_in_haste() -> Self {
        let redis = Redis::new(&[]);
        let settings = json!({"url": redis.url()});
        Self::with(redis, vec![settings.clone(), settings]).await.up().await
    }

    /// A Redis without a default user, and processes whose file has a wrong password.
    pub(crate) async fn start_with_user(user: &str, password: &str, rights: &str) -> Self {
        let redis = Redis::new(&[]);
        let (name, secret) = (redis.path("user"), redis.path("password"));
        fs::write(&name, user).unwrap();
        fs::write(&secret, "wrong").unwrap();
        let rights = rights.split(' ');
        let words = ["ACL", "SETUSER", user, "reset", "on"].into_iter().map(str::to_owned);
        let words = words.chain([format!(">{password}")]).chain(rights.map(str::to_owned));
        redis.command(&words.collect::<Vec<_>>().iter().map(|s| &**s).collect::<Vec<_>>());
        let settings = json!({"url": redis.url(), "usernameFile": name, "passwordFile": secret});
        Self::with(redis, vec![settings.clone(), settings]).await
    }

    /// A Redis over TLS alone; the second process trusts another authority.
    pub(crate) async fn start_over_tls() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let now = SystemClock.now();
        let (authority, other) = (Authority::new(now).unwrap(), Authority::new(now).unwrap());
        let identity = authority.issue("spiffe://prod.example/redis", &["localhost"]).unwrap();
        let file = |name: &str| folder.path().join(name).display().to_string();
        identity.write(folder.path(), "redis").unwrap();
        fs::write(file("ca.pem"), authority.pem()).unwrap();
        fs::write(file("other.pem"), other.pem()).unwrap();
        let port = free_port().port();
        let redis = Redis::new(&[
            "--tls-port",
            &port.to_string(),
            "--tls-auth-clients",
            "no",
            "--tls-cert-file",
            &file("redis.crt"),
            "--tls-key-file",
            &file("redis.key"),
            "--tls-ca-cert-file",
            &file("ca.pem"),
        ]);
        let url = format!("rediss://localhost:{port}");
        let settings = vec![
            json!({"url": url, "caFile": file("ca.pem")}),
            json!({"url": url, "caFile": file("other.pem")}),
        ];
        Self { _files: Some(folder), ..Self::with(redis, settings).await }
    }

    async fn with(redis: Redis, settings: Vec<Value>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let client = Client::new();
        let policies = folder.path().join("policies");
        fs::create_dir(&policies).unwrap();
        fs::write(policies.join("all.yaml"), POLICIES).unwrap();
        fs::write(policies.join("keys.json"), client.jwks()).unwrap();
        let mut world =
            Self { redis, client, processes: Vec::new(), settings, folder, _files: None };
        world.restart_processes().await;
        world
    }

    pub(crate) async fn restart_processes(&mut self) {
        let again = !self.processes.is_empty();
        self.processes.clear();
        for (number, settings) in self.settings.iter().enumerate() {
            let folder = self.folder.path().join(format!("process-{number}"));
            fs::create_dir_all(&folder).unwrap();
            let policies = self.folder.path().join("policies");
            self.processes.push(Symbolon::start(&folder, &policies, settings).await);
        }
        if again {
            for process in &self.processes {
                process.until_up().await;
            }
        }
    }

    pub(crate) fn both(&self) -> [&Symbolon; 2] {
        [&self.processes[0], &self.processes[1]]
    }

    /// Starts one Envoy that asks both processes in turn.
    pub(crate) async fn behind_envoy(&self) -> Front {
        let tls = self.folder.path().join("tls");
        fs::create_dir(&tls).unwrap();
        let authority = &self.client.authority;
        fs::write(tls.join("ca.crt"), authority.pem()).unwrap();
        authority.issue(SERVICE, &[SERVER_NAME]).unwrap().write(&tls, "tls").unwrap();
        let upstream = loopback::upstream().await.unwrap();
        let access_log = self.folder.path().join("access.jsonl");
        let [first, second] = self.both();
        let places = Places {
            tls: &tls,
            authorizer: &first.socket,
            upstream: upstream.address(),
            access_log: &access_log,
        };
        let endpoint = |process: &Symbolon| {
            let path = process.socket.display();
            format!("        - endpoint: {{address: {{pipe: {{path: {path}}}}}}}\n")
        };
        let configuration = places.configuration().unwrap();
        let one = endpoint(first);
        assert!(configuration.contains(&one), "{configuration}");
        let configuration = configuration.replace(&one, &format!("{one}{}", endpoint(second)));
        let binary = support::envoy().await;
        let envoy =
            Envoy::start(&binary, self.folder.path(), &configuration, &access_log).await.unwrap();
        let caller =
            client::Client::new(authority, Some(&self.client.identity), envoy.address()).unwrap();
        Front { _envoy: envoy, _upstream: upstream, caller }
    }

    pub(crate) fn write_password(&self, password: &str) {
        fs::write(self.redis.path("password"), password).unwrap();
    }
}

/// An Envoy with both processes behind it, and who calls.
pub(crate) struct Front {
    _envoy: Envoy,
    _upstream: Loopback,
    caller: client::Client,
}

impl Front {
    /// Opens a connection.
    pub(crate) async fn connect(&self) -> client::Connection {
        self.caller.connect().await.unwrap()
    }
}

/// A child process that is killed, by its id, when the test ends.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A real Redis on a Unix socket, which keeps nothing on disk. A test that needs one fails without.
pub(crate) struct Redis {
    folder: TempDir,
    arguments: Vec<String>,
    process: Option<Killed>,
}

impl Redis {
    fn new(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let mut redis = Self { folder, arguments, process: None };
        redis.start();
        redis
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn url(&self) -> String {
        format!("unix:{}", self.path("redis.sock").display())
    }

    pub(crate) fn start(&mut self) {
        let log = fs::File::create(self.path("redis.log")).unwrap();
        let process = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"])
            .arg(self.path("redis.sock"))
            .arg("--dir")
            .arg(self.folder.path())
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(log)
            .spawn()
            .expect("these tests need redis-server (tests/run installs it)");
        self.process = Some(Killed(process));
        let started = std::time::Instant::now();
        while !self.try_command(&["PING"]).contains("PONG") {
            let log = fs::read_to_string(self.path("redis.log")).unwrap();
            assert!(started.elapsed() < PATIENCE, "{log}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// SIGKILL: nothing is saved, nobody is told.
    pub(crate) fn kill(&mut self) {
        self.process = None;
    }

    pub(crate) fn signal(&self, name: &str) {
        let id = self.process.as_ref().unwrap().0.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
    }

    fn try_command(&self, words: &[&str]) -> String {
        let mut client = Command::new("redis-cli");
        client.arg("-s").arg(self.path("redis.sock")).args(words);
        let output = client.output().expect("these tests need redis-cli");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    pub(crate) fn command(&self, words: &[&str]) -> String {
        let answer = self.try_command(words);
        assert!(!answer.starts_with("ERR") && !answer.is_empty(), "{words:?}: {answer}");
        answer
    }

    /// How many keys there are.
    pub(crate) fn keys(&self) -> u64 {
        self.command(&["DBSIZE"]).parse().unwrap()
    }

    /// Whether all keys end, but the one that says since when Redis remembers.
    pub(crate) fn all_expire(&self) -> bool {
        let keys = self.command(&["KEYS", "*"]);
        keys.lines().filter(|key| !key.contains(":began:")).all(|key| {
            let left: i64 = self.command(&["PTTL", key]).parse().unwrap();
            // A minute past, ten seconds ahead twice, and a minute for clocks.
            (60_000..=141_000).contains(&left)
        })
    }
}

/// One process of the built program.
pub(crate) struct Symbolon {
    client: AuthorizationClient<Channel>,
    metrics: SocketAddr,
    admin: SocketAddr,
    socket: PathBuf,
    log: PathBuf,
    _process: Killed,
}

impl Symbolon {
    async fn start(folder: &Path, policies: &Path, redis: &Value) -> Self {
        let (grpc, metrics, admin) = (free_port(), free_port(), free_port());
        let socket = folder.join("grpc.sock");
        let configuration = json!({
            "grpc": {"listen": [grpc.to_string(), format!("unix:{}", socket.display())]},
            "metrics": {"listen": metrics.to_string()},
            "admin": {"listen": admin.to_string()},
            "records": {"to": "off"},
            "log": {"format": "json"},
            "workers": 1,
            "check": {"timeout": "10s"},
            "dpop": {"replay": "redis", "redis": redis},
        });
        let (file, log) = (folder.join("symbolon.yaml"), folder.join("log"));
        fs::write(&file, configuration.to_string()).unwrap();
        let process = Command::new(support::symbolon())
            .args(["serve", "--policies"])
            .arg(policies)
            .arg("--config")
            .arg(&file)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let process = Killed(process);
        let client = until("symbolon to be ready", PATIENCE, async || {
            let ready = get(metrics, "/readyz").await.ok()?;
            let client = AuthorizationClient::connect(format!("http://{grpc}")).await;
            client.ok().filter(|_| ready.status == 200)
        });
        let client =
            client.await.unwrap_or_else(|e| panic!("{e:#} {:?}", fs::read_to_string(&log)));
        Self { client, metrics, admin, socket, log, _process: process }
    }

    /// Returns the reason of the answer.
    pub(crate) async fn ask(&self, ask: &Ask) -> String {
        let response = self.client.clone().check(ask.request()).await.unwrap().into_inner();
        let metadata = response.dynamic_metadata.unwrap().fields;
        let Some(Kind::StringValue(reason)) = metadata["reason"].kind.clone() else {
            panic!("no reason")
        };
        let allowed = response.status.unwrap().code == 0;
        assert_eq!(allowed, reason == "allowed");
        reason
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    async fn page(&self, path: &str) -> String {
        let answer = get(self.metrics, path).await.unwrap();
        String::from_utf8_lossy(&answer.body).into_owned()
    }

    pub(crate) async fn metric(&self, name: &str) -> String {
        let page = self.page("/metrics").await;
        let mut lines = page.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap().to_owned()
    }

    /// Returns how many checks were decided for this reason.
    pub(crate) async fn decided(&self, reason: &str) -> usize {
        let decision = if reason == "allowed" { "allow" } else { "deny" };
        let name = format!("symbolon_checks_total{{decision=\"{decision}\",reason=\"{reason}\"}}");
        self.metric(&name).await.parse().unwrap()
    }

    pub(crate) async fn until_up(&self) {
        let line = "used DPoP proofs: redis, up";
        let up = until("Redis to be up", PATIENCE, async || {
            self.page("/readyz?verbose").await.contains(line).then_some(())
        });
        if let Err(error) = up.await {
            panic!("{error} {} {}", self.page("/readyz?verbose").await, self.log());
        }
        assert_eq!(self.metric("symbolon_replay_store_up").await, "1");
    }

    /// Waits until it says why it is down; it stays ready, for what needs no Redis.
    pub(crate) async fn until_down(&self, why: &str) {
        let down = until("Redis to be down", PATIENCE, async || {
            let page = self.page("/readyz?verbose").await;
            let line =
                page.lines().find(|line| line.starts_with("used DPoP proofs: redis is down"));
            line.is_some_and(|line| line.contains(why)).then_some(())
        });
        if let Err(error) = down.await {
            panic!("{error} {} {}", self.page("/readyz?verbose").await, self.log());
        }
        assert_eq!(self.metric("symbolon_replay_store_up").await, "0");
        assert_eq!(get(self.metrics, "/readyz").await.unwrap().status, 200);
        let status = get(self.admin, "/status").await.unwrap();
        let status: Value = serde_json::from_slice(&status.body).unwrap();
        let store = &status["replayStore"];
        assert_eq!((&store["kind"], &store["up"]), (&json!("redis"), &json!(false)));
        assert!(store["lastError"].as_str().unwrap().contains(why), "{store}");
    }

    /// Waits until a proof made now passes: those from before Redis began do not.
    pub(crate) async fn until_allowed(&self, client: &Client) {
        until("a proof to pass", PATIENCE, async || {
            (self.ask(&client.fresh()).await == "allowed").then_some(())
        })
        .await
        .unwrap();
    }
}

/// A check.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    /// Envoy's id of it.
    pub(crate) stream: String,
    pub(crate) proof: Option<String>,
    pub(crate) path: &'static str,
    pub(crate) authorization: String,
    pub(crate) certificate: String,
}

impl Ask {
    /// The call that Envoy makes this check of.
    pub(crate) fn call(&self) -> Call {
        let mut headers = vec![("authorization".to_owned(), self.authorization.clone())];
        headers.extend(self.proof.iter().map(|proof| ("dpop".to_owned(), proof.clone())));
        let (method, host) = ("GET".to_owned(), "api.example".to_owned());
        Call { method, host, path: self.path.to_owned(), headers }
    }

    fn request(&self) -> CheckRequest {
        // In order: a retry is the same message, byte for byte.
        let header = |name: &str, value: &str| HeaderValue {
            key: name.to_owned(),
            raw_value: value.as_bytes().to_vec(),
            ..HeaderValue::default()
        };
        let mut headers = vec![header("authorization", &self.authorization)];
        headers.extend(self.proof.as_deref().map(|proof| header("dpop", proof)));
        let http = HttpRequest {
            id: self.stream.clone(),
            method: "GET".to_owned(),
            host: "api.example".to_owned(),
            scheme: "https".to_owned(),
            path: self.path.to_owned(),
            header_map: Some(HeaderMap { headers }),
            ..HttpRequest::default()
        };
        let source = Peer {
            principal: WEB.to_owned(),
            certificate: self.certificate.clone(),
            ..Peer::default()
        };
        CheckRequest {
            attributes: Some(AttributeContext {
                source: Some(source),
                request: Some(Request { http: Some(http), ..Request::default() }),
                ..AttributeContext::default()
            }),
        }
    }
}

/// A client with a key and a certificate, and the issuer of its tokens.
pub(crate) struct Client {
    issuer: EcdsaKeyPair,
    key: Ed25519KeyPair,
    authority: Authority,
    identity: Identity,
    bound: String,
    keyed: String,
    plain: String,
    next: AtomicU64,
}

impl Client {
    fn new() -> Self {
        let now = SystemClock.now();
        let authority = Authority::new(now).unwrap();
        let mut client = Self {
            issuer: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap(),
            key: Ed25519KeyPair::generate().unwrap(),
            identity: authority.issue(WEB, &[]).unwrap(),
            authority,
            bound: String::new(),
            keyed: String::new(),
            plain: String::new(),
            next: AtomicU64::new(0),
        };
        // RFC 8037 §2 has the members of the thumbprint (RFC 7638).
        let jwk = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#, client.x());
        let jkt = Thumbprint::of(jwk.as_bytes()).to_base64url();
        client.keyed = client.token(&json!({"jkt": jkt}));
        client.bound =
            client.token(&json!({"x5t#S256": client.identity.thumbprint().to_base64url()}));
        client.plain = client.token(&Value::Null);
        client
    }

    fn x(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.key.public_key().as_ref())
    }

    fn jwks(&self) -> String {
        let (x, y) = self.issuer.public_key().as_ref()[1..].split_at(32);
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        let key = json!({"kty": "EC", "crv": "P-256", "alg": "ES256", "kid": "k", "x": x, "y": y});
        json!({"keys": [key]}).to_string()
    }

    fn token(&self, cnf: &Value) -> String {
        let now = seconds();
        let mut claims = json!({
            "iss": "https://login.example/", "aud": "https://api.example", "sub": "shop",
            "client_id": "shop", "jti": "1", "iat": now - 5, "exp": now + 800,
        });
        if !cnf.is_null() {
            claims["cnf"] = cnf.clone();
        }
        let header = json!({"alg": "ES256", "typ": "at+jwt", "kid": "k"});
        let input = input(&header, &claims);
        let signature = self.issuer.sign(&SystemRandom::new(), input.as_bytes()).unwrap();
        format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
    }

    fn ask(&self, path: &'static str, authorization: String, proof: Option<String>) -> Ask {
        let pem = STANDARD.encode(self.identity.certificate_der());
        let pem = format!("-----BEGIN CERTIFICATE-----\n{pem}\n-----END CERTIFICATE-----\n");
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        let percent = |byte: u8| {
            if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }
        };
        let certificate = pem.bytes().map(percent).collect();
        Ask { stream: String::new(), proof, path, authorization, certificate }
    }

    /// A check with a proof that nobody has seen.
    pub(crate) fn fresh(&self) -> Ask {
        self.fresh_for("/plain")
    }

    pub(crate) fn fresh_for(&self, path: &'static str) -> Ask {
        let jwk = json!({"kty": "OKP", "crv": "Ed25519", "x": self.x()});
        let header = json!({"typ": "dpop+jwt", "alg": "EdDSA", "jwk": jwk});
        let claims = json!({
            "jti": format!("proof-{}", self.next.fetch_add(1, Ordering::Relaxed)),
            "htm": "GET", "htu": format!("https://api.example{path}"), "iat": seconds(),
            "ath": Thumbprint::of(self.keyed.as_bytes()).to_base64url(),
        });
        let input = input(&header, &claims);
        let signature = URL_SAFE_NO_PAD.encode(self.key.sign(input.as_bytes()).as_ref());
        self.ask(path, format!("DPoP {}", self.keyed), Some(format!("{input}.{signature}")))
    }

    /// A check that needs no Redis.
    pub(crate) fn bearer(&self) -> Ask {
        self.ask("/bearer", format!("Bearer {}", self.plain), None)
    }

    /// A check with a token bound to the certificate.
    pub(crate) fn bound(&self) -> Ask {
        self.ask("/bound", format!("Bearer {}", self.bound), None)
    }
}

fn input(header: &Value, claims: &Value) -> String {
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}", encode(header), encode(claims))
}

fn seconds() -> u64 {
    SystemClock.now().as_secs()
}

/// A port that is free now.
fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}
