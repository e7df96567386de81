//! The request log on Kafka.
//!
//! Three kinds of clients, apart from each other: one *producer* for all appends, one *member* of
//! the consumer group that only learns which partitions are this node's, and a few *readers* that
//! fetch what they are told to. A record's position and time are the broker's.

mod membership;
mod producer;
mod readers;

use std::time::Duration;

use async_trait::async_trait;
use parking_lot::{Mutex, MutexGuard};
use rdkafka::error::KafkaError;
use tokio::sync::mpsc;
use tracing::warn;

use self::{
    membership::Membership,
    producer::{Outgoing, Producer},
    readers::Readers,
};
use super::{AppendError, Appended, Bounds, LogError, LogReader, Ownership, RequestLog};
use crate::{
    config::KafkaConfig,
    domain::ids::{Offset, Partition, Timestamp},
    kafka::{
        ClientError,
        client::{self, MAC_HEADER, Topics},
    },
    wire::{LogRecord, NewRecord},
};

/// Names the operation that failed.
fn failed(operation: impl Into<String>, source: KafkaError) -> LogError {
    client::failed(operation, source).into()
}

impl From<ClientError> for LogError {
    fn from(ClientError { operation, source }: ClientError) -> Self {
        Self { operation, source }
    }
}

/// Bytes of an oversized record that its dead letter keeps: what was one small compressed batch
/// may come to more than any topic takes.
const DEAD_LETTER_BYTES_MAX: usize = 256 * 1_024;

/// Longest that leaving the group is waited for on shutdown; the group notices by itself after
/// the session's 6 s.
const LEAVE_WITHIN: Duration = Duration::from_secs(3);

/// The request log on Kafka.
pub struct KafkaLog {
    config: KafkaConfig,
    topics: Topics,
    producer: Producer,
    readers: Readers,
    membership: Mutex<Option<Membership>>,
}

impl KafkaLog {
    /// Starts the clients. The topics must be there ([`crate::kafka::topics::ensure_topics`]).
    ///
    /// # Errors
    /// A client that can't be made. Brokers that don't answer are none: the clients go on trying.
    pub async fn connect(config: &KafkaConfig) -> Result<Self, LogError> {
        let config = config.clone();
        let connect = move || {
            let topics = Topics::under(&config.topic_prefix);
            let producer = Producer::connect(&config)?;
            if let Err(error) = producer.warm(&topics.request) {
                warn!(%error, "kafka does not answer yet");
            }
            let readers = Readers::connect(&config, &topics.request)?;
            Ok(Self { config, topics, producer, readers, membership: Mutex::default() })
        };
        let connected = tokio::task::spawn_blocking(connect).await;
        connected.map_err(|error| LogError {
            operation: "connecting to kafka".to_owned(),
            source: Box::new(error),
        })?
    }

    /// Waits, within a deadline, until the group was left; what was received from
    /// [`RequestLog::join`] must be dropped first.
    pub async fn left(&self) {
        let membership = self.membership().take();
        let Some(membership) = membership else { return };
        if tokio::time::timeout(LEAVE_WITHIN, membership.left()).await.is_err() {
            warn!("group not left in time, it will notice by itself");
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
        let delivered = self
            .producer
            .send(&Outgoing {
                topic: &self.topics.request,
                partition,
                key: record.campaign.as_str().as_bytes(),
                value: &record.value,
                headers: &[(MAC_HEADER, &record.mac)],
            })
            .await?;
        match (delivered.offset, delivered.time) {
            (Some(offset), Some(time)) => Ok(Appended { offset, time: Timestamp(time) }),
            // It is in the log, but a position that isn't known can't be answered for.
            (None, _) => Err(AppendError::Unknown("it was appended before".to_owned())),
            (_, None) => Err(AppendError::Unknown("the log keeps the producer's time".to_owned())),
        }
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

    async fn dead_letter(
        &self,
        partition: Partition,
        record: &LogRecord,
        reason: &str,
    ) -> Result<(), LogError> {
        let (partition_text, offset_text) = (partition.to_string(), record.offset.to_string());
        let length = record.value.len().to_string();
        let mut headers: Vec<(&str, &[u8])> = vec![
            ("reason", reason.as_bytes()),
            ("partition", partition_text.as_bytes()),
            ("offset", offset_text.as_bytes()),
        ];
        let key = &record.key[..record.key.len().min(DEAD_LETTER_BYTES_MAX)];
        let value = &record.value[..record.value.len().min(DEAD_LETTER_BYTES_MAX - key.len())];
        if value.len() < record.value.len() {
            headers.push(("truncated-from", length.as_bytes()));
        }
        let letter = Outgoing {
            topic: &self.topics.dead_letter,
            partition: 0,
            key,
            value,
            headers: &headers,
        };
        self.producer.send(&letter).await.map(drop).map_err(|error| LogError {
            operation: format!("keeping record {partition}/{} as a dead letter", record.offset),
            source: Box::new(error),
        })
    }
}
