//! Checks that folder and journal are still the ones that were opened.
//!
//! A file that was removed can still be written to and synced, and a folder that was unmounted or
//! replaced still takes what its open files get. Nothing of it would be found at the next start.

use std::{
    fs::{File, Metadata},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use rustix::fs::{StatVfsMountFlags, fstatvfs};

use super::{folder::LOCK_FILE, inspect::JOURNAL_EXTENSION};

/// Why the storage is not the one that was opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum Changed {
    /// A file or folder is gone, or cannot be asked for.
    #[error("{} was removed, unmounted or replaced while it was in use", path.display())]
    Gone {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system says.
        #[source]
        source: io::Error,
    },
    /// Another file or folder has the name.
    #[error("{} was removed, unmounted or replaced while it was in use", path.display())]
    Another {
        /// The file or folder.
        path: PathBuf,
    },
    /// The file system takes no more writes.
    #[error("the file system of {} has become read-only", path.display())]
    ReadOnly {
        /// The data folder.
        path: PathBuf,
    },
}

/// A file or folder with its name, as it was opened.
#[derive(Debug)]
struct Opened {
    path: PathBuf,
    file: File,
}

impl Opened {
    fn open(path: PathBuf) -> io::Result<Self> {
        Ok(Self { file: File::open(&path)?, path })
    }

    /// Returns an error unless the name still leads to what was opened.
    fn check(&self) -> Result<(), Changed> {
        let gone = |source| Changed::Gone { path: self.path.clone(), source };
        let opened = self.file.metadata().map_err(gone)?;
        let named = std::fs::metadata(&self.path).map_err(gone)?;
        let identity = |of: &Metadata| (of.dev(), of.ino());
        if opened.nlink() == 0 || identity(&opened) != identity(&named) {
            return Err(Changed::Another { path: self.path.clone() });
        }
        Ok(())
    }
}

/// The data folder, its lock file, the database's folder and its newest journal.
#[derive(Debug)]
pub(super) struct OpenedStorage {
    fixed: [Opened; 3],
    database: PathBuf,
    journal: Opened,
    journal_number: u64,
}

impl OpenedStorage {
    /// Notes what was opened: `folder` is the data folder, `database` the open database in it.
    pub(super) fn note(folder: &Path, database: &Path) -> io::Result<Self> {
        let newest = std::fs::read_dir(database)?
            .filter_map(|entry| journal_number(&entry.ok()?.path()))
            .max()
            .ok_or_else(|| io::Error::other("the open database has no journal"))?;
        Ok(Self {
            fixed: [
                Opened::open(folder.to_owned())?,
                Opened::open(folder.join(LOCK_FILE))?,
                Opened::open(database.to_owned())?,
            ],
            database: database.to_owned(),
            journal: Opened::open(journal_path(database, newest))?,
            journal_number: newest,
        })
    }

    /// Returns an error if anything is not what was opened. Costs ten system calls, which do not
    /// wait for a local disk.
    pub(super) fn check(&mut self) -> Result<(), Changed> {
        self.follow_journal();
        self.fixed.iter().chain([&self.journal]).try_for_each(Opened::check)?;
        let [folder, ..] = &self.fixed;
        let statistics = fstatvfs(&folder.file)
            .map_err(|error| Changed::Gone { path: folder.path.clone(), source: error.into() })?;
        if statistics.f_flag.contains(StatVfsMountFlags::RDONLY) {
            return Err(Changed::ReadOnly { path: folder.path.clone() });
        }
        Ok(())
    }

    /// Takes up the journal that the database writes after it has filled one. It numbers them one
    /// by one, and removes a full one only later.
    fn follow_journal(&mut self) {
        while let Ok(next) = Opened::open(journal_path(&self.database, self.journal_number + 1)) {
            self.journal = next;
            self.journal_number += 1;
        }
    }
}

fn journal_path(database: &Path, number: u64) -> PathBuf {
    database.join(number.to_string()).with_extension(JOURNAL_EXTENSION)
}

fn journal_number(path: &Path) -> Option<u64> {
    let number = path.file_stem()?.to_str()?.parse().ok()?;
    (path == journal_path(path.parent()?, number)).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes a data folder with two journals, and notes it.
    fn noted(parent: &Path) -> (PathBuf, PathBuf, OpenedStorage) {
        let folder = parent.join("data");
        let database = folder.join("database");
        std::fs::create_dir_all(&database).unwrap();
        std::fs::write(folder.join(LOCK_FILE), "").unwrap();
        std::fs::write(database.join("3.jnl"), "full").unwrap();
        std::fs::write(database.join("4.jnl"), "").unwrap();
        let storage = OpenedStorage::note(&folder, &database).unwrap();
        (folder, database, storage)
    }

    #[test]
    fn a_full_journal_may_go() {
        let parent = tempfile::tempdir().unwrap();
        let (_, database, mut storage) = noted(parent.path());
        std::fs::remove_file(database.join("3.jnl")).unwrap();
        storage.check().unwrap();
        // The database fills 4, makes 5 and 6, and removes 4.
        std::fs::write(database.join("5.jnl"), "").unwrap();
        std::fs::write(database.join("6.jnl"), "").unwrap();
        std::fs::remove_file(database.join("4.jnl")).unwrap();
        storage.check().unwrap();
        std::fs::remove_file(database.join("6.jnl")).unwrap();
        storage.check().unwrap_err();
    }

    #[test]
    fn what_was_removed_or_replaced_is_noticed() {
        type Harm = fn(&Path, &Path);
        let copied = |folder: &Path| {
            let aside = folder.with_extension("old");
            std::fs::rename(folder, &aside).unwrap();
            std::fs::create_dir_all(folder.join("database")).unwrap();
            for name in [LOCK_FILE, "database/3.jnl", "database/4.jnl"] {
                std::fs::copy(aside.join(name), folder.join(name)).unwrap();
            }
        };
        let harms: [(&str, Harm); 6] = [
            ("all", |folder, _| std::fs::remove_dir_all(folder).unwrap()),
            ("lock", |folder, _| std::fs::remove_file(folder.join(LOCK_FILE)).unwrap()),
            ("journal", |_, database| std::fs::remove_file(database.join("4.jnl")).unwrap()),
            ("database", |folder, database| {
                std::fs::rename(database, folder.join("elsewhere")).unwrap();
                std::fs::create_dir(database).unwrap();
            }),
            ("moved", |folder, _| std::fs::rename(folder, folder.with_extension("old")).unwrap()),
            ("another file", |_, database| {
                std::fs::rename(database.join("3.jnl"), database.join("4.jnl")).unwrap();
            }),
        ];
        for (name, harm) in harms {
            let parent = tempfile::tempdir().unwrap();
            let (folder, database, mut storage) = noted(parent.path());
            storage.check().unwrap();
            harm(&folder, &database);
            let changed = storage.check().expect_err(name);
            assert!(changed.to_string().contains("while it was in use"), "{name}: {changed}");
        }
        let parent = tempfile::tempdir().unwrap();
        let (folder, _, mut storage) = noted(parent.path());
        copied(&folder);
        storage.check().unwrap_err();
    }
}
