//! The course of a world: a phase with faults, healing, perhaps a ruin that must halt, settling,
//! and the last questions.

use super::{
    act::Act,
    admin::definition,
    faults::Fault,
    log::Fresh,
    model::{self, Meant},
    owner::{Stage, campaign_number},
    trouble::newer,
    world::{EPOCH_MS, Ms, PARTITIONS, SETTLE_MS, World},
};
use crate::domain::{
    ids::{Offset, Partition},
    rows::Hold,
};

/// How often it is looked whether everything has settled.
const CHECK_MS: Ms = 250;

/// How often held campaigns are released, once everything has healed.
const MEND_MS: Ms = 1_000;

/// How long after healing campaigns that stay damaged are released.
const RELEASED_MS: Ms = 6_000;

/// How long nothing may have been appended: what was is decided by then.
const QUIET_MS: Ms = 500;

/// How long after healing what must halt is done.
const RUIN_AFTER_MS: Ms = 2_500;

impl World {
    /// Lays out what clients and operators will do, and when faults strike.
    pub(super) fn set_out(&mut self, requests: u32) {
        let phase = self.random.between(4_000, 7_000);
        for partition in 0..PARTITIONS {
            self.at(0, Act::Assign { partition, overlap: None });
        }
        let campaigns = self.shared.campaigns.len();
        for campaign in 0..campaigns {
            let last = campaign + 1 == campaigns;
            let at = if last { self.random.below(1_500) } else { self.random.below(150) };
            let wall = EPOCH_MS + at as i64;
            let opens = self.random.one_in(4).then(|| wall + self.random.clone().below(900) as i64);
            let closes = self.random.one_in(4).then_some(wall + phase as i64 - 800);
            let quota = self.random.between(3, 90) as u32;
            let limit = if self.random.one_in(3) { 1 + self.random.below(3) as u16 } else { 1 };
            self.begin_errand(at, campaign, definition(quota, limit, (opens, closes)));
        }
        let users = self.random.between(30, self.shared.users.len() as u64);
        let bursts = self.random.between(2, 8);
        let starts: Vec<Ms> = (0..bursts).map(|_| self.random.between(200, phase - 700)).collect();
        for _ in 0..requests {
            let at = starts[self.random.index(starts.len())] + self.random.below(600);
            let campaign = self.random.index(campaigns);
            let user = self.random.below(users) as u16;
            let key = self.random.one_in(3).then(|| self.random.clone().below(4) as u16);
            self.at(at, Act::Arrives { campaign, user, key });
        }
        for _ in 0..self.random.between(4, 16) {
            let (at, node) = (self.random.below(phase), self.random.index(self.nodes.len()));
            let campaign = self.random.index(campaigns);
            self.at(at, Act::View { node, campaign });
            let user = self.random.below(users) as u16;
            self.at(at, Act::Holdings { node, campaign, user });
        }
        for (fault, times) in std::mem::take(&mut self.faults.scheduled) {
            for _ in 0..times {
                let at = match fault {
                    Fault::UndefinedCampaign => self.random.below(1_200),
                    Fault::ClocksApart => 0,
                    _ => self.random.below(phase),
                };
                match fault {
                    Fault::TrimmedSettled => self.trouble.trims = true,
                    _ => self.at(at, Act::Trouble(fault)),
                }
            }
        }
        self.at(phase, Act::Heal);
    }

    /// Nothing goes wrong any more, and what did is over.
    pub(super) fn heal(&mut self) {
        self.faults.end();
        let trouble = &mut self.trouble;
        (trouble.log_away_until, trouble.store_away_until) = (0, 0);
        (trouble.disk_full_until, trouble.overload_until) = (0, 0);
        (trouble.poison, trouble.cursed, trouble.snapshot) = (None, None, None);
        trouble.time_skew = (0, 0);
        trouble.healed_at = Some(self.now);
        for node in 0..self.nodes.len() {
            self.boot(node);
        }
        for number in 0..self.owners.len() {
            let partition = self.owners[number].as_ref().map(|owner| owner.partition);
            if partition.is_some_and(|it| self.owned[it as usize] != Some(number)) {
                self.revoke(number);
            }
        }
        self.after(MEND_MS, Act::Mend);
        match self.faults.halting {
            Some(_) => self.after(RUIN_AFTER_MS, Act::Ruin),
            None => self.after(CHECK_MS, Act::Check),
        }
    }

    /// Operators release whatever is held; of what was damaged something is asked, so that it is
    /// loaded and looked at.
    pub(super) fn mend(&mut self) {
        let healed = self.trouble.healed_at.unwrap_or(self.now);
        for campaign in 0..self.shared.campaigns.len() {
            // What stays damaged is released a few times, and then left as it is.
            let hopeless = self.is_damaged(campaign) && self.now > healed + RELEASED_MS;
            if self.store.is_held(campaign) && !hopeless {
                let based_on = self.store.tables[campaign].versions.keys().next_back().copied();
                let change = model::Change::Released;
                let (_, (partition, fresh)) = self.control(campaign, based_on, change);
                self.append_foreign(partition, fresh);
            }
        }
        if let Some((campaign, None)) = self.trouble.damaged {
            self.ask_by_producer(campaign, 0);
        }
        if !self.is_final {
            self.after(MEND_MS, Act::Mend);
        }
    }

    /// Everything is stopped, something is damaged that must be noticed, and everything starts.
    pub(super) fn ruin(&mut self) {
        if let Some(fault) = self.faults.halting {
            let partition = self.random.below(u64::from(PARTITIONS)) as Partition;
            let campaign = self.random.index(self.shared.campaigns.len());
            for node in 0..self.nodes.len() {
                self.crash(node);
            }
            let done = match fault {
                Fault::RowMissing
                | Fault::RowAltered
                | Fault::RowExtra
                | Fault::VersionAltered
                | Fault::SetBackPart => self.ruin_rows(fault, campaign),
                _ => self.ruin_log(fault, partition),
            };
            if done && self.faults.strike(fault) {
                self.note(|| format!("!! {} of {partition} or c{campaign}", fault.name()));
            }
        }
        self.after(CHECK_MS, Act::Check);
    }

    fn ruin_rows(&mut self, fault: Fault, campaign: usize) -> bool {
        let table = &mut self.store.tables[campaign];
        let Some(marked) = table.mark.as_ref().map(|mark| mark.offset) else { return false };
        let below: Vec<u32> = table
            .coupons
            .values()
            .filter(|coupon| coupon.position.offset < marked)
            .map(|coupon| coupon.sequence)
            .collect();
        let Some(&last) = below.last() else { return false };
        let chosen = below[self.random.index(below.len())];
        let progress = self.store.progress[self.partition_of(campaign) as usize].as_ref();
        if progress.is_none_or(|progress| progress.next < marked) {
            return false;
        }
        let table = &mut self.store.tables[campaign];
        let mut remove = |sequence: u32| {
            table.coupons.remove(&sequence);
            table.by_user.retain(|(_, it), _| *it != sequence);
        };
        match fault {
            Fault::RowMissing => remove(chosen),
            Fault::SetBackPart => (chosen..=last).for_each(remove),
            Fault::RowAltered => {
                let coupon = table.coupons.get_mut(&chosen).expect("it was chosen");
                coupon.issued_at.0 += 1;
                let coupon = coupon.clone();
                let rows = table.by_user.iter_mut().filter(|((_, it), _)| *it == chosen);
                rows.for_each(|(_, row)| *row = coupon.clone());
            }
            Fault::RowExtra => {
                let highest = *table.coupons.keys().next_back().expect("there is one");
                let mut extra = table.coupons[&chosen].clone();
                extra.sequence = highest + 1;
                table.coupons.insert(highest + 1, extra);
            }
            _ => {
                let version = table.versions.values_mut().next().expect("it is defined");
                version.definition.terms.quota += 1;
            }
        }
        table.is_damaged = true;
        // What was still on its way has landed before: nothing mends by chance what is damaged.
        self.store.generation += 1;
        self.trouble.damaged = Some((campaign, None));
        true
    }

    fn ruin_log(&mut self, fault: Fault, partition: Partition) -> bool {
        let progress = self.store.progress[partition as usize].as_ref();
        let settled = progress.map_or(0, |progress| progress.next);
        if settled < 3 || self.log.shelf(partition).next < settled {
            return false;
        }
        let back = self.random.between(1, 2);
        match fault {
            Fault::Truncated => self.log.shelf(partition).truncate(settled - back),
            Fault::Recreated => self.log.shelf(partition).recreate(),
            Fault::Rewritten => return self.rewrite(partition, settled),
            Fault::Trimmed => {
                // Something that is not settled, and then everything is gone but the end.
                let next = self.log.shelf(partition).next.max(settled) + 1;
                let shelf = self.log.shelf(partition);
                (shelf.next, shelf.high) = (next, next);
                shelf.trim(next);
                shelf.is_damaged = true;
            }
            Fault::TimeFarAhead => {
                let campaign = self.campaigns_of(partition).next();
                let Some(campaign) = campaign else { return false };
                self.log.shelf(partition).is_damaged = true;
                self.trouble.time_skew = (30 * 86_400_000, self.now + 1);
                self.ask_by_producer(campaign, 1);
                self.trouble.time_skew = (0, 0);
                self.evidence.clocks_lie = true;
            }
            _ => {
                let Some(campaign) = self.campaigns_of(partition).next() else { return false };
                let fresh = self.newer_record(campaign, partition);
                self.log.shelf(partition).is_damaged = true;
                self.append_foreign(partition, fresh);
            }
        }
        self.trouble.halting[partition as usize] = true;
        true
    }

    fn rewrite(&mut self, partition: Partition, settled: u64) -> bool {
        let last = self.store.progress[partition as usize].as_ref().and_then(|it| it.last);
        if last.is_none() || !self.log.shelf(partition).rewrite_tail_from_below(settled) {
            return false;
        }
        self.trouble.halting[partition as usize] = true;
        true
    }

    /// A record of a newer version, with the MAC that its writer would have made.
    fn newer_record(&self, campaign: usize, partition: Partition) -> Fresh {
        let key = self.shared.campaigns[campaign].as_str().as_bytes().to_vec();
        let value = newer(self.shared.campaigns[campaign].as_str());
        let mac = Some(self.shared.codec.mac(partition, &key, &value));
        Fresh { key, value, mac, meant: Meant::Letter }
    }

    /// Whether the log of a partition is such that it must halt.
    pub(super) fn must_halt(&self, partition: Partition) -> bool {
        self.trouble.halting[partition as usize]
    }

    pub(super) fn may_halt(&self, partition: Partition) -> bool {
        self.must_halt(partition)
    }

    pub(super) fn has_damage_in(&self, partition: Partition) -> bool {
        self.trouble.damaged.is_some_and(|(campaign, _)| self.partition_of(campaign) == partition)
    }

    /// A campaign's actor says that log and store contradict each other: only where they do.
    pub(super) fn found_contradiction(&mut self, campaign: &str, detail: &str) {
        let number = campaign_number(campaign);
        let damaged = self.trouble.damaged.is_some_and(|(damaged, _)| damaged == number);
        if !damaged && !self.must_halt(self.partition_of(number)) {
            self.broken("INV-12", format!("{campaign} is held for no reason: {detail}"));
        }
    }

    /// Goes on to the last questions once everything has settled.
    pub(super) fn check(&mut self) {
        let healed = self.trouble.healed_at.unwrap_or(self.now);
        match self.unsettled() {
            None => self.last_questions(),
            Some(what) if self.now > healed + SETTLE_MS => {
                self.broken("INV-10", format!("not settled after {SETTLE_MS} ms: {what}"));
            }
            Some(_) => self.after(CHECK_MS, Act::Check),
        }
    }

    fn unsettled(&self) -> Option<String> {
        if self.nodes.iter().any(|node| !node.is_up) {
            return Some("a node is down".to_owned());
        }
        // What it was doing goes on when it does.
        if self.nodes.iter().any(|node| node.paused_until + QUIET_MS > self.now) {
            return Some("a node stands still".to_owned());
        }
        if self.trouble.appended_at + QUIET_MS > self.now || !self.clients_are_done() {
            return Some("clients are not done".to_owned());
        }
        if !self.administrators_are_done() {
            return Some("administrators are not done".to_owned());
        }
        for partition in 0..PARTITIONS {
            let stage = self.owned[partition as usize]
                .and_then(|owner| self.owners[owner].as_ref())
                .map(|owner| &owner.stage);
            if self.must_halt(partition) {
                if !matches!(stage, Some(Stage::Halted(_))) {
                    return Some(format!("partition {partition} is not halted"));
                }
                continue;
            }
            let shelf = &self.log.shelves[partition as usize];
            let progress = self.store.progress[partition as usize].as_ref();
            let next = progress.map_or(0, |progress| progress.next);
            if next != shelf.next {
                return Some(format!("partition {partition} is at {next} of {}", shelf.next));
            }
            // Progress may be another's word, of an owner that is no more.
            if !matches!(stage, Some(Stage::Running(flow)) if flow.watermark() >= shelf.next) {
                return Some(format!("the owner of partition {partition} is behind"));
            }
            for campaign in self.campaigns_of(partition) {
                if let Some((damaged, since)) = self.trouble.damaged
                    && damaged == campaign
                {
                    if since.is_none() {
                        return Some(format!("c{campaign} is damaged and was not held"));
                    }
                    // Released, it is held again, unless the log could derive what was missing.
                    if self.store.is_held(campaign) {
                        continue;
                    }
                }
                let last = shelf.meant.iter().rev().find(|(.., meant)| is_of(meant, campaign));
                let last = last.map_or(0, |(offset, ..)| offset + 1);
                let holds = self.store.tables[campaign].holds.values();
                if holds.into_iter().any(|hold| hold.unsettled_from() < last) {
                    return Some(format!("c{campaign} is held"));
                }
            }
        }
        None
    }

    /// Every request is asked for again: of nodes that remember nothing, and perhaps of a log
    /// that has forgotten what is settled.
    fn last_questions(&mut self) {
        self.is_final = true;
        if self.trouble.trims && self.faults.halting.is_none() {
            self.faults.fired[Fault::TrimmedSettled as usize] += 1;
            for partition in 0..PARTITIONS {
                let progress = self.store.progress[partition as usize].as_ref();
                let next = progress.map_or(0, |progress| progress.next);
                // What a hold leaves unsettled is not for a log to forget.
                let holds = self.store.tables.iter().flat_map(|table| table.holds.values());
                let held = holds.filter(|hold| hold.partition == partition);
                let kept = held.map(Hold::unsettled_from).fold(next, Offset::min);
                self.log.shelf(partition).trim(kept);
            }
        }
        for node in 0..self.nodes.len() {
            self.nodes[node].life += 1;
            self.fresh_api(node);
        }
        let everywhere = self.random.below(8);
        for kept in 0..self.kept.len() {
            let nodes = self.nodes.len();
            let chosen = self.random.index(nodes);
            for node in 0..nodes {
                if node == chosen || kept as u64 % 8 == everywhere {
                    self.finals += 1;
                    let at = self.now + 1 + kept as Ms / 8;
                    self.at(at, Act::Get { kept, node, wait: 0, is_final: true });
                }
            }
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_final && self.finals == 0
    }
}

fn is_of(meant: &Meant, campaign: usize) -> bool {
    match meant {
        Meant::Request { campaign: of, .. } | Meant::Control { campaign: of, .. } => {
            *of == campaign
        }
        Meant::Letter => false,
    }
}
