//! The coupon store of a world.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::{FutureExt, StreamExt, TryStreamExt, stream};

use super::{
    link::{Failed, Link},
    world::Engine,
};
use crate::{
    domain::{
        definition::DefinitionVersion,
        ids::{CampaignId, Partition},
        rows::{Hold, Mark, Progress, Row},
    },
    store::{CouponPages, CouponStore, Layout, Selection, StoreError, memory::MemoryStore},
};

/// The port to the store.
pub(super) struct WorldStore {
    pub(super) link: Link,
    pub(super) rows: Arc<MemoryStore>,
}

impl WorldStore {
    async fn call<T: Send + 'static>(
        &self,
        name: &'static str,
        land: impl FnOnce(&MemoryStore) -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        let rows = self.rows.clone();
        let landed = self.link.call(Engine::Store, name, move || land(&rows)).await;
        landed.map_err(|failed| StoreError::new(name, failed))
    }
}

/// Returns the result of a call of the store in memory, which never waits.
fn at_once<T>(call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    call.now_or_never().unwrap_or_else(|| Err(StoreError::new("waiting", Failed::NoAnswer)))
}

#[async_trait]
impl CouponStore for WorldStore {
    async fn layout(&self, proposed: &Layout) -> Result<Layout, StoreError> {
        let proposed = proposed.clone();
        self.call("layout", move |store| at_once(store.layout(&proposed))).await?
    }

    async fn write(&self, rows: &[Row]) -> Result<(), StoreError> {
        let (world, weather) = (&self.link.world, self.link.weather());
        let partial = world.one_in(weather.partial);
        let mut rows = rows.to_vec();
        if partial {
            // Any of the rows may be those that land.
            let turned = world.below(rows.len() as u64) as usize;
            rows.rotate_left(turned);
            rows.truncate(world.below(rows.len() as u64) as usize);
        }
        self.call("write", move |store| at_once(store.write(&rows))).await??;
        match partial {
            true => Err(StoreError::new("write", Failed::NoAnswer)),
            false => Ok(()),
        }
    }

    async fn progress(&self, partition: Partition) -> Result<Option<Progress>, StoreError> {
        self.call("progress", move |store| at_once(store.progress(partition))).await?
    }

    async fn holds(&self, partition: Partition) -> Result<Vec<Hold>, StoreError> {
        self.call("holds", move |store| at_once(store.holds(partition))).await?
    }

    async fn campaign_holds(
        &self,
        campaign: &CampaignId,
        partition: Partition,
    ) -> Result<Vec<Hold>, StoreError> {
        let campaign = campaign.clone();
        let read = move |store: &MemoryStore| at_once(store.campaign_holds(&campaign, partition));
        self.call("campaign_holds", read).await?
    }

    async fn mark(&self, campaign: &CampaignId) -> Result<Option<Mark>, StoreError> {
        let campaign = campaign.clone();
        self.call("mark", move |store| at_once(store.mark(&campaign))).await?
    }

    async fn versions(&self, campaign: &CampaignId) -> Result<Vec<DefinitionVersion>, StoreError> {
        let campaign = campaign.clone();
        self.call("versions", move |store| at_once(store.versions(&campaign))).await?
    }

    fn coupons(&self, campaign: &CampaignId, selection: Selection) -> CouponPages {
        let (rows, campaign) = (self.rows.clone(), campaign.clone());
        let port = Self { link: self.link.clone(), rows };
        let read = async move {
            let pages = move |store: &MemoryStore| {
                at_once(store.coupons(&campaign, selection).try_collect::<Vec<_>>())
            };
            let pages = port.call("coupons", pages).await??;
            Ok::<_, StoreError>(stream::iter(pages).map(Ok))
        };
        stream::once(read).try_flatten().boxed()
    }

    async fn campaigns(
        &self,
        after: Option<&CampaignId>,
        limit: usize,
    ) -> Result<Vec<CampaignId>, StoreError> {
        let after = after.cloned();
        self.call("campaigns", move |store| at_once(store.campaigns(after.as_ref(), limit))).await?
    }
}
