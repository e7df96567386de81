//! When records that nobody has decided come near the end of the log's retention.
//!
//! A log removes old records, decided or not. A halt, a hold or a lag that lasts that long loses
//! requests that were taken; operators must hear of it while there is time.

use std::{collections::BTreeMap, time::Duration};

use crate::domain::{
    ids::{CampaignId, Offset, Timestamp},
    rows::{Hold, PartitionRows},
};

/// How long before the end of the retention operators are told: a day, so that somebody is at work.
const NOTICE: Duration = Duration::from_secs(24 * 60 * 60);

/// The same for a short retention, as a part of it.
const NOTICE_PART: u32 = 7;

/// Records of a log that it removes within the notice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expiring {
    /// All that lie below this offset, or all that holds keep there.
    pub below: Offset,
    /// Whether records that wait for their decision are spared.
    pub spares_waiting: bool,
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

/// Returns what operators are told of a partition of a log from `low` to `high`, if an undecided record
/// of it is about to be removed. What is gone already is no news: its hold or halt says so.
#[must_use]
pub fn warning(
    rows: &PartitionRows,
    (low, high): (Offset, Offset),
    expiring: &Expiring,
) -> Option<String> {
    let next = rows.next();
    let waiting = (!expiring.spares_waiting).then_some(next);
    let oldest = waiting.into_iter().chain(held(&rows.holds)).filter(|it| *it >= low).min()?;
    let Expiring { below, remedy, .. } = expiring;
    (oldest < high && oldest < *below).then(|| {
        format!(
            "the log is about to remove records from {oldest} on, and nobody has decided them; keep \
             them until then: {remedy}"
        )
    })
}

/// Returns the lowest position of each campaign that its holds leave undecided. Of closed holds, the one
/// that reaches furthest counts.
fn held(holds: &[Hold]) -> Vec<Offset> {
    let mut lowest: BTreeMap<&CampaignId, (Option<Offset>, Offset)> = BTreeMap::new();
    for hold in holds {
        let (in_force, until) = lowest.entry(&hold.campaign).or_default();
        if hold.is_in_force() {
            *in_force = Some(in_force.map_or(hold.from, |from| from.min(hold.from)));
        } else {
            *until = hold.unsettled_from().max(*until);
        }
    }
    let of = |(in_force, until): (Option<Offset>, Offset)| {
        in_force.into_iter().chain((until > 0).then_some(until))
    };
    lowest.into_values().flat_map(of).collect()
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

    fn is_told(rows: &PartitionRows, ends: (Offset, Offset), below: Offset) -> bool {
        let expiring = Expiring { below, spares_waiting: false, remedy: "keep them".to_owned() };
        warning(rows, ends, &expiring).is_some_and(|text| text.ends_with("until then: keep them"))
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
        assert!(!is_told(&rows(10, vec![]), (0, 10), 10), "everything is decided");
        assert!(is_told(&rows(9, vec![]), (0, 10), 10), "one record waits");
        assert!(!is_told(&rows(9, vec![]), (0, 10), 9), "it is young");
        assert!(is_told(&rows(10, vec![(Open, 4, 0)]), (0, 10), 5));
        assert!(!is_told(&rows(10, vec![(Open, 4, 0)]), (0, 10), 4));
        assert!(!is_told(&rows(10, vec![(Closed, 4, 10)]), (0, 10), 9));
        assert!(is_told(&rows(10, vec![(Closed, 4, 6)]), (0, 10), 9), "it does not reach progress");
        let furthest = rows(10, vec![(Closed, 2, 6), (Closed, 4, 10)]);
        assert!(!is_told(&furthest, (0, 10), 9), "the one that reaches furthest counts");
        assert!(is_told(&PartitionRows::default(), (0, 1), 1), "there is no progress yet");
    }

    #[test]
    fn what_is_gone_or_spared_is_no_news() {
        use HoldState::Open;
        assert!(!is_told(&rows(10, vec![(Open, 4, 0)]), (5, 10), 9), "nobody can release it");
        let two = rows(10, vec![(Open, 4, 0), (Open, 7, 0)]);
        assert!(!is_told(&two, (5, 10), 7));
        assert!(is_told(&rows(9, vec![(Open, 4, 0)]), (5, 10), 10), "a record waits beside it");
        let expiring = Expiring { below: 10, spares_waiting: true, remedy: String::new() };
        assert_eq!(warning(&rows(9, vec![]), (0, 10), &expiring), None);
        assert!(warning(&rows(9, vec![(Open, 4, 0)]), (0, 10), &expiring).is_some());
    }
}
