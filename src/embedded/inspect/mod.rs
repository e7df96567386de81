//! Inspects a data folder before the database opens it, and compares what the database then found
//! with the high-water file.
//!
//! The database repairs a folder as it opens it: it cuts journals and removes files that it does
//! not know. Damage that must not be "repaired" that way is therefore found first. A folder that is
//! refused stays as it is.

use std::{
    fs::OpenOptions,
    io,
    path::{Path, PathBuf},
};

use super::{
    error::OpenError,
    high_water::{self, HighWaterMark, HighWaterReading},
    journal::{self, END_MARK, Scan},
    manifest::{self, KeyspaceError},
};

/// File with the format of the database. When the database is created, it is written last.
const FORMAT_FILE: &str = "version";
pub(super) const JOURNAL_EXTENSION: &str = "jnl";
const KEYSPACES: &str = "keyspaces";

/// Keyspace in which the database describes the other keyspaces.
const OWN_KEYSPACE: &str = "0";

/// Bytes behind the last intact batch that are searched for the remains of another, to log that
/// they are dropped. Larger than any batch that an append waits for.
const TORN_BYTES_MAX: u64 = 1 << 20;

/// Remedy for damage.
pub(super) const RESTORE: &str = "restore the data folder from a copy";

/// A data folder that the database may open.
#[derive(Debug)]
pub(super) struct Inspected {
    folder: PathBuf,
    /// Content of the high-water file, if there is one.
    mark: Option<HighWaterMark>,
    /// Number after the last batch in the journals; 0 if they hold none.
    next_batch: u64,
}

/// Inspects the data folder and the database in it. Cuts off a batch that a crash left incomplete
/// at the end of the journal and that was never acknowledged. Removes a database whose creation was
/// never completed. Changes nothing else.
///
/// # Errors
/// [`OpenError::Damaged`] if the files cannot be as they were written. Nothing is changed then.
pub(super) fn before_open(folder: &Path, database: &Path) -> Result<Inspected, OpenError> {
    let inspection = Inspection { folder, database };
    let mark = match inspection.io(high_water::read(folder))? {
        HighWaterReading::Mark(mark) => Some(mark),
        HighWaterReading::Absent => None,
        HighWaterReading::Unreadable => {
            return Err(inspection.records_lost("its high-water file is damaged".to_owned()));
        }
    };
    let acknowledged = mark.is_some_and(|mark| mark.records > 0);
    let mut inspected = Inspected { folder: folder.to_owned(), mark, next_batch: 0 };
    if inspection.is_unfinished()? {
        if acknowledged {
            return Err(inspection.records_lost("its files are missing".to_owned()));
        }
        inspection.remove_unfinished()?;
        return Ok(inspected);
    }
    let tables = inspection.check_keyspaces(acknowledged)?;
    let journals = inspection.journals()?;
    if let Some((active, scan)) = inspection.scan_all(&journals)? {
        inspected.next_batch = scan.last.map_or(0, |last| last + 1);
        let expected = mark.map_or(0, |mark| mark.next_batch);
        // Journals are removed once their batches are in tables. If no journal has a batch, only
        // the opened tables have the number, and `after_open` compares it.
        let may_be_in_tables = scan.last.is_none() && tables > 0;
        if inspected.next_batch < expected && !may_be_in_tables {
            let (path, end, next) = (active.display(), scan.end, inspected.next_batch);
            let detail = format!(
                "{path} ends at byte {end} before batch {next}, but batch {} was on disk",
                expected - 1
            );
            return Err(inspection.records_lost(detail));
        }
        inspection.cut(active, scan)?;
    }
    Ok(inspected)
}

impl Inspected {
    /// Compares the opened database with the high-water file: the number of its next batch, and the
    /// count of `records` that its partitions ever had. Returns the state that is now on disk.
    ///
    /// # Errors
    /// [`OpenError::Damaged`] if the database has less than the file claims.
    pub(super) fn after_open(
        &self,
        database: &Path,
        next_batch: u64,
        records: u64,
    ) -> Result<HighWaterMark, OpenError> {
        let mark = self.mark.unwrap_or_default();
        if next_batch < mark.next_batch || records < mark.records {
            let inspection = Inspection { folder: &self.folder, database };
            return Err(inspection.records_lost(format!(
                "its log has {records} records, but {} were acknowledged; its next batch is \
                 {next_batch}, but must be at least {}",
                mark.records, mark.next_batch
            )));
        }
        if self.mark.is_none() && records > 0 {
            tracing::warn!(
                records,
                high_water = %high_water::path(&self.folder).display(),
                "data folder has no high-water file, lost records cannot be detected at this start"
            );
        }
        // Opening synced the scanned journals, so their batches count as durable. The database's
        // own `next_batch` is not used: it includes numbers that the database took for itself.
        Ok(HighWaterMark { next_batch: mark.next_batch.max(self.next_batch), records, ..mark })
    }
}

/// The paths of one inspection.
struct Inspection<'a> {
    folder: &'a Path,
    database: &'a Path,
}

impl Inspection<'_> {
    fn io<T>(&self, result: io::Result<T>) -> Result<T, OpenError> {
        result.map_err(|source| OpenError::Inspect { path: self.database.to_owned(), source })
    }

    fn damaged(&self, detail: String, remedy: String) -> OpenError {
        OpenError::Damaged { path: self.database.to_owned(), detail, remedy }
    }

    /// Reports acknowledged records as lost. An operator who removes the high-water file accepts
    /// that, and the next start goes on with the records that are left.
    fn records_lost(&self, detail: String) -> OpenError {
        let high_water = high_water::path(self.folder);
        let remedy = format!(
            "{RESTORE}; or, to go on without the lost records, remove {}",
            high_water.display()
        );
        self.damaged(detail, remedy)
    }

    /// Returns whether the database was never created, or its creation was interrupted.
    fn is_unfinished(&self) -> Result<bool, OpenError> {
        let format = match std::fs::read(self.database.join(FORMAT_FILE)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return self.io(Err(error)),
        };
        if format.len() >= END_MARK.len() {
            return Ok(false);
        }
        // Keyspaces are created after the format file was written: with keyspaces, the file was
        // damaged later.
        let keyspaces = self.entries(&self.database.join(KEYSPACES))?;
        if !keyspaces.is_empty() {
            let format = self.database.join(FORMAT_FILE);
            let detail = format!("{} is missing or cut", format.display());
            return Err(self.damaged(detail, RESTORE.to_owned()));
        }
        Ok(true)
    }

    fn remove_unfinished(&self) -> Result<(), OpenError> {
        match std::fs::remove_dir_all(self.database) {
            Ok(()) => {
                tracing::info!("incomplete, empty database removed, creating it again");
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => self.io(Err(error)),
        }
    }

    /// Lists a folder; one that does not exist is empty.
    fn entries(&self, folder: &Path) -> Result<Vec<PathBuf>, OpenError> {
        let entries = match std::fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return self.io(Err(error)),
        };
        let paths = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>();
        self.io(paths)
    }

    /// Checks all keyspaces. Returns the number of tables, except the database's own.
    fn check_keyspaces(&self, acknowledged: bool) -> Result<usize, OpenError> {
        let mut tables = 0;
        for folder in self.entries(&self.database.join(KEYSPACES))? {
            if !folder.is_dir() {
                continue;
            }
            // The database removes an unfinished keyspace, which is right as long as no record was
            // acknowledged: keyspaces are finished before the first append.
            if !acknowledged && !self.io(manifest::is_finished(&folder))? {
                continue;
            }
            let found = manifest::check(&folder).map_err(|error| match error {
                KeyspaceError::Io { source, path } if source.kind() != io::ErrorKind::NotFound => {
                    OpenError::Inspect { path, source }
                }
                KeyspaceError::Io { path, .. } => {
                    self.damaged(format!("{} is missing", path.display()), RESTORE.to_owned())
                }
                KeyspaceError::Damaged { .. } => {
                    self.damaged(error.to_string(), RESTORE.to_owned())
                }
            })?;
            if folder.file_name().is_some_and(|name| name != OWN_KEYSPACE) {
                tables += found;
            }
        }
        Ok(tables)
    }

    /// Lists the journals, oldest first. Their numbers must have no gap.
    fn journals(&self) -> Result<Vec<PathBuf>, OpenError> {
        let mut journals = Vec::new();
        for path in self.entries(self.database)? {
            let is_journal = path.extension().is_some_and(|end| end == JOURNAL_EXTENSION);
            let number = path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok());
            if let Some(number) = number.filter(|_| is_journal) {
                journals.push((number, path));
            }
        }
        journals.sort();
        if let Some(pair) = journals.windows(2).find(|pair| pair[0].0 + 1 != pair[1].0) {
            let (before, after) = (pair[0].1.display(), pair[1].1.display());
            let detail = format!("a journal between {before} and {after} is missing");
            return Err(self.damaged(detail, RESTORE.to_owned()));
        }
        Ok(journals.into_iter().map(|(_, path)| path).collect())
    }

    /// Scans all journals. Returns the last one, with its scan.
    fn scan_all<'p>(&self, journals: &'p [PathBuf]) -> Result<Option<(&'p Path, Scan)>, OpenError> {
        let Some((active, closed)) = journals.split_last() else { return Ok(None) };
        let mut last = None;
        for journal in closed {
            let scan = self.io(journal::scan(journal, last))?;
            // A journal is synced before the next one is created. So only the last one can end in a
            // batch that a crash left incomplete.
            if !self.io(journal::is_blank(journal, scan.end, u64::MAX))? {
                let (path, end) = (journal.display(), scan.end);
                let detail = format!("{path} is unreadable from byte {end} on, but not the last");
                return Err(self.damaged(detail, RESTORE.to_owned()));
            }
            last = scan.last;
        }
        Ok(Some((active, self.io(journal::scan(active, last))?)))
    }

    /// Cuts the journal behind its last intact batch. The database would cut some incomplete
    /// batches too, but it fails on one with a hole in the middle.
    fn cut(&self, journal: &Path, scan: Scan) -> Result<(), OpenError> {
        let cut = || {
            let file = OpenOptions::new().write(true).open(journal)?;
            if file.metadata()?.len() == scan.end {
                return Ok(());
            }
            if !journal::is_blank(journal, scan.end, TORN_BYTES_MAX)? {
                tracing::info!(
                    journal = %journal.display(),
                    end = scan.end,
                    "incomplete, unacknowledged writes at the end of the journal dropped"
                );
            }
            file.set_len(scan.end)?;
            file.sync_all()
        };
        self.io(cut())
    }
}

#[cfg(test)]
mod tests;
