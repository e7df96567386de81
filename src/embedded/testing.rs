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
    // It outlives its test, and the folder of the test.
    let hooks = Hooks { before_sync, fatal: Arc::new(|_| {}), ..Hooks::default() };
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
    /// How far the wall clock was set away from the boot-time clock.
    set_by: AtomicI64,
}

impl ManualClock {
    pub(crate) fn at(millis: i64) -> Arc<Self> {
        Arc::new(Self {
            origin: Instant::now(),
            millis: AtomicI64::new(millis),
            set_by: AtomicI64::new(0),
        })
    }

    /// Lets time pass until `millis`. Back is no time that passes, but tests may.
    pub(crate) fn set(&self, millis: i64) {
        self.millis.store(millis, Ordering::SeqCst);
    }

    /// Sets the wall clock alone.
    pub(crate) fn set_wall_by(&self, millis: i64) {
        self.set_by.store(millis, Ordering::SeqCst);
    }

    fn passed(&self) -> Duration {
        Duration::from_millis(u64::try_from(self.millis.load(Ordering::SeqCst)).unwrap_or(0))
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        let set_by = self.set_by.load(Ordering::SeqCst);
        Timestamp(self.millis.load(Ordering::SeqCst) + set_by)
    }

    fn instant(&self) -> Instant {
        self.origin + self.passed()
    }

    fn boot(&self) -> Duration {
        self.passed()
    }
}
