//! When a failed campaign is started again, and when it is put on hold instead.

use crate::domain::ids::Offset;

/// Failures at one position after which the campaign is put on hold. Four restarts outlast a
/// passing fault; a record that fails five times in a row will fail for ever.
pub const FAILURES_MAX: u32 = 5;

/// First restart: at once. Then 50 ms, doubled each time.
const BACKOFF_FIRST_MS: u64 = 50;

/// What to do about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Start again after this many milliseconds.
    Restart {
        /// Delay in milliseconds.
        delay_ms: u64,
    },
    /// Put the campaign on hold.
    GiveUp,
}

/// The failures of one campaign since it last got past a position.
#[derive(Debug, Clone, Copy, Default)]
pub struct Failures {
    at: Offset,
    count: u32,
}

impl Failures {
    /// Where it last failed, if it has not got past that since.
    #[must_use]
    pub fn at(&self) -> Option<Offset> {
        (self.count > 0).then_some(self.at)
    }

    /// Counts a failure while `at` was the first position not yet stored.
    pub fn failed(&mut self, at: Offset) -> Verdict {
        if at != self.at {
            *self = Self { at, count: 0 };
        }
        self.count += 1;
        match self.count {
            1 => Verdict::Restart { delay_ms: 0 },
            count if count >= FAILURES_MAX => Verdict::GiveUp,
            count => Verdict::Restart { delay_ms: BACKOFF_FIRST_MS << (count - 2) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_campaign_that_keeps_failing_at_one_position_is_given_up() {
        let mut failures = Failures::default();
        let verdicts: Vec<_> = (0..5).map(|_| failures.failed(7)).collect();
        let delays = [0, 50, 100, 200].map(|delay_ms| Verdict::Restart { delay_ms });
        assert_eq!(verdicts[..4], delays);
        assert_eq!(verdicts[4], Verdict::GiveUp);
    }

    #[test]
    fn getting_past_the_position_forgives() {
        let mut failures = Failures::default();
        for at in 0..100 {
            assert_eq!(failures.failed(at), Verdict::Restart { delay_ms: 0 });
        }
    }
}
