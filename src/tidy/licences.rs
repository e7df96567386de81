//! Every dependency comes from crates.io, under a licence that `.deny.toml` allows.
//!
//! `cargo deny` looks at more, but takes minutes to install: it runs at night and in its own job.

use std::process::Command;

use serde_json::Value;
use toml::de::DeTable;

use super::{assert_none, root};

/// The source of every dependency, as cargo writes it.
const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Returns the licences that `.deny.toml` allows.
fn allowed() -> Vec<String> {
    let text = std::fs::read_to_string(root().join(".deny.toml")).unwrap();
    let rules = DeTable::parse(&text).unwrap();
    let list = rules.get_ref()["licenses"].get_ref().as_table().unwrap()["allow"].get_ref();
    let texts = list.as_array().unwrap().iter().map(|one| one.get_ref().as_str().unwrap());
    texts.map(str::to_owned).collect()
}

/// Returns whether the licences in `allowed` fulfil an SPDX expression. A slash is the old form of OR.
fn permits(allowed: &[String], expression: &str) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let mut words = spaced.split_whitespace().peekable();
    let permits = either(allowed, &mut words);
    permits && words.next().is_none()
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn either(allowed: &[String], words: &mut Words<'_>) -> bool {
    let mut permits = both(allowed, words);
    while words.next_if_eq(&"OR").is_some() {
        permits |= both(allowed, words);
    }
    permits
}

fn both(allowed: &[String], words: &mut Words<'_>) -> bool {
    let mut permits = one(allowed, words);
    while words.next_if_eq(&"AND").is_some() {
        permits &= one(allowed, words);
    }
    permits
}

fn one(allowed: &[String], words: &mut Words<'_>) -> bool {
    if words.next_if_eq(&"(").is_some() {
        let permits = either(allowed, words);
        return words.next() == Some(")") && permits;
    }
    let mut licence = words.next().unwrap_or_default().to_owned();
    if words.next_if_eq(&"WITH").is_some() {
        licence = format!("{licence} WITH {}", words.next().unwrap_or_default());
    }
    allowed.contains(&licence)
}

#[test]
fn dependencies_have_permissive_licences_and_one_source() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(root())
        .args(["metadata", "--locked", "--offline", "--format-version", "1"])
        .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
        .output()
        .expect("cargo runs this test");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let (allowed, mut complaints, mut packages) = (allowed(), Vec::new(), 0);
    for package in metadata["packages"].as_array().unwrap() {
        let (name, source) = (package["name"].as_str().unwrap(), package["source"].as_str());
        packages += 1;
        let licence = package["license"].as_str().unwrap_or("no licence");
        if !permits(&allowed, licence) {
            complaints.push(format!("{name}: {licence}"));
        }
        if source.is_some_and(|source| source != CRATES_IO) {
            complaints.push(format!("{name} is from {source:?}"));
        }
    }
    assert!(packages > 100, "only {packages} packages were looked at");
    assert_none(&complaints, "see .deny.toml: a new licence or source is a decision");
}

#[test]
fn licence_expressions_are_understood() {
    let allowed = ["MIT".to_owned(), "ISC".to_owned(), "A WITH b".to_owned()];
    for (expression, permitted) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("GPL-3.0 OR MIT", true),
        ("GPL-3.0/MIT", true),
        ("GPL-3.0 AND MIT", false),
        ("MIT AND ISC", true),
        ("MIT AND (GPL-3.0 OR ISC)", true),
        ("(MIT AND GPL-3.0) OR GPL-2.0", false),
        ("A WITH b", true),
        ("A", false),
        ("MIT WITH b", false),
        ("MIT GPL-3.0", false),
        ("(MIT", false),
        ("", false),
    ] {
        assert_eq!(permits(&allowed, expression), permitted, "{expression}");
    }
}
