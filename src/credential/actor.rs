//! Delegation (RFC 8693 §4.1): who acts for a token's subject.

use std::mem::size_of;

use serde_json::Value;

use crate::{
    credential::{Peer, Proof, claims::ClaimsError},
    json::Object,
    reason::Reason,
};

/// Each exchange of a token adds an actor; a call through more services than this is a loop.
pub const MAX_ACTORS: usize = 8;

/// One who acts for a token's subject: `sub` of `act` and whose name that is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    /// `iss`: that of the token where `act` has none.
    pub issuer: String,
    /// `sub`.
    pub subject: String,
}

/// The token's current actor is a workload, and not the one that makes the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the token's actor is not the peer")]
pub struct ActorNotPeer;

impl From<ActorNotPeer> for Reason {
    fn from(ActorNotPeer: ActorNotPeer) -> Self {
        Self::ActorNotPeer
    }
}

/// Reads `act`: the current actor first, then those before it. Without `act` there is none, whatever else
/// the token says: `may_act` (§4.4) is about exchanges to come, and no delegation.
///
/// Each actor is an object with a `sub`; `iss` is that of the token where it has none. Its other members
/// (`exp`, `aud`, `scope`) have no meaning there and are not looked at (§4.1).
///
/// # Errors
/// [`ClaimsError::Invalid`] where an actor is of another type, has no `sub`, or there are more than
/// [`MAX_ACTORS`].
pub(super) fn read(claims: &Object) -> Result<Vec<Actor>, ClaimsError> {
    let invalid = || ClaimsError::Invalid("act");
    let mut actors = Vec::new();
    let mut next = claims.get("act");
    while let Some(act) = next {
        if actors.len() == MAX_ACTORS {
            return Err(invalid());
        }
        let act = act.as_object().ok_or_else(invalid)?;
        let issuer = act.get("iss").or_else(|| claims.get("iss"));
        actors.push(Actor {
            issuer: text(issuer).ok_or_else(invalid)?,
            subject: text(act.get("sub")).ok_or_else(invalid)?,
        });
        next = act.get("act");
    }
    Ok(actors)
}

/// A text that is not empty.
fn text(value: Option<&Value>) -> Option<String> {
    value.and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned)
}

/// Checks that the current actor, where it is a workload, makes this call itself: a SPIFFE ID is proven by a
/// certificate and by nothing else, so that a token in another's hands is as good as stolen.
///
/// What only looks like a SPIFFE ID is nobody's, and so refused. An actor with another name cannot be
/// compared and is left to the rules; actors before the current one are history (RFC 8693 §4.1).
///
/// # Errors
/// [`ActorNotPeer`], also where there is no proven peer.
pub(super) fn check_peer(actors: &[Actor], peer: &Proof<Peer<'_>>) -> Result<(), ActorNotPeer> {
    let Some(actor) = actors.first().filter(|actor| actor.claims_spiffe()) else { return Ok(()) };
    match peer {
        Proof::Proven(Peer { spiffe: Some(id), .. }) if id.as_str() == actor.subject => Ok(()),
        Proof::Proven(_) | Proof::Unproven(_) | Proof::Absent => Err(ActorNotPeer),
    }
}

impl Actor {
    /// Says whether the subject is a SPIFFE ID, or pretends to be one.
    #[must_use]
    pub fn claims_spiffe(&self) -> bool {
        let scheme = self.subject.split_once(':').map(|(scheme, _)| scheme.trim());
        scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case("spiffe"))
    }

    /// Returns about how many bytes of memory the actor takes.
    pub(super) const fn weight(&self) -> usize {
        size_of::<Self>().saturating_add(self.issuer.len()).saturating_add(self.subject.len())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{evidence::peer::PeerEvidence, identity::SpiffeId};

    fn read_act(act: &Value) -> Result<Vec<Actor>, ClaimsError> {
        let Value::Object(claims) = json!({"iss": "https://login.example/", "act": act}) else {
            panic!()
        };
        read(&claims)
    }

    fn actor(subject: &str) -> Actor {
        Actor { issuer: "https://login.example/".to_owned(), subject: subject.to_owned() }
    }

    /// `depth` actors, one in the other.
    fn nested(depth: usize) -> Value {
        (1..depth).fold(json!({"sub": "a"}), |inner, _| json!({"sub": "a", "act": inner}))
    }

    #[test]
    fn the_current_actor_comes_first_and_its_issuer_is_the_tokens_unless_it_says() {
        let act = json!({"sub": "web", "act": {"sub": "app", "iss": "https://other.example"}});
        let other = Actor { issuer: "https://other.example".to_owned(), subject: "app".to_owned() };
        assert_eq!(read_act(&act).unwrap(), [actor("web"), other]);
    }

    #[test]
    fn what_does_not_say_who_acts_is_ignored() {
        let act = json!({
            "sub": "web", "exp": 0, "nbf": "never", "aud": [1], "scope": {"a": 1}, "cnf": 7,
            "may_act": {"sub": "admin"},
        });
        assert_eq!(read_act(&act).unwrap(), [actor("web")]);
    }

    #[test]
    fn may_act_is_no_delegation() {
        let Value::Object(claims) = json!({"iss": "i", "may_act": {"sub": "admin"}}) else {
            panic!()
        };
        assert_eq!(read(&claims).unwrap(), []);
    }

    #[test]
    fn actors_of_another_type_and_without_a_subject_are_refused_at_every_depth() {
        for act in [
            json!(null),
            json!("web"),
            json!(["web"]),
            json!([]),
            json!(1),
            json!(true),
            json!({}),
            json!({"iss": "https://other.example"}),
            json!({"sub": ""}),
            json!({"sub": null}),
            json!({"sub": ["web"]}),
            json!({"sub": "web", "iss": ""}),
            json!({"sub": "web", "iss": null}),
            json!({"sub": "web", "iss": 1}),
        ] {
            assert_eq!(read_act(&act), Err(ClaimsError::Invalid("act")), "{act}");
            let inner = json!({"sub": "web", "act": act});
            assert_eq!(read_act(&inner), Err(ClaimsError::Invalid("act")), "{act}");
        }
    }

    #[test]
    fn the_chain_is_bounded() {
        assert_eq!(read_act(&nested(MAX_ACTORS)).unwrap().len(), MAX_ACTORS);
        assert_eq!(read_act(&nested(MAX_ACTORS + 1)), Err(ClaimsError::Invalid("act")));
    }

    #[test]
    fn an_actor_that_is_a_workload_is_the_peer() {
        const WEB: &str = "spiffe://prod.example/ns/checkout/sa/web";
        let evidence = PeerEvidence {
            spiffe: None,
            spiffe_untold: false,
            dns: vec![],
            thumbprint: None,
            certificate: None,
        };
        let peer = |id: Option<&'static str>| {
            let spiffe = id.map(|id| SpiffeId::parse(id).unwrap());
            Proof::Proven(Peer { spiffe, thumbprint: None, evidence: &evidence })
        };
        let check =
            |subject: &str, peer| check_peer(&[actor(subject), actor("spiffe://x/y")], &peer);
        assert_eq!(check(WEB, peer(Some(WEB))), Ok(()));
        for subject in [
            "spiffe://prod.example/ns/checkout/sa/web2",
            "spiffe://prod.example/ns/checkout/sa/web/",
            "SPIFFE://prod.example/ns/checkout/sa/web",
            " spiffe://prod.example/ns/checkout/sa/web",
            "spiffe:",
            "spiffe://",
        ] {
            assert_eq!(check(subject, peer(Some(WEB))), Err(ActorNotPeer), "{subject}");
        }
        assert_eq!(check(WEB, peer(None)), Err(ActorNotPeer));
        assert_eq!(check(WEB, Proof::Absent), Err(ActorNotPeer));
        let expired = Proof::Unproven(Reason::PeerCertificateExpired);
        assert_eq!(check(WEB, expired), Err(ActorNotPeer));
        assert_eq!(check("checkout", Proof::Absent), Ok(()));
        assert_eq!(check_peer(&[], &Proof::Absent), Ok(()));
    }
}
