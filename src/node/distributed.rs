//! The adapters of a node on Kafka and a CQL database.

use std::{future::Future, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{Adapters, Closer, Instance, ServeError};
use crate::{
    config::Config,
    feed::kafka::KafkaFeed,
    kafka::{
        client::MAC_HEADER,
        topics::{RecordWithMac, TopicsError, ensure_topics, record_with_mac},
    },
    log::kafka::KafkaLog,
    store::{
        StoreInspection,
        cql::{self, ConnectError, CqlStore, Step},
    },
};

/// The remedy for data of another format.
pub(super) const NEW_NAMES: &str = "set cql.keyspace and kafka.topic_prefix to new names, or \
                                    start the version that made this one; README \"Moving \
                                    between formats\" says what can be taken along";

/// How long a start waits for engines that do not answer yet, as when all start at once.
const ENGINES_WITHIN: Duration = Duration::from_secs(60);

/// Pause between two attempts.
const ATTEMPT_PAUSE: Duration = Duration::from_secs(1);

/// A record this far ahead of the node's clock halts its partition: `ScyllaDB` refuses writes
/// whose timestamp, derived from it, lies in the far future.
const FUTURE_MAX_MS: i64 = 24 * 60 * 60 * 1_000;

/// Builds the adapters of a node that knows `steps` of the schema.
pub(super) async fn adapters(config: &Config, steps: &[Step]) -> Result<Adapters, ServeError> {
    let store = within("connecting to the database", || async {
        cql::connect_with(&config.cql, steps).await.map_err(|error| match error {
            ConnectError::Refused(refusal) => Attempt::Unfit(ServeError::unfit(
                refusal.to_string(),
                "see the remedy above, then start again",
            )),
            ConnectError::Unavailable { .. } | ConnectError::Locked { .. } => {
                Attempt::Failed(Box::new(error))
            }
        })
    })
    .await?;
    let partitions = within("reading the instance's layout", || async {
        let layout = store.layout_in_force().await;
        let layout = layout.map_err(|error| Attempt::Failed(Box::new(error)))?;
        Ok(layout.map(|layout| layout.partitions))
    })
    .await?;
    let topics = within("looking at the topics", || async {
        ensure_topics(&config.kafka, partitions).await.map_err(|error| match error {
            TopicsError::Unfit(_) => Attempt::Unfit(ServeError::unfit(
                error.to_string(),
                "change what is named above, then start again",
            )),
            TopicsError::Failed(_) => Attempt::Failed(Box::new(error)),
        })
    })
    .await?;
    if partitions.is_none() {
        within("looking for records of another instance", || {
            refuse_used_topic(config, &store, topics.partitions)
        })
        .await?;
    }
    let instance =
        Instance::establish(&store, config.secret.exposed(), topics.partitions, NEW_NAMES).await?;
    let log = KafkaLog::connect(&config.kafka)
        .await
        .map_err(|error| ServeError::failed("connecting to kafka", error))?;
    let log = Arc::new(log);
    let partitions = instance.layout.partitions;
    let feed = KafkaFeed::connect(&config.kafka, instance.keys.clone(), partitions)
        .await
        .map_err(|error| ServeError::failed("connecting to the decision feed", error))?;
    Ok(Adapters {
        log: log.clone(),
        store: Arc::new(store),
        feed: Arc::new(feed),
        space: None,
        instance,
        future_max_ms: Some(FUTURE_MAX_MS),
        closer: Closer::Kafka(log),
    })
}

/// Refuses to make a layout over a request topic in which another instance has written: the new
/// one would decide its requests a second time.
async fn refuse_used_topic(
    config: &Config,
    store: &CqlStore,
    partitions: u32,
) -> Result<(), Attempt> {
    let found = record_with_mac(&config.kafka, partitions).await;
    let Some(found) = found.map_err(|error| Attempt::Failed(Box::new(error)))? else {
        return Ok(());
    };
    // A node that started at the same time may have made the layout, and written what was found.
    let layout = store.layout_in_force().await;
    if layout.map_err(|error| Attempt::Failed(Box::new(error)))?.is_some() {
        return Ok(());
    }
    let (RecordWithMac { partition, offset }, keyspace) = (found, &config.cql.keyspace);
    let topic = format!("{}.request", config.kafka.topic_prefix);
    Err(Attempt::Unfit(ServeError::unfit(
        format!(
            "topic {topic} belongs to another instance: its record at partition {partition}, \
             offset {offset} carries the header {MAC_HEADER}, and keyspace {keyspace} has no layout"
        ),
        "set kafka.topic_prefix to a new name, or cql.keyspace to the keyspace of that instance",
    )))
}

/// Why an attempt gave nothing.
enum Attempt {
    /// Trying again does not help.
    Unfit(ServeError),
    /// It may.
    Failed(Box<dyn std::error::Error + Send + Sync>),
}

/// Repeats `attempt` while its engine does not answer, within a bound.
async fn within<T, F>(
    operation: &'static str,
    mut attempt: impl FnMut() -> F,
) -> Result<T, ServeError>
where
    F: Future<Output = Result<T, Attempt>>,
{
    let deadline = Instant::now() + ENGINES_WITHIN;
    loop {
        match attempt().await {
            Ok(done) => return Ok(done),
            Err(Attempt::Unfit(error)) => return Err(error),
            Err(Attempt::Failed(source)) if Instant::now() >= deadline => {
                return Err(ServeError::Failed { operation: operation.to_owned(), source });
            }
            Err(Attempt::Failed(error)) => {
                tracing::warn!(operation, error, "engine does not answer yet");
                tokio::time::sleep(ATTEMPT_PAUSE).await;
            }
        }
    }
}
