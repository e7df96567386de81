//! What became of requests.

use std::collections::BTreeMap;

use serde::Deserialize;

/// What became of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// A coupon.
    Issued,
    /// The coupon that the user already had.
    AlreadyIssued,
    /// A decision not to issue, with its reason.
    Rejected(&'static str),
    /// Refused before the log, with the reason: a certain answer, and no failure.
    Refused(&'static str),
    /// In the log, and not decided while the client waited.
    Undecided,
    /// No answer that says what became of it.
    Failed(&'static str),
}

/// Counts of outcomes. k6 writes the same members.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Outcomes {
    /// Requests that were due.
    pub requests: u64,
    /// Coupons.
    pub issued: u64,
    /// Answered with the coupon that the user already had.
    pub already_issued: u64,
    /// Rejected, by reason.
    pub rejected: BTreeMap<String, u64>,
    /// Refused before the log, by reason.
    #[serde(rename = "refused_at_edge")]
    pub refused: BTreeMap<String, u64>,
    /// In the log, and not decided while the client waited.
    pub undecided: u64,
    /// Without an answer, by what happened.
    pub failed: BTreeMap<String, u64>,
}

impl Outcomes {
    /// Counts one outcome.
    pub(super) fn add(&mut self, outcome: Outcome) {
        let one = |counts: &mut BTreeMap<String, u64>, name: &str| {
            *counts.entry(name.to_owned()).or_default() += 1;
        };
        match outcome {
            Outcome::Issued => self.issued += 1,
            Outcome::AlreadyIssued => self.already_issued += 1,
            Outcome::Rejected(reason) => one(&mut self.rejected, reason),
            Outcome::Refused(reason) => one(&mut self.refused, reason),
            Outcome::Undecided => self.undecided += 1,
            Outcome::Failed(how) => one(&mut self.failed, how),
        }
    }

    /// Returns the decisions that clients know.
    #[must_use]
    pub(super) fn decided(&self) -> u64 {
        self.issued + self.already_issued + self.rejected.values().sum::<u64>()
    }

    /// Returns the requests without an answer that says what became of them.
    #[must_use]
    pub(super) fn failures(&self) -> u64 {
        self.failed.values().sum()
    }

    /// Returns the sum of all outcomes: as many as requests, if every one is counted once.
    #[must_use]
    pub(super) fn sum(&self) -> u64 {
        self.decided() + self.refused.values().sum::<u64>() + self.undecided + self.failures()
    }

    /// Returns `requests = …` in figures, with every reason that occurred.
    #[must_use]
    pub(super) fn equation(&self) -> String {
        let mut parts = vec![
            format!("{} issued", self.issued),
            format!("{} already issued", self.already_issued),
        ];
        let groups =
            [("rejected", &self.rejected), ("refused", &self.refused), ("failed", &self.failed)];
        for (group, counts) in groups {
            let counts = counts.iter().filter(|(_, count)| **count > 0);
            parts.extend(
                counts.map(|(name, count)| format!("{count} {group}: {}", name.replace('_', " "))),
            );
        }
        if self.undecided > 0 {
            parts.push(format!("{} undecided", self.undecided));
        }
        let sign = if self.sum() == self.requests { "=" } else { "≠" };
        format!("{} requests {sign} {}", self.requests, parts.join(" + "))
    }
}
