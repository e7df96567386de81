//! All keys of an instance, derived from its one secret.

use std::hash::Hasher;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use siphasher::{
    sip::SipHasher13 as SipHasher64,
    sip128::{Hasher128, SipHasher13},
};

use super::{
    code_key::{CodeKey, MESSAGE_BYTES},
    ids::{CampaignId, IdempotencyKey, Sequence, UserId},
};

/// Id of the secret. Only one exists today; every format carries the id, so that old records stay
/// valid after a later rotation.
pub const KEY_ID: u8 = 1;

/// Minimum length of a secret in bytes: the length of the widest key derived from it.
pub const SECRET_BYTES_MIN: usize = 32;

/// Bytes kept of a record's MAC: 128 bits cannot be guessed, and records stay short.
pub const MAC_BYTES: usize = 16;

type HmacSha256 = Hmac<Sha256>;

/// The keys of one instance. Deriving them is expensive, so they are shared in an `Arc`.
#[derive(Clone)]
pub struct Keys {
    code: CodeKey,
    record: HmacSha256,
    user: (u64, u64),
    idempotency: (u64, u64),
    pub(super) row: (u64, u64),
    feed: (u64, u64),
    seal: [u8; 32],
    fingerprint: String,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").field("fingerprint", &self.fingerprint).finish_non_exhaustive()
    }
}

impl Keys {
    /// Derives every key from `secret`, each under its own label, so that no key reveals another.
    #[must_use]
    pub fn derive(secret: &[u8]) -> Self {
        let derived = |label: &str| -> [u8; 32] {
            let mut mac = keyed(secret);
            mac.update(b"coupond/");
            mac.update(&[KEY_ID]);
            mac.update(label.as_bytes());
            mac.finalize().into_bytes().into()
        };
        let halves = |label: &str| {
            let key = derived(label);
            let half =
                |from: usize| u64::from_le_bytes(std::array::from_fn(|index| key[from + index]));
            (half(0), half(8))
        };
        let fingerprint = hex(&derived("fingerprint")[..8]);
        Self {
            code: CodeKey::new(&derived("code")),
            record: keyed(&derived("record")),
            user: halves("user"),
            idempotency: halves("idempotency"),
            row: halves("row"),
            feed: halves("feed"),
            seal: derived("seal"),
            fingerprint,
        }
    }

    /// Returns a text that differs between two secrets and reveals neither.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Returns the key that seals request ids.
    #[must_use]
    pub fn seal_key(&self) -> &[u8; 32] {
        &self.seal
    }

    /// Returns the digest under which a campaign keeps a user.
    #[must_use]
    pub fn user_digest(&self, user: &UserId) -> u128 {
        let (k0, k1) = self.user;
        SipHasher13::new_with_keys(k0, k1).hash(user.as_str().as_bytes()).as_u128()
    }

    /// Returns the digest under which a campaign keeps a user's idempotency key.
    #[must_use]
    pub fn key_digest(&self, user: &UserId, key: &IdempotencyKey) -> u128 {
        let (k0, k1) = self.idempotency;
        let mut hasher = SipHasher13::new_with_keys(k0, k1);
        write_text(&mut hasher, user.as_str());
        write_text(&mut hasher, key.as_str());
        hasher.finish128().as_u128()
    }

    /// Returns the hash under which the feed speaks of a campaign.
    #[must_use]
    pub fn campaign_hash(&self, campaign: &CampaignId) -> u64 {
        let (k0, k1) = self.feed;
        SipHasher64::new_with_keys(k0, k1).hash(campaign.as_str().as_bytes())
    }

    /// Returns what the feed says of whose record was decided: of a campaign, by its hash, and the
    /// user of a request; none for a control record.
    #[must_use]
    pub fn record_check(&self, campaign_hash: u64, user: Option<&UserId>) -> u32 {
        let (k0, k1) = self.feed;
        let mut hasher = SipHasher64::new_with_keys(k0, k1);
        // No campaign id begins with this byte. User ids are not empty, so a control record differs.
        hasher.write_u8(0);
        hasher.write(&campaign_hash.to_le_bytes());
        hasher.write(user.map_or(&[], |user| user.as_str().as_bytes()));
        hasher.finish() as u32
    }

    /// Returns 256 bits for a coupon's code (HMAC-SHA256). `block` numbers further blocks of a
    /// format that needs more bits.
    #[must_use]
    pub fn code_bits(
        &self,
        campaign: &CampaignId,
        log_epoch: u32,
        sequence: Sequence,
        user: &UserId,
        block: u8,
    ) -> [u8; 32] {
        // All fields but the two texts have a fixed width, and the length of the first text stands
        // in front of it, so no two inputs give the same bytes.
        let mut input = [0_u8; MESSAGE_BYTES];
        let name = campaign.as_str().as_bytes();
        let user = user.as_str().as_bytes();
        input[0] = KEY_ID;
        input[1] = block;
        input[2..6].copy_from_slice(&log_epoch.to_le_bytes());
        input[6..10].copy_from_slice(&sequence.to_le_bytes());
        input[10] = u8::try_from(name.len()).unwrap_or(u8::MAX);
        let user_from = 11 + name.len();
        let end = user_from + user.len();
        input[11..user_from].copy_from_slice(name);
        input[user_from..end].copy_from_slice(user);
        self.code.mac(&mut input, end)
    }

    /// Returns the MACs of an instance: two instances with one secret do not take each other's
    /// records.
    #[must_use]
    pub fn macs(&self, instance: &str) -> Macs {
        let mut mac = self.record.clone();
        mac.update(instance.as_bytes());
        Macs { keyed: keyed(&mac.finalize().into_bytes()) }
    }
}

/// Computes the MACs of what one instance writes: records, feed messages, nonces of request ids.
#[derive(Clone)]
pub struct Macs {
    keyed: HmacSha256,
}

impl std::fmt::Debug for Macs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Macs").finish_non_exhaustive()
    }
}

impl Macs {
    /// Returns the MAC over the concatenated `parts`. A caller whose parts vary in length must put
    /// the lengths in front.
    #[must_use]
    pub fn of(
        &self,
        purpose: &str,
        log_epoch: u32,
        partition: u32,
        parts: &[&[u8]],
    ) -> [u8; MAC_BYTES] {
        let mut mac = self.keyed.clone();
        mac.update(&[KEY_ID, u8::try_from(purpose.len()).unwrap_or(u8::MAX)]);
        mac.update(purpose.as_bytes());
        mac.update(&log_epoch.to_le_bytes());
        mac.update(&partition.to_le_bytes());
        parts.iter().for_each(|part| mac.update(part));
        let full: [u8; 32] = mac.finalize().into_bytes().into();
        std::array::from_fn(|index| full[index])
    }
}

/// Returns `bytes` as lowercase hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().flat_map(|byte| hex_digits(*byte));
    digits.map(char::from).collect()
}

/// Returns the two lowercase hexadecimal digits of a byte.
#[must_use]
pub fn hex_digits(byte: u8) -> [u8; 2] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 0xF)]]
}

fn keyed(key: &[u8]) -> HmacSha256 {
    HmacSha256::new_from_slice(key).expect("HMAC takes a key of any length")
}

fn write_text(hasher: &mut impl Hasher, text: &str) {
    hasher.write_u64((text.len() as u64).to_le());
    hasher.write(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_bits_are_an_hmac_sha256() {
        let keys = Keys::derive(b"secret");
        let key: [u8; 32] = {
            let mut mac = keyed(b"secret");
            mac.update(b"coupond/");
            mac.update(&[KEY_ID]);
            mac.update(b"code");
            mac.finalize().into_bytes().into()
        };
        for (name, user) in [(1, 1), (6, 36), (6, 38), (6, 39), (64, 64), (64, 128), (64, 255)] {
            let campaign = CampaignId::parse(&"c".repeat(name)).unwrap();
            let user = UserId::parse(&"U".repeat(user)).unwrap();
            let mut mac = keyed(&key);
            mac.update(&[KEY_ID, 3]);
            mac.update(&7_u32.to_le_bytes());
            mac.update(&9_u32.to_le_bytes());
            mac.update(&[u8::try_from(name).unwrap()]);
            mac.update(campaign.as_str().as_bytes());
            mac.update(user.as_str().as_bytes());
            let expected: [u8; 32] = mac.finalize().into_bytes().into();
            assert_eq!(keys.code_bits(&campaign, 7, 9, &user, 3), expected);
        }
    }
}
