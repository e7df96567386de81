//! The high-water file: a small file beside the database that records how much of it is on disk.
//!
//! The committer writes the file after each fsync of the journal, without waiting for the disk. So
//! the file may lag behind the journal but never claims more than is on disk. A start that finds
//! less in the database than the file claims refuses, because acknowledged records are missing.
//!
//! Two slots are written in turn. Each is within one sector, on a separate page, so a power cut can
//! damage only the slot that was being written.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use xxhash_rust::xxh3::xxh3_128;

use crate::{domain::ids::Timestamp, wire::FORMAT};

const FILE: &str = "high_water";
const DRAFT: &str = "high_water.draft";

/// Access for the owner only.
const MODE: u32 = 0o600;

/// Start of every slot: name and format.
const MARK: [u8; 8] = [b'c', b'o', b'u', b'p', b'o', b'n', b'd', FORMAT];

/// `MARK`, number of the write, next batch, records, time.
const CONTENT_BYTES: usize = 40;
const SLOT_BYTES: usize = CONTENT_BYTES + 16;

/// Stands for no time.
const NEVER: i64 = i64::MIN;

/// Distance of the two slots: a page, so that writing one slot never touches the other.
const SLOT_DISTANCE: u64 = 4_096;

/// A state of the database that was on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct HighWaterMark {
    /// Least number that the next batch can get. 0 if no batch was written.
    pub(super) next_batch: u64,
    /// Records ever appended, over all partitions, including trimmed ones.
    pub(super) records: u64,
    /// Wall-clock time of the last write with records; `None` before the first.
    pub(super) written_at: Option<Timestamp>,
}

impl HighWaterMark {
    pub(super) fn encode(self, number: u64) -> [u8; SLOT_BYTES] {
        let mut slot = [0; SLOT_BYTES];
        slot[..8].copy_from_slice(&MARK);
        slot[8..16].copy_from_slice(&number.to_le_bytes());
        slot[16..24].copy_from_slice(&self.next_batch.to_le_bytes());
        slot[24..32].copy_from_slice(&self.records.to_le_bytes());
        let time = self.written_at.map_or(NEVER, |time| time.0);
        slot[32..CONTENT_BYTES].copy_from_slice(&time.to_le_bytes());
        let checksum = xxh3_128(&slot[..CONTENT_BYTES]);
        slot[CONTENT_BYTES..].copy_from_slice(&checksum.to_le_bytes());
        slot
    }

    /// Returns the number of the write and its mark, or `None` if the slot is damaged.
    fn decode(slot: &[u8]) -> Option<(u64, Self)> {
        let (content, checksum) = slot.split_at_checked(CONTENT_BYTES)?;
        let whole = checksum == xxh3_128(content).to_le_bytes() && content.starts_with(&MARK);
        let field = |start: usize| Some(u64::from_le_bytes(content[start..][..8].try_into().ok()?));
        let time = field(32)?.cast_signed();
        let written_at = (time != NEVER).then_some(Timestamp(time));
        let mark = Self { next_batch: field(16)?, records: field(24)?, written_at };
        whole.then_some((field(8)?, mark))
    }
}

/// Result of reading the high-water file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HighWaterReading {
    /// There is no file, as in a new folder.
    Absent,
    /// Both slots are damaged.
    Unreadable,
    /// The mark of the newest undamaged slot.
    Mark(HighWaterMark),
}

/// Returns the path of the high-water file in a data folder.
pub(super) fn path(folder: &Path) -> PathBuf {
    folder.join(FILE)
}

/// Reads the high-water file of a data folder.
pub(super) fn read(folder: &Path) -> io::Result<HighWaterReading> {
    match std::fs::read(path(folder)) {
        Ok(bytes) => Ok(newest(&bytes)
            .map_or(HighWaterReading::Unreadable, |(_, mark)| HighWaterReading::Mark(mark))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(HighWaterReading::Absent),
        Err(error) => Err(error),
    }
}

pub(super) fn newest(bytes: &[u8]) -> Option<(u64, HighWaterMark)> {
    let slots = [0, SLOT_DISTANCE as usize]
        .map(|start| HighWaterMark::decode(bytes.get(start..)?.get(..SLOT_BYTES)?));
    slots.into_iter().flatten().max_by_key(|(number, _)| *number)
}

/// The open high-water file, as the committer writes it.
#[derive(Debug)]
pub(super) struct HighWaterFile {
    file: File,
    number: u64,
}

impl HighWaterFile {
    /// Opens the file in `folder`, creating it if necessary, and writes `mark`. Durable on return.
    pub(super) fn open(folder: &Path, mark: HighWaterMark) -> io::Result<Self> {
        let path = path(folder);
        if !path.try_exists()? {
            create(folder, mark)?;
        }
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        let mut bytes = vec![0; SLOT_DISTANCE as usize + SLOT_BYTES];
        let read = file.read_at(&mut bytes, 0)?;
        let number = newest(&bytes[..read]).map_or(0, |(number, _)| number);
        let mut high_water = Self { file, number };
        high_water.write(mark)?;
        high_water.sync()?;
        Ok(high_water)
    }

    /// Writes a mark, without waiting for the disk.
    pub(super) fn write(&mut self, mark: HighWaterMark) -> io::Result<()> {
        self.number += 1;
        let slot = mark.encode(self.number);
        self.file.write_all_at(&slot, self.number % 2 * SLOT_DISTANCE)
    }

    /// Waits until the last mark is on disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

/// Creates the file with `mark` in both slots. It gets its name once it is on disk, so that a crash
/// leaves no half-written file.
fn create(folder: &Path, mark: HighWaterMark) -> io::Result<()> {
    let draft = folder.join(DRAFT);
    let mut file =
        OpenOptions::new().create(true).truncate(true).write(true).mode(MODE).open(&draft)?;
    let mut bytes = vec![0; 2 * SLOT_DISTANCE as usize];
    for number in 0..2 {
        let start = number * SLOT_DISTANCE as usize;
        bytes[start..start + SLOT_BYTES].copy_from_slice(&mark.encode(number as u64));
    }
    file.write_all(&bytes)?;
    file.sync_all()?;
    std::fs::rename(&draft, path(folder))?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: HighWaterMark = HighWaterMark { next_batch: 3, records: 1, written_at: None };
    const SECOND: HighWaterMark =
        HighWaterMark { next_batch: 9, records: 4, written_at: Some(Timestamp(-7)) };

    #[test]
    fn the_last_mark_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read(folder.path()).unwrap(), HighWaterReading::Absent);
        let mut high_water = HighWaterFile::open(folder.path(), FIRST).unwrap();
        assert_eq!(read(folder.path()).unwrap(), HighWaterReading::Mark(FIRST));
        for records in 5..10 {
            let mark = HighWaterMark { next_batch: 10, records, ..SECOND };
            high_water.write(mark).unwrap();
            assert_eq!(read(folder.path()).unwrap(), HighWaterReading::Mark(mark));
        }
        drop(high_water);
        HighWaterFile::open(folder.path(), SECOND).unwrap();
        assert_eq!(read(folder.path()).unwrap(), HighWaterReading::Mark(SECOND));
    }

    #[test]
    fn one_damaged_slot_leaves_the_other() {
        let folder = tempfile::tempdir().unwrap();
        let mut high_water = HighWaterFile::open(folder.path(), FIRST).unwrap();
        high_water.write(SECOND).unwrap();
        let path = path(folder.path());
        let whole = std::fs::read(&path).unwrap();
        for bit in 0..SLOT_BYTES * 8 {
            let mut spoilt = whole.clone();
            for start in [0, SLOT_DISTANCE as usize] {
                spoilt[start + bit / 8] ^= 1 << (bit % 8);
                let one = [&whole[..start], &spoilt[start..]].concat();
                std::fs::write(&path, one).unwrap();
                let found = read(folder.path()).unwrap();
                assert!(
                    [HighWaterReading::Mark(FIRST), HighWaterReading::Mark(SECOND)]
                        .contains(&found)
                );
            }
            std::fs::write(&path, spoilt).unwrap();
            assert_eq!(read(folder.path()).unwrap(), HighWaterReading::Unreadable);
        }
        std::fs::write(&path, b"").unwrap();
        assert_eq!(read(folder.path()).unwrap(), HighWaterReading::Unreadable);
    }
}
