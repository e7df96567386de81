//! How a coupon's code is spelled: unguessable, repeatable, in the campaign's own letters.

use serde::{Deserialize, Serialize};

use super::{
    fault::Fault,
    ids::{CampaignId, Sequence, UserId},
    keys::Keys,
};

/// Letters of the default format: no I, L, O or U, which people misread (Crockford's base 32).
pub const CHARSET_DEFAULT: &str = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// Fewest bits of a code: at 10⁸ coupons, two alike are expected once in 3,700 such campaigns.
const BITS_MIN: u64 = 64;

/// Bits of a code where the operator asks for nothing else.
const BITS_DEFAULT: u64 = 128;

/// Most characters of a code without its prefix: 128 bits in the smallest charset.
const LENGTH_MAX: u16 = 128;

const PREFIX_MAX: usize = 16;

/// How a campaign's codes look.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CodeFormat {
    /// Stands before each code: at most 16 of `A-Z`, `0-9`, `-`.
    pub prefix: String,
    /// Characters after the prefix.
    pub length: u16,
    /// The characters that codes are spelled with: 2 to 64 distinct printable ASCII ones.
    pub charset: String,
}

impl Default for CodeFormat {
    fn default() -> Self {
        Self::with(None, None, None)
    }
}

impl CodeFormat {
    /// A format in which what is not given is the default; the length defaults to 128 bits.
    #[must_use]
    pub fn with(prefix: Option<String>, length: Option<u16>, charset: Option<String>) -> Self {
        let charset = charset.unwrap_or_else(|| CHARSET_DEFAULT.to_owned());
        let length = length.unwrap_or_else(|| shortest_length(charset.len(), BITS_DEFAULT));
        Self { prefix: prefix.unwrap_or_default(), length, charset }
    }

    /// Every rule that this format breaks.
    pub(super) fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        let prefix_valid = |byte: u8| matches!(byte, b'A'..=b'Z' | b'0'..=b'9' | b'-');
        if self.prefix.len() > PREFIX_MAX || !self.prefix.bytes().all(prefix_valid) {
            let rule = "at most 16 of A-Z, 0-9 and '-'";
            faults.push(Fault::new("code.prefix", rule, "shorten or respell the prefix"));
        }
        let letters = self.charset.as_bytes();
        let distinct = letters.iter().enumerate().all(|(at, byte)| !letters[..at].contains(byte));
        let visible = letters.iter().all(u8::is_ascii_graphic);
        let before = faults.len();
        for (sound, rule, remedy) in [
            (visible, "of visible ASCII characters, without spaces", "leave the others out"),
            ((2..=64).contains(&letters.len()), "of 2 to 64 characters", "name so many"),
            (distinct, "of distinct characters", "name each character once"),
        ] {
            if !sound {
                faults.push(Fault::new("code.charset", rule, remedy));
            }
        }
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

    /// Spells the code of one coupon. Formats with faults are spelled too: it never panics.
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
            Ok(code) => code.into_boxed_str(),
            Err(faulty) => String::from_utf8_lossy(faulty.as_bytes()).into(),
        }
    }
}

/// Digits that 256 bits yield without running dry: the last one still has 8 bits or more to
/// spare, so that no letter is likelier than another by more than one part in 256 × radix.
fn digits_per_block(radix: usize) -> usize {
    248 / bits_per_digit(radix)
}

/// Digits whose number fits 63 bits.
fn digits_per_word(radix: usize) -> usize {
    63 / bits_per_digit(radix)
}

fn bits_per_digit(radix: usize) -> usize {
    (usize::BITS - (radix.max(2) - 1).leading_zeros()) as usize
}

/// Fewest digits of a charset of `radix` letters that are worth `bits`: radix^digits ≥ 2^bits.
fn shortest_length(radix: usize, bits: u64) -> u16 {
    let radix = radix.clamp(2, 64) as u128;
    // Multiplies up to 2^64 and counts how often that much was reached, with the rest carried.
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

/// Reads the 256 bits as a fraction, multiplies by `radix` as often as digits are wanted, and
/// takes what is before the point: those digits as one number, which must fit 64 bits.
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

/// Takes the last digit off a number.
fn last_digit(number: &mut u64, radix: u64) -> usize {
    // The default charset, and much cheaper than a division.
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
    fn the_shortest_length_reaches_the_bits_and_no_more() {
        assert_eq!(shortest_length(2, 64), 64);
        assert_eq!(shortest_length(2, 128), 128);
        assert_eq!(shortest_length(10, 64), 20); // 10^19 < 2^64 < 10^20
        assert_eq!(shortest_length(32, 64), 13);
        assert_eq!(shortest_length(32, 128), 26);
        assert_eq!(shortest_length(62, 128), 22); // 62^21 < 2^128 < 62^22
        assert_eq!(shortest_length(64, 64), 11);
    }

    #[test]
    fn a_code_is_repeatable_distinct_and_in_its_format() {
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
    fn a_code_is_the_fraction_spelled_digit_by_digit() {
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
    fn every_letter_is_about_as_likely_as_any_other() {
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
    fn a_format_below_64_bits_or_with_a_letter_twice_is_refused() {
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
        let (visible, number) = ("leave the others out", "name so many");
        assert_eq!(remedies("a b"), [visible]);
        assert_eq!(remedies("a\u{7f}"), [visible]);
        assert_eq!(remedies("a"), [number]);
        assert_eq!(remedies(" "), [visible, number]);
        assert_eq!(remedies("aab"), ["name each character once"]);
        let prefix = CodeFormat::with(Some("sale".into()), None, None).faults();
        assert_eq!(prefix.first().map(|fault| fault.field), Some("code.prefix"));
    }
}
