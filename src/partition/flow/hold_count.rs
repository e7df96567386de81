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
    /// The number that is being written.
    writing: u64,
}

impl HoldCount {
    /// Begins with the number in the store.
    pub(super) fn new(stored: u64) -> Self {
        Self { durable: BTreeSet::new(), stored, writing: stored }
    }

    /// Notes that the row of a hold is durable.
    pub(super) fn add(&mut self, hold: &Hold) {
        self.durable.insert((hold.campaign.clone(), hold.name()));
    }

    /// Returns whether the number in the store is too low.
    pub(super) fn is_due(&self) -> bool {
        self.durable.len() as u64 > self.stored
    }

    /// Returns the number to be written, if the one in the store is too low.
    pub(super) fn begin(&mut self) -> Option<u64> {
        let count = self.durable.len() as u64;
        self.writing = count.max(self.stored);
        self.is_due().then_some(count)
    }

    /// Notes that the write which began last has ended.
    pub(super) fn written(&mut self) {
        self.stored = self.writing;
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
}
