//! Helpers for tests of the embedded adapters.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use super::{EmbeddedDatabase, Operation, hooks::Hooks};
use crate::{
    clock::{Clock, SystemClock},
    config::EmbeddedConfig,
    domain::ids::Timestamp,
};

/// Returns settings for a database in `folder`, without a reserve: test machines may have little
/// free space.
pub(crate) fn config(folder: &Path, partitions: u32) -> EmbeddedConfig {
    EmbeddedConfig {
        dir: folder.join("data"),
        partitions,
        retention: Duration::from_secs(3_600),
        reserve_bytes: 0,
    }
}

/// Opens a database in `folder`.
pub(crate) fn open(folder: &Path, partitions: u32) -> Arc<EmbeddedDatabase> {
    let clock = Arc::new(SystemClock);
    EmbeddedDatabase::open(&config(folder, partitions), clock).expect("the database opens")
}

/// Opens a database in `folder` whose first fsync never returns.
pub(crate) fn hanging(folder: &Path) -> Arc<EmbeddedDatabase> {
    let before_sync = Arc::new(|| -> std::io::Result<()> {
        loop {
            std::thread::park();
        }
    });
    let hooks = Hooks { before_sync, ..Hooks::default() };
    let clock = Arc::new(SystemClock);
    let database = EmbeddedDatabase::open_with(&config(folder, 1), clock, hooks);
    let database = database.expect("the database opens");
    let (reply, _) = tokio::sync::oneshot::channel();
    let written = Operation::Write { entries: Vec::new(), durable: true, reply };
    assert!(database.try_submit(written).is_ok(), "there is room");
    database
}

/// A clock that tests set.
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
