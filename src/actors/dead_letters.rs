//! Writes dead letters: records that cannot be decoded, and records of undefined campaigns.

use std::sync::Arc;

use futures_util::{StreamExt, stream};
use ractor::ActorRef;
use tokio::sync::mpsc;

use super::{Environment, messages::PartitionMessage, task::until_done};
use crate::{
    domain::ids::Partition,
    partition::flow::{Event, LetterOf},
    telemetry::metrics,
    wire::{LogRecord, codec::DeadLetterReason},
};

/// Dead letters of one partition that are written at once: each waits for the log to confirm it.
const LETTERS_AT_ONCE: usize = 64;

/// A record to be written as a dead letter.
pub(super) struct Letter {
    pub(super) record: LogRecord,
    pub(super) reason: DeadLetterReason,
    /// What the partition's flow has to do once the letter is durable.
    pub(super) of: LetterOf,
}

/// Writes the dead letters of one partition and reports each to its consumer.
pub(super) struct DeadLetters {
    pub(super) environment: Arc<Environment>,
    pub(super) partition: Partition,
    pub(super) consumer: ActorRef<PartitionMessage>,
}

impl DeadLetters {
    /// Writes the letters that arrive, in any order, until every sender is dropped. Nothing but the
    /// watermark waits for them.
    ///
    /// The channel needs no bound of its own: its records are those of the one chunk that a replay has
    /// under way, for dead letters or for holds.
    pub(super) async fn keep(self, mut letters: mpsc::UnboundedReceiver<Letter>) {
        let letters = stream::poll_fn(|context| letters.poll_recv(context));
        let keep = async |letter| self.keep_one(letter).await;
        letters.for_each_concurrent(LETTERS_AT_ONCE, keep).await;
    }

    async fn keep_one(&self, Letter { record, reason, of }: Letter) {
        let Self { environment, partition, consumer } = self;
        let (partition, offset, reason) = (*partition, record.offset, reason.name());
        metrics::dead_letter(reason);
        tracing::warn!(summed = true, partition, offset, reason, "dead letter written");
        let keep = || environment.log.dead_letter(partition, &record, reason);
        until_done(environment, "writing a dead letter", keep).await;
        let event = Event::DeadLettered { offset, of };
        let _ended = consumer.cast(PartitionMessage::Event(event));
    }
}
