//! Encodes and decodes the records of the request log.
//!
//! A record is versioned JSON, which people can read in a Kafka UI. Records that coupond writes
//! have a MAC in a header; requests of other producers have none.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::{FORMAT, LogRecord, NewRecord, RECORD_BYTES_MAX, routing};
use crate::domain::{
    ids::{CampaignId, IdempotencyKey, Offset, Partition, UserId},
    keys::{KEY_ID, Keys, MAC_BYTES, Macs, hex_digits},
    record::{Change, Control, Record, Request},
};

/// Value of `v` in a request. Not the format number: other producers write requests too, and need
/// not follow our formats.
const REQUEST_VERSION: u32 = 1;

/// Value of `v` in a control record, which only coupond writes. A new kind of control record needs
/// a higher one: then an older binary halts at the record instead of taking it for a dead letter.
const CONTROL_VERSION: u32 = FORMAT as u32;

/// Value of `type` in a request.
const REQUEST_TYPE: &str = "request";

const MAC_PURPOSE: &str = "record";

/// Text of a MAC header: key id, colon, hexadecimal digits.
pub(super) type MacText = [u8; MAC_TEXT_BYTES];

/// Length of a MAC header: key id, colon, hexadecimal digits. A header of another length is forged.
pub const MAC_TEXT_BYTES: usize = 2 + 2 * MAC_BYTES;
const _: () = assert!(KEY_ID < 10, "the text has one digit for the key id");

/// Result of decoding a log record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decoded {
    /// A record that the fold decides.
    Record(Record),
    /// A record that is kept as a dead letter and has no other effect.
    DeadLetter(DeadLetterReason),
    /// A record of a newer coupond. It may affect decisions about later records, so this binary
    /// must halt the partition.
    Newer {
        /// Version of the record's format.
        version: u32,
    },
}

/// Why a record is a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeadLetterReason {
    /// Larger than [`RECORD_BYTES_MAX`].
    Oversized,
    /// Not JSON of the documented shape, or with an invalid id.
    Malformed,
    /// The key is not the campaign id.
    WrongKey,
    /// The campaign is routed to another partition.
    ForeignPartition,
    /// The MAC is wrong; or it is missing, which only a request of a known version may do.
    Forged,
    /// The campaign is not defined at the record's position.
    Undefined,
    /// The record time is not between 1970 and 9999.
    Time,
}

impl DeadLetterReason {
    /// Returns the reason as it appears in the dead letter's header.
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
struct RequestJson<'a> {
    v: u32,
    /// Not an enum: serde takes `{"request":null}` for a variant as well.
    #[serde(borrow)]
    r#type: Cow<'a, str>,
    campaign_id: CampaignId,
    user_id: UserId,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    idempotency_key: Option<IdempotencyKey>,
}

/// The fields that every version has. They determine how to decode the others.
#[derive(Deserialize)]
struct Envelope {
    v: u32,
    r#type: String,
}

#[derive(Serialize, Deserialize)]
struct ControlJson<'a> {
    v: u32,
    campaign_id: CampaignId,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    based_on: Option<Offset>,
    by: Cow<'a, str>,
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    retried: bool,
    #[serde(flatten)]
    change: Change,
}

/// Encodes and decodes the records of one log.
#[derive(Debug, Clone)]
pub struct Codec {
    macs: Macs,
    log_epoch: u32,
    partitions: u32,
}

impl Codec {
    /// Creates a codec for the log of `instance`, of this epoch and partition count.
    #[must_use]
    pub fn new(keys: &Keys, instance: &str, log_epoch: u32, partitions: u32) -> Self {
        Self { macs: keys.macs(instance), log_epoch, partitions }
    }

    /// Returns the partition of `campaign`.
    #[must_use]
    pub fn partition_of(&self, campaign: &CampaignId) -> Partition {
        routing::partition_of(campaign, self.partitions)
    }

    /// Returns whether the layout has the partition.
    #[must_use]
    pub fn has(&self, partition: Partition) -> bool {
        partition < self.partitions
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
        let body = RequestJson {
            v: REQUEST_VERSION,
            r#type: Cow::Borrowed(REQUEST_TYPE),
            campaign_id: campaign.clone(),
            user_id: user.clone(),
            idempotency_key: idempotency_key.clone(),
        };
        self.with_mac(campaign, json(&body))
    }

    /// Encodes a control record, with its partition.
    #[must_use]
    pub fn encode_control(&self, control: &Control) -> (Partition, NewRecord) {
        let Control { campaign, based_on, by, retried, change } = control;
        let body = ControlJson {
            v: CONTROL_VERSION,
            campaign_id: campaign.clone(),
            based_on: *based_on,
            by: Cow::Borrowed(by),
            retried: *retried,
            change: change.clone(),
        };
        self.with_mac(campaign, json(&body))
    }

    /// Adds key and MAC to an encoded record.
    fn with_mac(&self, campaign: &CampaignId, value: Vec<u8>) -> (Partition, NewRecord) {
        let partition = self.partition_of(campaign);
        let mac = self.mac(partition, campaign.as_str().as_bytes(), &value);
        (partition, NewRecord { campaign: campaign.clone(), value, mac })
    }

    /// Decodes a log record of `partition`. Never fails: bytes that are no record are a dead
    /// letter.
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
        if self.partition_of(campaign) != partition {
            return Err(DeadLetterReason::ForeignPartition);
        }
        if !record.time.is_representable() {
            return Err(DeadLetterReason::Time);
        }
        Ok(decoded)
    }

    fn decode_content(value: &[u8], authentic: bool) -> Result<Decoded, DeadLetterReason> {
        // serde takes the values of an array for the members in their order. The documented format has
        // names.
        if !value.trim_ascii_start().starts_with(b"{") {
            return Err(DeadLetterReason::Malformed);
        }
        // Nearly every record is a valid request, which takes one pass over the JSON. The slow path
        // below finds out what another record is.
        if let Ok(body) = serde_json::from_slice::<RequestJson>(value)
            && body.v == REQUEST_VERSION
            && body.r#type == REQUEST_TYPE
        {
            return Ok(Decoded::Record(body.into()));
        }
        let envelope: Envelope =
            serde_json::from_slice(value).map_err(|_| DeadLetterReason::Malformed)?;
        let is_request = envelope.r#type == REQUEST_TYPE;
        let known = if is_request { REQUEST_VERSION } else { CONTROL_VERSION };
        if envelope.v > known {
            // Without a MAC, anyone with write access to the topic could halt the partition.
            return match authentic {
                true => Ok(Decoded::Newer { version: envelope.v }),
                false => Err(DeadLetterReason::Forged),
            };
        }
        if is_request {
            return Err(DeadLetterReason::Malformed);
        }
        if !authentic {
            return Err(DeadLetterReason::Forged);
        }
        // A control record of an older format. No layout is created over such a log, so this is no
        // record of this instance.
        if envelope.v < CONTROL_VERSION {
            return Err(DeadLetterReason::Malformed);
        }
        decode_control(value).map(Decoded::Record)
    }

    /// Returns the MAC header of a record of `partition`.
    #[must_use]
    pub fn mac(&self, partition: Partition, key: &[u8], value: &[u8]) -> Vec<u8> {
        self.mac_text(partition, key, value).to_vec()
    }

    fn mac_text(&self, partition: Partition, key: &[u8], value: &[u8]) -> MacText {
        // The key's length keeps its bytes apart from those of the value.
        let parts = [&(key.len() as u64).to_le_bytes()[..], key, value];
        mac_text(self.macs.of(MAC_PURPOSE, self.log_epoch, partition, &parts))
    }
}

/// Returns the header text of a MAC.
pub(super) fn mac_text(mac: [u8; MAC_BYTES]) -> MacText {
    let mut text = [b':'; MAC_TEXT_BYTES];
    text[0] = b'0' + KEY_ID;
    for (digits, byte) in text[2..].chunks_exact_mut(2).zip(mac) {
        digits.copy_from_slice(&hex_digits(byte));
    }
    text
}

impl From<RequestJson<'_>> for Record {
    fn from(body: RequestJson<'_>) -> Self {
        let RequestJson { campaign_id, user_id, idempotency_key, .. } = body;
        Self::Request(Request { campaign: campaign_id, user: user_id, idempotency_key })
    }
}

fn decode_control(value: &[u8]) -> Result<Record, DeadLetterReason> {
    let body: ControlJson =
        serde_json::from_slice(value).map_err(|_| DeadLetterReason::Malformed)?;
    Ok(Record::from(Control {
        campaign: body.campaign_id,
        based_on: body.based_on,
        by: body.by.into_owned(),
        retried: body.retried,
        change: body.change,
    }))
}

fn json(body: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(body).expect("text and numbers are always JSON")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::Timestamp;

    fn codec() -> Codec {
        codec_of("one")
    }

    fn codec_of(instance: &str) -> Codec {
        Codec::new(&Keys::derive(b"a secret of tests and of nothing else"), instance, 1, 1)
    }

    /// Decodes a record of the campaign `spring`, with a valid MAC or none.
    fn decoded(value: &str, authentic: bool) -> Decoded {
        let codec = codec();
        let (key, value) = (b"spring".to_vec(), value.as_bytes().to_vec());
        let mac = authentic.then(|| codec.mac(0, &key, &value));
        codec.decode(0, &LogRecord { offset: 0, time: Timestamp(0), key, value, mac })
    }

    fn control(version: u32) -> String {
        format!(r#"{{"v":{version},"campaign_id":"spring","by":"ada","type":"closed"}}"#)
    }

    fn request(version: u32) -> String {
        format!(r#"{{"v":{version},"type":"request","campaign_id":"spring","user_id":"ada"}}"#)
    }

    #[test]
    fn a_control_record_has_the_format_number() {
        let campaign = CampaignId::parse("spring").unwrap();
        let closed = Record::from(Control::once("ada", campaign, None, Change::Closed));
        let (_, written) = codec().encode(&closed);
        let text = String::from_utf8(written.value).unwrap();
        assert!(text.starts_with(&format!(r#"{{"v":{FORMAT},"#)), "{text}");
        assert_eq!(decoded(&control(FORMAT.into()), true), Decoded::Record(closed));
    }

    #[test]
    fn a_record_of_another_instance_is_forged() {
        let (key, value) = (b"spring".to_vec(), control(CONTROL_VERSION).into_bytes());
        let mac = Some(codec_of("other").mac(0, &key, &value));
        let record = LogRecord { offset: 0, time: Timestamp(0), key, value, mac };
        let forged = Decoded::DeadLetter(DeadLetterReason::Forged);
        assert_eq!(codec_of("one").decode(0, &record), forged);
        assert!(matches!(codec_of("other").decode(0, &record), Decoded::Record(_)));
    }

    #[test]
    fn a_newer_record_of_ours_halts() {
        for newer in [control(CONTROL_VERSION + 1), request(REQUEST_VERSION + 1)] {
            assert!(matches!(decoded(&newer, true), Decoded::Newer { .. }), "{newer}");
            let forged = Decoded::DeadLetter(DeadLetterReason::Forged);
            assert_eq!(decoded(&newer, false), forged, "{newer}");
        }
    }

    #[test]
    fn an_older_control_record_is_a_dead_letter() {
        let malformed = Decoded::DeadLetter(DeadLetterReason::Malformed);
        assert_eq!(decoded(&control(CONTROL_VERSION - 1), true), malformed);
        assert_eq!(decoded(&request(0), true), malformed);
    }

    #[test]
    fn a_request_has_members_with_names() {
        for other in [
            r#"[1,"request","spring","ada"]"#,
            r#"[1,"request","spring","ada",null]"#,
            r#"{"v":1,"type":{"request":null},"campaign_id":"spring","user_id":"ada"}"#,
        ] {
            for authentic in [true, false] {
                let malformed = Decoded::DeadLetter(DeadLetterReason::Malformed);
                assert_eq!(decoded(other, authentic), malformed, "{other}");
            }
        }
    }

    #[test]
    fn requests_of_anyone_keep_version_1() {
        for authentic in [true, false] {
            let found = decoded(&request(1), authentic);
            assert!(matches!(found, Decoded::Record(Record::Request(_))), "{found:?}");
        }
    }
}
