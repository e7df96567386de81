//! Messages of the decision feed: what a partition's owner tells every API node.

use serde::{Deserialize, Serialize};

use crate::domain::{
    answer::Answer,
    ids::{CampaignId, Offset, Partition, UserId},
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
    pub decisions: Vec<FeedDecision>,
}

/// One decision as the feed carries it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeedDecision {
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
