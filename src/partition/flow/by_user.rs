//! When gathered by-user rows are written, and the marks that wait for them.

use std::collections::BTreeSet;

use super::{Effect, Flow};
use crate::domain::{ids::CampaignId, rows::Mark};

/// The part of the window that gathered rows may have together: each keeps one credit. At 10,000 coupons a
/// second these 2,048 are 0.2 s of them, twice what is gathered before a write.
const GATHERED_SHARE: usize = 8;

/// The campaigns whose by-user rows are not durable yet.
#[derive(Debug, Default)]
pub(super) struct ByUser {
    campaigns: BTreeSet<CampaignId>,
    /// Those for which something waits.
    wanted: BTreeSet<CampaignId>,
    /// All rows that are not durable.
    rows: usize,
    /// Those that a write could take now: no write of their campaign is under way.
    waiting: usize,
    /// When all of them were last written.
    written_ms: u64,
}

impl ByUser {
    pub(super) fn new(now_ms: u64) -> Self {
        Self { written_ms: now_ms, ..Self::default() }
    }
}

impl Flow {
    /// Returns how many rows a campaign may have gathered, with those that its batches in flight may add,
    /// before it waits for them.
    pub(super) fn gathered_max(&self) -> usize {
        let together = self.limits.window_records / GATHERED_SHARE;
        (together / self.by_user.campaigns.len().max(1)).clamp(1, self.share())
    }

    /// Returns the number of gathered rows of all campaigns.
    pub(super) fn gathered_rows(&self) -> usize {
        self.by_user.rows
    }

    /// Notes that a campaign has gathered further rows.
    pub(super) fn gathered(&mut self, campaign: &CampaignId, rows: usize) {
        let Some(owned) = self.campaigns.get(campaign) else { return };
        self.by_user.campaigns.insert(campaign.clone());
        self.by_user.rows += rows;
        if owned.gathered().may_write() {
            self.by_user.waiting += rows;
        }
        self.want_if_many(campaign);
    }

    /// Has the campaign's rows written early enough that the campaign does not wait for them.
    fn want_if_many(&mut self, campaign: &CampaignId) {
        let owned = self.campaigns.get(campaign);
        if owned.is_some_and(|it| it.gathered().rows() * 2 >= self.gathered_max()) {
            self.want_by_user(campaign);
        }
    }

    /// Has the campaign's rows written without delay.
    pub(super) fn want_by_user(&mut self, campaign: &CampaignId) {
        self.by_user.wanted.insert(campaign.clone());
    }

    /// Forgets the rows of a campaign: a hold covers them.
    pub(super) fn forget_by_user(&mut self, campaign: &CampaignId) {
        let Some(owned) = self.campaigns.get_mut(campaign) else { return };
        let (may_write, untaken) = (owned.gathered().may_write(), owned.gathered().untaken());
        let rows = owned.forget_gathered();
        self.by_user.waiting -= if may_write { untaken } else { 0 };
        self.by_user.rows -= rows;
        self.by_user.campaigns.remove(campaign);
        self.by_user.wanted.remove(campaign);
        self.free(rows);
    }

    /// Writes gathered rows: those of all campaigns when many have come together or some time has
    /// passed, and at any time those for which something waits.
    pub(super) fn write_by_user(&mut self, effects: &mut Vec<Effect>) {
        let ByUser { campaigns, wanted, waiting, written_ms, .. } = &mut self.by_user;
        if *waiting == 0 {
            // The end of a write asks again for what still waits.
            return wanted.clear();
        }
        let is_late = self.now_ms.saturating_sub(*written_ms) >= self.limits.progress_interval_ms;
        let is_due = is_late || *waiting as u64 >= self.limits.progress_records;
        if is_due {
            *written_ms = self.now_ms;
        }
        let chosen: Vec<_> = if is_due { campaigns } else { &*wanted }.iter().cloned().collect();
        for campaign in chosen {
            let owned = self.campaigns.get_mut(&campaign);
            if let Some((number, coupons)) = owned.and_then(|owned| owned.write_gathered()) {
                *waiting -= coupons.len();
                wanted.remove(&campaign);
                effects.push(Effect::WriteByUser { campaign, number, coupons });
            }
        }
    }

    /// Notes that rows of a campaign are durable. What waited for them goes on.
    pub(super) fn by_user_stored(
        &mut self,
        campaign: &CampaignId,
        number: u64,
        effects: &mut Vec<Effect>,
    ) {
        let Some(owned) = self.campaigns.get_mut(campaign) else { return };
        let rows = owned.gathered_stored(number);
        if rows == 0 {
            return; // A hold covers them.
        }
        let gathered = owned.gathered();
        self.by_user.waiting += gathered.untaken();
        self.by_user.rows -= rows;
        if gathered.rows() == 0 {
            self.by_user.campaigns.remove(campaign);
        }
        self.free(rows);
        self.want_if_many(campaign);
        self.write_version_marks(campaign, effects);
        self.write_ready_marks(effects);
    }

    /// Returns whether every by-user row that a mark counts is durable.
    pub(super) fn is_ready(&self, mark: &Mark) -> bool {
        let owned = self.campaigns.get(&mark.campaign);
        let first = owned.and_then(|owned| owned.gathered().first());
        first.is_none_or(|first| first >= mark.offset)
    }
}
