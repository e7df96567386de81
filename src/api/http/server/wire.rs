//! The byte stream of a connection, as hyper sees it.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

use super::{
    Limits,
    room::Place,
    stream::{self, Stream},
};

/// Longest refusal that hyper writes by itself: a status line and three headers.
const REFUSAL_BYTES_MAX: usize = 256;

const STATUS_LINE: &[u8] = b"HTTP/1.";

/// A stream that
/// - fails when the head of a request has not arrived completely in time after its first byte,
/// - fails when the client has not read in time what was written,
/// - fails when the client resets the connection while its request is being answered, and
/// - drops the bare refusals that hyper writes by itself, so that a problem document takes their place.
///
/// Of a multiplexed connection (HTTP/2) only the second holds: it has no end of a head, is read all the
/// time, and refuses by frames.
pub(super) struct Wire {
    stream: Stream,
    is_multiplexed: bool,
    place: Arc<Place>,
    limits: Limits,
    /// The number of requests when the stream was read last.
    requests: usize,
    /// Whether bytes of a head have arrived, but not all of it.
    head_begun: bool,
    head_late: Option<Pin<Box<Sleep>>>,
    /// From the first write that had to wait until everything is written.
    unread_late: Option<Pin<Box<Sleep>>>,
    /// Whether the client has sent more, or has closed its side, since the stream was read last.
    client_heard: bool,
    is_refused: bool,
}

impl Wire {
    pub(super) fn new(stream: Stream, place: Arc<Place>, limits: Limits) -> Self {
        Self {
            stream,
            is_multiplexed: false,
            place,
            limits,
            requests: 0,
            head_begun: false,
            head_late: None,
            unread_late: None,
            client_heard: false,
            is_refused: false,
        }
    }

    /// Says that the connection carries several requests at once.
    pub(super) fn multiplexed(self) -> Self {
        Self { is_multiplexed: true, ..self }
    }

    /// Returns the stream if hyper has refused a request by itself: the answer is still to be sent.
    pub(super) fn into_refused(self) -> Option<Stream> {
        self.is_refused.then_some(self.stream)
    }

    /// Fails once the head that has begun is late.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.head_begun || !self.place.is_between() {
            return Poll::Pending;
        }
        let late = self.head_late.get_or_insert_with(|| Box::pin(sleep(self.limits.head_time)));
        late.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Fails a write that must wait once the client is late. It need not read all at once, but a client that
    /// reads a byte now and then must not keep an answer for ever.
    fn in_time<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            return written;
        }
        let time = self.limits.unread_time;
        let late = self.unread_late.get_or_insert_with(|| Box::pin(sleep(time)));
        late.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.is_multiplexed {
            return Pin::new(&mut this.stream).poll_read(cx, buf);
        }
        let requests = this.place.requests();
        if requests != this.requests {
            (this.requests, this.head_begun, this.head_late) = (requests, false, None);
        }
        this.client_heard = false;
        let read_before = buf.filled().len();
        match Pin::new(&mut this.stream).poll_read(cx, buf) {
            Poll::Pending => this.poll_late(cx),
            read => {
                this.head_begun |= this.place.is_between() && buf.filled().len() > read_before;
                read
            }
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let refusal = if this.is_multiplexed { None } else { refusal_at(buf) };
        let answers = match refusal {
            Some(0) => {
                this.is_refused = true;
                return Poll::Ready(Ok(buf.len()));
            }
            Some(at) => &buf[..at],
            None => buf,
        };
        let written = Pin::new(&mut this.stream).poll_write(cx, answers);
        this.in_time(cx, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match bufs {
            // A refusal has no body, so nothing follows it.
            [only] => self.poll_write(cx, only),
            _ => {
                let this = self.get_mut();
                let written = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
                this.in_time(cx, written)
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// hyper flushes whenever it waits, and reads nothing while it waits for an answer. A client that
    /// has closed its side only still gets the answer, but one that has reset the connection does not.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.client_heard
            && !this.is_multiplexed
            && let Some(socket) = stream::tcp(&this.stream)
        {
            match socket.poll_peek(cx, &mut ReadBuf::new(&mut [0])) {
                Poll::Ready(Ok(_)) => this.client_heard = true,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {}
            }
        }
        match Pin::new(&mut this.stream).poll_flush(cx) {
            // TLS keeps bytes that the socket does not take yet.
            Poll::Pending => this.in_time(cx, Poll::Pending),
            flushed => {
                this.unread_late = None;
                flushed
            }
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match this.is_refused {
            true => Poll::Ready(Ok(())),
            false => Pin::new(&mut this.stream).poll_shutdown(cx),
        }
    }
}

/// Returns where a refusal that hyper writes by itself begins, at the end of `buf`. No answer of ours
/// looks like one: each with such a status has a body.
fn refusal_at(buf: &[u8]) -> Option<usize> {
    if !buf.ends_with(b"\r\n\r\n") {
        return None;
    }
    let from = buf.len().saturating_sub(REFUSAL_BYTES_MAX);
    let tail = &buf[from..];
    let at = tail.windows(STATUS_LINE.len()).rposition(|found| found == STATUS_LINE)?;
    let head = &tail[at..];
    let contains = |part: &[u8]| head.windows(part.len()).any(|found| found == part);
    // HTTP/1.x and a space precede the status.
    let status = head.get(9..12)?;
    let is_refusal = [b"400", b"414", b"431"].iter().any(|refused| status == *refused)
        && contains(b"\r\ncontent-length: 0\r\n");
    is_refusal.then_some(from + at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_of_hyper_are_found() {
        let refusal = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\
                        date: Mon, 30 Nov 2026 12:00:00 GMT\r\n\r\n";
        assert_eq!(refusal_at(refusal), Some(0));
        let answer = b"HTTP/1.1 204 No Content\r\n\r\n";
        assert_eq!(refusal_at(&[answer.as_slice(), refusal].concat()), Some(answer.len()));
        let head_only = b"HTTP/1.1 404 Not Found\r\ncontent-length: 163\r\n\r\n";
        for other in [answer.as_slice(), head_only, b"", b"\r\n\r\n", b"HTTP/1.\r\n\r\n"] {
            assert_eq!(refusal_at(other), None);
        }
    }
}
