//! Fetching documents over HTTP, from hosts that the process may contact, bounded in size and time.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{
    Certificate, Client, ClientBuilder, NoProxy, Proxy, RequestBuilder, Response, Url,
    dns::{Addrs, Name, Resolve, Resolving},
    header::{ACCEPT, CONTENT_TYPE},
    redirect,
};

use crate::{
    config::OutboundSettings,
    trust::credentials::{ClientCredentials, ClientIdentity, CredentialsError},
};

/// A host that answers at all answers a connection attempt within this.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// From the first packet to the last octet of the body: a slow drip is cut off.
const TOTAL_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection is used again for questions that follow one another, and not for those minutes apart.
const IDLE_TIMEOUT: Duration = Duration::from_secs(15);
/// Connections that wait for the next question.
const MAX_IDLE: usize = 8;

/// Fetches documents.
#[derive(Clone, Debug)]
pub struct Fetcher {
    client: Client,
    setup: Arc<Setup>,
    /// Our certificate at the issuer that this one is for.
    identity: Option<Arc<ClientIdentity>>,
}

/// What all clients are made of.
#[derive(Debug)]
struct Setup {
    hosts: Vec<String>,
    authorities: Option<Vec<Certificate>>,
    credentials: Option<PathBuf>,
    proxy: Option<Proxy>,
    connect: Duration,
    total: Duration,
}

impl Setup {
    fn builder(&self) -> ClientBuilder {
        let builder = Client::builder()
            .redirect(redirect::Policy::none())
            // A proxy from the environment would see and choose whom we contact.
            .no_proxy()
            .referer(false)
            .connect_timeout(self.connect)
            .timeout(self.total)
            .pool_max_idle_per_host(MAX_IDLE)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .dns_resolver(Guarded)
            .user_agent(concat!("symbolon/", env!("CARGO_PKG_VERSION")));
        let builder = match &self.proxy {
            Some(proxy) => builder.proxy(proxy.clone()),
            None => builder,
        };
        match &self.authorities {
            Some(authorities) => builder.tls_certs_only(authorities.clone()),
            None => builder,
        }
    }
}

/// What a form says, and who says so.
#[derive(Clone, Copy, Debug)]
pub struct Form<'f> {
    /// Names and values.
    pub fields: &'f [(&'f str, &'f str)],
    /// Name and secret for `client_secret_basic`.
    pub basic: Option<(&'f str, &'f str)>,
    /// Whether a TLS client certificate has to be presented, without which the form is not sent.
    pub certificate: bool,
}

/// Why no [`Fetcher`] can be made from the settings.
#[derive(Debug, thiserror::Error)]
pub enum FetcherError {
    /// The file of `outbound.caFile` cannot be read.
    #[error("`outbound.caFile`: cannot read {}", path.display())]
    CaFile {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file of `outbound.caFile` holds no PEM certificate, or one that cannot be used.
    #[error("`outbound.caFile`: {} holds no usable PEM certificate", path.display())]
    CaCertificates {
        /// The file.
        path: PathBuf,
    },
    /// The address of `outbound.proxy` is none.
    #[error("`outbound.proxy` cannot be used")]
    Proxy(#[source] reqwest::Error),
    /// The TLS library cannot be set up, for example without any system certificate authority.
    #[error("cannot set up the HTTP client")]
    Client(#[source] reqwest::Error),
}

/// Why a URL may not be fetched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// It is no absolute URL with a host.
    #[error("`{0}` is not an absolute URL")]
    NotAUrl(String),
    /// It is neither `https` nor `http` to loopback.
    #[error("`{0}` is not https; plain http is for loopback only")]
    Scheme(String),
    /// It holds a user name or password.
    #[error("a URL with a user name or password is not fetched")]
    Credentials,
    /// Its host is not among those the process may contact.
    #[error(
        "host `{0}` may not be contacted: the process setting `outbound.hosts` does not list it"
    )]
    Host(String),
    /// Its host is a link-local address (such as a cloud's metadata service), unspecified or multicast.
    #[error("`{0}` is a link-local, unspecified or multicast address, which is never contacted")]
    Address(IpAddr),
}

/// Why a document could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The URL may not be fetched.
    #[error(transparent)]
    Url(#[from] UrlError),
    /// We cannot say who we are.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// No connection, no TLS, no answer in time, or a broken one.
    #[error("no answer from the host")]
    Transport(#[source] reqwest::Error),
    /// The answer's status is not 200; redirects are not followed.
    #[error("the host answered with status {0}, not 200")]
    Status(u16),
    /// The answer is longer than the bound.
    #[error("the answer is longer than {0} bytes")]
    TooLong(usize),
}

impl Fetcher {
    /// Creates a fetcher that may contact loopback and `outbound.hosts`, with the system's certificate
    /// authorities or those of `outbound.caFile` alone.
    ///
    /// # Errors
    /// As [`FetcherError`] says.
    pub fn new(outbound: &OutboundSettings) -> Result<Self, FetcherError> {
        Self::with_timeouts(outbound, CONNECT_TIMEOUT, TOTAL_TIMEOUT)
    }

    fn with_timeouts(
        outbound: &OutboundSettings,
        connect: Duration,
        total: Duration,
    ) -> Result<Self, FetcherError> {
        let mut authorities = None;
        if let Some(path) = &outbound.ca_file {
            let pem = std::fs::read(path)
                .map_err(|source| FetcherError::CaFile { path: path.clone(), source })?;
            let certificates = Certificate::from_pem_bundle(&pem)
                .ok()
                .filter(|certificates| !certificates.is_empty())
                .ok_or_else(|| FetcherError::CaCertificates { path: path.clone() })?;
            authorities = Some(certificates);
        }
        let hosts = outbound.hosts.iter().map(|host| host.to_ascii_lowercase()).collect();
        let credentials = outbound.credentials_dir.clone();
        let proxy = outbound.proxy.as_deref().map(|url| {
            // Plain http is allowed to loopback, which is this machine's and not the proxy's.
            Ok(Proxy::all(url)?.no_proxy(NoProxy::from_string(LOOPBACK)))
        });
        let proxy = proxy.transpose().map_err(FetcherError::Proxy)?;
        let setup = Setup { hosts, authorities, credentials, proxy, connect, total };
        let client = setup.builder().build().map_err(|error| match &outbound.ca_file {
            // A certificate in it that is none is found out only here.
            Some(path) => FetcherError::CaCertificates { path: path.clone() },
            None => FetcherError::Client(error),
        })?;
        Ok(Self { client, setup: Arc::new(setup), identity: None })
    }

    /// Returns our credentials at the Issuer called `name`.
    #[must_use]
    pub fn credentials(&self, name: &str) -> ClientCredentials {
        ClientCredentials::of(self.setup.credentials.as_deref(), name)
    }

    /// Returns the fetcher for the Issuer called `name`: it presents our certificate at that issuer, where
    /// there is one.
    #[must_use]
    pub fn at_issuer(&self, name: &str) -> Self {
        let identity = self
            .setup
            .credentials
            .as_ref()
            .map(|_| Arc::new(ClientIdentity::new(self.credentials(name))));
        Self { identity, ..self.clone() }
    }

    /// Returns `url` parsed, if it may be fetched: `https`, or `http` to loopback, and a host that the
    /// settings list. What the host's name resolves to is looked at when it is contacted; through a proxy
    /// it is the proxy that finds out.
    ///
    /// # Errors
    /// As [`UrlError`] says.
    pub fn check(&self, url: &str) -> Result<Url, UrlError> {
        let parsed = Url::parse(url).map_err(|_syntax| UrlError::NotAUrl(url.to_owned()))?;
        let Some(host) = parsed.host_str() else { return Err(UrlError::NotAUrl(url.to_owned())) };
        if !parsed.username().is_empty() || parsed.password().is_some() {
            return Err(UrlError::Credentials);
        }
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().ok();
        if let Some(address) = address
            && is_forbidden(address)
        {
            return Err(UrlError::Address(address));
        }
        let loopback = host == LOCALHOST || address.is_some_and(|a| a.to_canonical().is_loopback());
        match parsed.scheme() {
            "https" => {}
            "http" if loopback => {}
            _ => return Err(UrlError::Scheme(url.to_owned())),
        }
        if loopback || self.setup.hosts.iter().any(|pattern| matches_host(pattern, host)) {
            Ok(parsed)
        } else {
            Err(UrlError::Host(host.to_owned()))
        }
    }

    /// Fetches the document at `url`, of at most `limit` bytes. Follows no redirect, sends no credentials
    /// but the certificate of [`Fetcher::at_issuer`], and does *not* look at the content type: issuers label
    /// their key sets in many ways.
    ///
    /// # Errors
    /// As [`FetchError`] says.
    pub async fn fetch(&self, url: &str, limit: usize) -> Result<Vec<u8>, FetchError> {
        let url = self.check(url)?;
        Self::send(self.client(false).await?.get(url), limit).await
    }

    /// Posts `form` to `url` and returns the answer, of at most `limit` bytes. Follows no redirect.
    ///
    /// # Errors
    /// As [`FetchError`] says.
    pub async fn post(
        &self,
        url: &str,
        form: Form<'_>,
        limit: usize,
    ) -> Result<Vec<u8>, FetchError> {
        let url = self.check(url)?;
        let fields = form.fields.iter().map(|(name, value)| format!("{name}={}", encode(value)));
        let body = fields.collect::<Vec<_>>().join("&");
        let mut request = self
            .client(form.certificate)
            .await?
            .post(url)
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(body);
        if let Some((name, secret)) = form.basic {
            // RFC 6749 §2.3.1: both are form-encoded first.
            request = request.basic_auth(encode(name), Some(encode(secret)));
        }
        Self::send(request, limit).await
    }

    async fn client(&self, certificate: bool) -> Result<Client, FetchError> {
        let Some(identity) = &self.identity else {
            if certificate {
                return Err(CredentialsError::NotConfigured.into());
            }
            return Ok(self.client.clone());
        };
        let make = |pair| self.setup.builder().identity(pair).build();
        match identity.client(make).await? {
            Some(client) => Ok(client),
            None if certificate => Err(identity.missing().into()),
            None => Ok(self.client.clone()),
        }
    }

    async fn send(request: RequestBuilder, limit: usize) -> Result<Vec<u8>, FetchError> {
        let answer = request.send().await.map_err(FetchError::Transport)?;
        if answer.status() != reqwest::StatusCode::OK {
            return Err(FetchError::Status(answer.status().as_u16()));
        }
        read_body(answer, limit).await
    }
}

/// As `application/x-www-form-urlencoded` has it, and every decoder of it reads.
fn encode(text: &str) -> impl std::fmt::Display {
    utf8_percent_encode(text, NON_ALPHANUMERIC)
}

async fn read_body(mut answer: Response, limit: usize) -> Result<Vec<u8>, FetchError> {
    let mut body = Vec::new();
    // Counted while it arrives: what a header promises binds nobody.
    while let Some(chunk) = answer.chunk().await.map_err(FetchError::Transport)? {
        if body.len().saturating_add(chunk.len()) > limit {
            return Err(FetchError::TooLong(limit));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// Says whether `pattern`, an exact host or `*.suffix` (one or more labels), names `host`.
fn matches_host(pattern: &str, host: &str) -> bool {
    match pattern.strip_prefix('*') {
        Some(suffix) if suffix.starts_with('.') => {
            host.strip_suffix(suffix).is_some_and(|labels| !labels.is_empty())
        }
        Some(_) => false,
        None => pattern == host,
    }
}

/// Says whether nothing is ever contacted at `address`. Loopback is not among these.
fn is_forbidden(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            v4.is_link_local() || v4.is_unspecified() || v4.is_multicast() || v4.is_broadcast()
        }
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.is_unspecified() || v6.is_multicast(),
    }
}

/// Resolves names, and leaves out addresses that are never contacted: a name under somebody else's
/// control must not lead to a cloud's metadata service.
struct Guarded;

impl Resolve for Guarded {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let addresses: Addrs = Box::new(resolve(name.as_str()).await?.into_iter());
            Ok(addresses)
        })
    }
}

async fn resolve(name: &str) -> io::Result<Vec<SocketAddr>> {
    if name == LOCALHOST {
        // RFC 6761 §6.3: plain http is allowed to it, so no resolver has a say in it.
        let loopback = [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()];
        return Ok(loopback.map(|ip| SocketAddr::new(ip, 0)).to_vec());
    }
    let found = tokio::net::lookup_host((name, 0)).await?;
    let allowed: Vec<_> = found.filter(|address| !is_forbidden(address.ip())).collect();
    if allowed.is_empty() {
        return Err(io::Error::other("the name has no address that may be contacted"));
    }
    Ok(allowed)
}

const LOCALHOST: &str = "localhost";
const LOOPBACK: &str = "localhost,127.0.0.0/8,::1";

#[cfg(test)]
mod tests;
