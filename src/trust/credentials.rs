//! Our own credentials at an issuer, from files beside the policies and never in them.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rand::distr::{Alphanumeric, SampleString as _};
use reqwest::{Client, Identity};
use serde_json::json;

use crate::{clock::UnixTime, identity::Thumbprint};

/// Longer than any key, chain or secret.
const MAX_FILE_BYTES: usize = 64 << 10;
/// An assertion is used at once; the rest is for clocks that differ.
const ASSERTION_LIFETIME: Duration = Duration::from_secs(60);
/// 190 bits: an authorization server remembers these against replay.
const ASSERTION_ID_CHARACTERS: usize = 32;

/// Reads a private key in PEM.
type ReadKey = fn(&[u8]) -> jsonwebtoken::errors::Result<EncodingKey>;

/// Why we cannot say who we are. Names files, and nothing of what is in them.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// No folder is configured.
    #[error(
        "the process setting `outbound.credentialsDir` is not set, where our credentials would be"
    )]
    NotConfigured,
    /// The Issuer's name cannot be the name of a folder.
    #[error("the Issuer's name cannot be that of a folder, where our credentials would be")]
    Name,
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file is empty, too long or no text.
    #[error("{} is empty, no text, or has more than {MAX_FILE_BYTES} bytes", path.display())]
    Content {
        /// The file.
        path: PathBuf,
    },
    /// A file holds no private key that can sign.
    #[error("{} holds no PKCS#8 key in PEM for ES256, ES384, EdDSA or PS256", path.display())]
    Key {
        /// The file.
        path: PathBuf,
    },
    /// Certificate and key cannot be used together.
    #[error("{} and `tls.key` beside it are no certificate in PEM and its key", path.display())]
    Certificate {
        /// The certificate's file.
        path: PathBuf,
    },
}

/// The folder of our credentials at one issuer. Its files are read when they are needed, so that new ones
/// count at once.
#[derive(Clone, Debug)]
pub struct ClientCredentials(Result<PathBuf, Absent>);

#[derive(Clone, Copy, Debug)]
enum Absent {
    NotConfigured,
    Name,
}

impl ClientCredentials {
    /// Credentials at the Issuer called `name`, in the folder of that name in `all`.
    #[must_use]
    pub fn of(all: Option<&Path>, name: &str) -> Self {
        let is_folder = !name.is_empty()
            && !name.starts_with('.')
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        Self(match all {
            None => Err(Absent::NotConfigured),
            Some(_) if !is_folder => Err(Absent::Name),
            Some(all) => Ok(all.join(name)),
        })
    }

    fn file(&self, name: &str) -> Result<PathBuf, CredentialsError> {
        match &self.0 {
            Ok(folder) => Ok(folder.join(name)),
            Err(Absent::NotConfigured) => Err(CredentialsError::NotConfigured),
            Err(Absent::Name) => Err(CredentialsError::Name),
        }
    }

    /// Returns the secret in `client-secret`, without a line feed at its end.
    ///
    /// # Errors
    /// As [`CredentialsError`] says.
    pub async fn secret(&self) -> Result<String, CredentialsError> {
        let path = self.file("client-secret")?;
        let text = String::from_utf8(read(&path).await?).ok();
        let text = text.map(|text| text.trim_end_matches(['\r', '\n']).to_owned());
        text.filter(|text| !text.is_empty()).ok_or(CredentialsError::Content { path })
    }

    /// Returns an assertion that authenticates `client` at `audience`, an issuer identifier, by the key in
    /// `client-key.pem` (RFC 7523 §2.2; one audience, as its revision asks for). It has no `kid`.
    ///
    /// # Errors
    /// As [`CredentialsError`] says.
    pub async fn assertion(
        &self,
        client: &str,
        audience: &str,
        now: UnixTime,
    ) -> Result<String, CredentialsError> {
        let path = self.file("client-key.pem")?;
        let pem = read(&path).await?;
        let claims = json!({
            "iss": client,
            "sub": client,
            "aud": audience,
            "jti": Alphanumeric.sample_string(&mut rand::rng(), ASSERTION_ID_CHARACTERS),
            "iat": now.as_secs(),
            "exp": now.saturating_add(ASSERTION_LIFETIME).as_secs(),
        });
        // The key decides: each kind and curve signs with one of these only.
        let kinds: [(Algorithm, ReadKey); 4] = [
            (Algorithm::ES256, EncodingKey::from_ec_pem),
            (Algorithm::ES384, EncodingKey::from_ec_pem),
            (Algorithm::EdDSA, EncodingKey::from_ed_pem),
            (Algorithm::PS256, EncodingKey::from_rsa_pem),
        ];
        kinds
            .into_iter()
            .find_map(|(algorithm, key)| {
                jsonwebtoken::encode(&Header::new(algorithm), &claims, &key(&pem).ok()?).ok()
            })
            .ok_or(CredentialsError::Key { path })
    }
}

/// Our TLS client certificate at one issuer, with the HTTP client that presents it.
#[derive(Debug)]
pub(super) struct ClientIdentity {
    credentials: ClientCredentials,
    /// The client, and the hash of the files that it was made of.
    made: Mutex<Option<(Thumbprint, Client)>>,
}

impl ClientIdentity {
    pub(super) fn new(credentials: ClientCredentials) -> Self {
        Self { credentials, made: Mutex::default() }
    }

    /// Returns the client that presents the certificate in `tls.crt`, made by `make` where the files are new
    /// since the last time; `None` where there are no such files.
    pub(super) async fn client(
        &self,
        make: impl FnOnce(Identity) -> reqwest::Result<Client>,
    ) -> Result<Option<Client>, CredentialsError> {
        let certificate = self.credentials.file("tls.crt")?;
        let chain = match read(&certificate).await {
            Err(CredentialsError::File { source, .. })
                if source.kind() == io::ErrorKind::NotFound =>
            {
                return Ok(None);
            }
            read => read?,
        };
        let mut pem = chain;
        pem.push(b'\n');
        pem.extend(read(&self.credentials.file("tls.key")?).await?);
        let hash = Thumbprint::of(&pem);
        let mut before = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, client)) = before.as_ref().filter(|(known, _)| *known == hash) {
            return Ok(Some(client.clone()));
        }
        let client = Identity::from_pem(&pem)
            .and_then(make)
            .map_err(|_its_text_may_quote| CredentialsError::Certificate { path: certificate })?;
        *before = Some((hash, client.clone()));
        Ok(Some(client))
    }

    /// Returns the error that says that there is no certificate where one is needed.
    pub(super) fn missing(&self) -> CredentialsError {
        match self.credentials.file("tls.crt") {
            Ok(path) => CredentialsError::File { path, source: io::ErrorKind::NotFound.into() },
            Err(error) => error,
        }
    }
}

async fn read(path: &Path) -> Result<Vec<u8>, CredentialsError> {
    let path = Arc::<Path>::from(path);
    let file = Arc::clone(&path);
    let content = tokio::task::spawn_blocking(move || {
        use io::Read as _;
        let mut content = Vec::new();
        let limit = u64::try_from(MAX_FILE_BYTES).unwrap_or(u64::MAX).saturating_add(1);
        std::fs::File::open(file)?.take(limit).read_to_end(&mut content)?;
        io::Result::Ok(content)
    })
    .await
    .unwrap_or_else(|gone| Err(io::Error::other(gone)));
    match content {
        Err(source) => Err(CredentialsError::File { path: path.to_path_buf(), source }),
        Ok(content) if (1..=MAX_FILE_BYTES).contains(&content.len()) => Ok(content),
        Ok(_) => Err(CredentialsError::Content { path: path.to_path_buf() }),
    }
}

#[cfg(test)]
mod tests;
