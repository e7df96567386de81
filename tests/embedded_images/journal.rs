//! A second reader of the journal. It finds the batches that each fsync covered. It shares no code
//! with the product's reader, so that no mistake is in both.

use coupond::wire::FORMAT;

/// Number of the log's keyspace.
const LOG: u64 = 1;

/// First key byte of the rows that wait for fsync: layout, trim marks, holds, dead letters.
const DURABLE_ROWS: [u8; 4] = *b"lthd";

/// One commit.
#[derive(Debug, Clone)]
pub(crate) struct Batch {
    pub(crate) end: usize,
    pub(crate) number: u64,
    /// Whether the commit waited for fsync.
    pub(crate) durable: bool,
    /// The end of each partition's log after this batch.
    pub(crate) ends: Vec<u64>,
}

/// Returns all batches of an undamaged journal, for a log of `partitions`.
pub(crate) fn batches(bytes: &[u8], partitions: usize) -> Vec<Batch> {
    let mut batches = Vec::new();
    let mut ends = vec![0; partitions];
    let mut at = 0;
    while bytes.get(at) == Some(&1) {
        let start = at;
        let count = number(bytes, at + 1, 4);
        let batch_number = number(bytes, at + 5, 8);
        at += 13;
        let mut durable = false;
        for _ in 0..count {
            assert_eq!(bytes[at], 2, "an item starts at {at}");
            let keyspace = number(bytes, at + 3, 8);
            let key_length = number(bytes, at + 11, 2) as usize;
            let value_length = number(bytes, at + 13, 4) as usize;
            let key = &bytes[at + 21..][..key_length];
            let value = &bytes[at + 21 + key_length..][..value_length];
            at += 21 + key_length + value_length;
            if keyspace == LOG {
                durable = true;
                let partition = u32::from_be_bytes(key[..4].try_into().unwrap()) as usize;
                let first = u64::from_be_bytes(key[4..].try_into().unwrap());
                ends[partition] = first + records_of(value);
            } else {
                durable |= DURABLE_ROWS.contains(&key[0]);
            }
        }
        assert_eq!(bytes[at], 3, "the batch that starts at {start} ends at {at}");
        at += 13;
        batches.push(Batch { end: at, number: batch_number, durable, ends: ends.clone() });
    }
    batches
}

/// Splits a block into its records; each follows its length.
fn records_of(mut block: &[u8]) -> u64 {
    let mut records = 0;
    while !block.is_empty() {
        block = &block[4 + number(block, 0, 4) as usize..];
        records += 1;
    }
    records
}

fn number(bytes: &[u8], at: usize, length: usize) -> u64 {
    let mut number = [0; 8];
    number[..length].copy_from_slice(&bytes[at..][..length]);
    u64::from_le_bytes(number)
}

/// Returns the content of `high_water` once this batch is on disk.
pub(crate) fn high_water(batch: &Batch) -> Vec<u8> {
    const SLOT_DISTANCE: usize = 4_096;
    let records: u64 = batch.ends.iter().sum();
    let mut bytes = vec![0; 2 * SLOT_DISTANCE];
    for turn in 0..2_u64 {
        let mut slot = [b"coupond".as_slice(), &[FORMAT]].concat();
        // The last field is the time of the last write.
        for field in [turn, batch.number + 1, records, 0] {
            slot.extend_from_slice(&field.to_le_bytes());
        }
        let checksum = xxhash_rust::xxh3::xxh3_128(&slot);
        slot.extend_from_slice(&checksum.to_le_bytes());
        bytes[turn as usize * SLOT_DISTANCE..][..slot.len()].copy_from_slice(&slot);
    }
    bytes
}
