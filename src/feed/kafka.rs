//! The decision feed on Kafka: one topic with as many partitions as the request log.
//!
//! What it carries may be lost, because whoever waits can ask the store; so it is fast rather
//! than safe. One replica's word is enough, and nothing is sent twice: a second attempt could
//! overtake what was sent after the first, and a gap does less harm than disorder.

use std::{
    cmp::Ordering,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use parking_lot::RwLock;
use rdkafka::{
    ClientConfig, ClientContext, Message, Offset as NativeOffset, TopicPartitionList,
    config::{FromClientConfigAndContext, RDKafkaLogLevel},
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
    message::{BorrowedMessage, Header, OwnedHeaders},
    producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer},
};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::{self, error::TrySendError};
use tracing::{debug, warn};

use super::{DecisionFeed, FOLLOWER_MESSAGES_MAX, FeedError, FeedEvent};
use crate::{
    config::KafkaConfig,
    domain::{
        ids::Partition,
        keys::{KEY_ID, Keys, hex},
    },
    kafka::client::{self, ClientLog, MAC_HEADER, Topics, millis, native_offset, native_partition},
    telemetry::metrics,
    wire::{FORMAT, feed_message::FeedMessage},
};

const MAC_PURPOSE: &str = "feed";

/// Messages that may wait to be sent: a second of 12 partitions at 100 batches a second each,
/// several times over. Beyond it the feed loses messages rather than hold up decisions.
const QUEUE_MESSAGES_MAX: usize = 8_192;

/// The same in memory.
const QUEUE_KIB_MAX: usize = 64 * 1_024;

/// What could not be sent by now, nobody waits for any more: the watermark goes out once a second.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(2);

/// Longest that a broker holds a fetch that finds nothing.
const FETCH_WAIT: Duration = Duration::from_millis(100);

/// How long a follower waits for news; also how soon it notices that nobody listens any more.
const POLL_FOR: Duration = Duration::from_millis(100);

/// Fetched messages that wait inside the library, per partition; more of them wait in the
/// follower's own queue.
const FETCHED_MESSAGES: usize = 256;

/// The same in memory, over all partitions.
const FETCHED_KIB: usize = 16 * 1_024;

/// A follower that can't read tells of a gap no more often: the answer to each is a read of the
/// store for every waiter.
const GAP_EVERY: Duration = Duration::from_secs(1);

/// The decision feed on Kafka.
pub struct KafkaFeed {
    codec: Arc<FeedCodec>,
    settings: ClientConfig,
    topic: String,
    partitions: u32,
    producer: RwLock<Option<ThreadedProducer<Publisher>>>,
}

impl KafkaFeed {
    /// Starts the publisher. `partitions` are the layout's. The topic must be there
    /// (`log::kafka::topics::ensure_topics`).
    ///
    /// # Errors
    /// A client that can't be made. Brokers that don't answer are none: the clients go on trying.
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
                warn!(%error, "kafka does not answer the feed yet");
            }
            Ok(Self {
                codec: Arc::new(FeedCodec { keys }),
                settings: following(&config),
                topic,
                partitions,
                producer: RwLock::new(Some(producer)),
            })
        };
        let connected = tokio::task::spawn_blocking(connect).await;
        connected.map_err(|error| failed("starting the feed", error))?
    }
}

impl Drop for KafkaFeed {
    fn drop(&mut self) {
        let producer = self.producer.get_mut();
        client::end_elsewhere(producer.take());
    }
}

fn publishing(config: &KafkaConfig) -> ClientConfig {
    let mut settings = client::base(config);
    settings
        .set("acks", "1")
        .set("message.send.max.retries", "0")
        // Messages are batches already.
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
        let operation = || format!("publishing {} to {}", partition, self.topic);
        let (value, mac) =
            self.codec.encode(&message).map_err(|error| failed(operation(), error))?;
        let headers = OwnedHeaders::new_with_capacity(1)
            .insert(Header { key: MAC_HEADER, value: Some(&mac) });
        let record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(&self.topic)
            .partition(native_partition(partition))
            .payload(&value[..])
            .headers(headers);
        let producer = self.producer.read();
        // It is only taken on drop.
        let Some(producer) = producer.as_ref() else { return Ok(()) };
        producer.send(record).map_err(|(error, _)| {
            metrics::feed_lost("overrun");
            failed(operation(), error)
        })
    }

    async fn follow(&self) -> Result<mpsc::Receiver<FeedEvent>, FeedError> {
        let (events, followed) = mpsc::channel(FOLLOWER_MESSAGES_MAX);
        let follower = Follower {
            codec: Arc::clone(&self.codec),
            topic: self.topic.clone(),
            partitions: self.partitions,
            events,
            gap: false,
            said: None,
            astray: false,
        };
        let context = ClientLog::new("follower");
        let consumer = Following::from_config_and_context(&self.settings, context)
            .map_err(|error| failed("following the feed", error))?;
        let consumer = Arc::new(consumer);
        let ended = follower.start(Arc::clone(&consumer)).await;
        if ended.is_err() {
            client::end_elsewhere(consumer);
        }
        ended.map(|()| followed)
    }
}

/// Counts what got lost on its way out.
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
            debug!(%error, "feed message lost");
        }
    }
}

type Following = BaseConsumer<ClientLog>;

/// Follows on a thread of its own until its listener is dropped.
struct Follower {
    codec: Arc<FeedCodec>,
    topic: String,
    partitions: u32,
    events: mpsc::Sender<FeedEvent>,
    /// The listener must be told of a gap before it gets another message.
    gap: bool,
    /// When it was last told of one that came from the brokers.
    said: Option<Instant>,
    /// Some partition is no longer where it was read.
    astray: bool,
}

impl Follower {
    /// Finds the end of every partition, and goes on from there on a thread: the ends must be
    /// known before anybody relies on being told.
    async fn start(self, consumer: Arc<Following>) -> Result<(), FeedError> {
        let mut list = TopicPartitionList::new();
        for partition in 0..self.partitions {
            let (_, end) = client::watermarks(Arc::clone(&consumer), &self.topic, partition)
                .await
                .map_err(|error| failed("looking for the end of the feed", error))?;
            let end = NativeOffset::Offset(native_offset(end));
            list.add_partition_offset(&self.topic, native_partition(partition), end)
                .map_err(|error| failed("following the feed", error))?;
        }
        consumer.assign(&list).map_err(|error| failed("following the feed", error))?;
        std::thread::Builder::new()
            .name("kafka-follower".to_owned())
            .spawn(move || self.run(&consumer))
            .map(drop)
            .map_err(|error| failed("starting the thread of a follower", error))
    }

    fn run(mut self, consumer: &Following) {
        while !self.events.is_closed() {
            match consumer.poll(POLL_FOR) {
                Some(Ok(message)) => self.take(&message),
                Some(Err(error)) => self.stumble(&error),
                None => {}
            }
            if consumer.context().take_lost() {
                self.lose();
            }
            self.tell_of_gap();
            if self.astray {
                self.find_end(consumer);
            }
        }
        debug!("follower ended");
    }

    fn take(&mut self, message: &BorrowedMessage<'_>) {
        let partition = Partition::try_from(message.partition()).unwrap_or_default();
        let value = message.payload().unwrap_or_default();
        let mac = client::mac_of(message).unwrap_or_default();
        match self.codec.decode(partition, value, &mac) {
            Ok(message) => self.send(FeedEvent::Message(Arc::new(message))),
            Err(reason) => {
                metrics::feed_lost(reason);
                debug!(partition, offset = message.offset(), reason, "feed message ignored");
            }
        }
    }

    fn send(&mut self, event: FeedEvent) {
        if !self.tell_of_gap() {
            return;
        }
        if let Err(TrySendError::Full(_)) = self.events.try_send(event) {
            self.gap = true;
        }
    }

    /// Whether the listener knows of every gap so far.
    fn tell_of_gap(&mut self) -> bool {
        if self.gap {
            self.gap = matches!(self.events.try_send(FeedEvent::Gap), Err(TrySendError::Full(_)));
        }
        !self.gap
    }

    /// Nothing comes for now, or something will never come.
    fn lose(&mut self) {
        if self.said.is_none_or(|at| at.elapsed() >= GAP_EVERY) {
            self.said = Some(Instant::now());
            self.gap = true;
        }
    }

    fn stumble(&mut self, error: &KafkaError) {
        debug!(%error, "feed not readable");
        self.lose();
        let code = error.rdkafka_error_code();
        if let Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::LogTruncation) = code {
            self.astray = true;
        }
    }

    /// What the partitions held is gone; whatever comes next is at their ends.
    fn find_end(&mut self, consumer: &Following) {
        let mut list = TopicPartitionList::new();
        list.add_partition_range(&self.topic, 0, native_partition(self.partitions) - 1);
        let assigned =
            list.set_all_offsets(NativeOffset::End).and_then(|()| consumer.assign(&list));
        match assigned {
            Ok(()) => (self.astray, self.gap) = (false, true),
            Err(error) => warn!(%error, "feed could not be followed from its end"),
        }
    }
}

/// Bytes ↔ messages.
struct FeedCodec {
    keys: Arc<Keys>,
}

#[derive(Serialize)]
struct Written<'a> {
    v: u32,
    #[serde(flatten)]
    message: &'a FeedMessage,
}

/// What tells how the rest is to be read, and under which MAC.
#[derive(Deserialize)]
struct Envelope {
    v: u32,
    log_epoch: u32,
}

impl FeedCodec {
    fn encode(&self, message: &FeedMessage) -> Result<(Vec<u8>, Vec<u8>), serde_json::Error> {
        let value = serde_json::to_vec(&Written { v: FORMAT.into(), message })?;
        let mac = self.mac(message.log_epoch, message.partition, &value);
        Ok((value, mac))
    }

    /// The message, or why it is none, as the label of a metric.
    fn decode(
        &self,
        partition: Partition,
        value: &[u8],
        mac: &[u8],
    ) -> Result<FeedMessage, &'static str> {
        let envelope: Envelope = serde_json::from_slice(value).map_err(|_| "malformed")?;
        if mac != self.mac(envelope.log_epoch, partition, value) {
            return Err("forged");
        }
        match envelope.v.cmp(&FORMAT.into()) {
            Ordering::Greater => return Err("newer"),
            Ordering::Less => return Err("malformed"),
            Ordering::Equal => {}
        }
        let message: FeedMessage = serde_json::from_slice(value).map_err(|_| "malformed")?;
        if message.partition == partition { Ok(message) } else { Err("misplaced") }
    }

    fn mac(&self, log_epoch: u32, partition: Partition, value: &[u8]) -> Vec<u8> {
        let mac = self.keys.mac(MAC_PURPOSE, log_epoch, partition, value);
        format!("{KEY_ID}:{}", hex(&mac)).into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::{
            answer::{Answer, CouponFace},
            decision::{Reason, Refusal},
            ids::{CampaignId, Timestamp, UserId},
        },
        wire::feed_message::FeedDecision,
    };

    fn codec(secret: &[u8]) -> FeedCodec {
        FeedCodec { keys: Arc::new(Keys::derive(secret)) }
    }

    fn message() -> FeedMessage {
        let coupon = CouponFace { sequence: 7, code: "SPRING-1".into(), issued_at: Timestamp(5) };
        let answers = [
            Answer::Issued { coupon: coupon.clone() },
            Answer::AlreadyIssued { coupon },
            Answer::Rejected { reason: Reason::SoldOut },
            Answer::Accepted,
            Answer::Refused { refusal: Refusal::StaleVersion },
            Answer::Refused { refusal: Refusal::QuotaBelowIssued { issued: 3 } },
        ];
        let settled = |(offset, answer)| FeedDecision {
            offset,
            campaign_id: CampaignId::parse("spring").unwrap(),
            user_id: (offset % 2 == 0).then(|| UserId::parse("u1").unwrap()),
            answer,
        };
        FeedMessage {
            log_epoch: 1,
            partition: 3,
            from: 10,
            to: 16,
            end: 20,
            halted: Some("why".to_owned()),
            decisions: (10..).zip(answers).map(settled).collect(),
        }
    }

    #[test]
    fn every_kind_of_answer_survives_the_way() {
        let codec = codec(&[7; 32]);
        let (value, mac) = codec.encode(&message()).unwrap();
        assert_eq!(codec.decode(3, &value, &mac), Ok(message()));
        assert!(value.starts_with(br#"{"v":2,"#), "{}", String::from_utf8_lossy(&value));
    }

    #[test]
    fn what_this_instance_did_not_write_there_is_ignored() {
        let (value, mac) = codec(&[7; 32]).encode(&message()).unwrap();
        let reader = codec(&[7; 32]);
        assert_eq!(reader.decode(2, &value, &mac), Err("forged"), "moved to another partition");
        assert_eq!(reader.decode(3, &value, b""), Err("forged"), "no MAC");
        assert_eq!(codec(&[8; 32]).decode(3, &value, &mac), Err("forged"), "another secret");
        assert_eq!(reader.decode(3, b"[]", &reader.mac(1, 3, b"[]")), Err("malformed"));
        let newer = br#"{"v":3,"log_epoch":1}"#;
        assert_eq!(reader.decode(3, newer, &reader.mac(1, 3, newer)), Err("newer"));
        let misplaced = reader.encode(&message()).unwrap().0;
        let mac = reader.mac(1, 2, &misplaced);
        assert_eq!(reader.decode(2, &misplaced, &mac), Err("misplaced"));
    }

    #[test]
    fn a_slow_follower_is_told_of_a_gap_before_it_gets_more() {
        let (events, mut followed) = mpsc::channel(2);
        let mut follower = Follower {
            codec: Arc::new(codec(&[7; 32])),
            topic: String::new(),
            partitions: 0,
            events,
            gap: false,
            said: None,
            astray: false,
        };
        let event = |to| FeedEvent::Message(Arc::new(FeedMessage { to, ..message() }));
        [1, 2, 3].into_iter().for_each(|to| follower.send(event(to)));
        assert_eq!(followed.try_recv(), Ok(event(1)), "what fits waits");
        follower.send(event(4));
        assert_eq!(followed.try_recv(), Ok(event(2)));
        assert_eq!(followed.try_recv(), Ok(FeedEvent::Gap), "for the third");
        follower.send(event(5));
        assert_eq!(followed.try_recv(), Ok(FeedEvent::Gap), "for the fourth");
        assert_eq!(followed.try_recv(), Ok(event(5)));
        assert!(followed.try_recv().is_err());
    }
}
