//! Holding a campaign, releasing it, and taking holds over.

use std::collections::BTreeSet;

use super::{
    super::{
        campaign_holds::Holds,
        owned_campaign::{OwnedCampaign, Phase},
        window::Cleared,
    },
    Effect, Flow,
};
use crate::domain::{
    halt::HoldReason,
    ids::{CampaignId, Offset},
    rows::{Hold, HoldState},
};

impl Flow {
    /// Puts a campaign on hold, or leaves it on the hold that it has if that has the same reason and
    /// reaches as low.
    pub(super) fn hold(
        &mut self,
        campaign: &CampaignId,
        from: Offset,
        (reason, detail): (HoldReason, &str),
        effects: &mut Vec<Effect>,
    ) {
        self.proven(campaign);
        let partition = self.place.partition;
        // The window passes once the hold is durable, and the next owner lets pass what lies below it.
        // So the hold must cover all that is not durable: nobody waits for it.
        let from = self.first_undone(campaign).map_or(from, |undone| undone.min(from));
        let Some((owned, holds)) = self.owned(campaign) else { return };
        owned.note_reason(reason.text(detail));
        if holds.covers(reason, from) {
            return self.rest(campaign, effects);
        }
        let hold = holds.open(campaign, partition, from, (reason, detail));
        self.try_later(campaign, Phase::Opening, effects);
        effects.push(Effect::WriteHold { hold, mark: None });
    }

    /// Returns a position at or below the first one of a campaign at which not all is durable: a row, the
    /// mark that counts it, or a dead letter.
    fn first_undone(&self, campaign: &CampaignId) -> Option<Offset> {
        let owned = self.campaigns.get(campaign);
        let of_rows = owned.and_then(OwnedCampaign::first_undone);
        let others = [self.first_unmarked(campaign), self.acks.first_letter_of(campaign)];
        of_rows.into_iter().chain(others.into_iter().flatten()).min()
    }

    /// Puts a campaign back on the hold that it has.
    pub(super) fn rest(&mut self, campaign: &CampaignId, effects: &mut Vec<Effect>) {
        self.try_later(campaign, Phase::Held, effects);
        self.pass_window(campaign);
    }

    /// Lets the window pass under a durable hold.
    pub(super) fn pass_window(&mut self, campaign: &CampaignId) {
        let Some(owned) = self.campaigns.get_mut(campaign) else { return };
        let window = owned.clear();
        let mut freed = window.iter().map(|it| it.credit).sum();
        // The hold covers whatever no durable mark counts. So neither marks nor by-user rows that are
        // being written are waited for: all of it is derived again.
        if let Some(marking) = &mut self.marking {
            marking.leave(campaign);
        }
        self.forget_by_user(campaign);
        self.pass_unmarked(campaign);
        let holds = self.holds.get(campaign);
        for Cleared { offset, .. } in window {
            // A release passes when its hold is marked released. It keeps one credit until then.
            if holds.is_some_and(|holds| holds.is_releasing(offset)) {
                freed -= 1;
            } else {
                self.acks.done(offset);
            }
        }
        self.occupied.remove(campaign);
        self.sendable.remove(campaign);
        self.free(freed);
    }

    /// Stops a campaign whose hold begins, or was tried in vain.
    fn try_later(&mut self, campaign: &CampaignId, phase: Phase, effects: &mut Vec<Effect>) {
        effects.push(Effect::Stop { campaign: campaign.clone() });
        if let Some(owned) = self.campaigns.get_mut(campaign) {
            owned.try_later(self.now_ms);
        }
        self.replace(campaign, phase);
    }

    pub(super) fn hold_written(&mut self, hold: &Hold, effects: &mut Vec<Effect>) {
        self.hold_count.add(hold);
        let campaign = &hold.campaign;
        let Some((owned, holds)) = self.owned(campaign) else { return };
        match hold.state {
            HoldState::Open => {
                let released = holds.written_open(hold, owned.window());
                owned.held();
                self.pass_window(campaign);
                effects.extend(released.map(|hold| Effect::WriteHold { hold, mark: None }));
            }
            HoldState::Released => {
                let passing = holds.written_released(hold);
                let may_go_on = matches!(owned.phase(), Phase::Held) && !holds.is_open();
                if may_go_on {
                    owned.released();
                }
                for offset in passing {
                    self.acks.done(offset);
                    self.free(1);
                }
                if may_go_on {
                    self.catch_up(campaign, 0, effects);
                }
            }
            HoldState::Closed => {
                holds.written_closed();
                if !holds.is_held() {
                    owned.hold_closed();
                }
            }
        }
    }

    /// Takes over the holds in the store: all of them on assignment, later what another owner has
    /// written.
    pub(super) fn take_holds(&mut self, found: &[Hold], effects: &mut Vec<Effect>) {
        let mut news = BTreeSet::new();
        for hold in found {
            self.hold_count.add(hold);
            if self.take_hold(hold, effects) {
                news.insert(hold.campaign.clone());
            }
        }
        for campaign in news {
            effects.push(Effect::Stop { campaign: campaign.clone() });
            if self.holds.get(&campaign).is_some_and(Holds::may_retry) {
                self.catch_up(&campaign, 0, effects);
            } else {
                self.replace(&campaign, Phase::Held);
                self.pass_window(&campaign);
            }
        }
    }

    /// Takes over one hold. Returns whether its campaign must be held because of it.
    fn take_hold(&mut self, hold: &Hold, effects: &mut Vec<Effect>) -> bool {
        let is_new = self.is_new;
        let settled = hold.unsettled_from() >= self.durability.progress();
        // While this owner lives, only its own records decide about holds that it closed.
        let over = !hold.is_in_force() && (settled || !is_new);
        let holds = self.holds.entry(hold.campaign.clone()).or_default();
        holds.number_seen(hold.number);
        let phase = self.campaigns.get(&hold.campaign).map(OwnedCampaign::phase);
        // If records passed here under a hold that another owner has closed, those above its end
        // are undecided, and only this owner knows of them.
        let passed_here = matches!(phase, Some(Phase::Held)) && holds.is_in_force(hold);
        if over && !passed_here {
            // The owner that closed the hold may be gone, and then no other owner extends it. On
            // assignment no record of the campaign has passed here yet. Later the campaign must be
            // deciding, without a hold that this owner opened.
            let decides = matches!(phase, Some(Phase::Starting | Phase::Live { .. }));
            if is_new {
                holds.adopt(hold);
            } else if decides && !holds.is_held() && !holds.is_closed(hold) {
                holds.adopt(hold);
                self.durability.sweep_soon();
            }
            return false;
        }
        let has_place = self.campaigns.contains_key(&hold.campaign);
        self.enter(&hold.campaign, Phase::Held);
        // The hold does not cover what lies below its start. All of it must be durable first.
        let undone = self.first_undone(&hold.campaign);
        let uncovered = undone.is_some_and(|undone| undone < hold.unsettled_from());
        let Some((owned, holds)) = self.owned(&hold.campaign) else { return false };
        if uncovered && !has_place {
            self.start(&hold.campaign, 0, effects);
            return false;
        }
        if matches!(owned.phase(), Phase::Opening) || uncovered || holds.knows(hold) {
            return false;
        }
        holds.take(hold);
        owned.note_reason(hold.reason.clone());
        true
    }
}
