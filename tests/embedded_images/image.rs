//! Images: data folders as a crash or a bad disk leaves them, made in memory, checked in parallel.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use super::{
    judge::{Contents, Fate, judge, read},
    origin::Files,
};

/// Most wrong answers that are printed.
const SHOWN_MAX: usize = 10;

/// Files that replace those of a good folder.
#[derive(Debug, Clone)]
pub(crate) struct Image {
    /// Describes the image in a failure.
    pub(crate) name: String,
    /// The new content by path; `None` removes the file.
    pub(crate) changed: Vec<(PathBuf, Option<Vec<u8>>)>,
    /// Number of acknowledged records of each partition.
    pub(crate) acknowledged: Vec<u64>,
}

/// Counts the fates of many images.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) fates: BTreeMap<Fate, usize>,
    pub(crate) wrong: Vec<String>,
}

impl Tally {
    pub(crate) fn count(&self, fate: Fate) -> usize {
        self.fates.get(&fate).copied().unwrap_or(0)
    }

    /// Prints one line of the table, and fails if an answer was wrong.
    pub(crate) fn print(&self, what: &str, started: Instant) {
        let images: usize = self.fates.values().sum::<usize>() + self.wrong.len();
        let count = |fate| self.count(fate);
        println!(
            "{what:<34} {images:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>6} {:>7.0}/s",
            count(Fate::Whole),
            count(Fate::Shorter),
            count(Fate::Refused),
            count(Fate::Reported),
            count(Fate::Panicked),
            self.wrong.len(),
            images as f64 / started.elapsed().as_secs_f64(),
        );
        let shown = self.wrong.iter().take(SHOWN_MAX).cloned().collect::<Vec<_>>().join("\n");
        assert!(self.wrong.is_empty(), "{what}: {} wrong\n{shown}", self.wrong.len());
    }
}

/// Prints the header of the table that [`Tally::print`] fills.
pub(crate) fn print_header() {
    println!(
        "{:<34} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>6}",
        "", "images", "whole", "shorter", "refused", "reported", "panicked", "wrong"
    );
}

/// Returns a folder in memory (`/dev/shm`) if there is one.
pub(crate) fn folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        tempfile::tempdir_in(memory).unwrap()
    } else {
        tempfile::tempdir().unwrap()
    }
}

/// Writes `files` with what the image changes to `folder`.
pub(crate) fn lay_out(folder: &Path, files: &Files, image: &Image) {
    let put = |path: &Path, bytes: &[u8]| {
        let path = folder.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    };
    let changed = |path: &Path| image.changed.iter().any(|(changed, _)| changed == path);
    for (path, bytes) in files.iter().filter(|(path, _)| !changed(path)) {
        put(path, bytes);
    }
    for (path, bytes) in &image.changed {
        if let Some(bytes) = bytes {
            put(path, bytes);
        }
    }
}

/// Checks `count` images of a good folder, each made by `make` from its number.
pub(crate) fn judge_all(
    files: &Files,
    truth: &Contents,
    count: usize,
    make: impl Fn(usize) -> Image + Sync,
) -> Tally {
    let next = AtomicUsize::new(0);
    let tally = Mutex::new(Tally::default());
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return;
                    }
                    let image = make(number);
                    let outcome = judge_one(files, truth, &image);
                    let mut tally = tally.lock().unwrap();
                    match outcome {
                        Ok(fate) => *tally.fates.entry(fate).or_default() += 1,
                        Err(wrong) => tally.wrong.push(format!("{}: {wrong}", image.name)),
                    }
                }
            });
        }
    });
    tally.into_inner().unwrap()
}

/// Returns the fate of one image. An error is a wrong answer.
pub(crate) fn judge_one(files: &Files, truth: &Contents, image: &Image) -> Result<Fate, String> {
    let folder = folder();
    lay_out(folder.path(), files, image);
    let read = catch_unwind(AssertUnwindSafe(|| read(folder.path(), Some(truth))));
    match read {
        Ok(Ok(found)) => judge(&found, truth, &image.acknowledged),
        Ok(Err((fate, _))) => Ok(fate),
        Err(_) => Ok(Fate::Panicked),
    }
}
