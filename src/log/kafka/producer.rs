//! The producer of all appends. An append returns once the record is durable, or once it is unknown
//! whether it ever will be.

use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use rdkafka::{
    ClientConfig, ClientContext,
    config::{FromClientConfigAndContext, RDKafkaLogLevel},
    error::KafkaError,
    message::{Header, Message, OwnedHeaders, Timestamp as NativeTimestamp},
    producer::{BaseRecord, DeliveryResult, Producer as _, ProducerContext, ThreadedProducer},
};
use tokio::sync::oneshot;

use super::failed;
use crate::{
    config::KafkaConfig,
    domain::ids::Timestamp,
    kafka::{
        client::{self, ClientLog, millis, native_partition},
        errors::Meaning,
    },
    log::{Acknowledged, AppendError, LogError},
};

/// Most records in the producer's queue. Several times what admission lets in at once (10,000 by
/// default), so that admission refuses first.
const QUEUE_RECORDS_MAX: usize = 50_000;

/// Most KiB in the producer's queue: 50,000 requests of 600 bytes and the library's overhead.
pub(super) const QUEUE_KIB_MAX: usize = 64 * 1_024;

/// How long a record waits for others to share its batch. Without a wait, a loaded producer sends
/// each record alone; a longer wait adds latency and nothing else.
const LINGER: Duration = Duration::from_millis(1);

/// Most bytes of one batch: about 1,700 requests, and half of the least `max.message.bytes` that a
/// topic must have.
const BATCH_BYTES_MAX: usize = 256 * 1_024;

/// Least time between two replacements of a producer in a fatal state, so that a broker that
/// refuses each new one is not flooded with them.
const REPLACE_EVERY: Duration = Duration::from_secs(1);

/// A record to be sent.
pub(super) struct Outgoing<'a> {
    pub(super) topic: &'a str,
    pub(super) partition: u32,
    pub(super) key: &'a [u8],
    pub(super) value: &'a [u8],
    pub(super) headers: &'a [(&'a str, &'a [u8])],
}

/// Receives the outcome of a send.
type Reply = Box<oneshot::Sender<Result<Acknowledged, KafkaError>>>;

/// Sends records. Replaces its client when that is in a fatal state.
pub(super) struct Producer {
    settings: ClientConfig,
    /// Locked only while a record is queued. `None` only during drop.
    current: RwLock<Option<ThreadedProducer<Deliveries>>>,
    replaced_at: Mutex<Option<Instant>>,
}

impl Producer {
    /// Starts a producer. The outcome of a send is known within `config.append_timeout`.
    pub(super) fn connect(config: &KafkaConfig) -> Result<Self, LogError> {
        let mut settings = client::base(config);
        settings
            // Implies acks=all, and retries that neither duplicate nor reorder records.
            .set("enable.idempotence", "true")
            .set("linger.ms", millis(LINGER))
            .set("batch.size", BATCH_BYTES_MAX.to_string())
            // After this time the library drops the record. Otherwise a client that got "outcome
            // unknown" could find its request decided much later.
            .set("message.timeout.ms", millis(config.append_timeout))
            .set("request.timeout.ms", millis(config.append_timeout))
            .set("queue.buffering.max.messages", QUEUE_RECORDS_MAX.to_string())
            .set("queue.buffering.max.kbytes", QUEUE_KIB_MAX.to_string());
        let first = start(&settings).map_err(|error| failed("starting the producer", error))?;
        Ok(Self { settings, current: RwLock::new(Some(first)), replaced_at: Mutex::new(None) })
    }

    /// Fetches the metadata of `topic`, so that the first append need not wait for it. Blocks.
    pub(super) fn warm(&self, topic: &str) -> Result<(), KafkaError> {
        let current = self.current.read();
        let Some(producer) = current.as_ref() else { return Ok(()) };
        producer.client().fetch_metadata(Some(topic), client::QUERY_TIMEOUT).map(drop)
    }

    /// Sends a record and waits for the broker's acknowledgement.
    ///
    /// # Errors
    /// [`AppendError::Overloaded`] if the record was not queued. [`AppendError::Unknown`] on every
    /// later failure: the library does not report whether the record was written before it.
    pub(super) async fn send(&self, record: &Outgoing<'_>) -> Result<Acknowledged, AppendError> {
        let (reply, replied) = oneshot::channel();
        self.enqueue(record, Box::new(reply))?;
        match replied.await {
            Ok(Ok(acknowledged)) => Ok(acknowledged),
            Ok(Err(error)) => Err(AppendError::Unknown(error.to_string())),
            Err(_) => Err(AppendError::Unknown("the producer ended".to_owned())),
        }
    }

    fn enqueue(&self, record: &Outgoing<'_>, reply: Reply) -> Result<(), AppendError> {
        self.replace_if_fatal();
        let Err((mut error, reply)) = self.try_enqueue(record, reply) else { return Ok(()) };
        // Some fatal states are noticed only now. The record is in no queue, so it may be sent
        // again.
        if self.is_fatal() {
            self.replace_if_fatal();
            match self.try_enqueue(record, reply) {
                Ok(()) => return Ok(()),
                Err((again, _)) => error = again,
            }
        }
        Err(AppendError::Overloaded(error.to_string()))
    }

    /// Tries once to queue a record, without waiting. Returns the reply channel on failure.
    fn try_enqueue(&self, record: &Outgoing<'_>, reply: Reply) -> Result<(), (KafkaError, Reply)> {
        let current = self.current.read();
        let Some(producer) = current.as_ref() else { return Err((KafkaError::Canceled, reply)) };
        let mut headers = OwnedHeaders::new_with_capacity(record.headers.len());
        for (key, value) in record.headers {
            headers = headers.insert(Header { key, value: Some(*value) });
        }
        let mut native = BaseRecord::with_opaque_to(record.topic, reply)
            .partition(native_partition(record.partition))
            .payload(record.value)
            .headers(headers);
        if !record.key.is_empty() {
            native = native.key(record.key);
        }
        producer.send(native).map_err(|(error, native)| {
            if Meaning::of(&error) == Meaning::Fatal {
                producer.context().log.error(&error, "refused a record");
            }
            (error, native.delivery_opaque)
        })
    }

    /// Replaces the client if it is in a fatal state, from which it does not recover. The old
    /// client reports the records in its queue as failed when it is dropped, so their outcome is
    /// unknown.
    fn replace_if_fatal(&self) {
        if !self.is_fatal() {
            return;
        }
        let mut replaced_at = self.replaced_at.lock();
        // Checked again: another caller may have replaced it while this one waited for the lock.
        if !self.is_fatal() || replaced_at.is_some_and(|at| at.elapsed() < REPLACE_EVERY) {
            return;
        }
        *replaced_at = Some(Instant::now());
        match start(&self.settings) {
            Ok(new) => {
                let mut current = self.current.write();
                let old = current.replace(new);
                drop(current);
                client::drop_in_background(old);
                tracing::warn!("producer replaced after a fatal error");
            }
            Err(error) => tracing::warn!(%error, "producer not replaced, retrying"),
        }
    }

    fn is_fatal(&self) -> bool {
        let current = self.current.read();
        current.as_ref().is_some_and(|producer| producer.context().log.is_fatal())
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        let current = self.current.get_mut();
        client::drop_in_background(current.take());
    }
}

fn start(settings: &ClientConfig) -> Result<ThreadedProducer<Deliveries>, KafkaError> {
    let context = Deliveries { log: ClientLog::new("producer") };
    ThreadedProducer::from_config_and_context(settings, context)
}

/// Sends the outcome of each send to its caller.
struct Deliveries {
    log: ClientLog,
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.log.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.log.error(&error, reason);
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Reply;

    fn delivery(&self, result: &DeliveryResult<'_>, reply: Reply) {
        let outcome = match result {
            Ok(message) => Ok(Acknowledged {
                offset: u64::try_from(message.offset()).ok(),
                time: match message.timestamp() {
                    NativeTimestamp::LogAppendTime(time) => Some(Timestamp(time)),
                    NativeTimestamp::CreateTime(_) | NativeTimestamp::NotAvailable => None,
                },
            }),
            Err((error, _)) => {
                if Meaning::of(error) == Meaning::Fatal {
                    self.log.error(error, "gave a record up");
                }
                Err(error.clone())
            }
        };
        // An error means that the caller stopped waiting.
        let _ = reply.send(outcome);
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::{
        mocking::MockCluster,
        types::{RDKafkaApiKey, RDKafkaRespErr},
    };

    use super::*;

    fn config(brokers: &str, append_timeout: Duration) -> KafkaConfig {
        KafkaConfig {
            brokers: vec![brokers.to_owned()],
            topic_prefix: "t".to_owned(),
            partitions: 1,
            replication_factor: 1,
            group: "g".to_owned(),
            append_timeout,
            ..KafkaConfig::default()
        }
    }

    async fn send(producer: &Producer) -> Result<Acknowledged, AppendError> {
        let headers: &[(&str, &[u8])] = &[("h", b"v")];
        producer.send(&Outgoing { topic: "t", partition: 0, key: b"k", value: b"v", headers }).await
    }

    /// A broker that refuses a producer id puts the client into a fatal state.
    #[tokio::test]
    async fn a_producer_in_a_fatal_state_is_replaced() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("t", 1, 1).unwrap();
        cluster.request_errors(
            RDKafkaApiKey::InitProducerId,
            &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED],
        );
        let config = config(&cluster.bootstrap_servers(), Duration::from_secs(30));
        let producer = Producer::connect(&config).unwrap();
        let first = send(&producer).await.unwrap_err();
        assert!(matches!(first, AppendError::Unknown(_) | AppendError::Overloaded(_)), "{first:?}");
        assert_eq!(send(&producer).await.unwrap().offset, Some(0));
        assert!(producer.replaced_at.lock().is_some());
    }

    #[tokio::test]
    async fn an_unconfirmed_append_is_unknown() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("t", 1, 1).unwrap();
        let producer =
            Producer::connect(&config(&cluster.bootstrap_servers(), Duration::from_secs(3)))
                .unwrap();
        assert_eq!(send(&producer).await.unwrap().offset, Some(0));
        cluster.broker_down(1).unwrap();
        assert!(matches!(send(&producer).await, Err(AppendError::Unknown(_))));
    }

    #[tokio::test]
    async fn appends_of_an_ended_producer_are_unknown() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("t", 1, 1).unwrap();
        cluster.broker_down(1).unwrap();
        let producer =
            Producer::connect(&config(&cluster.bootstrap_servers(), Duration::from_secs(30)))
                .unwrap();
        let (reply, replied) = oneshot::channel();
        let record = Outgoing { topic: "t", partition: 0, key: b"k", value: b"v", headers: &[] };
        producer.enqueue(&record, Box::new(reply)).unwrap();
        drop(producer);
        assert!(replied.await.unwrap().is_err());
    }
}
