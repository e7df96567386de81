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
use rdkafka::{
    ClientConfig, ClientContext, Message, Offset as NativeOffset, TopicPartitionList,
    config::{FromClientConfigAndContext, RDKafkaLogLevel},
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
    message::{BorrowedMessage, Header, OwnedHeaders},
    producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer},
};
use tokio::sync::mpsc::{self, error::TrySendError};

use super::{DecisionFeed, FOLLOWER_MESSAGES_MAX, FeedError, FeedEvent};
use crate::{
    config::KafkaConfig,
    domain::{ids::Partition, keys::Keys},
    kafka::client::{self, ClientLog, MAC_HEADER, Topics, millis, native_offset, native_partition},
    telemetry::metrics,
    wire::feed_message::{FeedCodec, FeedMessage},
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

/// Least time between two gaps of a follower that cannot read. After each gap all waiters read the
/// store.
const GAP_EVERY: Duration = Duration::from_secs(1);

/// The decision feed on Kafka.
pub struct KafkaFeed {
    codec: FeedCodec,
    /// Settings of a follower's consumer.
    settings: ClientConfig,
    topic: String,
    partitions: u32,
    /// Taken on drop.
    producer: Option<ThreadedProducer<Publisher>>,
}

impl KafkaFeed {
    /// Starts the producer. `partitions` is the layout's number. The topic must exist
    /// (`kafka::topics::ensure_topics`).
    ///
    /// # Errors
    /// [`FeedError`] if a client cannot be created. Unreachable brokers are no error: the client
    /// connects once they answer.
    pub async fn connect(
        config: &KafkaConfig,
        keys: Arc<Keys>,
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
                codec: FeedCodec::new(keys),
                settings: following(&config),
                topic,
                partitions,
                producer: Some(producer),
            })
        };
        let connected = tokio::task::spawn_blocking(connect).await;
        connected.map_err(|error| failed("starting the feed", error))?
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
        let partition = message.partition;
        // `None` only during drop.
        let Some(producer) = &self.producer else { return Ok(()) };
        let (value, mac) = self.codec.encode(&message);
        let headers = OwnedHeaders::new_with_capacity(1)
            .insert(Header { key: MAC_HEADER, value: Some(&mac) });
        let record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(&self.topic)
            .partition(native_partition(partition))
            .payload(&value[..])
            .headers(headers);
        producer.send(record).map_err(|(error, _)| {
            metrics::feed_lost("overrun");
            failed(format!("publishing partition {partition} to {}", self.topic), error)
        })
    }

    async fn follow(&self) -> Result<mpsc::Receiver<FeedEvent>, FeedError> {
        let (events, followed) = mpsc::channel(FOLLOWER_MESSAGES_MAX);
        let follower = FollowerThread {
            codec: self.codec.clone(),
            topic: self.topic.clone(),
            partitions: self.partitions,
            events,
            gap: false,
            gap_noted: None,
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
    events: mpsc::Sender<FeedEvent>,
    /// Whether the receiver must get a gap before the next message.
    gap: bool,
    /// When the last gap caused by the brokers was noted.
    gap_noted: Option<Instant>,
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
                self.note_gap();
            }
            // Even without a message, because the next one may take long.
            self.send_gap();
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
            Ok(message) => self.send(FeedEvent::Message(Arc::new(message))),
            Err(reason) => {
                metrics::feed_lost(reason);
                let offset = message.offset();
                tracing::debug!(partition, offset, reason, "feed message ignored");
            }
        }
    }

    fn send(&mut self, event: FeedEvent) {
        // The gap goes first, so that the receiver learns of a loss where it happened. A message
        // that comes while the gap does not fit belongs to the gap.
        if !self.send_gap() {
            return;
        }
        // The thread never waits for a slow receiver: the consumer must be polled.
        if let Err(TrySendError::Full(_)) = self.events.try_send(event) {
            self.gap = true;
        }
    }

    /// Sends a pending gap. Returns whether none is pending any more.
    fn send_gap(&mut self) -> bool {
        if self.gap {
            self.gap = matches!(self.events.try_send(FeedEvent::Gap), Err(TrySendError::Full(_)));
        }
        !self.gap
    }

    /// Notes that the brokers may have messages that do not arrive.
    fn note_gap(&mut self) {
        if self.gap_noted.is_none_or(|at| at.elapsed() >= GAP_EVERY) {
            self.gap_noted = Some(Instant::now());
            self.gap = true;
        }
    }

    fn on_error(&mut self, error: &KafkaError) {
        tracing::debug!(%error, "decision feed not readable");
        self.note_gap();
        let code = error.rdkafka_error_code();
        if let Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::LogTruncation) = code {
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
                self.gap = true;
            }
            Err(error) => tracing::warn!(%error, "decision feed not readable at its end, retrying"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(to: u64) -> FeedEvent {
        FeedEvent::Message(Arc::new(FeedMessage {
            log_epoch: 1,
            partition: 0,
            from: 0,
            to,
            end: to,
            halted: None,
            decisions: Vec::new(),
        }))
    }

    #[test]
    fn a_slow_follower_gets_a_gap_first() {
        let (events, mut followed) = mpsc::channel(2);
        let mut follower = FollowerThread {
            codec: FeedCodec::new(Arc::new(Keys::derive(&[7; 32]))),
            topic: String::new(),
            partitions: 0,
            events,
            gap: false,
            gap_noted: None,
            position_lost: false,
        };
        [1, 2, 3].into_iter().for_each(|to| follower.send(message(to)));
        assert_eq!(followed.try_recv(), Ok(message(1)), "two messages fit");
        follower.send(message(4));
        assert_eq!(followed.try_recv(), Ok(message(2)));
        assert_eq!(followed.try_recv(), Ok(FeedEvent::Gap), "for the third");
        follower.send(message(5));
        assert_eq!(followed.try_recv(), Ok(FeedEvent::Gap), "for the fourth");
        assert_eq!(followed.try_recv(), Ok(message(5)));
        assert!(followed.try_recv().is_err());
    }
}
