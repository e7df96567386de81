//! What a report says of figures that are given.

use std::collections::BTreeMap;

use super::{
    outcomes::{Outcome, Outcomes},
    run::{Audited, Quantiles, Run, StageFigures},
    sample::{NodeSample, Sample},
    scenario::{Goal, Kind, Scenario, Stage},
};
use crate::{
    domain::ids::Timestamp,
    report::{Measure, Report, Row, Verdict},
};

fn times(p99: f64) -> Quantiles {
    Quantiles { count: 100.0, p50: 1.0, p90: 2.0, p95: 3.0, p99, max: 2.0 * p99 }
}

fn sample(at_s: f64, issued: f64, lag: f64) -> Sample {
    let node = NodeSample {
        decisions: BTreeMap::from([("issued".to_owned(), issued)]),
        requests: BTreeMap::from([("issued".to_owned(), issued)]),
        lag: BTreeMap::from([("0".to_owned(), lag)]),
        ..NodeSample::default()
    };
    Sample { at_s, nodes: vec![Some(node)], engines: Vec::new() }
}

fn scenario(targets: &[(Goal, f64)]) -> Scenario {
    Scenario {
        title: "A try".into(),
        about: "About.".into(),
        quota: 100,
        targets: targets.to_vec(),
        ..Scenario::open("x", vec![Stage { seconds: 2.0, from: 50.0, to: 50.0 }])
    }
}

/// A run of 100 requests in 2 s: 60 issued, 40 sold out.
fn run(targets: &[(Goal, f64)]) -> Run {
    let outcomes = Outcomes {
        requests: 100,
        issued: 60,
        rejected: BTreeMap::from([("sold_out".to_owned(), 40)]),
        ..Outcomes::default()
    };
    Run {
        scenario: scenario(targets),
        started_at: Timestamp(0),
        seconds: 2.0,
        cut_short: false,
        outcomes,
        response: Some(times(15.0)),
        decision: Some(times(15.0)),
        late: Some(times(2.0)),
        allowed: None,
        stages: vec![StageFigures { due: 100, failed: 0, decision: Some(times(15.0)) }],
        by_second: vec![(50, Some((1.0, 15.0))), (50, None)],
        samples: vec![sample(0.0, 7.0, 0.0), sample(1.0, 47.0, 9.0), sample(2.0, 67.0, 0.0)],
        lag_at_end: 0.0,
        lag_gone_s: Some(0.1),
        issued: 60,
        campaigns: vec!["rehearsal-1".into()],
        audited: Audited::Not("it was not asked for".into()),
        nodes: 1,
        engines: Vec::new(),
        seed: 1,
    }
}

fn row<'a>(report: &'a Report, id: &str) -> Option<&'a Row> {
    let tables = report.sections.iter().filter_map(|section| section.table.as_ref());
    tables.flat_map(|table| &table.rows).find(|row| row.id == id)
}

fn figure(report: &Report, id: &str) -> Option<f64> {
    row(report, id)?.cells.last()?.as_ref().and_then(Measure::number)
}

#[track_caller]
fn concludes(run: &Run, expected: &str) {
    let conclusions = super::judge::conclusions(run);
    assert!(conclusions.iter().any(|text| text.contains(expected)), "{expected}: {conclusions:#?}");
}

#[test]
fn figures_follow_from_counts_and_samples() {
    let report = super::report(&run(&[(Goal::P99, 20.0), (Goal::Rate, 60.0)]), Vec::new());
    for (id, expected) in [
        ("requests", 100.0),
        ("rate", 50.0),
        ("peak_rate", 50.0),
        ("issued", 60.0),
        ("rejected_sold_out", 40.0),
        ("success", 60.0),
        ("lag_max", 9.0),
        ("decisions_per_second", 30.0),
        ("issued_peak", 40.0),
    ] {
        assert_eq!(figure(&report, id), Some(expected), "{id}");
    }
    assert_eq!(row(&report, "p99_ms").unwrap().verdict(), Some(Verdict::Met));
    assert_eq!(row(&report, "rate").unwrap().verdict(), Some(Verdict::Missed));
    assert_eq!(report.passed, Some(false));
    assert_eq!(report.summary, "1 of 2 targets missed: average rate.");
}

#[test]
fn what_was_not_measured_has_no_row() {
    let report = super::report(&run(&[]), Vec::new());
    assert_eq!(row(&report, "messages"), None, "the audit counts them");
    assert!(report.not_measured[0].contains("it was not asked for"), "{:?}", report.not_measured);
    assert!(!report.sections.iter().any(|section| section.title == "Audit"));
}

#[test]
fn success_is_explained_by_reason() {
    concludes(&run(&[]), "60.0 % of requests issued a coupon; 40.0 % were told sold out.");
    concludes(&run(&[]), "100 requests = 60 issued + 0 already issued + 40 rejected: sold out");
}

#[test]
fn a_request_that_is_counted_twice_is_broken() {
    let mut run = run(&[]);
    run.outcomes.add(Outcome::Issued);
    assert!(run.is_broken());
    concludes(&run, "Outcomes and requests differ: 100 requests ≠");
    assert!(super::report(&run, Vec::new()).summary.starts_with("Something is broken"));
}

#[test]
fn the_highest_rate_is_that_before_the_first_miss() {
    let mut run = run(&[(Goal::DecisionP99, 20.0)]);
    let stage = |rate| Stage { seconds: 1.0, from: rate, to: rate };
    run.scenario.stages = vec![stage(400.0), stage(800.0), stage(1_600.0), stage(3_200.0)];
    let figures = |p99| StageFigures { due: 1, failed: 0, decision: Some(times(p99)) };
    // What happens to be fast after a miss does not count.
    run.stages = vec![figures(5.0), figures(19.0), figures(70.0), figures(10.0)];
    concludes(&run, "800/s is the highest step that kept the P99 of decisions within 20 ms");
    run.stages[0] = figures(21.0);
    concludes(&run, "Not even 400/s kept its P99 within 20 ms.");
}

#[test]
fn a_late_generator_is_named() {
    let mut run = run(&[]);
    run.late = Some(times(250.0));
    concludes(&run, "1 % of requests were sent more than 250 ms after they were due");
}

#[test]
fn the_reference_run_stands_beside_the_peak_only() {
    let mut run = run(&[]);
    assert_eq!(row(&super::report(&run, Vec::new()), "p95_ms").unwrap().cells.len(), 1);
    run.scenario.kind = Kind::Peak;
    let report = super::report(&run, Vec::new());
    let cells = &row(&report, "p95_ms").unwrap().cells;
    assert_eq!(cells[0].as_ref().and_then(Measure::number), Some(51.0));
    assert_eq!(cells[1].as_ref().and_then(Measure::number), Some(3.0));
}
