//! The loop against a responder on this machine, in real time: what it counts, never how fast it is.

use std::{convert::Infallible, net::SocketAddr};

use http_body_util::Full;
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use super::{pool::Answer, *};
use crate::rehearse::{
    outcomes::Outcome,
    scenario::{Kind, Stage},
};

fn scenario(rate: f64, users: Option<u64>) -> Scenario {
    Scenario {
        name: "x".into(),
        title: "x".into(),
        about: String::new(),
        kind: Kind::Open,
        quota: 1,
        per_user_limit: 1,
        campaigns: 1,
        users,
        keys_per_user: 0,
        opens_after: None,
        slow_clients: 0,
        connections: 4,
        stages: vec![Stage { seconds: 0.2, from: rate, to: rate }],
        targets: Vec::new(),
    }
}

/// Answers a `POST` with 202 for the first user and "issued" for the others, a `GET` with "sold out".
async fn respond(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    use http_body_util::BodyExt;
    let is_get = request.method() == hyper::Method::GET;
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let text = String::from_utf8_lossy(&body);
    let (status, body) = if is_get {
        (200, r#"{"status":"rejected","reason":"sold_out"}"#)
    } else if text.contains("r-1\"") {
        (202, r#"{"request_id":"abc","status":"pending"}"#)
    } else {
        (200, r#"{"status":"issued"}"#)
    };
    let mut response = Response::new(Full::new(Bytes::from_static(body.as_bytes())));
    *response.status_mut() = status.try_into().unwrap();
    Ok(response)
}

async fn responder() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let connection =
                http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(respond));
            tokio::spawn(connection);
        }
    });
    address
}

async fn loaded(api: Vec<String>, scenario: Scenario, answers: Option<PathBuf>) -> Tally {
    let tally = Arc::new(Mutex::new(Tally::new(scenario.stages.len())));
    let campaigns = vec!["c".to_owned()];
    let plan = Plan { scenario, api, campaigns, run: "r".into(), seed: 1, answers };
    let mut running = start(plan, tally.clone(), CancellationToken::new()).unwrap();
    running.end().await.unwrap();
    Arc::into_inner(tally).unwrap().into_inner()
}

#[tokio::test]
async fn every_due_request_has_exactly_one_outcome() {
    let folder = tempfile::tempdir().unwrap();
    let answers = folder.path().join("answers");
    let api = vec![format!("http://{}", responder().await)];
    let tally = loaded(api, scenario(500.0, None), Some(answers.clone())).await;
    let outcomes = &tally.outcomes;
    assert_eq!((outcomes.requests, outcomes.issued), (100, 99), "{outcomes:?}");
    assert_eq!(outcomes.rejected["sold_out"], 1, "a pending request is asked for again");
    assert_eq!(outcomes.sum(), outcomes.requests);
    assert_eq!(tally.decision.count(), 100);
    // The pending one has two answers.
    let answers = std::fs::read_to_string(answers).unwrap();
    assert_eq!(answers.lines().count(), 101);
    assert!(answers.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()));
}

#[tokio::test]
async fn a_node_that_is_away_fails_requests_and_slows_none() {
    // Nothing listens there: the port was free, and is again.
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let tally = loaded(vec![format!("http://{address}")], scenario(500.0, None), None).await;
    assert_eq!(tally.outcomes.requests, 100);
    assert_eq!(tally.outcomes.failed["no_connection"], 100);
}

#[test]
fn answers_are_told_apart() {
    let told = |status: u16, body: &str| {
        let (status, body) = (status.try_into().unwrap(), Bytes::from(body.to_owned()));
        ask::outcome(&Answer { status, headers: hyper::HeaderMap::new(), body })
    };
    let problem = |slug: &str| format!(r#"{{"type":"https://x/{slug}","status":409}}"#);
    assert_eq!(told(200, r#"{"status":"already_issued"}"#), Outcome::AlreadyIssued);
    assert_eq!(
        told(200, r#"{"status":"rejected","reason":"not_open_yet"}"#),
        Outcome::Rejected("not_open_yet")
    );
    assert_eq!(told(409, &problem("sold-out")), Outcome::Refused("sold_out"));
    assert_eq!(told(409, &problem("something")), Outcome::Failed("unexpected"));
    assert_eq!(told(429, &problem("user-rate")), Outcome::Refused("too_many"));
    assert_eq!(told(503, &problem("outcome-unknown")), Outcome::Failed("outcome_unknown"));
    assert_eq!(told(500, "oops"), Outcome::Failed("unexpected"));
    assert_eq!(told(202, "{}"), Outcome::Undecided);
}

#[test]
fn the_same_seed_draws_the_same_users() {
    let draw = |seed| {
        let mut scenario = scenario(1.0, Some(10));
        scenario.keys_per_user = 2;
        let mut draw = Draw::new(&scenario, "r".into(), 3, seed);
        (0..20).map(|_| draw.next()).collect::<Vec<_>>()
    };
    assert_eq!(draw(1), draw(1));
    assert_ne!(draw(1), draw(2));
    assert!(draw(1).iter().all(|asked| asked.campaign < 3 && asked.key.is_some()));
}
