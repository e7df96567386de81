//! Fuzz targets: what clients send, from single headers to whole requests.

mod bodies;
mod texts;

use std::net::{IpAddr, Ipv4Addr};

use axum::{
    body::{Body, to_bytes},
    http::{HeaderName, HeaderValue, Method, Request, Uri},
    response::IntoResponse,
};
use futures_util::FutureExt;
use serde_json::Value;

use super::{Reply, Script, Site, TOKEN};
use crate::{
    api::http::{
        problem::{FAULTS_MAX, Problem},
        server::Client,
    },
    fuzz,
};

/// Asserts that a problem names what is at fault. Returns its status and the fields.
fn told(problem: Problem) -> (u16, Vec<String>) {
    let (head, body) = problem.into_response().into_parts();
    let body = to_bytes(body, usize::MAX).now_or_never().unwrap().unwrap();
    let document: Value = serde_json::from_slice(&body).unwrap();
    (head.status.as_u16(), fields(&document))
}

/// Returns the fields that a problem document blames; each has a rule and a remedy.
fn fields(document: &Value) -> Vec<String> {
    let errors = document["errors"].as_array().cloned().unwrap_or_default();
    assert!(errors.len() <= FAULTS_MAX, "{document}");
    let text = |error: &Value, name: &str| error[name].as_str().unwrap_or_default().to_owned();
    for error in &errors {
        assert!(!text(error, "rule").is_empty() && !text(error, "remedy").is_empty(), "{document}");
    }
    errors.iter().map(|error| text(error, "field")).collect()
}

/// Reads `METHOD target`, lines of headers, an empty line, and a body. `None`: no server would hand
/// this on.
fn request(input: &[u8]) -> Option<Request<Body>> {
    let blank = input.windows(2).position(|pair| pair == b"\n\n").unwrap_or(input.len());
    let (head, body) = (&input[..blank], input.get(blank + 2..).unwrap_or_default());
    let mut lines = head.split(|byte| *byte == b'\n');
    let line = lines.next()?;
    let space = line.iter().position(|byte| *byte == b' ')?;
    let mut request = Request::new(Body::from(body.to_vec()));
    *request.method_mut() = Method::from_bytes(&line[..space]).ok()?;
    *request.uri_mut() = Uri::try_from(&line[space + 1..]).ok()?;
    for line in lines {
        let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        let value = line.get(colon + 1..).unwrap_or_default().trim_ascii();
        let (name, value) =
            (HeaderName::from_bytes(&line[..colon]), HeaderValue::from_bytes(value));
        // What is no header is left out, so that the rest of the request is looked at.
        if let (Ok(name), Ok(value)) = (name, value) {
            request.headers_mut().append(name, value);
        }
    }
    Some(request)
}

/// Valid calls of both listeners, each for the listener that has it.
fn calls() -> Vec<Vec<u8>> {
    let json = "content-type: application/json";
    let issue = r#"{"campaign_id":"spring","user_id":"u1"}"#;
    let terms =
        r#"{"quota":5,"title":"a","opens_at":"2026-11-27T12:00:00Z","code":{"prefix":"A-"}}"#;
    let admin = format!("authorization: Bearer {TOKEN}\n{json}");
    [
        format!(
            "POST /coupon/issue\n{json}\nprefer: wait=5\nidempotency-key: k\nx-user: u1\n\n{issue}"
        ),
        format!("POST /coupon/issue\n{json}\n\n{issue}"),
        format!("POST /coupon/issue\n{json}\n\n{}", " ".repeat(1_025)),
        "GET /coupon/requests/r-1?wait=5\n\n".to_owned(),
        "GET /campaigns?limit=5&after=a\n\n".to_owned(),
        "HEAD /campaigns/spring\n\n".to_owned(),
        "GET /campaigns/spring/users/u%31/coupons\nx-user: u1\n\n".to_owned(),
        "GET /openapi.json\n\n".to_owned(),
        format!("PUT /admin/campaigns/spring\n{admin}\n\n{terms}"),
        format!("PATCH /admin/campaigns/spring\n{admin}\n\n{{\"quota\":6,\"opens_at\":null}}"),
        format!("POST /admin/campaigns/spring/pause\n{admin}\n\n{{}}"),
        format!("POST /admin/partitions/1/skip\n{admin}\n\n{{\"offset\":7,\"reason\":\"lost\"}}"),
        format!("GET /admin/campaigns/spring\n{admin}\n\n"),
        format!("GET /admin/campaigns?limit=1\n{admin}\n\n"),
        "GET /health/ready\n\n".to_owned(),
        "GET /metrics\n\n".to_owned(),
    ]
    .map(String::into_bytes)
    .to_vec()
}

#[test]
fn a_request_gets_its_answer_or_a_problem() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let sites = [Site::new(Script::default()), Site::behind_gateway(Script::default())];
    let outcomes =
        ["no request", "answered", "400", "401", "403", "404", "405", "413", "415", "422", "429"];
    fuzz::run(&calls(), &outcomes, |input, random| {
        let Some(mut request) = request(input) else { return "no request" };
        // Wrong tokens of one address are throttled, and the right one with them.
        let address = if random.one_in(8) { 1 } else { random.next() as u32 };
        request.extensions_mut().insert(Client(IpAddr::V4(Ipv4Addr::from_bits(address))));
        let site = &sites[random.index(2)];
        let is_admin = if random.one_in(16) { random.one_in(2) } else { is_of_admin(&request) };
        let is_head = request.method() == Method::HEAD;
        let reply = runtime.block_on(async {
            if is_admin { site.admin(request).await } else { site.public(request).await }
        });
        let calls: Vec<_> = site.service.asked.lock().drain(..).collect();
        assert!(calls.len() <= 1, "one request is one call of the service: {calls:?}");
        // Every call succeeds, but that of another user's request. A fault is told after the campaign
        // was found.
        let is_foreign = |call: &str| reply.status == 403 && call.starts_with("find ");
        let is_lookup = |call: &String| call.starts_with("campaign ") || is_foreign(call);
        assert!(reply.status < 400 || calls.iter().all(is_lookup), "{calls:?}: {}", reply.status);
        outcome(&reply, is_head, &outcomes)
    });
}

fn is_of_admin(request: &Request<Body>) -> bool {
    ["/admin", "/metrics", "/health"].iter().any(|start| request.uri().path().starts_with(start))
}

/// Checks an answer. Returns its outcome.
fn outcome(reply: &Reply, is_head: bool, outcomes: &[&'static str]) -> &'static str {
    if reply.status < 400 {
        assert!([200, 201, 202].contains(&reply.status), "{}", reply.status);
        return "answered";
    }
    assert_eq!(reply.header("content-type"), Some("application/problem+json"));
    if !is_head {
        let document: Value = serde_json::from_str(&reply.body).unwrap();
        assert_eq!(document["status"], reply.status);
        let blamed = fields(&document);
        assert!(!blamed.is_empty() || ![400, 413, 415, 422].contains(&reply.status), "{document}");
    }
    let status = reply.status.to_string();
    let known = outcomes.iter().find(|known| **known == status);
    known.unwrap_or_else(|| panic!("status {status}: {}", reply.body))
}
