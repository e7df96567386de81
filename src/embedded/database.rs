//! Opens the database, finds the ends of every partition, starts and ends the committer.

use std::{error::Error, io, path::PathBuf, sync::Arc, thread::JoinHandle};

use fjall::{Database, Guard, Keyspace, KeyspaceCreateOptions, UserKey, UserValue};
use serde::Deserialize;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tracing::{error, info};

use super::{
    Entry, Operation, Refused, TIME_BYTES,
    block::unpack,
    committer::{Committer, WritePosition},
    folder::{FolderError, FolderLock, data_folder, locked},
    format,
    high_water::HighWater,
    inspect, keys,
    space::{FreeBytes, Reserve, Space, free_bytes},
    tail::Tail,
};
use crate::{
    clock::SharedClock,
    config::EmbeddedConfig,
    domain::ids::{Offset, Partition, Timestamp},
    telemetry::Chain,
    wire::format::OtherFormat,
};

/// The database's own folder in the data folder; secrets and the lock lie beside it.
const DATABASE_FOLDER: &str = "database";

/// Writes that may be queued: every append that `admission.inflight_max` lets in (10,000 by
/// default) and the writes of every actor beside them.
const QUEUE_OPERATIONS_MAX: usize = 16_384;

/// Entries of rows that wait to be written without anybody waiting for them: two entries for each
/// of the records that one partition keeps under way, at 200 bytes about 6 MiB.
pub(super) const ROW_ENTRIES_MAX: usize = 32_768;

/// Bytes of each keyspace that are in memory only (and in the journal) before they are sorted
/// into files.
const MEMTABLE_BYTES: u64 = 16 * 1_024 * 1_024;

/// Bytes of closed journals before the keyspaces that hold them back are written out: bounds what
/// a start has to read again. A journal is closed at 64 MB, and two of them are let be.
const JOURNAL_BYTES_MAX: u64 = 128 * 1_024 * 1_024;

/// Blocks of files kept in memory.
const CACHE_BYTES: u64 = 64 * 1_024 * 1_024;

/// Called with what makes it impossible to go on. The default ends the process; where a test's
/// returns, the committer ends and nothing is written any more.
pub(super) type Fatal = Arc<dyn Fn(&(dyn Error + 'static)) + Send + Sync>;

/// What tests replace.
#[derive(Clone)]
pub(super) struct Hooks {
    /// Ends the process.
    pub(super) fatal: Fatal,
    /// Called before each commit that is made durable; an error stands for a failed fsync.
    pub(super) before_sync: Arc<dyn Fn() -> io::Result<()> + Send + Sync>,
    /// Asks for the free space.
    pub(super) free_bytes: FreeBytes,
}

impl Default for Hooks {
    fn default() -> Self {
        Self {
            fatal: Arc::new(|failure| end_process(failure)),
            before_sync: Arc::new(|| Ok(())),
            free_bytes,
        }
    }
}

/// After a failed fsync nobody can say what is on disk, and asking again may falsely succeed:
/// only a start that reads the disk knows.
fn end_process(failure: &(dyn Error + 'static)) -> ! {
    error!(error = %Chain(failure), "the embedded database failed, the process ends");
    std::process::exit(1)
}

/// Why the embedded database was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The data folder can't be made, or another process has it.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The database itself refused.
    #[error("opening the embedded database in {}", path.display())]
    Database {
        /// Its folder.
        path: PathBuf,
        /// What it said.
        #[source]
        source: fjall::Error,
    },
    /// The database could not be looked at before it was opened, or its high_water not be written.
    #[error("looking at the embedded database in {}", path.display())]
    Inspect {
        /// What was looked at.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// The data folder holds data that this version does not read.
    #[error("data folder {} {other}", path.display())]
    Format {
        /// The data folder.
        path: PathBuf,
        /// Its format.
        other: OtherFormat,
    },
    /// The data folder was made with another number of partitions.
    #[error("embedded.partitions is {configured}, the data folder has {found}")]
    Partitions {
        /// As configured.
        configured: u32,
        /// As the instance's layout has it.
        found: u32,
    },
    /// What was acknowledged is gone, or what is there is not what was written.
    #[error("the embedded database in {} is damaged: {detail}; {remedy}", path.display())]
    Damaged {
        /// Its folder.
        path: PathBuf,
        /// What was found.
        detail: String,
        /// What to do.
        remedy: String,
    },
    /// The committer's thread can't be started.
    #[error("starting the committer of the embedded database")]
    Thread(#[source] io::Error),
}

/// What readers need, whether or not the database still takes writes.
pub(crate) struct Shared {
    pub(crate) log: Keyspace,
    pub(crate) data: Keyspace,
    pub(crate) tails: Vec<Arc<Tail>>,
    pub(crate) clock: SharedClock,
    /// Held for as long as anybody may read; the last to go.
    lock: FolderLock,
}

impl Shared {
    /// A partition as readers see it.
    pub(crate) fn tail(&self, partition: Partition) -> Option<&Arc<Tail>> {
        self.tails.get(partition as usize)
    }
}

/// One folder that holds log and store of an embedded node.
///
/// Dropping it writes what is queued, makes everything durable and waits for the committer.
pub struct EmbeddedDatabase {
    shared: Arc<Shared>,
    /// None only while it is dropped.
    queue: Option<mpsc::Sender<Operation>>,
    room: Arc<Semaphore>,
    reserve: Reserve,
    committer: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for EmbeddedDatabase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmbeddedDatabase")
            .field("partitions", &self.shared.tails.len())
            .finish_non_exhaustive()
    }
}

impl EmbeddedDatabase {
    /// Opens or creates the database in `config.dir`, with `config.partitions` partitions.
    /// Reads the journal again, so it takes up to about a second after a crash.
    ///
    /// # Errors
    /// [`OpenError`]; another process that has the folder is [`OpenError::Folder`].
    pub fn open(config: &EmbeddedConfig, clock: SharedClock) -> Result<Arc<Self>, OpenError> {
        Self::open_with(config, clock, Hooks::default())
    }

    /// As [`Self::open`]; `fatal` is told what would have ended the process.
    ///
    /// # Errors
    /// As [`Self::open`].
    #[cfg(feature = "contract")]
    pub fn open_reporting(
        config: &EmbeddedConfig,
        clock: SharedClock,
        fatal: impl Fn(&(dyn Error + 'static)) + Send + Sync + 'static,
    ) -> Result<Arc<Self>, OpenError> {
        Self::open_with(config, clock, Hooks { fatal: Arc::new(fatal), ..Hooks::default() })
    }

    /// Writes what is in memory into tables, as the database does when it is enough.
    ///
    /// # Errors
    /// What the database said.
    #[cfg(feature = "contract")]
    pub fn write_tables(&self) -> Result<(), fjall::Error> {
        self.shared.log.rotate_memtable_and_wait()?;
        self.shared.data.rotate_memtable_and_wait()
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
        let failed = |source| OpenError::Database { path: path.clone(), source };
        let inspected = inspect::before_open(&config.dir, &path)?;
        let database = Database::builder(&path)
            .cache_size(CACHE_BYTES)
            .max_journaling_size(JOURNAL_BYTES_MAX)
            .open()
            .map_err(failed)?;
        let options = || KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES);
        let log = database.keyspace("log", options).map_err(failed)?;
        let data = database.keyspace("data", options).map_err(failed)?;
        // Only all of its partitions together have had what the high_water says.
        check_partitions(config.partitions, &path, &data)?;
        let ends = Ends { path: &path, log: &log, data: &data };
        let partitions = (0..config.partitions)
            .map(|partition| ends.find(partition))
            .collect::<Result<Vec<_>, _>>()?;
        let records = partitions.iter().map(|position| position.next).sum();
        let durable = inspected.after_open(&path, database.seqno(), records)?;
        let high_water = HighWater::open(&config.dir, durable)
            .map_err(|source| OpenError::Inspect { path: path.clone(), source })?;
        let (queue, receiver) = mpsc::channel(QUEUE_OPERATIONS_MAX);
        let (folder, bytes) = (config.dir.clone(), config.reserve_bytes);
        let reserve = Reserve { path: folder, bytes, ask: hooks.free_bytes };
        let committer = Committer {
            database,
            log: log.clone(),
            data: data.clone(),
            partitions,
            high_water,
            clock: clock.clone(),
            space: Space::new(reserve.clone()),
            hooks,
            // An error says that whoever opens it waits without a runtime.
            runtime: tokio::runtime::Handle::try_current().ok(),
            queue: receiver,
        };
        let tails = committer.partitions.iter().map(|position| position.tail.clone()).collect();
        let committer = std::thread::Builder::new()
            .name("committer".to_owned())
            .spawn(move || committer.run())
            .map_err(OpenError::Thread)?;
        info!(dir = %config.dir.display(), partitions = config.partitions, "data folder is open");
        let shared = Arc::new(Shared { log, data, tails, clock, lock });
        let room = Arc::new(Semaphore::new(ROW_ENTRIES_MAX));
        let committer = Some(committer);
        Ok(Arc::new(Self { shared, queue: Some(queue), room, reserve, committer }))
    }

    /// Refuses a data folder of another format. Changes nothing, and makes none.
    ///
    /// # Errors
    /// [`OpenError::Format`], or [`OpenError::Damaged`] when the folder does not say its format.
    pub fn check_format(dir: &std::path::Path) -> Result<(), OpenError> {
        format::check(dir)
    }

    /// Whether there is a database in the data folder `dir`.
    #[must_use]
    pub fn is_in(dir: &std::path::Path) -> bool {
        dir.join(DATABASE_FOLDER).is_dir()
    }

    /// Asks the disk why no new record is taken now, for want of space, if so. Does not keep the
    /// database open.
    pub fn lacking_space(&self) -> impl Fn() -> Option<String> + Send + Sync + use<> {
        let reserve = self.reserve.clone();
        move || reserve.lacking()
    }

    /// Waits until the data folder may be opened again: the database and every reader of it are
    /// dropped. Does not keep the database open.
    pub fn released(&self) -> impl Future<Output = ()> + Send + use<> {
        self.shared.lock.released()
    }

    /// What readers need.
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Queues an append, or refuses it at once.
    pub(crate) fn try_submit(&self, operation: Operation) -> Result<(), Refused> {
        let queue = self.queue.as_ref().ok_or(Refused::Closed)?;
        queue.try_send(operation).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Refused::QueueFull,
            mpsc::error::TrySendError::Closed(_) => Refused::Closed,
        })
    }

    /// Queues an operation, waiting for room, and waits for its answer.
    pub(crate) async fn submit<T>(
        &self,
        operation: impl FnOnce(oneshot::Sender<T>) -> Operation,
    ) -> Result<T, Refused> {
        let (reply, answer) = oneshot::channel();
        let queue = self.queue.as_ref().ok_or(Refused::Closed)?;
        queue.send(operation(reply)).await.map_err(|_| Refused::Closed)?;
        answer.await.map_err(|_| Refused::Closed)
    }

    /// Queues rows that the log can make again, and waits for room only: they are written in
    /// order with everything else that is queued, and before what [`Self::written`] waits for.
    pub(crate) async fn write_behind(&self, entries: Vec<Entry>) -> Result<(), Refused> {
        let queue = self.queue.as_ref().ok_or(Refused::Closed)?;
        let wanted = u32::try_from(entries.len().min(ROW_ENTRIES_MAX)).unwrap_or(u32::MAX);
        let room = self.room.clone().acquire_many_owned(wanted).await;
        let room = room.map_err(|_| Refused::Closed)?;
        queue.send(Operation::Rows { entries, room }).await.map_err(|_| Refused::Closed)
    }

    /// Waits until all rows that were queued before can be read. A closed database has written
    /// them all.
    pub(crate) async fn written(&self) {
        if self.room.available_permits() == ROW_ENTRIES_MAX {
            return;
        }
        let nothing = |reply| Operation::Write { entries: Vec::new(), durable: false, reply };
        // Closed is the only error.
        let _ = self.submit(nothing).await;
    }

    /// Takes no more writes, writes what is queued and makes everything durable. Readers are told
    /// that the log is closed once they have read what is there.
    pub async fn close(&self) {
        // An error says that it is closed already.
        let _ = self.submit(|reply| Operation::Close { reply }).await;
    }
}

impl Drop for EmbeddedDatabase {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(committer) = self.committer.take() {
            // A panic of the committer has been dealt with by itself.
            let _ = committer.join();
        }
    }
}

/// What of the layout row concerns the log.
#[derive(Deserialize)]
struct LogLayout {
    partitions: u32,
}

/// Refuses another number of partitions than that of the layout. A layout that can't be read is
/// the store's to refuse.
fn check_partitions(
    configured: u32,
    path: &std::path::Path,
    data: &Keyspace,
) -> Result<(), OpenError> {
    let failed = |source| OpenError::Database { path: path.to_owned(), source };
    let row = data.get(keys::layout()).map_err(failed)?;
    // Behind the byte of its format.
    let layout = row.and_then(|row| serde_json::from_slice::<LogLayout>(row.get(1..)?).ok());
    match layout {
        Some(LogLayout { partitions: found }) if found != configured => {
            Err(OpenError::Partitions { configured, found })
        }
        _ => Ok(()),
    }
}

/// Finds the ends of partitions.
struct Ends<'a> {
    path: &'a std::path::Path,
    log: &'a Keyspace,
    data: &'a Keyspace,
}

impl Ends<'_> {
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
        let (next, time) = match last.transpose().map_err(failed)? {
            Some((key, value)) => self.after(partition, &key, &value)?,
            None => (low, Timestamp::default()),
        };
        Ok(WritePosition { next, time, tail: Arc::new(Tail::new(low, next)) })
    }

    fn after(
        &self,
        partition: Partition,
        key: &UserKey,
        value: &UserValue,
    ) -> Result<(Offset, Timestamp), OpenError> {
        let read = || {
            let first = keys::record_offset(key)?;
            let records = unpack(value)?;
            let time = keys::number(records.last()?.get(..TIME_BYTES)?)?;
            Some((first + records.len() as Offset, Timestamp(time.cast_signed())))
        };
        read().ok_or_else(|| self.damaged(partition, "its last records"))
    }

    fn damaged(&self, partition: Partition, what: &str) -> OpenError {
        let detail = format!("partition {partition}: {what} can't be read");
        let remedy = "restore the data folder from a copy".to_owned();
        OpenError::Damaged { path: self.path.to_owned(), detail, remedy }
    }
}
