//! The idempotency key of a request, and the token that it bears (INV-11).

use axum::http::{HeaderMap, header};
use hmac::digest::CtOutput;
use sha2::{Digest, Sha256};

use super::fields::{Broken, Fields};
use crate::domain::ids::IdempotencyKey;

/// The header with the key of a request, and the name that some clients and gateways give it.
const KEY_HEADERS: [&str; 2] = ["Idempotency-Key", "X-Idempotency-Key"];

/// Reads the `Idempotency-Key` of a request. Faults go to `fields`.
pub(super) fn idempotency_key(
    headers: &HeaderMap,
    fields: &mut Fields<'_>,
) -> Option<IdempotencyKey> {
    let mut keys = KEY_HEADERS.map(|name| match key_of(headers, name) {
        Some(Err(broken)) => {
            fields.fault(name, broken);
            None
        }
        Some(Ok(key)) => Some(key),
        None => None,
    });
    if let [Some(key), Some(other)] = &keys
        && key != other
    {
        let rule = "the same as Idempotency-Key";
        fields.fault(KEY_HEADERS[1], Broken::new(rule, "send one of the headers, or both alike"));
    }
    keys.iter_mut().find_map(Option::take)
}

fn key_of(headers: &HeaderMap, name: &'static str) -> Option<Result<IdempotencyKey, Broken>> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    if values.next().is_some() {
        return Some(Err(Broken::new("given once", "send the header once")));
    }
    let text = value.to_str().unwrap_or_default();
    // By the IETF draft the value is a quoted string. Most clients send the key alone.
    let quoted = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let key = IdempotencyKey::parse(quoted.unwrap_or(text));
    Some(key.map_err(|_| Broken::new(IdempotencyKey::RULE, "send a valid key, or none")))
}

/// Returns the token that a request bears, if it bears one.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let (scheme, token) = value.as_bytes().split_at_checked(b"Bearer ".len())?;
    let token = token.trim_ascii();
    (scheme.eq_ignore_ascii_case(b"Bearer ") && !token.is_empty()).then_some(token)
}

/// The digest of a token. Comparing two takes the same time whatever they have in common, so that the time
/// of an answer reveals neither a token nor its length.
#[derive(PartialEq, Eq)]
pub(super) struct TokenDigest(CtOutput<Sha256>);

impl TokenDigest {
    /// Digests a token.
    pub(super) fn of(token: &[u8]) -> Self {
        Self(CtOutput::new(Sha256::digest(token)))
    }

    /// Returns the digest that is these bytes.
    pub(super) fn from_bytes(sha256: [u8; 32]) -> Self {
        Self(CtOutput::new(sha256.into()))
    }
}
