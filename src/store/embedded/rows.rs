//! Encodes and decodes rows.
//!
//! A value starts with a format byte; a register's value has its rank in front of that byte.
//! Coupons are binary, because a start may read a million of them. All other rows are JSON.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    domain::{
        change::ChangeRow,
        coupon::Coupon,
        definition::{Definition, DefinitionVersion},
        ids::{CampaignId, Offset, Partition, Position, Sequence, Timestamp, UserId},
        rows::{
            Counts, Hold, HoldKind, HoldState, LastRecord, Mark, Progress, Row, Skip, SkipState,
        },
    },
    embedded::{DataEntry, RANK_BYTES, keys, ranked},
    store::{Layout, Unreadable},
    wire::FORMAT,
};

/// Appends the database entries of `row` to `entries`.
pub(super) fn encode(row: &Row, entries: &mut Vec<DataEntry>) {
    match row {
        Row::Coupon(coupon) => {
            let key = keys::coupon(&coupon.campaign, coupon.sequence);
            entries.push(DataEntry::Put(key, encode_coupon(coupon)));
            // Index entry last: a reader that sees it must find the coupon.
            entries.push(index(coupon));
        }
        Row::ByUser(coupon) => entries.push(index(coupon)),
        Row::Version(version) => {
            let key = keys::version(&version.campaign, version.position.offset);
            entries.push(DataEntry::Put(key, encode_version(version)));
            entries.push(DataEntry::Put(keys::name(&version.campaign), Vec::new()));
        }
        Row::Change(change) => {
            let Position { partition, offset, .. } = change.position;
            entries.push(DataEntry::Put(keys::change(partition, offset), json(&**change)));
        }
        Row::Hold(hold) => {
            let key = keys::hold(hold.partition, &hold.campaign, hold.from, hold.number);
            let Hold { kind, state, until, .. } = *hold;
            let row = HoldRow { kind, reason: hold.reason.clone(), state, until };
            entries.push(DataEntry::Raise(key, ranked(hold.rank(), &json(&row))));
        }
        Row::Mark(mark) => {
            let Counts { issued, versions, latest } = mark.counts;
            let row = MarkRow { issued, versions, latest };
            let value = ranked(mark.offset, &json(&row));
            entries.push(DataEntry::Raise(keys::mark(&mark.campaign), value));
        }
        Row::Progress(progress) => {
            let last =
                progress.last.map(|last| LastRow { offset: last.offset, digest: last.digest });
            let row = ProgressRow { log_epoch: progress.log_epoch, last };
            let value = ranked(progress.next, &json(&row));
            entries.push(DataEntry::Raise(keys::progress(progress.partition), value));
        }
        Row::Register(partition, register, number) => {
            let key = keys::register(*partition, *register);
            entries.push(DataEntry::Raise(key, ranked(*number, &[FORMAT])));
        }
    }
}

/// Returns the entry of a coupon in the index by user, which is this store's by-user view.
fn index(coupon: &Coupon) -> DataEntry {
    let Coupon { campaign, sequence, user, user_bucket, .. } = coupon;
    DataEntry::Put(keys::by_user(campaign, *user_bucket, user, *sequence), Vec::new())
}

#[derive(Serialize, Deserialize)]
struct HoldRow {
    kind: HoldKind,
    reason: String,
    state: HoldState,
    until: Offset,
}

/// A skip as it was made.
#[derive(Serialize, Deserialize)]
struct SkipRow {
    to: Offset,
    reason: String,
    by: String,
}

pub(super) fn encode_skip(skip: &Skip) -> Vec<u8> {
    json(&SkipRow { to: skip.to, reason: skip.reason.clone(), by: skip.by.clone() })
}

/// Decodes a skip from its key and value, and from the value of its state, if that was changed.
pub(super) fn decode_skip(
    (partition, from): (Partition, Offset),
    value: &[u8],
    settled: Option<&[u8]>,
) -> Result<Skip, Unreadable> {
    let SkipRow { to, reason, by } = parse(value, Unreadable::new("a skip"))?;
    let state = settled.map_or(Ok(SkipState::Made), decode_skip_state)?;
    Ok(Skip { partition, from, to, reason, by, state })
}

pub(super) fn encode_skip_state(state: SkipState) -> Vec<u8> {
    json(&state)
}

pub(super) fn decode_skip_state(value: &[u8]) -> Result<SkipState, Unreadable> {
    parse(value, Unreadable::new("the state of a skip"))
}

#[derive(Serialize, Deserialize)]
struct MarkRow {
    issued: Sequence,
    versions: u32,
    latest: Offset,
}

#[derive(Serialize, Deserialize)]
struct ProgressRow {
    log_epoch: u32,
    last: Option<LastRow>,
}

#[derive(Serialize, Deserialize)]
struct LastRow {
    offset: Offset,
    digest: [u8; 16],
}

#[derive(Serialize, Deserialize)]
struct VersionRow {
    position: Position,
    time: Timestamp,
    definition: Definition,
    issued: u32,
    digest: [u8; 16],
}

pub(super) fn decode_hold(
    partition: Partition,
    key: &[u8],
    value: &[u8],
) -> Result<Hold, Unreadable> {
    const WHAT: Unreadable = Unreadable::new("a hold");
    let (campaign, from, number) = keys::hold_parts(key).ok_or(WHAT)?;
    let row: HoldRow = parse(value.get(RANK_BYTES..).ok_or(WHAT)?, WHAT)?;
    let HoldRow { kind, reason, state, until } = row;
    Ok(Hold { campaign, partition, from, number, kind, reason, state, until })
}

pub(super) fn decode_mark(campaign: &CampaignId, value: &[u8]) -> Result<Mark, Unreadable> {
    const WHAT: Unreadable = Unreadable::new("a mark");
    let (offset, content) = unranked(value).ok_or(WHAT)?;
    let MarkRow { issued, versions, latest } = parse(content, WHAT)?;
    let counts = Counts { issued, versions, latest };
    Ok(Mark { campaign: campaign.clone(), offset, counts })
}

pub(super) fn decode_progress(partition: Partition, value: &[u8]) -> Result<Progress, Unreadable> {
    const WHAT: Unreadable = Unreadable::new("progress");
    let (next, content) = unranked(value).ok_or(WHAT)?;
    let ProgressRow { log_epoch, last } = parse(content, WHAT)?;
    let last = last.map(|LastRow { offset, digest }| LastRecord { offset, digest });
    Ok(Progress { partition, log_epoch, next, last })
}

pub(super) fn decode_register(value: &[u8]) -> Result<u64, Unreadable> {
    match unranked(value) {
        Some((number, [FORMAT])) => Ok(number),
        _ => Err(Unreadable::new("a register")),
    }
}

fn encode_version(version: &DefinitionVersion) -> Vec<u8> {
    json(&VersionRow {
        position: version.position,
        time: version.time,
        definition: version.definition.clone(),
        issued: version.issued,
        digest: version.digest,
    })
}

pub(super) fn decode_version(
    campaign: &CampaignId,
    value: &[u8],
) -> Result<DefinitionVersion, Unreadable> {
    let row: VersionRow = parse(value, Unreadable::new("a definition version"))?;
    let VersionRow { position, time, definition, issued, digest } = row;
    Ok(DefinitionVersion { campaign: campaign.clone(), position, time, definition, issued, digest })
}

pub(super) fn decode_change(value: &[u8]) -> Result<ChangeRow, Unreadable> {
    parse(value, Unreadable::new("a change"))
}

pub(super) fn encode_layout(layout: &Layout) -> Vec<u8> {
    json(layout)
}

pub(super) fn decode_layout(value: &[u8]) -> Result<Layout, Unreadable> {
    parse(value, Unreadable::new("the layout"))
}

/// Encodes a coupon without campaign and sequence, which are in the key. Numbers are little-endian,
/// user and code are preceded by their length, and the digests come last.
fn encode_coupon(coupon: &Coupon) -> Vec<u8> {
    let (user, code) = (coupon.user.as_str().as_bytes(), coupon.code.as_bytes());
    let mut bytes = Vec::with_capacity(80 + user.len() + code.len());
    bytes.push(FORMAT);
    bytes.extend_from_slice(&coupon.position.log_epoch.to_le_bytes());
    bytes.extend_from_slice(&coupon.position.partition.to_le_bytes());
    bytes.extend_from_slice(&coupon.position.offset.to_le_bytes());
    bytes.extend_from_slice(&coupon.issued_at.0.to_le_bytes());
    bytes.extend_from_slice(&coupon.rules_version.to_le_bytes());
    bytes.push(coupon.user_bucket);
    for text in [user, code] {
        let length = u16::try_from(text.len()).expect("ids and codes are far below 64 KiB");
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(text);
    }
    bytes.extend_from_slice(&coupon.digest);
    if let Some(key_digest) = &coupon.key_digest {
        bytes.extend_from_slice(key_digest);
    }
    bytes
}

pub(super) fn decode_coupon(
    campaign: &CampaignId,
    sequence: Sequence,
    bytes: &[u8],
) -> Result<Coupon, Unreadable> {
    let mut fields = Fields(bytes);
    fields.coupon(campaign, sequence).ok_or(Unreadable::new("a coupon"))
}

/// The unread rest of a value.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn coupon(&mut self, campaign: &CampaignId, sequence: Sequence) -> Option<Coupon> {
        if self.array::<1>()? != [FORMAT] {
            return None;
        }
        let log_epoch = u32::from_le_bytes(self.array()?);
        let partition = u32::from_le_bytes(self.array()?);
        let offset = u64::from_le_bytes(self.array()?);
        let issued_at = Timestamp(i64::from_le_bytes(self.array()?));
        let rules_version = u16::from_le_bytes(self.array()?);
        let [user_bucket] = self.array()?;
        let user = UserId::parse(self.text()?).ok()?;
        let code = self.text()?.into();
        let digest = self.array()?;
        let key_digest = if self.0.is_empty() { None } else { Some(self.array()?) };
        let whole = self.0.is_empty();
        whole.then(|| Coupon {
            campaign: campaign.clone(),
            sequence,
            user,
            code,
            issued_at,
            position: Position { log_epoch, partition, offset },
            key_digest,
            user_bucket,
            rules_version,
            digest,
        })
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }

    fn text(&mut self) -> Option<&'a str> {
        let length = usize::from(u16::from_le_bytes(self.array()?));
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        std::str::from_utf8(text).ok()
    }
}

fn json(row: &impl Serialize) -> Vec<u8> {
    let mut bytes = vec![FORMAT];
    serde_json::to_writer(&mut bytes, row).expect("text and numbers are always JSON");
    bytes
}

fn parse<T: DeserializeOwned>(bytes: &[u8], what: Unreadable) -> Result<T, Unreadable> {
    match bytes.split_first() {
        Some((&FORMAT, content)) => serde_json::from_slice(content).map_err(|_| what),
        _ => Err(what),
    }
}

fn unranked(value: &[u8]) -> Option<(u64, &[u8])> {
    let (rank, content) = value.split_at_checked(RANK_BYTES)?;
    Some((keys::number(rank)?, content))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::store::embedded) fn coupon(key_digest: Option<[u8; 16]>) -> Coupon {
        Coupon {
            campaign: CampaignId::parse("spring").unwrap(),
            sequence: 17,
            user: UserId::parse(&"u".repeat(255)).unwrap(),
            code: "C-123".into(),
            issued_at: Timestamp(1_700_000_000_123),
            position: Position { log_epoch: 1, partition: 3, offset: u64::MAX },
            key_digest,
            user_bucket: 15,
            rules_version: 1,
            digest: [7; 16],
        }
    }

    #[test]
    fn a_coupon_round_trips() {
        for key_digest in [None, Some([9; 16])] {
            let coupon = coupon(key_digest);
            let bytes = encode_coupon(&coupon);
            assert_eq!(decode_coupon(&coupon.campaign, 17, &bytes).unwrap(), coupon);
        }
    }

    #[test]
    fn a_cut_or_lengthened_coupon_is_unreadable() {
        let coupon = coupon(Some([9; 16]));
        let bytes = encode_coupon(&coupon);
        for end in (0..bytes.len()).filter(|end| *end != bytes.len() - 16) {
            assert!(decode_coupon(&coupon.campaign, 17, &bytes[..end]).is_err(), "{end} bytes");
        }
        let longer = [bytes.as_slice(), &[0]].concat();
        assert!(decode_coupon(&coupon.campaign, 17, &longer).is_err());
        let newer = [&[FORMAT + 1], &bytes[1..]].concat();
        assert!(decode_coupon(&coupon.campaign, 17, &newer).is_err());
    }

    #[test]
    fn a_damaged_register_is_unreadable() {
        let said = |decoded: Result<Progress, Unreadable>| decoded.map_err(|it| it.to_string());
        assert_eq!(said(decode_progress(0, b"short")), said(Err(Unreadable::new("progress"))));
        let newer = ranked(3, &[FORMAT + 1, b'{', b'}']);
        assert_eq!(said(decode_progress(0, &newer)), said(Err(Unreadable::new("progress"))));
    }
}
