//! Fuzz targets: cells, as another version, an operator or damage may leave them. A row that is read is
//! written as the same, or cannot be written because a write timestamp would not fit.

use scylla::value::{CqlTimestamp, CqlValue, MaybeUnset, Row};

use super::{version::tests::row, *};
use crate::{domain::definition::Terms, fuzz, random::Random, store::tests::defined};

fn spring() -> CampaignId {
    CampaignId::parse("spring").unwrap()
}

/// Texts of the columns, and bytes of a digest.
fn texts() -> Vec<Vec<u8>> {
    let texts =
        ["spring", "ada", "SPRING-1", "failure", "contradiction", "open", "released", "closed"];
    let texts = texts.iter().map(|text| text.as_bytes().to_vec());
    texts.chain([vec![7; 16], b"0123456789abcdef".to_vec()]).collect()
}

/// Draws a number: often one at the end of a range.
fn long(random: &mut Random) -> i64 {
    let ends = [0, 1, -1, 127, 255, 256, 65_535, 65_536, i64::from(i32::MAX), i64::MAX, i64::MIN];
    let shift = random.below(64);
    if random.one_in(2) {
        ends[random.index(ends.len())]
    } else {
        random.next().cast_signed() >> shift
    }
}

fn int(random: &mut Random) -> i32 {
    let number = long(random);
    i32::try_from(number).unwrap_or(number as i32)
}

/// Sometimes replaces a value by another.
fn maybe<T>(value: T, random: &mut Random, other: impl FnOnce(&mut Random) -> T) -> T {
    if random.one_in(8) { other(random) } else { value }
}

/// Returns whether a write may be refused: a time or an offset that no record of ours has.
fn is_beyond(error: &BadValue) -> bool {
    ["record_time", "offset", "until_offset"].contains(&error.column)
}

#[test]
fn a_coupon_that_is_read_is_written_as_the_same() {
    fuzz::run(&texts(), &["coupon", "unreadable", "not writable"], |input, random| {
        let text = String::from_utf8_lossy(input);
        let cells = CouponCells {
            sequence: maybe(17, random, int),
            user_id: maybe("ada", random, |_| &text),
            code: maybe("C-1", random, |_| &text),
            issued_at: CqlTimestamp(maybe(1_700_000_000_123, random, long)),
            log_epoch: maybe(1, random, int),
            partition: maybe(3, random, int),
            offset: maybe(9, random, long),
            key_digest: maybe(None, random, |_| Some(input)),
            user_bucket: maybe(15, random, int),
            rules_version: maybe(1, random, int),
            digest: maybe(&[7; 16], random, |_| input),
        };
        let key = (cells.sequence, cells.issued_at, cells.offset, cells.user_bucket);
        let Ok(coupon) = cells.decode(&spring()) else { return "unreadable" };
        assert!(coupon.key_digest.is_none_or(|digest| digest == *input));
        match BySequence::of(&coupon) {
            Ok(BySequence { campaign_id, coupon: written, .. }) => {
                assert_eq!(campaign_id, "spring");
                let CouponValues { sequence, issued_at, offset, user_bucket, .. } = written;
                assert_eq!((sequence, issued_at, offset, user_bucket), key);
                assert_eq!(written.user_id, coupon.user.as_str());
                assert_eq!(written.digest, coupon.digest);
                "coupon"
            }
            Err(error) => {
                assert!(is_beyond(&error), "{error}");
                assert!(!coupon.issued_at.is_representable(), "{error}");
                "not writable"
            }
        }
    });
}

#[test]
fn a_hold_that_is_read_is_written_as_the_same() {
    fuzz::run(&texts(), &["hold", "unreadable", "not writable"], |input, random| {
        let text = String::from_utf8_lossy(input);
        let cells = HoldCells {
            campaign_id: maybe("spring", random, |_| &text),
            from_offset: maybe(4, random, long),
            number: maybe(2, random, int),
            kind: maybe("failure", random, |_| &text),
            reason: &text,
            state: maybe("closed", random, |_| &text),
            until_offset: maybe(9, random, long),
        };
        let numbers = (cells.from_offset, cells.number, cells.until_offset);
        let texts = (cells.campaign_id, cells.kind, cells.reason, cells.state);
        let Ok(read) = cells.decode(3) else { return "unreadable" };
        match hold(&read) {
            Ok((partition, campaign, from, number, kind, reason, state, until, rank)) => {
                assert_eq!((partition, rank > 0), (3, true));
                assert_eq!((from, number, until), numbers);
                assert_eq!((campaign, kind, reason, state), texts);
                "hold"
            }
            Err(error) => {
                assert!(is_beyond(&error) && read.until > 1 << 61, "{error}");
                "not writable"
            }
        }
    });
}

#[test]
fn a_register_that_is_read_is_written_as_the_same() {
    let outcomes =
        ["mark", "progress", "register", "campaign", "layout", "unreadable", "not writable"];
    fuzz::run(&texts(), &outcomes, |input, random| match random.below(5) {
        0 => {
            let numbers = (maybe(9, random, long), maybe(3, random, int), maybe(1, random, int));
            let (offset, issued, versions) = numbers;
            let cells = (offset, issued, versions, maybe(7, random, long));
            let Ok(read) = decode_mark(&spring(), cells) else { return "unreadable" };
            let Ok((_, offset, issued, versions, latest, timestamp)) = mark(&read) else {
                assert_eq!(read.offset, i64::MAX as u64);
                return "not writable";
            };
            assert!(timestamp > 0);
            assert_eq!((offset, issued, versions, latest), cells);
            "mark"
        }
        1 => {
            let digest = maybe(&[7; 16][..], random, |_| input);
            let cells =
                (maybe(1, random, int), maybe(9, random, long), maybe(8, random, long), digest);
            let Ok(read) = decode_progress(3, cells) else { return "unreadable" };
            let Ok((3, log_epoch, next, offset, digest, timestamp)) = progress(&read) else {
                assert_eq!(read.next, i64::MAX as u64);
                return "not writable";
            };
            assert!(timestamp > 0);
            assert_eq!((log_epoch, next, offset), (cells.0, cells.1, cells.2));
            assert!(offset == -1 || digest == cells.3);
            "progress"
        }
        2 => {
            let Ok(number) = decode_register((long(random),)) else { return "unreadable" };
            let (_, name, cell, timestamp) = register(3, Register::Holds, number).unwrap();
            assert_eq!((name, cell, decode_register((cell,))), ("holds", timestamp, Ok(number)));
            "register"
        }
        3 => {
            let text = String::from_utf8_lossy(input);
            let Ok(campaign) = decode_campaign((&text,)) else { return "unreadable" };
            assert_eq!(campaign.as_str(), text);
            "campaign"
        }
        _ => {
            let text = String::from_utf8_lossy(input).into_owned();
            let (log_epoch, partitions) = (maybe(1, random, int), maybe(12, random, int));
            let cells =
                (text.clone(), log_epoch, partitions, 3, text.clone(), text.clone(), Some(text));
            let Ok(read) = decode_layout(cells.clone()) else { return "unreadable" };
            let (instance, log_epoch, partitions, format, print, fold, secret) =
                layout(&read).unwrap();
            let MaybeUnset::Set(secret) = secret else { panic!("the secret is left out") };
            assert_eq!((instance, log_epoch, partitions, format), (&*cells.0, cells.1, cells.2, 3));
            assert_eq!((print, fold, secret), (&*cells.4, &*cells.5, &*cells.0));
            "layout"
        }
    });
}

/// Draws a cell of any type.
fn cell(input: &[u8], random: &mut Random) -> Option<CqlValue> {
    let text = || String::from_utf8_lossy(input).into_owned();
    match random.below(8) {
        0 => None,
        1 => Some(CqlValue::Int(int(random))),
        2 => Some(CqlValue::BigInt(long(random))),
        3 => Some(CqlValue::Timestamp(CqlTimestamp(long(random)))),
        4 => Some(CqlValue::Boolean(random.one_in(2))),
        5 => Some(CqlValue::Blob(input.to_vec())),
        6 => Some(CqlValue::Empty),
        _ => Some(CqlValue::Text(text())),
    }
}

#[test]
fn a_version_that_is_read_is_written_as_the_same() {
    let title = Some("Fr\u{fc}hling".to_owned());
    let terms = Terms { opens_at: Some(Timestamp(7)), title, listed: false, ..Terms::of(5) };
    let whole = row(&version(&defined(terms)).unwrap());
    fuzz::run(&texts(), &["version", "unreadable", "not writable"], |input, random| {
        let mut altered = Row { columns: whole.columns.clone() };
        for _ in 0..random.below(3) {
            let at = random.index(altered.columns.len());
            altered.columns[at] = match altered.columns[at] {
                Some(CqlValue::Int(_)) if random.one_in(2) => Some(CqlValue::Int(int(random))),
                Some(CqlValue::BigInt(_)) if random.one_in(2) => {
                    Some(CqlValue::BigInt(long(random)))
                }
                _ => cell(input, random),
            };
        }
        if random.one_in(64) {
            altered.columns.truncate(random.index(altered.columns.len()));
        }
        let mut columns = altered.columns.clone();
        let Ok(read) = decode_version(&spring(), altered) else { return "unreadable" };
        match version(&read) {
            Ok(written) => {
                columns.resize(whole.columns.len(), None);
                assert_eq!(row(&written).columns, columns);
                "version"
            }
            Err(error) => {
                assert!(is_beyond(&error) && !read.time.is_representable(), "{error}");
                "not writable"
            }
        }
    });
}
