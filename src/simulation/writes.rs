//! Writes of an owner: each sent until it is answered, landing whole, in part, late or never.

use std::{collections::VecDeque, rc::Rc};

use super::{
    act::Act,
    faults::Fault,
    owner::{RETRY_MS, campaign_number},
    store::{BOTH, Views},
    world::{Ms, Node, World},
};
use crate::{
    domain::{
        coupon::Coupon,
        ids::{CampaignId, Offset},
        rows::{Hold, HoldState, Mark, Progress, Row},
    },
    partition::{flow::Event, pipeline::ToStore},
    wire::{
        feed_message::FeedMessage,
        write_order::{self, Group},
    },
};

/// When a write without an answer is given up and sent again.
const TIMEOUT_MS: Ms = 300;

/// Latest that a write which was given up may still land.
const LATE_MS: Ms = 5_000;

/// What follows once every group of rows is stored.
#[derive(Debug)]
pub(super) enum Done {
    Rows { campaign: usize, incarnation: u64, number: u64 },
    Hold(Hold),
    Progress(Offset),
}

/// Groups of rows, one after the other.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) owner: usize,
    groups: VecDeque<Rc<Vec<Row>>>,
    done: Done,
}

impl World {
    fn begin_job(&mut self, owner: usize, groups: Vec<Group>, done: Done) {
        let groups = groups.into_iter().map(|(_, rows)| Rc::new(rows)).collect();
        self.jobs_begun += 1;
        let number = self.jobs_begun;
        self.jobs.insert(number, Job { owner, groups, done });
        self.send_job(number);
    }

    pub(super) fn write_rows(&mut self, who: (usize, usize, u64), to_store: ToStore) {
        let (owner, campaign, incarnation) = who;
        let ToStore { number, versions, coupons, .. } = to_store;
        let groups = write_order::of_batch(versions, coupons);
        self.begin_job(owner, groups, Done::Rows { campaign, incarnation, number });
    }

    pub(super) fn write_hold(&mut self, owner: usize, hold: Hold, mark: Option<Mark>) {
        let groups = write_order::of_hold(hold.clone(), mark);
        self.begin_job(owner, groups, Done::Hold(hold));
    }

    pub(super) fn write_progress(
        &mut self,
        owner: usize,
        holds: Vec<Hold>,
        marks: Vec<Mark>,
        progress: Progress,
    ) {
        let next = progress.next;
        let groups = write_order::of_progress(holds, marks, progress);
        self.begin_job(owner, groups, Done::Progress(next));
    }

    /// Sends the first group of a job, if its owner still lives.
    pub(super) fn send_job(&mut self, number: u64) {
        let Some(job) = self.jobs.get(&number) else { return };
        let (owner, Some(rows)) = (job.owner, job.groups.front().cloned()) else { return };
        let Some(node) = self.owners[owner].as_ref().map(|owner| owner.node) else {
            self.jobs.remove(&number);
            return;
        };
        let (before, _) = crash_points(&rows);
        if before.is_some_and(|fault| self.hit(fault)) {
            return self.crash(node);
        }
        let generation = self.store.generation;
        if self.now < self.trouble.store_away_until || self.hit(Fault::WriteLost) {
            return self.after(TIMEOUT_MS, Act::Retry(number));
        }
        if matches!(rows.first(), Some(Row::Progress(_))) && self.hit(Fault::ProgressBehind) {
            let delay = self.random.between(500, 3_000);
            return self.after(delay, Act::Retry(number));
        }
        if self.hit(Fault::WriteLate) {
            let late = self.random.between(TIMEOUT_MS, LATE_MS);
            self.after(late, Act::Land(rows, None, generation));
            return self.after(TIMEOUT_MS, Act::Retry(number));
        }
        if self.hit(Fault::WritePartial) {
            self.land_in_part(&rows);
            return self.after(RETRY_MS, Act::Retry(number));
        }
        let delay = self.store_ms();
        self.after(delay, Act::Land(rows, Some(number), generation));
    }

    /// Rows arrive at the store, whoever sent them still lives or not.
    pub(super) fn land(&mut self, rows: &Rc<Vec<Row>>, job: Option<u64>, generation: u32) {
        if generation != self.store.generation {
            return;
        }
        for row in rows.iter() {
            self.put(row, BOTH);
        }
        // Embedded, these are the rows that have a sync of their own.
        let durable = |row: &Row| matches!(row, Row::Hold(_) | Row::Version(_));
        if self.is_embedded && rows.iter().any(durable) {
            self.log.sync();
            self.journal.iter_mut().for_each(Vec::clear);
        }
        let Some(job) = job else { return };
        let Some(owner) = self.jobs.get(&job).map(|job| job.owner) else { return };
        let Some(node) = self.owners[owner].as_ref().map(|owner| owner.node) else { return };
        let (_, after) = crash_points(rows);
        if after.is_some_and(|fault| self.hit(fault)) {
            return self.crash(node);
        }
        let delay = self.network_ms();
        if self.hit(Fault::AckLost) {
            return self.after(TIMEOUT_MS, Act::Retry(job));
        }
        self.after(delay, Act::Ack(job));
    }

    fn land_in_part(&mut self, rows: &Rc<Vec<Row>>) {
        for row in rows.iter() {
            let (by_sequence, by_user) = (self.random.one_in(2), self.random.one_in(2));
            if by_sequence || by_user {
                self.put(row, Views { by_sequence, by_user });
            }
        }
    }

    fn put(&mut self, row: &Row, views: Views) {
        let campaign = match row {
            Row::Coupon(coupon) => campaign_number(coupon.campaign.as_str()),
            Row::Version(version) => campaign_number(version.campaign.as_str()),
            Row::Hold(hold) => campaign_number(hold.campaign.as_str()),
            Row::Mark(mark) => campaign_number(mark.campaign.as_str()),
            Row::Progress(_) => 0,
        };
        if let Row::Version(version) = row {
            let at = version.position.offset;
            let table = &self.store.tables[campaign];
            let above = |(_, row): (_, &Coupon)| row.position.offset > at;
            let is_late = table.coupons.last_key_value().is_some_and(above);
            if is_late && !table.versions.contains_key(&at) && !table.is_damaged {
                self.broken(
                    "INV-6",
                    format!(
                        "a coupon of c{campaign} was there before the version at {at} below it"
                    ),
                );
            }
        }
        self.store.put(campaign, row, views, &mut self.journal);
        if let Some(what) = self.store.replaced.take() {
            self.broken("INV-3", format!("{what} of c{campaign} was replaced by another row"));
        }
        if let Row::Hold(hold) = row
            && hold.state == HoldState::Open
            && let Some((damaged, since @ None)) = &mut self.trouble.damaged
            && *damaged == campaign
        {
            *since = Some(self.now);
        }
    }

    /// A group is stored: the next one follows, or what the job was for.
    pub(super) fn acknowledged(&mut self, number: u64) {
        let Some(job) = self.jobs.get_mut(&number) else { return };
        job.groups.pop_front();
        if !job.groups.is_empty() {
            return self.send_job(number);
        }
        let Some(Job { owner, done, .. }) = self.jobs.remove(&number) else { return };
        match done {
            Done::Rows { campaign, incarnation, number } => {
                let who = (owner, campaign, incarnation);
                let Some(actor) = self.actor(who) else { return self.report_late(who, number) };
                let waited = actor.pipeline.as_mut().map(|pipeline| pipeline.stored(number));
                waited.into_iter().flatten().for_each(|rows| self.write_rows(who, rows));
                self.report(who);
            }
            Done::Hold(hold) => self.tell(owner, Event::HoldWritten(hold)),
            Done::Progress(next) => self.tell(owner, Event::Persisted(next)),
        }
    }

    /// Tells the log how far a partition is settled: for lag tools only.
    pub(super) fn commit(&mut self, number: usize, next: Offset) {
        let Some(owner) = self.owner(number) else { return };
        let (node, partition) = (owner.node, owner.partition);
        if self.hit(Fault::CrashBeforeCommit) {
            return self.crash(node);
        }
        if self.hit(Fault::CommitLost) {
            return;
        }
        self.log.shelf(partition).committed = next;
        if self.hit(Fault::CrashAfterCommit) {
            self.crash(node);
        }
    }

    /// Hands a message to the feed, which every node follows, with luck.
    pub(super) fn publish(&mut self, number: usize, message: FeedMessage) {
        let Some(node) = self.owners[number].as_ref().map(|owner| owner.node) else { return };
        if self.hit(Fault::CrashBeforePublish) {
            return self.crash(node);
        }
        if self.hit(Fault::FeedLost) {
            return;
        }
        let mut delay = self.network_ms();
        if self.hit(Fault::FeedDelayed) {
            delay += self.random.between(100, 3_000);
        }
        let reordered = self.hit(Fault::FeedReordered);
        let now = self.now;
        let Some(owner) = self.owner(number) else { return };
        let at = if reordered {
            owner.published_at + 20
        } else {
            owner.published_at = owner.published_at.max(now + delay);
            owner.published_at
        };
        let message = Rc::new(message);
        let times = 1 + u32::from(self.hit(Fault::FeedDuplicated));
        for follower in 0..self.nodes.len() {
            let Node { life, is_up, follows_from, .. } = self.nodes[follower];
            // Who follows later begins at the end, with what is published from then on.
            if !is_up || follows_from > now {
                continue;
            }
            for _ in 0..times {
                self.at(at, Act::Feed(follower, life, message.clone()));
            }
            if self.hit(Fault::FeedGap) {
                self.at(at, Act::Gap(follower, life));
            }
        }
        if self.hit(Fault::CrashAfterPublish) {
            self.crash(node);
        }
    }

    pub(super) fn id(&self, campaign: usize) -> CampaignId {
        self.shared.campaigns[campaign].clone()
    }
}

/// Where a node may die around a write of `rows`.
fn crash_points(rows: &[Row]) -> (Option<Fault>, Option<Fault>) {
    match rows.first() {
        Some(Row::Coupon(_)) => (Some(Fault::CrashBeforeStore), Some(Fault::CrashAfterStore)),
        Some(Row::Version(_)) => (Some(Fault::CrashBeforeVersion), Some(Fault::CrashAfterVersion)),
        Some(Row::Hold(_)) => (Some(Fault::CrashBeforeHold), Some(Fault::CrashAfterHold)),
        Some(Row::Progress(_)) => {
            (Some(Fault::CrashBeforeProgress), Some(Fault::CrashAfterProgress))
        }
        Some(Row::Mark(_)) | None => (None, None),
    }
}
