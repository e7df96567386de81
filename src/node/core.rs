//! The part of a node that is the same on all ports: actors, membership and API service.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use ractor::{Actor, ActorRef, SpawnErr, rpc::CallResult};
use tokio::task::JoinHandle;

use super::apart::Work;
use crate::{
    actors::{
        Directory, Environment, Probe, Shared, membership, messages::SupervisorMessage,
        prober::Prober, supervisor::Supervisor,
    },
    api::{
        http::CrashActors,
        service::{GroupCheck, NodeService, ServiceBounds, ServiceParts},
    },
    clock::SharedClock,
    config::Config,
    domain::{ids::ProcessName, keys::Keys},
    feed::{DecisionFeed, HeardGenerations},
    log::{LocalLog, RequestLog},
    partition::{actor_view::Crashed, flow::Limits},
    store::{CouponStore, Layout, NodeRows},
    wire::codec::Codec,
};

/// Longest wait for the supervisor to crash an actor. It answers at once unless it hangs.
const CRASH_WITHIN: Duration = Duration::from_secs(1);

/// What a core is built from, besides its settings.
pub(crate) struct CoreParts {
    pub(crate) log: Arc<dyn RequestLog>,
    pub(crate) store: Arc<dyn CouponStore>,
    pub(crate) feed: Arc<dyn DecisionFeed>,
    pub(crate) layout: Layout,
    /// Drawn anew at each start.
    pub(crate) process: ProcessName,
    pub(crate) keys: Arc<Keys>,
    pub(crate) clock: SharedClock,
    /// Checks free space, where the log is on this node's disk.
    pub(crate) local_log: Option<Arc<dyn LocalLog>>,
    /// Says why the consumer group gives this node no partitions.
    pub(crate) group_check: Option<GroupCheck>,
    /// Where nodes say whether they can decide, if there may be several. Then this one probes.
    pub(crate) nodes: Option<Arc<dyn NodeRows>>,
    /// Membership and probes run on a thread of their own.
    pub(crate) is_apart: bool,
    /// See [`Environment::future_max_ms`].
    pub(crate) future_max_ms: Option<i64>,
    /// See [`Environment::limits`].
    pub(crate) limits: Limits,
    /// What the service keeps at most.
    pub(crate) bounds: ServiceBounds,
    /// Observes the actors of a simulated node.
    pub(crate) probe: Option<Arc<dyn Probe>>,
}

/// The running core of a node. Simulated worlds run it on ports of their own.
pub(crate) struct Core {
    pub(crate) service: Arc<NodeService>,
    pub(crate) directory: Arc<Directory>,
    pub(crate) supervisor: ActorRef<SupervisorMessage>,
    pub(crate) supervised: JoinHandle<()>,
    /// The membership of the group, and the probes.
    pub(crate) joined: Work,
}

impl Core {
    /// Starts the supervisor, joins the log's members and starts the API service.
    ///
    /// # Errors
    /// If the supervisor does not start.
    pub(crate) async fn start(parts: CoreParts, config: &Config) -> Result<Self, SpawnErr> {
        let CoreParts { log, store, feed, layout, process, keys, clock, .. } = parts;
        let CoreParts { local_log, group_check, future_max_ms, limits, probe, .. } = parts;
        let CoreParts { nodes, is_apart, bounds, .. } = parts;
        let codec = Codec::new(&keys, &layout.instance, layout.log_epoch, layout.partitions);
        let directory = Arc::new(Directory::new(codec.clone()));
        let generations = Arc::new(HeardGenerations::new(layout.partitions));
        let environment = Arc::new(Environment {
            log: log.clone(),
            store: store.clone(),
            feed: feed.clone(),
            codec: codec.clone(),
            keys: keys.clone(),
            log_epoch: layout.log_epoch,
            process,
            generations: generations.clone(),
            clock: clock.clone(),
            future_max_ms,
            limits,
            directory: directory.clone(),
            shared: Shared::new(&clock).observed_by(probe).probing(nodes.is_some()),
        });
        let (supervisor, supervised) = Actor::spawn(None, Supervisor, environment.clone()).await?;
        let (wish, wishes) = membership::wishes();
        let member = membership::join(environment.clone(), supervisor.clone(), wishes);
        let prober = nodes.map(|nodes| {
            Prober::new(environment, nodes, layout.partitions, supervisor.clone(), wish)
        });
        let work = async {
            match prober {
                Some(prober) => drop(tokio::join!(member, prober.run())),
                None => member.await,
            }
        };
        let joined = match is_apart {
            true => Work::thread("group-member", work)
                .map_err(|error| SpawnErr::StartupFailed(error.into()))?,
            false => Work::task(work),
        };
        let service = Arc::new(NodeService::new(ServiceParts {
            log,
            store,
            feed,
            codec,
            keys,
            layout,
            local_log,
            group_check,
            api: config.api.clone(),
            admission: config.admission.clone(),
            actors: directory.clone(),
            generations,
            clock,
            bounds,
        }));
        service.start();
        Ok(Self { service, directory, supervisor, supervised, joined })
    }

    /// Returns what makes actors of this node crash.
    pub(crate) fn crashes(&self) -> Arc<dyn CrashActors> {
        Arc::new(Crashes(self.supervisor.clone()))
    }

    /// Ends membership and actors. The API service is shut down by itself, before or after.
    pub(crate) async fn end_actors(&mut self) {
        self.joined.end().await;
        self.supervisor.kill();
        // A handle that has told its end must not be asked again.
        if !self.supervised.is_finished() {
            let _ended = (&mut self.supervised).await;
        }
    }
}

/// Makes actors crash through their supervisor.
struct Crashes(ActorRef<SupervisorMessage>);

#[async_trait]
impl CrashActors for Crashes {
    async fn crash(&self, crashed: Crashed) -> bool {
        let message = |reply| SupervisorMessage::Crash(crashed, Some(reply));
        let answer = self.0.call(message, Some(CRASH_WITHIN)).await;
        matches!(answer, Ok(CallResult::Success(true)))
    }
}
