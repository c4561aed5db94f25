//! The claims of an access token (RFC 9068 §2.2), read strictly.

mod scopes;

use std::{mem::size_of, sync::Arc, time::Duration};

use serde_json::Value;

use crate::{
    clock::UnixTime,
    credential::{
        actor::{self, Actor},
        binding::{BindingError, Confirmation},
    },
    identity::SpiffeId,
    json::Object,
    policy::document::{IssuerDocument, Profile},
    reason::Reason,
};

/// A token for more services than this is for nobody in particular.
pub const MAX_AUDIENCES: usize = 100;

/// The claims of a token whose signature, type and issuer were verified, or that its issuer told when asked. What depends on the time or the
/// call (expiry, audience, binding) is looked at on every check.
///
/// Holds no secret: without the signature, claims are no token.
#[derive(Debug)]
pub struct AccessToken {
    /// `metadata.name` of the Issuer that verified it.
    pub issuer: Arc<str>,
    /// `sub`.
    pub subject: Option<String>,
    /// `client_id`.
    pub client_id: Option<String>,
    /// `jti`.
    pub id: Option<String>,
    /// `aud`.
    pub audiences: Vec<String>,
    /// The scopes held, from all claims that the issuer's document lists, sorted, without duplicates.
    pub scopes: Vec<String>,
    /// `exp`.
    pub expires: UnixTime,
    /// `nbf`.
    pub not_before: Option<UnixTime>,
    /// `iat`.
    pub issued: Option<UnixTime>,
    /// `auth_time`: when the user last authenticated (RFC 9470 §6.1).
    pub authenticated: Option<UnixTime>,
    /// Who acts for the subject: the current actor first; empty where nobody does.
    pub actors: Vec<Actor>,
    /// `cnf`.
    pub confirmation: Confirmation,
    /// Whether the issuer was asked about it (RFC 7662).
    pub introspected: bool,
    /// All claims, for templates and conditions.
    pub claims: Object,
}

/// Which claims a token must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Required {
    /// Those of RFC 9068 §2.2.
    Rfc9068,
    /// `aud` and `exp`.
    Jwt,
    /// Those of JWT-SVID §3, with the SPIFFE ID of a workload of the issuer's own trust domain as `sub`.
    JwtSvid,
    /// `aud` alone: an answer of RFC 7662 §2.2, whose members are all optional. Without `exp`, what the issuer
    /// says now is believed until then.
    Audience {
        /// The end of a token that tells none.
        until: UnixTime,
    },
}

impl Required {
    /// Returns what a JWT of an issuer of this profile must have.
    #[must_use]
    pub const fn of(profile: Profile) -> Self {
        match profile {
            Profile::Rfc9068 => Self::Rfc9068,
            Profile::Jwt => Self::Jwt,
            // No tokens of the latter kind are read as access tokens.
            Profile::JwtSvid | Profile::WitSvid => Self::JwtSvid,
        }
    }
}

/// Why claims are refused. Names the claim; carries nothing of its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimsError {
    /// The token has expired.
    #[error("the token has expired")]
    Expired,
    /// A claim has the wrong type or is out of range.
    #[error("claim `{0}` has the wrong type or is out of range")]
    Invalid(&'static str),
    /// It was issued in the future.
    #[error("the token was issued in the future")]
    IssuedInFuture,
    /// It lives longer than the issuer's tokens may.
    #[error("the token's lifetime is longer than allowed")]
    Lifetime,
    /// A claim has not the value that the issuer's document asks for.
    #[error("a claim has not the required value")]
    Mismatch,
    /// A required claim is not there.
    #[error("claim `{0}` is missing")]
    Missing(&'static str),
    /// It is not valid yet.
    #[error("the token is not valid yet")]
    NotYetValid,
}

impl From<ClaimsError> for Reason {
    fn from(error: ClaimsError) -> Self {
        match error {
            ClaimsError::Expired => Self::TokenExpired,
            ClaimsError::Invalid(_) => Self::TokenClaimInvalid,
            ClaimsError::IssuedInFuture => Self::TokenIssuedInFuture,
            ClaimsError::Lifetime => Self::TokenLifetime,
            ClaimsError::Mismatch => Self::TokenClaimMismatch,
            ClaimsError::Missing(_) => Self::TokenClaimMissing,
            ClaimsError::NotYetValid => Self::TokenNotYetValid,
        }
    }
}

impl AccessToken {
    /// Reads the claims of a token that the issuer of `document` signed, `name` being its name. The second
    /// value tells what is wrong with `cnf`: a token with such a one may be recorded, and never be used.
    ///
    /// Checks types, `acr`'s among them, and that the `required` claims are there; does *not*
    /// check values, times or whom the token is for.
    ///
    /// # Errors
    /// [`ClaimsError::Missing`] and [`ClaimsError::Invalid`].
    pub fn read(
        name: Arc<str>,
        document: &IssuerDocument,
        claims: Object,
        required: Required,
    ) -> Result<(Self, Result<(), BindingError>), ClaimsError> {
        let (confirmation, bindable) = match Confirmation::read(claims.get("cnf")) {
            Ok(confirmation) => (confirmation, Ok(())),
            Err(error) => (Confirmation::default(), Err(error)),
        };
        text(&claims, "acr")?;
        let token = Self {
            issuer: name,
            subject: text(&claims, "sub")?,
            client_id: text(&claims, "client_id")?,
            id: text(&claims, "jti")?,
            audiences: audiences(claims.get("aud").ok_or(ClaimsError::Missing("aud"))?)?,
            scopes: scopes::read(&claims, document)?,
            expires: match (time(&claims, "exp")?, required) {
                (Some(expires), _) | (None, Required::Audience { until: expires }) => expires,
                (None, Required::Rfc9068 | Required::Jwt | Required::JwtSvid) => {
                    return Err(ClaimsError::Missing("exp"));
                }
            },
            not_before: time(&claims, "nbf")?,
            issued: time(&claims, "iat")?,
            authenticated: time(&claims, "auth_time")?,
            actors: actor::read(&claims)?,
            confirmation,
            introspected: false,
            claims,
        };
        match required {
            Required::Rfc9068 => token.check_rfc9068()?,
            Required::JwtSvid => token.check_svid(document)?,
            Required::Jwt | Required::Audience { .. } => {}
        }
        Ok((token, bindable))
    }

    /// RFC 9068 §2.2: what must be there besides `iss`, `exp` and `aud`.
    fn check_rfc9068(&self) -> Result<(), ClaimsError> {
        let required = [
            ("sub", self.subject.is_some()),
            ("client_id", self.client_id.is_some()),
            ("iat", self.issued.is_some()),
            ("jti", self.id.is_some()),
        ];
        match required.iter().find(|(_, present)| !present) {
            Some((name, _)) => Err(ClaimsError::Missing(name)),
            None => Ok(()),
        }
    }

    /// JWT-SVID §3.1: `sub` is the SPIFFE ID of the workload, in the trust domain whose keys were used.
    fn check_svid(&self, document: &IssuerDocument) -> Result<(), ClaimsError> {
        let subject = self.subject.as_deref().ok_or(ClaimsError::Missing("sub"))?;
        let is_of_domain = SpiffeId::parse(subject).is_ok_and(|id| {
            let own = document.issuer.value.strip_prefix("spiffe://");
            !id.path().is_empty() && own == Some(id.trust_domain())
        });
        if is_of_domain { Ok(()) } else { Err(ClaimsError::Invalid("sub")) }
    }

    /// Checks what the issuer's document asks of values and lifetime. What held once holds for ever.
    ///
    /// # Errors
    /// [`ClaimsError::Mismatch`] and [`ClaimsError::Lifetime`].
    pub fn check_document(
        &self,
        issuer: &IssuerDocument,
        now: UnixTime,
    ) -> Result<(), ClaimsError> {
        let has = |(name, required): &(String, Value)| match self.claims.get(name) {
            Some(Value::Array(values)) if !required.is_array() => values.contains(required),
            Some(value) => value == required,
            None => false,
        };
        if !issuer.require_claims.iter().all(has) {
            return Err(ClaimsError::Mismatch);
        }
        // Without `iat`, what is left of its life is all that is known of it.
        let lifetime = self.issued.map_or_else(
            || self.expires.saturating_since(now).saturating_sub(leeway(issuer)),
            |since| self.expires.saturating_since(since),
        );
        if lifetime <= issuer.max_lifetime { Ok(()) } else { Err(ClaimsError::Lifetime) }
    }

    /// Checks the token's times against `now`, with the issuer's leeway. For every check, cached or not.
    ///
    /// # Errors
    /// [`ClaimsError::Expired`], [`ClaimsError::NotYetValid`], [`ClaimsError::IssuedInFuture`] and, where
    /// the user is to authenticate only later, [`ClaimsError::Invalid`].
    pub fn check_times(&self, issuer: &IssuerDocument, now: UnixTime) -> Result<(), ClaimsError> {
        let leeway = leeway(issuer);
        // RFC 7519 §4.1.4: not on or after.
        if now >= self.expires.saturating_add(leeway) {
            return Err(ClaimsError::Expired);
        }
        let latest = now.saturating_add(leeway);
        // RFC 7519 §4.1.5.
        if self.not_before.is_some_and(|not_before| not_before > latest) {
            return Err(ClaimsError::NotYetValid);
        }
        if self.issued.is_some_and(|issued| issued > latest) {
            return Err(ClaimsError::IssuedInFuture);
        }
        if self.authenticated.is_some_and(|authenticated| authenticated > latest) {
            return Err(ClaimsError::Invalid("auth_time"));
        }
        Ok(())
    }

    /// Returns `acr`: how the user authenticated, in the issuer's own words (RFC 9470 §6.1).
    #[must_use]
    pub fn authentication_class(&self) -> Option<&str> {
        self.claims.get("acr").and_then(Value::as_str)
    }

    /// Returns `iss`.
    #[must_use]
    pub fn issuer_identifier(&self) -> Option<&str> {
        self.claims.get("iss").and_then(Value::as_str)
    }

    /// Returns about how many bytes of memory the token takes.
    #[must_use]
    pub fn weight(&self) -> usize {
        let texts = |texts: &[String]| {
            texts.iter().fold(0_usize, |sum, text| {
                sum.saturating_add(size_of::<String>()).saturating_add(text.len())
            })
        };
        let members = [&self.subject, &self.client_id, &self.id];
        members
            .iter()
            .filter_map(|member| member.as_ref().map(String::len))
            .fold(size_of::<Self>(), usize::saturating_add)
            .saturating_add(texts(&self.audiences))
            .saturating_add(texts(&self.scopes))
            .saturating_add(self.actors.iter().map(Actor::weight).fold(0, usize::saturating_add))
            .saturating_add(object_weight(&self.claims))
    }
}

/// The issuer's leeway, which no document can raise over a minute.
fn leeway(issuer: &IssuerDocument) -> Duration {
    issuer.leeway.min(MAX_LEEWAY)
}

/// RFC 9068 §4 says "no more than a few minutes"; clocks kept by NTP are within a second.
const MAX_LEEWAY: Duration = Duration::from_secs(60);

/// A text that is not empty: an empty subject or client would be everybody's.
fn text(claims: &Object, name: &'static str) -> Result<Option<String>, ClaimsError> {
    match claims.get(name) {
        None => Ok(None),
        Some(Value::String(text)) if !text.is_empty() => Ok(Some(text.clone())),
        Some(_) => Err(ClaimsError::Invalid(name)),
    }
}

/// A `NumericDate` (RFC 7519 §2): a JSON number, fractions allowed, from the epoch to the year 9999.
pub(super) fn time(claims: &Object, name: &'static str) -> Result<Option<UnixTime>, ClaimsError> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    let Value::Number(number) = value else { return Err(ClaimsError::Invalid(name)) };
    let since_epoch = match number.as_u64() {
        Some(seconds) => Duration::from_secs(seconds),
        None => number
            .as_f64()
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
            .ok_or(ClaimsError::Invalid(name))?,
    };
    if since_epoch > LAST_TIME {
        return Err(ClaimsError::Invalid(name));
    }
    Ok(Some(UnixTime::new(since_epoch)))
}

/// The end of the year 9999: beyond it numbers are milliseconds, or mistakes.
const LAST_TIME: Duration = Duration::from_secs(253_402_300_799);

/// RFC 7519 §4.1.3: one text or an array of texts.
fn audiences(aud: &Value) -> Result<Vec<String>, ClaimsError> {
    let values = aud.as_array().map_or(std::slice::from_ref(aud), Vec::as_slice);
    if !(1..=MAX_AUDIENCES).contains(&values.len()) {
        return Err(ClaimsError::Invalid("aud"));
    }
    let named = values.iter().map(|value| value.as_str().filter(|audience| !audience.is_empty()));
    named.map(|audience| audience.map(str::to_owned).ok_or(ClaimsError::Invalid("aud"))).collect()
}

fn object_weight(object: &Object) -> usize {
    object.iter().fold(0_usize, |sum, (name, value)| {
        sum.saturating_add(size_of::<(String, Value)>())
            .saturating_add(name.len())
            .saturating_add(value_weight(value))
    })
}

/// What a value holds besides itself; as deep as the strict reader lets a value be.
fn value_weight(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        Value::String(text) => text.len(),
        Value::Array(values) => values.iter().fold(0_usize, |sum, value| {
            sum.saturating_add(size_of::<Value>()).saturating_add(value_weight(value))
        }),
        Value::Object(object) => object_weight(object),
    }
}

#[cfg(test)]
mod tests;
