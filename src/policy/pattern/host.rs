//! Host patterns: a host written out, or `*.suffix` for one or more labels before it.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::policy::pattern::PatternError;

/// A pattern of hosts, in the form that evidence has them: lower case, no port, no trailing dot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// Exactly this host; an IPv6 address without brackets.
    Exact(Box<str>),
    /// Any host that ends in `.` and this suffix.
    Suffix(Box<str>),
}

impl HostPattern {
    /// Parses `payments.example`, `*.example`, `192.0.2.1` or `[2001:db8::1]`.
    ///
    /// # Errors
    /// Where it has a port, a path, upper case, a trailing dot or characters no host name has, or a `*`
    /// that is not the first label. Internationalised names are written as A-labels (RFC 5890 §2.3.2.1).
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if let Some(address) = ipv6(text) {
            return address;
        }
        let (suffix, wildcard) = match text.strip_prefix("*.") {
            Some(suffix) => (suffix, true),
            None => (text, false),
        };
        if text == "*" {
            return Err(PatternError::new("`*` alone is no host pattern")
                .help("to match every host leave `hosts` out and name `workloads`"));
        }
        check_name(text, suffix)?;
        if wildcard {
            if last_label_is_numeric(suffix) {
                return Err(PatternError::new("an address has no wildcard"));
            }
            return Ok(Self::Suffix(suffix.into()));
        }
        if last_label_is_numeric(suffix) && suffix.parse::<Ipv4Addr>().is_err() {
            return Err(PatternError::new(format!(
                "`{text}` is neither a host name nor an IPv4 address"
            )));
        }
        Ok(Self::Exact(suffix.into()))
    }

    /// Returns whether `host`, canonical, is named by the pattern.
    #[must_use]
    pub fn matches(&self, host: &str) -> bool {
        match self {
            Self::Exact(exact) => **exact == *without_brackets(host),
            Self::Suffix(suffix) => host
                .strip_suffix(&**suffix)
                .and_then(|labels| labels.strip_suffix('.'))
                .is_some_and(|labels| !labels.is_empty()),
        }
    }
}

/// Returns an IPv6 literal without its brackets, any other host as it is.
pub(in crate::policy) fn without_brackets(host: &str) -> &str {
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

/// The longest name DNS has (RFC 1035 §2.3.4, without the trailing dot).
const MAX_BYTES: usize = 253;
/// The longest label (RFC 1035 §2.3.4).
const MAX_LABEL_BYTES: usize = 63;

fn ipv6(text: &str) -> Option<Result<HostPattern, PatternError>> {
    let address: Ipv6Addr = without_brackets(text).parse().ok()?;
    let canonical = address.to_string();
    Some(if without_brackets(text) == canonical {
        Ok(HostPattern::Exact(canonical.into()))
    } else {
        Err(PatternError::new("an IPv6 address is written in its canonical form (RFC 5952 §4)")
            .help(format!("write `[{canonical}]`")))
    })
}

fn check_name(text: &str, name: &str) -> Result<(), PatternError> {
    if let Some((_, rest)) = text.split_once("://") {
        let host = rest.split(['/', ':']).next().unwrap_or_default();
        return Err(PatternError::new("a host has no scheme").help(format!("write `{host}`")));
    }
    if let Some((host, _)) = text.split_once('/') {
        return Err(PatternError::new("a host has no path").help(format!("write `{host}`")));
    }
    if let Some((host, _)) = text.split_once(':') {
        return Err(PatternError::new("a host has no port").help(format!("write `{host}`")));
    }
    if let Some(host) = text.strip_suffix('.') {
        return Err(PatternError::new("a host has no trailing dot").help(format!("write `{host}`")));
    }
    if !text.is_ascii() {
        return Err(PatternError::new("an internationalised host is written as A-labels")
            .help("write the form that starts with `xn--`"));
    }
    if text.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err(PatternError::new("a host is written in lower case")
            .help(format!("write `{}`", text.to_ascii_lowercase())));
    }
    if name.contains('*') {
        return Err(PatternError::new("`*` stands for whole labels at the front of a host only")
            .help("write `*.` and a suffix, such as `*.example`"));
    }
    let is_label = |label: &str| {
        (1..=MAX_LABEL_BYTES).contains(&label.len())
            && label.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'))
    };
    if name.len() > MAX_BYTES || !name.split('.').all(is_label) {
        return Err(PatternError::new(format!("`{text}` is not a host name")));
    }
    Ok(())
}

fn last_label_is_numeric(name: &str) -> bool {
    name.rsplit('.').next().is_some_and(|label| label.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn refusal(text: &str) -> (String, Option<String>) {
        let error = HostPattern::parse(text).unwrap_err();
        (error.message, error.help)
    }

    #[test]
    fn an_exact_host_matches_itself_only() {
        let pattern = HostPattern::parse("pay.example").unwrap();
        assert!(pattern.matches("pay.example"));
        assert!(!pattern.matches("a.pay.example"));
        assert!(!pattern.matches("xpay.example"));
    }

    #[test]
    fn a_wildcard_matches_one_or_more_labels() {
        let pattern = HostPattern::parse("*.example").unwrap();
        assert!(pattern.matches("a.example"));
        assert!(pattern.matches("a.b.example"));
        assert!(!pattern.matches("example"));
        assert!(!pattern.matches(".example"));
        assert!(!pattern.matches("aexample"));
    }

    #[test]
    fn addresses_are_hosts() {
        assert!(HostPattern::parse("192.0.2.1").unwrap().matches("192.0.2.1"));
        let v6 = HostPattern::parse("[2001:db8::1]").unwrap();
        assert!(v6.matches("[2001:db8::1]") && v6.matches("2001:db8::1"));
        assert_eq!(refusal("[2001:DB8::1]").1.unwrap(), "write `[2001:db8::1]`");
        assert_eq!(refusal("*.0.2.1").0, "an address has no wildcard");
        assert_eq!(refusal("10.1").0, "`10.1` is neither a host name nor an IPv4 address");
    }

    #[test]
    fn other_spellings_are_refused_with_the_right_one() {
        for (text, message, help) in [
            ("Pay.example", "a host is written in lower case", "write `pay.example`"),
            ("pay.example:8443", "a host has no port", "write `pay.example`"),
            ("pay.example.", "a host has no trailing dot", "write `pay.example`"),
            ("https://pay.example/x", "a host has no scheme", "write `pay.example`"),
            ("pay.example/x", "a host has no path", "write `pay.example`"),
            (
                "bücher.example",
                "an internationalised host is written as A-labels",
                "write the form that starts with `xn--`",
            ),
            (
                "a.*.example",
                "`*` stands for whole labels at the front of a host only",
                "write `*.` and a suffix, such as `*.example`",
            ),
        ] {
            assert_eq!(refusal(text), (message.to_owned(), Some(help.to_owned())), "{text}");
        }
        for bad in ["", "*", "*.", "a..b", "a b", "a,b", "*a.example"] {
            assert!(HostPattern::parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_wildcard_matches_at_label_boundaries_only(
            suffix in "[ab]{1,2}(\\.[ab]{1,2}){0,2}",
            host in "[ab]{1,2}(\\.[ab]{1,2}){0,4}",
        ) {
            let pattern = HostPattern::parse(&format!("*.{suffix}")).unwrap();
            let labels: Vec<&str> = host.split('.').collect();
            let wanted: Vec<&str> = suffix.split('.').collect();
            let holds = labels.len() > wanted.len() && labels.ends_with(&wanted);
            prop_assert_eq!(pattern.matches(&host), holds);
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,40}") {
            drop(HostPattern::parse(&text));
        }
    }
}
