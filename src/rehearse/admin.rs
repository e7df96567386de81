//! Calls of the admin listener that a rehearsal makes.

use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::scenario::Scenario;
use crate::domain::ids::Timestamp;

/// Longest wait for an answer. A node answers within 5 s.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Times that a call is repeated while partitions change hands.
const TRIES: usize = 10;

/// Time between two of them.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Campaigns that are defined at a time.
const AT_A_TIME: usize = 16;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The HTTP client cannot be made.
    #[error("preparing the HTTP client")]
    Http(#[source] reqwest::Error),
    /// No answer.
    #[error("no answer from {url}")]
    Unreachable {
        /// Where it was sent.
        url: String,
        /// Why not.
        #[source]
        source: reqwest::Error,
    },
    /// An answer that is none of a success.
    #[error("{url} answered {status}: {detail}{}", hint(*status))]
    Refused {
        /// Where it was sent.
        url: String,
        /// The status.
        status: u16,
        /// What the answer says.
        detail: String,
    },
}

fn hint(status: u16) -> &'static str {
    if status == 401 {
        "\n  pass the token of its admin listener with --token or --token-file"
    } else {
        ""
    }
}

/// A client of the nodes of an instance.
#[derive(Debug, Clone)]
pub(super) struct Admin {
    /// The HTTP client, for other calls too.
    pub http: reqwest::Client,
    url: String,
    token: Option<String>,
}

impl Admin {
    /// Returns a client of the admin listener at `url`.
    ///
    /// # Errors
    /// If the HTTP client cannot be made.
    pub(super) fn new(url: &str, token: Option<String>) -> Result<Self, AdminError> {
        let http = reqwest::Client::builder()
            .tls_certs_only([])
            .no_proxy()
            .tls_certs_only([])
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(ANSWER_TIMEOUT)
            .build()
            .map_err(AdminError::Http)?;
        Ok(Self { http, url: url.trim_end_matches('/').to_owned(), token })
    }

    /// Defines campaigns that no public list shows.
    ///
    /// # Errors
    /// The first call that failed.
    pub(super) async fn define(
        &self,
        campaigns: &[String],
        scenario: &Scenario,
        opens_at: Option<Timestamp>,
    ) -> Result<(), AdminError> {
        let mut body = json!({
            "title": format!("Rehearsal: {}", scenario.title.chars().take(100).collect::<String>()),
            "quota": scenario.quota,
            "per_user_limit": scenario.per_user_limit,
            "listed": false,
        });
        let opens_at = opens_at.and_then(|at| jiff::Timestamp::from_millisecond(at.0).ok());
        if let Some(opens_at) = opens_at {
            body["opens_at"] = format!("{opens_at:.3}").into();
        }
        stream::iter(campaigns.iter().map(Ok))
            .try_for_each_concurrent(AT_A_TIME, |id| {
                let body = body.clone();
                async move {
                    let path = format!("admin/campaigns/{id}");
                    self.patiently(Method::PUT, &path, Some(&body)).await.map(drop)
                }
            })
            .await
    }

    /// Closes campaigns. Those that cannot be closed stay as they are.
    pub(super) async fn close(&self, campaigns: &[String]) {
        let close = |id: &String| {
            let path = format!("admin/campaigns/{id}/close");
            async move { self.call(Method::POST, &path, None).await.is_ok() }
        };
        let _: Vec<bool> =
            stream::iter(campaigns.iter().map(close)).buffer_unordered(AT_A_TIME).collect().await;
    }

    /// Returns the coupons issued of all these campaigns together.
    ///
    /// # Errors
    /// The first call that failed.
    pub(super) async fn issued(&self, campaigns: &[String]) -> Result<u64, AdminError> {
        let mut issued = 0;
        for id in campaigns {
            let body = self.patiently(Method::GET, &format!("admin/campaigns/{id}"), None).await?;
            issued += body["issued"].as_u64().unwrap_or_default();
        }
        Ok(issued)
    }

    /// Calls until the answer is not that something is unavailable just now.
    async fn patiently(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, AdminError> {
        for _ in 1..TRIES {
            match self.call(method.clone(), path, body).await {
                Err(AdminError::Refused { status: 503, .. }) => {
                    tokio::time::sleep(TRY_AGAIN_AFTER).await;
                }
                done => return done,
            }
        }
        self.call(method, path, body).await
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, AdminError> {
        let url = format!("{}/{path}", self.url);
        let unreachable = |source| AdminError::Unreachable { url: url.clone(), source };
        let mut request = self.http.request(method, &url);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await.map_err(unreachable)?;
        let status = answer.status();
        let body: Value = answer.json().await.unwrap_or_default();
        if status.is_success() || status == StatusCode::NOT_MODIFIED {
            return Ok(body);
        }
        let detail = ["detail", "title"].into_iter().find_map(|member| body[member].as_str());
        let detail = detail.unwrap_or("no problem document").to_owned();
        Err(AdminError::Refused { url, status: status.as_u16(), detail })
    }
}
