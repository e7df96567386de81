//! The request log on the embedded database. Offsets of a partition are consecutive. The committer
//! appends in groups; a reader that keeps up reads from memory.

#[cfg(test)]
mod fuzz;
mod records;
#[cfg(test)]
mod tests;

use std::sync::{Arc, atomic::Ordering};

use async_trait::async_trait;
use fjall::{Guard, UserValue};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};

pub use self::records::DeadLetter;
use self::records::{decode, decode_dead_letter, encode, encode_dead_letter, time_of};
use super::{
    AppendError, Appended, Bounds, Found, LocalLog, LogError, LogReader, Ownership,
    READ_RECORDS_MAX, ReadError, RequestLog,
};
use crate::{
    clock::ClockStep,
    domain::ids::{Offset, Partition, Timestamp},
    embedded::{
        DataEntry, EmbeddedDatabase, End, Horizon, Operation, ReadFailure, ReadHandle, SubmitError,
        Tail, keys, unpack,
    },
    partition::expiry::{Expiring, expiring_before},
    wire::{LogRecord, NewRecord},
};

/// Most blocks removed in one operation. Appends may have to wait for it, a few milliseconds.
const TRIM_BLOCKS_MAX: usize = 512;

/// Most trim operations of one call, so that a progress report returns soon. The next report goes
/// on. Trimming is still many times faster than records can arrive.
const TRIM_GROUPS_MAX: usize = 4;

/// Most dead letters that one call returns.
pub const DEAD_LETTERS_MAX: usize = 1_000;

/// The request log of an embedded node.
pub struct EmbeddedLog {
    database: Arc<EmbeddedDatabase>,
    retention: std::time::Duration,
    /// One lock per partition: two trims at once would remove the same blocks.
    trimming: Vec<tokio::sync::Mutex<()>>,
    /// Senders for the receivers of [`RequestLog::join`]. Kept only so that a receiver does not end.
    members: Mutex<Vec<mpsc::Sender<Ownership>>>,
}

impl std::fmt::Debug for EmbeddedLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmbeddedLog").field("database", &self.database).finish_non_exhaustive()
    }
}

impl EmbeddedLog {
    /// Creates the log in `database`. Settled records are kept for `retention`.
    #[must_use]
    pub fn new(database: Arc<EmbeddedDatabase>, retention: std::time::Duration) -> Self {
        let trimming = database.reads().tails.iter().map(|_| tokio::sync::Mutex::new(())).collect();
        Self { database, retention, trimming, members: Mutex::default() }
    }

    /// Returns dead letters of a partition in the order of offsets, from `from` on, at most
    /// [`DEAD_LETTERS_MAX`].
    ///
    /// # Errors
    /// [`LogError`] if they cannot be read.
    pub async fn dead_letters(
        &self,
        partition: Partition,
        from: Offset,
    ) -> Result<Vec<DeadLetter>, LogError> {
        let operation = format!("reading dead letters of partition {partition}");
        let letters = self.database.reads().run(move |reads| {
            let last = keys::dead_letter(partition, Offset::MAX);
            let range = keys::dead_letter(partition, from)..=last;
            let found = reads.data.range(range).take(DEAD_LETTERS_MAX);
            found.map(|guard| decode_dead_letter(guard.into_inner()?)).collect()
        });
        letters.await.map_err(|source| LogError { operation, source })
    }

    fn tail(&self, partition: Partition, operation: &str) -> Result<&Arc<Tail>, LogError> {
        self.database.reads().tail(partition).ok_or_else(|| LogError {
            operation: format!("{operation} partition {partition}"),
            source: "the log has no such partition".into(),
        })
    }

    /// Removes a bounded number of records.
    async fn trim(&self, partition: Partition, trimming: Trimming) -> Result<(), LogError> {
        let Some(Ok(_alone)) = self.trimming.get(partition as usize).map(|lock| lock.try_lock())
        else {
            // Another call is trimming this partition.
            return Ok(());
        };
        let tail = self.tail(partition, "trimming")?;
        for _ in 0..TRIM_GROUPS_MAX {
            let start = tail.start();
            let low = start.low;
            if low >= trimming.end() || start.time.is_some_and(|time| !trimming.takes(low, time)) {
                return Ok(());
            }
            let old =
                self.database.reads().run(move |reads| old_blocks(reads, partition, low, trimming));
            let OldBlocks { blocks, end, next_time } = old.await.map_err(|source| LogError {
                operation: format!("finding old records of partition {partition}"),
                source,
            })?;
            let trims = !blocks.is_empty();
            if trims {
                self.database
                    .submit(|reply| Operation::Trim { partition, blocks, below: end, reply })
                    .await
                    .map_err(|error| LogError {
                        operation: format!("trimming partition {partition} below {end}"),
                        source: error.into(),
                    })?;
            }
            // After the trim, which moved the start to `end`. The next calls compare this time and
            // need no look at the disk until the block is old.
            if let Some(time) = next_time {
                tail.note_start_time(end, time);
            }
            if !trims {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// Which records are removed.
#[derive(Debug, Clone, Copy)]
struct Trimming {
    /// Records below are settled, and no hold needs them.
    free_below: Offset,
    /// Records below are settled.
    settled_below: Offset,
    space_short: bool,
    horizon: Horizon,
}

impl Trimming {
    /// Returns whether a record goes that lies just below `end` and is of this time. Without
    /// space, what nobody needs goes at once, and what only holds need goes once it is old.
    fn takes(&self, end: Offset, time: Timestamp) -> bool {
        let (is_old, short) = (self.horizon.is_old(time), self.space_short);
        if end <= self.free_below { is_old || short } else { is_old && short }
    }

    /// Returns the offset at and above which nothing goes.
    fn end(&self) -> Offset {
        if self.space_short { self.settled_below } else { self.free_below }
    }
}

/// Old blocks at the start of a partition.
struct OldBlocks {
    /// First offset of each block.
    blocks: Vec<Offset>,
    /// Offset behind the last of these blocks.
    end: Offset,
    /// Newest record time of the block at `end`, if that block was read and is too young.
    next_time: Option<Timestamp>,
}

/// Finds blocks from `low` on that may be removed.
fn old_blocks(
    reads: &ReadHandle,
    partition: Partition,
    low: Offset,
    trimming: Trimming,
) -> Result<OldBlocks, ReadFailure> {
    let mut old = OldBlocks { blocks: Vec::new(), end: low, next_time: None };
    let range = keys::record(partition, low)..keys::record(partition, trimming.end());
    for guard in reads.log.range(range).take(TRIM_BLOCKS_MAX) {
        let (key, value) = guard.into_inner()?;
        let (first, records) = open_block(&key, &value)?;
        let newest = records.iter().filter_map(|record| time_of(record)).max();
        let newest = newest.ok_or_else(|| unreadable(first))?;
        let end = first + records.len() as Offset;
        if end > trimming.end() {
            // Contains records that must be kept, and a block is removed as a whole.
            return Ok(old);
        }
        if !trimming.takes(end, newest) {
            old.next_time = Some(newest);
            return Ok(old);
        }
        old.blocks.push(first);
        old.end = end;
    }
    Ok(old)
}

fn append_error(refused: SubmitError) -> AppendError {
    match refused {
        SubmitError::NoSpace | SubmitError::ClockStep(_) => {
            AppendError::Unavailable(refused.to_string())
        }
        refused => AppendError::Overloaded(refused.to_string()),
    }
}

#[async_trait]
impl RequestLog for EmbeddedLog {
    async fn append(
        &self,
        partition: Partition,
        record: NewRecord,
    ) -> Result<Appended, AppendError> {
        let payload = encode(&record).map_err(|detail| AppendError::Overloaded(detail.into()))?;
        let (reply, replied) = oneshot::channel();
        self.database
            .try_submit(Operation::Append { partition, payload, reply })
            .map_err(append_error)?;
        let (offset, time) = replied
            .await
            .map_err(|_| AppendError::Unknown("the committer ended".to_owned()))?
            .map_err(append_error)?;
        Ok(Appended { offset, time })
    }

    async fn join(&self) -> Result<mpsc::Receiver<Ownership>, LogError> {
        let partitions = self.database.reads().tails.len();
        let (sender, receiver) = mpsc::channel(partitions.max(1));
        for partition in 0..partitions as Partition {
            sender
                .try_send(Ownership::Assigned(partition))
                .expect("the channel has room for every partition");
        }
        let mut members = self.members.lock();
        // Drops the senders of members that left, so that the list stays bounded.
        members.retain(|member| !member.is_closed());
        members.push(sender);
        Ok(receiver)
    }

    async fn open(
        &self,
        partition: Partition,
        from: Offset,
    ) -> Result<Box<dyn LogReader>, LogError> {
        let tail = self.tail(partition, "opening")?.clone();
        let end = tail.watch();
        let reads = self.database.reads().clone();
        Ok(Box::new(EmbeddedReader { reads, tail, end, partition, next: from }))
    }

    async fn bounds(&self, partition: Partition) -> Result<Bounds, LogError> {
        Ok(bounds_of(self.tail(partition, "asking for the bounds of")?))
    }

    async fn report_progress(
        &self,
        partition: Partition,
        next: Offset,
        keep_from: Option<Offset>,
    ) -> Result<(), LogError> {
        let bounds = bounds_of(self.tail(partition, "settling")?);
        let reads = self.database.reads();
        let trimming = Trimming {
            free_below: bounds.trimmable_below(next, keep_from),
            settled_below: bounds.trimmable_below(next, None),
            space_short: reads.space_short.load(Ordering::Relaxed),
            horizon: reads.record_clock.horizon(self.retention),
        };
        self.trim(partition, trimming).await
    }

    async fn expiring(
        &self,
        partition: Partition,
        now: Timestamp,
    ) -> Result<Option<Expiring>, LogError> {
        let Bounds { low, high } = bounds_of(self.tail(partition, "asking for the age of")?);
        if !self.database.reads().space_short.load(Ordering::Relaxed) {
            // Nothing that a hold keeps is removed while there is space.
            return Ok(None);
        }
        let before = expiring_before(now, self.retention);
        // Times may go back a little from one record to the next; the answer is as exact as that.
        let (mut below, mut end) = (low, high);
        while below < end {
            let middle = below + (end - below) / 2;
            match self.find(partition, middle).await? {
                Found::Record(record) if record.time >= before => end = middle,
                _ => below = middle + 1,
            }
        }
        let remedy = "free some space, or start with a longer embedded.retention: they are removed \
                      only while space is short";
        Ok(Some(Expiring { below, spares_waiting: true, remedy: remedy.to_owned() }))
    }

    async fn dead_letter(
        &self,
        partition: Partition,
        record: &LogRecord,
        reason: &str,
    ) -> Result<(), LogError> {
        let failed = |source| LogError {
            operation: format!("writing dead letter {partition}/{}", record.offset),
            source,
        };
        let value = encode_dead_letter(record, reason).map_err(|detail| failed(detail.into()))?;
        let entries = vec![DataEntry::Put(keys::dead_letter(partition, record.offset), value)];
        tracing::warn!(
            summed = true,
            partition,
            offset = record.offset,
            reason,
            "writing record as dead letter"
        );
        self.database
            .submit(|reply| Operation::Write { entries, durable: true, reply })
            .await
            .map_err(|error| failed(error.into()))
    }
}

#[async_trait]
impl LocalLog for EmbeddedLog {
    async fn refusal(&self) -> Option<String> {
        let refusal = self.database.refusal();
        let asked = tokio::task::spawn_blocking(refusal).await;
        asked.unwrap_or_else(|_| Some("the check of space and clock failed".to_owned()))
    }

    fn time(&self) -> Result<Timestamp, ClockStep> {
        self.database.reads().record_clock.look()
    }

    async fn find(&self, partition: Partition, offset: Offset) -> Result<Found, LogError> {
        let tail = self.tail(partition, "looking into")?;
        let end = tail.end().next;
        if offset >= end {
            return Ok(Found::Nothing);
        }
        let failed = |source| LogError {
            operation: format!("reading partition {partition} at {offset}"),
            source,
        };
        if let Some(values) = tail.recent(offset, 1) {
            let record = values.first().and_then(|value| decode(offset, value));
            return Ok(record.map_or(Found::Nothing, Found::Record));
        }
        let read = self.database.reads().run(move |reads| {
            let record = records_within(reads, partition, offset..offset + 1, 1)?.pop();
            // The start last: a record that is missing may have been trimmed meanwhile. The start
            // is in the same batch as the trim; the tail learns of it later.
            let low = reads.data.get(keys::trimmed(partition))?;
            let low = low.and_then(|bytes| keys::number(&bytes)).unwrap_or(0);
            Ok(match record {
                Some(record) => Found::Record(record),
                None if offset < low => Found::Trimmed,
                None => Found::Nothing,
            })
        });
        read.await.map_err(failed)
    }
}

/// Reads one partition in order: from memory if the records are still there, else from the database.
struct EmbeddedReader {
    reads: Arc<ReadHandle>,
    tail: Arc<Tail>,
    end: watch::Receiver<End>,
    partition: Partition,
    next: Offset,
}

impl EmbeddedReader {
    /// Reads records from the database.
    async fn stored(&self, to: Offset, max: usize) -> Result<Vec<LogRecord>, ReadError> {
        let (partition, next) = (self.partition, self.next);
        let read = self.reads.run(move |reads| records_within(reads, partition, next..to, max));
        let records = read.await.map_err(|source| LogError {
            operation: format!("reading partition {partition} from {next}"),
            source,
        })?;
        match first_missing(next, &records) {
            None => Ok(records),
            Some(missing) => Err(bounds_of(&self.tail).without(missing)),
        }
    }

    fn recent(&self, values: &[UserValue]) -> Result<Vec<LogRecord>, ReadError> {
        let decoded = (self.next..).zip(values).map(|(offset, value)| {
            decode(offset, value).ok_or_else(|| LogError {
                operation: format!("reading partition {} at {offset}", self.partition),
                source: unreadable(offset),
            })
        });
        Ok(decoded.collect::<Result<Vec<_>, _>>()?)
    }
}

#[async_trait]
impl LogReader for EmbeddedReader {
    async fn read(&mut self, max: usize) -> Result<Vec<LogRecord>, ReadError> {
        let max = max.clamp(1, READ_RECORDS_MAX);
        bounds_of(&self.tail).check(self.next)?;
        let next = self.next;
        let ended = self.end.wait_for(|end| end.closed || end.next > next).await;
        let to = ended.map_err(|_| ReadError::Closed)?.next;
        if to <= next {
            return Err(ReadError::Closed);
        }
        // The tail adds records before it moves its end. A read past `to` would leave `next` beyond
        // the end, which the next read would take for a start outside the log.
        let max = max.min(usize::try_from(to - next).unwrap_or(max));
        let records = match self.tail.recent(next, max) {
            Some(values) => self.recent(&values)?,
            None => self.stored(to, max).await?,
        };
        // After the last await, so that a call that is dropped while it waits loses no record.
        self.next = records.last().map_or(next, |record| record.offset + 1);
        Ok(records)
    }
}

/// Returns the ends of a partition.
fn bounds_of(tail: &Tail) -> Bounds {
    // The start first: both ends only rise, so an end that is read later is not below it.
    let low = tail.start().low;
    Bounds { low, high: tail.end().next }
}

/// Returns the first offset that `records`, read from `next` on, lack. Offsets are consecutive in
/// the embedded log, so a missing record was trimmed or lost. A reader never skips.
fn first_missing(next: Offset, records: &[LogRecord]) -> Option<Offset> {
    if records.is_empty() {
        return Some(next);
    }
    let mut read = (next..).zip(records);
    read.find(|(wanted, record)| record.offset != *wanted).map(|(wanted, _)| wanted)
}

/// Reads at most `max` records within `offsets`.
fn records_within(
    reads: &ReadHandle,
    partition: Partition,
    offsets: std::ops::Range<Offset>,
    max: usize,
) -> Result<Vec<LogRecord>, ReadFailure> {
    // The first record may be in the middle of a block, so the search goes back to the block's key.
    let upto = keys::record(partition, 0)..=keys::record(partition, offsets.start);
    let block = reads.log.range(upto).next_back().map(Guard::key).transpose()?;
    let from = block.as_ref().and_then(|key| keys::record_offset(key)).unwrap_or(offsets.start);
    let range = keys::record(partition, from)..keys::record(partition, offsets.end);
    let mut found = Vec::with_capacity(max);
    for guard in reads.log.range(range) {
        let (key, value) = guard.into_inner()?;
        let (first, records) = open_block(&key, &value)?;
        for (offset, record) in (first..).zip(records) {
            if !offsets.contains(&offset) {
                continue;
            }
            if found.len() == max {
                return Ok(found);
            }
            found.push(decode(offset, record).ok_or_else(|| unreadable(offset))?);
        }
    }
    Ok(found)
}

/// Returns the offset of a block's first record, and its records.
fn open_block<'a>(key: &[u8], value: &'a [u8]) -> Result<(Offset, Vec<&'a [u8]>), ReadFailure> {
    let first = keys::record_offset(key).ok_or("the key of a block is damaged")?;
    Ok((first, unpack(value).ok_or_else(|| unreadable(first))?))
}

fn unreadable(offset: Offset) -> ReadFailure {
    format!("the record at {offset} is damaged").into()
}
