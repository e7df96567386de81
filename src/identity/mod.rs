//! Users by token: who bears a JWT that an issuer has signed (INV-11).
//!
//! `token` and `keys` are pure: they judge a token by a key set, rules and a time. `key_ring` keeps the
//! key set of the issuer, `verifier` puts them together and remembers tokens that were verified.

mod claims;
mod flaw;
#[cfg(test)]
mod fuzz;
mod key_ring;
mod keys;
mod source;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod token;
mod verifier;

pub(crate) use self::{
    flaw::Flaw,
    key_ring::{KEYS_BYTES, KeyRing},
    source::{Source, SourceError, key_set_of_file},
    token::Rules,
    verifier::{Refused, TOKENS_BYTES, Verifier},
};
