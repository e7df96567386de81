//! The readiness of the node.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use parking_lot::Mutex;

use super::{
    NodeClock, NodeService, STORE_TIMEOUT, chain,
    interface::{NotReady, ReportHealth},
};
use crate::{
    answer::Moment,
    domain::ids::{CampaignId, Partition},
    log::{LocalLog, RequestLog},
    partition::liveness::Standing,
    store::CouponStore,
    wire::feed_message::Condition,
};

/// How often log and store are probed.
const PROBE_EVERY: Duration = Duration::from_secs(1);

/// Silence of a partition's owner after which the node is not ready. Longer than a takeover: until
/// then requests are appended and wait. Every node hears the same owners, so a shorter time would
/// make all nodes unready at once and leave a load balancer without a target.
const UNOWNED_AFTER: Duration = Duration::from_secs(15);

/// Time without an answer after which log or store is not ready.
const SILENT_AFTER: Duration = Duration::from_secs(3);

impl ReportHealth for NodeService {
    fn not_ready(&self) -> Vec<NotReady> {
        let mut parts = self.health.not_ready();
        if self.is_leaving.load(Ordering::Relaxed) {
            let reason = "the node is being stopped".to_owned();
            parts.push(NotReady { part: "node", reason });
        }
        if !self.waiters.is_followed() {
            let reason = "the feed is not followed".to_owned();
            parts.push(NotReady { part: "decision_feed", reason });
        }
        let silent = self.waiters.silent(UNOWNED_AFTER);
        if !silent.is_empty() {
            let numbers: Vec<String> = silent.iter().map(Partition::to_string).collect();
            let (seconds, numbers) = (UNOWNED_AFTER.as_secs(), numbers.join(", "));
            let reason = format!("no message of the owner for {seconds} s: partition {numbers}");
            parts.push(NotReady { part: "partitions", reason });
        }
        parts.extend(self.own_probes(Standing::Failing));
        parts
    }

    fn degraded(&self) -> Vec<NotReady> {
        let halted = self.waiters.halted().into_iter().map(|(partition, reason)| {
            let reason = format!("partition {partition} is halted: {reason}");
            NotReady { part: "partitions", reason }
        });
        let refused = self.group_check.as_ref().and_then(|check| check());
        let refused = refused.map(|reason| NotReady { part: "consumer_group", reason });
        let expiring = self.actors.expiring().into_iter().map(|(partition, warning)| NotReady {
            part: "retention",
            reason: format!("partition {partition}: {warning}"),
        });
        let conditions = self.waiters.conditions();
        let troubles = conditions.iter().flat_map(|(partition, condition)| {
            let stuck =
                stuck(*partition, condition).map(|reason| NotReady { part: "partitions", reason });
            let held = quarantined(*partition, condition)
                .map(|reason| NotReady { part: "campaigns", reason });
            stuck.into_iter().chain(held)
        });
        let failing = self.own_probes(Standing::FailingLikeAll);
        halted.chain(troubles).chain(expiring).chain(refused).chain(failing).collect()
    }
}

impl NodeService {
    /// Returns what the node's own probes have found, if they say this of it.
    fn own_probes(&self, said: Standing) -> Option<NotReady> {
        let (standing, failed) = self.actors.standing()?;
        let reason = format!("this node's probes fail: {failed}");
        (standing == said).then_some(NotReady { part: "own_probes", reason })
    }
}

/// Says that a watermark has stood still for too long, and what it waits for.
pub(super) fn stuck(partition: Partition, condition: &Condition) -> Option<String> {
    let Condition { age_s, waits_for, .. } = condition;
    let waits_for = waits_for.as_ref()?;
    Some(format!(
        "the watermark of partition {partition} has stood still for {age_s} s while records wait: \
         {waits_for}"
    ))
}

/// Says which campaigns are on hold.
fn quarantined(partition: Partition, condition: &Condition) -> Option<String> {
    let Condition { quarantined, named, .. } = condition;
    let names: Vec<_> = named.iter().map(CampaignId::as_str).collect();
    let more = if *quarantined > named.len() { ", …" } else { "" };
    (*quarantined > 0).then(|| {
        format!("on hold in partition {partition}: {quarantined} ({}{more})", names.join(", "))
    })
}

/// The latest probes of log and store.
pub(super) struct Health {
    log: Arc<dyn RequestLog>,
    store: Arc<dyn CouponStore>,
    local_log: Option<Arc<dyn LocalLog>>,
    clock: NodeClock,
    partitions: u32,
    log_probe: Mutex<LatestProbe>,
    store_probe: Mutex<LatestProbe>,
    /// Why the log takes no records, if it takes none.
    refusal: Mutex<Option<String>>,
}

/// The latest answer of a part, and why the latest probe failed.
#[derive(Debug, Default)]
struct LatestProbe {
    answered_at: Option<Moment>,
    failure: Option<String>,
}

impl Health {
    pub(super) fn new(
        log: Arc<dyn RequestLog>,
        store: Arc<dyn CouponStore>,
        local_log: Option<Arc<dyn LocalLog>>,
        clock: NodeClock,
        partitions: u32,
    ) -> Self {
        let (log_probe, store_probe, refusal) = Default::default();
        Self { log, store, local_log, clock, partitions, log_probe, store_probe, refusal }
    }

    /// Probes log and store once a second, one partition after another. Never returns.
    pub(super) async fn probe(self: Arc<Self>) {
        let mut ticks = self.clock.ticks(PROBE_EVERY);
        for partition in (0..self.partitions.max(1)).cycle() {
            ticks.tick().await;
            let (log, store) = (self.probe_log(partition), self.probe_store(partition));
            // A disk that hangs in the check of appends also stops the probes of log and store, so both
            // become silent and the node unready: embedded, they are on that disk.
            tokio::join!(log, store, self.probe_appends());
        }
    }

    async fn probe_log(&self, partition: Partition) {
        let result = self.clock.timeout(STORE_TIMEOUT, self.log.bounds(partition)).await;
        self.record(&self.log_probe, result.map(|answer| answer.map_err(|error| chain(&error))));
    }

    async fn probe_store(&self, partition: Partition) {
        let result = self.clock.timeout(STORE_TIMEOUT, self.store.partition(partition)).await;
        self.record(&self.store_probe, result.map(|answer| answer.map_err(|error| chain(&error))));
    }

    async fn probe_appends(&self) {
        let Some(log) = &self.local_log else { return };
        let refusal = log.refusal().await;
        *self.refusal.lock() = refusal;
    }

    fn record<T, E>(&self, probe: &Mutex<LatestProbe>, result: Result<Result<T, String>, E>) {
        let mut probe = probe.lock();
        probe.failure = match result {
            Ok(Ok(_)) => {
                probe.answered_at = Some(self.clock.now());
                None
            }
            Ok(Err(failure)) => Some(failure),
            Err(_) => Some(format!("no answer within {} s", STORE_TIMEOUT.as_secs())),
        };
    }

    fn not_ready(&self) -> Vec<NotReady> {
        let refused =
            || Some(NotReady { part: "request_log", reason: self.refusal.lock().clone()? });
        let log = self.silent("request_log", &self.log_probe).or_else(refused);
        let store = self.silent("coupon_store", &self.store_probe);
        log.into_iter().chain(store).collect()
    }

    fn silent(&self, part: &'static str, probe: &Mutex<LatestProbe>) -> Option<NotReady> {
        let probe = probe.lock();
        let now = self.clock.now();
        // A single failed probe does not count: one slow second must not make a load balancer
        // remove the node.
        if probe.answered_at.is_some_and(|at| now.saturating_sub(at) <= SILENT_AFTER) {
            return None;
        }
        let reason = probe.failure.clone().unwrap_or_else(|| "no answer yet".to_owned());
        Some(NotReady { part, reason })
    }
}
