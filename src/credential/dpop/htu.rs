//! The URI of a proof (`htu`, RFC 9449 §4.2) and the configured origins it is compared with.
//!
//! Both sides are normalised as RFC 3986 §6.2.2 and §6.2.3 say; query and fragment are ignored on either
//! (RFC 9449 §4.3, step 9). The request's side is made of a *configured* origin and the path as it was
//! sent: `Host` and `X-Forwarded-*` are the client's words, and one that reaches into the path would
//! make a proof for one place fit every other.

use std::{fmt, net::Ipv6Addr};

use crate::evidence::path::escape;

/// `https://payments.example` or `http://payments.svc:8080`: scheme, host and port, normalised.
///
/// INVARIANT (one spelling): two origins are the same exactly when their texts are.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Origin(Box<str>);

/// Why a text is no origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OriginError {
    /// It is no absolute `http` or `https` URI with a host and without user information.
    #[error(
        "an origin is `https://` or `http://`, a host and, where it is not the default, a port"
    )]
    Malformed,
    /// It has a path, a query or a fragment.
    #[error("an origin has no path, query or fragment: the path is that of the request")]
    NotBare,
}

impl Origin {
    /// Reads an origin (RFC 6454 §6.2). `http` is one too: within a mesh applications speak it to their
    /// own sidecar, and sign what they call.
    ///
    /// # Errors
    /// As [`OriginError`] says.
    pub fn parse(text: &str) -> Result<Self, OriginError> {
        let (origin, rest) = split(text).ok_or(OriginError::Malformed)?;
        if rest.is_empty() { Ok(origin) } else { Err(OriginError::NotBare) }
    }

    /// Returns the normalised text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Reads a proof's `htu`: its origin and its normalised path. `None` where it is no absolute `http` or
/// `https` URI, has user information, or holds what no URI may.
pub(in crate::credential) fn read(htu: &str) -> Option<(Origin, String)> {
    // Servers disagree about these; a client that normalises has none of them.
    if htu.chars().any(|c| c.is_control() || c.is_whitespace() || c == '\\') {
        return None;
    }
    let (origin, rest) = split(htu)?;
    let end = rest.find(['?', '#']).unwrap_or(rest.len());
    let (path, _ignored) = rest.split_at_checked(end)?;
    Some((origin, normal_path(path)?))
}

/// Normalises a path (RFC 3986 §6.2.2): escapes in upper case, those of unreserved characters decoded, dot
/// segments removed; an empty path is `/` (§6.2.3). What a URI may not hold raw and clients send anyway
/// (`|`, non-ASCII) is escaped, as their URL libraries do.
///
/// Does *not* decode reserved characters, merge slashes, touch a trailing slash or the letters' case: those
/// are other resources. `None` where an escape is malformed, or the path is not one.
pub(in crate::credential) fn normal_path(path: &str) -> Option<String> {
    let mut text = String::with_capacity(path.len().saturating_add(1));
    let mut rest = match path.as_bytes() {
        [] => return Some("/".to_owned()),
        bytes @ [b'/', ..] => bytes,
        _ => return None,
    };
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        match byte {
            b'%' => {
                let (byte, tail) = escape(tail)?;
                rest = tail;
                if is_unreserved(byte) {
                    text.push(char::from(byte));
                } else {
                    push_escape(&mut text, byte);
                }
            }
            b'/' => text.push('/'),
            _ if is_unreserved(byte) || is_other_pchar(byte) => text.push(char::from(byte)),
            b'"' | b'<' | b'>' | b'[' | b']' | b'^' | b'`' | b'{' | b'|' | b'}' | 0x80.. => {
                push_escape(&mut text, byte);
            }
            _ => return None,
        }
    }
    Some(if has_dot_segment(&text) { without_dot_segments(&text) } else { text })
}

/// Splits off the origin; the rest is empty or begins with `/`, `?` or `#`.
fn split(text: &str) -> Option<(Origin, &str)> {
    let (scheme, rest) = text.split_once("://")?;
    let (scheme, default_port) = if scheme.eq_ignore_ascii_case("https") {
        ("https", 443)
    } else if scheme.eq_ignore_ascii_case("http") {
        ("http", 80)
    } else {
        return None;
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, rest) = rest.split_at_checked(end)?;
    let (host, port) = host_and_port(authority)?;
    let origin = match port {
        Some(port) if port != default_port => format!("{scheme}://{host}:{port}"),
        Some(_) | None => format!("{scheme}://{host}"),
    };
    Some((Origin(origin.into()), rest))
}

fn host_and_port(authority: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let (address, rest) = rest.split_once(']')?;
        let address: Ipv6Addr = address.parse().ok()?;
        (format!("[{address}]"), if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) })
    } else {
        let (host, port) = match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        };
        // RFC 3986 has more in names; no host of the web does. User information is refused with its `@`.
        let is_name = (1..=MAX_HOST_BYTES).contains(&host.len())
            && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
        if !is_name {
            return None;
        }
        (host.to_ascii_lowercase(), port)
    };
    match port {
        // RFC 3986 §6.2.3: an empty port is the default one.
        None | Some("") => Some((host, None)),
        Some(port) if port.len() <= 5 && port.bytes().all(|b| b.is_ascii_digit()) => {
            Some((host, Some(port.parse().ok().filter(|port| *port != 0)?)))
        }
        Some(_) => None,
    }
}

fn has_dot_segment(path: &str) -> bool {
    path.split('/').any(|segment| matches!(segment, "." | ".."))
}

/// RFC 3986 §5.2.4.
fn without_dot_segments(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut ends_in_slash = false;
    for segment in path.split('/').skip(1) {
        ends_in_slash = matches!(segment, "." | "..");
        match segment {
            "." => {}
            ".." => {
                kept.pop();
            }
            _ => kept.push(segment),
        }
    }
    let mut text = String::with_capacity(path.len());
    for segment in &kept {
        text.push('/');
        text.push_str(segment);
    }
    if ends_in_slash || kept.is_empty() {
        text.push('/');
    }
    text
}

/// RFC 3986 §2.3.
const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// RFC 3986 §3.3: `sub-delims`, `:` and `@`.
const fn is_other_pchar(byte: u8) -> bool {
    matches!(
        byte,
        b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' | b':' | b'@'
    )
}

fn push_escape(text: &mut String, byte: u8) {
    let digit = |value: u8| char::from_digit(value.into(), 16).unwrap_or('0').to_ascii_uppercase();
    text.push('%');
    text.push(digit(byte >> 4));
    text.push(digit(byte & 0xf));
}

/// The longest name DNS has, with a trailing dot.
const MAX_HOST_BYTES: usize = 254;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn uri(text: &str) -> Option<String> {
        read(text).map(|(origin, path)| format!("{}{path}", origin.as_str()))
    }

    #[test]
    fn equal_uris_have_one_normal_form() {
        let normal = Some("https://api.example/a/~b".to_owned());
        for same in [
            "https://api.example/a/~b",
            "HTTPS://API.Example/a/~b",
            "https://api.example:443/a/~b",
            "https://api.example:/a/~b",
            "https://api.example:0443/a/~b",
            "https://api.example/a/%7Eb",
            "https://api.example/a/%7eb",
            "https://api.example/a/./~b",
            "https://api.example/x/../a/~b",
            "https://api.example/x/%2e%2E/a/~b",
            "https://api.example/../a/~b",
            "https://api.example/a/~b?query#fragment",
            "https://api.example/a/~b#fragment?",
            "https://api.example/a/~b?",
        ] {
            assert_eq!(uri(same), normal, "{same}");
        }
        assert_eq!(uri("https://api.example"), Some("https://api.example/".to_owned()));
        assert_eq!(uri("https://api.example?x"), Some("https://api.example/".to_owned()));
        assert_eq!(uri("http://h:80/"), Some("http://h/".to_owned()));
        assert_eq!(
            uri("https://[2001:DB8:0::1]:8443/"),
            Some("https://[2001:db8::1]:8443/".into())
        );
        assert_eq!(uri("https://h/a|b"), uri("https://h/a%7cb"));
    }

    #[test]
    fn what_differs_stays_different() {
        let own = uri("https://api.example/a/b");
        for other in [
            "http://api.example/a/b",
            "https://api.example:8443/a/b",
            "https://api.example./a/b",
            "https://api.example/a/b/",
            "https://api.example/a//b",
            "https://api.example/A/b",
            "https://api.example/a%2Fb",
            "https://api.example/a/b;v=1",
            "https://api.example/a/b/..",
            "https://xapi.example/a/b",
        ] {
            assert!(uri(other).is_some() && uri(other) != own, "{other}");
        }
        assert_eq!(uri("https://h/a/b/.."), Some("https://h/a/".to_owned()));
        assert_eq!(uri("https://h/a//../b"), Some("https://h/a/b".to_owned()));
    }

    #[test]
    fn what_is_no_absolute_web_uri_is_refused() {
        for text in [
            "",
            "/a",
            "//api.example/a",
            "api.example/a",
            "ftp://api.example/a",
            "https:/api.example/a",
            "https:///a",
            "https://:443/a",
            "https://user@api.example/a",
            "https://user:pw@api.example/a",
            "https://api.example@evil.example/a",
            "https://api.example:x/a",
            "https://api.example:+443/a",
            "https://api.example:65536/a",
            "https://api.example:0/a",
            "https://api.example:443:443/a",
            "https://api%2eexample/a",
            "https://äpi.example/a",
            "https://[::1/a",
            "https://[::1]x/a",
            "https://[v1.x]/a",
            "https://api.example/a b",
            " https://api.example/a",
            "https://api.example/a\n",
            "https://api.example\\a",
            "https://api.example/%",
            "https://api.example/%2",
            "https://api.example/%zz",
        ] {
            assert_eq!(uri(text), None, "{text}");
        }
    }

    #[test]
    fn an_origin_is_bare() {
        assert_eq!(
            Origin::parse("HTTPS://Pay.example:443").unwrap().as_str(),
            "https://pay.example"
        );
        for text in ["https://pay.example/", "https://pay.example/x", "https://pay.example?x"] {
            assert_eq!(Origin::parse(text), Err(OriginError::NotBare), "{text}");
        }
        for text in ["", "pay.example", "https://", "https://a b", "https://u@pay.example"] {
            assert_eq!(Origin::parse(text), Err(OriginError::Malformed), "{text}");
        }
    }

    proptest! {
        #[test]
        fn normalising_twice_is_normalising_once(path in "(/[a-c.%~|;é]{0,4}|/%2[eEfF]|/\\.\\.?){0,6}") {
            if let Some(once) = normal_path(&path) {
                prop_assert_eq!(normal_path(&once), Some(once.clone()));
                prop_assert!(once.starts_with('/') && once.is_ascii() && !has_dot_segment(&once));
            }
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,60}", host in "\\PC{0,20}") {
            drop(read(&text));
            drop(read(&format!("https://{host}/{text}")));
        }

        #[test]
        fn a_host_never_reaches_into_the_path(host in "[a-z?#/@:%.]{1,12}") {
            // Whatever a client writes as a host, what is read as path begins after the authority.
            if let Some((origin, path)) = read(&format!("https://{host}/p")) {
                let name = origin.as_str().strip_prefix("https://").unwrap();
                prop_assert!(!name.contains(['/', '?', '#', '@', '%']));
                prop_assert!(path.starts_with('/'));
            }
        }
    }
}
