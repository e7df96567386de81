//! `coupond campaign`, `coupond skip`, `coupond crash` and `coupond health`: calls of the admin listener.

use clap::Args;
use reqwest::Method;
use serde_json::{Value, json};

use super::{
    Done, apply,
    arguments::{
        AdminListener, CampaignAction, CampaignArguments, CrashArguments, HealthArguments,
    },
    client::{Call, Client, ClientError, token_of},
    show,
};
use crate::{api::service::ControlVerb, config::Config};

/// Campaigns per page: the most that a node returns.
const PAGE_CAMPAIGNS: u32 = 1_000;

/// Most pages that are read. A node has far fewer; the bound ends a loop over a faulty answer.
const PAGES_MAX: usize = 1_000;

/// Runs an action on campaigns.
pub(super) async fn run(
    config: &Config,
    arguments: CampaignArguments,
) -> Result<Done, ClientError> {
    let CampaignArguments { listener, action } = arguments;
    let (client, json) = called(config, listener)?;
    let (one, verb) = match action {
        CampaignAction::List(_) => return list(&client, json).await,
        CampaignAction::Apply(files) => return apply::apply(&client, &files, json).await,
        CampaignAction::Export(one) => return apply::export(&client, &one.id).await,
        CampaignAction::Create(create) => {
            let made = apply::create(&client, &create.id, create.terms.0).await?;
            return Ok(shown(&made, json));
        }
        CampaignAction::Amend(amend) => {
            let path = ["admin", "campaigns", amend.id.as_str()];
            let body = Value::Object(amend.terms.0);
            let call = Call { body: Some(&body), ..Call::new(Method::PATCH, &path) };
            return Ok(shown(&client.call(call).await?.1, json));
        }
        CampaignAction::Show(one) => {
            let path = ["admin", "campaigns", one.id.as_str()];
            return Ok(shown(&client.call(Call::new(Method::GET, &path)).await?.1, json));
        }
        CampaignAction::Pause(one) => (one, ControlVerb::Pause.name()),
        CampaignAction::Resume(one) => (one, ControlVerb::Resume.name()),
        CampaignAction::Close(one) => (one, ControlVerb::Close.name()),
        CampaignAction::Release(one) => (one, ControlVerb::Release.name()),
        CampaignAction::Crash(one) => (one, "crash"),
    };
    let path = ["admin", "campaigns", one.id.as_str(), verb];
    Ok(shown(&client.call(Call::new(Method::POST, &path)).await?.1, json))
}

/// Returns a client of this listener, and whether it answers in JSON.
pub(super) fn called(
    config: &Config,
    listener: AdminListener,
) -> Result<(Client, bool), ClientError> {
    let AdminListener { admin, tls, token, token_file, json, .. } = listener;
    let token = match &token_file {
        Some(file) => Some(token_of(file)?),
        None => token,
    };
    Ok((Client::admin(config, admin.as_deref(), &tls, token, json)?, json))
}

#[derive(Debug, Args)]
pub(super) struct SkipArguments {
    /// Number of the partition
    pub(super) partition: u32,
    /// The offset at which the partition is halted
    #[arg(long, value_name = "N")]
    pub(super) offset: u64,
    /// Why the range is given up; it is kept, and the audit shows it
    #[arg(long, value_name = "TEXT")]
    pub(super) reason: String,
    #[command(flatten)]
    pub(super) listener: AdminListener,
}

/// Makes a skip, or shows the state of the one that begins there.
pub(super) async fn skip(config: &Config, arguments: SkipArguments) -> Result<Done, ClientError> {
    let SkipArguments { partition, offset, reason, listener } = arguments;
    let (client, json) = called(config, listener)?;
    let partition = partition.to_string();
    let path = ["admin", "partitions", partition.as_str(), "skip"];
    let body = json!({ "offset": offset, "reason": reason });
    let call = Call { body: Some(&body), ..Call::new(Method::POST, &path) };
    Ok(shown(&client.call(call).await?.1, json))
}

/// Makes an actor panic.
pub(super) async fn crash(config: &Config, arguments: CrashArguments) -> Result<Done, ClientError> {
    let CrashArguments { campaign, partition, listener, .. } = arguments;
    let (client, json) = called(config, listener)?;
    let partition = partition.map(|partition| partition.to_string());
    let path = match (&campaign, &partition) {
        (Some(campaign), _) => vec!["admin", "campaigns", campaign.as_str(), "crash"],
        (None, Some(partition)) => vec!["admin", "partitions", partition, "crash"],
        (None, None) => vec!["admin", "supervisor", "crash"],
    };
    Ok(shown(&client.call(Call::new(Method::POST, &path)).await?.1, json))
}

/// Checks whether the node is ready.
pub(super) async fn health(config: &Config, health: HealthArguments) -> Result<Done, ClientError> {
    let client = Client::open_admin(config, health.admin.as_deref(), &health.tls, health.json)?;
    let (_, body) = client.call(Call::new(Method::GET, &["health", "ready"])).await?;
    Ok(if health.json { Done::with(format!("{body}\n")) } else { Done::with("ready\n") })
}

fn shown(body: &Value, json: bool) -> Done {
    match body {
        Value::Null if json => Done::with("{}\n"),
        Value::Null => Done::with("done\n"),
        body if json => Done::with(format!("{body}\n")),
        body => Done::with(show::fields(body)),
    }
}

/// Lists every campaign, page by page.
async fn list(client: &Client, json: bool) -> Result<Done, ClientError> {
    let mut campaigns = Vec::new();
    let mut after: Option<String> = None;
    for _ in 0..PAGES_MAX {
        let mut query = vec![("limit", PAGE_CAMPAIGNS.to_string())];
        query.extend(after.clone().map(|after| ("after", after)));
        let call = Call { query: &query, ..Call::new(Method::GET, &["admin", "campaigns"]) };
        let (_, mut page) = client.call(call).await?;
        if let Some(Value::Array(more)) = page.get_mut("campaigns").map(Value::take) {
            campaigns.extend(more);
        }
        match page.get("next").and_then(Value::as_str) {
            Some(next) if after.as_deref() < Some(next) => after = Some(next.to_owned()),
            _ => break,
        }
    }
    Ok(if json {
        Done::with(format!("{}\n", json!({ "campaigns": campaigns })))
    } else {
        Done::with(show::campaigns(&campaigns))
    })
}
