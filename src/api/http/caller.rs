//! The idempotency key of a request, and the token of operators (INV-11).

use axum::http::{HeaderMap, header};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

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

/// The admin token, kept as a keyed digest.
pub(super) struct AdminToken(Hmac<Sha256>);

impl AdminToken {
    /// Digests the token that requests must bear.
    pub(super) fn new(token: &str) -> Self {
        Self(Self::digest(token.as_bytes()))
    }

    /// Returns whether `token` is the token. Compares digests in constant time, so that the time of
    /// the answer reveals neither the token nor its length.
    pub(super) fn is(&self, token: &[u8]) -> bool {
        Self::digest(token).verify(&self.0.clone().finalize().into_bytes()).is_ok()
    }

    fn digest(token: &[u8]) -> Hmac<Sha256> {
        let mac = Hmac::<Sha256>::new_from_slice(b"coupond admin token");
        mac.expect("HMAC takes keys of any length").chain_update(token)
    }
}
