//! The watermark of a partition: below it every record is done, although records are done in any
//! order.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::domain::{
    ids::{CampaignId, Offset},
    rows::LastRecord,
};

/// The records of a partition that were read and are not yet below the watermark, in order.
///
/// This is all that is kept of a record that is set aside: 32 bytes.
#[derive(Debug)]
pub struct Acks {
    outstanding: VecDeque<Outstanding>,
    next: Offset,
    last: Option<LastRecord>,
    /// Records that are not done.
    waiting: usize,
    /// Records whose campaign is looked up.
    unknown: usize,
    /// Records that will be dead letters, and one past the highest of them so far.
    letters: usize,
    letters_to: Offset,
}

/// Records for which the memory of a burst is kept: a window of production.
const KEPT_CAPACITY: usize = 16_384;

/// What a record waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// For its campaign.
    Open,
    /// To learn whether its campaign exists.
    Unknown,
    /// For its campaign, which seems to exist: the hash of an id does not prove it.
    Matched,
    /// For its dead letter.
    Letter,
    /// For nothing.
    Done,
}

#[derive(Debug)]
struct Outstanding {
    offset: Offset,
    digest: [u8; 16],
    /// The hash of the campaign id where that was unknown or the record is a dead letter.
    hash: u32,
    state: State,
}

/// Bytes that are kept of a record until it is below the watermark.
pub(crate) const OUTSTANDING_BYTES: usize = 32;

const _: () = assert!(size_of::<Outstanding>() == OUTSTANDING_BYTES);

/// Returns a short hash of a campaign id (FNV-1a). Ids with the same hash are told apart when their
/// records are read again; until then they only cost a needless start.
#[must_use]
pub fn id_hash(campaign: &CampaignId) -> u32 {
    let step = |hash: u32, byte: &u8| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
    campaign.as_str().as_bytes().iter().fold(0x811c_9dc5, step)
}

impl Acks {
    /// Starts at `next`. `last` is the last record below it, if one is known.
    #[must_use]
    pub fn new(next: Offset, last: Option<LastRecord>) -> Self {
        let (outstanding, unknown, letters) = (VecDeque::new(), 0, 0);
        Self { outstanding, next, last, waiting: 0, unknown, letters, letters_to: 0 }
    }

    /// Adds a record that was read.
    ///
    /// # Panics
    /// If its offset is not above all earlier ones: going on would decide a record twice.
    pub fn read(&mut self, record: LastRecord) {
        let LastRecord { offset, digest } = record;
        assert!(offset >= self.next, "offset {offset} read twice");
        self.next = offset + 1;
        self.outstanding.push_back(Outstanding { offset, digest, hash: 0, state: State::Open });
        self.waiting += 1;
    }

    /// Passes everything below `to` that was not read: a skip covers it.
    pub fn pass(&mut self, to: Offset) {
        self.next = self.next.max(to);
    }

    /// Marks the record at `offset` as decided and stored, or as passed under a hold. Returns
    /// whether it was outstanding until now.
    pub fn done(&mut self, offset: Offset) -> bool {
        // After a restart a record is decided again; only the first time counts.
        let Some(at) = self.find(offset) else { return false };
        self.change(at, State::Done)
    }

    /// Marks the record at `offset` as one of a campaign that nobody knows yet.
    pub fn unknown(&mut self, offset: Offset, campaign: &CampaignId) {
        let Some(at) = self.find(offset) else { return };
        if let Some(slot) = self.outstanding.get_mut(at) {
            slot.hash = id_hash(campaign);
        }
        self.change(at, State::Unknown);
    }

    /// Marks the record at `offset` as one to be written as a dead letter, unless that is done. It is one
    /// of `campaign`, if it can be decoded.
    pub fn letter(&mut self, offset: Offset, campaign: Option<&CampaignId>) {
        let Some(at) = self.find(offset) else { return };
        if let (Some(slot), Some(campaign)) = (self.outstanding.get_mut(at), campaign) {
            slot.hash = id_hash(campaign);
        }
        self.change(at, State::Letter);
    }

    /// Returns a position at or below the first record of a campaign that is to be written as a dead
    /// letter, if there may be one.
    #[must_use]
    pub fn first_letter_of(&self, campaign: &CampaignId) -> Option<Offset> {
        if self.letters == 0 {
            return None;
        }
        let hash = id_hash(campaign);
        let mut slots = self.outstanding.iter();
        let is_its = |slot: &&Outstanding| slot.state == State::Letter && slot.hash == hash;
        slots.find(is_its).map(|slot| slot.offset)
    }

    /// Returns whether the record at `offset` is to be written as a dead letter.
    #[must_use]
    pub fn is_letter(&self, offset: Offset) -> bool {
        self.state(offset) == Some(State::Letter)
    }

    /// Returns whether the record at `offset` seemed to be one of a campaign that exists.
    #[must_use]
    pub fn is_matched(&self, offset: Offset) -> bool {
        self.state(offset) == Some(State::Matched)
    }

    /// Returns the number of records that wait to learn whether their campaign exists.
    #[must_use]
    pub fn unknowns(&self) -> usize {
        self.unknown
    }

    /// Returns the hashes of the campaigns that nobody knows yet, sorted.
    #[must_use]
    pub fn unknown_hashes(&self) -> Vec<u32> {
        let unknown = self.outstanding.iter().filter(|slot| slot.state == State::Unknown);
        let mut hashes: Vec<_> = unknown.map(|slot| slot.hash).collect();
        hashes.sort_unstable();
        hashes.dedup();
        hashes
    }

    /// Takes in that, of the unknown campaigns with records below `below`, only those with `known`
    /// hashes may exist. All other records below it will be dead letters.
    pub fn looked_up(&mut self, below: Offset, known: &BTreeSet<u32>) {
        let until = self.outstanding.partition_point(|slot| slot.offset < below);
        for at in 0..until {
            let Some(slot) = self.outstanding.get(at) else { continue };
            if slot.state == State::Unknown {
                let is_known = known.contains(&slot.hash);
                self.change(at, if is_known { State::Matched } else { State::Letter });
            }
        }
    }

    /// Returns the first record that was set aside for each of these hashes.
    #[must_use]
    pub fn first_of(&self, hashes: &BTreeSet<u32>) -> BTreeMap<u32, Offset> {
        let mut first = BTreeMap::new();
        for slot in &self.outstanding {
            let is_aside = matches!(slot.state, State::Unknown | State::Matched);
            if is_aside && hashes.contains(&slot.hash) {
                first.entry(slot.hash).or_insert(slot.offset);
            }
        }
        first
    }

    /// Returns the first record that is to be written as a dead letter.
    #[must_use]
    pub fn first_letter(&self) -> Option<Offset> {
        if self.letters == 0 {
            return None;
        }
        let mut slots = self.outstanding.iter();
        slots.find(|slot| slot.state == State::Letter).map(|slot| slot.offset)
    }

    /// Returns the number of records that are to be written as dead letters.
    #[must_use]
    pub fn letters(&self) -> usize {
        self.letters
    }

    /// Returns one past the highest record that is or was to be written as a dead letter.
    #[must_use]
    pub fn letters_to(&self) -> Offset {
        self.letters_to
    }

    /// Forgets the done records in front. Call it before [`Self::watermark`].
    pub fn advance(&mut self) {
        while let Some(&Outstanding { offset, digest, state: State::Done, .. }) =
            self.outstanding.front()
        {
            self.last = Some(LastRecord { offset, digest });
            self.outstanding.pop_front();
        }
        // A burst that was set aside must not keep its memory.
        if self.outstanding.len() < self.outstanding.capacity() / 4 {
            self.outstanding.shrink_to(self.outstanding.len().max(KEPT_CAPACITY) * 2);
        }
    }

    /// Returns the offset below which every record is done.
    #[must_use]
    pub fn watermark(&self) -> Offset {
        self.outstanding.front().map_or(self.next, |slot| slot.offset)
    }

    /// Returns one past the offset of the last record read.
    #[must_use]
    pub fn position(&self) -> Offset {
        self.next
    }

    /// Returns the last record below the watermark.
    #[must_use]
    pub fn last(&self) -> Option<LastRecord> {
        self.last
    }

    /// Returns the number of records at or above the watermark.
    #[must_use]
    pub fn len(&self) -> usize {
        self.outstanding.len()
    }

    /// Returns the number of records that were read and are not done.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Returns whether every record that was read is below the watermark.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.outstanding.is_empty()
    }

    fn find(&self, offset: Offset) -> Option<usize> {
        // Without holes in the log, the place is the distance from the first one.
        let first = self.outstanding.front()?.offset;
        let at = usize::try_from(offset.checked_sub(first)?).ok()?;
        if self.outstanding.get(at).is_some_and(|slot| slot.offset == offset) {
            return Some(at);
        }
        self.outstanding.binary_search_by_key(&offset, |slot| slot.offset).ok()
    }

    fn state(&self, offset: Offset) -> Option<State> {
        self.outstanding.get(self.find(offset)?).map(|slot| slot.state)
    }

    /// Changes the state of a record that is not done. Returns whether it was not.
    fn change(&mut self, at: usize, to: State) -> bool {
        let Some(slot) = self.outstanding.get_mut(at) else { return false };
        let (from, offset) = (slot.state, slot.offset);
        if from == State::Done {
            return false;
        }
        slot.state = to;
        self.waiting -= usize::from(to == State::Done);
        self.unknown += usize::from(to == State::Unknown);
        self.unknown -= usize::from(from == State::Unknown);
        self.letters += usize::from(to == State::Letter);
        self.letters -= usize::from(from == State::Letter);
        if to == State::Letter {
            self.letters_to = self.letters_to.max(offset + 1);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(offset: Offset) -> LastRecord {
        LastRecord { offset, digest: [offset as u8; 16] }
    }

    #[test]
    fn the_watermark_is_the_unbroken_prefix() {
        let mut acks = Acks::new(10, None);
        for offset in [10, 11, 14, 15] {
            acks.read(record(offset)); // 12 and 13 are holes
        }
        assert_eq!((acks.watermark(), acks.position()), (10, 16));
        assert!(acks.done(14));
        acks.advance();
        assert_eq!(acks.watermark(), 10);
        assert!(acks.done(10) && acks.done(11));
        acks.advance();
        assert_eq!((acks.watermark(), acks.last()), (15, Some(record(14))));
        assert!(acks.done(15));
        acks.advance();
        assert_eq!((acks.watermark(), acks.last(), acks.waiting()), (16, Some(record(15)), 0));
    }

    #[test]
    fn a_skipped_range_is_passed_behind_what_was_read() {
        let mut acks = Acks::new(10, None);
        acks.read(record(10));
        acks.pass(20);
        assert_eq!((acks.watermark(), acks.position()), (10, 20));
        assert!(acks.done(10));
        acks.advance();
        assert_eq!((acks.watermark(), acks.last()), (20, Some(record(10))));
        acks.pass(15);
        assert_eq!(acks.position(), 20, "it is never moved back");
    }

    #[test]
    fn a_record_counts_once() {
        let mut acks = Acks::new(0, None);
        acks.read(record(0));
        assert!(acks.done(0));
        assert!(!acks.done(0));
        acks.advance();
        assert!(!acks.done(0));
        assert!(!acks.done(7), "an offset that was never read is not done");
    }
}
