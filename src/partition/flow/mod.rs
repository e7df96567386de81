//! The state machine of one owned partition: events in, effects out.
//!
//! It routes records to campaigns, tracks the watermark, writes progress, publishes decisions, and
//! restarts or holds campaigns that fail. Records that are not stored stay in memory or are set aside;
//! what a campaign needs again is read from the log.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    acks::Acks,
    campaign_holds::Holds,
    owned_campaign::{OwnedCampaign, Phase},
    recovery::Contradiction,
    restart::Verdict,
    skips,
    window::{credit, released_by},
};
use crate::{
    domain::{
        halt::HoldReason,
        ids::{CampaignId, LogPartition, Offset, Timestamp},
        rows::PartitionRows,
    },
    wire::decode_step::{Incoming, ReadRecord},
};

mod aside;
mod by_user;
mod catch_up;
mod durability;
mod event;
mod feed_state;
mod hold_count;
mod holds;
mod kept_back;
mod neighbours;
mod settle;
mod show;
#[cfg(test)]
mod tests;

use self::{
    aside::Aside,
    by_user::ByUser,
    catch_up::CatchUps,
    durability::Durability,
    feed_state::FeedState,
    hold_count::HoldCount,
    kept_back::KeptBackLook,
    neighbours::Neighbours,
    settle::{Marking, Unmarked},
};

pub use aside::{OUTSTANDING_MAX, POINT_LOOKUPS_MAX};
pub use event::{Again, BatchReport, Effect, Event, LetterOf, News, Wanted};

/// Returns the credit that a reader needs for decoded records, beyond the one for each that it was
/// granted: [`Effect::Credit`] gives all of it back once they have left the window.
#[must_use]
pub fn debt_of(incoming: &[Incoming]) -> usize {
    let decoded = incoming.iter().filter_map(|record| record.content.as_ref());
    decoded.map(|read| credit(&read.raw) - 1).sum()
}

/// Credit of a partition's window, one for each record of up to 1 KiB. At 40,000 decisions a second
/// these are 0.4 s of records, far more than a store's latency. Decoded and as bytes a request
/// takes about 500 bytes, so that the window takes 8 MiB; with larger records, 16 MiB.
pub const WINDOW_RECORDS_MAX: usize = 16_384;

/// Records in one batch: half a millisecond of decisions.
pub const BATCH_RECORDS_MAX: usize = 1_024;

/// Batches of one campaign in flight: one is decided while others are being stored.
pub const BATCHES_MAX: usize = 4;

/// The watermark is published at least this often, so that followers can detect a silent owner.
const HEARTBEAT_INTERVAL_MS: u64 = 1_000;

/// How often closed holds of campaigns without records are extended.
const HOLD_SWEEP_INTERVAL_MS: u64 = 10_000;

/// How often idle campaigns are looked for.
const IDLE_CHECK_INTERVAL_MS: u64 = 10_000;

const _: () = assert!(BATCH_RECORDS_MAX * BATCHES_MAX <= WINDOW_RECORDS_MAX);

/// How much an owner keeps in memory and how often it writes. Nodes use the default. Simulated
/// worlds draw smaller ones, so that a few hundred records reach every bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Credit of the partition's window.
    pub window_records: usize,
    /// Nothing more is read while this many records are not below durable progress. Each keeps 32
    /// bytes there, whatever its window has kept.
    pub outstanding_records: usize,
    /// Most records of one batch.
    pub batch_records: usize,
    /// Progress is written when it is this many records behind the watermark …
    pub progress_records: u64,
    /// … or this many milliseconds.
    pub progress_interval_ms: u64,
    /// A campaign that is over and had no record for this many milliseconds is stopped, to free its
    /// memory.
    pub idle_ms: u64,
    /// The by-user rows of a campaign that decides are looked at again after this many milliseconds.
    pub scrub_ms: u64,
    /// The pause behind each page of them. A page of CQL has 5,000 rows, so a node reads about 20,000
    /// rows a second: a few hundredths of a core.
    pub scrub_pause_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            window_records: WINDOW_RECORDS_MAX,
            outstanding_records: OUTSTANDING_MAX,
            batch_records: BATCH_RECORDS_MAX,
            progress_records: 1_000,
            progress_interval_ms: 100,
            idle_ms: 600_000,
            scrub_ms: 600_000,
            scrub_pause_ms: 250,
        }
    }
}

/// The state of one owned partition.
#[derive(Debug)]
pub struct Flow {
    place: LogPartition,
    limits: Limits,
    acks: Acks,
    /// The end of the log as last seen.
    end: Offset,
    durability: Durability,
    feed: FeedState,
    campaigns: BTreeMap<CampaignId, OwnedCampaign>,
    /// Holds of every campaign that ever had one, also of those without an actor.
    holds: BTreeMap<CampaignId, Holds>,
    hold_count: HoldCount,
    /// Campaigns whose window may have something to send.
    sendable: BTreeSet<CampaignId>,
    /// Campaigns with records that are not stored, not marked, or above durable progress.
    occupied: BTreeSet<CampaignId>,
    /// Decided versions whose marks are being written. The watermark passes them afterwards.
    unmarked: BTreeMap<Offset, Unmarked>,
    by_user: ByUser,
    aside: Aside,
    catch_ups: CatchUps,
    neighbours: Neighbours,
    /// The marks that the next progress waits for.
    marking: Option<Marking>,
    kept_back: KeptBackLook,
    incarnations: u64,
    now_ms: u64,
    idle_checked_ms: u64,
    /// The holds found on assignment are not taken over yet.
    is_new: bool,
}

impl Flow {
    /// Takes over a partition with its progress, holds and skips. `end` is the end of its log.
    #[must_use]
    pub fn new(
        place: LogPartition,
        rows: PartitionRows,
        end: Offset,
        now_ms: u64,
        limits: Limits,
    ) -> (Self, Vec<Effect>) {
        let next = rows.next();
        let last = rows.progress.and_then(|progress| progress.last);
        let position = skips::passed(&rows.skips, next);
        let mut flow = Self {
            place,
            limits,
            acks: Acks::new(position, last),
            end: end.max(position),
            durability: Durability::new(next, now_ms, limits),
            feed: FeedState::default(),
            campaigns: BTreeMap::new(),
            holds: BTreeMap::new(),
            hold_count: HoldCount::new(rows.holds_ever),
            sendable: BTreeSet::new(),
            occupied: BTreeSet::new(),
            unmarked: BTreeMap::new(),
            by_user: ByUser::new(now_ms),
            aside: Aside::default(),
            catch_ups: CatchUps::default(),
            neighbours: Neighbours::default(),
            marking: None,
            kept_back: KeptBackLook::new(now_ms),
            incarnations: 0,
            now_ms,
            idle_checked_ms: now_ms,
            is_new: true,
        };
        let mut effects = vec![Effect::Credit(limits.window_records)];
        flow.take_holds(&rows.holds, &mut effects);
        flow.is_new = false;
        flow.flush(&mut effects);
        (flow, effects)
    }

    /// Handles an event and adds the effects. Call [`Self::flush`] when no further event waits:
    /// batches, messages and writes then carry as much as possible.
    pub fn step(&mut self, event: Event, effects: &mut Vec<Effect>) {
        match event {
            Event::Read(records) => self.read(records, effects),
            Event::Passed(to) => {
                self.acks.pass(to);
                self.end = self.end.max(to);
            }
            Event::Started { campaign, incarnation, expects_until } => {
                self.started(&campaign, incarnation, expects_until, effects);
            }
            Event::Report(report) => self.report(report, effects),
            Event::Contradicted { campaign, incarnation, contradiction } => {
                let Contradiction { from, reason, detail } = contradiction;
                if self.is_current(&campaign, incarnation) {
                    self.hold(&campaign, from, (reason, &detail), effects);
                }
            }
            Event::Failed { campaign, incarnation, reason } => {
                self.failed(&campaign, incarnation, reason, effects);
            }
            Event::Replayed { run, records, read_to } => {
                self.replayed(run, records, read_to, effects);
            }
            Event::NotReplayed { run, below, detail } => {
                self.not_replayed(run, below, &detail, effects);
            }
            Event::LookedUp { below, known } => self.looked_up(below, known, effects),
            Event::ReadAgain { run, records, read_to } => {
                self.read_again(run, records, read_to, effects);
            }
            Event::LettersRead { run, records, read_to } => {
                self.letters_read(run, records, read_to, effects);
            }
            Event::Marked(offset) => self.marked(offset, effects),
            Event::HoldWritten(hold) => self.hold_written(&hold, effects),
            Event::Holds(holds) => self.take_holds(&holds, effects),
            Event::HoldsCounted { found, expected } => {
                self.kept_back.store_answered(self.now_ms);
                if self.hold_count.compare(found, expected) {
                    effects.push(Effect::HoldCountLost { expected });
                }
            }
            Event::DeadLettered { offset, of } => self.dead_lettered(offset, of, effects),
            Event::ByUserStored { campaign, number } => {
                self.by_user_stored(&campaign, number, effects);
            }
            Event::MarksStored(marks) => self.marks_stored(&marks),
            Event::Persisted(next) => self.persisted(next),
            Event::Loads { campaign, incarnation, step } => {
                if self.is_current(&campaign, incarnation)
                    && let Some(owned) = self.campaigns.get_mut(&campaign)
                {
                    owned.load_goes(step);
                }
            }
            Event::End(end) => self.end = self.end.max(end),
            Event::Tick { now_ms, wall } => {
                self.kept_back.ticks(now_ms.saturating_sub(self.now_ms));
                self.now_ms = now_ms;
                self.look_at_kept_back(effects);
                self.make_way();
                self.stop_idle(wall, effects);
            }
        }
    }

    /// Sends batches, publishes decisions, and writes progress when it is due.
    pub fn flush(&mut self, effects: &mut Vec<Effect>) {
        self.acks.advance();
        self.look_aside(effects);
        self.send(effects);
        self.persist(effects);
        self.write_by_user(effects);
        self.publish(effects);
        self.give_credit(effects);
    }

    /// Returns the campaign whose by-user rows are to be looked at now, and its incarnation: of those
    /// that decide, the one that waits longest.
    pub fn next_to_scrub(&mut self) -> Option<(CampaignId, u64)> {
        let (now_ms, scrub_ms) = (self.now_ms, self.limits.scrub_ms);
        let due =
            self.campaigns.iter_mut().filter(|(_, owned)| owned.is_scrub_due(now_ms, scrub_ms));
        let (campaign, owned) = due.min_by_key(|(_, owned)| owned.scrubbed_ms())?;
        owned.scrubbed(now_ms);
        Some((campaign.clone(), owned.incarnation()))
    }

    /// Returns the watermark: every position below it is decided and stored, or held.
    #[must_use]
    pub fn watermark(&self) -> Offset {
        self.acks.watermark()
    }

    /// Returns one past the offset of the last record read.
    #[must_use]
    pub fn position(&self) -> Offset {
        self.acks.position()
    }

    /// Returns how many holds the partition ever had, as far as that is durable.
    #[must_use]
    pub fn holds_counted(&self) -> u64 {
        self.hold_count.stored()
    }

    /// Returns whether durable progress has passed everything that was read.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.acks.is_empty() && self.durability.progress() == self.acks.position()
    }

    /// Returns whether this is the campaign's latest incarnation: messages of earlier ones are
    /// stale.
    #[must_use]
    pub fn is_current(&self, campaign: &CampaignId, incarnation: u64) -> bool {
        self.campaigns.get(campaign).is_some_and(|owned| owned.incarnation() == incarnation)
    }

    fn next_incarnation(&mut self) -> u64 {
        self.incarnations += 1;
        self.incarnations
    }

    /// Gives a campaign a new actor, or none. Returns its incarnation.
    fn replace(&mut self, campaign: &CampaignId, phase: Phase) -> Option<u64> {
        let incarnation = self.next_incarnation();
        let owned = self.campaigns.get_mut(campaign)?;
        let freed = owned.restart(incarnation, phase);
        self.catch_ups.leave(campaign);
        self.free(freed);
        Some(incarnation)
    }

    /// Returns a campaign and its holds.
    fn owned(&mut self, campaign: &CampaignId) -> Option<(&mut OwnedCampaign, &mut Holds)> {
        let owned = self.campaigns.get_mut(campaign)?;
        Some((owned, self.holds.entry(campaign.clone()).or_default()))
    }

    fn read(&mut self, records: Vec<Incoming>, effects: &mut Vec<Effect>) {
        for Incoming { record, content } in records {
            self.acks.read(record);
            self.end = self.end.max(self.acks.position());
            match content {
                Some(read) => self.route(read, effects),
                None => {
                    self.acks.letter(record.offset, None);
                    self.free(1);
                }
            }
        }
    }

    fn route(&mut self, read: ReadRecord, effects: &mut Vec<Effect>) {
        let campaign = read.record.campaign().clone();
        let (offset, cost) = (read.raw.offset, credit(&read.raw));
        if !self.campaigns.contains_key(&campaign) && !self.starts(&read, effects) {
            return self.free(cost);
        }
        let Some(owned) = self.campaigns.get_mut(&campaign) else { return };
        owned.touch(self.now_ms);
        self.neighbours.saw(&campaign, self.now_ms);
        match owned.phase() {
            Phase::Held | Phase::CatchingUp { .. } => {
                let waits = self.pass_held(&campaign, &read, effects);
                self.free(cost - usize::from(waits));
            }
            Phase::Starting | Phase::Live { .. } | Phase::Opening | Phase::Meeting { .. } => {
                if self.keeps_aside(&campaign, offset, cost) {
                    return;
                }
                if let Some(owned) = self.campaigns.get_mut(&campaign) {
                    owned.push(read, self.now_ms);
                }
                self.sendable.insert(campaign.clone());
                self.occupied.insert(campaign);
            }
        }
    }

    /// Lets a record pass under a hold. Returns whether it waits, without its bytes and for one
    /// credit.
    fn pass_held(
        &mut self,
        campaign: &CampaignId,
        read: &ReadRecord,
        effects: &mut Vec<Effect>,
    ) -> bool {
        let Some((owned, holds)) = self.owned(campaign) else { return false };
        let is_held = matches!(owned.phase(), Phase::Held);
        let names = released_by(&read.record).filter(|_| is_held).unwrap_or_default();
        let released = holds.release(read.raw.offset, names);
        // It passes only once its holds are marked released: a crash in between would otherwise lose
        // the release.
        let waits = !released.is_empty();
        if !waits {
            self.acks.done(read.raw.offset);
        }
        effects.extend(released.into_iter().map(|hold| Effect::WriteHold { hold, mark: None }));
        waits
    }

    /// Starts a campaign from durable progress. What it needs from there on is sent again, or read
    /// again.
    fn start(&mut self, campaign: &CampaignId, delay_ms: u64, effects: &mut Vec<Effect>) {
        self.enter(campaign, Phase::Starting);
        let Some(incarnation) = self.replace(campaign, Phase::Starting) else { return };
        let Some(owned) = self.campaigns.get_mut(campaign) else { return };
        let from = owned.start_from(self.durability.progress());
        // Records below were stored by an earlier incarnation. They are loaded, not decided again.
        let mut freed = owned.drop_below(from);
        let (recalled, is_aside) = owned.recall(from);
        freed += recalled;
        if is_aside {
            self.set_aside(campaign, Some(from));
        }
        self.free(freed);
        effects.push(Effect::Start { campaign: campaign.clone(), incarnation, from, delay_ms });
    }

    fn started(
        &mut self,
        campaign: &CampaignId,
        incarnation: u64,
        expects_until: Option<Offset>,
        effects: &mut Vec<Effect>,
    ) {
        if !self.is_current(campaign, incarnation) {
            return;
        }
        self.proven(campaign);
        let Some(owned) = self.campaigns.get_mut(campaign) else { return };
        if owned.started(expects_until) {
            self.catches_up(campaign, effects);
        } else {
            self.sendable.insert(campaign.clone());
        }
    }

    fn failed(
        &mut self,
        campaign: &CampaignId,
        incarnation: u64,
        reason: String,
        effects: &mut Vec<Effect>,
    ) {
        if !self.is_current(campaign, incarnation) {
            return;
        }
        let durable = self.durability.progress();
        let Some((owned, holds)) = self.owned(campaign) else { return };
        let (from, verdict) = owned.failed(reason.clone(), holds.held_from(), durable);
        match (verdict, holds.is_held()) {
            (Verdict::Restart { delay_ms }, false) => self.start(campaign, delay_ms, effects),
            (Verdict::Restart { delay_ms }, true) => self.catch_up(campaign, delay_ms, effects),
            (Verdict::GiveUp, _) => {
                self.hold(campaign, from, (HoldReason::ActorFailed, &reason), effects);
            }
        }
    }

    fn stop_idle(&mut self, wall: Timestamp, effects: &mut Vec<Effect>) {
        if self.now_ms.saturating_sub(self.idle_checked_ms) < IDLE_CHECK_INTERVAL_MS {
            return;
        }
        self.idle_checked_ms = self.now_ms;
        let (now_ms, holds, idle_ms) = (self.now_ms, &self.holds, self.limits.idle_ms);
        let occupied = &self.occupied;
        self.campaigns.retain(|campaign, owned| {
            let held = holds.get(campaign).is_some_and(|it| it.is_held() || it.has_closed());
            // A new actor would start from durable progress, without what is stored above it.
            let is_settled = !occupied.contains(campaign);
            let stop = !held && is_settled && owned.is_idle(wall, now_ms, idle_ms);
            if stop {
                effects.push(Effect::Stop { campaign: campaign.clone() });
            }
            !stop
        });
    }
}
