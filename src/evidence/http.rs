//! The HTTP request of a check.

use std::borrow::Cow;

use crate::{
    evidence::{
        EvidenceError,
        authorization::{Credentials, PresentedProof},
        host::{self, HostError},
        path::{self, Path},
    },
    reason::Reason,
    transport::wire,
};

/// The HTTP request that is asked about.
#[derive(Debug)]
pub struct HttpRequest<'r> {
    /// The method, as sent: methods are case-sensitive (RFC 9110 §9.1).
    pub method: &'r str,
    /// The canonical host: lower case, without port and trailing dot, not empty, one host only.
    pub host: Cow<'r, str>,
    /// The path, canonical, with the forms that make it ambiguous.
    pub path: Path<'r>,
    /// All headers, in the order they came.
    pub headers: Headers<'r>,
    /// The protocol of the `upgrade` header, in lower case.
    pub upgrade: Option<Cow<'r, str>>,
    /// Whether this is a CORS preflight: `OPTIONS` with `origin` and `access-control-request-method`.
    pub preflight: bool,
    /// Whether the content type is gRPC's.
    pub grpc: bool,
    /// The credentials presented.
    pub credentials: Credentials<'r>,
    /// The DPoP proof presented.
    pub proof: PresentedProof<'r>,
    /// What `workload-identity-token` presents.
    pub workload_token: PresentedProof<'r>,
    /// What `workload-proof-token` presents.
    pub workload_proof: PresentedProof<'r>,
    /// The names of the query's parameters that hold a token, as they are spelt; seldom any.
    pub query_tokens: Vec<&'r str>,
}

/// Envoy lets 100 headers through unless it is told otherwise; twice that is read.
pub const MAX_HEADERS: usize = 200;
/// No header that is in use has a name near this.
pub const MAX_NAME_BYTES: usize = 256;
/// Envoy's default limit for all headers of a request is 60 KiB: none of them is longer than this.
pub const MAX_VALUE_BYTES: usize = 64 * 1024;
/// Names and values of all headers: room for a raised limit, and an end to the work for one check.
pub const MAX_TOTAL_BYTES: usize = 128 * 1024;
/// The longest method: registered ones have up to 17 characters.
pub const MAX_METHOD_BYTES: usize = 64;

impl<'r> HttpRequest<'r> {
    /// Reads the request; returns with it the values of `x-forwarded-client-cert`, unread.
    ///
    /// Method, path and host are Envoy's attributes. `:method`, `:path` and `:authority` among the headers
    /// must say the same.
    ///
    /// # Errors
    /// What is over a limit, not readable in one way or no HTTP; an ambiguous path and bad credentials are
    /// no errors.
    pub(super) fn read(
        http: &'r wire::HttpRequest<'r>,
    ) -> Result<(Self, Single<'r>), EvidenceError> {
        if http.path.len() > path::MAX_BYTES {
            return Err(EvidenceError::PathTooLong);
        }
        let method = text(http.method)?;
        let path_attribute = text(http.path)?;
        let host_attribute = text(http.host)?;
        let is_method = (1..=MAX_METHOD_BYTES).contains(&method.len())
            && method.bytes().all(is_token_character);
        if !is_method {
            return Err(EvidenceError::Method);
        }
        let attributes = Attributes { method, path: path_attribute, host: host_attribute };
        let (headers, found) = Headers::read(http, &attributes)?;
        let credentials = match found.authorization {
            Single::Absent => Credentials::Absent,
            Single::One(value) => Credentials::read(value),
            Single::Several => Credentials::Unusable(Reason::CredentialsAmbiguous),
        };
        let query_tokens = path::query(path_attribute).map(path::access_tokens).unwrap_or_default();
        let request = Self {
            method,
            host: host::read(host_attribute).map_err(EvidenceError::Host)?,
            path: Path::read(path_attribute, method),
            headers,
            upgrade: found.upgrade()?,
            preflight: method == "OPTIONS" && found.is_preflight()?,
            grpc: found.is_grpc(),
            credentials: if query_tokens.is_empty() {
                credentials
            } else {
                credentials.beside_query_token()
            },
            proof: found.dpop.proof(),
            workload_token: found.workload_token.proof(),
            workload_proof: found.workload_proof.proof(),
            query_tokens,
        };
        Ok((request, found.xfcc))
    }
}

/// The headers of a request, without pseudo-headers, as they lie in the message.
#[derive(Clone, Copy, Debug, Default)]
pub struct Headers<'r> {
    /// `headers`, values being UTF-8; empty where `raw` is not.
    map: &'r [wire::Entry<'r>],
    /// `header_map`.
    raw: &'r [wire::HeaderValue<'r>],
}

impl<'r> Headers<'r> {
    /// Returns every header: its name in lower case and its value. A value is any bytes; a name may come
    /// more than once where Envoy sends raw headers, and is joined with commas where it does not.
    pub fn iter(&self) -> impl Iterator<Item = (&'r str, &'r [u8])> + use<'r> {
        let map = self.map.iter().map(|entry| (entry.key, entry.value));
        let raw = self.raw.iter().map(|header| (header.key, raw_value(header)));
        map.chain(raw).filter(|(name, _)| !name.starts_with(b":")).map(|(name, value)| {
            // Names were found to be ASCII when the headers were read.
            (str::from_utf8(name).unwrap_or_default(), value)
        })
    }

    /// Returns the name of every header, in lower case.
    pub fn names(&self) -> impl Iterator<Item = &'r [u8]> + use<'r> {
        let map = self.map.iter().map(|entry| entry.key);
        map.chain(self.raw.iter().map(|header| header.key)).filter(|name| !name.starts_with(b":"))
    }

    /// Looks at every header once: limits, names, pseudo-headers, and the values that decide.
    fn read(
        http: &'r wire::HttpRequest<'r>,
        attributes: &Attributes<'_>,
    ) -> Result<(Self, Found<'r>), EvidenceError> {
        let headers = Self { map: &http.headers, raw: &http.raw_headers };
        if !headers.map.is_empty() && !headers.raw.is_empty() {
            return Err(EvidenceError::BothHeaderEncodings);
        }
        if headers.map.len().max(headers.raw.len()) > MAX_HEADERS {
            return Err(EvidenceError::TooManyHeaders);
        }
        let mut found = Found::default();
        let mut total = 0_usize;
        for entry in headers.map {
            bound(entry.key, entry.value, &mut total)?;
            utf8(entry.value)?;
            found.take(entry.key, entry.value, attributes)?;
        }
        for header in headers.raw {
            if !header.value.is_empty() && !header.raw_value.is_empty() {
                return Err(EvidenceError::BothHeaderEncodings);
            }
            let value = raw_value(header);
            bound(header.key, value, &mut total)?;
            utf8(header.value)?;
            found.take(header.key, value, attributes)?;
        }
        Ok((headers, found))
    }
}

/// What a header said how often. Two values of one that decides are refused, never chosen from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Single<'r> {
    #[default]
    Absent,
    One(&'r [u8]),
    Several,
}

impl<'r> Single<'r> {
    const fn add(&mut self, value: &'r [u8]) {
        *self = match self {
            Self::Absent => Self::One(value),
            Self::One(_) | Self::Several => Self::Several,
        };
    }

    /// Reads it as a proof, or a token in a header of its own.
    fn proof(self) -> PresentedProof<'r> {
        match self {
            Self::Absent => PresentedProof::Absent,
            Self::One(value) => PresentedProof::read(value),
            Self::Several => PresentedProof::Several,
        }
    }

    /// Returns the only value, if it is one word of visible ASCII: no comma, which is how Envoy joins
    /// several, and no `!`, which it writes for bytes that are not UTF-8.
    fn word(self, name: &'static str) -> Result<Option<&'r str>, EvidenceError> {
        match self {
            Self::Absent => Ok(None),
            Self::One(value) => match str::from_utf8(value) {
                Ok(word)
                    if !word.is_empty()
                        && word.bytes().all(|b| b.is_ascii_graphic() && b != b',' && b != b'!') =>
                {
                    Ok(Some(word))
                }
                Ok(_) | Err(_) => Err(EvidenceError::InvalidHeader(name)),
            },
            Self::Several => Err(EvidenceError::InvalidHeader(name)),
        }
    }
}

/// The attributes that pseudo-headers repeat.
struct Attributes<'r> {
    method: &'r str,
    path: &'r str,
    host: &'r str,
}

/// The headers that decide.
#[derive(Debug, Default)]
struct Found<'r> {
    authorization: Single<'r>,
    dpop: Single<'r>,
    workload_token: Single<'r>,
    workload_proof: Single<'r>,
    xfcc: Single<'r>,
    upgrade: Single<'r>,
    origin: Single<'r>,
    preflight_method: Single<'r>,
    content_type: Single<'r>,
}

impl<'r> Found<'r> {
    fn take(
        &mut self,
        name: &'r [u8],
        value: &'r [u8],
        attributes: &Attributes<'_>,
    ) -> Result<(), EvidenceError> {
        match name {
            b":method" => agree(value, attributes.method)?,
            b":path" => agree(value, attributes.path)?,
            b":authority" => agree(value, attributes.host)?,
            // Envoy makes it the authority: another one is for a server behind to choose (RFC 9113 §8.3.1).
            b"host" => agree(value, attributes.host)
                .map_err(|_differs| EvidenceError::Host(HostError::Several))?,
            [b':', ..] if name.is_ascii() => {}
            b"authorization" => self.authorization.add(value),
            b"dpop" => self.dpop.add(value),
            b"workload-identity-token" => self.workload_token.add(value),
            b"workload-proof-token" => self.workload_proof.add(value),
            b"x-forwarded-client-cert" => self.xfcc.add(value),
            b"upgrade" => self.upgrade.add(value),
            b"origin" => self.origin.add(value),
            b"access-control-request-method" => self.preflight_method.add(value),
            b"content-type" => self.content_type.add(value),
            _ => {
                let is_name = |b: &u8| NAME_CHARACTERS.get(usize::from(*b)) == Some(&true);
                if name.is_empty() || !name.iter().all(is_name) {
                    return Err(EvidenceError::HeaderName);
                }
            }
        }
        Ok(())
    }

    /// Envoy drops an `upgrade` that it does not mean to follow, so that one seen here is one; HTTP/2's
    /// extended CONNECT (RFC 8441) shows as one, too.
    fn upgrade(&self) -> Result<Option<Cow<'r, str>>, EvidenceError> {
        Ok(self.upgrade.word("upgrade")?.map(|protocol| {
            if protocol.bytes().any(|b| b.is_ascii_uppercase()) {
                Cow::Owned(protocol.to_ascii_lowercase())
            } else {
                Cow::Borrowed(protocol)
            }
        }))
    }

    /// The Fetch standard's CORS-preflight request has one value of each.
    fn is_preflight(&self) -> Result<bool, EvidenceError> {
        let origin = self.origin.word("origin")?;
        let method = self.preflight_method.word("access-control-request-method")?;
        Ok(origin.is_some() && method.is_some())
    }

    /// `application/grpc`, alone or followed by `+format` or parameters.
    fn is_grpc(&self) -> bool {
        const GRPC: &[u8] = b"application/grpc";
        match self.content_type {
            Single::One(value) if !value.contains(&b',') => {
                value.split_at_checked(GRPC.len()).is_some_and(|(media_type, rest)| {
                    media_type.eq_ignore_ascii_case(GRPC)
                        && matches!(rest.first(), None | Some(b'+' | b';' | b' '))
                })
            }
            Single::Absent | Single::One(_) | Single::Several => false,
        }
    }
}

/// Reads a field that is a `string` in Envoy's message: one that is not UTF-8 could not be decoded there.
pub(super) fn text(field: &[u8]) -> Result<&str, EvidenceError> {
    str::from_utf8(field).map_err(|_error| EvidenceError::NotUtf8)
}

/// Checks a field that is a `string` in Envoy's message and is not read as one.
fn utf8(field: &[u8]) -> Result<(), EvidenceError> {
    // Nearly all are ASCII, and short: the general check costs more to begin than this to end.
    if field.is_ascii() { Ok(()) } else { text(field).map(drop) }
}

const fn raw_value<'r>(header: &wire::HeaderValue<'r>) -> &'r [u8] {
    if header.raw_value.is_empty() { header.value } else { header.raw_value }
}

const fn bound(name: &[u8], value: &[u8], total: &mut usize) -> Result<(), EvidenceError> {
    *total = total.saturating_add(name.len()).saturating_add(value.len());
    if name.len() > MAX_NAME_BYTES {
        Err(EvidenceError::HeaderNameTooLong)
    } else if value.len() > MAX_VALUE_BYTES {
        Err(EvidenceError::HeaderValueTooLong)
    } else if *total > MAX_TOTAL_BYTES {
        Err(EvidenceError::HeadersTooLong)
    } else {
        Ok(())
    }
}

/// RFC 9110 §5.6.2 `tchar`.
pub(super) const fn is_token_character(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}

/// What a header's name consists of: [`is_token_character`] without capitals.
const NAME_CHARACTERS: [bool; 256] = {
    let mut characters = [false; 256];
    let mut byte = 0_u8;
    loop {
        #[expect(
            clippy::indexing_slicing,
            clippy::as_conversions,
            reason = "in a constant, where a mistake does not compile"
        )]
        {
            characters[byte as usize] = is_token_character(byte) && !byte.is_ascii_uppercase();
        }
        match byte.checked_add(1) {
            Some(next) => byte = next,
            None => break characters,
        }
    }
};

/// A pseudo-header says what its attribute says. Raw headers keep bytes that are not UTF-8, for which the
/// attribute has a `!` each.
fn agree(value: &[u8], attribute: &str) -> Result<(), EvidenceError> {
    let same = value == attribute.as_bytes()
        || (value.len() == attribute.len() && replaced(value) == attribute);
    if same { Ok(()) } else { Err(EvidenceError::PseudoHeader) }
}

/// Returns `value` with a `!` for each byte that is not part of valid UTF-8, as Envoy writes `string` fields.
pub(super) fn replaced(mut value: &[u8]) -> String {
    let mut text = String::with_capacity(value.len());
    loop {
        match str::from_utf8(value) {
            Ok(rest) => {
                text.push_str(rest);
                return text;
            }
            Err(error) => {
                let (valid, rest) = value.split_at_checked(error.valid_up_to()).unwrap_or_default();
                text.push_str(str::from_utf8(valid).unwrap_or_default());
                text.push('!');
                value = rest.split_first().map_or(&[][..], |(_, rest)| rest);
            }
        }
    }
}

#[cfg(test)]
mod tests;
