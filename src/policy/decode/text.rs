//! Small texts: durations, names, addresses, and suggestions for near misses.

use std::time::Duration;

/// Reads a duration such as `250ms`, `30s`, `15m`, `24h` or `1h30m`: whole numbers with units, from the
/// largest to the smallest, each at most once.
#[must_use]
pub fn duration(text: &str) -> Option<Duration> {
    const UNITS: [(&str, u64); 5] =
        [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];
    let mut units = UNITS.iter();
    let mut rest = text;
    let mut milliseconds: u64 = 0;
    while !rest.is_empty() || text.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, after) = rest.split_at_checked(digits)?;
        let letters = after.bytes().take_while(u8::is_ascii_lowercase).count();
        let (unit, after) = after.split_at_checked(letters)?;
        let (_, factor) = units.find(|(name, _)| *name == unit)?;
        let number: u64 = number.parse().ok()?;
        milliseconds = milliseconds.checked_add(number.checked_mul(*factor)?)?;
        rest = after;
    }
    Some(Duration::from_millis(milliseconds))
}

/// Writes a duration as [`duration`] reads it, in its largest whole unit.
#[must_use]
pub fn show_duration(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    for (unit, factor) in [("h", 3_600_000), ("m", 60_000), ("s", 1000)] {
        if milliseconds >= factor && milliseconds.checked_rem(factor) == Some(0) {
            return format!("{}{unit}", milliseconds.checked_div(factor).unwrap_or_default());
        }
    }
    if milliseconds == 0 { "0s".to_owned() } else { format!("{milliseconds}ms") }
}

/// Returns the candidate that `word` is a near miss of.
#[must_use]
pub fn nearest<'c>(word: &str, candidates: &[&'c str]) -> Option<&'c str> {
    // Words of the format are short; a longer one is no near miss, and its distance costs time.
    if word.len() > 64 {
        return None;
    }
    let folded = word.to_ascii_lowercase();
    candidates
        .iter()
        // What differs more in length is none either, and costs nothing to see.
        .filter(|candidate| candidate.len().abs_diff(word.len()) <= 3)
        .map(|candidate| {
            (strsim::damerau_levenshtein(&folded, &candidate.to_ascii_lowercase()), *candidate)
        })
        .filter(|(distance, candidate)| {
            *distance <= candidate.len().min(word.len()).div_ceil(3).min(3)
        })
        .min()
        .map(|(_, candidate)| candidate)
}

/// Writes alternatives: `` `a`, `b` or `c` ``.
#[must_use]
pub fn or(words: &[&str]) -> String {
    series(words, "or")
}

/// Writes a series: `` `a`, `b` and `c` ``.
#[must_use]
pub fn and(words: &[&str]) -> String {
    series(words, "and")
}

fn series(words: &[&str], last: &str) -> String {
    match words {
        [] => String::new(),
        [word] => format!("`{word}`"),
        [init @ .., word] => {
            let init: Vec<String> = init.iter().map(|word| format!("`{word}`")).collect();
            format!("{} {last} `{word}`", init.join(", "))
        }
    }
}

/// Says whether `text` can name a document or rule: it is shown in records, metrics and headers.
#[must_use]
pub fn is_name(text: &str) -> bool {
    text.len() <= 128
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// Checks the URL of an issuer or of its keys.
///
/// It does not check that the host may be contacted, which is for the process's configuration to say.
///
/// # Errors
/// What is wrong with it.
pub fn check_url(text: &str, may_have_query: bool) -> Result<(), &'static str> {
    // RFC 3986 §2 without percent-decoding: a parser for browsers also takes spaces and backslashes.
    if !text
        .bytes()
        .all(|b| b.is_ascii_graphic() && !matches!(b, b'\\' | b'"' | b'<' | b'>' | b'`'))
    {
        return Err("a URL has visible ASCII characters only");
    }
    let url = reqwest::Url::parse(text)
        .map_err(|_error| "expected an absolute URL such as `https://login.example/`")?;
    let is_loopback = match url.host_str() {
        None => return Err("expected an absolute URL such as `https://login.example/`"),
        Some("localhost") => true,
        Some(host) => host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback()),
    };
    match url.scheme() {
        "https" => {}
        "http" if is_loopback => {}
        "http" => return Err("expected https: plain http is for loopback hosts only"),
        _ => return Err("expected an https URL"),
    }
    if !text.starts_with("https://") && !text.starts_with("http://") {
        return Err("expected an absolute URL such as `https://login.example/`");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("a URL here has no user or password");
    }
    if url.fragment().is_some() {
        return Err("a URL here has no fragment");
    }
    if !may_have_query && url.query().is_some() {
        return Err("an issuer has no query (RFC 8414 §2)");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_whole_numbers_with_units_in_order() {
        for (text, seconds) in [
            ("15m", 900),
            ("30s", 30),
            ("24h", 86_400),
            ("1h30m", 5400),
            ("0s", 0),
            ("2d", 172_800),
        ] {
            assert_eq!(duration(text), Some(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(duration("1s250ms"), Some(Duration::from_millis(1250)));
        for text in [
            "",
            "15",
            "m",
            "1.5h",
            "15 m",
            "30m1h",
            "1m1m",
            "-1s",
            "1S",
            "+1s",
            "1w",
            "99999999999999999999h",
            "99999999999999999h",
        ] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn durations_are_shown_as_they_are_read() {
        for text in ["15m", "30s", "24h", "250ms", "90m", "0s"] {
            assert_eq!(show_duration(duration(text).unwrap()), text);
        }
    }

    #[test]
    fn near_misses_are_found_and_far_ones_are_not() {
        assert_eq!(nearest("hots", &["hosts", "rules"]), Some("hosts"));
        assert_eq!(nearest("maxlifetime", &["maxLifetime"]), Some("maxLifetime"));
        assert_eq!(nearest("path", &["paths", "methods"]), Some("paths"));
        assert_eq!(nearest("banana", &["hosts", "rules"]), None);
        assert_eq!(nearest(&"h".repeat(100_000), &["hosts"]), None);
    }

    #[test]
    fn urls_are_https_or_loopback() {
        for text in [
            "https://login.example/",
            "https://login.example:8443/realms/a",
            "http://127.0.0.1:8080/",
            "http://localhost/",
            "http://[::1]:1/",
        ] {
            assert_eq!(check_url(text, false), Ok(()), "{text}");
        }
        for text in [
            "http://login.example/",
            "http://localhost.example/",
            "http://10.0.0.1/",
            "ftp://localhost/",
            "login.example",
            "https://",
            "https:login.example",
            "https://u@login.example/",
            "https://login.example/#a",
            "https://login.example/?a",
            "https://login.example\\@127.0.0.1/",
            "https://lögin.example/",
            "https://a b/",
        ] {
            assert!(check_url(text, false).is_err(), "{text}");
        }
        assert_eq!(check_url("https://login.example/jwks?x=1", true), Ok(()));
    }
}
