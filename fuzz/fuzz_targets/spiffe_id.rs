//! SPIFFE IDs: no panic, and an ID is its parts.
#![no_main]

use libfuzzer_sys::fuzz_target;
use symbolon::identity::SpiffeId;

fuzz_target!(|text: &str| {
    if let Ok(id) = SpiffeId::parse(text) {
        assert_eq!(format!("spiffe://{}{}", id.trust_domain(), id.path()), text);
    }
});
