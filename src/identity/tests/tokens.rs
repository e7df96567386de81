//! Tokens of an issuer: algorithms, times, claims.

use jsonwebtoken::Algorithm;
use serde_json::json;

use super::*;
use crate::{
    domain::identity_fold::IdentityFold,
    identity::testing::{AUDIENCE, ISSUER, claims},
};

#[test]
fn every_asymmetric_algorithm_is_taken() {
    let rsa = SigningKey::new(Algorithm::RS256, Some("rsa"));
    let others = [Algorithm::ES256, Algorithm::ES384, Algorithm::EdDSA];
    let others = others.map(|algorithm| SigningKey::new(algorithm, Some("other")));
    let rsa_algorithms = [
        Algorithm::RS256,
        Algorithm::RS384,
        Algorithm::RS512,
        Algorithm::PS256,
        Algorithm::PS384,
        Algorithm::PS512,
    ];
    let keys = rsa_algorithms.map(|algorithm| rsa.with(algorithm));
    for key in keys.iter().chain(&others) {
        let token = key.token(&claims("ada"));
        let as_jwks = user_of(&token, &key_set(&[key]));
        assert_eq!(as_jwks.as_deref(), Ok("ada"), "{:?}", key.algorithm);
        // A key in PEM has no id.
        let as_pem = user_of(&token, &KeySet::parse(key.pem().as_bytes()).unwrap());
        assert_eq!(as_pem.as_deref(), Ok("ada"), "{:?}", key.algorithm);
    }
}

#[test]
fn a_token_is_valid_from_nbf_to_exp_with_leeway() {
    let key = SigningKey::es256("a");
    let keys = key_set(&[&key]);
    let token = key.token(&with(claims("ada"), "nbf", json!(NOON + 10)));
    for (seconds, expected) in [
        (-21, Err(Flaw::NotYetValid)),
        (-20, Ok("ada")),
        (0, Ok("ada")),
        (89, Ok("ada")),
        (90, Err(Flaw::Expired)),
        (1_000_000, Err(Flaw::Expired)),
    ] {
        let user = user_by(&rules(), &token, &keys, NOON + seconds);
        assert_eq!(user.as_deref(), expected.as_ref().map(|user| *user), "{seconds} s");
    }
    let strict = Rules { leeway_ms: 0, ..rules() };
    assert_eq!(user_by(&strict, &token, &keys, NOON + 9), Err(Flaw::NotYetValid));
    assert_eq!(user_by(&strict, &token, &keys, NOON + 60), Err(Flaw::Expired));
    assert!(user_by(&strict, &token, &keys, NOON + 59).is_ok());
}

#[test]
fn claims_have_their_rules() {
    let key = SigningKey::es256("a");
    let keys = key_set(&[&key]);
    let check = |claims: Value, expected: Result<&str, Flaw>| {
        let user = user_of(&key.token(&claims), &keys);
        assert_eq!(user.as_deref(), expected.as_ref().map(|user| *user), "{claims}");
    };
    let ada = || claims("ada");
    for (name, value, expected) in [
        ("aud", json!([AUDIENCE]), Ok("ada")),
        ("aud", json!(["other", AUDIENCE]), Ok("ada")),
        ("aud", json!("other"), Err(Flaw::OtherAudience)),
        ("aud", json!(["other"]), Err(Flaw::OtherAudience)),
        ("aud", json!([AUDIENCE, 1]), Err(Flaw::OtherAudience)),
        ("aud", json!([]), Err(Flaw::OtherAudience)),
        ("aud", json!({ "a": AUDIENCE }), Err(Flaw::OtherAudience)),
        ("aud", json!("Coupons"), Err(Flaw::OtherAudience)),
        ("iss", json!("https://login.example.com"), Err(Flaw::OtherIssuer)),
        ("iss", json!([ISSUER]), Err(Flaw::OtherIssuer)),
        ("iss", json!(null), Err(Flaw::OtherIssuer)),
        ("exp", json!("1795780860"), Err(Flaw::NoExpiry)),
        ("exp", json!(null), Err(Flaw::NoExpiry)),
        ("exp", json!(-1), Err(Flaw::NoExpiry)),
        ("exp", json!(NOON as f64 + 0.5), Ok("ada")),
        ("exp", json!(NOON * 1_000), Err(Flaw::NoExpiry)),
        ("exp", json!(u64::MAX), Err(Flaw::NoExpiry)),
        ("exp", json!(f64::MAX), Err(Flaw::NoExpiry)),
        ("exp", json!(0), Err(Flaw::Expired)),
        ("nbf", json!("0"), Err(Flaw::MalformedStart)),
        ("nbf", json!(null), Err(Flaw::MalformedStart)),
        ("nbf", json!(1e300), Err(Flaw::MalformedStart)),
        ("iat", json!("yesterday"), Ok("ada")),
        ("sub", json!(4711), Ok("4711")),
        ("sub", json!("4711"), Ok("4711")),
        ("sub", json!(47.11), Err(Flaw::NoUser)),
        ("sub", json!(-4711), Err(Flaw::NoUser)),
        ("sub", json!(""), Err(Flaw::NoUser)),
        ("sub", json!("a b"), Err(Flaw::NoUser)),
        ("sub", json!(".."), Err(Flaw::NoUser)),
        ("sub", json!("\u{fc}"), Err(Flaw::NoUser)),
        ("sub", json!("u".repeat(256)), Err(Flaw::NoUser)),
        ("sub", json!(["ada"]), Err(Flaw::NoUser)),
        ("sub", json!(null), Err(Flaw::NoUser)),
    ] {
        check(with(ada(), name, value), expected);
    }
    check(without(ada(), "iss"), Err(Flaw::OtherIssuer));
    check(without(ada(), "aud"), Err(Flaw::OtherAudience));
    check(without(ada(), "exp"), Err(Flaw::NoExpiry));
    check(without(ada(), "sub"), Err(Flaw::NoUser));
}

#[test]
fn another_claim_may_name_the_user() {
    let key = SigningKey::es256("a");
    let keys = key_set(&[&key]);
    let token = key.token(&with(claims("4711"), "email", json!("Ada@Example.com")));
    let by_email = Rules { claim: "email".to_owned(), ..rules() };
    assert_eq!(user_by(&by_email, &token, &keys, NOON).as_deref(), Ok("Ada@Example.com"));
    let folded = Rules { fold: IdentityFold::Lower, ..by_email };
    assert_eq!(user_by(&folded, &token, &keys, NOON).as_deref(), Ok("ada@example.com"));
}
