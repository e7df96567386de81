//! Tests of both listeners through their routers, on a scripted service.

mod admin;
mod basis;
mod changes;
mod cors;
mod crash;
mod fuzz;
mod identity;
mod issue;
mod issue_input;
mod reading;
mod roles;
mod schemas;
mod sockets;

use std::{collections::BTreeMap, fmt::Debug, sync::Arc, time::Duration};

use async_trait::async_trait;
use axum::{
    Router,
    body::{Body, to_bytes},
    http::{HeaderMap, HeaderValue, Request, header, request},
};
use parking_lot::Mutex;
use serde_json::Value;
use tower::ServiceExt;

use super::{HttpParts, admin_router, public_router};
use crate::{
    api::service::{
        AdminView, Basis, CampaignList, CampaignState, CampaignView, ChangeCampaigns, ChangePage,
        Changed, ControlVerb, FindRequests, Freshen, IssueCoupons, IssueReply, ListChanges,
        NotReady, ReportHealth, RequestStatus, RequestView, ServiceError, ShowCampaigns,
        SkipRanges, UserCoupons,
    },
    config::{AdminKey, ApiConfig, Identity, OWNER_NAME, Origins},
    domain::{
        answer::{Answer, CouponFace},
        code::CodeFormat,
        definition::{Amendment, Definition, Terms},
        identity_fold::IdentityFold,
        ids::{CampaignId, Offset, Partition, Position, Timestamp, UserId},
        reason::Reason,
        record::Request as IssueRequest,
        rows::{Skip, SkipState},
    },
    partition::actor_view::ActorView,
};

/// The admin token of these tests.
pub(super) const TOKEN: &str = "s3cret-t0ken";

/// 2026-11-27T12:00:00.123Z
pub(super) const NOON: Timestamp = Timestamp(1_795_780_800_123);

/// A service whose answers are set by the test. It records its calls.
pub(super) struct Script {
    pub(super) issue: Result<IssueReply, ServiceError>,
    pub(super) find: Result<RequestView, ServiceError>,
    pub(super) campaign: Result<CampaignView, ServiceError>,
    pub(super) campaigns: Result<Vec<CampaignView>, ServiceError>,
    pub(super) coupons_of: Result<Vec<CouponFace>, ServiceError>,
    pub(super) define: Result<(bool, CampaignView), ServiceError>,
    pub(super) change: Result<CampaignView, ServiceError>,
    pub(super) warnings: Vec<String>,
    pub(super) admin_view: Result<AdminView, ServiceError>,
    pub(super) skip: Result<Skip, ServiceError>,
    pub(super) changes: Result<ChangePage, ServiceError>,
    pub(super) not_ready: Vec<NotReady>,
    pub(super) degraded: Vec<NotReady>,
    asked: Mutex<Vec<String>>,
}

impl Default for Script {
    fn default() -> Self {
        let view = view("spring");
        let actor = ActorView { state: "live", reason: None };
        Self {
            issue: Ok(IssueReply { request_id: "r-1".into(), answer: None, waited: true }),
            find: Ok(found("u1", RequestStatus::Pending { queue_ahead: 7 })),
            campaign: Ok(view.clone()),
            campaigns: Ok(vec![view.clone()]),
            coupons_of: Ok(vec![coupon(3), coupon(17)]),
            define: Ok((true, view.clone())),
            change: Ok(view.clone()),
            warnings: Vec::new(),
            admin_view: Ok(AdminView { view, actor, not_releasable: None }),
            skip: Ok(Skip {
                partition: 1,
                from: 100,
                to: 110,
                reason: "a disk was lost".to_owned(),
                by: "token".to_owned(),
                state: SkipState::Made,
            }),
            changes: Ok(ChangePage { changes: Vec::new(), next: None }),
            not_ready: Vec::new(),
            degraded: Vec::new(),
            asked: Mutex::default(),
        }
    }
}

impl Script {
    fn ask(&self, call: &str, with: impl Debug) {
        self.asked.lock().push(format!("{call} {with:?}"));
    }

    /// Notes what a change is based on, if a header says so, and who makes it.
    fn ask_on(&self, basis: Basis, by: &str) {
        if by != OWNER_NAME {
            self.ask("by", by);
        }
        if basis != Basis::InEffect {
            self.ask("on", basis);
        }
    }

    /// Returns the calls so far, one line each.
    pub(super) fn asked(&self) -> Vec<String> {
        self.asked.lock().clone()
    }
}

#[async_trait]
impl IssueCoupons for Script {
    async fn issue(
        &self,
        request: IssueRequest,
        wait: Option<Duration>,
    ) -> Result<IssueReply, ServiceError> {
        let key = request.idempotency_key;
        self.ask("issue", (request.campaign, request.user, key, wait));
        self.issue.clone()
    }
}

#[async_trait]
impl FindRequests for Script {
    async fn find(
        &self,
        request_id: &str,
        caller: Option<&UserId>,
        wait: Duration,
    ) -> Result<RequestView, ServiceError> {
        self.ask("find", (request_id, wait));
        let found = self.find.clone()?;
        let is_foreign = caller.is_some_and(|caller| *caller != found.user);
        if is_foreign { Err(ServiceError::AnotherUser) } else { Ok(found) }
    }
}

#[async_trait]
impl ShowCampaigns for Script {
    async fn campaign(&self, campaign: &CampaignId) -> Result<CampaignView, ServiceError> {
        self.ask("campaign", campaign);
        self.campaign.clone()
    }

    async fn campaigns(&self) -> Result<Arc<CampaignList>, ServiceError> {
        self.ask("campaigns", ());
        self.campaigns.clone().map(|campaigns| Arc::new(CampaignList(campaigns)))
    }

    fn freshen(&self) -> Freshen {
        Arc::new(|_| None)
    }

    async fn coupons_of(
        &self,
        campaign: &CampaignId,
        user: &UserId,
    ) -> Result<UserCoupons, ServiceError> {
        self.ask("coupons_of", (campaign, user));
        let as_of = Position { log_epoch: 1, partition: 3, offset: 42 };
        self.coupons_of.clone().map(|coupons| UserCoupons { coupons, as_of })
    }

    async fn admin_view(&self, campaign: &CampaignId) -> Result<AdminView, ServiceError> {
        self.ask("admin_view", campaign);
        self.admin_view.clone()
    }
}

#[async_trait]
impl SkipRanges for Script {
    fn partition_count(&self) -> u32 {
        3
    }

    async fn skip(
        &self,
        partition: Partition,
        offset: Offset,
        reason: String,
        by: &str,
    ) -> Result<Skip, ServiceError> {
        self.ask("skip", (partition, offset, reason, by));
        self.skip.clone()
    }
}

#[async_trait]
impl ChangeCampaigns for Script {
    async fn define(
        &self,
        campaign: CampaignId,
        terms: Terms,
        basis: Basis,
        by: &str,
    ) -> Result<Changed, ServiceError> {
        self.ask_on(basis, by);
        self.ask("define", (campaign, terms));
        let warnings = self.warnings.clone();
        self.define.clone().map(|(created, view)| Changed { created, view, warnings })
    }

    async fn amend(
        &self,
        campaign: &CampaignId,
        amendment: Amendment,
        basis: Basis,
        by: &str,
    ) -> Result<Changed, ServiceError> {
        self.ask_on(basis, by);
        self.ask("amend", (campaign, amendment));
        let warnings = self.warnings.clone();
        self.change.clone().map(|view| Changed { created: false, view, warnings })
    }

    async fn control(
        &self,
        campaign: &CampaignId,
        verb: ControlVerb,
        basis: Basis,
        by: &str,
    ) -> Result<CampaignView, ServiceError> {
        self.ask_on(basis, by);
        self.ask("control", (campaign, verb));
        self.change.clone()
    }
}

#[async_trait]
impl ListChanges for Script {
    async fn changes(
        &self,
        campaign: Option<&CampaignId>,
        after: BTreeMap<Partition, Offset>,
        limit: usize,
    ) -> Result<ChangePage, ServiceError> {
        self.ask("changes", (campaign, after, limit));
        self.changes.clone()
    }
}

impl ReportHealth for Script {
    fn not_ready(&self) -> Vec<NotReady> {
        self.not_ready.clone()
    }

    fn degraded(&self) -> Vec<NotReady> {
        self.degraded.clone()
    }
}

/// Returns the view of an open campaign: 17 of 100 coupons issued.
pub(super) fn view(campaign: &str) -> CampaignView {
    let opens_at = Some(NOON);
    let terms = Terms { opens_at, ..Terms::of(100) };
    CampaignView {
        campaign: CampaignId::parse(campaign).unwrap(),
        state: CampaignState::Open,
        definition: Definition::first(terms),
        issued: 17,
        remaining: 83,
        as_of: Position { log_epoch: 1, partition: 2, offset: 40 },
        version: 3,
        hold: None,
    }
}

pub(super) fn coupon(sequence: u32) -> CouponFace {
    CouponFace { sequence, code: format!("SALE-{sequence}").into(), issued_at: NOON }
}

pub(super) fn found(user: &str, status: RequestStatus) -> RequestView {
    let campaign = CampaignId::parse("spring").unwrap();
    RequestView { campaign, user: UserId::parse(user).unwrap(), status }
}

/// Returns every decision of a request, with the members of its JSON that follow the user.
pub(super) fn decisions() -> Vec<(Answer, String)> {
    let shown =
        r#""coupon":{"sequence":17,"code":"SALE-17","issued_at":"2026-11-27T12:00:00.123Z"}"#;
    let issued = format!(r#""status":"issued",{shown}"#);
    let already = format!(r#""status":"already_issued",{shown}"#);
    let mut decisions = vec![
        (Answer::Issued { coupon: coupon(17) }, issued),
        (Answer::AlreadyIssued { coupon: coupon(17) }, already),
    ];
    decisions.extend(Reason::ALL.map(|reason| {
        let told = format!(r#""status":"rejected","reason":"{}""#, reason.name());
        (Answer::Rejected { reason }, told)
    }));
    decisions
}

pub(super) fn parts(service: Arc<Script>, identity: Identity) -> HttpParts {
    let api = ApiConfig { identity, waiters_max: 10, ..ApiConfig::default() };
    HttpParts {
        service,
        api,
        identity_fold: IdentityFold::None,
        verifier: None,
        admin_keys: vec![AdminKey::owner(TOKEN)],
        render_metrics: Arc::new(|| "coupond_waiters 0\n".to_owned()),
        kept_secret: None,
        chaos: None,
    }
}

/// Both routers on one service.
pub(super) struct Site {
    pub(super) service: Arc<Script>,
    public: Router,
    admin: Router,
}

impl Site {
    pub(super) fn new(service: Script) -> Self {
        Self::of(service, Identity::Trusted)
    }

    /// Builds a site where the header `X-User` names the user.
    pub(super) fn behind_gateway(service: Script) -> Self {
        Self::of(service, Identity::Header("X-User".to_owned()))
    }

    fn of(service: Script, identity: Identity) -> Self {
        let service = Arc::new(service);
        Self::from(parts(Arc::clone(&service), identity), service)
    }

    /// Builds a site from these parts, of which `service` is one.
    pub(super) fn from(parts: HttpParts, service: Arc<Script>) -> Self {
        Self { service, public: public_router(&parts), admin: admin_router(&parts) }
    }

    pub(super) async fn public(&self, request: Request<Body>) -> Reply {
        Reply::of(self.public.clone(), request).await
    }

    pub(super) async fn admin(&self, request: Request<Body>) -> Reply {
        Reply::of(self.admin.clone(), request).await
    }
}

/// A response.
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: String,
}

impl Reply {
    async fn of(router: Router, request: Request<Body>) -> Self {
        let response = router.oneshot(request).await.unwrap();
        let (head, body) = response.into_parts();
        let body = to_bytes(body, usize::MAX).await.unwrap();
        let body = String::from_utf8(body.to_vec()).unwrap();
        Self { status: head.status.as_u16(), headers: head.headers, body }
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    #[track_caller]
    pub(super) fn expect(&self, status: u16, body: &str) {
        assert_eq!((self.status, self.body.as_str()), (status, body));
        assert_eq!(self.header("content-type"), Some("application/json"));
        assert_eq!(self.header("cache-control"), Some("no-store"));
    }

    /// Asserts a problem of this type with any detail, and returns the document.
    #[track_caller]
    pub(super) fn problem(&self, status: u16, kind: &str) -> Value {
        let document: Value = serde_json::from_str(&self.body)
            .unwrap_or_else(|_| panic!("{} {:?} is no problem", self.status, self.body));
        let is = (self.status, document["type"].as_str().unwrap_or_default());
        assert_eq!(is, (status, format!("/problems/{kind}").as_str()), "{document}");
        assert_eq!(document["status"], status);
        assert!(document["title"].as_str().is_some_and(|title| !title.is_empty()));
        assert!(document["detail"].as_str().is_some_and(|detail| !detail.is_empty()));
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        assert_eq!(self.header("cache-control"), Some("no-store"));
        document
    }

    /// Asserts a 422 and returns the invalid fields, in order.
    #[track_caller]
    pub(super) fn faults(&self) -> Vec<String> {
        self.blamed(422, "invalid")
    }

    /// Asserts a problem of this type and returns the invalid fields, in order.
    #[track_caller]
    pub(super) fn blamed(&self, status: u16, kind: &str) -> Vec<String> {
        let document = self.problem(status, kind);
        let errors = document["errors"].as_array().cloned().unwrap_or_default();
        for error in &errors {
            let told = |key: &str| error[key].as_str().is_some_and(|text| !text.is_empty());
            assert!(told("field") && told("rule") && told("remedy"), "{document}");
        }
        errors.iter().map(|error| error["field"].as_str().unwrap().to_owned()).collect()
    }
}

pub(super) fn get(path: &str) -> Request<Body> {
    request::Builder::new().uri(path).body(Body::empty()).unwrap()
}

/// Builds a request with a JSON body.
pub(super) fn send(method: &str, path: &str, body: impl Into<Body>) -> Request<Body> {
    let builder = request::Builder::new().method(method).uri(path);
    builder.header(header::CONTENT_TYPE, "application/json").body(body.into()).unwrap()
}

/// Adds headers to a request.
pub(super) fn with(mut request: Request<Body>, headers: &[(&'static str, &str)]) -> Request<Body> {
    for (name, value) in headers {
        let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
        request.headers_mut().append(*name, value);
    }
    request
}

/// Adds the admin token to a request.
pub(super) fn admitted(request: Request<Body>) -> Request<Body> {
    with(request, &[("authorization", &format!("Bearer {TOKEN}"))])
}

#[tokio::test]
async fn unknown_paths_and_methods_are_problems() {
    let site = Site::new(Script::default());
    for path in ["/", "/nothing", "/coupon", "/coupon/issue/", "/campaigns/", "/admin/campaigns"] {
        site.public(get(path)).await.problem(404, "not-found");
    }
    for (method, path, allow) in [
        ("GET", "/coupon/issue", "POST"),
        ("HEAD", "/coupon/issue", "POST"),
        ("PUT", "/coupon/issue", "POST"),
        ("POST", "/campaigns", "GET,HEAD"),
        ("DELETE", "/campaigns/spring", "GET,HEAD"),
        ("POST", "/coupon/requests/r-1", "GET,HEAD"),
        ("BREW", "/campaigns/spring/users/u1/coupons", "GET,HEAD"),
    ] {
        let reply = site.public(send(method, path, "{}")).await;
        assert_eq!((reply.status, reply.header("allow")), (405, Some(allow)), "{method} {path}");
        if method != "HEAD" {
            reply.problem(405, "method-not-allowed");
        }
    }
    for (method, path, allow) in [
        ("DELETE", "/admin/campaigns/spring", "GET,HEAD,PUT,PATCH"),
        ("GET", "/admin/campaigns/spring/pause", "POST"),
        ("POST", "/metrics", "GET,HEAD"),
    ] {
        let reply = site.admin(admitted(send(method, path, "{}"))).await;
        reply.problem(405, "method-not-allowed");
        assert_eq!(reply.header("allow"), Some(allow), "{method} {path}");
    }
    assert_eq!(site.service.asked(), Vec::<String>::new());
}

#[tokio::test]
async fn a_wrong_method_gets_the_allowed_ones() {
    let site = Site::new(Script::default());
    let reply = site.public(send("OPTIONS", "/coupon/issue", "")).await;
    assert_eq!((reply.status, reply.header("allow")), (405, Some("POST")));
    let reply = site.public(send("HEAD", "/campaigns/spring", "")).await;
    let full = site.public(get("/campaigns/spring")).await;
    assert_eq!((reply.status, reply.body.as_str()), (200, ""));
    let length = full.body.len().to_string();
    assert_eq!(reply.header("content-length"), Some(length.as_str()));
}
