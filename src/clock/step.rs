//! Tells a wall clock that was set from one that runs.
//!
//! A record's time decides whether its campaign was open, for good. So the embedded log takes no
//! record while the wall clock and the time since boot disagree about how much time has passed.
//! This is a debounce: a clock that stays wrong is believed after a while.

use std::time::Duration;

use crate::domain::ids::Timestamp;

/// Difference from which on a clock was set: more than any clock is slewed by in [`STANDS_MS`].
pub const STEP_MS: i64 = 60_000;

/// How long a clock that was set must run steadily before it is believed. Time daemons that correct
/// a wrong clock at boot do it within seconds.
const STANDS_MS: i64 = 10_000;

/// Both clocks of the machine, read together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// The wall clock.
    pub wall: Timestamp,
    /// Time since the machine was started. It counts suspension, and nobody can set it.
    pub boot: Duration,
}

impl Reading {
    fn boot_ms(self) -> i64 {
        i64::try_from(self.boot.as_millis()).unwrap_or(i64::MAX)
    }

    /// Returns the wall-clock time at boot, as these clocks have it.
    fn difference(self) -> i64 {
        self.wall.0.saturating_sub(self.boot_ms())
    }
}

/// A step of the wall clock that is not over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the clock was set: it says {}, but {} was expected; the log takes records again once it has run \
     steadily for {} s",
    shown(*wall), shown(*expected), STANDS_MS / 1_000
)]
pub struct ClockStep {
    /// What the wall clock says.
    pub wall: Timestamp,
    /// What it would say if it had run on.
    pub expected: Timestamp,
}

/// Returns a time as people read it.
fn shown(time: Timestamp) -> String {
    jiff::Timestamp::from_millisecond(time.0)
        .map_or_else(|_| format!("{} ms after 1970", time.0), |time| format!("{time:.3}"))
}

/// Watches the clocks of one process.
#[derive(Debug, Clone)]
pub struct StepWatch {
    /// Difference of a clock that is believed.
    base: i64,
    /// When the base last followed the clock, since boot.
    followed_ms: i64,
    /// Difference of a clock that was set, and since when it has stood.
    candidate: Option<(i64, i64)>,
    /// When the last step ended, or the watch began, since boot.
    steady_since_ms: i64,
    /// Whether there was a step.
    has_stepped: bool,
}

impl StepWatch {
    /// Begins to watch. `last` is the wall-clock time at which the log was last written: a clock
    /// that is behind it was set meanwhile, or was wrong then.
    #[must_use]
    pub fn new(reading: Reading, last: Option<Timestamp>) -> Self {
        let (now, difference) = (reading.boot_ms(), reading.difference());
        let mut watch = Self {
            base: difference,
            followed_ms: now,
            candidate: None,
            steady_since_ms: now,
            has_stepped: false,
        };
        if let Some(last) = last.filter(|last| last.0.saturating_sub(reading.wall.0) > STEP_MS) {
            watch.base = last.0.saturating_sub(now);
            watch.candidate = Some((difference, now));
            watch.has_stepped = true;
        }
        watch
    }

    /// Looks at the clocks.
    ///
    /// # Errors
    /// [`ClockStep`] while the wall clock is not believed.
    pub fn look(&mut self, reading: Reading) -> Result<(), ClockStep> {
        let (now, difference) = (reading.boot_ms(), reading.difference());
        let differs_from = |other: i64| difference.saturating_sub(other).abs() > STEP_MS;
        match self.candidate {
            None if differs_from(self.base) => {
                self.candidate = Some((difference, now));
                self.has_stepped = true;
            }
            None => {
                if now.saturating_sub(self.followed_ms) >= STANDS_MS {
                    (self.base, self.followed_ms) = (difference, now);
                }
                return Ok(());
            }
            Some((candidate, _)) if differs_from(candidate) => {
                self.candidate = Some((difference, now));
            }
            Some((_, since)) if now.saturating_sub(since) >= STANDS_MS => {
                (self.base, self.followed_ms) = (difference, now);
                self.candidate = None;
                self.steady_since_ms = now;
                return Ok(());
            }
            Some(_) => {}
        }
        let expected = Timestamp(self.base.saturating_add(now));
        Err(ClockStep { wall: reading.wall, expected })
    }

    /// Returns whether a step lasts.
    #[must_use]
    pub fn is_stepping(&self) -> bool {
        self.candidate.is_some()
    }

    /// Returns for how long the wall clock has run steadily, as far as this watch knows.
    #[must_use]
    pub fn steady_for(&self, reading: Reading) -> Duration {
        if self.is_stepping() {
            return Duration::ZERO;
        }
        let steady_ms = reading.boot_ms().saturating_sub(self.steady_since_ms);
        Duration::from_millis(u64::try_from(steady_ms).unwrap_or(0))
    }

    /// Returns whether the clock has stepped since the watch began.
    #[must_use]
    pub fn has_stepped(&self) -> bool {
        self.has_stepped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_MS: i64 = 86_400_000;

    fn at(wall_s: i64, boot_s: u64) -> Reading {
        Reading { wall: Timestamp(wall_s * 1_000), boot: Duration::from_secs(boot_s) }
    }

    #[test]
    fn a_clock_that_is_slewed_is_followed() {
        let mut watch = StepWatch::new(at(1_000_000, 100), None);
        // It loses 5 s in each 10 s: 300 s in all.
        for turn in 1..=60 {
            let reading = at(1_000_000 + turn * 5, 100 + turn.unsigned_abs() * 10);
            assert_eq!(watch.look(reading), Ok(()), "turn {turn}");
        }
        assert!(!watch.has_stepped());
    }

    #[test]
    fn a_clock_that_jumps_and_comes_back_is_not_believed() {
        let mut watch = StepWatch::new(at(1_000_000, 100), None);
        assert_eq!(watch.look(at(1_000_060, 100)), Ok(()), "60 s are no step");
        let step = watch.look(at(1_086_401, 101)).unwrap_err();
        assert_eq!(step.wall, Timestamp(1_086_401_000));
        assert_eq!(step.expected, Timestamp(1_000_001_000));
        assert!(watch.look(at(1_086_409, 109)).is_err());
        // It comes back, and must stand for 10 s again.
        assert!(watch.look(at(1_000_010, 110)).is_err());
        assert!(watch.look(at(1_000_019, 119)).is_err());
        assert!(watch.is_stepping());
        assert_eq!(watch.look(at(1_000_020, 120)), Ok(()));
        assert_eq!(watch.steady_for(at(1_000_025, 125)), Duration::from_secs(5));
        assert!(watch.has_stepped());
    }

    #[test]
    fn a_clock_that_stands_is_believed_wherever_it_is() {
        for set_s in [-400 * DAY_MS / 1_000, 400 * DAY_MS / 1_000] {
            let mut watch = StepWatch::new(at(100_000_000, 100), None);
            for second in 1..=10_u64 {
                let reading = at(100_000_000 + set_s + second.cast_signed(), 100 + second);
                assert!(watch.look(reading).is_err(), "second {second}");
            }
            assert_eq!(watch.look(at(100_000_000 + set_s + 11, 111)), Ok(()));
            assert!(!watch.is_stepping());
        }
    }

    #[test]
    fn suspension_is_no_step() {
        let mut watch = StepWatch::new(at(1_000_000, 100), None);
        assert_eq!(watch.look(at(1_100_000, 100_100)), Ok(()));
    }

    #[test]
    fn a_clock_behind_the_last_write_must_stand_first() {
        assert!(!StepWatch::new(at(1_000_000, 100), Some(Timestamp(1_000_060_000))).is_stepping());
        let mut watch = StepWatch::new(at(1_000_000, 100), Some(Timestamp(1_000_061_000)));
        let step = watch.look(at(1_000_005, 105)).unwrap_err();
        assert_eq!(step.expected, Timestamp(1_000_066_000));
        assert_eq!(watch.look(at(1_000_010, 110)), Ok(()));
        // A clock that is ahead of the last write is what every start finds.
        assert!(!StepWatch::new(at(9_000_000, 100), Some(Timestamp(1_000_000_000))).is_stepping());
    }
}
