//! What a browser is told about pages of other origins.

use super::*;
use crate::api::http::edge::Edge;

const SHOP: &str = "https://shop.example.com";

/// Sends a request through the edge of a public listener that has the setting `api.cors_origins`.
async fn ask(origins: &[&str], request: Request<Body>) -> Reply {
    let origins = Origins(origins.iter().map(|&origin| origin.to_owned()).collect());
    let edge = Edge::new(&"127.0.0.1:80".parse().unwrap(), &[]).with_origins(&origins);
    let router = public_router(&parts(Arc::new(Script::default()), Identity::Trusted));
    let (mut head, body) = request.into_parts();
    head.headers.insert("host", HeaderValue::from_static("localhost"));
    let response = edge.answer(head, body, router).await;
    let (head, body) = response.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap();
    let body = String::from_utf8(body.to_vec()).unwrap();
    Reply { status: head.status.as_u16(), headers: head.headers, body }
}

fn preflight(path: &str, origin: &str) -> Request<Body> {
    let asked = [
        ("origin", origin),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "content-type,idempotency-key,prefer"),
    ];
    with(send("OPTIONS", path, ""), &asked)
}

fn issue(origin: &str) -> Request<Body> {
    let body = r#"{"campaign_id":"spring","user_id":"u1"}"#;
    with(send("POST", "/coupon/issue", body), &[("origin", origin)])
}

/// Returns the names of the headers that begin with `Access-Control-`.
fn cors_headers(reply: &Reply) -> Vec<&str> {
    let names = reply.headers.keys().map(|name| name.as_str());
    let mut names: Vec<_> = names.filter(|name| name.starts_with("access-control-")).collect();
    names.sort_unstable();
    names
}

#[tokio::test]
async fn a_preflight_from_an_allowed_origin_is_answered() {
    for path in ["/coupon/issue", "/campaigns/spring", "/coupon/requests/r-1?wait=5"] {
        let reply = ask(&["http://localhost:3000", SHOP], preflight(path, SHOP)).await;
        assert_eq!((reply.status, reply.body.as_str()), (204, ""), "{path}");
        assert_eq!(reply.header("access-control-allow-origin"), Some(SHOP));
        assert_eq!(reply.header("access-control-allow-methods"), Some("GET, HEAD, POST"));
        let allowed = "content-type, authorization, prefer, idempotency-key, x-idempotency-key";
        assert_eq!(reply.header("access-control-allow-headers"), Some(allowed));
        assert_eq!(reply.header("access-control-max-age"), Some("7200"));
        assert_eq!(reply.header("access-control-allow-credentials"), None);
        assert_eq!(reply.header("vary"), Some("Origin"));
    }
}

#[tokio::test]
async fn a_page_may_read_answers_and_their_headers() {
    for (origins, told) in [(&[SHOP][..], SHOP), (&["*"], "*")] {
        let reply = ask(origins, issue(SHOP)).await;
        assert_eq!(reply.status, 202);
        assert_eq!(reply.header("access-control-allow-origin"), Some(told));
        let exposed = "location, retry-after, preference-applied";
        assert_eq!(reply.header("access-control-expose-headers"), Some(exposed));
        assert_eq!(reply.header("access-control-allow-credentials"), None);
        assert_eq!(reply.header("vary"), Some("Origin"));
    }
}

#[tokio::test]
async fn a_page_may_read_refusals_too() {
    let long = format!("/campaigns?{}", "a".repeat(3_000));
    for (path, status) in [("/nothing", 404), ("/campaigns?limit=x", 422), (long.as_str(), 414)] {
        let reply = ask(&[SHOP], with(get(path), &[("origin", SHOP)])).await;
        assert_eq!(reply.status, status);
        assert_eq!(reply.header("access-control-allow-origin"), Some(SHOP), "{path}");
        assert_eq!(reply.header("vary"), Some("Origin"), "{path}");
    }
}

#[tokio::test]
async fn another_origin_gets_vary_and_nothing_else() {
    for origin in ["https://evil.example", "null", "https://shop.example.com.evil.example", ""] {
        let reply = ask(&[SHOP], preflight("/coupon/issue", origin)).await;
        assert_eq!((reply.status, reply.header("vary")), (405, Some("Origin")), "{origin}");
        assert_eq!(cors_headers(&reply), Vec::<&str>::new());
        let reply = ask(&[SHOP], issue(origin)).await;
        assert_eq!((reply.status, reply.header("vary")), (202, Some("Origin")), "{origin}");
        assert_eq!(cors_headers(&reply), Vec::<&str>::new());
    }
    let reply = ask(&[SHOP], get("/campaigns")).await;
    assert_eq!((reply.status, reply.header("vary")), (200, Some("Origin")));
    assert_eq!(cors_headers(&reply), Vec::<&str>::new());
}

#[tokio::test]
async fn options_without_a_method_is_no_preflight() {
    let reply = ask(&[SHOP], with(send("OPTIONS", "/coupon/issue", ""), &[("origin", SHOP)])).await;
    assert_eq!((reply.status, reply.header("allow")), (405, Some("POST")));
}

#[tokio::test]
async fn without_the_setting_there_is_no_cors() {
    for request in [preflight("/coupon/issue", SHOP), issue(SHOP), get("/campaigns")] {
        let reply = ask(&[], request).await;
        assert_eq!(cors_headers(&reply), Vec::<&str>::new());
        assert_eq!(reply.header("vary"), None);
    }
}
