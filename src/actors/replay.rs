//! Reads the log for a partition consumer: the live reader of the partition, and replays of single
//! campaigns. Each is a task, and reads no more than it has credit for.

use std::{sync::Arc, time::Duration};

use ractor::ActorRef;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{
    Environment, dead_letters::DeadLetters, io, messages::PartitionMessage, task::until_done,
};
use crate::{
    domain::{
        halt::{Halt, HaltReason},
        ids::{CampaignId, Offset, Partition},
    },
    log::{LogReader, READ_RECORDS_MAX, READERS_MAX, ReadError},
    partition::{
        assignment,
        flow::{Event, credit_of},
        window::credit,
    },
    telemetry::Chain,
    wire::{LogRecord, decode_step::DecodedRecords},
};

/// Replays of one partition that read at once: one reader is left for the live position.
pub(super) const REPLAYS_MAX: usize = READERS_MAX - 1;

/// A replay whose last chunk is not stored after this time gives its reader to another replay. The
/// store of its campaign may hang, and there are few readers.
const GIVE_WAY_AFTER: Duration = Duration::from_secs(1);

/// The live reader of a partition.
pub(super) struct Live {
    pub(super) environment: Arc<Environment>,
    pub(super) partition: Partition,
    pub(super) reader: Box<dyn LogReader>,
    pub(super) position: Offset,
    pub(super) credit: Arc<Semaphore>,
    /// Cancelled when nothing more is to be read.
    pub(super) stop: CancellationToken,
    pub(super) letters: DeadLetters,
    pub(super) consumer: ActorRef<PartitionMessage>,
}

impl Live {
    /// Reads until the reader is stopped or the partition halts.
    pub(super) async fn run(mut self) {
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                first = self.credit.acquire() => match first {
                    Ok(first) => first.forget(),
                    Err(_) => return,
                },
            }
            // As much as there is credit for, but at least one record: waits for the first credit
            // only.
            let more = self.credit.available_permits().min(READ_RECORDS_MAX - 1);
            let more = self.credit.try_acquire_many(more as u32).map_or(0, |permits| {
                let taken = permits.num_permits();
                permits.forget();
                taken
            });
            let granted = 1 + more;
            let read = tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                read = self.reader.read(granted) => read,
            };
            match read {
                Ok(records) => {
                    self.credit.add_permits(granted - records.len().min(granted));
                    let debt = match self.hand_over(records).await {
                        Ok(debt) => debt,
                        Err(halt) => {
                            let _ended = self.consumer.cast(PartitionMessage::Halt(halt));
                            return;
                        }
                    };
                    // Large records cost more than the one credit that each was read with. It is
                    // paid before more is read, and after what was read was handed over.
                    tokio::select! {
                        biased;
                        () = self.stop.cancelled() => return,
                        paid = self.credit.acquire_many(debt) => match paid {
                            Ok(paid) => paid.forget(),
                            Err(_) => return,
                        },
                    }
                }
                Err(ReadError::OutOfRange { wanted, detail }) => {
                    let detail = format!("the log has no record at {wanted}: {detail}");
                    let halt = Halt::new(HaltReason::LogOutOfRange, detail);
                    let _ended = self.consumer.cast(PartitionMessage::Halt(halt));
                    return;
                }
                Err(ReadError::Closed) => return,
                Err(ReadError::Failed(error)) => {
                    // Nothing was read for this credit.
                    self.credit.add_permits(granted);
                    let partition = self.partition;
                    tracing::warn!(partition, error = %Chain(&error), "reading failed");
                    self.environment.clock.sleep(io::REOPEN_PAUSE).await;
                    let open = || self.environment.log.open(self.partition, self.position);
                    self.reader =
                        until_done(&self.environment, "opening a partition again", open).await;
                }
            }
        }
    }

    /// Decodes records, hands them to the consumer and writes the dead letters among them.
    /// Returns the credit that they cost beyond one each, or why the partition must halt.
    async fn hand_over(&mut self, records: Vec<LogRecord>) -> Result<u32, Halt> {
        let decode_step = self.environment.decode_step(self.partition);
        let DecodedRecords { incoming, letters, halt } =
            decode_step.decode(records, self.environment.clock.now());
        if let Some(last) = incoming.last() {
            self.position = last.record.offset + 1;
        }
        let debt: usize = incoming.iter().map(|record| credit_of(record) - 1).sum();
        let _ended = self.consumer.cast(PartitionMessage::Event(Event::Read(incoming)));
        self.letters.keep(letters).await;
        halt.map_or(Ok(debt as u32), Err)
    }
}

/// The replay of one campaign.
pub(super) struct Replay {
    pub(super) environment: Arc<Environment>,
    pub(super) partition: Partition,
    pub(super) campaign: CampaignId,
    pub(super) incarnation: u64,
    pub(super) from: Offset,
    /// One permit for each replay that reads; see [`REPLAYS_MAX`].
    pub(super) places: Arc<Semaphore>,
    /// One permit for each chunk that may be sent: the one before is stored.
    pub(super) chunks: Arc<Semaphore>,
    pub(super) consumer: ActorRef<PartitionMessage>,
}

impl Replay {
    /// Reads the campaign's records chunk by chunk, until its guard is dropped.
    pub(super) async fn run(self) {
        let mut from = self.from;
        let (clock, decode_step) =
            (&self.environment.clock, self.environment.decode_step(self.partition));
        let batch_records = self.environment.limits.batch_records;
        loop {
            // Only then a reader: another replay may use it meanwhile.
            let Ok(_) = self.chunks.acquire().await.map(drop) else { return };
            let Ok(_place) = self.places.acquire().await else { return };
            let open = || self.environment.log.open(self.partition, from);
            let mut reader = until_done(&self.environment, "opening a replay", open).await;
            loop {
                let permit = match clock.timeout(GIVE_WAY_AFTER, self.chunks.acquire()).await {
                    Ok(Ok(permit)) => permit,
                    Ok(Err(_)) => return,
                    Err(_) => break,
                };
                let mut records = match reader.read(READ_RECORDS_MAX.min(batch_records)).await {
                    Ok(records) => records,
                    Err(ReadError::OutOfRange { wanted, detail }) => {
                        return self.not_found(wanted, &detail).await;
                    }
                    Err(ReadError::Closed) => return,
                    Err(ReadError::Failed(error)) => {
                        let partition = self.partition;
                        tracing::warn!(partition, error = %Chain(&error), "replaying failed");
                        self.environment.clock.sleep(io::REOPEN_PAUSE).await;
                        break;
                    }
                };
                let is_cut = shorten(&mut records, batch_records);
                let Some(last) = records.last() else { continue };
                from = last.offset + 1;
                permit.forget();
                let event = Event::Replayed {
                    campaign: self.campaign.clone(),
                    incarnation: self.incarnation,
                    records: decode_step.decode_campaign(records, &self.campaign),
                    read_to: from,
                };
                let _ended = self.consumer.cast(PartitionMessage::Event(event));
                if is_cut {
                    // The reader is past what was cut off.
                    break;
                }
            }
        }
    }

    /// Reports that the log has no record at `wanted`.
    async fn not_found(&self, wanted: Offset, detail: &str) {
        // The reader's error does not say on which side of the log the record is missing.
        let bounds = || self.environment.log.bounds(self.partition);
        let low = until_done(&self.environment, "reading the start of the log", bounds).await.low;
        let message = match assignment::not_replayed(self.from, wanted, low, detail) {
            Ok(contradiction) => {
                let (campaign, incarnation) = (self.campaign.clone(), self.incarnation);
                let contradicted = Event::Contradicted { campaign, incarnation, contradiction };
                PartitionMessage::Event(contradicted)
            }
            Err(halt) => PartitionMessage::Halt(halt),
        };
        let _ended = self.consumer.cast(message);
    }
}

/// Shortens a chunk to the credit of one batch, so that many replays of large records stay within
/// memory. Returns whether records were cut off.
fn shorten(records: &mut Vec<LogRecord>, batch_records: usize) -> bool {
    let mut cost = 0;
    let fits = records.iter().take_while(|record| {
        cost += credit(record);
        cost <= batch_records
    });
    let fits = fits.count().max(1);
    let is_cut = fits < records.len();
    records.truncate(fits);
    is_cut
}
