//! Counts the holds that a partition ever had, so that a vanished row of one is missed.

use std::collections::BTreeSet;

use crate::domain::{
    ids::CampaignId,
    rows::{Hold, HoldName},
};

/// The holds whose rows are or were durable, as far as this owner knows, and their number in the
/// store.
///
/// Another owner may open holds at the same time. Each owner counts only rows that it wrote or read,
/// so the number may be too low, until one owner has read the rows of both. It is never too high:
/// that would halt a sound partition.
#[derive(Debug)]
pub(super) struct HoldCount {
    durable: BTreeSet<(CampaignId, HoldName)>,
    /// The number in the store.
    stored: u64,
    /// The number that is being written, if any.
    writing: Option<u64>,
    /// Looks in a row that found a lower number than was written.
    lost: u32,
}

/// Such looks after which operators hear of it. The number was written again after the first one.
const LOST_LOOKS: u32 = 2;

impl HoldCount {
    /// Begins with the number in the store.
    pub(super) fn new(stored: u64) -> Self {
        Self { durable: BTreeSet::new(), stored, writing: None, lost: 0 }
    }

    /// Notes that the row of a hold is durable.
    pub(super) fn add(&mut self, hold: &Hold) {
        self.durable.insert((hold.campaign.clone(), hold.name()));
    }

    /// Returns whether the number in the store is too low.
    pub(super) fn is_due(&self) -> bool {
        self.durable.len() as u64 > self.stored
    }

    /// Returns the number that the store has, as far as this owner knows.
    pub(super) fn stored(&self) -> u64 {
        self.stored
    }

    /// Compares the number that a look has `found` with the one that was stored when it began. A lower
    /// one has vanished, and is written again. Returns whether operators must hear that it vanishes
    /// each time.
    pub(super) fn compare(&mut self, found: u64, expected: u64) -> bool {
        if found >= expected {
            // While it is being written again, less is expected.
            if expected >= self.durable.len() as u64 {
                self.lost = 0;
            }
            return false;
        }
        self.stored = found;
        self.lost = self.lost.saturating_add(1);
        self.lost == LOST_LOOKS
    }

    /// Returns the number to be written, if the one in the store is too low.
    pub(super) fn begin(&mut self) -> Option<u64> {
        self.writing = self.is_due().then_some(self.durable.len() as u64);
        self.writing
    }

    /// Notes that the write which began last has ended.
    pub(super) fn written(&mut self) {
        // A write of anything else says nothing of the number, which may have vanished meanwhile.
        if let Some(written) = self.writing.take() {
            self.stored = self.stored.max(written);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::rows::{HoldKind, HoldState};

    fn hold(from: u64, number: u32, state: HoldState) -> Hold {
        Hold {
            campaign: CampaignId::parse("spring").unwrap(),
            partition: 0,
            from,
            number,
            kind: HoldKind::Failure,
            reason: "it failed".to_owned(),
            state,
            until: 0,
        }
    }

    #[test]
    fn each_hold_is_counted_once() {
        let mut count = HoldCount::new(0);
        assert_eq!(count.begin(), None);
        for state in [HoldState::Open, HoldState::Released, HoldState::Closed] {
            count.add(&hold(4, 1, state));
        }
        assert_eq!(count.begin(), Some(1));
        count.add(&hold(9, 2, HoldState::Open));
        assert_eq!(count.begin(), Some(2), "the write before has not ended");
        count.written();
        assert!(!count.is_due());
        assert_eq!(count.begin(), None);
    }

    #[test]
    fn the_number_never_falls() {
        let mut count = HoldCount::new(2);
        count.add(&hold(4, 1, HoldState::Open));
        assert_eq!(count.begin(), None);
        count.written();
        count.add(&hold(5, 2, HoldState::Open));
        assert!(!count.is_due());
        count.add(&hold(6, 3, HoldState::Open));
        assert_eq!(count.begin(), Some(3));
    }

    #[test]
    fn a_lost_number_is_written_again() {
        let mut count = HoldCount::new(0);
        count.add(&hold(4, 1, HoldState::Open));
        assert!(!count.compare(0, count.stored()), "it was not written yet");
        assert_eq!(count.begin(), Some(1));
        count.written();
        assert!(!count.compare(1, 1));
        assert_eq!(count.begin(), None);
        assert!(!count.compare(0, 1), "it is written again first");
        count.written();
        assert_eq!(count.begin(), Some(1), "the write that has ended was not one of the number");
        assert!(!count.compare(0, count.stored()), "it is being written");
        count.written();
        assert!(count.compare(0, 1), "operators hear that it cannot be written");
        assert_eq!(count.begin(), Some(1));
        count.written();
        assert!(!count.compare(0, 1), "once");
        assert_eq!(count.begin(), Some(1));
        count.written();
        assert!(!count.compare(1, 1));
        assert!(!count.compare(0, 1), "this is another loss");
    }
}
