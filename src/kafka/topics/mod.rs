//! Creates missing topics, and checks all topics before anything is read or written.
//!
//! On a log that loses, rewrites or restamps records, decisions would not be repeatable. So a
//! request topic with such a setting is refused, and all its problems are reported at once.

mod facts;
mod mac_header;

use std::{collections::HashMap, time::Duration};

use rdkafka::{
    admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication},
    client::DefaultClientContext,
    config::FromClientConfig,
    error::{KafkaError, RDKafkaErrorCode},
};
use tokio::time::Instant;

use self::facts::{Needed, Purpose, TopicFacts, TopicFindings};
pub use self::{
    facts::TopicProblem,
    mac_header::{RecordWithMac, record_with_mac},
};
use super::{
    client::{self, ClientError, Topics, failed},
    trouble,
};
use crate::{config::KafkaConfig, telemetry::Chain, tls::Trouble};

/// Longest wait until all partitions of a new topic have a leader.
const CREATED_WITHIN: Duration = Duration::from_secs(60);

/// Time after which it is worth looking why an operation does not end: many times what brokers take
/// that answer at all.
const DIAGNOSE_AFTER: Duration = Duration::from_millis(1_500);

/// Pause between two checks of a new topic.
const CHECK_EVERY: Duration = Duration::from_millis(100);

/// The request topic, as it was found or created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicsFound {
    /// Number of partitions.
    pub partitions: u32,
    /// Least number of replicas of a partition.
    pub replication_factor: u32,
    /// Problems of all topics that do not prevent a start, as sentences. They were logged.
    pub warnings: Vec<String>,
}

/// Why the topics cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TopicsError {
    /// The topics have problems. Trying again does not help.
    #[error("the topics have {} problem(s):{}", .0.len(), lines(.0))]
    Unfit(Vec<TopicProblem>),
    /// Kafka does not take this node, for a reason that settings or access rules can change.
    #[error(transparent)]
    Trouble(Trouble),
    /// The topics could not be checked or created. Trying again may help.
    #[error(transparent)]
    Failed(#[from] ClientError),
}

fn lines(problems: &[TopicProblem]) -> String {
    problems.iter().map(|problem| format!("\n  {problem}")).collect()
}

/// Creates missing topics and checks existing ones. Two nodes may do so at once.
///
/// Request and result topic need at least `partitions_of_layout` partitions. Without a layout, an
/// existing request topic determines the number, which must be at least `config.partitions`.
///
/// # Errors
/// [`TopicsError`]: all problems at once, or a failed operation.
pub async fn ensure_topics(
    config: &KafkaConfig,
    partitions_of_layout: Option<u32>,
) -> Result<TopicsFound, TopicsError> {
    let admin = Admin::connect(config)?;
    let ensured = explained(config, ensure(&admin, config, partitions_of_layout)).await;
    client::drop_in_background(admin);
    ensured
}

/// Runs an operation, and finds why it fails or does not end: the library only lets it time out.
async fn explained<T>(
    config: &KafkaConfig,
    operation: impl Future<Output = Result<T, TopicsError>>,
) -> Result<T, TopicsError> {
    tokio::pin!(operation);
    let error = match tokio::time::timeout(DIAGNOSE_AFTER, &mut operation).await {
        Ok(Err(TopicsError::Failed(error))) => Some(error),
        Ok(ended) => return ended,
        Err(_) => None,
    };
    let rights = |error: &ClientError| trouble::of_rights(&error.operation, &*error.source, config);
    if let Some(trouble) = error.as_ref().and_then(rights) {
        return Err(TopicsError::Trouble(trouble));
    }
    let tried = config.clone();
    let found = tokio::task::spawn_blocking(move || trouble::diagnose(&tried)).await;
    // None also if the diagnosis panicked.
    let found = found.unwrap_or_default();
    let error = match (error, &found) {
        (Some(error), _) => error,
        (None, Some(trouble)) if trouble.is_final => {
            return Err(TopicsError::Trouble(trouble.clone()));
        }
        // It may only be slow.
        (None, _) => match operation.await {
            Err(TopicsError::Failed(error)) => error,
            ended => return ended,
        },
    };
    Err(match rights(&error).or(found) {
        Some(trouble) => TopicsError::Trouble(trouble),
        None => TopicsError::Failed(error),
    })
}

async fn ensure(
    admin: &Admin,
    config: &KafkaConfig,
    partitions_of_layout: Option<u32>,
) -> Result<TopicsFound, TopicsError> {
    let Topics { request, result, dead_letter } = Topics::under(&config.topic_prefix);
    let mut findings = TopicFindings::default();
    let needed = Needed::of_requests(partitions_of_layout, config.partitions);
    let facts = create_missing(admin, config, vec![(Purpose::Request, request, needed)]).await?;
    let (partitions, replication_factor) = (facts[0].1.partitions(), facts[0].1.replication());
    let routed = needed.routed(partitions_of_layout, partitions);
    let one = Needed::of_dead_letters();
    let plan = vec![(Purpose::Result, result, routed), (Purpose::DeadLetter, dead_letter, one)];
    let others = create_missing(admin, config, plan).await?;
    for (purpose, facts) in facts.into_iter().chain(others) {
        let needed = if purpose == Purpose::DeadLetter { one } else { routed };
        facts.check(purpose, needed, config.retention, &mut findings);
    }
    if !findings.problems.is_empty() {
        return Err(TopicsError::Unfit(findings.problems));
    }
    findings.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    Ok(TopicsFound { partitions, replication_factor, warnings: findings.warnings })
}

/// The topics of a running node, as they are now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TopicsNow {
    /// The request topic does not exist.
    RequestsMissing,
    /// The topics exist.
    Found {
        /// What would refuse a start.
        problems: Vec<TopicProblem>,
        /// What would be a warning at start.
        warnings: Vec<String>,
        /// How long requests are kept. None: for ever.
        retention: Option<Duration>,
    },
}

/// Checks the topics of a running node, whose layout has so many partitions. Creates the result and
/// the dead-letter topic if they are gone: nothing decided depends on them. Does not create the
/// request topic, because an empty one would not be the log that was decided.
///
/// # Errors
/// [`TopicsError`] if the topics could not be checked or created.
pub async fn check_topics(config: &KafkaConfig, partitions: u32) -> Result<TopicsNow, TopicsError> {
    let admin = Admin::connect(config)?;
    let checked = check(&admin, config, partitions).await;
    client::drop_in_background(admin);
    checked
}

async fn check(
    admin: &Admin,
    config: &KafkaConfig,
    partitions: u32,
) -> Result<TopicsNow, TopicsError> {
    let Topics { request, result, dead_letter } = Topics::under(&config.topic_prefix);
    if admin.metadata(&request).await?.replicas.is_empty() {
        return Ok(TopicsNow::RequestsMissing);
    }
    let routed = Needed::of_requests(Some(partitions), partitions);
    let one = Needed::of_dead_letters();
    let plan = vec![(Purpose::Result, result, routed), (Purpose::DeadLetter, dead_letter, one)];
    let requests = (Purpose::Request, admin.facts(&request, None).await?);
    let retention = requests.1.retention();
    let mut findings = TopicFindings::default();
    // Whatever becomes of the others, the topic of requests is judged.
    let others = create_missing(admin, config, plan).await.unwrap_or_else(|error| {
        findings.warnings.push(format!("topics not checked or not made: {}", Chain(&error)));
        Vec::new()
    });
    for (purpose, facts) in others.into_iter().chain([requests]) {
        let needed = if purpose == Purpose::DeadLetter { one } else { routed };
        facts.check(purpose, needed, config.retention, &mut findings);
    }
    let TopicFindings { problems, warnings } = findings;
    Ok(TopicsNow::Found { problems, warnings, retention })
}

/// Creates the missing topics of `plan`. Returns the facts about all of them.
async fn create_missing(
    admin: &Admin,
    config: &KafkaConfig,
    plan: Vec<(Purpose, String, Needed)>,
) -> Result<Vec<(Purpose, TopicFacts)>, TopicsError> {
    let mut brokers = 0;
    let (mut absent, mut others) = (Vec::new(), Vec::new());
    for (purpose, name, needed) in &plan {
        let seen = admin.metadata(name).await?;
        brokers = brokers.max(seen.brokers);
        if seen.replicas.is_empty() {
            absent.push((*purpose, name.as_str(), needed.partitions));
        }
    }
    if !absent.is_empty() {
        let replication = facts::replication(config.replication_factor, brokers)
            .map_err(|problem| TopicsError::Unfit(vec![problem]))?;
        others = admin.create(&absent, replication, config.retention).await?;
    }
    let mut found = Vec::new();
    for (purpose, name, needed) in &plan {
        let created = absent.iter().any(|(_, other, _)| other == name);
        // Another node created it, perhaps with another number of partitions. The check finds that.
        let least = if others.contains(name) { 1 } else { needed.partitions };
        found.push((*purpose, admin.facts(name, created.then_some(least)).await?));
    }
    Ok(found)
}

/// Metadata of a topic.
#[derive(Debug, Clone, Default)]
struct Metadata {
    brokers: u32,
    /// Replicas of each partition; empty if the topic does not exist.
    replicas: Vec<u32>,
    /// Whether all partitions have a leader.
    led: bool,
}

/// The admin client.
struct Admin {
    client: std::sync::Arc<AdminClient<DefaultClientContext>>,
    options: AdminOptions,
}

impl Admin {
    fn connect(config: &KafkaConfig) -> Result<Self, ClientError> {
        let settings = client::base(config);
        let client = AdminClient::from_config(&settings)
            .map_err(|error| failed("starting the admin client", error))?;
        let options = AdminOptions::new()
            .request_timeout(Some(client::QUERY_TIMEOUT))
            .operation_timeout(Some(client::QUERY_TIMEOUT));
        Ok(Self { client: std::sync::Arc::new(client), options })
    }

    async fn metadata(&self, topic: &str) -> Result<Metadata, ClientError> {
        let operation = || format!("reading the metadata of topic {topic}");
        let (client, name) = (std::sync::Arc::clone(&self.client), topic.to_owned());
        let fetch = move || {
            let metadata = client.inner().fetch_metadata(Some(&name), client::QUERY_TIMEOUT)?;
            let mut seen = Metadata {
                brokers: u32::try_from(metadata.brokers().len()).unwrap_or(u32::MAX),
                ..Metadata::default()
            };
            let Some(topic) = metadata.topics().iter().find(|topic| topic.name() == name) else {
                return Ok(seen);
            };
            match topic.error().map(RDKafkaErrorCode::from) {
                None => {}
                Some(
                    RDKafkaErrorCode::UnknownTopicOrPartition
                    | RDKafkaErrorCode::UnknownTopic
                    | RDKafkaErrorCode::LeaderNotAvailable,
                ) => return Ok(seen),
                Some(code) => return Err(KafkaError::MetadataFetch(code)),
            }
            let replicas = |partition: &rdkafka::metadata::MetadataPartition| {
                u32::try_from(partition.replicas().len()).unwrap_or(u32::MAX)
            };
            seen.replicas = topic.partitions().iter().map(replicas).collect();
            seen.led = topic.partitions().iter().all(|partition| partition.leader() >= 0);
            Ok(seen)
        };
        tokio::task::spawn_blocking(fetch)
            .await
            .map_err(|error| ClientError { operation: operation(), source: Box::new(error) })?
            .map_err(|error| failed(operation(), error))
    }

    /// Creates topics. Returns the names of those that another node created meanwhile.
    async fn create(
        &self,
        absent: &[(Purpose, &str, u32)],
        replication: u32,
        kept: Duration,
    ) -> Result<Vec<String>, ClientError> {
        let settings: Vec<_> =
            absent.iter().map(|(purpose, ..)| purpose.settings(replication, kept)).collect();
        let copies = i32::try_from(replication).unwrap_or(i32::MAX);
        let new: Vec<NewTopic<'_>> = absent
            .iter()
            .zip(&settings)
            .map(|((_, name, partitions), settings)| {
                let partitions = client::native_partition(*partitions);
                let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(copies));
                settings.iter().fold(topic, |topic, (key, value)| topic.set(key, value))
            })
            .collect();
        let results = self
            .client
            .create_topics(&new, &self.options)
            .await
            .map_err(|error| failed("creating topics", error))?;
        let mut others = Vec::new();
        for result in results {
            match result {
                Ok(topic) => tracing::info!(topic, replication, "topic created"),
                Err((topic, RDKafkaErrorCode::TopicAlreadyExists)) => others.push(topic),
                Err((topic, code)) => {
                    let error = KafkaError::AdminOp(code);
                    return Err(failed(format!("creating topic {topic}"), error));
                }
            }
        }
        Ok(others)
    }

    /// Reads the facts about `topic`. For a topic that was just created, waits until at least that
    /// many partitions have leaders: a broker may learn of a topic later than the one that created
    /// it.
    async fn facts(&self, topic: &str, created: Option<u32>) -> Result<TopicFacts, ClientError> {
        let deadline = Instant::now() + CREATED_WITHIN;
        let expected = created.map_or(1, |partitions| partitions as usize);
        loop {
            let Metadata { replicas, led, .. } = self.metadata(topic).await?;
            let settings = self.settings(topic).await?;
            let complete = replicas.len() >= expected && (led || created.is_none());
            if complete && !settings.is_empty() {
                return Ok(TopicFacts { topic: topic.to_owned(), replicas, settings });
            }
            if Instant::now() >= deadline {
                let operation = format!("waiting for topic {topic} to be known to every broker");
                let error = KafkaError::AdminOp(RDKafkaErrorCode::LeaderNotAvailable);
                return Err(failed(operation, error));
            }
            tokio::time::sleep(CHECK_EVERY).await;
        }
    }

    /// Reads the settings of `topic`; empty if the broker does not know the topic yet.
    async fn settings(&self, topic: &str) -> Result<HashMap<String, String>, ClientError> {
        let operation = || format!("reading the settings of topic {topic}");
        let described = self
            .client
            .describe_configs(&[ResourceSpecifier::Topic(topic)], &self.options)
            .await
            .map_err(|error| failed(operation(), error))?;
        let mut settings = HashMap::new();
        for resource in described {
            match resource {
                Ok(resource) => settings.extend(
                    resource.entries.into_iter().map(|e| (e.name, e.value.unwrap_or_default())),
                ),
                Err(RDKafkaErrorCode::UnknownTopicOrPartition) => {}
                Err(code) => return Err(failed(operation(), KafkaError::AdminOp(code))),
            }
        }
        Ok(settings)
    }
}
