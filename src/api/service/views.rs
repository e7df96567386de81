//! Campaigns and coupons as clients see them.

use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::time::timeout;

use super::{
    Failure, NodeService, STORE_TIMEOUT,
    campaigns::Known,
    chain,
    model::{CampaignView, Refused},
};
use crate::{
    answer::rows::face,
    domain::{
        answer::CouponFace,
        ids::{CampaignId, Position, UserId},
    },
    store::LISTING_MAX,
};

/// Most campaigns of one listing: a whole page, and the one that tells whether another follows.
const VIEWS_MAX: usize = LISTING_MAX + 1;

/// Campaigns of one listing that are read at once.
const LISTING_READS_MAX: usize = 16;

impl NodeService {
    /// One campaign, its figures at most a second older than the store.
    pub(super) async fn view(&self, campaign: &CampaignId) -> Result<CampaignView, Refused> {
        let known = self.campaigns.for_view(campaign).await?.ok_or(Refused::UnknownCampaign)?;
        self.shown(campaign, &known)
    }

    /// One campaign by a read that begins now.
    pub(super) async fn view_now(&self, campaign: &CampaignId) -> Result<CampaignView, Refused> {
        let known = self.campaigns.now(campaign).await?.ok_or(Refused::UnknownCampaign)?;
        self.shown(campaign, &known)
    }

    /// Campaigns by id after the given one.
    pub(super) async fn listing(
        &self,
        after: Option<&CampaignId>,
        limit: usize,
    ) -> Result<Vec<CampaignView>, Refused> {
        let mut ids: Vec<CampaignId> = Vec::new();
        let limit = limit.min(VIEWS_MAX);
        while ids.len() < limit {
            let wanted = (limit - ids.len()).min(LISTING_MAX);
            let page = self.page(ids.last().or(after), wanted).await?;
            let last = page.len() < wanted;
            ids.extend(page);
            if last {
                break;
            }
        }
        let reads = ids.into_iter().map(|id| self.listed(id));
        let views = stream::iter(reads).buffered(LISTING_READS_MAX);
        views.try_filter_map(|view| std::future::ready(Ok(view))).try_collect().await
    }

    async fn page(
        &self,
        after: Option<&CampaignId>,
        limit: usize,
    ) -> Result<Vec<CampaignId>, Refused> {
        match timeout(STORE_TIMEOUT, self.store.campaigns(after, limit)).await {
            Ok(Ok(ids)) => Ok(ids),
            Ok(Err(error)) => Err(Failure::Store(chain(&error)).into()),
            Err(_) => Err(Failure::Store("listing campaigns took too long".to_owned()).into()),
        }
    }

    async fn listed(&self, campaign: CampaignId) -> Result<Option<CampaignView>, Refused> {
        match self.campaigns.for_listing(&campaign).await? {
            Some(known) => self.shown(&campaign, &known).map(Some),
            None => Ok(None),
        }
    }

    /// The coupons of a user, in sequence order.
    pub(super) async fn faces_of(
        &self,
        campaign: &CampaignId,
        user: &UserId,
    ) -> Result<Vec<CouponFace>, Refused> {
        let defined = |known: &Arc<Known>| known.edge.definition().is_some();
        let known = match self.campaigns.kept(campaign).filter(defined) {
            Some(known) => known,
            None => self.campaigns.for_view(campaign).await?.ok_or(Refused::UnknownCampaign)?,
        };
        // The number of buckets never changes, so a state of any age tells it.
        let definition = known.edge.definition().ok_or(Refused::UnknownCampaign)?;
        let coupons = self.coupons_of_user(campaign, user, definition.user_buckets).await?;
        Ok(coupons.iter().map(face).collect())
    }

    pub(super) fn shown(
        &self,
        campaign: &CampaignId,
        known: &Arc<Known>,
    ) -> Result<CampaignView, Refused> {
        let figures = known.edge.figures(self.clock.wall());
        let (Some(figures), Some(definition)) = (figures, known.edge.definition()) else {
            // On hold, but without a definition: its rows are not there, or not yet.
            known.refuse_quarantined()?;
            return Err(Refused::UnknownCampaign);
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
            hold: known.quarantine().cloned(),
        })
    }
}
