//! Compares the change rows of a partition with what its control records came to.

use std::collections::BTreeMap;

use super::{
    Context,
    finding::{FindingKind, Findings, Location},
    model::PartitionContext,
};
use crate::{
    domain::{
        change::ChangeRow,
        decision::Refusal,
        ids::{CampaignId, Offset},
    },
    store::{CHANGES_MAX, StoreError},
};

/// What stands for every refusal. The model knows that a change is refused, not why.
pub(super) const ANY_REFUSAL: Refusal = Refusal::Invalid;

/// What a control record came to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Derived {
    pub(super) offset: Offset,
    /// Digest of its row, with [`ANY_REFUSAL`] for its refusal.
    pub(super) digest: [u8; 16],
}

/// The changes of a partition that the log derives.
#[derive(Debug, Default)]
pub(super) struct Expected(BTreeMap<Offset, Of>);

#[derive(Debug)]
struct Of {
    campaign: CampaignId,
    digest: [u8; 16],
    /// The row must be stored: everything of the campaign below is settled.
    is_settled: bool,
}

impl Expected {
    /// Adds the changes of a campaign, of which everything below `limit` is settled.
    pub(super) fn add(&mut self, campaign: &CampaignId, changes: &[Derived], limit: Offset) {
        for Derived { offset, digest } in changes {
            let (campaign, is_settled) = (campaign.clone(), *offset < limit);
            self.0.insert(*offset, Of { campaign, digest: *digest, is_settled });
        }
    }

    /// Reads the rows of the partition, and compares those that the log in `[from, end)` derives.
    pub(super) async fn compare(
        mut self,
        context: &Context,
        place: &PartitionContext,
        (from, end): (Offset, Offset),
        findings: &mut Findings,
    ) -> Result<(), StoreError> {
        let store = &context.ports.store;
        let mut next = 0;
        loop {
            let page = store.changes(place.partition, next, CHANGES_MAX).await?;
            let Some(last) = page.last().map(|row| row.position.offset) else { break };
            for row in page.iter().filter(|row| row.position.offset < end) {
                self.row(place, from, row, findings);
            }
            // A damaged row may name a position below the page.
            if last >= end || last < next {
                break;
            }
            next = last + 1;
        }
        for (offset, of) in self.0.into_iter().filter(|(_, of)| of.is_settled) {
            let detail = "the log has this change, but the store has no row of it";
            let at = location(place, &of.campaign, offset);
            findings.add(FindingKind::ChangeMissing, at, detail);
        }
        Ok(())
    }

    fn row(
        &mut self,
        place: &PartitionContext,
        from: Offset,
        row: &ChangeRow,
        findings: &mut Findings,
    ) {
        let offset = row.position.offset;
        let expected = self.0.remove(&offset);
        let mut find = |kind, detail: &str| {
            findings.add(kind, location(place, &row.campaign, offset), detail);
        };
        if place.keys.change_digest(row) != row.digest {
            return find(FindingKind::ChangeAltered, "the row does not match its own digest");
        }
        let refusal = row.refusal.map(|_| ANY_REFUSAL);
        let digest = place.keys.change_digest(&ChangeRow { refusal, ..row.clone() });
        match expected {
            Some(of) if of.digest == digest => {}
            Some(_) => find(FindingKind::ChangeWrong, "the log derives another row"),
            // What was trimmed cannot be derived again.
            None if offset < from => {}
            None => find(FindingKind::ChangeUnderivable, "the log has no change at this position"),
        }
    }
}

fn location(place: &PartitionContext, campaign: &CampaignId, offset: Offset) -> Location {
    let (partition, campaign) = (Some(place.partition), Some(campaign.clone()));
    Location { partition, campaign, offset: Some(offset), ..Location::default() }
}
