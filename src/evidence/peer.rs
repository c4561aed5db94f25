//! The immediate peer of the Envoy that asks: from principal, certificate and XFCC, which must agree.

use std::sync::Arc;

use crate::{
    evidence::certificate::Certificate,
    identity::{SpiffeId, Thumbprint},
};

/// The immediate peer, as all listed sources agree on it. Envoy's word, not verified by us.
#[derive(Debug)]
pub struct PeerEvidence<'r> {
    /// The SPIFFE ID: from the certificate's or XFCC's only URI SAN; from `source.principal` alone only
    /// where that alone is listed.
    pub spiffe: Option<SpiffeId<'r>>,
    /// DNS SANs, from XFCC (those of a certificate are in it).
    pub dns: Vec<&'r str>,
    /// SHA-256 of the certificate: from its DER where there is one, else XFCC's `Hash`.
    pub thumbprint: Option<Thumbprint>,
    /// The leaf, where `source.certificate` or XFCC's `Cert` carried it.
    pub certificate: Option<Arc<Certificate>>,
}
