//! Tokens of a real issuer, forged ones, and how keys come and go.

mod attacks;
mod key_sets;
mod rings;
mod tokens;

use serde_json::Value;

use super::{
    Flaw,
    keys::KeySet,
    testing::{NOON, SigningKey, jwks, rules},
    token::{Rules, verify},
};
use crate::domain::ids::Timestamp;

/// Returns the key set of these keys.
fn key_set(keys: &[&SigningKey]) -> KeySet {
    KeySet::parse(jwks(keys).as_bytes()).unwrap()
}

/// Returns the user of a token at [`NOON`].
fn user_of(token: &str, keys: &KeySet) -> Result<String, Flaw> {
    user_by(&rules(), token, keys, NOON)
}

/// Returns the user of a token by these rules, at a time in seconds.
fn user_by(rules: &Rules, token: &str, keys: &KeySet, seconds: i64) -> Result<String, Flaw> {
    let verified = verify(token, keys, rules, Timestamp(seconds * 1_000))?;
    Ok(verified.user.to_string())
}

/// Returns claims with one member replaced.
fn with(mut claims: Value, name: &str, value: Value) -> Value {
    claims[name] = value;
    claims
}

/// Returns claims without one member.
fn without(mut claims: Value, name: &str) -> Value {
    claims.as_object_mut().unwrap().remove(name).expect("it is there");
    claims
}
