//! The embedded database after crashes: killed processes, journals cut as by a power cut, and
//! writes that the operating system refuses.

#![allow(clippy::unwrap_used, reason = "everything here is a test")]

use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use coupond::{
    clock::SystemClock,
    config::EmbeddedConfig,
    domain::{
        coupon::Coupon,
        ids::{CampaignId, Offset, Partition, Position, UserId},
        rows::{Progress, Row},
    },
    embedded::EmbeddedDatabase,
    log::{RequestLog, embedded::EmbeddedLog},
    store::{CouponStore, Selection, embedded::EmbeddedStore},
    wire::NewRecord,
};
use futures_util::TryStreamExt;

/// Environment variable that marks the child process, with its data folder.
const CHILD_FOLDER: &str = "COUPOND_TEST_CHILD_FOLDER";

const PARTITIONS: u32 = 2;

struct Node {
    log: EmbeddedLog,
    store: EmbeddedStore,
}

fn open(folder: &Path) -> Node {
    let config = EmbeddedConfig {
        dir: folder.to_owned(),
        partitions: PARTITIONS,
        retention: Duration::from_secs(3_600),
        reserve_bytes: 0,
    };
    let database = EmbeddedDatabase::open(&config, Arc::new(SystemClock)).unwrap();
    let log = EmbeddedLog::new(database.clone(), config.retention);
    Node { log, store: EmbeddedStore::new(database) }
}

fn campaign(partition: Partition) -> CampaignId {
    CampaignId::parse(&format!("crash-{partition}")).unwrap()
}

fn record(partition: Partition, number: u64) -> NewRecord {
    NewRecord {
        campaign: campaign(partition),
        value: format!("record {number} of its writer").into_bytes(),
        mac: b"mac".into(),
    }
}

/// Returns the coupon of the record at `offset`. Its sequence is `offset + 1`.
fn coupon(partition: Partition, offset: Offset) -> Coupon {
    Coupon {
        campaign: campaign(partition),
        sequence: u32::try_from(offset).unwrap() + 1,
        user: UserId::parse(&format!("user-{offset}")).unwrap(),
        code: "CODE".into(),
        issued_at: coupond::domain::ids::Timestamp(1),
        position: Position { log_epoch: 1, partition, offset },
        key_digest: None,
        user_bucket: 0,
        rules_version: 1,
        digest: [7; 16],
    }
}

fn progress(partition: Partition, next: Offset) -> Row {
    Row::Progress(Progress { partition, log_epoch: 1, next, last: None })
}

/// Reads the whole partition, and checks that its offsets have no gap.
async fn records(node: &Node, partition: Partition) -> Vec<Vec<u8>> {
    let high = node.log.bounds(partition).await.unwrap().high;
    let mut reader = node.log.open(partition, 0).await.unwrap();
    let mut values = Vec::new();
    while (values.len() as u64) < high {
        for record in reader.read(usize::MAX).await.unwrap() {
            assert_eq!(record.offset, values.len() as u64);
            values.push(record.value);
        }
    }
    values
}

/// Checks that progress covers only stored rows and existing records. Returns progress.
async fn check_rows_fit_the_log(node: &Node, partition: Partition) -> Offset {
    let end = records(node, partition).await.len() as u64;
    let progress = node.store.progress(partition).await.unwrap();
    let next = progress.map_or(0, |progress| progress.next);
    assert!(next <= end, "partition {partition} has progress {next} beyond its end {end}");
    let pages = node.store.coupons(&campaign(partition), Selection::All);
    let coupons: Vec<_> = pages.try_collect::<Vec<_>>().await.unwrap().concat();
    let dense = coupons.iter().zip(0..).all(|(found, offset)| *found == coupon(partition, offset));
    assert!(dense, "a coupon of partition {partition} is missing or changed");
    assert!(coupons.len() as u64 >= next, "{} coupons below progress {next}", coupons.len());
    assert!(coupons.len() as u64 <= end, "a coupon is above the end of the log");
    next
}

/// Runs a test of this file in a separate process on `folder`.
fn child(test: &str, folder: &Path, wrap: &[&str]) -> Child {
    let this = std::env::current_exe().unwrap();
    let mut words = wrap.iter().map(Into::into).chain([this.into_os_string()]);
    Command::new(words.next().unwrap())
        .args(words)
        .args(["--exact", test, "--nocapture"])
        .env(CHILD_FOLDER, folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn child_folder() -> Option<PathBuf> {
    std::env::var_os(CHILD_FOLDER).map(PathBuf::from)
}

/// Not a test: the work of the process that is killed. Many writers append and print each
/// acknowledged record. Another task stores coupons and progress, as an owner does.
#[tokio::test(flavor = "multi_thread")]
async fn child_that_writes_until_it_is_killed() {
    let Some(folder) = child_folder() else { return };
    let node = Arc::new(open(&folder));
    let mut writers = tokio::task::JoinSet::new();
    for partition in 0..PARTITIONS {
        for _ in 0..16 {
            let node = node.clone();
            writers.spawn(async move {
                for number in 0.. {
                    let record = record(partition, number);
                    let value = String::from_utf8(record.value.clone()).unwrap();
                    let appended = node.log.append(partition, record).await.unwrap();
                    let line = format!("acked\t{partition}\t{}\t{value}\n", appended.offset);
                    std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
                }
            });
        }
        let node = node.clone();
        writers.spawn(async move {
            let at = node.store.progress(partition).await.unwrap();
            let mut next = at.map_or(0, |progress| progress.next);
            let mut reader = node.log.open(partition, next).await.unwrap();
            loop {
                let records = reader.read(50).await.unwrap();
                let coupons = records.iter().map(|record| coupon(partition, record.offset));
                let rows: Vec<_> = coupons.map(Row::Coupon).collect();
                node.store.write(&rows).await.unwrap();
                next += records.len() as u64;
                node.store.write(&[progress(partition, next)]).await.unwrap();
            }
        });
    }
    while let Some(ended) = writers.join_next().await {
        ended.unwrap();
    }
}

/// Reads up to `count` acknowledged appends from the output of the child.
fn acknowledged(
    output: &mut BufReader<ChildStdout>,
    count: usize,
) -> Vec<(Partition, Offset, String)> {
    let mut acked = Vec::new();
    let mut line = String::new();
    while acked.len() < count {
        line.clear();
        if output.read_line(&mut line).unwrap() == 0 {
            break;
        }
        // The test harness prints text before the first line, without a line break.
        let Some(from) = line.find("acked\t") else { continue };
        // A kill may cut the last line.
        let Some(whole) = line[from..].strip_suffix('\n') else { continue };
        let fields: Vec<_> = whole.split('\t').collect();
        acked.push((fields[1].parse().unwrap(), fields[2].parse().unwrap(), fields[3].into()));
    }
    acked
}

#[tokio::test]
async fn a_killed_process_loses_no_acknowledged_record() {
    let folder = tempfile::tempdir().unwrap();
    let (mut acked, mut settled) = (Vec::new(), 0);
    for round in 0..5 {
        let mut child = child("child_that_writes_until_it_is_killed", folder.path(), &[]);
        let mut output = BufReader::new(child.stdout.take().unwrap());
        acked.extend(acknowledged(&mut output, 500 + 777 * round));
        child.kill().unwrap();
        child.wait().unwrap();
        acked.extend(acknowledged(&mut output, usize::MAX));
        let node = open(folder.path());
        for partition in 0..PARTITIONS {
            let records = records(&node, partition).await;
            let mine = acked.iter().filter(|(at, ..)| *at == partition);
            for (_, offset, value) in mine {
                let found = records.get(usize::try_from(*offset).unwrap());
                assert_eq!(found, Some(&value.clone().into_bytes()), "{partition}/{offset}");
            }
            settled += check_rows_fit_the_log(&node, partition).await;
        }
    }
    assert!(acked.len() >= 5 * 500, "{} records", acked.len());
    assert!(settled > 0, "no progress was stored, so the rows were not checked");
}

/// Returns the only journal of a new database, without the zeros at its end.
fn journal(folder: &Path) -> (PathBuf, Vec<u8>) {
    let entries = std::fs::read_dir(folder.join("database")).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let journals: Vec<_> =
        paths.filter(|path| path.extension().is_some_and(|end| end == "jnl")).collect();
    assert_eq!(journals.len(), 1, "{journals:?}");
    let bytes = std::fs::read(&journals[0]).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    (journals[0].clone(), bytes[..end].to_vec())
}

/// After a power cut the journal may end anywhere, and its last pages may be missing in any order.
#[tokio::test]
async fn rows_fit_the_log_after_a_cut_of_the_journal() {
    const PAGE: usize = 4_096;
    let folder = tempfile::tempdir().unwrap();
    let node = open(folder.path());
    let high_water = folder.path().join("high_water");
    // A power cut may leave an old high_water file, because no write waits until it is on disk.
    let early = std::fs::read(&high_water).unwrap();
    for step in 0..60_u64 {
        let appends = (0..10).map(|number| node.log.append(0, record(0, number)));
        futures_util::future::try_join_all(appends).await.unwrap();
        let rows: Vec<_> =
            (step * 10..step * 10 + 10).map(|offset| Row::Coupon(coupon(0, offset))).collect();
        node.store.write(&rows).await.unwrap();
        node.store.write(&[progress(0, step * 10 + 10)]).await.unwrap();
    }
    drop(node);
    let (path, whole) = journal(folder.path());
    let mut ends = std::collections::BTreeSet::new();
    for cut in (0..40).map(|part| whole.len() - part * whole.len() / 40 - part % 7) {
        for lost_page in [None, Some(cut.saturating_sub(2 * PAGE) / PAGE)] {
            let mut bytes = whole[..cut].to_vec();
            if let Some(page) = lost_page {
                let start = page * PAGE;
                bytes[start..cut.min(start + PAGE)].fill(0);
            }
            bytes.resize(whole.len() + PAGE, 0);
            std::fs::write(&path, &bytes).unwrap();
            std::fs::write(&high_water, &early).unwrap();
            let node = open(folder.path());
            let next = check_rows_fit_the_log(&node, 0).await;
            ends.insert(next);
            let high = node.log.bounds(0).await.unwrap().high;
            let appended = node.log.append(0, record(0, 0)).await.unwrap();
            assert_eq!(appended.offset, high, "the log goes on where it ended");
        }
    }
    assert!(ends.len() > 20, "the cuts gave only {ends:?}");
}

/// Not a test: the child process. Appends until a write fails, which must end the process.
#[tokio::test(flavor = "multi_thread")]
async fn child_that_writes_until_it_cannot() {
    let Some(folder) = child_folder() else { return };
    let node = open(&folder);
    for number in 0..20 {
        let appended = node.log.append(0, record(0, number)).await.unwrap();
        let line = format!("acked\t0\t{}\tshort\n", appended.offset);
        std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
    }
    // Seven of these records stay below the 64 MiB at which the database starts a new journal. One
    // more exceeds the limit of the file size, in any grouping.
    let appends = (0..20).map(|number| {
        let value = vec![b'x'; 9_000_000];
        node.log.append(0, NewRecord { value, ..record(0, number) })
    });
    let answers = futures_util::future::join_all(appends).await;
    panic!("the process goes on: {:?}", answers.last());
}

/// A limit of the file size makes a real write fail.
#[tokio::test]
async fn a_failed_write_exits_with_1() {
    let folder = tempfile::tempdir().unwrap();
    // 70 MB in blocks of 512 bytes. The journal is preallocated with 64 MiB.
    let limit = "trap '' XFSZ; ulimit -f 140000; exec \"$@\"";
    let wrap = ["sh", "-c", limit, "sh"];
    let mut child = child("child_that_writes_until_it_cannot", folder.path(), &wrap);
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let acked = acknowledged(&mut output, usize::MAX);
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert_eq!(acked.len(), 20);
    let node = open(folder.path());
    let high = node.log.bounds(0).await.unwrap().high;
    assert!(high >= acked.len() as u64, "{} were acknowledged, {high} are there", acked.len());
    node.log.append(0, record(0, 0)).await.unwrap();
}
