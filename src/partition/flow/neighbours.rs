//! How much of the window a campaign may have beside others.

use super::Flow;
use crate::{domain::ids::CampaignId, partition::owned_campaign::OwnedCampaign};

/// The part of the window that a campaign may have while others wait, or while it cannot decide.
const SHARE: usize = 4;

/// The part of the window that all campaigns may have together that cannot decide.
const STUCK_SHARE: usize = 2;

/// A campaign has neighbours while another one had a record within this time.
const NEIGHBOUR_MS: u64 = 10_000;

/// Which campaigns had records lately, and how many cannot decide.
#[derive(Debug, Default)]
pub(super) struct Neighbours {
    /// The campaign of the last record.
    latest: Option<CampaignId>,
    latest_ms: u64,
    /// When another one had a record.
    other_ms: Option<u64>,
    /// Campaigns that could not decide at the last tick, although they have records.
    stuck: usize,
}

impl Neighbours {
    /// Notes a record of a campaign.
    pub(super) fn saw(&mut self, campaign: &CampaignId, now_ms: u64) {
        if self.latest.as_ref() != Some(campaign) {
            self.other_ms = self.latest.replace(campaign.clone()).map(|_| self.latest_ms);
        }
        self.latest_ms = now_ms;
    }

    fn has_others(&self, campaign: &CampaignId, now_ms: u64) -> bool {
        let is_latest = self.latest.as_ref() == Some(campaign);
        let seen_ms = if is_latest { self.other_ms } else { Some(self.latest_ms) };
        seen_ms.is_some_and(|seen_ms| now_ms.saturating_sub(seen_ms) < NEIGHBOUR_MS)
    }
}

impl Flow {
    /// Returns a quarter of the window.
    pub(super) fn share(&self) -> usize {
        (self.limits.window_records / SHARE).max(1)
    }

    /// Returns the credit that a campaign may have now. One that decides has nearly all of the window
    /// while it is alone.
    pub(super) fn share_of(&self, campaign: &CampaignId, owned: &OwnedCampaign) -> usize {
        if !owned.moves(self.now_ms) {
            // Gathered rows keep credit as well.
            let together = self.limits.window_records / STUCK_SHARE;
            let together = together.saturating_sub(self.gathered_rows());
            return (together / self.neighbours.stuck.max(1)).clamp(1, self.share());
        }
        match self.neighbours.has_others(campaign, self.now_ms) {
            true => self.share().saturating_sub(owned.gathered().rows()).max(1),
            false => usize::MAX,
        }
    }

    /// Takes from campaigns what they have beyond their share of the window.
    pub(super) fn make_way(&mut self) {
        let owned = self.occupied.iter().filter_map(|campaign| self.campaigns.get(campaign));
        let is_stuck =
            |owned: &&OwnedCampaign| !owned.moves(self.now_ms) && owned.window().credit() > 0;
        self.neighbours.stuck = owned.filter(is_stuck).count();
        let mut ways = Vec::new();
        for campaign in &self.occupied {
            if let Some(owned) = self.campaigns.get(campaign) {
                let share = self.share_of(campaign, owned);
                if owned.window().credit() > share {
                    ways.push((campaign.clone(), share));
                }
            }
        }
        for (campaign, share) in ways {
            let owned = self.campaigns.get_mut(&campaign);
            if let Some(credit) = owned.and_then(|owned| owned.give_way(share)) {
                self.aside.note(campaign);
                self.free(credit);
            }
        }
    }
}
