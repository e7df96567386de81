//! The admin listener: definitions and changes of campaigns, metrics, health.

use std::{sync::Arc, time::Instant};

use axum::{
    Extension, Router,
    body::Body,
    extract::{Path, Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};

use super::{
    HttpParts, RenderMetrics, basis,
    body::{self, ADMIN_BYTES_MAX},
    crash::{self, CrashActors},
    definition,
    guard::{Caller, Guard, NO_CLIENT},
    json,
    pages::Pages,
    problem::{Kind, Problem},
    public::{self, PathOf},
    server::Client,
    views::{AdminBody, HealthBody, PartBody, SecretBody, SkipBody},
};
use crate::{
    api::service::{CampaignView, ControlVerb, Service, ServiceError},
    config::Secret,
    domain::{
        definition::{Audience, Terms},
        ids::{CampaignId, Partition},
    },
    partition::actor_view::Crashed,
};

/// Paths that need no token: monitoring reads them.
const OPEN_PATHS: [&str; 3] = ["/metrics", "/health/live", "/health/ready"];

/// Content type of Prometheus' text format.
const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";

struct AdminState {
    service: Arc<dyn Service>,
    guard: Guard,
    pages: Pages,
    render_metrics: RenderMetrics,
    chaos: Option<Arc<dyn CrashActors>>,
    kept_secret: Option<Secret>,
}

/// Builds the routes of the admin listener. [`guard`] checks the token.
pub(super) fn routes(parts: &HttpParts) -> Router {
    let state = Arc::new(AdminState {
        service: Arc::clone(&parts.service),
        guard: Guard::new(&parts.admin_keys),
        pages: Pages::new(Audience::Admin),
        render_metrics: Arc::clone(&parts.render_metrics),
        chaos: parts.chaos.clone(),
        kept_secret: parts.kept_secret.clone(),
    });
    let router = Router::new()
        .route("/admin/campaigns", get(list))
        .route("/admin/campaigns/{campaign_id}", get(show).put(define).patch(amend))
        .route("/admin/partitions/{partition}/skip", post(skip))
        .route("/admin/campaigns/{campaign_id}/crash", post(crash_campaign))
        .route("/admin/partitions/{partition}/crash", post(crash_partition))
        .route("/admin/supervisor/crash", post(crash_supervisor))
        .route("/admin/changes", get(changes))
        .route("/admin/secret/export", post(export_secret))
        .route("/metrics", get(metrics))
        .route("/health/live", get(live))
        .route("/health/ready", get(ready));
    let router = ControlVerb::ALL.iter().fold(router, |router, verb| {
        let path = format!("/admin/campaigns/{{campaign_id}}/{}", verb.name());
        router.route(
            &path,
            post(move |state, caller, path, request| control(*verb, state, caller, path, request)),
        )
    });
    let router = super::with_fallbacks(router.with_state(Arc::clone(&state)));
    router.layer(middleware::from_fn_with_state(state, guard))
}

/// Checks token and right before anything else (INV-11). Without them, even an unknown path gets 401
/// or 403, so that status codes reveal nothing about campaigns.
async fn guard(State(state): State<Arc<AdminState>>, mut request: Request, next: Next) -> Response {
    let client = request.extensions().get().map_or(NO_CLIENT, |Client(client)| *client);
    if !OPEN_PATHS.contains(&request.uri().path()) {
        let admitted = state.guard.admit(request.headers(), client, Instant::now());
        let checked = admitted.and_then(|caller| {
            caller.check(request.method(), request.uri().path()).map(|()| caller)
        });
        match checked {
            Ok(caller) => request.extensions_mut().insert(caller),
            Err(problem) => return problem.into_response(),
        };
    }
    next.run(request).await
}

async fn list(State(state): State<Arc<AdminState>>, uri: Uri) -> Result<Response, Problem> {
    state.pages.page(&*state.service, &uri).await
}

async fn changes(State(state): State<Arc<AdminState>>, uri: Uri) -> Result<Response, Problem> {
    super::changes::page(&*state.service, &uri).await
}

async fn show(
    State(state): State<Arc<AdminState>>,
    path: PathOf<String>,
    uri: Uri,
) -> Result<Response, Problem> {
    let campaign = public::campaign_id(path)?;
    public::no_query(&uri)?;
    let view = state.service.admin_view(&campaign).await?;
    Ok(tagged(&AdminBody::from(&view), &view.view))
}

async fn define(
    State(state): State<Arc<AdminState>>,
    Extension(caller): Extension<Caller>,
    path: PathOf<String>,
    request: Request,
) -> Result<Response, Problem> {
    let campaign = public::new_campaign_id(path)?;
    let (head, body) = request.into_parts();
    public::no_query(&head.uri)?;
    let basis = basis::basis_of_definition(&head.headers)?;
    let body = body::read_json(&head.headers, body, ADMIN_BYTES_MAX).await?;
    let terms: Terms = definition::terms(&body)?;
    let location = HeaderValue::try_from(format!("/admin/campaigns/{campaign}"));
    let changed = state.service.define(campaign, terms, basis, &caller.name).await?;
    let mut response = tagged(&AdminBody::from(&changed), &changed.view);
    if changed.created {
        *response.status_mut() = StatusCode::CREATED;
        location.map(|location| response.headers_mut().insert(header::LOCATION, location)).ok();
    }
    Ok(response)
}

async fn amend(
    State(state): State<Arc<AdminState>>,
    Extension(caller): Extension<Caller>,
    path: PathOf<String>,
    request: Request,
) -> Result<Response, Problem> {
    let basis = basis::basis(request.headers());
    let (campaign, amendment) = change(&state, path, request, async |headers, body| {
        definition::amendment(&body::read_json(headers, body, ADMIN_BYTES_MAX).await?)
    })
    .await?;
    let changed = state.service.amend(&campaign, amendment, basis, &caller.name).await?;
    Ok(tagged(&AdminBody::from(&changed), &changed.view))
}

/// Makes the coupon actor of a campaign panic. Rights are checked first, then existence.
async fn crash_campaign(
    State(state): State<Arc<AdminState>>,
    path: PathOf<String>,
    request: Request,
) -> Result<Response, Problem> {
    let chaos = crash::allowed(state.chaos.as_deref())?;
    let (campaign, ()) = change(&state, path, request, read_nothing).await?;
    state.service.campaign(&campaign).await?;
    crash::run(chaos, Crashed::Coupon(campaign)).await
}

/// Makes the consumer of a partition panic.
async fn crash_partition(
    State(state): State<Arc<AdminState>>,
    path: PathOf<Partition>,
    request: Request,
) -> Result<Response, Problem> {
    let chaos = crash::allowed(state.chaos.as_deref())?;
    let partition = partition_of(&state, path)?;
    nothing(request).await?;
    crash::run(chaos, Crashed::Consumer(partition)).await
}

/// Makes the supervisor panic: the node ends.
async fn crash_supervisor(
    State(state): State<Arc<AdminState>>,
    request: Request,
) -> Result<Response, Problem> {
    let chaos = crash::allowed(state.chaos.as_deref())?;
    nothing(request).await?;
    crash::run(chaos, Crashed::Supervisor).await
}

async fn control(
    verb: ControlVerb,
    State(state): State<Arc<AdminState>>,
    Extension(caller): Extension<Caller>,
    path: PathOf<String>,
    request: Request,
) -> Result<Response, Problem> {
    let basis = basis::basis(request.headers());
    let (campaign, ()) = change(&state, path, request, read_nothing).await?;
    let view = state.service.control(&campaign, verb, basis, &caller.name).await?;
    Ok(tagged(&AdminBody::from(&view), &view))
}

/// Answers with a campaign and the tag of its version. `Cache-Control` keeps the tag from caches.
fn tagged(body: &AdminBody<'_>, view: &CampaignView) -> Response {
    let mut response = json::answer(StatusCode::OK, body);
    response.headers_mut().insert(header::ETAG, basis::tag(view));
    response
}

/// Makes a skip. Existence is checked before the body, as everywhere.
async fn skip(
    State(state): State<Arc<AdminState>>,
    Extension(caller): Extension<Caller>,
    path: PathOf<Partition>,
    request: Request,
) -> Result<Response, Problem> {
    let partition = partition_of(&state, path)?;
    let (head, body) = request.into_parts();
    public::no_query(&head.uri)?;
    let body = body::read_json(&head.headers, body, ADMIN_BYTES_MAX).await?;
    let (offset, reason) = definition::skip(&body)?;
    let skip = state.service.skip(partition, offset, reason, &caller.name).await?;
    Ok(json::answer(StatusCode::OK, &SkipBody::from(&skip)))
}

fn partition_of(state: &AdminState, path: PathOf<Partition>) -> Result<Partition, Problem> {
    let known = path.ok().filter(|Path(number)| *number < state.service.partition_count());
    Ok(known.ok_or(ServiceError::UnknownPartition)?.0)
}

/// Refuses a body: a `close` with a date, for example, would otherwise close at once.
async fn read_nothing(headers: &HeaderMap, body: Body) -> Result<(), Problem> {
    definition::nothing(&body::read(headers, body, ADMIN_BYTES_MAX).await?)
}

/// Refuses a query and a body.
async fn nothing(request: Request) -> Result<(), Problem> {
    let (head, body) = request.into_parts();
    let read = read_nothing(&head.headers, body).await;
    public::no_query(&head.uri).and(read)
}

/// Reads the campaign of a call without a query, and its body by `read`.
async fn change<T>(
    state: &AdminState,
    path: PathOf<String>,
    request: Request,
    read: impl AsyncFnOnce(&HeaderMap, Body) -> Result<T, Problem>,
) -> Result<(CampaignId, T), Problem> {
    let campaign = public::campaign_id(path)?;
    let (head, body) = request.into_parts();
    let value = read(&head.headers, body).await;
    match public::no_query(&head.uri).and(value) {
        Ok(value) => Ok((campaign, value)),
        Err(problem) => Err(unless_unknown(state, &campaign, problem).await),
    }
}

/// Returns `fault`, unless the campaign is unknown: existence is checked before query and body. A
/// valid request skips this read, because the service checks existence itself.
async fn unless_unknown(state: &AdminState, campaign: &CampaignId, fault: Problem) -> Problem {
    match state.service.campaign(campaign).await {
        Ok(_) => fault,
        Err(error) => error.into(),
    }
}

/// Answers with the secret of the instance. An operator keeps it in a file from then on.
async fn export_secret(
    State(state): State<Arc<AdminState>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, Problem> {
    nothing(request).await?;
    let Some(secret) = &state.kept_secret else {
        let detail =
            "the node has its secret from secret.key_file or secret.key: copy it from there";
        return Err(Problem::new(Kind::SecretConfigured, detail));
    };
    tracing::warn!(by = %caller.name, "the secret of the instance was exported");
    Ok(json::answer(StatusCode::OK, &SecretBody { secret: secret.expose() }))
}

async fn metrics(State(state): State<Arc<AdminState>>) -> Response {
    let text = (state.render_metrics)();
    ([(header::CONTENT_TYPE, EXPOSITION)], text).into_response()
}

async fn live() -> Response {
    json::answer(StatusCode::OK, &HealthBody { status: "live", degraded: Vec::new() })
}

async fn ready(State(state): State<Arc<AdminState>>) -> Result<Response, Problem> {
    let (not_ready, degraded) = (state.service.not_ready(), state.service.degraded());
    if not_ready.is_empty() {
        let degraded = degraded.iter().map(PartBody::of).collect();
        return Ok(json::answer(StatusCode::OK, &HealthBody { status: "ready", degraded }));
    }
    Err(Problem::not_ready(not_ready, degraded))
}
