//! What happens in a world: who asks for coupons, what operators change, and what goes wrong.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use parking_lot::Mutex;

use super::{
    judge::Told,
    link::Weather,
    node::{Engines, Node},
    world::{BEGIN_MS, Engine, World},
};
use crate::{
    actors::messages::SupervisorMessage,
    api::service::{
        ChangeCampaigns, ControlVerb, FindRequests, IssueCoupons, NodeService, RequestStatus,
    },
    domain::{
        definition::{Amendment, Terms},
        ids::{CampaignId, IdempotencyKey, Timestamp, UserId},
        record::Request,
    },
};

/// Nodes of a world.
pub(super) const NODES: usize = 3;

/// Partitions of its log.
pub(super) const PARTITIONS: u32 = 2;

const CAMPAIGNS: u64 = 4;
const USERS: u64 = 60;

/// Acts of a world, of which most are requests.
const ACTS: u64 = 500;

/// Time after which a world that has healed must be settled, in microseconds.
const SETTLED_WITHIN_US: u64 = 120_000_000;

/// Time until the members of the group notice a dead or paused one, in microseconds.
const SESSION_US: u64 = 3_000_000;

/// Everything that went on.
#[derive(Default)]
pub(super) struct Heard {
    pub(super) told: Vec<Told>,
    /// Acts by name.
    pub(super) acts: BTreeMap<&'static str, u64>,
    pub(super) violations: Vec<String>,
}

/// The story of a world.
pub(super) struct Story {
    pub(super) world: Arc<World>,
    pub(super) engines: Engines,
    heard: Arc<Mutex<Heard>>,
    nodes: Vec<Option<Node>>,
    campaigns: Vec<CampaignId>,
}

impl Story {
    pub(super) fn new(world: Arc<World>, engines: Engines) -> Self {
        let campaigns = (0..CAMPAIGNS).map(|number| id(&format!("campaign-{number}"))).collect();
        let nodes = (0..NODES).map(|_| None).collect();
        Self { world, engines, heard: Arc::default(), nodes, campaigns }
    }

    /// Runs the story to its end, when every node is dead.
    pub(super) async fn run(mut self, weather: Weather, faults: bool) -> Heard {
        for number in 0..NODES {
            self.start(number).await;
        }
        self.define_all().await;
        *self.engines.weather.lock() = weather;
        for _ in 0..ACTS {
            self.world.wait(self.world.below(60_000), None).await;
            match faults && self.world.one_in(6) {
                true => self.trouble().await,
                false => self.act().await,
            }
        }
        self.heal().await;
        self.settle().await;
        self.ask_all().await;
        for node in std::mem::take(&mut self.nodes).into_iter().flatten() {
            node.kill(&self.world).await;
        }
        let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
        let mut heard = std::mem::take(&mut *self.heard.lock());
        // The story itself is one.
        if tasks > 1 {
            heard.violations.push(format!("{} tasks outlive their nodes", tasks - 1));
        }
        heard
    }

    fn note(&self, act: &'static str) {
        *self.heard.lock().acts.entry(act).or_default() += 1;
    }

    fn violation(&self, what: String) {
        self.heard.lock().violations.push(what);
    }

    async fn start(&mut self, number: usize) {
        let skew_ms = self.world.below(401) as i64 - 200;
        let drift_ppm = self.world.below(401) as i64 - 200;
        let node = Node::start(&self.world, &self.engines, number, (skew_ms, drift_ppm));
        self.nodes[number] = Some(node.await);
    }

    async fn define_all(&mut self) {
        for campaign in self.campaigns.clone() {
            let quota = 20 + self.world.below(60) as u32;
            let per_user_limit = 1 + self.world.below(2) as u16;
            let terms = Terms { per_user_limit, ..Terms::of(quota) };
            let service = self.service();
            while let Err(error) = service.define(campaign.clone(), terms.clone()).await {
                self.world.trace(&error.to_string(), 0);
                self.world.wait(500_000, None).await;
            }
        }
    }

    /// Returns the service of any node that lives.
    fn service(&self) -> Arc<NodeService> {
        let alive: Vec<_> = self.nodes.iter().flatten().collect();
        alive[self.world.below(alive.len() as u64) as usize].core.service.clone()
    }

    fn any_campaign(&self) -> CampaignId {
        self.campaigns[self.world.below(CAMPAIGNS) as usize].clone()
    }

    async fn act(&mut self) {
        match self.world.below(40) {
            0 => self.change(),
            1..=10 => self.find(),
            _ => {
                for _ in 0..=self.world.below(3) {
                    self.ask();
                }
            }
        }
    }

    /// A client asks for a coupon, once more if it gets no answer.
    fn ask(&mut self) {
        self.note("issue");
        let user = format!("user-{}", self.world.below(USERS));
        let key = self.world.one_in(2).then(|| format!("key-{}", self.world.below(3)));
        let request = Request {
            campaign: self.any_campaign(),
            user: UserId::parse(&user).expect("a valid id"),
            idempotency_key: key.and_then(|key| IdempotencyKey::parse(&key).ok()),
        };
        let wait = self.world.one_in(2).then(|| Duration::from_millis(self.world.below(4_000)));
        let (world, heard) = (self.world.clone(), self.heard.clone());
        self.call(move |service| async move {
            for _ in 0..2 {
                if let Ok(reply) = service.issue(request.clone(), wait).await {
                    let (request_id, answer) = (reply.request_id, reply.answer);
                    tell(&world, &heard, Told { at: now(&world), request, request_id, answer });
                    return;
                }
            }
        });
    }

    /// A client asks again for the answer to its request, on any node.
    fn find(&mut self) {
        self.note("find");
        let asked = {
            let heard = self.heard.lock();
            let any = self.world.below(heard.told.len() as u64) as usize;
            heard.told.get(any).cloned()
        };
        let Some(asked) = asked else { return };
        let wait = Duration::from_millis(self.world.below(3_000));
        let (world, heard) = (self.world.clone(), self.heard.clone());
        self.call(move |service| async move {
            if let Ok(view) = service.find(&asked.request_id, wait).await {
                let answer = match view.status {
                    RequestStatus::Decided(answer) => Some(answer),
                    RequestStatus::Pending { .. } => None,
                };
                tell(&world, &heard, Told { at: now(&world), answer, ..asked });
            }
        });
    }

    /// An operator changes a campaign.
    fn change(&mut self) {
        self.note("change");
        let campaign = self.any_campaign();
        let quota = 10 + self.world.below(90) as u32;
        let drawn = self.world.below(6);
        self.call(move |service| async move {
            let amendment = Amendment { quota: Some(quota), ..Amendment::default() };
            let _changed = match drawn {
                0 => service.control(&campaign, ControlVerb::Pause).await,
                1..=3 => service.control(&campaign, ControlVerb::Resume).await,
                _ => service.amend(&campaign, amendment).await,
            };
        });
    }

    fn call<F>(&mut self, call: impl FnOnce(Arc<NodeService>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut alive: Vec<_> = self.nodes.iter_mut().flatten().collect();
        if alive.is_empty() {
            return;
        }
        let any = self.world.below(alive.len() as u64) as usize;
        let node = &mut alive[any];
        node.calls.spawn(call(node.core.service.clone()));
        while node.calls.try_join_next().is_some() {}
    }

    async fn trouble(&mut self) {
        let number = self.world.below(NODES as u64) as usize;
        match self.world.below(9) {
            0 | 1 => self.crash(number).await,
            2 | 3 => self.pause(number),
            4 => {
                self.note("partition moved");
                let partition = self.world.below(u64::from(PARTITIONS)) as u32;
                self.engines.brokers.lock().move_partition(&self.world, partition);
            }
            5 => {
                self.note("link cut");
                let engines = [Engine::Log, Engine::Store, Engine::Feed];
                let engine = engines[self.world.below(3) as usize];
                self.world.cut(number, engine, true);
                let (world, us) = (self.world.clone(), self.world.below(4_000_000));
                self.world.after(us, None, move || world.cut(number, engine, false));
            }
            6 => {
                self.note("coupon actor crashed");
                let campaign = self.any_campaign();
                self.tell_supervisors(&SupervisorMessage::Crash(campaign));
            }
            _ => {
                self.note("consumer crashed");
                let partition = self.world.below(u64::from(PARTITIONS)) as u32;
                self.tell_supervisors(&SupervisorMessage::CrashConsumer(partition));
            }
        }
    }

    fn tell_supervisors(&self, message: &SupervisorMessage) {
        for node in self.nodes.iter().flatten() {
            let message = match message {
                SupervisorMessage::Crash(campaign) => SupervisorMessage::Crash(campaign.clone()),
                SupervisorMessage::CrashConsumer(partition) => {
                    SupervisorMessage::CrashConsumer(*partition)
                }
                _ => return,
            };
            let supervisor = node.core.supervisor.clone();
            self.world.after(0, Some(node.address), move || drop(supervisor.cast(message)));
        }
    }

    /// Kills a node and starts it again.
    async fn crash(&mut self, number: usize) {
        self.note("node crashed");
        if let Some(node) = self.nodes[number].take() {
            let address = node.address;
            node.kill(&self.world).await;
            let (world, brokers) = (self.world.clone(), self.engines.brokers.clone());
            let us = self.world.below(SESSION_US);
            self.world.after(us, None, move || brokers.lock().leave(&world, address));
        }
        self.start(number).await;
    }

    /// Stops a node for a while. If it is long, the group goes on without it.
    fn pause(&mut self, number: usize) {
        self.note("node paused");
        let Some(node) = &self.nodes[number] else { return };
        let (address, us) = (node.address, self.world.below(2 * SESSION_US));
        self.world.pause(number);
        if us > SESSION_US {
            let (world, brokers) = (self.world.clone(), self.engines.brokers.clone());
            self.world.after(SESSION_US, None, move || brokers.lock().leave(&world, address));
        }
        let world = self.world.clone();
        self.world.after(us, None, move || world.go_on(number));
    }

    /// Ends every fault.
    async fn heal(&mut self) {
        *self.engines.weather.lock() = Weather::default();
        for number in 0..NODES {
            self.world.go_on(number);
            for engine in [Engine::Log, Engine::Store, Engine::Feed] {
                self.world.cut(number, engine, false);
            }
        }
        // Calls under way, and what lands late.
        self.world.wait(8_000_000, None).await;
    }

    /// Waits until every record is settled and no campaign is on hold.
    async fn settle(&mut self) {
        let until = self.world.now_us() + SETTLED_WITHIN_US;
        loop {
            let held: Vec<_> = {
                let rows = self.engines.rows.rows.lock();
                let in_force = rows.holds.iter().filter(|hold| hold.is_in_force());
                in_force.map(|hold| hold.campaign.clone()).collect()
            };
            if held.is_empty() && self.is_settled() {
                return;
            }
            if self.world.now_us() > until {
                return self.violation(format!("INV-10: not settled, held are {held:?}"));
            }
            for campaign in held {
                let _released = self.service().control(&campaign, ControlVerb::Release).await;
            }
            self.world.wait(200_000, None).await;
        }
    }

    fn is_settled(&self) -> bool {
        let (brokers, rows) = (self.engines.brokers.lock(), self.engines.rows.rows.lock());
        (0..PARTITIONS).all(|partition| {
            let next = rows.progress.get(&partition).map_or(0, |progress| progress.next);
            next >= brokers.end(partition)
        })
    }

    /// Every client asks once more: now each has its answer.
    async fn ask_all(&mut self) {
        let asked: BTreeMap<_, _> = {
            let heard = self.heard.lock();
            heard.told.iter().map(|told| (told.request_id.clone(), told.clone())).collect()
        };
        for asked in asked.into_values() {
            let found = self.service().find(&asked.request_id, Duration::from_secs(5)).await;
            match found.map(|view| view.status) {
                Ok(RequestStatus::Decided(answer)) => {
                    let answer = Some(answer);
                    tell(&self.world, &self.heard, Told { at: now(&self.world), answer, ..asked });
                }
                other => self.violation(format!("INV-10: {asked:?} has no answer but {other:?}")),
            }
        }
    }
}

fn id(name: &str) -> CampaignId {
    CampaignId::parse(name).expect("a valid id")
}

fn now(world: &World) -> Timestamp {
    Timestamp(BEGIN_MS + (world.now_us() / 1_000) as i64)
}

fn tell(world: &World, heard: &Mutex<Heard>, told: Told) {
    world.trace(&format!("{:?}", told.answer), told.at.0 as u64);
    heard.lock().told.push(told);
}
