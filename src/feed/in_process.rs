//! The decision feed of an embedded node: its followers are in the same process.

use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::{DecisionFeed, FOLLOWER_MESSAGES_MAX, FeedError, FeedEvent};
use crate::wire::feed_message::FeedMessage;

/// Sends messages to followers in the same process. Never waits: a slow follower loses messages and
/// gets a gap.
#[derive(Debug, Default)]
pub struct InProcessFeed {
    followers: Mutex<Vec<Subscriber>>,
}

#[derive(Debug)]
struct Subscriber {
    events: mpsc::Sender<FeedEvent>,
    /// Whether the last event was a gap. That gap also covers what is lost until the next message.
    in_gap: bool,
}

impl Subscriber {
    /// Sends a message, or a gap if there is no room. Returns whether the receiver still exists.
    fn send(&mut self, message: &Arc<FeedMessage>) -> bool {
        // The last place in the channel is reserved for a gap, so that a gap always fits where
        // messages were lost.
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
        let mut followers = self.followers.lock();
        followers.retain_mut(|follower| follower.send(&message));
        Ok(())
    }

    async fn follow(&self) -> Result<mpsc::Receiver<FeedEvent>, FeedError> {
        let (events, receiver) = mpsc::channel(FOLLOWER_MESSAGES_MAX + 1);
        let mut followers = self.followers.lock();
        followers.push(Subscriber { events, in_gap: false });
        Ok(receiver)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn fresh() -> (Arc<InProcessFeed>, ()) {
        (Arc::default(), ())
    }

    crate::feed::contract::decision_feed_contract!(fresh);

    fn message(to: u64) -> FeedMessage {
        FeedMessage {
            log_epoch: 1,
            partition: 0,
            from: 0,
            to,
            end: to,
            halted: None,
            decisions: Vec::new(),
        }
    }

    #[tokio::test]
    async fn each_loss_gives_one_gap_in_its_place() {
        let feed = InProcessFeed::default();
        let mut follower = feed.follow().await.unwrap();
        let max = FOLLOWER_MESSAGES_MAX as u64;
        let mut to = 0;
        for round in 0..3 {
            for _ in 0..max + 10 {
                to += 1;
                feed.publish(message(to)).await.unwrap();
            }
            assert_eq!(follower.len(), FOLLOWER_MESSAGES_MAX + 1, "round {round}");
            let mut events = Vec::new();
            while let Ok(event) = follower.try_recv() {
                events.push(event);
            }
            assert_eq!(events.pop(), Some(FeedEvent::Gap));
            assert!(!events.contains(&FeedEvent::Gap), "round {round}");
        }
    }

    #[tokio::test]
    async fn a_closed_follower_is_removed() {
        let feed = InProcessFeed::default();
        let follower = feed.follow().await.unwrap();
        for to in 0..2 * FOLLOWER_MESSAGES_MAX as u64 {
            feed.publish(message(to)).await.unwrap();
        }
        drop(follower);
        feed.publish(message(0)).await.unwrap();
        assert_eq!(feed.followers.lock().len(), 0);
    }
}
