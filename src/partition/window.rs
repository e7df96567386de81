//! The records of one campaign that are not stored yet.

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

/// Bytes of one record that one credit pays for. The longest ids, with every character
/// escaped, make a request of two credits. A record of a foreign producer takes up to eight.
pub(crate) const CREDIT_BYTES: usize = 1_024;

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
    /// The credit that is given back when the record leaves the window.
    credit: usize,
    /// Its bytes, if a replay has read it: it has passed, and no one would read it for a dead letter.
    bytes: Option<Box<LogRecord>>,
}

/// A record that has left the window undecided.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Cleared {
    pub(super) offset: Offset,
    /// The credit that it cost.
    pub(super) credit: usize,
}

/// The records of one campaign that are not stored yet, in the order of offsets, and the rows of
/// those that are stored and not below a mark.
///
/// `sent ≤ len`: the current actor was sent the first `sent` records, and has stored none of them.
#[derive(Debug, Default)]
pub(super) struct Window {
    records: VecDeque<Waiting>,
    sent: usize,
    /// The credit of all records.
    credit: usize,
    /// Sizes of the batches in flight, in order.
    batches: VecDeque<usize>,
    /// The campaign's rows after each stored record that has one, until a mark counts it.
    unmarked: VecDeque<(Offset, Counts)>,
    /// One past the last record that has left the window as stored.
    stored_to: Offset,
}

impl Window {
    /// Adds the next record.
    pub(super) fn push(&mut self, read: ReadRecord) {
        let (at, credit) = (read.at(), credit(&read.raw));
        self.add(Waiting { at, record: read.record, credit, bytes: None });
    }

    /// Adds the next record of a replay. All of these come before records that are read live.
    pub(super) fn push_replayed(&mut self, read: ReadRecord) {
        let (at, credit) = (read.at(), credit(&read.raw));
        self.add(Waiting { at, record: read.record, credit, bytes: Some(Box::new(read.raw)) });
    }

    fn add(&mut self, waiting: Waiting) {
        self.credit += waiting.credit;
        self.records.push_back(waiting);
    }

    /// Returns the credit that its records cost.
    pub(super) fn credit(&self) -> usize {
        self.credit
    }

    /// Returns whether some record was not sent yet.
    pub(super) fn has_unsent(&self) -> bool {
        self.sent < self.records.len()
    }

    /// Returns the number of records in batches in flight.
    pub(super) fn sent(&self) -> usize {
        self.sent
    }

    /// Returns the number of batches in flight.
    pub(super) fn batches(&self) -> usize {
        self.batches.len()
    }

    /// Returns whether everything of the campaign is stored, marked, and below durable progress.
    pub(super) fn is_settled(&self, durable: Offset) -> bool {
        self.records.is_empty() && self.unmarked.is_empty() && self.stored_to <= durable
    }

    /// Returns one past the last record that is stored and no longer here.
    pub(super) fn stored_to(&self) -> Offset {
        self.stored_to
    }

    /// Returns the offset of the first record that the current actor has not stored.
    pub(super) fn first_unstored(&self) -> Option<Offset> {
        self.records.front().map(|waiting| waiting.at.offset)
    }

    /// Returns the offset of the first record that no replay has read, and that is not stored.
    pub(super) fn first_live(&self) -> Option<Offset> {
        let live = self.records.get(self.replayed())?;
        Some(live.at.offset)
    }

    /// Returns the number of records that a replay has read.
    pub(super) fn replayed(&self) -> usize {
        self.records.partition_point(|waiting| waiting.bytes.is_some())
    }

    /// Returns whether some record below `position` was not sent yet.
    pub(super) fn has_unsent_below(&self, position: Offset) -> bool {
        self.records.get(self.sent).is_some_and(|waiting| waiting.at.offset < position)
    }

    /// Returns the offset that the next batch of at most `max` records would pass. `position` is
    /// up to where the campaign's records may be sent.
    pub(super) fn next_passes(&self, max: usize, position: Offset) -> Offset {
        let next = self.records.get(self.sent + max);
        next.map_or(position, |waiting| waiting.at.offset.min(position))
    }

    /// Sends the next batch of at most `max` records below `position`, which may be none.
    pub(super) fn send(&mut self, max: usize, position: Offset) -> Batch {
        let passed = self.next_passes(max, position);
        let below = self.records.partition_point(|waiting| waiting.at.offset < passed);
        let until = below.max(self.sent);
        let unsent = self.records.range(self.sent..until);
        let records: Vec<_> = unsent.map(|waiting| (waiting.at, waiting.record.clone())).collect();
        self.sent = until;
        self.batches.push_back(records.len());
        self.check();
        Batch { records, passed, is_replay: false }
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

    /// Notes that the next record is stored, with the campaign's rows if it has one. It leaves the
    /// window, whatever the watermark waits for. Returns its credit, and whether it is the first time.
    pub(super) fn record_stored(&mut self, counts: Option<Counts>) -> (usize, bool) {
        let Some(Waiting { at, credit, .. }) = self.take_stored() else { return (0, false) };
        // After a restart, records are stored again. Their rows are the same.
        let is_first = at.offset >= self.stored_to;
        if is_first {
            self.stored_to = at.offset + 1;
            self.unmarked.extend(counts.map(|counts| (at.offset, counts)));
        }
        self.check();
        (credit, is_first)
    }

    /// Notes that the next record, one of a replay, is stored. Returns its credit and its bytes.
    pub(super) fn replayed_stored(&mut self) -> (usize, Option<LogRecord>) {
        let Some(Waiting { credit, bytes, .. }) = self.take_stored() else { return (0, None) };
        (credit, bytes.map(|bytes| *bytes))
    }

    fn take_stored(&mut self) -> Option<Waiting> {
        assert!(self.sent > 0, "a record is stored that was not sent");
        let stored = self.records.pop_front()?;
        self.sent -= 1;
        self.credit -= stored.credit;
        Some(stored)
    }

    /// Prepares for a new actor, to which nothing was sent yet. Forgets what a replay has read, and
    /// returns its credit.
    pub(super) fn restart(&mut self) -> usize {
        self.sent = 0;
        self.batches.clear();
        self.forget_first(self.replayed())
    }

    /// Forgets the first records, before anything was sent. Returns their credit.
    fn forget_first(&mut self, count: usize) -> usize {
        let credit = self.records.drain(..count).map(|waiting| waiting.credit).sum();
        self.credit -= credit;
        self.check();
        credit
    }

    /// Forgets the records below `from`, before anything was sent. Returns their credit.
    pub(super) fn drop_below(&mut self, from: Offset) -> usize {
        self.forget_first(self.records.partition_point(|waiting| waiting.at.offset < from))
    }

    /// Forgets the last records that were not sent, until the others cost at most `share`, but none
    /// of a replay. Returns the first of them and their credit.
    pub(super) fn cut(&mut self, share: usize) -> Option<(Offset, usize)> {
        let (before, mut first) = (self.credit, None);
        while self.credit > share
            && self.has_unsent()
            && self.records.back().is_some_and(|waiting| waiting.bytes.is_none())
            && let Some(Waiting { at, credit, .. }) = self.records.pop_back()
        {
            self.credit -= credit;
            first = Some(at.offset);
        }
        self.check();
        first.map(|first| (first, before - self.credit))
    }

    /// Forgets every record that is not stored. Returns them in order.
    pub(super) fn clear(&mut self) -> Vec<Cleared> {
        (self.sent, self.credit) = (0, 0);
        self.batches.clear();
        let cleared = self
            .records
            .drain(..)
            .map(|waiting| Cleared { offset: waiting.at.offset, credit: waiting.credit });
        cleared.collect()
    }

    /// Returns the campaign's rows below `watermark`, if the mark there counts any that no durable mark
    /// does.
    pub(super) fn to_mark(&self, watermark: Offset) -> Option<Counts> {
        let below = self.unmarked.partition_point(|(offset, _)| *offset < watermark);
        self.unmarked.range(..below).next_back().map(|(_, counts)| *counts)
    }

    /// Notes that a mark at `to` is durable.
    pub(super) fn marked(&mut self, to: Offset) {
        let below = self.unmarked.partition_point(|(offset, _)| *offset < to);
        self.unmarked.drain(..below);
    }

    /// Returns the first position with a row that no durable mark counts.
    pub(super) fn first_unmarked(&self) -> Option<Offset> {
        self.unmarked.front().map(|(offset, _)| *offset)
    }

    /// Forgets the rows that no mark counts: a hold covers them.
    pub(super) fn forget_unmarked(&mut self) {
        self.unmarked.clear();
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
        let (sent, len) = (self.sent, self.records.len());
        assert!(sent <= len, "{sent} sent of {len}");
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
    fn a_new_actor_gets_what_is_not_stored() {
        let mut window = window(3);
        window.send(3, 20);
        window.batch_stored(2);
        window.record_stored(Some(counts(1)));
        assert_eq!((window.first_unstored(), window.stored_to()), (Some(11), 11));
        window.restart();
        assert_eq!(offsets(&window.send(9, 20)), [11, 12]);
    }

    #[test]
    fn a_stored_record_gives_its_credit_back_at_once() {
        let mut window = window(3);
        window.send(3, 20);
        assert_eq!((window.credit(), window.record_stored(Some(counts(1)))), (3, (1, true)));
        assert_eq!((window.credit(), window.first_unstored()), (2, Some(11)));
        assert!(!window.is_settled(20), "two records and a mark are left");
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
    fn a_mark_counts_each_coupon_once() {
        let mut window = window(3);
        window.send(3, 20);
        window.record_stored(Some(counts(7)));
        window.record_stored(Some(counts(8)));
        assert_eq!(window.to_mark(11), Some(counts(7)));
        assert_eq!(window.to_mark(12), Some(counts(8)));
        assert_eq!(window.first_unmarked(), Some(10), "no mark is durable yet");
        window.marked(11);
        assert_eq!((window.to_mark(11), window.first_unmarked()), (None, Some(11)));
        window.marked(12);
        assert_eq!((window.to_mark(12), window.first_unmarked()), (None, None));
    }

    #[test]
    fn what_is_stored_again_is_not_marked_again() {
        let mut window = window(2);
        window.send(2, 20);
        window.record_stored(Some(counts(7)));
        window.record_stored(Some(counts(8)));
        window.restart();
        for offset in [10, 11] {
            window.push(read_of(request(offset, "ada"), 100));
        }
        window.send(2, 20);
        window.marked(12);
        assert_eq!(window.record_stored(Some(counts(7))), (1, false));
        assert_eq!(window.record_stored(Some(counts(8))), (1, false));
        assert_eq!(window.to_mark(12), None);
    }

    #[test]
    #[should_panic(expected = "a record is stored that was not sent")]
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
