//! Opens and closes the database: inspects the folder, finds the ends of every partition, and runs
//! the committer.

use std::{path::Path, sync::Arc, thread::JoinHandle};

use fjall::{Database, Guard, Keyspace, KeyspaceCreateOptions, UserKey, UserValue};
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::sync::{mpsc, oneshot};

use super::{
    block::unpack,
    committer::{Committer, WritePosition},
    error::OpenError,
    files::{Files, has_spare},
    folder::{data_folder, locked},
    format,
    high_water::HighWaterFile,
    hooks::Hooks,
    inspect, keys,
    opened::OpenedStorage,
    operation::{DataEntry, Operation, SubmitError},
    reads::ReadHandle,
    record_clock::RecordClock,
    space::{Reserve, Space},
    tail::{RECENT_BYTES_MAX, Tail},
    watcher::Watcher,
};
use crate::{
    clock::SharedClock,
    config::EmbeddedConfig,
    domain::ids::{CampaignId, Offset, Partition},
    partition::flow::BATCH_RECORDS_MAX,
    shares::Shares,
};

/// The database's folder in the data folder. Secrets and the lock file lie beside it.
const DATABASE_FOLDER: &str = "database";

/// Most operations in the queue: every append that `admission.inflight_max` admits (10,000 by
/// default), and the writes of all actors.
const QUEUE_OPERATIONS_MAX: usize = 16_384;

/// Most row entries in the queue that no caller waits for: nearly two for each record that one partition
/// keeps in memory, about 6 MiB at 200 bytes each. As many as fit into 256 MiB with the longest ids.
///
/// While another campaign waits, none has more than a quarter of them; alone it leaves room for one
/// batch of another.
pub(super) const ROW_ENTRIES_MAX: usize = 28_672;

/// Row entries of one batch.
pub(super) const BATCH_ENTRIES: usize = 2 * BATCH_RECORDS_MAX;

/// Bytes of each keyspace that are kept in memory and in the journal before they are written to a
/// table.
const MEMTABLE_BYTES: u64 = 16 * 1_024 * 1_024;

/// Memtables in memory at once: of each of the two keyspaces one that is filled, and one that is being
/// written to a table.
pub(crate) const MEMTABLES: usize = 4;

/// The rows in the queue that no caller waits for. A coupon has two entries: its row of at most 660 bytes
/// with its key, with a user id of 255 and a code of 271, and its by-user key of at most 330; each is in two
/// buffers of up to 48 bytes of bookkeeping.
pub(crate) const QUEUED_ROWS_BYTES: usize = ROW_ENTRIES_MAX * 544;

/// Bytes of closed journals after which the database writes memtables to tables, so that journals
/// can be removed. Bounds what a start reads again. A journal is closed at 64 MB; two are kept.
const JOURNAL_BYTES_MAX: u64 = 128 * 1_024 * 1_024;

/// Bytes of table blocks cached in memory.
const CACHE_BYTES: u64 = 64 * 1_024 * 1_024;

/// Tables that the database keeps open.
pub(crate) const TABLE_FILES_MAX: usize = 256;

/// How much memory the database takes. The default is for machines where memory suffices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DatabaseMemory {
    /// Bytes of table blocks cached in memory.
    pub(crate) cache_bytes: u64,
    /// Bytes of each of the [`MEMTABLES`].
    pub(crate) memtable_bytes: u64,
    /// Bytes of the newest records of each partition.
    pub(crate) recent_bytes: usize,
}

impl Default for DatabaseMemory {
    fn default() -> Self {
        Self {
            cache_bytes: CACHE_BYTES,
            memtable_bytes: MEMTABLE_BYTES,
            recent_bytes: RECENT_BYTES_MAX,
        }
    }
}

/// The database of an embedded node: log and store in one folder.
///
/// Dropping it writes what is queued, makes everything durable and waits for the committer.
pub struct EmbeddedDatabase {
    reads: Arc<ReadHandle>,
    /// `None` only during drop.
    queue: Option<mpsc::Sender<Operation>>,
    /// A permit for each row entry that [`Self::write_behind`] may queue.
    room: Shares,
    reserve: Reserve,
    committer: Option<JoinHandle<()>>,
    _watcher: Watcher,
}

impl std::fmt::Debug for EmbeddedDatabase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmbeddedDatabase")
            .field("partitions", &self.reads.tails.len())
            .finish_non_exhaustive()
    }
}

impl EmbeddedDatabase {
    /// Opens or creates the database in `config.dir`, with `config.partitions` partitions.
    /// Reads the whole journal, which takes up to about a second after a crash.
    ///
    /// # Errors
    /// [`OpenError`]. If another process holds the folder: [`OpenError::Folder`].
    pub fn open(config: &EmbeddedConfig, clock: SharedClock) -> Result<Arc<Self>, OpenError> {
        Self::open_within(config, DatabaseMemory::default(), clock)
    }

    /// Like [`Self::open`], with so much memory.
    ///
    /// # Errors
    /// Like [`Self::open`].
    pub(crate) fn open_within(
        config: &EmbeddedConfig,
        memory: DatabaseMemory,
        clock: SharedClock,
    ) -> Result<Arc<Self>, OpenError> {
        Self::open_with(config, clock, Hooks { memory, ..Hooks::default() })
    }

    /// Like [`Self::open`], but calls `fatal` with a failure instead of ending the process.
    ///
    /// # Errors
    /// Like [`Self::open`].
    #[cfg(feature = "contract")]
    pub fn open_reporting(
        config: &EmbeddedConfig,
        clock: SharedClock,
        fatal: impl Fn(&(dyn std::error::Error + 'static)) + Send + Sync + 'static,
    ) -> Result<Arc<Self>, OpenError> {
        Self::open_with(config, clock, Hooks { fatal: Arc::new(fatal), ..Hooks::default() })
    }

    /// Writes the memtables to tables now, for tests of folders that have tables.
    ///
    /// # Errors
    /// An error of the database engine.
    #[cfg(feature = "contract")]
    pub fn write_tables(&self) -> Result<(), fjall::Error> {
        self.reads.log.rotate_memtable_and_wait()?;
        self.reads.data.rotate_memtable_and_wait()
    }

    pub(super) fn open_with(
        config: &EmbeddedConfig,
        clock: SharedClock,
        hooks: Hooks,
    ) -> Result<Arc<Self>, OpenError> {
        Self::check_format(&config.dir)?;
        data_folder(&config.dir)?;
        let lock = locked(&config.dir)?;
        format::establish(&config.dir)?;
        let path = config.dir.join(DATABASE_FOLDER);
        let inspecting = |source| OpenError::Inspect { path: path.clone(), source };
        // First: opening repairs the folder, and would repair damage that must be refused.
        let inspected = inspect::before_open(&config.dir, &path)?;
        let (database, log, data) = open_keyspaces(&path, hooks.memory)
            .map_err(|source| OpenError::Database { path: path.clone(), source })?;
        // Before the comparison with the high-water file, which counts the records of all
        // partitions: with fewer partitions, records would seem to be lost.
        check_partitions(config.partitions, &path, &data)?;
        let storage = OpenedStorage::note(&config.dir, &path).map_err(inspecting)?;
        let storage = Arc::new(Mutex::new(storage));
        let recent_bytes = hooks.memory.recent_bytes;
        let ends = PartitionEnds { path: &path, log: &log, data: &data, recent_bytes };
        let partitions = (0..config.partitions)
            .map(|partition| ends.find(partition))
            .collect::<Result<Vec<_>, _>>()?;
        let records = partitions.iter().map(|position| position.next).sum();
        let mark = inspected.after_open(&path, database.seqno(), records)?;
        let record_clock = Arc::new(RecordClock::new(clock.clone(), mark.written_at));
        let high_water = HighWaterFile::open(&config.dir, mark).map_err(inspecting)?;
        let (queue, receiver) = mpsc::channel(QUEUE_OPERATIONS_MAX);
        let reserve = Reserve {
            path: config.dir.clone(),
            bytes: config.reserve_bytes,
            free_bytes: hooks.free_bytes,
        };
        let has_spare = has_spare(&config.dir).map_err(inspecting)?;
        let committer = Committer {
            database,
            log: log.clone(),
            data: data.clone(),
            partitions,
            high_water,
            written_at: mark.written_at,
            clock: clock.clone(),
            record_clock: record_clock.clone(),
            storage: storage.clone(),
            space: Space::new(reserve.clone()),
            files: Files::new(has_spare),
            hooks,
            // An error means that the caller runs outside of a runtime, as some tests do.
            runtime: tokio::runtime::Handle::try_current().ok(),
            queue: receiver,
        };
        let tails = committer.partitions.iter().map(|position| position.tail.clone()).collect();
        let fatal = committer.hooks.fatal.clone();
        let watcher = Watcher::start(record_clock.clone(), storage, reserve.clone(), fatal)
            .map_err(OpenError::Thread)?;
        let space_short = watcher.space_short.clone();
        let committer = std::thread::Builder::new()
            .name("committer".to_owned())
            .spawn(move || committer.run())
            .map_err(OpenError::Thread)?;
        tracing::info!(
            dir = %config.dir.display(),
            partitions = config.partitions,
            "data folder opened"
        );
        let reads =
            Arc::new(ReadHandle { log, data, tails, clock, record_clock, space_short, lock });
        let room = Shares::new(ROW_ENTRIES_MAX, BATCH_ENTRIES);
        let committer = Some(committer);
        Ok(Arc::new(Self {
            reads,
            queue: Some(queue),
            room,
            reserve,
            committer,
            _watcher: watcher,
        }))
    }

    /// Refuses a data folder of another format. Changes nothing.
    ///
    /// # Errors
    /// [`OpenError::Format`], or [`OpenError::Damaged`] if the format file cannot be understood.
    pub fn check_format(dir: &Path) -> Result<(), OpenError> {
        format::check(dir)
    }

    /// Returns whether the data folder `dir` contains a database.
    #[must_use]
    pub fn is_in(dir: &Path) -> bool {
        dir.join(DATABASE_FOLDER).is_dir()
    }

    /// Returns a function that tells why appends are refused now, if they are: space is short, or
    /// the clock was set. It asks the disk. The function does not keep the database open.
    pub fn refusal(&self) -> impl Fn() -> Option<String> + Send + Sync + use<> {
        let (reserve, clock) = (self.reserve.clone(), self.reads.record_clock.clone());
        move || reserve.lacking().or_else(|| Some(clock.look().err()?.to_string()))
    }

    /// Waits until the database and all its readers are dropped, so that the data folder may be
    /// opened again. The future does not keep the database open.
    pub fn released(&self) -> impl Future<Output = ()> + Send + use<> {
        self.reads.lock.released()
    }

    pub(crate) fn reads(&self) -> &Arc<ReadHandle> {
        &self.reads
    }

    /// Queues an operation. If the queue is full, refuses it at once.
    pub(crate) fn try_submit(&self, operation: Operation) -> Result<(), SubmitError> {
        let queue = self.queue.as_ref().ok_or(SubmitError::Closed)?;
        queue.try_send(operation).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => SubmitError::QueueFull,
            mpsc::error::TrySendError::Closed(_) => SubmitError::Closed,
        })
    }

    /// Queues an operation, waiting for room in the queue, and waits for its reply.
    pub(crate) async fn submit<T>(
        &self,
        operation: impl FnOnce(oneshot::Sender<T>) -> Operation,
    ) -> Result<T, SubmitError> {
        let (reply, replied) = oneshot::channel();
        let queue = self.queue.as_ref().ok_or(SubmitError::Closed)?;
        queue.send(operation(reply)).await.map_err(|_| SubmitError::Closed)?;
        replied.await.map_err(|_| SubmitError::Closed)
    }

    /// Queues rows that can be derived again from the log, of one campaign or of the partition. Waits
    /// for room in the queue, not until they are written; [`Self::written`] does that.
    pub(crate) async fn write_behind(
        &self,
        of: Option<&CampaignId>,
        entries: Vec<DataEntry>,
    ) -> Result<(), SubmitError> {
        let queue = self.queue.as_ref().ok_or(SubmitError::Closed)?;
        let room = self.room.acquire(of, entries.len()).await;
        queue.send(Operation::Rows { entries, room }).await.map_err(|_| SubmitError::Closed)
    }

    /// Waits until all rows that were queued before this call can be read.
    pub(crate) async fn written(&self) {
        if self.room.is_unused() {
            // No rows are queued.
            return;
        }
        // The queue is in order: the reply to an empty write follows all rows queued before.
        let nothing = |reply| Operation::Write { entries: Vec::new(), durable: false, reply };
        // An error means that the database was closed, and closing writes everything.
        let _ = self.submit(nothing).await;
    }

    /// Closes the queue, writes everything in it and makes it durable. A reader then returns the
    /// records that are left, and after them that the log is closed.
    pub async fn close(&self) {
        // An error means that the database is closed already.
        let _ = self.submit(|reply| Operation::Close { reply }).await;
    }
}

impl Drop for EmbeddedDatabase {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(committer) = self.committer.take() {
            // The committer catches its own panics and reports them.
            let _ = committer.join();
        }
    }
}

/// Opens the database in `path`, with its keyspaces for the log and for all else.
fn open_keyspaces(
    path: &Path,
    memory: DatabaseMemory,
) -> Result<(Database, Keyspace, Keyspace), fjall::Error> {
    let database = Database::builder(path)
        .cache_size(memory.cache_bytes)
        .max_cached_files(Some(TABLE_FILES_MAX))
        .max_journaling_size(JOURNAL_BYTES_MAX)
        .open()?;
    let options = || KeyspaceCreateOptions::default().max_memtable_size(memory.memtable_bytes);
    let log = database.keyspace("log", options)?;
    let data = database.keyspace("data", options)?;
    Ok((database, log, data))
}

/// The part of the layout row that concerns the log.
#[derive(Deserialize)]
struct LogLayout {
    partitions: u32,
}

/// Refuses a number of partitions that differs from the layout's. A layout row that cannot be
/// decoded passes; the store refuses it.
fn check_partitions(configured: u32, path: &Path, data: &Keyspace) -> Result<(), OpenError> {
    let failed = |source| OpenError::Database { path: path.to_owned(), source };
    let row = data.get(keys::layout()).map_err(failed)?;
    // The first byte is the row's format.
    let layout = row.and_then(|row| serde_json::from_slice::<LogLayout>(row.get(1..)?).ok());
    match layout {
        Some(LogLayout { partitions: found }) if found != configured => {
            Err(OpenError::Partitions { configured, found })
        }
        _ => Ok(()),
    }
}

/// Finds the ends of partitions.
struct PartitionEnds<'a> {
    path: &'a Path,
    log: &'a Keyspace,
    data: &'a Keyspace,
    recent_bytes: usize,
}

impl PartitionEnds<'_> {
    /// Reads where `partition` starts and where it ends.
    fn find(&self, partition: Partition) -> Result<WritePosition, OpenError> {
        let failed = |source| OpenError::Database { path: self.path.to_owned(), source };
        let low = match self.data.get(keys::trimmed(partition)).map_err(failed)? {
            Some(bytes) => {
                keys::number(&bytes).ok_or_else(|| self.damaged(partition, "its trim mark"))?
            }
            None => 0,
        };
        let all = keys::record(partition, low)..=keys::record(partition, Offset::MAX);
        let last = self.log.range(all).next_back().map(Guard::into_inner);
        let next = match last.transpose().map_err(failed)? {
            Some((key, value)) => self.after(partition, &key, &value)?,
            // Never written.
            None => low,
        };
        Ok(WritePosition { next, tail: Arc::new(Tail::new(low, next, self.recent_bytes)) })
    }

    /// Returns the offset behind the last block.
    fn after(
        &self,
        partition: Partition,
        key: &UserKey,
        value: &UserValue,
    ) -> Result<Offset, OpenError> {
        let read = || Some(keys::record_offset(key)? + unpack(value)?.len() as Offset);
        read().ok_or_else(|| self.damaged(partition, "its last records"))
    }

    fn damaged(&self, partition: Partition, what: &str) -> OpenError {
        let detail = format!("partition {partition}: {what} cannot be read");
        let remedy = inspect::RESTORE.to_owned();
        OpenError::Damaged { path: self.path.to_owned(), detail, remedy }
    }
}
