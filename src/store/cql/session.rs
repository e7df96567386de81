//! Sessions with the database, for setup and for work, and facts about the cluster.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    num::NonZeroUsize,
    sync::Arc,
    time::Duration,
};

use scylla::{
    client::{
        PoolSize,
        execution_profile::{ExecutionProfile, ExecutionProfileHandle},
        session::Session,
        session_builder::SessionBuilder,
    },
    frame::Compression as Compressor,
    policies::{
        load_balancing::{NodeIdentifier, SingleTargetLoadBalancingPolicy},
        retry::FallthroughRetryPolicy,
        speculative_execution::SimpleSpeculativeExecutionPolicy,
    },
    statement::{Consistency, SerialConsistency, Statement},
};

use super::{error::ConnectError, trouble};
use crate::config::{Compression, CqlConfig};

/// Connections to each node that is not sharded (Cassandra). A connection has one reader and one
/// writer task. Four keep both cores of a small node busy; more only cost memory.
const CONNECTIONS_PER_NODE: NonZeroUsize = NonZeroUsize::new(4).expect("4 is not 0");

/// Limit for a connection attempt. After it the node counts as down.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Silence after which a connection is probed, and limit for the probe's answer. Short, because
/// another node can answer instead.
const KEEPALIVE: Duration = Duration::from_secs(3);

/// Limit for a write. Above the 2 s after which a Cassandra coordinator gives up a write.
const WRITE_TIMEOUT: Duration = Duration::from_secs(3);

/// Limit for a point read. The edge needs a state that is at most 1 s old, so a later answer is of
/// little use.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(3);

/// Limit for one page of a scan: 5,000 rows from disk on a busy node.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(10);

/// Limit for schema changes and lightweight transactions, which are slow and rare. No request waits
/// for them.
const SETUP_TIMEOUT: Duration = Duration::from_secs(30);

/// Delay after which an unanswered point read is also sent to another replica.
const SPECULATE_AFTER: Duration = Duration::from_millis(50);

/// Replicas needed to survive the loss of one node.
const REPLICAS_WANTED: u32 = 3;

/// Replication of a keyspace, and the consistency level that follows from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Placement {
    /// The datacenter with replicas, if there is only one.
    pub(super) datacenter: Option<String>,
    /// `LOCAL_QUORUM` with one datacenter, else `QUORUM`. Reads and writes use the same level, so
    /// they always share a replica.
    pub(super) consistency: Consistency,
    /// Replicas of each row. None: the database does not give a number.
    pub(super) replicas: Option<u32>,
}

impl Placement {
    /// Parses the column `replication` of `system_schema.keyspaces`. `wanted` is the datacenter that
    /// is configured.
    ///
    /// # Errors
    /// The datacenters with replicas, if `wanted` is none of them.
    pub(super) fn of(
        replication: &HashMap<String, String>,
        wanted: Option<&str>,
    ) -> Result<Self, BTreeSet<String>> {
        let class = replication.get("class").map_or("", String::as_str);
        let copies: BTreeMap<&str, Option<u32>> = replication
            .iter()
            .filter(|(option, _)| *option != "class")
            .map(|(option, copies)| (option.as_str(), copies.parse().ok()))
            .filter(|(_, copies)| *copies != Some(0))
            .collect();
        let by_datacenter = class.ends_with("NetworkTopologyStrategy");
        if let Some(wanted) = wanted
            && by_datacenter
        {
            let found = || copies.keys().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
            let replicas = *copies.get(wanted).ok_or_else(found)?;
            return Ok(Self {
                datacenter: Some(wanted.to_owned()),
                consistency: Consistency::LocalQuorum,
                replicas,
            });
        }
        Ok(match copies.iter().next() {
            Some((datacenter, replicas)) if by_datacenter && copies.len() == 1 => Self {
                datacenter: Some((*datacenter).to_owned()),
                consistency: Consistency::LocalQuorum,
                replicas: *replicas,
            },
            _ => Self {
                datacenter: None,
                consistency: Consistency::Quorum,
                replicas: copies.values().copied().sum(),
            },
        })
    }

    /// Warns if the loss of one node stops the keyspace.
    pub(super) fn warn_if_thin(&self, keyspace: &str) {
        if let Some(replicas) = self.replicas.filter(|replicas| *replicas < REPLICAS_WANTED) {
            tracing::warn!(
                keyspace,
                replicas,
                "keyspace keeps fewer than 3 copies, losing one node stops it"
            );
        }
    }
}

/// Returns the replication factor for a cluster of `nodes`. A `configured` value of 0 means: by the
/// size of the cluster.
pub(super) fn replication_factor(configured: u32, nodes: usize) -> u32 {
    let found = u32::try_from(nodes).unwrap_or(u32::MAX).max(1);
    if configured == 0 { found.min(REPLICAS_WANTED) } else { configured }
}

/// Execution profiles by the purpose of a statement.
pub(super) struct Profiles {
    /// Writes of rows: one attempt.
    pub(super) write: ExecutionProfileHandle,
    /// Scans.
    pub(super) recovery: ExecutionProfileHandle,
    /// Point reads. A second replica is asked if the first one is slow.
    pub(super) lookup: ExecutionProfileHandle,
    /// Lightweight transactions. The driver never repeats them.
    pub(super) serial: ExecutionProfileHandle,
}

impl Profiles {
    pub(super) fn new(placement: &Placement) -> Self {
        let profile = |timeout: Duration| {
            ExecutionProfile::builder()
                .consistency(placement.consistency)
                .serial_consistency(Some(SerialConsistency::Serial))
                .request_timeout(Some(timeout))
        };
        let speculation = SimpleSpeculativeExecutionPolicy {
            max_retry_count: 1,
            retry_interval: SPECULATE_AFTER,
        };
        Self {
            write: profile(WRITE_TIMEOUT).build().into_handle(),
            recovery: profile(RECOVERY_TIMEOUT).build().into_handle(),
            lookup: profile(LOOKUP_TIMEOUT)
                .speculative_execution_policy(Some(Arc::new(speculation)))
                .build()
                .into_handle(),
            serial: profile(SETUP_TIMEOUT)
                .retry_policy(Arc::new(FallthroughRetryPolicy::new()))
                .build()
                .into_handle(),
        }
    }
}

/// Connects the session that creates and checks the keyspace.
pub(super) async fn for_setup(config: &CqlConfig) -> Result<Session, ConnectError> {
    let profile = ExecutionProfile::builder()
        .consistency(Consistency::Quorum)
        .serial_consistency(Some(SerialConsistency::Serial))
        .request_timeout(Some(SETUP_TIMEOUT))
        .build();
    let builder = builder(config, profile.into_handle())?
        .pool_size(PoolSize::PerHost(NonZeroUsize::MIN))
        .fetch_schema_metadata(false)
        .fetch_full_schema_metadata(false)
        .refresh_metadata_on_auto_schema_agreement(false);
    build(config, builder).await
}

/// Connects the session for rows. `sharded` nodes (ScyllaDB) get one connection per shard.
pub(super) async fn for_work(
    config: &CqlConfig,
    placement: &Placement,
    profiles: &Profiles,
    sharded: bool,
) -> Result<Session, ConnectError> {
    let pool = if sharded { PoolSize::PerShard(NonZeroUsize::MIN) } else { per_node() };
    let mut builder = builder(config, profiles.lookup.clone())?
        .pool_size(pool)
        .keyspaces_to_fetch([config.keyspace.as_str()]);
    if let Some(datacenter) = &placement.datacenter {
        builder = builder.prefer_datacenter(datacenter.clone());
    }
    build(config, builder).await
}

fn per_node() -> PoolSize {
    PoolSize::PerHost(CONNECTIONS_PER_NODE)
}

fn builder(
    config: &CqlConfig,
    profile: ExecutionProfileHandle,
) -> Result<SessionBuilder, ConnectError> {
    let mut builder = SessionBuilder::new();
    if let Some(user) = &config.user {
        let password = config.password.as_ref().map_or("", |password| password.expose());
        builder = builder.user(user, password);
    }
    if let Some(settings) = trouble::tls_settings(config)? {
        builder = builder.tls_context(Some(Arc::new(settings)));
    }
    builder = builder.compression(match config.compression {
        Compression::None => None,
        Compression::Lz4 => Some(Compressor::Lz4),
        Compression::Snappy => Some(Compressor::Snappy),
    });
    Ok(builder
        .known_nodes(&config.nodes)
        .connection_timeout(CONNECT_TIMEOUT)
        .keepalive_interval(KEEPALIVE)
        .keepalive_timeout(KEEPALIVE)
        .default_execution_profile_handle(profile))
}

async fn build(config: &CqlConfig, builder: SessionBuilder) -> Result<Session, ConnectError> {
    match builder.build().await {
        Ok(session) => Ok(session),
        Err(error) => Err(trouble::explained(config, error).await),
    }
}

/// Returns whether the database is ScyllaDB.
pub(super) fn is_sharded(session: &Session) -> bool {
    session.get_cluster_state().get_nodes_info().iter().any(|node| node.sharder().is_some())
}

/// Returns the names of the cluster's datacenters.
pub(super) fn datacenters(session: &Session) -> BTreeSet<String> {
    let state = session.get_cluster_state();
    state.get_nodes_info().iter().filter_map(|node| node.datacenter.clone()).collect()
}

/// Returns the number of nodes in a datacenter.
pub(super) fn nodes_in(session: &Session, datacenter: &str) -> usize {
    let state = session.get_cluster_state();
    let is_there =
        |node: &&Arc<scylla::cluster::Node>| node.datacenter.as_deref() == Some(datacenter);
    state.get_nodes_info().iter().filter(is_there).count()
}

/// Warns for each database node that acknowledges writes before they are on disk. A power cut of a
/// majority of these nodes loses acknowledged writes. Does not fail if a node does not answer,
/// because this is only a hint for the operator.
pub(super) async fn warn_if_acknowledged_early(session: &Session, sharded: bool) {
    let settings = if sharded { "system.config" } else { "system_views.settings" };
    let text = format!("SELECT value FROM {settings} WHERE name = 'commitlog_sync'");
    for node in session.get_cluster_state().get_nodes_info() {
        let mut statement = Statement::new(text.as_str());
        statement.set_consistency(Consistency::One);
        statement.set_request_timeout(Some(LOOKUP_TIMEOUT));
        let target = NodeIdentifier::Node(Arc::clone(node));
        let policy = SingleTargetLoadBalancingPolicy::new(target, None);
        statement.set_load_balancing_policy(Some(policy));
        let value = session.query_unpaged(statement, ()).await.ok().and_then(|result| {
            let rows = result.into_rows_result().ok()?;
            rows.maybe_first_row::<(String,)>().ok()?.map(|(value,)| value)
        });
        let node = node.address.to_string();
        match value {
            Some(value) if value.contains("periodic") => tracing::warn!(
                node,
                "commitlog_sync is periodic: a power cut of a majority of nodes loses acknowledged \
                 writes; set it to batch or group"
            ),
            Some(value) => tracing::debug!(node, value, "commitlog_sync read"),
            None => tracing::debug!(node, "commitlog_sync could not be read"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replication(options: &[(&str, &str)]) -> HashMap<String, String> {
        options.iter().map(|(option, value)| ((*option).into(), (*value).into())).collect()
    }

    #[track_caller]
    fn check(
        options: &[(&str, &str)],
        datacenter: Option<&str>,
        consistency: Consistency,
        replicas: Option<u32>,
    ) {
        let datacenter = datacenter.map(str::to_owned);
        let expected = Placement { datacenter, consistency, replicas };
        assert_eq!(Placement::of(&replication(options), None), Ok(expected));
    }

    #[test]
    fn a_configured_datacenter_is_asked_locally() {
        let class = ("class", "org.apache.cassandra.locator.NetworkTopologyStrategy");
        let both = replication(&[class, ("dc1", "3"), ("dc2", "2")]);
        let local = Placement::of(&both, Some("dc2")).unwrap();
        assert_eq!(local.datacenter.as_deref(), Some("dc2"));
        assert_eq!((local.consistency, local.replicas), (Consistency::LocalQuorum, Some(2)));
        let found = ["dc1".to_owned(), "dc2".to_owned()].into();
        assert_eq!(Placement::of(&both, Some("dc3")), Err(found));
    }

    #[test]
    fn one_datacenter_is_asked_locally() {
        let class = ("class", "org.apache.cassandra.locator.NetworkTopologyStrategy");
        let (local, all) = (Consistency::LocalQuorum, Consistency::Quorum);
        check(&[class, ("dc1", "3")], Some("dc1"), local, Some(3));
        check(&[class, ("dc1", "3"), ("dc2", "0")], Some("dc1"), local, Some(3));
        check(&[class, ("dc1", "3"), ("dc2", "2")], None, all, Some(5));
        check(&[class, ("dc1", "['r1', 'r2']")], Some("dc1"), local, None);
        let simple = ("class", "org.apache.cassandra.locator.SimpleStrategy");
        check(&[simple, ("replication_factor", "1")], None, all, Some(1));
    }

    #[test]
    fn the_replication_factor_fits_the_cluster() {
        assert_eq!([1, 2, 3, 9].map(|nodes| replication_factor(0, nodes)), [1, 2, 3, 3]);
        assert_eq!(replication_factor(2, 9), 2);
        assert_eq!(replication_factor(0, 0), 1);
    }
}
