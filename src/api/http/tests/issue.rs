//! Every answer and every error of `POST /coupon/issue`.

use axum::body::{Body, Bytes};
use futures_util::stream;
use metrics_exporter_prometheus::PrometheusBuilder;

use super::*;
use crate::domain::{decision::Refusal, fault::Fault, reason::Reason};

pub(super) const BODY: &str = r#"{"campaign_id":"spring","user_id":"u1"}"#;

pub(super) fn post(body: impl Into<Body>) -> Request<Body> {
    send("POST", "/coupon/issue", body)
}

pub(super) fn taken(answer: Option<Answer>) -> Script {
    let issue = Ok(IssueReply { request_id: "r-1".into(), answer, waited: true });
    Script { issue, ..Script::default() }
}

fn refusing(refused: ServiceError) -> Script {
    Script { issue: Err(refused), ..Script::default() }
}

#[tokio::test]
async fn an_appended_request_is_202_with_location() {
    let site = Site::new(taken(None));
    let reply = site.public(post(BODY)).await;
    reply.expect(
        202,
        r#"{"request_id":"r-1","campaign_id":"spring","user_id":"u1","status":"pending"}"#,
    );
    assert_eq!(reply.header("location"), Some("/coupon/requests/r-1"));
    assert_eq!(reply.header("preference-applied"), None);
    assert_eq!(site.service.asked(), ["issue (\"spring\", \"u1\", None, None)"]);
}

#[tokio::test]
async fn a_decision_that_was_waited_for_is_200() {
    for (answer, shown) in decisions() {
        let site = Site::new(taken(Some(answer)));
        let reply = site.public(with(post(BODY), &[("prefer", "wait=5")])).await;
        let body =
            format!(r#"{{"request_id":"r-1","campaign_id":"spring","user_id":"u1",{shown}}}"#);
        reply.expect(200, &body);
        assert_eq!(reply.header("preference-applied"), Some("wait=5"));
        assert_eq!(reply.header("location"), None);
        assert_eq!(site.service.asked(), ["issue (\"spring\", \"u1\", None, Some(5s))"]);
    }
}

#[tokio::test]
async fn a_wait_without_a_decision_is_202() {
    for (prefer, wait) in [("wait=0", "Some(0ns)"), ("wait=31", "None"), ("wait=soon", "None")] {
        let site = Site::new(taken(None));
        let reply = site.public(with(post(BODY), &[("prefer", prefer)])).await;
        assert_eq!((reply.status, reply.header("preference-applied")), (202, None));
        assert_eq!(site.service.asked(), [format!("issue (\"spring\", \"u1\", None, {wait})")]);
    }
}

#[tokio::test]
async fn an_impossible_answer_is_outcome_unknown() {
    let refused = Answer::Refused { refusal: Refusal::StaleVersion };
    for answer in [Answer::Accepted, refused] {
        let site = Site::new(taken(Some(answer)));
        let reply = site.public(with(post(BODY), &[("prefer", "wait=5")])).await;
        reply.problem(503, "outcome-unknown");
    }
}

#[tokio::test]
async fn every_invalid_field_of_a_body_is_named() {
    let site = Site::new(Script::default());
    let too_long = format!(r#"{{"campaign_id":"{}","user_id":"u1"}}"#, "a".repeat(65));
    let no_user = format!(r#"{{"campaign_id":"a","user_id":"{}"}}"#, "a".repeat(256));
    for (body, fields) in [
        ("{}", &["campaign_id", "user_id"][..]),
        (r#"{"campaign_id":"a"}"#, &["user_id"]),
        (r#"{"campaign_id":"a","user_id":null}"#, &["user_id"]),
        (r#"{"campaign_id":1,"user_id":true}"#, &["campaign_id", "user_id"]),
        (r#"{"campaign_id":["a"],"user_id":{"a":{"b":[]}}}"#, &["campaign_id", "user_id"]),
        (r#"{"campaign_id":-1,"user_id":1.5}"#, &["campaign_id", "user_id"]),
        (r#"{"campaign_id":"A","user_id":"a b"}"#, &["campaign_id", "user_id"]),
        (r#"{"campaign_id":"-a","user_id":""}"#, &["campaign_id", "user_id"]),
        (r#"{"campaign_id":"a","user_id":"\u00e9"}"#, &["user_id"]),
        (r#"{"campaign_id":"a","user_id":"u\u0000"}"#, &["user_id"]),
        (&too_long, &["campaign_id"]),
        (&no_user, &["user_id"]),
        (r#"{"campaign_id":"a","user_id":"u","user_id":"u"}"#, &["user_id"]),
        (r#"{"campaign_id":"a","user_id":"u","user\u005fid":"u"}"#, &["user_id"]),
        (r#"{"y":0,"user_id":"u","user_id":"!"}"#, &["user_id", "campaign_id"]),
        ("[]", &["body"]),
        ("null", &["body"]),
        ("\"spring\"", &["body"]),
        ("17", &["body"]),
        (r#"{"campaign_id":"a","user_id":1e999}"#, &["user_id"]),
        (r#"{"campaign_id":"a","user_id":"\ud800"}"#, &["user_id"]),
        (r#"{"campaign_id":"a","user_id":"u","\ud800":1}"#, &["body"]),
    ] {
        assert_eq!(site.public(post(body.to_owned())).await.faults(), fields, "{body}");
    }
    let deep =
        format!(r#"{{"user_id":{}{}}}"#, "{\"a\":".repeat(140), "1".to_owned() + &"}".repeat(140));
    assert_eq!(site.public(post(deep)).await.faults(), ["campaign_id", "user_id"]);
    assert_eq!(site.service.asked(), Vec::<String>::new());
}

#[tokio::test]
async fn a_problem_names_field_rule_and_remedy() {
    let site = Site::new(Script::default());
    let reply = site.public(post(r#"{"campaign_id":"spring","user_id":"u 1"}"#)).await;
    let document = concat!(
        r#"{"type":"/problems/invalid","title":"Invalid request","status":422,"#,
        r#""detail":"user_id must be 1 to 255 visible ASCII characters without spaces, "#,
        r#"and neither '.' nor '..'","errors":[{"field":"user_id","#,
        r#""rule":"1 to 255 visible ASCII characters without spaces, and neither '.' nor '..'","#,
        r#""remedy":"use the id of a user"}]}"#,
    );
    assert_eq!(reply.body, document);
}

#[tokio::test]
async fn what_is_not_json_is_400() {
    let site = Site::new(Script::default());
    let not_utf8 = b"{\"campaign_id\":\"a\",\"user_id\":\"\xff\"}".as_slice();
    for body in [
        b"".as_slice(),
        b" ",
        b"{",
        b"nope",
        b"{\"campaign_id\":\"a\",}",
        b"{'campaign_id':'a'}",
        b"{\"campaign_id\":\"a\"} {}",
        b"{\"campaign_id\":\"a\nb\"}",
        b"\xef\xbb\xbf{}",
        b"\xfe\xff",
        not_utf8,
    ] {
        let reply = site.public(post(Bytes::from(body.to_vec()))).await;
        assert_eq!(reply.blamed(400, "not-json"), ["body"]);
    }
}

#[tokio::test]
async fn a_body_of_another_type_is_415() {
    let site = Site::new(taken(None));
    for declared in ["application/json", "Application/JSON", "application/json; charset=utf-8"] {
        let request = with(post(BODY), &[]);
        let (mut head, body) = request.into_parts();
        head.headers.insert("content-type", declared.parse().unwrap());
        assert_eq!(site.public(Request::from_parts(head, body)).await.status, 202, "{declared}");
    }
    for declared in [
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/jsonp",
        "application/problem+json",
    ] {
        let (mut head, body) = post(BODY).into_parts();
        head.headers.insert("content-type", declared.parse().unwrap());
        let reply = site.public(Request::from_parts(head, body)).await;
        assert_eq!(reply.blamed(415, "unsupported-media-type"), ["Content-Type"]);
    }
    let (mut head, body) = post(BODY).into_parts();
    head.headers.remove("content-type");
    let reply = site.public(Request::from_parts(head, body)).await;
    assert_eq!(reply.blamed(415, "unsupported-media-type"), ["Content-Type"]);
    for second in ["application/json", "text/plain"] {
        let twice = with(post(BODY), &[("content-type", second)]);
        assert_eq!(site.public(twice).await.faults(), ["Content-Type"], "{second}");
    }
}

/// Pads [`BODY`] with spaces to `length` bytes.
fn padded(length: usize) -> String {
    format!("{BODY:length$}")
}

fn chunked(body: &str, chunk: usize) -> Body {
    let chunks: Vec<_> = body
        .as_bytes()
        .chunks(chunk)
        .map(|chunk| Ok::<_, std::io::Error>(Bytes::copy_from_slice(chunk)))
        .collect();
    Body::from_stream(stream::iter(chunks))
}

#[tokio::test]
async fn a_body_above_1_kib_is_413() {
    let site = Site::new(taken(None));
    assert_eq!(site.public(post(padded(1_024))).await.status, 202);
    let reply = site.public(post(padded(1_025))).await;
    assert_eq!(reply.blamed(413, "body-too-large"), ["body"]);
    for chunk in [1, 100, 1_024, 4_096] {
        assert_eq!(site.public(post(chunked(&padded(1_024), chunk))).await.status, 202);
        let reply = site.public(post(chunked(&padded(1_025), chunk))).await;
        reply.problem(413, "body-too-large");
    }
    let declared = with(post(Body::empty()), &[("content-length", "1025")]);
    site.public(declared).await.problem(413, "body-too-large");
    let waiting = with(
        post(Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>())),
        &[("content-length", "1025"), ("expect", "100-continue")],
    );
    site.public(waiting).await.problem(413, "body-too-large");
}

#[tokio::test(start_paused = true)]
async fn a_body_that_stalls_is_given_up() {
    let site = Site::new(Script::default());
    let stalled = || stream::pending::<Result<Bytes, std::io::Error>>();
    let reply = site.public(post(Body::from_stream(stalled()))).await;
    assert_eq!(reply.blamed(408, "request-timeout"), ["body"]);
    let large = stream::iter([Ok(Bytes::from(padded(1_025)))]);
    let reply = site
        .public(post(Body::from_stream(futures_util::StreamExt::chain(large, stalled()))))
        .await;
    reply.problem(413, "body-too-large");
    let broken = stream::iter([Err::<Bytes, _>(std::io::Error::other("reset"))]);
    let reply = site.public(post(Body::from_stream(broken))).await;
    assert_eq!(reply.blamed(400, "malformed-request"), ["body"]);
    assert_eq!(site.service.asked(), Vec::<String>::new());
}

#[tokio::test]
async fn a_coded_body_is_refused() {
    let site = Site::new(Script::default());
    let issue = || send("POST", "/coupon/issue", r#"{"campaign_id":"spring","user_id":"u1"}"#);
    for codings in [&["gzip"][..], &[""], &["identity, identity"], &["identity", "identity"]] {
        let codings: Vec<_> = codings.iter().map(|it| ("content-encoding", *it)).collect();
        let reply = site.public(with(issue(), &codings)).await;
        assert_eq!(reply.header("accept-encoding"), Some("identity"));
        assert_eq!(reply.blamed(415, "unsupported-encoding"), ["Content-Encoding"]);
        let pause = send("POST", "/admin/campaigns/spring/pause", "");
        let reply = site.admin(admitted(with(pause, &codings))).await;
        reply.problem(415, "unsupported-encoding");
    }
    let reply = site.public(with(issue(), &[("content-encoding", " Identity")])).await;
    assert_eq!(reply.status, 202);
}

#[tokio::test]
async fn every_error_has_its_status_and_type() {
    let retry_after = Duration::from_millis(2_500);
    let (detail, reason) = ("the log".to_owned(), "a contradiction".to_owned());
    let faults =
        vec![Fault { field: "user_id", rule: "short".to_owned(), remedy: "shorten it".to_owned() }];
    for (refused, status, kind, retry) in [
        (ServiceError::UnknownCampaign, 404, "unknown-campaign", None),
        (ServiceError::UnknownRequest, 404, "unknown-request", None),
        (ServiceError::UserRateLimited { retry_after }, 429, "too-many-requests", Some("3")),
        (
            ServiceError::Overloaded { detail: detail.clone(), retry_after: Duration::ZERO },
            503,
            "overloaded",
            Some("1"),
        ),
        (ServiceError::Halted { reason }, 503, "halted", Some("10")),
        (
            ServiceError::OutcomeUnknown { detail: detail.clone() },
            503,
            "outcome-unknown",
            Some("5"),
        ),
        (ServiceError::Unavailable { detail }, 503, "unavailable", Some("5")),
        (ServiceError::OtherCode, 409, "other-code", None),
        (ServiceError::QuotaBelowIssued { issued: 17 }, 409, "quota-below-issued", None),
        (ServiceError::Invalid(faults), 422, "invalid", None),
    ] {
        let site = Site::new(refusing(refused));
        let reply = site.public(post(BODY)).await;
        let document = reply.problem(status, kind);
        assert_eq!(reply.header("retry-after"), retry, "{kind}");
        assert_eq!(document.get("coupons"), None, "{kind}");
    }
}

#[tokio::test]
async fn every_certain_rejection_is_a_conflict() {
    for reason in Reason::ALL {
        let site = Site::new(refusing(ServiceError::CertainRejection(reason)));
        let document = site.public(post(BODY)).await.problem(409, reason.slug());
        assert_eq!(document["title"], reason.title());
        assert_eq!(document["coupons"], "/campaigns/spring/users/u1/coupons");
    }
}

#[tokio::test]
async fn a_certain_rejection_links_the_users_coupons() {
    for (user, shown) in [
        ("a:b@c.d_e-F~", "a:b@c.d_e-F~"),
        ("a+b/../c?d#e%2F&f", "a%2Bb%2F..%2Fc%3Fd%23e%252F%26f"),
        ("\"\\'", "%22%5C%27"),
    ] {
        let site = Site::new(refusing(ServiceError::CertainRejection(Reason::SoldOut)));
        let body = format!(r#"{{"campaign_id":"spring","user_id":{user:?}}}"#);
        let document = concat!(
            r#"{"type":"/problems/sold-out","title":"Sold out","status":409,"#,
            r#""detail":"the campaign issues no coupons now: sold_out","#,
            r#""coupons":"/campaigns/spring/users/USER/coupons"}"#,
        );
        let reply = site.public(post(body)).await;
        assert_eq!(reply.body, document.replace("USER", shown));
        let url = reply.problem(409, "sold-out")["coupons"].as_str().unwrap().to_owned();
        assert_eq!(site.public(get(&url)).await.status, 200);
        let asked = format!("coupons_of (\"spring\", {user:?})");
        assert_eq!(site.service.asked().last(), Some(&asked));
    }
}

#[tokio::test]
async fn links_begin_with_the_prefix_that_a_proxy_strips() {
    for (issue, status) in
        [(taken(None), 202), (refusing(ServiceError::CertainRejection(Reason::SoldOut)), 409)]
    {
        let mut parts = parts(Arc::new(issue), Identity::Trusted);
        parts.api.path_prefix = "/shop".to_owned();
        let reply = Reply::of(public_router(&parts), post(BODY)).await;
        assert_eq!(reply.status, status);
        match status {
            202 => assert_eq!(reply.header("location"), Some("/shop/coupon/requests/r-1")),
            _ => {
                let coupons = &reply.problem(409, "sold-out")["coupons"];
                assert_eq!(coupons, "/shop/campaigns/spring/users/u1/coupons");
            }
        }
    }
}

#[tokio::test]
async fn behind_a_gateway_the_header_names_the_user() {
    let site = Site::behind_gateway(taken(None));
    let alone = r#"{"campaign_id":"spring"}"#;
    for body in [BODY, alone] {
        let reply = site.public(with(post(body), &[("x-user", "u1")])).await;
        reply.expect(
            202,
            r#"{"request_id":"r-1","campaign_id":"spring","user_id":"u1","status":"pending"}"#,
        );
    }
    let asked = "issue (\"spring\", \"u1\", None, None)".to_owned();
    assert_eq!(site.service.asked(), [asked.clone(), asked]);
    let reply = site.public(post(BODY)).await;
    assert_eq!(reply.blamed(401, "no-identity"), ["x-user"]);
    assert!(reply.body.contains("the header x-user, which names the user"), "{}", reply.body);
    assert_eq!(reply.header("www-authenticate"), Some("Gateway realm=\"coupond\""));
    let another = with(post(BODY), &[("x-user", "u2")]);
    site.public(another).await.problem(403, "another-user");
    for headers in [
        &[("x-user", "")][..],
        &[("x-user", "u 1")],
        &[("x-user", "u1, u2")],
        &[("x-user", "\u{e9}")],
        &[("x-user", "u1"), ("x-user", "u1")],
    ] {
        assert_eq!(site.public(with(post(BODY), headers)).await.faults(), ["x-user"]);
    }
    let faulty = with(post(r#"{"user_id":"u 1"}"#), &[("x-user", "u1")]);
    assert_eq!(site.public(faulty).await.faults(), ["campaign_id", "user_id"]);
    assert_eq!(site.service.asked().len(), 2);
}

#[tokio::test]
async fn an_invalid_identity_header_refuses_all() {
    let site = Site::of(taken(None), Identity::Header("no header".to_owned()));
    let request = with(post(BODY), &[("x-user", "u1")]);
    site.public(request).await.problem(401, "no-identity");
}

#[test]
fn every_request_is_counted_by_its_outcome() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let rendered = recorder.handle();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let count = |outcome: &str| {
        let line = format!("coupond_requests_total{{outcome=\"{outcome}\"}} ");
        let text = rendered.render();
        let value = text.lines().find_map(|rest| rest.strip_prefix(&line)).unwrap_or("0");
        value.parse::<u64>().unwrap()
    };
    let check = |site: &Site, body: &str, outcome: &str| {
        let before = count(outcome);
        let request = with(post(body.to_owned()), &[("prefer", "wait=1")]);
        metrics::with_local_recorder(&recorder, || runtime.block_on(site.public(request)));
        assert_eq!(count(outcome), before + 1, "{outcome}");
    };
    check(&Site::new(taken(None)), BODY, "pending");
    for (answer, _) in decisions() {
        let outcome = match &answer {
            Answer::Issued { .. } => "issued",
            Answer::AlreadyIssued { .. } => "already_issued",
            _ => "rejected",
        };
        check(&Site::new(taken(Some(answer))), BODY, outcome);
    }
    let (detail, reason, retry_after) = (String::new(), String::new(), Duration::ZERO);
    for reason in Reason::ALL {
        let rejecting = refusing(ServiceError::CertainRejection(reason));
        check(&Site::new(rejecting), BODY, reason.name());
    }
    for (refused, outcome) in [
        (ServiceError::UnknownCampaign, "unknown_campaign"),
        (ServiceError::UserRateLimited { retry_after }, "user_rate"),
        (ServiceError::Overloaded { detail: detail.clone(), retry_after }, "overloaded"),
        (ServiceError::Halted { reason }, "halted"),
        (ServiceError::OutcomeUnknown { detail: detail.clone() }, "outcome_unknown"),
        (ServiceError::Unavailable { detail }, "unavailable"),
    ] {
        check(&Site::new(refusing(refused)), BODY, outcome);
    }
    check(&Site::new(taken(None)), "{}", "invalid");
    check(&Site::behind_gateway(taken(None)), BODY, "denied");
}
