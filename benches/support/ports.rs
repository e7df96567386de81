//! Ports in memory, for benchmarks of what is above them.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use coupond::{
    actors::{Directory, Environment, Shared},
    clock::{SharedClock, SystemClock},
    domain::{
        change::ChangeRow,
        definition::DefinitionVersion,
        ids::{CampaignId, Offset, Partition, ProcessName, Timestamp},
        keys::Keys,
        record::Record,
        rows::{Hold, Mark, Progress, Register, Row, Skip, SkipState},
    },
    feed::{DecisionFeed, FeedError, FeedEvent, HeardGenerations},
    log::{AppendError, Appended, Bounds, LogError, LogReader, Ownership, ReadError, RequestLog},
    store::{ByUserPages, CampaignPages, CouponPages, CouponStore, Layout, Selection, StoreError},
    wire::{LogRecord, NewRecord, codec::Codec, feed_message::FeedMessage},
};
use tokio::sync::mpsc;

pub(crate) fn keys() -> Arc<Keys> {
    Arc::new(Keys::derive(b"a secret of thirty-two bytes or more"))
}

/// Returns a record as a log has it.
pub(crate) fn encoded(codec: &Codec, offset: Offset, record: &Record) -> LogRecord {
    let (_, encoded) = codec.encode(record);
    let key = record.campaign().as_str().as_bytes().to_vec();
    let time = Timestamp(1_760_000_000_000 + offset as i64 / 100);
    LogRecord { offset, time, key, value: encoded.value, mac: Some(encoded.mac) }
}

/// Returns the environment of a node with these ports.
pub(crate) fn environment(
    log: impl RequestLog + 'static,
    store: impl CouponStore + 'static,
    feed: TellingFeed,
) -> Arc<Environment> {
    let codec = Codec::new(&keys(), "one", 1, 1);
    let clock: SharedClock = Arc::new(SystemClock);
    Arc::new(Environment {
        log: Arc::new(log),
        store: Arc::new(store),
        feed: Arc::new(feed),
        codec: codec.clone(),
        keys: keys(),
        log_epoch: 1,
        process: ProcessName::of(1),
        generations: Arc::new(HeardGenerations::new(1)),
        clock: clock.clone(),
        future_max_ms: None,
        limits: coupond::partition::flow::Limits::default(),
        directory: Arc::new(Directory::new(codec)),
        shared: Shared::new(&clock),
    })
}

/// A feed that shows each message.
pub(crate) struct TellingFeed(pub(crate) Box<dyn Fn(&FeedMessage) + Send + Sync>);

#[async_trait]
impl DecisionFeed for TellingFeed {
    async fn publish(&self, message: FeedMessage) -> Result<(), FeedError> {
        (self.0)(&message);
        Ok(())
    }
    async fn follow(&self) -> Result<mpsc::Receiver<FeedEvent>, FeedError> {
        Ok(mpsc::channel(1).1)
    }
}

/// A log of one partition. Each record is there from its time on.
pub(crate) struct PacedLog {
    pub(crate) records: Arc<Vec<LogRecord>>,
    /// The times, since `begun`; all records are there at once if these are none.
    pub(crate) due: Arc<Vec<Duration>>,
    pub(crate) begun: Instant,
}

impl PacedLog {
    fn end(&self) -> usize {
        match self.due.is_empty() {
            true => self.records.len(),
            false => self.due.partition_point(|due| *due <= self.begun.elapsed()),
        }
    }
}

struct PacedReader {
    log: PacedLog,
    next: usize,
}

#[async_trait]
impl LogReader for PacedReader {
    async fn read(&mut self, max: usize) -> Result<Vec<LogRecord>, ReadError> {
        if self.next == self.log.records.len() {
            std::future::pending::<()>().await;
        }
        while self.log.end() <= self.next {
            let due = self.log.begun + self.log.due[self.next];
            tokio::time::sleep_until(due.into()).await;
        }
        let until = (self.next + max).min(self.log.end());
        let records = self.log.records[self.next..until].to_vec();
        self.next = until;
        Ok(records)
    }
}

#[async_trait]
impl RequestLog for PacedLog {
    async fn append(&self, _: Partition, _: NewRecord) -> Result<Appended, AppendError> {
        Err(AppendError::Overloaded("the benchmark appends nothing".to_owned()))
    }
    async fn join(&self) -> Result<mpsc::Receiver<Ownership>, LogError> {
        Ok(mpsc::channel(1).1)
    }
    async fn open(&self, _: Partition, from: Offset) -> Result<Box<dyn LogReader>, LogError> {
        let Self { records, due, begun } = self;
        let log = Self { records: records.clone(), due: due.clone(), begun: *begun };
        Ok(Box::new(PacedReader { log, next: from as usize }))
    }
    async fn bounds(&self, _: Partition) -> Result<Bounds, LogError> {
        Ok(Bounds { low: 0, high: self.end() as u64 })
    }
    async fn report_progress(
        &self,
        _: Partition,
        _: Offset,
        _: Option<Offset>,
    ) -> Result<(), LogError> {
        Ok(())
    }
    async fn dead_letter(&self, _: Partition, _: &LogRecord, _: &str) -> Result<(), LogError> {
        Ok(())
    }
}

/// A store that discards all rows.
pub(crate) struct NoStore {
    /// How long a write of so many rows takes.
    pub(crate) takes: fn(usize) -> Duration,
}

#[async_trait]
impl CouponStore for NoStore {
    async fn layout(&self, proposed: &Layout) -> Result<Layout, StoreError> {
        Ok(proposed.clone())
    }
    async fn write(&self, rows: &[Row]) -> Result<(), StoreError> {
        std::hint::black_box(rows);
        let takes = (self.takes)(rows.len());
        if !takes.is_zero() {
            tokio::time::sleep(takes).await;
        }
        Ok(())
    }
    async fn progress(&self, _: Partition) -> Result<Option<Progress>, StoreError> {
        Ok(None)
    }
    async fn register(&self, _: Partition, _: Register) -> Result<u64, StoreError> {
        Ok(0)
    }
    async fn holds(&self, _: Partition) -> Result<Vec<Hold>, StoreError> {
        Ok(Vec::new())
    }
    async fn skips(&self, _: Partition) -> Result<Vec<Skip>, StoreError> {
        Ok(Vec::new())
    }
    async fn make_skip(&self, skip: &Skip) -> Result<Skip, StoreError> {
        Ok(skip.clone())
    }
    async fn settle_skip(&self, _: &Skip, state: SkipState) -> Result<SkipState, StoreError> {
        Ok(state)
    }
    async fn campaign_holds(&self, _: &CampaignId, _: Partition) -> Result<Vec<Hold>, StoreError> {
        Ok(Vec::new())
    }
    async fn mark(&self, _: &CampaignId) -> Result<Option<Mark>, StoreError> {
        Ok(None)
    }
    async fn versions(&self, _: &CampaignId) -> Result<Vec<DefinitionVersion>, StoreError> {
        Ok(Vec::new())
    }
    async fn changes(
        &self,
        _: Partition,
        _: Offset,
        _: usize,
    ) -> Result<Vec<ChangeRow>, StoreError> {
        Ok(Vec::new())
    }
    fn coupons(&self, _: &CampaignId, _: Selection) -> CouponPages {
        Box::pin(futures_util::stream::empty())
    }
    fn by_user(&self, _: &CampaignId, _: u8) -> ByUserPages {
        Box::pin(futures_util::stream::empty())
    }
    async fn campaigns(
        &self,
        _: Option<&CampaignId>,
        _: usize,
    ) -> Result<Vec<CampaignId>, StoreError> {
        Ok(Vec::new())
    }
    async fn listed(&self, _: &CampaignId) -> Result<bool, StoreError> {
        Ok(false)
    }
    fn known(&self) -> CampaignPages {
        Box::pin(futures_util::stream::empty())
    }
}
