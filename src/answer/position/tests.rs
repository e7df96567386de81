//! Rows alone answer every position as the fold of the log decided it.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::domain::{
    campaign::{At, Campaign},
    decision::{DerivedRow, Outcome},
    definition::{Amendment, Terms},
    ids::{CampaignId, IdempotencyKey, Offset, Timestamp, UserId},
    keys::Keys,
    record::{Record, Request},
};

const EPOCH: u32 = 1;
const PARTITION: u32 = 3;

/// A step of a campaign's history; small ranges, so that they meet.
#[derive(Debug, Clone)]
enum Step {
    Ask { user: u8, key: Option<u8> },
    Change { change: Change, stale: bool },
}

fn step() -> impl Strategy<Value = Step> {
    let ask = (0..5_u8, proptest::option::of(0..3_u8));
    let change = prop_oneof![
        Just(Change::Paused),
        Just(Change::Resumed),
        Just(Change::Closed),
        Just(Change::Released { holds: Vec::new() }),
        terms().prop_map(|terms| Change::Defined { terms }),
        amendment().prop_map(|amendment| Change::Amended { amendment }),
        amendment().prop_map(|amendment| Change::Amended { amendment }),
    ];
    prop_oneof![
        12 => ask.prop_map(|(user, key)| Step::Ask { user, key }),
        3 => (change, prop::bool::weighted(0.2))
            .prop_map(|(change, stale)| Step::Change { change, stale }),
    ]
}

fn time() -> impl Strategy<Value = Timestamp> {
    (0..60_i64).prop_map(Timestamp)
}

fn terms() -> impl Strategy<Value = Terms> {
    let window = (proptest::option::of(time()), proptest::option::of(time()));
    (0..8_u32, 0..4_u16, window).prop_map(|(quota, per_user_limit, (opens_at, closes_at))| Terms {
        per_user_limit,
        opens_at,
        closes_at,
        ..Terms::of(quota)
    })
}

fn amendment() -> impl Strategy<Value = Amendment> {
    let end = || proptest::option::of(proptest::option::of(time()));
    (proptest::option::of(0..8_u32), proptest::option::of(0..4_u16), end(), end()).prop_map(
        |(quota, per_user_limit, opens_at, closes_at)| Amendment {
            quota,
            per_user_limit,
            opens_at,
            closes_at,
            ..Amendment::default()
        },
    )
}

fn campaign() -> CampaignId {
    CampaignId::parse("spring").unwrap()
}

fn record(step: &Step, version: Option<Offset>) -> Record {
    match step {
        Step::Ask { user, key } => Record::Request(Request {
            campaign: campaign(),
            user: UserId::parse(&format!("u{user}")).unwrap(),
            idempotency_key: key.map(|key| IdempotencyKey::parse(&format!("k{key}")).unwrap()),
        }),
        Step::Change { change, stale } => {
            let based_on = if *stale { Some(1_000_000) } else { version };
            Record::from(Control::once("token", campaign(), based_on, change.clone()))
        }
    }
}

/// A folded history: each record with its outcome, and all rows.
struct History {
    keys: Arc<Keys>,
    folded: Vec<(At, Record, Outcome, u32)>,
    versions: Vec<DefinitionVersion>,
    coupons: Vec<Coupon>,
}

fn history(steps: &[(Step, u8, i64)]) -> History {
    let keys = Arc::new(Keys::derive(&[7; 32]));
    let mut fold = Campaign::new(campaign(), EPOCH, PARTITION, keys.clone());
    let (mut folded, mut versions, mut coupons) = (Vec::new(), Vec::new(), Vec::new());
    let mut offset = 0;
    for (step, hole, time) in steps {
        offset += u64::from(*hole);
        let at = At { offset, time: Timestamp(*time) };
        let record = record(step, fold.version());
        let issued = fold.issued();
        let outcome = fold.fold(at, &record);
        if let Outcome::Decided { row: Some(row), .. } = &outcome {
            match row {
                DerivedRow::Coupon(coupon) => coupons.push(coupon.clone()),
                DerivedRow::Version(version) => versions.push((**version).clone()),
            }
        }
        folded.push((at, record, outcome, issued));
    }
    History { keys, folded, versions, coupons }
}

fn position(offset: Offset) -> Position {
    Position { log_epoch: EPOCH, partition: PARTITION, offset }
}

fn content(keys: &Keys, at: At, request: &Request) -> RequestContent {
    RequestContent {
        position: position(at.offset),
        time: at.time,
        campaign: request.campaign.clone(),
        user: request.user.clone(),
        key_digest: request
            .idempotency_key
            .as_ref()
            .map(|key| keys.key_digest(&request.user, key).to_le_bytes()),
    }
}

/// Returns the outcome that the rows give, as the text that the fold's outcome has.
fn from_rows(history: &History, at: At, record: &Record, issued: u32) -> Option<Decision> {
    use crate::domain::decision::Held;
    let held = |coupon: &Coupon| Held { sequence: coupon.sequence, issued_at: coupon.issued_at };
    match record {
        Record::Control(control) => {
            control_at(position(at.offset), control, &history.versions, issued)
        }
        Record::Request(request) => {
            let content = content(&history.keys, at, request);
            let of_user: Vec<Coupon> = history
                .coupons
                .iter()
                .filter(|coupon| coupon.user == request.user)
                .cloned()
                .collect();
            match answer_at(&content, &history.versions, &of_user) {
                Answered::Issued(coupon) => Some(Decision::Issued(held(coupon))),
                Answered::AlreadyIssued(coupon) => Some(Decision::AlreadyIssued(held(coupon))),
                Answered::Rejected(reason) => Some(Decision::Rejected(reason)),
                Answered::SoldOut { quota } => {
                    let proof = history.coupons.iter().find(|coupon| coupon.sequence == quota);
                    let is_below = |proof: &Coupon| proof.position.offset < at.offset;
                    assert!(quota == 0 || proof.is_some_and(is_below), "{quota} at {at:?}");
                    Some(Decision::Rejected(Reason::SoldOut))
                }
                Answered::Undefined => None,
                Answered::UnknownRules(version) => panic!("rules {version}"),
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]
    #[test]
    fn rows_answer_as_the_fold_decided(
        first in terms(),
        late in prop::bool::weighted(0.1),
        steps in prop::collection::vec((step(), 1..4_u8, 0..60_i64), 1..80),
    ) {
        let mut all = steps;
        let defined = Step::Change { change: Change::Defined { terms: first }, stale: false };
        let at = if late { all.len() / 2 } else { 0 };
        all.insert(at, (defined, 1, 0));
        let history = history(&all);
        for (at, record, outcome, issued) in &history.folded {
            let decided = match outcome {
                Outcome::Decided { decision, .. } => Some(*decision),
                Outcome::Undefined => None,
            };
            let answered = from_rows(&history, *at, record, *issued);
            prop_assert_eq!(answered, decided, "at {} of {:?}", at.offset, record);
        }
    }
}

#[test]
fn the_histories_have_every_kind_of_answer() {
    let ask = |user, key| Step::Ask { user, key };
    let change = |change| Step::Change { change, stale: false };
    let quota = |quota| Amendment { quota: Some(quota), ..Amendment::default() };
    let terms =
        Terms { opens_at: Some(Timestamp(10)), closes_at: Some(Timestamp(50)), ..Terms::of(2) };
    let steps: Vec<(Step, u8, i64)> = vec![
        (ask(0, None), 1, 0),
        (change(Change::Paused), 1, 0),
        (change(Change::Defined { terms }), 1, 0),
        (ask(0, None), 1, 9),
        (ask(0, Some(1)), 3, 10),
        (ask(0, Some(1)), 1, 55),
        (ask(0, Some(2)), 1, 11),
        (ask(1, None), 1, 12),
        (ask(2, None), 1, 13),
        (change(Change::Amended { amendment: quota(1) }), 1, 14),
        (change(Change::Paused), 1, 15),
        (ask(3, None), 1, 16),
        (ask(3, None), 1, 50),
        (change(Change::Closed), 1, 17),
        (change(Change::Resumed), 1, 18),
        (ask(3, None), 1, 19),
    ];
    let history = history(&steps);
    let seen: Vec<String> = history
        .folded
        .iter()
        .map(|(at, record, _, issued)| match from_rows(&history, *at, record, *issued) {
            None => "undefined".to_owned(),
            Some(Decision::Issued(held)) => format!("issued {}", held.sequence),
            Some(Decision::AlreadyIssued(held)) => format!("already {}", held.sequence),
            Some(Decision::Rejected(reason)) => reason.name().to_owned(),
            Some(Decision::Accepted) => "accepted".to_owned(),
            Some(Decision::Refused(refusal)) => format!("{refusal:?}"),
        })
        .collect();
    let expected = [
        "undefined",
        "undefined",
        "accepted",
        "not_open_yet",
        "issued 1",
        "issued 1",
        "already 1",
        "issued 2",
        "sold_out",
        "QuotaBelowIssued { issued: 2 }",
        "accepted",
        "paused",
        "closed",
        "accepted",
        "Closed",
        "closed",
    ];
    assert_eq!(seen, expected);
}

#[test]
fn a_foreign_coupon_answers_no_request() {
    let steps = vec![
        (Step::Change { change: Change::Defined { terms: Terms::of(1) }, stale: false }, 1, 0),
        (Step::Ask { user: 0, key: None }, 1, 1),
        (Step::Ask { user: 1, key: None }, 1, 2),
    ];
    let history = history(&steps);
    let (at, Record::Request(request), ..) = &history.folded[2] else { panic!("a request") };
    let content = content(&history.keys, *at, request);
    let sold_out = Answered::SoldOut { quota: 1 };
    assert_eq!(answer_at(&content, &history.versions, &history.coupons), sold_out);
    let mut of_other_campaign = history.coupons[0].clone();
    of_other_campaign.campaign = CampaignId::parse("summer").unwrap();
    of_other_campaign.user = request.user.clone();
    assert_eq!(answer_at(&content, &history.versions, &[of_other_campaign]), sold_out);
}

#[test]
fn newer_rules_are_answered_by_coupon_only() {
    let change = Change::Defined { terms: Terms::of(1) };
    let steps = vec![
        (Step::Change { change, stale: false }, 1, 0),
        (Step::Ask { user: 0, key: None }, 1, 1),
        (Step::Ask { user: 1, key: None }, 1, 2),
    ];
    let mut history = history(&steps);
    history.versions[0].definition.rules_version = 9;
    let answers: Vec<_> = history.folded[1..]
        .iter()
        .map(|(at, record, ..)| {
            let Record::Request(request) = record else { panic!("a request") };
            let content = content(&history.keys, *at, request);
            answer_at(&content, &history.versions, &history.coupons)
        })
        .collect();
    assert_eq!(answers, [Answered::Issued(&history.coupons[0]), Answered::UnknownRules(9)]);
}
