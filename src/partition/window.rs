//! The records of one campaign that may have to be decided again.

use std::collections::VecDeque;

use super::fold::Batch;
use crate::{
    domain::{
        campaign::At,
        ids::Offset,
        record::{Change, Record},
        rows::{Counts, HoldName},
    },
    wire::{LogRecord, decode_step::ReadRecord},
};

/// Bytes of one record that one credit pays for. What coupond writes is smaller; a record of a
/// foreign producer may be eight times as large.
const CREDIT_BYTES: usize = 1_024;

/// Returns the credit that a record costs while it is in a window. It bounds the window in bytes
/// as well as in records.
#[must_use]
pub fn credit(raw: &LogRecord) -> usize {
    (raw.key.len() + raw.value.len()).div_ceil(CREDIT_BYTES).max(1)
}

/// One record of the window.
#[derive(Debug)]
struct Waiting {
    at: At,
    record: Record,
    /// The record's bytes, until a dead letter takes them.
    raw: Option<LogRecord>,
    /// The credit that is given back when the record leaves the window.
    credit: usize,
    /// The campaign's rows up to the record, once its own row is stored.
    counts: Option<Counts>,
}

/// A record that has left the window.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Cleared {
    pub(super) offset: Offset,
    /// The credit that it cost.
    pub(super) credit: usize,
    /// Its dead letter is being written, or is durable.
    pub(super) is_letter: bool,
}

/// The records of one campaign from durable progress on, in the order of offsets.
///
/// `stored ≤ sent ≤ len`: the current actor was sent the first `sent` records and has reported
/// the first `stored` of them as stored. `marked ≤ len`: a mark counts the first `marked` records.
#[derive(Debug, Default)]
pub(super) struct Window {
    records: VecDeque<Waiting>,
    sent: usize,
    stored: usize,
    marked: usize,
    /// Sizes of the batches in flight, in order.
    batches: VecDeque<usize>,
}

impl Window {
    /// Adds the next record.
    pub(super) fn push(&mut self, read: ReadRecord) {
        let (at, credit) = (read.at(), credit(&read.raw));
        let ReadRecord { raw, record } = read;
        self.records.push_back(Waiting { at, record, raw: Some(raw), credit, counts: None });
    }

    /// Returns whether the window holds no record.
    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Returns whether some record was not sent yet.
    pub(super) fn has_unsent(&self) -> bool {
        self.sent < self.records.len()
    }

    /// Returns the number of batches in flight.
    pub(super) fn batches(&self) -> usize {
        self.batches.len()
    }

    /// Returns the offset of the first record that the current actor has not stored.
    pub(super) fn first_unstored(&self) -> Option<Offset> {
        self.records.get(self.stored).map(|waiting| waiting.at.offset)
    }

    /// Returns the offset that the next batch of at most `max` records would pass. `position` is
    /// how far the partition was read.
    pub(super) fn next_passes(&self, max: usize, position: Offset) -> Offset {
        self.records.get(self.sent + max).map_or(position, |waiting| waiting.at.offset)
    }

    /// Sends the next batch of at most `max` records, which may be none.
    pub(super) fn send(&mut self, max: usize, position: Offset) -> Batch {
        let passed = self.next_passes(max, position);
        let until = (self.sent + max).min(self.records.len());
        let unsent = self.records.range(self.sent..until);
        let records: Vec<_> = unsent.map(|waiting| (waiting.at, waiting.record.clone())).collect();
        self.sent = until;
        self.batches.push_back(records.len());
        self.check();
        Batch { records, passed }
    }

    /// Ends the oldest batch in flight, of which `reported` records are stored. Returns whether a
    /// batch was in flight.
    ///
    /// # Panics
    /// When the batch had fewer records.
    pub(super) fn batch_stored(&mut self, reported: usize) -> bool {
        let Some(count) = self.batches.pop_front() else { return false };
        // Fewer only where a contradiction ended the batch early.
        assert!(reported <= count, "a report covers more than its batch");
        true
    }

    /// Notes that the next record is stored, with the campaign's rows if it has one.
    pub(super) fn record_stored(&mut self, counts: Option<Counts>) {
        if let Some(waiting) = self.records.get_mut(self.stored) {
            waiting.counts = counts;
        }
        self.stored += 1;
        self.check();
    }

    /// Notes that the next record needs no row: its campaign is not defined there. Returns the
    /// bytes for a dead letter, or `None` if an earlier actor reported the record as well: then
    /// its dead letter is being written, or is durable.
    pub(super) fn record_undefined(&mut self) -> Option<LogRecord> {
        let raw = self.records.get_mut(self.stored).and_then(|waiting| waiting.raw.take());
        self.record_stored(None);
        raw
    }

    /// Prepares for a new actor, to which nothing was sent yet.
    pub(super) fn restart(&mut self) {
        self.sent = 0;
        self.stored = 0;
        self.batches.clear();
    }

    /// Forgets records below durable progress that the current actor has stored. Returns their
    /// credit.
    pub(super) fn trim(&mut self, durable: Offset) -> usize {
        let stored = self.records.iter().take(self.stored);
        let trimmed = stored.take_while(|waiting| waiting.at.offset < durable).count();
        let credit = self.forget(trimmed);
        self.stored -= trimmed;
        self.sent -= trimmed;
        self.check();
        credit
    }

    /// Forgets the records below `from`, before anything was sent. Returns their credit.
    pub(super) fn drop_below(&mut self, from: Offset) -> usize {
        let below = self.records.partition_point(|waiting| waiting.at.offset < from);
        let credit = self.forget(below);
        self.check();
        credit
    }

    fn forget(&mut self, count: usize) -> usize {
        self.marked = self.marked.saturating_sub(count);
        self.records.drain(..count).map(|waiting| waiting.credit).sum()
    }

    /// Forgets every record. Returns them in order.
    pub(super) fn clear(&mut self) -> Vec<Cleared> {
        self.restart();
        self.marked = 0;
        let cleared = self.records.drain(..).map(|waiting| Cleared {
            offset: waiting.at.offset,
            credit: waiting.credit,
            is_letter: waiting.raw.is_none(),
        });
        cleared.collect()
    }

    /// Moves the mark up to `watermark`. Returns the campaign's rows below it, if it passes any.
    pub(super) fn mark(&mut self, watermark: Offset) -> Option<Counts> {
        let mut counts = None;
        while let Some(waiting) = self.records.get(self.marked)
            && waiting.at.offset < watermark
        {
            counts = waiting.counts.or(counts);
            self.marked += 1;
        }
        counts
    }

    /// Returns the campaign's rows up to the last record below `from` that has one.
    pub(super) fn counts_below(&self, from: Offset) -> Option<Counts> {
        let below = self.records.iter().rev().filter(|waiting| waiting.at.offset < from);
        below.filter_map(|waiting| waiting.counts).next()
    }

    /// Returns the offsets of records that release `hold`.
    pub(super) fn releases(&self, hold: HoldName) -> impl Iterator<Item = Offset> {
        let releases =
            move |record: &Record| released_by(record).is_some_and(|names| names.contains(&hold));
        let found = self.records.iter().filter(move |waiting| releases(&waiting.record));
        found.map(|waiting| waiting.at.offset)
    }

    /// Stays on in release builds: a wrong window would decide a record twice or never.
    fn check(&self) {
        let Self { records, sent, stored, marked, .. } = self;
        let len = records.len();
        assert!(stored <= sent && *sent <= len, "{stored} stored, {sent} sent of {len}");
        assert!(*marked <= len, "{marked} marked of {len}");
    }
}

/// Returns the holds that a record releases, if it is a release record.
pub(super) fn released_by(record: &Record) -> Option<&[HoldName]> {
    match record {
        Record::Control(control) => match &control.change {
            Change::Released { holds } => Some(holds),
            _ => None,
        },
        Record::Request(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::partition::fold::tests::{counts, read_of, request};

    /// Returns a window with requests at 10, 11, …, each of a different user.
    fn window(count: u64) -> Window {
        let mut window = Window::default();
        for offset in 10..10 + count {
            window.push(read_of(request(offset, &format!("u{offset}")), 100));
        }
        window
    }

    fn offsets(batch: &Batch) -> Vec<Offset> {
        batch.records.iter().map(|(at, _)| at.offset).collect()
    }

    #[test]
    fn records_are_sent_in_order_and_once() {
        let mut window = window(3);
        let batch = window.send(2, 20);
        assert_eq!((offsets(&batch), batch.passed), (vec![10, 11], 12));
        let batch = window.send(2, 20);
        assert_eq!((offsets(&batch), batch.passed), (vec![12], 20));
        assert!(!window.has_unsent());
    }

    #[test]
    fn a_new_actor_gets_what_is_not_below_progress() {
        let mut window = window(3);
        window.send(3, 20);
        window.batch_stored(2);
        window.record_stored(Some(counts(1)));
        window.record_stored(None);
        assert_eq!(window.first_unstored(), Some(12));
        window.restart();
        assert_eq!(window.drop_below(11), 1);
        assert_eq!(offsets(&window.send(9, 20)), [11, 12]);
    }

    #[test]
    fn progress_forgets_only_what_is_stored() {
        let mut window = window(3);
        window.send(3, 20);
        window.record_stored(Some(counts(1)));
        assert_eq!(window.trim(20), 1, "the other two are not stored");
        assert_eq!(window.first_unstored(), Some(11));
    }

    #[test]
    fn a_large_record_costs_more_credit() {
        let mut window = window(1);
        let large = read_of(request(11, "ada"), 3_000);
        assert_eq!(credit(&large.raw), 3);
        window.push(large);
        let costs: Vec<_> = window.clear().iter().map(|it| (it.offset, it.credit)).collect();
        assert_eq!(costs, [(10, 1), (11, 3)]);
    }

    #[test]
    fn a_dead_letter_takes_the_bytes_once() {
        let mut window = window(1);
        window.send(1, 20);
        assert_eq!(window.record_undefined(), Some(read_of(request(10, "u10"), 100).raw));
        window.restart();
        window.send(1, 20);
        assert_eq!(window.record_undefined(), None, "an earlier actor reported it");
    }

    #[test]
    fn a_mark_counts_each_coupon_once() {
        let mut window = window(3);
        window.send(3, 20);
        window.record_stored(Some(counts(7)));
        window.record_stored(Some(counts(8)));
        assert_eq!(window.mark(11), Some(counts(7)));
        assert_eq!(window.mark(12), Some(counts(8)));
        assert_eq!(window.mark(12), None);
        assert_eq!(window.counts_below(12), Some(counts(8)));
    }

    #[test]
    #[should_panic(expected = "1 stored, 0 sent")]
    fn a_record_is_not_stored_before_it_is_sent() {
        window(1).record_stored(None);
    }

    #[test]
    #[should_panic(expected = "a report covers more than its batch")]
    fn a_report_covers_at_most_its_batch() {
        let mut window = window(1);
        window.send(1, 20);
        window.batch_stored(2);
    }
}
