//! Records that nobody can read, or that were trimmed undecided, are skipped.

use std::{
    process::{Command, Output},
    time::{Duration, Instant},
};

use libtest_mimic::Trial;
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    admin::AdminOptions,
    producer::{BaseProducer, BaseRecord, Producer},
};
use serde_json::{Value, json};

use crate::{
    engines::{Engine, shared, unique},
    instance::{define, settings},
    kafka::{on, topics},
    procs::{Node, TOKEN, until},
    trials,
};

pub(crate) fn trials() -> Vec<Trial> {
    trials!(
        &[Engine::Kafka, Engine::Cql];
        what_nobody_can_read_is_skipped,
        a_range_that_ends_in_a_transaction_marker_is_skipped,
    )
}

/// A record that unpacks to more than a fetch may have: nobody can read its batch.
pub(crate) fn bomb(config: &coupond::config::KafkaConfig, campaign: &str) {
    send_bomb(&bomber(config).create().expect("a producer"), config, campaign);
}

/// As [`bomb`], in a transaction: its marker is the last offset of the partition, and no record.
fn bomb_in_a_transaction(config: &coupond::config::KafkaConfig, campaign: &str) {
    let mut client = bomber(config);
    let producer: BaseProducer =
        client.set("transactional.id", &config.group).create().expect("a producer");
    let within = Duration::from_secs(30);
    producer.init_transactions(within).expect("initialised");
    producer.begin_transaction().expect("begun");
    send_bomb(&producer, config, campaign);
    producer.commit_transaction(within).expect("committed");
}

fn bomber(config: &coupond::config::KafkaConfig) -> ClientConfig {
    let mut client = ClientConfig::new();
    client
        .set("bootstrap.servers", config.brokers.join(","))
        .set("compression.type", "zstd")
        .set("message.max.bytes", "100000000")
        .set("partitioner", "murmur2_random");
    client
}

fn send_bomb(producer: &BaseProducer, config: &coupond::config::KafkaConfig, campaign: &str) {
    let (topic, value) = (format!("{}.request", config.topic_prefix), "0".repeat(40 << 20));
    let bomb: BaseRecord<'_, str, str> = BaseRecord::to(&topic).key(campaign).payload(&value);
    producer.send(bomb).map_err(|(error, _)| error).expect("sent");
    producer.flush(Duration::from_secs(30)).expect("delivered");
}

/// Asks for coupons until the partition is halted. Returns the ids of the requests that were taken.
async fn press(node: &Node, campaign: &str) -> Vec<String> {
    let (client, url) = (reqwest::Client::new(), format!("{}/coupon/issue", node.api));
    let mut taken = Vec::new();
    for user in 0.. {
        let body = json!({ "campaign_id": campaign, "user_id": format!("user-{user}") });
        let answer = client.post(&url).json(&body).send().await.expect("the node answers");
        if answer.status().as_u16() == 503 {
            break;
        }
        let answer: Value = answer.json().await.expect("JSON");
        taken.push(answer["request_id"].as_str().expect("an id").to_owned());
    }
    taken
}

/// Waits until the node says that the partition is halted for this reason, and where to skip it.
async fn told(node: &Node, partition: u64, slug: &str) -> String {
    let command = format!("`coupond skip {partition} --offset ");
    until(slug, || async {
        let (_, ready) = node.readiness().await;
        let reasons = ready["degraded"].as_array()?.clone();
        let of = format!("partition {partition} is halted: {slug}: ");
        let reason =
            reasons.iter().find_map(|it| it["reason"].as_str().filter(|it| it.starts_with(&of)))?;
        let (_, rest) = reason.split_once(&command)?;
        Some(rest.split_once(' ')?.0.to_owned())
    })
    .await
}

fn coupond(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_coupond"));
    command.current_dir(std::env::temp_dir()).args(arguments).output().expect("the binary exists")
}

fn skip(node: &Node, partition: u64, offset: &str) -> (Option<i32>, String) {
    let partition = partition.to_string();
    let output = coupond(&[
        "skip",
        &partition,
        "--offset",
        offset,
        "--reason",
        "a disk was lost",
        "--admin",
        &node.admin,
        "--token",
        TOKEN,
    ]);
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

/// The search for the end of the range meets the marker, where neither a record nor an error comes.
async fn a_range_that_ends_in_a_transaction_marker_is_skipped() {
    let endpoints = |engine| shared(engine).expect("the trial asked for it");
    let (name, brokers) = (unique("markers"), endpoints(Engine::Kafka));
    let node = Node::start(&settings(&name, brokers, endpoints(Engine::Cql))).await;
    define(&node, "spring", 10_000).await;
    assert_eq!(node.issue("spring", "ada").await.0, 200);
    let (_, view) = node.get("/campaigns/spring").await;
    let partition = view["as_of"]["partition"].as_u64().expect("a partition");
    let config = coupond::config::KafkaConfig { topic_prefix: name, ..on(brokers, 4) };
    topics::set(&config, "compression.type", "producer").await;
    let exploding = {
        let config = config.clone();
        tokio::task::spawn_blocking(move || bomb_in_a_transaction(&config, "spring"))
    };
    exploding.await.expect("it was sent");
    let offset = told(&node, partition, "unreadable").await;
    let (code, text) = skip(&node, partition, &offset);
    assert!(code == Some(0) && text.contains("made"), "{code:?} {text}");
    until("the campaign goes on", || async {
        (node.issue("spring", "late").await.0 == 200).then_some(())
    })
    .await;
    let (code, text) = skip(&node, partition, &offset);
    assert!(code == Some(0) && text.contains("in_force"), "{code:?} {text}");
    let from: u64 = offset.parse().expect("an offset");
    let to = format!("{}", from + 2);
    assert!(text.contains(&to), "the marker belongs to the range: {text}");
    assert_eq!(node.stop().await, Some(0));
}

/// Of one partition the unreadable records are trimmed before they are skipped, of another not.
async fn what_nobody_can_read_is_skipped() {
    let endpoints = |engine| shared(engine).expect("the trial asked for it");
    let (name, brokers) = (unique("skips"), endpoints(Engine::Kafka));
    let settings = settings(&name, brokers, endpoints(Engine::Cql));
    let node = Node::start(&settings).await;
    let mut partitions = Vec::new();
    for campaign in ["spring", "eve"] {
        define(&node, campaign, 10_000).await;
        assert_eq!(node.issue(campaign, "ada").await.0, 200);
        let (_, view) = node.get(&format!("/campaigns/{campaign}")).await;
        partitions.push(view["as_of"]["partition"].as_u64().expect("a partition"));
    }
    assert_ne!(partitions[0], partitions[1]);
    let config = coupond::config::KafkaConfig { topic_prefix: name, ..on(brokers, 4) };
    topics::set(&config, "compression.type", "producer").await;

    let exploding = {
        let config = config.clone();
        tokio::task::spawn_blocking(move || bomb(&config, "spring"))
    };
    let taken = press(&node, "spring").await;
    exploding.await.expect("it was sent");
    let unread = told(&node, partitions[0], "unreadable").await;
    let mut all = TopicPartitionList::new();
    let topic = format!("{}.request", config.topic_prefix);
    let native = i32::try_from(partitions[0]).expect("a partition");
    all.add_partition_offset(&topic, native, Offset::End).expect("an offset");
    let trimmed = topics::admin(&config).delete_records(&all, &AdminOptions::new()).await;
    trimmed.expect("they are trimmed");
    let offset = told(&node, partitions[0], "log_trimmed").await;
    assert_eq!(offset, unread, "it begins where it could not be read");
    bomb(&config, "eve");
    let other = told(&node, partitions[1], "unreadable").await;

    let (code, text) = skip(&node, partitions[0], "1000000");
    assert!(code == Some(1) && text.contains("Range cannot be skipped (409)"), "{code:?} {text}");
    let begun = Instant::now();
    for (partition, offset) in [(partitions[0], &offset), (partitions[1], &other)] {
        let (code, text) = skip(&node, partition, offset);
        assert!(code == Some(0) && text.contains("made"), "{code:?} {text}");
    }
    for campaign in ["spring", "eve"] {
        until("the campaign goes on", || async {
            (node.issue(campaign, "late").await.0 == 200).then_some(())
        })
        .await;
        assert!(begun.elapsed() > Duration::from_secs(14), "{:?}", begun.elapsed());
    }
    let (code, text) = skip(&node, partitions[0], &offset);
    assert!(code == Some(0) && text.contains("in_force"), "{code:?} {text}");
    let mut skipped = 0;
    for id in &taken {
        let (status, answer) = node.get(&format!("/coupon/requests/{id}?wait=10")).await;
        match status {
            200 => {}
            410 if answer["type"] == "/problems/not-decided" => skipped += 1,
            _ => panic!("{status} {answer}"),
        }
    }
    assert!(skipped > 0, "{} requests were taken, none behind the record", taken.len());
    assert_eq!(node.stop().await, Some(0));

    let sets = settings.iter().flat_map(|setting| ["--set", setting.as_str()]);
    let arguments: Vec<&str> = ["audit"].into_iter().chain(sets).collect();
    let audited = coupond(&arguments);
    let text = String::from_utf8_lossy(&audited.stdout);
    assert_eq!(audited.status.code(), Some(0), "{text}");
    assert_eq!(text.matches("ACKNOWLEDGED LOSS").count(), 2, "{text}");
    assert!(text.contains("skipped by token: a disk was lost"), "{text}");
}
