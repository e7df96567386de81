//! Coupons.

use super::ids::{CampaignId, Position, Sequence, Timestamp, UserId};

/// An issued coupon, as its row holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coupon {
    /// The campaign.
    pub campaign: CampaignId,
    /// Place in the campaign.
    pub sequence: Sequence,
    /// The holder.
    pub user: UserId,
    /// The code that the holder shows.
    pub code: Box<str>,
    /// Record time of the request that got the coupon.
    pub issued_at: Timestamp,
    /// Position of the request that got the coupon.
    pub position: Position,
    /// Keyed digest of user and idempotency key, if the request had one.
    pub key_digest: Option<[u8; 16]>,
    /// Bucket of the by-user view.
    pub user_bucket: u8,
    /// Version of the rules that decided the request.
    pub rules_version: u16,
    /// Keyed digest over all fields above.
    pub digest: [u8; 16],
}

impl Coupon {
    /// Most memory of a coupon with its texts, each of which has a header and is rounded up: a user id of
    /// 255 bytes, a code of 16 + 128 with a hyphen between any two characters.
    pub const BYTES_MAX: usize = size_of::<Self>() + 288 + 304;

    /// Returns the memory of the coupon with its texts.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        const TEXT_HEADS: usize = 48;
        size_of::<Self>() + self.user.as_str().len() + self.code.len() + TEXT_HEADS
    }
}
