//! The port to the request log, which orders the records of each partition.
//!
//! Every adapter keeps these promises, and `contract` checks them:
//!
//! - `append` returns when the record is durable. Its position never changes.
//! - Offsets of a partition rise, with gaps. Record times are those of the log's clock, which may go
//!   backwards: the order is that of the offsets.
//! - A reader returns every durable record of its partition from its start on, in order, and waits
//!   at the end for more. It never skips records: a start outside the log is an error.
//! - Ownership is exclusive only as far as a node can know. Two owners at once happen and are
//!   harmless, because decisions are a function of the log alone.

#[cfg(any(test, feature = "contract"))]
pub mod contract;
pub mod embedded;
mod failed_reads;
pub mod kafka;
pub mod memory;
pub(crate) mod ownership;

use async_trait::async_trait;
use tokio::sync::mpsc;

pub(crate) use self::failed_reads::FailedReads;
use crate::{
    clock::ClockStep,
    domain::{
        halt::Halt,
        ids::{Offset, Partition, Timestamp},
    },
    partition::expiry::Expiring,
    wire::{LogRecord, NewRecord},
};

/// Most records that one read returns: about 1 ms of decisions.
pub const READ_RECORDS_MAX: usize = 4_096;

/// Most concurrent readers of a partition: the live one, three of records that are read again, and that
/// of a probe.
pub const READERS_MAX: usize = 5;

/// The place and time of a durable record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Offset of the record.
    pub offset: Offset,
    /// Record time.
    pub time: Timestamp,
}

/// A broker's acknowledgement of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Acknowledged {
    /// Offset of the record. `None` if a retry found the record in the log already, because the
    /// broker then reports no offset.
    pub(crate) offset: Option<Offset>,
    /// Record time by the broker's clock. `None` if the topic keeps the producer's time.
    pub(crate) time: Option<Timestamp>,
}

impl Acknowledged {
    /// Returns the place and time of the record.
    ///
    /// # Errors
    /// [`AppendError::Unknown`] if one is missing. The record is in the log, but without its
    /// position the request cannot be identified.
    pub(crate) fn appended(self) -> Result<Appended, AppendError> {
        match (self.offset, self.time) {
            (Some(offset), Some(time)) => Ok(Appended { offset, time }),
            (None, _) => Err(AppendError::Unknown("kafka reported no offset".to_owned())),
            (_, None) => {
                let detail = "the topic has message.timestamp.type CreateTime";
                Err(AppendError::Unknown(detail.to_owned()))
            }
        }
    }
}

/// Why a record was not appended.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The record is not in the log and will not get there. Too many appends are in flight.
    #[error("the log takes no records now: {0}")]
    Overloaded(String),
    /// The record is not in the log and will not get there. Appends fail until what the text names
    /// has passed: space is short, or the clock was set.
    #[error("the log takes no records: {0}")]
    Unavailable(String),
    /// The record may be in the log or not.
    #[error("the append was not confirmed: {0}")]
    Unknown(String),
    /// The record is not in the log and will not get there. The log is not one that a node would
    /// start with, so nothing in it can be trusted.
    #[error("the log takes no records: {0}")]
    Unfit(Halt),
}

/// A failed operation of the log, other than an append. Retrying may help.
#[derive(Debug, thiserror::Error)]
#[error("{operation}")]
pub struct LogError {
    /// The attempted operation, with its data.
    pub operation: String,
    /// The cause.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// Why a reader ended.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The next record is outside the log, which was trimmed, truncated or recreated. Halts the
    /// partition; a replay that needs trimmed records puts its campaign on hold.
    #[error("the log has no record at {wanted}: {detail}")]
    OutOfRange {
        /// The next offset to read.
        wanted: Offset,
        /// The bounds of the log, or the broker's message.
        detail: String,
    },
    /// The log has something at this position, or above it, that this node cannot read, and waiting
    /// does not help: an unknown codec or format, or a wrong checksum. Halts the partition; a
    /// replay below progress puts its campaign on hold.
    #[error("the log cannot be read at {wanted}: {detail}")]
    Unreadable {
        /// The next offset to read.
        wanted: Offset,
        /// The adapter's message.
        detail: String,
        /// Another build of this binary may read it: this one has no such codec.
        other_build: bool,
    },
    /// The log is not one that a node would start with. Halts the partition.
    #[error("the log is unfit: {0}")]
    Unfit(Halt),
    /// The reader was closed because the partition was revoked or the node stops.
    #[error("the reader was closed")]
    Closed,
    /// The read failed. Another reader may succeed; see [`FailedReads`].
    #[error(transparent)]
    Failed(#[from] LogError),
}

/// A change of the partitions that this node owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ownership {
    /// This node owns the partition from now on.
    Assigned(Partition),
    /// This node no longer owns the partition. It may finish what is in flight.
    Revoked(Partition),
}

/// The ends of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Offset of the oldest kept record.
    pub low: Offset,
    /// The high watermark: an offset above every durable record.
    pub high: Offset,
}

impl Bounds {
    /// Checks that a reader may go on at `next`. At `high` it waits for the next record.
    ///
    /// # Errors
    /// [`ReadError::OutOfRange`] below the oldest record, which was trimmed, and above the high
    /// watermark, which shows that the log lost its tail.
    pub(crate) fn check(self, next: Offset) -> Result<(), ReadError> {
        match (self.low..=self.high).contains(&next) {
            true => Ok(()),
            false => Err(self.without(next)),
        }
    }

    /// Returns the error of a reader whose next record is missing.
    pub(crate) fn without(self, wanted: Offset) -> ReadError {
        let Self { low, high } = self;
        ReadError::OutOfRange { wanted, detail: format!("it has {low} to {high} (exclusive)") }
    }

    /// Returns the offset below which old records may be trimmed, when progress is `next` and
    /// `keep_from` is the lowest position of a hold that needs its records.
    pub(crate) fn trimmable_below(self, next: Offset, keep_from: Option<Offset>) -> Offset {
        // The last settled record is kept: on assignment its digest is compared with progress, which
        // detects a log that was rewritten.
        let last_settled = next.min(self.high).saturating_sub(1);
        last_settled.min(keep_from.unwrap_or(Offset::MAX))
    }
}

/// The record at a position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// It is this one.
    Record(LogRecord),
    /// It was trimmed.
    Trimmed,
    /// There is none, although the log reaches this far or should.
    Nothing,
}

/// What a log on the node's own disk tells beside [`RequestLog`].
#[async_trait]
pub trait LocalLog: Send + Sync + 'static {
    /// Returns why appends are refused now, if they are: space is short, or the clock was set. Asks
    /// the disk.
    async fn refusal(&self) -> Option<String>;

    /// Returns the time that a record appended now would get.
    ///
    /// # Errors
    /// [`ClockStep`] while the clock is not believed, and no record is taken.
    fn time(&self) -> Result<Timestamp, ClockStep>;

    /// Looks up the record at a position, in the log as it is after the call.
    ///
    /// # Errors
    /// [`LogError`].
    async fn find(&self, partition: Partition, offset: Offset) -> Result<Found, LogError>;
}

/// The log of requests and control records.
#[async_trait]
pub trait RequestLog: Send + Sync + 'static {
    /// Appends `record` and returns when it is durable. The adapter drops a record whose append
    /// timed out, and does not send it later.
    async fn append(
        &self,
        partition: Partition,
        record: NewRecord,
    ) -> Result<Appended, AppendError>;

    /// Joins the group of nodes that share the partitions. Dropping the receiver leaves the group.
    async fn join(&self) -> Result<mpsc::Receiver<Ownership>, LogError>;

    /// Opens a reader at `from`, which must lie within the bounds. A partition may have several
    /// readers. Above [`READERS_MAX`] an adapter may wait until one of them closes.
    async fn open(
        &self,
        partition: Partition,
        from: Offset,
    ) -> Result<Box<dyn LogReader>, LogError>;

    /// Returns the current ends of the partition.
    async fn bounds(&self, partition: Partition) -> Result<Bounds, LogError>;

    /// Reports durable progress: every position below `next` is settled. Kafka publishes it for
    /// tools that show lag. The embedded log may trim old records below it, and below `keep_from`,
    /// which is the lowest `from` of a hold that is not closed. No answer depends on it.
    async fn report_progress(
        &self,
        partition: Partition,
        next: Offset,
        keep_from: Option<Offset>,
    ) -> Result<(), LogError>;

    /// Says which records of the partition the log is about to remove, decided or not. None if it
    /// keeps all, or while that is not known.
    ///
    /// # Errors
    /// [`LogError`].
    async fn expiring(
        &self,
        partition: Partition,
        now: Timestamp,
    ) -> Result<Option<Expiring>, LogError> {
        let _ = (partition, now);
        Ok(None)
    }

    /// Stores a record that cannot be decoded, or that belongs to another partition, with the
    /// reason. Returns when it is durable. Storing it twice is harmless.
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
    /// Waits for at least one record, and returns at most `max` (and at most [`READ_RECORDS_MAX`])
    /// records. Cancel-safe: dropping the future loses no record.
    ///
    /// # Errors
    /// [`ReadError`]. A reader is of no use after an error.
    async fn read(&mut self, max: usize) -> Result<Vec<LogRecord>, ReadError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_goes_on_within_the_log_or_at_its_end() {
        let bounds = Bounds { low: 5, high: 8 };
        for next in [5, 7, 8] {
            assert!(bounds.check(next).is_ok(), "{next}");
        }
        for next in [4, 9] {
            let Err(ReadError::OutOfRange { wanted, detail }) = bounds.check(next) else {
                panic!("{next} is not in the log");
            };
            assert_eq!((wanted, detail.as_str()), (next, "it has 5 to 8 (exclusive)"));
        }
    }

    #[test]
    fn the_last_settled_record_is_never_trimmed() {
        let bounds = Bounds { low: 5, high: 8 };
        let below = |next, keep_from| bounds.trimmable_below(next, keep_from);
        assert_eq!(below(7, None), 6);
        assert_eq!(below(7, Some(5)), 5, "a hold needs its records");
        assert_eq!(below(7, Some(9)), 6);
        assert_eq!(below(99, None), 7, "progress beyond the log trims no more than the log");
        assert_eq!(below(0, None), 0);
    }

    #[test]
    fn a_record_without_its_place_is_unknown() {
        let (offset, time) = (Some(3), Some(Timestamp(5)));
        let whole = Acknowledged { offset, time }.appended().unwrap();
        assert_eq!(whole, Appended { offset: 3, time: Timestamp(5) });
        for part in [Acknowledged { offset: None, time }, Acknowledged { offset, time: None }] {
            assert!(matches!(part.appended(), Err(AppendError::Unknown(_))), "{part:?}");
        }
    }
}
