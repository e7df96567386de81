//! What `POST /coupon/issue` takes as a user and a key, and what it ignores.

use super::{
    issue::{BODY, post, taken},
    *,
};

#[tokio::test]
async fn idempotency_keys_are_passed_on_or_refused() {
    let site = Site::new(taken(None));
    let longest = "k".repeat(255);
    let quoted = format!("\"{longest}\"");
    for (sent, key) in [
        ("k", "k"),
        ("Az09._:-@/+'", "Az09._:-@/+'"),
        ("a\"b\"", "a\"b\""),
        ("\"8e03978e-40d5\"", "8e03978e-40d5"),
        ("\"a\"b\"", "a\"b"),
        (&longest, &longest),
        (&quoted, &longest),
    ] {
        for name in ["idempotency-key", "x-idempotency-key"] {
            let reply = site.public(with(post(BODY), &[(name, sent)])).await;
            assert_eq!(reply.status, 202, "{sent}");
            let asked = format!("issue (\"spring\", \"u1\", Some({key:?}), None)");
            assert_eq!(site.service.asked().last(), Some(&asked));
        }
    }
    let too_long = "k".repeat(256);
    let asked = site.service.asked().len();
    for key in ["", "\"", "\"\"", "\"a", "\"\"a\"\"", "a b", "\u{e9}", &too_long] {
        let reply = site.public(with(post(BODY), &[("idempotency-key", key)])).await;
        assert_eq!(reply.faults(), ["Idempotency-Key"], "{key}");
        let reply = site.public(with(post(BODY), &[("x-idempotency-key", key)])).await;
        assert_eq!(reply.faults(), ["X-Idempotency-Key"], "{key}");
    }
    let twice = with(post(BODY), &[("idempotency-key", "a"), ("idempotency-key", "a")]);
    assert_eq!(site.public(twice).await.faults(), ["Idempotency-Key"]);
    let with_body = with(post(r#"{"campaign_id":""}"#), &[("idempotency-key", " ")]);
    let faults = site.public(with_body).await.faults();
    assert_eq!(faults, ["campaign_id", "user_id", "Idempotency-Key"]);
    assert_eq!(site.service.asked().len(), asked, "nothing of these was asked");
}

#[tokio::test]
async fn both_key_headers_must_have_one_key() {
    let site = Site::new(taken(None));
    let both = |key: &str, other: &str| {
        with(post(BODY), &[("idempotency-key", key), ("x-idempotency-key", other)])
    };
    assert_eq!(site.public(both("a", "a")).await.status, 202);
    assert_eq!(site.public(both("a", "\"a\"")).await.status, 202);
    let asked = site.service.asked().len();
    let faults = site.public(both("a", "b")).await.faults();
    assert_eq!(faults, ["X-Idempotency-Key"]);
    assert_eq!(site.public(both("a", "A")).await.faults(), faults);
    assert_eq!(
        site.public(both("", "b c")).await.faults(),
        ["Idempotency-Key", "X-Idempotency-Key"]
    );
    assert_eq!(site.service.asked().len(), asked);
}

#[tokio::test]
async fn a_user_is_visible_ascii_or_digits() {
    let site = Site::new(taken(None));
    let longest = "u".repeat(255);
    for (sent, user) in [
        ("\"ada+promo@example.com\"", "ada+promo@example.com"),
        ("\"o'brien/7?#%\"", "o'brien/7?#%"),
        (r#""\"\\~!""#, "\"\\~!"),
        ("\"\\u0061\"", "a"),
        ("1234", "1234"),
        ("0", "0"),
        ("123456789012345678901234567890", "123456789012345678901234567890"),
        (&format!("\"{longest}\""), &longest),
    ] {
        let body = format!(r#"{{"campaign_id":"spring","user_id": {sent} }}"#);
        assert_eq!(site.public(post(body)).await.status, 202, "{sent}");
        let asked = format!("issue (\"spring\", {user:?}, None, None)");
        assert_eq!(site.service.asked().last(), Some(&asked));
    }
    let asked = site.service.asked().len();
    let long = format!("\"{longest}u\"");
    let digits = "1".repeat(256);
    for sent in ["\".\"", "\"..\"", "-1", "1.0", "1e3", "-0", "true", "null", "[1]", &long, &digits]
    {
        let body = format!(r#"{{"campaign_id":"spring","user_id":{sent}}}"#);
        assert_eq!(site.public(post(body)).await.faults(), ["user_id"], "{sent}");
    }
    assert_eq!(site.service.asked().len(), asked);
}

#[tokio::test]
async fn unknown_members_and_parameters_are_ignored() {
    let site = Site::new(taken(None));
    let deep = format!("{}1{}", "[{\"a\":".repeat(100), "}]".repeat(100));
    for others in [
        r#""locale":"ko-KR""#,
        r#""Campaign_id":"x","x":1e999,"x":"\ud800""#,
        &format!(r#""deep":{deep}"#),
    ] {
        let body = format!(r#"{{"campaign_id":"spring",{others},"user_id":"u1"}}"#);
        let path = "/coupon/issue?utm_source=mail&wait=5&wait&%ff";
        assert_eq!(site.public(send("POST", path, body)).await.status, 202, "{others}");
    }
    let asked = "issue (\"spring\", \"u1\", None, None)".to_owned();
    assert_eq!(site.service.asked(), [asked.clone(), asked.clone(), asked]);
}

#[tokio::test]
async fn a_near_miss_of_a_missing_member_is_named() {
    let site = Site::new(taken(None));
    for (sent, remedy) in [
        ("userId", "add the field; \"userId\" is not its name"),
        ("user-id", "add the field; \"user-id\" is not its name"),
        ("uesrid", "add the field"),
        ("usr_id", "add the field; \"usr_id\" is not its name"),
        ("locale", "add the field"),
    ] {
        let body = format!(r#"{{"campaign_id":"spring","{sent}":"u1"}}"#);
        let problem = site.public(post(body)).await.problem(422, "invalid");
        assert_eq!(problem["errors"][0]["field"], "user_id");
        assert_eq!(problem["errors"][0]["remedy"], remedy);
    }
    let typo = site.public(post(r#"{"user_id":"u1","campaignid":"spring"}"#)).await;
    assert!(typo.body.contains("campaignid"), "{}", typo.body);
}
