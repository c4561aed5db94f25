use proptest::prelude::*;

use super::{testing::*, *};
use crate::transport::wire;

const NONE: PeerSources = PeerSources { principal: false, certificate: false, xfcc: false };
const ISTIO: PeerSources = PeerSources { principal: true, certificate: false, xfcc: true };
const ALL: PeerSources = PeerSources { principal: true, certificate: true, xfcc: true };

fn error(check: &CheckRequest) -> EvidenceError {
    Evidence::read(check, NONE, None, &CertificateCache::new(1)).unwrap_err()
}

fn workload(check: &CheckRequest, caller: Option<&str>) -> Option<String> {
    let caller = caller.map(|id| SpiffeId::parse(id).unwrap());
    let cache = CertificateCache::new(1);
    let evidence = Evidence::read(check, NONE, caller, &cache).unwrap();
    evidence.workload.map(|id| id.to_string())
}

fn tcp(port: u32) -> CheckRequest<'static> {
    let mut check = check(&[]);
    let attributes = attributes(&mut check);
    attributes.http = None;
    attributes.destination.as_mut().unwrap().port = port;
    check
}

fn extension(value: &str) -> wire::Entry<'static> {
    wire::Entry { key: bytes("workload"), value: bytes(value) }
}

#[test]
fn a_check_without_attributes_is_malformed() {
    assert_eq!(error(&CheckRequest::default()), EvidenceError::FieldMissing);
    assert_eq!(Reason::from(EvidenceError::FieldMissing), Reason::MalformedCheck);
}

#[test]
fn a_check_without_http_asks_for_a_tcp_port() {
    let check = tcp(5432);
    let cache = CertificateCache::new(1);
    let evidence = Evidence::read(&check, NONE, None, &cache).unwrap();
    assert!(matches!(evidence.attempt, Attempt::Tcp { port: 5432 }));
    assert!(matches!(evidence.credentials(), Credentials::Absent));
    assert_eq!(error(&tcp(0)), EvidenceError::FieldMissing);
    assert_eq!(error(&tcp(65_536)), EvidenceError::FieldMissing);
    let mut without = tcp(1);
    attributes(&mut without).destination = None;
    assert_eq!(error(&without), EvidenceError::FieldMissing);
}

#[test]
fn a_tcp_check_is_not_asked_for_xfcc() {
    let mut check = tcp(5432);
    attributes(&mut check).source.as_mut().unwrap().principal = bytes(WEB);
    let cache = CertificateCache::new(1);
    let peer =
        |sources| Evidence::read(&check, sources, None, &cache).map(|evidence| evidence.peer);
    assert_eq!(peer(ISTIO).unwrap().unwrap().spiffe().unwrap().as_str(), WEB);
    assert_eq!(peer(ALL).unwrap_err(), PeerConflict::SomeAbsent.into());
    assert!(peer(PeerSources { xfcc: true, ..NONE }).unwrap().is_none());
}

#[test]
fn the_workload_is_named_by_envoy_then_by_the_caller_then_by_the_operator() {
    let mut check = check(&[]);
    let caller = Some("spiffe://prod.example/caller");
    let named = "spiffe://prod.example/named";
    attributes(&mut check).context_extensions = vec![extension(named)];
    assert_eq!(workload(&check, caller).as_deref(), Some(OWN));
    attributes(&mut check).destination.as_mut().unwrap().principal = bytes("payments.example");
    assert_eq!(workload(&check, caller).as_deref(), caller);
    assert_eq!(workload(&check, None).as_deref(), Some(named));
    attributes(&mut check).context_extensions = vec![extension("payments")];
    assert_eq!(workload(&check, None), None);
    attributes(&mut check).context_extensions = vec![extension(named), extension(named)];
    assert_eq!(error(&check), EvidenceError::DuplicateExtension);
}

#[test]
fn text_fields_that_are_not_utf8_are_malformed() {
    const BAD: &[u8] = b"\xff";
    let mutations: [fn(&mut wire::AttributeContext<'static>); 5] = [
        |a| a.source.as_mut().unwrap().principal = BAD,
        |a| a.source.as_mut().unwrap().certificate = BAD,
        |a| a.destination.as_mut().unwrap().principal = BAD,
        |a| a.context_extensions.push(wire::Entry { key: BAD, value: b"" }),
        |a| a.http.as_mut().unwrap().id = BAD,
    ];
    for mutate in mutations {
        let mut check = check(&[]);
        mutate(attributes(&mut check));
        assert_eq!(error(&check), EvidenceError::NotUtf8);
    }
    let mut check = check(&[]);
    http(&mut check).id = bytes(&"1".repeat(MAX_ID_BYTES + 1));
    assert_eq!(error(&check), EvidenceError::IdTooLong);
}

#[test]
fn an_ambiguous_path_and_bad_credentials_are_no_errors() {
    let mut check = check(&[("authorization", "Bearer a,Bearer b")]);
    http(&mut check).path = bytes("/a/../b");
    let cache = CertificateCache::new(1);
    let evidence = Evidence::read(&check, NONE, None, &cache).unwrap();
    let request = evidence.http().unwrap();
    assert_eq!(request.path.forms, path::PathForms::DOT_SEGMENTS);
    let credentials = evidence.credentials();
    assert!(matches!(credentials, Credentials::Unusable(Reason::CredentialsAmbiguous)));
}

#[test]
fn a_connect_has_no_path() {
    let mut check = check(&[]);
    http(&mut check).method = bytes("CONNECT");
    http(&mut check).path = bytes("");
    http(&mut check).host = bytes("payments.example:443");
    let cache = CertificateCache::new(1);
    let evidence = Evidence::read(&check, NONE, None, &cache).unwrap();
    let request = evidence.http().unwrap();
    assert_eq!((&*request.path.canonical, &*request.host), ("", "payments.example"));
    assert!(request.path.forms.is_empty());
}

#[test]
fn every_error_has_its_reason() {
    for (error, reason) in [
        (EvidenceError::NotUtf8, Reason::MalformedCheck),
        (EvidenceError::BothHeaderEncodings, Reason::MalformedCheck),
        (EvidenceError::PseudoHeader, Reason::MalformedCheck),
        (EvidenceError::TooManyHeaders, Reason::HeadersTooLarge),
        (EvidenceError::PathTooLong, Reason::HeadersTooLarge),
        (EvidenceError::InvalidHeader("upgrade"), Reason::InvalidHeader),
        (EvidenceError::Host(HostError::Empty), Reason::AmbiguousHost),
        (EvidenceError::Xfcc(XfccError::Syntax), Reason::PeerEvidenceMalformed),
        (EvidenceError::Certificate(CertificateError::Pem), Reason::PeerEvidenceMalformed),
        (EvidenceError::Name(NameError::NoPath), Reason::PeerEvidenceMalformed),
        (EvidenceError::Conflict(PeerConflict::Hash), Reason::PeerEvidenceConflict),
    ] {
        assert_eq!(Reason::from(error), reason, "{error}");
    }
}

#[test]
fn a_mesh_request_is_read_whole() {
    let xfcc = format!(
        "By={OWN};Hash={};Subject=\"\";URI={WEB}",
        "468ed33be74eee6556d90c0149c1309e9ba61d6425303443c0748a02dd8de688"
    );
    let mut check = check(&[
        (":authority", "payments.example"),
        ("authorization", "Bearer a.b.c"),
        ("x-forwarded-client-cert", &xfcc),
    ]);
    attributes(&mut check).source.as_mut().unwrap().principal = bytes(WEB);
    let cache = CertificateCache::new(1);
    for check in [&check, &raw(&check)] {
        let evidence = Evidence::read(check, ISTIO, None, &cache).unwrap();
        assert_eq!(evidence.request_id, "1");
        let peer = evidence.peer.as_ref().unwrap();
        assert_eq!(peer.spiffe().unwrap().as_str(), WEB);
        assert!(peer.thumbprint.is_some());
        let credentials = evidence.credentials();
        assert!(matches!(credentials, Credentials::Token { token: "a.b.c", .. }));
    }
}

/// Shows all that a decision can rest on.
fn show(check: &CheckRequest) -> Result<String, EvidenceError> {
    let cache = CertificateCache::new(1);
    Evidence::read(check, ALL, None, &cache).map(|evidence| {
        let headers: Vec<_> =
            evidence.http().map(|h| h.headers.iter().collect()).unwrap_or_default();
        let request = evidence
            .http()
            .map(|h| (h.method, &h.host, &h.path, &h.upgrade, h.preflight, h.grpc, h.credentials));
        format!("{:?} {request:?} {headers:?} {:?}", evidence.workload, evidence.peer)
    })
}

fn arbitrary_bytes() -> impl Strategy<Value = &'static [u8]> {
    prop_oneof![
        "[ -~]{0,24}".prop_map(|text| bytes(&text)),
        prop::collection::vec(any::<u8>(), 0..24).prop_map(|bytes| &*bytes.leak()),
    ]
}

fn header() -> impl Strategy<Value = (&'static [u8], &'static [u8])> {
    let name = prop_oneof![
        Just("authorization"),
        Just("x-forwarded-client-cert"),
        Just("upgrade"),
        Just("origin"),
        Just("access-control-request-method"),
        Just("content-type"),
        Just(":path"),
        Just(":authority"),
        Just("x-other"),
    ]
    .prop_map(bytes);
    let value = prop_oneof![
        arbitrary_bytes(),
        "(Bearer|bearer|DPoP|Basic)[ ,]{0,2}[a-z.=,! ]{0,8}".prop_map(|text| bytes(&text)),
        "(By|URI|Hash|x)=[\"a-z;,\\\\]{0,12}".prop_map(|text| bytes(&text)),
        "websocket|/a|PUT|https://a".prop_map(|text| bytes(&text)),
    ];
    (prop_oneof![8 => name, 1 => arbitrary_bytes()], value)
}

fn any_check() -> impl Strategy<Value = CheckRequest<'static>> {
    let method = prop_oneof![Just(bytes("GET")), Just(bytes("OPTIONS")), arbitrary_bytes()];
    let path = prop_oneof![Just(bytes("/a")), arbitrary_bytes()];
    let host = prop_oneof![Just(bytes("a")), arbitrary_bytes()];
    let headers = prop::collection::vec(header(), 0..6);
    (method, path, host, headers, arbitrary_bytes(), arbitrary_bytes()).prop_map(
        |(method, path, host, headers, principal, certificate)| {
            let mut check = check(&[]);
            let entries = headers.into_iter().map(|(key, value)| wire::Entry { key, value });
            *http(&mut check) = wire::HttpRequest {
                method,
                path,
                host,
                headers: entries.collect(),
                ..Default::default()
            };
            attributes(&mut check).source =
                Some(wire::Peer { principal, certificate, ..Default::default() });
            check
        },
    )
}

/// Returns the check as Envoy would send it: header bytes that are not UTF-8 replaced in the map.
fn sanitised(check: &CheckRequest<'static>) -> CheckRequest<'static> {
    let mut check = check.clone();
    for entry in &mut http(&mut check).headers {
        entry.value = bytes(&super::http::replaced(entry.value));
    }
    check
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn arbitrary_messages_never_panic(message: Vec<u8>) {
        if let Ok(check) = CheckRequest::decode(&message) {
            let _outcome = show(&check);
        }
    }

    #[test]
    fn both_encodings_decide_alike(check in any_check()) {
        let map = sanitised(&check);
        let of_map = show(&map);
        let of_raw = show(&raw(&check));
        prop_assert_eq!(of_map.is_ok(), of_raw.is_ok(), "{:?}\n{:?}", of_map, of_raw);
        if map == check {
            prop_assert_eq!(of_map, of_raw);
        } else if let (Err(map), Err(raw)) = (of_map, of_raw) {
            prop_assert_eq!(Reason::from(map), Reason::from(raw));
        }
    }
}

#[test]
fn the_fuzz_corpus_holds_checks_that_can_be_read() {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/check_request/");
    let cache = CertificateCache::new(1);
    let outcomes = ["map", "raw", "tcp"].map(|name| {
        let message = std::fs::read(format!("{corpus}{name}")).unwrap();
        let check = CheckRequest::decode(&message).unwrap();
        let evidence = Evidence::read(&check, ISTIO, None, &cache).unwrap();
        evidence.peer.and_then(|peer| peer.spiffe().map(|id| id.to_string()))
    });
    assert_eq!(outcomes, ["spiffe://td/web"; 3].map(|id| Some(id.to_owned())));
}
