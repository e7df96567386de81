//! Looks at the by-user rows of campaigns that decide, and writes again those that have vanished.
//!
//! A node rests behind each page, whatever the number of its partitions and campaigns: in the
//! background, a few thousand rows a second are soon millions.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, TryStreamExt};
use ractor::ActorRef;

use super::{
    Environment,
    io::{self, readable},
    messages::PartitionMessage,
};
use crate::{
    domain::{
        coupon::Coupon,
        ids::{CampaignId, Offset, Partition, Sequence},
        rows::{CampaignRows, Row},
    },
    partition::{
        flow::Event,
        recovery::Contradiction,
        scrub::{REPAIRED_MAX, Scrub},
    },
    store::{Selection, StoreError},
    telemetry::{Chain, metrics},
};

/// What a look found: nothing that is still missing, or why the campaign must be held.
type Found = Result<(), Contradiction>;

/// A look at a campaign in the background.
pub(super) struct Look {
    pub(super) environment: Arc<Environment>,
    pub(super) partition: Partition,
    pub(super) campaign: CampaignId,
    pub(super) incarnation: u64,
    pub(super) consumer: ActorRef<PartitionMessage>,
}

impl Look {
    /// Looks once. If the store does not answer, the next look begins anew.
    pub(super) async fn run(self) {
        match self.look().await {
            Ok(Ok(())) => {}
            Ok(Err(contradiction)) => {
                let Self { campaign, incarnation, consumer, .. } = self;
                let event = Event::Contradicted { campaign, incarnation, contradiction };
                let _ended = consumer.cast(PartitionMessage::Event(event));
            }
            Err(error) => {
                let campaign = &self.campaign;
                tracing::debug!(%campaign, error = %Chain(&error), "by-user rows not looked at");
            }
        }
    }

    async fn look(&self) -> Result<Found, StoreError> {
        // What is settled stands in both views; a hold needs to reach no lower.
        let progress = self.environment.store.progress(self.partition).await?;
        let from = progress.map_or(0, |progress| progress.next);
        let pause = Duration::from_millis(self.environment.limits.scrub_pause_ms);
        let rows = self.environment.store.campaign(&self.campaign, self.partition).await;
        match readable(rows)? {
            Ok(rows) => look(&self.environment, &self.campaign, &rows, (from, Some(pause))).await,
            Err(detail) => Ok(Err(Contradiction::undecodable(from, detail))),
        }
    }
}

/// Looks at all by-user rows below a campaign's mark, which is among its `rows`, and writes missing ones
/// again. What cannot be restored is a contradiction from `from` on. With a pause, it rests behind
/// each page.
///
/// # Errors
/// The store does not answer.
pub(super) async fn look(
    environment: &Environment,
    campaign: &CampaignId,
    rows: &CampaignRows,
    (from, pause): (Offset, Option<Duration>),
) -> Result<Found, StoreError> {
    let Some(mut scrub) = Scrub::new(rows, environment.keys.clone()) else { return Ok(Ok(())) };
    for bucket in 0..scrub.buckets() {
        let mut pages = environment.store.by_user(campaign, bucket);
        while let Some(page) = pages.next().await {
            let page = match readable(page)? {
                Ok(page) => page,
                Err(detail) => return Ok(Err(Contradiction::undecodable(from, detail))),
            };
            page.iter().for_each(|row| scrub.take(bucket, row));
            if !page.is_empty() {
                rest(environment, pause).await;
            }
            tokio::task::yield_now().await;
        }
    }
    let mut next = 1;
    loop {
        let missing = scrub.missing(next);
        let Some(last) = missing.last() else { return Ok(Ok(())) };
        next = last + 1;
        if let Err(contradiction) = restore(environment, campaign, &scrub, &missing, from).await? {
            return Ok(Err(contradiction));
        }
        rest(environment, pause).await;
    }
}

/// Rests behind a page, while no other look of the node rests.
async fn rest(environment: &Environment, pause: Option<Duration>) {
    if let Some(pause) = pause {
        // The only error is a closed semaphore, and this one is never closed.
        let _permit = environment.shared.scrub.acquire().await.ok();
        environment.clock.sleep(pause).await;
    }
}

/// Writes the by-user rows of these coupons again, and reads them back.
async fn restore(
    environment: &Environment,
    campaign: &CampaignId,
    scrub: &Scrub,
    missing: &[Sequence],
    from: Offset,
) -> Result<Found, StoreError> {
    let (Some(first), Some(last)) = (missing.first(), missing.last()) else { return Ok(Ok(())) };
    // With coupons below: where one is missing, they say from where on.
    let below = first.saturating_sub(REPAIRED_MAX).max(1);
    let between = Selection::Between { first: below, last: *last };
    let pages = environment.store.coupons(campaign, between);
    let stored = match readable(pages.try_concat().await)? {
        Ok(stored) => stored,
        Err(detail) => return Ok(Err(Contradiction::undecodable(from, detail))),
    };
    let mut coupons: Vec<Coupon> = Vec::with_capacity(missing.len());
    for sequence in missing {
        match scrub.repairable(*sequence, &stored) {
            Ok(coupon) => coupons.push(coupon.clone()),
            Err(contradiction) => return Ok(Err(contradiction)),
        }
    }
    let count = coupons.len();
    tracing::warn!(%campaign, first, count, "by-user rows have vanished; they are written again");
    let rows: Vec<Row> = coupons.iter().cloned().map(Row::ByUser).collect();
    environment.store.write(&rows).await?;
    let missing = io::not_restored(environment, &coupons, |_| from).await;
    if missing.is_none() {
        metrics::by_user_rows_restored(count);
    }
    Ok(missing.map_or(Ok(()), Err))
}
