//! A finished request log in memory: for the audit of a self-test or of a simulated world.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use tokio::sync::mpsc;

use super::{
    AppendError, Appended, Bounds, LogError, LogReader, Ownership, READ_RECORDS_MAX, ReadError,
    RequestLog,
};
use crate::{
    domain::ids::{Offset, Partition},
    wire::{LogRecord, NewRecord},
};

/// One partition of the log. The fields are public so that tests can damage them.
#[derive(Debug, Clone, Default)]
pub struct MemoryPartition {
    /// Offset of the oldest kept record.
    pub low: Offset,
    /// An offset above every record.
    pub high: Offset,
    /// The records by offset.
    pub records: BTreeMap<Offset, LogRecord>,
}

impl MemoryPartition {
    /// Returns an empty partition whose first record gets an offset above `start`.
    #[must_use]
    pub fn starting_at(start: Offset) -> Self {
        Self { low: start, high: start, records: BTreeMap::new() }
    }

    /// Returns the ends of the partition.
    pub(crate) fn bounds(&self) -> Bounds {
        Bounds { low: self.low, high: self.high }
    }

    /// Reads at most `max` records from `from` on; none at the end.
    ///
    /// # Errors
    /// [`ReadError::OutOfRange`] if `from` lies outside the bounds.
    pub(crate) fn read(&self, from: Offset, max: usize) -> Result<Vec<LogRecord>, ReadError> {
        self.bounds().check(from)?;
        let found = self.records.range(from..).take(max.min(READ_RECORDS_MAX));
        Ok(found.map(|(_, record)| record.clone()).collect())
    }
}

/// A request log in memory that gets no more records: its readers are closed at the end.
pub struct MemoryLog {
    partitions: Arc<Vec<MemoryPartition>>,
}

impl MemoryLog {
    /// Returns a log of these partitions.
    #[must_use]
    pub fn finished(partitions: Vec<MemoryPartition>) -> Self {
        Self { partitions: Arc::new(partitions) }
    }
}

fn finished(operation: &str) -> LogError {
    LogError { operation: operation.to_owned(), source: "the log is finished".into() }
}

#[async_trait]
impl RequestLog for MemoryLog {
    async fn append(&self, _: Partition, _: NewRecord) -> Result<Appended, AppendError> {
        Err(AppendError::Overloaded("the log is finished".to_owned()))
    }

    async fn join(&self) -> Result<mpsc::Receiver<Ownership>, LogError> {
        Err(finished("joining"))
    }

    async fn open(
        &self,
        partition: Partition,
        from: Offset,
    ) -> Result<Box<dyn LogReader>, LogError> {
        Ok(Box::new(MemoryReader { partitions: self.partitions.clone(), partition, next: from }))
    }

    async fn bounds(&self, partition: Partition) -> Result<Bounds, LogError> {
        let log = self.partitions.get(partition as usize);
        log.map(MemoryPartition::bounds).ok_or_else(|| LogError {
            operation: format!("accessing partition {partition}"),
            source: "the partition does not exist".into(),
        })
    }

    async fn report_progress(
        &self,
        _: Partition,
        _: Offset,
        _: Option<Offset>,
    ) -> Result<(), LogError> {
        Err(finished("reporting progress"))
    }

    async fn dead_letter(&self, _: Partition, _: &LogRecord, _: &str) -> Result<(), LogError> {
        Err(finished("writing a dead letter"))
    }
}

struct MemoryReader {
    partitions: Arc<Vec<MemoryPartition>>,
    partition: Partition,
    next: Offset,
}

#[async_trait]
impl LogReader for MemoryReader {
    async fn read(&mut self, max: usize) -> Result<Vec<LogRecord>, ReadError> {
        let log = self.partitions.get(self.partition as usize).ok_or(ReadError::Closed)?;
        let found = log.read(self.next, max)?;
        self.next = found.last().ok_or(ReadError::Closed)?.offset + 1;
        Ok(found)
    }
}
