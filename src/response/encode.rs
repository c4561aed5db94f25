//! Writes `envoy.service.auth.v3.CheckResponse` straight into one buffer.
//!
//! Every check is answered, so this is written by hand: prost would first need a tree of messages, and
//! cost as much as the rest of the pipeline. A test holds what comes out equal to Envoy's own messages.

use std::borrow::Cow;

use bytes::{BufMut, BytesMut};

/// A header that overwrites whatever has its name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header<'a> {
    pub(super) name: &'a [u8],
    pub(super) value: &'a [u8],
}

/// A `CheckResponse` being written.
pub(super) struct Message(BytesMut);

impl Message {
    /// Starts a message behind `prefix` zeroed bytes.
    pub(super) fn new(prefix: usize) -> Self {
        // Nearly every answer fits: some headers, their names to remove, and the metadata.
        let mut bytes = BytesMut::with_capacity(1024);
        bytes.put_bytes(0, prefix);
        Self(bytes)
    }

    pub(super) fn into_bytes(self) -> BytesMut {
        self.0
    }

    /// `CheckResponse.status`: `google.rpc.Status` with its `code`. A code of 0 is the message's default and
    /// is written all the same, so that an allow says so.
    pub(super) fn status(&mut self, code: u8) {
        self.tag(CHECK_STATUS, LENGTH_DELIMITED);
        self.varint(2);
        self.tag(STATUS_CODE, VARINT);
        self.varint(usize::from(code));
    }

    /// `CheckResponse.ok_response`.
    pub(super) fn ok<'a>(
        &mut self,
        set: &[(&[u8], Cow<'_, [u8]>)],
        remove: &[&[u8]],
        remove_parameters: &[&[u8]],
        answer: impl Iterator<Item = Header<'a>> + Clone,
    ) {
        let set = set.iter().map(|(name, value)| Header { name, value });
        let removed = remove.iter().chain(remove_parameters).map(|name| field(name.len()));
        let headers = set.clone().map(header_field).chain(answer.clone().map(header_field));
        let length = headers.chain(removed).fold(0, usize::saturating_add);
        self.open(CHECK_OK, length);
        for header in set {
            self.header(OK_HEADERS, header);
        }
        for name in remove {
            self.text(OK_HEADERS_TO_REMOVE, name);
        }
        for header in answer {
            self.header(OK_ANSWER_HEADERS, header);
        }
        for name in remove_parameters {
            self.text(OK_PARAMETERS_TO_REMOVE, name);
        }
    }

    /// `CheckResponse.denied_response`.
    pub(super) fn denied<'a>(
        &mut self,
        status: u16,
        headers: impl Iterator<Item = Header<'a>> + Clone,
        body: &[u8],
    ) {
        let status = usize::from(status);
        let status_length = 1_usize.saturating_add(varint_length(status));
        let length = headers
            .clone()
            .map(header_field)
            .chain([field(status_length), field(body.len())])
            .fold(0, usize::saturating_add);
        self.open(CHECK_DENIED, length);
        self.open(DENIED_STATUS, status_length);
        self.tag(HTTP_STATUS_CODE, VARINT);
        self.varint(status);
        for header in headers {
            self.header(DENIED_HEADERS, header);
        }
        self.text(DENIED_BODY, body);
    }

    /// `CheckResponse.dynamic_metadata`: a `google.protobuf.Struct` of the texts that are there and a number.
    pub(super) fn metadata(&mut self, texts: &[(&str, Option<&str>)], number: Option<(&str, f64)>) {
        let texts = texts
            .iter()
            .filter_map(|(name, text)| text.map(|text| (name.as_bytes(), text.as_bytes())));
        let number = number.map(|(name, number)| (name.as_bytes(), number));
        let entry = |name: &[u8], value: usize| field(name.len()).saturating_add(field(value));
        let text_entry = |(name, text): (&[u8], &[u8])| entry(name, field(text.len()));
        let number_entry = |(name, _): (&[u8], f64)| entry(name, NUMBER);
        let length = texts
            .clone()
            .map(|text| field(text_entry(text)))
            .chain(number.map(|number| field(number_entry(number))))
            .fold(0, usize::saturating_add);
        self.open(CHECK_METADATA, length);
        for (name, text) in texts {
            self.open(STRUCT_FIELDS, text_entry((name, text)));
            self.text(ENTRY_KEY, name);
            self.open(ENTRY_VALUE, field(text.len()));
            self.text(VALUE_STRING, text);
        }
        if let Some((name, value)) = number {
            self.open(STRUCT_FIELDS, number_entry((name, value)));
            self.text(ENTRY_KEY, name);
            self.open(ENTRY_VALUE, NUMBER);
            self.tag(VALUE_NUMBER, FIXED_64);
            self.0.put_f64_le(value);
        }
    }

    /// A `HeaderValueOption` with `append_action: OVERWRITE_IF_EXISTS_OR_ADD`. Anything else would add the
    /// header next to one that the client forged.
    fn header(&mut self, number: u8, header: Header<'_>) {
        let value = header_value(header);
        self.open(number, header_option(header));
        self.open(OPTION_HEADER, value);
        self.text(HEADER_KEY, header.name);
        self.text(HEADER_VALUE, header.value);
        self.tag(OPTION_APPEND_ACTION, VARINT);
        self.varint(OVERWRITE_IF_EXISTS_OR_ADD);
    }

    /// Writes the tag and the length of a message field, whose `length` bytes must follow.
    fn open(&mut self, number: u8, length: usize) {
        self.tag(number, LENGTH_DELIMITED);
        self.varint(length);
    }

    fn text(&mut self, number: u8, text: &[u8]) {
        self.open(number, text.len());
        self.0.extend_from_slice(text);
    }

    /// All our field numbers are under 16: a tag is one byte.
    fn tag(&mut self, number: u8, wire_type: u8) {
        self.0.put_u8(number << 3 | wire_type);
    }

    fn varint(&mut self, mut value: usize) {
        while value > 0x7f {
            self.0.put_u8(low_bits(value) | 0x80);
            value >>= 7;
        }
        self.0.put_u8(low_bits(value));
    }
}

/// Returns the lowest seven bits.
const fn low_bits(value: usize) -> u8 {
    value.to_le_bytes()[0] & 0x7f
}

/// Returns how many bytes a length-delimited field takes whose content takes `length`.
const fn field(length: usize) -> usize {
    length.saturating_add(varint_length(length)).saturating_add(1)
}

const fn varint_length(mut value: usize) -> usize {
    let mut length: usize = 1;
    while value > 0x7f {
        value >>= 7;
        length = length.saturating_add(1);
    }
    length
}

fn header_field(header: Header<'_>) -> usize {
    field(header_option(header))
}

fn header_option(header: Header<'_>) -> usize {
    field(header_value(header)).saturating_add(2)
}

fn header_value(header: Header<'_>) -> usize {
    field(header.name.len()).saturating_add(field(header.value.len()))
}

const VARINT: u8 = 0;
const FIXED_64: u8 = 1;
const LENGTH_DELIMITED: u8 = 2;

/// A `Value` that is a number: a tag and eight bytes.
const NUMBER: usize = 9;
const OVERWRITE_IF_EXISTS_OR_ADD: usize = 2;

// Field numbers, each named after its message.
const CHECK_STATUS: u8 = 1;
const CHECK_DENIED: u8 = 2;
const CHECK_OK: u8 = 3;
const CHECK_METADATA: u8 = 4;
const STATUS_CODE: u8 = 1;
const DENIED_STATUS: u8 = 1;
const DENIED_HEADERS: u8 = 2;
const DENIED_BODY: u8 = 3;
const HTTP_STATUS_CODE: u8 = 1;
const OK_HEADERS: u8 = 2;
const OK_HEADERS_TO_REMOVE: u8 = 5;
const OK_ANSWER_HEADERS: u8 = 6;
const OK_PARAMETERS_TO_REMOVE: u8 = 8;
const OPTION_HEADER: u8 = 1;
const OPTION_APPEND_ACTION: u8 = 3;
const HEADER_KEY: u8 = 1;
const HEADER_VALUE: u8 = 2;
const STRUCT_FIELDS: u8 = 1;
const ENTRY_KEY: u8 = 1;
const ENTRY_VALUE: u8 = 2;
const VALUE_NUMBER: u8 = 2;
const VALUE_STRING: u8 = 3;

#[cfg(test)]
mod tests {
    use envoy_types::pb::{
        envoy::service::auth::v3::{CheckResponse, check_response::HttpResponse},
        google::protobuf::value::Kind,
    };
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;

    proptest! {
        #[test]
        fn an_allow_reads_back_as_envoys_own_message(
            set in prop::collection::vec(("[a-z-]{1,200}", "[ -~]{0,20000}"), 0..6),
            remove in prop::collection::vec("[a-z_-]{1,300}", 0..40),
            parameters in prop::collection::vec("[ -~]{1,300}", 0..4),
            answer in prop::collection::vec(("[a-z-]{1,200}", "[ -~]{0,400}"), 0..3),
            text in proptest::option::of("\\PC{0,400}"),
            number in proptest::option::of(0_u32..),
        ) {
            let mut message = Message::new(0);
            let set_bytes: Vec<_> =
                set.iter().map(|(n, v)| (n.as_bytes(), Cow::Borrowed(v.as_bytes()))).collect();
            let remove_bytes: Vec<_> = remove.iter().map(String::as_bytes).collect();
            message.status(0);
            let parameter_bytes: Vec<_> = parameters.iter().map(String::as_bytes).collect();
            let answer_headers =
                answer.iter().map(|(n, v)| Header { name: n.as_bytes(), value: v.as_bytes() });
            message.ok(&set_bytes, &remove_bytes, &parameter_bytes, answer_headers);
            message.metadata(&[("text", text.as_deref())], number.map(|n| ("number", f64::from(n))));
            let response = CheckResponse::decode(message.into_bytes()).unwrap();
            assert_eq!(response.status.unwrap().code, 0);
            let Some(HttpResponse::OkResponse(ok)) = response.http_response else {
                panic!("no ok_response");
            };
            for (written, expected) in [(&ok.headers, &set), (&ok.response_headers_to_add, &answer)] {
                let read: Vec<_> = written.iter().map(|option| {
                    assert_eq!(option.append_action, 2);
                    let header = option.header.clone().unwrap();
                    (header.key, header.value)
                }).collect();
                assert_eq!(&read, expected);
            }
            assert_eq!(ok.headers_to_remove, remove);
            assert_eq!(ok.query_parameters_to_remove, parameters);
            let fields = response.dynamic_metadata.unwrap().fields;
            assert_eq!(fields.get("text").and_then(|v| v.kind.clone()), text.map(Kind::StringValue));
            let number = number.map(|n| Kind::NumberValue(f64::from(n)));
            assert_eq!(fields.get("number").and_then(|v| v.kind.clone()), number);
        }

        #[test]
        fn a_denial_reads_back_as_envoys_own_message(
            code in 1_u8..17,
            status in 400_u16..600,
            headers in prop::collection::vec(("[a-z-]{1,200}", "[ -~]{0,400}"), 0..6),
            body in "[ -~]{0,400}",
        ) {
            let mut message = Message::new(0);
            let headers_read =
                headers.iter().map(|(n, v)| Header { name: n.as_bytes(), value: v.as_bytes() });
            message.status(code);
            message.denied(status, headers_read, body.as_bytes());
            let response = CheckResponse::decode(message.into_bytes()).unwrap();
            assert_eq!(response.status.unwrap().code, i32::from(code));
            let Some(HttpResponse::DeniedResponse(denied)) = response.http_response else {
                panic!("no denied_response");
            };
            assert_eq!(denied.status.unwrap().code, i32::from(status));
            assert_eq!(denied.body, body);
            let read: Vec<_> = denied.headers.iter().map(|option| {
                assert_eq!(option.append_action, 2);
                let header = option.header.clone().unwrap();
                (header.key, header.value)
            }).collect();
            assert_eq!(read, headers);
        }
    }
}
