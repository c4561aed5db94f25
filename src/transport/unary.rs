//! One unary gRPC exchange over HTTP/2: a bounded message in, a message and trailers out.
//!
//! Hand-made instead of `tonic::server::Grpc`, which answers a message over its limit, a message it cannot
//! frame and a compressed one as an RPC error; Envoy may take an RPC error for an allow. Here each is an
//! [`UnaryError`] that the service answers with a denial.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Response, header};
use http_body::{Body, Frame};

/// Why no message could be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnaryError {
    /// The message is over the limit.
    #[error("the message is over the size limit")]
    TooLarge,
    /// The frame is cut short, compressed, or followed by more than one message.
    #[error("the body is not one uncompressed gRPC message")]
    Framing,
    /// The stream was reset or the connection lost.
    #[error("the stream ended early")]
    Stream,
}

/// Reads the one message of a unary request.
///
/// # Errors
/// As [`UnaryError`] says. A message over `limit` bytes is refused by its announced length, before it is
/// buffered.
pub async fn read_message<B>(body: &mut B, limit: usize) -> Result<Bytes, UnaryError>
where
    B: Body<Data = Bytes> + Unpin,
{
    let mut frame = Bytes::new();
    // Envoy sends a check in one DATA frame, which is then used without a copy; more are joined.
    let mut joined = BytesMut::new();
    loop {
        let next = std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await;
        let Some(next) = next else { break };
        let Ok(next) = next else { return Err(UnaryError::Stream) };
        let Ok(data) = next.into_data() else { continue };
        if joined.is_empty() && frame.is_empty() {
            frame = data;
        } else {
            joined.extend_from_slice(&std::mem::take(&mut frame));
            joined.extend_from_slice(&data);
        }
        let received = if joined.is_empty() { &frame[..] } else { &joined[..] };
        check_length(received, limit)?;
    }
    let mut message = if joined.is_empty() { frame } else { joined.freeze() };
    let announced = announced_length(&message).ok_or(UnaryError::Framing)?;
    message.advance(PREFIX);
    if message.len() == announced { Ok(message) } else { Err(UnaryError::Framing) }
}

/// Refuses what is announced or received over the limit, and compression, which was not negotiated.
fn check_length(received: &[u8], limit: usize) -> Result<(), UnaryError> {
    if received.first().is_some_and(|flag| *flag != 0) {
        return Err(UnaryError::Framing);
    }
    let announced = announced_length(received).unwrap_or(0);
    if announced > limit {
        return Err(UnaryError::TooLarge);
    }
    if received.len() > PREFIX.saturating_add(limit) {
        return Err(UnaryError::Framing);
    }
    Ok(())
}

/// Returns the length that the five-byte prefix announces, `None` while there is no whole prefix.
fn announced_length(received: &[u8]) -> Option<usize> {
    let &[_flag, a, b, c, d, ..] = received else { return None };
    usize::try_from(u32::from_be_bytes([a, b, c, d])).ok()
}

/// Returns the response that carries `message`, with RPC status OK. The message lies behind [`PREFIX`] bytes.
#[must_use]
pub fn respond(mut message: BytesMut) -> Response<UnaryBody> {
    let length = message.len().saturating_sub(PREFIX);
    if let Some(prefix) = message.get_mut(..PREFIX) {
        // A response is far below 4 GiB: headers and bodies of it are bounded.
        let [a, b, c, d] = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
        prefix.copy_from_slice(&[0, a, b, c, d]);
    }
    let mut response = Response::new(UnaryBody { data: Some(message.freeze()), trailers: true });
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// The body of a unary response: one data frame, then `grpc-status: 0`.
#[derive(Debug)]
pub struct UnaryBody {
    data: Option<Bytes>,
    trailers: bool,
}

impl Body for UnaryBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(data) = self.data.take() {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if !std::mem::take(&mut self.trailers) {
            return Poll::Ready(None);
        }
        let mut trailers = HeaderMap::with_capacity(1);
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_none() && !self.trailers
    }
}

/// Reads `grpc-timeout` (gRPC over HTTP/2: up to eight digits and a unit); `None` where absent or malformed.
#[must_use]
pub fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(value.saturating_mul(3600))),
        "M" => Some(Duration::from_secs(value.saturating_mul(60))),
        "S" => Some(Duration::from_secs(value)),
        "m" => Some(Duration::from_millis(value)),
        "u" => Some(Duration::from_micros(value)),
        "n" => Some(Duration::from_nanos(value)),
        _ => None,
    }
}

/// The prefix of a gRPC message: a compression flag and a length of four bytes.
pub const PREFIX: usize = 5;

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    struct Chunks(VecDeque<&'static [u8]>);

    impl Body for Chunks {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.0.pop_front().map(|c| Ok(Frame::data(Bytes::from_static(c)))))
        }
    }

    async fn read(chunks: &[&'static [u8]], limit: usize) -> Result<Bytes, UnaryError> {
        read_message(&mut Chunks(chunks.iter().copied().collect()), limit).await
    }

    #[tokio::test]
    async fn a_message_is_read_whole_however_it_is_cut() {
        let whole: &[u8] = b"\0\0\0\0\x03abc";
        assert_eq!(read(&[whole], 3).await.unwrap(), "abc");
        for cut in 0..=whole.len() {
            assert_eq!(read(&[&whole[..cut], &whole[cut..]], 3).await.unwrap(), "abc", "{cut}");
        }
    }

    #[tokio::test]
    async fn a_message_over_the_limit_is_refused_by_its_announced_length() {
        assert_eq!(read(&[b"\0\0\0\0\x04"], 3).await, Err(UnaryError::TooLarge));
        assert_eq!(read(&[b"\0\xff\xff\xff\xff"], 3).await, Err(UnaryError::TooLarge));
    }

    #[tokio::test]
    async fn a_body_that_is_not_one_message_is_refused() {
        for body in [
            b"".as_slice(),
            b"\0\0",
            b"\0\0\0\0\x03ab",
            b"\0\0\0\0\x03abcd",
            b"\x01\0\0\0\x03abc",
            b"\0\0\0\0\x01a\0\0\0\0\x01b",
        ] {
            assert_eq!(read(&[body], 3).await, Err(UnaryError::Framing), "{body:?}");
        }
    }

    #[test]
    fn timeouts_are_read_in_every_unit() {
        let of = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", text.parse().unwrap());
            grpc_timeout(&headers)
        };
        assert_eq!(of("199m"), Some(Duration::from_millis(199)));
        assert_eq!(of("1S"), Some(Duration::from_secs(1)));
        assert_eq!(of("2M"), Some(Duration::from_secs(120)));
        assert_eq!(of("1H"), Some(Duration::from_secs(3600)));
        assert_eq!(of("5u"), Some(Duration::from_micros(5)));
        assert_eq!(of("5n"), Some(Duration::from_nanos(5)));
        for bad in ["", "m", "1", "1x", "-1m", "123456789m", "1 m"] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }
}
