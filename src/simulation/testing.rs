//! A world for the tests of the API service: simulated ports for each service, and a real owner of
//! every partition, which works when a test lets it.

use std::{
    panic::Location,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::MutexGuard;

pub(crate) use super::link::{Call, Engine, Fate};
use super::{
    Kinds,
    course::Setup,
    draw,
    life_clock::LifeClock,
    link::{Armed, Link},
    node::{Bounds, Engines, Node},
    strange::Written,
    world::World,
};
use crate::{
    api::service::{ServiceBounds, ServiceParts},
    config::Config,
    domain::{
        halt::Unread,
        ids::{CampaignId, Offset, Partition, ProcessName},
        record::Record,
        rows::{Progress, Register, Row},
    },
    feed::{DecisionFeed, HeardGenerations},
    log::{LocalLog, memory::MemoryPartition},
    store::memory::MemoryRows,
    wire::{
        LogRecord,
        feed_message::{FeedMessage, Sender},
    },
};

pub(crate) const PARTITIONS: u32 = 2;

/// First offset of every partition. Not 0, so that code that takes offsets for counts fails.
pub(crate) const FIRST_OFFSET: Offset = 1_000;

/// The node of the owner. Services are the nodes after it.
const OWNER: usize = 0;
const NODES: usize = 5;

/// Time of the world after which a condition has to hold, in steps of 0.1 ms.
const STEPS_MAX: usize = 200_000;

/// How the owner settles its decisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Settle {
    /// Completely: rows, feed, marks and progress.
    All,
    /// Feed messages are lost; later messages have the watermark.
    FeedLost,
    /// Feed messages are lost, and progress is not durable yet.
    RowsAlone,
}

/// Time in which a message arrives, in microseconds.
const DELIVERED_US: u64 = 10_000;

/// A world with an owner that does not work yet.
pub(crate) struct OwnedWorld {
    world: Arc<World>,
    engines: Engines,
    owner: Node,
    services: AtomicUsize,
    is_at_work: AtomicBool,
}

impl OwnedWorld {
    /// Starts a world, whose events happen from now on. The test's runtime must have its time
    /// paused: then a sleep of tokio ends only when no task can go on.
    pub(crate) async fn start() -> Self {
        let drawn = draw(1, &Kinds::new(), 0).setup;
        let limits = Bounds {
            window_records: 1_024,
            batch_records: 64,
            progress_records: 1_000,
            progress_interval_ms: 100,
            idle_ms: 600_000,
            ..drawn.limits
        };
        let (skew_ms, drift_ppm) = (Vec::new(), Vec::new());
        let (partitions, is_embedded) = (PARTITIONS, false);
        let probes = false;
        let setup = Setup { partitions, is_embedded, limits, skew_ms, drift_ppm, probes, ..drawn };
        let (world, engines) = (World::new(1, NODES, false), Engines::new(setup));
        let begin = || MemoryPartition::starting_at(FIRST_OFFSET);
        engines.brokers.lock().partitions = (0..PARTITIONS).map(|_| begin()).collect();
        let log_epoch = engines.layout.log_epoch;
        for partition in 0..PARTITIONS {
            let progress = Progress { partition, log_epoch, next: FIRST_OFFSET, last: None };
            engines.rows.store.rows.lock().apply(Row::Progress(progress));
        }
        let driven = world.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_millis(1)).await;
                driven.happen();
            }
        });
        let owner = Node::start(&world, &engines, OWNER).await;
        let (services, is_at_work) = Default::default();
        let owned = Self { world, engines, owner, services, is_at_work };
        owned.decide(Settle::All).await;
        owned
    }

    /// Returns the way of the next node to the engines.
    fn next_link(&self) -> Link {
        let node = 1 + self.services.fetch_add(1, Ordering::Relaxed);
        let address = self.world.begin_life(node, 0, 0);
        // Times that tests expect are long against the way of a call.
        Link { way_us: (1, 1), ..self.engines.link(&self.world, address) }
    }

    /// Returns the log as a node has it that keeps it on its own disk.
    pub(crate) fn local_log(&self) -> Arc<dyn LocalLog> {
        Arc::new(self.engines.log(&self.next_link()))
    }

    /// Returns what a service of the next node is built from, with default settings.
    pub(crate) fn parts(&self) -> ServiceParts {
        let link = self.next_link();
        let address = link.address;
        let Config { api, admission, .. } = Config::default();
        ServiceParts {
            log: Arc::new(self.engines.log(&link)),
            store: Arc::new(self.engines.store(&link)),
            feed: Arc::new(self.engines.feed(&link)),
            codec: self.engines.codec.clone(),
            keys: self.engines.keys.clone(),
            layout: self.engines.layout.clone(),
            api,
            admission,
            local_log: None,
            group_check: None,
            actors: self.owner.core.directory.clone(),
            generations: Arc::new(HeardGenerations::new(PARTITIONS)),
            clock: Arc::new(LifeClock { world: self.world.clone(), address }),
            bounds: ServiceBounds::default(),
        }
    }

    /// Lets the owner decide every record of the log, and stops it.
    pub(crate) async fn decide(&self, settle: Settle) {
        let worked = self.is_at_work.load(Ordering::Relaxed);
        let _work = (!worked).then(|| self.owner_at_work(settle));
        self.until(|| {
            (0..PARTITIONS).all(|partition| {
                let end = self.end(partition);
                let progress = || self.rows().progress.get(&partition).map(|it| it.next);
                self.published(partition) == Some(end)
                    && (settle == Settle::RowsAlone || progress() == Some(end))
            })
        })
        .await;
    }

    /// Lets the owner work until the returned guard is dropped.
    pub(crate) fn owner_at_work(&self, settle: Settle) -> AtWork<'_> {
        if settle != Settle::All {
            self.cut(Engine::Feed);
        }
        if settle == Settle::RowsAlone {
            // Marks are written before progress. Each partition tries once before it is stopped.
            for call in [Call::WriteMarks, Call::WriteProgress].repeat(PARTITIONS as usize) {
                self.world.arm(Armed { node: Some(OWNER), call, fate: Fate::Lost });
            }
        }
        self.world.go_on(OWNER);
        self.is_at_work.store(true, Ordering::Relaxed);
        AtWork(self, settle)
    }

    /// Returns the owner's watermark, if it has published one.
    fn published(&self, partition: Partition) -> Option<Offset> {
        let topic = self.engines.topic.lock();
        let of_partition = topic.published.iter().map(|it| &it.message);
        of_partition.filter(|it| it.partition == partition).map(|it| it.to).max()
    }

    pub(crate) fn watermark(&self, partition: Partition) -> Offset {
        self.published(partition).unwrap_or(FIRST_OFFSET)
    }

    /// Publishes the watermark once more, with a halt of the partition if there is a reason.
    pub(crate) async fn publish(&self, partition: Partition, halted: Option<String>) {
        self.publish_halt(partition, halted, None).await;
    }

    /// As [`Self::publish`], with the range that halts the partition.
    pub(crate) async fn publish_halt(
        &self,
        partition: Partition,
        halted: Option<String>,
        unread: Option<Unread>,
    ) {
        // As owners do, which do not know a watermark that they could tell while they are halted.
        let (from, to, end) = match halted {
            Some(_) => (0, 0, 0),
            None => (0, self.watermark(partition), self.end(partition)),
        };
        let (decisions, campaigns) = (Vec::new(), Vec::new());
        // Beside the owner, which goes on.
        let owner = ProcessName::of(1);
        let number = self.messages(partition).iter().filter(|it| it.sender.owner == owner).count();
        let generation = self.rows().registers.get(&(partition, Register::Generation)).copied();
        let (generation, number) = (generation.unwrap_or(0), number as u64 + 1);
        let sender = Sender { generation, owner, number };
        self.send(FeedMessage {
            log_epoch: self.engines.layout.log_epoch,
            partition,
            sender,
            from,
            to,
            end,
            waiting: end.saturating_sub(to),
            condition: None,
            halted,
            unread,
            decisions,
            campaigns,
        })
        .await;
    }

    /// Returns all messages about a partition.
    pub(crate) fn messages(&self, partition: Partition) -> Vec<FeedMessage> {
        let topic = self.engines.topic.lock();
        let messages = topic.published.iter().map(|it| it.message.clone());
        messages.filter(|it| it.partition == partition).collect()
    }

    /// Sends a message to all followers, also one that was sent before.
    pub(crate) async fn send(&self, message: FeedMessage) {
        let link = self.engines.link(&self.world, self.owner.address);
        self.engines.feed(&link).publish(message).await.unwrap();
    }

    /// Sends a message, and waits until it has come to every node that is not cut off. An owner is not
    /// silent for so long.
    pub(crate) async fn deliver(&self, message: FeedMessage) {
        self.send(message).await;
        let until_us = self.world.now_us() + DELIVERED_US;
        // Time goes on from event to event.
        self.world.at(until_us, None, || {});
        self.until(|| self.world.now_us() >= until_us).await;
    }

    /// Lets the next message be that of a new owner.
    pub(crate) fn begin_generation(&self, partition: Partition) {
        let mut rows = self.rows();
        let before = rows.registers.get(&(partition, Register::Generation)).copied().unwrap_or(0);
        rows.apply(Row::Register(partition, Register::Generation, before + 1));
    }

    /// Drops every follower of the feed. A service follows again, and counts it as a gap.
    pub(crate) fn drop_followers(&self) {
        self.engines.topic.lock().followers.clear();
    }

    /// Cuts every service off from an engine.
    pub(crate) fn cut(&self, engine: Engine) {
        (OWNER + 1..NODES).for_each(|node| self.world.cut(node, engine, None));
    }

    pub(crate) fn mend(&self, engine: Engine) {
        (OWNER + 1..NODES).for_each(|node| self.world.mend(node, engine, None));
    }

    /// Lets the next such call of the first service have this fate.
    pub(crate) fn arm(&self, call: Call, fate: Fate) {
        self.world.arm(Armed { node: Some(OWNER + 1), call, fate });
    }

    /// Returns how many such calls the services have made.
    pub(crate) fn calls(&self, call: Call) -> usize {
        self.world.calls(|node, made| node != OWNER && made == call)
    }

    pub(crate) fn partition_of(&self, campaign: &CampaignId) -> Partition {
        self.engines.codec.partition_of(campaign)
    }

    /// Appends a record as another node would.
    pub(crate) fn append(&self, record: &Record) -> Offset {
        let (partition, new) = self.engines.codec.encode(record);
        let mut brokers = self.engines.brokers.lock();
        brokers.append(&self.world, partition, Written::from(new)).offset
    }

    /// Number of records in the log.
    pub(crate) fn len(&self) -> usize {
        self.engines.brokers.lock().partitions.iter().map(|log| log.records.len()).sum()
    }

    pub(crate) fn record(&self, partition: Partition, offset: Offset) -> LogRecord {
        self.engines.brokers.lock().partitions[partition as usize].records[&offset].clone()
    }

    /// Puts a record in the place of another.
    pub(crate) fn set_record(&self, partition: Partition, record: LogRecord) {
        let log = &mut self.engines.brokers.lock().partitions[partition as usize];
        log.records.insert(record.offset, record);
    }

    /// Lets the log end at `end`, as in an older copy.
    pub(crate) fn cut_log(&self, partition: Partition, end: Offset) {
        let log = &mut self.engines.brokers.lock().partitions[partition as usize];
        log.records.split_off(&end);
        log.high = end;
    }

    /// Trims the log below `end`.
    pub(crate) fn trim(&self, partition: Partition, end: Offset) {
        self.engines.brokers.lock().trim(partition, end);
    }

    pub(crate) fn end(&self, partition: Partition) -> Offset {
        self.engines.brokers.lock().end(partition)
    }

    /// Lets the log end at `end`: behind a hole, or below records that were acknowledged.
    pub(crate) fn set_end(&self, partition: Partition, end: Offset) {
        let log = &mut self.engines.brokers.lock().partitions[partition as usize];
        log.high = end;
        log.records.split_off(&end);
    }

    pub(crate) fn rows(&self) -> MutexGuard<'_, MemoryRows> {
        self.engines.rows.store.rows.lock()
    }

    /// Time since the world's beginning.
    pub(crate) fn now(&self) -> Duration {
        Duration::from_micros(self.world.now_us())
    }

    /// Lets time pass.
    pub(crate) async fn pass(&self, time: Duration) {
        self.world.wait(time.as_micros() as u64, None).await;
    }

    /// Lets time pass until the condition holds.
    #[track_caller]
    pub(crate) fn until(&self, condition: impl Fn() -> bool) -> impl Future<Output = ()> {
        let from = Location::caller();
        async move {
            for _ in 0..STEPS_MAX {
                if condition() {
                    return;
                }
                self.world.wait(100, None).await;
            }
            panic!("the condition of {from} never held");
        }
    }
}

/// Stops the owner when it is dropped.
pub(crate) struct AtWork<'a>(&'a OwnedWorld, Settle);

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        let Self(owned, settle) = self;
        owned.is_at_work.store(false, Ordering::Relaxed);
        owned.world.pause(OWNER);
        owned.world.disarm(OWNER);
        if *settle != Settle::All {
            owned.mend(Engine::Feed);
        }
    }
}
