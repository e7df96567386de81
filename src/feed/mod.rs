//! The decision feed: sends decisions in order from the owner of a partition to every API node.
//!
//! The feed serves waiting requests and may lose messages; a follower that notices a gap reads the
//! store. An owner publishes each decision as soon as it is stored, and its watermark with every
//! message, on assignment and once a second.

#[cfg(any(test, feature = "contract"))]
pub mod contract;
pub(crate) mod follower;
mod generations;
pub mod in_process;
pub mod kafka;

use async_trait::async_trait;
use tokio::sync::mpsc;

use crate::{
    domain::rows::NodeRow,
    wire::feed_message::{CampaignNews, FeedDecision, FeedMessage, NodeMessage},
};

pub use generations::HeardGenerations;

/// Most decisions in one message: with their campaigns, at 72 bytes each, below a broker's limit of 1 MiB.
pub const MESSAGE_DECISIONS_MAX: usize = 1_024;

/// Most messages that wait for a follower. When more arrive, it loses messages.
pub const FOLLOWER_MESSAGES_MAX: usize = 4_096;

/// Most decisions in these messages: about a second of them.
pub const FOLLOWER_DECISIONS_MAX: usize = 32_768;

/// Most memory of what waits for a follower: decisions, each of another campaign, and messages, which have
/// less than 1 KiB without them.
pub(crate) const FOLLOWER_BYTES: usize = FOLLOWER_DECISIONS_MAX
    * (size_of::<FeedDecision>() + size_of::<CampaignNews>())
    + FOLLOWER_MESSAGES_MAX * 1_024;

const _: () = assert!(FOLLOWER_DECISIONS_MAX >= MESSAGE_DECISIONS_MAX);

/// Most sayings of nodes that wait for a listener: a few seconds of a large group. Those beyond are lost.
pub const NODE_SAYINGS_MAX: usize = 256;

/// A feed operation that failed.
#[derive(Debug, thiserror::Error)]
#[error("{operation}")]
pub struct FeedError {
    /// The operation with its data, such as "publishing partition 3 to coupond.result".
    pub operation: String,
    /// Cause.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// An event that a follower receives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FeedEvent {
    /// A message.
    Message(std::sync::Arc<FeedMessage>),
    /// Messages of any partition were lost. The follower must read what it waits for from the store.
    Gap,
}

/// Sends decisions from owners to API nodes.
#[async_trait]
pub trait DecisionFeed: Send + Sync + 'static {
    /// Sends a message to every follower, behind this publisher's earlier messages of the same
    /// partition. Returns once the message is queued; it may still be lost.
    async fn publish(&self, message: FeedMessage) -> Result<(), FeedError>;

    /// Follows every partition from now on. At most [`FOLLOWER_MESSAGES_MAX`] messages with
    /// [`FOLLOWER_DECISIONS_MAX`] decisions wait for the receiver; a slower one gets a [`FeedEvent::Gap`] in place of those that it lost.
    async fn follow(&self) -> Result<mpsc::Receiver<FeedEvent>, FeedError>;

    /// Says what a node says of itself to every listener, this node's included. It may be lost.
    async fn say(&self, message: NodeMessage) -> Result<(), FeedError> {
        drop(message);
        Ok(())
    }

    /// Listens to what nodes say of themselves. Needs a follower in this process, but none that keeps up:
    /// also a node whose followers are stuck hears the others. Where there is one node, nobody says
    /// anything.
    fn listen(&self) -> mpsc::Receiver<NodeRow> {
        mpsc::channel(1).1
    }
}
