//! A production node on the ports of a world.

use std::sync::Arc;

use parking_lot::Mutex;
use ractor::{Actor, ActorRef};
use tokio::task::{JoinHandle, JoinSet};

use super::{
    feed::{Followers, WorldFeed},
    link::{Link, Weather},
    log::{Brokers, WorldLog},
    store::WorldStore,
    world::{Address, LifeClock, World},
};
use crate::{
    actors::{
        Directory, Environment, Shared, membership, messages::SupervisorMessage,
        supervisor::Supervisor,
    },
    api::service::{NodeService, ServiceParts},
    clock::SharedClock,
    config::Config,
    domain::keys::Keys,
    feed::DecisionFeed,
    log::RequestLog,
    store::{CouponStore, Layout, memory::MemoryStore},
    wire::codec::Codec,
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
    pub(super) service: Arc<NodeService>,
    pub(super) supervisor: ActorRef<SupervisorMessage>,
    /// Calls of clients, which end with the node.
    pub(super) calls: JoinSet<()>,
    supervised: JoinHandle<()>,
    joined: JoinHandle<()>,
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
        let codec = Codec::new(keys.clone(), layout.log_epoch, layout.partitions);
        let directory = Arc::new(Directory::new(codec.clone()));
        let environment = Arc::new(Environment {
            log: log.clone(),
            store: store.clone(),
            feed: feed.clone(),
            codec: codec.clone(),
            keys: keys.clone(),
            log_epoch: layout.log_epoch,
            clock: clock.clone(),
            future_max_ms: None,
            directory: directory.clone(),
            shared: Shared::new(&clock),
        });
        let started = Actor::spawn(None, Supervisor, environment.clone()).await;
        let (supervisor, supervised) = started.expect("a supervisor starts without any call");
        let joined = tokio::spawn(membership::join(environment, supervisor.clone()));
        let Config { api, admission, .. } = Config::default();
        let service = Arc::new(NodeService::new(ServiceParts {
            log,
            store,
            feed,
            codec,
            keys,
            layout,
            free_space: None,
            api,
            admission,
            actors: directory,
            clock,
        }));
        service.start();
        Self { address, service, supervisor, calls: JoinSet::new(), supervised, joined }
    }

    /// Ends the node between any two steps of it, as `kill -9` does.
    pub(super) async fn kill(mut self, world: &World) {
        world.end_life(self.address.node);
        self.calls.shutdown().await;
        self.joined.abort();
        let _aborted = self.joined.await;
        self.supervisor.kill();
        let _killed = self.supervised.await;
        self.service.shut_down().await;
    }
}
