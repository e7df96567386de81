//! Creates missing topics, and checks all topics before anything is read or written.
//!
//! On a log that loses, rewrites or restamps records, decisions would not be repeatable. So a
//! request topic with such a setting is refused, and all its problems are reported at once.

mod mac_header;

use std::{collections::HashMap, fmt, time::Duration};

use rdkafka::{
    admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication},
    client::DefaultClientContext,
    config::FromClientConfig,
    error::{KafkaError, RDKafkaErrorCode},
};
use tokio::time::Instant;

pub use self::mac_header::{RecordWithMac, record_with_mac};
use super::client::{self, ClientError, Topics, failed};
use crate::config::KafkaConfig;

/// Shortest retention of requests: the longest outage after which a partition must still be able to
/// continue from its progress.
const RETENTION_MIN: Duration = Duration::from_secs(7 * 24 * 3_600);

/// Retention of the result topic. Nodes read only new messages; a day is for people who debug.
const RESULT_RETENTION: Duration = Duration::from_secs(24 * 3_600);

/// Replicas wanted: with three, two can acknowledge while the third is down.
const REPLICATION_WANTED: u32 = 3;

/// Least `max.message.bytes`: twice the largest batch or dead letter that coupond sends.
const MESSAGE_BYTES_MIN: u64 = 512 * 1_024;

/// Longest wait until all partitions of a new topic have a leader.
const CREATED_WITHIN: Duration = Duration::from_secs(60);

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

/// A problem of a topic that prevents a start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicProblem {
    /// Topic and setting.
    pub setting: String,
    /// Value found.
    pub found: String,
    /// Value needed, as a phrase that follows "must be".
    pub needed: String,
    /// How to change it.
    pub remedy: String,
}

impl fmt::Display for TopicProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { setting, found, needed, remedy } = self;
        write!(f, "{setting} is {found}; it must be {needed}: {remedy}")
    }
}

/// Why the topics cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TopicsError {
    /// The topics have problems. Trying again does not help.
    #[error("the topics have {} problem(s):{}", .0.len(), lines(.0))]
    Unfit(Vec<TopicProblem>),
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
    let ensured = ensure(&admin, config, partitions_of_layout).await;
    client::drop_in_background(admin);
    ensured
}

async fn ensure(
    admin: &Admin,
    config: &KafkaConfig,
    partitions_of_layout: Option<u32>,
) -> Result<TopicsFound, TopicsError> {
    let Topics { request, result, dead_letter } = Topics::under(&config.topic_prefix);
    let mut findings = TopicFindings::default();
    let needed = match partitions_of_layout {
        Some(partitions) => Needed { partitions, because: "as in the instance's layout" },
        None => Needed { partitions: config.partitions, because: "as kafka.partitions says" },
    };
    let facts = create_missing(admin, config, vec![(Purpose::Request, request, needed)]).await?;
    let (partitions, replication_factor) = (facts[0].1.partitions(), facts[0].1.replication());
    // Without a layout, campaigns are routed over all partitions of an existing request topic.
    let routed = match partitions_of_layout {
        Some(_) => needed,
        None => Needed { partitions: needed.partitions.max(partitions), ..needed },
    };
    let one = Needed { partitions: 1, because: "for the dead letters" };
    let plan = vec![(Purpose::Result, result, routed), (Purpose::DeadLetter, dead_letter, one)];
    let others = create_missing(admin, config, plan).await?;
    for (purpose, facts) in facts.into_iter().chain(others) {
        facts.check(
            purpose,
            if purpose == Purpose::DeadLetter { one } else { routed },
            &mut findings,
        );
    }
    if !findings.problems.is_empty() {
        return Err(TopicsError::Unfit(findings.problems));
    }
    findings.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    Ok(TopicsFound { partitions, replication_factor, warnings: findings.warnings })
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
    let replication = match config.replication_factor {
        0 => brokers.clamp(1, REPLICATION_WANTED),
        configured => configured,
    };
    if !absent.is_empty() {
        if replication > brokers {
            return Err(TopicsError::Unfit(vec![TopicProblem {
                setting: "kafka.replication_factor".to_owned(),
                found: replication.to_string(),
                needed: format!("at most {brokers}, the number of brokers"),
                remedy: "lower it, set it to 0 for min(3, brokers), or start more brokers"
                    .to_owned(),
            }]));
        }
        others = admin.create(&absent, replication).await?;
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

/// A needed number of partitions, and the reason for it.
#[derive(Debug, Clone, Copy)]
struct Needed {
    partitions: u32,
    because: &'static str,
}

/// The purpose of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Request,
    Result,
    DeadLetter,
}

impl Purpose {
    /// Returns the settings for a new topic.
    fn settings(self, replication: u32) -> Vec<(&'static str, String)> {
        // All replicas minus one, so that one broker may be down; with fewer than three replicas a
        // second one in sync would make every outage stop appends.
        let in_sync = if replication >= REPLICATION_WANTED { 2 } else { 1 };
        let retention = match self {
            // Everything else can be checked against requests and dead letters.
            Self::Request | Self::DeadLetter => "-1".to_owned(),
            Self::Result => client::millis(RESULT_RETENTION),
        };
        vec![
            ("cleanup.policy", "delete".to_owned()),
            ("retention.ms", retention),
            ("retention.bytes", "-1".to_owned()),
            ("message.timestamp.type", "LogAppendTime".to_owned()),
            ("unclean.leader.election.enable", "false".to_owned()),
            ("min.insync.replicas", in_sync.to_string()),
        ]
    }
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

/// Problems and warnings of all topics.
#[derive(Debug, Default)]
struct TopicFindings {
    problems: Vec<TopicProblem>,
    warnings: Vec<String>,
}

/// The checked properties of a topic.
#[derive(Debug, Clone)]
struct TopicFacts {
    topic: String,
    replicas: Vec<u32>,
    settings: HashMap<String, String>,
}

impl TopicFacts {
    fn partitions(&self) -> u32 {
        u32::try_from(self.replicas.len()).unwrap_or(u32::MAX)
    }

    fn replication(&self) -> u32 {
        self.replicas.iter().copied().min().unwrap_or(0)
    }

    fn check(&self, purpose: Purpose, needed: Needed, findings: &mut TopicFindings) {
        self.check_partitions(purpose, needed, findings);
        self.setting(findings, "cleanup.policy", "delete", "delete", |value| value == "delete");
        let bytes = MESSAGE_BYTES_MIN.to_string();
        self.setting(findings, "max.message.bytes", &format!("at least {bytes}"), &bytes, |v| {
            v.parse().is_ok_and(|bytes: u64| bytes >= MESSAGE_BYTES_MIN)
        });
        if purpose == Purpose::Request {
            self.check_durability(findings);
        }
        self.check_replication(purpose, findings);
    }

    fn check_partitions(&self, purpose: Purpose, needed: Needed, findings: &mut TopicFindings) {
        let (topic, found) = (&self.topic, self.partitions());
        let Needed { partitions: needed, because } = needed;
        if found < needed {
            findings.problems.push(TopicProblem {
                setting: format!("{topic}: partitions"),
                found: found.to_string(),
                needed: format!("at least {needed}, {because}"),
                remedy: format!("kafka-topics.sh --alter --topic {topic} --partitions {needed}"),
            });
        } else if found > needed && purpose == Purpose::Request {
            findings.warnings.push(format!(
                "{topic} has {found} partitions, but campaigns are routed over {needed}: records \
                 that another producer spreads over all of them become dead letters"
            ));
        }
    }

    fn check_durability(&self, findings: &mut TopicFindings) {
        let time = "message.timestamp.type";
        self.setting(findings, time, "LogAppendTime", "LogAppendTime", |value| {
            value == "LogAppendTime"
        });
        let needed = format!("-1 or at least {} (7 days)", client::millis(RETENTION_MIN));
        self.setting(findings, "retention.ms", &needed, "-1", |value| {
            value.parse().is_ok_and(|kept: i128| {
                kept == -1 || u128::try_from(kept).is_ok_and(|ms| ms >= RETENTION_MIN.as_millis())
            })
        });
        self.setting(findings, "retention.bytes", "-1", "-1", |value| value == "-1");
        let unclean = "unclean.leader.election.enable";
        self.setting(findings, unclean, "false", "false", |value| value == "false");
    }

    fn check_replication(&self, purpose: Purpose, findings: &mut TopicFindings) {
        let (topic, replication) = (&self.topic, self.replication());
        let name = "min.insync.replicas";
        let needed = format!("at most {replication}, the replicas that there are");
        self.setting(findings, name, &needed, &replication.to_string(), |value| {
            value.parse().is_ok_and(|in_sync: u32| in_sync <= replication)
        });
        let in_sync = self.settings.get(name).and_then(|value| value.parse().ok()).unwrap_or(0);
        if purpose != Purpose::Request || in_sync > replication {
            return;
        }
        if replication == 1 {
            findings.warnings.push(format!(
                "{topic} has one replica: the loss of that broker's disk loses requests"
            ));
        } else if in_sync == replication {
            findings.warnings.push(format!(
                "{topic} wants all of its {replication} replicas in sync: while one broker is \
                 away, nothing is taken"
            ));
        } else if in_sync == 1 {
            findings.warnings.push(format!(
                "{topic} takes a request with one replica in sync: the loss of that one disk \
                 then loses it; set {name} to 2"
            ));
        } else if replication < REPLICATION_WANTED {
            findings.warnings.push(format!("{topic} has {replication} replicas, fewer than 3"));
        }
    }

    fn setting(
        &self,
        findings: &mut TopicFindings,
        name: &str,
        needed: &str,
        remedy: &str,
        fits: impl Fn(&str) -> bool,
    ) {
        let topic = &self.topic;
        let found = self.settings.get(name);
        if found.is_some_and(|value| fits(value)) {
            return;
        }
        findings.problems.push(TopicProblem {
            setting: format!("{topic}: {name}"),
            found: found.cloned().unwrap_or_else(|| "missing in the broker's answer".to_owned()),
            needed: needed.to_owned(),
            remedy: format!(
                "kafka-configs.sh --alter --entity-type topics --entity-name {topic} \
                 --add-config {name}={remedy}"
            ),
        });
    }
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
    ) -> Result<Vec<String>, ClientError> {
        let settings: Vec<_> =
            absent.iter().map(|(purpose, ..)| purpose.settings(replication)).collect();
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

#[cfg(test)]
mod tests;
