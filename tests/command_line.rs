//! The program: its output and its exit codes.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Output, Stdio},
};

/// Runs `coupond` in `folder` with only these variables of our prefix.
fn coupond(folder: &Path, environment: &[(&str, &str)], arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_coupond"));
    command.current_dir(folder).args(arguments);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("COUPOND_") {
            command.env_remove(name);
        }
    }
    command.envs(environment.iter().copied()).output().expect("the program was built for this test")
}

#[track_caller]
fn check(
    environment: &[(&str, &str)],
    arguments: &[&str],
    code: i32,
    standard_output: &str,
    standard_error: &str,
) {
    let folder = tempfile::tempdir().expect("there is a temporary folder");
    let output = coupond(folder.path(), environment, arguments);
    let (out, error) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{arguments:?}\n{out}{error}");
    assert!(out.starts_with(standard_output), "{arguments:?}\n{out}");
    assert!(error.starts_with(standard_error), "{arguments:?}\n{error}");
    assert_eq!(out.is_empty(), standard_output.is_empty(), "{arguments:?}\n{out}");
    assert_eq!(error.is_empty(), standard_error.is_empty(), "{arguments:?}\n{error}");
}

#[test]
fn wrong_usage_exits_with_2_and_help_with_0() {
    check(&[], &["nonsense"], 2, "", "error: unrecognized subcommand 'nonsense'");
    check(&[], &["campaign", "create", "spring"], 2, "", "error: ");
    check(&[], &["--help"], 0, "Issues a limited number of coupons", "");
    check(&[], &["--version"], 0, "coupond ", "");
}

#[test]
fn a_wrong_configuration_exits_with_2() {
    let set = ["--set", "mode=both"];
    let error = "coupond: the configuration has a problem:\n  mode: is \"both\", must be ";
    for command in [
        &["serve"][..],
        &["check-config"],
        &["print-config"],
        &["health"],
        &["campaign", "list"],
        &["issue", "spring", "ada"],
    ] {
        check(&[], &[&set[..], command].concat(), 2, "", error);
        check(&[], &[command, &set[..]].concat(), 2, "", error);
        check(&[("COUPOND_MODE", "both")], command, 2, "", error);
    }
    check(&[], &set, 2, "", error);
    check(&[("COUPOND_MOD", "x")], &[], 2, "", "coupond: the configuration has a problem:\n  COUP");
    let error = "coupond: the configuration has a problem:\n  \"\": is empty; use --set key=value";
    check(&[], &["check-config", "--set", ""], 2, "", error);
    let log = [("COUPOND_LOG", "coupond=loud")];
    let error =
        "coupond: the configuration has a problem:\n  COUPOND_LOG: is \"coupond=loud\", must";
    check(&log, &[], 2, "", error);
    check(&log, &["check-config"], 2, "", error);
    let both = [log[0], ("COUPOND_MODE", "both")];
    check(&both, &["check-config"], 2, "", "coupond: the configuration has 2 problems:\n  mode: ");
}

#[test]
fn completions_and_manual_page_need_no_settings() {
    let wrong = [("COUPOND_MODE", "both")];
    check(&wrong, &["completions", "bash"], 0, "_coupond() {", "");
    check(&wrong, &["man"], 0, ".ie ", "");
    check(&[], &["completions", "csh"], 2, "", "error: invalid value 'csh' for '<SHELL>'");
}

#[test]
fn the_default_file_is_read_if_it_exists() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("config")).unwrap();
    std::fs::write(folder.path().join("config/coupond.toml"), "[kafka]\ngroup = 'g'\n").unwrap();
    let printed = coupond(folder.path(), &[], &["print-config"]);
    assert!(printed.status.success());
    let printed = String::from_utf8(printed.stdout).unwrap();
    assert!(printed.contains("\ngroup = \"g\" # config/coupond.toml:2\n"), "{printed}");
}

#[test]
fn a_valid_configuration_is_printed() {
    check(&[], &["check-config"], 0, "built-in defaults, 0 from the environment, 0 by --set:", "");
    let folder = tempfile::tempdir().unwrap();
    let set = ["--set", "api.waiters_max=1000000", "check-config"];
    let output = coupond(folder.path(), &[], &set);
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(printed.contains("\nmemory: at most "), "{printed}");
    assert!(printed.contains("\nwarning: api.waiters_max is 1000000, but each"), "{printed}");
    check(
        &[("COUPOND_DEMO", "false")],
        &["print-config"],
        0,
        "mode = \"embedded\" # default\n",
        "",
    );
    check(&[], &["print-config", "--defaults"], 0, "# Settings of coupond.", "");
}

#[test]
fn an_unreachable_node_exits_with_1() {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap().to_string();
    drop(socket);
    for (key, command) in [
        ("admin.listen", &["health"][..]),
        ("admin.listen", &["campaign", "list"]),
        ("api.listen", &["issue", "spring", "ada"]),
    ] {
        let set = format!("{key}={address}");
        let error = format!("coupond: no answer from http://{address}/: Connection refused");
        check(&[], &[command, &["--set", &set]].concat(), 1, "", &error);
    }
}

#[test]
fn an_interrupted_simulation_prints_its_totals() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_coupond"))
        .args(["simulate", "--seeds", "1000000", "--jobs", "1", "--trace"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program was built for this test");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    // After its first line the simulation runs, and its signal handler is installed.
    lines.next().expect("a line").expect("text");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it runs");
    let last: Vec<_> = lines.map(|line| line.expect("text")).collect();
    assert_eq!(child.wait().expect("it ends").code(), Some(1));
    let last = last[last.len() - 3..].join("\n");
    assert!(last.contains(" worlds in ") && last.contains("issued "), "{last}");
    assert!(last.ends_with("Interrupted before all 1000000 worlds were run"), "{last}");
}
