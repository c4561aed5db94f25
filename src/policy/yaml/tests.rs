use proptest::prelude::*;

use super::*;

fn read_text(text: &str) -> File {
    read(&Arc::from("a.yaml"), text.as_bytes())
}

fn only(text: &str) -> Document {
    let file = read_text(text);
    assert_eq!(file.unreadable, None, "{text:?}");
    assert_eq!(file.documents.len(), 1, "{text:?}");
    file.documents.into_iter().next().unwrap()
}

fn place(at: &At) -> (usize, usize, usize, &str) {
    (at.line, at.column, at.length, &at.field)
}

#[test]
fn every_node_knows_its_line_column_length_and_field() {
    let document =
        only("spec:\n  rules:\n  - name: read\n    to: {paths: [\"/é\", b]}\n  empty:\n");
    let spec = document.root.entry("spec").unwrap();
    assert_eq!(place(&spec.key.at), (1, 1, 4, "spec"));
    let rules = spec.node.entry("rules").unwrap();
    assert_eq!(place(&rules.node.at), (2, 3, 5, "spec.rules"));
    let Value::List(items) = &rules.node.value else { panic!() };
    let to = items[0].entry("to").unwrap();
    assert_eq!(place(&to.node.at), (4, 9, 18, "spec.rules[0].to"));
    let Value::List(paths) = &to.node.entry("paths").unwrap().node.value else { panic!() };
    assert_eq!(place(&paths[0].at), (4, 18, 4, "spec.rules[0].to.paths[0]"));
    assert_eq!(place(&paths[1].at), (4, 24, 1, "spec.rules[0].to.paths[1]"));
    let empty = spec.node.entry("empty").unwrap();
    assert_eq!(empty.node.value, Value::Null);
    assert_eq!(place(&empty.node.at), (5, 3, 5, "spec.empty"));
}

#[test]
fn all_duplicate_keys_are_reported_with_their_places() {
    let document = only("a: 1\nb: 2\na: 3\nb: 4\na: 5\n");
    let places: Vec<_> =
        document.mistakes.iter().map(|m| (m.at.line, m.at.column, m.message.as_str())).collect();
    assert_eq!(
        places,
        [(3, 1, "`a` is given twice"), (4, 1, "`b` is given twice"), (5, 1, "`a` is given twice")]
    );
    assert_eq!(document.mistakes[0].help.as_deref(), Some("it is first given on line 1; keep one"));
}

#[test]
fn anchors_aliases_merge_keys_and_tags_are_refused_by_line() {
    for (text, line, message) in [
        ("x: 1\na: &b 1\n", 2, "anchors are not allowed"),
        ("a: &b 1\nc: *b\n", 2, "aliases are not allowed"),
        ("<<: {a: 1}\n", 1, "merge keys are not allowed"),
        ("a: !!str 1\n", 1, "tags are not allowed"),
        ("a: !x [1]\n", 1, "tags are not allowed"),
    ] {
        let document = only(text);
        assert!(document.restricted, "{text:?}");
        assert!(
            document.mistakes.iter().any(|m| m.at.line == line && m.message == message),
            "{text:?}: {:?}",
            document.mistakes
        );
    }
}

#[test]
fn a_quoted_merge_key_is_a_plain_text() {
    assert!(!only("\"<<\": 1\n").restricted);
}

#[test]
fn a_key_that_is_no_text_is_reported() {
    let document = only("ok: 1\n1: a\n");
    assert_eq!(document.mistakes[0].message, "a key is a text, found a number");
    assert_eq!((document.mistakes[0].at.line, document.mistakes[0].at.column), (2, 1));
}

#[test]
fn a_syntax_error_has_its_line_and_keeps_the_documents_before_it() {
    let file = read_text("a: 1\n---\nb: [1\nc: 2\n");
    assert_eq!(file.documents.len(), 1);
    let error = file.unreadable.unwrap();
    assert_eq!(error.at.line, 4);
    assert!(error.message.starts_with("not valid YAML: "), "{}", error.message);
}

#[test]
fn bytes_that_are_not_utf_8_are_placed() {
    let file = read(&Arc::from("a.yaml"), b"a: 1\nb: \xff\n");
    let error = file.unreadable.unwrap();
    assert_eq!((error.at.line, error.at.column), (2, 4));
    assert_eq!(error.message, "the file is not UTF-8 here");
}

#[test]
fn characters_that_hide_what_a_file_says_are_refused() {
    for character in ['\0', '\u{7f}', '\u{85}', '\u{2028}', '\u{feff}', '\u{202e}', '\r'] {
        let error = read_text(&format!("a: x{character}y\n")).unreadable.unwrap();
        assert_eq!((error.at.line, error.at.column), (1, 5), "{character:?}");
    }
    assert_eq!(only("a: x\r\nb: y\r\n").root.entry("b").unwrap().node.at.line, 2);
}

#[test]
fn size_depth_and_number_of_values_are_bounded() {
    let large = "#".repeat(MAX_FILE_BYTES + 1);
    assert!(read_text(&large).unreadable.unwrap().message.contains("bytes, more than"));
    let deep = format!("{}1{}", "[".repeat(66), "]".repeat(66));
    assert_eq!(read_text(&deep).unreadable.unwrap().message, "nested more than 64 deep");
    // The parser has a bound of its own, far beyond ours.
    let abyss = read_text(&"[".repeat(100_000)).unreadable.unwrap();
    assert_eq!(abyss.message, "not valid YAML: recursion limit exceeded");
    let many = format!("[{}]", "a,".repeat(MAX_NODES));
    assert!(read_text(&many).unreadable.unwrap().message.contains("more than 200000 values"));
}

#[test]
fn long_fields_are_cut() {
    let text = "{a: ".repeat(40) + "{" + &"k".repeat(300) + ": 1}" + &"}".repeat(40);
    assert!(read_text(&text).documents.iter().all(|d| d.root.at.field.len() < 300));
}

#[test]
fn a_file_without_documents_has_none() {
    for text in ["", "\n", "# nothing\n", "  # a\n# b"] {
        assert_eq!(read_text(text), File::default(), "{text:?}");
    }
}

#[test]
fn the_parsers_agree_on_a_corpus() {
    for text in [
        "a: b\n---\nc: d\n...\n---\n- 1\n",
        "---\n---\na: 1\n",
        "a: |\n  x\n  y\nb: >-\n  folded\n  text\n\n  more\n",
        "a: |+\n  x\n\nb: |-\n  y\n",
        "a: 'it''s'\nb: \"\\u00e9\\n\"\n",
        "a: [1, 2.5, -3, 0x10, 0o7, 1e3, .inf, 007, 1_000]\n",
        "a: [true, True, yes, no, on, null, ~, Null, '', \"null\"]\n",
        "a: {b: {c: [d, {e: f}]}}\n",
        "? a\n: b\n",
        "a:\n- b\n- c:\n    d\n",
        "a: x # comment\n# comment\nb: 'y' # comment\n",
        "a: this is\n  one text\n",
        "a: http://x/y?z#w\nb: \"{peer.spiffe}\"\nc: spiffe://a/*\n",
        "a: 2026-12-01T00:00:00Z\nb: 15m\n",
        "[]\n",
        "{}\n",
        "just a text\n",
        "a: 99999999999999999999\n",
        "%YAML 1.2\n---\na: 1\n",
        "a: 1\r\nb: [x,\r\n  y]\r\n",
        "a: |\n  x",
        "a: >\n  x\n  ",
        "a: |+\n  x",
        "a: b\n---\nc: |-\n  x",
    ] {
        let file = read_text(text);
        let message = file.unreadable.as_ref().map(|m| m.message.as_str());
        assert_ne!(message, Some("two YAML parsers read this differently"), "{text:?}");
    }
}

fn value() -> impl Strategy<Value = serde_yaml::Value> {
    let leaf = prop_oneof![
        Just(serde_yaml::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<u64>().prop_map(Into::into),
        "[ -~]{0,20}".prop_map(Into::into),
        "[a-zé€ \\n:#'\"{}\\[\\],&*!|>%@`-]{0,20}".prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(serde_yaml::Value::Sequence),
            prop::collection::vec(("[a-zA-Z0-9 .:#-]{0,10}", inner), 0..6).prop_map(|entries| {
                serde_yaml::Value::Mapping(
                    entries.into_iter().map(|(key, value)| (key.into(), value)).collect(),
                )
            }),
        ]
    })
}

fn plain(node: &Node) -> serde_yaml::Value {
    match &node.value {
        Value::Null => serde_yaml::Value::Null,
        Value::Flag(flag) => (*flag).into(),
        Value::Number(number) => serde_yaml::Value::Number(number.clone()),
        Value::Text(text) => text.clone().into(),
        Value::List(items) => serde_yaml::Value::Sequence(items.iter().map(plain).collect()),
        Value::Map(entries) => serde_yaml::Value::Mapping(
            entries.iter().map(|e| (e.key.value.clone().into(), plain(&e.node))).collect(),
        ),
    }
}

proptest! {
    #[test]
    fn what_is_written_as_yaml_is_read_back_by_both(value in value()) {
        let text = serde_yaml::to_string(&value).unwrap();
        let file = read_text(&text);
        prop_assert_eq!(&file.unreadable, &None, "{}", text);
        prop_assert_eq!(plain(&file.documents[0].root), value);
    }

    #[test]
    fn values_are_those_of_the_value_parser(text in "[a-c:\\-\\[\\]{},#'\"|>?&*! \n]{0,40}") {
        let file = read_text(&text);
        if file.unreadable.is_none() {
            for (document, deserializer) in
                file.documents.iter().zip(serde_yaml::Deserializer::from_str(&text))
            {
                if !document.restricted && document.mistakes.is_empty() {
                    let other = serde_yaml::Value::deserialize(deserializer).unwrap();
                    prop_assert_eq!(plain(&document.root), other);
                }
            }
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        drop(read(&Arc::from("a.yaml"), &bytes));
    }

    #[test]
    fn arbitrary_text_never_panics(text in "\\PC{0,80}") {
        drop(read_text(&text));
    }
}
