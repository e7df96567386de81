//! Serves connections: how many, how long they may take, and how they end.

use std::{future::Future, io, pin::pin, sync::Arc, time::Duration};

use axum::Router;
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::{GracefulShutdown, Watcher},
};
use tokio::{
    net::{TcpListener, TcpStream},
    select,
    sync::Semaphore,
    task::{JoinError, JoinSet},
    time::{sleep, timeout},
};
use tower::Service;

/// Connections of one listener at once. More than `api.waiters_max`, so that waiters run out first;
/// at about 20 KiB each, 320 MiB at worst. Further connections wait in the kernel's backlog.
pub(crate) const CONNECTIONS_MAX: usize = 16_384;

/// Time in which the head of a request must arrive, counted from the end of the previous request:
/// it also ends idle connections. Longer than the 60 s after which common gateways drop an idle
/// connection: if this side dropped it first, a gateway could send a request into the closing
/// connection and get an error.
const HEAD_TIME_MAX: Duration = Duration::from_secs(75);

/// Largest head of a request: four times the longest request id and key with a gateway's headers.
const HEAD_BYTES_MAX: usize = 16 * 1_024;

/// Time for which a client may leave a response unread, or be unreachable.
const UNREAD_TIME_MAX: Duration = Duration::from_secs(30);

/// Time in which requests in flight may end once the listener stops: half of the 10 s in which a
/// node has to exit.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(5);

/// Pause after a failed accept. It fails when file descriptors run out, and an immediate retry would
/// spin until some are closed.
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

/// Serves `router` until `shutdown` resolves. Then no connection is accepted any more, requests in
/// flight get 5 s to end, and the call returns. Dropping the future drops every connection.
///
/// At most [`CONNECTIONS_MAX`] connections are served at once. A connection without a request for
/// 75 s is closed. A failed accept is tried again. A handler that panics ends its connection only.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    shutdown: impl Future<Output = ()>,
) {
    serve_within(Limits::default(), listener, router, shutdown).await;
}

pub(super) async fn serve_within(
    limits: Limits,
    listener: TcpListener,
    router: Router,
    shutdown: impl Future<Output = ()>,
) {
    let permits = Arc::new(Semaphore::new(limits.connections));
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let accept = async {
            // The permit comes first: a connection that cannot be served yet stays in the backlog.
            let permit = Arc::clone(&permits).acquire_owned().await;
            let (stream, _) = listener.accept().await?;
            Ok::<_, io::Error>((permit, stream))
        };
        select! {
            () = &mut shutdown => break,
            Some(ended) = connections.join_next() => report(ended),
            accepted = accept => match accepted {
                Ok((permit, stream)) => {
                    let served = connection(limits, stream, router.clone(), graceful.watcher());
                    connections.spawn(async move {
                        served.await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "accepting a connection failed");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    // Before connections end: a client that reconnects is refused at once, not left in the backlog.
    drop(listener);
    let ended = async {
        while let Some(ended) = connections.join_next().await {
            report(ended);
        }
    };
    let drained = timeout(limits.drain_time, async { tokio::join!(graceful.shutdown(), ended) });
    if drained.await.is_err() {
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
        tracing::error!(%error, "HTTP handler panicked, connection closed");
    }
}

/// Serves one connection until its client, its time or the listener ends it.
async fn connection(limits: Limits, stream: TcpStream, router: Router, watcher: Watcher) {
    if let Err(error) = tune(&stream) {
        tracing::debug!(%error, "connection closed before its first request");
        return;
    }
    let service = service_fn(move |request: Request<Incoming>| router.clone().call(request));
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_time)
        .max_header_size(HEAD_BYTES_MAX)
        .max_buf_size(2 * HEAD_BYTES_MAX);
    let served = builder.serve_connection(TokioIo::new(stream), service);
    if let Err(error) = watcher.watch(served).await {
        tracing::debug!(%error, "connection failed");
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
