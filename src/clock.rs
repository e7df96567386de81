//! Time, taken in one place, so that tests own it.
//!
//! Wall-clock time never decides anything: it stamps records of the embedded log and judges, at
//! the edge, what is certain to be refused.

use std::{sync::Arc, time::Instant};

use crate::domain::ids::Timestamp;

/// A source of time.
pub trait Clock: Send + Sync + 'static {
    /// Wall-clock time.
    fn now(&self) -> Timestamp;
    /// Monotonic time, for ages and delays.
    fn instant(&self) -> Instant;
}

/// A shared clock.
pub type SharedClock = Arc<dyn Clock>;

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the clock that everybody else takes")]
    fn now(&self) -> Timestamp {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let millis = since.map_or(0, |since| since.as_millis());
        Timestamp(i64::try_from(millis).unwrap_or(i64::MAX))
    }

    fn instant(&self) -> Instant {
        // Through tokio, so that paused time in tests is paused here too.
        tokio::time::Instant::now().into_std()
    }
}
