//! The Kafka adapters against a real broker.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use coupond::{
    config::KafkaConfig,
    domain::ids::{CampaignId, Offset, Partition},
    log::{
        LogReader, LogRecord, NewRecord, Ownership, ReadError, RequestLog,
        kafka::{KafkaLog, topics::ensure_topics},
    },
};
use libtest_mimic::Trial;
use tokio::sync::mpsc;

use crate::{
    engines::{self, Engine},
    trials,
};

pub(crate) fn trials() -> Vec<Trial> {
    trials!(
        &[Engine::Kafka];
        a_record_is_read_where_and_as_it_was_appended,
        two_members_share_the_partitions,
        appends_per_second_are_printed,
    )
}

fn config(partitions: u32) -> KafkaConfig {
    KafkaConfig {
        brokers: engines::shared(Engine::Kafka).expect("asked for by the trial").clone(),
        topic_prefix: engines::unique("topic"),
        partitions,
        replication_factor: 0,
        group: engines::unique("group"),
        append_timeout: Duration::from_secs(4),
    }
}

async fn log(config: &KafkaConfig) -> KafkaLog {
    ensure_topics(config, None).await.expect("topics are made");
    KafkaLog::connect(config).await.expect("kafka answers")
}

fn record(number: usize) -> NewRecord {
    NewRecord {
        campaign: CampaignId::parse("spring").expect("an id"),
        value: format!(
            r#"{{"v":1,"type":"request","campaign_id":"spring","user_id":"u{number}"}}"#
        )
        .into_bytes(),
        mac: format!("1:{number:032x}").into_bytes(),
    }
}

async fn read_some(reader: &mut Box<dyn LogReader>, wanted: usize) -> Vec<LogRecord> {
    let mut records = Vec::new();
    while records.len() < wanted {
        records.extend(reader.read(wanted - records.len()).await.expect("the log is readable"));
    }
    records
}

async fn a_record_is_read_where_and_as_it_was_appended() {
    let config = config(3);
    let log = log(&config).await;
    let mut appended = Vec::new();
    for number in 0..5 {
        let at = Instant::now();
        appended.push(log.append(1, record(number)).await.expect("appended"));
        println!("append {number}: {:?}", at.elapsed());
    }
    let at = Instant::now();
    let mut reader = log.open(1, appended[0].offset).await.expect("opened");
    println!("open {:?}", at.elapsed());
    let read = read_some(&mut reader, 5).await;
    println!("open+read {:?}", at.elapsed());
    for (number, (read, appended)) in read.iter().zip(&appended).enumerate() {
        let expected = record(number);
        assert_eq!((read.offset, read.time), (appended.offset, appended.time));
        assert_eq!(read.key, b"spring");
        assert_eq!(read.value, expected.value);
        assert_eq!(read.mac.as_ref(), Some(&expected.mac));
    }
    let bounds = log.bounds(1).await.expect("bounds");
    assert_eq!((bounds.low, bounds.high), (0, 5));
    for round in 0..5 {
        let at = Instant::now();
        eprintln!("OPEN {round}");
        let mut other = log.open(1, 2).await.expect("opened");
        let opened = at.elapsed();
        read_some(&mut other, 3).await;
        eprintln!("round {round}: another reader opened {opened:?} read {:?}", at.elapsed());
    }
    for round in 0..5 {
        let at = Instant::now();
        log.append(1, record(9)).await.expect("appended");
        let appended = at.elapsed();
        read_some(&mut reader, 1).await;
        println!("round {round}: appended {appended:?} read {:?}", at.elapsed());
    }
}

async fn two_members_share_the_partitions() {
    let config = config(4);
    let one = log(&config).await;
    let at = Instant::now();
    let mut first = one.join().await.expect("joined");
    let mut owned = BTreeSet::new();
    while owned.len() < 4 {
        apply(&mut owned, first.recv().await.expect("a change"));
    }
    println!("first owns all after {:?}", at.elapsed());
    let two = KafkaLog::connect(&config).await.expect("kafka answers");
    let at = Instant::now();
    let mut second = two.join().await.expect("joined");
    let mut other = BTreeSet::new();
    while owned.len() > 2 || other.len() < 2 {
        tokio::select! {
            change = first.recv() => apply(&mut owned, change.expect("a change")),
            change = second.recv() => apply(&mut other, change.expect("a change")),
        }
    }
    println!("shared after {:?}", at.elapsed());
    assert!(owned.is_disjoint(&other));
    let at = Instant::now();
    drop(second);
    two.left().await;
    println!("left after {:?}", at.elapsed());
    while owned.len() < 4 {
        apply(&mut owned, first.recv().await.expect("a change"));
    }
    println!("first owns all again after {:?}", at.elapsed());
}

fn apply(owned: &mut BTreeSet<Partition>, change: Ownership) {
    match change {
        Ownership::Assigned(partition) => assert!(owned.insert(partition)),
        Ownership::Revoked(partition) => assert!(owned.remove(&partition)),
    }
}

async fn appends_per_second_are_printed() {
    let config = config(12);
    let log = Arc::new(log(&config).await);
    for in_flight in [1, 256, 10_000, 10_000] {
        let total = if in_flight == 1 { 1_000 } else { 500_000 };
        let at = Instant::now();
        let tasks: Vec<_> = (0..in_flight)
            .map(|task| {
                let log = Arc::clone(&log);
                tokio::spawn(async move {
                    for number in 0..total / in_flight {
                        let partition = u32::try_from(task % 12).expect("small");
                        log.append(partition, record(number)).await.expect("appended");
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("no panic");
        }
        let rate = total as f64 / at.elapsed().as_secs_f64();
        println!("{in_flight} in flight: {rate:.0} appends/s");
    }
    let at = Instant::now();
    let mut read = 0;
    for partition in 0..12 {
        let high = log.bounds(partition).await.expect("bounds").high;
        let mut reader = log.open(partition, 0).await.expect("opened");
        read += read_some(&mut reader, usize::try_from(high).expect("small")).await.len();
    }
    println!("read {:.0} records/s", read as f64 / at.elapsed().as_secs_f64());
}
