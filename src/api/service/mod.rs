//! What an API node does: admits requests, appends them, waits for decisions, and answers any
//! request id, from the feed or from the store. A shell around `answer`, which is pure.
//!
//! Waiters wakes waiters · campaigns and partitions share reads of the store · issue, find, views
//! and admin are the calls · health tells what is not ready.

mod admin;
mod campaigns;
mod decided;
mod find;
mod health;
mod issue;
pub mod model;
mod partitions;
mod tasks;
mod views;
mod waiters;

use std::{
    error::Error,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use tokio::sync::Semaphore;

use self::{
    campaigns::Campaigns,
    health::Health,
    model::{AdminView, CampaignView, Command, Found, NotReady, Refused, Service, Taken},
    partitions::Partitions,
    tasks::Tasks,
    waiters::Waiters,
};
use crate::{
    answer::{Moment, rate::RateTable, request_id::RequestIds},
    clock::SharedClock,
    config::{AdmissionConfig, ApiConfig},
    domain::{
        answer::CouponFace,
        definition::Terms,
        ids::{CampaignId, Timestamp, UserId},
        keys::Keys,
        record::Request,
    },
    feed::DecisionFeed,
    log::RequestLog,
    partition::actor_view::ActorViews,
    store::{CouponStore, Layout},
    telemetry::Chain,
    wire::codec::Codec,
};

/// Longest that one read of the store may take before it counts as failed: below the 5 s in which
/// the admin listener answers.
const STORE_TIMEOUT: Duration = Duration::from_secs(2);

/// Reads of coupons at once: after lost feed messages every waiter asks the store, and the
/// owner's writes must not wait behind them.
const COUPON_READS_MAX: usize = 64;

/// Admin calls at once; each may hold a waiter's place beside the clients'.
const ADMIN_CALLS_MAX: usize = 64;

/// Tables over which users are spread, so that two requests rarely meet at one lock.
const RATE_TABLES: usize = 16;

/// Says why no record is taken for want of space, if so. Asks the disk, which may take its time.
pub type Space = Arc<dyn Fn() -> Option<String> + Send + Sync>;

/// Everything that a service is made of.
pub struct ServiceParts {
    /// The request log.
    pub log: Arc<dyn RequestLog>,
    /// The coupon store.
    pub store: Arc<dyn CouponStore>,
    /// The decision feed.
    pub feed: Arc<dyn DecisionFeed>,
    /// Encodes records; knows the partition of a campaign.
    pub codec: Codec,
    /// The instance's keys.
    pub keys: Arc<Keys>,
    /// The layout in force.
    pub layout: Layout,
    /// `api.*`
    pub api: ApiConfig,
    /// `admission.*`
    pub admission: AdmissionConfig,
    /// Says why the log takes no records for want of space, where that can be.
    pub space: Option<Space>,
    /// This node's actors.
    pub actors: Arc<dyn ActorViews>,
    /// Time.
    pub clock: SharedClock,
}

/// The service of a node: the one implementation of [`Service`] that serves.
pub struct NodeService {
    log: Arc<dyn RequestLog>,
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
    admin_calls: Semaphore,
    waiters: Arc<Waiters>,
    partitions: Arc<Partitions>,
    campaigns: Arc<Campaigns>,
    health: Arc<Health>,
    tasks: Arc<Tasks>,
}

impl NodeService {
    /// A service that does nothing by itself until [`Self::start`].
    #[must_use]
    pub fn new(parts: ServiceParts) -> Self {
        let ServiceParts { log, store, feed, codec, keys, layout, .. } = parts;
        let ServiceParts { api, admission, space, actors, clock, .. } = parts;
        let clock = NodeClock { started: clock.instant(), clock };
        let Layout { log_epoch, partitions: count, .. } = layout;
        let tasks = Arc::new(Tasks::default());
        let waiters = Arc::new(Waiters::new(clock.clone(), log_epoch, count, api.waiters_max));
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
        Self {
            ids: RequestIds::new(keys.clone(), &layout.instance),
            rates: std::array::from_fn(|_| {
                Mutex::new(RateTable::new(admission.user_rate, admission.user_burst))
            }),
            appends: Semaphore::new(admission.inflight_max.min(Semaphore::MAX_PERMITS)),
            coupon_reads: Semaphore::new(COUPON_READS_MAX),
            admin_calls: Semaphore::new(ADMIN_CALLS_MAX),
            health: Arc::new(Health::new(log.clone(), store.clone(), space, clock.clone(), count)),
            log,
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

    /// Follows the feed and looks after log and store, until the service is shut down or dropped.
    /// Both tasks start again after a panic, and what they don't do meanwhile
    /// [`Service::not_ready`] tells. To be called once, within a tokio runtime.
    pub fn start(&self) {
        let (waiters, feed) = (self.waiters.clone(), self.feed.clone());
        self.tasks.keep("follow the decision feed", move || waiters.clone().follow(feed.clone()));
        let health = self.health.clone();
        self.tasks.keep("probe log and store", move || health.clone().probe());
    }

    /// Ends what [`Self::start`] began and every read under way. Whoever waits for a decision is
    /// told at once that it is pending.
    pub async fn shut_down(&self) {
        self.tasks.end().await;
    }
}

#[async_trait]
impl Service for NodeService {
    async fn issue(&self, request: Request, wait: Option<Duration>) -> Result<Taken, Refused> {
        self.take(request, wait.unwrap_or_default()).await
    }

    async fn find(&self, request_id: &str, wait: Duration) -> Result<Found, Refused> {
        self.answer_id(request_id, wait).await
    }

    async fn campaign(&self, campaign: &CampaignId) -> Result<CampaignView, Refused> {
        self.view(campaign).await
    }

    async fn campaigns(
        &self,
        after: Option<&CampaignId>,
        limit: usize,
    ) -> Result<Vec<CampaignView>, Refused> {
        self.listing(after, limit).await
    }

    async fn coupons_of(
        &self,
        campaign: &CampaignId,
        user: &UserId,
    ) -> Result<Vec<CouponFace>, Refused> {
        self.faces_of(campaign, user).await
    }

    async fn define(
        &self,
        campaign: CampaignId,
        terms: Terms,
    ) -> Result<(bool, CampaignView), Refused> {
        self.define_within(campaign, terms).await
    }

    async fn command(
        &self,
        campaign: &CampaignId,
        command: Command,
    ) -> Result<CampaignView, Refused> {
        self.command_within(campaign, command).await
    }

    async fn release(&self, campaign: &CampaignId) -> Result<CampaignView, Refused> {
        self.release_within(campaign).await
    }

    async fn admin_view(&self, campaign: &CampaignId) -> Result<AdminView, Refused> {
        let view = self.view_now(campaign).await?;
        Ok(AdminView { view, actor: self.actors.view(campaign) })
    }

    fn not_ready(&self) -> Vec<NotReady> {
        self.health.not_ready(&self.waiters)
    }
}

/// The node's clock, counting from when its service was made.
#[derive(Clone)]
struct NodeClock {
    clock: SharedClock,
    started: Instant,
}

impl NodeClock {
    fn now(&self) -> Moment {
        self.clock.instant().saturating_duration_since(self.started)
    }

    fn wall(&self) -> Timestamp {
        self.clock.now()
    }
}

impl std::fmt::Debug for NodeClock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeClock").finish_non_exhaustive()
    }
}

/// Why a read gave nothing; shared by all who waited for it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Failure {
    /// The store did not answer.
    Store(String),
    /// What it answered can't be.
    Contradiction(String),
    /// Too many reads are under way.
    Crowded,
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Store(detail) => Self::Unavailable { detail },
            Failure::Contradiction(reason) => Self::Halted { reason },
            Failure::Crowded => Self::Overloaded {
                detail: "too many reads of campaigns are under way".to_owned(),
                retry_after: issue::RETRY_AFTER,
            },
        }
    }
}

/// An error with its causes, as one line.
fn chain(error: &dyn Error) -> String {
    Chain(error).to_string()
}

#[cfg(test)]
mod tests;
