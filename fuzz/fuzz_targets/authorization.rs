//! `authorization`: no panic, and a token has no character that could end it for another reader.
#![no_main]

use libfuzzer_sys::fuzz_target;
use symbolon::evidence::authorization::Credentials;

fuzz_target!(|value: &[u8]| {
    if let Credentials::Token { token, .. } = Credentials::read(value) {
        assert!(!token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic() && b != b','));
    }
});
