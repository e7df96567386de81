//! The fast slice of the simulation.

use std::collections::BTreeSet;

use super::*;

fn setup(seed: u64) -> Setup {
    let kinds = Fault::ALL.iter().copied().collect();
    Setup { seed, kinds, requests: 500, spared: BTreeSet::new(), traced: false }
}

#[test]
fn a_few_hundred_worlds_break_nothing() {
    let simulator = Simulator::new();
    for seed in 0..200 {
        let report = simulator.run(&setup(seed));
        assert_eq!(report.violation, None, "seed {seed}");
    }
}
