//! Reads: the scan of a campaign's buckets, several of them concurrently, and point reads.

use std::{
    collections::{BTreeMap, VecDeque},
    future::ready,
    ops::ControlFlow,
    sync::Arc,
};

use futures_util::{StreamExt, TryStreamExt, stream};
use scylla::{
    response::{PagingState, query_result::QueryRowsResult},
    serialize::row::SerializeRow,
    statement::prepared::PreparedStatement,
    value::Row,
};
use tokio::task::JoinSet;

use super::{
    Cause, Shared,
    rows::{self, ChangeCells, CouponCells, HoldCells},
    timed,
};
use crate::{
    domain::{
        change::ChangeRow,
        coupon::Coupon,
        definition::{DefinitionVersion, QUOTA_MAX},
        ids::{CampaignId, Offset, Partition, Sequence, UserId},
        rows::{ByUserRow, Hold, Mark, Progress, Register},
    },
    store::{
        ByUserPages, CHANGES_MAX, CampaignPages, CouponPages, LISTING_MAX, Layout,
        SEQUENCES_PER_BUCKET, StoreError, Unreadable,
    },
    telemetry::metrics::{self, DatabaseRequest},
};

/// Buckets that a scan reads concurrently in a large campaign. A few keep a few database nodes busy. Fewer
/// where ids and codes are long.
const BUCKETS_IN_FLIGHT_MAX: usize = 5;

/// Most memory that a load takes beside the loaded campaign: a node starts in the memory that it ran in.
pub(crate) const SCAN_BYTES_MAX: usize = 32 * 1_024 * 1_024;

/// Buckets that a scan reads concurrently until it finds a full one. Most campaigns have one
/// bucket, and an empty second bucket is what ends their scan.
const BUCKETS_IN_FLIGHT_FIRST: usize = 2;

// The first of them is handed out page by page before a third is read.
const _: () = assert!(
    BUCKETS_IN_FLIGHT_FIRST * SEQUENCES_PER_BUCKET as usize * Coupon::BYTES_MAX <= SCAN_BYTES_MAX
);

/// Most buckets of a campaign.
const BUCKETS_MAX: u32 = QUOTA_MAX.div_ceil(SEQUENCES_PER_BUCKET);

type Pages = Vec<Vec<Coupon>>;

/// A running scan. Each bucket is read and decoded by its own task, so that decoding uses all
/// cores. Dropping the scan aborts the tasks. A task that panics fails the scan.
struct Scan {
    shared: Arc<Shared>,
    campaign: CampaignId,
    in_flight: JoinSet<(u32, Result<Pages, StoreError>)>,
    /// Buckets whose read ended before that of a lower bucket.
    waiting: BTreeMap<u32, Pages>,
    /// The next bucket to read.
    next_read: u32,
    /// The next bucket to return.
    next_returned: u32,
    concurrency: usize,
    /// Pages of the last returned bucket.
    ready: VecDeque<Vec<Coupon>>,
}

impl Scan {
    fn new(shared: &Arc<Shared>, campaign: &CampaignId) -> Self {
        Self {
            shared: Arc::clone(shared),
            campaign: campaign.clone(),
            in_flight: JoinSet::new(),
            waiting: BTreeMap::new(),
            next_read: 0,
            next_returned: 0,
            concurrency: BUCKETS_IN_FLIGHT_FIRST,
            ready: VecDeque::new(),
        }
    }

    /// Returns the next page, none at the end.
    async fn next(&mut self) -> Result<Option<Vec<Coupon>>, StoreError> {
        loop {
            if let Some(page) = self.ready.pop_front() {
                return Ok(Some(page));
            }
            let Some(pages) = self.next_bucket().await? else { return Ok(None) };
            let rows: usize = pages.iter().map(Vec::len).sum();
            // Sequences have no gaps, so the first empty bucket ends the campaign.
            if rows == 0 {
                self.in_flight.abort_all();
                self.next_returned = BUCKETS_MAX;
                return Ok(None);
            }
            if rows == SEQUENCES_PER_BUCKET as usize {
                self.concurrency = concurrency(pages.iter().flatten());
            }
            self.ready.extend(pages);
        }
    }

    async fn next_bucket(&mut self) -> Result<Option<Pages>, StoreError> {
        if self.next_returned == BUCKETS_MAX {
            return Ok(None);
        }
        loop {
            self.read_ahead();
            if let Some(pages) = self.waiting.remove(&self.next_returned) {
                self.next_returned += 1;
                return Ok(Some(pages));
            }
            let Some(read) = self.in_flight.join_next().await else { return Ok(None) };
            let campaign = &self.campaign;
            let operation = || format!("reading the coupons of {campaign}");
            let (bucket, pages) = read.map_err(|error| StoreError::new(operation(), error))?;
            self.waiting.insert(bucket, pages?);
        }
    }

    /// Starts reads up to the limit. Buckets that were read and still wait for a lower one count
    /// too, because they are held in memory.
    fn read_ahead(&mut self) {
        let held = self.in_flight.len() + self.waiting.len();
        let upto =
            self.next_read + u32::try_from(self.concurrency.saturating_sub(held)).unwrap_or(0);
        for bucket in self.next_read..upto.min(BUCKETS_MAX) {
            let (shared, campaign) = (Arc::clone(&self.shared), self.campaign.clone());
            let read = async move { (bucket, shared.bucket(&campaign, bucket).await) };
            self.in_flight.spawn(timed("coupons", read));
            self.next_read = bucket + 1;
        }
    }
}

/// Returns how many buckets a scan may read concurrently, after one of them. One more is being returned.
/// Codes of a campaign are of one length. User ids are not: those of the next buckets may be the longest.
fn concurrency<'a>(bucket: impl Iterator<Item = &'a Coupon>) -> usize {
    let longest = |coupon: &Coupon| {
        coupon.memory_bytes() + UserId::BYTES_MAX.saturating_sub(coupon.user.as_str().len())
    };
    let bytes: usize = bucket.map(longest).sum();
    (SCAN_BYTES_MAX / bytes.max(1)).saturating_sub(1).clamp(1, BUCKETS_IN_FLIGHT_MAX)
}

impl Shared {
    /// Reads every coupon of a campaign in sequence order.
    pub(super) fn scan(self: &Arc<Self>, campaign: &CampaignId) -> CouponPages {
        let scan = Scan::new(self, campaign);
        stream::try_unfold(scan, async |mut scan| Ok(scan.next().await?.map(|page| (page, scan))))
            .boxed()
    }

    /// Reads the coupons from `first` to `last`, one bucket after another.
    pub(super) fn between(
        self: &Arc<Self>,
        campaign: &CampaignId,
        first: Sequence,
        last: Sequence,
    ) -> CouponPages {
        let (shared, campaign) = (Arc::clone(self), campaign.clone());
        let buckets = rows::bucket(first)..=rows::bucket(last);
        let read = move |bucket| {
            let (shared, campaign) = (Arc::clone(&shared), campaign.clone());
            async move {
                let number = |value: u32| i32::try_from(value).unwrap_or(i32::MAX);
                let values = (campaign.as_str(), number(bucket), number(first), number(last));
                let statement = &shared.statements.read_between;
                let what = || format!("{first} to {last} in bucket {bucket}");
                Ok(shared.coupons(&campaign, statement, values, what).await?.concat())
            }
        };
        let pages = stream::iter(buckets).then(move |bucket| timed("coupons", read(bucket)));
        pages.try_filter(|page| ready(!page.is_empty())).boxed()
    }

    /// Reads the coupons of users in sequence order, as one page, or no page if they have none.
    pub(super) fn of_users(
        self: &Arc<Self>,
        campaign: &CampaignId,
        users: Vec<UserId>,
        bucket: u8,
    ) -> CouponPages {
        let (shared, campaign) = (Arc::clone(self), campaign.clone());
        let read = async move {
            let users: Vec<&str> = users.iter().map(UserId::as_str).collect();
            let what = || format!("of {} users", users.len());
            let (statement, bucket) = (&shared.statements.read_users, i32::from(bucket));
            let values = (campaign.as_str(), bucket, &users);
            let mut coupons = shared.coupons(&campaign, statement, values, what).await?.concat();
            coupons.sort_unstable_by_key(|coupon| coupon.sequence);
            Ok(coupons)
        };
        let pages = stream::once(timed("user_coupons", read));
        pages.try_filter(|page| ready(!page.is_empty())).boxed()
    }

    /// Reads one bucket of the by-user view page by page. In a small campaign one bucket holds
    /// every coupon, so it may be too large for one answer.
    pub(super) fn by_user(self: &Arc<Self>, campaign: &CampaignId, bucket: u8) -> ByUserPages {
        let start = (Arc::clone(self), campaign.clone(), Some(PagingState::start()));
        let next = move |(shared, campaign, state): (
            Arc<Self>,
            CampaignId,
            Option<PagingState>,
        )| async move {
            let Some(state) = state else { return Ok(None) };
            let page = shared.by_user_page(&campaign, bucket, state).await;
            let operation = || format!("reading the by-user view of {campaign}, bucket {bucket}");
            let (rows, next) = page.map_err(|source| StoreError::new(operation(), source))?;
            Ok(Some((rows, (shared, campaign, next))))
        };
        stream::try_unfold(start, next).boxed()
    }

    async fn by_user_page(
        &self,
        campaign: &CampaignId,
        bucket: u8,
        state: PagingState,
    ) -> Result<(Vec<ByUserRow>, Option<PagingState>), Cause> {
        // The permit covers one page, because the reader of the stream may pause between pages.
        let _permit = self.read_permit().await;
        let (statement, values) =
            (&self.statements.read_user_bucket, (campaign.as_str(), i32::from(bucket)));
        metrics::database_request(DatabaseRequest::Read);
        let (result, next) = self.session.execute_single_page(statement, &values, state).await?;
        let rows = coupons(&result.into_rows_result()?, campaign)?.into_iter().map(|coupon| {
            let (user, sequence) = (coupon.user.clone(), coupon.sequence);
            ByUserRow { user, sequence, coupon: Some(coupon) }
        });
        let next = match next.into_paging_control_flow() {
            ControlFlow::Break(()) => None,
            ControlFlow::Continue(next) => Some(next),
        };
        Ok((rows.collect(), next))
    }

    async fn bucket(&self, campaign: &CampaignId, bucket: u32) -> Result<Pages, StoreError> {
        let number = i32::try_from(bucket).unwrap_or(i32::MAX);
        let (statement, values) = (&self.statements.read_bucket, (campaign.as_str(), number));
        self.coupons(campaign, statement, values, || format!("in bucket {bucket}")).await
    }

    /// Reads coupons of a campaign. `what` names them in the error.
    async fn coupons(
        &self,
        campaign: &CampaignId,
        statement: &PreparedStatement,
        values: impl SerializeRow,
        what: impl Fn() -> String,
    ) -> Result<Pages, StoreError> {
        let pages = self.read(statement, values, |page| coupons(page, campaign)).await;
        let operation = || format!("reading the coupons {} of {campaign}", what());
        pages.map_err(|source| StoreError::new(operation(), source))
    }

    /// Reads a partition's progress.
    pub(super) async fn progress(&self, partition: Partition) -> Result<Option<Progress>, Cause> {
        let values = (i32::try_from(partition)?,);
        let progress = |page: &QueryRowsResult| {
            decoded(page.rows()?.map(|cells| Ok(rows::decode_progress(partition, cells?)?)))
        };
        let found = self.read(&self.statements.read_progress, values, progress).await?.concat();
        Ok(found.into_iter().next())
    }

    /// Reads a register of a partition; 0 if there is none.
    pub(super) async fn register(
        &self,
        partition: Partition,
        register: Register,
    ) -> Result<u64, Cause> {
        let values = (i32::try_from(partition)?, register.name());
        let number = |page: &QueryRowsResult| {
            decoded(page.rows()?.map(|cells| Ok(rows::decode_register(cells?)?)))
        };
        let found = self.read(&self.statements.read_register, values, number).await?.concat();
        Ok(found.into_iter().next().unwrap_or(0))
    }

    /// Reads the holds of a partition's campaigns.
    pub(super) async fn holds(&self, partition: Partition) -> Result<Vec<Hold>, Cause> {
        let values = (i32::try_from(partition)?,);
        let holds = |page: &QueryRowsResult| holds(page, partition);
        Ok(self.read(&self.statements.read_partition_holds, values, holds).await?.concat())
    }

    /// Reads a campaign's holds.
    pub(super) async fn campaign_holds(
        &self,
        campaign: &CampaignId,
        partition: Partition,
    ) -> Result<Vec<Hold>, Cause> {
        let values = (i32::try_from(partition)?, campaign.as_str());
        let holds = |page: &QueryRowsResult| holds(page, partition);
        Ok(self.read(&self.statements.read_campaign_holds, values, holds).await?.concat())
    }

    /// Reads a campaign's mark.
    pub(super) async fn mark(&self, campaign: &CampaignId) -> Result<Option<Mark>, Cause> {
        let mark = |page: &QueryRowsResult| {
            decoded(page.rows()?.map(|cells| Ok(rows::decode_mark(campaign, cells?)?)))
        };
        let values = (campaign.as_str(),);
        let found = self.read(&self.statements.read_mark, values, mark).await?.concat();
        Ok(found.into_iter().next())
    }

    /// Reads a campaign's definition versions in the order of offsets.
    pub(super) async fn versions(
        &self,
        campaign: &CampaignId,
    ) -> Result<Vec<DefinitionVersion>, Cause> {
        let versions = |page: &QueryRowsResult| {
            decoded(page.rows::<Row>()?.map(|row| Ok(rows::decode_version(campaign, row?)?)))
        };
        let values = (campaign.as_str(),);
        Ok(self.read(&self.statements.read_versions, values, versions).await?.concat())
    }

    /// Reads changes of a partition in the order of offsets.
    pub(super) async fn changes(
        &self,
        partition: Partition,
        from: Offset,
        limit: usize,
    ) -> Result<Vec<ChangeRow>, Cause> {
        let limit = i32::try_from(limit.min(CHANGES_MAX))?;
        if limit == 0 {
            return Ok(Vec::new());
        }
        let changes = |page: &QueryRowsResult| {
            decoded(page.rows::<ChangeCells<'_>>()?.map(|cells| Ok(cells?.decode(partition)?)))
        };
        // Beyond the largest offset of the database there is none.
        let from = i64::try_from(from).unwrap_or(i64::MAX);
        let values = (i32::try_from(partition)?, from, limit);
        Ok(self.read(&self.statements.read_changes, values, changes).await?.concat())
    }

    /// Lists campaigns by id after the given one.
    pub(super) async fn campaigns(
        &self,
        after: Option<&CampaignId>,
        limit: usize,
    ) -> Result<Vec<CampaignId>, Cause> {
        let limit = i32::try_from(limit.min(LISTING_MAX))?;
        if limit == 0 {
            return Ok(Vec::new());
        }
        // No id is empty, so every id sorts after the empty text.
        let values = (after.map_or("", CampaignId::as_str), limit);
        Ok(self.read(&self.statements.read_campaigns, values, campaigns).await?.concat())
    }

    /// Returns whether a campaign has a place in the listing.
    pub(super) async fn listed(&self, campaign: &CampaignId) -> Result<bool, Cause> {
        let values = (campaign.as_str(),);
        Ok(!self.read(&self.statements.read_listed, values, campaigns).await?.is_empty())
    }

    /// Reads the ids of all campaigns that have a version, a mark or a place in the listing.
    pub(super) fn known(self: &Arc<Self>) -> CampaignPages {
        let start = (Arc::clone(self), 0, PagingState::start());
        let next = async |(shared, mut at, state): (Arc<Self>, usize, PagingState)| {
            let Some(statement) = shared.statements.read_known.get(at) else { return Ok(None) };
            let read = async {
                // The permit covers one page, because the reader of the stream may pause.
                let _permit = shared.read_permit().await;
                metrics::database_request(DatabaseRequest::Read);
                let (result, next) =
                    shared.session.execute_single_page(statement, &(), state).await?;
                Ok::<_, Cause>((campaigns(&result.into_rows_result()?)?, next))
            };
            let page = timed("known", read).await;
            let (page, next) =
                page.map_err(|source| StoreError::new("reading campaign ids", source))?;
            let state = match next.into_paging_control_flow() {
                ControlFlow::Continue(next) => next,
                ControlFlow::Break(()) => {
                    at += 1;
                    PagingState::start()
                }
            };
            Ok(Some((page, (shared, at, state))))
        };
        stream::try_unfold(start, next).boxed()
    }

    /// Writes the layout unless there is one, and returns the layout in force. Both the write and
    /// the reads are SERIAL. Nodes that start at the same time contend, so callers retry timeouts.
    pub(super) async fn offer_layout(&self, proposed: &Layout) -> Result<Layout, Cause> {
        if let Some(layout) = self.layout_in_force().await? {
            return Ok(layout);
        }
        let values = rows::layout(proposed)?;
        let offered = self.session.execute_unpaged(&self.statements.layout, values).await;
        // A failed transaction may have been applied, and another node may have won it. Its error
        // therefore counts only if there is still no layout.
        match (self.layout_in_force().await?, offered) {
            (Some(layout), _) => Ok(layout),
            (None, Err(error)) => Err(error.into()),
            (None, Ok(_)) => Err("the written layout cannot be read back".into()),
        }
    }

    pub(super) async fn layout_in_force(&self) -> Result<Option<Layout>, Cause> {
        let layout = |page: &QueryRowsResult| {
            decoded(page.rows()?.map(|cells| Ok(rows::decode_layout(cells?)?)))
        };
        let found = self.read(&self.statements.read_layout, (), layout).await?.concat();
        Ok(found.into_iter().next())
    }

    /// Runs a statement and reads every page of its answer.
    pub(super) async fn read<T>(
        &self,
        statement: &PreparedStatement,
        values: impl SerializeRow,
        decode: impl Fn(&QueryRowsResult) -> Result<Vec<T>, Cause>,
    ) -> Result<Vec<Vec<T>>, Cause> {
        let _permit = self.read_permit().await;
        let mut pages = Vec::new();
        let mut state = PagingState::start();
        loop {
            metrics::database_request(DatabaseRequest::Read);
            let (result, next) =
                self.session.execute_single_page(statement, &values, state).await?;
            let page = decode(&result.into_rows_result()?)?;
            if !page.is_empty() {
                pages.push(page);
            }
            match next.into_paging_control_flow() {
                ControlFlow::Break(()) => return Ok(pages),
                ControlFlow::Continue(next) => state = next,
            }
        }
    }
}

fn campaigns(page: &QueryRowsResult) -> Result<Vec<CampaignId>, Cause> {
    decoded(page.rows()?.map(|cells| Ok(rows::decode_campaign(cells?)?)))
}

/// Collects the rows of a page. A row that cannot be decoded is reported as [`Unreadable`] and not
/// as a failure of the database: reading it again would not help.
pub(super) fn decoded<T>(cells: impl Iterator<Item = Result<T, Cause>>) -> Result<Vec<T>, Cause> {
    cells.map(|row| row.map_err(|cause| Unreadable::because("a row", cause).into())).collect()
}

fn coupons(page: &QueryRowsResult, campaign: &CampaignId) -> Result<Vec<Coupon>, Cause> {
    decoded(page.rows::<CouponCells<'_>>()?.map(|cells| Ok(cells?.decode(campaign)?)))
}

fn holds(page: &QueryRowsResult, partition: Partition) -> Result<Vec<Hold>, Cause> {
    decoded(page.rows::<HoldCells<'_>>()?.map(|cells| Ok(cells?.decode(partition)?)))
}
