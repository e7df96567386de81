//! Checks the parts of a keyspace that the database trusts without a check: its manifest, which
//! lists the tables, and the table of contents of each file.
//!
//! The database does verify the checksums of the blocks in a table. It never verifies the checksum
//! of the manifest (a file such as `v7`, which `current` names together with that checksum). And it
//! allocates a table of contents by a length that it reads before the checksum.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use xxhash_rust::xxh3::xxh3_128;

/// File that names the manifest in force.
const CURRENT: &str = "current";
const TABLES: &str = "tables";

/// Size of `current`: number of the manifest, its checksum, and the kind of checksum.
const CURRENT_BYTES: usize = 8 + 16 + 1;

/// Trailer of every file: magic bytes, format and kind of checksum, checksum, start and size of the
/// table of contents.
const TRAILER_BYTES: usize = 4 + 2 + 16 + 8 + 8;
const TRAILER_MARK: [u8; 6] = *b"SFA!\x01\x00";

/// Bytes before the entries of a table of contents: magic bytes and count.
const CONTENTS_HEAD_BYTES: usize = 4 + 4;

/// An entry of the manifest for one table: number, kind of checksum, checksum, base of its sequence
/// numbers.
const TABLE_BYTES: usize = 8 + 1 + 16 + 8;

/// Largest manifest and table of contents that are read: far more than tables for a billion records
/// need.
const BYTES_MAX: u64 = 64 * 1_024 * 1_024;

/// Why a keyspace did not pass the check.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeyspaceError {
    #[error("reading {}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{} {found}", path.display())]
    Damaged { path: PathBuf, found: &'static str },
}

/// Returns whether the creation of the keyspace in `folder` was completed. If not, it is empty.
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

/// Checks the manifest of the keyspace in `folder`, and that each listed table exists and has an
/// intact table of contents. Returns the number of tables.
pub(super) fn check(folder: &Path) -> Result<usize, KeyspaceError> {
    let path = folder.join(CURRENT);
    let current = read(&path)?;
    let damaged = || KeyspaceError::Damaged { path: path.clone(), found: "names no manifest" };
    let (number, checksum) = current.split_first_chunk::<8>().ok_or_else(damaged)?;
    if current.len() != CURRENT_BYTES || current.last() != Some(&0) {
        return Err(damaged());
    }
    let path = folder.join(format!("v{}", u64::from_le_bytes(*number)));
    let manifest = read(&path)?;
    let damaged = |found| KeyspaceError::Damaged { path: path.clone(), found };
    if checksum[..16] != xxh3_128(&manifest).to_le_bytes() {
        return Err(damaged("has a wrong checksum"));
    }
    let tables = tables(&manifest).ok_or_else(|| damaged("lists no tables"))?;
    for table in &tables {
        check_contents(&folder.join(TABLES).join(table.to_string()))?;
    }
    Ok(tables.len())
}

fn read(path: &Path) -> Result<Vec<u8>, KeyspaceError> {
    let failed = |source| KeyspaceError::Io { path: path.to_owned(), source };
    if std::fs::metadata(path).map_err(failed)?.len() > BYTES_MAX {
        return Err(KeyspaceError::Damaged { path: path.to_owned(), found: "is too large" });
    }
    std::fs::read(path).map_err(failed)
}

/// Returns start, size and checksum of the table of contents of a file of `length` bytes.
fn contents(trailer: &[u8], length: u64) -> Option<(u64, u64, [u8; 16])> {
    let rest = trailer.strip_prefix(&TRAILER_MARK)?;
    let (checksum, rest) = rest.split_first_chunk::<16>()?;
    let (start, rest) = rest.split_first_chunk::<8>()?;
    let (size, _) = rest.split_first_chunk::<8>()?;
    let (start, size) = (u64::from_le_bytes(*start), u64::from_le_bytes(*size));
    let end = length.checked_sub(TRAILER_BYTES as u64)?;
    // The table of contents is directly before the trailer. Its size is checked before the caller
    // allocates memory for it.
    let fits = start.checked_add(size) == Some(end) && size <= BYTES_MAX;
    fits.then_some((start, size, *checksum))
}

fn check_contents(path: &Path) -> Result<(), KeyspaceError> {
    let failed = |source| KeyspaceError::Io { path: path.to_owned(), source };
    let found = "has no intact table of contents";
    let damaged = || KeyspaceError::Damaged { path: path.to_owned(), found };
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

/// Returns the numbers of the tables that an intact manifest lists.
pub(super) fn tables(manifest: &[u8]) -> Option<Vec<u64>> {
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

/// Decodes the table section of a manifest: levels of runs of tables.
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

    /// A keyspace with two tables, written by the database.
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
    fn a_keyspace_of_the_database_passes() {
        let (_folder, path) = keyspace();
        check(&path).unwrap();
        assert!(is_finished(&path).unwrap());
        let listed = tables(&std::fs::read(in_force(&path)).unwrap()).unwrap();
        assert!(!listed.is_empty());
        let found = |table: &u64| path.join(TABLES).join(table.to_string()).is_file();
        assert!(listed.iter().all(found), "{listed:?}");
    }

    #[test]
    fn a_flipped_bit_in_a_manifest_is_noticed() {
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
        // The database ignores a table that no manifest lists, so it is no damage.
        let stray = path.join(TABLES).join("77");
        std::fs::write(&stray, b"torn").unwrap();
        check(&path).unwrap();
        std::fs::remove_file(stray).unwrap();
        let table = files(&path.join(TABLES)).remove(0);
        let whole = std::fs::read(&table).unwrap();
        std::fs::write(&table, &whole[..whole.len() - 1]).unwrap();
        assert!(matches!(check(&path), Err(KeyspaceError::Damaged { .. })));
        std::fs::remove_file(&table).unwrap();
        assert!(matches!(check(&path), Err(KeyspaceError::Io { .. })));
    }

    #[test]
    fn an_unfinished_keyspace_is_recognised() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!is_finished(folder.path()).unwrap());
        std::fs::create_dir(folder.path().join(TABLES)).unwrap();
        assert!(!is_finished(folder.path()).unwrap());
        std::fs::write(folder.path().join(TABLES).join("1"), b"").unwrap();
        assert!(is_finished(folder.path()).unwrap());
    }
}
