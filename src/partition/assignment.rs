//! Whether a partition may be taken over: compares its progress with the ends of the log, and with
//! the last record that was settled. Says what a record means that a replay does not find.

use super::{range_search::RangeSearch, skips};
use crate::domain::{
    halt::{Halt, HaltReason, Unread},
    ids::{LogPartition, Offset, Partition},
    rows::{LastRecord, PartitionRows, Skip, SkipState},
};

/// The start of an owner whose log is still the one that was settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    /// The first offset to be read.
    pub position: Offset,
    /// The record by which a rewritten tail is noticed, if retention still has it. The caller
    /// reads that offset and calls [`compare`].
    pub last: Option<LastRecord>,
}

/// Compares a partition's progress with the ends of its log, `[low, high)`. Skips in force that cover
/// the start move it to their end.
///
/// # Errors
/// If progress has another epoch, or is outside the log, or a skip is made.
pub fn start(
    rows: &PartitionRows,
    LogPartition { log_epoch, partition }: LogPartition,
    (low, high): (Offset, Offset),
) -> Result<Start, Halt> {
    let progress = rows.progress.as_ref();
    if let Some(progress) = progress.filter(|progress| progress.log_epoch != log_epoch) {
        let found = progress.log_epoch;
        let detail = format!("progress is of log epoch {found}, this node has {log_epoch}");
        return Err(Halt::new(HaltReason::LogEpoch, detail));
    }
    let next = rows.next();
    if let Some(skip) = skips::awaited(&rows.skips, next) {
        return Err(skip_made(skip));
    }
    let position = within(partition, skips::passed(&rows.skips, next), (low, high), &rows.skips)?;
    // Below `low` there is nothing to compare: retention removes settled records.
    let last = progress.and_then(|progress| progress.last).filter(|last| last.offset >= low);
    Ok(Start { position, last })
}

fn within(
    partition: Partition,
    position: Offset,
    (low, high): (Offset, Offset),
    skips: &[Skip],
) -> Result<Offset, Halt> {
    if position < low {
        let unread = Unread { from: position, to: low, other_build: false };
        let way_out = way_out(partition, unread, skips);
        let detail = format!(
            "records from {position} on are needed, but the log begins at {low}; if no copy of the \
             log has them, {way_out}"
        );
        return Err(Halt::new(HaltReason::LogTrimmed, detail).with_unread(unread));
    }
    if position > high {
        let detail = format!("records below {position} are decided, but the log ends at {high}");
        return Err(Halt::new(HaltReason::LogTruncated, detail));
    }
    Ok(position)
}

/// Compares the last settled record with the record that the log has at that offset now.
///
/// # Errors
/// The records differ, or `found` is none.
pub fn compare(last: LastRecord, found: Option<LastRecord>) -> Result<(), Halt> {
    if found == Some(last) {
        return Ok(());
    }
    let detail = format!("the record at {} is not the one that was decided", last.offset);
    Err(Halt::new(HaltReason::LogRewritten, detail))
}

/// Returns the generation that an owner must claim: above all that the register and the feed have
/// shown. None if its `own` is the highest; it is 0 before the first claim. The feed alone would not
/// do: it may be down at this node, and up elsewhere.
#[must_use]
pub fn next_generation(own: u64, stored: u64, heard: u64) -> Option<u64> {
    let highest = stored.max(heard);
    (own == 0 || own < highest).then(|| highest.saturating_add(1))
}

/// Compares how far a partition was read with the end of its log, `high`.
///
/// # Errors
/// The log lost records that were read.
pub fn still_there(position: Offset, high: Offset) -> Result<(), Halt> {
    if high >= position {
        return Ok(());
    }
    let detail = format!("records below {position} were read, but the log ends at {high}");
    Err(Halt::new(HaltReason::LogTruncated, detail))
}

/// Records that a replay needs and that nobody can read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// Campaigns that need records below go back on hold.
    pub below: Offset,
    /// What was found, as a sentence for the operator.
    pub detail: String,
}

/// Returns what is missing for a replay that finds no record at `wanted`, because the log was trimmed
/// up to `low`. `detail` is the error of the log.
///
/// # Errors
/// The log was not trimmed there: it lost its tail, or is another log. That concerns every campaign
/// of the partition.
pub fn not_replayed(wanted: Offset, low: Offset, detail: &str) -> Result<Missing, Halt> {
    if wanted < low {
        let detail = format!("records from {wanted} on are needed, but the log begins at {low}");
        return Ok(Missing { below: low, detail });
    }
    let detail = format!("the log has no record at {wanted}: {detail}");
    Err(Halt::new(HaltReason::LogOutOfRange, detail))
}

/// Returns the halt of a partition whose log cannot be read at `wanted`. `detail` is the error of
/// the log.
#[must_use]
pub fn unreadable(wanted: Offset, detail: &str) -> Halt {
    let detail = format!(
        "the log cannot be read at {wanted}: {detail}; it is tried again every 10 s, and what waits \
         is decided once it can be read (README.md#halted-unreadable)"
    );
    Halt::new(HaltReason::Unreadable, detail)
}

/// Returns the halt of a partition whose log cannot be read at `wanted`, with what a search has found
/// of the end of the range.
#[must_use]
pub fn unreadable_range(
    partition: Partition,
    wanted: Offset,
    detail: &str,
    search: &RangeSearch,
    skips: &[Skip],
) -> Halt {
    let halt = unreadable(wanted, detail);
    let Some(unread) = search.found() else {
        let next = search.next();
        let detail = format!("{}; its end is looked for, so far up to {next}", halt.detail);
        return Halt { detail, ..halt };
    };
    let (Unread { from, to, .. }, way_out) = (unread, way_out(partition, unread, skips));
    let detail =
        format!("{}; positions {from} to {to} (exclusive) cannot be read: {way_out}", halt.detail);
    Halt { detail, ..halt }.with_unread(unread)
}

/// Returns what an operator can do about a range.
fn way_out(partition: Partition, unread: Unread, skips: &[Skip]) -> String {
    let Unread { from, other_build, .. } = unread;
    if other_build {
        return "another build of coupond may read it, so it cannot be skipped".to_owned();
    }
    // Of two skips that begin at one offset, the first stays.
    if skips.iter().any(|skip| (skip.from, skip.state) == (from, SkipState::Void)) {
        return format!(
            "they cannot be skipped: an owner had read some of them, so the skip at {from} is void \
             (README.md#when-a-skip-is-void)"
        );
    }
    format!("`coupond skip {partition} --offset {from} --reason TEXT` passes them for good")
}

/// Returns the halt of a partition with a skip that is not in force yet.
#[must_use]
pub fn skip_made(skip: &Skip) -> Halt {
    let Skip { from, to, reason, by, .. } = skip;
    let detail = format!(
        "{by} skips the positions {from} to {to} (exclusive): {reason}; they are passed 15 s after \
         their owner has seen it (README.md#halted-skip_made)"
    );
    Halt::new(HaltReason::SkipMade, detail)
}

/// Returns the halt of an owner that has decided positions that a skip in force covers.
#[must_use]
pub fn skip_decided(skip: &Skip) -> Halt {
    let Skip { from, to, .. } = skip;
    let detail = format!(
        "the positions {from} to {to} (exclusive) are skipped, but this owner has read and may have \
         decided some of them (README.md#halted-skip_decided)"
    );
    Halt::new(HaltReason::SkipDecided, detail)
}

/// Returns what is missing for a replay that cannot read the log at `wanted`, while durable progress is
/// `progress`: what is settled and cannot be read counts as trimmed. `detail` is the error of the log.
///
/// # Errors
/// The record is not settled, which concerns every campaign of the partition.
pub fn not_readable(wanted: Offset, progress: Offset, detail: &str) -> Result<Missing, Halt> {
    if wanted >= progress {
        return Err(unreadable(wanted, detail));
    }
    let detail = format!("the record at {wanted} is needed, but it cannot be read: {detail}");
    Ok(Missing { below: wanted + 1, detail })
}

#[cfg(test)]
mod tests {
    use super::{super::range_search::Tried, *};
    use crate::domain::rows::Progress;

    const LAST: LastRecord = LastRecord { offset: 9, digest: [7; 16] };

    fn rows(next: Offset) -> PartitionRows {
        let progress = Progress { partition: 0, log_epoch: 1, next, last: Some(LAST) };
        PartitionRows { progress: Some(progress), ..PartitionRows::default() }
    }

    fn place(log_epoch: u32) -> LogPartition {
        LogPartition { log_epoch, partition: 0 }
    }

    fn skipped(next: Offset, (from, to): (Offset, Offset), state: SkipState) -> PartitionRows {
        let (reason, by) = ("lost".to_owned(), "ada".to_owned());
        PartitionRows {
            skips: vec![Skip { partition: 0, from, to, reason, by, state }],
            ..rows(next)
        }
    }

    fn halted<T>(result: Result<T, Halt>) -> Option<HaltReason> {
        result.err().map(|halt| halt.reason)
    }

    #[test]
    fn an_owner_starts_at_progress_within_the_log() {
        let fresh = PartitionRows::default();
        assert_eq!(start(&fresh, place(1), (0, 5)), Ok(Start { position: 0, last: None }));
        assert_eq!(
            start(&rows(10), place(1), (0, 10)),
            Ok(Start { position: 10, last: Some(LAST) })
        );
        assert_eq!(start(&rows(10), place(1), (10, 12)), Ok(Start { position: 10, last: None }));
    }

    #[test]
    fn a_log_that_does_not_fit_progress_halts() {
        let fresh = PartitionRows::default();
        assert_eq!(halted(start(&fresh, place(1), (1, 5))), Some(HaltReason::LogTrimmed));
        assert_eq!(halted(start(&rows(10), place(1), (11, 12))), Some(HaltReason::LogTrimmed));
        assert_eq!(halted(start(&rows(10), place(1), (0, 9))), Some(HaltReason::LogTruncated));
        assert_eq!(halted(start(&rows(10), place(2), (0, 10))), Some(HaltReason::LogEpoch));
    }

    #[test]
    fn a_skip_in_force_moves_the_start() {
        let in_force = skipped(10, (10, 20), SkipState::InForce);
        let start_at = |position| Ok(Start { position, last: Some(LAST) });
        assert_eq!(start(&in_force, place(1), (0, 30)), start_at(20));
        assert_eq!(start(&in_force, place(1), (20, 20)), Ok(Start { position: 20, last: None }));
        let halt = start(&in_force, place(1), (21, 30)).unwrap_err();
        let unread = Unread { from: 20, to: 21, other_build: false };
        assert_eq!(halt.unread, Some(unread), "more was trimmed meanwhile");
        assert!(halt.detail.contains("`coupond skip 0 --offset 20 --reason TEXT`"), "{halt}");
        let passed = skipped(25, (10, 20), SkipState::InForce);
        assert_eq!(start(&passed, place(1), (0, 30)), start_at(25));
        let void = skipped(10, (10, 20), SkipState::Void);
        assert_eq!(start(&void, place(1), (0, 30)), start_at(10));
        let halt = start(&void, place(1), (12, 30)).unwrap_err();
        assert!(!halt.detail.contains("`coupond skip"), "it would change nothing: {halt}");
        assert!(halt.detail.contains("README.md#when-a-skip-is-void"), "{halt}");
    }

    #[test]
    fn an_owner_waits_for_a_skip_that_is_made() {
        let made = skipped(10, (10, 20), SkipState::Made);
        assert_eq!(halted(start(&made, place(1), (0, 30))), Some(HaltReason::SkipMade));
        let decided = skipped(15, (10, 20), SkipState::Made);
        assert!(start(&decided, place(1), (0, 30)).is_ok(), "it becomes void");
    }

    #[test]
    fn a_range_is_reported_once_its_end_is_known() {
        let mut search = RangeSearch::new(7, false);
        let halt = unreadable_range(3, 7, "no such codec", &search, &[]);
        assert_eq!(halt.unread, None);
        assert!(halt.detail.contains("its end is looked for, so far up to 8"), "{halt}");
        search.tried(Tried::Record, 30);
        let halt = unreadable_range(3, 7, "no such codec", &search, &[]);
        assert_eq!(halt.unread, Some(Unread { from: 7, to: 8, other_build: false }));
        assert!(halt.detail.contains("`coupond skip 3 --offset 7 --reason TEXT`"), "{halt}");
        let mut search = RangeSearch::new(7, true);
        search.tried(Tried::Record, 30);
        let halt = unreadable_range(3, 7, "no such codec", &search, &[]);
        assert!(halt.detail.contains("cannot be skipped"), "{halt}");
        let mut search = RangeSearch::new(7, false);
        search.tried(Tried::Record, 30);
        let void = skipped(7, (7, 8), SkipState::Void).skips;
        let halt = unreadable_range(3, 7, "a bad checksum", &search, &void);
        assert!(halt.detail.contains("README.md#when-a-skip-is-void"), "{halt}");
        assert!(!halt.detail.contains("`coupond skip"), "{halt}");
    }

    #[test]
    fn a_last_record_that_differs_is_noticed() {
        assert_eq!(compare(LAST, Some(LAST)), Ok(()));
        for found in [Some(LastRecord { digest: [8; 16], ..LAST }), None] {
            assert_eq!(halted(compare(LAST, found)), Some(HaltReason::LogRewritten));
        }
        assert!(compare(LAST, Some(LastRecord { offset: 10, ..LAST })).is_err());
    }

    #[test]
    fn only_a_trimmed_record_holds_a_campaign() {
        assert_eq!(not_replayed(7, 9, "out of range").unwrap().below, 9);
        for low in [0, 7] {
            let lost = not_replayed(7, low, "out of range");
            assert_eq!(halted(lost), Some(HaltReason::LogOutOfRange));
        }
    }

    #[test]
    fn only_a_settled_record_counts_as_trimmed() {
        assert_eq!(not_readable(7, 9, "bad codec").unwrap().below, 8);
        for progress in [0, 7] {
            let unsettled = not_readable(7, progress, "bad codec");
            assert_eq!(halted(unsettled), Some(HaltReason::Unreadable));
        }
    }

    #[test]
    fn a_generation_is_above_all_that_were_shown() {
        assert_eq!(next_generation(0, 0, 0), Some(1));
        assert_eq!(next_generation(0, 7, 3), Some(8));
        assert_eq!(next_generation(0, 3, 7), Some(8), "the register was lost");
        assert_eq!(next_generation(7, 7, 7), None);
        assert_eq!(next_generation(7, 0, 7), None, "it need not be written again");
        assert_eq!(next_generation(7, 9, 7), Some(10), "the feed is down here");
        assert_eq!(next_generation(7, 7, 9), Some(10));
    }

    #[test]
    fn a_log_that_shrinks_below_what_was_read_halts() {
        assert_eq!(still_there(5, 5), Ok(()));
        assert_eq!(halted(still_there(6, 5)), Some(HaltReason::LogTruncated));
    }
}
