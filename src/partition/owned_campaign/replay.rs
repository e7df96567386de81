//! The replay of a campaign from its hold on.

use super::{OwnedCampaign, Phase};
use crate::{
    domain::{ids::Offset, rows::Counts},
    partition::restart::Patience,
    wire::{LogRecord, decode_step::ReadRecord},
};

impl OwnedCampaign {
    /// Returns the position from which on the campaign waits for records of its replay.
    pub(in crate::partition) fn replays_from(&self) -> Option<Offset> {
        match self.phase {
            Phase::CatchingUp { next, is_loaded: true, .. } => Some(next),
            _ => None,
        }
    }

    /// Adds a record of the replay.
    pub(in crate::partition) fn push_replayed(&mut self, read: ReadRecord) {
        self.window.push_replayed(read);
    }

    /// Notes that every record of the campaign below `to` was handed to it.
    pub(in crate::partition) fn replayed_to(&mut self, to: Offset) {
        if let Phase::CatchingUp { next, .. } = &mut self.phase {
            *next = to;
        }
    }

    /// Notes that the replay has met the live position: from now on records are kept again.
    pub(in crate::partition) fn meets(&mut self, position: Offset) {
        if let Phase::CatchingUp { replay, .. } = &mut self.phase {
            let replay = std::mem::take(replay);
            self.phase = Phase::Meeting { replay };
            self.floor = position;
        }
    }

    /// Returns whether the next report is that of a replay.
    pub(in crate::partition) fn is_replaying(&self) -> bool {
        matches!(self.phase, Phase::CatchingUp { .. } | Phase::Meeting { .. })
    }

    /// Notes that the next record of the replay is stored, and the campaign's rows after it if it has
    /// one. Returns its credit and its bytes.
    pub(in crate::partition) fn replayed(
        &mut self,
        after: Option<Counts>,
    ) -> (usize, Option<LogRecord>) {
        if let Some(replay) = self.phase.replay() {
            replay.counts = after.or(replay.counts);
        }
        self.window.replayed_stored()
    }

    /// Returns whether it can take more records in. `share` bounds its window.
    pub(in crate::partition) fn takes_replayed(&self, share: usize) -> bool {
        self.window.credit() < share
    }

    /// Lets `ms` pass in which the process ran and the store answered. Returns whether the first
    /// record that the replay has handed out was not stored for too long.
    pub(in crate::partition) fn replay_stalls(&mut self, ms: u64) -> bool {
        self.kept_back.pass(self.window.first_unstored(), ms) != Patience::Wait
    }

    /// Makes the replay wait for a dead letter.
    pub(in crate::partition) fn await_dead_letter(&mut self, offset: Offset) {
        if let Some(replay) = self.phase.replay() {
            replay.letters.insert(offset);
        }
    }

    /// Notes that a dead letter is durable.
    pub(in crate::partition) fn dead_letter_kept(&mut self, offset: Offset) {
        if let Some(replay) = self.phase.replay() {
            replay.letters.remove(&offset);
        }
    }

    /// Notes that the replay has met a contradiction. Its holds stay until a new one is durable.
    pub(in crate::partition) fn contradicted(&mut self) {
        if let Some(replay) = self.phase.replay() {
            replay.is_contradicted = true;
        }
    }

    /// Ends a replay that has met the live position, once everything of it is durable. Returns the
    /// campaign's rows, if it derived any.
    pub(in crate::partition) fn met(&mut self) -> Option<Option<Counts>> {
        let (floor, window) = (self.floor, &self.window);
        let is_stored = window.replayed() == 0 && window.batches() == 0;
        let Phase::Meeting { replay } = &mut self.phase else { return None };
        let is_confirmed = replay.expects_until.is_none_or(|expected| expected >= floor);
        let is_over = is_stored && is_confirmed && replay.letters.is_empty();
        if !is_over || replay.is_contradicted {
            return None;
        }
        let (counts, expects_until) = (replay.counts, replay.expects_until);
        self.phase = Phase::Live { expects_until };
        Some(counts)
    }
}
