//! The database that the embedded log and the embedded store share: one folder, one journal.
//!
//! All writes go through one committer thread, in groups. A group with an append is synced to disk
//! before anyone learns of the append. The database has one journal in write order, so that fsync
//! also covers everything written before. After a power cut, therefore, no row exists without the
//! record that it was derived from, and no progress without the rows below it.

mod block;
mod committer;
mod database;
mod error;
mod files;
mod folder;
mod format;
#[cfg(test)]
mod fuzz;
mod high_water;
mod hooks;
mod inspect;
mod journal;
pub(crate) mod keys;
mod manifest;
mod opened;
mod operation;
mod reads;
mod record_clock;
mod space;
mod tail;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod watcher;

pub use database::EmbeddedDatabase;
pub(crate) use database::{DatabaseMemory, MEMTABLES, QUEUED_ROWS_BYTES, TABLE_FILES_MAX};
pub use error::OpenError;
pub use folder::{FolderError, SecretFile, data_folder, found_secret, kept_secret};

pub(crate) use block::unpack;
pub(crate) use operation::{DataEntry, Operation, RANK_BYTES, SubmitError, TIME_BYTES, ranked};
pub(crate) use reads::{ReadFailure, ReadHandle, Reading};
pub(crate) use record_clock::{Horizon, RecordClock};
pub(crate) use tail::{End, Tail};
