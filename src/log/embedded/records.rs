//! Encodes and decodes records and dead letters.

use crate::{
    domain::ids::{Offset, Timestamp},
    embedded::{ReadFailure, TIME_BYTES, keys},
    wire::{FORMAT, LogRecord, NewRecord},
};

/// A record that was kept instead of being decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// The record.
    pub record: LogRecord,
    /// Why it was kept.
    pub reason: String,
}

/// Encodes a record: time (set by the committer), format, lengths of key and MAC, then key, MAC and
/// value.
pub(super) fn encode(record: &NewRecord) -> Result<Vec<u8>, &'static str> {
    let key = record.campaign.as_str().as_bytes();
    encode_parts(Timestamp(0), key, Some(&record.mac), &record.value)
}

pub(super) fn encode_parts(
    time: Timestamp,
    key: &[u8],
    mac: Option<&[u8]>,
    value: &[u8],
) -> Result<Vec<u8>, &'static str> {
    let key_len = u32::try_from(key.len()).map_err(|_| "the key is too long")?;
    // The length plus one; 0 means no MAC, which differs from an empty one.
    let mac_len = mac.map_or(0, |mac| mac.len() + 1);
    let mac_len = u16::try_from(mac_len).map_err(|_| "the MAC is too long")?;
    let mac = mac.unwrap_or_default();
    let mut bytes = Vec::with_capacity(TIME_BYTES + 7 + key.len() + mac.len() + value.len());
    bytes.extend_from_slice(&time.0.to_be_bytes());
    bytes.push(FORMAT);
    bytes.extend_from_slice(&key_len.to_be_bytes());
    bytes.extend_from_slice(&mac_len.to_be_bytes());
    bytes.extend_from_slice(key);
    bytes.extend_from_slice(mac);
    bytes.extend_from_slice(value);
    Ok(bytes)
}

pub(super) fn decode(offset: Offset, bytes: &[u8]) -> Option<LogRecord> {
    let time = time_of(bytes)?;
    let (format, rest) = bytes.get(TIME_BYTES..)?.split_first()?;
    if *format != FORMAT {
        return None;
    }
    let (key_len, rest) = rest.split_first_chunk::<4>()?;
    let (mac_len, rest) = rest.split_first_chunk::<2>()?;
    let (key, rest) = rest.split_at_checked(u32::from_be_bytes(*key_len) as usize)?;
    let mac_len = usize::from(u16::from_be_bytes(*mac_len));
    let (mac, value) = rest.split_at_checked(mac_len.saturating_sub(1))?;
    let mac = (mac_len > 0).then(|| mac.to_vec());
    Some(LogRecord { offset, time, key: key.to_vec(), value: value.to_vec(), mac })
}

pub(super) fn time_of(bytes: &[u8]) -> Option<Timestamp> {
    let time = keys::number(bytes.get(..TIME_BYTES)?)?;
    Some(Timestamp(time.cast_signed()))
}

/// Encodes a dead letter: length of the reason, reason, record.
pub(super) fn encode_dead_letter(
    record: &LogRecord,
    reason: &str,
) -> Result<Vec<u8>, &'static str> {
    let reason_len = u16::try_from(reason.len()).map_err(|_| "the reason is too long")?;
    let mut bytes = reason_len.to_be_bytes().to_vec();
    bytes.extend_from_slice(reason.as_bytes());
    let mac = record.mac.as_deref();
    bytes.extend_from_slice(&encode_parts(record.time, &record.key, mac, &record.value)?);
    Ok(bytes)
}

pub(super) fn decode_dead_letter(entry: fjall::KvPair) -> Result<DeadLetter, ReadFailure> {
    let (key, bytes) = entry;
    let decoded = || {
        let offset = key.len().checked_sub(8).and_then(|start| keys::number(&key[start..]))?;
        let (reason_len, rest) = bytes.split_first_chunk::<2>()?;
        let reason_len = usize::from(u16::from_be_bytes(*reason_len));
        let (reason, record) = rest.split_at_checked(reason_len)?;
        let reason = std::str::from_utf8(reason).ok()?.to_owned();
        Some(DeadLetter { record: decode(offset, record)?, reason })
    };
    decoded().ok_or_else(|| "a dead letter is damaged".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::CampaignId;

    #[test]
    fn no_mac_and_an_empty_one_differ() {
        for mac in [None, Some(vec![]), Some(vec![1, 2])] {
            let bytes = encode_parts(Timestamp(-5), b"key", mac.as_deref(), b"").unwrap();
            let record = LogRecord {
                offset: 9,
                time: Timestamp(-5),
                key: b"key".into(),
                value: vec![],
                mac,
            };
            assert_eq!(decode(9, &bytes), Some(record));
        }
    }

    #[test]
    fn a_headless_record_is_not_decoded() {
        let campaign = CampaignId::parse("spring").unwrap();
        let record = NewRecord { campaign, value: b"value".into(), mac: b"mac".into() };
        let mut bytes = encode(&record).unwrap();
        let head = bytes.len() - b"value".len();
        assert!((0..head).all(|end| decode(0, &bytes[..end]).is_none()));
        bytes[TIME_BYTES] += 1;
        assert_eq!(decode(0, &bytes), None);
    }

    #[test]
    fn a_cut_dead_letter_is_an_error() {
        let record =
            LogRecord { offset: 3, time: Timestamp(1), key: vec![0], value: vec![], mac: None };
        let bytes = encode_dead_letter(&record, "malformed").unwrap();
        let key = keys::dead_letter(1, 3);
        let decoded = |bytes: &[u8]| decode_dead_letter((key.as_slice().into(), bytes.into()));
        let expected = DeadLetter { record, reason: "malformed".to_owned() };
        assert_eq!(decoded(&bytes).unwrap(), expected);
        assert!((0..bytes.len()).all(|end| decoded(&bytes[..end]).is_err()));
    }
}
