//! The coupons of a user, and what this node has told of them: a list never lacks a coupon that the
//! same node has told the user before.

use std::{num::NonZeroUsize, time::Duration};

use lru::LruCache;
use parking_lot::Mutex;

use super::{
    NodeService,
    interface::{ServiceError, UserCoupons},
};
use crate::{
    answer::rows::{face, settled_below},
    domain::{
        answer::Answer,
        ids::{CampaignId, Offset, Position, Sequence, UserId},
    },
};

/// Users whose latest coupon a node remembers to have told. At 10,000 a second these are those of the
/// last 1.6 s; by-user rows are stored within a few tenths of a second. About 1.5 MB.
const TOLD_MAX: NonZeroUsize = NonZeroUsize::new(16_384).unwrap();

/// Longest wait for the by-user row of a coupon that was told. It takes longer only while its campaign
/// is on hold, or the store does not answer.
const ROW_WITHIN: Duration = Duration::from_secs(1);

/// Pause between two looks for it.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The latest coupon that users were told of, where by-user rows are written after the answer.
/// By [`NodeService::user_of`]: two users that share a hash at most wait for a row in vain.
pub(super) struct Told(Option<Mutex<LruCache<u64, Sequence>>>);

impl Told {
    pub(super) fn new(views_are_one: bool) -> Self {
        Self((!views_are_one).then(|| Mutex::new(LruCache::new(TOLD_MAX))))
    }

    /// Notes an answer that a user is told.
    pub(super) fn note(&self, user: u64, answer: &Answer) {
        let (Answer::Issued { coupon } | Answer::AlreadyIssued { coupon }) = answer else { return };
        if let Some(told) = &self.0 {
            let mut told = told.lock();
            let latest =
                told.get(&user).map_or(coupon.sequence, |known| coupon.sequence.max(*known));
            told.put(user, latest);
        }
    }

    fn latest(&self, user: u64) -> Option<Sequence> {
        self.0.as_ref()?.lock().get(&user).copied()
    }
}

impl NodeService {
    /// Lists a user's coupons. Waits a moment for one that this node has told the user of.
    pub(super) async fn list_coupons_of(
        &self,
        campaign: &CampaignId,
        user: &UserId,
    ) -> Result<UserCoupons, ServiceError> {
        let told = self.told.latest(self.user_of(campaign, user));
        let until = self.clock.now() + ROW_WITHIN;
        loop {
            // Progress and holds before the rows: those below are complete then.
            let offset = self.settled_below(campaign).await?;
            let user_buckets = self.user_buckets(campaign).await?;
            let coupons = self.coupons_of_user(campaign, user, user_buckets).await?;
            let lacks = told.is_some_and(|told| coupons.iter().all(|it| it.sequence != told));
            if !lacks || self.clock.now() >= until {
                let partition = self.codec.partition_of(campaign);
                let as_of = Position { log_epoch: self.log_epoch, partition, offset };
                return Ok(UserCoupons { coupons: coupons.iter().map(face).collect(), as_of });
            }
            self.clock.sleep(LOOK_EVERY).await;
        }
    }

    /// Returns the number of buckets of a campaign's by-user view. It never changes once a coupon was
    /// issued; before, an amendment may have changed it since the snapshot was read.
    async fn user_buckets(&self, campaign: &CampaignId) -> Result<u8, ServiceError> {
        let cached = self.campaigns.cached(campaign);
        let snapshot = match cached.filter(|snapshot| snapshot.edge.has_fixed_user_buckets()) {
            Some(snapshot) => Some(snapshot),
            None => self.campaigns.current(campaign).await?,
        };
        let definition = snapshot.as_ref().and_then(|snapshot| snapshot.edge.definition());
        Ok(definition.ok_or(ServiceError::UnknownCampaign)?.user_buckets)
    }

    async fn settled_below(&self, campaign: &CampaignId) -> Result<Offset, ServiceError> {
        let rows = self.partitions.read(self.codec.partition_of(campaign)).await?;
        Ok(settled_below(&rows, self.log_epoch, campaign))
    }
}
