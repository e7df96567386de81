//! Skips of a partition: which positions an owner passes undecided, and when it acts on a skip.

use std::collections::{BTreeMap, BTreeSet};

use super::assignment;
use crate::{
    domain::{
        halt::Halt,
        ids::Offset,
        rows::{Skip, SkipState},
    },
    wire::LogRecord,
};

/// How long an owner waits between seeing a skip made and putting it in force, in milliseconds. Owners
/// look once a second, so every other owner that runs has seen the skip by then, and decides nothing
/// in its range either.
pub const FORCE_AFTER_MS: u64 = 15_000;

/// Returns `position`, or the end of the skips in force that cover it.
#[must_use]
pub fn passed(skips: &[Skip], position: Offset) -> Offset {
    Passing::new(skips).after(position)
}

/// Returns the skip that an owner at `next` must wait for: it is neither in force nor void.
#[must_use]
pub fn awaited(skips: &[Skip], next: Offset) -> Option<&Skip> {
    // Above the start of a skip something is decided, so it becomes void.
    skips.iter().find(|skip| skip.state == SkipState::Made && skip.from >= next)
}

/// The ranges that readers of a partition pass.
#[derive(Debug, Clone, Default)]
pub struct Passing {
    /// In their order.
    ranges: Vec<(Offset, Offset)>,
}

impl Passing {
    /// Returns the ranges of the skips in force.
    #[must_use]
    pub fn new(skips: &[Skip]) -> Self {
        let in_force = skips.iter().filter(|skip| skip.state == SkipState::InForce);
        let mut ranges: Vec<_> = in_force.map(|skip| (skip.from, skip.to)).collect();
        ranges.sort_unstable();
        Self { ranges }
    }

    /// Returns the next position to read when the next one would be `position`.
    #[must_use]
    pub fn after(&self, position: Offset) -> Offset {
        // One range may begin where another ends.
        self.ranges.iter().fold(
            position,
            |at, &(from, to)| {
                if (from..to).contains(&at) { to } else { at }
            },
        )
    }

    /// Removes the records at and above the first range above `position`. Returns the start of that
    /// range if there were any: every record below it was read.
    pub fn cut(&self, position: Offset, records: &mut Vec<LogRecord>) -> Option<Offset> {
        let &(from, _) = self.ranges.iter().find(|(from, _)| *from >= position)?;
        let kept = records.partition_point(|record| record.offset < from);
        let is_cut = kept < records.len();
        records.truncate(kept);
        is_cut.then_some(from)
    }
}

/// What an owner does after it has looked at the skips.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Reaction {
    /// Why the partition decides nothing.
    pub halt: Option<Halt>,
    /// A skip that is made, and the state that it gets.
    pub settle: Option<(Skip, SkipState)>,
    /// A skip that has come in force: the partition is opened again, to pass its range.
    pub reopens: Option<Skip>,
}

/// The skips as one owner has seen them, and how far it has read.
#[derive(Debug, Default)]
pub struct SkipWatch {
    /// When each skip that is made was first seen, by the start of its range.
    seen_ms: BTreeMap<Offset, u64>,
    /// Starts of the ranges that this owner passes. It has decided nothing in them.
    passing: BTreeSet<Offset>,
    read_to: Offset,
    /// The skips of the latest look.
    known: Vec<Skip>,
}

impl SkipWatch {
    /// Returns whether these skips are older than those of the latest look.
    #[must_use]
    pub fn is_older(&self, skips: &[Skip]) -> bool {
        let is_there = |known: &Skip| {
            let mut same = skips.iter().filter(|skip| skip.from == known.from);
            same.any(|skip| skip.state == known.state || known.state == SkipState::Made)
        };
        !self.known.iter().all(is_there)
    }

    /// Notes that records below `position` were read, or were passed by a skip in force.
    pub fn read_to(&mut self, position: Offset) {
        self.read_to = self.read_to.max(position);
    }

    /// Looks at the skips of a partition whose durable progress is `next`. `now_ms` is a monotonic
    /// clock.
    pub fn look(&mut self, now_ms: u64, next: Offset, skips: &[Skip]) -> Reaction {
        let mut reaction = Reaction::default();
        if !self.is_older(skips) {
            self.known = skips.to_vec();
        }
        for skip in skips {
            // What was read counts as decided: an owner that may have decided must not pass.
            let is_decided = self.read_to > skip.from && !self.passing.contains(&skip.from);
            match skip.state {
                SkipState::Void => {}
                SkipState::InForce if is_decided => {
                    reaction.halt = Some(assignment::skip_decided(skip));
                    return reaction;
                }
                SkipState::InForce => {
                    if self.passing.insert(skip.from) {
                        reaction.reopens = Some(skip.clone());
                    }
                }
                SkipState::Made if is_decided || next > skip.from => {
                    // Another owner may put it in force first: nothing is decided until it is void.
                    reaction.halt = Some(assignment::skip_made(skip));
                    reaction.settle = Some((skip.clone(), SkipState::Void));
                }
                SkipState::Made => {
                    let seen_ms = *self.seen_ms.entry(skip.from).or_insert(now_ms);
                    reaction.halt = Some(assignment::skip_made(skip));
                    if now_ms.saturating_sub(seen_ms) >= FORCE_AFTER_MS {
                        reaction.settle = Some((skip.clone(), SkipState::InForce));
                    }
                }
            }
        }
        reaction
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{halt::HaltReason, ids::Timestamp};

    fn skip(from: Offset, to: Offset, state: SkipState) -> Skip {
        Skip { partition: 0, from, to, reason: "lost".to_owned(), by: "ada".to_owned(), state }
    }

    fn reason(reaction: &Reaction) -> Option<HaltReason> {
        reaction.halt.as_ref().map(|halt| halt.reason)
    }

    #[test]
    fn only_skips_in_force_are_passed() {
        let skips = [
            skip(10, 20, SkipState::InForce),
            skip(20, 25, SkipState::InForce),
            skip(30, 40, SkipState::Made),
            skip(50, 60, SkipState::Void),
        ];
        for (position, next) in [(9, 9), (10, 25), (24, 25), (25, 25), (35, 35), (50, 50)] {
            assert_eq!(passed(&skips, position), next, "from {position}");
        }
        assert_eq!(awaited(&skips, 30).map(|skip| skip.from), Some(30));
        assert_eq!(awaited(&skips, 31), None, "something above its start is decided");
    }

    #[test]
    fn records_of_a_range_are_cut_off() {
        let record = |offset| {
            let (key, value) = (Vec::new(), Vec::new());
            LogRecord { offset, time: Timestamp(0), key, value, mac: None }
        };
        let passing = Passing::new(&[skip(10, 20, SkipState::InForce)]);
        let cut = |position, offsets: &[Offset]| {
            let mut records: Vec<_> = offsets.iter().copied().map(record).collect();
            let from = passing.cut(position, &mut records);
            (from, records.into_iter().map(|it| it.offset).collect::<Vec<_>>())
        };
        assert_eq!(cut(7, &[7, 9, 10, 11, 20]), (Some(10), vec![7, 9]));
        assert_eq!(cut(7, &[20, 21]), (Some(10), vec![]), "the range has no record");
        assert_eq!(cut(7, &[7, 8]), (None, vec![7, 8]));
        assert_eq!(cut(20, &[20, 21]), (None, vec![20, 21]), "the range lies below");
    }

    #[test]
    fn a_skip_comes_in_force_15_s_after_it_was_seen() {
        let (mut watch, skips) = (SkipWatch::default(), [skip(10, 20, SkipState::Made)]);
        watch.read_to(10);
        for now_ms in [5_000, 6_000, 5_000 + FORCE_AFTER_MS - 1] {
            let reaction = watch.look(now_ms, 10, &skips);
            assert_eq!(reason(&reaction), Some(HaltReason::SkipMade));
            assert_eq!(reaction.settle, None, "{now_ms}");
        }
        let reaction = watch.look(5_000 + FORCE_AFTER_MS, 10, &skips);
        assert_eq!(reaction.settle, Some((skips[0].clone(), SkipState::InForce)));
        let skips = [skip(10, 20, SkipState::InForce)];
        let reaction = watch.look(21_000, 10, &skips);
        let reopens = Some(skips[0].clone());
        assert_eq!(reaction, Reaction { reopens, ..Reaction::default() });
        watch.read_to(30);
        assert_eq!(watch.look(22_000, 30, &skips), Reaction::default(), "it passed the range");
    }

    #[test]
    fn a_skip_of_decided_positions_becomes_void() {
        let skips = [skip(10, 20, SkipState::Made)];
        let void = Some((skips[0].clone(), SkipState::Void));
        let mut reader = SkipWatch::default();
        reader.read_to(11);
        let reaction = reader.look(0, 10, &skips);
        assert_eq!(reason(&reaction), Some(HaltReason::SkipMade), "nothing is decided until then");
        assert_eq!(reaction.settle, void, "it was read");
        let reaction = SkipWatch::default().look(0, 11, &skips);
        assert_eq!(reaction.settle, void, "progress has passed it");
    }

    #[test]
    fn an_owner_that_decided_under_a_skip_in_force_halts() {
        let mut watch = SkipWatch::default();
        watch.read_to(11);
        let skips = [skip(10, 20, SkipState::InForce)];
        for _ in 0..2 {
            let reaction = watch.look(0, 10, &skips);
            assert_eq!(reason(&reaction), Some(HaltReason::SkipDecided), "it stays halted");
        }
        let reaction = SkipWatch::default().look(0, 30, &skips);
        assert_eq!(reaction.halt, None, "another owner has passed it");
    }
}
