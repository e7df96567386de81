//! Campaign snapshots: a bounded cache of them, and one load per campaign at a time, shared by all
//! callers that wait for it.

use std::{collections::BTreeMap, num::NonZeroUsize, sync::Arc, time::Duration};

use lru::LruCache;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::{
    NodeClock, ReadError, interface::ServiceError, load::Load, partitions::Partitions,
    tasks::Tasks, waiters::Waiters,
};
use crate::{
    answer::{
        Moment,
        admission::{AdmissionView, CampaignState, EDGE_AGE_MAX, Unusable},
        follower::Heard,
    },
    domain::{
        ids::{CampaignId, Offset},
        invariant::Invariant,
        keys::Keys,
        rows::Hold,
    },
    store::CouponStore,
    telemetry::metrics,
    wire::codec::Codec,
};

/// Snapshots in the cache: the 10,000 campaigns that a node is sized for, and room to spare. One
/// takes about 1 KiB.
const CAMPAIGNS_MAX: NonZeroUsize = NonZeroUsize::new(16_384).expect("not zero");

/// The snapshots of a full cache.
pub(crate) const SNAPSHOTS_BYTES: usize = CAMPAIGNS_MAX.get() * 1_024;

/// Latest definition versions kept in a cached snapshot. Older positions are answered by a load.
const VERSIONS_KEPT_MAX: usize = 64;

/// Loads queued or running at once. Further loads fail with [`ReadError::TooManyLoads`].
const LOADS_MAX: usize = 1_024;

/// Loads that read the store at the same time: enough to hide a round trip, few enough that the
/// owner's writes are not held up.
const READS_MAX: usize = 32;

/// How long a request to an idle or shut campaign waits for a current snapshot. After that the
/// request goes to the log, which always knows.
const CURRENT_SNAPSHOT_WAIT: Duration = Duration::from_millis(100);

/// The rows of one campaign, as one read found them.
#[derive(Debug, Clone)]
pub(super) struct CampaignSnapshot {
    /// State and definition versions.
    pub(super) edge: AdmissionView,
    /// Holds that are not closed, by `from`.
    pub(super) holds: Vec<Hold>,
}

impl CampaignSnapshot {
    /// Returns the hold that quarantines the campaign, if any.
    pub(super) fn quarantine(&self) -> Option<&Hold> {
        self.holds.first()
    }

    /// Fails if the campaign is quarantined.
    pub(super) fn refuse_quarantined(&self) -> Result<(), ServiceError> {
        match self.quarantine() {
            Some(hold) => Err(ServiceError::Halted {
                reason: format!("the campaign is quarantined: {}", hold.reason),
            }),
            None => Ok(()),
        }
    }
}

/// The result of a load. `None`: there is no such campaign.
pub(super) type LoadResult = Result<Option<Arc<CampaignSnapshot>>, ReadError>;

struct CachedSnapshot {
    snapshot: Arc<CampaignSnapshot>,
    /// When the latest load of this campaign was asked for or failed.
    tried_at: Moment,
    /// The latest load found rows that contradict each other: no request goes by this snapshot.
    is_contradicted: bool,
}

struct State {
    cache: LruCache<CampaignId, CachedSnapshot>,
    loads: BTreeMap<CampaignId, Arc<Load<LoadResult>>>,
}

/// What [`Campaigns`] works with.
pub(super) struct Parts {
    pub(super) store: Arc<dyn CouponStore>,
    pub(super) codec: Codec,
    pub(super) keys: Arc<Keys>,
    pub(super) clock: NodeClock,
    pub(super) waiters: Arc<Waiters>,
    pub(super) partitions: Arc<Partitions>,
    pub(super) tasks: Arc<Tasks>,
}

/// The campaigns that this node has looked at.
pub(super) struct Campaigns {
    parts: Parts,
    reads: Semaphore,
    state: Mutex<State>,
}

impl Campaigns {
    pub(super) fn new(parts: Parts) -> Self {
        let state = State { cache: LruCache::new(CAMPAIGNS_MAX), loads: BTreeMap::new() };
        Self { parts, reads: Semaphore::new(READS_MAX), state: Mutex::new(state) }
    }

    /// Returns the cached snapshot of any age.
    pub(super) fn cached(&self, campaign: &CampaignId) -> Option<Arc<CampaignSnapshot>> {
        self.state.lock().cache.get(campaign).map(|cached| cached.snapshot.clone())
    }

    /// Returns the cached snapshot if it is young enough to refuse requests by and to show.
    pub(super) fn fresh(&self, campaign: &CampaignId) -> Option<Arc<CampaignSnapshot>> {
        self.cached(campaign).filter(|snapshot| snapshot.edge.is_fresh(self.parts.clock.now()))
    }

    /// Returns the snapshot by which a request is admitted.
    ///
    /// Under traffic this costs no read: one task loads the campaign once a second, and requests
    /// in between use the cache. An idle campaign, or one that issued nothing at the last look, is
    /// loaded first if the store answers quickly. An unknown campaign is always loaded.
    pub(super) async fn for_issue(self: &Arc<Self>, campaign: &CampaignId) -> LoadResult {
        let now = self.parts.clock.now();
        let Some((cached, tried_at)) = self.cached_with_try(campaign) else {
            return self.exists(campaign).await;
        };
        if cached.edge.is_fresh(now) {
            return Ok(Some(cached));
        }
        // At most one load a second: while the store is away, each request would start another.
        let tried_lately = now.saturating_sub(tried_at) <= EDGE_AGE_MAX;
        let load = match tried_lately {
            true => self.state.lock().loads.get(campaign).cloned(),
            false => self.join_load(campaign).ok().map(|(load, _)| load),
        };
        // A stale snapshot refuses nothing, so a request to a campaign under traffic goes to the
        // log without waiting. A lone request to a shut campaign would also cost a log record, and
        // each one after it; those wait a moment for the load.
        let idle = cached.edge.age(now) > 2 * EDGE_AGE_MAX;
        let figures = cached.edge.figures(self.parts.clock.wall());
        let shut = figures.is_some_and(|figures| figures.state != CampaignState::Open);
        let Some(load) = load.filter(|_| idle || shut) else { return Ok(Some(cached)) };
        match self.parts.clock.timeout(CURRENT_SNAPSHOT_WAIT, load.finished()).await {
            Ok(Ok(Some(loaded))) => Ok(Some(loaded)),
            // The hold of an undefined campaign has ended: nothing is known of it any more.
            Ok(Ok(None)) => self.exists(campaign).await,
            Ok(Err(error @ ReadError::Contradiction(_))) => Err(error),
            Ok(Err(_)) | Err(_) => Ok(Some(cached)),
        }
    }

    /// Returns a snapshot at most one second old, with the definition that this node has heard of.
    pub(super) async fn for_view(self: &Arc<Self>, campaign: &CampaignId) -> LoadResult {
        let loaded = match self.fresh(campaign) {
            Some(snapshot) => Some(snapshot),
            None => self.exists(campaign).await?,
        };
        match loaded {
            Some(snapshot) if self.has_heard_version(campaign, &snapshot) => Ok(Some(snapshot)),
            None if self.heard(campaign).is_none() => Ok(None),
            _ => self.current(campaign).await,
        }
    }

    /// Returns whether a snapshot has the definition version that this node has heard of, if any.
    fn has_heard_version(&self, campaign: &CampaignId, snapshot: &CampaignSnapshot) -> bool {
        let Some(heard) = self.heard(campaign) else { return true };
        snapshot.edge.latest().is_some_and(|latest| latest.position.offset >= heard.version)
    }

    /// Returns when the definition of some campaign may have changed last, as far as this node knows.
    pub(super) fn definitions_changed_at(&self) -> Option<Moment> {
        self.parts.waiters.definitions_changed_at()
    }

    /// Returns what this node has heard of a campaign over the feed.
    pub(super) fn heard(&self, campaign: &CampaignId) -> Option<Heard> {
        self.parts.waiters.heard(self.parts.keys.campaign_hash(campaign))
    }

    /// Returns a snapshot whose read began after this call.
    pub(super) async fn current(self: &Arc<Self>, campaign: &CampaignId) -> LoadResult {
        let (load, was_reading) = self.join_load(campaign)?;
        let result = load.finished().await;
        if !was_reading {
            return result;
        }
        // Any load in flight now started after the one we awaited, hence after this call.
        self.join_load(campaign)?.0.finished().await
    }

    /// Returns a snapshot if the store has the campaign. A load in flight may answer yes, but only
    /// a read that began after this call may answer no: the definition could have been written
    /// since the earlier read.
    async fn exists(self: &Arc<Self>, campaign: &CampaignId) -> LoadResult {
        let (load, was_reading) = self.join_load(campaign)?;
        match load.finished().await {
            Ok(Some(snapshot)) => Ok(Some(snapshot)),
            result if !was_reading => result,
            _ => self.join_load(campaign)?.0.finished().await,
        }
    }

    /// Returns a snapshot for a listing. A listing does not fill the cache: a thousand campaigns
    /// would evict those under traffic.
    pub(super) async fn for_listing(&self, campaign: &CampaignId) -> LoadResult {
        if let Some(snapshot) =
            self.fresh(campaign).filter(|it| self.has_heard_version(campaign, it))
        {
            return Ok(Some(snapshot));
        }
        let _permit = self.reads.acquire().await;
        self.read(campaign).await
    }

    /// Returns the snapshot by which requests go, with the time of the latest load.
    fn cached_with_try(&self, campaign: &CampaignId) -> Option<(Arc<CampaignSnapshot>, Moment)> {
        let mut state = self.state.lock();
        let cached = state.cache.get(campaign).filter(|cached| !cached.is_contradicted);
        cached.map(|cached| (cached.snapshot.clone(), cached.tried_at))
    }

    /// Joins the load of `campaign` in flight, or starts one. Also returns whether the joined load
    /// was already reading the store.
    fn join_load(
        self: &Arc<Self>,
        campaign: &CampaignId,
    ) -> Result<(Arc<Load<LoadResult>>, bool), ReadError> {
        let mut state = self.state.lock();
        if let Some(load) = state.loads.get(campaign) {
            return Ok((load.clone(), load.was_reading()));
        }
        if state.loads.len() >= LOADS_MAX {
            return Err(ReadError::TooManyLoads);
        }
        let load = Arc::new(Load::queued());
        state.loads.insert(campaign.clone(), load.clone());
        if let Some(cached) = state.cache.get_mut(campaign) {
            cached.tried_at = self.parts.clock.now();
        }
        drop(state);
        let (campaigns, campaign) = (self.clone(), campaign.clone());
        let entry = LoadEntry { campaigns, campaign, load: load.clone() };
        self.parts.tasks.once("load a campaign", async move {
            let campaigns = entry.campaigns.clone();
            let campaign = entry.campaign.clone();
            let _permit = campaigns.reads.acquire().await;
            entry.load.begin();
            let result = campaigns.read(&campaign).await;
            entry.done(campaigns.store_result(&campaign, result));
        });
        Ok((load, false))
    }

    /// Puts a loaded snapshot into the cache, unless definition versions have vanished since the
    /// previous load.
    fn store_result(&self, campaign: &CampaignId, result: LoadResult) -> LoadResult {
        let mut state = self.state.lock();
        let before = state.cache.get_mut(campaign);
        let Ok(loaded) = result else {
            let now = self.parts.clock.now();
            before.into_iter().for_each(|cached| {
                cached.tried_at = now;
                cached.is_contradicted |= matches!(result, Err(ReadError::Contradiction(_)));
            });
            return result;
        };
        // Versions are never deleted: fewer than before means that the store lost rows (INV-12).
        let vanished = before.as_ref().is_some_and(|before| {
            let before = &before.snapshot.edge;
            match &loaded {
                // What a hold covers may be missing: its release derives it again.
                Some(loaded) => !loaded.edge.is_quarantined && loaded.edge.lost_versions(before),
                None => before.latest().is_some(),
            }
        });
        if vanished {
            metrics::violation(Invariant::StopRatherThanLie);
            tracing::error!(summed = true, %campaign, "definition versions vanished from the store");
            let reason = format!("definition versions of {campaign} vanished from the store");
            return Err(ReadError::Contradiction(reason));
        }
        match &loaded {
            Some(loaded) => {
                let tried_at = loaded.edge.read_at;
                let snapshot = shortened(loaded);
                let cached = CachedSnapshot { snapshot, tried_at, is_contradicted: false };
                state.cache.put(campaign.clone(), cached);
            }
            None => drop(state.cache.pop(campaign)),
        }
        Ok(loaded)
    }

    /// Reads progress, then holds, mark and versions, in this order: what is settled by an earlier
    /// progress has its rows in a later read, never the other way round.
    async fn read(&self, campaign: &CampaignId) -> LoadResult {
        let Parts { store, codec, keys, clock, waiters, partitions, .. } = &self.parts;
        let read_at = clock.now();
        let partition = codec.partition_of(campaign);
        let progress = partitions.progress(&*partitions.read(partition).await?);
        let stored_below = waiters.watermark(partition).unwrap_or(0).max(progress);
        let what = || format!("reading campaign {campaign}");
        let rows = clock.read(store.campaign(campaign, partition), what).await?;
        let in_force = rows.holds.iter().filter(|hold| hold.is_in_force());
        let mut holds: Vec<Hold> = in_force.cloned().collect();
        holds.sort_by_key(|hold| (hold.from, hold.number));
        match AdmissionView::of_rows(read_at, (stored_below, progress), campaign, rows, keys) {
            Ok(edge) => Ok(Some(Arc::new(CampaignSnapshot { edge, holds }))),
            Err(Unusable::Unknown) => Ok(None),
            Err(Unusable::Altered(offset)) => Err(altered(campaign, offset)),
            Err(Unusable::Vanished(detail)) => Err(vanished(campaign, &detail)),
        }
    }

    /// Returns a snapshot that has the definition version in effect at `offset`, a settled
    /// position.
    pub(super) async fn at(self: &Arc<Self>, campaign: &CampaignId, offset: Offset) -> LoadResult {
        match self.cached(campaign) {
            Some(snapshot) if snapshot.edge.knows_version_at(offset) => Ok(Some(snapshot)),
            _ => self.current(campaign).await,
        }
    }
}

/// Removes a load from the loads in flight when dropped, also when the load panics or is
/// cancelled: otherwise later callers would join a load that never ends.
struct LoadEntry {
    campaigns: Arc<Campaigns>,
    campaign: CampaignId,
    load: Arc<Load<LoadResult>>,
}

impl LoadEntry {
    fn done(self, result: LoadResult) {
        // Removed before waiters are woken: a waiter that needs a later read must not join this
        // one again.
        self.campaigns.state.lock().loads.remove(&self.campaign);
        self.load.done(result);
    }
}

impl Drop for LoadEntry {
    fn drop(&mut self) {
        if !self.load.is_done() {
            self.campaigns.state.lock().loads.remove(&self.campaign);
            let cancelled = ReadError::Store("the read was cancelled".to_owned());
            self.load.done(Err(cancelled));
        }
    }
}

/// Drops all but the latest [`VERSIONS_KEPT_MAX`] versions of a snapshot.
fn shortened(snapshot: &Arc<CampaignSnapshot>) -> Arc<CampaignSnapshot> {
    let spare = snapshot.edge.versions.len().saturating_sub(VERSIONS_KEPT_MAX);
    if spare == 0 {
        return snapshot.clone();
    }
    let mut shorter = CampaignSnapshot::clone(snapshot);
    shorter.edge.versions.drain(..spare);
    Arc::new(shorter)
}

/// Reports rows of a campaign that have vanished.
fn vanished(campaign: &CampaignId, detail: &str) -> ReadError {
    metrics::violation(Invariant::StopRatherThanLie);
    tracing::error!(summed = true, %campaign, detail, "rows of a campaign vanished");
    ReadError::Contradiction(format!("rows of {campaign} vanished: {detail}"))
}

/// Reports a version row whose digest does not match.
fn altered(campaign: &CampaignId, offset: Offset) -> ReadError {
    metrics::violation(Invariant::StopRatherThanLie);
    tracing::error!(summed = true, %campaign, offset, "definition version does not match its digest");
    let reason = format!("the definition version of {campaign} at {offset} was altered");
    ReadError::Contradiction(reason)
}
