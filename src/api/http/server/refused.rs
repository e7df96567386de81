//! Answers requests that hyper refuses before any handler sees them.

use std::time::Duration;

use axum::{
    body::to_bytes,
    response::{IntoResponse, Response},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::timeout,
};

use super::{
    super::problem::{Kind, Problem},
    HEAD_BYTES_MAX,
};

/// Time for the answer and for what the client is still sending. Closing a connection with unread
/// bytes resets it, and the client would see the reset instead of the answer.
const ANSWER_TIME_MAX: Duration = Duration::from_millis(500);

/// Bytes that are read and dropped after the answer.
const DROPPED_BYTES_MAX: u64 = 4 * 1_024 * 1_024;

/// Most fields of a head: hyper's default.
const FIELDS_MAX: usize = 100;

/// Answers a request that hyper refused with `error`, and closes the connection. `unread` is what hyper
/// has not taken from its buffer.
pub(super) async fn answer(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    error: &hyper::Error,
    unread: &[u8],
) {
    send(stream, problem(error, unread)).await;
}

/// Answers a client that speaks plain HTTP to a listener with TLS, and closes the connection.
pub(super) async fn answer_plain(stream: impl AsyncRead + AsyncWrite + Unpin) {
    let problem = Problem::new(Kind::MalformedRequest, "this port speaks TLS, and got plain HTTP");
    send(stream, problem.blaming("scheme", "https", "call it with https://")).await;
}

async fn send(mut stream: impl AsyncRead + AsyncWrite + Unpin, problem: Problem) {
    let text = text(problem.into_response()).await;
    let answered = async {
        stream.write_all(&text).await?;
        stream.shutdown().await?;
        let rest = &mut (&mut stream).take(DROPPED_BYTES_MAX);
        tokio::io::copy(rest, &mut tokio::io::sink()).await
    };
    // A client that is gone, or that goes on sending, needs no answer.
    let _ = timeout(ANSWER_TIME_MAX, answered).await;
}

fn problem(error: &hyper::Error, unread: &[u8]) -> Problem {
    let reason = error.to_string();
    if error.is_parse_too_large() {
        // hyper takes a head that fits from its buffer, and then refuses a length beyond 64 bits with the
        // same error.
        let lines = unread.iter().filter(|byte| **byte == b'\n').count();
        if unread.len() < HEAD_BYTES_MAX && lines <= FIELDS_MAX {
            let problem = Problem::new(Kind::BodyTooLarge, "the declared body is beyond any bound");
            return problem.blaming("Content-Length", "the length of a small body", "correct it");
        }
        let rule = format!("at most {HEAD_BYTES_MAX} bytes and {FIELDS_MAX} fields");
        let problem = Problem::new(Kind::HeadTooLarge, format!("the head must have {rule}"));
        return problem.blaming("head", rule, "send fewer and shorter header fields");
    }
    if reason.starts_with("invalid transfer-encoding") {
        return Problem::transfer_encoding();
    }
    let problem =
        Problem::new(Kind::MalformedRequest, format!("the request is not HTTP: {reason}"));
    problem.blaming("head", "as RFC 9112 says", "send the request with an HTTP client")
}

/// Spells an answer as HTTP/1.1.
async fn text(response: Response) -> Vec<u8> {
    let (head, body) = response.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap_or_default();
    let mut text = format!("HTTP/1.1 {}\r\n", head.status).into_bytes();
    for (name, value) in &head.headers {
        text.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    let length = body.len();
    text.extend(format!("content-length: {length}\r\nconnection: close\r\n\r\n").into_bytes());
    text.extend(body);
    text
}
