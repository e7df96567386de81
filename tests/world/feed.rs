//! A decision feed that checks every message, and that fails and panics on demand.

use std::sync::Arc;

use async_trait::async_trait;
use coupond::{
    feed::{DecisionFeed, FeedError, FeedEvent},
    wire::feed_message::FeedMessage,
};
use tokio::sync::mpsc;

use super::{
    faults::{Faults, Injected},
    judge::Truth,
};

pub(crate) struct FakeFeed {
    pub(crate) truth: Arc<Truth>,
    pub(crate) faults: Arc<Faults>,
}

fn failed(injected: Injected) -> FeedError {
    FeedError { operation: injected.0.to_owned(), source: Box::new(injected) }
}

#[async_trait]
impl DecisionFeed for FakeFeed {
    async fn publish(&self, message: FeedMessage) -> Result<(), FeedError> {
        self.faults.point("feed", "publish", None).await.map_err(failed)?;
        if message.halted.is_none() {
            self.truth.facts().published(&message);
        }
        self.faults.point("feed", "published", None).await.map_err(failed)
    }

    async fn follow(&self) -> Result<mpsc::Receiver<FeedEvent>, FeedError> {
        Ok(mpsc::channel(1).1)
    }
}
