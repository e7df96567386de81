//! Looks up which of the campaigns that nobody knows exist.

use futures_util::{StreamExt, TryStreamExt, stream};

use super::{Environment, task::until_done};
use crate::{
    domain::ids::{CampaignId, Partition},
    partition::{acks::id_hash, flow::Wanted},
    store::StoreError,
};

/// Campaigns that are looked up at once, one by one.
const LOOKUPS_AT_ONCE: usize = 16;

/// Returns which of the wanted campaigns have a version, a mark or a place in the listing. Retries
/// without end while the store does not answer.
pub(super) async fn known(
    environment: &Environment,
    partition: Partition,
    wanted: Wanted,
) -> Vec<CampaignId> {
    let read = || async {
        match &wanted {
            Wanted::These(campaigns) => these(environment, campaigns).await,
            Wanted::Hashed(hashes) => hashed(environment, partition, hashes).await,
        }
    };
    until_done(environment, "looking up campaigns", read).await
}

async fn these(
    environment: &Environment,
    campaigns: &[CampaignId],
) -> Result<Vec<CampaignId>, StoreError> {
    let exists = |campaign: CampaignId| async move {
        let exists = environment.store.exists(&campaign).await?;
        Ok(exists.then_some(campaign))
    };
    let known = stream::iter(campaigns.to_vec()).map(exists).buffer_unordered(LOOKUPS_AT_ONCE);
    known.try_filter_map(async |campaign| Ok(campaign)).try_collect().await
}

async fn hashed(
    environment: &Environment,
    partition: Partition,
    hashes: &[u32],
) -> Result<Vec<CampaignId>, StoreError> {
    let mut pages = environment.store.known();
    let mut known = Vec::new();
    while let Some(page) = pages.next().await {
        known.extend(page?.into_iter().filter(|campaign| {
            hashes.binary_search(&id_hash(campaign)).is_ok()
                && environment.codec.partition_of(campaign) == partition
        }));
    }
    // The pages of versions, marks and listing repeat each campaign.
    known.sort_unstable();
    known.dedup();
    Ok(known)
}
