//! Rows as they are bound and read back.

use super::*;

#[test]
fn a_bucket_holds_twenty_thousand_sequences() {
    assert_eq!([1, 20_000, 20_001, 100_000_000].map(bucket), [0, 0, 1, 4_999]);
}

#[test]
fn record_timestamps_rise_and_differ() {
    let at = |time, offset| record_timestamp(Timestamp(time), offset).unwrap();
    assert_eq!(at(1_700_000_000_000, 7), 1_700_000_000_000_007);
    assert!(at(5, 1_999) < at(6, 0));
    assert_ne!(at(5, 1), at(5, 2));
    assert!(record_timestamp(Timestamp::MAX, u64::MAX).is_ok());
    assert!(record_timestamp(Timestamp(i64::MAX), 0).is_err());
}

#[test]
fn a_holds_timestamp_rises_with_state_and_kind() {
    let campaign = CampaignId::parse("spring").unwrap();
    let at = |kind, state| {
        let hold = Hold {
            campaign: campaign.clone(),
            partition: 0,
            from: 0,
            number: 1,
            kind,
            reason: String::new(),
            state,
            until: 0,
        };
        super::hold(&hold).unwrap().8
    };
    use HoldKind::{Contradiction, Failure};
    use HoldState::{Closed, Open, Released};
    let rising = [
        at(Failure, Open),
        at(Contradiction, Open),
        at(Failure, Released),
        at(Contradiction, Released),
        at(Failure, Closed),
        at(Contradiction, Closed),
    ];
    assert!(rising.windows(2).all(|pair| pair[0] < pair[1]), "{rising:?}");
}

/// README tells operators these timestamps.
#[test]
fn operators_insert_holds_with_these_timestamps() {
    let timestamp = |kind, state, until| {
        let reason = "restored by an operator".to_owned();
        let campaign = campaign("spring").unwrap();
        let hold =
            Hold { campaign, partition: 3, from: 4_711, number: 1_000, kind, reason, state, until };
        super::hold(&hold).unwrap().8
    };
    assert_eq!(timestamp(HoldKind::Contradiction, HoldState::Open, 0), 3);
    assert_eq!(timestamp(HoldKind::Failure, HoldState::Closed, 9_000), 2 * 9_000 + 6);
}

#[test]
fn a_value_out_of_range_names_its_column() {
    let counts = Counts { issued: 1, versions: 1, latest: 0 };
    let mark = Mark { campaign: campaign("spring").unwrap(), offset: u64::MAX, counts };
    assert_eq!(super::mark(&mark).unwrap_err().to_string(), {
        format!("column offset can't be {}", u64::MAX)
    });
    assert!(offset_timestamp(i64::MAX as u64).is_err());
    assert_eq!(offset_timestamp(0), Ok(1));
}

#[test]
fn progress_without_a_last_record_round_trips() {
    let without = Progress { partition: 3, log_epoch: 1, next: 0, last: None };
    let (_, log_epoch, next, offset, digest, _) = progress(&without).unwrap();
    assert_eq!(decode_progress(3, (log_epoch, next, offset, digest)), Ok(without));
    let last = Some(LastRecord { offset: 8, digest: [9; 16] });
    let with = Progress { partition: 3, log_epoch: 1, next: 9, last };
    let (_, log_epoch, next, offset, digest, _) = progress(&with).unwrap();
    assert_eq!(decode_progress(3, (log_epoch, next, offset, digest)), Ok(with));
}
