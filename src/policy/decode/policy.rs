//! `Policy.spec`.

use std::{collections::BTreeMap, ops::RangeInclusive, time::Duration};

use super::{Broken, Decoded, Decoder, document::checked_name, issuer::url};
use crate::{
    diagnostic::{At, Diagnostic, Spanned},
    policy::{
        document::{
            ActorDocument, ActorNameDocument, BindingName, Effect, FromDocument, NonceMode,
            OriginDocument, PolicyDocument, ReplayDocument, RuleDocument, Text, ToDocument,
            TokenDocument, UpstreamDocument,
        },
        yaml::{Node, Value},
    },
};

/// A user cannot have authenticated less than a second ago (`max_age` of RFC 9470 §3 has whole seconds);
/// beyond a year nobody asks.
const MAX_AGE: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(366 * 24 * 60 * 60);

/// As many actors as a token may have.
const MAX_DEPTH: RangeInclusive<u64> = 1..=8;

/// A Policy without its name.
#[derive(Debug)]
pub(super) struct Spec {
    workloads: Option<Vec<Text>>,
    hosts: Option<Vec<Text>>,
    audiences: Option<Vec<Text>>,
    path_forms: Vec<Text>,
    case_insensitive: bool,
    origin: Option<OriginDocument>,
    resource_metadata: Option<Text>,
    rules: Vec<RuleDocument>,
    broken: bool,
}

/// Returns what could be read of a part whose mistake is reported, so that what is wrong elsewhere comes out
/// of the same run.
fn salvage<T: Default>(part: Decoded<T>, broken: &mut bool) -> T {
    part.unwrap_or_else(|Broken| {
        *broken = true;
        T::default()
    })
}

impl Spec {
    pub(super) fn named(self, name: Text, at: At) -> PolicyDocument {
        let Self {
            workloads,
            hosts,
            audiences,
            path_forms,
            case_insensitive,
            origin,
            resource_metadata,
            rules,
            broken,
        } = self;
        PolicyDocument {
            name,
            workloads,
            hosts,
            audiences,
            path_forms,
            case_insensitive,
            origin,
            resource_metadata,
            rules,
            broken,
            at,
        }
    }
}

pub(super) fn spec(decoder: &mut Decoder, node: &Node) -> Decoded<Spec> {
    let mut fields = decoder.map(node)?;
    if let Some(mode) = fields.get("mode") {
        mode_is_enforced(decoder, mode);
    }
    let workloads = fields.optional(decoder, "workloads", Decoder::texts);
    let hosts = fields.optional(decoder, "hosts", Decoder::texts);
    let audiences = fields.optional(decoder, "audiences", Decoder::texts);
    let path_forms = fields.optional(decoder, "pathForms", Decoder::texts);
    let case_insensitive = fields.optional(decoder, "caseInsensitive", Decoder::flag);
    let origin = fields.optional(decoder, "origin", origin);
    let resource_metadata =
        fields.optional(decoder, "resourceMetadata", |decoder, node| url(decoder, node, true));
    let mut broken = false;
    let rules = fields.required(decoder, "rules", |decoder, node| {
        let rules = decoder.list(node, rule)?;
        // Those that could not be read are left out.
        broken = matches!(&node.value, Value::List(items) if items.len() != rules.len());
        Ok(rules)
    });
    fields.not_enforced(decoder, "replaces");
    fields.finish(decoder);
    let rules = rules?;
    names_are_unique(decoder, &rules);
    Ok(Spec {
        workloads: salvage(workloads, &mut broken),
        hosts: salvage(hosts, &mut broken),
        audiences: salvage(audiences, &mut broken),
        path_forms: salvage(path_forms, &mut broken).unwrap_or_default(),
        case_insensitive: salvage(case_insensitive, &mut broken).unwrap_or_default(),
        origin: salvage(origin, &mut broken),
        resource_metadata: salvage(resource_metadata, &mut broken),
        rules,
        broken,
    })
}

/// One origin, or a map from hosts to origins.
fn origin(decoder: &mut Decoder, node: &Node) -> Decoded<OriginDocument> {
    if !matches!(node.value, Value::Map(_)) {
        return decoder.text(node).map(OriginDocument::One);
    }
    let entries = decoder.entries(node)?;
    let mut origins = Vec::with_capacity(entries.len());
    for entry in entries {
        origins.push((entry.key.clone(), decoder.text(&entry.node)?));
    }
    Ok(OriginDocument::ByHost(origins))
}

fn mode_is_enforced(decoder: &mut Decoder, node: &Node) {
    if node.as_text() == Some("shadow") {
        decoder.report(
            Diagnostic::new(
                &node.at,
                format!("`{}: shadow` is not enforced by this version", node.at.field),
            )
            .help("leave the policy out until then: a shadow policy is no part of decisions"),
        );
    } else {
        // The word alone is read; what is wrong with it is reported.
        let (Ok(()) | Err(Broken)) = decoder.word(node, &[("enforce", ())]);
    }
}

fn names_are_unique(decoder: &mut Decoder, rules: &[RuleDocument]) {
    let mut seen: BTreeMap<&str, &At> = BTreeMap::new();
    for rule in rules {
        let name = &rule.name;
        if let Some(first) = seen.get(name.value.as_str()) {
            decoder.report(
                Diagnostic::new(&name.at, format!("two rules are named `{}`", name.value))
                    .help(format!("the first one is at {}:{}", first.file, first.line)),
            );
        } else {
            seen.insert(&name.value, &name.at);
        }
    }
}

fn rule(decoder: &mut Decoder, node: &Node) -> Decoded<RuleDocument> {
    const EFFECTS: [(&str, Effect); 2] = [("allow", Effect::Allow), ("deny", Effect::Deny)];
    let mut fields = decoder.map(node)?;
    let name = fields.required(decoder, "name", |decoder, node| {
        let name = decoder.text(node)?;
        checked_name(decoder, name)
    });
    let effect = fields.optional(decoder, "effect", |decoder, node| decoder.word(node, &EFFECTS));
    let public = fields.optional(decoder, "public", Decoder::flag);
    let mut broken = false;
    let to = fields.optional(decoder, "to", |decoder, node| to(decoder, node, &mut broken));
    let from = fields.optional(decoder, "from", from);
    let token =
        fields.optional(decoder, "token", |decoder, node| token(decoder, node, &mut broken));
    let upstream = fields.optional(decoder, "upstream", upstream);
    fields.not_enforced(decoder, "when");
    fields.finish(decoder);
    Ok(RuleDocument {
        name: name?,
        effect: salvage(effect, &mut broken).unwrap_or_default(),
        public: salvage(public, &mut broken).unwrap_or_default(),
        to: salvage(to, &mut broken),
        from: salvage(from, &mut broken),
        token: salvage(token, &mut broken),
        upstream: salvage(upstream, &mut broken),
        broken,
        at: node.at.clone(),
    })
}

fn to(decoder: &mut Decoder, node: &Node, broken: &mut bool) -> Decoded<ToDocument> {
    let mut fields = decoder.map(node)?;
    let methods = fields.optional(decoder, "methods", Decoder::texts);
    let paths = fields.optional(decoder, "paths", Decoder::texts);
    let upgrades = fields.optional(decoder, "upgrades", Decoder::texts);
    let preflight = fields.optional(decoder, "preflight", Decoder::flag);
    let tcp = fields.optional(decoder, "tcp", |decoder, node| {
        let mut fields = decoder.map(node)?;
        let ports = fields.required(decoder, "ports", |decoder, node| decoder.list(node, port));
        fields.finish(decoder);
        ports
    });
    fields.finish(decoder);
    Ok(ToDocument {
        methods: salvage(methods, broken),
        paths: salvage(paths, broken),
        upgrades: salvage(upgrades, broken),
        preflight: salvage(preflight, broken).unwrap_or_default(),
        tcp: salvage(tcp, broken),
        at: node.at.clone(),
    })
}

fn port(decoder: &mut Decoder, node: &Node) -> Decoded<Spanned<u16>> {
    let number = decoder.integer(node, &(1..=u64::from(u16::MAX)))?;
    let value = u16::try_from(number).map_err(|_error| Broken)?;
    Ok(Spanned { value, at: node.at.clone() })
}

fn from(decoder: &mut Decoder, node: &Node) -> Decoded<FromDocument> {
    let mut fields = decoder.map(node)?;
    let spiffe = fields.optional(decoder, "spiffe", Decoder::texts);
    let dns = fields.optional(decoder, "dns", Decoder::texts);
    let thumbprints = fields.optional(decoder, "thumbprints", Decoder::texts);
    let wimse = fields.optional(decoder, "wimse", Decoder::texts);
    for key in ["via", "subjects", "issuers"] {
        fields.not_enforced(decoder, key);
    }
    fields.finish(decoder);
    let (spiffe, dns, thumbprints, wimse) = (spiffe?, dns?, thumbprints?, wimse?);
    Ok(FromDocument { spiffe, dns, thumbprints, wimse, at: node.at.clone() })
}

fn token(decoder: &mut Decoder, node: &Node, broken: &mut bool) -> Decoded<TokenDocument> {
    const BINDINGS: [(&str, BindingName); 3] = [
        ("certificate", BindingName::Certificate),
        ("dpop", BindingName::Dpop),
        ("none", BindingName::None),
    ];
    const NONCES: [(&str, NonceMode); 3] =
        [("off", NonceMode::Off), ("on", NonceMode::On), ("required", NonceMode::Required)];
    let mut fields = decoder.map(node)?;
    let issuers = fields.required(decoder, "issuers", Decoder::texts);
    let scopes = fields.optional(decoder, "scopes", Decoder::texts);
    let binding = fields.optional(decoder, "binding", |decoder, node| {
        decoder.list(node, |decoder, item| word(decoder, item, &BINDINGS))
    });
    let subjects = fields.optional(decoder, "subjects", Decoder::texts);
    let replay = fields.optional(decoder, "replay", |decoder, node| {
        Ok(Spanned { value: replay(decoder, node)?, at: node.at.clone() })
    });
    let nonce = fields.optional(decoder, "nonce", |decoder, node| word(decoder, node, &NONCES));
    let acr = fields.optional(decoder, "acr", Decoder::texts);
    let max_age = fields.optional(decoder, "maxAge", |decoder, node| {
        Ok(Spanned { value: decoder.duration(node, &MAX_AGE)?, at: node.at.clone() })
    });
    let actor = fields.optional(decoder, "actor", |decoder, node| {
        Ok(Spanned { value: actor(decoder, node)?, at: node.at.clone() })
    });
    fields.finish(decoder);
    Ok(TokenDocument {
        issuers: issuers?,
        scopes: salvage(scopes, broken),
        binding: binding?,
        subjects: salvage(subjects, broken),
        replay: replay?,
        nonce: nonce?,
        acr: salvage(acr, broken),
        max_age: salvage(max_age, broken),
        actor: salvage(actor, broken),
        at: node.at.clone(),
    })
}

/// `consume`, `observe`, or for whom it is observed.
fn replay(decoder: &mut Decoder, node: &Node) -> Decoded<ReplayDocument> {
    const WORDS: [(&str, bool); 2] = [("consume", true), ("observe", false)];
    if !matches!(node.value, Value::Map(_)) {
        let consume = decoder.word(node, &WORDS)?;
        return Ok(if consume { ReplayDocument::Consume } else { ReplayDocument::Observe });
    }
    let mut fields = decoder.map(node)?;
    let callers = fields.required(decoder, "observe", Decoder::texts);
    fields.finish(decoder);
    Ok(ReplayDocument::ObserveFor(callers?))
}

/// `none`, `any`, or what the actor must be.
fn actor(decoder: &mut Decoder, node: &Node) -> Decoded<ActorDocument> {
    const WORDS: [(&str, bool); 2] = [("none", false), ("any", true)];
    if !matches!(node.value, Value::Map(_)) {
        let any = decoder.word(node, &WORDS)?;
        return Ok(if any { ActorDocument::Any } else { ActorDocument::None });
    }
    let mut fields = decoder.map(node)?;
    let subjects =
        fields.optional(decoder, "subjects", |decoder, node| decoder.list(node, actor_name));
    let max_depth = fields.optional(decoder, "maxDepth", |decoder, node| {
        let depth = decoder.integer(node, &MAX_DEPTH)?;
        let value = usize::try_from(depth).map_err(|_error| Broken)?;
        Ok(Spanned { value, at: node.at.clone() })
    });
    fields.finish(decoder);
    Ok(ActorDocument::Map { subjects: subjects?, max_depth: max_depth? })
}

/// A `sub`, or `sub` and `iss`.
fn actor_name(decoder: &mut Decoder, node: &Node) -> Decoded<ActorNameDocument> {
    if !matches!(node.value, Value::Map(_)) {
        let subject = decoder.text(node)?;
        return Ok(ActorNameDocument { subject, issuer: None });
    }
    let mut fields = decoder.map(node)?;
    let subject = fields.required(decoder, "sub", Decoder::text);
    let issuer = fields.optional(decoder, "iss", Decoder::text);
    fields.finish(decoder);
    Ok(ActorNameDocument { subject: subject?, issuer: issuer? })
}

fn word<T: Copy>(
    decoder: &mut Decoder,
    node: &Node,
    words: &[(&'static str, T)],
) -> Decoded<Spanned<T>> {
    Ok(Spanned { value: decoder.word(node, words)?, at: node.at.clone() })
}

fn upstream(decoder: &mut Decoder, node: &Node) -> Decoded<UpstreamDocument> {
    let mut fields = decoder.map(node)?;
    let headers = fields.optional(decoder, "headers", |decoder, node| {
        let mut headers = Vec::new();
        for entry in decoder.entries(node)? {
            if let Ok(template) = decoder.text(&entry.node) {
                headers.push((entry.key.clone(), template));
            }
        }
        Ok(headers)
    });
    let remove = fields.optional(decoder, "remove", Decoder::texts);
    let keep = fields.optional(decoder, "keep", Decoder::texts);
    let pass = fields.optional(decoder, "unverifiedToken", |decoder, node| {
        decoder.word(node, &[("pass", true)])
    });
    fields.finish(decoder);
    Ok(UpstreamDocument {
        headers: headers?.unwrap_or_default(),
        remove: remove?.unwrap_or_default(),
        keep: keep?.unwrap_or_default(),
        pass_unverified_token: pass?.unwrap_or_default(),
    })
}
