//! Worlds of real nodes, in small numbers.

use std::sync::Once;

use super::*;

/// Runs a world. Panics that the story asks for are not printed.
fn quietly(seed: u64, faults: bool) -> Outcome {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        let print = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if panic.payload().downcast_ref::<&str>() != Some(&"crashed on request") {
                print(panic);
            }
        }));
    });
    run(seed, faults)
}

#[test]
fn without_faults_every_client_is_answered() {
    for seed in 0..10 {
        let outcome = quietly(seed, false);
        assert_eq!(outcome.violations, Vec::<String>::new(), "seed {seed}");
        assert!(outcome.told > 500, "seed {seed}: {}", outcome.told);
    }
}

#[test]
fn no_fault_breaks_what_real_nodes_promise() {
    let seeds = std::env::var("COUPOND_WORLDS").ok().and_then(|text| text.parse().ok());
    for seed in 0..seeds.unwrap_or(100) {
        let outcome = quietly(seed, true);
        assert_eq!(outcome.violations, Vec::<String>::new(), "seed {seed}");
    }
}

#[test]
fn a_seed_takes_one_course() {
    for seed in 0..20 {
        assert_eq!(quietly(seed, true), quietly(seed, true), "seed {seed}");
    }
}
