//! Measures the embedded log and store on this machine's disk.
//!
//! `cargo bench --bench embedded`, or with `--profile measure` while working. Prints medians of
//! three runs; compare within one run only.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use coupond::{
    clock::SystemClock,
    config::EmbeddedConfig,
    domain::{
        coupon::Coupon,
        ids::{CampaignId, Position, Timestamp, UserId},
        keys::Keys,
        rows::Row,
    },
    embedded::EmbeddedDatabase,
    log::{READ_RECORDS_MAX, RequestLog, embedded::EmbeddedLog},
    store::{CouponStore, Selection, embedded::EmbeddedStore},
    wire::NewRecord,
};
use futures_util::TryStreamExt;

const RUNS: usize = 3;
const APPENDERS: u64 = 256;
const APPEND_TIME: Duration = Duration::from_secs(3);
const COUPONS: u32 = 1_000_000;
const ROWS_PER_WRITE: u32 = 1_000;

fn open(folder: &Path) -> Arc<EmbeddedDatabase> {
    let config = EmbeddedConfig {
        dir: folder.join("data"),
        partitions: 4,
        retention: Duration::from_secs(3_600),
        reserve_bytes: 0,
    };
    EmbeddedDatabase::open(&config, Arc::new(SystemClock)).expect("the database opens")
}

fn campaign() -> CampaignId {
    CampaignId::parse("bench").expect("a valid id")
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// Returns appends per second in a closed loop, in which each appender waits until its record is
/// durable, with a live reader.
async fn appends(appenders: u64) -> f64 {
    let folder = tempfile::tempdir().expect("a folder");
    let log = Arc::new(EmbeddedLog::new(open(folder.path()), Duration::from_secs(3_600)));
    let value = vec![b'x'; 110];
    let started = Instant::now();
    let mut reader = log.open(0, 0).await.expect("a reader");
    let following = tokio::spawn(async move {
        let mut seen = 0;
        while let Ok(records) = reader.read(READ_RECORDS_MAX).await {
            seen += records.len() as u64;
        }
        seen
    });
    let tasks: Vec<_> = (0..appenders)
        .map(|_| {
            let (log, value) = (log.clone(), value.clone());
            tokio::spawn(async move {
                let mut count = 0;
                while started.elapsed() < APPEND_TIME {
                    let record = NewRecord {
                        campaign: campaign(),
                        value: value.clone(),
                        mac: vec![b'm'; 34],
                    };
                    log.append(0, record).await.expect("a record is appended");
                    count += 1;
                }
                count
            })
        })
        .collect();
    let mut total = 0_u64;
    for task in tasks {
        total += task.await.expect("an appender ends");
    }
    let rate = total as f64 / started.elapsed().as_secs_f64();
    drop(log);
    let seen = following.await.expect("the reader ends");
    assert_eq!(seen, total);
    rate
}

fn coupon(keys: &Keys, sequence: u32) -> Coupon {
    let offset = u64::from(sequence);
    let mut coupon = Coupon {
        campaign: campaign(),
        sequence,
        user: UserId::parse(&format!(
            "user-{:032x}",
            u64::from(sequence).wrapping_mul(0x9E37_79B9_7F4A_7C15)
        ))
        .expect("a valid id"),
        code: format!("{sequence:026}").into(),
        issued_at: Timestamp(1_760_000_000_000),
        position: Position { log_epoch: 1, partition: 0, offset },
        key_digest: None,
        user_bucket: u8::try_from(sequence % 10).expect("below 10"),
        rules_version: 1,
        digest: [0; 16],
    };
    coupon.digest = keys.coupon_digest(&coupon);
    coupon
}

/// Writes a million coupons, each with its record in the log. Returns rows per second.
async fn fill(folder: &Path, keys: &Keys) -> f64 {
    let database = open(folder);
    let log = EmbeddedLog::new(database.clone(), Duration::from_secs(3_600));
    let store = EmbeddedStore::new(database);
    let mut written = Duration::ZERO;
    for start in (1..=COUPONS).step_by(ROWS_PER_WRITE as usize) {
        let rows: Vec<_> = (start..start + ROWS_PER_WRITE)
            .map(|sequence| Row::Coupon(coupon(keys, sequence)))
            .collect();
        let appends = (0..ROWS_PER_WRITE).map(|_| {
            let value = vec![b'x'; 110];
            log.append(0, NewRecord { campaign: campaign(), value, mac: vec![b'm'; 34] })
        });
        futures_util::future::try_join_all(appends).await.expect("records are appended");
        let started = Instant::now();
        store.write(&rows).await.expect("rows are written");
        written += started.elapsed();
    }
    f64::from(COUPONS) / written.as_secs_f64()
}

/// Opens the database and loads all coupons, checking their digests. Returns the seconds of each.
async fn load(folder: &Path, keys: &Keys) -> (f64, f64) {
    let started = Instant::now();
    let store = EmbeddedStore::new(open(folder));
    let opened = started.elapsed();
    let mut pages = store.coupons(&campaign(), Selection::All);
    let mut count = 0;
    while let Some(coupons) = pages.try_next().await.expect("pages are read") {
        for coupon in &coupons {
            count += 1;
            assert_eq!((coupon.sequence, coupon.digest), (count, keys.coupon_digest(coupon)));
        }
    }
    assert_eq!(count, COUPONS);
    (opened.as_secs_f64(), (started.elapsed() - opened).as_secs_f64())
}

/// Reads the whole log, as a replay does. Returns records per second.
async fn replay(folder: &Path) -> f64 {
    let log = EmbeddedLog::new(open(folder), Duration::from_secs(3_600));
    let high = log.bounds(0).await.expect("bounds").high;
    let mut reader = log.open(0, 0).await.expect("a reader");
    let (started, mut seen) = (Instant::now(), 0);
    while seen < high {
        seen += reader.read(READ_RECORDS_MAX).await.expect("records are read").len() as u64;
    }
    seen as f64 / started.elapsed().as_secs_f64()
}

fn rss_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kib.unwrap_or(0.0) / 1_024.0
}

#[tokio::main]
async fn main() {
    for appenders in [1, 64, APPENDERS] {
        let mut rates = Vec::new();
        for _ in 0..RUNS {
            rates.push(appends(appenders).await);
        }
        println!("appends, {appenders} at once: {:.0}/s {rates:.0?}", median(rates.clone()));
    }
    let keys = Keys::derive(b"a secret of thirty-two bytes or more");
    let folder = tempfile::tempdir().expect("a folder");
    println!("1 M coupons written, 1,000 a call: {:.0}/s", fill(folder.path(), &keys).await);
    println!("resident after that: {:.0} MiB", rss_mib());
    let (mut opens, mut loads, mut replays) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let (open, load) = load(folder.path(), &keys).await;
        opens.push(open);
        loads.push(load);
        replays.push(replay(folder.path()).await);
    }
    println!("open: {:.2} s {opens:.2?}", median(opens.clone()));
    println!("1 M coupons loaded and checked: {:.2} s {loads:.2?}", median(loads.clone()));
    println!("1 M records replayed: {:.0}/s {replays:.0?}", median(replays.clone()));
    println!("resident at the end: {:.0} MiB", rss_mib());
}
