//! Checks whether the process may open more files before it writes.
//!
//! The database writes memtables to tables in threads of its own. One that finds no descriptor ends
//! all writing for good. So the committer writes only while there are some to spare, and waits
//! otherwise: what is queued is then written a little later.

use std::{fs::File, io, path::Path, sync::Arc, thread::park_timeout, time::Duration};

/// Descriptors that must be to spare: several times what the threads of the database open for a new
/// table, a merge of tables, and a new journal.
const SPARE: usize = 32;

/// Bytes written after which descriptors are counted again: far below what makes a memtable full.
const CHECK_BYTES: u64 = 1_024 * 1_024;

/// Pause before descriptors are counted again when there were too few.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// Returns whether the process may open [`SPARE`] more files.
pub(super) type HasSpare = Arc<dyn Fn() -> io::Result<()> + Send + Sync>;

/// Tries to open so many descriptors of the folder, and closes them again.
pub(super) fn has_spare(folder: &Path) -> io::Result<HasSpare> {
    let folder = File::open(folder)?;
    Ok(Arc::new(move || {
        let opened: io::Result<Vec<File>> = (0..SPARE).map(|_| folder.try_clone()).collect();
        opened.map(drop)
    }))
}

/// The committer's view of the descriptors to spare.
pub(super) struct Files {
    has_spare: HasSpare,
    written: u64,
}

impl Files {
    pub(super) fn new(has_spare: HasSpare) -> Self {
        // Counted before the first write.
        Self { has_spare, written: CHECK_BYTES }
    }

    /// Waits until there are descriptors to spare, if so many bytes were written since they were
    /// counted that a memtable may become full.
    pub(super) fn await_spare(&mut self, bytes: u64) {
        self.written = self.written.saturating_add(bytes);
        if self.written < CHECK_BYTES {
            return;
        }
        self.written = 0;
        let mut was_short = false;
        while let Err(error) = (self.has_spare)() {
            if !was_short {
                tracing::error!(
                    %error,
                    "no file descriptors to spare, writing waits; raise the limit of open files"
                );
            }
            was_short = true;
            park_timeout(RETRY_AFTER);
        }
        if was_short {
            tracing::info!("file descriptors to spare again, writing goes on");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn writing_waits_for_descriptors() {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        let mut files = Files::new(Arc::new(move || match count.fetch_add(1, Ordering::Relaxed) {
            0 => Err(io::Error::other("too many open files")),
            _ => Ok(()),
        }));
        files.await_spare(0);
        assert_eq!(asked.load(Ordering::Relaxed), 2, "asked until there are some");
        files.await_spare(CHECK_BYTES - 1);
        assert_eq!(asked.load(Ordering::Relaxed), 2);
        files.await_spare(1);
        assert_eq!(asked.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn a_process_with_few_files_has_descriptors_to_spare() {
        (has_spare(&std::env::temp_dir()).unwrap())().unwrap();
    }
}
