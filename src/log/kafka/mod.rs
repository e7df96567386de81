//! The request log on Kafka.
//!
//! It has three separate kinds of clients: one *producer* for all appends; one *member* of the
//! consumer group, which only learns which partitions this node owns; and a few *consumers* for
//! readers. The broker assigns each record's offset and time.

mod membership;
mod producer;
mod reader;
mod readers;
mod watch;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use parking_lot::{Mutex, MutexGuard};
use rdkafka::error::KafkaError;
use tokio::sync::mpsc;

pub use self::watch::TopicWatch;
use self::{
    membership::Membership,
    producer::{Outgoing, Producer},
    readers::Readers,
    watch::Fitness,
};
use super::{
    AppendError, Appended, Bounds, LogError, LogReader, Ownership, READERS_MAX, RequestLog,
};
use crate::{
    config::KafkaConfig,
    domain::ids::{Offset, Partition, Timestamp},
    kafka::{
        ClientError,
        client::{self, MAC_HEADER, Topics},
    },
    partition::expiry::{Expiring, expiring_before},
    wire::{LogRecord, NewRecord},
};

/// Adds the operation to an error of the library.
fn failed(operation: impl Into<String>, source: KafkaError) -> LogError {
    client::failed(operation, source).into()
}

impl From<ClientError> for LogError {
    fn from(ClientError { operation, source }: ClientError) -> Self {
        Self { operation, source }
    }
}

/// Longest wait for leaving the group at shutdown. Without a leave, the group notices after the
/// session timeout of 6 s.
const LEAVE_WITHIN: Duration = Duration::from_secs(3);

/// Most memory of the clients: the queue of the producer, and what each consumer receives at once.
pub(crate) const CLIENTS_BYTES: usize =
    producer::QUEUE_KIB_MAX * 1_024 + readers::CONSUMERS_MAX * client::RECEIVE_BYTES_MAX;

/// Most memory of the readers of a partition, in their queues.
pub(crate) const PARTITION_BYTES: usize = READERS_MAX * readers::QUEUE_KIB * 1_024;

/// The request log on Kafka.
pub struct KafkaLog {
    config: KafkaConfig,
    topics: Topics,
    producer: Producer,
    readers: Readers,
    fitness: Arc<Fitness>,
    membership: Mutex<Option<Membership>>,
}

impl KafkaLog {
    /// Starts the clients. The topics must exist ([`crate::kafka::topics::ensure_topics`]).
    ///
    /// # Errors
    /// [`LogError`] if a client cannot be created. Unreachable brokers are no error: the clients
    /// connect once they answer.
    pub async fn connect(config: &KafkaConfig) -> Result<Self, LogError> {
        let config = config.clone();
        let connect = move || {
            let topics = Topics::under(&config.topic_prefix);
            let producer = Producer::connect(&config)?;
            if let Err(error) = producer.warm(&topics.request) {
                tracing::warn!(%error, "producer cannot reach kafka yet, retrying");
            }
            let fitness = Arc::new(Fitness::default());
            let readers = Readers::connect(&config, &topics.request, fitness.clone())?;
            let membership = Mutex::default();
            Ok(Self { config, topics, producer, readers, fitness, membership })
        };
        let connected = tokio::task::spawn_blocking(connect).await;
        connected.map_err(|error| LogError {
            operation: "connecting to kafka".to_owned(),
            source: Box::new(error),
        })?
    }

    /// Returns the watch of the topics, for a layout with so many partitions. `warned` was logged at
    /// start.
    #[must_use]
    pub fn topic_watch(&self, partitions: u32, warned: Vec<String>) -> TopicWatch {
        let (config, fitness) = (self.config.clone(), self.fitness.clone());
        TopicWatch { config, partitions, fitness, warned: warned.into_iter().collect() }
    }

    /// Returns why the group gives this node no partitions, as far as is known.
    #[must_use]
    pub fn group_trouble(&self) -> Option<String> {
        self.membership().as_ref().and_then(Membership::trouble)
    }

    /// Waits until this node has left the group, for a few seconds at most. The receiver from
    /// [`RequestLog::join`] must be dropped before.
    pub async fn left(&self) {
        let membership = self.membership().take();
        let Some(membership) = membership else { return };
        if tokio::time::timeout(LEAVE_WITHIN, membership.left()).await.is_err() {
            tracing::warn!("consumer group not left in time, partitions move after its timeout");
        }
    }

    fn membership(&self) -> MutexGuard<'_, Option<Membership>> {
        self.membership.lock()
    }
}

#[async_trait]
impl RequestLog for KafkaLog {
    async fn append(
        &self,
        partition: Partition,
        record: NewRecord,
    ) -> Result<Appended, AppendError> {
        if let Some(halt) = self.fitness.unfit() {
            return Err(AppendError::Unfit(halt));
        }
        let acknowledged = self
            .producer
            .send(&Outgoing {
                topic: &self.topics.request,
                partition,
                key: record.campaign.as_str().as_bytes(),
                value: &record.value,
                headers: &[(MAC_HEADER, &record.mac)],
            })
            .await?;
        acknowledged.appended()
    }

    async fn join(&self) -> Result<mpsc::Receiver<Ownership>, LogError> {
        let (config, topic) = (self.config.clone(), self.topics.request.clone());
        let joined = tokio::task::spawn_blocking(move || Membership::join(&config, &topic)).await;
        let (membership, changes) = joined.map_err(|error| LogError {
            operation: "joining the group".to_owned(),
            source: Box::new(error),
        })??;
        *self.membership() = Some(membership);
        Ok(changes)
    }

    async fn open(
        &self,
        partition: Partition,
        from: Offset,
    ) -> Result<Box<dyn LogReader>, LogError> {
        Ok(Box::new(self.readers.open(partition, from).await?))
    }

    async fn bounds(&self, partition: Partition) -> Result<Bounds, LogError> {
        let (low, high) = self.readers.watermarks(partition).await?;
        Ok(Bounds { low, high })
    }

    async fn report_progress(
        &self,
        partition: Partition,
        next: Offset,
        _keep_from: Option<Offset>,
    ) -> Result<(), LogError> {
        if let Some(membership) = self.membership().as_ref() {
            membership.report_progress(partition, next);
        }
        Ok(())
    }

    async fn expiring(
        &self,
        partition: Partition,
        now: Timestamp,
    ) -> Result<Option<Expiring>, LogError> {
        let Some(kept) = self.fitness.retention() else { return Ok(None) };
        let below = self.readers.first_since(partition, expiring_before(now, kept)).await?;
        let topic = &self.topics.request;
        let remedy = format!(
            "kafka-configs.sh --bootstrap-server {} --alter --entity-type topics --entity-name \
             {topic} --add-config retention.ms=-1",
            self.config.brokers.join(",")
        );
        Ok(Some(Expiring { below, spares_waiting: false, remedy }))
    }

    async fn dead_letter(
        &self,
        partition: Partition,
        record: &LogRecord,
        reason: &str,
    ) -> Result<(), LogError> {
        let (partition_text, offset_text) = (partition.to_string(), record.offset.to_string());
        let letter = Outgoing {
            topic: &self.topics.dead_letter,
            partition: 0,
            key: &record.key,
            value: &record.value,
            headers: &[
                ("reason", reason.as_bytes()),
                ("partition", partition_text.as_bytes()),
                ("offset", offset_text.as_bytes()),
            ],
        };
        self.producer.send(&letter).await.map(drop).map_err(|error| {
            // The topic may be gone.
            self.fitness.doubt();
            let operation = format!("writing dead letter {partition}/{}", record.offset);
            LogError { operation, source: Box::new(error) }
        })
    }
}
