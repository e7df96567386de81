//! The producer: appends that are answered when they are durable, or when nobody can say.

use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use rdkafka::{
    ClientConfig, ClientContext,
    config::{FromClientConfigAndContext, RDKafkaLogLevel},
    error::{KafkaError, RDKafkaErrorCode},
    message::{Header, Message, OwnedHeaders, Timestamp as NativeTimestamp},
    producer::{BaseRecord, DeliveryResult, Producer as _, ProducerContext, ThreadedProducer},
};
use tokio::sync::oneshot;
use tracing::warn;

use super::failed;
use crate::{
    config::KafkaConfig,
    kafka::client::{self, ClientLog, millis, native_partition},
    log::{AppendError, LogError},
};

/// Records that may wait to be durable at once. Several times what admission lets in at once
/// (10,000 by default), so that admission is what refuses first.
const QUEUE_RECORDS_MAX: usize = 50_000;

/// The same in memory: 50,000 requests of 600 bytes with what the library adds.
const QUEUE_KIB_MAX: usize = 64 * 1_024;

/// How long a record waits for company in its batch. Without it every record is a request of its
/// own under load; more of it only adds to the latency.
const LINGER: Duration = Duration::from_millis(1);

/// Most bytes of one batch: about 1,700 requests, and half of the least that a topic must take.
const BATCH_BYTES_MAX: usize = 256 * 1_024;

/// Pause between two replacements of a producer whose state is fatal: a broker that refuses each
/// new one must not be flooded with them.
const REPLACE_EVERY: Duration = Duration::from_secs(1);

/// A record on its way.
pub(super) struct Outgoing<'a> {
    pub(super) topic: &'a str,
    pub(super) partition: u32,
    pub(super) key: &'a [u8],
    pub(super) value: &'a [u8],
    pub(super) headers: &'a [(&'a str, &'a [u8])],
}

/// What the broker said of a record that it took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Delivered {
    /// Where it stands; none where the library learned only that it was there already.
    pub(super) offset: Option<u64>,
    /// Milliseconds since the epoch by the broker's clock; none where the topic keeps the
    /// producer's time.
    pub(super) time: Option<i64>,
}

type Report = Box<oneshot::Sender<Result<Delivered, KafkaError>>>;

/// Appends records; replaced inside when the library gives the client up.
pub(super) struct Producer {
    settings: ClientConfig,
    /// Only locked for as long as a record is handed over.
    current: RwLock<Option<ThreadedProducer<Deliveries>>>,
    replaced: Mutex<Option<Instant>>,
}

impl Producer {
    /// A producer whose records are durable, or unknown after `config.append_timeout`.
    pub(super) fn connect(config: &KafkaConfig) -> Result<Self, LogError> {
        let mut settings = client::base(config);
        settings
            // Implies acks=all, and retries that neither repeat nor reorder.
            .set("enable.idempotence", "true")
            .set("linger.ms", millis(LINGER))
            .set("batch.size", BATCH_BYTES_MAX.to_string())
            .set("message.timeout.ms", millis(config.append_timeout))
            .set("request.timeout.ms", millis(config.append_timeout))
            .set("queue.buffering.max.messages", QUEUE_RECORDS_MAX.to_string())
            .set("queue.buffering.max.kbytes", QUEUE_KIB_MAX.to_string());
        let first = start(&settings).map_err(|error| failed("starting the producer", error))?;
        Ok(Self { settings, current: RwLock::new(Some(first)), replaced: Mutex::new(None) })
    }

    /// Asks the brokers for `topic` once, so that the first append need not. Blocks.
    pub(super) fn warm(&self, topic: &str) -> Result<(), KafkaError> {
        let current = self.current.read();
        let Some(producer) = current.as_ref() else { return Ok(()) };
        producer.client().fetch_metadata(Some(topic), client::QUERY_TIMEOUT).map(drop)
    }

    /// Sends a record and waits for the broker's word.
    ///
    /// # Errors
    /// [`AppendError::Overloaded`] when it was not handed over at all, otherwise
    /// [`AppendError::Unknown`]: the library does not tell which failures came before the write.
    pub(super) async fn send(&self, record: &Outgoing<'_>) -> Result<Delivered, AppendError> {
        let (report, reported) = oneshot::channel();
        self.hand_over(record, Box::new(report))?;
        match reported.await {
            Ok(Ok(delivered)) => Ok(delivered),
            Ok(Err(error)) => Err(AppendError::Unknown(error.to_string())),
            Err(_) => Err(AppendError::Unknown("the producer ended".to_owned())),
        }
    }

    fn hand_over(&self, record: &Outgoing<'_>, report: Report) -> Result<(), AppendError> {
        self.replace_if_fatal();
        let Err((error, report)) = self.try_hand_over(record, report) else { return Ok(()) };
        // Some fatal states are first heard of here.
        if self.is_fatal() {
            self.replace_if_fatal();
            return self
                .try_hand_over(record, report)
                .map_err(|(error, _)| AppendError::Overloaded(error.to_string()));
        }
        Err(AppendError::Overloaded(error.to_string()))
    }

    /// One attempt, which never waits; gives back what it could not hand over.
    fn try_hand_over(
        &self,
        record: &Outgoing<'_>,
        report: Report,
    ) -> Result<(), (KafkaError, Report)> {
        let current = self.current.read();
        let Some(producer) = current.as_ref() else { return Err((KafkaError::Canceled, report)) };
        let mut headers = OwnedHeaders::new_with_capacity(record.headers.len());
        for (key, value) in record.headers {
            headers = headers.insert(Header { key, value: Some(*value) });
        }
        let mut native = BaseRecord::with_opaque_to(record.topic, report)
            .partition(native_partition(record.partition))
            .payload(record.value)
            .headers(headers);
        if !record.key.is_empty() {
            native = native.key(record.key);
        }
        producer.send(native).map_err(|(error, native)| {
            if error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal) {
                producer.context().log.error(&error, "refused a record");
            }
            (error, native.delivery_opaque)
        })
    }

    /// A fatal state is for ever: a new client takes over, and what the old one still has is
    /// reported as failed when it ends, and so is unknown.
    fn replace_if_fatal(&self) {
        if !self.is_fatal() {
            return;
        }
        let mut replaced = self.replaced.lock();
        // Another caller may have done it while this one waited for the lock.
        if !self.is_fatal() || replaced.is_some_and(|at| at.elapsed() < REPLACE_EVERY) {
            return;
        }
        *replaced = Some(Instant::now());
        match start(&self.settings) {
            Ok(new) => {
                let mut current = self.current.write();
                let old = current.replace(new);
                drop(current);
                client::end_elsewhere(old);
                warn!("producer replaced after a fatal state");
            }
            Err(error) => warn!(%error, "producer could not be replaced, trying again later"),
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
        client::end_elsewhere(current.take());
    }
}

fn start(settings: &ClientConfig) -> Result<ThreadedProducer<Deliveries>, KafkaError> {
    let context = Deliveries { log: ClientLog::new("producer") };
    ThreadedProducer::from_config_and_context(settings, context)
}

/// Tells each sender what became of its record.
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
    type DeliveryOpaque = Report;

    fn delivery(&self, result: &DeliveryResult<'_>, report: Report) {
        let outcome = match result {
            Ok(message) => Ok(Delivered {
                offset: u64::try_from(message.offset()).ok(),
                time: match message.timestamp() {
                    NativeTimestamp::LogAppendTime(time) => Some(time),
                    NativeTimestamp::CreateTime(_) | NativeTimestamp::NotAvailable => None,
                },
            }),
            Err((error, _)) => {
                if error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal) {
                    self.log.error(error, "gave a record up");
                }
                Err(error.clone())
            }
        };
        // A caller that went away does not want to know.
        let _ = report.send(outcome);
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
        }
    }

    async fn send(producer: &Producer) -> Result<Delivered, AppendError> {
        let headers: &[(&str, &[u8])] = &[("h", b"v")];
        producer.send(&Outgoing { topic: "t", partition: 0, key: b"k", value: b"v", headers }).await
    }

    /// A broker that refuses a producer its id puts the client into a fatal state.
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
        assert!(producer.replaced.lock().is_some());
    }

    #[tokio::test]
    async fn an_append_that_nobody_confirms_in_time_is_unknown() {
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
    async fn what_is_under_way_when_the_producer_ends_is_unknown() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("t", 1, 1).unwrap();
        cluster.broker_down(1).unwrap();
        let producer =
            Producer::connect(&config(&cluster.bootstrap_servers(), Duration::from_secs(30)))
                .unwrap();
        let (report, reported) = oneshot::channel();
        let record = Outgoing { topic: "t", partition: 0, key: b"k", value: b"v", headers: &[] };
        producer.hand_over(&record, Box::new(report)).unwrap();
        drop(producer);
        assert!(reported.await.unwrap().is_err());
    }
}
