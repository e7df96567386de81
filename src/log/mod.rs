//! The request log: ordered records in, and the one place where an order is made.
//!
//! What every adapter promises, and `contract` checks:
//!
//! - `append` answers only when the record is durable; from then on it has a position for ever.
//!   Offsets of a partition rise, with holes; record times never go backwards in the embedded log
//!   and are the broker's in Kafka's.
//! - A reader gives every durable record of its partition from its start on, in order, and waits
//!   at the end for more. It never skips: a start outside the log is an error.
//! - A partition is owned by one node at a time as far as anybody can tell; two owners at once
//!   happen and are harmless, because decisions are a function of the log alone.

#[cfg(any(test, feature = "contract"))]
pub mod contract;
pub mod embedded;
pub mod kafka;
pub mod memory;

use async_trait::async_trait;
use tokio::sync::mpsc;

use crate::{
    domain::ids::{Offset, Partition, Timestamp},
    wire::{LogRecord, NewRecord},
};

/// Most records that one read returns: about 1 ms of decisions.
pub const READ_RECORDS_MAX: usize = 4_096;

/// Readers that one partition can have at once: the live one, and two replays.
pub const READERS_MAX: usize = 3;

/// Where and when a record became durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Its offset.
    pub offset: Offset,
    /// Its record time.
    pub time: Timestamp,
}

/// Why a record was not appended.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// Not in the log and never will be: too much is under way already.
    #[error("the log takes no records now: {0}")]
    Overloaded(String),
    /// Not in the log and never will be; nor will others, until somebody makes space.
    #[error("the log takes no records: {0}")]
    NoSpace(String),
    /// Nobody can say whether it is in the log.
    #[error("the append was not confirmed: {0}")]
    Unknown(String),
}

/// A log operation other than append that could not be done now; trying again may help.
#[derive(Debug, thiserror::Error)]
#[error("{operation}")]
pub struct LogError {
    /// What was attempted, with its data.
    pub operation: String,
    /// Why it failed.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// Why a reader gives no more.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The log does not hold what should follow: it was trimmed, truncated or recreated. Halts
    /// the partition.
    #[error("the log has no record at {wanted}: {detail}")]
    OutOfRange {
        /// Offset that was to be read next.
        wanted: Offset,
        /// What the log said.
        detail: String,
    },
    /// The reader was closed, because the partition was revoked or the node stops.
    #[error("the reader was closed")]
    Closed,
    /// The read failed and the reader is spent; open another.
    #[error(transparent)]
    Failed(#[from] LogError),
}

/// A change of what this node owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ownership {
    /// The partition is this node's from now on.
    Assigned(Partition),
    /// The partition is another node's from now on; what is in flight may be finished.
    Revoked(Partition),
}

/// The ends of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Offset of the oldest record kept.
    pub low: Offset,
    /// Offset that the next record gets: the high watermark.
    pub high: Offset,
}

/// The log of requests and control records.
#[async_trait]
pub trait RequestLog: Send + Sync + 'static {
    /// Appends `record` and answers when it is durable. A record whose append timed out is
    /// dropped by the adapter after that same time: it is not sent later.
    async fn append(
        &self,
        partition: Partition,
        record: NewRecord,
    ) -> Result<Appended, AppendError>;

    /// Joins those who share the partitions. Dropping the receiver leaves them.
    async fn join(&self) -> Result<mpsc::Receiver<Ownership>, LogError>;

    /// Opens a reader at `from`, which must lie within the bounds. The live reader of an assigned
    /// partition and any number of replays may be open at once.
    async fn open(
        &self,
        partition: Partition,
        from: Offset,
    ) -> Result<Box<dyn LogReader>, LogError>;

    /// The ends of the partition now.
    async fn bounds(&self, partition: Partition) -> Result<Bounds, LogError>;

    /// Tells the log that everything below `next` is settled, by durable progress: what lag tools
    /// read (Kafka) and below which old records may be trimmed (embedded). `keep_from` is the
    /// lowest `from` of a hold that is not closed, if any. Never part of an answer.
    async fn report_progress(
        &self,
        partition: Partition,
        next: Offset,
        keep_from: Option<Offset>,
    ) -> Result<(), LogError>;

    /// Keeps a record that can't be decoded or belongs elsewhere, with the reason; durable when
    /// it returns. Saying it twice is harmless.
    async fn dead_letter(
        &self,
        partition: Partition,
        record: &LogRecord,
        reason: &str,
    ) -> Result<(), LogError>;
}

/// Reads one partition in order.
#[async_trait]
pub trait LogReader: Send {
    /// Waits until there is at least one record and gives at most `max` (and at most
    /// [`READ_RECORDS_MAX`]). Cancel-safe: a dropped call loses nothing.
    ///
    /// # Errors
    /// [`ReadError`]; the reader is spent after any of them.
    async fn read(&mut self, max: usize) -> Result<Vec<LogRecord>, ReadError>;
}
