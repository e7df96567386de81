//! Fuzz targets: records and dead letters, as the database returns them.

use super::records::{decode, decode_dead_letter, encode_dead_letter, encode_parts};
use crate::{domain::ids::Timestamp, fuzz, wire::LogRecord};

fn records() -> Vec<LogRecord> {
    let record = |key: &[u8], value: &[u8], mac: Option<&[u8]>| LogRecord {
        offset: 9,
        time: Timestamp(1_700_000_000_123),
        key: key.to_vec(),
        value: value.to_vec(),
        mac: mac.map(<[u8]>::to_vec),
    };
    vec![
        record(b"spring", br#"{"v":1}"#, Some(b"1:00ff")),
        record(b"", b"", None),
        record(b"k", b"value", Some(b"")),
    ]
}

#[test]
fn a_stored_record_has_one_spelling() {
    let written = |record: &LogRecord| {
        encode_parts(record.time, &record.key, record.mac.as_deref(), &record.value).unwrap()
    };
    let valid: Vec<_> = records().iter().map(written).collect();
    fuzz::run(&valid, &["record", "refused"], |input, random| {
        let offset = random.next();
        let Some(record) = decode(offset, input) else { return "refused" };
        assert_eq!(record.offset, offset);
        assert_eq!(written(&record), input);
        "record"
    });
}

#[test]
fn a_stored_dead_letter_has_one_spelling() {
    let written = |record: &LogRecord, reason: &str| encode_dead_letter(record, reason).unwrap();
    let valid: Vec<_> = records().iter().map(|record| written(record, "malformed")).collect();
    fuzz::run(&valid, &["dead letter", "refused"], |input, _| {
        let key = [b"d".as_slice(), &[0; 4], &9_u64.to_be_bytes()].concat();
        let Ok(letter) = decode_dead_letter((key.into(), input.into())) else { return "refused" };
        assert_eq!(letter.record.offset, 9);
        assert_eq!(written(&letter.record, &letter.reason), input);
        "dead letter"
    });
}
