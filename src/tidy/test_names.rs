//! Names of tests are short, so that a list of failures can be scanned.

use super::{assert_none, code, sources};

/// Longest name of a test, in characters.
const TEST_NAME_MAX: usize = 60;

/// Longest median of all names, in characters.
const TEST_NAME_MEDIAN_MAX: usize = 40;

#[test]
fn names_of_tests_are_short() {
    let mut lengths = Vec::new();
    let mut complaints = Vec::new();
    for source in sources(&["src", "tests", "benches"]) {
        for name in test_names(&source.text) {
            lengths.push(name.len());
            if name.len() > TEST_NAME_MAX {
                complaints.push(format!("{}: {name}", source.path.display()));
            }
        }
    }
    assert_none(&complaints, "a test name has at most 60 characters");
    lengths.sort_unstable();
    let median = lengths[lengths.len() / 2];
    assert!(median <= TEST_NAME_MEDIAN_MAX, "test names have {median} characters in the median");
}

/// Returns the names of all tests in `text`: functions below an attribute `test`, and those that
/// `trials!` lists.
fn test_names(text: &str) -> Vec<String> {
    let code = code(text);
    let mut names = Vec::new();
    let mut is_test = false;
    for line in code.lines().map(str::trim) {
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            is_test = true;
        } else if let Some(name) =
            line.trim_start_matches("async ").strip_prefix("fn ").filter(|_| is_test)
        {
            names.extend(name.split('(').next().map(String::from));
            is_test = false;
        }
    }
    for (at, start) in code.match_indices("trials!(") {
        let list = code[at + start.len()..].split(')').next().unwrap_or_default();
        // The part before the semicolon lists the engines.
        let listed = list.split(';').next_back().unwrap_or_default().split(',').map(str::trim);
        names.extend(listed.filter(|name| !name.is_empty()).map(String::from));
    }
    names
}

#[test]
fn names_of_tests_are_found() {
    let text = "#[test]\nfn a() {}\nfn helper() {}\n#[tokio::test(start_paused = true)]\n\
                async fn b() {}\ntrials!(&[Engine::Cql]; c, d,\n e)";
    assert_eq!(test_names(text), ["a", "b", "c", "d", "e"]);
}
