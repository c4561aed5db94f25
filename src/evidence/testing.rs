//! What this module's tests share: minted certificates and check messages.

use base64::{Engine, engine::general_purpose::STANDARD};
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair,
    KeyUsagePurpose, SanType,
};

use crate::transport::wire;

pub(super) const OWN: &str = "spiffe://prod.example/ns/payments/sa/api";
pub(super) const WEB: &str = "spiffe://prod.example/ns/checkout/sa/web";
/// Validity of minted certificates, in seconds after the epoch.
pub(super) const NOT_BEFORE: u64 = 1_700_000_000;
pub(super) const NOT_AFTER: u64 = 1_700_003_600;

/// Parameters of an SVID with these URI SANs.
pub(super) fn params(uris: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "web");
    params.subject_alt_names =
        uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let time = |seconds: u64| {
        time::OffsetDateTime::from_unix_timestamp(i64::try_from(seconds).unwrap()).unwrap()
    };
    params.not_before = time(NOT_BEFORE);
    params.not_after = time(NOT_AFTER);
    params
}

#[expect(clippy::needless_pass_by_value, reason = "callers build it for this call")]
pub(super) fn mint(params: CertificateParams) -> Vec<u8> {
    params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
}

pub(super) fn pem(der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    let lines: Vec<&str> =
        body.as_bytes().chunks(64).map(|line| str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

/// Percent-encodes as Envoy does.
pub(super) fn percent(pem: &str) -> String {
    let encode = |c: char| match c {
        ' ' => "%20".to_owned(),
        '\n' => "%0A".to_owned(),
        '+' => "%2B".to_owned(),
        '/' => "%2F".to_owned(),
        '=' => "%3D".to_owned(),
        other => other.to_string(),
    };
    pem.chars().map(encode).collect()
}

pub(super) fn hex(der: &[u8]) -> String {
    let digest = crate::identity::Thumbprint::of(der);
    digest.as_bytes().iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"))
}

/// A check of `GET https://payments.example/v1/payments` with these headers.
pub(super) fn check(headers: &[(&str, &str)]) -> wire::CheckRequest<'static> {
    let entry = |(key, value): &(&str, &str)| wire::Entry { key: bytes(key), value: bytes(value) };
    wire::CheckRequest {
        attributes: Some(wire::AttributeContext {
            source: Some(wire::Peer::default()),
            destination: Some(wire::Peer { principal: bytes(OWN), ..Default::default() }),
            http: Some(wire::HttpRequest {
                id: bytes("1"),
                method: bytes("GET"),
                headers: headers.iter().map(entry).collect(),
                path: bytes("/v1/payments"),
                host: bytes("payments.example"),
                raw_headers: Vec::new(),
            }),
            ..Default::default()
        }),
    }
}

pub(super) fn http<'c>(
    check: &'c mut wire::CheckRequest<'static>,
) -> &'c mut wire::HttpRequest<'static> {
    attributes(check).http.as_mut().unwrap()
}

pub(super) fn attributes<'c>(
    check: &'c mut wire::CheckRequest<'static>,
) -> &'c mut wire::AttributeContext<'static> {
    check.attributes.as_mut().unwrap()
}

/// Leaks a copy, so that a test may put a check together piece by piece.
pub(super) fn bytes(text: &str) -> &'static [u8] {
    text.as_bytes().to_vec().leak()
}

/// Returns the check with its headers in the other encoding.
pub(super) fn raw(check: &wire::CheckRequest<'static>) -> wire::CheckRequest<'static> {
    let mut check = check.clone();
    let http = http(&mut check);
    http.raw_headers = std::mem::take(&mut http.headers)
        .into_iter()
        .map(|entry| wire::HeaderValue { key: entry.key, value: b"", raw_value: entry.value })
        .collect();
    check
}
