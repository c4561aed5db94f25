//! What an allow depends on being done, and what a denial asks the client to do: everything about DPoP
//! that comes after the decision.

use crate::{
    clock::UnixTime,
    credential::{
        Principal, Proof,
        dpop::replay::{CheckId, ReplayError, Use},
    },
    evidence::{Evidence, authorization::Credentials},
    policy::{Denial, Obligation},
    reason::Reason,
    response::{Challenge, Refusal},
    transport::Context,
};

impl Context {
    /// Uses the proof up, unless the rule leaves that to others.
    ///
    /// # Errors
    /// The reason of the denial that takes the place of the allow.
    pub(super) async fn meet(
        &self,
        obligation: Obligation<'_>,
        check: Option<CheckId>,
        now: UnixTime,
    ) -> Result<(), Reason> {
        if !obligation.consume {
            return Ok(());
        }
        let used = Use { proof: obligation.proof, check };
        match self.replay.consume(used, now).await {
            Ok(()) => Ok(()),
            // A client that knows nonces mends this with a fresh one.
            Err(ReplayError::BeforeStart) if obligation.nonce => Err(Reason::DpopNonceInvalid),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns a nonce for the client whose token this is.
    pub(super) fn nonce(&self, principal: &Principal<'_>, now: UnixTime) -> Option<String> {
        let Proof::Proven(bound) = &principal.token else { return None };
        self.proofs.nonces().issue(bound.token.confirmation.key?, now)
    }

    /// Returns a denial as the client gets it. `nonce` keeps one that goes with it.
    pub(super) fn refusal<'a>(
        &'a self,
        denial: &Denial<'a>,
        evidence: &Evidence<'_>,
        nonce: Option<&'a str>,
    ) -> Refusal<'a> {
        let http = evidence.http();
        let used = match evidence.credentials() {
            Credentials::Token { scheme, .. } => Some(scheme),
            Credentials::Absent | Credentials::Unusable(_) => None,
        };
        Refusal {
            reason: denial.reason,
            rule: denial.rule.map(|rule| &*rule.id),
            scopes: denial.scopes(),
            grpc: http.is_some_and(|http| http.grpc),
            challenge: Challenge {
                used,
                offer: Some(denial.offer(http.map_or("", |http| &*http.host))),
                algorithms: self.proofs.offered(),
                nonce,
            },
        }
    }
}
