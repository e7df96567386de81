//! Bytes ↔ records: JSON that a person can read in a Kafka UI, versioned, with a MAC on whatever
//! coupond writes itself.

use serde::{Deserialize, Serialize};

use super::{LogRecord, NewRecord, RECORD_BYTES_MAX, routing};
use crate::{
    domain::{
        ids::{CampaignId, IdempotencyKey, Offset, Partition, UserId},
        keys::{KEY_ID, Keys, MAC_BYTES, hex_digits},
        record::{Change, Control, Record, Request},
    },
    planted,
};

/// Version of the record format that this binary writes, and the highest that it reads.
pub const FORMAT: u32 = 1;

const MAC_PURPOSE: &str = "record";

/// A MAC as text: key id, colon, hexadecimal digits.
type MacText = [u8; 2 + 2 * MAC_BYTES];
const _: () = assert!(KEY_ID < 10, "the text has one digit for the key id");

/// What a log record comes to when it is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decoded {
    /// A record that the fold decides.
    Record(Record),
    /// Nobody's record: kept as a dead letter with this reason, and nothing more.
    DeadLetter(DeadLetterReason),
    /// Written by a newer coupond: this binary must not decide what follows. Halts the partition.
    Newer {
        /// The version that it is of.
        version: u32,
    },
}

/// Why a record is a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeadLetterReason {
    /// Larger than [`RECORD_BYTES_MAX`].
    Oversized,
    /// Not JSON of the documented shape, or an id that can't be one.
    Malformed,
    /// Its key is not its campaign id.
    WrongKey,
    /// Its campaign belongs to another partition.
    ForeignPartition,
    /// A control record, or one of a newer version, without a valid MAC; or with a wrong one.
    Forged,
    /// Its campaign is not defined at its position.
    Undefined,
    /// Its record time is not between 1970 and 9999.
    Time,
}

impl DeadLetterReason {
    /// The reason as the dead-letter header spells it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Oversized => "oversized",
            Self::Malformed => "malformed",
            Self::WrongKey => "wrong_key",
            Self::ForeignPartition => "foreign_partition",
            Self::Forged => "forged",
            Self::Undefined => "undefined_campaign",
            Self::Time => "unusable_time",
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RequestBody {
    v: u32,
    r#type: RequestType,
    campaign_id: CampaignId,
    user_id: UserId,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    idempotency_key: Option<IdempotencyKey>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum RequestType {
    Request,
}

/// What tells how the rest is to be read; unknown fields are the business of the version.
#[derive(Deserialize)]
struct Envelope {
    v: u32,
    r#type: String,
}

#[derive(Serialize, Deserialize)]
struct ControlBody {
    v: u32,
    campaign_id: CampaignId,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    based_on: Option<Offset>,
    #[serde(flatten)]
    change: Change,
}

/// Encodes and decodes the records of one log.
#[derive(Debug, Clone)]
pub struct Codec {
    keys: std::sync::Arc<Keys>,
    log_epoch: u32,
    partitions: u32,
}

impl Codec {
    /// A codec for a log of this epoch and partition count.
    #[must_use]
    pub fn new(keys: std::sync::Arc<Keys>, log_epoch: u32, partitions: u32) -> Self {
        Self { keys, log_epoch, partitions }
    }

    /// The partition that `campaign` belongs to.
    #[must_use]
    pub fn partition_of(&self, campaign: &CampaignId) -> Partition {
        routing::partition_of(campaign, self.partitions)
    }

    /// Encodes `record`, with its partition.
    #[must_use]
    pub fn encode(&self, record: &Record) -> (Partition, NewRecord) {
        match record {
            Record::Request(request) => self.encode_request(request),
            Record::Control(control) => self.encode_control(control),
        }
    }

    /// Encodes a request, with its partition.
    #[must_use]
    pub fn encode_request(&self, request: &Request) -> (Partition, NewRecord) {
        let Request { campaign, user, idempotency_key } = request;
        let body = RequestBody {
            v: FORMAT,
            r#type: RequestType::Request,
            campaign_id: campaign.clone(),
            user_id: user.clone(),
            idempotency_key: idempotency_key.clone().filter(|_| !planted!(KeyNotEncoded)),
        };
        self.sealed(campaign, json(&body))
    }

    /// Encodes a control record, with its partition.
    #[must_use]
    pub fn encode_control(&self, control: &Control) -> (Partition, NewRecord) {
        let Control { campaign, based_on, change } = control;
        let (campaign_id, change) = (campaign.clone(), change.clone());
        let body = ControlBody { v: FORMAT, campaign_id, based_on: *based_on, change };
        self.sealed(campaign, json(&body))
    }

    fn sealed(&self, campaign: &CampaignId, value: Vec<u8>) -> (Partition, NewRecord) {
        let partition = self.partition_of(campaign);
        let mac = self.mac(partition, campaign.as_str().as_bytes(), &value);
        (partition, NewRecord { campaign: campaign.clone(), value, mac })
    }

    /// Reads a log record of `partition`. Total: every sequence of bytes comes to something.
    #[must_use]
    pub fn decode(&self, partition: Partition, record: &LogRecord) -> Decoded {
        match self.try_decode(partition, record) {
            Ok(decoded) => decoded,
            Err(reason) => Decoded::DeadLetter(reason),
        }
    }

    fn try_decode(
        &self,
        partition: Partition,
        record: &LogRecord,
    ) -> Result<Decoded, DeadLetterReason> {
        if record.key.len() + record.value.len() > RECORD_BYTES_MAX {
            return Err(DeadLetterReason::Oversized);
        }
        let authentic = match &record.mac {
            None => false,
            Some(mac) if **mac == self.mac_text(partition, &record.key, &record.value) => true,
            Some(_) => return Err(DeadLetterReason::Forged),
        };
        let decoded = Self::decode_content(&record.value, authentic)?;
        let Decoded::Record(content) = &decoded else { return Ok(decoded) };
        let campaign = content.campaign();
        if record.key != campaign.as_str().as_bytes() {
            return Err(DeadLetterReason::WrongKey);
        }
        if self.partition_of(campaign) != partition && !planted!(ForeignPartitionTaken) {
            return Err(DeadLetterReason::ForeignPartition);
        }
        if !record.time.is_representable() {
            return Err(DeadLetterReason::Time);
        }
        Ok(decoded)
    }

    fn decode_content(value: &[u8], authentic: bool) -> Result<Decoded, DeadLetterReason> {
        // Nearly every record is a sound request of this version, which one pass shows.
        if let Ok(body) = serde_json::from_slice::<RequestBody>(value)
            && (1..=FORMAT).contains(&body.v)
        {
            return Ok(Decoded::Record(body.into()));
        }
        let envelope: Envelope =
            serde_json::from_slice(value).map_err(|_| DeadLetterReason::Malformed)?;
        if envelope.v > FORMAT {
            return match authentic && !planted!(NewerSkipped) {
                true => Ok(Decoded::Newer { version: envelope.v }),
                false => Err(DeadLetterReason::Forged),
            };
        }
        let decoded = if envelope.r#type == "request" {
            let body: RequestBody =
                serde_json::from_slice(value).map_err(|_| DeadLetterReason::Malformed)?;
            body.into()
        } else if authentic || planted!(ForgedTaken) {
            decode_control(value)?
        } else {
            return Err(DeadLetterReason::Forged);
        };
        if envelope.v < 1 {
            return Err(DeadLetterReason::Malformed);
        }
        Ok(Decoded::Record(decoded))
    }

    /// The MAC of a record of `partition`, as its header carries it.
    #[must_use]
    pub fn mac(&self, partition: Partition, key: &[u8], value: &[u8]) -> Vec<u8> {
        self.mac_text(partition, key, value).to_vec()
    }

    fn mac_text(&self, partition: Partition, key: &[u8], value: &[u8]) -> MacText {
        let parts = [&(key.len() as u64).to_le_bytes()[..], key, value];
        let mac = self.keys.mac_of(MAC_PURPOSE, self.log_epoch, partition, &parts);
        let mut text = [b':'; 2 + 2 * MAC_BYTES];
        text[0] = b'0' + KEY_ID;
        for (digits, byte) in text[2..].chunks_exact_mut(2).zip(mac) {
            digits.copy_from_slice(&hex_digits(byte));
        }
        text
    }
}

impl From<RequestBody> for Record {
    fn from(body: RequestBody) -> Self {
        let RequestBody { campaign_id, user_id, idempotency_key, .. } = body;
        Self::Request(Request { campaign: campaign_id, user: user_id, idempotency_key })
    }
}

fn decode_control(value: &[u8]) -> Result<Record, DeadLetterReason> {
    let body: ControlBody =
        serde_json::from_slice(value).map_err(|_| DeadLetterReason::Malformed)?;
    Ok(Record::from(Control {
        campaign: body.campaign_id,
        based_on: body.based_on,
        change: body.change,
    }))
}

fn json(body: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(body).expect("text and numbers are always JSON")
}
