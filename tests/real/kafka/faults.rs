//! Brokers that go and come back.

use std::collections::{BTreeMap, BTreeSet};

use coupond::{
    domain::ids::Partition,
    feed::{DecisionFeed, FeedEvent, kafka::KafkaFeed},
    kafka::topics::ensure_topics,
    log::{AppendError, Appended, LogReader, Ownership, RequestLog, kafka::KafkaLog},
    wire::feed_message::FeedMessage,
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
    let name = "one_broker_less_is_not_felt_and_none_is_survived";
    vec![trial_with_own(
        format!("{}::{name}", module_path!()),
        Engine::Kafka,
        3,
        one_broker_less_is_not_felt_and_none_is_survived,
    )]
}

async fn one_broker_less_is_not_felt_and_none_is_survived(kafka: Own) {
    let config = on(kafka.endpoints(), PARTITIONS);
    let found = ensure_topics(&config, None).await.expect("topics are made");
    assert_eq!((found.replication_factor, found.warnings), (3, vec![]));
    let log = log(&config).await;
    let feed = feed(&config).await;
    let mut followed = feed.follow().await.expect("followed");
    let mut changes = log.join().await.expect("joined");
    let mut world = World { log, appended: BTreeMap::new(), readers: Vec::new() };
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
    timeout(PATIENCE, world.log.bounds(0)).await.expect("answered").expect_err("nobody knows");
    let gap = async { while followed.recv().await.expect("the feed goes on") != FeedEvent::Gap {} };
    timeout(PATIENCE, gap).await.expect("a follower is told");

    kafka.restart_nodes(&[1, 2, 3]);
    world.append_some().await;
    world.read_all().await;
    arrives(&feed, &mut followed, 2).await;
    own_all(&mut changes, &mut owned).await;
}

/// Until every partition is this member's, whatever happens before.
async fn own_all(
    changes: &mut tokio::sync::mpsc::Receiver<Ownership>,
    owned: &mut BTreeSet<Partition>,
) {
    let hear = async {
        while owned.len() < PARTITIONS as usize {
            match changes.recv().await.expect("the member lives") {
                Ownership::Assigned(partition) => assert!(owned.insert(partition)),
                Ownership::Revoked(partition) => assert!(owned.remove(&partition)),
            }
        }
    };
    timeout(PATIENCE, hear).await.expect("every partition is owned");
}

/// Publishes until one message has come: single ones may be lost.
async fn arrives(
    feed: &KafkaFeed,
    followed: &mut tokio::sync::mpsc::Receiver<FeedEvent>,
    epoch: u32,
) {
    let said = FeedMessage {
        log_epoch: epoch,
        partition: 0,
        from: 0,
        to: 1,
        end: 1,
        halted: None,
        decisions: Vec::new(),
    };
    let arrive = async {
        let mut say = tokio::time::interval(std::time::Duration::from_millis(200));
        loop {
            tokio::select! {
                _ = say.tick() => drop(feed.publish(said.clone()).await),
                event = followed.recv() => match event.expect("the feed goes on") {
                    FeedEvent::Message(message) if message.log_epoch == epoch => break,
                    _ => {}
                },
            }
        }
    };
    timeout(PATIENCE, arrive).await.expect("a message comes");
}

struct World {
    log: KafkaLog,
    /// Every acknowledged record that was not read yet, by its place.
    appended: BTreeMap<(Partition, u64), Appended>,
    readers: Vec<Box<dyn LogReader>>,
}

impl World {
    /// A few records to each partition, each repeated until it is acknowledged.
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
                assert_eq!(before, None, "two records in one place");
            }
        }
    }

    /// Every acknowledged record is read, with the time that was told, by the same readers.
    async fn read_all(&mut self) {
        for (partition, reader) in (0..PARTITIONS).zip(&mut self.readers) {
            while self.appended.keys().any(|(other, _)| *other == partition) {
                let read = timeout(PATIENCE, reader.read(7)).await.expect("records come");
                for record in read.expect("the reader goes on") {
                    if let Some(told) = self.appended.remove(&(partition, record.offset)) {
                        assert_eq!(record.time, told.time);
                    }
                }
            }
        }
    }
}
