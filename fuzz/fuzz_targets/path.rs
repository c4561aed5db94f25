//! Paths: no panic, and a canonical path is canonical.
#![no_main]

use libfuzzer_sys::fuzz_target;
use symbolon::evidence::path::{Path, PathForms};

fuzz_target!(|attribute: &str| {
    let first = Path::read(attribute, "GET");
    if !first.forms.intersects(PathForms::NEVER) {
        let again = Path::read(&first.canonical, "GET");
        assert_eq!(again.canonical, first.canonical);
        assert!(!again.forms.intersects(PathForms::DOT_SEGMENTS.union(PathForms::EMPTY_SEGMENTS)));
    }
});
