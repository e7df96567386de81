//! Ports in memory, with the faults that the real ones don't show on demand.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, mpsc};

use crate::{
    clock::Clock,
    domain::{
        coupon::Coupon,
        definition::DefinitionVersion,
        ids::{CampaignId, Offset, Partition, Timestamp},
        rows::{CampaignRows, Hold, Mark, PartitionRows, Progress, Row},
    },
    feed::{DecisionFeed, FOLLOWER_MESSAGES_MAX, FeedError, FeedEvent},
    log::{AppendError, Appended, Bounds, LogError, LogReader, Ownership, RequestLog},
    store::{CouponPages, CouponStore, LISTING_MAX, Layout, Selection, StoreError},
    wire::{LogRecord, NewRecord, feed_message::FeedMessage},
};

/// Wall-clock time of every test's start.
pub(super) const START: i64 = 1_700_000_000_000;

/// First offset of every partition, so that nobody takes offsets for counts.
pub(super) const FIRST_OFFSET: Offset = 1_000;

/// Time that follows tokio's, which tests pause.
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

/// What the next append comes to, other than an offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AppendFault {
    /// ServiceError.
    Overloaded,
    /// Not confirmed; `true`: but in the log.
    Unknown(bool),
    /// Never answers.
    Hangs,
    /// Acknowledged at this offset.
    At(Offset),
}

type BeforeAppend = Box<dyn FnMut() + Send>;

/// A log that keeps everything.
pub(super) struct FakeLog {
    clock: Arc<TestClock>,
    pub(super) records: Mutex<Vec<(Partition, LogRecord)>>,
    pub(super) faults: Mutex<VecDeque<AppendFault>>,
    pub(super) before_append: Mutex<Option<BeforeAppend>>,
    pub(super) appended: Notify,
    pub(super) away: AtomicBool,
}

impl FakeLog {
    pub(super) fn new(clock: Arc<TestClock>) -> Self {
        Self {
            clock,
            records: Mutex::default(),
            faults: Mutex::default(),
            before_append: Mutex::default(),
            appended: Notify::new(),
            away: AtomicBool::new(false),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.records.lock().len()
    }

    pub(super) fn end(&self, partition: Partition) -> Offset {
        let records = self.records.lock();
        let last = records.iter().rev().find(|(of, _)| *of == partition);
        last.map_or(FIRST_OFFSET, |(_, record)| record.offset + 1)
    }

    fn take(&self, partition: Partition, record: NewRecord) -> Appended {
        // Offsets have holes.
        let offset = self.end(partition) + 1;
        let time = self.clock.now();
        let NewRecord { campaign, value, mac } = record;
        let key = campaign.as_str().as_bytes().to_vec();
        let record = LogRecord { offset, time, key, value, mac: Some(mac) };
        self.records.lock().push((partition, record));
        self.appended.notify_one();
        Appended { offset, time }
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
            None => Ok(self.take(partition, record)),
            Some(AppendFault::Overloaded) => Err(AppendError::Overloaded("full".to_owned())),
            Some(AppendFault::Unknown(kept)) => {
                if kept {
                    self.take(partition, record);
                }
                Err(AppendError::Unknown("timed out".to_owned()))
            }
            Some(AppendFault::Hangs) => std::future::pending().await,
            Some(AppendFault::At(offset)) => Ok(Appended { offset, time: self.clock.now() }),
        }
    }

    async fn join(&self) -> Result<mpsc::Receiver<Ownership>, LogError> {
        unimplemented!("the service owns no partition")
    }

    async fn open(&self, _: Partition, _: Offset) -> Result<Box<dyn LogReader>, LogError> {
        unimplemented!("the service reads no log")
    }

    async fn bounds(&self, partition: Partition) -> Result<Bounds, LogError> {
        if self.away.load(Ordering::Relaxed) {
            let source = "connection refused".into();
            return Err(LogError { operation: "reading bounds".to_owned(), source });
        }
        Ok(Bounds { low: FIRST_OFFSET, high: self.end(partition) })
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

/// A store that keeps everything and counts its reads.
#[derive(Default)]
pub(super) struct FakeStore {
    pub(super) progress: Mutex<BTreeMap<Partition, Progress>>,
    pub(super) holds: Mutex<Vec<Hold>>,
    pub(super) marks: Mutex<BTreeMap<CampaignId, Mark>>,
    pub(super) versions: Mutex<BTreeMap<CampaignId, Vec<DefinitionVersion>>>,
    pub(super) coupons: Mutex<BTreeMap<CampaignId, Vec<Coupon>>>,
    pub(super) away: AtomicBool,
    pub(super) campaign_reads: AtomicUsize,
    pub(super) partition_reads: AtomicUsize,
    pub(super) coupon_reads: AtomicUsize,
    /// While it is there, reads of campaigns wait for its permits.
    pub(super) gate: Mutex<Option<Arc<Semaphore>>>,
}

impl FakeStore {
    fn answering(&self, operation: &str) -> Result<(), StoreError> {
        match self.away.load(Ordering::Relaxed) {
            true => Err(StoreError::new(operation, "connection refused")),
            false => Ok(()),
        }
    }

    pub(super) fn reads_of_campaigns(&self) -> usize {
        self.campaign_reads.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl CouponStore for FakeStore {
    async fn layout(&self, proposed: &Layout) -> Result<Layout, StoreError> {
        Ok(proposed.clone())
    }

    async fn write(&self, rows: &[Row]) -> Result<(), StoreError> {
        for row in rows.iter().cloned() {
            match row {
                Row::Coupon(coupon) => {
                    self.coupons.lock().entry(coupon.campaign.clone()).or_default().push(coupon);
                }
                Row::Version(version) => {
                    let campaign = version.campaign.clone();
                    self.versions.lock().entry(campaign).or_default().push(version);
                }
                Row::Hold(hold) => {
                    let mut holds = self.holds.lock();
                    holds.retain(|old| {
                        (&old.campaign, old.from, old.number)
                            != (&hold.campaign, hold.from, hold.number)
                    });
                    holds.push(hold);
                }
                Row::Mark(mark) => {
                    self.marks.lock().insert(mark.campaign.clone(), mark);
                }
                Row::Progress(progress) => {
                    self.progress.lock().insert(progress.partition, progress);
                }
            }
        }
        Ok(())
    }

    async fn partition(&self, partition: Partition) -> Result<PartitionRows, StoreError> {
        self.partition_reads.fetch_add(1, Ordering::Relaxed);
        self.answering("reading a partition")?;
        let holds = self.holds.lock();
        Ok(PartitionRows {
            progress: self.progress.lock().get(&partition).cloned(),
            holds: holds.iter().filter(|hold| hold.partition == partition).cloned().collect(),
        })
    }

    async fn campaign(
        &self,
        campaign: &CampaignId,
        _: Partition,
    ) -> Result<CampaignRows, StoreError> {
        self.campaign_reads.fetch_add(1, Ordering::Relaxed);
        let gate = self.gate.lock().clone();
        if let Some(gate) = gate {
            gate.acquire().await.unwrap().forget();
        }
        self.answering("reading a campaign")?;
        let holds = self.holds.lock();
        Ok(CampaignRows {
            holds: holds.iter().filter(|hold| hold.campaign == *campaign).cloned().collect(),
            mark: self.marks.lock().get(campaign).cloned(),
            versions: self.versions.lock().get(campaign).cloned().unwrap_or_default(),
        })
    }

    fn coupons(&self, campaign: &CampaignId, selection: Selection) -> CouponPages {
        self.coupon_reads.fetch_add(1, Ordering::Relaxed);
        if let Err(error) = self.answering("reading coupons") {
            return stream::iter([Err(error)]).boxed();
        }
        let coupons = self.coupons.lock().get(campaign).cloned().unwrap_or_default();
        let selected = coupons.into_iter().filter(move |coupon| match &selection {
            Selection::All => true,
            Selection::Between { first, last } => (*first..=*last).contains(&coupon.sequence),
            Selection::OfUser { user, bucket } => {
                coupon.user == *user && coupon.user_bucket == *bucket
            }
        });
        // A page each: whoever reads must go on until the end.
        let pages: Vec<_> = selected.map(|coupon| Ok(vec![coupon])).collect();
        stream::iter(pages).boxed()
    }

    async fn campaigns(
        &self,
        after: Option<&CampaignId>,
        limit: usize,
    ) -> Result<Vec<CampaignId>, StoreError> {
        self.answering("listing campaigns")?;
        let versions = self.versions.lock();
        let later = versions.keys().filter(|id| after.is_none_or(|after| *id > after));
        Ok(later.take(limit.min(LISTING_MAX)).cloned().collect())
    }
}

/// A feed whose messages can be lost.
#[derive(Default)]
pub(super) struct FakeFeed {
    followers: Mutex<Vec<mpsc::Sender<FeedEvent>>>,
    pub(super) followed: AtomicUsize,
    pub(super) away: AtomicBool,
}

impl FakeFeed {
    /// Tells every follower that messages were lost.
    pub(super) fn gap(&self) {
        self.followers.lock().retain(|follower| follower.try_send(FeedEvent::Gap).is_ok());
    }

    /// Ends every follower's channel.
    pub(super) fn cut(&self) {
        self.followers.lock().clear();
    }
}

#[async_trait]
impl DecisionFeed for FakeFeed {
    async fn publish(&self, message: FeedMessage) -> Result<(), FeedError> {
        let event = FeedEvent::Message(Arc::new(message));
        self.followers.lock().retain(|follower| follower.try_send(event.clone()).is_ok());
        Ok(())
    }

    async fn follow(&self) -> Result<mpsc::Receiver<FeedEvent>, FeedError> {
        if self.away.load(Ordering::Relaxed) {
            let source = "connection refused".into();
            return Err(FeedError { operation: "following the feed".to_owned(), source });
        }
        let (sender, receiver) = mpsc::channel(FOLLOWER_MESSAGES_MAX);
        self.followers.lock().push(sender);
        self.followed.fetch_add(1, Ordering::Relaxed);
        Ok(receiver)
    }
}
