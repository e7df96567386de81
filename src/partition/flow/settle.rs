//! Settling: what stored batches mean for watermark, progress and feed.

use super::{
    BATCH_RECORDS_MAX, BATCHES_MAX, Effect, Flow, HEARTBEAT_INTERVAL_MS, HOLD_SWEEP_INTERVAL_MS,
    PROGRESS_INTERVAL_MS, PROGRESS_RECORDS_MAX, Report,
};
use crate::{
    domain::{
        ids::{CampaignId, Offset},
        rows::{Hold, HoldState, Mark, Progress},
    },
    partition::{
        fold::FoldedRecord,
        lane::{Lane, Phase},
    },
    planted,
    wire::feed_message::FeedMessage,
};

impl Flow {
    pub(super) fn report(&mut self, report: Report, effects: &mut Vec<Effect>) {
        let Report { campaign, incarnation, records, contradicted, over_from } = report;
        if !self.is_current(&campaign, incarnation) {
            return;
        }
        let now_ms = self.now_ms;
        let Some(lane) = self.lanes.get_mut(&campaign) else { return };
        lane.over_from = over_from;
        lane.active_ms = now_ms;
        if lane.replaying {
            self.report_replayed(&campaign, records, contradicted, effects);
            return;
        }
        let Some(count) = lane.batches.pop_front() else { return };
        // Fewer only where a contradiction ended the batch early.
        assert!(records.len() <= count, "a report covers more than its batch");
        for FoldedRecord { offset, issued, outcome } in records {
            if let Some(kept) = lane.kept.get_mut(lane.stored) {
                kept.issued = issued;
            }
            lane.stored += 1;
            lane.failures.passed(offset);
            let Some((decision, answer)) = outcome else {
                if planted!(UndefinedForgotten) {
                    self.acks.done(offset);
                    continue;
                }
                if offset >= self.acks.watermark()
                    && self.letters.insert(offset, campaign.clone()).is_none()
                {
                    effects.push(Effect::DeadLetter(offset));
                }
                continue;
            };
            if self.acks.done(offset) {
                effects.push(Effect::Count(decision));
                self.outbox.push(answer);
            }
        }
        self.sendable.insert(campaign);
    }

    pub(super) fn dead_lettered(&mut self, offset: Offset, effects: &mut Vec<Effect>) {
        self.acks.done(offset);
        let Some(campaign) = self.letters.remove(&offset) else {
            effects.push(Effect::Credit(1));
            return;
        };
        // An undefined campaign's record is still kept, and gives its credit back later; one that
        // was replayed has given it back.
        let Some(lane) = self.lanes.get_mut(&campaign) else { return };
        if lane.letters.remove(&offset) && lane.letters.is_empty() {
            self.chunk_stored(&campaign, effects);
        }
    }

    /// The rows of a replayed chunk are stored; it is done once its dead letters are kept too.
    fn report_replayed(
        &mut self,
        campaign: &CampaignId,
        records: Vec<FoldedRecord>,
        contradicted: bool,
        effects: &mut Vec<Effect>,
    ) {
        let Some(lane) = self.lanes.get_mut(campaign) else { return };
        for FoldedRecord { offset, issued, outcome } in records {
            lane.replayed_issued = issued.or(lane.replayed_issued);
            if let Some((decision, answer)) = outcome {
                effects.push(Effect::Count(decision));
                self.outbox.push(answer);
            } else {
                lane.letters.insert(offset);
                if self.letters.insert(offset, campaign.clone()).is_none() {
                    effects.push(Effect::DeadLetter(offset));
                }
            }
        }
        if contradicted {
            // Its hold stays until the other one is durable.
            lane.letters.clear();
        } else if lane.letters.is_empty() {
            self.chunk_stored(campaign, effects);
        }
    }

    /// A replayed chunk is done. Once the live position is met, the holds are closed: from then
    /// on nothing of the campaign may pass undecided.
    fn chunk_stored(&mut self, campaign: &CampaignId, effects: &mut Vec<Effect>) {
        let Some(lane) = self.lanes.get_mut(campaign) else { return };
        lane.replaying = false;
        self.sendable.insert(campaign.clone());
        effects.push(Effect::ReplayOn { campaign: campaign.clone(), met: lane.met });
        if !lane.met {
            return;
        }
        let mark = lane.replayed_issued.take().map(|issued| Mark {
            campaign: campaign.clone(),
            offset: lane.floor,
            issued,
        });
        self.once_held.insert(campaign.clone());
        lane.extended = lane.floor;
        let adopted = self.adopted.remove(campaign).unwrap_or_default();
        let earlier = adopted.into_iter().chain(std::mem::take(&mut lane.closed));
        for hold in earlier.chain(std::mem::take(&mut lane.holds)) {
            let hold = Hold { state: HoldState::Closed, until: lane.floor, ..hold };
            lane.closed.push(hold.clone());
            lane.closing += 1;
            effects.push(Effect::WriteHold { hold, mark: mark.clone() });
        }
    }

    pub(super) fn send(&mut self, effects: &mut Vec<Effect>) {
        let position = self.acks.position();
        let mut drained = Vec::new();
        for campaign in &self.sendable {
            let Some(lane) = self.lanes.get_mut(campaign) else {
                drained.push(campaign.clone());
                continue;
            };
            // A replayed chunk is reported before what follows it.
            while lane.phase == Phase::Live
                && !lane.replaying
                && lane.batches.len() < BATCHES_MAX
                && let Some(batch) = lane.next_batch(BATCH_RECORDS_MAX, position)
            {
                let incarnation = lane.incarnation;
                effects.push(Effect::Send { campaign: campaign.clone(), incarnation, batch });
            }
            if !lane.has_unsent(position) && lane.expects_until.is_none() {
                drained.push(campaign.clone());
            }
        }
        for campaign in drained {
            self.sendable.remove(&campaign);
        }
    }

    pub(super) fn persist(&mut self, effects: &mut Vec<Effect>) {
        let watermark = self.acks.watermark();
        let behind = watermark.saturating_sub(self.durable);
        let due = behind >= PROGRESS_RECORDS_MAX
            || self.now_ms.saturating_sub(self.persisted_ms) >= PROGRESS_INTERVAL_MS;
        if self.persisting || !due {
            return;
        }
        // Where nothing of the campaign was read, a hold need not reach further at once: a new
        // owner would only search in vain for what passed under it.
        let sweep =
            self.sweeps_now || self.now_ms.saturating_sub(self.swept_ms) >= HOLD_SWEEP_INTERVAL_MS;
        if sweep {
            self.swept_ms = self.now_ms;
            self.sweeps_now = false;
        }
        if behind == 0 && !(sweep && self.may_extend(watermark)) {
            return;
        }
        let mut marks = Vec::new();
        let mut holds = Vec::new();
        for campaign in &self.occupied {
            let issued = self.lanes.get_mut(campaign).and_then(|lane| lane.mark(watermark));
            if let Some(issued) = issued.filter(|_| !planted!(MarkNotWritten)) {
                marks.push(Mark { campaign: campaign.clone(), offset: watermark, issued });
            }
        }
        marks.extend(std::mem::take(&mut self.unmarked).into_values());
        // Of a campaign that has not started here, nothing was read: everything is decided.
        for hold in self.adopted.values_mut().flatten().filter(|_| sweep) {
            if hold.until < watermark {
                hold.until = watermark;
                holds.push(hold.clone());
            }
        }
        for campaign in &self.once_held {
            if (sweep || self.occupied.contains(campaign))
                && let Some(lane) = self.lanes.get_mut(campaign)
                && lane.holds.is_empty()
            {
                holds.extend(lane.extend(watermark));
            }
        }
        self.persisting = true;
        let progress = Progress {
            partition: self.partition,
            log_epoch: self.log_epoch,
            next: watermark,
            last: self.acks.last(),
        };
        effects.push(Effect::Persist { holds, marks, progress });
    }

    /// Whether a closed hold could reach further than it does.
    fn may_extend(&self, watermark: Offset) -> bool {
        let lanes = self.once_held.iter().filter_map(|campaign| self.lanes.get(campaign));
        let mut open = lanes.filter(|lane| lane.holds.is_empty() && !lane.closed.is_empty());
        open.any(|lane| lane.extended < watermark)
    }

    pub(super) fn persisted(&mut self, next: Offset, effects: &mut Vec<Effect>) {
        self.persisting = false;
        self.persisted_ms = self.now_ms;
        self.durable = self.durable.max(next);
        let mut trimmed = 0;
        self.occupied.retain(|campaign| {
            let Some(lane) = self.lanes.get_mut(campaign) else { return false };
            trimmed += lane.trim(next);
            !lane.kept.is_empty()
        });
        effects.push(Effect::Credit(trimmed));
    }

    /// The lowest position that a replay of a hold would begin at, now or under the next owner.
    fn keep_from(&self) -> Option<Offset> {
        let adopted = self.adopted.values().flatten().map(Hold::unsettled_from);
        self.lanes.values().filter_map(Lane::keep_from).chain(adopted).min()
    }

    pub(super) fn publish(&mut self, effects: &mut Vec<Effect>) {
        let watermark = self.acks.watermark();
        let silent_ms = self.heartbeat_ms.map(|said| self.now_ms.saturating_sub(said));
        let due = silent_ms.is_none_or(|silent| silent >= HEARTBEAT_INTERVAL_MS);
        if self.outbox.is_empty() && watermark == self.published && !due {
            return;
        }
        if due {
            self.heartbeat_ms = Some(self.now_ms);
            effects
                .push(Effect::ReportProgress { next: self.durable, keep_from: self.keep_from() });
        }
        let message = FeedMessage {
            log_epoch: self.log_epoch,
            partition: self.partition,
            from: self.published,
            to: watermark,
            end: self.end,
            halted: None,
            decisions: std::mem::take(&mut self.outbox),
        };
        self.published = watermark;
        effects.push(Effect::Publish(message));
    }
}
