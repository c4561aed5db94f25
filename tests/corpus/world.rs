//! The real server, once for each set-up that cases ask for, and a client of it.

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    fs, io,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    sync::{Arc, Mutex},
    task::Poll,
    time::{Duration, Instant},
};

use bytes::{Buf as _, BufMut as _, Bytes};
use envoy_types::pb::envoy::service::auth::v3::CheckResponse;
use futures_util::{StreamExt as _, stream};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::{body::Incoming, client::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use serde_json::{Value, json};
use symbolon::{
    app::{RunningApp, compose},
    cli::demo::client::get,
    clock::{ManualClock, SharedClock},
    config::{Endpoint, Overflow, RecordSink, RedisUrl, ReplayKind, Settings},
};
use tempfile::TempDir;
use tokio::{net::TcpStream, runtime::Handle, task::JoinHandle};
use tonic::{
    Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint as Remote},
};

use crate::{
    data::{Case, Encoding, folder, unhex},
    message,
    mint::{Mint, NOW},
    outcome::Outcome,
};

/// What a case asks of the server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Setup {
    word: String,
    evidence: Vec<String>,
    /// Time only goes on: what is asked later has a server of its own.
    later: u64,
}

impl Setup {
    pub(crate) fn of(case: &Case) -> Self {
        Self { word: case.setup.clone(), evidence: case.evidence.clone(), later: case.check.later }
    }

    fn apply(&self, settings: &mut Settings) {
        match self.word.as_str() {
            "" | "no-policies" => {}
            "overloaded" => settings.check.max_concurrent = 0,
            "drill" => settings.check.drill_panic_path = Some("/drill/panic".to_owned()),
            "no-room-for-records" => {
                settings.records.queue_bytes = 0;
                settings.records.overflow = Overflow::Deny;
            }
            "no-room-for-proofs" => settings.dpop.replay_entries = 0,
            "no-redis" => {
                settings.dpop.replay = Some(ReplayKind::Redis);
                let nobody = PathBuf::from("/nonexistent/redis.sock");
                settings.dpop.redis.url = Some(RedisUrl::Unix(nobody));
            }
            "short-time" => settings.check.timeout = Duration::from_millis(200),
            // What Envoy gives is what counts, less the margin: 60 s leave a fifth of one.
            "wide-margin" => {
                settings.check.timeout = Duration::from_secs(3600);
                settings.check.deadline_margin = Duration::from_millis(59_800);
            }
            "large-messages" => settings.grpc.max_message_bytes = 64 << 20,
            word => panic!("there is no setup `{word}`"),
        }
    }
}

/// A running server.
pub(crate) struct World {
    app: RunningApp,
    client: Grpc<Channel>,
    metrics: SocketAddr,
    mint: Mint,
    folder: TempDir,
    counters: BTreeMap<String, u64>,
    ran: Vec<(Case, Outcome)>,
    outcomes: HashMap<String, String>,
    /// What must never be written down.
    secrets: Vec<String>,
    /// Takes connections for an issuer that never answers.
    _silent: TcpListener,
}

impl World {
    pub(crate) async fn start(setup: &Setup) -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let mint = Mint::new();
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let policies = temporary.path().join("policies");
        fs::create_dir(&policies).unwrap();
        fs::create_dir(temporary.path().join("asked")).unwrap();
        fs::write(temporary.path().join("asked/client-secret"), "hunter2").unwrap();
        if setup.word != "no-policies" {
            let told = tells().await;
            write_policies(&policies, setup, &mint, silent.local_addr().unwrap(), told);
        }
        let free = Endpoint::Tcp(([127, 0, 0, 1], 0).into());
        let mut settings = Settings::default();
        settings.grpc.listen = vec![free.clone()];
        settings.metrics.listen = free.clone();
        settings.admin.listen = free;
        settings.workers = Some(1);
        settings.outbound.credentials_dir = Some(temporary.path().to_owned());
        settings.records.to = RecordSink::File(temporary.path().join("records.jsonl"));
        settings.drain.grace = Duration::ZERO;
        // Nothing here is to fail for a slow machine; what tests time sets it.
        settings.check.timeout = Duration::from_secs(30);
        setup.apply(&mut settings);
        let clock = Arc::new(ManualClock::at(NOW));
        let shared: SharedClock = Arc::<ManualClock>::clone(&clock);
        let services = compose(&settings, &policies, shared, &Handle::current()).unwrap();
        let (live, details) = (Arc::clone(&services.live), Arc::clone(&services.details));
        let app = RunningApp::start(&settings, services, &Handle::current()).await.unwrap();
        if setup.word != "no-policies" {
            let started = Instant::now();
            while live().is_none() {
                assert!(started.elapsed() < Duration::from_secs(20), "{:#?}", details());
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        clock.advance(Duration::from_secs(setup.later));
        let remote = Remote::from_shared(format!("http://{}", tcp(&app.grpc()[0]))).unwrap();
        let client = Grpc::new(remote.connect().await.unwrap());
        let metrics = tcp(app.metrics());
        let counters = counters(metrics).await;
        Self {
            app,
            client,
            metrics,
            mint,
            folder: temporary,
            counters,
            ran: Vec::new(),
            outcomes: HashMap::new(),
            secrets: vec!["hunter2".to_owned()],
            _silent: silent,
        }
    }

    /// Runs a case as often as it asks for.
    pub(crate) async fn run(&mut self, case: &Case, encoding: Encoding) -> Result<(), String> {
        for _ in 0..case.check.times.unwrap_or(1) {
            self.run_once(case, encoding).await?;
        }
        Ok(())
    }

    async fn run_once(&mut self, case: &Case, encoding: Encoding) -> Result<(), String> {
        let (bytes, token) = message::encode(case, encoding, &self.mint);
        let parts = token.iter().flat_map(|token| token.split('.')).filter(|part| part.len() > 60);
        self.secrets.extend(parts.map(str::to_owned));
        let asked = Instant::now();
        let response = match &case.check.frame {
            Some(frame) => self.call_with(unhex(frame), case.check.stalled).await?,
            None => self.call(bytes, case.check.deadline.as_deref()).await?,
        };
        let took = asked.elapsed();
        let outcome = Outcome::of(response)?;
        let counted = self.counted().await;
        let known = self.outcomes.entry(case.why.clone()).or_insert_with(|| outcome.without_id());
        let alike = if *known == outcome.without_id() {
            Ok(())
        } else {
            Err(format!("came out otherwise before: {known}"))
        };
        self.ran.push((case.clone(), outcome.clone()));
        outcome.compare(&case.expect)?;
        let decision = if outcome.code == 0 { "allow" } else { "deny" };
        let expected = format!("decision=\"{decision}\",reason=\"{}\" +1", case.expect.reason);
        if counted != [expected.clone()] {
            return Err(format!("counted {counted:?} instead of {expected}"));
        }
        if case.expect.within_ms.is_some_and(|bound| took > Duration::from_millis(bound)) {
            return Err(format!("took {took:?}"));
        }
        alike
    }

    async fn call(
        &mut self,
        message: Vec<u8>,
        deadline: Option<&str>,
    ) -> Result<CheckResponse, String> {
        self.client.ready().await.map_err(|error| error.to_string())?;
        let mut request = Request::new(message);
        if let Some(deadline) = deadline {
            request.metadata_mut().insert("grpc-timeout", deadline.parse().unwrap());
        }
        let path = PathAndQuery::from_static("/envoy.service.auth.v3.Authorization/Check");
        let response = self.client.unary(request, path, Raw).await;
        let response = response.map_err(|status| format!("the RPC failed: {status}"))?;
        CheckResponse::decode(&*response.into_inner()).map_err(|error| error.to_string())
    }

    /// Sends a body that no gRPC client sends.
    async fn call_with(&self, body: Vec<u8>, stalled: bool) -> Result<CheckResponse, String> {
        let said = |error: hyper::Error| format!("{error:?}");
        let stream = TcpStream::connect(tcp(&self.app.grpc()[0])).await.unwrap();
        let (mut client, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.map_err(said)?;
        let _connection = AbortOnDrop(tokio::spawn(async move {
            connection.await.ok();
        }));
        let first = stream::iter([Ok::<_, Infallible>(Frame::data(Bytes::from(body)))]);
        let rest =
            stream::poll_fn(move |_| if stalled { Poll::Pending } else { Poll::Ready(None) });
        let request = http::Request::post("http://x/envoy.service.auth.v3.Authorization/Check")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(StreamBody::new(first.chain(rest)))
            .unwrap();
        let response = client.send_request(request).await.map_err(said)?;
        if response.status() != 200 {
            return Err(format!("HTTP status {}", response.status()));
        }
        let body = response.into_body().collect().await.map_err(said)?;
        let status = body.trailers().and_then(|trailers| trailers.get("grpc-status")).cloned();
        if status.as_ref().is_none_or(|status| status != "0") {
            return Err(format!("the RPC failed: {status:?}"));
        }
        let body = body.to_bytes();
        CheckResponse::decode(body.get(5..).ok_or("no message")?).map_err(|e| e.to_string())
    }

    /// Which counters of checks moved since the last time, and how far.
    async fn counted(&mut self) -> Vec<String> {
        let now = counters(self.metrics).await;
        let moved = now
            .iter()
            .filter_map(|(labels, count)| {
                let by = count - self.counters.get(labels).copied().unwrap_or_default();
                (by > 0).then(|| format!("{labels} +{by}"))
            })
            .collect();
        self.counters = now;
        moved
    }

    /// Stops the server, then compares the decision records with the answers.
    pub(crate) async fn finish(self, log: &Mutex<Vec<u8>>) -> Vec<String> {
        let mut problems = Vec::new();
        let metrics = page(self.metrics).await;
        if !self.app.drain().await {
            problems.push("checks were still in flight".to_owned());
        }
        let text = fs::read_to_string(self.folder.path().join("records.jsonl")).unwrap_or_default();
        let mut records: HashMap<String, Value> = HashMap::new();
        for line in text.lines() {
            let record: Value = serde_json::from_str(line).unwrap();
            let id = record["decision_id"].as_str().unwrap().to_owned();
            assert!(records.insert(id, record).is_none(), "two records of one decision: {line}");
        }
        for (case, outcome) in &self.ran {
            if let Err(problem) = compare_record(case, outcome, records.remove(&outcome.id)) {
                problems.push(format!("{}: {problem}", case.name()));
            }
        }
        problems.extend(records.into_values().map(|record| format!("nobody asked for {record}")));
        let log = String::from_utf8_lossy(&log.lock().unwrap()).into_owned();
        for (what, text) in [("records", &text), ("log", &log), ("metrics", &metrics)] {
            for secret in self.secrets.iter().filter(|secret| text.contains(secret.as_str())) {
                problems.push(format!("the {what} hold {secret}"));
            }
        }
        problems
    }
}

fn compare_record(case: &Case, outcome: &Outcome, record: Option<Value>) -> Result<(), String> {
    if outcome.reason == "record_unavailable" {
        return record.map_or(Ok(()), |record| Err(format!("is recorded: {record}")));
    }
    let record = record.ok_or("is not recorded")?;
    let status = record.get("status").and_then(Value::as_i64);
    let decision = if outcome.code == 0 { "allow" } else { "deny" };
    let same = record["reason"] == outcome.reason.as_str()
        && record["decision"] == decision
        && record["rule"].as_str() == outcome.rule.as_deref()
        && status == outcome.status.map(i64::from);
    if !same {
        return Err(format!("the answer was {outcome:?}, the record is {record}"));
    }
    for (field, expected) in &case.expect.record {
        let found = record.pointer(&format!("/{}", field.replace('.', "/")));
        if found.unwrap_or(&Value::Null) != expected {
            return Err(format!("`{field}` is not {expected} in {record}"));
        }
    }
    Ok(())
}

/// Starts an issuer that tells of opaque tokens by their first word, and returns where it is.
async fn tells() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let answer = |form: &str| {
        let word = form.split(['=', '&']).nth(1).unwrap_or_default();
        let claims = match word {
            "good" => json!({"active": true, "aud": "https://payments.example", "sub": "alice"}),
            "bound" => json!({"active": true, "aud": "https://payments.example",
                              "cnf": {"x5t#S256": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}}),
            "late" => json!({"active": true, "aud": "https://payments.example", "exp": NOW - 60}),
            "refresh" => json!({"active": true, "aud": "https://payments.example",
                                "token_type": "refresh_token"}),
            "elsewhere" => json!({"active": true, "aud": "https://refunds.example"}),
            "foreign" => json!({"active": true, "iss": "https://other.example",
                                "aud": "https://payments.example"}),
            "nobodys" => json!({"active": true}),
            "maybe" => json!({"active": "true", "aud": "https://payments.example"}),
            _ => json!({"active": false}),
        };
        claims.to_string()
    };
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(move |request: http::Request<Incoming>| async move {
                let form = request.into_body().collect().await.unwrap().to_bytes();
                let form = String::from_utf8(form.to_vec()).unwrap();
                Ok::<_, Infallible>(http::Response::new(answer(&form)))
            });
            let server = hyper::server::conn::http1::Builder::new();
            tokio::spawn(server.serve_connection(TokioIo::new(stream), service));
        }
    });
    address
}

fn write_policies(
    policies: &std::path::Path,
    setup: &Setup,
    mint: &Mint,
    silent: SocketAddr,
    tells: SocketAddr,
) {
    for entry in fs::read_dir(folder().join("world/policies")).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name();
        let cannot_hold = (["certificates.yaml", "challenges.yaml", "opaque.yaml", "svids.yaml"]
            .contains(&&*name.to_string_lossy())
            && setup.evidence == ["principal"])
            || (name == "tcp.yaml" && setup.evidence == ["xfcc"]);
        if cannot_hold {
            continue;
        }
        let text = fs::read_to_string(entry.path()).unwrap();
        let text = text.replace("127.0.0.1:9/", &format!("{silent}/"));
        let text = text.replace("127.0.0.1:10/", &format!("{tells}/"));
        fs::write(policies.join(entry.file_name()), text).unwrap();
    }
    fs::write(policies.join("keys.json"), mint.jwks()).unwrap();
    fs::write(policies.join("bundle.json"), mint.bundle()).unwrap();
    let trust = format!(
        "apiVersion: symbolon/v1\nkind: PeerTrust\nmetadata: {{name: mesh}}\nspec: {{evidence: [{}]}}\n",
        setup.evidence.join(", ")
    );
    fs::write(policies.join("mesh.yaml"), trust).unwrap();
}

/// The counters of checks, by their labels.
async fn counters(metrics: SocketAddr) -> BTreeMap<String, u64> {
    page(metrics)
        .await
        .lines()
        .filter_map(|line| line.strip_prefix("symbolon_checks_total{")?.split_once("} "))
        .map(|(labels, count)| (labels.to_owned(), count.parse().unwrap()))
        .collect()
}

async fn page(metrics: SocketAddr) -> String {
    let answer = get(metrics, "/metrics").await.unwrap();
    String::from_utf8(answer.body.to_vec()).unwrap()
}

fn tcp(endpoint: &Endpoint) -> SocketAddr {
    match endpoint {
        Endpoint::Tcp(address) => *address,
        Endpoint::Unix(path) => panic!("{}", path.display()),
    }
}

/// Collects what the process logs, ours in every detail.
pub(crate) fn capture_log() -> Arc<Mutex<Vec<u8>>> {
    let log = Arc::new(Mutex::new(Vec::new()));
    tracing_subscriber::fmt()
        .with_env_filter("symbolon=trace,info")
        .with_writer({
            let log = Arc::clone(&log);
            move || Log(Arc::clone(&log))
        })
        .json()
        .init();
    log
}

struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Messages as bytes: some of the corpus are no messages.
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining()).to_vec()))
    }
}
