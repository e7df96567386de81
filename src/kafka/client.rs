//! What every Kafka client of a node has in common: settings, logs, names, errors.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rdkafka::{
    ClientConfig, ClientContext,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
    message::{BorrowedMessage, Headers, Message},
};
use tracing::{debug, error, info, warn};

use crate::config::KafkaConfig;

/// Header that carries the MAC of whatever coupond writes itself.
pub(crate) const MAC_HEADER: &str = "coupond-mac";

/// A request to a broker that is not answered in this time is taken for lost, and with it the
/// connection: below the 12 s in which another node takes over.
pub(crate) const SOCKET_TIMEOUT: Duration = Duration::from_secs(6);

/// Longest that metadata, watermarks or an admin request are waited for.
pub(crate) const QUERY_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause before a partition without a leader is asked for again.
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// Longest pause between attempts to connect. The library's own 10 s would let appends time out
/// long after the broker is back.
const RECONNECT_MAX: Duration = Duration::from_millis(500);

/// Names of the topics under a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Topics {
    pub(crate) request: String,
    pub(crate) result: String,
    pub(crate) dead_letter: String,
}

impl Topics {
    pub(crate) fn under(prefix: &str) -> Self {
        Self {
            request: format!("{prefix}.request"),
            result: format!("{prefix}.result"),
            dead_letter: format!("{prefix}.dead-letter"),
        }
    }
}

/// Settings that every client starts from.
pub(crate) fn base(config: &KafkaConfig) -> ClientConfig {
    let mut client = ClientConfig::new();
    client
        .set("bootstrap.servers", config.brokers.join(","))
        .set("client.id", "coupond")
        // A topic made by accident would have the broker's settings and partitions.
        .set("allow.auto.create.topics", "false")
        .set("socket.timeout.ms", millis(SOCKET_TIMEOUT))
        .set("socket.connection.setup.timeout.ms", millis(SOCKET_TIMEOUT))
        .set("socket.keepalive.enable", "true")
        .set("reconnect.backoff.ms", "50")
        .set("reconnect.backoff.max.ms", millis(RECONNECT_MAX));
    client
}

/// Settings that every consumer starts from: nothing is committed or skipped by itself, and what
/// is in the log is a request, whatever transaction somebody may have it in.
pub(crate) fn consumer(config: &KafkaConfig) -> ClientConfig {
    let mut client = base(config);
    client
        // The library wants a group even of a consumer that never joins one.
        .set("group.id", &config.group)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error")
        .set("isolation.level", "read_uncommitted")
        .set("check.crcs", "true")
        .set("fetch.error.backoff.ms", "50")
        .set("fetch.queue.backoff.ms", "20");
    client
}

/// A duration as the library's settings spell it.
pub(crate) fn millis(duration: Duration) -> String {
    duration.as_millis().to_string()
}

/// A partition as the library counts it.
pub(crate) fn native_partition(partition: u32) -> i32 {
    i32::try_from(partition).unwrap_or(i32::MAX)
}

/// An offset as the library counts it.
pub(crate) fn native_offset(offset: u64) -> i64 {
    i64::try_from(offset).unwrap_or(i64::MAX)
}

/// The low and the high watermark of a partition, asked of its leader. While the partition has
/// none, as a moment after its topic was made, it is asked again.
pub(crate) async fn watermarks(
    consumer: Arc<BaseConsumer<ClientLog>>,
    topic: &str,
    partition: u32,
) -> Result<(u64, u64), KafkaError> {
    let deadline = tokio::time::Instant::now() + QUERY_TIMEOUT;
    loop {
        let (asked, topic) = (Arc::clone(&consumer), topic.to_owned());
        let ask =
            move || asked.fetch_watermarks(&topic, native_partition(partition), QUERY_TIMEOUT);
        let answer = tokio::task::spawn_blocking(ask).await.map_err(|_| KafkaError::Canceled)?;
        match answer {
            Ok((low, high)) => {
                return Ok((u64::try_from(low).unwrap_or(0), u64::try_from(high).unwrap_or(0)));
            }
            Err(error) if is_passing(&error) && tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(ASK_AGAIN).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Whether a leader is about to be there.
pub(crate) fn is_passing(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::NotLeaderForPartition
                | RDKafkaErrorCode::LeaderNotAvailable
                | RDKafkaErrorCode::ReplicaNotAvailable
                | RDKafkaErrorCode::BrokerTransportFailure
        )
    )
}

/// A Kafka client operation that failed. Retrying may help.
#[derive(Debug, thiserror::Error)]
#[error("{operation}")]
pub struct ClientError {
    /// What was attempted, with its data.
    pub operation: String,
    /// Why it failed.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// Names the operation that failed.
pub(crate) fn failed(operation: impl Into<String>, source: KafkaError) -> ClientError {
    ClientError { operation: operation.into(), source: Box::new(source) }
}

/// The MAC header of a record, if it has one.
pub(crate) fn mac_of(message: &BorrowedMessage<'_>) -> Option<Vec<u8>> {
    let headers = message.headers()?;
    // The library panics at a header name that is not UTF-8, and anybody can write one: such a
    // record has no MAC, and must not stop whoever reads it.
    let find = || {
        headers
            .iter()
            .find(|header| header.key == MAC_HEADER)
            .map(|header| header.value.unwrap_or_default().to_vec())
    };
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(find)).unwrap_or_default()
}

/// What the library says about a client, passed on to the node's own log.
#[derive(Debug)]
pub(crate) struct ClientLog {
    /// Which client speaks.
    role: &'static str,
    /// Set once the client can't be used any more.
    fatal: AtomicBool,
    /// Set when the client lost every broker; taken by whoever must tell somebody.
    lost: AtomicBool,
}

impl ClientLog {
    pub(crate) fn new(role: &'static str) -> Self {
        Self { role, fatal: AtomicBool::new(false), lost: AtomicBool::new(false) }
    }

    /// Whether the client is in a state from which it does not recover.
    pub(crate) fn is_fatal(&self) -> bool {
        self.fatal.load(Ordering::Acquire)
    }

    /// Whether every broker was lost since this was last asked.
    pub(crate) fn take_lost(&self) -> bool {
        self.lost.swap(false, Ordering::AcqRel)
    }

    pub(crate) fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        let client = self.role;
        match level {
            RDKafkaLogLevel::Emerg
            | RDKafkaLogLevel::Alert
            | RDKafkaLogLevel::Critical
            | RDKafkaLogLevel::Error
            | RDKafkaLogLevel::Warning => warn!(client, facility, message, "kafka client"),
            RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => {
                info!(client, facility, message, "kafka client");
            }
            RDKafkaLogLevel::Debug => debug!(client, facility, message, "kafka client"),
        }
    }

    pub(crate) fn error(&self, error: &KafkaError, reason: &str) {
        let client = self.role;
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::Fatal) => {
                self.fatal.store(true, Ordering::Release);
                error!(client, reason, "kafka client is in a fatal state");
            }
            Some(RDKafkaErrorCode::AllBrokersDown) => {
                self.lost.store(true, Ordering::Release);
                warn!(client, reason, "no kafka broker answers");
            }
            // Single connections come and go; the library tries again.
            _ => debug!(client, reason, %error, "kafka client"),
        }
    }
}

impl ClientContext for ClientLog {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.error(&error, reason);
    }
}

impl rdkafka::consumer::ConsumerContext for ClientLog {}

/// Drops a client on a thread of its own: the library waits for brokers, sometimes for seconds,
/// and sometimes for ever. Nobody waits for that thread; it ends with the process at the latest.
pub(crate) fn end_elsewhere<T: Send + 'static>(client: T) {
    let end = std::thread::Builder::new().name("kafka-end".to_owned());
    if let Err(error) = end.spawn(move || drop(client)) {
        warn!(%error, "no thread to end a kafka client on");
    }
}
