//! The tail of one partition of the embedded log, which all its readers share: both ends, and the
//! newest records in memory. A reader that keeps up never touches the database.

use std::collections::VecDeque;

use fjall::UserValue;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::domain::ids::{Offset, Timestamp};

/// Most records in memory: two full reads, so that a reader that is deciding one batch finds the
/// next one here.
const RECENT_RECORDS_MAX: usize = 8_192;

/// Most bytes of records in memory. Binds for unusually long records only: a request is about 250
/// bytes. Fewer where memory is short.
pub(super) const RECENT_BYTES_MAX: usize = 8 * 1_024 * 1_024;

/// The durable end of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct End {
    /// Offset that the next record gets. Every record below is on disk.
    pub(crate) next: Offset,
    /// Whether the database was closed, so that nothing more will be appended.
    pub(crate) closed: bool,
}

/// The oldest record of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Start {
    /// Offset of the oldest record kept.
    pub(crate) low: Offset,
    /// Record time of the oldest block, if known. Spares trimming a read of the disk.
    pub(crate) time: Option<Timestamp>,
}

/// The tail of one partition. The committer updates it, after the fsync.
pub(crate) struct Tail {
    end: watch::Sender<End>,
    start: Mutex<Start>,
    recent: Mutex<Recent>,
    recent_bytes: usize,
}

#[derive(Default)]
struct Recent {
    /// Records of consecutive offsets, up to the end.
    records: VecDeque<UserValue>,
    first: Offset,
    bytes: usize,
}

impl Tail {
    /// Creates the tail of a partition whose oldest record is at `low` and whose next will be at
    /// `next`. At most `recent_bytes` of records stay in memory.
    pub(crate) fn new(low: Offset, next: Offset, recent_bytes: usize) -> Self {
        Self {
            end: watch::Sender::new(End { next, closed: false }),
            start: Mutex::new(Start { low, time: None }),
            recent: Mutex::new(Recent { first: next, ..Recent::default() }),
            recent_bytes,
        }
    }

    pub(crate) fn end(&self) -> End {
        *self.end.borrow()
    }

    /// Returns a receiver that is notified when the end moves.
    pub(crate) fn watch(&self) -> watch::Receiver<End> {
        self.end.subscribe()
    }

    pub(crate) fn start(&self) -> Start {
        *self.start.lock()
    }

    /// Stores the time of the block at `low`, unless that has been trimmed since.
    pub(crate) fn note_start_time(&self, low: Offset, time: Timestamp) {
        let mut start = self.start.lock();
        if start.low == low {
            start.time = Some(time);
        }
    }

    /// Moves the start to `low`, after everything below was removed.
    pub(crate) fn trimmed(&self, low: Offset) {
        let mut start = self.start.lock();
        if low > start.low {
            *start = Start { low, time: None };
        }
    }

    /// Appends records that are now on disk, and moves the end behind them.
    pub(crate) fn publish(&self, records: Vec<UserValue>) {
        let count = records.len() as u64;
        let mut recent = self.recent.lock();
        for record in records {
            recent.bytes += record.len();
            recent.records.push_back(record);
        }
        while recent.records.len() > RECENT_RECORDS_MAX || recent.bytes > self.recent_bytes {
            let Some(oldest) = recent.records.pop_front() else { break };
            recent.bytes -= oldest.len();
            recent.first += 1;
        }
        drop(recent);
        // The end moves last: a reader that sees it must find the records.
        self.end.send_modify(|end| end.next += count);
    }

    /// Tells readers that nothing more will be appended.
    pub(crate) fn close(&self) {
        self.end.send_modify(|end| end.closed = true);
    }

    /// Returns at most `max` records from `from` on, or `None` if the first is no longer in memory.
    pub(crate) fn recent(&self, from: Offset, max: usize) -> Option<Vec<UserValue>> {
        let recent = self.recent.lock();
        let skip = usize::try_from(from.checked_sub(recent.first)?).ok()?;
        Some(recent.records.iter().skip(skip).take(max).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(range: std::ops::Range<u64>) -> Vec<UserValue> {
        range.map(|number| UserValue::from(number.to_be_bytes().as_slice())).collect()
    }

    #[test]
    fn recent_records_are_read_from_memory() {
        let tail = Tail::new(0, 10, RECENT_BYTES_MAX);
        assert_eq!(tail.recent(9, 5), None);
        assert_eq!(tail.recent(10, 5), Some(vec![]));
        tail.publish(values(10..20));
        assert_eq!(tail.recent(12, 3), Some(values(12..15)));
        assert_eq!(tail.recent(18, 100), Some(values(18..20)));
        assert_eq!(tail.end(), End { next: 20, closed: false });
    }

    #[test]
    fn memory_is_bounded_by_count_and_bytes() {
        let tail = Tail::new(0, 0, RECENT_BYTES_MAX);
        let many = RECENT_RECORDS_MAX as u64 + 10;
        tail.publish(values(0..many));
        assert_eq!(tail.recent(9, 1), None);
        assert_eq!(tail.recent(10, 1), Some(values(10..11)));
        let long = vec![0_u8; RECENT_BYTES_MAX / 2 + 1];
        tail.publish(vec![UserValue::from(long.clone()), UserValue::from(long)]);
        assert_eq!(tail.recent(many, 9), None);
        assert_eq!(tail.recent(many + 1, 9).map(|records| records.len()), Some(1));
        assert_eq!(tail.end().next, many + 2);
    }

    #[test]
    fn the_start_only_rises() {
        let tail = Tail::new(5, 10, RECENT_BYTES_MAX);
        tail.note_start_time(5, Timestamp(7));
        assert_eq!(tail.start(), Start { low: 5, time: Some(Timestamp(7)) });
        tail.trimmed(4);
        assert_eq!(tail.start().low, 5);
        tail.trimmed(8);
        tail.note_start_time(5, Timestamp(7));
        assert_eq!(tail.start(), Start { low: 8, time: None });
    }
}
