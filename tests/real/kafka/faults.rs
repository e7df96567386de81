//! Brokers that are killed and restarted.

use std::collections::{BTreeMap, BTreeSet};

use coupond::{
    domain::ids::{Partition, ProcessName},
    feed::{DecisionFeed, FeedEvent, kafka::KafkaFeed},
    kafka::topics::ensure_topics,
    log::{AppendError, Appended, LogReader, Ownership, RequestLog, kafka::KafkaLog},
    wire::feed_message::{FeedMessage, Sender},
};
use libtest_mimic::Trial;
use tokio::time::timeout;

use super::{PATIENCE, feed, log, on, record};
use crate::{
    engines::{Engine, Own},
    trial_with_own,
};

const PARTITIONS: u32 = 3;

pub(super) fn trials() -> Vec<Trial> {
    let name = "the_log_survives_lost_brokers";
    vec![trial_with_own(
        format!("{}::{name}", module_path!()),
        Engine::Kafka,
        3,
        the_log_survives_lost_brokers,
    )]
}

async fn the_log_survives_lost_brokers(kafka: Own) {
    let config = on(kafka.endpoints(), PARTITIONS);
    let found = ensure_topics(&config, None).await.expect("topics are made");
    assert_eq!((found.replication_factor, found.warnings), (3, vec![]));
    let log = log(&config).await;
    let feed = feed(&config).await;
    let mut followed = feed.follow().await.expect("followed");
    let mut changes = log.join().await.expect("joined");
    let mut world = FaultyKafka { log, appended: BTreeMap::new(), readers: Vec::new() };
    for partition in 0..PARTITIONS {
        world.readers.push(world.log.open(partition, 0).await.expect("opened"));
    }
    let mut owned = BTreeSet::new();
    own_all(&mut changes, &mut owned).await;
    world.append_some().await;
    world.read_all().await;

    kafka.kill_node(1);
    world.append_some().await;
    world.read_all().await;
    arrives(&feed, &mut followed, 1).await;

    kafka.kill_node(2);
    kafka.kill_node(3);
    let lost = timeout(PATIENCE, world.log.append(0, record(0))).await.expect("answered");
    assert!(matches!(lost, Err(AppendError::Unknown(_))), "{lost:?}");
    timeout(PATIENCE, world.log.bounds(0)).await.expect("answered").expect_err("no broker runs");
    let gap = async { while followed.recv().await.expect("the feed goes on") != FeedEvent::Gap {} };
    timeout(PATIENCE, gap).await.expect("the follower gets a gap");

    kafka.restart_nodes(&[1, 2, 3]);
    world.append_some().await;
    world.read_all().await;
    arrives(&feed, &mut followed, 2).await;
    own_all(&mut changes, &mut owned).await;
}

/// Waits until the member owns every partition.
async fn own_all(
    changes: &mut tokio::sync::mpsc::Receiver<Ownership>,
    owned: &mut BTreeSet<Partition>,
) {
    let change = async {
        while owned.len() < PARTITIONS as usize {
            match changes.recv().await.expect("the member is in the group") {
                Ownership::Assigned(partition) => assert!(owned.insert(partition)),
                Ownership::Revoked(partition) => assert!(owned.remove(&partition)),
            }
        }
    };
    timeout(PATIENCE, change).await.expect("every partition is owned");
}

/// Publishes repeatedly until a message arrives, because single messages may be lost.
pub(super) async fn arrives(
    feed: &KafkaFeed,
    followed: &mut tokio::sync::mpsc::Receiver<FeedEvent>,
    epoch: u32,
) {
    let message = FeedMessage {
        log_epoch: epoch,
        partition: 0,
        sender: Sender { generation: 1, owner: ProcessName::of(7), number: 1 },
        from: 0,
        to: 1,
        end: 1,
        waiting: 0,
        condition: None,
        halted: None,
        unread: None,
        decisions: Vec::new(),
        campaigns: Vec::new(),
    };
    let arrive = async {
        let mut ticks = tokio::time::interval(std::time::Duration::from_millis(200));
        loop {
            tokio::select! {
                _ = ticks.tick() => drop(feed.publish(message.clone()).await),
                event = followed.recv() => match event.expect("the feed goes on") {
                    FeedEvent::Message(message) if message.log_epoch == epoch => break,
                    _ => {}
                },
            }
        }
    };
    timeout(PATIENCE, arrive).await.expect("a message arrives");
}

struct FaultyKafka {
    log: KafkaLog,
    /// Acknowledged records that were not read yet, by partition and offset.
    appended: BTreeMap<(Partition, u64), Appended>,
    readers: Vec<Box<dyn LogReader>>,
}

impl FaultyKafka {
    /// Appends 20 records to each partition. Repeats each until it is acknowledged.
    async fn append_some(&mut self) {
        for partition in 0..PARTITIONS {
            for number in 0..20 {
                let acknowledged = async {
                    loop {
                        match self.log.append(partition, record(number)).await {
                            Ok(appended) => return appended,
                            Err(AppendError::Unknown(_) | AppendError::Overloaded(_)) => {}
                            Err(error) => panic!("{error}"),
                        }
                    }
                };
                let appended = timeout(PATIENCE, acknowledged).await.expect("acknowledged");
                let before = self.appended.insert((partition, appended.offset), appended);
                assert_eq!(before, None, "two records have one offset");
            }
        }
    }

    /// Checks that the open readers return every acknowledged record with its time.
    async fn read_all(&mut self) {
        for (partition, reader) in (0..PARTITIONS).zip(&mut self.readers) {
            while self.appended.keys().any(|(other, _)| *other == partition) {
                let read = timeout(PATIENCE, reader.read(7)).await.expect("records are read");
                for record in read.expect("the reader goes on") {
                    if let Some(appended) = self.appended.remove(&(partition, record.offset)) {
                        assert_eq!(record.time, appended.time);
                    }
                }
            }
        }
    }
}
