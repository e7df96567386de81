//! Client commands against a scripted listener: the request, the output and the exit code.

use std::{net::SocketAddr, path::Path, sync::Arc};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, Method, StatusCode, Uri},
};
use clap::Parser;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{arguments::Arguments, *};
use crate::{api::service::ControlVerb, config::Config};

/// A listener that gives prepared answers in order and records the requests.
struct Listener {
    url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

#[derive(Debug, Clone, PartialEq)]
struct Asked {
    line: String,
    body: Value,
    headers: HeaderMap,
}

impl Asked {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

type Answers = Arc<Mutex<Vec<(u16, String)>>>;

impl Listener {
    async fn answering(answers: &[(u16, Value)]) -> Self {
        let text = |body: &Value| if body.is_null() { String::new() } else { body.to_string() };
        let answers = answers.iter().rev().map(|(status, body)| (*status, text(body))).collect();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let state: (Arc<Mutex<Vec<Asked>>>, Answers) =
            (asked.clone(), Arc::new(Mutex::new(answers)));
        let router = Router::new().fallback(answer).with_state(state);
        let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address: SocketAddr = socket.local_addr().unwrap();
        // Ends with the runtime of its test.
        tokio::spawn(async move { axum::serve(socket, router).await });
        Self { url: format!("http://{address}"), asked }
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().clone()
    }
}

async fn answer(
    State((asked, answers)): State<(Arc<Mutex<Vec<Asked>>>, Answers)>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, String) {
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    asked.lock().push(Asked { line: format!("{method} {uri}"), body, headers });
    let (status, body) = answers.lock().pop().unwrap_or((500, "asked twice".into()));
    (StatusCode::from_u16(status).unwrap(), body)
}

/// Returns settings with a temporary data folder, so that no token of this machine is found.
fn config(folder: &Path) -> Config {
    let mut config = Config::default();
    config.embedded.dir = folder.to_owned();
    config
}

/// Returns output and exit code of `coupond LINE`.
async fn said(config: &Config, line: &str) -> (String, u8) {
    let words = std::iter::once("coupond").chain(line.split_whitespace());
    let (_, command) = Arguments::try_parse_from(words).unwrap().settled();
    let done = match command {
        Command::Campaign(campaign) => campaign::run(config, campaign).await,
        Command::Issue(issue) => issue::run(config, issue).await,
        Command::Skip(skip) => campaign::skip(config, skip).await,
        Command::Health(health) => campaign::health(config, health).await,
        other => panic!("not a client's command: {other:?}"),
    };
    match done {
        Ok(done) => (done.text, done.exit_code),
        Err(error) => {
            let error = CliError::from(error);
            let text = error.json().map_or_else(|| error.describe(), ToOwned::to_owned);
            (text, error.exit_code())
        }
    }
}

fn campaign(id: &str) -> Value {
    json!({
        "campaign_id": id, "state": "open", "quota": 10, "issued": 1, "remaining": 9,
        "per_user_limit": 1, "opens_at": null, "closes_at": null,
        "as_of": {"log_epoch": 1, "partition": 0, "offset": 5},
    })
}

fn sold_out() -> Value {
    json!({
        "type": "https://coupond.example/problems/sold-out", "title": "Sold out", "status": 409,
        "detail": "every coupon is issued", "coupons": "/campaigns/spring/users/ada/coupons",
    })
}

/// Runs one command against one answer, and compares request, output and exit code.
#[track_caller]
fn check(line: &str, answer: (u16, Value), asked: (&str, Value), said_text: &str, code: u8) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (said, seen, url) = runtime.block_on(async {
        let listener = Listener::answering(&[answer]).await;
        let line = line.replace("URL", &listener.url);
        (said(&config(folder.path()), &line).await, listener.asked(), listener.url)
    });
    assert_eq!(said, (said_text.replace("URL", &url), code), "{line}");
    let seen: Vec<_> = seen.iter().map(|asked| (&*asked.line, asked.body.clone())).collect();
    assert_eq!(seen, [asked], "{line}");
}

const SHOWN: &str = "\
campaign id     spring
state           open
quota           10
issued          1
remaining       9
per user limit  1
opens at        -
closes at       -
as of           log epoch 1, offset 5, partition 0
";

#[test]
fn create_sends_only_given_options() {
    check(
        "campaign create spring --quota 10 --admin URL",
        (201, campaign("spring")),
        ("PUT /admin/campaigns/spring", json!({"quota": 10})),
        SHOWN,
        0,
    );
    check(
        "campaign create spring --quota 10 --per-user-limit 2 --opens-at 2027-01-01T12:00:00Z \
         --closes-at 2027-01-02T12:00:00Z --code-prefix -S- --code-length 20 --code-charset abc \
         --admin URL",
        (200, campaign("spring")),
        (
            "PUT /admin/campaigns/spring",
            json!({
                "quota": 10, "per_user_limit": 2, "opens_at": "2027-01-01T12:00:00Z",
                "closes_at": "2027-01-02T12:00:00Z",
                "code": {"prefix": "-S-", "length": 20, "charset": "abc"},
            }),
        ),
        SHOWN,
        0,
    );
}

#[test]
fn an_export_has_what_apply_takes() {
    let view = json!({
        "campaign_id": "spring", "state": "open", "quota": 10, "per_user_limit": 1,
        "opens_at": null, "closes_at": null, "listed": true, "issued": 3, "remaining": 7,
        "code": {"prefix": "S-", "length": 16},
    });
    let shown = "{\n  \"campaign_id\": \"spring\",\n  \"code\": {\n    \"length\": 16,\n    \
                 \"prefix\": \"S-\"\n  },\n  \"listed\": true,\n  \"per_user_limit\": 1,\n  \
                 \"quota\": 10\n}\n";
    let asked = ("GET /admin/campaigns/spring", Value::Null);
    check("campaign export spring --admin URL", (200, view), asked, shown, 0);
}

#[test]
fn amend_sends_only_given_options() {
    check(
        "campaign amend spring --quota 20 --closes-at none --admin URL",
        (200, campaign("spring")),
        ("PATCH /admin/campaigns/spring", json!({"quota": 20, "closes_at": null})),
        SHOWN,
        0,
    );
}

#[test]
fn each_verb_has_its_endpoint() {
    check(
        "campaign show spring --admin URL",
        (200, campaign("spring")),
        ("GET /admin/campaigns/spring", Value::Null),
        SHOWN,
        0,
    );
    for verb in ControlVerb::ALL.iter().map(|verb| verb.name()) {
        check(
            &format!("campaign {verb} spring --admin URL"),
            (200, Value::Null),
            (&format!("POST /admin/campaigns/spring/{verb}"), Value::Null),
            "done\n",
            0,
        );
    }
    check(
        "campaign show spring --json --admin URL",
        (200, json!({"campaign_id": "spring"})),
        ("GET /admin/campaigns/spring", Value::Null),
        "{\"campaign_id\":\"spring\"}\n",
        0,
    );
}

#[test]
fn a_skip_names_its_partition_offset_and_reason() {
    let line = "skip 3 --offset 100 --reason lost --admin URL";
    let asked = ("POST /admin/partitions/3/skip", json!({"offset": 100, "reason": "lost"}));
    let made = json!({
        "partition": 3, "from": 100, "to": 110, "state": "made", "reason": "lost", "by": "token",
    });
    let shown = "\
reason     lost
state      made
by         token
from       100
partition  3
to         110
";
    check(line, (200, made), asked.clone(), shown, 0);
    let refused = json!({
        "type": "/problems/not-skippable", "title": "Range cannot be skipped", "status": 409,
        "detail": "a row stands there", "campaign_id": "spring", "offset": 105,
    });
    let shown = "coupond: Range cannot be skipped (409)\n  a row stands there\n  campaign id: spring\n  \
                 offset: 105";
    check(line, (409, refused), asked, shown, 1);
}

#[test]
fn problems_are_shown_as_text_or_json() {
    let invalid = json!({
        "type": "/problems/invalid", "title": "Invalid definition", "status": 422,
        "detail": "quota must be 0 to 100000000",
        "errors": [{"field": "quota", "rule": "0 to 100000000", "remedy": "give such a number"}],
    });
    let asked = ("PUT /admin/campaigns/spring", json!({"quota": 100000001}));
    check(
        "campaign create spring --quota 100000001 --admin URL",
        (422, invalid.clone()),
        asked.clone(),
        "coupond: Invalid definition (422)\n  quota: must be 0 to 100000000; give such a number",
        1,
    );
    check(
        "campaign create spring --quota 100000001 --admin URL --json",
        (422, invalid.clone()),
        asked,
        &format!("{invalid}\n"),
        1,
    );
}

#[test]
fn a_bad_title_is_shown_with_its_rule() {
    let remedy = "shorten it, or leave it out";
    let invalid = json!({
        "type": "/problems/invalid", "title": "Invalid request", "status": 422,
        "detail": "title must be 1 to 120 characters",
        "errors": [{"field": "title", "rule": "1 to 120 characters", "remedy": remedy}],
    });
    let title = "x".repeat(121);
    for (call, method) in [("create spring --quota 1", "PUT"), ("amend spring --quota 1", "PATCH")]
    {
        check(
            &format!("campaign {call} --title {title} --admin URL"),
            (422, invalid.clone()),
            (&format!("{method} /admin/campaigns/spring"), json!({"quota": 1, "title": title})),
            &format!(
                "coupond: Invalid request (422)\n  title: must be 1 to 120 characters; {remedy}"
            ),
            1,
        );
    }
}

#[test]
fn issue_shows_the_decision() {
    let asked = ("POST /coupon/issue", json!({"campaign_id": "spring", "user_id": "ada"}));
    check(
        "issue spring ada --api URL",
        (
            200,
            json!({
                "request_id": "r1", "campaign_id": "spring", "user_id": "ada",
                "status": "issued", "coupon": {
                    "sequence": 17, "code": "S-1", "issued_at": "2027-01-01T12:00:00.000Z",
                },
            }),
        ),
        asked.clone(),
        "\
status       issued
coupon       code S-1, issued at 2027-01-01T12:00:00.000Z, sequence 17
campaign id  spring
user id      ada
request id   r1
",
        0,
    );
    check(
        "issue spring ada --api URL",
        (202, json!({"request_id": "r1", "status": "pending"})),
        asked.clone(),
        "status      pending\nrequest id  r1\n\
         get the decision with: curl 'URL/coupon/requests/r1?wait=30'\n",
        0,
    );
    check(
        "issue spring ada --api URL",
        (200, json!({"status": "rejected", "reason": "sold_out"})),
        asked.clone(),
        "status  rejected\nreason  sold_out\n",
        1,
    );
    check(
        "issue spring ada --api URL",
        (409, sold_out()),
        asked,
        "coupond: Sold out (409)\n  every coupon is issued\n  coupons: \
         /campaigns/spring/users/ada/coupons",
        1,
    );
}

#[tokio::test]
async fn issue_options_become_headers() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    config.api.identity = crate::config::Identity::Header("x-user".to_owned());
    let pending = |id: &str| (202, json!({"request_id": id, "status": "pending"}));
    let listener = Listener::answering(&[pending("r1"), pending("r';x")]).await;
    let (first, _) = said(&config, &format!("issue spring ada --api {}", listener.url)).await;
    let url = format!("{}/coupon/requests/r1?wait=30", listener.url);
    assert!(first.ends_with(&format!("with: curl -H 'x-user: ada' '{url}'\n")), "{first}");
    let line = format!("issue spring ada --wait 0 --key k:1 --api {}", listener.url);
    let (second, _) = said(&config, &line).await;
    assert_eq!(second, "status      pending\nrequest id  r';x\n");
    let asked = listener.asked();
    assert_eq!(asked[0].header("prefer"), Some("wait=5"));
    assert_eq!(asked[0].header("idempotency-key"), None);
    assert_eq!(asked[0].header("x-user"), Some("ada"));
    assert_eq!(asked[1].header("prefer"), Some("wait=0"));
    assert_eq!(asked[1].header("idempotency-key"), Some("k:1"));
    assert_eq!(asked[1].header("authorization"), None);
}

#[tokio::test]
async fn tokens_of_user_and_gateway_are_sent() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    config.api.identity = crate::config::Identity::Jwt;
    config.api.gateway_token = Some("of-the-gateway".into());
    let (refused, code) = said(&config, "issue spring ada").await;
    assert!(code == 2 && refused.contains("--user-token-file"), "{code} {refused}");
    let file = folder.path().join("token");
    std::fs::write(&file, "a.b.c\n").unwrap();
    let pending = (202, json!({"request_id": "r1", "status": "pending"}));
    let listener = Listener::answering(&[pending]).await;
    let (url, file) = (&listener.url, file.display());
    let line = format!("issue spring ada --api {url} --user-token-file {file}");
    let (shown, _) = said(&config, &line).await;
    let headers = "-H \"Authorization: Bearer $TOKEN\" -H \"X-Coupond-Gateway: $GATEWAY\"";
    let curl = format!("with: curl {headers} '{url}/coupon/requests/r1?wait=30'\n");
    assert!(shown.ends_with(&curl), "{shown}");
    let asked = listener.asked();
    assert_eq!(asked[0].header("authorization"), Some("Bearer a.b.c"));
    assert_eq!(asked[0].header("x-coupond-gateway"), Some("of-the-gateway"));
}

#[tokio::test]
async fn list_reads_every_page() {
    let folder = tempfile::tempdir().unwrap();
    let pages = [
        (200, json!({"campaigns": [campaign("a"), campaign("b")], "next": "b"})),
        (200, json!({"campaigns": [campaign("c")]})),
        (200, json!({"campaigns": []})),
    ];
    let listener = Listener::answering(&pages).await;
    let line = format!("campaign list --admin {}", listener.url);
    let (text, code) = said(&config(folder.path()), &line).await;
    assert_eq!(code, 0);
    assert_eq!(
        text,
        "\
CAMPAIGN  STATE  QUOTA  ISSUED  REMAINING  PER USER LIMIT  OPENS AT  CLOSES AT
a         open      10       1          9               1  -         -
b         open      10       1          9               1  -         -
c         open      10       1          9               1  -         -
"
    );
    let lines: Vec<_> = listener.asked().into_iter().map(|asked| asked.line).collect();
    assert_eq!(
        lines,
        ["GET /admin/campaigns?limit=1000", "GET /admin/campaigns?limit=1000&after=b"]
    );
    let (text, _) = said(&config(folder.path()), &format!("{line} --json")).await;
    assert_eq!(text, "{\"campaigns\":[]}\n");
}

#[tokio::test]
async fn the_token_has_three_sources_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    let answers = vec![(200, campaign("spring")); 4];
    let listener = Listener::answering(&answers).await;
    let line = format!("campaign show spring --admin {}", listener.url);
    said(&config, &line).await;
    std::fs::write(folder.path().join("admin.token"), "kept\n").unwrap();
    said(&config, &line).await;
    config.admin.token = Some("set".into());
    said(&config, &line).await;
    said(&config, &format!("{line} --token given")).await;
    let asked = listener.asked();
    let tokens: Vec<_> = asked.iter().map(|asked| asked.header("authorization")).collect();
    assert_eq!(tokens, [None, Some("Bearer kept"), Some("Bearer set"), Some("Bearer given")]);
}

#[tokio::test]
async fn health_sends_no_token() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("admin.token"), "kept").unwrap();
    let not_ready = json!({
        "type": "x", "title": "Not ready", "status": 503, "detail": "partition 3 is loading",
    });
    let listener = Listener::answering(&[(200, json!({})), (503, not_ready)]).await;
    let line = format!("health --admin {}", listener.url);
    assert_eq!(said(&config(folder.path()), &line).await, ("ready\n".to_owned(), 0));
    assert_eq!(
        said(&config(folder.path()), &line).await,
        ("coupond: Not ready (503)\n  partition 3 is loading".to_owned(), 1)
    );
    let asked = listener.asked();
    assert!(asked.iter().all(|asked| asked.line == "GET /health/ready"), "{asked:?}");
    assert!(asked.iter().all(|asked| asked.header("authorization").is_none()), "{asked:?}");
}

#[tokio::test]
async fn unreachable_and_foreign_nodes_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", socket.local_addr().unwrap());
    drop(socket);
    let (text, code) = said(&config, &format!("health --admin {url}")).await;
    assert!(text.starts_with(&format!("coupond: no answer from {url}/: ")), "{text}");
    assert!(text.ends_with("start a node with `coupond`, or pass its URL with --admin"), "{text}");
    assert_eq!(code, 1);

    let foreign = Listener::answering(&[(404, Value::String("<html>".into()))]).await;
    let (text, code) = said(&config, &format!("health --admin {}", foreign.url)).await;
    assert!(text.contains("is not a coupond node"), "{text}");
    assert_eq!(code, 1);

    for url in ["ftp://h:1", "h:1", "http://", "http://h:1?x=1"] {
        let (text, code) = said(&config, &format!("health --admin {url}")).await;
        assert_eq!(code, 2, "{url}: {text}");
    }
}

#[test]
fn repeated_causes_are_shown_once() {
    let inner = std::io::Error::other("no space");
    let error = CliError::Runtime(std::io::Error::other(inner));
    assert_eq!(error.describe(), "coupond: starting the runtime\n  caused by: no space");
}
