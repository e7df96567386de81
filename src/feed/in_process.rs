//! The decision feed of an embedded node: its followers are in the same process.

use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::{DecisionFeed, FeedError, FeedEvent, follower::FollowerSender};
use crate::wire::feed_message::FeedMessage;

/// Sends messages to followers in the same process. Never waits: a slow follower loses messages and
/// gets a gap.
#[derive(Debug, Default)]
pub struct InProcessFeed {
    followers: Mutex<Vec<FollowerSender>>,
}

#[async_trait]
impl DecisionFeed for InProcessFeed {
    async fn publish(&self, message: FeedMessage) -> Result<(), FeedError> {
        let message = Arc::new(message);
        let mut followers = self.followers.lock();
        followers.iter_mut().for_each(|follower| follower.send(&message));
        followers.retain(|follower| !follower.is_closed());
        Ok(())
    }

    async fn follow(&self) -> Result<mpsc::Receiver<FeedEvent>, FeedError> {
        let (follower, receiver) = FollowerSender::new();
        self.followers.lock().push(follower);
        Ok(receiver)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::FOLLOWER_MESSAGES_MAX, *};
    use crate::{domain::ids::ProcessName, wire::feed_message::Sender};

    async fn fresh() -> (Arc<InProcessFeed>, ()) {
        (Arc::default(), ())
    }

    crate::feed::contract::decision_feed_contract!(fresh);

    fn message(to: u64) -> FeedMessage {
        FeedMessage {
            log_epoch: 1,
            partition: 0,
            sender: Sender { generation: 1, owner: ProcessName::of(7), number: 1 },
            from: 0,
            to,
            end: to,
            waiting: 0,
            condition: None,
            halted: None,
            unread: None,
            decisions: Vec::new(),
            campaigns: Vec::new(),
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
