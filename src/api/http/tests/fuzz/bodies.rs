//! Bodies: how they are declared and sent, and what is in them.

use std::collections::BTreeSet;

use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, HeaderName, HeaderValue},
};
use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use super::told;
use crate::{
    api::http::{
        body, caller,
        definition::{self, TermsBody},
        fields, json,
        problem::Problem,
        public,
    },
    api::service::SKIP_REASON_MAX,
    domain::{
        definition::{Audience, Terms},
        identity_fold::IdentityFold,
    },
    fuzz,
};

/// A body of each call that takes one, with every optional member, and without.
const VALID: [&str; 10] = [
    r#"{"campaign_id":"spring","user_id":123456789012345678901234567890}"#,
    r#"{"campaign_id":"spring","user_id":"u.1_:@-","locale":1}"#,
    r#" {"quota":100000000,"title":"\u00fc \"1\"","listed":false,"per_user_limit":1000,"opens_at":"2026-11-27T12:00:00.5+09:00","closes_at":"9999-12-31T23:59:59.999Z","code":{"prefix":"A-1","length":64,"charset":"01"}}"#,
    r#"{"quota":0}"#,
    r#"{"quota":5,"code":{}}"#,
    r#"{"opens_at":null,"title":null}"#,
    r#"{"quota":7,"listed":true}"#,
    r#"{"offset":18446744073709551615,"reason":"a disk was lost"}"#,
    "{}",
    "",
];

#[test]
fn what_a_body_says_is_sound_or_is_blamed() {
    let valid: Vec<_> = VALID.iter().map(|body| body.as_bytes().to_vec()).collect();
    let outcomes = ["request", "terms", "amendment", "skip", "nothing", "400", "422"];
    fuzz::run(&valid, &outcomes, |body, random| {
        let (outcome, read) = match random.below(5) {
            0 => ("request", request(body)),
            1 => ("terms", terms(body)),
            2 => ("amendment", amendment(body)),
            3 => ("skip", skip(body)),
            _ => ("nothing", nothing(body)),
        };
        let Err(problem) = read else { return outcome };
        let is_json =
            std::str::from_utf8(body).is_ok() && serde_json::from_slice::<IgnoredAny>(body).is_ok();
        let (status, blamed) = told(problem);
        assert!(!blamed.is_empty());
        assert_eq!(status, if is_json { 422 } else { 400 });
        if is_json { "422" } else { "400" }
    });
}

/// Returns the members of a body that was read. None is given twice, at any depth that is read.
fn members(body: &[u8]) -> Map<String, Value> {
    let document: Value = serde_json::from_slice(body).unwrap();
    let read = fields::object(body).unwrap();
    let names: BTreeSet<_> = read.iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), read.len(), "a member is given twice");
    for (name, member) in &read {
        if let Ok(inner) = fields::nested(member.clone()) {
            let names: BTreeSet<_> = inner.iter().map(|(name, _)| name).collect();
            assert_eq!(names.len(), inner.len(), "a member of {name} is given twice");
        }
    }
    document.as_object().unwrap().clone()
}

fn request(body: &[u8]) -> Result<(), Problem> {
    let request = public::issue_request(&HeaderMap::new(), body, None, IdentityFold::None)?;
    // Members of other names are ignored, also when they are given twice.
    let members: Map<String, Value> = serde_json::from_slice(body).unwrap_or_default();
    assert_eq!(members["campaign_id"], request.campaign.as_str());
    match &members["user_id"] {
        Value::Number(_) => {
            assert!(request.user.as_str().bytes().all(|byte| byte.is_ascii_digit()))
        }
        user => assert_eq!(*user, request.user.as_str()),
    }
    Ok(())
}

fn terms(body: &[u8]) -> Result<(), Problem> {
    let terms = definition::terms(body)?;
    assert_eq!(terms.faults(), []);
    assert!(members(body).contains_key("quota"));
    let shown = |audience| {
        let shown = json::to_bytes(&TermsBody { terms: &terms, audience });
        serde_json::from_slice::<Map<String, Value>>(&shown).unwrap()
    };
    let mut all = shown(Audience::Public);
    all.extend(shown(Audience::Admin));
    let again = definition::terms(&serde_json::to_vec(&all).unwrap());
    assert_eq!(again.expect("what is shown is a definition"), terms);
    Ok(())
}

fn amendment(body: &[u8]) -> Result<(), Problem> {
    let amendment = definition::amendment(body)?;
    assert_eq!(Terms::of(1).amended(&amendment).faults(), []);
    let Value::Object(changed) = serde_json::to_value(&amendment).unwrap() else { panic!() };
    let given = members(body);
    assert!(!given.is_empty());
    assert_eq!(changed.keys().collect::<BTreeSet<_>>(), given.keys().collect::<BTreeSet<_>>());
    Ok(())
}

fn skip(body: &[u8]) -> Result<(), Problem> {
    let (offset, reason) = definition::skip(body)?;
    let members = members(body);
    assert_eq!((&members["offset"], &members["reason"]), (&offset.into(), &reason.clone().into()));
    assert!((1..=SKIP_REASON_MAX).contains(&reason.chars().count()));
    assert!(!reason.contains(['\n', '\0']) && !reason.trim().is_empty());
    Ok(())
}

fn nothing(body: &[u8]) -> Result<(), Problem> {
    definition::nothing(body)?;
    assert!(body.trim_ascii().is_empty() || members(body).is_empty());
    Ok(())
}

#[test]
fn a_body_is_read_whole_or_refused() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let valid = [
        "application/json\nidentity\n{\"quota\":5}",
        "APPLICATION/JSON; a=b\n Identity \n",
        "text/plain\ngzip\nabc",
        "application/json|application/json\nidentity|identity\n",
    ];
    let valid: Vec<_> = valid.iter().map(|input| input.as_bytes().to_vec()).collect();
    let outcomes = [
        "read",
        "no header",
        "413 body",
        "415 Content-Type",
        "415 Content-Encoding",
        "422 Content-Type",
    ];
    fuzz::run(&valid, &outcomes, |input, random| {
        let mut parts = input.splitn(3, |byte| *byte == b'\n');
        let mut headers = HeaderMap::new();
        for name in ["content-type", "content-encoding"] {
            let values = parts.next().unwrap_or_default().split(|byte| *byte == b'|');
            // A coding is usually left out.
            let values = values.filter(|_| name == "content-type" || random.one_in(4));
            for value in values {
                let Ok(value) = HeaderValue::from_bytes(value) else { return "no header" };
                headers.append(HeaderName::from_static(name), value);
            }
        }
        let sent = parts.next().unwrap_or_default().to_vec();
        if random.one_in(2) {
            headers.insert("content-length", HeaderValue::from(sent.len()));
        }
        let bytes_max = random.index(100);
        let cut = random.index(sent.len() + 1);
        let chunks = [&sent[..cut], &sent[cut..]]
            .map(|chunk| Ok::<_, String>(Bytes::copy_from_slice(chunk)));
        let body = Body::from_stream(futures_util::stream::iter(chunks));
        let read = runtime.block_on(body::read_json(&headers, body, bytes_max));
        let expected = refusal(&headers).or((sent.len() > bytes_max).then_some("413 body"));
        match read {
            Ok(bytes) => {
                assert_eq!(expected, None);
                assert_eq!(bytes, sent);
                "read"
            }
            Err(problem) => {
                let (status, blamed) = told(problem);
                assert_eq!(Some(format!("{status} {}", blamed.join(" ")).as_str()), expected);
                expected.unwrap_or_default()
            }
        }
    });
}

/// Says how a body with these headers is refused: it is declared as JSON once, and as nothing but
/// `identity`.
fn refusal(headers: &HeaderMap) -> Option<&'static str> {
    let texts = |name: &str| -> Vec<String> {
        let values = headers.get_all(name).iter();
        values.map(|value| String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase()).collect()
    };
    let types = texts("content-type");
    if types.len() > 1 {
        return Some("422 Content-Type");
    }
    let essence = types.first().and_then(|text| text.split(';').next().map(trimmed));
    if essence != Some("application/json") {
        return Some("415 Content-Type");
    }
    let codings = texts("content-encoding");
    let is_plain = codings.len() <= 1 && codings.iter().all(|coding| trimmed(coding) == "identity");
    (!is_plain).then_some("415 Content-Encoding")
}

fn trimmed(text: &str) -> &str {
    text.trim_matches(|letter: char| letter.is_ascii_whitespace())
}

/// An idempotency key is the header's value, by the rule of keys.
#[test]
fn a_key_is_the_one_that_was_sent() {
    let valid = ["key-1", "a:b_c.d", "\"quoted\"", "one\ntwo"];
    let valid: Vec<_> = valid.iter().map(|input| input.as_bytes().to_vec()).collect();
    fuzz::run(&valid, &["key", "refused", "no header"], |input, _| {
        let mut headers = HeaderMap::new();
        for line in input.split(|byte| *byte == b'\n') {
            let Ok(value) = HeaderValue::from_bytes(line) else { return "no header" };
            headers.append(HeaderName::from_static("idempotency-key"), value);
        }
        let mut fields = fields::Fields::new(Vec::new(), "", &[]);
        let key = caller::idempotency_key(&headers, &mut fields);
        let blamed = fields.into_faults();
        match key {
            Some(key) => {
                assert!(blamed.is_empty());
                let quoted = input.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\""));
                assert_eq!(key.as_str().as_bytes(), quoted.unwrap_or(input));
                "key"
            }
            None => {
                assert_eq!(blamed.len(), 1);
                assert_eq!(blamed[0].field, "Idempotency-Key");
                "refused"
            }
        }
    });
}
