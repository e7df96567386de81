//! Who is asking on the public listener (INV-11): the gateway, and the user.

use std::sync::Arc;

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};

use super::{
    caller::TokenDigest,
    fields::{self, Broken, Fields, Member},
    problem::{Kind, Problem},
};
use crate::{
    config::{ApiConfig, Identity},
    domain::{identity_fold::IdentityFold, ids::UserId},
    identity::{Flaw, Refused, Verifier},
};

/// How the user of a request is identified: the settings `api.identity` and `identity_fold`.
pub(super) struct UserIdentity {
    by: By,
    /// How user ids are folded, whoever names them.
    pub(super) fold: IdentityFold,
}

enum By {
    /// The caller is a gateway that has authenticated the user; body and path name the user.
    Trusted,
    /// This header names the user. `None`: the setting is no header name, so every call is refused.
    Header(Option<HeaderName>),
    /// The token names the user. `None`: nobody can verify one, so every call is refused.
    Token(Option<Arc<Verifier>>),
}

impl UserIdentity {
    /// Reads the settings. What cannot work refuses every call; treating it as [`By::Trusted`] would let
    /// anyone act for any user. `check-config` reports it earlier.
    pub(super) fn new(
        api: &ApiConfig,
        fold: IdentityFold,
        verifier: Option<&Arc<Verifier>>,
    ) -> Self {
        let by = match &api.identity {
            Identity::Trusted => By::Trusted,
            Identity::Header(name) => {
                let header = HeaderName::try_from(name.as_str()).ok();
                if header.is_none() {
                    tracing::error!(
                        header = name,
                        "invalid header name in api.identity, all calls refused"
                    );
                }
                By::Header(header)
            }
            Identity::Jwt => By::Token(verifier.cloned()),
        };
        Self { by, fold }
    }

    /// Returns the user that the headers name. `None`: body or path name the user.
    ///
    /// # Errors
    /// 401 without header or token, or with a wrong token; 422 if the header is given twice or is no user
    /// id; 503 while no key is known.
    pub(super) async fn user(&self, headers: &HeaderMap) -> Result<Option<UserId>, Problem> {
        match &self.by {
            By::Trusted => Ok(None),
            By::Header(name) => self.named_by(name.as_ref(), headers).map(Some),
            By::Token(verifier) => {
                let token = token(headers).map_err(wrong_token)?.ok_or_else(no_token)?;
                let verifier = verifier.as_ref().ok_or_else(no_keys)?;
                let user = verifier.user(token).await;
                user.map(Some).map_err(|refused| match refused {
                    Refused::Flaw(flaw) => wrong_token(flaw),
                    Refused::NoKeys => no_keys(),
                })
            }
        }
    }

    fn named_by(&self, name: Option<&HeaderName>, headers: &HeaderMap) -> Result<UserId, Problem> {
        let name = name.ok_or_else(|| {
            Problem::new(Kind::NoIdentity, "the setting api.identity is no valid header name")
        })?;
        let mut values = headers.get_all(name).iter();
        let value = values.next().ok_or_else(|| {
            let detail = format!("the header {name}, which names the user, is missing");
            let problem = Problem::new(Kind::NoIdentity, detail);
            problem.blaming(name.to_string(), "given", "send the header with the user's id")
        })?;
        let user = if values.next().is_some() {
            Err(Broken::new("given once", "send the header once"))
        } else {
            let text = value.to_str().unwrap_or_default();
            fields::user_id(Member::Text(text.into())).map(|user| self.fold.of(user))
        };
        user.map_err(|broken| {
            let mut fields = Fields::new(Vec::new(), "", &[]);
            fields.fault(name.to_string(), broken);
            Problem::invalid(fields.into_faults())
        })
    }
}

/// Returns the token that a request bears; `None`: it bears none.
fn token(headers: &HeaderMap) -> Result<Option<&str>, Flaw> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    // Proxies differ in which of two they look at.
    if values.next().is_some() {
        return Err(Flaw::GivenTwice);
    }
    let value = value.to_str().map_err(|_| Flaw::Malformed)?;
    let (scheme, token) = value.split_once(' ').unwrap_or((value, ""));
    let token = token.trim();
    Ok(Some(token).filter(|token| scheme.eq_ignore_ascii_case("Bearer") && !token.is_empty()))
}

fn no_token() -> Problem {
    let detail = "the token that names the user is missing";
    Problem::new(Kind::NoIdentity, detail)
        .blaming("Authorization", "Bearer TOKEN", "send the user's token as Authorization: Bearer")
        .challenging(HeaderValue::from_static("Bearer"))
}

fn wrong_token(flaw: Flaw) -> Problem {
    let challenge = format!("Bearer error=\"invalid_token\", error_description=\"{flaw}\"");
    // Descriptions are ASCII without quotes.
    let challenge = HeaderValue::try_from(challenge);
    Problem::new(Kind::InvalidToken, flaw.to_string())
        .challenging(challenge.unwrap_or(HeaderValue::from_static("Bearer")))
}

fn no_keys() -> Problem {
    let detail = "temporarily unavailable: the keys of the tokens' issuer could not be read yet";
    Problem::new(Kind::Unavailable, detail)
}

/// Checks that an identified caller acts only for itself.
///
/// # Errors
/// 403 if body or path name another user.
pub(super) fn check_acts_for(caller: Option<&UserId>, named: &UserId) -> Result<(), Problem> {
    match caller {
        Some(caller) if caller != named => {
            Err(Problem::new(Kind::AnotherUser, "the request is of another user than its caller"))
        }
        _ => Ok(()),
    }
}

/// The header in which a gateway sends its token.
const GATEWAY_HEADER: &str = "x-coupond-gateway";

/// What needs no gateway token: load balancers ask without one.
const HEALTH: &str = "/health/";

/// The gateway token: who knows it is the gateway.
pub(super) struct Gateway(TokenDigest);

impl Gateway {
    /// Digests the token that requests must have.
    pub(super) fn new(token: &str) -> Self {
        Self(TokenDigest::of(token.as_bytes()))
    }

    /// Checks that a request comes from the gateway.
    ///
    /// # Errors
    /// 401 if the token is missing, wrong, or given twice.
    pub(super) fn check(&self, path: &str, headers: &HeaderMap) -> Result<(), Problem> {
        if path.starts_with(HEALTH) {
            return Ok(());
        }
        let mut values = headers.get_all(GATEWAY_HEADER).iter();
        let is_right = match (values.next(), values.next()) {
            (Some(token), None) => self.0 == TokenDigest::of(token.as_bytes()),
            _ => false,
        };
        if is_right {
            return Ok(());
        }
        tracing::warn!(summed = true, "request without the gateway token, or with a wrong one");
        let detail = "the listener takes requests only from its gateway, which sends its token";
        let rule = "the value of the setting api.gateway_token, once";
        Err(Problem::new(Kind::NoGateway, detail).blaming(
            "X-Coupond-Gateway",
            rule,
            "call the gateway, or let it send the header",
        ))
    }
}
