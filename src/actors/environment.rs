//! What every actor of a node shares.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::Directory;
use crate::{
    clock::SharedClock,
    domain::{ids::Partition, keys::Keys},
    feed::DecisionFeed,
    log::{RequestLog, codec::Codec, intake::Intake},
    store::CouponStore,
};

/// Campaigns that load their rows at once. Each has a few pages in memory; more would only make
/// all of them late.
const LOADS_MAX: usize = 8;

/// Ports, keys and bounds that the actors of one node share.
pub struct Environment {
    /// Records in.
    pub log: Arc<dyn RequestLog>,
    /// Rows.
    pub store: Arc<dyn CouponStore>,
    /// Decisions out.
    pub feed: Arc<dyn DecisionFeed>,
    /// Bytes ↔ records.
    pub codec: Codec,
    /// The instance's keys.
    pub keys: Arc<Keys>,
    /// Which life of the log this is.
    pub log_epoch: u32,
    /// Time.
    pub clock: SharedClock,
    /// A record more than this far ahead of the node's clock halts its partition, in
    /// milliseconds: a database refuses rows from the far future. None where it does not.
    pub future_max_ms: Option<i64>,
    /// What the actors tell of themselves.
    pub directory: Arc<Directory>,
    /// Bounds the loads.
    pub loads: Arc<Semaphore>,
}

impl Environment {
    /// The semaphore that bounds loads on one node.
    #[must_use]
    pub fn load_permits() -> Arc<Semaphore> {
        Arc::new(Semaphore::new(LOADS_MAX))
    }

    /// What becomes of the records of `partition`.
    pub(super) fn intake(&self, partition: Partition) -> Intake {
        Intake {
            codec: self.codec.clone(),
            keys: self.keys.clone(),
            partition,
            future_max_ms: self.future_max_ms,
        }
    }

    pub(super) fn now_ms(&self) -> u64 {
        static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
        let now = self.clock.instant();
        let since = now.saturating_duration_since(*START.get_or_init(|| now));
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}
