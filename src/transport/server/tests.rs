//! The server with a stand-in for the service, over real sockets.

mod tls;

use std::{net::SocketAddr, path::Path};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, client::conn::http2::SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite},
    net::{TcpStream, UnixStream},
    sync::Notify,
};
use tonic::body::Body;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::*;
use crate::clock::SystemClock;

const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";

/// Answers with the caller's name; `x-do: panic` panics, `x-do: hold` waits for `release`.
#[derive(Clone, Debug, Default)]
struct StandIn {
    entered: Arc<Notify>,
    release: Arc<Notify>,
}

impl CheckService for StandIn {
    type Body = Body;

    async fn call(self, request: Request<Incoming>, caller: Option<Arc<str>>) -> Response<Body> {
        match request.headers().get("x-do").map(http::HeaderValue::as_bytes) {
            Some(b"panic") => panic!("asked to"),
            Some(b"hold") => {
                self.entered.notify_one();
                self.release.notified().await;
            }
            _ => {}
        }
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let mut response = Response::new(Body::empty());
        let length = body.len().to_string().parse().unwrap();
        response.headers_mut().insert("x-body-bytes", length);
        let caller = caller.as_deref().unwrap_or("nobody").parse().unwrap();
        response.headers_mut().insert("x-caller", caller);
        response
    }
}

/// Counts.
#[derive(Debug, Default)]
struct Counts {
    open: Arc<AtomicU64>,
    refused: [AtomicU64; 4],
}

struct Open(Arc<AtomicU64>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl ConnectionObserver for Counts {
    fn opened(&self) -> Box<dyn Send> {
        self.open.fetch_add(1, Ordering::SeqCst);
        Box::new(Open(Arc::clone(&self.open)))
    }

    fn refused(&self, cause: Refused) {
        self.of(cause).fetch_add(1, Ordering::SeqCst);
    }
}

impl Counts {
    fn of(&self, cause: Refused) -> &AtomicU64 {
        match cause {
            Refused::Caller => &self.refused[0],
            Refused::Limit => &self.refused[1],
            Refused::Preface => &self.refused[2],
            Refused::Tls => &self.refused[3],
        }
    }
}

/// Waits for a count, as a client can see a connection's end before it is counted.
async fn assert_count(counter: &AtomicU64, expected: u64) {
    let reached = async {
        while counter.load(Ordering::SeqCst) != expected {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(60), reached).await.expect("counted");
}

/// A server under test.
struct Under {
    server: Server,
    service: StandIn,
    lifecycle: Lifecycle,
    counts: Arc<Counts>,
}

fn settings() -> GrpcSettings {
    GrpcSettings { listen: vec![Endpoint::Tcp(([127, 0, 0, 1], 0).into())], ..Default::default() }
}

async fn start(settings: GrpcSettings, tls: Option<Arc<Tls>>) -> Under {
    start_at(settings, tls, Arc::new(SystemClock)).await
}

async fn start_at(settings: GrpcSettings, tls: Option<Arc<Tls>>, clock: SharedClock) -> Under {
    let service = StandIn::default();
    let lifecycle = Lifecycle::starting().await;
    let counts = Arc::new(Counts::default());
    let observer = Arc::clone(&counts);
    let parts = Parts {
        observer,
        service: service.clone(),
        lifecycle: lifecycle.clone(),
        tls,
        clock,
        // One, so that a panic would be seen by all connections that follow.
        workers: Some(1),
    };
    let server = Server::start(&settings, parts, &Handle::current()).unwrap();
    Under { server, service, lifecycle, counts }
}

impl Under {
    fn address(&self) -> SocketAddr {
        match &self.server.bound()[0] {
            Endpoint::Tcp(address) => *address,
            Endpoint::Unix(_) => panic!("not TCP"),
        }
    }

    async fn connect(&self) -> Client {
        client(TcpStream::connect(self.address()).await.unwrap()).await
    }

    async fn assert_refused(&self, cause: Refused, expected: u64) {
        assert_count(self.counts.of(cause), expected).await;
    }
}

/// One connection of an Envoy.
struct Client {
    send: SendRequest<Full<Bytes>>,
    /// Ends with the connection.
    connection: JoinHandle<hyper::Result<()>>,
}

async fn client<I: AsyncRead + AsyncWrite + Unpin + Send + 'static>(io: I) -> Client {
    let (send, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(io))
            .await
            .unwrap();
    Client { send, connection: tokio::spawn(connection) }
}

impl Client {
    async fn send(&mut self, path: &str, x_do: &str, body: Bytes) -> hyper::Result<Answer> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("http://symbolon{path}"))
            .header("content-type", "application/grpc")
            .header("x-do", x_do)
            .body(Full::new(body))
            .unwrap();
        self.send_request(request).await
    }

    async fn send_request(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Answer> {
        self.send.ready().await?;
        let (parts, body) = self.send.send_request(request).await?.into_parts();
        let body = body.collect().await?;
        let trailers = body.trailers().cloned().unwrap_or_default();
        let body = body.to_bytes();
        Ok(Answer { status: parts.status, headers: parts.headers, trailers, body })
    }

    async fn check(&mut self, x_do: &str) -> hyper::Result<Answer> {
        self.send(CHECK, x_do, Bytes::new()).await
    }

    async fn health(&mut self, service: &str) -> Answer {
        let message = HealthCheckRequest { service: service.to_owned() }.encode_to_vec();
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        let framed = [&[0], length.as_slice(), &message].concat();
        self.send("/grpc.health.v1.Health/Check", "", framed.into()).await.unwrap()
    }
}

#[derive(Debug)]
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    trailers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    fn serving(&self) -> bool {
        assert_eq!(self.trailers.get("grpc-status").unwrap(), "0", "{self:?}");
        HealthCheckResponse::decode(&self.body[5..]).unwrap().status == 1
    }
}

#[tokio::test]
async fn check_over_plaintext_has_no_caller() {
    let under = start(settings(), None).await;
    let answer = under.connect().await.check("").await.unwrap();
    assert_eq!(answer.header("x-caller"), "nobody");
    assert_eq!(answer.header("date"), "");
}

#[tokio::test]
async fn message_of_the_largest_size_arrives_whole() {
    let under = start(settings(), None).await;
    let body = Bytes::from(vec![7; settings().max_message_bytes]);
    let answer = under.connect().await.send(CHECK, "", body).await.unwrap();
    assert_eq!(answer.header("x-body-bytes"), settings().max_message_bytes.to_string());
}

#[tokio::test]
async fn unknown_paths_are_unimplemented() {
    let under = start(settings(), None).await;
    let mut client = under.connect().await;
    for path in [
        "/",
        "/envoy.service.auth.v3.Authorization/Other",
        "/envoy.service.auth.v3.Authorization/Check/",
    ] {
        let answer = client.send(path, "", Bytes::new()).await.unwrap();
        assert_eq!(answer.header("grpc-status"), "12", "{path}");
    }
}

#[tokio::test]
async fn calls_that_are_not_grpc_are_refused() {
    let under = start(settings(), None).await;
    let mut client = under.connect().await;
    let request = |method, kind| {
        let request = Request::builder().method(method).uri(format!("http://symbolon{CHECK}"));
        request.header("content-type", kind).body(Full::default()).unwrap()
    };
    let answer = client.send_request(request("POST", "application/json")).await.unwrap();
    assert_eq!(answer.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let answer = client.send_request(request("GET", "application/grpc")).await.unwrap();
    assert_eq!(answer.header("grpc-status"), "12");
}

#[tokio::test]
async fn health_follows_load_and_drain() {
    let under = start(settings(), None).await;
    let mut client = under.connect().await;
    let names = ["", "envoy.service.auth.v3.Authorization"];
    for name in names {
        assert!(!client.health(name).await.serving(), "before a load");
    }
    under.lifecycle.loaded().await;
    for name in names {
        assert!(client.health(name).await.serving(), "after a load");
    }
    assert!(under.lifecycle.is_ready());
    under.lifecycle.draining().await;
    under.lifecycle.loaded().await;
    for name in names {
        assert!(!client.health(name).await.serving(), "while draining");
    }
    assert!(!under.lifecycle.is_ready());
    assert_eq!(client.health("other").await.header("grpc-status"), "5");
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed_at_once() {
    let under = start(GrpcSettings { max_connections: 1, ..settings() }, None).await;
    let mut first = under.connect().await;
    first.check("").await.unwrap();
    let mut second = TcpStream::connect(under.address()).await.unwrap();
    assert_eq!(second.read(&mut [0; 1]).await.unwrap(), 0);
    under.assert_refused(Refused::Limit, 1).await;
    first.check("").await.unwrap();
}

#[tokio::test]
async fn server_that_no_longer_accepts_says_so() {
    struct Panics;
    impl ConnectionObserver for Panics {
        fn opened(&self) -> Box<dyn Send> {
            Box::new(())
        }

        fn refused(&self, _cause: Refused) {
            panic!("as asked");
        }
    }
    let parts = Parts {
        observer: Arc::new(Panics),
        service: StandIn::default(),
        lifecycle: Lifecycle::starting().await,
        tls: None,
        clock: Arc::new(SystemClock),
        workers: Some(1),
    };
    let settings = GrpcSettings { max_connections: 1, ..settings() };
    let server = Server::start(&settings, parts, &Handle::current()).unwrap();
    let Endpoint::Tcp(address) = server.bound()[0] else { panic!("not TCP") };
    let _first = client(TcpStream::connect(address).await.unwrap()).await;
    assert!(!server.is_broken());
    let _second = TcpStream::connect(address).await.unwrap();
    let broken = async {
        while !server.is_broken() {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(60), broken).await.expect("it says so");
}

#[tokio::test]
async fn other_protocols_are_closed() {
    let under = start(settings(), None).await;
    let mut stream = TcpStream::connect(under.address()).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stream, b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await
        .unwrap();
    // Closed with bytes unread, so as an end or as a reset.
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap_or(0), 0);
    under.assert_refused(Refused::Preface, 1).await;
}

#[tokio::test]
async fn panic_ends_its_call_and_nothing_else() {
    let under = start(settings(), None).await;
    let mut client = under.connect().await;
    client.check("panic").await.unwrap_err();
    client.check("").await.unwrap();
    under.connect().await.check("").await.unwrap();
}

#[tokio::test]
async fn open_connections_are_counted_until_they_end() {
    let under = start(settings(), None).await;
    let mut client = under.connect().await;
    client.check("").await.unwrap();
    assert_count(&under.counts.open, 1).await;
    drop(client);
    assert_count(&under.counts.open, 0).await;
}

#[tokio::test]
async fn close_ends_health_watches() {
    let under = start(settings(), None).await;
    let mut client = under.connect().await;
    let request = Request::post("http://symbolon/grpc.health.v1.Health/Watch")
        .header("content-type", "application/grpc")
        .body(Full::from(vec![0; 5]))
        .unwrap();
    let watching = client.send.send_request(request).await.unwrap();
    let mut body = watching.into_body();
    assert!(body.frame().await.unwrap().unwrap().is_data(), "the status now");
    assert!(under.server.close(Duration::from_secs(60)).await);
    assert!(body.frame().await.unwrap().unwrap().is_trailers(), "the end");
}

#[tokio::test]
async fn unix_socket_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("grpc.sock");
    let listen = vec![Endpoint::Unix(path.clone())];
    let under = start(GrpcSettings { listen, ..settings() }, None).await;
    let mut client = client(UnixStream::connect(&path).await.unwrap()).await;
    assert_eq!(client.check("").await.unwrap().header("x-caller"), "nobody");
    drop(client);
    assert!(under.server.close(Duration::from_secs(60)).await);
    assert!(!Path::new(&path).exists());
}

#[tokio::test]
async fn plaintext_that_others_can_reach_needs_to_be_allowed() {
    let listen = vec![Endpoint::Tcp(([0, 0, 0, 0], 0).into())];
    let parts = Parts {
        service: StandIn::default(),
        observer: Arc::new(Counts::default()),
        lifecycle: Lifecycle::starting().await,
        tls: None,
        clock: Arc::new(SystemClock),
        workers: Some(1),
    };
    let settings = GrpcSettings { listen, ..settings() };
    let started = Server::start(&settings, parts, &Handle::current());
    assert!(matches!(started, Err(StartError::Plaintext(_))), "{started:?}");
}

#[tokio::test]
async fn old_connection_ends_after_its_calls() {
    // Long enough for the call to have begun on a busy machine.
    let age = Duration::from_millis(500);
    let under = start(GrpcSettings { max_connection_age: age, ..settings() }, None).await;
    let mut client = under.connect().await;
    let held = tokio::spawn(async move {
        let answer = client.check("hold").await;
        (answer, client)
    });
    under.service.entered.notified().await;
    // Past its age with the jitter; were it not, the call would still have to be answered.
    tokio::time::sleep(age + age / 5).await;
    assert!(!held.is_finished());
    under.service.release.notify_one();
    let (answer, client) = held.await.unwrap();
    answer.unwrap();
    client.connection.await.unwrap().unwrap();
    assert_count(&under.server.cut_off, 0).await;
}

#[tokio::test]
async fn close_lets_calls_in_flight_finish() {
    // A Unix socket: a port that was closed may be another test's at once.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("grpc.sock");
    let listen = vec![Endpoint::Unix(path.clone())];
    let under = start(GrpcSettings { listen, ..settings() }, None).await;
    let connect = async || client(UnixStream::connect(&path).await.unwrap()).await;
    let (mut client, mut idle) = (connect().await, connect().await);
    idle.check("").await.unwrap();
    let held = tokio::spawn(async move { client.check("hold").await });
    under.service.entered.notified().await;
    let closing = tokio::spawn(under.server.close(Duration::from_secs(60)));
    // The idle connection's end says that closing has begun.
    idle.connection.await.unwrap().unwrap();
    UnixStream::connect(&path).await.unwrap_err();
    assert!(!held.is_finished());
    under.service.release.notify_one();
    held.await.unwrap().unwrap();
    assert!(closing.await.unwrap());
}

#[tokio::test]
async fn close_cuts_off_what_takes_too_long() {
    let under = start(settings(), None).await;
    let mut client = under.connect().await;
    let held = tokio::spawn(async move { client.check("hold").await });
    under.service.entered.notified().await;
    assert!(!under.server.close(Duration::from_millis(20)).await);
    held.await.unwrap().unwrap_err();
}
