//! The service of one node in a world whose owner decides when the test says so.

use std::{ops::Deref, sync::Arc, time::Duration};

use tokio::task::JoinHandle;

use crate::{
    answer::follower,
    api::service::{IssueCoupons, IssueReply, NodeService, ServiceError, ServiceParts},
    domain::{
        coupon::Coupon,
        definition::Terms,
        ids::{CampaignId, IdempotencyKey, Offset, Partition, UserId},
        record::{Change, Control, Record, Request},
        rows::{Hold, HoldKind, HoldState, Row},
    },
    simulation::testing::{Fate, OwnedWorld, PARTITIONS, Settle},
};

pub(super) type Reply = Result<IssueReply, ServiceError>;

/// The fate of a call that gets no answer while a test runs.
pub(super) const HANGS: Fate = Fate::Slow { ms: 1_000_000 };

pub(super) struct ServiceWorld {
    world: OwnedWorld,
    pub(super) service: Arc<NodeService>,
}

impl Deref for ServiceWorld {
    type Target = OwnedWorld;

    fn deref(&self) -> &OwnedWorld {
        &self.world
    }
}

impl ServiceWorld {
    /// Builds a world whose service has started and has heard of the owner.
    pub(super) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    /// Builds a world with a campaign of ten coupons.
    pub(super) async fn with_spring() -> (Self, CampaignId) {
        Self::with_spring_of(10).await
    }

    pub(super) async fn with_spring_of(quota: u32) -> (Self, CampaignId) {
        let world = Self::new().await;
        let spring = world.defined("spring", |terms| terms.quota = quota).await;
        (world, spring)
    }

    pub(super) async fn with(configure: impl FnOnce(&mut ServiceParts)) -> Self {
        let world = OwnedWorld::start().await;
        let mut parts = world.parts();
        configure(&mut parts);
        let service = Arc::new(NodeService::new(parts));
        service.start();
        let world = Self { world, service };
        world.heard().await;
        world
    }

    /// Starts the service of another node, which has heard of no owner yet.
    pub(super) async fn another_service(&self) -> Arc<NodeService> {
        let service = Arc::new(NodeService::new(self.parts()));
        service.start();
        self.until(|| service.waiters.is_followed()).await;
        service
    }

    /// Asks the service in a task of its own.
    pub(super) fn asking(&self, asked: Request, wait: Option<Duration>) -> JoinHandle<Reply> {
        let service = self.service.clone();
        tokio::spawn(async move { service.issue(asked, wait).await })
    }

    /// Waits until the service has so many waiters.
    pub(super) async fn waiters(&self, count: usize) {
        self.until(|| self.service.waiters.waiters() == count).await;
    }

    /// Publishes the watermarks, and waits until the service has heard them.
    pub(super) async fn heard(&self) {
        self.until(|| self.service.waiters.is_followed()).await;
        for partition in 0..PARTITIONS {
            self.publish(partition, None).await;
        }
        self.until(|| {
            let heard = |of| self.service.waiters.watermark(of) >= Some(self.watermark(of));
            self.service.waiters.silent(follower::OWNER_SILENT_AFTER).is_empty()
                && (0..PARTITIONS).all(heard)
        })
        .await;
    }

    /// Tells the service that a partition is halted.
    pub(super) async fn halted(&self, partition: Partition, reason: &str) {
        self.publish(partition, Some(reason.to_owned())).await;
        self.until(|| self.service.waiters.lag(partition).is_err()).await;
    }

    /// Defines a campaign as another node would.
    pub(super) async fn defined(&self, id: &str, change: impl FnOnce(&mut Terms)) -> CampaignId {
        let mut terms = terms(10);
        change(&mut terms);
        let campaign = campaign(id);
        self.changed(&campaign, Change::Defined { terms }).await;
        campaign
    }

    /// Changes a campaign as another node would.
    pub(super) async fn changed(&self, campaign: &CampaignId, change: Change) {
        let based_on = self.version(campaign);
        self.append(&Record::from(Control::once("token", campaign.clone(), based_on, change)));
        self.decide(Settle::All).await;
    }

    /// Returns the latest stored version of a campaign.
    pub(super) fn version(&self, campaign: &CampaignId) -> Option<Offset> {
        let rows = self.rows();
        let versions = rows.versions.values().filter(|it| it.campaign == *campaign);
        versions.map(|version| version.position.offset).max()
    }

    /// Puts a campaign on hold from `from`. A closed hold covers up to the end of the log.
    pub(super) fn hold(&self, campaign: &CampaignId, from: Offset, state: HoldState) {
        let end = self.end(self.partition_of(campaign));
        let until = if state == HoldState::Closed { end } else { 0 };
        self.hold_until(campaign, (from, until), state);
    }

    /// Puts a campaign on hold, or closes its hold at `until`. The row is written by hand: a real
    /// owner would go on to the next state by itself.
    pub(super) fn hold_until(
        &self,
        campaign: &CampaignId,
        (from, until): (Offset, Offset),
        state: HoldState,
    ) {
        let (partition, reason) = (self.partition_of(campaign), "it failed".to_owned());
        let (campaign, kind, number) = (campaign.clone(), HoldKind::Failure, 1);
        let hold = Hold { campaign, partition, from, number, kind, reason, state, until };
        self.rows().apply(Row::Hold(hold));
    }

    /// Damages each coupon in both views.
    pub(super) fn damage_coupons(&self, damage: impl Fn(&mut Coupon)) {
        let mut rows = self.rows();
        rows.coupons.values_mut().for_each(&damage);
        rows.by_user.values_mut().for_each(&damage);
    }
}

pub(super) fn terms(quota: u32) -> Terms {
    Terms::of(quota)
}

pub(super) fn campaign(id: &str) -> CampaignId {
    CampaignId::parse(id).unwrap()
}

pub(super) fn user(id: &str) -> UserId {
    UserId::parse(id).unwrap()
}

pub(super) fn request(campaign: &CampaignId, user_id: &str) -> Request {
    Request { campaign: campaign.clone(), user: user(user_id), idempotency_key: None }
}

pub(super) fn keyed(campaign: &CampaignId, user_id: &str, key: &str) -> Request {
    let idempotency_key = Some(IdempotencyKey::parse(key).unwrap());
    Request { idempotency_key, ..request(campaign, user_id) }
}
