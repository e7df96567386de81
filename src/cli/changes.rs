//! `coupond changes`: who changed what, and what came of it.

use clap::Args;
use reqwest::Method;
use serde_json::{Value, json};

use super::{
    Done,
    arguments::AdminListener,
    campaign::called,
    client::{Call, Client, ClientError},
};
use crate::{columns::aligned, config::Config, domain::ids::CampaignId};

/// Changes per page: the most that a node returns.
const PAGE_CHANGES: u32 = 1_000;

/// Most pages that are read: a million changes.
const PAGES_MAX: usize = 1_000;

#[derive(Debug, Args)]
pub(super) struct ChangesArguments {
    /// Only the changes of this campaign
    #[arg(value_parser = CampaignId::parse)]
    campaign: Option<CampaignId>,
    #[command(flatten)]
    pub(super) listener: AdminListener,
}

/// Lists changes, the earliest first.
pub(super) async fn run(config: &Config, arguments: ChangesArguments) -> Result<Done, ClientError> {
    let ChangesArguments { campaign, listener } = arguments;
    let (client, json) = called(config, listener)?;
    let changes = all(&client, campaign.as_ref()).await?;
    Ok(if json {
        Done::with(format!("{}\n", json!({ "changes": changes })))
    } else {
        Done::with(table(&changes))
    })
}

async fn all(client: &Client, campaign: Option<&CampaignId>) -> Result<Vec<Value>, ClientError> {
    let mut changes = Vec::new();
    let mut after: Option<String> = None;
    for _ in 0..PAGES_MAX {
        let mut query = vec![("limit", PAGE_CHANGES.to_string())];
        query.extend(campaign.map(|campaign| ("campaign", campaign.to_string())));
        query.extend(after.clone().map(|after| ("after", after)));
        let call = Call { query: &query, ..Call::new(Method::GET, &["admin", "changes"]) };
        let (_, mut page) = client.call(call).await?;
        if let Some(Value::Array(more)) = page.get_mut("changes").map(Value::take) {
            changes.extend(more);
        }
        let next = page.get("next").and_then(Value::as_str).map(str::to_owned);
        if next.is_none() || next == after {
            break;
        }
        after = next;
    }
    Ok(changes)
}

/// Shows one change per line: when, which campaign, what, by whom, its outcome, and what differs.
fn table(changes: &[Value]) -> String {
    if changes.is_empty() {
        return "no changes\n".to_owned();
    }
    let headings = ["AT", "CAMPAIGN", "CHANGE", "BY", "OUTCOME", "DIFFERENCE"];
    let text = |change: &Value, name: &str| change[name].as_str().unwrap_or("-").to_owned();
    let rows = changes.iter().map(|change| {
        let names = ["at", "campaign_id", "change", "by", "outcome"];
        let mut row: Vec<String> = names.iter().map(|name| text(change, name)).collect();
        row.push(difference(&change["before"], &change["after"]));
        row
    });
    let headings = headings.iter().map(|heading| (*heading).to_owned()).collect();
    let rows: Vec<Vec<String>> = std::iter::once(headings).chain(rows).collect();
    aligned(&rows, |_| false)
}

/// Shows what differs between two definitions.
fn difference(before: &Value, after: &Value) -> String {
    let Value::Object(after) = after else { return String::new() };
    if before.is_null() {
        return format!("quota {}", after.get("quota").unwrap_or(&Value::Null));
    }
    let differs = after.iter().filter(|(name, value)| before[name.as_str()] != **value);
    let shown = differs.map(|(name, value)| format!("{name} {} → {value}", before[name.as_str()]));
    shown.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_a_line_with_what_differs() {
        let definition = |quota: u32, paused: bool| json!({ "quota": quota, "paused": paused });
        let change = |what: &str, before: Value, after: Value, outcome: &str| {
            json!({ "at": "2026-12-01T12:00:00.000Z", "campaign_id": "spring", "change": what, "by": "ada",
                "before": before, "after": after, "outcome": outcome })
        };
        let (first, more) = (definition(10, false), definition(20, true));
        let shown = table(&[
            change("defined", Value::Null, first.clone(), "accepted"),
            change("amended", first, more.clone(), "accepted"),
            change("amended", more.clone(), more, "quota_below_issued"),
        ]);
        let expected = "\
AT                        CAMPAIGN  CHANGE   BY   OUTCOME             DIFFERENCE
2026-12-01T12:00:00.000Z  spring    defined  ada  accepted            quota 10
2026-12-01T12:00:00.000Z  spring    amended  ada  accepted            paused false → true, quota 10 → 20
2026-12-01T12:00:00.000Z  spring    amended  ada  quota_below_issued
";
        assert_eq!(shown, expected);
        assert_eq!(table(&[]), "no changes\n");
    }
}
