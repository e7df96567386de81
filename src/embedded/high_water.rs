//! The high-water file: a small file beside the database that says what was on disk at least.
//!
//! The committer writes it in place after each fsync of the journal, never waiting for the disk:
//! so it may lag behind what is durable and never says more. A start that finds less than it says
//! knows that acknowledged records are gone, and refuses.
//!
//! Two slots are written in turn, each within one sector of its own page: a power cut can spoil
//! at most the one that was being written.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use xxhash_rust::xxh3::xxh3_128;

use crate::wire::FORMAT;

const FILE: &str = "high_water";
const DRAFT: &str = "high_water.draft";

/// Only the owner reads.
const MODE: u32 = 0o600;

/// What every slot starts with: the name and the format.
const MARK: [u8; 8] = [b'c', b'o', b'u', b'p', b'o', b'n', b'd', FORMAT];

/// Mark, number of the writing, next batch, records.
const CONTENT_BYTES: usize = 32;
const SLOT_BYTES: usize = CONTENT_BYTES + 16;

/// Each slot has a page of its own, so that writing one never touches the other.
const SLOT_DISTANCE: u64 = 4_096;

/// What was on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Durable {
    /// A batch whose number is one less than this, or higher; none was written if this is 0.
    pub(super) next_batch: u64,
    /// So many records of the log, counted over all partitions, trimmed ones with them.
    pub(super) records: u64,
}

impl Durable {
    fn encode(self, number: u64) -> [u8; SLOT_BYTES] {
        let mut slot = [0; SLOT_BYTES];
        slot[..8].copy_from_slice(&MARK);
        slot[8..16].copy_from_slice(&number.to_le_bytes());
        slot[16..24].copy_from_slice(&self.next_batch.to_le_bytes());
        slot[24..CONTENT_BYTES].copy_from_slice(&self.records.to_le_bytes());
        let checksum = xxh3_128(&slot[..CONTENT_BYTES]);
        slot[CONTENT_BYTES..].copy_from_slice(&checksum.to_le_bytes());
        slot
    }

    /// The number of the writing, and what it says; none if the slot is not whole.
    fn decode(slot: &[u8]) -> Option<(u64, Self)> {
        let (content, checksum) = slot.split_at_checked(CONTENT_BYTES)?;
        let whole = checksum == xxh3_128(content).to_le_bytes() && content.starts_with(&MARK);
        let field = |start: usize| Some(u64::from_le_bytes(content[start..][..8].try_into().ok()?));
        let durable = Self { next_batch: field(16)?, records: field(24)? };
        whole.then_some((field(8)?, durable))
    }
}

/// What the high_water in a data folder says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HighWaterReading {
    /// There is none: a new folder, or one of a version that wrote none.
    Absent,
    /// It is there and can't be read.
    Unreadable,
    /// The newest of its slots.
    Says(Durable),
}

/// Where the high_water of a data folder is.
pub(super) fn path(folder: &Path) -> PathBuf {
    folder.join(FILE)
}

/// Asks the high_water.
pub(super) fn ask(folder: &Path) -> io::Result<HighWaterReading> {
    match std::fs::read(path(folder)) {
        Ok(bytes) => Ok(newest(&bytes)
            .map_or(HighWaterReading::Unreadable, |(_, durable)| HighWaterReading::Says(durable))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(HighWaterReading::Absent),
        Err(error) => Err(error),
    }
}

fn newest(bytes: &[u8]) -> Option<(u64, Durable)> {
    let slots = [0, SLOT_DISTANCE as usize]
        .map(|start| Durable::decode(bytes.get(start..)?.get(..SLOT_BYTES)?));
    slots.into_iter().flatten().max_by_key(|(number, _)| *number)
}

/// The high_water as the committer writes it.
#[derive(Debug)]
pub(super) struct HighWater {
    file: File,
    number: u64,
}

impl HighWater {
    /// Opens the high_water of `folder`, made if it is not there, and has it say `durable`, on disk
    /// when this returns.
    pub(super) fn open(folder: &Path, durable: Durable) -> io::Result<Self> {
        let path = path(folder);
        if !path.try_exists()? {
            make(folder, durable)?;
        }
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        let mut bytes = vec![0; SLOT_DISTANCE as usize + SLOT_BYTES];
        let read = file.read_at(&mut bytes, 0)?;
        let number = newest(&bytes[..read]).map_or(0, |(number, _)| number);
        let mut high_water = Self { file, number };
        high_water.write(durable)?;
        high_water.sync()?;
        Ok(high_water)
    }

    /// Says what is on disk, without waiting for the disk.
    pub(super) fn write(&mut self, durable: Durable) -> io::Result<()> {
        self.number += 1;
        let slot = durable.encode(self.number);
        self.file.write_all_at(&slot, self.number % 2 * SLOT_DISTANCE)
    }

    /// Waits until what was said is on disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

/// Under its name only when it is on disk, with both slots: it is never seen half made.
fn make(folder: &Path, durable: Durable) -> io::Result<()> {
    let draft = folder.join(DRAFT);
    let mut file =
        OpenOptions::new().create(true).truncate(true).write(true).mode(MODE).open(&draft)?;
    let mut bytes = vec![0; 2 * SLOT_DISTANCE as usize];
    for number in 0..2 {
        let start = number * SLOT_DISTANCE as usize;
        bytes[start..start + SLOT_BYTES].copy_from_slice(&durable.encode(number as u64));
    }
    file.write_all(&bytes)?;
    file.sync_all()?;
    std::fs::rename(&draft, path(folder))?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use crate::embedded::high_water::*;

    const FIRST: Durable = Durable { next_batch: 3, records: 1 };
    const SECOND: Durable = Durable { next_batch: 9, records: 4 };

    #[test]
    fn it_says_what_it_was_told_last() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(ask(folder.path()).unwrap(), HighWaterReading::Absent);
        let mut high_water = HighWater::open(folder.path(), FIRST).unwrap();
        assert_eq!(ask(folder.path()).unwrap(), HighWaterReading::Says(FIRST));
        for records in 5..10 {
            let durable = Durable { next_batch: 10, records };
            high_water.write(durable).unwrap();
            assert_eq!(ask(folder.path()).unwrap(), HighWaterReading::Says(durable));
        }
        drop(high_water);
        HighWater::open(folder.path(), SECOND).unwrap();
        assert_eq!(ask(folder.path()).unwrap(), HighWaterReading::Says(SECOND));
    }

    #[test]
    fn a_damaged_slot_leaves_the_one_before_and_two_leave_none() {
        let folder = tempfile::tempdir().unwrap();
        let mut high_water = HighWater::open(folder.path(), FIRST).unwrap();
        high_water.write(SECOND).unwrap();
        let path = path(folder.path());
        let whole = std::fs::read(&path).unwrap();
        for bit in 0..SLOT_BYTES * 8 {
            let mut spoilt = whole.clone();
            for start in [0, SLOT_DISTANCE as usize] {
                spoilt[start + bit / 8] ^= 1 << (bit % 8);
                let one = [&whole[..start], &spoilt[start..]].concat();
                std::fs::write(&path, one).unwrap();
                let said = ask(folder.path()).unwrap();
                assert!(
                    [HighWaterReading::Says(FIRST), HighWaterReading::Says(SECOND)].contains(&said)
                );
            }
            std::fs::write(&path, spoilt).unwrap();
            assert_eq!(ask(folder.path()).unwrap(), HighWaterReading::Unreadable);
        }
        std::fs::write(&path, b"").unwrap();
        assert_eq!(ask(folder.path()).unwrap(), HighWaterReading::Unreadable);
    }
}
