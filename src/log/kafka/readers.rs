//! Readers of the request log. Each reads one partition in order from an offset on, independent of
//! the consumer group.
//!
//! Readers share a pool of a few consumers. Each consumer is assigned partitions by hand and has one
//! queue per partition, so it serves one reader of each partition. The first reader of a partition,
//! usually the live one, gets the first consumer; a replay of the same partition gets the next one
//! that does not serve that partition yet. The consumers stay connected, so a reader starts fast.
//!
//! A reader takes records directly from its queue, only when it is called. A slow reader fills its own
//! queue up to the bound and delays no other. All blocking calls (assign, unassign, drop) are made on
//! one thread, the pool's.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
        mpsc,
    },
    time::Duration,
};

use rdkafka::{
    ClientConfig, Message, Offset as NativeOffset, TopicPartitionList,
    config::FromClientConfigAndContext,
    consumer::{BaseConsumer, Consumer, base_consumer::PartitionQueue},
    error::KafkaError,
};
use tokio::sync::{Notify, oneshot};

use super::{failed, reader::KafkaReader, watch::Fitness};
use crate::{
    config::KafkaConfig,
    domain::ids::{Offset, Partition, Timestamp},
    kafka::{
        client::{self, ClientLog, millis, native_offset, native_partition},
        errors::Meaning,
    },
    log::{LogError, READ_RECORDS_MAX, READERS_MAX},
};

/// Most consumers of the pool, and so most readers of one partition. Another reader waits.
pub(super) const CONSUMERS_MAX: usize = READERS_MAX;

/// Longest wait for a free consumer when a reader is opened.
const OPEN_WITHIN: Duration = Duration::from_secs(10);

/// Records in a queue above which its partition is not fetched: as many as one read takes, about
/// 20 ms of reading, several times as long as a fetch.
const QUEUE_RECORDS: usize = READ_RECORDS_MAX;

/// KiB of values in a queue above which its partition is not fetched. The library counts neither keys
/// nor headers; with them a queue has at most as many batches as these values and one fetch.
pub(super) const QUEUE_KIB: usize = 2 * 1_024;

/// Most bytes of one partition in one fetch: about 4,000 records, so that a replay does not delay
/// the other partitions of its consumer.
const FETCH_BYTES: usize = 512 * 1_024;

/// Longest that a broker holds a fetch that finds nothing. A new partition of a consumer waits for
/// the fetch in progress, so this bounds the delay of a replay's start. Twenty fetches a second cost
/// a broker about 2 % of a core per consumer.
const FETCH_WAIT: Duration = Duration::from_millis(50);

/// Consumers that are started in advance: one for live readers, and one for the first replay, which
/// should not wait for a client to connect.
const CONSUMERS_WARM: usize = 2;

/// Interval at which the pool serves the library's events while there are no commands.
const SERVE_EVERY: Duration = Duration::from_millis(100);

/// Longest wait for an event of one consumer. The library returns one event at a time and does not
/// report whether there are more.
const SERVE_FOR: Duration = Duration::from_millis(1);

/// Most events of one consumer that are served in a row, so that many events do not delay commands.
const SERVE_EVENTS_MAX: usize = 64;

type ReaderConsumer = BaseConsumer<ClientLog>;
pub(super) type RecordQueue = PartitionQueue<ClientLog>;

/// Opens readers. When dropped, closes all of them.
pub(super) struct Readers {
    /// The first consumer, which also reads watermarks. Declared before `pool`, so that it is dropped
    /// first: the last owner waits for the client's end, and that should be the pool's thread.
    first: Arc<ReaderConsumer>,
    pool: mpsc::Sender<PoolCommand>,
    topic: String,
    /// Number of partitions that the topic is known to have.
    partitions: AtomicU32,
    fitness: Arc<Fitness>,
}

impl Readers {
    /// Starts the pool and its first consumers. Blocks until they have connected, or for a time.
    pub(super) fn connect(
        config: &KafkaConfig,
        topic: &str,
        fitness: Arc<Fitness>,
    ) -> Result<Self, LogError> {
        let mut settings = client::consumer(config);
        settings
            .set("fetch.wait.max.ms", millis(FETCH_WAIT))
            .set("fetch.message.max.bytes", FETCH_BYTES.to_string())
            .set("queued.min.messages", QUEUE_RECORDS.to_string())
            .set("queued.max.messages.kbytes", QUEUE_KIB.to_string());
        let consumers: Vec<_> = (0..CONSUMERS_WARM)
            .map(|_| PooledConsumer::start(&settings))
            .collect::<Result<_, _>>()
            .map_err(|error| failed("starting a reader", error))?;
        let mut partitions = 0;
        for pooled in &consumers {
            match pooled.consumer.fetch_metadata(Some(topic), client::QUERY_TIMEOUT) {
                Ok(seen) => {
                    let found: usize =
                        seen.topics().iter().map(|topic| topic.partitions().len()).sum();
                    partitions = u32::try_from(found).unwrap_or(u32::MAX);
                }
                Err(error) => tracing::warn!(%error, "readers cannot reach kafka yet, retrying"),
            }
        }
        let first = Arc::clone(&consumers[0].consumer);
        // Unbounded, but it has at most one command of each waiting opener and of each reader.
        let (pool, commands) = mpsc::channel();
        let state = ConsumerPool {
            settings,
            topic: topic.to_owned(),
            consumers,
            waiting: VecDeque::new(),
            own: Some(pool.clone()),
            fitness: fitness.clone(),
        };
        std::thread::Builder::new()
            .name("kafka-readers".to_owned())
            .spawn(move || state.run(&commands))
            .map_err(|error| LogError {
                operation: "starting the thread of the readers".to_owned(),
                source: Box::new(error),
            })?;
        let partitions = AtomicU32::new(partitions);
        Ok(Self { first, pool, topic: topic.to_owned(), partitions, fitness })
    }

    /// Opens a reader of `partition` from `from` on.
    pub(super) async fn open(
        &self,
        partition: Partition,
        from: Offset,
    ) -> Result<KafkaReader, LogError> {
        let operation = || format!("opening partition {partition} at {from}");
        if partition >= self.partitions.load(Ordering::Relaxed) {
            // The library accepts a partition that does not exist, and its reader would wait forever.
            // Reading the watermarks fails instead.
            self.watermarks(partition).await?;
            self.partitions.fetch_max(partition + 1, Ordering::Relaxed);
        }
        let (reply, replied) = oneshot::channel();
        let command = PoolCommand::Open(Open { partition, from, reply });
        self.pool.send(command).map_err(|_| failed(operation(), KafkaError::Canceled))?;
        match tokio::time::timeout(OPEN_WITHIN, replied).await {
            Ok(Ok(reader)) => reader,
            Ok(Err(_)) => Err(failed(operation(), KafkaError::Canceled)),
            Err(elapsed) => Err(LogError {
                operation: format!("{}: it has {CONSUMERS_MAX} readers already", operation()),
                source: Box::new(elapsed),
            }),
        }
    }

    /// Reads the low and the high watermark of `partition` from its leader.
    pub(super) async fn watermarks(
        &self,
        partition: Partition,
    ) -> Result<(Offset, Offset), LogError> {
        client::watermarks(Arc::clone(&self.first), &self.topic, partition).await.map_err(|error| {
            if Meaning::of(&error) == Meaning::NoTopic {
                self.fitness.doubt();
            }
            failed(format!("reading watermarks of partition {partition}"), error)
        })
    }
}

impl Readers {
    /// Returns the first offset of `partition` that is not older than `time`, or its end.
    pub(super) async fn first_since(
        &self,
        partition: Partition,
        time: Timestamp,
    ) -> Result<Offset, LogError> {
        if time.0 < 0 {
            // A retention that reaches back to before 1970. The library takes no such time.
            return Ok(self.watermarks(partition).await?.0);
        }
        let asked = client::first_since(Arc::clone(&self.first), &self.topic, partition, time.0);
        let found = asked.await.map_err(|error| {
            failed(format!("asking partition {partition} for its records by time"), error)
        })?;
        match found {
            Some(offset) => Ok(offset),
            None => Ok(self.watermarks(partition).await?.1),
        }
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        // An error means that the pool's thread has ended.
        let _ = self.pool.send(PoolCommand::Stop);
    }
}

pub(super) struct Open {
    partition: Partition,
    from: Offset,
    reply: oneshot::Sender<Result<KafkaReader, LogError>>,
}

pub(super) enum PoolCommand {
    Open(Open),
    Close { consumer: usize, partition: Partition, queue: Box<RecordQueue> },
    Stop,
}

/// State shared by a reader and the pool.
#[derive(Default)]
pub(super) struct ReaderSignals {
    /// Notified when the queue is no longer empty, or one of the flags was set.
    pub(super) ready: Notify,
    /// Whether the node stops.
    pub(super) closed: AtomicBool,
    /// Whether a record bypassed the queue, so that the reader could miss it.
    pub(super) broken: AtomicBool,
}

impl ReaderSignals {
    fn raise(&self, signal: &AtomicBool) {
        signal.store(true, Ordering::Release);
        self.ready.notify_one();
    }
}

struct PooledConsumer {
    consumer: Arc<ReaderConsumer>,
    taken: HashMap<Partition, Arc<ReaderSignals>>,
}

impl PooledConsumer {
    fn start(settings: &ClientConfig) -> Result<Self, KafkaError> {
        let context = ClientLog::new("reader");
        let consumer = BaseConsumer::from_config_and_context(settings, context)?;
        Ok(Self { consumer: Arc::new(consumer), taken: HashMap::new() })
    }

    /// Serves events of the library. Records must come through the queues of their partitions only.
    fn serve(&self) {
        for _ in 0..SERVE_EVENTS_MAX {
            let Some(event) = self.consumer.poll(SERVE_FOR) else { break };
            let Ok(message) = event else { continue };
            let partition = u32::try_from(message.partition()).unwrap_or_default();
            tracing::error!(
                partition,
                offset = message.offset(),
                "record outside its partition's queue"
            );
            if let Some(signals) = self.taken.get(&partition) {
                signals.raise(&signals.broken);
            }
        }
    }
}

/// The pool of consumers, on its thread. Ends once `Readers` and all readers are dropped.
struct ConsumerPool {
    settings: ClientConfig,
    topic: String,
    consumers: Vec<PooledConsumer>,
    /// Requests for a partition that all consumers serve already.
    waiting: VecDeque<Open>,
    /// Sender that each reader gets a clone of. Dropped on stop, so that the channel closes with the
    /// last reader.
    own: Option<mpsc::Sender<PoolCommand>>,
    fitness: Arc<Fitness>,
}

impl ConsumerPool {
    fn run(mut self, commands: &mpsc::Receiver<PoolCommand>) {
        loop {
            match commands.recv_timeout(SERVE_EVERY) {
                Ok(PoolCommand::Open(open)) => self.open(open),
                Ok(PoolCommand::Close { consumer, partition, queue }) => {
                    self.close(consumer, partition, *queue);
                }
                Ok(PoolCommand::Stop) => self.stop(),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
            }
            self.consumers.iter().for_each(PooledConsumer::serve);
        }
        tracing::debug!("readers ended");
    }

    fn open(&mut self, open: Open) {
        if open.reply.is_closed() {
            return;
        }
        let Some(own) = self.own.clone() else {
            // Stopped. The opener sees that its reply channel is closed.
            return;
        };
        let Some(consumer) = self.free_consumer(open.partition) else {
            self.waiting.retain(|open| !open.reply.is_closed());
            self.waiting.push_back(open);
            return;
        };
        let Open { partition, from, reply } = open;
        let opened = self.assign(consumer, partition, from, own);
        // If the opener stopped waiting, the reader is dropped here, which closes it.
        let _ = reply.send(opened);
    }

    fn free_consumer(&mut self, partition: Partition) -> Option<usize> {
        if let Some(free) =
            self.consumers.iter().position(|pooled| !pooled.taken.contains_key(&partition))
        {
            return Some(free);
        }
        if self.consumers.len() == CONSUMERS_MAX {
            return None;
        }
        match PooledConsumer::start(&self.settings) {
            Ok(pooled) => self.consumers.push(pooled),
            Err(error) => {
                tracing::warn!(%error, "another consumer not started");
                return None;
            }
        }
        Some(self.consumers.len() - 1)
    }

    fn assign(
        &mut self,
        index: usize,
        partition: Partition,
        from: Offset,
        pool: mpsc::Sender<PoolCommand>,
    ) -> Result<KafkaReader, LogError> {
        let operation = || format!("opening partition {partition} at {from}");
        let pooled = &mut self.consumers[index];
        let native = native_partition(partition);
        let signals = Arc::new(ReaderSignals::default());
        // Split before the assignment: records fetched before would go to the common queue.
        let mut queue = pooled
            .consumer
            .split_partition_queue(&self.topic, native)
            .ok_or_else(|| failed(operation(), KafkaError::Canceled))?;
        drain(&queue);
        let wake = Arc::clone(&signals);
        queue.set_nonempty_callback(move || wake.ready.notify_one());
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.topic, native, NativeOffset::Offset(native_offset(from)))
            .and_then(|()| pooled.consumer.incremental_assign(&list))
            .map_err(|error| failed(operation(), error))?;
        pooled.taken.insert(partition, Arc::clone(&signals));
        Ok(KafkaReader {
            partition,
            next: from,
            consumer: index,
            queue: Some(Box::new(queue)),
            signals,
            pool,
            fitness: self.fitness.clone(),
            failure: None,
            buffer_bytes: 0,
        })
    }

    fn close(&mut self, index: usize, partition: Partition, queue: RecordQueue) {
        let pooled = &mut self.consumers[index];
        let mut list = TopicPartitionList::new();
        list.add_partition(&self.topic, native_partition(partition));
        if let Err(error) = pooled.consumer.incremental_unassign(&list) {
            tracing::warn!(partition, %error, "partition of a reader not unassigned");
        }
        drain(&queue);
        drop(queue);
        pooled.taken.remove(&partition);
        // Requests that timed out must not take the consumer.
        self.waiting.retain(|open| !open.reply.is_closed());
        while !self.consumers[index].taken.contains_key(&partition)
            && let Some(index) = self.waiting.iter().position(|open| open.partition == partition)
            && let Some(open) = self.waiting.remove(index)
        {
            self.open(open);
        }
    }

    fn stop(&mut self) {
        self.own = None;
        self.waiting.clear();
        for signals in self.consumers.iter().flat_map(|pooled| pooled.taken.values()) {
            signals.raise(&signals.closed);
        }
    }
}

/// Empties the queue of an earlier reader. The library drops its records at the next assignment, but
/// not its errors, and the next reader would fail on them.
fn drain(queue: &RecordQueue) {
    while queue.poll(Duration::ZERO).is_some() {}
}
