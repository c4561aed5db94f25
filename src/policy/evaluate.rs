//! Whether one rule holds for one principal.
//!
//! Absent is known, unproven is not: a deny rule does not match what was not presented, and matches what
//! was presented and could not be verified; an allow rule fails on both.

use crate::{
    credential::{
        BoundToken, Peer, Principal, Proof,
        binding::Binding,
        dpop::{PresentedNonce, VerifiedProof},
        workload::ProvenWorkload,
    },
    policy::{
        decision::{Offer, Verdict},
        document::{Effect, NonceMode},
        rule::{Bindings, FromPart, NamedIssuer, Rule, TokenPart, WorkloadPart},
        scope,
    },
    reason::Reason,
};

impl Rule {
    /// Asks the rule, of which workload, host and `to` match already. `host` is that of the request; empty
    /// for a TCP check.
    pub(in crate::policy) fn ask(&self, principal: &Principal<'_>, host: &str) -> Verdict {
        match self.effect {
            Effect::Allow => match self.allows(principal, host) {
                Ok(()) => Verdict::Allows { verified_token: self.token.is_some() },
                Err(reason) => Verdict::Fails(reason),
            },
            Effect::Deny => self.denies(principal),
        }
    }

    /// Returns the issuers that the rule has asked about opaque tokens, unless its `from` part settles it for
    /// this peer already.
    pub(in crate::policy) fn opaque_issuers(
        &self,
        principal: &Principal<'_>,
    ) -> impl Iterator<Item = &str> {
        // Few rules take any: the rest is not looked at for others.
        let token = self.token.as_ref().filter(|token| token.takes_opaque());
        let holds = |from: &FromPart| match (from.matches(principal, self.effect), self.effect) {
            (Match::Yes, _) | (Match::Unproven(_), Effect::Deny) => true,
            (Match::Unproven(_), Effect::Allow) | (Match::No, _) => false,
        };
        let asked = token.filter(|_| self.from.as_ref().is_none_or(holds));
        let issuers = asked.map(|token| &*token.issuers).unwrap_or_default();
        issuers.iter().filter(|issuer| issuer.opaque).map(|issuer| &*issuer.name)
    }

    /// The parts in their order, so that what is wrong with the peer is said before what is wrong with
    /// the token.
    fn allows(&self, principal: &Principal<'_>, host: &str) -> Result<(), Reason> {
        if let Some(from) = &self.from {
            from.accepts(principal, host)?;
        }
        if let Some(token) = &self.token {
            match &principal.token {
                Proof::Absent => return Err(Reason::TokenAbsent),
                Proof::Unproven(reason) => return Err(*reason),
                Proof::Proven(bound) => token.accepts(bound, host)?,
            }
        }
        Ok(())
    }

    fn denies(&self, principal: &Principal<'_>) -> Verdict {
        let from = match &self.from {
            None => Match::Yes,
            Some(from) => from.matches(principal, Effect::Deny),
        };
        let token = match (&self.token, &principal.token) {
            (None, _) => Match::Yes,
            (Some(_), Proof::Absent) => Match::No,
            (Some(_), Proof::Unproven(reason)) => Match::Unproven(*reason),
            (Some(token), Proof::Proven(bound)) => token.matches(bound),
        };
        match from.and(token) {
            Match::No => Verdict::NotMatched,
            Match::Unproven(reason) => Verdict::DeniesUnproven(reason),
            Match::Yes => Verdict::Denies,
        }
    }

    /// Returns whether it asks for a workload identity token.
    pub(in crate::policy) fn asks_workload(&self) -> bool {
        self.from.as_ref().is_some_and(|from| from.wimse.is_some())
    }
}

/// Whether a part of a deny rule matches.
enum Match {
    Yes,
    No,
    /// It cannot be known, for this reason, and so it does.
    Unproven(Reason),
}

impl Match {
    const fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::No, _) | (_, Self::No) => Self::No,
            (Self::Unproven(reason), _) | (_, Self::Unproven(reason)) => Self::Unproven(reason),
            (Self::Yes, Self::Yes) => Self::Yes,
        }
    }
}

impl FromPart {
    /// Says whether an allow rule accepts who calls.
    fn accepts(&self, principal: &Principal<'_>, host: &str) -> Result<(), Reason> {
        if self.asks_peer() {
            match &principal.peer {
                Proof::Absent => return Err(Reason::PeerAbsent),
                Proof::Unproven(reason) => return Err(*reason),
                Proof::Proven(peer) if !self.names(peer, Effect::Allow) => {
                    return Err(Reason::PeerNotAllowed);
                }
                Proof::Proven(_) => {}
            }
        }
        match (&self.wimse, &principal.workload) {
            (None, _) => Ok(()),
            (Some(_), Proof::Absent) => Err(Reason::WitAbsent),
            (Some(_), Proof::Unproven(reason)) => Err(*reason),
            (Some(wimse), Proof::Proven(workload)) => wimse.accepts(workload, host),
        }
    }

    /// Says how far the fields match, `effect` being the rule's. Where a proof leads is not looked at: the
    /// allow rule that decides does.
    fn matches(&self, principal: &Principal<'_>, effect: Effect) -> Match {
        let peer = match &principal.peer {
            _ if !self.asks_peer() => Match::Yes,
            Proof::Unproven(reason) => Match::Unproven(*reason),
            Proof::Proven(peer) if self.names(peer, effect) => Match::Yes,
            Proof::Proven(_) | Proof::Absent => Match::No,
        };
        let workload = match (&self.wimse, &principal.workload) {
            (None, _) => Match::Yes,
            (Some(_), Proof::Unproven(reason)) => Match::Unproven(*reason),
            (Some(wimse), Proof::Proven(workload)) if wimse.names(workload) => Match::Yes,
            (Some(_), Proof::Proven(_) | Proof::Absent) => Match::No,
        };
        peer.and(workload)
    }

    const fn asks_peer(&self) -> bool {
        self.spiffe.is_some() || self.dns.is_some() || self.thumbprints.is_some()
    }

    /// Says whether all fields name the peer.
    ///
    /// A peer whose certificate has a thumbprint that was not forwarded is named by no allow rule's
    /// thumbprints and by every deny rule's: it has one, only which is not known. The same holds for a
    /// SPIFFE ID that was not forwarded where there may be one. DNS names that were not
    /// forwarded cannot be told from there being none, and match nothing.
    fn names(&self, peer: &Peer<'_>, effect: Effect) -> bool {
        let spiffe = self.spiffe.as_deref().is_none_or(|patterns| match peer.spiffe {
            Some(id) => patterns.iter().any(|pattern| pattern.matches(id)),
            None => effect == Effect::Deny && peer.evidence.spiffe_untold,
        });
        let dns = self.dns.as_deref().is_none_or(|names| {
            let is_named = |san: &str| names.iter().any(|name| name.eq_ignore_ascii_case(san));
            let certificate = peer.evidence.certificate.as_deref();
            peer.evidence.dns.iter().any(|san| is_named(san))
                || certificate.is_some_and(|c| c.dns().iter().any(|san| is_named(san)))
        });
        let thumbprint =
            self.thumbprints.as_deref().is_none_or(|thumbprints| match &peer.thumbprint {
                Some(thumbprint) => thumbprints.contains(thumbprint),
                None => effect == Effect::Deny,
            });
        spiffe && dns && thumbprint
    }
}

impl WorkloadPart {
    fn names(&self, workload: &ProvenWorkload) -> bool {
        let id = workload.spiffe();
        id.is_some_and(|id| self.spiffe.iter().any(|pattern| pattern.matches(id)))
    }

    fn accepts(&self, workload: &ProvenWorkload, host: &str) -> Result<(), Reason> {
        let origin = self.origins.as_ref().and_then(|origins| origins.of(host));
        if origin != Some(&workload.origin) {
            return Err(Reason::WptAudience);
        }
        if self.names(workload) { Ok(()) } else { Err(Reason::WorkloadNotAllowed) }
    }
}

impl TokenPart {
    /// Says whether an allow rule accepts the token.
    fn accepts(&self, bound: &BoundToken, host: &str) -> Result<(), Reason> {
        let issuer = self.issuer(bound).ok_or(Reason::TokenIssuerNotAllowed)?;
        if !issuer.is_audience_of(bound) {
            return Err(Reason::TokenAudience);
        }
        let listed = self.bindings();
        // A token whose binding is proven also satisfies `none`, so that an issuer may begin to bind.
        if !(listed.none || listed.has(bound.binding)) {
            return Err(if bound.binding.is_none() {
                Reason::TokenUnbound
            } else {
                Reason::BindingNotAllowed
            });
        }
        if bound.binding.dpop {
            // A proof that is not there proves nothing.
            let proof = bound.proof.as_deref().ok_or(Reason::DpopProofMissing)?;
            self.accepts_proof(proof, host)?;
        }
        // Whoever is not meant, or may not act here, is told nothing of what else would be needed.
        if !self.names_subject(bound) {
            return Err(Reason::SubjectNotAllowed);
        }
        if let Some(actor) = &self.actor {
            actor.accepts(&bound.token)?;
        }
        let required = self.scopes.as_deref().unwrap_or_default();
        let holds = |required: &str| scope::satisfies(issuer.grammar, scopes(bound), required);
        if !required.iter().all(|required| holds(required)) {
            return Err(Reason::ScopeMissing);
        }
        // Last: RFC 9470 §3 is for tokens that are good but for this.
        self.step_up.as_ref().map_or(Ok(()), |step_up| {
            step_up.accepts(bound.token.authentication_class(), bound.authentication_age)
        })
    }

    /// RFC 8705 §3 or RFC 9449 §6 unless the rule says otherwise.
    fn bindings(&self) -> Bindings {
        self.binding.unwrap_or(Bindings { certificate: true, dpop: true, none: false })
    }

    /// Returns which credentials are taken in a request to `host`.
    pub(in crate::policy) fn offer(&self, host: &str) -> Offer {
        let listed = self.bindings();
        let has_origin = self.origins.as_ref().is_some_and(|origins| origins.of(host).is_some());
        let bearer = listed.certificate || listed.none;
        // What satisfies `none` besides unbound tokens.
        Offer { bearer, dpop: has_origin && (listed.dpop || listed.none) }
    }

    /// Judges what is left to the rule of RFC 9449 §4.3: the origin of step 9, and steps 10 and 11.
    fn accepts_proof(&self, proof: &VerifiedProof, host: &str) -> Result<(), Reason> {
        let origins = self.origins.as_ref().ok_or(Reason::DpopOriginUnknown)?;
        let origin = origins.of(host).ok_or(Reason::DpopOriginUnknown)?;
        if *origin != proof.origin {
            return Err(Reason::DpopProofUri);
        }
        match (self.nonce, proof.nonce) {
            // The server's word on the time replaces the client's (§4.3, step 11).
            (NonceMode::On | NonceMode::Required, PresentedNonce::Valid(_)) => Ok(()),
            (NonceMode::On | NonceMode::Required, PresentedNonce::Invalid) => {
                Err(Reason::DpopNonceInvalid)
            }
            (NonceMode::Required, PresentedNonce::Absent) => Err(Reason::DpopNonceRequired),
            (NonceMode::On, PresentedNonce::Absent) | (NonceMode::Off, _) if proof.is_recent => {
                Ok(())
            }
            (NonceMode::On, PresentedNonce::Absent) | (NonceMode::Off, _) => {
                Err(Reason::DpopProofTime)
            }
        }
    }

    /// Says whether a deny rule matches the token.
    ///
    /// A proof's origin and time are not looked at: the allow rule that decides does, and what the token
    /// itself says holds wherever its proof leads.
    fn matches(&self, bound: &BoundToken) -> Match {
        let Some(issuer) = self.issuer(bound) else { return Match::No };
        if !issuer.is_audience_of(bound) {
            return Match::Unproven(Reason::TokenAudience);
        }
        let binding = self.binding.is_none_or(|listed| {
            listed.has(bound.binding) || (listed.none && bound.binding.is_none())
        });
        let overlaps = |named: &str| scope::overlaps(issuer.grammar, scopes(bound), named);
        let scopes =
            self.scopes.as_deref().is_none_or(|named| named.iter().any(|named| overlaps(named)));
        let actor = self.actor.as_ref().is_none_or(|actor| actor.matches(&bound.token));
        if binding && scopes && actor && self.names_subject(bound) { Match::Yes } else { Match::No }
    }

    /// Says whether the token is one of those whose `sub` the rule names, if it names any. A token without
    /// `sub` is nobody's.
    fn names_subject(&self, bound: &BoundToken) -> bool {
        let subject = bound.token.subject.as_deref();
        self.subjects.as_deref().is_none_or(|names| {
            subject.is_some_and(|subject| names.iter().any(|name| name.names(subject)))
        })
    }

    /// Says whether any of its issuers is asked about opaque tokens.
    pub(in crate::policy) fn takes_opaque(&self) -> bool {
        self.issuers.iter().any(|issuer| issuer.opaque)
    }

    fn issuer(&self, bound: &BoundToken) -> Option<&NamedIssuer> {
        self.issuers.iter().find(|issuer| *issuer.name == *bound.token.issuer)
    }
}

impl NamedIssuer {
    fn is_audience_of(&self, bound: &BoundToken) -> bool {
        bound.token.audiences.iter().any(|given| self.audiences.iter().any(|own| **own == **given))
    }
}

impl Bindings {
    const fn has(self, binding: Binding) -> bool {
        (self.certificate && binding.certificate) || (self.dpop && binding.dpop)
    }
}

fn scopes(bound: &BoundToken) -> impl Iterator<Item = &str> {
    bound.token.scopes.iter().map(String::as_str)
}
