//! Pages for operators name every invariant, metric and rejection reason.

use std::fs;

use super::{assert_none, root, sources};
use crate::{
    domain::{invariant::Invariant, reason::Reason},
    telemetry::metrics,
};

fn page(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

#[test]
fn the_readme_documents_every_invariant() {
    let readme = page("README.md");
    let ids = Invariant::ALL.map(|invariant| invariant.id());
    let missing: Vec<_> =
        ids.into_iter().filter(|id| !mentions(&readme, id)).map(String::from).collect();
    assert_none(&missing, "README.md has to say what these are");
}

/// Returns the names of the alerts.
fn alerts(rules: &str) -> impl Iterator<Item = &str> {
    rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: "))
}

#[test]
fn an_alert_watches_only_what_is_counted() {
    let rules = page("docker/prometheus/alerts.yml");
    let all = Invariant::ALL.map(Invariant::id);
    let watched: Vec<_> = alerts(&rules).filter(|name| all.contains(name)).collect();
    assert_eq!(watched, Invariant::COUNTED.map(Invariant::id));
    let sources: String = sources(&["src"]).iter().map(super::Source::product).collect();
    let sources = sources.split_whitespace().collect::<Vec<_>>().join(" ").replace("( ", "(");
    let is_counted = |invariant: &Invariant| {
        let name = format!("{invariant:?}");
        let checked = format!("check_invariant!({name},");
        let counted = format!("violation(Invariant::{name})");
        [checked, counted].iter().any(|it| sources.contains(it))
    };
    let never: Vec<_> =
        Invariant::COUNTED.iter().filter(|it| !is_counted(it)).map(|it| it.to_string()).collect();
    assert_none(&never, "nothing counts these invariants, so their alerts cannot fire");
}

#[test]
fn every_alert_leads_to_its_row_in_the_readme() {
    let (rules, readme) = (page("docker/prometheus/alerts.yml"), page("README.md"));
    let rows = alerts(&rules).filter(|name| *name != "INV-12-PartitionHalted");
    let anchors: Vec<_> = rows.map(|name| format!("alert-{}", name.to_lowercase())).collect();
    let wrong = |anchor: &&String| {
        !rules.contains(&format!("runbook_url: \"README.md#{anchor}\""))
            || readme.matches(&format!("<a id=\"{anchor}\"></a>")).count() != 1
    };
    let wrong: Vec<_> = anchors.iter().filter(wrong).cloned().collect();
    assert_none(&wrong, "alert and README need these anchors, once");
}

#[test]
fn every_metric_is_documented() {
    let text = page("docker/METRICS.md");
    let row = |name: &str| text.contains(&format!("\n| `{name}` |"));
    let missing: Vec<_> = metrics::names().filter(|name| !row(name)).map(String::from).collect();
    assert_none(&missing, "docker/METRICS.md needs a row for each of these");
}

#[test]
fn every_rejection_reason_is_documented() {
    let names = Reason::ALL.map(|reason| format!("`{}`", reason.name()));
    let (last, others) = names.split_last().unwrap();
    let readme = page("README.md");
    let words: Vec<_> = readme.split_whitespace().collect();
    let sentence = format!("`rejected` with {} or {last}.", others.join(", "));
    assert!(words.join(" ").contains(&sentence), "README.md has to say: {sentence}");
    let metrics = page("docker/METRICS.md");
    let outcomes = metrics.lines().find(|line| line.contains("`coupond_requests_total`")).unwrap();
    let missing: Vec<_> = names.iter().filter(|name| !outcomes.contains(*name)).cloned().collect();
    assert_none(
        &missing,
        "the row of coupond_requests_total in docker/METRICS.md has to list these",
    );
}

/// Returns whether `text` holds `name` as a whole: INV-1 is not in INV-10.
fn mentions(text: &str, name: &str) -> bool {
    text.match_indices(name).any(|(at, _)| {
        !text[at + name.len()..].starts_with(|next: char| next.is_alphanumeric() || next == '_')
    })
}
