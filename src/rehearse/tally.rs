//! Counts and times what the clients of an open loop see.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::outcomes::{Outcome, Outcomes};

/// Longest time that a histogram tells apart, in microseconds: more than a request can take.
const LONGEST_US: u64 = 120_000_000;

/// Significant digits of the figures of a whole run and of a stage.
const DIGITS: u8 = 3;

/// Significant digits of the figures of one second. A histogram of two takes 20 KiB.
const DIGITS_OF_SECOND: u8 = 2;

/// Times in microseconds.
#[derive(Debug, Clone)]
pub(super) struct Times(Histogram<u32>);

impl Times {
    fn new(digits: u8) -> Self {
        let times = Histogram::new_with_bounds(1, LONGEST_US, digits);
        Self(times.expect("the bounds are constants in range"))
    }

    fn add(&mut self, time: Duration) {
        self.0.saturating_record(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    }

    /// Returns the number of times.
    #[must_use]
    pub(super) fn count(&self) -> u64 {
        self.0.len()
    }

    /// Returns the time in milliseconds that this share of requests did not exceed; None without any.
    #[must_use]
    pub(super) fn quantile_ms(&self, share: f64) -> Option<f64> {
        (self.count() > 0).then(|| self.0.value_at_quantile(share) as f64 / 1_000.0)
    }

    /// Returns the longest time in milliseconds; None without any.
    #[must_use]
    pub(super) fn max_ms(&self) -> Option<f64> {
        (self.count() > 0).then(|| self.0.max() as f64 / 1_000.0)
    }
}

/// One stage.
#[derive(Debug, Clone)]
pub(super) struct StageTally {
    /// Requests that were due in it.
    pub due: u64,
    /// Failures among them.
    pub failed: u64,
    /// From due to decided.
    pub decision: Times,
}

/// The requests that were due in one second.
#[derive(Debug, Clone)]
pub(super) struct SecondTally {
    /// How many.
    pub due: u64,
    /// From due to the response to the `POST`.
    pub response: Times,
}

/// Everything that clients saw.
#[derive(Debug)]
pub(super) struct Tally {
    /// What became of requests.
    pub outcomes: Outcomes,
    /// From due to the response to the `POST`, of those that were not refused.
    pub response: Times,
    /// From due until the client knew what became of it.
    pub decision: Times,
    /// From due to sent: how late the load generator itself was.
    pub late: Times,
    /// By stage.
    pub stages: Vec<StageTally>,
    /// By the second in which requests were due.
    pub seconds: Vec<SecondTally>,
    /// When the first stage began.
    pub started: Option<Instant>,
    /// When the last stage ended.
    pub ended: Option<Instant>,
}

impl Tally {
    /// Returns an empty tally of this many stages.
    #[must_use]
    pub(super) fn new(stages: usize) -> Self {
        let stage = StageTally { due: 0, failed: 0, decision: Times::new(DIGITS) };
        Self {
            outcomes: Outcomes::default(),
            response: Times::new(DIGITS),
            decision: Times::new(DIGITS),
            late: Times::new(DIGITS),
            stages: vec![stage; stages],
            seconds: Vec::new(),
            started: None,
            ended: None,
        }
    }

    /// The first stage begins.
    pub(super) fn start(&mut self, at: Instant) {
        self.started = Some(at);
    }

    /// The last stage has ended.
    pub(super) fn end(&mut self, at: Instant) {
        self.ended = Some(at);
    }

    /// A request is due.
    pub(super) fn due(&mut self, at_s: f64, stage: usize) {
        self.outcomes.requests += 1;
        self.stages[stage].due += 1;
        let second = at_s as usize;
        while self.seconds.len() <= second {
            let response = Times::new(DIGITS_OF_SECOND);
            self.seconds.push(SecondTally { due: 0, response });
        }
        self.seconds[second].due += 1;
    }

    /// A request is sent, some time after it was due.
    pub(super) fn sent(&mut self, late: Duration) {
        self.late.add(late);
    }

    /// A `POST` is answered.
    pub(super) fn responded(&mut self, success: bool, after: Duration, due_s: f64) {
        if success {
            self.response.add(after);
        }
        if let Some(second) = self.seconds.get_mut(due_s as usize) {
            second.response.add(after);
        }
    }

    /// The outcome of a request is known.
    pub(super) fn settled(&mut self, outcome: Outcome, after: Duration, stage: usize) {
        match outcome {
            Outcome::Failed(how) => self.failed(how, stage),
            Outcome::Undecided => self.outcomes.add(outcome),
            _ => {
                self.outcomes.add(outcome);
                self.decision.add(after);
                self.stages[stage].decision.add(after);
            }
        }
    }

    /// A request has failed.
    pub(super) fn failed(&mut self, how: &'static str, stage: usize) {
        self.outcomes.add(Outcome::Failed(how));
        self.stages[stage].failed += 1;
    }

    /// The load ends, and these requests have no answer.
    pub(super) fn unanswered(&mut self, requests: u64) {
        for _ in 0..requests {
            self.outcomes.add(Outcome::Failed("no_answer"));
        }
    }
}
