//! The holders of a campaign's coupons, by keyed 128-bit digest of the user.
//!
//! Extendible hashing (Fagin et al., 1979): a directory over many small tables. A full table is
//! split in two, so no decision waits for the rehash of a large table. The probability that two
//! users share a digest is about n²/2¹²⁹: 1.5·10⁻²³ at 100 million holders.

use hashbrown::{HashTable, hash_table::Entry as Slot};

use super::{
    decision::Held,
    ids::{Sequence, Timestamp},
};

/// Entries at which a segment is split: hashbrown's maximum in 32 Ki buckets at its load of 7/8.
/// A split moves this many entries; a decision may wait for at most 64 Ki.
const SEGMENT_ENTRIES_MAX: usize = 28_672;

/// Room for entries in a new segment. A segment without room grows by half of its entries.
const ROOM_MIN: usize = 4;

/// Deepest directory: 2²⁰ tables hold 3·10¹⁰ entries. Beyond it, tables grow instead of splitting.
const DEPTH_MAX: u32 = 20;

/// The coupons held under one digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holding {
    /// Coupons held: at most [`PER_USER_LIMIT_MAX`](super::definition::PER_USER_LIMIT_MAX).
    pub count: u16,
    /// The latest of them.
    pub latest: Held,
}

/// Holdings by digest.
#[derive(Debug)]
pub struct Holders {
    depth: u32,
    directory: Vec<u32>,
    segments: Vec<Segment>,
}

/// Entries in the order of arrival, and a table of their places.
///
/// A table of whole entries would make each insert a cache miss of 28 bytes. Here an insert
/// appends to the entries, which is a cache hit, and writes four bytes to the table: the caches
/// hold the tables of a million holders, but not their entries.
#[derive(Debug, Default)]
struct Segment {
    depth: u32,
    /// Places in `entries`, by digest.
    places: HashTable<u32>,
    entries: Vec<Entry>,
}

/// 28 bytes: four words of digest, then sequence (27 bits), count (10 bits) and time (48 bits) in
/// three words. With spare room and the place in the table, a holder costs at most 54 bytes.
#[derive(Debug, Clone, Copy)]
struct Entry([u32; 7]);

const SEQUENCE_BITS: u32 = 27;
const COUNT_BITS: u32 = 10;
const TIME_BITS: u32 = 48;
const _: () = assert!(SEQUENCE_BITS + COUNT_BITS + TIME_BITS <= 96);
const _: () = assert!(super::definition::QUOTA_MAX < 1 << SEQUENCE_BITS);
const _: () = assert!(super::definition::PER_USER_LIMIT_MAX < 1 << COUNT_BITS);
const _: () = assert!(Timestamp::MAX.0 < 1 << TIME_BITS);

impl Entry {
    fn new(digest: u128, holding: Holding) -> Self {
        let time = holding.latest.issued_at;
        assert!(time.is_representable(), "time {time:?} should have been refused at the log");
        let packed = u128::from(holding.latest.sequence)
            | u128::from(holding.count) << SEQUENCE_BITS
            | u128::from(time.0.cast_unsigned()) << (SEQUENCE_BITS + COUNT_BITS);
        let word = |bits: u128, index: u32| ((bits >> (32 * index)) & 0xFFFF_FFFF) as u32;
        Self([
            word(digest, 0),
            word(digest, 1),
            word(digest, 2),
            word(digest, 3),
            word(packed, 0),
            word(packed, 1),
            word(packed, 2),
        ])
    }

    #[inline]
    fn digest(&self) -> u128 {
        self.bits(0, 4)
    }

    fn holding(&self) -> Holding {
        let packed = self.bits(4, 3);
        let field = |from: u32, bits: u32| ((packed >> from) & ((1 << bits) - 1)) as u64;
        Holding {
            count: field(SEQUENCE_BITS, COUNT_BITS) as u16,
            latest: Held {
                sequence: field(0, SEQUENCE_BITS) as Sequence,
                issued_at: Timestamp(field(SEQUENCE_BITS + COUNT_BITS, TIME_BITS).cast_signed()),
            },
        }
    }

    #[inline]
    fn bits(&self, from: usize, words: usize) -> u128 {
        let words = &self.0[from..from + words];
        words.iter().rev().fold(0, |bits, word| bits << 32 | u128::from(*word))
    }
}

/// Returns the low bits for the table. The directory uses the high bits.
fn slot_hash(digest: u128) -> u64 {
    digest as u64
}

impl Default for Holders {
    fn default() -> Self {
        Self { depth: 0, directory: vec![0], segments: vec![Segment::default()] }
    }
}

impl Holders {
    /// Returns the coupons held under `digest`, if any.
    #[must_use]
    pub fn get(&self, digest: u128) -> Option<Holding> {
        self.segments[self.segment_of(digest)].get(digest).map(Entry::holding)
    }

    /// Prefetches the entries of some digests, so that their cache misses overlap.
    pub fn touch(&self, digests: impl Iterator<Item = u128>) {
        let mut read = 0;
        for digest in digests {
            let found = self.segments[self.segment_of(digest)].get(digest);
            read ^= found.map_or(0, |entry| entry.0[6]);
        }
        // Without a use of `read`, the compiler would remove the loop.
        std::hint::black_box(read);
    }

    /// Adds a coupon under `digest`.
    pub fn add(&mut self, digest: u128, held: Held) {
        let mut at = self.segment_of(digest);
        while self.segments[at].is_full() && self.segments[at].depth < DEPTH_MAX {
            self.split(at);
            at = self.segment_of(digest);
        }
        self.segments[at].add(digest, held);
    }

    /// Returns the number of digests.
    #[must_use]
    pub fn len(&self) -> usize {
        self.segments.iter().map(|segment| segment.entries.len()).sum()
    }

    /// Returns whether there is no digest.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the bytes of memory taken, without the allocator's overhead.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.segments.iter().map(Segment::memory_bytes).sum::<usize>()
            + self.segments.capacity() * size_of::<Segment>()
            + self.directory.capacity() * size_of::<u32>()
    }

    fn segment_of(&self, digest: u128) -> usize {
        let index = if self.depth == 0 { 0 } else { (digest >> (128 - self.depth)) as usize };
        self.directory[index] as usize
    }

    /// Splits a segment by the next bit of the digests, and doubles the directory if it has no bit
    /// left.
    fn split(&mut self, at: usize) {
        let depth = self.segments[at].depth + 1;
        if depth > self.depth {
            self.directory = self.directory.iter().flat_map(|&segment| [segment; 2]).collect();
            self.depth = depth;
        }
        let entries = std::mem::take(&mut self.segments[at].entries);
        let room = entries.len() / 2 + entries.len() / 4;
        let (mut zeros, mut ones) = (Vec::with_capacity(room), Vec::with_capacity(room));
        for entry in entries {
            let goes_over = entry.digest() >> (128 - depth) & 1 == 1;
            if goes_over { &mut ones } else { &mut zeros }.push(entry);
        }
        let new = self.segments.len();
        self.segments[at].refill(depth, zeros);
        let mut other = Segment::default();
        other.refill(depth, ones);
        self.segments.push(other);
        let shift = self.depth - depth;
        for (index, segment) in self.directory.iter_mut().enumerate() {
            if *segment as usize == at && (index >> shift) & 1 == 1 {
                *segment = u32::try_from(new).expect("at most 2^20 segments");
            }
        }
    }
}

impl Segment {
    fn get(&self, digest: u128) -> Option<&Entry> {
        let at = |place: u32| &self.entries[place as usize];
        let place = self.places.find(slot_hash(digest), |&place| at(place).digest() == digest)?;
        Some(at(*place))
    }

    fn add(&mut self, digest: u128, held: Held) {
        let Self { places, entries, .. } = self;
        let slot = places.entry(
            slot_hash(digest),
            |&place| entries[place as usize].digest() == digest,
            |&place| slot_hash(entries[place as usize].digest()),
        );
        match slot {
            Slot::Occupied(slot) => {
                let entry = &mut entries[*slot.get() as usize];
                let before = entry.holding();
                let latest =
                    if held.sequence > before.latest.sequence { held } else { before.latest };
                *entry = Entry::new(digest, Holding { count: before.count + 1, latest });
            }
            Slot::Vacant(slot) => {
                slot.insert(place(entries.len()));
                if entries.len() == entries.capacity() {
                    let left = SEGMENT_ENTRIES_MAX.saturating_sub(entries.len());
                    entries.reserve_exact((entries.len() / 2).max(ROOM_MIN).min(left));
                }
                entries.push(Entry::new(digest, Holding { count: 1, latest: held }));
            }
        }
    }

    /// Replaces the entries by `entries`, which have distinct digests.
    fn refill(&mut self, depth: u32, entries: Vec<Entry>) {
        // Room for a full segment, so that no decision waits until the table grows.
        self.places.clear();
        let hash = |place: &u32| slot_hash(entries[*place as usize].digest());
        self.places.reserve(SEGMENT_ENTRIES_MAX, hash);
        for (index, entry) in entries.iter().enumerate() {
            self.places.insert_unique(slot_hash(entry.digest()), place(index), hash);
        }
        (self.depth, self.entries) = (depth, entries);
    }

    fn is_full(&self) -> bool {
        self.entries.len() >= SEGMENT_ENTRIES_MAX
    }

    fn memory_bytes(&self) -> usize {
        self.places.allocation_size() + self.entries.capacity() * size_of::<Entry>()
    }
}

/// Returns the index of an entry as the table stores it.
fn place(index: usize) -> u32 {
    u32::try_from(index).expect("fewer than 2^32 entries: sequences have 27 bits")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::random::Random;

    /// Returns a well-spread digest without a key.
    fn digest(index: u64) -> u128 {
        u128::from(Random(index).next()) << 64 | u128::from(Random(!index).next())
    }

    fn held(sequence: Sequence) -> Held {
        Held { sequence, issued_at: Timestamp(1_700_000_000_000 + i64::from(sequence)) }
    }

    #[test]
    fn an_entry_keeps_its_extremes() {
        for sequence in [1, super::super::definition::QUOTA_MAX] {
            for count in [1, super::super::definition::PER_USER_LIMIT_MAX] {
                for issued_at in [Timestamp(0), Timestamp::MAX] {
                    let holding = Holding { count, latest: Held { sequence, issued_at } };
                    for digest in [0, u128::MAX, digest(7)] {
                        let entry = Entry::new(digest, holding);
                        assert_eq!((entry.digest(), entry.holding()), (digest, holding));
                    }
                }
            }
        }
    }

    #[test]
    fn holders_agree_with_a_map_across_splits() {
        let mut holders = Holders::default();
        let mut plain = BTreeMap::new();
        for sequence in 1..=200_000_u32 {
            let digest = digest(u64::from(sequence % 150_000));
            holders.add(digest, held(sequence));
            plain
                .entry(digest)
                .and_modify(|(count, latest)| {
                    *count += 1;
                    *latest = sequence;
                })
                .or_insert((1, sequence));
        }
        assert_eq!(holders.len(), plain.len());
        assert!(holders.segments.len() >= 8, "the test should split");
        assert!(holders.segments.iter().all(|s| s.entries.len() <= SEGMENT_ENTRIES_MAX));
        for (digest, (count, latest)) in plain {
            let expected = Holding { count, latest: held(latest) };
            assert_eq!(holders.get(digest), Some(expected));
        }
        assert_eq!(holders.get(digest(999_999_999)), None);
        holders.touch((0..1_000).map(digest));
    }

    #[test]
    fn a_million_holders_cost_64_bytes_each() {
        assert!(Holders::default().memory_bytes() < 1_024);
        let mut holders = Holders::default();
        for index in 1..=1_000_000_u32 {
            holders.add(digest(u64::from(index)), held(index));
        }
        let each = holders.memory_bytes() / 1_000_000;
        assert!(each <= 64, "{each} bytes per holder");
    }
}
