//! One campaign of an owned partition: the phase of its actor and the records that wait for it.

mod aside;

use std::collections::BTreeSet;

use super::{
    fold::Batch,
    restart::{Failures, KeptBack, LoadStep, Patience, Tries, Verdict},
    window::{Cleared, Window},
};
use crate::{
    domain::{
        ids::{Offset, Timestamp},
        rows::Counts,
    },
    wire::{LogRecord, decode_step::ReadRecord},
};

/// A chunk of older records that is being decided again.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    /// The bytes of its records, until they are decided.
    raw: Vec<LogRecord>,
    /// Offsets of its dead letters that are not durable yet.
    undefined: BTreeSet<Offset>,
}

/// The phase of a campaign's actor. Each field exists only where it means something.
#[derive(Debug)]
pub(super) enum Phase {
    /// The rows are being loaded, or a restart waits for its delay. Records are kept.
    Starting,
    /// Records are decided as they are read.
    Live {
        /// A stored row up to here must still be derived again.
        expects_until: Option<Offset>,
    },
    /// A hold is being written. Records are kept: none may pass before the hold is durable.
    Opening,
    /// A hold is durable. Records pass undecided.
    Held,
    /// The campaign is replayed from its hold on. Records pass: the replay reads them again.
    CatchingUp {
        /// Where the replay begins.
        from: Offset,
        /// The chunk in flight.
        chunk: Option<Chunk>,
        /// The campaign's rows after the last record of the replay that has one.
        counts: Option<Counts>,
        expects_until: Option<Offset>,
    },
    /// The replay has met the live position with its last chunk, which is in flight. Records are
    /// kept again, and sent when the chunk is stored and the holds are being closed.
    Meeting { chunk: Chunk, counts: Option<Counts>, expects_until: Option<Offset> },
}

/// The next step of a replay after a stored chunk.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ChunkStored {
    /// The replay goes on.
    Continue,
    /// The replay has met the live position; the campaign's rows if the replay derived any.
    Met(Option<Counts>),
}

impl Phase {
    /// Returns the phase as operators see it.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Starting | Self::CatchingUp { .. } => "recovering",
            Self::Live { .. } | Self::Meeting { .. } => "live",
            Self::Opening | Self::Held => "quarantined",
        }
    }

    fn chunk(&mut self) -> Option<(&mut Chunk, &mut Option<Counts>)> {
        match self {
            Self::CatchingUp { chunk: Some(chunk), counts, .. }
            | Self::Meeting { chunk, counts, .. } => Some((chunk, counts)),
            Self::Starting
            | Self::Live { .. }
            | Self::Opening
            | Self::Held
            | Self::CatchingUp { chunk: None, .. } => None,
        }
    }
}

/// One campaign of an owned partition.
#[derive(Debug)]
pub(super) struct OwnedCampaign {
    phase: Phase,
    /// Number of the current actor: messages of earlier ones are ignored.
    incarnation: u64,
    window: Window,
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

    /// Replaces the actor by a new one, to which nothing was sent yet.
    pub(super) fn restart(&mut self, incarnation: u64, phase: Phase) {
        self.incarnation = incarnation;
        self.phase = phase;
        self.load_waits = false;
        self.window.restart();
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
            Phase::Live { .. } => self.window.first_unstored(),
            _ => None,
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

    /// Notes that the actor has loaded its rows. Returns the start of the replay, if one is needed.
    pub(super) fn started(&mut self, expects: Option<Offset>) -> Option<Offset> {
        if let Phase::CatchingUp { from, expects_until, .. } = &mut self.phase {
            *expects_until = expects;
            return Some(*from);
        }
        self.phase = Phase::Live { expects_until: expects };
        if self.first_unstored().is_none() && expects.is_none() {
            // No record is left to decide, so this start has passed the failure.
            self.failures = Failures::default();
        }
        None
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

    /// Notes that the record at `offset`, the next of the window, is stored. Returns its credit.
    pub(super) fn record_stored(&mut self, offset: Offset, counts: Option<Counts>) -> usize {
        self.failures.passed(offset);
        self.window.record_stored(counts)
    }

    /// Moves the mark of the window up to `watermark`; see [`Window::mark`].
    pub(super) fn mark(&mut self, watermark: Offset) -> Option<Counts> {
        self.window.mark(watermark)
    }

    /// Takes what no mark below `from` counts; see [`Window::take_unmarked`].
    pub(super) fn take_unmarked(&mut self, from: Offset) -> Option<Counts> {
        self.window.take_unmarked(from)
    }

    /// Forgets the records below `from`, before anything was sent. Returns their credit.
    pub(super) fn drop_below(&mut self, from: Offset) -> usize {
        self.window.drop_below(from)
    }

    /// Forgets every record. Returns them in order.
    pub(super) fn clear(&mut self) -> Vec<Cleared> {
        self.window.clear()
    }

    /// Returns the next live batch of at most `max` records, if one may be sent. `position` is how
    /// far the partition was read.
    pub(super) fn next_batch(&mut self, max: usize, position: Offset) -> Option<Batch> {
        let Phase::Live { expects_until } = &mut self.phase else { return None };
        // What is set aside was not derived, so no row of it may be missed yet.
        let position = self.aside_from.map_or(position, |aside| aside.min(position));
        // A batch without records still shows the actor that it has passed an expectation.
        let passed = self.window.next_passes(max, position);
        let confirms = expects_until.is_some_and(|expected| expected < passed);
        if !self.window.has_unsent() && !confirms {
            return None;
        }
        if confirms {
            *expects_until = None;
        }
        Some(self.window.send(max, position))
    }

    /// Returns whether [`Self::next_batch`] may give something later without a further event.
    pub(super) fn has_unsent(&self) -> bool {
        let expects = match &self.phase {
            Phase::Live { expects_until }
            | Phase::CatchingUp { expects_until, .. }
            | Phase::Meeting { expects_until, .. } => expects_until.is_some(),
            Phase::Starting | Phase::Opening | Phase::Held => false,
        };
        expects || self.window.has_unsent()
    }

    /// Returns whether the replay waits for its next chunk.
    pub(super) fn expects_chunk(&self) -> bool {
        matches!(self.phase, Phase::CatchingUp { chunk: None, .. })
    }

    /// Takes a chunk of the replay in. `met` is the live position, if the chunk reaches it: from
    /// now on records are kept again.
    pub(super) fn begin_chunk(&mut self, raw: Vec<LogRecord>, met: Option<Offset>) {
        let begun = Chunk { raw, undefined: BTreeSet::new() };
        let Phase::CatchingUp { chunk, counts, expects_until, .. } = &mut self.phase else {
            return;
        };
        match met {
            None => *chunk = Some(begun),
            Some(position) => {
                let (counts, expects_until) = (*counts, *expects_until);
                self.phase = Phase::Meeting { chunk: begun, counts, expects_until };
                self.floor = position;
            }
        }
    }

    /// Returns whether a chunk of a replay is in flight.
    pub(super) fn is_replaying(&self) -> bool {
        matches!(self.phase, Phase::CatchingUp { chunk: Some(_), .. } | Phase::Meeting { .. })
    }

    /// Notes the rows after a record of the chunk in flight, if it has one.
    pub(super) fn replayed(&mut self, after: Option<Counts>) {
        if let Some((_, counts)) = self.phase.chunk() {
            *counts = after.or(*counts);
        }
    }

    /// Makes the chunk in flight wait for a dead letter. Returns its bytes.
    pub(super) fn await_dead_letter(&mut self, offset: Offset) -> Option<LogRecord> {
        let (chunk, _) = self.phase.chunk()?;
        let at = chunk.raw.iter().position(|raw| raw.offset == offset)?;
        chunk.undefined.insert(offset);
        Some(chunk.raw.swap_remove(at))
    }

    /// Returns whether the chunk in flight waits for no dead letter.
    pub(super) fn is_chunk_kept(&mut self) -> bool {
        self.phase.chunk().is_some_and(|(chunk, _)| chunk.undefined.is_empty())
    }

    /// Notes that a dead letter is durable. Returns whether the chunk waited only for this one.
    pub(super) fn dead_letter_kept(&mut self, offset: Offset) -> bool {
        self.phase
            .chunk()
            .is_some_and(|(chunk, _)| chunk.undefined.remove(&offset) && chunk.undefined.is_empty())
    }

    /// Drops a chunk that a contradiction ended. Its dead letters are no longer awaited.
    pub(super) fn abandon_chunk(&mut self) {
        if let Some((chunk, _)) = self.phase.chunk() {
            chunk.undefined.clear();
        }
    }

    /// Notes that the chunk in flight and its dead letters are durable.
    pub(super) fn chunk_stored(&mut self) -> ChunkStored {
        match &mut self.phase {
            Phase::Meeting { counts, expects_until, .. } => {
                let (counts, expects_until) = (*counts, *expects_until);
                self.phase = Phase::Live { expects_until };
                ChunkStored::Met(counts)
            }
            Phase::CatchingUp { chunk, .. } => {
                *chunk = None;
                ChunkStored::Continue
            }
            _ => ChunkStored::Continue,
        }
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

    /// Returns a position at or below the first record that is not stored, if there may be one.
    pub(super) fn first_unstored(&self) -> Option<Offset> {
        // Whatever is set aside lies above the window.
        self.window.first_unstored().or(self.aside_from)
    }
}

#[cfg(test)]
mod tests;
