//! A production node on the ports of a world.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::task::JoinSet;

use super::{
    course::Setup,
    feed::{Topic, WorldFeed},
    life_clock::LifeClock,
    link::Link,
    log::{Brokers, Local, WorldLog},
    probe::MessageProbe,
    store::{Rows, WorldStore},
    world::{Address, World},
};
use crate::{
    actors::{Probe, messages::SupervisorMessage},
    answer::request_id::RequestIds,
    api::service::ServiceBounds,
    clock::SharedClock,
    config::Config,
    domain::{
        ids::{Position, ProcessName},
        keys::Keys,
    },
    embedded::RecordClock,
    feed::DecisionFeed,
    log::LocalLog,
    node::core::{Core, CoreParts},
    store::{CouponStore, Layout, NodeRows},
    wire::codec::Codec,
};

/// The furthest that a record may be ahead on a CQL database, in milliseconds: a day.
const FUTURE_MAX_MS: i64 = 86_400_000;

/// Pause between two looks at the by-user rows of a campaign, in milliseconds: several in each world.
const SCRUB_MS: u64 = 5_000;

/// The pause behind each page of them: pages are small here.
const SCRUB_PAUSE_MS: u64 = 5;

/// Longest ways of calls and answers over a network, and within a process, in microseconds.
const NETWORK_US: (u64, u64) = (3_000, 2_000);
const PROCESS_US: (u64, u64) = (1_000, 100);

/// Longest time in which a node that stops settles what it has read, in microseconds.
const DRAIN_US: u64 = 3_000_000;

/// What outlives every node.
#[derive(Clone)]
pub(super) struct Engines {
    pub(super) setup: Setup,
    pub(super) brokers: Arc<Mutex<Brokers>>,
    pub(super) rows: Arc<Rows>,
    pub(super) topic: Arc<Mutex<Topic>>,
    pub(super) keys: Arc<Keys>,
    pub(super) codec: Codec,
    pub(super) layout: Layout,
}

impl Engines {
    pub(super) fn new(setup: Setup) -> Self {
        let keys = Arc::new(Keys::derive(b"the secret of a world, 32 bytes or more"));
        let (partitions, fingerprint) = (setup.partitions, keys.fingerprint().to_owned());
        let layout = Layout::new("world".to_owned(), partitions, fingerprint);
        Self {
            brokers: Arc::new(Mutex::new(Brokers::new(partitions))),
            rows: Arc::default(),
            topic: Arc::default(),
            codec: Codec::new(&keys, &layout.instance, layout.log_epoch, partitions),
            setup,
            keys,
            layout,
        }
    }

    pub(super) fn link(&self, world: &Arc<World>, address: Address) -> Link {
        let is_embedded = self.setup.is_embedded;
        let way_us = if is_embedded { PROCESS_US } else { NETWORK_US };
        Link { world: world.clone(), address, way_us, is_embedded }
    }

    /// Returns the position in a request id.
    pub(super) fn position(&self, request_id: &str) -> Option<Position> {
        let ids = RequestIds::new(&self.keys, &self.layout.instance);
        ids.open(request_id).map(|content| content.position)
    }

    pub(super) fn log(&self, link: &Link) -> WorldLog {
        let (brokers, rows) = (self.brokers.clone(), self.rows.clone());
        let local = self.setup.is_embedded.then(|| {
            let (world, address) = (link.world.clone(), link.address);
            let clock: SharedClock = Arc::new(LifeClock { world, address });
            let last = brokers.lock().last_time();
            Local { synced: rows.clone(), clock: Arc::new(RecordClock::new(clock, last)) }
        });
        let limits = self.setup.limits.of_owner();
        let window = limits.outstanding_records + limits.window_records + limits.batch_records;
        WorldLog { link: link.clone(), brokers, rows, local, window, leaves: self.setup.probes }
    }

    pub(super) fn store(&self, link: &Link) -> WorldStore {
        WorldStore { link: link.clone(), rows: self.rows.clone() }
    }

    pub(super) fn feed(&self, link: &Link) -> WorldFeed {
        WorldFeed { link: link.clone(), topic: self.topic.clone(), rows: self.rows.clone() }
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
    pub(super) async fn start(world: &Arc<World>, engines: &Engines, number: usize) -> Self {
        let Setup { skew_ms, drift_ppm, limits, is_embedded, .. } = &engines.setup;
        let of_node = |all: &[i64]| all.get(number).copied().unwrap_or_default();
        let address = world.begin_life(number, of_node(skew_ms), of_node(drift_ppm));
        world.say(|| format!("node {number} starts"));
        let link = engines.link(world, address);
        let clock: SharedClock = Arc::new(LifeClock { world: world.clone(), address });
        let log = Arc::new(engines.log(&link));
        let store = Arc::new(engines.store(&link));
        let nodes = engines.setup.probes.then(|| store.clone() as Arc<dyn NodeRows>);
        let store: Arc<dyn CouponStore> = store;
        let feed: Arc<dyn DecisionFeed> = Arc::new(engines.feed(&link));
        let (layout, keys) = (engines.layout.clone(), engines.keys.clone());
        let local_log = is_embedded.then(|| log.clone() as Arc<dyn LocalLog>);
        let future_max_ms = (!is_embedded).then_some(FUTURE_MAX_MS);
        let limits = limits.of_owner();
        let probe: Option<Arc<dyn Probe>> =
            Some(Arc::new(MessageProbe { world: world.clone(), address }));
        let parts = CoreParts {
            log,
            store,
            feed,
            layout,
            process: ProcessName::of(world.below(u64::MAX)),
            keys,
            clock,
            local_log,
            group_check: None,
            nodes,
            is_apart: false,
            future_max_ms,
            limits,
            bounds: ServiceBounds::default(),
            probe,
        };
        let core = Core::start(parts, &engines.setup.limits.config()).await;
        let core = core.expect("a supervisor starts without any call");
        Self { address, core, calls: JoinSet::new() }
    }

    /// Settles what the node has read, as `node` does before it stops.
    pub(super) async fn drain(&self, world: &World) {
        self.core.service.shut_down().await;
        let drained = self.core.supervisor.call(SupervisorMessage::Drain, None);
        tokio::select! {
            biased;
            _drained = drained => {}
            () = world.wait(DRAIN_US, None) => {}
        }
    }

    /// Ends the node between any two steps of it, as `kill -9` does.
    pub(super) async fn kill(mut self, world: &World) {
        world.end_life(self.address);
        self.calls.shutdown().await;
        self.core.end_actors().await;
        self.core.service.shut_down().await;
    }
}

/// Windows of records that wait above durable progress. Fewer than in production, so that a world
/// reaches the bound.
const OUTSTANDING_PER_WINDOW: usize = 8;

/// Bounds of a node, drawn for each world so that a few hundred requests reach them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Bounds {
    pub(super) window_records: usize,
    pub(super) batch_records: usize,
    pub(super) progress_records: u64,
    pub(super) progress_interval_ms: u64,
    pub(super) idle_ms: u64,
    pub(super) waiters: usize,
    pub(super) lag: u64,
    pub(super) user_burst: u32,
}

impl Bounds {
    fn of_owner(&self) -> crate::partition::flow::Limits {
        crate::partition::flow::Limits {
            window_records: self.window_records,
            outstanding_records: self.window_records * OUTSTANDING_PER_WINDOW,
            batch_records: self.batch_records,
            progress_records: self.progress_records,
            progress_interval_ms: self.progress_interval_ms,
            idle_ms: self.idle_ms,
            scrub_ms: SCRUB_MS,
            scrub_pause_ms: SCRUB_PAUSE_MS,
        }
    }

    fn config(&self) -> Config {
        let mut config = Config::default();
        config.api.waiters_max = self.waiters;
        config.admission.max_lag = self.lag;
        config.admission.user_burst = self.user_burst;
        config
    }
}
