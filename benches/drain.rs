//! Compares a node that drains a preloaded log into durable coupons, on a real Kafka and a real CQL
//! database, with a bare pipe that only consumes the same log and writes the same rows.
//!
//! `cargo bench --bench drain [-- REQUESTS]` prints medians of three alternating rounds. Engines
//! are found as in tests.

#[allow(dead_code, reason = "the other bench scans, too")]
#[path = "support/bare_cql.rs"]
mod bare_cql;
#[allow(dead_code, reason = "tests ask for more than a bench does")]
#[path = "../tests/engines/mod.rs"]
mod engines;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bare_cql::BareCql;
use coupond::{
    config::{Config, Mode},
    domain::{
        coupon::Coupon,
        ids::{CampaignId, Position, Timestamp, UserId},
        keys::Keys,
        record::{Record, Request},
    },
    log::{RequestLog, kafka::KafkaLog},
    node::Node,
    store::{StoreInspection, cql},
    telemetry,
    wire::codec::Codec,
};
use engines::Engine;
use futures_util::StreamExt;
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
};
use tokio::sync::mpsc;

const REQUESTS: u64 = 500_000;
const ROUNDS: usize = 3;
const SECRET: &str = "a-secret-of-thirty-two-bytes-for-benches";

/// Appends in flight while the log is filled.
const APPENDS: usize = 5_000;

/// Rows that the bare pipe passes to its writer at once.
const CHUNK: usize = 8_192;

fn config() -> Config {
    let name = engines::unique("drain");
    let nodes = |engine| engines::shared(engine).expect("an engine").clone();
    let mut config = Config { mode: Mode::Distributed, ..Config::default() };
    config.demo = false;
    config.kafka.brokers = nodes(Engine::Kafka);
    config.kafka.topic_prefix.clone_from(&name);
    config.kafka.group.clone_from(&name);
    config.kafka.partitions = 1;
    config.cql.nodes = nodes(Engine::Cql);
    config.cql.keyspace = name;
    config.secret.key = Some(SECRET.into());
    config.api.listen = "127.0.0.1:0".parse().expect("an address");
    config.api.drain = std::time::Duration::ZERO;
    config.admin.listen = "127.0.0.1:0".parse().expect("an address");
    config.admin.token = Some("a-token-for-benches".into());
    config
}

fn spring() -> CampaignId {
    CampaignId::parse("spring").expect("an id")
}

/// Returns how many coupons nodes of this process have made durable.
fn issued() -> u64 {
    let rendered = telemetry::install_metrics().render();
    let line = rendered
        .lines()
        .find(|line| line.starts_with("coupond_decisions_total") && line.contains("\"issued\""));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
}

/// Creates the instance and its campaign.
async fn prepare(config: &Config) {
    let node = Node::start(config).await.expect("the node starts");
    let url = format!("http://{}/admin/campaigns/spring", node.admin);
    loop {
        let body = serde_json::json!({ "quota": 10_000_000 });
        let request = reqwest::Client::new().put(&url).bearer_auth(&node.admin_token).json(&body);
        let answer = request.send().await.expect("the node answers");
        if answer.status().is_success() {
            break;
        }
    }
    node.stop().await;
}

async fn fill(config: &Config, requests: u64) {
    let log = KafkaLog::connect(&config.kafka).await.expect("kafka answers");
    let store = cql::connect(&config.cql).await.expect("the database answers");
    let layout = store.layout_in_force().await.expect("the database answers");
    let instance = layout.expect("a node made it").instance;
    let codec = Codec::new(&Keys::derive(SECRET.as_bytes()), &instance, 1, 1);
    let append = |index: u64| {
        let user = UserId::parse(&format!("user-{index:031}")).expect("an id");
        let request = Request { campaign: spring(), user, idempotency_key: None };
        let (partition, record) = codec.encode(&Record::Request(request));
        log.append(partition, record)
    };
    let mut appends = futures_util::stream::iter(0..requests).map(append).buffer_unordered(APPENDS);
    while let Some(appended) = appends.next().await {
        appended.expect("the log takes it");
    }
}

/// Returns coupons per second from the node's start to the last durable coupon.
async fn product(config: &Config, requests: u64) -> f64 {
    let before = issued();
    let started = Instant::now();
    let node = Node::start(config).await.expect("the node starts");
    let mut first = None;
    while issued() < before + requests {
        if first.is_none() && issued() > before {
            first = Some(started.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let took = started.elapsed();
    println!("  product: first coupons after {first:.1?}, all after {took:.1?}");
    node.stop().await;
    // The time to join the consumer group is not counted.
    requests as f64 / (took - first.unwrap_or_default()).as_secs_f64()
}

fn coupon(index: u32, user: UserId, offset: u64, time: i64) -> Coupon {
    Coupon {
        campaign: CampaignId::parse("bare").expect("an id"),
        sequence: index,
        user,
        code: "4Z04P6RS3Z66D0YECGH3YVZ9Z7".into(),
        issued_at: Timestamp(time),
        position: Position { log_epoch: 1, partition: 0, offset },
        key_digest: None,
        user_bucket: 0,
        rules_version: 1,
        digest: [7; 16],
    }
}

/// Reads the log with a bare consumer, and passes rows on in chunks.
fn consume(config: &Config, requests: u64, rows: &mpsc::Sender<Vec<Coupon>>) {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", config.kafka.brokers.join(","))
        .set("group.id", "bare-pipe")
        .set("enable.auto.commit", "false")
        .create()
        .expect("a consumer");
    let mut partitions = TopicPartitionList::new();
    let topic = format!("{}.request", config.kafka.topic_prefix);
    partitions.add_partition_offset(&topic, 0, Offset::Beginning).expect("an offset");
    consumer.assign(&partitions).expect("it is assigned");
    let mut chunk = Vec::with_capacity(CHUNK);
    let mut count = 0;
    while u64::from(count) < requests {
        let Some(message) = consumer.poll(Duration::from_secs(10)) else { continue };
        let message = message.expect("a record");
        let value: serde_json::Value =
            serde_json::from_slice(message.payload().unwrap_or_default()).expect("JSON");
        let Some(user) = value["user_id"].as_str() else { continue };
        count += 1;
        let offset = message.offset().cast_unsigned();
        let time = message.timestamp().to_millis().unwrap_or(0);
        chunk.push(coupon(count, UserId::parse(user).expect("an id"), offset, time));
        if chunk.len() == CHUNK || u64::from(count) == requests {
            rows.blocking_send(std::mem::take(&mut chunk)).expect("the writer runs");
        }
    }
}

async fn bare(config: &Config, requests: u64) -> f64 {
    let writer = BareCql::connect(&config.cql.nodes, &config.cql.keyspace).await;
    let (sender, mut chunks) = mpsc::channel(4);
    let started = Instant::now();
    let of = config.clone();
    let consumer = tokio::task::spawn_blocking(move || consume(&of, requests, &sender));
    while let Some(chunk) = chunks.recv().await {
        writer.write(&Arc::new(chunk)).await;
    }
    let took = started.elapsed();
    println!("  bare pipe: all after {took:.1?}");
    consumer.await.expect("it consumes");
    requests as f64 / took.as_secs_f64()
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn main() {
    let asked = std::env::args().filter_map(|argument| argument.parse().ok()).next();
    let requests = asked.unwrap_or(REQUESTS);
    for engine in [Engine::Kafka, Engine::Cql] {
        if let Err(reason) = engines::shared(engine) {
            println!("nothing measured: {reason}");
            return;
        }
    }
    let runtime = tokio::runtime::Runtime::new().expect("it starts");
    runtime.block_on(async {
        let (mut products, mut bares, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for round in 1..=ROUNDS {
            let config = config();
            prepare(&config).await;
            fill(&config, requests).await;
            let (ours, ceiling) = (product(&config, requests).await, bare(&config, requests).await);
            let ratio = ours / ceiling;
            println!("round {round}: {ours:.0}/s of {ceiling:.0}/s, ratio {ratio:.2}");
            products.push(ours);
            bares.push(ceiling);
            ratios.push(ratio);
        }
        println!(
            "{requests} requests: {:.0} durable coupons/s, bare pipe {:.0}/s, ratio {:.2} (medians)",
            median(products),
            median(bares),
            median(ratios)
        );
    });
}
