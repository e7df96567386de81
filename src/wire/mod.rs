//! What is sent and stored, as bytes and in order: the record codec, the routing of campaigns to
//! partitions, the messages of the decision feed, and the order in which rows become durable.
//!
//! Pure: no async, no clock, no randomness, no I/O.

pub mod codec;
pub mod decode_step;
pub mod feed_message;
pub mod format;
pub mod routing;
pub mod write_order;

pub use self::format::FORMAT;
use crate::domain::ids::{CampaignId, Offset, Timestamp};

/// Largest record that is taken from the log; what is larger is a dead letter. A request is at
/// most 400 bytes and a control record below 1 KiB.
pub const RECORD_BYTES_MAX: usize = 8 * 1_024;

/// A record as it stands in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRecord {
    /// Where it stands.
    pub offset: Offset,
    /// When the log took it.
    pub time: Timestamp,
    /// The campaign id, if its producer kept the format; any bytes otherwise.
    pub key: Vec<u8>,
    /// JSON, if its producer kept the format.
    pub value: Vec<u8>,
    /// What coupond itself wrote carries a MAC; foreign producers' requests don't.
    pub mac: Option<Vec<u8>>,
}

/// A record to be appended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRecord {
    /// Key of the record.
    pub campaign: CampaignId,
    /// JSON bytes.
    pub value: Vec<u8>,
    /// MAC over partition, key and value.
    pub mac: Vec<u8>,
}
