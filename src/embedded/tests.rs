//! The embedded database: groups, failures, space, reopening.

use std::{
    error::Error,
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    time::Duration,
};

use futures_util::FutureExt;
use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use super::{
    database::{BATCH_ENTRIES, ROW_ENTRIES_MAX},
    hooks::Hooks,
    testing::{ManualClock, config},
    *,
};
use crate::domain::ids::{CampaignId, Offset, Timestamp};

const PATIENCE: Duration = Duration::from_secs(60);

type Reply = oneshot::Receiver<Result<(Offset, Timestamp), SubmitError>>;

fn open(folder: &Path, hooks: Hooks) -> Arc<EmbeddedDatabase> {
    EmbeddedDatabase::open_with(&config(folder, 2), ManualClock::at(0), hooks).unwrap()
}

/// Returns hooks that send fatal failures to the receiver instead of ending the test.
fn hooks(
    before_sync: impl Fn() -> io::Result<()> + Send + Sync + 'static,
) -> (Hooks, Receiver<String>) {
    let (sender, failures): (Sender<String>, _) = channel();
    let fatal = move |failure: &(dyn Error + 'static)| {
        sender.send(crate::telemetry::Chain(failure).to_string()).unwrap();
    };
    let before_sync = Arc::new(before_sync);
    (Hooks { fatal: Arc::new(fatal), before_sync, ..Hooks::default() }, failures)
}

fn append(database: &EmbeddedDatabase, value: &[u8]) -> Result<Reply, SubmitError> {
    let (reply, answer) = oneshot::channel();
    let payload = [&[0; TIME_BYTES], value].concat();
    database.try_submit(Operation::Append { partition: 0, payload, reply })?;
    Ok(answer)
}

fn write(database: &EmbeddedDatabase, entries: Vec<DataEntry>) -> oneshot::Receiver<()> {
    let (reply, answer) = oneshot::channel();
    database.try_submit(Operation::Write { entries, durable: false, reply }).unwrap();
    answer
}

fn get(database: &EmbeddedDatabase, key: &[u8]) -> Option<Vec<u8>> {
    database.reads().data.get(key).unwrap().map(|value| value.to_vec())
}

/// Stops the committer at its next fsync until it is opened, so that a test decides which operations
/// form one group.
#[derive(Default)]
struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Default)]
struct GateState {
    shut: bool,
    waiting: bool,
}

impl Gate {
    fn shut(&self) {
        self.state.lock().shut = true;
    }

    fn open(&self) {
        self.state.lock().shut = false;
        self.changed.notify_all();
    }

    fn pass(&self) {
        let mut state = self.state.lock();
        while state.shut {
            state.waiting = true;
            self.changed.notify_all();
            self.changed.wait(&mut state);
        }
        state.waiting = false;
    }

    fn await_committer(&self) {
        let mut state = self.state.lock();
        let waited = self.changed.wait_while_for(&mut state, |state| !state.waiting, PATIENCE);
        assert!(!waited.timed_out(), "the committer did not reach the fsync");
    }
}

/// Opens a database whose committer is stopped before the fsync of one append.
fn held(folder: &Path) -> (Arc<EmbeddedDatabase>, Arc<Gate>, Reply) {
    let gate = Arc::new(Gate::default());
    let passing = gate.clone();
    let (hooks, _) = hooks(move || {
        passing.pass();
        Ok(())
    });
    let database = open(folder, hooks);
    gate.shut();
    let answer = append(&database, b"first").unwrap();
    gate.await_committer();
    (database, gate, answer)
}

#[test]
fn a_failed_fsync_ends_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let failing = Arc::new(AtomicBool::new(false));
    let fails = failing.clone();
    let (hooks, failures) = hooks(move || match fails.load(Ordering::SeqCst) {
        true => Err(io::Error::other("the disk is gone")),
        false => Ok(()),
    });
    let database = open(folder.path(), hooks);
    let first = append(&database, b"a").unwrap().blocking_recv().unwrap();
    assert_eq!(first, Ok((0, Timestamp(0))));
    failing.store(true, Ordering::SeqCst);
    let second = append(&database, b"b").unwrap().blocking_recv();
    assert!(second.is_err(), "an append that is not on disk was answered");
    let failure = failures.recv_timeout(PATIENCE).unwrap();
    assert!(failure.ends_with("it is unknown what is on disk: the disk is gone"), "{failure}");
    let end = database.reads().tails[0].end();
    assert_eq!(end, End { next: 1, closed: true }, "readers see only what is on disk");
    assert!(matches!(append(&database, b"c"), Err(SubmitError::Closed)));
    drop(database);
    assert!(failures.try_recv().is_err(), "the failure was reported twice");
}

#[test]
fn rows_become_durable_with_an_append() {
    let folder = tempfile::tempdir().unwrap();
    let syncs = Arc::new(AtomicU64::new(0));
    let counted = syncs.clone();
    let (hooks, _failures) = hooks(move || {
        counted.fetch_add(1, Ordering::SeqCst);
        Ok(())
    });
    let database = open(folder.path(), hooks);
    write(&database, vec![DataEntry::Put(b"k".into(), b"v".into())]).blocking_recv().unwrap();
    assert_eq!(syncs.load(Ordering::SeqCst), 0);
    append(&database, b"a").unwrap().blocking_recv().unwrap().unwrap();
    assert_eq!(syncs.load(Ordering::SeqCst), 1);
}

#[test]
fn a_panic_of_the_committer_is_fatal() {
    let folder = tempfile::tempdir().unwrap();
    let (hooks, failures) = hooks(|| panic!("a bug, as this test wants it"));
    let database = open(folder.path(), hooks);
    assert!(append(&database, b"a").unwrap().blocking_recv().is_err());
    let failure = failures.recv_timeout(PATIENCE).unwrap();
    assert_eq!(failure, "the committer of the embedded database panicked");
}

#[test]
fn queued_appends_share_one_fsync_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let (database, gate, first) = held(folder.path());
    let waiting: Vec<_> = (0..100).map(|_| append(&database, b"more").unwrap()).collect();
    assert_eq!(database.reads().tails[0].end().next, 0, "a record is visible before its fsync");
    gate.open();
    assert_eq!(first.blocking_recv().unwrap().unwrap().0, 0);
    for (answer, offset) in waiting.into_iter().zip(1..) {
        assert_eq!(answer.blocking_recv().unwrap().unwrap().0, offset);
    }
}

#[test]
fn entries_of_one_key_take_effect_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let (database, gate, _first) = held(folder.path());
    let put = |value: &[u8]| DataEntry::Put(b"row".into(), value.into());
    let raise = |rank, content: &[u8]| DataEntry::Raise(b"register".into(), ranked(rank, content));
    let answers = [
        write(&database, vec![put(b"1"), raise(5, b"five"), put(b"2")]),
        write(&database, vec![raise(7, b"seven"), raise(6, b"six"), raise(7, b"again")]),
        write(&database, vec![put(b"3")]),
    ];
    gate.open();
    for answer in answers {
        answer.blocking_recv().unwrap();
    }
    assert_eq!(get(&database, b"row"), Some(b"3".into()));
    assert_eq!(get(&database, b"register"), Some(ranked(7, b"seven")));
    write(&database, vec![raise(6, b"late")]).blocking_recv().unwrap();
    assert_eq!(get(&database, b"register"), Some(ranked(7, b"seven")));
}

#[test]
fn a_full_queue_refuses_appends_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let (database, gate, first) = held(folder.path());
    let mut waiting = Vec::new();
    let refused = loop {
        match append(&database, b"more") {
            Ok(answer) => waiting.push(answer),
            Err(refused) => break refused,
        }
        assert!(waiting.len() <= 20_000, "the queue is unbounded");
    };
    assert_eq!(refused, SubmitError::QueueFull);
    gate.open();
    first.blocking_recv().unwrap().unwrap();
    for answer in waiting {
        answer.blocking_recv().unwrap().unwrap();
    }
}

#[test]
fn below_the_reserve_only_appends_are_refused() {
    static FREE: AtomicU64 = AtomicU64::new(1_000);
    let folder = tempfile::tempdir().unwrap();
    let (hooks, _failures) = hooks(|| Ok(()));
    let hooks = Hooks { free_bytes: |_| Ok(FREE.load(Ordering::SeqCst)), ..hooks };
    let config = crate::config::EmbeddedConfig { reserve_bytes: 1_000, ..config(folder.path(), 1) };
    let clock = ManualClock::at(0);
    let database = EmbeddedDatabase::open_with(&config, clock.clone(), hooks).unwrap();
    let answer = || append(&database, b"a").unwrap().blocking_recv().unwrap();
    let lacking = database.refusal();
    assert_eq!((answer(), lacking()), (Ok((0, Timestamp(0))), None));
    FREE.store(999, Ordering::SeqCst);
    clock.set(1_000);
    assert_eq!(answer(), Err(SubmitError::NoSpace));
    let said = "low disk space: 999 bytes free, embedded.reserve_bytes is 1000";
    assert_eq!(lacking().as_deref(), Some(said));
    write(&database, vec![DataEntry::Put(b"k".into(), b"v".into())]).blocking_recv().unwrap();
    assert_eq!(get(&database, b"k"), Some(b"v".into()));
    FREE.store(1_000, Ordering::SeqCst);
    assert_eq!(lacking(), None, "no append is needed to notice");
    clock.set(2_000);
    assert_eq!(answer(), Ok((1, Timestamp(2_000))));
}

#[tokio::test]
async fn row_writes_do_not_wait_but_reads_wait_for_them() {
    let folder = tempfile::tempdir().unwrap();
    let (database, gate, _first) = held(folder.path());
    let rows = vec![DataEntry::Put(b"k".into(), b"v".into())];
    // The committer is held, so waiting for it would never end.
    database.write_behind(None, rows).await.unwrap();
    assert_eq!(get(&database, b"k"), None);
    let mut written = std::pin::pin!(database.written());
    assert!(futures_util::poll!(written.as_mut()).is_pending());
    gate.open();
    written.await;
    assert_eq!(get(&database, b"k"), Some(b"v".into()));
}

#[tokio::test]
async fn rows_wait_for_room_in_the_queue() {
    let folder = tempfile::tempdir().unwrap();
    let (database, gate, _first) = held(folder.path());
    let many: Vec<_> = (0..ROW_ENTRIES_MAX + 1)
        .map(|at| DataEntry::Put(at.to_be_bytes().into(), vec![]))
        .collect();
    database.write_behind(None, many).await.unwrap();
    let one = vec![DataEntry::Put(b"k".into(), b"v".into())];
    let mut waiting = std::pin::pin!(database.write_behind(None, one));
    assert!(futures_util::poll!(waiting.as_mut()).is_pending());
    gate.open();
    waiting.await.unwrap();
    database.written().await;
    assert_eq!(get(&database, b"k"), Some(b"v".into()));
}

#[tokio::test]
async fn a_campaign_leaves_room_for_the_rows_of_others() {
    let folder = tempfile::tempdir().unwrap();
    let (database, gate, _first) = held(folder.path());
    let (hot, calm) = (CampaignId::parse("hot").unwrap(), CampaignId::parse("calm").unwrap());
    let batch = || {
        let keys = (0..BATCH_ENTRIES).map(usize::to_be_bytes);
        keys.map(|key| DataEntry::Put(key.into(), vec![])).collect::<Vec<_>>()
    };
    let mut queued = 0;
    while let Some(written) = database.write_behind(Some(&hot), batch()).now_or_never() {
        written.unwrap();
        queued += 1;
    }
    assert_eq!(queued, ROW_ENTRIES_MAX / BATCH_ENTRIES - 1, "alone it has nearly all");
    let mut hots = std::pin::pin!(database.write_behind(Some(&hot), batch()));
    assert!(futures_util::poll!(hots.as_mut()).is_pending());
    let written = database.write_behind(Some(&calm), batch()).now_or_never();
    written.expect("it waits for nobody").unwrap();
    gate.open();
    hots.await.unwrap();
}

#[test]
fn dropping_the_database_writes_queued_operations() {
    let folder = tempfile::tempdir().unwrap();
    let (database, gate, first) = held(folder.path());
    let waiting: Vec<_> = (0..10).map(|_| append(&database, b"more").unwrap()).collect();
    let dropping = std::thread::spawn(move || drop(database));
    gate.open();
    dropping.join().unwrap();
    first.blocking_recv().unwrap().unwrap();
    for answer in waiting {
        answer.blocking_recv().unwrap().unwrap();
    }
    let database = open(folder.path(), Hooks::default());
    assert_eq!(database.reads().tails[0].end().next, 11);
}

#[test]
fn a_folder_in_use_is_refused_until_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let database = open(folder.path(), Hooks::default());
    let again = || {
        EmbeddedDatabase::open_with(&config(folder.path(), 2), ManualClock::at(0), Hooks::default())
    };
    let error = again().unwrap_err();
    assert!(matches!(error, OpenError::Folder(FolderError::InUse { .. })), "{error}");
    drop(database);
    again().unwrap();
}

#[tokio::test]
async fn a_folder_is_released_by_its_last_reader() {
    let folder = tempfile::tempdir().unwrap();
    let database = open(folder.path(), Hooks::default());
    let reader = database.reads().clone();
    let mut released = Box::pin(database.released());
    database.close().await;
    drop(database);
    assert!(released.as_mut().now_or_never().is_none());
    drop(reader);
    released.await;
    let clock = ManualClock::at(0);
    EmbeddedDatabase::open_with(&config(folder.path(), 2), clock, Hooks::default()).unwrap();
}

#[test]
fn a_damaged_last_record_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let database = open(folder.path(), Hooks::default());
    database.reads().log.insert(keys::record(1, 5), b"short").unwrap();
    drop(database);
    let hooks = Hooks::default();
    let error = EmbeddedDatabase::open_with(&config(folder.path(), 2), ManualClock::at(0), hooks)
        .unwrap_err();
    assert!(error.to_string().contains("partition 1: its last records cannot be read"), "{error}");
}

#[test]
fn nothing_is_told_from_a_folder_that_is_gone() {
    let parent = tempfile::tempdir().unwrap();
    let (hooks, failures) = hooks(|| Ok(()));
    let database = open(parent.path(), hooks);
    append(&database, b"kept").unwrap().blocking_recv().unwrap().unwrap();
    std::fs::remove_dir_all(parent.path().join("data")).unwrap();
    let answer = append(&database, b"lost").map(Reply::blocking_recv);
    assert!(!matches!(answer, Ok(Ok(Ok(_)))), "{answer:?}");
    let failure = failures.recv_timeout(PATIENCE).unwrap();
    assert!(failure.contains("was removed, unmounted or replaced"), "{failure}");
}

#[test]
fn a_folder_that_goes_while_nothing_is_written_is_noticed() {
    let parent = tempfile::tempdir().unwrap();
    let (hooks, failures) = hooks(|| Ok(()));
    let _database = open(parent.path(), hooks);
    let folder = parent.path().join("data");
    std::fs::rename(&folder, parent.path().join("elsewhere")).unwrap();
    let failure = failures.recv_timeout(PATIENCE).unwrap();
    assert!(failure.contains("data was removed, unmounted or replaced"), "{failure}");
}
