//! Checks before a skip is made that no row stands above the start of its range. A check goes on when
//! the call that began it has ended, so a partition of any number of campaigns can be skipped.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::{
    FutureExt, StreamExt, TryStreamExt,
    future::{Shared, ready},
    stream,
};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::{NodeClock, NodeService, interface::ServiceError, skip::stands};
use crate::{
    answer::Moment,
    domain::ids::{CampaignId, Offset, Partition, Sequence},
    partition::flow::WINDOW_RECORDS_MAX,
    store::{CouponStore, Selection},
};

/// Campaigns that are looked at at the same time. Each has two reads in flight at most, together half
/// of what the CQL store admits from all callers.
const CAMPAIGNS_AT_ONCE: usize = 32;

/// Longest check. What it found counts for as long, and a row may be written behind it; an owner that
/// lives declares the skip void then.
const CHECK_FOR: Duration = Duration::from_secs(60);

/// Coupons above a mark that are looked at in one read. Rows above progress are within a window of
/// records, so an empty read of as many shows that there are none above.
const COUPONS_AT_ONCE: Sequence = WINDOW_RECORDS_MAX as Sequence;

/// The checks of a node, one for each partition.
pub(super) type RowChecks = Mutex<BTreeMap<Partition, RowCheck>>;

/// A check that runs, or has ended and was not heard yet.
#[derive(Clone)]
pub(super) struct RowCheck {
    from: Offset,
    began: Moment,
    looked_at: Arc<AtomicUsize>,
    ended: Shared<oneshot::Receiver<Result<(), ServiceError>>>,
}

impl NodeService {
    /// Refuses a range with a row above its start, of any campaign of the partition. Waits until
    /// `until`; another call goes on from there.
    pub(super) async fn refuse_rows(
        &self,
        partition: Partition,
        from: Offset,
        until: Moment,
    ) -> Result<(), ServiceError> {
        let check = self.row_check(partition, from);
        let Ok(ended) = self.clock.timeout_at(until, check.ended).await else {
            let looked_at = check.looked_at.load(Ordering::Relaxed);
            let detail = format!(
                "nothing was skipped yet: {looked_at} campaigns were looked at, none of them has a \
                 row above {from}, and the check of the others goes on; ask again at once"
            );
            return Err(ServiceError::Unavailable { detail });
        };
        // What was found is told once: whoever asks later wants to know how it is then.
        let mut checks = self.row_checks.lock();
        if checks.get(&partition).is_some_and(|known| known.began == check.began) {
            checks.remove(&partition);
        }
        ended.unwrap_or_else(|_panicked| {
            let detail = "the check of the rows has ended by a fault; ask again".to_owned();
            Err(ServiceError::Unavailable { detail })
        })
    }

    /// Returns the check that runs, or begins one.
    fn row_check(&self, partition: Partition, from: Offset) -> RowCheck {
        let (mut checks, began) = (self.row_checks.lock(), self.clock.now());
        let is_sound = |check: &&RowCheck| {
            check.from == from && began.saturating_sub(check.began) <= CHECK_FOR
        };
        if let Some(check) = checks.get(&partition).filter(is_sound) {
            return check.clone();
        }
        let looked_at = Arc::<AtomicUsize>::default();
        let (store, clock) = (self.store.clone(), self.clock.clone());
        let rows = RowsAbove { store, clock, from, looked_at: looked_at.clone() };
        let codec = self.codec.clone();
        let (told, ended) = oneshot::channel();
        self.tasks.once("check the rows before a skip", async move {
            let is_its = |campaign: &CampaignId| codec.partition_of(campaign) == partition;
            let ended = rows.clock.timeout(CHECK_FOR, rows.refuse(is_its)).await;
            let ended = ended.unwrap_or_else(|_| Err(rows.too_slow()));
            // Nobody may have waited for it.
            let _unheard = told.send(ended);
        });
        let check = RowCheck { from, began, looked_at, ended: ended.shared() };
        checks.insert(partition, check.clone());
        check
    }
}

/// The rows at and above an offset.
struct RowsAbove {
    store: Arc<dyn CouponStore>,
    clock: NodeClock,
    from: Offset,
    looked_at: Arc<AtomicUsize>,
}

impl RowsAbove {
    /// Fails if a campaign of the partition has a row. Holds are no matter of campaigns: one read has
    /// those of the whole partition.
    async fn refuse(&self, is_its: impl Fn(&CampaignId) -> bool) -> Result<(), ServiceError> {
        // The listing does not have them all: a version is durable before its campaign's place there.
        let (mut pages, mut known) = (self.store.known(), BTreeSet::new());
        while let Some(page) =
            self.clock.read(pages.try_next(), || "listing campaigns".to_owned()).await?
        {
            known.extend(page.into_iter().filter(&is_its));
        }
        let checks = stream::iter(known).map(|campaign| self.refuse_of(campaign));
        let checks = checks.buffer_unordered(CAMPAIGNS_AT_ONCE);
        checks
            .try_for_each(|()| {
                self.looked_at.fetch_add(1, Ordering::Relaxed);
                ready(Ok(()))
            })
            .await
    }

    async fn refuse_of(&self, campaign: CampaignId) -> Result<(), ServiceError> {
        let from = self.from;
        let what = || format!("reading campaign {campaign}");
        let rows = async {
            futures_util::try_join!(self.store.mark(&campaign), self.store.versions(&campaign))
        };
        let (mark, versions) = self.clock.read(rows, what).await?;
        let versions = versions.iter().map(|version| version.position.offset);
        let mark_above = mark.as_ref().map(|mark| mark.offset).filter(|offset| *offset > from);
        if let Some(offset) = versions.filter(|offset| *offset >= from).chain(mark_above).next() {
            return Err(stands(&campaign, offset, from));
        }
        // The mark lies below the range, and so do the coupons that it counts.
        let mut first = mark.map_or(0, |mark| mark.counts.issued) + 1;
        loop {
            let last = first.saturating_add(COUPONS_AT_ONCE - 1);
            let pages = self.store.coupons(&campaign, Selection::Between { first, last });
            let what = || format!("reading coupons of {campaign}");
            let coupons = self.clock.read(pages.try_concat(), what).await?;
            let mut offsets = coupons.iter().map(|coupon| coupon.position.offset);
            if let Some(offset) = offsets.find(|offset| *offset >= from) {
                return Err(stands(&campaign, offset, from));
            }
            if coupons.is_empty() || last == Sequence::MAX {
                return Ok(());
            }
            first = last + 1;
        }
    }

    fn too_slow(&self) -> ServiceError {
        let (looked_at, seconds) = (self.looked_at.load(Ordering::Relaxed), CHECK_FOR.as_secs());
        let detail = format!(
            "nothing was skipped: in {seconds} s only {looked_at} campaigns of the partition could be \
             looked at, because the database answers slowly; ask again when it is faster"
        );
        ServiceError::Unavailable { detail }
    }
}
