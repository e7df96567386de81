//! What the node knows of campaigns: one read of the store at a time for each, shared by all who
//! wait for it, and the latest states kept within a bound.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::sync::{Semaphore, watch};

use super::{
    Failure, NodeClock, STORE_TIMEOUT, chain,
    model::Refused,
    partitions::Partitions,
    tasks::{Tasks, lock},
    waiters::Waiters,
};
use crate::{
    answer::{
        Moment,
        admission::{AdmissionView, CampaignState, EDGE_AGE_MAX, Unusable},
        recent::Recent,
    },
    domain::{
        definition::Terms,
        ids::{CampaignId, Offset},
        invariant::Invariant,
        keys::Keys,
        rows::Hold,
    },
    store::CouponStore,
    telemetry::metrics,
    wire::codec::Codec,
};

/// Campaigns whose state is kept: the 10,000 that a node is built for, and room; about 1 KiB each.
const CAMPAIGNS_MAX: usize = 16_384;

/// Latest definition versions kept of one campaign; older positions are answered by a read.
const VERSIONS_KEPT_MAX: usize = 64;

/// Campaigns that are read, or wait for it, at once; more are refused.
const FLIGHTS_MAX: usize = 1_024;

/// Campaigns that are read at the same time: enough to hide a round trip, few enough that the
/// owner's writes go on.
const READS_MAX: usize = 32;

/// How long a request of a campaign that was idle or shut waits to be answered by its present
/// state. After that it goes to the log, which always knows.
const PRESENT_WAIT: Duration = Duration::from_millis(100);

/// What one read of a campaign gave.
#[derive(Debug, Clone)]
pub(super) struct Known {
    /// Its state.
    pub(super) edge: AdmissionView,
    /// The terms of its first definition, if it has one.
    pub(super) first: Option<Terms>,
    /// Its holds that are not closed, by `from`.
    pub(super) holds: Vec<Hold>,
}

impl Known {
    /// The hold that quarantines the campaign, if any.
    pub(super) fn quarantine(&self) -> Option<&Hold> {
        self.holds.first()
    }

    /// Refuses what a quarantined campaign does not do.
    pub(super) fn refuse_quarantined(&self) -> Result<(), Refused> {
        match self.quarantine() {
            Some(hold) => Err(Refused::Halted {
                reason: format!("the campaign is quarantined: {}", hold.reason),
            }),
            None => Ok(()),
        }
    }
}

/// A finished read; `None`: there is no such campaign.
pub(super) type ReadResult = Result<Option<Arc<Known>>, Failure>;

#[derive(Debug, Clone)]
enum Flight {
    Queued,
    Reading,
    Done(ReadResult),
}

struct Kept {
    known: Arc<Known>,
    tried_at: Moment,
}

struct State {
    kept: Recent<CampaignId, Kept>,
    flights: BTreeMap<CampaignId, watch::Receiver<Flight>>,
}

/// What [`Campaigns`] works with.
pub(super) struct Parts {
    pub(super) store: Arc<dyn CouponStore>,
    pub(super) codec: Codec,
    pub(super) keys: Arc<Keys>,
    pub(super) clock: NodeClock,
    pub(super) waiters: Arc<Waiters>,
    pub(super) partitions: Arc<Partitions>,
    pub(super) tasks: Arc<Tasks>,
}

/// The campaigns that this node knows.
pub(super) struct Campaigns {
    parts: Parts,
    reads: Semaphore,
    state: Mutex<State>,
}

impl Campaigns {
    pub(super) fn new(parts: Parts) -> Self {
        let state = State { kept: Recent::new(CAMPAIGNS_MAX), flights: BTreeMap::new() };
        Self { parts, reads: Semaphore::new(READS_MAX), state: Mutex::new(state) }
    }

    /// The state kept of `campaign`, however old.
    pub(super) fn kept(&self, campaign: &CampaignId) -> Option<Arc<Known>> {
        lock(&self.state).kept.get(campaign).map(|kept| kept.known.clone())
    }

    /// The state kept of `campaign` if it is young enough to refuse by and to show.
    pub(super) fn fresh(&self, campaign: &CampaignId) -> Option<Arc<Known>> {
        self.kept(campaign).filter(|known| known.edge.is_fresh(self.parts.clock.now()))
    }

    /// The state by which a request is admitted. Under traffic it costs no read: one task reads
    /// the campaign once a second, and requests in between go by what is kept, or to the log. A
    /// campaign that was idle, or that issued nothing when it was last looked at, is read first, if
    /// the store answers quickly; an unknown one is read in any case.
    pub(super) async fn for_issue(self: &Arc<Self>, campaign: &CampaignId) -> ReadResult {
        let now = self.parts.clock.now();
        let Some((known, tried_at)) = self.kept_with_try(campaign) else {
            return self.known_to_store(campaign).await;
        };
        if known.edge.is_fresh(now) {
            return Ok(Some(known));
        }
        let tried = now.saturating_sub(tried_at) <= EDGE_AGE_MAX;
        let flight = match tried {
            true => lock(&self.state).flights.get(campaign).cloned(),
            false => self.join(campaign).ok().map(|(flight, _)| flight),
        };
        let idle = known.edge.age(now) > 2 * EDGE_AGE_MAX;
        let figures = known.edge.figures(self.parts.clock.wall());
        let shut = figures.is_some_and(|figures| figures.state != CampaignState::Open);
        let Some(flight) = flight.filter(|_| idle || shut) else { return Ok(Some(known)) };
        match tokio::time::timeout(PRESENT_WAIT, landed(flight)).await {
            Ok(Ok(Some(read))) => Ok(Some(read)),
            _ => Ok(Some(known)),
        }
    }

    /// The state of `campaign` for a view: at most a second old.
    pub(super) async fn for_view(self: &Arc<Self>, campaign: &CampaignId) -> ReadResult {
        match self.fresh(campaign) {
            Some(known) => Ok(Some(known)),
            None => self.known_to_store(campaign).await,
        }
    }

    /// A state whose read began after this call.
    pub(super) async fn now(self: &Arc<Self>, campaign: &CampaignId) -> ReadResult {
        let (flight, begun) = self.join(campaign)?;
        let result = landed(flight).await;
        if !begun {
            return result;
        }
        // Whoever flies now took off after the flight that was under way at the call had landed.
        landed(self.join(campaign)?.0).await
    }

    /// Whether the store knows `campaign`: a read under way may say yes; only one that began
    /// after this call may say no.
    async fn known_to_store(self: &Arc<Self>, campaign: &CampaignId) -> ReadResult {
        let (flight, begun) = self.join(campaign)?;
        match landed(flight).await {
            Ok(Some(known)) => Ok(Some(known)),
            result if !begun => result,
            _ => landed(self.join(campaign)?.0).await,
        }
    }

    /// A state for a listing: what is kept if it is young enough, otherwise a read of its own
    /// that is not kept, so that a listing does not push out what traffic uses.
    pub(super) async fn for_listing(&self, campaign: &CampaignId) -> ReadResult {
        if let Some(known) = self.fresh(campaign) {
            return Ok(Some(known));
        }
        let _permit = self.reads.acquire().await;
        self.read(campaign).await
    }

    fn kept_with_try(&self, campaign: &CampaignId) -> Option<(Arc<Known>, Moment)> {
        let mut state = lock(&self.state);
        state.kept.get(campaign).map(|kept| (kept.known.clone(), kept.tried_at))
    }

    /// Joins the read of `campaign` that is under way, or begins one; also tells whether it had
    /// begun to read already.
    fn join(
        self: &Arc<Self>,
        campaign: &CampaignId,
    ) -> Result<(watch::Receiver<Flight>, bool), Failure> {
        let mut state = lock(&self.state);
        if let Some(flight) = state.flights.get(campaign) {
            let begun = !matches!(*flight.borrow(), Flight::Queued);
            return Ok((flight.clone(), begun));
        }
        if state.flights.len() >= FLIGHTS_MAX {
            return Err(Failure::Crowded);
        }
        let (progress, flight) = watch::channel(Flight::Queued);
        state.flights.insert(campaign.clone(), flight.clone());
        if let Some(kept) = state.kept.get(campaign) {
            kept.tried_at = self.parts.clock.now();
        }
        drop(state);
        let ending = Ending { campaigns: self.clone(), campaign: campaign.clone() };
        self.parts.tasks.once("read a campaign", async move {
            let campaigns = ending.campaigns.clone();
            let campaign = ending.campaign.clone();
            let _permit = campaigns.reads.acquire().await;
            progress.send_replace(Flight::Reading);
            let result = campaigns.read(&campaign).await;
            let result = campaigns.keep(&campaign, result);
            // The flight is off the waiters before it lands: whoever joins later gets another.
            drop(ending);
            progress.send_replace(Flight::Done(result));
        });
        Ok((flight, false))
    }

    fn keep(&self, campaign: &CampaignId, result: ReadResult) -> ReadResult {
        let mut state = lock(&self.state);
        let before = state.kept.get(campaign);
        let Ok(read) = result else {
            let now = self.parts.clock.now();
            before.into_iter().for_each(|kept| kept.tried_at = now);
            return result;
        };
        let vanished = before.as_ref().is_some_and(|before| {
            let before = &before.known.edge;
            match &read {
                Some(read) => read.edge.lost_versions(before),
                None => before.latest().is_some(),
            }
        });
        if vanished {
            metrics::violation(Invariant::StopRatherThanLie);
            tracing::error!(%campaign, "definition versions vanished from the store");
            let reason = format!("definition versions of {campaign} vanished from the store");
            return Err(Failure::Contradiction(reason));
        }
        if let Some(read) = &read {
            let tried_at = read.edge.read_at;
            let kept = Kept { known: shortened(read), tried_at };
            state.kept.insert(campaign.clone(), kept);
        }
        Ok(read)
    }

    /// Reads progress, then holds, mark and versions.
    async fn read(&self, campaign: &CampaignId) -> ReadResult {
        let Parts { store, codec, keys, clock, waiters, partitions, .. } = &self.parts;
        let read_at = clock.now();
        let partition = codec.partition_of(campaign);
        let progress = partitions.progress(&*partitions.read(partition).await?);
        let stored_below = waiters.watermark(partition).unwrap_or(0).max(progress);
        let answer = tokio::time::timeout(STORE_TIMEOUT, store.campaign(campaign, partition)).await;
        let rows = match answer {
            Ok(Ok(rows)) => rows,
            Ok(Err(error)) => return Err(Failure::Store(chain(&error))),
            Err(_) => return Err(Failure::Store(format!("reading {campaign} took too long"))),
        };
        let in_force = rows.holds.iter().filter(|hold| hold.is_in_force());
        let mut holds: Vec<Hold> = in_force.cloned().collect();
        holds.sort_by_key(|hold| (hold.from, hold.number));
        match AdmissionView::of_rows(read_at, (stored_below, progress), campaign, rows, keys) {
            Ok(edge) => {
                let first = edge.versions.first().map(|version| version.definition.terms.clone());
                Ok(Some(Arc::new(Known { edge, first, holds })))
            }
            Err(Unusable::Unknown) => Ok(None),
            Err(Unusable::Altered(offset)) => Err(altered(campaign, offset)),
        }
    }

    /// Definition versions among which is the one in effect at `offset`, a settled position.
    pub(super) async fn known_at(
        self: &Arc<Self>,
        campaign: &CampaignId,
        offset: Offset,
    ) -> ReadResult {
        match self.kept(campaign) {
            Some(known) if known.edge.knows_version_at(offset) => Ok(Some(known)),
            _ => self.now(campaign).await,
        }
    }
}

/// Takes its flight off the waiters, also when the read panics or is ended.
struct Ending {
    campaigns: Arc<Campaigns>,
    campaign: CampaignId,
}

impl Drop for Ending {
    fn drop(&mut self) {
        lock(&self.campaigns.state).flights.remove(&self.campaign);
    }
}

async fn landed(mut flight: watch::Receiver<Flight>) -> ReadResult {
    let done = flight.wait_for(|flight| matches!(flight, Flight::Done(_))).await;
    match done.as_deref() {
        Ok(Flight::Done(result)) => result.clone(),
        _ => Err(Failure::Store("the read was ended".to_owned())),
    }
}

/// `known` with no more versions than are kept.
fn shortened(known: &Arc<Known>) -> Arc<Known> {
    let spare = known.edge.versions.len().saturating_sub(VERSIONS_KEPT_MAX);
    if spare == 0 {
        return known.clone();
    }
    let mut shorter = Known::clone(known);
    shorter.edge.versions.drain(..spare);
    Arc::new(shorter)
}

/// A definition version that this node would decide by is not what was written.
fn altered(campaign: &CampaignId, offset: Offset) -> Failure {
    metrics::violation(Invariant::StopRatherThanLie);
    tracing::error!(%campaign, offset, "a definition version is not what was written");
    Failure::Contradiction(format!("the definition version of {campaign} at {offset} was changed"))
}
