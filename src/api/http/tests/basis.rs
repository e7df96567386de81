//! What a change is based on, and what it warns of.

use super::*;

const SPRING: &str = "/admin/campaigns/spring";

/// The tag of the version of [`view`].
const TAG: &str = "\"1-3\"";

async fn ask(site: &Site, method: &str, headers: &[(&'static str, &str)]) -> Reply {
    let (path, body) = match method {
        "GET" => (SPRING.to_owned(), ""),
        "POST" => (format!("{SPRING}/pause"), ""),
        _ => (SPRING.to_owned(), r#"{"quota":100}"#),
    };
    site.admin(admitted(with(send(method, &path, body), headers))).await
}

#[tokio::test]
async fn a_campaign_has_the_tag_of_its_version() {
    let site = Site::new(Script::default());
    for method in ["GET", "PUT", "PATCH", "POST"] {
        assert_eq!(ask(&site, method, &[]).await.header("etag"), Some(TAG), "{method}");
    }
    let known = ask(&site, "GET", &[("if-none-match", TAG)]).await;
    assert_eq!((known.status, known.header("etag")), (200, Some(TAG)), "never 304");
}

#[tokio::test]
async fn if_match_names_the_basis_of_a_change() {
    for (value, basis) in [
        (TAG, "on Versions([(1, 3)])"),
        ("\"1-3\", \"2-7\"", "on Versions([(1, 3), (2, 7)])"),
        ("*", "on Existing"),
        ("W/\"1-3\"", "on Versions([])"),
        ("1", "on Versions([])"),
    ] {
        for method in ["PUT", "PATCH", "POST"] {
            let site = Site::new(Script::default());
            assert!([200, 201].contains(&ask(&site, method, &[("if-match", value)]).await.status));
            assert_eq!(site.service.asked()[0], basis, "{method} {value}");
        }
    }
}

#[tokio::test]
async fn if_none_match_only_makes() {
    let site = Site::new(Script::default());
    assert_eq!(ask(&site, "PUT", &[("if-none-match", "*")]).await.status, 201);
    assert_eq!(site.service.asked()[0], "on Absent");
    let asked = site.service.asked().len();
    for headers in [
        &[("if-none-match", TAG)][..],
        &[("if-none-match", "*"), ("if-none-match", "*")],
        &[("if-none-match", "*"), ("if-match", "*")],
    ] {
        assert_eq!(ask(&site, "PUT", headers).await.faults(), ["If-None-Match"]);
    }
    assert_eq!(site.service.asked().len(), asked);
}

#[tokio::test]
async fn another_version_in_effect_is_412() {
    let stale = ServiceError::PreconditionFailed { detail: "another version".to_owned() };
    let site =
        Site::new(Script { define: Err(stale.clone()), change: Err(stale), ..Script::default() });
    for method in ["PUT", "PATCH", "POST"] {
        let reply = ask(&site, method, &[("if-match", TAG)]).await;
        reply.problem(412, "precondition-failed");
    }
}

#[tokio::test]
async fn a_change_shows_its_warnings() {
    let warnings = vec!["title was removed".to_owned(), "quota is 0".to_owned()];
    let site =
        Site::new(Script { define: Ok((false, view("spring"))), warnings, ..Script::default() });
    for method in ["PUT", "PATCH"] {
        let reply = ask(&site, method, &[]).await;
        assert_eq!(reply.status, 200);
        let end = r#","warnings":["title was removed","quota is 0"]}"#;
        assert!(reply.body.ends_with(end), "{}", reply.body);
    }
    assert!(!ask(&site, "GET", &[]).await.body.contains("warnings"));
}

#[tokio::test]
async fn an_impossible_id_of_a_new_campaign_names_the_rule() {
    let site = Site::new(Script::default());
    for id in ["Summer_Sale", "2026.spring", "-a", "%ff", &"a".repeat(65)] {
        let path = format!("/admin/campaigns/{id}");
        let reply = site.admin(admitted(send("PUT", &path, r#"{"quota":1}"#))).await;
        assert_eq!(reply.faults(), ["campaign_id"], "{id}");
        let rule = &reply.problem(422, "invalid")["errors"][0]["rule"];
        assert_eq!(rule, CampaignId::RULE);
    }
    assert_eq!(site.service.asked(), Vec::<String>::new());
}
