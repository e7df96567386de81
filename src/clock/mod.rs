//! The clock, behind a trait so that tests and simulated worlds control time.
//!
//! Wall-clock time decides no request. It stamps records of the embedded log, and the edge refuses
//! by it only requests that the log would certainly reject.

mod step;

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use futures_util::future::{Either, select};

pub use self::step::{ClockStep, Reading, STEP_MS, StepWatch};
use crate::domain::ids::Timestamp;

/// Longest time between the two looks at the boot-time clock around one at the wall clock. A thread
/// that was held up in between for longer looks again.
const READING_MAX: Duration = Duration::from_millis(10);

/// Most looks of one reading, on a machine that holds up every one.
const READING_TRIES: u32 = 5;

/// A wait of a [`Clock`].
pub type Sleep = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A source of time. Actors and API service wait by it alone, so that a simulated world can let
/// the time of each node pass as it likes.
pub trait Clock: Send + Sync + 'static {
    /// Returns the wall-clock time.
    fn now(&self) -> Timestamp;

    /// Returns monotonic time, for ages and delays.
    fn instant(&self) -> Instant;

    /// Returns the time since the machine was started, which counts suspension.
    fn boot(&self) -> Duration;

    /// Waits until [`Self::instant`] reaches `until`.
    fn sleep_until(&self, until: Instant) -> Sleep {
        Box::pin(tokio::time::sleep_until(until.into()))
    }
}

/// A clock that all parts of a node share.
pub type SharedClock = Arc<dyn Clock>;

impl dyn Clock {
    /// Reads wall clock and boot-time clock at one moment.
    #[must_use]
    pub fn reading(&self) -> Reading {
        let mut before = self.boot();
        for _ in 0..READING_TRIES {
            let (wall, boot) = (self.now(), self.boot());
            if boot.saturating_sub(before) <= READING_MAX {
                return Reading { wall, boot };
            }
            before = boot;
        }
        Reading { wall: self.now(), boot: self.boot() }
    }

    /// Waits for `time`.
    #[must_use]
    pub fn sleep(&self, time: Duration) -> Sleep {
        self.sleep_until(self.instant() + time)
    }

    /// Runs `work` for at most `time`.
    ///
    /// # Errors
    /// [`TimedOut`] if `work` has not ended by then. It is dropped.
    pub async fn timeout<F: Future>(&self, time: Duration, work: F) -> Result<F::Output, TimedOut> {
        self.timeout_at(self.instant() + time, work).await
    }

    /// Runs `work` until `until`.
    ///
    /// # Errors
    /// [`TimedOut`] if `work` has not ended by then. It is dropped.
    async fn timeout_at<F: Future>(&self, until: Instant, work: F) -> Result<F::Output, TimedOut> {
        let mut work = pin!(work);
        // Most calls are done at once, and need no timer.
        if let Poll::Ready(done) = poll_fn(|context| Poll::Ready(work.as_mut().poll(context))).await
        {
            return Ok(done);
        }
        // Polls the work first: of two that end at the same moment the work counts.
        match select(work, self.sleep_until(until)).await {
            Either::Left((done, _)) => Ok(done),
            Either::Right(((), _)) => Err(TimedOut),
        }
    }
}

/// Work took longer than it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("time is up")]
pub struct TimedOut;

/// Ticks at equal distances, the first one at once. After a late tick the next one comes a whole
/// distance later.
pub struct Ticks {
    clock: SharedClock,
    every: Duration,
    next: Instant,
}

impl Ticks {
    /// Starts to tick now.
    #[must_use]
    pub fn new(clock: SharedClock, every: Duration) -> Self {
        let next = clock.instant();
        Self { clock, every, next }
    }

    /// Waits for the next tick. Cancel-safe.
    pub async fn tick(&mut self) {
        self.clock.sleep_until(self.next).await;
        self.next = self.clock.instant() + self.every;
    }
}

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

    fn boot(&self) -> Duration {
        // Elsewhere the monotonic clock counts suspension itself, or no clock does.
        #[cfg(target_os = "linux")]
        const CLOCK: rustix::time::ClockId = rustix::time::ClockId::Boottime;
        #[cfg(not(target_os = "linux"))]
        const CLOCK: rustix::time::ClockId = rustix::time::ClockId::Monotonic;
        let time = rustix::time::clock_gettime(CLOCK);
        // Both are positive and small.
        Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    fn clock() -> SharedClock {
        Arc::new(SystemClock)
    }

    #[tokio::test(start_paused = true)]
    async fn work_is_cut_off_when_time_is_up() {
        let (clock, second) = (clock(), Duration::from_secs(1));
        let began = clock.instant();
        assert_eq!(clock.timeout(second, pending::<()>()).await, Err(TimedOut));
        assert_eq!(clock.instant() - began, second);
        assert_eq!(clock.timeout(second, ready(7)).await, Ok(7));
        assert_eq!(clock.timeout(second, clock.sleep(second)).await, Ok(()), "the work counts");
        assert_eq!(clock.timeout(Duration::ZERO, ready(7)).await, Ok(7), "it is done at once");
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_tick_delays_the_next() {
        let (clock, second) = (clock(), Duration::from_secs(1));
        let began = clock.instant();
        let mut ticks = Ticks::new(clock.clone(), second);
        ticks.tick().await;
        assert_eq!(clock.instant(), began, "the first comes at once");
        clock.sleep(second * 5 / 2).await;
        ticks.tick().await;
        assert_eq!(clock.instant() - began, second * 5 / 2);
        ticks.tick().await;
        assert_eq!(clock.instant() - began, second * 7 / 2);
    }
}
