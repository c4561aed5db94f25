//! Tokens that their issuer is asked about (RFC 7662): opaque ones, and JWTs that must be revocable at once.
//!
//! The issuer's answer takes the place of signature and claims; all else is judged as with any other token.

use std::{sync::Arc, time::Duration};

use serde_json::Value;

use crate::{
    clock::UnixTime,
    credential::{
        Refusal, Waited,
        cache::Kept,
        claims::{AccessToken, Required},
        judge,
    },
    identity::Thumbprint,
    json::Object,
    policy::document::IntrospectedTokens,
    reason::Reason,
    trust::{
        Issuer, Issuers,
        introspection::{Answer, Asked, Introspected, Introspector},
    },
};

/// An answer without `exp` says that the token is good now: it counts for no longer than this (RFC 7662 §4).
const WITHOUT_END: Duration = Duration::from_secs(60);

/// Why an issuer's answer about a token proves nothing. Carries nothing of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IntrospectedError {
    /// The issuer says that the token is not active.
    #[error("the issuer says that the token is not active")]
    Inactive,
    /// The answer contradicts the token, or names another issuer.
    #[error("the issuer's answer is about another token")]
    Mismatch,
    /// The token is no JWT and no rule that asks here takes others.
    #[error("the token is no JWT, and there is nobody to ask about it")]
    NobodyToAsk,
    /// The answer is about something that is no access token, such as a refresh token.
    #[error("the issuer's answer is about no access token")]
    Type,
    /// The issuer could not be asked, or did not answer as it should.
    #[error("the issuer could not be asked about the token")]
    Unavailable,
}

impl From<IntrospectedError> for Reason {
    fn from(error: IntrospectedError) -> Self {
        match error {
            IntrospectedError::Inactive => Self::TokenInactive,
            IntrospectedError::Mismatch => Self::TokenClaimMismatch,
            IntrospectedError::NobodyToAsk => Self::TokenMalformed,
            IntrospectedError::Type => Self::TokenType,
            IntrospectedError::Unavailable => Self::IntrospectionUnavailable,
        }
    }
}

/// A token that was presented, and what is known about it.
#[derive(Clone, Copy)]
pub(super) struct Presented<'t> {
    pub(super) token: &'t str,
    /// SHA-256 of the token.
    pub(super) hash: Thumbprint,
    pub(super) now: UnixTime,
    pub(super) waited: Waited<'t>,
}

/// Returns the one issuer that is asked about opaque tokens here.
pub(super) fn issuer<'i>(
    opaque: Option<&str>,
    issuers: &'i Issuers,
) -> Result<&'i Arc<Issuer>, IntrospectedError> {
    opaque.and_then(|name| issuers.named(name)).ok_or(IntrospectedError::NobodyToAsk)
}

/// Reads an opaque token from what its issuer says of it.
pub(super) fn read_opaque(presented: Presented<'_>, issuer: &Issuer) -> Result<Kept, Refusal> {
    let introspector = issuer.introspector().ok_or(IntrospectedError::NobodyToAsk)?;
    let (claims, asked) = ask(presented, introspector)?;
    check_kind(&claims, issuer)?;
    let until = asked.saturating_add(WITHOUT_END);
    let required = Required::Audience { until };
    let mut token = judge(issuer, with_issuer(&claims, issuer), required, presented.now)?;
    check_scheme(&claims, &token)?;
    mark(&mut token)?;
    Ok(Kept {
        token,
        iss: Arc::clone(issuer.shared_identifier()),
        version: introspector.version(),
        until: Some(asked.saturating_add(introspector.cache_for())),
    })
}

/// Asks the issuer about a JWT whose signature and claims held, where its tokens must be revocable at once.
/// What the issuer says can take from the token (scopes, audiences, time), and adds nothing to it.
pub(super) fn narrow(
    presented: Presented<'_>,
    issuer: &Issuer,
    mut kept: Kept,
) -> Result<Kept, Refusal> {
    let Some(introspector) =
        issuer.introspector().filter(|asked| asked.tokens() == IntrospectedTokens::All)
    else {
        return Ok(kept);
    };
    let (claims, asked) = ask(presented, introspector)?;
    check_kind(&claims, issuer)?;
    let mut answer = with_issuer(&claims, issuer);
    if let Some(aud) = kept.token.claims.get("aud") {
        answer.entry("aud").or_insert_with(|| aud.clone());
    }
    let required = Required::Audience { until: kept.token.expires };
    let answer =
        judge(issuer, with_required(answer, &kept.token, issuer), required, presented.now)?;
    check_scheme(&claims, &kept.token)?;
    let token = Arc::get_mut(&mut kept.token).ok_or(IntrospectedError::Unavailable)?;
    let contradicts = |own: &Option<String>, told: &Option<String>| told.is_some() && own != told;
    if contradicts(&token.subject, &answer.subject)
        || contradicts(&token.client_id, &answer.client_id)
        || contradicts(&token.id, &answer.id)
        || (claims.contains_key("cnf") && token.confirmation != answer.confirmation)
        || (claims.contains_key("act") && token.actors != answer.actors)
    {
        return Err(IntrospectedError::Mismatch.into());
    }
    if issuer.document.scope_claims.iter().any(|claim| claims.contains_key(claim.name())) {
        token.scopes.retain(|scope| answer.scopes.contains(scope));
    }
    token.audiences.retain(|audience| answer.audiences.contains(audience));
    token.expires = token.expires.min(answer.expires);
    token.introspected = true;
    kept.until = Some(asked.saturating_add(introspector.cache_for()));
    Ok(kept)
}

/// Returns an answer whose `iss` was checked, with it where it was left out.
fn with_issuer(claims: &Object, issuer: &Issuer) -> Object {
    let mut claims = claims.clone();
    claims.entry("iss").or_insert_with(|| issuer.identifier().into());
    claims
}

/// The issuer's own demands on claims held for the JWT; its answer need not repeat them.
fn with_required(mut answer: Object, token: &AccessToken, issuer: &Issuer) -> Object {
    for (name, _) in &issuer.document.require_claims {
        if let (false, Some(value)) = (answer.contains_key(name), token.claims.get(name)) {
            answer.insert(name.clone(), value.clone());
        }
    }
    answer
}

/// Returns what the issuer says of an active token, and when it was asked.
fn ask(
    presented: Presented<'_>,
    introspector: &Introspector,
) -> Result<(Arc<Object>, UnixTime), Refusal> {
    let Presented { token, hash, waited, .. } = presented;
    let told = waited.introspected.filter(|told| told.is_about(hash, introspector.version()));
    let told = match told {
        Some(told) => told.clone(),
        None => match introspector.ask(token, hash) {
            Asked::Known(told) => told,
            Asked::Waits(introspection) => return Err(Refusal::Unasked(introspection)),
        },
    };
    let Introspected { answer, asked, .. } = told;
    match answer {
        Answer::Active(claims) => Ok((claims, asked)),
        Answer::Inactive => Err(IntrospectedError::Inactive.into()),
        Answer::Unavailable => Err(IntrospectedError::Unavailable.into()),
    }
}

/// Checks that the answer is this issuer's, about an access token: an endpoint tells of refresh and ID tokens
/// too. Some say it with `typ`, most with `token_type` or not at all; those of another kind have no `aud` of ours.
fn check_kind(claims: &Object, issuer: &Issuer) -> Result<(), IntrospectedError> {
    match claims.get("iss") {
        None => {}
        Some(Value::String(iss)) if iss == issuer.identifier() => {}
        Some(_) => return Err(IntrospectedError::Mismatch),
    }
    let is_one_of = |name: &str, own: &[String]| match claims.get(name) {
        None => true,
        Some(Value::String(kind)) => {
            let known = ["Bearer", "DPoP"].into_iter().chain(own.iter().map(String::as_str));
            known.into_iter().any(|known| known.eq_ignore_ascii_case(kind))
        }
        Some(_) => false,
    };
    if is_one_of("token_type", &[]) && is_one_of("typ", &issuer.document.types) {
        Ok(())
    } else {
        Err(IntrospectedError::Type)
    }
}

/// RFC 9449 §6.2: where `token_type` is told, it is `DPoP` for a token that is bound to a key, and for no other.
fn check_scheme(claims: &Object, token: &AccessToken) -> Result<(), IntrospectedError> {
    let Some(Value::String(kind)) = claims.get("token_type") else { return Ok(()) };
    if kind.eq_ignore_ascii_case("DPoP") == token.confirmation.key.is_some() {
        Ok(())
    } else {
        Err(IntrospectedError::Type)
    }
}

fn mark(token: &mut Arc<AccessToken>) -> Result<(), IntrospectedError> {
    Arc::get_mut(token).ok_or(IntrospectedError::Unavailable)?.introspected = true;
    Ok(())
}

#[cfg(test)]
mod tests;
