//! `coupond chaos`: faults on real processes.

use std::{
    path::Path,
    process::{Command, Output},
};

fn chaos(folder: &Path, arguments: &[&str]) -> Output {
    let mut chaos = Command::new(env!("CARGO_BIN_EXE_coupond"));
    chaos.arg("chaos").args(arguments).current_dir(folder);
    chaos.output().expect("the binary exists")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn an_embedded_node_survives_its_faults() {
    let folder = tempfile::tempdir().expect("a folder");
    let kinds = "kill,pause,terminate,actor-panic,consumer-panic,supervisor-panic";
    let arguments = ["--embedded", "--seed", "7", "--cycles", "2", "--kinds", kinds, "--json"];
    let output = chaos(folder.path(), &arguments);
    let (told, said) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{told}{said}");
    let verdict: serde_json::Value = serde_json::from_str(&told).expect("JSON");
    assert_eq!((&verdict["cycles"], &verdict["broken"]), (&2.into(), &serde_json::json!([])));
    let answers = verdict["answers"].as_u64().expect("a number");
    assert!(answers >= 2_000, "{answers} answers");
    let struck = verdict["kinds"].as_object().expect("an object").values();
    let struck: u64 = struck.filter_map(|kind| kind["struck"].as_u64()).sum();
    assert_eq!(struck, 6, "{told}");
    // The same faults again, from what was kept.
    let kept = folder.path().join("chaos-7");
    assert_eq!(
        text(&std::fs::read(kept.join("schedule.jsonl")).expect("it is kept")).lines().count(),
        2
    );
    let again = chaos(
        folder.path(),
        &["--embedded", "--again", "chaos-7/schedule.jsonl", "--out", "chaos-7"],
    );
    assert_eq!(again.status.code(), Some(2), "what is there is not overwritten");
}

#[test]
fn wrong_usage_is_said_before_anything_starts() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("broken.jsonl"), "{}").expect("it takes a file");
    for (arguments, told) in [
        (&["--kinds", "flood"][..], "unknown kind of fault \"flood\""),
        (&["--engines", "2"], "possible values: 1, 3"),
        (&["--embedded", "--nodes", "3"], "cannot be used with"),
        (&["--again", "broken.jsonl"], "line 1: missing field"),
    ] {
        let output = chaos(folder.path(), arguments);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.contains(told), "{arguments:?}: {said}");
    }
    let engines = ["--engines-script", "nowhere/engines"];
    let output = chaos(folder.path(), &engines);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("--engines-script"), "{}", text(&output.stderr));
    let lost = chaos(folder.path(), &["--embedded", "--kinds", "kafka-killed,cut-from-broker"]);
    assert!(text(&lost.stderr).contains("no engines: kafka-killed"), "{}", text(&lost.stderr));
    assert_eq!(lost.status.code(), Some(1), "no kind is left");
}
