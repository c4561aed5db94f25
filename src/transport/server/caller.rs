//! Which Envoy asks: the caller, by its own TLS certificate.

use std::{sync::Arc, time::Duration};

use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer as _};

use crate::{
    clock::UnixTime,
    identity::{SpiffeId, SpiffeIdError},
};

/// Says which callers may ask, by SPIFFE ID.
pub type CallerRule = Arc<dyn Fn(SpiffeId<'_>) -> bool + Send + Sync>;

/// An Envoy that proved that it holds its certificate's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Caller {
    /// Its SPIFFE ID; `None` for a certificate without a name in the form of a URI, where no rule asks for one.
    pub(super) id: Option<Arc<str>>,
    /// The last second of its certificate's validity (RFC 5280 §4.1.2.5): a connection must not outlive it.
    pub(super) until: UnixTime,
}

/// Why a caller is not served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallerError {
    /// The certificate cannot be parsed, or has bytes after its end.
    #[error("its certificate is malformed")]
    Malformed,
    /// There is not exactly one URI SAN (X509-SVID §2).
    #[error("its certificate has {0} URI names instead of one")]
    Names(usize),
    /// The URI SAN is no SPIFFE ID.
    #[error("its certificate's name is no SPIFFE ID")]
    SpiffeId(#[from] SpiffeIdError),
    /// The certificate may sign others (X509-SVID §4.1), so it names no workload.
    #[error("its certificate is a certificate authority's")]
    Authority,
    /// Nobody listed it.
    #[error("`{}` is not among the allowed callers", .0.escape_debug())]
    NotAllowed(Arc<str>),
}

/// Names the caller whose certificate is `der` and says whether `rule` allows it; without a rule, whoever the
/// authorities vouch for may ask.
///
/// Does **not** verify the chain, validity or purpose: the TLS handshake did.
///
/// # Errors
/// As [`CallerError`] says.
pub(super) fn admit(der: &[u8], rule: Option<&CallerRule>) -> Result<Caller, CallerError> {
    let (rest, certificate) =
        X509Certificate::from_der(der).map_err(|_cause| CallerError::Malformed)?;
    if !rest.is_empty() {
        return Err(CallerError::Malformed);
    }
    if certificate.is_ca() {
        return Err(CallerError::Authority);
    }
    let until = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0);
    let until = UnixTime::from_secs(until);
    let id = match (uris(&certificate)?.as_slice(), rule) {
        ([uri], rule) => {
            let id = SpiffeId::parse(uri)?;
            if rule.is_some_and(|rule| !rule(id)) {
                return Err(CallerError::NotAllowed(id.as_str().into()));
            }
            Some(id.as_str().into())
        }
        ([], None) => None,
        (uris, _) => return Err(CallerError::Names(uris.len())),
    };
    Ok(Caller { id, until })
}

fn uris<'c>(certificate: &'c X509Certificate<'_>) -> Result<Vec<&'c str>, CallerError> {
    let names = certificate.subject_alternative_name().map_err(|_cause| CallerError::Malformed)?;
    let names = names.iter().flat_map(|names| &names.value.general_names);
    Ok(names
        .filter_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None })
        .collect())
}

impl Caller {
    /// Returns how long its certificate still holds.
    pub(super) fn remaining(&self, now: UnixTime) -> Duration {
        self.until.saturating_since(now)
    }
}
