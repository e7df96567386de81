//! The decision feed of a node that is alone: followers are in the same process.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use tokio::sync::mpsc;

use super::{DecisionFeed, FOLLOWER_MESSAGES_MAX, FeedError, FeedEvent, FeedMessage};

/// Hands messages to followers in the same process. Never waits: a follower that is too slow
/// loses messages and is told so.
#[derive(Debug, Default)]
pub struct InProcessFeed {
    followers: Mutex<Vec<Follower>>,
}

#[derive(Debug)]
struct Follower {
    events: mpsc::Sender<FeedEvent>,
    /// The last event that it was sent is a gap: what it loses until the next message is covered.
    in_gap: bool,
}

impl Follower {
    /// Whether the follower is still there.
    fn send(&mut self, message: &Arc<FeedMessage>) -> bool {
        // The last place is kept for a gap, so that a loss is always told where it happened.
        let room = self.events.capacity();
        if room > 1 {
            self.in_gap = false;
            return self.events.try_send(FeedEvent::Message(message.clone())).is_ok();
        }
        if room == 1 && !self.in_gap {
            self.in_gap = true;
            return self.events.try_send(FeedEvent::Gap).is_ok();
        }
        !self.events.is_closed()
    }
}

#[async_trait]
impl DecisionFeed for InProcessFeed {
    async fn publish(&self, message: FeedMessage) -> Result<(), FeedError> {
        let message = Arc::new(message);
        let mut followers = self.followers.lock().unwrap_or_else(PoisonError::into_inner);
        followers.retain_mut(|follower| follower.send(&message));
        Ok(())
    }

    async fn follow(&self) -> Result<mpsc::Receiver<FeedEvent>, FeedError> {
        let (events, receiver) = mpsc::channel(FOLLOWER_MESSAGES_MAX + 1);
        let mut followers = self.followers.lock().unwrap_or_else(PoisonError::into_inner);
        followers.push(Follower { events, in_gap: false });
        Ok(receiver)
    }
}
