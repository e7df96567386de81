//! One campaign of an owned partition: the phase of its actor and the records that wait for it.

mod aside;
mod phase;
mod replay;

use super::{
    fold::Batch,
    gathered::Gathered,
    restart::{Failures, KeptBack, LoadStep, Patience, Tries, Verdict},
    window::{Cleared, Window},
};
use crate::{
    domain::{
        coupon::Coupon,
        ids::{Offset, Timestamp},
        rows::Counts,
    },
    wire::decode_step::ReadRecord,
};

pub(super) use phase::Phase;

/// One campaign of an owned partition.
#[derive(Debug)]
pub(super) struct OwnedCampaign {
    phase: Phase,
    /// Number of the current actor: messages of earlier ones are ignored.
    incarnation: u64,
    window: Window,
    gathered: Gathered,
    /// The campaign's records from here on are set aside: they are read again once it decides. None
    /// of them is in the window.
    aside_from: Option<Offset>,
    /// When it last stored a record, or got one while it had none.
    moved_ms: u64,
    /// The current actor was not sent, and must not be sent, records below: they are stored.
    from: Offset,
    /// No start is below this offset: replayed records are stored and no longer in the window.
    floor: Offset,
    failures: Failures,
    kept_back: KeptBack,
    /// The load waits for its place among the loads at once.
    load_waits: bool,
    /// The tries of its hold.
    tries: Tries,
    /// The reason of the last failure or hold.
    reason: Option<String>,
    /// From this time on nothing is issued any more, as last reported by the actor.
    over_from: Option<Timestamp>,
    /// The time of the last record or report, in milliseconds of the monotonic clock.
    active_ms: u64,
    /// When its by-user rows were last looked at, or it was first seen.
    scrubbed_ms: u64,
}

impl OwnedCampaign {
    pub(super) fn new(phase: Phase, now_ms: u64) -> Self {
        Self {
            phase,
            incarnation: 0,
            window: Window::default(),
            gathered: Gathered::default(),
            aside_from: None,
            moved_ms: now_ms,
            from: 0,
            floor: 0,
            failures: Failures::default(),
            kept_back: KeptBack::default(),
            load_waits: false,
            tries: Tries::default(),
            reason: None,
            over_from: None,
            active_ms: now_ms,
            scrubbed_ms: now_ms,
        }
    }

    pub(super) fn phase(&self) -> &Phase {
        &self.phase
    }

    pub(super) fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// Returns the reason of the last failure or hold, unless that is over.
    pub(super) fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    pub(super) fn note_reason(&mut self, reason: String) {
        self.reason = Some(reason);
    }

    /// Replaces the actor by a new one, to which nothing was sent yet. Returns the credit of what an
    /// earlier one was replaying.
    pub(super) fn restart(&mut self, incarnation: u64, phase: Phase) -> usize {
        self.incarnation = incarnation;
        self.phase = phase;
        self.load_waits = false;
        self.window.restart()
    }

    /// Notes that the hold is durable. Records pass undecided from now on.
    pub(super) fn held(&mut self) {
        self.phase = Phase::Held;
    }

    /// Notes that an operator has released the hold. Earlier failures no longer count.
    pub(super) fn released(&mut self) {
        self.failures = Failures::default();
        self.tries = Tries::default();
    }

    /// Forgets the last failure, because the last hold is closed.
    pub(super) fn hold_closed(&mut self) {
        self.reason = None;
        self.tries = Tries::default();
    }

    /// Notes that a hold begins, or that a try of it has failed.
    pub(super) fn try_later(&mut self, now_ms: u64) {
        self.tries.failed(now_ms);
    }

    /// Returns whether the campaign rests on its hold, and the next try is due.
    pub(super) fn is_try_due(&self, now_ms: u64) -> bool {
        matches!(self.phase, Phase::Held) && self.tries.is_due(now_ms)
    }

    /// Notes how the load of its rows goes on.
    pub(super) fn load_goes(&mut self, step: LoadStep) {
        self.load_waits = step == LoadStep::Waits;
        if step == LoadStep::Page {
            self.kept_back.anew();
        }
    }

    /// Begins the count of how long it keeps progress back anew.
    pub(super) fn kept_back_anew(&mut self) {
        self.kept_back.anew();
    }

    /// Lets `ms` pass in which the process ran and the store answered. `unmarked` is the first
    /// position from which on a mark is not durable, if marks are being written.
    pub(super) fn keeps_back(&mut self, unmarked: Option<Offset>, ms: u64) -> Patience {
        let unstored = match self.phase {
            Phase::Starting => self.first_unstored(),
            // What is set aside waits for its turn among others.
            Phase::Live { .. } => {
                self.window.first_unstored().into_iter().chain(self.gathered.first()).min()
            }
            Phase::Meeting { .. } => self.window.first_live(),
            Phase::Opening | Phase::Held | Phase::CatchingUp { .. } => None,
        };
        if self.load_waits || matches!(self.phase, Phase::Opening) {
            return Patience::Wait;
        }
        self.kept_back.pass(unstored.into_iter().chain(unmarked).min(), ms)
    }

    /// Counts a failure of the actor. `held_from` is where the campaign's hold begins, if it is
    /// held, and `durable` is durable progress. Returns the position of the failure and what to do.
    pub(super) fn failed(
        &mut self,
        reason: String,
        held_from: Option<Offset>,
        durable: Offset,
    ) -> (Offset, Verdict) {
        self.reason = Some(reason);
        let unstored = self.first_unstored();
        let from = held_from.or(unstored).unwrap_or(durable);
        // Where the campaign has nothing to decide, other campaigns move progress on, and that
        // must not make each failure look like the first at a new position.
        let waits = unstored.is_some() || held_from.is_some();
        let at = self.failures.at().filter(|_| !waits).unwrap_or(from);
        (from, self.failures.failed(at))
    }

    /// Returns where a start begins, given durable progress.
    pub(super) fn start_from(&self, durable: Offset) -> Offset {
        // Records that a replay has stored above progress are not in the window any more.
        durable.max(self.floor)
    }

    pub(super) fn touch(&mut self, now_ms: u64) {
        self.active_ms = now_ms;
    }

    pub(super) fn over_from(&mut self, over_from: Option<Timestamp>) {
        self.over_from = over_from;
    }

    /// Notes that the actor has loaded its rows. Returns whether a replay follows.
    pub(super) fn started(&mut self, expects: Option<Offset>) -> bool {
        if let Phase::CatchingUp { is_loaded, replay, .. } = &mut self.phase {
            (*is_loaded, replay.expects_until) = (true, expects);
            return true;
        }
        self.phase = Phase::Live { expects_until: expects };
        if self.first_unstored().is_none() && expects.is_none() {
            // No record is left to decide, so this start has passed the failure.
            self.failures = Failures::default();
        }
        false
    }

    pub(super) fn window(&self) -> &Window {
        &self.window
    }

    /// Adds a record.
    pub(super) fn push(&mut self, read: ReadRecord, now_ms: u64) {
        if self.window.first_unstored().is_none() {
            self.moved_ms = now_ms;
        }
        self.window.push(read);
    }

    /// Ends the oldest batch in flight; see [`Window::batch_stored`].
    pub(super) fn batch_stored(&mut self, reported: usize, now_ms: u64) -> bool {
        self.moved_ms = now_ms;
        self.window.batch_stored(reported)
    }

    /// Notes that the record at `offset`, the next of the window, is stored, and gathers its by-user
    /// row. Returns the credit that is free, and whether the row was gathered: it keeps one credit.
    pub(super) fn record_stored(
        &mut self,
        offset: Offset,
        counts: Option<Counts>,
        by_user: Option<Coupon>,
    ) -> (usize, bool) {
        self.failures.passed(offset);
        let (credit, is_first) = self.window.record_stored(counts);
        // What is stored again was gathered the first time.
        let Some(coupon) = by_user.filter(|_| is_first) else { return (credit, false) };
        self.gathered.push(coupon);
        (credit - 1, true)
    }

    /// Returns the by-user rows that are not durable.
    pub(super) fn gathered(&self) -> &Gathered {
        &self.gathered
    }

    /// Begins a write of gathered rows; see [`Gathered::write`].
    pub(super) fn write_gathered(&mut self) -> Option<(u64, Vec<Coupon>)> {
        self.gathered.write()
    }

    /// Ends a write of gathered rows; see [`Gathered::stored`].
    pub(super) fn gathered_stored(&mut self, number: u64) -> usize {
        self.gathered.stored(number)
    }

    /// Forgets what no mark counts, because a hold covers it. Returns the number of gathered rows.
    pub(super) fn forget_gathered(&mut self) -> usize {
        self.window.forget_unmarked();
        self.gathered.clear()
    }

    /// Notes that a mark at `to` is durable.
    ///
    /// # Panics
    /// If it counts a by-user row that is not durable. What is gathered is always above the last mark, so
    /// that a hold which covers what no mark counts covers all of it.
    pub(super) fn marked(&mut self, to: Offset) {
        let first = self.gathered.first();
        assert!(
            first.is_none_or(|first| first >= to),
            "the mark at {to} counts the row of {first:?}"
        );
        self.window.marked(to);
    }

    /// Returns a position at or below the first one at which not all is durable: a row, or the mark
    /// that counts it.
    pub(super) fn first_undone(&self) -> Option<Offset> {
        self.first_unstored().into_iter().chain(self.window.first_unmarked()).min()
    }

    /// Forgets the records below `from`, before anything was sent. Returns their credit.
    pub(super) fn drop_below(&mut self, from: Offset) -> usize {
        self.window.drop_below(from)
    }

    /// Forgets every record. Returns them in order.
    pub(super) fn clear(&mut self) -> Vec<Cleared> {
        self.window.clear()
    }

    /// Returns the next batch of at most `max` records, if one may be sent. `position` is how far
    /// the partition was read.
    pub(super) fn next_batch(&mut self, max: usize, position: Offset) -> Option<Batch> {
        let is_replay = self.is_replaying();
        let (expects_until, position) = match &mut self.phase {
            // What is set aside was not derived, so no row of it may be missed yet.
            Phase::Live { expects_until } => {
                (expects_until, self.aside_from.map_or(position, |aside| aside.min(position)))
            }
            Phase::CatchingUp { next, is_loaded: true, replay } => {
                (&mut replay.expects_until, *next)
            }
            Phase::Meeting { replay } => (&mut replay.expects_until, self.floor),
            Phase::Starting | Phase::Opening | Phase::Held | Phase::CatchingUp { .. } => {
                return None;
            }
        };
        // A batch without records still shows the actor that it has passed an expectation.
        let passed = self.window.next_passes(max, position);
        let confirms = expects_until.is_some_and(|expected| expected < passed);
        if !self.window.has_unsent_below(position) && !confirms {
            return None;
        }
        if confirms {
            *expects_until = None;
        }
        Some(Batch { is_replay, ..self.window.send(max, position) })
    }

    /// Returns whether [`Self::next_batch`] may give something later without a further event.
    pub(super) fn has_unsent(&self) -> bool {
        let expects = matches!(self.phase, Phase::Live { expects_until: Some(_) });
        expects || self.window.has_unsent()
    }

    /// Returns the live position that the last replay met.
    pub(super) fn floor(&self) -> Offset {
        self.floor
    }

    pub(super) fn scrubbed_ms(&self) -> u64 {
        self.scrubbed_ms
    }

    pub(super) fn scrubbed(&mut self, now_ms: u64) {
        self.scrubbed_ms = now_ms;
    }

    /// Returns whether the campaign decides, and its by-user rows were not looked at for `scrub_ms`.
    pub(super) fn is_scrub_due(&self, now_ms: u64, scrub_ms: u64) -> bool {
        let is_due = now_ms.saturating_sub(self.scrubbed_ms) >= scrub_ms;
        is_due && matches!(self.phase, Phase::Live { .. })
    }

    /// Returns whether the campaign is over and has had no record for `idle_ms`.
    pub(super) fn is_idle(&self, wall: Timestamp, now_ms: u64, idle_ms: u64) -> bool {
        let over = self.over_from.is_some_and(|over| over <= wall);
        let idle = now_ms.saturating_sub(self.active_ms) >= idle_ms;
        over && idle && self.rests() && matches!(self.phase, Phase::Live { .. })
    }

    /// Returns whether nothing of the campaign waits to be decided.
    pub(super) fn rests(&self) -> bool {
        self.first_unstored().is_none() && self.window.batches() == 0
    }

    /// Returns a position at or below the first record that is neither stored nor passed, if there may
    /// be one.
    pub(super) fn first_unstored(&self) -> Option<Offset> {
        // Whatever is set aside lies above the window.
        self.window.first_live().or(self.aside_from)
    }
}

#[cfg(test)]
mod tests;
