//! The admin listener: rights are checked first, then existence, then the body.

use super::*;
use crate::domain::rows::{Hold, HoldKind, HoldState};

const SPRING: &str = "/admin/campaigns/spring";

const BODY: &str = concat!(
    r#"{"campaign_id":"spring","state":"open","quota":100,"per_user_limit":1,"#,
    r#""opens_at":"2026-11-27T12:00:00.123Z","closes_at":null,"#,
    r#""issued":17,"remaining":83,"as_of":{"log_epoch":1,"partition":2,"offset":40},"#,
    r#""listed":true,"code":{"prefix":"","length":26,"charset":"0123456789ABCDEFGHJKMNPQRSTVWXYZ"}}"#
);

/// The body of the same campaign on the public listener.
const PUBLIC_BODY: &str = concat!(
    r#"{"campaign_id":"spring","state":"open","quota":100,"per_user_limit":1,"#,
    r#""opens_at":"2026-11-27T12:00:00.123Z","closes_at":null,"#,
    r#""issued":17,"remaining":83,"as_of":{"log_epoch":1,"partition":2,"offset":40}}"#
);

async fn ask(site: &Site, method: &str, path: &str, body: &str) -> Reply {
    site.admin(admitted(send(method, path, body.to_owned()))).await
}

fn refusing(refused: ServiceError) -> Script {
    Script {
        campaign: Err(refused.clone()),
        campaigns: Err(refused.clone()),
        define: Err(refused.clone()),
        change: Err(refused.clone()),
        admin_view: Err(refused),
        ..Script::default()
    }
}

#[tokio::test]
async fn without_a_token_everything_is_401() {
    let site = Site::new(Script::default());
    for (method, path) in [
        ("GET", "/admin/campaigns"),
        ("GET", "/admin/campaigns?limit=0"),
        ("GET", SPRING),
        ("PUT", SPRING),
        ("PATCH", SPRING),
        ("DELETE", SPRING),
        ("POST", "/admin/campaigns/spring/pause"),
        ("POST", "/admin/campaigns/spring/resume"),
        ("POST", "/admin/campaigns/spring/close"),
        ("POST", "/admin/campaigns/spring/release"),
        ("PUT", "/admin/campaigns/NOT-ONE"),
        ("GET", "/admin/nothing"),
        ("GET", "/admin"),
        ("GET", "/nothing"),
        ("GET", "/metrics/"),
        ("GET", "//metrics"),
        ("GET", "/%61dmin/campaigns"),
    ] {
        let reply = site.admin(send(method, path, "not json")).await;
        reply.problem(401, "no-token");
        assert_eq!(reply.header("www-authenticate"), Some("Bearer realm=\"coupond\""));
    }
    assert_eq!(site.service.asked(), Vec::<String>::new());
}

#[tokio::test]
async fn only_the_exact_token_admits() {
    let site = Site::new(Script::default());
    for value in ["Bearer s3cret-t0ken", "bearer s3cret-t0ken", "BEARER   s3cret-t0ken"] {
        let reply = site.admin(with(get(SPRING), &[("authorization", value)])).await;
        assert_eq!(reply.status, 200, "{value}");
    }
    for value in [
        "",
        "Bearer",
        "Bearer ",
        "Bearers3cret-t0ken",
        "s3cret-t0ken",
        "Basic s3cret-t0ken",
        "Bearer s3cret-t0keN",
        "Bearer s3cret-t0ken-and-more",
        "Bearer s3cret",
        "Bearer \u{e9}",
    ] {
        let reply = site.admin(with(get(SPRING), &[("authorization", value)])).await;
        reply.problem(401, "no-token");
    }
    let twice = admitted(admitted(get(SPRING)));
    site.admin(twice).await.problem(401, "no-token");
    let mut parts = parts(Arc::new(Script::default()), Identity::Trusted);
    parts.admin_keys = vec![AdminKey::owner("")];
    let nobody = with(get(SPRING), &[("authorization", "Bearer ")]);
    Reply::of(admin_router(&parts), nobody).await.problem(401, "no-token");
}

#[tokio::test]
async fn metrics_and_health_need_no_token() {
    let site = Site::new(Script::default());
    let reply = site.admin(get("/metrics")).await;
    assert_eq!((reply.status, reply.body.as_str()), (200, "coupond_waiters 0\n"));
    let exposition = "text/plain; version=0.0.4; charset=utf-8";
    assert_eq!(reply.header("content-type"), Some(exposition));
    site.admin(get("/health/live")).await.expect(200, r#"{"status":"live"}"#);
    site.admin(get("/health/ready")).await.expect(200, r#"{"status":"ready"}"#);
    let part = |part, reason: &str| NotReady { part, reason: reason.to_owned() };
    let not_ready = vec![part("log", "no broker answers"), part("store", "no quorum")];
    let site = Site::new(Script { not_ready, ..Script::default() });
    site.admin(get("/health/live")).await.expect(200, r#"{"status":"live"}"#);
    let reply = site.admin(get("/health/ready")).await;
    reply.problem(503, "not-ready");
    let document = concat!(
        r#"{"type":"/problems/not-ready","title":"Node not ready","status":503,"#,
        r#""detail":"not ready: log, store","#,
        r#""not_ready":[{"part":"log","reason":"no broker answers"},"#,
        r#"{"part":"store","reason":"no quorum"}]}"#,
    );
    assert_eq!(reply.body, document);
}

#[tokio::test]
async fn a_degraded_node_says_so_and_stays_ready() {
    let part = |part, reason: &str| NotReady { part, reason: reason.to_owned() };
    let script = |not_ready: Vec<NotReady>| Script {
        not_ready,
        degraded: vec![part("partitions", "partition 3 is halted: unreadable: a codec")],
        ..Script::default()
    };
    let listed = concat!(
        r#""degraded":[{"part":"partitions","#,
        r#""reason":"partition 3 is halted: unreadable: a codec"}]}"#
    );
    let reply = Site::new(script(Vec::new())).admin(get("/health/ready")).await;
    reply.expect(200, &format!(r#"{{"status":"ready",{listed}"#));
    let not_ready = script(vec![part("store", "no quorum")]);
    let reply = Site::new(not_ready).admin(get("/health/ready")).await;
    reply.problem(503, "not-ready");
    assert!(reply.body.ends_with(listed), "{}", reply.body);
}

#[tokio::test]
async fn a_new_definition_is_201_a_repeated_one_200() {
    let site = Site::new(Script::default());
    let reply = ask(&site, "PUT", SPRING, r#"{"quota":100}"#).await;
    reply.expect(201, BODY);
    assert_eq!(reply.header("location"), Some(SPRING));
    let terms = Terms::of(100);
    let spring = CampaignId::parse("spring").unwrap();
    assert_eq!(site.service.asked(), [format!("define {:?}", (&spring, &terms))]);
    let site = Site::new(Script { define: Ok((false, view("spring"))), ..Script::default() });
    let body = concat!(
        r#"{"quota":100000000,"per_user_limit":1000,"opens_at":"2026-11-27T12:00:00.123Z","#,
        r#""closes_at":"2026-11-28T00:00:00+09:00","title":"Fr\u00fchling","listed":false,"#,
        r#""code":{"prefix":"SALE-","length":20,"charset":"0123456789"}}"#,
    );
    let reply = ask(&site, "PUT", SPRING, body).await;
    reply.expect(200, BODY);
    assert_eq!(reply.header("location"), None);
    let charset = Some("0123456789".to_owned());
    let terms = Terms {
        quota: 100_000_000,
        per_user_limit: 1_000,
        opens_at: Some(NOON),
        closes_at: Some(Timestamp(1_795_791_600_000)),
        title: Some("Frühling".to_owned()),
        listed: false,
        code: CodeFormat::with(Some("SALE-".to_owned()), Some(20), charset),
    };
    assert_eq!(site.service.asked(), [format!("define {:?}", (&spring, &terms))]);
}

#[tokio::test]
async fn a_definition_at_fault_names_every_field() {
    let site = Site::new(Script::default());
    for (body, fields) in [
        ("{}", &["quota"][..]),
        (r#"{"quota":null}"#, &["quota"]),
        (r#"{"quota":100000001}"#, &["quota"]),
        (r#"{"quota":-1}"#, &["quota"]),
        (r#"{"quota":1.0}"#, &["quota"]),
        (r#"{"quota":"1"}"#, &["quota"]),
        (r#"{"quota":18446744073709551616}"#, &["quota"]),
        (r#"{"quota":1,"quota":1}"#, &["quota"]),
        (r#"{"quota":1,"per_user_limit":0}"#, &["per_user_limit"]),
        (r#"{"quota":1,"per_user_limit":1001}"#, &["per_user_limit"]),
        (r#"{"quota":1,"per_user_limit":70000}"#, &["per_user_limit"]),
        (r#"{"quota":1,"per_user_limit":null}"#, &["per_user_limit"]),
        (r#"{"quota":1,"opens_at":1795780800}"#, &["opens_at"]),
        (
            r#"{"quota":1,"opens_at":"noon","closes_at":"1969-12-31T00:00:00Z"}"#,
            &["opens_at", "closes_at"],
        ),
        (
            r#"{"quota":1,"opens_at":"2026-11-27T12:00:00Z","closes_at":"2026-11-27T12:00:00Z"}"#,
            &["closes_at"],
        ),
        (r#"{"quota":1,"title":""}"#, &["title"]),
        (r#"{"quota":1,"title":7}"#, &["title"]),
        (r#"{"quota":1,"title":"two\nlines"}"#, &["title"]),
        (r#"{"quota":1,"title":"\u0000"}"#, &["title"]),
        (r#"{"quota":1,"title":["a"]}"#, &["title"]),
        (r#"{"quota":1,"title":"a","title":"b"}"#, &["title"]),
        (r#"{"quota":1,"listed":"true"}"#, &["listed"]),
        (r#"{"quota":1,"listed":null}"#, &["listed"]),
        (r#"{"quota":1,"listed":1}"#, &["listed"]),
        (r#"{"quota":1,"state":"open"}"#, &["state"]),
        (r#"{"quota":1,"code":"A"}"#, &["code"]),
        (r#"{"quota":1,"code":null}"#, &["code"]),
        (r#"{"quota":1,"code":{"prefix":"sale"}}"#, &["code.prefix"]),
        (r#"{"quota":1,"code":{"prefix":"SEVENTEEN-LETTERS"}}"#, &["code.prefix"]),
        (r#"{"quota":1,"code":{"charset":"aab"}}"#, &["code.charset"]),
        (r#"{"quota":1,"code":{"charset":"a"}}"#, &["code.charset"]),
        (r#"{"quota":1,"code":{"charset":"a b"}}"#, &["code.charset"]),
        (r#"{"quota":1,"code":{"charset":"\u00e9a"}}"#, &["code.charset"]),
        (r#"{"quota":1,"code":{"charset":7,"length":12}}"#, &["code.charset"]),
        (r#"{"quota":1,"code":{"length":12}}"#, &["code.length"]),
        (r#"{"quota":1,"code":{"length":12,"group":4}}"#, &["code.length"]),
        (r#"{"quota":1,"code":{"group":0}}"#, &["code.group"]),
        (r#"{"quota":1,"code":{"group":129}}"#, &["code.group"]),
        (r#"{"quota":1,"code":{"group":"4"}}"#, &["code.group"]),
        (r#"{"quota":1,"code":{"length":129}}"#, &["code.length"]),
        (r#"{"quota":1,"code":{"length":0}}"#, &["code.length"]),
        (r#"{"quota":1,"code":{"length":70000}}"#, &["code.length"]),
        (r#"{"quota":1,"code":{"length":"12"}}"#, &["code.length"]),
        (r#"{"quota":1,"code":{"x":1,"prefix":"A","prefix":"B"}}"#, &["code.x", "code.prefix"]),
        (
            r#"{"x":0,"quota":"1","opens_at":"noon","code":{"length":1,"prefix":"-a"}}"#,
            &["x", "quota", "opens_at", "code.prefix", "code.length"],
        ),
    ] {
        assert_eq!(ask(&site, "PUT", SPRING, body).await.faults(), fields, "{body}");
    }
    for length in ["null", "\"20\"", "20.5", "-20"] {
        let body = format!(r#"{{"quota":1,"code":{{"length":{length}}}}}"#);
        let document = ask(&site, "PUT", SPRING, &body).await.problem(422, "invalid");
        let rule = "a whole number up to 128, of at least 64 bits with the charset";
        assert_eq!(document["errors"][0]["rule"], rule, "{length}");
    }
    let sound = r#"{"quota":1,"opens_at":null,"closes_at":null,"code":{}}"#;
    assert_eq!(ask(&site, "PUT", SPRING, sound).await.status, 201);
    assert_eq!(site.service.asked().len(), 1);
}

#[tokio::test]
async fn null_in_an_amendment_removes_an_end() {
    let site = Site::new(Script::default());
    let noon = Some(Some(NOON));
    for (body, amendment) in [
        (r#"{"quota":0}"#, Amendment { quota: Some(0), ..Amendment::default() }),
        (r#"{"per_user_limit":2}"#, Amendment { per_user_limit: Some(2), ..Amendment::default() }),
        (
            r#"{"opens_at":null,"closes_at":"2026-11-27T12:00:00.123Z"}"#,
            Amendment { opens_at: Some(None), closes_at: noon, ..Amendment::default() },
        ),
        (r#"{"closes_at":null}"#, Amendment { closes_at: Some(None), ..Amendment::default() }),
        (r#"{"listed":false}"#, Amendment { listed: Some(false), ..Amendment::default() }),
        (r#"{"title":null}"#, Amendment { title: Some(None), ..Amendment::default() }),
    ] {
        ask(&site, "PATCH", SPRING, body).await.expect(200, BODY);
        let asked = format!("amend (\"spring\", {amendment:?})");
        assert_eq!(site.service.asked().last(), Some(&asked));
    }
}

#[tokio::test]
async fn an_amendment_at_fault_names_every_field() {
    let site = Site::new(Script::default());
    for (body, fields) in [
        ("{}", &["quota", "per_user_limit", "opens_at", "closes_at", "title", "listed"][..]),
        (r#"{"title":""}"#, &["title"]),
        (r#"{"quota":null}"#, &["quota"]),
        (r#"{"quota":-1,"per_user_limit":1001}"#, &["quota", "per_user_limit"]),
        (r#"{"opens_at":0,"closes_at":"later"}"#, &["opens_at", "closes_at"]),
        (r#"{"code":{}}"#, &["code"]),
        (
            r#"{"opens_at":"2026-11-27T12:00:00Z","closes_at":"2026-11-27T11:00:00Z"}"#,
            &["closes_at"],
        ),
    ] {
        assert_eq!(ask(&site, "PATCH", SPRING, body).await.faults(), fields, "{body}");
        assert_eq!(site.service.asked().last(), Some(&"campaign \"spring\"".to_owned()));
    }
    ask(&site, "PATCH", SPRING, "{").await.problem(400, "not-json");
    let large = " ".repeat(4_097);
    ask(&site, "PATCH", SPRING, &large).await.problem(413, "body-too-large");
    ask(&site, "PUT", SPRING, &large).await.problem(413, "body-too-large");
    let untyped = with(get(SPRING), &[("authorization", "Bearer s3cret-t0ken")]);
    let (mut head, body) = untyped.into_parts();
    head.method = axum::http::Method::PATCH;
    let reply = site.admin(Request::from_parts(head, body)).await;
    reply.problem(415, "unsupported-media-type");
}

#[tokio::test]
async fn a_title_is_counted_in_characters() {
    let longest = "\\ud83c\\udf38".repeat(120);
    let titled = |title: &str| format!(r#"{{"quota":1,"title":"{title}"}}"#);
    let mut view = view("spring");
    view.definition.terms.title = Some("\u{1f338}".repeat(120));
    let script =
        Script { define: Ok((true, view.clone())), campaign: Ok(view), ..Script::default() };
    let site = Site::new(script);
    let reply = ask(&site, "PUT", SPRING, &titled(&longest)).await;
    assert_eq!(reply.status, 201, "{}", reply.body);
    let title = format!(r#""title":"{}""#, "\u{1f338}".repeat(120));
    assert!(reply.body.contains(&title), "{}", reply.body);
    let shown = site.public(get("/campaigns/spring")).await;
    assert!(shown.body.contains(&title), "{}", shown.body);
    let asked = site.service.asked().len();
    let reply = ask(&site, "PUT", SPRING, &titled(&format!("{longest}a"))).await;
    let expected = r#"[{"field":"title","rule":"1 to 120 characters","remedy":"shorten it, or leave it out"}]"#;
    reply.problem(422, "invalid");
    assert!(reply.body.contains(expected), "{}", reply.body);
    assert_eq!(site.service.asked().len(), asked);
}

#[tokio::test]
async fn existence_comes_before_the_body() {
    let site = Site::new(refusing(ServiceError::UnknownCampaign));
    for body in ["{}", "{", r#"{"quota":-1}"#, r#"{"quota":1}"#, &" ".repeat(4_097)] {
        ask(&site, "PATCH", SPRING, body).await.problem(404, "unknown-campaign");
    }
    for (method, path) in [
        ("GET", SPRING),
        ("POST", "/admin/campaigns/spring/pause"),
        ("POST", "/admin/campaigns/spring/release"),
    ] {
        ask(&site, method, path, "{").await.problem(404, "unknown-campaign");
    }
    let asked = site.service.asked().len();
    for (method, path) in [
        ("GET", "/admin/campaigns/NOT"),
        ("PATCH", "/admin/campaigns/NOT"),
        ("POST", "/admin/campaigns/NOT/close"),
        ("POST", "/admin/campaigns/%ff/release"),
    ] {
        ask(&site, method, path, "{").await.problem(404, "unknown-campaign");
    }
    assert_eq!(site.service.asked().len(), asked);
    ask(&site, "GET", "/admin/nothing", "").await.problem(404, "not-found");
}

#[tokio::test]
async fn control_verbs_take_no_query_and_no_body() {
    let site = Site::new(Script::default());
    for (verb, asked) in [
        ("pause", "control (\"spring\", Pause)"),
        ("resume", "control (\"spring\", Resume)"),
        ("close", "control (\"spring\", Close)"),
        ("release", "control (\"spring\", Release)"),
    ] {
        for body in ["", " ", "{}"] {
            ask(&site, "POST", &format!("{SPRING}/{verb}"), body).await.expect(200, BODY);
            assert_eq!(site.service.asked().last().map(String::as_str), Some(asked));
        }
        let bare = admitted(get(&format!("{SPRING}/{verb}")));
        let (mut head, body) = bare.into_parts();
        head.method = axum::http::Method::POST;
        assert_eq!(site.admin(Request::from_parts(head, body)).await.status, 200);
        let path = format!("{SPRING}/{verb}");
        let asked = site.service.asked().len();
        let reply = ask(&site, "POST", &path, r#"{"at":"2030-01-01T00:00:00Z","x":1,"x":2}"#).await;
        assert_eq!(reply.faults(), ["at", "x"]);
        assert_eq!(ask(&site, "POST", &path, "[]").await.faults(), ["body"]);
        assert_eq!(ask(&site, "POST", &format!("{path}?force=1"), "").await.faults(), ["force"]);
        ask(&site, "POST", &path, "anything").await.problem(400, "not-json");
        ask(&site, "POST", &path, &" ".repeat(4_097)).await.problem(413, "body-too-large");
        let only_existence = vec!["campaign \"spring\"".to_owned(); 5];
        assert_eq!(site.service.asked()[asked..], only_existence);
    }
}

#[tokio::test]
async fn errors_of_changes_have_status_and_type() {
    let reason = "the log and the store contradict each other".to_owned();
    let detail = "the change".to_owned();
    for (refused, status, kind, issued) in [
        (ServiceError::OtherCode, 409, "other-code", None),
        (ServiceError::QuotaBelowIssued { issued: 17 }, 409, "quota-below-issued", Some(17)),
        (ServiceError::CampaignClosed, 409, "closed", None),
        (ServiceError::NotReleasable { reason: "trimmed".to_owned() }, 409, "not-releasable", None),
        (ServiceError::Halted { reason }, 503, "halted", None),
        (ServiceError::OutcomeUnknown { detail: detail.clone() }, 503, "outcome-unknown", None),
        (ServiceError::Unavailable { detail }, 503, "unavailable", None),
        (ServiceError::Invalid(Vec::new()), 422, "invalid", None),
    ] {
        let site = Site::new(refusing(refused));
        for (method, path, body) in [
            ("PUT", SPRING, r#"{"quota":1}"#),
            ("PATCH", SPRING, r#"{"quota":1}"#),
            ("POST", "/admin/campaigns/spring/resume", ""),
            ("POST", "/admin/campaigns/spring/release", ""),
        ] {
            let document = ask(&site, method, path, body).await.problem(status, kind);
            assert_eq!(document["issued"].as_u64(), issued, "{kind}");
            assert!(document.get("coupons").is_none(), "{kind}");
        }
    }
}

#[tokio::test]
async fn an_admin_view_has_actor_and_hold() {
    let shown = |rest: &str| format!("{}{rest}}}", BODY.strip_suffix('}').unwrap());
    let site = Site::new(Script::default());
    let reply = ask(&site, "GET", SPRING, "").await;
    reply.expect(200, &shown(r#","actor":{"state":"live","reason":null}"#));
    let hold = Hold {
        campaign: CampaignId::parse("spring").unwrap(),
        partition: 2,
        from: 31,
        number: 1,
        kind: HoldKind::Contradiction,
        reason: "row 18 is missing".to_owned(),
        state: HoldState::Open,
        until: 0,
    };
    let actor = ActorView { state: "quarantined", reason: Some("see hold".to_owned()) };
    let quarantined =
        CampaignView { state: CampaignState::Quarantined, hold: Some(hold), ..view("spring") };
    let admin = AdminView { view: quarantined.clone(), actor, not_releasable: None };
    let stuck = AdminView { not_releasable: Some("trimmed".to_owned()), ..admin.clone() };
    let site = Site::new(Script { admin_view: Ok(stuck), ..Script::default() });
    let reply = ask(&site, "GET", SPRING, "").await;
    let reason = r#""reason":"row 18 is missing; it cannot be released: trimmed""#;
    assert!(reply.body.contains(reason), "{}", reply.body);
    let site = Site::new(Script {
        campaign: Ok(quarantined.clone()),
        change: Ok(quarantined),
        admin_view: Ok(admin),
        ..Script::default()
    });
    let hold = r#","hold":{"kind":"contradiction","from":31,"reason":"row 18 is missing"}"#;
    let actor = r#","actor":{"state":"quarantined","reason":"see hold"}"#;
    let body = |rest: &str| shown(rest).replace(r#""open""#, r#""quarantined""#);
    let reply = ask(&site, "GET", SPRING, "").await;
    reply.expect(200, &body(&format!("{actor}{hold}")));
    let reply = ask(&site, "POST", &format!("{SPRING}/release"), "").await;
    reply.expect(200, &body(hold));
    let public = site.public(get("/campaigns/spring")).await;
    public.expect(200, &PUBLIC_BODY.replace(r#""open""#, r#""quarantined""#));
}

const SKIP: &str = "/admin/partitions/1/skip";

#[tokio::test]
async fn a_skip_is_made_and_told() {
    let site = Site::new(Script::default());
    site.admin(send("POST", SKIP, "{}")).await.problem(401, "no-token");
    let body = r#"{"offset":100,"reason":"a disk was lost"}"#;
    let told = concat!(
        r#"{"partition":1,"from":100,"to":110,"state":"made","reason":"a disk was lost","#,
        r#""by":"token"}"#
    );
    ask(&site, "POST", SKIP, body).await.expect(200, told);
    assert_eq!(site.service.asked(), [r#"skip (1, 100, "a disk was lost", "token")"#]);
    for path in ["/admin/partitions/3/skip", "/admin/partitions/x/skip"] {
        ask(&site, "POST", path, "no body").await.problem(404, "unknown-partition");
    }
    ask(&site, "GET", SKIP, "").await.problem(405, "method-not-allowed");
    ask(&site, "POST", SKIP, "no body").await.problem(400, "not-json");
    let long = format!(r#"{{"offset":1,"reason":"{}"}}"#, "r".repeat(201));
    for (body, faults) in [
        ("{}", &["offset", "reason"][..]),
        (r#"{"offset":-1,"reason":"  "}"#, &["offset", "reason"]),
        (r#"{"offset":"1","reason":"a\nb"}"#, &["offset", "reason"]),
        (r#"{"offset":1,"reason":"r","to":5}"#, &["to"]),
        (long.as_str(), &["reason"]),
    ] {
        assert_eq!(ask(&site, "POST", SKIP, body).await.faults(), faults, "{body}");
    }
}

#[tokio::test]
async fn a_range_that_was_read_is_a_conflict() {
    let refuse = |campaign: Option<&str>, offset| ServiceError::NotSkippable {
        detail: "why".to_owned(),
        campaign: campaign.map(|id| CampaignId::parse(id).unwrap()),
        offset,
    };
    let body = r#"{"offset":100,"reason":"lost"}"#;
    for (campaign, offset) in [(Some("spring"), Some(105)), (None, Some(105)), (None, None)] {
        let skip = Err(refuse(campaign, offset));
        let site = Site::new(Script { skip, ..Script::default() });
        let problem = ask(&site, "POST", SKIP, body).await.problem(409, "not-skippable");
        assert_eq!(problem["campaign_id"].as_str(), campaign);
        assert_eq!(problem["offset"].as_u64(), offset);
    }
}
