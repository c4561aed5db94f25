//! The whole app with a stand-in for the service.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tonic::body::Body;

use super::*;
use crate::{
    clock::{Clock as _, SystemClock},
    transport::server::Refused,
};

/// Answers all.
#[derive(Clone, Debug)]
struct StandIn;

impl CheckService for StandIn {
    type Body = Body;

    async fn call(self, _: Request<Incoming>, _: Option<Arc<str>>) -> Response<Body> {
        Response::new(Body::empty())
    }
}

/// Does not look.
#[derive(Debug)]
struct Unobserved;

impl ConnectionObserver for Unobserved {
    fn opened(&self) -> Box<dyn Send> {
        Box::new(())
    }

    fn refused(&self, _: Refused) {}
}

fn settings() -> Settings {
    let free = Endpoint::Tcp(([127, 0, 0, 1], 0).into());
    let mut settings = Settings::default();
    settings.grpc.listen = vec![free.clone()];
    settings.metrics.listen = free.clone();
    settings.admin.listen = free;
    settings.workers = Some(1);
    settings
}

fn generation() -> Generation {
    let loaded = SystemClock.now();
    Generation { number: 1, hash: "00".into(), commit: None, loaded }
}

fn services(loaded: &Arc<AtomicBool>, reloads: &Arc<AtomicU64>) -> Services<StandIn> {
    let (loaded, reloads) = (Arc::clone(loaded), Arc::clone(reloads));
    Services {
        checks: StandIn,
        callers: Arc::new(|_| false),
        connections: Arc::new(Unobserved),
        live: Arc::new(move || loaded.load(Ordering::SeqCst).then(generation)),
        reload: Arc::new(move || {
            reloads.fetch_add(1, Ordering::SeqCst);
        }),
        metrics: Arc::new(|| "symbolon_up 1\n".to_owned()),
        details: Arc::new(|| vec!["generation 1".to_owned()]),
        status: Arc::new(|| "{}".to_owned()),
        finish: Arc::new(|| {}),
        clock: Arc::new(SystemClock),
    }
}

async fn start(settings: &Settings, loaded: bool) -> (RunningApp, Arc<AtomicBool>) {
    let loaded = Arc::new(AtomicBool::new(loaded));
    let services = services(&loaded, &Arc::default());
    (RunningApp::start(settings, services, &Handle::current()).await.unwrap(), loaded)
}

fn tcp(endpoint: &Endpoint) -> SocketAddr {
    match endpoint {
        Endpoint::Tcp(address) => *address,
        Endpoint::Unix(_) => panic!("not TCP"),
    }
}

async fn page(endpoint: &Endpoint, path: &str) -> (StatusCode, String) {
    let io = TokioIo::new(TcpStream::connect(tcp(endpoint)).await.unwrap());
    let (mut client, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    let request = Request::builder().uri(path).header("host", "localhost");
    let request = request.body(Empty::<Bytes>::new()).unwrap();
    let (parts, body) = client.send_request(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (parts.status, String::from_utf8(body.to_vec()).unwrap())
}

async fn check(address: SocketAddr) -> StatusCode {
    let io = TokioIo::new(TcpStream::connect(address).await.unwrap());
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let request = Request::post("http://symbolon/envoy.service.auth.v3.Authorization/Check")
        .header("content-type", "application/grpc")
        .body(Empty::<Bytes>::new());
    client.send_request(request.unwrap()).await.unwrap().status()
}

#[tokio::test]
async fn app_is_ready_once_a_policy_set_is_loaded() {
    let (app, loaded) = start(&settings(), false).await;
    let not_ready = (StatusCode::SERVICE_UNAVAILABLE, "not ready\ngeneration 1\n".to_owned());
    assert_eq!(page(app.metrics(), "/readyz?verbose").await, not_ready);
    loaded.store(true, Ordering::SeqCst);
    let ready = async { while page(app.metrics(), "/readyz").await.0 != StatusCode::OK {} };
    tokio::time::timeout(Duration::from_secs(60), ready).await.unwrap();
}

#[tokio::test]
async fn metrics_and_status_are_on_listeners_of_their_own() {
    let (app, _) = start(&settings(), true).await;
    assert_eq!(page(app.metrics(), "/metrics").await.1, "symbolon_up 1\n");
    assert_eq!(page(app.metrics(), "/status").await.0, StatusCode::NOT_FOUND);
    assert_eq!(page(app.admin(), "/status").await.1, "{}");
    assert_eq!(page(app.admin(), "/metrics").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn drain_answers_during_the_grace_though_not_ready() {
    let mut settings = settings();
    // Longer than any test: what is seen here is seen during the grace.
    settings.drain.grace = Duration::from_secs(3600);
    let (app, _) = start(&settings, true).await;
    let (grpc, metrics) = (tcp(&app.grpc()[0]), app.metrics().clone());
    let lifecycle = app.lifecycle().clone();
    let drain = tokio::spawn(app.drain());
    while !lifecycle.is_draining() {
        tokio::task::yield_now().await;
    }
    let draining = page(&metrics, "/readyz?verbose").await;
    assert_eq!(draining.0, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(draining.1, "not ready\ndraining\ngeneration 1\n");
    assert_eq!(check(grpc).await, StatusCode::OK);
    drain.abort();
}

#[tokio::test]
async fn drain_ends_with_all_listeners_closed() {
    // Unix sockets: a port that was closed may be another test's at once.
    let dir = tempfile::tempdir().unwrap();
    let paths = ["grpc", "metrics", "admin"].map(|name| dir.path().join(name));
    let [grpc, metrics, admin] = paths.clone().map(Endpoint::Unix);
    let mut settings = settings();
    settings.grpc.listen = vec![grpc];
    settings.metrics.listen = metrics;
    settings.admin.listen = admin;
    settings.drain.grace = Duration::ZERO;
    let (app, _) = start(&settings, true).await;
    assert!(paths.iter().all(|path| path.exists()));
    assert!(app.drain().await);
    assert!(paths.iter().all(|path| !path.exists()));
}

#[tokio::test]
async fn reload_is_passed_on() {
    let reloads = Arc::new(AtomicU64::new(0));
    let services = services(&Arc::default(), &reloads);
    let app = RunningApp::start(&settings(), services, &Handle::current()).await.unwrap();
    app.reload().await;
    assert_eq!(reloads.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn admin_listener_that_others_can_reach_does_not_start() {
    let mut settings = settings();
    settings.admin.listen = Endpoint::Tcp(([0, 0, 0, 0], 0).into());
    let services = services(&Arc::default(), &Arc::default());
    let error = RunningApp::start(&settings, services, &Handle::current()).await.unwrap_err();
    assert_eq!(error.to_string(), "`admin.listen` is to be a loopback address or a Unix socket");
}

fn send(signal: &str) {
    let kill = format!("kill -{signal} {}", std::process::id());
    assert!(std::process::Command::new("sh").args(["-c", &kill]).status().unwrap().success());
}

async fn until(holds: impl Fn() -> bool) {
    let wait = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait).await.expect("in time");
}

/// One test, as signals reach all who listen for them in a process.
#[tokio::test]
async fn signals_reload_drain_and_end_at_once() {
    let (loaded, reloads) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicU64::new(0)));
    for (grace, second, code) in [
        (Duration::ZERO, false, ExitCode::SUCCESS),
        (Duration::from_secs(3600), true, ExitCode::FAILURE),
    ] {
        let mut settings = settings();
        settings.drain.grace = grace;
        let services = services(&loaded, &reloads);
        let app = RunningApp::start(&settings, services, &Handle::current()).await.unwrap();
        let lifecycle = app.lifecycle().clone();
        let before = reloads.load(Ordering::SeqCst);
        let steering = tokio::spawn(Signals::take().unwrap().steer(app));
        send("HUP");
        until(|| reloads.load(Ordering::SeqCst) > before).await;
        send("TERM");
        until(|| lifecycle.is_draining()).await;
        if second {
            assert!(!steering.is_finished());
            send("INT");
        }
        assert_eq!(format!("{:?}", steering.await.unwrap()), format!("{code:?}"));
    }
}
