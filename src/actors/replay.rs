//! Reads the log for a partition consumer: the live reader of a partition, and the replays of
//! single campaigns. Each is a task that reads no more than it has credit for.

use std::{sync::Arc, time::Duration};

use ractor::ActorRef;
use tokio::sync::Semaphore;

use super::{Environment, io, partition_consumer::PartitionMessage, task::until_done};
use crate::{
    domain::{
        campaign::At,
        ids::{CampaignId, Offset, Partition},
        record::Record,
        rows::LastRecord,
    },
    log::{
        LogReader, LogRecord, READ_RECORDS_MAX, ReadError,
        codec::{DeadLetterReason, Decoded},
    },
    partition::flow::{BATCH_RECORDS_MAX, Event, Incoming},
    telemetry::Chain,
};

/// Pause before a spent reader is opened again.
const REOPEN_PAUSE: Duration = Duration::from_millis(100);

/// The live reader of a partition.
pub(super) struct Live {
    pub(super) environment: Arc<Environment>,
    pub(super) partition: Partition,
    pub(super) reader: Box<dyn LogReader>,
    pub(super) position: Offset,
    pub(super) credit: Arc<Semaphore>,
    pub(super) consumer: ActorRef<PartitionMessage>,
}

impl Live {
    /// Reads on until the partition halts or the consumer has ended.
    pub(super) async fn run(mut self) {
        loop {
            let Ok(first) = self.credit.acquire().await else { return };
            first.forget();
            let more = self.credit.available_permits().min(READ_RECORDS_MAX - 1);
            let more = self.credit.try_acquire_many(more as u32).map_or(0, |permits| {
                let taken = permits.num_permits();
                permits.forget();
                taken
            });
            let granted = 1 + more;
            match self.reader.read(granted).await {
                Ok(records) => {
                    self.credit.add_permits(granted - records.len().min(granted));
                    if let Err(reason) = self.hand_over(records).await {
                        let _ended = self.consumer.cast(PartitionMessage::Halt { reason });
                        return;
                    }
                }
                Err(ReadError::OutOfRange { wanted, detail }) => {
                    let reason = format!("the log has no record at {wanted}: {detail}");
                    let _ended = self.consumer.cast(PartitionMessage::Halt { reason });
                    return;
                }
                Err(ReadError::Closed) => return,
                Err(ReadError::Failed(error)) => {
                    self.credit.add_permits(granted);
                    let partition = self.partition;
                    tracing::warn!(partition, error = %Chain(&error), "reading failed");
                    tokio::time::sleep(REOPEN_PAUSE).await;
                    let open = || self.environment.log.open(self.partition, self.position);
                    self.reader = until_done("opening a partition again", open).await;
                }
            }
        }
    }

    /// Decodes records and hands them to the consumer, dead letters once they are kept.
    async fn hand_over(&mut self, records: Vec<LogRecord>) -> Result<(), String> {
        let mut incoming = Vec::with_capacity(records.len());
        let mut letters = Vec::new();
        let mut halt = None;
        for record in records {
            if let Some(reason) = self.too_far_ahead(&record) {
                halt = Some(reason);
                break;
            }
            let content = match self.environment.codec.decode(self.partition, &record) {
                Decoded::Record(content) => Some(content),
                Decoded::DeadLetter(reason) => {
                    letters.push((record.clone(), reason));
                    None
                }
                Decoded::Newer { version } => {
                    let at = record.offset;
                    let reason = format!("the record at {at} is of the newer version {version}");
                    halt = Some(reason);
                    break;
                }
            };
            self.position = record.offset + 1;
            let digest = io::digest(&self.environment, &record);
            let time = record.time;
            let record = LastRecord { offset: record.offset, digest };
            incoming.push(Incoming { record, time, content });
        }
        let _ended = self.consumer.cast(PartitionMessage::Event(Event::Read(incoming)));
        self.keep_letters(letters).await;
        halt.map_or(Ok(()), Err)
    }

    async fn keep_letters(&mut self, letters: Vec<(LogRecord, DeadLetterReason)>) {
        for (record, reason) in letters {
            io::keep_letter(&self.environment, self.partition, &record, reason).await;
            let event = Event::DeadLettered(record.offset);
            let _ended = self.consumer.cast(PartitionMessage::Event(event));
        }
    }

    fn too_far_ahead(&self, record: &LogRecord) -> Option<String> {
        let ahead_ms = record.time.0.saturating_sub(self.environment.clock.now().0);
        let max_ms = self.environment.future_max_ms?;
        let offset = record.offset;
        (ahead_ms > max_ms)
            .then(|| format!("the record at {offset} is {ahead_ms} ms ahead of this node's clock"))
    }
}

/// The replay of one campaign.
pub(super) struct Replay {
    pub(super) environment: Arc<Environment>,
    pub(super) partition: Partition,
    pub(super) campaign: CampaignId,
    pub(super) incarnation: u64,
    pub(super) from: Offset,
    /// One permit for each chunk that is stored.
    pub(super) chunks: Arc<Semaphore>,
    pub(super) consumer: ActorRef<PartitionMessage>,
}

impl Replay {
    /// Reads the campaign's records again, chunk by chunk, until its guard is dropped.
    pub(super) async fn run(self) {
        let mut from = self.from;
        loop {
            let open = || self.environment.log.open(self.partition, from);
            let mut reader = until_done("opening a replay", open).await;
            loop {
                let records = match reader.read(READ_RECORDS_MAX.min(BATCH_RECORDS_MAX)).await {
                    Ok(records) => records,
                    Err(ReadError::OutOfRange { wanted, detail }) => {
                        let reason = format!("a hold needs the record at {wanted}: {detail}");
                        let _ended = self.consumer.cast(PartitionMessage::Halt { reason });
                        return;
                    }
                    Err(ReadError::Closed) => return,
                    Err(ReadError::Failed(error)) => {
                        let partition = self.partition;
                        tracing::warn!(partition, error = %Chain(&error), "replaying failed");
                        tokio::time::sleep(REOPEN_PAUSE).await;
                        break;
                    }
                };
                let Some(last) = records.last() else { continue };
                from = last.offset + 1;
                let Ok(permit) = self.chunks.acquire().await else { return };
                permit.forget();
                let event = Event::Replayed {
                    campaign: self.campaign.clone(),
                    incarnation: self.incarnation,
                    records: self.own(&records),
                    read_to: from,
                };
                let _ended = self.consumer.cast(PartitionMessage::Event(event));
            }
        }
    }

    fn own(&self, records: &[LogRecord]) -> Vec<(At, Record)> {
        let decoded =
            |record: &LogRecord| match self.environment.codec.decode(self.partition, record) {
                Decoded::Record(content) if *content.campaign() == self.campaign => {
                    Some((At { offset: record.offset, time: record.time }, content))
                }
                Decoded::Record(_) | Decoded::DeadLetter(_) | Decoded::Newer { .. } => None,
            };
        records.iter().filter_map(decoded).collect()
    }
}
