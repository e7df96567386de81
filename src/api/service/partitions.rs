//! Progress, holds and skips of partitions: one read serves all callers within a short time.

use std::{sync::Arc, time::Duration};

use tokio::sync::Mutex;

use super::{NodeClock, ReadError};
use crate::{
    answer::{Moment, position::Standing, rows},
    domain::{
        ids::{CampaignId, Offset, Partition},
        rows::PartitionRows,
    },
    store::CouponStore,
};

/// Oldest read that is shared. Durable progress trails its watermark by as much, so an answer is
/// not delayed further.
const SHARED_FOR: Duration = Duration::from_millis(100);

/// When a read began, and its result.
type Read = (Moment, Result<Arc<PartitionRows>, ReadError>);

/// The latest read of every partition of the layout.
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

    /// Returns progress, holds and skips of `partition` from a read that began at most [`SHARED_FOR`]
    /// before this call.
    pub(super) async fn read(&self, partition: Partition) -> Result<Arc<PartitionRows>, ReadError> {
        let Some(read) = self.reads.get(partition as usize) else {
            return Ok(Arc::default());
        };
        // Taken before the lock: callers that queue behind a slow read then share the next one.
        let asked = self.clock.now();
        let mut read = read.lock().await;
        // A failed read is shared too. Otherwise each caller in the queue would wait for its own
        // timeout, one after another.
        if let Some((began, rows)) = &*read
            && asked.saturating_sub(*began) <= SHARED_FOR
        {
            return rows.clone();
        }
        let began = self.clock.now();
        let what = || format!("reading partition {partition}");
        let rows = self.clock.read(self.store.partition(partition), what).await;
        let rows = rows.and_then(|rows| match rows.check_holds() {
            Ok(()) => Ok(Arc::new(rows)),
            // A position that the vanished hold covers would look settled.
            Err(halt) => Err(ReadError::Contradiction(halt.to_string())),
        });
        *read = Some((began, rows.clone()));
        rows
    }

    /// Returns the number of partitions.
    pub(super) fn count(&self) -> u32 {
        u32::try_from(self.reads.len()).unwrap_or(u32::MAX)
    }

    /// Returns the first offset of the partition that is not settled.
    pub(super) fn progress(&self, rows: &PartitionRows) -> Offset {
        rows::progress(rows, self.log_epoch)
    }

    /// Returns the standing of `offset` for `campaign`.
    pub(super) fn standing(
        &self,
        rows: &PartitionRows,
        campaign: &CampaignId,
        offset: Offset,
    ) -> Standing {
        rows::standing(rows, self.log_epoch, campaign, offset)
    }
}
