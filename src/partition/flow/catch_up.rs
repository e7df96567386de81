//! Campaigns that catch up with their holds. All of them share one run over the log; it hands each
//! its records in order. No watermark waits for it, so it may be long.

use std::collections::BTreeSet;

use super::{
    super::{fold::FoldedRecord, owned_campaign::Phase},
    Effect, Flow, LetterOf,
    aside::Run,
    event::Again,
};
use crate::{
    domain::{
        halt::HoldReason,
        ids::{CampaignId, Offset},
        rows::Mark,
    },
    wire::decode_step::ReadRecord,
};

/// A run waits for campaigns that still load, unless none was loaded for this long.
const GATHER_MS: u64 = 1_000;

/// Replays of up to this many records count as equally short: about half a second of reading.
const SHORT: u64 = 100_000;

/// Campaigns that catch up, and the run that they share.
#[derive(Debug, Default)]
pub(super) struct CatchUps {
    /// Those whose rows are being loaded.
    loading: BTreeSet<CampaignId>,
    /// Those that wait for records.
    ready: BTreeSet<CampaignId>,
    /// When the last of them was loaded.
    loaded_ms: u64,
    run: Option<Run>,
}

impl CatchUps {
    /// Notes that a campaign catches up no more.
    pub(super) fn leave(&mut self, campaign: &CampaignId) {
        self.loading.remove(campaign);
        self.ready.remove(campaign);
    }
}

/// What campaigns that catch up wait for.
#[derive(Default)]
struct Waiting {
    /// The positions of those that can take records in.
    takes: BTreeSet<Offset>,
    /// One that the run has reached cannot.
    is_full: bool,
}

impl Waiting {
    /// Returns where a run begins that serves the shortest replay, and those up to twice as long.
    ///
    /// So no replay waits for a much longer one, and all runs together read at most twice what the
    /// longest replay needs.
    fn begins_at(&self, position: Offset) -> Option<Offset> {
        let shortest = position.saturating_sub(*self.takes.last()?);
        let longest = (shortest * 2).max(SHORT);
        self.takes.range(position.saturating_sub(longest)..).next().copied()
    }
}

impl Flow {
    /// Replays a held campaign from its hold on. The window passes: the hold is durable.
    pub(super) fn catch_up(
        &mut self,
        campaign: &CampaignId,
        delay_ms: u64,
        effects: &mut Vec<Effect>,
    ) {
        let position = self.acks.position();
        let Some(from) = self.holds.get(campaign).and_then(|holds| holds.held_from()) else {
            return;
        };
        // Another owner that closed the hold may have read further. What we have not read yet is
        // decided when we read it, not taken from that owner's rows.
        let from = from.min(position);
        let Some(incarnation) = self.replace(campaign, Phase::catching_up(from)) else { return };
        self.pass_window(campaign);
        self.catch_ups.loading.insert(campaign.clone());
        effects.push(Effect::Start { campaign: campaign.clone(), incarnation, from, delay_ms });
    }

    /// Notes that the rows of a campaign that catches up are loaded.
    pub(super) fn catches_up(&mut self, campaign: &CampaignId, effects: &mut Vec<Effect>) {
        self.catch_ups.leave(campaign);
        self.catch_ups.ready.insert(campaign.clone());
        self.catch_ups.loaded_ms = self.now_ms;
        let from = self.campaigns.get(campaign).and_then(|owned| owned.replays_from());
        if from.is_some_and(|from| from >= self.acks.position()) {
            // The reader would wait for a record that may never come.
            self.meet(campaign, effects);
        }
    }

    /// Starts, continues or ends the run of campaigns that catch up.
    pub(super) fn run_catch_ups(&mut self, effects: &mut Vec<Effect>) {
        let (position, now_ms) = (self.acks.position(), self.now_ms);
        let CatchUps { loading, ready, loaded_ms, run } = &self.catch_ups;
        let gathers = !loading.is_empty() && now_ms.saturating_sub(*loaded_ms) < GATHER_MS;
        match run {
            // At the end of the log it would read until another record comes.
            Some(run) if run.reads && !ready.is_empty() => return,
            None if ready.is_empty() || gathers => return,
            _ if self.is_in_debt() && !ready.is_empty() => return,
            _ => {}
        }
        let waiting = self.waiting();
        if let Some(run) = &mut self.catch_ups.run {
            if waiting.is_full && !run.gives_way(now_ms) {
                return;
            }
            let rest = position.saturating_sub(run.next);
            let shorter =
                waiting.takes.last().is_some_and(|from| position.saturating_sub(*from) * 2 <= rest);
            let gives_way = run.is_long(now_ms) && rest > SHORT && shorter;
            if waiting.takes.contains(&run.next) && !gives_way && rest > 0 {
                run.reads = true;
                return effects.push(Effect::GoOnAgain { of: Again::Holds });
            }
            self.catch_ups.run = None;
            effects.push(Effect::EndAgain { of: Again::Holds });
        }
        if let Some(from) = waiting.begins_at(position)
            && !gathers
        {
            let run = self.begin(Again::Holds, from, effects);
            self.catch_ups.run = Some(run);
        }
    }

    fn waiting(&self) -> Waiting {
        let (share, mut waiting) = (self.share(), Waiting::default());
        let next = self.catch_ups.run.as_ref().map(|run| run.next);
        let owned = self.catch_ups.ready.iter().filter_map(|it| self.campaigns.get(it));
        for (owned, from) in owned.filter_map(|owned| Some((owned, owned.replays_from()?))) {
            if owned.takes_replayed(share) {
                waiting.takes.insert(from);
            } else {
                waiting.is_full |= next == Some(from);
            }
        }
        waiting
    }

    /// Hands records to the campaigns that catch up and wait for exactly these.
    pub(super) fn replayed(
        &mut self,
        run: u64,
        records: Vec<ReadRecord>,
        read_to: Offset,
        effects: &mut Vec<Effect>,
    ) {
        let (share, now_ms, position) = (self.share(), self.now_ms, self.acks.position());
        // Records beyond the live position will be read live, too.
        let read_to = read_to.min(position);
        let Some(run) = self.catch_ups.run.as_mut().filter(|known| known.number == run) else {
            return;
        };
        let begun = run.goes_on(read_to, now_ms);
        // A campaign that missed a record of this run gets none behind it.
        let mut taking = BTreeSet::new();
        for campaign in &self.catch_ups.ready {
            let owned = self.campaigns.get(campaign).filter(|owned| owned.takes_replayed(share));
            let from = owned.and_then(|owned| owned.replays_from());
            if from.is_some_and(|from| from >= begun && from < read_to) {
                taking.insert(campaign.clone());
            }
        }
        for read in records.into_iter().take_while(|read| read.raw.offset < read_to) {
            let campaign = read.record.campaign();
            let Some(owned) = self.campaigns.get_mut(campaign) else { continue };
            let waits = owned.replays_from().is_some_and(|from| from <= read.raw.offset);
            if waits && taking.contains(campaign) {
                self.aside.take(&read);
                owned.push_replayed(read);
            }
        }
        for campaign in taking {
            if let Some(owned) = self.campaigns.get_mut(&campaign) {
                owned.replayed_to(read_to);
            }
            if read_to == position {
                self.meet(&campaign, effects);
            } else {
                self.sendable.insert(campaign);
            }
        }
        if read_to == position {
            self.catch_ups.run = None;
            effects.push(Effect::EndAgain { of: Again::Holds });
        }
    }

    /// Puts the campaigns back on hold that need records below `below`, which nobody can read.
    pub(super) fn not_replayed(
        &mut self,
        run: u64,
        below: Offset,
        detail: &str,
        effects: &mut Vec<Effect>,
    ) {
        if self.catch_ups.run.take_if(|known| known.number == run).is_none() {
            return;
        }
        effects.push(Effect::EndAgain { of: Again::Holds });
        for campaign in self.catch_ups.ready.clone() {
            let owned = self.campaigns.get(&campaign);
            let needs = owned.and_then(|owned| owned.replays_from()).is_some_and(|it| it < below);
            let from = self.holds.get(&campaign).and_then(|holds| holds.held_from());
            if let Some(from) = from.filter(|_| needs) {
                self.hold(&campaign, from, (HoldReason::RecordsTrimmed, detail), effects);
            }
        }
    }

    /// Handles the report of a batch of a replay: its rows are stored.
    pub(super) fn report_replayed(
        &mut self,
        campaign: &CampaignId,
        records: Vec<FoldedRecord>,
        contradicted: bool,
        effects: &mut Vec<Effect>,
    ) {
        let Some(owned) = self.campaigns.get_mut(campaign) else { return };
        let mut freed = 0;
        for FoldedRecord { offset, counts, outcome } in records {
            let (credit, bytes) = owned.replayed(counts);
            if let Some(told) = outcome {
                freed += credit;
                effects.push(Effect::Count(told.decision.decision));
                self.feed.push(told);
            } else if let Some(record) = bytes {
                owned.await_dead_letter(offset);
                let of = LetterOf::Replayed { campaign: campaign.clone(), credit };
                effects.push(Effect::DeadLetter { of, record });
            }
        }
        if contradicted {
            owned.contradicted();
        }
        self.free(freed);
        self.sendable.insert(campaign.clone());
        self.close_if_met(campaign, effects);
    }

    fn meet(&mut self, campaign: &CampaignId, effects: &mut Vec<Effect>) {
        self.catch_ups.leave(campaign);
        if let Some(owned) = self.campaigns.get_mut(campaign) {
            owned.meets(self.acks.position());
        }
        self.sendable.insert(campaign.clone());
        self.close_if_met(campaign, effects);
    }

    /// Closes the holds of a campaign whose replay has met the live position and is durable: from then
    /// on no record of it may pass undecided.
    pub(super) fn close_if_met(&mut self, campaign: &CampaignId, effects: &mut Vec<Effect>) {
        let Some((owned, holds)) = self.owned(campaign) else { return };
        let Some(counts) = owned.met() else { return };
        let offset = owned.floor();
        let mark = counts.map(|counts| Mark { campaign: campaign.clone(), offset, counts });
        for hold in holds.close(offset) {
            effects.push(Effect::WriteHold { hold, mark: mark.clone() });
        }
        self.sendable.insert(campaign.clone());
    }

    /// Lets `ms` pass. While the run can hand out nothing more, campaigns that do not store what they
    /// were handed rest on their holds, and give way to others.
    pub(super) fn look_at_catch_ups(&mut self, ms: u64, effects: &mut Vec<Effect>) {
        if !self.is_in_debt() {
            return;
        }
        for campaign in self.catch_ups.ready.clone() {
            let owned = self.campaigns.get_mut(&campaign);
            if owned.is_some_and(|owned| owned.replay_stalls(ms)) {
                self.rest(&campaign, effects);
            }
        }
    }
}
