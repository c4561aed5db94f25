//! Identities and thumbprints: what names a workload, a certificate and a key.

pub mod spiffe;
pub mod thumbprint;

pub use spiffe::{OwnedSpiffeId, SpiffeId, SpiffeIdError};
pub use thumbprint::Thumbprint;
