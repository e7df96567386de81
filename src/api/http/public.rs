//! The public listener: requests for coupons, their decisions, campaigns.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Path, Query, Request, State, path::ErrorKind, rejection::PathRejection},
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::{
    HttpParts,
    body::{self, PUBLIC_BYTES_MAX},
    caller,
    fields::{self, Fields, Member, Members},
    identity::{UserIdentity, check_acts_for},
    json::{self, NO_STORE},
    pages::Pages,
    prefer::{self, WAIT_SECONDS_MAX},
    problem::{self, Kind, Problem},
    views::{CampaignBody, CouponsBody, RequestBody},
};
use crate::{
    answer::request_id::REQUEST_ID_BYTES_MAX,
    api::service::{RequestStatus, Service, ServiceError},
    domain::{
        definition::Audience,
        identity_fold::IdentityFold,
        ids::{CampaignId, UserId},
        record::Request as IssueRequest,
    },
    telemetry::metrics,
};

/// `Retry-After` of a pending request, in seconds. Decisions take milliseconds.
const PENDING_RETRY: HeaderValue = HeaderValue::from_static("1");

/// `Retry-After` of a node that is not ready, in seconds: its parts are probed that often.
const UNREADY_RETRY: HeaderValue = HeaderValue::from_static("1");

/// The ids in a path.
pub(super) type PathOf<T> = Result<Path<T>, PathRejection>;

/// What the handlers share.
pub(super) struct PublicState {
    service: Arc<dyn Service>,
    identity: UserIdentity,
    pages: Pages,
    /// What stands in front of each path for clients: the setting `api.path_prefix`.
    prefix: String,
}

/// Builds the routes of the public listener.
pub(super) fn routes(parts: &HttpParts) -> Router {
    for outcome in RequestBody::STATUSES.into_iter().chain(problem::outcomes()) {
        metrics::requests_from_zero(outcome);
    }
    let state = PublicState {
        service: Arc::clone(&parts.service),
        identity: UserIdentity::new(&parts.api, parts.identity_fold, parts.verifier.as_ref()),
        pages: Pages::new(Audience::Public),
        prefix: parts.api.path_prefix.clone(),
    };
    Router::new()
        .route("/coupon/issue", post(issue))
        .route("/coupon/requests/{request_id}", get(find))
        .route("/campaigns", get(list))
        .route("/campaigns/{campaign_id}", get(campaign))
        .route("/campaigns/{campaign_id}/users/{user_id}/coupons", get(coupons))
        .route("/openapi.json", get(openapi))
        .route("/health/live", get(live))
        .route("/health/ready", get(ready))
        .with_state(Arc::new(state))
}

/// Says that the process answers. Clients of this listener learn nothing else about the node.
async fn live() -> Response {
    health(StatusCode::OK)
}

/// Says whether the node takes requests. The admin listener says what is missing.
async fn ready(State(state): State<Arc<PublicState>>) -> Response {
    if state.service.not_ready().is_empty() {
        return health(StatusCode::OK);
    }
    let mut response = health(StatusCode::SERVICE_UNAVAILABLE);
    response.headers_mut().insert(header::RETRY_AFTER, UNREADY_RETRY);
    response
}

/// Answers by a status alone, which nobody may keep.
fn health(status: StatusCode) -> Response {
    (status, [(header::CACHE_CONTROL, NO_STORE)]).into_response()
}

async fn issue(State(state): State<Arc<PublicState>>, request: Request) -> Response {
    let (outcome, response) = match try_issue(&state, request).await {
        Ok(counted) => counted,
        Err(problem) => (problem.outcome(), problem.into_response()),
    };
    metrics::request(outcome);
    response
}

/// Returns the outcome under which the request is counted, and the response.
async fn try_issue(
    state: &PublicState,
    request: Request,
) -> Result<(&'static str, Response), Problem> {
    let (head, body) = request.into_parts();
    let caller = state.identity.user(&head.headers).await?;
    let body = body::read_json(&head.headers, body, PUBLIC_BYTES_MAX).await?;
    let request = issue_request(&head.headers, &body, caller, state.identity.fold)?;
    let wait = prefer::wait(&head.headers);
    let (campaign, user) = (request.campaign.clone(), request.user.clone());
    let reply = state.service.issue(request, wait.map(Duration::from_secs)).await;
    let reply = reply.map_err(|error| match error {
        // The user may already hold a coupon of a campaign that issues none now.
        ServiceError::CertainRejection(_) => {
            Problem::from(error).with_coupons(coupons_url(&state.prefix, &campaign, &user))
        }
        _ => error.into(),
    })?;
    let pending = RequestBody::pending(&reply.request_id, &campaign, &user);
    let (Some(seconds), Some(answer)) = (wait, &reply.answer) else {
        let outcome = pending.status();
        let mut response = json::answer(StatusCode::ACCEPTED, &pending);
        let location = format!("{}/coupon/requests/{}", state.prefix, reply.request_id);
        // Request ids are URL-safe, so this cannot fail; the body has the id in any case.
        if let Ok(location) = HeaderValue::try_from(location) {
            response.headers_mut().insert(header::LOCATION, location);
        }
        return Ok((outcome, response));
    };
    let decided = pending.decided(answer).ok_or_else(no_request)?;
    let mut response = json::answer(StatusCode::OK, &decided);
    if let Ok(applied) = HeaderValue::try_from(format!("wait={seconds}")) {
        response.headers_mut().insert("preference-applied", applied);
    }
    Ok((decided.status(), response))
}

/// Reads the campaign and the user from the body, and the key from its header.
pub(super) fn issue_request(
    headers: &HeaderMap,
    body: &[u8],
    caller: Option<UserId>,
    fold: IdentityFold,
) -> Result<IssueRequest, Problem> {
    let user_id = |member| fields::user_id(member).map(|user| fold.of(user));
    let mut fields = Fields::lenient(fields::object(body)?, &["campaign_id", "user_id"]);
    let campaign = fields.required("campaign_id", fields::campaign_id);
    let user = match &caller {
        Some(_) => fields.optional("user_id", user_id),
        None => fields.required("user_id", user_id),
    };
    let idempotency_key = caller::idempotency_key(headers, &mut fields);
    fields.finish()?;
    if let Some(named) = &user {
        check_acts_for(caller.as_ref(), named)?;
    }
    // `finish` has failed if one of them is missing.
    let (Some(campaign), Some(user)) = (campaign, caller.or(user)) else {
        return Err(Problem::invalid(Vec::new()));
    };
    Ok(IssueRequest { campaign, user, idempotency_key })
}

async fn find(
    State(state): State<Arc<PublicState>>,
    path: PathOf<String>,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, Problem> {
    let caller = state.identity.user(&headers).await?;
    let mut query = query(&uri, &["wait"], Audience::Public)?;
    let seconds = query.optional("wait", fields::digits(0..=WAIT_SECONDS_MAX)).unwrap_or(0);
    query.finish()?;
    let Path(request_id) = path.map_err(|_| problem::unknown_request())?;
    if request_id.len() > REQUEST_ID_BYTES_MAX {
        return Err(problem::unknown_request());
    }
    let wait = Duration::from_secs(seconds);
    // Another user's request is refused (INV-11): its decision has their code.
    let found = state.service.find(&request_id, caller.as_ref(), wait).await?;
    let pending = RequestBody::pending(&request_id, &found.campaign, &found.user);
    match &found.status {
        RequestStatus::Decided(answer) => {
            let decided = pending.decided(answer).ok_or_else(no_request)?;
            Ok(json::answer(StatusCode::OK, &decided))
        }
        RequestStatus::Pending { queue_ahead } => {
            let mut response = json::answer(StatusCode::ACCEPTED, &pending.behind(*queue_ahead));
            response.headers_mut().insert(header::RETRY_AFTER, PENDING_RETRY);
            Ok(response)
        }
    }
}

async fn list(State(state): State<Arc<PublicState>>, uri: Uri) -> Result<Response, Problem> {
    state.pages.page(&*state.service, &uri).await
}

async fn campaign(
    State(state): State<Arc<PublicState>>,
    path: PathOf<String>,
) -> Result<Response, Problem> {
    let campaign = campaign_id(path)?;
    let view = state.service.campaign(&campaign).await?;
    Ok(json::answer(StatusCode::OK, &CampaignBody::from(&view)))
}

async fn coupons(
    State(state): State<Arc<PublicState>>,
    path: PathOf<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let caller = state.identity.user(&headers).await?;
    let Path((campaign, user)) = path.map_err(|rejection| match undecodable(&rejection) {
        Some("user_id") => unknown_user(),
        _ => problem::unknown_campaign(),
    })?;
    let campaign = CampaignId::parse(&campaign).map_err(|_| problem::unknown_campaign())?;
    let user = state.identity.fold.user(&user).map_err(|_| unknown_user())?;
    check_acts_for(caller.as_ref(), &user)?;
    let list = state.service.coupons_of(&campaign, &user).await?;
    Ok(json::answer(StatusCode::OK, &CouponsBody::from(&list)))
}

/// Returns the name of the id in a path that is not UTF-8.
fn undecodable(rejection: &PathRejection) -> Option<&str> {
    let PathRejection::FailedToDeserializePathParams(failure) = rejection else { return None };
    match failure.kind() {
        ErrorKind::InvalidUtf8InPathParam { key } => Some(key),
        _ => None,
    }
}

/// Returns the problem of an invalid user id.
fn unknown_user() -> Problem {
    Problem::new(Kind::UnknownUser, format!("a user id must be {}", UserId::RULE))
}

async fn openapi() -> Response {
    let document = include_str!("openapi.json");
    ([(header::CONTENT_TYPE, "application/json")], document).into_response()
}

/// Reads the campaign id of a path.
///
/// # Errors
/// 404 if no campaign can have the id.
pub(super) fn campaign_id(path: PathOf<String>) -> Result<CampaignId, Problem> {
    let Path(text) = path.map_err(|_| problem::unknown_campaign())?;
    CampaignId::parse(&text).map_err(|_| problem::unknown_campaign())
}

/// Reads the campaign id of a path under which a campaign may be made.
///
/// # Errors
/// 422 with the rule if no campaign can have the id.
pub(super) fn new_campaign_id(path: PathOf<String>) -> Result<CampaignId, Problem> {
    let id = path.ok().and_then(|Path(text)| CampaignId::parse(&text).ok());
    id.ok_or_else(|| {
        let detail = format!("campaign_id must be {}", CampaignId::RULE);
        let problem = Problem::new(Kind::Invalid, detail);
        problem.blaming("campaign_id", CampaignId::RULE, "choose such an id")
    })
}

/// Reads the parameters of a query. On the admin listener unknown ones are refused like unknown fields;
/// pages of the public add parameters of their own, such as `utm_source`.
pub(super) fn query(
    uri: &Uri,
    known: &'static [&'static str],
    audience: Audience,
) -> Result<Fields<'static>, Problem> {
    let parameters = parameters(uri)?;
    Ok(match audience {
        Audience::Public => Fields::lenient(parameters, known),
        Audience::Admin => Fields::new(parameters, "", known),
    })
}

fn parameters(uri: &Uri) -> Result<Members<'static>, Problem> {
    let pairs = Query::<Vec<(String, String)>>::try_from_uri(uri);
    let Query(pairs) = pairs.map_err(|error| {
        let problem = Problem::new(Kind::Invalid, error.body_text());
        problem.blaming("query", "name=value pairs joined by &", "correct the query")
    })?;
    let member = |(name, value): (String, String)| (name.into(), Member::Text(value.into()));
    Ok(pairs.into_iter().map(member).collect())
}

/// Refuses every parameter of a query.
///
/// # Errors
/// 422 that lists them.
pub(super) fn no_query(uri: &Uri) -> Result<(), Problem> {
    match uri.query() {
        None => Ok(()),
        Some(_) => {
            let rule = "absent: this call takes no parameters";
            Fields::none(parameters(uri)?, rule, |_| "remove the parameter").finish()
        }
    }
}

/// What is escaped in a segment of a path: everything but the letters, digits and signs that RFC 3986
/// allows there and that mean nothing to proxies, shells and HTML.
const ESCAPED: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b':').remove(b'@');

/// Returns the URL of a user's coupons.
fn coupons_url(prefix: &str, campaign: &CampaignId, user: &UserId) -> String {
    let user = utf8_percent_encode(user.as_str(), ESCAPED);
    format!("{prefix}/campaigns/{campaign}/users/{user}/coupons")
}

/// Returns the problem of a request with the decision of a control record. Its outcome is unknown.
fn no_request() -> Problem {
    Problem::new(Kind::OutcomeUnknown, "the record at the request's position is no request")
}
