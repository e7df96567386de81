//! Links between nodes and engines, in a network namespace that this process has made.

use std::{
    env,
    ffi::OsString,
    process::{Command, Stdio},
};

use crate::children::{is_installed, tethered};

/// Group ids of nodes: what a process of such a group sends can be told from all else. They are
/// so high that no account has them.
const FIRST_GROUP: u32 = 64_100;

/// Set in a process that runs in a namespace of its own. Names that begin otherwise are settings.
const INSIDE: &str = "CHAOS_OF_COUPOND_IS_INSIDE";

/// Brings up the loopback device of the new namespace, then becomes coupond. Mounts are private: what is
/// mounted inside is gone with the last process.
const ENTER: &str = r#"ip link set lo up && exec "$0" "$@""#;

/// Bytes a second that pass a slow link.
const SLOW_BYTES: u32 = 30_000;

/// One packet in so many is lost on a lossy link.
const LOST_ONE_IN: u32 = 6;

/// Where this process runs.
pub(crate) enum Namespace {
    /// In one of its own: links can be cut, and small disks mounted.
    Own,
    /// In that of the machine, for this reason.
    Machine(String),
    /// This process has run in a namespace of its own, and ended with this code.
    Ended(u8),
}

/// Runs this process again in a namespace of its own, with these arguments besides, if that is possible.
pub(crate) fn enter(more: &[String]) -> Namespace {
    if is_own() {
        return Namespace::Own;
    }
    if let Some(tool) = ["unshare", "ip", "nft"].into_iter().find(|it| !is_installed(it)) {
        return Namespace::Machine(format!("`{tool}` is missing"));
    }
    let mut probe = Command::new("unshare");
    probe.args(["--net", "--mount", "true"]).stderr(Stdio::null());
    if !probe.status().is_ok_and(|status| status.success()) {
        return Namespace::Machine("a network namespace cannot be made: not root".to_owned());
    }
    let Ok(own) = env::current_exe() else {
        return Namespace::Machine("the path of this program is unknown".to_owned());
    };
    let words: Vec<OsString> = env::args_os().skip(1).collect();
    // With it, the process inside ends when this one is killed.
    let inside = tethered("unshare")
        .args(["--net", "--mount", "sh", "-c", ENTER])
        .arg(own)
        .args(words)
        .args(more)
        .env(INSIDE, "1")
        .status();
    match inside {
        Ok(status) => {
            Namespace::Ended(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
        }
        Err(error) => Namespace::Machine(format!("`unshare` cannot be run: {error}")),
    }
}

/// Returns whether this process is in a namespace of its own.
pub(crate) fn is_own() -> bool {
    env::var_os(INSIDE).is_some()
}

/// Returns the group of a node.
pub(crate) fn group(node: usize) -> u32 {
    FIRST_GROUP + u32::try_from(node).unwrap_or(0)
}

/// What becomes of the packets that a node sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Link {
    /// None arrives.
    Cut,
    /// Those beyond a rate are dropped.
    Slow,
    /// Some are dropped.
    Lossy,
}

fn nft(command: &str) -> Result<(), String> {
    let output = Command::new("nft").arg(command).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("nft: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("nft {command}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

/// Lets all packets pass again.
///
/// # Errors
/// What `nft` says.
pub(crate) fn mend() -> Result<(), String> {
    nft("add table inet chaos; \
         add chain inet chaos out { type filter hook output priority 0 ; }")?;
    nft("flush chain inet chaos out")
}

/// Harms what a node sends to these endpoints (`host:port`). Nothing that is cut off is told so: what it
/// asks is not heard, and what is sent to it ends with the first window.
///
/// # Errors
/// What `nft` says.
pub(crate) fn harm(node: usize, endpoints: &[String], link: Link) -> Result<(), String> {
    for endpoint in endpoints {
        let (host, port) = endpoint.rsplit_once(':').ok_or("an endpoint without a port")?;
        let group = group(node);
        let verdict = match link {
            Link::Cut => "drop".to_owned(),
            Link::Slow => format!("limit rate over {SLOW_BYTES} bytes/second drop"),
            Link::Lossy => format!("numgen random mod {LOST_ONE_IN} == 0 drop"),
        };
        nft(&format!(
            "add rule inet chaos out meta skgid {group} ip daddr {host} tcp dport {port} {verdict}"
        ))?;
    }
    Ok(())
}
