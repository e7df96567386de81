//! Which messages of a partition count: those of the highest generation, each once.

use std::collections::BTreeMap;

use super::Moment;
use crate::{domain::ids::ProcessName, wire::feed_message::Sender};

/// Owners of one generation that are remembered. Two nodes that take a partition over at the same
/// moment may claim the same generation; more than a few never do.
pub(crate) const OWNERS_MAX: usize = 8;

/// Why a message has no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ignored {
    /// Its generation is lower than one that was heard.
    Older,
    /// Its number is not above the last one of its owner.
    Repeated,
}

impl Ignored {
    /// Returns the metric label.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Older => "older",
            Self::Repeated => "repeated",
        }
    }
}

/// The owners of a partition that were heard in its highest generation.
#[derive(Debug, Default)]
pub(super) struct Owners {
    generation: u64,
    /// The number of the last message of each, and when it came.
    heard: BTreeMap<ProcessName, (u64, Moment)>,
}

impl Owners {
    /// Takes a message into account. Returns whether messages of its owner were lost before it.
    pub(super) fn hear(&mut self, now: Moment, sender: &Sender) -> Result<bool, Ignored> {
        let Sender { generation, owner, number } = sender;
        let is_first = self.generation == 0;
        if *generation < self.generation {
            return Err(Ignored::Older);
        }
        if *generation > self.generation {
            self.generation = *generation;
            self.heard.clear();
        }
        let last = self.heard.get(owner).map(|(number, _)| *number);
        if last.is_some_and(|last| *number <= last) {
            return Err(Ignored::Repeated);
        }
        if last.is_none() && self.heard.len() >= OWNERS_MAX {
            let silent = self.heard.iter().min_by_key(|(_, (_, at))| *at);
            if let Some(silent) = silent.map(|(owner, _)| owner.clone()) {
                self.heard.remove(&silent);
            }
        }
        self.heard.insert(owner.clone(), (*number, now));
        // Numbers begin at 1. The one who follows from now on has lost nothing yet.
        Ok(!is_first && *number > last.unwrap_or(0) + 1)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn sender(generation: u64, owner: u64, number: u64) -> Sender {
        Sender { generation, owner: ProcessName::of(owner), number }
    }

    fn hear(
        owners: &mut Owners,
        generation: u64,
        owner: u64,
        number: u64,
    ) -> Result<bool, Ignored> {
        owners.hear(Duration::ZERO, &sender(generation, owner, number))
    }

    #[test]
    fn a_message_counts_once() {
        let mut owners = Owners::default();
        assert_eq!(hear(&mut owners, 3, 1, 7), Ok(false), "what came before is not followed");
        assert_eq!(hear(&mut owners, 3, 1, 8), Ok(false));
        for number in [8, 7, 1] {
            assert_eq!(hear(&mut owners, 3, 1, number), Err(Ignored::Repeated));
        }
        assert_eq!(hear(&mut owners, 3, 1, 10), Ok(true), "9 is lost");
        assert_eq!(hear(&mut owners, 3, 1, 9), Err(Ignored::Repeated), "overtaken");
    }

    #[test]
    fn a_new_generation_ends_the_one_before() {
        let mut owners = Owners::default();
        hear(&mut owners, 3, 1, 7).unwrap();
        assert_eq!(hear(&mut owners, 4, 2, 1), Ok(false));
        assert_eq!(hear(&mut owners, 3, 1, 8), Err(Ignored::Older));
        // The process owns the partition again. What it said meanwhile was not heard.
        assert_eq!(hear(&mut owners, 5, 1, 9), Ok(true));
        assert_eq!(hear(&mut owners, 4, 2, 2), Err(Ignored::Older));
    }

    #[test]
    fn two_owners_of_one_generation_are_heard() {
        let mut owners = Owners::default();
        assert_eq!(hear(&mut owners, 3, 1, 1), Ok(false));
        assert_eq!(hear(&mut owners, 3, 2, 1), Ok(false));
        assert_eq!(hear(&mut owners, 3, 1, 2), Ok(false));
        assert_eq!(hear(&mut owners, 3, 2, 3), Ok(true));
        assert_eq!(hear(&mut owners, 3, 1, 2), Err(Ignored::Repeated));
    }

    #[test]
    fn the_owner_that_is_silent_longest_is_forgotten() {
        let mut owners = Owners::default();
        for owner in 0..=OWNERS_MAX as u64 {
            let now = Duration::from_secs(owner);
            assert_eq!(owners.hear(now, &sender(1, owner, 1)), Ok(false));
            assert!(owners.heard.len() <= OWNERS_MAX);
        }
        assert_eq!(hear(&mut owners, 1, 1, 1), Err(Ignored::Repeated));
        assert_eq!(hear(&mut owners, 1, 0, 1), Ok(false), "forgotten");
    }
}
