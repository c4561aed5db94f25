//! Issuer metadata: OpenID Connect Discovery 1.0 and RFC 8414.

use reqwest::Url;
use serde_json::Value;

use crate::{
    json,
    trust::{
        fetch::{FetchError, Fetcher},
        jwks::{self, KeySet, KeySetError, Parse},
    },
};

/// Real metadata documents are a few kilobytes.
const MAX_METADATA_BYTES: usize = 64 << 10;

/// Why an issuer's keys could not be had.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The key set could not be fetched.
    #[error("cannot fetch the key set")]
    KeySetFetch(#[source] FetchError),
    /// The key set cannot be used.
    #[error(transparent)]
    KeySet(#[from] KeySetError),
    /// The issuer's metadata could not be fetched.
    #[error("cannot fetch the issuer's metadata")]
    MetadataFetch(#[source] FetchError),
    /// The metadata is no strict JSON object with texts `issuer` and `jwks_uri`.
    #[error("the issuer's metadata is not a JSON object with `issuer` and `jwks_uri`")]
    MetadataMalformed,
    /// The metadata names another issuer (RFC 8414 §3.3: identical, or it is not to be used).
    #[error("the issuer's metadata names another issuer")]
    MetadataIssuer,
    /// The metadata of an issuer that is asked over https names a key set without (RFC 8414 §2).
    #[error("the issuer's metadata names a key set that is not https")]
    MetadataScheme,
}

/// Fetches the key set at `url`, which `parse` reads.
///
/// # Errors
/// As [`KeysError`] says.
pub async fn fetch_key_set(
    fetcher: &Fetcher,
    url: &str,
    parse: Parse,
) -> Result<KeySet, KeysError> {
    let text = fetcher.fetch(url, jwks::MAX_BYTES).await.map_err(KeysError::KeySetFetch)?;
    Ok(parse(&text)?)
}

/// Fetches the key set that the metadata of `issuer` names. The metadata is asked for where OpenID Connect
/// puts it, and where that place answers with another status than 200, where RFC 8414 does.
///
/// # Errors
/// As [`KeysError`] says.
pub async fn discover_key_set(fetcher: &Fetcher, issuer: &str) -> Result<KeySet, KeysError> {
    let url =
        fetcher.check(issuer).map_err(|error| KeysError::MetadataFetch(FetchError::Url(error)))?;
    let [openid, oauth] = well_known(&url);
    let text = match fetcher.fetch(openid.as_str(), MAX_METADATA_BYTES).await {
        Err(FetchError::Status(_)) => fetcher.fetch(oauth.as_str(), MAX_METADATA_BYTES).await,
        answer => answer,
    };
    let uri = key_set_uri(&text.map_err(KeysError::MetadataFetch)?, issuer)?;
    check_scheme(&url, &uri)?;
    fetch_key_set(fetcher, &uri, KeySet::parse).await
}

/// The two places of an issuer's metadata, in the order they are asked.
fn well_known(issuer: &Url) -> [Url; 2] {
    // Both specifications drop a terminating `/` of the issuer first.
    let path = issuer.path().trim_end_matches('/');
    let (mut openid, mut oauth) = (issuer.clone(), issuer.clone());
    // OpenID Connect Discovery §4: appended. RFC 8414 §3: inserted between host and path.
    openid.set_path(&format!("{path}/.well-known/openid-configuration"));
    oauth.set_path(&format!("/.well-known/oauth-authorization-server{path}"));
    [openid, oauth]
}

/// Returns `jwks_uri` of a metadata document that names `issuer`, by code points (RFC 8414 §4).
fn key_set_uri(text: &[u8], issuer: &str) -> Result<String, KeysError> {
    let mut metadata =
        json::object(text).map_err(|json::JsonError| KeysError::MetadataMalformed)?;
    match metadata.get("issuer") {
        Some(Value::String(named)) if named == issuer => {}
        Some(Value::String(_)) => return Err(KeysError::MetadataIssuer),
        _ => return Err(KeysError::MetadataMalformed),
    }
    match metadata.remove("jwks_uri") {
        Some(Value::String(uri)) => Ok(uri),
        _ => Err(KeysError::MetadataMalformed),
    }
}

/// Plain http is for an issuer on loopback: another one must not have us ask what else listens there, or
/// take its keys from whoever does.
fn check_scheme(issuer: &Url, uri: &str) -> Result<(), KeysError> {
    let is_https = |url: &Url| url.scheme() == "https";
    if is_https(issuer) && !Url::parse(uri).is_ok_and(|uri| is_https(&uri)) {
        return Err(KeysError::MetadataScheme);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(issuer: &str) -> [String; 2] {
        well_known(&Url::parse(issuer).unwrap()).map(String::from)
    }

    #[test]
    fn metadata_is_looked_for_where_the_specifications_put_it() {
        assert_eq!(
            places("https://login.example"),
            [
                "https://login.example/.well-known/openid-configuration",
                "https://login.example/.well-known/oauth-authorization-server"
            ]
        );
        assert_eq!(
            places("https://login.example/tenant/"),
            [
                "https://login.example/tenant/.well-known/openid-configuration",
                "https://login.example/.well-known/oauth-authorization-server/tenant"
            ]
        );
    }

    #[test]
    fn metadata_of_another_issuer_is_refused() {
        for other in ["https://login.example", "https://LOGIN.example/", "https://login.example//"]
        {
            let text = format!(r#"{{"issuer":"{other}","jwks_uri":"https://login.example/k"}}"#);
            let refused = key_set_uri(text.as_bytes(), "https://login.example/");
            assert!(matches!(refused, Err(KeysError::MetadataIssuer)), "{other}");
        }
    }

    #[test]
    fn a_key_set_without_https_is_refused_where_the_issuer_has_it() {
        let check = |issuer: &str, uri: &str| check_scheme(&Url::parse(issuer).unwrap(), uri);
        assert!(check("https://i.example", "HTTPS://keys.example/k").is_ok());
        assert!(check("http://127.0.0.1:1", "http://127.0.0.1:2/k").is_ok());
        for uri in ["http://127.0.0.1:9193/status", "http://localhost/k", "/k"] {
            let refused = check("https://i.example", uri);
            assert!(matches!(refused, Err(KeysError::MetadataScheme)), "{uri}");
        }
    }

    #[test]
    fn metadata_without_texts_for_issuer_and_key_set_is_refused() {
        for text in [
            "{}",
            "[]",
            r#"{"issuer":["https://i.example"],"jwks_uri":"https://i.example/k"}"#,
            r#"{"issuer":"https://i.example"}"#,
            r#"{"issuer":"https://i.example","jwks_uri":1}"#,
            r#"{"issuer":"https://i.example","jwks_uri":"https://i.example/a","jwks_uri":"https://i.example/b"}"#,
        ] {
            let refused = key_set_uri(text.as_bytes(), "https://i.example");
            assert!(matches!(refused, Err(KeysError::MetadataMalformed)), "{text}");
        }
    }
}
