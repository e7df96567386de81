//! Dead letters: records that nobody can decode, and those of campaigns that are not defined.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::{StreamExt, stream};
use ractor::ActorRef;
use tokio::sync::Notify;

use super::{Environment, io, partition_consumer::PartitionMessage, task::until_done};
use crate::{
    domain::ids::{Offset, Partition},
    log::{LogError, READ_RECORDS_MAX, ReadError},
    partition::flow::Event,
    telemetry::metrics,
    wire::{LogRecord, codec::DeadLetterReason},
};

/// DeadLetters of one partition that are being kept at once: each waits for the log to confirm it.
const LETTERS_AT_ONCE: usize = 64;

/// Offsets of records whose campaigns are not defined there, to be kept. Each stands here once, so
/// that there are never more than the partition's window holds.
#[derive(Default)]
pub(super) struct Undefined {
    offsets: Mutex<BTreeSet<Offset>>,
    more: Notify,
}

impl Undefined {
    pub(super) fn note(&self, offset: Offset) {
        self.lock().insert(offset);
        self.more.notify_one();
    }

    fn take(&self) -> BTreeSet<Offset> {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<Offset>> {
        self.offsets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps the dead letters of one partition and tells its consumer of each.
#[derive(Clone)]
pub(super) struct DeadLetters {
    pub(super) environment: Arc<Environment>,
    pub(super) partition: Partition,
    pub(super) consumer: ActorRef<PartitionMessage>,
}

impl DeadLetters {
    /// Keeps `letters`, many at once: their order means nothing.
    pub(super) async fn keep(&self, letters: Vec<(LogRecord, DeadLetterReason)>) {
        let keep = async |(record, reason): (LogRecord, DeadLetterReason)| {
            self.keep_one(&record, reason).await;
            self.tell(record.offset);
        };
        stream::iter(letters).for_each_concurrent(LETTERS_AT_ONCE, keep).await;
    }

    /// Keeps the records of `undefined` for as long as its owner lives. As many as are noted
    /// meanwhile are read in one go, by one reader.
    pub(super) async fn keep_undefined(self, undefined: Arc<Undefined>) {
        let mut wanted = BTreeSet::new();
        loop {
            wanted.append(&mut undefined.take());
            if wanted.is_empty() {
                undefined.more.notified().await;
            } else if let Err(error) = self.read_and_keep(&mut wanted).await {
                let partition = self.partition;
                tracing::warn!(partition, %error, "records can't be read again yet");
                tokio::time::sleep(io::REOPEN_PAUSE).await;
            }
        }
    }

    /// Reads on from the lowest of `wanted` until none is left. What the log no longer has is told
    /// as well: there is nothing to keep.
    async fn read_and_keep(&self, wanted: &mut BTreeSet<Offset>) -> Result<(), LogError> {
        let Some(lowest) = wanted.first().copied() else { return Ok(()) };
        let open = || self.environment.log.open(self.partition, lowest);
        let mut reader = until_done("reading records again", open).await;
        while !wanted.is_empty() {
            let records = match reader.read(READ_RECORDS_MAX).await {
                Ok(records) => records,
                Err(ReadError::OutOfRange { .. } | ReadError::Closed) => {
                    self.give_up(std::mem::take(wanted));
                    break;
                }
                Err(ReadError::Failed(error)) => return Err(error),
            };
            let passed = records.last().map_or(lowest, |last| last.offset + 1);
            let found = records.into_iter().filter(|record| wanted.remove(&record.offset));
            self.keep(found.map(|record| (record, DeadLetterReason::Undefined)).collect()).await;
            let above = wanted.split_off(&passed);
            self.give_up(std::mem::replace(wanted, above));
        }
        Ok(())
    }

    fn give_up(&self, gone: BTreeSet<Offset>) {
        for offset in gone {
            let partition = self.partition;
            tracing::warn!(partition, offset, "record can't be read again as a dead letter");
            self.tell(offset);
        }
    }

    async fn keep_one(&self, record: &LogRecord, reason: DeadLetterReason) {
        let Self { environment, partition, .. } = self;
        let (partition, offset, reason) = (*partition, record.offset, reason.name());
        metrics::dead_letter(reason);
        tracing::warn!(partition, offset, reason, "record kept as a dead letter");
        let keep = || environment.log.dead_letter(partition, record, reason);
        until_done("keeping a dead letter", keep).await;
    }

    fn tell(&self, offset: Offset) {
        let _ended = self.consumer.cast(PartitionMessage::Event(Event::DeadLettered(offset)));
    }
}
