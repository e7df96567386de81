//! The coupon store on a CQL database: ScyllaDB, or Cassandra 5, which is what tests run.
//!
//! Every table is in `cql/`, one numbered step each. No read is before a write, no transaction on
//! the way: rows carry timestamps that make a repeated, late or foreign write a no-op (`rows`),
//! and reads and writes meet in a majority of the copies (`session`).

mod error;
mod read;
mod rows;
mod schema;
mod session;
mod setup;
mod statements;
mod steps;
mod write;

use std::{future::Future, sync::Arc, time::Duration};

use async_trait::async_trait;
use scylla::client::session::Session;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::Instant,
};

pub use self::{
    error::{ConnectError, Refusal},
    steps::{Change, STEPS, Step},
};
use self::{
    schema::Schema,
    session::{Placement, Profiles},
    statements::Statements,
};
use super::{
    ByUserPages, CouponPages, CouponStore, Layout, Selection, StoreError, StoreInspection,
};
use crate::{
    config::CqlConfig,
    domain::{
        ids::{CampaignId, Partition},
        rows::{CampaignRows, PartitionRows, Row},
    },
    retry::{Backoff, Bounded},
    telemetry::metrics,
};

/// Writes under way at once over all callers. Throughput rises no more above about 16 batches,
/// while every further one adds to the time of all, and to what a slow database has to hold
/// (several times its 40 KiB); single rows, as marks are, gain a little up to this.
const WRITES_IN_FLIGHT_MAX: usize = 64;

/// Reads under way at once over all callers, scans included, each at most a page of 1 MB.
const READS_IN_FLIGHT_MAX: usize = 128;

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Connects to the database, takes the schema steps that are missing, checks every table and
/// returns the store.
///
/// # Errors
/// [`ConnectError`]. Trying again does not help after a refusal.
pub async fn connect(config: &CqlConfig) -> Result<CqlStore, ConnectError> {
    connect_with(config, STEPS).await
}

/// As [`connect`], for a node that knows `steps`: [`STEPS`], and those that tests add.
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

/// Connects to the database without making or changing anything, and gives the store; none if
/// the keyspace or a table of it is not there.
///
/// # Errors
/// [`ConnectError`]; a refusal is not helped by trying again.
pub async fn inspect(config: &CqlConfig) -> Result<Option<CqlStore>, ConnectError> {
    let setup = session::for_setup(config).await?;
    let sharded = session::is_sharded(&setup);
    let Some(placement) = Schema::new(&setup, config, STEPS)?.find().await? else {
        return Ok(None);
    };
    drop(setup);
    work(config, &placement, sharded).await.map(Some)
}

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
        writes: Semaphore::new(WRITES_IN_FLIGHT_MAX),
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

/// What every clone and every stream of pages shares.
struct Shared {
    session: Session,
    profiles: Profiles,
    statements: Statements,
    writes: Semaphore,
    reads: Semaphore,
}

impl Shared {
    async fn write_permit(&self) -> SemaphorePermit<'_> {
        self.writes.acquire().await.expect("nobody closes the semaphore")
    }

    async fn read_permit(&self) -> SemaphorePermit<'_> {
        self.reads.acquire().await.expect("nobody closes the semaphore")
    }
}

/// Records how long an operation took.
/// Retries of settling the layout, with 3 s of pauses in all. An instance settles it once, and each
/// start reads it once.
const LAYOUT_RETRY: Bounded =
    Backoff::doubling(Duration::from_millis(300), Duration::from_secs(1)).attempts(5);

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

    async fn partition(&self, partition: Partition) -> Result<PartitionRows, StoreError> {
        let rows = timed("partition", self.shared.partition(partition)).await;
        let operation = || format!("reading progress and holds of partition {partition}");
        rows.map_err(|source| StoreError::new(operation(), source))
    }

    async fn campaign(
        &self,
        campaign: &CampaignId,
        partition: Partition,
    ) -> Result<CampaignRows, StoreError> {
        let rows = timed("campaign", self.shared.campaign(campaign, partition)).await;
        let operation = || format!("reading holds, mark and versions of {campaign}");
        rows.map_err(|source| StoreError::new(operation(), source))
    }

    fn coupons(&self, campaign: &CampaignId, selection: Selection) -> CouponPages {
        match selection {
            Selection::All => self.shared.scan(campaign),
            Selection::Between { first, last } => self.shared.between(campaign, first, last),
            Selection::OfUser { user, bucket } => self.shared.of_user(campaign, user, bucket),
        }
    }

    async fn campaigns(
        &self,
        after: Option<&CampaignId>,
        limit: usize,
    ) -> Result<Vec<CampaignId>, StoreError> {
        let campaigns = timed("campaigns", self.shared.campaigns(after, limit)).await;
        campaigns.map_err(|source| StoreError::new("listing campaigns", source))
    }
}

#[async_trait]
impl StoreInspection for CqlStore {
    async fn layout_in_force(&self) -> Result<Option<Layout>, StoreError> {
        let layout = timed("layout", self.shared.layout_in_force()).await;
        layout.map_err(|source| StoreError::new("reading the layout", source))
    }

    fn by_user(&self, campaign: &CampaignId, bucket: u8) -> ByUserPages {
        self.shared.by_user(campaign, bucket)
    }
}
