//! Sessions with the database: one to set up with, one to work with, and what the cluster tells
//! about itself.

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
    policies::{
        load_balancing::{NodeIdentifier, SingleTargetLoadBalancingPolicy},
        retry::FallthroughRetryPolicy,
        speculative_execution::SimpleSpeculativeExecutionPolicy,
    },
    statement::{Consistency, SerialConsistency, Statement},
};
use tracing::{debug, warn};

use super::error::ConnectError;
use crate::config::CqlConfig;

/// Connections to each node that is not sharded (Cassandra). One connection is one reader and one
/// writer task; a few keep both cores of a small node busy and more only cost memory.
const CONNECTIONS_PER_NODE: NonZeroUsize = NonZeroUsize::new(4).expect("4 is not 0");

/// A node that can't be reached in this time is taken for dead.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// A connection that is silent for this long is asked whether it is alive, and given up after as
/// long again: another node's answer is worth more than this one's.
const KEEPALIVE: Duration = Duration::from_secs(3);

/// Above the 2 s after which a Cassandra coordinator itself gives up a write.
const WRITE_TIMEOUT: Duration = Duration::from_secs(3);

/// A point read that takes longer has failed; the edge's state must not be older than 1 s anyway.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(3);

/// A page of 5,000 rows from disk on a busy node.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(10);

/// Schema changes and lightweight transactions: slow, rare, and nobody waits at the edge.
const SETUP_TIMEOUT: Duration = Duration::from_secs(30);

/// A point read that was not answered in this time is sent to another replica too.
const SPECULATE_AFTER: Duration = Duration::from_millis(50);

/// Copies of each row below which the loss of one node stops or loses something.
const REPLICAS_WANTED: u32 = 3;

/// Where a keyspace keeps its rows, and what that means for reads and writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Placement {
    /// The only datacenter with rows, if there is just one.
    pub(super) datacenter: Option<String>,
    /// A majority of the copies: in that datacenter, or of all where there are several. Reads and
    /// writes use the same, so that they always meet in one copy.
    pub(super) consistency: Consistency,
    /// Copies of each row; none where the database describes it in words of its own.
    pub(super) replicas: Option<u32>,
}

impl Placement {
    /// Reads what `system_schema.keyspaces` says of a keyspace.
    pub(super) fn of(replication: &HashMap<String, String>) -> Self {
        let class = replication.get("class").map_or("", String::as_str);
        let copies: BTreeMap<&str, Option<u32>> = replication
            .iter()
            .filter(|(option, _)| *option != "class")
            .map(|(option, copies)| (option.as_str(), copies.parse().ok()))
            .filter(|(_, copies)| *copies != Some(0))
            .collect();
        let by_datacenter = class.ends_with("NetworkTopologyStrategy");
        match copies.iter().next() {
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
        }
    }

    /// Says so where the loss of one node would lose or stop something.
    pub(super) fn warn_if_thin(&self, keyspace: &str) {
        if let Some(replicas) = self.replicas.filter(|replicas| *replicas < REPLICAS_WANTED) {
            warn!(
                keyspace,
                replicas, "keyspace keeps fewer than 3 copies, losing one node stops it"
            );
        }
    }
}

/// Copies to make in a cluster of `nodes`, where `configured` 0 leaves it to the cluster's size.
pub(super) fn replication_factor(configured: u32, nodes: usize) -> u32 {
    let found = u32::try_from(nodes).unwrap_or(u32::MAX).max(1);
    if configured == 0 { found.min(REPLICAS_WANTED) } else { configured }
}

/// How statements of one purpose are sent.
pub(super) struct Profiles {
    /// Rows on their way to being durable: one attempt, bounded.
    pub(super) write: ExecutionProfileHandle,
    /// Scans.
    pub(super) recovery: ExecutionProfileHandle,
    /// Point reads, where a second replica is asked when the first is slow.
    pub(super) lookup: ExecutionProfileHandle,
    /// Lightweight transactions, never sent twice by the driver.
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

/// A session without a keyspace, to create one.
pub(super) async fn for_setup(config: &CqlConfig) -> Result<Session, ConnectError> {
    let profile = ExecutionProfile::builder()
        .consistency(Consistency::Quorum)
        .serial_consistency(Some(SerialConsistency::Serial))
        .request_timeout(Some(SETUP_TIMEOUT))
        .build();
    let builder = builder(config, profile.into_handle())
        .pool_size(PoolSize::PerHost(NonZeroUsize::MIN))
        .fetch_schema_metadata(false)
        .fetch_full_schema_metadata(false)
        .refresh_metadata_on_auto_schema_agreement(false);
    build(config, builder).await
}

/// The session that rows go over. `sharded`: the nodes are ScyllaDB's and want a connection for
/// each of their shards.
pub(super) async fn for_work(
    config: &CqlConfig,
    placement: &Placement,
    profiles: &Profiles,
    sharded: bool,
) -> Result<Session, ConnectError> {
    let pool = if sharded { PoolSize::PerShard(NonZeroUsize::MIN) } else { per_node() };
    let mut builder = builder(config, profiles.lookup.clone())
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

fn builder(config: &CqlConfig, profile: ExecutionProfileHandle) -> SessionBuilder {
    SessionBuilder::new()
        .known_nodes(&config.nodes)
        .connection_timeout(CONNECT_TIMEOUT)
        .keepalive_interval(KEEPALIVE)
        .keepalive_timeout(KEEPALIVE)
        .default_execution_profile_handle(profile)
}

async fn build(config: &CqlConfig, builder: SessionBuilder) -> Result<Session, ConnectError> {
    builder.build().await.map_err(|error| {
        let nodes = config.nodes.join(", ");
        ConnectError::unavailable(format!("connecting to the database at {nodes}"), error)
    })
}

/// Whether the nodes are ScyllaDB's.
pub(super) fn is_sharded(session: &Session) -> bool {
    session.get_cluster_state().get_nodes_info().iter().any(|node| node.sharder().is_some())
}

/// The names of the cluster's datacenters.
pub(super) fn datacenters(session: &Session) -> BTreeSet<String> {
    let state = session.get_cluster_state();
    state.get_nodes_info().iter().filter_map(|node| node.datacenter.clone()).collect()
}

/// Warns for each node that acknowledges writes before they are on disk: a power cut of a
/// majority at once then loses what was answered (DESIGN section 3). A node that does not tell is
/// passed over: the setting is a hint to the operator, nothing rests on it.
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
            Some(value) if value.contains("periodic") => warn!(
                node,
                "commitlog_sync is periodic, a power cut of a majority of nodes loses writes that \
                 were acknowledged; set it to batch or group"
            ),
            Some(value) => debug!(node, value, "commitlog_sync read"),
            None => debug!(node, "commitlog_sync could not be read"),
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
        assert_eq!(Placement::of(&replication(options)), expected);
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
