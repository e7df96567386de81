//! Reads the log for a partition consumer: the live reader of the partition, and those of records that
//! are read again. Each is a task, and reads no more than it has credit for.

use std::{pin::pin, sync::Arc, time::Duration};

use ractor::ActorRef;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{Environment, io, messages::PartitionMessage, task::until_done};
use crate::{
    domain::{
        halt::{Halt, HaltReason},
        ids::{Offset, Partition},
    },
    log::{FailedReads, LogError, LogReader, READ_RECORDS_MAX, ReadError},
    partition::{
        assignment::{self, Missing},
        flow::{Again, Event, debt_of},
        skips::Passing,
        window::credit,
    },
    telemetry::Chain,
    wire::{LogRecord, decode_step::DecodedRecords},
};

/// Time without a record after which a live reader is compared with the readers of probes.
const HUNG_AFTER: Duration = Duration::from_secs(10);

/// Times that a reader which hangs is opened again before its partition halts.
const REOPENED_MAX: u32 = 1;

/// The live reader of a partition.
pub(super) struct Live {
    pub(super) environment: Arc<Environment>,
    pub(super) partition: Partition,
    /// Records that were read when the partition was opened.
    pub(super) first: Vec<LogRecord>,
    pub(super) position: Offset,
    /// Ranges that are passed, whether they can be read or not.
    pub(super) passing: Arc<Passing>,
    pub(super) credit: Arc<Semaphore>,
    /// Cancelled when nothing more is to be read.
    pub(super) stop: CancellationToken,
    pub(super) consumer: ActorRef<PartitionMessage>,
}

impl Live {
    /// Reads until the reader is stopped or the partition halts.
    pub(super) async fn run(mut self, reader: Box<dyn LogReader>) {
        let stop = self.stop.clone();
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = self.read_on(reader) => {}
        }
    }

    async fn read_on(&mut self, mut reader: Box<dyn LogReader>) {
        let (mut failed, mut hung) = (FailedReads::default(), 0);
        loop {
            let to = self.passing.after(self.position);
            if to > self.position {
                self.pass(to);
                drop(reader);
                reader = self.open_at_position().await;
                failed = FailedReads::default();
            }
            let Some(granted) = take_credit(&self.credit).await else { return };
            let read = match self.first.is_empty() {
                true => self.next(&mut reader, granted).await,
                false => Some(Ok(std::mem::take(&mut self.first))),
            };
            let Some(read) = read else {
                self.credit.add_permits(granted);
                hung += 1;
                if hung > REOPENED_MAX {
                    return self.halt_as_hung();
                }
                tracing::warn!(partition = self.partition, "reader hangs, it is opened again");
                drop(reader);
                reader = self.open_at_position().await;
                continue;
            };
            hung = 0;
            let mut records = match read {
                Ok(records) => records,
                Err(error) => {
                    // Nothing was read for this credit.
                    self.credit.add_permits(granted);
                    let error = failed.judge(error, self.position, self.environment.now_ms());
                    let ReadError::Failed(error) = error else { return self.end(error) };
                    reader = self.open_again(reader, error).await;
                    continue;
                }
            };
            failed = FailedReads::default();
            let skipped_from = self.passing.cut(self.position, &mut records);
            self.credit.add_permits(granted - records.len().min(granted));
            let Some(debt) = self.hand_over(records) else { return };
            self.position = self.position.max(skipped_from.unwrap_or(0));
            // Large records cost more than the one credit that each was read with. It is paid
            // before more is read, and after what was read was handed over.
            let Ok(paid) = self.credit.acquire_many(debt).await else { return };
            paid.forget();
        }
    }

    /// Reads the next records. Returns none if the reader hangs.
    async fn next(
        &self,
        reader: &mut Box<dyn LogReader>,
        most: usize,
    ) -> Option<Result<Vec<LogRecord>, ReadError>> {
        let Environment { clock, shared, .. } = &*self.environment;
        if !shared.probes {
            return Some(reader.read(most).await);
        }
        shared.places.waits(self.partition, self.environment.now_ms());
        let mut read = pin!(reader.read(most));
        loop {
            if let Ok(read) = clock.timeout(HUNG_AFTER, read.as_mut()).await {
                return Some(read);
            }
            // While probes fail, the node cannot read, and that is for them to judge.
            if shared.can_decide() && shared.places.is_hung(self.partition, self.position) {
                return None;
            }
        }
    }

    fn halt_as_hung(&self) {
        let detail = format!("the reader hangs at {}, a new one does not", self.position);
        let halt = Halt::new(HaltReason::ReaderHung, detail);
        let _ended = self.consumer.cast(PartitionMessage::HaltOnceSettled(halt));
    }

    async fn open_again(&self, failed: Box<dyn LogReader>, error: LogError) -> Box<dyn LogReader> {
        // Before another is opened: two readers would be one more than a partition may have.
        drop(failed);
        let partition = self.partition;
        tracing::warn!(partition, error = %Chain(&error), "reading failed");
        self.environment.clock.sleep(io::REOPEN_PAUSE).await;
        self.open_at_position().await
    }

    async fn open_at_position(&self) -> Box<dyn LogReader> {
        let open = || self.environment.log.open(self.partition, self.position);
        until_done(&self.environment, "opening a partition again", open).await
    }

    /// Passes a range that a skip in force covers.
    fn pass(&mut self, to: Offset) {
        let (partition, from) = (self.partition, self.position);
        tracing::warn!(partition, from, to, "range skipped");
        self.position = to;
        let _ended = self.consumer.cast(PartitionMessage::Event(Event::Passed(to)));
    }

    /// Ends the reader after an error that halts the partition.
    fn end(&self, error: ReadError) {
        let message = match error {
            ReadError::OutOfRange { wanted, detail } => {
                let detail = format!("the log has no record at {wanted}: {detail}");
                PartitionMessage::Halt(Halt::new(HaltReason::LogOutOfRange, detail))
            }
            // The range begins behind the last record, where progress will stand.
            ReadError::Unreadable { detail, .. } => {
                PartitionMessage::HaltOnceSettled(assignment::unreadable(self.position, &detail))
            }
            ReadError::Unfit(halt) => PartitionMessage::HaltOnceSettled(halt),
            ReadError::Closed | ReadError::Failed(_) => return,
        };
        let _ended = self.consumer.cast(message);
    }

    /// Decodes records and hands them to the consumer. Returns the credit that they cost beyond one each,
    /// or none if the partition halts behind them.
    fn hand_over(&mut self, records: Vec<LogRecord>) -> Option<u32> {
        let decode_step = self.environment.decode_step(self.partition);
        let DecodedRecords { incoming, halt } =
            decode_step.decode(records, self.environment.clock.now());
        if let Some(last) = incoming.last() {
            self.position = last.record.offset + 1;
        }
        let last = incoming.last().map(|last| last.record.offset);
        self.environment.shared.places.read(self.partition, self.position, last);
        let debt = debt_of(&incoming);
        let _ended = self.consumer.cast(PartitionMessage::Event(Event::Read(incoming)));
        let Some(halt) = halt else { return Some(debt as u32) };
        let _ended = self.consumer.cast(PartitionMessage::HaltOnceSettled(halt));
        None
    }
}

/// Takes as much credit as one read can use, but at least one: waits for the first only.
async fn take_credit(credit: &Semaphore) -> Option<usize> {
    credit.acquire().await.ok()?.forget();
    let more = credit.available_permits().min(READ_RECORDS_MAX - 1);
    let more = credit.try_acquire_many(more as u32).map_or(0, |permits| {
        let taken = permits.num_permits();
        permits.forget();
        taken
    });
    Some(1 + more)
}

/// A reader of records that were read before.
pub(super) struct Replay {
    pub(super) environment: Arc<Environment>,
    pub(super) partition: Partition,
    /// Who gets what it reads.
    pub(super) of: Again,
    /// The number of the run.
    pub(super) run: u64,
    pub(super) from: Offset,
    /// Ranges that are passed, whether they can be read or not.
    pub(super) passing: Arc<Passing>,
    /// One permit for each chunk that may be sent: the flow has taken the one before in.
    pub(super) chunks: Arc<Semaphore>,
    pub(super) consumer: ActorRef<PartitionMessage>,
}

impl Replay {
    /// Reads chunk by chunk, until its guard is dropped.
    pub(super) async fn run(self) {
        let (mut from, mut failed) = (self.from, FailedReads::default());
        let batch_records = self.environment.limits.batch_records;
        loop {
            let Ok(permit) = self.chunks.acquire().await else { return };
            let to = self.passing.after(from);
            if to > from {
                // An empty chunk, so that the flow learns of it also where nothing follows.
                (from, failed) = (to, FailedReads::default());
                permit.forget();
                self.hand_over(Vec::new(), from);
                continue;
            }
            drop(permit);
            let open = || self.environment.log.open(self.partition, from);
            let mut reader = until_done(&self.environment, "opening a replay", open).await;
            loop {
                let Ok(permit) = self.chunks.acquire().await else { return };
                let mut records = match reader.read(READ_RECORDS_MAX.min(batch_records)).await {
                    Ok(records) => records,
                    Err(error) => {
                        let error = failed.judge(error, from, self.environment.now_ms());
                        let ReadError::Failed(error) = error else { return self.end(error).await };
                        let partition = self.partition;
                        tracing::warn!(partition, error = %Chain(&error), "replaying failed");
                        self.environment.clock.sleep(io::REOPEN_PAUSE).await;
                        break;
                    }
                };
                failed = FailedReads::default();
                let skipped_from = self.passing.cut(from, &mut records);
                let is_cut = shorten(&mut records, batch_records);
                if let Some(last) = records.last() {
                    from = last.offset + 1;
                    permit.forget();
                    self.hand_over(records, from);
                }
                if let Some(skipped_from) = skipped_from.filter(|_| !is_cut) {
                    from = skipped_from;
                }
                if is_cut || self.passing.after(from) > from {
                    // The reader is past what was cut off, or another one is needed.
                    break;
                }
            }
        }
    }

    fn hand_over(&self, records: Vec<LogRecord>, read_to: Offset) {
        let decode_step = self.environment.decode_step(self.partition);
        let run = self.run;
        let event = match self.of {
            Again::Campaigns => {
                let records = decode_step.decode_again(records);
                Event::ReadAgain { run, records, read_to }
            }
            Again::Holds => {
                let records = decode_step.decode_again(records);
                Event::Replayed { run, records, read_to }
            }
            Again::Letters => Event::LettersRead { run, records, read_to },
        };
        let _ended = self.consumer.cast(PartitionMessage::Event(event));
    }

    /// Ends the replay after an error that another reader would get as well.
    async fn end(&self, error: ReadError) {
        let message = match self.of {
            Again::Holds => match self.missing(error).await {
                Ok(Some(Missing { below, detail })) => {
                    let event = Event::NotReplayed { run: self.run, below, detail };
                    Some(PartitionMessage::Event(event))
                }
                Ok(None) => None,
                Err(halt) => Some(PartitionMessage::Halt(halt)),
            },
            // The watermark waits for what cannot be read, whatever campaign it is of.
            Again::Campaigns | Again::Letters => {
                halts(error, self.from).map(PartitionMessage::Halt)
            }
        };
        message.into_iter().for_each(|message| drop(self.consumer.cast(message)));
    }

    /// Returns what the campaigns that catch up miss.
    async fn missing(&self, error: ReadError) -> Result<Option<Missing>, Halt> {
        let missing = match error {
            ReadError::OutOfRange { wanted, detail } => {
                // The reader's error does not say on which side of the log the record is missing.
                let bounds = || self.environment.log.bounds(self.partition);
                let operation = "reading the start of the log";
                let low = until_done(&self.environment, operation, bounds).await.low;
                assignment::not_replayed(wanted, low, &detail)?
            }
            ReadError::Unreadable { wanted, detail, .. } => {
                let rows = io::partition_rows(&self.environment, self.partition).await?;
                assignment::not_readable(wanted, rows.next(), &detail)?
            }
            ReadError::Unfit(halt) => return Err(halt),
            ReadError::Closed | ReadError::Failed(_) => return Ok(None),
        };
        Ok(Some(missing))
    }
}

/// Returns why a partition halts whose log cannot be read at `position`.
fn halts(error: ReadError, position: Offset) -> Option<Halt> {
    match error {
        ReadError::OutOfRange { wanted, detail } => {
            let detail = format!("the log has no record at {wanted}: {detail}");
            Some(Halt::new(HaltReason::LogOutOfRange, detail))
        }
        // The range begins behind the last record, where progress will stand.
        ReadError::Unreadable { detail, .. } => Some(assignment::unreadable(position, &detail)),
        ReadError::Unfit(halt) => Some(halt),
        ReadError::Closed | ReadError::Failed(_) => None,
    }
}

/// Shortens a chunk to the credit of one batch, so that large records stay within memory. Returns whether records were cut off.
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
