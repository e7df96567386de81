//! Key sets: the public keys of an issuer, from a JWKS or from a PEM file.

use jsonwebtoken::{
    Algorithm, DecodingKey, DecodingKeyKind,
    crypto::verify,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse},
};
use rustls::pki_types::{AlgorithmIdentifier, SubjectPublicKeyInfoDer, alg_id, pem::PemObject};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::flaw::Flaw;

/// The algorithms of each kind of key.
const RSA: &[Algorithm] = &[
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
];
const P256: &[Algorithm] = &[Algorithm::ES256];
const P384: &[Algorithm] = &[Algorithm::ES384];
const ED25519: &[Algorithm] = &[Algorithm::EdDSA];

/// Keys of one `kid` that are tried. RFC 7517 allows several if they are of different kinds; without a
/// bound, one token could cost as many checks as a key set has keys.
const SAME_ID_MAX: usize = 4;

/// Bits of an RSA key. Shorter ones can be broken, longer ones are slow.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2_048..=8_192;

/// The keys that are good for signatures.
#[derive(Debug)]
pub(crate) struct KeySet(Vec<Key>);

#[derive(Debug)]
struct Key {
    id: Option<String>,
    /// What the key may check. RSA keys are for several algorithms, others for one.
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
}

/// Why a text is no key set, as a clause whose subject is the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoKeys {
    #[error("is no JWKS: {0}")]
    Jwks(String),
    #[error("is neither a JWKS nor a PEM public key")]
    Neither,
    #[error("holds {0} PEM public keys, of which a token could not name one; write them as a JWKS")]
    SeveralPem(usize),
    #[error(
        "holds no key that can check signatures: RSA of 2,048 to 8,192 bits, EC on P-256 or P-384, or \
         Ed25519 ({0} other keys)"
    )]
    NoneFits(usize),
}

#[derive(Deserialize)]
struct Jwks<'a> {
    #[serde(borrow)]
    keys: Vec<&'a RawValue>,
}

impl KeySet {
    /// Parses a JWKS or a PEM public key. Keys of other kinds, and those for encryption, are left out: an
    /// issuer may have them in the same set.
    ///
    /// # Errors
    /// [`NoKeys`] if no key is left.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, NoKeys> {
        let (keys, others) = if bytes.trim_ascii_start().starts_with(b"{") {
            let jwks: Jwks<'_> =
                serde_json::from_slice(bytes).map_err(|error| NoKeys::Jwks(error.to_string()))?;
            let keys: Vec<Key> = jwks.keys.iter().filter_map(|jwk| Key::of_jwk(jwk)).collect();
            let others = jwks.keys.len() - keys.len();
            (keys, others)
        } else {
            let found: Vec<_> = SubjectPublicKeyInfoDer::pem_slice_iter(bytes)
                .collect::<Result<_, _>>()
                .map_err(|_| NoKeys::Neither)?;
            match &*found {
                [] => return Err(NoKeys::Neither),
                [only] => (Key::of_spki(only).into_iter().collect(), 1),
                several => return Err(NoKeys::SeveralPem(several.len())),
            }
        };
        if keys.is_empty() { Err(NoKeys::NoneFits(others)) } else { Ok(Self(keys)) }
    }

    /// Returns the number of keys.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Checks the signature of what was signed, by the key that the token names.
    pub(super) fn check(
        &self,
        algorithm: Algorithm,
        id: Option<&str>,
        signed: &str,
        signature: &str,
    ) -> Result<(), Flaw> {
        let named = match (self.0.as_slice(), id) {
            // A key without an id, as PEM keys are, is meant by every token.
            ([only], None) => vec![only],
            ([only], Some(_)) if only.id.is_none() => vec![only],
            (_, None) => return Err(Flaw::NoKeyId),
            (keys, Some(id)) => {
                let named = keys.iter().filter(|key| key.id.as_deref() == Some(id));
                named.take(SAME_ID_MAX).collect()
            }
        };
        if named.is_empty() {
            return Err(Flaw::UnknownKey);
        }
        let fit = named.iter().filter(|key| key.algorithms.contains(&algorithm));
        let fit: Vec<_> = fit.collect();
        if fit.is_empty() {
            return Err(Flaw::OtherAlgorithm);
        }
        let is_right = |key: &&&&Key| {
            matches!(verify(signature, signed.as_bytes(), &key.key, algorithm), Ok(true))
        };
        if fit.iter().any(|key| is_right(&key)) { Ok(()) } else { Err(Flaw::Signature) }
    }
}

impl Key {
    fn of_jwk(json: &RawValue) -> Option<Self> {
        let jwk: Jwk = serde_json::from_str(json.get()).ok()?;
        let common = &jwk.common;
        let is_for_signatures =
            matches!(common.public_key_use, None | Some(PublicKeyUse::Signature))
                && common
                    .key_operations
                    .as_ref()
                    .is_none_or(|operations| operations.contains(&KeyOperations::Verify));
        let by_kind = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => RSA,
            AlgorithmParameters::EllipticCurve(parameters) => match parameters.curve {
                EllipticCurve::P256 => P256,
                EllipticCurve::P384 => P384,
                _ => return None,
            },
            AlgorithmParameters::OctetKeyPair(parameters)
                if parameters.curve == EllipticCurve::Ed25519 =>
            {
                ED25519
            }
            // Among others a secret for HMAC, which no issuer publishes.
            _ => return None,
        };
        let is_meant = |algorithm: &&Algorithm| {
            common.key_algorithm.is_none_or(|meant| meant == KeyAlgorithm::from(**algorithm))
        };
        let algorithms: Vec<_> = by_kind.iter().filter(is_meant).copied().collect();
        let key = DecodingKey::from_jwk(&jwk).ok()?;
        let is_good = is_for_signatures && !algorithms.is_empty() && is_sound(&key, by_kind);
        is_good.then(|| Self { id: common.key_id.clone(), algorithms, key })
    }

    fn of_spki(der: &SubjectPublicKeyInfoDer<'_>) -> Option<Self> {
        let (algorithm, bits) = spki_parts(der)?;
        let is = |known: AlgorithmIdentifier| algorithm == known.as_ref();
        let (algorithms, key) = if is(alg_id::RSA_ENCRYPTION) {
            (RSA, DecodingKey::from_rsa_der(bits))
        } else if is(alg_id::ECDSA_P256) {
            (P256, DecodingKey::from_ec_der(bits))
        } else if is(alg_id::ECDSA_P384) {
            (P384, DecodingKey::from_ec_der(bits))
        } else if is(alg_id::ED25519) {
            (ED25519, DecodingKey::from_ed_der(bits))
        } else {
            return None;
        };
        is_sound(&key, algorithms).then(|| Self { id: None, algorithms: algorithms.to_vec(), key })
    }
}

/// Returns whether the key has the size of its kind. The library looks at a key only when it checks a
/// signature, and would then say that the signature is wrong.
fn is_sound(key: &DecodingKey, algorithms: &[Algorithm]) -> bool {
    let rsa_bits = |modulus: &[u8]| {
        let start = modulus.iter().position(|byte| *byte != 0).unwrap_or(modulus.len());
        let zeros = modulus.get(start).map_or(0, |byte| byte.leading_zeros() as usize);
        (modulus.len() - start) * 8 - zeros
    };
    match key.kind() {
        DecodingKeyKind::RsaModulusExponent { n, .. } => RSA_BITS.contains(&rsa_bits(n)),
        // PKCS #1: a sequence of modulus and exponent.
        DecodingKeyKind::SecretOrDer(bytes) if algorithms == RSA => value(0x30, bytes)
            .and_then(|(numbers, _)| value(0x02, numbers))
            .is_some_and(|(modulus, _)| RSA_BITS.contains(&rsa_bits(modulus))),
        // An uncompressed point, or the bytes of Ed25519.
        DecodingKeyKind::SecretOrDer(bytes) => match algorithms {
            [Algorithm::ES256] => bytes.len() == 65 && bytes[0] == 4,
            [Algorithm::ES384] => bytes.len() == 97 && bytes[0] == 4,
            _ => bytes.len() == 32,
        },
    }
}

/// Splits a `SubjectPublicKeyInfo` (RFC 5280) into the identifier of its algorithm and the key.
fn spki_parts(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (parts, _) = value(0x30, der)?;
    let (algorithm, rest) = value(0x30, parts)?;
    let (bits, _) = value(0x03, rest)?;
    // The first byte says how many bits of the last are not used: none.
    Some((algorithm, bits.strip_prefix(&[0])?))
}

/// Returns the content of the DER value that `bytes` begin with, if it has this tag, and what follows.
fn value(tag: u8, bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = match bytes {
        [first, length @ 0..=0x7f, rest @ ..] if *first == tag => (usize::from(*length), rest),
        [first, 0x81, length, rest @ ..] if *first == tag => (usize::from(*length), rest),
        [first, 0x82, high, low, rest @ ..] if *first == tag => {
            (usize::from(u16::from_be_bytes([*high, *low])), rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}
