//! The closed set of reasons: why a check was allowed or denied.
//!
//! A reason's code is the metric label, the decision record's field and the key of the HTTP answer.
//! Codes are stable: dashboards and alerts are built on them.

use std::fmt;

/// How far a rule came before it failed; of several failing rules the one that came furthest gives
/// the denial its reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// The check itself could not be read or answered: no rule was asked.
    Check,
    /// No rule matched host, path, method and workload.
    Route,
    /// The peer.
    Peer,
    /// The access token.
    Token,
    /// The bond between token and caller.
    Binding,
    /// The token's subject, and who acts for it.
    Actor,
    /// The token's scopes.
    Scopes,
    /// How the user authenticated.
    StepUp,
    /// Everything a rule asks held.
    Held,
}

/// What a denial says to the client: the HTTP status and, for credentials, the challenge.
///
/// Coarse on purpose (RFC 6750 §3.1): the reason itself goes to the decision record only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// 400, no challenge: the request could not be read one way.
    BadRequest,
    /// 400 `invalid_request`: more than one credential was presented (RFC 6750 §3.1).
    InvalidRequest,
    /// 401 without an error code: no credential was presented (RFC 6750 §3.1).
    Unauthorized,
    /// 401 `invalid_token`.
    InvalidToken,
    /// 401 `invalid_dpop_proof` (RFC 9449 §7.1).
    InvalidDpopProof,
    /// 401 `use_dpop_nonce`, with a nonce (RFC 9449 §9).
    UseDpopNonce,
    /// 401 `insufficient_user_authentication` (RFC 9470 §3).
    InsufficientAuthentication,
    /// 403 `insufficient_scope`.
    InsufficientScope,
    /// 403, no challenge.
    Forbidden,
    /// 413.
    TooLarge,
    /// 431.
    HeadersTooLarge,
    /// 500: our fault.
    Internal,
    /// 503: nobody's decision; trying again may help.
    Unavailable,
}

impl Outcome {
    /// Returns the HTTP status that Envoy answers with.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::BadRequest | Self::InvalidRequest => 400,
            Self::Unauthorized
            | Self::InvalidToken
            | Self::InvalidDpopProof
            | Self::InsufficientAuthentication
            | Self::UseDpopNonce => 401,
            Self::InsufficientScope | Self::Forbidden => 403,
            Self::TooLarge => 413,
            Self::HeadersTooLarge => 431,
            Self::Internal => 500,
            Self::Unavailable => 503,
        }
    }
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $code:literal, $stage:ident, $outcome:ident;)+) => {
        /// Why a check was decided as it was.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Reason {
            /// Every reason, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// Returns the stable code.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $code,)+ }
            }

            /// Returns how far the check came.
            #[must_use]
            pub const fn stage(self) -> Stage {
                match self { $(Self::$variant => Stage::$stage,)+ }
            }

            /// Returns what the client is told.
            #[must_use]
            pub const fn outcome(self) -> Outcome {
                match self { $(Self::$variant => Outcome::$outcome,)+ }
            }

            /// Returns the sentence of the documentation that explains the reason to an operator.
            #[must_use]
            pub const fn description(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+),)+ }
            }
        }
    };
}

reasons! {
    /// A rule allows the call.
    Allowed = "allowed", Held, Forbidden;

    /// The check message could not be decoded or lacks what every check carries.
    MalformedCheck = "malformed_check", Check, BadRequest;
    /// The check message is over the size limit.
    CheckTooLarge = "check_too_large", Check, TooLarge;
    /// The request has more headers, or longer ones, than the limits allow.
    HeadersTooLarge = "headers_too_large", Check, HeadersTooLarge;
    /// A header that decides carries control characters or bytes that are not UTF-8.
    InvalidHeader = "invalid_header", Check, BadRequest;
    /// The host is empty, names several hosts or is not a host name.
    AmbiguousHost = "ambiguous_host", Check, BadRequest;
    /// The path can be read in two ways and no policy of this host opts in to that form.
    AmbiguousPath = "ambiguous_path", Check, BadRequest;
    /// The forwarded peer evidence (XFCC, principal, certificate) cannot be parsed strictly.
    PeerEvidenceMalformed = "peer_evidence_malformed", Check, Forbidden;
    /// The listed sources of peer evidence disagree, or some are there and others are not.
    PeerEvidenceConflict = "peer_evidence_conflict", Check, Forbidden;
    /// Too many checks are in flight.
    Overloaded = "overloaded", Check, Unavailable;
    /// The check could not be decided in time.
    DeadlineExceeded = "deadline_exceeded", Check, Unavailable;
    /// No policy set is loaded yet.
    NoPolicyLoaded = "no_policy_loaded", Check, Unavailable;
    /// The check failed inside symbolon; the log has more.
    InternalError = "internal_error", Check, Internal;
    /// The decision could not be recorded, and the process is configured to deny then.
    RecordUnavailable = "record_unavailable", Check, Unavailable;

    /// No rule matches the workload, host, method and path.
    NoMatchingRule = "no_matching_rule", Route, Forbidden;
    /// A deny rule matches.
    ExplicitDeny = "explicit_deny", Held, Forbidden;

    /// The rule asks for a peer and the call has none.
    PeerAbsent = "peer_absent", Peer, Forbidden;
    /// The peer's SPIFFE ID is of a trust domain that is not declared.
    PeerTrustDomainUnknown = "peer_trust_domain_unknown", Peer, Forbidden;
    /// The peer's certificate is no longer valid.
    PeerCertificateExpired = "peer_certificate_expired", Peer, Forbidden;
    /// The peer's certificate is not valid yet.
    PeerCertificateNotYetValid = "peer_certificate_not_yet_valid", Peer, Forbidden;
    /// The peer's certificate is not a valid X.509-SVID leaf.
    PeerCertificateInvalid = "peer_certificate_invalid", Peer, Forbidden;
    /// The peer is verified and the rule does not name it.
    PeerNotAllowed = "peer_not_allowed", Peer, Forbidden;

    /// The rule asks for a workload identity token and none was presented.
    WitAbsent = "wit_absent", Peer, Forbidden;
    /// What was presented as a workload identity token is not one compact JWS with the claims it must have.
    WitMalformed = "wit_malformed", Peer, BadRequest;
    /// The workload identity token's `typ` is not `wit+jwt`.
    WitType = "wit_type", Peer, BadRequest;
    /// The workload identity token's `alg` is `none`, symmetric or not accepted.
    WitAlgorithm = "wit_algorithm", Peer, BadRequest;
    /// The workload identity token's `sub` is no workload of a trust domain that rules name and that has a bundle.
    WitTrustDomainUnknown = "wit_trust_domain_unknown", Peer, BadRequest;
    /// No key of the trust domain's bundle fits the workload identity token.
    WitKeyUnknown = "wit_key_unknown", Peer, BadRequest;
    /// The bundle of the workload's trust domain could not be fetched, or is older than allowed.
    WitKeysUnavailable = "wit_keys_unavailable", Peer, Unavailable;
    /// The workload identity token's signature does not verify.
    WitSignature = "wit_signature", Peer, BadRequest;
    /// The workload identity token has expired, or is not valid yet.
    WitTime = "wit_time", Peer, BadRequest;
    /// The workload identity token's `cnf.jwk` is missing, private, weak, or has no `alg` that can be used.
    WitConfirmation = "wit_confirmation", Peer, BadRequest;
    /// The workload identity token came without a proof.
    WptMissing = "wpt_missing", Peer, BadRequest;
    /// What was presented as a workload proof is not one compact JWS with the claims it must have.
    WptMalformed = "wpt_malformed", Peer, BadRequest;
    /// The workload proof's `typ` is not `wpt+jwt`.
    WptType = "wpt_type", Peer, BadRequest;
    /// The workload proof's `alg` is not that of the token's key.
    WptAlgorithm = "wpt_algorithm", Peer, BadRequest;
    /// The workload proof's signature is not by the token's key.
    WptSignature = "wpt_signature", Peer, BadRequest;
    /// The workload proof's `aud` is not the service's origin and the request's path.
    WptAudience = "wpt_audience", Peer, BadRequest;
    /// The workload proof has expired, or would be good for too long.
    WptTime = "wpt_time", Peer, BadRequest;
    /// The workload proof is not for this workload identity token and access token, or for others as well.
    WptTokens = "wpt_tokens", Peer, BadRequest;
    /// The workload proof was used before.
    WptReplayed = "wpt_replayed", Peer, BadRequest;
    /// The workload proof may have been used before the store of used proofs began, which does not know.
    WptBeforeStart = "wpt_before_start", Peer, BadRequest;
    /// The workload has proven its identity and the rule does not name it.
    WorkloadNotAllowed = "workload_not_allowed", Peer, Forbidden;

    /// The rule asks for a token and none was presented.
    TokenAbsent = "token_absent", Token, Unauthorized;
    /// More than one credential was presented.
    CredentialsAmbiguous = "credentials_ambiguous", Token, InvalidRequest;
    /// A token was presented in the query.
    TokenInQuery = "token_in_query", Token, InvalidRequest;
    /// The token is over the size limit.
    TokenTooLarge = "token_too_large", Token, InvalidToken;
    /// The token is not a well-formed compact JWS with JSON objects inside, and nobody here takes opaque ones.
    TokenMalformed = "token_malformed", Token, InvalidToken;
    /// The token's `typ` is not one the issuer uses for access tokens.
    TokenType = "token_type", Token, InvalidToken;
    /// The token's `alg` is `none`, symmetric or not allowed for its issuer.
    TokenAlgorithm = "token_algorithm", Token, InvalidToken;
    /// The token's header has `crit`, `b64` or `zip`, none of which is understood.
    TokenCritical = "token_critical", Token, InvalidToken;
    /// No Issuer is declared for the token's `iss`.
    TokenIssuerUnknown = "token_issuer_unknown", Token, InvalidToken;
    /// No key of the issuer fits the token's `kid` and `alg`.
    TokenKeyUnknown = "token_key_unknown", Token, InvalidToken;
    /// The issuer's keys could not be had, or are older than their maximum age.
    IssuerKeysUnavailable = "issuer_keys_unavailable", Token, Unavailable;
    /// The token's signature does not verify.
    TokenSignature = "token_signature", Token, InvalidToken;
    /// A required claim is missing.
    TokenClaimMissing = "token_claim_missing", Token, InvalidToken;
    /// A claim has the wrong type or a value that is out of range.
    TokenClaimInvalid = "token_claim_invalid", Token, InvalidToken;
    /// A claim has not the value that the Issuer requires, or the issuer's own answer contradicts it.
    TokenClaimMismatch = "token_claim_mismatch", Token, InvalidToken;
    /// The token has expired.
    TokenExpired = "token_expired", Token, InvalidToken;
    /// The token is not valid yet.
    TokenNotYetValid = "token_not_yet_valid", Token, InvalidToken;
    /// The token was issued in the future.
    TokenIssuedInFuture = "token_issued_in_future", Token, InvalidToken;
    /// The token's lifetime is longer than the issuer's maximum.
    TokenLifetime = "token_lifetime", Token, InvalidToken;
    /// The token's `aud` names none of the audiences this service is.
    TokenAudience = "token_audience", Token, InvalidToken;
    /// The token's issuer is declared and the rule does not name it.
    TokenIssuerNotAllowed = "token_issuer_not_allowed", Token, InvalidToken;

    /// The issuer, asked about the token, says that it is not active.
    TokenInactive = "token_inactive", Token, InvalidToken;
    /// The issuer could not be asked about the token, or did not answer as it should.
    IntrospectionUnavailable = "introspection_unavailable", Token, Unavailable;

    /// The rule asks for a sender-constrained token and this one is not bound.
    TokenUnbound = "token_unbound", Binding, InvalidToken;
    /// The token's `cnf` is not an object or a member of it has the wrong form.
    ConfirmationMalformed = "confirmation_malformed", Binding, InvalidToken;
    /// The token has a `cnf` and no member of it is understood.
    ConfirmationNotUnderstood = "confirmation_not_understood", Binding, InvalidToken;
    /// The token is bound to a certificate and the call has none.
    CertificateAbsent = "certificate_absent", Binding, InvalidToken;
    /// The token is bound to another certificate.
    CertificateMismatch = "certificate_mismatch", Binding, InvalidToken;
    /// The token is bound to a certificate that is not valid now.
    CertificateNotValid = "certificate_not_valid", Binding, InvalidToken;
    /// The token is bound to a DPoP key and came without a proof.
    DpopProofMissing = "dpop_proof_missing", Binding, InvalidDpopProof;
    /// More than one DPoP proof was presented.
    DpopProofAmbiguous = "dpop_proof_ambiguous", Binding, InvalidDpopProof;
    /// The proof is not a well-formed compact JWS, or lacks a claim or has one of the wrong type.
    DpopProofMalformed = "dpop_proof_malformed", Binding, InvalidDpopProof;
    /// The proof's `typ` is not `dpop+jwt`.
    DpopProofType = "dpop_proof_type", Binding, InvalidDpopProof;
    /// The proof's `alg` is `none`, symmetric or not accepted.
    DpopProofAlgorithm = "dpop_proof_algorithm", Binding, InvalidDpopProof;
    /// The proof's `jwk` is private, weak, not canonical, or of another algorithm.
    DpopProofKey = "dpop_proof_key", Binding, InvalidDpopProof;
    /// The proof's signature does not verify.
    DpopProofSignature = "dpop_proof_signature", Binding, InvalidDpopProof;
    /// The proof's `htm` is not the request's method.
    DpopProofMethod = "dpop_proof_method", Binding, InvalidDpopProof;
    /// The proof's `htu` is not the service's origin and the request's path.
    DpopProofUri = "dpop_proof_uri", Binding, InvalidDpopProof;
    /// The proof's `ath` is missing or not the hash of this token.
    DpopProofToken = "dpop_proof_token", Binding, InvalidDpopProof;
    /// The proof was made too long ago or in the future.
    DpopProofTime = "dpop_proof_time", Binding, InvalidDpopProof;
    /// The proof was made before the store of used proofs began, which does not know whether it was used.
    DpopProofBeforeStart = "dpop_proof_before_start", Binding, InvalidDpopProof;
    /// The proof is valid and made with another key than the token is bound to.
    DpopKeyMismatch = "dpop_key_mismatch", Binding, InvalidToken;
    /// The token is bound to a DPoP key and no origin of this host is configured.
    DpopOriginUnknown = "dpop_origin_unknown", Binding, InvalidToken;
    /// The rule asks for a nonce and the proof has none.
    DpopNonceRequired = "dpop_nonce_required", Binding, UseDpopNonce;
    /// The proof's nonce is not one of ours for this key, or too old.
    DpopNonceInvalid = "dpop_nonce_invalid", Binding, UseDpopNonce;
    /// The proof was used before.
    DpopReplayed = "dpop_replayed", Binding, InvalidDpopProof;
    /// There is no room to remember the proof, so that it cannot be accepted.
    DpopReplayStoreFull = "dpop_replay_store_full", Binding, Unavailable;
    /// The store that replicas share could not be asked whether the proof was used before.
    DpopReplayStoreUnavailable = "dpop_replay_store_unavailable", Binding, Unavailable;
    /// The token came with another authentication scheme than the one its binding needs.
    SchemeMismatch = "scheme_mismatch", Binding, InvalidToken;
    /// The token is bound in another way than the rule lists.
    BindingNotAllowed = "binding_not_allowed", Binding, InvalidToken;

    /// The token's actor (`act`) is a workload and not the peer.
    ActorNotPeer = "actor_not_peer", Binding, InvalidToken;

    /// The rule names subjects (`sub`), and the token's is none of them.
    SubjectNotAllowed = "subject_not_allowed", Actor, Forbidden;
    /// The rule asks for a token with an actor (`act`), and this one has none.
    ActorRequired = "actor_required", Actor, Forbidden;
    /// The rule asks for a token without an actor (`act`), and this one has one.
    ActorForbidden = "actor_forbidden", Actor, Forbidden;
    /// The rule names actors, and the token's is none of them.
    ActorNotAllowed = "actor_not_allowed", Actor, Forbidden;
    /// The token's chain of actors is longer than the rule allows.
    DelegationTooDeep = "delegation_too_deep", Actor, Forbidden;

    /// The token lacks a scope the rule asks for.
    ScopeMissing = "scope_missing", Scopes, InsufficientScope;
    /// The user did not authenticate in a way (`acr`) that the rule lists, or the token does not tell.
    AuthenticationTooWeak = "authentication_too_weak", StepUp, InsufficientAuthentication;
    /// The user authenticated (`auth_time`) longer ago than the rule allows, or the token does not tell.
    AuthenticationTooOld = "authentication_too_old", StepUp, InsufficientAuthentication;
    /// A value for an upstream header is not visible ASCII or too long.
    UpstreamHeaderInvalid = "upstream_header_invalid", Scopes, Forbidden;
}

impl Reason {
    /// Returns the reason's place in [`Reason::ALL`], for tables indexed by reason.
    #[must_use]
    #[expect(clippy::as_conversions, reason = "a fieldless enum's discriminant is its place")]
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
