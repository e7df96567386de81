//! Checks whether the disk has room for more records.
//!
//! Without room only appends are refused. Rows are always written, so that every request that was
//! answered 2xx can still be decided and stored within the reserve.

use std::{
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Time between two checks, each of which costs a system call.
const CHECK_INTERVAL: Duration = Duration::from_millis(200);

/// Bytes written after which the disk is checked earlier: far below any sensible reserve.
const CHECK_BYTES: u64 = 16 * 1_024 * 1_024;

/// Returns how many bytes this process may still write to the file system of a path.
pub(super) type FreeBytes = fn(&Path) -> io::Result<u64>;

/// Asks the operating system.
pub(super) fn free_bytes(path: &Path) -> io::Result<u64> {
    let statistics = rustix::fs::statvfs(path)?;
    Ok(statistics.f_bavail.saturating_mul(statistics.f_frsize))
}

/// Space to keep free on the file system of a folder.
#[derive(Clone)]
pub(super) struct Reserve {
    pub(super) path: PathBuf,
    pub(super) bytes: u64,
    pub(super) free_bytes: FreeBytes,
}

impl Reserve {
    /// Returns the free bytes, and whether they are enough.
    fn check(&self) -> io::Result<(u64, bool)> {
        let free = (self.free_bytes)(&self.path)?;
        Ok((free, free >= self.bytes))
    }

    /// Returns whether space is known to be short. Asks the disk.
    pub(super) fn is_short(&self) -> bool {
        matches!(self.check(), Ok((_, false)))
    }

    /// Returns a message if appends are refused for lack of space. Blocks on a system call.
    pub(super) fn lacking(&self) -> Option<String> {
        let bytes = self.bytes;
        match self.check() {
            Ok((_, true)) => None,
            Ok((free, false)) => Some(format!(
                "low disk space: {free} bytes free, embedded.reserve_bytes is {bytes}"
            )),
            Err(error) => Some(format!("free space of the data folder is unknown: {error}")),
        }
    }
}

/// The committer's view of the free space: the last check, and the bytes written since.
pub(super) struct Space {
    reserve: Reserve,
    checked_at: Option<Instant>,
    written: u64,
    enough: bool,
}

impl Space {
    pub(super) fn new(reserve: Reserve) -> Self {
        Self { reserve, checked_at: None, written: 0, enough: true }
    }

    /// Counts bytes written since the last check.
    pub(super) fn wrote(&mut self, bytes: u64) {
        self.written = self.written.saturating_add(bytes);
    }

    /// Returns whether appends may be taken. Checks the disk if a check is due at `now`.
    pub(super) fn is_enough(&mut self, now: Instant) -> bool {
        let due =
            self.checked_at.is_none_or(|at| now.saturating_duration_since(at) >= CHECK_INTERVAL);
        if !due && self.written < CHECK_BYTES {
            return self.enough;
        }
        self.checked_at = Some(now);
        self.written = 0;
        match self.reserve.check() {
            Ok((free, enough)) => self.note(free, enough),
            // A folder that cannot be asked takes no records: most likely it is gone.
            Err(error) => {
                tracing::warn!(summed = true, %error, "free space of the data folder unknown, log refuses appends");
                self.enough = false;
            }
        }
        self.enough
    }

    fn note(&mut self, free: u64, enough: bool) {
        if enough != self.enough {
            let reserve = self.reserve.bytes;
            if enough {
                tracing::info!(free, reserve, "disk has free space again, log accepts appends");
            } else {
                tracing::warn!(free, reserve, "free space below the reserve, log refuses appends");
            }
        }
        self.enough = enough;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn space_is_checked_by_time_and_by_bytes() {
        use std::sync::atomic::{AtomicU64, Ordering};
        static FREE: AtomicU64 = AtomicU64::new(1_000);
        let free_bytes: FreeBytes = |_| Ok(FREE.load(Ordering::Relaxed));
        let mut space = Space::new(Reserve { path: PathBuf::new(), bytes: 500, free_bytes });
        let start = Instant::now();
        assert!(space.is_enough(start));
        FREE.store(499, Ordering::Relaxed);
        assert!(space.is_enough(start), "checked again too early");
        assert!(!space.is_enough(start + CHECK_INTERVAL));
        FREE.store(500, Ordering::Relaxed);
        space.wrote(CHECK_BYTES);
        assert!(space.is_enough(start + CHECK_INTERVAL));
    }

    #[test]
    fn the_operating_system_reports_free_space() {
        assert!(free_bytes(&std::env::temp_dir()).unwrap() > 0);
    }
}
