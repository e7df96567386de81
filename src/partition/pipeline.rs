//! One campaign's batches between deciding and reporting. Storing overlaps with deciding, since
//! everything can be derived again; only the report keeps the order.

use crate::planted;
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

/// What a batch leaves to be stored: every version before any coupon.
#[derive(Debug, PartialEq, Eq)]
pub struct ToStore {
    /// Named again in [`Pipeline::stored`].
    pub number: u64,
    /// One after the other, in this order.
    pub versions: Vec<DefinitionVersion>,
    /// After the versions.
    pub coupons: Vec<Coupon>,
}

/// A batch whose rows are being stored.
#[derive(Debug)]
struct Storing {
    number: u64,
    report: Report,
    contradiction: Option<Contradiction>,
    stored: bool,
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

    /// Decides a batch. None when nothing follows from it that must be stored.
    pub fn decide(&mut self, batch: Batch) -> Option<ToStore> {
        let folded = self.folder.fold(batch);
        let Folded { versions, coupons, told, settled, contradiction } = folded;
        self.batches += 1;
        let number = self.batches;
        let stored = versions.is_empty() && coupons.is_empty();
        let report = Report {
            campaign: self.campaign.clone(),
            incarnation: self.incarnation,
            told,
            settled,
            contradicted: contradiction.is_some(),
            over_from: self.over_from(),
        };
        self.storing.push_back(Storing { number, report, contradiction, stored });
        (!stored).then_some(ToStore { number, versions, coupons })
    }

    /// The rows of a batch are durable.
    pub fn stored(&mut self, number: u64) {
        if let Some(batch) = self.storing.iter_mut().find(|batch| batch.number == number) {
            batch.stored = true;
        }
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
