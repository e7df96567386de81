//! The request log on the embedded database: partitions of consecutive offsets, appended in
//! groups by the committer, read from memory by whoever keeps up.

mod records;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use async_trait::async_trait;
use fjall::{Guard, UserValue};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::warn;

use self::records::{decode, decode_dead_letter, encode, encode_dead_letter, time_of};
use super::{
    AppendError, Appended, Bounds, LogError, LogReader, Ownership, READ_RECORDS_MAX, ReadError,
    RequestLog,
};
use crate::{
    domain::ids::{Offset, Partition, Timestamp},
    embedded::{EmbeddedDatabase, End, Entry, Operation, Refused, Shared, Tail, keys, unpack},
    wire::{LogRecord, NewRecord},
};

/// Blocks removed in one group: a few milliseconds that appends may have to wait for.
const TRIM_BLOCKS_MAX: usize = 512;

/// Groups removed in one call, so that whoever reports progress is not held up; the next report
/// goes on. Many times faster than records can arrive.
const TRIM_GROUPS_MAX: usize = 4;

/// Dead letters that one call gives.
pub const DEAD_LETTERS_MAX: usize = 1_000;

pub use self::records::DeadLetter;

/// The log of an embedded node.
pub struct EmbeddedLog {
    database: Arc<EmbeddedDatabase>,
    retention_ms: i64,
    /// Held by whoever trims a partition.
    trimming: Vec<tokio::sync::Mutex<()>>,
    /// Kept open, so that those who joined never see an end; as many as joined and did not leave.
    members: Mutex<Vec<mpsc::Sender<Ownership>>>,
}

impl std::fmt::Debug for EmbeddedLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmbeddedLog").field("database", &self.database).finish_non_exhaustive()
    }
}

impl EmbeddedLog {
    /// The log in `database`. Settled records are kept for `retention`.
    #[must_use]
    pub fn new(database: Arc<EmbeddedDatabase>, retention: std::time::Duration) -> Self {
        let retention_ms = i64::try_from(retention.as_millis()).unwrap_or(i64::MAX);
        let trimming =
            database.shared().tails.iter().map(|_| tokio::sync::Mutex::new(())).collect();
        Self { database, retention_ms, trimming, members: Mutex::default() }
    }

    /// Dead letters of a partition in the order of offsets, from `from` on; at most
    /// [`DEAD_LETTERS_MAX`].
    ///
    /// # Errors
    /// [`LogError`] when they can't be read.
    pub async fn dead_letters(
        &self,
        partition: Partition,
        from: Offset,
    ) -> Result<Vec<DeadLetter>, LogError> {
        let operation = format!("reading dead letters of partition {partition}");
        blocking(self.database.shared().clone(), operation, move |shared| {
            let last = keys::dead_letter(partition, Offset::MAX);
            let range = keys::dead_letter(partition, from)..=last;
            let found = shared.data.range(range).take(DEAD_LETTERS_MAX);
            found.map(|guard| decode_dead_letter(guard.into_inner()?)).collect()
        })
        .await
    }

    fn tail(&self, partition: Partition, operation: &str) -> Result<&Arc<Tail>, LogError> {
        self.database.shared().tail(partition).ok_or_else(|| LogError {
            operation: format!("{operation} partition {partition}"),
            source: "the log has no such partition".into(),
        })
    }

    /// Removes what is older than the retention below `below`, a bounded number of records.
    async fn trim(&self, partition: Partition, below: Offset) -> Result<(), LogError> {
        let Some(Ok(_alone)) = self.trimming.get(partition as usize).map(|lock| lock.try_lock())
        else {
            return Ok(());
        };
        let tail = self.tail(partition, "trimming")?;
        for _ in 0..TRIM_GROUPS_MAX {
            let start = tail.start();
            let horizon = Timestamp(self.now().0.saturating_sub(self.retention_ms));
            if start.low >= below || start.time.is_some_and(|time| time >= horizon) {
                return Ok(());
            }
            let operation = format!("finding old records of partition {partition}");
            let shared = self.database.shared().clone();
            let old = blocking(shared, operation, move |shared| {
                old_blocks(shared, partition, start.low..below, horizon)
            });
            let Old { blocks, end, next_time } = old.await?;
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
            if let Some(time) = next_time {
                tail.note_start_time(end, time);
            }
            if !trims {
                return Ok(());
            }
        }
        Ok(())
    }

    fn now(&self) -> Timestamp {
        self.database.shared().clock.now()
    }
}

/// Which blocks at the start of a partition are old.
struct Old {
    /// By their first offset.
    blocks: Vec<Offset>,
    /// The first offset that is not old, or that was not looked at any more.
    end: Offset,
    /// Time from which on the next block is kept, if it was looked at.
    next_time: Option<Timestamp>,
}

/// Blocks that lie within `offsets` and whose records are all older than `horizon`.
fn old_blocks(
    shared: &Shared,
    partition: Partition,
    offsets: std::ops::Range<Offset>,
    horizon: Timestamp,
) -> Result<Old, DatabaseError> {
    let mut old = Old { blocks: Vec::new(), end: offsets.start, next_time: None };
    let range = keys::record(partition, offsets.start)..keys::record(partition, offsets.end);
    for guard in shared.log.range(range).take(TRIM_BLOCKS_MAX) {
        let (key, value) = guard.into_inner()?;
        let (first, records) = open_block(&key, &value)?;
        let newest = records.last().copied().and_then(time_of);
        let newest = newest.ok_or_else(|| unreadable(first))?;
        let end = first + records.len() as Offset;
        if newest >= horizon {
            old.next_time = Some(newest);
            return Ok(old);
        }
        if end > offsets.end {
            return Ok(old);
        }
        old.blocks.push(first);
        old.end = end;
    }
    Ok(old)
}

fn not_taken(refused: Refused) -> AppendError {
    match refused {
        Refused::NoSpace => AppendError::NoSpace(refused.to_string()),
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
        let (reply, answer) = oneshot::channel();
        self.database
            .try_submit(Operation::Append { partition, payload, reply })
            .map_err(not_taken)?;
        let (offset, time) = answer
            .await
            .map_err(|_| AppendError::Unknown("the committer ended".to_owned()))?
            .map_err(not_taken)?;
        Ok(Appended { offset, time })
    }

    async fn join(&self) -> Result<mpsc::Receiver<Ownership>, LogError> {
        let partitions = self.database.shared().tails.len();
        let (sender, receiver) = mpsc::channel(partitions.max(1));
        for partition in 0..partitions as Partition {
            sender
                .try_send(Ownership::Assigned(partition))
                .expect("the channel has room for every partition");
        }
        let mut members = self.members.lock();
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
        let shared = self.database.shared().clone();
        Ok(Box::new(EmbeddedReader { shared, tail, end, partition, next: from }))
    }

    async fn bounds(&self, partition: Partition) -> Result<Bounds, LogError> {
        let tail = self.tail(partition, "asking for the bounds of")?;
        // The end first: read the other way round, a trim in between could put it below the start.
        let high = tail.end().next;
        Ok(Bounds { low: tail.start().low.min(high), high })
    }

    async fn report_progress(
        &self,
        partition: Partition,
        next: Offset,
        keep_from: Option<Offset>,
    ) -> Result<(), LogError> {
        let end = self.tail(partition, "settling")?.end().next;
        // The last settled record stays: by it a rewritten tail is noticed.
        let last_settled = next.min(end).saturating_sub(1);
        self.trim(partition, last_settled.min(keep_from.unwrap_or(Offset::MAX))).await
    }

    async fn dead_letter(
        &self,
        partition: Partition,
        record: &LogRecord,
        reason: &str,
    ) -> Result<(), LogError> {
        let failed = |source| LogError {
            operation: format!("keeping dead letter {partition}/{}", record.offset),
            source,
        };
        let value = encode_dead_letter(record, reason).map_err(|detail| failed(detail.into()))?;
        let entries = vec![Entry::Put(keys::dead_letter(partition, record.offset), value)];
        warn!(partition, offset = record.offset, reason, "record is kept as a dead letter");
        self.database
            .submit(|reply| Operation::Write { entries, durable: true, reply })
            .await
            .map_err(|error| failed(error.into()))
    }
}

/// Reads one partition in order, from memory where it can.
struct EmbeddedReader {
    shared: Arc<Shared>,
    tail: Arc<Tail>,
    end: watch::Receiver<End>,
    partition: Partition,
    next: Offset,
}

impl EmbeddedReader {
    /// Records from the database. Off the async workers: it may have to wait for the disk.
    async fn stored(&self, to: Offset, max: usize) -> Result<Vec<LogRecord>, ReadError> {
        let (partition, next) = (self.partition, self.next);
        let operation = format!("reading partition {partition} from {next}");
        let read = move |shared: &Shared| blocks_from(shared, partition, next..to, max);
        let records = blocking(self.shared.clone(), operation, read).await?;
        let gap = (next..).zip(&records).find(|(wanted, record)| record.offset != *wanted);
        match (gap, records.is_empty()) {
            (None, false) => Ok(records),
            (Some((wanted, _)), _) => Err(self.out_of_range(wanted)),
            (None, true) => Err(self.out_of_range(next)),
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

    fn out_of_range(&self, wanted: Offset) -> ReadError {
        let (low, high) = (self.tail.start().low, self.tail.end().next);
        ReadError::OutOfRange { wanted, detail: format!("it holds {low} to {high} (exclusive)") }
    }
}

#[async_trait]
impl LogReader for EmbeddedReader {
    async fn read(&mut self, max: usize) -> Result<Vec<LogRecord>, ReadError> {
        let max = max.clamp(1, READ_RECORDS_MAX);
        if self.next > self.tail.end().next || self.next < self.tail.start().low {
            return Err(self.out_of_range(self.next));
        }
        let next = self.next;
        let ended = self.end.wait_for(|end| end.closed || end.next > next).await;
        let to = ended.map_err(|_| ReadError::Closed)?.next;
        if to <= next {
            return Err(ReadError::Closed);
        }
        // Records come into memory just before the end that covers them: never past that end, or
        // the next read would find itself outside the log.
        let max = max.min(usize::try_from(to - next).unwrap_or(max));
        let records = match self.tail.recent(next, max) {
            Some(values) => self.recent(&values)?,
            None => self.stored(to, max).await?,
        };
        // Moved only now: a call that was dropped while it waited has lost nothing.
        self.next = records.last().map_or(next, |record| record.offset + 1);
        Ok(records)
    }
}

/// At most `max` records within `offsets`. The first may stand in the middle of a block.
fn blocks_from(
    shared: &Shared,
    partition: Partition,
    offsets: std::ops::Range<Offset>,
    max: usize,
) -> Result<Vec<LogRecord>, DatabaseError> {
    let upto = keys::record(partition, 0)..=keys::record(partition, offsets.start);
    let block = shared.log.range(upto).next_back().map(Guard::key).transpose()?;
    let from = block.as_ref().and_then(|key| keys::record_offset(key)).unwrap_or(offsets.start);
    let range = keys::record(partition, from)..keys::record(partition, offsets.end);
    let mut found = Vec::with_capacity(max);
    for guard in shared.log.range(range) {
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

/// The offset of a block's first record, and its records.
fn open_block<'a>(key: &[u8], value: &'a [u8]) -> Result<(Offset, Vec<&'a [u8]>), DatabaseError> {
    let first = keys::record_offset(key).ok_or("a block's key can't be read")?;
    Ok((first, unpack(value).ok_or_else(|| unreadable(first))?))
}

type DatabaseError = Box<dyn std::error::Error + Send + Sync>;

fn unreadable(offset: Offset) -> DatabaseError {
    format!("the record at {offset} can't be read").into()
}

/// Runs `read` where it may wait for the disk.
async fn blocking<T: Send + 'static>(
    shared: Arc<Shared>,
    operation: String,
    read: impl FnOnce(&Shared) -> Result<T, DatabaseError> + Send + 'static,
) -> Result<T, LogError> {
    match tokio::task::spawn_blocking(move || read(&shared)).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(source)) => Err(LogError { operation, source }),
        Err(error) => Err(LogError { operation, source: error.into() }),
    }
}
