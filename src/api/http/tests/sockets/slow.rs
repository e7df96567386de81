//! Clients that do not read their answers, or read them slowly.

use super::*;

/// A listener that answers with so many bytes, more than the buffers of the sockets take.
fn large(bytes: usize) -> Router {
    Router::new().fallback(move || async move { "x".repeat(bytes) })
}

const GET: &[u8] = b"GET /large HTTP/1.1\r\nHost: coupond\r\n\r\n";

/// An answer that no kernel takes at once.
const UNREADABLE: usize = 32 * 1_024 * 1_024;

#[tokio::test]
async fn large_answers_that_wait_are_bounded() {
    let limits = limits().with_answers(UNREADABLE + 64 * 1_024);
    let mut running = Running::start(limits, large(UNREADABLE)).await;
    let mut slow = running.connect().await;
    slow.write_all(GET).await.unwrap();
    // Its answer has begun, so it is counted.
    slow.read_exact(&mut [0; 1]).await.unwrap();
    let mut refused = running.connect().await;
    refused.write_all(GET).await.unwrap();
    let reply = read_one(&mut refused).await;
    assert!(reply.starts_with("HTTP/1.1 503 "), "{reply}");
    assert!(reply.contains("/overloaded") && reply.contains("retry-after: 1"), "{reply}");
    let mut rest = vec![0; UNREADABLE];
    slow.read_exact(&mut rest).await.unwrap();
    drop(slow);
    // What was read is not counted any more.
    let served = async {
        loop {
            let mut again = running.connect().await;
            again.write_all(GET).await.unwrap();
            let mut status = [0; 12];
            again.read_exact(&mut status).await.unwrap();
            if status.ends_with(b"200") {
                break;
            }
        }
    };
    timeout(PATIENCE, served).await.expect("there is room again");
    running.stop();
    running.ended().await;
}

#[tokio::test]
async fn small_answers_are_not_counted() {
    let limits = limits().with_answers(0);
    let mut running = Running::start(limits, large(server::ANSWER_BYTES_FREE)).await;
    let mut stream = running.connect().await;
    stream.write_all(GET).await.unwrap();
    assert!(read_one(&mut stream).await.starts_with("HTTP/1.1 200 "));
    running.stop();
    running.ended().await;
}

#[tokio::test]
async fn an_answer_that_is_not_read_ends() {
    let (unread_time, drain_time) = (Duration::from_millis(50), PATIENCE * 10);
    let limits =
        server::Limits { unread_time, drain_time, ..limits().with_answers(2 * UNREADABLE) };
    let mut running = Running::start(limits, large(UNREADABLE)).await;
    let mut stream = running.connect().await;
    stream.write_all(GET).await.unwrap();
    stream.read_exact(&mut [0; 4_096]).await.unwrap();
    running.stop();
    // The listener would wait for the answer to be read.
    running.ended().await;
    assert!(read_all(&mut stream).await.len() < UNREADABLE, "it is cut off");
}
