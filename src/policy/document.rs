//! The documents of a policy repository, as decoded: shapes and types hold, names are not yet resolved.

use std::time::Duration;

use crate::{
    diagnostic::{At, Spanned},
    evidence::PeerSources,
    policy::scope::ScopeGrammar,
    trust::jwks::Algorithm,
};

/// A text and where it stands.
pub type Text = Spanned<String>;

/// All documents of a policy repository.
#[derive(Clone, Debug, Default)]
pub struct Documents {
    /// Kind `TrustDomain`.
    pub trust_domains: Vec<TrustDomainDocument>,
    /// Kind `PeerTrust`: at most one.
    pub peer_trust: Option<PeerTrustDocument>,
    /// Kind `Issuer`.
    pub issuers: Vec<IssuerDocument>,
    /// Kind `Policy`.
    pub policies: Vec<PolicyDocument>,
    /// Names of Issuer documents that are there but could not be decoded: their mistakes are reported
    /// already, and references to them do not dangle.
    pub broken_issuers: Vec<String>,
    /// Of which kinds there may be documents whose names are not known: no reference to one dangles for
    /// certain.
    pub unnamed: Unnamed,
}

/// Kinds of which there may be documents that could not be decoded so far that their names are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unnamed {
    /// Kind `Issuer`.
    pub issuers: bool,
    /// Kind `TrustDomain`.
    pub trust_domains: bool,
    /// Kind `PeerTrust`.
    pub peer_trust: bool,
}

/// Whose certificates are believed.
#[derive(Clone, Debug)]
pub struct TrustDomainDocument {
    /// `metadata.name`: the trust domain itself, valid by SPIFFE-ID §2.1.
    pub name: Text,
    /// `spec.spiffeBundle`: where the keys of its JWT-SVIDs are, [`KeySource::Uri`] or [`KeySource::File`].
    pub bundle: Option<KeySource>,
    /// Whether its `spec` could not be read, which is reported: what it lacks then says nothing.
    pub broken: bool,
}

/// Where the caller's certificate is found.
#[derive(Clone, Debug)]
pub struct PeerTrustDocument {
    /// `metadata.name`.
    pub name: Text,
    /// `spec.evidence`; at least one source.
    pub evidence: Spanned<PeerSources>,
}

/// What `types` of an Issuer calls a token without `typ`.
pub const ABSENT_TYPE: &str = "absent";

/// Whose tokens are believed.
#[derive(Clone, Debug)]
pub struct IssuerDocument {
    /// `metadata.name`.
    pub name: Text,
    /// `spec.issuer`: an absolute https URL without query or fragment (http for loopback only). For JWT-SVIDs
    /// the SPIFFE ID of `spec.trustDomain`, which no other issuer has.
    pub issuer: Text,
    /// `spec.keys`. For JWT-SVIDs the trust domain's bundle.
    pub keys: KeySource,
    /// `spec.audiences`; required, not empty.
    pub audiences: Vec<Text>,
    /// `spec.algorithms`; default `[ES256, EdDSA, PS256]`. Only asymmetric ones get here.
    pub algorithms: Vec<Algorithm>,
    /// `spec.types`; default `[at+jwt]`. Lower case, without `application/`.
    pub types: Vec<String>,
    /// `spec.maxLifetime` (`exp` − `iat`); default 24 hours.
    pub max_lifetime: Duration,
    /// `spec.leeway`; default 30 s, at most 60 s.
    pub leeway: Duration,
    /// `spec.profile`.
    pub profile: Profile,
    /// `spec.requireClaims`: a claim and the value it must have (or, where the claim is an array, hold).
    pub require_claims: Vec<(String, serde_json::Value)>,
    /// `spec.maxKeyAge`: how long the last good keys are used while no newer ones can be had; default 24 hours.
    pub max_key_age: Duration,
    /// `spec.scopeClaims`; default `[scope]`. The claims whose values are the token's scopes, as one set.
    pub scope_claims: Vec<ScopeClaim>,
    /// `spec.scopeGrammar`.
    pub scope_grammar: ScopeGrammar,
    /// `spec.introspection`: how the issuer is asked about its tokens.
    pub introspection: Option<IntrospectionDocument>,
}

/// JWT-SVID §2.1, and what WIT-SVIDs are signed with. An RSA key without `alg`, as in SPIRE's bundles, is used with
/// the first of RSA's: RS256, as SPIRE signs.
pub const SVID_ALGORITHMS: [Algorithm; 9] = [
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::ES512,
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
];

impl Documents {
    /// Returns the authorities of workload identity tokens, as issuers that sign nothing else: those of the trust
    /// domains that a rule names with `wimse`.
    #[must_use]
    pub fn workload_authorities(&self) -> Vec<IssuerDocument> {
        let rules = self.policies.iter().flat_map(|policy| &policy.rules);
        let patterns = rules.filter_map(|rule| rule.from.as_ref()?.wimse.as_ref()).flatten();
        let named: Vec<&str> = patterns.filter_map(|text| trust_domain(&text.value)).collect();
        let is_named = |domain: &&TrustDomainDocument| named.contains(&&*domain.name.value);
        self.trust_domains.iter().filter(is_named).filter_map(workload_authority).collect()
    }
}

/// Returns the trust domain of a SPIFFE pattern, which has no pattern in it.
fn trust_domain(pattern: &str) -> Option<&str> {
    pattern.strip_prefix("spiffe://")?.split('/').next()
}

fn workload_authority(domain: &TrustDomainDocument) -> Option<IssuerDocument> {
    let at = domain.name.at.clone();
    let named = |value: String| Spanned { value, at: at.clone() };
    let day = Duration::from_secs(24 * 60 * 60);
    Some(IssuerDocument {
        name: named(format!("wit-svid.{}", domain.name.value)),
        issuer: named(format!("spiffe://{}", domain.name.value)),
        keys: domain.bundle.clone()?,
        audiences: Vec::new(),
        algorithms: SVID_ALGORITHMS.to_vec(),
        types: vec!["wit+jwt".to_owned()],
        max_lifetime: day,
        leeway: Duration::ZERO,
        profile: Profile::WitSvid,
        require_claims: Vec::new(),
        max_key_age: day,
        scope_claims: Vec::new(),
        scope_grammar: ScopeGrammar::Exact,
        introspection: None,
    })
}

/// `spec.introspection` (RFC 7662).
#[derive(Clone, Debug)]
pub struct IntrospectionDocument {
    /// `uri`: the endpoint, an absolute https URL (http for loopback only).
    pub uri: Text,
    /// `clientId`: who we are at the issuer.
    pub client_id: Text,
    /// `authentication`.
    pub authentication: ClientAuthentication,
    /// `tokens`; default opaque ones.
    pub tokens: IntrospectedTokens,
    /// `cacheFor`: how long an answer that a token is active counts; default 30 s.
    pub cache_for: Duration,
}

/// How we prove who we are. The credentials themselves are files of the process, never of the repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuthentication {
    /// `private_key_jwt` (RFC 7523 §2.2).
    PrivateKeyJwt,
    /// `tls_client_auth` (RFC 8705 §2), also for `self_signed_tls_client_auth`.
    TlsClientAuth,
    /// `client_secret_basic` (RFC 6749 §2.3.1).
    ClientSecretBasic,
}

/// Which tokens the issuer is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum IntrospectedTokens {
    /// `opaque`: those that are no JWTs.
    #[default]
    Opaque,
    /// `all`: JWTs too, after their signature and claims held, so that they can be revoked at once.
    All,
}

/// A claim that holds scopes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScopeClaim {
    /// `scope`: one text (RFC 8693 §4.2); beside profile `jwt` it may be an array.
    Scope,
    /// `scp`: one text or an array.
    Scp,
    /// Any other, such as `roles`, `groups` and `permissions`: an array.
    Other(Box<str>),
}

impl ScopeClaim {
    /// Returns the claim's name.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Scope => "scope",
            Self::Scp => "scp",
            Self::Other(name) => name,
        }
    }

    /// Returns what an error calls the claim: its name, where it is one of ours.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Scope => "scope",
            Self::Scp => "scp",
            Self::Other(_) => "scopeClaims",
        }
    }
}

/// Where an issuer's keys come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// `discovery: true`: the issuer's metadata document names the JWKS.
    Discovery,
    /// `jwksUri`.
    Uri(Text),
    /// `jwksFile`, with the file's content as it was read with the directory.
    File {
        /// As written.
        path: Text,
        /// The content; never shown in an error.
        content: Vec<u8>,
    },
    /// Left out: the issuer's tokens are opaque, and none of them is a JWT.
    None,
}

/// Which claims a token must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Profile {
    /// RFC 9068 §2.2: `iss`, `exp`, `aud`, `sub`, `client_id`, `iat` and `jti`.
    #[default]
    Rfc9068,
    /// `iss`, `exp` and `aud`.
    Jwt,
    /// JWT-SVID §3: `sub`, `exp` and `aud`.
    JwtSvid,
    /// No access tokens: workload identity tokens, whose authority a trust domain's bundle is.
    WitSvid,
}

/// One policy.
#[derive(Clone, Debug)]
pub struct PolicyDocument {
    /// `metadata.name`.
    pub name: Text,
    /// `spec.workloads`: SPIFFE patterns.
    pub workloads: Option<Vec<Text>>,
    /// `spec.hosts`: exact hosts or `*.suffix`.
    pub hosts: Option<Vec<Text>>,
    /// `spec.audiences`.
    pub audiences: Option<Vec<Text>>,
    /// `spec.pathForms`: names of [`crate::evidence::path::PathForms`].
    pub path_forms: Vec<Text>,
    /// `spec.caseInsensitive`.
    pub case_insensitive: bool,
    /// `spec.origin`: what clients call the service, for DPoP proofs.
    pub origin: Option<OriginDocument>,
    /// `spec.resourceMetadata`: where the service's metadata is (RFC 9728), for challenges; an absolute https URL
    /// (http for loopback only).
    pub resource_metadata: Option<Text>,
    /// `spec.rules`; not empty.
    pub rules: Vec<RuleDocument>,
    /// Whether a field or a rule could not be read, which is reported: what it lacks then says nothing.
    pub broken: bool,
    /// Where the document stands.
    pub at: At,
}

/// One rule.
#[derive(Clone, Debug)]
pub struct RuleDocument {
    /// `name`.
    pub name: Text,
    /// `effect`; default allow.
    pub effect: Effect,
    /// `public: true`.
    pub public: bool,
    /// `to`.
    pub to: Option<ToDocument>,
    /// `from`.
    pub from: Option<FromDocument>,
    /// `token`.
    pub token: Option<TokenDocument>,
    /// `upstream`.
    pub upstream: Option<UpstreamDocument>,
    /// Whether a part could not be read, which is reported: what the rule lacks then says nothing.
    pub broken: bool,
    /// Where the rule stands.
    pub at: At,
}

/// What a rule does when it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Effect {
    /// Allows.
    #[default]
    Allow,
    /// Denies, whatever allows.
    Deny,
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct ToDocument {
    /// `methods`, in upper case.
    pub methods: Option<Vec<Text>>,
    /// `paths`: templates.
    pub paths: Option<Vec<Text>>,
    /// `upgrades`.
    pub upgrades: Option<Vec<Text>>,
    /// `preflight: true`.
    pub preflight: bool,
    /// `tcp: {ports: […]}`.
    pub tcp: Option<Vec<Spanned<u16>>>,
    /// Where the part stands.
    pub at: At,
}

/// Who calls.
#[derive(Clone, Debug)]
pub struct FromDocument {
    /// `spiffe`: SPIFFE patterns.
    pub spiffe: Option<Vec<Text>>,
    /// `dns`: DNS SANs, exact.
    pub dns: Option<Vec<Text>>,
    /// `thumbprints`: `x5t#S256` in base64url.
    pub thumbprints: Option<Vec<Text>>,
    /// `wimse`: SPIFFE patterns for what a workload identity token tells.
    pub wimse: Option<Vec<Text>>,
    /// Where the part stands.
    pub at: At,
}

/// With which token.
#[derive(Clone, Debug)]
pub struct TokenDocument {
    /// `issuers`: names of Issuer documents; required.
    pub issuers: Vec<Text>,
    /// `scopes`: all required in an allow rule, any in a deny rule.
    pub scopes: Option<Vec<Text>>,
    /// `binding`.
    pub binding: Option<Vec<Spanned<BindingName>>>,
    /// `subjects`: whose tokens (`sub`); texts, or SPIFFE patterns where they begin with `spiffe://`.
    pub subjects: Option<Vec<Text>>,
    /// `replay`.
    pub replay: Option<Spanned<ReplayDocument>>,
    /// `nonce`.
    pub nonce: Option<Spanned<NonceMode>>,
    /// `acr`: values one of which is required, in the order of preference (RFC 9470).
    pub acr: Option<Vec<Text>>,
    /// `maxAge`: the longest time since the user authenticated, in whole seconds.
    pub max_age: Option<Spanned<Duration>>,
    /// `actor`.
    pub actor: Option<Spanned<ActorDocument>>,
    /// Where the part stands.
    pub at: At,
}

/// What satisfies a rule's `binding`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BindingName {
    /// RFC 8705.
    Certificate,
    /// RFC 9449.
    Dpop,
    /// Unbound tokens too.
    None,
}

/// What is asked of who acts for the token's subject (RFC 8693 §4.1).
#[derive(Clone, Debug)]
pub enum ActorDocument {
    /// `none`: nobody does.
    None,
    /// `any`: somebody does.
    Any,
    /// A map: somebody does, and is this.
    Map {
        /// `subjects`: who the current actor may be.
        subjects: Option<Vec<ActorNameDocument>>,
        /// `maxDepth`: the most actors in the chain, the current one included.
        max_depth: Option<Spanned<usize>>,
    },
}

/// A current actor: a text, which is a `sub` of the token's own issuer, or a map.
#[derive(Clone, Debug)]
pub struct ActorNameDocument {
    /// `sub`.
    pub subject: Text,
    /// `iss`.
    pub issuer: Option<Text>,
}

/// `spec.origin`.
#[derive(Clone, Debug)]
pub enum OriginDocument {
    /// One for every host of the policy.
    One(Text),
    /// One for each host: the host, and its origin.
    ByHost(Vec<(Text, Text)>),
}

/// What becomes of a DPoP proof that a rule accepted.
#[derive(Clone, Debug)]
pub enum ReplayDocument {
    /// `consume`: it is used up (RFC 9449 §11.1); also where it is left out.
    Consume,
    /// `observe`: it is not, as another check or the service behind uses it up.
    Observe,
    /// `{observe: […]}`: it is not in checks that one of these callers asks, by their SPIFFE IDs.
    ObserveFor(Vec<Text>),
}

/// What a rule asks of the `nonce` of a DPoP proof (RFC 9449 §8, §9).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum NonceMode {
    /// `off`: nothing; none is given out, and `iat` tells the time.
    #[default]
    Off,
    /// `on`: one is given out with every answer and tells the time where it comes back; a proof without one
    /// is accepted by its `iat`, for clients that do not know nonces yet.
    On,
    /// `required`: a proof without one is challenged.
    Required,
}

/// What goes on to the service.
#[derive(Clone, Debug)]
pub struct UpstreamDocument {
    /// `headers`: name and template.
    pub headers: Vec<(Text, Text)>,
    /// `remove`.
    pub remove: Vec<Text>,
    /// `keep`: method and path override headers that are not removed.
    pub keep: Vec<Text>,
    /// `unverifiedToken: pass`.
    pub pass_unverified_token: bool,
}
