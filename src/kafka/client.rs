//! Settings, logs, names and errors of all Kafka clients of a node.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rdkafka::{
    ClientConfig, ClientContext, Offset, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
    message::{BorrowedMessage, Headers, Message},
};

use super::errors::Meaning;
use crate::{
    config::{KafkaConfig, Security},
    wire::codec::MAC_TEXT_BYTES,
};

/// Header with the MAC, on all records and messages that coupond writes.
pub(crate) const MAC_HEADER: &str = "coupond-mac";

/// Time after which a request to a broker is considered lost and its connection is closed. Below
/// the 12 s in which another node takes over.
pub(crate) const SOCKET_TIMEOUT: Duration = Duration::from_secs(6);

/// Longest wait for metadata, watermarks or an admin request.
pub(crate) const QUERY_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause before the watermarks of a partition without a leader are read again.
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// Most bytes of one fetch, over all partitions of a consumer: some fetches of 512 KiB each. A broker
/// sends the first batch whole, even if that is larger.
const FETCH_BYTES_MAX: usize = 4 * 1_024 * 1_024;

/// Most bytes of a broker's answer: a whole fetch, and the largest batch that a topic may take
/// ([`BATCH_BYTES_MAX`]). It also bounds what a zstd batch is unpacked to.
pub(crate) const RECEIVE_BYTES_MAX: usize = FETCH_BYTES_MAX + BATCH_BYTES_MAX + 1_024 * 1_024;

/// Most bytes of a batch that a topic may take (`max.message.bytes`): eight times Kafka's default. A
/// larger one could not be read.
pub(crate) const BATCH_BYTES_MAX: usize = 8 * 1_024 * 1_024;

/// Longest pause between attempts to connect. With the library's default of 10 s, appends would time
/// out long after the broker is back.
const RECONNECT_MAX: Duration = Duration::from_millis(500);

/// Least time between two log lines about what only an operator can change.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

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

/// Returns the settings that all clients share.
pub(crate) fn base(config: &KafkaConfig) -> ClientConfig {
    let mut client = ClientConfig::new();
    client
        .set("bootstrap.servers", config.brokers.join(","))
        .set("client.id", "coupond")
        // An automatically created topic would have the broker's default settings.
        .set("allow.auto.create.topics", "false")
        .set("socket.timeout.ms", millis(SOCKET_TIMEOUT))
        .set("socket.connection.setup.timeout.ms", millis(SOCKET_TIMEOUT))
        .set("socket.keepalive.enable", "true")
        .set("reconnect.backoff.ms", "50")
        .set("reconnect.backoff.max.ms", millis(RECONNECT_MAX));
    secure(&mut client, config);
    // After ours: the configuration refuses those that coupond decides.
    for (name, value) in config.properties.iter() {
        client.set(name, value);
    }
    client
}

/// Adds TLS and the login. Plain connections get no setting at all.
fn secure(client: &mut ClientConfig, config: &KafkaConfig) {
    let protocol = match config.security {
        Security::Plaintext => return,
        Security::Tls => "ssl",
        Security::SaslPlaintext => "sasl_plaintext",
        Security::SaslTls => "sasl_ssl",
    };
    client.set("security.protocol", protocol);
    let path = |path: &std::path::Path| path.display().to_string();
    if config.security.has_tls() {
        // The library has its own OpenSSL, which does not know where this system keeps its
        // authorities.
        let authorities = config.ca_file.as_deref().map_or("probe".to_owned(), path);
        client.set("ssl.ca.location", authorities);
        if let (Some(certificate), Some(key)) = (&config.cert_file, &config.key_file) {
            client.set("ssl.certificate.location", path(certificate));
            client.set("ssl.key.location", path(key));
        }
    }
    if let (true, Some(user)) = (config.security.has_sasl(), &config.sasl_user) {
        let password = config.sasl_password.as_ref().map_or("", |password| password.expose());
        client
            .set("sasl.mechanism", config.sasl_mechanism.name())
            .set("sasl.username", user)
            .set("sasl.password", password);
    }
}

/// Returns the settings that all consumers share. Nothing is committed or skipped automatically.
pub(crate) fn consumer(config: &KafkaConfig) -> ClientConfig {
    let mut client = base(config);
    client
        // The library requires a group id, even if the consumer never joins the group.
        .set("group.id", &config.group)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error")
        // A record in the log is a request, even in a transaction of its producer. Otherwise a
        // transaction that stays open would stall the partition.
        .set("isolation.level", "read_uncommitted")
        .set("check.crcs", "true")
        .set("fetch.max.bytes", FETCH_BYTES_MAX.to_string())
        .set("receive.message.max.bytes", RECEIVE_BYTES_MAX.to_string())
        .set("fetch.error.backoff.ms", "50")
        .set("fetch.queue.backoff.ms", "20");
    client
}

/// Formats a duration for a setting of the library.
pub(crate) fn millis(duration: Duration) -> String {
    duration.as_millis().to_string()
}

/// Converts a partition number for the library.
pub(crate) fn native_partition(partition: u32) -> i32 {
    i32::try_from(partition).unwrap_or(i32::MAX)
}

/// Converts an offset for the library.
pub(crate) fn native_offset(offset: u64) -> i64 {
    i64::try_from(offset).unwrap_or(i64::MAX)
}

/// Reads the low and the high watermark of a partition from its leader. Tries again while the
/// partition has no leader, as right after the creation of its topic.
pub(crate) async fn watermarks(
    consumer: Arc<BaseConsumer<ClientLog>>,
    topic: &str,
    partition: u32,
) -> Result<(u64, u64), KafkaError> {
    let deadline = tokio::time::Instant::now() + QUERY_TIMEOUT;
    loop {
        let (consumer, topic) = (Arc::clone(&consumer), topic.to_owned());
        let fetch =
            move || consumer.fetch_watermarks(&topic, native_partition(partition), QUERY_TIMEOUT);
        let fetched = tokio::task::spawn_blocking(fetch).await.map_err(|_| KafkaError::Canceled)?;
        match fetched {
            Ok((low, high)) => {
                return Ok((u64::try_from(low).unwrap_or(0), u64::try_from(high).unwrap_or(0)));
            }
            Err(error)
                if Meaning::of(&error) == Meaning::NoLeader
                    && tokio::time::Instant::now() < deadline =>
            {
                tokio::time::sleep(ASK_AGAIN).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Returns the offset of the first record of a partition that is not older than `time`, in
/// milliseconds since 1970. None: all records are older.
pub(crate) async fn first_since(
    consumer: Arc<BaseConsumer<ClientLog>>,
    topic: &str,
    partition: u32,
    time: i64,
) -> Result<Option<u64>, KafkaError> {
    let topic = topic.to_owned();
    let ask = move || {
        let mut asked = TopicPartitionList::new();
        // The time takes the offset's place in the question.
        asked.add_partition_offset(&topic, native_partition(partition), Offset::Offset(time))?;
        let found = consumer.offsets_for_times(asked, QUERY_TIMEOUT)?;
        let found = found.find_partition(&topic, native_partition(partition));
        let found = found.ok_or(KafkaError::Canceled)?;
        found.error()?;
        Ok(match found.offset() {
            Offset::Offset(offset) => u64::try_from(offset).ok(),
            _ => None,
        })
    };
    tokio::task::spawn_blocking(ask).await.map_err(|_| KafkaError::Canceled)?
}

/// A failed operation of a Kafka client. Retrying may help.
#[derive(Debug, thiserror::Error)]
#[error("{operation}")]
pub struct ClientError {
    /// The operation with its data, such as "creating topic coupond.request".
    pub operation: String,
    /// Cause.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// Adds the operation to an error of the library.
pub(crate) fn failed(operation: impl Into<String>, source: KafkaError) -> ClientError {
    ClientError { operation: operation.into(), source: Box::new(source) }
}

/// Returns the MAC header of a record, if it has one. Of a longer one than a MAC, only so many bytes
/// are copied that it cannot be taken for one.
pub(crate) fn mac_of(message: &BorrowedMessage<'_>) -> Option<Vec<u8>> {
    let headers = message.headers()?;
    // The library panics at a header name that is not UTF-8, and any producer can write one. That
    // must not stop the reader, so the record counts as one without a MAC.
    let find = || {
        headers
            .iter()
            .find(|header| header.key == MAC_HEADER)
            .map(|header| shortened(header.value.unwrap_or_default(), MAC_TEXT_BYTES + 1))
    };
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(find)).unwrap_or_default()
}

/// Copies at most `max` bytes.
pub(crate) fn shortened(bytes: &[u8], max: usize) -> Vec<u8> {
    bytes[..bytes.len().min(max)].to_vec()
}

/// Context of a client: passes the library's messages to the node's log and notes its state.
#[derive(Debug)]
pub(crate) struct ClientLog {
    /// Name of the client in the log.
    role: &'static str,
    /// Whether anything is logged.
    says: bool,
    /// Whether the client is in a fatal state and cannot be used any more.
    fatal: AtomicBool,
    /// Whether the client lost all brokers since [`Self::take_lost`].
    lost: AtomicBool,
    /// How a broker refused the login last, since [`Self::take_refusal`]; kept by a silent client.
    refusal: Mutex<Option<String>>,
    /// When such a refusal was logged last: the library tries again several times a second.
    complained: Mutex<Option<Instant>>,
}

impl ClientLog {
    pub(crate) fn new(role: &'static str) -> Self {
        Self { says: true, ..Self::silent(role) }
    }

    /// Returns a context that logs nothing, for a client whose owner says what it finds.
    pub(crate) fn silent(role: &'static str) -> Self {
        Self {
            role,
            says: false,
            fatal: AtomicBool::new(false),
            lost: AtomicBool::new(false),
            refusal: Mutex::new(None),
            complained: Mutex::new(None),
        }
    }

    /// Returns whether the client is in a fatal state, from which it does not recover.
    pub(crate) fn is_fatal(&self) -> bool {
        self.fatal.load(Ordering::Acquire)
    }

    /// Returns whether all brokers were lost since the last call.
    pub(crate) fn take_lost(&self) -> bool {
        self.lost.swap(false, Ordering::AcqRel)
    }

    /// Returns how a broker refused the login last, since the last call.
    pub(crate) fn take_refusal(&self) -> Option<String> {
        self.refusal.lock().take()
    }

    /// Logs `remedy` for something that only an operator can change, at most once in
    /// [`COMPLAIN_EVERY`].
    fn complain(&self, reason: &str, remedy: &'static str) {
        let mut complained = self.complained.lock();
        if complained.is_none_or(|at| at.elapsed() >= COMPLAIN_EVERY) {
            *complained = Some(Instant::now());
            tracing::error!(client = self.role, reason, remedy, "kafka refuses this node");
        }
    }

    pub(crate) fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        if !self.says {
            return;
        }
        let client = self.role;
        match level {
            RDKafkaLogLevel::Emerg
            | RDKafkaLogLevel::Alert
            | RDKafkaLogLevel::Critical
            | RDKafkaLogLevel::Error
            | RDKafkaLogLevel::Warning => {
                tracing::warn!(client, facility, message, "kafka client");
            }
            RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => {
                tracing::info!(client, facility, message, "kafka client");
            }
            RDKafkaLogLevel::Debug => tracing::debug!(client, facility, message, "kafka client"),
        }
    }

    pub(crate) fn error(&self, error: &KafkaError, reason: &str) {
        let client = self.role;
        if !self.says {
            if Meaning::of(error) == Meaning::Refused {
                *self.refusal.lock() = Some(reason.to_owned());
            }
            return;
        }
        match Meaning::of(error) {
            Meaning::Fatal => {
                self.fatal.store(true, Ordering::Release);
                tracing::error!(client, reason, "kafka client in a fatal state");
            }
            Meaning::AllBrokersDown => {
                self.lost.store(true, Ordering::Release);
                tracing::warn!(client, reason, "all kafka brokers down");
            }
            Meaning::Refused => self.complain(
                reason,
                "check kafka.security, kafka.sasl.user, kafka.sasl.password_file, kafka.ca_file \
                 and kafka.cert_file",
            ),
            Meaning::Forbidden => self.complain(
                reason,
                "allow Create, Describe, DescribeConfigs, Read and Write on topics that begin with \
                 kafka.topic_prefix",
            ),
            // Mostly single connections, which the library opens again.
            Meaning::OutsideLog
            | Meaning::NoLeader
            | Meaning::NoTopic
            | Meaning::Unreadable
            | Meaning::UnreadableHere
            | Meaning::GroupRefuses
            | Meaning::Other => {
                tracing::debug!(client, reason, %error, "kafka client");
            }
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

/// Drops a client on a thread of its own, because the library then waits for brokers: for seconds,
/// sometimes forever. Nothing waits for that thread.
pub(crate) fn drop_in_background<T: Send + 'static>(client: T) {
    let end = std::thread::Builder::new().name("kafka-end".to_owned());
    if let Err(error) = end.spawn(move || drop(client)) {
        tracing::warn!(%error, "thread to close a kafka client not started");
    }
}
