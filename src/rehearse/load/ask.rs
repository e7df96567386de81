//! Asks for one coupon, and says what became of it.

use std::{
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use http_body_util::Full;
use hyper::{
    Method, Request, StatusCode,
    body::Bytes,
    header::{CONTENT_TYPE, LOCATION},
};
use parking_lot::Mutex;
use serde::Deserialize;

use super::{
    answers::AnswersFile,
    draw::Asked,
    pool::{Answer, NoAnswer, Pool},
};
use crate::{
    domain::reason::Reason,
    rehearse::{outcomes::Outcome, tally::Tally},
};

/// Times that a pending request is asked for, 10 s each.
const WAITS: usize = 3;

/// Longest time for one answer: twice what a node is asked to wait.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// What every request of a load shares.
#[derive(Debug)]
pub(super) struct Asker {
    pub(super) pools: Vec<Rc<Pool>>,
    pub(super) tally: Arc<Mutex<Tally>>,
    pub(super) answers: Option<AnswersFile>,
    pub(super) campaigns: Vec<String>,
}

/// What is read of a body: a decision, or a problem document.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Body {
    #[serde(deserialize_with = "word")]
    status: String,
    reason: Option<String>,
    r#type: Option<String>,
}

/// The status of a problem document is a number, that of a decision a word.
fn word<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let value = serde_json::Value::deserialize(deserializer)?;
    Ok(value.as_str().unwrap_or_default().to_owned())
}

impl Asker {
    /// Sends a request that was due at `due`, and counts its outcome exactly once.
    pub(super) async fn ask(
        &self,
        asked: Asked,
        node: usize,
        due: Instant,
        due_s: f64,
        stage: usize,
    ) {
        self.tally.lock().sent(due.elapsed());
        let campaign = &self.campaigns[asked.campaign];
        let mut answer = self.call(node, &asked, post(campaign, &asked)).await;
        if let Ok(answer) = &answer {
            self.tally.lock().responded(answer.status.is_success(), due.elapsed(), due_s);
        }
        let mut polled = 0;
        while let Some(path) = pending(&answer) {
            if polled == WAITS {
                break;
            }
            polled += 1;
            // Every node can answer for every request.
            let other = (node + polled) % self.pools.len();
            answer = self.call(other, &asked, get(&path)).await;
        }
        let outcome = match &answer {
            Ok(answer) => outcome(answer),
            Err(NoAnswer::NoConnection) => Outcome::Failed("no_connection"),
            Err(NoAnswer::Broken) => Outcome::Failed("no_answer"),
        };
        self.tally.lock().settled(outcome, due.elapsed(), stage);
    }

    async fn call(
        &self,
        node: usize,
        asked: &Asked,
        request: Request<Full<Bytes>>,
    ) -> Result<Answer, NoAnswer> {
        let sent = self.pools[node].send(request);
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, sent).await;
        let answer = answer.unwrap_or(Err(NoAnswer::Broken));
        if let Some(file) = &self.answers {
            file.add(&self.campaigns[asked.campaign], asked, answer.as_ref().ok());
        }
        answer
    }
}

fn post(campaign: &str, asked: &Asked) -> Request<Full<Bytes>> {
    // Both ids consist of letters, digits and hyphens, which JSON does not escape.
    let body = format!(r#"{{"campaign_id":"{campaign}","user_id":"{}"}}"#, asked.user);
    let mut request = Request::new(Full::new(Bytes::from(body)));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = hyper::Uri::from_static("/coupon/issue");
    let headers = request.headers_mut();
    headers.insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static("application/json"));
    headers.insert("prefer", hyper::header::HeaderValue::from_static("wait=10"));
    if let Some(key) = asked.key.as_ref().and_then(|key| key.parse().ok()) {
        headers.insert("idempotency-key", key);
    }
    request
}

fn get(path: &hyper::Uri) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::default());
    *request.uri_mut() = path.clone();
    request
}

/// Returns where to ask again, if the request is pending.
fn pending(answer: &Result<Answer, NoAnswer>) -> Option<hyper::Uri> {
    let answer = answer.as_ref().ok().filter(|answer| answer.status == StatusCode::ACCEPTED)?;
    let location = answer.headers.get(LOCATION).and_then(|location| location.to_str().ok());
    let path = location.map(str::to_owned).or_else(|| {
        let body: serde_json::Value = serde_json::from_slice(&answer.body).ok()?;
        Some(format!("/coupon/requests/{}", body["request_id"].as_str()?))
    })?;
    format!("{path}?wait=10").parse().ok()
}

/// Returns what an answer says.
pub(super) fn outcome(answer: &Answer) -> Outcome {
    let body: Body = serde_json::from_slice(&answer.body).unwrap_or_default();
    let reason = |name: &str| Reason::ALL.into_iter().find(|reason| reason.name() == name);
    let slug = body.r#type.as_deref().and_then(|kind| kind.rsplit('/').next()).unwrap_or_default();
    match answer.status {
        StatusCode::ACCEPTED => Outcome::Undecided,
        StatusCode::OK => match (body.status.as_str(), body.reason.as_deref().and_then(reason)) {
            ("issued", _) => Outcome::Issued,
            ("already_issued", _) => Outcome::AlreadyIssued,
            ("rejected", Some(reason)) => Outcome::Rejected(reason.name()),
            _ => Outcome::Failed("unexpected"),
        },
        StatusCode::CONFLICT => {
            match Reason::ALL.into_iter().find(|reason| reason.slug() == slug) {
                Some(reason) => Outcome::Refused(reason.name()),
                None => Outcome::Failed("unexpected"),
            }
        }
        StatusCode::TOO_MANY_REQUESTS => Outcome::Refused("too_many"),
        StatusCode::SERVICE_UNAVAILABLE => Outcome::Failed(match slug {
            "overloaded" => "overloaded",
            "outcome-unknown" => "outcome_unknown",
            "halted" => "halted",
            _ => "unavailable",
        }),
        _ => Outcome::Failed("unexpected"),
    }
}
