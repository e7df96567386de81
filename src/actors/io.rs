//! Reads and writes of partition consumers and coupon actors, retried until they are done.

use std::{collections::BTreeSet, pin::pin, sync::Arc, time::Duration};

use futures_util::{StreamExt, TryStreamExt, future::ready, stream};
use tokio::sync::mpsc;

use super::{Environment, task::until_done};
use crate::{
    domain::{
        coupon::Coupon,
        definition::DefinitionVersion,
        halt::{Halt, HaltReason, HoldReason},
        ids::{CampaignId, Offset, Partition},
        rows::{LastRecord, Mark, PartitionRows, Register, Row, Skip},
    },
    log::{FailedReads, LogReader, READERS_MAX, ReadError},
    partition::{
        assignment::{self, Start},
        expiry,
        range_search::{RangeSearch, Tried},
        recovery::Contradiction,
        scrub,
        skips::FORCE_AFTER_MS,
    },
    store::{Selection, StoreError, USERS_MAX},
    telemetry::Chain,
    wire::{
        LogRecord,
        feed_message::FeedMessage,
        write_order::{self, Group},
    },
};

/// Feed messages of one partition that wait to be published. Messages beyond it are dropped: the
/// feed may lose messages, and followers see the gap and read the store.
pub(super) const FEED_QUEUE_MAX: usize = 256;

/// Pause before a failed reader is opened again.
pub(super) const REOPEN_PAUSE: Duration = Duration::from_millis(100);

/// Reads of by-user rows at once: enough to hide a round trip. Each has those of [`USERS_MAX`] users.
const READ_BACK_AT_ONCE: usize = 4;

/// Longest wait for marks that are written together: as long as the store's own limit of a call.
const MARKS_WITHIN: Duration = Duration::from_secs(5);

/// Marks that are retried at once. Those that cannot be written hold their places, so there are more than
/// campaigns are likely to lose their quorum and keep the others.
const MARKS_AT_ONCE: usize = 256;

/// Oldest skips with which a partition is opened, in milliseconds: well below the time after which a skip
/// that is made may be in force ([`FORCE_AFTER_MS`]).
const SKIPS_AGE_MAX_MS: u64 = FORCE_AFTER_MS / 3;

/// Longest wait for the first record of a partition that was halted. At the end of the log none comes.
const FIRST_WITHIN: Duration = Duration::from_secs(1);

/// Offsets that one check of a halted partition tries in the search for the end of what cannot be
/// read. One takes about 50 ms on Kafka, so that a check ends within 10 s. The next one goes on at once.
const PROBES_MAX: Offset = 500;

/// Offsets that are tried at once. A halted partition has no other reader than that of a node's probe.
const PROBES_AT_ONCE: usize = READERS_MAX - 1;

/// Longest wait for a record at such an offset. At the end of the log none comes.
const PROBED_WITHIN: Duration = Duration::from_secs(5);

/// A partition's progress, holds and skips, checked against the log, and a reader at its position.
pub struct OpenedPartition {
    pub(super) rows: PartitionRows,
    pub(super) end: Offset,
    pub(super) reader: Box<dyn LogReader>,
    /// What the reader has returned already.
    pub(super) first: Vec<LogRecord>,
    pub(super) position: Offset,
}

/// Why a partition was not opened.
#[derive(Debug)]
pub struct NotOpened {
    pub(super) halt: Halt,
    /// The search for the end of what cannot be read, to go on with at the next check.
    pub(super) search: Option<RangeSearch>,
}

/// What the search for the end of a range goes by.
struct Search<'a> {
    /// A settled record, which shows whether the partition can be read at all.
    settled: Option<Offset>,
    /// The search of the check before.
    before: Option<RangeSearch>,
    skips: &'a [Skip],
}

impl From<Halt> for NotOpened {
    fn from(halt: Halt) -> Self {
        Self { halt, search: None }
    }
}

/// Opens a partition: reads progress, holds and skips and checks them against the log. One that was
/// halted is read at its position as well, so that it does not go on only to halt at the same record.
/// `search` is that of the check before.
///
/// # Errors
/// Progress does not fit the log, a row of a hold has vanished, a row cannot be decoded, the log cannot
/// be read, or a skip is made.
pub(super) async fn open(
    environment: &Environment,
    partition: Partition,
    was_halted: bool,
    search: Option<RangeSearch>,
) -> Result<OpenedPartition, NotOpened> {
    loop {
        let rows = partition_rows(environment, partition).await?;
        let read = || environment.log.bounds(partition);
        let bounds = until_done(environment, "reading the ends of the log", read).await;
        let Start { position, last } =
            assignment::start(&rows, environment.place(partition), (bounds.low, bounds.high))?;
        if let Some(last) = last {
            compare_last(environment, partition, last).await?;
        }
        let (reader, first) = match was_halted {
            true => {
                let settled = last.map(|last| last.offset);
                let ends = (position, bounds.high);
                let search = Search { settled, before: search.clone(), skips: &rows.skips };
                first_records(environment, partition, ends, search).await?
            }
            false => {
                let open = || environment.log.open(partition, position);
                (until_done(environment, "opening a partition", open).await, Vec::new())
            }
        };
        // The log may have been away for long: meanwhile an operator may have made a skip, and another
        // owner may have put it in force.
        let begun_ms = environment.now_ms();
        let read = || environment.store.skips(partition);
        let skips = of_partition(environment, "reading skips again", read).await?;
        let took_ms = environment.now_ms().saturating_sub(begun_ms);
        if skips == rows.skips && took_ms <= SKIPS_AGE_MAX_MS {
            return Ok(OpenedPartition { rows, end: bounds.high, reader, first, position });
        }
    }
}

/// Claims the next generation of a partition, unless its owner has the highest: `own`, or 0. Returns
/// the generation that is claimed; it is durable then.
///
/// # Errors
/// The register cannot be decoded.
pub(super) async fn claim(
    environment: &Environment,
    partition: Partition,
    own: u64,
) -> Result<Option<u64>, Halt> {
    let read = || environment.store.register(partition, Register::Generation);
    let stored = of_partition(environment, "reading a partition's generation", read).await?;
    let heard = environment.generations.highest(partition);
    let next = assignment::next_generation(own, stored, heard);
    if let Some(generation) = next {
        write(environment, partition, &write_order::of_generation(partition, generation)).await;
    }
    Ok(next)
}

/// Compares the last settled record with the record that the log has at its offset now.
async fn compare_last(
    environment: &Environment,
    partition: Partition,
    last: LastRecord,
) -> Result<(), Halt> {
    let mut failed = FailedReads::default();
    loop {
        let open = || environment.log.open(partition, last.offset);
        let mut reader = until_done(environment, "opening at the last settled record", open).await;
        let found = match reader.read(1).await {
            Ok(records) => records.into_iter().next(),
            Err(error) => match failed.judge(error, last.offset, environment.now_ms()) {
                ReadError::Failed(error) => {
                    tracing::warn!(partition, error = %Chain(&error), "last record not read");
                    environment.clock.sleep(REOPEN_PAUSE).await;
                    continue;
                }
                // As if it had been trimmed: it is decided, and nothing below needs it.
                ReadError::Unreadable { detail, .. } => {
                    let offset = last.offset;
                    tracing::warn!(partition, offset, detail, "last record not compared");
                    return Ok(());
                }
                ReadError::Unfit(halt) => return Err(halt),
                ReadError::OutOfRange { .. } | ReadError::Closed => None,
            },
        };
        let found = found.map(|record| LastRecord {
            offset: record.offset,
            digest: environment.decode_step(partition).digest(&record),
        });
        return assignment::compare(last, found);
    }
}

/// Opens a reader at `position` and reads the first records, if there are any.
async fn first_records(
    environment: &Environment,
    partition: Partition,
    (position, high): (Offset, Offset),
    search: Search<'_>,
) -> Result<(Box<dyn LogReader>, Vec<LogRecord>), NotOpened> {
    let mut failed = FailedReads::default();
    // A record that is there may take long to fail.
    let within = if position < high { PROBED_WITHIN } else { FIRST_WITHIN };
    loop {
        let open = || environment.log.open(partition, position);
        let mut reader = until_done(environment, "opening a halted partition", open).await;
        let read = environment.clock.timeout(within, reader.read(1)).await;
        let Ok(Err(error)) = read else {
            // Nothing comes at the end of the log.
            return Ok((reader, read.ok().and_then(Result::ok).unwrap_or_default()));
        };
        // Otherwise it is a failure that has lasted: nothing may have come.
        let is_served = matches!(error, ReadError::Unreadable { .. });
        match failed.judge(error, position, environment.now_ms()) {
            ReadError::Failed(error) => {
                tracing::warn!(partition, error = %Chain(&error), "halted partition not read");
                environment.clock.sleep(REOPEN_PAUSE).await;
            }
            ReadError::Unreadable { detail, other_build, .. } => {
                drop(reader);
                if position >= high {
                    // Nothing is there that could be skipped.
                    return Err(assignment::unreadable(position, &detail).into());
                }
                let Search { settled, before, skips } = search;
                let before = before.filter(|search| search.is_of(position, other_build));
                let mut search = before.unwrap_or_else(|| RangeSearch::new(position, other_build));
                if is_served {
                    search.served();
                }
                let search = search_on(environment, partition, (high, settled), search).await;
                let halt =
                    assignment::unreadable_range(partition, position, &detail, &search, skips);
                return Err(NotOpened { halt, search: Some(search) });
            }
            ReadError::Unfit(halt) => return Err(halt.into()),
            // The live reader finds the same.
            ReadError::OutOfRange { .. } | ReadError::Closed => return Ok((reader, Vec::new())),
        }
    }
}

/// Goes on with the search for the end of what cannot be read, in a log that ends at `high`.
async fn search_on(
    environment: &Environment,
    partition: Partition,
    (high, settled): (Offset, Option<Offset>),
    mut search: RangeSearch,
) -> RangeSearch {
    if let Some(settled) = settled {
        // Otherwise the partition, not the range, may be what fails. It is read after the range has
        // failed: that it could be read before that says nothing of the partition now.
        let open = || environment.log.open(partition, settled);
        let mut reader = until_done(environment, "opening at the last settled record", open).await;
        let read = environment.clock.timeout(PROBED_WITHIN, reader.read(1)).await;
        if matches!(read, Ok(Ok(_))) {
            search.served();
        }
    }
    let last = search.next().saturating_add(PROBES_MAX).min(high);
    let offsets = stream::iter(search.next()..last);
    // In the order of offsets, whichever answers first.
    let mut probes =
        pin!(offsets.map(|at| tried(environment, partition, at)).buffered(PROBES_AT_ONCE));
    while !search.reached(high)
        && let Some(tried) = probes.next().await
    {
        if search.tried(tried, high) {
            break;
        }
    }
    search
}

/// Opens a reader above what cannot be read, and says what it gets.
async fn tried(environment: &Environment, partition: Partition, offset: Offset) -> Tried {
    let open = || environment.log.open(partition, offset);
    let mut reader = until_done(environment, "opening above what cannot be read", open).await;
    match environment.clock.timeout(PROBED_WITHIN, reader.read(1)).await {
        Ok(Ok(_)) => Tried::Record,
        Err(_) => Tried::Nothing,
        Ok(Err(ReadError::Unreadable { other_build, .. })) => Tried::Unreadable { other_build },
        Ok(Err(_)) => Tried::Failed,
    }
}

/// Reads a partition's progress, holds and skips. An owner opens a partition and goes on only by what
/// comes from here. Reads of which only warnings come ([`expiring`]) are not compared.
///
/// # Errors
/// The row of a hold has vanished, or a row cannot be decoded. Retrying is pointless: the store would
/// return the same bytes.
pub(super) async fn partition_rows(
    environment: &Environment,
    partition: Partition,
) -> Result<PartitionRows, Halt> {
    let read = || environment.store.partition(partition);
    let what = "reading a partition's progress, holds and skips";
    let rows = of_partition(environment, what, read).await?;
    rows.check_holds()?;
    Ok(rows)
}

/// Reads what a partition cannot do without, until that is done.
///
/// # Errors
/// A row cannot be decoded.
async fn of_partition<T, F>(
    environment: &Environment,
    operation: &str,
    mut read: impl FnMut() -> F,
) -> Result<T, Halt>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let read = || {
        let read = read();
        async { readable(read.await) }
    };
    let rows = until_done(environment, operation, read).await;
    rows.map_err(|detail| Halt::new(HaltReason::RowUndecodable, detail))
}

/// Returns what operators are told of undecided records that the log is about to remove.
///
/// # Errors
/// Log or store do not answer. The next look is a minute later.
pub(super) async fn expiring(
    environment: &Environment,
    partition: Partition,
) -> Result<Option<String>, Box<dyn std::error::Error + Send + Sync>> {
    let Some(expiring) = environment.log.expiring(partition, environment.clock.now()).await? else {
        return Ok(None);
    };
    let rows = environment.store.partition(partition).await?;
    let bounds = environment.log.bounds(partition).await?;
    Ok(expiry::warning(&rows, (bounds.low, bounds.high), &expiring))
}

/// Writes groups of rows of a partition one after the other, and retries each until it is durable.
pub(super) async fn write(environment: &Environment, partition: Partition, groups: &[Group]) {
    for (operation, rows) in groups {
        until_done(environment, operation, || environment.store.write(rows)).await;
        environment.shared.has_stored(partition);
    }
}

/// Writes marks, and tells which are durable. A mark that cannot be written must not keep those of other
/// campaigns, so each is retried by itself once they have failed together.
pub(super) async fn write_marks(
    environment: &Environment,
    partition: Partition,
    marks: Vec<Mark>,
    stored: impl Fn(Vec<(CampaignId, Offset)>),
) {
    let names = |marks: &[Mark]| marks.iter().map(|it| (it.campaign.clone(), it.offset)).collect();
    let rows: Vec<_> = marks.iter().cloned().map(Row::Mark).collect();
    let written = environment.clock.timeout(MARKS_WITHIN, environment.store.write(&rows)).await;
    if let Ok(Ok(())) = written {
        return stored(names(&marks));
    }
    let write = async |mark: Mark| {
        let name = names(std::slice::from_ref(&mark));
        write(environment, partition, &write_order::of_mark(mark)).await;
        stored(name);
    };
    stream::iter(marks).for_each_concurrent(MARKS_AT_ONCE, write).await;
}

/// Reads a campaign's rows back after they were written. Returns a contradiction for the first row
/// that is not as it was written. `coupons` must be consecutive.
pub(super) async fn vanished(
    environment: &Environment,
    versions: Vec<DefinitionVersion>,
    coupons: Vec<Coupon>,
) -> Option<Contradiction> {
    let remedy = "was written but cannot be read back: if it was deleted, restore the table or \
                  insert the row again, then release the campaign";
    let reason = HoldReason::RowNotReadBack;
    if let Some(any) = versions.first() {
        let read = async || readable(environment.store.versions(&any.campaign).await);
        let found =
            until_done(environment, "reading versions again", read).await.unwrap_or_default();
        if let Some(version) = versions.iter().find(|version| !found.contains(version)) {
            let from = version.position.offset;
            let detail = format!("the definition version at offset {from} {remedy}");
            return Some(Contradiction { from, reason, detail });
        }
    }
    let (first, last) = (coupons.first()?, coupons.last()?);
    let between = Selection::Between { first: first.sequence, last: last.sequence };
    let pages = || environment.store.coupons(&first.campaign, between.clone());
    let read = async || readable(pages().try_concat().await);
    let found = until_done(environment, "reading coupons again", read).await.unwrap_or_default();
    // Both are in the order of sequences, so the first difference is the first missing row.
    let mut written = coupons.iter().enumerate();
    let Some((_, coupon)) = written.find(|(at, coupon)| found.get(*at) != Some(*coupon)) else {
        return not_restored(environment, &coupons, |coupon| coupon.position.offset).await;
    };
    let (sequence, from) = (coupon.sequence, coupon.position.offset);
    Some(Contradiction { from, reason, detail: format!("coupon {sequence} {remedy}") })
}

/// Reads the by-user rows of coupons back after they were written. Returns a contradiction for the
/// first one that is missing, from the offset that `from` gives.
pub(super) async fn not_restored(
    environment: &Environment,
    coupons: &[Coupon],
    from: impl Fn(&Coupon) -> Offset,
) -> Option<Contradiction> {
    let read = async |together: Vec<&Coupon>| {
        let first = together.first()?;
        let users: BTreeSet<_> = together.iter().map(|coupon| coupon.user.clone()).collect();
        let users = users.into_iter().collect();
        let of_users = Selection::OfUsers { users, bucket: first.user_bucket };
        let pages = || environment.store.coupons(&first.campaign, of_users.clone());
        let read = async || readable(pages().try_concat().await);
        let read = until_done(environment, "reading by-user rows again", read);
        let found = read.await.unwrap_or_default();
        let failed = |coupon: &Coupon| scrub::restored(coupon, &found, from(coupon)).err();
        together.into_iter().find_map(|coupon| Some((coupon.sequence, failed(coupon)?)))
    };
    let groups = scrub::read_together(coupons, USERS_MAX);
    let missing = stream::iter(groups).map(read).buffered(READ_BACK_AT_ONCE);
    // Coupons of one read are in their order, those of several reads are not.
    let missing: Vec<_> = missing.filter_map(ready).collect().await;
    missing.into_iter().min_by_key(|(sequence, _)| *sequence).map(|(_, missing)| missing)
}

/// Returns what was read, or why it cannot be decoded, apart from errors that may pass.
pub(super) fn readable<T>(read: Result<T, StoreError>) -> Result<Result<T, String>, StoreError> {
    match read {
        Err(error) if error.is_unreadable() => Ok(Err(Chain(&error).to_string())),
        rows => rows.map(Ok),
    }
}

/// Publishes feed messages in order.
pub(super) async fn publish_all(
    environment: Arc<Environment>,
    mut messages: mpsc::Receiver<FeedMessage>,
) {
    while let Some(message) = messages.recv().await {
        let partition = message.partition;
        if let Err(error) = environment.feed.publish(message).await {
            // Followers see the gap and read the store.
            tracing::warn!(summed = true, partition, error = %Chain(&error), "feed message lost");
        }
    }
}
