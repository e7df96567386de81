//! Worlds of real nodes, in small numbers.

use super::*;

/// Requests of a world.
const REQUESTS: u32 = 500;

fn play(seed: u64, kinds: &Kinds) -> Outcome {
    run(&draw(seed, kinds, REQUESTS), false)
}

fn all_kinds() -> Kinds {
    every_fault().into_keys().collect()
}

/// A number from the environment, for long runs.
fn worlds(default: u64) -> u64 {
    let set = std::env::var("COUPOND_WORLDS").ok().and_then(|text| text.parse().ok());
    set.unwrap_or(default)
}

#[test]
fn without_faults_every_client_is_answered() {
    for seed in 0..10 {
        let outcome = play(seed, &Kinds::new());
        assert_eq!(outcome.violations, [], "seed {seed}");
        assert!(outcome.told[0] > 10, "seed {seed}: {:?}", outcome.told);
    }
}

#[test]
fn no_fault_breaks_what_real_nodes_promise() {
    let kinds = all_kinds();
    for seed in 0..worlds(100) {
        let outcome = play(seed, &kinds);
        assert_eq!(outcome.violations, [], "seed {seed}");
    }
}

#[test]
fn a_seed_takes_one_course() {
    let kinds = all_kinds();
    for seed in 0..20 {
        assert_eq!(play(seed, &kinds), play(seed, &kinds), "seed {seed}");
    }
}

#[test]
fn a_course_is_read_as_it_was_written() {
    let kinds = all_kinds();
    for seed in 0..50 {
        let course = draw(seed, &kinds, REQUESTS);
        assert_eq!(Course::parse(&course.text()).unwrap(), course);
    }
}
