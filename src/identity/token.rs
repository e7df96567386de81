//! Judges one token. Pure: key set, rules and time are given.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::Algorithm;

use super::{
    claims::{Claims, Twice, is_or_has, text, text_or_digits, time},
    flaw::Flaw,
    keys::KeySet,
};
use crate::domain::{
    identity_fold::IdentityFold,
    ids::{Timestamp, UserId},
};

/// Longest token, in bytes. The head of a request has at most 16 KiB, and needs room for its other
/// headers.
pub(super) const TOKEN_BYTES_MAX: usize = 12 * 1_024;

/// The algorithms that are taken, by their names in `alg`. All of them check a signature with a public
/// key: with HMAC among them, anybody could sign with the public key as the secret.
const ALGORITHMS: [(&str, Algorithm); 9] = [
    ("RS256", Algorithm::RS256),
    ("RS384", Algorithm::RS384),
    ("RS512", Algorithm::RS512),
    ("PS256", Algorithm::PS256),
    ("PS384", Algorithm::PS384),
    ("PS512", Algorithm::PS512),
    ("ES256", Algorithm::ES256),
    ("ES384", Algorithm::ES384),
    ("EdDSA", Algorithm::EdDSA),
];

/// Whose tokens are taken, and how they name the user.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    /// What `iss` must be.
    pub issuer: String,
    /// What `aud` must be or have.
    pub audience: String,
    /// The claim with the user's id.
    pub claim: String,
    /// By how much the issuer's clock may differ from that of this node, in milliseconds.
    pub leeway_ms: i64,
    /// How the user's id is folded.
    pub fold: IdentityFold,
}

/// A token whose signature and claims are right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verified {
    /// The user who bears it.
    pub(super) user: UserId,
    /// `nbf`, less the leeway.
    from: Timestamp,
    /// `exp`, with the leeway.
    until: Timestamp,
}

impl Verified {
    /// Checks the time again, for a token that was verified before.
    ///
    /// # Errors
    /// [`Flaw::NotYetValid`], [`Flaw::Expired`].
    pub(super) fn check_time(&self, now: Timestamp) -> Result<(), Flaw> {
        if now >= self.until {
            Err(Flaw::Expired)
        } else if now < self.from {
            Err(Flaw::NotYetValid)
        } else {
            Ok(())
        }
    }
}

/// Verifies a token.
///
/// # Errors
/// The first [`Flaw`] that is found. Claims are looked at only if the signature is right.
pub(super) fn verify(
    token: &str,
    keys: &KeySet,
    rules: &Rules,
    now: Timestamp,
) -> Result<Verified, Flaw> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(Flaw::Oversized);
    }
    let mut parts = token.split('.');
    let (Some(head), Some(claims), Some(signature), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Flaw::Malformed);
    };
    let decoded = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| Flaw::Malformed);
    let (head_json, claims_json) = (decoded(head)?, decoded(claims)?);
    // Only its encoding is checked here.
    decoded(signature)?;
    let (algorithm, key_id) = read_head(&head_json)?;
    let signed = &token[..head.len() + 1 + claims.len()];
    keys.check(algorithm, key_id.as_deref(), signed, signature)?;
    let claims = Claims::parse(&claims_json).ok_or(Flaw::MalformedClaims)?;
    let verified = rules.read(&claims)?;
    verified.check_time(now)?;
    Ok(verified)
}

/// Returns `alg` and `kid`.
fn read_head(json: &[u8]) -> Result<(Algorithm, Option<String>), Flaw> {
    let head = Claims::parse(json).ok_or(Flaw::MalformedHead)?;
    let one = |name| head.one(name).map_err(|Twice| Flaw::MalformedHead);
    let named = one("alg")?.and_then(text).ok_or(Flaw::MalformedHead)?;
    let algorithm = match ALGORITHMS.iter().find(|(name, _)| *name == named) {
        Some((_, algorithm)) => *algorithm,
        None if named.eq_ignore_ascii_case("none") => return Err(Flaw::NotSigned),
        None => return Err(Flaw::Algorithm),
    };
    // RFC 7515: who does not understand an extension that is critical refuses the token. `b64` changes
    // what is signed (RFC 7797).
    if one("crit")?.is_some() || one("b64")?.is_some() {
        return Err(Flaw::Critical);
    }
    let key_id = match one("kid")? {
        Some(value) => Some(text(value).ok_or(Flaw::MalformedHead)?.into_owned()),
        None => None,
    };
    Ok((algorithm, key_id))
}

impl Rules {
    /// Reads the claims of a token whose signature is right, all but the time.
    fn read(&self, claims: &Claims<'_>) -> Result<Verified, Flaw> {
        let one = |name: &str| claims.one(name).map_err(|Twice| Flaw::ClaimTwice);
        if one("iss")?.and_then(text).is_none_or(|issuer| issuer != self.issuer) {
            return Err(Flaw::OtherIssuer);
        }
        if !one("aud")?.is_some_and(|audience| is_or_has(audience, &self.audience)) {
            return Err(Flaw::OtherAudience);
        }
        let expires = one("exp")?.and_then(time).ok_or(Flaw::NoExpiry)?;
        let starts = match one("nbf")? {
            Some(value) => time(value).ok_or(Flaw::MalformedStart)?,
            None => Timestamp(0),
        };
        let user = one(&self.claim)?.and_then(text_or_digits).ok_or(Flaw::NoUser)?;
        let user = self.fold.user(&user).map_err(|_| Flaw::NoUser)?;
        // Both times are representable, and the leeway is minutes.
        let from = Timestamp(starts.0 - self.leeway_ms);
        Ok(Verified { user, from, until: Timestamp(expires.0 + self.leeway_ms) })
    }
}
