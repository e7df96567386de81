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

    /// Returns the list, at most 1 s old, with the states of now and every definition that this node has
    /// heard of. All who ask within a second share one read and its result.
    pub(super) async fn current(&self) -> ListResult {
        let clock = &self.parts.viewer.clock;
        let asked = clock.now();
        loop {
            let (load, suffices) = self.read_for(asked);
            let read = load.finished().await?;
            if suffices {
                return Ok(self.stated(read, clock.wall()));
            }
        }
    }

    /// Returns the read for a call that was made at `asked`, or the one that must end before it: there is
    /// one at a time. Also returns whether it suffices.
    fn read_for(&self, asked: Moment) -> (Arc<Load<ListResult>>, bool) {
        let Viewer { clock, campaigns, .. } = &self.parts.viewer;
        let changed_at = campaigns.definitions_changed_at();
        let (now, mut latest) = (clock.now(), self.latest.lock());
        if let Some((begun, load)) = &*latest {
            let suffices = asked <= *begun || changed_at.is_none_or(|at| at < *begun);
            let is_young = now.saturating_sub(*begun) <= LIST_AGE_MAX;
            if !load.is_done() || suffices && is_young {
                return (load.clone(), suffices);
            }
        }
        (latest.insert((now, self.begin())).1.clone(), true)
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
        let snapshot = match self.viewer.campaigns.for_listing(&campaign).await {
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

/// Builds views of campaigns from snapshots, and from what this node has heard since.
#[derive(Clone)]
pub(super) struct Viewer {
    pub(super) clock: NodeClock,
    pub(super) codec: Codec,
    pub(super) log_epoch: u32,
    pub(super) campaigns: Arc<Campaigns>,
}

impl Viewer {
    /// Builds the view of a campaign.
    pub(super) fn view(
        &self,
        campaign: &CampaignId,
        snapshot: &CampaignSnapshot,
    ) -> Result<CampaignView, ServiceError> {
        let figures = snapshot.edge.figures(self.clock.wall());
        let (Some(figures), Some(latest)) = (figures, snapshot.edge.latest()) else {
            // A hold can be written before the first version row, or that row has vanished.
            snapshot.refuse_quarantined()?;
            return Err(ServiceError::UnknownCampaign);
        };
        let view = CampaignView {
            campaign: campaign.clone(),
            state: figures.state,
            definition: latest.definition.clone(),
            issued: figures.issued,
            remaining: figures.remaining,
            as_of: Position {
                log_epoch: self.log_epoch,
                partition: self.codec.partition_of(campaign),
                offset: figures.as_of,
            },
            version: latest.position.offset,
            hold: snapshot.quarantine().cloned(),
        };
        Ok(self.freshened(&view).unwrap_or(view))
    }

    /// Returns the view with the figures that this node has heard, if they are newer. A coupon of
    /// sequence s at its own position O says that exactly s were issued below O + 1. That holds under
    /// the definition in effect there and under all later ones.
    pub(super) fn freshened(&self, view: &CampaignView) -> Option<CampaignView> {
        let heard = self.campaigns.heard(&view.campaign)?;
        let is_newer = heard.issued > view.issued || heard.below > view.as_of.offset;
        if !is_newer || heard.version > view.version {
            return None;
        }
        let CampaignView { definition, hold, .. } = view;
        let issued = view.issued.max(heard.issued);
        let as_of = Position { offset: view.as_of.offset.max(heard.below), ..view.as_of };
        Some(CampaignView {
            state: CampaignState::of(definition, hold.is_some(), issued, self.clock.wall()),
            issued,
            remaining: definition.terms.quota.saturating_sub(issued),
            as_of,
            ..view.clone()
        })
    }
}
