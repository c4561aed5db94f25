//! Policy files: no panic, and what is wrong is wrong somewhere in the file.
#![no_main]

use std::{collections::BTreeMap, sync::Arc};

use libfuzzer_sys::fuzz_target;
use symbolon::{diagnostic::Format, policy::load, snapshot::source::SourceTree};

fuzz_target!(|file: &[u8]| {
    let tree = SourceTree {
        files: BTreeMap::from([(Arc::from("policy.yaml"), file.to_vec())]),
        ..SourceTree::default()
    };
    match load::load(&tree, &[]) {
        Ok(loaded) => assert!(loaded.skipped.is_empty()),
        Err(mistakes) => {
            assert!(!mistakes.all.is_empty());
            // As `policy check` shows them.
            let _text = mistakes.render(Format::Human, false);
        }
    }
});
