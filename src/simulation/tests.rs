//! Worlds of real nodes, in small numbers.

use std::{fs, path::Path};

use super::{shrink::shrink_by, *};

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
    for seed in 0..worlds(300) {
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

/// Courses in which something broke once, each of them mended in the product or in the judge.
#[test]
fn kept_courses_break_nothing_any_more() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/courses");
    let files: Vec<_> = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    assert!(!files.is_empty());
    for file in files {
        let course = Course::parse(&fs::read_to_string(&file).unwrap());
        let course = course.unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        assert_eq!(run(&course, false).violations, [], "{}", file.display());
    }
}

#[test]
fn a_course_names_what_the_setup_has() {
    let Course { setup, acts } = draw(1, &Kinds::new(), 0);
    let nodes = setup.nodes;
    let setup = Course { setup, acts: acts[..0].to_vec() }.text();
    let refused = |line: &str| Course::parse(&format!("{setup}{line}\n")).unwrap_err().to_string();
    assert_eq!(
        refused(r#"{"at":1,"act":"crash","node":7,"down_ms":5}"#),
        format!("line 2: node 7 is not below {nodes}, which the setup has")
    );
    assert!(refused(r#"{"at":1,"act":"fly"}"#).contains("unknown variant `fly`"));
    assert!(refused(r#"{"at":1,"act":"trim","node":1}"#).contains("unknown field `node`"));
    assert!(Course::parse("").unwrap_err().to_string().contains("its first line must be a setup"));
}

#[test]
fn a_failure_is_made_short() {
    let course = draw(1, &all_kinds(), REQUESTS);
    let is_broken = |course: &Course| {
        let text = course.text();
        text.contains(r#""client":7,"#) && text.contains(r#""act":"strike""#)
    };
    assert!(is_broken(&course));
    let short = shrink_by(&course, is_broken, |_| {});
    assert_eq!((short.acts(), short.faults()), (2, 1));
}

#[test]
fn a_course_is_read_as_it_was_written() {
    let kinds = all_kinds();
    for seed in 0..50 {
        let course = draw(seed, &kinds, REQUESTS);
        assert_eq!(Course::parse(&course.text()).unwrap(), course);
    }
}
