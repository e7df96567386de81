//! Identity of users, and the token that a request bears (INV-11).

use axum::http::{HeaderMap, HeaderName, header};

use super::{
    fields::{self, Broken, Fields, Member},
    problem::{Kind, Problem},
};
use crate::{
    config::Identity,
    domain::ids::{IdempotencyKey, UserId},
};

/// How the user of a request is identified: the setting `api.identity`.
#[derive(Debug)]
pub(super) enum UserIdentity {
    /// The caller is a gateway that has authenticated the user; body and path name the user.
    Trusted,
    /// This header names the user. `None`: the setting is no header name, so every call is refused.
    Header(Option<HeaderName>),
}

impl UserIdentity {
    /// Reads the setting. An invalid header name refuses every call; treating it as
    /// [`Self::Trusted`] would let anyone act for any user. `check-config` reports it earlier.
    pub(super) fn new(identity: &Identity) -> Self {
        match identity {
            Identity::Trusted => Self::Trusted,
            Identity::Header(name) => {
                let header = HeaderName::try_from(name.as_str()).ok();
                if header.is_none() {
                    tracing::error!(
                        header = name,
                        "invalid header name in api.identity, all calls refused"
                    );
                }
                Self::Header(header)
            }
        }
    }

    /// Returns the user that the headers name. `None`: body or path name the user.
    ///
    /// # Errors
    /// 401 without the header; 422 if it is given twice or is no user id.
    pub(super) fn user(&self, headers: &HeaderMap) -> Result<Option<UserId>, Problem> {
        let Self::Header(name) = self else { return Ok(None) };
        let name = name.as_ref().ok_or_else(|| {
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
            fields::user_id(Member::Text(text.into()))
        };
        user.map(Some).map_err(|broken| {
            let mut fields = Fields::new(Vec::new(), "", &[]);
            fields.fault(name.to_string(), broken);
            Problem::invalid(fields.into_faults())
        })
    }
}

/// Checks that an identified caller acts only for itself.
///
/// # Errors
/// 403 if body or path name another user.
pub(super) fn check_acts_for(caller: Option<&UserId>, named: &UserId) -> Result<(), Problem> {
    match caller {
        Some(caller) if caller != named => Err(Problem::new(
            Kind::AnotherUser,
            "the request names another user than its identity header",
        )),
        _ => Ok(()),
    }
}

/// The header with the key of a request, and the name that some clients and gateways give it.
const KEY_HEADERS: [&str; 2] = ["Idempotency-Key", "X-Idempotency-Key"];

/// Reads the `Idempotency-Key` of a request. Faults go to `fields`.
pub(super) fn idempotency_key(
    headers: &HeaderMap,
    fields: &mut Fields<'_>,
) -> Option<IdempotencyKey> {
    let mut keys = KEY_HEADERS.map(|name| match key_of(headers, name) {
        Some(Err(broken)) => {
            fields.fault(name, broken);
            None
        }
        Some(Ok(key)) => Some(key),
        None => None,
    });
    if let [Some(key), Some(other)] = &keys
        && key != other
    {
        let rule = "the same as Idempotency-Key";
        fields.fault(KEY_HEADERS[1], Broken::new(rule, "send one of the headers, or both alike"));
    }
    keys.iter_mut().find_map(Option::take)
}

fn key_of(headers: &HeaderMap, name: &'static str) -> Option<Result<IdempotencyKey, Broken>> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    if values.next().is_some() {
        return Some(Err(Broken::new("given once", "send the header once")));
    }
    let text = value.to_str().unwrap_or_default();
    // By the IETF draft the value is a quoted string. Most clients send the key alone.
    let quoted = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let key = IdempotencyKey::parse(quoted.unwrap_or(text));
    Some(key.map_err(|_| Broken::new(IdempotencyKey::RULE, "send a valid key, or none")))
}

/// Returns the token that a request bears, if it bears one.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let (scheme, token) = value.as_bytes().split_at_checked(b"Bearer ".len())?;
    let token = token.trim_ascii();
    (scheme.eq_ignore_ascii_case(b"Bearer ") && !token.is_empty()).then_some(token)
}
