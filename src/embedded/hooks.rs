//! What the database is opened with beside its settings: how much memory it takes, and calls to the
//! outside that tests replace.

use std::{error::Error, io, sync::Arc};

use super::{
    database::DatabaseMemory,
    space::{FreeBytes, free_bytes},
};
use crate::telemetry::Chain;

/// Called with a failure after which the committer cannot continue. The default ends the process.
/// If a test's function returns, the committer ends and nothing is written any more.
pub(super) type Fatal = Arc<dyn Fn(&(dyn Error + 'static)) + Send + Sync>;

/// The memory of the database, and calls to the outside that tests replace.
#[derive(Clone)]
pub(super) struct Hooks {
    pub(super) fatal: Fatal,
    /// Called before each durable commit. An error stands for a failed fsync.
    pub(super) before_sync: Arc<dyn Fn() -> io::Result<()> + Send + Sync>,
    pub(super) free_bytes: FreeBytes,
    pub(super) memory: DatabaseMemory,
}

impl Default for Hooks {
    fn default() -> Self {
        Self {
            fatal: Arc::new(|failure| end_process(failure)),
            before_sync: Arc::new(|| Ok(())),
            free_bytes,
            memory: DatabaseMemory::default(),
        }
    }
}

/// Ends the process. After a failed fsync it is unknown what is on disk, and a second fsync may
/// falsely succeed. Only a new start, which reads the disk, can know.
fn end_process(failure: &(dyn Error + 'static)) -> ! {
    tracing::error!(error = %Chain(failure), "embedded database failed, process ends");
    std::process::exit(1)
}
