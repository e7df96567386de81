//! Fuzz targets: rows and their keys, as the database returns them.

use super::rows::{
    decode_coupon, decode_hold, decode_layout, decode_mark, decode_progress, decode_register,
    decode_skip, decode_skip_state, decode_version, encode, encode_layout, encode_skip,
    encode_skip_state, tests::coupon,
};
use crate::{
    domain::{
        code::CodeFormat,
        definition::Terms,
        ids::{CampaignId, Timestamp, UserId},
        rows::{
            Counts, Hold, HoldKind, HoldState, LastRecord, Mark, Progress, Register, Row, Skip,
            SkipState,
        },
    },
    embedded::{DataEntry, keys},
    fuzz,
    store::{Layout, tests::defined},
};

fn campaign() -> CampaignId {
    CampaignId::parse("spring").unwrap()
}

fn rows() -> Vec<Row> {
    let code = CodeFormat::with(Some("A-".to_owned()), Some(64), Some("01".to_owned()));
    let (opens_at, title) = (Some(Timestamp(7)), Some("Fr\u{fc}hling".to_owned()));
    let version = |terms| Row::Version(defined(terms));
    let last = Some(LastRecord { offset: 8, digest: [9; 16] });
    let hold = |kind, state, until| {
        Row::Hold(Hold {
            campaign: campaign(),
            partition: 3,
            from: 4,
            number: 2,
            kind,
            reason: "rows_missing: \"coupons\"".to_owned(),
            state,
            until,
        })
    };
    vec![
        Row::Coupon(coupon(None)),
        Row::Coupon(coupon(Some([9; 16]))),
        version(Terms::of(0)),
        version(Terms { opens_at, title, listed: false, code, ..Terms::of(100) }),
        hold(HoldKind::Failure, HoldState::Open, 0),
        hold(HoldKind::Contradiction, HoldState::Closed, u64::MAX),
        Row::Mark(Mark {
            campaign: campaign(),
            offset: 77,
            counts: Counts { issued: 3, versions: 1, latest: 9 },
        }),
        Row::Progress(Progress { partition: 3, log_epoch: 1, next: 9, last }),
        Row::Progress(Progress { partition: 3, log_epoch: 1, next: 0, last: None }),
        Row::Register(3, Register::Holds, 4),
    ]
}

/// Returns the value under which a row is stored.
fn value(row: &Row) -> Vec<u8> {
    let mut entries = Vec::new();
    encode(row, &mut entries);
    match entries.swap_remove(0) {
        DataEntry::Put(_, value) | DataEntry::Raise(_, value) => value,
    }
}

#[test]
fn a_row_that_is_read_is_written_as_the_same() {
    let skip = Skip {
        partition: 3,
        from: 4,
        to: 9,
        reason: "a disk".to_owned(),
        by: "token".to_owned(),
        state: SkipState::Made,
    };
    let mut valid: Vec<_> = rows().iter().map(value).collect();
    valid.extend([encode_skip(&skip), encode_skip_state(SkipState::Void)]);
    valid.push(encode_layout(&Layout::new("one".to_owned(), 12, "print".to_owned())));
    let outcomes = [
        "coupon",
        "version",
        "hold",
        "mark",
        "progress",
        "register",
        "skip",
        "skip state",
        "layout",
        "unreadable",
    ];
    let hold_key = keys::hold(3, &campaign(), 4, 2);
    fuzz::run(&valid, &outcomes, |input, _| {
        let mut outcome = "unreadable";
        if let Ok(coupon) = decode_coupon(&campaign(), 17, input) {
            assert_eq!(value(&Row::Coupon(coupon)), input, "a coupon has one spelling");
            outcome = "coupon";
        }
        if let Ok(version) = decode_version(&campaign(), input) {
            let again = decode_version(&campaign(), &value(&Row::Version(version.clone())));
            assert_eq!(again.unwrap(), version);
            outcome = "version";
        }
        if let Ok(hold) = decode_hold(3, &hold_key, input) {
            let again = decode_hold(3, &hold_key, &value(&Row::Hold(hold.clone())));
            assert_eq!(again.unwrap(), hold);
            outcome = "hold";
        }
        if let Ok(mark) = decode_mark(&campaign(), input) {
            let again = decode_mark(&campaign(), &value(&Row::Mark(mark.clone())));
            assert_eq!(again.unwrap(), mark);
            outcome = "mark";
        }
        if let Ok(progress) = decode_progress(3, input) {
            let again = decode_progress(3, &value(&Row::Progress(progress.clone())));
            assert_eq!(again.unwrap(), progress);
            outcome = "progress";
        }
        if let Ok(number) = decode_register(input) {
            assert_eq!(value(&Row::Register(3, Register::Holds, number)), input);
            outcome = "register";
        }
        if let Ok(skip) = decode_skip((3, 4), input, None) {
            assert_eq!(decode_skip((3, 4), &encode_skip(&skip), None).unwrap(), skip);
            outcome = "skip";
        }
        if let Ok(state) = decode_skip_state(input) {
            assert_eq!(decode_skip_state(&encode_skip_state(state)).unwrap(), state);
            outcome = "skip state";
        }
        if let Ok(layout) = decode_layout(input) {
            assert_eq!(decode_layout(&encode_layout(&layout)).unwrap(), layout);
            outcome = "layout";
        }
        outcome
    });
}

#[test]
fn a_key_that_is_read_has_one_spelling() {
    let (campaign, user) = (campaign(), UserId::parse("ada").unwrap());
    let bucket = keys::user_bucket(&campaign, 3);
    let valid = [
        keys::hold(2, &campaign, 12, 3),
        keys::name(&campaign),
        keys::mark(&campaign),
        keys::version(&campaign, 9),
        keys::by_user(&campaign, 3, &user, 9),
        keys::coupon(&campaign, 9),
        keys::record(3, 77).to_vec(),
        keys::skip(3, 4),
    ];
    let outcomes = ["hold", "user", "name", "campaign", "skip", "record", "no key"];
    fuzz::run(&valid, &outcomes, |key, _| {
        if let Some((campaign, from, number)) = keys::hold_parts(key) {
            assert_eq!(keys::hold(0, &campaign, from, number)[5..], key[5..]);
            return "hold";
        }
        if let Some((user, sequence)) = keys::by_user_parts(key, bucket.len()) {
            let again = keys::by_user(&campaign, 3, &user, sequence);
            assert_eq!(again[bucket.len()..], key[bucket.len()..]);
            assert_eq!(keys::sequence_of(key), Some(sequence));
            return "user";
        }
        if let Some(campaign) = keys::name_parts(key) {
            assert_eq!(keys::name(&campaign)[1..], key[1..]);
            assert_eq!(keys::campaign_of(key), Some(campaign));
            return "name";
        }
        if let Some(campaign) = keys::campaign_of(key) {
            let mark = keys::mark(&campaign);
            assert!(key[1..].starts_with(&mark[1..]), "another campaign's key");
            return "campaign";
        }
        if let Some(from) = keys::skip_from(key) {
            assert_eq!(keys::skip(0, from)[5..], key[5..]);
            return "skip";
        }
        match keys::record_offset(key) {
            Some(offset) => {
                assert_eq!(keys::record(0, offset)[4..], key[4..]);
                "record"
            }
            None => "no key",
        }
    });
}
