//! Issuers and their key sets.

use crate::policy::document::IssuerDocument;

/// An issuer whose tokens are believed, and its keys.
#[derive(Debug)]
pub struct Issuer {
    /// As declared.
    pub document: IssuerDocument,
}
