//! The watermark of a partition: below it every record is done, although records are done in any
//! order.

use std::collections::VecDeque;

use crate::domain::{ids::Offset, rows::LastRecord};

/// The records of a partition that were read and are not yet below the watermark, in order.
#[derive(Debug)]
pub struct Acks {
    outstanding: VecDeque<Outstanding>,
    next: Offset,
    last: Option<LastRecord>,
    /// How many of the outstanding records are not done.
    waiting: usize,
}

#[derive(Debug)]
struct Outstanding {
    record: LastRecord,
    done: bool,
}

impl Acks {
    /// Starts at `next`. `last` is the last record below it, if one is known.
    #[must_use]
    pub fn new(next: Offset, last: Option<LastRecord>) -> Self {
        Self { outstanding: VecDeque::new(), next, last, waiting: 0 }
    }

    /// Adds a record that was read.
    ///
    /// # Panics
    /// If its offset is not above all earlier ones: going on would decide a record twice.
    pub fn read(&mut self, record: LastRecord) {
        assert!(record.offset >= self.next, "offset {} read twice", record.offset);
        self.next = record.offset + 1;
        self.outstanding.push_back(Outstanding { record, done: false });
        self.waiting += 1;
    }

    /// Passes everything below `to` that was not read: a skip covers it.
    pub fn pass(&mut self, to: Offset) {
        self.next = self.next.max(to);
    }

    /// Marks the record at `offset` as decided and stored, or as passed under a hold. Returns
    /// whether it was outstanding until now.
    pub fn done(&mut self, offset: Offset) -> bool {
        let found = self.outstanding.binary_search_by_key(&offset, |slot| slot.record.offset);
        let Some(slot) = found.ok().and_then(|at| self.outstanding.get_mut(at)) else {
            return false;
        };
        // After a restart a record is decided again; only the first time counts.
        let first = !slot.done;
        slot.done = true;
        self.waiting -= usize::from(first);
        first
    }

    /// Forgets the done records in front. Call it before [`Self::watermark`].
    pub fn advance(&mut self) {
        while let Some(slot) = self.outstanding.front()
            && slot.done
        {
            self.last = Some(slot.record);
            self.outstanding.pop_front();
        }
    }

    /// Returns the offset below which every record is done.
    #[must_use]
    pub fn watermark(&self) -> Offset {
        self.outstanding.front().map_or(self.next, |slot| slot.record.offset)
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
