//! Looks for actors and tasks that have outlived what they were started for.

use super::{client::campaign_id, node::Engines, node::Node};
use crate::{domain::ids::Partition, partition::actor_view::ActorViews};

/// Tasks of a node that owns nothing: supervisor, census, membership and those of its API service.
pub(super) const TASKS_OF_NODE: usize = 5;

/// Tasks of a partition beside its consumer: ticker, publisher, reader and writer of dead letters.
const TASKS_OF_PARTITION: usize = 4;

/// Says which node does not run exactly the actors that it should run, if any. It should run a
/// consumer for each partition that it owns, and a coupon actor for each campaign that its
/// directory shows as live or loading.
pub(super) fn wrong_actors(engines: &Engines, nodes: &[&Node]) -> Option<String> {
    let mut tasks = 0;
    for node in nodes {
        let (number, directory) = (node.address.node, &node.core.directory);
        let owned: Vec<Partition> = {
            let brokers = engines.brokers.lock();
            let its = brokers.owners.iter().filter(|(_, owner)| **owner == node.address);
            let of_layout = |partition: &Partition| *partition < engines.setup.partitions;
            its.map(|(partition, _)| *partition).filter(of_layout).collect()
        };
        if directory.owned() != owned {
            return Some(format!("node {number} acts for {:?}, not {owned:?}", directory.owned()));
        }
        let states = (0..engines.setup.campaigns).map(|it| directory.view(&campaign_id(it)).state);
        let coupons = states.filter(|state| matches!(*state, "live" | "recovering")).count();
        let children = node.core.supervisor.get_cell().get_children().len();
        if children != owned.len() + coupons {
            let partitions = owned.len();
            return Some(format!(
                "node {number} has {children} actors for {partitions} partitions and {coupons} campaigns"
            ));
        }
        tasks += TASKS_OF_NODE + owned.len() * TASKS_OF_PARTITION + children;
    }
    let alive = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    // The story itself is one.
    (alive > tasks + 1).then(|| format!("{alive} tasks run, not {tasks}"))
}
