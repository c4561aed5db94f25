use proptest::prelude::*;

use super::*;

const HASH: &str = "468ed33be74eee6556d90c0149c1309e9ba61d6425303443c0748a02dd8de688";
const BY: &str = "spiffe://prod.example/ns/payments/sa/api";
const URI: &str = "spiffe://prod.example/ns/checkout/sa/web";

/// As Istio's sidecars write it: Subject, URI and DNS, the subject being empty.
fn istio() -> String {
    format!("By={BY};Hash={HASH};Subject=\"\";URI={URI}")
}

/// As Envoy writes it with every detail on.
fn full() -> String {
    format!(
        "By={BY};Hash={HASH};Cert=\"-----BEGIN%20CERTIFICATE-----%0AMIIB%2B%2F%3D%0A-----END%20CERTIFICATE-----%0A\";\
         Chain=\"-----BEGIN%20CERTIFICATE-----%0AMIIB%0A-----END%20CERTIFICATE-----%0A\";\
         Subject=\"CN=J\\C3\\BCrgen \\\"x\\\",O=foo\\\\\";URI={URI};DNS=web.example;DNS=www.example;\
         Issuer=\"CN=ca\""
    )
}

fn json() -> String {
    format!(
        "[{{\"by\":[\"{BY}\"],\"hash\":\"{HASH}\",\"cert\":\"-----BEGIN CERTIFICATE-----\\nMIIB\\n\",\
         \"chain\":[\"a\\n\",\"b\"],\"subject\":\"CN=\\\"x\\\\\",\"uri\":[\"{URI}\"],\"dns\":[\"web.example\"],\
         \"issuer\":\"CN=ca\"}}]"
    )
}

fn of(header: &str) -> Result<Option<Element<'_>>, XfccError> {
    last(header.as_bytes())
}

fn uri(header: &str) -> Uri<'_> {
    of(header).unwrap().unwrap().uri
}

#[test]
fn what_envoy_writes_is_read() {
    let header = full();
    let element = of(&header).unwrap().unwrap();
    assert_eq!(element.by.as_slice(), [BY]);
    assert_eq!(element.hash, Thumbprint::from_hex(HASH));
    assert_eq!(element.uri, Uri::Value(URI));
    assert_eq!(element.dns, ["web.example", "www.example"]);
    assert_eq!(
        element.certificate,
        Some(CertificateText::Percent(
            b"-----BEGIN%20CERTIFICATE-----%0AMIIB%2B%2F%3D%0A-----END%20CERTIFICATE-----%0A"
        ))
    );
}

#[test]
fn what_istio_writes_is_read() {
    assert_eq!(uri(&istio()), Uri::Value(URI));
    assert_eq!(uri(&format!("By={BY};URI={URI}")), Uri::Value(URI));
    let header = format!("Hash={HASH};Subject=\"\";URI=");
    assert_eq!(uri(&header), Uri::Absent);
}

#[test]
fn what_envoy_writes_as_json_is_read() {
    let header = json();
    let element = of(&header).unwrap().unwrap();
    assert_eq!(element.by.as_slice(), [BY]);
    assert_eq!(element.hash, Thumbprint::from_hex(HASH));
    assert_eq!(element.uri, Uri::Value(URI));
    assert_eq!(element.dns, ["web.example"]);
    assert_eq!(
        element.certificate,
        Some(CertificateText::Json(br"-----BEGIN CERTIFICATE-----\nMIIB\n"))
    );
}

#[test]
fn an_element_without_a_peer_is_absent() {
    for header in ["By=;URI=", "By=spiffe://a/b;URI=", "URI=", "By=", "[{}]", "[{\"uri\":[]}]"] {
        assert_eq!(of(header), Ok(None), "{header}");
    }
}

#[test]
fn keys_are_compared_without_regard_to_case_and_values_may_be_quoted() {
    let header = format!("by=\"{BY}\";HASH={HASH};uRi=\"{URI}\";subject=CN");
    assert_eq!(uri(&header), Uri::Value(URI));
}

#[test]
fn only_the_last_element_is_judged() {
    for prefix in ["URI=victim;URI=other", "x", "", "Hash=zz", "By=a;Bogus=b,,;", "a=\"\\\",\""] {
        let header = format!("{prefix},{}", istio());
        assert_eq!(uri(&header), Uri::Value(URI), "{prefix}");
    }
}

#[test]
fn bad_text_elements_are_refused() {
    let cases = [
        ("URI=a;URI=b".to_owned(), XfccError::DuplicateKey),
        ("URI=;URI=a".to_owned(), XfccError::DuplicateKey),
        (format!("Hash={HASH};Hash={HASH}"), XfccError::DuplicateKey),
        ("Subject=\"\";Subject=\"\"".to_owned(), XfccError::DuplicateKey),
        ("Cert=\"a\";Cert=\"a\"".to_owned(), XfccError::DuplicateKey),
        (format!("Hash={}", HASH.to_uppercase()), XfccError::Value),
        ("Hash=".to_owned(), XfccError::Value),
        ("Hash=00".to_owned(), XfccError::Value),
        ("URI=a!".to_owned(), XfccError::Value),
        ("URI=ü".to_owned(), XfccError::Value),
        ("URI=\"a\\b\"".to_owned(), XfccError::Value),
        ("DNS=".to_owned(), XfccError::Value),
        ("URI".to_owned(), XfccError::Value),
        ("New=x;URI=a".to_owned(), XfccError::UnknownKey),
        ("URI=a;".to_owned(), XfccError::UnknownKey),
        ("URI=a,".to_owned(), XfccError::UnknownKey),
        ("x y".to_owned(), XfccError::Syntax),
        ("URI=a b".to_owned(), XfccError::Syntax),
        ("URI=a\\".to_owned(), XfccError::Syntax),
        ("URI=a\"b\"".to_owned(), XfccError::Syntax),
        ("URI=\"a\"b".to_owned(), XfccError::Syntax),
        ("URI=\"a".to_owned(), XfccError::Syntax),
        ("URI=\"a\\".to_owned(), XfccError::Syntax),
        ("URI=\"a\\\"".to_owned(), XfccError::Syntax),
        ("\"URI\"=a".to_owned(), XfccError::Syntax),
        ("URI=a\0".to_owned(), XfccError::Control),
        ("Subject=\"a\r\n\";URI=a".to_owned(), XfccError::Control),
        ("URI=a\u{7f}".to_owned(), XfccError::Control),
        ("DNS=a".to_owned(), XfccError::Incomplete),
        ("By=a;Subject=\"\"".to_owned(), XfccError::Incomplete),
    ];
    for (header, error) in cases {
        assert_eq!(of(&header), Err(error), "{header:?}");
    }
}

#[test]
fn bad_json_is_refused() {
    for (header, error) in [
        ("[]", XfccError::Syntax),
        ("[,{\"uri\":[\"a\"]}]", XfccError::Syntax),
        ("[{\"uri\":[\"a\"]},]", XfccError::Syntax),
        ("[{\"uri\":[\"a\"]}] ]", XfccError::Syntax),
        ("[] x,{\"uri\":[\"a\"]}]", XfccError::Syntax),
        ("[{\"uri\":[\"a\",]}]", XfccError::Syntax),
        ("[{\"uri\":[\"a\"],}]", XfccError::Syntax),
        ("[{\"uri\":[[\"a\"]]}]", XfccError::Syntax),
        ("[[{\"uri\":[\"a\"]}]]", XfccError::Syntax),
        ("[{\"uri\":null}]", XfccError::Syntax),
        ("[{\"uri\":1}]", XfccError::Syntax),
        ("[{\"uri\":[\"\\x\"]}]", XfccError::Syntax),
        ("[{\"uri\":[\"\\u12\"]}]", XfccError::Syntax),
        ("[{\"uri\":[\"a]}]", XfccError::Syntax),
        ("[{'uri':[\"a\"]}]", XfccError::Syntax),
        ("[{\"uri\":[\"a\"]\t}]", XfccError::Control),
        ("[{\"uri\":[\"a\"],\"uri\":[\"b\"]}]", XfccError::DuplicateKey),
        ("[{\"uri\":[\"a\"],\"\\u0075ri\":[\"b\"]}]", XfccError::DuplicateKey),
        ("[{\"x\":\"\",\"x\":\"\"},{\"uri\":[\"a\"]}]", XfccError::DuplicateKey),
        ("[{\"uri\":[\"a\",\"b\"]}]", XfccError::DuplicateKey),
        ("[{\"uri\":\"a\"}]", XfccError::Value),
        ("[{\"hash\":[\"a\"]}]", XfccError::Value),
        ("[{\"uri\":[\"a\\/b\"]}]", XfccError::Value),
        ("[{\"uri\":[\"a\\u0000\"]}]", XfccError::Value),
        ("[{\"URI\":[\"a\"]}]", XfccError::UnknownKey),
        ("[{\"dns\":[\"a\"]}]", XfccError::Incomplete),
    ] {
        assert_eq!(of(header), Err(error), "{header}");
    }
}

#[test]
fn the_client_cannot_flip_the_format() {
    let genuine = format!("{{\"hash\":\"{HASH}\",\"uri\":[\"{URI}\"]}}");
    // What Envoy makes of a client's value between brackets: it drops the last one and appends.
    for (client, read) in [
        ("[{\"uri\":[\"victim\"]}]", Ok(Uri::Value(URI))),
        ("[]", Err(XfccError::Syntax)),
        ("[] x]", Err(XfccError::Syntax)),
        ("[a,By=X;Hash=Y;URI=victim;Subject=\"]", Err(XfccError::Syntax)),
        ("[{\"uri\":[\"victim\"]},{\"uri\":[\"]", Err(XfccError::Syntax)),
        ("[{\"uri\":[\"victim\"]}]]", Err(XfccError::Syntax)),
    ] {
        let header = format!("{},{genuine}]", client.strip_suffix(']').unwrap());
        assert_eq!(of(&header).map(|element| element.unwrap().uri), read, "{header}");
    }
    // A value that only begins like JSON is appended to as text.
    let header = format!("[garbage,{}", istio());
    assert_eq!(uri(&header), Uri::Value(URI));
}

#[test]
fn an_open_quote_of_the_client_does_not_swallow_the_genuine_element() {
    for genuine in [istio(), full(), format!("By={BY};Hash={HASH};Subject=\"CN=x\";URI={URI}")] {
        let header = format!("By=a;Hash=b;URI=victim;Subject=\",{genuine}");
        assert_eq!(of(&header), Err(XfccError::Syntax), "{header}");
    }
    let header = format!("URI=victim;Subject=\",By={BY};URI={URI}");
    assert_eq!(of(&header), Err(XfccError::Syntax));
}

#[test]
fn size_and_count_are_bounded() {
    let at_most = format!("{}{}", "a,".repeat(MAX_ELEMENTS - 1), istio());
    assert_eq!(uri(&at_most), Uri::Value(URI));
    assert_eq!(of(&format!("a,{at_most}")), Err(XfccError::TooManyElements));
    let objects = vec!["{}"; MAX_ELEMENTS + 1].join(",");
    assert_eq!(of(&format!("[{objects}]")), Err(XfccError::TooManyElements));
    let long = format!("URI={}", "a".repeat(MAX_BYTES));
    assert_eq!(of(&long), Err(XfccError::TooLong));
}

#[test]
fn bytes_that_are_not_utf8_are_read_like_their_replacement() {
    for element in ["x=%", "URI=%", "DNS=%;URI=a", "Subject=\"%\";URI=a", "%=a", "By=%;URI=a"] {
        for header in [format!("{element},{}", istio()), element.to_owned()] {
            let raw: Vec<u8> = header.bytes().map(|b| if b == b'%' { 0xff } else { b }).collect();
            let replaced = header.replace('%', "!");
            assert_eq!(last(&raw), last(replaced.as_bytes()), "{header}");
        }
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(header: Vec<u8>) {
        let _element = last(&header);
        let bracketed = [b"[", &*header, b"]"].concat();
        let _element = last(&bracketed);
    }

    #[test]
    fn a_prefix_never_changes_the_genuine_element(
        prefix in "[a-zA-Z=;,\"\\\\ \\[\\]{}:!]{0,40}|(URI=victim|Hash=00|Subject=\"|x=\"\\\\|\"|,|;|\\[|\\]){0,8}",
        which in 0..3_usize,
    ) {
        let genuine = [istio(), full(), format!("By={BY};URI={URI}")][which].clone();
        let header = format!("{prefix},{genuine}");
        if let Ok(element) = of(&header) {
            prop_assert_eq!(Ok(element), of(&genuine));
        }
    }

    #[test]
    fn a_json_prefix_never_changes_the_genuine_element(
        prefix in "[a-z=;,\"\\\\ \\[\\]{}:]{0,40}|(\\{|\\}|\"uri\"|:|\\[|\\]|\"victim\"|,|\"|\\\\){0,12}",
    ) {
        let genuine = json();
        let header = format!("[{prefix},{}", genuine.strip_prefix('[').unwrap());
        if let Ok(element) = of(&header) {
            prop_assert_eq!(Ok(element), of(&genuine));
        }
    }
}
