//! What browsers need to let a page of another origin call the public listener (the Fetch standard, CORS).
//!
//! Own code, because `tower-http`'s layer answers every `OPTIONS` by itself, also to unknown paths and
//! from other origins, and cannot reach the refusals that `server` makes before the router.

use axum::{
    body::Body,
    http::{
        HeaderMap, HeaderValue, Method, StatusCode,
        header::{
            ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
            ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
            ACCESS_CONTROL_REQUEST_METHOD, CACHE_CONTROL, ORIGIN, VARY,
        },
        request,
    },
    response::Response,
};

use crate::config::Origins;

const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST");

/// Headers that a page may send, beside those that it may always send.
const ALLOWED: HeaderValue = HeaderValue::from_static(
    "content-type, authorization, prefer, idempotency-key, x-idempotency-key",
);

/// Headers that a page may read, beside those that it may always read.
const EXPOSED: HeaderValue = HeaderValue::from_static("location, retry-after, preference-applied");

/// Seconds for which a browser may keep the answer to a preflight: two hours, the most that browsers keep.
const MAX_AGE: HeaderValue = HeaderValue::from_static("7200");

const ANY: HeaderValue = HeaderValue::from_static("*");

/// The origins whose pages may call a listener. Empty: none, and no answer has a header of CORS.
#[derive(Debug, Default)]
pub(super) struct Cors(Vec<HeaderValue>);

/// What the answer to one request says to a browser.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Spoken {
    /// The origin that may read the answer.
    allowed: Option<HeaderValue>,
    /// The request asks whether another one may be sent.
    is_preflight: bool,
}

impl Cors {
    /// Returns the rules for these origins.
    pub(super) fn new(origins: &Origins) -> Self {
        // Origins are checked with the settings, so that each is a header value.
        Self(origins.0.iter().filter_map(|origin| HeaderValue::from_str(origin).ok()).collect())
    }

    /// Returns what to say in the answer to a request. `None`: nothing.
    pub(super) fn spoken(&self, head: &request::Parts) -> Option<Spoken> {
        if self.0.is_empty() {
            return None;
        }
        let origin = head.headers.get(ORIGIN);
        // `*` goes without credentials: a browser then sends no cookies, and shows no answer to a page
        // that asked for them.
        let allowed = if self.0.contains(&ANY) { origin.map(|_| ANY) } else { self.listed(origin) };
        let is_preflight = allowed.is_some()
            && head.method == Method::OPTIONS
            && head.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
        Some(Spoken { allowed, is_preflight })
    }

    fn listed(&self, origin: Option<&HeaderValue>) -> Option<HeaderValue> {
        origin.filter(|origin| self.0.contains(origin)).cloned()
    }
}

impl Spoken {
    /// Returns the answer to a preflight, if the request is one. It reaches no call.
    pub(super) fn preflight(&self) -> Option<Response> {
        self.is_preflight.then(|| {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NO_CONTENT;
            let headers = response.headers_mut();
            headers.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
            headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, ALLOWED);
            headers.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE);
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
            response
        })
    }

    /// Adds the headers of every answer.
    pub(super) fn add_to(&self, headers: &mut HeaderMap) {
        // Also where the origin is not allowed: a cache must not give this answer to another origin.
        headers.append(VARY, HeaderValue::from_static("Origin"));
        let Some(allowed) = &self.allowed else { return };
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, allowed.clone());
        if !self.is_preflight {
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
        }
    }
}
