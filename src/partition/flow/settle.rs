//! What follows from stored batches: watermark, dead letters, progress, feed messages.

use std::collections::BTreeSet;

use super::{
    super::{
        campaign_holds::Holds,
        fold::{FoldedRecord, Told},
        owned_campaign::OwnedCampaign,
    },
    BATCHES_MAX, BatchReport, Effect, Flow, LetterOf,
};
use crate::domain::{
    ids::{CampaignId, LogPartition, Offset},
    rows::{LastRecord, Mark, Progress},
};

/// A decided version whose mark is not durable.
#[derive(Debug)]
pub(super) struct Unmarked {
    campaign: CampaignId,
    /// The mark, until it is written: it waits for by-user rows.
    mark: Option<Mark>,
    told: Told,
}

/// The marks that a write of progress waits for.
#[derive(Debug)]
pub(super) struct Marking {
    awaited: BTreeSet<(CampaignId, Offset)>,
    /// Those of them that wait for by-user rows.
    unready: Vec<Mark>,
    next: Offset,
    last: Option<LastRecord>,
    sweep: bool,
}

impl Marking {
    /// Returns the campaigns whose marks are not durable.
    pub(super) fn awaited(&self) -> impl Iterator<Item = &CampaignId> {
        self.awaited.iter().map(|(campaign, _)| campaign)
    }

    /// Waits for no mark of a campaign any more.
    pub(super) fn leave(&mut self, campaign: &CampaignId) {
        self.awaited.retain(|(awaited, _)| awaited != campaign);
        self.unready.retain(|mark| mark.campaign != *campaign);
    }
}

impl Unmarked {
    pub(super) fn campaign(&self) -> &CampaignId {
        &self.campaign
    }
}

impl Flow {
    pub(super) fn report(&mut self, report: BatchReport, effects: &mut Vec<Effect>) {
        let BatchReport { campaign, incarnation, records, by_user, contradicted, over_from } =
            report;
        if !self.is_current(&campaign, incarnation) {
            return;
        }
        let Some(owned) = self.campaigns.get_mut(&campaign) else { return };
        owned.over_from(over_from);
        owned.touch(self.now_ms);
        if !owned.batch_stored(records.len(), self.now_ms) {
            return;
        }
        if owned.is_replaying() {
            return self.report_replayed(&campaign, records, contradicted, effects);
        }
        let (mut freed, mut gathered, mut is_defined) = (0, 0, true);
        let (mut by_user, mut defines_any) = (by_user.into_iter().peekable(), false);
        for record in records {
            let defines = record.defines();
            let FoldedRecord { offset, counts, outcome } = record;
            let coupon = by_user.next_if(|coupon| coupon.position.offset == offset);
            let (credit, gathers) = owned.record_stored(offset, counts, coupon);
            (freed, gathered) = (freed + credit, gathered + usize::from(gathers));
            is_defined = outcome.is_some();
            let Some(told) = outcome else {
                // The record is done when its dead letter is durable, which repeats its bytes.
                self.acks.letter(offset, Some(&campaign));
                continue;
            };
            if let Some(counts) = defines {
                let mark = Some(Mark { campaign: campaign.clone(), offset: offset + 1, counts });
                let unmarked = Unmarked { campaign: campaign.clone(), mark, told };
                self.unmarked.insert(offset, unmarked);
                defines_any = true;
                continue;
            }
            // A record that is decided again after a restart is neither counted nor published
            // twice.
            if self.acks.done(offset) {
                effects.push(Effect::Count(told.decision.decision));
                self.feed.push(told);
            }
        }
        self.free(freed);
        if gathered > 0 {
            self.gathered(&campaign, gathered);
        }
        if defines_any {
            self.write_version_marks(&campaign, effects);
        }
        self.sendable.insert(campaign.clone());
        if !is_defined {
            self.forget_undefined(&campaign, effects);
        }
    }

    /// Writes the marks of a campaign's versions, those that count by-user rows once these are durable.
    pub(super) fn write_version_marks(&mut self, campaign: &CampaignId, effects: &mut Vec<Effect>) {
        let owned = self.campaigns.get(campaign);
        let first = owned.and_then(|owned| owned.gathered().first()).unwrap_or(Offset::MAX);
        let mut waits = false;
        for (version, unmarked) in &mut self.unmarked {
            if unmarked.campaign != *campaign {
                continue;
            }
            if let Some(mark) = unmarked.mark.take_if(|mark| mark.offset <= first) {
                effects.push(Effect::WriteMark { mark, version: *version });
            }
            waits |= unmarked.mark.is_some();
        }
        if waits {
            self.want_by_user(campaign);
        }
    }

    /// Notes that the mark of a version is durable: now the watermark may pass it.
    pub(super) fn marked(&mut self, version: Offset, effects: &mut Vec<Effect>) {
        let Some(Unmarked { campaign, told, .. }) = self.unmarked.remove(&version) else { return };
        if let Some(owned) = self.campaigns.get_mut(&campaign) {
            owned.marked(version + 1);
        }
        if self.acks.done(version) {
            effects.push(Effect::Count(told.decision.decision));
            self.feed.push(told);
        }
    }

    /// Returns the first version of a campaign whose mark is not durable.
    pub(super) fn first_unmarked(&self, campaign: &CampaignId) -> Option<Offset> {
        let mut unmarked = self.unmarked.iter();
        unmarked.find(|(_, of)| of.campaign == *campaign).map(|(offset, _)| *offset)
    }

    /// Lets a campaign's versions pass under a hold that covers them: they are derived again.
    pub(super) fn pass_unmarked(&mut self, campaign: &CampaignId) {
        let acks = &mut self.acks;
        self.unmarked.retain(|version, of| {
            let passes = of.campaign == *campaign;
            if passes {
                acks.done(*version);
            }
            !passes
        });
    }

    pub(super) fn dead_lettered(
        &mut self,
        offset: Offset,
        of: LetterOf,
        effects: &mut Vec<Effect>,
    ) {
        self.acks.done(offset);
        let campaign = match of {
            LetterOf::SetAside => return self.letter_kept(),
            LetterOf::Replayed { campaign, credit } => {
                self.free(credit);
                campaign
            }
        };
        if let Some(owned) = self.campaigns.get_mut(&campaign) {
            owned.dead_letter_kept(offset);
            self.close_if_met(&campaign, effects);
        }
    }

    pub(super) fn send(&mut self, effects: &mut Vec<Effect>) {
        let (position, batch_records) = (self.acks.position(), self.limits.batch_records);
        let gathered_max = self.gathered_max();
        let campaigns = &mut self.campaigns;
        self.sendable.retain(|campaign| {
            let Some(owned) = campaigns.get_mut(campaign) else { return false };
            // Each record in flight may come to a gathered row.
            let room = |owned: &OwnedCampaign| {
                gathered_max.saturating_sub(owned.gathered().rows() + owned.window().sent())
            };
            while owned.window().batches() < BATCHES_MAX
                && room(owned) > 0
                && let Some(batch) = owned.next_batch(batch_records.min(room(owned)), position)
            {
                let incarnation = owned.incarnation();
                effects.push(Effect::Send { campaign: campaign.clone(), incarnation, batch });
            }
            owned.has_unsent()
        });
    }

    pub(super) fn persist(&mut self, effects: &mut Vec<Effect>) {
        if let Some(marking) = self.marking.take_if(|it| it.awaited.is_empty()) {
            return self.persist_marked(&marking, effects);
        }
        let watermark = self.acks.watermark();
        let Some(due) = self.durability.due(watermark, self.now_ms) else { return };
        let may_extend = || self.holds.values().any(|holds| holds.may_extend(watermark));
        // A hold is counted even if nothing follows it: the next owner would not miss its row.
        let is_idle = watermark == self.durability.progress() && !self.hold_count.is_due();
        if is_idle && !(due.sweep && may_extend()) {
            return;
        }
        let mut marks = Vec::new();
        for campaign in &self.occupied {
            let owned = self.campaigns.get(campaign);
            if let Some(counts) = owned.and_then(|owned| owned.window().to_mark(watermark)) {
                marks.push(Mark { campaign: campaign.clone(), offset: watermark, counts });
            }
        }
        self.durability.begin();
        let awaited = marks.iter().map(|mark| (mark.campaign.clone(), mark.offset)).collect();
        let (next, last, sweep) = (watermark, self.acks.last(), due.sweep);
        let marking = Marking { awaited, unready: marks, next, last, sweep };
        if marking.awaited.is_empty() {
            return self.persist_marked(&marking, effects);
        }
        self.marking = Some(marking);
        self.write_ready_marks(effects);
    }

    /// Writes the marks that progress waits for, those that count by-user rows once these are durable.
    pub(super) fn write_ready_marks(&mut self, effects: &mut Vec<Effect>) {
        let Some(mut marking) = self.marking.take() else { return };
        let ready: Vec<_> = marking.unready.extract_if(.., |mark| self.is_ready(mark)).collect();
        for mark in &marking.unready {
            self.want_by_user(&mark.campaign);
        }
        self.marking = Some(marking);
        if !ready.is_empty() {
            effects.push(Effect::WriteMarks(ready));
        }
    }

    pub(super) fn marks_stored(&mut self, marks: &[(CampaignId, Offset)]) {
        for (campaign, offset) in marks {
            if let Some(owned) = self.campaigns.get_mut(campaign) {
                owned.marked(*offset);
            }
        }
        if let Some(marking) = &mut self.marking {
            marking.awaited.retain(|awaited| !marks.contains(awaited));
        }
    }

    /// Writes the progress whose marks are durable, or are those of campaigns on hold from below.
    fn persist_marked(&mut self, marking: &Marking, effects: &mut Vec<Effect>) {
        let Marking { next, last, sweep, .. } = *marking;
        let mut extended = Vec::new();
        for (campaign, holds) in &mut self.holds {
            if sweep || self.occupied.contains(campaign) {
                extended.extend(holds.extend(next));
            }
        }
        let LogPartition { partition, log_epoch } = self.place;
        let progress = Progress { partition, log_epoch, next, last };
        let holds_ever = self.hold_count.begin();
        effects.push(Effect::Persist { holds: extended, holds_ever, progress });
    }

    pub(super) fn persisted(&mut self, next: Offset) {
        self.durability.written(next, self.now_ms);
        self.holds.values_mut().for_each(Holds::written_extended);
        self.hold_count.written();
        let campaigns = &self.campaigns;
        self.occupied.retain(|campaign| {
            campaigns.get(campaign).is_some_and(|owned| !owned.window().is_settled(next))
        });
    }

    pub(super) fn publish(&mut self, effects: &mut Vec<Effect>) {
        let heartbeat = self.feed.heartbeat(self.now_ms);
        if heartbeat {
            let keep_from = self.holds.values().filter_map(|holds| holds.keep_from()).min();
            let next = self.durability.progress();
            effects.push(Effect::ReportProgress { next, keep_from });
        }
        let stands = (self.acks.watermark(), self.end, self.lag());
        let tells = self.kept_back.may_tell(self.now_ms);
        let message = self.feed.message(stands, (heartbeat, tells), self.now_ms);
        effects.extend(message.map(Effect::Publish));
    }
}
