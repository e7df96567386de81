//! Whether a partition may be taken over: what its progress says, against the ends of the log and
//! the last record that was settled.

use crate::domain::{
    ids::Offset,
    rows::{LastRecord, PartitionRows},
};
use crate::planted;

/// Why a partition is halted, as a sentence for the operator.
pub type Halt = String;

/// Where an owner starts, if the log is still the one that was settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    /// The first offset to be read.
    pub position: Offset,
    /// The record by which a rewritten tail is noticed, where retention still has it. Given to
    /// [`compare`] with what the log has there.
    pub last: Option<LastRecord>,
}

/// Holds a partition's progress against the ends of its log: `[low, high)`.
///
/// # Errors
/// Progress of another epoch, or that lies outside the log.
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
        return Err(format!("progress is of log epoch {found}, this is {log_epoch}"));
    }
    let position = within(progress.next, (low, high))?;
    Ok(Start { position, last: progress.last.filter(|last| last.offset >= low) })
}

fn within(position: Offset, (low, high): (Offset, Offset)) -> Result<Offset, Halt> {
    if position < low {
        return Err(format!("records from {position} on are needed, the log begins at {low}"));
    }
    if position > high {
        return Err(format!("everything below {position} was settled, the log ends at {high}"));
    }
    Ok(position)
}

/// Compares the last settled record with what the log has `found` there now.
///
/// # Errors
/// It is another one, or gone.
pub fn compare(last: LastRecord, found: Option<LastRecord>) -> Result<(), Halt> {
    if found == Some(last) || planted!(RewrittenTailTaken) {
        return Ok(());
    }
    let offset = last.offset;
    Err(format!("the record at {offset} is not the one that was settled"))
}

/// Compares how far a partition was read with where its log ends now.
///
/// # Errors
/// Records that were read are no longer there.
pub fn still_there(position: Offset, high: Offset) -> Result<(), Halt> {
    if high >= position {
        return Ok(());
    }
    Err(format!("records below {position} were read, the log ends at {high}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::rows::Progress;

    const LAST: LastRecord = LastRecord { offset: 9, digest: [7; 16] };

    fn rows(next: Offset) -> PartitionRows {
        let progress = Progress { partition: 0, log_epoch: 1, next, last: Some(LAST) };
        PartitionRows { progress: Some(progress), holds: Vec::new() }
    }

    #[test]
    fn an_owner_starts_at_progress_within_the_log() {
        let fresh = PartitionRows::default();
        assert_eq!(start(&fresh, 1, (0, 5)), Ok(Start { position: 0, last: None }));
        assert!(start(&fresh, 1, (1, 5)).is_err(), "the first record was trimmed away");
        assert_eq!(start(&rows(10), 1, (0, 10)), Ok(Start { position: 10, last: Some(LAST) }));
        assert_eq!(start(&rows(10), 1, (10, 12)), Ok(Start { position: 10, last: None }));
        assert!(start(&rows(10), 1, (11, 12)).is_err(), "trimmed above progress");
        assert!(start(&rows(10), 1, (0, 9)).is_err(), "the tail is lost");
        assert!(start(&rows(10), 2, (0, 10)).is_err(), "another life of the log");
    }

    #[test]
    fn a_last_record_that_differs_is_noticed() {
        assert_eq!(compare(LAST, Some(LAST)), Ok(()));
        assert!(compare(LAST, Some(LastRecord { digest: [8; 16], ..LAST })).is_err());
        assert!(compare(LAST, Some(LastRecord { offset: 10, ..LAST })).is_err());
        assert!(compare(LAST, None).is_err());
        assert!(still_there(5, 5).is_ok() && still_there(6, 5).is_err());
    }
}
