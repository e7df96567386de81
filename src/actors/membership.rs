//! The node's membership of the log: which partitions it owns.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use ractor::ActorRef;

use super::{Environment, messages::SupervisorMessage};
use crate::{log::Ownership, retry::Backoff};

/// Pause before the node joins again. A lost membership has cost the group a rebalance already.
const JOIN_PAUSE: Duration = Duration::from_secs(1);

/// Joins the log's members, again whenever membership ends, and reports to the supervisor which
/// partitions this node owns. Never returns.
pub async fn join(environment: Arc<Environment>, supervisor: ActorRef<SupervisorMessage>) {
    let Environment { log, clock, .. } = &*environment;
    loop {
        let join = || log.join();
        let joining = Backoff::every(JOIN_PAUSE);
        let mut changes = joining.until_done(&**clock, "joining the consumer group", join).await;
        let mut owned = BTreeSet::new();
        while let Some(change) = changes.recv().await {
            let (Ownership::Assigned(partition) | Ownership::Revoked(partition)) = change;
            if !environment.codec.has(partition) {
                // The topic has more partitions than the layout. Nothing is routed there, and the
                // feed has no such partition.
                continue;
            }
            match change {
                Ownership::Assigned(partition) => owned.insert(partition),
                Ownership::Revoked(partition) => owned.remove(&partition),
            };
            let _ended = supervisor.cast(SupervisorMessage::Ownership(change));
        }
        // Without membership another node may own these partitions already.
        for partition in owned {
            let change = Ownership::Revoked(partition);
            let _ended = supervisor.cast(SupervisorMessage::Ownership(change));
        }
        tracing::warn!("consumer group membership ended, joining again");
        clock.sleep(JOIN_PAUSE).await;
    }
}
