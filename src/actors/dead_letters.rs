//! Writes dead letters: records that cannot be decoded, and records of undefined campaigns.

use std::sync::Arc;

use futures_util::{StreamExt, stream};
use ractor::ActorRef;
use tokio::sync::mpsc;

use super::{Environment, messages::PartitionMessage, task::until_done};
use crate::{
    domain::ids::{CampaignId, Partition},
    partition::flow::Event,
    telemetry::metrics,
    wire::{LogRecord, codec::DeadLetterReason},
};

/// Dead letters of one partition that are written at once: each waits for the log to confirm it.
const LETTERS_AT_ONCE: usize = 64;

/// Writes the dead letters of one partition and reports each to its consumer.
#[derive(Clone)]
pub(super) struct DeadLetters {
    pub(super) environment: Arc<Environment>,
    pub(super) partition: Partition,
    pub(super) consumer: ActorRef<PartitionMessage>,
}

impl DeadLetters {
    /// Writes records that could not be decoded, in any order.
    pub(super) async fn keep(&self, letters: Vec<(LogRecord, DeadLetterReason)>) {
        let keep = async |(record, reason)| self.keep_one(&record, reason, None).await;
        stream::iter(letters).for_each_concurrent(LETTERS_AT_ONCE, keep).await;
    }

    /// Writes the records that arrive, in any order, until the sender is dropped.
    ///
    /// The channel needs no bound of its own: its records are still paid for, by the credit of the
    /// partition's window or as the one chunk that a replay has under way.
    pub(super) async fn keep_undefined(
        self,
        mut records: mpsc::UnboundedReceiver<(CampaignId, LogRecord)>,
    ) {
        let keep = async |(campaign, record)| {
            self.keep_one(&record, DeadLetterReason::Undefined, Some(campaign)).await;
        };
        let records = stream::poll_fn(|context| records.poll_recv(context));
        records.for_each_concurrent(LETTERS_AT_ONCE, keep).await;
    }

    async fn keep_one(
        &self,
        record: &LogRecord,
        reason: DeadLetterReason,
        undefined: Option<CampaignId>,
    ) {
        let Self { environment, partition, consumer } = self;
        let (partition, offset, reason) = (*partition, record.offset, reason.name());
        metrics::dead_letter(reason);
        tracing::warn!(partition, offset, reason, "dead letter written");
        let keep = || environment.log.dead_letter(partition, record, reason);
        until_done(environment, "writing a dead letter", keep).await;
        let event = Event::DeadLettered { offset, undefined };
        let _ended = consumer.cast(PartitionMessage::Event(event));
    }
}
