//! TLS of our own listeners, with certificates that are replaced while connections go on.

use std::{
    fmt, fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;
use aws_lc_rs::digest::{self, SHA256};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::aws_lc_rs::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{NoServerSessionStorage, WebPkiClientVerifier},
};

use super::caller::CallerRule;
use crate::config::TlsSettings;

/// Our certificate, key and client authorities: as last read without a mistake.
pub struct Tls {
    settings: TlsSettings,
    /// Whom to admit; `None`: whoever the authorities vouch for.
    rule: Option<CallerRule>,
    current: ArcSwap<ServerConfig>,
    /// What was last read, good or bad: a bad pair is reported once, not at every look.
    seen: Mutex<Seen>,
}

/// What a look at the files found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refreshed {
    /// The same as at the last look, be it good or bad.
    Unchanged,
    /// New, good, and used for all connections from now on.
    Replaced,
}

/// Why certificate, key and client authorities cannot be used. Never quotes their content.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read `{}`", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// A file is larger than any certificate file.
    #[error("`{}` is larger than {MAX_FILE_BYTES} bytes", .0.display())]
    TooLarge(PathBuf),
    /// A file is not PEM, or holds nothing that is needed from it.
    #[error("`{}` holds no PEM {what}", .path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
    },
    /// The client authorities cannot be used.
    #[error("the client authorities in `{}` cannot be used: {cause}", .path.display())]
    ClientCa {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: String,
    },
    /// The certificate and key do not fit each other, or are of a kind that is not supported.
    #[error("`{}` and `{}` cannot be used together", .cert.display(), .key.display())]
    Pair {
        /// The certificate file.
        cert: PathBuf,
        /// The key file.
        key: PathBuf,
        /// Why.
        #[source]
        cause: rustls::Error,
    },
    /// Callers are listed, but without `clientCaFile` they would not have to prove who they are.
    #[error("`allowedCallers` needs `clientCaFile`")]
    CallersWithoutCa,
}

type Seen = [u8; 32];

impl Tls {
    /// Reads the files. `rule` decides on callers where `allowedCallers` is not empty.
    ///
    /// # Errors
    /// As [`TlsError`] says.
    pub fn load(settings: TlsSettings, rule: CallerRule) -> Result<Self, TlsError> {
        if settings.client_ca_file.is_none() && !settings.allowed_callers.is_empty() {
            return Err(TlsError::CallersWithoutCa);
        }
        let files = Files::read(&settings)?;
        let config = files.configure(&settings)?;
        Ok(Self {
            rule: (!settings.allowed_callers.is_empty()).then_some(rule),
            current: ArcSwap::from_pointee(config),
            seen: Mutex::new(files.seen()),
            settings,
        })
    }

    /// Looks at the files' content again, so that a symlink swap counts whatever the times say, and uses
    /// what is new in them. Blocks on the file system.
    ///
    /// # Errors
    /// Once for each content that cannot be used: what was used before stays in use.
    pub fn refresh(&self) -> Result<Refreshed, TlsError> {
        let files = Files::read(&self.settings);
        let now = match &files {
            Ok(files) => files.seen(),
            Err(error) => digest_of([error.to_string().as_bytes()]),
        };
        {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            if *seen == now {
                return Ok(Refreshed::Unchanged);
            }
            *seen = now;
        }
        self.current.store(Arc::new(files?.configure(&self.settings)?));
        Ok(Refreshed::Replaced)
    }

    /// Returns the configuration for a new connection.
    pub(super) fn current(&self) -> Arc<ServerConfig> {
        self.current.load_full()
    }

    /// Returns whether callers are asked for a certificate, without which the handshake fails.
    pub(super) const fn asks_callers(&self) -> bool {
        self.settings.client_ca_file.is_some()
    }

    /// Returns whom to admit, `None`: whoever the authorities vouch for.
    pub(super) const fn rule(&self) -> Option<&CallerRule> {
        self.rule.as_ref()
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// The files' content. Not `Debug`: it holds the private key.
struct Files {
    cert: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

impl Files {
    fn read(settings: &TlsSettings) -> Result<Self, TlsError> {
        Ok(Self {
            cert: read(&settings.cert_file)?,
            key: read(&settings.key_file)?,
            client_ca: settings.client_ca_file.as_deref().map(read).transpose()?,
        })
    }

    fn seen(&self) -> Seen {
        digest_of([&self.cert, &self.key, self.client_ca.as_deref().unwrap_or_default()])
    }

    fn configure(&self, settings: &TlsSettings) -> Result<ServerConfig, TlsError> {
        let cert = &settings.cert_file;
        let chain = certificates(&self.cert)
            .ok_or_else(|| TlsError::Pem { path: cert.clone(), what: "certificate" })?;
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|_cause| TlsError::Pem {
            path: settings.key_file.clone(),
            what: "private key",
        })?;
        let provider = Arc::new(default_provider());
        let pair =
            |cause| TlsError::Pair { cert: cert.clone(), key: settings.key_file.clone(), cause };
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(pair)?;
        let builder = match (&settings.client_ca_file, &self.client_ca) {
            (Some(path), Some(pem)) => {
                let roots = roots(path, pem)?;
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                        .build()
                        .map_err(|error| TlsError::ClientCa {
                            path: path.clone(),
                            cause: error.to_string(),
                        })?;
                builder.with_client_cert_verifier(verifier)
            }
            (Some(path), None) => {
                // Never quietly without: whoever names authorities wants certificates asked for.
                return Err(TlsError::Pem { path: path.clone(), what: "certificate" });
            }
            (None, _) => builder.with_no_client_auth(),
        };
        let mut config = builder.with_single_cert(chain, key).map_err(pair)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        // A resumed session would bring its caller's certificate along unverified, past its expiry and
        // past a change of the authorities. Envoy's connections live long; handshakes are rare.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }
}

fn roots(path: &Path, pem: &[u8]) -> Result<RootCertStore, TlsError> {
    let authorities = certificates(pem)
        .ok_or_else(|| TlsError::Pem { path: path.to_owned(), what: "certificate" })?;
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority).map_err(|error| TlsError::ClientCa {
            path: path.to_owned(),
            cause: error.to_string(),
        })?;
    }
    Ok(roots)
}

/// Returns all certificates, `None` if there is none or one is malformed.
fn certificates(pem: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let all: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().ok()?;
    (!all.is_empty()).then_some(all)
}

fn read(path: impl AsRef<Path>) -> Result<Vec<u8>, TlsError> {
    let path = path.as_ref();
    let cause = |cause| TlsError::Read { path: path.to_owned(), cause };
    let mut content = Vec::new();
    let read = fs::File::open(path)
        .and_then(|file| file.take(MAX_FILE_BYTES.saturating_add(1)).read_to_end(&mut content))
        .map_err(cause)?;
    if u64::try_from(read).unwrap_or(u64::MAX) > MAX_FILE_BYTES {
        return Err(TlsError::TooLarge(path.to_owned()));
    }
    Ok(content)
}

fn digest_of<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Seen {
    let mut context = digest::Context::new(&SHA256);
    for part in parts {
        // The length first, so that bytes cannot move from one file to the next unseen.
        context.update(&part.len().to_be_bytes());
        context.update(part);
    }
    let mut seen = Seen::default();
    for (to, from) in seen.iter_mut().zip(context.finish().as_ref()) {
        *to = *from;
    }
    seen
}

/// A chain of a dozen certificates is some 20 KiB, a bundle of all public authorities 250 KiB.
const MAX_FILE_BYTES: u64 = 1 << 20;
