//! One reader of the request log, on the queue of one consumer of the pool.

use std::{
    sync::{Arc, atomic::Ordering, mpsc},
    time::Duration,
};

use async_trait::async_trait;
use rdkafka::{
    Message,
    error::KafkaError,
    message::{BorrowedMessage, Timestamp as NativeTimestamp},
};

use super::{
    failed,
    readers::{PoolCommand, ReaderSignals, RecordQueue},
    watch::Fitness,
};
use crate::{
    domain::{
        halt::{Halt, HaltReason},
        ids::{Offset, Partition, Timestamp},
    },
    kafka::{client, errors::Meaning},
    log::{LogReader, READ_RECORDS_MAX, ReadError},
    wire::{LogRecord, RECORD_BYTES_MAX},
};

/// Longest wait for the notification of a queue. A lost notification would otherwise stop a reader.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Bytes after which a read ends, so that large records are not returned by the thousand.
const READ_BYTES_MAX: usize = 4 * 1_024 * 1_024;

/// Most bytes that are copied of a record, key and value together: thirty times what is decoded
/// (`RECORD_BYTES_MAX`), so that a larger one is a dead letter, and what its dead letter keeps. A record
/// that was small when compressed may be larger than memory and the dead-letter topic allow.
const COPY_BYTES_MAX: usize = 256 * 1_024;

const _: () = assert!(COPY_BYTES_MAX > RECORD_BYTES_MAX);

/// Reads one partition in order.
pub(super) struct KafkaReader {
    pub(super) partition: Partition,
    /// The lowest offset that the next record can have.
    pub(super) next: Offset,
    pub(super) consumer: usize,
    /// `None` once the reader is spent.
    pub(super) queue: Option<Box<RecordQueue>>,
    pub(super) signals: Arc<ReaderSignals>,
    pub(super) pool: mpsc::Sender<PoolCommand>,
    pub(super) fitness: Arc<Fitness>,
    /// Failure behind the records that the last call returned.
    pub(super) failure: Option<ReadError>,
    pub(super) buffer_bytes: usize,
}

impl KafkaReader {
    /// Takes the records that are in the queue, without waiting.
    fn take(&mut self, max: usize) -> Vec<LogRecord> {
        let mut records = Vec::new();
        self.buffer_bytes = 0;
        let Some(queue) = &self.queue else { return records };
        while records.len() < max && self.buffer_bytes < READ_BYTES_MAX {
            match queue.poll(Duration::ZERO) {
                None => break,
                Some(Ok(message)) => {
                    let Ok(offset) = Offset::try_from(message.offset()) else { continue };
                    // A fetched batch may start below the requested offset.
                    if offset < self.next {
                        continue;
                    }
                    let record = match copy(offset, &message) {
                        Ok(record) => record,
                        Err(halt) => {
                            self.failure = Some(ReadError::Unfit(halt));
                            break;
                        }
                    };
                    self.next = offset + 1;
                    self.buffer_bytes += record.key.len() + record.value.len();
                    records.push(record);
                }
                Some(Err(error)) => {
                    self.failure = Some(self.failed(error));
                    break;
                }
            }
        }
        records
    }

    /// Converts an error from the queue, after which the reader is always spent. The library does not
    /// report temporary errors there. After a wrong checksum, for example, it continues *behind* the
    /// damaged records, and a reader must not skip.
    fn failed(&self, error: KafkaError) -> ReadError {
        let (partition, wanted) = (self.partition, self.next);
        match Meaning::of(&error) {
            Meaning::OutsideLog => ReadError::OutOfRange { wanted, detail: error.to_string() },
            Meaning::Unreadable | Meaning::UnreadableHere => {
                let other_build = Meaning::of(&error) == Meaning::UnreadableHere;
                ReadError::Unreadable { wanted, detail: error.to_string(), other_build }
            }
            _ => failed(format!("reading partition {partition} at {wanted}"), error).into(),
        }
    }

    fn spend(&mut self) {
        if let Some(queue) = self.queue.take() {
            let close =
                PoolCommand::Close { consumer: self.consumer, partition: self.partition, queue };
            // The pool ends after all readers, so this fails only if its thread panicked.
            let _ = self.pool.send(close);
        }
    }
}

#[async_trait]
impl LogReader for KafkaReader {
    async fn read(&mut self, max: usize) -> Result<Vec<LogRecord>, ReadError> {
        let max = max.clamp(1, READ_RECORDS_MAX);
        loop {
            if self.queue.is_none() || self.signals.closed.load(Ordering::Acquire) {
                self.spend();
                return Err(ReadError::Closed);
            }
            if self.signals.broken.load(Ordering::Acquire) {
                self.spend();
                let operation = format!("reading partition {} in order", self.partition);
                return Err(failed(operation, KafkaError::Canceled).into());
            }
            if let Some(halt) = self.fitness.unfit() {
                self.spend();
                return Err(ReadError::Unfit(halt));
            }
            if self.failure.is_none() {
                let records = self.take(max);
                if !records.is_empty() {
                    return Ok(records);
                }
            }
            if let Some(failure) = self.failure.take() {
                self.spend();
                return Err(failure);
            }
            // Notified or not, the loop checks again.
            let _ = tokio::time::timeout(LOOK_AGAIN, self.signals.ready.notified()).await;
        }
    }
}

impl Drop for KafkaReader {
    fn drop(&mut self) {
        self.spend();
    }
}

/// Copies a record.
///
/// # Errors
/// The record does not have the broker's time. Decisions would go by a time that a producer chose.
fn copy(offset: Offset, message: &BorrowedMessage<'_>) -> Result<LogRecord, Halt> {
    let NativeTimestamp::LogAppendTime(time) = message.timestamp() else {
        let kind = match message.timestamp() {
            NativeTimestamp::CreateTime(_) => "CreateTime",
            _ => "missing",
        };
        let detail = format!(
            "the timestamp of the record at {offset} is {kind}: the topic's \
             message.timestamp.type must be LogAppendTime"
        );
        return Err(Halt::new(HaltReason::RecordTime, detail));
    };
    let key = client::shortened(message.key().unwrap_or_default(), COPY_BYTES_MAX);
    let value = message.payload().unwrap_or_default();
    Ok(LogRecord {
        offset,
        time: Timestamp(time),
        value: client::shortened(value, COPY_BYTES_MAX - key.len()),
        key,
        mac: client::mac_of(message),
    })
}
