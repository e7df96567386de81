//! What is wrong with a token.

/// What is wrong with a token, in words for `error_description`: ASCII without quotes and backslashes
/// (RFC 6750). The texts name claims and rules, never values, because a token is a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Flaw {
    #[error("the header Authorization is given more than once")]
    GivenTwice,
    #[error("the token is longer than 12288 bytes")]
    Oversized,
    #[error("the token is not three parts of base64url without padding, joined by dots")]
    Malformed,
    #[error("the header of the token is not a JSON object with the texts alg and kid, each once")]
    MalformedHead,
    #[error("the claims of the token are not a JSON object")]
    MalformedClaims,
    #[error("the token is not signed, its alg is none")]
    NotSigned,
    #[error("alg must be RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384 or EdDSA")]
    Algorithm,
    #[error("the header of the token has crit or b64, and no extension is supported")]
    Critical,
    #[error("the token has no kid, and the issuer has more than one key")]
    NoKeyId,
    #[error("the issuer has no key with the kid of the token")]
    UnknownKey,
    #[error("the key with the kid of the token is for another alg")]
    OtherAlgorithm,
    #[error("the signature of the token is wrong")]
    Signature,
    #[error("a claim of the token is given more than once")]
    ClaimTwice,
    #[error("exp is missing, or is not a number of seconds before the year 10000")]
    NoExpiry,
    #[error("the token has expired")]
    Expired,
    #[error("nbf is not a number of seconds before the year 10000")]
    MalformedStart,
    #[error("the token is not valid yet")]
    NotYetValid,
    #[error("the token is of another issuer, or iss is missing")]
    OtherIssuer,
    #[error("the token is for another audience, or aud is missing")]
    OtherAudience,
    #[error("the claim that names the user is missing, or is no valid user id")]
    NoUser,
}
