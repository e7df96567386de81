//! One node's service on ports in memory, with an owner who decides when the test says so.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use parking_lot::Mutex;

use super::fakes::{FIRST_OFFSET, FakeFeed, FakeLog, FakeStore, TestClock};
use crate::{
    answer::follower,
    api::service::{NodeService, ServiceParts},
    config::{AdmissionConfig, ApiConfig, Identity},
    domain::{
        answer::{Answer, CouponFace},
        campaign::{At, Campaign},
        coupon::Coupon,
        decision::{Decision, DerivedRow, Outcome},
        definition::Terms,
        ids::{CampaignId, IdempotencyKey, Offset, Partition, UserId},
        keys::Keys,
        record::{Change, Control, Record, Request},
        rows::{Hold, HoldKind, HoldState, Mark, Progress, Row},
    },
    feed::DecisionFeed,
    log::RequestLog,
    partition::actor_view::{ActorView, ActorViews},
    store::{CouponStore, Layout},
    wire::{
        codec::{Codec, Decoded},
        feed_message::{FeedDecision, FeedMessage},
    },
};

pub(super) const EPOCH: u32 = 1;
pub(super) const PARTITIONS: u32 = 2;

/// How the owner settles what it decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Settle {
    /// Rows, feed, marks, progress: all that is promised.
    All,
    /// The feed's messages are lost; the watermark is told by the next ones.
    FeedLost,
    /// The feed's messages are lost and progress is not durable yet.
    RowsAlone,
}

/// Actors of whom nothing is known but that they live.
pub(super) struct NoActors;

impl ActorViews for NoActors {
    fn view(&self, _: &CampaignId) -> ActorView {
        ActorView { state: "live", reason: None }
    }
}

#[derive(Default)]
struct Owner {
    folds: BTreeMap<CampaignId, Campaign>,
    done: usize,
    watermarks: BTreeMap<Partition, Offset>,
}

pub(super) struct World {
    pub(super) log: Arc<FakeLog>,
    pub(super) store: Arc<FakeStore>,
    pub(super) feed: Arc<FakeFeed>,
    pub(super) service: Arc<NodeService>,
    pub(super) codec: Codec,
    keys: Arc<Keys>,
    clock: Arc<TestClock>,
    owner: Mutex<Owner>,
}

impl World {
    /// A world whose service has started and has heard of the owner.
    pub(super) async fn new() -> Arc<Self> {
        Self::with(|_, _| {}).await
    }

    pub(super) async fn with(
        configure: impl FnOnce(&mut ApiConfig, &mut AdmissionConfig),
    ) -> Arc<Self> {
        let clock = Arc::new(TestClock::new());
        let keys = Arc::new(Keys::derive(&[7; 32]));
        let codec = Codec::new(keys.clone(), EPOCH, PARTITIONS);
        let log = Arc::new(FakeLog::new(clock.clone(), PARTITIONS));
        let (store, feed) = (Arc::new(FakeStore::default()), Arc::new(FakeFeed::default()));
        let (mut api, mut admission) = config();
        configure(&mut api, &mut admission);
        let parts = parts(&log, &store, &feed, &keys, &clock, (api, admission));
        let service = Arc::new(NodeService::new(parts));
        let owner = Mutex::default();
        let world = Arc::new(Self { log, store, feed, service, codec, keys, clock, owner });
        world.service.start();
        world.heard().await;
        world
    }

    /// Another node's service on the same ports, which has heard nothing yet.
    pub(super) async fn another_service(&self) -> Arc<NodeService> {
        let parts = parts(&self.log, &self.store, &self.feed, &self.keys, &self.clock, config());
        let service = Arc::new(NodeService::new(parts));
        service.start();
        until(|| service.waiters.is_followed()).await;
        service
    }

    /// The owner says how far it is, and the service hears it.
    pub(super) async fn heard(&self) {
        until(|| self.service.waiters.is_followed()).await;
        for partition in 0..PARTITIONS {
            self.publish(partition, Vec::new(), None).await;
        }
        until(|| {
            let heard = |of| self.service.waiters.watermark(of) >= Some(self.watermark(of));
            self.service.waiters.silent(follower::OWNER_SILENT_AFTER).is_empty()
                && (0..PARTITIONS).all(heard)
        })
        .await;
    }

    pub(super) async fn halted(&self, partition: Partition, reason: &str) {
        self.publish(partition, Vec::new(), Some(reason.to_owned())).await;
        until(|| self.service.waiters.lag(partition).is_err()).await;
    }

    async fn publish(
        &self,
        partition: Partition,
        decisions: Vec<FeedDecision>,
        halted: Option<String>,
    ) {
        let to = self.watermark(partition);
        let end = self.log.end(partition);
        let message =
            FeedMessage { log_epoch: EPOCH, partition, from: 0, to, end, halted, decisions };
        self.feed.publish(message).await.unwrap();
    }

    pub(super) fn watermark(&self, partition: Partition) -> Offset {
        self.owner.lock().watermarks.get(&partition).copied().unwrap_or(FIRST_OFFSET)
    }

    /// The owner decides what is in the log and settles it.
    pub(super) async fn decide(&self, settle: Settle) {
        let (rows, decisions) = self.fold();
        self.store.write(&rows).await.unwrap();
        if settle == Settle::All {
            for (partition, settled) in decisions {
                self.publish(partition, vec![settled], None).await;
            }
            for partition in 0..PARTITIONS {
                self.publish(partition, Vec::new(), None).await;
            }
        }
        if settle != Settle::RowsAlone {
            self.make_progress().await;
        }
    }

    /// Marks, then progress.
    pub(super) async fn make_progress(&self) {
        let mut rows = Vec::new();
        for (campaign, fold) in &self.owner.lock().folds {
            let offset = self.log.end(self.codec.partition_of(campaign));
            let issued = fold.issued();
            rows.push(Row::Mark(Mark { campaign: campaign.clone(), offset, issued }));
        }
        for partition in 0..PARTITIONS {
            let next = self.watermark(partition);
            rows.push(Row::Progress(Progress { partition, log_epoch: EPOCH, next, last: None }));
        }
        self.store.write(&rows).await.unwrap();
    }

    fn fold(&self) -> (Vec<Row>, Vec<(Partition, FeedDecision)>) {
        let records = self.log.records();
        let mut owner = self.owner.lock();
        let owner = &mut *owner;
        let (mut rows, mut decisions) = (Vec::new(), Vec::new());
        for (partition, record) in &records[owner.done..] {
            owner.watermarks.insert(*partition, record.offset + 1);
            let Decoded::Record(decoded) = self.codec.decode(*partition, record) else {
                panic!("a record of the service's own")
            };
            let id = decoded.campaign().clone();
            let keys = self.keys.clone();
            let fold = owner
                .folds
                .entry(id.clone())
                .or_insert_with(|| Campaign::new(id.clone(), EPOCH, *partition, keys));
            let at = At { offset: record.offset, time: record.time };
            let Outcome::Decided { decision, row } = fold.fold(at, &decoded) else { continue };
            match row {
                Some(DerivedRow::Coupon(coupon)) => rows.push(Row::Coupon(coupon)),
                Some(DerivedRow::Version(version)) => rows.push(Row::Version(*version)),
                None => {}
            }
            let user_id = match &decoded {
                Record::Request(request) => Some(request.user.clone()),
                Record::Control(_) => None,
            };
            let answer = self.answer(&id, &rows, decision);
            let settled = FeedDecision { offset: record.offset, campaign_id: id, user_id, answer };
            decisions.push((*partition, settled));
        }
        owner.done = records.len();
        (rows, decisions)
    }

    fn answer(&self, campaign: &CampaignId, rows: &[Row], decision: Decision) -> Answer {
        let stored: Vec<Coupon> = self.store.rows().coupons_of(campaign).cloned().collect();
        let new = rows.iter().filter_map(|row| match row {
            Row::Coupon(coupon) if coupon.campaign == *campaign => Some(coupon.clone()),
            _ => None,
        });
        let coupons: Vec<Coupon> = stored.into_iter().chain(new).collect();
        let face = |sequence| {
            let coupon = coupons.iter().find(|coupon| coupon.sequence == sequence).unwrap();
            CouponFace { sequence, code: coupon.code.clone(), issued_at: coupon.issued_at }
        };
        match decision {
            Decision::Issued(held) => Answer::Issued { coupon: face(held.sequence) },
            Decision::AlreadyIssued(held) => Answer::AlreadyIssued { coupon: face(held.sequence) },
            Decision::Rejected(reason) => Answer::Rejected { reason },
            Decision::Accepted => Answer::Accepted,
            Decision::Refused(refusal) => Answer::Refused { refusal },
        }
    }

    /// An owner that settles whatever is appended, until the returned guard is dropped.
    pub(super) fn owner_at_work(self: &Arc<Self>, settle: Settle) -> AtWork {
        let world = self.clone();
        AtWork(tokio::spawn(async move {
            loop {
                world.decide(settle).await;
                world.log.appended.notified().await;
            }
        }))
    }

    /// Appends a record as another node would.
    pub(super) async fn append(&self, record: &Record) -> Offset {
        let (partition, new) = self.codec.encode(record);
        self.log.append(partition, new).await.unwrap().offset
    }

    /// Defines a campaign as another node would.
    pub(super) async fn defined(&self, id: &str, change: impl FnOnce(&mut Terms)) -> CampaignId {
        let mut terms = terms(10);
        change(&mut terms);
        let campaign = campaign(id);
        let change = Change::Defined { terms };
        let control = Control { campaign: campaign.clone(), based_on: None, change };
        self.append(&Record::from(control)).await;
        self.decide(Settle::All).await;
        campaign
    }

    /// Changes a campaign as another node would.
    pub(super) async fn changed(&self, campaign: &CampaignId, change: Change) {
        let based_on = self.owner.lock().folds[campaign].version();
        let campaign = campaign.clone();
        self.append(&Record::from(Control { campaign, based_on, change })).await;
        self.decide(Settle::All).await;
    }

    /// Puts a campaign on hold from `from`; a closed one was decided to the end of the log.
    pub(super) async fn hold(&self, campaign: &CampaignId, from: Offset, state: HoldState) {
        let end = self.log.end(self.codec.partition_of(campaign));
        let until = if state == HoldState::Closed { end } else { 0 };
        self.hold_until(campaign, (from, until), state).await;
    }

    /// Puts a campaign on hold, or closes its hold at an offset.
    pub(super) async fn hold_until(
        &self,
        campaign: &CampaignId,
        (from, until): (Offset, Offset),
        state: HoldState,
    ) {
        let hold = Hold {
            campaign: campaign.clone(),
            partition: self.codec.partition_of(campaign),
            from,
            number: 1,
            kind: HoldKind::Failure,
            reason: "it failed".to_owned(),
            state,
            until,
        };
        self.store.write(&[Row::Hold(hold)]).await.unwrap();
    }

    pub(super) fn store_away(&self, away: bool) {
        self.store.away.store(away, Ordering::Relaxed);
    }
}

/// Ends the owner's task.
pub(super) struct AtWork(tokio::task::JoinHandle<()>);

impl Drop for AtWork {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn parts(
    log: &Arc<FakeLog>,
    store: &Arc<FakeStore>,
    feed: &Arc<FakeFeed>,
    keys: &Arc<Keys>,
    clock: &Arc<TestClock>,
    (api, admission): (ApiConfig, AdmissionConfig),
) -> ServiceParts {
    ServiceParts {
        log: log.clone(),
        store: store.clone(),
        feed: feed.clone(),
        codec: Codec::new(keys.clone(), EPOCH, PARTITIONS),
        keys: keys.clone(),
        layout: Layout::new("instance".to_owned(), PARTITIONS, keys.fingerprint().to_owned()),
        api,
        admission,
        free_space: None,
        actors: Arc::new(NoActors),
        clock: clock.clone(),
    }
}

pub(super) fn config() -> (ApiConfig, AdmissionConfig) {
    let api = ApiConfig {
        listen: ([127, 0, 0, 1], 0).into(),
        identity: Identity::Trusted,
        trust_network: false,
        clock_margin: Duration::from_secs(1),
        waiters_max: 100,
    };
    let admission =
        AdmissionConfig { max_lag: 1_000, inflight_max: 100, user_rate: 100, user_burst: 200 };
    (api, admission)
}

/// Waits for a condition that tasks bring about.
#[track_caller]
pub(super) fn until(condition: impl Fn() -> bool) -> impl Future<Output = ()> {
    let from = std::panic::Location::caller();
    async move {
        for _ in 0..10_000 {
            if condition() {
                return;
            }
            tokio::task::yield_now().await;
        }
        panic!("the condition of {from} did not come about");
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
