//! Readers: each gives one partition in order from an offset on, independent of the group.
//!
//! A *lane* is a consumer that is assigned partitions by hand and keeps one queue per partition.
//! The first reader of a partition is put on the first lane, usually the live one; a replay that
//! wants the same partition at another offset is put on the next lane where it is free. So a
//! handful of clients serve any number of partitions, warm, and none waits for another.
//!
//! A reader takes records straight out of its queue, and only when it is asked to: a slow one
//! fills its own queue up to the bound, and nothing else. What blocks (assigning, unassigning,
//! dropping) happens on one thread, the keeper.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
        mpsc,
    },
    time::Duration,
};

use async_trait::async_trait;
use rdkafka::{
    ClientConfig, Message, Offset as NativeOffset, TopicPartitionList,
    config::FromClientConfigAndContext,
    consumer::{BaseConsumer, Consumer, base_consumer::PartitionQueue},
    error::{KafkaError, RDKafkaErrorCode},
    message::BorrowedMessage,
};
use tokio::sync::{Notify, oneshot};
use tracing::{debug, error, warn};

use super::failed;
use crate::{
    config::KafkaConfig,
    domain::ids::{Offset, Partition, Timestamp},
    kafka::client::{self, ClientLog, millis, native_offset, native_partition},
    log::{LogError, LogReader, READ_RECORDS_MAX, READERS_MAX, ReadError},
    wire::LogRecord,
};

/// A partition has one reader on each lane. Another waits.
const LANES_MAX: usize = READERS_MAX;

/// Longest that a reader waits for a free lane before its opener is told.
const OPEN_WITHIN: Duration = Duration::from_secs(10);

/// Records that a queue holds before its partition is fetched no further: some 25 ms of reading,
/// several times what a fetch takes.
const QUEUE_RECORDS: usize = 5_000;

/// The same in memory, per partition and lane.
const QUEUE_KIB: usize = 2 * 1_024;

/// Most of one partition in one fetch: about 4,000 records, so that a replay does not keep the
/// partitions beside it waiting.
const FETCH_BYTES: usize = 512 * 1_024;

/// Longest that a broker holds a fetch that finds nothing. A partition that is added to a lane
/// waits for the fetch under way, so this is what a replay's start costs at most; twenty fetches a
/// second and lane cost a broker some 2 % of a core.
const FETCH_WAIT: Duration = Duration::from_millis(50);

/// Lanes that are there before anybody asks: the live one, and one for the first replay, which
/// must not wait for a client to find its brokers.
const LANES_WARM: usize = 2;

/// How often the keeper serves what the library has to say when nobody asks for anything.
const SERVE_EVERY: Duration = Duration::from_millis(100);

/// How long the keeper listens to one lane: the library hands out one event at a time, and says
/// nothing of whether there is another.
const SERVE_FOR: Duration = Duration::from_millis(1);

/// Events of one lane that are served in a row, so that a storm in one doesn't starve openers.
const SERVE_EVENTS_MAX: usize = 64;

/// A queue says when it is no longer empty; this is for the case that it is not heard.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Most bytes that one read copies, so that records of a megabyte don't come by the thousand.
const READ_BYTES_MAX: usize = 4 * 1_024 * 1_024;

type LaneConsumer = BaseConsumer<ClientLog>;
type LaneQueue = PartitionQueue<ClientLog>;

/// Opens readers. Dropping it closes them.
pub(super) struct Readers {
    /// The first lane's client, which also answers for the ends of partitions. Before `keeper`,
    /// so that the keeper is the last to let go of it: whoever is waits for its end.
    first: Arc<LaneConsumer>,
    keeper: mpsc::Sender<Command>,
    topic: String,
    /// Partitions that the topic is known to have.
    partitions: AtomicU32,
}

impl Readers {
    /// Starts the keeper and the first lanes. Blocks while they look for their brokers.
    pub(super) fn connect(config: &KafkaConfig, topic: &str) -> Result<Self, LogError> {
        let mut settings = client::consumer(config);
        settings
            .set("fetch.wait.max.ms", millis(FETCH_WAIT))
            .set("fetch.message.max.bytes", FETCH_BYTES.to_string())
            .set("queued.min.messages", QUEUE_RECORDS.to_string())
            .set("queued.max.messages.kbytes", QUEUE_KIB.to_string());
        let lanes: Vec<_> = (0..LANES_WARM)
            .map(|_| Lane::start(&settings))
            .collect::<Result<_, _>>()
            .map_err(|error| failed("starting a reader", error))?;
        let mut partitions = 0;
        for lane in &lanes {
            match lane.consumer.fetch_metadata(Some(topic), client::QUERY_TIMEOUT) {
                Ok(seen) => {
                    let found: usize =
                        seen.topics().iter().map(|topic| topic.partitions().len()).sum();
                    partitions = u32::try_from(found).unwrap_or(u32::MAX);
                }
                Err(error) => warn!(%error, "kafka does not answer readers yet"),
            }
        }
        let first = Arc::clone(&lanes[0].consumer);
        // Bounded by its users: an opener waits for its answer, and each reader closes once.
        let (keeper, commands) = mpsc::channel();
        let state = Keeper {
            settings,
            topic: topic.to_owned(),
            lanes,
            waiting: VecDeque::new(),
            own: Some(keeper.clone()),
        };
        std::thread::Builder::new()
            .name("kafka-readers".to_owned())
            .spawn(move || state.run(&commands))
            .map_err(|error| LogError {
                operation: "starting the thread of the readers".to_owned(),
                source: Box::new(error),
            })?;
        let partitions = AtomicU32::new(partitions);
        Ok(Self { first, keeper, topic: topic.to_owned(), partitions })
    }

    /// A reader of `partition` from `from` on.
    pub(super) async fn open(
        &self,
        partition: Partition,
        from: Offset,
    ) -> Result<KafkaReader, LogError> {
        let operation = || format!("opening partition {partition} at {from}");
        if partition >= self.partitions.load(Ordering::Relaxed) {
            // Nobody would ever say that there is no such partition: its reader would just wait.
            self.watermarks(partition).await?;
            self.partitions.fetch_max(partition + 1, Ordering::Relaxed);
        }
        let (reply, replied) = oneshot::channel();
        let command = Command::Open(Open { partition, from, reply });
        self.keeper.send(command).map_err(|_| failed(operation(), KafkaError::Canceled))?;
        match tokio::time::timeout(OPEN_WITHIN, replied).await {
            Ok(Ok(reader)) => reader,
            Ok(Err(_)) => Err(failed(operation(), KafkaError::Canceled)),
            Err(elapsed) => Err(LogError {
                operation: format!("{}: {LANES_MAX} readers are open there", operation()),
                source: Box::new(elapsed),
            }),
        }
    }

    /// The low and the high watermark of `partition`, asked of its leader.
    pub(super) async fn watermarks(
        &self,
        partition: Partition,
    ) -> Result<(Offset, Offset), LogError> {
        client::watermarks(Arc::clone(&self.first), &self.topic, partition)
            .await
            .map_err(|error| failed(format!("asking for the ends of partition {partition}"), error))
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        // A keeper that is gone has nothing left to close.
        let _ = self.keeper.send(Command::Stop);
    }
}

struct Open {
    partition: Partition,
    from: Offset,
    reply: oneshot::Sender<Result<KafkaReader, LogError>>,
}

enum Command {
    Open(Open),
    Close { lane: usize, partition: Partition, queue: Box<LaneQueue> },
    Stop,
}

/// What the keeper and a reader both see.
#[derive(Default)]
struct Signals {
    /// The queue is no longer empty, or one of the others was set.
    ready: Notify,
    /// The node stops.
    closed: AtomicBool,
    /// Records came out of order past the queue: nothing from here on can be trusted.
    broken: AtomicBool,
}

impl Signals {
    fn raise(&self, signal: &AtomicBool) {
        signal.store(true, Ordering::Release);
        self.ready.notify_one();
    }
}

struct Lane {
    consumer: Arc<LaneConsumer>,
    taken: HashMap<Partition, Arc<Signals>>,
}

impl Lane {
    fn start(settings: &ClientConfig) -> Result<Self, KafkaError> {
        let context = ClientLog::new("reader");
        let consumer = BaseConsumer::from_config_and_context(settings, context)?;
        Ok(Self { consumer: Arc::new(consumer), taken: HashMap::new() })
    }

    /// Serves the library. All records come by the partitions' own queues.
    fn serve(&self) {
        for _ in 0..SERVE_EVENTS_MAX {
            let Some(event) = self.consumer.poll(SERVE_FOR) else { break };
            let Ok(message) = event else { continue };
            let partition = u32::try_from(message.partition()).unwrap_or_default();
            error!(partition, offset = message.offset(), "record outside its partition's queue");
            if let Some(signals) = self.taken.get(&partition) {
                signals.raise(&signals.broken);
            }
        }
    }
}

/// Owns the lanes. Ends when the log and every reader are gone.
struct Keeper {
    settings: ClientConfig,
    topic: String,
    lanes: Vec<Lane>,
    /// Openers for whose partition no lane is free.
    waiting: VecDeque<Open>,
    /// For readers; given up on stop, so that the channel ends with the last of them.
    own: Option<mpsc::Sender<Command>>,
}

impl Keeper {
    fn run(mut self, commands: &mpsc::Receiver<Command>) {
        loop {
            match commands.recv_timeout(SERVE_EVERY) {
                Ok(Command::Open(open)) => self.open(open),
                Ok(Command::Close { lane, partition, queue }) => {
                    self.close(lane, partition, *queue);
                }
                Ok(Command::Stop) => self.stop(),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
            }
            self.lanes.iter().for_each(Lane::serve);
        }
        debug!("readers ended");
    }

    fn open(&mut self, open: Open) {
        if open.reply.is_closed() {
            return;
        }
        let Some(own) = self.own.clone() else {
            // Dropping the reply tells the opener.
            return;
        };
        let Some(lane) = self.free_lane(open.partition) else {
            self.waiting.retain(|open| !open.reply.is_closed());
            self.waiting.push_back(open);
            return;
        };
        let Open { partition, from, reply } = open;
        let opened = self.assign(lane, partition, from, own);
        // An opener that went away drops the reader, which closes it.
        let _ = reply.send(opened);
    }

    fn free_lane(&mut self, partition: Partition) -> Option<usize> {
        if let Some(free) = self.lanes.iter().position(|lane| !lane.taken.contains_key(&partition))
        {
            return Some(free);
        }
        if self.lanes.len() == LANES_MAX {
            return None;
        }
        match Lane::start(&self.settings) {
            Ok(lane) => self.lanes.push(lane),
            Err(error) => {
                warn!(%error, "another lane could not be started");
                return None;
            }
        }
        Some(self.lanes.len() - 1)
    }

    fn assign(
        &mut self,
        lane_number: usize,
        partition: Partition,
        from: Offset,
        keeper: mpsc::Sender<Command>,
    ) -> Result<KafkaReader, LogError> {
        let operation = || format!("opening partition {partition} at {from}");
        let lane = &mut self.lanes[lane_number];
        let native = native_partition(partition);
        let signals = Arc::new(Signals::default());
        // Split before it is assigned: what is fetched earlier would come by the common queue.
        let mut queue = lane
            .consumer
            .split_partition_queue(&self.topic, native)
            .ok_or_else(|| failed(operation(), KafkaError::Canceled))?;
        drain(&queue);
        let wake = Arc::clone(&signals);
        queue.set_nonempty_callback(move || wake.ready.notify_one());
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.topic, native, NativeOffset::Offset(native_offset(from)))
            .and_then(|()| lane.consumer.incremental_assign(&list))
            .map_err(|error| failed(operation(), error))?;
        lane.taken.insert(partition, Arc::clone(&signals));
        Ok(KafkaReader {
            partition,
            next: from,
            lane: lane_number,
            queue: Some(Box::new(queue)),
            signals,
            keeper,
            failure: None,
            buffer_bytes: 0,
        })
    }

    fn close(&mut self, lane_number: usize, partition: Partition, queue: LaneQueue) {
        let lane = &mut self.lanes[lane_number];
        let mut list = TopicPartitionList::new();
        list.add_partition(&self.topic, native_partition(partition));
        if let Err(error) = lane.consumer.incremental_unassign(&list) {
            warn!(partition, %error, "partition could not be given back");
        }
        drain(&queue);
        drop(queue);
        lane.taken.remove(&partition);
        // Whoever went away meanwhile must not keep the others from the lane.
        self.waiting.retain(|open| !open.reply.is_closed());
        while !self.lanes[lane_number].taken.contains_key(&partition)
            && let Some(index) = self.waiting.iter().position(|open| open.partition == partition)
            && let Some(open) = self.waiting.remove(index)
        {
            self.open(open);
        }
    }

    fn stop(&mut self) {
        self.own = None;
        self.waiting.clear();
        for signals in self.lanes.iter().flat_map(|lane| lane.taken.values()) {
            signals.raise(&signals.closed);
        }
    }
}

/// Throws away what a reader left. Records of an earlier assignment are never handed out again,
/// but an error is: the next reader of the partition would be told of what it did not ask for.
fn drain(queue: &LaneQueue) {
    while queue.poll(Duration::ZERO).is_some() {}
}

/// Reads one partition in order.
pub(super) struct KafkaReader {
    partition: Partition,
    /// The lowest offset that the next record can have.
    next: Offset,
    lane: usize,
    /// None once the reader is spent.
    queue: Option<Box<LaneQueue>>,
    signals: Arc<Signals>,
    keeper: mpsc::Sender<Command>,
    /// Met behind records that were to be given first.
    failure: Option<ReadError>,
    buffer_bytes: usize,
}

impl KafkaReader {
    /// Takes what is there, without waiting.
    fn take(&mut self, max: usize) -> Vec<LogRecord> {
        let mut records = Vec::new();
        self.buffer_bytes = 0;
        let Some(queue) = &self.queue else { return records };
        while records.len() < max && self.buffer_bytes < READ_BYTES_MAX {
            match queue.poll(Duration::ZERO) {
                None => break,
                Some(Ok(message)) => {
                    let Ok(offset) = Offset::try_from(message.offset()) else { continue };
                    if offset < self.next {
                        continue;
                    }
                    self.next = offset + 1;
                    let record = copy(offset, &message);
                    self.buffer_bytes += record.key.len() + record.value.len();
                    records.push(record);
                }
                Some(Err(error)) => {
                    self.failure = Some(self.failed(error));
                    break;
                }
            }
        }
        records
    }

    /// What comes by a partition's own queue is never passing trouble, which the library keeps to
    /// itself: after a checksum that does not hold, say, it goes on *behind* the damaged records.
    fn failed(&self, error: KafkaError) -> ReadError {
        match error.rdkafka_error_code() {
            Some(
                RDKafkaErrorCode::AutoOffsetReset
                | RDKafkaErrorCode::OffsetOutOfRange
                | RDKafkaErrorCode::LogTruncation,
            ) => ReadError::OutOfRange { wanted: self.next, detail: error.to_string() },
            _ => failed(format!("reading partition {} at {}", self.partition, self.next), error)
                .into(),
        }
    }

    fn spend(&mut self) {
        if let Some(queue) = self.queue.take() {
            let close = Command::Close { lane: self.lane, partition: self.partition, queue };
            // The keeper outlives every reader.
            let _ = self.keeper.send(close);
        }
    }
}

#[async_trait]
impl LogReader for KafkaReader {
    async fn read(&mut self, max: usize) -> Result<Vec<LogRecord>, ReadError> {
        let max = max.clamp(1, READ_RECORDS_MAX);
        loop {
            if self.queue.is_none() || self.signals.closed.load(Ordering::Acquire) {
                self.spend();
                return Err(ReadError::Closed);
            }
            if self.signals.broken.load(Ordering::Acquire) {
                self.spend();
                let operation = format!("reading partition {} in order", self.partition);
                return Err(failed(operation, KafkaError::Canceled).into());
            }
            if self.failure.is_none() {
                let records = self.take(max);
                if !records.is_empty() {
                    return Ok(records);
                }
            }
            if let Some(failure) = self.failure.take() {
                self.spend();
                return Err(failure);
            }
            // Both ends come to the same: another look.
            let _ = tokio::time::timeout(LOOK_AGAIN, self.signals.ready.notified()).await;
        }
    }
}

impl Drop for KafkaReader {
    fn drop(&mut self) {
        self.spend();
    }
}

fn copy(offset: Offset, message: &BorrowedMessage<'_>) -> LogRecord {
    LogRecord {
        offset,
        // Without a time the record is a dead letter, for every owner alike.
        time: Timestamp(message.timestamp().to_millis().unwrap_or(-1)),
        key: message.key().unwrap_or_default().to_vec(),
        value: message.payload().unwrap_or_default().to_vec(),
        mac: client::mac_of(message),
    }
}
