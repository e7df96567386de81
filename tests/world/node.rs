//! The node of a world: the real supervisor and its actors.

use std::{
    collections::BTreeSet,
    sync::{Arc, Weak},
    time::Duration,
};

use coupond::{
    actors::{Directory, Environment, Shared, messages::SupervisorMessage, supervisor::Supervisor},
    clock::{Clock, SharedClock},
    domain::{
        definition::Terms,
        ids::{CampaignId, IdempotencyKey, Partition, Timestamp, UserId},
        keys::Keys,
        record::{Change, Control, Record, Request},
    },
    log::Ownership,
    partition::actor_view::ActorViews,
    wire::codec::Codec,
};
use ractor::{Actor, ActorRef};
use tokio::{runtime::Handle, task::JoinHandle};

use super::{
    Random, TestClock,
    faults::{Faults, Plan, unexpected_panics},
    feed::FakeFeed,
    judge::Truth,
    log::FakeLog,
    store::FakeStore,
};

/// Limit in virtual time until everything is settled after the last fault.
const SETTLE_MAX: Duration = Duration::from_secs(120);

/// Tasks of an idle node: the supervisor and its census.
const TASKS_OF_NODE: usize = 2;

/// Tasks of an idle partition: consumer, ticker, publisher, reader and writer of dead letters.
const TASKS_OF_PARTITION: usize = 5;

struct Alive {
    supervisor: ActorRef<SupervisorMessage>,
    ended: JoinHandle<()>,
    directory: Arc<Directory>,
    environment: Weak<Environment>,
}

/// A node with its log, store, feed and faults.
pub(crate) struct NodeWorld {
    pub(crate) truth: Arc<Truth>,
    pub(crate) faults: Arc<Faults>,
    pub(crate) random: Random,
    pub(crate) partitions: u32,
    pub(crate) log: Arc<FakeLog>,
    pub(crate) codec: Codec,
    store: Arc<FakeStore>,
    pub(crate) keys: Arc<Keys>,
    clock: Arc<TestClock>,
    campaigns: BTreeSet<CampaignId>,
    /// How often a supervisor was started.
    starts: u64,
    /// How often the test killed a supervisor.
    kills: u64,
    alive: Option<Alive>,
}

impl NodeWorld {
    /// Starts a node that owns all of `partitions`.
    pub(crate) async fn start(seed: u64, partitions: u32, plan: Plan) -> Self {
        let keys = Arc::new(Keys::derive(b"a secret of thirty-two bytes or more"));
        let truth = Arc::new(Truth::new(partitions, keys.clone()));
        let faults = Arc::new(Faults::new(seed, plan));
        let codec = Codec::new(keys.clone(), 1, partitions);
        let mut world = Self {
            random: Random(seed ^ 0x5EED),
            partitions,
            log: Arc::new(FakeLog::new(truth.clone(), faults.clone(), codec.clone())),
            store: Arc::new(FakeStore::new(truth.clone(), faults.clone())),
            codec,
            keys,
            clock: Arc::new(TestClock(tokio::time::Instant::now())),
            campaigns: BTreeSet::new(),
            starts: 0,
            kills: 0,
            alive: None,
            truth,
            faults,
        };
        world.ensure_running().await;
        world
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Starts the node again if its supervisor has ended, as a service manager does.
    pub(crate) async fn ensure_running(&mut self) {
        if self.alive.as_ref().is_some_and(|alive| !alive.ended.is_finished()) {
            return;
        }
        self.kill().await;
        self.starts += 1;
        let clock: SharedClock = self.clock.clone();
        let directory = Arc::new(Directory::new(self.codec.clone()));
        let environment = Arc::new(Environment {
            log: self.log.clone(),
            store: self.store.clone(),
            feed: Arc::new(FakeFeed { truth: self.truth.clone(), faults: self.faults.clone() }),
            codec: self.codec.clone(),
            keys: self.keys.clone(),
            log_epoch: 1,
            future_max_ms: None,
            limits: coupond::partition::flow::Limits::default(),
            directory: directory.clone(),
            shared: Shared::new(&clock).with_probe(self.faults.clone()),
            clock,
        });
        let watched = Arc::downgrade(&environment);
        let started = Actor::spawn(None, Supervisor, environment).await;
        let (supervisor, ended) = started.expect("its start has no fault point");
        self.alive = Some(Alive { supervisor, ended, directory, environment: watched });
        for partition in 0..self.partitions {
            self.send(SupervisorMessage::Ownership(Ownership::Assigned(partition)));
        }
    }

    pub(crate) fn send(&self, message: SupervisorMessage) {
        if let Some(alive) = &self.alive {
            // Fails if the supervisor has ended. `ensure_running` starts another one.
            let _ended = alive.supervisor.cast(message);
        }
    }

    /// Returns the supervisor, for calls.
    pub(crate) fn supervisor(&self) -> &ActorRef<SupervisorMessage> {
        &self.alive.as_ref().expect("a node that runs").supervisor
    }

    pub(crate) fn revoke(&self, partition: Partition) {
        self.send(SupervisorMessage::Ownership(Ownership::Revoked(partition)));
    }

    pub(crate) fn assign(&self, partition: Partition) {
        self.send(SupervisorMessage::Ownership(Ownership::Assigned(partition)));
    }

    /// Returns the state of a campaign's actor.
    pub(crate) fn state(&self, campaign: &CampaignId) -> &'static str {
        self.alive.as_ref().map_or("down", |alive| alive.directory.view(campaign).state)
    }

    /// Returns why a campaign's actor last stopped deciding.
    pub(crate) fn reason(&self, campaign: &CampaignId) -> Option<String> {
        self.alive.as_ref().and_then(|alive| alive.directory.view(campaign).reason)
    }

    /// Kills the supervisor, and checks that no task and no handle outlives it.
    pub(crate) async fn kill(&mut self) {
        let Some(alive) = self.alive.take() else { return };
        self.kills += u64::from(!alive.ended.is_finished());
        alive.supervisor.kill();
        let _panicked = alive.ended.await;
        drop(alive.supervisor);
        // Paused time advances only when no task can run any more.
        tokio::time::sleep(Duration::from_millis(1)).await;
        let tasks = Handle::current().metrics().num_alive_tasks();
        let mut facts = self.truth.facts();
        if tasks > 0 {
            facts.violation(format!("leak: {tasks} tasks outlive their supervisor"));
        }
        if alive.environment.strong_count() > 0 {
            facts.violation("leak: the environment is still referenced".to_owned());
        }
    }

    pub(crate) fn append(&mut self, record: &Record) {
        let hole = self.random.below(8) / 7;
        let _ = self.campaigns.insert(record.campaign().clone());
        self.log.append_record(record, self.clock.now(), hole);
    }

    pub(crate) fn define(&mut self, campaign: &CampaignId, quota: u32, per_user_limit: u16) {
        self.define_until(campaign, quota, per_user_limit, None);
    }

    pub(crate) fn define_until(
        &mut self,
        campaign: &CampaignId,
        quota: u32,
        per_user_limit: u16,
        closes_at: Option<Timestamp>,
    ) {
        let terms = Terms { per_user_limit, closes_at, ..Terms::of(quota) };
        self.change(campaign, Change::Defined { terms });
    }

    /// Appends a control record made from the definition version in effect.
    pub(crate) fn change(&mut self, campaign: &CampaignId, change: Change) {
        let based_on = self.truth.facts().model.version(campaign);
        let control = Control { campaign: campaign.clone(), based_on, change };
        self.append(&Record::from(control));
    }

    pub(crate) fn request(&mut self, campaign: &CampaignId, user: u64) {
        self.request_with_key(campaign, user, None);
    }

    pub(crate) fn request_with_key(&mut self, campaign: &CampaignId, user: u64, key: Option<u64>) {
        let user = UserId::parse(&format!("u{user}")).expect("an id");
        let key = key.map(|key| IdempotencyKey::parse(&format!("k{key}")).expect("a key"));
        let request = Request { campaign: campaign.clone(), user, idempotency_key: key };
        self.append(&Record::Request(request));
    }

    /// Appends a request as a foreign producer writes it: with other spacing and without a MAC.
    pub(crate) fn request_foreign(&mut self, campaign: &CampaignId, user: u64, bytes: usize) {
        let _ = self.campaigns.insert(campaign.clone());
        let user = UserId::parse(&format!("u{user}")).expect("an id");
        let request = Request { campaign: campaign.clone(), user, idempotency_key: None };
        self.log.append_foreign(request, bytes, self.clock.now());
    }

    /// Lets virtual time pass, and starts the node again if it has ended.
    pub(crate) async fn wait_ms(&mut self, milliseconds: u64) {
        tokio::time::sleep(Duration::from_millis(milliseconds)).await;
        self.ensure_running().await;
    }

    /// Waits until `done` holds. Records a violation and returns false if that takes too long.
    pub(crate) async fn until(&mut self, what: &str, mut done: impl FnMut(&Self) -> bool) -> bool {
        let begun = tokio::time::Instant::now();
        while !done(self) {
            if begun.elapsed() > SETTLE_MAX {
                let facts = self.truth.clone();
                let mut facts = facts.facts();
                let ends: Vec<_> = facts.parts.iter().map(|part| part.end()).collect();
                let nexts: Vec<_> = (0..ends.len()).map(|part| facts.next(part)).collect();
                let held = facts.holds_in_force();
                facts
                    .violation(format!("INV-10: not {what}: {nexts:?} of {ends:?}, held {held:?}"));
                return false;
            }
            self.wait_ms(20).await;
        }
        true
    }

    /// Waits until progress reaches the end of the log.
    pub(crate) async fn passed(&mut self) -> bool {
        self.until("passed", |world| {
            let facts = world.truth.facts();
            (0..facts.parts.len()).all(|part| facts.next(part) == facts.parts[part].end())
        })
        .await
    }

    /// Ends all faults, releases all holds and waits until everything is settled.
    pub(crate) async fn settle(&mut self) {
        self.faults.heal();
        if !self.passed().await {
            return;
        }
        let held = self.truth.facts().holds_in_force();
        for campaign in held {
            self.change(&campaign, Change::Released);
        }
        self.until("settled", |world| world.truth.facts().is_settled()).await;
    }

    /// Waits until only the tasks of an idle node are left.
    pub(crate) async fn rest(&mut self) {
        let campaigns = self.campaigns.clone();
        let partitions = self.partitions as usize;
        self.until("at rest", |world| {
            let live = campaigns.iter().filter(|campaign| world.state(campaign) == "live").count();
            let expected = TASKS_OF_NODE + TASKS_OF_PARTITION * partitions + live;
            Handle::current().metrics().num_alive_tasks() == expected
        })
        .await;
    }

    /// Ends the story: settles everything, checks the end state, stops the node and returns all
    /// violations.
    pub(crate) async fn end(mut self) -> Vec<String> {
        self.settle().await;
        self.rest().await;
        self.truth.facts().check_end();
        self.kill().await;
        let panicked = |((part, _), (_, panics)): (&(&str, &str), &(u64, u64))| {
            if *part == "supervisor" { *panics } else { 0 }
        };
        let injected: u64 = self.faults.places().iter().map(panicked).sum();
        let mut violations = self.truth.facts().violations().to_vec();
        if self.starts > injected + self.kills {
            violations.push(format!("the supervisor ended {} times", self.starts - 1));
        }
        violations.extend(unexpected_panics());
        violations
    }
}
