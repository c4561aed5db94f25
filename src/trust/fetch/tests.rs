//! Fetching from a small server that misbehaves, and hosts that are not contacted.

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use super::*;

type Body = BoxBody<Bytes, Infallible>;

fn text(text: &'static str) -> Body {
    Full::new(Bytes::from_static(text.as_bytes())).boxed()
}

fn answer(path: &str) -> Response<Body> {
    let status = |code: u16| Response::builder().status(code);
    match path {
        "/ok" => Response::new(text("hello")),
        "/redirect" => status(302).header("location", "/ok").body(text("")).unwrap(),
        "/broken" => status(500).body(text("hello")).unwrap(),
        "/large" => {
            // 10 MiB, with no length announced.
            let chunk = Bytes::from(vec![b'x'; 1 << 20]);
            let chunks = (0..10).map(move |_| Ok(Frame::data(chunk.clone())));
            Response::new(StreamBody::new(futures_util::stream::iter(chunks)).boxed())
        }
        "/slow" => Response::new(StreamBody::new(futures_util::stream::pending()).boxed()),
        _ => status(404).body(text("")).unwrap(),
    }
}

async fn handle(request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    Ok(answer(request.uri().path()))
}

async fn serve() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _peer) = listener.accept().await.unwrap();
            let server = hyper::server::conn::http1::Builder::new();
            tokio::spawn(server.serve_connection(TokioIo::new(stream), service_fn(handle)));
        }
    });
    address
}

fn fetcher(hosts: &[&str]) -> Fetcher {
    let hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
    Fetcher::new(&OutboundSettings { hosts, ca_file: None, ..OutboundSettings::default() }).unwrap()
}

async fn fetch(path: &str) -> Result<Vec<u8>, FetchError> {
    let address = serve().await;
    fetcher(&[]).fetch(&format!("http://{address}{path}"), 1000).await
}

#[tokio::test]
async fn a_document_is_fetched_from_loopback_over_plain_http() {
    assert_eq!(fetch("/ok").await.unwrap(), b"hello");
    let port = serve().await.port();
    let url = format!("http://localhost:{port}/ok");
    assert_eq!(fetcher(&[]).fetch(&url, 1000).await.unwrap(), b"hello");
}

#[tokio::test]
async fn redirects_are_not_followed() {
    assert!(matches!(fetch("/redirect").await, Err(FetchError::Status(302))));
}

#[tokio::test]
async fn another_status_than_200_is_an_error() {
    assert!(matches!(fetch("/broken").await, Err(FetchError::Status(500))));
    assert!(matches!(fetch("/none").await, Err(FetchError::Status(404))));
}

#[tokio::test]
async fn a_body_is_read_up_to_the_bound_only() {
    assert!(matches!(fetch("/large").await, Err(FetchError::TooLong(1000))));
    let address = serve().await;
    let url = format!("http://{address}/ok");
    assert!(matches!(fetcher(&[]).fetch(&url, 4).await, Err(FetchError::TooLong(4))));
    assert!(fetcher(&[]).fetch(&url, 5).await.is_ok());
}

#[tokio::test]
async fn a_body_that_never_ends_is_cut_off() {
    let outbound =
        OutboundSettings { hosts: Vec::new(), ca_file: None, ..OutboundSettings::default() };
    let total = Duration::from_millis(500);
    let fetcher = Fetcher::with_timeouts(&outbound, CONNECT_TIMEOUT, total).unwrap();
    let url = format!("http://{}/slow", serve().await);
    let Err(FetchError::Transport(error)) = fetcher.fetch(&url, 1000).await else { panic!() };
    assert!(error.is_timeout(), "{error:?}");
}

#[tokio::test]
async fn a_dead_host_is_an_error_that_tells_the_cause() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let error = fetcher(&[]).fetch(&format!("http://{address}/ok"), 9).await.unwrap_err();
    assert!(matches!(error, FetchError::Transport(_)));
    let told = crate::trust::refresh::chain(&error);
    assert!(told.starts_with("no answer from the host: ") && told.contains("refused"), "{told}");
}

/// Serves `/ok` over TLS as `name` on a port of loopback, and returns its certificate.
async fn serve_tls(name: &str) -> (u16, rcgen::CertifiedKey<rcgen::KeyPair>) {
    let signed = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    let key =
        rustls::pki_types::PrivateKeyDer::try_from(signed.signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(
        rustls::crypto::aws_lc_rs::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .unwrap()
    .with_no_client_auth()
    .with_single_cert(vec![signed.cert.der().clone()], key)
    .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (stream, _peer) = listener.accept().await.unwrap();
            let Ok(stream) = acceptor.accept(stream).await else { continue };
            let server = hyper::server::conn::http1::Builder::new();
            tokio::spawn(server.serve_connection(TokioIo::new(stream), service_fn(handle)));
        }
    });
    (port, signed)
}

/// A proxy that leads every `CONNECT` to `port` of loopback; returns its port and what it was asked.
async fn serve_proxy(port: u16) -> (u16, Arc<std::sync::Mutex<Vec<String>>>) {
    use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _};
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = listener.local_addr().unwrap().port();
    let asked = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    tokio::spawn(async move {
        loop {
            let (stream, _peer) = listener.accept().await.unwrap();
            let seen = Arc::clone(&seen);
            tokio::spawn(async move {
                let mut client = tokio::io::BufReader::new(stream);
                let mut line = String::new();
                while client.read_line(&mut line).await.unwrap() > 2 {
                    if line.starts_with("CONNECT") {
                        seen.lock().unwrap().push(line.trim().to_owned());
                    }
                    line.clear();
                }
                let mut server = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                tokio::io::copy_bidirectional(&mut client, &mut server).await.ok()
            });
        }
    });
    (own, asked)
}

#[tokio::test]
async fn what_is_not_loopback_is_contacted_through_the_proxy_end_to_end_over_tls() {
    let (port, signed) = serve_tls("login.example").await;
    let (proxy, asked) = serve_proxy(port).await;
    let directory = tempfile::tempdir().unwrap();
    let ca = directory.path().join("ca.pem");
    std::fs::write(&ca, signed.cert.pem()).unwrap();
    let outbound = OutboundSettings {
        hosts: vec!["login.example".to_owned(), "other.example".to_owned()],
        ca_file: Some(ca),
        proxy: Some(format!("http://127.0.0.1:{proxy}")),
        ..OutboundSettings::default()
    };
    let fetcher = Fetcher::new(&outbound).unwrap();
    assert_eq!(fetcher.fetch("https://login.example/ok", 9).await.unwrap(), b"hello");
    let connects = || asked.lock().unwrap().clone();
    assert_eq!(connects(), ["CONNECT login.example:443 HTTP/1.1"]);
    // Whoever the proxy leads to has to be who was meant.
    let other = fetcher.fetch("https://other.example/ok", 9).await;
    assert!(matches!(other, Err(FetchError::Transport(_))));
    assert_eq!(connects().len(), 2);
    let forbidden = fetcher.fetch("https://169.254.169.254/ok", 9).await;
    assert!(matches!(forbidden, Err(FetchError::Url(UrlError::Address(_)))));
    let plain = serve().await.port();
    for host in ["127.0.0.1", "localhost"] {
        let url = format!("http://{host}:{plain}/ok");
        assert_eq!(fetcher.fetch(&url, 9).await.unwrap(), b"hello", "{host}");
    }
    assert_eq!(connects().len(), 2);
}

#[tokio::test]
async fn a_certificate_of_an_unknown_authority_is_refused_and_one_of_the_ca_file_is_not() {
    let (port, signed) = serve_tls("localhost").await;
    let directory = tempfile::tempdir().unwrap();
    let trusting = |name: &str, pem: String| {
        let path = directory.path().join(name);
        std::fs::write(&path, pem).unwrap();
        Fetcher::new(&OutboundSettings {
            hosts: Vec::new(),
            ca_file: Some(path),
            ..OutboundSettings::default()
        })
    };
    let url = format!("https://localhost:{port}/ok");
    let ours = trusting("ours.pem", signed.cert.pem()).unwrap();
    assert_eq!(ours.fetch(&url, 9).await.unwrap(), b"hello");
    let stranger = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let theirs = trusting("theirs.pem", stranger.cert.pem()).unwrap();
    assert!(matches!(theirs.fetch(&url, 9).await, Err(FetchError::Transport(_))));
    // Right authority, and another name than the certificate's.
    let url = format!("https://127.0.0.1:{port}/ok");
    assert!(matches!(ours.fetch(&url, 9).await, Err(FetchError::Transport(_))));
}

#[test]
fn a_ca_file_that_is_missing_or_holds_no_certificate_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ca.pem");
    let outbound = OutboundSettings {
        hosts: Vec::new(),
        ca_file: Some(path.clone()),
        ..OutboundSettings::default()
    };
    assert!(matches!(Fetcher::new(&outbound), Err(FetcherError::CaFile { .. })));
    for text in ["", "rubbish", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        std::fs::write(&path, text).unwrap();
        let refused = Fetcher::new(&outbound);
        assert!(matches!(refused, Err(FetcherError::CaCertificates { .. })), "{text}");
    }
}

#[test]
fn only_listed_hosts_and_loopback_may_be_contacted() {
    let fetcher = fetcher(&["login.example", "*.Corp.example"]);
    for url in [
        "https://login.example/keys",
        "https://LOGIN.example:8443/keys",
        "https://a.corp.example/",
        "https://a.b.corp.example/",
        "https://127.0.0.1/",
        "http://127.0.0.2:8080/",
        "http://[::1]/",
        "http://localhost/",
    ] {
        assert!(fetcher.check(url).is_ok(), "{url}");
    }
    for (url, host) in [
        ("https://other.example/", "other.example"),
        ("https://corp.example/", "corp.example"),
        ("https://evilcorp.example/", "evilcorp.example"),
        ("https://login.example.evil.example/", "login.example.evil.example"),
        ("https://10.0.0.1/", "10.0.0.1"),
    ] {
        let refused = fetcher.check(url).unwrap_err();
        assert_eq!(refused, UrlError::Host(host.to_owned()));
        assert!(refused.to_string().contains("`outbound.hosts`"));
    }
}

#[test]
fn plain_http_is_for_loopback_only() {
    let fetcher = fetcher(&["login.example"]);
    for url in ["http://login.example/", "ftp://login.example/", "file:///etc/passwd"] {
        let refused = fetcher.check(url).unwrap_err();
        assert!(matches!(refused, UrlError::Scheme(_) | UrlError::NotAUrl(_)), "{url}");
    }
    assert_eq!(
        fetcher.check("http://login.example/"),
        Err(UrlError::Scheme("http://login.example/".to_owned()))
    );
    assert_eq!(fetcher.check("keys.json"), Err(UrlError::NotAUrl("keys.json".to_owned())));
    assert_eq!(fetcher.check("https://u:p@login.example/"), Err(UrlError::Credentials));
}

#[test]
fn link_local_and_other_addresses_without_a_host_are_never_contacted() {
    let fetcher = fetcher(&["169.254.169.254", "[fe80::1]", "0.0.0.0"]);
    for url in [
        "https://169.254.169.254/latest",
        "http://169.254.169.254/latest",
        "https://2852039166/",
        "https://[::ffff:169.254.169.254]/",
        "https://[fe80::1]/",
        "https://0.0.0.0/",
        "https://[::]/",
        "https://224.0.0.1/",
    ] {
        assert!(matches!(fetcher.check(url), Err(UrlError::Address(_))), "{url}");
    }
}

#[tokio::test]
async fn a_name_is_resolved_to_addresses_that_may_be_contacted_only() {
    assert!(resolve(LOCALHOST).await.unwrap().iter().all(|a| a.ip().is_loopback()));
    // Literal addresses resolve without a network.
    assert!(resolve("169.254.169.254").await.is_err());
    assert!(resolve("127.0.0.1").await.is_ok());
}
