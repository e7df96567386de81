//! What the embedded log and the embedded store share: one folder, one database, one fate.
//!
//! Both write through one committer thread, in groups: a group that holds an append is on disk
//! before anybody hears of it, and because the database keeps one journal in order, the same
//! fsync makes everything durable that was written before it. So no state can come back after a
//! power cut in which a row stands without the record that it follows from, or progress without
//! the rows below it.

mod block;
mod committer;
mod database;
mod folder;
mod format;
mod high_water;
mod inspect;
mod journal;
pub(crate) mod keys;
mod manifest;
mod space;
mod tail;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use database::{EmbeddedDatabase, OpenError};
pub use folder::{FolderError, SecretFile, data_folder, found_secret, kept_secret};

pub(crate) use block::unpack;
pub(crate) use committer::{Entry, Operation, RANK_BYTES, Refused, TIME_BYTES, ranked};
pub(crate) use database::Shared;
pub(crate) use tail::{End, Tail};
