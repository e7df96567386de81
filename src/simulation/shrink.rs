//! Makes a failure short: the same invariant, broken by as few acts as possible.

use std::collections::BTreeSet;

use super::{
    course::{Course, Timed},
    run,
};

/// Worlds that are played at most.
const TRIES: usize = 1_500;

/// Returns the shortest course found that breaks the same invariant. `progress` hears of each try:
/// how many acts are left.
pub(crate) fn shrink(course: &Course, progress: impl Fn(usize)) -> Course {
    let broken = |course: &Course| {
        let violations = run(course, false).violations;
        violations.first().map(|violation| violation.invariant)
    };
    let invariant = broken(course);
    shrink_by(course, |candidate| invariant.is_some() && broken(candidate) == invariant, progress)
}

/// Leaves out acts for as long as the course is `broken`.
pub(super) fn shrink_by(
    course: &Course,
    broken: impl Fn(&Course) -> bool,
    progress: impl Fn(usize),
) -> Course {
    let mut tries = 0;
    let mut best = course.clone();
    let mut attempt = |best: &mut Course, acts: Vec<Timed>| {
        tries += 1;
        let candidate = Course { setup: best.setup.clone(), acts };
        let is_shorter = tries < TRIES && broken(&candidate);
        if is_shorter {
            *best = candidate;
        }
        progress(best.acts.len());
        is_shorter
    };
    // All acts of a kind first: they take the most away.
    let kinds: BTreeSet<_> = best.acts.iter().map(|timed| timed.act.kind()).collect();
    for kind in kinds {
        let acts = best.acts.iter().filter(|timed| timed.act.kind() != kind).cloned().collect();
        attempt(&mut best, acts);
    }
    // Then ever shorter runs of acts.
    let mut length = best.acts.len().div_ceil(2);
    while length > 0 {
        let mut from = 0;
        while from < best.acts.len() {
            let mut acts = best.acts.clone();
            acts.drain(from..acts.len().min(from + length));
            if !attempt(&mut best, acts) {
                from += length;
            }
        }
        length /= 2;
    }
    best
}
