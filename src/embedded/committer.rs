//! The one thread that writes: takes what is queued, makes one group of it, commits, answers.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use fjall::{Database, Keyspace, PersistMode, UserKey, UserValue};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tracing::debug;

use super::{
    block::pack,
    database::Hooks,
    high_water::{Durable, HighWater},
    keys,
    space::Space,
    tail::Tail,
};
use crate::{
    clock::SharedClock,
    domain::ids::{Offset, Partition, Timestamp},
};

/// Operations in one group: as many as arrive during an fsync under the heaviest load measured,
/// and few enough that a group never takes longer than a few fsyncs.
const GROUP_OPERATIONS_MAX: usize = 1_024;

/// Entries in one group: one write may bring thousands of rows, and appends should not wait for
/// more than about 10 ms of them.
const GROUP_ENTRIES_MAX: usize = 8_192;

/// Bytes that the committer fills in at the front of an append's payload: the record time.
pub(crate) const TIME_BYTES: usize = 8;

/// Bytes of the rank at the front of a register's value.
pub(crate) const RANK_BYTES: usize = 8;

/// One thing to be written.
pub(crate) enum Operation {
    /// Append a record; answered when it is on disk.
    Append {
        /// To which partition.
        partition: Partition,
        /// The record, behind [`TIME_BYTES`] that are filled in here.
        payload: Vec<u8>,
        /// Where and when it stands.
        reply: oneshot::Sender<Result<(Offset, Timestamp), Refused>>,
    },
    /// Write entries to `data`, in order and at once.
    Write {
        /// What to write.
        entries: Vec<Entry>,
        /// Whether to answer only when they are on disk.
        durable: bool,
        /// Told when it is done.
        reply: oneshot::Sender<()>,
    },
    /// Write rows to `data`, in order and at once, for which nobody waits.
    Rows {
        /// What to write.
        entries: Vec<Entry>,
        /// Room in memory, given back when they are written.
        room: OwnedSemaphorePermit,
    },
    /// Write to `data` what is not there yet; on disk when answered.
    Create {
        /// Under which key.
        key: Vec<u8>,
        /// What, if there is nothing.
        value: Vec<u8>,
        /// What is there now.
        reply: oneshot::Sender<UserValue>,
    },
    /// Remove blocks at the start of a partition; everything written before is on disk by then.
    Trim {
        /// Of which partition.
        partition: Partition,
        /// Which blocks, by the offset of their first record.
        blocks: Vec<Offset>,
        /// The first offset that stays.
        below: Offset,
        /// Told when it is done.
        reply: oneshot::Sender<()>,
    },
    /// Take nothing more, write what is queued, make everything durable and end.
    Close {
        /// Told when it is done.
        reply: oneshot::Sender<()>,
    },
}

/// One entry of `data`.
pub(crate) enum Entry {
    /// A row.
    Put(Vec<u8>, Vec<u8>),
    /// A max-register: takes effect if its rank, the value's first [`RANK_BYTES`], is higher than
    /// that of what is there.
    Raise(Vec<u8>, Vec<u8>),
}

/// The value of a register: its rank, then what it holds.
pub(crate) fn ranked(rank: u64, content: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(RANK_BYTES + content.len());
    value.extend_from_slice(&rank.to_be_bytes());
    value.extend_from_slice(content);
    value
}

/// Why an append was refused; it is not in the log and never will be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    /// Free space is below the reserve.
    #[error("free space of the data folder is below embedded.reserve_bytes")]
    NoSpace,
    /// There is no such partition.
    #[error("the log has no such partition")]
    NoPartition,
    /// The queue is full.
    #[error("too many writes are under way")]
    QueueFull,
    /// The database was closed.
    #[error("the log is closed")]
    Closed,
}

/// Why the process can't go on.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("writing to the embedded database: nobody can say what is on disk")]
    Commit(#[source] fjall::Error),
    #[error("making the embedded database durable: nobody can say what is on disk")]
    Sync(#[source] io::Error),
    #[error("reading a register of the embedded database")]
    Read(#[source] fjall::Error),
    #[error("writing the high-water file of the embedded database")]
    HighWater(#[source] io::Error),
    #[error("the committer of the embedded database panicked")]
    Panicked,
}

/// One partition as the committer knows it.
pub(super) struct WritePosition {
    /// Offset of the next record.
    pub(super) next: Offset,
    /// Time of the last one; no record is earlier.
    pub(super) time: Timestamp,
    /// What readers see.
    pub(super) tail: Arc<Tail>,
}

/// Owns every write to the database.
pub(super) struct Committer {
    pub(super) database: Database,
    pub(super) log: Keyspace,
    pub(super) data: Keyspace,
    pub(super) partitions: Vec<WritePosition>,
    pub(super) high_water: HighWater,
    pub(super) clock: SharedClock,
    pub(super) hooks: Hooks,
    pub(super) space: Space,
    /// Where those who wait for answers are woken; none: wherever they are.
    pub(super) runtime: Option<tokio::runtime::Handle>,
    pub(super) queue: mpsc::Receiver<Operation>,
}

/// Answers that wait for a group to be committed.
type Answer = Box<dyn FnOnce() + Send>;

/// What is committed together.
#[derive(Default)]
struct Group {
    /// In order; an entry that a later one replaced is none.
    data: Vec<Option<(UserKey, UserValue)>>,
    /// Where a key stands in `data`: two values of one key in one batch would have no order.
    latest: HashMap<UserKey, usize>,
    /// Consecutive records of each partition, and the offset of the first.
    records: BTreeMap<Partition, (Offset, Vec<UserValue>)>,
    records_count: usize,
    trimmed: Vec<Trimmed>,
    durable: bool,
    answers: Vec<Answer>,
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
    /// Runs until the queue is closed and empty. Ends the process on any failure: what is not
    /// known to be written can neither be answered nor forgotten.
    pub(super) fn run(mut self) {
        let outcome = catch_unwind(AssertUnwindSafe(|| self.commit_all()));
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
        debug!("embedded database is closed, everything is on disk");
        for reply in closing {
            // Whoever asked may have stopped waiting.
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
                group.answers.push(answer(reply, ()));
            }
            Operation::Rows { entries, room } => {
                for entry in entries {
                    self.enter(group, entry)?;
                }
                group.answers.push(Box::new(move || drop(room)));
            }
            Operation::Create { key, value, reply } => {
                let found = self.current(group, &key)?;
                let value = found.unwrap_or_else(|| {
                    let value = UserValue::from(&value);
                    group.put(&key, value.clone());
                    value
                });
                group.durable = true;
                group.answers.push(answer(reply, value));
            }
            Operation::Trim { partition, blocks, below, reply } => {
                group.put(keys::trimmed(partition), below.to_be_bytes());
                // The journal is in order: this fsync covers the progress that allows the trim.
                group.durable = true;
                group.trimmed.push(Trimmed { partition, blocks, below });
                group.answers.push(answer(reply, ()));
            }
            Operation::Close { .. } => unreachable!("closing is seen to by the loop"),
        }
        Ok(())
    }

    fn append(
        &mut self,
        group: &mut Group,
        partition: Partition,
        mut payload: Vec<u8>,
        reply: oneshot::Sender<Result<(Offset, Timestamp), Refused>>,
    ) {
        let enough = self.space.is_enough(self.clock.instant());
        let Some(position) = self.partitions.get_mut(partition as usize) else {
            let _ = reply.send(Err(Refused::NoPartition));
            return;
        };
        if !enough {
            let _ = reply.send(Err(Refused::NoSpace));
            return;
        }
        let (offset, time) = (position.next, self.clock.now().max(position.time));
        position.next += 1;
        position.time = time;
        payload[..TIME_BYTES].copy_from_slice(&time.0.to_be_bytes());
        let (_, records) = group.records.entry(partition).or_insert((offset, Vec::new()));
        records.push(UserValue::from(payload));
        group.records_count += 1;
        group.durable = true;
        group.answers.push(answer(reply, Ok((offset, time))));
    }

    fn enter(&self, group: &mut Group, entry: Entry) -> Result<(), Failure> {
        match entry {
            Entry::Put(key, value) => group.put(key, value),
            Entry::Raise(key, value) => {
                let found = self.current(group, &key)?;
                if found.is_none_or(|found| rank(&value) > rank(&found)) {
                    group.put(key, value);
                }
            }
        }
        Ok(())
    }

    fn current(&self, group: &Group, key: &[u8]) -> Result<Option<UserValue>, Failure> {
        match group.pending(key) {
            Some(value) => Ok(Some(value.clone())),
            None => self.data.get(key).map_err(Failure::Read),
        }
    }

    fn commit(&mut self, group: Group) -> Result<(), Failure> {
        let Group { data, records, trimmed, durable, answers, .. } = group;
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
        if durable {
            (self.hooks.before_sync)().map_err(Failure::Sync)?;
        }
        let witnessed = durable && !batch.is_empty();
        // The batch gets this number or, if the database took some for itself, a higher one.
        let next_batch = self.database.seqno() + 1;
        batch.commit().map_err(Failure::Commit)?;
        if witnessed {
            let records = self.partitions.iter().map(|position| position.next).sum();
            let durable = Durable { next_batch, records };
            self.high_water.write(durable).map_err(Failure::HighWater)?;
        }
        self.space.wrote(bytes as u64);
        for (partition, (_, records)) in records {
            self.partitions[partition as usize].tail.publish(records);
        }
        for Trimmed { partition, below, .. } in trimmed {
            if let Some(position) = self.partitions.get(partition as usize) {
                position.tail.trimmed(below);
            }
        }
        self.give(answers);
        Ok(())
    }

    /// Gives answers. Within the runtime where there is one: whoever is woken from outside of it
    /// costs a system call, and a group has some hundred.
    fn give(&self, answers: Vec<Answer>) {
        match &self.runtime {
            // It waits for nothing, so that it ends by itself.
            Some(runtime) if answers.len() > 1 => {
                runtime.spawn(async move { answers.into_iter().for_each(|answer| answer()) });
            }
            _ => answers.into_iter().for_each(|answer| answer()),
        }
    }
}

fn answer<T: Send + 'static>(reply: oneshot::Sender<T>, value: T) -> Answer {
    // Whoever asked may have stopped waiting; what was written stays.
    Box::new(move || drop(reply.send(value)))
}

fn rank(value: &[u8]) -> Option<u64> {
    keys::number(value.get(..RANK_BYTES)?)
}
