//! The coupon store: what cannot be recomputed cheaply, and nothing else.
//!
//! What every adapter promises, and `contract` checks:
//!
//! - Every write is idempotent and deterministic: writing a row again, late, or by another owner
//!   changes nothing. Marks and progress are max-registers: a lower offset never replaces a
//!   higher one. A hold only goes open → released → closed.
//! - `write` answers when the rows are as durable as the adapter makes rows; rows of one call may
//!   land in any order, so whoever needs an order makes one call after another.
//! - Reads see every write that was answered before they began, on any node.
//! - Rows come back with their digest unchecked: whoever decides by them compares it.

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
        coupon::Coupon,
        ids::{CampaignId, Partition, Sequence, UserId},
        rows::{CampaignRows, PartitionRows, Row},
    },
    wire::{
        FORMAT,
        format::{IDENTITY_FOLD, OtherFormat, check_identity_fold, check_number},
    },
};

/// The log epoch of every instance: no epoch is ended yet.
pub const LOG_EPOCH: u32 = 1;

/// Coupon rows per bucket: about 2 MB a database partition, read in parallel on recovery.
pub const SEQUENCES_PER_BUCKET: u32 = 20_000;

/// Most campaigns that one listing returns.
pub const LISTING_MAX: usize = 1_000;

/// The layout row: what is fixed when an instance first starts. A node that differs is refused.
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
    /// How user ids are folded before they are compared: [`IDENTITY_FOLD`].
    pub identity_fold: String,
    /// The secret itself, where coupond made it for a distributed instance. Never printed.
    pub secret: Option<String>,
}

impl Layout {
    /// A layout as this version makes it.
    #[must_use]
    pub fn new(instance: String, partitions: u32, fingerprint: String) -> Self {
        Self {
            instance,
            log_epoch: LOG_EPOCH,
            partitions,
            format: FORMAT.into(),
            fingerprint,
            identity_fold: IDENTITY_FOLD.to_owned(),
            secret: None,
        }
    }

    /// Refuses another format number or fold.
    ///
    /// # Errors
    /// [`OtherFormat`].
    pub fn check_format(&self) -> Result<(), OtherFormat> {
        check_number(self.format)?;
        check_identity_fold(&self.identity_fold)
    }
}

/// Which coupons of a campaign are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// All, in the order of sequences, from the coupon rows.
    All,
    /// Those of these sequences, in their order, from the coupon rows.
    Between {
        /// The first.
        first: Sequence,
        /// The last.
        last: Sequence,
    },
    /// Those of one user, in the order of sequences, from the by-user rows.
    OfUser {
        /// Who holds them.
        user: UserId,
        /// The bucket of the by-user view that the user stands in.
        bucket: u8,
    },
}

/// A store operation that could not be done.
#[derive(Debug, thiserror::Error)]
#[error("{operation}")]
pub struct StoreError {
    /// What was attempted, with its data.
    pub operation: String,
    /// Why it failed.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// A row that was read and is not what this binary writes: whoever asks again gets it again.
#[derive(Debug, thiserror::Error)]
#[error("{what} can't be read: it is damaged, or of a newer version")]
pub struct Unreadable {
    what: &'static str,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Unreadable {
    /// Says what can't be read.
    #[must_use]
    pub const fn new(what: &'static str) -> Self {
        Self { what, source: None }
    }

    /// The same, with what is wrong with it.
    #[must_use]
    pub fn because(
        what: &'static str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { what, source: Some(source.into()) }
    }
}

impl StoreError {
    /// Whether the store answered, with a row that can't be read. Anything else may be over by the
    /// next time that it is asked.
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

/// Pages of coupons.
pub type CouponPages = BoxStream<'static, Result<Vec<Coupon>, StoreError>>;

/// One row of the by-user view, as it stands there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ByUserRow {
    /// Under which user.
    pub user: UserId,
    /// Which coupon.
    pub sequence: Sequence,
    /// The whole row, where the view keeps one; none where the view is an index of coupon rows.
    pub coupon: Option<Coupon>,
}

/// Pages of the by-user view.
pub type ByUserPages = BoxStream<'static, Result<Vec<ByUserRow>, StoreError>>;

/// What an audit reads besides, as it stands and without making anything.
#[async_trait]
pub trait StoreInspection: Send + Sync + 'static {
    /// The layout in force; none if no node was ever started on this store.
    async fn layout_in_force(&self) -> Result<Option<Layout>, StoreError>;

    /// Reads one bucket of a campaign's by-user view page by page, in any order. A row without
    /// its coupon is given, not followed.
    fn by_user(&self, campaign: &CampaignId, bucket: u8) -> ByUserPages;
}

/// Remembers coupons, definition versions, holds, marks and progress.
#[async_trait]
pub trait CouponStore: Send + Sync + 'static {
    /// Creates the layout row if there is none, and gives the one that is in force: `proposed`,
    /// or what was there before.
    async fn layout(&self, proposed: &Layout) -> Result<Layout, StoreError>;

    /// Writes rows. One attempt: whoever must not go on without them repeats it.
    async fn write(&self, rows: &[Row]) -> Result<(), StoreError>;

    /// Reads a partition's progress, then its holds.
    async fn partition(&self, partition: Partition) -> Result<PartitionRows, StoreError>;

    /// Reads a campaign's holds, then its mark, then its versions.
    async fn campaign(
        &self,
        campaign: &CampaignId,
        partition: Partition,
    ) -> Result<CampaignRows, StoreError>;

    /// Reads coupons page by page, in the order of sequences.
    fn coupons(&self, campaign: &CampaignId, selection: Selection) -> CouponPages;

    /// At most `limit` (and at most [`LISTING_MAX`]) campaigns by id, after the given one.
    async fn campaigns(
        &self,
        after: Option<&CampaignId>,
        limit: usize,
    ) -> Result<Vec<CampaignId>, StoreError>;
}
