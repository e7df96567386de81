//! One campaign's batches between deciding and reporting. Storing overlaps with deciding, since
//! everything can be derived again; only versions and the reports keep their order.

use std::collections::VecDeque;

use super::{
    flow::{Event, Report},
    fold::{Batch, Folded, Folder},
    recovery::Contradiction,
};
use crate::domain::{
    campaign::Campaign,
    coupon::Coupon,
    definition::DefinitionVersion,
    ids::{CampaignId, Timestamp},
};
use crate::planted;

/// What a batch leaves to be stored: every version before any coupon.
#[derive(Debug, PartialEq, Eq)]
pub struct ToStore {
    /// Named again in [`Pipeline::stored`].
    pub number: u64,
    /// One after the other, in this order.
    pub versions: Vec<DefinitionVersion>,
    /// After the versions.
    pub coupons: Vec<Coupon>,
    /// Rows of the campaign vanished before: these are only stored once they are read again. A
    /// database may hide a row from whoever writes it again, as CQL does after a `DELETE`.
    pub read_back: bool,
}

/// A batch whose rows are being stored.
#[derive(Debug)]
struct Storing {
    number: u64,
    report: Report,
    contradiction: Option<Contradiction>,
    stored: bool,
    /// No row of a later batch may be stored before this one's are.
    has_versions: bool,
    /// What waits for the versions of earlier batches.
    waiting: Option<ToStore>,
}

/// One incarnation of a campaign.
#[derive(Debug)]
pub struct Pipeline {
    campaign: CampaignId,
    incarnation: u64,
    folder: Folder,
    storing: VecDeque<Storing>,
    batches: u64,
}

impl Pipeline {
    /// Goes on from a loaded campaign.
    #[must_use]
    pub fn new(campaign: CampaignId, incarnation: u64, folder: Folder) -> Self {
        Self { campaign, incarnation, folder, storing: VecDeque::new(), batches: 0 }
    }

    /// The campaign's state after what was decided so far.
    #[must_use]
    pub fn campaign(&self) -> &Campaign {
        self.folder.campaign()
    }

    /// Decides a batch. None when nothing follows from it that may be stored now: nothing at all,
    /// or what [`Self::stored`] gives once the versions below it are durable.
    pub fn decide(&mut self, batch: Batch) -> Option<ToStore> {
        let folded = self.folder.fold(batch);
        let Folded { versions, coupons, records, contradiction } = folded;
        self.batches += 1;
        let number = self.batches;
        let stored = versions.is_empty() && coupons.is_empty();
        let report = Report {
            campaign: self.campaign.clone(),
            incarnation: self.incarnation,
            records,
            contradicted: contradiction.is_some(),
            over_from: self.over_from(),
        };
        let has_versions = !versions.is_empty();
        let read_back = self.folder.is_repair();
        let waiting = (!stored).then_some(ToStore { number, versions, coupons, read_back });
        let batch = Storing { number, report, contradiction, stored, has_versions, waiting };
        self.storing.push_back(batch);
        self.next_to_store()
    }

    /// The rows of a batch are durable. Gives what waited for that: to be stored now.
    #[must_use]
    pub fn stored(&mut self, number: u64) -> Vec<ToStore> {
        if let Some(batch) = self.storing.iter_mut().find(|batch| batch.number == number) {
            batch.stored = true;
        }
        std::iter::from_fn(|| self.next_to_store()).collect()
    }

    /// The first batch that waits, unless it is behind one whose versions are not durable.
    fn next_to_store(&mut self) -> Option<ToStore> {
        for batch in &mut self.storing {
            if batch.waiting.is_some() {
                return batch.waiting.take();
            }
            if batch.has_versions && !batch.stored && !planted!(VersionNotAwaited) {
                return None;
            }
        }
        None
    }

    /// The next batch that may be reported, with the contradiction that ended it.
    pub fn report(&mut self) -> Option<(Event, Option<Event>)> {
        if !self.storing.front()?.stored && !planted!(ReportBeforeStored) {
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

    /// From when on nothing is issued any more, as far as the definition says.
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
            fold::tests::{defined, keys, request},
            recovery::Recovery,
        },
    };

    fn pipeline() -> Pipeline {
        let campaign = CampaignId::parse("spring").unwrap();
        let rows = CampaignRows::default();
        let recovery = Recovery::new(campaign.clone(), (1, 0), 0, rows, keys()).unwrap();
        let folder = Folder::new(recovery.finish().unwrap(), keys(), 1);
        Pipeline::new(campaign, 1, folder)
    }

    fn numbers(rows: impl IntoIterator<Item = ToStore>) -> Vec<u64> {
        rows.into_iter().map(|rows| rows.number).collect()
    }

    #[test]
    fn no_row_is_stored_before_a_version_below_it() {
        let mut pipeline = pipeline();
        let batch = |records, passed| Batch { records, passed };
        let first = pipeline.decide(batch(vec![defined(), request(1, "ada")], 2));
        assert_eq!(numbers(first), [1]);
        // The first may still be under way, or fail and be tried again for long.
        assert_eq!(pipeline.decide(batch(vec![request(2, "bob")], 3)), None);
        assert_eq!(pipeline.decide(batch(vec![request(3, "cid")], 4)), None);
        assert!(pipeline.report().is_none());
        // Coupons wait for no other coupons.
        assert_eq!(numbers(pipeline.stored(1)), [2, 3]);
        assert_eq!(numbers(pipeline.decide(batch(vec![request(4, "dan")], 5))), [4]);
        assert!(pipeline.stored(3).is_empty());
        assert_eq!(std::iter::from_fn(|| pipeline.report()).count(), 1);
        assert!(pipeline.stored(2).is_empty());
        assert_eq!(std::iter::from_fn(|| pipeline.report()).count(), 2);
    }
}
