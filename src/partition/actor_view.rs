//! The state of a campaign's actor, for operators.

use crate::domain::ids::CampaignId;

/// The state of a campaign's actor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActorView {
    /// `live`, `recovering`, `quarantined`, `halted` (its partition is), `stopped` (no record
    /// yet, or over), or `elsewhere` (another node owns the partition).
    pub state: &'static str,
    /// Why the campaign is recovering or decides nothing.
    pub reason: Option<String>,
}

/// Gives the states of this node's coupon actors.
pub trait ActorViews: Send + Sync + 'static {
    /// Returns the state of the actor of `campaign`.
    fn view(&self, campaign: &CampaignId) -> ActorView;
}
