//! What is decided: [`Decision`], with a [`Permit`] that only this module can make.

use crate::{
    credential::{Principal, Proof, dpop::replay::ProofUse},
    evidence::Evidence,
    identity::SpiffeId,
    policy::{
        StepUp,
        candidates::{Candidate, Candidates},
        document::NonceMode,
        index::PolicySet,
        rule::Rule,
        upstream::Ownership,
    },
    reason::Reason,
};

/// The decision of one check.
#[derive(Debug)]
pub enum Decision<'s> {
    /// A rule allows.
    Allow(Permit<'s>),
    /// Nothing allows, or something denies.
    Deny(Denial<'s>),
}

/// The evidence that a rule allowed: without one no allowing response can be built.
#[derive(Debug)]
pub struct Permit<'s> {
    rule: &'s Rule,
    verified_token: bool,
    ownership: &'s Ownership,
    _sealed: (),
}

impl<'s> Permit<'s> {
    /// Returns the deciding rule.
    #[must_use]
    pub const fn rule(&self) -> &'s Rule {
        self.rule
    }

    /// Returns whether the deciding rule verified a token.
    #[must_use]
    pub const fn verified_token(&self) -> bool {
        self.verified_token
    }

    /// Returns what the allow depends on being done with the proofs that the deciding rule verified, in a
    /// check that `caller` asks; `None` where it verified none.
    ///
    /// One proof is used up, never two, so that a check that is denied for the second has not used the first.
    /// Of a DPoP proof and a workload's it is the former: the latter is for the same access token (`ath`), whose
    /// every use takes a fresh DPoP proof. Where the rule leaves the DPoP proof to others, it is the latter.
    #[must_use]
    pub fn obligation(
        &self,
        principal: &Principal<'_>,
        caller: Option<SpiffeId<'_>>,
    ) -> Option<Obligation> {
        let workload = match &principal.workload {
            Proof::Proven(workload) if self.rule.asks_workload() => Some(workload.proof),
            Proof::Proven(_) | Proof::Unproven(_) | Proof::Absent => None,
        };
        let token = self.rule.token.as_ref().filter(|_| self.verified_token);
        let dpop = token.and_then(|token| {
            let Proof::Proven(bound) = &principal.token else { return None };
            let proof = bound.proof.as_deref()?.as_used();
            let own = token.replay.consumes(caller).then_some(proof);
            Some(Obligation { consume: own.or(workload), nonce: token.nonce != NonceMode::Off })
        });
        dpop.or_else(|| workload.map(|proof| Obligation { consume: Some(proof), nonce: false }))
    }

    /// Returns the denial that takes the place of an allow whose obligation could not be met.
    #[must_use]
    pub const fn denied(&self, reason: Reason) -> Denial<'s> {
        Denial { reason, rule: Some(self.rule) }
    }

    pub(in crate::policy) const fn ownership(&self) -> &'s Ownership {
        self.ownership
    }
}

/// What an allow depends on being done.
#[derive(Clone, Copy, Debug)]
pub struct Obligation {
    /// The proof that is used up by this check, if one is.
    pub consume: Option<ProofUse>,
    /// Whether the client is given a fresh nonce.
    pub nonce: bool,
}

/// Which credentials a rule takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Tokens with the Bearer scheme: bound to a certificate, or unbound.
    pub bearer: bool,
    /// Tokens with the DPoP scheme.
    pub dpop: bool,
}

/// A denial.
#[derive(Clone, Copy, Debug)]
pub struct Denial<'s> {
    /// Why.
    pub reason: Reason,
    /// The rule that denied, or came closest to allowing.
    pub rule: Option<&'s Rule>,
}

impl<'s> Denial<'s> {
    /// Returns which credentials the rule would take in a request to `host`, for the challenge.
    #[must_use]
    pub fn offer(&self, host: &str) -> Offer {
        let token = self.rule.and_then(|rule| rule.token.as_ref());
        token.map_or(Offer { bearer: true, dpop: false }, |token| token.offer(host))
    }

    /// Returns the scopes that a challenge may name (RFC 6750 §3): those of the rule, where nothing but
    /// scopes was missing; else none, as they would tell a stranger about the policy.
    #[must_use]
    pub fn scopes(&self) -> &'s [Box<str>] {
        let token = match (self.reason == Reason::ScopeMissing, self.rule) {
            (true, Some(rule)) => rule.token.as_ref(),
            (true, None) | (false, _) => None,
        };
        token.and_then(|token| token.scopes.as_deref()).unwrap_or_default()
    }

    /// Returns where the service's metadata is (RFC 9728 §5.1), as its policy says.
    #[must_use]
    pub fn resource_metadata(&self) -> Option<&'s str> {
        self.rule?.token.as_ref()?.resource_metadata.as_deref()
    }

    /// Returns what a challenge says of the user's authentication (RFC 9470 §3): all that the rule asks of
    /// it, where nothing else was missing.
    #[must_use]
    pub fn step_up(&self) -> Option<&'s StepUp> {
        let is_missing =
            matches!(self.reason, Reason::AuthenticationTooWeak | Reason::AuthenticationTooOld);
        self.rule.filter(|_| is_missing)?.token.as_ref()?.step_up.as_ref()
    }
}

/// How one rule came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// An allow rule holds.
    Allows {
        /// It has a `token` part, which holds.
        verified_token: bool,
    },
    /// An allow rule fails.
    Fails(Reason),
    /// A deny rule matches.
    Denies,
    /// A deny rule matches, because what was presented could not be verified.
    DeniesUnproven(Reason),
    /// A deny rule does not match.
    NotMatched,
}

/// Sees each rule that is asked, and how it came out. `()` does not look.
pub trait Observer {
    /// A rule was asked.
    fn asked(&mut self, rule: &Rule, verdict: Verdict);
}

impl Observer for () {
    fn asked(&mut self, _: &Rule, _: Verdict) {}
}

impl PolicySet {
    /// Decides, from the candidates and what of the principal is proven.
    ///
    /// A deny rule that matches wins. Of several, one that matches for certain gives the reason
    /// (`explicit_deny`) before any that matches what is unproven, since nothing the caller mends would
    /// help; of those, and of allow rules that fail, the one that came furthest does.
    ///
    /// Does not verify: `principal` must hold what [`Candidates::needs`] asks for.
    pub fn decide<'s>(
        &'s self,
        candidates: &Candidates<'s>,
        evidence: &Evidence<'_>,
        principal: &Principal<'_>,
        observer: &mut impl Observer,
    ) -> Decision<'s> {
        if candidates.is_ambiguous() {
            return Decision::Deny(Denial { reason: Reason::AmbiguousPath, rule: None });
        }
        let host = evidence.http().map_or("", |http| &*http.host);
        let mut denied = None;
        let mut allowed = None;
        let mut failed = None;
        for candidate in candidates.iter() {
            let verdict = candidate.rule.ask(principal, host);
            observer.asked(candidate.rule, verdict);
            let standing = |reason, verified| Standing { candidate: *candidate, reason, verified };
            match verdict {
                Verdict::Allows { verified_token } => {
                    Standing::keep(&mut allowed, standing(Reason::Allowed, verified_token));
                }
                Verdict::Fails(reason) => Standing::keep(&mut failed, standing(reason, false)),
                // `explicit_deny` is of the last stage, `Held`, and so comes before what is unproven.
                Verdict::Denies => {
                    Standing::keep(&mut denied, standing(Reason::ExplicitDeny, false));
                }
                Verdict::DeniesUnproven(reason) => {
                    Standing::keep(&mut denied, standing(reason, false));
                }
                Verdict::NotMatched => {}
            }
        }
        match (denied, allowed, failed) {
            (Some(standing), _, _) | (None, None, Some(standing)) => Decision::Deny(Denial {
                reason: standing.reason,
                rule: Some(standing.candidate.rule),
            }),
            (None, Some(standing), _) => Decision::Allow(Permit {
                rule: standing.candidate.rule,
                verified_token: standing.verified,
                ownership: self.ownership(),
                _sealed: (),
            }),
            (None, None, None) => {
                Decision::Deny(Denial { reason: Reason::NoMatchingRule, rule: None })
            }
        }
    }
}

/// A rule that was asked, among others that came out alike.
#[derive(Clone, Copy, Debug)]
struct Standing<'s> {
    candidate: Candidate<'s>,
    reason: Reason,
    verified: bool,
}

impl Standing<'_> {
    /// Keeps the one that came furthest; of those that came equally far, the most specific.
    fn keep(best: &mut Option<Self>, new: Self) {
        let wins = best.as_ref().is_none_or(|best| {
            (new.reason.stage().cmp(&best.reason.stage()))
                .then_with(|| new.candidate.rank(new.verified, &best.candidate, best.verified))
                .is_gt()
        });
        if wins {
            *best = Some(new);
        }
    }
}
