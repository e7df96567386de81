//! Loads a campaign's rows: the first half of every start.

use std::time::Instant;

use futures_util::StreamExt;

use super::{Environment, io::readable, task::until_done};
use crate::{
    domain::ids::{CampaignId, Offset},
    partition::recovery::{Contradiction, Recovered, Recovery},
    store::{Selection, StoreError},
    telemetry::metrics,
};

/// Why a campaign can't start.
#[derive(Debug)]
pub enum LoadFailure {
    /// Its rows contradict each other, or the log as far as it is known.
    Contradiction(Contradiction),
    /// A row stands above the end of the log: the log lost its tail. Halts the partition.
    AboveEnd {
        /// Where the row stands.
        offset: Offset,
        /// Where the log ends.
        end: Offset,
    },
}

/// Loads `campaign` as it was below `from`, with what the log must derive again from there on.
/// Repeats whatever the store does not answer; a row that can't be read is a contradiction.
pub(super) async fn load(
    environment: &Environment,
    campaign: &CampaignId,
    from: Offset,
) -> Result<Recovered, LoadFailure> {
    let started = Instant::now();
    let loaded = until_done("loading a campaign", || attempt(environment, campaign, from)).await;
    let recovered = loaded.map_err(LoadFailure::Contradiction)?;
    if let Some(offset) = recovered.expectations.until() {
        let partition = environment.codec.partition_of(campaign);
        let read = || environment.log.bounds(partition);
        let end = until_done("reading the end of the log", read).await.high;
        if offset >= end {
            return Err(LoadFailure::AboveEnd { offset, end });
        }
    }
    metrics::recovery(started.elapsed());
    Ok(recovered)
}

async fn attempt(
    environment: &Environment,
    campaign: &CampaignId,
    from: Offset,
) -> Result<Result<Recovered, Contradiction>, StoreError> {
    // For each attempt anew: campaigns whose rows can't be read would keep all others waiting.
    // Closing the semaphore would be the only error, and nobody closes it.
    let _permit = environment.shared.loads.acquire().await.ok();
    let partition = environment.codec.partition_of(campaign);
    let rows = match readable(environment.store.campaign(campaign, partition).await)? {
        Ok(rows) => rows,
        Err(detail) => return Ok(Err(Contradiction { from: 0, detail })),
    };
    let place = (environment.log_epoch, partition);
    let keys = environment.keys.clone();
    let mut recovery = match Recovery::new(campaign.clone(), place, from, rows, keys) {
        Ok(recovery) => recovery,
        Err(contradiction) => return Ok(Err(contradiction)),
    };
    let mut pages = environment.store.coupons(campaign, Selection::All);
    while let Some(page) = pages.next().await {
        let taken = match readable(page)? {
            Ok(page) => recovery.coupons(page),
            Err(detail) => Err(recovery.ends(detail)),
        };
        if let Err(contradiction) = taken {
            return Ok(Err(contradiction));
        }
        // A page is a few thousand rows; other campaigns decide between two of them.
        tokio::task::yield_now().await;
    }
    Ok(recovery.finish())
}
