//! Creation of topics, and refused topics.

use coupond::{
    config::KafkaConfig,
    kafka::topics::{TopicsError, TopicsFound, ensure_topics},
};
use libtest_mimic::Trial;
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
};

use super::shared;
use crate::{engines::Engine, trials};

/// Limit for the broker's answer about a topic.
const BROKER_WITHIN: std::time::Duration = std::time::Duration::from_secs(10);

pub(super) fn trials() -> Vec<Trial> {
    trials!(
        &[Engine::Kafka];
        concurrent_nodes_create_topics_once,
        every_problem_of_a_topic_is_reported,
        additional_partitions_cause_a_warning,
        an_existing_topic_sets_the_partitions,
        too_many_replicas_are_refused,
    )
}

pub(super) fn admin(config: &KafkaConfig) -> AdminClient<DefaultClientContext> {
    ClientConfig::new()
        .set("bootstrap.servers", config.brokers.join(","))
        .create()
        .expect("an admin client")
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
    make(&config, 7, &[("message.timestamp.type", "LogAppendTime"), ("retention.ms", "-1")]).await;
    let found = ensure_topics(&config, Some(5)).await.expect("it fits");
    assert_eq!(found.partitions, 7);
    assert_eq!(found.warnings.len(), 2, "partitions and replicas: {:?}", found.warnings);
}

async fn an_existing_topic_sets_the_partitions() {
    let config = shared(5);
    make(&config, 7, &[("message.timestamp.type", "LogAppendTime"), ("retention.ms", "-1")]).await;
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
