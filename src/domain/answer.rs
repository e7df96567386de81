//! Answers: decisions with the parts of a coupon that clients see.

use serde::{Deserialize, Serialize};

use super::{
    decision::Refusal,
    ids::{Sequence, Timestamp},
    reason::Reason,
};

/// A decision as the feed and the API carry it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum Answer {
    /// The user holds this coupon by the request, or by an earlier one with the same key.
    Issued {
        /// The coupon.
        coupon: CouponFace,
    },
    /// The user held `per_user_limit` coupons already; this is the latest.
    AlreadyIssued {
        /// The coupon.
        coupon: CouponFace,
    },
    /// The user gets no coupon.
    Rejected {
        /// The reason.
        reason: Reason,
    },
    /// The control record is in effect.
    Accepted,
    /// The control record changed nothing.
    Refused {
        /// The reason.
        #[serde(flatten)]
        refusal: Refusal,
    },
}

/// The part of a coupon that clients see.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CouponFace {
    /// Place in the campaign.
    pub sequence: Sequence,
    /// The code that the holder shows.
    pub code: Box<str>,
    /// Record time of the request that got the coupon. Milliseconds since the epoch in the feed,
    /// RFC 3339 over HTTP.
    pub issued_at: Timestamp,
}
