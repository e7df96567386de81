//! A listener on real sockets: what a client sees when either side is slow or stops.

mod drain;
mod http2;
mod refusals;
mod room;
mod slow;
mod tls;
mod unix;

use std::{
    future::pending,
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinHandle,
    time::timeout,
};

use super::{
    super::{body, edge::Edge, server},
    *,
};
use crate::{config::Listen, tls::server::Certificates};

/// Time after which a test gives up.
const PATIENCE: Duration = Duration::from_secs(20);

const POST: &str = concat!(
    "POST /coupon/issue HTTP/1.1\r\nHost: coupond\r\nContent-Type: application/json\r\n",
    "Content-Length: 39\r\n\r\n{\"campaign_id\":\"spring\",\"user_id\":\"u1\"}",
);

/// A running listener.
struct Running {
    address: SocketAddr,
    ending: server::Ending,
    served: JoinHandle<()>,
}

impl Running {
    async fn start(limits: server::Limits, router: Router) -> Self {
        Self::start_with(None, limits, router).await
    }

    async fn start_with(
        tls: Option<Arc<Certificates>>,
        limits: server::Limits,
        router: Router,
    ) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let edge = Edge::new(&Listen::Tcp(address), &["coupond".to_owned()]);
        let site = server::Site { router, edge, tls, limits };
        let ending = server::Ending::default();
        let listener = server::Listener::of_tcp(listener);
        let served = tokio::spawn(server::serve(listener, site, ending.clone()));
        Self { address, ending, served }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    fn stop(&mut self) {
        self.ending.stop.cancel();
    }

    async fn ended(self) {
        timeout(PATIENCE, self.served).await.expect("the listener should end").unwrap();
    }
}

/// Bounds that no test reaches by chance.
fn limits() -> server::Limits {
    server::Limits::new(64, 64, Duration::from_secs(75))
}

fn scripted() -> Router {
    public_router(&parts(Arc::new(Script::default()), Identity::Trusted))
}

/// Reads until the peer closes. A connection that was not accepted yet is reset.
async fn read_all(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut text = Vec::new();
    let read = timeout(PATIENCE, stream.read_to_end(&mut text)).await;
    if let Err(error) = read.expect("the connection should be closed") {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
    String::from_utf8(text).unwrap()
}

/// Asks for nothing, and reads the answer.
async fn ask_nothing(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> String {
    stream.write_all(b"GET /nothing HTTP/1.1\r\nHost: coupond\r\n\r\n").await.unwrap();
    stream.flush().await.unwrap();
    read_one(stream).await
}

/// Reads one response with a `Content-Length`.
async fn read_one(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut text = Vec::new();
    let read = async {
        loop {
            let so_far = String::from_utf8_lossy(&text).to_ascii_lowercase();
            if let Some((head, body)) = so_far.split_once("\r\n\r\n") {
                let length = head.split("content-length: ").nth(1).unwrap();
                let length: usize = length.lines().next().unwrap().parse().unwrap();
                if body.len() >= length {
                    break;
                }
            }
            assert_ne!(stream.read_buf(&mut text).await.unwrap(), 0, "closed: {so_far}");
        }
    };
    timeout(PATIENCE, read).await.expect("an answer should come");
    String::from_utf8(text).unwrap()
}

#[tokio::test]
async fn a_too_long_declared_body_is_not_awaited() {
    let mut running = Running::start(limits(), scripted()).await;
    for length in ["1025", "1000000000"] {
        let mut stream = running.connect().await;
        let head = POST.split("Content-Length").next().unwrap();
        let request = format!("{head}Content-Length: {length}\r\n\r\n{{}}");
        stream.write_all(request.as_bytes()).await.unwrap();
        let reply = timeout(body::BODY_TIME_MAX, read_one(&mut stream)).await;
        let reply = reply.expect("no time-out of the body is waited for");
        assert!(reply.starts_with("HTTP/1.1 413 "), "{reply}");
    }
    running.stop();
    running.ended().await;
}

#[tokio::test]
async fn one_connection_carries_many_requests() {
    let mut running = Running::start(limits(), scripted()).await;
    let mut stream = running.connect().await;
    for _ in 0..3 {
        stream.write_all(POST.as_bytes()).await.unwrap();
        let reply = read_one(&mut stream).await;
        assert!(reply.starts_with("HTTP/1.1 202 Accepted\r\n"), "{reply}");
        assert!(reply.ends_with(r#","status":"pending"}"#), "{reply}");
        stream.write_all(b"GET /nothing HTTP/1.1\r\nHost: coupond\r\n\r\n").await.unwrap();
        assert!(read_one(&mut stream).await.starts_with("HTTP/1.1 404 Not Found\r\n"));
        let unread = POST.replace("application/json", "text/plain");
        stream.write_all(unread.as_bytes()).await.unwrap();
        assert!(read_one(&mut stream).await.starts_with("HTTP/1.1 415 "));
    }
    running.stop();
    running.ended().await;
}

#[tokio::test]
async fn the_sender_of_a_large_chunked_body_reads_413() {
    let mut running = Running::start(limits(), scripted()).await;
    for total in [1_025, 40_000] {
        let mut stream = running.connect().await;
        let head = concat!(
            "POST /coupon/issue HTTP/1.1\r\nHost: coupond\r\nContent-Type: application/json\r\n",
            "Transfer-Encoding: chunked\r\n\r\n",
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        for _ in 0..total / 25 {
            stream.write_all(format!("19\r\n{}\r\n", " ".repeat(25)).as_bytes()).await.unwrap();
        }
        stream.write_all(b"0\r\n\r\n").await.unwrap();
        let reply = read_one(&mut stream).await;
        assert!(reply.starts_with("HTTP/1.1 413 Payload Too Large\r\n"), "{reply}");
        assert!(reply.contains("/problems/body-too-large"), "{reply}");
    }
    running.stop();
    running.ended().await;
}

#[tokio::test]
async fn the_sender_of_a_large_body_reads_413() {
    let mut running = Running::start(limits(), scripted()).await;
    let mut stream = running.connect().await;
    let post = POST.replace("Content-Length: 39", "Content-Length: 40000");
    stream.write_all(post.as_bytes()).await.unwrap();
    stream.write_all(&[b' '; 40_000 - 39]).await.unwrap();
    let reply = read_one(&mut stream).await;
    assert!(reply.starts_with("HTTP/1.1 413 Payload Too Large\r\n"), "{reply}");
    running.stop();
    running.ended().await;
}

/// Signals when a handler is entered and left, and lets it answer.
#[derive(Default)]
struct Gate {
    entered: Notify,
    left: Notify,
    open: Notify,
    panicked: AtomicUsize,
}

struct Leaving(Arc<Gate>);

impl Drop for Leaving {
    fn drop(&mut self) {
        self.0.left.notify_one();
    }
}

fn gated(gate: &Arc<Gate>) -> Router {
    let (through, never, panics) = (Arc::clone(gate), Arc::clone(gate), Arc::clone(gate));
    Router::new()
        .route(
            "/through",
            axum::routing::get(|| async move {
                through.entered.notify_one();
                through.open.notified().await;
                "through"
            }),
        )
        .route(
            "/never",
            axum::routing::get(|| async move {
                let _leaving = Leaving(Arc::clone(&never));
                never.entered.notify_one();
                pending::<()>().await;
            }),
        )
        .route(
            "/panics",
            axum::routing::get(|| async move {
                assert_eq!(panics.panicked.fetch_add(1, Ordering::Relaxed), usize::MAX);
            }),
        )
}

async fn notified(signal: &Notify) {
    timeout(PATIENCE, signal.notified()).await.expect("the handler should get there");
}

#[tokio::test]
async fn a_panic_ends_its_connection_and_no_other() {
    let gate = Arc::new(Gate::default());
    let mut running = Running::start(limits(), gated(&gate)).await;
    let mut panicking = running.connect().await;
    let mut other = running.connect().await;
    panicking.write_all(b"GET /panics HTTP/1.1\r\nHost: coupond\r\n\r\n").await.unwrap();
    assert_eq!(read_all(&mut panicking).await, "");
    assert_eq!(gate.panicked.load(Ordering::Relaxed), 1);
    gate.open.notify_one();
    other.write_all(b"GET /through HTTP/1.1\r\nHost: coupond\r\n\r\n").await.unwrap();
    assert!(read_one(&mut other).await.ends_with("through"));
    running.stop();
    running.ended().await;
}

#[tokio::test]
async fn stopping_drains_busy_and_closes_idle() {
    let gate = Arc::new(Gate::default());
    let mut running = Running::start(limits(), gated(&gate)).await;
    let mut busy = running.connect().await;
    busy.write_all(b"GET /through HTTP/1.1\r\nHost: coupond\r\n\r\n").await.unwrap();
    notified(&gate.entered).await;
    let mut idle = running.connect().await;
    idle.write_all(b"GET /nothing HTTP/1.1\r\nHost: coupond\r\n\r\n").await.unwrap();
    read_one(&mut idle).await;
    let mut silent = running.connect().await;
    let address = running.address;
    running.stop();
    assert_eq!(read_all(&mut idle).await, "");
    assert_eq!(read_all(&mut silent).await, "");
    let refused = TcpStream::connect(address).await.map_err(|error| error.kind()).err();
    assert_eq!(refused, Some(std::io::ErrorKind::ConnectionRefused));
    assert!(!running.served.is_finished(), "a request is under way");
    gate.open.notify_one();
    let reply = read_all(&mut busy).await;
    assert!(reply.starts_with("HTTP/1.1 200 OK\r\n"), "{reply}");
    assert!(reply.contains("connection: close\r\n") && reply.ends_with("through"), "{reply}");
    running.ended().await;
}

#[tokio::test]
async fn stopping_cuts_slow_requests() {
    let gate = Arc::new(Gate::default());
    let drain_time = Duration::from_millis(50);
    let limits = server::Limits { drain_time, ..limits() };
    let mut running = Running::start(limits, gated(&gate)).await;
    let mut stream = running.connect().await;
    stream.write_all(b"GET /never HTTP/1.1\r\nHost: coupond\r\n\r\n").await.unwrap();
    notified(&gate.entered).await;
    running.stop();
    assert_eq!(read_all(&mut stream).await, "");
    notified(&gate.left).await;
    running.ended().await;
}
