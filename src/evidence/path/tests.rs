use proptest::prelude::*;

use super::*;

fn read(path: &str) -> Path<'_> {
    Path::read(path, "GET")
}

fn forms_of(path: &str) -> Vec<&'static str> {
    let forms = read(path).forms;
    let mut names: Vec<_> = PathForms::NAMED
        .iter()
        .filter(|(_, form)| forms.intersects(*form))
        .map(|(name, _)| *name)
        .collect();
    if forms.intersects(PathForms::NEVER) {
        names.push("never");
    }
    names
}

#[test]
fn a_plain_path_is_borrowed_and_has_one_reading() {
    for path in [
        "/",
        "/v1/payments",
        "/v1/payments/",
        "/a.b/..c/.../.d",
        "/a:b@c",
        "/a$&'()*+,=~_-",
        "/...",
    ] {
        let read = read(path);
        assert!(matches!(read.canonical, Cow::Borrowed(text) if text == path), "{path}");
        assert!(read.forms.is_empty() && read.other_readings().is_empty(), "{path}");
    }
}

#[test]
fn the_query_is_no_part_of_the_path() {
    assert_eq!(read("/a?b=/../c").canonical, "/a");
    assert_eq!(read("/a?b#c").forms, PathForms::default());
    assert_eq!(query("/a?b=c?d"), Some("b=c?d"));
    assert_eq!(query("/a"), None);
}

#[test]
fn escapes_that_have_one_reading_are_written_one_way() {
    for (path, canonical) in [
        ("/%61%7e%2D", "/a~-"),
        ("/caf%c3%a9", "/caf%C3%A9"),
        ("/a%20b", "/a%20b"),
        ("/a%7cb", "/a%7Cb"),
        ("/a|b\"<>^`{}", "/a%7Cb%22%3C%3E%5E%60%7B%7D"),
    ] {
        let read = read(path);
        assert_eq!((&*read.canonical, read.forms), (canonical, PathForms::default()), "{path}");
        assert!(read.other_readings().is_empty(), "{path}: {:?}", read.other_readings());
    }
}

#[test]
fn an_encoded_sub_delimiter_has_a_second_reading() {
    let path = read("/me%40example%21");
    assert_eq!(path.canonical, "/me%40example%21");
    assert_eq!(path.forms, PathForms::default());
    assert_eq!(path.other_readings(), ["/me@example!"]);
}

#[test]
fn ambiguous_paths_are_read_as_rfc_3986_resolves_them() {
    for (path, canonical, forms) in [
        ("/a/../b", "/b", &["dot-segments"][..]),
        ("/a/./b", "/a/b", &["dot-segments"]),
        ("/a/.", "/a/", &["dot-segments"]),
        ("/a/b/..", "/a/", &["dot-segments"]),
        ("/..", "/", &["dot-segments"]),
        ("/../../a", "/a", &["dot-segments"]),
        ("/a/%2e%2E/b", "/b", &["dot-segments"]),
        ("/a/.%2e", "/", &["dot-segments"]),
        ("//", "/", &["empty-segments"]),
        ("/a//b", "/a/b", &["empty-segments"]),
        ("/a/b//", "/a/b/", &["empty-segments"]),
        ("/a\\b", "/a/b", &["backslash"]),
        ("/a\\..\\b", "/b", &["dot-segments", "backslash"]),
        ("/a;v=1/b", "/a/b", &["parameters"]),
        ("/a/..;/b", "/b", &["dot-segments", "parameters"]),
        ("/a/;x/b", "/a/b", &["empty-segments", "parameters"]),
        ("/café", "/caf%C3%A9", &["non-ascii"]),
        ("/caf!", "/caf!", &["non-ascii"]),
        ("/a%2fb", "/a%2Fb", &["encoded-delimiters"]),
        ("/a%5cb", "/a%5Cb", &["encoded-delimiters"]),
        ("/a%3bb", "/a%3Bb", &["encoded-delimiters"]),
        ("/a%3fb", "/a%3Fb", &["encoded-delimiters"]),
        ("/a%23b", "/a%23b", &["encoded-delimiters"]),
        ("/a%252fb", "/a%252fb", &["encoded-delimiters"]),
    ] {
        assert_eq!(read(path).canonical, canonical, "{path}");
        assert_eq!(forms_of(path), forms, "{path}");
    }
}

#[test]
fn what_no_policy_can_opt_in_to_is_marked_never() {
    for path in [
        "",
        "a",
        "*",
        "/a#b",
        "#",
        "/a b",
        "/a\0",
        "/a\u{7f}",
        "/a%00",
        "/a%0a",
        "/a%7f",
        "/a%",
        "/a%4",
        "/a%zz",
        "/a%c3",
        "/a%ff",
        "/a%c2%85",
        "/a\u{85}",
        "http://a/b",
        "/a%2f%00",
        "/a\t",
    ] {
        let read = read(path);
        assert!(read.forms.intersects(PathForms::NEVER), "{path:?}");
        assert!(read.other_readings().is_empty(), "{path:?}");
    }
}

#[test]
fn only_connect_has_no_path_and_only_options_has_the_asterisk() {
    assert_eq!(Path::read("", "CONNECT").forms, PathForms::default());
    assert_eq!(Path::read("", "CONNECT").canonical, "");
    assert_eq!(Path::read("*", "OPTIONS").canonical, "*");
    assert_eq!(Path::read("*", "OPTIONS").forms, PathForms::default());
    assert_eq!(Path::read("", "OPTIONS").forms, PathForms::NEVER);
    assert_eq!(Path::read("*", "CONNECT").forms, PathForms::NEVER);
    assert_eq!(Path::read("connect", "CONNECT").forms, PathForms::NEVER);
}

#[test]
fn an_ambiguous_path_has_the_readings_that_servers_have() {
    for (path, reading) in [
        ("/a/..%2fadmin", "/admin"),
        ("/a%2f..%2fadmin", "/admin"),
        ("/public%252f..%252fadmin", "/admin"),
        ("/a/%252e%252e/admin", "/admin"),
        ("/admin%3fx", "/admin"),
        ("/admin%23x", "/admin"),
        ("/admin%3bx", "/admin"),
        ("/admin;x/y", "/admin;x/y"),
        ("/a/..;x/b", "/a/..;x/b"),
        ("/a//b", "/a//b"),
        ("/a/../b", "/a/../b"),
        ("/a\\b", "/a%5Cb"),
        ("/a%5c..%5cadmin", "/admin"),
    ] {
        assert!(
            read(path).other_readings().iter().any(|other| other == reading),
            "{path}: {:?}",
            read(path).other_readings()
        );
    }
}

#[test]
fn the_access_token_parameter_is_found_under_any_encoding() {
    for query in [
        "access_token=x",
        "a=b&access_token=x",
        "access_token",
        "access%5Ftoken=x",
        "%61ccess_token",
    ] {
        assert!(!access_tokens(query).is_empty(), "{query}");
    }
    for query in [
        "",
        "access_token2=x",
        "x=access_token",
        "Access_Token=x",
        "xaccess_token=1",
        "access%255Ftoken",
    ] {
        assert!(access_tokens(query).is_empty(), "{query}");
    }
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics_and_its_canonical_form_is_ascii(path in ".*") {
        let read = read(&path);
        if !matches!(read.canonical, Cow::Borrowed(_)) {
            prop_assert!(read.canonical.is_ascii());
        }
    }

    #[test]
    fn a_canonical_path_reads_as_itself(path in "/[a-c./%;!\\\\2fFeE5é]{0,24}") {
        let first = read(&path);
        prop_assume!(!first.forms.intersects(PathForms::NEVER));
        let second = read(&first.canonical);
        prop_assert_eq!(&second.canonical, &first.canonical);
        prop_assert!(!second.forms.intersects(PathForms::DOT_SEGMENTS));
        prop_assert!(!second.forms.intersects(PathForms::EMPTY_SEGMENTS));
        prop_assert!(!second.forms.intersects(PathForms::PARAMETERS));
    }

    #[test]
    fn the_fast_way_and_the_slow_way_agree(path in "/[a-b./%;2eE]{0,12}") {
        let bytes = path.as_bytes();
        let slow = reading(bytes, Keep::default());
        // An escape is always left to the slow way.
        let canonical = !path.contains('%') && forms(bytes).is_empty() && slow == path;
        prop_assert_eq!(is_canonical(bytes), canonical);
    }
}
