//! What tests of the embedded adapters share.

use std::{path::Path, sync::Arc, time::Duration};

use super::EmbeddedDatabase;
use crate::{clock::SystemClock, config::EmbeddedConfig};

/// Settings of a database in `folder`, without a reserve: test machines may have little space.
pub(crate) fn config(folder: &Path, partitions: u32) -> EmbeddedConfig {
    EmbeddedConfig {
        dir: folder.join("data"),
        partitions,
        retention: Duration::from_hours(1),
        reserve_bytes: 0,
    }
}

/// A database in `folder`.
pub(crate) fn open(folder: &Path, partitions: u32) -> Arc<EmbeddedDatabase> {
    let clock = Arc::new(SystemClock);
    EmbeddedDatabase::open(&config(folder, partitions), clock).expect("the database opens")
}
