//! Reads of the embedded database. They go on while it is being closed, and after a failure of the
//! committer.

use std::sync::{Arc, atomic::AtomicBool};

use fjall::Keyspace;
use tokio::task::JoinHandle;

use super::{folder::FolderLock, record_clock::RecordClock, tail::Tail};
use crate::{clock::SharedClock, domain::ids::Partition};

/// An error of the database, or of a row in it that cannot be decoded.
pub(crate) type ReadFailure = Box<dyn std::error::Error + Send + Sync>;

/// A read in progress on a blocking thread.
pub(crate) type Reading<T> = JoinHandle<Result<T, ReadFailure>>;

/// Everything that a reader of the database needs.
pub(crate) struct ReadHandle {
    pub(crate) log: Keyspace,
    pub(crate) data: Keyspace,
    pub(crate) tails: Vec<Arc<Tail>>,
    pub(crate) clock: SharedClock,
    pub(crate) record_clock: Arc<RecordClock>,
    /// Whether free space is known to be short, as the watcher last saw it.
    pub(crate) space_short: Arc<AtomicBool>,
    /// Dropped last, so that the folder stays locked while anything can read from it.
    pub(super) lock: FolderLock,
}

impl ReadHandle {
    /// Returns the tail of `partition`, or `None` if the log has no such partition.
    pub(crate) fn tail(&self, partition: Partition) -> Option<&Arc<Tail>> {
        self.tails.get(partition as usize)
    }

    /// Starts `read` on a blocking thread, because it may wait for the disk.
    pub(crate) fn start<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Self) -> Result<T, ReadFailure> + Send + 'static,
    ) -> Reading<T> {
        let handle = self.clone();
        tokio::task::spawn_blocking(move || read(&handle))
    }

    /// Runs `read` on a blocking thread and waits for its result.
    pub(crate) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Self) -> Result<T, ReadFailure> + Send + 'static,
    ) -> Result<T, ReadFailure> {
        self.start(read).await?
    }
}
