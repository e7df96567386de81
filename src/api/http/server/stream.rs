//! The bytes of a connection: a socket, what was read of it ahead, and TLS.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;

/// What a client of HTTP/2 sends first (RFC 9113, section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The first byte of a TLS handshake.
const TLS_HANDSHAKE: u8 = 0x16;

/// A socket with a client: of TCP on the left, a Unix socket on the right.
pub(super) type Socket = Either<TcpStream, UnixStream>;

/// A connection as HTTP sees it: in clear on the left, over TLS on the right.
pub(super) type Stream = Either<Raw, Box<TlsStream<Raw>>>;

/// Returns the socket itself, if its end can be seen without reading: a Unix socket has no reset.
pub(super) fn tcp(stream: &Stream) -> Option<&TcpStream> {
    let raw = match stream {
        Either::Left(raw) => raw,
        Either::Right(stream) => stream.get_ref().0,
    };
    match &raw.socket {
        Either::Left(stream) => Some(stream),
        Either::Right(_) => None,
    }
}

/// What the first bytes of a connection begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Begun {
    Tls,
    Http1,
    Http2,
    /// The client has closed the connection.
    Nothing,
}

/// A socket of which the first bytes were read ahead.
#[derive(Debug)]
pub(super) struct Raw {
    socket: Socket,
    /// At most as many bytes as it takes to know the protocol.
    ahead: [u8; PREFACE.len()],
    read: usize,
    taken: usize,
}

impl Raw {
    pub(super) fn new(socket: Socket) -> Self {
        Self { socket, ahead: [0; PREFACE.len()], read: 0, taken: 0 }
    }

    /// Waits for bytes of the client and says what they begin. `None`: too few of them.
    pub(super) async fn more(&mut self) -> io::Result<Option<Begun>> {
        let bytes = self.socket.read(&mut self.ahead[self.read..]).await?;
        self.read += bytes;
        let ahead = &self.ahead[..self.read];
        Ok(match ahead.first() {
            None => Some(Begun::Nothing),
            Some(&TLS_HANDSHAKE) => Some(Begun::Tls),
            Some(_) if !PREFACE.starts_with(ahead) => Some(Begun::Http1),
            Some(_) if self.read == PREFACE.len() => Some(Begun::Http2),
            // Half a preface: the parser of HTTP/1.1 says what is wrong with it.
            Some(_) if bytes == 0 => Some(Begun::Http1),
            Some(_) => None,
        })
    }
}

impl AsyncRead for Raw {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.taken == this.read {
            return Pin::new(&mut this.socket).poll_read(cx, buf);
        }
        let some = (this.read - this.taken).min(buf.remaining());
        buf.put_slice(&this.ahead[this.taken..this.taken + some]);
        this.taken += some;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Raw {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(cx)
    }
}
