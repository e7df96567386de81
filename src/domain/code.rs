//! Coupon codes: unguessable and deterministic, in the charset of the campaign.

use serde::{Deserialize, Serialize};

use super::{
    fault::Fault,
    ids::{CampaignId, Sequence, UserId},
    keys::Keys,
};

/// Charset of the default format: Crockford's base 32, without I, L, O and U, which people misread.
pub const CHARSET_DEFAULT: &str = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// Fewest bits of a code. With 10⁸ coupons, one campaign in 3,700 is expected to have two equal
/// codes.
const BITS_MIN: u64 = 64;

/// Default bits of a code.
const BITS_DEFAULT: u64 = 128;

/// Most characters of a code without its prefix: 128 bits in the smallest charset.
const LENGTH_MAX: u16 = 128;

const PREFIX_MAX: usize = 16;

const REMOVE_OTHERS: &str = "remove spaces, control characters and non-ASCII characters";
const GIVE_2_TO_64: &str = "give 2 to 64 characters";
const REMOVE_DUPLICATES: &str = "give each character once";

/// The format of a campaign's codes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CodeFormat {
    /// Prefix of each code: at most 16 of `A-Z`, `0-9`, `-`.
    pub prefix: String,
    /// Characters after the prefix.
    pub length: u16,
    /// Characters of codes: 2 to 64 distinct visible ASCII characters.
    pub charset: String,
    /// A hyphen stands after every so many characters behind the prefix, so that people can read and type
    /// them. `None`: no hyphens.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub group: Option<u16>,
}

impl Default for CodeFormat {
    fn default() -> Self {
        Self::with(None, None, None)
    }
}

/// What separates groups.
const HYPHEN: &str = "-";

impl CodeFormat {
    /// Returns a format with defaults for the missing values. The default length gives 128 bits.
    #[must_use]
    pub fn with(prefix: Option<String>, length: Option<u16>, charset: Option<String>) -> Self {
        let charset = charset.unwrap_or_else(|| CHARSET_DEFAULT.to_owned());
        let length = length.unwrap_or_else(|| shortest_length(charset.len(), BITS_DEFAULT));
        Self { prefix: prefix.unwrap_or_default(), length, charset, group: None }
    }

    /// Returns the same format with groups of so many characters.
    #[must_use]
    pub fn grouped(self, group: Option<u16>) -> Self {
        Self { group, ..self }
    }

    /// Returns every rule that this format breaks.
    pub(super) fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        let prefix_valid = |byte: u8| matches!(byte, b'A'..=b'Z' | b'0'..=b'9' | b'-');
        if self.prefix.len() > PREFIX_MAX || !self.prefix.bytes().all(prefix_valid) {
            let rule = "at most 16 of A-Z, 0-9 and '-'";
            let remedy = "shorten the prefix, or replace its other characters";
            faults.push(Fault::new("code.prefix", rule, remedy));
        }
        if self.group.is_some_and(|group| !(1..=LENGTH_MAX).contains(&group)) {
            let rule = format!("1 to {LENGTH_MAX}");
            faults.push(Fault::new(
                "code.group",
                rule,
                "give a number in this range, or leave it out",
            ));
        }
        let letters = self.charset.as_bytes();
        let distinct = letters.iter().enumerate().all(|(at, byte)| !letters[..at].contains(byte));
        let visible = letters.iter().all(u8::is_ascii_graphic);
        let before = faults.len();
        for (holds, rule, remedy) in [
            (visible, "of visible ASCII characters, without spaces", REMOVE_OTHERS),
            ((2..=64).contains(&letters.len()), "of 2 to 64 characters", GIVE_2_TO_64),
            (distinct, "of distinct characters", REMOVE_DUPLICATES),
        ] {
            if !holds {
                faults.push(Fault::new("code.charset", rule, remedy));
            }
        }
        // The rule for the length depends on the charset, which is invalid here.
        if faults.len() > before {
            return faults;
        }
        let shortest = shortest_length(letters.len(), BITS_MIN);
        if !(shortest..=LENGTH_MAX).contains(&self.length) {
            let rule = format!("{shortest} to {LENGTH_MAX} with this charset (at least 64 bits)");
            faults.push(Fault::new("code.length", rule, "give a length in this range"));
        }
        faults
    }

    /// Returns the code of one coupon. Never panics, even if the format has faults.
    #[must_use]
    pub fn spell(
        &self,
        keys: &Keys,
        campaign: &CampaignId,
        log_epoch: u32,
        sequence: Sequence,
        user: &UserId,
    ) -> Box<str> {
        let letters = self.charset.as_bytes();
        let radix = letters.len().clamp(1, 64);
        let mut code = Vec::with_capacity(self.prefix.len() + usize::from(self.length));
        code.extend_from_slice(self.prefix.as_bytes());
        code.resize(code.capacity(), b'?');
        let blocks = code[self.prefix.len()..].chunks_mut(digits_per_block(radix));
        for (block, digits) in (0..=u8::MAX).zip(blocks) {
            let mut fraction = limbs(keys.code_bits(campaign, log_epoch, sequence, user, block));
            for word in digits.chunks_mut(digits_per_word(radix)) {
                let mut number = next_digits(&mut fraction, radix as u64, word.len() as u32);
                for letter in word.iter_mut().rev() {
                    let digit = last_digit(&mut number, radix as u64);
                    *letter = letters.get(digit).copied().unwrap_or(b'?');
                }
            }
        }
        match String::from_utf8(code) {
            Ok(code) => match self.group {
                None => code.into_boxed_str(),
                Some(group) => self.separated(&code, group).into_boxed_str(),
            },
            Err(faulty) => String::from_utf8_lossy(faulty.as_bytes()).into(),
        }
    }

    /// Puts the hyphens into a code.
    fn separated(&self, code: &str, group: u16) -> String {
        let Some((prefix, letters)) = code.split_at_checked(self.prefix.len()) else {
            return code.to_owned();
        };
        let groups = letters.as_bytes().chunks(usize::from(group).max(1));
        let groups: Vec<_> = groups.map(String::from_utf8_lossy).collect();
        format!("{prefix}{}", groups.join(HYPHEN))
    }
}

/// Returns how many digits are taken from 256 bits. At least 8 bits stay unused, so no letter is
/// more likely than another by more than one part in 256 × radix.
fn digits_per_block(radix: usize) -> usize {
    248 / bits_per_digit(radix)
}

/// Returns how many digits fit in 63 bits.
fn digits_per_word(radix: usize) -> usize {
    63 / bits_per_digit(radix)
}

fn bits_per_digit(radix: usize) -> usize {
    (usize::BITS - (radix.max(2) - 1).leading_zeros()) as usize
}

/// Returns the fewest digits that carry `bits` bits with `radix` letters: radix^digits ≥ 2^bits.
fn shortest_length(radix: usize, bits: u64) -> u16 {
    let radix = radix.clamp(2, 64) as u128;
    // The product in two halves of 128 bits, because radix^digits may reach 2^128.
    let mut digits = 0;
    let (mut high, mut low) = (0_u128, 1_u128);
    let reached = |high: u128, low: u128| {
        if bits >= 128 { high >= 1 } else { high > 0 || low >> bits > 0 }
    };
    while !reached(high, low) {
        let low_part = (low & u128::from(u64::MAX)) * radix;
        let high_part = (low >> 64) * radix + (low_part >> 64);
        high = high * radix + (high_part >> 64);
        low = (high_part << 64) | (low_part & u128::from(u64::MAX));
        digits += 1;
    }
    digits
}

fn limbs(bits: [u8; 32]) -> [u64; 4] {
    std::array::from_fn(|limb| {
        u64::from_be_bytes(std::array::from_fn(|byte| bits[limb * 8 + byte]))
    })
}

/// Takes the next `digits` digits of a 256-bit fraction, as one number: multiplies the fraction by
/// radix^digits and returns the integer part, which must fit in 64 bits.
fn next_digits(fraction: &mut [u64; 4], radix: u64, digits: u32) -> u64 {
    let times = radix.pow(digits);
    let mut carry = 0_u128;
    for limb in fraction.iter_mut().rev() {
        let product = u128::from(*limb) * u128::from(times) + carry;
        *limb = (product & u128::from(u64::MAX)) as u64;
        carry = product >> 64;
    }
    carry as u64
}

/// Removes the last digit of a number and returns it.
fn last_digit(number: &mut u64, radix: u64) -> usize {
    // The default charset has 32 letters, and a shift is much cheaper than a division.
    if radix.is_power_of_two() {
        let digit = *number & (radix - 1);
        *number >>= radix.trailing_zeros();
        return digit as usize;
    }
    let digit = *number % radix;
    *number /= radix;
    digit as usize
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn spelled(format: &CodeFormat, sequence: Sequence) -> String {
        let keys = Keys::derive(b"a secret of thirty-two bytes or more");
        let campaign = CampaignId::parse("spring").unwrap();
        let user = UserId::parse("ada").unwrap();
        format.spell(&keys, &campaign, 1, sequence, &user).into()
    }

    #[test]
    fn the_shortest_length_just_reaches_the_bits() {
        assert_eq!(shortest_length(2, 64), 64);
        assert_eq!(shortest_length(2, 128), 128);
        assert_eq!(shortest_length(10, 64), 20); // 10^19 < 2^64 < 10^20
        assert_eq!(shortest_length(32, 64), 13);
        assert_eq!(shortest_length(32, 128), 26);
        assert_eq!(shortest_length(62, 128), 22); // 62^21 < 2^128 < 62^22
        assert_eq!(shortest_length(64, 64), 11);
    }

    #[test]
    fn codes_are_deterministic_and_distinct() {
        for (length, charset) in [(26, CHARSET_DEFAULT), (20, "0123456789"), (128, "ab")] {
            let format = CodeFormat::with(Some("SALE-".into()), Some(length), Some(charset.into()));
            assert_eq!(format.faults(), vec![]);
            let codes: BTreeSet<_> =
                (1..=2_000).map(|sequence| spelled(&format, sequence)).collect();
            assert_eq!(codes.len(), 2_000);
            assert_eq!(spelled(&format, 7), spelled(&format, 7));
            for code in &codes {
                let letters = code.strip_prefix("SALE-").unwrap();
                assert_eq!(letters.len(), usize::from(length));
                assert!(letters.chars().all(|letter| charset.contains(letter)));
            }
        }
    }

    #[test]
    fn words_of_digits_equal_single_digits() {
        let keys = Keys::derive(b"a secret of thirty-two bytes or more");
        let (campaign, user) = (CampaignId::parse("c").unwrap(), UserId::parse("u").unwrap());
        for charset in ["ab", "0123456789", CHARSET_DEFAULT] {
            let radix = charset.len() as u64;
            let format = CodeFormat::with(None, Some(128), Some(charset.to_owned()));
            let mut expected = String::new();
            let mut fraction = [0; 4];
            for index in 0..128 {
                let (block, at) = (index / digits_per_block(charset.len()), index);
                if at.is_multiple_of(digits_per_block(charset.len())) {
                    fraction = limbs(keys.code_bits(&campaign, 1, 3, &user, block as u8));
                }
                let digit = next_digits(&mut fraction, radix, 1) as usize;
                expected.push(char::from(charset.as_bytes()[digit]));
            }
            assert_eq!(*format.spell(&keys, &campaign, 1, 3, &user), *expected);
        }
    }

    #[test]
    fn all_letters_are_equally_likely() {
        let format = CodeFormat::with(None, Some(40), Some("0123456789".into()));
        let mut counts = [0_u32; 10];
        for sequence in 1..=2_000 {
            for letter in spelled(&format, sequence).bytes() {
                counts[usize::from(letter - b'0')] += 1;
            }
        }
        // 8,000 of each are expected; five standard deviations are 424.
        assert!(counts.iter().all(|count| (7_576..=8_424).contains(count)), "{counts:?}");
    }

    #[test]
    fn groups_only_add_hyphens() {
        let plain = CodeFormat::with(Some("S-".into()), Some(13), None);
        for (group, hyphens) in [(1, 12), (4, 3), (5, 2), (12, 1), (13, 0), (128, 0)] {
            let grouped = plain.clone().grouped(Some(group));
            assert_eq!(grouped.faults(), vec![]);
            let (code, letters) = (spelled(&grouped, 7), spelled(&plain, 7));
            assert_eq!(code.len(), letters.len() + hyphens, "{code}");
            let rest = code.strip_prefix("S-").unwrap();
            assert_eq!(rest.replace('-', ""), letters["S-".len()..]);
            let groups: Vec<_> = rest.split('-').map(str::len).collect();
            assert!(groups[..groups.len() - 1].iter().all(|len| *len == usize::from(group)));
            assert!((1..=usize::from(group)).contains(groups.last().unwrap()), "{code}");
        }
        for group in [0, 129] {
            let faults = plain.clone().grouped(Some(group)).faults();
            assert_eq!(faults.first().map(|fault| fault.field), Some("code.group"));
        }
        let weak = CodeFormat::with(None, Some(12), None).grouped(Some(4)).faults();
        assert_eq!(
            weak.first().map(|fault| fault.field),
            Some("code.length"),
            "hyphens add no bits"
        );
    }

    #[test]
    fn a_weak_format_is_refused() {
        let fields = |length, charset: &str| -> Vec<_> {
            let format = CodeFormat::with(None, length, Some(charset.into()));
            format.faults().into_iter().map(|fault| fault.field).collect()
        };
        assert_eq!(fields(Some(12), CHARSET_DEFAULT), ["code.length"]);
        assert_eq!(fields(Some(129), CHARSET_DEFAULT), ["code.length"]);
        assert_eq!(fields(None, "aab"), ["code.charset"]);
        assert_eq!(fields(None, "a"), ["code.charset"]);
        assert_eq!(fields(None, "a b"), ["code.charset"]);
        let remedies = |charset: &str| -> Vec<_> {
            let format = CodeFormat::with(None, None, Some(charset.into()));
            format.faults().into_iter().map(|fault| fault.remedy).collect()
        };
        assert_eq!(remedies("a b"), [REMOVE_OTHERS]);
        assert_eq!(remedies("a\u{7f}"), [REMOVE_OTHERS]);
        assert_eq!(remedies("a"), [GIVE_2_TO_64]);
        assert_eq!(remedies(" "), [REMOVE_OTHERS, GIVE_2_TO_64]);
        assert_eq!(remedies("aab"), [REMOVE_DUPLICATES]);
        let prefix = CodeFormat::with(Some("sale".into()), None, None).faults();
        assert_eq!(prefix.first().map(|fault| fault.field), Some("code.prefix"));
    }
}
