//! The request log in memory: for the audit's self-test and for tests. Nothing survives it.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};

use super::{
    AppendError, Appended, Bounds, LogError, LogReader, Ownership, READ_RECORDS_MAX, ReadError,
    RequestLog,
};
use crate::{
    clock::SharedClock,
    domain::ids::{Offset, Partition, Timestamp},
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

    /// Appends a record at the `offset`, which is not below [`Self::high`].
    pub(crate) fn append(
        &mut self,
        offset: Offset,
        time: Timestamp,
        record: NewRecord,
    ) -> Appended {
        let NewRecord { campaign, value, mac } = record;
        let key = campaign.as_str().as_bytes().to_vec();
        self.high = offset + 1;
        self.records.insert(offset, LogRecord { offset, time, key, value, mac: Some(mac) });
        Appended { offset, time }
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

/// What a reader does at the end of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AtEnd {
    Wait,
    Close,
}

/// A request log in memory. Every second offset stays unused, as offsets have gaps on Kafka.
pub struct MemoryLog {
    shared: Arc<Shared>,
    clock: SharedClock,
    /// Kept so that the receivers of [`RequestLog::join`] stay open.
    members: Mutex<Vec<mpsc::Sender<Ownership>>>,
    dead_letters: Mutex<BTreeMap<(Partition, Offset), (LogRecord, String)>>,
}

struct Shared {
    partitions: Mutex<Vec<MemoryPartition>>,
    appended: Notify,
    at_end: AtEnd,
}

impl MemoryLog {
    /// Returns a log of these partitions, whose readers wait at the end.
    #[must_use]
    pub fn new(partitions: Vec<MemoryPartition>, clock: SharedClock) -> Self {
        Self::ending(partitions, clock, AtEnd::Wait)
    }

    /// Returns a log that gets no more records: its readers report [`ReadError::Closed`] at the
    /// end.
    #[must_use]
    pub fn finished(partitions: Vec<MemoryPartition>, clock: SharedClock) -> Self {
        Self::ending(partitions, clock, AtEnd::Close)
    }

    fn ending(partitions: Vec<MemoryPartition>, clock: SharedClock, at_end: AtEnd) -> Self {
        let partitions = Mutex::new(partitions);
        Self {
            shared: Arc::new(Shared { partitions, appended: Notify::new(), at_end }),
            clock,
            members: Mutex::default(),
            dead_letters: Mutex::default(),
        }
    }

    /// Runs `look` on a partition.
    ///
    /// # Errors
    /// If the partition does not exist.
    pub fn with<T>(
        &self,
        partition: Partition,
        look: impl FnOnce(&mut MemoryPartition) -> T,
    ) -> Result<T, LogError> {
        let mut partitions = self.shared.partitions.lock();
        partitions.get_mut(partition as usize).map(look).ok_or_else(|| LogError {
            operation: format!("accessing partition {partition}"),
            source: "the partition does not exist".into(),
        })
    }

    /// Returns the dead letters of a partition in the order of offsets, with their reasons.
    #[must_use]
    pub fn dead_letters(&self, partition: Partition) -> Vec<(LogRecord, String)> {
        let letters = self.dead_letters.lock();
        let of_partition = letters.range((partition, 0)..=(partition, Offset::MAX));
        of_partition.map(|(_, letter)| letter.clone()).collect()
    }
}

#[async_trait]
impl RequestLog for MemoryLog {
    async fn append(
        &self,
        partition: Partition,
        record: NewRecord,
    ) -> Result<Appended, AppendError> {
        let time = self.clock.now();
        let append = |log: &mut MemoryPartition| log.append(log.high + 1, time, record);
        let appended = self.with(partition, append);
        self.shared.appended.notify_waiters();
        appended.map_err(|error| AppendError::Overloaded(error.to_string()))
    }

    async fn join(&self) -> Result<mpsc::Receiver<Ownership>, LogError> {
        let count = self.shared.partitions.lock().len();
        let (sender, receiver) = mpsc::channel(count.max(1));
        for partition in 0..Partition::try_from(count).unwrap_or(Partition::MAX) {
            // The channel has room for all of them.
            let _full = sender.try_send(Ownership::Assigned(partition));
        }
        self.members.lock().push(sender);
        Ok(receiver)
    }

    async fn open(
        &self,
        partition: Partition,
        from: Offset,
    ) -> Result<Box<dyn LogReader>, LogError> {
        self.with(partition, |_| ())?;
        Ok(Box::new(MemoryReader { shared: Arc::clone(&self.shared), partition, next: from }))
    }

    async fn bounds(&self, partition: Partition) -> Result<Bounds, LogError> {
        self.with(partition, |log| log.bounds())
    }

    async fn report_progress(
        &self,
        _: Partition,
        _: Offset,
        _: Option<Offset>,
    ) -> Result<(), LogError> {
        Ok(())
    }

    async fn dead_letter(
        &self,
        partition: Partition,
        record: &LogRecord,
        reason: &str,
    ) -> Result<(), LogError> {
        let letter = (record.clone(), reason.to_owned());
        self.dead_letters.lock().insert((partition, record.offset), letter);
        Ok(())
    }
}

struct MemoryReader {
    shared: Arc<Shared>,
    partition: Partition,
    next: Offset,
}

#[async_trait]
impl LogReader for MemoryReader {
    async fn read(&mut self, max: usize) -> Result<Vec<LogRecord>, ReadError> {
        loop {
            // Registers before the read. Otherwise an append between the read and the wait would
            // not wake this reader.
            let appended = self.shared.appended.notified();
            tokio::pin!(appended);
            appended.as_mut().enable();
            let found = match self.shared.partitions.lock().get(self.partition as usize) {
                Some(log) => log.read(self.next, max)?,
                None => return Err(ReadError::Closed),
            };
            if let Some(last) = found.last() {
                self.next = last.offset + 1;
                return Ok(found);
            }
            match self.shared.at_end {
                AtEnd::Wait => appended.await,
                AtEnd::Close => return Err(ReadError::Closed),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{MemoryLog, MemoryPartition};
    use crate::{
        clock::SystemClock,
        log::contract::{self, PARTITIONS},
    };

    async fn fresh() -> (Arc<MemoryLog>, ()) {
        let partitions = vec![MemoryPartition::starting_at(1_000); PARTITIONS as usize];
        (Arc::new(MemoryLog::new(partitions, Arc::new(SystemClock))), ())
    }

    contract::request_log_contract!(fresh);
}
