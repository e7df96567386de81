//! Keys of the two keyspaces. Numbers are big-endian, so that keys sort like their numbers.
//!
//! A key in `log` is `partition offset`, where the offset is that of a block's first record. A key
//! in `data` starts with a letter for its kind of row. Texts end with a zero byte, which no id
//! contains, so that the keys of `a` do not share a prefix with those of `a-1`.

use std::ops::Bound;

use crate::domain::{
    ids::{CampaignId, Offset, Partition, Sequence, UserId},
    rows::Register,
};

const LAYOUT: u8 = b'l';
const TRIMMED: u8 = b't';
const PROGRESS: u8 = b'p';
const REGISTER: u8 = b'r';
const HOLD: u8 = b'h';
const SKIP: u8 = b's';
const SETTLED_SKIP: u8 = b'x';
const MARK: u8 = b'm';
const NAME: u8 = b'n';
const VERSION: u8 = b'v';
const CHANGE: u8 = b'a';
const COUPON: u8 = b'c';
const BY_USER: u8 = b'u';
const DEAD_LETTER: u8 = b'd';

/// Bytes of a key in `log`.
pub(crate) const RECORD_KEY_BYTES: usize = 12;

/// A range of keys.
pub(crate) type KeyRange = (Bound<Vec<u8>>, Bound<Vec<u8>>);

struct Key(Vec<u8>);

impl Key {
    fn new(prefix: u8) -> Self {
        let mut bytes = Vec::with_capacity(96);
        bytes.push(prefix);
        Self(bytes)
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn text(self, text: &str) -> Self {
        self.bytes(text.as_bytes()).bytes(&[0])
    }
}

/// Returns the key of the block whose first record is at `offset`.
pub(crate) fn record(partition: Partition, offset: Offset) -> [u8; RECORD_KEY_BYTES] {
    let mut key = [0; RECORD_KEY_BYTES];
    key[..4].copy_from_slice(&partition.to_be_bytes());
    key[4..].copy_from_slice(&offset.to_be_bytes());
    key
}

/// Returns the offset in a block's key, or `None` if the key is not one.
pub(crate) fn record_offset(key: &[u8]) -> Option<Offset> {
    number(key.get(4..)?)
}

pub(crate) fn layout() -> Vec<u8> {
    vec![LAYOUT]
}

/// Returns the key of a partition's trim mark: the first offset that is kept.
pub(crate) fn trimmed(partition: Partition) -> Vec<u8> {
    Key::new(TRIMMED).bytes(&partition.to_be_bytes()).0
}

pub(crate) fn progress(partition: Partition) -> Vec<u8> {
    Key::new(PROGRESS).bytes(&partition.to_be_bytes()).0
}

pub(crate) fn register(partition: Partition, register: Register) -> Vec<u8> {
    Key::new(REGISTER).bytes(&partition.to_be_bytes()).text(register.name()).0
}

pub(crate) fn hold(
    partition: Partition,
    campaign: &CampaignId,
    from: Offset,
    number: u32,
) -> Vec<u8> {
    let key = campaign_holds(partition, campaign);
    Key(key).bytes(&from.to_be_bytes()).bytes(&number.to_be_bytes()).0
}

/// Returns the prefix of all holds of a campaign.
pub(crate) fn campaign_holds(partition: Partition, campaign: &CampaignId) -> Vec<u8> {
    Key(partition_holds(partition)).text(campaign.as_str()).0
}

/// Returns the prefix of all holds of a partition.
pub(crate) fn partition_holds(partition: Partition) -> Vec<u8> {
    Key::new(HOLD).bytes(&partition.to_be_bytes()).0
}

/// Returns campaign, `from` and number in a hold's key, or `None` if the key is not one.
pub(crate) fn hold_parts(key: &[u8]) -> Option<(CampaignId, Offset, u32)> {
    let rest = key.get(5..)?;
    let end = rest.iter().position(|byte| *byte == 0)?;
    let campaign = CampaignId::parse(std::str::from_utf8(&rest[..end]).ok()?).ok()?;
    let numbers = &rest[end + 1..];
    let hold_number = u32::from_be_bytes(numbers.get(8..)?.try_into().ok()?);
    Some((campaign, number(numbers.get(..8)?)?, hold_number))
}

/// Returns the key of a skip.
pub(crate) fn skip(partition: Partition, from: Offset) -> Vec<u8> {
    Key(partition_skips(partition)).bytes(&from.to_be_bytes()).0
}

/// Returns the prefix of all skips of a partition.
pub(crate) fn partition_skips(partition: Partition) -> Vec<u8> {
    Key::new(SKIP).bytes(&partition.to_be_bytes()).0
}

/// Returns the key of the state that a skip was changed to.
pub(crate) fn settled_skip(partition: Partition, from: Offset) -> Vec<u8> {
    Key::new(SETTLED_SKIP).bytes(&partition.to_be_bytes()).bytes(&from.to_be_bytes()).0
}

/// Returns `from` in a skip's key, or `None` if the key is not one.
pub(crate) fn skip_from(key: &[u8]) -> Option<Offset> {
    number(key.get(5..)?)
}

pub(crate) fn mark(campaign: &CampaignId) -> Vec<u8> {
    Key::new(MARK).text(campaign.as_str()).0
}

/// Returns the key of a campaign's entry in the listing.
pub(crate) fn name(campaign: &CampaignId) -> Vec<u8> {
    Key::new(NAME).bytes(campaign.as_str().as_bytes()).0
}

/// Returns the campaign in a listing entry's key, or `None` if the key is not one.
pub(crate) fn name_parts(key: &[u8]) -> Option<CampaignId> {
    CampaignId::parse(std::str::from_utf8(key.get(1..)?).ok()?).ok()
}

/// Prefixes of the kinds of rows that only campaigns which were defined have.
pub(crate) const KINDS_OF_CAMPAIGNS: [u8; 3] = [VERSION, MARK, NAME];

/// Returns the campaign in a key of one of [`KINDS_OF_CAMPAIGNS`], or `None` if the key is not one.
pub(crate) fn campaign_of(key: &[u8]) -> Option<CampaignId> {
    let id = key.get(1..)?.split(|byte| *byte == 0).next()?;
    CampaignId::parse(std::str::from_utf8(id).ok()?).ok()
}

/// Returns the range of all listing entries behind `after`, or of all.
pub(crate) fn names_after(after: Option<&CampaignId>) -> KeyRange {
    let start = match after {
        Some(campaign) => Bound::Excluded(name(campaign)),
        None => Bound::Included(vec![NAME]),
    };
    (start, Bound::Excluded(vec![NAME + 1]))
}

pub(crate) fn version(campaign: &CampaignId, offset: Offset) -> Vec<u8> {
    Key(versions(campaign)).bytes(&offset.to_be_bytes()).0
}

/// Returns the prefix of all definition versions of a campaign.
pub(crate) fn versions(campaign: &CampaignId) -> Vec<u8> {
    Key::new(VERSION).text(campaign.as_str()).0
}

/// Returns the key of what came of a control record.
pub(crate) fn change(partition: Partition, offset: Offset) -> Vec<u8> {
    Key::new(CHANGE).bytes(&partition.to_be_bytes()).bytes(&offset.to_be_bytes()).0
}

/// Returns the range of a partition's changes from an offset on.
pub(crate) fn changes_from(partition: Partition, from: Offset) -> KeyRange {
    let (start, end) = (change(partition, from), change(partition, Offset::MAX));
    (Bound::Included(start), Bound::Included(end))
}

pub(crate) fn coupon(campaign: &CampaignId, sequence: Sequence) -> Vec<u8> {
    Key(coupons(campaign)).bytes(&sequence.to_be_bytes()).0
}

fn coupons(campaign: &CampaignId) -> Vec<u8> {
    Key::new(COUPON).text(campaign.as_str()).0
}

/// Returns the range of a campaign's coupons from sequence `first` to `last`.
pub(crate) fn coupons_between(campaign: &CampaignId, first: Sequence, last: Sequence) -> KeyRange {
    (Bound::Included(coupon(campaign, first)), Bound::Included(coupon(campaign, last)))
}

/// Returns the key of a coupon in the by-user view.
pub(crate) fn by_user(
    campaign: &CampaignId,
    bucket: u8,
    user: &UserId,
    sequence: Sequence,
) -> Vec<u8> {
    Key(user_bucket(campaign, bucket)).text(user.as_str()).bytes(&sequence.to_be_bytes()).0
}

/// Returns the prefix of one bucket of the by-user view.
pub(crate) fn user_bucket(campaign: &CampaignId, bucket: u8) -> Vec<u8> {
    Key::new(BY_USER).text(campaign.as_str()).bytes(&[bucket]).0
}

/// Returns the range of one bucket of the by-user view behind the key `last`, or all of it.
pub(crate) fn user_bucket_after(
    campaign: &CampaignId,
    bucket: u8,
    last: Option<Vec<u8>>,
) -> KeyRange {
    let prefix = user_bucket(campaign, bucket);
    // No id contains this byte, so every key of the bucket is below it.
    let end = Key(prefix.clone()).bytes(&[0xFF]).0;
    (last.map_or(Bound::Included(prefix), Bound::Excluded), Bound::Excluded(end))
}

/// Returns user and sequence in a key of the by-user view, or `None` if the key is not one. The
/// prefix of its bucket is `prefix_bytes` long.
pub(crate) fn by_user_parts(key: &[u8], prefix_bytes: usize) -> Option<(UserId, Sequence)> {
    let (user, sequence) = key.get(prefix_bytes..)?.split_last_chunk::<4>()?;
    let (zero, user) = user.split_last()?;
    let user = UserId::parse(std::str::from_utf8(user).ok()?).ok()?;
    (*zero == 0).then_some((user, Sequence::from_be_bytes(*sequence)))
}

/// Returns the range of one user's coupons in the by-user view.
pub(crate) fn of_user(campaign: &CampaignId, bucket: u8, user: &UserId) -> KeyRange {
    let at = |sequence| by_user(campaign, bucket, user, sequence);
    (Bound::Included(at(0)), Bound::Included(at(Sequence::MAX)))
}

/// Returns the sequence at the end of a coupon's key in either view, or `None` if it is too short.
pub(crate) fn sequence_of(key: &[u8]) -> Option<Sequence> {
    let start = key.len().checked_sub(4)?;
    Some(u32::from_be_bytes(key[start..].try_into().ok()?))
}

pub(crate) fn dead_letter(partition: Partition, offset: Offset) -> Vec<u8> {
    Key(dead_letters(partition)).bytes(&offset.to_be_bytes()).0
}

/// Returns the prefix of all dead letters of a partition.
pub(crate) fn dead_letters(partition: Partition) -> Vec<u8> {
    Key::new(DEAD_LETTER).bytes(&partition.to_be_bytes()).0
}

/// Decodes eight big-endian bytes.
pub(crate) fn number(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn campaign(name: &str) -> CampaignId {
        CampaignId::parse(name).unwrap()
    }

    #[test]
    fn keys_sort_like_their_ids_and_numbers() {
        assert!(record(0, u64::MAX) < record(1, 0));
        assert!(record(1, 255) < record(1, 256));
        assert!(coupon(&campaign("a"), 255) < coupon(&campaign("a"), 256));
        assert!(name(&campaign("a")) < name(&campaign("a-")));
        assert!(name(&campaign("a-")) < name(&campaign("a0")));
        assert!(version(&campaign("a"), 9) < version(&campaign("a"), 10));
    }

    #[test]
    fn ranges_contain_no_other_campaign_or_user() {
        let (_, end) = coupons_between(&campaign("a"), 1, Sequence::MAX);
        let Bound::Included(end) = end else { panic!("the end is included") };
        assert!(coupon(&campaign("a-"), 0) > end);
        let user = |name: &str| UserId::parse(name).unwrap();
        let (start, end) = of_user(&campaign("a"), 3, &user("u"));
        let (Bound::Included(start), Bound::Included(end)) = (start, end) else {
            panic!("both ends are included")
        };
        for other in [
            by_user(&campaign("a"), 3, &user("u1"), 5),
            by_user(&campaign("a"), 2, &user("u"), 5),
            by_user(&campaign("a-"), 3, &user("u"), 5),
        ] {
            assert!(other < start || other > end);
        }
        assert!((start..=end).contains(&by_user(&campaign("a"), 3, &user("u"), 5)));
    }

    #[test]
    fn key_parts_round_trip() {
        assert_eq!(record_offset(&record(3, 77)), Some(77));
        let key = hold(2, &campaign("spring-1"), 12, 3);
        assert_eq!(hold_parts(&key), Some((campaign("spring-1"), 12, 3)));
        assert_eq!(name_parts(&name(&campaign("x"))), Some(campaign("x")));
        assert_eq!(sequence_of(&coupon(&campaign("x"), 9)), Some(9));
        let user = UserId::parse("u").unwrap();
        let prefix = user_bucket(&campaign("x"), 3);
        let key = by_user(&campaign("x"), 3, &user, 9);
        assert_eq!(by_user_parts(&key, prefix.len()), Some((user, 9)));
        assert_eq!(by_user_parts(&key, prefix.len() + 5), None);
        assert_eq!(hold_parts(b"h"), None);
        assert_eq!(record_offset(b"xx"), None);
        assert_eq!(sequence_of(b"abc"), None);
    }
}
