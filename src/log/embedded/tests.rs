//! The embedded log: order, readers, trimming.

use std::{path::Path, time::Duration};

use super::*;
use crate::{
    domain::ids::CampaignId,
    embedded::testing::{self, ManualClock},
    log::contract,
};

async fn fresh() -> (Arc<EmbeddedLog>, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let database = testing::open(folder.path(), contract::PARTITIONS);
    (Arc::new(EmbeddedLog::new(database, Duration::from_secs(3_600))), folder)
}

contract::request_log_contract!(fresh);

const RETENTION: Duration = Duration::from_millis(1_000);

/// Returns a log of two partitions on a manual clock.
fn timed(folder: &Path, clock: &Arc<ManualClock>) -> EmbeddedLog {
    let config = testing::config(folder, 2);
    let database = EmbeddedDatabase::open(&config, clock.clone()).unwrap();
    EmbeddedLog::new(database, RETENTION)
}

fn record(number: u64) -> NewRecord {
    NewRecord {
        campaign: CampaignId::parse("spring").unwrap(),
        value: number.to_string().into_bytes(),
        mac: Vec::new(),
    }
}

async fn append(log: &EmbeddedLog, count: u64) {
    for number in 0..count {
        log.append(0, record(number)).await.unwrap();
    }
}

/// Reads every offset from `from` to the end.
async fn offsets(log: &EmbeddedLog, from: Offset) -> Result<Vec<Offset>, ReadError> {
    let mut reader = log.open(0, from).await?;
    let high = log.bounds(0).await?.high;
    let mut offsets: Vec<Offset> = Vec::new();
    while offsets.last().map_or(from, |last| last + 1) < high {
        offsets.extend(reader.read(usize::MAX).await?.iter().map(|record| record.offset));
    }
    Ok(offsets)
}

#[tokio::test]
async fn record_times_are_those_of_the_clock() {
    let folder = tempfile::tempdir().unwrap();
    let clock = ManualClock::at(5_000);
    let log = timed(folder.path(), &clock);
    let mut times = Vec::new();
    for set_by in [0, -4_000, 59_000, -1_000] {
        clock.set_wall_by(set_by);
        times.push(log.append(0, record(0)).await.unwrap().time.0);
    }
    drop(log);
    let log = timed(folder.path(), &clock);
    times.push(log.append(0, record(0)).await.unwrap().time.0);
    assert_eq!(times, [5_000, 1_000, 64_000, 4_000, 4_000]);
}

#[tokio::test]
async fn no_record_is_taken_while_the_clock_is_wrong() {
    const DAYS_400_MS: i64 = 400 * 86_400_000;
    let folder = tempfile::tempdir().unwrap();
    let clock = ManualClock::at(100_000);
    let log = timed(folder.path(), &clock);
    let refusal = log.database.refusal();
    append(&log, 1).await;
    clock.set_wall_by(DAYS_400_MS);
    let refused = log.append(0, record(1)).await;
    assert!(matches!(refused, Err(AppendError::Unavailable(_))), "{refused:?}");
    let said = refusal().unwrap();
    assert!(said.contains("says 1971-02-05") && said.contains("but 1970-01-01"), "{said}");
    // It comes back, runs steadily for 10 s, and every record has its right time.
    clock.set_wall_by(0);
    assert!(log.append(0, record(1)).await.is_err());
    clock.set(110_000);
    assert_eq!(log.append(0, record(1)).await.unwrap(), appended(1, 110_000));
    assert_eq!(refusal(), None);
    // It stays wrong, so it is believed. The next start finds it behind the last record.
    clock.set_wall_by(DAYS_400_MS);
    assert!(log.append(0, record(2)).await.is_err());
    clock.set(120_000);
    let ahead = log.append(0, record(2)).await.unwrap();
    assert_eq!(ahead, appended(2, DAYS_400_MS + 120_000));
    drop((log, refusal));
    clock.set_wall_by(0);
    let log = timed(folder.path(), &clock);
    assert!(log.append(0, record(3)).await.is_err());
    clock.set(130_000);
    assert_eq!(log.append(0, record(3)).await.unwrap(), appended(3, 130_000));
}

fn appended(offset: Offset, millis: i64) -> Appended {
    Appended { offset, time: Timestamp(millis) }
}

/// Opens a log on a disk that is full.
fn without_space(folder: &Path, clock: &Arc<ManualClock>) -> EmbeddedLog {
    let config =
        crate::config::EmbeddedConfig { reserve_bytes: u64::MAX, ..testing::config(folder, 2) };
    let database = EmbeddedDatabase::open(&config, clock.clone()).unwrap();
    let log = EmbeddedLog::new(database, RETENTION);
    while !log.database.reads().space_short.load(Ordering::Relaxed) {
        std::thread::yield_now();
    }
    log
}

#[tokio::test]
async fn without_space_holds_keep_only_young_records() {
    let folder = tempfile::tempdir().unwrap();
    let clock = ManualClock::at(0);
    let log = timed(folder.path(), &clock);
    append(&log, 5).await;
    clock.set(2_000);
    append(&log, 15).await;
    let low = async |log: &EmbeddedLog| log.bounds(0).await.unwrap().low;
    log.report_progress(0, 20, Some(3)).await.unwrap();
    assert_eq!(low(&log).await, 3, "a hold needs its records");
    drop(log);
    let log = without_space(folder.path(), &clock);
    log.report_progress(0, 20, Some(3)).await.unwrap();
    assert_eq!(low(&log).await, 5, "but not for longer than the retention");
    log.report_progress(0, 20, None).await.unwrap();
    assert_eq!(low(&log).await, 19, "and what nobody needs goes at once");
}

#[tokio::test]
async fn a_reopened_log_continues_at_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let clock = ManualClock::at(0);
    for round in 0..4 {
        let log = timed(folder.path(), &clock);
        let bounds = log.bounds(0).await.unwrap();
        assert_eq!(bounds, Bounds { low: 0, high: round * 10 });
        append(&log, 10).await;
        assert_eq!(offsets(&log, 0).await.unwrap(), (0..(round + 1) * 10).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn old_records_are_read_from_the_database() {
    let folder = tempfile::tempdir().unwrap();
    let log = timed(folder.path(), &ManualClock::at(0));
    let appends = (0..10_000).map(|number| log.append(0, record(number)));
    futures_util::future::try_join_all(appends).await.unwrap();
    assert!(log.database.reads().tails[0].recent(0, 1).is_none(), "the first is still in memory");
    assert_eq!(offsets(&log, 0).await.unwrap(), (0..10_000).collect::<Vec<_>>());
    assert_eq!(offsets(&log, 9_990).await.unwrap(), (9_990..10_000).collect::<Vec<_>>());
}

#[tokio::test]
async fn the_last_settled_record_is_never_trimmed() {
    let folder = tempfile::tempdir().unwrap();
    let clock = ManualClock::at(0);
    let log = timed(folder.path(), &clock);
    append(&log, 10).await;
    clock.set(600);
    append(&log, 10).await;
    let low = async |log: &EmbeddedLog| log.bounds(0).await.unwrap().low;

    clock.set(1_000);
    log.report_progress(0, 20, None).await.unwrap();
    assert_eq!(low(&log).await, 0, "nothing is older than the retention");
    clock.set(1_001);
    log.report_progress(0, 5, None).await.unwrap();
    assert_eq!(low(&log).await, 4, "unsettled records and the last settled one are kept");
    log.report_progress(0, 20, Some(7)).await.unwrap();
    assert_eq!(low(&log).await, 7, "records that a hold needs are kept");
    log.report_progress(0, 20, None).await.unwrap();
    assert_eq!(low(&log).await, 10, "records younger than the retention are kept");
    clock.set(1_601);
    log.report_progress(0, 20, None).await.unwrap();
    assert_eq!(low(&log).await, 19);
    assert_eq!(offsets(&log, 19).await.unwrap(), [19]);

    drop(log);
    let log = timed(folder.path(), &clock);
    assert_eq!(log.bounds(0).await.unwrap(), Bounds { low: 19, high: 20 });
    assert_eq!(offsets(&log, 19).await.unwrap(), [19]);
    log.report_progress(0, 10, None).await.unwrap();
    log.report_progress(0, 1_000_000, None).await.unwrap();
    assert_eq!(log.bounds(0).await.unwrap(), Bounds { low: 19, high: 20 });
    assert_eq!(log.append(0, record(0)).await.unwrap().offset, 20);
}

#[test]
fn a_reader_passes_no_missing_record() {
    let read = |offsets: &[Offset]| -> Vec<_> {
        let (time, key, value) = (Timestamp(0), Vec::new(), Vec::new());
        let record = LogRecord { offset: 0, time, key, value, mac: None };
        offsets.iter().map(|offset| LogRecord { offset: *offset, ..record.clone() }).collect()
    };
    assert_eq!(first_missing(5, &read(&[5, 6, 7])), None);
    assert_eq!(first_missing(5, &read(&[6, 7])), Some(5));
    assert_eq!(first_missing(5, &read(&[5, 7])), Some(6));
    assert_eq!(first_missing(5, &[]), Some(5), "there was a record when the read began");
}

#[tokio::test]
async fn a_reader_below_the_start_is_out_of_range() {
    let folder = tempfile::tempdir().unwrap();
    let clock = ManualClock::at(0);
    let log = timed(folder.path(), &clock);
    append(&log, 20).await;
    let mut behind = log.open(0, 0).await.unwrap();
    assert_eq!(behind.read(5).await.unwrap().len(), 5);
    clock.set(2_000);
    log.report_progress(0, 11, None).await.unwrap();
    for mut reader in [behind, log.open(0, 9).await.unwrap()] {
        let error = reader.read(1).await.unwrap_err();
        assert!(matches!(error, ReadError::OutOfRange { .. }), "{error}");
    }
    assert_eq!(offsets(&log, 10).await.unwrap(), (10..20).collect::<Vec<_>>());
}

#[tokio::test]
async fn one_call_trims_a_bounded_number_of_blocks() {
    let folder = tempfile::tempdir().unwrap();
    let clock = ManualClock::at(0);
    let log = timed(folder.path(), &clock);
    // Two such records do not fit into one block.
    let long = |number| NewRecord { value: vec![b'x'; 2_500], ..record(number) };
    let most = (TRIM_BLOCKS_MAX * TRIM_GROUPS_MAX) as u64;
    let appends = (0..most + 500).map(|number| log.append(0, long(number)));
    futures_util::future::try_join_all(appends).await.unwrap();
    clock.set(2_000);
    for low in [most, most + 499] {
        log.report_progress(0, most + 500, None).await.unwrap();
        assert_eq!(log.bounds(0).await.unwrap().low, low);
    }
    let blocks = log.database.reads().log.len().unwrap();
    assert_eq!(blocks, 1, "trimmed blocks are removed");
}

#[tokio::test]
async fn a_block_is_trimmed_whole() {
    let folder = tempfile::tempdir().unwrap();
    let clock = ManualClock::at(0);
    let log = timed(folder.path(), &clock);
    let appends = (0..1_000).map(|number| log.append(0, record(number)));
    futures_util::future::try_join_all(appends).await.unwrap();
    drop(log);
    let log = timed(folder.path(), &clock);
    for from in [0, 1, 99, 500, 998, 999] {
        assert_eq!(offsets(&log, from).await.unwrap(), (from..1_000).collect::<Vec<_>>());
    }
    assert!(log.database.reads().log.len().unwrap() < 500, "records were not packed");
    clock.set(2_000);
    let mut last_low = 0;
    for next in [300, 301, 302, 700, 1_000] {
        log.report_progress(0, next, None).await.unwrap();
        let low = log.bounds(0).await.unwrap().low;
        assert!(low < next, "the last settled record is gone");
        assert!(low >= last_low, "the start moved back");
        assert_eq!(offsets(&log, low).await.unwrap(), (low..1_000).collect::<Vec<_>>());
        last_low = low;
    }
    assert!(last_low > 0, "nothing was trimmed");
}

#[tokio::test]
async fn dead_letters_survive_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let clock = ManualClock::at(0);
    let strange = LogRecord {
        offset: 7,
        time: Timestamp(-1),
        key: vec![255],
        value: b"not json".into(),
        mac: None,
    };
    let log = timed(folder.path(), &clock);
    log.dead_letter(1, &strange, "malformed").await.unwrap();
    log.dead_letter(1, &strange, "malformed").await.unwrap();
    drop(log);
    let log = timed(folder.path(), &clock);
    let expected = DeadLetter { record: strange, reason: "malformed".to_owned() };
    assert_eq!(log.dead_letters(1, 0).await.unwrap(), std::slice::from_ref(&expected));
    assert_eq!(log.dead_letters(1, 7).await.unwrap(), [expected]);
    assert_eq!(log.dead_letters(1, 8).await.unwrap(), []);
    assert_eq!(log.dead_letters(0, 0).await.unwrap(), []);
}

#[tokio::test]
async fn a_closed_log_is_read_to_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let log = timed(folder.path(), &ManualClock::at(0));
    append(&log, 3).await;
    let mut reader = log.open(0, 0).await.unwrap();
    let mut waiting = log.open(0, 3).await.unwrap();
    let (read, ()) = tokio::join!(waiting.read(1), log.database.close());
    assert!(matches!(read, Err(ReadError::Closed)), "{read:?}");
    assert_eq!(reader.read(10).await.unwrap().len(), 3);
    assert!(matches!(reader.read(10).await, Err(ReadError::Closed)));
    let refused = log.append(0, record(0)).await;
    assert!(matches!(refused, Err(AppendError::Overloaded(_))), "{refused:?}");
    log.dead_letter(
        0,
        &LogRecord { offset: 0, time: Timestamp(0), key: vec![], value: vec![], mac: None },
        "late",
    )
    .await
    .unwrap_err();
    log.database.close().await;
}

#[tokio::test]
async fn members_that_left_are_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let log = timed(folder.path(), &ManualClock::at(0));
    for _ in 0..5 {
        let mut news = log.join().await.unwrap();
        assert_eq!(news.recv().await, Some(Ownership::Assigned(0)));
        assert_eq!(news.recv().await, Some(Ownership::Assigned(1)));
    }
    assert_eq!(log.members.lock().len(), 1);
}

#[tokio::test]
async fn records_of_holds_expire_while_space_is_short() {
    let folder = tempfile::tempdir().unwrap();
    let clock = ManualClock::at(0);
    let log = timed(folder.path(), &clock);
    append(&log, 10).await;
    clock.set(600);
    append(&log, 10).await;
    let below = async |log: &EmbeddedLog, now: i64| {
        let expiring = log.expiring(0, Timestamp(now)).await.unwrap();
        expiring.map(|expiring| (expiring.below, expiring.spares_waiting))
    };
    assert_eq!(below(&log, 100_000).await, None, "there is space");
    drop(log);
    let log = without_space(folder.path(), &clock);
    // A seventh of the retention of a second before its end.
    assert_eq!(below(&log, 857).await, Some((0, true)));
    assert_eq!(below(&log, 859).await, Some((10, true)));
    assert_eq!(below(&log, 1_457).await, Some((10, true)));
    assert_eq!(below(&log, 1_459).await, Some((20, true)));
}
