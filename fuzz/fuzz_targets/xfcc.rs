//! XFCC: no panic, and what a client puts before Envoy's element never changes what is read of it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use symbolon::evidence::xfcc;

const TEXT: &[u8] =
    b"By=spiffe://td/own;Hash=468ed33be74eee6556d90c0149c1309e9ba61d6425303443c0748a02dd8de688;\
Subject=\"CN=web\";URI=spiffe://td/web";
const JSON: &[u8] = br#"{"hash":"468ed33be74eee6556d90c0149c1309e9ba61d6425303443c0748a02dd8de688","uri":["spiffe://td/web"]}]"#;

fuzz_target!(|client: &[u8]| {
    let _element = xfcc::last(client);
    // As Envoy appends: to a value between brackets as JSON, to any other as TEXT.
    let (header, genuine) = match client {
        [open @ .., b']'] if client.first() == Some(&b'[') => {
            ([open, b",", JSON].concat(), [b"[", JSON].concat())
        }
        _ => ([client, b",", TEXT].concat(), TEXT.to_vec()),
    };
    if let Ok(element) = xfcc::last(&header) {
        assert_eq!(Ok(element), xfcc::last(&genuine));
    }
});
