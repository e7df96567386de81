//! Progress and holds of partitions, read once for all who ask within a moment.

use std::{sync::Arc, time::Duration};

use tokio::sync::Mutex;

use super::{Failure, NodeClock, STORE_TIMEOUT, chain};
use crate::{
    answer::{Moment, rows},
    domain::{
        ids::{CampaignId, Offset, Partition},
        rows::PartitionRows,
    },
    store::CouponStore,
};

/// Oldest read that is shared: no older than durable progress trails its watermark anyway.
const SHARED_FOR: Duration = Duration::from_millis(100);

/// One read: when it began, and what it gave.
type Read = (Moment, Result<Arc<PartitionRows>, Failure>);

/// Reads of every partition of the layout.
pub(super) struct Partitions {
    store: Arc<dyn CouponStore>,
    clock: NodeClock,
    log_epoch: u32,
    reads: Vec<Mutex<Option<Read>>>,
}

impl Partitions {
    pub(super) fn new(
        store: Arc<dyn CouponStore>,
        clock: NodeClock,
        log_epoch: u32,
        partitions: u32,
    ) -> Self {
        let reads = (0..partitions).map(|_| Mutex::new(None)).collect();
        Self { store, clock, log_epoch, reads }
    }

    /// Progress, then holds of `partition`, from a read that began at most [`SHARED_FOR`] before
    /// this call. Whoever waits for a slow read shares the next one, and a failed read is shared
    /// too: a store that does not answer is not asked by everybody in turn.
    pub(super) async fn read(&self, partition: Partition) -> Result<Arc<PartitionRows>, Failure> {
        let Some(read) = self.reads.get(partition as usize) else {
            return Ok(Arc::default());
        };
        let asked = self.clock.now();
        let mut read = read.lock().await;
        if let Some((began, rows)) = &*read
            && asked.saturating_sub(*began) <= SHARED_FOR
        {
            return rows.clone();
        }
        let began = self.clock.now();
        let answer = tokio::time::timeout(STORE_TIMEOUT, self.store.partition(partition)).await;
        let rows = match answer {
            Ok(Ok(rows)) => Ok(Arc::new(rows)),
            Ok(Err(error)) => Err(Failure::Store(chain(&error))),
            Err(_) => {
                let detail = format!("reading partition {partition} took too long");
                Err(Failure::Store(detail))
            }
        };
        *read = Some((began, rows.clone()));
        rows
    }

    /// The first offset of the partition that is not settled, by durable progress.
    pub(super) fn progress(&self, rows: &PartitionRows) -> Offset {
        rows::progress(rows, self.log_epoch)
    }

    /// Whether the position of `campaign` at `offset` is settled.
    pub(super) fn is_settled(
        &self,
        rows: &PartitionRows,
        campaign: &CampaignId,
        offset: Offset,
    ) -> bool {
        rows::is_settled(rows, self.log_epoch, campaign, offset)
    }
}
