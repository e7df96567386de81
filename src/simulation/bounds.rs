//! INV-9: counts what a life of a node has under way at once.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;

use super::world::Address;
use crate::{
    actors::environment::LOADS_MAX,
    domain::ids::{CampaignId, Partition},
    log::READERS_MAX,
    partition::flow::BATCHES_MAX,
};

/// What a node may have only a few of at once.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Few {
    /// Loads of all coupons of a campaign. Only actors load them.
    Loads,
    /// Writes of one campaign's coupons or versions: one at a time for each of its batches, and one of
    /// rows that had vanished.
    Writes(CampaignId),
    Readers(Partition),
}

impl Few {
    fn most(&self) -> usize {
        match self {
            Self::Loads => LOADS_MAX,
            Self::Writes(_) => BATCHES_MAX + 1,
            Self::Readers(_) => READERS_MAX,
        }
    }
}

#[derive(Default)]
struct Counts {
    running: BTreeMap<(usize, u32, Few), usize>,
    exceeded: Option<String>,
    loads: u64,
}

/// Counts of every life of every node.
#[derive(Clone, Default)]
pub(super) struct Counters(Arc<Mutex<Counts>>);

/// One more is under way until this is dropped.
pub(super) struct Counted {
    counters: Counters,
    key: (usize, u32, Few),
}

impl Counters {
    pub(super) fn one_more(&self, Address { node, life }: Address, few: Few) -> Counted {
        let (most, key) = (few.most(), (node, life, few));
        let count = {
            let mut counts = self.0.lock();
            counts.loads += u64::from(key.2 == Few::Loads);
            let running = counts.running.entry(key.clone()).or_default();
            *running += 1;
            *running
        };
        if count > most {
            self.exceed(format!("node {node} has {count} {:?}, not {most}", key.2));
        }
        Counted { counters: self.clone(), key }
    }

    /// Number of loads that have begun.
    #[cfg(test)]
    pub(super) fn loads(&self) -> u64 {
        self.0.lock().loads
    }

    /// Notes that a bound was exceeded.
    pub(super) fn exceed(&self, what: String) {
        self.0.lock().exceeded.get_or_insert(what);
    }

    /// The first bound that was exceeded.
    pub(super) fn exceeded(&self) -> Option<String> {
        self.0.lock().exceeded.clone()
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut counts = self.counters.0.lock();
        if let Some(running) = counts.running.get_mut(&self.key) {
            *running -= 1;
        }
    }
}
