//! An issuer for tests: keys, tokens, key sets, and a clock that stands.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::{Duration, Instant},
};

use aws_lc_rs::{
    encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der},
    rsa::KeySize,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
        Ed25519KeyPair, KeyPair, RsaKeyPair,
    },
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use jsonwebtoken::{Algorithm, AlgorithmFamily, EncodingKey, crypto::sign, jwk::Jwk};
use serde_json::{Value, json};

use super::token::Rules;
use crate::{
    clock::{Clock, SystemClock},
    domain::{identity_fold::IdentityFold, ids::Timestamp},
};

/// 2026-11-27T12:00:00Z, in seconds.
pub(crate) const NOON: i64 = 1_795_780_800;

pub(crate) const ISSUER: &str = "https://login.example.com/";
pub(crate) const AUDIENCE: &str = "coupons";

/// Returns rules for [`ISSUER`], with 30 s of leeway.
pub(crate) fn rules() -> Rules {
    Rules {
        issuer: ISSUER.to_owned(),
        audience: AUDIENCE.to_owned(),
        claim: "sub".to_owned(),
        leeway_ms: 30_000,
        fold: IdentityFold::None,
    }
}

/// Returns the claims of a token of `user` that is valid for a minute from [`NOON`].
pub(crate) fn claims(user: &str) -> Value {
    json!({ "iss": ISSUER, "aud": AUDIENCE, "sub": user, "exp": NOON + 60 })
}

/// A private key of the issuer.
pub(crate) struct SigningKey {
    pub(crate) id: Option<&'static str>,
    pub(crate) algorithm: Algorithm,
    secret: EncodingKey,
    /// `SubjectPublicKeyInfo`.
    public: Vec<u8>,
}

impl SigningKey {
    /// Makes a key for `algorithm`.
    pub(crate) fn new(algorithm: Algorithm, id: Option<&'static str>) -> Self {
        let (secret, public) = match algorithm.family() {
            AlgorithmFamily::Rsa => {
                let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
                let private = AsDer::<Pkcs8V1Der<'_>>::as_der(&pair).unwrap();
                // The library takes PKCS #1, which is what PKCS #8 wraps: after 26 bytes for this size.
                (EncodingKey::from_rsa_der(&private.as_ref()[26..]), spki(pair.public_key()))
            }
            AlgorithmFamily::Ec => {
                let kind = match algorithm {
                    Algorithm::ES256 => &ECDSA_P256_SHA256_FIXED_SIGNING,
                    _ => &ECDSA_P384_SHA384_FIXED_SIGNING,
                };
                let pair = EcdsaKeyPair::generate(kind).unwrap();
                let private = pair.to_pkcs8v1().unwrap();
                (EncodingKey::from_ec_der(private.as_ref()), spki(pair.public_key()))
            }
            AlgorithmFamily::Ed => {
                let pair = Ed25519KeyPair::generate().unwrap();
                let private = pair.to_pkcs8v1().unwrap();
                (EncodingKey::from_ed_der(private.as_ref()), spki(pair.public_key()))
            }
            AlgorithmFamily::Hmac => panic!("no secrets"),
        };
        Self { id, algorithm, secret, public }
    }

    /// Makes a key for ES256.
    pub(crate) fn es256(id: &'static str) -> Self {
        Self::new(Algorithm::ES256, Some(id))
    }

    /// Returns the same key for another algorithm of its kind.
    pub(crate) fn with(&self, algorithm: Algorithm) -> Self {
        assert_eq!(algorithm.family(), self.algorithm.family());
        let (secret, public) = (self.secret.clone(), self.public.clone());
        Self { id: self.id, algorithm, secret, public }
    }

    /// Returns the same key without an id.
    pub(crate) fn without_id(&self) -> Self {
        Self { id: None, ..self.with(self.algorithm) }
    }

    /// Returns the public key as a JWK that names no algorithm.
    pub(crate) fn jwk(&self) -> Value {
        let jwk = Jwk::from_encoding_key(&self.secret, self.algorithm).unwrap();
        let mut jwk = serde_json::to_value(jwk).unwrap();
        let members = jwk.as_object_mut().unwrap();
        members.remove("alg");
        members.extend(self.id.map(|id| ("kid".to_owned(), json!(id))));
        jwk
    }

    /// Returns the public key as PEM.
    pub(crate) fn pem(&self) -> String {
        let text = STANDARD.encode(&self.public);
        format!("-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----\n")
    }

    /// Returns a token with these claims.
    pub(crate) fn token(&self, claims: &Value) -> String {
        let mut head = json!({ "alg": format!("{:?}", self.algorithm), "typ": "JWT" });
        if let Some(id) = self.id {
            head["kid"] = json!(id);
        }
        self.signed(&head.to_string(), &claims.to_string())
    }

    /// Returns a token with this head and these claims as they are, signed with this key.
    pub(crate) fn signed(&self, head: &str, claims: &str) -> String {
        let message = unsigned(head, claims);
        let signature = sign(message.as_bytes(), &self.secret, self.algorithm).unwrap();
        format!("{message}.{signature}")
    }
}

fn spki(key: &impl AsDer<PublicKeyX509Der<'static>>) -> Vec<u8> {
    key.as_der().unwrap().as_ref().to_vec()
}

/// Returns what is signed of a token.
pub(crate) fn unsigned(head: &str, claims: &str) -> String {
    format!("{}.{}", URL_SAFE_NO_PAD.encode(head), URL_SAFE_NO_PAD.encode(claims))
}

/// Returns a JWKS.
pub(crate) fn jwks(keys: &[&SigningKey]) -> String {
    json!({ "keys": keys.iter().map(|key| key.jwk()).collect::<Vec<_>>() }).to_string()
}

/// A clock whose wall time stands at [`NOON`], and whose other time goes on, until a test moves both.
#[derive(Default)]
pub(crate) struct StandingClock(AtomicI64);

impl StandingClock {
    /// Moves the clock ahead.
    pub(crate) fn pass(&self, seconds: i64) {
        self.0.fetch_add(seconds, Ordering::Relaxed);
    }

    fn passed(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Clock for StandingClock {
    fn now(&self) -> Timestamp {
        Timestamp((NOON + self.passed()) * 1_000)
    }

    fn instant(&self) -> Instant {
        SystemClock.instant() + Duration::from_secs(self.passed().unsigned_abs())
    }

    fn boot(&self) -> Duration {
        SystemClock.boot() + Duration::from_secs(self.passed().unsigned_abs())
    }
}
