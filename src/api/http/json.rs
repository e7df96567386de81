//! JSON bodies and the headers that every answer has.

use axum::{
    body::{Body, Bytes},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;

/// Forbids caches to store an answer. Answers change, and they contain user ids.
pub(super) const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Capacity of a body before it is written. A decision has about 350 bytes.
const BODY_BYTES_USUAL: usize = 512;

/// Returns a JSON answer.
pub(super) fn answer(status: StatusCode, body: &impl Serialize) -> Response {
    written(status, to_bytes(body))
}

/// Returns an answer whose JSON is written already.
pub(super) fn written(status: StatusCode, body: impl Into<Body>) -> Response {
    let mut response = (status, body.into()).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    response.headers_mut().insert(header::CACHE_CONTROL, NO_STORE);
    response
}

/// Returns `body` as JSON.
pub(super) fn to_bytes(body: &impl Serialize) -> Bytes {
    let mut bytes = Vec::with_capacity(BODY_BYTES_USUAL);
    serde_json::to_writer(&mut bytes, body)
        .expect("bodies have names and finite numbers only, and memory takes every write");
    Bytes::from(bytes)
}
