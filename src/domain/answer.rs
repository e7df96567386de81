//! Answers as they are told: decisions with what a client is shown of them, by position.

use serde::{Deserialize, Serialize};

use super::{
    decision::{Reason, Refusal},
    ids::{Sequence, Timestamp},
};

/// An answer that can be told: a decision with what a client is shown of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum Answer {
    /// The user holds this coupon by the request.
    Issued {
        /// The coupon.
        coupon: CouponFace,
    },
    /// The user held `per_user_limit` already; this is the latest.
    AlreadyIssued {
        /// The coupon.
        coupon: CouponFace,
    },
    /// No coupon.
    Rejected {
        /// Why.
        reason: Reason,
    },
    /// The control record is in effect.
    Accepted,
    /// The control record changed nothing.
    Refused {
        /// Why.
        #[serde(flatten)]
        refusal: Refusal,
    },
}

/// What a client is shown of a coupon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CouponFace {
    /// Its place in the campaign.
    pub sequence: Sequence,
    /// What the holder shows.
    pub code: Box<str>,
    /// When it was issued; milliseconds since the epoch here, RFC 3339 over HTTP.
    pub issued_at: Timestamp,
}
