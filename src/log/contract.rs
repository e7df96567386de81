//! Checks of the port's promises. Every adapter runs them.
//!
//! An adapter calls `request_log_contract!(fresh)`, or loops over [`checks`]. `fresh` is an async
//! function that returns a log of at least [`PARTITIONS`] partitions and a guard, for example a
//! folder, which is dropped after the check. Each check has its own partition ([`partition_of`]),
//! so checks may share a log and run concurrently. Earlier records and gaps between offsets do not
//! matter.

use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};
use tokio::time::timeout;

use super::{Appended, LogReader, Ownership, READ_RECORDS_MAX, ReadError, RequestLog};
use crate::{
    domain::ids::{CampaignId, Offset, Partition},
    wire::{LogRecord, NewRecord},
};

/// One check of the contract.
pub type Check = for<'a> fn(&'a dyn RequestLog) -> BoxFuture<'a, ()>;

/// Limit for an event that must happen. Far above the delays of an engine on a busy machine, so
/// that only a broken promise reaches it.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a check watches for an event that must not happen. A later violation is missed, but a
/// false alarm is impossible.
const QUIET: Duration = Duration::from_millis(200);

/// Lists the checks by name, and defines the macro that makes a test of each.
macro_rules! checks {
    ($($name:ident),+ $(,)?) => {
        /// Names of the checks. The index of a check is its partition.
        const NAMES: &[&str] = &[$(stringify!($name)),+];

        /// Partitions that a log needs: one for each check.
        pub const PARTITIONS: u32 = NAMES.len() as u32;

        /// Returns every check with its name.
        pub fn checks() -> Vec<(&'static str, Check)> {
            vec![$((stringify!($name), (|log| Box::pin($name(log))) as Check)),+]
        }

        /// Makes a test of every check. `fresh` returns a log and its guard.
        #[allow(unused_macros, reason = "adapters may run the list instead")]
        macro_rules! request_log_contract {
            ($fresh:path) => {
                $(
                    #[tokio::test(flavor = "multi_thread")]
                    async fn $name() {
                        let (log, guard) = $fresh().await;
                        $crate::log::contract::$name(&*log).await;
                        // The log goes first: its guard may hold its folder.
                        drop((log, guard));
                    }
                )+
            };
        }
        #[allow(unused_imports, reason = "adapters may run the list instead")]
        pub(crate) use request_log_contract;
    };
}

checks!(
    an_appended_record_is_read_back,
    offsets_rise_below_the_high_watermark,
    concurrent_appends_get_own_offsets,
    one_appender_keeps_its_order,
    a_reader_returns_records_in_order,
    a_reader_starts_at_any_offset,
    a_reader_waits_for_the_next_record,
    a_cancelled_read_loses_no_record,
    a_read_is_bounded,
    readers_are_independent,
    a_live_reader_misses_no_record,
    partitions_are_independent,
    a_start_beyond_the_end_is_out_of_range,
    a_sole_member_owns_every_partition,
    reported_progress_removes_no_record,
    a_dead_letter_can_be_written_twice,
    an_unknown_partition_is_an_error,
);

/// Returns the partition of a check.
fn partition_of(check: &str) -> Partition {
    let index = NAMES.iter().position(|name| *name == check);
    Partition::try_from(index.expect("the check is listed")).expect("there are few checks")
}

fn record(check: &str, number: u64) -> NewRecord {
    NewRecord {
        campaign: CampaignId::parse("contract").expect("a valid id"),
        value: format!("{{\"check\":\"{check}\",\"number\":{number}}}").into_bytes(),
        mac: format!("mac-{number}").into_bytes(),
    }
}

async fn append(log: &dyn RequestLog, partition: Partition, record: NewRecord) -> Appended {
    let appended = timeout(PATIENCE, log.append(partition, record)).await;
    appended.expect("an append is answered").expect("a record is appended")
}

/// Appends `count` records one after another. Returns the records that a reader should return.
async fn append_some(log: &dyn RequestLog, check: &str, count: u64) -> Vec<LogRecord> {
    let partition = partition_of(check);
    let mut records = Vec::new();
    for number in 0..count {
        let new = record(check, number);
        records.push(as_read(&new, append(log, partition, new.clone()).await));
    }
    records
}

/// Appends `count` records, up to 1,000 of them concurrently. Returns the records that a reader
/// should return, in offset order.
async fn append_at_once(log: &dyn RequestLog, check: &str, count: u64) -> Vec<LogRecord> {
    let partition = partition_of(check);
    let mut records = Vec::new();
    for start in (0..count).step_by(1_000) {
        let appends = (start..count.min(start + 1_000)).map(async |number| {
            let new = record(check, number);
            as_read(&new, append(log, partition, new.clone()).await)
        });
        records.extend(join_all(appends).await);
    }
    records.sort_by_key(|record| record.offset);
    records
}

fn as_read(record: &NewRecord, appended: Appended) -> LogRecord {
    LogRecord {
        offset: appended.offset,
        time: appended.time,
        key: record.campaign.as_str().as_bytes().to_vec(),
        value: record.value.clone(),
        mac: Some(record.mac.clone()),
    }
}

async fn high(log: &dyn RequestLog, partition: Partition) -> Offset {
    log.bounds(partition).await.expect("the bounds are known").high
}

async fn open(log: &dyn RequestLog, partition: Partition, from: Offset) -> Box<dyn LogReader> {
    log.open(partition, from).await.expect("a reader is opened")
}

async fn read(reader: &mut dyn LogReader, max: usize) -> Result<Vec<LogRecord>, ReadError> {
    timeout(PATIENCE, reader.read(max)).await.expect("a read is answered")
}

/// Reads `count` records.
async fn read_some(reader: &mut dyn LogReader, count: usize) -> Vec<LogRecord> {
    let mut records = Vec::new();
    while records.len() < count {
        let read = read(reader, count - records.len()).await.expect("records are read");
        assert!(!read.is_empty(), "a read returned no record instead of waiting");
        records.extend(read);
    }
    records
}

/// Covers key, value, MAC, offset and time.
pub async fn an_appended_record_is_read_back(log: &dyn RequestLog) {
    const CHECK: &str = "an_appended_record_is_read_back";
    let partition = partition_of(CHECK);
    let mut reader = open(log, partition, high(log, partition).await).await;
    let binary = NewRecord { value: (0..=255).collect(), mac: vec![0, 255], ..record(CHECK, 0) };
    let long = NewRecord { value: vec![b'x'; 7_000], ..record(CHECK, 0) };
    for new in [record(CHECK, 0), binary, long] {
        let appended = append(log, partition, new.clone()).await;
        assert!(appended.time.is_representable(), "{:?}", appended.time);
        let read = read_some(&mut *reader, 1).await;
        assert_eq!(read, [as_read(&new, appended)]);
    }
}

/// The high watermark is above every completed append.
pub async fn offsets_rise_below_the_high_watermark(log: &dyn RequestLog) {
    const CHECK: &str = "offsets_rise_below_the_high_watermark";
    let partition = partition_of(CHECK);
    let mut last = None;
    for number in 0..50 {
        let before = high(log, partition).await;
        let offset = append(log, partition, record(CHECK, number)).await.offset;
        assert!(offset >= before, "{offset} is below the earlier high watermark {before}");
        assert!(last.is_none_or(|last| offset > last), "{offset} follows {last:?}");
        let bounds = log.bounds(partition).await.expect("the bounds are known");
        assert!(bounds.low <= offset && offset < bounds.high, "{offset} is not in {bounds:?}");
        last = Some(offset);
    }
}

/// No two records share an offset, no record is lost, and no other record is read.
pub async fn concurrent_appends_get_own_offsets(log: &dyn RequestLog) {
    const CHECK: &str = "concurrent_appends_get_own_offsets";
    let partition = partition_of(CHECK);
    let mut reader = open(log, partition, high(log, partition).await).await;
    let expected = append_at_once(log, CHECK, 500).await;
    assert!(expected.windows(2).all(|pair| pair[0].offset < pair[1].offset), "an offset is shared");
    assert_eq!(read_some(&mut *reader, expected.len()).await, expected);
}

/// A record has a lower offset than every record that is appended after its append has returned.
pub async fn one_appender_keeps_its_order(log: &dyn RequestLog) {
    const CHECK: &str = "one_appender_keeps_its_order";
    let appenders = (0..8).map(async |_| append_some(log, CHECK, 25).await);
    for records in join_all(appenders).await {
        assert!(records.windows(2).all(|pair| pair[0].offset < pair[1].offset), "out of order");
    }
}

/// Reads in chunks of different sizes.
pub async fn a_reader_returns_records_in_order(log: &dyn RequestLog) {
    const CHECK: &str = "a_reader_returns_records_in_order";
    let partition = partition_of(CHECK);
    let start = high(log, partition).await;
    let expected = append_at_once(log, CHECK, 3_000).await;
    for max in [1, 7, 1_000] {
        let mut reader = open(log, partition, start).await;
        let mut records = Vec::new();
        while records.len() < expected.len().min(max * 500) {
            let read = read(&mut *reader, max).await.expect("records are read");
            assert!((1..=max).contains(&read.len()), "{} of {max} records", read.len());
            records.extend(read);
        }
        assert_eq!(records, expected[..records.len()]);
    }
}

/// A reader may also start in the middle, or at the end, where it waits.
pub async fn a_reader_starts_at_any_offset(log: &dyn RequestLog) {
    const CHECK: &str = "a_reader_starts_at_any_offset";
    let partition = partition_of(CHECK);
    let expected = append_some(log, CHECK, 20).await;
    for from in [0, 1, 10, 19] {
        let mut reader = open(log, partition, expected[from].offset).await;
        let read = read_some(&mut *reader, expected.len() - from).await;
        assert_eq!(read, expected[from..]);
    }
    let mut at_end = open(log, partition, high(log, partition).await).await;
    let later = append_some(log, CHECK, 1).await;
    assert_eq!(read_some(&mut *at_end, 1).await, later);
}

/// A read at the end returns the next record as soon as it is appended.
pub async fn a_reader_waits_for_the_next_record(log: &dyn RequestLog) {
    const CHECK: &str = "a_reader_waits_for_the_next_record";
    let partition = partition_of(CHECK);
    let mut reader = open(log, partition, high(log, partition).await).await;
    for number in 0..10 {
        let new = record(CHECK, number);
        let (appended, read) =
            tokio::join!(append(log, partition, new.clone()), read(&mut *reader, 10));
        assert_eq!(read.expect("a record is read"), [as_read(&new, appended)]);
    }
}

/// Callers race reads against other events, and so drop pending reads all the time.
pub async fn a_cancelled_read_loses_no_record(log: &dyn RequestLog) {
    const CHECK: &str = "a_cancelled_read_loses_no_record";
    let partition = partition_of(CHECK);
    let mut reader = open(log, partition, high(log, partition).await).await;
    timeout(QUIET, reader.read(10)).await.expect_err("there is nothing to read");
    let expected = append_at_once(log, CHECK, 400).await;
    let mut records = Vec::new();
    let mut dropped = 0;
    while records.len() < expected.len() {
        // Different timeouts drop the read at different points.
        let polled = timeout(Duration::from_micros(dropped % 50), reader.read(7)).await;
        match polled {
            Ok(read) => records.extend(read.expect("records are read")),
            Err(_) if dropped > 2_000 => {
                records.extend(read(&mut *reader, 7).await.expect("records are read"));
            }
            Err(_) => dropped += 1,
        }
    }
    assert_eq!(records, expected);
}

/// A read returns at most [`READ_RECORDS_MAX`] records, even if more are asked for.
pub async fn a_read_is_bounded(log: &dyn RequestLog) {
    const CHECK: &str = "a_read_is_bounded";
    let partition = partition_of(CHECK);
    let start = high(log, partition).await;
    let expected = append_at_once(log, CHECK, READ_RECORDS_MAX as u64 + 500).await;
    let mut reader = open(log, partition, start).await;
    let mut count = 0;
    while count < expected.len() {
        let read = read(&mut *reader, usize::MAX).await.expect("records are read");
        assert!(read.len() <= READ_RECORDS_MAX, "{} records at once", read.len());
        count += read.len();
    }
    assert_eq!(count, expected.len());
}

/// Each reader has its own position.
pub async fn readers_are_independent(log: &dyn RequestLog) {
    const CHECK: &str = "readers_are_independent";
    let partition = partition_of(CHECK);
    let expected = append_some(log, CHECK, 100).await;
    let reads = (0..6_usize).map(async |number| {
        let from = number * 10;
        let mut reader = open(log, partition, expected[from].offset).await;
        let mut records = Vec::new();
        while records.len() < expected.len() - from {
            records.extend(read(&mut *reader, 3 + number).await.expect("records are read"));
        }
        assert_eq!(records, expected[from..]);
    });
    join_all(reads).await;
}

/// Reads while hundreds of appends are in flight, which may complete in any order.
pub async fn a_live_reader_misses_no_record(log: &dyn RequestLog) {
    const CHECK: &str = "a_live_reader_misses_no_record";
    const RECORDS: usize = 4_000;
    let partition = partition_of(CHECK);
    let mut reader = open(log, partition, high(log, partition).await).await;
    let (expected, records) =
        tokio::join!(append_at_once(log, CHECK, RECORDS as u64), read_some(&mut *reader, RECORDS));
    assert_eq!(records, expected);
}

/// A record is read from its own partition only.
pub async fn partitions_are_independent(log: &dyn RequestLog) {
    const CHECK: &str = "partitions_are_independent";
    let partition = partition_of(CHECK);
    let mut reader = open(log, partition, high(log, partition).await).await;
    let elsewhere = partition_of("offsets_rise_below_the_high_watermark");
    append(log, elsewhere, record(CHECK, 0)).await;
    let new = record(CHECK, 1);
    let appended = append(log, partition, new.clone()).await;
    assert_eq!(read_some(&mut *reader, 1).await, [as_read(&new, appended)]);
    timeout(QUIET, reader.read(1)).await.expect_err("there is nothing more to read");
}

/// The first read fails. It does not wait until the log reaches the start.
pub async fn a_start_beyond_the_end_is_out_of_range(log: &dyn RequestLog) {
    const CHECK: &str = "a_start_beyond_the_end_is_out_of_range";
    let partition = partition_of(CHECK);
    append_some(log, CHECK, 3).await;
    let beyond = high(log, partition).await + 100;
    let mut reader = open(log, partition, beyond).await;
    match read(&mut *reader, 1).await {
        Err(ReadError::OutOfRange { wanted, .. }) => assert_eq!(wanted, beyond),
        other => panic!("{other:?}"),
    }
}

/// The only member is assigned every partition once. Its channel stays open.
pub async fn a_sole_member_owns_every_partition(log: &dyn RequestLog) {
    let mut changes = log.join().await.expect("the node joins");
    let mut assigned = std::collections::BTreeSet::new();
    while assigned.len() < PARTITIONS as usize {
        match timeout(PATIENCE, changes.recv()).await.expect("partitions are assigned") {
            Some(Ownership::Assigned(partition)) => {
                assert!(assigned.insert(partition), "{partition} is assigned twice");
            }
            Some(Ownership::Revoked(partition)) => panic!("{partition} is revoked"),
            None => panic!("the channel was closed after {assigned:?}"),
        }
    }
    assert_eq!(assigned.first(), Some(&0));
    if let Ok(event) = timeout(QUIET, changes.recv()).await {
        assert!(event.is_some(), "the channel was closed");
    }
}

/// Trimming keeps the last settled record, and records that are younger than the retention.
pub async fn reported_progress_removes_no_record(log: &dyn RequestLog) {
    const CHECK: &str = "reported_progress_removes_no_record";
    let partition = partition_of(CHECK);
    let expected = append_some(log, CHECK, 20).await;
    let next = high(log, partition).await;
    for (next, keep_from) in [(next, None), (next, Some(expected[3].offset)), (0, None)] {
        log.report_progress(partition, next, keep_from).await.expect("progress is reported");
    }
    let mut reader = open(log, partition, expected[0].offset).await;
    assert_eq!(read_some(&mut *reader, expected.len()).await, expected);
}

/// A dead letter may contain any bytes.
pub async fn a_dead_letter_can_be_written_twice(log: &dyn RequestLog) {
    const CHECK: &str = "a_dead_letter_can_be_written_twice";
    let partition = partition_of(CHECK);
    let mut records = append_some(log, CHECK, 1).await;
    let undecodable = LogRecord {
        offset: records[0].offset,
        time: records[0].time,
        key: vec![0, 255, 10],
        value: vec![0; 20_000],
        mac: None,
    };
    records.push(undecodable);
    for record in records.iter().chain(&records) {
        log.dead_letter(partition, record, "malformed").await.expect("a dead letter is stored");
    }
}

/// Neither panics nor appends to another partition.
pub async fn an_unknown_partition_is_an_error(log: &dyn RequestLog) {
    const CHECK: &str = "an_unknown_partition_is_an_error";
    const NOWHERE: Partition = 1_000_000;
    let appended = timeout(PATIENCE, log.append(NOWHERE, record(CHECK, 0))).await;
    appended.expect("an append is answered").expect_err("there is no such partition");
    let asked = timeout(PATIENCE, log.bounds(NOWHERE)).await;
    asked.expect("a question is answered").expect_err("there is no such partition");
    if let Ok(mut reader) = log.open(NOWHERE, 0).await {
        read(&mut *reader, 1).await.expect_err("there is no such partition");
    }
}
