//! Reads a partition of the log in parts: what is skipped lies between them.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use futures_util::{Stream, stream};
use tokio::time::Instant;

use super::AuditError;
use crate::{
    domain::ids::{Offset, Partition},
    log::{FailedReads, LogReader, READ_RECORDS_MAX, ReadError, RequestLog},
    telemetry::Chain,
    wire::LogRecord,
};

/// Longest wait for a record below the end of a part. After it, the remaining offsets are taken for
/// transaction markers, which have offsets but are never given to readers.
const HOLES_AFTER: Duration = Duration::from_secs(10);

/// Pause after a read that failed.
const READ_AGAIN: Duration = Duration::from_millis(100);

/// Why reading the log ended early.
pub(super) enum Stopped {
    Gap { wanted: Offset, detail: String },
    Unreadable { wanted: Offset, detail: String },
    Failed(AuditError),
}

impl From<AuditError> for Stopped {
    fn from(error: AuditError) -> Self {
        Self::Failed(error)
    }
}

struct Reading {
    log: Arc<dyn RequestLog>,
    partition: Partition,
    parts: VecDeque<(Offset, Offset)>,
    /// The next offset of the first part, once its reader is open.
    open: Option<(Offset, Box<dyn LogReader>)>,
    failed: FailedReads,
    started: Instant,
}

/// Streams the records of these parts of a partition, in the chunks of its readers.
pub(super) fn chunks(
    log: Arc<dyn RequestLog>,
    partition: Partition,
    parts: Vec<(Offset, Offset)>,
) -> impl Stream<Item = Result<Vec<LogRecord>, Stopped>> {
    let (failed, started) = (FailedReads::default(), Instant::now());
    let reading = Reading { log, partition, parts: parts.into(), open: None, failed, started };
    stream::try_unfold(reading, Reading::next)
}

impl Reading {
    async fn next(mut self) -> Result<Option<(Vec<LogRecord>, Self)>, Stopped> {
        while let Some(&(from, end)) = self.parts.front() {
            let (next, mut reader) = match self.open.take() {
                Some(open) => open,
                None => (from, open(&self.log, self.partition, from).await?),
            };
            if next >= end {
                self.parts.pop_front();
                continue;
            }
            let read = tokio::time::timeout(HOLES_AFTER, reader.read(READ_RECORDS_MAX)).await;
            match read {
                Err(_) => drop(self.parts.pop_front()),
                Ok(Ok(mut records)) => {
                    let next = records.last().map_or(next, |last| last.offset + 1);
                    records.retain(|record| record.offset < end);
                    self.open = Some((next, reader));
                    self.failed = FailedReads::default();
                    return Ok(Some((records, self)));
                }
                Ok(Err(error)) => {
                    drop(reader);
                    self.failed(error, next)?;
                    tokio::time::sleep(READ_AGAIN).await;
                    self.open = Some((next, open(&self.log, self.partition, next).await?));
                }
            }
        }
        Ok(None)
    }

    /// Judges a failed read of the record at `next`. An error ends the stream.
    fn failed(&mut self, error: ReadError, next: Offset) -> Result<(), Stopped> {
        let now_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        match self.failed.judge(error, next, now_ms) {
            ReadError::OutOfRange { wanted, detail } => Err(Stopped::Gap { wanted, detail }),
            ReadError::Unreadable { wanted, detail, .. } => {
                Err(Stopped::Unreadable { wanted, detail })
            }
            ReadError::Failed(error) => {
                let partition = self.partition;
                tracing::debug!(partition, error = %Chain(&error), "reading failed");
                Ok(())
            }
            error @ (ReadError::Unfit(_) | ReadError::Closed) => Err(Stopped::Failed(error.into())),
        }
    }
}

async fn open(
    log: &Arc<dyn RequestLog>,
    partition: Partition,
    from: Offset,
) -> Result<Box<dyn LogReader>, Stopped> {
    Ok(log.open(partition, from).await.map_err(AuditError::from)?)
}
