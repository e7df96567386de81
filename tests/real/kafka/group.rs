//! The consumer group: ownership of partitions, and the lag that tools show.

use std::{collections::BTreeSet, time::Duration};

use coupond::{
    domain::ids::Partition,
    log::{Ownership, RequestLog, kafka::KafkaLog},
};
use libtest_mimic::Trial;
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
};
use tokio::{sync::mpsc, time::timeout};

use super::{PATIENCE, log, read_some, record, shared};
use crate::{engines::Engine, trials};

pub(super) fn trials() -> Vec<Trial> {
    trials!(
        &[Engine::Kafka];
        two_members_share_the_partitions,
        a_reader_survives_a_revoked_partition,
        progress_is_committed_for_lag_tools,
        a_stranger_in_the_group_is_named,
    )
}

/// A member of the group with its partitions.
struct Member {
    changes: mpsc::Receiver<Ownership>,
    owned: BTreeSet<Partition>,
}

impl Member {
    async fn join(log: &KafkaLog) -> Self {
        Self { changes: log.join().await.expect("joined"), owned: BTreeSet::new() }
    }

    async fn change(&mut self) {
        match self.changes.recv().await.expect("the member is in the group") {
            Ownership::Assigned(partition) => assert!(self.owned.insert(partition)),
            Ownership::Revoked(partition) => assert!(self.owned.remove(&partition)),
        }
    }

    async fn owns(&mut self, count: usize) {
        let wait = async {
            while self.owned.len() != count {
                self.change().await;
            }
        };
        timeout(PATIENCE, wait).await.expect("the partitions are shared out");
    }
}

async fn two_members_share_the_partitions() {
    let config = shared(4);
    let one = log(&config).await;
    let mut first = Member::join(&one).await;
    first.owns(4).await;

    let two = KafkaLog::connect(&config).await.expect("clients are made");
    let mut second = Member::join(&two).await;
    let share = async { tokio::join!(first.owns(2), second.owns(2)) };
    timeout(PATIENCE, share).await.expect("shared");
    assert!(first.owned.is_disjoint(&second.owned));

    drop(second);
    timeout(PATIENCE, two.left()).await.expect("the deadline holds");
    first.owns(4).await;
}

async fn a_reader_survives_a_revoked_partition() {
    let config = shared(2);
    let one = log(&config).await;
    let mut first = Member::join(&one).await;
    first.owns(2).await;
    let mut readers = Vec::new();
    for partition in 0..2 {
        readers.push(one.open(partition, 0).await.expect("opened"));
    }
    let two = KafkaLog::connect(&config).await.expect("clients are made");
    let mut second = Member::join(&two).await;
    tokio::join!(first.owns(1), second.owns(1));
    for (partition, reader) in (0..2).zip(&mut readers) {
        let appended = one.append(partition, record(1)).await.expect("appended");
        assert_eq!(read_some(&mut **reader, 1).await[0].offset, appended.offset);
    }
}

async fn progress_is_committed_for_lag_tools() {
    let config = shared(2);
    let log = log(&config).await;
    let mut member = Member::join(&log).await;
    member.owns(2).await;
    for _ in 0..3 {
        log.append(1, record(1)).await.expect("appended");
    }
    log.report_progress(1, 2, None).await.expect("noted");
    let topic = format!("{}.request", config.topic_prefix);
    let tool: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", config.brokers.join(","))
        .set("group.id", &config.group)
        .create()
        .expect("a consumer");
    let committed = move || {
        let mut asked = TopicPartitionList::new();
        asked.add_partition(&topic, 1);
        let known = tool.committed_offsets(asked, Duration::from_secs(5)).expect("known");
        known.elements()[0].offset()
    };
    let committed = std::sync::Arc::new(committed);
    let wait = async {
        loop {
            let ask = std::sync::Arc::clone(&committed);
            let seen = tokio::task::spawn_blocking(move || ask()).await.expect("no panic");
            if seen == Offset::Offset(2) {
                break;
            }
            assert_eq!(seen, Offset::Invalid, "no other progress was reported");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, wait).await.expect("it is committed");
}

/// A consumer with another strategy of assignment was in the group first, and leaves later.
async fn a_stranger_in_the_group_is_named() {
    let config = shared(1);
    let log = log(&config).await;
    let topic = format!("{}.request", config.topic_prefix);
    let stranger: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", config.brokers.join(","))
        .set("group.id", &config.group)
        .set("partition.assignment.strategy", "range")
        .set("session.timeout.ms", "6000")
        .create()
        .expect("a consumer");
    stranger.subscribe(&[&topic]).expect("subscribed");
    let (leave, left) = std::sync::mpsc::channel::<()>();
    let (joined, has_joined) = tokio::sync::oneshot::channel();
    let stranger = std::thread::spawn(move || {
        let mut joined = Some(joined);
        while left.try_recv().is_err() {
            drop(stranger.poll(Duration::from_millis(100)));
            if stranger.assignment().is_ok_and(|list| list.count() > 0)
                && let Some(joined) = joined.take()
            {
                let _ = joined.send(());
            }
        }
    });
    timeout(PATIENCE, has_joined).await.expect("in time").expect("the stranger is in");
    let mut member = Member::join(&log).await;
    let named = async {
        while log.group_trouble().is_none() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, named).await.expect("the trouble is known");
    let text = log.group_trouble().unwrap_or_default();
    assert!(text.contains("InconsistentGroupProtocol"), "{text}");
    leave.send(()).expect("it polls");
    stranger.join().expect("it ends");
    member.owns(1).await;
    assert_eq!(log.group_trouble(), None);
}
