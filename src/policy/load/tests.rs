use std::collections::BTreeMap;

use super::*;
use crate::{
    credential::testing::{Signer, jwks},
    policy::{
        document::{Effect, KeySource, Profile, ScopeClaim},
        scope::ScopeGrammar,
    },
    trust::jwks::Algorithm,
};

const ISSUER: &str = "apiVersion: symbolon/v1
kind: Issuer
metadata: {name: corp}
spec:
  issuer: https://login.example/
  keys: {discovery: true}
  audiences: [\"https://payments.example\"]
";

const POLICY: &str = "apiVersion: symbolon/v1
kind: Policy
metadata: {name: payments}
spec:
  hosts: [payments.example]
  audiences: [\"https://payments.example\"]
  rules:
  - name: read
    to: {methods: [GET], paths: [\"/v1/payments\"]}
    token: {issuers: [corp], scopes: [\"payments:read\"], binding: [none]}
";

/// What is replaced, by what, and the line, column, field and message of the mistake.
type Case = (&'static str, &'static str, usize, usize, &'static str, &'static str);

/// The same without a message.
type Unenforced = (&'static str, &'static str, usize, usize, &'static str);

#[rustfmt::skip]
const NEAR_MISSES: &[Case] = &[
    ("symbolon/v1", "symbolon/v1beta1", 1, 13, "apiVersion", "expected `symbolon/v1`, found `symbolon/v1beta1`"),
    ("symbolon/v1", "Symbolon/v1", 1, 13, "apiVersion", "expected `symbolon/v1`, found `Symbolon/v1`"),
    ("symbolon/v1", "symbolom/v1", 1, 13, "apiVersion", "expected `symbolon/v1`, found `symbolom/v1`"),
    ("symbolon/v1", "symbolon.io/v1", 1, 13, "apiVersion", "expected `symbolon/v1`, found `symbolon.io/v1`"),
    ("symbolon/v1", "1", 1, 13, "apiVersion", "expected `symbolon/v1`"),
    ("apiVersion:", "apiversion:", 1, 1, "apiversion", "unknown field `apiversion`"),
    ("apiVersion:", "version:", 1, 1, "version", "unknown field `version`"),
    ("apiVersion: symbolon/v1\n", "", 1, 1, "", "`apiVersion` is missing"),
    ("kind: Issuer", "kind: Isuer", 2, 7, "kind", "unknown kind `Isuer`"),
    ("kind: Issuer", "kind: issuer", 2, 7, "kind", "unknown kind `issuer`"),
    ("kind: Issuer", "kind: [Issuer]", 2, 7, "kind", "expected a kind, found a list"),
    ("kind: Issuer\n", "", 1, 1, "", "`kind` is missing"),
    ("kind: Issuer", "kind: Revocations", 2, 7, "kind", "kind `Revocations` is not enforced by this version"),
    ("kind: Issuer", "kind: PolicyTest", 2, 7, "kind", "kind `PolicyTest` is not enforced by this version"),
];

#[rustfmt::skip]
const WRONG_PARTS: &[Case] = &[
    ("hosts: [payments.example]", "hosts: []", 5, 10, "spec.hosts", "an empty list"),
    ("hosts: [payments.example]", "hosts:", 5, 3, "spec.hosts", "expected a list, found null"),
    ("hosts: [payments.example]", "hosts: null", 5, 10, "spec.hosts", "expected a list, found null"),
    ("hosts: [payments.example]", "hosts: a.example", 5, 10, "spec.hosts", "expected a list, found a text"),
    ("[payments.example]", "[payments.example, '']", 5, 29, "spec.hosts[1]", "an empty text"),
    ("[payments.example]", "[payments.example, 7]", 5, 29, "spec.hosts[1]", "expected a text, found a number"),
    ("[payments.example]", "[payments.example, true]", 5, 29, "spec.hosts[1]", "expected a text, found a boolean"),
    ("[payments.example]", "[payments.example, ]\n  caseInsensitive: 1", 6, 20, "spec.caseInsensitive", "expected `true` or `false`, found a number"),
    ("{methods: [GET], paths: [\"/v1/payments\"]}", "{}", 9, 9, "spec.rules[0].to", "an empty map"),
    ("{methods: [GET], paths: [\"/v1/payments\"]}", "", 9, 5, "spec.rules[0].to", "expected a map, found null"),
    ("to: {methods", "tоo: {methods", 9, 5, "spec.rules[0][\"t\u{43e}o\"]", "unknown field `t\u{43e}o`"),
    ("token: {", "upstream: {headers: {}}\n    token: {", 10, 25, "spec.rules[0].upstream.headers", "an empty map"),
    ("token: {", "upstream: {unverifiedToken: drop}\n    token: {", 10, 33, "spec.rules[0].upstream.unverifiedToken", "expected `pass`, found `drop`"),
    ("- name: read", "- name: read\n    effect: alow", 9, 13, "spec.rules[0].effect", "expected `allow` or `deny`, found `alow`"),
    ("- name: read", "- name: a/b", 8, 11, "spec.rules[0].name", "a name has other characters than those allowed"),
    ("issuers: [corp], ", "", 10, 12, "spec.rules[0].token", "`issuers` is missing"),
    ("[none]", "[certifcate]", 10, 67, "spec.rules[0].token.binding[0]", "expected `certificate`, `dpop` or `none`, found `certifcate`"),
    ("{name: payments}", "{name: payments, labels: {a: b}}", 3, 28, "metadata.labels", "unknown field `labels`"),
    ("  hosts:", "  mode: shdow\n  hosts:", 5, 9, "spec.mode", "expected `enforce`, found `shdow`"),
    ("  hosts:", "  origin: [https://x]\n  hosts:", 5, 11, "spec.origin", "expected a text, found a list"),
    ("issuers: [corp]", "replay: once, issuers: [corp]", 10, 21, "spec.rules[0].token.replay", "expected `consume` or `observe`, found `once`"),
    ("issuers: [corp]", "nonce: true, issuers: [corp]", 10, 20, "spec.rules[0].token.nonce", "expected a text: `off`, `on` or `required`, found a boolean"),
    ("issuers: [corp]", "acr: [], issuers: [corp]", 10, 18, "spec.rules[0].token.acr", "an empty list"),
    ("issuers: [corp]", "acr: gold, issuers: [corp]", 10, 18, "spec.rules[0].token.acr", "expected a list, found a text"),
    ("issuers: [corp]", "maxAge: 900, issuers: [corp]", 10, 21, "spec.rules[0].token.maxAge", "expected a duration such as `30s`, found a number"),
    ("issuers: [corp]", "maxAge: 0s, issuers: [corp]", 10, 21, "spec.rules[0].token.maxAge", "expected a duration from 1s to 8784h"),
    ("issuers: [corp]", "actor: some, issuers: [corp]", 10, 20, "spec.rules[0].token.actor", "expected `none` or `any`, found `some`"),
    ("issuers: [corp]", "actor: {}, issuers: [corp]", 10, 20, "spec.rules[0].token.actor", "an empty map"),
    ("issuers: [corp]", "actor: {subject: [a]}, issuers: [corp]", 10, 21, "spec.rules[0].token.actor.subject", "unknown field `subject`"),
    ("issuers: [corp]", "actor: {subjects: [{iss: a}]}, issuers: [corp]", 10, 32, "spec.rules[0].token.actor.subjects[0]", "`sub` is missing"),
    ("issuers: [corp]", "actor: {maxDepth: 9}, issuers: [corp]", 10, 31, "spec.rules[0].token.actor.maxDepth", "expected a whole number from 1 to 8"),
    ("issuers: [corp]", "actor: {maxDepth: 0}, issuers: [corp]", 10, 31, "spec.rules[0].token.actor.maxDepth", "expected a whole number from 1 to 8"),
    ("  hosts:", "  hosts: [a.example]\n  hosts:", 6, 3, "spec.hosts", "`hosts` is given twice"),
];

#[rustfmt::skip]
const NOT_ENFORCED: &[Unenforced] = &[
    ("  hosts:", "  replaces: x\n  hosts:", 5, 3, "spec.replaces"),
    ("    token:", "    when: 'true'\n    token:", 10, 5, "spec.rules[0].when"),
    ("    token:", "    from: {dns: [a], via: [b]}\n    token:", 10, 22, "spec.rules[0].from.via"),
    ("    token:", "    from: {dns: [a], subjects: [b]}\n    token:", 10, 22, "spec.rules[0].from.subjects"),
    ("    token:", "    from: {dns: [a], issuers: [b]}\n    token:", 10, 22, "spec.rules[0].from.issuers"),
];

#[rustfmt::skip]
const WRONG_ISSUERS: &[Case] = &[
    ("  audiences: [\"https://payments.example\"]\n", "", 4, 1, "spec", "`audiences` is missing"),
    ("https://login.example/", "http://login.example/", 5, 11, "spec.issuer", "expected https: plain http is for loopback hosts only"),
    ("https://login.example/", "https://login.example/?a", 5, 11, "spec.issuer", "an issuer has no query (RFC 8414 §2)"),
    ("{discovery: true}", "{jwksUri: \"http://a.example/\"}", 6, 19, "spec.keys.jwksUri", "expected https: plain http is for loopback hosts only"),
    ("{discovery: true}", "{discovery: false}", 6, 21, "spec.keys.discovery", "leave `discovery` out where another key is given"),
    ("{discovery: true}", "{discovery: true, jwksUri: \"https://a.example/\"}", 6, 9, "spec.keys", "expected one of `discovery`, `jwksUri` and `jwksFile`, found several"),
    ("{discovery: true}", "{jwksFile: ../k.json}", 6, 20, "spec.keys.jwksFile", "`../k.json` is not inside the directory"),
    ("{discovery: true}", "{jwksFile: k.json}", 6, 20, "spec.keys.jwksFile", "there is no file `k.json` in the directory"),
    ("{discovery: true}", "{jwksFile: a.yaml}", 6, 20, "spec.keys.jwksFile", "`a.yaml` is not JSON: wrong at line 1, column 1"),
    ("  keys:", "  algorithms: [none]\n  keys:", 6, 16, "spec.algorithms[0]", "`none` is no signature: anybody can write the token"),
    ("  keys:", "  algorithms: [ES256, HS256]\n  keys:", 6, 23, "spec.algorithms[1]", "`HS256` is an HMAC: who can check a token could also make one"),
    ("  keys:", "  algorithms: [ES257]\n  keys:", 6, 16, "spec.algorithms[0]", "expected `ES256`, `ES384`, `ES512`, `EdDSA`, `PS256`, `PS384`, `PS512`, `RS256`, `RS384` or `RS512`, found `ES257`"),
    ("  keys:", "  types: [dpop+jwt]\n  keys:", 6, 11, "spec.types[0]", "`dpop+jwt` is the type of a JWT that is no access token"),
    ("  keys:", "  leeway: 61s\n  keys:", 6, 11, "spec.leeway", "expected a duration from 0s to 1m"),
    ("  keys:", "  leeway: 30\n  keys:", 6, 11, "spec.leeway", "expected a duration such as `30s`, found a number"),
    ("  keys:", "  maxLifetime: soon\n  keys:", 6, 16, "spec.maxLifetime", "`soon` is no duration"),
    ("  keys:", "  maxLifetime: 0s\n  keys:", 6, 16, "spec.maxLifetime", "expected a duration from 1s to 720h"),
    ("  keys:", "  profile: rfc9069\n  keys:", 6, 12, "spec.profile", "expected `rfc9068`, `jwt` or `jwt-svid`, found `rfc9069`"),
    ("  keys:", "  requireClaims: {tenant: }\n  keys:", 6, 19, "spec.requireClaims.tenant", "expected the value that the claim must have: a text, a whole number, `true` or `false`"),
    ("  keys:", "  scopeClaims: []\n  keys:", 6, 16, "spec.scopeClaims", "an empty list"),
    ("  keys:", "  scopeClaims: scp\n  keys:", 6, 16, "spec.scopeClaims", "expected a list, found a text"),
    ("  keys:", "  scopeClaims: [scope, aud]\n  keys:", 6, 24, "spec.scopeClaims[1]", "the claim `aud` holds no scopes"),
    ("  keys:", "  scopeClaims: [roles, roles]\n  keys:", 6, 24, "spec.scopeClaims[1]", "`roles` stands twice in this list"),
    ("  keys:", "  scopeGrammar: smart\n  keys:", 6, 17, "spec.scopeGrammar", "expected `exact` or `smart-on-fhir`, found `smart`"),
    ("{name: corp}", "{}", 3, 11, "metadata", "an empty map"),
    ("metadata: {name: corp}\n", "", 1, 1, "", "`metadata` is missing"),
];

fn tree(files: &[(&str, &str)]) -> SourceTree {
    SourceTree {
        files: files
            .iter()
            .map(|(name, text)| (Arc::from(*name), text.as_bytes().to_vec()))
            .collect::<BTreeMap<_, _>>(),
        ..SourceTree::default()
    }
}

fn mistakes(files: &[(&str, &str)]) -> Vec<Diagnostic> {
    // Without compiling: its mistakes are tested beside it.
    let tree = tree(files);
    let Reading { mistakes, .. } = read(&tree);
    collected(&tree, mistakes).all
}

/// File, line, column, field, message.
type Place<'a> = (&'a str, usize, usize, &'a str, &'a str);

fn place(d: &Diagnostic) -> Place<'_> {
    (&d.at.file, d.at.line, d.at.column, &d.at.field, &d.message)
}

#[track_caller]
fn one(files: &[(&str, &str)], expected: Place<'_>) -> Option<String> {
    let found = mistakes(files);
    assert_eq!(found.iter().map(place).collect::<Vec<_>>(), [expected]);
    found.into_iter().next().and_then(|d| d.help)
}

/// Replaces `from` in the Issuer by `to` and expects one mistake there.
#[track_caller]
fn issuer(from: &str, to: &str, line: usize, column: usize, field: &str, message: &str) {
    assert!(ISSUER.contains(from), "{from}");
    let text = ISSUER.replacen(from, to, 1);
    one(&[("a.yaml", &text)], ("a.yaml", line, column, field, message));
}

/// Replaces `from` in the Policy by `to` and expects one mistake there.
#[track_caller]
fn policy(from: &str, to: &str, line: usize, column: usize, field: &str, message: &str) {
    assert!(POLICY.contains(from), "{from}");
    let text = POLICY.replacen(from, to, 1);
    one(&[("a.yaml", ISSUER), ("b.yaml", &text)], ("b.yaml", line, column, field, message));
}

#[test]
fn a_whole_directory_is_loaded_and_foreign_files_are_listed() {
    let loaded = load(
        &tree(&[
            ("issuers/corp.yaml", ISSUER),
            ("kustomization.yaml", "kind: Kustomization\nresources: [a]\n"),
            ("notes.yml", "# nothing here\n"),
            ("payments.yml", POLICY),
            ("README.md", "```\napiVersion: symbolon/v1\n```\n"),
            ("z.yaml", "apiVersion: kyverno.io/v1\nkind: Policy\nx: &a 1\ny: *a\n"),
        ]),
        &[],
    )
    .unwrap();
    assert_eq!(loaded.skipped, ["kustomization.yaml", "notes.yml", "z.yaml"].map(Arc::from));
    let issuer = &loaded.documents.issuers[0];
    assert_eq!(issuer.name.value, "corp");
    assert_eq!(issuer.keys, KeySource::Discovery);
    assert_eq!(issuer.algorithms, [Algorithm::ES256, Algorithm::EdDSA, Algorithm::PS256]);
    assert_eq!(issuer.types, ["at+jwt"]);
    assert_eq!(issuer.leeway.as_secs(), 30);
    assert_eq!(issuer.max_lifetime.as_secs(), 24 * 3600);
    assert_eq!(issuer.profile, Profile::Rfc9068);
    let policy = &loaded.documents.policies[0];
    assert_eq!(policy.rules[0].effect, Effect::Allow);
    assert_eq!(policy.rules[0].at.line, 8);
}

#[test]
fn every_field_of_an_issuer_is_read() {
    let text = ISSUER.to_owned()
        + "  algorithms: [RS256]
  types: [application/AT+JWT, JWT]
  maxLifetime: 15m
  leeway: 1m
  profile: jwt
  requireClaims: {tenant: example, level: 3, staff: true}
  maxKeyAge: 1h30m
  scopeClaims: [scp, scope, roles]
  scopeGrammar: smart-on-fhir
";
    let text = text.replace("{discovery: true}", "{jwksFile: ../keys/corp.json}");
    let keys = jwks(&[&Signer::es256("k")]);
    let loaded = load(&tree(&[("x/a.yaml", &text), ("keys/corp.json", &keys)]), &[]).unwrap();
    let issuer = &loaded.documents.issuers[0];
    assert_eq!(issuer.types, ["at+jwt", "jwt"]);
    assert_eq!(issuer.max_lifetime.as_secs(), 900);
    assert_eq!(issuer.leeway.as_secs(), 60);
    assert_eq!(issuer.max_key_age.as_secs(), 5400);
    assert_eq!(issuer.require_claims.len(), 3);
    let scope_claims = [ScopeClaim::Scp, ScopeClaim::Scope, ScopeClaim::Other("roles".into())];
    assert_eq!(issuer.scope_claims, scope_claims);
    assert_eq!(issuer.scope_grammar, ScopeGrammar::SmartOnFhir);
    assert!(matches!(&issuer.keys, KeySource::File { content, .. } if *content == keys.as_bytes()));
}

#[test]
fn two_unknown_fields_in_two_files_come_out_of_one_run() {
    let issuer = ISSUER.replace("  keys:", "  audience: x\n  keys:");
    let policy = POLICY.replace("hosts:", "hots:");
    let found = mistakes(&[("a.yaml", &issuer), ("b/b.yaml", &policy)]);
    let places: Vec<_> = found.iter().map(place).collect();
    assert!(places.contains(&("a.yaml", 6, 3, "spec.audience", "unknown field `audience`")));
    assert!(places.contains(&("b/b.yaml", 5, 3, "spec.hots", "unknown field `hots`")));
    let helps: Vec<_> = found.iter().filter_map(|d| d.help.as_deref()).collect();
    assert!(
        helps.contains(&"did you mean `audiences`?") && helps.contains(&"did you mean `hosts`?")
    );
}

#[test]
fn an_issuer_that_cannot_be_decoded_is_known_by_its_name() {
    for text in [
        ISSUER.replace("  issuer: https://login.example/\n", ""),
        ISSUER.replace("{discovery: true}", "&a {discovery: true}"),
        ISSUER.replace("{discovery: true}", "{discovery: true"),
        ISSUER.replace("{name: corp}", "\n  name: corp").replace("{discovery: true}", "[1"),
    ] {
        let tree = tree(&[("a.yaml", text.as_str())]);
        let mut decoding = Decoding::new(&tree.files);
        let file: Arc<str> = Arc::from("a.yaml");
        read_file(&mut decoding, &file, text.as_bytes());
        assert!(decoding.documents.broken_issuers.contains(&"corp".to_owned()), "{text}");
        assert!(!decoding.decoder.diagnostics.is_empty());
    }
}

#[test]
fn a_directory_without_a_document_of_ours_is_refused() {
    for files in [&[][..], &[("kustomization.yaml", "a: 1\n")], &[("x.yaml", "# gone\n---\n")]] {
        one(files, ("", 0, 0, "", "no symbolon document found"));
    }
}

#[test]
fn an_emptied_file_is_refused() {
    one(&[("a.yaml", ISSUER), ("b.yaml", " \n")], ("b.yaml", 1, 1, "", "the file is empty"));
}

#[test]
fn a_file_of_ours_under_another_name_is_refused() {
    let json = "{\n  \"kind\": \"Policy\", \"apiVersion\": \"symbolon/v1\"}";
    for (name, text, line) in [
        ("policy.yaml.bak", POLICY, 1),
        ("policy.yml.tmpl", POLICY, 1),
        ("policy.YAML", POLICY, 1),
        ("policy", "---\n'apiVersion' : 'symbolon/v1'\n", 2),
        ("policy.json", "{\n  \"apiVersion\": \"symbolon/v1\", \"kind\": \"Policy\"}", 2),
        (".policy.yaml.swp", POLICY, 1),
    ] {
        one(
            &[("a.yaml", ISSUER), (name, text)],
            (name, line, 1, "", "a symbolon document in a file that is not read"),
        );
    }
    one(
        &[("a.yaml", ISSUER), ("policy.json", json)],
        ("policy.json", 2, 1, "", "a symbolon document in a file that is not read"),
    );
}

#[test]
fn near_misses_of_whose_a_document_is_are_refused() {
    for &(from, to, line, column, field, message) in NEAR_MISSES {
        issuer(from, to, line, column, field, message);
    }
}

#[test]
fn a_foreign_document_beside_ours_is_refused() {
    let text = format!("{ISSUER}---\n---\nfoo: 1\n");
    one(
        &[("a.yaml", &text)],
        ("a.yaml", 10, 1, "", "not a symbolon document, beside those that are"),
    );
}

#[test]
fn a_document_of_ours_inside_another_is_refused() {
    let indented = |by: &str| ISSUER.replace('\n', &format!("\n{by}"));
    let list = format!("apiVersion: v1\nkind: List\nitems:\n- {}", indented("  "));
    one(
        &[("a.yaml", list.trim_end())],
        ("a.yaml", 4, 3, "items[0].apiVersion", "a symbolon document inside another is not read"),
    );
    let list = format!("- {}", indented("  "));
    one(
        &[("a.yaml", list.trim_end())],
        ("a.yaml", 1, 3, "[0].apiVersion", "a symbolon document inside another is not read"),
    );
    let quoted = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: c}}\ndata:\n  a.yaml: |\n    {}",
        indented("    ")
    );
    let loaded = load(&tree(&[("a.yaml", ISSUER), ("map.yaml", quoted.trim_end())]), &[]).unwrap();
    assert_eq!(loaded.skipped.len(), 1);
}

#[test]
fn a_second_api_version_cannot_hide_a_document_of_ours() {
    let twice = format!("apiVersion: v1\n{ISSUER}");
    let message = "`apiVersion` is given twice";
    one(&[("a.yaml", &twice)], ("a.yaml", 2, 1, "apiVersion", message));
}

#[test]
fn aliases_cannot_hide_a_document_of_ours() {
    let text = "x: {v: &v symbolon/v1}\napiVersion: *v\nkind: Kustomization\n";
    let found = mistakes(&[("a.yaml", ISSUER), ("b.yaml", text)]);
    assert_eq!(
        found.iter().map(place).collect::<Vec<_>>(),
        [
            ("b.yaml", 1, 8, "x.v", "anchors are not allowed"),
            ("b.yaml", 2, 13, "apiVersion", "aliases are not allowed"),
        ]
    );
}

#[test]
fn wrong_types_nulls_and_empty_parts_are_refused() {
    for &(from, to, line, column, field, message) in WRONG_PARTS {
        policy(from, to, line, column, field, message);
    }
    policy(
        "{methods: [GET], paths: [\"/v1/payments\"]}",
        "{tcp: {ports: [0]}}",
        9,
        24,
        "spec.rules[0].to.tcp.ports[0]",
        "expected a whole number from 1 to 65535",
    );
}

#[test]
fn what_is_not_enforced_is_refused_by_name() {
    for &(from, to, line, column, field) in NOT_ENFORCED {
        let text = POLICY.replacen(from, to, 1);
        let found = mistakes(&[("a.yaml", ISSUER), ("b.yaml", &text)]);
        let message = format!("`{field}` is not enforced by this version");
        let expected = ("b.yaml", line, column, field, message.as_str());
        assert!(found.iter().map(place).any(|place| place == expected), "{found:#?}");
    }
    policy(
        "  hosts:",
        "  mode: shadow\n  hosts:",
        5,
        9,
        "spec.mode",
        "`spec.mode: shadow` is not enforced by this version",
    );
    let text = POLICY.replace("  hosts:", "  mode: enforce\n  hosts:");
    assert_eq!(mistakes(&[("a.yaml", ISSUER), ("b.yaml", &text)]), []);
}

#[test]
fn trust_that_is_not_enforced_is_refused_by_name() {
    for (kind, key) in [
        ("TrustDomain", "bundle"),
        ("TrustDomain", "workloadApi"),
        ("TrustDomain", "verify"),
        ("TrustDomain", "crl"),
        ("PeerTrust", "forwarders"),
        ("PeerTrust", "forwarded"),
    ] {
        let evidence = if kind == "PeerTrust" { "evidence: [principal]" } else { "" };
        let text = format!(
            "apiVersion: symbolon/v1\nkind: {kind}\nmetadata: {{name: prod.example}}\nspec:\n  {key}: x\n  {evidence}\n"
        );
        let field = format!("spec.{key}");
        let message = format!("`{field}` is not enforced by this version");
        one(&[("a.yaml", &text)], ("a.yaml", 5, 3, &field, &message));
    }
}

#[test]
fn mistakes_in_issuers_are_refused() {
    for &(from, to, line, column, field, message) in WRONG_ISSUERS {
        issuer(from, to, line, column, field, message);
    }
}

#[test]
fn key_files_are_never_quoted() {
    let text = ISSUER.replace("{discovery: true}", "{jwksFile: k.json}");
    let help = one(
        &[("a.yaml", &text), ("k.json", "hunter2")],
        ("a.yaml", 6, 20, "spec.keys.jwksFile", "`k.json` is not JSON: wrong at line 1, column 1"),
    );
    assert_eq!(help, None);
}

#[test]
fn trust_domains_are_spiffe_trust_domains() {
    for name in ["Prod.example", "spiffe://prod.example", "prod/x"] {
        let text =
            format!("apiVersion: symbolon/v1\nkind: TrustDomain\nmetadata: {{name: \"{name}\"}}\n");
        let found = mistakes(&[("a.yaml", &text)]);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].message.starts_with(&format!("`{name}` is no trust domain: ")));
        assert_eq!((found[0].at.line, &*found[0].at.field), (3, "metadata.name"));
    }
}

#[test]
fn what_must_be_unique_names_the_first_place() {
    let other = ISSUER.replace("login.example", "other.example");
    let help = one(
        &[("a.yaml", ISSUER), ("b.yaml", &other)],
        ("b.yaml", 3, 18, "metadata.name", "Issuer `corp` is declared twice"),
    );
    assert_eq!(help.as_deref(), Some("the first one is at a.yaml:3"));
    let other = ISSUER.replace("corp", "other");
    let help = one(
        &[("a.yaml", ISSUER), ("b.yaml", &other)],
        ("b.yaml", 5, 11, "spec.issuer", "two Issuers have the issuer `https://login.example/`"),
    );
    assert_eq!(help.as_deref(), Some("the first one is at a.yaml:5"));
    let trust = "apiVersion: symbolon/v1\nkind: PeerTrust\nmetadata: {name: mesh}\nspec: {evidence: [xfcc]}\n";
    let second = trust.replace("mesh", "second");
    let help = one(
        &[("a.yaml", trust), ("b.yaml", &second)],
        ("b.yaml", 3, 18, "metadata.name", "more than one PeerTrust"),
    );
    assert_eq!(help.as_deref(), Some("the first one is at a.yaml:3"));
    let rule = POLICY.lines().skip(7).collect::<Vec<_>>().join("\n");
    let help = one(
        &[("a.yaml", ISSUER), ("b.yaml", &format!("{POLICY}{rule}\n"))],
        ("b.yaml", 11, 11, "spec.rules[1].name", "two rules are named `read`"),
    );
    assert_eq!(help.as_deref(), Some("the first one is at b.yaml:8"));
}

#[test]
fn one_peer_trust_in_a_file_that_is_salvaged_is_one() {
    let trust = "apiVersion: symbolon/v1\nkind: PeerTrust\nmetadata: {name: mesh}\nspec: {evidence: [xfcc]}\n";
    let text =
        format!("{trust}---\n{}", ISSUER.replace("{discovery: true}", "&a {discovery: true}"));
    one(&[("a.yaml", &text)], ("a.yaml", 11, 9, "spec.keys", "anchors are not allowed"));
}

#[test]
fn a_misspelt_source_of_evidence_is_not_left_out() {
    let text = "apiVersion: symbolon/v1\nkind: PeerTrust\nmetadata: {name: mesh}\nspec: {evidence: [principal, xfc]}\n";
    let help = one(
        &[("a.yaml", text)],
        (
            "a.yaml",
            4,
            30,
            "spec.evidence[1]",
            "expected `principal`, `certificate` or `xfcc`, found `xfc`",
        ),
    );
    assert_eq!(help.as_deref(), Some("did you mean `xfcc`?"));
}

#[test]
fn a_syntax_error_does_not_hide_the_mistakes_of_other_files() {
    let found =
        mistakes(&[("a.yaml", "a: [1\nb: 2\n"), ("b.yaml", &ISSUER.replace("keys", "kys"))]);
    let places: Vec<_> = found.iter().map(|d| (&*d.at.file, d.at.line)).collect();
    assert_eq!(places, [("a.yaml", 2), ("b.yaml", 4), ("b.yaml", 6)]);
}

#[test]
fn the_order_of_mistakes_is_that_of_files_and_lines_with_their_texts() {
    let text = ISSUER.replace("  keys:", "  zzz: 1\n  keys:").replace("kind:", "xxx: 1\nkind:");
    let error = load(&tree(&[("b.yaml", &text), ("a.yaml", &text)]), &[]).unwrap_err();
    let places: Vec<_> = error.all.iter().map(|d| (&*d.at.file, d.at.line)).collect();
    assert_eq!(places.first(), Some(&("a.yaml", 2)));
    assert!(places.is_sorted(), "{places:?}");
    assert_eq!(error.sources.len(), 2);
}

#[test]
fn unknown_fields_in_two_files_and_a_dangling_reference_come_out_of_one_run() {
    let issuer = ISSUER.replace("  keys:", "  audience: x\n  keys:");
    let policy = POLICY
        .replace("[GET]", "[GET], path: [/]")
        .replace("issuers: [corp]", "issuers: [corp, crop]");
    let error = load(&tree(&[("a.yaml", &issuer), ("b.yaml", &policy)]), &[]).unwrap_err();
    let places: Vec<_> = error.all.iter().map(|d| (&*d.at.file, d.at.line, &*d.at.field)).collect();
    assert_eq!(
        places,
        [
            ("a.yaml", 6, "spec.audience"),
            ("b.yaml", 9, "spec.rules[0].to.path"),
            ("b.yaml", 10, "spec.rules[0].token.issuers[1]"),
        ]
    );
}

proptest::proptest! {
    #[test]
    fn damaged_files_never_panic_and_only_whole_ones_hold(
        start in 0..600_usize,
        length in 1..40_usize,
        insert in "[a-z\\[\\]{}:,&*'\"\\- \n\t]{0,6}",
    ) {
        let mut text = format!("{ISSUER}---\n{POLICY}");
        let start = start.min(text.len());
        let end = start.saturating_add(length).min(text.len());
        text.replace_range(start..end, &insert);
        let tree = tree(&[("a.yaml", &text)]);
        let reading = read(&tree);
        let found = (reading.documents.issuers.len(), reading.documents.policies.len());
        // Nothing is lost in silence: both documents are there, or a mistake is.
        proptest::prop_assert!(found == (1, 1) || !reading.mistakes.is_empty(), "{text}");
    }
}

#[test]
fn what_is_broken_does_not_make_what_names_it_dangle() {
    let trust = "apiVersion: symbolon/v1\nkind: PeerTrust\nmetadata: {name: mesh}\nspec: {evidence: [xfcc]}\n";
    let domain = "apiVersion: symbolon/v1\nkind: TrustDomain\nmetadata: {name: prod.example}\n";
    let policy =
        POLICY.replace("token:", "from: {spiffe: [\"spiffe://prod.example/a\"]}\n    token:");
    // Beside this one, a trust domain that is not declared dangles.
    let other = domain.replace("prod.example", "other.example");
    let files = [("a", ISSUER), ("b", trust), ("c", domain), ("d", policy.as_str()), ("e", &other)];
    let whole = files.map(|(name, text)| (format!("{name}.yaml"), text.to_owned()));
    for (index, from, to, line) in [
        (0, "audiences", "audience", 4),
        (0, "{discovery: true}", "{discovery: true", 7),
        (0, "https://login", "&a https://login", 5),
        (1, "[xfcc]", "[xfc]", 4),
        (1, "[xfcc]", "[xfcc", 4),
        (1, "[xfcc]", "&a [xfcc]", 4),
        (2, "{name", "{name: prod.example, x: y, name", 3),
        (2, "{name: prod.example", "{name: prod.example", 0),
        (2, "{name: prod.example}", "{name: prod.example", 3),
        (2, "{name: prod.example}", "!x {name: prod.example}", 3),
        (0, "symbolon/v1", "symbolon/v2", 1),
        (0, "kind: Issuer", "kind: Isuer", 2),
        (0, "kind: Issuer\n", "", 1),
        (0, "{name: corp}", "{name: \"co rp\"}", 3),
        (0, "metadata: {name: corp}\n", "", 1),
        (1, "symbolon/v1", "symbolon/v2", 1),
        (1, "kind: PeerTrust", "kind: PeerTrusts", 2),
        (1, "kind: PeerTrust\n", "", 1),
        (1, "apiVersion: symbolon/v1\n", "apiVersion: symbolon/v1\nspec: {evidence: [xfcc]}\n", 5),
        (1, "{name: mesh}", "{name: \"me sh\"}", 3),
        (2, "symbolon/v1", "symbolon/v2", 1),
        (2, "{name: prod.example", "{name: Prod.example", 3),
        (2, "{name: prod.example}", "{nam: prod.example}", 3),
    ] {
        let mut files = whole.clone();
        files[index].1 = files[index].1.replacen(from, to, 1);
        let files: Vec<_> = files.iter().map(|(n, t)| (n.as_str(), t.as_str())).collect();
        let found = load(&tree(&files), &[]).map_or_else(|error| error.all, |_| Vec::new());
        let file = files[index].0;
        assert_eq!(found.is_empty(), line == 0, "{found:#?}");
        assert!(found.iter().all(|d| &*d.at.file == file && d.at.line >= line), "{found:#?}");
    }
}
