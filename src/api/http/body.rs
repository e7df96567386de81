//! Reads request bodies within bounds of type, size and time.

use std::time::Duration;

use axum::{
    body::{Body, BodyDataStream, Bytes},
    http::{HeaderMap, HeaderValue, header},
};
use futures_util::StreamExt;
use tokio::time::timeout;

use super::{
    fields::BODY,
    problem::{Kind, Problem},
};

/// Largest body of the public listener. An issue request has about 250 bytes.
pub(super) const PUBLIC_BYTES_MAX: usize = 1_024;

/// Largest body of the admin listener. A definition whose texts are all escaped (`\u00e9`) has about
/// 2,500 bytes.
pub(super) const ADMIN_BYTES_MAX: usize = 4_096;

/// Time in which a body must arrive. It fits one packet, so only a stalled client takes longer.
pub(super) const BODY_TIME_MAX: Duration = Duration::from_secs(10);

/// Bytes of a refused body that are read and dropped. Closing a connection with unread bytes resets
/// it, and a client that is still sending would see the reset instead of the response.
const DRAINED_BYTES_MAX: usize = 4 * 1_024 * 1_024;

/// Time for which a refused body is read. A client that sends nothing is not waited for.
const DRAIN_TIME_MAX: Duration = Duration::from_millis(500);

/// Reads a body of at most `bytes_max` that is declared as JSON.
///
/// # Errors
/// 415 for another content type, 422 for two content types, and the errors of [`read`].
pub(super) async fn read_json(
    headers: &HeaderMap,
    body: Body,
    bytes_max: usize,
) -> Result<Bytes, Problem> {
    match declared_as_json(headers) {
        Ok(()) => read(headers, body, bytes_max).await,
        Err(problem) => Err(unread(headers, body, problem).await),
    }
}

/// Reads a body of at most `bytes_max` of any content type.
///
/// # Errors
/// 415 for a coded body, 413 for a longer one, 408 for one that does not arrive in time, 400 for one that breaks off.
pub(super) async fn read(
    headers: &HeaderMap,
    body: Body,
    bytes_max: usize,
) -> Result<Bytes, Problem> {
    if let Err(problem) = declared_as_identity(headers) {
        return Err(unread(headers, body, problem).await);
    }
    if declared_length(headers).is_some_and(|length| length > bytes_max as u64) {
        return Err(unread(headers, body, too_large(bytes_max)).await);
    }
    let mut chunks = body.into_data_stream();
    let Ok(collected) = timeout(BODY_TIME_MAX, collect(&mut chunks, bytes_max)).await else {
        let seconds = BODY_TIME_MAX.as_secs();
        let problem = Problem::new(
            Kind::RequestTimeout,
            format!("the body did not arrive within {seconds} s"),
        );
        return Err(problem.blaming(
            BODY,
            format!("sent within {seconds} s"),
            "send the body at once",
        ));
    };
    match collected? {
        Some(body) => Ok(body),
        None => {
            drain(chunks).await;
            Err(too_large(bytes_max))
        }
    }
}

/// Drains the body of a refused request.
pub(super) async fn unread(headers: &HeaderMap, body: Body, refusal: Problem) -> Problem {
    // A client that waits for `100 Continue` has not sent its body.
    if !headers.contains_key(header::EXPECT) {
        drain(body.into_data_stream()).await;
    }
    refusal
}

/// Collects a body. `None`: it is longer than `bytes_max`.
async fn collect(chunks: &mut BodyDataStream, bytes_max: usize) -> Result<Option<Bytes>, Problem> {
    let mut collected = Bytes::new();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| {
            let problem =
                Problem::new(Kind::MalformedRequest, format!("the body broke off: {error}"));
            problem.blaming(BODY, "complete", "send the request again")
        })?;
        if collected.len() + chunk.len() > bytes_max {
            return Ok(None);
        }
        // Almost every body is one chunk, which is not copied.
        collected = if collected.is_empty() {
            chunk
        } else {
            Bytes::from([collected.as_ref(), chunk.as_ref()].concat())
        };
    }
    Ok(Some(collected))
}

/// Reads and drops the rest of a body, within bounds.
async fn drain(mut chunks: BodyDataStream) {
    let read = async {
        let mut left = DRAINED_BYTES_MAX;
        while left > 0
            && let Some(Ok(chunk)) = chunks.next().await
        {
            left = left.saturating_sub(chunk.len());
        }
    };
    let _ = timeout(DRAIN_TIME_MAX, read).await;
}

fn too_large(bytes_max: usize) -> Problem {
    let rule = format!("at most {bytes_max} bytes");
    let problem = Problem::new(Kind::BodyTooLarge, format!("the body must be {rule}"));
    problem.blaming(BODY, rule, "send only the fields that this call takes")
}

fn declared_as_json(headers: &HeaderMap) -> Result<(), Problem> {
    let mut declared = headers.get_all(header::CONTENT_TYPE).iter();
    let first = declared.next();
    if declared.next().is_some() {
        let problem = Problem::new(Kind::Invalid, "Content-Type must be given once");
        return Err(problem.blaming("Content-Type", "given once", "send the header once"));
    }
    let essence = first.and_then(|first| first.as_bytes().split(|byte| *byte == b';').next());
    if essence.is_some_and(|text| text.trim_ascii().eq_ignore_ascii_case(b"application/json")) {
        return Ok(());
    }
    let detail = "the body must be sent with Content-Type: application/json";
    let problem = Problem::new(Kind::UnsupportedMediaType, detail);
    Err(problem.blaming("Content-Type", "application/json", "send Content-Type: application/json"))
}

/// Refuses every `Content-Encoding` but `identity`, also an empty one and one that is given twice.
fn declared_as_identity(headers: &HeaderMap) -> Result<(), Problem> {
    let mut declared = headers.get_all(header::CONTENT_ENCODING).iter();
    let is_identity =
        |value: &HeaderValue| value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"identity");
    if declared.next().is_none_or(is_identity) && declared.next().is_none() {
        return Ok(());
    }
    let detail = "the body must be sent as it is, without Content-Encoding";
    let problem = Problem::new(Kind::UnsupportedEncoding, detail);
    Err(problem.blaming("Content-Encoding", "identity", "send the body without compression"))
}

fn declared_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
