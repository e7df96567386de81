//! Operators who skip what cannot be read.

use std::sync::Arc;

use super::{act::Lost, node::Node, story::Story};
use crate::{
    api::service::{NodeService, ReportHealth, ServiceError, SkipRanges},
    domain::{
        ids::{Offset, Partition},
        rows::{Skip, SkipState},
    },
};

/// Who skips in worlds. Tests that choose their acts have others, who may skip anything.
pub(super) const OPERATOR: &str = "operator";

/// Time in which a partition that cannot be read says where it can be skipped, and in which it goes on
/// once it is skipped, in microseconds.
const TOLD_WITHIN_US: u64 = 60_000_000;

/// How often it is looked whether it has, in microseconds.
const LOOK_US: u64 = 200_000;

/// Returns the offset at which a node says that a partition can be skipped: operators read the same
/// text.
fn told(service: &NodeService, partition: Partition) -> Option<Offset> {
    let command = format!("`coupond skip {partition} --offset ");
    service.degraded().iter().find_map(|part| {
        let (_, rest) = part.reason.split_once(&command)?;
        rest.split_once(' ')?.0.parse().ok()
    })
}

async fn skip(
    service: &NodeService,
    partition: Partition,
    offset: Offset,
) -> Result<Skip, ServiceError> {
    service.skip(partition, offset, "it is lost".to_owned(), OPERATOR).await
}

impl Story {
    /// Returns a node that says that a partition can be skipped, and at which offset.
    pub(super) fn skippable(&self, partition: Partition) -> Option<(Arc<NodeService>, Offset)> {
        self.nodes.iter().flatten().find_map(|node| {
            let service = node.core.service.clone();
            let offset = told(&service, partition)?;
            Some((service, offset))
        })
    }

    /// Whether a skip in force covers a position.
    pub(super) fn is_skipped(&self, partition: Partition, offset: Offset) -> bool {
        let rows = self.engines.rows.store.rows.lock();
        let mut its = rows.skips.values().filter(|skip| skip.partition == partition);
        its.any(|skip| skip.covers(offset, SkipState::InForce))
    }

    /// Whether an operator may give up what halts a partition.
    fn may_be_lost(&self, partition: Partition) -> bool {
        let brokers = self.engines.brokers.lock();
        brokers.unreadable.is_fresh(partition)
            && brokers.is_a_range(partition)
            && !self.clients.evidence.lock().is_damaged(partition)
    }

    /// Lets an operator skip what halts a partition, while other things go wrong. Returns whether a
    /// node says that it can be skipped.
    pub(super) fn skip_now(&mut self, partition: Partition, wrong: bool) -> bool {
        if !self.may_be_lost(partition) {
            return false;
        }
        let Some((service, offset)) = self.skippable(partition) else { return false };
        let evidence = self.clients.evidence.clone();
        let offset = offset + u64::from(wrong);
        // The call ends with its node.
        let is_its = |node: &&mut Node| Arc::ptr_eq(&node.core.service, &service);
        let Some(node) = self.nodes.iter_mut().flatten().find(is_its) else { return false };
        node.calls.spawn(async move {
            if skip(&service, partition, offset).await.is_ok() && wrong {
                let detail =
                    format!("partition {partition} was skipped at {offset}, where it is not");
                evidence.lock().broken("INV-7", detail);
            }
        });
        true
    }

    /// Lets operators skip what can never be read. No other fault is left.
    pub(super) async fn give_up_what_is_lost(&mut self) {
        for (partition, why) in std::mem::take(&mut self.lost) {
            let next = self.progress(partition);
            let halts = self.engines.brokers.lock().first_unreadable(partition, next);
            if !self.may_be_lost(partition) || halts.is_none_or(|at| self.is_skipped(partition, at))
            {
                continue;
            }
            match self.give_up(partition, why).await {
                Ok(()) => self.world.count(format!("lost-{}", super::act::word(&why))),
                Err(detail) => self.clients.evidence.lock().broken("INV-10", detail),
            }
        }
    }

    async fn give_up(&mut self, partition: Partition, why: Lost) -> Result<(), String> {
        // An operator may have made it before all other faults ended.
        let made = match self.made(partition) {
            Some(made) => made,
            None => self.make_skip(partition, why).await?,
        };
        let until = self.world.now_us() + TOLD_WITHIN_US;
        while !self.is_skipped(partition, made.from) || !self.is_behind(partition, made.to) {
            if self.world.now_us() > until {
                return Err(format!("partition {partition} does not go on behind {made:?}"));
            }
            self.pass(self.world.now_us() + LOOK_US).await;
        }
        Ok(())
    }

    /// Whether a partition has passed everything below `to`, or is halted there by another range. Nobody
    /// need say where that one ends: it may heal.
    fn is_behind(&self, partition: Partition, to: Offset) -> bool {
        let next = self.skippable(partition).map(|(_, offset)| offset);
        let is_halted = || {
            let brokers = self.engines.brokers.lock();
            let mut behind = brokers.partitions[partition as usize].records.range(to..);
            let first = behind.next().map(|(offset, _)| *offset);
            first.is_some() && first == brokers.first_unreadable(partition, to)
        };
        self.progress(partition) >= to || next.is_some_and(|next| next >= to) || is_halted()
    }

    /// Returns a skip of a partition that is neither in force nor void.
    fn made(&self, partition: Partition) -> Option<Skip> {
        let rows = self.engines.rows.store.rows.lock();
        let mut its = rows.skips.values().filter(|skip| skip.partition == partition);
        its.find(|skip| skip.state == SkipState::Made).cloned()
    }

    /// Makes a skip where a node says so, and nowhere else.
    async fn make_skip(&mut self, partition: Partition, why: Lost) -> Result<Skip, String> {
        if why == Lost::Trimmed {
            self.trim_undecided(partition).await?;
        }
        let (service, offset) = self.told_offset(partition).await?;
        let elsewhere = skip(&service, partition, offset + 1).await;
        if !matches!(elsewhere, Err(ServiceError::NotSkippable { .. })) {
            return Err(format!("partition {partition} at {offset} + 1: {elsewhere:?}"));
        }
        let made = skip(&service, partition, offset).await;
        let made = made.map_err(|error| format!("partition {partition} at {offset}: {error}"))?;
        if why == Lost::Healed {
            self.engines.brokers.lock().unspoil(partition);
        }
        let again = skip(&service, partition, offset).await;
        if again.as_ref().map(|again| (again.from, again.to)) != Ok((made.from, made.to)) {
            return Err(format!("partition {partition} at {offset}: {made:?}, then {again:?}"));
        }
        Ok(made)
    }

    fn progress(&self, partition: Partition) -> Offset {
        let rows = self.engines.rows.store.rows.lock();
        rows.progress.get(&partition).map_or(0, |progress| progress.next)
    }

    /// Waits until a node says where a partition can be skipped.
    async fn told_offset(
        &mut self,
        partition: Partition,
    ) -> Result<(Arc<NodeService>, Offset), String> {
        let until = self.world.now_us() + TOLD_WITHIN_US;
        loop {
            if let Some(told) = self.skippable(partition) {
                return Ok(told);
            }
            if self.world.now_us() > until {
                return Err(format!("nobody says where partition {partition} can be skipped"));
            }
            self.pass(self.world.now_us() + LOOK_US).await;
        }
    }

    /// Trims the records that cannot be read, unless a campaign on hold needs what lies below, and
    /// waits until a node says so.
    async fn trim_undecided(&mut self, partition: Partition) -> Result<(), String> {
        let next = self.progress(partition);
        if self.engines.rows.settled(partition) < next {
            return Ok(());
        }
        {
            let mut brokers = self.engines.brokers.lock();
            let end = brokers.end_of_unreadable(partition, next);
            brokers.trim(partition, end);
        }
        let until = self.world.now_us() + TOLD_WITHIN_US;
        let says = |service: &NodeService| {
            let text = format!("partition {partition} is halted: log_trimmed: ");
            service.degraded().iter().any(|part| part.reason.starts_with(&text))
        };
        while !self.nodes.iter().flatten().any(|node| says(&node.core.service)) {
            if self.world.now_us() > until {
                return Err(format!("nobody says that partition {partition} was trimmed"));
            }
            self.pass(self.world.now_us() + LOOK_US).await;
        }
        Ok(())
    }
}
