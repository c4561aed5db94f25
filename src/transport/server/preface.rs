//! The HTTP/2 preface, read by ourselves: a peer that never sends it must not hold a connection.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

/// A connection whose preface was read and is given to its next reader first.
#[derive(Debug)]
pub(super) struct Prefaced<I> {
    io: I,
    /// How much of [`PREFACE`] the next reader has been given.
    given: usize,
}

impl<I: AsyncRead + Unpin> Prefaced<I> {
    /// Waits for the preface, without a bound of its own.
    ///
    /// # Errors
    /// `InvalidData` at the first bytes that are not the preface; otherwise what reading says.
    pub(super) async fn read(mut io: I) -> io::Result<Self> {
        let mut preface = [0; PREFACE.len()];
        io.read_exact(&mut preface).await?;
        if preface != *PREFACE {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not HTTP/2"));
        }
        Ok(Self { io, given: 0 })
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Prefaced<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let rest = PREFACE.get(self.given..).unwrap_or_default();
        let Some(part) = rest.get(..rest.len().min(buf.remaining())).filter(|p| !p.is_empty())
        else {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        };
        buf.put_slice(part);
        self.given = self.given.saturating_add(part.len());
        Poll::Ready(Ok(()))
    }
}

/// Not vectored, on purpose: with vectored writes h2 sends each message over 256 bytes in a write of its
/// own, without them it copies answers together and sends many in one.
impl<I: AsyncWrite + Unpin> AsyncWrite for Prefaced<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// RFC 9113 §3.4.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn preface_is_given_to_the_next_reader_before_the_rest() {
        let sent = [PREFACE.as_slice(), b"frames"].concat();
        let mut prefaced = Prefaced::read(sent.as_slice()).await.unwrap();
        let (mut first, mut rest) = ([0; 5], Vec::new());
        prefaced.read_exact(&mut first).await.unwrap();
        prefaced.read_to_end(&mut rest).await.unwrap();
        assert_eq!([first.as_slice(), &rest].concat(), sent);
    }

    #[tokio::test]
    async fn other_protocol_is_refused() {
        let sent = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";
        let error = Prefaced::read(sent.as_slice()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
