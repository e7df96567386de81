//! The decision feed on Kafka: one topic with as many partitions as the request log.
//!
//! Messages may be lost, because a waiter can read the store instead. So the feed is fast rather
//! than safe: one replica acknowledges, and the client does not retry. A retry could arrive after a
//! later message, and lost messages do less harm than reordered ones.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use parking_lot::Mutex;
use rdkafka::{
    ClientConfig, ClientContext, Message, Offset as NativeOffset, TopicPartitionList,
    config::{FromClientConfigAndContext, RDKafkaLogLevel},
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
    message::{BorrowedMessage, Header, OwnedHeaders},
    producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer},
};
use tokio::sync::mpsc;

use super::{DecisionFeed, FeedError, FeedEvent, NODE_SAYINGS_MAX, follower::FollowerSender};
use crate::{
    config::KafkaConfig,
    domain::{ids::Partition, rows::NodeRow},
    kafka::{
        client::{self, ClientLog, MAC_HEADER, Topics, millis, native_offset, native_partition},
        errors::Meaning,
    },
    telemetry::metrics,
    wire::{
        feed_codec::FeedCodec,
        feed_message::{AnyMessage, FeedMessage, NodeMessage},
    },
};

/// Most messages in the producer's queue: several seconds of 12 partitions with 100 batches a second
/// each. When it is full, messages are lost, so that the feed never delays decisions.
const QUEUE_MESSAGES_MAX: usize = 8_192;

/// Most KiB in the producer's queue.
const QUEUE_KIB_MAX: usize = 64 * 1_024;

/// Time after which an unsent message is dropped. Newer ones make it useless by then: every owner
/// publishes its watermark once a second.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(2);

/// Longest that a broker holds a fetch that finds nothing.
const FETCH_WAIT: Duration = Duration::from_millis(100);

/// Longest wait for a message, and so for noticing that the follower's receiver was dropped.
const POLL_FOR: Duration = Duration::from_millis(100);

/// Messages per partition that the Kafka library fetches ahead. Most messages wait in the channel to
/// the receiver instead.
const FETCHED_MESSAGES: usize = 256;

/// Most KiB that the Kafka library fetches ahead, over all partitions.
const FETCHED_KIB: usize = 16 * 1_024;

/// Most memory of the clients: the queue of the producer, and what the follower receives at once and has
/// fetched ahead.
pub(crate) const CLIENTS_BYTES: usize =
    (QUEUE_KIB_MAX + FETCHED_KIB) * 1_024 + client::RECEIVE_BYTES_MAX;

/// Listeners to what nodes say of themselves. The followers' threads pass it on.
type Listeners = Arc<Mutex<Vec<mpsc::Sender<NodeRow>>>>;

/// The decision feed on Kafka.
pub struct KafkaFeed {
    codec: FeedCodec,
    /// Settings of a follower's consumer.
    settings: ClientConfig,
    topic: String,
    partitions: u32,
    listeners: Listeners,
    /// Taken on drop.
    producer: Option<ThreadedProducer<Publisher>>,
}

impl KafkaFeed {
    /// Starts the producer. `codec` is the instance's, `partitions` the layout's number. The topic must exist
    /// (`kafka::topics::ensure_topics`).
    ///
    /// # Errors
    /// [`FeedError`] if a client cannot be created. Unreachable brokers are no error: the client
    /// connects once they answer.
    pub async fn connect(
        config: &KafkaConfig,
        codec: FeedCodec,
        partitions: u32,
    ) -> Result<Self, FeedError> {
        let config = config.clone();
        let topic = Topics::under(&config.topic_prefix).result;
        let connect = move || {
            let context = Publisher { log: ClientLog::new("feed") };
            let producer: ThreadedProducer<Publisher> =
                ThreadedProducer::from_config_and_context(&publishing(&config), context)
                    .map_err(|error| failed("starting the feed", error))?;
            if let Err(error) =
                producer.client().fetch_metadata(Some(&topic), client::QUERY_TIMEOUT)
            {
                tracing::warn!(%error, "decision feed cannot reach kafka yet, retrying");
            }
            Ok(Self {
                codec,
                settings: following(&config),
                topic,
                partitions,
                listeners: Listeners::default(),
                producer: Some(producer),
            })
        };
        let connected = tokio::task::spawn_blocking(connect).await;
        connected.map_err(|error| failed("starting the feed", error))?
    }
}

impl KafkaFeed {
    fn send(
        &self,
        partition: Partition,
        (value, mac): &(Vec<u8>, Vec<u8>),
    ) -> Result<(), FeedError> {
        // `None` only during drop.
        let Some(producer) = &self.producer else { return Ok(()) };
        let headers =
            OwnedHeaders::new_with_capacity(1).insert(Header { key: MAC_HEADER, value: Some(mac) });
        let record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(&self.topic)
            .partition(native_partition(partition))
            .payload(&value[..])
            .headers(headers);
        producer.send(record).map_err(|(error, _)| {
            metrics::feed_lost("overrun");
            failed(format!("publishing partition {partition} to {}", self.topic), error)
        })
    }
}

impl Drop for KafkaFeed {
    fn drop(&mut self) {
        client::drop_in_background(self.producer.take());
    }
}

fn publishing(config: &KafkaConfig) -> ClientConfig {
    let mut settings = client::base(config);
    settings
        .set("acks", "1")
        .set("message.send.max.retries", "0")
        // A message is a batch of decisions already.
        .set("linger.ms", "0")
        .set("message.timeout.ms", millis(MESSAGE_TIMEOUT))
        .set("queue.buffering.max.messages", QUEUE_MESSAGES_MAX.to_string())
        .set("queue.buffering.max.kbytes", QUEUE_KIB_MAX.to_string());
    settings
}

fn following(config: &KafkaConfig) -> ClientConfig {
    let mut settings = client::consumer(config);
    settings
        .set("fetch.wait.max.ms", millis(FETCH_WAIT))
        .set("queued.min.messages", FETCHED_MESSAGES.to_string())
        .set("queued.max.messages.kbytes", FETCHED_KIB.to_string());
    settings
}

fn failed(
    operation: impl Into<String>,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> FeedError {
    FeedError { operation: operation.into(), source: source.into() }
}

#[async_trait]
impl DecisionFeed for KafkaFeed {
    async fn publish(&self, message: FeedMessage) -> Result<(), FeedError> {
        self.send(message.partition, &self.codec.encode(&message))
    }

    async fn follow(&self) -> Result<mpsc::Receiver<FeedEvent>, FeedError> {
        let (events, followed) = FollowerSender::new();
        let follower = FollowerThread {
            codec: self.codec.clone(),
            topic: self.topic.clone(),
            partitions: self.partitions,
            events,
            listeners: self.listeners.clone(),
            position_lost: false,
        };
        let context = ClientLog::new("follower");
        let consumer = Following::from_config_and_context(&self.settings, context)
            .map_err(|error| failed("following the feed", error))?;
        let consumer = Arc::new(consumer);
        let ended = follower.start(Arc::clone(&consumer)).await;
        if ended.is_err() {
            client::drop_in_background(consumer);
        }
        ended.map(|()| followed)
    }

    async fn say(&self, message: NodeMessage) -> Result<(), FeedError> {
        self.send(message.partition, &self.codec.encode_node(&message))
    }

    fn listen(&self) -> mpsc::Receiver<NodeRow> {
        let (listener, heard) = mpsc::channel(NODE_SAYINGS_MAX);
        self.listeners.lock().push(listener);
        heard
    }
}

/// Counts messages that were not delivered.
struct Publisher {
    log: ClientLog,
}

impl ClientContext for Publisher {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.log.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.log.error(&error, reason);
    }
}

impl ProducerContext for Publisher {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result {
            metrics::feed_lost("unsent");
            tracing::debug!(%error, "feed message not delivered");
        }
    }
}

type Following = BaseConsumer<ClientLog>;

/// One follower: a consumer on a thread of its own, until the receiver is dropped.
struct FollowerThread {
    codec: FeedCodec,
    topic: String,
    partitions: u32,
    events: FollowerSender,
    listeners: Listeners,
    /// Whether the consumer's position in some partition does not exist any more.
    position_lost: bool,
}

impl FollowerThread {
    /// Finds the end of every partition and starts the thread there. The ends are read before
    /// `follow` returns, because its caller relies on every message published from then on.
    async fn start(self, consumer: Arc<Following>) -> Result<(), FeedError> {
        let mut list = TopicPartitionList::new();
        for partition in 0..self.partitions {
            let (_, end) = client::watermarks(Arc::clone(&consumer), &self.topic, partition)
                .await
                .map_err(|error| failed("reading the end of the feed", error))?;
            let end = NativeOffset::Offset(native_offset(end));
            list.add_partition_offset(&self.topic, native_partition(partition), end)
                .map_err(|error| failed("following the feed", error))?;
        }
        consumer.assign(&list).map_err(|error| failed("following the feed", error))?;
        std::thread::Builder::new()
            .name("kafka-follower".to_owned())
            .spawn(move || self.run(&consumer))
            .map(drop)
            .map_err(|error| failed("starting the thread of a feed follower", error))
    }

    fn run(mut self, consumer: &Following) {
        while !self.events.is_closed() {
            match consumer.poll(POLL_FOR) {
                Some(Ok(message)) => self.on_message(&message),
                Some(Err(error)) => self.on_error(&error),
                None => {}
            }
            if consumer.context().take_lost() {
                self.events.may_miss(Instant::now());
            }
            if self.position_lost {
                self.seek_to_end(consumer);
            }
        }
        tracing::debug!("feed follower ended");
    }

    fn on_message(&mut self, message: &BorrowedMessage<'_>) {
        let partition = Partition::try_from(message.partition()).unwrap_or_default();
        let value = message.payload().unwrap_or_default();
        let mac = client::mac_of(message).unwrap_or_default();
        match self.codec.decode(partition, value, &mac) {
            Ok(AnyMessage::Partition(message)) => self.events.send(&Arc::new(message)),
            Ok(AnyMessage::Node(message)) => {
                let mut listeners = self.listeners.lock();
                listeners.retain(|listener| !listener.is_closed());
                for listener in listeners.iter() {
                    // A listener that does not keep up hears the next ones.
                    let _ = listener.try_send(message.node.clone());
                }
            }
            Err(reason) => {
                metrics::feed_lost(reason);
                let offset = message.offset();
                tracing::debug!(partition, offset, reason, "feed message ignored");
            }
        }
    }

    fn on_error(&mut self, error: &KafkaError) {
        tracing::debug!(%error, "decision feed not readable");
        self.events.may_miss(Instant::now());
        if Meaning::of(error) == Meaning::OutsideLog {
            self.position_lost = true;
        }
    }

    /// Continues at the end of all partitions. The messages before are covered by a gap.
    fn seek_to_end(&mut self, consumer: &Following) {
        let mut list = TopicPartitionList::new();
        list.add_partition_range(&self.topic, 0, native_partition(self.partitions) - 1);
        let assigned =
            list.set_all_offsets(NativeOffset::End).and_then(|()| consumer.assign(&list));
        match assigned {
            Ok(()) => {
                self.position_lost = false;
                self.events.lose();
            }
            Err(error) => tracing::warn!(%error, "decision feed not readable at its end, retrying"),
        }
    }
}
