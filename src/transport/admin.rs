//! Our own HTTP pages: metrics, liveness, readiness, status. Read only, and none holds a credential.

use std::{
    collections::VecDeque, convert::Infallible, fmt, io, net::IpAddr, sync::Arc, time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Response, StatusCode,
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST, X_CONTENT_TYPE_OPTIONS},
    uri::Authority,
};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpStream, UnixStream},
    runtime::Handle,
    task::{AbortHandle, JoinHandle},
    time::timeout,
};

use super::server::{ListenError, Listener, Socket};
use crate::config::Endpoint;

/// The pages of one listener.
pub trait Pages: Send + Sync + 'static {
    /// Returns the page at `path`, `None` if there is none.
    fn page(&self, path: &str, query: Option<&str>) -> Option<Page>;

    /// Returns whether the pages are for those alone who ask for this machine by its address or as
    /// `localhost`, where they are served over TCP: a website that has its own name resolve to loopback
    /// makes a browser on this machine read what is served here (DNS rebinding), and that name tells.
    fn are_local(&self) -> bool {
        false
    }
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// 200 or 503.
    pub status: StatusCode,
    /// What kind of text it is.
    pub content_type: &'static str,
    /// The text.
    pub body: String,
}

/// Makes the text of a page.
pub type Text = Arc<dyn Fn() -> String + Send + Sync>;

/// Says how ready the process is.
pub type ReadinessProbe = Arc<dyn Fn() -> Readiness + Send + Sync>;

/// Whether checks are wanted, and what explains it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// Whether checks are wanted.
    pub ready: bool,
    /// Lines for `?verbose`: generation, last reload error, issuers. No identities.
    pub details: Vec<String>,
}

/// `/metrics`, `/livez` and `/readyz`: without identities, so that the cluster may read them.
pub struct MetricsPages {
    /// Prometheus's text format, 0.0.4.
    pub metrics: Text,
    /// Readiness.
    pub readiness: ReadinessProbe,
}

/// `/status`: for the machine's own users.
pub struct AdminPages {
    /// JSON.
    pub status: Text,
}

/// A running listener. Dropping it closes it and its connections.
#[derive(Debug)]
pub struct HttpServer {
    bound: Endpoint,
    task: JoinHandle<()>,
}

impl Page {
    fn text(status: StatusCode, body: impl Into<String>) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", body: body.into() }
    }
}

impl Pages for MetricsPages {
    fn page(&self, path: &str, query: Option<&str>) -> Option<Page> {
        match path {
            "/metrics" => Some(Page {
                status: StatusCode::OK,
                content_type: "text/plain; version=0.0.4; charset=utf-8",
                body: (self.metrics)(),
            }),
            // That it answers is the answer: restarting never mends what readiness tells.
            "/livez" => Some(Page::text(StatusCode::OK, "ok\n")),
            "/readyz" => Some((self.readiness)().page(has_flag(query, "verbose"))),
            _ => None,
        }
    }
}

impl Pages for AdminPages {
    fn are_local(&self) -> bool {
        true
    }

    fn page(&self, path: &str, _query: Option<&str>) -> Option<Page> {
        (path == "/status").then(|| Page {
            status: StatusCode::OK,
            content_type: "application/json",
            body: (self.status)(),
        })
    }
}

impl Readiness {
    fn page(self, verbose: bool) -> Page {
        let (status, word) = if self.ready {
            (StatusCode::OK, "ready")
        } else {
            (StatusCode::SERVICE_UNAVAILABLE, "not ready")
        };
        let mut body = format!("{word}\n");
        for line in self.details.iter().filter(|_| verbose) {
            // One line each, whatever a file name or a message holds.
            body.extend(line.chars().map(|c| if c.is_control() { ' ' } else { c }));
            body.push('\n');
        }
        Page::text(status, body)
    }
}

impl HttpServer {
    /// Serves `pages` at `endpoint` on `background`.
    ///
    /// # Errors
    /// As [`ListenError`] says.
    pub fn start(
        endpoint: &Endpoint,
        pages: Arc<dyn Pages>,
        background: &Handle,
    ) -> Result<Self, ListenError> {
        let _context = background.enter();
        let listener = Listener::bind(endpoint)?;
        let bound = listener.bound().clone();
        let task = background.spawn(accept(listener, pages));
        Ok(Self { bound, task })
    }

    /// Returns where it listens, with the port that the system chose.
    #[must_use]
    pub const fn bound(&self) -> &Endpoint {
        &self.bound
    }

    /// Stops, and returns when the listener and its socket file are gone.
    pub async fn close(mut self) {
        self.task.abort();
        drop((&mut self.task).await);
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for MetricsPages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MetricsPages")
    }
}

impl fmt::Debug for AdminPages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AdminPages")
    }
}

async fn accept(listener: Listener, pages: Arc<dyn Pages>) {
    // Oldest first.
    let mut open: VecDeque<AbortHandle> = VecDeque::new();
    // Ends its connections with it.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let socket = tokio::select! {
            socket = listener.accept() => socket,
            Some(_ended) = connections.join_next() => continue,
        };
        match socket {
            Ok(socket) => {
                open.retain(|connection| !connection.is_finished());
                // The oldest makes room, not the newest: a probe takes milliseconds, and were it turned
                // away by connections that idle, the process would be restarted.
                if open.len() >= MAX_CONNECTIONS
                    && let Some(oldest) = open.pop_front()
                {
                    oldest.abort();
                }
                let pages = Arc::clone(&pages);
                open.push_back(connections.spawn(async move {
                    if let Err(error) = serve(socket, pages).await {
                        tracing::debug!(%error, "an HTTP connection failed");
                    }
                }));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve(socket: Socket, pages: Arc<dyn Pages>) -> io::Result<()> {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_BUFFER)
        .max_headers(MAX_HEADERS);
    let check_host = pages.are_local() && matches!(socket, Socket::Tcp(_));
    let service = service_fn(move |request: Request<Incoming>| {
        let response = if check_host && !names_this_machine(&request) {
            respond(Page::text(StatusCode::MISDIRECTED_REQUEST, "ask by address or as localhost\n"))
        } else {
            answer(pages.as_ref(), &request)
        };
        async move { Ok::<_, Infallible>(response) }
    });
    let served = match socket {
        Socket::Tcp(stream) => {
            let io = TokioIo::new(TcpStream::from_std(stream)?);
            timeout(MAX_CONNECTION_AGE, http.serve_connection(io, service)).await
        }
        Socket::Unix(stream) => {
            let io = TokioIo::new(UnixStream::from_std(stream)?);
            timeout(MAX_CONNECTION_AGE, http.serve_connection(io, service)).await
        }
    };
    // Too old is no error: a scraper connects again.
    served.unwrap_or(Ok(())).map_err(io::Error::other)
}

fn answer<B>(pages: &dyn Pages, request: &Request<B>) -> Response<Full<Bytes>> {
    let uri = request.uri();
    let page = pages.page(uri.path(), uri.query());
    let refused = page.is_some() && !matches!(*request.method(), Method::GET | Method::HEAD);
    let page = match page {
        Some(_) if refused => Page::text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n"),
        Some(page) => page,
        None => Page::text(StatusCode::NOT_FOUND, "no such page\n"),
    };
    let mut response = respond(page);
    if refused {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    response
}

/// Says whether the request's `Host` (and its target's, if it has one) is an address or `localhost`.
fn names_this_machine<B>(request: &Request<B>) -> bool {
    let is_local = |host: &str| {
        let address = host.trim_start_matches('[').trim_end_matches(']');
        host.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok()
    };
    let mut hosts = request.headers().get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    let host = Authority::try_from(host.as_bytes());
    host.is_ok_and(|host| is_local(host.host())) && request.uri().host().is_none_or(is_local)
}

fn respond(page: Page) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(page.body)));
    *response.status_mut() = page.status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(page.content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// `?verbose`, `?verbose=1`, `?a&verbose`, as Kubernetes' own.
fn has_flag(query: Option<&str>, flag: &str) -> bool {
    query
        .unwrap_or_default()
        .split('&')
        .any(|part| part.split('=').next().unwrap_or_default() == flag)
}

/// Scrapers and probes need a handful.
const MAX_CONNECTIONS: usize = 64;

/// A client that sends its request byte by byte must not hold a connection; idle ones end so, too.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// Bounds what a client that does not read its answer can hold; scrape intervals are shorter.
const MAX_CONNECTION_AGE: Duration = Duration::from_secs(600);

/// As hyper's least: request lines here are short.
const MAX_BUFFER: usize = 8192;

/// Browsers send some twenty.
const MAX_HEADERS: usize = 64;

/// When there are no file descriptors left, asking again at once would take a core and find none.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, Empty};

    use super::*;

    fn readiness(ready: bool) -> ReadinessProbe {
        Arc::new(move || Readiness { ready, details: vec!["generation 7\nforged".to_owned()] })
    }

    fn pages(ready: bool) -> Arc<dyn Pages> {
        Arc::new(MetricsPages {
            metrics: Arc::new(|| "symbolon_up 1\n".to_owned()),
            readiness: readiness(ready),
        })
    }

    async fn ask(server: &HttpServer, method: Method, path: &str) -> (StatusCode, String) {
        let Endpoint::Tcp(address) = server.bound() else { panic!("not TCP") };
        let io = TokioIo::new(TcpStream::connect(address).await.unwrap());
        let (mut client, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost")
            .body(Empty::<Bytes>::new());
        let response = client.send_request(request.unwrap()).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    fn start(pages: Arc<dyn Pages>) -> HttpServer {
        let endpoint = Endpoint::Tcp(([127, 0, 0, 1], 0).into());
        HttpServer::start(&endpoint, pages, &Handle::current()).unwrap()
    }

    #[tokio::test]
    async fn pages_are_served_and_others_are_not_found() {
        let server = start(pages(true));
        for (path, status, body) in [
            ("/metrics", StatusCode::OK, "symbolon_up 1\n"),
            ("/livez", StatusCode::OK, "ok\n"),
            ("/readyz", StatusCode::OK, "ready\n"),
            ("/readyz?verbose", StatusCode::OK, "ready\ngeneration 7 forged\n"),
            ("/status", StatusCode::NOT_FOUND, "no such page\n"),
            ("/metrics/", StatusCode::NOT_FOUND, "no such page\n"),
        ] {
            assert_eq!(ask(&server, Method::GET, path).await, (status, body.to_owned()), "{path}");
        }
    }

    #[tokio::test]
    async fn other_methods_than_get_and_head_are_refused() {
        let server = start(pages(true));
        let (status, _) = ask(&server, Method::POST, "/metrics").await;
        assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(ask(&server, Method::HEAD, "/livez").await, (StatusCode::OK, String::new()));
        let (status, _) = ask(&server, Method::POST, "/nothing").await;
        assert_eq!(status, StatusCode::NOT_FOUND);
    }

    #[tokio::test]
    async fn unready_process_answers_503_but_lives() {
        let server = start(pages(false));
        let (status, body) = ask(&server, Method::GET, "/readyz").await;
        assert_eq!((status, body.as_str()), (StatusCode::SERVICE_UNAVAILABLE, "not ready\n"));
        assert_eq!(ask(&server, Method::GET, "/livez").await.0, StatusCode::OK);
    }

    #[tokio::test]
    async fn connections_that_idle_do_not_turn_a_probe_away() {
        let server = start(pages(true));
        let Endpoint::Tcp(address) = server.bound() else { panic!("not TCP") };
        let mut idle = Vec::new();
        for _ in 0..MAX_CONNECTIONS * 2 {
            idle.push(TcpStream::connect(address).await.unwrap());
        }
        assert_eq!(ask(&server, Method::GET, "/livez").await.0, StatusCode::OK);
    }

    #[tokio::test]
    async fn status_is_not_for_a_name_that_was_made_to_lead_here() {
        let pages = AdminPages { status: Arc::new(|| "{}".to_owned()) };
        for (host, local) in [
            ("localhost", true),
            ("LOCALHOST:9193", true),
            ("127.0.0.1:9193", true),
            ("[::1]:9193", true),
            ("evil.example", false),
            ("localhost.evil.example:9193", false),
            ("127.0.0.1.evil.example", false),
            ("", false),
        ] {
            let request = Request::builder().uri("/status").header("host", host).body(());
            assert_eq!(names_this_machine(&request.unwrap()), local, "{host}");
        }
        assert!(!names_this_machine(&Request::new(())), "nobody is named");
        assert!(pages.are_local());
    }

    #[tokio::test]
    async fn status_is_json() {
        let server = start(Arc::new(AdminPages { status: Arc::new(|| "{}".to_owned()) }));
        assert_eq!(ask(&server, Method::GET, "/status").await, (StatusCode::OK, "{}".to_owned()));
        assert_eq!(ask(&server, Method::GET, "/metrics").await.0, StatusCode::NOT_FOUND);
    }
}
