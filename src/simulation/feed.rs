//! The decision feed of a world.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::{
    act::Delivery,
    link::{Call, Engine, Fate, Link},
    store::Rows,
    world::Address,
};
use crate::{
    domain::{
        ids::{Offset, Partition},
        rows::NodeRow,
    },
    feed::{DecisionFeed, FeedError, FeedEvent, NODE_SAYINGS_MAX, follower::FollowerSender},
    wire::feed_message::{FeedMessage, NodeMessage, Sender},
};

/// Time until a message that comes late is there, in microseconds.
const LATE_US: u64 = 2_000_000;

/// Time in which a node has heard of a message that has arrived, in microseconds.
const HEARD_WITHIN_US: u64 = 10_000;

/// A follower of one life of a node.
pub(super) struct Follower {
    address: Address,
    sender: Arc<Mutex<FollowerSender>>,
    /// When the last message of each partition arrives: later ones arrive behind it.
    last_us: BTreeMap<Partition, u64>,
}

/// A message, and how many rows had landed when it was published.
pub(super) struct Published {
    pub(super) landed: usize,
    pub(super) message: FeedMessage,
}

/// When a life of a node heard of a watermark, and of which generation.
struct Heard {
    at_us: u64,
    sender: Sender,
    to: Offset,
}

/// All followers, and what was published.
#[derive(Default)]
pub(super) struct Topic {
    pub(super) followers: Vec<Follower>,
    pub(super) published: Vec<Published>,
    /// Lives of nodes that listen to what nodes say of themselves.
    listeners: Vec<(Address, mpsc::Sender<NodeRow>)>,
    /// What each life of a node has heard of each partition.
    heard: BTreeMap<(usize, u32, Partition), Vec<Heard>>,
}

impl Topic {
    /// The highest watermark that an owner of the partition has published.
    pub(super) fn decided_below(&self, partition: Partition) -> Offset {
        let of_partition = self.published.iter().filter(|it| it.message.partition == partition);
        of_partition.map(|published| published.message.to).max().unwrap_or(0)
    }

    /// The highest watermark that had arrived at a node for a while.
    pub(super) fn heard(&self, address: Address, partition: Partition, us: u64) -> Offset {
        let heard = self.heard.get(&(address.node, address.life, partition)).into_iter().flatten();
        let before = heard.filter(|it| it.at_us + HEARD_WITHIN_US < us);
        before.map(|it| it.to).max().unwrap_or(0)
    }
}

/// The port to the feed.
pub(super) struct WorldFeed {
    pub(super) link: Link,
    pub(super) topic: Arc<Mutex<Topic>>,
    pub(super) rows: Arc<Rows>,
}

impl WorldFeed {
    /// Sends a message to a follower. `before` was published earlier.
    fn deliver(&self, follower: &mut Follower, message: &FeedMessage, before: &[Published]) {
        let (world, node) = (&self.link.world, follower.address.node);
        if world.is_cut(node, Engine::Feed, None) {
            return;
        }
        let delivery = world.delivery(node);
        if let Some(delivery) = delivery {
            world.count(super::act::Act::Message { node, delivery }.kind());
            world.say(|| format!("!! a message to node {node}: {delivery:?}"));
        }
        let last = follower.last_us.entry(message.partition).or_default();
        let mut due = (world.now_us() + 100 + world.below(self.link.way_us.0)).max(*last);
        match delivery {
            Some(Delivery::Lost) => return,
            Some(Delivery::Late) => {
                due += world.below(LATE_US);
                *last = due;
            }
            Some(Delivery::Overtaken) => due += world.below(LATE_US),
            Some(Delivery::Twice | Delivery::Replayed | Delivery::Gap) | None => *last = due,
        }
        let mut sent = vec![message];
        match delivery {
            Some(Delivery::Twice) => sent.push(message),
            Some(Delivery::Replayed) => {
                let of_partition =
                    before.iter().filter(|it| it.message.partition == message.partition);
                let old: Vec<_> = of_partition.map(|it| &it.message).collect();
                sent.extend(old.get(world.below(old.len() as u64) as usize));
            }
            _ => {}
        }
        for message in sent {
            let (told, message) = (follower.sender.clone(), Arc::new(message.clone()));
            let (there, topic, address) = (world.clone(), self.topic.clone(), follower.address);
            world.at(due, Some(address), move || {
                let key = (address.node, address.life, message.partition);
                let sender = message.sender.clone();
                let mut topic = topic.lock();
                let heard = topic.heard.entry(key).or_default();
                // Neither an older generation is listened to, nor what a later message has overtaken.
                let is_news = |it: &Heard| {
                    let is_of_owner = (it.sender.generation, &it.sender.owner)
                        == (sender.generation, &sender.owner);
                    it.sender.generation <= sender.generation
                        && !(is_of_owner && it.sender.number >= sender.number)
                };
                if heard.iter().all(is_news) {
                    heard.push(Heard { at_us: there.now_us(), sender, to: message.to });
                }
                drop(topic);
                told.lock().send(&message);
            });
        }
        if delivery == Some(Delivery::Gap) {
            let sender = follower.sender.clone();
            world.at(due, Some(follower.address), move || sender.lock().lose());
        }
    }
}

#[async_trait]
impl DecisionFeed for WorldFeed {
    async fn publish(&self, message: FeedMessage) -> Result<(), FeedError> {
        let Link { world, address, .. } = &self.link;
        world.trace(Call::Publish as u64, message.to);
        let fate = self.link.fate(Call::Publish, None);
        if fate == Some(Fate::Panics) {
            panic!("injected at publish");
        }
        if fate == Some(Fate::Dies) {
            world.end_life(*address);
        }
        let failed = |why: &str| FeedError { operation: "publishing".into(), source: why.into() };
        if fate == Some(Fate::Refused) {
            return Err(failed("refused"));
        }
        if world.is_cut(address.node, Engine::Feed, None) || !world.is_alive(*address) {
            return Ok(());
        }
        let landed = self.rows.landed();
        world.say(|| {
            let FeedMessage { partition, sender, from, to, decisions, .. } = &message;
            let decided: Vec<_> = decisions.iter().map(|it| it.offset).collect();
            let (node, generation) = (address.node, sender.generation);
            format!(
                "node {node} publishes partition {partition}, generation {generation}: {from} to \
                 {to}, {decided:?}"
            )
        });
        let mut topic = self.topic.lock();
        let Topic { followers, published, .. } = &mut *topic;
        for follower in followers.iter_mut() {
            self.deliver(follower, &message, published);
        }
        published.push(Published { landed, message: message.clone() });
        if fate == Some(Fate::LandsAndDies) {
            world.end_life(*address);
        }
        Ok(())
    }

    async fn follow(&self) -> Result<mpsc::Receiver<FeedEvent>, FeedError> {
        if self.link.world.is_cut(self.link.address.node, Engine::Feed, None) {
            return Err(FeedError { operation: "following".into(), source: "cut off".into() });
        }
        let (sender, events) = FollowerSender::new();
        let (address, sender) = (self.link.address, Arc::new(Mutex::new(sender)));
        let follower = Follower { address, sender, last_us: BTreeMap::new() };
        let followers = &mut self.topic.lock().followers;
        // An earlier life of the node does not follow any more.
        followers.retain(|it| {
            it.address.node != address.node
                || it.address == address && !it.sender.lock().is_closed()
        });
        followers.push(follower);
        Ok(events)
    }

    async fn say(&self, message: NodeMessage) -> Result<(), FeedError> {
        let Link { world, address, .. } = &self.link;
        if world.is_cut(address.node, Engine::Feed, None) || !world.is_alive(*address) {
            return Ok(());
        }
        let mut topic = self.topic.lock();
        topic.listeners.retain(|(_, listener)| !listener.is_closed());
        for (to, listener) in &topic.listeners {
            if !world.is_cut(to.node, Engine::Feed, None) {
                let (listener, row) = (listener.clone(), message.node.clone());
                world.after(100 + world.below(self.link.way_us.0), Some(*to), move || {
                    let _slow = listener.try_send(row);
                });
            }
        }
        Ok(())
    }

    fn listen(&self) -> mpsc::Receiver<NodeRow> {
        let (listener, heard) = mpsc::channel(NODE_SAYINGS_MAX);
        self.topic.lock().listeners.push((self.link.address, listener));
        heard
    }
}
