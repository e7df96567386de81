//! Whether a partition may be taken over: compares its progress with the ends of the log, and with
//! the last record that was settled. Says what a record means that a replay does not find.

use super::recovery::Contradiction;
use crate::domain::{
    halt::{Halt, HaltReason, HoldReason},
    ids::Offset,
    rows::{LastRecord, PartitionRows},
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

/// Compares a partition's progress with the ends of its log, `[low, high)`.
///
/// # Errors
/// If progress has another epoch, or is outside the log.
pub fn start(
    rows: &PartitionRows,
    log_epoch: u32,
    (low, high): (Offset, Offset),
) -> Result<Start, Halt> {
    let Some(progress) = &rows.progress else {
        return within(0, (low, high)).map(|position| Start { position, last: None });
    };
    if progress.log_epoch != log_epoch {
        let found = progress.log_epoch;
        let detail = format!("progress is of log epoch {found}, this node has {log_epoch}");
        return Err(Halt::new(HaltReason::LogEpoch, detail));
    }
    let position = within(progress.next, (low, high))?;
    // Below `low` there is nothing to compare: retention removes settled records.
    Ok(Start { position, last: progress.last.filter(|last| last.offset >= low) })
}

fn within(position: Offset, (low, high): (Offset, Offset)) -> Result<Offset, Halt> {
    if position < low {
        let detail = format!("records from {position} on are needed, but the log begins at {low}");
        return Err(Halt::new(HaltReason::LogTrimmed, detail));
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

/// Returns the generation of a new owner: above all that the register and the feed have shown.
#[must_use]
pub fn next_generation(stored: u64, heard: u64) -> u64 {
    stored.max(heard).saturating_add(1)
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

/// Returns the contradiction of a campaign whose replay from `from` on finds no record at `wanted`,
/// because the log was trimmed up to `low`. `detail` is the error of the log.
///
/// # Errors
/// The log was not trimmed there: it lost its tail, or is another log. That concerns every campaign
/// of the partition.
pub fn not_replayed(
    from: Offset,
    wanted: Offset,
    low: Offset,
    detail: &str,
) -> Result<Contradiction, Halt> {
    if wanted < low {
        let detail = format!("records from {wanted} on are needed, but the log begins at {low}");
        return Ok(Contradiction { from, reason: HoldReason::RecordsTrimmed, detail });
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

/// Returns the contradiction of a campaign whose replay from `from` on cannot read the log at
/// `wanted`, while durable progress is `progress`: what is settled and cannot be read counts as
/// trimmed. `detail` is the error of the log.
///
/// # Errors
/// The record is not settled, which concerns every campaign of the partition.
pub fn not_readable(
    from: Offset,
    wanted: Offset,
    progress: Offset,
    detail: &str,
) -> Result<Contradiction, Halt> {
    if wanted >= progress {
        return Err(unreadable(wanted, detail));
    }
    let detail = format!("the record at {wanted} is needed, but it cannot be read: {detail}");
    Ok(Contradiction { from, reason: HoldReason::RecordsTrimmed, detail })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::rows::Progress;

    const LAST: LastRecord = LastRecord { offset: 9, digest: [7; 16] };

    fn rows(next: Offset) -> PartitionRows {
        let progress = Progress { partition: 0, log_epoch: 1, next, last: Some(LAST) };
        PartitionRows { progress: Some(progress), ..PartitionRows::default() }
    }

    fn halted<T>(result: Result<T, Halt>) -> Option<HaltReason> {
        result.err().map(|halt| halt.reason)
    }

    #[test]
    fn an_owner_starts_at_progress_within_the_log() {
        let fresh = PartitionRows::default();
        assert_eq!(start(&fresh, 1, (0, 5)), Ok(Start { position: 0, last: None }));
        assert_eq!(start(&rows(10), 1, (0, 10)), Ok(Start { position: 10, last: Some(LAST) }));
        assert_eq!(start(&rows(10), 1, (10, 12)), Ok(Start { position: 10, last: None }));
    }

    #[test]
    fn a_log_that_does_not_fit_progress_halts() {
        let fresh = PartitionRows::default();
        assert_eq!(halted(start(&fresh, 1, (1, 5))), Some(HaltReason::LogTrimmed));
        assert_eq!(halted(start(&rows(10), 1, (11, 12))), Some(HaltReason::LogTrimmed));
        assert_eq!(halted(start(&rows(10), 1, (0, 9))), Some(HaltReason::LogTruncated));
        assert_eq!(halted(start(&rows(10), 2, (0, 10))), Some(HaltReason::LogEpoch));
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
        let trimmed = not_replayed(3, 7, 8, "out of range").unwrap();
        assert_eq!((trimmed.from, trimmed.reason), (3, HoldReason::RecordsTrimmed));
        for low in [0, 7] {
            let lost = not_replayed(3, 7, low, "out of range");
            assert_eq!(halted(lost), Some(HaltReason::LogOutOfRange));
        }
    }

    #[test]
    fn only_a_settled_record_counts_as_trimmed() {
        let settled = not_readable(3, 7, 8, "bad codec").unwrap();
        assert_eq!((settled.from, settled.reason), (3, HoldReason::RecordsTrimmed));
        for progress in [0, 7] {
            let unsettled = not_readable(3, 7, progress, "bad codec");
            assert_eq!(halted(unsettled), Some(HaltReason::Unreadable));
        }
    }

    #[test]
    fn a_generation_is_above_all_that_were_shown() {
        assert_eq!(next_generation(0, 0), 1);
        assert_eq!(next_generation(7, 3), 8);
        assert_eq!(next_generation(3, 7), 8, "the register was lost");
    }

    #[test]
    fn a_log_that_shrinks_below_what_was_read_halts() {
        assert_eq!(still_there(5, 5), Ok(()));
        assert_eq!(halted(still_there(6, 5)), Some(HaltReason::LogTruncated));
    }
}
