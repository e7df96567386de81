//! Fuzz targets: the files of a data folder, as damage or a power cut may leave them.

use fjall::{Database, KeyspaceCreateOptions, PersistMode, UserValue};
use xxhash_rust::xxh3::xxh3_64;

use super::{
    block::{pack, unpack},
    high_water::{HighWaterMark, newest},
    journal::{END_MARK, Scan, scan_bytes},
    manifest::tables,
};
use crate::{domain::ids::Timestamp, fuzz, random::Random};

/// A journal and a manifest, written by the database.
fn written() -> (Vec<u8>, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let database = Database::builder(folder.path()).open().unwrap();
    let keyspace = database.keyspace("k", KeyspaceCreateOptions::default).unwrap();
    for step in 0..3_u8 {
        let mut batch = database.batch().durability(Some(PersistMode::Buffer));
        batch.insert(&keyspace, [step], [step; 20]);
        batch.remove(&keyspace, b"other");
        batch.insert(&keyspace, b"empty", b"");
        batch.commit().unwrap();
    }
    let mut journal = std::fs::read(folder.path().join("0.jnl")).unwrap();
    journal.truncate(journal.iter().rposition(|byte| *byte != 0).unwrap() + 1);
    for _ in 0..2 {
        keyspace.insert(b"k", b"v").unwrap();
        keyspace.rotate_memtable_and_wait().unwrap();
    }
    let of_keyspace = folder.path().join("keyspaces/1");
    let current = std::fs::read(of_keyspace.join("current")).unwrap();
    let number = u64::from_le_bytes(*current.first_chunk().unwrap());
    (journal, std::fs::read(of_keyspace.join(format!("v{number}"))).unwrap())
}

/// A batch of one cleared keyspace, which no code of ours writes.
fn clearing(number: u64) -> Vec<u8> {
    let items = [&[4][..], &7_u64.to_le_bytes()].concat();
    let mut batch = [&[1][..], &1_u32.to_le_bytes(), &number.to_le_bytes(), &items, &[3]].concat();
    batch.extend(xxh3_64(&items).to_le_bytes());
    batch.extend(END_MARK);
    batch
}

/// Where a batch ends, its number, and where its checksum is, which the bytes from `items` on up to
/// the tag before it should have.
struct Frame {
    end: usize,
    number: u64,
    items: usize,
    checksum: usize,
}

impl Frame {
    /// Finds the batch at `start` by its lengths alone.
    fn at(journal: &[u8], start: usize) -> Option<Self> {
        let int = |at: usize| Some(u32::from_le_bytes(*journal.get(at..)?.first_chunk()?));
        let long = |at: usize| Some(u64::from_le_bytes(*journal.get(at..)?.first_chunk()?));
        let tag = |at: usize, tag: u8| (*journal.get(at)? == tag).then_some(());
        tag(start, 1)?;
        let (count, number, items) = (int(start + 1)?, long(start + 5)?, start + 13);
        let mut at = items;
        for _ in 0..count {
            at += match journal.get(at)? {
                2 => {
                    let key = u16::from_le_bytes(*journal.get(at + 11..)?.first_chunk()?);
                    let stored = int(at + 17)?;
                    21 + usize::from(key) + stored as usize
                }
                4 => 9,
                _ => return None,
            };
            journal.get(..at)?;
        }
        tag(at, 3)?;
        long(at + 1)?;
        let is_marked = journal.get(at + 9..at + 13)? == END_MARK;
        is_marked.then_some(Self { end: at + 13, number, items, checksum: at + 1 })
    }

    fn sum(&self, journal: &[u8]) -> [u8; 8] {
        xxh3_64(&journal[self.items..self.checksum - 1]).to_le_bytes()
    }
}

/// Scans a journal in memory by its lengths.
fn documented(journal: &[u8], after: Option<u64>) -> Scan {
    let mut scan = Scan { end: 0, last: after };
    while let Some(frame) = Frame::at(journal, scan.end as usize) {
        let is_next = scan.last.is_none_or(|last| frame.number > last);
        let is_whole = journal[frame.checksum..][..8] == frame.sum(journal);
        if !is_next || frame.number > 1 << 48 || !is_whole {
            break;
        }
        scan = Scan { end: frame.end as u64, last: Some(frame.number) };
    }
    scan
}

/// Gives every batch the checksum of its items, so that what is behind it is looked at.
fn mend(journal: &mut [u8], random: &mut Random) {
    let mut start = 0;
    while let Some(frame) = Frame::at(journal, start)
        && !random.one_in(8)
    {
        let sum = frame.sum(journal);
        journal[frame.checksum..][..8].copy_from_slice(&sum);
        start = frame.end;
    }
}

#[test]
fn a_journal_ends_at_its_last_whole_batch() {
    let scanned = |journal: &[u8], after| scan_bytes(journal, journal.len() as u64, after).unwrap();
    let (journal, _) = written();
    let valid = [[journal.as_slice(), &[0; 50]].concat(), journal, clearing(9), vec![]];
    fuzz::run(&valid, &["nothing", "a part", "all"], |input, random| {
        let mut journal = input.to_vec();
        if random.one_in(2) {
            mend(&mut journal, random);
        }
        let after = random.one_in(4).then(|| random.below(10));
        let scan = scanned(&journal, after);
        assert_eq!(scan, documented(&journal, after));
        let end = usize::try_from(scan.end).unwrap();
        assert_eq!(scanned(&journal[..end], after), scan, "what is cut off says nothing");
        match end {
            0 => "nothing",
            _ if end == journal.len() => "all",
            _ => "a part",
        }
    });
}

#[test]
fn a_manifest_lists_no_more_than_it_has() {
    let (_, manifest) = written();
    fuzz::run(&[manifest], &["tables", "refused"], |input, _| {
        let Some(tables) = tables(input) else { return "refused" };
        assert!(tables.len() * 33 <= input.len(), "{} tables", tables.len());
        "tables"
    });
}

#[test]
fn a_high_water_mark_is_one_that_was_written() {
    let at = |next_batch, records, written_at| HighWaterMark { next_batch, records, written_at };
    let marks =
        [at(3, 1, None), at(9, 4, Some(Timestamp(-7))), at(u64::MAX, u64::MAX, Some(Timestamp(5)))];
    let slots: Vec<_> = (1..).zip(marks).map(|(number, mark)| mark.encode(number)).collect();
    let file = |one: usize, other: usize| {
        let mut bytes = vec![0; 4_096];
        bytes[..slots[one].len()].copy_from_slice(&slots[one]);
        bytes.extend_from_slice(&slots[other]);
        bytes
    };
    let valid: Vec<_> = slots.iter().map(|slot| slot.to_vec()).collect();
    fuzz::run(&valid, &["first", "second", "damaged"], |input, random| {
        // Damages one slot; the other is whole, unless the file is cut off.
        let mut bytes = file(random.index(3), random.index(3));
        let (start, other) = if random.one_in(2) { (0, 4_096) } else { (4_096, 0) };
        let length = input.len().min(slots[0].len());
        bytes[start..start + length].copy_from_slice(&input[..length]);
        if random.one_in(8) {
            bytes.truncate(random.index(bytes.len()));
        }
        let Some((number, mark)) = newest(&bytes) else {
            assert!(bytes.len() < other + slots[0].len(), "the other slot is whole");
            return "damaged";
        };
        let slot = mark.encode(number);
        assert!(slots.contains(&slot), "nobody wrote {mark:?}");
        if bytes.starts_with(&slot) { "first" } else { "second" }
    });
}

#[test]
fn a_block_is_the_records_that_were_packed() {
    let records =
        |texts: &[&[u8]]| -> Vec<UserValue> { texts.iter().map(|it| (*it).into()).collect() };
    let sets =
        [records(&[b"a", b"", b"ccc"]), records(&[&[7; 300]]), records(&[b"x".as_slice(); 20])];
    let valid: Vec<_> = sets.iter().map(|set| pack(set).remove(0).1).collect();
    fuzz::run(&valid, &["records", "refused"], |input, _| {
        let Some(records) = unpack(input) else { return "refused" };
        let records: Vec<UserValue> = records.into_iter().map(UserValue::from).collect();
        let packed: Vec<u8> = pack(&records).into_iter().flat_map(|(_, block)| block).collect();
        assert_eq!(packed, input);
        "records"
    });
}
