//! What a report says of the program and the machine that it ran on.

use std::{fs, process::Command, thread};

use crate::report::Fact;

/// Returns version, commit and machine. What this machine does not tell is left out.
pub(super) fn facts() -> Vec<Fact> {
    let build =
        if cfg!(debug_assertions) { "debug build: its times say little" } else { "release" };
    let mut facts = vec![Fact::new("coupond", format!("{} ({build})", env!("CARGO_PKG_VERSION")))];
    if let Some(commit) = output("git", &["describe", "--always", "--dirty", "--abbrev=12"]) {
        facts.push(Fact::new("commit", commit));
    }
    let cores = thread::available_parallelism().map_or(0, usize::from);
    let memory = field("/proc/meminfo", "MemTotal:")
        .and_then(|total| total.trim_end_matches(" kB").parse::<f64>().ok())
        .map_or_else(String::new, |kib| format!(", {:.0} GiB", kib / 1_048_576.0));
    let model = field("/proc/cpuinfo", "model name").unwrap_or_default();
    let model = model.trim_start_matches([':', ' ']).to_owned();
    facts.push(Fact::new("machine", format!("{cores} cores {model}{memory}")));
    if let Ok(kernel) = fs::read_to_string("/proc/sys/kernel/osrelease") {
        facts.push(Fact::new("kernel", format!("Linux {}", kernel.trim())));
    }
    facts
}

/// Returns the first line that k6 says of itself.
pub(super) fn k6() -> Option<Fact> {
    let version = output("k6", &["version"])?;
    Some(Fact::new("k6", version.lines().next().unwrap_or_default()))
}

fn field(file: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line[name.len()..].trim().to_owned())
}

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !text.trim().is_empty()).then(|| text.trim().to_owned())
}
