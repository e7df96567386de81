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
use tokio::sync::mpsc;

use crate::wire::feed_message::FeedMessage;

/// Most decisions in one message: about 250 bytes each stays below a broker's 1 MiB.
pub const MESSAGE_DECISIONS_MAX: usize = 1_024;

/// Messages that a follower may be behind before it loses some.
pub const FOLLOWER_MESSAGES_MAX: usize = 4_096;

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
