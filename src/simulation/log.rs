//! The request log of a world: real encoded records, offsets with holes, and every way to lose
//! some of them. Beside each record stands what its producer meant, for the judge.

use super::model::Meant;
use crate::{
    domain::ids::{Offset, Partition, Timestamp},
    wire::LogRecord,
};

/// A record to be appended, with what it means.
#[derive(Debug, Clone)]
pub(super) struct Fresh {
    pub(super) key: Vec<u8>,
    pub(super) value: Vec<u8>,
    pub(super) mac: Option<Vec<u8>>,
    pub(super) meant: Meant,
}

/// One partition.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    records: Vec<LogRecord>,
    /// What was appended, as it was meant; keeps what the log itself loses after the fact.
    pub(super) meant: Vec<(Offset, i64, Meant)>,
    pub(super) low: Offset,
    pub(super) next: Offset,
    /// What readers may see: below this everything is synced.
    pub(super) high: Offset,
    /// Raised whenever records that readers saw were taken away.
    pub(super) cuts: u32,
    pub(super) committed: Offset,
    /// The log is no longer the one that was appended to; from then on nothing new is judged.
    pub(super) is_damaged: bool,
    last_time: i64,
}

/// The log.
#[derive(Debug)]
pub(super) struct Log {
    pub(super) shelves: Vec<Shelf>,
    pub(super) is_embedded: bool,
}

impl Log {
    pub(super) fn new(partitions: u32, is_embedded: bool) -> Self {
        Self { shelves: (0..partitions).map(|_| Shelf::default()).collect(), is_embedded }
    }

    pub(super) fn shelf(&mut self, partition: Partition) -> &mut Shelf {
        &mut self.shelves[partition as usize]
    }

    /// Takes a record; `hole` offsets are left out before it. Visible at once, except embedded,
    /// where a sync makes it so.
    pub(super) fn append(
        &mut self,
        partition: Partition,
        time: i64,
        hole: u64,
        fresh: Fresh,
    ) -> (Offset, i64) {
        let embedded = self.is_embedded;
        let shelf = self.shelf(partition);
        let time = if embedded { time.max(shelf.last_time) } else { time };
        shelf.last_time = time;
        let offset = shelf.next + hole;
        shelf.next = offset + 1;
        let Fresh { key, value, mac, meant } = fresh;
        shelf.records.push(LogRecord { offset, time: Timestamp(time), key, value, mac });
        if !shelf.is_damaged {
            shelf.meant.push((offset, time, meant));
        }
        if !embedded {
            shelf.high = shelf.next;
        }
        (offset, time)
    }

    pub(super) fn sync(&mut self) {
        for shelf in &mut self.shelves {
            shelf.high = shelf.next;
        }
    }

    /// Takes an unsynced append back, as a power cut does.
    pub(super) fn take_back(&mut self, partition: Partition) {
        let shelf = self.shelf(partition);
        if let Some(record) = shelf.records.pop() {
            shelf.next = record.offset;
            if !shelf.is_damaged {
                shelf.meant.pop();
            }
        }
    }

    /// At most `most` records from `from` on; none where the log does not hold what follows.
    pub(super) fn read(
        &self,
        partition: Partition,
        from: Offset,
        most: usize,
    ) -> Option<Vec<LogRecord>> {
        let shelf = &self.shelves[partition as usize];
        if from < shelf.low || from > shelf.high {
            return None;
        }
        let first = shelf.records.partition_point(|record| record.offset < from);
        let visible = shelf.records[first..].iter().take_while(|it| it.offset < shelf.high);
        Some(visible.take(most).cloned().collect())
    }
}

impl Shelf {
    /// Loses everything at or above `end`.
    pub(super) fn truncate(&mut self, end: Offset) {
        self.records.retain(|record| record.offset < end);
        (self.next, self.high) = (end, end);
        self.is_damaged = true;
        self.cuts += 1;
    }

    /// Forgets everything below `low`.
    pub(super) fn trim(&mut self, low: Offset) {
        self.records.retain(|record| record.offset >= low);
        self.low = self.low.max(low);
    }

    /// Begins again at 0, empty.
    pub(super) fn recreate(&mut self) {
        self.records.clear();
        (self.low, self.next, self.high) = (0, 0, 0);
        self.is_damaged = true;
        self.cuts += 1;
    }

    /// Puts other records in the place of the last one below `end` and of all that follow, for what
    /// was settled may turn out to reach further; false if there is none.
    pub(super) fn rewrite_tail_from_below(&mut self, end: Offset) -> bool {
        let Some(last) = self.records.iter().rposition(|record| record.offset < end) else {
            return false;
        };
        self.records[last..].iter_mut().for_each(|record| record.value.push(b' '));
        self.is_damaged = true;
        self.cuts += 1;
        true
    }
}
