//! Processes that a command of coupond starts, and that end with it, also when it is killed.

use std::{
    env,
    ffi::OsStr,
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, Stdio},
};

/// The program that tells the kernel to end a process with its parent (Debian: util-linux).
pub(crate) const TETHER: &str = "setpriv";

/// Returns whether a program is in the path.
#[must_use]
pub(crate) fn is_installed(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// Returns a command that runs `program` and ends with the thread that starts it. Needs [`TETHER`].
pub(crate) fn tethered(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(TETHER);
    command.args(["--pdeathsig", "KILL"]).arg(program);
    command
}

/// Returns a command of the coupond `binary` with these settings (`key=value`) and no others: neither a
/// settings file nor the environment of whoever called configures it.
pub(crate) fn coupond<'a>(
    binary: &Path,
    command: &str,
    settings: impl IntoIterator<Item = &'a String>,
    folder: &Path,
) -> Command {
    let mut child = tethered(binary);
    child.arg(command);
    for setting in settings {
        child.args(["--set", setting]);
    }
    for (name, _) in env::vars_os() {
        if name.to_string_lossy().starts_with("COUPOND_") {
            child.env_remove(name);
        }
    }
    child.current_dir(folder).stdin(Stdio::null());
    child
}

/// The same for a node, whose admin listener takes `token`. Its log goes to its standard error.
pub(crate) fn node<'a>(
    binary: &Path,
    settings: impl IntoIterator<Item = &'a String>,
    token: &str,
    folder: &Path,
) -> Command {
    let mut node = coupond(binary, "serve", settings, folder);
    node.env("COUPOND_ADMIN__TOKEN", token).env("COUPOND_LOG", "info").stdout(Stdio::null());
    // Ctrl-C at a terminal is for the process that started it, which ends it in order.
    node.process_group(0);
    node
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_has_only_the_settings_that_it_is_given() {
        let settings = ["demo=false".to_owned()];
        let node = node(Path::new("/bin/coupond"), &settings, "secret", Path::new("/tmp"));
        let words: Vec<_> = node.get_args().map(|word| word.to_string_lossy()).collect();
        let expected = ["--pdeathsig", "KILL", "/bin/coupond", "serve", "--set", "demo=false"];
        assert_eq!(words, expected);
        assert!(!words.iter().any(|word| word.contains("secret")), "everybody can read arguments");
        let given: Vec<_> = node.get_envs().filter(|(_, value)| value.is_some()).collect();
        assert!(given.contains(&(OsStr::new("COUPOND_ADMIN__TOKEN"), Some(OsStr::new("secret")))));
        assert_eq!(given.len(), 2, "{given:?}");
    }

    #[test]
    fn a_program_is_looked_for_in_the_path() {
        assert!(is_installed("sh"));
        assert!(!is_installed("no-such-program-of-coupond"));
    }
}
