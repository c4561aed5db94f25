//! What is proven of the immediate peer, beyond what the Envoy that terminated TLS verified.

use crate::{
    clock::UnixTime,
    credential::{Peer, Proof},
    evidence::peer::PeerEvidence,
    identity::SpiffeId,
    reason::Reason,
    trust::Trust,
};

/// Why a peer is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// Its certificate has expired.
    #[error("the peer's certificate has expired")]
    CertificateExpired,
    /// Its certificate has a SPIFFE ID and is no X.509-SVID leaf, or one with another ID.
    #[error("the peer's certificate is not an X.509-SVID leaf")]
    CertificateInvalid,
    /// Its certificate is not valid yet.
    #[error("the peer's certificate is not valid yet")]
    CertificateNotYetValid,
    /// Its SPIFFE ID is of a trust domain that is not declared.
    #[error("the peer's trust domain is not declared")]
    TrustDomainUnknown,
}

impl From<PeerError> for Reason {
    fn from(error: PeerError) -> Self {
        match error {
            PeerError::CertificateExpired => Self::PeerCertificateExpired,
            PeerError::CertificateInvalid => Self::PeerCertificateInvalid,
            PeerError::CertificateNotYetValid => Self::PeerCertificateNotYetValid,
            PeerError::TrustDomainUnknown => Self::PeerTrustDomainUnknown,
        }
    }
}

/// What of a certificate at hand is looked at on every check: a connection outlives its certificate.
#[derive(Clone, Copy, Debug)]
struct Leaf<'c> {
    /// The ID of an X.509-SVID leaf.
    spiffe: Option<SpiffeId<'c>>,
    /// Whether it has a URI SAN that looks like a SPIFFE ID.
    claims_spiffe: bool,
    validity: Validity,
}

/// First and last second, both inclusive.
type Validity = (UnixTime, UnixTime);

fn leaf<'e>(peer: &'e PeerEvidence<'_>) -> Option<Leaf<'e>> {
    let certificate = peer.certificate.as_deref()?;
    let claims = |uri: &str| {
        uri.split_once(':').is_some_and(|(scheme, _)| scheme.eq_ignore_ascii_case("spiffe"))
    };
    Some(Leaf {
        spiffe: certificate.spiffe(),
        claims_spiffe: certificate.uris().iter().any(|uri| claims(uri)),
        validity: certificate.validity(),
    })
}

/// Checks a certificate's validity (RFC 5280 §4.1.2.5): inclusive at both ends, to the second; without
/// leeway, as the TLS handshake has none either.
pub(super) fn check_validity((first, last): Validity, now: UnixTime) -> Result<(), PeerError> {
    if now.as_secs() < first.as_secs() {
        return Err(PeerError::CertificateNotYetValid);
    }
    if now.as_secs() > last.as_secs() {
        return Err(PeerError::CertificateExpired);
    }
    Ok(())
}

/// Judges the immediate peer. One without a SPIFFE ID is proven too: it may have DNS names or a thumbprint
/// that a rule names.
///
/// Does *not* verify the certificate's chain: the Envoy that terminated TLS did.
pub(super) fn verify<'e>(
    evidence: Option<&'e PeerEvidence<'e>>,
    trust: &Trust,
    now: UnixTime,
) -> Proof<Peer<'e>> {
    let Some(evidence) = evidence else { return Proof::Absent };
    let spiffe = evidence.spiffe();
    match judge(spiffe, leaf(evidence).as_ref(), &trust.trust_domains, now) {
        Ok(()) => Proof::Proven(Peer { spiffe, thumbprint: evidence.thumbprint, evidence }),
        Err(error) => Proof::Unproven(error.into()),
    }
}

fn judge(
    spiffe: Option<SpiffeId<'_>>,
    leaf: Option<&Leaf<'_>>,
    trust_domains: &[Box<str>],
    now: UnixTime,
) -> Result<(), PeerError> {
    if let Some(id) = spiffe {
        let declared = || {
            trust_domains.binary_search_by(|domain| domain.as_ref().cmp(id.trust_domain())).is_ok()
        };
        if !trust_domains.is_empty() && !declared() {
            return Err(PeerError::TrustDomainUnknown);
        }
    }
    let Some(leaf) = leaf else { return Ok(()) };
    check_validity(leaf.validity, now)?;
    // X509-SVID §5.2: what is no valid SVID has no ID, whatever it says; an ID is the certificate's own.
    if (leaf.claims_spiffe && leaf.spiffe.is_none()) || (spiffe.is_some() && spiffe != leaf.spiffe)
    {
        return Err(PeerError::CertificateInvalid);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credential::testing::{self, certificate};

    const NOW: UnixTime = UnixTime::from_secs(1_000);

    fn id(text: &str) -> SpiffeId<'_> {
        SpiffeId::parse(text).unwrap()
    }

    fn leaf_valid(first: u64, last: u64) -> Leaf<'static> {
        Leaf {
            spiffe: Some(id("spiffe://prod.example/web")),
            claims_spiffe: true,
            validity: (UnixTime::from_secs(first), UnixTime::from_secs(last)),
        }
    }

    fn domains(names: &[&str]) -> Vec<Box<str>> {
        names.iter().map(|name| Box::from(*name)).collect()
    }

    #[test]
    fn an_undeclared_trust_domain_is_unknown_once_any_is_declared() {
        let spiffe = Some(id("spiffe://prod.example/web"));
        assert_eq!(judge(spiffe, None, &[], NOW), Ok(()));
        assert_eq!(judge(spiffe, None, &domains(&["a.example", "prod.example"]), NOW), Ok(()));
        for others in [&["test.example"][..], &["prod.exampl", "prod.example.com"]] {
            assert_eq!(
                judge(spiffe, None, &domains(others), NOW),
                Err(PeerError::TrustDomainUnknown)
            );
        }
    }

    #[test]
    fn a_peer_without_a_spiffe_id_is_proven_whatever_trust_domains_are_declared() {
        assert_eq!(judge(None, None, &domains(&["prod.example"]), NOW), Ok(()));
    }

    #[test]
    fn a_certificate_is_valid_from_its_first_to_its_last_second() {
        let spiffe = Some(id("spiffe://prod.example/web"));
        let judge = |first, last, now| judge(spiffe, Some(&leaf_valid(first, last)), &[], now);
        assert_eq!(judge(1_000, 1_000, NOW), Ok(()));
        let half = std::time::Duration::from_millis(500);
        assert_eq!(judge(900, 1_000, NOW.saturating_add(half)), Ok(()));
        assert_eq!(judge(900, 999, NOW), Err(PeerError::CertificateExpired));
        assert_eq!(judge(1_001, 2_000, NOW), Err(PeerError::CertificateNotYetValid));
        assert_eq!(
            judge(1_001, 2_000, NOW.saturating_add(half)),
            Err(PeerError::CertificateNotYetValid)
        );
    }

    #[test]
    fn a_spiffe_id_that_its_certificate_does_not_hold_is_invalid() {
        let spiffe = Some(id("spiffe://prod.example/web"));
        let none = Leaf { spiffe: None, claims_spiffe: false, ..leaf_valid(0, 2_000) };
        assert_eq!(judge(spiffe, Some(&none), &[], NOW), Err(PeerError::CertificateInvalid));
        let other = Some(id("spiffe://prod.example/other"));
        assert_eq!(
            judge(other, Some(&leaf_valid(0, 2_000)), &[], NOW),
            Err(PeerError::CertificateInvalid)
        );
        assert_eq!(judge(None, Some(&none), &[], NOW), Ok(()));
    }

    #[test]
    fn certificates_are_judged_by_what_they_hold() {
        let judged = |uris: &[&str], authority, now: UnixTime| {
            let certificate = certificate(uris, authority);
            let evidence = PeerEvidence {
                spiffe: None,
                spiffe_untold: false,
                dns: Vec::new(),
                thumbprint: Some(certificate.thumbprint()),
                certificate: Some(certificate),
            };
            match verify(Some(&evidence), &Trust::default(), now) {
                Proof::Proven(peer) => Ok(peer.spiffe.map(|id| id.as_str().to_owned())),
                Proof::Unproven(reason) => Err(reason),
                Proof::Absent => panic!("a certificate is evidence"),
            }
        };
        let (web, now) = ("spiffe://prod.example/web", testing::NOW);
        assert_eq!(judged(&[web], false, now), Ok(Some(web.to_owned())));
        assert_eq!(judged(&["https://prod.example/web"], false, now), Ok(None));
        assert_eq!(judged(&[], false, now), Ok(None));
        let invalid = Err(Reason::PeerCertificateInvalid);
        assert_eq!(judged(&[web], true, now), invalid);
        assert_eq!(judged(&[web, "https://prod.example/web"], false, now), invalid);
        assert_eq!(judged(&["spiffe://prod.example"], false, now), invalid);
        assert_eq!(judged(&["SPIFFE://prod.example/web"], false, now), invalid);
        let day = std::time::Duration::from_secs(86_400);
        let expired = judged(&[web], false, now.saturating_add(day));
        assert_eq!(expired, Err(Reason::PeerCertificateExpired));
        let early = judged(&[web], false, now.saturating_sub(day));
        assert_eq!(early, Err(Reason::PeerCertificateNotYetValid));
    }

    #[test]
    fn each_error_has_its_reason() {
        let reasons = [
            (PeerError::CertificateExpired, Reason::PeerCertificateExpired),
            (PeerError::CertificateInvalid, Reason::PeerCertificateInvalid),
            (PeerError::CertificateNotYetValid, Reason::PeerCertificateNotYetValid),
            (PeerError::TrustDomainUnknown, Reason::PeerTrustDomainUnknown),
        ];
        for (error, reason) in reasons {
            assert_eq!(Reason::from(error), reason);
        }
    }
}
