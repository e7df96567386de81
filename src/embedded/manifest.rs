//! Checks what the database reads without checking: which tables belong to a keyspace, and the
//! tables of contents of its files.
//!
//! The blocks of a table carry checksums that the database looks at whenever it reads one. The
//! manifest (`v7`, named in `current` with its checksum) carries one that it never looks at, and
//! a table of contents is sized by a number in front of its checksum.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use xxhash_rust::xxh3::xxh3_128;

/// Names the manifest in force.
const CURRENT: &str = "current";
const TABLES: &str = "tables";

/// Number of the manifest, its checksum, and the kind of checksum.
const CURRENT_BYTES: usize = 8 + 16 + 1;

/// At the end of every file: mark, checksum, and where the table of contents is.
const TRAILER_BYTES: usize = 4 + 2 + 16 + 8 + 8;
const TRAILER_MARK: [u8; 6] = *b"SFA!\x01\x00";

/// In front of the entries of a table of contents: its mark and their count.
const CONTENTS_HEAD_BYTES: usize = 4 + 4;

/// A table in the manifest: number, kind of checksum, checksum, base of its numbers.
const TABLE_BYTES: usize = 8 + 1 + 16 + 8;

/// Largest manifest and table of contents that are looked at: far above what tables for a billion
/// records come to.
const BYTES_MAX: u64 = 64 * 1_024 * 1_024;

/// What is wrong with a keyspace: the file, and what was found in it.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("reading {}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{} {found}", path.display())]
    Damaged { path: PathBuf, found: &'static str },
}

/// Whether the keyspace in `folder` was ever finished. One that was not holds nothing.
pub(super) fn is_finished(folder: &Path) -> io::Result<bool> {
    if folder.join(CURRENT).try_exists()? {
        return Ok(true);
    }
    match std::fs::read_dir(folder.join(TABLES)) {
        Ok(mut tables) => Ok(tables.next().is_some()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Checks the manifest in force of the keyspace in `folder`, and that every table in it is there
/// with its table of contents whole. How many tables there are.
pub(super) fn check(folder: &Path) -> Result<usize, Fault> {
    let path = folder.join(CURRENT);
    let current = read(&path)?;
    let damaged = || Fault::Damaged { path: path.clone(), found: "names no manifest" };
    let (number, checksum) = current.split_first_chunk::<8>().ok_or_else(damaged)?;
    if current.len() != CURRENT_BYTES || current.last() != Some(&0) {
        return Err(damaged());
    }
    let path = folder.join(format!("v{}", u64::from_le_bytes(*number)));
    let manifest = read(&path)?;
    let damaged = |found| Fault::Damaged { path: path.clone(), found };
    if checksum[..16] != xxh3_128(&manifest).to_le_bytes() {
        return Err(damaged("does not have the checksum that it was written with"));
    }
    let tables = tables(&manifest).ok_or_else(|| damaged("lists no tables"))?;
    for table in &tables {
        check_contents(&folder.join(TABLES).join(table.to_string()))?;
    }
    Ok(tables.len())
}

fn read(path: &Path) -> Result<Vec<u8>, Fault> {
    let failed = |source| Fault::Io { path: path.to_owned(), source };
    if std::fs::metadata(path).map_err(failed)?.len() > BYTES_MAX {
        return Err(Fault::Damaged { path: path.to_owned(), found: "is too large" });
    }
    std::fs::read(path).map_err(failed)
}

/// Where the table of contents of a file of `length` bytes is, and its checksum.
fn contents(trailer: &[u8], length: u64) -> Option<(u64, u64, [u8; 16])> {
    let rest = trailer.strip_prefix(&TRAILER_MARK)?;
    let (checksum, rest) = rest.split_first_chunk::<16>()?;
    let (start, rest) = rest.split_first_chunk::<8>()?;
    let (size, _) = rest.split_first_chunk::<8>()?;
    let (start, size) = (u64::from_le_bytes(*start), u64::from_le_bytes(*size));
    let end = length.checked_sub(TRAILER_BYTES as u64)?;
    let fits = start.checked_add(size) == Some(end) && size <= BYTES_MAX;
    fits.then_some((start, size, *checksum))
}

fn check_contents(path: &Path) -> Result<(), Fault> {
    let failed = |source| Fault::Io { path: path.to_owned(), source };
    let damaged = || Fault::Damaged { path: path.to_owned(), found: "has no table of contents" };
    let file = File::open(path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    let at = length.checked_sub(TRAILER_BYTES as u64).ok_or_else(damaged)?;
    let mut trailer = [0; TRAILER_BYTES];
    file.read_exact_at(&mut trailer, at).map_err(failed)?;
    let (start, size, checksum) = contents(&trailer, length).ok_or_else(damaged)?;
    let mut bytes = vec![0; usize::try_from(size).map_err(|_| damaged())?];
    file.read_exact_at(&mut bytes, start).map_err(failed)?;
    if xxh3_128(&bytes).to_le_bytes() == checksum { Ok(()) } else { Err(damaged()) }
}

/// Numbers of the tables that a whole manifest lists.
fn tables(manifest: &[u8]) -> Option<Vec<u64>> {
    let trailer = manifest.get(manifest.len().checked_sub(TRAILER_BYTES)?..)?;
    let (start, size, _) = contents(trailer, manifest.len() as u64)?;
    let (start, size) = (usize::try_from(start).ok()?, usize::try_from(size).ok()?);
    let mut entries = manifest.get(start..start + size)?.get(CONTENTS_HEAD_BYTES..)?;
    loop {
        let (start, rest) = entries.split_first_chunk::<8>()?;
        let (size, rest) = rest.split_first_chunk::<8>()?;
        let (name, rest) = rest.split_first_chunk::<2>()?;
        let (name, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*name)))?;
        entries = rest;
        if name == TABLES.as_bytes() {
            let start = usize::try_from(u64::from_le_bytes(*start)).ok()?;
            let size = usize::try_from(u64::from_le_bytes(*size)).ok()?;
            return numbers(manifest.get(start..start.checked_add(size)?)?);
        }
    }
}

/// Levels of runs of tables.
fn numbers(section: &[u8]) -> Option<Vec<u64>> {
    let mut numbers = Vec::new();
    let (levels, mut rest) = section.split_first()?;
    for _ in 0..*levels {
        let (runs, after) = rest.split_first()?;
        rest = after;
        for _ in 0..*runs {
            let (count, after) = rest.split_first_chunk::<4>()?;
            rest = after;
            for _ in 0..u32::from_le_bytes(*count) {
                let (table, after) = rest.split_at_checked(TABLE_BYTES)?;
                numbers.push(u64::from_le_bytes(*table.first_chunk()?));
                rest = after;
            }
        }
    }
    Some(numbers)
}

#[cfg(test)]
mod tests {
    use fjall::{Database, KeyspaceCreateOptions};

    use super::*;

    /// A keyspace with two tables that the database itself wrote.
    fn keyspace() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::builder(folder.path()).open().unwrap();
        let keyspace = database.keyspace("k", KeyspaceCreateOptions::default).unwrap();
        for step in 0..2_u8 {
            keyspace.insert([step], vec![step; 100]).unwrap();
            keyspace.rotate_memtable_and_wait().unwrap();
        }
        let path = folder.path().join("keyspaces/1");
        (folder, path)
    }

    fn files(folder: &Path) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.is_file()).collect()
    }

    fn in_force(folder: &Path) -> PathBuf {
        let current = std::fs::read(folder.join(CURRENT)).unwrap();
        folder.join(format!("v{}", u64::from_le_bytes(*current.first_chunk().unwrap())))
    }

    #[test]
    fn what_the_database_wrote_is_whole() {
        let (_folder, path) = keyspace();
        check(&path).unwrap();
        assert!(is_finished(&path).unwrap());
        let listed = tables(&std::fs::read(in_force(&path)).unwrap()).unwrap();
        assert!(!listed.is_empty());
        let found = |table: &u64| path.join(TABLES).join(table.to_string()).is_file();
        assert!(listed.iter().all(found), "{listed:?}");
    }

    #[test]
    fn every_flipped_bit_of_a_manifest_is_noticed() {
        let (_folder, path) = keyspace();
        for file in [path.join(CURRENT), in_force(&path)] {
            let whole = std::fs::read(&file).unwrap();
            let mut spoilt = whole.clone();
            for bit in 0..whole.len() * 8 {
                spoilt[bit / 8] ^= 1 << (bit % 8);
                std::fs::write(&file, &spoilt).unwrap();
                spoilt[bit / 8] ^= 1 << (bit % 8);
                assert!(check(&path).is_err(), "bit {bit} of {}", file.display());
            }
            std::fs::write(&file, whole).unwrap();
        }
    }

    #[test]
    fn a_missing_or_cut_table_is_found() {
        let (_folder, path) = keyspace();
        let stray = path.join(TABLES).join("77");
        std::fs::write(&stray, b"torn").unwrap();
        check(&path).unwrap();
        std::fs::remove_file(stray).unwrap();
        let table = files(&path.join(TABLES)).remove(0);
        let whole = std::fs::read(&table).unwrap();
        std::fs::write(&table, &whole[..whole.len() - 1]).unwrap();
        assert!(matches!(check(&path), Err(Fault::Damaged { .. })));
        std::fs::remove_file(&table).unwrap();
        assert!(matches!(check(&path), Err(Fault::Io { .. })));
    }

    #[test]
    fn a_keyspace_that_was_never_finished_holds_nothing() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!is_finished(folder.path()).unwrap());
        std::fs::create_dir(folder.path().join(TABLES)).unwrap();
        assert!(!is_finished(folder.path()).unwrap());
        std::fs::write(folder.path().join(TABLES).join("1"), b"").unwrap();
        assert!(is_finished(folder.path()).unwrap());
    }
}
