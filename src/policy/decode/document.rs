//! Whose document it is, and the documents themselves.

use std::{collections::BTreeMap, sync::Arc};

use super::{Broken, Decoded, Decoder, Fields, issuer, keys, policy, text};
use crate::{
    diagnostic::{At, Diagnostic, Spanned},
    evidence::PeerSources,
    identity::SpiffeId,
    policy::{
        document::{Documents, PeerTrustDocument, Profile, Text, TrustDomainDocument, Unnamed},
        yaml::{Node, Value},
    },
};

/// The version of the format.
pub const API_VERSION: &str = "symbolon/v1";

/// The kinds that are enforced, and those of the format that are not yet.
const KINDS: [&str; 4] = ["TrustDomain", "PeerTrust", "Issuer", "Policy"];
const KINDS_NOT_ENFORCED: [&str; 2] = ["Revocations", "PolicyTest"];

/// Whose a document is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Ours, of this kind.
    Ours(String),
    /// Meant to be ours, and wrong.
    NearMiss(Diagnostic),
    /// Another program's.
    Other,
    /// Nobody's: there is nothing in it.
    Nobody,
}

/// Says whose the document `root` is, from its `apiVersion` and `kind`.
///
/// One of ours inside another's (a Kubernetes `List`, a list of documents) is a near miss: it would not be
/// read. Text that quotes one (a `ConfigMap`) is not looked into.
#[must_use]
pub fn owner(root: &Node) -> Owner {
    match owner_of_outermost(root) {
        Owner::Other => nested(root).map_or(Owner::Other, |at| {
            Owner::NearMiss(
                Diagnostic::new(at, "a symbolon document inside another is not read")
                    .help("make it a document of its own"),
            )
        }),
        known @ (Owner::Ours(_) | Owner::NearMiss(_) | Owner::Nobody) => known,
    }
}

/// Returns where a document of ours stands inside another. The depth is bounded by that of the tree.
fn nested(node: &Node) -> Option<&At> {
    match &node.value {
        Value::Map(entries) => {
            let version = node.entry("apiVersion").filter(|entry| {
                entry.node.as_text().is_some_and(|text| text.starts_with("symbolon/"))
            });
            match version {
                Some(version) if node.entry("kind").is_some() => Some(&version.key.at),
                Some(_) | None => entries.iter().find_map(|entry| nested(&entry.node)),
            }
        }
        Value::List(items) => items.iter().find_map(nested),
        Value::Null | Value::Flag(_) | Value::Number(_) | Value::Text(_) => None,
    }
}

fn owner_of_outermost(root: &Node) -> Owner {
    let Value::Map(entries) = &root.value else {
        return if root.value == Value::Null { Owner::Nobody } else { Owner::Other };
    };
    // Given twice, the one that is ours counts: another parser may take either, and being ours reports it.
    let versions = || entries.iter().filter(|entry| entry.key.value == "apiVersion");
    let ours = versions().find(|entry| entry.node.as_text().is_some_and(is_our_group));
    let Some(version) = ours.or_else(|| versions().next()) else {
        let misnamed = entries.iter().find(|entry| {
            entry.key.value.eq_ignore_ascii_case("apiVersion")
                || entry.node.as_text().is_some_and(|text| text.eq_ignore_ascii_case(API_VERSION))
        });
        if let Some(entry) = misnamed.filter(|entry| {
            entry.node.as_text().is_none_or(is_our_group) || kind_of(root).is_some_and(is_our_kind)
        }) {
            return Owner::NearMiss(
                Diagnostic::new(&entry.key.at, format!("unknown field `{}`", entry.key.value))
                    .help("did you mean `apiVersion`?"),
            );
        }
        return match kind_of(root) {
            Some(kind) if is_our_kind(kind) => Owner::NearMiss(
                Diagnostic::new(&root.at, "`apiVersion` is missing")
                    .help(format!("write `apiVersion: {API_VERSION}`")),
            ),
            Some(_) | None => Owner::Other,
        };
    };
    match version.node.as_text() {
        Some(API_VERSION) => our_kind(root),
        Some(text) if is_our_group(text) => Owner::NearMiss(near_version(&version.node.at, text)),
        None if kind_of(root).is_some_and(is_our_kind) => Owner::NearMiss(
            Diagnostic::new(&version.node.at, format!("expected `{API_VERSION}`"))
                .help("a document of this kind is symbolon's"),
        ),
        Some(_) | None => Owner::Other,
    }
}

fn near_version(at: &At, found: &str) -> Diagnostic {
    Diagnostic::new(at, format!("expected `{API_VERSION}`, found `{found}`"))
        .help(format!("did you mean `{API_VERSION}`?"))
}

fn kind_of(root: &Node) -> Option<&str> {
    root.entry("kind").and_then(|entry| entry.node.as_text())
}

fn is_our_kind(kind: &str) -> bool {
    KINDS.iter().chain(&KINDS_NOT_ENFORCED).any(|ours| *ours == kind)
}

/// Says whether the group of an `apiVersion` is ours or nearly so.
fn is_our_group(version: &str) -> bool {
    let group = version.split('/').next().unwrap_or_default().trim();
    let name = group.split('.').next().unwrap_or_default();
    text::nearest(name, &["symbolon"]).is_some()
}

fn our_kind(root: &Node) -> Owner {
    let wrong = |at: &At, message: String, near: Option<&str>| {
        let mistake = Diagnostic::new(at, message);
        Owner::NearMiss(match near {
            Some(near) => mistake.help(format!("did you mean `{near}`?")),
            None => mistake.help(format!("the kinds are {}", text::and(&KINDS))),
        })
    };
    match root.entry("kind") {
        None => wrong(&root.at, "`kind` is missing".to_owned(), None),
        Some(entry) => match entry.node.as_text() {
            Some(kind) if KINDS.contains(&kind) => Owner::Ours(kind.to_owned()),
            Some(kind) if KINDS_NOT_ENFORCED.contains(&kind) => Owner::NearMiss(
                Diagnostic::new(
                    &entry.node.at,
                    format!("kind `{kind}` is not enforced by this version"),
                )
                .help("it would be accepted without effect; do without it until a version enforces it"),
            ),
            Some(kind) => {
                wrong(&entry.node.at, format!("unknown kind `{kind}`"), text::nearest(kind, &KINDS))
            }
            None => wrong(
                &entry.node.at,
                format!("expected a kind, found {}", entry.node.value.kind()),
                None,
            ),
        },
    }
}

/// Decodes documents one by one, and looks after what must be unique among all.
#[derive(Debug)]
pub struct Decoding<'t> {
    /// The files of the directory, for those that documents name.
    pub files: &'t BTreeMap<Arc<str>, Vec<u8>>,
    /// What was decoded.
    pub documents: Documents,
    /// The mistakes.
    pub decoder: Decoder,
    names: BTreeMap<(&'static str, String), At>,
    issuers: BTreeMap<String, At>,
    /// `documents.peer_trust` stands for one that was only seen in a file's text.
    salvaged_peer_trust: bool,
}

impl<'t> Decoding<'t> {
    /// Begins with nothing.
    #[must_use]
    pub fn new(files: &'t BTreeMap<Arc<str>, Vec<u8>>) -> Self {
        Self {
            files,
            documents: Documents::default(),
            decoder: Decoder::default(),
            names: BTreeMap::new(),
            issuers: BTreeMap::new(),
            salvaged_peer_trust: false,
        }
    }

    /// Decodes a document of the kind that [`owner`] found. Mistakes are in [`Self::decoder`].
    pub fn document(&mut self, kind: &str, root: &Node) {
        let Ok(mut fields) = self.decoder.map(root) else { return };
        fields.get("apiVersion");
        fields.get("kind");
        let name = fields.required(&mut self.decoder, "metadata", metadata);
        let name = match kind {
            "TrustDomain" => {
                let name = name.and_then(|name| self.trust_domain_name(name));
                self.trust_domain(&mut fields, name)
            }
            "PeerTrust" => {
                let name = name.and_then(|name| self.plain_name("PeerTrust", name));
                self.peer_trust(&mut fields, name);
                Ok(())
            }
            "Issuer" => {
                let name = name.and_then(|name| self.plain_name("Issuer", name));
                self.issuer(&mut fields, name);
                Ok(())
            }
            _ => {
                let name = name.and_then(|name| self.plain_name("Policy", name));
                self.policy(&mut fields, name)
            }
        };
        // A document that cannot be used has its mistakes reported.
        let (Ok(()) | Err(Broken)) = name;
        fields.finish(&mut self.decoder);
    }

    /// Takes in what a file that cannot be read seems to declare, so that references to it do not count
    /// as dangling beside the real mistake.
    pub fn salvage(&mut self, file: &Arc<str>, text: &str) {
        let at = crate::policy::yaml::start_of(file);
        for part in text.split("\n---") {
            let kind = part.lines().find_map(|line| line.strip_prefix("kind:")).map(first_word);
            let names = part.lines().filter_map(|line| {
                line.split_once("name:").map(|(_, rest)| first_word(rest).to_owned())
            });
            match kind {
                Some(kind) => self.seems_declared(kind, names, &at),
                // In flow style, perhaps: it may be anything.
                None if part.contains("symbolon/") => self.seems_declared_unknown(),
                None => {}
            }
        }
    }

    /// Takes in what a document that is nearly ours seems to declare, likewise.
    pub fn near_miss(&mut self, root: &Node) {
        let text = |node: &Node, key: &str| node.entry(key).map(|entry| entry.node.clone());
        let name = text(root, "metadata").and_then(|metadata| text(&metadata, "name"));
        let name = name.and_then(|name| name.as_text().map(str::to_owned));
        let nearest = |kind: &str| {
            text::nearest(kind, &KINDS).or_else(|| text::nearest(kind, &KINDS_NOT_ENFORCED))
        };
        match kind_of(root).and_then(nearest) {
            Some(kind) => self.seems_declared(kind, name.into_iter(), &root.at),
            None => self.seems_declared_unknown(),
        }
    }

    fn seems_declared(&mut self, kind: &str, names: impl Iterator<Item = String>, at: &At) {
        let documents = &mut self.documents;
        let mut names = names.peekable();
        let is_unnamed = names.peek().is_none();
        match kind {
            "Issuer" => {
                documents.unnamed.issuers |= is_unnamed;
                documents.broken_issuers.extend(names);
            }
            "TrustDomain" => {
                documents.unnamed.trust_domains |= is_unnamed;
                documents.trust_domains.extend(names.map(|value| TrustDomainDocument {
                    name: Spanned { value, at: at.clone() },
                    bundle: None,
                    broken: true,
                }));
            }
            "PeerTrust" => {
                self.salvaged_peer_trust |= documents.peer_trust.is_none();
                self.stand_in(at);
            }
            _ => {}
        }
    }

    const fn seems_declared_unknown(&mut self) {
        self.documents.unnamed = Unnamed { issuers: true, trust_domains: true, peer_trust: true };
    }

    /// Puts a `PeerTrust` in the place of one that could not be decoded, so that rules which need one are
    /// not reported. The load has failed; nothing is believed on its account.
    fn stand_in(&mut self, at: &At) {
        let value = PeerSources { principal: true, certificate: true, xfcc: true };
        self.documents.peer_trust.get_or_insert_with(|| PeerTrustDocument {
            name: Spanned { value: String::new(), at: at.clone() },
            evidence: Spanned { value, at: at.clone() },
        });
    }

    fn plain_name(&mut self, kind: &'static str, name: Text) -> Decoded<Text> {
        let name = checked_name(&mut self.decoder, name)?;
        self.unique(kind, &name);
        Ok(name)
    }

    fn trust_domain_name(&mut self, name: Text) -> Decoded<Text> {
        // SPIFFE-ID §2.1: the trust domain alone is an ID without a path.
        let id = format!("spiffe://{}", name.value);
        let problem = match SpiffeId::parse(&id) {
            Ok(id) if id.path().is_empty() => {
                self.unique("TrustDomain", &name);
                return Ok(name);
            }
            Ok(_) => "a trust domain has no path".to_owned(),
            Err(error) => error.to_string(),
        };
        let mistake =
            Diagnostic::new(&name.at, format!("`{}` is no trust domain: {problem}", name.value));
        Err(self.decoder.report(mistake.help("write it as `prod.example`, without `spiffe://`")))
    }

    /// Reports a name that another document of the kind has.
    fn unique(&mut self, kind: &'static str, name: &Text) {
        if let Some(first) = self.names.get(&(kind, name.value.clone())) {
            let mistake =
                Diagnostic::new(&name.at, format!("{kind} `{}` is declared twice", name.value))
                    .help(format!("the first one is at {}:{}", first.file, first.line));
            self.decoder.report(mistake);
        } else {
            self.names.insert((kind, name.value.clone()), name.at.clone());
        }
    }

    fn trust_domain(&mut self, fields: &mut Fields<'_>, name: Decoded<Text>) -> Decoded<()> {
        let files = self.files;
        let bundle = fields.optional(&mut self.decoder, "spec", |decoder, node| {
            keys::trust_domain_bundle(decoder, node, files)
        });
        self.documents.unnamed.trust_domains |= name.is_err();
        let broken = bundle.is_err();
        let bundle = bundle.ok().flatten().flatten();
        self.documents.trust_domains.push(TrustDomainDocument { name: name?, bundle, broken });
        Ok(())
    }

    /// Gives the issuers of JWT-SVIDs the bundle of their trust domain. Call it when all documents are read.
    pub fn resolve_trust_domains(&mut self) {
        let Documents { trust_domains, issuers, unnamed, .. } = &mut self.documents;
        for issuer in issuers.iter_mut().filter(|issuer| issuer.profile == Profile::JwtSvid) {
            let of = issuer.issuer.value.strip_prefix("spiffe://").unwrap_or_default();
            let declared = trust_domains.iter().find(|domain| domain.name.value == of);
            let mistake = match declared {
                Some(TrustDomainDocument { bundle: Some(bundle), .. }) => {
                    issuer.keys = bundle.clone();
                    continue;
                }
                Some(TrustDomainDocument { broken: true, .. }) => continue,
                Some(_) => Diagnostic::new(
                    &issuer.issuer.at,
                    format!("the TrustDomain `{of}` has no `spiffeBundle`, where the keys of its JWT-SVIDs are"),
                )
                .help("add `spiffeBundle: {url: …}` or `spiffeBundle: {file: …}`, and `verify: never`, to its `spec`"),
                None if unnamed.trust_domains => continue,
                None => {
                    let known: Vec<&str> =
                        trust_domains.iter().map(|domain| &*domain.name.value).collect();
                    let mistake = Diagnostic::new(
                        &issuer.issuer.at,
                        format!("no TrustDomain `{of}` is declared"),
                    );
                    match text::nearest(of, &known) {
                        Some(near) => mistake.help(format!("did you mean `{near}`?")),
                        None => mistake.help("add a document of kind TrustDomain with its `spiffeBundle`"),
                    }
                }
            };
            self.decoder.report(mistake);
        }
    }

    fn peer_trust(&mut self, fields: &mut Fields<'_>, name: Decoded<Text>) {
        let at = fields.at().clone();
        let evidence = fields.required(&mut self.decoder, "spec", |decoder, node| {
            let mut spec = decoder.map(node)?;
            let evidence = spec.required(decoder, "evidence", evidence);
            for key in ["forwarders", "forwarded"] {
                spec.not_enforced(decoder, key);
            }
            spec.finish(decoder);
            evidence
        });
        if std::mem::take(&mut self.salvaged_peer_trust) {
            // The one that was seen in the text may be this one.
            self.documents.peer_trust = None;
        }
        if let Some(first) = &self.documents.peer_trust {
            let first =
                format!("the first one is at {}:{}", first.name.at.file, first.name.at.line);
            let here = name.as_ref().map_or(&at, |name| &name.at);
            self.decoder.report(Diagnostic::new(here, "more than one PeerTrust").help(first));
            return;
        }
        match (name, evidence) {
            (Ok(name), Ok(evidence)) => {
                self.documents.peer_trust = Some(PeerTrustDocument { name, evidence });
            }
            (Ok(_) | Err(Broken), _) => self.stand_in(&at),
        }
    }

    fn issuer(&mut self, fields: &mut Fields<'_>, name: Decoded<Text>) {
        let files = self.files;
        let spec = fields.required(&mut self.decoder, "spec", |decoder, node| {
            issuer::spec(decoder, node, files)
        });
        if let Ok(spec) = &spec {
            let issuer = &spec.issuer;
            if let Some(first) = self.issuers.get(&issuer.value) {
                let mistake = Diagnostic::new(
                    &issuer.at,
                    format!("two Issuers have the issuer `{}`", issuer.value),
                )
                .help(format!("the first one is at {}:{}", first.file, first.line));
                self.decoder.report(mistake);
            } else {
                self.issuers.insert(issuer.value.clone(), issuer.at.clone());
            }
        }
        match (name, spec) {
            (Ok(name), Ok(spec)) => self.documents.issuers.push(spec.named(name)),
            (Ok(name), Err(Broken)) => self.documents.broken_issuers.push(name.value),
            (Err(Broken), Ok(_) | Err(Broken)) => self.documents.unnamed.issuers = true,
        }
    }

    fn policy(&mut self, fields: &mut Fields<'_>, name: Decoded<Text>) -> Decoded<()> {
        let at = fields.at().clone();
        let spec = fields.required(&mut self.decoder, "spec", policy::spec);
        self.documents.policies.push(spec?.named(name?, at));
        Ok(())
    }
}

fn metadata(decoder: &mut Decoder, node: &Node) -> Decoded<Text> {
    let mut fields = decoder.map(node)?;
    let name = fields.required(decoder, "name", Decoder::text);
    fields.finish(decoder);
    name
}

/// Returns the name if it can name a document or rule.
pub(super) fn checked_name(decoder: &mut Decoder, name: Text) -> Decoded<Text> {
    if text::is_name(&name.value) {
        return Ok(name);
    }
    Err(decoder.report(
        Diagnostic::new(&name.at, "a name has other characters than those allowed")
            .help("1 to 128 letters, digits, `-`, `_` and `.`, beginning with a letter or digit"),
    ))
}

fn evidence(decoder: &mut Decoder, node: &Node) -> Decoded<Spanned<PeerSources>> {
    #[derive(Clone, Copy)]
    enum Source {
        Principal,
        Certificate,
        Xfcc,
    }
    const WORDS: [(&str, Source); 3] = [
        ("principal", Source::Principal),
        ("certificate", Source::Certificate),
        ("xfcc", Source::Xfcc),
    ];
    let mut value = PeerSources::default();
    let before = decoder.diagnostics.len();
    decoder.list(node, |decoder, item| {
        match decoder.word(item, &WORDS)? {
            Source::Principal => value.principal = true,
            Source::Certificate => value.certificate = true,
            Source::Xfcc => value.xfcc = true,
        }
        Ok(())
    })?;
    // A source that was misspelt must not be left out.
    if decoder.diagnostics.len() > before {
        return Err(Broken);
    }
    Ok(Spanned { value, at: node.at.clone() })
}

/// Returns the first word after a key, without quotes and brackets.
fn first_word(text: &str) -> &str {
    text.trim_start()
        .trim_start_matches(['"', '\''])
        .split([' ', '\t', '\r', ',', '}', '"', '\'', '#'])
        .next()
        .unwrap_or_default()
}
