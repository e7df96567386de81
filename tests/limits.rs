//! What the process takes from its system: open files, and access to its own.

use std::{
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
};

const COUPOND: &str = env!("CARGO_BIN_EXE_coupond");

/// Runs a node on free ports with `limits` of a shell, and ends it when it has started. Returns its exit
/// code and what it said.
fn run(limits: &str, folder: &Path) -> (Option<i32>, String) {
    let settings = "--set api.listen=127.0.0.1:0 --set admin.listen=127.0.0.1:0 --set demo=false \
                    --set api.drain=0s";
    let dir = folder.join("data");
    let script =
        format!("{limits}; exec {COUPOND} {settings} --set embedded.dir={}", dir.display());
    let mut command = Command::new("sh");
    command.args(["-c", &script]).current_dir(folder).env("COUPOND_LOG", "info");
    let mut node = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("a shell");
    let mut said = String::new();
    for line in BufReader::new(node.stderr.take().expect("it is piped")).lines() {
        let line = line.expect("text");
        if line.contains("node started") {
            let pid = node.id().to_string();
            let ended = Command::new("kill").args(["-TERM", &pid]).status();
            assert!(ended.is_ok_and(|status| status.success()));
        }
        said += &line;
    }
    (node.wait().expect("it was started here").code(), said)
}

#[test]
fn too_few_open_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (code, said) = run("ulimit -n 1000", folder.path());
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("may open 1000 files, at least 1024 are needed"), "{said}");
    assert!(said.contains("LimitNOFILE=65536"), "{said}");
    assert!(!folder.path().join("data").exists(), "nothing is made");
}

#[test]
fn a_start_says_what_memory_it_may_take() {
    let folder = tempfile::tempdir().unwrap();
    let (code, said) = run("ulimit -n 2048", folder.path());
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("memory: at most ") && said.contains("\"bounds_mib\":"), "{said}");
    assert!(said.contains("\"public\":1152"), "the connections are those of the files: {said}");
}

#[test]
fn files_belong_to_their_owner_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (code, said) = run("umask 000", folder.path());
    assert_eq!(code, Some(0), "{said}");
    let mut open = vec![folder.path().join("data")];
    let mut seen = 0;
    while let Some(path) = open.pop() {
        let metadata = path.metadata().unwrap();
        assert_eq!(metadata.permissions().mode() & 0o077, 0, "{}", path.display());
        seen += 1;
        if metadata.is_dir() {
            open.extend(path.read_dir().unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    assert!(seen > 5, "{seen} files");
}
