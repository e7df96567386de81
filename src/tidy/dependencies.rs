//! Every dependency of Cargo.toml is used, and where its section says.

use toml::de::DeTable;

use super::{Source, assert_none, code, paths, root, sources};

/// Returns the crates that a section of Cargo.toml declares, as code spells their names.
fn declared(manifest: &DeTable, section: &str) -> Vec<String> {
    let section = manifest.get(section).and_then(|value| value.get_ref().as_table());
    section.into_iter().flatten().map(|(name, _)| name.get_ref().replace('-', "_")).collect()
}

/// Returns the crates of `section` that none of the code names.
fn unused(manifest: &DeTable, section: &str, codes: &[String]) -> Vec<String> {
    let named = |name: &String| codes.iter().any(|code| !paths(code, name).is_empty());
    declared(manifest, section).into_iter().filter(|name| !named(name)).collect()
}

#[test]
fn every_dependency_is_used() {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let manifest = DeTable::parse(&manifest).unwrap();
    let manifest = manifest.get_ref();
    let product: Vec<String> = sources(&["src"]).iter().map(Source::product).collect();
    let all = sources(&["src", "tests", "benches"]);
    let all: Vec<String> = all.iter().map(|source| code(&source.text)).collect();
    assert_none(
        &unused(manifest, "dependencies", &product),
        "src/ does not use these: remove them from Cargo.toml, or move them to dev-dependencies",
    );
    assert_none(
        &unused(manifest, "dev-dependencies", &all),
        "no test and no bench uses these: remove them from Cargo.toml",
    );
}

#[test]
fn unused_dependencies_are_found() {
    let manifest =
        DeTable::parse("[dependencies]\nserde-json = '1'\nlog = '1'\nlog2 = '1'").unwrap();
    let manifest = manifest.get_ref();
    let codes = ["use serde_json::json; crate::log::x(); catalog::y();".to_owned()];
    assert_eq!(unused(manifest, "dependencies", &codes), ["log", "log2"]);
    assert_eq!(unused(manifest, "build-dependencies", &codes), [] as [&str; 0]);
}
