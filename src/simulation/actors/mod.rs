//! Stories of actors that fail, wait, hang, stop or end. A test chooses the acts as it goes; in the
//! end every fault is over, and the judge of all worlds decides.

mod by_user;
mod failures;
mod kept_back;
mod limits;
mod liveness;
mod lives;
mod panics;
mod repairs;
mod skips;
mod unreadable;

use std::{
    collections::BTreeSet,
    panic::{AssertUnwindSafe, catch_unwind},
};

use super::{
    act::{Act, Foreign},
    client::campaign_id,
    course::Setup,
    evidence::Damaged,
    judge,
    node::{Bounds, Engines, Node},
    panics as watch,
    story::Story,
    strange::{self, Written},
    world::World,
};
use crate::{
    actors::messages::SupervisorMessage,
    api::service::ReportHealth,
    domain::{
        definition::Terms,
        ids::{CampaignId, Offset, Partition, UserId},
        record::{Change, Control, Record},
        rows::Hold,
    },
    log::Ownership,
    partition::actor_view::ActorViews,
};

/// Longest time until what a test waits for has happened, in milliseconds.
const UNTIL_MS: u64 = 120_000;

/// Longest time in which a healthy campaign answers, in milliseconds.
const ANSWERED_MS: u64 = 30;

/// One node without faults, with the bounds of production.
fn calm(partitions: u32, campaigns: u8) -> Setup {
    Setup {
        seed: 1,
        is_embedded: false,
        nodes: 1,
        partitions,
        campaigns,
        users: 100,
        limits: Bounds {
            window_records: 16_384,
            batch_records: 1_024,
            progress_records: 1_000,
            progress_interval_ms: 100,
            idle_ms: 600_000,
            waiters: 10_000,
            lag: 500_000,
            user_burst: 10_000,
        },
        skew_ms: vec![0],
        drift_ppm: vec![0],
        restarts: false,
        probes: false,
    }
}

/// The same with a small window.
fn narrow(partitions: u32, campaigns: u8) -> Setup {
    let mut setup = calm(partitions, campaigns);
    (setup.limits.window_records, setup.limits.batch_records) = (64, 16);
    setup.limits.progress_records = 8;
    setup
}

/// A world whose acts a test chooses.
struct Stage {
    story: Story,
}

/// Plays a story to its end, and judges it.
fn play<F>(setup: Setup, story: impl FnOnce(Stage) -> F)
where
    F: Future<Output = Stage> + Send + 'static,
{
    watch::watch();
    let world = World::new(setup.seed, setup.nodes, false);
    let engines = Engines::new(setup);
    let told = story(Stage { story: Story::new(world.clone(), engines.clone()) });
    let ended = async move { told.await.story.end().await };
    let played = catch_unwind(AssertUnwindSafe(|| {
        let mut evidence = world.run(ended);
        let mut violations = std::mem::take(&mut evidence.violations);
        violations.extend(judge::judge(&engines, &evidence));
        violations
    }));
    // A failed assertion of the story is among the panics.
    let mut violations = watch::take();
    violations.extend(played.unwrap_or_default());
    assert_eq!(violations, []);
}

impl Stage {
    fn engines(&self) -> &Engines {
        &self.story.engines
    }

    fn node(&self) -> &Node {
        self.story.nodes[0].as_ref().expect("a node that lives")
    }

    fn now_ms(&self) -> u64 {
        self.story.world.now_us() / 1_000
    }

    async fn start(&mut self) {
        self.story.start_all().await;
    }

    async fn wait_ms(&mut self, ms: u64) {
        self.story.pass(self.story.world.now_us() + ms * 1_000).await;
    }

    /// Waits until `done` holds, and returns how many milliseconds that took.
    async fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) -> u64 {
        let begun = self.now_ms();
        while !done(self) {
            assert!(self.now_ms() < begun + UNTIL_MS, "not {what}");
            self.wait_ms(2).await;
        }
        self.now_ms() - begun
    }

    async fn act(&mut self, act: Act) {
        self.story.perform(act).await;
    }

    async fn crash(&mut self, campaign: u8) {
        self.act(Act::CrashActor { campaign }).await;
    }

    async fn curse(&mut self, campaign: u8) {
        self.act(Act::Curse { campaign, times: u32::MAX }).await;
    }

    fn append(&self, campaign: u8, written: Written) -> (Partition, Offset) {
        let partition = self.engines().codec.partition_of(&campaign_id(campaign));
        let mut brokers = self.engines().brokers.lock();
        (partition, brokers.append(&self.story.world, partition, written).offset)
    }

    /// Appends a control record, as a node does.
    fn control(&self, campaign: u8, change: Change) {
        let control = Control::once("token", campaign_id(campaign), None, change);
        let (_, record) = self.engines().codec.encode(&Record::from(control));
        self.append(campaign, record.into());
    }

    fn define(&self, campaign: u8, quota: u32) {
        self.control(campaign, Change::Defined { terms: Terms::of(quota) });
    }

    fn release(&self, campaign: u8) {
        let store = self.engines().rows.store.clone();
        let id = campaign_id(campaign);
        let holds = store.rows.lock().holds.clone();
        let named = holds.iter().filter(|hold| hold.campaign == id && hold.is_in_force());
        self.control(campaign, Change::Released { holds: named.map(Hold::name).collect() });
    }

    /// Appends a request.
    fn ask(&self, campaign: u8, user: u32) {
        let (engines, world) = (self.engines(), &self.story.world);
        let user = UserId::parse(&format!("user-{user}")).expect("a valid id");
        strange::append(engines, world, Foreign::Request, &campaign_id(campaign), &user);
    }

    fn assign(&self, partition: Partition) {
        let assigned = || SupervisorMessage::Ownership(Ownership::Assigned(partition));
        self.story.tell_supervisors(assigned);
    }

    fn revoke(&self, partition: Partition) {
        let revoked = || SupervisorMessage::Ownership(Ownership::Revoked(partition));
        self.story.tell_supervisors(revoked);
    }

    /// The state of a campaign's actor.
    fn state(&self, campaign: u8) -> &'static str {
        self.node().core.directory.view(&campaign_id(campaign)).state
    }

    /// Why a campaign's actor last stopped deciding.
    fn reason(&self, campaign: u8) -> String {
        self.node().core.directory.view(&campaign_id(campaign)).reason.unwrap_or_default()
    }

    /// What the node says is wrong and makes it no less ready.
    fn degraded(&self) -> Vec<String> {
        self.node().core.service.degraded().into_iter().map(|part| part.reason).collect()
    }

    /// Records of a campaign without a published decision.
    fn undecided(&self, campaign: u8) -> usize {
        let id = campaign_id(campaign);
        let partition = self.engines().codec.partition_of(&id);
        let topic = self.engines().topic.lock();
        let its = topic.published.iter().filter(|it| it.message.partition == partition);
        let decided: BTreeSet<Offset> =
            its.flat_map(|it| it.message.decisions.iter().map(|it| it.offset)).collect();
        let brokers = self.engines().brokers.lock();
        let records = brokers.partitions[partition as usize].records.values();
        let its = records.filter(|record| record.key == id.as_str().as_bytes());
        its.filter(|record| !decided.contains(&record.offset)).count()
    }

    /// Waits until every record of a campaign is decided, and returns the milliseconds.
    async fn answered(&mut self, campaign: u8) -> u64 {
        self.until("answered", |stage| stage.undecided(campaign) == 0).await
    }

    /// Whether durable progress is at the end of every partition.
    fn is_passed(&self) -> bool {
        let partitions = 0..self.engines().setup.partitions;
        partitions.into_iter().all(|partition| {
            let end = self.engines().brokers.lock().end(partition);
            let rows = self.engines().rows.store.rows.lock();
            rows.progress.get(&partition).map_or(0, |progress| progress.next) == end
        })
    }

    /// Durable progress of a partition.
    fn progress(&self, partition: Partition) -> Offset {
        let rows = self.engines().rows.store.rows.lock();
        rows.progress.get(&partition).map_or(0, |progress| progress.next)
    }

    async fn passed(&mut self) {
        self.until("passed", Self::is_passed).await;
    }

    /// Starts, defines a campaign of ten coupons, and waits until five users have theirs and progress has
    /// passed them.
    async fn five_decided(&mut self, campaign: u8) {
        self.start().await;
        self.define(campaign, 10);
        (1..=5).for_each(|user| self.ask(campaign, user));
        self.passed().await;
    }

    /// Whether a hold of the campaign is in force.
    fn is_held(&self, campaign: u8) -> bool {
        let rows = self.engines().rows.store.rows.lock();
        let id = campaign_id(campaign);
        rows.holds.iter().any(|hold| hold.campaign == id && hold.is_in_force())
    }

    /// The latest hold of a campaign.
    fn hold(&self, campaign: u8) -> Hold {
        let rows = self.engines().rows.store.rows.lock();
        let its = rows.holds.iter().filter(|hold| hold.campaign == campaign_id(campaign));
        its.max_by_key(|hold| hold.number).expect("it was on hold").clone()
    }

    fn by_user_rows(&self) -> usize {
        self.engines().rows.store.rows.lock().by_user.len()
    }

    fn coupons(&self, campaign: u8) -> usize {
        self.engines().rows.store.rows.lock().coupons_of(&campaign_id(campaign)).count()
    }

    /// Tells the judge that rows of a campaign were damaged by hand.
    fn damaged(&self, campaign: CampaignId) {
        self.story.clients.evidence.lock().damaged = Some(Damaged::Campaign(campaign));
    }
}
