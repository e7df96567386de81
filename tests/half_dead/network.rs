//! Cuts between nodes and engines, in a network namespace that this test has made.

use std::process::{Command, Stdio};

/// Group ids of node processes: what a process of such a group sends can be told from all else.
pub(crate) const GROUPS: [u32; 3] = [64_101, 64_102, 64_103];

/// Set in a process that runs in a namespace of its own.
const INSIDE: &str = "COUPOND_TEST_NAMESPACE";

/// Brings up the loopback device of the new namespace, then becomes the test.
const ENTER: &str = r#"ip link set lo up && exec "$0" "$@""#;

/// Returns whether this process is in a namespace of its own. If not, runs the test again in one, and
/// returns its exit code; or says what is missing.
pub(crate) fn enter() -> Result<Option<u8>, String> {
    if std::env::var_os(INSIDE).is_some() {
        return Ok(None);
    }
    for tool in ["unshare", "ip", "nft"] {
        let mut found = Command::new(tool);
        found.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
        // `ip` has another name for it, and fails. That it starts is enough.
        found.status().map_err(|_| format!("`{tool}` is missing"))?;
    }
    let probe = Command::new("unshare").args(["--net", "true"]).stderr(Stdio::null()).status();
    if !probe.is_ok_and(|status| status.success()) {
        return Err("a network namespace cannot be made: it needs root".to_owned());
    }
    // The namespace has no way to the network, so the jars must be there.
    let engines = concat!(env!("CARGO_MANIFEST_DIR"), "/docker/engines/engines");
    let fetched = Command::new(engines).arg("fetch").stdout(Stdio::null()).status();
    if !fetched.is_ok_and(|status| status.success()) {
        return Err("the engines' jars cannot be fetched".to_owned());
    }
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let inside = Command::new("unshare")
        .args(["--net", "sh", "-c", ENTER])
        .arg(own)
        .args(std::env::args_os().skip(1))
        .env(INSIDE, "1")
        .status()
        .map_err(|error| error.to_string())?;
    Ok(Some(inside.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
}

fn nft(command: &str) {
    let status = Command::new("nft").arg(command).status().expect("nft was found");
    assert!(status.success(), "nft {command}: {status}");
}

/// Lets packets of all groups pass again.
pub(crate) fn mend() {
    nft("add table inet cut; add chain inet cut out { type filter hook output priority 0 ; }");
    nft("flush chain inet cut out");
}

/// Drops what processes of the group send to these endpoints (`host:port`), in silence. So nothing that
/// they ask is heard, and what is sent to them ends with the first window.
pub(crate) fn cut(group: u32, endpoints: &[String]) {
    for endpoint in endpoints {
        let (host, port) = endpoint.split_once(':').expect("host:port");
        nft(&format!(
            "add rule inet cut out meta skgid {group} ip daddr {host} tcp dport {port} drop"
        ));
    }
}
