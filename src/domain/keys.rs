//! All keys of an instance, derived from its one secret.

use crate::planted;
use std::hash::Hasher;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use siphasher::sip128::{Hasher128, SipHasher13, SipHasher24};

use super::{
    coupon::Coupon,
    definition::{Definition, DefinitionVersion},
    ids::{CampaignId, IdempotencyKey, Position, Sequence, UserId},
};

/// Which secret a format was made under. One for now; every format carries it, so that a later
/// rotation does not change what old records mean.
pub const KEY_ID: u8 = 1;

/// Shortest secret that is accepted, in bytes: as much entropy as the widest key derived from it.
pub const SECRET_BYTES_MIN: usize = 32;

/// Bytes kept of a record's MAC: 128 bits can't be guessed, and records stay short.
pub const MAC_BYTES: usize = 16;

type HmacSha256 = Hmac<Sha256>;

/// The keys of one instance. Cheap to share, expensive to make.
#[derive(Clone)]
pub struct Keys {
    code: HmacSha256,
    record: HmacSha256,
    user: (u64, u64),
    idempotency: (u64, u64),
    row: (u64, u64),
    seal: [u8; 32],
    fingerprint: String,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").field("fingerprint", &self.fingerprint).finish_non_exhaustive()
    }
}

impl Keys {
    /// Derives every key from `secret`, each under its own label, so that none tells of another.
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
            code: keyed(&derived("code")),
            record: keyed(&derived("record")),
            user: halves("user"),
            idempotency: halves("idempotency"),
            row: halves("row"),
            seal: derived("seal"),
            fingerprint,
        }
    }

    /// Tells two secrets apart without telling anything of them.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The key that request ids are sealed with.
    #[must_use]
    pub fn seal_key(&self) -> &[u8; 32] {
        &self.seal
    }

    /// What a campaign remembers of a user.
    #[must_use]
    pub fn user_digest(&self, user: &UserId) -> u128 {
        let (k0, k1) = self.user;
        SipHasher13::new_with_keys(k0, k1).hash(user.as_str().as_bytes()).as_u128()
    }

    /// What a campaign remembers of a user's idempotency key.
    #[must_use]
    pub fn key_digest(&self, user: &UserId, key: &IdempotencyKey) -> u128 {
        let (k0, k1) = self.idempotency;
        let mut hasher = SipHasher13::new_with_keys(k0, k1);
        write_text(&mut hasher, user.as_str());
        write_text(&mut hasher, key.as_str());
        hasher.finish128().as_u128()
    }

    /// 256 bits that only this instance can make, from which a coupon's code is spelled.
    /// `block` counts up where a format needs more than one.
    #[must_use]
    pub fn code_bits(
        &self,
        campaign: &CampaignId,
        log_epoch: u32,
        sequence: Sequence,
        user: &UserId,
        block: u8,
    ) -> [u8; 32] {
        let mut mac = self.code.clone();
        // One update of one buffer: everything but the two texts has a fixed width, and the
        // length in front of the first tells where the second begins.
        let mut input = [0_u8; 11 + 64 + 128];
        let name = campaign.as_str().as_bytes();
        let user = user.as_str().as_bytes();
        input[0] = KEY_ID;
        input[1] = block;
        input[2..6].copy_from_slice(&log_epoch.to_le_bytes());
        let sequence = if planted!(CodeRepeats) { 0 } else { sequence };
        input[6..10].copy_from_slice(&sequence.to_le_bytes());
        input[10] = u8::try_from(name.len()).unwrap_or(u8::MAX);
        let user_from = 11 + name.len();
        let end = user_from + user.len();
        input[11..user_from].copy_from_slice(name);
        input[user_from..end].copy_from_slice(user);
        mac.update(&input[..end]);
        mac.finalize().into_bytes().into()
    }

    /// The MAC of a record or feed message that this instance writes.
    #[must_use]
    pub fn mac(
        &self,
        purpose: &str,
        log_epoch: u32,
        partition: u32,
        bytes: &[u8],
    ) -> [u8; MAC_BYTES] {
        let mut mac = self.record.clone();
        mac.update(&[KEY_ID, u8::try_from(purpose.len()).unwrap_or(u8::MAX)]);
        mac.update(purpose.as_bytes());
        mac.update(&log_epoch.to_le_bytes());
        mac.update(&partition.to_le_bytes());
        mac.update(bytes);
        let full: [u8; 32] = mac.finalize().into_bytes().into();
        std::array::from_fn(|index| full[index])
    }

    /// The digest over the whole of a coupon's row.
    #[must_use]
    pub fn coupon_digest(&self, coupon: &Coupon) -> [u8; 16] {
        let mut hasher = self.row_hasher(b"coupon");
        write_text(&mut hasher, coupon.campaign.as_str());
        hasher.write_u32(coupon.sequence.to_le());
        write_text(&mut hasher, coupon.user.as_str());
        write_text(&mut hasher, &coupon.code);
        hasher.write_u64(coupon.issued_at.0.cast_unsigned().to_le());
        write_position(&mut hasher, coupon.position);
        hasher.write_u8(u8::from(coupon.key_digest.is_some()));
        hasher.write(&coupon.key_digest.unwrap_or_default());
        hasher.write_u8(coupon.user_bucket);
        hasher.write_u16(coupon.rules_version.to_le());
        hasher.finish128().as_bytes()
    }

    /// The digest over the whole of a definition version's row.
    #[must_use]
    pub fn version_digest(&self, version: &DefinitionVersion) -> [u8; 16] {
        let mut hasher = self.row_hasher(b"version");
        write_text(&mut hasher, version.campaign.as_str());
        write_position(&mut hasher, version.position);
        hasher.write_u64(version.time.0.cast_unsigned().to_le());
        hasher.write_u32(version.issued.to_le());
        let Definition { terms, paused, closed, rules_version, user_buckets } = &version.definition;
        hasher.write_u32(terms.quota.to_le());
        hasher.write_u16(terms.per_user_limit.to_le());
        for end in [terms.opens_at, terms.closes_at] {
            hasher.write_u8(u8::from(end.is_some()));
            hasher.write_u64(end.unwrap_or_default().0.cast_unsigned().to_le());
        }
        write_text(&mut hasher, &terms.code.prefix);
        hasher.write_u16(terms.code.length.to_le());
        write_text(&mut hasher, &terms.code.charset);
        hasher.write_u8(u8::from(*paused));
        hasher.write_u8(u8::from(*closed));
        hasher.write_u16(rules_version.to_le());
        hasher.write_u8(*user_buckets);
        hasher.finish128().as_bytes()
    }

    /// The digest of a log record, by which a rewritten tail is noticed.
    #[must_use]
    pub fn record_digest(&self, key: &[u8], value: &[u8]) -> [u8; 16] {
        let mut hasher = self.row_hasher(b"record");
        hasher.write_u64((key.len() as u64).to_le());
        hasher.write(key);
        hasher.write(value);
        hasher.finish128().as_bytes()
    }

    fn row_hasher(&self, kind: &[u8]) -> SipHasher24 {
        let (k0, k1) = self.row;
        let mut hasher = SipHasher24::new_with_keys(k0, k1);
        hasher.write_u8(KEY_ID);
        hasher.write(kind);
        hasher
    }
}

/// Bytes as lowercase hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: [char; 16] =
        ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
    let digit = |nibble: u8| DIGITS[usize::from(nibble & 0xF)];
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(*byte)]).collect()
}

fn keyed(key: &[u8]) -> HmacSha256 {
    HmacSha256::new_from_slice(key).expect("HMAC takes a key of any length")
}

fn write_text(hasher: &mut impl Hasher, text: &str) {
    hasher.write_u64((text.len() as u64).to_le());
    hasher.write(text.as_bytes());
}

fn write_position(hasher: &mut impl Hasher, position: Position) {
    hasher.write_u32(position.log_epoch.to_le());
    hasher.write_u32(position.partition.to_le());
    hasher.write_u64(position.offset.to_le());
}
