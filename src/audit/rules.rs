//! A second, independent implementation of the design's rules, because the audit must not check
//! the product with the product's own code.

use crate::domain::{
    code::CodeFormat,
    definition::{Amendment, Definition, Terms},
    ids::{CampaignId, Sequence, Timestamp, UserId},
    keys::Keys,
    reason::Reason,
    record::Change,
};

/// The version of the rules that this audit implements.
const RULES: u16 = 1;

/// Least number of random bits in a code.
const CODE_BITS: u32 = 64;

/// Returns whether the terms are valid.
pub(super) fn is_valid(terms: &Terms) -> bool {
    let Terms { quota, per_user_limit, opens_at, closes_at, title, listed: _, code } = terms;
    let representable = |time: &Option<Timestamp>| time.is_none_or(Timestamp::is_representable);
    let ordered = match (opens_at, closes_at) {
        (Some(opens_at), Some(closes_at)) => opens_at < closes_at,
        _ => true,
    };
    *quota <= 100_000_000
        && (1..=1_000).contains(per_user_limit)
        && representable(opens_at)
        && representable(closes_at)
        && ordered
        && title.as_deref().is_none_or(is_valid_title)
        && is_valid_code(code)
}

fn is_valid_title(title: &str) -> bool {
    let length = title.chars().count();
    length > 0 && length <= 120 && title.chars().all(|letter| !letter.is_control())
}

fn is_valid_code(code: &CodeFormat) -> bool {
    let mut letters: Vec<char> = code.charset.chars().collect();
    let count = letters.len();
    letters.sort_unstable();
    letters.dedup();
    let prefix =
        |letter: char| letter.is_ascii_uppercase() || letter.is_ascii_digit() || letter == '-';
    let mut spelled: u128 = 1;
    for _ in 0..code.length {
        if spelled >> CODE_BITS == 0 {
            spelled *= count.min(64) as u128;
        }
    }
    code.prefix.len() <= 16
        && code.prefix.chars().all(prefix)
        && (2..=64).contains(&count)
        && letters.len() == count
        && letters.iter().all(char::is_ascii_graphic)
        && code.length <= 128
        && code.group.is_none_or(|group| (1..=128).contains(&group))
        && spelled >> CODE_BITS > 0
}

/// Returns a campaign's first definition.
pub(super) fn first(terms: &Terms) -> Definition {
    Definition {
        terms: terms.clone(),
        paused: false,
        closed: false,
        rules_version: RULES,
        user_buckets: user_buckets(terms.quota),
    }
}

/// Returns the number of buckets that a campaign without coupons has.
pub(super) fn user_buckets(quota: u32) -> u8 {
    (1..16).find(|buckets| quota <= u32::from(*buckets) * 100_000).unwrap_or(16)
}

/// Returns the definition after `change` with `issued` coupons, or `None` if it is refused.
pub(super) fn changed(before: &Definition, change: &Change, issued: u32) -> Option<Definition> {
    let mut after = before.clone();
    match change {
        Change::Closed => after.closed = true,
        Change::Paused if !before.closed => after.paused = true,
        Change::Resumed if !before.closed => after.paused = false,
        Change::Amended { amendment } if !before.closed => {
            amend(&mut after.terms, amendment);
            if !is_valid(&after.terms) || after.terms.quota < issued {
                return None;
            }
        }
        _ => return None,
    }
    if issued == 0 {
        after.user_buckets = user_buckets(after.terms.quota);
    }
    Some(after)
}

fn amend(terms: &mut Terms, amendment: &Amendment) {
    let Amendment { quota, per_user_limit, opens_at, closes_at, title, listed } = amendment.clone();
    terms.quota = quota.unwrap_or(terms.quota);
    terms.per_user_limit = per_user_limit.unwrap_or(terms.per_user_limit);
    terms.opens_at = opens_at.unwrap_or(terms.opens_at);
    terms.closes_at = closes_at.unwrap_or(terms.closes_at);
    if let Some(title) = title {
        terms.title = title;
    }
    terms.listed = listed.unwrap_or(terms.listed);
}

/// The order in which reasons are tried. The product's order is not used, because the audit checks
/// it.
const PRECEDENCE: [Reason; Reason::ALL.len()] =
    [Reason::Closed, Reason::Paused, Reason::NotOpenYet, Reason::SoldOut];

/// Returns the first reason for which no user gets a coupon at `time`, if there is one.
pub(super) fn rejection(definition: &Definition, issued: u32, time: Timestamp) -> Option<Reason> {
    let Terms { quota, opens_at, closes_at, .. } = &definition.terms;
    PRECEDENCE.into_iter().find(|reason| match reason {
        Reason::Closed => definition.closed || closes_at.is_some_and(|end| end <= time),
        Reason::Paused => definition.paused,
        Reason::NotOpenYet => opens_at.is_some_and(|start| time < start),
        Reason::SoldOut => issued >= *quota,
    })
}

/// Derives the code of one coupon. Reads 256 keyed bits as a fraction and takes its digits, most
/// significant first; each block gives only as many digits as leave 8 of its bits unused.
pub(super) fn code(
    format: &CodeFormat,
    keys: &Keys,
    campaign: &CampaignId,
    log_epoch: u32,
    sequence: Sequence,
    user: &UserId,
) -> String {
    let letters = format.charset.as_bytes();
    let radix = letters.len().clamp(2, 64) as u64;
    let bits_of_a_digit = u64::BITS - (radix - 1).leading_zeros();
    let digits_of_a_block = 248 / bits_of_a_digit;
    let mut code = format.prefix.clone();
    let mut left = u32::from(format.length);
    let mut until_hyphen = format.group;
    let mut block = 0;
    while left > 0 {
        let mut fraction = keys.code_bits(campaign, log_epoch, sequence, user, block);
        for _ in 0..left.min(digits_of_a_block) {
            let mut carry = 0;
            for byte in fraction.iter_mut().rev() {
                let product = u64::from(*byte) * radix + carry;
                *byte = (product & 0xFF) as u8;
                carry = product >> 8;
            }
            if until_hyphen == Some(0) {
                code.push('-');
                until_hyphen = format.group;
            }
            until_hyphen = until_hyphen.map(|left| left.saturating_sub(1));
            code.push(char::from(letters.get(carry as usize).copied().unwrap_or(b'?')));
        }
        left -= left.min(digits_of_a_block);
        block += 1;
    }
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_equal_those_of_the_product() {
        let keys = Keys::derive(b"a secret of thirty-two bytes or more");
        let campaign = CampaignId::parse("spring").unwrap();
        let user = UserId::parse("ada").unwrap();
        for (length, charset) in
            [(26, "0123456789ABCDEFGHJKMNPQRSTVWXYZ"), (128, "ab"), (99, "0123456789"), (41, "abc")]
        {
            let format = CodeFormat::with(Some("SALE-".into()), Some(length), Some(charset.into()));
            for sequence in 1..50 {
                let group = (sequence % 7 > 0).then_some((sequence % 7) as u16);
                let format = format.clone().grouped(group);
                let product = format.spell(&keys, &campaign, 1, sequence, &user);
                assert_eq!(code(&format, &keys, &campaign, 1, sequence, &user), *product);
            }
        }
    }

    #[test]
    fn buckets_follow_the_quota_as_in_the_product() {
        for quota in [0, 1, 100_000, 100_001, 1_500_000, 1_500_001, 100_000_000] {
            let product = Definition::first(Terms::of(quota));
            assert_eq!(first(&product.terms), product, "{quota}");
        }
    }

    #[test]
    fn terms_are_valid_as_in_the_product() {
        let base = Terms::of(1);
        let code = |length, charset: &str, prefix: &str| Terms {
            code: CodeFormat {
                prefix: prefix.into(),
                length,
                charset: charset.into(),
                group: None,
            },
            ..base.clone()
        };
        let grouped =
            |group| Terms { code: CodeFormat::default().grouped(Some(group)), ..base.clone() };
        let window = |opens_at, closes_at| Terms {
            opens_at: Some(Timestamp(opens_at)),
            closes_at: Some(Timestamp(closes_at)),
            ..base.clone()
        };
        let titled = |title: &str| Terms { title: Some(title.to_owned()), ..base.clone() };
        let cases = [
            base.clone(),
            titled(""),
            titled("Frühling"),
            titled(&"ü".repeat(120)),
            titled(&"ü".repeat(121)),
            titled("two\nlines"),
            Terms { quota: 0, ..base.clone() },
            Terms { quota: 100_000_001, ..base.clone() },
            Terms { per_user_limit: 0, ..base.clone() },
            Terms { per_user_limit: 1_001, ..base.clone() },
            window(5, 5),
            window(5, 6),
            window(-1, 6),
            window(1, Timestamp::MAX.0 + 1),
            code(12, "0123456789ABCDEFGHJKMNPQRSTVWXYZ", ""),
            code(13, "0123456789ABCDEFGHJKMNPQRSTVWXYZ", ""),
            code(129, "ab", ""),
            code(64, "ab", "A-0"),
            code(63, "ab", "A-0"),
            code(64, "aa", ""),
            code(64, "a b", ""),
            code(64, "ab", "a"),
            code(64, "ab", "ABCDEFGHIJKLMNOPQ"),
            code(64, "a", ""),
            grouped(0),
            grouped(1),
            grouped(128),
            grouped(129),
        ];
        for terms in cases {
            assert_eq!(is_valid(&terms), terms.faults().is_empty(), "{terms:?}");
        }
    }
}
