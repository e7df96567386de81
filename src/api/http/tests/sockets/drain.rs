//! A listener that is about to stop answers everything, and lets its clients go elsewhere.

use super::*;

#[tokio::test]
async fn each_answer_of_a_drain_closes_its_connection() {
    let mut running = Running::start(limits(), scripted()).await;
    let mut kept = running.connect().await;
    let reply = ask_nothing(&mut kept).await;
    assert!(!reply.contains("connection: close"), "{reply}");
    running.ending.drain.cancel();
    // A new connection is answered too.
    for mut stream in [kept, running.connect().await, running.connect().await] {
        stream.write_all(POST.as_bytes()).await.unwrap();
        let reply = read_all(&mut stream).await;
        assert!(reply.starts_with("HTTP/1.1 202 "), "{reply}");
        assert!(reply.contains("\r\nconnection: close\r\n"), "{reply}");
    }
    running.stop();
    running.ended().await;
}

#[tokio::test]
async fn a_request_that_began_before_the_drain_is_answered() {
    let gate = Arc::new(Gate::default());
    let mut running = Running::start(limits(), gated(&gate)).await;
    let mut stream = running.connect().await;
    stream.write_all(b"GET /through HTTP/1.1\r\nHost: coupond\r\n\r\n").await.unwrap();
    notified(&gate.entered).await;
    running.ending.drain.cancel();
    // An answer of a new connection shows that the drain has begun.
    let reply = ask_nothing(&mut running.connect().await).await;
    assert!(reply.contains("connection: close"), "{reply}");
    gate.open.notify_one();
    let reply = read_all(&mut stream).await;
    assert!(reply.contains("connection: close") && reply.ends_with("through"), "{reply}");
    running.stop();
    running.ended().await;
}

/// The runtime has one thread, which does not get to the listener until the test waits: all these
/// connections are in the backlog when the listener stops.
#[tokio::test]
async fn connections_in_the_backlog_are_answered() {
    use std::io::Write;

    let mut running = Running::start(limits(), scripted()).await;
    ask_nothing(&mut running.connect().await).await;
    let waiting: Vec<_> = std::iter::repeat_with(|| {
        let mut stream = std::net::TcpStream::connect(running.address).unwrap();
        stream.write_all(POST.as_bytes()).unwrap();
        stream
    })
    .take(20)
    .collect();
    running.stop();
    for stream in waiting {
        stream.set_nonblocking(true).unwrap();
        let reply = read_all(&mut TcpStream::from_std(stream).unwrap()).await;
        assert!(reply.starts_with("HTTP/1.1 202 "), "{reply}");
        assert!(reply.contains("connection: close"), "{reply}");
    }
    running.ended().await;
}

#[tokio::test]
async fn a_new_connection_gets_a_moment_to_ask() {
    let limits = server::Limits { first_time: PATIENCE, ..limits() };
    let mut running = Running::start(limits, scripted()).await;
    let mut asked = running.connect().await;
    ask_nothing(&mut asked).await;
    let mut new = running.connect().await;
    running.stop();
    // That one had its first request, and ends at once.
    assert_eq!(read_all(&mut asked).await, "");
    new.write_all(POST.as_bytes()).await.unwrap();
    assert!(read_all(&mut new).await.starts_with("HTTP/1.1 202 "));
    running.ended().await;
}
