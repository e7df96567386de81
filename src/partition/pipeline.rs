//! The batches of one campaign between deciding and reporting.
//!
//! Batches are stored while later ones are decided, because everything can be derived again. Two
//! orders are kept: no row is stored before a version row below it, and reports follow the log.

use std::collections::VecDeque;

use super::{
    flow::{BatchReport, Event},
    fold::{Batch, Folded, Folder},
    recovery::Contradiction,
};
use crate::domain::{
    campaign::Campaign,
    change::ChangeRow,
    coupon::Coupon,
    definition::DefinitionVersion,
    ids::{CampaignId, Timestamp},
};

/// The rows of a batch.
#[derive(Debug, PartialEq, Eq)]
pub struct ToStore {
    /// The number of the batch, for [`Pipeline::stored`].
    pub number: u64,
    /// Version rows, to be stored one after the other.
    pub versions: Vec<DefinitionVersion>,
    /// Change rows, to be stored before the batch counts as stored.
    pub changes: Vec<ChangeRow>,
    /// Coupon rows, to be stored after the versions.
    pub coupons: Vec<Coupon>,
    /// Their by-user rows are to be stored as well before the batch counts as stored.
    pub in_both_views: bool,
    /// The rows count as stored only after they were read back, because rows of the campaign had
    /// vanished. On CQL, a `DELETE` also hides a row that is written again. Always in both views.
    pub read_back: bool,
}

/// A batch whose rows are being stored.
#[derive(Debug)]
struct Storing {
    number: u64,
    report: BatchReport,
    contradiction: Option<Contradiction>,
    stored: bool,
    /// No row of a later batch may be stored before the rows of this one.
    has_versions: bool,
    /// The batch's rows, while they wait for version rows of earlier batches.
    waiting: Option<ToStore>,
}

/// The pipeline of one incarnation of a campaign's actor.
#[derive(Debug)]
pub struct Pipeline {
    campaign: CampaignId,
    incarnation: u64,
    folder: Folder,
    storing: VecDeque<Storing>,
    batches: u64,
}

impl Pipeline {
    /// Starts with a loaded campaign.
    #[must_use]
    pub fn new(campaign: CampaignId, incarnation: u64, folder: Folder) -> Self {
        Self { campaign, incarnation, folder, storing: VecDeque::new(), batches: 0 }
    }

    /// Returns the campaign's state after the batches that were decided.
    #[must_use]
    pub fn campaign(&self) -> &Campaign {
        self.folder.campaign()
    }

    /// Decides a batch. Returns the rows that may be stored now. Returns `None` if the batch has no
    /// rows, or if they wait: [`Self::stored`] then returns them later.
    pub fn decide(&mut self, batch: Batch) -> Option<ToStore> {
        let is_replay = batch.is_replay;
        let folded = self.folder.fold(batch);
        let Folded { versions, changes, coupons, records, contradiction } = folded;
        self.batches += 1;
        let number = self.batches;
        let stored = versions.is_empty() && changes.is_empty() && coupons.is_empty();
        let report = BatchReport {
            campaign: self.campaign.clone(),
            incarnation: self.incarnation,
            records,
            by_user: Vec::new(),
            contradicted: contradiction.is_some(),
            over_from: self.over_from(),
        };
        let has_versions = !versions.is_empty();
        let read_back = self.folder.is_repair();
        let in_both_views = is_replay || read_back;
        let rows = ToStore { number, versions, changes, coupons, in_both_views, read_back };
        let waiting = (!stored).then_some(rows);
        let batch = Storing { number, report, contradiction, stored, has_versions, waiting };
        self.storing.push_back(batch);
        self.next_to_store()
    }

    /// Notes that the rows of a batch are durable, but for the by-user rows of these coupons. Returns
    /// the rows that waited for them.
    #[must_use]
    pub fn stored(&mut self, number: u64, by_user: Vec<Coupon>) -> Vec<ToStore> {
        if let Some(batch) = self.storing.iter_mut().find(|batch| batch.number == number) {
            batch.stored = true;
            batch.report.by_user = by_user;
        }
        std::iter::from_fn(|| self.next_to_store()).collect()
    }

    /// Returns the rows of the first batch that waits, unless an earlier one has version rows that
    /// are not durable.
    fn next_to_store(&mut self) -> Option<ToStore> {
        for batch in &mut self.storing {
            if batch.waiting.is_some() {
                return batch.waiting.take();
            }
            if batch.has_versions && !batch.stored {
                return None;
            }
        }
        None
    }

    /// Returns the report of the oldest batch if its rows are durable, and the contradiction that
    /// ended the batch.
    pub fn report(&mut self) -> Option<(Event, Option<Event>)> {
        if !self.storing.front()?.stored {
            return None;
        }
        let Storing { report, contradiction, .. } = self.storing.pop_front()?;
        let contradicted = contradiction.map(|contradiction| Event::Contradicted {
            campaign: self.campaign.clone(),
            incarnation: self.incarnation,
            contradiction,
        });
        Some((Event::Report(report), contradicted))
    }

    /// Returns the time from which on the definition in effect issues nothing.
    fn over_from(&self) -> Option<Timestamp> {
        match self.folder.campaign().definition() {
            None => Some(Timestamp(0)),
            Some(definition) if definition.closed => Some(Timestamp(0)),
            Some(definition) => definition.terms.closes_at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::rows::CampaignRows,
        partition::{
            fold::tests::{PLACE, defined, keys, request},
            recovery::Recovery,
        },
    };

    fn pipeline() -> Pipeline {
        let campaign = CampaignId::parse("spring").unwrap();
        let rows = CampaignRows::default();
        let recovery = Recovery::new(campaign.clone(), PLACE, 0, rows, keys()).unwrap();
        let folder = Folder::new(recovery.finish().unwrap(), keys());
        Pipeline::new(campaign, 1, folder)
    }

    fn numbers(rows: impl IntoIterator<Item = ToStore>) -> Vec<u64> {
        rows.into_iter().map(|rows| rows.number).collect()
    }

    #[test]
    fn no_row_is_stored_before_a_version_below_it() {
        let mut pipeline = pipeline();
        let batch = |records, passed| Batch { records, passed, is_replay: false };
        let first = pipeline.decide(batch(vec![defined(), request(1, "ada")], 2));
        assert_eq!(numbers(first), [1]);
        // The first may still be under way, or fail and be tried again for long.
        assert_eq!(pipeline.decide(batch(vec![request(2, "bob")], 3)), None);
        assert_eq!(pipeline.decide(batch(vec![request(3, "cid")], 4)), None);
        assert!(pipeline.report().is_none());
        // Coupons wait for no other coupons.
        assert_eq!(numbers(pipeline.stored(1, Vec::new())), [2, 3]);
        assert_eq!(numbers(pipeline.decide(batch(vec![request(4, "dan")], 5))), [4]);
        assert!(pipeline.stored(3, Vec::new()).is_empty());
        assert_eq!(std::iter::from_fn(|| pipeline.report()).count(), 1);
        assert!(pipeline.stored(2, Vec::new()).is_empty());
        assert_eq!(std::iter::from_fn(|| pipeline.report()).count(), 2);
    }
}
