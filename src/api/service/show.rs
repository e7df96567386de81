//! Campaigns and coupons as clients and operators see them.

use async_trait::async_trait;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::{
    NodeService,
    campaigns::CampaignSnapshot,
    health::stuck,
    interface::{AdminView, CampaignPage, CampaignView, ServiceError, ShowCampaigns},
};
use crate::{
    answer::rows::face,
    domain::{
        answer::CouponFace,
        definition::Audience,
        ids::{CampaignId, Position, UserId},
        rows::Hold,
    },
    store::LISTING_MAX,
};

/// Most campaigns that one page reads. A node is sized for 10,000 campaigns, so the public list is
/// complete even if only the last of them is listed.
const SCANNED_MAX: usize = 10_000;

/// Fewest ids that are asked for at once: a page may have to pass many unlisted campaigns.
const SCAN_STEP: usize = 100;

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
        audience: Audience,
        after: Option<&CampaignId>,
        limit: usize,
    ) -> Result<CampaignPage, ServiceError> {
        let limit = limit.min(LISTING_MAX);
        let is_shown =
            |view: &CampaignView| audience == Audience::Admin || view.definition.terms.listed;
        let mut campaigns = Vec::new();
        let mut after = after.cloned();
        let mut scanned = 0;
        let mut is_end = false;
        // One more than asked for shows whether another page follows.
        while campaigns.len() <= limit && !is_end {
            if scanned >= SCANNED_MAX {
                // The next page begins after a shown campaign. To begin after an unlisted one would
                // reveal its id, so a page without any campaign is an error.
                if campaigns.is_empty() {
                    let detail = format!("{SCANNED_MAX} campaigns in a row are not listed");
                    return Err(ServiceError::Unavailable { detail });
                }
                return Ok(CampaignPage { campaigns, has_more: true });
            }
            let wanted = (limit + 1 - campaigns.len()).clamp(SCAN_STEP, LISTING_MAX);
            let ids = self.page_of_ids(after.as_ref(), wanted).await?;
            is_end = ids.len() < wanted;
            scanned += ids.len();
            after = ids.last().cloned();
            let reads = ids.into_iter().map(|id| self.view_for_listing(id));
            let mut views = stream::iter(reads).buffered(LISTING_READS_MAX);
            while campaigns.len() <= limit
                && let Some(view) = views.try_next().await?
            {
                campaigns.extend(view.filter(is_shown));
            }
        }
        let has_more = campaigns.len() > limit;
        campaigns.truncate(limit);
        Ok(CampaignPage { campaigns, has_more })
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

    pub(super) async fn page_of_ids(
        &self,
        after: Option<&CampaignId>,
        limit: usize,
    ) -> Result<Vec<CampaignId>, ServiceError> {
        let page = self.store.campaigns(after, limit);
        Ok(self.clock.read(page, || "listing campaigns".to_owned()).await?)
    }

    async fn view_for_listing(
        &self,
        campaign: CampaignId,
    ) -> Result<Option<CampaignView>, ServiceError> {
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
