//! Answers as they are told: decisions with what a client is shown of them, by position.

use serde::{Deserialize, Serialize};

use super::{
    decision::{Reason, Refusal},
    ids::{CampaignId, Offset, Partition, Sequence, Timestamp, UserId},
};

/// One message of one partition's owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeedMessage {
    /// Which life of the log.
    pub log_epoch: u32,
    /// Which partition.
    pub partition: Partition,
    /// Watermark that the owner's message before this one carried; 0 in its first.
    pub from: Offset,
    /// Every position below this one is decided and stored, holds aside.
    pub to: Offset,
    /// High watermark of the log as the owner last saw it: what is to come.
    pub end: Offset,
    /// Why the partition decides nothing, if it is halted.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub halted: Option<String>,
    /// Decisions stored since the message before, by position.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub decisions: Vec<Settled>,
}

/// One decision as the feed carries it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settled {
    /// The record's offset.
    pub offset: Offset,
    /// The record's campaign.
    pub campaign_id: CampaignId,
    /// Who asked; none for a control record.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub user_id: Option<UserId>,
    /// The answer.
    #[serde(flatten)]
    pub answer: Answer,
}

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
