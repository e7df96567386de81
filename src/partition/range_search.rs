//! The search for the end of a range that cannot be read: the first offset at which a new reader gets
//! a record.
//!
//! Every offset is tried, so that no record is passed that can be read. A failure that may pass
//! proves nothing, and neither does an offset at which nothing comes: behind it there may be only
//! transaction markers, or the partition has no leader. Then the range counts once two sweeps, one
//! recheck apart, have ended at the same offset while the partition was served: a settled record could be
//! read, or data came that cannot be read. A node that may not read the topic fails at every offset.

use crate::domain::{halt::Unread, ids::Offset};

/// What a new reader found at an offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tried {
    /// A record, there or above.
    Record,
    /// Neither a record nor an error.
    Nothing,
    /// Something that this node cannot read, however often it is tried.
    Unreadable {
        /// Another build may read it.
        other_build: bool,
    },
    /// A failure that may pass.
    Failed,
}

/// A search that goes on at each recheck of a halted partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeSearch {
    from: Offset,
    other_build: bool,
    /// The next offset to try.
    next: Offset,
    /// An offset of this sweep failed in a way that may pass.
    is_doubtful: bool,
    /// The log has served this partition in this sweep.
    is_served: bool,
    /// Another build may read an offset of this sweep.
    sweep_other_build: bool,
    /// Where the sweep before ended.
    before: Option<Offset>,
    found: Option<Unread>,
}

impl RangeSearch {
    /// Begins a search above `from`, which cannot be read.
    #[must_use]
    pub fn new(from: Offset, other_build: bool) -> Self {
        Self {
            from,
            other_build,
            next: from + 1,
            is_doubtful: false,
            is_served: false,
            sweep_other_build: other_build,
            before: None,
            found: None,
        }
    }

    /// Returns whether the search is for the range that begins at `from`, for the same reason.
    #[must_use]
    pub fn is_of(&self, from: Offset, other_build: bool) -> bool {
        (self.from, self.other_build) == (from, other_build)
    }

    /// Returns the next offset to try.
    #[must_use]
    pub fn next(&self) -> Offset {
        self.next
    }

    /// Returns the range, once its end is known.
    #[must_use]
    pub fn found(&self) -> Option<Unread> {
        self.found
    }

    /// Returns whether a sweep has begun and not ended.
    #[must_use]
    pub fn is_under_way(&self) -> bool {
        self.next > self.from + 1
    }

    /// Notes that the log serves the partition now: a settled record was read, or data at the start of
    /// the range that cannot be read.
    pub fn served(&mut self) {
        self.is_served = true;
    }

    /// Ends the sweep if it has reached `high`, the end of the log. Returns whether it has.
    pub fn reached(&mut self, high: Offset) -> bool {
        let is_end = self.next >= high;
        if is_end {
            self.end(high);
        }
        is_end
    }

    /// Takes what was found at [`Self::next`] in a log that ended at `high` before. Returns whether
    /// the sweep has ended.
    pub fn tried(&mut self, tried: Tried, high: Offset) -> bool {
        match tried {
            Tried::Record => self.end(self.next),
            Tried::Nothing => {
                self.is_doubtful = true;
                self.end(high.max(self.next));
            }
            Tried::Unreadable { other_build } => {
                self.sweep_other_build |= other_build;
                self.is_served = true;
                self.next += 1;
                return false;
            }
            Tried::Failed => {
                self.is_doubtful = true;
                self.next += 1;
                return false;
            }
        }
        true
    }

    fn end(&mut self, to: Offset) {
        let is_certain = !self.is_doubtful || self.is_served && self.before == Some(to);
        let (from, other_build) = (self.from, self.sweep_other_build);
        self.found = is_certain.then_some(Unread { from, to, other_build });
        self.before = Some(to);
        (self.next, self.is_doubtful, self.is_served) = (from + 1, false, false);
        self.sweep_other_build = self.other_build;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HIGH: Offset = 20;

    /// Sweeps once over a log with these answers by offset. Returns the end that is known then.
    fn sweep(search: &mut RangeSearch, answer: impl Fn(Offset) -> Tried) -> Option<Offset> {
        search.served();
        sweep_alone(search, answer)
    }

    /// As [`sweep`], in a partition without a settled record that could be read.
    fn sweep_alone(search: &mut RangeSearch, answer: impl Fn(Offset) -> Tried) -> Option<Offset> {
        while !search.reached(HIGH) {
            let tried = answer(search.next());
            if search.tried(tried, HIGH) {
                break;
            }
        }
        search.found().map(|found| found.to)
    }

    fn bad(other_build: bool) -> Tried {
        Tried::Unreadable { other_build }
    }

    #[test]
    fn the_first_record_ends_the_range() {
        let mut search = RangeSearch::new(10, false);
        let answer = |at| if at == 13 || at > 15 { Tried::Record } else { bad(false) };
        assert_eq!(sweep(&mut search, answer), Some(13), "what lies behind is not looked at");
        assert_eq!(search.found().map(|found| (found.from, found.other_build)), Some((10, false)));
    }

    #[test]
    fn without_a_record_the_log_ends_the_range() {
        assert_eq!(sweep(&mut RangeSearch::new(10, false), |_| bad(false)), Some(HIGH));
        assert_eq!(sweep(&mut RangeSearch::new(HIGH - 1, false), |_| Tried::Record), Some(HIGH));
    }

    #[test]
    fn what_may_pass_is_tried_again() {
        let mut search = RangeSearch::new(10, false);
        let failing = |at| if at == 12 { Tried::Failed } else { bad(false) };
        assert_eq!(sweep(&mut search, failing), None, "it may have been an outage");
        assert_eq!(sweep(&mut search, failing), Some(HIGH));
        let healed = |at| if at == 12 { Tried::Record } else { bad(false) };
        let mut search = RangeSearch::new(10, false);
        assert_eq!(sweep(&mut search, failing), None);
        assert_eq!(sweep(&mut search, healed), Some(12));
        assert_eq!(sweep(&mut search, |_| Tried::Nothing), None, "the range may be another now");
        assert_eq!(sweep(&mut search, |_| Tried::Nothing), Some(HIGH));
    }

    #[test]
    fn a_partition_that_fails_everywhere_has_no_range() {
        let mut search = RangeSearch::new(10, false);
        for _ in 0..5 {
            while !search.reached(HIGH) {
                search.tried(Tried::Failed, HIGH);
            }
            assert_eq!(search.found(), None, "nobody knows that anything can be read");
        }
        assert_eq!(sweep(&mut search, |_| Tried::Failed), Some(HIGH));
    }

    #[test]
    fn a_tail_without_records_belongs_to_the_range() {
        // From 14 on there are only transaction markers: no record comes, and no error.
        let answer = |at| if at < 14 { bad(false) } else { Tried::Nothing };
        let mut search = RangeSearch::new(10, false);
        assert_eq!(sweep_alone(&mut search, answer), None, "the leader may have gone");
        assert_eq!(sweep_alone(&mut search, answer), Some(HIGH), "bad data came in both sweeps");
        let mut search = RangeSearch::new(10, false);
        for found in [None, Some(HIGH)] {
            search.served();
            let alone = sweep_alone(&mut search, |_| Tried::Nothing);
            assert_eq!(alone, found, "one bad record, then the marker");
        }
    }

    #[test]
    fn a_sweep_is_under_way_until_it_ends() {
        let mut search = RangeSearch::new(10, false);
        assert!(!search.is_under_way());
        search.tried(bad(false), HIGH);
        assert!(search.is_under_way());
        search.tried(Tried::Record, HIGH);
        assert!(!search.is_under_way());
    }

    #[test]
    fn a_fault_of_the_build_is_named() {
        let mut search = RangeSearch::new(10, false);
        let answer = |at| if at == 15 { Tried::Record } else { bad(at == 12) };
        sweep(&mut search, answer);
        assert!(search.found().is_some_and(|found| found.other_build));
        assert!(search.is_of(10, false) && !search.is_of(11, false));
    }
}
