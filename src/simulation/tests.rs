//! The fast slice of the simulation: a thousand worlds, each judged.

use std::collections::BTreeSet;

use super::*;

fn setup(seed: u64) -> Setup {
    let kinds = Fault::ALL.iter().copied().collect();
    Setup { seed, kinds, requests: 500, spared: BTreeSet::new(), traced: false }
}

#[test]
fn no_fault_breaks_an_invariant() {
    let simulator = Simulator::new();
    let (mut fired, mut issued) = ([0; Fault::COUNT], 0);
    for seed in 0..1_000 {
        let report = simulator.run(&setup(seed));
        assert_eq!(report.violation, None, "coupond simulate --seed {seed} --seeds 1");
        issued += report.decisions[0];
        fired.iter_mut().zip(report.fired).for_each(|(sum, fired)| *sum += fired);
    }
    let silent: Vec<_> = Fault::ALL
        .iter()
        .filter(|fault| fired[**fault as usize] == 0)
        .map(|it| it.name())
        .collect();
    assert!(silent.is_empty(), "these never struck: {silent:?}");
    assert!(issued > 50_000, "only {issued} coupons were issued");
}

#[test]
fn a_seed_takes_the_same_course() {
    let simulator = Simulator::new();
    let courses: BTreeSet<u64> = (0..40)
        .map(|seed| {
            let hash = simulator.run(&setup(seed)).hash;
            assert_eq!(Simulator::new().run(&setup(seed)).hash, hash, "seed {seed}");
            hash
        })
        .collect();
    assert_eq!(courses.len(), 40);
}

#[test]
fn a_world_without_faults_is_calm() {
    let calm = Setup { kinds: Kinds::new(), ..setup(7) };
    let report = Simulator::new().run(&calm);
    assert_eq!((report.violation, report.firings), (None, 0));
}

#[test]
fn faults_are_named_once() {
    let names: BTreeSet<_> = Fault::ALL.iter().map(|fault| fault.name()).collect();
    assert!(names.len() == Fault::COUNT && Fault::COUNT >= 40);
    assert!(Fault::ALL.iter().all(|fault| Fault::named(fault.name()) == Some(*fault)));
}

#[cfg(feature = "planted-bugs")]
#[test]
fn every_planted_bug_is_found_and_made_short() {
    use crate::domain::planted::{Bug, plant};
    let simulator = Simulator::new();
    for bug in Bug::ALL {
        plant(Some(*bug));
        let found = (0..5_000).map(setup).find_map(|setup| {
            let report = simulator.run(&setup);
            report.violation.is_some().then_some((setup, report))
        });
        let (setup, report) = found.unwrap_or_else(|| panic!("{bug:?} was not found"));
        if *bug == Bug::MissingRowAboveProgress {
            let (short, again) = shrink::shrink(&simulator, &setup, &report);
            assert!(again.firings <= report.firings && short.requests <= setup.requests);
            let invariant = |report: &Report| report.violation.as_ref().map(|it| it.invariant);
            assert_eq!(invariant(&again), invariant(&report));
        }
        plant(None);
    }
}

/// Worlds in which something broke once, each of them mended in the product.
#[track_caller]
fn hold(seeds: &[u64]) {
    let simulator = Simulator::new();
    for seed in seeds {
        let violation = simulator.run(&setup(*seed)).violation;
        assert_eq!(violation, None, "coupond simulate --seed {seed} --seeds 1");
    }
}

#[test]
fn trimming_keeps_what_a_hold_needs() {
    hold(&[1_007_089]);
}

#[test]
fn a_release_passes_although_the_store_told_of_it_first() {
    hold(&[20_434, 29_020, 32_451, 49_848]);
}

#[test]
fn a_zombies_close_hides_no_hold() {
    hold(&[4_527, 46_768, 86_204, 93_171, 131_442]);
}

#[test]
fn missing_rows_are_found_before_deriving() {
    hold(&[25_309]);
}

#[test]
fn a_mark_goes_before_the_end_of_its_hold() {
    hold(&[113_173, 227_929, 3_301_856]);
}

#[test]
fn an_old_hold_reaches_what_is_decided() {
    hold(&[280_862]);
}

/// What these worlds showed was their own mistake: the feed's past, the end, the last mark.
#[test]
fn once_misjudged_worlds_are_sound() {
    hold(&[3_094_211, 3_165_190, 3_330_168]);
}
