//! The states of this node's actors, for operators and metrics.

use std::{collections::BTreeMap, time::Duration};

use parking_lot::Mutex;

use crate::{
    answer::admission::CampaignState,
    domain::{
        campaign::Campaign,
        definition::Definition,
        halt::{Halt, HaltReason},
        ids::{CampaignId, Offset, Partition, Timestamp},
    },
    partition::{
        actor_view::{ActorView, ActorViews},
        liveness,
    },
    telemetry::metrics,
    wire::codec::Codec,
};

/// The state of the actor of a campaign on hold; see `partition::flow`.
const QUARANTINED: &str = "quarantined";

/// What a campaign's actor last knew of its definition and issued coupons.
#[derive(Debug)]
struct Standing {
    version: Offset,
    definition: Definition,
    issued: u32,
}

/// Numbers of actors and campaigns by state.
struct Census {
    actors: BTreeMap<&'static str, usize>,
    campaigns: BTreeMap<&'static str, usize>,
}

#[derive(Debug, Default)]
struct PartitionViews {
    halted: Option<Halt>,
    campaigns: BTreeMap<CampaignId, ActorView>,
    /// Kept after an actor has stopped: the campaign still has a state.
    standings: BTreeMap<CampaignId, Standing>,
}

/// The owned partitions and their campaigns, written by partition consumers and coupon actors.
#[derive(Debug)]
pub struct Directory {
    codec: Codec,
    partitions: Mutex<BTreeMap<Partition, PartitionViews>>,
    /// What is about to be removed undecided, by partition.
    expiring: Mutex<BTreeMap<Partition, String>>,
    /// What the node's probes say of it, with what has failed, while they fail.
    standing: Mutex<Option<(liveness::Standing, String)>>,
}

impl Directory {
    /// Starts without a partition.
    #[must_use]
    pub fn new(codec: Codec) -> Self {
        let (partitions, expiring, standing) = Default::default();
        Self { codec, partitions, expiring, standing }
    }

    /// Notes what the node's probes say of it, if they fail.
    pub(super) fn stands_as(&self, standing: Option<(liveness::Standing, String)>) {
        *self.standing.lock() = standing;
    }

    /// Notes that this node owns the partition, and whether it is halted. Forgets what was known
    /// of its campaigns.
    pub(super) fn own(&self, partition: Partition, halted: Option<Halt>) {
        let reason = halted.as_ref().map(|halt| halt.reason);
        let views = PartitionViews { halted, ..PartitionViews::default() };
        self.partitions.lock().insert(partition, views);
        show_halt(partition, reason);
    }

    /// Notes that this node does not own the partition any more.
    pub(super) fn disown(&self, partition: Partition) {
        // Another node reports this partition now, and our last value would be exported forever.
        metrics::partition_lag(partition, 0);
        metrics::watermark_age(partition, Duration::ZERO);
        self.partitions.lock().remove(&partition);
        show_halt(partition, None);
        self.expires(partition, None);
    }

    /// Notes what is about to be removed undecided from the log of a partition, if anything is.
    pub(super) fn expires(&self, partition: Partition, warning: Option<String>) {
        metrics::partition_expiring(partition, warning.is_some());
        let mut expiring = self.expiring.lock();
        match warning {
            Some(warning) if expiring.get(&partition) != Some(&warning) => {
                tracing::warn!(partition, "{warning}");
                expiring.insert(partition, warning);
            }
            Some(_) => {}
            None => drop(expiring.remove(&partition)),
        }
    }

    /// Sets the state of a campaign's actor; `None` means that it has stopped.
    pub(super) fn tell(
        &self,
        partition: Partition,
        campaign: &CampaignId,
        view: Option<(&'static str, Option<String>)>,
    ) {
        if let Some(views) = self.partitions.lock().get_mut(&partition) {
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

    /// Sets what a campaign's actor knows of the campaign.
    pub(super) fn stands(&self, partition: Partition, campaign: &Campaign) {
        let (Some(version), Some(definition)) = (campaign.version(), campaign.definition()) else {
            return;
        };
        let issued = campaign.issued();
        let mut partitions = self.partitions.lock();
        let Some(views) = partitions.get_mut(&partition) else { return };
        match views.standings.get_mut(campaign.id()) {
            // Without a new version there is nothing to clone: this runs once per batch.
            Some(standing) if standing.version == version => standing.issued = issued,
            _ => {
                let definition = definition.clone();
                let standing = Standing { version, definition, issued };
                views.standings.insert(campaign.id().clone(), standing);
            }
        }
    }

    /// Returns the partitions that this node owns.
    #[must_use]
    pub fn owned(&self) -> Vec<Partition> {
        self.partitions.lock().keys().copied().collect()
    }

    /// Sets the metrics of actors and campaigns by state.
    pub(super) fn census(&self, wall: Timestamp) {
        let Census { actors, campaigns } = self.count(wall);
        actors.into_iter().for_each(|(state, count)| metrics::actors(state, count));
        campaigns.into_iter().for_each(|(state, count)| metrics::campaigns(state, count));
    }

    fn count(&self, wall: Timestamp) -> Census {
        let mut actors =
            BTreeMap::from([("live", 0), ("recovering", 0), (QUARANTINED, 0), ("halted", 0)]);
        let mut campaigns =
            BTreeMap::from_iter(CampaignState::all().map(|state| (state.name(), 0)));
        for views in self.partitions.lock().values() {
            for (campaign, view) in &views.campaigns {
                let state = if views.halted.is_some() { "halted" } else { view.state };
                *actors.entry(state).or_default() += 1;
                // A campaign on hold may never have been loaded here; it still counts.
                if view.state == QUARANTINED && !views.standings.contains_key(campaign) {
                    *campaigns.entry(CampaignState::Quarantined.name()).or_default() += 1;
                }
            }
            for (campaign, Standing { definition, issued, .. }) in &views.standings {
                let view = views.campaigns.get(campaign);
                let held = view.is_some_and(|view| view.state == QUARANTINED);
                let state = CampaignState::of(definition, held, *issued, wall);
                *campaigns.entry(state.name()).or_default() += 1;
            }
        }
        Census { actors, campaigns }
    }
}

/// Sets the metric of a partition's halt. Every reason has a series, also at 0. Otherwise a
/// partition that is not halted would look like a missing metric.
fn show_halt(partition: Partition, now: Option<HaltReason>) {
    for reason in HaltReason::ALL {
        metrics::partition_halted(partition, *reason, now == Some(*reason));
    }
}

impl ActorViews for Directory {
    fn standing(&self) -> Option<(liveness::Standing, String)> {
        self.standing.lock().clone()
    }

    fn expiring(&self) -> Vec<(Partition, String)> {
        let expiring = self.expiring.lock();
        expiring.iter().map(|(partition, warning)| (*partition, warning.clone())).collect()
    }

    fn view(&self, campaign: &CampaignId) -> ActorView {
        let partitions = self.partitions.lock();
        let Some(views) = partitions.get(&self.codec.partition_of(campaign)) else {
            return ActorView { state: "elsewhere", reason: None };
        };
        if let Some(halt) = &views.halted {
            return ActorView { state: "halted", reason: Some(halt.to_string()) };
        }
        let stopped = || ActorView { state: "stopped", reason: None };
        views.campaigns.get(campaign).cloned().unwrap_or_else(stopped)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::domain::{
        campaign::At,
        definition::Terms,
        keys::Keys,
        record::{Change, Control, Record},
    };

    /// Returns campaigns by state, as the next census counts them.
    fn counted(directory: &Directory, wall: Timestamp) -> Vec<(&'static str, usize)> {
        let counts = directory.count(wall);
        counts.campaigns.into_iter().filter(|(_, count)| *count > 0).collect()
    }

    #[test]
    fn campaigns_are_counted_by_their_state() {
        let keys = Arc::new(Keys::derive(b"a secret of thirty-two bytes or more"));
        let directory = Directory::new(Codec::new(&keys, "one", 1, 1));
        directory.own(0, None);
        let id = CampaignId::parse("spring").unwrap();
        let mut campaign = Campaign::new(id.clone(), 1, 0, keys);
        let opens_at = Some(Timestamp(100));
        let terms = Terms { opens_at, ..Terms::of(5) };
        let defined = Control::once("token", id.clone(), None, Change::Defined { terms });
        campaign.fold(At { offset: 0, time: Timestamp(1) }, &Record::from(defined));
        directory.stands(0, &campaign);
        directory.tell(0, &id, Some(("live", None)));
        assert_eq!(counted(&directory, Timestamp(99)), [("scheduled", 1)]);
        assert_eq!(counted(&directory, Timestamp(100)), [("open", 1)]);
        directory.tell(0, &id, Some((QUARANTINED, None)));
        assert_eq!(counted(&directory, Timestamp(100)), [("quarantined", 1)]);
        directory.tell(0, &id, None);
        assert_eq!(counted(&directory, Timestamp(100)), [("open", 1)], "its actor has stopped");
        let closed = Control::once("token", id.clone(), Some(0), Change::Closed);
        campaign.fold(At { offset: 1, time: Timestamp(200) }, &Record::from(closed));
        directory.stands(0, &campaign);
        assert_eq!(counted(&directory, Timestamp(200)), [("closed", 1)]);
    }
}
