//! A production node on the ports of a world.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::task::JoinSet;

use super::{
    feed::{Followers, WorldFeed},
    link::{Link, Weather},
    log::{Brokers, WorldLog},
    store::WorldStore,
    world::{Address, LifeClock, World},
};
use crate::{
    clock::SharedClock,
    config::Config,
    domain::keys::Keys,
    feed::DecisionFeed,
    log::RequestLog,
    node::core::{Core, CoreParts},
    store::{CouponStore, Layout, memory::MemoryStore},
};

/// What outlives every node.
#[derive(Clone)]
pub(super) struct Engines {
    pub(super) brokers: Arc<Mutex<Brokers>>,
    pub(super) rows: Arc<MemoryStore>,
    pub(super) followers: Arc<Mutex<Followers>>,
    pub(super) weather: Arc<Mutex<Weather>>,
    pub(super) keys: Arc<Keys>,
    pub(super) layout: Layout,
}

impl Engines {
    pub(super) fn new(partitions: u32) -> Self {
        let keys = Arc::new(Keys::derive(b"the secret of a world, 32 bytes or more"));
        let fingerprint = keys.fingerprint().to_owned();
        Self {
            brokers: Brokers::new(partitions),
            rows: Arc::default(),
            followers: Arc::default(),
            weather: Arc::default(),
            keys,
            layout: Layout::new("world".to_owned(), partitions, fingerprint),
        }
    }
}

/// One life of a node.
pub(super) struct Node {
    pub(super) address: Address,
    pub(super) core: Core,
    /// Calls of clients, which end with the node.
    pub(super) calls: JoinSet<()>,
}

impl Node {
    /// Starts a node: what `node` does, but for listeners and adapters.
    pub(super) async fn start(
        world: &Arc<World>,
        engines: &Engines,
        number: usize,
        (skew_ms, drift_ppm): (i64, i64),
    ) -> Self {
        let address = world.begin_life(number, skew_ms, drift_ppm);
        let Engines { brokers, rows, followers, weather, keys, layout } = engines.clone();
        let link = Link { world: world.clone(), address, weather };
        let clock: SharedClock = Arc::new(LifeClock { world: world.clone(), address });
        let log: Arc<dyn RequestLog> = Arc::new(WorldLog { link: link.clone(), brokers });
        let store: Arc<dyn CouponStore> = Arc::new(WorldStore { link: link.clone(), rows });
        let feed: Arc<dyn DecisionFeed> = Arc::new(WorldFeed { link, followers });
        let (free_space, future_max_ms) = (None, None);
        let parts = CoreParts { log, store, feed, layout, keys, clock, free_space, future_max_ms };
        let core = Core::start(parts, &Config::default()).await;
        let core = core.expect("a supervisor starts without any call");
        Self { address, core, calls: JoinSet::new() }
    }

    /// Ends the node between any two steps of it, as `kill -9` does.
    pub(super) async fn kill(mut self, world: &World) {
        world.end_life(self.address.node);
        self.calls.shutdown().await;
        self.core.end_actors().await;
        self.core.service.shut_down().await;
    }
}
