//! What was issued.

use super::ids::{CampaignId, Position, Sequence, Timestamp, UserId};

/// A coupon: the row that proves that a user was given a seat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coupon {
    /// Campaign that issued it.
    pub campaign: CampaignId,
    /// Its place in the campaign.
    pub sequence: Sequence,
    /// Who holds it.
    pub user: UserId,
    /// What the holder shows.
    pub code: Box<str>,
    /// Record time of the request that it was issued to.
    pub issued_at: Timestamp,
    /// The request that it was issued to.
    pub position: Position,
    /// Keyed digest of user and idempotency key, if the request had one.
    pub key_digest: Option<[u8; 16]>,
    /// Bucket of the by-user view that it stands in.
    pub user_bucket: u8,
    /// The rules that it was issued under.
    pub rules_version: u16,
    /// Keyed digest over all of the above.
    pub digest: [u8; 16],
}
