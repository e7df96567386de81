//! What a follower is told, and what it wants done.

use std::time::Duration;

use super::{Heard, Ignored};
use crate::{
    domain::{
        halt::Unread,
        ids::{Offset, Partition},
    },
    wire::feed_message::{Condition, Sender},
};

/// An event of the feed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "it is made for one step, and never kept")]
pub(crate) enum Event<D> {
    /// A message of one partition's owner.
    Message(Message<D>),
    /// Messages were lost, of any partition.
    Gap,
}

/// The contents of a feed message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message<D> {
    /// The owner's partition.
    pub partition: Partition,
    /// Who sent it, and in which order.
    pub sender: Sender,
    /// The watermark.
    pub to: Offset,
    /// The end of the log as the owner last saw it.
    pub end: Offset,
    /// The number of records below `end` that wait for a decision.
    pub waiting: u64,
    /// How the partition is, if the owner says so.
    pub condition: Option<Condition>,
    /// The reason of the halt, if the partition is halted.
    pub halted: Option<String>,
    /// The range that halts the partition, if its owner knows it.
    pub unread: Option<Unread>,
    /// Decisions by offset.
    pub decisions: Vec<(Offset, D)>,
    /// What the message says of campaigns, by their hashes.
    pub campaigns: Vec<(u64, Heard)>,
}

/// An action for the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect<D, W> {
    /// Give the waiter its decision. Its place is free.
    Tell(W, D),
    /// The decision may have been lost: make the waiter ask the store. It keeps its place.
    AskStore(W),
    /// A request of this node was decided this long after it was received.
    Took(Duration),
    /// A message had no effect.
    Ignored(Ignored),
    /// Two decisions of one position differ, which breaks INV-3.
    Contradiction {
        /// The partition.
        partition: Partition,
        /// The position in it.
        offset: Offset,
    },
}
