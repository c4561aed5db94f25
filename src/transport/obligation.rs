//! What an allow depends on being done, and what a denial asks the client to do: everything about DPoP
//! that comes after the decision.

use crate::{
    clock::UnixTime,
    credential::{
        Principal, Proof,
        dpop::replay::{CheckId, ReplayError, Use},
    },
    evidence::{Evidence, authorization::Credentials},
    policy::{Denial, Obligation, Permit, upstream::HeaderChanges},
    reason::Reason,
    response::{Challenge, Refusal},
    transport::{Check, Context},
};

/// What is known of a check that was decided.
#[derive(Clone, Copy)]
pub(super) struct Known<'a> {
    pub(super) evidence: &'a Evidence<'a>,
    pub(super) principal: &'a Principal<'a>,
    /// As it came.
    pub(super) message: &'a [u8],
    pub(super) now: UnixTime,
}

impl Check<'_> {
    /// Does what an allow depends on: first what may fail without a trace, last what uses a proof up.
    pub(super) fn allow<'k, 's: 'k>(
        &'k self,
        permit: &Permit<'s>,
        known: Known<'k>,
    ) -> Result<HeaderChanges<'k>, Denial<'s>> {
        let Known { evidence, principal, .. } = known;
        let mut changes = permit.upstream(evidence, principal, self.id.as_str())?;
        if let Some(obligation) = permit.obligation(principal) {
            self.meet(obligation, known).map_err(|reason| permit.denied(reason))?;
            if obligation.nonce {
                changes.nonce = self.context.nonce(known);
            }
        }
        Ok(changes)
    }

    /// Uses the proof up, unless the rule leaves that to others.
    fn meet(&self, obligation: Obligation<'_>, known: Known<'_>) -> Result<(), Reason> {
        if !obligation.consume {
            return Ok(());
        }
        let check = CheckId::new(self.caller, known.evidence.request_id, known.message);
        let used = Use { proof: obligation.proof, check };
        match self.context.replay.consume(used, known.now) {
            Ok(()) => Ok(()),
            // A client that knows nonces mends this with a fresh one.
            Err(ReplayError::BeforeStart) if obligation.nonce => Err(Reason::DpopNonceInvalid),
            Err(error) => Err(error.into()),
        }
    }
}

impl Context {
    /// Returns a nonce for the client whose token this is.
    pub(super) fn nonce(&self, known: Known<'_>) -> Option<String> {
        let Proof::Proven(bound) = &known.principal.token else { return None };
        self.proofs.nonces().issue(bound.token.confirmation.key?, known.now)
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
                step_up: denial.step_up(),
            },
        }
    }
}

#[cfg(test)]
mod tests;
