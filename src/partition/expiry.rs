//! When records that nobody has decided come near the end of the log's retention.
//!
//! A log removes old records, decided or not. A halt, a hold or a lag that lasts that long loses
//! requests that were taken; operators must hear of it while there is time.

use std::time::Duration;

use crate::domain::{
    ids::{Offset, Timestamp},
    rows::{Hold, PartitionRows},
};

/// How long before the end of the retention operators are told: a day, so that somebody is at work.
const NOTICE: Duration = Duration::from_secs(24 * 60 * 60);

/// The same for a short retention, as a part of it.
const NOTICE_PART: u32 = 7;

/// Records of a log that it removes within the notice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expiring {
    /// All that lie below this offset.
    pub below: Offset,
    /// What keeps them for longer: a command, or the setting to change.
    pub remedy: String,
}

/// Returns the time before which records are removed within the notice, by a log that keeps them for
/// `kept`.
#[must_use]
pub fn expiring_before(now: Timestamp, kept: Duration) -> Timestamp {
    let notice = NOTICE.min(kept / NOTICE_PART);
    let young = i64::try_from((kept - notice).as_millis()).unwrap_or(i64::MAX);
    Timestamp(now.0.saturating_sub(young))
}

/// Returns what operators are told of a partition whose log ends at `high`, if an undecided record of
/// it is about to be removed.
#[must_use]
pub fn warning(rows: &PartitionRows, high: Offset, expiring: &Expiring) -> Option<String> {
    let next = rows.progress.as_ref().map_or(0, |progress| progress.next);
    let oldest = rows.holds.iter().map(Hold::unsettled_from).fold(next, Offset::min);
    let Expiring { below, remedy } = expiring;
    (oldest < high && oldest < *below).then(|| {
        format!(
            "the log is about to remove records from {oldest} on, and nobody has decided them; keep \
             them until then: {remedy}"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{
        ids::CampaignId,
        rows::{HoldKind, HoldState, Progress},
    };

    fn rows(next: Offset, holds: Vec<(HoldState, Offset, Offset)>) -> PartitionRows {
        let progress = Progress { partition: 0, log_epoch: 1, next, last: None };
        let hold = |(state, from, until)| Hold {
            campaign: CampaignId::parse("spring").unwrap(),
            partition: 0,
            from,
            number: 1,
            kind: HoldKind::Failure,
            reason: String::new(),
            state,
            until,
        };
        let holds = holds.into_iter().map(hold).collect();
        PartitionRows { progress: Some(progress), holds, ..PartitionRows::default() }
    }

    fn is_told(rows: &PartitionRows, high: Offset, below: Offset) -> bool {
        let expiring = Expiring { below, remedy: "keep them".to_owned() };
        warning(rows, high, &expiring).is_some_and(|text| text.ends_with("until then: keep them"))
    }

    #[test]
    fn a_day_before_the_end_records_expire() {
        let now = Timestamp(1_000_000_000);
        let hours = |hours: u64| Duration::from_secs(hours * 3_600);
        let left = |kept| now.0 - expiring_before(now, kept).0;
        assert_eq!(left(hours(7 * 24)), 6 * 24 * 3_600_000);
        assert_eq!(left(hours(7)), 6 * 3_600_000);
        assert_eq!(left(Duration::ZERO), 0);
        assert_eq!(expiring_before(Timestamp(-5), Duration::MAX), Timestamp(i64::MIN));
    }

    #[test]
    fn only_undecided_records_are_warned_of() {
        use HoldState::{Closed, Open};
        assert!(!is_told(&rows(10, vec![]), 10, 10), "everything is decided");
        assert!(is_told(&rows(9, vec![]), 10, 10), "one record waits");
        assert!(!is_told(&rows(9, vec![]), 10, 9), "it is young");
        assert!(is_told(&rows(10, vec![(Open, 4, 0)]), 10, 5));
        assert!(!is_told(&rows(10, vec![(Open, 4, 0)]), 10, 4));
        assert!(!is_told(&rows(10, vec![(Closed, 4, 10)]), 10, 9));
        assert!(is_told(&PartitionRows::default(), 1, 1), "there is no progress yet");
    }
}
