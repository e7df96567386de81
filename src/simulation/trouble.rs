//! What goes wrong at moments of its own: processes, clocks, log and store as a whole, strange
//! records, operators who change their minds.

use super::{
    act::Act,
    admin::Wish,
    faults::Fault,
    log::Fresh,
    model::{self, Meant},
    store::Undo,
    world::{LOG_EPOCH, Ms, PARTITIONS, World},
};
use crate::domain::{
    ids::Partition,
    record::{Record, Request},
};

/// Node clocks stay this close to true time, so that two of them are within the margin.
const SKEW_MS: u64 = 450;

impl World {
    /// A fault whose time has come.
    pub(super) fn strikes(&mut self, fault: Fault) {
        if self.faults.is_over() || !self.faults.strike(fault) {
            return;
        }
        let now = self.now;
        match fault {
            Fault::LogAway => self.trouble.log_away_until = now + self.random.between(200, 2_000),
            Fault::DiskFull => self.trouble.disk_full_until = now + self.random.between(200, 1_500),
            Fault::StoreAway => {
                self.trouble.store_away_until = now + self.random.between(300, 2_500);
            }
            Fault::TailLost => self.power_cut(true),
            Fault::TailTorn => self.power_cut(false),
            Fault::CrashAnytime => {
                if let Some(node) = self.some_node() {
                    self.crash(node);
                }
            }
            Fault::SetBackWhole => self.remember(),
            Fault::CommitReset => self.log.shelves.iter_mut().for_each(|it| it.committed = 0),
            Fault::Rebalance => self.rebalance(50),
            Fault::TwoOwners => self.rebalance(4_000),
            Fault::NodePaused => self.pause(),
            Fault::FeedAway => self.feed_away(),
            Fault::Poison => self.poison(),
            Fault::ZombieHold => self.curse_a_zombie(),
            Fault::ClocksApart | Fault::ClockJumps => self.clocks(fault == Fault::ClocksApart),
            Fault::TimeBackwards | Fault::TimeAhead => self.record_times(fault),
            Fault::Overload => self.trouble.overload_until = now + 1_500,
            Fault::UserFlood => self.flood(),
            Fault::Malformed | Fault::ForeignPartition | Fault::Forged | Fault::Oversized => {
                self.strange_record(fault);
            }
            Fault::ForeignProducer | Fault::UndefinedCampaign => self.foreign_request(fault),
            _ => self.operators(fault),
        }
    }

    fn operators(&mut self, fault: Fault) {
        let (now, campaign) = (self.now, self.random.index(self.shared.campaigns.len()));
        match fault {
            Fault::Released => self.begin_errand(now, campaign, Wish::Release),
            Fault::PausedResumed => {
                self.begin_errand(now, campaign, Wish::Change(fault));
                let later = now + self.random.between(300, 2_000);
                self.begin_errand(later, campaign, Wish::Resume);
            }
            Fault::AdminsRace => {
                self.begin_errand(now, campaign, Wish::Change(fault));
                self.begin_errand(now, campaign, Wish::Change(Fault::QuotaRaised));
            }
            _ => self.begin_errand(now, campaign, Wish::Change(fault)),
        }
    }

    /// A process dies; whatever it sent is still on its way.
    pub(super) fn crash(&mut self, node: usize) {
        if !self.nodes[node].is_up {
            return;
        }
        self.note(|| format!("node {node} dies"));
        let dead = &mut self.nodes[node];
        dead.is_up = false;
        dead.life += 1;
        self.unsynced.clear();
        if self.is_embedded {
            // Nothing of a dead process reaches its own database any more.
            self.store.generation += 1;
        }
        for number in 0..self.owners.len() {
            if self.owners[number].as_ref().is_some_and(|owner| owner.node == node) {
                self.forget_owner(number);
            }
        }
        let delay = self.random.between(50, 800);
        self.after(delay, Act::Boot(node));
    }

    fn forget_owner(&mut self, number: usize) {
        let Some(owner) = self.owners[number].take() else { return };
        let partition = owner.partition;
        if self.owned[partition as usize] == Some(number) {
            self.owned[partition as usize] = None;
            let delay = self.random.between(200, 1_500);
            self.after(delay, Act::Assign { partition, overlap: None });
        }
    }

    /// Power fails: what was not synced is gone, or a part of it, newest first.
    pub(super) fn power_cut(&mut self, whole: bool) {
        let unsynced = self.journal.as_ref().map_or(0, Vec::len) as u64;
        let lost = if whole { unsynced } else { self.random.between(0, unsynced) };
        for _ in 0..lost {
            match self.journal.as_mut().and_then(Vec::pop) {
                Some(Undo::Append(partition)) => self.log.take_back(partition),
                Some(undo) => self.store.take_back(undo),
                None => {}
            }
        }
        self.crash(0);
    }

    pub(super) fn boot(&mut self, node: usize) {
        if self.nodes[node].is_up {
            return;
        }
        if let Some(journal) = &mut self.journal {
            journal.clear();
            self.log.sync();
        }
        self.nodes[node].is_up = true;
        self.nodes[node].paused_until = 0;
        self.fresh_api(node);
        for partition in 0..PARTITIONS {
            if self.owned[partition as usize].is_none() {
                let delay = self.random.between(1, 50);
                self.after(delay, Act::Assign { partition, overlap: None });
            }
        }
    }

    /// The node knows nothing of the feed and of campaigns any more.
    pub(super) fn fresh_api(&mut self, node: usize) {
        self.nodes[node].booted = self.now;
        self.nodes[node].follows_from = self.now;
        let api = super::api_node::Api::new(self.shared.campaigns.len(), usize::MAX);
        self.nodes[node].api = api;
    }

    /// The group gives a partition to a node: with an overlap even where it has an owner, who
    /// hears of it that much later.
    pub(super) fn assign(&mut self, partition: Partition, overlap: Option<Ms>) {
        let before = self.owned[partition as usize];
        if before.is_some() && overlap.is_none() {
            return;
        }
        let Some(node) = self.some_node() else { return };
        let number = self.begin_owner(node, partition, 0);
        self.owned[partition as usize] = Some(number);
        if let Some(before) = before {
            self.after(overlap.unwrap_or(0), Act::Revoke(before));
        }
    }

    pub(super) fn revoke(&mut self, number: usize) {
        if self.owners[number].is_some() {
            self.forget_owner(number);
        }
    }

    fn rebalance(&mut self, most: Ms) {
        let partition = self.random.below(u64::from(PARTITIONS)) as Partition;
        let overlap = Some(self.random.below(most));
        self.assign(partition, overlap);
    }

    /// A node stands still. The group may give its partitions away meanwhile.
    fn pause(&mut self) {
        let Some(node) = self.some_node() else { return };
        let pause = self.random.between(200, 4_000);
        let node_pause = &mut self.nodes[node].paused_until;
        *node_pause = (*node_pause).max(self.now + pause);
        for partition in 0..PARTITIONS {
            let owner = self.owned[partition as usize];
            let owns = owner.and_then(|owner| self.owners[owner].as_ref());
            if owns.is_some_and(|owner| owner.node == node) && self.random.one_in(2) {
                self.assign(partition, Some(pause + self.random.clone().below(1_000)));
            }
        }
    }

    fn feed_away(&mut self) {
        let Some(node) = self.some_node() else { return };
        let until = self.now + self.random.between(300, 3_000);
        self.nodes[node].follows_from = until;
        let life = self.nodes[node].life;
        self.at(until, Act::Gap(node, life));
    }

    fn poison(&mut self) {
        let partition = self.random.below(u64::from(PARTITIONS)) as Partition;
        let next = self.log.shelf(partition).next;
        let offset = next + self.random.below(4);
        let times = self.random.between(1, 8) as u32;
        self.trouble.poison = Some((partition, offset, times));
    }

    /// An owner goes on for a while as a zombie, and one of its campaigns fails always.
    fn curse_a_zombie(&mut self) {
        let campaign = self.random.index(self.shared.campaigns.len());
        let partition = self.partition_of(campaign);
        let Some(zombie) = self.owned[partition as usize] else { return };
        self.trouble.cursed = Some((zombie, campaign));
        let overlap = self.random.between(2_000, 5_000);
        self.assign(partition, Some(overlap));
    }

    fn clocks(&mut self, all: bool) {
        let chosen = self.random.index(self.nodes.len());
        for node in 0..self.nodes.len() {
            if all || node == chosen {
                let skew = self.random.below(2 * SKEW_MS) as i64 - SKEW_MS as i64;
                self.nodes[node].skew = skew;
            }
        }
    }

    fn record_times(&mut self, fault: Fault) {
        let until = self.now + self.random.between(300, 2_000);
        let skew = if fault == Fault::TimeAhead {
            self.random.between(1, 20) as i64 * 3_600_000
        } else {
            -(self.random.between(100, 900) as i64)
        };
        self.trouble.time_skew = (skew, until);
        self.evidence.clocks_lie = true;
    }

    pub(super) fn is_flooded(&self) -> bool {
        self.now < self.trouble.flood_until
    }

    fn flood(&mut self) {
        self.trouble.flood_until = self.now + 500;
        let campaign = self.random.index(self.shared.campaigns.len());
        let user = self.random.index(self.shared.users.len()) as u16;
        for _ in 0..12 {
            self.begin_ask(campaign, user, None, u8::MAX);
        }
    }

    /// A record that nobody decides.
    fn strange_record(&mut self, fault: Fault) {
        let campaign = self.random.index(self.shared.campaigns.len());
        let change = model::Change::Closed;
        let based_on = self.store.tables[campaign].versions.keys().next_back().copied();
        let (_, (own, mut fresh)) = self.control(campaign, based_on, change);
        let mut partition = own;
        fresh.meant = Meant::Letter;
        match fault {
            Fault::Malformed => {
                let cut = self.random.index(fresh.value.len());
                fresh.value.truncate(cut);
                fresh.mac = None;
            }
            Fault::Forged if self.random.one_in(2) => fresh.mac = None,
            Fault::Forged => {
                fresh.value = newer(self.shared.campaigns[campaign].as_str());
                fresh.mac = fresh.mac.map(|mut mac| {
                    mac.reverse();
                    mac
                });
            }
            Fault::Oversized => {
                fresh.value = vec![b' '; crate::wire::RECORD_BYTES_MAX + 1];
                fresh.mac = None;
            }
            _ => {
                fresh.value = self.request_bytes(campaign, 0);
                fresh.mac = None;
                partition = (own + 1) % PARTITIONS;
            }
        }
        self.append_foreign(partition, fresh);
    }

    fn request_bytes(&self, campaign: usize, user: u16) -> Vec<u8> {
        let campaign = self.shared.campaigns[campaign].as_str();
        let user = self.shared.users[usize::from(user)].as_str();
        format!(r#"{{"v":1,"type":"request","campaign_id":"{campaign}","user_id":"{user}"}}"#)
            .into_bytes()
    }

    /// A request in the documented format from a producer that has no secret.
    pub(super) fn foreign_request(&mut self, fault: Fault) {
        let undefined = fault == Fault::UndefinedCampaign;
        let campaign = match undefined {
            true => self.shared.campaigns.len() - 1,
            false => self.random.index(self.shared.campaigns.len()),
        };
        let user = self.random.index(self.shared.users.len()) as u16;
        self.ask_by_producer(campaign, user);
    }

    pub(super) fn ask_by_producer(&mut self, campaign: usize, user: u16) {
        let record = Record::Request(Request {
            campaign: self.id(campaign),
            user: self.shared.users[usize::from(user)].clone(),
            idempotency_key: None,
        });
        let meant = Meant::Request { campaign, user, key: None };
        let (partition, fresh) = self.fresh(&record, meant);
        let value = self.request_bytes(campaign, user);
        self.append_foreign(partition, Fresh { value, mac: None, ..fresh });
    }

    /// First the store is remembered; a while later, between two runs, it is as it was then.
    fn remember(&mut self) {
        if self.trouble.healed_at.is_some() {
            return;
        }
        if let Some(snapshot) = self.trouble.snapshot.take() {
            let generation = self.store.generation + 1;
            self.store = *snapshot;
            self.store.generation = generation;
            self.evidence.was_set_back = true;
            return (0..self.nodes.len()).for_each(|node| self.crash(node));
        }
        self.trouble.snapshot = Some(Box::new(self.store.clone()));
        let later = self.random.between(300, 2_500);
        self.after(later, Act::Trouble(Fault::SetBackWhole));
    }
}

/// A control record of a version that this binary does not know.
pub(super) fn newer(campaign: &str) -> Vec<u8> {
    format!(r#"{{"v":9,"type":"reshuffled","campaign_id":"{campaign}","epoch":{LOG_EPOCH}}}"#)
        .into_bytes()
}
