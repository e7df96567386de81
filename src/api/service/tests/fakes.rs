//! Ports in memory that fail on demand.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, Semaphore, mpsc};

use crate::{
    clock::Clock,
    domain::{
        coupon::Coupon,
        definition::DefinitionVersion,
        ids::{CampaignId, Offset, Partition, Timestamp},
        rows::{Hold, Mark, Progress, Row},
    },
    feed::{DecisionFeed, FeedError, FeedEvent, in_process::InProcessFeed},
    log::{
        AppendError, Appended, Bounds, LogError, LogReader, Ownership, RequestLog,
        memory::{MemoryLog, MemoryPartition},
    },
    store::{
        CouponPages, CouponStore, Layout, Selection, StoreError,
        memory::{MemoryRows, MemoryStore},
    },
    wire::{LogRecord, NewRecord, feed_message::FeedMessage},
};

/// Wall-clock time at the start of every test.
pub(super) const START: i64 = 1_700_000_000_000;

/// First offset of every partition. Not 0, so that code that takes offsets for counts fails.
pub(super) const FIRST_OFFSET: Offset = 1_000;

/// Follows the time of tokio, which tests pause.
pub(super) struct TestClock(tokio::time::Instant);

impl TestClock {
    pub(super) fn new() -> Self {
        Self(tokio::time::Instant::now())
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp(START + i64::try_from(self.0.elapsed().as_millis()).unwrap())
    }

    fn instant(&self) -> std::time::Instant {
        tokio::time::Instant::now().into_std()
    }
}

/// How the next append fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AppendFault {
    /// Refused.
    Overloaded,
    /// Not confirmed. `true`: the record is in the log all the same.
    Unknown(bool),
    /// Never answers.
    Hangs,
    /// Acknowledged at this offset.
    At(Offset),
}

type BeforeAppend = Box<dyn FnMut() + Send>;

/// The log in memory, with appends that fail on demand.
pub(super) struct FakeLog {
    log: MemoryLog,
    clock: Arc<TestClock>,
    /// Every append, in order.
    order: Mutex<Vec<(Partition, Offset)>>,
    pub(super) faults: Mutex<VecDeque<AppendFault>>,
    pub(super) before_append: Mutex<Option<BeforeAppend>>,
    pub(super) appended: Notify,
    pub(super) away: AtomicBool,
}

impl FakeLog {
    pub(super) fn new(clock: Arc<TestClock>, partitions: u32) -> Self {
        let partitions = vec![MemoryPartition::starting_at(FIRST_OFFSET); partitions as usize];
        Self {
            log: MemoryLog::new(partitions, clock.clone()),
            clock,
            order: Mutex::default(),
            faults: Mutex::default(),
            before_append: Mutex::default(),
            appended: Notify::new(),
            away: AtomicBool::new(false),
        }
    }

    /// Returns every record with its partition, in the order of appends.
    pub(super) fn records(&self) -> Vec<(Partition, LogRecord)> {
        let read = |&(partition, offset): &(Partition, Offset)| {
            let record = self.log.with(partition, |log| log.records[&offset].clone());
            (partition, record.unwrap())
        };
        self.order.lock().iter().map(read).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.order.lock().len()
    }

    pub(super) fn end(&self, partition: Partition) -> Offset {
        self.log.with(partition, |log| log.high).unwrap()
    }

    async fn take(&self, partition: Partition, record: NewRecord) -> Appended {
        let appended = self.log.append(partition, record).await.unwrap();
        self.order.lock().push((partition, appended.offset));
        self.appended.notify_one();
        appended
    }
}

#[async_trait]
impl RequestLog for FakeLog {
    async fn append(
        &self,
        partition: Partition,
        record: NewRecord,
    ) -> Result<Appended, AppendError> {
        let hook = self.before_append.lock().take();
        if let Some(mut hook) = hook {
            hook();
        }
        let fault = self.faults.lock().pop_front();
        match fault {
            None => Ok(self.take(partition, record).await),
            Some(AppendFault::Overloaded) => Err(AppendError::Overloaded("full".to_owned())),
            Some(AppendFault::Unknown(kept)) => {
                if kept {
                    self.take(partition, record).await;
                }
                Err(AppendError::Unknown("timed out".to_owned()))
            }
            Some(AppendFault::Hangs) => std::future::pending().await,
            Some(AppendFault::At(offset)) => Ok(Appended { offset, time: self.clock.now() }),
        }
    }

    async fn join(&self) -> Result<mpsc::Receiver<Ownership>, LogError> {
        self.log.join().await
    }

    async fn open(
        &self,
        partition: Partition,
        from: Offset,
    ) -> Result<Box<dyn LogReader>, LogError> {
        self.log.open(partition, from).await
    }

    async fn bounds(&self, partition: Partition) -> Result<Bounds, LogError> {
        if self.away.load(Ordering::Relaxed) {
            let source = "connection refused".into();
            return Err(LogError { operation: "reading bounds".to_owned(), source });
        }
        self.log.bounds(partition).await
    }

    async fn report_progress(
        &self,
        partition: Partition,
        next: Offset,
        keep_from: Option<Offset>,
    ) -> Result<(), LogError> {
        self.log.report_progress(partition, next, keep_from).await
    }

    async fn dead_letter(
        &self,
        partition: Partition,
        record: &LogRecord,
        reason: &str,
    ) -> Result<(), LogError> {
        self.log.dead_letter(partition, record, reason).await
    }
}

/// The store in memory. It counts its reads, and can stop answering.
#[derive(Default)]
pub(super) struct FakeStore {
    store: MemoryStore,
    pub(super) away: AtomicBool,
    pub(super) campaign_reads: AtomicUsize,
    pub(super) partition_reads: AtomicUsize,
    pub(super) coupon_reads: AtomicUsize,
    /// If set, each read of a campaign waits for a permit before its first row.
    pub(super) gate: Mutex<Option<Arc<Semaphore>>>,
}

impl FakeStore {
    fn answering(&self, operation: &str) -> Result<(), StoreError> {
        match self.away.load(Ordering::Relaxed) {
            true => Err(StoreError::new(operation, "connection refused")),
            false => Ok(()),
        }
    }

    pub(super) fn rows(&self) -> MutexGuard<'_, MemoryRows> {
        self.store.rows.lock()
    }

    /// Damages each coupon in both views.
    pub(super) fn damage_coupons(&self, damage: impl Fn(&mut Coupon)) {
        let mut rows = self.rows();
        rows.coupons.values_mut().for_each(&damage);
        rows.by_user.values_mut().for_each(&damage);
    }

    pub(super) fn reads_of_campaigns(&self) -> usize {
        self.campaign_reads.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl CouponStore for FakeStore {
    async fn layout(&self, proposed: &Layout) -> Result<Layout, StoreError> {
        self.store.layout(proposed).await
    }

    async fn write(&self, rows: &[Row]) -> Result<(), StoreError> {
        self.store.write(rows).await
    }

    /// Every read of a partition begins with its progress.
    async fn progress(&self, partition: Partition) -> Result<Option<Progress>, StoreError> {
        self.partition_reads.fetch_add(1, Ordering::Relaxed);
        self.answering("reading progress")?;
        self.store.progress(partition).await
    }

    async fn holds(&self, partition: Partition) -> Result<Vec<Hold>, StoreError> {
        self.answering("reading holds")?;
        self.store.holds(partition).await
    }

    /// Every read of a campaign begins with its holds.
    async fn campaign_holds(
        &self,
        campaign: &CampaignId,
        partition: Partition,
    ) -> Result<Vec<Hold>, StoreError> {
        self.campaign_reads.fetch_add(1, Ordering::Relaxed);
        let gate = self.gate.lock().clone();
        if let Some(gate) = gate {
            gate.acquire().await.unwrap().forget();
        }
        self.answering("reading holds")?;
        self.store.campaign_holds(campaign, partition).await
    }

    async fn mark(&self, campaign: &CampaignId) -> Result<Option<Mark>, StoreError> {
        self.answering("reading a mark")?;
        self.store.mark(campaign).await
    }

    async fn versions(&self, campaign: &CampaignId) -> Result<Vec<DefinitionVersion>, StoreError> {
        self.answering("reading versions")?;
        self.store.versions(campaign).await
    }

    fn coupons(&self, campaign: &CampaignId, selection: Selection) -> CouponPages {
        self.coupon_reads.fetch_add(1, Ordering::Relaxed);
        match self.answering("reading coupons") {
            Ok(()) => self.store.coupons(campaign, selection),
            Err(error) => stream::iter([Err(error)]).boxed(),
        }
    }

    async fn campaigns(
        &self,
        after: Option<&CampaignId>,
        limit: usize,
    ) -> Result<Vec<CampaignId>, StoreError> {
        self.answering("listing campaigns")?;
        self.store.campaigns(after, limit).await
    }
}

/// The feed in memory. It can lose its followers and refuse new ones.
#[derive(Default)]
pub(super) struct FakeFeed {
    feed: Mutex<Arc<InProcessFeed>>,
    pub(super) away: AtomicBool,
}

impl FakeFeed {
    /// Drops every follower. A service follows again, and counts it as a gap.
    pub(super) fn cut(&self) {
        *self.feed.lock() = Arc::default();
    }
}

#[async_trait]
impl DecisionFeed for FakeFeed {
    async fn publish(&self, message: FeedMessage) -> Result<(), FeedError> {
        let feed = self.feed.lock().clone();
        feed.publish(message).await
    }

    async fn follow(&self) -> Result<mpsc::Receiver<FeedEvent>, FeedError> {
        if self.away.load(Ordering::Relaxed) {
            let source = "connection refused".into();
            return Err(FeedError { operation: "following the feed".to_owned(), source });
        }
        let feed = self.feed.lock().clone();
        feed.follow().await
    }
}
