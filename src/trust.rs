//! Whom we believe: declared trust domains and issuers, with the issuers' keys.

pub mod discovery;
pub mod fetch;
pub mod jwks;

use std::{future::Future, pin::Pin, sync::Arc};

use crate::evidence::PeerSources;

/// The trust part of a snapshot. Immutable but for the issuers' keys, which refresh on their own.
#[derive(Debug, Default)]
pub struct Trust {
    /// Where the immediate peer's evidence is; `None` without a PeerTrust document: nothing is read.
    pub peer_sources: Option<PeerSources>,
    /// The declared trust domains, sorted; empty: none is declared, every domain Envoy verified is believed.
    pub trust_domains: Vec<Box<str>>,
    /// The declared issuers.
    pub issuers: Vec<Arc<jwks::Issuer>>,
}

/// A refetch of an issuer's keys that is under way, shared by all checks that wait for it.
pub struct Refetch(pub Pin<Box<dyn Future<Output = ()> + Send>>);

impl std::fmt::Debug for Refetch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Refetch")
    }
}
