//! The coupon store on the embedded database.
//!
//! Rows go through the same journal as the log, in the order of calls. They get no fsync of their
//! own: the fsync of the next append covers them, and until then they can be derived again from
//! records that are on disk. So `write` returns once its rows are queued, and a read first waits
//! for the rows queued before it. A decision then costs one fsync, that of its record.
//!
//! Holds and versions are different: `write` returns once they are on disk.
//!
//! The by-user view is an index: its entries have a key and no value.

#[cfg(test)]
mod fuzz;
mod rows;

use std::{ops::Bound, sync::Arc, time::Instant};

use async_trait::async_trait;
use fjall::{Guard, Keyspace, UserValue};
use futures_util::StreamExt;

use super::{
    ByUserPages, CHANGES_MAX, CampaignPages, CouponPages, CouponStore, LISTING_MAX, Layout,
    NO_SKIP, Selection, StoreError, StoreInspection, Unreadable,
};
use crate::{
    domain::{
        change::ChangeRow,
        coupon::Coupon,
        definition::DefinitionVersion,
        ids::{CampaignId, Offset, Partition, Sequence},
        rows::{ByUserRow, Hold, Mark, Progress, Register, Row, Skip, SkipState},
    },
    embedded::{EmbeddedDatabase, Operation, ReadFailure, ReadHandle, Reading, keys},
    telemetry::metrics,
};

/// Coupons in one page: 1 ms of reading. At most 1 MiB in memory, with the longest users and codes.
const PAGE_COUPONS: usize = 1_400;

const _: () = assert!(2 * PAGE_COUPONS * Coupon::BYTES_MAX <= LOAD_BYTES);

/// What a load takes beside the loaded campaign: a page that is read, and the one before it.
pub(crate) const LOAD_BYTES: usize = 2 * 1_024 * 1_024;

/// The coupon store of an embedded node.
#[derive(Debug)]
pub struct EmbeddedStore {
    database: Arc<EmbeddedDatabase>,
}

impl EmbeddedStore {
    /// Creates the store in `database`.
    #[must_use]
    pub fn new(database: Arc<EmbeddedDatabase>) -> Self {
        Self { database }
    }

    /// Reads on a blocking thread what was written before, and measures how long that takes.
    async fn read<T: Send + 'static>(
        &self,
        name: &'static str,
        operation: impl Into<String>,
        read: impl FnOnce(&Keyspace) -> Result<T, ReadFailure> + Send + 'static,
    ) -> Result<T, StoreError> {
        let started = self.now();
        self.database.written().await;
        let value = self.database.reads().run(move |reads| read(&reads.data)).await;
        self.measure(name, started);
        value.map_err(|source| StoreError { operation: operation.into(), source })
    }

    /// Creates a row unless there is one. Returns the value that is stored then, which is on disk.
    async fn create(
        &self,
        operation: &str,
        key: Vec<u8>,
        value: Vec<u8>,
    ) -> Result<UserValue, StoreError> {
        let created = self.database.submit(|reply| Operation::Create { key, value, reply }).await;
        created.map_err(|error| StoreError::new(operation, error))
    }

    fn now(&self) -> Instant {
        self.database.reads().clock.instant()
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
        let in_force = self.create(OPERATION, keys::layout(), value).await?;
        rows::decode_layout(&in_force).map_err(|error| StoreError::new(OPERATION, error))
    }

    fn views_are_one(&self) -> bool {
        true
    }

    async fn write(&self, rows: &[Row]) -> Result<(), StoreError> {
        let started = self.now();
        let mut entries = Vec::with_capacity(rows.len() * 2);
        // Nothing in the log repeats the later states of a hold, and a version must be durable
        // before any row above it. Both are rare, so their own fsync costs little.
        let durable = rows.iter().any(|row| matches!(row, Row::Hold(_) | Row::Version(_)));
        for row in rows {
            rows::encode(row, &mut entries);
        }
        let written = if durable {
            self.database.submit(|reply| Operation::Write { entries, durable, reply }).await
        } else {
            // The coupons of a call are those of one campaign.
            let of = rows.iter().find_map(|row| match row {
                Row::Coupon(coupon) | Row::ByUser(coupon) => Some(&coupon.campaign),
                _ => None,
            });
            self.database.write_behind(of, entries).await
        };
        let written =
            written.map_err(|error| StoreError::new(format!("writing {} rows", rows.len()), error));
        self.measure("write", started);
        written
    }

    async fn progress(&self, partition: Partition) -> Result<Option<Progress>, StoreError> {
        let operation = format!("reading progress of partition {partition}");
        self.read("progress", operation, move |data| {
            let value = data.get(keys::progress(partition))?;
            Ok(value.map(|value| rows::decode_progress(partition, &value)).transpose()?)
        })
        .await
    }

    async fn register(&self, partition: Partition, register: Register) -> Result<u64, StoreError> {
        let operation = format!("reading register {} of partition {partition}", register.name());
        self.read("register", operation, move |data| {
            let value = data.get(keys::register(partition, register))?;
            Ok(value.map_or(Ok(0), |value| rows::decode_register(&value))?)
        })
        .await
    }

    async fn holds(&self, partition: Partition) -> Result<Vec<Hold>, StoreError> {
        let operation = format!("reading holds of partition {partition}");
        let prefix = keys::partition_holds(partition);
        self.read("holds", operation, move |data| holds(data, partition, prefix)).await
    }

    async fn skips(&self, partition: Partition) -> Result<Vec<Skip>, StoreError> {
        let operation = format!("reading skips of partition {partition}");
        self.read("skips", operation, move |data| {
            let skip = |guard: Guard| {
                let (key, value) = guard.into_inner()?;
                let from = keys::skip_from(&key).ok_or(Unreadable::new("a skip's key"))?;
                let settled = data.get(keys::settled_skip(partition, from))?;
                Ok(rows::decode_skip((partition, from), &value, settled.as_deref())?)
            };
            data.prefix(keys::partition_skips(partition)).map(skip).collect()
        })
        .await
    }

    async fn make_skip(&self, skip: &Skip) -> Result<Skip, StoreError> {
        const OPERATION: &str = "making a skip";
        let Skip { partition, from, .. } = *skip;
        self.create(OPERATION, keys::skip(partition, from), rows::encode_skip(skip)).await?;
        let stored = self.skips(partition).await?.into_iter().find(|stored| stored.from == from);
        stored.ok_or_else(|| StoreError::new(OPERATION, NO_SKIP))
    }

    async fn settle_skip(&self, skip: &Skip, state: SkipState) -> Result<SkipState, StoreError> {
        const OPERATION: &str = "settling a skip";
        // The first of these rows stays, so the state changes once.
        let key = keys::settled_skip(skip.partition, skip.from);
        let value = self.create(OPERATION, key, rows::encode_skip_state(state)).await?;
        rows::decode_skip_state(&value).map_err(|error| StoreError::new(OPERATION, error))
    }

    async fn campaign_holds(
        &self,
        campaign: &CampaignId,
        partition: Partition,
    ) -> Result<Vec<Hold>, StoreError> {
        let operation = format!("reading holds of campaign {campaign}");
        let prefix = keys::campaign_holds(partition, campaign);
        self.read("campaign_holds", operation, move |data| holds(data, partition, prefix)).await
    }

    async fn mark(&self, campaign: &CampaignId) -> Result<Option<Mark>, StoreError> {
        let operation = format!("reading the mark of campaign {campaign}");
        let campaign = campaign.clone();
        self.read("mark", operation, move |data| {
            let value = data.get(keys::mark(&campaign))?;
            Ok(value.map(|value| rows::decode_mark(&campaign, &value)).transpose()?)
        })
        .await
    }

    async fn versions(&self, campaign: &CampaignId) -> Result<Vec<DefinitionVersion>, StoreError> {
        let operation = format!("reading versions of campaign {campaign}");
        let campaign = campaign.clone();
        self.read("versions", operation, move |data| {
            let versions = data.prefix(keys::versions(&campaign));
            versions.map(|guard| Ok(rows::decode_version(&campaign, &guard.value()?)?)).collect()
        })
        .await
    }

    async fn changes(
        &self,
        partition: Partition,
        from: Offset,
        limit: usize,
    ) -> Result<Vec<ChangeRow>, StoreError> {
        let operation = format!("reading changes of partition {partition} from {from} on");
        self.read("changes", operation, move |data| {
            let rows = data.range::<Vec<u8>, _>(keys::changes_from(partition, from));
            let change = |guard: Guard| Ok(rows::decode_change(&guard.value()?)?);
            rows.take(limit.min(CHANGES_MAX)).map(change).collect()
        })
        .await
    }

    fn coupons(&self, campaign: &CampaignId, selection: Selection) -> CouponPages {
        let pages = Pages {
            unread: Some(self.database.clone()),
            reads: self.database.reads().clone(),
            campaign: campaign.clone(),
            selection: Arc::new(selection),
            ahead: None,
        };
        futures_util::stream::try_unfold(pages, Pages::next).boxed()
    }

    fn by_user(&self, campaign: &CampaignId, bucket: u8) -> ByUserPages {
        let index = IndexPages {
            unread: Some(self.database.clone()),
            reads: self.database.reads().clone(),
            campaign: campaign.clone(),
            bucket,
            last: None,
            ended: false,
        };
        futures_util::stream::try_unfold(index, IndexPages::next).boxed()
    }

    async fn campaigns(
        &self,
        after: Option<&CampaignId>,
        limit: usize,
    ) -> Result<Vec<CampaignId>, StoreError> {
        let range = keys::names_after(after);
        self.read("campaigns", "listing campaigns", move |data| {
            let names = data.range::<Vec<u8>, _>(range).take(limit.min(LISTING_MAX));
            let campaign =
                |key: &[u8]| keys::name_parts(key).ok_or(Unreadable::new("a listing entry"));
            names.map(|guard| Ok(campaign(&guard.key()?)?)).collect()
        })
        .await
    }

    async fn listed(&self, campaign: &CampaignId) -> Result<bool, StoreError> {
        let (key, operation) = (keys::name(campaign), format!("looking up campaign {campaign}"));
        self.read("listed", operation, move |data| Ok(data.contains_key(key)?)).await
    }

    fn known(&self) -> CampaignPages {
        let store = Self { database: self.database.clone() };
        let of_kind = move |kind: u8| {
            let store = Self { database: store.database.clone() };
            async move {
                let read = move |data: &Keyspace| {
                    let mut known: Vec<CampaignId> = Vec::new();
                    for guard in data.prefix([kind]) {
                        let id = keys::campaign_of(&guard.key()?);
                        let id = id.ok_or(Unreadable::new("a campaign's key"))?;
                        if known.last() != Some(&id) {
                            known.push(id);
                        }
                    }
                    Ok(known)
                };
                store.read("known", "reading campaign ids", read).await
            }
        };
        futures_util::stream::iter(keys::KINDS_OF_CAMPAIGNS).then(of_kind).boxed()
    }
}

#[async_trait]
impl StoreInspection for EmbeddedStore {
    async fn layout_in_force(&self) -> Result<Option<Layout>, StoreError> {
        let read = |data: &Keyspace| -> Result<_, ReadFailure> {
            let row = data.get(keys::layout())?;
            Ok(row.map(|value| rows::decode_layout(&value)).transpose()?)
        };
        self.read("layout", "reading the layout", read).await
    }
}

/// A stream of pages of the by-user index.
struct IndexPages {
    /// As in [`Pages::unread`].
    unread: Option<Arc<EmbeddedDatabase>>,
    reads: Arc<ReadHandle>,
    campaign: CampaignId,
    bucket: u8,
    /// Last key of the page before.
    last: Option<Vec<u8>>,
    ended: bool,
}

impl IndexPages {
    async fn next(mut self) -> Result<Option<(Vec<ByUserRow>, Self)>, StoreError> {
        if self.ended {
            return Ok(None);
        }
        if let Some(database) = self.unread.take() {
            database.written().await;
        }
        let (campaign, bucket) = (self.campaign.clone(), self.bucket);
        let operation = format!("reading the by-user view of {campaign}, bucket {bucket}");
        let range = keys::user_bucket_after(&campaign, bucket, self.last.take());
        let prefix_bytes = keys::user_bucket(&campaign, bucket).len();
        let read = self.reads.run(move |reads| {
            let mut rows = Vec::new();
            let mut last = None;
            for guard in reads.data.range::<Vec<u8>, _>(range).take(PAGE_COUPONS) {
                let key = guard.key()?;
                let parts = keys::by_user_parts(&key, prefix_bytes);
                let (user, sequence) = parts.ok_or(Unreadable::new("a by-user key"))?;
                rows.push(ByUserRow { user, sequence, coupon: None });
                last = Some(key.to_vec());
            }
            Ok((rows, last))
        });
        let read = read.await;
        let (rows, last) = read.map_err(|source| StoreError { operation, source })?;
        self.last = last;
        self.ended = rows.len() < PAGE_COUPONS;
        Ok((!rows.is_empty()).then_some((rows, self)))
    }
}

fn holds(data: &Keyspace, partition: Partition, prefix: Vec<u8>) -> Result<Vec<Hold>, ReadFailure> {
    let decoded = data.prefix(prefix).map(|guard| {
        let (key, value) = guard.into_inner()?;
        Ok(rows::decode_hold(partition, &key, &value)?)
    });
    decoded.collect()
}

/// A stream of pages of coupons.
struct Pages {
    /// The database, until the first page is read: that page waits for the rows queued before it.
    /// Afterwards a stream does not keep the database open.
    unread: Option<Arc<EmbeddedDatabase>>,
    reads: Arc<ReadHandle>,
    campaign: CampaignId,
    selection: Arc<Selection>,
    /// The read of the next page and the sequence at which it starts, or `None` after the last page.
    /// It runs while the consumer processes the page before.
    ahead: Option<(Sequence, Reading<Vec<Coupon>>)>,
}

impl Pages {
    async fn next(mut self) -> Result<Option<(Vec<Coupon>, Self)>, StoreError> {
        let started = self.reads.clock.instant();
        if let Some(database) = self.unread.take() {
            database.written().await;
            self.read_ahead(0);
        }
        let Some((from, reading)) = self.ahead.take() else { return Ok(None) };
        let read = reading.await.map_err(Into::into).flatten();
        let coupons = read.map_err(|source| StoreError {
            operation: format!("reading coupons of campaign {} from {from}", self.campaign),
            source,
        })?;
        let latency = self.reads.clock.instant().saturating_duration_since(started);
        metrics::store_latency("coupons", latency);
        // A page that is not full is the last. Users have one page.
        let is_paged = !matches!(*self.selection, Selection::OfUsers { .. });
        let full = is_paged && coupons.len() >= PAGE_COUPONS;
        let last = coupons.last().filter(|_| full);
        if let Some(next) = last.and_then(|coupon| coupon.sequence.checked_add(1)) {
            self.read_ahead(next);
        }
        Ok((!coupons.is_empty()).then_some((coupons, self)))
    }

    fn read_ahead(&mut self, from: Sequence) {
        let (campaign, selection) = (self.campaign.clone(), self.selection.clone());
        let read = move |reads: &ReadHandle| page(&reads.data, &campaign, &selection, from);
        self.ahead = Some((from, self.reads.start(read)));
    }
}

fn page(
    data: &Keyspace,
    campaign: &CampaignId,
    selection: &Selection,
    from: Sequence,
) -> Result<Vec<Coupon>, ReadFailure> {
    match selection {
        Selection::All => coupons(data, campaign, from, Sequence::MAX),
        Selection::Between { first, last } => coupons(data, campaign, from.max(*first), *last),
        Selection::OfUsers { users, bucket } => {
            let of_user = |user| {
                let range = keys::of_user(campaign, *bucket, user);
                data.range::<Vec<u8>, _>(range).map(Guard::key)
            };
            let keys = users.iter().flat_map(of_user);
            let coupons = keys.map(|key| indexed(data, campaign, &key?));
            let mut coupons = coupons.collect::<Result<Vec<_>, _>>()?;
            coupons.sort_unstable_by_key(|coupon| coupon.sequence);
            Ok(coupons)
        }
    }
}

/// Reads the coupon of a key of the by-user view.
fn indexed(data: &Keyspace, campaign: &CampaignId, key: &[u8]) -> Result<Coupon, ReadFailure> {
    let sequence = keys::sequence_of(key).ok_or(Unreadable::new("a by-user key"))?;
    let value = data.get(keys::coupon(campaign, sequence))?;
    // A coupon is written before its index entry.
    let value = value
        .ok_or_else(|| format!("the by-user view has coupon {sequence}, which does not exist"))?;
    Ok(rows::decode_coupon(campaign, sequence, &value)?)
}

/// Reads a page of the coupons from `first` to `last`.
fn coupons(
    data: &Keyspace,
    campaign: &CampaignId,
    first: Sequence,
    last: Sequence,
) -> Result<Vec<Coupon>, ReadFailure> {
    if first > last {
        // The database panics at a range that ends before it starts.
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
