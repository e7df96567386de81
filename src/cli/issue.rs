//! One request over the public listener.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::{
    Done,
    arguments::IssueArguments,
    client::{Call, Client, ClientError},
    show,
};
use crate::config::Config;

/// Asks for one coupon. A request that was decided to get none could not be done, exactly as one
/// that was refused at the edge: which of the two happens is a matter of milliseconds.
pub(super) async fn run(config: &Config, issue: IssueArguments) -> Result<Done, ClientError> {
    let IssueArguments { campaign, user, wait, key, api, json, .. } = issue;
    let client = Client::public(config, api.as_deref(), user.as_str(), json)?;
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
    let rejected = decision.get("status").and_then(Value::as_str) == Some("rejected");
    let text = if json { format!("{decision}\n") } else { show::fields(&decision) };
    Ok(Done { text, exit_code: u8::from(rejected) })
}
