//! SPIFFE patterns: `*` is one whole segment, `**` the rest; the trust domain is always written out.

use crate::{
    identity::{SpiffeId, spiffe},
    policy::pattern::{MAX_SEGMENTS, PatternError},
};

/// A pattern of SPIFFE IDs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpiffePattern {
    trust_domain: Box<str>,
    segments: Box<[Segment]>,
}

/// One segment of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::policy) enum Segment {
    /// Exactly this.
    Literal(Box<str>),
    /// `*`: one whole segment, whatever it is.
    One,
    /// `**`: all that follow, at least one.
    Rest,
}

impl SpiffePattern {
    /// Parses a pattern such as `spiffe://prod.example/ns/*/sa/web`.
    ///
    /// # Errors
    /// Where it is no SPIFFE ID but for its wildcards (SPIFFE-ID §2), names no path, or has a wildcard in
    /// the trust domain, inside a segment, or `**` before the end.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if text.len() > spiffe::MAX_BYTES {
            return Err(PatternError::new(spiffe::SpiffeIdError::TooLong.to_string()));
        }
        let Some(rest) = text.strip_prefix("spiffe://") else {
            let error = PatternError::new(spiffe::SpiffeIdError::Scheme.to_string());
            let lower = text.to_ascii_lowercase();
            return Err(match lower.strip_prefix("spiffe://") {
                Some(_) => error.help("write the scheme in lower case"),
                None => error.help(format!("write `spiffe://{}`", text.trim_start_matches('/'))),
            });
        };
        let Some((trust_domain, path)) = rest.split_once('/') else {
            return Err(PatternError::new("a SPIFFE pattern names a path below its trust domain")
                .help(format!("for every workload of the trust domain write `{text}/**`")));
        };
        if trust_domain.contains('*') {
            return Err(PatternError::new("a trust domain is written out, without `*`")
                .help("write one pattern for each trust domain"));
        }
        let id = text.strip_suffix(path).and_then(|id| id.strip_suffix('/')).unwrap_or_default();
        if let Err(error) = SpiffeId::parse(id) {
            let error = PatternError::new(error.to_string());
            let lower = trust_domain.to_ascii_lowercase();
            return Err(if lower == trust_domain {
                error
            } else {
                error.help(format!("write `spiffe://{lower}/{path}`"))
            });
        }
        let count = path.split('/').count();
        if count > MAX_SEGMENTS {
            return Err(PatternError::new(format!(
                "a pattern has at most {MAX_SEGMENTS} segments"
            )));
        }
        let segments = path
            .split('/')
            .enumerate()
            .map(|(place, segment)| Segment::parse(segment, place.saturating_add(1) == count))
            .collect::<Result<_, _>>()?;
        Ok(Self { trust_domain: trust_domain.into(), segments })
    }

    /// Returns the trust domain.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// Returns whether `id` is one of the IDs that the pattern names. Segments are compared whole:
    /// `/ns/a` never matches `/ns/ab`.
    #[must_use]
    pub fn matches(&self, id: SpiffeId<'_>) -> bool {
        if id.trust_domain() != &*self.trust_domain {
            return false;
        }
        let mut given = id.path().split('/').skip(1);
        for segment in &self.segments {
            match (segment, given.next()) {
                (Segment::Rest, Some(_)) => return true,
                (Segment::One, Some(_)) => {}
                (Segment::Literal(literal), Some(segment)) if &**literal == segment => {}
                (Segment::Literal(_) | Segment::One | Segment::Rest, _) => return false,
            }
        }
        given.next().is_none()
    }

    /// Returns the one ID that the pattern names, where it has no wildcard.
    pub(in crate::policy) fn exact(&self) -> Option<String> {
        let mut text = format!("spiffe://{}", self.trust_domain);
        for segment in &self.segments {
            let Segment::Literal(literal) = segment else { return None };
            text.push('/');
            text.push_str(literal);
        }
        Some(text)
    }

    pub(in crate::policy) fn segments(&self) -> &[Segment] {
        &self.segments
    }
}

impl Segment {
    fn parse(segment: &str, last: bool) -> Result<Self, PatternError> {
        match segment {
            "*" => Ok(Self::One),
            "**" if last => Ok(Self::Rest),
            "**" => Err(PatternError::new("`**` stands at the end of a pattern only")
                .help("write `*` for each segment before the end")),
            _ if segment.contains('*') => Err(PatternError::new(format!(
                "`*` stands for one whole segment, not for a part of `{segment}`"
            ))),
            "" if last => Err(PatternError::new("a SPIFFE pattern does not end in `/`")
                .help("for everything below it write `/**`")),
            _ if spiffe::is_segment(segment) => Ok(Self::Literal(segment.into())),
            _ => Err(PatternError::new(spiffe::SpiffeIdError::Path.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, id: &str) -> bool {
        SpiffePattern::parse(pattern).unwrap().matches(SpiffeId::parse(id).unwrap())
    }

    fn refusal(pattern: &str) -> String {
        SpiffePattern::parse(pattern).unwrap_err().message
    }

    #[test]
    fn a_star_is_one_whole_segment() {
        assert!(matches("spiffe://td/ns/*/sa/web", "spiffe://td/ns/shop/sa/web"));
        assert!(!matches("spiffe://td/ns/*/sa/web", "spiffe://td/ns/shop/x/sa/web"));
        assert!(!matches("spiffe://td/ns/*", "spiffe://td/ns"));
        assert!(!matches("spiffe://td/ns/*", "spiffe://td/ns/a/b"));
    }

    #[test]
    fn two_stars_are_the_rest_of_at_least_one_segment() {
        assert!(matches("spiffe://td/ns/**", "spiffe://td/ns/a"));
        assert!(matches("spiffe://td/ns/**", "spiffe://td/ns/a/sa/b"));
        assert!(!matches("spiffe://td/ns/**", "spiffe://td/ns"));
        assert!(!matches("spiffe://td/**", "spiffe://td"));
        assert!(!matches("spiffe://td/**", "spiffe://td2/a"));
    }

    #[test]
    fn wildcards_elsewhere_are_refused() {
        assert_eq!(refusal("spiffe://*/ns/a"), "a trust domain is written out, without `*`");
        assert_eq!(refusal("spiffe://td/**/a"), "`**` stands at the end of a pattern only");
        assert_eq!(
            refusal("spiffe://td/ns/a*"),
            "`*` stands for one whole segment, not for a part of `a*`"
        );
        assert_eq!(refusal("spiffe://td"), "a SPIFFE pattern names a path below its trust domain");
        assert_eq!(refusal("spiffe://td/a/"), "a SPIFFE pattern does not end in `/`");
    }

    #[test]
    fn what_is_no_spiffe_id_is_refused_with_a_suggestion() {
        let error = SpiffePattern::parse("td/ns/a").unwrap_err();
        assert_eq!(error.help.as_deref(), Some("write `spiffe://td/ns/a`"));
        let error = SpiffePattern::parse("spiffe://Td/a").unwrap_err();
        assert_eq!(error.help.as_deref(), Some("write `spiffe://td/a`"));
        for bad in ["spiffe://td//a", "spiffe://td/a/../b", "spiffe://td/a b", "spiffe:///a"] {
            assert!(SpiffePattern::parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_pattern_without_wildcards_matches_its_own_text_only(
            a in "[a-c]{1,3}(/[a-c]{1,2}){0,3}",
            b in "[a-c]{1,3}(/[a-c]{1,2}){0,3}",
        ) {
            let (a, b) = (format!("spiffe://td/{a}"), format!("spiffe://td/{b}"));
            prop_assert_eq!(matches(&a, &b), a == b);
        }

        #[test]
        fn the_rest_matches_at_segment_boundaries_only(
            prefix in "[a-c]{1,2}(/[a-c]{1,2}){0,2}",
            id in "[a-c]{1,3}(/[a-c]{1,2}){0,4}",
        ) {
            let below = format!("{id}/").starts_with(&format!("{prefix}/")) && id != prefix;
            prop_assert_eq!(
                matches(&format!("spiffe://td/{prefix}/**"), &format!("spiffe://td/{id}")),
                below
            );
        }

        #[test]
        fn no_text_panics(text in "(spiffe://)?\\PC{0,40}") {
            drop(SpiffePattern::parse(&text));
        }
    }
}
