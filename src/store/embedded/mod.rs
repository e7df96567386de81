//! The coupon store on the embedded database.
//!
//! Rows go through the same journal as the log, in the order of calls, and are not fsynced on
//! their own: the next append's fsync covers them, and until then the records that they follow
//! from are on disk. So a write is answered when its rows stand in line, and a read waits for
//! what stood in line before it: a decision then costs one fsync, its record's, and not two more
//! that are under way for others. The by-user view is an index: its rows hold nothing but their
//! key.

mod rows;

use std::{ops::Bound, sync::Arc, time::Instant};

use async_trait::async_trait;
use fjall::{Guard, Keyspace};
use futures_util::StreamExt;

use super::{
    ByUserPages, ByUserRow, CouponPages, CouponStore, LISTING_MAX, Layout, Selection, StoreError,
    StoreInspection, Unreadable,
};
use crate::{
    domain::{
        coupon::Coupon,
        ids::{CampaignId, Partition, Sequence},
        rows::{CampaignRows, Hold, PartitionRows, Row},
    },
    embedded::{EmbeddedDatabase, Operation, Shared, keys},
    telemetry::metrics,
};

/// Coupons in one page: about 1 MiB in memory and 2 ms of reading.
const PAGE_COUPONS: usize = 4_096;

/// The store of an embedded node.
#[derive(Debug)]
pub struct EmbeddedStore {
    database: Arc<EmbeddedDatabase>,
}

impl EmbeddedStore {
    /// The store in `database`.
    #[must_use]
    pub fn new(database: Arc<EmbeddedDatabase>) -> Self {
        Self { database }
    }

    /// Runs `read` where it may wait for the disk.
    async fn read<T: Send + 'static>(
        &self,
        name: &'static str,
        operation: impl Into<String>,
        read: impl FnOnce(&Keyspace) -> Result<T, DatabaseError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let started = self.now();
        self.database.written().await;
        let value = blocking(self.database.shared().clone(), operation.into(), read).await;
        self.measure(name, started);
        value
    }

    fn now(&self) -> Instant {
        self.database.shared().clock.instant()
    }

    fn measure(&self, operation: &'static str, started: Instant) {
        metrics::store_latency(operation, self.now().saturating_duration_since(started));
    }
}

#[async_trait]
impl CouponStore for EmbeddedStore {
    async fn layout(&self, proposed: &Layout) -> Result<Layout, StoreError> {
        const OPERATION: &str = "creating the layout row";
        let value = rows::encode_layout(proposed);
        let in_force = self
            .database
            .submit(|reply| Operation::Create { key: keys::layout(), value, reply })
            .await
            .map_err(|error| StoreError::new(OPERATION, error))?;
        rows::decode_layout(&in_force).map_err(|error| StoreError::new(OPERATION, error))
    }

    async fn write(&self, rows: &[Row]) -> Result<(), StoreError> {
        let started = self.now();
        let mut entries = Vec::with_capacity(rows.len() * 2);
        // A hold is rare, and nothing in the log makes its later states again.
        let durable = rows.iter().any(|row| matches!(row, Row::Hold(_) | Row::Version(_)));
        for row in rows {
            rows::encode(row, &mut entries);
        }
        let written = if durable {
            self.database.submit(|reply| Operation::Write { entries, durable, reply }).await
        } else {
            self.database.write_behind(entries).await
        };
        let written =
            written.map_err(|error| StoreError::new(format!("writing {} rows", rows.len()), error));
        self.measure("write", started);
        written
    }

    async fn partition(&self, partition: Partition) -> Result<PartitionRows, StoreError> {
        let operation = format!("reading progress and holds of partition {partition}");
        self.read("partition", operation, move |data| {
            let progress = data.get(keys::progress(partition))?;
            let progress =
                progress.map(|value| rows::decode_progress(partition, &value)).transpose()?;
            let holds = holds(data, partition, keys::partition_holds(partition))?;
            Ok(PartitionRows { progress, holds })
        })
        .await
    }

    async fn campaign(
        &self,
        campaign: &CampaignId,
        partition: Partition,
    ) -> Result<CampaignRows, StoreError> {
        let operation = format!("reading holds, mark and versions of campaign {campaign}");
        let campaign = campaign.clone();
        self.read("campaign", operation, move |data| {
            let holds = holds(data, partition, keys::campaign_holds(partition, &campaign))?;
            let mark = data.get(keys::mark(&campaign))?;
            let mark = mark.map(|value| rows::decode_mark(&campaign, &value)).transpose()?;
            let versions = data
                .prefix(keys::versions(&campaign))
                .map(|guard| Ok(rows::decode_version(&campaign, &guard.value()?)?))
                .collect::<Result<_, DatabaseError>>()?;
            Ok(CampaignRows { holds, mark, versions })
        })
        .await
    }

    fn coupons(&self, campaign: &CampaignId, selection: Selection) -> CouponPages {
        let pages = Pages {
            unread: Some(self.database.clone()),
            shared: self.database.shared().clone(),
            campaign: campaign.clone(),
            selection: Arc::new(selection),
            ahead: None,
        };
        futures_util::stream::try_unfold(pages, Pages::turn).boxed()
    }

    async fn campaigns(
        &self,
        after: Option<&CampaignId>,
        limit: usize,
    ) -> Result<Vec<CampaignId>, StoreError> {
        let range = keys::names_after(after);
        self.read("campaigns", "listing campaigns", move |data| {
            let names = data.range::<Vec<u8>, _>(range).take(limit.min(LISTING_MAX));
            names
                .map(|guard| Ok(keys::name_parts(&guard.key()?).ok_or(Unreadable::new("a name"))?))
                .collect()
        })
        .await
    }
}

#[async_trait]
impl StoreInspection for EmbeddedStore {
    async fn layout_in_force(&self) -> Result<Option<Layout>, StoreError> {
        let read = |data: &Keyspace| -> Result<_, DatabaseError> {
            let row = data.get(keys::layout())?;
            Ok(row.map(|value| rows::decode_layout(&value)).transpose()?)
        };
        self.read("layout", "reading the layout", read).await
    }

    fn by_user(&self, campaign: &CampaignId, bucket: u8) -> ByUserPages {
        let index = Index {
            shared: self.database.shared().clone(),
            campaign: campaign.clone(),
            bucket,
            last: None,
            ended: false,
        };
        futures_util::stream::try_unfold(index, Index::turn).boxed()
    }
}

/// Where a reader of the by-user index stands.
struct Index {
    shared: Arc<Shared>,
    campaign: CampaignId,
    bucket: u8,
    /// The last key given.
    last: Option<Vec<u8>>,
    ended: bool,
}

impl Index {
    async fn turn(mut self) -> Result<Option<(Vec<ByUserRow>, Self)>, StoreError> {
        if self.ended {
            return Ok(None);
        }
        let (campaign, bucket) = (self.campaign.clone(), self.bucket);
        let operation = format!("reading the by-user view of {campaign}, bucket {bucket}");
        let range = keys::user_bucket_after(&campaign, bucket, self.last.take());
        let prefix_bytes = keys::user_bucket(&campaign, bucket).len();
        let read = move |data: &Keyspace| -> Result<_, DatabaseError> {
            let mut rows = Vec::new();
            let mut last = None;
            for guard in data.range::<Vec<u8>, _>(range).take(PAGE_COUPONS) {
                let key = guard.key()?;
                let parts = keys::by_user_parts(&key, prefix_bytes);
                let (user, sequence) = parts.ok_or(Unreadable::new("a by-user key"))?;
                rows.push(ByUserRow { user, sequence, coupon: None });
                last = Some(key.to_vec());
            }
            Ok((rows, last))
        };
        let (rows, last) = blocking(self.shared.clone(), operation, read).await?;
        self.last = last;
        self.ended = rows.len() < PAGE_COUPONS;
        Ok((!rows.is_empty()).then_some((rows, self)))
    }
}

fn holds(
    data: &Keyspace,
    partition: Partition,
    prefix: Vec<u8>,
) -> Result<Vec<Hold>, DatabaseError> {
    let decoded = data.prefix(prefix).map(|guard| {
        let (key, value) = guard.into_inner()?;
        Ok(rows::decode_hold(partition, &key, &value)?)
    });
    decoded.collect()
}

/// Where a reader of coupons stands.
struct Pages {
    /// Until the first page is read: what it must see is written first.
    unread: Option<Arc<EmbeddedDatabase>>,
    shared: Arc<Shared>,
    campaign: CampaignId,
    selection: Arc<Selection>,
    /// The next page, by the sequence that it starts at; none when there is no next page. It is
    /// read while whoever asked looks at the one before.
    ahead: Option<(Sequence, Reading<Vec<Coupon>>)>,
}

impl Pages {
    async fn turn(mut self) -> Result<Option<(Vec<Coupon>, Self)>, StoreError> {
        let started = self.shared.clock.instant();
        if let Some(database) = self.unread.take() {
            database.written().await;
            self.read_ahead(0);
        }
        let Some((from, reading)) = self.ahead.take() else { return Ok(None) };
        let operation = format!("reading coupons of campaign {} from {from}", self.campaign);
        let coupons = finished(operation, reading).await?;
        let latency = self.shared.clock.instant().saturating_duration_since(started);
        metrics::store_latency("coupons", latency);
        let full = coupons.len() >= PAGE_COUPONS;
        let last = coupons.last().filter(|_| full);
        if let Some(next) = last.and_then(|coupon| coupon.sequence.checked_add(1)) {
            self.read_ahead(next);
        }
        Ok((!coupons.is_empty()).then_some((coupons, self)))
    }

    fn read_ahead(&mut self, from: Sequence) {
        let (campaign, selection) = (self.campaign.clone(), self.selection.clone());
        let shared = self.shared.clone();
        let read = move || page(&shared.data, &campaign, &selection, from);
        self.ahead = Some((from, tokio::task::spawn_blocking(read)));
    }
}

fn page(
    data: &Keyspace,
    campaign: &CampaignId,
    selection: &Selection,
    from: Sequence,
) -> Result<Vec<Coupon>, DatabaseError> {
    match selection {
        Selection::All => coupons(data, campaign, from, Sequence::MAX),
        Selection::Between { first, last } => coupons(data, campaign, from.max(*first), *last),
        Selection::OfUser { user, bucket } => {
            let range = keys::of_user_from(campaign, *bucket, user, from);
            let index = data.range::<Vec<u8>, _>(range).take(PAGE_COUPONS).map(Guard::key);
            index
                .map(|key| {
                    let sequence =
                        keys::sequence_of(&key?).ok_or(Unreadable::new("a by-user key"))?;
                    let value = data.get(keys::coupon(campaign, sequence))?;
                    let value = value.ok_or_else(|| {
                        format!("coupon {sequence} stands in the by-user view only")
                    })?;
                    Ok(rows::decode_coupon(campaign, sequence, &value)?)
                })
                .collect()
        }
    }
}

/// A page of the coupons from `first` to `last`.
fn coupons(
    data: &Keyspace,
    campaign: &CampaignId,
    first: Sequence,
    last: Sequence,
) -> Result<Vec<Coupon>, DatabaseError> {
    if first > last {
        return Ok(Vec::new());
    }
    let range: (Bound<_>, Bound<_>) = keys::coupons_between(campaign, first, last);
    let rows = data.range::<Vec<u8>, _>(range).take(PAGE_COUPONS).map(Guard::into_inner);
    rows.map(|row| {
        let (key, value) = row?;
        let sequence = keys::sequence_of(&key).ok_or(Unreadable::new("a coupon's key"))?;
        Ok(rows::decode_coupon(campaign, sequence, &value)?)
    })
    .collect()
}

type DatabaseError = Box<dyn std::error::Error + Send + Sync>;

/// A read under way where it may wait for the disk.
type Reading<T> = tokio::task::JoinHandle<Result<T, DatabaseError>>;

async fn blocking<T: Send + 'static>(
    shared: Arc<Shared>,
    operation: String,
    read: impl FnOnce(&Keyspace) -> Result<T, DatabaseError> + Send + 'static,
) -> Result<T, StoreError> {
    finished(operation, tokio::task::spawn_blocking(move || read(&shared.data))).await
}

async fn finished<T>(operation: String, reading: Reading<T>) -> Result<T, StoreError> {
    match reading.await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(source)) => Err(StoreError { operation, source }),
        Err(error) => Err(StoreError::new(operation, error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded::testing;

    async fn fresh() -> (Arc<EmbeddedStore>, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let database = testing::open(folder.path(), 1);
        (Arc::new(EmbeddedStore::new(database)), folder)
    }

    crate::store::contract::coupon_store_contract!(fresh);
}
