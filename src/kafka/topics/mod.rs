//! The topics: created where they are absent, and checked before anything is read or written.
//!
//! A log that loses, rewrites or restamps records would make decisions that don't hold; so a
//! request topic with such a setting is refused, with everything that is wrong with it at once.

mod mac_header;

use std::{collections::HashMap, fmt, time::Duration};

use rdkafka::{
    admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication},
    client::DefaultClientContext,
    config::FromClientConfig,
    error::{KafkaError, RDKafkaErrorCode},
};
use tokio::time::Instant;
use tracing::{info, warn};

pub use self::mac_header::{RecordWithMac, record_with_mac};
use super::client::{self, ClientError, Topics, failed};
use crate::config::KafkaConfig;

/// Shortest retention of requests: as long as the longest outage of a node that must still be able
/// to go on from its progress.
const RETENTION_MIN: Duration = Duration::from_secs(7 * 24 * 3_600);

/// How long the result topic keeps messages: nobody reads older ones, a person may want to look.
const RESULT_RETENTION: Duration = Duration::from_secs(24 * 3_600);

/// Replicas that survive the loss of one without losing the other guarantee.
const REPLICATION_WANTED: u32 = 3;

/// Least `max.message.bytes`: twice what one batch or dead letter comes to.
const MESSAGE_BYTES_MIN: u64 = 512 * 1_024;

/// How long a new topic may take until every partition has a leader.
const CREATED_WITHIN: Duration = Duration::from_secs(60);

/// Pause between two looks at a new topic.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What was found, or made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicsFound {
    /// Partitions of the request topic.
    pub partitions: u32,
    /// Least replicas of any of its partitions.
    pub replication_factor: u32,
    /// What works but should not stay so, as sentences. They were logged.
    pub warnings: Vec<String>,
}

/// Something about a topic that must be changed before a node can run on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicProblem {
    /// Topic and setting.
    pub setting: String,
    /// Its value.
    pub found: String,
    /// What it must be, as a phrase that follows "must be".
    pub needed: String,
    /// What to do.
    pub remedy: String,
}

impl fmt::Display for TopicProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { setting, found, needed, remedy } = self;
        write!(f, "{setting} is {found}; it must be {needed}: {remedy}")
    }
}

/// Why a node can't run on the topics.
#[derive(Debug, thiserror::Error)]
pub enum TopicsError {
    /// They are there and don't fit.
    #[error("the topics have {} problem(s):{}", .0.len(), lines(.0))]
    Unfit(Vec<TopicProblem>),
    /// They could not be looked at or made; trying again may help.
    #[error(transparent)]
    Failed(#[from] ClientError),
}

fn lines(problems: &[TopicProblem]) -> String {
    problems.iter().map(|problem| format!("\n  {problem}")).collect()
}

/// Creates the topics that are absent and checks those that are present. Two nodes may do so at
/// once. Request and result topic have `partitions_of_layout` partitions or more. Where there is no
/// layout yet, a request topic that is there gives the number, and `config.partitions` is the
/// least.
///
/// # Errors
/// [`TopicsError`]: every problem at once, or that Kafka could not be asked.
pub async fn ensure_topics(
    config: &KafkaConfig,
    partitions_of_layout: Option<u32>,
) -> Result<TopicsFound, TopicsError> {
    let admin = Admin::connect(config)?;
    let ended = ensure(&admin, config, partitions_of_layout).await;
    client::end_elsewhere(admin);
    ended
}

async fn ensure(
    admin: &Admin,
    config: &KafkaConfig,
    partitions_of_layout: Option<u32>,
) -> Result<TopicsFound, TopicsError> {
    let Topics { request, result, dead_letter } = Topics::under(&config.topic_prefix);
    let mut findings = Findings::default();
    let needed = match partitions_of_layout {
        Some(partitions) => Needed { partitions, because: "as in the instance's layout" },
        None => Needed { partitions: config.partitions, because: "as kafka.partitions says" },
    };
    let facts = there(admin, config, vec![(Purpose::Request, request, needed)]).await?;
    let (partitions, replication_factor) = (facts[0].1.partitions(), facts[0].1.replication());
    // Without a layout, campaigns will be routed over what is there, where that is enough.
    let routed = match partitions_of_layout {
        Some(_) => needed,
        None => Needed { partitions: needed.partitions.max(partitions), ..needed },
    };
    let one = Needed { partitions: 1, because: "for there are dead letters" };
    let plan = vec![(Purpose::Result, result, routed), (Purpose::DeadLetter, dead_letter, one)];
    let others = there(admin, config, plan).await?;
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
    findings.warnings.iter().for_each(|warning| warn!("{warning}"));
    Ok(TopicsFound { partitions, replication_factor, warnings: findings.warnings })
}

/// Creates what is absent of `plan`, and gives what the brokers say of all of it.
async fn there(
    admin: &Admin,
    config: &KafkaConfig,
    plan: Vec<(Purpose, String, Needed)>,
) -> Result<Vec<(Purpose, Facts)>, TopicsError> {
    let mut brokers = 0;
    let (mut absent, mut others) = (Vec::new(), Vec::new());
    for (purpose, name, needed) in &plan {
        let seen = admin.look(name).await?;
        brokers = brokers.max(seen.brokers);
        if seen.replicas.is_empty() {
            absent.push((*purpose, name.as_str(), needed.partitions));
        }
    }
    let replication = match config.replication_factor {
        0 => brokers.clamp(1, REPLICATION_WANTED),
        asked => asked,
    };
    if !absent.is_empty() {
        if replication > brokers {
            return Err(TopicsError::Unfit(vec![TopicProblem {
                setting: "kafka.replication_factor".to_owned(),
                found: replication.to_string(),
                needed: format!("at most {brokers}, the number of brokers"),
                remedy: "lower it, say 0 for min(3, brokers), or start more brokers".to_owned(),
            }]));
        }
        others = admin.create(&absent, replication).await?;
    }
    let mut found = Vec::new();
    for (purpose, name, needed) in &plan {
        let created = absent.iter().any(|(_, other, _)| other == name);
        // Whoever else made it may have asked for another number, which is to be found.
        let least = if others.contains(name) { 1 } else { needed.partitions };
        found.push((*purpose, admin.facts(name, created.then_some(least)).await?));
    }
    Ok(found)
}

/// A number of partitions, and who asks for it.
#[derive(Debug, Clone, Copy)]
struct Needed {
    partitions: u32,
    because: &'static str,
}

/// What a topic is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Request,
    Result,
    DeadLetter,
}

impl Purpose {
    /// Settings of a new topic.
    fn settings(self, replication: u32) -> Vec<(&'static str, String)> {
        let in_sync = if replication >= REPLICATION_WANTED { 2 } else { 1 };
        let retention = match self {
            // Requests and dead letters are what everything else is proved from.
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

/// What the brokers say of a topic.
#[derive(Debug, Clone, Default)]
struct Seen {
    brokers: u32,
    /// Replicas of each partition; empty where there is no such topic.
    replicas: Vec<u32>,
    /// Whether every partition has a leader.
    led: bool,
}

/// Problems and warnings, collected over all topics.
#[derive(Debug, Default)]
struct Findings {
    problems: Vec<TopicProblem>,
    warnings: Vec<String>,
}

/// Everything that is checked of one topic.
#[derive(Debug, Clone)]
struct Facts {
    topic: String,
    replicas: Vec<u32>,
    settings: HashMap<String, String>,
}

impl Facts {
    fn partitions(&self) -> u32 {
        u32::try_from(self.replicas.len()).unwrap_or(u32::MAX)
    }

    fn replication(&self) -> u32 {
        self.replicas.iter().copied().min().unwrap_or(0)
    }

    fn check(&self, purpose: Purpose, needed: Needed, findings: &mut Findings) {
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

    fn check_partitions(&self, purpose: Purpose, needed: Needed, findings: &mut Findings) {
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

    fn check_durability(&self, findings: &mut Findings) {
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

    fn check_replication(&self, purpose: Purpose, findings: &mut Findings) {
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
        findings: &mut Findings,
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
            found: found.cloned().unwrap_or_else(|| "not told by the broker".to_owned()),
            needed: needed.to_owned(),
            remedy: format!(
                "kafka-configs.sh --alter --entity-type topics --entity-name {topic} \
                 --add-config {name}={remedy}"
            ),
        });
    }
}

/// Asks and tells the brokers.
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

    async fn look(&self, topic: &str) -> Result<Seen, ClientError> {
        let operation = || format!("asking for topic {topic}");
        let (client, name) = (std::sync::Arc::clone(&self.client), topic.to_owned());
        let look = move || {
            let metadata = client.inner().fetch_metadata(Some(&name), client::QUERY_TIMEOUT)?;
            let mut seen = Seen {
                brokers: u32::try_from(metadata.brokers().len()).unwrap_or(u32::MAX),
                ..Seen::default()
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
        tokio::task::spawn_blocking(look)
            .await
            .map_err(|error| ClientError { operation: operation(), source: Box::new(error) })?
            .map_err(|error| failed(operation(), error))
    }

    /// Makes topics. Gives those that somebody else has made meanwhile.
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
                Ok(topic) => info!(topic, replication, "topic created"),
                Err((topic, RDKafkaErrorCode::TopicAlreadyExists)) => others.push(topic),
                Err((topic, code)) => {
                    let error = KafkaError::AdminOp(code);
                    return Err(failed(format!("creating topic {topic}"), error));
                }
            }
        }
        Ok(others)
    }

    /// Everything to check of `topic`; of one just created, as soon as so many partitions are led. A
    /// broker may hear of a topic later than the one that was asked to make it.
    async fn facts(&self, topic: &str, created: Option<u32>) -> Result<Facts, ClientError> {
        let deadline = Instant::now() + CREATED_WITHIN;
        let expected = created.map_or(1, |partitions| partitions as usize);
        loop {
            let Seen { replicas, led, .. } = self.look(topic).await?;
            let settings = self.settings(topic).await?;
            let there = replicas.len() >= expected && (led || created.is_none());
            if there && !settings.is_empty() {
                return Ok(Facts { topic: topic.to_owned(), replicas, settings });
            }
            if Instant::now() >= deadline {
                let operation = format!("waiting for topic {topic} to be known to every broker");
                let error = KafkaError::AdminOp(RDKafkaErrorCode::LeaderNotAvailable);
                return Err(failed(operation, error));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Settings of `topic`; none where the broker that answers does not know it.
    async fn settings(&self, topic: &str) -> Result<HashMap<String, String>, ClientError> {
        let operation = || format!("asking for the settings of topic {topic}");
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
