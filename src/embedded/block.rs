//! Blocks: several records of one partition in one database entry, under the offset of the first.
//!
//! After a crash the journal is read entry by entry. The time that this takes depends on the number
//! of entries more than on their size, so records that were committed together share an entry.

use fjall::UserValue;

/// Most bytes of a block with more than one record. With its key and the journal's framing, an
/// entry stays below a page of 4 KiB. So every page contains the start of an entry, and a page that
/// a power cut kept from the disk reads as a torn end, not as damage.
const BLOCK_BYTES_MAX: usize = 4_096 - 128;

/// Length in front of each record.
const LENGTH_BYTES: usize = 4;

/// Packs consecutive records into blocks. Returns each block with the index of its first record.
pub(super) fn pack(records: &[UserValue]) -> Vec<(usize, Vec<u8>)> {
    let mut blocks: Vec<(usize, Vec<u8>)> = Vec::new();
    for (place, record) in records.iter().enumerate() {
        let length = u32::try_from(record.len()).expect("a record is far below 4 GiB");
        let fits = |block: &Vec<u8>| block.len() + LENGTH_BYTES + record.len() <= BLOCK_BYTES_MAX;
        let block = match blocks.last_mut() {
            Some((_, block)) if fits(block) => block,
            _ => {
                blocks.push((place, Vec::with_capacity(BLOCK_BYTES_MAX.max(record.len() + 4))));
                &mut blocks.last_mut().expect("one was pushed").1
            }
        };
        block.extend_from_slice(&length.to_le_bytes());
        block.extend_from_slice(record);
    }
    blocks
}

/// Returns the records of a block in order, or `None` if the bytes are not a block or hold none.
pub(crate) fn unpack(block: &[u8]) -> Option<Vec<&[u8]>> {
    let mut records = Vec::new();
    let mut rest = block;
    while !rest.is_empty() {
        let (length, after) = rest.split_first_chunk::<LENGTH_BYTES>()?;
        let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
        let (record, after) = after.split_at_checked(length)?;
        records.push(record);
        rest = after;
    }
    (!records.is_empty()).then_some(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(lengths: &[usize]) -> Vec<UserValue> {
        lengths.iter().zip(0_u8..).map(|(length, byte)| vec![byte; *length].into()).collect()
    }

    #[test]
    fn records_round_trip() {
        let records = records(&[0, 1, 300, 3_000, 700, 9_000, 5, 3_968]);
        let blocks = pack(&records);
        let places: Vec<_> = blocks.iter().map(|(place, _)| *place).collect();
        assert_eq!(places, [0, 4, 5, 6, 7]);
        let unpacked: Vec<_> =
            blocks.iter().flat_map(|(_, block)| unpack(block).unwrap()).collect();
        assert_eq!(unpacked, records);
        assert_eq!(pack(&[]), []);
    }

    #[test]
    fn an_entry_of_several_records_fits_a_page() {
        // The journal puts 31 bytes in front of an entry, and the key has 12 bytes.
        let blocks = pack(&records(&[250; 200]));
        assert!(blocks.len() > 1);
        assert!(blocks.iter().all(|(_, block)| block.len() + 31 + 12 < 4_096));
    }

    #[test]
    fn a_cut_block_is_not_unpacked() {
        let (_, block) = &pack(&records(&[10, 20]))[0];
        let whole = [14, block.len()];
        for end in (0..=block.len()).filter(|end| !whole.contains(end)) {
            assert_eq!(unpack(&block[..end]), None);
        }
    }
}
