//! Requests of campaigns that nobody has defined, in front of one that somebody has.

use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use rdkafka::{
    ClientConfig,
    error::RDKafkaErrorCode,
    producer::{BaseProducer, BaseRecord, Producer},
};

use crate::{
    engines::{Engine, shared, unique},
    instance::{define, settings},
    procs::{Node, until},
    trials,
};

/// Campaigns that do not exist, each with one request.
const UNDEFINED: usize = 100_000;

pub(crate) fn trials() -> Vec<Trial> {
    trials!(&[Engine::Kafka, Engine::Cql]; undefined_campaigns_stop_no_other)
}

/// Appends requests as another producer does.
fn append(brokers: &[String], topic: &str, from: usize) {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", brokers.join(","))
        .set("partitioner", "murmur2_random")
        .set("queue.buffering.max.messages", "200000")
        .create()
        .expect("a producer");
    for number in from..from + UNDEFINED {
        let campaign = format!("nobody-{number}");
        let value =
            format!(r#"{{"v":1,"type":"request","campaign_id":"{campaign}","user_id":"ada"}}"#);
        loop {
            let record = BaseRecord::to(topic).key(&campaign).payload(&value);
            match producer.send(record) {
                Ok(()) => break,
                Err((error, _)) => {
                    assert_eq!(error.rdkafka_error_code(), Some(RDKafkaErrorCode::QueueFull));
                    producer.poll(Duration::from_millis(10));
                }
            }
        }
    }
    producer.flush(Duration::from_secs(60)).expect("delivered");
}

async fn dead_letters(node: &Node) -> f64 {
    let answer = reqwest::get(format!("{}/metrics", node.admin)).await.expect("the node answers");
    let text = answer.text().await.expect("text");
    let of = r#"coupond_dead_letters_total{reason="undefined_campaign"} "#;
    let count = text.lines().find_map(|line| line.strip_prefix(of));
    count.map_or(0.0, |count| count.parse().expect("a number"))
}

async fn undefined_campaigns_stop_no_other() {
    let (name, brokers) =
        (unique("nobody"), shared(Engine::Kafka).expect("the trial asked for it"));
    let database = shared(Engine::Cql).expect("the trial asked for it");
    let mut settings = settings(&name, brokers, database);
    settings.retain(|setting| !setting.starts_with("kafka.partitions"));
    settings.push("kafka.partitions=1".to_owned());
    let node = Node::start(&settings).await;
    define(&node, "spring", 10).await;
    assert_eq!(node.issue("spring", "ada").await.0, 200);
    let (brokers, topic) = (brokers.to_vec(), format!("{name}.request"));
    let appended = tokio::task::spawn_blocking(move || append(&brokers, &topic, 0));
    appended.await.expect("they are appended");
    let begun = Instant::now();
    let answer = until("the request behind them is decided", || async {
        let (status, answer) = node.issue("spring", "bob").await;
        (status == 200).then_some(answer)
    });
    assert_eq!(answer.await["coupon"]["sequence"], 2);
    println!("decided {:?} behind {UNDEFINED} requests of undefined campaigns", begun.elapsed());
    let (kept, all) = (dead_letters(&node).await, UNDEFINED as f64);
    println!("{kept} of their dead letters were written by then");
    until("each is a dead letter", || async { (dead_letters(&node).await == all).then_some(()) })
        .await;
    println!("all of them after {:?}", begun.elapsed());
    assert_eq!(node.stop().await, Some(0));
}
