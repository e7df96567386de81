//! Campaigns that keep progress back: they are started again, then put on hold, and holds are tried
//! again.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    super::{restart::Patience, skips::FORCE_AFTER_MS},
    Effect, Flow,
};
use crate::domain::{
    halt::HoldReason,
    ids::{CampaignId, Offset},
};

/// Interval of looks.
const LOOK_EVERY_MS: u64 = 1_000;

/// A tick that comes later than this begins every count anew: the process did not run meanwhile.
const TICK_LATE_MS: u64 = 1_000;

/// The owner looks at its partition's rows once a second. Without an answer for this long it is the
/// store that keeps progress back, not a campaign.
const STORE_SILENT_MS: u64 = 3_000;

/// After this long without an answer the owner tells no decisions: a skip may have been made meanwhile,
/// and be in force soon ([`FORCE_AFTER_MS`]).
const TELLS_WITHIN_MS: u64 = FORCE_AFTER_MS * 2 / 3;

/// When the flow looks at what keeps progress back.
#[derive(Debug)]
pub(super) struct KeptBackLook {
    looked_ms: u64,
    answered_ms: u64,
    was_late: bool,
}

impl KeptBackLook {
    pub(super) fn new(now_ms: u64) -> Self {
        Self { looked_ms: now_ms, answered_ms: now_ms, was_late: false }
    }

    /// Notes that the store has answered a look.
    pub(super) fn store_answered(&mut self, now_ms: u64) {
        self.answered_ms = now_ms;
    }

    /// Notes a tick, and how long after the one before it came.
    pub(super) fn ticks(&mut self, after_ms: u64) {
        self.was_late |= after_ms > TICK_LATE_MS;
    }

    /// Returns whether the owner knows the skips of its partition well enough to tell decisions.
    pub(super) fn may_tell(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.answered_ms) <= TELLS_WITHIN_MS
    }

    /// Returns the milliseconds since the last look, if the next one is due, and whether they count.
    fn due(&mut self, now_ms: u64) -> Option<(u64, bool)> {
        let passed = now_ms.saturating_sub(self.looked_ms);
        if passed < LOOK_EVERY_MS {
            return None;
        }
        self.looked_ms = now_ms;
        let is_silent = now_ms.saturating_sub(self.answered_ms) > STORE_SILENT_MS;
        let counts = !is_silent && !std::mem::take(&mut self.was_late);
        Some((passed, counts))
    }
}

impl Flow {
    pub(super) fn look_at_kept_back(&mut self, effects: &mut Vec<Effect>) {
        let Some((passed, counts)) = self.kept_back.due(self.now_ms) else { return };
        if counts {
            for (campaign, at) in self.positions_kept_back() {
                self.lose_patience(&campaign, at, passed, effects);
            }
            self.look_at_catch_ups(passed, effects);
        } else {
            self.campaigns.values_mut().for_each(|owned| owned.kept_back_anew());
        }
        self.try_again(effects);
    }

    /// Returns the campaigns that may keep progress back, and from where on a mark of theirs is not
    /// durable.
    fn positions_kept_back(&self) -> BTreeMap<CampaignId, Option<Offset>> {
        let awaited: BTreeSet<_> = self.marking.iter().flat_map(|it| it.awaited()).collect();
        let progress = self.durability.progress();
        let marks = awaited.into_iter().map(|campaign| (campaign.clone(), Some(progress)));
        let versions = self.unmarked.iter().rev();
        let versions = versions.map(|(offset, of)| (of.campaign().clone(), Some(*offset)));
        let others = self.occupied.iter().chain(self.aside.campaigns());
        let others = others.map(|campaign| (campaign.clone(), None));
        // Of a campaign's positions the last one stays, which is the lowest.
        others.chain(versions).chain(marks).collect()
    }

    fn lose_patience(
        &mut self,
        campaign: &CampaignId,
        unmarked: Option<Offset>,
        passed: u64,
        effects: &mut Vec<Effect>,
    ) {
        let progress = self.durability.progress();
        let Some(owned) = self.campaigns.get_mut(campaign) else { return };
        match owned.keeps_back(unmarked, passed) {
            Patience::Wait => {}
            Patience::Restart => {
                owned.note_reason("its rows were not stored in time".to_owned());
                if self.holds.get(campaign).is_none_or(|holds| !holds.is_held()) {
                    self.start(campaign, 0, effects);
                }
            }
            Patience::Hold => {
                let detail = "its rows were not loaded, or not stored, while the store answered";
                let from = unmarked.unwrap_or(progress);
                self.hold(campaign, from, (HoldReason::NotStored, detail), effects);
            }
        }
    }

    /// Tries campaigns again that rest on a hold.
    fn try_again(&mut self, effects: &mut Vec<Effect>) {
        let held = self.holds.iter().filter(|(_, holds)| holds.may_retry());
        let is_due = |campaign: &CampaignId| {
            self.campaigns.get(campaign).is_some_and(|owned| owned.is_try_due(self.now_ms))
        };
        let due: Vec<_> = held.map(|(campaign, _)| campaign.clone()).filter(is_due).collect();
        for campaign in due {
            self.catch_up(&campaign, 0, effects);
        }
    }
}
