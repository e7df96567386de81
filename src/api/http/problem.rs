//! Errors as problem documents (RFC 9457). One table has a row for every kind of problem.

use std::{borrow::Cow, time::Duration};

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Serialize, Serializer};

use super::{
    json::{self, NO_STORE},
    views::PartBody,
};
use crate::{
    api::service::{NotReady, ServiceError},
    domain::{
        fault::Fault,
        ids::{CampaignId, Offset},
        reason::Reason,
    },
};

/// `Retry-After` while a part does not answer, which most do again within seconds, and of every other
/// 503 and 429 that names no time.
const UNAVAILABLE_RETRY: Duration = Duration::from_secs(5);

/// `Retry-After` of a halt or a hold. Its owner looks again that often.
const HALTED_RETRY: Duration = Duration::from_secs(10);

/// Most faults that a problem lists: a person corrects these first, and an answer stays about as large
/// as its request.
pub(super) const FAULTS_MAX: usize = 8;

const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");

/// Declares the kinds of problems. Each kind is one row: its status, the end of its `type`, its
/// title, and the outcome under which `coupond_requests_total` counts an issue request that ends
/// so. Outcomes are few and fixed, because they are values of a label. The reasons of a rejection
/// are declared in `domain/reason.rs`.
macro_rules! kinds {
    ($($kind:ident: $status:ident, $slug:literal, $title:literal, $outcome:literal;)*) => {
        /// What went wrong.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Kind {
            $($kind,)*
            /// The campaign rejects for this reason.
            Rejected(Reason),
        }

        impl Kind {
            fn all() -> impl Iterator<Item = Self> {
                [$(Self::$kind,)*].into_iter().chain(Reason::ALL.map(Self::Rejected))
            }

            fn row(self) -> KindRow {
                match self {
                    $(Self::$kind => KindRow {
                        status: StatusCode::$status,
                        slug: $slug,
                        title: $title,
                        outcome: $outcome,
                    },)*
                    Self::Rejected(reason) => KindRow {
                        status: StatusCode::CONFLICT,
                        slug: reason.slug(),
                        title: reason.title(),
                        outcome: reason.name(),
                    },
                }
            }
        }
    };
}

kinds! {
    NotJson: BAD_REQUEST, "not-json", "Malformed JSON", "invalid";
    MalformedRequest: BAD_REQUEST, "malformed-request", "Malformed request", "invalid";
    NoIdentity: UNAUTHORIZED, "no-identity", "Missing user identity", "denied";
    InvalidToken: UNAUTHORIZED, "invalid-token", "Invalid user token", "denied";
    NoGateway: UNAUTHORIZED, "no-gateway", "Invalid gateway token", "denied";
    NoToken: UNAUTHORIZED, "no-token", "Invalid admin token", "denied";
    AnotherUser: FORBIDDEN, "another-user", "Cannot act for another user", "denied";
    NoRight: FORBIDDEN, "missing-right", "Missing right", "denied";
    NoChaos: FORBIDDEN, "chaos-disabled", "Chaos is off", "denied";
    NotFound: NOT_FOUND, "not-found", "Not found", "invalid";
    UnknownCampaign: NOT_FOUND, "unknown-campaign", "Unknown campaign", "unknown_campaign";
    UnknownPartition: NOT_FOUND, "unknown-partition", "Unknown partition", "invalid";
    UnknownUser: NOT_FOUND, "unknown-user", "Unknown user", "invalid";
    UnknownRequest: NOT_FOUND, "unknown-request", "Unknown request id", "invalid";
    NotDecided: GONE, "not-decided", "Not decided", "invalid";
    MethodNotAllowed: METHOD_NOT_ALLOWED, "method-not-allowed", "Method not allowed", "invalid";
    RequestTimeout: REQUEST_TIMEOUT, "request-timeout", "Request body timed out", "invalid";
    OtherCode: CONFLICT, "other-code", "Code format cannot be amended", "invalid";
    PreconditionFailed: PRECONDITION_FAILED, "precondition-failed", "Precondition failed", "invalid";
    NotSkippable: CONFLICT, "not-skippable", "Range cannot be skipped", "invalid";
    QuotaBelowIssued: CONFLICT, "quota-below-issued", "Quota below issued coupons", "invalid";
    NotHere: CONFLICT, "not-here", "Does not run on this node", "invalid";
    SecretConfigured: CONFLICT, "secret-configured", "Secret is configured", "invalid";
    NotReleasable: CONFLICT, "not-releasable", "Campaign cannot be released", "invalid";
    BodyTooLarge: PAYLOAD_TOO_LARGE, "body-too-large", "Request body too large", "invalid";
    UnsupportedMediaType: UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type",
        "Unsupported media type", "invalid";
    UnsupportedEncoding: UNSUPPORTED_MEDIA_TYPE, "unsupported-encoding",
        "Unsupported content encoding", "invalid";
    QueryTooLong: URI_TOO_LONG, "query-too-long", "Query too long", "invalid";
    Misdirected: MISDIRECTED_REQUEST, "misdirected", "Unknown host", "invalid";
    HeadTooLarge: REQUEST_HEADER_FIELDS_TOO_LARGE, "head-too-large", "Request head too large",
        "invalid";
    UnsupportedTransferEncoding: NOT_IMPLEMENTED, "unsupported-transfer-encoding",
        "Unsupported transfer encoding", "invalid";
    Invalid: UNPROCESSABLE_ENTITY, "invalid", "Invalid request", "invalid";
    TooManyRequests: TOO_MANY_REQUESTS, "too-many-requests", "Per-user rate limit exceeded",
        "user_rate";
    TooManyTokens: TOO_MANY_REQUESTS, "too-many-tokens", "Too many wrong tokens", "denied";
    Overloaded: SERVICE_UNAVAILABLE, "overloaded", "Overloaded", "overloaded";
    Halted: SERVICE_UNAVAILABLE, "halted", "Partition halted", "halted";
    OutcomeUnknown: SERVICE_UNAVAILABLE, "outcome-unknown", "Outcome unknown", "outcome_unknown";
    Unavailable: SERVICE_UNAVAILABLE, "unavailable", "Temporarily unavailable", "unavailable";
    NotReady: SERVICE_UNAVAILABLE, "not-ready", "Node not ready", "unavailable";
}

impl Kind {
    /// Returns the usual challenge of a 401, which every 401 has (RFC 9110).
    fn challenge(self) -> Option<HeaderValue> {
        match self {
            Self::NoToken => Some(HeaderValue::from_static("Bearer realm=\"coupond\"")),
            Self::InvalidToken => Some(HeaderValue::from_static("Bearer error=\"invalid_token\"")),
            // No registered scheme means "a gateway names the user", and Bearer would make clients ask
            // for a token.
            Self::NoIdentity | Self::NoGateway => {
                Some(HeaderValue::from_static("Gateway realm=\"coupond\""))
            }
            _ => None,
        }
    }
}

struct KindRow {
    status: StatusCode,
    slug: &'static str,
    title: &'static str,
    outcome: &'static str,
}

/// Lists the outcomes under which failed issue requests are counted. Some come more than once.
pub(super) fn outcomes() -> impl Iterator<Item = &'static str> {
    Kind::all().map(|kind| kind.row().outcome)
}

/// An invalid field of a body, a query, or the headers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct FieldFault {
    /// The name of the field; nested names are joined by dots.
    pub(super) field: Cow<'static, str>,
    /// What the value must be.
    pub(super) rule: Cow<'static, str>,
    /// What the client should do.
    pub(super) remedy: Cow<'static, str>,
}

impl From<Fault> for FieldFault {
    fn from(fault: Fault) -> Self {
        Self { field: fault.field.into(), rule: fault.rule.into(), remedy: fault.remedy.into() }
    }
}

/// An error response. Boxed, because every handler returns a `Result` with it, and errors are rare.
#[derive(Debug)]
pub(super) struct Problem(Box<Content>);

#[derive(Debug)]
struct Content {
    kind: Kind,
    detail: Cow<'static, str>,
    errors: Vec<FieldFault>,
    retry_after: Option<Duration>,
    challenge: Option<HeaderValue>,
    coupons: Option<String>,
    issued: Option<u32>,
    stands: (Option<CampaignId>, Option<Offset>),
    not_ready: Vec<NotReady>,
    degraded: Vec<NotReady>,
}

/// The document, in the order of its members.
#[derive(Serialize)]
struct Document<'a> {
    #[serde(serialize_with = "problem_type")]
    r#type: &'static str,
    title: &'a str,
    status: u16,
    detail: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [FieldFault],
    #[serde(skip_serializing_if = "Option::is_none")]
    coupons: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    issued: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    campaign_id: Option<&'a CampaignId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<Offset>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    not_ready: Vec<PartBody<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    degraded: Vec<PartBody<'a>>,
}

fn problem_type<S: Serializer>(slug: &&'static str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("/problems/{slug}"))
}

impl Problem {
    /// Creates a problem. `detail` explains this occurrence to a person.
    pub(super) fn new(kind: Kind, detail: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Content {
            kind,
            detail: detail.into(),
            errors: Vec::new(),
            retry_after: None,
            challenge: None,
            coupons: None,
            issued: None,
            stands: (None, None),
            not_ready: Vec::new(),
            degraded: Vec::new(),
        }))
    }

    /// Creates a problem that lists the invalid fields, at most [`FAULTS_MAX`] of them.
    pub(super) fn invalid(mut errors: Vec<FieldFault>) -> Self {
        let detail: Cow<'static, str> = match errors.as_slice() {
            [] => "the request does not have the fields that this call takes".into(),
            [fault] => format!("{} must be {}", fault.field, fault.rule).into(),
            faults if faults.len() > FAULTS_MAX => {
                format!("more than {FAULTS_MAX} fields are invalid, see errors for some").into()
            }
            faults => format!("{} fields are invalid, see errors", faults.len()).into(),
        };
        errors.truncate(FAULTS_MAX);
        let mut problem = Self::new(Kind::Invalid, detail);
        problem.0.errors = errors;
        problem
    }

    /// Adds an invalid field to a problem whose detail has more than the field's rule.
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

    /// Creates the problem of a transfer coding other than `chunked`.
    pub(super) fn transfer_encoding() -> Self {
        let detail = "the only transfer coding is chunked";
        let remedy = "send the body with Content-Length, or as chunked without another coding";
        Self::new(Kind::UnsupportedTransferEncoding, detail).blaming(
            "Transfer-Encoding",
            "chunked",
            remedy,
        )
    }

    /// Creates the problem of a node that is not ready.
    pub(super) fn not_ready(parts: Vec<NotReady>, degraded: Vec<NotReady>) -> Self {
        let names: Vec<_> = parts.iter().map(|part| part.part).collect();
        let mut problem = Self::new(Kind::NotReady, format!("not ready: {}", names.join(", ")));
        problem.0.not_ready = parts;
        problem.0.degraded = degraded;
        problem.retry_after(UNAVAILABLE_RETRY)
    }

    /// Adds the URL of the user's coupons.
    pub(super) fn with_coupons(mut self, url: String) -> Self {
        self.0.coupons = Some(url);
        self
    }

    /// Returns each fault as a line: field, rule, remedy.
    pub(super) fn faults(&self) -> Vec<String> {
        let line = |fault: &FieldFault| {
            let FieldFault { field, rule, remedy } = fault;
            format!("{field} must be {rule}; {remedy}")
        };
        self.0.errors.iter().map(line).collect()
    }

    /// Returns the outcome under which an issue request that ends so is counted.
    pub(super) fn outcome(&self) -> &'static str {
        self.0.kind.row().outcome
    }

    /// Returns the end of `type`.
    #[cfg(test)]
    pub(super) fn slug(&self) -> &'static str {
        self.0.kind.row().slug
    }

    /// Sets the challenge of a 401, `WWW-Authenticate`.
    pub(super) fn challenging(mut self, challenge: HeaderValue) -> Self {
        self.0.challenge = Some(challenge);
        self
    }

    /// Adds the time after which a retry is useful.
    pub(super) fn retry_after(mut self, delay: Duration) -> Self {
        self.0.retry_after = Some(delay);
        self
    }
}

impl From<ServiceError> for Problem {
    fn from(error: ServiceError) -> Self {
        let detail = error.to_string();
        match error {
            ServiceError::UnknownCampaign => Self::new(Kind::UnknownCampaign, detail),
            ServiceError::UnknownPartition => Self::new(Kind::UnknownPartition, detail),
            ServiceError::NotSkippable { campaign, offset, .. } => {
                let mut problem = Self::new(Kind::NotSkippable, detail);
                problem.0.stands = (campaign, offset);
                problem
            }
            ServiceError::TooManyPartitions { .. } => Self::new(Kind::Invalid, detail).blaming(
                "campaign",
                "given, where there are so many partitions",
                "name a campaign",
            ),
            ServiceError::UnknownRequest => Self::new(Kind::UnknownRequest, detail),
            ServiceError::AnotherUser => Self::new(Kind::AnotherUser, detail),
            ServiceError::NotDecided | ServiceError::Skipped => Self::new(Kind::NotDecided, detail),
            ServiceError::CertainRejection(reason) => Self::new(Kind::Rejected(reason), detail),
            ServiceError::UserRateLimited { retry_after } => {
                Self::new(Kind::TooManyRequests, detail).retry_after(retry_after)
            }
            ServiceError::Overloaded { retry_after, .. } => {
                Self::new(Kind::Overloaded, detail).retry_after(retry_after)
            }
            ServiceError::Halted { .. } => {
                Self::new(Kind::Halted, detail).retry_after(HALTED_RETRY)
            }
            ServiceError::OutcomeUnknown { .. } => Self::new(
                Kind::OutcomeUnknown,
                format!("{detail}; send the request again, with the same Idempotency-Key if any"),
            )
            .retry_after(UNAVAILABLE_RETRY),
            ServiceError::Unavailable { .. } => {
                Self::new(Kind::Unavailable, detail).retry_after(UNAVAILABLE_RETRY)
            }
            ServiceError::OtherCode => Self::new(Kind::OtherCode, detail).blaming(
                "code",
                "as in the definition in effect",
                "keep the code format: take it from GET, or define another campaign",
            ),
            ServiceError::PreconditionFailed { .. } => Self::new(Kind::PreconditionFailed, detail),
            ServiceError::QuotaBelowIssued { issued } => {
                let mut problem = Self::new(Kind::QuotaBelowIssued, detail);
                problem.0.issued = Some(issued);
                problem
            }
            ServiceError::NotReleasable { .. } => Self::new(Kind::NotReleasable, detail),
            ServiceError::CampaignClosed => Self::new(Kind::Rejected(Reason::Closed), detail),
            ServiceError::Invalid(faults) => {
                Self::invalid(faults.into_iter().map(FieldFault::from).collect())
            }
        }
    }
}

/// Returns the problem of a campaign id that is unknown or invalid.
pub(super) fn unknown_campaign() -> Problem {
    ServiceError::UnknownCampaign.into()
}

/// Returns the problem of a request id that no request of this instance has.
pub(super) fn unknown_request() -> Problem {
    ServiceError::UnknownRequest.into()
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let content = *self.0;
        let KindRow { status, slug, title, .. } = content.kind.row();
        let document = Document {
            r#type: slug,
            title,
            status: status.as_u16(),
            detail: &content.detail,
            errors: &content.errors,
            coupons: content.coupons.as_deref(),
            issued: content.issued,
            campaign_id: content.stands.0.as_ref(),
            offset: content.stands.1,
            not_ready: content.not_ready.iter().map(PartBody::of).collect(),
            degraded: content.degraded.iter().map(PartBody::of).collect(),
        };
        let mut response = (status, json::to_bytes(&document)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, PROBLEM_JSON);
        headers.insert(header::CACHE_CONTROL, NO_STORE);
        let busy = [StatusCode::SERVICE_UNAVAILABLE, StatusCode::TOO_MANY_REQUESTS];
        let usual = busy.contains(&status).then_some(UNAVAILABLE_RETRY);
        if let Some(delay) = content.retry_after.or(usual) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(whole_seconds(delay)));
        }
        if let Some(challenge) = content.challenge.or(content.kind.challenge()) {
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        if content.kind == Kind::UnsupportedEncoding {
            // RFC 9110: this tells a wrong coding from a wrong type.
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        }
        response
    }
}

/// Rounds up to whole seconds, at least 1, as `Retry-After` takes them.
fn whole_seconds(delay: Duration) -> u64 {
    let rounded_up = delay.as_secs().saturating_add(u64::from(delay.subsec_nanos() > 0));
    rounded_up.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_own_type_and_title() {
        let rows: Vec<KindRow> = Kind::all().map(Kind::row).collect();
        for (at, KindRow { slug, title, .. }) in rows.iter().enumerate() {
            let is_taken = |other: &KindRow| other.slug == *slug || other.title == *title;
            assert!(!rows[..at].iter().any(is_taken), "{slug}");
            assert!(slug.bytes().all(|byte| byte == b'-' || byte.is_ascii_lowercase()), "{slug}");
        }
    }

    #[test]
    fn every_503_and_429_says_when_to_retry() {
        let mut told = 0;
        for kind in Kind::all() {
            let response = Problem::new(kind, "").into_response();
            let is_busy = [503, 429].contains(&response.status().as_u16());
            assert_eq!(response.headers().contains_key(header::RETRY_AFTER), is_busy, "{kind:?}");
            told += usize::from(is_busy);
        }
        assert!(told > 0);
    }

    #[test]
    fn every_401_has_a_challenge() {
        for kind in Kind::all() {
            let response = Problem::new(kind, "").into_response();
            let is_challenged = response.headers().contains_key(header::WWW_AUTHENTICATE);
            assert_eq!(is_challenged, response.status() == StatusCode::UNAUTHORIZED, "{kind:?}");
        }
    }

    #[test]
    fn few_of_many_faults_are_listed() {
        let fault = |_| FieldFault { field: "a".into(), rule: "b".into(), remedy: "c".into() };
        for (count, detail) in [(8, "8 fields are invalid"), (9, "more than 8 fields are invalid")]
        {
            let problem = Problem::invalid((0..count).map(fault).collect());
            assert_eq!(problem.0.errors.len(), 8);
            assert!(problem.0.detail.starts_with(detail), "{}", problem.0.detail);
        }
    }

    #[test]
    fn retry_after_rounds_up_and_is_never_zero() {
        for (millis, seconds) in [(0, 1), (1, 1), (1_000, 1), (1_001, 2), (59_500, 60)] {
            assert_eq!(whole_seconds(Duration::from_millis(millis)), seconds);
        }
        assert_eq!(whole_seconds(Duration::MAX), u64::MAX);
    }
}
