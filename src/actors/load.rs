//! Loads a campaign's rows: the first step of every start.

use futures_util::StreamExt;

use super::{Environment, io::readable, scrub, task::until_done};
use crate::{
    domain::{
        halt::{Halt, HaltReason},
        ids::{CampaignId, Offset},
    },
    partition::{
        recovery::{Contradiction, Recovered, Recovery},
        restart::LoadStep,
        scrub::released,
    },
    store::{Selection, StoreError},
    telemetry::metrics,
};

/// Why a campaign cannot start.
#[derive(Debug)]
pub enum LoadFailure {
    /// The campaign must go on hold: its rows contradict each other, or cannot be decoded.
    Contradiction(Contradiction),
    /// The partition must halt.
    Halt(Halt),
}

/// Loads the state of `campaign` below `from`, with the rows that the log must derive again from
/// there on, and tells how that goes. Retries without end while the store does not answer.
pub(super) async fn load(
    environment: &Environment,
    campaign: &CampaignId,
    from: Offset,
    tell: impl Fn(LoadStep) + Sync,
) -> Result<Recovered, LoadFailure> {
    let started = environment.clock.instant();
    let loaded = until_done(environment, "loading a campaign", || {
        attempt(environment, campaign, from, &tell)
    })
    .await;
    let recovered = loaded.map_err(LoadFailure::Contradiction)?;
    if let Some(offset) = recovered.expectations.until() {
        let partition = environment.codec.partition_of(campaign);
        let read = || environment.log.bounds(partition);
        let end = until_done(environment, "reading the end of the log", read).await.high;
        if offset >= end {
            // The row was derived from a record that the log no longer has.
            let detail =
                format!("{campaign} has a row at offset {offset}, but the log ends at {end}");
            return Err(LoadFailure::Halt(Halt::new(HaltReason::RowAboveEnd, detail)));
        }
    }
    metrics::recovery(environment.clock.instant().saturating_duration_since(started));
    Ok(recovered)
}

async fn attempt(
    environment: &Environment,
    campaign: &CampaignId,
    from: Offset,
    tell: &(impl Fn(LoadStep) + Sync),
) -> Result<Result<Recovered, Contradiction>, StoreError> {
    // One permit per attempt: a campaign that is retried must not keep others from loading. The
    // only error is a closed semaphore, and this one is never closed.
    tell(LoadStep::Waits);
    let _permit = environment.shared.loads.acquire().await.ok();
    tell(LoadStep::Begins);
    let partition = environment.codec.partition_of(campaign);
    let rows = match readable(environment.store.campaign(campaign, partition).await)? {
        Ok(rows) => rows,
        Err(detail) => return Ok(Err(Contradiction::undecodable(0, detail))),
    };
    if let Some(from) = released(&rows)
        && let Err(contradiction) = scrub::look(environment, campaign, &rows, (from, None)).await?
    {
        return Ok(Err(contradiction));
    }
    let place = environment.place(partition);
    let keys = environment.keys.clone();
    let mut recovery = match Recovery::new(campaign.clone(), place, from, rows, keys) {
        Ok(recovery) => recovery,
        Err(contradiction) => return Ok(Err(contradiction)),
    };
    let mut pages = environment.store.coupons(campaign, Selection::All);
    while let Some(page) = pages.next().await {
        let taken = match readable(page)? {
            Ok(page) => recovery.coupons(page),
            Err(detail) => Err(recovery.undecodable(detail)),
        };
        if let Err(contradiction) = taken {
            return Ok(Err(contradiction));
        }
        tell(LoadStep::Page);
        // A page is a few thousand rows; other campaigns decide between two of them.
        tokio::task::yield_now().await;
    }
    Ok(recovery.finish())
}
