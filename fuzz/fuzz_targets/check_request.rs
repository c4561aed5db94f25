//! Whole check messages: no panic, whatever the bytes.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use symbolon::{
    evidence::{Evidence, PeerSources, certificate::CertificateCache},
    transport::wire::CheckRequest,
};

static CERTIFICATES: LazyLock<CertificateCache> = LazyLock::new(|| CertificateCache::new(16));

fuzz_target!(|message: &[u8]| {
    if let Ok(check) = CheckRequest::decode(message) {
        for bits in 0..8_u8 {
            let sources = PeerSources {
                principal: bits & 1 != 0,
                certificate: bits & 2 != 0,
                xfcc: bits & 4 != 0,
            };
            let _evidence = Evidence::read(&check, sources, None, &CERTIFICATES);
        }
    }
});
