//! HMAC-SHA256 for coupon codes (RFC 2104).
//!
//! The `hmac` crate gives the same bytes, and a test compares them. Its clone per message made
//! `benches/decisions` 9 % slower per issued coupon (1.75 instead of 1.92 million a second,
//! 2026-11-28), so this file keeps the two states that depend on the key alone: a code then costs
//! two compressions and nothing else.

use sha2::block_api::compress256;

/// Bytes of a message with its padding: the message of a code has at most 330 bytes, 11 beside ids of 64
/// and 255.
pub(super) const MESSAGE_BYTES: usize = 6 * SHA256_BLOCK;
const SHA256_BLOCK: usize = 64;

/// Initial state of SHA-256 (FIPS 180-4, 5.3.3).
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

/// An HMAC-SHA256 key for short messages.
#[derive(Clone, Copy)]
pub(super) struct CodeKey {
    inner: [u32; 8],
    outer: [u32; 8],
}

impl CodeKey {
    pub(super) fn new(key: &[u8; 32]) -> Self {
        let state_after = |pad: u8| {
            let mut block = [pad; SHA256_BLOCK];
            block.iter_mut().zip(key).for_each(|(byte, key)| *byte ^= key);
            let mut state = SHA256_START;
            compress256(&mut state, &[block]);
            state
        };
        Self { inner: state_after(0x36), outer: state_after(0x5C) }
    }

    /// Returns the MAC of the first `len` bytes of `message`. The rest must be zero and have room
    /// for nine bytes of padding.
    pub(super) fn mac(&self, message: &mut [u8; MESSAGE_BYTES], len: usize) -> [u8; 32] {
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

/// Writes the padding of SHA-256 behind `len` bytes that follow a first block.
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
