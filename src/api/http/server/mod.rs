//! Serves connections: how many, how long they may take, and how they end.
//!
//! `room` knows which connections may be closed, `wire` is their byte stream, `bodies` says when a
//! request has arrived and when it is answered, `refused` answers what hyper refuses by itself.

mod bodies;
mod refused;
mod room;
mod wire;

use std::{
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    response::{IntoResponse, Response},
};
use hyper::{Request, body::Body as _, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    select,
    sync::{OwnedSemaphorePermit, Semaphore},
    task::{JoinError, JoinSet},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use self::{
    bodies::{Answering, Arriving, Closing},
    room::{Occupied, Room},
    wire::Wire,
};
use super::{edge::Edge, problem::Problem};
use crate::api::service::ServiceError;

/// Time after which a connection without a request is closed. Longer than the 60 s after which common
/// gateways drop an idle connection: if this side dropped it first, a gateway could send a request
/// into the closing connection and get an error.
const IDLE_TIME_MAX: Duration = Duration::from_secs(75);

/// Time in which the head of a request must arrive after its first byte. It fits a few packets.
const HEAD_TIME_MAX: Duration = Duration::from_secs(10);

/// Largest head of a request: four times the longest request id and key with a gateway's headers.
/// Also the size of the buffer in which it arrives, so that a half-sent head costs no more.
const HEAD_BYTES_MAX: usize = 16 * 1_024;

/// Time in which a client must read what was written of a response, or be reachable again. A page of
/// campaigns is written piece by piece.
const UNREAD_TIME_MAX: Duration = Duration::from_secs(30);

/// Largest answer that is not counted. Decisions and campaigns are smaller, pages of campaigns are written
/// in such pieces.
pub(in crate::api::http) const ANSWER_BYTES_FREE: usize = 8 * 1_024;

/// Bytes of larger answers that their clients have not read: of each listener, if memory allows it. Such
/// are all coupons of a user with many (150 KiB at most), and the metrics.
pub(crate) const ANSWERS_BYTES_MAX: usize = 16 * 1_024 * 1_024;

/// What a connection keeps beside its buffers: its task with the handler of a request, its timers, and its
/// place. Measured: 4 KiB while idle.
const STATE_BYTES: usize = 8 * 1_024;

/// Most memory of a connection: the head of a request, what is written of an answer before the client has
/// read, the piece that comes next, and its state.
pub(crate) const CONNECTION_BYTES: usize = 2 * HEAD_BYTES_MAX + ANSWER_BYTES_FREE + STATE_BYTES;

/// Time in which requests in flight may end once the listener stops: half of the 10 s in which a
/// node has to exit.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(5);

/// Pause after a failed accept. It fails when file descriptors run out, and an immediate retry would
/// spin until some are closed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The bounds of a listener.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Connections at once. Further ones wait in the kernel's backlog, where no other can be closed.
    pub(crate) connections: usize,
    /// Connections without a request in progress at once. The oldest of more is closed.
    pub(crate) idle: usize,
    /// Bytes of answers above 8 KiB that clients have not read. Beyond, such answers are `503`.
    pub(super) answer_bytes: usize,
    pub(super) unread_time: Duration,
    pub(super) idle_time: Duration,
    pub(super) head_time: Duration,
    pub(super) drain_time: Duration,
}

impl Limits {
    /// Returns the bounds of a listener with so many connections, of which so many have no request in
    /// progress.
    pub(crate) fn new(connections: usize, idle: usize) -> Self {
        Self {
            connections,
            idle,
            answer_bytes: ANSWERS_BYTES_MAX,
            unread_time: UNREAD_TIME_MAX,
            idle_time: IDLE_TIME_MAX,
            head_time: HEAD_TIME_MAX,
            drain_time: DRAIN_TIME_MAX,
        }
    }

    /// Returns the same bounds with so many bytes of large answers.
    pub(crate) fn with_answers(self, answer_bytes: usize) -> Self {
        Self { answer_bytes, ..self }
    }
}

/// The address of the client of a request, as an extension of the request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Client(pub(super) IpAddr);

/// What the connections of a listener share.
struct Shared {
    limits: Limits,
    edge: Edge,
    router: Router,
    stop: CancellationToken,
    /// A permit for each KiB of large answers.
    answers: Arc<Semaphore>,
}

impl Shared {
    /// Counts a large answer. Refuses it if too many wait for their clients.
    fn counted(&self, answer: Response) -> (Response, Option<OwnedSemaphorePermit>) {
        let bytes = answer.body().size_hint().exact().unwrap_or(0);
        if bytes <= ANSWER_BYTES_FREE as u64 {
            return (answer, None);
        }
        let kib = u32::try_from(bytes.div_ceil(1_024)).unwrap_or(u32::MAX);
        if let Ok(counted) = self.answers.clone().try_acquire_many_owned(kib) {
            return (answer, Some(counted));
        }
        let refusal = Problem::from(ServiceError::Overloaded {
            detail: "too many large answers wait for their clients to read them".to_owned(),
            retry_after: LARGE_RETRY,
        });
        (refusal.into_response(), None)
    }
}

/// When a large answer that was refused may be asked for again: most are read at once.
const LARGE_RETRY: Duration = Duration::from_secs(1);

/// Serves `router` until `shutdown` resolves. Then no connection is accepted any more, requests in
/// flight get 5 s to end, and the call returns. Dropping the future drops every connection.
///
/// When `limits.connections` are open, the one that has been without a request in progress for longest
/// makes room for the next. A connection without a request is closed after 75 s, one with half a head
/// after 10 s. A failed accept is tried again. A handler that panics ends its connection only.
pub(crate) async fn serve(
    listener: TcpListener,
    limits: Limits,
    edge: Edge,
    router: Router,
    shutdown: impl Future<Output = ()>,
) {
    let stop = CancellationToken::new();
    let answers = Arc::new(Semaphore::new(limits.answer_bytes / 1_024));
    let shared = Arc::new(Shared { limits, edge, router, stop: stop.clone(), answers });
    let room = Room::new(limits.idle);
    let mut connections = JoinSet::new();
    // Accepted, but without room.
    let mut waiting: Option<(TcpStream, SocketAddr)> = None;
    let mut is_closing_one = false;
    let mut shutdown = pin!(shutdown);
    loop {
        if connections.len() < limits.connections
            && let Some((stream, client)) = waiting.take()
        {
            let shared = shared.clone();
            room.admit(|place| connections.spawn(connection(shared, stream, client.ip(), place)));
        }
        if waiting.is_some() && !is_closing_one {
            is_closing_one = room.close_oldest();
        }
        select! {
            () = &mut shutdown => break,
            Some(ended) = connections.join_next() => {
                is_closing_one = false;
                report(ended);
            }
            accepted = listener.accept(), if waiting.is_none() => match accepted {
                Ok(accepted) => waiting = Some(accepted),
                Err(error) => {
                    tracing::warn!(summed = true, %error, "accepting a connection failed");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
            () = room.became_idle(), if waiting.is_some() && !is_closing_one => {}
        }
    }
    // Before connections end: a client that reconnects is refused at once, not left in the backlog.
    drop((listener, waiting));
    stop.cancel();
    let ended = async {
        while let Some(ended) = connections.join_next().await {
            report(ended);
        }
    };
    if timeout(limits.drain_time, ended).await.is_err() {
        tracing::warn!(
            connections = connections.len(),
            "connections did not end in time, closing them"
        );
        connections.shutdown().await;
    }
}

fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(summed = true, %error, "HTTP handler panicked, connection closed");
    }
}

/// Serves one connection until its client, its time, the listener or another connection ends it.
async fn connection(shared: Arc<Shared>, stream: TcpStream, client: IpAddr, occupied: Occupied) {
    if let Err(error) = tune(&stream) {
        tracing::debug!(%error, "connection closed before its first request");
        return;
    }
    let place = occupied.0.clone();
    let wire = Wire::new(stream, place.clone(), shared.limits);
    // A token of its own: each poll of a connection would else lock one that all share.
    let (answers, stop) = (shared.clone(), shared.stop.child_token());
    let service = service_fn(move |request: Request<Incoming>| {
        let (shared, place) = (answers.clone(), place.clone());
        async move {
            let answered = place.head();
            if request.body().is_end_stream() && !place.begin() {
                return Err(Closing);
            }
            let (mut head, body) = request.into_parts();
            let body = Body::new(Arriving::new(body, place));
            head.extensions.insert(Client(client));
            let response = shared.edge.answer(head, body, shared.router.clone()).await;
            let (response, counted) = shared.counted(response);
            Ok(response.map(|body| Answering::new(body, answered, counted)))
        }
    });
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .half_close(true)
        .header_read_timeout(shared.limits.idle_time)
        .max_header_size(HEAD_BYTES_MAX)
        .max_buf_size(HEAD_BYTES_MAX);
    let mut served = builder.serve_connection(TokioIo::new(wire), service);
    let ended = select! {
        biased;
        ended = &mut served => ended,
        () = stop.cancelled() => {
            std::pin::Pin::new(&mut served).graceful_shutdown();
            (&mut served).await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection failed");
        let left = served.into_parts();
        if let Some(stream) = left.io.into_inner().into_refused() {
            refused::answer(stream, &error, &left.read_buf).await;
        }
    }
}

/// Sets socket options: a response is one small write, which must not wait for more to send; and
/// an unread response must not keep its connection forever.
fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    #[cfg(target_os = "linux")]
    {
        let millis = u32::try_from(UNREAD_TIME_MAX.as_millis()).unwrap_or(u32::MAX);
        rustix::net::sockopt::set_tcp_user_timeout(stream, millis)?;
    }
    Ok(())
}
