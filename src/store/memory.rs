//! The coupon store in memory: for the audit's self-test and for tests. Nothing survives it.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

use async_trait::async_trait;
use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};
use parking_lot::Mutex;

use super::{
    ByUserPages, CHANGES_MAX, CampaignPages, CouponPages, CouponStore, LISTING_MAX, Layout,
    NO_SKIP, NodeRows, Selection, StoreError, StoreInspection,
};
use crate::{
    domain::{
        change::ChangeRow,
        coupon::Coupon,
        definition::DefinitionVersion,
        ids::{CampaignId, Offset, Partition, ProcessName, Sequence, UserId},
        rows::{ByUserRow, Hold, Mark, NodeRow, Progress, Register, Row, Skip, SkipState},
    },
    partition::liveness::NODES_MAX,
};

/// Rows of one page: few, so that pages end within a campaign and readers must go on.
const PAGE_ROWS: usize = 7;

/// Every row of a store. The fields are public so that tests can damage them.
#[derive(Debug, Clone, Default)]
pub struct MemoryRows {
    /// The layout in force.
    pub layout: Option<Layout>,
    /// Coupon rows.
    pub coupons: BTreeMap<(CampaignId, Sequence), Coupon>,
    /// By-user rows, by campaign, bucket, user and sequence.
    pub by_user: BTreeMap<(CampaignId, u8, UserId, Sequence), Coupon>,
    /// Definition versions by campaign and offset.
    pub versions: BTreeMap<(CampaignId, Offset), DefinitionVersion>,
    /// Changes by partition and offset.
    pub changes: BTreeMap<(Partition, Offset), ChangeRow>,
    /// The listing of campaigns.
    pub listing: BTreeSet<CampaignId>,
    /// Marks.
    pub marks: BTreeMap<CampaignId, Mark>,
    /// Progress.
    pub progress: BTreeMap<Partition, Progress>,
    /// Registers.
    pub registers: BTreeMap<(Partition, Register), u64>,
    /// Holds in the order of their first write.
    pub holds: Vec<Hold>,
    /// Skips by partition and `from`.
    pub skips: BTreeMap<(Partition, Offset), Skip>,
    /// Rows of nodes.
    pub nodes: BTreeMap<ProcessName, NodeRow>,
}

impl MemoryRows {
    /// Writes a row by the rules of the port: progress, marks and registers only rise, and a hold
    /// never goes back.
    pub fn apply(&mut self, row: Row) {
        match row {
            Row::Coupon(coupon) => {
                self.coupons.insert((coupon.campaign.clone(), coupon.sequence), coupon);
            }
            Row::ByUser(coupon) => {
                let Coupon { campaign, sequence, user, user_bucket, .. } = &coupon;
                let key = (campaign.clone(), *user_bucket, user.clone(), *sequence);
                self.by_user.insert(key, coupon);
            }
            Row::Version(version) => {
                self.listing.insert(version.campaign.clone());
                let key = (version.campaign.clone(), version.position.offset);
                self.versions.insert(key, version);
            }
            Row::Change(change) => {
                let key = (change.position.partition, change.position.offset);
                self.changes.insert(key, *change);
            }
            Row::Hold(hold) => {
                let same = |old: &&mut Hold| old.campaign == hold.campaign && old.is_same(&hold);
                match self.holds.iter_mut().find(same) {
                    Some(old) if hold.rank() > old.rank() => *old = hold,
                    Some(_) => {}
                    None => self.holds.push(hold),
                }
            }
            Row::Mark(mark) => {
                let old = self.marks.entry(mark.campaign.clone()).or_insert_with(|| mark.clone());
                if mark.offset > old.offset {
                    *old = mark;
                }
            }
            Row::Progress(progress) => {
                let old = self.progress.entry(progress.partition);
                let old = old.or_insert_with(|| progress.clone());
                if progress.next > old.next {
                    *old = progress;
                }
            }
            Row::Register(partition, register, number) => {
                let old = self.registers.entry((partition, register)).or_default();
                *old = number.max(*old);
            }
        }
    }

    /// Makes a skip by the rules of the port. Returns the one that is stored then.
    pub fn make_skip(&mut self, skip: &Skip) -> Skip {
        self.skips.entry((skip.partition, skip.from)).or_insert_with(|| skip.clone()).clone()
    }

    /// Changes the state of a skip by the rules of the port. Returns the state that it has then; none
    /// if there is no such skip.
    pub fn settle_skip(&mut self, skip: &Skip, state: SkipState) -> Option<SkipState> {
        let stored = self.skips.get_mut(&(skip.partition, skip.from))?;
        if stored.state == SkipState::Made {
            stored.state = state;
        }
        Some(stored.state)
    }

    /// Returns a campaign's coupon rows in sequence order.
    pub fn coupons_of(&self, campaign: &CampaignId) -> impl Iterator<Item = &Coupon> {
        let all = (campaign.clone(), 0)..=(campaign.clone(), Sequence::MAX);
        self.coupons.range(all).map(|(_, coupon)| coupon)
    }

    fn selected(&self, campaign: &CampaignId, selection: &Selection) -> Vec<Coupon> {
        match selection {
            Selection::All => self.coupons_of(campaign).cloned().collect(),
            Selection::Between { first, last } => {
                let between = (campaign.clone(), *first)..=(campaign.clone(), *last);
                self.coupons.range(between).map(|(_, coupon)| coupon.clone()).collect()
            }
            Selection::OfUsers { users, bucket } => {
                let of_user = |user: &UserId| {
                    let key = |sequence| (campaign.clone(), *bucket, user.clone(), sequence);
                    self.by_user.range(key(0)..=key(Sequence::MAX))
                };
                let coupons = users.iter().flat_map(of_user).map(|(_, coupon)| coupon.clone());
                let mut coupons: Vec<_> = coupons.collect();
                coupons.sort_unstable_by_key(|coupon| coupon.sequence);
                coupons
            }
        }
    }
}

fn pages<T: Clone + Send + 'static>(rows: &[T]) -> BoxStream<'static, Result<Vec<T>, StoreError>> {
    let pages: Vec<_> = rows.chunks(PAGE_ROWS).map(|page| Ok(page.to_vec())).collect();
    stream::iter(pages).boxed()
}

/// A coupon store in memory.
#[derive(Debug, Default)]
pub struct MemoryStore {
    /// The rows.
    pub rows: Mutex<MemoryRows>,
}

impl From<MemoryRows> for MemoryStore {
    fn from(rows: MemoryRows) -> Self {
        Self { rows: Mutex::new(rows) }
    }
}

#[async_trait]
impl CouponStore for MemoryStore {
    async fn layout(&self, proposed: &Layout) -> Result<Layout, StoreError> {
        Ok(self.rows.lock().layout.get_or_insert_with(|| proposed.clone()).clone())
    }

    async fn write(&self, rows: &[Row]) -> Result<(), StoreError> {
        let mut stored = self.rows.lock();
        rows.iter().cloned().for_each(|row| stored.apply(row));
        Ok(())
    }

    async fn progress(&self, partition: Partition) -> Result<Option<Progress>, StoreError> {
        Ok(self.rows.lock().progress.get(&partition).cloned())
    }

    async fn register(&self, partition: Partition, register: Register) -> Result<u64, StoreError> {
        Ok(self.rows.lock().registers.get(&(partition, register)).copied().unwrap_or(0))
    }

    async fn holds(&self, partition: Partition) -> Result<Vec<Hold>, StoreError> {
        let rows = self.rows.lock();
        let holds = rows.holds.iter().filter(|hold| hold.partition == partition);
        Ok(holds.cloned().collect())
    }

    async fn skips(&self, partition: Partition) -> Result<Vec<Skip>, StoreError> {
        let rows = self.rows.lock();
        let skips = rows.skips.range((partition, 0)..=(partition, Offset::MAX));
        Ok(skips.map(|(_, skip)| skip.clone()).collect())
    }

    async fn make_skip(&self, skip: &Skip) -> Result<Skip, StoreError> {
        Ok(self.rows.lock().make_skip(skip))
    }

    async fn settle_skip(&self, skip: &Skip, state: SkipState) -> Result<SkipState, StoreError> {
        let settled = self.rows.lock().settle_skip(skip, state);
        settled.ok_or_else(|| StoreError::new("settling a skip", NO_SKIP))
    }

    async fn campaign_holds(
        &self,
        campaign: &CampaignId,
        partition: Partition,
    ) -> Result<Vec<Hold>, StoreError> {
        let rows = self.rows.lock();
        let of_campaign = |hold: &&Hold| hold.partition == partition && hold.campaign == *campaign;
        Ok(rows.holds.iter().filter(of_campaign).cloned().collect())
    }

    async fn mark(&self, campaign: &CampaignId) -> Result<Option<Mark>, StoreError> {
        Ok(self.rows.lock().marks.get(campaign).cloned())
    }

    async fn versions(&self, campaign: &CampaignId) -> Result<Vec<DefinitionVersion>, StoreError> {
        let rows = self.rows.lock();
        let versions = rows.versions.range((campaign.clone(), 0)..=(campaign.clone(), Offset::MAX));
        Ok(versions.map(|(_, version)| version.clone()).collect())
    }

    async fn changes(
        &self,
        partition: Partition,
        from: Offset,
        limit: usize,
    ) -> Result<Vec<ChangeRow>, StoreError> {
        let rows = self.rows.lock();
        let changes = rows.changes.range((partition, from)..=(partition, Offset::MAX));
        Ok(changes.take(limit.min(CHANGES_MAX)).map(|(_, change)| change.clone()).collect())
    }

    fn coupons(&self, campaign: &CampaignId, selection: Selection) -> CouponPages {
        pages(&self.rows.lock().selected(campaign, &selection))
    }

    fn by_user(&self, campaign: &CampaignId, bucket: u8) -> ByUserPages {
        let rows = self.rows.lock();
        let of_bucket =
            rows.by_user.iter().filter(|((of, at, ..), _)| (of, *at) == (campaign, bucket));
        let found = of_bucket.map(|((_, _, user, sequence), coupon)| ByUserRow {
            user: user.clone(),
            sequence: *sequence,
            coupon: Some(coupon.clone()),
        });
        pages(&found.collect::<Vec<_>>())
    }

    async fn campaigns(
        &self,
        after: Option<&CampaignId>,
        limit: usize,
    ) -> Result<Vec<CampaignId>, StoreError> {
        let after = after.map_or(Bound::Unbounded, Bound::Excluded);
        let rows = self.rows.lock();
        let later = rows.listing.range::<CampaignId, _>((after, Bound::Unbounded));
        Ok(later.take(limit.min(LISTING_MAX)).cloned().collect())
    }

    async fn listed(&self, campaign: &CampaignId) -> Result<bool, StoreError> {
        Ok(self.rows.lock().listing.contains(campaign))
    }

    fn known(&self) -> CampaignPages {
        let rows = self.rows.lock();
        let versions = rows.versions.keys().map(|(campaign, _)| campaign);
        let known = versions.chain(rows.marks.keys()).chain(&rows.listing);
        pages(&known.cloned().collect::<Vec<_>>())
    }
}

#[async_trait]
impl NodeRows for MemoryStore {
    async fn write_node(&self, row: &NodeRow) -> Result<(), StoreError> {
        let mut rows = self.rows.lock();
        let old = rows.nodes.entry(row.name.clone()).or_insert_with(|| row.clone());
        if row.number > old.number {
            old.clone_from(row);
        }
        Ok(())
    }

    async fn nodes(&self) -> Result<Vec<NodeRow>, StoreError> {
        Ok(self.rows.lock().nodes.values().take(NODES_MAX).cloned().collect())
    }

    async fn forget_node(&self, name: &ProcessName, number: u64) -> Result<(), StoreError> {
        let mut rows = self.rows.lock();
        if rows.nodes.get(name).is_some_and(|row| row.number <= number) {
            rows.nodes.remove(name);
        }
        Ok(())
    }
}

#[async_trait]
impl StoreInspection for MemoryStore {
    async fn layout_in_force(&self) -> Result<Option<Layout>, StoreError> {
        Ok(self.rows.lock().layout.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::MemoryStore;

    async fn fresh() -> (Arc<MemoryStore>, ()) {
        (Arc::default(), ())
    }

    crate::store::contract::coupon_store_contract!(fresh);

    mod nodes {
        use super::fresh;

        crate::store::contract::nodes::node_rows_contract!(fresh);
    }
}
