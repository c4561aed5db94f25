//! The demo's certificate authority and the workloads' SVIDs (X509-SVID §2–§4).

use std::{fs, path::Path, time::Duration};

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, string::Ia5String,
};
use time::OffsetDateTime;

use crate::{clock::UnixTime, identity::Thumbprint};

/// Signs the certificates of one run; its key is never written down.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate_pem: String,
    now: UnixTime,
}

/// A workload's certificate and key.
#[derive(Clone)]
pub struct Identity {
    certificate_pem: String,
    key_pem: String,
    certificate_der: Vec<u8>,
    key_der: Vec<u8>,
}

impl Authority {
    /// Creates an authority for certificates that are valid around `now`.
    ///
    /// # Errors
    /// Where the cryptographic library fails.
    pub fn new(now: UnixTime) -> Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, "symbolon demo CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        (params.not_before, params.not_after) = validity(now)?;
        let key = KeyPair::generate()?;
        let certificate_pem = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), certificate_pem, now })
    }

    /// Returns the authority's own certificate.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.certificate_pem
    }

    /// Issues an SVID for `spiffe`, with DNS names beside it where it serves as well.
    ///
    /// # Errors
    /// Where a name is not ASCII or the cryptographic library fails.
    pub fn issue(&self, spiffe: &str, dns: &[&str]) -> Result<Identity> {
        let mut params = CertificateParams::new(Vec::new())?;
        let name = spiffe.rsplit('/').next().unwrap_or(spiffe);
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        // X509-SVID §2: exactly one URI SAN; DNS SANs may stand beside it.
        params.subject_alt_names.push(SanType::URI(Ia5String::try_from(spiffe)?));
        for name in dns {
            params.subject_alt_names.push(SanType::DnsName(Ia5String::try_from(*name)?));
        }
        // X509-SVID §4.3 and §4.4: digitalSignature (critical), both extended usages.
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        (params.not_before, params.not_after) = validity(self.now)?;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Identity {
            certificate_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            certificate_der: certificate.der().to_vec(),
            key_der: key.serialize_der(),
        })
    }
}

impl Identity {
    /// Returns the thumbprint that tokens are bound to (RFC 8705 §3.1).
    #[must_use]
    pub fn thumbprint(&self) -> Thumbprint {
        Thumbprint::of(&self.certificate_der)
    }

    /// Returns the certificate in DER.
    #[must_use]
    pub fn certificate_der(&self) -> &[u8] {
        &self.certificate_der
    }

    /// Returns the private key in PKCS #8 DER.
    #[must_use]
    pub fn key_der(&self) -> &[u8] {
        &self.key_der
    }

    /// Writes `NAME.crt` and `NAME.key` into `folder`, which must be readable by its owner only.
    ///
    /// # Errors
    /// Where a file cannot be written.
    pub fn write(&self, folder: &Path, name: &str) -> Result<()> {
        for (suffix, text) in [("crt", &self.certificate_pem), ("key", &self.key_pem)] {
            let path = folder.join(format!("{name}.{suffix}"));
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({:?}, [redacted])", self.thumbprint())
    }
}

fn validity(now: UnixTime) -> Result<(OffsetDateTime, OffsetDateTime)> {
    let at = |time: UnixTime| -> Result<OffsetDateTime> {
        Ok(OffsetDateTime::from_unix_timestamp(i64::try_from(time.as_secs())?)?)
    };
    Ok((at(now.saturating_sub(BACKDATED))?, at(now.saturating_add(LIFETIME))?))
}

/// Clocks of containers and hosts differ a little.
const BACKDATED: Duration = Duration::from_secs(60 * 60);
/// Longer than anyone looks at a demo.
const LIFETIME: Duration = Duration::from_secs(7 * 24 * 60 * 60);
