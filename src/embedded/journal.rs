//! Reads the database's journals before the database does.
//!
//! When the database opens a journal, it silently cuts off everything from the first unreadable
//! byte on, even if acknowledged batches follow. A batch with a hole in the middle, as a power cut
//! can leave, makes it fail instead. So this module finds the last intact batch itself. The caller
//! knows how much was acknowledged and decides whether the rest may be cut off.
//!
//! A batch is `1 count:u32 number:u64`, then `count` items, then `3 checksum:u64 "FJL" 3`. An item
//! is `2 type compression keyspace:u64 key:u16 value:u32 stored:u32`, key and value; or, for a
//! cleared keyspace, `4 keyspace:u64`. Numbers are little-endian. The checksum is XXH3 over the
//! items. It does not cover count and number of the batch, so those are checked for plausibility.

use std::{
    fs::File,
    io::{self, BufReader, Read, Seek, SeekFrom},
    path::Path,
};

use xxhash_rust::xxh3::Xxh3Default;

const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;

/// Bytes behind an item's tag: type, compression, keyspace, and three lengths.
const ITEM_HEAD_BYTES: usize = 1 + 1 + 8 + 2 + 4 + 4;

/// Last bytes of every batch: the database's magic bytes and its format.
pub(super) const END_MARK: [u8; 4] = *b"FJL\x03";

/// Largest plausible batch number: a thousand batches a second for nine thousand years.
const BATCH_NUMBER_MAX: u64 = 1 << 48;

const BUFFER_BYTES: usize = 256 * 1_024;

/// Result of scanning a journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Scan {
    /// End of the last intact batch, in bytes from the start.
    pub(super) end: u64,
    /// Number of the last intact batch of this journal or, if it has none, of those before it.
    pub(super) last: Option<u64>,
}

/// Scans the journal at `path` for intact batches. `after` is the last batch number of the journals
/// before it.
pub(super) fn scan(path: &Path, after: Option<u64>) -> io::Result<Scan> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    scan_bytes(BufReader::with_capacity(BUFFER_BYTES, file), length, after)
}

/// Scans a journal of `length` bytes.
pub(super) fn scan_bytes(reader: impl Read, length: u64, after: Option<u64>) -> io::Result<Scan> {
    let mut bytes = Bytes { reader, left: length, buffer: Vec::new() };
    let mut scan = Scan { end: 0, last: after };
    while let Some(number) = bytes.batch(scan.last)? {
        scan.last = Some(number);
        scan.end = length - bytes.left;
    }
    Ok(scan)
}

/// Returns whether the next `most` bytes from `start` on are zeros or lie behind the end of the
/// file. The database preallocates journals with zeros.
pub(super) fn is_blank(path: &Path, start: u64, most: u64) -> io::Result<bool> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(start))?;
    let mut rest = file.take(most);
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        match rest.read(&mut buffer)? {
            0 => return Ok(true),
            read if buffer[..read].iter().any(|byte| *byte != 0) => return Ok(false),
            _ => {}
        }
    }
}

/// The unread rest of a journal.
struct Bytes<R> {
    reader: R,
    left: u64,
    buffer: Vec<u8>,
}

impl<R: Read> Bytes<R> {
    /// Reads a batch and returns its number, or `None` if no intact batch starts here.
    fn batch(&mut self, after: Option<u64>) -> io::Result<Option<u64>> {
        if self.array()? != Some([START]) {
            return Ok(None);
        }
        let (Some(count), Some(number)) = (self.array()?, self.array()?) else { return Ok(None) };
        let number = u64::from_le_bytes(number);
        // No checksum covers the number, but numbers rise from batch to batch. The count needs no
        // check: with a wrong one, the end of the batch is not where it should be.
        if number > BATCH_NUMBER_MAX || after.is_some_and(|after| number <= after) {
            return Ok(None);
        }
        let mut hasher = Xxh3Default::new();
        for _ in 0..u32::from_le_bytes(count) {
            if !self.item(&mut hasher)? {
                return Ok(None);
            }
        }
        let whole = self.array()? == Some([END])
            && self.array()?.map(u64::from_le_bytes) == Some(hasher.digest())
            && self.array()? == Some(END_MARK);
        Ok(whole.then_some(number))
    }

    /// Reads an item into `hasher`. Returns whether a complete one starts here.
    fn item(&mut self, hasher: &mut Xxh3Default) -> io::Result<bool> {
        match self.array()? {
            Some([ITEM]) => {
                let Some(head) = self.array::<ITEM_HEAD_BYTES>()? else { return Ok(false) };
                hasher.update(&[ITEM]);
                hasher.update(&head);
                let [.., k0, k1, _, _, _, _, v0, v1, v2, v3] = head;
                let key = u64::from(u16::from_le_bytes([k0, k1]));
                self.hash(key + u64::from(u32::from_le_bytes([v0, v1, v2, v3])), hasher)
            }
            Some([CLEAR]) => {
                hasher.update(&[CLEAR]);
                self.hash(8, hasher)
            }
            _ => Ok(false),
        }
    }

    /// Reads `length` bytes into `hasher`. Returns whether there were as many.
    fn hash(&mut self, length: u64, hasher: &mut Xxh3Default) -> io::Result<bool> {
        // Before the buffer is sized: a damaged length may claim 4 GiB.
        if length > self.left {
            return Ok(false);
        }
        let Ok(size) = usize::try_from(length) else { return Ok(false) };
        self.buffer.resize(size, 0);
        self.reader.read_exact(&mut self.buffer)?;
        self.left -= length;
        hasher.update(&self.buffer);
        Ok(true)
    }

    /// Reads `N` bytes, or returns `None` if fewer are left.
    fn array<const N: usize>(&mut self) -> io::Result<Option<[u8; N]>> {
        let mut array = [0; N];
        if self.left < N as u64 {
            return Ok(None);
        }
        self.reader.read_exact(&mut array)?;
        self.left -= N as u64;
        Ok(Some(array))
    }
}

#[cfg(test)]
mod tests {
    use fjall::{Database, KeyspaceCreateOptions, PersistMode};

    use super::*;

    /// A journal of three batches, written by the database, without the zeros at its end.
    fn journal() -> (tempfile::TempDir, std::path::PathBuf, Vec<u8>) {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::builder(folder.path()).open().unwrap();
        let keyspace = database.keyspace("k", KeyspaceCreateOptions::default).unwrap();
        for step in 0..3_u8 {
            let mut batch = database.batch().durability(Some(PersistMode::Buffer));
            batch.insert(&keyspace, [step], vec![step; 100]);
            batch.remove(&keyspace, b"other");
            batch.insert(&keyspace, b"empty", b"");
            batch.commit().unwrap();
        }
        let path = folder.path().join("0.jnl");
        let mut bytes = std::fs::read(&path).unwrap();
        let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        bytes.truncate(end);
        drop(keyspace);
        drop(database);
        (folder, path, bytes)
    }

    fn scan_of(path: &Path, bytes: &[u8]) -> Scan {
        std::fs::write(path, bytes).unwrap();
        scan(path, None).unwrap()
    }

    #[test]
    fn a_journal_of_the_database_is_read_to_its_end() {
        let (_folder, path, bytes) = journal();
        let whole = scan_of(&path, &bytes);
        assert_eq!(whole.end, bytes.len() as u64);
        let laid_out = [bytes.as_slice(), &[0; 5_000]].concat();
        assert_eq!(scan_of(&path, &laid_out), whole);
        assert!(is_blank(&path, whole.end, u64::MAX).unwrap());
        assert!(!is_blank(&path, whole.end - 1, u64::MAX).unwrap());
        assert_eq!(scan_of(&path, &[]), Scan::default());
    }

    #[test]
    fn a_cut_journal_ends_at_its_last_intact_batch() {
        let (_folder, path, bytes) = journal();
        let ends: Vec<_> = (0..=bytes.len()).map(|end| scan_of(&path, &bytes[..end]).end).collect();
        let found = std::collections::BTreeSet::from_iter(ends.iter().copied());
        assert_eq!(found.len(), 4, "{found:?}");
        assert!((0..).zip(ends).all(|(length, end)| end <= length));
    }

    #[test]
    fn a_flipped_bit_in_an_inner_batch_is_noticed() {
        let (_folder, path, bytes) = journal();
        let whole = scan_of(&path, &bytes);
        let last = bytes.len() / 3 * 2;
        let mut harmless = 0;
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let found = scan_of(&path, &flipped);
            if bit / 8 < last && found.end == whole.end {
                // Only a flip in a batch number that keeps the order is harmless.
                assert!((5..13).contains(&(bit / 8 % (bytes.len() / 3))), "bit {bit}");
                harmless += 1;
            }
        }
        assert!(harmless <= 6, "{harmless} numbers may differ");
    }
}
