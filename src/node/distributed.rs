//! Adapters of distributed mode: Kafka and a CQL database.

use std::{future::Future, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};

use super::{Adapters, Closer, Instance, ServeError};
use crate::{
    config::Config,
    feed::kafka::KafkaFeed,
    kafka::{
        Trouble,
        client::MAC_HEADER,
        topics::{RecordWithMac, TopicsError, ensure_topics, record_with_mac},
    },
    log::kafka::KafkaLog,
    store::{
        Layout, StoreInspection,
        cql::{self, ConnectError, CqlStore, SetupRefusal, Step},
    },
    telemetry::Chain,
    wire::feed_codec::FeedCodec,
};

/// The remedy for data of another format.
pub(super) const NEW_NAMES: &str = "set cql.keyspace and kafka.topic_prefix to new names, or \
                                    start the version that made this one; README \"Moving \
                                    between formats\" says what can be taken along";

/// Pause between two attempts while Kafka and the database are starting too.
const RETRY_EVERY: Duration = Duration::from_secs(1);

/// Least time between two log lines about such attempts.
const SAY_EVERY: Duration = Duration::from_secs(10);

const CONNECTING: &str = "connecting to the database";
const READING_LAYOUT: &str = "reading the layout of the instance";
const CHECKING_TOPICS: &str = "checking the Kafka topics";
const CHECKING_RECORDS: &str = "looking for records of another instance";

/// A record whose timestamp is this far ahead of the node's clock halts its partition. Row
/// timestamps derive from it, and `ScyllaDB` refuses writes that lie far in the future.
const FUTURE_MAX_MS: i64 = 24 * 60 * 60 * 1_000;

/// Builds the adapters of a node that knows `steps` of the schema.
pub(super) async fn adapters(config: &Config, steps: &[Step]) -> Result<Adapters, ServeError> {
    let store = retried(CONNECTING, || async {
        cql::connect_with(&config.cql, steps).await.map_err(|error| match error {
            ConnectError::Refused(refusal) => refused(&refusal),
            ConnectError::Unavailable { .. } | ConnectError::Locked { .. } => {
                ServeError::failed(CONNECTING, error)
            }
        })
    })
    .await?;
    let partitions = retried(READING_LAYOUT, || async {
        let layout = store.layout_in_force().await;
        let layout = layout.map_err(|error| ServeError::failed(READING_LAYOUT, error))?;
        Ok(layout.map(|layout| layout.partitions))
    })
    .await?;
    let topics = retried(CHECKING_TOPICS, || async {
        ensure_topics(&config.kafka, partitions).await.map_err(|error| match error {
            TopicsError::Unfit(_) => ServeError::unfit(
                error.to_string(),
                "correct the topics named above, then start again",
            ),
            TopicsError::Trouble(Trouble { found, remedy, is_final: true }) => {
                ServeError::unfit(found, remedy)
            }
            TopicsError::Trouble(_) | TopicsError::Failed(_) => {
                ServeError::failed(CHECKING_TOPICS, error)
            }
        })
    })
    .await?;
    if partitions.is_none() {
        retried(CHECKING_RECORDS, || refuse_used_topic(config, &store, topics.partitions)).await?;
    }
    let (secret, fold) = (config.secret.exposed(), config.identity_fold);
    let instance = Instance::establish(&store, secret, topics.partitions, fold, NEW_NAMES).await?;
    if instance.kept_secret.is_some() && config.is_exposed() {
        tracing::warn!(
            "the secret of the instance lies in the database, where everybody who reads the table layout \
             has it: move it into a file with `coupond secret export FILE`, set secret.key_file on every \
             node, then clear its cell: DELETE secret FROM {}.layout WHERE name = 'layout'",
            config.cql.keyspace
        );
    }
    let log = KafkaLog::connect(&config.kafka)
        .await
        .map_err(|error| ServeError::failed("connecting to Kafka", error))?;
    let log = Arc::new(log);
    let Layout { partitions, instance: name, .. } = &instance.layout;
    let codec = FeedCodec::new(&instance.keys, name);
    let watch = log.topic_watch(*partitions, topics.warnings);
    let member = Arc::downgrade(&log);
    let feed = KafkaFeed::connect(&config.kafka, codec, *partitions)
        .await
        .map_err(|error| ServeError::failed("connecting to the decision feed", error))?;
    let store = Arc::new(store);
    Ok(Adapters {
        log: log.clone(),
        nodes: Some(store.clone()),
        store,
        feed: Arc::new(feed),
        local_log: None,
        group_check: Some(Arc::new(move || member.upgrade()?.group_trouble())),
        background: vec![Box::pin(watch.run())],
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
) -> Result<(), ServeError> {
    let found = record_with_mac(&config.kafka, partitions).await;
    let Some(found) = found.map_err(|error| ServeError::failed(CHECKING_RECORDS, error))? else {
        return Ok(());
    };
    // A node that started at the same time may have made the layout, and written what was found.
    let layout = store.layout_in_force().await;
    if layout.map_err(|error| ServeError::failed(READING_LAYOUT, error))?.is_some() {
        return Ok(());
    }
    let (RecordWithMac { partition, offset }, keyspace) = (found, &config.cql.keyspace);
    let topic = format!("{}.request", config.kafka.topic_prefix);
    Err(ServeError::unfit(
        format!(
            "topic {topic} belongs to another instance: its record at partition {partition}, \
             offset {offset} carries the header {MAC_HEADER}, and keyspace {keyspace} has no layout"
        ),
        "set kafka.topic_prefix to a new name, or cql.keyspace to the keyspace of that instance",
    ))
}

/// Turns a refusal of the store into an error with its remedy.
pub(super) fn refused(refusal: &SetupRefusal) -> ServeError {
    let remedy = match refusal {
        SetupRefusal::Format { .. } => NEW_NAMES,
        // Its own remedy is all there is to say.
        SetupRefusal::Trouble { found, remedy } => {
            return ServeError::unfit(found.clone(), remedy.clone());
        }
        SetupRefusal::UnknownDatacenter { found, .. } => {
            return ServeError::unfit(refusal.to_string(), format!("set it to one of {found}"));
        }
        SetupRefusal::KeyspaceName { .. }
        | SetupRefusal::SeveralDatacenters { .. }
        | SetupRefusal::MissingStep { .. }
        | SetupRefusal::Columns { .. } => "follow the remedy above, then start again",
    };
    ServeError::unfit(refusal.to_string(), remedy)
}

/// Retries an operation at start for as long as Kafka or the database is unreachable. An error that an
/// operator has to end is returned at once.
async fn retried<T, F>(operation: &str, mut attempt: impl FnMut() -> F) -> Result<T, ServeError>
where
    F: Future<Output = Result<T, ServeError>>,
{
    let mut said: Option<Instant> = None;
    loop {
        let error = match attempt().await {
            Err(error @ ServeError::Failed { .. }) => error,
            ended => return ended,
        };
        if said.is_none_or(|at| at.elapsed() >= SAY_EVERY) {
            said = Some(Instant::now());
            tracing::warn!(operation, error = %Chain(&error), "engine does not answer, retrying");
        }
        sleep(RETRY_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::format::OtherFormat;

    #[tokio::test(start_paused = true)]
    async fn only_an_operator_ends_the_attempts() {
        let mut attempts = 0;
        let ended = retried("test", || {
            attempts += 1;
            let found = match attempts {
                1..=100 => ServeError::failed("test", "nobody answers"),
                _ => ServeError::unfit("wrong password", "set another"),
            };
            std::future::ready(Err::<(), _>(found))
        });
        assert_eq!(ended.await.unwrap_err().exit_code(), 2);
        assert_eq!(attempts, 101);
    }

    #[test]
    fn a_keyspace_of_format_1_needs_new_names() {
        let other = OtherFormat::Number { found: 1 };
        let error = refused(&SetupRefusal::Format { keyspace: "k".to_owned(), other });
        assert_eq!(error.exit_code(), 2);
        let said = error.to_string();
        let expected = "keyspace k has format 1, this version of coupond reads and writes only \
                        format 6; set cql.keyspace and kafka.topic_prefix to new names";
        assert!(said.starts_with(expected), "{said}");
    }
}
