//! The invariants, with the ids that asserts, tests, the audit, alerts and the README share.

use std::fmt;

/// An invariant of the system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Invariant {
    /// A campaign never issues more coupons than the quota in effect at each coupon's position.
    Quota,
    /// At each coupon's position, its user holds at most the limit then in effect.
    PerUserLimit,
    /// A final answer never changes, and "issued" is durable before it is sent.
    FinalAnswer,
    /// Every request answered 2xx gets exactly one decision.
    OneDecision,
    /// A request is issued if and only if it is eligible at its own position and a seat remains.
    Eligibility,
    /// remaining = quota − issued ≥ 0 in every view, with every record below the view's position.
    Remaining,
    /// No request answered 2xx is lost.
    NothingLost,
    /// No two coupons have the same code.
    UniqueCodes,
    /// Memory, queues, retries and connections are bounded by named limits.
    Bounded,
    /// After any single fault, the system answers again by itself within its stated bound.
    Recovery,
    /// Administration needs the admin token, and no caller gets a coupon as another user.
    Rights,
    /// If log and store contradict each other, the campaign or partition stops and reports it.
    StopRatherThanLie,
}

impl Invariant {
    /// Every invariant, in the order of their ids.
    pub const ALL: [Self; 12] = [
        Self::Quota,
        Self::PerUserLimit,
        Self::FinalAnswer,
        Self::OneDecision,
        Self::Eligibility,
        Self::Remaining,
        Self::NothingLost,
        Self::UniqueCodes,
        Self::Bounded,
        Self::Recovery,
        Self::Rights,
        Self::StopRatherThanLie,
    ];

    /// Those that a running node can see broken. Of the others, the audit judges INV-4, INV-7 and INV-8,
    /// and alerts on symptoms tell of INV-10.
    pub const COUNTED: [Self; 7] = [
        Self::Quota,
        Self::PerUserLimit,
        Self::FinalAnswer,
        Self::Eligibility,
        Self::Remaining,
        Self::Bounded,
        Self::StopRatherThanLie,
    ];

    /// Returns the id, as documents and metrics spell it.
    #[must_use]
    pub fn id(self) -> &'static str {
        match self {
            Self::Quota => "INV-1",
            Self::PerUserLimit => "INV-2",
            Self::FinalAnswer => "INV-3",
            Self::OneDecision => "INV-4",
            Self::Eligibility => "INV-5",
            Self::Remaining => "INV-6",
            Self::NothingLost => "INV-7",
            Self::UniqueCodes => "INV-8",
            Self::Bounded => "INV-9",
            Self::Recovery => "INV-10",
            Self::Rights => "INV-11",
            Self::StopRatherThanLie => "INV-12",
        }
    }
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id())
    }
}

/// Panics with the invariant's id when `condition` does not hold, in release builds too. A
/// panicked actor is rebuilt from the log; a wrong coupon cannot be recalled.
#[macro_export]
macro_rules! check_invariant {
    ($invariant:ident, $condition:expr, $($detail:tt)+) => {
        assert!(
            $condition,
            "{} broken: {}",
            $crate::domain::invariant::Invariant::$invariant,
            format_args!($($detail)+)
        )
    };
}
