//! Creation of topics, and refused topics.

use coupond::{
    clock::{Clock, SystemClock},
    config::KafkaConfig,
    domain::ids::Timestamp,
    feed::DecisionFeed,
    kafka::topics::{TopicsError, TopicsFound, ensure_topics},
    log::{AppendError, ReadError, RequestLog, kafka::KafkaLog},
    wire::LogRecord,
};
use libtest_mimic::Trial;
use rdkafka::{
    ClientConfig,
    admin::{
        AdminClient, AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication,
    },
    client::DefaultClientContext,
};

use super::{PATIENCE, faults::arrives, feed, log, record, shared};
use crate::{engines::Engine, trials};

/// Limit for the broker's answer about a topic.
const BROKER_WITHIN: std::time::Duration = std::time::Duration::from_secs(10);

/// `kafka.retention` of the tests, as a topic has it.
const KEPT_MS: &str = "604800000";

/// Settings with which a request topic is taken without a warning.
const FITTING: [(&str, &str); 3] = [
    ("message.timestamp.type", "LogAppendTime"),
    ("retention.ms", KEPT_MS),
    ("compression.type", "uncompressed"),
];

pub(super) fn trials() -> Vec<Trial> {
    trials!(
        &[Engine::Kafka];
        concurrent_nodes_create_topics_once,
        every_problem_of_a_topic_is_reported,
        additional_partitions_cause_a_warning,
        an_existing_topic_sets_the_partitions,
        too_many_replicas_are_refused,
        a_new_request_topic_stores_plain_batches,
        a_changed_setting_makes_the_log_unfit,
        a_topic_with_a_retention_says_what_it_removes,
        vanished_topics_of_a_running_node_are_made_again,
        a_vanished_request_topic_makes_the_log_unfit,
    )
}

pub(crate) fn admin(config: &KafkaConfig) -> AdminClient<DefaultClientContext> {
    ClientConfig::new()
        .set("bootstrap.servers", config.brokers.join(","))
        .create()
        .expect("an admin client")
}

/// The settings of a topic, without those that are the broker's; none if there is no such topic.
async fn settings(topic: &str, config: &KafkaConfig) -> Vec<(String, String)> {
    let described = admin(config)
        .describe_configs(&[ResourceSpecifier::Topic(topic)], &AdminOptions::new())
        .await
        .expect("the broker answers");
    let entries = described.into_iter().flatten().flat_map(|resource| resource.entries);
    let own = entries.filter(|entry| !entry.is_default);
    own.map(|entry| (entry.name, entry.value.unwrap_or_default())).collect()
}

/// Changes a setting of the request topic, and leaves the others as they are.
pub(crate) async fn set(config: &KafkaConfig, name: &str, value: &str) {
    let topic = format!("{}.request", config.topic_prefix);
    let mut all = settings(&topic, config).await;
    all.retain(|(other, _)| other != name);
    all.push((name.to_owned(), value.to_owned()));
    let change = AlterConfig::new(ResourceSpecifier::Topic(&topic));
    let change = all.iter().fold(change, |change, (name, value)| change.set(name, value));
    let changed = admin(config).alter_configs(&[change], &AdminOptions::new()).await;
    assert!(changed.expect("the broker answers").iter().all(Result::is_ok));
    // The broker answers before the change is in effect.
    let wanted = (name.to_owned(), value.to_owned());
    let in_effect = async { while !settings(&topic, config).await.contains(&wanted) {} };
    tokio::time::timeout(PATIENCE, in_effect).await.expect("it is in effect");
}

pub(crate) async fn delete(config: &KafkaConfig, topic: &str) {
    let name = format!("{}.{topic}", config.topic_prefix);
    let deleted = admin(config).delete_topics(&[&name], &AdminOptions::new()).await;
    assert_eq!(deleted.expect("the broker answers"), [Ok(name.clone())]);
    // The broker answers before it has forgotten the topic.
    let gone = async { while !settings(&name, config).await.is_empty() {} };
    tokio::time::timeout(PATIENCE, gone).await.expect("it is gone");
}

async fn make(config: &KafkaConfig, partitions: i32, settings: &[(&str, &str)]) {
    let name = format!("{}.request", config.topic_prefix);
    let topic = NewTopic::new(&name, partitions, TopicReplication::Fixed(1));
    let topic = settings.iter().fold(topic, |topic, (key, value)| topic.set(key, value));
    let made = admin(config).create_topics(&[topic], &AdminOptions::new()).await;
    assert_eq!(made.expect("the broker answers"), [Ok(name)]);
}

async fn concurrent_nodes_create_topics_once() {
    let config = shared(5);
    let nodes = (0..4).map(async |_| ensure_topics(&config, None).await);
    for found in futures_util::future::join_all(nodes).await {
        let TopicsFound { partitions, replication_factor, warnings } = found.expect("they fit");
        assert_eq!((partitions, replication_factor), (5, 1));
        assert_eq!(warnings.len(), 1, "one replica is an alarm: {warnings:?}");
    }
    let changed = KafkaConfig { partitions: 9, ..config };
    let found = ensure_topics(&changed, Some(5)).await.expect("the layout counts");
    assert_eq!(found.partitions, 5);
}

async fn every_problem_of_a_topic_is_reported() {
    let config = shared(5);
    let wrong = [
        ("cleanup.policy", "compact"),
        ("max.message.bytes", "1000"),
        ("message.timestamp.type", "CreateTime"),
        ("retention.bytes", "1000000"),
        ("retention.ms", "604799999"),
        ("unclean.leader.election.enable", "true"),
        ("min.insync.replicas", "2"),
    ];
    make(&config, 4, &wrong).await;
    let error = ensure_topics(&config, None).await.expect_err("it does not fit");
    let TopicsError::Unfit(problems) = &error else { panic!("{error}") };
    let mut expected: Vec<_> = wrong
        .iter()
        .chain(&[("partitions", "4")])
        .map(|(name, value)| (format!("{}.request: {name}", config.topic_prefix), *value))
        .collect();
    expected.sort();
    let mut found: Vec<_> =
        problems.iter().map(|problem| (problem.setting.clone(), problem.found.as_str())).collect();
    found.sort();
    assert_eq!(found, expected);
    println!("{error}");
}

async fn additional_partitions_cause_a_warning() {
    let config = shared(5);
    make(&config, 7, &FITTING).await;
    let found = ensure_topics(&config, Some(5)).await.expect("it fits");
    assert_eq!(found.partitions, 7);
    assert_eq!(found.warnings.len(), 2, "partitions and replicas: {:?}", found.warnings);
}

async fn an_existing_topic_sets_the_partitions() {
    let config = shared(5);
    make(&config, 7, &FITTING).await;
    let found = ensure_topics(&config, None).await.expect("it fits");
    assert_eq!(found.partitions, 7);
    assert_eq!(found.warnings.len(), 1, "replicas: {:?}", found.warnings);
    let result = format!("{}.result", config.topic_prefix);
    let metadata = admin(&config).inner().fetch_metadata(Some(&result), BROKER_WITHIN);
    assert_eq!(metadata.expect("the broker answers").topics()[0].partitions().len(), 7);
}

async fn too_many_replicas_are_refused() {
    let config = KafkaConfig { replication_factor: 5, ..shared(5) };
    let error = ensure_topics(&config, None).await.expect_err("there is one broker");
    let TopicsError::Unfit(problems) = &error else { panic!("{error}") };
    assert_eq!(problems[0].setting, "kafka.replication_factor");
}

async fn a_new_request_topic_stores_plain_batches() {
    let config = shared(1);
    ensure_topics(&config, None).await.expect("topics are made");
    let all = settings(&format!("{}.request", config.topic_prefix), &config).await;
    let found = all.iter().find(|(name, _)| name == "compression.type").expect("it is set");
    assert_eq!(found.1, "uncompressed");
    set(&config, "compression.type", "zstd").await;
    let found = ensure_topics(&config, None).await.expect("it fits");
    let warned = found.warnings.iter().filter(|it| it.contains("compression.type is zstd"));
    assert_eq!(warned.count(), 1, "{:?}", found.warnings);
}

/// The text of the halt for which the log refuses an append, if it does.
async fn refused(log: &KafkaLog) -> Option<String> {
    match log.append(0, record(1)).await {
        Ok(_) => None,
        Err(AppendError::Unfit(halt)) => Some(halt.to_string()),
        Err(other) => Some(other.to_string()),
    }
}

async fn a_changed_setting_makes_the_log_unfit() {
    let config = shared(1);
    let log = log(&config).await;
    let mut watch = log.topic_watch(1, Vec::new());
    watch.check().await;
    assert_eq!(refused(&log).await, None);
    let mut reader = log.open(0, 1).await.expect("opened");
    set(&config, "message.timestamp.type", "CreateTime").await;
    watch.check().await;
    let text = refused(&log).await.expect("unfit");
    assert!(text.starts_with("topic_changed: ") && text.contains("CreateTime"), "{text}");
    let read = tokio::time::timeout(PATIENCE, reader.read(1)).await.expect("answered");
    assert!(matches!(read, Err(ReadError::Unfit(_))), "{read:?}");
    set(&config, "message.timestamp.type", "LogAppendTime").await;
    watch.check().await;
    assert_eq!(refused(&log).await, None);
}

async fn a_topic_with_a_retention_says_what_it_removes() {
    const DAY_MS: i64 = 86_400_000;
    let config = shared(1);
    let log = log(&config).await;
    let mut watch = log.topic_watch(1, Vec::new());
    let mut times: Vec<i64> = Vec::new();
    for number in 0..3 {
        // So that each has a time of its own.
        while times.last().is_some_and(|last| SystemClock.now().0 <= *last) {
            tokio::task::yield_now().await;
        }
        times.push(log.append(0, record(number)).await.expect("it is appended").time.0);
    }
    set(&config, "retention.ms", "-1").await;
    watch.check().await;
    let at = async |now| log.expiring(0, Timestamp(now)).await.expect("the broker answers");
    assert_eq!(at(times[2] + 100 * DAY_MS).await, None, "it keeps all");
    set(&config, "retention.ms", KEPT_MS).await;
    watch.check().await;
    for (oldest, below) in times.iter().zip(0..) {
        let expiring = at(oldest + 6 * DAY_MS).await.expect("it has a retention");
        assert_eq!(expiring.below, below);
        let lengthens = "--add-config retention.ms=-1";
        assert!(expiring.remedy.ends_with(lengthens), "{}", expiring.remedy);
    }
    assert_eq!(at(times[2] + 6 * DAY_MS + 1).await.map(|expiring| expiring.below), Some(3));
}

async fn vanished_topics_of_a_running_node_are_made_again() {
    let config = shared(1);
    let log = log(&config).await;
    let feed = feed(&config).await;
    let mut followed = feed.follow().await.expect("followed");
    let mut watch = log.topic_watch(1, Vec::new());
    for topic in ["result", "dead-letter"] {
        delete(&config, topic).await;
    }
    let watched = tokio::spawn(async move {
        loop {
            watch.check().await;
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        }
    });
    let time = coupond::domain::ids::Timestamp(5);
    let (key, value) = (b"k".to_vec(), b"not json".to_vec());
    let letter = LogRecord { offset: 7, time, key, value, mac: None };
    let kept = async {
        while log.dead_letter(0, &letter, "malformed").await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(PATIENCE, kept).await.expect("the letter is kept");
    arrives(&feed, &mut followed, 7).await;
    watched.abort();
    for (topic, kept) in [("dead-letter", KEPT_MS), ("result", "86400000")] {
        let made = settings(&format!("{}.{topic}", config.topic_prefix), &config).await;
        assert!(made.contains(&("retention.ms".to_owned(), kept.to_owned())), "{made:?}");
    }
    assert_eq!(refused(&log).await, None, "requests go on");
}

async fn a_vanished_request_topic_makes_the_log_unfit() {
    let config = shared(1);
    let log = log(&config).await;
    assert_eq!(refused(&log).await, None);
    let mut reader = log.open(0, 1).await.expect("opened");
    let watch = tokio::spawn(log.topic_watch(1, Vec::new()).run());
    delete(&config, "request").await;
    let noticed = async {
        loop {
            // As each node does once a second for its readiness.
            let _ = log.bounds(0).await;
            if refused(&log).await.is_some_and(|text| text.starts_with("topic_missing: ")) {
                break;
            }
        }
    };
    tokio::time::timeout(PATIENCE, noticed).await.expect("noticed");
    let read = tokio::time::timeout(PATIENCE, reader.read(1)).await.expect("answered");
    assert!(matches!(read, Err(ReadError::Unfit(_))), "{read:?}");
    watch.abort();
}
