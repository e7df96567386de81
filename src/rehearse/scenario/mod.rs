//! Scenarios: what a rehearsal does, and what it has to reach.

mod read;
mod schedule;
#[cfg(test)]
mod tests;

use std::{path::Path, time::Duration};

pub use self::read::ScenarioError;
pub(crate) use self::schedule::Schedule;
use crate::report::{Bound, Target, Unit};

/// Declares the kinds of scenarios.
macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident: $name:literal;)*) => {
        /// What kind of load a scenario is.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Kind {
            $($(#[$doc])* $kind,)*
        }

        impl Kind {
            /// Every kind.
            pub const ALL: [Self; [$($name),*].len()] = [$(Self::$kind,)*];

            /// Returns the name as scenario files spell it.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$kind => $name,)* }
            }
        }
    };
}

kinds! {
    /// A closed loop by k6: virtual users who send one request a second and wait for its decision.
    Peak: "peak";
    /// Requests arrive at a rate, no matter what the answers do.
    Open: "open";
    /// An open loop around the moment at which the campaign opens.
    Spike: "spike";
    /// An open loop of few users who ask again and again, with several keys each.
    Bots: "bots";
    /// An open loop beside clients that send and read slowly.
    SlowClients: "slow-clients";
    /// An open loop over many campaigns at once.
    ManyCampaigns: "many-campaigns";
}

/// A part of a scenario's time.
#[derive(Debug, Clone, PartialEq)]
pub struct Stage {
    /// How long it takes, in seconds; more than 0.
    pub seconds: f64,
    /// Requests a second at its start; `peak`: virtual users.
    pub from: f64,
    /// Requests a second at its end, reached evenly; `peak`: virtual users.
    pub to: f64,
}

/// Declares what can have a target: name in scenario files, side, unit, and name for people.
macro_rules! goals {
    ($($(#[$doc:meta])* $goal:ident: $name:literal, $bound:ident, $unit:ident;)*) => {
        /// A figure that can have a target.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Goal {
            $($(#[$doc])* $goal,)*
        }

        impl Goal {
            /// Every figure.
            pub const ALL: [Self; [$($name),*].len()] = [$(Self::$goal,)*];

            /// Returns the name as scenario files spell it.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$goal => $name,)* }
            }

            /// Returns the target of a value.
            #[must_use]
            pub fn target(self, value: f64) -> Target {
                match self {
                    $(Self::$goal => Target { bound: Bound::$bound, value, unit: Unit::$unit },)*
                }
            }
        }
    };
}

goals! {
    /// Requests that were sent.
    Requests: "requests", AtLeast, Count;
    /// Requests a second, on average.
    Rate: "rate", AtLeast, PerSecond;
    /// 90th percentile of the response to a `POST`.
    P90: "p90_ms", AtMost, Milliseconds;
    /// 95th percentile of it.
    P95: "p95_ms", AtMost, Milliseconds;
    /// 99th percentile of it.
    P99: "p99_ms", AtMost, Milliseconds;
    /// The slowest one.
    Max: "max_ms", AtMost, Milliseconds;
    /// Requests without an answer that says what happened.
    Failed: "failed", AtMost, Count;
    /// Decisions a second, on average.
    Decisions: "decisions_per_second", AtLeast, PerSecond;
    /// Records that wait for a decision when the load ends.
    LagAtEnd: "lag_at_end", AtMost, Count;
    /// Seconds from the end of the load until no record waits.
    LagGone: "lag_gone_s", AtMost, Seconds;
    /// 99th percentile of the time until the client knows the decision.
    DecisionP99: "decision_p99_ms", AtMost, Milliseconds;
}

/// A scenario.
#[derive(Debug, Clone, PartialEq)]
pub struct Scenario {
    /// Name of its file, without the ending.
    pub name: String,
    /// A short title.
    pub title: String,
    /// What it is about, in sentences.
    pub about: String,
    /// The kind of load.
    pub kind: Kind,
    /// Coupons of each campaign.
    pub quota: u32,
    /// Coupons that a user may hold of each campaign.
    pub per_user_limit: u32,
    /// Campaigns that the requests are spread over.
    pub campaigns: u32,
    /// Users that requests are drawn from; None: each request is from a user of its own.
    pub users: Option<u64>,
    /// Idempotency keys that each user has; 0: requests carry none.
    pub keys_per_user: u64,
    /// Seconds from the start until the campaigns open; None: they are open before.
    pub opens_after: Option<Duration>,
    /// Clients that send their requests slowly, byte by byte, beside the load.
    pub slow_clients: u32,
    /// Most connections to all nodes together.
    pub connections: u32,
    /// Its parts, one after another; at least one.
    pub stages: Vec<Stage>,
    /// What it has to reach.
    pub targets: Vec<(Goal, f64)>,
}

impl Scenario {
    /// Returns an open loop of these stages on one campaign of one coupon, without targets.
    #[must_use]
    pub fn open(name: &str, stages: Vec<Stage>) -> Self {
        Self {
            name: name.to_owned(),
            title: String::new(),
            about: String::new(),
            kind: Kind::Open,
            quota: 1,
            per_user_limit: 1,
            campaigns: 1,
            users: None,
            keys_per_user: 0,
            opens_after: None,
            slow_clients: 0,
            connections: 1,
            stages,
            targets: Vec::new(),
        }
    }

    /// Reads the file of a scenario.
    ///
    /// # Errors
    /// Every problem of the file, by line.
    pub fn read(path: &Path) -> Result<Self, ScenarioError> {
        read::file(path)
    }

    /// Returns the same scenario in a fraction of the time. Targets that count requests shrink too.
    #[must_use]
    pub fn shrunk(mut self, times: f64) -> Self {
        for stage in &mut self.stages {
            stage.seconds /= times;
        }
        self.opens_after = self.opens_after.map(|after| after.div_f64(times));
        for (goal, value) in &mut self.targets {
            if *goal == Goal::Requests {
                *value = (*value / times).floor();
            }
        }
        self
    }

    /// Returns the time that all stages take.
    #[must_use]
    pub fn duration(&self) -> Duration {
        Duration::from_secs_f64(self.stages.iter().map(|stage| stage.seconds).sum())
    }

    /// Returns the target of a figure, if it has one.
    #[must_use]
    pub fn target(&self, goal: Goal) -> Option<Target> {
        let (_, value) = self.targets.iter().find(|(its, _)| *its == goal)?;
        Some(goal.target(*value))
    }
}
