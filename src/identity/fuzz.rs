//! Fuzz targets: tokens of clients, key sets of issuers.

use jsonwebtoken::Algorithm;

use super::{
    keys::KeySet,
    testing::{NOON, SigningKey, claims, jwks, rules},
    token::{TOKEN_BYTES_MAX, verify},
};
use crate::{domain::ids::Timestamp, fuzz};

#[test]
fn only_a_token_that_was_signed_is_taken() {
    let keys = [SigningKey::es256("a"), SigningKey::new(Algorithm::EdDSA, Some("b"))];
    let key_set = KeySet::parse(jwks(&[&keys[0], &keys[1]]).as_bytes()).unwrap();
    let made: Vec<_> = keys.iter().map(|key| key.token(&claims("ada")).into_bytes()).collect();
    fuzz::run(&made, &["taken", "refused"], |input, _| {
        let Ok(token) = std::str::from_utf8(input) else { return "refused" };
        let Ok(verified) = verify(token, &key_set, &rules(), Timestamp(NOON * 1_000)) else {
            assert!(!made.iter().any(|made| made == input));
            return "refused";
        };
        assert!(made.iter().any(|made| made == input), "an altered token is taken: {token}");
        assert_eq!((verified.user.as_str(), token.len() <= TOKEN_BYTES_MAX), ("ada", true));
        "taken"
    });
}

#[test]
fn a_key_set_is_never_empty() {
    let keys = [
        SigningKey::es256("a"),
        SigningKey::new(Algorithm::ES384, None),
        SigningKey::new(Algorithm::RS256, Some("r")),
    ];
    let mut valid = vec![jwks(&[&keys[0], &keys[1], &keys[2]]).into_bytes()];
    valid.extend(keys.iter().map(|key| key.pem().into_bytes()));
    fuzz::run(&valid, &["keys", "refused"], |input, _| match KeySet::parse(input) {
        Ok(keys) => {
            // Parts of a set may be repeated.
            assert!((1..=input.len()).contains(&keys.len()));
            "keys"
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            "refused"
        }
    });
}
