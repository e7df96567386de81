//! `coupond issue`: one request to the public listener.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::{
    Done,
    arguments::IssueArguments,
    client::{Call, Client, ClientError, token_of},
    show,
};
use crate::config::Config;

/// Requests one coupon. A rejected request exits with 1 like one refused at the edge: which of the
/// two a late user gets is a matter of milliseconds.
pub(super) async fn run(config: &Config, issue: IssueArguments) -> Result<Done, ClientError> {
    let IssueArguments { campaign, user, wait, key, api, ca, user_token_file, json, .. } = issue;
    let token = user_token_file.as_deref().map(token_of).transpose()?;
    let client = Client::public(config, api.as_deref(), ca, user.as_str(), token, json)?;
    let body = json!({ "campaign_id": campaign, "user_id": user });
    let mut headers = vec![("prefer", format!("wait={wait}"))];
    headers.extend(key.map(|key| ("idempotency-key", key.to_string())));
    let call = Call {
        headers: &headers,
        body: Some(&body),
        wait: Duration::from_secs(wait),
        ..Call::new(Method::POST, &["coupon", "issue"])
    };
    let (_, decision) = client.call(call).await?;
    let status = decision.get("status").and_then(Value::as_str);
    let text = match (json, status, decision.get("request_id").and_then(Value::as_str)) {
        (true, ..) => format!("{decision}\n"),
        (false, Some("pending"), Some(id)) => {
            // Repeating this command could issue another coupon if the limit per user allows it.
            let curl = client.curl(&["coupon", "requests", id], "wait=30");
            let hint = curl.map(|curl| format!("get the decision with: {curl}\n"));
            show::fields(&decision) + &hint.unwrap_or_default()
        }
        (false, ..) => show::fields(&decision),
    };
    Ok(Done { text, exit_code: u8::from(status == Some("rejected")) })
}
