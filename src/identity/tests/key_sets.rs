//! Key sets of issuers: which keys are taken, and which texts are none.

use jsonwebtoken::Algorithm;
use serde_json::json;

use super::*;
use crate::identity::{keys::NoKeys, testing::claims};

fn parsed(keys: &[Value]) -> Result<KeySet, NoKeys> {
    KeySet::parse(json!({ "keys": keys }).to_string().as_bytes())
}

#[test]
fn keys_for_other_uses_are_left_out() {
    let key = SigningKey::es256("a");
    let jwk = key.jwk();
    let token = key.token(&claims("ada"));
    let oct = json!({ "kty": "oct", "kid": "a", "k": "c2VjcmV0", "alg": "HS256" });
    let koblitz = json!({ "kty": "EC", "crv": "secp256k1", "kid": "a", "x": "AA", "y": "AA" });
    let ed448 = json!({ "kty": "OKP", "crv": "Ed448", "kid": "a", "x": "AA" });
    let encryption = with(jwk.clone(), "use", json!("enc"));
    let others = [oct, koblitz, ed448, encryption, json!({ "kty": "new" }), json!(7)];
    assert_eq!(parsed(&others).unwrap_err(), NoKeys::NoneFits(6));
    let all = [&others[..], &[jwk]].concat();
    assert_eq!(user_of(&token, &parsed(&all).unwrap()).as_deref(), Ok("ada"));
}

#[test]
fn use_and_alg_of_a_key_count() {
    let key = SigningKey::new(Algorithm::RS256, Some("a"));
    let (rs256, ps256) =
        (key.token(&claims("ada")), key.with(Algorithm::PS256).token(&claims("ada")));
    for (member, value, expected) in [
        ("use", json!("sig"), Some([Ok("ada"), Ok("ada")])),
        ("use", json!("enc"), None),
        ("use", json!("other"), None),
        ("key_ops", json!(["verify"]), Some([Ok("ada"), Ok("ada")])),
        ("key_ops", json!(["encrypt", "wrapKey"]), None),
        ("alg", json!("RS256"), Some([Ok("ada"), Err(Flaw::OtherAlgorithm)])),
        ("alg", json!("PS256"), Some([Err(Flaw::OtherAlgorithm), Ok("ada")])),
        ("alg", json!("RSA-OAEP"), None),
        ("alg", json!("ES256"), None),
        ("alg", json!("HS256"), None),
        ("alg", json!("new"), None),
    ] {
        let keys = parsed(&[with(key.jwk(), member, value.clone())]);
        let found = keys.ok().map(|keys| [user_of(&rs256, &keys), user_of(&ps256, &keys)]);
        let found = found
            .as_ref()
            .map(|found| found.each_ref().map(|user| user.as_deref().map_err(|flaw| *flaw)));
        assert_eq!(found, expected, "{member} {value}");
    }
}

#[test]
fn weak_and_broken_keys_are_left_out() {
    let rsa = SigningKey::new(Algorithm::RS256, Some("a")).jwk();
    let ec = SigningKey::es256("a").jwk();
    let short = json!({ "kty": "RSA", "kid": "a", "e": "AQAB", "n": "0".repeat(171) });
    let padded = json!({ "kty": "RSA", "kid": "a", "e": "AQAB", "n": "A".repeat(342) });
    for broken in [
        short,
        padded,
        without(rsa.clone(), "n"),
        without(rsa, "e"),
        with(ec.clone(), "x", json!("AAAA")),
        with(ec.clone(), "y", json!("not base64!")),
        with(ec, "crv", json!("P-384")),
    ] {
        assert_eq!(
            parsed(std::slice::from_ref(&broken)).unwrap_err(),
            NoKeys::NoneFits(1),
            "{broken}"
        );
    }
}

#[test]
fn keys_of_one_id_are_all_tried() {
    let (old, new) = (SigningKey::es256("a"), SigningKey::es256("a"));
    let rsa = SigningKey::new(Algorithm::RS256, Some("a"));
    let keys = key_set(&[&old, &rsa, &new]);
    for key in [&old, &rsa, &new] {
        assert_eq!(user_of(&key.token(&claims("ada")), &keys).as_deref(), Ok("ada"));
    }
}

#[test]
fn a_lone_key_needs_no_id() {
    let named = SigningKey::es256("a");
    let unnamed = named.without_id();
    let (with_id, without_id) = (named.token(&claims("ada")), unnamed.token(&claims("ada")));
    assert!(user_of(&without_id, &key_set(&[&named])).is_ok());
    assert!(user_of(&with_id, &key_set(&[&unnamed])).is_ok());
    let other = SigningKey::es256("b");
    assert_eq!(user_of(&with_id, &key_set(&[&other])), Err(Flaw::UnknownKey));
    assert_eq!(user_of(&without_id, &key_set(&[&named, &other])), Err(Flaw::NoKeyId));
}

#[test]
fn other_texts_are_no_key_set() {
    let key = SigningKey::es256("a");
    let said = |text: &str| KeySet::parse(text.as_bytes()).unwrap_err().to_string();
    assert_eq!(said(""), "is neither a JWKS nor a PEM public key");
    assert_eq!(said("[]"), "is neither a JWKS nor a PEM public key");
    assert!(said("{}").starts_with("is no JWKS: missing field `keys`"), "{}", said("{}"));
    assert!(said(r#"{"keys":{}}"#).starts_with("is no JWKS: "), "{}", said(r#"{"keys":{}}"#));
    assert!(said(r#"{"keys":[]}"#).ends_with("(0 other keys)"), "{}", said(r#"{"keys":[]}"#));
    let two = key.pem() + &SigningKey::es256("b").pem();
    assert!(said(&two).starts_with("holds 2 PEM public keys"), "{}", said(&two));
    let private = key.pem().replace("PUBLIC", "PRIVATE");
    assert_eq!(said(&private), "is neither a JWKS nor a PEM public key");
    let cut = key.pem().replace("MFkw", "MFk");
    assert!(KeySet::parse(cut.as_bytes()).is_err());
}
