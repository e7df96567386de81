//! What of the node is not ready.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::time::{MissedTickBehavior, interval, timeout};

use super::{
    NodeClock, STORE_TIMEOUT, Space, chain, model::NotReady, tasks::lock, waiters::Waiters,
};
use crate::{answer::Moment, domain::ids::Partition, log::RequestLog, store::CouponStore};

/// How often log and store are asked for a sign of life.
const PROBE_EVERY: Duration = Duration::from_secs(1);

/// Silence of a partition's owner after which no node is ready any more. Longer than another takes
/// to take over: until then requests are taken and wait, and with every node unready at once a load
/// balancer would have nowhere to send them.
const UNOWNED_AFTER: Duration = Duration::from_secs(15);

/// Time without an answer after which a part counts as not answering.
const SILENT_AFTER: Duration = Duration::from_secs(3);

#[derive(Debug, Default)]
struct Answering {
    answered_at: Option<Moment>,
    failure: Option<String>,
}

/// Looks after log and store.
pub(super) struct Health {
    log: Arc<dyn RequestLog>,
    store: Arc<dyn CouponStore>,
    space: Option<Space>,
    clock: NodeClock,
    partitions: u32,
    log_answering: Mutex<Answering>,
    store_answering: Mutex<Answering>,
    /// Why the log takes no records, if so.
    full: Mutex<Option<String>>,
}

impl Health {
    pub(super) fn new(
        log: Arc<dyn RequestLog>,
        store: Arc<dyn CouponStore>,
        space: Option<Space>,
        clock: NodeClock,
        partitions: u32,
    ) -> Self {
        let (log_answering, store_answering, full) = Default::default();
        Self { log, store, space, clock, partitions, log_answering, store_answering, full }
    }

    /// Asks log and store for one partition after the other, once a second; never returns.
    pub(super) async fn probe(self: Arc<Self>) {
        let mut ticks = interval(PROBE_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for partition in (0..self.partitions.max(1)).cycle() {
            ticks.tick().await;
            let (log, store) = (self.probe_log(partition), self.probe_store(partition));
            tokio::join!(log, store, self.probe_space());
        }
    }

    async fn probe_log(&self, partition: Partition) {
        let failure = match timeout(STORE_TIMEOUT, self.log.bounds(partition)).await {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(chain(&error)),
            Err(_) => Some(format!("no answer within {} s", STORE_TIMEOUT.as_secs())),
        };
        self.note(&self.log_answering, failure);
    }

    async fn probe_store(&self, partition: Partition) {
        let failure = match timeout(STORE_TIMEOUT, self.store.partition(partition)).await {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(chain(&error)),
            Err(_) => Some(format!("no answer within {} s", STORE_TIMEOUT.as_secs())),
        };
        self.note(&self.store_answering, failure);
    }

    /// Waits for as long as the disk does: then log and store are asked no more, and count as not
    /// answering.
    async fn probe_space(&self) {
        let Some(space) = self.space.clone() else { return };
        if let Ok(full) = tokio::task::spawn_blocking(move || space()).await {
            *lock(&self.full) = full;
        }
    }

    fn note(&self, answering: &Mutex<Answering>, failure: Option<String>) {
        let mut answering = lock(answering);
        if failure.is_none() {
            answering.answered_at = Some(self.clock.now());
        }
        answering.failure = failure;
    }

    /// What is not ready; empty when the node can do its work.
    pub(super) fn not_ready(&self, waiters: &Waiters) -> Vec<NotReady> {
        let mut parts = Vec::new();
        let full = || Some(NotReady { part: "request_log", reason: lock(&self.full).clone()? });
        parts.extend(self.silent("request_log", &self.log_answering).or_else(full));
        parts.extend(self.silent("coupon_store", &self.store_answering));
        if !waiters.is_followed() {
            let reason = "it is not followed".to_owned();
            parts.push(NotReady { part: "decision_feed", reason });
        }
        let silent = waiters.silent(UNOWNED_AFTER);
        if !silent.is_empty() {
            let numbers: Vec<String> = silent.iter().map(Partition::to_string).collect();
            let seconds = UNOWNED_AFTER.as_secs();
            let numbers = numbers.join(", ");
            let reason = format!("no owner heard of for {seconds} s of: {numbers}");
            parts.push(NotReady { part: "partitions", reason });
        }
        parts
    }

    fn silent(&self, part: &'static str, answering: &Mutex<Answering>) -> Option<NotReady> {
        let answering = lock(answering);
        let now = self.clock.now();
        let lately = |at: Moment| now.saturating_sub(at) <= SILENT_AFTER;
        if answering.answered_at.is_some_and(lately) {
            return None;
        }
        let reason = answering.failure.clone().unwrap_or_else(|| "it has not answered".to_owned());
        Some(NotReady { part, reason })
    }
}
