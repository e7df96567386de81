//! Holds: putting a campaign on one, releasing it, and replaying it up to the live position.

use std::collections::BTreeSet;

use super::{
    super::{
        fold::Batch,
        lane::{Lane, Phase},
        restart::Failures,
    },
    Effect, Flow,
};
use crate::domain::{
    campaign::At,
    ids::{CampaignId, Offset},
    record::Record,
    rows::{Hold, HoldKind, HoldState},
};
use crate::planted;

impl Flow {
    /// Tries a held campaign again from its hold on. What was kept passes: the hold is durable.
    pub(super) fn catch_up(
        &mut self,
        campaign: &CampaignId,
        delay_ms: u64,
        effects: &mut Vec<Effect>,
    ) {
        self.pass_kept(campaign, effects);
        self.incarnations += 1;
        let Some(lane) = self.lanes.get_mut(campaign) else { return };
        let Some(from) = lane.held_from() else { return };
        // Whoever closed the hold may have read further: what is still to be read live is decided
        // then, not taken from its rows.
        let from = from.min(self.acks.position());
        lane.restart(self.incarnations, Phase::CatchingUp);
        let from = if planted!(CatchUpFromLive) { self.acks.position() } else { from };
        lane.start_from = from;
        let incarnation = lane.incarnation;
        effects.push(Effect::Start { campaign: campaign.clone(), incarnation, from, delay_ms });
    }

    pub(super) fn replayed(
        &mut self,
        campaign: CampaignId,
        incarnation: u64,
        mut records: Vec<(At, Record)>,
        read_to: Offset,
        effects: &mut Vec<Effect>,
    ) {
        let position = self.acks.position();
        let Some(lane) = self.lanes.get_mut(&campaign) else { return };
        if lane.incarnation != incarnation || lane.phase != Phase::CatchingUp || lane.replaying {
            return;
        }
        lane.replaying = true;
        if planted!(ReplaySkipsOne) && !records.is_empty() {
            records.remove(0);
        }
        if read_to >= position || planted!(ReplayEndsEarly) {
            // From here on the campaign is live; its hold is closed once this chunk is stored.
            lane.met = true;
            lane.phase = Phase::Live;
            lane.floor = position;
            // What the replay read beyond is read live, too.
            records.retain(|(at, _)| at.offset < position);
        }
        let batch = Batch { records, passed: read_to.min(position) };
        effects.push(Effect::Send { campaign, incarnation, batch });
    }

    /// Puts a campaign on hold, or leaves it on the one that it has where that reaches as low.
    pub(super) fn hold(
        &mut self,
        campaign: &CampaignId,
        kind: HoldKind,
        from: Offset,
        reason: String,
        effects: &mut Vec<Effect>,
    ) {
        effects.push(Effect::Stop { campaign: campaign.clone() });
        let partition = self.partition;
        self.incarnations += 1;
        let Some(lane) = self.lanes.get_mut(campaign) else { return };
        lane.reason = Some(reason.clone());
        // What is kept passes once the hold is durable, so the hold must reach that low.
        let from = if planted!(HoldTooHigh) {
            self.acks.position()
        } else {
            lane.first_unstored().map_or(from, |unstored| from.min(unstored))
        };
        let covers = |hold: &Hold| hold.is_in_force() && hold.kind == kind && hold.from <= from;
        if lane.holds.iter().any(covers) {
            lane.restart(self.incarnations, Phase::Held);
            self.pass_kept(campaign, effects);
            return;
        }
        lane.restart(self.incarnations, Phase::Opening);
        let number = self.hold_numbers.entry(campaign.clone()).or_default();
        *number += 1;
        let hold = Hold {
            campaign: campaign.clone(),
            partition,
            from,
            number: *number,
            kind,
            reason,
            state: HoldState::Open,
            until: 0,
        };
        effects.push(Effect::WriteHold { hold, mark: None });
    }

    /// Marks every open hold of a campaign released; the catch-up follows when that is durable.
    pub(super) fn release(&mut self, campaign: &CampaignId, effects: &mut Vec<Effect>) {
        let Some(lane) = self.lanes.get(campaign) else { return };
        for hold in lane.holds.iter().filter(|hold| hold.is_in_force()) {
            let hold = Hold { state: HoldState::Released, ..hold.clone() };
            effects.push(Effect::WriteHold { hold, mark: None });
        }
    }

    pub(super) fn hold_written(&mut self, hold: &Hold, effects: &mut Vec<Effect>) {
        let campaign = &hold.campaign;
        let Some(lane) = self.lanes.get_mut(campaign) else { return };
        match hold.state {
            HoldState::Open => {
                lane.note(hold);
                // Unlike the others they pass only when what they ask for is durable.
                lane.releasing.extend(lane.kept_releases(hold.from));
                let releases = !lane.releasing.is_empty();
                lane.phase = Phase::Held;
                self.pass_kept(campaign, effects);
                if releases {
                    self.release(campaign, effects);
                }
            }
            HoldState::Released => {
                // The store may have told of it before, and the hold be closed by now.
                if !lane.closed.iter().any(|closed| closed.is_same(hold)) {
                    lane.note(hold);
                }
                if lane.holds.iter().any(|hold| hold.state == HoldState::Open) {
                    return;
                }
                for offset in std::mem::take(&mut lane.releasing) {
                    self.acks.done(offset);
                    effects.push(Effect::Credit(1));
                }
                if lane.phase == Phase::Held {
                    lane.failures = Failures::default();
                    self.catch_up(campaign, 0, effects);
                }
            }
            HoldState::Closed => {
                lane.closing = lane.closing.saturating_sub(1);
                if lane.holds.is_empty() {
                    lane.reason = None;
                }
            }
        }
    }

    /// Goes on extending a hold that another owner closed, where nothing of the campaign passed
    /// this one undecided: whoever closed it may be gone, and nobody else would say how far the
    /// hold reaches.
    fn adopt(&mut self, hold: &Hold) {
        let campaign = &hold.campaign;
        if self.is_new {
            self.once_held.insert(campaign.clone());
            self.adopted.entry(campaign.clone()).or_default().push(hold.clone());
            return;
        }
        let Some(lane) = self.lanes.get_mut(campaign) else { return };
        let decides = matches!(lane.phase, Phase::Starting | Phase::Live);
        let known = lane.closed.iter().any(|known| known.is_same(hold));
        if decides && lane.holds.is_empty() && !known {
            lane.closed.push(hold.clone());
            lane.extended = 0;
            self.once_held.insert(campaign.clone());
            self.sweeps_now = true;
        }
    }

    /// Whether records pass under a hold here that somebody else has closed: what passed above
    /// their end is not decided yet, and nobody else would.
    fn is_still_held(&self, hold: &Hold) -> bool {
        let lane = self.lanes.get(&hold.campaign).filter(|lane| lane.phase == Phase::Held);
        lane.is_some_and(|lane| {
            lane.holds.iter().any(|known| known.is_same(hold) && known.is_in_force())
        })
    }

    /// Takes over what the store says: on assignment all of it, later what a zombie has written.
    pub(super) fn take_holds(&mut self, holds: &[Hold], effects: &mut Vec<Effect>) {
        let mut news = BTreeSet::new();
        for hold in holds {
            let number = self.hold_numbers.entry(hold.campaign.clone()).or_default();
            *number = (*number).max(hold.number);
            // While this owner lives it has its own word for holds that it closed.
            let settled = hold.unsettled_from() >= self.durable;
            let over = !hold.is_in_force() && (settled || !self.is_new);
            if over && !self.is_still_held(hold) {
                self.adopt(hold);
                continue;
            }
            let now_ms = self.now_ms;
            let lane = self
                .lanes
                .entry(hold.campaign.clone())
                .or_insert_with(|| Lane::new(Phase::Held, 0, now_ms));
            let same = |known: &Hold| known.is_same(hold) && known.state >= hold.state;
            let known = lane.holds.iter().chain(&lane.closed).any(same);
            // What is kept and lies below the hold is not covered by it: it is decided first.
            let uncovered =
                lane.first_unstored().is_some_and(|unstored| unstored < hold.unsettled_from());
            if lane.phase == Phase::Opening || uncovered || known {
                continue;
            }
            lane.note(hold);
            lane.reason = Some(hold.reason.clone());
            news.insert(hold.campaign.clone());
        }
        for campaign in news {
            effects.push(Effect::Stop { campaign: campaign.clone() });
            let may_retry = self.lanes.get(&campaign).is_some_and(Lane::may_retry);
            if may_retry {
                self.catch_up(&campaign, 0, effects);
            } else {
                self.incarnations += 1;
                if let Some(lane) = self.lanes.get_mut(&campaign) {
                    lane.restart(self.incarnations, Phase::Held);
                }
                self.pass_kept(&campaign, effects);
            }
        }
    }
}
