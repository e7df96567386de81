//! The coupon store of a world: rows in memory, and the order in which they landed.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use futures_util::{FutureExt, StreamExt, TryStreamExt, stream};
use parking_lot::Mutex;

use super::{
    act::word,
    bounds::{Counters, Few},
    landed::{Deleted, Landed},
    link::{Call, Failed, Fate, Link},
    unreachable::{Unreachable, Whose},
    world::World,
};
use crate::{
    domain::{
        change::ChangeRow,
        coupon::Coupon,
        definition::DefinitionVersion,
        ids::{CampaignId, Offset, Partition},
        rows::{Hold, Mark, Progress, Register, Row, Skip, SkipState},
    },
    store::{
        ByUserPages, CampaignPages, CouponPages, CouponStore, Layout, Selection, StoreError,
        memory::{MemoryRows, MemoryStore},
    },
};

/// Longest read of a node that nothing disturbs, in microseconds.
const READ_US: u64 = 50_000;

/// How the rows came to be.
#[derive(Default)]
pub(super) struct Ledger {
    landed: Vec<Landed>,
    /// Rows that a power cut or an older backup leaves.
    synced: usize,
    /// Writes sent before this changed never land.
    generation: u32,
    was_set_back: bool,
    pub(super) deleted: Deleted,
    /// Campaigns whose writes of coupons and whose loads panic so many more times.
    cursed: BTreeMap<CampaignId, u32>,
    /// The first row that was replaced by another one.
    replaced: Option<String>,
}

/// The rows of a world.
#[derive(Default)]
pub(super) struct Rows {
    pub(super) store: Arc<MemoryStore>,
    pub(super) unreachable: Unreachable,
    pub(super) counters: Counters,
    pub(super) ledger: Mutex<Ledger>,
    /// Since when and until when something kept a node, or every node, from hearing of decisions.
    disturbed: Mutex<Vec<(Option<usize>, u64, u64)>>,
}

/// A read under way. If it fails or is slow, its node is disturbed.
struct Reading<'a> {
    port: &'a WorldStore,
    begun_us: u64,
    has_failed: bool,
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        let Link { world, address, .. } = &self.port.link;
        let now_us = world.now_us();
        if self.has_failed || now_us - self.begun_us > READ_US {
            self.port.rows.disturb(Some(address.node), self.begun_us, now_us);
        }
    }
}

impl Rows {
    /// Notes that something keeps a node, or every node, from hearing of decisions.
    pub(super) fn disturb(&self, node: Option<usize>, from_us: u64, until_us: u64) {
        self.disturbed.lock().push((node, from_us, until_us));
    }

    /// Returns until when a node was last disturbed, by what began before a time.
    pub(super) fn disturbed_until(&self, node: usize, before_us: u64) -> u64 {
        let disturbed = self.disturbed.lock();
        let is_of = |of: Option<usize>| of.is_none_or(|of| of == node);
        let its = disturbed.iter().filter(|(of, from_us, _)| is_of(*of) && *from_us < before_us);
        its.map(|(.., until_us)| *until_us).max().unwrap_or(0)
    }

    fn land(&self, world: &World, changes: &[Row], generation: u32) {
        let mut ledger = self.ledger.lock();
        if ledger.generation != generation {
            return;
        }
        let (at_us, mut rows) = (world.now_us(), self.store.rows.lock());
        for row in changes {
            if let Row::Coupon(new) = row
                && let Some(old) = rows.coupons.get(&(new.campaign.clone(), new.sequence))
                && old != new
            {
                ledger.replaced.get_or_insert_with(|| format!("{old:?} became {new:?}"));
            }
            let landed = Landed { at_us, row: row.clone() };
            world.say(|| format!("stored: {}", landed.text()));
            landed.apply(&mut rows, &ledger.deleted);
            ledger.landed.push(landed);
        }
    }

    /// Records of a partition below this offset are settled.
    pub(super) fn settled(&self, partition: Partition) -> Offset {
        let rows = self.store.rows.lock();
        let next = rows.progress.get(&partition).map_or(0, |progress| progress.next);
        let holds = rows.holds.iter().filter(|hold| hold.partition == partition);
        holds.map(|hold| hold.unsettled_from()).fold(next, Offset::min)
    }

    fn generation(&self) -> u32 {
        self.ledger.lock().generation
    }

    /// Number of rows that have landed.
    pub(super) fn landed(&self) -> usize {
        self.ledger.lock().landed.len()
    }

    /// Every row that landed, in order; none if some were taken back.
    pub(super) fn history(&self) -> Option<Vec<Landed>> {
        let ledger = self.ledger.lock();
        (!ledger.was_set_back).then(|| ledger.landed.clone())
    }

    /// Whether rows were taken back.
    pub(super) fn was_set_back(&self) -> bool {
        self.ledger.lock().was_set_back
    }

    pub(super) fn replaced(&self) -> Option<String> {
        self.ledger.lock().replaced.clone()
    }

    /// Notes that what has landed so far survives a power cut.
    pub(super) fn sync(&self) {
        let mut ledger = self.ledger.lock();
        ledger.synced = ledger.landed.len();
    }

    /// Rows that a power cut may take.
    pub(super) fn unsynced(&self) -> usize {
        let ledger = self.ledger.lock();
        ledger.landed.len() - ledger.synced
    }

    /// Number of rows that had landed at a time.
    pub(super) fn landed_before(&self, us: u64) -> usize {
        self.ledger.lock().landed.partition_point(|landed| landed.at_us < us)
    }

    /// Takes back all but the first rows and those that were synced, and every write that is on its
    /// way.
    pub(super) fn set_back(&self, kept: usize) {
        let mut ledger = self.ledger.lock();
        ledger.generation += 1;
        let kept = kept.max(ledger.synced);
        if kept >= ledger.landed.len() {
            return;
        }
        ledger.was_set_back = true;
        ledger.landed.truncate(kept);
        let mut rows = self.store.rows.lock();
        // A lightweight transaction is durable when it is answered, also where rows are not.
        let (layout, skips) = (rows.layout.take(), std::mem::take(&mut rows.skips));
        *rows = MemoryRows { layout, skips, ..MemoryRows::default() };
        ledger.landed.iter().for_each(|landed| landed.apply(&mut rows, &ledger.deleted));
    }

    pub(super) fn curse(&self, campaign: CampaignId, times: u32) {
        self.ledger.lock().cursed.insert(campaign, times);
    }

    pub(super) fn lift_curses(&self) {
        self.ledger.lock().cursed.clear();
        self.unreachable.end_all();
    }

    /// Panics if the campaign is cursed.
    fn meet_curse(&self, campaign: &CampaignId) {
        let is_cursed = {
            let mut ledger = self.ledger.lock();
            let left = ledger.cursed.get_mut(campaign).filter(|left| **left > 0);
            left.map(|left| *left -= 1).is_some()
        };
        assert!(!is_cursed, "injected at a call about {campaign}");
    }
}

/// The port to the store.
pub(super) struct WorldStore {
    pub(super) link: Link,
    pub(super) rows: Arc<Rows>,
}

impl WorldStore {
    /// Lets a call about a campaign pass, or not.
    async fn pass(&self, campaign: &CampaignId, is_read: bool) -> Result<(), StoreError> {
        let pass = self.rows.unreachable.pass(Whose::Campaign(campaign.clone()), is_read);
        self.watched(pass).await
    }

    /// Waits for the end of a call that may be slow or fail.
    async fn watched<T, E>(&self, call: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        let begun_us = self.link.world.now_us();
        // A call that panics or is given up has failed.
        let mut reading = Reading { port: self, begun_us, has_failed: true };
        let result = call.await;
        reading.has_failed = result.is_err();
        result
    }

    async fn call<T: Send + 'static>(
        &self,
        call: Call,
        land: impl Fn(&MemoryStore) -> T + Send + Sync + 'static,
    ) -> Result<T, StoreError> {
        let store = self.rows.store.clone();
        let landed = self.watched(self.link.call(call, None, move || land(&store))).await;
        landed.map_err(|failed| StoreError::new(word(&call), failed))
    }
}

/// Returns the result of a call of the store in memory, which never waits.
fn at_once<T>(call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    call.now_or_never().unwrap_or_else(|| Err(StoreError::new("waiting", Failed::NoAnswer)))
}

fn write_of(rows: &[Row]) -> Call {
    match rows.first() {
        Some(Row::Coupon(_)) => Call::WriteCoupons,
        Some(Row::ByUser(_)) => Call::WriteByUser,
        // Both are written for control records only.
        Some(Row::Version(_) | Row::Change(_)) => Call::WriteVersion,
        Some(Row::Hold(_)) => Call::WriteHold,
        Some(Row::Mark(_)) => Call::WriteMarks,
        Some(Row::Register(..)) => Call::WriteRegister,
        Some(Row::Progress(_)) | None => Call::WriteProgress,
    }
}

#[async_trait]
impl CouponStore for WorldStore {
    async fn layout(&self, proposed: &Layout) -> Result<Layout, StoreError> {
        let proposed = proposed.clone();
        self.call(Call::ReadProgress, move |store| at_once(store.layout(&proposed))).await?
    }

    fn views_are_one(&self) -> bool {
        self.link.is_embedded
    }

    async fn write(&self, rows: &[Row]) -> Result<(), StoreError> {
        if let Some(Row::Coupon(Coupon { campaign, .. })) = rows.first() {
            self.rows.meet_curse(campaign);
        }
        let _counted = match rows.first() {
            Some(
                Row::Coupon(Coupon { campaign, .. })
                | Row::Version(DefinitionVersion { campaign, .. }),
            ) => {
                let few = Few::Writes(campaign.clone());
                let counted = self.rows.counters.one_more(self.link.address, few);
                self.pass(campaign, false).await?;
                Some(counted)
            }
            _ => None,
        };
        for row in rows {
            match row {
                Row::Mark(mark) => self.pass(&mark.campaign, false).await?,
                Row::Change(change) => self.pass(&change.campaign, false).await?,
                Row::ByUser(coupon) => {
                    let whose = Whose::ByUser(coupon.campaign.clone(), coupon.user_bucket);
                    self.watched(self.rows.unreachable.pass(whose, false)).await?;
                    self.pass(&coupon.campaign, false).await?;
                }
                _ => {}
            }
        }
        let call = write_of(rows);
        let mut changes = rows.to_vec();
        let fate = self.link.fate(call, None);
        if let Some(Fate::Partial { percent, from }) = fate {
            // Any of the rows may be those that land.
            let (count, turned) = (changes.len(), usize::from(from) % changes.len().max(1));
            changes.rotate_left(turned);
            changes.truncate(count * usize::from(percent) / 100);
        }
        if self.views_are_one() {
            let views = |row| match row {
                Row::Coupon(coupon) => Row::of_both_views(&coupon).to_vec(),
                other => vec![other],
            };
            changes = changes.into_iter().flat_map(views).collect();
        }
        let (engine, world) = (self.rows.clone(), self.link.world.clone());
        let generation = engine.generation();
        let land = move || engine.land(&world, &changes, generation);
        let landed = self.link.carry(call, None, fate, land).await;
        landed.map_err(|failed| StoreError::new(word(&call), failed))?;
        match fate {
            Some(Fate::Partial { .. }) => Err(StoreError::new(word(&call), Failed::NoAnswer)),
            _ => Ok(()),
        }
    }

    async fn progress(&self, partition: Partition) -> Result<Option<Progress>, StoreError> {
        self.call(Call::ReadProgress, move |store| at_once(store.progress(partition))).await?
    }

    async fn register(&self, partition: Partition, register: Register) -> Result<u64, StoreError> {
        let read = move |store: &MemoryStore| at_once(store.register(partition, register));
        self.call(Call::ReadRegister, read).await?
    }

    async fn holds(&self, partition: Partition) -> Result<Vec<Hold>, StoreError> {
        self.rows.unreachable.pass(Whose::Holds(partition), true).await?;
        self.call(Call::ReadHolds, move |store| at_once(store.holds(partition))).await?
    }

    async fn skips(&self, partition: Partition) -> Result<Vec<Skip>, StoreError> {
        self.call(Call::ReadSkips, move |store| at_once(store.skips(partition))).await?
    }

    async fn make_skip(&self, skip: &Skip) -> Result<Skip, StoreError> {
        let (skip, world) = (skip.clone(), self.link.world.clone());
        let make = move |store: &MemoryStore| {
            world.say(|| format!("stored: {skip:?}, unless there is one"));
            at_once(store.make_skip(&skip))
        };
        self.call(Call::WriteSkip, make).await?
    }

    async fn settle_skip(&self, skip: &Skip, state: SkipState) -> Result<SkipState, StoreError> {
        let (skip, world) = (skip.clone(), self.link.world.clone());
        let settle = move |store: &MemoryStore| {
            let settled = at_once(store.settle_skip(&skip, state));
            world.say(|| format!("stored: the skip from {} is {settled:?}", skip.from));
            settled
        };
        self.call(Call::WriteSkip, settle).await?
    }

    async fn campaign_holds(
        &self,
        campaign: &CampaignId,
        partition: Partition,
    ) -> Result<Vec<Hold>, StoreError> {
        self.pass(campaign, true).await?;
        let campaign = campaign.clone();
        let read = move |store: &MemoryStore| at_once(store.campaign_holds(&campaign, partition));
        self.call(Call::ReadHolds, read).await?
    }

    async fn mark(&self, campaign: &CampaignId) -> Result<Option<Mark>, StoreError> {
        self.pass(campaign, true).await?;
        let campaign = campaign.clone();
        self.call(Call::ReadMark, move |store| at_once(store.mark(&campaign))).await?
    }

    async fn versions(&self, campaign: &CampaignId) -> Result<Vec<DefinitionVersion>, StoreError> {
        self.pass(campaign, true).await?;
        let campaign = campaign.clone();
        self.call(Call::ReadVersions, move |store| at_once(store.versions(&campaign))).await?
    }

    async fn changes(
        &self,
        partition: Partition,
        from: Offset,
        limit: usize,
    ) -> Result<Vec<ChangeRow>, StoreError> {
        let read = move |store: &MemoryStore| at_once(store.changes(partition, from, limit));
        self.call(Call::ReadVersions, read).await?
    }

    fn coupons(&self, campaign: &CampaignId, selection: Selection) -> CouponPages {
        let port = Self { link: self.link.clone(), rows: self.rows.clone() };
        let campaign = campaign.clone();
        let read = async move {
            if let Selection::OfUsers { bucket, .. } = &selection {
                let whose = Whose::ByUser(campaign.clone(), *bucket);
                port.watched(port.rows.unreachable.pass(whose, true)).await?;
            }
            let is_load = matches!(selection, Selection::All);
            let (counters, address) = (&port.rows.counters, port.link.address);
            let _counted = is_load.then(|| counters.one_more(address, Few::Loads));
            port.pass(&campaign, true).await?;
            if is_load {
                port.rows.meet_curse(&campaign);
            }
            let pages = move |store: &MemoryStore| {
                at_once(store.coupons(&campaign, selection.clone()).try_collect::<Vec<_>>())
            };
            let pages = port.call(Call::ReadCoupons, pages).await??;
            Ok::<_, StoreError>(stream::iter(pages).map(Ok))
        };
        stream::once(read).try_flatten().boxed()
    }

    fn by_user(&self, campaign: &CampaignId, bucket: u8) -> ByUserPages {
        let port = Self { link: self.link.clone(), rows: self.rows.clone() };
        let campaign = campaign.clone();
        let read = async move {
            let whose = Whose::ByUser(campaign.clone(), bucket);
            port.watched(port.rows.unreachable.pass(whose, true)).await?;
            port.pass(&campaign, true).await?;
            let pages = move |store: &MemoryStore| {
                at_once(store.by_user(&campaign, bucket).try_collect::<Vec<_>>())
            };
            let pages = port.call(Call::ReadByUser, pages).await??;
            Ok::<_, StoreError>(stream::iter(pages).map(Ok))
        };
        stream::once(read).try_flatten().boxed()
    }

    async fn campaigns(
        &self,
        after: Option<&CampaignId>,
        limit: usize,
    ) -> Result<Vec<CampaignId>, StoreError> {
        let after = after.cloned();
        let read = move |store: &MemoryStore| at_once(store.campaigns(after.as_ref(), limit));
        self.call(Call::ReadListing, read).await?
    }

    async fn listed(&self, campaign: &CampaignId) -> Result<bool, StoreError> {
        self.pass(campaign, true).await?;
        let campaign = campaign.clone();
        self.call(Call::ReadListing, move |store| at_once(store.listed(&campaign))).await?
    }

    fn known(&self) -> CampaignPages {
        let port = Self { link: self.link.clone(), rows: self.rows.clone() };
        let read = async move {
            let pages = |store: &MemoryStore| at_once(store.known().try_collect::<Vec<_>>());
            let pages = port.call(Call::ReadListing, pages).await??;
            Ok::<_, StoreError>(stream::iter(pages).map(Ok))
        };
        stream::once(read).try_flatten().boxed()
    }
}
