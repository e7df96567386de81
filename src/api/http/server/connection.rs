//! One connection: what its client speaks, and its requests.

use std::{io, net::IpAddr, sync::Arc};

use axum::{
    body::{Body, HttpBody},
    http::{HeaderValue, Version, header},
    response::Response,
};
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::TcpStream,
    select,
    sync::OwnedSemaphorePermit,
    task::JoinError,
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::{either::Either, sync::CancellationToken};

use super::{
    HEAD_BYTES_MAX, HTTP_2_UNITS, Limits, Shared, UNREAD_TIME_MAX,
    bodies::{Answering, Arriving, NotTaken},
    multiplexed::{self, OpenStream},
    overloaded, refused,
    room::{Occupied, Place},
    stream::{Begun, Raw, Socket, Stream},
    wire::Wire,
};
use crate::tls::server::{Certificates, HTTP_2};

/// Most bytes that TLS keeps while a client does not read: a record.
const UNSENT_BYTES_MAX: usize = 16 * 1_024;

/// The address of the client of a request, as an extension of the request.
#[derive(Debug, Clone, Copy)]
pub(in crate::api::http) struct Client(pub(in crate::api::http) IpAddr);

/// Serves one connection until its client, its time, the listener or another connection ends it.
pub(super) async fn serve(
    shared: Arc<Shared>,
    socket: Socket,
    client: IpAddr,
    occupied: Occupied,
    _unit: OwnedSemaphorePermit,
) {
    if let Either::Left(stream) = &socket
        && let Err(error) = tune(stream)
    {
        tracing::debug!(%error, "connection closed before its first request");
        return;
    }
    let place = occupied.0.clone();
    // A token of its own: each poll of a connection would else lock one that all share.
    let stop = shared.stop.child_token();
    let opened = select! {
        biased;
        opened = open(&shared, Raw::new(socket)) => opened,
        () = stopped(&shared, &place, &stop) => return,
    };
    let Some((stream, is_http_2)) = opened else { return };
    let wire = Wire::new(stream, place.clone(), shared.limits);
    if !is_http_2 {
        return one_by_one(shared, wire, client, place, stop).await;
    }
    match shared.more(HTTP_2_UNITS).await {
        Some(_more) => multiplexed::serve(shared, wire.multiplexed(), client, place, stop).await,
        None => tracing::warn!(summed = true, "connection of HTTP/2 closed, there is no room"),
    }
}

/// Finds out what a client speaks. `None`: nothing that can be served, and the connection ends.
async fn open(shared: &Shared, mut raw: Raw) -> Option<(Stream, bool)> {
    let limits = &shared.limits;
    let Some(certificates) = &shared.tls else {
        let begun = plain_begun(limits, &mut raw).await?;
        if begun == Begun::Tls {
            tracing::warn!(
                summed = true,
                "a client speaks TLS to a listener without it; use http://, or set cert_file and \
                 key_file of api.tls (admin.tls)"
            );
        }
        return Some((Either::Left(raw), begun == Begun::Http2));
    };
    match timeout(limits.handshake_time, handshake(certificates, raw)).await {
        Ok(Ok(Some(stream))) => {
            let is_http_2 = stream.get_ref().1.alpn_protocol() == Some(HTTP_2);
            Some((Either::Right(Box::new(stream)), is_http_2))
        }
        Ok(Ok(None)) => None,
        Ok(Err(error)) => {
            tracing::warn!(summed = true, %error, "TLS handshake failed");
            None
        }
        Err(_) => {
            tracing::debug!("TLS handshake not finished in time");
            None
        }
    }
}

/// Waits for the first bytes of a plain connection: long for the first of them, and shortly for the rest.
async fn plain_begun(limits: &Limits, raw: &mut Raw) -> Option<Begun> {
    let first = timeout(limits.idle_time, raw.more()).await.ok()?.ok()?;
    let rest = async {
        loop {
            if let Some(begun) = raw.more().await? {
                return io::Result::Ok(begun);
            }
        }
    };
    let begun = match first {
        Some(begun) => begun,
        None => timeout(limits.head_time, rest).await.ok()?.ok()?,
    };
    (begun != Begun::Nothing).then_some(begun)
}

/// Sets TLS up. `None`: the client speaks no TLS, and was told so.
async fn handshake(
    certificates: &Certificates,
    mut raw: Raw,
) -> io::Result<Option<TlsStream<Raw>>> {
    match raw.more().await? {
        Some(Begun::Tls) => {}
        Some(Begun::Nothing) => return Ok(None),
        _ => {
            tracing::warn!(
                summed = true,
                "a client speaks plain HTTP to a listener with TLS; use https://"
            );
            refused::answer_plain(raw).await;
            return Ok(None);
        }
    }
    let acceptor = TlsAcceptor::from(certificates.current());
    let accepting =
        acceptor.accept_with(raw, |session| session.set_buffer_limit(Some(UNSENT_BYTES_MAX)));
    accepting.await.map(Some)
}

/// Waits until the connection has to end because the listener stops. One without a request so far gets
/// a moment for it.
pub(super) async fn stopped(shared: &Shared, place: &Place, stop: &CancellationToken) {
    stop.cancelled().await;
    if place.requests() == 0 {
        sleep(shared.limits.first_time).await;
    }
}

/// Serves a connection of HTTP/1.1.
async fn one_by_one(
    shared: Arc<Shared>,
    wire: Wire,
    client: IpAddr,
    place: Arc<Place>,
    stop: CancellationToken,
) {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .half_close(true)
        .header_read_timeout(shared.limits.idle_time)
        .max_header_size(HEAD_BYTES_MAX)
        .max_buf_size(HEAD_BYTES_MAX);
    let (answers, asked) = (shared.clone(), place.clone());
    let service =
        service_fn(move |request| answer(answers.clone(), asked.clone(), client, request, None));
    let mut served = builder.serve_connection(TokioIo::new(wire), service);
    let ended = select! {
        biased;
        ended = &mut served => ended,
        () = stopped(&shared, &place, &stop) => {
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

/// Answers one request. `stream` is its stream of HTTP/2, and whether that is the only one.
pub(super) async fn answer(
    shared: Arc<Shared>,
    place: Arc<Place>,
    client: IpAddr,
    request: Request<Incoming>,
    stream: Option<(OpenStream, bool)>,
) -> Result<Response<Answering>, NotTaken> {
    let answered = place.head();
    let asked = answered.asked();
    if request.body().is_end_stream() && !asked.begin() {
        return Err(NotTaken::Closing);
    }
    let (mut stream, is_only) = stream.map_or((None, true), |(stream, only)| (Some(stream), only));
    let version = request.version();
    let has_place = match &mut stream {
        Some(stream) if !is_only => match shared.more(1).await {
            Some(place) => stream.keep(place),
            None => stream.refuse()?,
        },
        _ => true,
    };
    let response = if has_place {
        let (mut head, body) = request.into_parts();
        let body = Body::new(Arriving::new(body, asked));
        head.extensions.insert(Client(client));
        shared.edge.answer(head, body, shared.router.clone()).await
    } else {
        overloaded("too many connections and streams are open")
    };
    let (mut response, counted) = shared.counted(response);
    let ends_connection = shared.is_draining();
    if let Some(stream) = &mut stream {
        stream.answered(response.body().size_hint().upper().is_some(), ends_connection);
    } else if ends_connection && version < Version::HTTP_2 {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response.map(|body| Answering::new(body, answered, counted, stream)))
}

/// Logs a task that has panicked.
pub(super) fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(summed = true, %error, "HTTP handler panicked, connection closed");
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
