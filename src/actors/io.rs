//! What a partition consumer has written and read for it, each in a task of its own, repeated
//! until it is done.

use std::{sync::Arc, time::Duration};

use futures_util::TryStreamExt;
use tokio::sync::mpsc;

use super::{Environment, task::until_done};
use crate::{
    domain::{
        coupon::Coupon,
        definition::DefinitionVersion,
        ids::{Offset, Partition},
        rows::{LastRecord, PartitionRows},
    },
    log::{LogError, LogReader, ReadError},
    partition::{
        assignment::{self, Halt, Start},
        recovery::Contradiction,
    },
    store::{Selection, StoreError},
    telemetry::Chain,
    wire::{LogRecord, feed_message::FeedMessage, write_order::Group},
};

/// Feed messages of one partition that wait to be handed over. The feed may lose messages, so
/// what does not fit is dropped, and followers see the gap.
pub(super) const FEED_QUEUE_MAX: usize = 256;

/// Pause before a spent reader is opened again.
pub(super) const REOPEN_PAUSE: Duration = Duration::from_millis(100);

/// A partition as its new owner finds it.
pub struct OpenedPartition {
    pub(super) rows: PartitionRows,
    pub(super) end: Offset,
    pub(super) reader: Box<dyn LogReader>,
    pub(super) position: Offset,
}

/// Reads a partition's progress and holds, and checks them against the log.
pub(super) async fn open(
    environment: &Environment,
    partition: Partition,
) -> Result<OpenedPartition, Halt> {
    let rows = partition_rows(environment, partition).await?;
    let read = || environment.log.bounds(partition);
    let bounds = until_done("reading the ends of the log", read).await;
    let Start { position, last } =
        assignment::start(&rows, environment.log_epoch, (bounds.low, bounds.high))?;
    if let Some(last) = last {
        let read = || read_at(environment, partition, last.offset);
        let record = until_done("reading the last settled record", read).await;
        let found = record.map(|record| LastRecord {
            offset: record.offset,
            digest: environment.decode_step(partition).digest(&record),
        });
        assignment::compare(last, found)?;
    }
    let open = || environment.log.open(partition, position);
    let reader = until_done("opening a partition", open).await;
    Ok(OpenedPartition { rows, end: bounds.high, reader, position })
}

/// Reads a partition's progress and holds. A row that can't be read halts it: asked again, the
/// store would give it again.
pub(super) async fn partition_rows(
    environment: &Environment,
    partition: Partition,
) -> Result<PartitionRows, Halt> {
    let read = async || readable(environment.store.partition(partition).await);
    until_done("reading a partition's progress and holds", read).await
}

/// The first record at or after `offset`; none when the log says that it can't be read.
async fn read_at(
    environment: &Environment,
    partition: Partition,
    offset: Offset,
) -> Result<Option<LogRecord>, LogError> {
    let mut reader = environment.log.open(partition, offset).await?;
    match reader.read(1).await {
        Ok(records) => Ok(records.into_iter().next()),
        Err(ReadError::OutOfRange { .. } | ReadError::Closed) => Ok(None),
        Err(ReadError::Failed(error)) => Err(error),
    }
}

/// Makes rows durable, group after group, however long it takes.
pub(super) async fn write(environment: &Environment, groups: Vec<Group>) {
    for (operation, rows) in groups {
        until_done(operation, || environment.store.write(&rows)).await;
    }
}

/// The first of a campaign's rows that were written and are not read as they were; asked until the
/// store answers. `coupons` are consecutive.
pub(super) async fn vanished(
    environment: &Environment,
    versions: Vec<DefinitionVersion>,
    coupons: Vec<Coupon>,
) -> Option<Contradiction> {
    let remedy = "was written and is not there: if it was deleted, restore the table or insert the \
                  row again, then release the campaign";
    if let Some(any) = versions.first() {
        let (campaign, partition) = (&any.campaign, any.position.partition);
        let read = async || readable(environment.store.campaign(campaign, partition).await);
        let found = until_done("reading versions again", read).await.unwrap_or_default().versions;
        if let Some(version) = versions.iter().find(|version| !found.contains(version)) {
            let from = version.position.offset;
            let detail = format!("the definition version at offset {from} {remedy}");
            return Some(Contradiction { from, detail });
        }
    }
    let (first, last) = (coupons.first()?, coupons.last()?);
    let between = Selection::Between { first: first.sequence, last: last.sequence };
    let pages = || environment.store.coupons(&first.campaign, between.clone());
    let read = async || readable(pages().try_concat().await);
    let found = until_done("reading coupons again", read).await.unwrap_or_default();
    // Both are in the order of sequences: the first that differs is the first that is not there.
    let mut written = coupons.iter().enumerate();
    let (_, coupon) = written.find(|(at, coupon)| found.get(*at) != Some(*coupon))?;
    let (sequence, from) = (coupon.sequence, coupon.position.offset);
    Some(Contradiction { from, detail: format!("coupon {sequence} {remedy}") })
}

/// What was read, or why it can't be: asked again, the store would give it again.
pub(super) fn readable<T>(read: Result<T, StoreError>) -> Result<Result<T, String>, StoreError> {
    match read {
        Err(error) if error.is_unreadable() => Ok(Err(Chain(&error).to_string())),
        rows => rows.map(Ok),
    }
}

/// Hands messages over to the feed, in order.
pub(super) async fn publish_all(
    environment: Arc<Environment>,
    mut messages: mpsc::Receiver<FeedMessage>,
) {
    while let Some(message) = messages.recv().await {
        let partition = message.partition;
        if let Err(error) = environment.feed.publish(message).await {
            // Followers see the gap and ask the store.
            tracing::warn!(partition, error = %Chain(&error), "feed message was lost");
        }
    }
}
