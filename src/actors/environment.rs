//! The ports, keys and bounds that the actors of a node share.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::{Directory, places::Places};
use crate::{
    clock::SharedClock,
    domain::{
        ids::{LogPartition, Partition, ProcessName},
        keys::Keys,
    },
    feed::{DecisionFeed, HeardGenerations},
    log::RequestLog,
    partition::flow::Limits,
    store::CouponStore,
    wire::{codec::Codec, decode_step::DecodeStep},
};

/// Campaigns that load their rows at once. Each holds a few pages in memory; more loads at once
/// would share the same store and each end later.
pub(crate) const LOADS_MAX: usize = 8;

/// Ports, keys and bounds that the actors of one node share.
pub struct Environment {
    /// Port of the request log.
    pub log: Arc<dyn RequestLog>,
    /// Port of the coupon store.
    pub store: Arc<dyn CouponStore>,
    /// Port of the decision feed.
    pub feed: Arc<dyn DecisionFeed>,
    /// Codec of records.
    pub codec: Codec,
    /// Keys of the instance.
    pub keys: Arc<Keys>,
    /// Epoch of the log.
    pub log_epoch: u32,
    /// The name of this process in the feed.
    pub process: ProcessName,
    /// The generations that this node has heard of.
    pub generations: Arc<HeardGenerations>,
    /// Clock of the node.
    pub clock: SharedClock,
    /// A record more than this far ahead of the node's clock halts its partition, in
    /// milliseconds, because the database refuses rows from the far future. None if it does not.
    pub future_max_ms: Option<i64>,
    /// What an owner keeps in memory, and how often it writes.
    pub limits: Limits,
    /// States of the actors, for operators.
    pub directory: Arc<Directory>,
    /// State that only actors share.
    pub shared: Shared,
}

impl Environment {
    /// Returns the step that decodes records of `partition`.
    pub(super) fn decode_step(&self, partition: Partition) -> DecodeStep {
        DecodeStep {
            codec: self.codec.clone(),
            keys: self.keys.clone(),
            partition,
            future_max_ms: self.future_max_ms,
        }
    }

    /// Returns a partition of this node's log.
    pub(super) fn place(&self, partition: Partition) -> LogPartition {
        LogPartition { log_epoch: self.log_epoch, partition }
    }

    /// Returns the milliseconds since the node started.
    pub(super) fn now_ms(&self) -> u64 {
        let since = self.clock.instant().saturating_duration_since(self.shared.started);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}

/// State that the actors of one node share.
pub struct Shared {
    /// Permits of loads; see [`LOADS_MAX`].
    pub(super) loads: Semaphore,
    /// One permit: looks at by-user rows rest one after another.
    pub(super) scrub: Semaphore,
    /// Number of the last feed message about each partition that this node has owned.
    numbers: Mutex<BTreeMap<Partition, u64>>,
    started: Instant,
    /// Where the readers of this node are.
    pub(super) places: Places,
    /// Groups of rows that the actors of each partition have stored.
    stored: Mutex<BTreeMap<Partition, u64>>,
    /// Whether the node probes.
    pub(super) probes: bool,
    /// Whether the node's last probe succeeded.
    can_decide: AtomicBool,
    /// None in production.
    probe: Option<Arc<dyn Probe>>,
}

impl Shared {
    /// Creates the state of a node that starts now.
    #[must_use]
    pub fn new(clock: &SharedClock) -> Self {
        Self {
            loads: Semaphore::new(LOADS_MAX),
            scrub: Semaphore::new(1),
            numbers: Mutex::default(),
            started: clock.instant(),
            places: Places::default(),
            stored: Mutex::default(),
            probes: false,
            can_decide: AtomicBool::new(false),
            probe: None,
        }
    }

    /// Lets a probe observe the actors.
    #[must_use]
    pub fn observed_by(self, probe: Option<Arc<dyn Probe>>) -> Self {
        Self { probe, ..self }
    }

    /// Says whether the node probes.
    #[must_use]
    pub(crate) fn probing(self, probes: bool) -> Self {
        Self { probes, ..self }
    }

    /// Returns the number of this node's next feed message about a partition. Numbers rise over all of
    /// the partition's consumers: followers take a message whose number does not rise for a repeated
    /// one, and an owner that cannot claim a generation uses one in which an earlier one has published.
    pub(super) fn next_number(&self, partition: Partition) -> u64 {
        let mut numbers = self.numbers.lock();
        let number = numbers.entry(partition).or_default();
        *number += 1;
        *number
    }

    /// Notes that actors of a partition have stored something.
    pub(super) fn has_stored(&self, partition: Partition) {
        *self.stored.lock().entry(partition).or_default() += 1;
    }

    /// Returns how many times the actors of each partition have stored something.
    pub(super) fn stored(&self) -> BTreeMap<Partition, u64> {
        self.stored.lock().clone()
    }

    /// Notes whether the node's last probe succeeded.
    pub(super) fn note_probe(&self, can_decide: bool) {
        self.can_decide.store(can_decide, Ordering::Relaxed);
    }

    /// Returns whether the node's last probe succeeded.
    pub(super) fn can_decide(&self) -> bool {
        self.can_decide.load(Ordering::Relaxed)
    }

    /// Tells the probe that an actor is about to handle a message.
    pub(super) fn handled(&self, actor: &'static str, message: &'static str) {
        if let Some(probe) = &self.probe {
            probe.handled(actor, message);
        }
    }
}

/// Observes the actors of a simulated node. A panic of the probe is a panic of the actor.
pub trait Probe: Send + Sync + 'static {
    /// Called before `actor` handles `message`.
    fn handled(&self, actor: &'static str, message: &'static str);
}
