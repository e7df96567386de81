//! Decodes the records that a partition's owner reads: each is decided, kept as a dead letter, or
//! halts the partition.

use std::sync::Arc;

use super::{
    LogRecord,
    codec::{Codec, DeadLetterReason, Decoded},
};
use crate::domain::{
    campaign::At,
    halt::{Halt, HaltReason},
    ids::{Partition, Timestamp},
    keys::Keys,
    record::Record,
    rows::LastRecord,
};

/// Decodes the records of one partition.
#[derive(Debug, Clone)]
pub struct DecodeStep {
    /// Codec of the log.
    pub codec: Codec,
    /// Keys of the instance.
    pub keys: Arc<Keys>,
    /// The partition.
    pub partition: Partition,
    /// How far a record time may be ahead of this node's clock, in milliseconds, before the partition
    /// halts. `None` if the store takes any time.
    pub future_max_ms: Option<i64>,
}

/// A record that was read at the partition's live position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incoming {
    /// Offset and digest.
    pub record: LastRecord,
    /// The decoded record, or `None` for a dead letter. The watermark may pass a dead letter only
    /// after it was written. It is read again for that.
    pub content: Option<ReadRecord>,
}

/// A decoded record together with the bytes that it was decoded from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadRecord {
    /// The record as the log has it. A dead letter repeats its bytes.
    pub raw: LogRecord,
    /// The decoded record.
    pub record: Record,
}

impl ReadRecord {
    /// Returns where and when the record was appended.
    #[must_use]
    pub fn at(&self) -> At {
        At { offset: self.raw.offset, time: self.raw.time }
    }
}

/// Result of decoding what one read returned.
#[derive(Debug, Default)]
pub struct DecodedRecords {
    /// The records in order, dead letters included.
    pub incoming: Vec<Incoming>,
    /// Why the partition must halt behind these records, if so.
    pub halt: Option<Halt>,
}

impl DecodeStep {
    /// Decodes records that were read at `now` by the node's wall clock.
    #[must_use]
    pub fn decode(&self, records: Vec<LogRecord>, now: Timestamp) -> DecodedRecords {
        let mut decoded = DecodedRecords::default();
        decoded.incoming.reserve(records.len());
        for record in records {
            decoded.halt = self.too_far_ahead(&record, now);
            if decoded.halt.is_some() {
                break;
            }
            let offset = record.offset;
            let digest = self.digest(&record);
            let content = match self.codec.decode(self.partition, &record) {
                Decoded::Record(content) => Some(ReadRecord { raw: record, record: content }),
                Decoded::DeadLetter(_) => None,
                Decoded::Newer { version } => {
                    let detail = format!("the record at {offset} has the newer format {version}");
                    decoded.halt = Some(Halt::new(HaltReason::RecordFormat, detail));
                    break;
                }
            };
            let record = LastRecord { offset, digest };
            decoded.incoming.push(Incoming { record, content });
        }
        decoded
    }

    /// Decodes records that are read again. Returns those that a fold decides.
    #[must_use]
    pub fn decode_again(&self, records: Vec<LogRecord>) -> Vec<ReadRecord> {
        let decoded = |raw: LogRecord| match self.codec.decode(self.partition, &raw) {
            Decoded::Record(record) => Some(ReadRecord { raw, record }),
            // The live reader has found the dead letters.
            Decoded::DeadLetter(_) | Decoded::Newer { .. } => None,
        };
        records.into_iter().filter_map(decoded).collect()
    }

    /// Returns why a record that cannot be decided is a dead letter.
    #[must_use]
    pub fn why_dead(&self, record: &LogRecord) -> DeadLetterReason {
        match self.codec.decode(self.partition, record) {
            Decoded::DeadLetter(reason) => reason,
            Decoded::Record(_) | Decoded::Newer { .. } => DeadLetterReason::Undefined,
        }
    }

    /// Returns the digest of a record, which detects that the log was rewritten.
    #[must_use]
    pub fn digest(&self, record: &LogRecord) -> [u8; 16] {
        self.keys.record_digest(&record.key, &record.value)
    }

    fn too_far_ahead(&self, record: &LogRecord, now: Timestamp) -> Option<Halt> {
        // Rows get write timestamps from the record time, and ScyllaDB refuses one far ahead of its
        // clock.
        let ahead_ms = record.time.0.saturating_sub(now.0);
        let max_ms = self.future_max_ms?;
        if ahead_ms <= max_ms {
            return None;
        }
        let offset = record.offset;
        let detail = format!("the record at {offset} is {ahead_ms} ms ahead of this node's clock");
        Some(Halt::new(HaltReason::RecordInFuture, detail))
    }
}
