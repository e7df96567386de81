//! Looks at a data folder before the database opens it, and compares what the database found with
//! what was acknowledged.
//!
//! The database repairs as it opens: it cuts journals and removes what it does not know. So what
//! it must not repair is found first, and a folder that is refused is left as it was.

use std::{
    fs::OpenOptions,
    io,
    path::{Path, PathBuf},
};

use tracing::{info, warn};

use super::{
    database::OpenError,
    high_water::{self, Durable, HighWaterReading},
    journal::{self, END_MARK, Scan},
    manifest::{self, Fault},
};

/// Says which format the database has; written when everything else of it is on disk.
const FORMAT_FILE: &str = "version";
const JOURNAL_EXTENSION: &str = "jnl";
const KEYSPACES: &str = "keyspaces";

/// The keyspace in which the database keeps what it knows of the others.
const OWN_KEYSPACE: &str = "0";

/// Bytes after the end of a journal that are looked at, to tell in the log whether a crash tore a
/// batch: larger than any batch that an append waits for.
const TORN_BYTES_MAX: u64 = 1 << 20;

const RESTORE: &str = "restore the data folder from a copy";

/// A data folder that the database may open.
#[derive(Debug)]
pub(super) struct Inspected {
    folder: PathBuf,
    promised: Option<Durable>,
    /// What follows the last batch in the journals; 0 if they hold none.
    next_batch: u64,
}

/// Looks at the data folder and at the database in it. What a crash left of a batch at the end of
/// the journal, of which nobody has heard, is cut off; a creation that never ended is removed.
/// Nothing else is changed.
///
/// # Errors
/// [`OpenError::Damaged`] when what is there can't be what was written; nothing was changed then.
pub(super) fn before_open(folder: &Path, database: &Path) -> Result<Inspected, OpenError> {
    let inspection = Inspection { folder, database };
    let promised = match inspection.done(high_water::ask(folder))? {
        HighWaterReading::Says(durable) => Some(durable),
        HighWaterReading::Absent => None,
        HighWaterReading::Unreadable => {
            return Err(inspection.lost("its high-water file can't be read".to_owned()));
        }
    };
    let acknowledged = promised.is_some_and(|durable| durable.records > 0);
    let mut inspected = Inspected { folder: folder.to_owned(), promised, next_batch: 0 };
    if inspection.is_unfinished()? {
        if acknowledged {
            return Err(inspection.lost("it was never finished".to_owned()));
        }
        inspection.remove_unfinished()?;
        return Ok(inspected);
    }
    let tables = inspection.check_keyspaces(acknowledged)?;
    let journals = inspection.journals()?;
    if let Some((active, scan)) = inspection.scan_all(&journals)? {
        inspected.next_batch = scan.last.map_or(0, |last| last + 1);
        let promised = promised.map_or(0, |durable| durable.next_batch);
        // Where journals were just begun anew, only the open tables know.
        let may_be_in_tables = scan.last.is_none() && tables > 0;
        if inspected.next_batch < promised && !may_be_in_tables {
            let (path, end, next) = (active.display(), scan.end, inspected.next_batch);
            let detail = format!(
                "{path} ends at byte {end} before batch {next}, and batch {} was on disk",
                promised - 1
            );
            return Err(inspection.lost(detail));
        }
        inspection.cut(active, scan)?;
    }
    Ok(inspected)
}

impl Inspected {
    /// Compares what the database found with what was acknowledged: the number of its next batch,
    /// and how many `records` its partitions have had. What is certainly on disk now.
    ///
    /// # Errors
    /// [`OpenError::Damaged`] when something is missing.
    pub(super) fn after_open(
        &self,
        database: &Path,
        next_batch: u64,
        records: u64,
    ) -> Result<Durable, OpenError> {
        let promised = self.promised.unwrap_or_default();
        if next_batch < promised.next_batch || records < promised.records {
            let inspection = Inspection { folder: &self.folder, database };
            return Err(inspection.lost(format!(
                "its log has had {records} records and {} were acknowledged; its next batch is \
                 {next_batch} and was to be {} or later",
                promised.records, promised.next_batch
            )));
        }
        if self.promised.is_none() && records > 0 {
            let high_water = high_water::path(&self.folder);
            warn!(
                records,
                high_water = %high_water.display(),
                "the data folder has no high-water file (an older version made none, or it was removed): \
                 whether its log lost its end can't be told this time"
            );
        }
        Ok(Durable { next_batch: promised.next_batch.max(self.next_batch), records })
    }
}

/// One look at a folder.
struct Inspection<'a> {
    folder: &'a Path,
    database: &'a Path,
}

impl Inspection<'_> {
    fn done<T>(&self, result: io::Result<T>) -> Result<T, OpenError> {
        result.map_err(|source| OpenError::Inspect { path: self.database.to_owned(), source })
    }

    fn damaged(&self, detail: String, remedy: String) -> OpenError {
        OpenError::Damaged { path: self.database.to_owned(), detail, remedy }
    }

    /// The end of the log is gone: one may go on without it, but only who says so.
    fn lost(&self, detail: String) -> OpenError {
        let high_water = high_water::path(self.folder);
        let remedy = format!(
            "{RESTORE}, or, to go on without the records that are lost, remove {}",
            high_water.display()
        );
        self.damaged(detail, remedy)
    }

    /// Whether the database was never made, or a crash came while it was.
    fn is_unfinished(&self) -> Result<bool, OpenError> {
        let format = match std::fs::read(self.database.join(FORMAT_FILE)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return self.done(Err(error)),
        };
        if format.len() >= END_MARK.len() {
            return Ok(false);
        }
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
                info!("the database was never finished and holds nothing, it is made again");
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => self.done(Err(error)),
        }
    }

    /// What is in a folder; nothing if there is no such folder.
    fn entries(&self, folder: &Path) -> Result<Vec<PathBuf>, OpenError> {
        let entries = match std::fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return self.done(Err(error)),
        };
        let paths = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>();
        self.done(paths)
    }

    /// How many tables there are, apart from the database's own.
    fn check_keyspaces(&self, acknowledged: bool) -> Result<usize, OpenError> {
        let mut tables = 0;
        for folder in self.entries(&self.database.join(KEYSPACES))? {
            if !folder.is_dir() {
                continue;
            }
            if !acknowledged && !self.done(manifest::is_finished(&folder))? {
                continue;
            }
            let found = manifest::check(&folder).map_err(|fault| match fault {
                Fault::Io { source, path } if source.kind() != io::ErrorKind::NotFound => {
                    OpenError::Inspect { path, source }
                }
                Fault::Io { path, .. } => {
                    self.damaged(format!("{} is missing", path.display()), RESTORE.to_owned())
                }
                Fault::Damaged { .. } => self.damaged(fault.to_string(), RESTORE.to_owned()),
            })?;
            if folder.file_name().is_some_and(|name| name != OWN_KEYSPACE) {
                tables += found;
            }
        }
        Ok(tables)
    }

    /// The journals, oldest first.
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

    /// The last journal and what it holds. Those before it were on disk when it was begun.
    fn scan_all<'p>(&self, journals: &'p [PathBuf]) -> Result<Option<(&'p Path, Scan)>, OpenError> {
        let Some((active, closed)) = journals.split_last() else { return Ok(None) };
        let mut last = None;
        for journal in closed {
            let scan = self.done(journal::scan(journal, last))?;
            if !self.done(journal::is_blank(journal, scan.end, u64::MAX))? {
                let (path, end) = (journal.display(), scan.end);
                let detail = format!("{path} can't be read from byte {end} on, and others follow");
                return Err(self.damaged(detail, RESTORE.to_owned()));
            }
            last = scan.last;
        }
        Ok(Some((active, self.done(journal::scan(active, last))?)))
    }

    /// Cuts the journal behind its last whole batch.
    fn cut(&self, journal: &Path, scan: Scan) -> Result<(), OpenError> {
        let cut = || {
            let file = OpenOptions::new().write(true).open(journal)?;
            if file.metadata()?.len() == scan.end {
                return Ok(());
            }
            if !journal::is_blank(journal, scan.end, TORN_BYTES_MAX)? {
                info!(
                    journal = %journal.display(),
                    end = scan.end,
                    "a crash tore the last writes, of which nobody had heard; they are dropped"
                );
            }
            file.set_len(scan.end)?;
            file.sync_all()
        };
        self.done(cut())
    }
}

#[cfg(test)]
mod tests;
