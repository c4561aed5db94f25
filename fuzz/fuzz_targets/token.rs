//! Access tokens: no panic, and one token has one spelling.
#![no_main]

use libfuzzer_sys::fuzz_target;
use symbolon::credential::token;

fuzz_target!(|text: &str| {
    if let Ok(jws) = token::parse(text) {
        // Base64url without padding: whatever is appended or shortened is another token or none.
        assert!(text.len() <= token::MAX_BYTES);
        assert_eq!(text.split('.').count(), 3);
        assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')));
        let _issuer = jws.issuer();
        assert!(token::parse(&format!("{text}=")).is_err());
    }
});
