//! What this node's actors tell of themselves, for operators and metrics.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use crate::{
    domain::ids::{CampaignId, Partition},
    log::codec::Codec,
    telemetry::metrics,
};

/// A campaign's actor as operators see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActorView {
    /// `live`, `recovering`, `quarantined`, `halted` (its partition is), `stopped` (no record
    /// yet, or over), or `elsewhere` (another node owns the partition).
    pub state: &'static str,
    /// Why, where there is something to say.
    pub reason: Option<String>,
}

/// What this node's actors tell of themselves.
pub trait ActorDirectory: Send + Sync + 'static {
    /// The actor of `campaign`.
    fn view(&self, campaign: &CampaignId) -> ActorView;
}

#[derive(Debug, Default)]
struct PartitionViews {
    halted: Option<String>,
    campaigns: BTreeMap<CampaignId, ActorView>,
}

/// The owned partitions and their campaigns, written by the partition consumers.
#[derive(Debug)]
pub struct Directory {
    codec: Codec,
    partitions: Mutex<BTreeMap<Partition, PartitionViews>>,
}

impl Directory {
    /// Nothing is owned yet.
    #[must_use]
    pub fn new(codec: Codec) -> Self {
        Self { codec, partitions: Mutex::default() }
    }

    /// The partition is owned by this node, and perhaps halted. Its campaigns are told anew.
    pub(super) fn own(&self, partition: Partition, halted: Option<String>) {
        metrics::partition_halted(partition, halted.is_some());
        let views = PartitionViews { halted, campaigns: BTreeMap::new() };
        self.lock().insert(partition, views);
    }

    /// The partition is no longer owned.
    pub(super) fn disown(&self, partition: Partition) {
        metrics::partition_halted(partition, false);
        self.lock().remove(&partition);
    }

    /// What a campaign's actor is now; none: stopped.
    pub(super) fn tell(
        &self,
        partition: Partition,
        campaign: &CampaignId,
        view: Option<(&'static str, Option<String>)>,
    ) {
        if let Some(views) = self.lock().get_mut(&partition) {
            match view {
                Some((state, reason)) => {
                    views.campaigns.insert(campaign.clone(), ActorView { state, reason });
                }
                None => {
                    views.campaigns.remove(campaign);
                }
            }
        }
    }

    /// Partitions that this node owns.
    #[must_use]
    pub fn owned(&self) -> Vec<Partition> {
        self.lock().keys().copied().collect()
    }

    /// Counts the actors by state into the metric.
    pub(super) fn census(&self) {
        let mut census =
            BTreeMap::from([("live", 0), ("recovering", 0), ("quarantined", 0), ("halted", 0)]);
        for views in self.lock().values() {
            for view in views.campaigns.values() {
                let state = if views.halted.is_some() { "halted" } else { view.state };
                *census.entry(state).or_default() += 1;
            }
        }
        for (state, count) in census {
            metrics::campaigns(state, count);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Partition, PartitionViews>> {
        self.partitions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ActorDirectory for Directory {
    fn view(&self, campaign: &CampaignId) -> ActorView {
        let partitions = self.lock();
        let Some(views) = partitions.get(&self.codec.partition_of(campaign)) else {
            return ActorView { state: "elsewhere", reason: None };
        };
        if let Some(reason) = &views.halted {
            return ActorView { state: "halted", reason: Some(reason.clone()) };
        }
        let stopped = || ActorView { state: "stopped", reason: None };
        views.campaigns.get(campaign).cloned().unwrap_or_else(stopped)
    }
}
