//! Scenarios: what is read, what is refused, and when requests are due.

use std::path::PathBuf;

use super::{read::text_of, *};

fn stage(seconds: f64, from: f64, to: f64) -> Stage {
    Stage { seconds, from, to }
}

#[test]
fn a_constant_rate_spaces_requests_evenly() {
    let due: Vec<_> = Schedule::new(&[stage(2.0, 4.0, 4.0)]).collect();
    let times: Vec<f64> = due.iter().map(|(at, _)| *at).collect();
    assert_eq!(times, [0.125, 0.375, 0.625, 0.875, 1.125, 1.375, 1.625, 1.875]);
}

#[test]
fn a_ramp_has_as_many_requests_as_its_area() {
    let stages = [stage(10.0, 0.0, 100.0), stage(0.5, 0.0, 0.0), stage(10.0, 100.0, 0.0)];
    let due: Vec<_> = Schedule::new(&stages).collect();
    assert_eq!(due.len(), 1_000);
    assert_eq!(due.iter().filter(|(_, stage)| *stage == 2).count(), 500);
    assert!(due.is_sorted_by(|one, two| one.0 <= two.0));
    // A quarter of a ramp's requests come in its first half.
    assert_eq!(due.iter().filter(|(at, _)| *at < 5.0).count(), 125);
}

#[test]
fn every_problem_is_named_with_its_line() {
    let text = "\
title = 3
kind = \"opne\"
quota = -1
usrs = 5

[[stages]]
seconds = -10
rate = 400

[[stages]]
seconds = 10

[targets]
p95_ms = \"fast\"
p95ms = 20
";
    let problems = text_of("x", text).unwrap_err();
    let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        problems,
        [
            "line 1: title: is 3, must be text; write it in quotes",
            "line 2: kind: is \"opne\", an unknown kind; use one of peak, open, spike, bots, \
             slow-clients, many-campaigns",
            "line 3: quota: is -1, must be a whole number from 0 to 100000000; write a figure in \
             this range",
            "line 4: usrs: unknown member; did you mean users?",
            "line 7: stages[1].seconds: is -10, must be a number from 0.001 to 3600; write a figure \
             in this range",
            "line 10: stages[2].rate: missing; add rate = a number",
            "line 14: targets.p95_ms: is \"fast\", must be a number from 0 to 1000000000000; write \
             a figure in this range",
            "line 15: targets.p95ms: unknown member; did you mean p95_ms?",
        ]
    );
}

#[test]
fn a_member_that_a_kind_ignores_is_refused() {
    let text = "kind = \"open\"\ncampaigns = 5\n[[stages]]\nseconds = 1\nrate = 1\n";
    let problems = text_of("x", text).unwrap_err();
    assert_eq!((problems.len(), problems[0].line), (1, 2), "{problems:?}");
    assert!(problems[0].remedy.contains("many-campaigns"), "{problems:?}");
}

#[test]
fn every_scenario_that_is_kept_can_be_read() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("load");
    let mut kinds = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|ending| ending == "toml") {
            let scenario = Scenario::read(&path).unwrap_or_else(|error| panic!("{error}"));
            assert!(!scenario.targets.is_empty() && !scenario.about.is_empty(), "{path:?}");
            kinds.push(scenario.kind);
        }
    }
    for kind in Kind::ALL {
        assert!(kinds.contains(&kind), "no scenario of kind {}", kind.name());
    }
}

#[test]
fn a_shrunk_scenario_asks_for_fewer_requests() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("load/peak.toml");
    let scenario = Scenario::read(&path).unwrap().shrunk(10.0);
    assert_eq!(scenario.duration(), Duration::from_secs(30));
    assert_eq!(scenario.target(Goal::Requests).unwrap().value, 4_933.0);
    assert_eq!(scenario.target(Goal::P95).unwrap().value, 20.0);
}
