//! Messages of the decision feed, which a partition's owner sends to every API node.

use serde::{Deserialize, Serialize};

use crate::domain::{
    decision::Decision,
    halt::Unread,
    ids::{CampaignId, Offset, Partition, ProcessName, Sequence},
    reason::Reason,
    rows::NodeRow,
};

/// Who sent a message, and in which order. A follower ignores a message of a lower generation than it
/// has heard, and one whose number is not above the owner's last: both may be old messages that were
/// sent again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sender {
    /// Number of the ownership, from 1.
    pub generation: u64,
    /// The owner's process. Two owners may claim the same generation at once.
    pub owner: ProcessName,
    /// Number of the message, from 1. Rises by 1 with each message of this process about the partition,
    /// also with those that are lost before they are sent, and over all ownerships.
    pub number: u64,
}

/// A message about one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedMessage {
    /// Log epoch.
    pub log_epoch: u32,
    /// Partition.
    pub partition: Partition,
    /// Who sent it, and in which order.
    pub sender: Sender,
    /// Watermark in this owner's message before; 0 in the owner's first.
    pub from: Offset,
    /// Watermark: every position below is decided and stored, except for campaigns on hold.
    pub to: Offset,
    /// High watermark of the log when the owner last looked.
    pub end: Offset,
    /// The number of records below `end` that wait for a decision.
    pub waiting: u64,
    /// How the partition is; told once a second while it is not halted.
    pub condition: Option<Condition>,
    /// Why the partition is halted, if so.
    pub halted: Option<String>,
    /// The range that halts the partition, where an operator may be able to skip it.
    pub unread: Option<Unread>,
    /// Decisions stored since the message before.
    pub decisions: Vec<FeedDecision>,
    /// The campaigns of these decisions.
    pub campaigns: Vec<CampaignNews>,
}

/// Most campaigns on hold that a message names: enough to begin with, and the message stays small.
pub const QUARANTINED_NAMED_MAX: usize = 8;

/// Age of a watermark, in seconds, from which on its partition is degraded. A takeover takes less.
pub const STUCK_AFTER_S: u64 = 15;

/// What operators must know of a partition, on every node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Condition {
    /// For how many seconds the watermark has stood still while records wait; 0 when nothing waits.
    pub age_s: u64,
    /// What the watermark waits for, from an age of [`STUCK_AFTER_S`] on.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub waits_for: Option<String>,
    /// How many campaigns are on hold.
    pub quarantined: usize,
    /// The first of them, at most [`QUARANTINED_NAMED_MAX`].
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub named: Vec<CampaignId>,
}

/// A decision in the feed: what the request id of its record does not hold already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeedDecision {
    /// Offset of the record.
    pub offset: Offset,
    /// The decision.
    pub decision: Decision,
    /// Whether a user who was rejected held a coupon then. Rows know which.
    pub holds: bool,
    /// Of which campaign and user the record is; see [`Keys::record_check`].
    ///
    /// [`Keys::record_check`]: crate::domain::keys::Keys::record_check
    pub check: u32,
}

/// What a message says of a campaign that is in its decisions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CampaignNews {
    /// The campaign; see [`Keys::campaign_hash`].
    ///
    /// [`Keys::campaign_hash`]: crate::domain::keys::Keys::campaign_hash
    pub campaign: u64,
    /// Its decided requests since the generation began, for display.
    pub tally: Tally,
    /// Which of the message's decisions issued the highest sequence, if any did. One that repeats an
    /// earlier coupon is none of them.
    pub highest: Option<usize>,
    /// Offset of the definition version in effect behind that decision; if there is none, behind the
    /// campaign's last one in the message.
    pub version: Option<Offset>,
}

/// Decided requests by outcome: issued, already issued, and each reason in the order of
/// [`Reason::ALL`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally(pub [u64; Self::LEN]);

impl Tally {
    /// The number of outcomes.
    pub const LEN: usize = 2 + Reason::ALL.len();

    /// Counts a decision, if it is of a request.
    pub fn count(&mut self, decision: &Decision) {
        let at = match decision {
            Decision::Issued(_) => 0,
            Decision::AlreadyIssued(_) => 1,
            Decision::Rejected(reason) => 2 + *reason as usize,
            Decision::Accepted | Decision::Refused(_) => return,
        };
        self.0[at] += 1;
    }

    /// Adds what another tally has counted.
    pub fn add(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(sum, count)| *sum += count);
    }
}

impl FeedMessage {
    /// Returns the highest sequence that a record in this message was issued, and the record's offset.
    #[must_use]
    pub fn highest(&self, news: &CampaignNews) -> Option<(Sequence, Offset)> {
        let FeedDecision { offset, decision, .. } = self.decisions.get(news.highest?)?;
        let Decision::Issued(held) = decision else { return None };
        Some((held.sequence, *offset))
    }
}

/// What a node says of itself, once a second.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeMessage {
    /// Log epoch.
    pub log_epoch: u32,
    /// The partition of the feed that carries it: any one will do.
    pub partition: Partition,
    /// What the node's row says.
    pub node: NodeRow,
}

/// A message of any kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AnyMessage {
    /// About a partition.
    Partition(FeedMessage),
    /// About a node.
    Node(NodeMessage),
}
