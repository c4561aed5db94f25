//! Two small HTTP servers on loopback: the issuer's JWKS and the service behind Envoy.

use std::{collections::BTreeMap, convert::Infallible, net::SocketAddr, sync::Arc};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::{Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    task::{JoinHandle, JoinSet},
};

/// A server on a free port of loopback; it ends when this is dropped.
#[derive(Debug)]
pub struct Loopback {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Loopback {
    /// Starts a server that answers with what `respond` makes of each request.
    ///
    /// # Errors
    /// Where no port can be had.
    pub async fn start(
        respond: impl Fn(&Request<Incoming>) -> (StatusCode, Value) + Send + Sync + 'static,
    ) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.context("no port on loopback")?;
        let address = listener.local_addr()?;
        let respond = Arc::new(respond);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let respond = Arc::clone(&respond);
                let service = service_fn(move |request| {
                    let (status, body) = respond(&request);
                    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
                    *response.status_mut() = status;
                    response
                        .headers_mut()
                        .insert(CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
                    async move { Ok::<_, Infallible>(response) }
                });
                // A connection that breaks is the client's to report.
                connections.spawn(async move {
                    http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.ok()
                });
            }
        });
        Ok(Self { address, task })
    }

    /// Returns where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Loopback {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Starts the issuer's side: its key set, and nothing else.
///
/// # Errors
/// Where no port can be had.
pub async fn issuer(jwks: Value) -> Result<Loopback> {
    Loopback::start(move |request| match request.uri().path() {
        "/jwks.json" => (StatusCode::OK, jwks.clone()),
        _ => (StatusCode::NOT_FOUND, json!({})),
    })
    .await
}

/// Starts the service behind Envoy: it answers with what it received, all values of every header.
///
/// # Errors
/// Where no port can be had.
pub async fn upstream() -> Result<Loopback> {
    Loopback::start(|request| {
        let mut headers: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for (name, value) in request.headers() {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            headers.entry(name.as_str()).or_default().push(value);
        }
        let received = json!({
            "method": request.method().as_str(),
            "path": request.uri().to_string(),
            "headers": headers,
        });
        (StatusCode::OK, received)
    })
    .await
}
