//! A coupon store in memory. On demand its calls fail, are delayed, apply in part, hang or panic.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use coupond::{
    domain::{
        coupon::Coupon,
        definition::DefinitionVersion,
        ids::{CampaignId, Partition, Sequence},
        rows::{Hold, Mark, Progress, Row},
    },
    partition::flow::BATCHES_MAX,
    store::{CouponPages, CouponStore, Layout, Selection, StoreError, Unreadable},
};
use futures_util::{StreamExt, stream};
use parking_lot::Mutex;

use super::{
    faults::{Damaged, Faults, Injected},
    judge::{Facts, Truth},
};

/// Rows of a page: few, so that a load has many points at which it may fail.
const PAGE_ROWS: usize = 16;

/// Most concurrent loads of a node.
const LOADS_MAX: usize = 8;

pub(crate) struct FakeStore {
    truth: Arc<Truth>,
    faults: Arc<Faults>,
    /// Writes in flight by campaign.
    writes: Arc<Mutex<BTreeMap<CampaignId, usize>>>,
    loads: Arc<Mutex<usize>>,
}

fn failed(injected: Injected) -> StoreError {
    StoreError::new(injected.0, injected)
}

/// Decrements a counter on drop, also if the call is cancelled or panics.
struct Undo<F: FnMut()>(F);

impl<F: FnMut()> Drop for Undo<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

fn campaign_of(row: &Row) -> Option<&CampaignId> {
    match row {
        Row::Coupon(coupon) => Some(&coupon.campaign),
        Row::Version(version) => Some(&version.campaign),
        Row::Hold(_) | Row::Mark(_) | Row::Progress(_) => None,
    }
}

fn apply(facts: &mut Facts, row: &Row) {
    match row {
        Row::Coupon(coupon) => facts.coupon(coupon),
        Row::Version(version) => facts.version(version),
        Row::Hold(hold) => facts.hold(hold),
        Row::Mark(mark) => facts.mark(mark),
        Row::Progress(progress) => facts.progress(progress),
    }
}

impl FakeStore {
    pub(crate) fn new(truth: Arc<Truth>, faults: Arc<Faults>) -> Self {
        Self { truth, faults, writes: Arc::default(), loads: Arc::default() }
    }

    fn count_write(&self, campaign: CampaignId) -> Undo<impl FnMut() + use<>> {
        let in_flight = {
            let mut writes = self.writes.lock();
            let count = writes.entry(campaign.clone()).or_default();
            *count += 1;
            *count
        };
        if in_flight > BATCHES_MAX {
            self.truth.facts().violation(format!("INV-9: {in_flight} batches of {campaign}"));
        }
        let writes = self.writes.clone();
        Undo(move || {
            writes.lock().entry(campaign.clone()).and_modify(|count| *count -= 1);
        })
    }

    fn count_load(&self) -> Undo<impl FnMut() + use<>> {
        let in_flight = {
            let mut loads = self.loads.lock();
            *loads += 1;
            *loads
        };
        if in_flight > LOADS_MAX {
            self.truth.facts().violation(format!("INV-9: {in_flight} concurrent loads"));
        }
        let loads = self.loads.clone();
        Undo(move || *loads.lock() -= 1)
    }

    /// Reads rows between two points at which the call may fail.
    async fn read<T>(
        &self,
        places: [&'static str; 2],
        about: Option<&CampaignId>,
        rows: impl FnOnce(&Facts) -> T,
    ) -> Result<T, StoreError> {
        self.faults.point("store", places[0], about).await.map_err(failed)?;
        let read = rows(&self.truth.facts());
        self.faults.point("store", places[1], about).await.map_err(failed)?;
        Ok(read)
    }
}

#[async_trait]
impl CouponStore for FakeStore {
    async fn layout(&self, proposed: &Layout) -> Result<Layout, StoreError> {
        Ok(proposed.clone())
    }

    async fn write(&self, rows: &[Row]) -> Result<(), StoreError> {
        let campaign = rows.iter().find_map(campaign_of);
        let _counted = campaign.map(|campaign| self.count_write(campaign.clone()));
        let place = match rows.first() {
            Some(Row::Coupon(_)) => ["write coupons", "some coupons written", "coupons written"],
            Some(Row::Version(_)) => ["write version", "", "version written"],
            Some(Row::Hold(_) | Row::Mark(_)) => ["write marks", "marks half", "marks written"],
            Some(Row::Progress(_)) | None => ["write progress", "", "progress written"],
        };
        self.faults.point("store", place[0], campaign).await.map_err(failed)?;
        let (first, rest) = rows.split_at(rows.len() / 2);
        first.iter().for_each(|row| apply(&mut self.truth.facts(), row));
        if !first.is_empty() {
            self.faults.point("store", place[1], campaign).await.map_err(failed)?;
        }
        rest.iter().for_each(|row| apply(&mut self.truth.facts(), row));
        self.faults.point("store", place[2], campaign).await.map_err(failed)
    }

    async fn progress(&self, partition: Partition) -> Result<Option<Progress>, StoreError> {
        let places = ["read progress", "progress read"];
        self.read(places, None, |facts| facts.progress.get(&partition).cloned()).await
    }

    async fn holds(&self, partition: Partition) -> Result<Vec<Hold>, StoreError> {
        let of_partition = |facts: &Facts| {
            facts.holds.values().filter(|hold| hold.partition == partition).cloned().collect()
        };
        let holds = self.read(["read holds", "holds read"], None, of_partition).await?;
        if self.faults.is_damaged(&Damaged::HoldOf(partition)) {
            return Err(StoreError::new("reading holds", Unreadable::new("a hold")));
        }
        Ok(holds)
    }

    async fn campaign_holds(
        &self,
        campaign: &CampaignId,
        _: Partition,
    ) -> Result<Vec<Hold>, StoreError> {
        let _counted = self.count_load();
        let places = ["read holds of campaign", "holds of campaign read"];
        let of_campaign = |facts: &Facts| {
            facts.holds.values().filter(|hold| hold.campaign == *campaign).cloned().collect()
        };
        self.read(places, Some(campaign), of_campaign).await
    }

    async fn mark(&self, campaign: &CampaignId) -> Result<Option<Mark>, StoreError> {
        let _counted = self.count_load();
        let places = ["read mark", "mark read"];
        self.read(places, Some(campaign), |facts| facts.marks.get(campaign).cloned()).await
    }

    async fn versions(&self, campaign: &CampaignId) -> Result<Vec<DefinitionVersion>, StoreError> {
        let _counted = self.count_load();
        let places = ["read versions", "versions read"];
        let of_campaign = |facts: &Facts| {
            facts.versions.values().filter(|it| it.campaign == *campaign).cloned().collect()
        };
        self.read(places, Some(campaign), of_campaign).await
    }

    fn coupons(&self, campaign: &CampaignId, selection: Selection) -> CouponPages {
        let (truth, faults) = (self.truth.clone(), self.faults.clone());
        let (first, last) = match selection {
            Selection::Between { first, last } => (first, last),
            Selection::All | Selection::OfUser { .. } => (1, Sequence::MAX),
        };
        let next = (campaign.clone(), first);
        stream::unfold(Some(next), move |next| {
            let (truth, faults) = (truth.clone(), faults.clone());
            async move {
                let (campaign, from) = next?;
                let point = faults.point("store", "read coupons", Some(&campaign)).await;
                if let Err(injected) = point {
                    return Some((Err(failed(injected)), None));
                }
                if faults.is_damaged(&Damaged::CouponOf(campaign.clone())) {
                    let error = StoreError::new("reading coupons", Unreadable::new("a coupon"));
                    return Some((Err(error), None));
                }
                let page: Vec<_> = {
                    let facts = truth.facts();
                    let its = (campaign.clone(), from)..=(campaign.clone(), Sequence::MAX);
                    let rows = facts.coupons.range(its).map(|(_, coupon)| coupon);
                    let rows = rows.take_while(|coupon| coupon.sequence <= last);
                    let hidden = |coupon: &&Coupon| {
                        faults.is_damaged(&Damaged::Deleted(campaign.clone(), coupon.sequence))
                    };
                    rows.filter(|coupon| !hidden(coupon)).take(PAGE_ROWS).cloned().collect()
                };
                let next = page.last()?.sequence + 1;
                Some((Ok(page), Some((campaign, next))))
            }
        })
        .boxed()
    }

    async fn campaigns(
        &self,
        _: Option<&CampaignId>,
        _: usize,
    ) -> Result<Vec<CampaignId>, StoreError> {
        Ok(Vec::new())
    }
}
