//! All keys of an instance, derived from its one secret.

use std::hash::Hasher;

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Sha256, block_api::compress256};
use siphasher::sip128::{Hasher128, SipHasher13, SipHasher24};

use super::{
    coupon::Coupon,
    definition::{Definition, DefinitionVersion},
    ids::{CampaignId, IdempotencyKey, Position, Sequence, UserId},
};
use crate::planted;

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
    code: CodeKey,
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
            code: CodeKey::new(&derived("code")),
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
        // Everything but the two texts has a fixed width, and the length in front of the first
        // tells where the second begins.
        let mut input = [0_u8; MESSAGE_BYTES];
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
        self.code.mac(&mut input, end)
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
        self.mac_of(purpose, log_epoch, partition, &[bytes])
    }

    /// The same over the bytes of `parts`, one after the other: whoever must tell where one ends
    /// puts its length in front.
    #[must_use]
    pub fn mac_of(
        &self,
        purpose: &str,
        log_epoch: u32,
        partition: u32,
        parts: &[&[u8]],
    ) -> [u8; MAC_BYTES] {
        let mut mac = self.record.clone();
        mac.update(&[KEY_ID, u8::try_from(purpose.len()).unwrap_or(u8::MAX)]);
        mac.update(purpose.as_bytes());
        mac.update(&log_epoch.to_le_bytes());
        mac.update(&partition.to_le_bytes());
        parts.iter().for_each(|part| mac.update(part));
        let full: [u8; 32] = mac.finalize().into_bytes().into();
        std::array::from_fn(|index| full[index])
    }

    /// The digest over the whole of a coupon's row.
    #[must_use]
    pub fn coupon_digest(&self, coupon: &Coupon) -> [u8; 16] {
        let mut hasher = self.row_hasher(b"coupon");
        hasher.text(coupon.campaign.as_str());
        hasher.write(&coupon.sequence.to_le_bytes());
        hasher.text(coupon.user.as_str());
        hasher.text(&coupon.code);
        let mut rest = [0; 44];
        rest[..8].copy_from_slice(&coupon.issued_at.0.to_le_bytes());
        rest[8..24].copy_from_slice(&position_bytes(coupon.position));
        rest[24] = u8::from(coupon.key_digest.is_some());
        rest[25..41].copy_from_slice(&coupon.key_digest.unwrap_or_default());
        rest[41] = coupon.user_bucket;
        rest[42..].copy_from_slice(&coupon.rules_version.to_le_bytes());
        hasher.write(&rest);
        hasher.finish()
    }

    /// The digest over the whole of a definition version's row.
    #[must_use]
    pub fn version_digest(&self, version: &DefinitionVersion) -> [u8; 16] {
        let mut hasher = self.row_hasher(b"version");
        hasher.text(version.campaign.as_str());
        hasher.position(version.position);
        hasher.write(&version.time.0.to_le_bytes());
        hasher.write(&version.issued.to_le_bytes());
        let Definition { terms, paused, closed, rules_version, user_buckets } = &version.definition;
        hasher.write(&terms.quota.to_le_bytes());
        hasher.write(&terms.per_user_limit.to_le_bytes());
        for end in [terms.opens_at, terms.closes_at] {
            hasher.write(&[u8::from(end.is_some())]);
            hasher.write(&end.unwrap_or_default().0.to_le_bytes());
        }
        hasher.text(&terms.code.prefix);
        hasher.write(&terms.code.length.to_le_bytes());
        hasher.text(&terms.code.charset);
        hasher.write(&[u8::from(*paused), u8::from(*closed)]);
        hasher.write(&rules_version.to_le_bytes());
        hasher.write(&[*user_buckets]);
        hasher.finish()
    }

    /// The digest of a log record, by which a rewritten tail is noticed.
    #[must_use]
    pub fn record_digest(&self, key: &[u8], value: &[u8]) -> [u8; 16] {
        let mut hasher = self.row_hasher(b"record");
        hasher.write(&(key.len() as u64).to_le_bytes());
        hasher.write(key);
        hasher.write(value);
        hasher.finish()
    }

    fn row_hasher(&self, kind: &[u8]) -> RowHasher {
        let (k0, k1) = self.row;
        let hasher = SipHasher24::new_with_keys(k0, k1);
        let mut hasher = RowHasher { hasher, packed: [0; PACKED_BYTES], len: 0 };
        hasher.write(&[KEY_ID]);
        hasher.write(kind);
        hasher
    }
}

/// Bytes of a row that are hashed at once: a coupon of usual ids is about 200.
const PACKED_BYTES: usize = 256;

/// Hashes the fields of a row. Packs them first: the hash function takes one long text in a
/// fraction of the time of many short ones.
struct RowHasher {
    hasher: SipHasher24,
    packed: [u8; PACKED_BYTES],
    len: usize,
}

impl RowHasher {
    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        if let Some(room) = self.packed[self.len..].get_mut(..bytes.len()) {
            room.copy_from_slice(bytes);
            self.len += bytes.len();
            return;
        }
        self.hasher.write(&self.packed[..self.len]);
        self.hasher.write(bytes);
        self.len = 0;
    }

    fn text(&mut self, text: &str) {
        self.write(&(text.len() as u64).to_le_bytes());
        self.write(text.as_bytes());
    }

    fn position(&mut self, position: Position) {
        self.write(&position_bytes(position));
    }

    fn finish(mut self) -> [u8; 16] {
        self.hasher.write(&self.packed[..self.len]);
        self.hasher.finish128().as_bytes()
    }
}

fn position_bytes(position: Position) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&position.log_epoch.to_le_bytes());
    bytes[4..8].copy_from_slice(&position.partition.to_le_bytes());
    bytes[8..].copy_from_slice(&position.offset.to_le_bytes());
    bytes
}

/// Bytes of a message with its padding: a code's, of the longest ids, is 203 bytes long.
const MESSAGE_BYTES: usize = 4 * SHA256_BLOCK;
const SHA256_BLOCK: usize = 64;

/// The state that SHA-256 begins with (FIPS 180-4, 5.3.3).
const SHA256_START: [u32; 8] = [
    0x6A09_E667,
    0xBB67_AE85,
    0x3C6E_F372,
    0xA54F_F53A,
    0x510E_527F,
    0x9B05_688C,
    0x1F83_D9AB,
    0x5BE0_CD19,
];

/// HMAC-SHA256 of one short message after another: what goes by the key alone is done once, and
/// a code of usual ids then costs two blocks and nothing beside them.
#[derive(Clone, Copy)]
struct CodeKey {
    inner: [u32; 8],
    outer: [u32; 8],
}

impl CodeKey {
    fn new(key: &[u8; 32]) -> Self {
        let after = |pad: u8| {
            let mut block = [pad; SHA256_BLOCK];
            block.iter_mut().zip(key).for_each(|(byte, key)| *byte ^= key);
            let mut state = SHA256_START;
            compress256(&mut state, &[block]);
            state
        };
        Self { inner: after(0x36), outer: after(0x5C) }
    }

    /// The MAC of the first `len` bytes of `message`; the rest must be zero and has room for nine
    /// bytes of padding.
    fn mac(&self, message: &mut [u8; MESSAGE_BYTES], len: usize) -> [u8; 32] {
        let mut state = self.inner;
        let end = (len + 9).next_multiple_of(SHA256_BLOCK);
        pad(&mut message[..end], len);
        compress256(&mut state, message[..end].as_chunks().0);
        let mut block = [0; SHA256_BLOCK];
        write_words(&mut block, state);
        pad(&mut block, 32);
        let mut state = self.outer;
        compress256(&mut state, &[block]);
        let mut mac = [0; 32];
        write_words(&mut mac, state);
        mac
    }
}

/// Writes SHA-256's padding behind `len` bytes that follow a first block.
fn pad(blocks: &mut [u8], len: usize) {
    let bits = (SHA256_BLOCK + len) as u64 * 8;
    blocks[len] = 0x80;
    let at = blocks.len() - 8;
    blocks[at..].copy_from_slice(&bits.to_be_bytes());
}

fn write_words(bytes: &mut [u8], words: [u32; 8]) {
    for (bytes, word) in bytes.chunks_exact_mut(4).zip(words) {
        bytes.copy_from_slice(&word.to_be_bytes());
    }
}

/// Bytes as lowercase hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().flat_map(|byte| hex_digits(*byte));
    digits.map(char::from).collect()
}

/// The two lowercase hexadecimal digits of a byte.
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
    fn a_code_is_the_hmac_that_everybody_else_computes() {
        let keys = Keys::derive(b"secret");
        let key: [u8; 32] = {
            let mut mac = keyed(b"secret");
            mac.update(b"coupond/");
            mac.update(&[KEY_ID]);
            mac.update(b"code");
            mac.finalize().into_bytes().into()
        };
        for (name, user) in [(1, 1), (6, 36), (6, 38), (6, 39), (64, 64), (64, 128)] {
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
