//! The public listener: asking for a coupon, asking what became of it, looking at campaigns.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Path, Query, Request, State, path::ErrorKind, rejection::PathRejection},
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};

use super::{
    HttpParts, body,
    caller::{self, Caller},
    fields::{self, Fields, Member, Members},
    prefer::{self, WAIT_SECONDS_MAX},
    problem::{self, Kind, Problem},
    views::{self, CampaignBody, CampaignsBody, CouponBody, CouponsBody, RequestBody},
};
use crate::{
    api::service::{RequestStatus, Service},
    domain::{
        ids::{CampaignId, UserId},
        record::Request as IssueRequest,
    },
    telemetry::metrics,
};

/// Longest request id that is looked at.
const REQUEST_ID_BYTES_MAX: usize = 400;

/// Campaigns of a page where the client asks for no number, and most that it may ask for.
const PAGE_DEFAULT: usize = 100;
const PAGE_MAX: usize = 1_000;

/// When a pending request is worth asking for again: decisions take milliseconds.
const PENDING_RETRY: HeaderValue = HeaderValue::from_static("1");

/// The path of a campaign id, or of two ids.
pub(super) type PathOf<T> = Result<Path<T>, PathRejection>;

/// What the handlers share.
pub(super) struct PublicState {
    service: Arc<dyn Service>,
    caller: Caller,
}

/// The routes of the public listener.
pub(super) fn routes(parts: &HttpParts) -> Router {
    for outcome in RequestBody::STATUSES.into_iter().chain(problem::outcomes()) {
        metrics::requests_from_zero(outcome);
    }
    let edge = PublicState {
        service: Arc::clone(&parts.service),
        caller: Caller::new(&parts.api.identity),
    };
    Router::new()
        .route("/coupon/issue", post(issue))
        .route("/coupon/requests/{request_id}", get(find))
        .route("/campaigns", get(list))
        .route("/campaigns/{campaign_id}", get(campaign))
        .route("/campaigns/{campaign_id}/users/{user_id}/coupons", get(coupons))
        .route("/openapi.json", get(openapi))
        .with_state(Arc::new(edge))
}

async fn issue(State(edge): State<Arc<PublicState>>, request: Request) -> Response {
    let (outcome, response) = match take(&edge, request).await {
        Ok(answered) => answered,
        Err(problem) => (problem.outcome(), problem.into_response()),
    };
    metrics::request(outcome);
    response
}

/// Takes an issue request into the log; also how it is counted.
async fn take(edge: &PublicState, request: Request) -> Result<(&'static str, Response), Problem> {
    let (head, body) = request.into_parts();
    let caller = edge.caller.identify(&head.headers)?;
    let body = body::read_json(&head.headers, body).await?;
    no_parameter(&head.uri, |name| match name {
        "wait" => "send the header Prefer: wait=N instead",
        _ => "leave it out",
    })?;
    let request = issue_request(&head.headers, &body, caller)?;
    let wait = prefer::wait(&head.headers);
    let (campaign, user) = (request.campaign.clone(), request.user.clone());
    let taken = edge.service.issue(request, wait.map(Duration::from_secs)).await;
    let taken = taken
        .map_err(|refused| Problem::from(refused).with_coupons(|| coupons_url(&campaign, &user)))?;
    let pending = RequestBody::pending(&taken.request_id, &campaign, &user);
    let (Some(seconds), Some(answer)) = (wait, &taken.answer) else {
        let outcome = pending.status();
        let mut response = views::json(StatusCode::ACCEPTED, &pending);
        let location = format!("/coupon/requests/{}", taken.request_id);
        // The service's ids are URL-safe; were one not, its body would still carry it.
        if let Ok(location) = HeaderValue::try_from(location) {
            response.headers_mut().insert(header::LOCATION, location);
        }
        return Ok((outcome, response));
    };
    let decided = pending.decided(answer).ok_or_else(no_request)?;
    let mut response = views::json(StatusCode::OK, &decided);
    if let Ok(applied) = HeaderValue::try_from(format!("wait={seconds}")) {
        response.headers_mut().insert("preference-applied", applied);
    }
    Ok((decided.status(), response))
}

/// Reads what is asked: campaign and user from the body, the key from its header.
fn issue_request(
    headers: &HeaderMap,
    body: &[u8],
    caller: Option<UserId>,
) -> Result<IssueRequest, Problem> {
    let mut fields = Fields::new(fields::object(body)?, "", &["campaign_id", "user_id"]);
    let campaign = fields.required("campaign_id", fields::campaign_id);
    let user = match &caller {
        Some(_) => fields.optional("user_id", fields::user_id),
        None => fields.required("user_id", fields::user_id),
    };
    let idempotency_key = caller::idempotency_key(headers, &mut fields);
    fields.finish()?;
    if let Some(named) = &user {
        caller::acting_for(caller.as_ref(), named)?;
    }
    // Both are there: whatever is missing was a fault.
    let (Some(campaign), Some(user)) = (campaign, caller.or(user)) else {
        return Err(Problem::invalid(Vec::new()));
    };
    Ok(IssueRequest { campaign, user, idempotency_key })
}

async fn find(
    State(edge): State<Arc<PublicState>>,
    path: PathOf<String>,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, Problem> {
    let caller = edge.caller.identify(&headers)?;
    let mut query = query(&uri, &["wait"])?;
    let seconds = query.optional("wait", fields::digits(0..=WAIT_SECONDS_MAX)).unwrap_or(0);
    query.finish()?;
    let Path(request_id) = path.map_err(|_| problem::unknown_request())?;
    if request_id.len() > REQUEST_ID_BYTES_MAX {
        return Err(problem::unknown_request());
    }
    // Somebody else's request is told apart from one that never was by nothing, not even by how
    // long the answer takes (INV-11): its id would prove that the other user asked, and its
    // decision holds their code. 403 is for callers who name another user; an id names nobody.
    let foreign = |user: &UserId| caller.as_ref().is_some_and(|caller| caller != user);
    if caller.is_some() && seconds > 0 {
        let found = edge.service.find(&request_id, Duration::ZERO).await?;
        if foreign(&found.user) {
            return Err(problem::unknown_request());
        }
    }
    let found = edge.service.find(&request_id, Duration::from_secs(seconds)).await?;
    if foreign(&found.user) {
        return Err(problem::unknown_request());
    }
    let pending = RequestBody::pending(&request_id, &found.campaign, &found.user);
    match &found.status {
        RequestStatus::Decided(answer) => {
            let decided = pending.decided(answer).ok_or_else(no_request)?;
            Ok(views::json(StatusCode::OK, &decided))
        }
        RequestStatus::Pending { queue_ahead } => {
            let mut response = views::json(StatusCode::ACCEPTED, &pending.behind(*queue_ahead));
            response.headers_mut().insert(header::RETRY_AFTER, PENDING_RETRY);
            Ok(response)
        }
    }
}

async fn list(State(edge): State<Arc<PublicState>>, uri: Uri) -> Result<Response, Problem> {
    page(&*edge.service, &uri).await
}

/// A page of campaigns, alike on both listeners.
pub(super) async fn page(service: &dyn Service, uri: &Uri) -> Result<Response, Problem> {
    let mut query = query(uri, &["limit", "after"])?;
    let limit = query.optional("limit", fields::digits(1..=PAGE_MAX as u64));
    let after = query.optional("after", fields::campaign_id);
    query.finish()?;
    let limit = limit.map_or(PAGE_DEFAULT, |limit| usize::try_from(limit).unwrap_or(PAGE_MAX));
    let found = service.campaigns(after.as_ref(), limit + 1).await?;
    let shown = found.get(..limit).unwrap_or(&found);
    let next = if found.len() > limit { shown.last() } else { None };
    let campaigns = shown.iter().map(CampaignBody::from).collect();
    let body = CampaignsBody { campaigns, next: next.map(|last| &last.campaign) };
    Ok(views::json(StatusCode::OK, &body))
}

async fn campaign(
    State(edge): State<Arc<PublicState>>,
    path: PathOf<String>,
    uri: Uri,
) -> Result<Response, Problem> {
    let campaign = campaign_id(path)?;
    no_query(&uri)?;
    let view = edge.service.campaign(&campaign).await?;
    Ok(views::json(StatusCode::OK, &CampaignBody::from(&view)))
}

async fn coupons(
    State(edge): State<Arc<PublicState>>,
    path: PathOf<(String, String)>,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, Problem> {
    let caller = edge.caller.identify(&headers)?;
    let Path((campaign, user)) = path.map_err(|rejection| match undecodable(&rejection) {
        Some("user_id") => unknown_user(),
        _ => problem::unknown_campaign(),
    })?;
    let campaign = CampaignId::parse(&campaign).map_err(|_| problem::unknown_campaign())?;
    let user = UserId::parse(&user).map_err(|_| unknown_user())?;
    caller::acting_for(caller.as_ref(), &user)?;
    no_query(&uri)?;
    let coupons = edge.service.coupons_of(&campaign, &user).await?;
    let coupons = coupons.iter().map(CouponBody::from).collect();
    Ok(views::json(StatusCode::OK, &CouponsBody { coupons }))
}

/// The id in a path that is not UTF-8, if that is what is wrong with the path.
fn undecodable(rejection: &PathRejection) -> Option<&str> {
    let PathRejection::FailedToDeserializePathParams(failure) = rejection else { return None };
    match failure.kind() {
        ErrorKind::InvalidUtf8InPathParam { key } => Some(key),
        _ => None,
    }
}

/// No user can have this id.
fn unknown_user() -> Problem {
    let rule = UserId::RULE;
    Problem::new(Kind::UnknownUser, format!("the id of a user must be {rule}"))
}

async fn openapi() -> Response {
    let document = include_str!("openapi.json");
    ([(header::CONTENT_TYPE, "application/json")], document).into_response()
}

/// The campaign that a path names.
///
/// # Errors
/// 404 where no campaign can have that id.
pub(super) fn campaign_id(path: PathOf<String>) -> Result<CampaignId, Problem> {
    let Path(text) = path.map_err(|_| problem::unknown_campaign())?;
    CampaignId::parse(&text).map_err(|_| problem::unknown_campaign())
}

/// The parameters of a query. Unknown ones are refused like unknown fields: a misspelt `wait`
/// would otherwise not wait and not say why.
fn query(uri: &Uri, known: &'static [&'static str]) -> Result<Fields<'static>, Problem> {
    Ok(Fields::new(parameters(uri)?, "", known))
}

fn parameters(uri: &Uri) -> Result<Members<'static>, Problem> {
    let pairs = Query::<Vec<(String, String)>>::try_from_uri(uri);
    let Query(pairs) = pairs.map_err(|error| {
        let problem = Problem::new(Kind::Invalid, error.body_text());
        problem.blaming("query", "name=value pairs joined by &", "write it so")
    })?;
    let member = |(name, value): (String, String)| (name.into(), Member::Text(value.into()));
    Ok(pairs.into_iter().map(member).collect())
}

/// Refuses every parameter of a query where none is known.
///
/// # Errors
/// 422 that names each.
pub(super) fn no_query(uri: &Uri) -> Result<(), Problem> {
    no_parameter(uri, |_| "leave it out")
}

/// The same with a remedy for each.
fn no_parameter(uri: &Uri, remedy: impl Fn(&str) -> &'static str) -> Result<(), Problem> {
    match uri.query() {
        None => Ok(()),
        Some(_) => {
            let rule = "left out, this call takes no parameter";
            Fields::none(parameters(uri)?, rule, remedy).finish()
        }
    }
}

/// Where the coupons of a user in a campaign are. All that ids may hold stands in a path as it
/// is, except an id of dots alone, which would be resolved away.
fn coupons_url(campaign: &CampaignId, user: &UserId) -> String {
    let user = match user.as_str() {
        "." => "%2E",
        ".." => "%2E%2E",
        user => user,
    };
    format!("/campaigns/{campaign}/users/{user}/coupons")
}

/// The service answered a request with what only control records are answered: nothing is known of
/// the request itself.
fn no_request() -> Problem {
    Problem::new(Kind::OutcomeUnknown, "the position of the request holds no request")
}
