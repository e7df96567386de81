//! Formats and orders that nodes agree on: the record codec, the routing of campaigns to partitions,
//! the messages of the decision feed, and the order in which rows become durable.
//!
//! Pure: no async, no clock, no randomness, no I/O.

pub mod codec;
pub mod decode_step;
pub mod feed_codec;
pub mod feed_message;
pub mod format;
#[cfg(test)]
mod fuzz;
pub mod routing;
pub mod write_order;

pub use self::format::FORMAT;
use crate::domain::ids::{CampaignId, Offset, Timestamp};

/// Largest record that is decoded, key and value together; a larger one is a dead letter. A request
/// has at most 1,300 bytes (texts of which each character is escaped) and a control record less than 2 KiB.
pub const RECORD_BYTES_MAX: usize = 8 * 1_024;

/// A record of the log, as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRecord {
    /// Offset in its partition.
    pub offset: Offset,
    /// Record time, set by the log.
    pub time: Timestamp,
    /// The campaign id, if its producer kept the format; any bytes otherwise.
    pub key: Vec<u8>,
    /// JSON, if its producer kept the format; any bytes otherwise.
    pub value: Vec<u8>,
    /// MAC header. Requests of other producers have none.
    pub mac: Option<Vec<u8>>,
}

/// A record to be appended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRecord {
    /// Campaign, whose id is the record's key.
    pub campaign: CampaignId,
    /// JSON.
    pub value: Vec<u8>,
    /// MAC header: over log epoch, partition, key and value.
    pub mac: Vec<u8>,
}
