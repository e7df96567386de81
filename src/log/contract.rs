//! What every request log promises, as checks that every adapter runs.
//!
//! An adapter runs them with `request_log_contract!(fresh)`, where `fresh` is an async function
//! that gives a log of at least [`PARTITIONS`] partitions and whatever must live as long as it is
//! used (a folder, a topic); or loops over [`checks`]. Each check appends to a partition that it
//! names by [`partition_of`], so they may share one log and run at once; records that others
//! appended to it before do not matter. Offsets may have holes.

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

/// How long a check waits for what must happen: far beyond any hiccup of an engine on a busy
/// machine, so that only a promise broken lets it pass.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a check watches for what must not happen; a late violation is missed, never a false
/// alarm raised.
const QUIET: Duration = Duration::from_millis(200);

/// Lists the checks by name, and makes a test of each.
macro_rules! checks {
    ($($name:ident),+ $(,)?) => {
        /// Names of the checks; each has the partition of its place in the list to itself.
        const NAMES: &[&str] = &[$(stringify!($name)),+];

        /// Partitions that a log needs for each check to have one to itself.
        pub const PARTITIONS: u32 = NAMES.len() as u32;

        /// Every check with its name.
        pub fn checks() -> Vec<(&'static str, Check)> {
            vec![$((stringify!($name), (|log| Box::pin($name(log))) as Check)),+]
        }

        /// Makes a test of every check; `fresh` gives a log and what it lives on.
        #[allow(unused_macros, reason = "adapters may run the list instead")]
        macro_rules! request_log_contract {
            ($fresh:path) => {
                $(
                    #[tokio::test(flavor = "multi_thread")]
                    async fn $name() {
                        let (log, _lives_on) = $fresh().await;
                        $crate::log::contract::$name(&*log).await;
                    }
                )+
            };
        }
        #[allow(unused_imports, reason = "adapters may run the list instead")]
        pub(crate) use request_log_contract;
    };
}

checks!(
    a_record_is_read_back_whole_where_it_was_appended,
    offsets_rise_and_the_end_lies_above_them,
    appends_at_once_get_places_of_their_own,
    one_appender_keeps_its_order,
    a_reader_gives_every_record_in_order,
    a_reader_starts_at_any_offset,
    a_reader_waits_at_the_end_and_wakes,
    a_waiting_read_that_is_dropped_loses_nothing,
    a_read_is_bounded,
    readers_do_not_disturb_each_other,
    a_reader_that_follows_live_appends_misses_none,
    partitions_are_apart,
    a_start_beyond_the_end_is_out_of_range,
    who_joins_alone_is_assigned_every_partition,
    settling_takes_nothing_from_readers,
    a_dead_letter_is_kept_and_saying_it_twice_is_harmless,
    opening_asking_and_appending_need_a_partition_that_is_there,
);

/// The partition of a check.
fn partition_of(check: &str) -> Partition {
    let place = NAMES.iter().position(|name| *name == check);
    Partition::try_from(place.expect("the check is listed")).expect("there are few checks")
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

/// Appends `count` records one after another; what is expected to be read.
async fn append_some(log: &dyn RequestLog, check: &str, count: u64) -> Vec<LogRecord> {
    let partition = partition_of(check);
    let mut records = Vec::new();
    for number in 0..count {
        let new = record(check, number);
        records.push(as_read(&new, append(log, partition, new.clone()).await));
    }
    records
}

/// Appends `count` records without waiting in between; what is expected to be read, in the order
/// of offsets.
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

/// Reads until `count` records have come.
async fn read_some(reader: &mut dyn LogReader, count: usize) -> Vec<LogRecord> {
    let mut records = Vec::new();
    while records.len() < count {
        let read = read(reader, count - records.len()).await.expect("records are read");
        assert!(!read.is_empty(), "a read gave nothing instead of waiting");
        records.extend(read);
    }
    records
}

/// Key, value, MAC, offset and time.
pub async fn a_record_is_read_back_whole_where_it_was_appended(log: &dyn RequestLog) {
    const CHECK: &str = "a_record_is_read_back_whole_where_it_was_appended";
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

/// The high watermark is above every answered append.
pub async fn offsets_rise_and_the_end_lies_above_them(log: &dyn RequestLog) {
    const CHECK: &str = "offsets_rise_and_the_end_lies_above_them";
    let partition = partition_of(CHECK);
    let mut last = None;
    for number in 0..50 {
        let before = high(log, partition).await;
        let offset = append(log, partition, record(CHECK, number)).await.offset;
        assert!(offset >= before, "{offset} lies below the end before it, {before}");
        assert!(last.is_none_or(|last| offset > last), "{offset} follows {last:?}");
        let bounds = log.bounds(partition).await.expect("the bounds are known");
        assert!(bounds.low <= offset && offset < bounds.high, "{offset} is not in {bounds:?}");
        last = Some(offset);
    }
}

/// No two records share an offset, none is lost, none is read that was not appended.
pub async fn appends_at_once_get_places_of_their_own(log: &dyn RequestLog) {
    const CHECK: &str = "appends_at_once_get_places_of_their_own";
    let partition = partition_of(CHECK);
    let mut reader = open(log, partition, high(log, partition).await).await;
    let expected = append_at_once(log, CHECK, 500).await;
    assert!(expected.windows(2).all(|pair| pair[0].offset < pair[1].offset), "an offset is shared");
    assert_eq!(read_some(&mut *reader, expected.len()).await, expected);
}

/// A record that was answered stands before one that is appended after the answer.
pub async fn one_appender_keeps_its_order(log: &dyn RequestLog) {
    const CHECK: &str = "one_appender_keeps_its_order";
    let appenders = (0..8).map(async |_| append_some(log, CHECK, 25).await);
    for records in join_all(appenders).await {
        assert!(records.windows(2).all(|pair| pair[0].offset < pair[1].offset), "out of order");
    }
}

/// Over many reads of different sizes.
pub async fn a_reader_gives_every_record_in_order(log: &dyn RequestLog) {
    const CHECK: &str = "a_reader_gives_every_record_in_order";
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

/// Also in the middle; also at the end, where it waits.
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

/// A read at the end answers with the next record, whenever it comes.
pub async fn a_reader_waits_at_the_end_and_wakes(log: &dyn RequestLog) {
    const CHECK: &str = "a_reader_waits_at_the_end_and_wakes";
    let partition = partition_of(CHECK);
    let mut reader = open(log, partition, high(log, partition).await).await;
    for number in 0..10 {
        let new = record(CHECK, number);
        let (appended, read) =
            tokio::join!(append(log, partition, new.clone()), read(&mut *reader, 10));
        assert_eq!(read.expect("a record is read"), [as_read(&new, appended)]);
    }
}

/// Reads are raced against other events all the time.
pub async fn a_waiting_read_that_is_dropped_loses_nothing(log: &dyn RequestLog) {
    const CHECK: &str = "a_waiting_read_that_is_dropped_loses_nothing";
    let partition = partition_of(CHECK);
    let mut reader = open(log, partition, high(log, partition).await).await;
    timeout(QUIET, reader.read(10)).await.expect_err("there is nothing to read");
    let expected = append_at_once(log, CHECK, 400).await;
    let mut records = Vec::new();
    let mut dropped = 0;
    while records.len() < expected.len() {
        // Polled once or twice, then dropped, wherever it stands.
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

/// By what is asked for, and by [`READ_RECORDS_MAX`].
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

/// Each has a place of its own.
pub async fn readers_do_not_disturb_each_other(log: &dyn RequestLog) {
    const CHECK: &str = "readers_do_not_disturb_each_other";
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

/// While hundreds append at once, and whichever of them is answered first.
pub async fn a_reader_that_follows_live_appends_misses_none(log: &dyn RequestLog) {
    const CHECK: &str = "a_reader_that_follows_live_appends_misses_none";
    const RECORDS: usize = 4_000;
    let partition = partition_of(CHECK);
    let mut reader = open(log, partition, high(log, partition).await).await;
    let (expected, records) =
        tokio::join!(append_at_once(log, CHECK, RECORDS as u64), read_some(&mut *reader, RECORDS));
    assert_eq!(records, expected);
}

/// A record is read in its own partition only.
pub async fn partitions_are_apart(log: &dyn RequestLog) {
    const CHECK: &str = "partitions_are_apart";
    let partition = partition_of(CHECK);
    let mut reader = open(log, partition, high(log, partition).await).await;
    let elsewhere = partition_of("offsets_rise_and_the_end_lies_above_them");
    append(log, elsewhere, record(CHECK, 0)).await;
    let new = record(CHECK, 1);
    let appended = append(log, partition, new.clone()).await;
    assert_eq!(read_some(&mut *reader, 1).await, [as_read(&new, appended)]);
    timeout(QUIET, reader.read(1)).await.expect_err("there is nothing more to read");
}

/// The first read says so; it does not wait for the log to get there.
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

/// Every partition once, and no end of the news while the receiver is kept.
pub async fn who_joins_alone_is_assigned_every_partition(log: &dyn RequestLog) {
    let mut news = log.join().await.expect("one joins");
    let mut assigned = std::collections::BTreeSet::new();
    while assigned.len() < PARTITIONS as usize {
        match timeout(PATIENCE, news.recv()).await.expect("partitions are assigned") {
            Some(Ownership::Assigned(partition)) => {
                assert!(assigned.insert(partition), "{partition} is assigned twice");
            }
            Some(Ownership::Revoked(partition)) => panic!("{partition} is revoked"),
            None => panic!("the news ended after {assigned:?}"),
        }
    }
    assert_eq!(assigned.first(), Some(&0));
    if let Ok(event) = timeout(QUIET, news.recv()).await {
        assert!(event.is_some(), "the news ended");
    }
}

/// What is younger than any retention stays, and the last settled record in any case.
pub async fn settling_takes_nothing_from_readers(log: &dyn RequestLog) {
    const CHECK: &str = "settling_takes_nothing_from_readers";
    let partition = partition_of(CHECK);
    let expected = append_some(log, CHECK, 20).await;
    let next = high(log, partition).await;
    for (next, keep_from) in [(next, None), (next, Some(expected[3].offset)), (0, None)] {
        log.report_progress(partition, next, keep_from).await.expect("progress is told");
    }
    let mut reader = open(log, partition, expected[0].offset).await;
    assert_eq!(read_some(&mut *reader, expected.len()).await, expected);
}

/// Whatever bytes it has.
pub async fn a_dead_letter_is_kept_and_saying_it_twice_is_harmless(log: &dyn RequestLog) {
    const CHECK: &str = "a_dead_letter_is_kept_and_saying_it_twice_is_harmless";
    let partition = partition_of(CHECK);
    let mut records = append_some(log, CHECK, 1).await;
    let strange = LogRecord {
        offset: records[0].offset,
        time: records[0].time,
        key: vec![0, 255, 10],
        value: vec![0; 20_000],
        mac: None,
    };
    records.push(strange);
    for record in records.iter().chain(&records) {
        log.dead_letter(partition, record, "malformed").await.expect("a dead letter is kept");
    }
}

/// An error, not a panic, and not an append somewhere else.
pub async fn opening_asking_and_appending_need_a_partition_that_is_there(log: &dyn RequestLog) {
    const CHECK: &str = "opening_asking_and_appending_need_a_partition_that_is_there";
    const NOWHERE: Partition = 1_000_000;
    let appended = timeout(PATIENCE, log.append(NOWHERE, record(CHECK, 0))).await;
    appended.expect("an append is answered").expect_err("there is no such partition");
    let asked = timeout(PATIENCE, log.bounds(NOWHERE)).await;
    asked.expect("a question is answered").expect_err("there is no such partition");
    if let Ok(mut reader) = log.open(NOWHERE, 0).await {
        read(&mut *reader, 1).await.expect_err("there is no such partition");
    }
}
