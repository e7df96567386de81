//! Connections: how many, how long they may take, and how they end.

use std::{
    future::Future,
    io,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::Router;
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    select,
    sync::Semaphore,
    task::{JoinError, JoinSet},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tower::Service;
use tracing::{debug, error, warn};

/// Connections of one listener at once: more than `api.waiters_max`, so that waiters are what
/// runs out first, and at about 20 KiB each 320 MiB at worst. Others wait in the kernel's backlog.
pub const CONNECTIONS_MAX: usize = 16_384;

/// Time in which the head of a request must have come, counted from the end of the one before, so
/// that it also ends idle connections. Longer than the 60 s after which common gateways drop an
/// idle connection themselves: who drops first must be the one that sends.
const HEAD_TIME_MAX: Duration = Duration::from_secs(75);

/// Largest head of a request: the longest id and key with a gateway's headers fit four times.
const HEAD_BYTES_MAX: usize = 16 * 1_024;

/// Time for which a client may leave an answer unread, or be unreachable.
const UNREAD_TIME_MAX: Duration = Duration::from_secs(30);

/// Time in which requests under way may end once the listener stops: half of the 10 s in which a
/// node has to be gone.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(5);

/// Pause after a failed accept: it fails for want of file descriptors, which others must free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The bounds of a listener, for tests to tighten.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) connections: usize,
    pub(super) head_time: Duration,
    pub(super) drain_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: CONNECTIONS_MAX, head_time: HEAD_TIME_MAX, drain_time: DRAIN_TIME_MAX }
    }
}

/// Serves `router` until `shutdown` resolves; then takes no connection and no request any more,
/// lets those under way end within 5 s, and returns. Dropped earlier, it drops every connection.
///
/// At most [`CONNECTIONS_MAX`] connections are served at once, each closed when it brings no
/// request for 75 s. A failed accept is tried again; a handler that panics ends its connection
/// only.
pub async fn serve(listener: TcpListener, router: Router, shutdown: impl Future<Output = ()>) {
    serve_within(Limits::default(), listener, router, shutdown).await;
}

pub(super) async fn serve_within(
    limits: Limits,
    listener: TcpListener,
    router: Router,
    shutdown: impl Future<Output = ()>,
) {
    let permits = Arc::new(Semaphore::new(limits.connections));
    let stop = CancellationToken::new();
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let accept = async {
            // Taken first: a connection that is not served stays with the kernel.
            let permit = Arc::clone(&permits).acquire_owned().await;
            let (stream, _) = listener.accept().await?;
            Ok::<_, io::Error>((permit, stream))
        };
        select! {
            () = &mut shutdown => break,
            Some(ended) = connections.join_next() => report(ended),
            accepted = accept => match accepted {
                Ok((permit, stream)) => {
                    let served = connection(limits, stream, router.clone(), stop.clone());
                    connections.spawn(async move {
                        served.await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    warn!(%error, "a connection could not be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    stop.cancel();
    let drained = timeout(limits.drain_time, async {
        while let Some(ended) = connections.join_next().await {
            report(ended);
        }
    });
    if drained.await.is_err() {
        warn!(connections = connections.len(), "connections were cut, they did not end in time");
        connections.shutdown().await;
    }
}

fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        error!(%error, "a handler panicked, its connection was closed");
    }
}

/// Serves one connection until its client, its time or the listener ends it.
async fn connection(limits: Limits, stream: TcpStream, router: Router, stop: CancellationToken) {
    if let Err(error) = tune(&stream) {
        debug!(%error, "a connection was gone before it was served");
        return;
    }
    let begun = Arc::new(AtomicBool::new(false));
    let service = service_fn({
        let begun = Arc::clone(&begun);
        move |request: Request<Incoming>| {
            begun.store(true, Ordering::Relaxed);
            router.clone().call(request)
        }
    });
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_time)
        .max_header_size(HEAD_BYTES_MAX)
        .max_buf_size(2 * HEAD_BYTES_MAX);
    let mut served = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let ended = select! {
        ended = &mut served => ended,
        () = stop.cancelled() => {
            if !begun.load(Ordering::Relaxed) {
                // A connection without a first request does not count as idle for hyper, which
                // would wait for one.
                return;
            }
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        debug!(%error, "a connection broke off");
    }
}

/// Answers are single small writes, and nobody may leave them unread for ever.
fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    #[cfg(target_os = "linux")]
    {
        let millis = u32::try_from(UNREAD_TIME_MAX.as_millis()).unwrap_or(u32::MAX);
        rustix::net::sockopt::set_tcp_user_timeout(stream, millis)?;
    }
    Ok(())
}
