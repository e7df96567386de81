//! The coupon store on a CQL database: ScyllaDB, or Cassandra 5, which is what tests run.
//!
//! `steps` lists the tables, and `cql/` shows them as statements. A write needs no read before it
//! and no transaction: row timestamps make a repeated, late or foreign write a no-op (`rows`).
//! Reads and writes use a quorum (`session`).

mod error;
mod nodes;
mod read;
mod rows;
mod schema;
mod session;
mod setup;
mod skips;
mod statements;
mod steps;
mod trouble;
mod write;

use std::{future::Future, sync::Arc, time::Duration};

use async_trait::async_trait;
use scylla::client::session::Session;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::Instant,
};

pub(crate) use self::read::SCAN_BYTES_MAX;
pub use self::{
    error::{ConnectError, SetupRefusal},
    steps::{STEPS, SchemaChange, Step},
};
use self::{
    schema::Schema,
    session::{Placement, Profiles},
    statements::Statements,
};
use super::{
    ByUserPages, CampaignPages, CouponPages, CouponStore, Layout, NodeRows, Selection, StoreError,
    StoreInspection,
};
use crate::{
    config::CqlConfig,
    domain::{
        change::ChangeRow,
        definition::DefinitionVersion,
        ids::{CampaignId, Offset, Partition, ProcessName},
        rows::{Hold, Mark, NodeRow, Progress, Register, Row, Skip, SkipState},
    },
    retry::{Backoff, Bounded},
    shares::Shares,
    telemetry::metrics,
};

/// Writes in flight over all callers. Above about 16 batches throughput rises no more, while each
/// further batch adds latency and memory in a slow database (several times its 40 KiB). Single
/// rows, for example marks, gain a little up to this number.
///
/// While another campaign waits, none has more than a quarter of them; alone it has all but one.
const WRITES_IN_FLIGHT_MAX: usize = 64;

/// Reads in flight over all callers, including scans. Each holds a page of at most 1 MB.
const READS_IN_FLIGHT_MAX: usize = 128;

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Connects to the database, takes the missing schema steps, checks every table and returns the
/// store.
///
/// # Errors
/// [`ConnectError`]. Retrying does not help after a refusal.
pub async fn connect(config: &CqlConfig) -> Result<CqlStore, ConnectError> {
    connect_with(config, STEPS).await
}

/// Connects as [`connect`] does, with other schema steps: [`STEPS`] and those that a test adds.
///
/// # Errors
/// As [`connect`].
pub async fn connect_with(config: &CqlConfig, steps: &[Step]) -> Result<CqlStore, ConnectError> {
    let setup = session::for_setup(config).await?;
    let sharded = session::is_sharded(&setup);
    let placement = Schema::new(&setup, config, steps)?.establish().await?;
    placement.warn_if_thin(&config.keyspace);
    session::warn_if_acknowledged_early(&setup, sharded).await;
    drop(setup);
    work(config, &placement, sharded).await
}

/// Connects to the database without changing anything, and returns the store. Returns none if there
/// is no keyspace, or no table in it.
///
/// # Errors
/// [`ConnectError`]. Retrying does not help after a refusal.
pub async fn inspect(config: &CqlConfig) -> Result<Option<CqlStore>, ConnectError> {
    let setup = session::for_setup(config).await?;
    let sharded = session::is_sharded(&setup);
    let Some(placement) = Schema::new(&setup, config, STEPS)?.find().await? else {
        return Ok(None);
    };
    drop(setup);
    work(config, &placement, sharded).await.map(Some)
}

/// Opens the working session and prepares every statement.
async fn work(
    config: &CqlConfig,
    placement: &Placement,
    sharded: bool,
) -> Result<CqlStore, ConnectError> {
    let profiles = Profiles::new(placement);
    let session = session::for_work(config, placement, &profiles, sharded).await?;
    let statements = Statements::prepare(&session, &profiles, &config.keyspace).await?;
    let shared = Shared {
        session,
        profiles,
        statements,
        writes: Shares::new(WRITES_IN_FLIGHT_MAX, 1),
        reads: Semaphore::new(READS_IN_FLIGHT_MAX),
    };
    Ok(CqlStore { shared: Arc::new(shared) })
}

/// The coupon store of a distributed instance. Cheap to clone.
#[derive(Clone)]
pub struct CqlStore {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for CqlStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CqlStore").finish_non_exhaustive()
    }
}

/// State shared by all clones of the store and all its streams.
struct Shared {
    session: Session,
    profiles: Profiles,
    statements: Statements,
    writes: Shares,
    reads: Semaphore,
}

impl Shared {
    async fn read_permit(&self) -> SemaphorePermit<'_> {
        self.reads.acquire().await.expect("the semaphore is never closed")
    }
}

/// Retries of settling the layout, with 3 s of pauses in all. An instance settles it once, and each
/// start reads it once.
const LAYOUT_RETRY: Bounded =
    Backoff::doubling(Duration::from_millis(300), Duration::from_secs(1)).attempts(5);

/// Records the latency of an operation.
async fn timed<T>(operation: &'static str, work: impl Future<Output = T>) -> T {
    let start = Instant::now();
    let outcome = work.await;
    metrics::store_latency(operation, start.elapsed());
    outcome
}

#[async_trait]
impl CouponStore for CqlStore {
    async fn layout(&self, proposed: &Layout) -> Result<Layout, StoreError> {
        let operation = "settling the layout";
        let offer = || async {
            let layout = self.shared.offer_layout(proposed).await;
            layout.map_err(|source| StoreError::new(operation, source))
        };
        timed("layout", LAYOUT_RETRY.run(operation, |_| true, offer)).await
    }

    async fn write(&self, rows: &[Row]) -> Result<(), StoreError> {
        timed("write", self.shared.write(rows)).await
    }

    async fn progress(&self, partition: Partition) -> Result<Option<Progress>, StoreError> {
        let row = timed("progress", self.shared.progress(partition)).await;
        let operation = || format!("reading progress of partition {partition}");
        row.map_err(|source| StoreError::new(operation(), source))
    }

    async fn register(&self, partition: Partition, register: Register) -> Result<u64, StoreError> {
        let number = timed("register", self.shared.register(partition, register)).await;
        let operation = || format!("reading register {} of partition {partition}", register.name());
        number.map_err(|source| StoreError::new(operation(), source))
    }

    async fn holds(&self, partition: Partition) -> Result<Vec<Hold>, StoreError> {
        let rows = timed("holds", self.shared.holds(partition)).await;
        let operation = || format!("reading holds of partition {partition}");
        rows.map_err(|source| StoreError::new(operation(), source))
    }

    async fn skips(&self, partition: Partition) -> Result<Vec<Skip>, StoreError> {
        let rows = timed("skips", self.shared.skips(partition)).await;
        let operation = || format!("reading skips of partition {partition}");
        rows.map_err(|source| StoreError::new(operation(), source))
    }

    async fn make_skip(&self, skip: &Skip) -> Result<Skip, StoreError> {
        let made = timed("make_skip", self.shared.make_skip(skip)).await;
        made.map_err(|source| StoreError::new("making a skip", source))
    }

    async fn settle_skip(&self, skip: &Skip, state: SkipState) -> Result<SkipState, StoreError> {
        let settled = timed("settle_skip", self.shared.settle_skip(skip, state)).await;
        settled.map_err(|source| StoreError::new("settling a skip", source))
    }

    async fn campaign_holds(
        &self,
        campaign: &CampaignId,
        partition: Partition,
    ) -> Result<Vec<Hold>, StoreError> {
        let rows = timed("campaign_holds", self.shared.campaign_holds(campaign, partition)).await;
        let operation = || format!("reading holds of {campaign}");
        rows.map_err(|source| StoreError::new(operation(), source))
    }

    async fn mark(&self, campaign: &CampaignId) -> Result<Option<Mark>, StoreError> {
        let row = timed("mark", self.shared.mark(campaign)).await;
        let operation = || format!("reading the mark of {campaign}");
        row.map_err(|source| StoreError::new(operation(), source))
    }

    async fn versions(&self, campaign: &CampaignId) -> Result<Vec<DefinitionVersion>, StoreError> {
        let rows = timed("versions", self.shared.versions(campaign)).await;
        let operation = || format!("reading versions of {campaign}");
        rows.map_err(|source| StoreError::new(operation(), source))
    }

    async fn changes(
        &self,
        partition: Partition,
        from: Offset,
        limit: usize,
    ) -> Result<Vec<ChangeRow>, StoreError> {
        let rows = timed("changes", self.shared.changes(partition, from, limit)).await;
        let operation = || format!("reading changes of partition {partition} from {from} on");
        rows.map_err(|source| StoreError::new(operation(), source))
    }

    fn coupons(&self, campaign: &CampaignId, selection: Selection) -> CouponPages {
        match selection {
            Selection::All => self.shared.scan(campaign),
            Selection::Between { first, last } => self.shared.between(campaign, first, last),
            Selection::OfUsers { users, bucket } => self.shared.of_users(campaign, users, bucket),
        }
    }

    fn by_user(&self, campaign: &CampaignId, bucket: u8) -> ByUserPages {
        self.shared.by_user(campaign, bucket)
    }

    async fn campaigns(
        &self,
        after: Option<&CampaignId>,
        limit: usize,
    ) -> Result<Vec<CampaignId>, StoreError> {
        let campaigns = timed("campaigns", self.shared.campaigns(after, limit)).await;
        campaigns.map_err(|source| StoreError::new("listing campaigns", source))
    }

    async fn listed(&self, campaign: &CampaignId) -> Result<bool, StoreError> {
        let listed = timed("listed", self.shared.listed(campaign)).await;
        listed.map_err(|source| StoreError::new(format!("looking up {campaign}"), source))
    }

    fn known(&self) -> CampaignPages {
        self.shared.known()
    }
}

#[async_trait]
impl StoreInspection for CqlStore {
    async fn layout_in_force(&self) -> Result<Option<Layout>, StoreError> {
        let layout = timed("layout", self.shared.layout_in_force()).await;
        layout.map_err(|source| StoreError::new("reading the layout", source))
    }
}

#[async_trait]
impl NodeRows for CqlStore {
    async fn write_node(&self, row: &NodeRow) -> Result<(), StoreError> {
        let written = timed("write_node", self.shared.write_node(row)).await;
        written.map_err(|source| StoreError::new("writing the row of this node", source))
    }

    async fn nodes(&self) -> Result<Vec<NodeRow>, StoreError> {
        let rows = timed("nodes", self.shared.nodes()).await;
        rows.map_err(|source| StoreError::new("reading the rows of nodes", source))
    }

    async fn forget_node(&self, name: &ProcessName, number: u64) -> Result<(), StoreError> {
        let forgotten = timed("forget_node", self.shared.forget_node(name, number)).await;
        forgotten.map_err(|source| StoreError::new(format!("forgetting node {name}"), source))
    }
}
