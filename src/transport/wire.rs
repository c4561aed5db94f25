//! A lean, borrowed view of `envoy.service.auth.v3.CheckRequest`: the fields that symbolon reads, as slices
//! of the received message.
//!
//! Read by hand: a stock decoder copies some sixty strings that nobody looks at, and even one that slices
//! costs as much as the evidence. The wire format and its merging of repeated fields are protobuf's own; a
//! property test holds the view equal to Envoy's full messages. `string` fields are bytes here: UTF-8 is
//! checked where a field is read. Unknown fields are passed over, groups (deprecated, in no message of
//! Envoy's) are refused.

/// `envoy.service.auth.v3.CheckRequest`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckRequest<'r> {
    /// Field 1.
    pub attributes: Option<AttributeContext<'r>>,
}

/// `envoy.service.auth.v3.AttributeContext`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AttributeContext<'r> {
    /// Field 1.
    pub source: Option<Peer<'r>>,
    /// Field 2.
    pub destination: Option<Peer<'r>>,
    /// `request.http`: fields 4 and 2.
    pub http: Option<HttpRequest<'r>>,
    /// Field 10, a map.
    pub context_extensions: Vec<Entry<'r>>,
}

/// `envoy.service.auth.v3.AttributeContext.Peer`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Peer<'r> {
    /// `address.socket_address.port_value`: fields 1, 1 and 3. 0 where there is none.
    pub port: u32,
    /// Field 4.
    pub principal: &'r [u8],
    /// Field 5.
    pub certificate: &'r [u8],
}

/// `envoy.service.auth.v3.AttributeContext.HttpRequest`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpRequest<'r> {
    /// Field 1.
    pub id: &'r [u8],
    /// Field 2.
    pub method: &'r [u8],
    /// Field 3, a map.
    pub headers: Vec<Entry<'r>>,
    /// Field 4.
    pub path: &'r [u8],
    /// Field 5.
    pub host: &'r [u8],
    /// `header_map.headers`: fields 13 and 1.
    pub raw_headers: Vec<HeaderValue<'r>>,
}

/// An entry of a `map<string, string>`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry<'r> {
    /// Field 1.
    pub key: &'r [u8],
    /// Field 2.
    pub value: &'r [u8],
}

/// `envoy.config.core.v3.HeaderValue`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeaderValue<'r> {
    /// Field 1.
    pub key: &'r [u8],
    /// Field 2.
    pub value: &'r [u8],
    /// Field 3.
    pub raw_value: &'r [u8],
}

/// The bytes are not a `CheckRequest`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the bytes are not a check request")]
pub struct DecodeError;

impl<'r> CheckRequest<'r> {
    /// Reads a message. The work is bounded by its length; nothing nests deeper than Envoy's own messages.
    ///
    /// # Errors
    /// [`DecodeError`] where the bytes are no protobuf, or a field has not its type.
    pub fn decode(message: &'r [u8]) -> Result<Self, DecodeError> {
        let mut request = Self::default();
        for_each(message, |number, value| {
            if number == 1 {
                request.attributes.get_or_insert_default().merge(value.bytes()?)?;
            }
            Ok(())
        })?;
        Ok(request)
    }
}

impl<'r> AttributeContext<'r> {
    fn merge(&mut self, message: &'r [u8]) -> Result<(), DecodeError> {
        for_each(message, |number, value| {
            match number {
                1 => self.source.get_or_insert_default().merge(value.bytes()?)?,
                2 => self.destination.get_or_insert_default().merge(value.bytes()?)?,
                4 => self.merge_request(value.bytes()?)?,
                10 => self.context_extensions.push(Entry::decode(value.bytes()?)?),
                _ => {}
            }
            Ok(())
        })
    }

    fn merge_request(&mut self, message: &'r [u8]) -> Result<(), DecodeError> {
        for_each(message, |number, value| {
            if number == 2 {
                self.http.get_or_insert_default().merge(value.bytes()?)?;
            }
            Ok(())
        })
    }
}

impl<'r> Peer<'r> {
    fn merge(&mut self, message: &'r [u8]) -> Result<(), DecodeError> {
        for_each(message, |number, value| {
            match number {
                1 => self.merge_address(value.bytes()?)?,
                4 => self.principal = value.bytes()?,
                5 => self.certificate = value.bytes()?,
                _ => {}
            }
            Ok(())
        })
    }

    fn merge_address(&mut self, message: &'r [u8]) -> Result<(), DecodeError> {
        for_each(message, |number, value| {
            match number {
                1 => self.merge_socket_address(value.bytes()?)?,
                // A pipe or an internal address: of a `oneof`, the last one that was set counts.
                2 | 3 => self.port = 0,
                _ => {}
            }
            Ok(())
        })
    }

    fn merge_socket_address(&mut self, message: &'r [u8]) -> Result<(), DecodeError> {
        for_each(message, |number, value| {
            match number {
                3 => self.port = value.varint_u32()?,
                // A named port.
                4 => self.port = 0,
                _ => {}
            }
            Ok(())
        })
    }
}

impl<'r> HttpRequest<'r> {
    fn merge(&mut self, message: &'r [u8]) -> Result<(), DecodeError> {
        for_each(message, |number, value| {
            match number {
                1 => self.id = value.bytes()?,
                2 => self.method = value.bytes()?,
                3 => {
                    if self.headers.is_empty() {
                        // As many as nearly every request has.
                        self.headers.reserve(32);
                    }
                    self.headers.push(Entry::decode(value.bytes()?)?);
                }
                4 => self.path = value.bytes()?,
                5 => self.host = value.bytes()?,
                13 => self.merge_header_map(value.bytes()?)?,
                _ => {}
            }
            Ok(())
        })
    }

    fn merge_header_map(&mut self, message: &'r [u8]) -> Result<(), DecodeError> {
        for_each(message, |number, value| {
            if number == 1 {
                self.raw_headers.push(HeaderValue::decode(value.bytes()?)?);
            }
            Ok(())
        })
    }
}

impl<'r> Entry<'r> {
    fn decode(message: &'r [u8]) -> Result<Self, DecodeError> {
        let mut entry = Self::default();
        for_each(message, |number, value| {
            match number {
                1 => entry.key = value.bytes()?,
                2 => entry.value = value.bytes()?,
                _ => {}
            }
            Ok(())
        })?;
        Ok(entry)
    }
}

impl<'r> HeaderValue<'r> {
    fn decode(message: &'r [u8]) -> Result<Self, DecodeError> {
        let mut header = Self::default();
        for_each(message, |number, value| {
            match number {
                1 => header.key = value.bytes()?,
                2 => header.value = value.bytes()?,
                3 => header.raw_value = value.bytes()?,
                _ => {}
            }
            Ok(())
        })?;
        Ok(header)
    }
}

/// A field's value.
#[derive(Clone, Copy)]
enum Value<'r> {
    Varint(u64),
    Bytes(&'r [u8]),
    /// Four or eight bytes: none of our fields.
    Fixed,
}

impl<'r> Value<'r> {
    fn bytes(self) -> Result<&'r [u8], DecodeError> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            Self::Varint(_) | Self::Fixed => Err(DecodeError),
        }
    }

    fn varint_u32(self) -> Result<u32, DecodeError> {
        match self {
            // Protobuf cuts a varint to the width of its field.
            Self::Varint(value) => u32::try_from(value & u64::from(u32::MAX)).or(Err(DecodeError)),
            Self::Bytes(_) | Self::Fixed => Err(DecodeError),
        }
    }
}

/// Calls `field` with the number and value of each field of `message`.
#[inline]
fn for_each<'r>(
    mut message: &'r [u8],
    mut field: impl FnMut(u64, Value<'r>) -> Result<(), DecodeError>,
) -> Result<(), DecodeError> {
    while !message.is_empty() {
        let tag = varint(&mut message)?;
        let number = tag >> 3;
        // Protobuf, "Message Structure": numbers are 1 to 2^29 - 1.
        if number == 0 || number >= 1 << 29 {
            return Err(DecodeError);
        }
        let value = match tag & 7 {
            0 => Value::Varint(varint(&mut message)?),
            1 => take(&mut message, 8).map(|_| Value::Fixed)?,
            2 => {
                let length = usize::try_from(varint(&mut message)?).or(Err(DecodeError))?;
                Value::Bytes(take(&mut message, length)?)
            }
            5 => take(&mut message, 4).map(|_| Value::Fixed)?,
            _ => return Err(DecodeError),
        };
        field(number, value)?;
    }
    Ok(())
}

#[inline]
fn take<'r>(message: &mut &'r [u8], length: usize) -> Result<&'r [u8], DecodeError> {
    let (taken, rest) = message.split_at_checked(length).ok_or(DecodeError)?;
    *message = rest;
    Ok(taken)
}

#[inline]
fn varint(message: &mut &[u8]) -> Result<u64, DecodeError> {
    // Nearly all tags and lengths are one byte.
    match message.split_first() {
        Some((&byte, rest)) if byte < 0x80 => {
            *message = rest;
            Ok(u64::from(byte))
        }
        _ => long_varint(message),
    }
}

fn long_varint(message: &mut &[u8]) -> Result<u64, DecodeError> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = message.split_first().ok_or(DecodeError)?;
        *message = rest;
        let bits = u64::from(byte & 0x7f);
        // The tenth byte has room for one bit.
        if shift == 63 && bits > 1 {
            return Err(DecodeError);
        }
        value |= bits << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(DecodeError)
}
