//! Reads: a scan of a campaign's buckets, several at once, and point reads.

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
    rows::{self, CouponCells, HoldCells},
    timed,
};
use crate::{
    domain::{
        coupon::Coupon,
        definition::QUOTA_MAX,
        ids::{CampaignId, Partition, Sequence, UserId},
        rows::{CampaignRows, Hold, PartitionRows},
    },
    store::{
        ByUserPages, ByUserRow, CouponPages, LISTING_MAX, Layout, SEQUENCES_PER_BUCKET, StoreError,
        Unreadable,
    },
};

/// Buckets that one scan reads at once, when it is known that there are many: enough to keep a
/// few nodes busy, at about 5 MB of coupons each.
const BUCKETS_AT_ONCE: usize = 6;

/// Buckets read at once before one was found full: most campaigns have one, and the next is
/// looked at anyway.
const BUCKETS_AT_FIRST: usize = 2;

/// No campaign has more buckets.
const BUCKETS_MAX: u32 = QUOTA_MAX.div_ceil(SEQUENCES_PER_BUCKET);

type Pages = Vec<Vec<Coupon>>;

/// A scan under way. Each bucket is read and decoded by a task of its own, on whichever core is
/// free; dropping the scan ends them, and a task that panics fails the scan.
struct Scan {
    shared: Arc<Shared>,
    campaign: CampaignId,
    under_way: JoinSet<(u32, Result<Pages, StoreError>)>,
    /// Buckets that were read before those below them.
    waiting: BTreeMap<u32, Pages>,
    /// The bucket to be read next.
    next_read: u32,
    /// The bucket to be given next.
    next_given: u32,
    at_once: usize,
    ready: VecDeque<Vec<Coupon>>,
}

impl Scan {
    fn new(shared: &Arc<Shared>, campaign: &CampaignId) -> Self {
        Self {
            shared: Arc::clone(shared),
            campaign: campaign.clone(),
            under_way: JoinSet::new(),
            waiting: BTreeMap::new(),
            next_read: 0,
            next_given: 0,
            at_once: BUCKETS_AT_FIRST,
            ready: VecDeque::new(),
        }
    }

    /// The next page; none after the first empty bucket.
    async fn next(&mut self) -> Result<Option<Vec<Coupon>>, StoreError> {
        loop {
            if let Some(page) = self.ready.pop_front() {
                return Ok(Some(page));
            }
            let Some(pages) = self.next_bucket().await? else { return Ok(None) };
            let rows: usize = pages.iter().map(Vec::len).sum();
            if rows == 0 {
                self.under_way.abort_all();
                self.next_given = BUCKETS_MAX;
                return Ok(None);
            }
            if rows == SEQUENCES_PER_BUCKET as usize {
                self.at_once = BUCKETS_AT_ONCE;
            }
            self.ready.extend(pages);
        }
    }

    async fn next_bucket(&mut self) -> Result<Option<Pages>, StoreError> {
        if self.next_given == BUCKETS_MAX {
            return Ok(None);
        }
        loop {
            self.read_ahead();
            if let Some(pages) = self.waiting.remove(&self.next_given) {
                self.next_given += 1;
                return Ok(Some(pages));
            }
            let Some(read) = self.under_way.join_next().await else { return Ok(None) };
            let campaign = &self.campaign;
            let operation = || format!("reading the coupons of {campaign}");
            let (bucket, pages) = read.map_err(|error| StoreError::new(operation(), error))?;
            self.waiting.insert(bucket, pages?);
        }
    }

    fn read_ahead(&mut self) {
        let held = self.under_way.len() + self.waiting.len();
        let upto = self.next_read + u32::try_from(self.at_once.saturating_sub(held)).unwrap_or(0);
        for bucket in self.next_read..upto.min(BUCKETS_MAX) {
            let (shared, campaign) = (Arc::clone(&self.shared), self.campaign.clone());
            let read = async move { (bucket, shared.bucket(&campaign, bucket).await) };
            self.under_way.spawn(timed("coupons", read));
            self.next_read = bucket + 1;
        }
    }
}

impl Shared {
    /// Every coupon of a campaign in the order of sequences.
    pub(super) fn scan(self: &Arc<Self>, campaign: &CampaignId) -> CouponPages {
        let scan = Scan::new(self, campaign);
        stream::try_unfold(scan, async |mut scan| Ok(scan.next().await?.map(|page| (page, scan))))
            .boxed()
    }

    /// The coupons from `first` to `last`, bucket by bucket.
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

    /// One user's coupons in the order of sequences, as one page; no page when there are none.
    pub(super) fn of_user(
        self: &Arc<Self>,
        campaign: &CampaignId,
        user: UserId,
        bucket: u8,
    ) -> CouponPages {
        let (shared, campaign) = (Arc::clone(self), campaign.clone());
        let read = async move {
            let values = (campaign.as_str(), i32::from(bucket), user.as_str());
            let (statement, what) = (&shared.statements.read_user, || "of a user".to_owned());
            Ok(shared.coupons(&campaign, statement, values, what).await?.concat())
        };
        let pages = stream::once(timed("user_coupons", read));
        pages.try_filter(|page| ready(!page.is_empty())).boxed()
    }

    /// One bucket of the by-user view, page by page: it holds every coupon of a small campaign.
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
        let _permit = self.read_permit().await;
        let (statement, values) =
            (&self.statements.read_user_bucket, (campaign.as_str(), i32::from(bucket)));
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

    /// Pages of a campaign's coupons; `what` says which, for whoever reads that it failed.
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

    /// A partition's progress, then its holds.
    pub(super) async fn partition(&self, partition: Partition) -> Result<PartitionRows, Cause> {
        let key = i32::try_from(partition)?;
        let (statements, values) = (&self.statements, (key,));
        let progress = |page: &QueryRowsResult| {
            decoded(page.rows()?.map(|cells| Ok(rows::decode_progress(partition, cells?)?)))
        };
        let progress = self.read(&statements.read_progress, values, progress).await?.concat();
        let holds = |page: &QueryRowsResult| holds(page, partition);
        let holds = self.read(&statements.read_partition_holds, values, holds).await?.concat();
        Ok(PartitionRows { progress: progress.into_iter().next(), holds })
    }

    /// A campaign's holds, then its mark, then its versions.
    pub(super) async fn campaign(
        &self,
        campaign: &CampaignId,
        partition: Partition,
    ) -> Result<CampaignRows, Cause> {
        let statements = &self.statements;
        let values = (i32::try_from(partition)?, campaign.as_str());
        let holds = |page: &QueryRowsResult| holds(page, partition);
        let holds = self.read(&statements.read_campaign_holds, values, holds).await?.concat();
        let values = (campaign.as_str(),);
        let mark = |page: &QueryRowsResult| {
            decoded(page.rows()?.map(|cells| Ok(rows::decode_mark(campaign, cells?)?)))
        };
        let mark = self.read(&statements.read_mark, values, mark).await?.concat();
        let versions = |page: &QueryRowsResult| {
            decoded(page.rows::<Row>()?.map(|row| Ok(rows::decode_version(campaign, row?)?)))
        };
        let versions = self.read(&statements.read_versions, values, versions).await?.concat();
        Ok(CampaignRows { holds, mark: mark.into_iter().next(), versions })
    }

    /// Campaigns by id after the given one.
    pub(super) async fn campaigns(
        &self,
        after: Option<&CampaignId>,
        limit: usize,
    ) -> Result<Vec<CampaignId>, Cause> {
        let limit = i32::try_from(limit.min(LISTING_MAX))?;
        if limit == 0 {
            return Ok(Vec::new());
        }
        // No id is empty, so every one comes after the empty text.
        let values = (after.map_or("", CampaignId::as_str), limit);
        let campaigns = |page: &QueryRowsResult| {
            decoded(page.rows()?.map(|cells| Ok(rows::decode_campaign(cells?)?)))
        };
        Ok(self.read(&self.statements.read_campaigns, values, campaigns).await?.concat())
    }

    /// Offers a layout and reads, at SERIAL, the one in force. Nodes that start at the same time
    /// contend for it, so callers retry a transaction that timed out.
    pub(super) async fn offer_layout(&self, proposed: &Layout) -> Result<Layout, Cause> {
        if let Some(layout) = self.layout_in_force().await? {
            return Ok(layout);
        }
        let values = rows::layout(proposed)?;
        let offered = self.session.execute_unpaged(&self.statements.layout, values).await;
        // Whatever became of the offer, the layout in force is the answer; only where there is
        // none does its failure matter.
        match (self.layout_in_force().await?, offered) {
            (Some(layout), _) => Ok(layout),
            (None, Err(error)) => Err(error.into()),
            (None, Ok(_)) => Err("the layout that was written is not there".into()),
        }
    }

    pub(super) async fn layout_in_force(&self) -> Result<Option<Layout>, Cause> {
        let layout = |page: &QueryRowsResult| {
            decoded(page.rows()?.map(|cells| Ok(rows::decode_layout(cells?)?)))
        };
        let found = self.read(&self.statements.read_layout, (), layout).await?.concat();
        Ok(found.into_iter().next())
    }

    /// Reads every page of a statement's answer.
    async fn read<T>(
        &self,
        statement: &PreparedStatement,
        values: impl SerializeRow,
        decode: impl Fn(&QueryRowsResult) -> Result<Vec<T>, Cause>,
    ) -> Result<Vec<Vec<T>>, Cause> {
        let _permit = self.read_permit().await;
        let mut pages = Vec::new();
        let mut state = PagingState::start();
        loop {
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

/// Rows of a page. A row that has not the cells that it was written with is no failure of the
/// database: it was changed by somebody else.
fn decoded<T>(cells: impl Iterator<Item = Result<T, Cause>>) -> Result<Vec<T>, Cause> {
    cells.map(|row| row.map_err(|cause| Unreadable::because("a row", cause).into())).collect()
}

fn coupons(page: &QueryRowsResult, campaign: &CampaignId) -> Result<Vec<Coupon>, Cause> {
    decoded(page.rows::<CouponCells<'_>>()?.map(|cells| Ok(cells?.decode(campaign)?)))
}

fn holds(page: &QueryRowsResult, partition: Partition) -> Result<Vec<Hold>, Cause> {
    decoded(page.rows::<HoldCells<'_>>()?.map(|cells| Ok(cells?.decode(partition)?)))
}
