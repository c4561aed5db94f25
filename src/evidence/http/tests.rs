use super::*;
use crate::{
    evidence::testing::{bytes, check, http, raw},
    transport::wire::CheckRequest,
};

fn show(check: &CheckRequest<'_>) -> Result<String, EvidenceError> {
    let attributes = check.attributes.as_ref().unwrap();
    let http = attributes.http.as_ref().unwrap();
    HttpRequest::read(http).map(|(request, _)| {
        format!(
            "upgrade={:?} preflight={} grpc={} credentials={:?}",
            request.upgrade, request.preflight, request.grpc, request.credentials
        )
    })
}

/// Reads the request in both encodings, which must agree.
fn read(check: &CheckRequest<'static>) -> Result<String, EvidenceError> {
    let outcome = show(check);
    assert_eq!(show(&raw(check)), outcome, "the other encoding");
    outcome
}

fn with(method: &str, headers: &[(&str, &str)]) -> Result<String, EvidenceError> {
    let mut check = check(headers);
    http(&mut check).method = bytes(method);
    read(&check)
}

/// Repeated raw headers, and what Envoy makes of them in the other encoding.
fn repeated(name: &str, first: &str, second: &str) -> [Result<String, EvidenceError>; 2] {
    let apart = raw(&check(&[(name, first), (name, second)]));
    let joined = check(&[(name, &format!("{first},{second}"))]);
    [show(&apart), show(&joined)]
}

#[test]
fn pseudo_headers_repeat_the_attributes_and_are_not_shown() {
    let check = check(&[
        (":authority", "payments.example"),
        (":method", "GET"),
        (":path", "/v1/payments"),
        (":scheme", "https"),
        ("x-a", "b"),
    ]);
    for check in [&check, &raw(&check)] {
        let wire = check.attributes.as_ref().unwrap().http.as_ref();
        let (request, _) = HttpRequest::read(wire.unwrap()).unwrap();
        assert_eq!(request.headers.iter().collect::<Vec<_>>(), [("x-a", &b"b"[..])]);
    }
}

#[test]
fn a_pseudo_header_that_differs_is_refused() {
    for header in [
        (":authority", "other.example"),
        (":method", "POST"),
        (":path", "/v1/payments/42"),
        (":path", ""),
    ] {
        assert_eq!(read(&check(&[header])), Err(EvidenceError::PseudoHeader), "{header:?}");
    }
}

#[test]
fn a_raw_path_that_is_not_utf8_agrees_with_its_replacement() {
    let mut check = raw(&check(&[(":path", "x")]));
    let http = http(&mut check);
    http.path = bytes("/caf!");
    http.raw_headers[0].raw_value = b"/caf\xe9";
    let (request, _) = HttpRequest::read(http).unwrap();
    assert_eq!(request.path.forms, path::PathForms::NON_ASCII);
}

#[test]
fn bad_names_are_refused() {
    for name in ["", "X-A", "x a", "x\0", "x:", "ä"] {
        assert_eq!(read(&check(&[(name, "v")])), Err(EvidenceError::HeaderName), "{name:?}");
    }
}

#[test]
fn headers_in_both_encodings_are_refused() {
    let mut both = raw(&check(&[("x-a", "b")]));
    http(&mut both).headers = check(&[("x-a", "b")]).attributes.unwrap().http.unwrap().headers;
    assert_eq!(HttpRequest::read(http(&mut both)).unwrap_err(), EvidenceError::BothHeaderEncodings);
    let mut both = raw(&check(&[("x-a", "b")]));
    http(&mut both).raw_headers[0].value = bytes("c");
    assert_eq!(HttpRequest::read(http(&mut both)).unwrap_err(), EvidenceError::BothHeaderEncodings);
}

#[test]
fn fields_that_are_not_utf8_are_refused() {
    const BAD: &[u8] = b"a\xff";
    let mutations: [fn(&mut wire::HttpRequest<'static>); 4] = [
        |http| http.method = BAD,
        |http| http.path = BAD,
        |http| http.host = BAD,
        |http| http.headers[0].value = BAD,
    ];
    for mutate in mutations {
        let mut check = check(&[("x-a", "b")]);
        mutate(http(&mut check));
        assert_eq!(HttpRequest::read(http(&mut check)).unwrap_err(), EvidenceError::NotUtf8);
    }
}

#[test]
fn limits_hold_in_both_encodings() {
    let names: Vec<String> = (0..=MAX_HEADERS).map(|n| format!("x-{n}")).collect();
    let headers: Vec<_> = names.iter().map(|name| (&**name, "v")).collect();
    read(&check(&headers[..MAX_HEADERS])).unwrap();
    assert_eq!(read(&check(&headers)), Err(EvidenceError::TooManyHeaders));
    let long = "a".repeat(MAX_VALUE_BYTES + 1);
    assert_eq!(
        read(&check(&[(&"a".repeat(MAX_NAME_BYTES + 1), "")])),
        Err(EvidenceError::HeaderNameTooLong)
    );
    assert_eq!(read(&check(&[("a", &long)])), Err(EvidenceError::HeaderValueTooLong));
    let at_most = &"a".repeat(MAX_VALUE_BYTES);
    read(&check(&[("a", at_most)])).unwrap();
    let total = check(&[("a", at_most), ("b", at_most)]);
    assert_eq!(read(&total), Err(EvidenceError::HeadersTooLong));
    let mut check = check(&[]);
    http(&mut check).path = bytes(&format!("/{}", "a".repeat(path::MAX_BYTES)));
    assert_eq!(read(&check), Err(EvidenceError::PathTooLong));
}

#[test]
fn a_method_is_a_token() {
    let long = "A".repeat(MAX_METHOD_BYTES + 1);
    for method in ["", "GET ", "G T", "GÉT", "GET\0", &long] {
        assert_eq!(with(method, &[]), Err(EvidenceError::Method), "{method:?}");
    }
    with("PROPFIND", &[]).unwrap();
    with("get", &[]).unwrap();
}

#[test]
fn upgrades_are_one_protocol_in_lower_case() {
    let upgrade = |value: &str| with("GET", &[("upgrade", value)]);
    assert!(upgrade("WebSocket").unwrap().starts_with("upgrade=Some(\"websocket\")"));
    for value in ["", "websocket,h2c", "websocket, h2c", "web socket", "web\0", "web!"] {
        assert_eq!(upgrade(value), Err(EvidenceError::InvalidHeader("upgrade")), "{value:?}");
    }
}

#[test]
fn a_preflight_is_options_with_origin_and_method() {
    let both = [("origin", "https://a.example"), ("access-control-request-method", "PUT")];
    let is_preflight =
        |method, headers: &[_]| with(method, headers).unwrap().contains("preflight=true");
    assert!(is_preflight("OPTIONS", &both));
    assert!(!is_preflight("GET", &both));
    assert!(!is_preflight("OPTIONS", &both[..1]));
    assert!(!is_preflight("OPTIONS", &both[1..]));
    let bad = [both[0], ("access-control-request-method", "PUT,GET")];
    let error = EvidenceError::InvalidHeader("access-control-request-method");
    assert_eq!(with("OPTIONS", &bad), Err(error));
    with("GET", &bad).unwrap();
}

#[test]
fn grpc_is_told_by_its_content_type() {
    let is_grpc = |value| with("POST", &[("content-type", value)]).unwrap().contains("grpc=true");
    for value in ["application/grpc", "application/grpc+proto", "Application/GRPC; a=b"] {
        assert!(is_grpc(value), "{value}");
    }
    for value in
        ["", "application/grpc-web", "application/grpcx", "text/plain", "application/grpc,x"]
    {
        assert!(!is_grpc(value), "{value}");
    }
}

#[test]
fn repeated_headers_are_read_alike_in_both_encodings() {
    for (name, first, second) in [
        ("authorization", "Bearer a", "Bearer b"),
        ("authorization", "Basic a", "Bearer b"),
        ("authorization", "", ""),
        ("upgrade", "websocket", "websocket"),
        ("content-type", "application/grpc", "application/grpc"),
        ("x-other", "a", "b"),
    ] {
        let [apart, joined] = repeated(name, first, second);
        assert_eq!(apart, joined, "{name}: {first:?} {second:?}");
    }
    let [two, _] = repeated("authorization", "Bearer a", "Bearer b");
    assert!(two.unwrap().ends_with("Unusable(credentials_ambiguous)"));
}

#[test]
fn a_token_in_the_query_makes_credentials_unusable() {
    let at = |path: &str, headers: &[_]| {
        let mut check = check(headers);
        http(&mut check).path = bytes(path);
        read(&check).unwrap()
    };
    assert!(at("/a?access_token=x", &[]).ends_with("Unusable(token_in_query)"));
    let both = at("/a?access_token=x", &[("authorization", "Bearer x")]);
    assert!(both.ends_with("Unusable(credentials_ambiguous)"));
    assert!(at("/a?b=access_token", &[]).ends_with("Absent"));
}

#[test]
fn a_host_header_beside_another_authority_is_refused() {
    assert!(with("GET", &[("host", "payments.example")]).is_ok());
    assert_eq!(
        with("GET", &[("host", "other.example")]),
        Err(EvidenceError::Host(HostError::Several))
    );
}

#[test]
fn a_bad_host_is_refused_with_its_cause() {
    let mut check = check(&[]);
    http(&mut check).host = bytes("a,b");
    assert_eq!(read(&check), Err(EvidenceError::Host(host::HostError::Character)));
}
