//! Real answers match the schemas of `openapi.json`, and have no member that no schema names.

use serde_json::json;

use super::*;

/// `openapi.json`.
struct Description(Value);

impl Description {
    fn load() -> Self {
        Self(serde_json::from_str(include_str!("../openapi.json")).unwrap())
    }

    /// Follows a reference, if the node is one.
    fn resolved<'a>(&'a self, node: &'a Value) -> &'a Value {
        let Some(reference) = node["$ref"].as_str() else { return node };
        let target = self.0.pointer(reference.strip_prefix('#').unwrap()).unwrap();
        self.resolved(target)
    }

    /// Asserts that an answer fits the schema of its status and content type.
    #[track_caller]
    fn check(&self, method: &str, path: &str, reply: &Reply) {
        let call = format!("{method} {path} answers {}", reply.status);
        let response = &self.0["paths"][path][method]["responses"][reply.status.to_string()];
        let content_type = reply.header("content-type").unwrap();
        let schema = &self.resolved(response)["content"][content_type]["schema"];
        assert!(schema.is_object(), "{call} with {content_type}, which has no schema");
        let body: Value = serde_json::from_str(&reply.body).unwrap();
        let misfits = self.misfits(schema, &body, "body");
        assert_eq!(misfits, Vec::<String>::new(), "{call}: {}", reply.body);
    }

    /// Lists where a value does not fit a schema.
    fn misfits(&self, schema: &Value, value: &Value, at: &str) -> Vec<String> {
        let schema = self.resolved(schema).as_object().unwrap();
        let length = value.as_str().map(|text| text.chars().count() as u64);
        let mut misfits = Vec::new();
        for (keyword, rule) in schema {
            let fits = match keyword.as_str() {
                "type" => match rule {
                    Value::Array(types) => types.iter().any(|rule| is_of_type(value, rule)),
                    rule => is_of_type(value, rule),
                },
                "const" => value == rule,
                "enum" => rule.as_array().unwrap().contains(value),
                "minimum" => value.as_u64() >= rule.as_u64(),
                "maximum" => value.as_u64() <= rule.as_u64(),
                "minLength" => length >= rule.as_u64(),
                "maxLength" => length <= rule.as_u64(),
                "required" => {
                    let mut names = rule.as_array().unwrap().iter();
                    names.all(|name| value.get(name.as_str().unwrap()).is_some())
                }
                "properties" | "items" | "pattern" | "format" | "description" | "default" => true,
                // A keyword that is not checked here would be a rule that no answer has to keep.
                other => panic!("add {other} to this check"),
            };
            if !fits {
                misfits.push(format!("{at} breaks {keyword} {rule}"));
            }
        }
        for (index, item) in value.as_array().into_iter().flatten().enumerate() {
            misfits.extend(self.misfits(
                schema.get("items").unwrap(),
                item,
                &format!("{at}[{index}]"),
            ));
        }
        for (name, member) in value.as_object().into_iter().flatten() {
            match schema.get("properties").and_then(|members| members.get(name)) {
                Some(schema) => {
                    misfits.extend(self.misfits(schema, member, &format!("{at}.{name}")));
                }
                None => misfits.push(format!("{at}.{name} is not described")),
            }
        }
        misfits
    }
}

fn is_of_type(value: &Value, rule: &Value) -> bool {
    match rule.as_str().unwrap() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_u64(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => panic!("add the type {other} to this check"),
    }
}

#[tokio::test]
async fn issue_answers_match_the_description() {
    let description = Description::load();
    let body = r#"{"campaign_id":"spring","user_id":"u1"}"#;
    let waiting = || with(send("POST", "/coupon/issue", body), &[("prefer", "wait=1")]);
    let pending = Site::new(Script::default());
    description.check("post", "/coupon/issue", &pending.public(waiting()).await);
    for (answer, _) in decisions() {
        let issue = Ok(IssueReply { request_id: "r-1".into(), answer: Some(answer), waited: true });
        let site = Site::new(Script { issue, ..Script::default() });
        description.check("post", "/coupon/issue", &site.public(waiting()).await);
    }
}

#[test]
fn every_reason_and_state_is_described() {
    let Description(document) = Description::load();
    let listed = |schema: &str, member: &str| {
        document["components"]["schemas"][schema]["properties"][member]["enum"].clone()
    };
    assert_eq!(listed("Decision", "reason"), json!(Reason::ALL.map(Reason::name)));
    let states: Vec<_> = CampaignState::all().map(CampaignState::name).collect();
    assert_eq!(listed("Campaign", "state"), json!(states));
}

#[tokio::test]
async fn issue_errors_match_the_description() {
    let description = Description::load();
    let body = r#"{"campaign_id":"spring","user_id":"u1"}"#;
    let retry_after = Duration::from_secs(1);
    let (detail, reason) = ("the log".to_owned(), "a contradiction".to_owned());
    for error in [
        ServiceError::UnknownCampaign,
        ServiceError::CertainRejection(Reason::SoldOut),
        ServiceError::UserRateLimited { retry_after },
        ServiceError::Overloaded { detail: detail.clone(), retry_after },
        ServiceError::Halted { reason },
        ServiceError::OutcomeUnknown { detail: detail.clone() },
        ServiceError::Unavailable { detail },
    ] {
        let site = Site::new(Script { issue: Err(error), ..Script::default() });
        let reply = site.public(send("POST", "/coupon/issue", body)).await;
        description.check("post", "/coupon/issue", &reply);
    }
    let site = Site::behind_gateway(Script::default());
    for request in [
        send("POST", "/coupon/issue", body),
        with(send("POST", "/coupon/issue", body), &[("x-user", "u2")]),
        with(send("POST", "/coupon/issue", "{}"), &[("x-user", "u1")]),
        with(send("POST", "/coupon/issue", "{"), &[("x-user", "u1")]),
        with(send("POST", "/coupon/issue", " ".repeat(1_025)), &[("x-user", "u1")]),
        with(send("POST", "/coupon/issue", body), &[("x-user", "u1"), ("content-type", "a/b")]),
    ] {
        description.check("post", "/coupon/issue", &site.public(request).await);
    }
}

#[tokio::test]
async fn reads_match_the_description() {
    let description = Description::load();
    let mut titled = view("a");
    titled.definition.terms.title = Some("Frühling".to_owned());
    let campaigns = Ok(vec![titled, view("b")]);
    let site = Site::new(Script { campaigns, ..Script::default() });
    for (path, url) in [
        ("/coupon/requests/{request_id}", "/coupon/requests/r-1"),
        ("/coupon/requests/{request_id}", "/coupon/requests/r-1?wait=31"),
        ("/campaigns", "/campaigns"),
        ("/campaigns", "/campaigns?limit=1"),
        ("/campaigns/{campaign_id}", "/campaigns/spring"),
        ("/campaigns/{campaign_id}", "/campaigns/-"),
        ("/campaigns/{campaign_id}/users/{user_id}/coupons", "/campaigns/spring/users/u1/coupons"),
        ("/campaigns/{campaign_id}/users/{user_id}/coupons", "/campaigns/spring/users/%ff/coupons"),
    ] {
        description.check("get", path, &site.public(get(url)).await);
    }
    for (answer, _) in decisions() {
        let find = Ok(found("u1", RequestStatus::Decided(answer)));
        let site = Site::new(Script { find, ..Script::default() });
        let reply = site.public(get("/coupon/requests/r-1")).await;
        description.check("get", "/coupon/requests/{request_id}", &reply);
    }
}

#[test]
fn a_member_without_a_schema_is_found() {
    let description = Description::load();
    let schema = &description.0["components"]["schemas"]["Coupons"];
    let as_of = json!({ "log_epoch": 1, "partition": 0, "offset": 7 });
    let coupons = json!([{ "sequence": 0, "code": "A", "extra": 1 }]);
    let body = json!({ "coupons": coupons, "as_of": as_of });
    let misfits = description.misfits(schema, &body, "body");
    assert_eq!(
        misfits,
        [
            "body.coupons[0] breaks required [\"sequence\",\"code\",\"issued_at\"]",
            "body.coupons[0].extra is not described",
            "body.coupons[0].sequence breaks minimum 1",
        ]
    );
}
