//! Makes a failure short: the same invariant, broken by as little as possible.

use std::collections::BTreeSet;

use super::{
    run::{Report, Simulator},
    world::Setup,
};

/// Worlds that are tried at most: at some milliseconds each, half a minute.
const TRIES: usize = 4_000;

/// Lines of the shrunk course that are shown: what led there is at its end.
const LINES: usize = 60;

/// The shortest setup found that breaks the same invariant, and what happened in it.
#[must_use]
pub(crate) fn shrink(simulator: &Simulator, setup: &Setup, report: &Report) -> (Setup, Report) {
    let invariant = report.violation.as_ref().map(|violation| violation.invariant);
    // What is left out changes the course, and more may strike in the new one.
    let mut least = report.firings;
    let mut best = Setup { traced: false, ..setup.clone() };
    let mut tries = 0;
    let mut attempt = |best: &mut Setup, candidate: Setup| {
        tries += 1;
        if tries >= TRIES {
            return false;
        }
        let report = simulator.run(&candidate);
        let same = report.violation.as_ref().map(|violation| violation.invariant) == invariant;
        let better = same && report.firings <= least;
        if better {
            (*best, least) = (candidate, report.firings);
        }
        better
    };
    // Whole kinds first: they take the most away.
    for kind in &setup.kinds {
        let mut candidate = best.clone();
        candidate.kinds.remove(kind);
        attempt(&mut best, candidate);
    }
    // Then single firings, in ever smaller runs.
    let firings = simulator.run(&best).firings;
    let mut length = firings.max(1);
    while length > 0 {
        let mut from = 1;
        while from <= firings {
            let spared: BTreeSet<u32> = (from..from + length).collect();
            let mut candidate = best.clone();
            candidate.spared.extend(spared);
            if candidate.spared != best.spared {
                attempt(&mut best, candidate);
            }
            from += length;
        }
        length /= 2;
    }
    let mut requests = best.requests;
    while requests > 1 {
        requests /= 2;
        let candidate = Setup { requests, ..best.clone() };
        if !attempt(&mut best, candidate) {
            break;
        }
    }
    let report = simulator.run(&Setup { traced: true, ..best.clone() });
    (best, report)
}

/// The part of a course that tells how it broke: every fault, and the end.
#[must_use]
pub(crate) fn essence(report: &Report) -> Vec<&str> {
    let tail = report.trace.len().saturating_sub(LINES);
    let tells = |line: &str| {
        line.contains("!!")
            || line.contains("dies")
            || line.contains("owns")
            || line.contains("heals")
    };
    let noise = |line: &str| line.contains("tick of");
    let chosen = report
        .trace
        .iter()
        .enumerate()
        .filter(|(at, line)| (*at >= tail && !noise(line)) || tells(line));
    chosen.map(|(_, line)| line.as_str()).collect()
}
