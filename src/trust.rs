//! Whom we believe: declared trust domains and issuers, with the issuers' keys.

pub mod credentials;
pub mod discovery;
pub mod fetch;
pub mod introspection;
pub mod issuer;
pub mod jwks;
pub mod pool;
mod refresh;
mod roca;
mod saved;

use std::{collections::HashMap, fmt, future::Future, pin::Pin, sync::Arc};

pub use issuer::Issuer;
pub use pool::{IssuerPool, IssuerStatus};

use crate::evidence::PeerSources;

/// The trust part of a snapshot. Immutable but for the issuers' keys, which refresh on their own.
#[derive(Debug, Default)]
pub struct Trust {
    /// Where the immediate peer's evidence is; `None` without a PeerTrust document: nothing is read.
    pub peer_sources: Option<PeerSources>,
    /// The declared trust domains, sorted; empty: none is declared, every domain Envoy verified is believed.
    pub trust_domains: Vec<Box<str>>,
    /// The declared issuers.
    pub issuers: Issuers,
    /// The authorities of workload identity tokens: of the trust domains that rules name as such.
    pub workloads: Issuers,
}

/// The declared issuers, found by `iss` at a cost flat in their number.
#[derive(Debug, Default)]
pub struct Issuers {
    by_identifier: HashMap<Box<str>, Arc<Issuer>>,
}

impl Issuers {
    /// Returns the issuer whose identifier is `iss`, compared by code points (RFC 9068 §4, RFC 3986 §6.2.1).
    #[must_use]
    pub fn find(&self, iss: &str) -> Option<&Arc<Issuer>> {
        self.by_identifier.get(iss)
    }

    /// Returns the issuer of the JWT-SVIDs of a trust domain.
    #[must_use]
    pub fn of_trust_domain(&self, domain: &str) -> Option<&Arc<Issuer>> {
        self.find(&format!("spiffe://{domain}")).filter(|issuer| issuer.signs_svids())
    }

    /// Returns the issuer that policies call `name`. For tokens that name no issuer; looks through all.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<&Arc<Issuer>> {
        self.iter().find(|issuer| **issuer.name() == *name)
    }

    /// Returns the issuers, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Issuer>> {
        self.by_identifier.values()
    }
}

impl From<Vec<Arc<Issuer>>> for Issuers {
    /// Two issuers with one identifier are refused when documents are loaded; here the last one stays.
    fn from(issuers: Vec<Arc<Issuer>>) -> Self {
        let by_identifier =
            issuers.into_iter().map(|issuer| (issuer.identifier().into(), issuer)).collect();
        Self { by_identifier }
    }
}

/// An issuer with these keys that could be asked about tokens, and is not there.
#[cfg(test)]
pub(crate) fn issuer_that_answers(
    document: crate::policy::document::IssuerDocument,
    keys: &str,
) -> Arc<Issuer> {
    let fetcher = fetch::Fetcher::new(&crate::config::OutboundSettings::default()).unwrap();
    let introspector = introspection::Introspector::new(
        document.introspection.clone().unwrap(),
        ("corp", &document.issuer.value),
        (fetcher.clone(), fetcher.credentials("corp")),
        Arc::new(crate::clock::ManualClock::at(1_800_000_000)),
        tokio::runtime::Handle::current(),
    );
    let keys = jwks::KeySet::parse(keys.as_bytes()).unwrap();
    Arc::new(Issuer::with_keys(document, keys).asked_by(Some(introspector)))
}

/// A refetch of an issuer's keys that is under way, shared by all checks that wait for it.
pub struct Refetch(pub Pin<Box<dyn Future<Output = ()> + Send>>);

impl fmt::Debug for Refetch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Refetch")
    }
}
