//! The clock, behind a trait so that tests control time.
//!
//! Wall-clock time decides no request. It stamps records of the embedded log, and the edge refuses
//! by it only requests that the log would certainly reject.

use std::{sync::Arc, time::Instant};

use crate::domain::ids::Timestamp;

/// A source of time.
pub trait Clock: Send + Sync + 'static {
    /// Returns the wall-clock time.
    fn now(&self) -> Timestamp;
    /// Returns monotonic time, for ages and delays.
    fn instant(&self) -> Instant;
}

/// A clock that all parts of a node share.
pub type SharedClock = Arc<dyn Clock>;

/// The clock of the machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the system clock")]
    fn now(&self) -> Timestamp {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let millis = since.map_or(0, |since| since.as_millis());
        Timestamp(i64::try_from(millis).unwrap_or(i64::MAX))
    }

    fn instant(&self) -> Instant {
        // tokio's clock, which tests can pause.
        tokio::time::Instant::now().into_std()
    }
}
