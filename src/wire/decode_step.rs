//! What becomes of records as an owner reads them: decoded, kept aside, or a reason to halt.

use std::sync::Arc;

use super::{
    LogRecord,
    codec::{Codec, DeadLetterReason, Decoded},
};
use crate::{
    domain::{
        campaign::At,
        halt::{Halt, HaltReason},
        ids::{CampaignId, Partition, Timestamp},
        keys::Keys,
        record::Record,
        rows::LastRecord,
    },
    planted,
};

/// Takes the records of one partition in.
#[derive(Debug, Clone)]
pub struct DecodeStep {
    /// Bytes ↔ records.
    pub codec: Codec,
    /// The instance's keys.
    pub keys: Arc<Keys>,
    /// Whose records.
    pub partition: Partition,
    /// A record more than this far ahead of the node's clock halts the partition, in
    /// milliseconds. None where the store takes any time.
    pub future_max_ms: Option<i64>,
}

/// A record that was read live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incoming {
    /// Its offset and digest.
    pub record: LastRecord,
    /// The record; none if it could not be decoded. The reader then writes a dead letter.
    pub content: Option<ReadRecord>,
}

/// A decoded record together with the bytes that it was decoded from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadRecord {
    /// What the log holds. A dead letter repeats these bytes.
    pub raw: LogRecord,
    /// What they say.
    pub record: Record,
}

impl ReadRecord {
    /// Returns where and when the record was appended.
    #[must_use]
    pub fn at(&self) -> At {
        At { offset: self.raw.offset, time: self.raw.time }
    }
}

/// What a read came to.
#[derive(Debug, Default)]
pub struct DecodedRecords {
    /// The records to hand over, in order.
    pub incoming: Vec<Incoming>,
    /// Those among them that are to be kept as dead letters first.
    pub letters: Vec<(LogRecord, DeadLetterReason)>,
    /// Why nothing may be read after them.
    pub halt: Option<Halt>,
}

impl DecodeStep {
    /// Decodes what was read live at `now` by the node's wall clock.
    #[must_use]
    pub fn take(&self, records: Vec<LogRecord>, now: Timestamp) -> DecodedRecords {
        let mut taken = DecodedRecords::default();
        taken.incoming.reserve(records.len());
        for record in records {
            taken.halt = self.too_far_ahead(&record, now);
            if taken.halt.is_some() {
                break;
            }
            let offset = record.offset;
            let digest = self.digest(&record);
            let content = match self.codec.decode(self.partition, &record) {
                Decoded::Record(content) => Some(ReadRecord { raw: record, record: content }),
                Decoded::DeadLetter(reason) => {
                    taken.letters.push((record, reason));
                    None
                }
                Decoded::Newer { version } => {
                    let detail = format!("the record at {offset} has the newer format {version}");
                    taken.halt = Some(Halt::new(HaltReason::RecordFormat, detail));
                    break;
                }
            };
            let record = LastRecord { offset, digest };
            taken.incoming.push(Incoming { record, content });
        }
        taken
    }

    /// Decodes what a replay of `campaign` read, and returns that campaign's records.
    #[must_use]
    pub fn again(&self, records: Vec<LogRecord>, campaign: &CampaignId) -> Vec<ReadRecord> {
        let decoded = |raw: LogRecord| match self.codec.decode(self.partition, &raw) {
            Decoded::Record(record) if record.campaign() == campaign => {
                Some(ReadRecord { raw, record })
            }
            // Dead letters were written when the record was read live.
            Decoded::Record(_) | Decoded::DeadLetter(_) | Decoded::Newer { .. } => None,
        };
        records.into_iter().filter_map(decoded).collect()
    }

    /// The digest by which a rewritten record is noticed.
    #[must_use]
    pub fn digest(&self, record: &LogRecord) -> [u8; 16] {
        self.keys.record_digest(&record.key, &record.value)
    }

    fn too_far_ahead(&self, record: &LogRecord, now: Timestamp) -> Option<Halt> {
        let ahead_ms = record.time.0.saturating_sub(now.0);
        let max_ms = self.future_max_ms?;
        if ahead_ms <= max_ms || planted!(FutureTaken) {
            return None;
        }
        let offset = record.offset;
        let detail = format!("the record at {offset} is {ahead_ms} ms ahead of this node's clock");
        Some(Halt::new(HaltReason::RecordInFuture, detail))
    }
}
