//! Forged and malformed tokens.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, crypto::sign};
use serde_json::json;

use super::*;
use crate::identity::{
    testing::{claims, unsigned},
    token::TOKEN_BYTES_MAX,
};

const HEAD: &str = r#"{"alg":"ES256","kid":"a"}"#;

#[test]
fn unsigned_tokens_are_refused() {
    let key = SigningKey::es256("a");
    let keys = key_set(&[&key]);
    let claims = claims("ada").to_string();
    for alg in ["none", "None", "NONE", "nOnE"] {
        let head = json!({ "alg": alg, "kid": "a" }).to_string();
        let message = unsigned(&head, &claims);
        assert_eq!(user_of(&format!("{message}."), &keys), Err(Flaw::NotSigned), "{alg}");
        assert_eq!(user_of(&key.signed(&head, &claims), &keys), Err(Flaw::NotSigned), "{alg}");
    }
    let message = unsigned(HEAD, &claims);
    assert_eq!(user_of(&format!("{message}."), &keys), Err(Flaw::Signature));
    assert_eq!(user_of(&message, &keys), Err(Flaw::Malformed));
}

#[test]
fn a_public_key_is_no_secret() {
    let key = SigningKey::new(Algorithm::RS256, Some("a"));
    let claims = claims("ada").to_string();
    let pem = KeySet::parse(key.pem().as_bytes()).unwrap();
    for (name, algorithm) in
        [("HS256", Algorithm::HS256), ("HS384", Algorithm::HS384), ("HS512", Algorithm::HS512)]
    {
        let message = unsigned(&json!({ "alg": name, "kid": "a" }).to_string(), &claims);
        let pem_text = key.pem();
        let modulus = key.jwk()["n"].as_str().unwrap().to_owned();
        let trimmed = pem_text.trim_end();
        for secret in [pem_text.as_bytes(), trimmed.as_bytes(), modulus.as_bytes()] {
            let secret = EncodingKey::from_secret(secret).unwrap();
            let token =
                format!("{message}.{}", sign(message.as_bytes(), &secret, algorithm).unwrap());
            assert_eq!(user_of(&token, &pem), Err(Flaw::Algorithm), "{name}");
            assert_eq!(user_of(&token, &key_set(&[&key])), Err(Flaw::Algorithm), "{name}");
        }
    }
}

#[test]
fn the_key_decides_what_it_checks() {
    let ours = SigningKey::es256("a");
    let other = SigningKey::es256("b");
    let rsa = SigningKey::new(Algorithm::RS256, Some("r"));
    let keys = key_set(&[&ours, &other, &rsa]);
    let claims = claims("ada").to_string();
    for (key, head, expected) in [
        (&ours, r#"{"alg":"ES256","kid":"a"}"#, Ok("ada")),
        (&ours, r#"{"alg":"ES256","kid":"b"}"#, Err(Flaw::Signature)),
        (&ours, r#"{"alg":"ES256","kid":"c"}"#, Err(Flaw::UnknownKey)),
        (&ours, r#"{"alg":"ES256","kid":"A"}"#, Err(Flaw::UnknownKey)),
        (&ours, r#"{"alg":"ES256","kid":"../../dev/null"}"#, Err(Flaw::UnknownKey)),
        (&ours, r#"{"alg":"ES256","kid":""}"#, Err(Flaw::UnknownKey)),
        (&ours, r#"{"alg":"ES256"}"#, Err(Flaw::NoKeyId)),
        (&ours, r#"{"alg":"ES384","kid":"a"}"#, Err(Flaw::OtherAlgorithm)),
        (&ours, r#"{"alg":"EdDSA","kid":"a"}"#, Err(Flaw::OtherAlgorithm)),
        (&ours, r#"{"alg":"RS256","kid":"a"}"#, Err(Flaw::OtherAlgorithm)),
        (&ours, r#"{"alg":"ES256","kid":"r"}"#, Err(Flaw::OtherAlgorithm)),
        (&rsa, r#"{"alg":"RS256","kid":"r"}"#, Ok("ada")),
        // The signature is right, but for another algorithm.
        (&rsa, r#"{"alg":"RS384","kid":"r"}"#, Err(Flaw::Signature)),
        (&rsa, r#"{"alg":"PS256","kid":"r"}"#, Err(Flaw::Signature)),
    ] {
        let user = user_of(&key.signed(head, &claims), &keys);
        assert_eq!(user.as_deref(), expected.as_ref().map(|user| *user), "{head}");
    }
    let stranger = SigningKey::es256("a");
    assert_eq!(user_of(&stranger.signed(HEAD, &claims), &keys), Err(Flaw::Signature));
}

#[test]
fn keys_in_the_head_are_not_looked_at() {
    let keys = key_set(&[&SigningKey::es256("a")]);
    let attacker = SigningKey::es256("a");
    let (alg, kid) = ("ES256", "a");
    for head in [
        json!({ "alg": alg, "kid": kid, "jwk": attacker.jwk() }),
        json!({ "alg": alg, "kid": kid, "jku": "https://evil.example/keys" }),
        json!({ "alg": alg, "kid": kid, "x5u": "https://evil.example/cert", "x5c": ["AAAA"] }),
    ] {
        let token = attacker.signed(&head.to_string(), &claims("ada").to_string());
        assert_eq!(user_of(&token, &keys), Err(Flaw::Signature), "{head}");
    }
}

#[test]
fn heads_have_their_rules() {
    let key = SigningKey::es256("a");
    let keys = key_set(&[&key]);
    for (head, expected) in [
        (r#"{"alg":"ES256","kid":"a","typ":"at+jwt","cty":"x"}"#, Ok("ada")),
        (r#"{"alg":"ES256"}"#, Ok("ada")),
        (r#"{"alg":"ES256","kid":"a","crit":["exp"],"exp":1}"#, Err(Flaw::Critical)),
        (r#"{"alg":"ES256","kid":"a","crit":["b64"],"b64":false}"#, Err(Flaw::Critical)),
        (r#"{"alg":"ES256","kid":"a","b64":false}"#, Err(Flaw::Critical)),
        (r#"{"alg":"ES256","kid":"a","crit":[]}"#, Err(Flaw::Critical)),
        (r#"{"alg":"ES256","kid":"a","crit":null}"#, Err(Flaw::Critical)),
        (r#"{"alg":"none","alg":"ES256","kid":"a"}"#, Err(Flaw::MalformedHead)),
        (r#"{"alg":"ES256","alg":"ES256","kid":"a"}"#, Err(Flaw::MalformedHead)),
        (r#"{"alg":"ES256","kid":"a","kid":"b"}"#, Err(Flaw::MalformedHead)),
        (r#"{"alg":"ES256","kid":"a","\u006bid":"b"}"#, Err(Flaw::MalformedHead)),
        (r#"{"alg":"ES256","kid":1}"#, Err(Flaw::MalformedHead)),
        (r#"{"alg":"ES256","kid":null}"#, Err(Flaw::MalformedHead)),
        (r#"{"alg":["ES256"],"kid":"a"}"#, Err(Flaw::MalformedHead)),
        (r#"{"kid":"a"}"#, Err(Flaw::MalformedHead)),
        (r#"{"alg":"es256","kid":"a"}"#, Err(Flaw::Algorithm)),
        (r#"{"alg":"ES256K","kid":"a"}"#, Err(Flaw::Algorithm)),
        (r#"{"alg":"RSA-OAEP","enc":"A256GCM","kid":"a"}"#, Err(Flaw::Algorithm)),
        (r#"{"alg":"","kid":"a"}"#, Err(Flaw::Algorithm)),
        (r#"["ES256"]"#, Err(Flaw::MalformedHead)),
        ("", Err(Flaw::MalformedHead)),
    ] {
        let user = user_of(&key.signed(head, &claims("ada").to_string()), &keys);
        assert_eq!(user.as_deref(), expected.as_ref().map(|user| *user), "{head}");
    }
}

#[test]
fn a_claim_is_given_once() {
    let key = SigningKey::es256("a");
    let keys = key_set(&[&key]);
    let good = claims("ada").to_string();
    for twice in ["iss", "aud", "exp", "sub"] {
        let again = json!(claims("eve")[twice]);
        let text = good.replacen('{', &format!("{{\"{twice}\":{again},"), 1);
        assert_eq!(user_of(&key.signed(HEAD, &text), &keys), Err(Flaw::ClaimTwice), "{twice}");
    }
    let other = good.replacen('{', r#"{"scope":"a","scope":"b","#, 1);
    assert_eq!(user_of(&key.signed(HEAD, &other), &keys).as_deref(), Ok("ada"));
    for text in ["", "[]", "null", "{", &format!("{good}{good}"), &"[".repeat(5_000)] {
        assert_eq!(user_of(&key.signed(HEAD, text), &keys), Err(Flaw::MalformedClaims), "{text}");
    }
}

#[test]
fn an_altered_token_is_refused() {
    let key = SigningKey::es256("a");
    let keys = key_set(&[&key]);
    let token = key.token(&claims("ada"));
    let parts: Vec<&str> = token.split('.').collect();
    let [head, payload, signature] = parts[..] else { panic!("{token}") };
    let eve = URL_SAFE_NO_PAD.encode(claims("eve").to_string());
    for altered in [
        format!("{head}.{eve}.{signature}"),
        format!("{head}.{payload}.{}", "A".repeat(signature.len())),
        format!("{head}.{payload}.{}", &signature[..signature.len() - 2]),
        format!("{head}.{payload}.{signature}A"),
        format!("{head}.{payload}.{signature}AAAA"),
        format!("{head}.{payload}."),
    ] {
        assert_eq!(user_of(&altered, &keys), Err(Flaw::Signature), "{altered}");
    }
    for malformed in [
        String::new(),
        ".".to_owned(),
        "..".repeat(2),
        "a".to_owned(),
        format!("{head}.{payload}"),
        format!("{token}."),
        format!("{token}.a.b"),
        format!("{head}=.{payload}.{signature}"),
        format!("{head}.{payload}==.{signature}"),
        format!("{head}.{payload}.{signature}="),
        format!("{head}.{payload}.+{}", &signature[1..]),
        format!("{head}. {payload}.{signature}"),
        format!("{head}.{payload}.{signature}\n"),
        format!("\u{e9}{token}"),
    ] {
        assert_eq!(user_of(&malformed, &keys), Err(Flaw::Malformed), "{malformed}");
    }
    // Two spellings of one signature: unused bits at its end.
    let mut twin = token.clone();
    let last = twin.pop().unwrap();
    let next = char::from(u32::from(last) as u8 + 1);
    twin.push(next);
    assert!(user_of(&twin, &keys).is_err(), "{last} {next}");
}

#[test]
fn a_signature_has_no_other_form() {
    let key = SigningKey::es256("a");
    let keys = key_set(&[&key]);
    let token = key.token(&claims("ada"));
    let (message, signature) = token.rsplit_once('.').unwrap();
    let raw = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let integer = |bytes: &[u8]| [&[0x02, bytes.len() as u8 + 1, 0][..], bytes].concat();
    let numbers = [integer(&raw[..32]), integer(&raw[32..])].concat();
    let der = [&[0x30, numbers.len() as u8][..], &numbers].concat();
    let der = URL_SAFE_NO_PAD.encode(der);
    assert_eq!(user_of(&format!("{message}.{der}"), &keys), Err(Flaw::Signature));
    // CVE-2022-21449: zeros as signature.
    let zeros = URL_SAFE_NO_PAD.encode([0; 64]);
    assert_eq!(user_of(&format!("{message}.{zeros}"), &keys), Err(Flaw::Signature));
}

#[test]
fn a_token_has_a_longest() {
    let key = SigningKey::es256("a");
    let keys = key_set(&[&key]);
    let padded = |bytes: usize| key.token(&with(claims("ada"), "pad", json!("x".repeat(bytes))));
    assert_eq!(user_of(&padded(8_900), &keys).as_deref(), Ok("ada"));
    assert_eq!(user_of(&padded(9_300), &keys), Err(Flaw::Oversized));
    assert!(Flaw::Oversized.to_string().contains(&TOKEN_BYTES_MAX.to_string()));
}

#[test]
fn descriptions_fit_into_the_header() {
    for flaw in [Flaw::Malformed, Flaw::Critical, Flaw::Algorithm, Flaw::NoUser, Flaw::Oversized] {
        let text = flaw.to_string();
        let is_allowed = |byte: u8| matches!(byte, 0x20..=0x21 | 0x23..=0x5b | 0x5d..=0x7e);
        assert!(text.bytes().all(is_allowed), "{text}");
    }
}
