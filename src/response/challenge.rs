//! Challenges (RFC 6750 §3, RFC 9449 §7.1, RFC 9470 §3): what a client is told about the credentials it should bring.
//!
//! Nothing of the request is ever in one.

use std::borrow::Cow;

use crate::{
    evidence::authorization::Scheme,
    policy::{Offer, StepUp},
    reason::Outcome,
};

/// What a challenge says of credentials.
#[derive(Clone, Copy, Debug, Default)]
pub struct Challenge<'a> {
    /// The scheme that the request used: an error is told in it.
    pub used: Option<Scheme>,
    /// Which credentials are taken here; where nothing is known, Bearer ones.
    pub offer: Option<Offer>,
    /// The algorithms of proofs, with spaces between them.
    pub algorithms: &'a str,
    /// The nonce that the client is to use.
    pub nonce: Option<&'a str>,
    /// How the user should authenticate; only where all else held.
    pub step_up: Option<&'a StepUp>,
    /// Where the service's metadata is (RFC 9728 §5.1): an URL without quotes.
    pub resource_metadata: Option<&'a str>,
}

impl Challenge<'_> {
    /// Says whether nothing of it has to do with DPoP or with what the policy says: most are one of few texts.
    fn is_bearer(&self) -> bool {
        self.used != Some(Scheme::Dpop)
            && self.offer.is_none_or(|offer| !offer.dpop)
            && self.resource_metadata.is_none()
    }

    /// Returns the parameter that every challenge has where it is known, with a comma before it.
    fn metadata(&self) -> String {
        let parameter = |url| format!(r#", resource_metadata="{url}""#);
        self.resource_metadata.map(parameter).unwrap_or_default()
    }

    /// Returns the value of `www-authenticate`, where there is one.
    pub(super) fn text(&self, outcome: Outcome, scopes: &[Box<str>]) -> Option<Cow<'static, str>> {
        match outcome {
            Outcome::InvalidDpopProof | Outcome::UseDpopNonce => self.of_both(outcome, scopes),
            Outcome::Unauthorized
            | Outcome::InvalidToken
            | Outcome::InvalidRequest
            | Outcome::InsufficientAuthentication
            | Outcome::InsufficientScope
                if !self.is_bearer() =>
            {
                self.of_both(outcome, scopes)
            }
            Outcome::Unauthorized
            | Outcome::InvalidToken
            | Outcome::InvalidRequest
            | Outcome::InsufficientAuthentication
            | Outcome::InsufficientScope => self.of_bearer(outcome, scopes),
            Outcome::BadRequest
            | Outcome::Forbidden
            | Outcome::TooLarge
            | Outcome::HeadersTooLarge
            | Outcome::Internal
            | Outcome::Unavailable => None,
        }
    }

    /// The scheme that was used is told the error; one that is taken besides is offered without: both to
    /// who came with nothing, DPoP to who came with Bearer.
    fn of_both(&self, outcome: Outcome, scopes: &[Box<str>]) -> Option<Cow<'static, str>> {
        let used_dpop = self.used == Some(Scheme::Dpop);
        let offer = self.offer.unwrap_or(Offer { bearer: !used_dpop, dpop: used_dpop });
        let error = self.error(outcome, scopes);
        let nothing = String::new;
        let (bearer, dpop) = match outcome {
            Outcome::Unauthorized | Outcome::InvalidRequest => {
                (offer.bearer.then(|| error.clone()), offer.dpop.then_some(error))
            }
            Outcome::InvalidDpopProof | Outcome::UseDpopNonce => (None, Some(error)),
            Outcome::InvalidToken
            | Outcome::InsufficientAuthentication
            | Outcome::InsufficientScope
                if used_dpop =>
            {
                (None, Some(error))
            }
            Outcome::InvalidToken => (Some(error), offer.dpop.then(nothing)),
            Outcome::InsufficientAuthentication | Outcome::InsufficientScope => (Some(error), None),
            Outcome::BadRequest
            | Outcome::Forbidden
            | Outcome::TooLarge
            | Outcome::HeadersTooLarge
            | Outcome::Internal
            | Outcome::Unavailable => return None,
        };
        let metadata = self.metadata();
        let bearer = bearer.map(|error| format!(r#"Bearer realm="api"{error}{metadata}"#));
        let dpop = dpop.map(|error| {
            let algorithms = self.algorithms;
            format!(r#"DPoP realm="api"{error}{metadata}, algs="{algorithms}""#)
        });
        // RFC 9110 §11.6.1: challenges in one header, with commas between them.
        let both: Vec<String> = bearer.into_iter().chain(dpop).collect();
        Some(both.join(", ").into())
    }

    /// Returns the parameters of an error, with a comma before each.
    fn error(&self, outcome: Outcome, scopes: &[Box<str>]) -> String {
        let code = match outcome {
            Outcome::InvalidToken => "invalid_token",
            Outcome::InvalidRequest => "invalid_request",
            Outcome::InsufficientAuthentication => "insufficient_user_authentication",
            Outcome::InsufficientScope => "insufficient_scope",
            Outcome::InvalidDpopProof => "invalid_dpop_proof",
            Outcome::UseDpopNonce => "use_dpop_nonce",
            // RFC 6750 §3.1: without a credential there is no error code.
            Outcome::Unauthorized
            | Outcome::BadRequest
            | Outcome::Forbidden
            | Outcome::TooLarge
            | Outcome::HeadersTooLarge
            | Outcome::Internal
            | Outcome::Unavailable => return String::new(),
        };
        let mut text = format!(r#", error="{code}""#);
        if outcome == Outcome::InsufficientScope && !scopes.is_empty() {
            text.extend([r#", scope=""#, &scopes.join(" "), "\""]);
        }
        if outcome == Outcome::InsufficientAuthentication
            && let Some(step_up) = self.step_up
        {
            if let Some(acr) = &step_up.acr {
                text.extend([r#", acr_values=""#, &acr.join(" "), "\""]);
            }
            if let Some(max_age) = step_up.max_age {
                text.extend([r#", max_age=""#, &max_age.as_secs().to_string(), "\""]);
            }
        }
        text
    }

    /// Returns the challenge of RFC 6750 §3.
    fn of_bearer(&self, outcome: Outcome, scopes: &[Box<str>]) -> Option<Cow<'static, str>> {
        // RFC 6750 §3: the scheme must be followed by at least one parameter, and without a credential
        // there is no error code: so a realm.
        let text = match outcome {
            Outcome::Unauthorized => r#"Bearer realm="api""#,
            Outcome::InvalidToken => r#"Bearer realm="api", error="invalid_token""#,
            Outcome::InvalidRequest => r#"Bearer realm="api", error="invalid_request""#,
            Outcome::InsufficientAuthentication | Outcome::InsufficientScope => {
                return Some(
                    format!(r#"Bearer realm="api"{}"#, self.error(outcome, scopes)).into(),
                );
            }
            Outcome::InvalidDpopProof
            | Outcome::UseDpopNonce
            | Outcome::BadRequest
            | Outcome::Forbidden
            | Outcome::TooLarge
            | Outcome::HeadersTooLarge
            | Outcome::Internal
            | Outcome::Unavailable => return None,
        };
        Some(text.into())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn metadata_stands_in_the_challenge_of_each_scheme_and_in_nothing_else() {
        let url = "https://api.example/.well-known/oauth-protected-resource";
        let of = |used, dpop| Challenge {
            used,
            offer: Some(Offer { bearer: true, dpop }),
            algorithms: "ES256",
            resource_metadata: Some(url),
            ..Challenge::default()
        };
        let plain = of(None, false);
        let text = |challenge: &Challenge<'_>, outcome| challenge.text(outcome, &[]);
        assert_eq!(
            text(&plain, Outcome::Unauthorized).unwrap(),
            format!(r#"Bearer realm="api", resource_metadata="{url}""#)
        );
        let both = of(None, true);
        assert_eq!(
            text(&both, Outcome::Unauthorized).unwrap(),
            format!(
                r#"Bearer realm="api", resource_metadata="{url}", DPoP realm="api", resource_metadata="{url}", algs="ES256""#
            )
        );
        for outcome in [Outcome::InvalidToken, Outcome::InvalidRequest, Outcome::InsufficientScope]
        {
            for challenge in [of(Some(Scheme::Bearer), false), of(Some(Scheme::Dpop), true)] {
                let text = text(&challenge, outcome).unwrap();
                let challenges = text.matches("realm=").count();
                assert_eq!(text.matches("resource_metadata=").count(), challenges, "{text}");
                assert!(text.contains("error="), "{text}");
            }
        }
        for outcome in [Outcome::Forbidden, Outcome::BadRequest, Outcome::Unavailable] {
            assert_eq!(text(&both, outcome), None);
        }
    }

    #[test]
    fn a_missing_credential_is_challenged_without_an_error_code() {
        let challenge = Challenge::default().text(Outcome::Unauthorized, &[]).unwrap();
        assert!(!challenge.contains("error"));
        assert!(challenge.starts_with("Bearer realm="));
    }

    #[test]
    fn missing_scopes_are_named_in_the_challenge() {
        let scopes = ["a".into(), "b".into()];
        let challenge = Challenge::default().text(Outcome::InsufficientScope, &scopes).unwrap();
        assert_eq!(challenge, r#"Bearer realm="api", error="insufficient_scope", scope="a b""#);
    }

    /// What was used, what is offered, and the whole header.
    type Situation = (Outcome, Option<Scheme>, (bool, bool), &'static str);

    const BEARER: Option<Scheme> = Some(Scheme::Bearer);
    const DPOP: Option<Scheme> = Some(Scheme::Dpop);

    #[rustfmt::skip]
    const SITUATIONS: &[Situation] = &[
        (Outcome::Unauthorized, None, (true, false), r#"Bearer realm="api""#),
        (Outcome::Unauthorized, None, (false, true), r#"DPoP realm="api", algs="ES256""#),
        (Outcome::Unauthorized, None, (true, true), r#"Bearer realm="api", DPoP realm="api", algs="ES256""#),
        (Outcome::InvalidRequest, None, (true, true), r#"Bearer realm="api", error="invalid_request", DPoP realm="api", error="invalid_request", algs="ES256""#),
        (Outcome::InvalidToken, BEARER, (true, false), r#"Bearer realm="api", error="invalid_token""#),
        (Outcome::InvalidToken, BEARER, (true, true), r#"Bearer realm="api", error="invalid_token", DPoP realm="api", algs="ES256""#),
        (Outcome::InvalidToken, BEARER, (false, true), r#"Bearer realm="api", error="invalid_token", DPoP realm="api", algs="ES256""#),
        (Outcome::InvalidToken, DPOP, (true, true), r#"DPoP realm="api", error="invalid_token", algs="ES256""#),
        (Outcome::InvalidToken, DPOP, (true, false), r#"DPoP realm="api", error="invalid_token", algs="ES256""#),
        (Outcome::InvalidDpopProof, DPOP, (true, true), r#"DPoP realm="api", error="invalid_dpop_proof", algs="ES256""#),
        (Outcome::UseDpopNonce, DPOP, (false, true), r#"DPoP realm="api", error="use_dpop_nonce", algs="ES256""#),
        (Outcome::InsufficientScope, BEARER, (true, true), r#"Bearer realm="api", error="insufficient_scope", scope="a""#),
        (Outcome::InsufficientScope, DPOP, (true, true), r#"DPoP realm="api", error="insufficient_scope", scope="a", algs="ES256""#),
    ];

    #[test]
    fn each_situation_has_its_challenge() {
        for &(outcome, used, (bearer, dpop), expected) in SITUATIONS {
            let offer = Some(Offer { bearer, dpop });
            let challenge = Challenge { used, offer, algorithms: "ES256", ..Challenge::default() };
            let text = challenge.text(outcome, &["a".into()]).unwrap();
            assert_eq!(text, expected, "{outcome:?} {used:?} {offer:?}");
        }
    }

    #[test]
    fn how_to_authenticate_is_told_in_the_scheme_that_was_used() {
        let both = StepUp {
            acr: Some(["gold".into(), "urn:silver".into()].into()),
            max_age: Some(Duration::from_secs(900)),
        };
        let offer = Some(Offer { bearer: true, dpop: true });
        let text = |used, step_up: &StepUp| {
            let step_up = Some(step_up);
            let challenge =
                Challenge { used, offer, algorithms: "ES256", step_up, ..Challenge::default() };
            challenge.text(Outcome::InsufficientAuthentication, &["a".into()]).unwrap()
        };
        assert_eq!(
            text(BEARER, &both),
            r#"Bearer realm="api", error="insufficient_user_authentication", acr_values="gold urn:silver", max_age="900""#
        );
        assert_eq!(
            text(DPOP, &StepUp { acr: None, ..both.clone() }),
            r#"DPoP realm="api", error="insufficient_user_authentication", max_age="900", algs="ES256""#
        );
        assert_eq!(
            text(BEARER, &StepUp { max_age: None, ..both.clone() }),
            r#"Bearer realm="api", error="insufficient_user_authentication", acr_values="gold urn:silver""#
        );
        let plain = Challenge { used: BEARER, step_up: Some(&both), ..Challenge::default() };
        let plain = plain.text(Outcome::InsufficientAuthentication, &[]).unwrap();
        assert_eq!(plain, text(BEARER, &both));
        let other = Challenge { used: BEARER, step_up: Some(&both), ..Challenge::default() };
        let other = other.text(Outcome::InvalidToken, &[]).unwrap();
        assert_eq!(other, r#"Bearer realm="api", error="invalid_token""#);
    }
}
