//! One owned partition: which campaign gets which records, how far the partition is settled, what
//! is said of it, and what happens to a campaign that fails.
//!
//! Everything at or above durable progress is kept until progress has passed it, so that a
//! campaign can start again from memory; what is older is read from the log again.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    acks::Acks,
    lane::{Kept, Lane, Phase, is_release},
    recovery::Contradiction,
    restart::{Failures, Verdict},
};
use crate::{
    domain::{
        campaign::At,
        ids::{CampaignId, Offset, Partition, Timestamp},
        record::Record,
        rows::{Hold, HoldKind, Mark, PartitionRows},
    },
    planted,
    wire::{decode_step::Incoming, feed_message::FeedDecision},
};

mod event;
mod holds;
mod settle;
#[cfg(test)]
mod tests;

pub use event::{Effect, Event, Report};

/// Records of a partition that are kept at once: at 40,000 decisions a second, 0.4 s of them, far
/// more than a store's latency; at 400 bytes each, 6 MiB.
pub const WINDOW_RECORDS_MAX: usize = 16_384;

/// Records in one batch: half a millisecond of decisions.
pub const BATCH_RECORDS_MAX: usize = 1_024;

/// Batches of one campaign under way at once: one decides while others are being stored.
pub const BATCHES_MAX: usize = 4;

/// Progress is written when it is this many records behind the watermark …
const PROGRESS_RECORDS_MAX: u64 = 1_000;

/// … or this many milliseconds.
const PROGRESS_INTERVAL_MS: u64 = 100;

/// The watermark is said at least this often, so that who waits knows that somebody lives.
const HEARTBEAT_INTERVAL_MS: u64 = 1_000;

/// A campaign that is over and had no record for this long gives its memory back.
const IDLE_MS: u64 = 600_000;

/// How often holds that were closed are extended where nothing of their campaign was read.
const HOLD_SWEEP_INTERVAL_MS: u64 = 10_000;

/// How often idle campaigns are looked for.
const IDLE_CHECK_INTERVAL_MS: u64 = 10_000;

const _: () = assert!(BATCH_RECORDS_MAX * BATCHES_MAX <= WINDOW_RECORDS_MAX);

/// The state of one owned partition.
#[derive(Debug)]
pub struct Flow {
    log_epoch: u32,
    partition: Partition,
    acks: Acks,
    durable: Offset,
    persisting: bool,
    lanes: BTreeMap<CampaignId, Lane>,
    sendable: BTreeSet<CampaignId>,
    occupied: BTreeSet<CampaignId>,
    hold_numbers: BTreeMap<CampaignId, u32>,
    /// Marks of campaigns whose last coupons were stored just before a hold.
    unmarked: BTreeMap<CampaignId, Mark>,
    /// Campaigns with closed holds that this owner extends.
    once_held: BTreeSet<CampaignId>,
    /// Those that earlier owners closed, until their campaign starts here.
    adopted: BTreeMap<CampaignId, Vec<Hold>>,
    swept_ms: u64,
    sweeps_now: bool,
    /// Until the holds found on assignment are taken over.
    is_new: bool,
    /// Dead letters of undefined campaigns under way.
    letters: BTreeMap<Offset, CampaignId>,
    outbox: Vec<FeedDecision>,
    published: Offset,
    end: Offset,
    incarnations: u64,
    now_ms: u64,
    persisted_ms: u64,
    heartbeat_ms: Option<u64>,
    idle_checked_ms: u64,
}

impl Flow {
    /// Takes a partition over: from its progress, with its holds.
    #[must_use]
    pub fn new(
        (log_epoch, partition): (u32, Partition),
        rows: PartitionRows,
        end: Offset,
        now_ms: u64,
    ) -> (Self, Vec<Effect>) {
        let next = rows.progress.as_ref().map_or(0, |progress| progress.next);
        let last = rows.progress.and_then(|progress| progress.last);
        let mut flow = Self {
            log_epoch,
            partition,
            acks: Acks::new(next, last),
            durable: next,
            persisting: false,
            lanes: BTreeMap::new(),
            sendable: BTreeSet::new(),
            occupied: BTreeSet::new(),
            hold_numbers: BTreeMap::new(),
            unmarked: BTreeMap::new(),
            once_held: BTreeSet::new(),
            adopted: BTreeMap::new(),
            swept_ms: now_ms,
            sweeps_now: false,
            is_new: true,
            letters: BTreeMap::new(),
            outbox: Vec::new(),
            published: 0,
            end: end.max(next),
            incarnations: 0,
            now_ms,
            persisted_ms: now_ms,
            heartbeat_ms: None,
            idle_checked_ms: now_ms,
        };
        let mut effects = vec![Effect::Credit(WINDOW_RECORDS_MAX)];
        flow.take_holds(&rows.holds, &mut effects);
        flow.is_new = false;
        flow.flush(&mut effects);
        (flow, effects)
    }

    /// Takes an event in and says what is to be done. Call [`Self::flush`] when no further event
    /// waits: what belongs together then goes out together.
    pub fn step(&mut self, event: Event, effects: &mut Vec<Effect>) {
        match event {
            Event::Read(records) => self.read(records, effects),
            Event::Ready { campaign, incarnation, expects_until } => {
                self.ready(&campaign, incarnation, expects_until, effects);
            }
            Event::Report(report) => self.report(report, effects),
            Event::Contradicted { campaign, incarnation, contradiction } => {
                let Contradiction { from, detail } = contradiction;
                if self.is_current(&campaign, incarnation) {
                    self.hold(&campaign, HoldKind::Contradiction, from, detail, effects);
                }
            }
            Event::Failed { campaign, incarnation, reason } => {
                self.failed(&campaign, incarnation, reason, effects);
            }
            Event::Replayed { campaign, incarnation, records, read_to } => {
                self.replayed(campaign, incarnation, records, read_to, effects);
            }
            Event::HoldWritten(hold) => self.hold_written(&hold, effects),
            Event::Holds(holds) => self.take_holds(&holds, effects),
            Event::DeadLettered(offset) => self.dead_lettered(offset, effects),
            Event::Persisted(next) => self.persisted(next, effects),
            Event::End(end) => self.end = self.end.max(end),
            Event::Tick { now_ms, wall } => {
                self.now_ms = now_ms;
                self.stop_idle(wall, effects);
            }
        }
    }

    /// Sends what may be sent, says what is new, and makes progress durable when it is due.
    pub fn flush(&mut self, effects: &mut Vec<Effect>) {
        self.acks.advance();
        self.send(effects);
        self.persist(effects);
        self.publish(effects);
    }

    /// Every position below is decided and stored, holds aside.
    #[must_use]
    pub fn watermark(&self) -> Offset {
        self.acks.watermark()
    }

    /// One past the last record read.
    #[must_use]
    pub fn position(&self) -> Offset {
        self.acks.position()
    }

    /// Whether everything read is settled and durable.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.acks.is_empty() && self.durable == self.acks.position()
    }

    /// Records that wait for a decision.
    #[must_use]
    pub fn lag(&self) -> u64 {
        self.end.max(self.acks.position()).saturating_sub(self.acks.watermark())
    }

    /// How operators see a campaign's actor, and why; none when it has no lane.
    #[must_use]
    pub fn view(&self, campaign: &CampaignId) -> Option<(&'static str, Option<String>)> {
        let lane = self.lanes.get(campaign)?;
        let state = match lane.phase {
            Phase::Starting | Phase::CatchingUp => "recovering",
            Phase::Live => "live",
            Phase::Opening | Phase::Held => "quarantined",
        };
        Some((state, lane.reason.clone()))
    }

    fn is_current(&self, campaign: &CampaignId, incarnation: u64) -> bool {
        self.lanes
            .get(campaign)
            .is_some_and(|lane| lane.incarnation == incarnation || planted!(LateReportTaken))
    }

    fn read(&mut self, records: Vec<Incoming>, effects: &mut Vec<Effect>) {
        for Incoming { record, time, content } in records {
            self.acks.read(record);
            self.end = self.end.max(self.acks.position());
            if let Some(content) = content {
                self.route(At { offset: record.offset, time }, content, effects);
            }
        }
    }

    fn route(&mut self, at: At, record: Record, effects: &mut Vec<Effect>) {
        let campaign = record.campaign().clone();
        if !self.lanes.contains_key(&campaign) {
            self.start(&campaign, 0, effects);
        }
        let now_ms = self.now_ms;
        let Some(lane) = self.lanes.get_mut(&campaign) else { return };
        lane.active_ms = now_ms;
        match lane.phase {
            Phase::Held if is_release(&record) => {
                lane.releasing.push(at.offset);
                self.release(&campaign, effects);
            }
            Phase::Held | Phase::CatchingUp => {
                self.acks.done(at.offset);
                effects.push(Effect::Credit(1));
            }
            Phase::Starting | Phase::Live | Phase::Opening => {
                lane.kept.push_back(Kept { at, record, issued: None });
                if planted!(DoneWhenRead) {
                    self.acks.done(at.offset);
                }
                self.sendable.insert(campaign.clone());
                self.occupied.insert(campaign);
            }
        }
    }

    /// Starts a campaign from durable progress: what is kept of it is sent again from there.
    fn start(&mut self, campaign: &CampaignId, delay_ms: u64, effects: &mut Vec<Effect>) {
        self.incarnations += 1;
        let incarnation = self.incarnations;
        let now_ms = self.now_ms;
        let lane = self
            .lanes
            .entry(campaign.clone())
            .or_insert_with(|| Lane::new(Phase::Starting, incarnation, now_ms));
        lane.restart(incarnation, Phase::Starting);
        if let Some(adopted) = self.adopted.remove(campaign) {
            lane.closed.extend(adopted);
            lane.extended = 0;
        }
        let from = self.durable.max(lane.floor);
        lane.start_from = from;
        // What is below was stored by an earlier incarnation and is loaded, not decided again.
        effects.push(Effect::Credit(lane.drop_below(from)));
        effects.push(Effect::Start { campaign: campaign.clone(), incarnation, from, delay_ms });
    }

    fn pass_kept(&mut self, campaign: &CampaignId, effects: &mut Vec<Effect>) {
        let Some(lane) = self.lanes.get_mut(campaign) else { return };
        if let Some(from) = lane.held_from()
            && let Some(issued) = lane.issued_below(from)
        {
            let mark = Mark { campaign: campaign.clone(), offset: from, issued };
            self.unmarked.insert(campaign.clone(), mark);
        }
        let passed = lane.drop_kept();
        for offset in &passed {
            self.acks.done(*offset);
        }
        self.occupied.remove(campaign);
        self.sendable.remove(campaign);
        effects.push(Effect::Credit(passed.len()));
    }

    fn ready(
        &mut self,
        campaign: &CampaignId,
        incarnation: u64,
        expects_until: Option<Offset>,
        effects: &mut Vec<Effect>,
    ) {
        if !self.is_current(campaign, incarnation) {
            return;
        }
        let position = self.acks.position();
        let Some(lane) = self.lanes.get_mut(campaign) else { return };
        lane.expects_until = expects_until;
        if lane.phase == Phase::CatchingUp {
            let from = lane.start_from;
            effects.push(Effect::Replay { campaign: campaign.clone(), incarnation, from });
            if from >= position {
                self.replayed(campaign.clone(), incarnation, Vec::new(), position, effects);
            }
        } else {
            lane.phase = Phase::Live;
            if lane.kept.is_empty() && expects_until.is_none() {
                // With nothing left to decide, this start is past whatever failed.
                lane.failures = Failures::default();
            }
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
        let durable = self.durable;
        let Some(lane) = self.lanes.get_mut(campaign) else { return };
        lane.reason = Some(reason.clone());
        let from = lane.first_unstored().unwrap_or(durable);
        let from = lane.held_from().unwrap_or(from);
        // Where nothing of the campaign waits, others move progress on and not its failures.
        let waits = lane.first_unstored().is_some() || !lane.holds.is_empty();
        let at = lane.failures.at().filter(|_| !waits).unwrap_or(from);
        let verdict = lane.failures.failed(at);
        let held = !lane.holds.is_empty();
        match (verdict, held) {
            (Verdict::Restart { delay_ms }, false) => self.start(campaign, delay_ms, effects),
            (Verdict::Restart { delay_ms }, true) => self.catch_up(campaign, delay_ms, effects),
            (Verdict::GiveUp, _) => self.hold(campaign, HoldKind::Failure, from, reason, effects),
        }
    }

    fn stop_idle(&mut self, wall: Timestamp, effects: &mut Vec<Effect>) {
        if self.now_ms.saturating_sub(self.idle_checked_ms) < IDLE_CHECK_INTERVAL_MS {
            return;
        }
        self.idle_checked_ms = self.now_ms;
        let now_ms = self.now_ms;
        self.lanes.retain(|campaign, lane| {
            let over = lane.over_from.is_some_and(|over| over <= wall);
            let idle = now_ms.saturating_sub(lane.active_ms) >= IDLE_MS;
            let rests = lane.phase == Phase::Live && lane.kept.is_empty() && lane.holds.is_empty();
            let rests = rests && lane.closed.is_empty();
            let stop = over && idle && rests && lane.batches.is_empty() && !lane.replaying;
            if stop {
                effects.push(Effect::Stop { campaign: campaign.clone() });
            }
            !stop
        });
    }
}
