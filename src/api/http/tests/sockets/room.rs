//! Connections that come, wait, and make room for others.

use super::*;

/// Asks for nothing, and reads the answer: the connection is idle afterwards.
async fn ask(stream: &mut TcpStream) {
    stream.write_all(b"GET /nothing HTTP/1.1\r\nHost: coupond\r\n\r\n").await.unwrap();
    assert!(read_one(stream).await.starts_with("HTTP/1.1 404 "));
}

async fn request(stream: &mut TcpStream, path: &str) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: coupond\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
}

#[tokio::test]
async fn the_connection_that_is_idle_for_longest_makes_room() {
    let limits = server::Limits { connections: 2, ..limits() };
    let mut running = Running::start(limits, scripted()).await;
    let (mut first, mut second) = (running.connect().await, running.connect().await);
    ask(&mut first).await;
    ask(&mut second).await;
    // Now the second is idle for longer.
    ask(&mut first).await;
    let mut third = running.connect().await;
    ask(&mut third).await;
    assert_eq!(read_all(&mut second).await, "");
    ask(&mut first).await;
    running.stop();
    running.ended().await;
}

#[tokio::test]
async fn a_request_in_progress_is_not_closed_for_another() {
    let gate = Arc::new(Gate::default());
    let limits = server::Limits { connections: 1, ..limits() };
    let mut running = Running::start(limits, gated(&gate)).await;
    let mut busy = running.connect().await;
    request(&mut busy, "/through").await;
    notified(&gate.entered).await;
    let mut waiting = running.connect().await;
    request(&mut waiting, "/through").await;
    gate.open.notify_one();
    assert!(read_one(&mut busy).await.ends_with("through"));
    // The first connection is idle now, and makes room.
    notified(&gate.entered).await;
    gate.open.notify_one();
    assert!(read_one(&mut waiting).await.ends_with("through"));
    assert_eq!(read_all(&mut busy).await, "");
    running.stop();
    running.ended().await;
}

#[tokio::test]
async fn a_body_that_does_not_arrive_is_no_request_in_progress() {
    let limits = server::Limits { connections: 2, ..limits() };
    let mut running = Running::start(limits, scripted()).await;
    let mut slow = running.connect().await;
    slow.write_all(&POST.as_bytes()[..POST.len() - 1]).await.unwrap();
    let mut idle = running.connect().await;
    ask(&mut idle).await;
    let mut third = running.connect().await;
    ask(&mut third).await;
    assert_eq!(read_all(&mut slow).await, "");
    ask(&mut idle).await;
    running.stop();
    running.ended().await;
}

#[tokio::test]
async fn a_few_idle_connections_may_be_all() {
    let gate = Arc::new(Gate::default());
    let limits = server::Limits { idle: 1, ..limits() };
    let mut running = Running::start(limits, gated(&gate)).await;
    let mut busy = running.connect().await;
    request(&mut busy, "/through").await;
    notified(&gate.entered).await;
    let (mut first, mut second) = (running.connect().await, running.connect().await);
    assert_eq!(read_all(&mut first).await, "");
    ask(&mut second).await;
    gate.open.notify_one();
    assert!(read_one(&mut busy).await.ends_with("through"));
    assert_eq!(read_all(&mut second).await, "");
    running.stop();
    running.ended().await;
}

#[tokio::test]
async fn half_a_head_has_little_time_and_an_idle_connection_more() {
    let head_time = Duration::from_millis(50);
    let limits = server::Limits { head_time, ..limits() };
    let mut running = Running::start(limits, scripted()).await;
    let mut idle = running.connect().await;
    ask(&mut idle).await;
    let mut first = running.connect().await;
    first.write_all(b"GET /campaigns HTTP/1.1\r\nHost:").await.unwrap();
    let mut later = running.connect().await;
    later.write_all(POST.as_bytes()).await.unwrap();
    read_one(&mut later).await;
    later.write_all(b"G").await.unwrap();
    assert_eq!(read_all(&mut first).await, "");
    assert_eq!(read_all(&mut later).await, "");
    ask(&mut idle).await;
    running.stop();
    running.ended().await;
}

#[tokio::test]
async fn an_idle_connection_ends_in_time() {
    let idle_time = Duration::from_millis(50);
    let limits = server::Limits { idle_time, ..limits() };
    let mut running = Running::start(limits, scripted()).await;
    let mut silent = running.connect().await;
    let mut asked = running.connect().await;
    ask(&mut asked).await;
    assert_eq!(read_all(&mut silent).await, "");
    assert_eq!(read_all(&mut asked).await, "");
    running.stop();
    running.ended().await;
}

#[tokio::test]
async fn a_client_that_closes_its_side_is_answered() {
    let gate = Arc::new(Gate::default());
    let mut running = Running::start(limits(), gated(&gate)).await;
    let mut stream = running.connect().await;
    request(&mut stream, "/through").await;
    stream.shutdown().await.unwrap();
    notified(&gate.entered).await;
    gate.open.notify_one();
    let reply = read_all(&mut stream).await;
    assert!(reply.starts_with("HTTP/1.1 200 OK\r\n") && reply.ends_with("through"), "{reply}");
    running.stop();
    running.ended().await;
}

#[tokio::test]
async fn a_client_that_resets_its_connection_ends_its_request() {
    let gate = Arc::new(Gate::default());
    let mut running = Running::start(limits(), gated(&gate)).await;
    let mut stream = running.connect().await;
    request(&mut stream, "/never").await;
    notified(&gate.entered).await;
    stream.set_zero_linger().unwrap();
    drop(stream);
    notified(&gate.left).await;
    running.stop();
    running.ended().await;
}

#[tokio::test]
async fn an_answer_that_is_not_read_keeps_no_connection() {
    // More than fits into the buffers of the sockets.
    let router =
        Router::new().route("/large", axum::routing::get(|| async { "x".repeat(20_000_000) }));
    let limits = server::Limits { connections: 1, ..limits() };
    let mut running = Running::start(limits, router).await;
    let mut unread = running.connect().await;
    request(&mut unread, "/large").await;
    unread.readable().await.unwrap();
    let mut other = running.connect().await;
    ask(&mut other).await;
    running.stop();
    running.ended().await;
}
