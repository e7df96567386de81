//! A log and a store in memory, open to whoever wants to damage them.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::Arc,
};

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use tokio::sync::mpsc;

use crate::{
    domain::{
        coupon::Coupon,
        definition::DefinitionVersion,
        ids::{CampaignId, Offset, Partition, Sequence, UserId},
        keys::Keys,
        rows::{CampaignRows, Hold, Mark, PartitionRows, Progress, Row},
    },
    log::{AppendError, Appended, Bounds, LogError, LogReader, Ownership, ReadError, RequestLog},
    store::{
        ByUserPages, ByUserRow, CouponPages, CouponStore, Layout, Selection, StoreError,
        StoreInspection,
    },
    wire::{LogRecord, NewRecord, codec::Codec},
};

/// Rows of one page: few, so that pages end within a campaign.
const PAGE: usize = 7;

/// Partitions of a world.
pub(super) const PARTITIONS: u32 = 3;

/// One partition of the log.
#[derive(Debug, Clone, Default)]
pub(super) struct Log {
    pub(super) low: Offset,
    pub(super) high: Offset,
    pub(super) records: BTreeMap<Offset, LogRecord>,
}

/// Everything that an audit reads.
#[derive(Debug, Clone)]
pub(super) struct World {
    pub(super) keys: Arc<Keys>,
    pub(super) layout: Layout,
    pub(super) codec: Codec,
    pub(super) logs: Vec<Log>,
    pub(super) coupons: BTreeMap<(CampaignId, Sequence), Coupon>,
    pub(super) by_user: BTreeMap<(CampaignId, u8, UserId, Sequence), Coupon>,
    pub(super) versions: BTreeMap<(CampaignId, Offset), DefinitionVersion>,
    pub(super) listing: BTreeSet<CampaignId>,
    pub(super) marks: BTreeMap<CampaignId, Mark>,
    pub(super) progress: BTreeMap<Partition, Progress>,
    pub(super) holds: Vec<Hold>,
    /// What clients were told, a line each.
    pub(super) answers: Vec<serde_json::Value>,
}

impl World {
    pub(super) fn new() -> Self {
        let keys = Arc::new(Keys::derive(b"a secret of the self-test, and of nothing else"));
        let layout = Layout {
            instance: "self-test".to_owned(),
            log_epoch: 1,
            partitions: PARTITIONS,
            format: 1,
            fingerprint: keys.fingerprint().to_owned(),
            secret: None,
        };
        Self {
            codec: Codec::new(keys.clone(), 1, PARTITIONS),
            keys,
            layout,
            logs: vec![Log::default(); PARTITIONS as usize],
            coupons: BTreeMap::new(),
            by_user: BTreeMap::new(),
            versions: BTreeMap::new(),
            listing: BTreeSet::new(),
            marks: BTreeMap::new(),
            progress: BTreeMap::new(),
            holds: Vec::new(),
            answers: Vec::new(),
        }
    }

    /// Stores a coupon in both views.
    pub(super) fn put(&mut self, coupon: Coupon) {
        let Coupon { campaign, sequence, user, user_bucket, .. } = &coupon;
        let key = (campaign.clone(), *user_bucket, user.clone(), *sequence);
        self.by_user.insert(key, coupon.clone());
        self.coupons.insert((campaign.clone(), *sequence), coupon);
    }

    /// Removes a coupon from both views.
    pub(super) fn remove(&mut self, campaign: &CampaignId, sequence: Sequence) {
        self.coupons.remove(&(campaign.clone(), sequence));
        self.by_user.retain(|(of, _, _, number), _| (of, *number) != (campaign, sequence));
    }

    /// Stores a definition version, and lists its campaign.
    pub(super) fn put_version(&mut self, version: DefinitionVersion) {
        self.listing.insert(version.campaign.clone());
        self.versions.insert((version.campaign.clone(), version.position.offset), version);
    }
}

/// A world as the ports give it.
#[derive(Debug, Clone)]
pub(super) struct Ports(pub(super) Arc<World>);

impl Ports {
    fn log_of(&self, partition: Partition) -> Result<&Log, LogError> {
        self.0.logs.get(partition as usize).ok_or_else(|| LogError {
            operation: format!("looking at partition {partition}"),
            source: "there is no such partition".into(),
        })
    }
}

/// Nothing is written: audits only read.
fn refused() -> LogError {
    LogError { operation: "writing to the log".to_owned(), source: "it is read only".into() }
}

#[async_trait]
impl RequestLog for Ports {
    async fn append(&self, _: Partition, _: NewRecord) -> Result<Appended, AppendError> {
        Err(AppendError::Overloaded("the log is read only".to_owned()))
    }

    async fn join(&self) -> Result<mpsc::Receiver<Ownership>, LogError> {
        Err(refused())
    }

    async fn open(
        &self,
        partition: Partition,
        from: Offset,
    ) -> Result<Box<dyn LogReader>, LogError> {
        self.log_of(partition)?;
        Ok(Box::new(Reader { world: Arc::clone(&self.0), partition, next: from }))
    }

    async fn bounds(&self, partition: Partition) -> Result<Bounds, LogError> {
        let log = self.log_of(partition)?;
        Ok(Bounds { low: log.low, high: log.high })
    }

    async fn report_progress(
        &self,
        _: Partition,
        _: Offset,
        _: Option<Offset>,
    ) -> Result<(), LogError> {
        Err(refused())
    }

    async fn dead_letter(&self, _: Partition, _: &LogRecord, _: &str) -> Result<(), LogError> {
        Err(refused())
    }
}

struct Reader {
    world: Arc<World>,
    partition: Partition,
    next: Offset,
}

#[async_trait]
impl LogReader for Reader {
    async fn read(&mut self, max: usize) -> Result<Vec<LogRecord>, ReadError> {
        let log = &self.world.logs[self.partition as usize];
        let found = log.records.range(self.next..).take(max.min(50));
        let records: Vec<_> = found.map(|(_, record)| record.clone()).collect();
        let Some(last) = records.last() else { return Err(ReadError::Closed) };
        self.next = last.offset + 1;
        Ok(records)
    }
}

#[async_trait]
impl CouponStore for Ports {
    async fn layout(&self, _: &Layout) -> Result<Layout, StoreError> {
        Ok(self.0.layout.clone())
    }

    async fn write(&self, _: &[Row]) -> Result<(), StoreError> {
        Err(StoreError::new("writing to the store", "it is read only"))
    }

    async fn partition(&self, partition: Partition) -> Result<PartitionRows, StoreError> {
        let holds = self.0.holds.iter().filter(|hold| hold.partition == partition);
        Ok(PartitionRows {
            progress: self.0.progress.get(&partition).cloned(),
            holds: holds.cloned().collect(),
        })
    }

    async fn campaign(
        &self,
        campaign: &CampaignId,
        partition: Partition,
    ) -> Result<CampaignRows, StoreError> {
        let holds = self.partition(partition).await?.holds.into_iter();
        let versions =
            self.0.versions.range((campaign.clone(), 0)..=(campaign.clone(), Offset::MAX));
        Ok(CampaignRows {
            holds: holds.filter(|hold| hold.campaign == *campaign).collect(),
            mark: self.0.marks.get(campaign).cloned(),
            versions: versions.map(|(_, version)| version.clone()).collect(),
        })
    }

    fn coupons(&self, campaign: &CampaignId, _: Selection) -> CouponPages {
        let all = (campaign.clone(), 0)..=(campaign.clone(), Sequence::MAX);
        let rows: Vec<_> = self.0.coupons.range(all).map(|(_, coupon)| coupon.clone()).collect();
        let pages: Vec<_> = rows.chunks(PAGE).map(|page| Ok(page.to_vec())).collect();
        stream::iter(pages).boxed()
    }

    async fn campaigns(
        &self,
        after: Option<&CampaignId>,
        limit: usize,
    ) -> Result<Vec<CampaignId>, StoreError> {
        let after = after.map_or(Bound::Unbounded, Bound::Excluded);
        let found = self.0.listing.range::<CampaignId, _>((after, Bound::Unbounded));
        Ok(found.take(limit).cloned().collect())
    }
}

#[async_trait]
impl StoreInspection for Ports {
    async fn layout_in_force(&self) -> Result<Option<Layout>, StoreError> {
        Ok(Some(self.0.layout.clone()))
    }

    fn by_user(&self, campaign: &CampaignId, bucket: u8) -> ByUserPages {
        let its = self
            .0
            .by_user
            .iter()
            .filter(|((of, its_bucket, ..), _)| (of, *its_bucket) == (campaign, bucket));
        let rows: Vec<_> = its
            .map(|((_, _, user, sequence), coupon)| ByUserRow {
                user: user.clone(),
                sequence: *sequence,
                coupon: Some(coupon.clone()),
            })
            .collect();
        let pages: Vec<_> = rows.chunks(PAGE).map(|page| Ok(page.to_vec())).collect();
        stream::iter(pages).boxed()
    }
}
