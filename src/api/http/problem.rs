//! Every error as a problem document (RFC 9457), and the one table from a refusal to its status.

use std::{borrow::Cow, time::Duration};

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;

use super::views::{self, NO_STORE};
use crate::{
    api::service::{NotReady, ServiceError},
    domain::{decision::Reason, fault::Fault},
};

/// Content type of every error.
const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");

/// What went wrong, as a closed set. Its three methods are the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    NotJson,
    NoIdentity,
    NoToken,
    AnotherUser,
    NotFound,
    UnknownCampaign,
    UnknownUser,
    UnknownRequest,
    MethodNotAllowed,
    RequestTimeout,
    Closed,
    Paused,
    NotOpenYet,
    SoldOut,
    AlreadyDefined,
    QuotaBelowIssued,
    BodyTooLarge,
    UnsupportedMediaType,
    Invalid,
    TooManyRequests,
    Overloaded,
    Halted,
    OutcomeUnknown,
    Unavailable,
    NotReady,
}

impl Kind {
    /// Every way in which an issue request is counted, by one kind that is counted so.
    const OF_OUTCOMES: [Self; 12] = [
        Self::AnotherUser,
        Self::UnknownCampaign,
        Self::Closed,
        Self::Paused,
        Self::NotOpenYet,
        Self::SoldOut,
        Self::TooManyRequests,
        Self::Overloaded,
        Self::Halted,
        Self::OutcomeUnknown,
        Self::Unavailable,
        Self::Invalid,
    ];

    fn status(self) -> StatusCode {
        match self {
            Self::NotJson => StatusCode::BAD_REQUEST,
            Self::NoIdentity | Self::NoToken => StatusCode::UNAUTHORIZED,
            Self::AnotherUser => StatusCode::FORBIDDEN,
            Self::NotFound | Self::UnknownCampaign | Self::UnknownUser | Self::UnknownRequest => {
                StatusCode::NOT_FOUND
            }
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::Closed
            | Self::Paused
            | Self::NotOpenYet
            | Self::SoldOut
            | Self::AlreadyDefined
            | Self::QuotaBelowIssued => StatusCode::CONFLICT,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
            Self::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
            Self::Overloaded
            | Self::Halted
            | Self::OutcomeUnknown
            | Self::Unavailable
            | Self::NotReady => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The problem's `type` and `title`.
    fn name(self) -> (&'static str, &'static str) {
        match self {
            Self::NotJson => ("/problems/not-json", "The body is not JSON"),
            Self::NoIdentity => ("/problems/no-identity", "Nobody says who is asking"),
            Self::NoToken => ("/problems/no-token", "The admin token is missing or another"),
            Self::AnotherUser => ("/problems/another-user", "Nobody acts for another user"),
            Self::NotFound => ("/problems/not-found", "There is nothing here"),
            Self::UnknownCampaign => ("/problems/unknown-campaign", "The campaign is not known"),
            Self::UnknownUser => ("/problems/unknown-user", "No user can have this id"),
            Self::UnknownRequest => ("/problems/unknown-request", "The request is not known"),
            Self::MethodNotAllowed => ("/problems/method-not-allowed", "Another method is needed"),
            Self::RequestTimeout => ("/problems/request-timeout", "The body came too slowly"),
            Self::Closed => ("/problems/closed", "The campaign is closed"),
            Self::Paused => ("/problems/paused", "The campaign is paused"),
            Self::NotOpenYet => ("/problems/not-open-yet", "The campaign is not open yet"),
            Self::SoldOut => ("/problems/sold-out", "No coupon remains"),
            Self::AlreadyDefined => ("/problems/already-defined", "It is defined already"),
            Self::QuotaBelowIssued => ("/problems/quota-below-issued", "More coupons are issued"),
            Self::BodyTooLarge => ("/problems/body-too-large", "The body is too large"),
            Self::UnsupportedMediaType => {
                ("/problems/unsupported-media-type", "The body is not declared as JSON")
            }
            Self::Invalid => ("/problems/invalid", "The request does not fit"),
            Self::TooManyRequests => ("/problems/too-many-requests", "Too many of one user"),
            Self::Overloaded => ("/problems/overloaded", "No more is taken now"),
            Self::Halted => ("/problems/halted", "Nothing is decided there now"),
            Self::OutcomeUnknown => {
                ("/problems/outcome-unknown", "Nobody can say whether it was taken")
            }
            Self::Unavailable => ("/problems/unavailable", "A part of the system does not answer"),
            Self::NotReady => ("/problems/not-ready", "The node is not ready"),
        }
    }

    /// How an issue request that ends so is counted: a closed set, few enough for a label.
    fn outcome(self) -> &'static str {
        match self {
            Self::NoIdentity | Self::NoToken | Self::AnotherUser => "denied",
            Self::UnknownCampaign => "unknown_campaign",
            Self::Closed => "closed",
            Self::Paused => "paused",
            Self::NotOpenYet => "not_open_yet",
            Self::SoldOut => "sold_out",
            Self::TooManyRequests => "user_rate",
            Self::Overloaded => "overloaded",
            Self::Halted => "halted",
            Self::OutcomeUnknown => "outcome_unknown",
            Self::Unavailable | Self::NotReady => "unavailable",
            Self::NotJson
            | Self::NotFound
            | Self::UnknownUser
            | Self::UnknownRequest
            | Self::MethodNotAllowed
            | Self::RequestTimeout
            | Self::AlreadyDefined
            | Self::QuotaBelowIssued
            | Self::BodyTooLarge
            | Self::UnsupportedMediaType
            | Self::Invalid => "invalid",
        }
    }
}

/// How refused issue requests are counted: every name that there is.
pub(super) fn outcomes() -> impl Iterator<Item = &'static str> {
    Kind::OF_OUTCOMES.into_iter().map(Kind::outcome)
}

/// A field at fault: of a body, a query, or a header.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct FieldFault {
    /// The field, nested ones with dots.
    pub(super) field: Cow<'static, str>,
    /// What must hold.
    pub(super) rule: Cow<'static, str>,
    /// What to do about it.
    pub(super) remedy: Cow<'static, str>,
}

impl From<Fault> for FieldFault {
    fn from(fault: Fault) -> Self {
        Self { field: fault.field.into(), rule: fault.rule.into(), remedy: fault.remedy.into() }
    }
}

/// An error on its way out. Boxed: it is the rare end of every handler's result.
#[derive(Debug)]
pub(super) struct Problem(Box<Content>);

#[derive(Debug)]
struct Content {
    kind: Kind,
    detail: Cow<'static, str>,
    errors: Vec<FieldFault>,
    retry_after: Option<Duration>,
    coupons: Option<String>,
    issued: Option<u32>,
    not_ready: Vec<NotReady>,
}

/// The document as it is written, in this order.
#[derive(Serialize)]
struct Document<'a> {
    r#type: &'a str,
    title: &'a str,
    status: u16,
    detail: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [FieldFault],
    #[serde(skip_serializing_if = "Option::is_none")]
    coupons: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    issued: Option<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    not_ready: Vec<NotReadyPart<'a>>,
}

#[derive(Serialize)]
struct NotReadyPart<'a> {
    part: &'a str,
    reason: &'a str,
}

impl Problem {
    /// A problem of this kind with what a person should know of this one.
    pub(super) fn new(kind: Kind, detail: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Content {
            kind,
            detail: detail.into(),
            errors: Vec::new(),
            retry_after: None,
            coupons: None,
            issued: None,
            not_ready: Vec::new(),
        }))
    }

    /// Fields at fault, all of them at once.
    pub(super) fn invalid(errors: Vec<FieldFault>) -> Self {
        let detail: Cow<'static, str> = match errors.as_slice() {
            [] => "its shape is not the one that this call takes".into(),
            [fault] => format!("{} must be {}", fault.field, fault.rule).into(),
            faults => format!("{} rules are broken, see errors", faults.len()).into(),
        };
        let mut problem = Self::new(Kind::Invalid, detail);
        problem.0.errors = errors;
        problem
    }

    /// Names what is at fault, its rule and what to do, where there is more to tell in detail.
    pub(super) fn blaming(
        mut self,
        field: impl Into<Cow<'static, str>>,
        rule: impl Into<Cow<'static, str>>,
        remedy: impl Into<Cow<'static, str>>,
    ) -> Self {
        let fault = FieldFault { field: field.into(), rule: rule.into(), remedy: remedy.into() };
        self.0.errors.push(fault);
        self
    }

    /// The parts of the node that are not ready.
    pub(super) fn not_ready(parts: Vec<NotReady>) -> Self {
        let names: Vec<_> = parts.iter().map(|part| part.part).collect();
        let mut problem = Self::new(Kind::NotReady, format!("not ready: {}", names.join(", ")));
        problem.0.not_ready = parts;
        problem
    }

    /// Adds where the user's coupons are, to a refusal that says that none is issued now.
    pub(super) fn with_coupons(mut self, url: impl FnOnce() -> String) -> Self {
        let certain = [Kind::Closed, Kind::Paused, Kind::NotOpenYet, Kind::SoldOut];
        if certain.contains(&self.0.kind) {
            self.0.coupons = Some(url());
        }
        self
    }

    /// How an issue request that ends so is counted.
    pub(super) fn outcome(&self) -> &'static str {
        self.0.kind.outcome()
    }

    fn retry_after(mut self, delay: Duration) -> Self {
        self.0.retry_after = Some(delay);
        self
    }
}

impl From<ServiceError> for Problem {
    fn from(refused: ServiceError) -> Self {
        let detail = refused.to_string();
        match refused {
            ServiceError::UnknownCampaign => unknown_campaign(),
            ServiceError::UnknownRequest => unknown_request(),
            ServiceError::CertainRejection(Reason::Closed) => Self::new(Kind::Closed, detail),
            ServiceError::CertainRejection(Reason::Paused) => Self::new(Kind::Paused, detail),
            ServiceError::CertainRejection(Reason::NotOpenYet) => {
                Self::new(Kind::NotOpenYet, detail)
            }
            ServiceError::CertainRejection(Reason::SoldOut) => Self::new(Kind::SoldOut, detail),
            ServiceError::UserRateLimited { retry_after } => {
                Self::new(Kind::TooManyRequests, detail).retry_after(retry_after)
            }
            ServiceError::Overloaded { retry_after, .. } => {
                Self::new(Kind::Overloaded, detail).retry_after(retry_after)
            }
            ServiceError::Halted { .. } => Self::new(Kind::Halted, detail),
            ServiceError::OutcomeUnknown { .. } => Self::new(
                Kind::OutcomeUnknown,
                format!("{detail}; send it again, with the same Idempotency-Key if it had one"),
            ),
            ServiceError::Unavailable { .. } => Self::new(Kind::Unavailable, detail),
            ServiceError::AlreadyDefined { differing } => already_defined(&detail, &differing),
            ServiceError::QuotaBelowIssued { issued } => {
                let mut problem = Self::new(Kind::QuotaBelowIssued, detail);
                problem.0.issued = Some(issued);
                problem
            }
            ServiceError::CampaignClosed => Self::new(Kind::Closed, detail),
            ServiceError::Invalid(faults) => {
                Self::invalid(faults.into_iter().map(FieldFault::from).collect())
            }
        }
    }
}

/// The campaign has another first definition; what can still be changed is said field by field.
fn already_defined(detail: &str, differing: &[&'static str]) -> Problem {
    let detail = format!("{detail}; PATCH changes quota, per_user_limit, opens_at and closes_at");
    differing.iter().fold(Problem::new(Kind::AlreadyDefined, detail), |problem, field| {
        let remedy = match *field {
            "code" => "leave it: how codes look never changes",
            _ => "change it with PATCH (coupond campaign amend)",
        };
        problem.blaming(*field, "what the first definition says", remedy)
    })
}

/// No campaign has this id, or none can.
pub(super) fn unknown_campaign() -> Problem {
    Problem::new(Kind::UnknownCampaign, "no campaign of this id is defined")
}

/// No request has this id, or it is not one that the caller may see.
pub(super) fn unknown_request() -> Problem {
    Problem::new(Kind::UnknownRequest, "the request id is not one of this instance")
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let content = *self.0;
        let (status, (kind, title)) = (content.kind.status(), content.kind.name());
        let not_ready = content.not_ready.iter();
        let document = Document {
            r#type: kind,
            title,
            status: status.as_u16(),
            detail: &content.detail,
            errors: &content.errors,
            coupons: content.coupons.as_deref(),
            issued: content.issued,
            not_ready: not_ready
                .map(|part| NotReadyPart { part: part.part, reason: &part.reason })
                .collect(),
        };
        let mut response = (status, views::to_bytes(&document)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, PROBLEM_JSON);
        headers.insert(header::CACHE_CONTROL, NO_STORE);
        if let Some(delay) = content.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(whole_seconds(delay)));
        }
        match content.kind {
            Kind::NoToken => {
                let challenge = HeaderValue::from_static("Bearer realm=\"coupond\"");
                headers.insert(header::WWW_AUTHENTICATE, challenge);
            }
            // RFC 9110 wants a challenge on every 401, but no registered scheme means "a gateway
            // says who you are"; naming Bearer would send clients after a token.
            Kind::NoIdentity => {
                let challenge = HeaderValue::from_static("Gateway realm=\"coupond\"");
                headers.insert(header::WWW_AUTHENTICATE, challenge);
            }
            _ => {}
        }
        response
    }
}

/// `delay` as `Retry-After` has it: whole seconds, rounded up, at least 1.
fn whole_seconds(delay: Duration) -> u64 {
    let rounded_up = delay.as_secs().saturating_add(u64::from(delay.subsec_nanos() > 0));
    rounded_up.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_is_rounded_up_to_whole_seconds_and_never_zero() {
        for (millis, seconds) in [(0, 1), (1, 1), (1_000, 1), (1_001, 2), (59_500, 60)] {
            assert_eq!(whole_seconds(Duration::from_millis(millis)), seconds);
        }
        assert_eq!(whole_seconds(Duration::MAX), u64::MAX);
    }
}
