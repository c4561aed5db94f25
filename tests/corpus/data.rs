//! The cases as they are written.

use std::{collections::BTreeMap, fs, path::Path};

use serde::Deserialize;
use serde_json::Value;

/// One check and what is to come of it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Case {
    /// What it shows, as a sentence.
    pub(crate) why: String,
    /// What is special about the server.
    #[serde(default)]
    pub(crate) setup: String,
    /// What PeerTrust lists; left out, `[principal, xfcc]`.
    #[serde(default = "default_evidence")]
    pub(crate) evidence: Vec<String>,
    /// The only encoding of headers in which the case means something.
    pub(crate) only: Option<Encoding>,
    #[serde(default)]
    pub(crate) check: Check,
    pub(crate) expect: Expect,
    #[serde(skip)]
    pub(crate) file: String,
}

/// What Envoy asks. What is left out is as in an honest, ordinary call.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Check {
    /// Whose certificate: a name of `world/identities.yaml`. Fills principal, certificate and XFCC.
    pub(crate) peer: Option<String>,
    pub(crate) principal: Option<String>,
    pub(crate) certificate: Option<String>,
    pub(crate) xfcc: Option<String>,
    /// Presented as `authorization: Bearer …`.
    pub(crate) token: Option<Token>,
    /// Presented as `dpop: …`.
    pub(crate) proof: Option<Proof>,
    /// Presented as `workload-identity-token: …`.
    pub(crate) wit: Option<Token>,
    /// Presented as `workload-proof-token: …`.
    pub(crate) wpt: Option<Proof>,
    /// Presented as it stands here; `{token}` is the token.
    pub(crate) authorization: Option<String>,
    pub(crate) method: Option<String>,
    pub(crate) host: Option<String>,
    pub(crate) path: Option<String>,
    pub(crate) id: Option<String>,
    /// `destination.principal`; left out, payments' own; empty for none.
    pub(crate) workload: Option<String>,
    pub(crate) extensions: BTreeMap<String, String>,
    /// A TCP check for this port.
    pub(crate) tcp: Option<u32>,
    /// No attributes at all.
    pub(crate) empty: bool,
    pub(crate) headers: Vec<(String, Text)>,
    /// Pseudo-headers that say something else than the attributes.
    pub(crate) pseudo: BTreeMap<String, String>,
    /// This many headers `x-filler-N`.
    pub(crate) fillers: usize,
    /// The message's bytes: the first text, which must be there, becomes the bytes of the second (in hex,
    /// equally long).
    pub(crate) bytes: Option<(String, String)>,
    /// Headers in both encodings at once.
    pub(crate) both_encodings: bool,
    /// The whole message, in hex.
    pub(crate) message: Option<String>,
    /// The whole body, gRPC's prefix of five bytes included, in hex: sent as it is.
    pub(crate) frame: Option<String>,
    /// With `frame`: the stream is not ended.
    pub(crate) stalled: bool,
    /// `grpc-timeout`.
    pub(crate) deadline: Option<String>,
    /// How many seconds later than the tests' now.
    pub(crate) later: u64,
    /// How often it is asked; each time must come out as expected.
    pub(crate) times: Option<usize>,
}

/// A text, one that is repeated, or bytes that need not be text.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Text {
    Plain(String),
    Repeated { repeat: String, times: usize },
    Bytes { hex: String },
}

/// A token. What is left out is as an honest, unbound token of `corp` for payments has it, or one of the
/// workload web that is bound to the client's key.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Token {
    /// Members of the header; null takes one out.
    pub(crate) header: BTreeMap<String, Value>,
    /// Claims; null takes one out; `now+60` and `now-60` are times.
    pub(crate) claims: BTreeMap<String, Value>,
    /// JSON that is put in before the closing brace, as it stands; `{now+60}` is a time.
    pub(crate) extra_header: Option<String>,
    pub(crate) extra_claims: Option<String>,
    /// In place of header or claims, as it stands.
    pub(crate) raw_header: Option<String>,
    pub(crate) raw_claims: Option<String>,
    /// Bound to this identity's certificate.
    pub(crate) bound: Option<String>,
    /// Bound to the client's key.
    pub(crate) keyed: bool,
    pub(crate) signed: Signed,
    /// What is done to the finished token.
    pub(crate) mangled: Option<Mangled>,
    /// A claim `filler` of this many bytes.
    pub(crate) filler: usize,
}

/// A DPoP proof, or a workload's. What is left out is as in an honest one for the check's method, host and path,
/// made by the client's key now, with an identifier that no other has.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "each goes wrong by itself")]
pub(crate) struct Proof {
    /// Members of the header and claims, as for a token.
    pub(crate) header: BTreeMap<String, Value>,
    pub(crate) claims: BTreeMap<String, Value>,
    /// With another key than the client's, which `jwk` names.
    pub(crate) strange: bool,
    /// With another key than `jwk` names.
    pub(crate) forged: bool,
    /// Sent twice, in two headers.
    pub(crate) twice: bool,
    /// With private members in `jwk`.
    pub(crate) private: bool,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Signed {
    /// ES256 with the published key `ec`.
    #[default]
    Ec,
    /// `EdDSA` with the published key `ed`.
    Ed,
    /// ES256 with a key that nobody published.
    Unpublished,
    /// HMAC with the published key as PEM.
    HmacOfPem,
    /// HMAC with the published key as JWK.
    HmacOfJwk,
    /// Nothing.
    Nothing,
    /// Zeros, as long as a signature of ES256.
    Zeros,
    /// The signature of ES256 as DER.
    Der,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Mangled {
    /// The last character has bits set that are no part of the signature.
    TrailingBits,
    /// `=` at the end.
    Padded,
    /// The third part and its dot are gone.
    TwoParts,
    /// A fourth part.
    FourParts,
    /// Five parts, as in an encrypted one.
    FiveParts,
    /// A character of the claims is another.
    ClaimsChanged,
    /// `/` of the other base64 alphabet in the signature.
    OtherAlphabet,
    /// The JSON serialization (RFC 7515 §7.2).
    JsonSerialization,
    /// The parts of header and claims swapped.
    Swapped,
}

/// What is to come of a check.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Expect {
    pub(crate) reason: String,
    /// The HTTP status; left out where the check is allowed.
    pub(crate) status: Option<i32>,
    /// The whole of `www-authenticate`.
    pub(crate) challenge: Option<String>,
    pub(crate) rule: Option<String>,
    /// All headers that are set, each over what the request has. `{decision}` is the decision's id.
    pub(crate) set: Option<BTreeMap<String, String>>,
    /// Headers that are removed, among others.
    #[serde(default)]
    pub(crate) removed: Vec<String>,
    /// Headers that are not removed.
    #[serde(default)]
    pub(crate) kept: Vec<String>,
    /// The body of the denial.
    pub(crate) body: Option<String>,
    /// What the record says at these fields (`peer.spiffe`); null is nothing.
    #[serde(default)]
    pub(crate) record: BTreeMap<String, Value>,
    /// The check must have been answered within so many milliseconds.
    pub(crate) within_ms: Option<u64>,
}

/// How headers are put into a check.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Encoding {
    /// `headers`: joined with commas, bytes that are not UTF-8 replaced.
    Map,
    /// `header_map`: as they are.
    Raw,
}

impl Encoding {
    /// The encodings in which a case is run.
    pub(crate) fn of(case: &Case) -> Vec<Self> {
        let check = &case.check;
        let has_no_headers =
            check.tcp.is_some() || check.empty || check.message.is_some() || check.frame.is_some();
        match case.only {
            Some(only) => vec![only],
            None if has_no_headers => vec![Self::Map],
            None => vec![Self::Map, Self::Raw],
        }
    }
}

impl Case {
    pub(crate) fn name(&self) -> String {
        format!("{}: {}", self.file, self.why)
    }
}

pub(crate) fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus"))
}

/// All cases of all files.
pub(crate) fn cases() -> Vec<Case> {
    let mut files: Vec<_> = fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    files.sort();
    let mut all = Vec::new();
    for path in files {
        let file = path.file_name().unwrap().to_string_lossy().into_owned();
        let cases: Vec<Case> = serde_yaml::from_str(&fs::read_to_string(&path).unwrap())
            .unwrap_or_else(|error| panic!("{file}: {error}"));
        all.extend(cases.into_iter().map(|case| Case { file: file.clone(), ..case }));
    }
    all
}

pub(crate) fn unhex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

fn default_evidence() -> Vec<String> {
    vec!["principal".to_owned(), "xfcc".to_owned()]
}
