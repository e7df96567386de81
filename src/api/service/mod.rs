//! The application service of a node: admits and appends requests, waits for their decisions, and
//! answers request ids from the feed or from the store. A shell around `answer`, which is pure.
//!
//! `interface` declares the calls; `issue`, `find`, `show`, `change`, `changes`, `skip` and `health` implement one
//! trait each. `wait` and `waiters` wait for decisions. `campaigns`, `listing`, `partitions` and `row_check`
//! share reads of the store between callers.

mod campaigns;
mod change;
mod changes;
mod find;
mod health;
mod interface;
mod issue;
mod listing;
mod load;
mod partitions;
mod row_check;
mod show;
mod skip;
mod tasks;
mod told;
mod wait;
mod waiters;

use std::{
    error::Error,
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use lru::LruCache;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

pub(crate) use self::interface::{
    AdminView, Basis, CampaignList, CampaignView, ChangeCampaigns, ChangePage, Changed,
    ControlVerb, FindRequests, Freshen, IssueCoupons, NotReady, ReportHealth, RequestStatus,
    SKIP_REASON_MAX, Service, ServiceError, ShowCampaigns, SkipRanges, UserCoupons,
};
#[cfg(test)]
pub(crate) use self::interface::{CampaignState, IssueReply, ListChanges, RequestView};
use self::{
    campaigns::Campaigns,
    health::Health,
    listing::{Listing, Viewer},
    partitions::Partitions,
    row_check::RowChecks,
    tasks::Tasks,
    told::Told,
    waiters::Waiters,
};
pub(crate) use self::{
    campaigns::SNAPSHOTS_BYTES,
    listing::{LIST_MAX, LISTED_BYTES},
};
use crate::{
    answer::{
        Moment,
        follower::RECENT_DECISIONS_MAX,
        rate::{self, RateTable},
        request_id::RequestIds,
    },
    clock::{SharedClock, Ticks, TimedOut},
    config::{AdmissionConfig, ApiConfig},
    domain::{
        ids::{CampaignId, Offset, Sequence, Timestamp},
        keys::Keys,
    },
    feed::{DecisionFeed, HeardGenerations},
    log::{LocalLog, RequestLog},
    partition::actor_view::ActorViews,
    store::{CouponStore, Layout},
    telemetry::Chain,
    wire::codec::Codec,
};

/// Longest read of the store. Shorter than the 5 s in which the admin listener answers, so that an
/// admin call can report the failed read.
const STORE_TIMEOUT: Duration = Duration::from_secs(2);

/// Reads of coupons at once. After a gap in the feed every waiter reads the store; the owner's
/// writes must not queue behind them.
const COUPON_READS_MAX: usize = 64;

/// Proofs kept that a campaign was sold out: as many as campaigns that a node remembers.
const SOLD_OUT_MAX: NonZeroUsize = NonZeroUsize::new(10_000).unwrap();

/// Admin calls at once. Each may hold a reserved waiter's place.
const ADMIN_CALLS_MAX: usize = 64;

/// Tables of the user rate limit. Several, so that requests rarely contend for one lock.
const RATE_TABLES: usize = 16;

/// All of these tables.
pub(crate) const RATES_BYTES: usize = RATE_TABLES * rate::TABLE_BYTES;

/// What a service keeps at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ServiceBounds {
    /// Campaigns of the list.
    pub(crate) listed: usize,
    /// Decisions that are remembered.
    pub(crate) decisions: usize,
}

impl Default for ServiceBounds {
    fn default() -> Self {
        Self { listed: LIST_MAX, decisions: RECENT_DECISIONS_MAX }
    }
}

/// Returns why the consumer group gives this node no partitions, if it says so.
pub(crate) type GroupCheck = Arc<dyn Fn() -> Option<String> + Send + Sync>;

/// What a [`NodeService`] is built from.
pub(crate) struct ServiceParts {
    /// The request log.
    pub log: Arc<dyn RequestLog>,
    /// The coupon store.
    pub store: Arc<dyn CouponStore>,
    /// The decision feed.
    pub feed: Arc<dyn DecisionFeed>,
    /// Encodes records and routes campaigns to partitions.
    pub codec: Codec,
    /// The instance's keys.
    pub keys: Arc<Keys>,
    /// The layout in force.
    pub layout: Layout,
    /// The settings under `api`.
    pub api: ApiConfig,
    /// The settings under `admission`.
    pub admission: AdmissionConfig,
    /// The log, where it is on this node's disk.
    pub local_log: Option<Arc<dyn LocalLog>>,
    /// Checks the consumer group, where there is one.
    pub group_check: Option<GroupCheck>,
    /// The actors of this node.
    pub actors: Arc<dyn ActorViews>,
    /// Raised to the generations that the feed shows.
    pub generations: Arc<HeardGenerations>,
    /// The clock of this node.
    pub clock: SharedClock,
    /// What is kept at most.
    pub bounds: ServiceBounds,
}

/// The implementation of [`Service`] on the ports of a node.
pub(crate) struct NodeService {
    log: Arc<dyn RequestLog>,
    local_log: Option<Arc<dyn LocalLog>>,
    store: Arc<dyn CouponStore>,
    feed: Arc<dyn DecisionFeed>,
    codec: Codec,
    keys: Arc<Keys>,
    log_epoch: u32,
    api: ApiConfig,
    admission: AdmissionConfig,
    actors: Arc<dyn ActorViews>,
    clock: NodeClock,
    ids: RequestIds,
    rates: [Mutex<RateTable>; RATE_TABLES],
    appends: Semaphore,
    coupon_reads: Semaphore,
    /// By campaign and quota: the offset of the coupon that used the quota up. It never changes.
    sold_out_at: Mutex<LruCache<(CampaignId, Sequence), Offset>>,
    told: Told,
    admin_calls: Semaphore,
    waiters: Arc<Waiters>,
    partitions: Arc<Partitions>,
    campaigns: Arc<Campaigns>,
    listing: Listing,
    viewer: Viewer,
    health: Arc<Health>,
    /// Whether the node is being stopped.
    is_leaving: AtomicBool,
    row_checks: RowChecks,
    group_check: Option<GroupCheck>,
    tasks: Arc<Tasks>,
}

impl NodeService {
    /// Builds a service. Its background tasks run after [`Self::start`].
    #[must_use]
    pub(crate) fn new(parts: ServiceParts) -> Self {
        let ServiceParts { log, store, feed, codec, keys, layout, .. } = parts;
        let ServiceParts { api, admission, local_log, group_check, actors, clock, .. } = parts;
        let clock = NodeClock { started: clock.boot(), clock };
        let Layout { log_epoch, partitions: count, .. } = layout;
        let tasks = Arc::new(Tasks::new(clock.clone()));
        let waiters = Arc::new(Waiters::new(
            clock.clone(),
            (log_epoch, count),
            (api.waiters_max, parts.bounds.decisions),
            parts.generations,
        ));
        let partitions = Arc::new(Partitions::new(store.clone(), clock.clone(), log_epoch, count));
        let campaigns = Arc::new(Campaigns::new(campaigns::Parts {
            store: store.clone(),
            codec: codec.clone(),
            keys: keys.clone(),
            clock: clock.clone(),
            waiters: waiters.clone(),
            partitions: partitions.clone(),
            tasks: tasks.clone(),
        }));
        let viewer = Viewer {
            clock: clock.clone(),
            codec: codec.clone(),
            log_epoch,
            campaigns: campaigns.clone(),
        };
        let listed = listing::Parts {
            store: store.clone(),
            viewer: viewer.clone(),
            listed: parts.bounds.listed,
        };
        Self {
            listing: Listing::new(listed, tasks.clone()),
            viewer,
            ids: RequestIds::new(&keys, &layout.instance),
            rates: std::array::from_fn(|_| {
                Mutex::new(RateTable::new(admission.user_rate, admission.user_burst))
            }),
            appends: Semaphore::new(admission.inflight_max.min(Semaphore::MAX_PERMITS)),
            coupon_reads: Semaphore::new(COUPON_READS_MAX),
            sold_out_at: Mutex::new(LruCache::new(SOLD_OUT_MAX)),
            told: Told::new(store.views_are_one()),
            admin_calls: Semaphore::new(ADMIN_CALLS_MAX),
            health: Arc::new(Health::new(
                log.clone(),
                store.clone(),
                local_log.clone(),
                clock.clone(),
                count,
            )),
            is_leaving: AtomicBool::new(false),
            row_checks: RowChecks::default(),
            group_check,
            log,
            local_log,
            store,
            feed,
            codec,
            keys,
            log_epoch,
            api,
            admission,
            actors,
            clock,
            waiters,
            partitions,
            campaigns,
            tasks,
        }
    }

    /// Starts following the feed and probing log and store, until the service is shut down or
    /// dropped. Both tasks are restarted after a panic. Call this once, within a tokio runtime.
    pub(crate) fn start(&self) {
        let (waiters, feed) = (self.waiters.clone(), self.feed.clone());
        self.tasks.keep("follow the decision feed", move || waiters.clone().follow(feed.clone()));
        let health = self.health.clone();
        self.tasks.keep("probe log and store", move || health.clone().probe());
    }

    /// Says that the node is not ready any more, while everything is still answered.
    pub(crate) fn leave(&self) {
        self.is_leaving.store(true, Ordering::Relaxed);
    }

    /// Lets calls that wait for a decision return "pending" at once, from now on.
    pub(crate) fn stop_waiting(&self) {
        self.tasks.stop_waiting();
    }

    /// Ends the background tasks and all reads in flight. Calls that wait for a decision return
    /// "pending" at once.
    pub(crate) async fn shut_down(&self) {
        self.tasks.end().await;
    }
}

/// The clock of the node. Moments count from the start of the service, by the time since boot: what
/// was read before the machine was suspended is old afterwards.
#[derive(Clone)]
struct NodeClock {
    clock: SharedClock,
    started: Duration,
}

impl NodeClock {
    fn now(&self) -> Moment {
        self.clock.boot().saturating_sub(self.started)
    }

    fn wall(&self) -> Timestamp {
        self.clock.now()
    }

    async fn sleep(&self, time: Duration) {
        self.clock.sleep(time).await;
    }

    async fn sleep_until(&self, until: Moment) {
        self.clock.sleep(until.saturating_sub(self.now())).await;
    }

    async fn timeout<F: Future>(&self, time: Duration, work: F) -> Result<F::Output, TimedOut> {
        self.clock.timeout(time, work).await
    }

    /// Reads from store or log, for at most [`STORE_TIMEOUT`]. `what` says what is read.
    async fn read<T, E: Error>(
        &self,
        work: impl Future<Output = Result<T, E>>,
        what: impl FnOnce() -> String,
    ) -> Result<T, ReadError> {
        match self.timeout(STORE_TIMEOUT, work).await {
            Ok(read) => read.map_err(|error| ReadError::Store(chain(&error))),
            Err(_) => Err(ReadError::timed_out(what())),
        }
    }

    async fn timeout_at<F: Future>(&self, until: Moment, work: F) -> Result<F::Output, TimedOut> {
        self.clock.timeout(until.saturating_sub(self.now()), work).await
    }

    fn ticks(&self, every: Duration) -> Ticks {
        Ticks::new(self.clock.clone(), every)
    }
}

impl std::fmt::Debug for NodeClock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeClock").finish_non_exhaustive()
    }
}

/// Why a read failed. Shared by all callers that waited for the read.
#[derive(Debug, Clone, PartialEq, Eq)]
enum ReadError {
    /// The store did not answer.
    Store(String),
    /// The rows contradict each other or their digests.
    Contradiction(String),
    /// Too many loads of campaigns are in flight.
    TooManyLoads,
}

impl ReadError {
    /// Returns the error of a read that took longer than [`STORE_TIMEOUT`].
    fn timed_out(read: String) -> Self {
        Self::Store(format!("{read} took longer than {} s", STORE_TIMEOUT.as_secs()))
    }
}

impl From<ReadError> for ServiceError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Store(detail) => Self::Unavailable { detail },
            ReadError::Contradiction(reason) => Self::Halted { reason },
            ReadError::TooManyLoads => Self::Overloaded {
                detail: "too many reads of campaigns are in flight".to_owned(),
                retry_after: issue::RETRY_AFTER,
            },
        }
    }
}

/// Formats an error with its causes on one line.
fn chain(error: &dyn Error) -> String {
    Chain(error).to_string()
}

#[cfg(test)]
mod tests;
