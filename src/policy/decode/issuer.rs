//! `Issuer.spec`.

use std::{ops::RangeInclusive, time::Duration};

use super::{
    Decoded, Decoder, Fields,
    keys::{self, Files},
    text,
};
use crate::{
    diagnostic::{Diagnostic, Spanned},
    policy::{
        document::{
            ABSENT_TYPE, ClientAuthentication, IntrospectedTokens, IntrospectionDocument,
            IssuerDocument, KeySource, Profile, SVID_ALGORITHMS, ScopeClaim, Text,
        },
        scope::ScopeGrammar,
        yaml::{Node, Value},
    },
    trust::jwks::Algorithm,
};

/// RFC 7519 §4.1.4 allows "usually no more than a few minutes"; what is longer is a broken clock.
const LEEWAY: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(60);

/// A lifetime of zero admits no token; one beyond a month is no access token but a password.
const MAX_LIFETIME: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(30 * 24 * 60 * 60);

/// Below a minute one missed refresh takes the keys away; beyond a month a withdrawn key lives on.
const MAX_KEY_AGE: RangeInclusive<Duration> =
    Duration::from_secs(60)..=Duration::from_secs(30 * 24 * 60 * 60);

/// Types of JWTs that are no access tokens: admitting one would let it pass for one (RFC 8725 §3.11).
const OTHER_TYPES: [&str; 11] = [
    "dpop+jwt",
    "logout+jwt",
    "secevent+jwt",
    "oauth-authz-req+jwt",
    "token-introspection+jwt",
    "wit+jwt",
    "wpt+jwt",
    "txntoken+jwt",
    "client-authentication+jwt",
    "oauth-client-attestation+jwt",
    "oauth-client-attestation-pop+jwt",
];

/// Issuers that serve the whole world, by what their identifier is or begins with, and the claims one of
/// which says for whom a token is: without it anybody could get one.
const WORLD: [(&str, &[&str]); 8] = [
    (
        "https://token.actions.githubusercontent.com",
        &[
            "repository_owner",
            "repository_owner_id",
            "repository",
            "repository_id",
            "enterprise",
            "sub",
        ],
    ),
    (
        "https://gitlab.com",
        &["namespace_path", "namespace_id", "project_path", "project_id", "sub"],
    ),
    ("https://agent.buildkite.com", &["organization_slug", "organization_id", "sub"]),
    ("https://app.terraform.io", &["terraform_organization_id", "terraform_workspace_id", "sub"]),
    ("https://accounts.google.com", &["hd", "azp", "sub"]),
    ("https://login.microsoftonline.com/common", &["tid"]),
    ("https://login.microsoftonline.com/organizations", &["tid"]),
    ("https://login.microsoftonline.com/consumers", &["oid", "sub"]),
];

/// Claims that say whose token it is, for whom and for how long: their values are no permissions.
const OTHER_CLAIMS: [&str; 17] = [
    "iss",
    "sub",
    "aud",
    "exp",
    "nbf",
    "iat",
    "jti",
    "typ",
    "azp",
    "client_id",
    "cnf",
    "act",
    "may_act",
    "acr",
    "amr",
    "auth_time",
    "nonce",
];

/// An Issuer without its name.
#[derive(Debug)]
pub(super) struct Spec {
    pub(super) issuer: Text,
    keys: KeySource,
    audiences: Vec<Text>,
    algorithms: Vec<Algorithm>,
    types: Vec<String>,
    max_lifetime: Duration,
    leeway: Duration,
    profile: Profile,
    require_claims: Vec<(String, serde_json::Value)>,
    max_key_age: Duration,
    scope_claims: Vec<ScopeClaim>,
    scope_grammar: ScopeGrammar,
    introspection: Option<IntrospectionDocument>,
}

impl Spec {
    pub(super) fn named(self, name: Text) -> IssuerDocument {
        let Self {
            issuer,
            keys,
            audiences,
            algorithms,
            types,
            max_lifetime,
            leeway,
            profile,
            require_claims,
            max_key_age,
            scope_claims,
            scope_grammar,
            introspection,
        } = self;
        IssuerDocument {
            name,
            issuer,
            keys,
            audiences,
            algorithms,
            types,
            max_lifetime,
            leeway,
            profile,
            require_claims,
            max_key_age,
            scope_claims,
            scope_grammar,
            introspection,
        }
    }
}

pub(super) fn spec(decoder: &mut Decoder, node: &Node, files: &Files) -> Decoded<Spec> {
    const PROFILES: [(&str, Profile); 3] =
        [("rfc9068", Profile::Rfc9068), ("jwt", Profile::Jwt), ("jwt-svid", Profile::JwtSvid)];
    const GRAMMARS: [(&str, ScopeGrammar); 2] =
        [("exact", ScopeGrammar::Exact), ("smart-on-fhir", ScopeGrammar::SmartOnFhir)];
    let day = Duration::from_secs(24 * 60 * 60);
    let mut fields = decoder.map(node)?;
    let profile =
        fields.optional(decoder, "profile", |decoder, node| decoder.word(node, &PROFILES));
    let is_svid = matches!(profile, Ok(Some(Profile::JwtSvid)));
    let source =
        if is_svid { svids(decoder, &mut fields) } else { own(decoder, &mut fields, files) };
    let audiences = fields.required(decoder, "audiences", Decoder::texts);
    let algorithms = fields.optional(decoder, "algorithms", |decoder, node| {
        decoder.list(node, |decoder, node| {
            let algorithm = algorithm(decoder, node)?;
            if is_svid && !SVID_ALGORITHMS.contains(&algorithm) {
                let message = "a JWT-SVID is never signed with `EdDSA`";
                return Err(decoder.wrong(&node.at, message));
            }
            Ok(algorithm)
        })
    });
    let max_lifetime = fields
        .optional(decoder, "maxLifetime", |decoder, node| decoder.duration(node, &MAX_LIFETIME));
    let leeway =
        fields.optional(decoder, "leeway", |decoder, node| decoder.duration(node, &LEEWAY));
    let require_claims = fields.optional(decoder, "requireClaims", claims);
    let max_key_age =
        fields.optional(decoder, "maxKeyAge", |decoder, node| decoder.duration(node, &MAX_KEY_AGE));
    let scope_claims = fields.optional(decoder, "scopeClaims", scope_claims);
    let scope_grammar =
        fields.optional(decoder, "scopeGrammar", |decoder, node| decoder.word(node, &GRAMMARS));
    fields.finish(decoder);
    if let (Ok(Source { issuer, .. }), Ok(required)) = (&source, &require_claims) {
        serves_few(decoder, issuer, required.as_deref().unwrap_or_default());
    }
    let (profile, Source { issuer, keys, types, introspection }) =
        (profile?.unwrap_or_default(), source?);
    if profile == Profile::Rfc9068 && types.iter().any(|allowed| allowed == ABSENT_TYPE) {
        let message = "`types: [absent]` is for tokens that are no RFC 9068 tokens";
        decoder.report(Diagnostic::new(&issuer.at, message).help("add `profile: jwt`"));
    }
    Ok(Spec {
        issuer,
        keys,
        audiences: audiences?,
        algorithms: algorithms?.unwrap_or_else(|| match profile {
            Profile::Rfc9068 | Profile::Jwt => {
                vec![Algorithm::ES256, Algorithm::EdDSA, Algorithm::PS256]
            }
            Profile::JwtSvid | Profile::WitSvid => SVID_ALGORITHMS.to_vec(),
        }),
        types,
        max_lifetime: max_lifetime?.unwrap_or(day),
        leeway: leeway?.unwrap_or(Duration::from_secs(30)),
        profile,
        require_claims: require_claims?.unwrap_or_default(),
        max_key_age: max_key_age?.unwrap_or(day),
        scope_claims: scope_claims?.unwrap_or_else(|| vec![ScopeClaim::Scope]),
        scope_grammar: scope_grammar?.unwrap_or_default(),
        introspection,
    })
}

/// Whose tokens they are, and how they are verified.
struct Source {
    issuer: Text,
    keys: KeySource,
    types: Vec<String>,
    introspection: Option<IntrospectionDocument>,
}

/// An issuer that has an identifier and keys of its own.
fn own(decoder: &mut Decoder, fields: &mut Fields<'_>, files: &Files) -> Decoded<Source> {
    let issuer = fields.required(decoder, "issuer", |decoder, node| url(decoder, node, false));
    let introspection = fields.optional(decoder, "introspection", introspection);
    let keys = if fields.get("keys").is_none() && !matches!(introspection, Ok(None)) {
        // Nothing of it is believed as a JWT then.
        Ok(KeySource::None)
    } else {
        fields.required(decoder, "keys", |decoder, node| keys::source(decoder, node, files))
    };
    let types = fields.optional(decoder, "types", |decoder, node| decoder.list(node, token_type));
    let of_svids = fields.optional(decoder, "trustDomain", |decoder, node| {
        let message = "`trustDomain` is for issuers with `profile: jwt-svid`";
        Err::<(), _>(decoder.wrong(&node.at, message))
    });
    let (keys, introspection) = (keys?, introspection?);
    if let (KeySource::None, Some(IntrospectionDocument { tokens, uri, .. })) =
        (&keys, &introspection)
        && *tokens == IntrospectedTokens::All
    {
        let message = "`tokens: all` is for JWTs too, which need `keys`";
        return Err(decoder
            .report(Diagnostic::new(&uri.at, message).help("give `keys`, or leave `tokens` out")));
    }
    of_svids?;
    let types = types?.unwrap_or_else(|| vec!["at+jwt".to_owned()]);
    Ok(Source { issuer: issuer?, keys, types, introspection })
}

/// JWT-SVID §2.3.
const SVID_TYPES: [&str; 3] = [ABSENT_TYPE, "jwt", "jose"];

/// The JWT-SVIDs of a trust domain, whose bundle has the keys.
fn svids(decoder: &mut Decoder, fields: &mut Fields<'_>) -> Decoded<Source> {
    let mut others = Ok(());
    for key in ["issuer", "keys", "types", "introspection"] {
        if let Some(node) = fields.get(key) {
            let message = format!("`{key}` has no meaning with `profile: jwt-svid`");
            others = Err(decoder.report(
                Diagnostic::new(&node.at, message).help("`trustDomain` says whose they are"),
            ));
        }
    }
    let domain = fields.required(decoder, "trustDomain", Decoder::text)?;
    others?;
    let issuer = Spanned { value: format!("spiffe://{}", domain.value), at: domain.at };
    // The keys are put in when the trust domain is known.
    Ok(Source {
        issuer,
        keys: KeySource::None,
        types: SVID_TYPES.map(str::to_owned).to_vec(),
        introspection: None,
    })
}

/// Reports an issuer that serves the whole world and is not narrowed to anybody.
fn serves_few(decoder: &mut Decoder, issuer: &Text, required: &[(String, serde_json::Value)]) {
    let serves = |known: &str| {
        let rest = issuer.value.strip_prefix(known);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let Some((_, claims)) = WORLD.iter().find(|(known, _)| serves(known)) else { return };
    if !required.iter().any(|(claim, _)| claims.contains(&claim.as_str())) {
        let message = format!("`{}` serves the whole world: anybody can get a token", issuer.value);
        decoder.report(
            Diagnostic::new(&issuer.at, message).help(format!(
                "say for whom, by `requireClaims` with one of: {}",
                claims.join(", ")
            )),
        );
    }
}

/// Zero asks about a token at every check; beyond an hour nobody speaks of revoking.
const CACHE_FOR: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(60 * 60);

fn introspection(decoder: &mut Decoder, node: &Node) -> Decoded<IntrospectionDocument> {
    const AUTHENTICATIONS: [(&str, ClientAuthentication); 3] = [
        ("private_key_jwt", ClientAuthentication::PrivateKeyJwt),
        ("tls_client_auth", ClientAuthentication::TlsClientAuth),
        ("client_secret_basic", ClientAuthentication::ClientSecretBasic),
    ];
    const TOKENS: [(&str, IntrospectedTokens); 2] =
        [("opaque", IntrospectedTokens::Opaque), ("all", IntrospectedTokens::All)];
    let mut fields = decoder.map(node)?;
    let uri = fields.required(decoder, "uri", |decoder, node| url(decoder, node, true));
    let client_id = fields.required(decoder, "clientId", Decoder::text);
    let authentication = fields
        .required(decoder, "authentication", |decoder, node| decoder.word(node, &AUTHENTICATIONS));
    let tokens = fields.optional(decoder, "tokens", |decoder, node| decoder.word(node, &TOKENS));
    let cache_for =
        fields.optional(decoder, "cacheFor", |decoder, node| decoder.duration(node, &CACHE_FOR));
    fields.finish(decoder);
    Ok(IntrospectionDocument {
        uri: uri?,
        client_id: client_id?,
        authentication: authentication?,
        tokens: tokens?.unwrap_or_default(),
        cache_for: cache_for?.unwrap_or(Duration::from_secs(30)),
    })
}

fn scope_claims(decoder: &mut Decoder, node: &Node) -> Decoded<Vec<ScopeClaim>> {
    let mut seen: Vec<String> = Vec::new();
    decoder.list(node, |decoder, item| {
        let name = decoder.text(item)?.value;
        if OTHER_CLAIMS.contains(&name.as_str()) {
            return Err(decoder.report(
                Diagnostic::new(&item.at, format!("the claim `{name}` holds no scopes"))
                    .help("such as `scope`, `scp`, `roles`, `groups` or `permissions`"),
            ));
        }
        if seen.contains(&name) {
            return Err(decoder.wrong(&item.at, format!("`{name}` stands twice in this list")));
        }
        seen.push(name.clone());
        Ok(match name.as_str() {
            "scope" => ScopeClaim::Scope,
            "scp" => ScopeClaim::Scp,
            _ => ScopeClaim::Other(name.into()),
        })
    })
}

pub(super) fn url(decoder: &mut Decoder, node: &Node, may_have_query: bool) -> Decoded<Text> {
    let text = decoder.text(node)?;
    match text::check_url(&text.value, may_have_query) {
        Ok(()) => Ok(text),
        Err(problem) => Err(decoder.wrong(&node.at, problem)),
    }
}

fn algorithm(decoder: &mut Decoder, node: &Node) -> Decoded<Algorithm> {
    let help = "allow asymmetric algorithms only, such as `ES256`, `EdDSA` and `PS256`";
    match node.as_text() {
        // RFC 8725 §3.1, §3.2.
        Some(name) if name.eq_ignore_ascii_case("none") => Err(decoder.report(
            Diagnostic::new(
                &node.at,
                format!("`{name}` is no signature: anybody can write the token"),
            )
            .help(help),
        )),
        Some(name) if name.to_ascii_uppercase().starts_with("HS") => Err(decoder.report(
            Diagnostic::new(
                &node.at,
                format!("`{name}` is an HMAC: who can check a token could also make one"),
            )
            .help(help),
        )),
        Some(_) | None => decoder.word(node, &Algorithm::NAMED),
    }
}

fn token_type(decoder: &mut Decoder, node: &Node) -> Decoded<String> {
    let text = decoder.text(node)?;
    // RFC 7515 §4.1.9: `application/` may be left out, and media types ignore case.
    let lower = text.value.to_ascii_lowercase();
    let short = lower.strip_prefix("application/").unwrap_or(&lower);
    if OTHER_TYPES.contains(&short) {
        let message = format!("`{short}` is the type of a JWT that is no access token");
        return Err(decoder.wrong(&node.at, message));
    }
    // Kubernetes signs tokens without `typ`. No JWT type registered is called so.
    if short == ABSENT_TYPE {
        return Ok(short.to_owned());
    }
    if short.is_empty()
        || !short.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&b))
    {
        return Err(decoder.report(
            Diagnostic::new(&node.at, "expected a token's `typ`").help("such as `at+jwt` or `JWT`"),
        ));
    }
    Ok(short.to_owned())
}

fn claims(decoder: &mut Decoder, node: &Node) -> Decoded<Vec<(String, serde_json::Value)>> {
    let mut claims = Vec::new();
    let mut result = Ok(());
    for entry in decoder.entries(node)? {
        let value = match &entry.node.value {
            Value::Flag(flag) => Some(serde_json::Value::from(*flag)),
            Value::Number(number) => number
                .as_u64()
                .map(serde_json::Value::from)
                .or_else(|| number.as_i64().map(serde_json::Value::from)),
            Value::Text(text) if !text.is_empty() => Some(serde_json::Value::from(text.as_str())),
            Value::Text(_) | Value::Null | Value::List(_) | Value::Map(_) => None,
        };
        match value {
            Some(value) if !entry.key.value.is_empty() => {
                claims.push((entry.key.value.clone(), value));
            }
            Some(_) | None => {
                result = Err(decoder.wrong(
                    &entry.node.at,
                    "expected the value that the claim must have: a text, a whole number, `true` or `false`",
                ));
            }
        }
    }
    result.map(|()| claims)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::decode::Broken;

    #[test]
    fn nothing_broken_hides_a_claim() {
        let mut decoder = Decoder::default();
        let file = crate::policy::yaml::read(&"a.yaml".into(), b"{a: x, b: [y], c: 1, d: true}");
        assert_eq!(claims(&mut decoder, &file.documents[0].root), Err(Broken));
        assert_eq!(decoder.diagnostics.len(), 1);
        assert_eq!(&*decoder.diagnostics[0].at.field, "b");
    }
}
