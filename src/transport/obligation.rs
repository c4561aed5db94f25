//! What an allow depends on being done, and what a denial asks the client to do: everything about DPoP
//! that comes after the decision.

use crate::{
    clock::UnixTime,
    credential::{
        Principal, Proof,
        dpop::replay::{
            CheckId, Recording, ReplayError, Use, UsedAs,
            redis::{Pending, RedisStore},
        },
    },
    evidence::{Evidence, authorization::Credentials},
    identity::SpiffeId,
    policy::{Denial, Obligation, Permit, upstream::HeaderChanges},
    reason::Reason,
    response::{Challenge, Refusal},
    telemetry::sink::QueueFull,
    transport::{Check, Context, Facts},
};

/// What is known of a check that was decided.
#[derive(Clone, Copy)]
pub(super) struct Known<'a> {
    pub(super) evidence: &'a Evidence<'a>,
    pub(super) principal: &'a Principal<'a>,
    /// As it came.
    pub(super) message: &'a [u8],
    pub(super) now: UnixTime,
    /// What became of the use of the proof, where it was waited for.
    pub(super) recorded: Option<Recorded>,
}

/// A use that was waited for.
#[derive(Clone, Copy)]
pub(super) struct Recorded {
    pub(super) pending: Pending,
    pub(super) result: Result<(), ReplayError>,
}

/// Why an allow cannot be given, or not yet.
pub(super) enum Unmet<'s, 'c> {
    Denied(Denial<'s>),
    /// The proof's use has to be recorded there first.
    Waits(&'c RedisStore, Pending),
}

/// As [`Unmet`], before the rule is named.
enum Obstacle<'c> {
    Reason(Reason),
    Waits(&'c RedisStore, Pending),
}

impl<'c> Check<'c> {
    /// Does what an allow depends on: first what may fail without a trace, last what uses a proof up.
    pub(super) fn allow<'k, 's: 'k>(
        &'k self,
        permit: &Permit<'s>,
        known: Known<'k>,
        facts: Facts<'_>,
    ) -> Result<HeaderChanges<'k>, Unmet<'s, 'c>> {
        let Known { evidence, principal, .. } = known;
        let changes = permit.upstream(evidence, principal, self.id.as_str());
        let mut changes = changes.map_err(Unmet::Denied)?;
        let caller = self.caller.and_then(|caller| SpiffeId::parse(caller).ok());
        if let Some(obligation) = permit.obligation(principal, caller) {
            self.keep_room(obligation, permit, known, facts).map_err(Unmet::Denied)?;
            self.meet(obligation, known).map_err(|obstacle| match obstacle {
                Obstacle::Reason(reason) => Unmet::Denied(permit.denied(reason)),
                Obstacle::Waits(store, pending) => Unmet::Waits(store, pending),
            })?;
            if obligation.nonce {
                changes.nonce = self.context.nonce(known);
            }
        }
        Ok(changes)
    }

    /// Sees to it that the record finds room, before a proof is used up for a check that is denied without.
    fn keep_room<'s>(
        &self,
        obligation: Obligation,
        permit: &Permit<'s>,
        known: Known<'_>,
        facts: Facts<'_>,
    ) -> Result<(), Denial<'s>> {
        if obligation.consume.is_none() || self.room.get().is_some() {
            return Ok(());
        }
        let time = (known.now, self.arrived.elapsed());
        let record = self.record(time, Reason::Allowed, Some(&permit.rule().id), facts);
        match self.context.records.reserve(&record) {
            Ok(None) => Ok(()),
            // Nobody else sets it: a check is one at a time.
            Ok(Some(room)) => self.room.set(room).or(Ok(())),
            Err(QueueFull) => Err(permit.denied(Reason::RecordUnavailable)),
        }
    }

    /// Uses the proof up, unless the rule leaves that to others.
    fn meet(&self, obligation: Obligation, known: Known<'_>) -> Result<(), Obstacle<'c>> {
        let Some(proof) = obligation.consume else { return Ok(()) };
        let check = CheckId::new(self.caller, known.evidence.request_id, known.message);
        let used = Use { proof, check };
        let result = match self.context.replay.consume(used, known.now) {
            Recording::Done(result) => result,
            Recording::Waits(store, pending) => match known.recorded {
                None => return Err(Obstacle::Waits(store, pending)),
                Some(recorded) if recorded.pending == pending => recorded.result,
                // Another use than the one that was recorded proves nothing.
                Some(_) => Err(ReplayError::Unavailable),
            },
        };
        result.map_err(|error| {
            Obstacle::Reason(match (error, proof.used_as) {
                // A client that knows nonces mends this with a fresh one.
                (ReplayError::BeforeStart, UsedAs::DpopProof) if obligation.nonce => {
                    Reason::DpopNonceInvalid
                }
                (ReplayError::Replayed, UsedAs::WorkloadProof) => Reason::WptReplayed,
                (ReplayError::BeforeStart, UsedAs::WorkloadProof) => Reason::WptBeforeStart,
                (ReplayError::Replayed | ReplayError::BeforeStart, UsedAs::DpopProof)
                | (ReplayError::Full | ReplayError::Unavailable, _) => error.into(),
            })
        })
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
                resource_metadata: denial.resource_metadata(),
            },
        }
    }
}

#[cfg(test)]
mod tests;
