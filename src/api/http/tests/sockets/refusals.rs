//! Requests that are refused before a handler sees them get problem documents too.

use super::*;

/// Sends `request`, and returns the answer until the connection is closed.
async fn answer_to(running: &Running, request: &[u8]) -> String {
    let mut stream = running.connect().await;
    stream.write_all(request).await.unwrap();
    read_all(&mut stream).await
}

#[track_caller]
fn check(reply: &str, status: &str, slug: &str) {
    let (head, body) = reply.split_once("\r\n\r\n").expect("an answer");
    assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{reply}");
    let head = head.to_ascii_lowercase();
    assert!(head.contains("\r\ncontent-type: application/problem+json"), "{reply}");
    assert!(head.contains(&format!("\r\ncontent-length: {}", body.len())), "{reply}");
    let body: Value = serde_json::from_str(body).unwrap();
    assert_eq!(body["type"], format!("/problems/{slug}"));
    assert_eq!(body["status"].to_string(), status);
    assert!(!body["detail"].as_str().unwrap().is_empty() && !body["errors"][0]["remedy"].is_null());
}

#[tokio::test]
async fn what_is_not_http_gets_400_and_the_connection_ends() {
    let mut running = Running::start(limits(), scripted()).await;
    for request in [
        "GET /a`b HTTP/1.1\r\nHost: coupond\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : coupond\r\n\r\n",
        "GET / HTTP/9.9\r\nHost: coupond\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: coupond\r\nContent-Length: 1, 2\r\n\r\n",
        "\u{7f}\u{1} / HTTP/1.1\r\n\r\n",
    ] {
        check(&answer_to(&running, request.as_bytes()).await, "400", "malformed-request");
    }
    running.stop();
    running.ended().await;
}

#[tokio::test]
async fn a_large_head_gets_431() {
    let mut running = Running::start(limits(), scripted()).await;
    let large = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(200_000));
    check(&answer_to(&running, large.as_bytes()).await, "431", "head-too-large");
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "X: x\r\n".repeat(101));
    check(&answer_to(&running, many.as_bytes()).await, "431", "head-too-large");
    let fits = format!("Host: coupond\r\nX: {}\r\nConnection: close\r\n\r\n", "x".repeat(16_200));
    let reply = answer_to(&running, format!("GET / HTTP/1.1\r\n{fits}").as_bytes()).await;
    assert!(reply.starts_with("HTTP/1.1 404 "), "{reply}");
    running.stop();
    running.ended().await;
}

#[tokio::test]
async fn a_length_beyond_64_bits_gets_413() {
    let mut running = Running::start(limits(), scripted()).await;
    let request = POST.replace("Content-Length: 39", "Content-Length: 18446744073709551615");
    check(&answer_to(&running, request.as_bytes()).await, "413", "body-too-large");
    running.stop();
    running.ended().await;
}

#[tokio::test]
async fn a_transfer_coding_but_chunked_gets_501() {
    let mut running = Running::start(limits(), scripted()).await;
    for coding in ["gzip", "gzip, chunked", "identity", "chunked, gzip"] {
        let head = POST.split("Content-Length").next().unwrap();
        let request = format!(
            "{head}Connection: close\r\nTransfer-Encoding: {coding}\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n"
        );
        let reply = answer_to(&running, request.as_bytes()).await;
        check(&reply, "501", "unsupported-transfer-encoding");
    }
    running.stop();
    running.ended().await;
}

#[tokio::test]
async fn an_answer_before_a_refusal_is_not_lost() {
    let mut running = Running::start(limits(), scripted()).await;
    let both = "HEAD /nothing HTTP/1.1\r\nHost: coupond\r\n\r\nGET /a`b HTTP/1.1\r\n\r\n";
    let reply = answer_to(&running, both.as_bytes()).await;
    let second = reply.rfind("HTTP/1.1").unwrap();
    assert!(reply.starts_with("HTTP/1.1 404 ") && second > 0, "{reply}");
    check(&reply[second..], "400", "malformed-request");
    running.stop();
    running.ended().await;
}

#[tokio::test]
async fn another_host_gets_421_and_a_missing_one_400() {
    let mut running = Running::start(limits(), scripted()).await;
    for (host, status, slug) in [
        ("Host: evil.example\r\n", "421", "misdirected"),
        ("", "400", "malformed-request"),
        ("Host: coupond\r\nHost: coupond\r\n", "400", "malformed-request"),
    ] {
        let request = POST.replace("Host: coupond\r\n", host);
        let request = request.replace("Content-Length", "Connection: close\r\nContent-Length");
        check(&answer_to(&running, request.as_bytes()).await, status, slug);
    }
    let old = "GET /nothing HTTP/1.0\r\n\r\n";
    assert!(answer_to(&running, old.as_bytes()).await.contains("/problems/not-found"));
    running.stop();
    running.ended().await;
}
