//! Campaigns as stories: each line is a record with its expected answer.

use std::sync::Arc;

use super::*;
use crate::domain::ids::IdempotencyKey;

/// Returns all outcomes of a story, including the rows with their digests.
fn outcomes(story: &str) -> Vec<String> {
    let collected = std::cell::RefCell::new(Vec::new());
    fold_story(story, |outcome| collected.borrow_mut().push(format!("{outcome:?}")));
    collected.into_inner()
}

#[track_caller]
fn check(story: &str) -> Campaign {
    fold_story(story, |_| {})
}

/// Folds a story. A line is `t=TIME WHO[/KEY] ANSWER`. WHO is a user, or a change in capitals.
/// ANSWER is a decision with its sequence. Offsets are line numbers.
#[track_caller]
fn fold_story(story: &str, seen: impl Fn(&Outcome)) -> Campaign {
    let keys = Arc::new(Keys::derive(b"a secret of thirty-two bytes or more"));
    let id = CampaignId::parse("spring").unwrap();
    let mut campaign = Campaign::new(id.clone(), 1, 0, keys);
    let lines = story.lines().map(str::trim).filter(|line| !line.is_empty());
    for (offset, line) in (0..).zip(lines) {
        let (head, expected) = line.split_once(" -> ").expect("a line has an answer");
        let (time, what) = head.split_once(' ').expect("a line has a time");
        let time = Timestamp(time.strip_prefix("t=").unwrap().parse().unwrap());
        let record = record(&id, what.trim(), campaign.version());
        let outcome = campaign.fold(At { offset, time }, &record);
        assert_eq!(answer_of(&outcome), expected.trim(), "line {offset}: {line}");
        check_row(&outcome, offset, time);
        seen(&outcome);
    }
    campaign
}

fn record(id: &CampaignId, what: &str, version: Option<Offset>) -> Record {
    let (name, rest) = what.split_once(' ').unwrap_or((what, ""));
    let field = |key: &str| {
        let fields = rest.split(' ').filter_map(|field| field.split_once('='));
        fields.into_iter().find(|(name, _)| *name == key).map(|(_, value)| value.to_owned())
    };
    let time = |key: &str| field(key).map(|value| Timestamp(value.parse().unwrap()));
    let stale = rest.contains("stale");
    let based_on = version.map(|offset| if stale { offset + 1 } else { offset });
    let change = match name {
        "DEFINE" => Change::Defined {
            terms: Terms {
                per_user_limit: field("limit").map_or(1, |value| value.parse().unwrap()),
                opens_at: time("opens"),
                closes_at: time("closes"),
                ..Terms::of(field("quota").map_or(10, |value| value.parse().unwrap()))
            },
        },
        "AMEND" => Change::Amended {
            amendment: Amendment {
                quota: field("quota").map(|value| value.parse().unwrap()),
                per_user_limit: field("limit").map(|value| value.parse().unwrap()),
                opens_at: time("opens").map(Some),
                closes_at: match field("closes").as_deref() {
                    Some("none") => Some(None),
                    _ => time("closes").map(Some),
                },
                ..Amendment::default()
            },
        },
        "PAUSE" => Change::Paused,
        "RESUME" => Change::Resumed,
        "CLOSE" => Change::Closed,
        "RELEASE" => Change::Released { holds: Vec::new() },
        user => {
            let (user, key) = user.split_once('/').map_or((user, None), |(u, k)| (u, Some(k)));
            return Record::Request(Request {
                campaign: id.clone(),
                user: UserId::parse(user).unwrap(),
                idempotency_key: key.map(|key| IdempotencyKey::parse(key).unwrap()),
            });
        }
    };
    Record::from(Control::once("token", id.clone(), based_on, change))
}

fn answer_of(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Undefined => "undefined".to_owned(),
        Outcome::Decided { decision, .. } => match decision {
            Decision::Issued(held) => format!("issued {}", held.sequence),
            Decision::AlreadyIssued(held) => format!("already {}", held.sequence),
            Decision::Rejected(reason) => reason.name().to_owned(),
            Decision::Accepted => "accepted".to_owned(),
            Decision::Refused(refusal) => format!("refused {refusal:?}"),
        },
    }
}

/// Checks that a row has its record's position and time, and the digest of its contents.
#[track_caller]
fn check_row(outcome: &Outcome, offset: Offset, time: Timestamp) {
    let keys = Keys::derive(b"a secret of thirty-two bytes or more");
    match outcome {
        Outcome::Decided { row: Some(DerivedRow::Coupon(coupon)), .. } => {
            assert_eq!((coupon.position.offset, coupon.issued_at), (offset, time));
            assert_eq!(coupon.digest, keys.coupon_digest(coupon));
        }
        Outcome::Decided { row: Some(DerivedRow::Version(version)), .. } => {
            assert_eq!((version.position.offset, version.time), (offset, time));
            assert_eq!(version.digest, keys.version_digest(version));
        }
        Outcome::Decided { row: None, .. } | Outcome::Undefined => {}
    }
}

#[test]
fn the_first_users_get_the_coupons() {
    let campaign = check(
        "t=1 DEFINE quota=2   -> accepted
         t=2 ada              -> issued 1
         t=3 ada              -> already 1
         t=4 ben              -> issued 2
         t=5 cy               -> sold_out
         t=6 ben              -> already 2",
    );
    assert_eq!((campaign.issued(), campaign.remaining()), (2, 0));
}

#[test]
fn a_user_may_hold_up_to_the_limit() {
    check(
        "t=1 DEFINE quota=9 limit=2 -> accepted
         t=2 ada                    -> issued 1
         t=3 ben                    -> issued 2
         t=4 ada                    -> issued 3
         t=5 ada                    -> already 3
         t=6 AMEND limit=3          -> accepted
         t=7 ada                    -> issued 4
         t=8 AMEND limit=1          -> accepted
         t=9 ada                    -> already 4
         t=9 ben                    -> already 2",
    );
}

#[test]
fn the_record_time_decides_the_window() {
    check(
        "t=1  DEFINE opens=10 closes=20 -> accepted
         t=9  ada                       -> not_open_yet
         t=10 ada                       -> issued 1
         t=19 ben                       -> issued 2
         t=20 cy                        -> closed
         t=15 cy                        -> issued 3
         t=20 AMEND closes=none         -> accepted
         t=99 dee                       -> issued 4",
    );
}

#[test]
fn holding_a_coupon_precedes_every_reason() {
    check(
        "t=1  DEFINE quota=1 opens=5 -> accepted
         t=5  ada                    -> issued 1
         t=6  ben                    -> sold_out
         t=4  ben                    -> not_open_yet
         t=4  PAUSE                  -> accepted
         t=4  ben                    -> paused
         t=4  ada                    -> already 1
         t=4  CLOSE                  -> accepted
         t=4  ben                    -> closed
         t=4  ada                    -> already 1",
    );
}

#[test]
fn a_repeated_key_precedes_all_rules() {
    check(
        "t=1 DEFINE quota=3 limit=5 -> accepted
         t=2 ada/k1                 -> issued 1
         t=3 ada/k2                 -> issued 2
         t=4 ada/k1                 -> issued 1
         t=5 ben/k1                 -> issued 3
         t=6 cy/k1                  -> sold_out
         t=7 AMEND quota=4          -> accepted
         t=8 cy/k1                  -> issued 4
         t=8 cy/k1                  -> issued 4
         t=9 CLOSE                  -> accepted
         t=9 ada/k1                 -> issued 1
         t=9 ada/k3                 -> closed",
    );
}

#[test]
fn a_quota_never_falls_below_issued() {
    let campaign = check(
        "t=1 DEFINE quota=2 -> accepted
         t=2 ada            -> issued 1
         t=2 ben            -> issued 2
         t=3 cy             -> sold_out
         t=4 AMEND quota=3  -> accepted
         t=5 cy             -> issued 3
         t=6 AMEND quota=2  -> refused QuotaBelowIssued { issued: 3 }
         t=7 AMEND quota=3  -> accepted
         t=8 dee            -> sold_out",
    );
    assert_eq!(campaign.remaining(), 0);
}

#[test]
fn a_stale_control_record_is_refused() {
    check(
        "t=1 DEFINE quota=2       -> accepted
         t=2 PAUSE stale          -> refused StaleVersion
         t=3 ada                  -> issued 1
         t=4 DEFINE quota=5       -> refused StaleVersion
         t=5 PAUSE                -> accepted
         t=6 PAUSE                -> accepted
         t=7 RESUME               -> accepted
         t=8 ben                  -> issued 2",
    );
}

#[test]
fn closing_is_final_and_idempotent() {
    check(
        "t=1 DEFINE        -> accepted
         t=2 CLOSE         -> accepted
         t=3 CLOSE         -> accepted
         t=4 RESUME        -> refused Closed
         t=5 PAUSE         -> refused Closed
         t=6 AMEND quota=9 -> refused Closed
         t=7 RELEASE       -> accepted",
    );
}

#[test]
fn the_first_coupon_fixes_the_user_buckets() {
    let buckets = |story: &str| check(story).definition().unwrap().user_buckets;
    let mut story = "t=1 DEFINE quota=0 -> accepted".to_owned();
    assert_eq!(buckets(&story), 1);
    for (line, expected) in [
        ("t=2 AMEND quota=1000000 -> accepted", 10),
        ("t=3 AMEND quota=250000  -> accepted", 3),
        ("t=4 PAUSE               -> accepted", 3),
        ("t=5 RESUME              -> accepted", 3),
        ("t=6 ada                 -> issued 1", 3),
        ("t=7 AMEND quota=1       -> accepted", 3),
        ("t=8 AMEND quota=1000000 -> accepted", 3),
    ] {
        story = format!("{story}\n{line}");
        assert_eq!(buckets(&story), expected, "{line}");
    }
}

#[test]
fn a_quota_of_0_stops_the_sale() {
    check(
        "t=1 DEFINE quota=0 -> accepted
         t=2 ada            -> sold_out
         t=3 AMEND quota=1  -> accepted
         t=4 ada            -> issued 1
         t=5 AMEND quota=0  -> refused QuotaBelowIssued { issued: 1 }",
    );
}

#[test]
fn an_undefined_campaign_decides_nothing() {
    check(
        "t=1 ada                      -> undefined
         t=2 PAUSE                    -> undefined
         t=3 DEFINE quota=100000001   -> refused Invalid
         t=4 ada                      -> undefined
         t=5 DEFINE opens=5 closes=5  -> refused Invalid
         t=6 DEFINE                   -> accepted
         t=7 ada                      -> issued 1",
    );
}

#[test]
fn the_same_records_give_the_same_bytes() {
    let story = "t=1 DEFINE quota=2 -> accepted
                 t=2 ada/k          -> issued 1
                 t=3 ben            -> issued 2";
    assert_eq!(outcomes(story), outcomes(story));
    assert!(outcomes(story).iter().any(|outcome| outcome.contains("digest")));
    let empty = check("t=1 DEFINE quota=100000000 -> accepted");
    assert!(empty.memory_bytes() <= 16 * 1_024, "{} bytes", empty.memory_bytes());
}

#[test]
fn folding_in_chunks_gives_the_same_outcomes() {
    let id = CampaignId::parse("spring").unwrap();
    let keys = Arc::new(Keys::derive(b"a secret of thirty-two bytes or more"));
    let users = |from: usize, to: usize| (from..to).map(|user| format!("u{}/k{}", user % 90, user));
    let mut lines = vec!["early".to_owned(), "DEFINE quota=150 limit=2".to_owned()];
    lines.extend(users(0, 130));
    lines.push("PAUSE".to_owned());
    lines.extend(users(0, 3).chain(users(200, 300)));
    let mut one_by_one = Campaign::new(id.clone(), 1, 0, keys.clone());
    let (mut records, mut expected) = (Vec::new(), Vec::new());
    for (offset, line) in (0..).zip(&lines) {
        let record = record(&id, line, one_by_one.version());
        let at = At { offset, time: Timestamp(7) };
        expected.push(one_by_one.fold(at, &record));
        records.push((at, record));
    }
    for chunk in [1, AHEAD - 1, AHEAD, AHEAD + 1, records.len()] {
        let mut together = Campaign::new(id.clone(), 1, 0, keys.clone());
        let mut outcomes = Vec::new();
        for chunk in records.chunks(chunk) {
            together.fold_all(chunk.to_vec(), |campaign, at, record, outcome| {
                assert_eq!((at, &record), (records[outcomes.len()].0, &records[outcomes.len()].1));
                outcomes.push(outcome);
                assert!(campaign.issued() as usize <= outcomes.len(), "a record was folded ahead");
                ControlFlow::Continue(())
            });
        }
        assert_eq!(outcomes, expected, "{chunk} at once");
    }
}

#[test]
fn folding_ends_when_the_caller_breaks() {
    let id = CampaignId::parse("spring").unwrap();
    let keys = Arc::new(Keys::derive(b"a secret of thirty-two bytes or more"));
    let mut campaign = Campaign::new(id.clone(), 1, 0, keys);
    let lines = ["DEFINE quota=9", "ada", "bob", "cyd"];
    let at = |offset| At { offset, time: Timestamp(7) };
    let records = (0..).map(at).zip(lines.map(|line| record(&id, line, None)));
    let mut seen = 0;
    campaign.fold_all(records.collect(), |campaign, _, _, _| {
        seen += 1;
        if campaign.issued() == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert_eq!((seen, campaign.issued()), (3, 2));
}

#[test]
fn a_bucket_is_the_remainder_of_the_digest() {
    for digest in [0, 1, u128::MAX, 1 << 64, u128::MAX / 3, (7 << 64) | u128::from(u64::MAX)] {
        for buckets in 1..=u8::MAX {
            let expected = (digest % u128::from(buckets)) as u8;
            assert_eq!(user_bucket(digest, buckets), expected, "{digest} in {buckets}");
        }
    }
}
