//! What an allowed request carries on to the service: header templates and header ownership.
//!
//! A header that any policy sets is symbolon's own: services believe it. So a request never carries the
//! client's copy of one, in no spelling that a service may read as the same name.

pub mod template;

use std::borrow::Cow;

use smallvec::SmallVec;

use crate::{
    credential::Principal,
    evidence::{Evidence, authorization::Credentials},
    policy::{
        decision::{Denial, Permit},
        rule::Rule,
        upstream::template::{Rendered, ValueTemplate},
    },
    reason::Reason,
};

/// What a rule says of the request that goes on.
#[derive(Debug, Default)]
pub(in crate::policy) struct Upstream {
    pub(in crate::policy) set: Box<[(Name, ValueTemplate)]>,
    pub(in crate::policy) remove: Box<[Name]>,
    /// Override headers that are kept, with `-` for every mark.
    pub(in crate::policy) keep: Box<[Box<str>]>,
    pub(in crate::policy) pass_unverified_token: bool,
}

/// A header's name in the two spellings that are removed whether they are seen or not.
#[derive(Clone, Debug)]
pub(in crate::policy) struct Name {
    /// With `-` for every mark.
    canonical: Box<[u8]>,
    /// With `_` for `-`, where that is another.
    underscored: Option<Box<[u8]>>,
}

/// The headers that are symbolon's own, sorted by name.
#[derive(Debug, Default)]
pub(in crate::policy) struct Ownership(Box<[Name]>);

/// A header's name and its value.
pub type NamedValue<'a> = (&'a [u8], Cow<'a, [u8]>);

/// How an allowed request changes: its headers, of which no name is both set and removed, and its query.
/// Borrowed from the rules, the request and what of it is proven.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct HeaderChanges<'a> {
    /// Name and value; each overwrites whatever the request has.
    pub set: SmallVec<[NamedValue<'a>; 4]>,
    /// Names to remove.
    pub remove: SmallVec<[&'a [u8]; 16]>,
    /// Names of query parameters to remove, as the query spells them: Envoy compares them undecoded.
    pub remove_parameters: Vec<&'a [u8]>,
    /// A nonce for the client, which goes with the response (RFC 9449 §8.2).
    pub nonce: Option<String>,
}

impl<'s> Permit<'s> {
    /// Returns how the request changes on its way to the service.
    ///
    /// # Errors
    /// A denial (`upstream_header_invalid`), where a value is no fit header value: the call is then not
    /// allowed.
    pub fn upstream<'a>(
        &self,
        evidence: &'a Evidence<'_>,
        principal: &'a Principal<'_>,
        decision_id: &'a str,
    ) -> Result<HeaderChanges<'a>, Denial<'s>>
    where
        's: 'a,
    {
        // A TCP connection has no headers.
        let Some(request) = evidence.http() else { return Ok(HeaderChanges::default()) };
        let strip = Strip::of(self.rule(), self.verified_token(), request.credentials);
        let names = request.headers.names();
        let mut changes =
            changes(self.rule(), self.ownership(), strip, names, principal, decision_id)
                .map_err(|reason| Denial { reason, rule: Some(self.rule()) })?;
        if strip.query {
            let names = request.query_tokens.iter();
            changes.remove_parameters = names.map(|name| name.as_bytes()).collect();
        }
        Ok(changes)
    }
}

/// Which credentials do not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Strip {
    dpop: bool,
    authorization: bool,
    /// Tokens in the query (RFC 6750 §2.3).
    query: bool,
}

impl Strip {
    /// Services behind a gateway often only decode tokens: none goes on that nobody verified.
    fn of(rule: &Rule, verified_token: bool, credentials: Credentials<'_>) -> Self {
        let unverified = !verified_token && !rule.upstream.pass_unverified_token;
        let bearer = match credentials {
            // Another scheme, which is none of ours; a token in the query is no header.
            Credentials::Absent | Credentials::Unusable(Reason::TokenInQuery) => false,
            // What is ambiguous may hold one.
            Credentials::Token { .. } | Credentials::Unusable(_) => true,
        };
        Self { dpop: unverified, authorization: unverified && bearer, query: unverified }
    }
}

fn changes<'a>(
    rule: &'a Rule,
    ownership: &'a Ownership,
    strip: Strip,
    names: impl Iterator<Item = &'a [u8]>,
    principal: &'a Principal<'_>,
    decision_id: &'a str,
) -> Result<HeaderChanges<'a>, Reason> {
    let upstream = &rule.upstream;
    let mut changes = HeaderChanges::default();
    for (name, template) in &upstream.set {
        match template.render(principal, decision_id) {
            Rendered::Value(value) => changes.set.push((&name.canonical, value)),
            // Left to the ownership below, which removes it.
            Rendered::Absent => {}
            Rendered::Invalid => return Err(Reason::UpstreamHeaderInvalid),
        }
    }
    for name in &ownership.0 {
        if !changes.set.iter().any(|(set, _)| **set == *name.canonical) {
            changes.remove.push(&name.canonical);
        }
        changes.remove.extend(name.underscored.as_deref());
    }
    for name in upstream.remove.iter().filter(|name| !ownership.owns(&name.canonical)) {
        changes.remove.push(&name.canonical);
        changes.remove.extend(name.underscored.as_deref());
    }
    for name in names {
        changes.look_at(name, upstream, ownership, strip);
    }
    Ok(changes)
}

impl<'a> HeaderChanges<'a> {
    /// Looks at a header of the request: other spellings of what is removed, overrides, credentials.
    fn look_at(
        &mut self,
        name: &'a [u8],
        upstream: &Upstream,
        ownership: &Ownership,
        strip: Strip,
    ) {
        match name {
            b"authorization" if strip.authorization => self.remove.push(name),
            b"dpop" if strip.dpop => self.remove.push(name),
            _ => {}
        }
        let kept = |name: &[u8]| upstream.keep.iter().any(|kept| kept.as_bytes() == name);
        // All of them start so, and few other headers do.
        let overrides = |name: &[u8]| {
            name.starts_with(b"x-") && OVERRIDES.iter().any(|known| known.as_bytes() == name)
        };
        let remove = if name.iter().any(|b| *b != b'-' && is_folded(*b)) {
            let folded: SmallVec<[u8; 64]> = fold(name).collect();
            // The two pure spellings are removed whether they are seen or not.
            let mixed = name.iter().any(|b| *b != b'_' && is_folded(*b));
            let removed = || upstream.remove.iter().any(|removed| *removed.canonical == *folded);
            (overrides(&folded) && !kept(&folded))
                || (mixed && (ownership.owns(&folded) || removed()))
        } else {
            overrides(name) && !kept(name)
        };
        if remove {
            self.remove.push(name);
        }
    }
}

impl Name {
    /// Returns the name whatever its spelling.
    pub(in crate::policy) fn new(name: &str) -> Self {
        let canonical: Box<[u8]> = fold(name.as_bytes()).collect();
        let underscored = canonical
            .contains(&b'-')
            .then(|| canonical.iter().map(|&b| if b == b'-' { b'_' } else { b }).collect());
        Self { canonical, underscored }
    }

    pub(in crate::policy) fn as_str(&self) -> &str {
        // Made of a `str` in which ASCII was replaced by ASCII.
        std::str::from_utf8(&self.canonical).unwrap_or_default()
    }
}

impl Ownership {
    pub(in crate::policy) fn new(rules: &[Rule], kept: &[String]) -> Self {
        let set =
            rules.iter().flat_map(|rule| rule.upstream.set.iter().map(|(name, _)| name.clone()));
        let kept = kept.iter().map(|name| Name::new(name));
        let mut names: Vec<Name> = set.chain(kept).chain([Name::new(DECISION_HEADER)]).collect();
        names.sort_unstable_by(|a, b| a.canonical.cmp(&b.canonical));
        names.dedup_by(|a, b| a.canonical == b.canonical);
        Self(names.into())
    }

    pub(in crate::policy) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(Name::as_str)
    }

    fn owns(&self, folded: &[u8]) -> bool {
        self.0.binary_search_by(|name| (*name.canonical).cmp(folded)).is_ok()
    }
}

/// The header in which a denial names its decision; a request never carries one on.
pub const DECISION_HEADER: &str = "x-symbolon-decision";

/// Headers by which frameworks take another method or path than the one decided on.
pub(in crate::policy) const OVERRIDES: [&str; 12] = [
    "x-http-method",
    "x-http-method-override",
    "x-http-path-override",
    "x-method-override",
    "x-original-method",
    "x-original-path",
    "x-original-uri",
    "x-original-url",
    "x-override-url",
    "x-rewrite-path",
    "x-rewrite-uri",
    "x-rewrite-url",
];

/// Returns the octets of `name` in the one spelling that upstreams fold to: CGI, WSGI and Rack take `_` for
/// `-`, others (lighttpd for CGI, the variables of PHP) any other mark, too.
pub(in crate::policy) fn fold(name: &[u8]) -> impl Iterator<Item = u8> {
    name.iter().map(|&b| if is_folded(b) { b'-' } else { b.to_ascii_lowercase() })
}

const fn is_folded(byte: u8) -> bool {
    !byte.is_ascii_alphanumeric()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        credential::Proof,
        evidence::authorization::Scheme,
        policy::{document::Effect, upstream::template::tests::principal},
    };

    fn rule(set: &[(&str, &str)], remove: &[&str], keep: &[&str]) -> Rule {
        Rule {
            id: "p/r".into(),
            effect: Effect::Allow,
            from: None,
            token: None,
            upgrades: None,
            preflight: false,
            upstream: Upstream {
                set: set
                    .iter()
                    .map(|(name, text)| (Name::new(name), ValueTemplate::parse(text).unwrap()))
                    .collect(),
                remove: remove.iter().map(|name| Name::new(name)).collect(),
                keep: keep.iter().map(|name| (*name).into()).collect(),
                pass_unverified_token: false,
            },
        }
    }

    const PASS: Strip = Strip { dpop: false, authorization: false, query: false };

    /// Set and removed.
    type Changed = (Vec<(String, String)>, Vec<String>);

    fn run(rule: &Rule, owned: &[&str], strip: Strip, names: &[&str]) -> Changed {
        let owned: Vec<String> = owned.iter().map(|name| (*name).to_owned()).collect();
        let ownership = Ownership::new(std::slice::from_ref(rule), &owned);
        let nobody = Principal {
            peer: Proof::Absent,
            workload: Proof::Absent,
            token: Proof::Absent,
            refused_token: None,
        };
        let names = names.iter().map(|name| name.as_bytes());
        let changes = changes(rule, &ownership, strip, names, &nobody, "id-1").unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let set = changes.set.iter().map(|(name, value)| (text(name), text(value))).collect();
        let mut removed: Vec<String> = changes.remove.iter().map(|name| text(name)).collect();
        removed.sort_unstable();
        (set, removed)
    }

    #[test]
    fn a_header_that_is_set_loses_its_other_spellings_only() {
        let rule = rule(&[("x-caller-id", "{decision.id}")], &[], &[]);
        let (set, removed) = run(&rule, &[], PASS, &["x-caller-id", "x-caller_id", "x_caller_id"]);
        assert_eq!(set, [("x-caller-id".to_owned(), "id-1".to_owned())]);
        assert_eq!(
            removed,
            ["x-caller_id", "x-symbolon-decision", "x_caller_id", "x_symbolon_decision"]
        );
    }

    #[test]
    fn a_header_whose_value_is_absent_is_removed() {
        let rule = rule(&[("x-sub", "user {token.sub}")], &[], &[]);
        let (set, removed) = run(&rule, &[], PASS, &[]);
        assert!(set.is_empty());
        assert_eq!(removed, ["x-sub", "x-symbolon-decision", "x_sub", "x_symbolon_decision"]);
    }

    #[test]
    fn headers_that_others_own_are_removed_in_every_spelling() {
        let rule = rule(&[], &[], &[]);
        let (_, removed) = run(&rule, &["X_Tenant-Id"], PASS, &["x_tenant-id", "x-tenant"]);
        assert_eq!(
            removed,
            [
                "x-symbolon-decision",
                "x-tenant-id",
                "x_symbolon_decision",
                "x_tenant-id",
                "x_tenant_id"
            ]
        );
    }

    #[test]
    fn headers_to_remove_go_in_every_spelling() {
        let rule = rule(&[], &["x-a-b-c"], &[]);
        let (_, removed) = run(&rule, &[], PASS, &["x-a_b-c"]);
        assert_eq!(
            removed,
            ["x-a-b-c", "x-a_b-c", "x-symbolon-decision", "x_a_b_c", "x_symbolon_decision"]
        );
    }

    #[test]
    fn override_headers_are_removed_where_present_unless_kept() {
        let names = ["x-http-method-override", "x_original_url", "x-rewrite-url", "accept"];
        let (_, removed) = run(&rule(&[], &[], &["x-rewrite-url"]), &[], PASS, &names);
        assert_eq!(
            removed,
            [
                "x-http-method-override",
                "x-symbolon-decision",
                "x_original_url",
                "x_symbolon_decision"
            ]
        );
    }

    #[test]
    fn unverified_credentials_are_removed_where_present() {
        let strip = Strip { dpop: true, authorization: true, query: true };
        let rule = rule(&[], &[], &[]);
        let (_, removed) = run(&rule, &[], strip, &["authorization", "dpop"]);
        assert_eq!(
            removed,
            ["authorization", "dpop", "x-symbolon-decision", "x_symbolon_decision"]
        );
        assert_eq!(run(&rule, &[], PASS, &["authorization", "dpop"]).1.len(), 2);
    }

    #[test]
    fn credentials_go_on_where_they_were_verified_or_the_rule_passes_them() {
        let token = Credentials::Token { scheme: Scheme::Bearer, token: "t" };
        let mut rule = rule(&[], &[], &[]);
        let strip = |query, authorization| Strip { dpop: query, authorization, query };
        assert_eq!(Strip::of(&rule, true, token), strip(false, false));
        assert_eq!(Strip::of(&rule, false, token), strip(true, true));
        assert_eq!(Strip::of(&rule, false, Credentials::Absent), strip(true, false));
        let two = Credentials::Unusable(Reason::CredentialsAmbiguous);
        assert_eq!(Strip::of(&rule, false, two), strip(true, true));
        let in_query = Credentials::Unusable(Reason::TokenInQuery);
        assert_eq!(Strip::of(&rule, false, in_query), strip(true, false));
        rule.upstream.pass_unverified_token = true;
        assert_eq!(Strip::of(&rule, false, token), strip(false, false));
    }

    #[test]
    fn a_value_that_is_no_header_value_denies() {
        let rule = rule(&[("x-sub", "{token.sub}")], &[], &[]);
        let ownership = Ownership::new(&[], &[]);
        let principal = principal("line\nbreak");
        let outcome = changes(&rule, &ownership, PASS, std::iter::empty(), &principal, "id");
        assert_eq!(outcome.unwrap_err(), Reason::UpstreamHeaderInvalid);
    }
}
