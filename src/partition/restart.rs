//! Restart policy: when a campaign that failed, or keeps progress back, is restarted or put on hold,
//! when its hold is tried again, and when a failed partition consumer is restarted.

use std::time::Duration;

use crate::domain::ids::Offset;

/// Failures at one position after which the campaign is put on hold. Four restarts within 350 ms
/// outlast a short fault; a record that fails five times in a row is likely to fail forever.
pub const FAILURES_MAX: u32 = 5;

/// Delay of the second restart, doubled each time. The first restart has no delay.
const BACKOFF_FIRST_MS: u64 = 50;

/// What to do about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Restart the campaign.
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
    /// Returns the position of the last failure, unless the campaign has passed it since.
    #[must_use]
    pub fn at(&self) -> Option<Offset> {
        (self.count > 0).then_some(self.at)
    }

    /// Resets the count if the record at `offset` is stored and the last failure was not above it.
    pub fn passed(&mut self, offset: Offset) {
        if self.count > 0 && offset >= self.at {
            *self = Self::default();
        }
    }

    /// Counts a failure. `at` is the first position that was not stored.
    pub fn failed(&mut self, at: Offset) -> Verdict {
        // A failure at another position is no repetition: the campaign has made progress.
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

/// How long a campaign may keep progress back before it is started again, and after that before it goes
/// on hold. Longer than retries of the store take after a short fault.
pub const KEPT_BACK_MS: u64 = 15_000;

/// How the load of a campaign's rows goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadStep {
    /// It waits for its place among the loads at once.
    Waits,
    /// It has its place.
    Begins,
    /// A page of rows was read.
    Page,
}

/// What to do about a campaign that keeps progress back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// Wait.
    Wait,
    /// Start it again.
    Restart,
    /// Put it on hold.
    Hold,
}

/// For how long a campaign has kept progress back at one position.
#[derive(Debug, Clone, Copy, Default)]
pub struct KeptBack {
    at: Option<Offset>,
    ms: u64,
    restarted: bool,
}

impl KeptBack {
    /// Lets `ms` pass. `at` is the lowest position at which the campaign keeps progress back, if it
    /// does so.
    pub fn pass(&mut self, at: Option<Offset>, ms: u64) -> Patience {
        let Some(at) = at else {
            *self = Self::default();
            return Patience::Wait;
        };
        // A restart begins below: what it stores once more is no way forward.
        if self.at.is_none_or(|before| at > before) {
            *self = Self { at: Some(at), ..Self::default() };
            return Patience::Wait;
        }
        self.ms += ms;
        if self.ms < KEPT_BACK_MS {
            return Patience::Wait;
        }
        self.ms = 0;
        self.restarted = !self.restarted;
        if self.restarted { Patience::Restart } else { Patience::Hold }
    }

    /// Begins the count anew: the process did not run, the store did not answer, or a load goes on.
    pub fn anew(&mut self) {
        self.ms = 0;
    }
}

/// First pause after a try of a failure hold has failed, doubled each time.
const TRY_AGAIN_FIRST_MS: u64 = 1_000;

/// Longest such pause: a campaign is back within a minute of what it lacked.
const TRY_AGAIN_MAX_MS: u64 = 60_000;

/// The tries of a campaign on hold.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tries {
    failed: u32,
    due_ms: u64,
}

impl Tries {
    /// Notes that a hold begins, or that a try has failed.
    pub fn failed(&mut self, now_ms: u64) {
        let pause = TRY_AGAIN_FIRST_MS.saturating_mul(1 << self.failed.min(u32::BITS - 1));
        self.failed = self.failed.saturating_add(1);
        self.due_ms = now_ms + pause.min(TRY_AGAIN_MAX_MS);
    }

    /// Returns whether the next try is due.
    #[must_use]
    pub fn is_due(&self, now_ms: u64) -> bool {
        now_ms >= self.due_ms
    }
}

/// First pause before a failed partition consumer is restarted. Short, because requests of the
/// whole partition wait; doubled each time.
pub const CONSUMER_PAUSE_FIRST: Duration = Duration::from_millis(200);

/// Longest pause: long enough not to flood the log, short enough for an operator who has removed
/// the cause.
const CONSUMER_PAUSE_MAX: Duration = Duration::from_secs(10);

/// A consumer that ran this long was healthy: its next failure starts a new count.
const CONSUMER_WELL: Duration = Duration::from_secs(30);

/// The failures of one partition's consumers in a row.
#[derive(Debug, Clone, Copy, Default)]
pub struct ConsumerFailures {
    count: u32,
}

impl ConsumerFailures {
    /// Counts the failure of a consumer that had run for `ran`. Returns the pause before the
    /// restart.
    pub fn failed(&mut self, ran: Duration) -> Duration {
        if ran >= CONSUMER_WELL {
            self.count = 0;
        }
        let pause = CONSUMER_PAUSE_FIRST.saturating_mul(1 << self.count.min(u32::BITS - 1));
        self.count = self.count.saturating_add(1);
        pause.min(CONSUMER_PAUSE_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_consumer_backs_off() {
        let mut failures = ConsumerFailures::default();
        let short = Duration::from_secs(29);
        let pauses: Vec<_> = (0..8).map(|_| failures.failed(short).as_millis()).collect();
        assert_eq!(pauses, [200, 400, 800, 1_600, 3_200, 6_400, 10_000, 10_000]);
        (0..100).for_each(|_| assert_eq!(failures.failed(short), CONSUMER_PAUSE_MAX));
        assert_eq!(failures.failed(Duration::from_secs(30)), CONSUMER_PAUSE_FIRST);
    }

    #[test]
    fn who_keeps_progress_back_is_restarted_then_held() {
        let mut kept = KeptBack::default();
        let waits = |kept: &mut KeptBack, at, seconds: u64| {
            (0..seconds).all(|_| kept.pass(Some(at), 1_000) == Patience::Wait)
        };
        assert!(waits(&mut kept, 7, 15));
        assert_eq!(kept.pass(Some(7), 1_000), Patience::Restart);
        assert!(waits(&mut kept, 5, 14), "the new actor begins below");
        assert_eq!(kept.pass(Some(7), 1_000), Patience::Hold);
        assert!(waits(&mut kept, 7, 14));
        assert_eq!(kept.pass(Some(7), 1_000), Patience::Restart);
        assert!(waits(&mut kept, 8, 15), "it has moved");
        kept.anew();
        assert!(waits(&mut kept, 8, 14));
        assert_eq!(kept.pass(None, 1_000), Patience::Wait);
        assert!(waits(&mut kept, 8, 15));
    }

    #[test]
    fn a_hold_is_tried_again_with_growing_pauses() {
        let mut tries = Tries::default();
        let pauses: Vec<_> = (0..40)
            .map(|_| {
                tries.failed(500);
                assert!(!tries.is_due(tries.due_ms - 1) && tries.is_due(tries.due_ms));
                tries.due_ms - 500
            })
            .collect();
        assert_eq!(pauses[..7], [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000]);
        assert_eq!(pauses[39], 60_000);
    }

    #[test]
    fn repeated_failures_at_a_position_give_up() {
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
