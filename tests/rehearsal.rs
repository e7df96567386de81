//! `coupond rehearse` on an embedded node that runs.

#[allow(dead_code, reason = "other tests need the rest")]
#[path = "nodes/mod.rs"]
mod nodes;

use std::{
    path::Path,
    process::{Command, Output},
};

use nodes::Node;
use serde_json::Value;

/// The token of nodes under test.
const TOKEN: &str = nodes::TOKEN;

/// Half a second of requests from 20 users for 5 coupons.
const RUSH: &str = "\
kind = \"open\"
title = \"Rush\"
quota = 5
users = 20

[[stages]]
seconds = 0.5
rate = 200

[targets]
requests = 100
failed = 0
";

async fn node(folder: &Path) -> Node {
    Node::start(&[format!("embedded.dir='{}'", folder.join("data").display())]).await
}

fn rehearse(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_coupond"));
    command.current_dir(folder).arg("rehearse").args(arguments).env_remove("COUPOND_LOG");
    command.output().expect("the program was built for this test")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Returns the last figure of a row.
fn figure(report: &Value, id: &str) -> f64 {
    let sections = report["sections"].as_array().expect("sections");
    let rows = sections.iter().filter_map(|section| section["table"]["rows"].as_array());
    let row = rows.flatten().find(|row| row["id"] == id).unwrap_or_else(|| panic!("no row {id}"));
    let cells = row["cells"].as_array().expect("cells");
    cells.last().and_then(|cell| cell["value"].as_f64()).unwrap_or_else(|| panic!("{row}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rush_is_reported_with_every_request_counted_once() {
    let folder = tempfile::tempdir().unwrap();
    let node = node(folder.path()).await;
    std::fs::write(folder.path().join("rush.toml"), RUSH).unwrap();
    let done = rehearse(
        folder.path(),
        &["rush.toml", "--api", &node.api, "--admin", &node.admin, "--token", TOKEN],
    );
    let said = String::from_utf8_lossy(&done.stdout);
    assert_eq!(done.status.code(), Some(0), "{said}{}", String::from_utf8_lossy(&done.stderr));
    let out = folder.path().join("rehearsal");
    let report: Value = serde_json::from_str(&read(&out.join("report.json"))).unwrap();
    assert_eq!(figure(&report, "requests"), 100.0);
    assert_eq!(figure(&report, "issued"), 5.0, "the quota");
    assert_eq!(figure(&report, "told_issued"), 5.0);
    assert_eq!(report["passed"], true);
    let why = report["not_measured"].to_string();
    assert!(why.contains("must be stopped"), "an embedded node runs, so there is no audit: {why}");
    assert!(read(&out.join("report.html")).contains("<svg"));
    assert!(read(&out.join("report.md")).contains("(decisions.svg)"));
    assert_eq!(read(&out.join("answers.jsonl")).lines().count(), 100);
    let (_, listed) = node.get("/campaigns").await;
    assert_eq!(listed["campaigns"], serde_json::json!([]), "no public list shows it");
    let (_, all) = node.admin("GET", "/admin/campaigns", Value::Null).await;
    assert_eq!(all["campaigns"][0]["state"], "closed", "{all}");

    let both = rehearse(
        folder.path(),
        &["--compare", "predecessor", "rehearsal/report.json", "--out", "both"],
    );
    assert_eq!(both.status.code(), Some(0), "{}", String::from_utf8_lossy(&both.stderr));
    assert!(read(&folder.path().join("both/report.html")).contains("49,330"));

    // The audit reads what clients were told, once the node has stopped.
    assert_eq!(node.stop().await, Some(0));
    let audit = Command::new(env!("CARGO_BIN_EXE_coupond"))
        .current_dir(folder.path())
        .args(["audit", "--answers", "rehearsal/answers.jsonl", "--set"])
        .arg(format!("embedded.dir='{}'", folder.path().join("data").display()))
        .output()
        .unwrap();
    assert_eq!(audit.status.code(), Some(0), "{}", String::from_utf8_lossy(&audit.stdout));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missed_target_ends_with_code_1() {
    let folder = tempfile::tempdir().unwrap();
    let node = node(folder.path()).await;
    let scenario = RUSH.replace("requests = 100", "requests = 101");
    std::fs::write(folder.path().join("rush.toml"), scenario).unwrap();
    let done = rehearse(
        folder.path(),
        &["rush.toml", "--api", &node.api, "--admin", &node.admin, "--token", TOKEN],
    );
    let said = String::from_utf8_lossy(&done.stdout);
    assert_eq!(done.status.code(), Some(1), "{said}");
    assert!(said.starts_with("1 of 2 targets missed: requests."), "{said}");
}

#[test]
fn what_cannot_be_is_said_before_anything_starts() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("bad.toml"), "kind = \"opne\"\nquota = -1\n").unwrap();
    std::fs::write(folder.path().join("rush.toml"), RUSH).unwrap();
    let cases: [(&[&str], &[&str]); 3] = [
        (&["bad.toml"], &["line 1: kind", "line 2: quota", "stages: missing"]),
        (&["none.toml"], &["none.toml cannot be read"]),
        // The engines' script lies in the project, and this folder is none.
        (&["rush.toml", "--local"], &["docker/engines/engines"]),
    ];
    for (arguments, expected) in cases {
        let done = rehearse(folder.path(), arguments);
        let error = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(2), "{arguments:?}: {error}");
        for text in expected {
            assert!(error.contains(text), "{arguments:?} lacks {text:?}: {error}");
        }
    }
}
