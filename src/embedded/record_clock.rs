//! The clock of the log: it times records, and says how old they are.

use std::time::Duration;

use parking_lot::Mutex;

use crate::{
    clock::{ClockStep, STEP_MS, SharedClock, StepWatch},
    domain::ids::Timestamp,
    telemetry::metrics,
};

/// Time after a step of the clock in which nothing is trimmed for its age: whoever sets a wrong
/// clock right has time to notice what it did.
const REST_AFTER_STEP: Duration = Duration::from_secs(3_600);

/// The wall clock, as far as it is believed.
pub(crate) struct RecordClock {
    clock: SharedClock,
    watch: Mutex<StepWatch>,
}

impl RecordClock {
    /// Begins to watch the clock. `last` is the time at which the log was last written.
    pub(crate) fn new(clock: SharedClock, last: Option<Timestamp>) -> Self {
        let mut watch = StepWatch::new(clock.reading(), last);
        if watch.is_stepping()
            && let Err(step) = watch.look(clock.reading())
        {
            tell(&step);
        }
        Self { clock, watch: Mutex::new(watch) }
    }

    /// Returns the time of a record that is appended now.
    ///
    /// # Errors
    /// [`ClockStep`] while the clock is not believed.
    pub(crate) fn look(&self) -> Result<Timestamp, ClockStep> {
        let reading = self.clock.reading();
        let mut watch = self.watch.lock();
        let was_stepping = watch.is_stepping();
        let looked = watch.look(reading);
        drop(watch);
        match &looked {
            Ok(()) if was_stepping => {
                tracing::warn!("clock has run steadily for a while, log takes records again");
            }
            Err(step) if !was_stepping => tell(step),
            _ => {}
        }
        looked.map(|()| reading.wall)
    }

    /// Returns which records are older than `retention`.
    pub(crate) fn horizon(&self, retention: Duration) -> Horizon {
        let reading = self.clock.reading();
        let watch = self.watch.lock();
        let steady = watch.steady_for(reading);
        let retention_ms = i64::try_from(retention.as_millis()).unwrap_or(i64::MAX);
        Horizon {
            now: reading.wall,
            before: Timestamp(reading.wall.0.saturating_sub(retention_ms)),
            ahead_too: steady >= retention,
            rests: watch.is_stepping() || (watch.has_stepped() && steady < REST_AFTER_STEP),
        }
    }
}

/// Tells operators that a step has begun.
fn tell(step: &ClockStep) {
    metrics::clock_step();
    tracing::error!(wall = step.wall.0, expected = step.expected.0, "{step}");
}

/// Which records are older than the retention.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Horizon {
    now: Timestamp,
    before: Timestamp,
    /// Whether records far ahead of the clock are old: this process has known them for that long. A
    /// clock that runs steadily has not made any of them since.
    ahead_too: bool,
    /// Whether no age can be told yet, because the clock was set a short while ago.
    rests: bool,
}

impl Horizon {
    /// Returns whether a record of this time is old.
    pub(crate) fn is_old(&self, time: Timestamp) -> bool {
        let is_far_ahead = time.0.saturating_sub(self.now.0) > STEP_MS;
        !self.rests && (time < self.before || (is_far_ahead && self.ahead_too))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicI64, AtomicU64, Ordering},
        },
        time::Instant,
    };

    use super::*;
    use crate::clock::Clock;

    const HOUR_S: i64 = 3_600;
    const RETENTION: Duration = Duration::from_secs(2 * 3_600);

    /// Clocks of a machine whose wall clock can be set.
    #[derive(Default)]
    struct TwoClocks {
        wall_s: AtomicI64,
        boot_s: AtomicU64,
    }

    impl TwoClocks {
        fn pass(&self, seconds: u64) {
            self.boot_s.fetch_add(seconds, Ordering::Relaxed);
            self.wall_s.fetch_add(seconds.cast_signed(), Ordering::Relaxed);
        }

        fn set(&self, seconds: i64) {
            self.wall_s.fetch_add(seconds, Ordering::Relaxed);
        }
    }

    impl Clock for TwoClocks {
        fn now(&self) -> Timestamp {
            at(self.wall_s.load(Ordering::Relaxed))
        }

        fn instant(&self) -> Instant {
            Instant::now()
        }

        fn boot(&self) -> Duration {
            Duration::from_secs(self.boot_s.load(Ordering::Relaxed))
        }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp(seconds * 1_000)
    }

    #[test]
    fn records_grow_old_by_the_clock() {
        let clocks = Arc::new(TwoClocks::default());
        clocks.pass(100 * 3_600);
        let clock = RecordClock::new(clocks.clone(), Some(at(99 * HOUR_S)));
        let is_old = |time| clock.horizon(RETENTION).is_old(time);
        assert!(is_old(at(98 * HOUR_S - 1)));
        assert!(!is_old(at(98 * HOUR_S)));
        // Records of a clock that was once ahead: they are as old as this process knows them.
        assert!(!is_old(at(900 * HOUR_S)));
        clocks.pass(2 * 3_600 - 1);
        assert!(!is_old(at(900 * HOUR_S)));
        clocks.pass(1);
        assert!(is_old(at(900 * HOUR_S)));
        // A clock that is set back by less than a step is as far behind its latest records.
        clocks.set(-40);
        assert!(!is_old(at(102 * HOUR_S)));
    }

    #[test]
    fn nothing_is_old_while_the_clock_is_not_believed() {
        let clocks = Arc::new(TwoClocks::default());
        clocks.pass(100 * 3_600);
        let clock = RecordClock::new(clocks.clone(), None);
        assert!(clock.horizon(RETENTION).is_old(at(0)));
        clocks.set(400 * 24 * HOUR_S);
        assert!(clock.look().is_err());
        assert!(!clock.horizon(RETENTION).is_old(at(0)));
        clocks.pass(10);
        assert_eq!(clock.look(), Ok(clocks.now()));
        assert!(!clock.horizon(RETENTION).is_old(at(0)), "not for an hour");
        clocks.pass(3_600);
        assert!(clock.horizon(RETENTION).is_old(at(0)));
    }

    #[test]
    fn a_start_behind_the_last_write_waits() {
        let clocks = Arc::new(TwoClocks::default());
        clocks.pass(1_000);
        let clock = RecordClock::new(clocks.clone(), Some(at(2_000)));
        let step = clock.look().unwrap_err();
        assert_eq!((step.wall, step.expected), (at(1_000), at(2_000)));
        assert!(step.to_string().contains("1970-01-01T00:16:40.000Z"), "{step}");
        clocks.pass(10);
        assert_eq!(clock.look(), Ok(at(1_010)));
    }
}
