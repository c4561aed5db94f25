use rcgen::{
    BasicConstraints, CustomExtension, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType,
};

use super::*;
use crate::evidence::testing::{NOT_AFTER, NOT_BEFORE, WEB, mint, params, pem, percent};

fn parse(der: &[u8]) -> Certificate {
    Certificate::parse(der).unwrap()
}

fn read(text: &str) -> Result<Arc<Certificate>, CertificateError> {
    CertificateCache::new(8).read(CertificateText::Percent(text.as_bytes()))
}

#[test]
fn an_svid_names_its_workload() {
    let mut params = params(&[WEB]);
    params.subject_alt_names.push(SanType::DnsName("web.example".try_into().unwrap()));
    let der = mint(params);
    let leaf = parse(&der);
    assert_eq!(leaf.spiffe().unwrap().as_str(), WEB);
    assert_eq!(leaf.svid_error(), None);
    assert_eq!(leaf.dns(), ["web.example"]);
    assert_eq!(leaf.thumbprint(), Thumbprint::of(&der));
    let (from, to) = leaf.validity();
    assert_eq!((from.as_secs(), to.as_secs()), (NOT_BEFORE, NOT_AFTER));
}

#[test]
fn a_certificate_that_is_no_svid_keeps_its_thumbprint_and_says_why() {
    let second = |other: &str| params(&[WEB, other]);
    let mut authority = params(&[WEB]);
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let usages = |usages: &[KeyUsagePurpose]| {
        let mut params = params(&[WEB]);
        params.key_usages = usages.to_vec();
        params
    };
    let mut server_only = params(&[WEB]);
    server_only.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let mut critical = params(&[WEB]);
    let mut extension =
        CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![5, 0]);
    extension.set_criticality(true);
    critical.custom_extensions = vec![extension];
    let signing = [KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign];
    let crl_signing = [KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::CrlSign];
    for (params, error) in [
        (params(&[]), SvidError::NoUri),
        (second("spiffe://prod.example/other"), SvidError::SeveralUris),
        (second("https://example.com"), SvidError::SeveralUris),
        (params(&["https://example.com"]), SvidError::SpiffeId(SpiffeIdError::Scheme)),
        (params(&["spiffe://td/a/../b"]), SvidError::SpiffeId(SpiffeIdError::Path)),
        (params(&["spiffe://td/a;URI=b,By=c"]), SvidError::SpiffeId(SpiffeIdError::Path)),
        (params(&["spiffe://prod.example"]), SvidError::NoPath),
        (authority, SvidError::Authority),
        (usages(&[]), SvidError::KeyUsage),
        (usages(&[KeyUsagePurpose::KeyEncipherment]), SvidError::KeyUsage),
        (usages(&signing), SvidError::KeyUsage),
        (usages(&crl_signing), SvidError::KeyUsage),
        (server_only, SvidError::ExtendedKeyUsage),
        (critical, SvidError::CriticalExtension),
    ] {
        let der = mint(params);
        let leaf = parse(&der);
        assert_eq!(leaf.svid_error(), Some(error));
        assert_eq!(leaf.spiffe(), None);
        assert_eq!(leaf.thumbprint(), Thumbprint::of(&der));
    }
}

#[test]
fn an_extension_that_is_not_understood_and_not_critical_is_ignored() {
    let mut params = params(&[WEB]);
    params.custom_extensions =
        vec![CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![5, 0])];
    assert_eq!(parse(&mint(params)).svid_error(), None);
}

#[test]
fn an_extension_that_comes_twice_is_refused() {
    let mut params = params(&[WEB]);
    let extension = || CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![5, 0]);
    params.custom_extensions = vec![extension(), extension()];
    let error = Certificate::parse(&mint(params)).unwrap_err();
    assert_eq!(error, CertificateError::DuplicateExtension);
}

#[test]
fn der_is_read_whole_or_not_at_all() {
    let der = mint(params(&[WEB]));
    let trailing = [&*der, &[0]].concat();
    assert_eq!(Certificate::parse(&trailing).unwrap_err(), CertificateError::TrailingBytes);
    for length in 0..der.len() {
        assert_eq!(Certificate::parse(&der[..length]).unwrap_err(), CertificateError::Der);
    }
}

#[test]
fn validity_is_inclusive_at_both_ends() {
    let leaf = parse(&mint(params(&[WEB])));
    let at = UnixTime::from_secs;
    assert!(leaf.is_not_yet_valid(at(NOT_BEFORE - 1)));
    assert!(!leaf.is_not_yet_valid(at(NOT_BEFORE)));
    assert!(!leaf.has_expired(at(NOT_AFTER)));
    let last_instant = UnixTime::new(Duration::from_millis(NOT_AFTER * 1000 + 999));
    assert!(!leaf.has_expired(last_instant));
    assert!(leaf.has_expired(at(NOT_AFTER + 1)));
}

#[test]
fn both_encodings_of_a_certificate_are_read() {
    let der = mint(params(&[WEB]));
    let pem = pem(&der);
    let cache = CertificateCache::new(8);
    let percent = percent(&pem);
    let json = pem.replace('\n', "\\n");
    for text in
        [CertificateText::Percent(percent.as_bytes()), CertificateText::Json(json.as_bytes())]
    {
        assert_eq!(cache.read(text).unwrap().thumbprint(), Thumbprint::of(&der));
    }
}

#[test]
fn a_text_that_is_not_one_certificate_is_refused() {
    let good = pem(&mint(params(&[WEB])));
    let encoded = percent(&good);
    for (text, error) in [
        (String::new(), CertificateError::Pem),
        (percent(&format!("{good}{good}")), CertificateError::Pem),
        (percent(&format!("x{good}")), CertificateError::Pem),
        (percent(&format!("{good}x")), CertificateError::Pem),
        (percent(&good.replace("CERTIFICATE", "PRIVATE KEY")), CertificateError::Pem),
        (percent(&good.replace("END CERTIFICATE", "END CERTIFICATF")), CertificateError::Pem),
        (percent(&good.replace("-----\nM", "-----\n!M")), CertificateError::Pem),
        // Form-decoding would read a `+` as a space; here it stays, and is no valid base64 in its place.
        (encoded.replace("%20", "+"), CertificateError::Pem),
        (encoded.replacen("%20", "%2x", 1), CertificateError::Escape),
        (format!("{encoded}%"), CertificateError::Escape),
        (format!("{encoded}%zz"), CertificateError::Escape),
        (format!("{encoded}%ff"), CertificateError::Pem),
        (percent(&pem(b"not a certificate")), CertificateError::Der),
        ("a".repeat(MAX_TEXT_BYTES + 1), CertificateError::TooLong),
    ] {
        assert_eq!(read(&text).unwrap_err(), error, "{text}");
    }
    let cache = CertificateCache::new(8);
    let json = |text: &str| cache.read(CertificateText::Json(text.as_bytes())).unwrap_err();
    assert_eq!(json("\\x"), CertificateError::Escape);
    assert_eq!(json("a\"b"), CertificateError::Escape);
    assert_eq!(json(&encoded), CertificateError::Pem);
}

#[test]
fn a_certificate_is_parsed_once() {
    let text = percent(&pem(&mint(params(&[WEB]))));
    let cache = CertificateCache::new(8);
    let text = CertificateText::Percent(text.as_bytes());
    let first = cache.read(text).unwrap();
    let second = cache.read(text).unwrap();
    assert!(Arc::ptr_eq(&first, &second));
    assert_eq!((cache.len(), cache.hits(), cache.misses()), (1, 1, 1));
}

#[test]
fn the_cache_is_bounded_and_keeps_nothing_malformed() {
    let cache = CertificateCache::new(4);
    assert!(cache.is_empty());
    for _ in 0..20 {
        let text = percent(&pem(&mint(params(&[WEB]))));
        cache.read(CertificateText::Percent(text.as_bytes())).unwrap();
    }
    assert!(cache.len() <= 4, "{}", cache.len());
    let cache = CertificateCache::new(4);
    cache.read(CertificateText::Percent(b"garbage")).unwrap_err();
    assert!(cache.is_empty());
}

proptest::proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(text: Vec<u8>) {
        let cache = CertificateCache::new(4);
        let _read = cache.read(CertificateText::Percent(&text));
        let _read = cache.read(CertificateText::Json(&text));
        let _parsed = Certificate::parse(&text);
    }
}
