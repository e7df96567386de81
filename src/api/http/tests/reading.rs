//! Reads on the public listener: request ids, campaigns, coupons.

use super::*;

const PENDING: &str = concat!(
    r#"{"request_id":"r-1","campaign_id":"spring","user_id":"u1","status":"pending","#,
    r#""queue_ahead":7}"#
);

const SPRING: &str = concat!(
    r#"{"campaign_id":"spring","state":"open","quota":100,"per_user_limit":1,"#,
    r#""opens_at":"2026-11-27T12:00:00.123Z","closes_at":null,"#,
    r#""issued":17,"remaining":83,"as_of":{"log_epoch":1,"partition":2,"offset":40}}"#
);

#[tokio::test]
async fn health_is_told_by_the_status_alone() {
    let site = Site::behind_gateway(Script::default());
    for path in ["/health/live", "/health/ready"] {
        let reply = site.public(get(path)).await;
        assert_eq!((reply.status, reply.body.as_str()), (200, ""), "{path}");
    }
    let not_ready = vec![NotReady { part: "request_log", reason: "a secret".to_owned() }];
    let site = Site::behind_gateway(Script { not_ready, ..Script::default() });
    assert_eq!(site.public(get("/health/live")).await.status, 200);
    let reply = site.public(get("/health/ready")).await;
    assert_eq!((reply.status, reply.body.as_str()), (503, ""));
    assert_eq!(reply.header("retry-after"), Some("1"));
    assert_eq!(reply.header("cache-control"), Some("no-store"));
}

#[tokio::test]
async fn an_id_gives_decision_or_queue_ahead() {
    let site = Site::new(Script::default());
    let reply = site.public(get("/coupon/requests/r-1")).await;
    reply.expect(202, PENDING);
    assert_eq!(reply.header("retry-after"), Some("1"));
    for (answer, shown) in decisions() {
        let find = Ok(found("u1", RequestStatus::Decided(answer)));
        let site = Site::new(Script { find, ..Script::default() });
        let reply = site.public(get("/coupon/requests/r-1?wait=30")).await;
        let body =
            format!(r#"{{"request_id":"r-1","campaign_id":"spring","user_id":"u1",{shown}}}"#);
        reply.expect(200, &body);
        assert_eq!(site.service.asked(), ["find (\"r-1\", 30s)"]);
    }
}

#[tokio::test]
async fn a_wait_out_of_range_is_422() {
    let site = Site::new(Script::default());
    for (query, wait) in
        [("", "0ns"), ("?waits=7", "0ns"), ("?wait=7", "7s"), ("?wait=%37&a=1&a", "7s")]
    {
        assert_eq!(site.public(get(&format!("/coupon/requests/r-1{query}"))).await.status, 202);
        assert_eq!(site.service.asked().last(), Some(&format!("find (\"r-1\", {wait})")));
    }
    let asked = site.service.asked().len();
    for (query, field) in [
        ("wait=31", "wait"),
        ("wait=-1", "wait"),
        ("wait=%2B1", "wait"),
        ("wait=1.5", "wait"),
        ("wait=", "wait"),
        ("wait", "wait"),
        ("wait=soon", "wait"),
        ("wait=18446744073709551616", "wait"),
        ("wait=1&wait=1", "wait"),
    ] {
        let reply = site.public(get(&format!("/coupon/requests/r-1?{query}"))).await;
        assert_eq!(reply.faults(), [field], "{query}");
    }
    assert_eq!(site.service.asked().len(), asked);
}

#[tokio::test]
async fn an_impossible_id_is_404() {
    let site = Site::new(Script::default());
    let longest = format!("/coupon/requests/{}", "r".repeat(800));
    assert_eq!(site.public(get(&longest)).await.status, 202);
    let asked = site.service.asked().len();
    site.public(get(&format!("{longest}r"))).await.problem(404, "unknown-request");
    site.public(get("/coupon/requests/%ff")).await.problem(404, "unknown-request");
    for id in ["Spring", "-spring", "%ff", "a%2Fb", "..", &"a".repeat(65)] {
        site.public(get(&format!("/campaigns/{id}"))).await.problem(404, "unknown-campaign");
        let coupons = format!("/campaigns/{id}/users/u1/coupons");
        site.public(get(&coupons)).await.problem(404, "unknown-campaign");
    }
    for user in ["u%201", "%C3%A9", "%ff", "%2E", &"u".repeat(256)] {
        let coupons = format!("/campaigns/spring/users/{user}/coupons");
        site.public(get(&coupons)).await.problem(404, "unknown-user");
    }
    assert_eq!(site.service.asked().len(), asked);
}

#[tokio::test]
async fn service_errors_reach_every_reader() {
    let detail = "the store".to_owned();
    for (refused, status, kind) in [
        (ServiceError::UnknownCampaign, 404, "unknown-campaign"),
        (ServiceError::UnknownRequest, 404, "unknown-request"),
        (ServiceError::NotDecided, 410, "not-decided"),
        (ServiceError::Skipped, 410, "not-decided"),
        (ServiceError::Unavailable { detail }, 503, "unavailable"),
    ] {
        let site = Site::new(Script {
            find: Err(refused.clone()),
            campaign: Err(refused.clone()),
            campaigns: Err(refused.clone()),
            coupons_of: Err(refused),
            ..Script::default()
        });
        for path in [
            "/coupon/requests/r-1",
            "/campaigns",
            "/campaigns/spring",
            "/campaigns/spring/users/u1/coupons",
        ] {
            site.public(get(path)).await.problem(status, kind);
        }
    }
}

#[tokio::test]
async fn a_campaign_is_shown_with_figures_and_as_of() {
    let site = Site::new(Script::default());
    site.public(get("/campaigns/spring")).await.expect(200, SPRING);
    for state in CampaignState::all() {
        let campaign = Ok(CampaignView { state, ..view("spring") });
        let site = Site::new(Script { campaign, ..Script::default() });
        let body = SPRING.replace(r#""open""#, &format!("{:?}", state.name()));
        site.public(get("/campaigns/spring")).await.expect(200, &body);
    }
}

#[tokio::test]
async fn only_a_page_before_another_has_next() {
    let campaigns = Ok(["a", "b", "c"].map(view).to_vec());
    let site = Site::new(Script { campaigns, ..Script::default() });
    let page = |ids: &[&str], next: Option<&str>| {
        let shown: Vec<_> = ids.iter().map(|id| SPRING.replace("spring", id)).collect();
        let next = next.map(|id| format!(r#","next":"{id}""#)).unwrap_or_default();
        format!(r#"{{"campaigns":[{}]{next}}}"#, shown.join(","))
    };
    for (query, body) in [
        ("", page(&["a", "b", "c"], None)),
        ("?limit=3", page(&["a", "b", "c"], None)),
        ("?limit=2", page(&["a", "b"], Some("b"))),
        ("?limit=1&after=0", page(&["a"], Some("a"))),
        ("?limit=1&after=a", page(&["b"], Some("b"))),
        ("?limit=1&after=bb", page(&["c"], None)),
        ("?after=c", page(&[], None)),
        ("?limit=1000", page(&["a", "b", "c"], None)),
    ] {
        site.public(get(&format!("/campaigns{query}"))).await.expect(200, &body);
        let listed = site.admin(admitted(get(&format!("/admin/campaigns{query}")))).await;
        listed.expect(200, &body);
    }
    let mut unlisted = view("b");
    unlisted.definition.terms.listed = false;
    let campaigns = Ok(vec![view("a"), unlisted, view("c")]);
    let site = Site::new(Script { campaigns, ..Script::default() });
    let reply = site.public(get("/campaigns?limit=1")).await;
    reply.expect(200, &page(&["a"], Some("a")));
    let reply = site.public(get("/campaigns?limit=1&after=a")).await;
    reply.expect(200, &page(&["c"], None));
    let reply = site.admin(admitted(get("/admin/campaigns?limit=1&after=a"))).await;
    reply.expect(200, &page(&["b"], Some("b")));
    let site = Site::new(Script { campaigns: Ok(Vec::new()), ..Script::default() });
    site.public(get("/campaigns?after=z")).await.expect(200, r#"{"campaigns":[]}"#);
    for (query, fields) in [
        ("limit=0", &["limit"][..]),
        ("limit=1001", &["limit"]),
        ("limit=ten", &["limit"]),
        ("after=-", &["after"]),
        ("after=", &["after"]),
        ("limit=0&after=A&x=1", &["limit", "after"]),
    ] {
        let reply = site.public(get(&format!("/campaigns?{query}"))).await;
        assert_eq!(reply.faults(), fields, "{query}");
    }
    let reply = site.admin(admitted(get("/admin/campaigns?limit=0&x=1"))).await;
    assert_eq!(reply.faults(), ["x", "limit"]);
}

#[tokio::test]
async fn the_coupons_of_a_user_are_listed_in_order() {
    let site = Site::new(Script::default());
    let reply = site.public(get("/campaigns/spring/users/u1/coupons")).await;
    reply.expect(
        200,
        concat!(
            r#"{"coupons":[{"sequence":3,"code":"SALE-3","issued_at":"2026-11-27T12:00:00.123Z"},"#,
            r#"{"sequence":17,"code":"SALE-17","issued_at":"2026-11-27T12:00:00.123Z"}],"#,
            r#""as_of":{"log_epoch":1,"partition":3,"offset":42}}"#,
        ),
    );
    let site = Site::new(Script { coupons_of: Ok(Vec::new()), ..Script::default() });
    let reply = site.public(get("/campaigns/spring/users/a%40b.c/coupons")).await;
    reply.expect(200, r#"{"coupons":[],"as_of":{"log_epoch":1,"partition":3,"offset":42}}"#);
    assert_eq!(site.service.asked(), ["coupons_of (\"spring\", \"a@b.c\")"]);
}

#[tokio::test]
async fn behind_a_gateway_users_read_only_their_own() {
    let site = Site::behind_gateway(Script::default());
    let coupons = "/campaigns/spring/users/u1/coupons";
    site.public(get(coupons)).await.problem(401, "no-identity");
    let another = with(get(coupons), &[("x-user", "u2")]);
    site.public(another).await.problem(403, "another-user");
    assert_eq!(site.public(with(get(coupons), &[("x-user", "u1")])).await.status, 200);
    site.public(get("/coupon/requests/r-1")).await.problem(401, "no-identity");
    let asked = site.service.asked().len();
    for query in ["", "?wait=30"] {
        let path = format!("/coupon/requests/r-1{query}");
        let reply = site.public(with(get(&path), &[("x-user", "u2")])).await;
        reply.problem(403, "another-user");
        site.public(with(get(&path), &[("x-user", "u1")])).await.expect(202, PENDING);
    }
    assert_eq!(site.service.asked().len(), asked + 4, "one look each: the time does not tell");
    let campaigns = site.public(get("/campaigns/spring")).await;
    assert_eq!(campaigns.status, 200, "campaigns need no identity");
}

#[tokio::test]
async fn openapi_names_every_call() {
    let site = Site::new(Script::default());
    let reply = site.public(get("/openapi.json")).await;
    assert_eq!((reply.status, reply.header("content-type")), (200, Some("application/json")));
    let document: Value = serde_json::from_str(&reply.body).unwrap();
    let paths: Vec<_> = document["paths"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(
        paths,
        [
            "/campaigns",
            "/campaigns/{campaign_id}",
            "/campaigns/{campaign_id}/users/{user_id}/coupons",
            "/coupon/issue",
            "/coupon/requests/{request_id}",
            "/health/live",
            "/health/ready",
            "/openapi.json",
        ]
    );
    for (path, calls) in document["paths"].as_object().unwrap() {
        for method in calls.as_object().unwrap().keys() {
            let url = path.replace("{campaign_id}", "spring").replace("{user_id}", "u1");
            let url = url.replace("{request_id}", "r-1");
            let reply = site.public(send(&method.to_uppercase(), &url, "{}")).await;
            assert!(![404, 405].contains(&reply.status), "{method} {path}");
            let told = &calls[method]["responses"][reply.status.to_string()];
            assert!(told.is_object(), "{method} {path} answers {}", reply.status);
            let unknown = send(&method.to_uppercase(), &format!("{url}?unknown=1"), "{}");
            let status = site.public(unknown).await.status;
            let told = &calls[method]["responses"][status.to_string()];
            assert!(told.is_object(), "{method} {path} with a parameter answers {status}");
        }
    }
    for reference in reply.body.split("\"$ref\": \"#").skip(1) {
        let pointer = reference.split('"').next().unwrap();
        assert!(document.pointer(pointer).is_some(), "{pointer}");
    }
}

#[tokio::test]
async fn few_of_many_unknown_parameters_are_named() {
    let site = Site::new(Script::default());
    let query: Vec<_> = (0..4_000).map(|number| format!("p{number}")).collect();
    for path in ["/admin/campaigns", "/admin/campaigns/spring"] {
        let reply = site.admin(admitted(get(&format!("{path}?{}", query.join("&"))))).await;
        assert_eq!(reply.faults().len(), 8, "{path}");
        assert!(reply.body.len() < 2_000, "{}", reply.body);
    }
}

#[tokio::test]
async fn unknown_parameters_are_refused_to_operators_only() {
    let site = Site::new(Script::default());
    for path in [
        "/campaigns?utm_source=mail&limit=1",
        "/campaigns/spring?wait=5",
        "/campaigns/spring/users/u1/coupons?limit=x&limit=y",
        "/coupon/requests/r-1?fbclid=1",
    ] {
        assert!([200, 202].contains(&site.public(get(path)).await.status), "{path}");
    }
    let asked = site.service.asked().len();
    let reply = site.admin(admitted(get("/admin/campaigns/spring?x=1"))).await;
    assert_eq!(reply.faults(), ["x"]);
    let error = &reply.problem(422, "invalid")["errors"][0];
    assert_eq!(error["rule"], "absent: this call takes no parameters");
    assert_eq!(site.service.asked().len(), asked);
}
