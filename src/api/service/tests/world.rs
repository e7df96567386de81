//! The service of one node on ports in memory, with an owner that decides when the test says so.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use parking_lot::Mutex;

use super::{
    fakes::{FIRST_OFFSET, FakeFeed, FakeLog, FakeStore, TestClock},
    owner::Owner,
};
use crate::{
    answer::follower,
    api::service::{NodeService, ServiceParts},
    config::{AdmissionConfig, ApiConfig, Identity},
    domain::{
        definition::Terms,
        ids::{CampaignId, IdempotencyKey, Offset, Partition, UserId},
        keys::Keys,
        record::{Change, Control, Record, Request},
        rows::{Hold, HoldKind, HoldState, Progress, Row},
    },
    feed::DecisionFeed,
    log::RequestLog,
    partition::actor_view::{ActorView, ActorViews},
    store::{CouponStore, Layout},
    wire::{
        codec::Codec,
        feed_message::{FeedDecision, FeedMessage},
    },
};

pub(super) const EPOCH: u32 = 1;
pub(super) const PARTITIONS: u32 = 2;

/// How the owner settles its decisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Settle {
    /// Completely: rows, feed, marks and progress.
    All,
    /// Feed messages are lost; later messages have the watermark.
    FeedLost,
    /// Feed messages are lost, and progress is not durable yet.
    RowsAlone,
}

/// Reports every actor as live.
pub(super) struct LiveActors;

impl ActorViews for LiveActors {
    fn view(&self, _: &CampaignId) -> ActorView {
        ActorView { state: "live", reason: None }
    }
}

struct State {
    owner: Owner,
    /// Number of records that are decided, in the order of appends.
    decided: usize,
    watermarks: BTreeMap<Partition, Offset>,
}

pub(super) struct ServiceWorld {
    pub(super) log: Arc<FakeLog>,
    pub(super) store: Arc<FakeStore>,
    pub(super) feed: Arc<FakeFeed>,
    pub(super) service: Arc<NodeService>,
    pub(super) codec: Codec,
    keys: Arc<Keys>,
    clock: Arc<TestClock>,
    state: Mutex<State>,
}

impl ServiceWorld {
    /// Builds a world whose service has started and has heard of the owner.
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
        let owner = Owner::new(codec.clone(), keys.clone());
        let state = Mutex::new(State { owner, decided: 0, watermarks: BTreeMap::new() });
        let world = Arc::new(Self { log, store, feed, service, codec, keys, clock, state });
        world.service.start();
        world.heard().await;
        world
    }

    /// Starts the service of another node, which has heard of no owner yet.
    pub(super) async fn another_service(&self) -> Arc<NodeService> {
        let parts = parts(&self.log, &self.store, &self.feed, &self.keys, &self.clock, config());
        let service = Arc::new(NodeService::new(parts));
        service.start();
        until(|| service.waiters.is_followed()).await;
        service
    }

    /// Publishes the watermarks, and waits until the service has heard them.
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
        self.state.lock().watermarks.get(&partition).copied().unwrap_or(FIRST_OFFSET)
    }

    /// Decides every new record, and settles the decisions.
    pub(super) async fn decide(&self, settle: Settle) {
        let (mut rows, mut decisions) = (Vec::new(), Vec::new());
        {
            let mut state = self.state.lock();
            let State { owner, decided, watermarks } = &mut *state;
            for (partition, record) in self.log.records().drain(..).skip(*decided) {
                let (new_rows, new_decisions) = owner.decide(partition, &record);
                rows.extend(new_rows);
                decisions.extend(new_decisions.into_iter().map(|decision| (partition, decision)));
                watermarks.insert(partition, record.offset + 1);
                *decided += 1;
            }
        }
        self.store.write(&rows).await.unwrap();
        if settle == Settle::All {
            for (partition, decision) in decisions {
                self.publish(partition, vec![decision], None).await;
            }
            for partition in 0..PARTITIONS {
                self.publish(partition, Vec::new(), None).await;
            }
        }
        if settle != Settle::RowsAlone {
            self.make_progress().await;
        }
    }

    /// Writes marks, then progress.
    pub(super) async fn make_progress(&self) {
        let mut rows = self.state.lock().owner.marks(|partition| self.log.end(partition));
        for partition in 0..PARTITIONS {
            let next = self.watermark(partition);
            rows.push(Row::Progress(Progress { partition, log_epoch: EPOCH, next, last: None }));
        }
        self.store.write(&rows).await.unwrap();
    }

    /// Decides and settles every record from now on, until the returned guard is dropped.
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
        let based_on = self.state.lock().owner.version(campaign);
        let campaign = campaign.clone();
        self.append(&Record::from(Control { campaign, based_on, change })).await;
        self.decide(Settle::All).await;
    }

    /// Puts a campaign on hold from `from`. A closed hold covers up to the end of the log.
    pub(super) async fn hold(&self, campaign: &CampaignId, from: Offset, state: HoldState) {
        let end = self.log.end(self.codec.partition_of(campaign));
        let until = if state == HoldState::Closed { end } else { 0 };
        self.hold_until(campaign, (from, until), state).await;
    }

    /// Puts a campaign on hold, or closes its hold at `until`.
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
        actors: Arc::new(LiveActors),
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

/// Yields to other tasks until the condition holds.
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
        panic!("the condition of {from} never held");
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
