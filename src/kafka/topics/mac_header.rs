//! Searches a request topic for coupond's MAC header before a layout is created over it.
//!
//! Only coupond writes the header. So a record with it belongs to another instance, and a new
//! instance would decide the requests of that one a second time.

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
    kafka::{
        client::{self, ClientError, ClientLog, Topics, failed, millis},
        errors::Meaning,
    },
};

/// Records searched at either end of a partition. More than a batch of coupond's producer under low
/// load, and read quickly.
const RECORDS_PER_END: u64 = 100;

/// Longest read of one end of a partition.
const END_WITHIN: Duration = Duration::from_secs(10);

/// Longest that a broker holds a fetch that finds nothing, and longest wait of a poll.
const FETCH_WAIT: Duration = Duration::from_millis(50);

/// Bytes per fetch, and bytes kept in memory. Each end has a hundred records of a few hundred bytes.
const FETCH_BYTES: usize = 256 * 1_024;

/// A record with the MAC header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordWithMac {
    /// Partition of the request topic.
    pub partition: Partition,
    /// Offset in the partition.
    pub offset: Offset,
}

/// Returns a record of the request topic with the MAC header, or `None` if neither the first nor the
/// last 100 records of any of its `partitions` have one.
///
/// # Errors
/// [`ClientError`] if Kafka does not answer, or records cannot be read.
pub async fn record_with_mac(
    config: &KafkaConfig,
    partitions: u32,
) -> Result<Option<RecordWithMac>, ClientError> {
    let topic = Topics::under(&config.topic_prefix).request;
    let mut settings = client::consumer(config);
    settings
        // Without this, the end of a partition looks like a slow fetch.
        .set("enable.partition.eof", "true")
        .set("fetch.wait.max.ms", millis(FETCH_WAIT))
        .set("fetch.message.max.bytes", FETCH_BYTES.to_string())
        .set("queued.min.messages", RECORDS_PER_END.to_string())
        .set("queued.max.messages.kbytes", (FETCH_BYTES / 1_024).to_string());
    let consumer = BaseConsumer::from_config_and_context(&settings, ClientLog::new("topic check"))
        .map_err(|error| failed(format!("starting a reader of {topic}"), error))?;
    let search = Search { consumer: Arc::new(consumer), topic };
    let found = search.all(partitions).await;
    client::drop_in_background(search);
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
            let operation =
                || format!("searching partition {partition} of {topic} for {}", client::MAC_HEADER);
            let ends = client::watermarks(self.consumer.clone(), topic, partition).await;
            let (low, high) = ends.map_err(|error| failed(operation(), error))?;
            for from in starts(low, high) {
                let search = self.clone();
                let search_end = move || search.within(partition, from, high);
                let searched = tokio::task::spawn_blocking(search_end).await;
                let found = searched
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

    /// Returns the offset of the first record with the header among the next records from `from` on
    /// and below `high`. Blocks.
    fn within(
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
                Some(Err(error)) if Meaning::of(&error) != Meaning::NoLeader => return Err(error),
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

/// Returns the offsets to read from: the first and, unless one read covers all, the last records.
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
