//! What each role may do, and whose name a change carries.

use axum::Router;

use super::*;
use crate::config::Role;

/// Every call, with the least role that may make it.
const CALLS: [(&str, &str, Role); 17] = [
    ("GET", "/admin/campaigns", Role::Viewer),
    ("GET", "/admin/campaigns/spring", Role::Viewer),
    ("HEAD", "/admin/campaigns/spring", Role::Viewer),
    ("GET", "/admin/changes", Role::Viewer),
    ("GET", "/admin/nothing", Role::Viewer),
    ("PUT", "/admin/campaigns/spring", Role::Operator),
    ("PUT", "/admin/campaigns/close", Role::Operator),
    ("PATCH", "/admin/campaigns/spring", Role::Operator),
    ("POST", "/admin/campaigns/spring/pause", Role::Operator),
    ("POST", "/admin/campaigns/spring/resume", Role::Operator),
    ("POST", "/admin/campaigns/spring/release", Role::Operator),
    ("POST", "/admin/campaigns/spring/close", Role::Owner),
    ("POST", "/admin/campaigns/spring/crash", Role::Owner),
    ("POST", "/admin/partitions/1/skip", Role::Owner),
    ("POST", "/admin/partitions/1/crash", Role::Owner),
    ("POST", "/admin/supervisor/crash", Role::Owner),
    ("POST", "/admin/secret/export", Role::Owner),
];

const PEOPLE: [(&str, Role, &str); 3] = [
    ("vera", Role::Viewer, "token-of-vera"),
    ("otto", Role::Operator, "token-of-otto"),
    ("olga", Role::Owner, "token-of-olga"),
];

fn listener(service: Script) -> (Arc<Script>, Router) {
    let service = Arc::new(service);
    let mut parts = parts(service.clone(), Identity::Trusted);
    let keys = PEOPLE.map(|(name, role, token)| AdminKey::of(name, role, token));
    parts.admin_keys.extend(keys);
    (service, admin_router(&parts))
}

fn bearing(token: &str, method: &str, path: &str) -> Request<Body> {
    let bearer = format!("Bearer {token}");
    with(send(method, path, String::new()), &[("authorization", &bearer)])
}

#[tokio::test]
async fn a_role_may_do_what_its_row_says_and_no_more() {
    for (_, role, token) in PEOPLE {
        for (method, path, needed) in CALLS {
            let (service, router) = listener(Script::default());
            let reply = Reply::of(router, bearing(token, method, path)).await;
            if role.may(needed) {
                let refused = reply.body.contains("missing-right");
                assert!(!refused, "{} {method} {path}: {}", role.name(), reply.body);
            } else {
                reply.problem(403, "missing-right");
                // Rights come first: whether the campaign exists is not looked up.
                assert_eq!(service.asked(), Vec::<String>::new(), "{method} {path}");
            }
        }
    }
}

#[tokio::test]
async fn a_change_carries_the_name_of_its_key() {
    for (name, _, token) in PEOPLE.iter().skip(1) {
        for (method, path, body) in [
            ("PUT", "/admin/campaigns/spring", r#"{"quota":1}"#),
            ("PATCH", "/admin/campaigns/spring", r#"{"quota":1}"#),
            ("POST", "/admin/campaigns/spring/pause", ""),
        ] {
            let (service, router) = listener(Script::default());
            let request = with(
                send(method, path, body.to_owned()),
                &[("authorization", &format!("Bearer {token}"))],
            );
            let reply = Reply::of(router, request).await;
            assert!(reply.status < 300, "{}", reply.body);
            assert_eq!(service.asked()[0], format!("by {name:?}"), "{method} {path}");
        }
    }
}

#[tokio::test]
async fn a_refusal_names_the_key_and_the_role_that_it_lacks() {
    let (_, router) = listener(Script::default());
    let close = bearing("token-of-otto", "POST", "/admin/campaigns/spring/close");
    let reply = Reply::of(router, close).await;
    let detail = r#""detail":"the key otto has the role operator, and this call needs owner""#;
    assert!(reply.body.contains(detail), "{}", reply.body);
}

#[tokio::test]
async fn an_owner_exports_the_secret_unless_it_is_configured() {
    let mut parts = parts(Arc::new(Script::default()), Identity::Trusted);
    let export = || admitted(send("POST", "/admin/secret/export", ""));
    Reply::of(admin_router(&parts), export()).await.problem(409, "secret-configured");
    parts.kept_secret = Some("a secret of tests and of nothing else".into());
    let reply = Reply::of(admin_router(&parts), export()).await;
    reply.expect(200, r#"{"secret":"a secret of tests and of nothing else"}"#);
    assert_eq!(reply.header("cache-control"), Some("no-store"));
}
