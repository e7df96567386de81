//! A campaign's actor as operators see it.

use crate::domain::ids::CampaignId;

/// A campaign's actor as operators see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActorView {
    /// `live`, `recovering`, `quarantined`, `halted` (its partition is), `stopped` (no record
    /// yet, or over), or `elsewhere` (another node owns the partition).
    pub state: &'static str,
    /// Why, where there is something to say.
    pub reason: Option<String>,
}

/// What this node's actors tell of themselves.
pub trait ActorViews: Send + Sync + 'static {
    /// The actor of `campaign`.
    fn view(&self, campaign: &CampaignId) -> ActorView;
}
