//! Which faults strike when: drawn from a seed, and kept as lines of JSON.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::kinds::Kind;
use crate::random::Random;

/// Times that each kind strikes at least, unless the number of cycles is given.
pub(crate) const TIMES_EACH: usize = 3;

/// Longest pause before a fault.
const PAUSE_MS_MAX: u64 = 3_000;

/// Longest time from a takeover until the next fault, where it is to come soon.
pub(crate) const SOON_MS: u64 = 2_000;

/// Faults of a cycle.
pub(crate) const STRIKES: usize = 3;

/// A fault at a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Strike {
    /// What happens.
    pub(crate) kind: Kind,
    /// To which node, from 0. Also chooses the engine's node, where it happens to one.
    pub(crate) node: usize,
    /// Pause before it, after all campaigns have decided again.
    pub(crate) after_ms: u64,
    /// How long it lasts.
    pub(crate) lasts_ms: u64,
    /// Whether the fault before it still lasts.
    pub(crate) overlaps: bool,
}

/// A start of all nodes, faults under load, and a judgement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Cycle {
    /// Users, keys and nodes of the load are drawn from it.
    pub(crate) seed: u64,
    /// The faults, in order.
    pub(crate) strikes: Vec<Strike>,
}

/// Draws cycles in which each of `kinds` strikes [`TIMES_EACH`] times; or `cycles`, if given.
pub(crate) fn draw(seed: u64, kinds: &[Kind], nodes: usize, cycles: Option<usize>) -> Vec<Cycle> {
    let mut random = Random(seed);
    let mut deck: Vec<Kind> = Vec::new();
    let mut struck: BTreeMap<Kind, usize> = BTreeMap::new();
    let mut drawn = Vec::new();
    let movers: Vec<_> = kinds.iter().copied().filter(|kind| kind.moves_partitions()).collect();
    let is_done = |drawn: &[Cycle], struck: &BTreeMap<Kind, usize>| match cycles {
        Some(cycles) => drawn.len() >= cycles,
        None => kinds.iter().all(|kind| struck.get(kind).is_some_and(|it| *it >= TIMES_EACH)),
    };
    while !kinds.is_empty() && !is_done(&drawn, &struck) {
        let mut chosen = Vec::new();
        // A node loses its partitions, and the next fault comes while another takes over.
        if let Some(first) = movers.get(random.index(movers.len())) {
            chosen.push(*first);
        }
        while chosen.len() < STRIKES {
            if deck.is_empty() {
                deck = kinds.to_vec();
            }
            chosen.push(deck.swap_remove(random.index(deck.len())));
        }
        chosen.iter().for_each(|kind| *struck.entry(*kind).or_default() += 1);
        let strikes = chosen.iter().enumerate().map(|(at, kind)| {
            let overlaps = at == 1 && nodes > 1 && kinds_overlap(chosen[0], *kind);
            let most = if at == 1 { SOON_MS } else { PAUSE_MS_MAX };
            Strike {
                kind: *kind,
                node: random.index(nodes),
                after_ms: random.below(most),
                lasts_ms: random.between(*kind.lasts_ms().start(), *kind.lasts_ms().end()),
                overlaps,
            }
        });
        let strikes = strikes.collect();
        drawn.push(Cycle { seed: random.next(), strikes });
    }
    drawn
}

/// Returns whether a second fault may strike while the first lasts. After it, a node must be left that
/// decides.
fn kinds_overlap(first: Kind, second: Kind) -> bool {
    first.moves_partitions()
        && matches!(
            second,
            Kind::ActorPanic
                | Kind::ConsumerPanic
                | Kind::KafkaKilled
                | Kind::KafkaPaused
                | Kind::KafkaRestarted
                | Kind::DatabaseKilled
                | Kind::DatabasePaused
                | Kind::DatabaseRestarted
                | Kind::NoQuorum
                | Kind::TopicChanged
                | Kind::Suspend
        )
}

/// Writes cycles, one a line.
pub(crate) fn text(cycles: &[Cycle]) -> String {
    let line = |cycle| serde_json::to_string(cycle).map(|line| line + "\n");
    cycles.iter().filter_map(|cycle| line(cycle).ok()).collect()
}

/// Reads cycles.
///
/// # Errors
/// The number of the first line that is no cycle, and why.
pub(crate) fn parse(text: &str) -> Result<Vec<Cycle>, String> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let cycle = |(at, line)| {
        serde_json::from_str(line).map_err(|error| format!("line {}: {error}", at + 1))
    };
    lines.map(cycle).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_strikes_three_times_at_least() {
        for seed in 0..50 {
            let cycles = draw(seed, Kind::ALL, 3, None);
            for kind in Kind::ALL {
                let strikes = cycles.iter().flat_map(|cycle| &cycle.strikes);
                let times = strikes.filter(|strike| strike.kind == *kind).count();
                assert!(times >= TIMES_EACH, "seed {seed}: {kind} strikes {times} times");
            }
        }
    }

    #[test]
    fn the_second_fault_comes_soon_after_a_takeover() {
        for cycle in draw(7, Kind::ALL, 3, Some(200)) {
            assert_eq!(cycle.strikes.len(), STRIKES);
            assert!(cycle.strikes[0].kind.moves_partitions());
            assert!(cycle.strikes[1].after_ms < SOON_MS);
            assert!(cycle.strikes.iter().all(|strike| strike.node < 3));
        }
    }

    #[test]
    fn a_seed_gives_the_same_faults_again() {
        let drawn = draw(11, Kind::ALL, 3, Some(20));
        assert_eq!(drawn, draw(11, Kind::ALL, 3, Some(20)));
        assert_ne!(drawn, draw(12, Kind::ALL, 3, Some(20)));
        assert_eq!(parse(&text(&drawn)).unwrap(), drawn);
    }

    #[test]
    fn a_line_that_is_no_cycle_is_named() {
        let refused = parse("\n{\"seed\":1,\"strikes\":[{\"kind\":\"flood\"}]}").unwrap_err();
        assert!(refused.starts_with("line 2: unknown variant `flood`"), "{refused}");
        assert_eq!(draw(1, &[], 3, None), []);
    }

    #[test]
    fn nothing_strikes_while_the_only_node_is_away() {
        let strikes =
            |nodes| draw(3, Kind::ALL, nodes, Some(100)).into_iter().flat_map(|it| it.strikes);
        assert!(strikes(3).any(|strike| strike.overlaps));
        assert!(!strikes(1).any(|strike| strike.overlaps));
    }
}
