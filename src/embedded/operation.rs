//! Operations that adapters queue for the committer.

use fjall::UserValue;
use tokio::sync::oneshot;

use crate::{
    clock::ClockStep,
    domain::ids::{Offset, Partition, Timestamp},
    shares::Permits,
};

/// Bytes at the front of an append's payload that the committer overwrites with the record time.
pub(crate) const TIME_BYTES: usize = 8;

/// Bytes at the front of a register's value that hold its rank.
pub(crate) const RANK_BYTES: usize = 8;

/// An operation for the committer. Operations take effect in the order in which they are queued.
pub(crate) enum Operation {
    /// Appends a record. The reply is sent once the record is on disk.
    Append {
        partition: Partition,
        /// The record, behind [`TIME_BYTES`] of room for its time.
        payload: Vec<u8>,
        /// Receives offset and record time.
        reply: oneshot::Sender<Result<(Offset, Timestamp), SubmitError>>,
    },
    /// Writes entries to `data` in order and atomically.
    Write {
        entries: Vec<DataEntry>,
        /// Whether the reply waits for the fsync.
        durable: bool,
        reply: oneshot::Sender<()>,
    },
    /// Writes rows to `data` in order and atomically, without a reply.
    Rows {
        entries: Vec<DataEntry>,
        /// Bounds the rows in the queue; released when the rows are written.
        room: Permits,
    },
    /// Writes `value` to `data` unless the key exists. The reply is the value that is then stored,
    /// and is sent once that value is on disk.
    Create { key: Vec<u8>, value: Vec<u8>, reply: oneshot::Sender<UserValue> },
    /// Removes blocks at the start of a partition. All earlier operations are on disk before.
    Trim {
        partition: Partition,
        /// Offset of the first record of each block to remove.
        blocks: Vec<Offset>,
        /// First offset that is kept.
        below: Offset,
        reply: oneshot::Sender<()>,
    },
    /// Closes the queue, writes what is in it, makes everything durable and ends the committer.
    Close { reply: oneshot::Sender<()> },
}

/// One write to the keyspace `data`.
pub(crate) enum DataEntry {
    /// Sets a key to a value.
    Put(Vec<u8>, Vec<u8>),
    /// Sets a max-register: takes effect only if the rank, which is the first [`RANK_BYTES`] of the
    /// value, is higher than the stored one.
    Raise(Vec<u8>, Vec<u8>),
}

/// Returns the value of a register: its rank, then its content.
pub(crate) fn ranked(rank: u64, content: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(RANK_BYTES + content.len());
    value.extend_from_slice(&rank.to_be_bytes());
    value.extend_from_slice(content);
    value
}

/// Why the committer did not take an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SubmitError {
    #[error("free space of the data folder is below embedded.reserve_bytes")]
    NoSpace,
    #[error(transparent)]
    ClockStep(ClockStep),
    #[error("the log has no such partition")]
    NoPartition,
    #[error("the write queue of the embedded database is full")]
    QueueFull,
    /// The database was closed, or its committer failed.
    #[error("the embedded database is closed")]
    Closed,
}
