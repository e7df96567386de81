//! Composition root: builds the adapters, starts all parts of a node, and stops them in reverse
//! order. No other module names an adapter.

pub(crate) mod apart;
mod audit;
mod budget;
pub(crate) mod core;
mod demo;
mod descriptors;
mod distributed;
mod embedded;
mod error;
mod identity;
mod instance;

use std::{future::Future, path::PathBuf, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, timeout, timeout_at},
};

pub use self::{
    audit::{AuditFailure, audit},
    budget::{BLOCKING_THREADS_MAX, memory_bounds},
    error::ServeError,
};
use self::{
    budget::{Budget, MemoryLimit},
    core::{Core, CoreParts},
    descriptors::Connections,
    instance::Instance,
};
use crate::{
    actors::messages::SupervisorMessage,
    api::{
        http::{self, Edge, Ending, HttpParts, Limits as HttpLimits, Listener, Site},
        service::{GroupCheck, Service},
    },
    clock::{SharedClock, SystemClock},
    config::{AdminKey, Config, Explicit, Listen, Mode, Secret},
    feed::DecisionFeed,
    identity::Verifier,
    log::{LocalLog, RequestLog},
    partition::actor_view::Crashed,
    store::{
        CouponStore, NodeRows,
        cql::{STEPS, Step},
    },
    telemetry,
    tls::server::{Certificates, Files},
};

/// Longest time that a node takes to stop, even if a part hangs. Together with the end of the
/// runtime this stays below the 10 s within which the process ends.
pub const STOP_WITHIN: Duration = Duration::from_millis(8_500);

/// What is left of [`STOP_WITHIN`] after `api.drain`, in eighths, for requests in flight, for settling the
/// records already read (the next owner of a partition settles the others), and for leaving the consumer
/// group or closing the data folder.
const STOP_PARTS: [u32; 3] = [3, 3, 2];

/// Access bits of the sockets of the public and of the admin listener, where these are Unix sockets.
const SOCKET_MODES: [u32; 2] = [0o660, 0o600];

/// Connections of the admin listener without a request in progress: tools that scrape and operators
/// that look need few, and nobody without a token should hold more.
const ADMIN_IDLE_MAX: usize = 64;

/// The adapters of one mode.
struct Adapters {
    log: Arc<dyn RequestLog>,
    store: Arc<dyn CouponStore>,
    feed: Arc<dyn DecisionFeed>,
    /// The log, where it is on this node's disk.
    local_log: Option<Arc<dyn LocalLog>>,
    instance: Instance,
    /// Says why the consumer group gives this node no partitions, where there is a group.
    group_check: Option<GroupCheck>,
    /// Where nodes say whether they can decide, if there may be several.
    nodes: Option<Arc<dyn NodeRows>>,
    future_max_ms: Option<i64>,
    /// What the adapters do beside their calls, for as long as the node runs.
    background: Vec<BoxFuture<'static, ()>>,
    /// Closed last, after all other parts have dropped the ports.
    closer: Closer,
}

/// The resource of a mode that is closed last.
enum Closer {
    Embedded(Arc<crate::embedded::EmbeddedDatabase>),
    Kafka(Arc<crate::log::kafka::KafkaLog>),
}

/// A running node.
pub struct Node {
    /// Place of the public listener, with the port that was picked.
    pub api: Listen,
    /// Place of the admin listener, with the port that was picked.
    pub admin: Listen,
    /// Bearer token of an owner; empty if there are only `admin.keys`.
    pub admin_token: String,
    kept_secret: Option<Secret>,
    core: Core,
    listeners: JoinSet<()>,
    background: JoinSet<()>,
    ending: Ending,
    /// The setting `api.drain`.
    drain: Duration,
    closer: Closer,
}

/// Runs a node until `shutdown` completes, then settles the records in flight and stops. Bounds that are
/// not `explicit` follow the memory limit. Certificates of the listeners are read again when `reload`
/// changes.
///
/// # Errors
/// [`ServeError`] if the node cannot start, or if one of its parts ends.
pub async fn serve(
    config: Config,
    explicit: Explicit,
    reload: watch::Receiver<()>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ServeError> {
    tokio::pin!(shutdown);
    let starting = Node::start_given(&config, &explicit, STEPS, reload);
    let mut node = tokio::select! {
        started = starting => started?,
        () = &mut shutdown => return Ok(()),
    };
    demo::announce(&config, &node);
    let failed = tokio::select! {
        () = &mut shutdown => None,
        failure = node.failed() => Some(failure),
    };
    tracing::info!("node stopping");
    node.stop().await;
    tracing::info!("node stopped");
    failed.map_or(Ok(()), Err)
}

impl Node {
    /// Starts a node. Its listeners accept requests when this returns.
    ///
    /// # Errors
    /// [`ServeError`] if a port is in use, or if Kafka, the database or the data folder is
    /// unreachable or does not match the configuration.
    pub async fn start(config: &Config) -> Result<Self, ServeError> {
        Self::start_with(config, STEPS).await
    }

    async fn start_given(
        config: &Config,
        explicit: &Explicit,
        steps: &[Step],
        reload: watch::Receiver<()>,
    ) -> Result<Self, ServeError> {
        let (connections, limit) = (Connections::allowed()?, MemoryLimit::of_process());
        let share = |config: &Config| Budget::of(config, explicit, connections, limit.clone());
        // Boxed, so that callers' futures do not have all of a start in them.
        Box::pin(Self::start_within(config, share, steps, reload)).await
    }

    /// Starts a node as [`Self::start`] does. A distributed node knows `steps` of the schema:
    /// [`STEPS`], and those that a test adds.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_with(config: &Config, steps: &[Step]) -> Result<Self, ServeError> {
        Self::start_given(config, &Explicit::default(), steps, watch::channel(()).1).await
    }

    /// Starts a node with the bounds that `share` gives it.
    async fn start_within(
        config: &Config,
        share: impl Fn(&Config) -> Budget,
        steps: &[Step],
        reload: watch::Receiver<()>,
    ) -> Result<Self, ServeError> {
        let clock: SharedClock = Arc::new(SystemClock);
        // Before the admin token, which may be made in the data folder.
        if config.mode == Mode::Embedded {
            embedded::check_format(config)?;
        }
        let listeners = Listeners::open(config).await?;
        let owner = instance::admin_token(config)?;
        let adapters = match config.mode {
            Mode::Embedded => {
                embedded::adapters(config, share(config).database, clock.clone()).await?
            }
            Mode::Distributed => distributed::adapters(config, steps).await?,
        };
        let Adapters { log, store, feed, local_log, group_check, instance, .. } = adapters;
        let Adapters { nodes, future_max_ms, background, closer, .. } = adapters;
        let Instance { layout, keys, kept_secret } = instance;
        let mut laid_out = config.clone();
        // A topic that exists has its own number.
        laid_out.kafka.partitions = layout.partitions;
        let budget = &share(&laid_out);
        budget.log();
        let config = &budget.applied_to(&laid_out);
        let parts = CoreParts {
            log,
            store,
            feed,
            layout,
            process: instance::process_name()?,
            keys,
            clock: clock.clone(),
            local_log,
            group_check,
            // A single node has nobody to leave its partitions to.
            is_apart: nodes.is_some(),
            nodes,
            future_max_ms,
            limits: budget.limits,
            bounds: budget.service,
            probe: None,
        };
        let mut tasks: JoinSet<()> = background.into_iter().collect();
        let verifier = identity::verifier(config, &clock, &mut tasks).await?;
        let core = Core::start(parts, config)
            .await
            .map_err(|error| ServeError::failed("starting the supervisor", error))?;
        let mut node = Self {
            api: listeners.api.place()?,
            admin: listeners.admin.place()?,
            admin_token: owner.unwrap_or_default(),
            kept_secret,
            core,
            listeners: JoinSet::new(),
            background: tasks,
            ending: Ending::default(),
            drain: config.api.drain,
            closer,
        };
        node.listen(config, budget, verifier, listeners, &reload);
        if config.demo {
            node.background.spawn(demo::define(node.core.service.clone()));
        }
        Ok(node)
    }

    fn listen(
        &mut self,
        config: &Config,
        budget: &Budget,
        verifier: Option<Arc<Verifier>>,
        listeners: Listeners,
        reload: &watch::Receiver<()>,
    ) {
        let metrics = telemetry::install_metrics();
        let service: Arc<dyn Service> = self.core.service.clone();
        let owner = Some(&self.admin_token).filter(|token| !token.is_empty());
        let owner = owner.map(|token| AdminKey::owner(token));
        let admin_keys = owner.into_iter().chain(config.admin.keys.0.iter().cloned()).collect();
        let parts = HttpParts {
            service,
            api: config.api.clone(),
            identity_fold: config.identity_fold,
            verifier,
            admin_keys,
            render_metrics: Arc::new(|| metrics.render()),
            kept_secret: self.kept_secret.clone(),
            chaos: config.chaos.enabled.then(|| self.core.crashes()),
        };
        let idle_time = config.api.idle_timeout;
        let limits = |connections, idle| {
            HttpLimits::new(connections, idle, idle_time).with_answers(budget.answers)
        };
        let Connections { public, admin: administered } = budget.connections;
        let public = Site {
            router: http::public_router(&parts),
            edge: Edge::new(&config.api.listen, &config.api.hosts.0)
                .with_origins(&config.api.cors_origins)
                .with_gateway_token(config.api.gateway_token.as_ref()),
            tls: listeners.api.tls,
            limits: limits(public, public),
        };
        let admin = Site {
            router: http::admin_router(&parts),
            edge: Edge::new(&config.admin.listen, &config.admin.hosts.0),
            tls: listeners.admin.tls,
            limits: limits(administered, ADMIN_IDLE_MAX.min(administered)),
        };
        let bound = [(listeners.api.listener, public), (listeners.admin.listener, admin)];
        for (listener, site) in bound {
            if let Some(certificates) = &site.tls {
                self.background.spawn(certificates.clone().keep(reload.clone()));
            }
            self.listeners.spawn(http::serve(listener, site, self.ending.clone()));
        }
    }

    /// Makes an actor panic as a bug would, for chaos tests.
    pub fn crash(&self, crashed: Crashed) {
        let _ended = self.core.supervisor.cast(SupervisorMessage::Crash(crashed, None));
    }

    /// Waits until the supervisor or a listener ends, without which the node cannot go on.
    pub async fn failed(&mut self) -> ServeError {
        tokio::select! {
            ended = &mut self.core.supervised => {
                let reason = ended.map_or_else(|error| error.to_string(), |()| "no error".into());
                ServeError::Ended { part: "the supervisor", reason }
            }
            () = self.core.joined.ended() => {
                let reason = "it panicked".to_owned();
                ServeError::Ended { part: "the membership of the group", reason }
            }
            ended = self.listeners.join_next() => {
                let reason = match ended {
                    Some(Err(error)) => error.to_string(),
                    Some(Ok(())) | None => "no error".to_owned(),
                };
                ServeError::Ended { part: "a listener", reason }
            }
        }
    }

    /// Answers requests for the time of `api.drain` while the node says that it is not ready. Then stops
    /// taking requests, settles the records in flight, leaves the consumer group and closes the data
    /// folder. Returns after at most [`STOP_WITHIN`], even if a part hangs.
    pub async fn stop(mut self) {
        let deadline = Instant::now() + STOP_WITHIN;
        self.core.service.leave();
        self.ending.drain.cancel();
        sleep(self.drain).await;
        let left = deadline.saturating_duration_since(Instant::now());
        let [http, settle, close_within] = STOP_PARTS.map(|eighths| left / 8 * eighths);
        if timeout_at(deadline - close_within, self.settle(http, settle)).await.is_err() {
            tracing::warn!("node not settled in time, the next owner continues");
        }
        close(self.into_closer(), deadline).await;
    }

    /// Drops all parts except the one that is closed last.
    fn into_closer(self) -> Closer {
        self.closer
    }

    /// Ends the listeners within `http`, and settles within `settle` what was read.
    async fn settle(&mut self, http: Duration, settle: Duration) {
        self.core.service.stop_waiting();
        self.ending.stop.cancel();
        // Requests in flight may still read campaigns and coupons; those that hang get an answer by the
        // end of the service.
        if timeout(http / 2, all(&mut self.listeners)).await.is_err() {
            self.core.service.shut_down().await;
            if timeout(http / 2, all(&mut self.listeners)).await.is_err() {
                tracing::warn!(
                    "requests in flight were cut off, their outcome is unknown to clients"
                );
            }
        }
        self.listeners.abort_all();
        self.core.service.shut_down().await;
        self.background.abort_all();
        let drained = self.core.supervisor.call(SupervisorMessage::Drain, Some(settle)).await;
        if !matches!(drained, Ok(ractor::rpc::CallResult::Success(()))) {
            tracing::warn!("records not settled in time, the next owner settles them");
        }
        self.core.end_actors().await;
    }
}

/// Waits until all tasks have ended.
async fn all(tasks: &mut JoinSet<()>) {
    while tasks.join_next().await.is_some() {}
}

/// The listeners of a node, bound.
struct Listeners {
    api: Bound,
    admin: Bound,
}

/// A listener with its certificate, if it has one.
struct Bound {
    listener: Listener,
    tls: Option<Arc<Certificates>>,
}

impl Listeners {
    async fn open(config: &Config) -> Result<Self, ServeError> {
        let (api, admin) = (&config.api, &config.admin);
        let [public_mode, admin_mode] = SOCKET_MODES;
        let tls = [&api.tls_cert_file, &api.tls_key_file, &api.tls_client_ca_file];
        let api = Bound::new(["api.listen", "api.tls"], &api.listen, public_mode, tls).await?;
        let tls = [&admin.tls_cert_file, &admin.tls_key_file, &admin.tls_client_ca_file];
        let admin =
            Bound::new(["admin.listen", "admin.tls"], &admin.listen, admin_mode, tls).await?;
        Ok(Self { api, admin })
    }
}

impl Bound {
    async fn new(
        [key, table]: [&'static str; 2],
        listen: &Listen,
        mode: u32,
        [certificate, of_key, client_ca]: [&Option<PathBuf>; 3],
    ) -> Result<Self, ServeError> {
        let tls = match (certificate, of_key) {
            (Some(certificate), Some(of_key)) => {
                let (certificate, of_key) = (certificate.clone(), of_key.clone());
                let files = Files { certificate, key: of_key, client_ca: client_ca.clone() };
                let read = Certificates::read(table, files);
                let failed = |error| ServeError::failed(format!("reading {table}"), error);
                Some(Arc::new(read.map_err(failed)?))
            }
            _ => None,
        };
        let listener = Listener::bind(listen, mode)
            .await
            .map_err(|error| ServeError::failed(format!("listening on {listen} ({key})"), error))?;
        Ok(Self { listener, tls })
    }

    fn place(&self) -> Result<Listen, ServeError> {
        let place = self.listener.place();
        place.map_err(|error| ServeError::failed("reading a listener's address", error))
    }
}

/// Leaves the consumer group or closes the data folder, by `deadline`.
async fn close(closer: Closer, deadline: Instant) {
    let closed = match &closer {
        Closer::Embedded(database) => timeout_at(deadline, database.close()).await,
        Closer::Kafka(log) => timeout_at(deadline, log.left()).await,
    };
    if closed.is_err() {
        tracing::warn!("log and store not closed in time, acknowledged records are durable");
        // Dropping `closer` would wait for the thread that hangs.
        std::mem::forget(closer);
        return;
    }
    if let Closer::Embedded(database) = closer {
        let released = database.released();
        drop(database);
        // Aborted tasks on other threads may still hold the database.
        if timeout_at(deadline, released).await.is_err() {
            tracing::warn!("data folder still in use by a read, it stays locked until that ends");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded::testing;

    #[tokio::test]
    async fn a_hanging_disk_does_not_block_the_stop() {
        let folder = tempfile::tempdir().unwrap();
        let closer = Closer::Embedded(testing::hanging(folder.path()));
        let within = Duration::from_millis(100);
        let closing = close(closer, Instant::now() + within);
        timeout(within * 50, closing).await.expect("closing gives up");
    }

    #[tokio::test]
    async fn a_stopped_node_has_released_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        let database = testing::open(folder.path(), 1);
        let reader = database.reads().clone();
        let held = Arc::downgrade(&database);
        let closer = Closer::Embedded(database);
        let closing = tokio::spawn(close(closer, Instant::now() + Duration::from_secs(60)));
        while held.strong_count() > 0 {
            tokio::task::yield_now().await;
        }
        assert!(!closing.is_finished(), "a reader still holds the database");
        drop(reader);
        closing.await.unwrap();
        testing::open(folder.path(), 1);
    }
}
