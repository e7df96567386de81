//! Campaigns and coupons as clients and operators see them.

use async_trait::async_trait;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::{
    NodeService, ReadError, STORE_TIMEOUT,
    campaigns::CampaignSnapshot,
    chain,
    interface::{AdminView, CampaignView, ServiceError, ShowCampaigns},
};
use crate::{
    answer::rows::face,
    domain::{
        answer::CouponFace,
        ids::{CampaignId, Position, UserId},
    },
    store::LISTING_MAX,
};

/// Most campaigns of one listing: a full page, and one more that shows whether another follows.
const VIEWS_MAX: usize = LISTING_MAX + 1;

/// Campaigns of one listing that are read at the same time.
const LISTING_READS_MAX: usize = 16;

#[async_trait]
impl ShowCampaigns for NodeService {
    async fn campaign(&self, campaign: &CampaignId) -> Result<CampaignView, ServiceError> {
        let snapshot = self.campaigns.for_view(campaign).await?;
        self.view(campaign, &*snapshot.ok_or(ServiceError::UnknownCampaign)?)
    }

    async fn campaigns(
        &self,
        after: Option<&CampaignId>,
        limit: usize,
    ) -> Result<Vec<CampaignView>, ServiceError> {
        let mut ids: Vec<CampaignId> = Vec::new();
        let limit = limit.min(VIEWS_MAX);
        while ids.len() < limit {
            let wanted = (limit - ids.len()).min(LISTING_MAX);
            let page = self.page_of_ids(ids.last().or(after), wanted).await?;
            let is_last = page.len() < wanted;
            ids.extend(page);
            if is_last {
                break;
            }
        }
        let reads = ids.into_iter().map(|id| self.listed(id));
        let views = stream::iter(reads).buffered(LISTING_READS_MAX);
        views.try_filter_map(|view| std::future::ready(Ok(view))).try_collect().await
    }

    async fn coupons_of(
        &self,
        campaign: &CampaignId,
        user: &UserId,
    ) -> Result<Vec<CouponFace>, ServiceError> {
        // Only the number of buckets is needed. It never changes once a coupon was issued; before,
        // an amendment may have changed it since the snapshot was read.
        let cached = self.campaigns.cached(campaign);
        let snapshot = match cached.filter(|snapshot| snapshot.edge.has_fixed_user_buckets()) {
            Some(snapshot) => Some(snapshot),
            None => self.campaigns.current(campaign).await?,
        };
        let definition = snapshot.as_ref().and_then(|snapshot| snapshot.edge.definition());
        let user_buckets = definition.ok_or(ServiceError::UnknownCampaign)?.user_buckets;
        let coupons = self.coupons_of_user(campaign, user, user_buckets).await?;
        Ok(coupons.iter().map(face).collect())
    }

    async fn admin_view(&self, campaign: &CampaignId) -> Result<AdminView, ServiceError> {
        let snapshot = self.campaigns.current(campaign).await?;
        let view = self.view(campaign, &*snapshot.ok_or(ServiceError::UnknownCampaign)?)?;
        Ok(AdminView { view, actor: self.actors.view(campaign) })
    }
}

impl NodeService {
    async fn page_of_ids(
        &self,
        after: Option<&CampaignId>,
        limit: usize,
    ) -> Result<Vec<CampaignId>, ServiceError> {
        match self.clock.timeout(STORE_TIMEOUT, self.store.campaigns(after, limit)).await {
            Ok(Ok(ids)) => Ok(ids),
            Ok(Err(error)) => Err(ReadError::Store(chain(&error)).into()),
            Err(_) => Err(ReadError::timed_out("listing campaigns".to_owned()).into()),
        }
    }

    async fn listed(&self, campaign: CampaignId) -> Result<Option<CampaignView>, ServiceError> {
        match self.campaigns.for_listing(&campaign).await? {
            Some(snapshot) => self.view(&campaign, &snapshot).map(Some),
            None => Ok(None),
        }
    }

    /// Builds the view of a campaign from a snapshot.
    pub(super) fn view(
        &self,
        campaign: &CampaignId,
        snapshot: &CampaignSnapshot,
    ) -> Result<CampaignView, ServiceError> {
        let figures = snapshot.edge.figures(self.clock.wall());
        let (Some(figures), Some(definition)) = (figures, snapshot.edge.definition()) else {
            // A hold can be written before the first version row, or that row has vanished.
            snapshot.refuse_quarantined()?;
            return Err(ServiceError::UnknownCampaign);
        };
        Ok(CampaignView {
            campaign: campaign.clone(),
            state: figures.state,
            definition: definition.clone(),
            issued: figures.issued,
            remaining: figures.remaining,
            as_of: Position {
                log_epoch: self.log_epoch,
                partition: self.codec.partition_of(campaign),
                offset: figures.as_of,
            },
            hold: snapshot.quarantine().cloned(),
        })
    }
}
