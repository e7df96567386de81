//! Serves connections: how many, how long they may take, and how they end.
//!
//! `listener` is where they come from, `stream` their bytes, `connection` serves one of HTTP/1.1,
//! `multiplexed` one of HTTP/2. `room` knows which connections may be closed, `wire` is their byte stream
//! within its bounds, `bodies` says when a request has arrived and when it is answered, `refused` answers
//! what hyper refuses by itself.

mod bodies;
mod connection;
mod listener;
mod multiplexed;
mod refused;
mod room;
mod stream;
mod wire;

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    response::{IntoResponse, Response},
};
use hyper::body::Body as _;
use tokio::{
    select,
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

pub(super) use self::connection::Client;
pub(crate) use self::listener::Listener;
use self::{connection::report, listener::Accepted, room::Room};
use super::{edge::Edge, problem::Problem};
use crate::{api::service::ServiceError, tls::server::Certificates};

/// Time in which a client must have set up TLS.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);

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

/// Most memory of a place: of a connection of HTTP/1.1 the head of a request, what is written of an answer
/// before the client has read, the piece that comes next, and its state; of a stream of HTTP/2 the head,
/// the window of its body, the piece of its answer, and its state. Other connections take several places.
pub(crate) const CONNECTION_BYTES: usize = 2 * HEAD_BYTES_MAX + ANSWER_BYTES_FREE + STATE_BYTES;

/// Time in which requests in flight may end once the listener stops: half of the 10 s in which a
/// node has to exit.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(5);

/// Time that a connection without a request so far gets for its first one once the listener stops. A
/// client that has just connected sends it at once.
const FIRST_TIME_MAX: Duration = Duration::from_millis(500);

/// How many connections one over TLS counts as: its buffers hold a record of 16 KiB in each direction, and
/// one more while it is decrypted.
const TLS_UNITS: u32 = 2;

/// How many connections one of HTTP/2 counts as beyond one of HTTP/1.1: up to 64 KiB of bodies that
/// are not read, a block of header fields, and the tables of its codec. Each of its streams but the first
/// counts as one connection more.
const HTTP_2_UNITS: u32 = 3;

/// Time in which a connection that was closed to make room has left.
const ROOM_TIME_MAX: Duration = Duration::from_secs(1);

/// Pause after a failed accept. It fails when file descriptors run out, and an immediate retry would
/// spin until some are closed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The bounds of a listener.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Places of connections: each of HTTP/1.1 takes one, others take more. Further connections wait in
    /// the kernel's backlog, where no other can be closed.
    pub(crate) connections: usize,
    /// Connections without a request in progress at once. The oldest of more is closed.
    pub(crate) idle: usize,
    /// Bytes of answers above 8 KiB that clients have not read. Beyond, such answers are `503`.
    pub(super) answer_bytes: usize,
    pub(super) unread_time: Duration,
    pub(super) idle_time: Duration,
    pub(super) head_time: Duration,
    pub(super) handshake_time: Duration,
    pub(super) first_time: Duration,
    pub(super) drain_time: Duration,
}

impl Limits {
    /// Returns the bounds of a listener with so many connections, of which so many have no request in
    /// progress, each for `idle_time` at most.
    pub(crate) fn new(connections: usize, idle: usize, idle_time: Duration) -> Self {
        Self {
            connections,
            idle,
            answer_bytes: ANSWERS_BYTES_MAX,
            unread_time: UNREAD_TIME_MAX,
            idle_time,
            head_time: HEAD_TIME_MAX,
            handshake_time: HANDSHAKE_TIME_MAX,
            first_time: FIRST_TIME_MAX,
            drain_time: DRAIN_TIME_MAX,
        }
    }

    /// Returns the same bounds with so many bytes of large answers.
    pub(crate) fn with_answers(self, answer_bytes: usize) -> Self {
        Self { answer_bytes, ..self }
    }
}

/// What a listener serves.
pub(crate) struct Site {
    /// The calls.
    pub router: Router,
    /// What every request must fulfil.
    pub edge: Edge,
    /// The certificate. `None`: plain connections.
    pub tls: Option<Arc<Certificates>>,
    /// The bounds of its connections.
    pub limits: Limits,
}

/// The two steps in which a listener ends.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ending {
    /// Every answer closes its connection, and everything is still answered.
    pub drain: CancellationToken,
    /// Connections that wait in the kernel are answered, and no further one is taken.
    pub stop: CancellationToken,
}

/// What the connections of a listener share.
struct Shared {
    limits: Limits,
    edge: Edge,
    router: Router,
    tls: Option<Arc<Certificates>>,
    room: Arc<Room>,
    stop: CancellationToken,
    /// Whether each answer closes its connection.
    is_draining: AtomicBool,
    /// A permit for each connection that there may be.
    units: Arc<Semaphore>,
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
        (overloaded("too many large answers wait for their clients to read them"), None)
    }

    fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Relaxed)
    }

    /// How many connections a new one counts as.
    fn units_of_one(&self) -> u32 {
        if self.tls.is_some() { TLS_UNITS } else { 1 }
    }

    /// Takes the place of so many connections more. Where there is none, idle connections are closed.
    async fn more(&self, units: u32) -> Option<OwnedSemaphorePermit> {
        if let Ok(taken) = self.units.clone().try_acquire_many_owned(units) {
            return Some(taken);
        }
        // Each closed one leaves the place of at least one.
        let is_closing = (0..units).all(|_| self.room.close_oldest());
        if !is_closing {
            return None;
        }
        timeout(ROOM_TIME_MAX, self.units.clone().acquire_many_owned(units)).await.ok()?.ok()
    }
}

fn overloaded(detail: &str) -> Response {
    let (detail, retry_after) = (detail.to_owned(), BUSY_RETRY);
    Problem::from(ServiceError::Overloaded { detail, retry_after }).into_response()
}

/// When a call that found too many large answers or streams may be repeated: most end at once.
const BUSY_RETRY: Duration = Duration::from_secs(1);

/// Serves `site` until `ending.stop`. Then connections that wait in the kernel are accepted and no more,
/// requests in flight get 5 s to end, and the call returns. Dropping the future drops every connection.
///
/// When `limits.connections` are open, the one that has been without a request in progress for longest
/// makes room for the next. A connection without a request is closed after `limits.idle_time`, one with
/// half a head or half a handshake after 10 s. A failed accept is tried again. A handler that panics ends
/// its connection (HTTP/2: its stream) only.
pub(crate) async fn serve(listener: Listener, site: Site, ending: Ending) {
    let Site { router, edge, tls, limits } = site;
    let shared = Arc::new(Shared {
        room: Room::new(limits.idle),
        stop: ending.stop.clone(),
        is_draining: AtomicBool::new(false),
        units: Arc::new(Semaphore::new(limits.connections.min(Semaphore::MAX_PERMITS))),
        answers: Arc::new(Semaphore::new(limits.answer_bytes / 1_024)),
        limits,
        edge,
        router,
        tls,
    });
    let mut connections = JoinSet::new();
    accept_until(&listener, &shared, &ending, &mut connections).await;
    shared.is_draining.store(true, Ordering::Relaxed);
    accept_waiting(&listener, &shared, &mut connections);
    // Before connections end: a client that reconnects is refused at once, not left in the backlog.
    drop(listener);
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

/// Accepts connections until the listener stops.
async fn accept_until(
    listener: &Listener,
    shared: &Arc<Shared>,
    ending: &Ending,
    connections: &mut JoinSet<()>,
) {
    let (room, units) = (&shared.room, shared.units_of_one());
    // Accepted, but without room.
    let mut waiting: Option<Accepted> = None;
    let mut is_closing_one = false;
    let mut stopped = pin!(ending.stop.cancelled());
    let mut drained = pin!(ending.drain.cancelled());
    loop {
        if waiting.is_some()
            && let Ok(unit) = shared.units.clone().try_acquire_many_owned(units)
            && let Some(accepted) = waiting.take()
        {
            admit(shared, accepted, unit, connections);
        }
        if waiting.is_some() && !is_closing_one {
            is_closing_one = room.close_oldest();
        }
        select! {
            () = &mut stopped => break,
            () = &mut drained, if !shared.is_draining() => {
                shared.is_draining.store(true, Ordering::Relaxed);
            }
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
            // A stream of HTTP/2 leaves its place without a connection that ends.
            Ok(unit) = shared.units.clone().acquire_many_owned(units), if waiting.is_some() => {
                if let Some(accepted) = waiting.take() {
                    admit(shared, accepted, unit, connections);
                }
            }
            () = room.became_idle(), if waiting.is_some() && !is_closing_one => {}
        }
    }
}

fn admit(
    shared: &Arc<Shared>,
    (socket, client): Accepted,
    unit: OwnedSemaphorePermit,
    connections: &mut JoinSet<()>,
) {
    let serving = shared.clone();
    shared
        .room
        .admit(|place| connections.spawn(connection::serve(serving, socket, client, place, unit)));
}

/// Accepts what the kernel has accepted already: these clients were told that they are connected, and would
/// see a reset. As many as there is room for.
fn accept_waiting(listener: &Listener, shared: &Arc<Shared>, connections: &mut JoinSet<()>) {
    while let Ok(unit) = shared.units.clone().try_acquire_many_owned(shared.units_of_one())
        && let Ok(accepted) = listener.accept_waiting()
    {
        admit(shared, accepted, unit, connections);
    }
}
