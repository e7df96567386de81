//! The list of all campaigns: one list in memory, from which every page is cut.

use std::{ops::Range, sync::Arc, time::Duration};

use futures_util::{StreamExt, TryStreamExt, stream};
use parking_lot::Mutex;

use super::{
    NodeClock, ReadError,
    campaigns::{CampaignSnapshot, Campaigns},
    interface::{CampaignList, CampaignView, ServiceError},
    load::Load,
    tasks::Tasks,
};
use crate::{
    answer::{Moment, admission::CampaignState},
    domain::ids::{CampaignId, Position, Timestamp},
    store::{CouponStore, LISTING_MAX},
    wire::codec::Codec,
};

/// How long a list answers, from the start of its read. The rows that it was read from are up to 1 s
/// older, and views trail by 2 s at most.
const LIST_AGE_MAX: Duration = Duration::from_secs(1);

/// Most campaigns of the list: ten times as many as a node is sized for. Fewer where memory is short.
pub(crate) const LIST_MAX: usize = 100_000;

/// What a campaign of the list costs: 1 KiB in the list that answers, in the one that is being read and in
/// the one with the states of now; and its JSON, of each listener.
pub(crate) const LISTED_BYTES: usize = 4 * 1_024;

/// Campaigns of the list that are read at the same time.
const READS_MAX: usize = 16;

type ListResult = Result<Arc<CampaignList>, ServiceError>;

/// What the list is read with.
#[derive(Clone)]
pub(super) struct Parts {
    pub(super) store: Arc<dyn CouponStore>,
    pub(super) campaigns: Arc<Campaigns>,
    pub(super) viewer: Viewer,
    /// Most campaigns of the list.
    pub(super) listed: usize,
}

/// The list of all campaigns.
pub(super) struct Listing {
    parts: Parts,
    tasks: Arc<Tasks>,
    /// The latest read, and when it began.
    latest: Mutex<Option<(Moment, Arc<Load<ListResult>>)>>,
    /// The list that was answered last.
    shown: Mutex<Option<Shown>>,
}

/// A list with the states of a time: campaigns open and close between two reads.
struct Shown {
    /// The list as it was read.
    read: Arc<CampaignList>,
    /// When these states hold: from the last opening or closing to the next.
    when: Range<Timestamp>,
    list: Arc<CampaignList>,
}

impl Shown {
    fn at(wall: Timestamp, read: Arc<CampaignList>) -> Self {
        let state = |view: &CampaignView| {
            CampaignState::of(&view.definition, view.hold.is_some(), view.issued, wall)
        };
        let is_as_read = read.0.iter().all(|view| view.state == state(view));
        let stated = |view: &CampaignView| CampaignView { state: state(view), ..view.clone() };
        let list = match is_as_read {
            true => read.clone(),
            false => Arc::new(CampaignList(read.0.iter().map(stated).collect())),
        };
        let turns = read.0.iter().flat_map(|view| {
            let terms = &view.definition.terms;
            terms.opens_at.into_iter().chain(terms.closes_at)
        });
        let (past, coming): (Vec<_>, Vec<_>) = turns.partition(|turn| *turn <= wall);
        let from = past.into_iter().max().unwrap_or(Timestamp(i64::MIN));
        let to = coming.into_iter().min().unwrap_or(Timestamp(i64::MAX));
        Self { read, when: from..to, list }
    }
}

impl Listing {
    pub(super) fn new(parts: Parts, tasks: Arc<Tasks>) -> Self {
        Self { parts, tasks, latest: Mutex::default(), shown: Mutex::default() }
    }

    /// Returns the list, at most 1 s old, with the states of now. All who ask within a second share
    /// one read and its result.
    pub(super) async fn current(&self) -> ListResult {
        let now = self.parts.viewer.clock.now();
        let is_current = |(begun, load): &(Moment, Arc<Load<ListResult>>)| {
            !load.is_done() || now.saturating_sub(*begun) <= LIST_AGE_MAX
        };
        let load = {
            let mut latest = self.latest.lock();
            match latest.as_ref().filter(|latest| is_current(latest)) {
                Some((_, load)) => load.clone(),
                None => latest.insert((now, self.begin())).1.clone(),
            }
        };
        let read = load.finished().await?;
        Ok(self.stated(read, self.parts.viewer.clock.wall()))
    }

    /// Returns what was read, with the states at `wall`.
    fn stated(&self, read: Arc<CampaignList>, wall: Timestamp) -> Arc<CampaignList> {
        let mut shown = self.shown.lock();
        let is_shown = |it: &&Shown| Arc::ptr_eq(&it.read, &read) && it.when.contains(&wall);
        match shown.as_ref().filter(is_shown) {
            Some(it) => it.list.clone(),
            None => shown.insert(Shown::at(wall, read)).list.clone(),
        }
    }

    /// Makes the next caller read the list anew: a campaign was changed on this node.
    pub(super) fn forget(&self) {
        *self.latest.lock() = None;
    }

    /// Starts a read. A task reads, so that a client that goes away ends no read of others.
    fn begin(&self) -> Arc<Load<ListResult>> {
        let load = Arc::new(Load::queued());
        let (parts, entry) = (self.parts.clone(), Entry(load.clone()));
        self.tasks.once("list the campaigns", async move {
            entry.0.done(parts.read().await.map(Arc::new));
        });
        load
    }
}

/// Fails a read when dropped before its end, so that nobody waits for it.
struct Entry(Arc<Load<ListResult>>);

impl Drop for Entry {
    fn drop(&mut self) {
        if !self.0.is_done() {
            let cancelled = ReadError::Store("the read was cancelled".to_owned());
            self.0.done(Err(cancelled.into()));
        }
    }
}

impl Parts {
    async fn read(&self) -> Result<CampaignList, ServiceError> {
        let mut campaigns: Vec<CampaignView> = Vec::new();
        let mut after: Option<CampaignId> = None;
        loop {
            let page = self.store.campaigns(after.as_ref(), LISTING_MAX);
            let what = || "listing campaigns".to_owned();
            let ids = self.viewer.clock.read(page, what).await?;
            let is_last = ids.len() < LISTING_MAX;
            after = ids.last().cloned();
            let views = stream::iter(ids.into_iter().map(|id| self.view_of(id)));
            let views: Vec<_> = views.buffered(READS_MAX).try_collect().await?;
            campaigns.extend(views.into_iter().flatten());
            if campaigns.len() > self.listed {
                campaigns.truncate(self.listed);
                let last = campaigns.last().map(|view| &view.campaign);
                tracing::warn!(
                    summed = true,
                    listed = self.listed,
                    ?last,
                    "too many campaigns, the list ends here"
                );
                return Ok(CampaignList(campaigns));
            }
            if is_last {
                return Ok(CampaignList(campaigns));
            }
        }
    }

    /// Returns the view of a campaign, or none if nothing true can be said of it: that must not cost
    /// the others their places.
    async fn view_of(&self, campaign: CampaignId) -> Result<Option<CampaignView>, ServiceError> {
        let snapshot = match self.campaigns.for_listing(&campaign).await {
            Ok(Some(snapshot)) => snapshot,
            Ok(None) => return Ok(None),
            Err(error) => return left_out(&campaign, error.into()),
        };
        match self.viewer.view(&campaign, &snapshot) {
            Ok(view) => Ok(Some(view)),
            Err(error) => left_out(&campaign, error),
        }
    }
}

/// Leaves out of the list what is halted: asked for by its id, it says why.
fn left_out(
    campaign: &CampaignId,
    error: ServiceError,
) -> Result<Option<CampaignView>, ServiceError> {
    let reason = match error {
        ServiceError::Halted { reason } => reason,
        ServiceError::UnknownCampaign => return Ok(None),
        error => return Err(error),
    };
    tracing::warn!(summed = true, %campaign, reason, "campaign left out of the list");
    Ok(None)
}

/// Builds views of campaigns from snapshots.
#[derive(Debug, Clone)]
pub(super) struct Viewer {
    pub(super) clock: NodeClock,
    pub(super) codec: Codec,
    pub(super) log_epoch: u32,
}

impl Viewer {
    /// Builds the view of a campaign.
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
