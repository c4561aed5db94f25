//! Cases as Envoy's messages.

use std::collections::HashMap;

use envoy_types::pb::envoy::{
    config::core::v3::{
        Address, HeaderMap, HeaderValue, SocketAddress, address, socket_address::PortSpecifier,
    },
    service::auth::v3::{
        AttributeContext, CheckRequest,
        attribute_context::{HttpRequest, Peer, Request},
    },
};
use prost::Message as _;

use crate::{
    data::{Case, Check, Encoding, Text, unhex},
    mint::{Mint, percent},
};

/// The service called, unless a case says otherwise.
const PAYMENTS: &str = "spiffe://prod.example/ns/payments/sa/api";

/// A check as bytes, and the token that is in it.
pub(crate) fn encode(case: &Case, encoding: Encoding, mint: &Mint) -> (Vec<u8>, Option<String>) {
    let check = &case.check;
    if let Some(hex) = &check.message {
        return (unhex(hex), None);
    }
    if check.empty {
        return (CheckRequest::default().encode_to_vec(), None);
    }
    let token = check.token.as_ref().map(|spec| mint.token(spec));
    let workload = check.workload.as_deref().unwrap_or(PAYMENTS);
    let [principal, certificate, xfcc] = peer(case, workload, mint);
    let http = check.tcp.is_none().then(|| {
        let mut proof = proof(check, token.as_deref().unwrap_or_default(), mint);
        proof.extend(workload_identity(check, token.as_deref(), mint));
        http(check, encoding, (xfcc, token.as_deref(), proof))
    });
    let attributes = AttributeContext {
        source: Some(Peer { principal, certificate, ..Peer::default() }),
        destination: Some(Peer {
            principal: workload.to_owned(),
            address: Some(address(check.tcp.unwrap_or(8443))),
            ..Peer::default()
        }),
        request: Some(Request { http, ..Request::default() }),
        context_extensions: check.extensions.clone().into_iter().collect(),
        ..AttributeContext::default()
    };
    let mut bytes = CheckRequest { attributes: Some(attributes) }.encode_to_vec();
    if let Some((from, to)) = &check.bytes {
        let to = unhex(to);
        assert_eq!(from.len(), to.len(), "{}", case.name());
        let places: Vec<_> = bytes
            .windows(from.len())
            .enumerate()
            .filter(|(_, window)| *window == from.as_bytes())
            .map(|(at, _)| at)
            .collect();
        assert!(!places.is_empty(), "{}: `{from}` is not there", case.name());
        for at in places {
            bytes[at..at + to.len()].copy_from_slice(&to);
        }
    }
    (bytes, token)
}

/// Principal, certificate and XFCC.
fn peer(case: &Case, workload: &str, mint: &Mint) -> [String; 3] {
    let check = &case.check;
    let identity = check.peer.as_ref().map(|name| {
        mint.identities.get(name).unwrap_or_else(|| panic!("{}: no identity", case.name()))
    });
    let given = |text: &Option<String>| text.as_ref().map(|text| mint.fill(text));
    let listed = |source: &str| case.evidence.iter().any(|listed| listed == source);
    let principal = given(&check.principal).or_else(|| {
        identity.and_then(|identity| identity.uri.clone().or_else(|| identity.dns.first().cloned()))
    });
    let certificate = given(&check.certificate)
        .or_else(|| identity.filter(|_| listed("certificate")).map(|i| percent(&i.pem)));
    let xfcc = given(&check.xfcc).or_else(|| {
        let identity = identity.filter(|_| listed("xfcc"))?;
        let name = check.peer.as_ref()?;
        let mut element =
            mint.fill(&format!("By={workload};Hash={{hash:{name}}};Subject=\"CN=corpus\""));
        element.push_str(";URI=");
        element.push_str(identity.uri.as_deref().unwrap_or_default());
        for name in &identity.dns {
            element.push_str(";DNS=");
            element.push_str(name);
        }
        Some(element)
    });
    [principal, certificate, xfcc].map(Option::unwrap_or_default)
}

type Headers = Vec<(String, Vec<u8>)>;

/// The headers of a proof.
fn proof(check: &Check, token: &str, mint: &Mint) -> Headers {
    let Some(spec) = &check.proof else { return Vec::new() };
    let method = check.method.as_deref().unwrap_or("GET");
    let host = check.host.as_deref().unwrap_or("payments.example");
    let uri = format!("https://{host}{}", check.path.as_deref().unwrap_or("/v1/payments/42"));
    let proof = mint.proof(spec, method, &uri, token).into_bytes();
    let headers = if spec.twice { vec![proof.clone(), proof] } else { vec![proof] };
    headers.into_iter().map(|proof| ("dpop".to_owned(), proof)).collect()
}

/// The headers of a workload identity token and its proof.
fn workload_identity(check: &Check, token: Option<&str>, mint: &Mint) -> Headers {
    let host = check.host.as_deref().unwrap_or("payments.example");
    let path = check.path.as_deref().unwrap_or("/v1/payments/42");
    let path = path.split('?').next().unwrap_or(path);
    let uri = format!("https://{host}{path}");
    let wit = check.wit.as_ref().map(|spec| mint.wit(spec));
    let mut headers = Vec::new();
    if let Some(spec) = &check.wpt {
        let proof = mint.wpt(spec, &uri, wit.as_deref().unwrap_or_default(), token).into_bytes();
        let count = if spec.twice { 2 } else { 1 };
        headers.extend(vec![("workload-proof-token".to_owned(), proof); count]);
    }
    headers.extend(wit.map(|wit| ("workload-identity-token".to_owned(), wit.into_bytes())));
    headers
}

fn http(
    check: &Check,
    encoding: Encoding,
    (xfcc, token, proof): (String, Option<&str>, Headers),
) -> HttpRequest {
    let method = check.method.as_deref().unwrap_or("GET");
    let host = check.host.as_deref().unwrap_or("payments.example");
    let path = check.path.as_deref().unwrap_or("/v1/payments/42");
    let mut headers: Vec<(String, Vec<u8>)> = Vec::new();
    for (name, attribute) in
        [(":method", method), (":authority", host), (":path", path), (":scheme", "https")]
    {
        let value = check.pseudo.get(name).map_or(attribute, String::as_str);
        headers.push((name.to_owned(), value.as_bytes().to_vec()));
    }
    let authorization = match (&check.authorization, token) {
        (Some(text), token) => Some(text.replace("{token}", token.unwrap_or_default())),
        (None, Some(token)) if check.proof.is_some() => Some(format!("DPoP {token}")),
        (None, Some(token)) => Some(format!("Bearer {token}")),
        (None, None) => None,
    };
    headers.extend(proof);
    headers.extend(authorization.map(|value| ("authorization".to_owned(), value.into_bytes())));
    if !xfcc.is_empty() {
        headers.push(("x-forwarded-client-cert".to_owned(), xfcc.into_bytes()));
    }
    for (name, value) in &check.headers {
        headers.push((name.clone(), bytes_of(value, token.unwrap_or_default())));
    }
    headers.extend((0..check.fillers).map(|n| (format!("x-filler-{n}"), b"x".to_vec())));
    let raw = |headers: Vec<(String, Vec<u8>)>| HeaderMap {
        headers: headers
            .into_iter()
            .map(|(key, raw_value)| HeaderValue { key, raw_value, ..HeaderValue::default() })
            .collect(),
    };
    let both = check.both_encodings.then(|| raw(headers.clone()));
    let (map, header_map) = match encoding {
        Encoding::Map => (joined(headers), both),
        Encoding::Raw if check.both_encodings => (joined(headers), both),
        Encoding::Raw => (HashMap::new(), Some(raw(headers))),
    };
    HttpRequest {
        id: check.id.clone().unwrap_or_else(|| "1234567890".to_owned()),
        method: method.to_owned(),
        host: host.to_owned(),
        path: path.to_owned(),
        scheme: "https".to_owned(),
        protocol: "HTTP/2".to_owned(),
        size: -1,
        headers: map,
        header_map,
        ..HttpRequest::default()
    }
}

/// As Envoy does: lines of one name joined, and a `!` for each byte that is not UTF-8.
fn joined(headers: Vec<(String, Vec<u8>)>) -> HashMap<String, String> {
    let mut map: HashMap<String, String> = HashMap::new();
    for (name, value) in headers {
        let mut text = String::new();
        for chunk in value.utf8_chunks() {
            text.push_str(chunk.valid());
            text.extend(chunk.invalid().iter().map(|_| '!'));
        }
        map.entry(name)
            .and_modify(|before| {
                before.push(',');
                before.push_str(&text);
            })
            .or_insert(text);
    }
    map
}

fn bytes_of(text: &Text, token: &str) -> Vec<u8> {
    match text {
        Text::Plain(text) => text.replace("{token}", token).into_bytes(),
        Text::Repeated { repeat, times } => repeat.repeat(*times).into_bytes(),
        Text::Bytes { hex } => unhex(hex),
    }
}

fn address(port: u32) -> Address {
    Address {
        address: Some(address::Address::SocketAddress(SocketAddress {
            address: "10.0.0.1".to_owned(),
            port_specifier: Some(PortSpecifier::PortValue(port)),
            ..SocketAddress::default()
        })),
    }
}
