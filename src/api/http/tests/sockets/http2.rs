//! HTTP/2: with prior knowledge, over TLS, and within its bounds.

use bytes_of_frames::*;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::{tls::Secured, *};

/// A client of HTTP/2, whose connection is served by a task.
struct Client {
    send: SendRequest<Body>,
    served: JoinHandle<hyper::Result<()>>,
}

impl Client {
    async fn new(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        let (send, connection) = http2::Builder::new(TokioExecutor::new())
            .handshake(TokioIo::new(stream))
            .await
            .unwrap();
        Self { send, served: tokio::spawn(connection) }
    }

    /// Sends a request without waiting for its answer.
    fn begin(&self, path: &str) -> JoinHandle<hyper::Result<(u16, String)>> {
        let mut send = self.send.clone();
        let request = Request::builder().uri(format!("http://coupond{path}"));
        let request = request.body(Body::empty()).unwrap();
        tokio::spawn(async move {
            let response = send.send_request(request).await?;
            let status = response.status().as_u16();
            let body = to_bytes(Body::new(response.into_body()), usize::MAX).await.unwrap();
            Ok((status, String::from_utf8(body.to_vec()).unwrap()))
        })
    }

    async fn get(&self, path: &str) -> (u16, String) {
        timeout(PATIENCE, self.begin(path)).await.expect("an answer").unwrap().unwrap()
    }

    async fn ended(self) {
        drop(self.send);
        let _ = timeout(PATIENCE, self.served).await.expect("the connection should end");
    }
}

#[tokio::test]
async fn h2c_with_prior_knowledge_is_served() {
    let gate = Arc::new(Gate::default());
    let mut running = Running::start(limits(), gated(&gate)).await;
    let client = Client::new(running.connect().await).await;
    let held = client.begin("/through");
    notified(&gate.entered).await;
    // Another stream does not wait for the first.
    assert_eq!(client.get("/nothing").await.0, 404);
    gate.open.notify_one();
    assert_eq!(held.await.unwrap().unwrap(), (200, "through".to_owned()));
    running.stop();
    client.ended().await;
    running.ended().await;
}

#[tokio::test]
async fn http2_is_served_over_tls() {
    let mut secured = Secured::start(limits(), scripted()).await;
    let stream = secured.connect(&[b"h2", b"http/1.1"], None).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(b"h2".as_slice()));
    let client = Client::new(stream).await;
    let (status, body) = client.get("/campaigns/spring").await;
    assert_eq!(status, 200, "{body}");
    secured.running.stop();
    client.ended().await;
    secured.running.ended().await;
}

#[tokio::test]
async fn a_panic_ends_its_stream_and_no_other() {
    let gate = Arc::new(Gate::default());
    let mut running = Running::start(limits(), gated(&gate)).await;
    let client = Client::new(running.connect().await).await;
    assert!(client.begin("/panics").await.unwrap().is_err());
    assert_eq!(client.get("/nothing").await.0, 404);
    running.stop();
    client.ended().await;
    running.ended().await;
}

#[tokio::test]
async fn streams_take_the_places_of_connections() {
    let gate = Arc::new(Gate::default());
    // The connection takes four places and its first stream none.
    let limits = server::Limits { connections: 5, ..limits() };
    let mut running = Running::start(limits, gated(&gate)).await;
    let client = Client::new(running.connect().await).await;
    let mut never = Vec::new();
    for _ in 0..2 {
        never.push(client.begin("/never"));
        notified(&gate.entered).await;
    }
    let (status, body) = client.get("/nothing").await;
    assert_eq!(status, 503, "{body}");
    assert!(body.contains("/overloaded"), "{body}");
    never.iter().for_each(JoinHandle::abort);
    notified(&gate.left).await;
    // A stream that was given up leaves its place.
    let served = async { while client.get("/nothing").await.0 != 404 {} };
    timeout(PATIENCE, served).await.expect("there is room again");
    running.stop();
    client.ended().await;
    running.ended().await;
}

#[tokio::test]
async fn a_connection_of_http2_makes_room_for_itself() {
    let limits = server::Limits { connections: 5, ..limits() };
    let mut running = Running::start(limits, scripted()).await;
    let mut idle: Vec<_> = Vec::new();
    for _ in 0..4 {
        let mut stream = running.connect().await;
        ask_nothing(&mut stream).await;
        idle.push(stream);
    }
    let client = Client::new(running.connect().await).await;
    assert_eq!(client.get("/nothing").await.0, 404);
    for stream in &mut idle[..3] {
        assert_eq!(read_all(stream).await, "");
    }
    assert!(ask_nothing(&mut idle[3]).await.starts_with("HTTP/1.1 404 "));
    running.stop();
    client.ended().await;
    running.ended().await;
}

#[tokio::test]
async fn a_drain_ends_a_connection_after_an_answer() {
    let gate = Arc::new(Gate::default());
    let mut running = Running::start(limits(), gated(&gate)).await;
    let client = Client::new(running.connect().await).await;
    let held = client.begin("/through");
    notified(&gate.entered).await;
    running.ending.drain.cancel();
    assert!(ask_nothing(&mut running.connect().await).await.contains("connection: close"));
    // What is open is answered, also after another answer has announced the end.
    assert_eq!(client.get("/nothing").await.0, 404);
    gate.open.notify_one();
    assert_eq!(held.await.unwrap().unwrap().0, 200);
    client.ended().await;
    running.stop();
    running.ended().await;
}

#[tokio::test]
async fn an_idle_connection_of_http2_ends() {
    let limits = server::Limits { idle_time: Duration::from_millis(50), ..limits() };
    let mut running = Running::start(limits, scripted()).await;
    let client = Client::new(running.connect().await).await;
    assert_eq!(client.get("/nothing").await.0, 404);
    timeout(PATIENCE, client.served).await.expect("it should end").unwrap().unwrap();
    running.stop();
    running.ended().await;
}

#[tokio::test]
async fn a_head_of_more_than_16_kib_gets_431() {
    let mut running = Running::start(limits(), scripted()).await;
    let mut client = Client::new(running.connect().await).await;
    let request = Request::builder().uri("http://coupond/nothing").header("x", "x".repeat(17_000));
    let refused = client.send.send_request(request.body(Body::empty()).unwrap()).await;
    // The client library may refuse to send it, as the settings of the server say so.
    assert!(refused.is_err() || refused.is_ok_and(|answer| answer.status() == 431));
    running.stop();
    client.ended().await;
    running.ended().await;
}

/// Frames as bytes, for what no client library sends.
mod bytes_of_frames {
    use super::*;

    pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    pub(super) const GOAWAY: u8 = 7;
    const SETTINGS: u8 = 4;
    pub(super) const ENHANCE_YOUR_CALM: u32 = 11;

    pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        frame
    }

    /// The preface and the client's settings: each an identifier and a value.
    pub(super) fn hello(settings: &[(u16, u32)]) -> Vec<u8> {
        let pairs = settings.iter().flat_map(|(id, value)| {
            id.to_be_bytes().into_iter().chain(value.to_be_bytes()).collect::<Vec<u8>>()
        });
        [PREFACE, &frame(SETTINGS, 0, 0, &pairs.collect::<Vec<u8>>())].concat()
    }

    /// `GET` of this path, without a body.
    pub(super) fn asking(stream: u32, path: &str) -> Vec<u8> {
        // HPACK: indexed method and scheme; path and authority as literals that are not indexed.
        let mut head = vec![0x82, 0x86, 0x04, u8::try_from(path.len()).unwrap()];
        head.extend(path.as_bytes());
        head.extend([0x01, 7]);
        head.extend(b"coupond");
        frame(1, 0x05, stream, &head)
    }

    pub(super) fn reset(stream: u32) -> Vec<u8> {
        frame(3, 0, stream, &8_u32.to_be_bytes())
    }

    /// Reads frames until one of this kind, and returns its payload. `None`: the connection has ended.
    pub(super) async fn find(stream: &mut TcpStream, kind: u8) -> Option<Vec<u8>> {
        let read = async {
            loop {
                let mut head = [0; 9];
                stream.read_exact(&mut head).await.ok()?;
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
                let mut payload = vec![0; length as usize];
                stream.read_exact(&mut payload).await.ok()?;
                if head[3] == kind {
                    return Some(payload);
                }
            }
        };
        timeout(PATIENCE, read).await.expect("the frame or the end")
    }

    /// The value of a setting that the server has announced.
    pub(super) async fn setting(stream: &mut TcpStream, id: u16) -> Option<u32> {
        let settings = find(stream, SETTINGS).await.unwrap();
        let found = settings.chunks(6).find(|pair| pair[..2] == id.to_be_bytes())?;
        Some(u32::from_be_bytes(found[2..].try_into().unwrap()))
    }
}

#[tokio::test]
async fn the_bounds_are_announced() {
    let mut running = Running::start(limits(), scripted()).await;
    for (id, value) in [(3, 256), (4, 16 * 1_024), (6, 16 * 1_024)] {
        let mut stream = running.connect().await;
        stream.write_all(&hello(&[])).await.unwrap();
        assert_eq!(setting(&mut stream, id).await, Some(value), "setting {id}");
    }
    running.stop();
    running.ended().await;
}

/// CVE-2023-44487: requests that are reset at once, so that the bound of open streams never holds.
#[tokio::test]
async fn a_burst_of_resets_ends_the_connection() {
    let gate = Arc::new(Gate::default());
    let mut running = Running::start(limits(), gated(&gate)).await;
    let mut stream = running.connect().await;
    let mut burst = hello(&[]);
    for id in (1..2_000).step_by(2) {
        burst.extend(asking(id, "/never"));
        burst.extend(reset(id));
    }
    // The server may end the connection before it has read everything.
    let _ = stream.write_all(&burst).await;
    // A reset of the connection may overtake what the server says.
    if let Some(goodbye) = find(&mut stream, GOAWAY).await {
        assert_eq!(goodbye[4..8], ENHANCE_YOUR_CALM.to_be_bytes());
    }
    assert_eq!(find(&mut stream, GOAWAY).await, None, "the connection is closed");
    running.stop();
    running.ended().await;
}

/// Reads until the connection has ended.
async fn closed(stream: &mut TcpStream) {
    while stream.read(&mut [0; 1_024]).await.is_ok_and(|bytes| bytes > 0) {}
}

/// The same attack, paced so that each request is looked at before it is reset.
#[tokio::test]
async fn paced_resets_end_the_connection() {
    let gate = Arc::new(Gate::default());
    let mut running = Running::start(limits(), gated(&gate)).await;
    let mut stream = running.connect().await;
    stream.write_all(&hello(&[])).await.unwrap();
    let mut attack = 0;
    for id in (1..2_000).step_by(2) {
        attack += 1;
        if stream.write_all(&asking(id, "/never")).await.is_err() {
            break;
        }
        tokio::select! {
            () = notified(&gate.entered) => {}
            () = closed(&mut stream) => break,
        }
        stream.write_all(&reset(id)).await.unwrap();
        notified(&gate.left).await;
    }
    assert!((257..300).contains(&attack), "{attack} requests were looked at");
    assert_eq!(find(&mut stream, GOAWAY).await, None, "the connection is closed");
    running.stop();
    running.ended().await;
}

#[tokio::test]
async fn an_answer_that_is_not_taken_ends_the_connection() {
    let router = Router::new().fallback(|| async { "x".repeat(8_000) });
    let limits = server::Limits { unread_time: Duration::from_millis(50), ..limits() };
    let mut running = Running::start(limits, router).await;
    let mut stream = running.connect().await;
    // The client announces that it takes no byte of any stream.
    stream.write_all(&[hello(&[(4, 0)]), asking(1, "/large")].concat()).await.unwrap();
    assert_eq!(find(&mut stream, GOAWAY).await, None, "the connection is closed");
    running.stop();
    running.ended().await;
}
