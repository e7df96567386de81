//! How many connections fit into the limit of open files.

use rustix::process::{Resource, getrlimit};

use super::ServeError;
use crate::embedded::TABLE_FILES_MAX;

/// Fewest open files with which a node starts.
const OPEN_FILES_MIN: u64 = 1_024;

/// Files that no client may take: the tables of the embedded database twice over, for its journals,
/// for Kafka and for the CQL database.
const RESERVE: usize = 2 * TABLE_FILES_MAX;

/// Connections of the public listener, if files allow it: more than `api.waiters_max`, so that waiters
/// run out first.
const PUBLIC_MAX: usize = 16_384;

/// Connections of the admin listener, if files allow it: a thousand consoles, and some tools.
const ADMIN_MAX: usize = 1_100;

/// How many connections each listener may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Connections {
    pub(super) public: usize,
    pub(super) admin: usize,
}

impl Connections {
    /// Shares out what this process may open.
    ///
    /// # Errors
    /// [`ServeError::Unfit`] below 1,024.
    pub(super) fn allowed() -> Result<Self, ServeError> {
        let open_files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let connections = Self::within(open_files)?;
        let Self { public, admin } = connections;
        if public < PUBLIC_MAX {
            tracing::warn!(
                open_files,
                public,
                admin,
                "few connections: raise the limit of open files to 65536 (ulimit -n, LimitNOFILE=)"
            );
        } else {
            tracing::info!(open_files, public, admin, "connections of the listeners");
        }
        Ok(connections)
    }

    fn within(open_files: u64) -> Result<Self, ServeError> {
        if open_files < OPEN_FILES_MIN {
            return Err(ServeError::unfit(
                format!(
                    "this process may open {open_files} files, at least {OPEN_FILES_MIN} are needed"
                ),
                "raise the limit to 65536: ulimit -n 65536 in a shell, LimitNOFILE=65536 for \
                 systemd, --ulimit nofile=65536 for a container",
            ));
        }
        let rest = usize::try_from(open_files).unwrap_or(usize::MAX) - RESERVE;
        let admin = ADMIN_MAX.min(rest / 4);
        Ok(Self { public: PUBLIC_MAX.min(rest - admin), admin })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_follow_the_limit_of_open_files() {
        for (open_files, public, admin) in [
            (1_024, 384, 128),
            (4_096, 2_688, 896),
            (20_000, 16_384, 1_100),
            (u64::MAX, 16_384, 1_100),
        ] {
            let connections = Connections::within(open_files).unwrap();
            assert_eq!(connections, Connections { public, admin }, "{open_files}");
        }
    }

    #[test]
    fn too_few_open_files_are_a_matter_of_configuration() {
        let error = Connections::within(1_023).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("may open 1023 files"), "{error}");
        assert!(error.to_string().contains("ulimit -n 65536"), "{error}");
    }
}
