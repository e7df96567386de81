//! The decision feed of a world.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use futures_util::FutureExt;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::{
    link::Link,
    world::{Address, Engine},
};
use crate::{
    domain::ids::Partition,
    feed::{DecisionFeed, FeedError, FeedEvent, in_process::InProcessFeed},
    wire::feed_message::FeedMessage,
};

/// Time until a message that comes late is there, in microseconds.
const LATE_US: u64 = 2_000_000;

/// The follower of one life of a node.
struct Follower {
    address: Address,
    feed: Arc<InProcessFeed>,
    /// When the last message of each partition arrives: later ones arrive behind it.
    last_us: BTreeMap<Partition, u64>,
}

/// All followers, by node.
#[derive(Default)]
pub(super) struct Followers(BTreeMap<usize, Follower>);

/// The port to the feed.
pub(super) struct WorldFeed {
    pub(super) link: Link,
    pub(super) followers: Arc<Mutex<Followers>>,
}

#[async_trait]
impl DecisionFeed for WorldFeed {
    async fn publish(&self, message: FeedMessage) -> Result<(), FeedError> {
        let Link { world, address, .. } = &self.link;
        let weather = self.link.weather();
        world.trace("publish", message.to);
        let is_cut = |node| world.is_cut(node, Engine::Feed);
        if is_cut(address.node) {
            return Ok(());
        }
        for follower in self.followers.lock().0.values_mut() {
            if world.one_in(weather.message_lost) || is_cut(follower.address.node) {
                continue;
            }
            let now = world.now_us();
            let last = follower.last_us.entry(message.partition).or_default();
            let mut due = (now + 100 + world.below(3_000)).max(*last);
            match world.one_in(weather.message_late) {
                // Others overtake it.
                true => due += world.below(LATE_US),
                false => *last = due,
            }
            let (feed, message) = (follower.feed.clone(), message.clone());
            world.at(due, Some(follower.address), move || {
                drop(feed.publish(message).now_or_never());
            });
        }
        Ok(())
    }

    async fn follow(&self) -> Result<mpsc::Receiver<FeedEvent>, FeedError> {
        let address = self.link.address;
        let feed = {
            let mut followers = self.followers.lock();
            // An earlier life of the node does not follow any more.
            let stale = |follower: &&Follower| follower.address != address;
            if followers.0.get(&address.node).as_ref().is_none_or(stale) {
                let follower = Follower { address, feed: Arc::default(), last_us: BTreeMap::new() };
                followers.0.insert(address.node, follower);
            }
            followers.0[&address.node].feed.clone()
        };
        feed.follow().await
    }
}
