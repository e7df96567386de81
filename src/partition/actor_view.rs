//! The state of a campaign's actor, for operators.

use super::liveness::Standing;
use crate::domain::ids::{CampaignId, Partition};

/// The state of a campaign's actor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActorView {
    /// `live`, `recovering`, `quarantined`, `halted` (its partition is), `stopped` (no record
    /// yet, or over), or `elsewhere` (another node owns the partition).
    pub state: &'static str,
    /// Why the campaign is recovering or decides nothing.
    pub reason: Option<String>,
}

/// Gives the states of this node's actors.
pub trait ActorViews: Send + Sync + 'static {
    /// Returns the state of the actor of `campaign`.
    fn view(&self, campaign: &CampaignId) -> ActorView;

    /// Returns what the node's own probes say of it, with what has failed, while they fail.
    fn standing(&self) -> Option<(Standing, String)>;

    /// Returns the partitions of this node whose log is about to remove records that nobody has
    /// decided, each with a sentence for the operator.
    fn expiring(&self) -> Vec<(Partition, String)>;
}

/// The actor that is to crash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Crashed {
    /// The coupon actor of a campaign.
    Coupon(CampaignId),
    /// The consumer of a partition.
    Consumer(Partition),
    /// The supervisor. The node ends with it.
    Supervisor,
}
