//! Faults in what the engines keep: a row that vanishes or is altered, a topic that is set otherwise.

use std::time::{Duration, Instant};

use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, AlterConfig, ConfigSource, ResourceSpecifier},
    client::DefaultClientContext,
};
use reqwest::Method;
use scylla::{
    client::{session::Session, session_builder::SessionBuilder},
    statement::{Consistency, prepared::PreparedStatement},
};

use super::{
    stage::{LOOK_EVERY, Stage, VICTIM},
    strikes::crash_actor,
};

/// The coupon whose row is harmed: not the last one, which a load must find by itself.
const SEQUENCE: i32 = 5;

/// Longest time until a campaign with a harmed row stops: a load, and five tries.
const NOTICED_WITHIN: Duration = Duration::from_secs(60);

/// Coupons of a bucket, as `cql/` says.
const BUCKET: i32 = 20_000;

/// Longest call of an engine.
const CALL_WITHIN: Duration = Duration::from_secs(20);

/// What becomes of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Harm {
    /// It vanishes.
    Removed,
    /// It names another user.
    Altered,
}

async fn session(stage: &Stage<'_>) -> Result<Session, String> {
    let engines = stage.engines.ok_or("there is no database")?;
    let builder = SessionBuilder::new().known_nodes(&engines.database.endpoints);
    builder.build().await.map_err(|error| format!("the database: {error}"))
}

/// Looks up coupons, as an outsider who trusts no node.
pub(crate) struct Stored {
    session: Session,
    query: PreparedStatement,
}

impl Stored {
    /// Connects to the database of an instance. An embedded node has none that others can ask.
    ///
    /// # Errors
    /// What the database says.
    pub(crate) async fn of(stage: &Stage<'_>) -> Result<Option<Self>, String> {
        if stage.engines.is_none() {
            return Ok(None);
        }
        let session = session(stage).await?;
        let query = format!(
            "SELECT sequence FROM {}.coupons WHERE campaign_id = ? AND bucket = ? AND sequence = ?",
            stage.name
        );
        let mut query = session.prepare(query).await.map_err(|error| error.to_string())?;
        query.set_consistency(Consistency::Quorum);
        query.set_request_timeout(Some(CALL_WITHIN));
        Ok(Some(Self { session, query }))
    }

    /// Returns whether a coupon is stored. `None`: the database did not say.
    pub(crate) async fn has(&self, campaign: &str, sequence: i64) -> Option<bool> {
        let number = i32::try_from(sequence).ok()?;
        let key = (campaign, (number - 1) / BUCKET, number);
        let rows = self.session.execute_unpaged(&self.query, key).await.ok()?;
        Some(rows.into_rows_result().ok()?.rows_num() > 0)
    }
}

/// Harms a row of a campaign and restarts its actor. Returns when the campaign has stopped, the row is as
/// it was, and the campaign decides again.
///
/// # Errors
/// That it went on in spite of it, or does not decide again.
pub(crate) async fn harmed_row(stage: &Stage<'_>, harm: Harm) -> Result<(), String> {
    let session = session(stage).await?;
    let table = format!("{}.coupons", stage.name);
    let row = format!("campaign_id = '{VICTIM}' AND bucket = 0 AND sequence = {SEQUENCE}");
    let read = format!("SELECT JSON * FROM {table} WHERE {row}");
    let before = session.query_unpaged(read, ()).await.map_err(|error| error.to_string())?;
    let before = before.into_rows_result().map_err(|error| error.to_string())?;
    let (before,) = before.single_row::<(String,)>().map_err(|error| error.to_string())?;
    let run = async |query: String| {
        session.query_unpaged(query, ()).await.map(drop).map_err(|error| error.to_string())
    };
    match harm {
        Harm::Removed => run(format!("DELETE FROM {table} WHERE {row}")).await?,
        Harm::Altered => run(format!("UPDATE {table} SET user_id = 'mallory' WHERE {row}")).await?,
    }
    let crashed = crash_actor(stage, VICTIM).await;
    let stopped = crashed.is_ok() && state_is(stage, |state| state == "quarantined").await;
    // Whatever was found, the row is put back: the next fault finds sound rows.
    let json = before.replace('\'', "''");
    run(format!("INSERT INTO {table} JSON '{json}'")).await?;
    crashed?;
    if !stopped {
        return Err(format!("a row of {VICTIM} was {harm:?}, and the campaign did not stop"));
    }
    release(stage).await?;
    // A user who never asked: an old decision would say nothing.
    let now = jiff::Timestamp::now().as_millisecond();
    stage.issue(VICTIM, &format!("after-{harm:?}-{now}")).await
}

async fn release(stage: &Stage<'_>) -> Result<(), String> {
    let path = format!("/admin/campaigns/{VICTIM}/release");
    let began = Instant::now();
    while began.elapsed() < NOTICED_WITHIN {
        let _told = stage.ask_all(Method::POST, &path).await;
        if state_is(stage, |state| state != "quarantined").await {
            return Ok(());
        }
    }
    Err(format!("{VICTIM} has its row again, and is not released"))
}

/// Waits until a node shows the campaign in such a state. Returns whether one does.
async fn state_is(stage: &Stage<'_>, wanted: impl Fn(&str) -> bool) -> bool {
    let path = format!("/admin/campaigns/{VICTIM}");
    let began = Instant::now();
    while began.elapsed() < NOTICED_WITHIN {
        let told = stage.ask_all(Method::GET, &path).await;
        let states = told.iter().flatten().filter(|(status, _)| *status == 200);
        if states.filter_map(|(_, body)| body["state"].as_str()).any(&wanted) {
            return true;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    false
}

/// Sets the compression of the request topic. Its other settings stay: this old call of Kafka would reset
/// them.
///
/// # Errors
/// What Kafka says.
pub(crate) async fn set_compression(stage: &Stage<'_>, compression: &str) -> Result<(), String> {
    let engines = stage.engines.ok_or("there is no Kafka")?;
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", engines.kafka.endpoints.join(","))
        .create()
        .map_err(|error| format!("Kafka: {error}"))?;
    let topic = format!("{}.request", stage.name);
    let options = AdminOptions::new().request_timeout(Some(CALL_WITHIN));
    let asked = admin.describe_configs(&[ResourceSpecifier::Topic(&topic)], &options).await;
    let described = asked.map_err(|error| format!("Kafka: {error}"))?;
    let described = described.into_iter().next().ok_or("Kafka describes no topic")?;
    let described = described.map_err(|error| format!("{topic}: {error}"))?;
    let mut config = AlterConfig::new(ResourceSpecifier::Topic(&topic));
    for entry in &described.entries {
        if let (ConfigSource::DynamicTopic, Some(value)) = (&entry.source, &entry.value)
            && entry.name != "compression.type"
        {
            config = config.set(&entry.name, value);
        }
    }
    config = config.set("compression.type", compression);
    let altered = admin.alter_configs([&config], &options).await;
    let altered = altered.map_err(|error| format!("Kafka: {error}"))?;
    let refused = altered.into_iter().find_map(Result::err);
    refused.map_or(Ok(()), |(_, error)| Err(format!("{topic}: {error}")))
}
