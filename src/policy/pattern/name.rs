//! The simple names of a rule: methods, upgrades, DNS names, thumbprints, scopes.

use crate::{
    identity::Thumbprint,
    policy::pattern::{HostPattern, PatternError},
};

/// Checks a method (RFC 9110 §9.1), written in upper case.
///
/// # Errors
/// Where it is no token or has lower-case letters.
pub fn method(text: &str) -> Result<Box<str>, PatternError> {
    if text == "*" {
        return Err(PatternError::new("`*` is not a method")
            .help("to match every method leave `methods` out"));
    }
    if !is_token(text) {
        return Err(PatternError::new(format!("`{text}` is not a method")));
    }
    let upper = text.to_ascii_uppercase();
    if upper != text {
        return Err(
            PatternError::new("a method is written in upper case").help(format!("write `{upper}`"))
        );
    }
    Ok(text.into())
}

/// Checks the name of a protocol to upgrade to (RFC 9110 §7.8), written in lower case.
///
/// # Errors
/// Where it is no protocol name or has upper-case letters.
pub fn upgrade(text: &str) -> Result<Box<str>, PatternError> {
    if !text.split('/').all(is_token) || text.matches('/').count() > 1 {
        return Err(PatternError::new(format!("`{text}` is not an upgrade"))
            .help("write one protocol, such as `websocket`"));
    }
    let lower = text.to_ascii_lowercase();
    if lower != text {
        return Err(PatternError::new("an upgrade is written in lower case")
            .help(format!("write `{lower}`")));
    }
    Ok(text.into())
}

/// Checks a DNS name of a certificate: exact, in lower case.
///
/// # Errors
/// Where it is no host name or has a wildcard.
pub fn dns(text: &str) -> Result<Box<str>, PatternError> {
    match HostPattern::parse(text)? {
        HostPattern::Exact(name) => Ok(name),
        HostPattern::Suffix(_) => {
            Err(PatternError::new("a DNS name of a certificate is written out, without `*`"))
        }
    }
}

/// Reads a thumbprint (`x5t#S256`, RFC 8705 §3.1).
///
/// # Errors
/// Where it is not 43 characters of canonical base64url; a SHA-256 in hexadecimal gets its other form told.
pub fn thumbprint(text: &str) -> Result<Thumbprint, PatternError> {
    Thumbprint::from_base64url(text).ok_or_else(|| {
        let error = PatternError::new(
            "a thumbprint is the SHA-256 of a certificate in base64url, 43 characters",
        );
        let hex: String =
            text.chars().filter(|c| *c != ':').map(|c| c.to_ascii_lowercase()).collect();
        match Thumbprint::from_hex(&hex) {
            Some(thumbprint) => error.help(format!("write `{}`", thumbprint.to_base64url())),
            None => error,
        }
    })
}

/// Checks a scope token (RFC 6749 §3.3).
///
/// # Errors
/// Where it is empty or has a space, `"`, `\` or anything outside visible ASCII.
pub fn scope(text: &str) -> Result<Box<str>, PatternError> {
    let is_scope =
        !text.is_empty() && text.bytes().all(|b| matches!(b, 0x21 | 0x23..=0x5b | 0x5d..=0x7e));
    if is_scope {
        return Ok(text.into());
    }
    let error = PatternError::new(format!("`{}` is not a scope", text.escape_debug()));
    Err(if text.contains(' ') {
        error.help("write each scope as an entry of its own")
    } else {
        error
    })
}

/// Checks a value of `acr` (RFC 9470 §3), which challenges list with spaces between them.
///
/// # Errors
/// As [`scope`].
pub fn acr(text: &str) -> Result<Box<str>, PatternError> {
    scope(text).map_err(|PatternError { help, .. }| PatternError {
        message: format!("`{}` is not a value of `acr`", text.escape_debug()),
        help: help.map(|_| "write each value as an entry of its own".to_owned()),
    })
}

/// Says whether `text` is a token (RFC 9110 §5.6.2).
#[must_use]
pub fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_upper_case_tokens() {
        assert_eq!(&*method("PROPFIND").unwrap(), "PROPFIND");
        let error = method("get").unwrap_err();
        assert_eq!(error.message, "a method is written in upper case");
        assert_eq!(error.help.as_deref(), Some("write `GET`"));
        assert_eq!(method("GET,PUT").unwrap_err().message, "`GET,PUT` is not a method");
        assert_eq!(method("*").unwrap_err().message, "`*` is not a method");
    }

    #[test]
    fn upgrades_are_lower_case_protocols() {
        assert_eq!(&*upgrade("websocket").unwrap(), "websocket");
        assert_eq!(upgrade("WebSocket").unwrap_err().help.as_deref(), Some("write `websocket`"));
        assert_eq!(upgrade("a, b").unwrap_err().message, "`a, b` is not an upgrade");
    }

    #[test]
    fn a_thumbprint_in_hexadecimal_is_told_its_other_form() {
        let wanted = Thumbprint::of(b"certificate");
        assert_eq!(thumbprint(&wanted.to_base64url()).unwrap(), wanted);
        let hex: Vec<String> = wanted.as_bytes().iter().map(|b| format!("{b:02X}")).collect();
        let error = thumbprint(&hex.join(":")).unwrap_err();
        assert_eq!(error.help.unwrap(), format!("write `{}`", wanted.to_base64url()));
        assert_eq!(thumbprint("x").unwrap_err().help, None);
    }

    #[test]
    fn dns_names_are_exact() {
        assert_eq!(&*dns("a.example").unwrap(), "a.example");
        assert_eq!(
            dns("*.example").unwrap_err().message,
            "a DNS name of a certificate is written out, without `*`"
        );
    }

    #[test]
    fn scopes_are_scope_tokens() {
        assert_eq!(&*scope("payments:read").unwrap(), "payments:read");
        assert_eq!(
            scope("a b").unwrap_err().help.as_deref(),
            Some("write each scope as an entry of its own")
        );
        assert_eq!(scope("a\"").unwrap_err().message, "`a\\\"` is not a scope");
    }

    #[test]
    fn values_of_acr_can_stand_in_a_challenge() {
        assert_eq!(&*acr("urn:mace:incommon:iap:silver").unwrap(), "urn:mace:incommon:iap:silver");
        let error = acr("gold silver").unwrap_err();
        assert_eq!(error.message, "`gold silver` is not a value of `acr`");
        assert_eq!(error.help.as_deref(), Some("write each value as an entry of its own"));
        assert_eq!(acr("a\"").unwrap_err().message, "`a\\\"` is not a value of `acr`");
    }
}
