//! The canonical host of a request.

use std::{borrow::Cow, net::Ipv6Addr};

/// The longest host name: DNS allows 253 characters (RFC 1035 §2.3.4 less the length bytes).
pub const MAX_BYTES: usize = 255;

/// Why an authority is not one host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// There is none.
    #[error("the host is empty")]
    Empty,
    /// It is longer than [`MAX_BYTES`].
    #[error("the host is over {MAX_BYTES} bytes")]
    TooLong,
    /// It has a character that no host name has: a comma (two `Host` lines), `@` (user information), white
    /// space, a control character, one outside ASCII.
    #[error("the host has a character that no host name has")]
    Character,
    /// A label is empty or longer than 63 bytes.
    #[error("a label of the host is empty or over 63 bytes")]
    Label,
    /// A `host` header says another host than the authority.
    #[error("a `host` header differs from the authority")]
    Several,
    /// What follows the colon is no port from 1 to 65535.
    #[error("the port is not a number from 1 to 65535")]
    Port,
    /// What stands in brackets is no IPv6 address.
    #[error("the brackets of the host hold no IPv6 address")]
    Address,
}

/// Reads an authority (`:authority`, `Host`): its host in lower case, without port and trailing dot.
///
/// It is not resolved, and an IPv4 address in an unusual notation is a name like any other.
///
/// # Errors
/// As [`HostError`] says.
pub fn read(authority: &str) -> Result<Cow<'_, str>, HostError> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (address, after) = rest.split_once(']').ok_or(HostError::Address)?;
        if !after.is_empty() {
            port(after.strip_prefix(':').ok_or(HostError::Character)?)?;
        }
        // The parser takes no zone, and is given a bounded text by its own grammar.
        let parsed: Ipv6Addr = address.parse().map_err(|_error| HostError::Address)?;
        return Ok(Cow::Owned(format!("[{parsed}]")));
    }
    let (host, colon) = match authority.split_once(':') {
        Some((host, after)) => (host, Some(after)),
        None => (authority, None),
    };
    if host.is_empty() {
        return Err(HostError::Empty);
    }
    if host.len() > MAX_BYTES {
        return Err(HostError::TooLong);
    }
    if !host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')) {
        return Err(HostError::Character);
    }
    if let Some(text) = colon {
        port(text)?;
    }
    let host = host.strip_suffix('.').unwrap_or(host);
    if host.split('.').any(|label| label.is_empty() || label.len() > 63) {
        return Err(HostError::Label);
    }
    if host.bytes().any(|b| b.is_ascii_uppercase()) {
        return Ok(Cow::Owned(host.to_ascii_lowercase()));
    }
    Ok(Cow::Borrowed(host))
}

fn port(text: &str) -> Result<(), HostError> {
    let digits = (1..=5).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse::<u16>() {
        Ok(1..) if digits => Ok(()),
        Ok(_) | Err(_) => Err(HostError::Port),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_lower_case_without_port_and_trailing_dot() {
        for (authority, host) in [
            ("payments.example", "payments.example"),
            ("Payments.EXAMPLE", "payments.example"),
            ("payments.example:443", "payments.example"),
            ("payments.example.", "payments.example"),
            ("payments.example.:8080", "payments.example"),
            ("localhost", "localhost"),
            ("a_b.example", "a_b.example"),
            ("10.0.0.1:80", "10.0.0.1"),
            ("[::1]", "[::1]"),
            ("[::1]:80", "[::1]"),
            ("[0:0:0:0:0:0:0:1]", "[::1]"),
            ("[2001:DB8::1]:65535", "[2001:db8::1]"),
        ] {
            assert_eq!(read(authority).as_deref(), Ok(host), "{authority}");
        }
    }

    #[test]
    fn a_canonical_host_is_borrowed() {
        assert!(matches!(read("payments.example:443"), Ok(Cow::Borrowed("payments.example"))));
    }

    #[test]
    fn what_is_not_one_host_is_refused() {
        let long = format!("{}a", "a.".repeat(128));
        let label = format!("{}.example", "a".repeat(64));
        for (authority, error) in [
            ("", HostError::Empty),
            (":80", HostError::Empty),
            ("a,b", HostError::Character),
            ("a.example,b.example:80", HostError::Character),
            ("user@host", HostError::Character),
            ("a b", HostError::Character),
            ("a\tb", HostError::Character),
            ("a\0", HostError::Character),
            ("a!", HostError::Character),
            ("ä.example", HostError::Character),
            ("a/b", HostError::Character),
            ("a%2eb", HostError::Character),
            ("a]", HostError::Character),
            ("[::1]x", HostError::Character),
            ("a:", HostError::Port),
            ("a:0", HostError::Port),
            ("a:65536", HostError::Port),
            ("a:000080", HostError::Port),
            ("a:+80", HostError::Port),
            ("a:80:80", HostError::Port),
            ("::1", HostError::Empty),
            ("user:pass@host", HostError::Port),
            ("[::1]:", HostError::Port),
            ("[::1", HostError::Address),
            ("[]", HostError::Address),
            ("[fe80::1%eth0]", HostError::Address),
            ("[127.0.0.1]", HostError::Address),
            (".", HostError::Label),
            (".a", HostError::Label),
            ("a..b", HostError::Label),
            ("a..", HostError::Label),
            (&label, HostError::Label),
            (&long, HostError::TooLong),
        ] {
            assert_eq!(read(authority), Err(error), "{authority}");
        }
    }

    proptest::proptest! {
        #[test]
        fn a_canonical_host_reads_as_itself(authority in "\\PC{0,40}|[a-zA-Z0-9.:\\[\\]-]{0,40}") {
            if let Ok(host) = read(&authority) {
                proptest::prop_assert_eq!(read(&host), Ok(host.clone()));
            }
        }
    }
}
