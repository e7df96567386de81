//! What tests of the embedded adapters share.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use super::EmbeddedDatabase;
use crate::{
    clock::{Clock, SystemClock},
    config::EmbeddedConfig,
    domain::ids::Timestamp,
};

/// Settings of a database in `folder`, without a reserve: test machines may have little space.
pub(crate) fn config(folder: &Path, partitions: u32) -> EmbeddedConfig {
    EmbeddedConfig {
        dir: folder.join("data"),
        partitions,
        retention: Duration::from_secs(3_600),
        reserve_bytes: 0,
    }
}

/// A database in `folder`.
pub(crate) fn open(folder: &Path, partitions: u32) -> Arc<EmbeddedDatabase> {
    let clock = Arc::new(SystemClock);
    EmbeddedDatabase::open(&config(folder, partitions), clock).expect("the database opens")
}

/// A clock that shows what it is told.
#[derive(Debug)]
pub(crate) struct ManualClock {
    origin: Instant,
    millis: AtomicI64,
}

impl ManualClock {
    pub(crate) fn at(millis: i64) -> Arc<Self> {
        Arc::new(Self { origin: Instant::now(), millis: AtomicI64::new(millis) })
    }

    pub(crate) fn set(&self, millis: i64) {
        self.millis.store(millis, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.millis.load(Ordering::SeqCst))
    }

    fn instant(&self) -> Instant {
        let millis = u64::try_from(self.now().0).unwrap_or(0);
        self.origin + Duration::from_millis(millis)
    }
}
