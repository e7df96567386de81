//! Whether the disk has room for more records.
//!
//! Rows of what is already in the log are always written; only new records are refused, so that
//! everything that was answered 2xx can still be settled from the reserve.

use std::{
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use tracing::{info, warn};

/// A look at the disk costs a system call: at most this often …
const CHECK_INTERVAL: Duration = Duration::from_millis(200);

/// … or after this many bytes, far below any sensible reserve.
const CHECK_BYTES: u64 = 16 * 1_024 * 1_024;

/// Asks how many bytes are free for this process where `Path` is.
pub(super) type FreeBytes = fn(&Path) -> io::Result<u64>;

/// The operating system's answer.
pub(super) fn free_bytes(path: &Path) -> io::Result<u64> {
    let statistics = rustix::fs::statvfs(path)?;
    Ok(statistics.f_bavail.saturating_mul(statistics.f_frsize))
}

/// How much space is to stay free where a folder is.
#[derive(Clone)]
pub(super) struct Reserve {
    pub(super) path: PathBuf,
    pub(super) bytes: u64,
    pub(super) ask: FreeBytes,
}

impl Reserve {
    /// The bytes that are free, and whether they are enough.
    fn look(&self) -> io::Result<(u64, bool)> {
        let free = (self.ask)(&self.path)?;
        Ok((free, free >= self.bytes))
    }

    /// Why no new record is taken now, if so. Asks the disk: not to be called where others wait.
    pub(super) fn lacking(&self) -> Option<String> {
        let (free, enough) = self.look().ok()?;
        let bytes = self.bytes;
        (!enough).then(|| {
            format!(
                "no space for records: {free} bytes are free, embedded.reserve_bytes is {bytes}"
            )
        })
    }
}

/// Watches the free space of one folder.
pub(super) struct Space {
    reserve: Reserve,
    asked_at: Option<Instant>,
    written: u64,
    enough: bool,
}

impl Space {
    pub(super) fn new(reserve: Reserve) -> Self {
        Self { reserve, asked_at: None, written: 0, enough: true }
    }

    /// Counts what was written since the last look.
    pub(super) fn wrote(&mut self, bytes: u64) {
        self.written = self.written.saturating_add(bytes);
    }

    /// Whether new records may be taken at `now`.
    pub(super) fn is_enough(&mut self, now: Instant) -> bool {
        let due = self
            .asked_at
            .is_none_or(|asked_at| now.saturating_duration_since(asked_at) >= CHECK_INTERVAL);
        if !due && self.written < CHECK_BYTES {
            return self.enough;
        }
        self.asked_at = Some(now);
        self.written = 0;
        match self.reserve.look() {
            Ok((free, enough)) => self.note(free, enough),
            Err(error) => warn!(%error, "free space of the data folder is unknown"),
        }
        self.enough
    }

    fn note(&mut self, free: u64, enough: bool) {
        if enough != self.enough {
            let reserve = self.reserve.bytes;
            if enough {
                info!(free, reserve, "there is space again, the log takes records");
            } else {
                warn!(free, reserve, "free space is below the reserve, the log takes no records");
            }
        }
        self.enough = enough;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_disk_is_asked_at_once_then_by_time_or_by_bytes() {
        use std::sync::atomic::{AtomicU64, Ordering};
        static FREE: AtomicU64 = AtomicU64::new(1_000);
        let ask: FreeBytes = |_| Ok(FREE.load(Ordering::Relaxed));
        let mut space = Space::new(Reserve { path: PathBuf::new(), bytes: 500, ask });
        let start = Instant::now();
        assert!(space.is_enough(start));
        FREE.store(499, Ordering::Relaxed);
        assert!(space.is_enough(start), "it is too early to ask again");
        assert!(!space.is_enough(start + CHECK_INTERVAL));
        FREE.store(500, Ordering::Relaxed);
        space.wrote(CHECK_BYTES);
        assert!(space.is_enough(start + CHECK_INTERVAL));
    }

    #[test]
    fn the_operating_system_knows_of_free_space() {
        assert!(free_bytes(&std::env::temp_dir()).unwrap() > 0);
    }
}
