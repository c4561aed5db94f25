//! Calls through Envoy: HTTP/1.1 over mTLS, with the path as written.
//!
//! A client that tidies paths up could not show what happens to untidy ones, so this one does not.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs::default_provider,
    pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, pem::PemObject as _},
};
use tokio::{
    net::TcpStream,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_rustls::TlsConnector;

use crate::cli::demo::pki::{Authority, Identity};

/// Makes connections as one workload, or as nobody.
#[derive(Clone)]
pub struct Client {
    connector: TlsConnector,
    address: SocketAddr,
}

/// One call.
#[derive(Clone, Debug)]
pub struct Call {
    /// The method.
    pub method: String,
    /// The host, as the `host` header says it.
    pub host: String,
    /// Path and query, sent as they are.
    pub path: String,
    /// Further headers, in order; a name may come twice.
    pub headers: Vec<(String, String)>,
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    driver: JoinHandle<()>,
}

impl Client {
    /// Creates a client of the Envoy at `address`; `identity` is shown in the handshake.
    ///
    /// # Errors
    /// Where a certificate or key does not fit.
    pub fn new(
        authority: &Authority,
        identity: Option<&Identity>,
        address: SocketAddr,
    ) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes())?)?;
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let config = match identity {
            None => config.with_no_client_auth(),
            Some(identity) => config.with_client_auth_cert(
                vec![CertificateDer::from(identity.certificate_der().to_vec())],
                PrivatePkcs8KeyDer::from(identity.key_der().to_vec()).into(),
            )?,
        };
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), address })
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// Where Envoy does not accept it.
    pub async fn connect(&self) -> Result<Connection> {
        timeout(PATIENCE, async {
            let stream = TcpStream::connect(self.address).await.context("cannot reach Envoy")?;
            stream.set_nodelay(true)?;
            let name = ServerName::try_from(SERVER_NAME)?;
            let stream =
                self.connector.connect(name, stream).await.context("the TLS handshake failed")?;
            let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            let driver = tokio::spawn(async move {
                // What goes wrong here also fails the call that waits for it.
                connection.await.ok();
            });
            Ok(Connection { sender, driver })
        })
        .await
        .context("no connection in time")?
    }

    /// Makes one call on a connection of its own.
    ///
    /// # Errors
    /// Where there is no answer; an answer of any status is none.
    pub async fn call(&self, call: &Call) -> Result<Answer> {
        self.connect().await?.call(call).await
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Client({})", self.address)
    }
}

impl Connection {
    /// Makes one call.
    ///
    /// # Errors
    /// Where there is no answer; an answer of any status is none.
    pub async fn call(&mut self, call: &Call) -> Result<Answer> {
        let mut request = Request::builder()
            .method(call.method.as_str())
            .uri(call.path.as_str())
            .header(http::header::HOST, &call.host);
        for (name, value) in &call.headers {
            request = request.header(name, value);
        }
        let request = request.body(Full::new(Bytes::new())).context("not a request")?;
        timeout(PATIENCE, async {
            self.sender.ready().await.context("the connection was closed")?;
            let response = self.sender.send_request(request).await.context("no answer")?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, MAX_BODY)
                .collect()
                .await
                .map_err(|error| anyhow::anyhow!("the answer broke off: {error}"))?;
            Ok(Answer {
                status: head.status.as_u16(),
                headers: head.headers,
                body: body.to_bytes(),
            })
        })
        .await
        .context("no answer in time")?
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Asks a plain HTTP server on loopback for `path` and returns the answer.
///
/// # Errors
/// Where there is no answer.
pub async fn get(address: SocketAddr, path: &str) -> Result<Answer> {
    let stream = TcpStream::connect(address).await?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(async move {
        connection.await.ok();
    });
    let call = Call {
        method: "GET".to_owned(),
        host: address.to_string(),
        path: path.to_owned(),
        headers: Vec::new(),
    };
    Connection { sender, driver }.call(&call).await
}

/// Tries `attempt` until it gives something, at most for `limit`.
///
/// # Errors
/// When the time is over.
pub async fn until<T, F: Future<Output = Option<T>>>(
    what: &str,
    limit: Duration,
    mut attempt: impl FnMut() -> F,
) -> Result<T> {
    timeout(limit, async {
        loop {
            if let Some(found) = attempt().await {
                return found;
            }
            sleep(BETWEEN_ATTEMPTS).await;
        }
    })
    .await
    .with_context(|| format!("waited {} s in vain for {what}", limit.as_secs()))
}

/// A name in the certificate of the demo's Envoy.
pub const SERVER_NAME: &str = "payments.demo.example";

/// Far longer than any answer takes; a hung process must not hang the demo.
const PATIENCE: Duration = Duration::from_secs(15);
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(20);
/// The upstream's echo is a few kilobytes.
const MAX_BODY: usize = 1 << 20;
