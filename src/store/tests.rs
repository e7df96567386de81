//! The order of reads: an owner may write between any two of them.

use async_trait::async_trait;
use parking_lot::Mutex;

use super::{memory::MemoryStore, *};
use crate::domain::{
    definition::{Definition, Terms},
    ids::{Offset, Position, Timestamp},
    rows::{Counts, HoldKind, HoldState},
};

const PARTITION: Partition = 3;

/// A store that notes its reads. Its owner writes rows behind one of them.
#[derive(Default)]
struct BusyStore {
    rows: MemoryStore,
    /// How many reads end before the owner writes, and what it writes.
    writes: Option<(usize, Vec<Row>)>,
    reads: Mutex<Vec<&'static str>>,
}

impl BusyStore {
    async fn new(stored: &[Row], writes: Option<(usize, Vec<Row>)>) -> Self {
        let store = Self { writes, ..Self::default() };
        store.write(stored).await.unwrap();
        store
    }

    async fn read<T>(
        &self,
        name: &'static str,
        read: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        self.reads.lock().push(name);
        // A read that does not wait for this one begins here.
        tokio::task::yield_now().await;
        let found = read.await;
        self.reads.lock().push("done");
        let ended = self.reads.lock().iter().filter(|it| **it == "done").count();
        if let Some((_, rows)) = self.writes.as_ref().filter(|(behind, _)| *behind == ended) {
            self.write(rows).await?;
        }
        found
    }
}

#[async_trait]
impl CouponStore for BusyStore {
    async fn layout(&self, proposed: &Layout) -> Result<Layout, StoreError> {
        self.rows.layout(proposed).await
    }

    async fn write(&self, rows: &[Row]) -> Result<(), StoreError> {
        self.rows.write(rows).await
    }

    async fn progress(&self, partition: Partition) -> Result<Option<Progress>, StoreError> {
        self.read("progress", self.rows.progress(partition)).await
    }

    async fn register(&self, partition: Partition, register: Register) -> Result<u64, StoreError> {
        self.read("register", self.rows.register(partition, register)).await
    }

    async fn holds(&self, partition: Partition) -> Result<Vec<Hold>, StoreError> {
        self.read("holds", self.rows.holds(partition)).await
    }

    async fn skips(&self, partition: Partition) -> Result<Vec<Skip>, StoreError> {
        self.read("skips", self.rows.skips(partition)).await
    }

    async fn make_skip(&self, skip: &Skip) -> Result<Skip, StoreError> {
        self.rows.make_skip(skip).await
    }

    async fn settle_skip(&self, skip: &Skip, state: SkipState) -> Result<SkipState, StoreError> {
        self.rows.settle_skip(skip, state).await
    }

    async fn campaign_holds(
        &self,
        campaign: &CampaignId,
        partition: Partition,
    ) -> Result<Vec<Hold>, StoreError> {
        self.read("campaign holds", self.rows.campaign_holds(campaign, partition)).await
    }

    async fn mark(&self, campaign: &CampaignId) -> Result<Option<Mark>, StoreError> {
        self.read("mark", self.rows.mark(campaign)).await
    }

    async fn versions(&self, campaign: &CampaignId) -> Result<Vec<DefinitionVersion>, StoreError> {
        self.read("versions", self.rows.versions(campaign)).await
    }

    async fn changes(
        &self,
        partition: Partition,
        from: Offset,
        limit: usize,
    ) -> Result<Vec<ChangeRow>, StoreError> {
        self.rows.changes(partition, from, limit).await
    }

    fn coupons(&self, campaign: &CampaignId, selection: Selection) -> CouponPages {
        self.rows.coupons(campaign, selection)
    }

    fn by_user(&self, campaign: &CampaignId, bucket: u8) -> ByUserPages {
        self.rows.by_user(campaign, bucket)
    }

    async fn campaigns(
        &self,
        after: Option<&CampaignId>,
        limit: usize,
    ) -> Result<Vec<CampaignId>, StoreError> {
        self.rows.campaigns(after, limit).await
    }

    async fn listed(&self, campaign: &CampaignId) -> Result<bool, StoreError> {
        self.read("listed", self.rows.listed(campaign)).await
    }

    fn known(&self) -> CampaignPages {
        self.rows.known()
    }
}

fn spring() -> CampaignId {
    CampaignId::parse("spring").unwrap()
}

fn progress(next: Offset) -> Row {
    Row::Progress(Progress { partition: PARTITION, log_epoch: LOG_EPOCH, next, last: None })
}

fn hold(state: HoldState, until: Offset) -> Row {
    Row::Hold(Hold {
        campaign: spring(),
        partition: PARTITION,
        from: 10,
        number: 1,
        kind: HoldKind::Failure,
        reason: "a reason".to_owned(),
        state,
        until,
    })
}

fn mark(offset: Offset, issued: Sequence) -> Row {
    let counts = Counts { issued, versions: 1, latest: 0 };
    Row::Mark(Mark { campaign: spring(), offset, counts })
}

/// Returns a version of a campaign with these terms.
pub(super) fn defined(terms: Terms) -> DefinitionVersion {
    DefinitionVersion {
        campaign: spring(),
        position: Position { log_epoch: 1, partition: 3, offset: 9 },
        time: Timestamp(1_690_000_000_000),
        definition: Definition::first(terms),
        issued: 12,
        digest: [5; 16],
    }
}

fn version(offset: Offset, quota: u32) -> Row {
    Row::Version(DefinitionVersion {
        campaign: spring(),
        position: Position { log_epoch: LOG_EPOCH, partition: PARTITION, offset },
        time: Timestamp(0),
        definition: Definition::first(Terms::of(quota)),
        issued: 0,
        digest: [0; 16],
    })
}

#[tokio::test]
async fn each_read_waits_for_the_one_before() {
    let store = BusyStore::default();
    let port: &dyn CouponStore = &store;
    port.partition(PARTITION).await.unwrap();
    let reads = std::mem::take(&mut *store.reads.lock());
    let expected = ["progress", "done", "register", "done", "holds", "done", "skips", "done"];
    assert_eq!(reads, expected);
    port.campaign(&spring(), PARTITION).await.unwrap();
    let reads = std::mem::take(&mut *store.reads.lock());
    let expected = ["campaign holds", "done", "mark", "done", "versions", "done", "listed", "done"];
    assert_eq!(reads, expected, "it has no version");
    port.write(&[version(11, 5)]).await.unwrap();
    store.reads.lock().clear();
    port.campaign(&spring(), PARTITION).await.unwrap();
    let reads = store.reads.lock().clone();
    assert_eq!(reads, expected[..6]);
}

/// Behind a read a campaign is defined: its version is durable before its place in the listing.
#[tokio::test]
async fn a_campaign_that_is_defined_meanwhile_is_not_only_listed() {
    for behind in 1..=4 {
        let store = BusyStore::new(&[], Some((behind, vec![version(11, 5)]))).await;
        let rows = (&store as &dyn CouponStore).campaign(&spring(), PARTITION).await.unwrap();
        assert!(!rows.is_only_listed, "defined behind read {behind}");
    }
}

/// Between two reads a hold opens, is counted, and progress passes it.
#[tokio::test]
async fn progress_is_not_read_without_its_hold() {
    for behind in 1..=3 {
        let counted = Row::Register(PARTITION, Register::Holds, 1);
        let writes = vec![hold(HoldState::Open, 0), counted, progress(20)];
        let store = BusyStore::new(&[progress(10)], Some((behind, writes))).await;
        let rows = (&store as &dyn CouponStore).partition(PARTITION).await.unwrap();
        let passes = rows.progress.as_ref().is_some_and(|progress| progress.next > 10);
        assert!(!passes || !rows.holds.is_empty(), "the owner wrote behind read {behind}");
        assert!(!passes || rows.holds_ever == 1, "the owner wrote behind read {behind}");
        assert_eq!(rows.check_holds(), Ok(()), "the owner wrote behind read {behind}");
    }
}

/// Between two reads a campaign's quota is raised from 1 to 5, five coupons are issued, and its hold
/// is closed at 20.
#[tokio::test]
async fn no_row_is_read_without_what_it_relies_on() {
    for behind in 1..=3 {
        let writes = vec![version(11, 5), mark(20, 5), hold(HoldState::Closed, 20)];
        let stored = [version(1, 1), mark(10, 1), hold(HoldState::Open, 0)];
        let store = BusyStore::new(&stored, Some((behind, writes))).await;
        let rows = (&store as &dyn CouponStore).campaign(&spring(), PARTITION).await.unwrap();
        let (hold, mark, version) = (&rows.holds[0], rows.mark.unwrap(), rows.versions.last());
        assert!(mark.offset >= hold.until, "the mark at the end, written behind read {behind}");
        let quota = version.unwrap().definition.terms.quota;
        assert!(mark.counts.issued <= quota, "the quota of 5, written behind read {behind}");
    }
}
