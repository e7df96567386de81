//! Makes skips of ranges that halt a partition. Nobody may have read the range: whatever lies above
//! its start shows that somebody could.

use async_trait::async_trait;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::{
    NodeService,
    change::Call,
    interface::{ServiceError, SkipRanges},
};
use crate::{
    domain::{
        halt::Unread,
        ids::{CampaignId, Offset, Partition, Sequence},
        rows::{CampaignRows, PartitionRows, Skip, SkipState},
    },
    partition::flow::WINDOW_RECORDS_MAX,
    store::{LISTING_MAX, Selection},
};

/// Campaigns whose rows are looked at at the same time.
const CAMPAIGNS_AT_ONCE: usize = 16;

/// Coupons above a mark that are looked at in one read. Rows above progress are within a window of
/// records, so an empty read of as many shows that there are none above.
const COUPONS_AT_ONCE: Sequence = WINDOW_RECORDS_MAX as Sequence;

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
        let call = self.start_call()?;
        call.run(self.make_skip(&call, (partition, offset), reason, by)).await
    }
}

impl NodeService {
    async fn make_skip(
        &self,
        call: &Call<'_>,
        (partition, offset): (Partition, Offset),
        reason: String,
        by: &str,
    ) -> Result<Skip, ServiceError> {
        let what = || format!("reading partition {partition}");
        let rows = self.clock.read(self.store.partition(partition), what).await?;
        if let Some(skip) = rows.skips.iter().find(|skip| skip.from == offset) {
            return Ok(skip.clone());
        }
        let Unread { from, to, .. } = self.skippable(partition, offset)?;
        refuse_decided(&rows, from)?;
        self.refuse_rows(partition, from).await?;
        if let Some(heard) = self.waiters.watermark(partition).filter(|heard| *heard > from) {
            let detail =
                format!("decisions up to {heard} were told: somebody could read the range");
            return Err(refused(detail));
        }
        let (by, state) = (by.to_owned(), SkipState::Made);
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

    /// Refuses a range with a row above its start, of any campaign of the partition.
    async fn refuse_rows(&self, partition: Partition, from: Offset) -> Result<(), ServiceError> {
        let mut after: Option<CampaignId> = None;
        loop {
            let page = self.page_of_ids(after.as_ref(), LISTING_MAX).await?;
            let is_last = page.len() < LISTING_MAX;
            after = page.last().cloned();
            let its = page.into_iter().filter(|id| self.codec.partition_of(id) == partition);
            let checks = its.map(|id| self.refuse_rows_of(id, partition, from));
            let checks = stream::iter(checks).buffer_unordered(CAMPAIGNS_AT_ONCE);
            checks.try_collect::<()>().await?;
            if is_last {
                return Ok(());
            }
        }
    }

    async fn refuse_rows_of(
        &self,
        campaign: CampaignId,
        partition: Partition,
        from: Offset,
    ) -> Result<(), ServiceError> {
        let rows = self.store.campaign(&campaign, partition);
        let what = || format!("reading campaign {campaign}");
        let CampaignRows { mark, versions, .. } = self.clock.read(rows, what).await?;
        let versions = versions.iter().map(|version| version.position.offset);
        let mark_above = mark.as_ref().map(|mark| mark.offset).filter(|offset| *offset > from);
        if let Some(offset) = versions.filter(|offset| *offset >= from).chain(mark_above).next() {
            return Err(stands(&campaign, offset, from));
        }
        // The mark lies below the range, and so do the coupons that it counts.
        let mut first = mark.map_or(0, |mark| mark.counts.issued) + 1;
        loop {
            let last = first.saturating_add(COUPONS_AT_ONCE - 1);
            let pages = self.store.coupons(&campaign, Selection::Between { first, last });
            let what = || format!("reading coupons of {campaign}");
            let coupons = self.clock.read(pages.try_concat(), what).await?;
            let mut offsets = coupons.iter().map(|coupon| coupon.position.offset);
            if let Some(offset) = offsets.find(|offset| *offset >= from) {
                return Err(stands(&campaign, offset, from));
            }
            if coupons.is_empty() || last == Sequence::MAX {
                return Ok(());
            }
            first = last + 1;
        }
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
fn stands(campaign: &CampaignId, offset: Offset, from: Offset) -> ServiceError {
    let detail = format!(
        "a row of {campaign} at offset {offset} shows that the log could be read above {from}: find \
         the node that reads it, or have the row looked at with `coupond audit`"
    );
    ServiceError::NotSkippable { detail, campaign: Some(campaign.clone()), offset: Some(offset) }
}
