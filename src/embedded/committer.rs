//! The committer: the only thread that writes to the database.
//!
//! It takes all queued operations, commits them as one group with at most one fsync, publishes the
//! new records to readers and sends the replies. Under load a group holds hundreds of appends, which
//! share the fsync.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use fjall::{Database, Keyspace, PersistMode, UserKey, UserValue};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use super::{
    block::pack,
    files::Files,
    high_water::{HighWaterFile, HighWaterMark},
    hooks::Hooks,
    keys,
    opened::{Changed, OpenedStorage},
    operation::{DataEntry, Operation, RANK_BYTES, SubmitError, TIME_BYTES},
    record_clock::RecordClock,
    space::Space,
    tail::Tail,
};
use crate::{
    clock::SharedClock,
    domain::ids::{Offset, Partition, Timestamp},
};

/// Most operations in one group: as many as arrive during one fsync under the heaviest load
/// measured, and few enough that writing them takes no longer than a few fsyncs.
const GROUP_OPERATIONS_MAX: usize = 1_024;

/// Entries after which a group is committed. One operation may bring thousands of rows, and appends
/// should wait for no more than about 10 ms of row writes.
const GROUP_ENTRIES_MAX: usize = 8_192;

/// A failure after which the process must end.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("writing to the embedded database: it is unknown what is on disk")]
    Commit(#[source] fjall::Error),
    #[error("fsync of the embedded database: it is unknown what is on disk")]
    Sync(#[source] io::Error),
    #[error("reading a register of the embedded database")]
    Read(#[source] fjall::Error),
    #[error("writing the high-water file of the embedded database")]
    HighWater(#[source] io::Error),
    #[error("the storage of the embedded database is not the one that was opened")]
    Storage(#[source] Changed),
    #[error("the committer of the embedded database panicked")]
    Panicked,
}

/// The end of one partition, as the committer tracks it.
pub(super) struct WritePosition {
    /// Offset of the next record.
    pub(super) next: Offset,
    pub(super) tail: Arc<Tail>,
}

/// The state of the committer's thread.
pub(super) struct Committer {
    pub(super) database: Database,
    pub(super) log: Keyspace,
    pub(super) data: Keyspace,
    pub(super) partitions: Vec<WritePosition>,
    pub(super) high_water: HighWaterFile,
    /// Time of the latest record that is on disk.
    pub(super) written_at: Option<Timestamp>,
    pub(super) clock: SharedClock,
    pub(super) record_clock: Arc<RecordClock>,
    /// Also checked by a thread of its own, when nothing is written.
    pub(super) storage: Arc<Mutex<OpenedStorage>>,
    pub(super) hooks: Hooks,
    pub(super) space: Space,
    pub(super) files: Files,
    /// Runs the replies; without a runtime they run on the committer's thread.
    pub(super) runtime: Option<tokio::runtime::Handle>,
    pub(super) queue: mpsc::Receiver<Operation>,
}

/// Sends one reply, after its group was committed.
type Reply = Box<dyn FnOnce() + Send>;

/// Operations that are committed together.
#[derive(Default)]
struct Group {
    /// Entries in order; `None` where a later entry of the same key replaced one.
    data: Vec<Option<(UserKey, UserValue)>>,
    /// Index in `data` of each key. All entries of a batch get one sequence number, so of two values
    /// of one key the database could keep either.
    latest: HashMap<UserKey, usize>,
    /// Consecutive records of each partition, with the offset of the first.
    records: BTreeMap<Partition, (Offset, Vec<UserValue>)>,
    records_count: usize,
    /// Time of its latest record.
    written_at: Option<Timestamp>,
    trimmed: Vec<Trimmed>,
    durable: bool,
    replies: Vec<Reply>,
}

struct Trimmed {
    partition: Partition,
    blocks: Vec<Offset>,
    below: Offset,
}

impl Group {
    fn put(&mut self, key: impl Into<UserKey>, value: impl Into<UserValue>) {
        let key = key.into();
        let index = self.data.len();
        if let Some(earlier) = self.latest.insert(key.clone(), index) {
            self.data[earlier] = None;
        }
        self.data.push(Some((key, value.into())));
    }

    /// Returns the value that this group will write under `key`.
    fn pending(&self, key: &[u8]) -> Option<&UserValue> {
        let index = self.latest.get(key)?;
        self.data[*index].as_ref().map(|(_, value)| value)
    }

    fn is_full(&self) -> bool {
        let removed: usize = self.trimmed.iter().map(|trimmed| trimmed.blocks.len()).sum();
        self.data.len() + self.records_count + removed >= GROUP_ENTRIES_MAX
    }
}

impl Committer {
    /// Runs until the queue is closed and empty. Any failure ends the process: an operation whose
    /// outcome is unknown can neither be confirmed nor dropped.
    pub(super) fn run(mut self) {
        let outcome = catch_unwind(AssertUnwindSafe(|| self.commit_all()));
        // Also after a panic: nothing is appended any more, so a reader at the end must not wait.
        self.queue.close();
        for partition in &self.partitions {
            partition.tail.close();
        }
        let failure = match outcome {
            Ok(Ok(())) => return,
            Ok(Err(failure)) => failure,
            Err(_) => Failure::Panicked,
        };
        (self.hooks.fatal)(&failure);
    }

    fn commit_all(&mut self) -> Result<(), Failure> {
        let mut operations = Vec::with_capacity(GROUP_OPERATIONS_MAX);
        let mut closing = Vec::new();
        while self.queue.blocking_recv_many(&mut operations, GROUP_OPERATIONS_MAX) > 0 {
            let mut group = Group::default();
            for operation in operations.drain(..) {
                if let Operation::Close { reply } = operation {
                    // Operations that are queued already are still received and written.
                    self.queue.close();
                    closing.push(reply);
                    continue;
                }
                self.add(&mut group, operation)?;
                if group.is_full() {
                    self.commit(std::mem::take(&mut group))?;
                }
            }
            self.commit(group)?;
        }
        self.database.persist(PersistMode::SyncAll).map_err(Failure::Commit)?;
        self.high_water.sync().map_err(Failure::HighWater)?;
        tracing::debug!("embedded database closed, everything is on disk");
        for reply in closing {
            // An error means that the caller stopped waiting.
            let _ = reply.send(());
        }
        Ok(())
    }

    fn add(&mut self, group: &mut Group, operation: Operation) -> Result<(), Failure> {
        match operation {
            Operation::Append { partition, payload, reply } => {
                self.append(group, partition, payload, reply);
            }
            Operation::Write { entries, durable, reply } => {
                for entry in entries {
                    self.enter(group, entry)?;
                }
                group.durable |= durable;
                group.replies.push(reply_with(reply, ()));
            }
            Operation::Rows { entries, room } => {
                for entry in entries {
                    self.enter(group, entry)?;
                }
                group.replies.push(Box::new(move || drop(room)));
            }
            Operation::Create { key, value, reply } => {
                let found = self.current(group, &key)?;
                let value = found.unwrap_or_else(|| {
                    let value = UserValue::from(&value);
                    group.put(&key, value.clone());
                    value
                });
                group.durable = true;
                group.replies.push(reply_with(reply, value));
            }
            Operation::Trim { partition, blocks, below, reply } => {
                group.put(keys::trimmed(partition), below.to_be_bytes());
                // The journal is in order, so this fsync also covers the progress that allowed the
                // trim. Otherwise a power cut could keep the trim and lose that progress.
                group.durable = true;
                group.trimmed.push(Trimmed { partition, blocks, below });
                group.replies.push(reply_with(reply, ()));
            }
            Operation::Close { .. } => unreachable!("commit_all handles Close"),
        }
        Ok(())
    }

    fn append(
        &mut self,
        group: &mut Group,
        partition: Partition,
        mut payload: Vec<u8>,
        reply: oneshot::Sender<Result<(Offset, Timestamp), SubmitError>>,
    ) {
        let enough = self.space.is_enough(self.clock.instant());
        let Some(position) = self.partitions.get_mut(partition as usize) else {
            let _ = reply.send(Err(SubmitError::NoPartition));
            return;
        };
        if !enough {
            let _ = reply.send(Err(SubmitError::NoSpace));
            return;
        }
        let offset = position.next;
        // The clock may go back within bounds, and record times with it: the order is the log's.
        let time = match self.record_clock.look() {
            Ok(time) => time,
            Err(step) => {
                let _ = reply.send(Err(SubmitError::ClockStep(step)));
                return;
            }
        };
        position.next += 1;
        group.written_at = Some(time);
        payload[..TIME_BYTES].copy_from_slice(&time.0.to_be_bytes());
        let (_, records) = group.records.entry(partition).or_insert((offset, Vec::new()));
        records.push(UserValue::from(payload));
        group.records_count += 1;
        group.durable = true;
        group.replies.push(reply_with(reply, Ok((offset, time))));
    }

    fn enter(&self, group: &mut Group, entry: DataEntry) -> Result<(), Failure> {
        match entry {
            DataEntry::Put(key, value) => group.put(key, value),
            DataEntry::Raise(key, value) => {
                let found = self.current(group, &key)?;
                if found.is_none_or(|found| rank(&value) > rank(&found)) {
                    group.put(key, value);
                }
            }
        }
        Ok(())
    }

    /// Returns the value under `key` once `group` is committed.
    fn current(&self, group: &Group, key: &[u8]) -> Result<Option<UserValue>, Failure> {
        match group.pending(key) {
            Some(value) => Ok(Some(value.clone())),
            None => self.data.get(key).map_err(Failure::Read),
        }
    }

    fn commit(&mut self, group: Group) -> Result<(), Failure> {
        let Group { data, records, written_at, trimmed, durable, replies, .. } = group;
        // Rows alone need no fsync: they can be derived again from records that are on disk.
        let mode = if durable { PersistMode::SyncData } else { PersistMode::Buffer };
        let mut batch = self.database.batch().durability(Some(mode));
        let mut bytes = 0;
        for (partition, (first, records)) in &records {
            for (place, block) in pack(records) {
                bytes += block.len();
                let key = keys::record(*partition, first + place as Offset);
                batch.insert(&self.log, key, block);
            }
        }
        for Trimmed { partition, blocks, .. } in &trimmed {
            for first in blocks {
                batch.remove(&self.log, keys::record(*partition, *first));
            }
        }
        for (key, value) in data.into_iter().flatten() {
            bytes += key.len() + value.len();
            batch.insert(&self.data, key, value);
        }
        self.files.await_spare(bytes as u64);
        if durable {
            (self.hooks.before_sync)().map_err(Failure::Sync)?;
        }
        // The database skips an empty batch: nothing is synced, and no batch number is used.
        let synced = durable && !batch.is_empty();
        // The batch gets the current number or a higher one, if the database uses some for itself.
        let next_batch = self.database.seqno() + 1;
        batch.commit().map_err(Failure::Commit)?;
        if synced {
            // After the fsync, so that the file never claims more than is on disk; before the
            // replies, so that it covers every acknowledged record.
            let records = self.partitions.iter().map(|position| position.next).sum();
            self.written_at = written_at.or(self.written_at);
            let mark = HighWaterMark { next_batch, records, written_at: self.written_at };
            self.high_water.write(mark).map_err(Failure::HighWater)?;
        }
        // Before anyone learns of the group: it may lie in a file that has no name any more.
        self.storage.lock().check().map_err(Failure::Storage)?;
        self.space.wrote(bytes as u64);
        // Readers see a record only from here on. A decision from a record that a power cut takes
        // back could be contradicted by the record that then gets its offset.
        for (partition, (_, records)) in records {
            self.partitions[partition as usize].tail.publish(records);
        }
        for Trimmed { partition, below, .. } in trimmed {
            if let Some(position) = self.partitions.get(partition as usize) {
                position.tail.trimmed(below);
            }
        }
        self.send_replies(replies);
        Ok(())
    }

    /// Sends the replies of a group from a task of the runtime: waking a waiter from this thread
    /// costs a system call, and a group has hundreds of waiters.
    fn send_replies(&self, replies: Vec<Reply>) {
        match &self.runtime {
            Some(runtime) if replies.len() > 1 => {
                runtime.spawn(async move { replies.into_iter().for_each(|reply| reply()) });
            }
            _ => replies.into_iter().for_each(|reply| reply()),
        }
    }
}

fn reply_with<T: Send + 'static>(reply: oneshot::Sender<T>, value: T) -> Reply {
    // An error means that the caller stopped waiting. The operation took effect all the same.
    Box::new(move || drop(reply.send(value)))
}

fn rank(value: &[u8]) -> Option<u64> {
    keys::number(value.get(..RANK_BYTES)?)
}
