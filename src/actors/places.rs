//! Where the readers of this node's partitions are, for the node's probes.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use ractor::ActorRef;

use super::messages::PartitionMessage;
use crate::{
    domain::{
        ids::{Offset, Partition},
        rows::Hang,
    },
    partition::liveness::PROBE_MAX_MS,
};

/// One partition of this node.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) consumer: ActorRef<PartitionMessage>,
    /// Whether it has a live reader: it is neither halted nor being opened.
    pub(super) is_read: bool,
    /// The watermark and the reader's position, once the partition was opened.
    at: Option<(Offset, Offset)>,
    /// A record that was read.
    pub(super) last: Option<Offset>,
    /// Since when the reader waits for a record.
    waits_since_ms: Option<u64>,
    /// The end of the log when the consumer last looked.
    end: Offset,
    /// The highest record that the reader of a probe has found, if any.
    found: Option<Offset>,
    /// Whether log or store still owe the consumer's last look an answer.
    is_looking: bool,
}

impl Place {
    fn new(consumer: ActorRef<PartitionMessage>) -> Self {
        let (at, last, waits_since_ms, found) = (None, None, None, None);
        let (is_read, is_looking) = (false, false);
        Self { consumer, is_read, at, last, waits_since_ms, end: 0, found, is_looking }
    }

    /// Where its reader hangs, if it does.
    pub(super) fn of_reader(&self, partition: Partition) -> Option<Hang> {
        self.at.map(|(_, position)| Hang { partition, from: position, to: position })
    }

    /// Where its consumer hangs, if it does: at any record that was read and is not decided.
    pub(super) fn of_consumer(&self, partition: Partition) -> Option<Hang> {
        self.at.map(|(from, to)| Hang { partition, from, to: to.max(from) })
    }

    fn is_stuck(&self, now_ms: u64) -> bool {
        let waits = self.waits_since_ms.is_some_and(|at| now_ms.saturating_sub(at) >= PROBE_MAX_MS);
        self.is_looking || waits && self.at.is_some_and(|(_, position)| self.end > position)
    }
}

/// The partitions of this node, written by supervisor, consumers and live readers.
#[derive(Debug, Default)]
pub(super) struct Places(Mutex<BTreeMap<Partition, Place>>);

impl Places {
    /// Notes a new consumer. Where an earlier one was is kept: the record that ended it may end this one.
    pub(super) fn begin(&self, partition: Partition, consumer: ActorRef<PartitionMessage>) {
        let mut places = self.0.lock();
        let before = places.remove(&partition).and_then(|before| before.at);
        places.insert(partition, Place { at: before, ..Place::new(consumer) });
    }

    /// Notes that this node does not own the partition any more.
    pub(super) fn end(&self, partition: Partition) {
        self.0.lock().remove(&partition);
    }

    /// Notes a new live reader. `last` is a settled record, if one is known.
    pub(super) fn opened(&self, partition: Partition, position: Offset, last: Option<Offset>) {
        self.change(partition, |place| {
            (place.is_read, place.last, place.at) = (true, last, Some((position, position)));
        });
    }

    /// Notes that the partition has no live reader any more.
    pub(super) fn halted(&self, partition: Partition) {
        self.change(partition, |place| (place.is_read, place.waits_since_ms) = (false, None));
    }

    /// Notes that the live reader waits for a record.
    pub(super) fn waits(&self, partition: Partition, now_ms: u64) {
        self.change(partition, |place| place.waits_since_ms = Some(now_ms));
    }

    /// Notes what the live reader has read: its next position, and the last record.
    pub(super) fn read(&self, partition: Partition, position: Offset, last: Option<Offset>) {
        self.change(partition, |place| {
            let from = place.at.map_or(position, |(from, _)| from);
            (place.at, place.waits_since_ms) = (Some((from, position)), None);
            place.last = last.or(place.last);
        });
    }

    /// Notes the watermark and the end of the log.
    pub(super) fn looked(&self, partition: Partition, watermark: Offset, end: Offset) {
        self.change(partition, |place| {
            place.end = end;
            place.at.iter_mut().for_each(|at| at.0 = watermark);
        });
    }

    /// Notes whether the consumer's last look still waits for an answer when the next one is due.
    pub(super) fn looks(&self, partition: Partition, is_looking: bool) {
        self.change(partition, |place| place.is_looking = is_looking);
    }

    /// Notes a record that the reader of a probe has found.
    pub(super) fn found(&self, partition: Partition, offset: Offset) {
        self.change(partition, |place| place.found = place.found.max(Some(offset)));
    }

    /// Returns whether the reader of a probe has found a record that the live reader, which waits at
    /// `position`, should have found as well. The end of the log alone shows nothing: what lies there
    /// may be no record.
    pub(super) fn is_hung(&self, partition: Partition, position: Offset) -> bool {
        let places = self.0.lock();
        let found = places.get(&partition).and_then(|place| place.found);
        found.is_some_and(|found| found >= position)
    }

    /// Returns all partitions.
    pub(super) fn all(&self) -> Vec<(Partition, Place)> {
        self.0.lock().iter().map(|(partition, place)| (*partition, place.clone())).collect()
    }

    /// Returns where a partition is, if this node owns it.
    pub(super) fn of(&self, partition: Partition) -> Option<Place> {
        self.0.lock().get(&partition).cloned()
    }

    /// Returns the partition whose log is to be probed: a stuck one first, else each in turn. One that
    /// is halted is probed at a record that was read: if that fails, too, it is this node that cannot
    /// read, and not what lies behind.
    pub(super) fn to_probe(&self, now_ms: u64, turn: usize) -> Option<Partition> {
        let is_probed = |place: &Place| place.is_read || place.last.is_some();
        let read: Vec<_> = self.all().into_iter().filter(|(_, place)| is_probed(place)).collect();
        let at = turn % read.len().max(1);
        let stuck = read.iter().filter(|(_, place)| place.is_stuck(now_ms)).cycle().nth(at);
        stuck.or_else(|| read.get(at)).map(|(partition, _)| *partition)
    }

    fn change(&self, partition: Partition, change: impl FnOnce(&mut Place)) {
        if let Some(place) = self.0.lock().get_mut(&partition) {
            change(place);
        }
    }
}
