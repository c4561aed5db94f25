//! Policies as documents, compiled and asked: what the tests of this module share.

mod deciding;
mod naive;
mod proofs;
mod properties;
mod routing;
mod upstream;
mod users;

use std::{borrow::Cow, sync::Arc};

use crate::{
    clock::UnixTime,
    credential::{
        BoundToken, Peer, Principal, Proof,
        binding::{Binding, Confirmation},
        claims::AccessToken,
        dpop::{Origin, PresentedNonce, VerifiedProof},
    },
    diagnostic::{At, Diagnostic, Spanned},
    evidence::{
        Attempt, Evidence, PeerSources,
        authorization::{Credentials, PresentedProof},
        http::{Headers, HttpRequest},
        path::{Path, PathForms},
        peer::PeerEvidence,
    },
    identity::{SpiffeId, Thumbprint},
    policy::{
        Decision, PolicySet,
        compile::compile,
        document::{
            BindingName, Documents, Effect, FromDocument, IssuerDocument, KeySource,
            OriginDocument, PeerTrustDocument, PolicyDocument, Profile, RuleDocument, ScopeClaim,
            Text, ToDocument, TokenDocument, TrustDomainDocument, Unnamed, UpstreamDocument,
        },
        scope::ScopeGrammar,
    },
    reason::Reason,
};

pub(super) const SELF: &str = "https://pay.example";

pub(super) fn at(field: &str) -> At {
    At { file: "p.yaml".into(), line: 1, column: 1, length: 1, field: field.into() }
}

pub(super) fn text(value: &str) -> Text {
    Spanned { value: value.to_owned(), at: at(value) }
}

#[expect(clippy::unnecessary_wraps, reason = "the lists of documents are optional")]
pub(super) fn texts(values: &[&str]) -> Option<Vec<Text>> {
    Some(values.iter().map(|value| text(value)).collect())
}

pub(super) fn issuer(name: &str, audiences: &[&str]) -> IssuerDocument {
    IssuerDocument {
        name: text(name),
        issuer: text(&format!("https://{name}.example")),
        keys: KeySource::Discovery,
        audiences: texts(audiences).unwrap(),
        algorithms: vec![],
        types: vec![],
        max_lifetime: std::time::Duration::from_secs(60),
        leeway: std::time::Duration::ZERO,
        profile: Profile::Jwt,
        require_claims: vec![],
        max_key_age: std::time::Duration::from_secs(60),
        scope_claims: vec![ScopeClaim::Scope],
        scope_grammar: ScopeGrammar::Exact,
        introspection: None,
    }
}

/// Documents with a PeerTrust, two issuers and these policies.
pub(super) fn documents(policies: Vec<PolicyDocument>) -> Documents {
    let evidence = PeerSources { principal: true, certificate: true, xfcc: false };
    Documents {
        trust_domains: vec![],
        peer_trust: Some(PeerTrustDocument {
            name: text("mesh"),
            evidence: Spanned { value: evidence, at: at("evidence") },
        }),
        issuers: vec![issuer("corp", &[SELF, "https://other.example"]), issuer("ext", &[SELF])],
        policies,
        broken_issuers: vec![],
        unnamed: Unnamed::default(),
    }
}

pub(super) fn trust_domain(name: &str) -> TrustDomainDocument {
    TrustDomainDocument { name: text(name), bundle: None, broken: false }
}

pub(super) fn policy(name: &str, rules: Vec<RuleDocument>) -> PolicyDocument {
    let audiences = rules.iter().any(|rule| rule.token.is_some()).then(|| texts(&[SELF]).unwrap());
    PolicyDocument {
        resource_metadata: None,
        name: text(name),
        workloads: None,
        hosts: texts(&["pay.example"]),
        audiences,
        path_forms: vec![],
        case_insensitive: false,
        origin: None,
        rules,
        broken: false,
        at: at(name),
    }
}

/// An open allow rule.
pub(super) fn open(name: &str) -> RuleDocument {
    RuleDocument {
        name: text(name),
        effect: Effect::Allow,
        public: true,
        to: None,
        from: None,
        token: None,
        upstream: None,
        broken: false,
        at: at(name),
    }
}

pub(super) fn deny(name: &str) -> RuleDocument {
    RuleDocument { effect: Effect::Deny, public: false, ..open(name) }
}

impl RuleDocument {
    pub(super) fn to(mut self, change: impl FnOnce(&mut ToDocument)) -> Self {
        let mut to = self.to.take().unwrap_or(ToDocument {
            methods: None,
            paths: None,
            upgrades: None,
            preflight: false,
            tcp: None,
            at: at("to"),
        });
        change(&mut to);
        Self { to: Some(to), ..self }
    }

    pub(super) fn paths(self, paths: &[&str]) -> Self {
        self.to(|to| to.paths = texts(paths))
    }

    pub(super) fn methods(self, methods: &[&str]) -> Self {
        self.to(|to| to.methods = texts(methods))
    }

    pub(super) fn spiffe(self, patterns: &[&str]) -> Self {
        let from = FromDocument {
            spiffe: texts(patterns),
            dns: None,
            thumbprints: None,
            wimse: None,
            at: at("from"),
        };
        Self { from: Some(from), public: false, ..self }
    }

    /// Asks for a token, bound or not.
    pub(super) fn token(self, issuers: &[&str], scopes: &[&str]) -> Self {
        let token = TokenDocument {
            subjects: None,
            issuers: texts(issuers).unwrap(),
            scopes: (!scopes.is_empty()).then(|| texts(scopes).unwrap()),
            binding: None,
            replay: None,
            nonce: None,
            acr: None,
            max_age: None,
            actor: None,
            at: at("token"),
        };
        Self { token: Some(token), public: false, ..self }.binding(&[BindingName::None])
    }

    pub(super) fn binding(mut self, bindings: &[BindingName]) -> Self {
        let spanned = |value: &BindingName| Spanned { value: *value, at: at("binding") };
        let bindings: Vec<_> = bindings.iter().map(spanned).collect();
        if let Some(token) = &mut self.token {
            token.binding = (!bindings.is_empty()).then_some(bindings);
        }
        self
    }

    pub(super) fn upstream(self, headers: &[(&str, &str)]) -> Self {
        let upstream = UpstreamDocument {
            headers: headers.iter().map(|(name, value)| (text(name), text(value))).collect(),
            remove: vec![],
            keep: vec![],
            pass_unverified_token: false,
        };
        Self { upstream: Some(upstream), ..self }
    }
}

pub(super) fn mistakes(documents: &Documents) -> Vec<Diagnostic> {
    let mut diagnostics = Vec::new();
    let set = compile(documents, &[], &mut diagnostics);
    assert!(diagnostics.is_empty() || set.rule_count() == 0);
    diagnostics
}

pub(super) fn compiled(policies: Vec<PolicyDocument>) -> PolicySet {
    let mut diagnostics = Vec::new();
    let set = compile(&documents(policies), &[], &mut diagnostics);
    assert_eq!(diagnostics, []);
    set
}

pub(super) fn http<'r>(method: &'r str, host: &'r str, path: &'r str) -> Evidence<'r> {
    Evidence {
        request_id: "",
        attempt: Attempt::Http(HttpRequest {
            method,
            host: Cow::Borrowed(host),
            path: Path { canonical: Cow::Borrowed(path), forms: PathForms::default(), raw: None },
            proof: PresentedProof::Absent,
            workload_token: PresentedProof::Absent,
            workload_proof: PresentedProof::Absent,
            headers: Headers::default(),
            upgrade: None,
            preflight: false,
            grpc: false,
            credentials: Credentials::Absent,
            query_tokens: Vec::new(),
        }),
        workload: None,
        peer: None,
    }
}

pub(super) fn get(path: &str) -> Evidence<'_> {
    http("GET", "pay.example", path)
}

impl<'r> Evidence<'r> {
    pub(super) fn with(mut self, change: impl FnOnce(&mut HttpRequest<'r>)) -> Self {
        if let Attempt::Http(request) = &mut self.attempt {
            change(request);
        }
        self
    }

    /// Gives the path these forms, and this reading beside its canonical one.
    pub(super) fn ambiguous(self, forms: PathForms, reading: Option<&'r str>) -> Self {
        self.with(|request| {
            request.path.forms = forms;
            request.path.raw = reading;
        })
    }

    pub(super) fn of(mut self, workload: &'r str) -> Self {
        self.workload = Some(SpiffeId::parse(workload).unwrap());
        self
    }
}

pub(super) fn nobody() -> Principal<'static> {
    Principal {
        peer: Proof::Absent,
        workload: Proof::Absent,
        token: Proof::Absent,
        refused_token: None,
    }
}

pub(super) fn peer(spiffe: &'static str) -> Proof<Peer<'static>> {
    let spiffe = Some(SpiffeId::parse(spiffe).unwrap());
    let thumbprint = Some(Thumbprint::of(b"certificate"));
    // Leaked: tests are short.
    let evidence = Box::leak(Box::new(PeerEvidence {
        spiffe,
        spiffe_untold: false,
        dns: vec![],
        thumbprint,
        certificate: None,
    }));
    Proof::Proven(Peer { spiffe, thumbprint, evidence })
}

pub(super) fn token(issuer: &str, scopes: &[&str], binding: Binding) -> Proof<BoundToken> {
    token_for(SELF, issuer, scopes, binding)
}

pub(super) fn token_for(
    audience: &str,
    issuer: &str,
    scopes: &[&str],
    binding: Binding,
) -> Proof<BoundToken> {
    Proof::Proven(BoundToken {
        token: Arc::new(AccessToken {
            introspected: false,
            issuer: issuer.into(),
            subject: Some("sub".to_owned()),
            client_id: None,
            id: None,
            audiences: vec![audience.to_owned()],
            scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
            expires: UnixTime::from_secs(0),
            not_before: None,
            issued: None,
            authenticated: None,
            actors: Vec::new(),
            confirmation: Confirmation::default(),
            claims: serde_json::Map::new(),
        }),
        binding,
        proof: binding.dpop.then(|| Box::new(proof(ORIGIN))),
        authentication_age: None,
    })
}

/// The origin of [`with_origin`].
pub(super) const ORIGIN: &str = "https://pay.example";

/// A policy with one rule and the origin [`ORIGIN`].
pub(super) fn with_origin(rule: RuleDocument) -> PolicyDocument {
    let origin = Some(OriginDocument::One(text(ORIGIN)));
    PolicyDocument { origin, ..policy("p", vec![rule]) }
}

/// A recent proof without nonce.
pub(super) fn proof(origin: &str) -> VerifiedProof {
    VerifiedProof {
        origin: Origin::parse(origin).unwrap(),
        id: Thumbprint::of(b"proof"),
        issued: UnixTime::from_secs(0),
        is_recent: true,
        nonce: PresentedNonce::Absent,
        usable_until: UnixTime::from_secs(0),
    }
}

pub(super) const UNBOUND: Binding = Binding { certificate: false, dpop: false };
pub(super) const BY_CERTIFICATE: Binding = Binding { certificate: true, dpop: false };
pub(super) const BY_DPOP: Binding = Binding { certificate: false, dpop: true };

/// The reason, and the rule that it is of.
pub(super) fn decide(
    set: &PolicySet,
    evidence: &Evidence<'_>,
    principal: &Principal<'_>,
) -> (Reason, String) {
    let rule_of = |rule: Option<&crate::policy::Rule>| {
        rule.map(|rule| rule.id.to_string()).unwrap_or_default()
    };
    match set.decide(&set.candidates(evidence), evidence, principal, &mut ()) {
        Decision::Allow(permit) => (Reason::Allowed, rule_of(Some(permit.rule()))),
        Decision::Deny(denial) => (denial.reason, rule_of(denial.rule)),
    }
}

/// The reason alone, for a caller of whom nothing is known.
pub(super) fn asked(set: &PolicySet, evidence: &Evidence<'_>) -> Reason {
    decide(set, evidence, &nobody()).0
}
