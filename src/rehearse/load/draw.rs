//! Draws who asks for what.

use super::super::scenario::Scenario;
use crate::random::Random;

/// One request to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asked {
    /// Index of the campaign.
    pub(super) campaign: usize,
    /// The user.
    pub(super) user: String,
    /// The idempotency key, if it carries one.
    pub(super) key: Option<String>,
}

/// Draws requests from a seed.
#[derive(Debug)]
pub(super) struct Draw {
    random: Random,
    run: String,
    users: Option<u64>,
    keys_per_user: u64,
    campaigns: usize,
    next: u64,
}

impl Draw {
    pub(super) fn new(scenario: &Scenario, run: String, campaigns: usize, seed: u64) -> Self {
        let (users, keys_per_user) = (scenario.users, scenario.keys_per_user);
        Self { random: Random(seed), run, users, keys_per_user, campaigns, next: 0 }
    }

    pub(super) fn next(&mut self) -> Asked {
        self.next += 1;
        let user = match self.users {
            Some(users) => format!("user-{}", self.random.below(users) + 1),
            None => format!("{}-{}", self.run, self.next),
        };
        let key = (self.keys_per_user > 0)
            .then(|| format!("{user}-{}", self.random.below(self.keys_per_user)));
        Asked { campaign: self.random.index(self.campaigns), user, key }
    }
}
