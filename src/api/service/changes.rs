//! Lists changes of campaigns, from the rows of all partitions in the order of their times.

use std::collections::{BTreeMap, VecDeque};

use async_trait::async_trait;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::{NodeService, issue::RETRY_AFTER};
use crate::{
    api::service::interface::ServiceError,
    domain::{
        change::ChangeRow,
        ids::{CampaignId, Offset, Partition},
    },
};

/// Changes that one read returns: about 64 KiB.
const READ_ROWS: usize = 64;

/// Rows that a call looks at. Beyond, it returns what it has found, and the next call goes on.
const SCANNED_MAX: usize = 20_000;

/// Most partitions whose changes are listed together: so many reads begin a page, and the place of the
/// next one names so many offsets.
const PARTITIONS_MAX: u32 = 128;

/// Reads at once that begin a page.
const READS_AT_ONCE: usize = 8;

/// Lists of changes.
#[async_trait]
pub(crate) trait ListChanges: Send + Sync + 'static {
    /// Lists at most `limit` changes of all campaigns or of one, the earliest first, from the place that a
    /// page before has named.
    ///
    /// # Errors
    /// [`ServiceError::TooManyPartitions`], [`ServiceError::Unavailable`].
    async fn changes(
        &self,
        campaign: Option<&CampaignId>,
        after: BTreeMap<Partition, Offset>,
        limit: usize,
    ) -> Result<ChangePage, ServiceError>;
}

/// A page of changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ChangePage {
    /// The changes.
    pub changes: Vec<ChangeRow>,
    /// Where the next page begins, if there may be one: the lowest offset of each partition that is not
    /// listed yet; 0 of those that are left out.
    pub next: Option<BTreeMap<Partition, Offset>>,
}

#[async_trait]
impl ListChanges for NodeService {
    async fn changes(
        &self,
        campaign: Option<&CampaignId>,
        after: BTreeMap<Partition, Offset>,
        limit: usize,
    ) -> Result<ChangePage, ServiceError> {
        let Ok(_permit) = self.admin_calls.try_acquire() else {
            let detail = "too many admin calls are in flight".to_owned();
            return Err(ServiceError::Overloaded { detail, retry_after: RETRY_AFTER });
        };
        let partitions = match campaign {
            Some(campaign) => vec![self.codec.partition_of(campaign)],
            None if self.partitions.count() > PARTITIONS_MAX => {
                return Err(ServiceError::TooManyPartitions { most: PARTITIONS_MAX });
            }
            None => (0..self.partitions.count()).collect(),
        };
        let heads = partitions.into_iter().map(|partition| {
            let from = after.get(&partition).copied().unwrap_or(0);
            async move { self.head(partition, from).await }
        });
        let heads = stream::iter(heads).buffered(READS_AT_ONCE).try_collect().await?;
        self.merge(heads, campaign, limit).await
    }
}

/// The changes of a partition that are not listed yet.
struct Head {
    partition: Partition,
    rows: VecDeque<ChangeRow>,
    /// Where the rows behind `rows` begin; none if there are none.
    next: Option<Offset>,
    /// The lowest offset that is not listed yet.
    unlisted: Offset,
}

impl NodeService {
    async fn head(&self, partition: Partition, from: Offset) -> Result<Head, ServiceError> {
        let what = || format!("reading changes of partition {partition}");
        let rows = self.clock.read(self.store.changes(partition, from, READ_ROWS), what).await?;
        let last = rows.last().map(|row| row.position.offset + 1);
        let next = last.filter(|_| rows.len() == READ_ROWS);
        Ok(Head { partition, rows: rows.into(), next, unlisted: from })
    }

    /// Takes the earliest row again and again. Rows of one partition keep their order, also where a clock
    /// was set back.
    async fn merge(
        &self,
        mut heads: Vec<Head>,
        campaign: Option<&CampaignId>,
        limit: usize,
    ) -> Result<ChangePage, ServiceError> {
        let mut changes = Vec::new();
        for _ in 0..SCANNED_MAX {
            if changes.len() == limit {
                break;
            }
            for head in heads.iter_mut().filter(|head| head.rows.is_empty()) {
                if let Some(next) = head.next {
                    let unlisted = head.unlisted;
                    *head = Head { unlisted, ..self.head(head.partition, next).await? };
                }
            }
            let place = |head: &Head| Some((head.rows.front()?.time, head.partition));
            let earliest =
                heads.iter_mut().filter(|head| !head.rows.is_empty()).min_by_key(|it| place(it));
            let Some((head, row)) = earliest.and_then(|head| {
                let row = head.rows.pop_front()?;
                Some((head, row))
            }) else {
                break;
            };
            head.unlisted = row.position.offset + 1;
            if row.is_listed() && campaign.is_none_or(|campaign| *campaign == row.campaign) {
                changes.push(row);
            }
        }
        let is_more = heads.iter().any(|head| !head.rows.is_empty() || head.next.is_some());
        let begun = heads.iter().filter(|head| head.unlisted > 0);
        let next = is_more.then(|| begun.map(|head| (head.partition, head.unlisted)).collect());
        Ok(ChangePage { changes, next })
    }
}
