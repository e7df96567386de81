//! Bodies that say when a request has arrived, and when it is answered.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use axum::{
    BoxError,
    body::{Body, Bytes, HttpBody},
};
use hyper::body::{Frame, Incoming, SizeHint};
use tokio::sync::OwnedSemaphorePermit;

use super::{
    multiplexed::OpenStream,
    room::{Answered, Asked},
};

/// Why a request is not taken, and not answered either.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotTaken {
    /// The connection is being closed to make room for another.
    #[error("the connection is being closed, it was idle and others needed its place")]
    Closing,
    /// The connection has too many streams that wait for an answer that they are too many. The source has
    /// the code with which the stream is reset: clients may repeat such a request.
    #[error("there is no place for another stream")]
    NoPlace(#[source] h2::Error),
}

/// The body of a request. The request is in progress once the body has arrived.
pub(super) struct Arriving {
    body: Incoming,
    /// `None`: it has arrived.
    asked: Option<Asked>,
}

impl Arriving {
    pub(super) fn new(body: Incoming, asked: Asked) -> Self {
        let asked = (!body.is_end_stream()).then_some(asked);
        Self { body, asked }
    }
}

impl HttpBody for Arriving {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        let has_arrived = frame.is_none() || this.body.is_end_stream();
        if has_arrived
            && let Some(asked) = this.asked.take()
            && !asked.begin()
        {
            return Poll::Ready(Some(Err(NotTaken::Closing.into())));
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream() && self.asked.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A piece of a large answer, which is counted until it was sent.
struct Piece {
    bytes: Bytes,
    _counted: Arc<OwnedSemaphorePermit>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The body of an answer. Its request is in progress until the body is produced: a client that does not
/// read it keeps its connection no longer than an idle one.
pub(super) struct Answering {
    body: Body,
    answered: Option<Answered>,
    /// Held by each piece of a large answer.
    counted: Option<Arc<OwnedSemaphorePermit>>,
    /// Of HTTP/2: open until the body was handed over.
    _stream: Option<OpenStream>,
}

impl Answering {
    /// Returns the body of an answer; `counted` is given back when all of it was sent or dropped.
    pub(super) fn new(
        body: Body,
        answered: Answered,
        counted: Option<OwnedSemaphorePermit>,
        stream: Option<OpenStream>,
    ) -> Self {
        let counted = counted.map(Arc::new);
        Self { body, answered: Some(answered), counted, _stream: stream }
    }
}

impl HttpBody for Answering {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        // A body of bounded length waits for nothing, and only its client keeps it from being sent.
        if frame.is_none() || this.body.size_hint().upper().is_some() {
            this.answered = None;
        }
        let Some(counted) = &this.counted else { return Poll::Ready(frame) };
        // The server keeps the bytes after it has dropped the body.
        let piece = |bytes| Bytes::from_owner(Piece { bytes, _counted: counted.clone() });
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
