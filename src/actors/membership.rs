//! The node's membership of the log: which partitions it owns.

use std::{collections::BTreeSet, future::pending, sync::Arc, time::Duration};

use ractor::ActorRef;
use tokio::sync::mpsc;

use super::{Environment, messages::SupervisorMessage};
use crate::{domain::ids::Partition, log::Ownership, retry::Backoff};

/// Pause before the node joins again. A lost membership has cost the group a rebalance already.
const JOIN_PAUSE: Duration = Duration::from_secs(1);

/// Wishes that wait for the membership: it takes each at once.
const WISHES_MAX: usize = 4;

/// Whether the node should be a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    /// It should own partitions.
    Member,
    /// It should leave, and own nothing.
    Away,
}

/// The wishes of the node's probes.
pub(crate) struct Wishes(mpsc::Receiver<Wish>);

/// Returns a channel of wishes.
pub(crate) fn wishes() -> (mpsc::Sender<Wish>, Wishes) {
    let (sender, receiver) = mpsc::channel(WISHES_MAX);
    (sender, Wishes(receiver))
}

impl Wishes {
    /// Waits for a wish; for ever, where nobody wishes anything.
    async fn until(&mut self, wish: Wish) {
        loop {
            match self.0.recv().await {
                Some(other) if other != wish => {}
                Some(_) => return,
                None => pending().await,
            }
        }
    }
}

/// Joins the log's members, again whenever membership ends, and reports to the supervisor which
/// partitions this node owns. Leaves when that is wished, and joins again when that is. Never returns.
pub(crate) async fn join(
    environment: Arc<Environment>,
    supervisor: ActorRef<SupervisorMessage>,
    mut wishes: Wishes,
) {
    loop {
        let mut owned = BTreeSet::new();
        let is_left = tokio::select! {
            biased;
            () = wishes.until(Wish::Away) => true,
            () = own(&environment, &supervisor, &mut owned) => false,
        };
        // Without membership another node may own these partitions already.
        for partition in owned {
            let change = Ownership::Revoked(partition);
            let _ended = supervisor.cast(SupervisorMessage::Ownership(change));
        }
        if is_left {
            wishes.until(Wish::Member).await;
            continue;
        }
        tracing::warn!("consumer group membership ended, joining again");
        environment.clock.sleep(JOIN_PAUSE).await;
    }
}

/// Joins, and notes what this node owns until membership ends. Dropping the future leaves the group.
async fn own(
    environment: &Environment,
    supervisor: &ActorRef<SupervisorMessage>,
    owned: &mut BTreeSet<Partition>,
) {
    let Environment { log, clock, .. } = environment;
    let join = || log.join();
    let joining = Backoff::every(JOIN_PAUSE);
    let mut changes = joining.until_done(&**clock, "joining the consumer group", join).await;
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
}
