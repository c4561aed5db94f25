use rcgen::{CertificateParams, IsCa, SanType};

use super::*;
use crate::evidence::testing::{OWN, WEB, hex, mint, params, pem, percent};

const PRINCIPAL: PeerSources = PeerSources { principal: true, certificate: false, xfcc: false };
const CERTIFICATE: PeerSources = PeerSources { principal: false, certificate: true, xfcc: false };
const XFCC: PeerSources = PeerSources { principal: false, certificate: false, xfcc: true };
/// As Istio's sidecars need it.
const ISTIO: PeerSources = PeerSources { principal: true, certificate: false, xfcc: true };
/// As plain Envoy needs it.
const ENVOY: PeerSources = PeerSources { principal: true, certificate: true, xfcc: false };
const ALL: PeerSources = PeerSources { principal: true, certificate: true, xfcc: true };

/// What one check presents.
#[derive(Clone, Default)]
struct Case {
    principal: String,
    certificate: String,
    xfcc: Option<String>,
    own: String,
}

/// What is read: SPIFFE ID, DNS names, and whether there are a thumbprint and a certificate.
type Outcome = Result<Option<(Option<String>, Vec<String>, bool, bool)>, EvidenceError>;

fn read(case: &Case, sources: PeerSources) -> Outcome {
    let presented = Presented {
        principal: &case.principal,
        certificate: &case.certificate,
        xfcc: case.xfcc.as_ref().map_or(Single::Absent, |value| Single::One(value.as_bytes())),
        own: &case.own,
    };
    PeerEvidence::read(&presented, sources, &CertificateCache::new(8)).map(|peer| {
        peer.map(|peer| {
            (
                peer.spiffe().map(|id| id.to_string()),
                peer.dns_names().map(str::to_owned).collect(),
                peer.thumbprint.is_some(),
                peer.certificate.is_some(),
            )
        })
    })
}

fn principal(name: &str) -> Case {
    Case { principal: name.to_owned(), own: OWN.to_owned(), ..Case::default() }
}

/// All sources, as Envoy fills them for this certificate, with these names in XFCC.
fn of(params: CertificateParams, principal: &str, names: &str) -> (Case, String) {
    let der = mint(params);
    let text = percent(&pem(&der));
    let xfcc = format!("By={OWN};Hash={};Cert=\"{text}\";Subject=\"\"{names}", hex(&der));
    let case = Case {
        principal: principal.to_owned(),
        certificate: text,
        xfcc: Some(xfcc),
        own: OWN.to_owned(),
    };
    (case, hex(&der))
}

fn genuine() -> (Case, String) {
    of(params(&[WEB]), WEB, &format!(";URI={WEB}"))
}

#[expect(clippy::unnecessary_wraps, reason = "it is compared with what is read")]
fn web(thumbprint: bool, certificate: bool) -> Outcome {
    Ok(Some((Some(WEB.to_owned()), vec![], thumbprint, certificate)))
}

#[test]
fn sources_that_agree_name_the_peer() {
    let (case, hash) = genuine();
    let istio = Case {
        xfcc: Some(format!("By={OWN};Hash={hash};Subject=\"\";URI={WEB}")),
        ..principal(WEB)
    };
    assert_eq!(read(&istio, ISTIO), web(true, false));
    assert_eq!(read(&istio, PRINCIPAL), web(false, false));
    assert_eq!(read(&istio, XFCC), web(true, false));
    for sources in [ENVOY, ALL, CERTIFICATE, XFCC] {
        assert_eq!(read(&case, sources), web(true, true), "{sources:?}");
    }
    let waypoint = Case { xfcc: Some(format!("By={OWN};URI={WEB}")), ..Case::default() };
    assert_eq!(read(&waypoint, XFCC), web(false, false));
}

#[test]
fn all_sources_absent_is_no_peer_and_some_absent_is_a_conflict() {
    for sources in [PeerSources::default(), PRINCIPAL, CERTIFICATE, XFCC, ISTIO, ENVOY, ALL] {
        assert_eq!(read(&principal(""), sources), Ok(None), "{sources:?}");
    }
    let conflict = Err(EvidenceError::Conflict(PeerConflict::SomeAbsent));
    for sources in [ISTIO, ENVOY, ALL] {
        assert_eq!(read(&principal(WEB), sources), conflict, "{sources:?}");
    }
    let waypoint = Case { xfcc: Some("By=;URI=".to_owned()), ..Case::default() };
    assert_eq!(read(&waypoint, XFCC), Ok(None));
    assert_eq!(read(&Case { principal: WEB.to_owned(), ..waypoint }, ISTIO), conflict);
}

#[test]
fn what_is_not_listed_is_not_read() {
    let case = Case {
        certificate: "garbage".to_owned(),
        xfcc: Some("gar\"bage".to_owned()),
        ..principal(WEB)
    };
    assert_eq!(read(&case, PRINCIPAL), web(false, false));
    assert_eq!(read(&case, PeerSources::default()), Ok(None));
}

#[test]
fn a_forged_element_of_the_client_changes_nothing() {
    let (case, _) = genuine();
    let xfcc = case.xfcc.clone().unwrap();
    let victim = "By=x;Hash=00;URI=spiffe://prod.example/victim";
    let forged = Case { xfcc: Some(format!("{victim},{xfcc}")), ..case.clone() };
    assert_eq!(read(&forged, ALL), web(true, true));
    let alone = Case { xfcc: Some("URI=spiffe://prod.example/victim".to_owned()), ..case };
    assert_eq!(read(&alone, ISTIO), Err(PeerConflict::Principal.into()));
}

#[test]
fn sources_that_differ_are_a_conflict() {
    let (case, hash) = genuine();
    let (other, _) = genuine();
    let zeros = "0".repeat(64);
    let xfcc = case.xfcc.clone().unwrap();
    let with = |xfcc: String| Case { xfcc: Some(xfcc), ..case.clone() };
    for (case, conflict) in [
        (Case { certificate: other.certificate, ..case.clone() }, PeerConflict::Certificate),
        (with(xfcc.replace(&hash, &zeros)), PeerConflict::Hash),
        (with(xfcc.replace("sa/web", "sa/admin")), PeerConflict::Uri),
        (with(xfcc.replace(WEB, "")), PeerConflict::Uri),
        (with(format!("{xfcc};DNS=web.example")), PeerConflict::Dns),
        (with(xfcc.replace(OWN, "spiffe://prod.example/other")), PeerConflict::By),
        (
            Case { principal: "spiffe://prod.example/other".to_owned(), ..case.clone() },
            PeerConflict::Principal,
        ),
        (Case { principal: "web.example".to_owned(), ..case.clone() }, PeerConflict::Principal),
    ] {
        assert_eq!(read(&case, ALL), Err(conflict.into()), "{conflict:?}");
    }
}

#[test]
fn the_element_may_name_the_proxy_among_others_or_not_at_all() {
    let (case, hash) = genuine();
    for by in ["", "By=spiffe://prod.example/other;By=spiffe://prod.example/ns/payments/sa/api;"] {
        let xfcc = Some(format!("{by}Hash={hash};URI={WEB}"));
        assert_eq!(read(&Case { xfcc, ..case.clone() }, ISTIO), web(true, false), "{by}");
    }
    let unnamed = Case { own: String::new(), ..case };
    assert_eq!(read(&unnamed, ALL), web(true, true));
}

#[test]
fn a_principal_counts_as_an_identity_only_where_it_is_the_only_source() {
    let (case, hash) = genuine();
    let hash_only = Case { xfcc: Some(format!("By={OWN};Hash={hash}")), ..case };
    assert_eq!(read(&hash_only, ISTIO), Ok(Some((None, vec![], true, false))));
    for name in ["web.example", "CN=web", "https://web.example/"] {
        assert_eq!(
            read(&principal(name), PRINCIPAL),
            Ok(Some((None, vec![], false, false))),
            "{name}"
        );
    }
}

#[test]
fn an_id_that_may_be_there_and_is_not_told_is_not_taken_for_absent() {
    let (case, hash) = genuine();
    let with = |names: &str, principal: &str| Case {
        xfcc: Some(format!("By={OWN};Hash={hash}{names}")),
        principal: principal.to_owned(),
        ..case.clone()
    };
    let untold = |case: &Case, sources| {
        let presented = Presented {
            principal: &case.principal,
            certificate: &case.certificate,
            xfcc: Single::One(case.xfcc.as_ref().unwrap().as_bytes()),
            own: &case.own,
        };
        let peer = PeerEvidence::read(&presented, sources, &CertificateCache::new(8));
        peer.unwrap().unwrap().spiffe_untold
    };
    // Plain Envoy writes `By` and `Hash` alone unless it is told otherwise.
    assert!(untold(&with("", WEB), ISTIO));
    assert!(untold(&with("", ""), XFCC));
    assert!(!untold(&with("", "web.example"), ISTIO));
    assert!(!untold(&with("", "https://web.example/"), ISTIO));
    assert!(!untold(&with(";URI=", ""), XFCC));
    assert!(!untold(&with(&format!(";URI={WEB}"), WEB), ISTIO));
    assert!(!untold(&with("", WEB), ALL));
    assert!(!untold(&case, ENVOY));
}

#[test]
fn a_name_that_begins_like_a_spiffe_id_must_be_one() {
    for (name, error) in [
        ("spiffe://prod.example", NameError::NoPath),
        ("spiffe:x", NameError::SpiffeId(SpiffeIdError::Scheme)),
        ("SPIFFE://prod.example/a", NameError::SpiffeId(SpiffeIdError::Scheme)),
        ("spiffe://Prod.example/a", NameError::SpiffeId(SpiffeIdError::TrustDomain)),
        ("spiffe://prod.example/a/../b", NameError::SpiffeId(SpiffeIdError::Path)),
        ("spiffe://td/e;URI=spiffe://td/v,By=x", NameError::SpiffeId(SpiffeIdError::TrustDomain)),
    ] {
        let outcome = read(&principal(name), PRINCIPAL);
        if name.contains(';') {
            assert!(matches!(outcome, Err(EvidenceError::Name(_))), "{name}");
        } else {
            assert_eq!(outcome, Err(EvidenceError::Name(error)), "{name}");
            let xfcc = Case { xfcc: Some(format!("URI={name}")), ..Case::default() };
            assert_eq!(read(&xfcc, XFCC), Err(EvidenceError::Name(error)), "{name}");
        }
    }
    let control = read(&principal("CN=a\r\nx"), PRINCIPAL);
    assert_eq!(control, Err(EvidenceError::Name(NameError::Control)));
}

#[test]
fn a_certificate_that_forges_an_element_with_its_names_conflicts() {
    let hostile = "spiffe://td/e;URI=spiffe://prod.example/v,By=x;URI=spiffe://prod.example/v";
    let (case, _) = of(params(&[hostile]), hostile, &format!(";URI={hostile}"));
    assert_eq!(read(&case, ISTIO), Err(PeerConflict::By.into()));
    let unnamed = Case { own: String::new(), ..case };
    assert_eq!(read(&unnamed, ISTIO), Err(PeerConflict::Principal.into()));
}

#[test]
fn a_certificate_without_uri_is_known_by_its_dns_names_and_thumbprint() {
    let mut dns = params(&[]);
    dns.subject_alt_names = vec![SanType::DnsName("web.example".try_into().unwrap())];
    let (case, _) = of(dns, "web.example", ";URI=;DNS=web.example");
    let known = Ok(Some((None, vec!["web.example".to_owned()], true, true)));
    assert_eq!(read(&case, ALL), known);
    let claimed = Case { principal: WEB.to_owned(), ..case };
    assert_eq!(read(&claimed, ALL), Err(PeerConflict::Principal.into()));

    let (subject, _) = of(params(&[]), "CN=web", ";URI=");
    assert_eq!(read(&subject, ALL), Ok(Some((None, vec![], true, true))));
    let claimed = Case { principal: WEB.to_owned(), ..subject };
    assert_eq!(read(&claimed, ALL), Err(PeerConflict::Principal.into()));
}

#[test]
fn a_certificate_that_is_no_svid_names_no_workload_whatever_xfcc_says() {
    let mut authority = params(&[WEB]);
    authority.is_ca = IsCa::ExplicitNoCa;
    authority.key_usages = vec![];
    let (case, _) = of(authority, WEB, &format!(";URI={WEB}"));
    assert_eq!(read(&case, ALL), Ok(Some((None, vec![], true, true))));
}

#[test]
fn two_uri_sans_are_refused() {
    let second = "https://web.example/";
    let (case, _) = of(params(&[WEB, second]), WEB, &format!(";URI={WEB};URI={second}"));
    assert_eq!(read(&case, ALL), Err(XfccError::DuplicateKey.into()));
    assert_eq!(read(&case, ENVOY), Ok(Some((None, vec![], true, true))));
}

#[test]
fn malformed_sources_are_refused_never_absent() {
    let (case, _) = genuine();
    let bad = Case { certificate: "garbage".to_owned(), ..case.clone() };
    assert_eq!(
        read(&bad, ENVOY),
        Err(EvidenceError::Certificate(crate::evidence::certificate::CertificateError::Pem))
    );
    let bad = Case { xfcc: Some("Cert=\"%zz\"".to_owned()), ..case.clone() };
    assert_eq!(
        read(&bad, XFCC),
        Err(EvidenceError::Certificate(crate::evidence::certificate::CertificateError::Escape))
    );
    let bad = Case { xfcc: Some("Subject=\"".to_owned()), ..case };
    assert_eq!(read(&bad, XFCC), Err(XfccError::Syntax.into()));
    let presented = Presented { principal: "", certificate: "", xfcc: Single::Several, own: "" };
    let several = PeerEvidence::read(&presented, XFCC, &CertificateCache::new(1)).unwrap_err();
    assert_eq!(several, XfccError::Several.into());
}

#[test]
fn json_is_read_like_text() {
    let der = mint(params(&[WEB]));
    let certificate = pem(&der).replace('\n', "\\n");
    let json = format!(
        "[{{\"by\":[\"{OWN}\"],\"hash\":\"{}\",\"cert\":\"{certificate}\",\"uri\":[\"{WEB}\"]}}]",
        hex(&der)
    );
    let case = Case { certificate: percent(&pem(&der)), xfcc: Some(json), ..principal(WEB) };
    assert_eq!(read(&case, ALL), web(true, true));
}
