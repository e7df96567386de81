//! Makes skips of ranges that halt a partition. Nobody may have read the range: whatever lies above
//! its start shows that somebody could.

use std::time::Duration;

use async_trait::async_trait;

use super::{
    NodeService,
    change::Call,
    interface::{Basis, ServiceError, SkipRanges},
};
use crate::domain::{
    halt::Unread,
    ids::{CampaignId, Offset, Partition},
    rows::{PartitionRows, Skip, SkipState},
};

/// Time of a call that the check of rows leaves for the write of the skip.
const FOR_THE_WRITE: Duration = Duration::from_secs(1);

#[async_trait]
impl SkipRanges for NodeService {
    fn partition_count(&self) -> u32 {
        self.partitions.count()
    }

    async fn skip(
        &self,
        partition: Partition,
        offset: Offset,
        reason: String,
        by: &str,
    ) -> Result<Skip, ServiceError> {
        if partition >= self.partition_count() {
            return Err(ServiceError::UnknownPartition);
        }
        let call = self.start_call(by, &Basis::InEffect)?;
        call.run(self.make_skip(&call, (partition, offset), reason)).await
    }
}

impl NodeService {
    async fn make_skip(
        &self,
        call: &Call<'_>,
        (partition, offset): (Partition, Offset),
        reason: String,
    ) -> Result<Skip, ServiceError> {
        let what = || format!("reading partition {partition}");
        let rows = self.clock.read(self.store.partition(partition), what).await?;
        if let Some(skip) = rows.skips.iter().find(|skip| skip.from == offset) {
            return Ok(skip.clone());
        }
        let Unread { from, to, .. } = self.skippable(partition, offset)?;
        refuse_decided(&rows, from)?;
        self.refuse_rows(partition, from, call.until().saturating_sub(FOR_THE_WRITE)).await?;
        if let Some(heard) = self.waiters.watermark(partition).filter(|heard| *heard > from) {
            let detail =
                format!("decisions up to {heard} were told: somebody could read the range");
            return Err(refused(detail));
        }
        let (by, state) = (call.by().to_owned(), SkipState::Made);
        let skip = Skip { partition, from, to, reason, by, state };
        call.set_may_be_in_log(true);
        Ok(self.clock.read(self.store.make_skip(&skip), || "making a skip".to_owned()).await?)
    }

    /// Returns the range that halts the partition at `offset`.
    fn skippable(&self, partition: Partition, offset: Offset) -> Result<Unread, ServiceError> {
        let Some((reason, unread)) = self.waiters.halt(partition) else {
            return Err(refused("the partition is not halted".to_owned()));
        };
        let Some(unread) = unread else {
            let detail =
                format!("the partition is halted, but no range is known to skip: {reason}");
            return Err(refused(detail));
        };
        if unread.from != offset {
            let from = unread.from;
            let detail = format!("the partition is halted at offset {from}, not at {offset}");
            let offset = Some(from);
            return Err(ServiceError::NotSkippable { detail, campaign: None, offset });
        }
        if unread.other_build {
            let detail = "another build of coupond may read the range: its codec is not built in, or \
                          its format is newer; upgrade the nodes";
            return Err(refused(detail.to_owned()));
        }
        Ok(unread)
    }
}

/// Refuses a range above whose start something is decided.
fn refuse_decided(rows: &PartitionRows, from: Offset) -> Result<(), ServiceError> {
    let progress = rows.next();
    if progress > from {
        let detail = format!("everything below {progress} is decided, so the range could be read");
        let offset = Some(progress);
        return Err(ServiceError::NotSkippable { detail, campaign: None, offset });
    }
    let above = rows.holds.iter().find(|hold| hold.from > from || hold.until > from);
    match above {
        Some(hold) => Err(stands(&hold.campaign, hold.from.max(hold.until), from)),
        None => Ok(()),
    }
}

fn refused(detail: String) -> ServiceError {
    ServiceError::NotSkippable { detail, campaign: None, offset: None }
}

/// Reports a row that stands above the start of the range.
pub(super) fn stands(campaign: &CampaignId, offset: Offset, from: Offset) -> ServiceError {
    let detail = format!(
        "a row of {campaign} at offset {offset} shows that the log could be read above {from}: find \
         the node that reads it, or have the row looked at with `coupond audit`"
    );
    ServiceError::NotSkippable { detail, campaign: Some(campaign.clone()), offset: Some(offset) }
}
