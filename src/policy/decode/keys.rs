//! Where keys come from: an Issuer's `keys` and a TrustDomain's `spiffeBundle`.

use std::{collections::BTreeMap, sync::Arc};

use super::{Decoded, Decoder, issuer::url};
use crate::{
    diagnostic::{At, Diagnostic, Spanned},
    policy::{document::KeySource, yaml::Node},
    trust::jwks::{KeySet, KeySetError},
};

/// Large providers publish some ten keys of 1 KiB; nobody has a key set this large.
const MAX_KEY_FILE_BYTES: usize = 256 * 1024;

/// The files of the directory.
pub(super) type Files = BTreeMap<Arc<str>, Vec<u8>>;

/// Reads `TrustDomain.spec`: where the keys of its JWT-SVIDs are.
pub(super) fn trust_domain_bundle(
    decoder: &mut Decoder,
    node: &Node,
    files: &Files,
) -> Decoded<Option<KeySource>> {
    let mut fields = decoder.map(node)?;
    let bundle = fields.optional(decoder, "spiffeBundle", |decoder, node| {
        let mut fields = decoder.map(node)?;
        let uri = fields
            .optional(decoder, "url", |decoder, node| url(decoder, node, true).map(KeySource::Uri));
        let file = fields.optional(decoder, "file", |decoder, node| {
            key_file(decoder, node, files, check_bundle)
        });
        let at = fields.at();
        fields.finish(decoder);
        one_of(decoder, at, [uri?, file?], "`url` and `file`")
    });
    if matches!(bundle, Ok(None)) {
        fields.not_enforced(decoder, "verify");
    } else {
        // To verify is what the format does with a bundle unless told otherwise.
        let place = match fields.get("verify") {
            Some(node) if node.as_text() == Some("never") => None,
            Some(node) => Some(&node.at),
            None => Some(fields.at()),
        };
        if let Some(at) = place {
            let message = "beside `spiffeBundle` this version has `verify: never` alone";
            return Err(decoder.report(Diagnostic::new(at, message).help(
                "write `verify: never`: the bundle's keys are for JWT-SVIDs, and certificate chains are verified by Envoy",
            )));
        }
    }
    for key in ["bundle", "workloadApi", "crl"] {
        fields.not_enforced(decoder, key);
    }
    fields.finish(decoder);
    bundle
}

/// Reads `Issuer.spec.keys`.
pub(super) fn source(decoder: &mut Decoder, node: &Node, files: &Files) -> Decoded<KeySource> {
    let mut fields = decoder.map(node)?;
    let discovery = fields.optional(decoder, "discovery", |decoder, node| {
        if decoder.flag(node)? {
            return Ok(KeySource::Discovery);
        }
        Err(decoder.wrong(&node.at, "leave `discovery` out where another key is given"))
    });
    let uri = fields
        .optional(decoder, "jwksUri", |decoder, node| url(decoder, node, true).map(KeySource::Uri));
    let file = fields
        .optional(decoder, "jwksFile", |decoder, node| key_file(decoder, node, files, check_keys));
    let at = fields.at();
    fields.finish(decoder);
    one_of(decoder, at, [discovery?, uri?, file?], "`discovery`, `jwksUri` and `jwksFile`")
}

fn one_of<const N: usize>(
    decoder: &mut Decoder,
    at: &At,
    sources: [Option<KeySource>; N],
    names: &str,
) -> Decoded<KeySource> {
    let mut sources = sources.into_iter().flatten();
    match (sources.next(), sources.next()) {
        (Some(source), None) => Ok(source),
        (first, _) => {
            let found = if first.is_some() { "several" } else { "none" };
            Err(decoder.wrong(at, format!("expected one of {names}, found {found}")))
        }
    }
}

/// Reads the file that a document names. Its content is in no message.
fn key_file(
    decoder: &mut Decoder,
    node: &Node,
    files: &Files,
    check: fn(&[u8]) -> Result<(), String>,
) -> Decoded<KeySource> {
    let path = decoder.text(node)?;
    let Some(full) = resolve(&node.at.file, &path.value) else {
        return Err(decoder.report(
            Diagnostic::new(&node.at, format!("`{}` is not inside the directory", path.value))
                .help("name the file relative to the folder of this document, with `/`"),
        ));
    };
    let Some(content) = files.get(full.as_str()) else {
        return Err(decoder.report(
            Diagnostic::new(&node.at, format!("there is no file `{full}` in the directory"))
                .help("the name is relative to the folder of this document"),
        ));
    };
    check(content).map_err(|problem| decoder.wrong(&node.at, format!("`{full}` {problem}")))?;
    Ok(KeySource::File {
        path: Spanned { value: path.value, at: path.at },
        content: content.clone(),
    })
}

/// Checks that a key set (RFC 7517 §5) has a key that can be used. Quotes nothing of it.
fn check_keys(content: &[u8]) -> Result<(), String> {
    let set = json(content)?;
    match set.get("keys").and_then(serde_json::Value::as_array) {
        None => Err("is no JWK Set: it has no list `keys`".to_owned()),
        Some(keys) if keys.is_empty() => Err("is a JWK Set without keys".to_owned()),
        Some(_) => usable(KeySet::parse(content)),
    }
}

/// Checks that it is a SPIFFE bundle, for which no key need be in it.
fn check_bundle(content: &[u8]) -> Result<(), String> {
    json(content)?;
    usable(KeySet::of_jwt_svids(content))
}

fn usable(set: Result<KeySet, KeySetError>) -> Result<(), String> {
    match set {
        Ok(_) => Ok(()),
        Err(KeySetError::NoUsableKey(skipped)) => {
            let why: Vec<_> = skipped.iter().map(|skipped| skipped.why.to_string()).collect();
            Err(format!("has no key that can be used: {}", why.join(", ")))
        }
        Err(
            error @ (KeySetError::TooLong
            | KeySetError::Malformed
            | KeySetError::TooManyKeys
            | KeySetError::Hint),
        ) => Err(format!("cannot be used: {error}")),
    }
}

fn json(content: &[u8]) -> Result<serde_json::Value, String> {
    if content.len() > MAX_KEY_FILE_BYTES {
        return Err(format!("has more than {MAX_KEY_FILE_BYTES} bytes"));
    }
    serde_json::from_slice(content).map_err(|error| {
        format!("is not JSON: wrong at line {}, column {}", error.line(), error.column())
    })
}

/// Returns the path within the directory of what the document in `file` names, or `None` where that is
/// outside.
fn resolve(file: &str, name: &str) -> Option<String> {
    let folder = file.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut steps: Vec<&str> = folder.split('/').filter(|step| !step.is_empty()).collect();
    if name.starts_with('/') || name.contains('\\') {
        return None;
    }
    for step in name.split('/') {
        match step {
            "" | "." => {}
            ".." => {
                steps.pop()?;
            }
            step => steps.push(step),
        }
    }
    Some(steps.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credential::testing::{Signer, jwks};

    #[test]
    fn files_are_relative_to_the_document_and_inside_the_directory() {
        for (file, name, full) in [
            ("a.yaml", "k.json", Some("k.json")),
            ("x/a.yaml", "k.json", Some("x/k.json")),
            ("x/a.yaml", "./y/../k.json", Some("x/k.json")),
            ("x/a.yaml", "../k.json", Some("k.json")),
            ("x/a.yaml", "../../k.json", None),
            ("a.yaml", "../k.json", None),
            ("a.yaml", "/etc/passwd", None),
            ("a.yaml", "x\\k.json", None),
        ] {
            assert_eq!(resolve(file, name).as_deref(), full, "{file} {name}");
        }
    }

    #[test]
    fn a_key_file_is_a_jwk_set_and_its_content_is_in_no_message() {
        let keys = jwks(&[&Signer::es256("k")]);
        assert_eq!(check_keys(keys.as_bytes()), Ok(()));
        for content in [
            &b"secret"[..],
            b"{\"secret\":1}",
            b"{\"keys\":[]}",
            b"[\"secret\"]",
            b"",
            b"{\"keys\":[{\"kty\":\"oct\",\"kid\":\"secret\",\"k\":\"secret\"}]}",
            b"{\"keys\":[{\"kty\":\"secret\",\"kid\":\"secret\"}]}",
        ] {
            let problem = check_keys(content).unwrap_err();
            assert!(!problem.contains("secret"), "{problem}");
        }
    }
}
