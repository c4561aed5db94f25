//! The lean messages on the wire are Envoy's: what the full ones encode, the lean ones read alike.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use envoy_types::pb::envoy::{
    config::core::v3::{
        Address, HeaderMap, HeaderValue, SocketAddress, address, socket_address::PortSpecifier,
    },
    service::auth::v3::{
        AttributeContext, CheckRequest,
        attribute_context::{HttpRequest, Peer, Request},
    },
};
use proptest::prelude::*;
use prost::Message as _;
use symbolon::transport::wire;

/// A field is text in the full message and bytes in the lean one.
fn text(bytes: &[u8]) -> &str {
    str::from_utf8(bytes).expect("the full message decoded, so that its strings are UTF-8")
}

fn map(entries: &[wire::Entry<'_>]) -> BTreeMap<String, String> {
    entries.iter().map(|e| (text(e.key).to_owned(), text(e.value).to_owned())).collect()
}

fn same_peer(full: Option<&Peer>, lean: Option<&wire::Peer<'_>>) {
    assert_eq!(full.is_some(), lean.is_some());
    let (Some(full), Some(lean)) = (full, lean) else { return };
    assert_eq!(
        (&*full.principal, &*full.certificate),
        (text(lean.principal), text(lean.certificate))
    );
    let port = full.address.as_ref().and_then(|address| match &address.address {
        Some(address::Address::SocketAddress(socket)) => match socket.port_specifier {
            Some(PortSpecifier::PortValue(port)) => Some(port),
            _ => None,
        },
        _ => None,
    });
    assert_eq!(port.unwrap_or_default(), lean.port);
}

fn same_http(full: &HttpRequest, lean: &wire::HttpRequest<'_>) {
    assert_eq!(
        [&*full.id, &*full.method, &*full.path, &*full.host],
        [text(lean.id), text(lean.method), text(lean.path), text(lean.host)]
    );
    assert_eq!(full.headers.clone().into_iter().collect::<BTreeMap<_, _>>(), map(&lean.headers));
    let full: Vec<_> = full.header_map.iter().flat_map(|map| &map.headers).collect();
    let full: Vec<_> = full.iter().map(|h| (&*h.key, &*h.value, &*h.raw_value)).collect();
    let lean: Vec<_> =
        lean.raw_headers.iter().map(|h| (text(h.key), text(h.value), h.raw_value)).collect();
    assert_eq!(full, lean);
}

fn same(full: &CheckRequest, lean: &wire::CheckRequest<'_>) {
    assert_eq!(full.attributes.is_some(), lean.attributes.is_some());
    let (Some(full), Some(lean)) = (&full.attributes, &lean.attributes) else { return };
    same_peer(full.source.as_ref(), lean.source.as_ref());
    same_peer(full.destination.as_ref(), lean.destination.as_ref());
    let extensions: BTreeMap<_, _> = full.context_extensions.clone().into_iter().collect();
    assert_eq!(extensions, map(&lean.context_extensions));
    let full = full.request.as_ref().and_then(|request| request.http.as_ref());
    let lean = lean.http.as_ref();
    assert_eq!(full.is_some(), lean.is_some());
    if let (Some(full), Some(lean)) = (full, lean) {
        same_http(full, lean);
    }
}

prop_compose! {
    fn peer()(
        principal: String,
        certificate: String,
        service: String,
        socket in prop::option::of((".*", any::<u32>())),
    ) -> Peer {
        Peer {
            principal,
            certificate,
            service,
            address: socket.map(|(address, port)| Address {
                address: Some(address::Address::SocketAddress(SocketAddress {
                    address,
                    port_specifier: Some(PortSpecifier::PortValue(port)),
                    ..Default::default()
                })),
            }),
            ..Default::default()
        }
    }
}

prop_compose! {
    fn http()(
        (id, method, path, host) in (".*", ".*", ".*", ".*"),
        (scheme, protocol, body, size) in (".*", ".*", ".*", any::<i64>()),
        raw_body: Vec<u8>,
        headers in prop::collection::hash_map(".*", ".*", 0..6),
        header_map in prop::option::of(prop::collection::vec((".*", ".*", any::<Vec<u8>>()), 0..6)),
    ) -> HttpRequest {
        HttpRequest {
            id,
            method,
            headers,
            path,
            host,
            scheme,
            protocol,
            body,
            size,
            raw_body,
            header_map: header_map.map(|headers| HeaderMap {
                headers: headers
                    .into_iter()
                    .map(|(key, value, raw)| HeaderValue { key, value, raw_value: raw })
                    .collect(),
            }),
            ..Default::default()
        }
    }
}

prop_compose! {
    fn check()(
        source in prop::option::of(peer()),
        destination in prop::option::of(peer()),
        http in prop::option::of(prop::option::of(http())),
        context_extensions in prop::collection::hash_map(".*", ".*", 0..4),
    ) -> CheckRequest {
        CheckRequest {
            attributes: Some(AttributeContext {
                source,
                destination,
                request: http.map(|http| Request { http, ..Default::default() }),
                context_extensions,
                ..Default::default()
            }),
        }
    }
}

proptest! {
    #[test]
    fn the_lean_message_reads_what_the_full_one_wrote(full in check()) {
        let message = full.encode_to_vec();
        let lean = wire::CheckRequest::decode(&message).expect("the same wire format");
        same(&full, &lean);
    }

    #[test]
    fn bytes_that_the_full_message_reads_are_read_alike(
        full in check(),
        at: prop::sample::Index,
        byte: u8,
    ) {
        let mut message = full.encode_to_vec();
        if !message.is_empty() {
            let at = at.index(message.len());
            message[at] = byte;
        }
        if let Ok(full) = CheckRequest::decode(&*message)
            && let Ok(lean) = wire::CheckRequest::decode(&message)
            && unique(&lean)
        {
            same(&full, &lean);
        }
    }
}

/// A map has each key once; a message that repeats one is not Envoy's.
fn unique(lean: &wire::CheckRequest<'_>) -> bool {
    let once = |entries: &[wire::Entry<'_>]| map(entries).len() == entries.len();
    lean.attributes.as_ref().is_none_or(|attributes| {
        let http = attributes.http.as_ref();
        once(&attributes.context_extensions) && http.is_none_or(|http| once(&http.headers))
    })
}
