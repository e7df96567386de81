//! How much memory the process may take: the limit of its cgroups, else what the machine has.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

/// The limit of a cgroup of version 1 without one: the largest number of pages.
const UNLIMITED: u64 = 1 << 60;

/// Where cgroups are mounted.
const MOUNTED: &str = "/sys/fs/cgroup";

/// How much memory a process may take, and what says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::node) struct MemoryLimit {
    pub(super) bytes: u64,
    pub(super) of: String,
}

impl MemoryLimit {
    /// Returns the lowest limit of this process. None where the system does not say.
    pub(in crate::node) fn of_process() -> Option<Self> {
        let read = |path: &Path| fs::read_to_string(path).ok();
        Self::found(&read)
    }

    fn found(read: &impl Fn(&Path) -> Option<String>) -> Option<Self> {
        let total = read(Path::new("/proc/meminfo")).as_deref().and_then(total_of);
        let machine = total.map(|bytes| Self { bytes, of: "the machine's memory".to_owned() });
        let groups = read(Path::new("/proc/self/cgroup")).unwrap_or_default();
        let limits = limit_files(&groups).into_iter().filter_map(|file| {
            let bytes = read(&file)?.trim().parse().ok().filter(|bytes| *bytes < UNLIMITED)?;
            Some(Self { bytes, of: file.display().to_string() })
        });
        limits.chain(machine).min_by_key(|limit| limit.bytes)
    }
}

impl fmt::Display for MemoryLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MiB ({})", self.bytes >> 20, self.of)
    }
}

/// Returns the files that may limit the memory of a process in these cgroups: of its own group and of
/// each group above it, in version 2 and in version 1. Those that do not exist set no limit.
fn limit_files(groups: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(number), Some(controllers), Some(group)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let (mounted, file): (&[&str], _) = if number == "0" {
            (&["", "unified"], "memory.max")
        } else if controllers.split(',').any(|name| name == "memory") {
            (&["memory"], "memory.limit_in_bytes")
        } else {
            continue;
        };
        for above in Path::new(group.trim_start_matches('/')).ancestors() {
            let folder = |mount: &&str| Path::new(MOUNTED).join(mount).join(above).join(file);
            files.extend(mounted.iter().map(folder));
        }
    }
    files
}

/// Returns the memory of a machine from its `/proc/meminfo`.
fn total_of(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1_024)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMINFO: &str = "MemTotal:       24684312 kB\nMemFree:         5118208 kB\n";

    fn found(files: &[(&str, &str)]) -> Option<(u64, String)> {
        let read = |path: &Path| {
            let file = files.iter().find(|(name, _)| Path::new(name) == path);
            file.map(|(_, text)| (*text).to_owned())
        };
        MemoryLimit::found(&read).map(|limit| (limit.bytes, limit.of))
    }

    #[test]
    fn the_lowest_limit_of_the_groups_above_counts() {
        let files = [
            ("/proc/meminfo", MEMINFO),
            ("/proc/self/cgroup", "0::/system.slice/coupond.service\n"),
            ("/sys/fs/cgroup/system.slice/coupond.service/memory.max", "max\n"),
            ("/sys/fs/cgroup/system.slice/memory.max", "268435456\n"),
        ];
        let expected = "/sys/fs/cgroup/system.slice/memory.max".to_owned();
        assert_eq!(found(&files), Some((1 << 28, expected)));
    }

    #[test]
    fn groups_of_version_1_limit_as_well() {
        let of = |limit| {
            let file = "/sys/fs/cgroup/memory/node/memory.limit_in_bytes";
            let groups = "9:name=systemd:/\n4:cpu,memory:/node\n0::/\n";
            found(&[("/proc/meminfo", MEMINFO), ("/proc/self/cgroup", groups), (file, limit)])
        };
        assert_eq!(of("1073741824\n").map(|limit| limit.0), Some(1 << 30));
        let machine = Some((24_684_312 << 10, "the machine's memory".to_owned()));
        assert_eq!(of("9223372036854771712\n"), machine, "that is no limit");
    }

    #[test]
    fn without_a_group_the_machine_limits() {
        assert_eq!(
            found(&[("/proc/meminfo", MEMINFO)]).map(|limit| limit.0),
            Some(24_684_312 << 10)
        );
        assert_eq!(found(&[]), None);
        let broken = [("/proc/meminfo", "MemTotal: many kB\n"), ("/proc/self/cgroup", "0\n:\n\n")];
        assert_eq!(found(&broken), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_has_a_limit() {
        assert!(MemoryLimit::of_process().is_some_and(|limit| limit.bytes > 1 << 20));
    }
}
