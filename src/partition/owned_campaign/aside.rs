//! Records of a campaign that are set aside, to be read again later.

use super::{OwnedCampaign, Phase};
use crate::domain::ids::Offset;

/// A campaign whose oldest record is not stored after this time gives way to others.
const STUCK_MS: u64 = 1_000;

impl OwnedCampaign {
    /// Returns from where on the campaign's records are set aside.
    pub(in crate::partition) fn aside_from(&self) -> Option<Offset> {
        self.aside_from
    }

    /// Sets the campaign's records aside from `from` on, or moves that position up while they are
    /// read again. None: nothing is aside any more.
    pub(in crate::partition) fn set_aside(&mut self, from: Option<Offset>) {
        self.aside_from = from;
    }

    /// Makes a new actor get its records from the log if some that it needs have left the window.
    /// Returns the credit of the others, and whether they are set aside.
    pub(in crate::partition) fn recall(&mut self, from: Offset) -> (usize, bool) {
        self.from = from;
        let is_gone = self.window.stored_to() > from;
        if !is_gone {
            return (0, false);
        }
        self.aside_from = Some(from);
        (self.window.clear().iter().map(|it| it.credit).sum(), true)
    }

    /// Returns whether the record at `offset` is stored, although it may still be set aside.
    pub(in crate::partition) fn has_stored(&self, offset: Offset) -> bool {
        offset < self.from.max(self.floor)
    }

    /// Returns whether a record that costs `credit` is to be set aside, because of earlier ones or
    /// because the campaign may have at most `share` of the window.
    pub(in crate::partition) fn is_aside(&self, credit: usize, share: usize) -> bool {
        self.aside_from.is_some() || self.window.credit() + credit > share
    }

    /// Sets aside what the campaign has beyond its share. Returns its credit.
    pub(in crate::partition) fn give_way(&mut self, share: usize) -> Option<usize> {
        let (first, credit) = self.window.cut(share)?;
        self.aside_from = Some(first);
        Some(credit)
    }

    /// Returns whether the campaign decides, and its rows are stored.
    pub(in crate::partition) fn moves(&self, now_ms: u64) -> bool {
        let is_stuck = now_ms.saturating_sub(self.moved_ms) >= STUCK_MS;
        matches!(self.phase, Phase::Live { .. }) && !is_stuck
    }

    /// Returns whether records that were set aside can be taken in now. `share` bounds the window.
    pub(in crate::partition) fn takes_again(&self, share: usize) -> bool {
        match self.phase {
            Phase::Live { .. } => self.window.credit() < share,
            // They pass: a hold covers them.
            Phase::Held | Phase::CatchingUp { .. } => true,
            Phase::Starting | Phase::Opening | Phase::Meeting { .. } => false,
        }
    }
}
