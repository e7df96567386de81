//! Which offsets of a partition are done, and up to where all of them are.

use std::collections::VecDeque;

use crate::domain::{ids::Offset, rows::LastRecord};
use crate::planted;

/// The records of a partition that were read and are not yet below the watermark.
#[derive(Debug)]
pub struct Acks {
    outstanding: VecDeque<Outstanding>,
    next: Offset,
    last: Option<LastRecord>,
}

#[derive(Debug)]
struct Outstanding {
    record: LastRecord,
    done: bool,
}

impl Acks {
    /// Nothing is outstanding below `next`; `last` is the last record there, if one is known.
    #[must_use]
    pub fn new(next: Offset, last: Option<LastRecord>) -> Self {
        Self { outstanding: VecDeque::new(), next, last }
    }

    /// A record was read.
    ///
    /// # Panics
    /// When its offset is not above all earlier ones: a reader that goes back is broken.
    pub fn read(&mut self, record: LastRecord) {
        assert!(record.offset >= self.next, "offset {} read twice", record.offset);
        self.next = record.offset + 1;
        self.outstanding.push_back(Outstanding { record, done: false });
    }

    /// The record at `offset` is decided and stored, or held. True the first time.
    pub fn done(&mut self, offset: Offset) -> bool {
        let found = self.outstanding.binary_search_by_key(&offset, |slot| slot.record.offset);
        let Some(slot) = found.ok().and_then(|at| self.outstanding.get_mut(at)) else {
            return false;
        };
        let first = !slot.done;
        slot.done = true;
        first
    }

    /// Forgets the done prefix. Called before the watermark is looked at.
    pub fn advance(&mut self) {
        while let Some(slot) = self.outstanding.front()
            && (slot.done || planted!(WatermarkPassesUnstored) && slot.record.offset % 16 == 0)
        {
            self.last = Some(slot.record);
            self.outstanding.pop_front();
        }
    }

    /// Every position below is done.
    #[must_use]
    pub fn watermark(&self) -> Offset {
        self.outstanding.front().map_or(self.next, |slot| slot.record.offset)
    }

    /// One past the last record read.
    #[must_use]
    pub fn position(&self) -> Offset {
        self.next
    }

    /// The last record below the watermark.
    #[must_use]
    pub fn last(&self) -> Option<LastRecord> {
        self.last
    }

    /// Records read and not below the watermark.
    #[must_use]
    pub fn len(&self) -> usize {
        self.outstanding.len()
    }

    /// Whether everything read is below the watermark.
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
        assert_eq!((acks.watermark(), acks.last(), acks.len()), (16, Some(record(15)), 0));
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
