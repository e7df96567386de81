//! Looks for coupond's MAC header in a request topic on which no layout was made yet.
//!
//! Only what coupond writes carries it. So a record with the header belongs to another instance,
//! and a new one would decide that instance's requests a second time.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rdkafka::{
    Message, Offset as NativeOffset, TopicPartitionList,
    config::FromClientConfigAndContext,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
};

use crate::{
    config::KafkaConfig,
    domain::ids::{Offset, Partition},
    kafka::client::{self, ClientError, ClientLog, Topics, failed, millis},
};

/// Records looked at from either end of a partition: more than a batch that coupond appends while
/// few ask, and quickly read.
const RECORDS_PER_END: u64 = 100;

/// Longest that one end of a partition is read.
const END_WITHIN: Duration = Duration::from_secs(10);

/// Longest that a broker holds a fetch that finds nothing, and that a poll waits for one.
const FETCH_WAIT: Duration = Duration::from_millis(50);

/// Bytes fetched at once, and kept: each end is some hundred records of some hundred bytes.
const FETCH_BYTES: usize = 256 * 1_024;

/// A record that carries the MAC header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordWithMac {
    /// The partition of the request topic.
    pub partition: Partition,
    /// Its offset there.
    pub offset: Offset,
}

/// Returns a record of the request topic that carries the MAC header, or none if neither the first
/// nor the last 100 records of any of its `partitions` do.
///
/// # Errors
/// [`ClientError`]: Kafka did not answer, or records cannot be read.
pub async fn record_with_mac(
    config: &KafkaConfig,
    partitions: u32,
) -> Result<Option<RecordWithMac>, ClientError> {
    let topic = Topics::under(&config.topic_prefix).request;
    let mut settings = client::consumer(config);
    settings
        // Tells an end behind which there is nothing from one that is still fetched.
        .set("enable.partition.eof", "true")
        .set("fetch.wait.max.ms", millis(FETCH_WAIT))
        .set("fetch.message.max.bytes", FETCH_BYTES.to_string())
        .set("queued.min.messages", RECORDS_PER_END.to_string())
        .set("queued.max.messages.kbytes", (FETCH_BYTES / 1_024).to_string());
    let consumer = BaseConsumer::from_config_and_context(&settings, ClientLog::new("topic check"))
        .map_err(|error| failed(format!("starting a reader of {topic}"), error))?;
    let search = Search { consumer: Arc::new(consumer), topic };
    let found = search.all(partitions).await;
    client::end_elsewhere(search);
    found
}

#[derive(Clone)]
struct Search {
    consumer: Arc<BaseConsumer<ClientLog>>,
    topic: String,
}

impl Search {
    async fn all(&self, partitions: u32) -> Result<Option<RecordWithMac>, ClientError> {
        for partition in 0..partitions {
            let topic = &self.topic;
            let operation = || {
                format!("looking for {} in partition {partition} of {topic}", client::MAC_HEADER)
            };
            let ends = client::watermarks(self.consumer.clone(), topic, partition).await;
            let (low, high) = ends.map_err(|error| failed(operation(), error))?;
            for from in starts(low, high) {
                let search = self.clone();
                let look = move || search.look(partition, from, high);
                let looked = tokio::task::spawn_blocking(look).await;
                let found = looked
                    .map_err(|_| KafkaError::Canceled)
                    .flatten()
                    .map_err(|error| failed(operation(), error))?;
                if let Some(offset) = found {
                    return Ok(Some(RecordWithMac { partition, offset }));
                }
            }
        }
        Ok(None)
    }

    /// The offset of the first record with the header, of those from `from` on and below `high`.
    /// Blocks.
    fn look(
        &self,
        partition: Partition,
        from: Offset,
        high: Offset,
    ) -> Result<Option<Offset>, KafkaError> {
        let native = client::native_partition(partition);
        let mut list = TopicPartitionList::new();
        let start = NativeOffset::Offset(client::native_offset(from));
        list.add_partition_offset(&self.topic, native, start)?;
        self.consumer.assign(&list)?;
        let deadline = Instant::now() + END_WITHIN;
        let mut left = RECORDS_PER_END;
        while left > 0 {
            match self.consumer.poll(FETCH_WAIT) {
                Some(Ok(message)) => {
                    let offset = u64::try_from(message.offset()).unwrap_or(0);
                    if offset >= high {
                        break;
                    }
                    if client::mac_of(&message).is_some() {
                        return Ok(Some(offset));
                    }
                    left -= 1;
                }
                Some(Err(KafkaError::PartitionEOF(_))) => break,
                Some(Err(error)) if !client::is_passing(&error) => return Err(error),
                Some(Err(_)) | None if Instant::now() >= deadline => {
                    let code = RDKafkaErrorCode::OperationTimedOut;
                    return Err(KafkaError::MessageConsumption(code));
                }
                Some(Err(_)) | None => {}
            }
        }
        Ok(None)
    }
}

/// Where to start reading: at the first records and, unless that covers all, at the last.
fn starts(low: Offset, high: Offset) -> Vec<Offset> {
    let last = high.saturating_sub(RECORDS_PER_END).max(low);
    match (low == high, last == low) {
        (true, _) => Vec::new(),
        (false, true) => vec![low],
        (false, false) => vec![low, last],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_are_read_unless_one_read_covers_all() {
        assert!(starts(7, 7).is_empty());
        assert_eq!(starts(7, 8), [7]);
        assert_eq!(starts(0, RECORDS_PER_END), [0]);
        assert_eq!(starts(5, 1_000), [5, 900]);
    }
}
