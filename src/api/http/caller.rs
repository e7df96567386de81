//! Who is asking, and whether they may (INV-11).

use axum::http::{HeaderMap, HeaderName, header};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use tracing::error;

use super::{
    fields::{self, Broken, Fields, Member},
    problem::{Kind, Problem},
};
use crate::{
    config::Identity,
    domain::ids::{IdempotencyKey, UserId},
};

/// Who says who is asking.
#[derive(Debug)]
pub(super) enum Caller {
    /// The caller is a gateway that has authenticated the user.
    Trusted,
    /// This header names the user. `None`: its name can't be one, so that nobody is identified.
    Header(Option<HeaderName>),
}

impl Caller {
    /// Reads the setting. A name that can't be a header's shuts everybody out rather than letting
    /// anybody act for anybody; `check-config` says so earlier.
    pub(super) fn new(identity: &Identity) -> Self {
        match identity {
            Identity::Trusted => Self::Trusted,
            Identity::Header(name) => {
                let header = HeaderName::try_from(name.as_str()).ok();
                if header.is_none() {
                    error!(header = name, "api.identity names no valid header, nobody may ask");
                }
                Self::Header(header)
            }
        }
    }

    /// The user who is asking; none where the gateway is trusted to name them.
    ///
    /// # Errors
    /// 401 without the header, 422 where it stands twice or can't be a user id.
    pub(super) fn identify(&self, headers: &HeaderMap) -> Result<Option<UserId>, Problem> {
        let Self::Header(name) = self else { return Ok(None) };
        let name = name.as_ref().ok_or_else(|| {
            Problem::new(Kind::NoIdentity, "the settings name no header that could name the user")
        })?;
        let mut values = headers.get_all(name).iter();
        let value = values.next().ok_or_else(|| {
            let detail = format!("the header {name}, which names the user, is missing");
            let problem = Problem::new(Kind::NoIdentity, detail);
            problem.blaming(name.to_string(), "given", "add it with the id of the user who asks")
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

/// The user that a request is for: who is asking, and named in body or path, must be the same.
///
/// # Errors
/// 403 where they differ.
pub(super) fn acting_for(caller: Option<&UserId>, named: &UserId) -> Result<(), Problem> {
    match caller {
        Some(caller) if caller != named => {
            Err(Problem::new(Kind::AnotherUser, "the request names another user than who asks"))
        }
        _ => Ok(()),
    }
}

/// The `Idempotency-Key` of a request; what is wrong with it is noted in `fields`.
pub(super) fn idempotency_key(
    headers: &HeaderMap,
    fields: &mut Fields<'_>,
) -> Option<IdempotencyKey> {
    let mut values = headers.get_all("idempotency-key").iter();
    let value = values.next()?;
    let key = if values.next().is_some() {
        Err(Broken::new("given once", "send the header once"))
    } else {
        IdempotencyKey::parse(value.to_str().unwrap_or_default())
            .map_err(|_| Broken::new(IdempotencyKey::RULE, "send a key that fits, or none"))
    };
    key.map_err(|broken| fields.fault("Idempotency-Key", broken)).ok()
}

/// The token that administers, kept as a keyed digest.
pub(super) struct AdminToken(Hmac<Sha256>);

impl AdminToken {
    /// The token that requests must bear.
    pub(super) fn new(token: &str) -> Self {
        Self(Self::digest(token.as_bytes()))
    }

    /// Whether the request bears the token. Compares in constant time, whatever the lengths.
    pub(super) fn admits(&self, headers: &HeaderMap) -> bool {
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let (Some(value), None) = (values.next(), values.next()) else { return false };
        let Some((scheme, token)) = value.as_bytes().split_at_checked(b"Bearer ".len()) else {
            return false;
        };
        let token = token.trim_ascii();
        scheme.eq_ignore_ascii_case(b"Bearer ")
            && !token.is_empty()
            && Self::digest(token).verify(&self.0.clone().finalize().into_bytes()).is_ok()
    }

    fn digest(token: &[u8]) -> Hmac<Sha256> {
        let mac = Hmac::<Sha256>::new_from_slice(b"coupond admin token");
        mac.expect("HMAC takes keys of any length").chain_update(token)
    }
}
