//! Campaigns and coupons as clients and operators see them.

use std::sync::Arc;

use async_trait::async_trait;

use super::{
    NodeService,
    campaigns::CampaignSnapshot,
    health::stuck,
    interface::{
        AdminView, CampaignList, CampaignView, Freshen, ServiceError, ShowCampaigns, UserCoupons,
    },
};
use crate::domain::{
    ids::{CampaignId, UserId},
    rows::Hold,
};

#[async_trait]
impl ShowCampaigns for NodeService {
    async fn campaign(&self, campaign: &CampaignId) -> Result<CampaignView, ServiceError> {
        let snapshot = self.campaigns.for_view(campaign).await?;
        self.view(campaign, &*snapshot.ok_or(ServiceError::UnknownCampaign)?)
    }

    async fn campaigns(&self) -> Result<Arc<CampaignList>, ServiceError> {
        self.listing.current().await
    }

    fn freshen(&self) -> Freshen {
        let viewer = self.viewer.clone();
        Arc::new(move |view| viewer.freshened(view))
    }

    async fn coupons_of(
        &self,
        campaign: &CampaignId,
        user: &UserId,
    ) -> Result<UserCoupons, ServiceError> {
        self.list_coupons_of(campaign, user).await
    }

    async fn admin_view(&self, campaign: &CampaignId) -> Result<AdminView, ServiceError> {
        let snapshot = self.campaigns.current(campaign).await?;
        let snapshot = snapshot.ok_or(ServiceError::UnknownCampaign)?;
        let view = self.view(campaign, &snapshot)?;
        // A log that does not answer now leaves the rest of the view as it is.
        let not_releasable = self.not_releasable(campaign, &snapshot).await.unwrap_or_default();
        let mut actor = self.actors.view(campaign);
        if actor.reason.is_none() {
            let partition = self.codec.partition_of(campaign);
            let condition = self.waiters.condition(partition);
            actor.reason = condition.and_then(|condition| stuck(partition, &condition));
        }
        Ok(AdminView { view, actor, not_releasable })
    }
}

impl NodeService {
    /// Returns why a campaign cannot be released, if so: its replay needs records below the log's
    /// start.
    pub(super) async fn not_releasable(
        &self,
        campaign: &CampaignId,
        snapshot: &CampaignSnapshot,
    ) -> Result<Option<String>, ServiceError> {
        let Some(from) = snapshot.holds.iter().map(Hold::unsettled_from).min() else {
            return Ok(None);
        };
        let bounds = self.log.bounds(self.codec.partition_of(campaign));
        let low = self.clock.read(bounds, || "reading the start of the log".to_owned()).await?.low;
        if from >= low {
            return Ok(None);
        }
        // What was stored behind the hold is not in this figure.
        let remaining = self.view(campaign, snapshot)?.remaining;
        Ok(Some(format!(
            "records from {from} on are needed, but the log begins at {low}; to follow up, give what \
             remains (coupond audit counts the coupons; at most {remaining}) to another campaign: \
             coupond campaign create NEW-ID --quota N"
        )))
    }

    /// Builds the view of a campaign from a snapshot.
    pub(super) fn view(
        &self,
        campaign: &CampaignId,
        snapshot: &CampaignSnapshot,
    ) -> Result<CampaignView, ServiceError> {
        self.viewer.view(campaign, snapshot)
    }
}
