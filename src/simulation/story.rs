//! Plays a course: acts at their times, then an end of all faults, and a last question of everybody.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{
    act::{Foreign, LogDamage, Lost},
    client::{Clients, campaign_id},
    course::{Course, Timed},
    evidence::{Damaged, Evidence, Told},
    half_dead::HalfDead,
    judge, leaks,
    node::{Engines, Node},
    strange,
    world::World,
};
use crate::{
    api::service::{
        Basis, ChangeCampaigns, ControlVerb, FindRequests, IssueCoupons, NodeService,
        RequestStatus, ServiceError,
    },
    domain::{
        ids::{CampaignId, Partition, UserId},
        record::Request,
        rows::Register,
    },
    partition::actor_view::ActorViews,
};

/// Whose key makes the changes.
const BY: &str = "token";

/// Time until what was under way when faults ended has landed, in microseconds.
const LANDED_US: u64 = 12_000_000;

/// Time in which a world that has healed must settle, in microseconds.
const SETTLED_WITHIN_US: u64 = 120_000_000;

/// How often it is looked whether everything is settled, in microseconds.
const LOOK_US: u64 = 200_000;

/// Time until the members of the group notice a dead or paused one, in microseconds.
const SESSION_US: u64 = 3_000_000;

/// Time in which a healthy node tells a waiter the answer, in microseconds.
const TOLD_WITHIN_US: u64 = 1_000_000;

/// Time after which no node goes by what it read before, in microseconds.
const FORGOTTEN_US: u64 = 3_000_000;

/// Time in which a node that has settled runs only what it should, in microseconds.
const RESTS_WITHIN_US: u64 = 3_000_000;

/// How often a campaign whose rows are damaged is released: then it stays as it is.
const RELEASES_MAX: u32 = 3;

/// The story of a world.
pub(super) struct Story {
    pub(super) world: Arc<World>,
    pub(super) engines: Engines,
    pub(super) clients: Clients,
    pub(super) nodes: Vec<Option<Node>>,
    /// Nodes that are down, and when they start, in microseconds.
    starts: BTreeMap<usize, u64>,
    releases: BTreeMap<CampaignId, u32>,
    /// When the last clock that was set for a while is right again.
    pub(super) clock_right_us: u64,
    /// Partitions whose next records are given up when all other faults have ended.
    pub(super) lost: BTreeMap<Partition, Lost>,
    /// What damaged a partition.
    pub(super) log_damage: Option<LogDamage>,
    /// The node that is half dead when all else has healed.
    pub(super) half_dead: Option<HalfDead>,
    /// Somebody has asked for a coupon of the damaged campaign since faults ended.
    was_asked: bool,
}

impl Story {
    pub(super) fn new(world: Arc<World>, engines: Engines) -> Self {
        let clients = Clients::new(world.clone(), engines.clone());
        let nodes = (0..engines.setup.nodes).map(|_| None).collect();
        let (starts, releases, lost) = Default::default();
        let (clock_right_us, log_damage, half_dead, was_asked) = (0, None, None, false);
        Self {
            world,
            engines,
            clients,
            nodes,
            starts,
            releases,
            lost,
            clock_right_us,
            log_damage,
            half_dead,
            was_asked,
        }
    }

    /// Plays the course to its end, when every node is dead.
    pub(super) async fn play(mut self, course: Course) -> Evidence {
        self.start_all().await;
        for Timed { at, act } in course.acts {
            self.pass(at * 1_000).await;
            self.perform(act).await;
        }
        self.end().await
    }

    /// Ends every fault, asks everybody a last question and stops the nodes.
    pub(super) async fn end(mut self) -> Evidence {
        self.heal().await;
        self.heal_the_log().await;
        if self.settle().await {
            self.ask_all().await;
            // Nobody goes by a hold any more that is over.
            self.pass(self.world.now_us() + FORGOTTEN_US).await;
            self.ask_anew().await;
            if self.settle().await {
                self.be_half_dead().await;
            }
            self.look_at_actors().await;
        }
        self.stop_all().await;
        let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
        let mut evidence = std::mem::take(&mut *self.clients.evidence.lock());
        // The story itself is one.
        if tasks > 1 {
            evidence.broken("leak", format!("{} tasks outlive their nodes", tasks - 1));
        }
        evidence
    }

    /// Lets time pass. Nodes that die meanwhile are removed, and those that are down start.
    pub(super) async fn pass(&mut self, until_us: u64) {
        loop {
            self.bury().await;
            let due = self.starts.iter().map(|(node, at)| (*at, *node)).min();
            let due = due.filter(|(at, _)| *at <= until_us);
            let at = due.map_or(until_us, |(at, _)| at);
            let world = self.world.clone();
            tokio::select! {
                biased;
                () = world.died.notified() => continue,
                () = world.wait_until(at) => {}
            }
            match due {
                Some((_, node)) => self.start(node).await,
                None => return,
            }
        }
    }

    /// Removes nodes that have died by themselves.
    async fn bury(&mut self) {
        for number in 0..self.nodes.len() {
            let died = |node: &Node| !self.world.is_alive(node.address);
            if self.nodes[number].as_ref().is_some_and(died) {
                let down_us = self.world.below(SESSION_US);
                self.kill(number, down_us).await;
            }
        }
    }

    async fn start(&mut self, number: usize) {
        self.starts.remove(&number);
        if self.nodes[number].is_none() {
            // Each life begins with a clock that is right.
            self.clients.evidence.lock().clock_changes(self.world.now_us());
            self.nodes[number] = Some(Node::start(&self.world, &self.engines, number).await);
        }
    }

    pub(super) async fn start_all(&mut self) {
        for number in 0..self.nodes.len() {
            self.start(number).await;
        }
    }

    /// Kills a node, which starts again after a while.
    pub(super) async fn kill(&mut self, number: usize, down_us: u64) {
        self.end_node(number, down_us, self.world.below(SESSION_US)).await;
    }

    /// Stops a node as `SIGTERM` does. It starts again after a while.
    pub(super) async fn stop(&mut self, number: usize, down_us: u64) {
        let Some(node) = &self.nodes[number] else { return };
        self.world.say(|| format!("node {number} stops"));
        node.drain(&self.world).await;
        self.end_node(number, down_us, 0).await;
    }

    /// Ends a node. The group notices after a while.
    async fn end_node(&mut self, number: usize, down_us: u64, noticed_us: u64) {
        let Some(node) = self.nodes[number].take() else { return };
        self.world.say(|| format!("node {number} dies"));
        let address = node.address;
        node.kill(&self.world).await;
        let (world, brokers) = (self.world.clone(), self.engines.brokers.clone());
        self.world.after(noticed_us, None, move || brokers.lock().leave(&world, address));
        self.starts.insert(number, self.world.now_us() + down_us);
    }

    pub(super) async fn stop_all(&mut self) {
        for number in 0..self.nodes.len() {
            self.kill(number, 0).await;
        }
    }

    /// Returns a node that lives: this one, or the next.
    pub(super) fn alive(&mut self, number: usize) -> Option<&mut Node> {
        let count = self.nodes.len();
        let number = (number..number + count).map(|it| it % count);
        let alive = number.into_iter().find(|it| self.nodes[*it].is_some())?;
        self.nodes[alive].as_mut()
    }

    /// Ends every fault.
    async fn heal(&mut self) {
        self.world.say(|| "all faults end".to_owned());
        self.world.heal();
        self.engines.rows.lift_curses();
        {
            let mut brokers = self.engines.brokers.lock();
            brokers.skew(0, 0);
            brokers.full_until_us = 0;
        }
        // Nodes that ran while a log was cut off notice by themselves.
        let is_damaged = self.clients.evidence.lock().damaged.is_some()
            && self.log_damage != Some(LogDamage::CutOff);
        if self.engines.setup.restarts || is_damaged {
            self.stop_all().await;
        }
        self.bury().await;
        self.start_all().await;
        self.pass(self.clock_right_us.max(self.world.now_us())).await;
        // Calls under way, what lands late, and a clock that was set is believed.
        self.pass(self.world.now_us() + LANDED_US).await;
    }

    /// Returns the service of any node.
    fn service(&mut self) -> Option<Arc<NodeService>> {
        let any = self.world.below(self.nodes.len() as u64) as usize;
        self.alive(any).map(|node| node.core.service.clone())
    }

    /// Waits until every record is settled, no campaign is on hold without a reason, and damage is
    /// noticed. Returns whether that was so in time.
    pub(super) async fn settle(&mut self) -> bool {
        self.settle_within(SETTLED_WITHIN_US).await
    }

    pub(super) async fn settle_within(&mut self, within_us: u64) -> bool {
        let until = self.world.now_us() + within_us;
        loop {
            self.pass(self.world.now_us() + LOOK_US).await;
            let held = self.held();
            let Some(why) = self.unsettled(&held) else { return true };
            if self.world.now_us() > until {
                // Damage that nobody notices is no matter of time.
                let invariant = if why.contains("is damaged") { "INV-12" } else { "INV-10" };
                self.clients.evidence.lock().broken(invariant, format!("not settled: {why}"));
                return false;
            }
            let damaged = self.clients.evidence.lock().damaged.clone();
            for campaign in held {
                let releases = self.releases.entry(campaign.clone()).or_default();
                *releases += 1;
                let is_damaged = damaged == Some(Damaged::Campaign(campaign.clone()));
                if (*releases <= RELEASES_MAX || !is_damaged)
                    && let Some(service) = self.service()
                {
                    let _released =
                        service.control(&campaign, ControlVerb::Release, Basis::InEffect, BY).await;
                }
            }
            if let Some(Damaged::Campaign(campaign)) = damaged
                && !std::mem::replace(&mut self.was_asked, true)
            {
                // So that its owner loads it and looks at it, whatever its nodes refuse.
                let (kind, user) = (Foreign::Request, request(campaign.clone(), 0).user);
                strange::append(&self.engines, &self.world, kind, &campaign, &user);
            }
        }
    }

    /// Campaigns on hold.
    fn held(&self) -> Vec<CampaignId> {
        let rows = self.engines.rows.store.rows.lock();
        let in_force = rows.holds.iter().filter(|hold| hold.is_in_force());
        let mut held: Vec<_> = in_force.map(|hold| hold.campaign.clone()).collect();
        held.dedup();
        held
    }

    /// Says what is not settled, if anything.
    fn unsettled(&self, held: &[CampaignId]) -> Option<String> {
        let damaged = self.clients.evidence.lock().damaged.clone();
        let of_damaged = |campaign: &CampaignId| match &damaged {
            None => false,
            Some(Damaged::Campaign(damaged)) => campaign == damaged,
            Some(Damaged::Partition(damaged)) => {
                self.engines.codec.partition_of(campaign) == *damaged
            }
        };
        if let Some(campaign) = held.iter().find(|campaign| !of_damaged(campaign)) {
            return Some(format!("{campaign} is on hold"));
        }
        for partition in 0..self.engines.setup.partitions {
            if damaged == Some(Damaged::Partition(partition)) {
                // The last settled record is not compared where it cannot be read.
                let was_unreadable = self.engines.brokers.lock().unreadable.was_of(partition);
                let is_excused =
                    was_unreadable || self.is_repeated(partition) || self.has_its_holds(partition);
                if !self.is_halted(partition) && !is_excused {
                    return Some(format!("partition {partition} is damaged and not halted"));
                }
                continue;
            }
            // One campaign's damage is not another's.
            if self.is_halted(partition) {
                return Some(format!("partition {partition} is halted"));
            }
            let end = self.engines.brokers.lock().end(partition);
            let progress = self.engines.rows.store.rows.lock().progress.get(&partition).cloned();
            let next = progress.map_or(0, |progress| progress.next);
            if next < end {
                return Some(format!("partition {partition} is at {next} of {end}"));
            }
        }
        if let Some(Damaged::Campaign(campaign)) = &damaged
            && !held.contains(campaign)
            && !judge::is_sound(&self.engines, campaign)
        {
            return Some(format!("{campaign} is damaged and not on hold"));
        }
        None
    }

    /// Whether no log is damaged, and the partition has as many rows of holds as it ever had: its owner
    /// has written the vanished one again, because its state changed.
    fn has_its_holds(&self, partition: Partition) -> bool {
        let rows = self.engines.rows.store.rows.lock();
        let holds = rows.holds.iter().filter(|hold| hold.partition == partition).count();
        let ever = rows.registers.get(&(partition, Register::Holds)).copied().unwrap_or(0);
        self.log_damage.is_none() && holds as u64 >= ever
    }

    /// Whether the log has got the last settled record once more, where it was: then nobody can tell
    /// that it was lost.
    fn is_repeated(&self, partition: Partition) -> bool {
        let Engines { rows, brokers, keys, .. } = &self.engines;
        let last = rows.store.rows.lock().progress.get(&partition).and_then(|it| it.last);
        let lost_end = matches!(
            self.log_damage,
            Some(LogDamage::Truncated | LogDamage::CutOff | LogDamage::Recreated)
        );
        let (Some(last), true) = (last, lost_end) else { return false };
        let log = &brokers.lock().partitions[partition as usize];
        let record = log.records.get(&last.offset);
        record.is_some_and(|it| keys.record_digest(&it.key, &it.value) == last.digest)
    }

    pub(super) fn is_halted(&self, partition: Partition) -> bool {
        let names = (0..1_000).map(|number| CampaignId::parse(&format!("any-{number}")));
        let mut of_partition = names.flatten();
        let any = of_partition.find(|it| self.engines.codec.partition_of(it) == partition);
        let view = |node: &Node| any.as_ref().map(|any| node.core.directory.view(any).state);
        self.nodes.iter().flatten().any(|node| view(node) == Some("halted"))
    }

    /// Every client asks once more: now each has its answer.
    async fn ask_all(&mut self) {
        for (request_id, request) in self.clients.known() {
            let Some(service) = self.service() else { return };
            let found = service.find(&request_id, None, Duration::from_secs(5)).await;
            let told = self.clients.told(request, request_id);
            let is_lost =
                self.clients.evidence.lock().is_lost(&self.engines, &told.request.campaign);
            match found.map(|view| view.status) {
                Ok(RequestStatus::Decided(answer)) => {
                    self.clients.tell(Told { answer: Some(answer), is_final: true, ..told });
                }
                _ if is_lost => {}
                Err(ServiceError::Skipped) => self.clients.skipped(&told.request_id),
                other => {
                    let detail = format!("{:?} has no answer but {other:?}", told.request);
                    self.clients.evidence.lock().broken("INV-10", detail);
                }
            }
        }
    }

    /// Every node is asked for a coupon of every campaign, and answers soon.
    async fn ask_anew(&mut self) {
        for number in 0..self.nodes.len() {
            for campaign in 0..self.engines.setup.campaigns {
                let request = request(campaign_id(campaign), number);
                let is_lost =
                    self.clients.evidence.lock().is_lost(&self.engines, &request.campaign);
                let Some(node) = self.nodes[number].as_ref().filter(|_| !is_lost) else { continue };
                let (service, begun_us) = (node.core.service.clone(), self.world.now_us());
                let wait = Some(Duration::from_secs(5));
                let reply = service.issue(request.clone(), wait).await;
                let took_us = self.world.now_us() - begun_us;
                let why = match reply {
                    Ok(reply) if reply.answer.is_some() && took_us < TOLD_WITHIN_US => {
                        let told = self.clients.told(request, reply.request_id);
                        self.clients.tell(Told { answer: reply.answer, is_final: true, ..told });
                        continue;
                    }
                    Err(ServiceError::CertainRejection(_) | ServiceError::UnknownCampaign) => {
                        continue;
                    }
                    other => format!("{other:?} after {} ms", took_us / 1_000),
                };
                let detail = format!("node {number} did not answer {request:?}: {why}");
                self.clients.evidence.lock().broken("INV-10", detail);
            }
        }
    }

    /// Waits until every node runs exactly the actors that it should run.
    pub(super) async fn look_at_actors(&mut self) {
        let until = self.world.now_us() + RESTS_WITHIN_US;
        loop {
            let nodes: Vec<_> = self.nodes.iter().flatten().collect();
            let Some(wrong) = leaks::wrong_actors(&self.engines, &nodes) else { return };
            if self.world.now_us() > until {
                return self.clients.evidence.lock().broken("INV-9", wrong);
            }
            self.pass(self.world.now_us() + LOOK_US / 10).await;
        }
    }
}

/// A request of somebody who has asked for nothing before.
fn request(campaign: CampaignId, number: usize) -> Request {
    let user = UserId::parse(&format!("late-{number}")).expect("a valid id");
    Request { campaign, user, idempotency_key: None }
}
