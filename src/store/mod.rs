//! The port to the coupon store, which holds only rows that cannot be recomputed cheaply.
//!
//! Every adapter keeps these promises, and `contract` checks them:
//!
//! - Writes are idempotent and deterministic. Writing a row again, late, or by another owner
//!   changes nothing. Marks, progress and registers are max-registers: a lower number never
//!   replaces a higher one. A hold only goes open → released → closed. In one state, a contradiction replaces
//!   a failure (`Hold::rank`).
//! - `write` returns when the rows are as durable as the adapter makes rows. Rows of one call may
//!   be stored in any order, so a caller that needs an order makes one call after another.
//! - A read sees every write that returned before the read began, on any node. Each method reads
//!   rows of one kind. The order of several reads is decided here, above the adapters.
//! - Of two skips that begin at one offset, the first stays. Its state changes once. Both are decided
//!   by a lightweight transaction, whose result is returned to every caller.
//! - The digest of a row is not checked. Code that decides by a row checks it.

#[cfg(any(test, feature = "contract"))]
pub mod contract;
pub mod cql;
pub mod embedded;
pub mod memory;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use serde::{Deserialize, Serialize};

use crate::{
    domain::{
        change::ChangeRow,
        coupon::Coupon,
        definition::DefinitionVersion,
        identity_fold::IdentityFold,
        ids::{CampaignId, Offset, Partition, ProcessName, Sequence, UserId},
        rows::{
            ByUserRow, CampaignRows, Hold, Mark, NodeRow, PartitionRows, Progress, Register, Row,
            Skip, SkipState,
        },
    },
    wire::{
        FORMAT,
        format::{OtherFormat, check_identity_fold, check_number},
    },
};

/// The log epoch of every instance. Nothing starts a new epoch yet.
pub const LOG_EPOCH: u32 = 1;

/// Coupon rows per bucket. A bucket is a database partition of about 2 MB; recovery reads several
/// in parallel.
pub const SEQUENCES_PER_BUCKET: u32 = 20_000;

/// Most campaigns that one listing returns.
pub const LISTING_MAX: usize = 1_000;

/// Most changes that one read returns: with the largest terms, 3 MiB.
pub const CHANGES_MAX: usize = 1_000;

/// Most users whose coupons are read together. ScyllaDB refuses a query with more keys
/// (`max_clustering_key_restrictions_per_query`).
pub const USERS_MAX: usize = 100;

/// The layout row. Its values are fixed when an instance first starts, and a node with other values
/// refuses to start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// Random name of the instance; part of every request id.
    pub instance: String,
    /// [`LOG_EPOCH`].
    pub log_epoch: u32,
    /// Partitions that campaigns are routed over.
    pub partitions: u32,
    /// [`FORMAT`] of everything that is stored and sent.
    pub format: u32,
    /// Fingerprint of the secret.
    pub fingerprint: String,
    /// How user ids are folded: the name of an [`IdentityFold`].
    pub identity_fold: String,
    /// The secret itself, where coupond made it for a distributed instance. Never printed.
    pub secret: Option<String>,
}

impl Layout {
    /// Returns a layout without a secret, in which user ids are not folded.
    #[must_use]
    pub fn new(instance: String, partitions: u32, fingerprint: String) -> Self {
        Self {
            instance,
            log_epoch: LOG_EPOCH,
            partitions,
            format: FORMAT.into(),
            fingerprint,
            identity_fold: IdentityFold::None.name().to_owned(),
            secret: None,
        }
    }

    /// Checks that this version reads the format number and knows the identity fold.
    ///
    /// # Errors
    /// [`OtherFormat`] if it does not.
    pub fn check_format(&self) -> Result<(), OtherFormat> {
        check_number(self.format)?;
        check_identity_fold(&self.identity_fold)
    }
}

/// Selects coupons of a campaign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// All coupons by sequence, from the coupon rows.
    All,
    /// The coupons with sequences in a range, by sequence, from the coupon rows.
    Between {
        /// The first sequence.
        first: Sequence,
        /// The last sequence, included.
        last: Sequence,
    },
    /// The coupons of some users by sequence, from the by-user rows, as one page.
    OfUsers {
        /// The users, each once, at most [`USERS_MAX`].
        users: Vec<UserId>,
        /// The bucket of all of them in the by-user view.
        bucket: u8,
    },
}

/// A failed operation of the store.
#[derive(Debug, thiserror::Error)]
#[error("{operation}")]
pub struct StoreError {
    /// The attempted operation, with its data.
    pub operation: String,
    /// The cause.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// A stored row that cannot be decoded. Retrying is pointless: the store would return the same row.
#[derive(Debug, thiserror::Error)]
#[error("{what} cannot be decoded: it is damaged, or a newer version wrote it")]
pub struct Unreadable {
    what: &'static str,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Unreadable {
    /// Names the row.
    #[must_use]
    pub const fn new(what: &'static str) -> Self {
        Self { what, source: None }
    }

    /// Names the row and keeps the cause.
    #[must_use]
    pub fn because(
        what: &'static str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { what, source: Some(source.into()) }
    }
}

impl StoreError {
    /// Returns whether a stored row cannot be decoded. Every other failure is worth a retry.
    #[must_use]
    pub fn is_unreadable(&self) -> bool {
        self.source.is::<Unreadable>()
    }

    /// Names the failed operation and keeps its cause.
    pub fn new(
        operation: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { operation: operation.into(), source: source.into() }
    }
}

/// Why the state of a skip is not changed: its row vanished.
const NO_SKIP: &str = "there is no such skip";

/// Pages of coupons.
pub type CouponPages = BoxStream<'static, Result<Vec<Coupon>, StoreError>>;

/// Pages of the by-user view.
pub type ByUserPages = BoxStream<'static, Result<Vec<ByUserRow>, StoreError>>;

/// Pages of campaign ids.
pub type CampaignPages = BoxStream<'static, Result<Vec<CampaignId>, StoreError>>;

/// Reads that only an audit needs. They change nothing.
#[async_trait]
pub trait StoreInspection: Send + Sync + 'static {
    /// Returns the layout in force, none if no node has ever started on this store.
    async fn layout_in_force(&self) -> Result<Option<Layout>, StoreError>;
}

/// The rows of the nodes, where several share one store. Rows that decide nothing: a node may be wrong
/// about another one, and then the group rebalances once more than needed.
#[async_trait]
pub trait NodeRows: Send + Sync + 'static {
    /// Writes the row of a node. One with a lower number never replaces it.
    async fn write_node(&self, row: &NodeRow) -> Result<(), StoreError>;

    /// Reads the rows of all nodes, at most `partition::liveness::NODES_MAX`. Leaves out rows that
    /// cannot be decoded: a newer version may have written them.
    async fn nodes(&self) -> Result<Vec<NodeRow>, StoreError>;

    /// Deletes the row of a node, unless its number has risen above `number`.
    async fn forget_node(&self, name: &ProcessName, number: u64) -> Result<(), StoreError>;
}

/// Stores coupons, definition versions, holds, skips, marks, progress and registers.
#[async_trait]
pub trait CouponStore: Send + Sync + 'static {
    /// Creates the layout row if there is none. Returns the layout in force: `proposed`, or the
    /// earlier one.
    async fn layout(&self, proposed: &Layout) -> Result<Layout, StoreError>;

    /// Returns whether the write of a coupon row writes its by-user row as well. Then nobody needs to
    /// write [`Row::ByUser`].
    fn views_are_one(&self) -> bool {
        false
    }

    /// Writes rows in one attempt. A caller that needs them stored retries.
    async fn write(&self, rows: &[Row]) -> Result<(), StoreError>;

    /// Reads a partition's progress.
    async fn progress(&self, partition: Partition) -> Result<Option<Progress>, StoreError>;

    /// Reads a register of a partition; 0 if it was never written.
    async fn register(&self, partition: Partition, register: Register) -> Result<u64, StoreError>;

    /// Reads all holds of a partition's campaigns, closed ones included.
    async fn holds(&self, partition: Partition) -> Result<Vec<Hold>, StoreError>;

    /// Reads all skips of a partition in the order of `from`, void ones included.
    async fn skips(&self, partition: Partition) -> Result<Vec<Skip>, StoreError>;

    /// Stores `skip`, which is made, unless there is one that begins at the same offset. Returns the
    /// skip that is stored then.
    async fn make_skip(&self, skip: &Skip) -> Result<Skip, StoreError>;

    /// Changes the state of a skip that is made to `state`, which is in force or void. Returns the
    /// state that it has then: the first change stays.
    async fn settle_skip(&self, skip: &Skip, state: SkipState) -> Result<SkipState, StoreError>;

    /// Reads all holds of a campaign, closed ones included.
    async fn campaign_holds(
        &self,
        campaign: &CampaignId,
        partition: Partition,
    ) -> Result<Vec<Hold>, StoreError>;

    /// Reads a campaign's mark.
    async fn mark(&self, campaign: &CampaignId) -> Result<Option<Mark>, StoreError>;

    /// Reads every definition version of a campaign, in the order of offsets.
    async fn versions(&self, campaign: &CampaignId) -> Result<Vec<DefinitionVersion>, StoreError>;

    /// Reads at most `limit` (and at most [`CHANGES_MAX`]) changes of a partition's campaigns from an
    /// offset on, in the order of offsets.
    async fn changes(
        &self,
        partition: Partition,
        from: Offset,
        limit: usize,
    ) -> Result<Vec<ChangeRow>, StoreError>;

    /// Reads coupons page by page, in the order of sequences.
    fn coupons(&self, campaign: &CampaignId, selection: Selection) -> CouponPages;

    /// Reads one bucket of a campaign's by-user view page by page, in any order. A row whose coupon
    /// row is missing is returned too.
    fn by_user(&self, campaign: &CampaignId, bucket: u8) -> ByUserPages;

    /// Lists at most `limit` (and at most [`LISTING_MAX`]) campaigns by id, after the given one.
    async fn campaigns(
        &self,
        after: Option<&CampaignId>,
        limit: usize,
    ) -> Result<Vec<CampaignId>, StoreError>;

    /// Reads whether a campaign has a place in the listing.
    async fn listed(&self, campaign: &CampaignId) -> Result<bool, StoreError>;

    /// Reads the ids of all campaigns that have a version, a mark or a place in the listing, page by
    /// page, in any order. An id may be returned several times.
    fn known(&self) -> CampaignPages;
}

/// Reads of several kinds of rows.
///
/// An owner writes a row before any other row that relies on it (`wire::write_order`). So the reads
/// go in the reverse order: whatever the owner writes between two of them, the rows that the first
/// one relies on are found by the second.
///
/// These are methods of the trait object and not of the trait, so that no adapter replaces them.
impl dyn CouponStore + '_ {
    /// Reads a partition's progress, then how many holds it ever had, then its holds, then its skips.
    ///
    /// # Errors
    /// The first read that fails.
    pub async fn partition(&self, partition: Partition) -> Result<PartitionRows, StoreError> {
        // A hold is durable before progress passes the positions that it covers. In the other
        // order, a hold that opens between the reads is missed, and its positions look settled.
        let progress = self.progress(partition).await?;
        // A hold is durable before it is counted, and counted before progress passes a position
        // that it covers. In any other order, a hold that opens between the reads looks vanished,
        // or a vanished one is not noticed.
        let holds_ever = self.register(partition, Register::Holds).await?;
        let holds = self.holds(partition).await?;
        // A skip is in force before progress passes its range. In the other order, its positions
        // look decided.
        let skips = self.skips(partition).await?;
        Ok(PartitionRows { progress, holds_ever, holds, skips })
    }

    /// Reads a campaign's holds, then its mark, then its versions; without any, its place in the listing.
    ///
    /// # Errors
    /// The first read that fails.
    pub async fn campaign(
        &self,
        campaign: &CampaignId,
        partition: Partition,
    ) -> Result<CampaignRows, StoreError> {
        // A hold is closed after its campaign's mark at its end. In the other order, a closed hold
        // may come with a mark that does not count what its replay has issued.
        let holds = self.campaign_holds(campaign, partition).await?;
        // A version is durable before every mark above it. In the other order, the mark may count
        // more coupons than the quota of the versions that were read.
        let mark = self.mark(campaign).await?;
        let mut versions = self.versions(campaign).await?;
        // A version is durable before its campaign's place in the listing. One that was written between
        // these reads is found by the second read of versions.
        let is_listed = versions.is_empty() && self.listed(campaign).await?;
        if is_listed {
            versions = self.versions(campaign).await?;
        }
        let is_only_listed = is_listed && versions.is_empty();
        Ok(CampaignRows { holds, mark, versions, is_only_listed })
    }

    /// Reads whether a campaign has a place in the listing, a mark or a version. One that has none
    /// and no hold was never defined.
    ///
    /// # Errors
    /// The first read that fails.
    pub async fn exists(&self, campaign: &CampaignId) -> Result<bool, StoreError> {
        // A row that cannot be decoded is one.
        let is_there = |read: Result<bool, StoreError>| match read {
            Err(error) if error.is_unreadable() => Ok(true),
            read => read,
        };
        let mark = async || self.mark(campaign).await.map(|mark| mark.is_some());
        let version = async || self.versions(campaign).await.map(|found| !found.is_empty());
        Ok(self.listed(campaign).await? || is_there(mark().await)? || is_there(version().await)?)
    }
}

#[cfg(test)]
mod tests;
