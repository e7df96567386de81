//! The ranges that skips in force cover, as the audit goes around them.

use std::sync::Arc;

use crate::domain::{
    ids::Offset,
    rows::{Skip, SkipState},
};

/// Ranges in their order, each with its end excluded.
pub(super) type Ranges = Arc<[(Offset, Offset)]>;

/// Returns the ranges of the skips in force.
pub(super) fn ranges(skips: &[Skip]) -> Ranges {
    let in_force = skips.iter().filter(|skip| skip.state == SkipState::InForce);
    let mut ranges: Vec<_> = in_force.map(|skip| (skip.from, skip.to)).collect();
    ranges.sort_unstable();
    ranges.into()
}

/// Returns the first offset from `offset` on that no range covers.
pub(super) fn passed(ranges: &[(Offset, Offset)], offset: Offset) -> Offset {
    let mut at = offset;
    for &(from, to) in ranges {
        if from <= at && at < to {
            at = to;
        }
    }
    at
}

/// Returns the parts of `[from, end)` that no range covers.
pub(super) fn between(
    ranges: &[(Offset, Offset)],
    (from, end): (Offset, Offset),
) -> Vec<(Offset, Offset)> {
    let (mut parts, mut at) = (Vec::new(), from);
    for &(begin, to) in ranges {
        if at < begin.min(end) {
            parts.push((at, begin.min(end)));
        }
        at = at.max(to);
    }
    if at < end {
        parts.push((at, end));
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_lie_between_the_ranges() {
        let ranges = [(10, 20), (20, 25), (40, 50)];
        assert_eq!(between(&ranges, (0, 60)), [(0, 10), (25, 40), (50, 60)]);
        assert_eq!(between(&ranges, (12, 45)), [(25, 40)]);
        assert_eq!(between(&ranges, (0, 5)), [(0, 5)]);
        assert_eq!(between(&ranges, (10, 20)), []);
        assert_eq!(between(&[], (3, 4)), [(3, 4)]);
        assert_eq!((passed(&ranges, 10), passed(&ranges, 9), passed(&ranges, 50)), (25, 9, 50));
    }
}
