//! HTTP/2: the streams of a connection, and when their connection ends.

use std::{
    collections::BTreeMap,
    future::Future,
    net::IpAddr,
    sync::{Arc, Weak},
    time::Duration,
};

use hyper::server::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::{
    select,
    sync::{Notify, OwnedSemaphorePermit},
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    ANSWER_BYTES_FREE, HEAD_BYTES_MAX, Limits, Shared,
    bodies::NotTaken,
    connection::{answer, report, stopped},
    room::Place,
    wire::Wire,
};

/// Streams of a connection at once.
pub(super) const STREAMS_MAX: u32 = 256;

/// Bytes of a request's body that a stream takes before they are read: several of the largest bodies.
const WINDOW_BYTES: u32 = HEAD_BYTES_MAX as u32;

/// Bytes of all bodies of a connection that are not read yet: the least that the protocol allows.
const CONNECTION_WINDOW_BYTES: u32 = 65_535;

/// Streams that a client has reset before they were looked at. Beyond, the connection ends: such is the
/// attack of CVE-2023-44487 in bursts.
const UNSEEN_RESETS_MAX: usize = 20;

/// Streams of a connection that were reset for errors of the client. Beyond, the connection ends.
const FAULTY_STREAMS_MAX: usize = 64;

/// By how many the requests that a client gives up may exceed those that were answered. Beyond, the
/// connection ends: such is the same attack, paced. A gateway whose users leave does not come near.
const GIVEN_UP_MAX: u64 = 256;

/// Streams of a connection that wait to be told that there is no place for them. They are not counted
/// among connections; further ones are reset.
const REFUSALS_MAX: usize = 16;

/// Time in which a client must answer the announcement that its connection ends.
const FAREWELL_TIME_MAX: Duration = Duration::from_secs(10);

/// The streams of a connection.
pub(super) struct Streams {
    state: Mutex<State>,
    /// Notified when the connection should end for what its streams did.
    ending: Notify,
}

struct State {
    next_id: u64,
    open: usize,
    /// Since when no stream is open, while none is.
    idle_since: Instant,
    /// Since when each answer of bounded length waits for its client, the oldest first.
    unsent: BTreeMap<u64, Instant>,
    /// Open streams for which there was no place.
    refused: usize,
    answered: u64,
    given_up: u64,
}

impl State {
    fn is_attack(&self) -> bool {
        self.given_up > self.answered + GIVEN_UP_MAX
    }
}

impl Streams {
    fn new() -> Arc<Self> {
        let state = State {
            next_id: 0,
            open: 0,
            idle_since: Instant::now(),
            unsent: BTreeMap::new(),
            refused: 0,
            answered: 0,
            given_up: 0,
        };
        Arc::new(Self { state: Mutex::new(state), ending: Notify::new() })
    }

    /// Notes that a stream is open. Returns whether it is the only one.
    pub(super) fn open(self: &Arc<Self>) -> (OpenStream, bool) {
        let mut state = self.state.lock();
        let id = state.next_id;
        state.next_id += 1;
        state.open += 1;
        let is_only = state.open == 1;
        drop(state);
        let (streams, unit) = (self.clone(), None);
        (OpenStream { streams, id, unit, is_refused: false, ends_connection: None }, is_only)
    }

    /// Returns when to look again, or `Err` with what the client is late with. It has less time once the
    /// end of the connection was `announced`.
    fn look(
        &self,
        limits: &Limits,
        announced: Option<Instant>,
        now: Instant,
    ) -> Result<Instant, Late> {
        let state = self.state.lock();
        let unsent = state.unsent.first_key_value().map_or(now, |(_, since)| *since);
        let unsent = unsent + limits.unread_time;
        let idle = if state.open == 0 { state.idle_since } else { now };
        let idle = match announced {
            Some(at) => idle.max(at) + FAREWELL_TIME_MAX,
            None => idle + limits.idle_time,
        };
        if unsent <= now {
            return Err(Late::Unread);
        }
        if idle <= now { Err(Late::Idle) } else { Ok(unsent.min(idle)) }
    }
}

/// What a client is late with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Late {
    /// With the next request.
    Idle,
    /// With reading an answer.
    Unread,
}

/// A stream, from its head until its answer was handed over. Dropped before it was answered, it was given
/// up by the client.
pub(super) struct OpenStream {
    streams: Arc<Streams>,
    id: u64,
    /// Of every stream but the first of its connection.
    unit: Option<OwnedSemaphorePermit>,
    /// Whether there was no place for it.
    is_refused: bool,
    /// Once it is answered: whether its connection shall end with it.
    ends_connection: Option<bool>,
}

impl OpenStream {
    /// Keeps the place that the stream takes among all connections. Returns `true`: it has one.
    pub(super) fn keep(&mut self, unit: OwnedSemaphorePermit) -> bool {
        self.unit = Some(unit);
        true
    }

    /// Notes that there is no place for the stream. Returns `false`: that is to be its answer.
    ///
    /// # Errors
    /// [`NotTaken::NoPlace`] if too many such answers wait for the client already.
    pub(super) fn refuse(&mut self) -> Result<bool, NotTaken> {
        let mut state = self.streams.state.lock();
        if state.refused == REFUSALS_MAX {
            // The client has not given it up.
            self.ends_connection = Some(false);
            return Err(NotTaken::NoPlace(h2::Reason::REFUSED_STREAM.into()));
        }
        state.refused += 1;
        drop(state);
        self.is_refused = true;
        Ok(false)
    }

    /// Notes that there is an answer.
    pub(super) fn answered(&mut self, is_bounded: bool, ends_connection: bool) {
        self.ends_connection = Some(ends_connection);
        if is_bounded {
            self.streams.state.lock().unsent.insert(self.id, Instant::now());
        }
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        let mut state = self.streams.state.lock();
        state.unsent.remove(&self.id);
        state.open -= 1;
        state.refused -= usize::from(self.is_refused);
        if state.open == 0 {
            state.idle_since = Instant::now();
        }
        match self.ends_connection {
            Some(_) => state.answered += 1,
            None => state.given_up += 1,
        }
        let is_attack = state.is_attack();
        drop(state);
        if is_attack || self.ends_connection == Some(true) {
            self.streams.ending.notify_one();
        }
    }
}

/// Spawns the streams of a connection as tasks that end with it.
#[derive(Clone)]
struct WithConnection(Weak<Mutex<JoinSet<()>>>);

impl<F> hyper::rt::Executor<F> for WithConnection
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        // Without the connection there is nobody to answer.
        let Some(tasks) = self.0.upgrade() else { return };
        let mut tasks = tasks.lock();
        // Ended tasks stay in the set until they are joined.
        while let Some(ended) = tasks.try_join_next() {
            report(ended);
        }
        tasks.spawn(stream);
    }
}

/// Returns the bounds of a connection.
fn builder(tasks: WithConnection) -> http2::Builder<WithConnection> {
    let mut builder = http2::Builder::new(tasks);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_header_list_size(HEAD_BYTES_MAX as u32)
        .max_send_buf_size(ANSWER_BYTES_FREE)
        .max_pending_accept_reset_streams(UNSEEN_RESETS_MAX)
        .max_local_error_reset_streams(FAULTY_STREAMS_MAX);
    builder
}

/// Serves a connection of HTTP/2 until its client, its time or the listener ends it.
pub(super) async fn serve(
    shared: Arc<Shared>,
    wire: Wire,
    client: IpAddr,
    place: Arc<Place>,
    stop: CancellationToken,
) {
    let (streams, limits) = (Streams::new(), shared.limits);
    let tasks = Arc::new(Mutex::new(JoinSet::new()));
    let service = {
        let (shared, place, streams) = (shared.clone(), place.clone(), streams.clone());
        hyper::service::service_fn(move |request| {
            let stream = streams.open();
            answer(shared.clone(), place.clone(), client, request, Some(stream))
        })
    };
    let builder = builder(WithConnection(Arc::downgrade(&tasks)));
    let mut served = std::pin::pin!(builder.serve_connection(TokioIo::new(wire), service));
    let mut stopped = std::pin::pin!(stopped(&shared, &place, &stop));
    let mut look_at = Instant::now();
    // Since when the client knows that the connection ends.
    let mut announced: Option<Instant> = None;
    let ended = loop {
        let is_ending = select! {
            biased;
            ended = &mut served => break ended,
            () = &mut stopped, if announced.is_none() => true,
            () = streams.ending.notified() => {
                if streams.state.lock().is_attack() {
                    // An announced end would let it go on until the client has acknowledged it.
                    tracing::warn!(
                        summed = true,
                        client = %client,
                        "connection of HTTP/2 closed, its client gives up requests all the time"
                    );
                    return;
                }
                announced.is_none()
            }
            () = sleep_until(look_at) => match streams.look(&limits, announced, Instant::now()) {
                Ok(next) => {
                    look_at = next;
                    false
                }
                Err(Late::Idle) if announced.is_none() => true,
                Err(late) => {
                    tracing::debug!(?late, "connection closed, its client is late");
                    return;
                }
            },
        };
        if is_ending {
            served.as_mut().graceful_shutdown();
            look_at = Instant::now();
            announced = Some(look_at);
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection failed");
    }
}
