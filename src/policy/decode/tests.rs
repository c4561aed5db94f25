use std::sync::Arc;

use super::*;
use crate::policy::yaml;

fn node(text: &str) -> Node {
    yaml::read(&Arc::from("a.yaml"), text.as_bytes()).documents.remove(0).root
}

#[test]
fn unknown_fields_are_suggested_by_nearness_but_not_those_without_effect() {
    let root = node("bundel: 1\nhots: 2\nzebra: 3\n");
    let mut decoder = Decoder::default();
    let mut fields = decoder.map(&root).unwrap();
    assert_eq!(fields.get("hosts"), None);
    fields.get("rules");
    fields.not_enforced(&mut decoder, "bundle");
    fields.finish(&mut decoder);
    let helps: Vec<_> = decoder.diagnostics.iter().map(|d| d.help.clone().unwrap()).collect();
    assert_eq!(
        helps,
        [
            "known here: `hosts` and `rules`",
            "did you mean `hosts`?",
            "known here: `hosts` and `rules`"
        ]
    );
}

#[test]
fn good_items_of_a_list_are_kept_beside_bad_ones() {
    let mut decoder = Decoder::default();
    let texts = decoder.texts(&node("[a, 1, b, null]")).unwrap();
    assert_eq!(texts.iter().map(|t| t.value.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(decoder.diagnostics.len(), 2);
    assert_eq!(decoder.texts(&node("[1]")), Err(Broken));
}

#[test]
fn whole_numbers_are_within_their_bounds() {
    let mut decoder = Decoder::default();
    assert_eq!(decoder.integer(&node("5"), &(1..=5)), Ok(5));
    for text in ["0", "6", "-1", "1.5", "99999999999999999999", "'5'", "0x"] {
        assert_eq!(decoder.integer(&node(text), &(1..=5)), Err(Broken), "{text}");
    }
}
