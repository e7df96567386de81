//! Data folders after a crash, after disk damage, or with files removed.

use std::path::{Path, PathBuf};

use tokio::sync::oneshot;

use crate::{
    embedded::{
        DataEntry, EmbeddedDatabase, OpenError, Operation, TIME_BYTES, high_water, testing,
        testing::config,
    },
    wire::FORMAT,
};

fn append(database: &EmbeddedDatabase, value: &[u8]) {
    let (reply, answer) = oneshot::channel();
    let payload = [&[0; TIME_BYTES], value].concat();
    database.try_submit(Operation::Append { partition: 0, payload, reply }).unwrap();
    answer.blocking_recv().unwrap().unwrap();
}

fn write(database: &EmbeddedDatabase, key: &[u8]) {
    let (reply, answer) = oneshot::channel();
    let entries = vec![DataEntry::Put(key.into(), vec![9; 2_000])];
    database.try_submit(Operation::Write { entries, durable: false, reply }).unwrap();
    answer.blocking_recv().unwrap();
}

fn records(database: &EmbeddedDatabase) -> u64 {
    database.reads().tails[0].end().next
}

fn refused(folder: &Path) -> String {
    let clock = std::sync::Arc::new(crate::clock::SystemClock);
    match EmbeddedDatabase::open(&config(folder, 1), clock) {
        Err(error @ OpenError::Damaged { .. }) => error.to_string(),
        Err(error) => panic!("refused for another reason: {error}"),
        Ok(database) => panic!("opened with {} records", records(&database)),
    }
}

fn database(folder: &Path) -> PathBuf {
    folder.join("data/database")
}

/// Returns path and content of the first journal, and how many bytes of it are used.
fn journal(folder: &Path) -> (PathBuf, Vec<u8>, usize) {
    let path = database(folder).join("0.jnl");
    let bytes = std::fs::read(&path).unwrap();
    let written = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    (path, bytes, written)
}

/// Returns a folder with five records.
fn folder_of_five() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let database = testing::open(folder.path(), 1);
    (0..5_u8).for_each(|number| append(&database, &[number; 300]));
    folder
}

#[test]
fn a_log_that_lost_its_end_is_refused_untouched() {
    let folder = folder_of_five();
    let (path, mut bytes, written) = journal(folder.path());
    for spoilt in [0, written / 2, written - 400, written - 1] {
        bytes[spoilt] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        let said = refused(folder.path());
        assert!(said.contains("or, to go on without the lost records, remove"), "{said}");
        assert!(std::fs::read(&path).unwrap() == bytes, "the journal was changed");
        bytes[spoilt] ^= 1;
    }
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(records(&testing::open(folder.path(), 1)), 5);
}

#[test]
fn without_the_high_water_file_the_rest_is_used() {
    let folder = folder_of_five();
    let (path, mut bytes, written) = journal(folder.path());
    bytes[written - 400] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    refused(folder.path());
    std::fs::remove_file(high_water::path(&folder.path().join("data"))).unwrap();
    let database = testing::open(folder.path(), 1);
    let left = records(&database);
    assert!((1..5).contains(&left), "{left} records are left");
    append(&database, b"more");
    drop(database);
    assert_eq!(records(&testing::open(folder.path(), 1)), left + 1);
}

#[test]
fn a_torn_value_is_dropped() {
    let folder = folder_of_five();
    let database = testing::open(folder.path(), 1);
    append(&database, b"the last one that is on disk");
    drop(database);
    let (path, before, _) = journal(folder.path());
    let database = testing::open(folder.path(), 1);
    write(&database, b"torn");
    drop(database);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[before.len() + 600..before.len() + 1_112].fill(0);
    std::fs::write(&path, &bytes).unwrap();
    let database = testing::open(folder.path(), 1);
    assert_eq!(records(&database), 6);
    assert!(database.reads().data.get(b"torn").unwrap().is_none());
}

#[test]
fn a_damaged_high_water_file_is_refused() {
    let folder = folder_of_five();
    std::fs::write(high_water::path(&folder.path().join("data")), b"").unwrap();
    let said = refused(folder.path());
    assert!(said.contains("its high-water file is damaged"), "{said}");
}

#[test]
fn a_missing_database_is_refused() {
    let folder = folder_of_five();
    std::fs::remove_dir_all(database(folder.path())).unwrap();
    refused(folder.path());
    assert!(!database(folder.path()).exists());
}

#[test]
fn a_missing_journal_is_refused() {
    let folder = folder_of_five();
    std::fs::remove_file(database(folder.path()).join("0.jnl")).unwrap();
    refused(folder.path());
}

#[test]
fn a_keyspace_without_manifest_is_refused() {
    let folder = folder_of_five();
    let keyspace = database(folder.path()).join("keyspaces/1");
    std::fs::remove_file(keyspace.join("current")).unwrap();
    let said = refused(folder.path());
    assert!(said.contains("keyspaces/1/current is missing"), "{said}");
    assert!(keyspace.exists());
}

#[test]
fn an_interrupted_creation_is_repeated() {
    let folder = tempfile::tempdir().unwrap();
    let database = database(folder.path());
    std::fs::create_dir_all(database.join("keyspaces")).unwrap();
    std::fs::write(database.join("0.jnl"), [0; 100]).unwrap();
    std::fs::write(database.join("version"), b"FJ").unwrap();
    let format = format!("format = {FORMAT}\n");
    std::fs::write(folder.path().join("data/format"), format).unwrap();
    let database = testing::open(folder.path(), 1);
    append(&database, b"first");
    drop(database);
    assert_eq!(records(&testing::open(folder.path(), 1)), 1);
}

#[test]
fn a_folder_without_high_water_gets_one() {
    let folder = folder_of_five();
    let high_water = high_water::path(&folder.path().join("data"));
    std::fs::remove_file(&high_water).unwrap();
    assert_eq!(records(&testing::open(folder.path(), 1)), 5);
    assert!(high_water.exists());
    std::fs::remove_file(database(folder.path()).join("0.jnl")).unwrap();
    refused(folder.path());
}
