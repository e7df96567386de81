//! The decision feed: ordered decisions out, from the owner of a partition to every API node.
//!
//! It serves waiters and may lose messages: whoever sees a gap asks the store. It carries each
//! decision by its position as soon as it is stored, and the watermark as it moves, which the
//! owner also publishes when a partition is assigned and once a second.

#[cfg(any(test, feature = "contract"))]
pub mod contract;
pub mod in_process;
pub mod kafka;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::domain::{
    decision::{Reason, Refusal},
    ids::{CampaignId, Offset, Partition, Sequence, Timestamp, UserId},
};

/// Most decisions in one message: about 250 bytes each stays below a broker's 1 MiB.
pub const MESSAGE_DECISIONS_MAX: usize = 1_024;

/// Messages that a follower may be behind before it loses some.
pub const FOLLOWER_MESSAGES_MAX: usize = 4_096;

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

/// A feed operation that could not be done.
#[derive(Debug, thiserror::Error)]
#[error("{operation}")]
pub struct FeedError {
    /// What was attempted, with its data.
    pub operation: String,
    /// Why it failed.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// What a follower receives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FeedEvent {
    /// A message.
    Message(std::sync::Arc<FeedMessage>),
    /// Messages were lost, of any partition: ask the store for whatever is waited for.
    Gap,
}

/// Carries decisions from owners to API nodes.
#[async_trait]
pub trait DecisionFeed: Send + Sync + 'static {
    /// Sends a message to every follower, in order with the publisher's earlier ones of the same
    /// partition. Returns when it is handed over; it may still be lost.
    async fn publish(&self, message: FeedMessage) -> Result<(), FeedError>;

    /// Follows every partition from now on. At most [`FOLLOWER_MESSAGES_MAX`] messages wait; a
    /// follower that is slower is told of a [`FeedEvent::Gap`].
    async fn follow(&self) -> Result<mpsc::Receiver<FeedEvent>, FeedError>;
}
